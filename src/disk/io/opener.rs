//! Who opens units by name, so that the array never touches a file system itself.

use super::plain::PlainEngine;
use super::ring::RingEngine;
use super::sim::{Latency, SimDisk};
use crate::clock::{BoxFuture, Clock, SeededEntropy};
use crate::disk::device::BlockDevice;
use crate::disk::slot::Piece;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is expected at the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Nothing: a file of this size is made, with its whole space behind it.
    Create {
        /// Its size; a multiple of a slot.
        size_bytes: u64,
    },
    /// Nothing: a file of this size is made that takes space as it is written.
    CreateSparse {
        /// Its size; a multiple of a slot.
        size_bytes: u64,
    },
    /// A unit, file or block device.
    Existing,
}

/// Opens units. Two implementations: files and block devices, and simulated disks.
pub trait UnitOpener: Send + Sync + fmt::Debug {
    /// Opens or creates the unit at `path`.
    fn open<'a>(
        &'a self,
        path: &'a str,
        mode: OpenMode,
    ) -> BoxFuture<'a, Result<Arc<dyn BlockDevice>, OpenUnitError>>;

    /// Memory that transfers will use for as long as the process runs, if it is of use to know that.
    fn lend(&self, _piece: Piece) {}
}

/// Why a unit could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenUnitError {
    /// Nothing at that path.
    #[error("{path}: there is no such file")]
    Missing {
        /// The path.
        path: String,
    },
    /// Something is at that path already.
    #[error("{path}: exists already; a unit is never made over an existing file")]
    Exists {
        /// The path.
        path: String,
    },
    /// Another process uses it.
    #[error("{path}: in use by another process")]
    InUse {
        /// The path.
        path: String,
    },
    /// The file system has not enough room for a thick unit.
    #[error("{path}: no room for {size_bytes} bytes: {reason}")]
    NoRoom {
        /// The path.
        path: String,
        /// The size asked for.
        size_bytes: u64,
        /// What the system said.
        reason: String,
    },
    /// Anything else.
    #[error("{path}: cannot be opened: {reason}")]
    Other {
        /// The path.
        path: String,
        /// What the system said.
        reason: String,
    },
}

/// How transfers to files and block devices are made.
#[derive(Clone, Debug)]
pub enum Engine {
    /// System calls on threads.
    Plain(PlainEngine),
    /// io_uring.
    Ring(RingEngine),
}

impl Engine {
    /// The ring where it works, otherwise the plain engine, with the reason for the log.
    ///
    /// # Errors
    /// The system has no more threads.
    pub fn best() -> std::io::Result<Self> {
        match RingEngine::start() {
            Ok(ring) => Ok(Self::Ring(ring)),
            Err(error) => {
                tracing::info!(%error, "no io_uring here: unit transfers use plain system calls");
                Self::plain()
            }
        }
    }

    /// The plain engine with its usual number of threads.
    ///
    /// # Errors
    /// The system has no more threads.
    pub fn plain() -> std::io::Result<Self> {
        PlainEngine::start(PLAIN_THREADS).map(Self::Plain)
    }

    /// The ring.
    ///
    /// # Errors
    /// It does not work here.
    pub fn ring() -> std::io::Result<Self> {
        RingEngine::start().map(Self::Ring)
    }
}

/// Opens files and block devices.
#[derive(Clone, Debug)]
pub struct FileOpener(Engine);

impl FileOpener {
    /// Opens through `engine`.
    #[must_use]
    pub fn new(engine: Engine) -> Self {
        Self(engine)
    }
}

impl UnitOpener for FileOpener {
    fn open<'a>(
        &'a self,
        path: &'a str,
        mode: OpenMode,
    ) -> BoxFuture<'a, Result<Arc<dyn BlockDevice>, OpenUnitError>> {
        match &self.0 {
            Engine::Plain(engine) => Box::pin(engine.open(path, mode)),
            Engine::Ring(engine) => Box::pin(engine.open(path, mode)),
        }
    }

    fn lend(&self, piece: Piece) {
        if let Engine::Ring(engine) = &self.0 {
            engine.lend(piece);
        }
    }
}

