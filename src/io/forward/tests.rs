//! One upstream array in one thread, and a primary that the test plays: it answers, refuses or says nothing, as it is told,
//! and what it was sent becomes its own or does not.

use crate::channel::storage::Nexus;
use crate::clock::{BoxFuture, Clock, SeededEntropy, SimClock, WallNs};
use crate::copy::change::{Change, Content, Part, pages_touched};
use crate::copy::differences::{ChangedPart, DifferenceMap};
use crate::copy::forward::{
    Announced, Announcement, Because, Downstream, ForwardError, ForwardPair, Forwarder, Ledger, Outgoing,
    Parts, Phase, WINDOW, wire,
};
use crate::copy::group::{Refusal, Sequenced};
use crate::copy::inflow::{Connection, Inflow};
use crate::disk::cache::{CacheSettings, ParityGroupId, VolumeSpec};
use crate::disk::io::sim::{Latency, SimDisk};
use crate::disk::raid::assemble::Making;
use crate::disk::raid::group::ParityGroup;
use crate::disk::raid::{ArrayIdentity, GroupIdentity, GroupSpec, Level, Owner};
use crate::disk::slot::{Class, SLOT_BYTES, SlotPool};
use crate::disk::space::MapStart;
use crate::disk::{DiskAdapter, VolumeId, VolumeKind};
use crate::io::manner::Manner;
use crate::io::volume::{IoError, Outcome, Volume, VolumeRole};
use crate::volume::kind::Fence;
use holdfast_scsi::MAX_FORWARDED_BYTES;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

const VOLUME: u32 = 1;
const REMOTE: u32 = 9;
const PAIR: u32 = 4;
const MIB: u64 = 1 << 20;
const PAGE: u64 = SLOT_BYTES as u64;
const FENCE_WAIT: Duration = Duration::from_secs(5);

fn life<T>(work: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(work)
}

/// What the primary does with a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Play {
    Answer,
    /// It is journaled and visible, and fails afterwards.
    ApplyAndRefuse,
    /// It is journaled, and the answer is lost.
    ApplyAndStall,
    /// It lies in a queue.
    Stall,
}

type Script = Box<dyn Fn(&Outgoing) -> Play + Send>;

/// The primary.
struct Primary {
    /// By page of the volume: the byte that fills it.
    held: Mutex<BTreeMap<u64, u8>>,
    said: Mutex<Vec<Announcement>>,
    /// First byte, length and sequence number of what was sent.
    sent: Mutex<Vec<(u64, u64, u64)>>,
    script: Mutex<Script>,
    inflow: Arc<Inflow>,
    connections: AtomicU64,
    /// When the newest write was created, as it said.
    created_ns: AtomicU64,
    /// What stalls is answered.
    go_on: Notify,
}

struct Line {
    primary: Arc<Primary>,
    connection: Connection,
    cut: AtomicBool,
    was_cut: Notify,
}

impl Primary {
    fn play(&self, script: impl Fn(&Outgoing) -> Play + Send + 'static) {
        *self.script.lock().unwrap() = Box::new(script);
    }

    fn line(self: &Arc<Self>) -> Arc<Line> {
        let number = u32::try_from(self.connections.fetch_add(1, Ordering::SeqCst)).unwrap();
        let connection = Connection { incarnation: 1, number };
        Arc::new(Line {
            primary: self.clone(),
            connection,
            cut: AtomicBool::default(),
            was_cut: Notify::new(),
        })
    }

    fn last_said(&self) -> Announcement {
        self.said.lock().unwrap().last().cloned().expect("something was said")
    }

    fn take_sent(&self) -> Vec<(u64, u64, u64)> {
        std::mem::take(&mut self.sent.lock().unwrap())
    }

    fn page(&self, page: u64) -> u8 {
        self.held.lock().unwrap().get(&page).copied().unwrap_or(0)
    }
}

