//! The checked writer: drives a plan through host ports, keeps the rules that make the verdict exact, and judges
//! every read it makes on the way.

use super::log::{Log, ReadTicket, Tick};
use super::plan::{Action, Command, Durability, Geometry, Operation, Place, Plan, WriteId};
use super::{Observed, Verdict, Violation, stamp};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use holdfast::clock::Clock;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// One path of a host to the volumes of the group. An implementation ends every call within a bounded time.
pub(crate) trait HostPort {
    /// Writes `data` to `place`; returns after GOOD status.
    async fn write(&self, place: Place, data: Bytes, durability: Durability) -> Result<(), HostError>;
    /// Makes `place` read as zeros (UNMAP).
    async fn unmap(&self, place: Place) -> Result<(), HostError>;
    /// SYNCHRONIZE CACHE of a whole volume.
    async fn sync(&self, volume: u32) -> Result<(), HostError>;
    /// Reads `place`.
    async fn read(&self, place: Place) -> Result<Bytes, HostError>;
}

/// Why a command has no GOOD status.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum HostError {
    /// The path broke: the command may or may not have been done.
    Unknown(String),
    /// The array answered CHECK CONDITION with this sense key and additional sense code.
    Refused {
        /// Sense key.
        key: u8,
        /// Additional sense code and qualifier.
        code: u16,
    },
}

/// When a run of the writer ends. What is in flight then is waited for, and not retried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Until<'a> {
    /// After this many acknowledged commands in this run.
    pub(crate) commands: u64,
    /// As soon as this is true.
    pub(crate) stop: &'a AtomicBool,
}

/// What one run of the writer saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Summary {
    /// Commands acknowledged.
    pub(crate) acknowledged: u64,
    /// Reads judged.
    pub(crate) reads: u64,
    /// SYNCHRONIZE CACHE completed.
    pub(crate) syncs: u64,
    /// Errors that were followed by another try.
    pub(crate) retries: u64,
    /// How often each (sense key, code) was answered.
    pub(crate) refusals: BTreeMap<(u8, u16), u64>,
    /// What reads returned that they must not. Must be empty.
    pub(crate) violations: Vec<Violation>,
}

/// A host that writes by plan and keeps a log.
#[derive(Debug)]
pub(crate) struct Writer {
    plan: Plan,
    log: Log,
    /// Commands without a known outcome, from an earlier run or lost in a crash; they go first.
    again: VecDeque<Command>,
    waiting: VecDeque<Operation>,
    in_flight: Vec<Command>,
}

impl Writer {
    /// A writer for `plan`; `run` marks its stamps.
    pub(crate) fn new(run: u64, plan: Plan) -> Self {
        let log = Log::new(run, plan.geometry());
        Self { plan, log, again: VecDeque::new(), waiting: VecDeque::new(), in_flight: Vec::new() }
    }

    /// A second history that begins with this one and goes on by itself: that of hosts at another array, where both are written. What is
    /// found of the one is damage by the log of the other.
    pub(crate) fn branch(&self, seed: u64) -> Self {
        let (mut plan, waiting) = (self.plan.clone(), VecDeque::new());
        plan.go_on_as(seed);
        // What is waiting was never sent: its numbers are another's there.
        Self {
            plan,
            log: self.log.clone(),
            again: self.again.clone(),
            waiting,
            in_flight: self.in_flight.clone(),
        }
    }

    /// The history so far.
    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    /// Goes on after a crash of the array: what `image` lost, or never had, is sent again first.
    pub(crate) fn resume_after_crash(&mut self, image: &Observed) -> Result<(), Box<Verdict>> {
        let mut again: BTreeMap<WriteId, Command> =
            self.again.drain(..).map(|command| (command.id, command)).collect();
        again.extend(self.log.resume_after_crash(image)?.into_iter().map(|command| (command.id, command)));
        self.send_first(again);
        Ok(())
    }

    /// The same where only what was flushed has been promised: the image may lack any other write, also in part.
    pub(crate) fn resume_after_loss(&mut self, image: &Observed) -> Result<(), Box<Verdict>> {
        let mut again: BTreeMap<WriteId, Command> =
            self.again.drain(..).map(|command| (command.id, command)).collect();
        again.extend(self.log.resume_after_loss(image)?.into_iter().map(|command| (command.id, command)));
        self.send_first(again);
        Ok(())
    }

