//! A disk in memory, for tests and simulated arrays: every fault of a disk on demand, every power loss from a seed.
//!
//! Per slot it keeps what is durable and the list of the versions written since. A power loss ([`SimDisk::crash`])
//! picks for every 512-byte sector on its own one of these, the durable one included: so writes are lost, torn and
//! reordered in every way that a disk with a volatile cache may. A flush covers the writes that had completed when it
//! began. An operation completes on the thread that polls it, after a delay drawn from the seed.
//!
//! The handle is shared: a disk outlives the array that used it, so that a killed array is opened on it again.
//! Operations in flight at a crash end with [`DeviceError::Gone`] when they are polled again.

use crate::clock::{BoxFuture, Clock, SeededEntropy};
use crate::disk::device::{BlockDevice, DeviceError};
use crate::disk::slot::{SLOT_BYTES, Slot, SlotMut};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The unit of a torn write.
pub const SECTOR_BYTES: usize = 512;

/// A simulated disk. Cloning gives another handle to the same disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Inner>, Tenancy);

/// For how long a handle may use the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tenancy {
    /// Whatever happens to the disk.
    Always,
    /// Until the next crash or kill: the handle of a process that is gone by then.
    Life(u64),
}

/// How long operations take: evenly drawn between the two; nothing is waited for when `longest` is zero.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latency {
    /// The quickest operation.
    pub shortest: Duration,
    /// The slowest operation.
    pub longest: Duration,
}

/// A fault to inject. `Next*` faults are used up one after the other by operations of that kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The next read reports a medium error.
    NextRead,
    /// The next write reports an error and writes nothing.
    NextWrite,
    /// The next write finds no room and writes nothing.
    NextWriteNoSpace,
    /// The next write reports success and writes nothing.
    NextWriteLost,
    /// The next write goes to this offset instead.
    NextWriteTo(u64),
    /// The next flush fails, unflushed writes are kept or dropped by chance, and the disk is gone until a crash.
    NextFlush,
    /// Flushes report success and make nothing durable until [`SimDisk::heal`].
    FlushesLie,
    /// Slots that cannot be read until they are written again, by offset.
    BadSlot(u64),
    /// Writes find no room until [`SimDisk::heal`].
    NoSpace,
    /// Every operation fails until [`SimDisk::heal`].
    Gone,
    /// Every operation takes this much longer until [`SimDisk::heal`].
    Slow(Duration),
    /// One bit of the byte at this offset is inverted, in everything the disk holds of it.
    Flip(u64),
}

/// Operations since the disk was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reads begun.
    pub reads: u64,
    /// Writes begun.
    pub writes: u64,
    /// Flushes begun.
    pub flushes: u64,
}

struct Inner {
    name: String,
    length_bytes: u64,
    latency: Latency,
    clock: Arc<dyn Clock>,
    entropy: SeededEntropy,
    state: Mutex<State>,
}

/// Shared between a disk and its forks; whoever changes it makes it its own.
type Bytes = Arc<[u8; SLOT_BYTES]>;

#[derive(Clone)]
struct Version {
    bytes: Bytes,
    write: u64,
    completed: bool,
}

#[derive(Default)]
struct State {
    durable: BTreeMap<u64, Bytes>,
    pending: BTreeMap<u64, VecDeque<Version>>,
    /// Raised by a crash: who began before it learns that the disk was gone.
    life: u64,
    next_write: u64,
    next_read_faults: VecDeque<Fault>,
    next_write_faults: VecDeque<Fault>,
    next_flush_faults: VecDeque<Fault>,
    bad_slots: BTreeSet<u64>,
    no_space: bool,
    flushes_lie: bool,
    gone: Option<String>,
    slow: Duration,
    /// A fault may have left something that no healthy disk would: for good.
    was_faulty: bool,
    counts: Counts,
}

impl SimDisk {
    /// A disk of zeros. The same `seed` gives the same delays.
    #[must_use]
    pub fn new(name: &str, length_bytes: u64, latency: Latency, seed: u64, clock: Arc<dyn Clock>) -> Self {
        let inner = Inner {
            name: name.to_owned(),
            length_bytes,
            latency,
            clock,
            entropy: SeededEntropy::new(seed),
            state: Mutex::default(),
        };
        Self(Arc::new(inner), Tenancy::Always)
    }