impl Line {
    fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        self.was_cut.notify_waiters();
    }

    fn apply(&self, write: &Outgoing) -> Result<(), ForwardError> {
        let list = wire::encode(&write.change, write.checksum);
        assert!(list.len() <= MAX_FORWARDED_BYTES as usize, "{} bytes", list.len());
        let ticket = self.primary.inflow.ticket(REMOTE, self.connection, (write.sequence, write.oldest));
        let mut held = self.primary.held.lock().unwrap();
        let applied = ticket.pass(|| {
            for part in &write.change.parts {
                let first = part.offset_bytes / PAGE;
                match &part.content {
                    Content::Data(slots) => {
                        held.extend((first..).zip(slots).map(|(page, slot)| (page, slot[0])));
                    }
                    Content::Zero => {
                        let past = (part.offset_bytes + part.length_bytes) / PAGE;
                        held.retain(|page, _| !(first..past).contains(page));
                    }
                    Content::Pattern { .. } => unreachable!("nobody writes one here"),
                }
            }
            Ok(Sequenced::Unjournaled)
        });
        match applied {
            Ok(_) => Ok(()),
            Err(Refusal::Again) => panic!("an upstream array keeps to the window"),
            Err(refusal) => Err(ForwardError::Refused(format!("{refusal:?}"))),
        }
    }
}

impl Downstream for Line {
    fn announce(&self, said: Announcement) -> BoxFuture<'_, Result<(), ForwardError>> {
        let named = said.volumes.iter().copied().collect::<BTreeSet<u32>>();
        let opened = self.primary.inflow.open(self.connection, named);
        self.primary.said.lock().unwrap().push(said);
        Box::pin(async move { opened.map_err(|late| ForwardError::Lost(late.into())) })
    }

    fn write<'a>(&'a self, write: &'a Outgoing) -> BoxFuture<'a, Result<(), ForwardError>> {
        let part = &write.change.parts[0];
        let sent = (part.offset_bytes, part.length_bytes, write.sequence);
        self.primary.sent.lock().unwrap().push(sent);
        self.primary.created_ns.store(write.change.created_ns.unwrap_or(0), Ordering::SeqCst);
        let play = (self.primary.script.lock().unwrap())(write);
        Box::pin(async move {
            match play {
                _ if self.cut.load(Ordering::SeqCst) => Err(ForwardError::Lost("cut".into())),
                Play::Answer => self.apply(write),
                Play::ApplyAndRefuse => {
                    self.apply(write)?;
                    Err(ForwardError::Refused("it failed afterwards".into()))
                }
                Play::ApplyAndStall => {
                    self.apply(write)?;
                    self.primary.go_on.notified().await;
                    Ok(())
                }
                Play::Stall => {
                    self.primary.go_on.notified().await;
                    self.apply(write)
                }
            }
        })
    }

    fn closed(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let cut = self.was_cut.notified();
            if !self.cut.load(Ordering::SeqCst) {
                cut.await;
            }
        })
    }
}

/// What was recorded.
#[derive(Default)]
struct Book {
    marks: Mutex<BTreeMap<(u32, u32), Vec<u8>>>,
    recorded: Mutex<Vec<&'static str>>,
    /// Going alone cannot be recorded.
    refuses_alone: AtomicBool,
}

impl Ledger for Book {
    fn put_marks(&self, marks: Vec<(u32, Vec<ChangedPart>)>) -> Result<(), String> {
        let mut known = self.marks.lock().unwrap();
        for (pair, parts) in marks {
            for (part, bytes) in parts {
                match bytes {
                    Some(bytes) => drop(known.insert((pair, part), bytes)),
                    None => drop(known.remove(&(pair, part))),
                }
            }
        }
        Ok(())
    }

    fn keep_atomic(&self, volume: u32, _change: &Change) -> Result<u64, String> {
        self.recorded.lock().unwrap().push("atomic");
        Ok(volume.into())
    }

    fn forget_atomic(&self, _kept: u64) -> Result<(), String> {
        self.recorded.lock().unwrap().push("whole");
        if self.refuses_alone.load(Ordering::SeqCst) { Err("the store has failed".into()) } else { Ok(()) }
    }

    fn alone(&self, _pairs: &[u32], _because: Because, _reason: &str) -> Result<(), String> {
        if self.refuses_alone.load(Ordering::SeqCst) {
            return Err("the store has failed".into());
        }
        self.recorded.lock().unwrap().push("alone");
        Ok(())
    }

    fn copying(&self, _pairs: &[u32]) -> Result<(), String> {
        self.recorded.lock().unwrap().push("copying");
        Ok(())
    }

    fn in_step(&self, _pairs: &[u32]) -> Result<(), String> {
        self.recorded.lock().unwrap().push("in step");
        Ok(())
    }
}

