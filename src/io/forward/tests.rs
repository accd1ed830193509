//! One upstream array in one thread, and a primary that the test plays: it answers, refuses or says nothing, as it is told,
//! and what it was sent becomes its own or does not.

use crate::channel::storage::Nexus;
use crate::clock::{BoxFuture, Clock, SeededEntropy, SimClock, WallNs};
use crate::copy::change::{Change, Content, Part, pages_touched};
use crate::copy::differences::{ChangedPart, DifferenceMap};
use crate::copy::forward::{
    Announced, Announcement, Because, Downstream, ForwardError, ForwardPair, Forwarder, Lack, Ledger,
    Outgoing, Parts, Phase, WINDOW, wire,
};
use crate::copy::group::{Refusal, Sequenced};
use crate::copy::inflow::{Connection, Inflow};
use crate::disk::cache::{CacheSettings, ParityGroupId, VolumeSpec};
use crate::disk::io::sim::{Latency, SimDisk};
use crate::disk::raid::assemble::Making;
use crate::disk::raid::group::ParityGroup;
use crate::disk::raid::{ArrayIdentity, GroupIdentity, GroupSpec, Level, Owner};
use crate::disk::slot::{Class, SLOT_BYTES, SlotPool};
use crate::disk::space::{MapStart, Opening};
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

mod stories;

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
    disk.add_parity_group(ParityGroupId(1), made, MapStart::Format, Opening::default()).await.unwrap();
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
