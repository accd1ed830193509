//! Journal read processing at an auxiliary: figures 18 to 20.
//!
//! A follower keeps journal reads outstanding on the lanes of a link (J8). Answers may arrive in any order; updates are
//! stored strictly by number, and a range that was lost with its lane is asked for again (`arrivals.rs`). When the
//! next read is sent, and for how much, is a choice of this array (`pace.rs`). What cannot be stored for want of
//! room is held and tried again, or dropped and asked for again with retry indication: a choice of the group (step
//! 1755). When lane 0 fails everything is dropped, and the next session begins by naming the first number that this
//! array does not have, so a repeated answer is never stored twice.
//!
//! The peer is not believed: head, records and data carry checksums, numbers must be the next ones, sizes are bounded
//! (`received.rs`).

use super::answer::{AnswerError, Head, MAX_ANSWER_BYTES, MAX_UPDATES, Outcome};
use super::arrivals::{Arrivals, Ticket};
use super::change::Payload;
pub use super::error::FetchError;
use super::group::{Group, Refusal, SvolRuntime};
use super::pace::{self, Pacer, Readings, adaptive_size, permille};
use super::received::decode;
use super::rest::Rests;
use super::source::{Ask, Source, SourceError, Wanted};
use crate::clock::{BoxFuture, MonotonicNs};
use crate::disk::slot::{Class, SLOT_BYTES, Slot};
use crate::volume::kind::{NoRoom, Schedule};
use crate::volume::timing::{ReadInput, ReadInputs, ReadSize, ReadTiming};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use holdfast_journal::reader::Report;
use holdfast_journal::{Kind, Update, UpdateNumber};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Whose journal is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// That of the array whose copy this one is.
    Source,
    /// That of another copy (promise T5).
    Other,
}

/// How reading goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Reading {
    /// No answer has come yet.
    #[default]
    Waiting,
    /// Answers come.
    Going,
    /// There is no room here for what has come.
    NoRoom,
    /// It ended for this reason and is tried again.
    Retrying(String),
}

/// Updates as received, by number, until they are stored.
type Arrived = BTreeMap<UpdateNumber, (Arc<Update>, Payload)>;

/// A read under way.
#[derive(Clone, Copy)]
struct Flight {
    lane: usize,
    ticket: Ticket,
    /// Room that it gave for its answer.
    room_bytes: u32,
}

/// What an answer came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    /// Updates were stored, or wait for earlier ones.
    Updates,
    /// Step 1720: nothing new.
    Nothing,
    /// The next update needs that much room.
    MoreRoom(u32),
    /// Figure 20, step 1820: what has come is dropped.
    NoRoom,
}

type Reads<'a> = FuturesUnordered<BoxFuture<'a, (Flight, Result<Vec<Slot>, SourceError>)>>;

impl Group {
    /// When this array reads and restores the group from now on.
    pub(crate) fn set_schedule(&self, schedule: Schedule) {
        self.schedule.send_if_modified(|own| std::mem::replace(own, schedule) != schedule);
    }

    /// Reads over one link until it fails. `source_group` is the group's number there.
    pub(crate) async fn follow(
        self: &Arc<Self>,
        source: &dyn Source,
        source_group: u32,
        whose: Whose,
    ) -> FetchError {
        if let Err(error) = self.meet(source, source_group).await {
            self.set_reading(Reading::Retrying(error.to_string()));
            return error;
        }
        let reporting = self.report_positions(source, source_group);
        let copying = self.pull_copies(source, source_group);
        let leasing = async {
            match whose {
                Whose::Source => self.hold_lease(source, source_group).await,
                Whose::Other => std::future::pending().await,
            }
        };
        let mut schedules = self.schedule.subscribe();
        let schedule = *schedules.borrow_and_update();
        let mut follower = Follower {
            group: self,
            source,
            source_group,
            schedule,
            schedules,
            due: self.clock.now(),
            arrivals: Arrivals::default(),
            pacer: Pacer::new(inputs(schedule.read), self.clock.now()),
            lanes: vec![0; source.lanes()],
            room_bytes: None,
            is_busy: false,
            whose,
            begun: self.rests(),
        };
        let reading = follower.run();
        tokio::pin!(reporting, reading, copying, leasing);
        let error = tokio::select! {
            biased;
            () = self.closing.begins() => FetchError::Closed,
            error = reading => error,
            error = reporting => error,
            error = copying => error,
            error = leasing => error,
        };
        self.set_reading(Reading::Retrying(error.to_string()));
        error
    }