struct Upstream {
    clock: Arc<SimClock>,
    pool: SlotPool,
    volume: Arc<Volume>,
    forwarder: Arc<Forwarder>,
    primary: Arc<Primary>,
    book: Arc<Book>,
    capacity: u64,
}

async fn disk(clock: &Arc<SimClock>, pool: &SlotPool, capacity: u64) -> DiskAdapter {
    let disk = DiskAdapter::new(pool.clone(), clock.clone(), CacheSettings::default());
    let latency = Latency { shortest: Duration::from_micros(20), longest: Duration::from_micros(400) };
    let unit = SimDisk::new("u0", 96 * MIB, latency, 3, clock.clone());
    let owner = Owner { array: ArrayIdentity(3), number: 3 };
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
    disk.add_parity_group(ParityGroupId(1), made, MapStart::Format).await.unwrap();
    let (id, kind) = (VolumeId(VOLUME), VolumeKind::Thin);
    let spec = VolumeSpec { id, parity_group: ParityGroupId(1), size_bytes: capacity, kind };
    disk.create_volume(spec).await.unwrap();
    disk
}

impl Upstream {
    async fn new(fence: Fence) -> Self {
        Self::with(fence, 16 * MIB).await
    }

    /// A pair in step, and no connection.
    async fn with(fence: Fence, capacity: u64) -> Self {
        let clock = Arc::new(SimClock::new(1_700_000_000_000_000_000));
        let pool = SlotPool::new(64 << 20);
        let disk = disk(&clock, &pool, capacity).await;
        let book = Arc::new(Book::default());
        let forwarder = Forwarder::new(
            Parts {
                group: "up".to_owned(),
                disk: disk.clone(),
                clock: clock.clone(),
                ledger: book.clone(),
                spawn: Arc::new(|task| drop(tokio::spawn(task))),
                fence,
                fence_wait: FENCE_WAIT,
                copy_unit_bytes: MIB,
            },
            Phase::InStep,
        );
        let primary = Arc::new(Primary {
            held: Mutex::default(),
            said: Mutex::default(),
            sent: Mutex::default(),
            script: Mutex::new(Box::new(|_| Play::Answer)),
            inflow: Arc::default(),
            connections: AtomicU64::new(1),
            created_ns: AtomicU64::default(),
            go_on: Notify::new(),
        });
        let volume = Arc::new(Volume::new(VOLUME, 512, capacity, false, disk));
        let upstream = Self { clock, pool, volume, forwarder, primary, book, capacity };
        upstream.pair_up().await;
        upstream
    }

    async fn pair_up(&self) {
        let pair = ForwardPair::new(PAIR, REMOTE, DifferenceMap::new(self.capacity));
        let attach = || self.volume.set_role(VolumeRole::Forwarding(self.forwarder.clone()));
        self.forwarder.add_pair(VOLUME, pair, attach).await;
    }

    /// A connection at work.
    async fn connect(&self) -> (Arc<Line>, JoinHandle<()>) {
        let (line, forwarder) = (self.primary.line(), self.forwarder.clone());
        let to = line.clone();
        let serving = tokio::spawn(async move { drop(forwarder.serve(to).await) });
        self.pass(20).await;
        (line, serving)
    }

    async fn pass(&self, ms: u64) {
        self.clock.sleep(Duration::from_millis(ms)).await;
    }

    async fn change(&self, page: u64, pages: u64, byte: u8) -> Change {
        let (offset, length) = (page * PAGE, pages * PAGE);
        let mut slots = self.pool.take(Class::Host, pages_touched(offset, length)).await;
        slots.iter_mut().for_each(|slot| slot.fill(byte));
        let slots = slots.into_iter().map(|slot| slot.freeze()).collect();
        Change::new(VOLUME, vec![Part::data(offset, length, slots)])
    }

    /// A host's write of whole pages, each full of `byte`, on its way.
    async fn begin(&self, page: u64, byte: u8, nexus: &Arc<Nexus>) -> JoinHandle<Result<(), IoError>> {
        let writing = self.volume.write(self.change(page, 1, byte).await, true, nexus);
        let begun = tokio::spawn(async move {
            match writing {
                Outcome::Ready(result) => result,
                Outcome::Later(later) => later.await,
            }
        });
        tokio::task::yield_now().await;
        begun
    }