    /// These go before everything that waits; some of them may have waited for a second time already.
    fn send_first(&mut self, again: BTreeMap<WriteId, Command>) {
        self.waiting.retain(|waiting| match waiting {
            Operation::Command(command) => !again.contains_key(&command.id),
            Operation::Sync { .. } | Operation::Read(_) => true,
        });
        self.again = again.into_values().collect();
    }

    /// Writes with up to `queue_depth` commands in flight over `ports`.
    pub(crate) async fn run<P: HostPort>(
        &mut self,
        ports: &[P],
        clock: &dyn Clock,
        queue_depth: usize,
        until: Until<'_>,
    ) -> Summary {
        let mut summary = Summary::default();
        let mut flights = FuturesUnordered::new();
        loop {
            let done = summary.acknowledged >= until.commands || until.stop.load(Ordering::Relaxed);
            while !done && flights.len() < queue_depth {
                let Some(departure) = self.depart() else { break };
                flights.push(fly(departure, ports, clock, until.stop));
            }
            match flights.next().await {
                Some(arrival) => self.arrive(arrival, clock.now().0, &mut summary),
                None if done => break,
                None => unreachable!("with nothing in flight the next operation can always be sent"),
            }
        }
        summary
    }

    /// Every command that was ever sent has been acknowledged, and not lost since.
    pub(crate) fn is_settled(&self) -> bool {
        self.log.entries().all(|entry| entry.acked != Tick::NEVER)
    }

    /// SYNCHRONIZE CACHE of every volume: nothing that was acknowledged before may be gone after a crash.
    ///
    /// After a loss ([`Self::resume_after_loss`]) some commands are sent again whose first sending is on the volumes in part. Until the second one
    /// is durable an image may hold the first one beneath an older command that was sent again before it, as no
    /// order of commands explains: who judges images by that order afterwards has to come through here first.
    pub(crate) async fn flush<P: HostPort>(&mut self, ports: &[P], clock: &dyn Clock) {
        let never = AtomicBool::new(false);
        for volume in 0..self.plan.geometry().volumes {
            let departure = self.note_departure(Operation::Sync { volume });
            let arrival = fly(departure, ports, clock, &never).await;
            self.arrive(arrival, clock.now().0, &mut Summary::default());
        }
    }

    /// The first waiting operation that may be sent now.
    fn depart(&mut self) -> Option<Departure> {
        // In front of everything: what is waiting shares sectors only with older commands among these.
        while let Some(command) = self.again.pop_back() {
            self.waiting.push_front(Operation::Command(command));
        }
        while self.waiting.len() < WINDOW {
            self.waiting.push_back(self.plan.next_operation());
        }
        let index = (0..self.waiting.len()).find(|&index| self.may_depart(index))?;
        let operation = self.waiting.remove(index).expect("found just now");
        Some(self.note_departure(operation))
    }

    /// A command waits for everything that shares a sector with it and is in flight or has a smaller id, and a chain
    /// command for the link before it.
    fn may_depart(&self, index: usize) -> bool {
        let Operation::Command(command) = &self.waiting[index] else { return true };
        let earlier = self.waiting.iter().take(index).filter_map(|operation| match operation {
            Operation::Command(earlier) => Some(earlier),
            Operation::Sync { .. } | Operation::Read(_) => None,
        });
        !self.in_flight.iter().chain(earlier).any(|other| {
            let both_chain = other.class == command.class && command.class == super::Class::Chain;
            both_chain || other.place.overlaps(&command.place)
        })
    }

    fn note_departure(&mut self, operation: Operation) -> Departure {
        match operation {
            Operation::Command(command) => {
                self.in_flight.push(command);
                let entry = self.log.issue(command);
                let data = match command.action {
                    Action::Write(_) => stamp::command_bytes(self.log.run(), &command, &entry.context).into(),
                    Action::Zero { .. } => Bytes::new(),
                };
                Departure::Command { command, data }
            }
            Operation::Sync { volume } => Departure::Sync { volume, issued: self.log.draw() },
            Operation::Read(place) => Departure::Read { place, ticket: self.log.begin_read(place) },
        }
    }