    /// How reading goes.
    pub(crate) fn reading(&self) -> Reading {
        self.lock().reading.clone()
    }

    fn set_reading(&self, reading: Reading) {
        let mut seq = self.lock();
        if seq.reading != reading {
            seq.reading = reading;
            drop(seq);
            self.changed.notify_waiters();
        }
    }

    /// How large the S-VOLs are here, by the P-VOLs' numbers.
    pub(super) fn capacities(&self) -> BTreeMap<u32, u64> {
        let sizes: BTreeMap<u32, u64> =
            self.disk.volumes().into_iter().map(|spec| (spec.id.0, spec.size_bytes)).collect();
        let seq = self.lock();
        let known = |(pvol, svol): (&u32, &SvolRuntime)| Some((*pvol, *sizes.get(&svol.volume)?));
        seq.svols.iter().filter_map(known).collect()
    }

    /// Where this array is, for the array it reads from.
    pub(crate) fn position(&self) -> Report {
        let seq = self.lock();
        let position = Report {
            acknowledged: seq.journal.durable(),
            restored: seq.restored,
            settled: seq.settled,
            consistent_from: seq.consistent_from,
        };
        self.tamper.as_ref().map_or(position, |tamper| tamper.position(position))
    }

    /// Whether an update is a hole where this array has an S-VOL.
    fn lacks(&self, update: &Update) -> bool {
        let seq = self.lock();
        update.kind == Kind::Void
            && update.extents.iter().any(|extent| seq.svols.contains_key(&extent.volume.0))
    }
}

/// Reading over one link.
struct Follower<'a> {
    group: &'a Arc<Group>,
    source: &'a dyn Source,
    source_group: u32,
    schedule: Schedule,
    /// Says that there is another one.
    schedules: watch::Receiver<Schedule>,
    /// When the next read of a periodic schedule is sent.
    due: MonotonicNs,
    arrivals: Arrivals<(Arc<Update>, Payload)>,
    pacer: Pacer,
    /// Reads under way on each lane.
    lanes: Vec<usize>,
    /// Room that the next update needs, when the usual room was too small.
    room_bytes: Option<u32>,
    /// The last answer brought something.
    is_busy: bool,
    whose: Whose,
    /// What was asked for by it counts as long as this is so (`rest.rs`).
    begun: Rests,
}

impl<'a> Follower<'a> {
    async fn run(&mut self) -> FetchError {
        match self.try_run().await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn try_run(&mut self) -> Result<std::convert::Infallible, FetchError> {
        let mut reads: Reads<'a> = FuturesUnordered::new();
        // Alone, and not held there: it sets the cursor before any other lane is heard.
        let first = self.group.lock().next;
        self.send(&mut reads, 0, Wanted::From(first), Duration::ZERO);
        loop {
            let Some((flight, answer)) = self.next_ended(&mut reads).await else {
                self.fill_lanes(&mut reads);
                if reads.is_empty() && !self.is_periodic() {
                    return Err(FetchError::Record("no read in flight".into()));
                }
                continue;
            };
            self.handle_ended(flight);
            let taken = match answer {
                Ok(pages) => self.take_answer(pages).await?,
                // On a lane that is still open the source has refused the read: that is no loss.
                Err(error) if flight.lane == 0 || self.source.is_open(flight.lane) => {
                    return Err(error.into());
                }
                // What it carried is missed by its numbers.
                Err(_) => Taken::Updates,
            };
            match taken {
                Taken::NoRoom => {
                    self.begin_again(&mut reads).await?;
                    continue;
                }
                Taken::MoreRoom(needed) => {
                    let whole = usize::try_from(needed).is_ok_and(|needed| needed.is_multiple_of(SLOT_BYTES));
                    if !whole || needed > MAX_ANSWER_BYTES || flight.room_bytes >= needed {
                        return Err(AnswerError::Field("room needed").into());
                    }
                    self.room_bytes = self.room_bytes.max(Some(needed));
                }
                Taken::Updates | Taken::Nothing => {}
            }
            self.is_busy = taken == Taken::Updates;
            self.ask_for_lost(&mut reads)?;
            if taken == Taken::Nothing || self.pauses_always() {
                self.pause().await?;
            }
            self.fill_lanes(&mut reads);
        }
    }

    /// The next read that has ended. None when something else has to be looked at: another schedule, a read that is due,
    /// or nothing under way.
    async fn next_ended(
        &mut self,
        reads: &mut Reads<'a>,
    ) -> Option<(Flight, Result<Vec<Slot>, SourceError>)> {
        if !self.is_periodic() {
            return reads.next().await;
        }
        let left = self.due.since(self.group.clock.now());
        tokio::select! {
            biased;
            Some(ended) = reads.next(), if !reads.is_empty() => Some(ended),
            () = self.group.clock.sleep(left) => None,
            _ = self.schedules.changed() => None,
        }
    }

    /// Another schedule counts from here on.
    fn take_schedule(&mut self) {
        let schedule = *self.schedules.borrow_and_update();
        if schedule.read != self.schedule.read {
            self.pacer.set_inputs(inputs(schedule.read));
            self.due = self.group.clock.now();
        }
        self.schedule = schedule;
    }

    /// Whether a read is due, which then no longer is. The next ones stay on the grid of the first one; what fell due
    /// while no lane was free is sent once.
    fn take_due(&mut self, interval: Duration) -> bool {
        let now = self.group.clock.now();
        if now < self.due {
            return false;
        }
        let interval_ns = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX).max(1);
        let behind_ns = now.0 - self.due.0;
        self.due = MonotonicNs(now.0 - behind_ns % interval_ns + interval_ns);
        true
    }

