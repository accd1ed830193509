//! How journals travel over a link: choices of the link, at the array that reads over it.

use super::kind::{PortalAddress, Schedule};
use super::name::{ArrayNumber, LinkName};
use super::secret::{Secret, stored};
use super::timing::{ReadSize, ReadTiming, RestoreTiming};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// The choices of one link.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct LinkOptions {
    /// Connections for journal reads, 1 to [`CONNECTIONS_MAX`] (J8).
    pub connections: u8,
    /// What the source does with the write data of its answers.
    pub compression: Compression,
    /// Journal data in a second at most, outside of every window.
    pub limit: Limit,
    /// Other limits for some hours of the day, at most [`WINDOWS_MAX`]: the first that fits counts.
    pub windows: Vec<Window>,
    /// By which commands journals are fetched (J9).
    pub fetch: Fetch,
}

impl Default for LinkOptions {
    fn default() -> Self {
        Self {
            connections: 1,
            compression: Compression::None,
            limit: Limit::None,
            windows: Vec::new(),
            fetch: Fetch::JournalRead,
        }
    }
}

impl LinkOptions {
    /// Bytes of journal data in a second that are allowed at this wall time, which is UTC.
    #[must_use]
    pub fn limit_at(&self, unix_ns: u64) -> Limit {
        self.windows.iter().find(|window| window.holds(unix_ns)).map_or(self.limit, |window| window.limit)
    }
}

/// Compression of the write data of journals on their way; their checksums are those of the data as it was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// None.
    #[default]
    None,
    /// zstd at this level, 1 to [`ZSTD_LEVEL_MAX`].
    Zstd(u8),
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.pad("none"),
            Self::Zstd(level) => write!(f, "zstd:{level}"),
        }
    }
}

/// How much may pass in a second.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// As much as there is.
    #[default]
    None,
    /// So many bytes, at least [`LIMIT_MIN`].
    BytesPerS(u64),
}

impl Limit {
    /// The number, if there is one.
    #[must_use]
    pub fn bytes_per_s(self) -> Option<u64> {
        match self {
            Self::None => None,
            Self::BytesPerS(bytes) => Some(bytes),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.pad("none"),
            Self::BytesPerS(bytes) => {
                let units = [(30, "GiB"), (20, "MiB"), (10, "KiB"), (0, "B")];
                let exact = units.into_iter().find(|(shift, _)| bytes.is_multiple_of(1 << shift));
                let (shift, unit) = exact.unwrap_or((0, "B"));
                write!(f, "{}{unit}/s", bytes >> shift)
            }
        }
    }
}

/// Some hours of some days, and the limit in them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Window {
    /// Days on which it begins: bit 0 is Monday.
    pub days: u8,
    /// First minute of the day.
    pub from_min: u16,
    /// The minute at which it ends; not after the first one: that of the next day.
    pub to_min: u16,
    /// The limit.
    pub limit: Limit,
}

impl Window {
    fn holds(&self, unix_ns: u64) -> bool {
        let minutes = unix_ns / NS_PER_MIN;
        let minute = u16::try_from(minutes % MIN_PER_DAY).unwrap_or(0);
        // The first of January 1970 was a Thursday.
        let today = (minutes / MIN_PER_DAY + 3) % 7;
        let begins_on = |day: u64| self.days & (1 << (day % 7)) != 0;
        if self.from_min < self.to_min {
            return begins_on(today) && (self.from_min..self.to_min).contains(&minute);
        }
        (begins_on(today) && minute >= self.from_min) || (begins_on(today + 6) && minute < self.to_min)
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.days != EVERY_DAY {
            let mut runs: Vec<String> = Vec::new();
            let mut day = 0;
            while day < 7 {
                let length = (day..7).take_while(|day| self.days & (1 << day) != 0).count();
                match length {
                    0 => {}
                    1 => runs.push(DAYS[day].to_owned()),
                    _ => runs.push(format!("{}-{}", DAYS[day], DAYS[day + length - 1])),
                }
                day += length.max(1);
            }
            write!(f, "{} ", runs.join(","))?;
        }
        let clock = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
        write!(f, "{}-{} {}", clock(self.from_min), clock(self.to_min), self.limit)
    }
}

/// By which commands journals are fetched (J9).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fetch {
    /// The journal read command.
    #[default]
    JournalRead,
    /// READ of the source's journal volume, by tables fetched beforehand; the journal read command for what is not in
    /// there.
    Read,
}

impl fmt::Display for Fetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::JournalRead => "journal-read",
            Self::Read => "read",
        })
    }
}

