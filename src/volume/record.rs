//! Rows of the tables that have no rules of their own: volumes (mission row A2), parity groups, targets, links,
//! readers, schedules, designations on their way to a peer, and what the array knows about itself.

use super::designation::{Designation, DesignationId, Outcome, Refusal};
use super::kind::{CacheMode, InitiatorRule, PortalAddress, RaidLevel, Schedule};
use super::name::{
    ArrayName, ArrayNumber, GroupName, GroupNumber, IscsiName, LinkName, Lun, ParityGroupName,
    ParityGroupNumber, SnapshotNumber, UpdateNumber, VolumeName, VolumeNumber,
};
use super::relay::RelayWord;
use super::secret::{Secret, stored};
use super::transfer::LinkOptions;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A 128-bit identity, stored and shown as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Identity(pub u128);

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Identity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_hex = text.len() == 32 && text.chars().all(|c| c.is_ascii_hexdigit());
        let number = if is_hex { u128::from_str_radix(text, 16).ok() } else { None };
        number.map(Self).ok_or_else(|| "an identity is 32 hexadecimal digits".to_owned())
    }
}

impl TryFrom<String> for Identity {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Identity> for String {
    fn from(identity: Identity) -> Self {
        identity.to_string()
    }
}

/// What the array knows about itself: one row.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MetaRecord {
    /// Made at the first start, never changed.
    pub identity: Identity,
    /// Storage system number; a store never changes its array.
    pub number: ArrayNumber,
    /// Name.
    pub name: ArrayName,
    /// How often the store has been opened for serving.
    pub incarnation: u64,
    /// The last number given to any object: numbers are never given twice, also after a deletion.
    pub last_number: u32,
    /// The last place given in the list of designations on their way, or in that of results.
    pub last_sequence: u64,
}

/// A parity group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ParityGroupRecord {
    /// Number.
    pub number: ParityGroupNumber,
    /// Name.
    pub name: ParityGroupName,
    /// Identity, also in the superblocks of its units.
    pub identity: Identity,
    /// How units protect each other.
    pub level: RaidLevel,
    /// Stripe unit.
    pub stripe_unit_bytes: u64,
    /// Units, in their order.
    pub units: Vec<UnitRecord>,
    /// Spares.
    pub spares: Vec<UnitRecord>,
    /// Whether the units have been formatted; until then a start formats them.
    pub is_formatted: bool,
}

/// A unit of a parity group: found by its identity, not by its path.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UnitRecord {
    /// Identity in its superblock.
    pub identity: Identity,
    /// Where it was last.
    pub path: PathBuf,
    /// Size as designated; none: that of the device.
    pub size_bytes: Option<u64>,
    /// The file was made here, for this group, and holds nothing else.
    #[serde(default)]
    pub is_ours: bool,
}

/// A volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// Number.
    pub number: VolumeNumber,
    /// Name.
    pub name: VolumeName,
    /// Identity, made with it and never changed.
    pub identity: Identity,
    /// What hosts are shown instead of it (decision 25).
    #[serde(default)]
    pub shown: Option<Identity>,
    /// State.
    pub state: VolumeState,
    /// Why it is abnormal.
    pub reason: Option<String>,
    /// What it serves for.
    pub usage: VolumeUsage,
    /// Where its extents come from; none for a virtual volume.
    pub parity_group: Option<ParityGroupNumber>,
    /// Whether the disk adapter has made it; until then a start makes it.
    pub is_carved: bool,
    /// Capacity.
    pub size_bytes: u64,
    /// It grows, and how far that has come (decision 18).
    #[serde(default)]
    pub growth: Option<Growth>,
    /// Logical block size.
    pub block_size_bytes: u32,
    /// Whether extents are taken only when they are written.
    pub is_thin: bool,
    /// When a write is answered.
    pub cache: CacheMode,
}

/// The growth of a volume, step by step; each is durable before the next one begins.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Growth {
    /// Its size afterwards.
    pub to_bytes: u64,
    /// Its parity group has the room, and so have all copies below it.
    pub has_room: bool,
    /// Why it does not go on.
    pub reason: Option<String>,
}

/// State of a volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeState {
    /// Hosts may read and write it.
    Normal,
    /// A P-VOL: hosts may read and write it.
    Main,
    /// An S-VOL: hosts may not write it, and read it where the group allows that.
    Auxiliary,
    /// It cannot be used.
    Abnormal,
    /// No volume.
    Unused,
}