    /// A handle for one process: after the next crash or kill each of its operations fails with
    /// [`DeviceError::Gone`] and does nothing. So what is left of a killed array in this process cannot touch the disk
    /// that the next one runs on.
    #[must_use]
    pub fn tenant(&self) -> Self {
        let life = self.state().life;
        Self(Arc::clone(&self.0), Tenancy::Life(life))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Injects a fault.
    pub fn inject(&self, fault: Fault) {
        let mut state = self.state();
        state.was_faulty |= !matches!(fault, Fault::Slow(_));
        match fault {
            Fault::NextRead => state.next_read_faults.push_back(fault),
            Fault::NextFlush => state.next_flush_faults.push_back(fault),
            Fault::NextWrite | Fault::NextWriteNoSpace | Fault::NextWriteLost | Fault::NextWriteTo(_) => {
                state.next_write_faults.push_back(fault);
            }
            Fault::BadSlot(offset_bytes) => {
                state.bad_slots.insert(offset_bytes / SLOT_BYTES as u64);
            }
            Fault::NoSpace => state.no_space = true,
            Fault::FlushesLie => state.flushes_lie = true,
            Fault::Gone => state.gone = Some("unplugged".to_owned()),
            Fault::Slow(by) => state.slow = by,
            Fault::Flip(offset_bytes) => state.flip(offset_bytes),
        }
    }

    /// Ends every fault but the damage already done to content.
    pub fn heal(&self) {
        let mut state = self.state();
        state.no_space = false;
        state.flushes_lie = false;
        state.gone = None;
        state.slow = Duration::ZERO;
        state.bad_slots.clear();
        state.next_read_faults.clear();
        state.next_write_faults.clear();
        state.next_flush_faults.clear();
    }

    /// Power loss: of every sector written since the last flush one version survives, chosen by `entropy`. Everything
    /// in flight is gone. The disk is usable again afterwards, whatever had failed it.
    pub fn crash(&self, entropy: &SeededEntropy) {
        let mut state = self.state();
        // The extremes are rare among random subsets, yet they are where most mistakes hide.
        let manner = entropy.below(5);
        let pending = std::mem::take(&mut state.pending);
        for (slot, versions) in pending {
            state.settle(slot, &versions, manner, entropy);
        }
        state.begin_life();
    }

    /// The process ends but the machine does not: completed writes stay as they are, those in flight have happened or
    /// not by chance. The disk is usable again afterwards.
    pub fn kill(&self, entropy: &SeededEntropy) {
        let mut state = self.state();
        for versions in state.pending.values_mut() {
            versions.retain_mut(|version| version.completed || entropy.below(2) == 0);
            versions.iter_mut().for_each(|version| version.completed = true);
        }
        state.pending.retain(|_, versions| !versions.is_empty());
        state.begin_life();
    }

    /// What a reader would see now, without time or faults: for tests that look behind the array's back.
    #[must_use]
    pub fn peek(&self, offset_bytes: u64) -> [u8; SLOT_BYTES] {
        let mut bytes = [0; SLOT_BYTES];
        self.state().copy_out(offset_bytes / SLOT_BYTES as u64, &mut bytes);
        bytes
    }

    /// Replaces the slot, durably and unseen: for tests that damage content.
    pub fn poke(&self, offset_bytes: u64, bytes: &[u8; SLOT_BYTES]) {
        let mut state = self.state();
        state.was_faulty = true;
        let slot = offset_bytes / SLOT_BYTES as u64;
        state.pending.remove(&slot);
        state.durable.insert(slot, Arc::new(*bytes));
    }

    /// A disk with the same content under another name, as a copying operator would make.
    #[must_use]
    pub fn duplicate(&self, name: &str, length_bytes: u64) -> Self {
        let copy = Self::new(name, length_bytes, self.0.latency, 0, Arc::clone(&self.0.clock));
        let (mine, mut theirs) = (self.state(), copy.state());
        let slots: BTreeSet<u64> = mine.durable.keys().chain(mine.pending.keys()).copied().collect();
        for slot in slots.into_iter().filter(|slot| *slot < length_bytes / SLOT_BYTES as u64) {
            let mut bytes = [0; SLOT_BYTES];
            mine.copy_out(slot, &mut bytes);
            theirs.durable.insert(slot, Arc::new(bytes));
        }
        drop((mine, theirs));
        copy
    }

    /// A disk of its own that is in every respect where this one is now, what is not flushed included: what a machine
    /// would find if it stopped here, while this one goes on.
    #[must_use]
    pub fn fork(&self, seed: u64) -> Self {
        let copy =
            Self::new(&self.0.name, self.0.length_bytes, self.0.latency, seed, Arc::clone(&self.0.clock));
        let (mine, mut theirs) = (self.state(), copy.state());
        theirs.durable.clone_from(&mine.durable);
        theirs.pending.clone_from(&mine.pending);
        theirs.next_write = mine.next_write;
        drop((mine, theirs));
        copy
    }

    /// The same content on a disk of its own that takes no time and has no faults; none if this one ever had a fault that may have
    /// left something behind.
    #[must_use]
    pub fn instant_copy(&self) -> Option<Self> {
        let latency = Latency { shortest: Duration::ZERO, longest: Duration::ZERO };
        let copy = Self::new(&self.0.name, self.0.length_bytes, latency, 0, Arc::clone(&self.0.clock));
        let (mine, mut theirs) = (self.state(), copy.state());
        theirs.durable.clone_from(&mine.durable);
        theirs.pending.clone_from(&mine.pending);
        let was_faulty = mine.was_faulty;
        drop((mine, theirs));
        (!was_faulty).then_some(copy)
    }

    /// Operations so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life in which an operation of this handle begins, and whether the disk is still in it.
    fn begin(&self, state: &State) -> Result<u64, DeviceError> {
        match self.1 {
            Tenancy::Life(life) if life != state.life => {
                Err(DeviceError::Gone { unit: self.0.name.clone(), reason: "its user was killed".to_owned() })
            }
            Tenancy::Always | Tenancy::Life(_) => Ok(state.life),
        }
    }

    /// Waits as long as the operation takes; an error when the disk was gone before or went meanwhile.
    async fn take_time(&self, life: u64) -> Result<(), DeviceError> {
        let (latency, slow) = (self.0.latency, self.state().slow);
        let spread =
            u64::try_from((latency.longest.saturating_sub(latency.shortest)).as_nanos()).unwrap_or(u64::MAX);
        if !latency.longest.is_zero() || !slow.is_zero() {
            let drawn = Duration::from_nanos(self.0.entropy.below(spread.saturating_add(1)));
            self.0.clock.sleep(latency.shortest + drawn + slow).await;
        }
        self.present(life).map(drop)
    }

    /// The state, when the disk is there and still in the life in which the operation began.
    fn present(&self, life: u64) -> Result<MutexGuard<'_, State>, DeviceError> {
        let state = self.state();
        let reason = if state.life == life { state.gone.clone() } else { Some("power was lost".to_owned()) };
        match reason {
            None => Ok(state),
            Some(reason) => Err(DeviceError::Gone { unit: self.0.name.clone(), reason }),
        }
    }

