//! Designations: every change of what the array is made of, as a value (architecture, chapter 5; mission row J15).
//!
//! They come from the configuration file, the shell or, in the `Remote` forms, from another array. One function
//! checks one against the tables and applies it, all or nothing; what another array must do is put in the same
//! transaction on the list of designations on their way. A repeated identity gets the recorded answer.

use super::group::{Generation, GroupSettings};
use super::kind::{CacheMode, CopyMode, InitiatorRule, PortalAddress, RaidLevel, Schedule, SvolSpec};
use super::name::{
    ArrayNumber, GroupName, GroupNumber, IscsiName, LinkName, Lun, PairName, PairNumber, ParityGroupName,
    VolumeName, VolumeNumber,
};
use super::record::{ChapRecord, Identity, UnitRecord};
use super::secret::{Secret, stored};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The identity of a designation: made where it is first given, kept on all its ways.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DesignationId(pub Identity);

impl DesignationId {
    /// The identity of the `index`th designation that this one causes at another array.
    #[must_use]
    pub fn caused(self, index: u8) -> Self {
        Self(Identity(self.0.0.rotate_left(1) ^ (0x5afe_0000 + u128::from(index))))
    }
}

/// A change. Identities of what is created come with it, because randomness is not made here.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Designation {
    /// Makes a parity group.
    CreateParityGroup(NewParityGroup),
    /// Makes a volume.
    CreateVolume(NewVolume),
    /// Makes a target, with what it shows.
    CreateTarget(NewTarget),
    /// Shows a volume under a LUN of a target.
    MapLun {
        /// Target.
        target: IscsiName,
        /// LUN.
        lun: Lun,
        /// Volume.
        volume: VolumeName,
    },
    /// Makes a link.
    CreateLink(NewLink),
    /// Makes a group, at its primary.
    CreateGroup {
        /// Its name.
        name: GroupName,
        /// What the operator chose for it.
        settings: GroupSettings,
    },
    /// Makes a volume a journal volume of a group.
    AddJournal {
        /// Group.
        group: GroupName,
        /// Volume, of the array that `at` names.
        volume: VolumeName,
        /// The array behind this link; none: this array.
        at: Option<LinkName>,
    },
    /// Makes a pair, at its primary.
    CreatePair {
        /// Its name.
        name: PairName,
        /// Its group.
        group: GroupName,
        /// The volume that hosts write.
        pvol: VolumeName,
        /// The volume that follows it.
        svol: SvolSpec,
        /// How.
        copy: CopyMode,
    },
    /// Starts a group: initial copy, journal reads, restores.
    StartGroup {
        /// Group.
        group: GroupName,
    },
    /// Sets the schedule of one group that this array copies.
    SetSchedule {
        /// Link to the array it is read from.
        link: LinkName,
        /// Its name.
        group: GroupName,
        /// The schedule.
        schedule: Schedule,
    },
    /// From a primary: there is a group that you copy.
    RemoteGroup(RemoteGroup),
    /// From a primary: this volume of yours is a journal volume of the group.
    RemoteJournal {
        /// Group.
        group: GroupName,
        /// Volume.
        volume: VolumeName,
    },
    /// From a primary: this volume of yours follows mine.
    RemotePair(RemotePair),
    /// From a primary: read and restore from now on.
    RemoteStart {
        /// Group.
        group: GroupName,
    },
}

/// A parity group to make.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NewParityGroup {
    /// Name.
    pub name: ParityGroupName,
    /// Identity.
    pub identity: Identity,
    /// Level.
    pub level: RaidLevel,
    /// Stripe unit.
    pub stripe_unit_bytes: u64,
    /// Units.
    pub units: Vec<UnitRecord>,
    /// Spares.
    pub spares: Vec<UnitRecord>,
}

/// A volume to make.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NewVolume {
    /// Name.
    pub name: VolumeName,
    /// Identity.
    pub identity: Identity,
    /// Parity group.
    pub parity_group: ParityGroupName,
    /// Capacity.
    pub size_bytes: u64,
    /// Logical block size.
    pub block_size_bytes: u32,
    /// Whether extents are taken only when they are written.
    pub is_thin: bool,
    /// When a write is answered.
    pub cache: CacheMode,
}

/// A target to make.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NewTarget {
    /// Name.
    pub iqn: IscsiName,
    /// What it shows.
    pub luns: Vec<(Lun, VolumeName)>,
    /// To whom.
    pub initiators: Vec<InitiatorRule>,
    /// What they must prove.
    pub chap: Option<ChapRecord>,
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
}