    /// As many reads of what follows as the schedule keeps under way (step 1760).
    fn fill_lanes(&mut self, reads: &mut Reads<'a>) {
        self.take_schedule();
        let wanted = self.reads_wanted();
        let (depth, wait) = match self.schedule.read {
            ReadTiming::Immediate => {
                (wanted.div_ceil(self.lanes.len().max(1)).max(READS_IN_FLIGHT), LONG_POLL)
            }
            ReadTiming::Every(_) | ReadTiming::Fixed(_) | ReadTiming::Adaptive(_) => (1, Duration::ZERO),
            ReadTiming::Periodic(interval) => {
                let free =
                    (0..self.lanes.len()).find(|lane| self.lanes[*lane] == 0 && self.source.is_open(*lane));
                let crowded = self.arrivals.is_crowded() && !reads.is_empty();
                if self.take_due(interval)
                    && let Some(lane) = free.filter(|_| !crowded)
                {
                    self.send(reads, lane, Wanted::Next, Duration::ZERO);
                }
                return;
            }
        };
        for _ in 0..depth {
            for lane in 0..self.lanes.len() {
                let crowded = self.arrivals.is_crowded() && !reads.is_empty();
                // What other groups have under way on the link counts, too.
                let is_enough =
                    self.lanes[lane] >= READS_IN_FLIGHT && self.source.reads_under_way() >= wanted;
                if self.lanes[lane] < depth && self.source.is_open(lane) && !crowded && !is_enough {
                    self.send(reads, lane, Wanted::Next, wait);
                }
            }
        }
    }

    /// Reads to keep under way on the link, so that a long one does not stand idle between an answer and the next; few
    /// while nothing comes, because each keeps its room.
    fn reads_wanted(&self) -> usize {
        if !self.is_busy {
            return 0;
        }
        let pool = &self.group.pool;
        let memory = pool.largest_request(Class::Inbound) as u64 * SLOT_BYTES as u64 / ROOM_SHARE;
        let (_, room) = self.size();
        let rates = (self.source.seen_bytes_per_s(), self.source.limit_bytes_per_s());
        pace::reads_in_flight(self.source.round_trip(), rates, room.into(), memory)
    }

    fn send(&mut self, reads: &mut Reads<'a>, lane: usize, what: Wanted, wait: Duration) {
        let (updates, room_bytes) = self.size();
        let updates = match what {
            Wanted::Again { count, .. } => count.min(updates),
            Wanted::Next | Wanted::From(_) | Wanted::Retry => updates,
        };
        let room_bytes = room_bytes.max(self.room_bytes.unwrap_or(0));
        let ask = Ask { what, updates, room_bytes, position: self.group.position(), wait };
        let flight = Flight { lane, ticket: self.arrivals.handle_sent(), room_bytes };
        self.lanes[lane] += 1;
        let answer = self.source.journal_read(lane, self.source_group, ask);
        reads.push(Box::pin(async move { (flight, answer.await) }));
    }

    fn handle_ended(&mut self, flight: Flight) {
        self.arrivals.handle_ended(flight.ticket);
        self.lanes[flight.lane] -= 1;
    }

