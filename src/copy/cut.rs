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
//! ([`Group::cut_ahead`]), and what is cut is written behind it. While volumes are ready nothing of them is destaged, which restore and hosts
//! may need to get room; so they are that for [`HELD_FOR_NS`] at most, end to be it as soon as anybody waits for room, and are made so again only when
//! restore has come much nearer. Where updates come so slowly that none does in that time, or so quickly that destage does not keep
//! up, they are made ready within the pause, and wait for the batch of a destage that is on its way, if there is one; never for all that is dirty,
//! unless the parity group has hardly an extent to spare or the cache is full of it.
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
use std::sync::{Arc, Mutex, PoisonError};
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

    /// Fewer than 4096 updates: it may be there before what is dirty is destaged.
    const fn is_close(self) -> bool {
        self.0 <= 3
    }
}

/// Who cuts what the S-VOLs of a group are.
#[derive(Debug, Default)]
pub(super) struct Cutting {
    /// How many wait for restore to stand still between two updates.
    waiting: AtomicUsize,
    /// Of them, how many wait for volumes that others hold back.
    alone: AtomicUsize,
    /// Volumes that are held back for numbers that are near: for all of them together.
    held: Mutex<Held>,
    /// One at a time destages for that.
    destaging: tokio::sync::Mutex<()>,
    /// One at a time begins to hold back.
    beginning: tokio::sync::Mutex<()>,
}

/// Volumes are held back for as long as anybody uses it, or is about to: who came first and cuts does not let a destage begin while another one,
/// at the same number or the next, is on his way. But each only for [`HELD_FOR_NS`].
#[derive(Debug, Default)]
struct Held {
    users: usize,
    /// Since when.
    volumes: Option<(MonotonicNs, Arc<HeldBack>)>,
}

/// One of them.
struct Joined<'a>(&'a Cutting);

impl Cutting {
    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(&self) -> Joined<'_> {
        self.held().users += 1;
        Joined(self)
    }

    /// What is held back, if that is all of these volumes, and for how long still.
    fn there(&self, wanted: &[Snapshot], now: MonotonicNs) -> Option<(Arc<HeldBack>, MonotonicNs)> {
        let held = self.held();
        let (since, volumes) = held.volumes.as_ref()?;
        let until = until(*since);
        let is_there = until > now && wanted.iter().all(|one| volumes.has(one.volume));
        is_there.then(|| (Arc::clone(volumes), until))
    }

    fn hold(&self, volumes: Option<(MonotonicNs, Arc<HeldBack>)>) {
        let before = std::mem::replace(&mut self.held().volumes, volumes);
        drop(before); // Not under the lock: others begin to destage.
    }
}

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        let before = {
            let mut held = self.0.held();
            held.users -= 1;
            if held.users == 0 { held.volumes.take() } else { None }
        };
        drop(before);
    }
}