/// A group as its primary passes it on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RemoteGroup {
    /// Name.
    pub name: GroupName,
    /// Its number at the primary, by which journal reads name it.
    pub number: GroupNumber,
    /// What the operator chose for it.
    pub settings: GroupSettings,
    /// Its generations.
    pub generations: Vec<Generation>,
}

/// A pair as its primary passes it on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RemotePair {
    /// Name.
    pub name: PairName,
    /// Group.
    pub group: GroupName,
    /// Number of the P-VOL at the primary.
    pub pvol: VolumeNumber,
    /// Name of the P-VOL at the primary.
    pub pvol_name: VolumeName,
    /// Name of the S-VOL here.
    pub svol: VolumeName,
    /// Size of the P-VOL.
    pub size_bytes: u64,
    /// Logical block size of the P-VOL.
    pub block_size_bytes: u32,
    /// How it follows.
    pub copy: CopyMode,
}

/// What came of a designation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Done; there is no number to tell.
    Done,
    /// A parity group, volume or group with this number.
    Created {
        /// The number.
        number: u32,
    },
    /// A pair.
    Paired {
        /// Its number here.
        pair: PairNumber,
        /// The number of the volume here.
        volume: VolumeNumber,
    },
}

impl Outcome {
    /// The number that was given to what was made, if one was.
    #[must_use]
    pub fn number(self) -> Option<u32> {
        match self {
            Self::Done => None,
            Self::Created { number } => Some(number),
            Self::Paired { pair, .. } => Some(pair.0),
        }
    }
}

/// Why a designation was not applied. The one who gave it is to blame, except for `Store`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
pub enum Refusal {
    /// Something of this name exists.
    #[error("there is a {what} {name:?} already")]
    Exists {
        /// Kind of object.
        what: String,
        /// Its name.
        name: String,
    },
    /// Nothing of this name exists.
    #[error("there is no {what} {name:?}")]
    Missing {
        /// Kind of object.
        what: String,
        /// Its name.
        name: String,
    },
    /// It cannot be done as things are.
    #[error("{0}")]
    Conflict(String),
    /// A limit is reached.
    #[error("no more than {limit} {what} are possible")]
    Limit {
        /// Of what.
        what: String,
        /// How many.
        limit: usize,
    },
    /// The control store cannot be written; nothing can be changed until the array is started again.
    #[error("the control store failed: {0}")]
    Store(String),
}

impl Refusal {
    pub(super) fn exists(what: &str, name: impl fmt::Display) -> Self {
        Self::Exists { what: what.to_owned(), name: name.to_string() }
    }

    pub(super) fn missing(what: &str, name: impl fmt::Display) -> Self {
        Self::Missing { what: what.to_owned(), name: name.to_string() }
    }

    pub(super) fn conflict(text: impl Into<String>) -> Self {
        Self::Conflict(text.into())
    }
}

impl fmt::Display for Designation {
    /// What the audit log says; never a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateParityGroup(new) => write!(f, "parity-group create {}", new.name),
            Self::CreateVolume(new) => write!(f, "volume create {}", new.name),
            Self::CreateTarget(new) => write!(f, "target create {}", new.iqn),
            Self::MapLun { target, lun, volume } => write!(f, "lun map {target} {lun} {volume}"),
            Self::CreateLink(new) => write!(f, "link create {} --array {}", new.name, new.array),
            Self::CreateGroup { name, .. } => write!(f, "group create {name}"),
            Self::AddJournal { group, volume, at: None } => {
                write!(f, "journal add {group} --volume {volume}")
            }
            Self::AddJournal { group, volume, at: Some(at) } => {
                write!(f, "journal add {group} --volume {volume} --at {at}")
            }
            Self::CreatePair { name, group, pvol, svol, .. } => {
                write!(f, "pair create {name} --group {group} --pvol {pvol} --svol {svol}")
            }
            Self::StartGroup { group } => write!(f, "group start {group}"),
            Self::SetSchedule { link, group, .. } => write!(f, "schedule {group} from {link}"),
            Self::RemoteGroup(remote) => write!(f, "group {} designated by its primary", remote.name),
            Self::RemoteJournal { group, volume } => {
                write!(f, "journal volume {volume} of group {group} designated by its primary")
            }
            Self::RemotePair(remote) => write!(f, "pair {} designated by its primary", remote.name),
            Self::RemoteStart { group } => write!(f, "group {group} started by its primary"),
        }
    }
}
