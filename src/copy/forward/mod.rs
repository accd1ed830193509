//! Forwarding at an upstream array: figures 23 and 24 (promises T2 and T3; decision 16).
//!
//! A [`Forwarder`] belongs to a group whose pairs are synchronous. It passes every write of a host on to the primary, in
//! whose journal it is durable before it becomes visible here.
//!
//! # What it guarantees
//! * **One truth.** A byte differs between the two arrays only in a region that is durably marked (`pairs.rs`), and every
//!   mark goes by a copy of its region, or when all writes to it are durable at both sides.
//! * **Order.** Writes that overlap are never under way together (`ranges.rs`), and a write is answered after the primary
//!   has numbered it: so numbers follow the host's order.
//! * **Once.** A repeated write carries the number of the first attempt; a new connection ends those before it at the
//!   primary (`copy/inflow.rs`).
//! * **All or none go on alone.** The group stops sending as a whole, then that is recorded, then the first write is
//!   answered alone. So what the primary has is always a prefix of what hosts were answered.
//!
//! # Who calls what
//! `io::forward` calls `Forwarder::admit` and `Forwarder::pass_on` for each write. One task of the array keeps a
//! connection and gives it to `Forwarder::serve` (`array/upstream.rs`), which copies what differs (`resync.rs`). States of
//! pairs are recorded through a `Ledger`.
//!
//! How it is proved: the tests of its parts; deaths of all arrays and cuts of all links at random in `tests/sim/upstream.rs`.

mod pairs;
mod ranges;
mod resync;
pub(crate) mod wire;

pub(crate) use pairs::ForwardPair;
use ranges::{Hold, Ranges};

use super::change::Change;
use super::differences::ChangedPart;
use crate::clock::{BoxFuture, Clock, MonotonicNs};
use crate::disk::DiskAdapter;
use crate::volume::kind::Fence;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// The connection to the primary, as the forwarder needs it. Defined here, by its user.
pub(crate) trait Downstream: Send + Sync {
    /// Says what comes over this connection; earlier connections are over at the primary when this returns.
    fn announce(&self, what: Announced, volumes: Vec<u32>) -> BoxFuture<'_, Result<(), ForwardError>>;
    /// Passes one write on; it is durable there when this returns.
    fn write<'a>(&'a self, write: &'a Outgoing) -> BoxFuture<'a, Result<(), ForwardError>>;
    /// Waits until the connection is gone.
    fn closed(&self) -> BoxFuture<'_, ()>;
}

/// What an upstream array says of its forwarding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Announced {
    /// Differences are copied, so the P-VOLs are no image of one moment.
    Copying {
        /// They are the whole volumes.
        everything: bool,
    },
    /// Everything that hosts here were answered is there.
    InStep,
}

/// Why a write was not forwarded.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    /// The connection is gone; whether the write has happened is unknown.
    #[error("{0}")]
    Lost(String),
    /// The primary refuses it; it has not happened.
    #[error("the primary refuses: {0}")]
    Refused(String),
    /// The primary says that the two volumes are not in step: everything has to be copied.
    #[error("the primary is not in step")]
    NotInStep,
}

/// One write on its way.
pub(crate) struct Outgoing {
    /// The volume at the primary.
    pub(crate) remote: u32,
    pub(crate) sequence: u64,
    /// No write with a smaller number is sent again.
    pub(crate) oldest: u64,
    pub(crate) change: Arc<Change>,
    /// Checksum of its data, made when it arrived.
    pub(crate) checksum: u32,
}

/// Where the states of pairs and their marks are recorded. Every method is durable when it returns.
pub(crate) trait Ledger: Send + Sync {
    /// Marks.
    fn put_marks(&self, marks: Vec<(u32, Vec<ChangedPart>)>) -> Result<(), String>;
    /// All pairs are suspended: what hosts write is only here from now on.
    fn alone(&self, because: Because, reason: &str) -> Result<(), String>;
    /// All pairs are being copied.
    fn copying(&self) -> Result<(), String>;
    /// All pairs are normal.
    fn in_step(&self) -> Result<(), String>;
}

/// Why the array goes on alone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Because {
    /// The primary does not answer, or refuses; it is asked again.
    Unreachable,
    /// The operator said so.
    Operator,
}

