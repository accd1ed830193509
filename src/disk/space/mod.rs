//! The extents of the volumes of one parity group: the map in memory, its log on the units, and the order of writes
//! between data and log (`docs/architecture.md`, invariants 12 and 13).
//!
//! **Order at a destage**: data, flush, the map's log blocks, flush. A crash before the last flush leaves the pages as
//! they were: a page becomes readable by a durable statement about bytes that were durable before. Pages overwritten
//! in place need no statement, so in the steady state a destage is data and one flush.
//!
//! Flushes and appends to the log are shared: whoever comes while one is under way waits for the next one, which
//! serves all that came until it began.

pub(crate) mod bits;
mod digests;
mod family;
mod free;
mod log;
pub mod map;
mod record;
mod replay;
pub(crate) mod share;
mod statements;
mod tree;
mod unit;

#[cfg(test)]
mod map_tests;
#[cfg(test)]
mod tests;

use super::VolumeError;
use super::raid::Run;
use super::raid::group::ParityGroup;
use super::slot::{SlotMut, SlotPool};
use log::Log;
use map::{Map, MapRefusal, VolumeId};
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use unit::Layout;

/// A parity group with its map.
pub(crate) struct Space {
    io: GroupIo,
    layout: Layout,
    map: RwLock<Map>,
    log: tokio::sync::Mutex<Log>,
    commits: Shared,
}

/// The parity group and what is needed to use it.
pub(crate) struct GroupIo {
    group: ParityGroup,
    pub(crate) pool: SlotPool,
    name: String,
    flushes: Shared,
    opening: Opening,
}

impl GroupIo {
    async fn read(&self, offset_bytes: u64, into: Vec<SlotMut>) -> Result<Vec<SlotMut>, VolumeError> {
        Ok(self.group.read(offset_bytes, into).await?)
    }

    async fn write(&self, runs: Vec<Run>) -> Result<(), VolumeError> {
        self.group.write(runs).await.map_err(|error| self.blame(error.into()))
    }

    /// Makes every write durable that had completed before the call.
    async fn flush(&self) -> Result<(), VolumeError> {
        self.flushes.run(async || Ok(self.group.flush().await?)).await
    }

    fn damaged(&self, what: String) -> VolumeError {
        VolumeError::MapDamaged { group: self.name.clone(), what }
    }

    fn blame(&self, error: VolumeError) -> VolumeError {
        match error {
            VolumeError::Disk(disk) if disk.is_no_space() => {
                VolumeError::NoSpace { group: self.name.clone() }
            }
            other => other,
        }
    }
}

/// Who opens a parity group: what he may not have forgotten. The map of a parity group says how often the control store of its array had
/// been opened; a store that has been opened less often is an older copy of it, which knows neither volumes nor roles of since.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Opening {
    /// How often the control store has been opened, this time included; 0: nobody counts.
    pub count: u64,
    /// The newer store is lost: an older one is taken.
    pub takes_older: bool,
}

/// Whether a parity group's map is read or made anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapStart {
    /// Read it; where nothing was ever written, make an empty one.
    Recover,
    /// Read it, and write nothing: only for who looks.
    Look,
    /// Make an empty one, whatever is there: for a parity group that was created just now on used units.
    Format,
}

/// Whether a parity group has a map already.
///
/// # Errors
/// It has one that cannot be believed.
pub(crate) async fn has_map(group: &ParityGroup, pool: &SlotPool) -> Result<bool, VolumeError> {
    let state = group.state();
    let io = GroupIo {
        group: group.clone(),
        pool: pool.clone(),
        name: state.name,
        flushes: Shared::default(),
        opening: Opening::default(),
    };
    let Some(layout) = Layout::of(io.group.capacity_bytes()) else { return Ok(false) };
    Ok(Log::recover(&io, layout, state.identity.0).await?.is_some())
}

impl Space {
    /// Opens the map of a parity group. Always ends with a new half of the log, which says how often the control store has been opened.
    pub(crate) async fn open(
        group: ParityGroup,
        pool: SlotPool,
        start: MapStart,
        opening: Opening,
    ) -> Result<Self, VolumeError> {
        let state = group.state();
        let identity = state.identity.0;
        let io = GroupIo { group, pool, name: state.name, flushes: Shared::default(), opening };
        let capacity_bytes = io.group.capacity_bytes();
        let layout = Layout::of(capacity_bytes)
            .ok_or_else(|| VolumeError::TooSmall { group: io.name.clone(), capacity_bytes })?;
        let found = match start {
            MapStart::Recover | MapStart::Look => Log::recover(&io, layout, identity).await?,
            MapStart::Format => None,
        };
        let (log, map) = match found {
            Some((log, map)) if start == MapStart::Look => (log, RwLock::new(map)),
            Some((mut log, map)) => {
                let map = RwLock::new(map);
                log.switch(&io, &map).await?;
                (log, map)
            }
            None if start == MapStart::Look => {
                return Err(io.damaged("its map log was never made".to_owned()));
            }
            None => (Log::format(&io, layout, identity).await?, RwLock::new(Map::new(layout.extents))),
        };
        Ok(Self { io, layout, map, log: tokio::sync::Mutex::new(log), commits: Shared::default() })
    }

