//! Two groups in one thread, one reading from the other: each with disks of its own, and between them lanes that a test
//! delays, cuts and listens to.

use crate::clock::{BoxFuture, Clock, SeededEntropy, SimClock, WallNs};
use crate::copy::change::{Change, Part, apply, pages_touched};
use crate::copy::demand::{Demand, UnderWay};
use crate::copy::group::{
    Group, PairRuntime, Parts, Refusal, Role, Sequenced, Sequencer, Settings, SvolRuntime,
};
use crate::copy::recover;
use crate::copy::rule::PairFacts;
use crate::copy::serve::{Carrier, Form, Request};
use crate::copy::source::{Ask, Source, SourceError, Wanted};
use crate::copy::volumes::{NameError, Named};
use crate::disk::cache::{CacheSettings, ParityGroupId, VolumeSpec};
use crate::disk::io::sim::{Latency, SimDisk};
use crate::disk::raid::assemble::Making;
use crate::disk::raid::group::ParityGroup;
use crate::disk::raid::{ArrayIdentity, GroupIdentity, GroupSpec, Level, Owner};
use crate::disk::slot::{Class, SLOT_BYTES, Slot, SlotPool};
use crate::disk::space::{MapStart, Opening};
use crate::disk::{DiskAdapter, VolumeId, VolumeKind};
use crate::volume::kind::{NoRoom, ReleaseBy};
use crate::volume::pair::PairState;
use holdfast_journal::chain::Chain;
use holdfast_journal::format::{FormatParams, head::DEFAULT_RATIO};
use holdfast_journal::reader::{ReaderSet, ReleaseRule, Report};
use holdfast_journal::{ArrayNumber, Generation, GroupNumber, Incarnation, UpdateNumber, VolumeNumber};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;
use tokio::task::JoinSet;

pub(crate) const READER: ArrayNumber = ArrayNumber(2);
pub(crate) const DATA: u32 = 1;
pub(crate) const JOURNAL: u32 = 2;
const OTHER: u32 = 3;
pub(crate) const MIB: u64 = 1 << 20;
const MIB_SLOTS: usize = (1 << 20) / SLOT_BYTES;

/// A life with virtual time.
pub(crate) fn life<T>(work: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(work)
}

/// What a test chooses.
#[derive(Clone, Copy)]
pub(crate) struct Choice {
    pub(crate) source_journal_mib: u64,
    pub(crate) copy_journal_mib: u64,
    pub(crate) read_bytes: u32,
    pub(crate) release_by: ReleaseBy,
    pub(crate) no_room: NoRoom,
    /// Of the pair, at both ends.
    pub(crate) pair: PairState,
    /// Memory for journals.
    pub(crate) cache_bytes: usize,
    /// The control store fails when it shall name journal volumes.
    pub(crate) store_fails: bool,
}

impl Default for Choice {
    fn default() -> Self {
        Self {
            source_journal_mib: 16,
            copy_journal_mib: 16,
            read_bytes: 64 << 10,
            release_by: ReleaseBy::Named,
            no_room: NoRoom::Hold,
            pair: PairState::Normal,
            cache_bytes: 8 << 20,
            store_fails: false,
        }
    }
}

/// Source and copy.
pub(crate) struct Rig {
    pub(crate) clock: Arc<SimClock>,
    pub(crate) source: Arc<Group>,
    pub(crate) copy: Arc<Group>,
    pub(crate) tasks: JoinSet<()>,
}

impl Rig {
    /// Both with their journal writers at work, a pair that is `normal`, and nothing written.
    pub(crate) async fn new(choice: Choice) -> Self {
        let clock = Arc::new(SimClock::new(1_700_000_000_000_000_000));
        let source = group(&clock, 1, Role::Source, choice.source_journal_mib, choice).await;
        let copy = group(&clock, 2, Role::Copy, choice.copy_journal_mib, choice).await;
        let mut tasks = JoinSet::new();
        for group in [&source, &copy] {
            group.replay(Duration::ZERO).await.unwrap();
            group.announce_readers();
            tasks.spawn(group.clone().write_journal());
        }
        Self { clock, source, copy, tasks }
    }

