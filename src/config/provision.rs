//! `[provision]`: objects that are created when they do not exist, and never changed or deleted by a restart.
//!
//! Links are declared on both sides; groups, journals and pairs at the primary only, which passes on what the other
//! array needs. How a copy is read and restored is the affair of the array that keeps the copy: the schedule stands
//! at *its* link to the array it reads from, and `[[provision.reader]]` sets another one for a single group.

use super::quantity::ByteSize;
use crate::volume::group::JournalOptions;
use crate::volume::keep::KeepImages;
use crate::volume::kind::{
    CacheMode, CopyMode, FENCE_WAIT_DEFAULT, Fence, IdentityChoice, InitiatorRule, NoRoom, PortalAddress,
    RaidLevel, Release, ReleaseBy, Schedule, SvolAccess, SvolSpec, WhenOvertaken,
};
use crate::volume::name::{
    ArrayNumber, GroupName, IscsiName, LinkName, Lun, PairName, ParityGroupName, VolumeName,
};
use crate::volume::relay::RelayRecord;
use crate::volume::secret::Secret;
use crate::volume::transfer::LinkOptions;
use std::path::PathBuf;
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
    /// `[[provision.relay]]`.
    pub relays: Vec<RelayRecord>,
    /// `[[provision.group]]`.
    pub groups: Vec<GroupSpec>,
    /// `[[provision.member]]`.
    pub members: Vec<MemberSpec>,
    /// `[[provision.journal]]`.
    pub journals: Vec<JournalSpec>,
    /// `[[provision.pair]]`.
    pub pairs: Vec<PairSpec>,
    /// `[[provision.reader]]`.
    pub readers: Vec<ReaderSpec>,
}

/// A parity group to create.
#[derive(Clone, PartialEq, Eq, Debug)]
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
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnitSpec {
    /// Where it is.
    pub path: PathBuf,
    /// Its size; `None`: that of the device or file, which must then exist.
    pub size: Option<ByteSize>,
}

/// A volume to create.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeSpec {
    /// Its name.
    pub name: VolumeName,
    /// Where its extents come from; `None`: it is virtual, the array has only journals of it.
    pub parity_group: Option<ParityGroupName>,
    /// Its capacity, a multiple of 4096.
    pub size: ByteSize,
    /// Whether extents are taken only when they are written.
    pub thin: bool,
    /// When a write is answered.
    pub cache: CacheMode,
    /// Logical block size in bytes: 512 or 4096.
    pub block_size_bytes: u32,
}

/// A target to create, with what it shows to whom.
#[derive(Clone, PartialEq, Eq, Debug)]
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
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LunSpec {
    /// The number.
    pub lun: Lun,
    /// The volume.
    pub volume: VolumeName,
    /// Who may only read it.
    pub read_only_for: Vec<InitiatorRule>,
}

/// CHAP of a target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chap {
    /// What the initiator proves.
    pub initiator: ChapUser,
    /// What the target proves in turn.
    pub mutual: Option<MutualChap>,
}

/// A name and the secret that belongs to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChapUser {
    /// `CHAP_N`.
    pub user: String,
    /// The shared secret.
    pub secret: Secret,
}

/// The target's own name and secret; another secret than the initiator's.
pub type MutualChap = ChapUser;

/// A link to another array.
#[derive(Clone, PartialEq, Eq, Debug)]
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
    /// How journals travel over it.
    pub options: LinkOptions,
}

/// A group to create, at its primary; or in the middle of a cascade.
#[derive(Clone, PartialEq, Eq, Debug)]
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
    /// Unit of the initial copy.
    pub copy_unit: ByteSize,
    /// How long hosts wait for journal room that a reader holds.
    pub throttle: Duration,
    /// Which report frees.
    pub release_by: ReleaseBy,
    /// What an auxiliary does with what it has no room for.
    pub no_room: NoRoom,
    /// What becomes of writes that cannot be forwarded.
    pub fence: Fence,
    /// How long they wait before.
    pub fence_wait: Duration,
    /// Whose identity the S-VOLs of a synchronous copy show.
    pub identity: IdentityChoice,
    /// What becomes of a primary that was overtaken and has nothing of its own.
    pub overtaken: WhenOvertaken,
    /// It is a copy here, read over this link, which is handed on to other arrays; what is chosen for it is chosen at its
    /// primary. None: this array is the primary.
    pub source: Option<LinkName>,
}

/// A volume of this array to put into a group apart from pairing it (step 910).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberSpec {
    /// The group, declared here.
    pub group: GroupName,
    /// The volume.
    pub volume: VolumeName,
}

/// A journal volume of a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JournalSpec {
    /// The group.
    pub group: GroupName,
    /// An ordinary volume that becomes a journal volume, of the array that `at` names.
    pub volume: VolumeName,
    /// The array behind this link; `None`: this array.
    pub at: Option<LinkName>,
    /// What is chosen for it.
    pub options: JournalOptions,
}

/// A pair to create, at its primary.
#[derive(Clone, PartialEq, Eq, Debug)]
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

/// The schedule of one group that this array copies, instead of that of the link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReaderSpec {
    /// The link to the array it is read from.
    pub link: LinkName,
    /// The group, as that array calls it.
    pub group: GroupName,
    /// Its schedule.
    pub schedule: Schedule,
    /// Link to another array that has a copy, from which it is read instead.
    pub source: Option<LinkName>,
    /// Only while the array behind `link` is under load.
    pub by_load: bool,
    /// Images that are kept of the copies, for rewinds.
    pub keep_images: Option<KeepImages>,
}

impl GroupSpec {
    /// A group that this array copies over `source` and hands on: what is chosen for it comes from there.
    #[must_use]
    pub fn followed(name: GroupName, source: LinkName) -> Self {
        Self {
            name,
            svol_access: SvolAccess::None,
            release: Release::Read,
            read_updates: 1_024,
            read_bytes: ByteSize::mebibytes(1),
            copy_unit: ByteSize::mebibytes(1),
            throttle: Duration::ZERO,
            release_by: ReleaseBy::Named,
            no_room: NoRoom::Hold,
            fence: Fence::Never,
            fence_wait: FENCE_WAIT_DEFAULT,
            identity: IdentityChoice::Own,
            overtaken: WhenOvertaken::Wait,
            source: Some(source),
        }
    }
}
