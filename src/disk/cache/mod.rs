//! The disk adapter's upper half: volumes on parity groups, behind a read and write-back cache.
//!
//! A page is a slot of 4096 bytes. What a host wrote is put in by handle ([`DiskAdapter::apply`]), never copied except
//! for pages written in part; what a host reads is handed out by handle. `page` has the states of a page, `gate` the
//! write-ahead rule, `destage` and `background` the way to the units.
//!
//! **What it promises.** A read gives the newest applied content of each page. Nothing is dropped that is not on the
//! units. [`DiskAdapter::destage`] returns `Ok` only when everything dirty at the call is durable, its place in the map
//! included. A page is never written to the units before its gate is open.
//!
//! **Locks.** Pages are in shards, all pages of one extent in the same; a shard's lock is held for a few lines, never
//! across a wait, and nobody asks the pool for memory under it, because the pool asks the cache to evict. The order is
//! shard, then map of the parity group.

mod background;
mod destage;
mod gate;
mod lay;
mod manage;
mod page;
mod pieces;
mod raw;
mod read;
mod ready;
mod snapshot;
mod usage;
mod uses;
mod volume;
mod write;

#[cfg(test)]
pub(crate) mod tests;

pub use gate::Gate;
pub(crate) use lay::Laid;
pub use pieces::{Piece, Pieces};
pub use raw::RawVolume;
pub use snapshot::{HeldBack, Snapshot, SnapshotsCut, SnapshotsReady};
pub use usage::{AdapterUsage, GroupUsage, VolumeUsage};
pub use volume::{ParityGroupId, VolumeSpec};
pub use write::Prepared;

use super::VolumeError;
use super::slot::SlotPool;
use super::space::Space;
use super::space::map::VolumeId;
use crate::clock::Clock;
use page::{Key, KeyHasher, Shard, Totals};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use volume::Volume;

/// How the cache behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CacheSettings {
    /// Percent of the pool that may be dirty before destage begins at once.
    pub dirty_high_percent: u8,
    /// Percent of the pool at which it ends then.
    pub dirty_low_percent: u8,
    /// A dirty page is destaged after this time in any case.
    pub age_max: Duration,
    /// Pause after a destage that failed or could do nothing.
    pub retry_pause: Duration,
    /// Zeroed pages not yet on the units at most; more zeroing waits. They cost about 100 bytes each.
    pub zero_pages_max: usize,
    /// Pages on the way to the units at once for one volume; bounds what one flush has to wait for.
    pub pass_pages: usize,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self {
            dirty_high_percent: 40,
            dirty_low_percent: 25,
            age_max: Duration::from_secs(5),
            retry_pause: Duration::from_millis(500),
            zero_pages_max: 1 << 20,
            pass_pages: 4096,
        }
    }
}

/// The disk adapter. Cloning gives another handle to the same one.
#[derive(Clone)]
pub struct DiskAdapter(Arc<Inner>);

struct Inner {
    pool: SlotPool,
    clock: Arc<dyn Clock>,
    settings: CacheSettings,
    shards: Vec<ShardCell>,
    totals: Totals,
    groups: RwLock<BTreeMap<ParityGroupId, Arc<Space>>>,
    volumes: RwLock<HashMap<VolumeId, Arc<Volume>, BuildHasherDefault<KeyHasher>>>,
    /// Volumes that have no units: nothing of them is here.
    virtuals: RwLock<BTreeSet<VolumeId>>,
    /// Volumes are created and deleted one after the other.
    manage: tokio::sync::Mutex<()>,
    /// Of which snapshots are made meanwhile.
    uses: Arc<uses::Uses>,
    /// Who copies pages of a shared extent with the last of the memory.
    copier: tokio::sync::Mutex<()>,
    next_token: AtomicU64,
    /// Where eviction goes on.
    hand: AtomicUsize,
    /// There is something to destage that may not wait.
    kick: Notify,
    /// Who destages by itself sleeps because nothing is dirty.
    idle: AtomicBool,
    /// Somebody wants memory and the cache had too little that is clean.
    pressed: AtomicBool,
    /// The same, for who holds back a destage.
    short: Notify,
    /// A destage has ended.
    progress: Notify,
}

#[derive(Default)]
struct ShardCell {
    shard: Mutex<Shard>,
    /// A load in it has ended.
    loaded: Notify,
}

impl ShardCell {
    fn lock(&self) -> MutexGuard<'_, Shard> {
        volume::lock(&self.shard)
    }
}

