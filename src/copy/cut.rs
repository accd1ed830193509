//! Numbers at which restore pauses, for as long as it takes to cut a snapshot there (promise O7, decision 26).
//!
//! # What it guarantees
//! The group's own restore goes past such a number only when it is given up, so whoever waits for it finds the S-VOLs of just
//! this number. Nothing else is held by it: what has to restore everything that is here (a takeover, a resync, the replay
//! of a restart) goes past it, and so does the way through a stretch in which the P-VOLs are no image (`whole.rs`). It is in
//! memory only: nothing that is visible depends on it.
//!
//! # What it costs
//! From the number on restore stands still until the snapshot is cut. Journals are read meanwhile.

use super::group::{Group, Sequencer};
use crate::disk::VolumeId;
use crate::volume::name::UpdateNumber as StoredNumber;
use holdfast_journal::{Update, UpdateNumber};
use std::collections::BTreeSet;

/// Where a group's restore is on its way to the next number at which it pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Approach {
    /// Not near.
    Far,
    /// Near: what is dirty may be destaged now, so that less of it is left for the pause.
    Near,
    /// There.
    There,
    /// It has gone past it.
    Past,
}

impl Group {
    /// These are the numbers from now on; those that are none any more hold nothing.
    pub(crate) fn set_cuts(&self, cuts: &BTreeSet<StoredNumber>) {
        let cuts: BTreeSet<UpdateNumber> = cuts.iter().map(|number| UpdateNumber::new(number.0)).collect();
        let is_lifted = {
            let mut seq = self.lock();
            let is_lifted = seq.cuts.iter().any(|cut| !cuts.contains(cut));
            seq.cuts = cuts;
            is_lifted
        };
        if is_lifted {
            self.changed.notify_waiters();
        }
    }

    /// One more, if restore has not gone past it.
    ///
    /// # Errors
    /// It has: how far.
    pub(crate) fn add_cut(&self, number: StoredNumber) -> Result<(), StoredNumber> {
        let mut seq = self.lock();
        let visible = seq.restored.max(seq.restored_in_part.unwrap_or(UpdateNumber::NONE));
        if number.0 < visible.get() {
            return Err(StoredNumber(visible.get()));
        }
        seq.cuts.insert(UpdateNumber::new(number.0));
        Ok(())
    }

    /// How far restore is from a number.
    pub(crate) fn approach(&self, number: StoredNumber) -> Approach {
        let seq = self.lock();
        let restored = seq.restored.get();
        match number.0.checked_sub(restored) {
            None => Approach::Past,
            Some(0) if seq.restored_in_part.is_some() => Approach::Past,
            Some(0) => Approach::There,
            Some(left) if left <= NEAR => Approach::Near,
            Some(_) => Approach::Far,
        }
    }

    /// Resolves when it is no more, with regard to this number, what it was.
    pub(crate) async fn approaches(&self, number: StoredNumber, was: Approach) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.approach(number) != was {
                return;
            }
            changed.await;
        }
    }

    /// Puts what is dirty in these volumes onto the units, as far as that can be done now.
    pub(crate) async fn destage_ahead(&self, volumes: &[VolumeId]) {
        if let Err(error) = self.disk.destage(volumes).await {
            tracing::warn!(group = %self.name, %error, "cannot be destaged ahead of a cut");
        }
    }
}

impl Sequencer {
    /// Whether the group's own restore stands still before this update: because a comparison holds it, or for a cut.
    pub(super) fn is_kept_back(&self, update: &Update) -> bool {
        self.is_held(update.number) || self.pauses_before(update)
    }

    fn pauses_before(&self, update: &Update) -> bool {
        let is_in_stretch = update.number <= self.wholeness.through;
        !is_in_stretch && self.cuts.contains(&update.number.previous())
    }
}

/// So many updates ahead of a number restore is near it.
const NEAR: u64 = 512;