/// Opens simulated disks: a map from path to disk, which outlives the arrays that open them.
#[derive(Clone)]
pub struct SimOpener(Arc<SimShelf>);

struct SimShelf {
    latency: Latency,
    clock: Arc<dyn Clock>,
    seeds: SeededEntropy,
    disks: Mutex<BTreeMap<String, SimDisk>>,
}

impl SimOpener {
    /// No disks yet; each gets a seed drawn from `seed`.
    #[must_use]
    pub fn new(latency: Latency, seed: u64, clock: Arc<dyn Clock>) -> Self {
        let disks = Mutex::default();
        Self(Arc::new(SimShelf { latency, clock, seeds: SeededEntropy::new(seed), disks }))
    }

    /// Puts a disk at a path, in place of the one that was there.
    pub fn put(&self, path: &str, disk: SimDisk) {
        self.disks().insert(path.to_owned(), disk);
    }

    /// Takes the disk at a path away; who has it open keeps it.
    pub fn take(&self, path: &str) -> Option<SimDisk> {
        self.disks().remove(path)
    }

    /// The disk at a path.
    #[must_use]
    pub fn disk(&self, path: &str) -> Option<SimDisk> {
        self.disks().get(path).cloned()
    }

    /// The same disks once more, each a [fork](SimDisk::fork) of its own.
    #[must_use]
    pub fn fork(&self, seed: u64) -> Self {
        let fork = Self::new(self.0.latency, seed, Arc::clone(&self.0.clock));
        for (path, disk) in &*self.disks() {
            fork.put(path, disk.fork(fork.0.seeds.next_u64()));
        }
        fork
    }

    /// The same content on disks that take no time, to be looked at; none if one of them ever had a fault that may have left something
    /// behind.
    #[must_use]
    pub fn instant_copy(&self) -> Option<Self> {
        let copy = Self::new(self.0.latency, 0, Arc::clone(&self.0.clock));
        for (path, disk) in &*self.disks() {
            copy.put(path, disk.instant_copy()?);
        }
        Some(copy)
    }

    /// Power loss of all disks at once.
    pub fn crash(&self, entropy: &SeededEntropy) {
        self.disks().values().for_each(|disk| disk.crash(entropy));
    }

    /// The end of the process that uses all disks.
    pub fn kill(&self, entropy: &SeededEntropy) {
        self.disks().values().for_each(|disk| disk.kill(entropy));
    }

    fn disks(&self) -> MutexGuard<'_, BTreeMap<String, SimDisk>> {
        self.0.disks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_now(&self, path: &str, mode: OpenMode) -> Result<Arc<dyn BlockDevice>, OpenUnitError> {
        let mut disks = self.disks();
        let found = disks.get(path).cloned();
        let disk = match (mode, found) {
            (OpenMode::Existing, Some(disk)) => disk,
            (OpenMode::Existing, None) => return Err(OpenUnitError::Missing { path: path.to_owned() }),
            (_, Some(_)) => return Err(OpenUnitError::Exists { path: path.to_owned() }),
            (OpenMode::Create { size_bytes } | OpenMode::CreateSparse { size_bytes }, None) => {
                let seed = self.0.seeds.next_u64();
                let disk = SimDisk::new(path, size_bytes, self.0.latency, seed, Arc::clone(&self.0.clock));
                disks.insert(path.to_owned(), disk.clone());
                disk
            }
        };
        Ok(Arc::new(disk.tenant())) // Whoever opens it loses it with the next crash or kill.
    }
}

impl UnitOpener for SimOpener {
    fn open<'a>(
        &'a self,
        path: &'a str,
        mode: OpenMode,
    ) -> BoxFuture<'a, Result<Arc<dyn BlockDevice>, OpenUnitError>> {
        Box::pin(std::future::ready(self.open_now(path, mode)))
    }
}

impl fmt::Debug for SimOpener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimOpener({} disks)", self.disks().len())
    }
}

/// Threads of the plain engine: transfers at once. More than the units of a usual group, fewer than would crowd out
/// the rest of a small machine; they sleep when there is nothing to do.
const PLAIN_THREADS: usize = 8;