    async fn write(&self, page: u64, byte: u8) -> Result<(), IoError> {
        self.begin(page, byte, &Nexus::for_tests()).await.await.unwrap()
    }

    /// What a host reads.
    async fn page(&self, page: u64) -> u8 {
        let read = self.volume.read(page * PAGE, SLOT_BYTES);
        let pieces = match read {
            Outcome::Ready(pieces) => pieces.unwrap(),
            Outcome::Later(reading) => reading.await.unwrap(),
        };
        pieces.to_vec()[0]
    }

    /// Whether a restart would copy the page.
    fn is_marked(&self, page: u64) -> bool {
        let marks = self.book.marks.lock().unwrap().clone();
        let parts = marks.into_iter().map(|((_, part), bytes)| (part, bytes));
        DifferenceMap::load(self.capacity, parts).unwrap().is_marked(page * PAGE, PAGE)
    }
}

/// Defect 1: the fence `data`, or `never` when going alone cannot be recorded. The write was journaled at the primary and
/// failed afterwards; the mark went, and the two sides differed for good.
#[test]
fn a_write_that_failed_after_it_was_sent_is_undone_by_a_copy_of_its_region() {
    for (fence, play) in [
        (Fence::Data, Play::ApplyAndRefuse),
        (Fence::Data, Play::ApplyAndStall),
        (Fence::Data, Play::Stall),
        (Fence::Never, Play::ApplyAndRefuse),
        (Fence::Never, Play::ApplyAndStall),
    ] {
        life(async {
            let upstream = Upstream::new(fence).await;
            upstream.book.refuses_alone.store(true, Ordering::SeqCst);
            let (_line, serving) = upstream.connect().await;
            upstream.write(3, 1).await.unwrap();
            upstream.primary.play(move |_| play);
            assert!(upstream.write(3, 2).await.is_err());
            assert_eq!(upstream.page(3).await, 1, "what failed is not seen");
            assert_eq!(upstream.forwarder.phase(), Phase::Copying, "{fence:?} {play:?}");
            assert!(upstream.is_marked(3));
            serving.await.unwrap();
            // What still lies in a queue there comes too late.
            upstream.primary.play(|_| Play::Answer);
            let (_line, _serving) = upstream.connect().await;
            upstream.primary.go_on.notify_waiters();
            upstream.pass(100).await;
            assert_eq!(upstream.forwarder.phase(), Phase::InStep);
            assert_eq!((upstream.page(3).await, upstream.primary.page(3)), (1, 1), "{fence:?} {play:?}");
            upstream.write(3, 4).await.unwrap();
            assert_eq!((upstream.page(3).await, upstream.primary.page(3)), (4, 4));
            assert_eq!(*upstream.book.recorded.lock().unwrap(), ["copying", "in step"]);
        });
    }
}

/// A write that was never sent has happened nowhere: nothing needs a copy.
#[test]
fn a_write_that_failed_before_it_was_sent_changes_nothing() {
    life(async {
        let upstream = Upstream::new(Fence::Data).await;
        assert!(upstream.write(3, 2).await.is_err(), "there is no connection");
        assert_eq!(upstream.forwarder.phase(), Phase::InStep);
        assert_eq!(upstream.forwarder.stale_bytes(VOLUME), 0);
    });
}

/// Defect 2: the role of the volume was plain before what was on its way had ended. The old write landed over a newer one,
/// or, with the fence `data`, the owner of the array waited for it without end.
#[test]
fn a_pair_that_goes_lets_what_is_under_way_end_before_hosts_write_the_plain_volume() {
    for fence in [Fence::Data, Fence::Never] {
        life(async {
            let upstream = Upstream::new(fence).await;
            let (_line, _serving) = upstream.connect().await;
            upstream.primary.play(|_| Play::Stall);
            let nexus = Nexus::for_tests();
            let old = upstream.begin(3, 1, &nexus).await;
            upstream.pass(10).await;
            assert!(upstream.forwarder.end_pair(VOLUME) && !upstream.forwarder.end_pair(VOLUME));
            let newer = upstream.begin(3, 2, &nexus).await;
            let forwarder = upstream.forwarder.clone();
            let detached = Arc::new(AtomicBool::default());
            let (volume, noted, old) = (upstream.volume.clone(), detached.clone(), Arc::new(old));
            let before = old.clone();
            let removed = tokio::time::timeout(
                Duration::from_secs(1),
                forwarder.remove_pair(VOLUME, move || {
                    assert!(before.is_finished(), "the volume was plain while a write was forwarded");
                    volume.set_role(VolumeRole::Plain);
                    noted.store(true, Ordering::SeqCst);
                }),
            );
            removed.await.expect("it waits for nobody else");
            assert!(detached.load(Ordering::SeqCst));
            newer.await.unwrap().unwrap();
            upstream.write(4, 3).await.unwrap();
            upstream.primary.go_on.notify_waiters();
            upstream.pass(10_000).await;
            assert_eq!((upstream.page(3).await, upstream.page(4).await), (2, 3));
            assert_eq!(upstream.primary.page(4), 0, "nothing of it is sent any more");
            // It can be made a pair again.
            upstream.primary.play(|_| Play::Answer);
            upstream.pair_up().await;
            let (_line, _serving) = upstream.connect().await;
            upstream.write(5, 6).await.unwrap();
            assert_eq!(upstream.primary.page(5), 6);
        });
    }
}

