//! The closed choices of the array's objects: levels, modes, rules, schedules, and addresses of other arrays.

use super::name::{IscsiName, LinkName, VolumeName};
use super::timing::{ReadSize, ReadTiming, RestoreTiming};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How the two areas divide a journal volume: so many bytes of write data for one of update information.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct JournalRatio(u32);

impl JournalRatio {
    /// Bytes of write data for one byte of update information.
    #[must_use]
    pub fn data_per_info(self) -> u32 {
        self.0
    }
}

impl Default for JournalRatio {
    fn default() -> Self {
        Self(holdfast_journal::format::head::DEFAULT_RATIO)
    }
}

impl TryFrom<u32> for JournalRatio {
    type Error = String;

    fn try_from(data_per_info: u32) -> Result<Self, String> {
        let max = holdfast_journal::format::head::MAX_RATIO;
        if (1..=max).contains(&data_per_info) {
            Ok(Self(data_per_info))
        } else {
            Err(format!("the ratio of the two areas is 1:1 to 1:{max}"))
        }
    }
}

impl From<JournalRatio> for u32 {
    fn from(ratio: JournalRatio) -> Self {
        ratio.0
    }
}

impl FromStr for JournalRatio {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_prefix("1:").and_then(|number| number.parse::<u32>().ok());
        Self::try_from(number.ok_or_else(|| format!("{text:?} is not like 1:16"))?)
    }
}

impl fmt::Display for JournalRatio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1:{}", self.0)
    }
}

/// How update information and write data lie on a journal volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JournalLayout {
    /// Each in an area of its own.
    #[default]
    TwoRings,
    /// In one area, the write data of each group commit behind its update information.
    Interleaved,
}

impl JournalLayout {
    /// As the journal's format names it.
    #[must_use]
    pub fn format(self) -> holdfast_journal::format::Layout {
        match self {
            Self::TwoRings => holdfast_journal::format::Layout::TwoRings,
            Self::Interleaved => holdfast_journal::format::Layout::Interleaved,
        }
    }
}

impl FromStr for JournalLayout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "two-rings" => Ok(Self::TwoRings),
            "interleaved" => Ok(Self::Interleaved),
            _ => Err(format!("{text:?} is neither two-rings nor interleaved")),
        }
    }
}

impl fmt::Display for JournalLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TwoRings => "two-rings",
            Self::Interleaved => "interleaved",
        })
    }
}

/// How the units of a parity group protect each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RaidLevel {
    /// Striped, no redundancy.
    Raid0,
    /// Mirrored.
    Raid1,
    /// Striped over mirrors.
    Raid10,
    /// One parity unit a stripe.
    Raid5,
    /// Two parity units a stripe.
    Raid6,
}

impl RaidLevel {
    /// The fewest units it works with.
    #[must_use]
    pub fn units_min(self) -> usize {
        match self {
            Self::Raid0 => 1,
            Self::Raid1 => 2,
            Self::Raid5 => 3,
            Self::Raid6 | Self::Raid10 => 4,
        }
    }

    /// How many of `units` equal units hold data rather than redundancy.
    #[must_use]
    pub fn data_units(self, units: usize) -> usize {
        match self {
            Self::Raid0 => units,
            Self::Raid1 => 1,
            Self::Raid10 => units / 2,
            Self::Raid5 => units.saturating_sub(1),
            Self::Raid6 => units.saturating_sub(2),
        }
    }
}

impl fmt::Display for RaidLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Raid0 => "raid0",
            Self::Raid1 => "raid1",
            Self::Raid10 => "raid10",
            Self::Raid5 => "raid5",
            Self::Raid6 => "raid6",
        })
    }
}

/// When a write to a volume is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CacheMode {
    /// When cache and journal have accepted it.
    WriteBack,
    /// When it is durable.
    WriteThrough,
}

/// Who may log in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InitiatorRule {
    /// Anybody: `"*"`, written out.
    Any,
    /// The initiator of this name.
    Named(IscsiName),
}

impl fmt::Display for InitiatorRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.pad("*"),
            Self::Named(name) => name.fmt(f),
        }
    }
}

impl InitiatorRule {
    /// Whether it speaks of the initiator of this name, in lower case.
    #[must_use]
    pub fn names(&self, initiator: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Named(name) => name.as_str() == initiator,
        }
    }
}

/// `host:port`, `address:port` or `[address]:port`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortalAddress {
    host: String,
    port: u16,
}

impl PortalAddress {
    /// Host name or address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// TCP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for PortalAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port) = (&self.host, self.port);
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl FromStr for PortalAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not host:port");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let is_host = match bracketed {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
                (1..=HOST_MAX_BYTES).contains(&host.len()) && host.chars().all(fits)
            }
        };
        if !is_host {
            return Err(wrong());
        }
        Ok(Self { host: bracketed.unwrap_or(host).to_owned(), port })
    }
}

impl TryFrom<String> for PortalAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<PortalAddress> for String {
    fn from(address: PortalAddress) -> Self {
        address.to_string()
    }
}

/// When a copy is read and restored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Schedule {
    /// When the next journal read is sent.
    #[serde(default, alias = "read_interval")]
    pub read: ReadTiming,
    /// How much it asks for.
    #[serde(default)]
    pub read_size: ReadSize,
    /// When what was read is restored.
    #[serde(default, alias = "restore_interval")]
    pub restore: RestoreTiming,
    /// An update is restored no earlier than this after it was made.
    pub restore_delay: Duration,
}