fn until(since: MonotonicNs) -> MonotonicNs {
    MonotonicNs(since.0.saturating_add(HELD_FOR_NS))
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

    /// Whether restore waits on purpose before it takes what is here.
    pub(crate) fn restores_late(&self) -> bool {
        self.has_stop() || !self.schedule.borrow().restore_delay.is_zero()
    }

    /// Resolves when restore is there.
    pub(crate) async fn is_there(&self, number: StoredNumber) {
        loop {
            match self.approach(number) {
                Approach::There => return,
                was @ (Approach::Far | Approach::Near(_) | Approach::Past) => {
                    self.approaches(number, was).await
                }
            }
        }
    }

    /// Resolves when restore is close, there, or has gone past it.
    async fn is_close(&self, number: StoredNumber) {
        loop {
            let was = self.approach(number);
            match was {
                Approach::There | Approach::Past => return,
                Approach::Near(nearness) if nearness.is_close() => return,
                Approach::Near(_) | Approach::Far => self.approaches(number, was).await,
            }
        }
    }

    /// Makes snapshots ready while restore comes near `number`, and cuts them there, before anything more is restored. `stand_still` and
    /// `look` as in [`Group::snapshot`]. Whoever called makes the cut complete, behind which restore may go on.
    ///
    /// None: restore did not come there in [`HELD_FOR_NS`], has gone past it, somebody else had to cut or to get room, too much is dirty
    /// ([`Group::destage_before`]), or the group ends. Nothing is left of it.
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
        let runs_short = self.disk.runs_short();
        tokio::pin!(runs_short);
        if self.gives_way() {
            return Ok(None);
        }
        let joined = self.cutting.join();
        self.changed.notify_waiters(); // Others may join.
        let prepared = async {
            let (held, until) = self.held_back(wanted).await?;
            if self.gives_way() {
                return Ok(None);
            }
            let ready = self.disk.prepare_held(wanted, held).await?;
            Ok::<_, CopyError>(Some((ready, until)))
        };
        // A unit that hangs holds nobody up: one volume is held back while a batch of the next is waited for.
        let prepared = tokio::select! {
            biased;
            prepared = prepared => prepared?,
            () = &mut runs_short => None,
            () = self.clock.sleep(Duration::from_nanos(HELD_FOR_NS)) => None,
        };
        let Some((ready, until)) = prepared else { return Ok(None) };
        let left_ns = until.0.saturating_sub(self.clock.now().0);
        let _nothing_is_restored = tokio::select! {
            biased;
            turn = self.turn_at(number) => match turn {
                Some(turn) => turn,
                None => return Ok(None),
            },
            () = &mut runs_short => return Ok(None),
            () = self.clock.sleep(Duration::from_nanos(left_ns)) => return Ok(None),
        };
        let volumes: Vec<VolumeId> = wanted.iter().map(|one| one.volume).collect();
        if !self.disk.may_give_dirty(&volumes) {
            return Ok(None);
        }
        if let Some(tamper) = &self.tamper {
            self.clock.sleep(tamper.before_cutting()).await;
        }
        let (cut, newest) = self.cut(ready, stand_still);
        drop(joined);
        Ok(Some((cut, look(newest))))
    }

    /// Somebody else has to cut, or to destage, while nothing is restored; or the group ends.
    fn gives_way(&self) -> bool {
        self.closing.has_begun() || self.cutting.alone.load(Ordering::Acquire) > 0
    }

    /// Restore stands still at that number; none: it never will, or has to give way first.
    async fn turn_at(&self, number: StoredNumber) -> Option<MutexGuard<'_, ()>> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.gives_way() {
                return None;
            }
            match self.approach(number) {
                Approach::Past => return None,
                Approach::There => {
                    let turn = tokio::select! {
                        biased;
                        turn = self.restoring.lock() => turn,
                        () = changed => continue,
                    };
                    let is_there = !self.closing.has_begun() && self.approach(number) == Approach::There;
                    return is_there.then_some(turn);
                }
                Approach::Far | Approach::Near(_) => {}
            }
            changed.await;
        }
    }

    /// Puts most of what is dirty in these volumes onto the units, while restore is on its way to `number`: not for longer than until it is
    /// close, because who holds the volumes back waits for the batch that is on its way; nor where somebody holds them back already.
    ///
    /// # Errors
    /// What has to go onto the units before anything can be cut does not.
    pub(crate) async fn destage_before(
        &self,
        number: StoredNumber,
        volumes: &[VolumeId],
    ) -> Result<(), CopyError> {
        let destaged = async {
            let _one_at_a_time = self.cutting.destaging.lock().await;
            self.destage_ahead(volumes).await;
        };
        tokio::select! {
            biased;
            () = self.is_close(number) => {}
            () = self.is_held_back() => {}
            () = destaged => {}
        }
        // What may not be given to the snapshots goes onto the units, though restore may have to wait for it.
        if !self.disk.may_give_dirty(volumes) {
            let _others_give_way = self.wants_to_cut_alone();
            self.disk.destage(volumes).await?;
        }
        Ok(())
    }

    /// Volumes that are held back already, for another number, or these ones; until when. The caller has joined.
    async fn held_back(&self, wanted: &[Snapshot]) -> Result<(Arc<HeldBack>, MonotonicNs), VolumeError> {
        if let Some(there) = self.cutting.there(wanted, self.clock.now()) {
            return Ok(there);
        }
        let _one_at_a_time = self.cutting.beginning.lock().await;
        if let Some(there) = self.cutting.there(wanted, self.clock.now()) {
            return Ok(there);
        }
        // Of other volumes, or for too long: those who use it let it go within that time.
        self.cutting.hold(None);
        let held = self.disk.hold_back(wanted.iter().map(|one| one.volume)).await?;
        let since = self.clock.now();
        self.cutting.hold(Some((since, Arc::clone(&held))));
        Ok((held, until(since)))
    }

    /// Resolves when somebody holds volumes back for a number that is near, or is about to: who joins cuts behind him, before a destage begins in
    /// between.
    async fn is_held_back(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.cutting.held().users > 0 {
                return;
            }
            changed.await;
        }
    }

    /// Snapshots that are ready, with nothing being restored. They are made ready while restore goes on; where it does not come to an end of a
    /// batch soon it may need the destage that they hold back, and is waited for first; so it is where they have to be destaged before.
    pub(super) async fn ready_to_cut(
        &self,
        wanted: &[Snapshot],
    ) -> Result<(SnapshotsReady, MutexGuard<'_, ()>), VolumeError> {
        let _gives_way = self.wants_to_cut();
        let volumes: Vec<VolumeId> = wanted.iter().map(|one| one.volume).collect();
        let joined = self.cutting.join();
        let (held, _) = self.held_back(wanted).await?;
        let ready = self.disk.prepare_held(wanted, held).await?;
        tokio::select! {
            biased;
            turn = self.restoring.lock() => {
                if self.disk.may_give_dirty(&volumes) {
                    return Ok((ready, turn));
                }
            }
            () = self.clock.sleep(GIVES_WAY_WITHIN) => {}
        }
        drop((ready, joined));
        let _others_give_way = self.wants_to_cut_alone();
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
    async fn destage_ahead(&self, volumes: &[VolumeId]) {
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
