//! Snapshots: volumes that begin as what others are at one moment, and going back to one.
//!
//! **What it guarantees.** A snapshot is what a reader of its volume saw at the cut, dirty pages included, over all
//! volumes of one call at the same moment if nobody writes to them during [`SnapshotsReady::cut`]. It takes no space until one of
//! the two is written, and later writes to either are not seen in the other. It is an ordinary thin volume. After a crash those of one call that are in
//! one parity group are all there, whole, or none.
//!
//! **In three steps**, of which only the second has to be kept free of writers:
//! 1. [`DiskAdapter::prepare_snapshots`]: destages the volumes, so that little is dirty; holds their destage back from
//!    then on, so that what the map says of them stands still; shares their extents.
//! 2. [`SnapshotsReady::cut`]: gives the snapshot every dirty page, by handle. No I/O, no waiting; the cost is that of the
//!    pages written since 1. Destage of the volumes goes on behind it.
//! 3. [`SnapshotsCut::complete`]: destages these pages, which moves their extents, and makes the snapshots exist by one
//!    commit of the map. A crash before that leaves none of them.
//!
//! What is dropped between the steps leaves nothing behind. Growth, deletion and going back wait until no snapshot of that volume, or under
//! its number, is being made, and the other way round ([`super::uses`]); snapshots are made side by side, the first two steps of those of the same
//! volumes one after the other, unless they share one [`HeldBack`].

use super::destage::{Gates, Swept, shielded};
use super::manage::reap;
use super::page::Key;
use super::uses::Using;
use super::volume::{Volume, Wanted};
use super::{DiskAdapter, Inner, VolumeSpec};
use crate::disk::VolumeError;
use crate::disk::space::Space;
use crate::disk::space::map::{MapRefusal, Origin, REAP_EXTENTS, VolumeId, VolumeKind};
use crate::disk::space::share::{Borrowed, Restoring};
use futures_util::future::join_all;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use tokio::sync::OwnedMutexGuard;

/// A volume and its snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// The volume.
    pub volume: VolumeId,
    /// The number of the snapshot.
    pub snapshot: VolumeId,
}

/// Volumes that are not destaged while this, or what was made ready with it, is there: what the map says of them stands still. Who
/// writes may wait for room that only their destage makes, so nobody keeps it for long, or when [`DiskAdapter::runs_short`] says so.
pub struct HeldBack {
    inner: Arc<Inner>,
    volumes: BTreeMap<VolumeId, Arc<Volume>>,
    turns: Vec<OwnedMutexGuard<()>>,
    using: Arc<Using>,
}

/// Snapshots before the cut. While this is held none of the volumes is destaged.
#[derive(Debug)]
pub struct SnapshotsReady {
    forming: Forming,
    held: Arc<HeldBack>,
}

/// Snapshots behind the cut, which a crash would lose.
#[derive(Debug)]
pub struct SnapshotsCut {
    forming: Forming,
    as_of: u64,
}

impl DiskAdapter {
    /// Makes snapshots, durably, of what the volumes are at some moment of the call: for volumes to which nobody writes,
    /// or of which each is for itself.
    ///
    /// # Errors
    /// Those of the steps; then none of the snapshots exists.
    pub async fn snapshot(&self, wanted: &[Snapshot], as_of: u64) -> Result<(), VolumeError> {
        self.prepare_snapshots(wanted).await?.cut(as_of).complete().await
    }

    /// The first step: see the module. Waits for the gates of what is dirty. Hosts may write meanwhile.
    ///
    /// # Errors
    /// A number that is in use, a volume that does not exist or is a journal volume, more snapshots that differ than the
    /// map's log can hold, or the volumes cannot be destaged.
    pub async fn prepare_snapshots(&self, wanted: &[Snapshot]) -> Result<SnapshotsReady, VolumeError> {
        let volumes: Vec<VolumeId> = wanted.iter().map(|one| one.volume).collect();
        self.destage(&volumes).await?;
        let held = self.hold_back(volumes).await?;
        self.prepare_held(wanted, held).await
    }