impl VolumeState {
    /// Whether hosts may write it.
    #[must_use]
    pub fn is_host_writable(self) -> bool {
        match self {
            Self::Normal | Self::Main => true,
            Self::Auxiliary | Self::Abnormal | Self::Unused => false,
        }
    }
}

impl fmt::Display for VolumeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Normal => "normal",
            Self::Main => "main",
            Self::Auxiliary => "auxiliary",
            Self::Abnormal => "abnormal",
            Self::Unused => "unused",
        })
    }
}

/// What a volume serves for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeUsage {
    /// Hosts' data.
    Host,
    /// The journal of this group; never mapped to hosts.
    Journal(GroupNumber),
    /// It belongs to this snapshot, which says what hosts may do with it.
    Snapshot(SnapshotNumber),
}

/// A target.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TargetRecord {
    /// Name.
    pub iqn: IscsiName,
    /// What it shows, by LUN.
    pub luns: Vec<LunRecord>,
    /// To whom; nobody when empty.
    pub initiators: Vec<InitiatorRule>,
    /// What they must prove.
    pub chap: Option<ChapRecord>,
}

/// A volume under a logical unit number.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LunRecord {
    /// The number that hosts use.
    pub lun: Lun,
    /// The volume.
    pub volume: VolumeNumber,
    /// Which initiators may only read it; the others may write as far as the volume's role allows (decision 31).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub read_only_for: Vec<InitiatorRule>,
}

/// CHAP of a target.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChapRecord {
    /// What the initiator proves.
    pub initiator: Credential,
    /// What the target proves in turn.
    pub mutual: Option<Credential>,
}

/// A name and its secret.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Credential {
    /// `CHAP_N`.
    pub user: String,
    /// The secret.
    #[serde(with = "stored")]
    pub secret: Secret,
}

/// A link to another array.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LinkRecord {
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

/// An array that reads a group from this one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReaderRecord {
    /// Group, here.
    pub group: GroupNumber,
    /// The reading array.
    pub array: ArrayNumber,
    /// Link to it.
    pub link: LinkName,
    /// The group's number there; none until it has accepted.
    pub remote_group: Option<GroupNumber>,
    /// What it last said about itself, with its reason, when that is not "normal".
    pub reported: Option<String>,
    /// Checkpoint: it holds everything up to this number durably.
    pub durable: UpdateNumber,
    /// Checkpoint: it has restored everything up to this number.
    pub restored: UpdateNumber,
    /// Checkpoint: it has everything up to this number durably in its volumes.
    pub settled: UpdateNumber,
    /// It goes when its last pair has gone.
    #[serde(default)]
    pub is_leaving: bool,
    /// It is a copy of another array and reads here instead (promise T5): it has no pairs here.
    #[serde(default)]
    pub is_attached: bool,
    /// It reads from that array instead, and reports here.
    #[serde(default)]
    pub reads_from: Option<ArrayNumber>,
    /// It has said that its journal is lost: what it had not settled has to be copied again.
    #[serde(default)]
    pub journal_lost: bool,
    /// It has not been told yet that this array is the primary: what it maps the group's volumes by is not true here, so it is
    /// handed nothing.
    #[serde(default)]
    pub is_untold: bool,
    /// It is taken to have everything up to this number, because it had acknowledged that to the former primary: here is
    /// neither record nor mark of it. It says so itself when it is told who its primary is; 0 then.
    #[serde(default)]
    pub assumed: UpdateNumber,
    /// It has said that it does not have all of that: everything counts as different.
    #[serde(default)]
    pub is_lacking: bool,
    /// It has asked for a suspension of all its pairs, last under this identity, and is told when that is over.
    #[serde(default)]
    pub awaits_suspension: Option<DesignationId>,
    /// It has seen this counter of a generation: what it says of a takeover and of less was said before it was this reader.
    #[serde(default)]
    pub since: u64,
    /// It goes on from another array that took over: nothing of it is needed here any more.
    #[serde(default)]
    pub has_left: bool,
    /// It has given up this attempt of its to take over, and all before it.
    #[serde(default)]
    pub attempts_ended: u64,
    /// The largest counter of a generation of which it has told this array itself, when that was the primary; `since` is another such.
    #[serde(default)]
    pub heard: u64,
    /// What it says on relays and this array has not heard from it: that it is no copy of this array any more. One of each relay, the newest.
    #[serde(default)]
    pub relay_words: Vec<RelayWord>,
}