/// Defect 4: one slow write and more quick ones behind it than the primary remembers. It refused, and the group went alone
/// on a healthy link.
#[test]
fn one_slow_write_holds_up_those_that_come_much_later_and_no_more() {
    life(async {
        let upstream = Upstream::new(Fence::Never).await;
        let (_line, _serving) = upstream.connect().await;
        upstream.primary.play(|write| match write.change.parts[0].offset_bytes {
            0 => Play::Stall,
            _ => Play::Answer,
        });
        let nexus = Nexus::for_tests();
        let slow = upstream.begin(0, 1, &nexus).await;
        let mut quick = Vec::new();
        for number in 0..WINDOW as u64 + 200 {
            quick.push(upstream.begin(1 + number, 2, &nexus).await);
            if number % 64 == 0 {
                upstream.pass(20).await;
            }
        }
        upstream.pass(500).await;
        assert!(!slow.is_finished());
        let done = quick.iter().filter(|write| write.is_finished()).count();
        assert_eq!(done, WINDOW - 1, "all numbers that the primary remembers are used");
        upstream.primary.go_on.notify_waiters();
        upstream.pass(500).await;
        assert!(slow.is_finished() && quick.iter().all(JoinHandle::is_finished));
        assert_eq!(upstream.forwarder.phase(), Phase::InStep);
    });
}

/// Defect 5: a copy that was cut began at zero, because marks were forgotten only in step.
#[test]
fn a_copy_that_is_cut_goes_on_where_it_was_also_behind_a_restart() {
    life(async {
        let upstream = Upstream::new(Fence::Never).await;
        upstream.forwarder.go_alone(Because::Unreachable, "for a test").unwrap();
        for mebibyte in 0..16 {
            upstream.write(mebibyte * 256, 5).await.unwrap();
        }
        let all = upstream.forwarder.stale_bytes(VOLUME);
        assert_eq!(all, 16 * 64 * 1024);
        let answered = AtomicU64::new(0);
        upstream.primary.play(move |_| match answered.fetch_add(1, Ordering::SeqCst) {
            0..10 => Play::Answer,
            _ => Play::Stall,
        });
        let (line, serving) = upstream.connect().await;
        // Long enough for what is at rest to be forgotten.
        upstream.pass(10_000).await;
        line.cut();
        serving.await.unwrap();
        assert_eq!(upstream.forwarder.stale_bytes(VOLUME), 6 * 64 * 1024);
        let marked = (0..16).filter(|mebibyte| upstream.is_marked(mebibyte * 256)).count();
        assert_eq!(marked, 6, "a restart copies these");
        upstream.primary.play(|_| Play::Answer);
        upstream.primary.take_sent();
        let (_line, _serving) = upstream.connect().await;
        upstream.pass(1000).await;
        assert_eq!(upstream.primary.take_sent().len(), 6);
        assert_eq!(upstream.forwarder.phase(), Phase::InStep);
        for mebibyte in 0..16 {
            assert_eq!(upstream.primary.page(mebibyte * 256), 5);
        }
    });
}