/// A link to make.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NewLink {
    /// Name.
    pub name: LinkName,
    /// The array behind it.
    pub array: ArrayNumber,
    /// Where it serves arrays.
    pub portals: Vec<PortalAddress>,
    /// What both arrays know.
    #[serde(with = "stored")]
    pub secret: Secret,
    /// How groups are read and restored that come over it.
    pub schedule: Schedule,
    /// How journals travel over it.
    #[serde(default)]
    pub options: LinkOptions,
}

/// What is chosen anew for a link; the rest stays as it is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LinkSettings {
    /// Where the array behind it serves arrays.
    pub portals: Option<Vec<PortalAddress>>,
    /// Connections for journal reads.
    pub connections: Option<u8>,
    /// Compression.
    pub compression: Option<Compression>,
    /// The limit outside of windows.
    pub limit: Option<Limit>,
    /// All windows.
    pub windows: Option<Vec<Window>>,
    /// By which commands journals are fetched.
    pub fetch: Option<Fetch>,
    /// When the next journal read is sent.
    pub read: Option<ReadTiming>,
    /// How much one asks for.
    pub read_size: Option<ReadSize>,
    /// When what was read is restored.
    pub restore: Option<RestoreTiming>,
    /// An update is restored no earlier than this after it was made.
    pub restore_delay: Option<Duration>,
}

impl LinkSettings {
    /// The options after the change.
    #[must_use]
    pub fn options(&self, old: &LinkOptions) -> LinkOptions {
        LinkOptions {
            connections: self.connections.unwrap_or(old.connections),
            compression: self.compression.unwrap_or(old.compression),
            limit: self.limit.unwrap_or(old.limit),
            windows: self.windows.clone().unwrap_or_else(|| old.windows.clone()),
            fetch: self.fetch.unwrap_or(old.fetch),
        }
    }

    /// The schedule after the change.
    #[must_use]
    pub fn schedule(&self, old: Schedule) -> Schedule {
        Schedule {
            read: self.read.unwrap_or(old.read),
            read_size: self.read_size.unwrap_or(old.read_size),
            restore: self.restore.unwrap_or(old.restore),
            restore_delay: self.restore_delay.unwrap_or(old.restore_delay),
        }
    }
}

/// Connections of a link at most.
pub const CONNECTIONS_MAX: u8 = 8;
/// The highest level: beyond it the source's memory for one answer grows by tens of MiB and the data hardly shrinks.
pub const ZSTD_LEVEL_MAX: u8 = 9;
/// Windows of one link; more are refused.
pub const WINDOWS_MAX: usize = 16;
/// A lower limit is refused: one update may take a minute at it.
pub const LIMIT_MIN: u64 = 16 << 10;
/// Days as they are written, Monday first.
pub const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
/// All of them.
pub const EVERY_DAY: u8 = 0x7f;
const MIN_PER_DAY: u64 = 24 * 60;
const NS_PER_MIN: u64 = 60_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// Day (0: Thursday, the first of January 1970), hour, minute.
    fn at(day: u64, hour: u64, minute: u64) -> u64 {
        ((day * 24 + hour) * 60 + minute) * NS_PER_MIN
    }

    #[test]
    fn the_first_window_that_fits_sets_the_limit() {
        let (slow, slower) = (Limit::BytesPerS(5 << 20), Limit::BytesPerS(1 << 20));
        let office = Window { days: 0b001_1111, from_min: 8 * 60, to_min: 18 * 60, limit: slow };
        let night = Window { days: 0b000_0001, from_min: 22 * 60, to_min: 6 * 60, limit: slower };
        let options = LinkOptions { windows: vec![office, night], ..LinkOptions::default() };
        let cases = [
            (at(0, 7, 59), Limit::None),
            (at(0, 8, 0), slow),
            (at(0, 17, 59), slow),
            (at(0, 18, 0), Limit::None),
            (at(2, 12, 0), Limit::None),
            (at(3, 23, 0), Limit::None),
            (at(4, 3, 0), Limit::None),
            (at(4, 22, 0), slower),
            (at(5, 5, 59), slower),
            (at(5, 6, 0), Limit::None),
            (at(5, 22, 0), Limit::None),
        ];
        for (time, limit) in cases {
            assert_eq!(options.limit_at(time), limit, "{time}");
        }
    }

    #[test]
    fn what_older_stores_say_of_a_link_is_read() {
        let options: LinkOptions = serde_json::from_str(r#"{"connections":3}"#).unwrap();
        assert_eq!(options, LinkOptions { connections: 3, ..LinkOptions::default() });
    }
}