    /// The first step without the destage, its first half: holds volumes back, for snapshots that are made ready with
    /// [`DiskAdapter::prepare_held`]. Waits for the batch of a destage that is on its way.
    ///
    /// # Errors
    /// A volume that does not exist or is a journal volume.
    pub async fn hold_back(
        &self,
        volumes: impl IntoIterator<Item = VolumeId>,
    ) -> Result<Arc<HeldBack>, VolumeError> {
        let volumes: Vec<VolumeId> = volumes.into_iter().collect();
        let using = Arc::new(self.0.uses.share(volumes.iter().copied()).await);
        let mut sources = BTreeMap::new();
        for volume in volumes {
            let from = self.0.volume(volume)?;
            if from.spec.kind == VolumeKind::Journal {
                return Err(VolumeError::Kind { volume });
            }
            sources.insert(volume, from);
        }
        // No other one begins a further batch while the first is waited for.
        let wanted: Vec<Wanted<'_>> = sources.values().map(|from| from.want()).collect();
        let mut turns = Vec::with_capacity(sources.len());
        for from in sources.values() {
            turns.push(Arc::clone(&from.pass).lock_owned().await);
            from.check_there()?;
        }
        drop(wanted);
        Ok(Arc::new(HeldBack { inner: Arc::clone(&self.0), volumes: sources, turns, using }))
    }

    /// The second half: no I/O, and nobody is waited for. What is dirty at the cut is given to the snapshots then, and its extents
    /// move in them as well; so the volumes should have been destaged.
    ///
    /// # Errors
    /// A number that is in use, a volume that is not held back, or more snapshots that differ than the map's log can hold.
    pub async fn prepare_held(
        &self,
        wanted: &[Snapshot],
        held: Arc<HeldBack>,
    ) -> Result<SnapshotsReady, VolumeError> {
        let new = self.0.uses.share(wanted.iter().map(|one| one.snapshot)).await;
        let (inner, using) = (Arc::clone(&self.0), (new, Arc::clone(&held.using)));
        let mut forming = Forming { inner, volumes: Vec::new(), done: false, _using: using };
        for Snapshot { volume, snapshot } in wanted {
            if self.0.volume(*snapshot).is_ok() {
                return Err(VolumeError::Exists { volume: *snapshot });
            }
            let from = held.volumes.get(volume).ok_or(VolumeError::Unknown { volume: *volume })?;
            forming.add(from, *snapshot).await?;
        }
        Ok(SnapshotsReady { forming, held })
    }

