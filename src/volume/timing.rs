//! When an array reads the groups that it copies, how much at a time, and when it restores (J5, J11, J12; claims 3 to 8
//! and 10 of the specification). The choice stands at the array that keeps the copy.

use super::name::{BookmarkName, UpdateNumber};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// What an adaptive read interval may look at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReadInput {
    /// Claim 3: updates received in a second.
    Received,
    /// Claim 4: traffic on the link, and what the link can carry.
    Link,
    /// Claim 5: how full the journal volume here is.
    Journal,
    /// Claim 6: the load of this array.
    Load,
    /// Claim 7: how full the journal volume at the source is.
    SourceJournal,
    /// Claim 8: the source's pointers: how far newest and read start are apart.
    SourcePointers,
}

impl ReadInput {
    /// All of them, in the order of the claims.
    pub const ALL: [Self; 6] =
        [Self::Received, Self::Link, Self::Journal, Self::Load, Self::SourceJournal, Self::SourcePointers];
}

impl fmt::Display for ReadInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Received => "received",
            Self::Link => "link",
            Self::Journal => "journal",
            Self::Load => "load",
            Self::SourceJournal => "source-journal",
            Self::SourcePointers => "source-pointers",
        })
    }
}

/// Any mix of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Vec<ReadInput>", into = "Vec<ReadInput>")]
pub struct ReadInputs(u8);

impl ReadInputs {
    /// Whether this one counts.
    #[must_use]
    pub fn has(self, input: ReadInput) -> bool {
        self.0 & bit(input) != 0
    }

    /// Those that count, in the order of the claims.
    pub fn iter(self) -> impl Iterator<Item = ReadInput> {
        ReadInput::ALL.into_iter().filter(move |input| self.has(*input))
    }
}

impl FromIterator<ReadInput> for ReadInputs {
    fn from_iter<I: IntoIterator<Item = ReadInput>>(inputs: I) -> Self {
        Self(inputs.into_iter().fold(0, |bits, input| bits | bit(input)))
    }
}

impl From<Vec<ReadInput>> for ReadInputs {
    fn from(inputs: Vec<ReadInput>) -> Self {
        inputs.into_iter().collect()
    }
}

impl From<ReadInputs> for Vec<ReadInput> {
    fn from(inputs: ReadInputs) -> Self {
        inputs.iter().collect()
    }
}

fn bit(input: ReadInput) -> u8 {
    1 << (input as u8)
}

/// When the next journal read is sent (step 1760).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", from = "StoredReadTiming")]
pub enum ReadTiming {
    /// At once: the source answers as soon as it has something.
    #[default]
    Immediate,
    /// When there was nothing, after this time.
    Every(Duration),
    /// After this time, whether there was something or not.
    Fixed(Duration),
    /// With this spacing, however long a read takes: what falls due meanwhile is sent at once, and only once.
    Periodic(Duration),
    /// After a time that follows these inputs.
    Adaptive(ReadInputs),
}

impl fmt::Display for ReadTiming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Immediate => f.write_str("immediate"),
            Self::Every(interval) => write!(f, "every {}ms", interval.as_millis()),
            Self::Fixed(interval) => write!(f, "fixed {}ms", interval.as_millis()),
            Self::Periodic(interval) => write!(f, "periodic {}ms", interval.as_millis()),
            Self::Adaptive(inputs) => {
                let words: Vec<String> = inputs.iter().map(|input| input.to_string()).collect();
                write!(f, "adaptive:{}", words.join(","))
            }
        }
    }
}

/// How much one journal read asks for; what the group allows at its source is the most in any case (J5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadSize {
    /// As much as the group allows.
    #[default]
    Group,
    /// So many updates.
    Updates(u32),
    /// So many bytes of write data.
    Bytes(u64),
    /// Less the more the link and this array are loaded.
    Adaptive,
}

impl fmt::Display for ReadSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group => f.write_str("group"),
            Self::Updates(updates) => write!(f, "{updates} updates"),
            Self::Bytes(bytes) => write!(f, "{bytes}B"),
            Self::Adaptive => f.write_str("adaptive"),
        }
    }
}

/// Where restore stops: nothing behind it becomes visible until the operator lets it go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestoreStop {
    /// This update is the last one that is restored.
    Number(UpdateNumber),
    /// The first update that the primary's clock dated later, and all behind it, are not restored.
    Time {
        /// Since 1970, universal time.
        unix_ns: u64,
    },
}

/// What an operator says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopWish {
    /// No stop any more.
    GoOn,
    /// Where the S-VOLs are. The array puts the number in its place.
    Now,
    /// There.
    At(RestoreStop),
    /// At the newest bookmark of this name that the journal here holds. The array puts the number in its place.
    Bookmark(BookmarkName),
}

