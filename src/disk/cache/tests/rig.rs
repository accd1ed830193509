//! Volumes on simulated disks, and an oracle that knows for every sector what it may hold.
//!
//! A sector (512 bytes) says whose it is, where it belongs, which write made it, and which update that was; so a
//! sector that came from another volume, another place, or too early is recognised wherever it turns up.

use super::super::*;
use crate::clock::{BoxFuture, SeededEntropy, SimClock, WallNs};
use crate::disk::device::{BlockDevice, DeviceError};
use crate::disk::io::sim::{Latency, SimDisk};
use crate::disk::raid::assemble::Making;
use crate::disk::raid::group::ParityGroup;
use crate::disk::raid::{ArrayIdentity, GroupIdentity, GroupSpec, Level, Owner};
use crate::disk::slot::{Class, SLOT_BYTES, Slot, SlotMut, SlotPool};
use crate::disk::space::map::VolumeKind;
use crate::disk::space::{MapStart, Opening};

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const PAGE: u64 = SLOT_BYTES as u64;
pub(crate) const SECTOR: usize = 512;
pub(crate) const GROUP: ParityGroupId = ParityGroupId(1);
const OWNER: Owner = Owner { array: ArrayIdentity(0xa), number: 1 };
const IDENTITY: GroupIdentity = GroupIdentity(0x61);
const MAGIC: u64 = 0x5345_4354_4f52_2121;
/// Stands for *anywhere*: a sector of a repeated pattern.
const ANYWHERE: u64 = u64::MAX;

/// Seeds from `first` on: so many as `HOLDFAST_DISK_SEEDS` says, without it `few`. What a test asserts of all its seeds
/// together holds for `few` of them already.
pub(crate) fn seeds(first: u64, few: u64) -> std::ops::Range<u64> {
    let told = std::env::var("HOLDFAST_DISK_SEEDS").ok().map(|told| told.parse().expect("a number of seeds"));
    first..first + told.unwrap_or(few)
}

/// One life of a runtime with virtual time; what it spawned ends with it.
pub(crate) fn life<T>(work: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(work)
}

/// A device that fails the test when a sector arrives before its gate is open.
#[derive(Debug, Clone)]
pub(crate) struct GateWatch {
    pub(crate) disk: SimDisk,
    pub(crate) gate: Arc<Gate>,
    /// Writes wait here when somebody holds it.
    pub(crate) hold: Arc<tokio::sync::RwLock<()>>,
    /// The same for reads.
    pub(crate) hold_reads: Arc<tokio::sync::RwLock<()>>,
    /// Writes and flushes that are still carried out; those behind them never end.
    pub(crate) operations_left: Arc<AtomicU64>,
}

impl GateWatch {
    async fn may_go_on(&self) {
        let left =
            self.operations_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        if left.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl BlockDevice for GateWatch {
    fn length_bytes(&self) -> u64 {
        self.disk.length_bytes()
    }
    fn read(
        &self,
        offset_bytes: u64,
        into: Vec<SlotMut>,
    ) -> BoxFuture<'_, Result<Vec<SlotMut>, DeviceError>> {
        Box::pin(async move {
            let slots = self.disk.read(offset_bytes, into).await;
            let _free = self.hold_reads.read().await;
            slots
        })
    }
    fn write(&self, offset_bytes: u64, from: Vec<Slot>) -> BoxFuture<'_, Result<(), DeviceError>> {
        for slot in &from {
            for sector in slot.chunks_exact(SECTOR) {
                if let Some(stamp) = Stamp::of(sector) {
                    assert!(
                        stamp.gate <= self.gate.durable(),
                        "{stamp:?} reached the unit before its record"
                    );
                }
            }
        }
        Box::pin(async move {
            let _free = self.hold.read().await;
            self.may_go_on().await;
            self.disk.write(offset_bytes, from).await
        })
    }
    fn flush(&self) -> BoxFuture<'_, Result<(), DeviceError>> {
        Box::pin(async move {
            self.may_go_on().await;
            self.disk.flush().await
        })
    }
    fn discard(&self, offset_bytes: u64, length_bytes: u64) -> BoxFuture<'_, Result<(), DeviceError>> {
        self.disk.discard(offset_bytes, length_bytes)
    }
}