    fn range(&self, offset_bytes: u64, slots: usize) -> Result<u64, String> {
        let length_bytes = (slots * SLOT_BYTES) as u64;
        let end = offset_bytes.checked_add(length_bytes);
        if !offset_bytes.is_multiple_of(SLOT_BYTES as u64) || end.is_none_or(|end| end > self.0.length_bytes)
        {
            return Err(format!("{length_bytes} bytes at {offset_bytes} are not slots of this disk"));
        }
        Ok(offset_bytes / SLOT_BYTES as u64)
    }

    async fn read_slots(
        &self,
        offset_bytes: u64,
        mut into: Vec<SlotMut>,
    ) -> Result<Vec<SlotMut>, DeviceError> {
        let failed = |reason: String, slots: usize| DeviceError::Read {
            unit: self.0.name.clone(),
            offset_bytes,
            length_bytes: (slots * SLOT_BYTES) as u64,
            reason,
        };
        let first = self.range(offset_bytes, into.len()).map_err(|reason| failed(reason, into.len()))?;
        let (life, fault) = {
            let mut state = self.state();
            let life = self.begin(&state)?;
            state.counts.reads += 1;
            (life, state.next_read_faults.pop_front())
        };
        self.take_time(life).await?;
        let state = self.present(life)?;
        let last = first + into.len() as u64;
        if fault.is_some() || state.bad_slots.range(first..last).next().is_some() {
            return Err(failed("medium error".to_owned(), into.len()));
        }
        for (slot, bytes) in (first..).zip(&mut into) {
            state.copy_out(slot, bytes);
        }
        Ok(into)
    }