    /// Resolves when somebody has begun to wait, since this was called, for room that only a destage makes.
    pub fn runs_short(&self) -> impl Future<Output = ()> + '_ {
        self.0.short.notified()
    }

    /// Whether what is dirty in these volumes may be given to one more snapshot of them. The snapshot moves their extents once more, and counts as
    /// much again as dirty; where the parity group has hardly any to spare, or the cache is full of what is dirty, they have to be destaged
    /// before.
    #[must_use]
    pub fn may_give_dirty(&self, volumes: &[VolumeId]) -> bool {
        let (mut all, mut pages) = (0, 0);
        let mut moved: BTreeMap<_, usize> = BTreeMap::new();
        for cell in &self.0.shards {
            let shard = cell.lock();
            all += shard.dirty.len();
            for volume in volumes {
                for (_, dirty) in shard.dirty.range((*volume, 0)..=(*volume, u32::MAX)) {
                    *moved.entry(*volume).or_default() += 1;
                    pages += usize::try_from(dirty.pages.count()).unwrap_or(usize::MAX);
                }
            }
        }
        let mut by_group: BTreeMap<_, usize> = BTreeMap::new();
        for (volume, moved) in moved {
            let Ok(volume) = self.0.volume(volume) else { continue };
            *by_group.entry(volume.spec.parity_group).or_default() += moved;
        }
        // What others were given before may move as well.
        let has_room = |(group, moved): (_, usize)| {
            let free = self.space(group).map_or(0, |space| space.map().free_extents());
            all + moved * FREE_PER_MOVED <= usize::try_from(free).unwrap_or(usize::MAX)
        };
        let dirty = self.0.totals.dirty.load(Ordering::Acquire).saturating_add(pages);
        pages == 0
            || dirty <= self.0.pool.limit().saturating_mul(GIVEN_PER_SLOT_MAX)
                && by_group.into_iter().all(has_room)
    }

    /// Makes volumes again what their snapshots are, durably; the snapshots stay. What was in the volumes, dirty pages
    /// included, is given up. In one parity group it happens to all of them or, after a crash, to none; calling it again
    /// changes nothing more.
    ///
    /// Nobody may write to volumes or snapshots meanwhile; who reads the volumes may be told that they do not exist.
    ///
    /// # Errors
    /// A volume or snapshot that does not exist or is of another size, or no room for a thick volume: nothing has
    /// changed in its parity group. Or the map could not be made durable: then the volume may be either after a
    /// crash; repeat the call.
    pub async fn restore_snapshots(&self, wanted: &[Snapshot]) -> Result<(), VolumeError> {
        let (adapter, wanted) = (self.clone(), wanted.to_vec());
        shielded(async move { adapter.restore(&wanted).await }).await
    }

    async fn restore(&self, wanted: &[Snapshot]) -> Result<(), VolumeError> {
        let _one_at_a_time = self.0.manage.lock().await;
        let both = wanted.iter().flat_map(|pair| [pair.volume, pair.snapshot]);
        let _alone = self.0.uses.alone(both).await;
        let mut all = BTreeMap::new();
        let mut spaces: Vec<(Arc<Space>, Vec<Snapshot>)> = Vec::new();
        for pair in wanted {
            let (volume, snapshot) = (self.0.volume(pair.volume)?, self.0.volume(pair.snapshot)?);
            if !Arc::ptr_eq(&volume.space, &snapshot.space) {
                return Err(VolumeError::Kind { volume: pair.snapshot });
            }
            match spaces.iter_mut().find(|(space, _)| Arc::ptr_eq(space, &volume.space)) {
                Some((_, pairs)) => pairs.push(*pair),
                None => spaces.push((Arc::clone(&volume.space), vec![*pair])),
            }
            all.extend([(pair.volume, volume), (pair.snapshot, snapshot)]);
        }
        let mut turns = Vec::with_capacity(all.len());
        for volume in all.values() {
            turns.push(Arc::clone(&volume.pass).lock_owned().await);
        }
        for (space, pairs) in &spaces {
            for pair in pairs {
                // What is dirty in the snapshot is part of it.
                self.0.destage_all(&all[&pair.snapshot]).await?;
            }
            let mut loans = Vec::with_capacity(pairs.len());
            for pair in pairs {
                loans.push(Loan::take(space, pair.snapshot).await?);
            }
            let restoring = prepare_restore(space, pairs, loans).inspect_err(|_| reap(Arc::clone(space)))?;
            let renewed = pairs.iter().map(|pair| self.0.withdraw(&all[&pair.volume])).collect::<Vec<_>>();
            {
                let mut map = space.map_mut();
                restoring.into_iter().for_each(|restoring| map.restore(restoring));
            }
            let committed = space.commit().await;
            let mut volumes = self.0.volumes.write().unwrap_or_else(PoisonError::into_inner);
            for volume in renewed {
                volumes.insert(volume.id(), Arc::new(volume));
            }
            drop(volumes);
            reap(Arc::clone(space));
            self.0.pool.wake();
            self.0.progress.notify_waiters();
            committed?;
        }
        Ok(())
    }

    /// Of what a volume was made, if it is a snapshot.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn origin(&self, volume: VolumeId) -> Result<Option<Origin>, VolumeError> {
        let found = self.0.volume(volume)?;
        let origin = found.space.map().volume(volume).and_then(|map| map.origin);
        Ok(origin)
    }
}

impl Drop for HeldBack {
    fn drop(&mut self) {
        self.turns.clear();
        // Who destages by itself may have found that others are at it.
        self.inner.progress.notify_waiters();
    }
}

impl fmt::Debug for HeldBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.volumes.keys()).finish()
    }
}

impl HeldBack {
    /// Whether this volume is.
    #[must_use]
    pub fn has(&self, volume: VolumeId) -> bool {
        self.volumes.get(&volume).is_some_and(|volume| !volume.is_gone())
    }
}