    fn arrive(&mut self, arrival: Arrival, now_ns: u64, summary: &mut Summary) {
        summary.retries += arrival.retries;
        for refusal in arrival.refusals {
            *summary.refusals.entry(refusal).or_default() += 1;
        }
        match arrival.outcome {
            Outcome::Command(command, done) => {
                self.in_flight.retain(|other| other.id != command.id);
                if done {
                    self.log.acknowledge_at(command.id, now_ns);
                    summary.acknowledged += 1;
                } else {
                    let at = self.again.partition_point(|other| other.id < command.id);
                    self.again.insert(at, command);
                }
            }
            Outcome::Sync { volume, issued, done: true } => {
                self.log.synced(volume, issued);
                summary.syncs += 1;
            }
            Outcome::Read(ticket, Some(bytes)) => {
                summary.violations.extend(self.log.end_read(&ticket, &bytes));
                summary.reads += 1;
            }
            Outcome::Sync { done: false, .. } | Outcome::Read(_, None) => {}
        }
    }
}

/// Reads whole volumes through a port.
pub(crate) async fn read_image<P: HostPort>(port: &P, geometry: Geometry) -> Result<Vec<Vec<u8>>, HostError> {
    let mut images = Vec::new();
    for volume in 0..geometry.volumes {
        let mut image = Vec::new();
        let mut lba = 0;
        while lba < geometry.sectors_per_volume {
            let left = geometry.sectors_per_volume - lba;
            let sectors = u32::try_from(left).unwrap_or(u32::MAX).min(READ_SECTORS);
            image.extend_from_slice(&port.read(Place { volume, lba, sectors }).await?);
            lba += u64::from(sectors);
        }
        images.push(image);
    }
    Ok(images)
}

enum Departure {
    Command { command: Command, data: Bytes },
    Sync { volume: u32, issued: Tick },
    Read { place: Place, ticket: ReadTicket },
}

enum Outcome {
    Command(Command, bool),
    Sync { volume: u32, issued: Tick, done: bool },
    Read(ReadTicket, Option<Bytes>),
}

struct Arrival {
    outcome: Outcome,
    retries: u64,
    refusals: Vec<(u8, u16)>,
}

/// Sends one operation, again and again over one port after the other, until it is done or the run is stopped.
async fn fly<P: HostPort>(
    departure: Departure,
    ports: &[P],
    clock: &dyn Clock,
    stop: &AtomicBool,
) -> Arrival {
    let mut retries = 0;
    let mut refusals = Vec::new();
    let first_port = match &departure {
        Departure::Command { command, .. } => usize::try_from(command.id.0).unwrap_or(0),
        Departure::Sync { volume, .. } | Departure::Read { place: Place { volume, .. }, .. } => {
            usize::try_from(*volume).unwrap_or(0)
        }
    };
    let mut pause = FIRST_PAUSE;
    let mut turn = first_port;
    let read = loop {
        match attempt(&departure, &ports[turn % ports.len()]).await {
            Ok(read) => break Some(read),
            Err(HostError::Refused { key, code }) => refusals.push((key, code)),
            Err(HostError::Unknown(_)) => {}
        }
        if stop.load(Ordering::Relaxed) {
            break None;
        }
        retries += 1;
        turn += 1;
        clock.sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    };
    let done = read.is_some();
    let outcome = match departure {
        Departure::Command { command, .. } => Outcome::Command(command, done),
        Departure::Sync { volume, issued } => Outcome::Sync { volume, issued, done },
        Departure::Read { ticket, .. } => Outcome::Read(ticket, read),
    };
    Arrival { outcome, retries, refusals }
}

/// One try. Only a read returns bytes.
async fn attempt<P: HostPort>(departure: &Departure, port: &P) -> Result<Bytes, HostError> {
    match departure {
        Departure::Command { command, data } => {
            match command.action {
                Action::Write(durability) => port.write(command.place, data.clone(), durability).await?,
                Action::Zero { .. } => port.unmap(command.place).await?,
            }
            Ok(Bytes::new())
        }
        Departure::Sync { volume, .. } => port.sync(*volume).await.map(|()| Bytes::new()),
        Departure::Read { place, .. } => port.read(*place).await,
    }
}

/// Operations that are looked at when the first ones must wait.
const WINDOW: usize = 48;
/// Longest read of [`read_image`]: 1 MiB.
const READ_SECTORS: u32 = 2048;
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