    async fn write_slots(&self, offset_bytes: u64, from: Vec<Slot>) -> Result<(), DeviceError> {
        let failed = |reason: String| DeviceError::Write { unit: self.0.name.clone(), offset_bytes, reason };
        let mut first = self.range(offset_bytes, from.len()).map_err(failed)?;
        let no_space = || DeviceError::NoSpace { unit: self.0.name.clone() };
        let (life, write, lost) = {
            let mut state = self.state();
            let life = self.begin(&state)?;
            state.counts.writes += 1;
            let write = state.next_write;
            state.next_write += 1;
            let mut lost = state.gone.is_some();
            match state.next_write_faults.pop_front() {
                Some(Fault::NextWriteNoSpace) => return Err(no_space()),
                Some(Fault::NextWriteLost) => lost = true,
                Some(Fault::NextWriteTo(offset_bytes)) => {
                    first = self.range(offset_bytes, from.len()).map_err(failed)?;
                }
                Some(_) => return Err(failed("write error".to_owned())),
                None if state.no_space => return Err(no_space()),
                None => {}
            }
            (life, write, lost)
        };
        // In flight from here on: a crash during the delay may find any part of it on the disk.
        if !lost {
            self.state().begin_write(first, &from, write);
        }
        self.take_time(life).await?;
        self.present(life)?.complete_write(first, from.len(), write);
        Ok(())
    }

    async fn flush_all(&self) -> Result<(), DeviceError> {
        let (life, covers, fault) = {
            let mut state = self.state();
            let life = self.begin(&state)?;
            state.counts.flushes += 1;
            let covers: BTreeMap<u64, u64> = state
                .pending
                .iter()
                .filter_map(|(slot, versions)| {
                    Some((*slot, versions.iter().rev().find(|version| version.completed)?.write))
                })
                .collect();
            (life, covers, state.next_flush_faults.pop_front())
        };
        self.take_time(life).await?;
        let mut state = self.present(life)?;
        if fault.is_some() {
            state.pending.retain(|_, _| self.0.entropy.below(2) == 0);
            let reason = "flush error".to_owned();
            state.gone = Some("a flush failed".to_owned());
            return Err(DeviceError::Flush { unit: self.0.name.clone(), reason });
        }
        if state.flushes_lie {
            return Ok(());
        }
        for (slot, write) in covers {
            state.make_durable(slot, write);
        }
        Ok(())
    }
}

impl State {
    fn copy_out(&self, slot: u64, into: &mut [u8; SLOT_BYTES]) {
        let newest = self.pending.get(&slot).and_then(VecDeque::back).map(|version| &version.bytes);
        match newest.or_else(|| self.durable.get(&slot)) {
            Some(bytes) => into.copy_from_slice(&bytes[..]),
            None => into.fill(0),
        }
    }

    fn begin_write(&mut self, first: u64, from: &[Slot], write: u64) {
        // A page that is written to many places, zeros mostly, is kept once.
        let mut last: Option<(*const u8, Arc<[u8; SLOT_BYTES]>)> = None;
        for (slot, page) in (first..).zip(from) {
            let bytes = match last.take() {
                Some((at, bytes)) if at == page.as_ptr() => bytes,
                _ => Arc::new(**page),
            };
            last = Some((page.as_ptr(), Arc::clone(&bytes)));
            self.pending.entry(slot).or_default().push_back(Version { bytes, write, completed: false });
            self.bad_slots.remove(&slot);
        }
    }

    fn complete_write(&mut self, first: u64, slots: usize, write: u64) {
        for (_, versions) in self.pending.range_mut(first..first + slots as u64) {
            for version in versions.iter_mut().filter(|version| version.write == write) {
                version.completed = true;
            }
        }
    }

    /// Everything up to the version of `write` is behind the flush.
    fn make_durable(&mut self, slot: u64, write: u64) {
        let Some(versions) = self.pending.get_mut(&slot) else { return };
        let Some(at) = versions.iter().position(|version| version.write == write) else { return };
        if let Some(version) = versions.drain(..=at).next_back() {
            self.durable.insert(slot, version.bytes);
        }
        if versions.is_empty() {
            self.pending.remove(&slot);
        }
    }