    /// Both settle and free.
    pub(crate) fn settle(&mut self) {
        self.tasks.spawn(self.source.clone().settle_loop());
        self.tasks.spawn(self.copy.clone().settle_loop());
    }

    /// A host's write of whole pages, each full of `byte`, once there is room.
    pub(crate) async fn write(&self, page: u64, pages: usize, byte: u8) -> UpdateNumber {
        let (offset, length) = (page * SLOT_BYTES as u64, (pages * SLOT_BYTES) as u64);
        loop {
            let room = self.source.room.notified();
            match self.try_write(offset, length, byte).await {
                Ok(Sequenced::Journaled(number)) => return number,
                Ok(Sequenced::Unjournaled) => panic!("the pair is normal"),
                Err(_) => room.await,
            }
        }
    }

    /// A host's write of some bytes, all `byte`, tried once.
    pub(crate) async fn try_write(&self, offset: u64, length: u64, byte: u8) -> Result<Sequenced, Refusal> {
        let mut slots = self.source.pool.take(Class::Host, pages_touched(offset, length)).await;
        slots.iter_mut().for_each(|slot| slot.fill(byte));
        let slots = slots.into_iter().map(|slot| slot.freeze()).collect();
        let change = Change::new(DATA, vec![Part::data(offset, length, slots)]);
        let payload = change.payload();
        let prepared = self.source.disk.prepare(VolumeId(DATA), offset, length, Class::Host).await.unwrap();
        self.source.try_sequence(&change, &payload, payload.checksum(), &mut vec![prepared])
    }

    /// What a start makes of the copy's journal as it lies on the units in this moment, before anything is replayed.
    pub(crate) async fn reopened(&self) -> Arc<Group> {
        let raw = self.copy.raw(VolumeNumber(JOURNAL)).unwrap();
        let (journal, extra) = recover::recover(&raw, None).await.unwrap();
        let journal = Chain::new(VolumeNumber(JOURNAL), journal);
        let parts = (self.copy.disk.clone(), self.copy.pool.clone());
        let reopened = around(&self.clock, (2, Role::Copy), parts, Choice::default(), journal);
        reopened.lock().found_promised(extra.promise);
        reopened
    }

    /// One of the two checkpoints of the copy's journal is lost; what it was.
    pub(crate) async fn lose_checkpoint(&self, slot: u64) -> Vec<Slot> {
        let raw = self.copy.raw(VolumeNumber(JOURNAL)).unwrap();
        let offset = (holdfast_journal::format::HEAD_BLOCKS - 2 + slot) * SLOT_BYTES as u64;
        let before = raw.read(offset, 1, Class::JournalRead).await.unwrap();
        let zeros = crate::copy::settle::pages_from(&self.copy.pool, &[0; SLOT_BYTES]).await;
        raw.write(vec![(offset, zeros)]).await.unwrap();
        before
    }

    /// And is there again.
    pub(crate) async fn put_checkpoint(&self, slot: u64, block: Vec<Slot>) {
        let raw = self.copy.raw(VolumeNumber(JOURNAL)).unwrap();
        let offset = (holdfast_journal::format::HEAD_BLOCKS - 2 + slot) * SLOT_BYTES as u64;
        raw.write(vec![(offset, block)]).await.unwrap();
    }

    /// Every page of the copy's journal volume that is full of `byte` is lost.
    pub(crate) async fn damage(&self, byte: u8) {
        let raw = self.copy.raw(VolumeNumber(JOURNAL)).unwrap();
        for offset in (0..raw.size_bytes()).step_by(SLOT_BYTES) {
            let read = raw.read(offset, 1, Class::JournalRead).await.unwrap();
            if read[0].iter().all(|found| *found == byte) {
                let zeros = crate::copy::settle::pages_from(&self.copy.pool, &[0; SLOT_BYTES]).await;
                raw.write(vec![(offset, zeros)]).await.unwrap();
            }
        }
    }

    /// The bytes of both volumes, source and copy.
    pub(crate) async fn images(&self) -> (Vec<u8>, Vec<u8>) {
        (image(&self.source).await, image(&self.copy).await)
    }