/// What a sector says about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stamp {
    pub(crate) volume: u64,
    pub(crate) sector: u64,
    pub(crate) version: u64,
    pub(crate) gate: u64,
}

impl Stamp {
    pub(crate) fn write(&self, bytes: &mut [u8]) {
        for (i, word) in bytes.chunks_exact_mut(8).enumerate() {
            let value = match i % 5 {
                0 => MAGIC,
                1 => self.volume,
                2 => self.sector,
                3 => self.version,
                _ => self.gate,
            };
            word.copy_from_slice(&value.to_le_bytes());
        }
    }

    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        let word = |i: usize| u64::from_le_bytes(bytes[i * 8..i * 8 + 8].try_into().unwrap());
        let stamp = Self { volume: word(1), sector: word(2), version: word(3), gate: word(4) };
        let mut whole = [0; SECTOR];
        stamp.write(&mut whole);
        (word(0) == MAGIC && bytes == whole).then_some(stamp)
    }
}

/// The units, and everything that survives a life.
pub(crate) struct Bed {
    pub(crate) watches: Vec<GateWatch>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) pool_bytes: usize,
    level: Level,
}

impl Bed {
    pub(crate) fn new(seed: u64, units: usize, level: Level, unit_bytes: u64, pool_bytes: usize) -> Self {
        life(async {
            let clock = Arc::new(SimClock::new(0));
            let latency =
                Latency { shortest: Duration::from_micros(20), longest: Duration::from_micros(400) };
            let gate = Arc::new(Gate::default());
            let watch = |i: usize| GateWatch {
                disk: SimDisk::new(&format!("u{i}"), unit_bytes, latency, seed * 9 + i as u64, clock.clone()),
                gate: Arc::clone(&gate),
                hold: Arc::default(),
                hold_reads: Arc::default(),
                operations_left: Arc::new(AtomicU64::new(u64::MAX)),
            };
            let watches = (0..units).map(watch).collect();
            let bed = Self { watches, gate: Arc::clone(&gate), pool_bytes, level };
            let pool = SlotPool::new(pool_bytes);
            let entropy = SeededEntropy::new(5);
            let making = Making { entropy: &entropy, created: WallNs(1) };
            let spec = GroupSpec {
                identity: IDENTITY,
                name: "pg".to_owned(),
                level: bed.level,
                stripe_unit_bytes: 65_536,
            };
            ParityGroup::create(OWNER, spec, bed.given(), pool, making).await.unwrap();
            bed
        })
    }

    fn given(&self) -> Vec<(String, Arc<dyn BlockDevice>)> {
        let named = |watch: &GateWatch| (watch.disk.name().to_owned(), Arc::new(watch.clone()) as Arc<_>);
        self.watches.iter().map(named).collect()
    }

    pub(crate) async fn open(&self) -> Result<Array, VolumeError> {
        self.open_with(settings()).await
    }

    pub(crate) async fn open_with(&self, settings: CacheSettings) -> Result<Array, VolumeError> {
        self.open_as(settings, Opening::default()).await
    }

    pub(crate) async fn open_as(
        &self,
        settings: CacheSettings,
        opening: Opening,
    ) -> Result<Array, VolumeError> {
        let clock = Arc::new(SimClock::new(0));
        let pool = SlotPool::new(self.pool_bytes);
        let adapter = DiskAdapter::new(pool.clone(), clock.clone(), settings);
        let group = ParityGroup::open(OWNER, IDENTITY, self.given(), pool.clone()).await.unwrap();
        adapter.add_parity_group(GROUP, group, MapStart::Recover, opening).await?;
        Ok(Array { adapter, pool, clock })
    }