    /// What a power loss leaves of one slot: nothing new, everything, or any version for each sector.
    fn settle(&mut self, slot: u64, versions: &VecDeque<Version>, manner: u64, entropy: &SeededEntropy) {
        let kept = Arc::make_mut(self.durable.entry(slot).or_insert_with(|| Arc::new([0; SLOT_BYTES])));
        for at in (0..SLOT_BYTES).step_by(SECTOR_BYTES) {
            let newest = versions.len() as u64;
            let chosen = match manner {
                0 => 0,
                1 => newest,
                _ => entropy.below(newest + 1),
            };
            let version = chosen.checked_sub(1).and_then(|index| versions.get(usize::try_from(index).ok()?));
            if let Some(version) = version {
                kept[at..at + SECTOR_BYTES].copy_from_slice(&version.bytes[at..at + SECTOR_BYTES]);
            }
        }
    }

    fn flip(&mut self, offset_bytes: u64) {
        let slot = offset_bytes / SLOT_BYTES as u64;
        let at = usize::try_from(offset_bytes % SLOT_BYTES as u64).unwrap_or(0);
        Arc::make_mut(self.durable.entry(slot).or_insert_with(|| Arc::new([0; SLOT_BYTES])))[at] ^= 0x10;
        for version in self.pending.entry(slot).or_default() {
            Arc::make_mut(&mut version.bytes)[at] ^= 0x10;
        }
        self.pending.retain(|_, versions| !versions.is_empty());
    }

    fn begin_life(&mut self) {
        self.life += 1;
        self.gone = None;
        self.no_space = false;
        self.flushes_lie = false;
        self.slow = Duration::ZERO;
        self.next_read_faults.clear();
        self.next_write_faults.clear();
        self.next_flush_faults.clear();
    }
}

impl BlockDevice for SimDisk {
    fn length_bytes(&self) -> u64 {
        self.0.length_bytes
    }

