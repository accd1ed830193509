//! Restore that waits for a moment at one number, so that an image of the S-VOLs can be cut there.
//!
//! # What it guarantees
//! * While a [`Hold`] lives, the group's own restore makes nothing visible behind the number that it was set to; reading goes on, and
//!   nothing that hosts or the source wait for stands still.
//! * It holds nobody else: a takeover, a resync, or whatever restores what is there goes past it. So it can hold up no data. Who cuts finds that out
//!   ([`Group::snapshot_at`] makes nothing) and begins again.
//! * Inside a stretch in which the S-VOLs are no image (`whole.rs`) nothing is held.
//! * It ends with its owner, in whatever way that ends.

use crate::copy::error::CopyError;
use crate::copy::group::{Group, Sequencer};
use crate::copy::image::Newest;
use crate::disk::{Snapshot, VolumeId};
use holdfast_journal::UpdateNumber;
use std::sync::Arc;
use std::time::Duration;

/// Restore is held. See the module.
pub(crate) struct Hold(Arc<Group>);

impl Group {
    /// Lets nothing behind what is restored now, or is about to be, become visible by the group's own restore; none if somebody else
    /// holds it.
    pub(crate) fn hold_restore(self: &Arc<Self>) -> Option<Hold> {
        let mut seq = self.lock();
        if seq.held_behind.is_some() {
            return None;
        }
        seq.held_behind = Some(seq.restored.max(seq.restored_in_part.unwrap_or(UpdateNumber::NONE)));
        drop(seq);
        Some(Hold(self.clone()))
    }

    /// So much later than it can the group's own restore makes updates visible.
    pub(crate) fn restore_delay(&self) -> Duration {
        self.schedule.borrow().restore_delay
    }

    /// What became visible last, of which some may be visible in part.
    pub(crate) fn restored_now(&self) -> UpdateNumber {
        self.lock().restored
    }

    /// The same as [`Group::snapshot`], at exactly that number: none is made when something else is restored already. Nothing is restored
    /// meanwhile.
    ///
    /// # Errors
    /// As there; or the S-VOLs are no image.
    pub(crate) async fn snapshot_at<L>(
        &self,
        number: UpdateNumber,
        wanted: &[Snapshot],
        look: impl FnOnce(Newest) -> L,
    ) -> Result<Option<L>, CopyError> {
        let volumes: Vec<VolumeId> = wanted.iter().map(|one| one.volume).collect();
        let is_there = || {
            let seq = self.lock();
            seq.restored == number && seq.restored_in_part.is_none()
        };
        let (cut, seen) = {
            // Who holds the volumes back for a drill waits for restore to stand still, as this one does for the volumes.
            let _others_give_way = self.wants_to_cut_alone();
            let _nothing_is_restored = self.restoring.lock().await;
            if !is_there() {
                return Ok(None);
            }
            self.disk.destage(&volumes).await?;
            let ready = self.disk.prepare_snapshots(wanted).await?;
            let (cut, newest) = self.cut(ready, || ());
            (cut, look(newest))
        };
        cut.complete().await?;
        Ok(Some(seen))
    }
}

impl Hold {
    /// Nothing behind this number is restored. What is has come to it, or comes to it by itself.
    pub(crate) fn number(&self) -> UpdateNumber {
        self.0.lock().held_behind.unwrap_or(UpdateNumber::NONE)
    }

    /// From here on up to this number is restored, and no further.
    pub(crate) fn move_to(&self, number: UpdateNumber) {
        self.0.lock().held_behind = Some(number);
        self.0.changed.notify_waiters();
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.lock().held_behind = None;
        self.0.changed.notify_waiters();
    }
}

impl Sequencer {
    /// Whether the group's own restore has to wait before it makes this number visible.
    pub(in crate::copy) fn is_held(&self, number: UpdateNumber) -> bool {
        number > self.wholeness.through && self.held_behind.is_some_and(|behind| number > behind)
    }
}
