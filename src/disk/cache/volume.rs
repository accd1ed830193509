//! A volume while the array runs.

use super::destage::Request;
use super::gate::Gate;
use super::pieces::Span;
use crate::clock::MonotonicNs;
use crate::disk::VolumeError;
use crate::disk::slot::SLOT_BYTES;
use crate::disk::space::Space;
use crate::disk::space::map::{VolumeId, VolumeKind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// A parity group, by number; unique in the array.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct ParityGroupId(pub u32);

/// What a volume is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VolumeSpec {
    /// Its number.
    pub id: VolumeId,
    /// Where it lives.
    pub parity_group: ParityGroupId,
    /// Its size: a multiple of 4096.
    pub size_bytes: u64,
    /// How it uses the parity group.
    pub kind: VolumeKind,
}

/// A volume with everything that belongs to it alone.
#[derive(Debug)]
pub(super) struct Volume {
    /// What it is; its size is that at the start, [`Volume::size_bytes`] the one now.
    pub(super) spec: VolumeSpec,
    size_bytes: AtomicU64,
    pub(super) space: Arc<Space>,
    gate: Mutex<Option<Arc<Gate>>>,
    /// Somebody set another gate, or the volume is gone.
    pub(super) gate_changed: Notify,
    /// Who waits for a destage of what.
    pub(super) requests: Mutex<Vec<Arc<Request>>>,
    /// One destage of a volume at a time: so no page is on its way twice.
    pub(super) pass: Arc<tokio::sync::Mutex<()>>,
    /// How many want to hold its destage back: a pass gives way to them between two batches.
    wanted: AtomicUsize,
    /// Held shared by users of a journal volume, alone by who deletes it.
    pub(super) raw_use: tokio::sync::RwLock<()>,
    gone: AtomicBool,
    /// It may have extents that others have too.
    shares: AtomicBool,
    trouble: Mutex<Option<VolumeError>>,
    /// Not destaged by itself before this time, because it failed lately.
    paused_until: AtomicU64,
}

impl Volume {
    pub(super) fn new(spec: VolumeSpec, space: Arc<Space>) -> Self {
        Self {
            spec,
            size_bytes: AtomicU64::new(spec.size_bytes),
            space,
            gate: Mutex::new(None),
            gate_changed: Notify::new(),
            requests: Mutex::new(Vec::new()),
            pass: Arc::default(),
            wanted: AtomicUsize::new(0),
            raw_use: tokio::sync::RwLock::new(()),
            gone: AtomicBool::new(false),
            shares: AtomicBool::new(false),
            trouble: Mutex::new(None),
            paused_until: AtomicU64::new(0),
        }
    }

    pub(super) fn id(&self) -> VolumeId {
        self.spec.id
    }

    /// The range if it lies in the volume and the volume goes through the cache.
    pub(super) fn span(&self, offset_bytes: u64, length: u64) -> Result<Span, VolumeError> {
        if self.spec.kind == VolumeKind::Journal {
            return Err(VolumeError::Kind { volume: self.id() });
        }
        self.range(offset_bytes, length)
    }

    /// The range if it lies in the volume.
    pub(super) fn range(&self, offset_bytes: u64, length: u64) -> Result<Span, VolumeError> {
        match offset_bytes.checked_add(length) {
            Some(end) if end <= self.size_bytes() => Ok(Span { offset_bytes, length }),
            _ => Err(VolumeError::Range { volume: self.id(), offset_bytes, length_bytes: length }),
        }
    }

    pub(super) fn pages(&self) -> u64 {
        self.size_bytes() / SLOT_BYTES as u64
    }

    /// Its size now.
    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::Acquire)
    }

    /// It is larger from now on: the map of its parity group says so durably.
    pub(super) fn set_size(&self, size_bytes: u64) {
        self.size_bytes.fetch_max(size_bytes, Ordering::AcqRel);
    }

    pub(super) fn gate(&self) -> Option<Arc<Gate>> {
        lock(&self.gate).clone()
    }

    pub(super) fn set_gate(&self, gate: Option<Arc<Gate>>) {
        *lock(&self.gate) = gate;
        self.gate_changed.notify_waiters();
    }

    /// Whether a page that carries this update may be destaged.
    pub(super) fn is_open(&self, number: u64) -> bool {
        number == 0 || lock(&self.gate).as_ref().is_none_or(|gate| gate.durable() >= number)
    }

    /// Waits until pages that carry this update may be destaged.
    pub(super) async fn wait_open(&self, number: u64) {
        loop {
            let changed = self.gate_changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let Some(gate) = self.gate() else { return };
            if number == 0 || self.is_gone() {
                return;
            }
            tokio::select! {
                biased;
                () = gate.wait(number) => return,
                () = &mut changed => {}
            }
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    pub(super) fn set_gone(&self) {
        self.gone.store(true, Ordering::Release);
        self.gate_changed.notify_waiters();
    }

    /// Whether a page that is on the units may need another extent to be written.
    pub(super) fn may_share(&self) -> bool {
        self.shares.load(Ordering::Relaxed)
    }

    /// Whether an extent has to move before it is written, because others have it too.
    pub(super) fn will_move(&self, extent: u32) -> bool {
        if !self.may_share() {
            return false;
        }
        let map = self.space.map();
        map.extent(self.id(), extent).is_some_and(|extent| map.is_shared(extent.physical))
    }

    pub(super) fn set_may_share(&self) {
        self.shares.store(true, Ordering::Relaxed);
    }

    /// A pass gives way as long as this is there.
    pub(super) fn want(&self) -> Wanted<'_> {
        self.wanted.fetch_add(1, Ordering::AcqRel);
        Wanted(&self.wanted)
    }

    /// Whether a pass shall give way.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire) > 0
    }

    pub(super) fn check_there(&self) -> Result<(), VolumeError> {
        if self.is_gone() { Err(VolumeError::Unknown { volume: self.id() }) } else { Ok(()) }
    }

    pub(super) fn pause_until(&self, time: MonotonicNs) {
        self.paused_until.store(time.0, Ordering::Release);
    }

    pub(super) fn paused_until(&self) -> MonotonicNs {
        MonotonicNs(self.paused_until.load(Ordering::Acquire))
    }

    /// Why the last destage failed, if it did.
    pub(super) fn trouble(&self) -> Option<VolumeError> {
        lock(&self.trouble).clone()
    }

    pub(super) fn set_trouble(&self, trouble: Option<VolumeError>) {
        let mut now = lock(&self.trouble);
        match (&*now, &trouble) {
            (None, Some(error)) => {
                tracing::warn!(volume = self.id().0, %error, "destage fails; pages stay dirty")
            }
            (Some(_), None) => tracing::info!(volume = self.id().0, "destage works again"),
            _ => {}
        }
        *now = trouble;
    }
}

/// Somebody waits for the turn of a volume.
pub(super) struct Wanted<'a>(&'a AtomicUsize);

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A lock that survives a panic of another task: what it guards is changed in single steps.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