    fn ask_for_lost(&mut self, reads: &mut Reads<'a>) -> Result<(), FetchError> {
        let next = self.group.lock().next;
        if let Some(missing) = self.arrivals.poll_missing(next)? {
            tracing::debug!(group = %self.group.name, ?missing, "asking again for what was lost");
            self.send(reads, 0, Wanted::Again { first: missing.first, count: missing.count }, Duration::ZERO);
        }
        Ok(())
    }

    /// How much a read asks for (J5): updates, and room for the answer in whole pages.
    fn size(&self) -> (u32, u32) {
        let group = u64::from(self.group.settings.read_bytes);
        let (updates, bytes) = match self.schedule.read_size {
            ReadSize::Group => (MAX_UPDATES, group),
            ReadSize::Updates(updates) => (updates, group),
            ReadSize::Bytes(bytes) => (MAX_UPDATES, bytes),
            ReadSize::Adaptive => {
                let (updates, bytes) = adaptive_size(&self.readings());
                (updates, bytes.min(group))
            }
        };
        let bytes = bytes.min(self.source.limit_bytes_per_s().map_or(u64::MAX, pace::answer_bytes_max));
        // Data up to twice that, because the last update may be as long as all before it, and the records.
        let room = (2 * bytes).next_multiple_of(SLOT_BYTES as u64) + RECORD_ROOM_BYTES;
        (updates, u32::try_from(room).unwrap_or(MAX_ANSWER_BYTES).min(MAX_ANSWER_BYTES))
    }

    fn is_periodic(&self) -> bool {
        matches!(self.schedule.read, ReadTiming::Periodic(_))
    }

    /// Whether also what found something is followed by a pause.
    fn pauses_always(&self) -> bool {
        matches!(self.schedule.read, ReadTiming::Fixed(_) | ReadTiming::Adaptive(_))
    }

