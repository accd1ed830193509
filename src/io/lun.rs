//! One volume under one LUN of one target: the device server's state beside the volume.

use super::volume::Volume;
use holdfast_scsi::{Access, LogicalUnit};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A LUN. Its lock is held for the time of one admission.
pub struct LunUnit {
    unit: Mutex<LogicalUnit>,
    /// The volume behind it.
    pub volume: Arc<Volume>,
    /// What hosts have done through it.
    pub counters: LunCounters,
}

/// Commands and bytes since the array started.
#[derive(Debug, Default)]
pub struct LunCounters {
    reads: AtomicU64,
    writes: AtomicU64,
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
}

impl LunCounters {
    pub(crate) fn read(&self, bytes: u64) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn wrote(&self, bytes: u64) {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.written_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Reads, writes, bytes read, bytes written.
    #[must_use]
    pub fn totals(&self) -> [u64; 4] {
        [&self.reads, &self.writes, &self.read_bytes, &self.written_bytes]
            .map(|counter| counter.load(Ordering::Relaxed))
    }
}

impl LunUnit {
    /// A unit in front of `volume`.
    #[must_use]
    pub fn new(unit: LogicalUnit, volume: Arc<Volume>) -> Self {
        Self { unit: Mutex::new(unit), volume, counters: LunCounters::default() }
    }

    /// The device server.
    pub fn unit(&self) -> MutexGuard<'_, LogicalUnit> {
        self.unit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether WRITE ATOMIC exists follows from what becomes of the volume's writes.
    pub fn refresh_atomic(&self) {
        let atomic = self.volume.writes_atomically();
        self.unit().set_atomic(atomic);
    }

    /// The volume has this size now; hosts are told if it is another one.
    pub fn resize(&self, bytes: u64) {
        let mut unit = self.unit();
        let block = u64::from(unit.geometry().block_size.bytes());
        unit.resize(bytes / block);
    }

    /// What hosts may do from now on.
    pub fn set_access(&self, access: Access) {
        let mut unit = self.unit();
        if unit.access() != access {
            unit.set_access(access);
        }
    }
}