    /// Nothing of the copy's volume is in its cache any more.
    pub(crate) async fn cool(&self) {
        self.copy.disk.destage(&[VolumeId(DATA)]).await.unwrap();
        let pool = &self.copy.pool;
        // With all memory taken, another page makes the cache give up all it can: what it holds is the source's.
        let all = pool.try_take(Class::Host, pool.largest_request(Class::Host));
        drop((pool.try_take(Class::Host, 1), all));
        for page in 0..16 * MIB / SLOT_BYTES as u64 {
            let offset = page * SLOT_BYTES as u64;
            if let Some(pieces) = self.copy.disk.try_read(VolumeId(DATA), offset, SLOT_BYTES) {
                let is_zero = pieces.to_vec().iter().all(|byte| *byte == 0);
                assert!(is_zero, "page {page} is still in the cache");
            }
        }
    }

    /// Hosts of the copying array write so much to another volume of it, and nobody destages it.
    pub(crate) async fn load_copy(&self, mib: u64) {
        let disk = &self.copy.disk;
        let (id, size_bytes) = (VolumeId(OTHER), 32 * MIB);
        let spec = VolumeSpec { id, parity_group: ParityGroupId(1), size_bytes, kind: VolumeKind::Thin };
        disk.create_volume(spec).await.unwrap();
        for offset in (0..mib).map(|at| at * MIB) {
            let mut slots = self.copy.pool.take(Class::Host, MIB_SLOTS).await;
            slots.iter_mut().for_each(|slot| slot.fill(1));
            let slots = slots.into_iter().map(|slot| slot.freeze()).collect();
            let change = Change::new(OTHER, vec![Part::data(offset, MIB, slots)]);
            let prepared = disk.prepare(id, offset, MIB, Class::Host).await.unwrap();
            apply(disk, &change, &mut vec![prepared], 0);
        }
    }

    /// Hosts of the copying array keep so many commands waiting there until these go.
    pub(crate) fn ask_copy(&self, commands: usize) -> Vec<UnderWay> {
        (0..commands).map(|_| self.copy.settings.demand.begin()).collect()
    }

    /// The first byte of a page at the copy.
    pub(crate) async fn copied(&self, page: u64) -> u8 {
        first_byte(&self.copy, page).await
    }

    /// Virtual time passes.
    pub(crate) async fn sleep_ms(&self, ms: u64) {
        self.clock.sleep(Duration::from_millis(ms)).await;
    }

    /// Virtual time.
    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.now().0 / 1_000_000
    }

    /// Waits until `done`, at most a minute.
    pub(crate) async fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        for _ in 0..60_000 {
            if done(self) {
                return;
            }
            self.sleep_ms(1).await;
        }
        panic!("never: {what}; copy {:?}, source {:?}", self.copy.status(), self.source.status());
    }

    /// Everything that the source has numbered is durable at the copy.
    pub(crate) fn is_read(&self) -> bool {
        {
            let newest = self.source.lock().next.previous();
            self.copy.durable_here() == newest
        }
    }

    /// Everything that is durable at the copy is visible in its volume.
    pub(crate) fn is_restored(&self) -> bool {
        let durable = self.copy.durable_here();
        self.copy.lock().restored == durable
    }

    /// What the source believes to be durable at the copy.
    pub(crate) fn acknowledged(&self) -> UpdateNumber {
        self.source.lock().readers.reader(READER).unwrap().report.acknowledged
    }

    /// The oldest number that the source holds.
    pub(crate) fn held_from(&self) -> u64 {
        self.source.lock().journal.first_retained().get()
    }
}

async fn image(group: &Group) -> Vec<u8> {
    let mut bytes = Vec::new();
    for mebibyte in 0..16 {
        let length = usize::try_from(MIB).unwrap();
        bytes.extend(
            group.disk.read(VolumeId(DATA), mebibyte * MIB, length, Class::Host).await.unwrap().to_vec(),
        );
    }
    bytes
}

