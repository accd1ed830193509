//! Snapshots as objects of the array: rows and what is designated of them (decision 24).

use super::name::{
    BookmarkName, GroupName, SnapshotName, SnapshotNumber, UpdateNumber, VolumeName, VolumeNumber,
};
use super::record::Identity;
use super::table::HostAccess;
use super::takeover::Branch;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What volumes were at one moment, kept under a name.
///
/// # What it guarantees
/// * Each of its volumes began as what the volume that it is `of` was at one moment, the same for all of them; with
///   [`Moment::Update`] exactly all updates up to that number, whole commands only, whatever hosts wrote meanwhile.
/// * It is there, durably, from the transaction that puts this row; no row names a volume that its parity group does not
///   have. A crash on the way leaves nothing that takes room.
/// * What is written to the volumes that it is of is never seen in it, and what is written to it never in them.
/// * Its volumes have identities of their own.
///
/// # How it is proved
/// `tests/sim/snapshots.rs` compares each, over eight volumes under load, byte for byte with another copy whose restore is stopped at
/// its number, and with the write-order checker's model of what hosts have written, while arrays die at every step;
/// `tests/sim/branch.rs` does so with what a loser keeps; `src/disk/cache/tests/` below, at every write of the disks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// Number.
    pub number: SnapshotNumber,
    /// Name.
    pub name: SnapshotName,
    /// Of what it is.
    pub of: SnapshotOf,
    /// Which moment.
    pub moment: Moment,
    /// The bookmark at that moment, if there was one.
    pub bookmark: Option<BookmarkName>,
    /// Wall time, ns since 1970.
    pub made_unix_ns: u64,
    /// What hosts may do with its volumes.
    pub hosts: SnapshotHosts,
    /// It is what this array had that was named as the loser of a takeover; what only this has.
    #[serde(default)]
    pub branch: Option<Branch>,
    /// Its volumes.
    pub volumes: Vec<SnapshotVolume>,
}

impl SnapshotRecord {
    /// The number up to which it has all updates and nothing else.
    #[must_use]
    pub fn update_number(&self) -> Option<UpdateNumber> {
        match self.moment {
            Moment::Update(number) => Some(number),
            Moment::Time | Moment::NoImage { .. } => None,
        }
    }
}

/// Of what a snapshot is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotOf {
    /// Of a volume.
    Volume(VolumeName),
    /// Of all volumes of a group that are paired.
    Group(GroupName),
}

/// Which moment a snapshot is of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// One moment of all its volumes, to which no number belongs: not every write had one.
    Time,
    /// All updates of the group up to this one.
    Update(UpdateNumber),
    /// The S-VOLs were no image of one moment of the P-VOLs.
    NoImage {
        /// The update that was restored last.
        restored: UpdateNumber,
        /// Why they were none.
        why: String,
    },
}

/// What hosts may do with the volumes of a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotHosts {
    /// Read.
    ReadOnly,
    /// Read and write: it is a clone.
    ReadWrite,
}

impl SnapshotHosts {
    /// The same for a LUN.
    #[must_use]
    pub fn access(self) -> HostAccess {
        match self {
            Self::ReadOnly => HostAccess::ReadOnly,
            Self::ReadWrite => HostAccess::ReadWrite,
        }
    }
}

impl fmt::Display for SnapshotHosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::ReadOnly => "read-only",
            Self::ReadWrite => "read-write",
        })
    }
}

/// A volume of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SnapshotVolume {
    /// The volume that it is of, which may be gone since.
    pub of: VolumeNumber,
    /// The name that this one had then.
    pub of_name: VolumeName,
    /// The volume itself.
    pub volume: VolumeNumber,
}

/// A snapshot to make.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NewSnapshot {
    /// Name.
    pub name: SnapshotName,
    /// Of what.
    pub of: SnapshotOf,
    /// What hosts may do with it.
    pub hosts: SnapshotHosts,
    /// What the array has made of it; none: nothing yet, it can only be rehearsed.
    pub made: Option<MadeSnapshot>,
}

/// A snapshot that the disk adapter has made durable and nobody names yet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MadeSnapshot {
    /// Its volumes, whose numbers are reserved.
    pub volumes: Vec<MadeVolume>,
    /// Which moment.
    pub moment: Moment,
    /// The bookmark at that moment.
    pub bookmark: Option<BookmarkName>,
    /// Wall time, ns since 1970.
    pub made_unix_ns: u64,
}

/// A volume of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MadeVolume {
    /// The volume that it is of.
    pub of: VolumeNumber,
    /// The volume itself.
    pub volume: VolumeNumber,
    /// The identity that hosts will see.
    pub identity: Identity,
    /// Its capacity.
    pub size_bytes: u64,
}

impl fmt::Display for NewSnapshot {
    /// The command, without what was made: who says it again gets the first answer, and does not know that.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "snapshot create {}", self.name)?;
        match &self.of {
            SnapshotOf::Volume(volume) => write!(f, " --volume {volume}")?,
            SnapshotOf::Group(group) => write!(f, " --group {group}")?,
        }
        f.write_str(match self.hosts {
            SnapshotHosts::ReadOnly => "",
            SnapshotHosts::ReadWrite => " --writable",
        })
    }
}
