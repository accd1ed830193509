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
//! * **No ghosts.** A write that has failed at its host, or whose session is over, never becomes visible here any more; at
//!   the primary it is undone by the copy that follows (invariant 8).
//!
//! # What a forwarded write can be
//! ```text
//!  waiting ──▶ marked ──▶ sent ──answered──▶ shown ──▶ whole        the same at both sides
//!     │          │          ├──alone────────▶ shown ──▶ stale        only here: the region is copied
//!     │          └──alone───┤
//!     │          │          └──refused, too late, given up──▶ stale, copying   nobody knows: not shown here, the connection
//!     ▼          ▼                                                  is ended and the region copied over the next one
//!   failed     failed       nothing has happened at either side
//! ```
//! | transition | owner |
//! |---|---|
//! | waiting → marked | `Forwarder::admit`: its range is held from here to the end, then its extents are marked durably |
//! | marked → sent | `Forwarder::pass_on`, over the connection that is open, with a number from the window |
//! | sent → answered, refused | the primary |
//! | → alone | `Forwarder::go_alone`, for all writes of the group; or the end of its pair |
//! | → given up | the owner of the host's session, by dropping its end of the channel |
//! | shown → whole | `io::forward`, when it is durable here; only it says so (`Admitted::is_whole`) |
//! | end | the drop of `Admitted`, in one critical section: what is not whole is stale before its range is free |
//!
//! **A pair is taken up** while its whole volume is held: role of the volume, then pair, then the range is free. **It is
//! removed** in the other order: nothing of it is sent any more and the connection ends; what is under way ends here alone;
//! behind all of it the whole volume is held while its role changes; then the pair is forgotten, and only then does the
//! control store forget it. Either ends the connection, so each connection is about the pairs that its beginning named.
//!
//! # Who calls what
//! `io::forward` calls `Forwarder::admit` and `Forwarder::pass_on` for each write (`pass.rs`). One task of the array keeps a
//! connection and gives it to `Forwarder::serve` (`array/upstream.rs`), which copies what differs (`resync.rs`). States of
//! pairs are recorded through a `Ledger`.
//!
//! How it is proved: the tests of its parts, `io/forward/tests.rs` with a primary that a test plays; deaths of all arrays and cuts of all
//! links at random in `tests/sim/upstream.rs`.

mod pairs;
mod pass;
mod ranges;
mod resync;
pub(crate) mod wire;

pub(crate) use pairs::ForwardPair;
pub(crate) use pass::{AdmitError, Admitted, Passed};
use ranges::Ranges;

use super::change::Change;
use super::differences::ChangedPart;
use crate::clock::{BoxFuture, Clock, MonotonicNs};
use crate::disk::DiskAdapter;
use crate::volume::kind::Fence;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};

/// The connection to the primary, as the forwarder needs it. Defined here, by its user.
pub(crate) trait Downstream: Send + Sync {
    /// Says what comes over this connection; earlier connections are over at the primary when this returns.
    fn announce(&self, said: Announcement) -> BoxFuture<'_, Result<(), ForwardError>>;
    /// Passes one write on; it is durable there when this returns.
    fn write<'a>(&'a self, write: &'a Outgoing) -> BoxFuture<'a, Result<(), ForwardError>>;
    /// Waits until the connection is gone.
    fn closed(&self) -> BoxFuture<'_, ()>;
}

/// What an upstream array says of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Announcement {
    pub(crate) what: Announced,
    /// The volumes that it is about, by their numbers at the primary.
    pub(crate) volumes: Vec<u32>,
    /// Those of them of which all is copied.
    pub(crate) whole: Vec<u32>,
}

/// What comes over a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Announced {
    /// Differences are copied, so the P-VOLs are no image of one moment.
    Copying,
    /// Everything that hosts here were answered is there.
    InStep,
}

/// Why a write was not forwarded.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    /// The connection is gone; whether the write has happened is unknown.
    #[error("{0}")]
    Lost(String),
    /// The primary has no room for it at the moment; it has not happened.
    #[error("the primary has no room: {0}")]
    Again(String),
    /// The primary refuses it. What failed there may have been seen there.
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