async fn first_byte(group: &Group, page: u64) -> u8 {
    let offset = page * SLOT_BYTES as u64;
    let pieces = group.disk.read(VolumeId(DATA), offset, SLOT_BYTES, Class::Host).await.unwrap();
    match pieces.iter().next() {
        Some(crate::disk::cache::Piece::Bytes { slot, .. }) => slot[0],
        _ => 0,
    }
}

async fn adapter(clock: &Arc<SimClock>, number: u32, pool: &SlotPool, journal_mib: u64) -> DiskAdapter {
    let disk = DiskAdapter::new(pool.clone(), clock.clone(), CacheSettings::default());
    let latency = Latency { shortest: Duration::from_micros(20), longest: Duration::from_micros(400) };
    let unit = SimDisk::new("u0", 96 * MIB, latency, number.into(), clock.clone());
    let owner = Owner { array: ArrayIdentity(u128::from(number)), number: number.into() };
    let spec = GroupSpec {
        identity: GroupIdentity(9),
        name: "pg".to_owned(),
        level: Level::Raid0,
        stripe_unit_bytes: 65_536,
    };
    let entropy = SeededEntropy::new(5);
    let making = Making { entropy: &entropy, created: WallNs(1) };
    let units = vec![("u0".to_owned(), Arc::new(unit) as _)];
    let made = ParityGroup::create(owner, spec, units, pool.clone(), making).await.unwrap();
    disk.add_parity_group(ParityGroupId(1), made, MapStart::Format, Opening::default()).await.unwrap();
    for (id, size_bytes, kind) in
        [(DATA, 16 * MIB, VolumeKind::Thin), (JOURNAL, journal_mib * MIB, VolumeKind::Journal)]
    {
        let spec = VolumeSpec { id: VolumeId(id), parity_group: ParityGroupId(1), size_bytes, kind };
        disk.create_volume(spec).await.unwrap();
    }
    disk
}

async fn group(
    clock: &Arc<SimClock>,
    number: u32,
    role: Role,
    journal_mib: u64,
    choice: Choice,
) -> Arc<Group> {
    let pool = SlotPool::new(96 << 20);
    let disk = adapter(clock, number, &pool, journal_mib).await;
    let raw = disk.raw(VolumeId(JOURNAL)).unwrap();
    let params = FormatParams {
        incarnation: Incarnation::new(7),
        array: ArrayNumber(number),
        group: GroupNumber(1),
        volume_bytes: raw.size_bytes(),
        layout: holdfast_journal::format::Layout::default(),
        data_per_info: DEFAULT_RATIO,
        first: UpdateNumber::FIRST,
        generation: Generation::default(),
    };
    let journal = recover::format(&raw, &pool, params, &[]).await.unwrap();
    let journal = Chain::new(VolumeNumber(JOURNAL), journal);
    let group = around(clock, (number, role), (disk.clone(), pool), choice, journal);
    disk.set_gate(VolumeId(DATA), Some(group.gate())).unwrap();
    group
}

/// A group around its journal, nothing replayed.
fn around(
    clock: &Arc<SimClock>,
    (number, role): (u32, Role),
    (disk, pool): (DiskAdapter, SlotPool),
    choice: Choice,
    journal: Chain,
) -> Arc<Group> {
    let mut readers = ReaderSet::new(ReleaseRule::Read, UpdateNumber::NONE);
    let (mut pairs, mut svols) = (BTreeMap::new(), BTreeMap::new());
    if role == Role::Source {
        readers.add(READER, UpdateNumber::FIRST).unwrap();
        let copied_before = choice.pair == PairState::Normal;
        let facts = PairFacts { state: choice.pair, copy_completion_bytes: 0, copied_before };
        let pair = PairRuntime {
            pair: 1,
            reader: READER,
            facts,
            capacity_bytes: 16 * MIB,
            copy_end: None,
            copy_records: Default::default(),
            resync: Default::default(),
        };
        pairs.insert(DATA, vec![pair]);
    } else {
        let svol = SvolRuntime {
            pair: 1,
            volume: DATA,
            state: choice.pair,
            copy_end: None,
            copy_from: UpdateNumber::NONE,
            cascaded: false,
            copies: 0,
        };
        svols.insert(DATA, svol);
    }
    let sequencer = Sequencer::new(journal, Generation::default(), pairs, svols, readers, UpdateNumber::NONE);
    let marks =
        Arc::new(NoMarks { is_suspended: choice.pair == PairState::Suspended, group: OnceLock::new() });
    let parts = Parts {
        number: 1,
        name: "g1".to_owned(),
        array: ArrayNumber(number),
        role,
        disk,
        pool,
        clock: clock.clone(),
        tamper: None,
        marks: marks.clone(),
        segment_store: Arc::new(Unnamed { fails: choice.store_fails, ..Unnamed::default() }),
        settings: Settings {
            journal_cache: crate::copy::kept::JournalCache::new(choice.cache_bytes),
            demand: Demand::new(clock.clone()),
            read_updates: 1024,
            read_bytes: choice.read_bytes,
            copy_unit_bytes: MIB,
            release_by: choice.release_by,
            no_room: choice.no_room,
            throttle: Duration::ZERO,
        },
    };
    let group = Group::new(parts, sequencer);
    marks.group.set(Arc::downgrade(&group)).unwrap();
    group
}