/// Defect 7: a write whose session was over became visible when the link returned, perhaps hours later (invariant 8).
#[test]
fn a_write_whose_session_has_ended_never_becomes_visible() {
    for (fence, play) in
        [(Fence::Never, Play::Stall), (Fence::Never, Play::ApplyAndStall), (Fence::Data, Play::Stall)]
    {
        life(async {
            let upstream = Upstream::new(fence).await;
            let (line, serving) = upstream.connect().await;
            upstream.primary.play(move |_| play);
            let nexus = Nexus::for_tests();
            let write = upstream.begin(3, 7, &nexus).await;
            upstream.pass(100).await;
            nexus.end_for_tests();
            upstream.pass(100).await;
            assert!(!write.is_finished(), "its session ends with it, not before it");
            assert!(write.await.unwrap().is_err());
            assert!(upstream.clock.now().0 < 2_000_000_000, "and not much later");
            line.cut();
            serving.await.unwrap();
            upstream.primary.play(|_| Play::Answer);
            let (_line, _serving) = upstream.connect().await;
            upstream.primary.go_on.notify_waiters();
            upstream.pass(20_000).await;
            assert_eq!((upstream.page(3).await, upstream.primary.page(3)), (0, 0), "{fence:?} {play:?}");
            assert_eq!(upstream.forwarder.phase(), Phase::InStep);
        });
    }
}

/// What is answered in time ends as always, though its session is over.
#[test]
fn the_end_of_a_session_waits_for_a_primary_that_answers() {
    life(async {
        let upstream = Upstream::new(Fence::Never).await;
        let (_line, _serving) = upstream.connect().await;
        upstream.primary.play(|_| Play::Stall);
        let nexus = Nexus::for_tests();
        let write = upstream.begin(3, 7, &nexus).await;
        nexus.end_for_tests();
        upstream.pass(100).await;
        upstream.primary.go_on.notify_waiters();
        write.await.unwrap().unwrap();
        assert_eq!((upstream.page(3).await, upstream.primary.page(3)), (7, 7));
        assert_eq!(upstream.forwarder.phase(), Phase::InStep);
        assert_eq!(upstream.primary.said.lock().unwrap().len(), 1, "the connection goes on");
    });
}

/// Defect 9: the pair was taken up, and could be copied, before hosts' writes came this way.
#[test]
fn hosts_writes_come_this_way_before_a_new_pair_can_be_copied() {
    life(async {
        let upstream = Upstream::new(Fence::Never).await;
        assert!(upstream.forwarder.end_pair(VOLUME));
        upstream.forwarder.remove_pair(VOLUME, || upstream.volume.set_role(VolumeRole::Plain)).await;
        let (_line, serving) = upstream.connect().await;
        serving.await.unwrap();
        assert!(upstream.primary.said.lock().unwrap().is_empty(), "there is nothing to say");
        let mut pair = ForwardPair::new(PAIR, REMOTE, DifferenceMap::new(upstream.capacity));
        pair.mark_all();
        let attach = || {
            assert_eq!(upstream.forwarder.pair_of(VOLUME), None, "nothing can be copied yet");
            upstream.volume.set_role(VolumeRole::Forwarding(upstream.forwarder.clone()));
        };
        upstream.forwarder.add_pair(VOLUME, pair, attach).await;
        let nexus = Nexus::for_tests();
        let write = upstream.begin(3, 7, &nexus).await;
        let (_line, _serving) = upstream.connect().await;
        let said = upstream.primary.said.lock().unwrap()[0].clone();
        let all = Announcement { what: Announced::Copying, volumes: vec![REMOTE], whole: vec![REMOTE] };
        assert_eq!(said, all);
        upstream.pass(2000).await;
        write.await.unwrap().unwrap();
        assert_eq!((upstream.page(3).await, upstream.primary.page(3)), (7, 7));
        assert_eq!(upstream.primary.last_said().what, Announced::InStep);
    });
}

/// Defect 10: a region of a volume above 32 TiB is longer than what a forwarded write may be; the copy never ended.
#[test]
fn the_regions_of_the_largest_volumes_are_copied_in_pieces() {
    life(async {
        let upstream = Upstream::with(Fence::Never, 256 << 40).await;
        assert!(DifferenceMap::new(upstream.capacity).region_bytes() > u64::from(MAX_FORWARDED_BYTES));
        upstream.forwarder.go_alone(Because::Unreachable, "for a test").unwrap();
        let nexus = Nexus::for_tests();
        for mebibyte in 0..8 {
            let change = upstream.change(mebibyte * 256, 256, 9).await;
            let Outcome::Later(writing) = upstream.volume.write(change, true, &nexus) else { panic!() };
            writing.await.unwrap();
        }
        let (_line, _serving) = upstream.connect().await;
        upstream.pass(5000).await;
        assert_eq!(upstream.forwarder.phase(), Phase::InStep);
        assert_eq!(upstream.primary.held.lock().unwrap().len(), 2048);
    });
}