    pub(crate) fn crash(&self, entropy: &SeededEntropy) {
        for watch in &self.watches {
            watch.disk.crash(entropy);
        }
    }
}

pub(crate) fn settings() -> CacheSettings {
    CacheSettings {
        age_max: Duration::from_millis(20),
        retry_pause: Duration::from_millis(3),
        zero_pages_max: 700,
        pass_pages: 40,
        ..CacheSettings::default()
    }
}

/// One life of the array.
#[derive(Clone)]
pub(crate) struct Array {
    pub(crate) adapter: DiskAdapter,
    pub(crate) pool: SlotPool,
    pub(crate) clock: Arc<SimClock>,
}

impl Array {
    pub(crate) async fn create(&self, id: u32, size_bytes: u64, kind: VolumeKind) -> VolumeId {
        let spec = VolumeSpec { id: VolumeId(id), parity_group: GROUP, size_bytes, kind };
        self.adapter.create_volume(spec).await.unwrap();
        VolumeId(id)
    }

    /// Writes sectors stamped with `version`.
    pub(crate) async fn write(
        &self,
        volume: VolumeId,
        sector: u64,
        count: u64,
        version: u64,
    ) -> Result<(), VolumeError> {
        let (prepared, slots) = self.ready(volume, sector, count).await?;
        let slots = fill(slots, volume, sector, count, version, 0);
        self.adapter.apply(prepared, &slots, 0);
        Ok(())
    }

    pub(crate) async fn ready(
        &self,
        volume: VolumeId,
        sector: u64,
        count: u64,
    ) -> Result<(Prepared, Vec<SlotMut>), VolumeError> {
        let (at, length) = (sector * SECTOR as u64, count * SECTOR as u64);
        let prepared = self.adapter.prepare(volume, at, length, Class::Restore).await?;
        let slots = self.pool.take(Class::Host, prepared.pages()).await;
        Ok((prepared, slots))
    }

    /// The stamps of sectors; `None` for zeros.
    pub(crate) async fn stamps(
        &self,
        volume: VolumeId,
        sector: u64,
        count: u64,
    ) -> Result<Vec<Option<Stamp>>, VolumeError> {
        let (at, length) = (sector * SECTOR as u64, usize::try_from(count).unwrap() * SECTOR);
        let pieces = match self.adapter.try_read(volume, at, length) {
            Some(pieces) => pieces,
            None => self.adapter.read(volume, at, length, Class::JournalRead).await?,
        };
        assert_eq!(pieces.length(), length);
        Ok(stamps_of(&pieces.to_vec()))
    }
}

pub(crate) fn stamps_of(bytes: &[u8]) -> Vec<Option<Stamp>> {
    let stamp = |sector: &[u8]| {
        let stamp = Stamp::of(sector);
        assert!(stamp.is_some() || sector.iter().all(|byte| *byte == 0), "a sector that nobody wrote");
        stamp
    };
    bytes.chunks_exact(SECTOR).map(stamp).collect()
}

pub(crate) fn fill(
    slots: Vec<SlotMut>,
    volume: VolumeId,
    sector: u64,
    count: u64,
    version: u64,
    gate: u64,
) -> Vec<Slot> {
    let page = sector / 8;
    let stamped = slots.into_iter().enumerate().map(|(i, mut slot)| {
        for (j, bytes) in slot.chunks_exact_mut(SECTOR).enumerate() {
            let at = (page + i as u64) * 8 + j as u64;
            // What lies outside of the range must never be seen.
            let version = if (sector..sector + count).contains(&at) { version } else { u64::MAX };
            Stamp { volume: u64::from(volume.0), sector: at, version, gate }.write(bytes);
        }
        slot.freeze()
    });
    stamped.collect()
}