/// Nothing is marked where nothing is suspended.
struct NoMarks {
    is_suspended: bool,
    group: OnceLock<Weak<Group>>,
}

impl crate::copy::suspend::MarkStore for NoMarks {
    fn note_together(&self, _group: u32, _together: Result<(), &str>) -> Result<(), String> {
        Ok(())
    }

    fn note_freed(&self, _group: u32, _note: &crate::copy::freed::FreedNote) -> Result<(), String> {
        Ok(())
    }

    fn has_pair_of(&self, _group: u32, pvol: u32) -> bool {
        pvol == DATA
    }

    fn note_copy_ends(&self, _ends: &[crate::copy::checkpoint::PairMark]) -> Result<(), String> {
        Ok(())
    }

    fn put(&self, changed: Vec<(u32, Vec<crate::copy::differences::ChangedPart>)>) -> Result<(), String> {
        let group = self.group.get().and_then(Weak::upgrade).unwrap();
        assert!(group.marks_in_hand.try_lock().is_err(), "somebody could write newer marks before these");
        // Its own pair is as the test has it; others belong to arrays further down.
        if !self.is_suspended && changed.iter().any(|(pair, _)| *pair == 1) {
            Err("no pair is suspended".to_owned())
        } else {
            Ok(())
        }
    }
}

/// Journal volumes are named in memory only.
#[derive(Default)]
pub(crate) struct Unnamed {
    given: std::sync::atomic::AtomicU64,
    fails: bool,
}

impl crate::copy::volumes::SegmentStore for Unnamed {
    fn incarnation(&self) -> u128 {
        100 + u128::from(self.given.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
    }

    fn name(&self, _: &[Named], _: &str, _: Option<(u32, &str)>) -> Result<(), NameError> {
        if self.fails { Err(NameError::Uncertain("its disk is gone".to_owned())) } else { Ok(()) }
    }
}

/// How one lane behaves.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lane {
    /// An answer takes so long.
    pub(crate) delay_ms: u64,
    /// Of so many answers the last is lost, together with the lane for a moment; 0: none.
    pub(crate) loses_every: u64,
    pub(crate) reads: u64,
    /// It is cut until then.
    pub(crate) cut_until_ms: u64,
}

/// The way from the copy to the source: calls instead of sessions.
pub(crate) struct Way {
    source: Arc<Group>,
    pool: SlotPool,
    clock: Arc<SimClock>,
    lanes: Mutex<Vec<Lane>>,
    log: Mutex<Vec<(u64, usize, Ask)>>,
    reports: Mutex<u64>,
    pub(crate) link_permille: Mutex<u32>,
    /// What it says a round trip takes.
    pub(crate) round_trip_ms: Mutex<u64>,
}

impl Way {
    pub(crate) fn new(rig: &Rig, lanes: &[Lane]) -> Self {
        Self {
            source: rig.source.clone(),
            pool: rig.copy.pool.clone(),
            clock: rig.clock.clone(),
            lanes: Mutex::new(lanes.to_vec()),
            log: Mutex::default(),
            reports: Mutex::default(),
            link_permille: Mutex::default(),
            round_trip_ms: Mutex::default(),
        }
    }