    /// Time passes; false if another schedule ended that.
    async fn sleep(&mut self, time: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.group.clock.sleep(time) => true,
            _ = self.schedules.changed() => false,
        }
    }

    /// Steps 1725 and 1760. What the source says of its journal by JOURNAL INFORMATION may end a long pause.
    async fn pause(&mut self) -> Result<(), FetchError> {
        match self.schedule.read {
            ReadTiming::Immediate | ReadTiming::Periodic(_) => {}
            ReadTiming::Every(interval) | ReadTiming::Fixed(interval) => {
                self.sleep(interval).await;
            }
            ReadTiming::Adaptive(inputs) => {
                let mut waited = Duration::ZERO;
                loop {
                    let interval = self.pacer.interval(&self.readings());
                    let left = interval.saturating_sub(waited);
                    if left.is_zero() {
                        return Ok(());
                    }
                    if !self.sleep(left.min(LOOK_EVERY)).await {
                        return Ok(());
                    }
                    waited += left.min(LOOK_EVERY);
                    let asks = inputs.has(ReadInput::SourceJournal) || inputs.has(ReadInput::SourcePointers);
                    if asks && left > LOOK_EVERY {
                        let head = self.source.journal_information(self.source_group).await?;
                        self.group.note_source(&self.source.news(Head::decode(&head)?.0));
                    }
                }
            }
        }
        Ok(())
    }

    fn readings(&self) -> Readings {
        let seq = self.group.lock();
        let usage = seq.journal.usage();
        let full =
            |info: (u64, u64), data: (u64, u64)| permille(info.0, info.1).max(permille(data.0, data.1));
        let mut readings = Readings {
            journal_permille: full(
                (usage.info_used, usage.info_capacity),
                (usage.data_used, usage.data_capacity),
            ),
            ..Readings::default()
        };
        if let Some(head) = &seq.source {
            readings.source_journal_permille = full(head.information_bytes, head.data_bytes);
            readings.unread_updates = head.newest_durable.saturating_sub(head.first.saturating_sub(1));
            readings.unread_bytes = head.unread_bytes;
            let held = head.pointers;
            readings.held_permille = permille(held.held_information, head.information_bytes.1)
                .max(permille(held.held_data, head.data_bytes.1));
        }
        drop(seq);
        readings.load_permille = self.group.load_permille();
        readings.link_permille = self.source.link_permille();
        readings
    }

    /// Step 1755, first way: what has come is dropped; once every read has ended, and after a pause, everything that is
    /// not durable here is asked for again.
    async fn begin_again(&mut self, reads: &mut Reads<'a>) -> Result<(), FetchError> {
        while let Some((flight, answer)) = reads.next().await {
            self.handle_ended(flight);
            if let (Err(error), 0) = (answer, flight.lane) {
                return Err(error.into());
            }
        }
        self.arrivals.clear();
        self.group.clock.sleep(NO_ROOM_PAUSE).await;
        self.send(reads, 0, Wanted::Retry, Duration::ZERO);
        Ok(())
    }

    /// Steps 1720 to 1800 for one answer.
    async fn take_answer(&mut self, pages: Vec<Slot>) -> Result<Taken, FetchError> {
        let group = self.group;
        let (head, received) = decode(pages, self.source_group, &group.capacities())?;
        if self.whose == Whose::Source {
            group.hears_if_second(head.is_second);
        }
        let head = self.source.news(head);
        let handed_out = |number: u64| UpdateNumber::new(number);
        match head.outcome {
            Outcome::Updates => {}
            Outcome::NoJournal => {
                self.arrivals.handle_handed_out(handed_out(head.first.saturating_sub(1)));
                self.pacer.handle_received(group.clock.now(), 0, 0);
                group.note_source(&head);
                group.set_reading(Reading::Going);
                return Ok(Taken::Nothing);
            }
            Outcome::GroupNotNormal => return Err(FetchError::GroupNotNormal(received.reason)),
            Outcome::NotHeld => return Err(FetchError::NotHeld(head.first)),
            Outcome::Suspended => return Err(FetchError::Suspended),
            Outcome::MoreRoom => return Ok(Taken::MoreRoom(head.room_bytes)),
            Outcome::CopyEnded | Outcome::Tables => return Err(AnswerError::Field("outcome").into()),
        }
        self.room_bytes = None;
        self.arrivals.handle_handed_out(handed_out((head.first + u64::from(head.updates)).saturating_sub(1)));
        let left =
            head.newest_durable.saturating_sub((head.first + u64::from(head.updates)).saturating_sub(1));
        self.pacer.handle_received(group.clock.now(), u64::from(head.updates), left);
        let next = group.lock().next;
        for (update, payload) in received.updates.into_iter().filter(|(update, _)| update.number >= next) {
            if self.whose == Whose::Other && group.lacks(&update) {
                return Err(FetchError::Hole(update.number.get()));
            }
            let bytes = payload.slots.len() * SLOT_BYTES;
            self.arrivals.handle_arrived(update.number, bytes, (update, payload))?;
        }
        // What stands behind this answer is not read yet: the head itself says where this read began.
        let read_start = head.first + u64::from(head.updates);
        group.note_source(&Head { first: read_start, ..head });
        self.store_contiguous().await
    }

    /// Stores what follows the newest number held (figure 20).
    async fn store_contiguous(&mut self) -> Result<Taken, FetchError> {
        let group = self.group;
        let (mut ready, mut next) = (Arrived::new(), group.lock().next);
        while let Some((update, payload)) = self.arrivals.poll_next(next) {
            ready.insert(next, (update, payload));
            next = next.next();
        }
        loop {
            let room = group.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            match group.try_store(&mut ready, self.whose, Some(self.begun)) {
                Ok(()) => {
                    group.set_reading(Reading::Going);
                    return Ok(Taken::Updates);
                }
                Err(Refusal::NoRoom) => {
                    group.set_reading(Reading::NoRoom); // Step 1820.
                    if group.settings.no_room == NoRoom::Retry {
                        return Ok(Taken::NoRoom);
                    }
                    room.await;
                }
                Err(Refusal::Leaving | Refusal::Again | Refusal::Fenced) => room.await,
                Err(Refusal::Invalid(reason)) => return Err(FetchError::Store(reason)),
            }
        }
    }
}

fn inputs(timing: ReadTiming) -> ReadInputs {
    match timing {
        ReadTiming::Adaptive(inputs) => inputs,
        ReadTiming::Immediate | ReadTiming::Every(_) | ReadTiming::Fixed(_) | ReadTiming::Periodic(_) => {
            ReadInputs::default()
        }
    }
}

/// The part of the memory for what arrives that the room of a link's reads may take.
const ROOM_SHARE: u64 = 8;
/// Journal reads outstanding at a time on one lane at least.
const READS_IN_FLIGHT: usize = 2;
/// How long the primary may hold a read when it has nothing: a lost link is found within it and the time limit.
const LONG_POLL: Duration = Duration::from_secs(2);
/// Pause before what there was no room for is asked for again (step 1755).
const NO_ROOM_PAUSE: Duration = Duration::from_millis(100);
/// In a longer pause the source is asked so often how full its journal is.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Room for head and records in an answer.
const RECORD_ROOM_BYTES: u64 = 64 << 10;
