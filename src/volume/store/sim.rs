//! Simulated storage for the control store: what is written but not synced may be lost, kept or torn by a power cut.

use redb::StorageBackend;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Storage in memory. Clones share it, as two opens of one file do.
#[derive(Clone, Default)]
pub struct SimStorage {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    durable: Vec<u8>,
    current: Vec<u8>,
    unsynced: Vec<Change>,
    changes_left: Option<u64>,
    syncs: u64,
}

#[derive(Clone)]
enum Change {
    Length(usize),
    Write(usize, Vec<u8>),
}

impl SimStorage {
    /// Empty storage.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What a machine finds after its power was cut now: of every write that was not synced each sector is there or
    /// not, as `seed` says. The storage itself stays as it is, so that one run can be cut in many ways.
    #[must_use]
    pub fn crash(&self, seed: u64) -> Self {
        let state = self.state();
        let mut dice = Dice(seed);
        let mut found = state.durable.clone();
        for change in &state.unsynced {
            match change {
                Change::Length(length) if dice.is_kept() => found.resize(*length, 0),
                Change::Length(_) => {}
                Change::Write(offset, bytes) => tear(&mut found, *offset, bytes, &mut dice),
            }
        }
        let state = State { durable: found.clone(), current: found, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// What the next process finds after this one was killed: everything that was written, synced or not. What is left
    /// of the killed one keeps the storage that it had, and touches this one no more.
    #[must_use]
    pub fn kill(&self) -> Self {
        let State { durable, current, unsynced, .. } = &*self.state();
        let state = State {
            durable: durable.clone(),
            current: current.clone(),
            unsynced: unsynced.clone(),
            ..State::default()
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Lets `count` more writes and syncs succeed and fails all later ones.
    pub fn fail_after(&self, count: u64) {
        self.state().changes_left = Some(count);
    }

    /// How often it has been synced.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SimStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimStorage({} bytes)", self.state().current.len())
    }
}

impl State {
    fn spend(&mut self) -> io::Result<()> {
        match &mut self.changes_left {
            Some(0) => Err(io::Error::other("simulated device failure")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl StorageBackend for SimStorage {
    fn len(&self) -> io::Result<u64> {
        u64::try_from(self.state().current.len()).map_err(io::Error::other)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let range = start..start.saturating_add(out.len());
        let bytes = state.current.get(range).ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut state = self.state();
        state.spend()?;
        let length = usize::try_from(length).map_err(io::Error::other)?;
        state.current.resize(length, 0);
        state.unsynced.push(Change::Length(length));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state();
        state.spend()?;
        let State { durable, unsynced, .. } = &mut *state;
        for change in unsynced.drain(..) {
            match change {
                Change::Length(length) => durable.resize(length, 0),
                Change::Write(offset, bytes) => put(durable, offset, &bytes),
            }
        }
        state.syncs += 1;
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        state.spend()?;
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        put(&mut state.current, start, data);
        state.unsynced.push(Change::Write(start, data.to_vec()));
        Ok(())
    }
}

fn put(into: &mut Vec<u8>, start: usize, data: &[u8]) {
    let end = start.saturating_add(data.len());
    if into.len() < end {
        into.resize(end, 0);
    }
    if let Some(place) = into.get_mut(start..end) {
        place.copy_from_slice(data);
    }
}

fn tear(found: &mut Vec<u8>, offset: usize, bytes: &[u8], dice: &mut Dice) {
    // A third of the writes is there, a third is not, a third is torn: whole losses matter as much as torn ones.
    let fate = dice.next() % 3;
    for (index, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
        let is_there = match fate {
            0 => true,
            1 => false,
            _ => dice.is_kept(),
        };
        if is_there {
            put(found, offset.saturating_add(index * SECTOR_BYTES), sector);
        }
    }
}

/// A small generator: the same seed cuts the same way.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mixed = self.0 ^ (self.0 >> 33);
        mixed.wrapping_mul(0xff51_afd7_ed55_8ccd) >> 17
    }

    fn is_kept(&mut self) -> bool {
        self.next().is_multiple_of(2)
    }
}

/// What a device writes whole or not at all.
const SECTOR_BYTES: usize = 512;