impl fmt::Display for StopWish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GoOn => f.write_str("--go-on"),
            Self::Now => f.write_str("--until now"),
            Self::At(stop) => write!(f, "--until {stop}"),
            Self::Bookmark(name) => write!(f, "--until bookmark:{name}"),
        }
    }
}

impl fmt::Display for RestoreStop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "update {number}"),
            Self::Time { unix_ns } => f.write_str(&universal_time(unix_ns / 1_000_000)),
        }
    }
}

/// Universal time as `YYYY-MM-DD hh:mm:ss` (the civil calendar, counted in eras of 400 years from March).
#[must_use]
pub fn universal_time(unix_ms: u64) -> String {
    let seconds = unix_ms / 1_000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", second / 3_600, second / 60 % 60, second % 60)
}

/// When what is stored is restored (step 2030).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", from = "StoredRestoreTiming")]
pub enum RestoreTiming {
    /// As soon as it is durable here.
    #[default]
    Immediate,
    /// All that is there, then a pause of this length.
    Every(Duration),
    /// Claim 10: the busier this array, the longer the pauses, until its journal fills.
    Load,
}

impl fmt::Display for RestoreTiming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Immediate => f.write_str("immediate"),
            Self::Every(interval) => write!(f, "every {}ms", interval.as_millis()),
            Self::Load => f.write_str("load"),
        }
    }
}

/// The choice as stores hold it: until version 0.1 an interval, or nothing for *immediate*.
#[derive(Deserialize)]
#[serde(untagged)]
enum StoredReadTiming {
    Interval(Option<Duration>),
    Choice(ReadChoice),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum ReadChoice {
    Immediate,
    Every(Duration),
    Fixed(Duration),
    Periodic(Duration),
    Adaptive(ReadInputs),
}

impl From<StoredReadTiming> for ReadTiming {
    fn from(stored: StoredReadTiming) -> Self {
        match stored {
            StoredReadTiming::Interval(None) | StoredReadTiming::Choice(ReadChoice::Immediate) => {
                Self::Immediate
            }
            StoredReadTiming::Interval(Some(interval))
            | StoredReadTiming::Choice(ReadChoice::Every(interval)) => Self::Every(interval),
            StoredReadTiming::Choice(ReadChoice::Fixed(interval)) => Self::Fixed(interval),
            StoredReadTiming::Choice(ReadChoice::Periodic(interval)) => Self::Periodic(interval),
            StoredReadTiming::Choice(ReadChoice::Adaptive(inputs)) => Self::Adaptive(inputs),
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum StoredRestoreTiming {
    Interval(Option<Duration>),
    Choice(RestoreChoice),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum RestoreChoice {
    Immediate,
    Every(Duration),
    Load,
}

impl From<StoredRestoreTiming> for RestoreTiming {
    fn from(stored: StoredRestoreTiming) -> Self {
        match stored {
            StoredRestoreTiming::Interval(None) | StoredRestoreTiming::Choice(RestoreChoice::Immediate) => {
                Self::Immediate
            }
            StoredRestoreTiming::Interval(Some(interval))
            | StoredRestoreTiming::Choice(RestoreChoice::Every(interval)) => Self::Every(interval),
            StoredRestoreTiming::Choice(RestoreChoice::Load) => Self::Load,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::kind::Schedule;

    #[test]
    fn times_are_readable() {
        assert_eq!(universal_time(0), "1970-01-01 00:00:00");
        assert_eq!(universal_time(951_782_400_000), "2000-02-29 00:00:00");
        assert_eq!(universal_time(1_795_253_244_999), "2026-11-21 09:27:24");
    }

    #[test]
    fn schedules_of_older_stores_are_read() {
        let old = r#"{"read_interval":{"secs":0,"nanos":250000000},"restore_interval":null,
            "restore_delay":{"secs":5,"nanos":0}}"#;
        let schedule: Schedule = serde_json::from_str(old).unwrap();
        assert_eq!(schedule.read, ReadTiming::Every(Duration::from_millis(250)));
        assert_eq!(schedule.restore, RestoreTiming::Immediate);
        assert_eq!(schedule.restore_delay, Duration::from_secs(5));
    }

    #[test]
    fn every_choice_survives_the_store() {
        let every = Duration::from_millis(3);
        let reads = [
            ReadTiming::Immediate,
            ReadTiming::Every(every),
            ReadTiming::Fixed(every),
            ReadTiming::Periodic(every),
            ReadTiming::Adaptive(ReadInput::ALL.into_iter().collect()),
        ];
        let restores = [RestoreTiming::Immediate, RestoreTiming::Every(every), RestoreTiming::Load];
        for (read, restore) in reads.into_iter().zip(restores.into_iter().cycle()) {
            let schedule = Schedule { read, restore, read_size: ReadSize::Updates(7), ..Schedule::default() };
            let text = serde_json::to_string(&schedule).unwrap();
            assert_eq!(serde_json::from_str::<Schedule>(&text).unwrap(), schedule, "{text}");
        }
    }
}