impl DiskAdapter {
    /// An adapter without parity groups. It becomes the one who gives memory back to `pool`.
    #[must_use]
    pub fn new(pool: SlotPool, clock: Arc<dyn Clock>, settings: CacheSettings) -> Self {
        let inner = Arc::new(Inner {
            pool: pool.clone(),
            clock,
            settings,
            shards: (0..SHARDS).map(|_| ShardCell::default()).collect(),
            totals: Totals::default(),
            groups: RwLock::default(),
            volumes: RwLock::default(),
            virtuals: RwLock::default(),
            manage: tokio::sync::Mutex::default(),
            uses: Arc::default(),
            copier: tokio::sync::Mutex::new(()),
            next_token: AtomicU64::new(1),
            hand: AtomicUsize::new(0),
            kick: Notify::new(),
            idle: AtomicBool::new(true),
            pressed: AtomicBool::new(false),
            short: Notify::new(),
            progress: Notify::new(),
        });
        let weak: Weak<Inner> = Arc::downgrade(&inner);
        pool.set_reclaim(Box::new(move |wanted| weak.upgrade().map_or(0, |inner| inner.reclaim(wanted))));
        Self(inner)
    }

    /// Sets the gate of a volume: from now on a page that carries update n waits for it. Without a gate pages wait for
    /// nothing.
    ///
    /// # Errors
    /// When the volume does not exist.
    pub fn set_gate(&self, volume: VolumeId, gate: Option<Arc<Gate>>) -> Result<(), VolumeError> {
        if self.is_virtual(volume) {
            return Ok(()); // No page of it ever waits.
        }
        self.0.volume(volume)?.set_gate(gate);
        self.0.kick.notify_one();
        Ok(())
    }

    /// Notes a volume that has no units (promise T3): it has no pages, and is durable as it is. Nothing can be read from it
    /// or written to it here.
    pub fn add_virtual(&self, volume: VolumeId) {
        self.0.virtuals.write().unwrap_or_else(PoisonError::into_inner).insert(volume);
    }

    /// Whether the volume has no units.
    #[must_use]
    pub fn is_virtual(&self, volume: VolumeId) -> bool {
        self.0.virtuals.read().unwrap_or_else(PoisonError::into_inner).contains(&volume)
    }
}

impl Inner {
    fn volume(&self, id: VolumeId) -> Result<Arc<Volume>, VolumeError> {
        let volumes = self.volumes.read().unwrap_or_else(PoisonError::into_inner);
        volumes.get(&id).cloned().ok_or(VolumeError::Unknown { volume: id })
    }

    fn cell(&self, volume: VolumeId, extent: u32) -> &ShardCell {
        let mut hasher = KeyHasher::default();
        hasher.write_u32(volume.0);
        hasher.write_u32(extent);
        let index = usize::try_from(hasher.finish() >> 32).unwrap_or(0) % SHARDS;
        &self.shards[index]
    }

    fn cell_of(&self, key: Key) -> &ShardCell {
        self.cell(key.volume, key.extent())
    }

    /// Drops clean pages; called by the pool when somebody wants memory.
    fn reclaim(&self, wanted: usize) -> usize {
        let mut freed = 0;
        for _ in 0..SHARDS {
            if freed >= wanted {
                return freed;
            }
            let at = self.hand.fetch_add(1, Ordering::Relaxed) % SHARDS;
            let share = (wanted - freed).div_ceil(4).max(RECLAIM_SHARE_MIN).min(wanted - freed);
            let evicted = self.shards[at].lock().evict(share);
            freed += evicted.len();
        }
        if freed < wanted && self.totals.dirty.load(Ordering::Acquire) > 0 {
            self.press();
        }
        freed
    }

    /// Somebody waits until more is destaged.
    fn press(&self) {
        self.pressed.store(true, Ordering::Release);
        self.kick.notify_one();
        self.short.notify_waiters();
    }

    fn dirty_limit(&self, percent: u8) -> usize {
        self.pool.limit() * usize::from(percent.min(100)) / 100
    }
}

impl fmt::Debug for DiskAdapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DiskAdapter({} volumes)", self.0.volumes.read().map_or(0, |volumes| volumes.len()))
    }
}

/// Shards of the cache: many more than processors, so that two commands rarely meet in one.
const SHARDS: usize = 64;
/// Pages that eviction takes from a shard at least, while it is there.
const RECLAIM_SHARE_MIN: usize = 8;
