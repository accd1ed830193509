//! Snapshots as objects of the array: rows and what is designated of them (decision 24).

use super::group::Generation;
use super::name::{
    BookmarkName, GroupName, GroupNumber, PairNumber, SnapshotName, SnapshotNumber, UpdateNumber, VolumeName,
    VolumeNumber,
};
use super::record::Identity;
use super::table::HostAccess;
use super::takeover::Branch;
use super::timing::universal_time;
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
    /// What updates can be replayed onto clones of it (decision 27); none: it is no image of S-VOLs, or hosts may write it.
    #[serde(default)]
    pub base: Option<Base>,
    /// Its volumes.
    pub volumes: Vec<SnapshotVolume>,
}

/// Which updates follow on an image of a copied group's S-VOLs: those of the same history, while the same copies go on. A copy of
/// differences, another pair or another generation in between, and nothing can be replayed onto it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Base {
    /// The group.
    pub group: GroupNumber,
    /// The generation of its number; none: the group had no number yet.
    pub generation: Option<Generation>,
    /// Its pairs here, by number, and which copy of each it was.
    pub copies: Vec<CopyOf>,
    /// The array made it on the group's schedule of images, and deletes it.
    pub is_scheduled: bool,
}

/// A copy of a pair: what tells it from an earlier and from a later one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CopyOf {
    /// The pair.
    pub pair: PairNumber,
    /// With which number it began, where numbers say it.
    pub from: UpdateNumber,
    /// Which one it is, where they do not.
    pub copies: u32,
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
    /// Which moment.
    #[serde(default)]
    pub at: SnapshotAt,
    /// What the array has made of it; none: nothing yet, it can only be rehearsed.
    pub made: Option<MadeSnapshot>,
}

/// Which moment a snapshot shall be of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotAt {
    /// That of its making.
    #[default]
    Now,
    /// Of a copied group: this update and all before it.
    Update(UpdateNumber),
    /// Of a copied group: the newest update at this time, by the clock of its primary.
    Time {
        /// Since 1970, universal time.
        unix_ns: u64,
    },
    /// Of a copied group: the newest bookmark of this name that is known here.
    Bookmark(BookmarkName),
}

impl fmt::Display for SnapshotAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now => f.write_str("now"),
            Self::Update(number) => write!(f, "{number}"),
            Self::Time { unix_ns } => f.write_str(&universal_time(unix_ns / 1_000_000)),
            Self::Bookmark(name) => write!(f, "bookmark:{name}"),
        }
    }
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
    /// What follows on it, if it is an image of S-VOLs.
    #[serde(default)]
    pub base: Option<Base>,
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
        let is_writable = self.hosts == SnapshotHosts::ReadWrite;
        match (&self.of, self.at) {
            (SnapshotOf::Group(group), at) if at != SnapshotAt::Now => {
                write!(f, "group rewind {group} {} --to {at}", self.name)?;
                return f.write_str(if is_writable { "" } else { " --read-only" });
            }
            (SnapshotOf::Volume(volume), _) => write!(f, "snapshot create {} --volume {volume}", self.name)?,
            (SnapshotOf::Group(group), _) => write!(f, "snapshot create {} --group {group}", self.name)?,
        }
        f.write_str(if is_writable { " --writable" } else { "" })
    }
}