pub(crate) fn fill_pattern(mut slot: SlotMut, volume: VolumeId, version: u64, gate: u64) -> Slot {
    for bytes in slot.chunks_exact_mut(SECTOR) {
        Stamp { volume: u64::from(volume.0), sector: ANYWHERE, version, gate }.write(bytes);
    }
    slot.freeze()
}

/// For every sector of a volume the versions it had, zero for zeros; and which is the oldest that it may have after a
/// crash.
#[derive(Clone)]
pub(crate) struct Oracle {
    pub(crate) volume: VolumeId,
    /// Whose sectors it may hold: its own, and those of what it was made from.
    pub(crate) lineage: Vec<u64>,
    pub(crate) history: Vec<Vec<u64>>,
    pub(crate) durable: Vec<usize>,
}

impl Oracle {
    pub(crate) fn new(volume: VolumeId, size_bytes: u64) -> Self {
        let sectors = usize::try_from(size_bytes).unwrap() / SECTOR;
        let lineage = vec![u64::from(volume.0)];
        Self { volume, lineage, history: vec![vec![0]; sectors], durable: vec![0; sectors] }
    }

    /// The oracle of a durable snapshot of the volume, made now.
    pub(crate) fn snapshot(&self, volume: VolumeId) -> Self {
        let mut lineage = self.lineage.clone();
        lineage.push(u64::from(volume.0));
        Self { volume, lineage, history: self.newest(), durable: vec![0; self.history.len()] }
    }

    /// The volume is, durably, what the snapshot is now.
    pub(crate) fn restore(&mut self, snapshot: &Self) {
        self.history = snapshot.newest();
        self.durable = vec![0; self.history.len()];
        self.lineage.extend(&snapshot.lineage);
    }

    fn newest(&self) -> Vec<Vec<u64>> {
        self.history.iter().map(|history| history.last().copied().into_iter().collect()).collect()
    }

    pub(crate) fn apply(&mut self, sector: u64, count: u64, version: u64) {
        for sector in sector..sector + count {
            self.history[usize::try_from(sector).unwrap()].push(version);
        }
    }

    /// How many versions each sector has had.
    pub(crate) fn marks(&self, sector: u64, count: u64) -> Vec<usize> {
        let sectors = sector..sector + count;
        sectors.map(|sector| self.history[usize::try_from(sector).unwrap()].len() - 1).collect()
    }

    pub(crate) fn made_durable(&mut self, sector: u64, marks: &[usize]) {
        for (i, mark) in marks.iter().enumerate() {
            let durable = &mut self.durable[usize::try_from(sector).unwrap() + i];
            *durable = (*durable).max(*mark);
        }
    }

    /// The sector holds its version `from` or a later one.
    pub(crate) fn check(&self, sector: u64, from: usize, stamp: Option<Stamp>) {
        let history = &self.history[usize::try_from(sector).unwrap()];
        let version = stamp.map_or(0, |stamp| {
            assert!(self.lineage.contains(&stamp.volume), "{stamp:?} belongs to another volume");
            assert!(stamp.sector == sector || stamp.sector == ANYWHERE, "{stamp:?} belongs elsewhere");
            stamp.version
        });
        assert!(
            history[from..].contains(&version),
            "volume {} sector {sector} holds {version}, not one of {:?}",
            self.volume.0,
            &history[from..]
        );
    }

    /// After a crash: every sector is what was durable or later; that is what it is from now on.
    pub(crate) async fn settle(&mut self, array: &Array) {
        let sectors = self.history.len() as u64;
        for first in (0..sectors).step_by(64) {
            let count = 64.min(sectors - first);
            let stamps = array.stamps(self.volume, first, count).await.unwrap();
            for (sector, stamp) in (first..).zip(stamps) {
                let i = usize::try_from(sector).unwrap();
                self.check(sector, self.durable[i], stamp);
                self.history[i] = vec![stamp.map_or(0, |stamp| stamp.version)];
                self.durable[i] = 0;
            }
        }
    }
}