impl SnapshotsReady {
    /// The second step: the snapshots are what the volumes are now. `as_of` is kept with them. See the module.
    #[must_use]
    pub fn cut(self, as_of: u64) -> SnapshotsCut {
        let Self { forming, held } = self;
        for volume in &forming.volumes {
            forming.inner.copy_dirty(&volume.from, &volume.to);
        }
        drop(held);
        SnapshotsCut { forming, as_of }
    }
}

impl SnapshotsCut {
    /// The third step: makes them durable. Runs to its end even when the caller goes away.
    ///
    /// # Errors
    /// Pages could not be written or the map not be made durable. The snapshots are gone; one whose commit failed may be
    /// there, whole, after the next start: deleting it is safe.
    pub async fn complete(self) -> Result<(), VolumeError> {
        shielded(async move { self.forming.complete(self.as_of).await }).await
    }
}

/// Volumes that do not exist yet. Those that never come to exist leave nothing behind.
struct Forming {
    inner: Arc<Inner>,
    volumes: Vec<FormingVolume>,
    done: bool,
    /// Dropped behind everything else: only then those who wait for these volumes go on.
    _using: (Using, Arc<Using>),
}

struct FormingVolume {
    from: Arc<Volume>,
    to: Arc<Volume>,
    /// Nobody else destages it.
    _turn: OwnedMutexGuard<()>,
}

impl Forming {
    async fn add(&mut self, from: &Arc<Volume>, snapshot: VolumeId) -> Result<(), VolumeError> {
        let loan = Loan::take(&from.space, from.id()).await?;
        loan.adopt(snapshot)?;
        let (kind, size_bytes) = (VolumeKind::Thin, from.size_bytes());
        let spec = VolumeSpec { id: snapshot, kind, size_bytes, ..from.spec };
        let to = Arc::new(Volume::new(spec, Arc::clone(&from.space)));
        // What it gets of dirty pages waits for the same journal.
        to.set_gate(from.gate());
        to.set_may_share();
        from.set_may_share();
        let turn = Arc::clone(&to.pass).lock_owned().await;
        self.volumes.push(FormingVolume { from: Arc::clone(from), to, _turn: turn });
        Ok(())
    }

    async fn complete(mut self, as_of: u64) -> Result<(), VolumeError> {
        let passes = self.volumes.iter().map(|volume| self.inner.destage_all(&volume.to));
        join_all(passes).await.into_iter().collect::<Result<(), _>>()?;
        let mut spaces: Vec<&Arc<Space>> = Vec::new();
        for FormingVolume { to, .. } in &self.volumes {
            if !spaces.iter().any(|space| Arc::ptr_eq(space, &to.space)) {
                spaces.push(&to.space);
            }
        }
        for space in spaces {
            {
                let mut map = space.map_mut();
                for FormingVolume { from, to, .. } in &self.volumes {
                    if Arc::ptr_eq(space, &to.space) {
                        let completed = map.complete(to.id(), Origin { volume: from.id(), as_of });
                        completed.map_err(|refusal| space.refusal(to.id(), refusal))?;
                    }
                }
            }
            space.commit().await?;
        }
        self.done = true;
        let mut volumes = self.inner.volumes.write().unwrap_or_else(PoisonError::into_inner);
        for FormingVolume { to, .. } in &self.volumes {
            // The journal of its origin has nothing to do with what is written to it from now on.
            to.set_gate(None);
            volumes.insert(to.id(), Arc::clone(to));
        }
        Ok(())
    }
}

impl fmt::Debug for Forming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.volumes.iter().map(|volume| volume.to.id())).finish()
    }
}

impl Drop for Forming {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        for FormingVolume { to, .. } in &self.volumes {
            to.set_gone();
            self.inner.purge(to.id());
            let deleted = to.space.map_mut().delete(to.id());
            debug_assert!(deleted.is_ok(), "it was adopted, and nobody else knows it");
            reap(Arc::clone(&to.space));
        }
        self.inner.progress.notify_waiters();
    }
}

/// Extents counted as owned once more, by nobody yet.
struct Loan<'a> {
    space: &'a Arc<Space>,
    from: VolumeId,
    borrowed: Option<Borrowed>,
}