    /// The reads so far: when (ms), lane, what was asked.
    pub(crate) fn log(&self) -> Vec<(u64, usize, Ask)> {
        self.log.lock().unwrap().clone()
    }

    /// Reads of which `wanted` holds.
    pub(crate) fn asked(&self, wanted: impl Fn(Wanted) -> bool) -> usize {
        self.log().iter().filter(|(_, _, ask)| wanted(ask.what)).count()
    }

    /// Positions reported by a command of their own.
    pub(crate) fn reports(&self) -> u64 {
        *self.reports.lock().unwrap()
    }

    async fn read(&self, at: usize, ask: Ask) -> Result<Vec<Slot>, SourceError> {
        let at_ms = self.clock.now().0 / 1_000_000;
        self.log.lock().unwrap().push((at_ms, at, ask));
        let failed = |error: &dyn std::fmt::Display| SourceError(error.to_string());
        self.source.report(READER, ask.position, Carrier::Read).map_err(|error| failed(&error))?;
        let (start, retry) = match ask.what {
            Wanted::Next => (None, false),
            Wanted::From(number) => (Some(number), false),
            Wanted::Retry => (None, true),
            Wanted::Again { first, .. } => (Some(first), true),
        };
        let request = Request {
            reader: READER,
            start,
            retry,
            updates: ask.updates,
            bytes: ask.room_bytes,
            wait: ask.wait,
            form: Form::Journals,
        };
        let answer = self.source.answer(request).await.map_err(|error| failed(&error))?;
        let mut slots = self.pool.take(Class::Inbound, answer.head.len() / SLOT_BYTES).await;
        for (slot, bytes) in slots.iter_mut().zip(answer.head.chunks(SLOT_BYTES)) {
            slot.copy_from_slice(bytes);
        }
        let mut pages: Vec<Slot> = slots.into_iter().map(|slot| slot.freeze()).chain(answer.pages).collect();
        assert!(pages.len() * SLOT_BYTES <= ask.room_bytes as usize, "an answer within its room");
        pages.truncate(ask.room_bytes as usize / SLOT_BYTES);
        let (delay_ms, lost) = {
            let mut lanes = self.lanes.lock().unwrap();
            let lane = &mut lanes[at];
            lane.reads += 1;
            (lane.delay_ms, lane.reads.checked_rem(lane.loses_every) == Some(0))
        };
        self.clock.sleep(Duration::from_millis(delay_ms)).await;
        if lost {
            let until = self.clock.now().0 / 1_000_000 + 2;
            self.lanes.lock().unwrap()[at].cut_until_ms = until;
        }
        if lost { Err(SourceError("the lane was cut".into())) } else { Ok(pages) }
    }
}

impl Source for Way {
    fn lanes(&self) -> usize {
        self.lanes.lock().unwrap().len()
    }
    fn is_open(&self, lane: usize) -> bool {
        self.clock.now().0 / 1_000_000 >= self.lanes.lock().unwrap()[lane].cut_until_ms
    }
    fn journal_read(
        &self,
        lane: usize,
        _group: u32,
        ask: Ask,
    ) -> BoxFuture<'_, Result<Vec<Slot>, SourceError>> {
        Box::pin(self.read(lane, ask))
    }
    fn journal_information(&self, _group: u32) -> BoxFuture<'_, Result<Vec<u8>, SourceError>> {
        Box::pin(async { Ok(self.source.information(READER)) })
    }
    fn report_position(&self, _group: u32, position: Report) -> BoxFuture<'_, Result<(), SourceError>> {
        *self.reports.lock().unwrap() += 1;
        let reported = self.source.report(READER, position, Carrier::Report);
        Box::pin(async move { reported.map_err(|error| SourceError(error.to_string())) })
    }
    fn link_permille(&self) -> u32 {
        *self.link_permille.lock().unwrap()
    }
    fn round_trip(&self) -> Duration {
        Duration::from_millis(*self.round_trip_ms.lock().unwrap())
    }
}
