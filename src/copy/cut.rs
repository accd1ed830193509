//! Numbers at which restore pauses, for as long as it takes to cut a snapshot there, and snapshots between two restored updates
//! (promise O7, decision 26).
//!
//! # What it guarantees
//! The group's own restore goes past such a number only when it is cut or given up, so whoever waits for it finds the S-VOLs of just
//! this number. Nothing else is held by it: what has to restore everything that is here (a takeover, a resync, the replay
//! of a restart) goes past it, and so does the way through a stretch in which the P-VOLs are no image (`whole.rs`). It is in
//! memory only: nothing that is visible depends on it.
//!
//! # What it costs
//! The pause is that of handing over pages in memory: the volumes are destaged and made ready while restore is still on its way
//! ([`Group::cut_ahead`]), and what is cut is written behind it. While volumes are ready nothing of them is destaged, which restore may need to
//! get room; so they are that for [`HELD_FOR_NS`] at most, and not again before restore has come much nearer. Where updates come so slowly
//! that none does in that time, or so quickly that destage does not keep up, they are made ready within the pause, and wait for the batch of a destage that
//! is on its way, if there is one; never for all that is dirty, unless the parity group has hardly an extent to spare.
//!
//! # How it is proved
//! `tests/sim/drill_pace.rs`: how long updates wait for restore, with drills and without. Unit tests in `tests/cut.rs`.

use super::error::CopyError;
use super::group::{Group, Sequencer};
use super::image::Newest;
use crate::clock::MonotonicNs;
use crate::disk::{HeldBack, Snapshot, SnapshotsCut, SnapshotsReady, VolumeError, VolumeId};
use crate::volume::name::UpdateNumber as StoredNumber;
use holdfast_journal::{Update, UpdateNumber};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::MutexGuard;

/// Where a group's restore is on its way to the next number at which it pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Approach {
    /// Not near.
    Far,
    /// Near: volumes may be made ready for the cut now.
    Near(Nearness),
    /// There.
    There,
    /// It has gone past it.
    Past,
}

/// How near: one less for each power of eight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Nearness(u32);

impl Nearness {
    /// The nearest: fewer than eight updates.
    #[cfg(test)]
    pub(crate) const LAST: Self = Self(0);
}

/// Who cuts what the S-VOLs of a group are.
#[derive(Debug, Default)]
pub(super) struct Cutting {
    /// How many wait for restore to stand still between two updates.
    waiting: AtomicUsize,
    /// Of them, how many wait for volumes that others hold back.
    alone: AtomicUsize,
    /// Volumes that are held back for numbers that are near, and since when: for all of them together.
    held: tokio::sync::Mutex<Option<(MonotonicNs, Weak<HeldBack>)>>,
}

/// While this is there restore gives way between two batches; or who is ready for a number that has not come gives up.
pub(super) struct WantsToCut<'a>(&'a Group, &'a AtomicUsize);