    /// Places of the map's log, as it was when it was opened, of which one copy is damaged: the other one was believed.
    pub(crate) async fn weak_places(&self) -> Vec<u64> {
        self.log.lock().await.weak_places().to_vec()
    }

    /// Whether a unit of the parity group is out.
    pub(crate) fn is_degraded(&self) -> bool {
        self.io.group.state().degraded
    }

    /// The map, to look at. Never held across a wait.
    pub(crate) fn map(&self) -> RwLockReadGuard<'_, Map> {
        self.map.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The map, to change. Never held across a wait.
    pub(crate) fn map_mut(&self) -> RwLockWriteGuard<'_, Map> {
        self.map.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn name(&self) -> &str {
        &self.io.name
    }

    /// Extents of the parity group.
    pub(crate) fn extents(&self) -> u32 {
        self.layout.extents
    }

    /// Where a page of an extent of the group lies.
    pub(crate) fn page_bytes(&self, physical: u32, page: u64) -> u64 {
        self.layout.page_bytes(physical, page)
    }

    pub(crate) async fn read(
        &self,
        offset_bytes: u64,
        into: Vec<SlotMut>,
    ) -> Result<Vec<SlotMut>, VolumeError> {
        self.io.read(offset_bytes, into).await
    }

    pub(crate) async fn write(&self, runs: Vec<Run>) -> Result<(), VolumeError> {
        self.io.write(runs).await
    }

    pub(crate) async fn flush(&self) -> Result<(), VolumeError> {
        self.io.flush().await
    }

    /// Makes every change of the map durable that was made before the call. What they gave up is free afterwards.
    pub(crate) async fn commit(&self) -> Result<(), VolumeError> {
        self.commits
            .run(async || {
                let mut log = self.log.lock().await;
                let taken = self.map_mut().take_changes();
                let mut taken = Taken { space: self, changes: Some(taken) };
                let records =
                    taken.changes.as_ref().map(|changes| changes.records.clone()).unwrap_or_default();
                if records.is_empty() {
                    taken.durable();
                    return Ok(());
                }
                log.append(&self.io, &records, &self.map).await?;
                taken.durable();
                Ok(())
            })
            .await
    }

    /// One step of giving back the extents of volumes that are gone; false when there are none.
    pub(crate) fn reap(&self) -> bool {
        self.map_mut().reap(map::REAP_EXTENTS)
    }

    pub(crate) fn refusal(&self, volume: VolumeId, refusal: MapRefusal) -> VolumeError {
        match refusal {
            MapRefusal::NoSpace => VolumeError::NoSpace { group: self.io.name.clone() },
            MapRefusal::Exists => VolumeError::Exists { volume },
            MapRefusal::TooMany => VolumeError::TooManyVolumes { group: self.io.name.clone() },
            MapRefusal::Unknown => VolumeError::Unknown { volume },
            MapRefusal::Kind => VolumeError::Kind { volume },
            MapRefusal::TooManyDifferences => VolumeError::MapFull { group: self.io.name.clone() },
        }
    }

    #[cfg(test)]
    pub(crate) async fn log_generation(&self) -> u64 {
        self.log.lock().await.generation()
    }
}

impl fmt::Debug for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Space({})", self.io.name)
    }
}

/// Changes on their way: they go back to the map unless they become durable, also when the caller goes away.
struct Taken<'a> {
    space: &'a Space,
    changes: Option<statements::TakenChanges>,
}

impl Taken<'_> {
    fn durable(&mut self) {
        if let Some(changes) = self.changes.take() {
            self.space.map_mut().changes_are_durable(changes);
        }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(changes) = self.changes.take() {
            self.space.map_mut().changes_failed(changes);
        }
    }
}

/// One action at a time that serves everybody who came before it began.
struct Shared {
    arrivals: AtomicU64,
    last: tokio::sync::Mutex<(u64, Result<(), VolumeError>)>,
}

impl Default for Shared {
    fn default() -> Self {
        Self { arrivals: AtomicU64::new(0), last: tokio::sync::Mutex::new((0, Ok(()))) }
    }
}

impl Shared {
    async fn run<F>(&self, action: impl FnOnce() -> F) -> Result<(), VolumeError>
    where
        F: Future<Output = Result<(), VolumeError>>,
    {
        let mine = self.arrivals.fetch_add(1, Ordering::AcqRel) + 1;
        let mut last = self.last.lock().await;
        if last.0 >= mine {
            return last.1.clone();
        }
        let covers = self.arrivals.load(Ordering::Acquire);
        let result = action().await;
        *last = (covers, result.clone());
        result
    }
}