impl<'a> Loan<'a> {
    /// Borrows the extents of a volume whose turn the caller holds.
    async fn take(space: &'a Arc<Space>, from: VolumeId) -> Result<Self, VolumeError> {
        let borrowed = space.map().borrow_of(from).map_err(|refusal| space.refusal(from, refusal))?;
        let mut loan = Self { space, from, borrowed: Some(borrowed) };
        while loan.borrowed.as_mut().is_some_and(|loan| space.map_mut().borrow_some(loan, REAP_EXTENTS)) {
            tokio::task::yield_now().await;
        }
        Ok(loan)
    }

    fn adopt(mut self, snapshot: VolumeId) -> Result<(), VolumeError> {
        let Some(borrowed) = self.borrowed.take() else { return Ok(()) };
        let adopted = self.space.map_mut().adopt(snapshot, self.from, borrowed);
        adopted.map_err(|(refusal, borrowed)| {
            self.borrowed = Some(borrowed);
            self.space.refusal(snapshot, refusal)
        })
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        if let Some(borrowed) = self.borrowed.take() {
            self.space.map_mut().give_back(borrowed);
            reap(Arc::clone(self.space));
        }
    }
}

/// All of them or, with the refusal of one, none.
fn prepare_restore(
    space: &Space,
    pairs: &[Snapshot],
    loans: Vec<Loan<'_>>,
) -> Result<Vec<Restoring>, VolumeError> {
    let mut ready = Vec::with_capacity(pairs.len());
    let mut refused: Option<(VolumeId, MapRefusal)> = None;
    let mut map = space.map_mut();
    let mut borrowed = loans.into_iter().filter_map(|mut loan| loan.borrowed.take()).collect::<Vec<_>>();
    for (pair, borrowed) in pairs.iter().zip(borrowed.drain(..)) {
        if refused.is_some() {
            map.give_back(borrowed);
            continue;
        }
        match map.prepare_restore(pair.volume, pair.snapshot, borrowed) {
            Ok(restoring) => ready.push(restoring),
            Err((refusal, borrowed)) => {
                map.give_back(borrowed);
                refused = Some((pair.volume, refusal));
            }
        }
    }
    let Some((volume, refusal)) = refused else { return Ok(ready) };
    for restoring in ready {
        let borrowed = map.cancel_restore(restoring);
        map.give_back(borrowed);
    }
    drop(map);
    Err(space.refusal(volume, refusal))
}

impl Inner {
    /// Gives `to` what is dirty in `from`, by handle.
    fn copy_dirty(&self, from: &Volume, to: &Volume) {
        for cell in &self.shards {
            let dirty = cell.lock().dirty_versions(from.id());
            for (Key { page, .. }, version) in dirty {
                let key = Key { volume: to.id(), page };
                self.cell_of(key).lock().write(key, version, &self.totals);
            }
        }
        self.kick.notify_one();
    }

    /// Destages everything of a volume whose turn the caller holds.
    async fn destage_all(&self, volume: &Volume) -> Result<(), VolumeError> {
        loop {
            let dirty = self.dirty_extents(volume.id(), 0..volume.pages());
            if dirty.is_empty() {
                return Ok(());
            }
            let mut dirty = dirty.into_iter().peekable();
            self.pass_until_wanted(volume, &mut dirty, Gates::Wait, &mut Swept::default()).await?;
        }
    }

    /// Ends a volume for all who use it and forgets its pages; what it goes on as, to be put in its place.
    fn withdraw(&self, volume: &Volume) -> Volume {
        let spec = VolumeSpec { size_bytes: volume.size_bytes(), ..volume.spec };
        let renewed = Volume::new(spec, Arc::clone(&volume.space));
        renewed.set_gate(volume.gate());
        renewed.set_may_share();
        self.volumes.write().unwrap_or_else(PoisonError::into_inner).remove(&volume.id());
        volume.set_gone();
        self.purge(volume.id());
        renewed
    }
}

/// Dirty pages for each slot of the pool from which on no snapshot is given any: half of those at which writers wait
/// (`DIRTY_PER_SLOT_MAX`).
const GIVEN_PER_SLOT_MAX: usize = 2;
/// Free extents for each one that the snapshot would move, beyond those for all that is dirty.
const FREE_PER_MOVED: usize = 3;