/// What hosts may do with the S-VOLs of a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SvolAccess {
    /// Nothing.
    None,
    /// Read.
    Read,
}

/// What a reader's report must say before the journal is freed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Release {
    /// Durable in the reader's journal.
    Read,
    /// Restored and durable in its volumes.
    Restored,
}

/// Which report frees what it names (J6). Whatever the manner, only *durable here up to N* frees.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseBy {
    /// Any: the number that the reader names, in a journal read or in a report of its own.
    #[default]
    Named,
    /// Only the one that comes with the next journal read.
    NextCommand,
    /// A report of its own at once when journals are durable, and the room is free as soon as it has come.
    AtOnce,
}

/// What an auxiliary does with journals that it has no room for (step 1755, J10).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoRoom {
    /// Holds them in the cache and tries again when there is room.
    #[default]
    Hold,
    /// Drops them and asks for them again later, with retry indication.
    Retry,
}

impl fmt::Display for ReleaseBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Named => "named",
            Self::NextCommand => "next-command",
            Self::AtOnce => "at-once",
        })
    }
}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Hold => "hold",
            Self::Retry => "retry",
        })
    }
}

/// `link:volume`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SvolSpec {
    /// The link to its array.
    pub link: LinkName,
    /// Its name there.
    pub volume: VolumeName,
}

impl FromStr for SvolSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (link, volume) = text
            .split_once(':')
            .ok_or_else(|| format!("{text:?} is not link:volume, as in \"beta:copy1\""))?;
        let link = link.parse().map_err(|e| format!("the link before the colon: {e}"))?;
        let volume = volume.parse().map_err(|e| format!("the volume after the colon: {e}"))?;
        Ok(Self { link, volume })
    }
}

impl fmt::Display for SvolSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.link, self.volume)
    }
}

/// How a pair follows its P-VOL.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyMode {
    /// By journal read and restore.
    Async,
    /// Every write is forwarded, and answered when it is durable at both arrays. Its group has no journal here.
    Sync,
    /// By journals that are sent; every write is answered when it is durable in both (promise K1).
    SyncJournal,
}

impl CopyMode {
    /// What an operator says for it: the group's journal makes the difference.
    #[must_use]
    pub fn said(self) -> Self {
        if self == Self::SyncJournal { Self::Sync } else { self }
    }
}

impl fmt::Display for CopyMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Async => "async",
            Self::Sync | Self::SyncJournal => "sync",
        })
    }
}

/// What becomes of hosts' writes that the other array of a synchronous pair does not get in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fence {
    /// The array goes on alone; what differs is marked and copied later.
    #[default]
    Never,
    /// They fail.
    Data,
    /// They fail unless the other array could be told that it lacks them. Not for writes that are forwarded.
    Status,
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Never => "never",
            Self::Data => "data",
            Self::Status => "status",
        })
    }
}

impl FromStr for Fence {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Never, Self::Data, Self::Status]
            .into_iter()
            .find(|fence| fence.to_string() == text)
            .ok_or_else(|| format!("{text:?} is none of \"never\", \"data\", \"status\""))
    }
}

/// Which identity hosts are shown by the S-VOLs that a synchronous group keeps at its second array (decision 25).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdentityChoice {
    /// Their own.
    #[default]
    Own,
    /// That of their P-VOLs: one unit with ports at both arrays.
    Shared,
}

impl fmt::Display for IdentityChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Own => "own",
            Self::Shared => "shared",
        })
    }
}

impl FromStr for IdentityChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Own, Self::Shared]
            .into_iter()
            .find(|choice| choice.to_string() == text)
            .ok_or_else(|| format!("{text:?} is none of \"own\", \"shared\""))
    }
}

/// What becomes of an array that another one has overtaken while it has nothing that the other one lacks (decision 19).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenOvertaken {
    /// It waits until an operator names it as the one that copies.
    #[default]
    Wait,
    /// It becomes a copy of the other one by itself: nothing is lost by that.
    Rejoin,
}

impl fmt::Display for WhenOvertaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Wait => "wait",
            Self::Rejoin => "rejoin",
        })
    }
}

impl FromStr for WhenOvertaken {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Wait, Self::Rejoin]
            .into_iter()
            .find(|choice| choice.to_string() == text)
            .ok_or_else(|| format!("{text:?} is none of \"wait\", \"rejoin\""))
    }
}

/// How long hosts' writes wait for the other array of a synchronous pair, unless the operator says otherwise.
pub const FENCE_WAIT_DEFAULT: Duration = Duration::from_secs(5);

const HOST_MAX_BYTES: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portal_addresses_take_names_and_both_kinds_of_addresses() {
        for good in ["127.0.0.1:3260", "beta.example.org:3262", "[::1]:3260"] {
            assert_eq!(good.parse::<PortalAddress>().unwrap().to_string(), good);
        }
        for bad in ["", "beta", "beta:", "beta:0", "beta:70000", "::1:3260", "[beta]:1", ":3260", "a b:1"] {
            assert!(bad.parse::<PortalAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_svol_names_its_link_and_its_volume() {
        let svol: SvolSpec = "beta:copy1".parse().unwrap();
        assert_eq!((svol.link.as_str(), svol.volume.as_str()), ("beta", "copy1"));
        for bad in ["beta", ":copy1", "beta:", "a:b:c"] {
            assert!(bad.parse::<SvolSpec>().is_err(), "{bad}");
        }
    }
}