/// How forwarding stands. The control store says the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// Nothing is forwarded; what changes is marked.
    Alone(Because),
    /// Everything is forwarded, and what is marked is copied.
    Copying,
    /// Both arrays have the same but for what is under way.
    InStep,
}

/// What a forwarder is made of.
pub(crate) struct Parts {
    pub(crate) group: String,
    pub(crate) disk: DiskAdapter,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) spawn: Arc<dyn Fn(BoxFuture<'static, ()>) + Send + Sync>,
    pub(crate) fence: Fence,
    pub(crate) fence_wait: Duration,
    pub(crate) copy_unit_bytes: u64,
}

/// The forwarding of a group. See the module's text.
pub struct Forwarder {
    pub(crate) parts: Parts,
    ranges: Arc<Ranges>,
    room: Arc<Semaphore>,
    state: Mutex<State>,
    /// One change of phase at a time, from its decision to its record.
    turning: Mutex<()>,
    /// One writer of marks at a time.
    marking: tokio::sync::Mutex<()>,
    /// The phase, the connection or the pairs have changed.
    pub(crate) changed: Notify,
}

struct State {
    phase: Phase,
    /// Nothing is sent: going on alone is being recorded.
    is_stopped: bool,
    channel: Option<Channel>,
    channels: u64,
    /// Since when there is no connection over which to send.
    down_since: Option<MonotonicNs>,
    pairs: BTreeMap<u32, ForwardPair>,
    /// Marks are on their way to the control store.
    is_writing: bool,
    next_sequence: u64,
    under_way: BTreeSet<u64>,
    /// Hosts' writes so far: a copy that shares the way with them goes slower.
    host_writes: u64,
}

#[derive(Clone)]
struct Channel {
    id: u64,
    to: Arc<dyn Downstream>,
}

/// A host's write that holds its ranges, which are marked.
pub(crate) struct Admitted {
    forwarder: Arc<Forwarder>,
    volume: u32,
    extents: BTreeSet<u64>,
    /// The two sides may differ although the write has ended.
    is_uncertain: bool,
    _hold: Hold,
    _permit: Option<OwnedSemaphorePermit>,
}

/// What became of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Passed {
    /// It is durable at the primary.
    On,
    /// The array goes on alone.
    Alone,
}