impl ReaderRecord {
    /// A reader that has said nothing yet.
    #[must_use]
    pub fn new(group: GroupNumber, array: ArrayNumber, link: LinkName) -> Self {
        let none = UpdateNumber(0);
        Self {
            group,
            array,
            link,
            remote_group: None,
            reported: None,
            durable: none,
            restored: none,
            settled: none,
            is_leaving: false,
            is_attached: false,
            reads_from: None,
            journal_lost: false,
            is_untold: false,
            assumed: UpdateNumber(0),
            is_lacking: false,
            awaits_suspension: None,
            since: 0,
            has_left: false,
            attempts_ended: 0,
            heard: 0,
            relay_words: Vec::new(),
        }
    }
}

/// The schedule of one group that this array copies, instead of that of the link.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ScheduleRecord {
    /// Link to the array it is read from.
    pub link: LinkName,
    /// Its name.
    pub group: GroupName,
    /// The schedule.
    pub schedule: Schedule,
}

/// A designation on its way to the array behind a link; those of one link go in order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ForwardRecord {
    /// Place in the order.
    pub sequence: u64,
    /// Where it goes.
    pub link: LinkName,
    /// Its identity there.
    pub id: DesignationId,
    /// What is designated.
    pub designation: Designation,
    /// Why the other array has not accepted it yet.
    pub refusal: Option<String>,
    /// A refusal is its end: an operator has said it, and waits for the answer.
    #[serde(default)]
    pub is_once: bool,
}

impl ForwardRecord {
    /// Whether a refusal leaves open what has become of it: a promise to take over (decision 17), or what was asked of a
    /// primary, may be durable at an array whose control store failed, and its next start finds it. It is asked again.
    #[must_use]
    pub fn is_open_after(&self, refusal: &Refusal) -> bool {
        let is_told = matches!(self.designation, Designation::RemoteReverse(_) | Designation::AskPrimary(_));
        is_told && matches!(refusal, Refusal::Store(_))
    }
}

/// A volume that was deleted, or never came to exist, and whose extents are still to be given back. Nothing but this row
/// makes them free, so that a store that lacks a volume for another reason destroys nothing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DoomedRecord {
    /// Its number, which is never given again.
    pub number: VolumeNumber,
    /// Where its extents are.
    pub parity_group: Option<ParityGroupNumber>,
    /// A snapshot is being made under this number by the array as it was started for this time
    /// ([`MetaRecord::incarnation`]): it stays as long as that runs (decision 24).
    #[serde(default)]
    pub reserved_in: Option<u64>,
}

/// What came of a designation, kept so that a repeated one gets the same answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ResultRecord {
    /// The designation.
    pub id: DesignationId,
    /// Place in the order, for forgetting the oldest.
    pub sequence: u64,
    /// What came of it.
    pub outcome: Outcome,
    /// What it was, so that an identity is not taken for something else; none in records of earlier versions.
    #[serde(default)]
    pub what: Option<String>,
    /// Why it was refused; then `outcome` says nothing. Only of a reversal: other refusals hold for their instant.
    #[serde(default)]
    pub refusal: Option<String>,
    /// Whether it asked for a promise to take over; such answers are kept apart from all others.
    #[serde(default)]
    pub is_reversal: bool,
}

/// A record of the audit log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AuditRecord {
    /// Its number, from 1.
    pub number: u64,
    /// Wall time, ns since 1970.
    pub time_unix_ns: u64,
    /// Who asked, from where.
    pub who: Who,
    /// For what.
    pub what: String,
    /// "done", or why not.
    pub result: String,
}

/// Who asks for a change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// The array itself.
    Array,
    /// The configuration file.
    Provision,
    /// An operator.
    Operator {
        /// Name.
        name: String,
        /// Where the operator sits: `local`, or an address.
        from: String,
    },
    /// Another array, as authenticated.
    Peer {
        /// Its number.
        array: ArrayNumber,
        /// Its address.
        from: String,
    },
}

impl Who {
    /// The name and the place, for people.
    #[must_use]
    pub fn named(&self) -> (String, String) {
        match self {
            Self::Array => ("array".into(), "local".into()),
            Self::Provision => ("configuration".into(), "local".into()),
            Self::Operator { name, from } => (name.clone(), from.clone()),
            Self::Peer { array, from } => (format!("array {array}"), from.clone()),
        }
    }
}