impl Drop for WantsToCut<'_> {
    fn drop(&mut self) {
        self.1.fetch_sub(1, Ordering::AcqRel);
        self.0.changed.notify_waiters();
    }
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
            Some(left) if left < NEAR => Approach::Near(Nearness(left.ilog2() / 3)),
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

    /// Resolves when restore is there, or has gone past it.
    pub(crate) async fn is_there(&self, number: StoredNumber) {
        loop {
            let was = self.approach(number);
            if matches!(was, Approach::There | Approach::Past) {
                return;
            }
            self.approaches(number, was).await;
        }
    }

    /// Makes snapshots ready while restore comes near `number`, and cuts them there, before anything more is restored. `stand_still` and
    /// `look` as in [`Group::snapshot`]. Whoever called makes the cut complete, behind which restore may go on.
    ///
    /// None: restore did not come there in [`HELD_FOR_NS`], has gone past it, somebody else had to cut, or the group ends. Nothing is left of it.
    ///
    /// # Errors
    /// The volumes cannot be destaged, or the map cannot hold the snapshots: there are none.
    pub(crate) async fn cut_ahead<S, L>(
        &self,
        number: StoredNumber,
        wanted: &[Snapshot],
        stand_still: impl FnOnce() -> S,
        look: impl FnOnce(Newest) -> L,
    ) -> Result<Option<(SnapshotsCut, L)>, CopyError> {
        let (held, until) = self.held_back(wanted).await?;
        let ready = self.disk.prepare_held(wanted, held).await?;
        let left_ns = until.0.saturating_sub(self.clock.now().0);
        let _nothing_is_restored = tokio::select! {
            biased;
            turn = self.turn_at(number) => match turn {
                Some(turn) => turn,
                None => return Ok(None),
            },
            () = self.clock.sleep(Duration::from_nanos(left_ns)) => return Ok(None),
        };
        if let Some(tamper) = &self.tamper {
            self.clock.sleep(tamper.before_cutting()).await;
        }
        let (cut, newest) = self.cut(ready, stand_still);
        Ok(Some((cut, look(newest))))
    }

    /// Restore stands still at that number; none: it never will, or has to give way first.
    async fn turn_at(&self, number: StoredNumber) -> Option<MutexGuard<'_, ()>> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.closing.has_begun() || self.cutting.alone.load(Ordering::Acquire) > 0 {
                return None;
            }
            match self.approach(number) {
                Approach::Past => return None,
                Approach::There => {
                    let turn = self.restoring.lock().await;
                    let is_there = !self.closing.has_begun() && self.approach(number) == Approach::There;
                    return is_there.then_some(turn);
                }
                Approach::Far | Approach::Near(_) => {}
            }
            changed.await;
        }
    }

    /// Volumes that are held back already, for another number, or these ones; until when.
    async fn held_back(&self, wanted: &[Snapshot]) -> Result<(Arc<HeldBack>, MonotonicNs), VolumeError> {
        let until = |since: MonotonicNs| MonotonicNs(since.0.saturating_add(HELD_FOR_NS));
        // Who comes second waits for the turns that the first one gets, and not for those that it gives back.
        let mut known = self.cutting.held.lock().await;
        let there = known.as_ref().and_then(|(since, held)| Some((*since, held.upgrade()?)));
        let has_all = |held: &Arc<HeldBack>| wanted.iter().all(|one| held.has(one.volume));
        if let Some((since, held)) = there.filter(|(_, held)| has_all(held))
            && until(since) > self.clock.now()
        {
            return Ok((held, until(since)));
        }
        let held = self.disk.hold_back(wanted.iter().map(|one| one.volume)).await?;
        let since = self.clock.now();
        *known = Some((since, Arc::downgrade(&held)));
        Ok((held, until(since)))
    }

    /// Snapshots that are ready, with nothing being restored. They are made ready while restore goes on; where it does not come to an end of a
    /// batch soon it may need the destage that they hold back, and is waited for first.
    pub(super) async fn ready_to_cut(
        &self,
        wanted: &[Snapshot],
    ) -> Result<(SnapshotsReady, MutexGuard<'_, ()>), VolumeError> {
        let _gives_way = self.wants_to_cut();
        let (held, _) = self.held_back(wanted).await?;
        let ready = self.disk.prepare_held(wanted, held).await?;
        tokio::select! {
            biased;
            turn = self.restoring.lock() => return Ok((ready, turn)),
            () = self.clock.sleep(GIVES_WAY_WITHIN) => {}
        }
        drop(ready);
        let turn = self.restoring.lock().await;
        Ok((self.disk.prepare_snapshots(wanted).await?, turn))
    }

    /// Restore gives way between two batches.
    fn wants_to_cut(&self) -> WantsToCut<'_> {
        self.cutting.waiting.fetch_add(1, Ordering::AcqRel);
        WantsToCut(self, &self.cutting.waiting)
    }

    /// Who is ready for a number that has not come gives up.
    pub(super) fn wants_to_cut_alone(&self) -> WantsToCut<'_> {
        self.cutting.alone.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_waiters();
        WantsToCut(self, &self.cutting.alone)
    }

    /// Whether restore pauses behind what it has restored last.
    pub(super) fn stands_at_cut(&self) -> bool {
        let seq = self.lock();
        seq.cuts.contains(&seq.restored)
    }

    pub(super) fn is_to_be_cut(&self) -> bool {
        self.cutting.waiting.load(Ordering::Acquire) > 0
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
const NEAR: u64 = 1 << 15;
/// Volumes are ready for a number that is to come for so long at most: restore may need the room that destaging them makes.
const HELD_FOR_NS: u64 = 500_000_000;
/// A batch is restored within this, unless it waits for room.
const GIVES_WAY_WITHIN: Duration = Duration::from_millis(100);