impl Forwarder {
    pub(crate) fn new(parts: Parts, phase: Phase) -> Arc<Self> {
        let now = parts.clock.now();
        Arc::new(Self {
            parts,
            ranges: Arc::default(),
            room: Arc::new(Semaphore::new(UNDER_WAY_MAX)),
            state: Mutex::new(State {
                phase,
                is_stopped: false,
                channel: None,
                channels: 0,
                down_since: Some(now),
                pairs: BTreeMap::new(),
                is_writing: false,
                next_sequence: 1,
                under_way: BTreeSet::new(),
                host_writes: 0,
            }),
            turning: Mutex::new(()),
            marking: tokio::sync::Mutex::default(),
            changed: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turning.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How forwarding stands.
    pub(crate) fn phase(&self) -> Phase {
        self.lock().phase
    }

    /// Bytes that differ, or may differ, between the two volumes of a pair.
    pub(crate) fn marked_bytes(&self, volume: u32) -> u64 {
        self.lock().pairs.get(&volume).map_or(0, ForwardPair::marked_bytes)
    }

    /// The local volumes of its pairs.
    pub(crate) fn volumes(&self) -> Vec<u32> {
        self.lock().pairs.keys().copied().collect()
    }

    /// The pair of a volume.
    pub(crate) fn pair_of(&self, volume: u32) -> Option<u32> {
        self.lock().pairs.get(&volume).map(|pair| pair.pair)
    }

    /// Takes up a pair. If its volumes may differ, they are copied: the connection is begun anew for that.
    pub(crate) fn add_pair(&self, volume: u32, pair: ForwardPair) {
        let _turn = self.turn();
        let mut state = self.lock();
        if pair.is_marked() && state.phase == Phase::InStep {
            state.phase = Phase::Copying;
            state.drop_channel(self.parts.clock.now());
        } else if pair.is_marked() && state.pairs.values().any(|pair| pair.to_copy.is_some()) {
            state.drop_channel(self.parts.clock.now());
        }
        state.pairs.insert(volume, pair);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Takes a pair out, when no write to it is under way.
    pub(crate) async fn remove_pair(self: &Arc<Self>, volume: u32) {
        let _all = self.ranges.hold(volume, vec![Range { start: 0, end: u64::MAX }]).await;
        self.lock().pairs.remove(&volume);
        self.changed.notify_waiters();
    }

    /// Runs as long as the array at most.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        (self.parts.spawn)(Box::pin(task));
    }

    /// Holds the ranges of a write, and marks them durably.
    ///
    /// # Errors
    /// The marks cannot be recorded, or the volume is not forwarded any more.
    pub(crate) async fn admit(
        self: &Arc<Self>,
        volume: u32,
        ranges: Vec<Range<u64>>,
    ) -> Result<Admitted, String> {
        let hold = self.ranges.hold(volume, ranges.clone()).await;
        // The semaphore is never closed.
        let permit = self.room.clone().acquire_owned().await.ok();
        let extents = {
            let mut state = self.lock();
            state.host_writes += 1;
            let pair = state.pairs.get_mut(&volume).ok_or("its writes are not forwarded any more")?;
            pair.enter(&ranges)
        };
        let forwarder = self.clone();
        let admitted =
            Admitted { forwarder, volume, extents, is_uncertain: false, _hold: hold, _permit: permit };
        self.write_marks().await?;
        Ok(admitted)
    }

    /// All marks made before the call are durable when it returns. Those of many writes go in one transaction.
    async fn write_marks(&self) -> Result<(), String> {
        let is_written =
            |state: &State| !state.is_writing && !state.pairs.values().any(ForwardPair::has_unwritten);
        if is_written(&self.lock()) {
            return Ok(());
        }
        let _one_at_a_time = self.marking.lock().await;
        let marks: Vec<_> = {
            let mut state = self.lock();
            if is_written(&state) {
                return Ok(());
            }
            state.is_writing = true;
            state.pairs.values_mut().filter_map(ForwardPair::take_marks).collect()
        };
        let written = self.parts.ledger.put_marks(marks.clone());
        let mut state = self.lock();
        state.is_writing = false;
        if written.is_err() {
            for (number, parts) in &marks {
                state
                    .pairs
                    .values_mut()
                    .filter(|pair| pair.pair == *number)
                    .for_each(|pair| pair.not_written(parts));
            }
        }
        written
    }

    /// Passes a write on until it is durable at the primary or the array goes on alone.
    ///
    /// # Errors
    /// With the fence `data`: it was not sent in time, or is refused. Nothing has happened.
    pub(crate) async fn pass_on(
        self: &Arc<Self>,
        admitted: &Admitted,
        change: Arc<Change>,
        checksum: u32,
    ) -> Result<Passed, String> {
        let Some(mut sending) = Sending::begin(self, admitted.volume, change, checksum) else {
            return Err("its writes are not forwarded any more".into());
        };
        let deadline = self.parts.clock.sleep(self.patience());
        tokio::pin!(deadline);
        let (mut is_late, mut was_sent) = (false, false);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let (alone, channel) = {
                let state = self.lock();
                let open = state.channel.clone().filter(|_| !state.is_stopped);
                (matches!(state.phase, Phase::Alone(_)), open)
            };
            if alone {
                return Ok(Passed::Alone);
            }
            // What was sent may happen yet: a write that fails waits for that, and its range with it.
            let may_end = self.parts.fence == Fence::Never || !was_sent;
            if is_late && may_end {
                self.fence("the primary did not answer in time")?;
                continue;
            }
            let Some(channel) = channel else {
                tokio::select! {
                    biased;
                    () = changed => {}
                    () = &mut deadline, if !is_late => is_late = true,
                }
                continue;
            };
            was_sent = true;
            sending.refresh();
            let answer = tokio::select! {
                biased;
                answer = channel.to.write(&sending.write) => answer,
                () = self.channel_ends(channel.id) => continue,
                () = &mut deadline, if !is_late && self.parts.fence == Fence::Never => {
                    is_late = true;
                    continue;
                }
            };
            match answer {
                Ok(()) => return Ok(Passed::On),
                Err(ForwardError::Lost(error)) => self.lost(channel.id, &error),
                Err(error) => self.fence(&error.to_string())?,
            }
        }
    }

    /// How long a write that begins now waits for the primary.
    fn patience(&self) -> Duration {
        let down_since = self.lock().down_since;
        let waited = down_since.map_or(Duration::ZERO, |since| self.parts.clock.now().since(since));
        self.parts.fence_wait.saturating_sub(waited)
    }

    /// A write cannot be forwarded: the group goes on alone, or the write fails.
    fn fence(&self, reason: &str) -> Result<(), String> {
        match self.parts.fence {
            Fence::Never => self.go_alone(Because::Unreachable, reason),
            Fence::Data => Err(reason.to_owned()),
        }
    }

    /// From here on nothing is sent, and what hosts write is answered without the primary. Recorded when this returns.
    pub(crate) fn go_alone(&self, because: Because, reason: &str) -> Result<(), String> {
        let _turn = self.turn();
        {
            let mut state = self.lock();
            if matches!(state.phase, Phase::Alone(before) if before >= because) {
                return Ok(());
            }
            state.is_stopped = true;
            state.drop_channel(self.parts.clock.now());
        }
        self.changed.notify_waiters();
        let recorded = self.parts.ledger.alone(because, reason);
        let mut state = self.lock();
        state.is_stopped = false;
        if recorded.is_ok() {
            tracing::warn!(group = %self.parts.group, reason, "writes are not forwarded any more");
            state.phase = Phase::Alone(because);
            state.pairs.values_mut().for_each(|pair| pair.to_copy = None);
        }
        drop(state);
        self.changed.notify_waiters();
        recorded
    }

    /// The operator's suspension is over; the primary is asked again.
    pub(crate) fn resume(&self) {
        let _turn = self.turn();
        let mut state = self.lock();
        if state.phase == Phase::Alone(Because::Operator) {
            state.phase = Phase::Alone(Because::Unreachable);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Waits until a connection is wanted.
    pub(crate) async fn wants_channel(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let state = self.lock();
                if state.phase != Phase::Alone(Because::Operator) && !state.pairs.is_empty() {
                    return;
                }
            }
            changed.await;
        }
    }

    fn lost(&self, id: u64, error: &str) {
        let mut state = self.lock();
        if state.channel.as_ref().is_some_and(|channel| channel.id == id) {
            tracing::info!(group = %self.parts.group, error, "the connection to the primary is gone");
            state.drop_channel(self.parts.clock.now());
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Waits until this connection is not used any more.
    async fn channel_ends(&self, id: u64) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.lock().channel.as_ref().is_none_or(|channel| channel.id != id) {
                return;
            }
            changed.await;
        }
    }
}

impl State {
    fn drop_channel(&mut self, now: MonotonicNs) {
        if self.channel.take().is_some() {
            self.down_since = Some(now);
        }
    }
}

/// A write with its number, which is given up when this is dropped.
struct Sending<'a> {
    forwarder: &'a Forwarder,
    write: Outgoing,
}

impl<'a> Sending<'a> {
    fn begin(forwarder: &'a Forwarder, volume: u32, change: Arc<Change>, checksum: u32) -> Option<Self> {
        let mut state = forwarder.lock();
        let remote = state.pairs.get(&volume)?.remote;
        let sequence = state.next_sequence;
        state.next_sequence += 1;
        state.under_way.insert(sequence);
        let oldest = state.oldest();
        drop(state);
        Some(Self { forwarder, write: Outgoing { remote, sequence, oldest, change, checksum } })
    }

    fn refresh(&mut self) {
        self.write.oldest = self.forwarder.lock().oldest();
    }
}

impl State {
    fn oldest(&self) -> u64 {
        self.under_way.first().copied().unwrap_or(self.next_sequence)
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.forwarder.lock().under_way.remove(&self.write.sequence);
    }
}

impl Admitted {
    /// The write is at the primary and not here, or the other way round, and nothing more comes: its mark stays until its
    /// region is copied.
    pub(crate) fn leave_marked(&mut self) {
        self.is_uncertain = true;
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if self.is_uncertain {
            return;
        }
        let mut state = self.forwarder.lock();
        if let Some(pair) = state.pairs.get_mut(&self.volume) {
            pair.leave(&self.extents);
        }
    }
}

/// Writes under way; more wait. Fewer than a session takes, and than the primary remembers.
pub(crate) const UNDER_WAY_MAX: usize = 512;