    fn read(
        &self,
        offset_bytes: u64,
        into: Vec<SlotMut>,
    ) -> BoxFuture<'_, Result<Vec<SlotMut>, DeviceError>> {
        Box::pin(self.read_slots(offset_bytes, into))
    }

    fn write(&self, offset_bytes: u64, from: Vec<Slot>) -> BoxFuture<'_, Result<(), DeviceError>> {
        Box::pin(self.write_slots(offset_bytes, from))
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), DeviceError>> {
        Box::pin(self.flush_all())
    }

    /// Keeps the content: the contract leaves it undefined, and this is the undefined content that hurts most.
    fn discard(&self, _offset_bytes: u64, _length_bytes: u64) -> BoxFuture<'_, Result<(), DeviceError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimDisk({}, {} bytes)", self.0.name, self.0.length_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SimClock;
    use crate::disk::slot::{Class, SlotPool};

    fn disk(seed: u64) -> SimDisk {
        let latency = Latency { shortest: Duration::from_micros(50), longest: Duration::from_micros(900) };
        SimDisk::new("d", 64 * SLOT_BYTES as u64, latency, seed, Arc::new(SimClock::new(0)))
    }

    fn filled(pool: &SlotPool, byte: u8) -> Vec<Slot> {
        let mut slot = pool.try_take(Class::Host, 1).unwrap().remove(0);
        slot.fill(byte);
        vec![slot.freeze()]
    }

    #[tokio::test(start_paused = true)]
    async fn a_crash_keeps_what_was_flushed_and_any_version_of_the_rest() {
        let pool = SlotPool::new(1 << 20);
        let mut seen = BTreeSet::new();
        for seed in 0..300 {
            let disk = disk(seed);
            disk.write(0, filled(&pool, 1)).await.unwrap();
            disk.flush().await.unwrap();
            disk.write(0, filled(&pool, 2)).await.unwrap();
            disk.write(0, filled(&pool, 3)).await.unwrap();
            disk.crash(&SeededEntropy::new(seed));
            let bytes = disk.peek(0);
            for sector in bytes.chunks(SECTOR_BYTES) {
                assert!(sector.iter().all(|byte| *byte == sector[0]), "sectors are whole");
            }
            let mut kinds: Vec<u8> = bytes.iter().step_by(SECTOR_BYTES).copied().collect();
            assert!(kinds.iter().all(|kind| (1..=3).contains(kind)));
            kinds.dedup();
            seen.insert(kinds.len() > 1);
            assert_eq!(disk.peek(4096)[0], 0);
        }
        assert_eq!(seen.len(), 2, "torn and whole slots both happen");
    }

    #[tokio::test(start_paused = true)]
    async fn a_flush_covers_only_writes_that_had_completed() {
        let pool = SlotPool::new(1 << 20);
        let mut lost = 0;
        for seed in 0..100 {
            let disk = disk(seed);
            let (write, flush) = tokio::join!(disk.write(0, filled(&pool, 7)), disk.flush());
            assert!(write.is_ok() && flush.is_ok());
            disk.crash(&SeededEntropy::new(seed));
            lost += u32::from(disk.peek(0)[0] == 0);
        }
        assert!(lost > 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flush_that_lies_protects_nothing_and_a_killed_process_loses_nothing_completed() {
        let pool = SlotPool::new(1 << 20);
        let mut lost = 0;
        for seed in 0..50 {
            let disk = disk(seed);
            disk.inject(Fault::FlushesLie);
            disk.write(0, filled(&pool, 7)).await.unwrap();
            disk.flush().await.unwrap();
            disk.kill(&SeededEntropy::new(seed));
            assert_eq!(disk.peek(0)[0], 7);
            disk.crash(&SeededEntropy::new(seed));
            lost += u32::from(disk.peek(0)[0] == 0);
        }
        assert!(lost > 0);
    }

    #[tokio::test(start_paused = true)]
    async fn in_flight_operations_end_with_the_power() {
        let pool = SlotPool::new(1 << 20);
        let disk = disk(1);
        let write = disk.write(0, filled(&pool, 7));
        let crash = async { disk.crash(&SeededEntropy::new(3)) };
        let (written, ()) = tokio::join!(write, crash);
        assert!(matches!(written, Err(DeviceError::Gone { .. })));
        assert!(disk.flush().await.is_ok(), "usable again");
    }

    #[tokio::test(start_paused = true)]
    async fn injected_faults_happen_once_or_until_healed() {
        let pool = SlotPool::new(1 << 20);
        let disk = disk(1);
        disk.inject(Fault::NextWriteNoSpace);
        assert!(matches!(disk.write(0, filled(&pool, 1)).await, Err(DeviceError::NoSpace { .. })));
        disk.inject(Fault::NextWriteLost);
        disk.write(0, filled(&pool, 1)).await.unwrap();
        assert_eq!(disk.peek(0)[0], 0);
        disk.inject(Fault::NextWriteTo(4096));
        disk.write(0, filled(&pool, 1)).await.unwrap();
        assert_eq!((disk.peek(0)[0], disk.peek(4096)[0]), (0, 1));
        disk.inject(Fault::BadSlot(4096));
        let into = || pool.try_take(Class::Host, 1).unwrap();
        assert!(disk.read(4096, into()).await.is_err());
        disk.write(4096, filled(&pool, 5)).await.unwrap();
        assert_eq!(disk.read(4096, into()).await.unwrap()[0][9], 5);
        disk.inject(Fault::NextFlush);
        assert!(matches!(disk.flush().await, Err(DeviceError::Flush { .. })));
        assert!(matches!(disk.read(0, into()).await, Err(DeviceError::Gone { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn the_handle_of_a_killed_process_does_nothing_any_more() {
        let (pool, disk) = (SlotPool::new(1 << 20), disk(5));
        let tenant = disk.tenant();
        disk.kill(&SeededEntropy::new(1));
        let mut slots = pool.take(Class::Host, 1).await;
        slots[0].fill(9);
        let slots: Vec<Slot> = slots.into_iter().map(SlotMut::freeze).collect();
        assert!(matches!(tenant.write(0, slots).await, Err(DeviceError::Gone { .. })));
        assert!(matches!(tenant.flush().await, Err(DeviceError::Gone { .. })));
        assert_eq!(disk.peek(0), [0; SLOT_BYTES]);
        disk.tenant().flush().await.unwrap();
    }
}