/// The primary records when the command came from its host, not when the link was there again; a copy says nothing of that.
#[test]
fn a_forwarded_write_says_when_it_was_created() {
    life(async {
        let upstream = Upstream::new(Fence::Never).await;
        let created = upstream.clock.wall().0;
        let write = upstream.begin(3, 7, &Nexus::for_tests()).await;
        upstream.pass(3000).await;
        let (_line, _serving) = upstream.connect().await;
        write.await.unwrap().unwrap();
        assert_eq!(upstream.primary.created_ns.load(Ordering::SeqCst), created);
        upstream.forwarder.go_alone(Because::Unreachable, "for a test").unwrap();
        upstream.write(3, 8).await.unwrap();
        let (_line, _serving) = upstream.connect().await;
        upstream.pass(100).await;
        assert_eq!(upstream.primary.page(3), 8);
        assert_eq!(upstream.primary.created_ns.load(Ordering::SeqCst), 0);
    });
}

/// WRITE ATOMIC: what a start has to write again is kept before anything is seen, and gone before anybody else may write there.
#[test]
fn an_atomic_write_is_kept_from_before_it_is_seen_until_it_is_durable() {
    life(async {
        let upstream = Upstream::new(Fence::Never).await;
        assert!(upstream.volume.writes_atomically());
        let (_line, _serving) = upstream.connect().await;
        let nexus = Nexus::for_tests();
        let atomic = |byte| {
            let upstream = &upstream;
            let nexus = &nexus;
            async move {
                let change = Change { whole: true, ..upstream.change(3, 2, byte).await };
                let writing = upstream.volume.write_as(change, Manner::Alone, false, nexus);
                let Outcome::Later(later) = writing else { panic!("it is forwarded first") };
                later.await
            }
        };
        upstream.primary.play(|_| Play::Stall);
        let (first, ()) = tokio::join!(atomic(1), async {
            upstream.pass(50).await;
            assert!(upstream.book.recorded.lock().unwrap().is_empty(), "it may fail yet");
            upstream.primary.go_on.notify_waiters();
        });
        first.unwrap();
        upstream.primary.play(|_| Play::Answer);
        assert_eq!(*upstream.book.recorded.lock().unwrap(), ["atomic", "whole"]);
        upstream.forwarder.go_alone(Because::Unreachable, "for a test").unwrap();
        atomic(2).await.unwrap();
        assert_eq!(*upstream.book.recorded.lock().unwrap(), ["atomic", "whole", "alone", "atomic", "whole"]);
        // A row that cannot be taken away is written again by the next start: nothing newer may lie there then.
        upstream.book.refuses_alone.store(true, Ordering::SeqCst);
        assert!(atomic(3).await.is_err());
        let over = upstream.begin(4, 9, &nexus).await;
        let beside = upstream.begin(5, 9, &nexus).await;
        upstream.pass(30_000).await;
        assert!(!over.is_finished() && beside.is_finished());
    });
}

/// The simulation found an auxiliary that took three of eight volumes for an image: the other five pairs were on their way.
#[test]
fn no_copy_ends_before_all_pairs_of_the_group_take_part() {
    life(async {
        let upstream = Upstream::new(Fence::Never).await;
        upstream.forwarder.go_alone(Because::Unreachable, "for a test").unwrap();
        upstream.write(3, 8).await.unwrap();
        upstream.forwarder.set_incomplete(true);
        let (_line, _serving) = upstream.connect().await;
        upstream.pass(5000).await;
        assert_eq!(upstream.primary.page(3), 8, "it is copied all the same");
        assert_eq!(
            (upstream.forwarder.phase(), upstream.primary.last_said().what),
            (Phase::Copying, Announced::Copying)
        );
        upstream.forwarder.set_incomplete(false);
        upstream.pass(10).await;
        assert_eq!(
            (upstream.forwarder.phase(), upstream.primary.last_said().what),
            (Phase::InStep, Announced::InStep)
        );
    });
}
