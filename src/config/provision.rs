//! `[provision]`: objects that are created when they do not exist, and never changed or deleted by a restart.
//!
//! Links are declared on both sides; groups, journals and pairs at the primary only, which passes on what the other
//! array needs. How a copy is read and restored is the affair of the array that keeps the copy: the schedule stands
//! at *its* link to the array it reads from, and `[[provision.reader]]` sets another one for a single group.

use super::quantity::ByteSize;
use super::secret::Secret;
use crate::volume::name::{
    ArrayNumber, GroupName, IscsiName, LinkName, Lun, PairName, ParityGroupName, VolumeName,
};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// All declared objects, in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct Provision {
    /// `[[provision.parity_group]]`.
    pub parity_groups: Vec<ParityGroupSpec>,
    /// `[[provision.volume]]`.
    pub volumes: Vec<VolumeSpec>,
    /// `[[provision.target]]`.
    pub targets: Vec<TargetSpec>,
    /// `[[provision.link]]`.
    pub links: Vec<LinkSpec>,
    /// `[[provision.group]]`.
    pub groups: Vec<GroupSpec>,
    /// `[[provision.journal]]`.
    pub journals: Vec<JournalSpec>,
    /// `[[provision.pair]]`.
    pub pairs: Vec<PairSpec>,
    /// `[[provision.reader]]`.
    pub readers: Vec<ReaderSpec>,
}

/// A parity group to create.
#[derive(Clone, Debug)]
pub struct ParityGroupSpec {
    /// Its name.
    pub name: ParityGroupName,
    /// How units protect each other.
    pub level: RaidLevel,
    /// Bytes on one unit before the next one is used: a power of two, at least 4096.
    pub stripe_unit: ByteSize,
    /// Its units.
    pub units: Vec<UnitSpec>,
    /// Units that stand by.
    pub spares: Vec<UnitSpec>,
}

/// A unit: a file, created when it does not exist, or a block device.
#[derive(Clone, Debug)]
pub struct UnitSpec {
    /// Where it is.
    pub path: PathBuf,
    /// Its size; `None`: that of the device or file, which must then exist.
    pub size: Option<ByteSize>,
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

/// A volume to create.
#[derive(Clone, Debug)]
pub struct VolumeSpec {
    /// Its name.
    pub name: VolumeName,
    /// Where its extents come from.
    pub parity_group: ParityGroupName,
    /// Its capacity, a multiple of 4096.
    pub size: ByteSize,
    /// Whether extents are taken only when they are written.
    pub thin: bool,
    /// When a write is answered.
    pub cache: CacheMode,
    /// Logical block size in bytes: 512 or 4096.
    pub block_size_bytes: u32,
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

/// A target to create, with what it shows to whom.
#[derive(Clone, Debug)]
pub struct TargetSpec {
    /// Its name.
    pub iqn: IscsiName,
    /// What it shows.
    pub luns: Vec<LunSpec>,
    /// To whom; nobody when empty.
    pub initiators: Vec<InitiatorRule>,
    /// What they must prove; `None`: nothing.
    pub chap: Option<Chap>,
}

/// A volume under a logical unit number.
#[derive(Clone, Debug)]
pub struct LunSpec {
    /// The number.
    pub lun: Lun,
    /// The volume.
    pub volume: VolumeName,
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

/// CHAP of a target.
#[derive(Clone, Debug)]
pub struct Chap {
    /// What the initiator proves.
    pub initiator: ChapUser,
    /// What the target proves in turn.
    pub mutual: Option<MutualChap>,
}

/// A name and the secret that belongs to it.
#[derive(Clone, Debug)]
pub struct ChapUser {
    /// `CHAP_N`.
    pub user: String,
    /// The shared secret.
    pub secret: Secret,
}

/// The target's own name and secret; another secret than the initiator's.
pub type MutualChap = ChapUser;

/// A link to another array.
#[derive(Clone, Debug)]
pub struct LinkSpec {
    /// Its name here.
    pub name: LinkName,
    /// Number of the array behind it.
    pub array: ArrayNumber,
    /// Where that array serves arrays.
    pub portals: Vec<PortalAddress>,
    /// Shared by both arrays; the keys of the two directions are derived from it.
    pub secret: Secret,
    /// How groups are read and restored that this array copies from the one behind the link.
    pub schedule: Schedule,
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
    /// Between two rounds of journal reads; `None`: again at once.
    pub read_interval: Option<Duration>,
    /// Between two rounds of restores; `None`: at once.
    pub restore_interval: Option<Duration>,
    /// An update is restored no earlier than this after it was made.
    pub restore_delay: Duration,
}

/// A group to create, at its primary.
#[derive(Clone, Debug)]
pub struct GroupSpec {
    /// Its name.
    pub name: GroupName,
    /// Whether hosts may read the S-VOLs.
    pub svol_access: SvolAccess,
    /// When a journal is freed that every reader has reported.
    pub release: Release,
    /// Updates of one journal read at most.
    pub read_updates: u32,
    /// Bytes of one journal read at most.
    pub read_bytes: ByteSize,
    /// Bytes that the journal gathers into one commit at most.
    pub commit_bytes: ByteSize,
    /// Unit of the initial copy.
    pub copy_unit: ByteSize,
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

/// A journal volume of a group.
#[derive(Clone, Debug)]
pub struct JournalSpec {
    /// The group.
    pub group: GroupName,
    /// An ordinary volume that becomes a journal volume, of the array that `at` names.
    pub volume: VolumeName,
    /// The array behind this link; `None`: this array.
    pub at: Option<LinkName>,
}

/// A pair to create, at its primary.
#[derive(Clone, Debug)]
pub struct PairSpec {
    /// Its name.
    pub name: PairName,
    /// Its group.
    pub group: GroupName,
    /// The volume that hosts write, of this array.
    pub pvol: VolumeName,
    /// The volume that follows it.
    pub svol: SvolSpec,
    /// How it follows.
    pub copy: CopyMode,
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
}

/// The schedule of one group that this array copies, instead of that of the link.
#[derive(Clone, Debug)]
pub struct ReaderSpec {
    /// The link to the array it is read from.
    pub link: LinkName,
    /// The group, as that array calls it.
    pub group: GroupName,
    /// Its schedule.
    pub schedule: Schedule,
}

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