/// Where the states of pairs and their marks are recorded. Every method is durable when it returns; `pairs` are those that
/// are forwarded, by their numbers here.
pub(crate) trait Ledger: Send + Sync {
    /// Marks.
    fn put_marks(&self, marks: Vec<(u32, Vec<ChangedPart>)>) -> Result<(), String>;
    /// An atomic write to this volume is about to be seen: after a crash a start writes it again, whole.
    fn keep_atomic(&self, volume: u32, change: &Change) -> Result<u64, String>;
    /// It is durable in the volume.
    fn forget_atomic(&self, kept: u64) -> Result<(), String>;
    /// The pairs are suspended: what hosts write is only here from now on.
    fn alone(&self, pairs: &[u32], because: Because, reason: &str) -> Result<(), String>;
    /// The pairs are being copied.
    fn copying(&self, pairs: &[u32]) -> Result<(), String>;
    /// The pairs are normal.
    fn in_step(&self, pairs: &[u32]) -> Result<(), String>;
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
    /// The oldest write under way has ended.
    window: Notify,
}

/// Why a pair is not forwarded yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lack {
    /// It is on its way.
    Coming,
    /// The primary does not want it as things are.
    Refused,
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
    /// How often a pair came or went: a connection is about the pairs that it named.
    pair_changes: u64,
    /// Pairs of the group that are not forwarded yet, and since when the primary refuses them: without them the volumes there
    /// are no image.
    lacking: BTreeMap<u32, Option<MonotonicNs>>,
    /// The group is no more.
    is_retired: bool,
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
                pair_changes: 0,
                lacking: BTreeMap::new(),
                is_retired: false,
                is_writing: false,
                next_sequence: 1,
                under_way: BTreeSet::new(),
                host_writes: 0,
            }),
            turning: Mutex::new(()),
            marking: tokio::sync::Mutex::default(),
            changed: Notify::new(),
            window: Notify::new(),
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
    pub(crate) fn stale_bytes(&self, volume: u32) -> u64 {
        self.lock().pairs.get(&volume).map_or(0, ForwardPair::stale_bytes)
    }

    /// The local volumes of its pairs.
    pub(crate) fn volumes(&self) -> Vec<u32> {
        self.lock().pairs.keys().copied().collect()
    }

    /// The pair of a volume.
    pub(crate) fn pair_of(&self, volume: u32) -> Option<u32> {
        self.lock().pairs.get(&volume).map(|pair| pair.pair)
    }

    /// Takes up a pair: `attach` brings hosts' writes here. If its volumes may differ, they are copied.
    pub(crate) async fn add_pair(&self, volume: u32, pair: ForwardPair, attach: impl FnOnce()) {
        // Nobody holds a part of a volume that was not forwarded: this does not wait. A write that comes does, for the pair.
        let _all = self.ranges.hold(volume, everything()).await;
        attach();
        {
            let _turn = self.turn();
            let mut state = self.lock();
            if pair.is_stale() && state.phase == Phase::InStep {
                state.phase = Phase::Copying;
            }
            state.pairs.insert(volume, pair);
            state.pair_changes += 1;
            state.drop_channel(self.parts.clock.now());
        }
        self.changed.notify_waiters();
    }

    /// From here on nothing of the volume is sent, and what is under way ends here alone. Whether that was news; then
    /// [`Forwarder::remove_pair`] is to be called.
    pub(crate) fn end_pair(&self, volume: u32) -> bool {
        {
            let mut state = self.lock();
            let Some(pair) = state.pairs.get_mut(&volume).filter(|pair| !pair.is_leaving) else {
                return false;
            };
            pair.is_leaving = true;
            state.pair_changes += 1;
            state.drop_channel(self.parts.clock.now());
        }
        self.changed.notify_waiters();
        true
    }

    /// Forgets a pair when no write to it is under way any more: `detach` takes hosts' writes away from here meanwhile. Waits
    /// for units of this array, not for the other one.
    pub(crate) async fn remove_pair(&self, volume: u32, detach: impl FnOnce()) {
        let _all = self.ranges.hold(volume, everything()).await;
        detach();
        self.lock().pairs.remove(&volume);
        self.changed.notify_waiters();
    }

    /// The pairs of the group that are not forwarded yet. Until they are, no copy ends; one that the primary refuses holds
    /// it up for [`REFUSED_WAIT`]: at the start it may not have what the pair needs yet, and later only its operator can help.
    pub(crate) fn set_lacking(&self, lacking: &BTreeMap<u32, Lack>) {
        let now = self.parts.clock.now();
        let has_changed = {
            let mut state = self.lock();
            let since = |pair: &u32| state.lacking.get(pair).copied().flatten().unwrap_or(now);
            let all = lacking.iter().map(|(pair, lack)| match lack {
                Lack::Coming => (*pair, None),
                Lack::Refused => (*pair, Some(since(pair))),
            });
            let all = all.collect();
            std::mem::replace(&mut state.lacking, all) != state.lacking
        };
        if has_changed {
            self.changed.notify_waiters();
        }
    }

    async fn is_complete(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let Some(ends) = self.lock().lacks(self.parts.clock.now()) else { return };
            let refused = async {
                match ends {
                    Some(left) => self.parts.clock.sleep(left).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = changed => {}
                () = refused => {}
            }
        }
    }

    /// The group is no more: nobody wants a connection.
    pub(crate) fn retire(&self) {
        self.lock().is_retired = true;
        self.changed.notify_waiters();
    }

    /// Runs as long as the array at most.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        (self.parts.spawn)(Box::pin(task));
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
        let recorded = self.parts.ledger.alone(&self.pair_numbers(), because, reason);
        let mut state = self.lock();
        state.is_stopped = false;
        if recorded.is_ok() {
            tracing::warn!(group = %self.parts.group, reason, "writes are not forwarded any more");
            state.phase = Phase::Alone(because);
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

    fn pair_numbers(&self) -> Vec<u32> {
        self.lock().members().map(|(_, pair)| pair.pair).collect()
    }

    /// Waits until a connection is wanted; `false`: never again.
    pub(crate) async fn wants_channel(&self) -> bool {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let state = self.lock();
                if state.is_retired {
                    return false;
                }
                if state.phase != Phase::Alone(Because::Operator) && state.members().next().is_some() {
                    return true;
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
    /// How long pairs that are not forwarded yet hold up the end of a copy: not at all, until they are, or at most so long.
    fn lacks(&self, now: MonotonicNs) -> Option<Option<Duration>> {
        let mut longest = None;
        for refused_since in self.lacking.values() {
            let Some(since) = refused_since else { return Some(None) };
            let left = REFUSED_WAIT.saturating_sub(now.since(*since));
            longest = longest.max(Some(left).filter(|left| !left.is_zero()));
        }
        longest.map(Some)
    }

    fn drop_channel(&mut self, now: MonotonicNs) {
        if self.channel.take().is_some() {
            self.down_since = Some(now);
        }
    }

    /// The pairs that are forwarded.
    fn members(&self) -> impl Iterator<Item = (u32, &ForwardPair)> {
        self.pairs.iter().filter(|(_, pair)| !pair.is_leaving).map(|(volume, pair)| (*volume, pair))
    }
}

/// The whole of a volume.
fn everything() -> Vec<Range<u64>> {
    vec![Range { start: 0, end: u64::MAX }]
}

/// Writes of hosts under way; more wait. Fewer than a session takes.
const UNDER_WAY_MAX: usize = 512;
/// How long a pair that the primary refuses holds up the end of its group's copy.
const REFUSED_WAIT: Duration = Duration::from_secs(60);
/// How far the numbers of writes under way may lie apart; a write that would go further waits for the oldest. The primary
/// remembers as many that it has applied.
pub(crate) const WINDOW: usize = 1024;
