//! Images of a group's S-VOLs that an auxiliary makes and keeps by itself, so that a rewind reaches back (decision 27).

use super::designation::{Outcome, Refusal};
use super::group::GroupRole;
use super::name::{GroupName, GroupNumber, UpdateNumber, VolumeNumber};
use super::snapshot::SnapshotRecord;
use super::table::Tables;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

/// How far back, how often, and for how much room.
///
/// # What it guarantees
/// As long as there is room, every update of the last `for_time` can be reached: by an image that is not behind it, and by the updates
/// that the journal keeps from the oldest image on. Neither is ever a reason why anything is not read or restored: where room
/// ends the oldest images and updates go, and the group shows what is left.
///
/// # How it is proved
/// `tests/sim/rewind.rs`: random numbers of the window against what another copy was at them, through restarts, with a journal that is too small.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KeepImages {
    /// How far back updates can be reached.
    pub for_time: Duration,
    /// How often an image is made, if anything has changed.
    pub every: Duration,
    /// What images and updates may take together, if that is limited.
    pub bytes: Option<u64>,
}

impl KeepImages {
    /// So often that there are a few images in the whole time.
    #[must_use]
    pub fn usual_interval(for_time: Duration) -> Duration {
        (for_time / USUAL_IMAGES).max(INTERVAL_MIN)
    }

    /// Whether that can be done.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn check(self) -> Result<(), Refusal> {
        if self.every < INTERVAL_MIN {
            return Err(Refusal::conflict("images are made every second at most"));
        }
        if self.for_time < self.every {
            return Err(Refusal::conflict("images are made more often than they are kept long"));
        }
        if self.for_time.as_millis() / self.every.as_millis().max(1) > IMAGES_MAX {
            let text = format!("that would be more than {IMAGES_MAX} images: make them less often");
            return Err(Refusal::Conflict(text));
        }
        Ok(())
    }
}

impl fmt::Display for KeepImages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (for_s, every_s) = (self.for_time.as_secs(), self.every.as_secs());
        write!(f, "--keep-images {for_s}s --image-interval {every_s}s")?;
        self.bytes.iter().try_for_each(|bytes| write!(f, " --keep-images-bytes {bytes}B"))
    }
}

pub(super) fn keep_images(
    tables: &mut Tables,
    group: &GroupName,
    keep: Option<KeepImages>,
) -> Result<Outcome, Refusal> {
    let row = tables.group_named(group).ok_or_else(|| Refusal::missing("group", group))?;
    let (number, is_copied) = (row.number, matches!(row.role, GroupRole::Auxiliary { .. }));
    if let Some(keep) = keep {
        if !is_copied {
            let text = format!("group {group} is not copied here: images are kept where its S-VOLs are");
            return Err(Refusal::Conflict(text));
        }
        keep.check()?;
    }
    if let Some(row) = tables.groups.edit(&number) {
        row.keep_images = keep;
    }
    Ok(Outcome::Done)
}

impl Tables {
    /// The volumes here that are S-VOLs of a group, by number.
    pub(crate) fn svols(&self, group: GroupNumber) -> Vec<VolumeNumber> {
        let pairs = self.followed_pairs(group).filter(|pair| !pair.is_leaving());
        let numbers: BTreeSet<_> = pairs.filter_map(|pair| pair.auxiliary.volume).collect();
        numbers.into_iter().collect()
    }

    /// The images that the array itself has made of a group, the oldest first, whatever has become of the group since.
    pub(crate) fn scheduled_images(&self, group: GroupNumber) -> Vec<&SnapshotRecord> {
        let is_one = |base: &super::snapshot::Base| base.is_scheduled && base.group == group;
        let mut images: Vec<_> =
            self.snapshots.iter().filter(|row| row.base.as_ref().is_some_and(is_one)).collect();
        images.sort_by_key(|row| (row.made_unix_ns, row.number));
        images
    }

    /// Of which updates there are images behind which the journal keeps what has come.
    pub(crate) fn retained_images(&self, group: GroupNumber) -> Vec<UpdateNumber> {
        if self.groups.get(&group).is_none_or(|row| row.keep_images.is_none()) {
            return Vec::new();
        }
        let bases = self.bases(group, &self.svols(group)).into_iter();
        let is_scheduled = |row: &SnapshotRecord| row.base.as_ref().is_some_and(|base| base.is_scheduled);
        bases.filter(|(_, row)| is_scheduled(row)).map(|(number, _)| number).collect()
    }
}

/// Images of one group at a time; the oldest go.
pub(crate) const IMAGES_MAX: u128 = 128;
const USUAL_IMAGES: u32 = 24;
const INTERVAL_MIN: Duration = Duration::from_secs(1);
