//! A synchronous copy, at the array whose hosts wait for it (promises K1 and K2; decision 20).
//!
//! # What it guarantees
//! * While hosts wait (*together*), a write is answered only when it is durable here and, with everything before it, there.
//! * The other array is told that it is synchronised only while it has everything that hosts were answered, and for no
//!   longer than a lease; nothing is answered alone before that lease is surely over, and before the control store says
//!   that the group is apart.
//! * No host waits for longer than the group's limit and one record of the control store; the limit begins anew when this
//!   process was stopped in between.
//! * Another reader is handed nothing that the synchronous one does not have durably.
//!
//! # States
//! *apart* → *joining* (hosts wait, nothing is recorded) → *together* (recorded) → *apart* (lease over, recorded).
//! `decide.rs` holds them and decides, without I/O and without a clock; the group carries out. Who pushes is
//! `push.rs`; sessions are opened by `array/synchronous.rs`.
//!
//! Hosts may also wait until their writes lie on a relay (promise X1, decision 21): `relayed.rs`. Everything else is the same.
//!
//! How it is proved: unit tests here for each decision; whole arrays that die, and links that fail, in
//! `tests/sim/synchronous.rs` and `tests/sim/relay_hosts.rs`.

mod decide;
mod leave;
mod relayed;

pub(crate) use decide::{Answered, Choice, Over, Phase, Standing, Synchronous};
pub use decide::{Asked, Told};
use decide::{Channel, Svols, TAKEN_AWAY, TOO_LATE, Verdict};
pub(crate) use relayed::OpenRelay;

use super::group::{Group, Sequencer};
use super::tamper::SynchronousDefect;
use crate::clock::MonotonicNs;
use crate::volume::kind::Fence;
use crate::volume::pair::{PairState, SuspendCause};
use holdfast_journal::{ArrayNumber, UpdateNumber};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// What a group keeps of it outside of its lock.
#[derive(Debug)]
pub(crate) struct Waits {
    /// Hosts wait for another array.
    hosts_wait: AtomicBool,
    /// Until when, in nanoseconds of the monotonic clock, hosts are served that see the other array's volumes as the same.
    leave_ends: AtomicU64,
    /// What they wait for has changed.
    confirmed: Notify,
    /// One change between apart and together at a time, from its decision to its record.
    turning: Mutex<()>,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            hosts_wait: AtomicBool::default(),
            leave_ends: AtomicU64::new(u64::MAX),
            confirmed: Notify::default(),
            turning: Mutex::default(),
        }
    }
}

/// A command of a host that waits; counted until it ends in whatever way.
struct Waiting<'a> {
    group: &'a Group,
    ticket: u64,
    since: MonotonicNs,
}

impl<'a> Waiting<'a> {
    fn new(group: &'a Group) -> Option<Self> {
        let since = group.clock.now();
        let mut seq = group.lock();
        let known = seq.synchronous.as_mut()?;
        let ticket = known.tickets;
        known.tickets += 1;
        known.waiting.insert(ticket, since);
        Some(Self { group, ticket, since })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(known) = &mut self.group.lock().synchronous {
            known.waiting.remove(&self.ticket);
        }
    }
}

impl Group {
    /// Whether a host's command has to wait for another array.
    pub(crate) fn hosts_wait(&self) -> bool {
        self.waits.hosts_wait.load(Ordering::Acquire)
    }

    /// Waits until the synchronous reader has everything up to `number` durably, if hosts wait for it. It is durable here
    /// then, too.
    ///
    /// # Errors
    /// By the group's fence the command fails; or the control store cannot record that the group is apart.
    pub(crate) async fn confirmed(&self, number: UpdateNumber) -> Result<Answered, String> {
        let defect = self.tamper.as_ref().and_then(|tamper| tamper.synchronous());
        if !self.hosts_wait() || defect == Some(SynchronousDefect::AnsweredEarly) {
            return Ok(Answered::Alone);
        }
        let Some(waiting) = Waiting::new(self) else { return Ok(Answered::Alone) };
        self.durable(number).await;
        loop {
            let changed = self.waits.confirmed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let verdict = {
                let now = self.clock.now();
                let mut seq = self.lock();
                let svols = seq.svols_of_second();
                let known = seq.synchronous.as_mut();
                known.map_or(Verdict::Done(Answered::Alone), |known| {
                    known.judge(number, svols, waiting.since, now)
                })
            };
            match verdict {
                Verdict::Done(answered) => return Ok(answered),
                Verdict::Fenced => return Err(FENCED.to_owned()),
                Verdict::Part => self.come_apart()?,
                Verdict::Wait(left) => tokio::select! {
                    biased;
                    () = self.closing.begins() => return Err(ENDS.to_owned()),
                    () = &mut changed => {}
                    () = self.clock.sleep(left) => {}
                },
            }
        }
    }

    /// How long a write waits for room before it fails; none: until there is some. A reader that must not be left behind
    /// does not overflow.
    pub(crate) fn patience(&self) -> Option<Duration> {
        let seq = self.lock();
        let known = seq.synchronous.as_ref().filter(|known| known.hosts_wait())?;
        (known.choice.fence != Fence::Never).then_some(known.choice.limit)
    }

    /// The newest number given.
    pub(crate) fn newest_number(&self) -> UpdateNumber {
        self.lock().next.previous()
    }

    /// Takes up what the control store and the operator say of a synchronous reader.
    pub(crate) fn set_synchronous(&self, choice: Option<Choice>, is_together: bool) {
        let now = self.clock.now();
        // Time serves as a number that was not used before; which one is larger says nothing.
        let life = u32::try_from(self.clock.wall().0 & u64::from(u32::MAX)).unwrap_or(0);
        {
            let mut seq = self.lock();
            let newest = seq.next.previous();
            let new = |choice| Synchronous::new(choice, is_together, newest, now).numbered_from(life);
            match (&mut seq.synchronous, choice) {
                (Some(known), Some(choice))
                    if (known.choice.reader, known.choice.over) == (choice.reader, choice.over) =>
                {
                    known.choice = choice;
                }
                // Until nobody shows itself as synchronised any more.
                (Some(known), _) if known.hosts_wait() => {
                    known.parting.get_or_insert_with(|| TAKEN_AWAY.to_owned());
                }
                (known, choice) => {
                    *known = choice.map(new);
                }
            }
            self.note_waits(&seq);
        }
        self.waits.confirmed.notify_waiters();
    }

    fn note_waits(&self, seq: &Sequencer) {
        let hosts_wait = seq.synchronous.as_ref().is_some_and(Synchronous::hosts_wait);
        self.waits.hosts_wait.store(hosts_wait, Ordering::Release);
        self.note_leave(seq);
    }

    /// How it stands.
    pub(crate) fn standing(&self) -> Option<Standing> {
        let seq = self.lock();
        let known = seq.synchronous.as_ref()?;
        Some(Standing {
            choice: known.choice,
            phase: known.phase,
            is_level: known.is_level() && seq.are_normal(known.choice.reader),
            is_fenced: known.is_fenced,
            reason: known.reason.clone(),
            confirmed: known.confirmed,
            waiting: known.waiting.len(),
        })
    }

    /// Hosts are shut out here, or let in again. While they are, another array may answer them: the synchronous reader is given no
    /// further yes.
    pub(crate) fn shut_hosts_out(&self, is_shut: bool) {
        if let Some(known) = &mut self.lock().synchronous {
            known.is_shut = is_shut;
        }
    }

    /// For how long an array that is neither this one nor `to` can still show that it has everything that hosts were answered.
    pub(crate) fn lease_left_but_for(&self, to: ArrayNumber) -> Duration {
        let now = self.clock.now();
        let seq = self.lock();
        let others = seq.synchronous.as_ref().filter(|known| known.choice.reader != to);
        others.map_or(Duration::ZERO, |known| known.lease_left(now))
    }

    /// Whether nothing keeps updates from going to the reader by another way than to a synchronous one: before its pairs are
    /// suspended or taken away the group comes apart. If it has not yet, it does soon, and its owner is woken.
    pub(crate) fn is_apart_from(&self, reader: ArrayNumber, why: &str) -> bool {
        let now = self.clock.now();
        let is_over = {
            let mut seq = self.lock();
            let is_for = |choice: Choice| choice.reader == reader || choice.over == Over::Nothing;
            let Some(known) = seq.synchronous.as_mut().filter(|known| is_for(known.choice)) else {
                return true;
            };
            if !known.hosts_wait() {
                known.apart_since = Some(now); // It does not join while that is done.
                return true;
            }
            known.parting.get_or_insert_with(|| why.to_owned());
            known.lease_left(now).is_zero()
        };
        if !is_over {
            return false;
        }
        match self.come_apart() {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(group = %self.name, error, "that it is apart cannot be recorded");
                false
            }
        }
    }

    /// Whether pairs of the reader may be stopped now. An operator's word, and what the fence leaves to itself, brings the group
    /// apart before; hosts that must not be answered alone wait until everything is copied again.
    pub(crate) fn may_stop_pairs(&self, reader: ArrayNumber, cause: SuspendCause, why: &str) -> bool {
        let stays = cause != SuspendCause::Operator && self.lock().stays_together(reader);
        stays || self.is_apart_from(reader, why)
    }

    /// Looks at the clock; whether the group has come apart. To be called every [`Group::look_every`].
    pub(crate) fn look_at_second(&self) -> bool {
        let now = self.clock.now();
        let why = {
            let mut seq = self.lock();
            let is_fenced = seq.is_fenced();
            seq.synchronous.as_mut().and_then(|known| known.look(now, is_fenced))
        };
        let Some(why) = why else { return false };
        match self.come_apart() {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(group = %self.name, why, error, "that it is apart cannot be recorded");
                false
            }
        }
    }

    /// Waits until the group has a synchronous reader; groups without one are not disturbed by it.
    pub(crate) async fn has_second(&self) {
        loop {
            let changed = self.waits.confirmed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.lock().synchronous.is_some() {
                return;
            }
            changed.await;
        }
    }

    /// How often somebody has to look; none: nobody has to.
    pub(crate) fn look_every(&self) -> Option<Duration> {
        self.lock().synchronous.as_ref().map(Synchronous::look_every)
    }

    /// The group comes apart: the caller has found the lease over and let no further one be given.
    fn come_apart(&self) -> Result<(), String> {
        let _turn = self.waits.turning.lock().unwrap_or_else(PoisonError::into_inner);
        let (phase, why, reader) = {
            let seq = self.lock();
            let Some(known) = &seq.synchronous else { return Ok(()) };
            let why = known.parting.clone().unwrap_or_else(|| TOO_LATE.to_owned());
            (known.phase, why, known.choice.reader)
        };
        match phase {
            Phase::Apart => {}
            Phase::Joining => tracing::info!(group = %self.name, why, "hosts do not wait yet"),
            Phase::Together => {
                tracing::warn!(group = %self.name, reader = reader.0, why, "hosts are answered alone from here on");
                self.marks.note_together(self.number, Err(&why))?;
            }
        }
        let now = self.clock.now();
        {
            let mut seq = self.lock();
            if let Some(known) = &mut seq.synchronous {
                if known.phase != Phase::Apart {
                    (known.phase, known.reason, known.apart_since) = (Phase::Apart, Some(why), Some(now));
                }
                (known.parting, known.is_fenced) = (None, false);
            }
            self.note_waits(&seq);
        }
        self.waits.confirmed.notify_waiters();
        self.changed.notify_waiters();
        self.room.notify_waiters();
        Ok(())
    }

    /// Hosts begin to wait if they may; and once the reader has everything that was answered before, the group is together.
    pub(super) fn come_together(&self) {
        let now = self.clock.now();
        let is_whole = {
            let mut seq = self.lock();
            let newest = seq.next.previous();
            let Some(reader) = seq.synchronous.as_ref().map(|known| known.choice.reader) else { return };
            let is_near = seq.is_near(reader) && seq.failed.is_none() && seq.are_normal(reader);
            let Some(known) = &mut seq.synchronous else { return };
            if is_near && known.may_join(now) {
                (known.phase, known.answered) = (Phase::Joining, newest);
                tracing::info!(group = %self.name, reader = reader.0, from = newest.next().get(), "hosts wait from here on");
            }
            let is_whole = known.phase == Phase::Joining && known.confirmed >= known.answered;
            self.note_waits(&seq);
            is_whole
        };
        if !is_whole {
            return;
        }
        let _turn = self.waits.turning.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.lock().synchronous.as_ref().is_some_and(|known| known.phase == Phase::Joining) {
            return;
        }
        match self.marks.note_together(self.number, Ok(())) {
            Ok(()) => {
                {
                    let mut seq = self.lock();
                    if let Some(known) = &mut seq.synchronous {
                        (known.phase, known.reason, known.apart_since) = (Phase::Together, None, None);
                    }
                    self.note_waits(&seq);
                }
                self.changed.notify_waiters();
            }
            Err(error) => {
                tracing::error!(group = %self.name, error, "that it is together cannot be recorded")
            }
        }
    }

    /// SYNCHRONISE of a reader; none: it is no synchronous one.
    pub(crate) fn answer_second(&self, reader: ArrayNumber, asked: Asked) -> Option<Told> {
        let now = self.clock.now();
        let others_have = self.others_beside(reader);
        let mut seq = self.lock();
        let all_normal = seq.are_normal(reader) && seq.failed.is_none();
        let known = seq.synchronous.as_mut().filter(|known| known.choice.is_pushed_to(reader))?;
        // Who was silent for long is there again: whoever waits for that looks.
        let was_silent = known.asked.is_none_or(|then| now.since(then) >= ALIVE);
        let before = (known.granted.is_some(), known.is_told());
        let told = Told { others_have, ..known.answer(asked, all_normal, now) };
        let is_news = was_silent || before != (known.granted.is_some(), known.is_told());
        drop(seq);
        if is_news {
            self.waits.confirmed.notify_waiters();
            self.changed.notify_waiters();
        }
        Some(told)
    }
}

/// For those who push.
impl Group {
    /// Whether a channel to the reader should be there: who it is, and how long a push may take.
    pub(super) fn wants_channel(&self) -> Option<Choice> {
        let now = self.clock.now();
        let seq = self.lock();
        let known = seq.synchronous.as_ref().filter(|known| known.choice.over == Over::Push)?;
        let reader = known.choice.reader;
        let is_alive = known.asked.is_some_and(|then| now.since(then) < ALIVE);
        let is_wanted = seq.are_normal(reader) || known.hosts_wait();
        (is_alive && is_wanted && seq.failed.is_none() && seq.holds(reader)).then_some(known.choice)
    }

    /// A channel to the reader begins: what it has not reported as durable is sent to it. False: it is not the synchronous one.
    pub(super) fn open_channel(&self, id: u64, reader: ArrayNumber) -> bool {
        {
            let mut seq = self.lock();
            if !seq.is_pushed_to(reader) || seq.readers.handle_reconnected(reader).is_err() {
                return false;
            }
            let has =
                seq.readers.reader(reader).map_or(UpdateNumber::NONE, |known| known.report.acknowledged);
            if let Some(known) = &mut seq.synchronous {
                (known.channel, known.confirmed) = (Some(Channel { id, is_told: false }), has);
            }
        }
        self.changed.notify_waiters();
        true
    }

    /// It ends: the reader reads again, behind what it has reported, whoever is the synchronous one by now.
    pub(super) fn close_channel(&self, id: u64, reader: ArrayNumber) {
        {
            let mut seq = self.lock();
            if let Some(known) = &mut seq.synchronous {
                known.channel = known.channel.filter(|channel| channel.id != id);
            }
            // It cannot fail but for a reader that is none any more.
            let _ = seq.readers.handle_reconnected(reader);
        }
        self.waits.confirmed.notify_waiters();
        self.changed.notify_waiters();
    }

    /// Whether the reader knows of the channel; none: it has ended.
    pub(super) fn channel_is_told(&self, id: u64) -> Option<bool> {
        let seq = self.lock();
        let channel = seq.synchronous.as_ref()?.channel.filter(|channel| channel.id == id)?;
        Some(channel.is_told)
    }

    /// The reader has everything up to `number` durably.
    pub(super) fn confirm(&self, channel: u64, number: UpdateNumber) {
        {
            let mut seq = self.lock();
            let svols = seq.svols_of_second();
            if let Some(known) = &mut seq.synchronous {
                known.confirm(channel, number, svols);
            }
        }
        self.waits.confirmed.notify_waiters();
        self.changed.notify_waiters(); // Other readers may be handed more.
        self.come_together();
    }

    /// Whether the reader may be handed what is of that number, because a synchronous one has it, too; that is waited for, not for long.
    pub(super) async fn second_has(&self, reader: ArrayNumber, number: UpdateNumber) -> bool {
        let deadline = self.clock.sleep(SECOND_WAIT);
        tokio::pin!(deadline);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.lock().confirmed_for(reader).is_none_or(|confirmed| confirmed >= number) {
                return true;
            }
            tokio::select! {
                biased;
                () = &mut changed => {}
                () = &mut deadline => return false,
            }
        }
    }

    /// Whether updates are sent to the reader, so that it gets none by reading.
    pub(super) fn pushes_to(&self, reader: ArrayNumber) -> bool {
        let seq = self.lock();
        let known = seq.synchronous.as_ref().filter(|known| known.choice.reader == reader);
        known.is_some_and(Synchronous::is_told)
    }
}

impl Sequencer {
    /// Up to where a reader may be handed updates because of a synchronous one.
    pub(super) fn confirmed_for(&self, reader: ArrayNumber) -> Option<UpdateNumber> {
        let known = self.synchronous.as_ref()?;
        (known.choice.reader != reader && known.hosts_wait()).then(|| {
            let reported = self.readers.reader(known.choice.reader).map(|reader| reader.report.acknowledged);
            let is_known = known.channel.is_some() || known.choice.over == Over::Relay;
            let confirmed = is_known.then_some(known.confirmed);
            confirmed.max(reported).unwrap_or(UpdateNumber::NONE)
        })
    }

    /// Whether that reader is the synchronous one.
    pub(super) fn is_pushed_to(&self, reader: ArrayNumber) -> bool {
        self.synchronous.as_ref().is_some_and(|known| known.choice.is_pushed_to(reader))
    }

    /// Whether hosts' writes are refused because nobody confirms them, or nobody could.
    pub(super) fn is_fenced(&self) -> bool {
        let known = self.synchronous.as_ref();
        known.is_some_and(|known| known.is_fenced || known.hosts_wait() && self.failed.is_some())
    }

    /// Whether the reader must not be left behind, however full the journal is.
    pub(super) fn must_keep_up(&self, reader: ArrayNumber) -> bool {
        let known = self.synchronous.as_ref().filter(|known| known.choice.reader == reader);
        known.is_some_and(|known| known.hosts_wait() && known.choice.fence != Fence::Never)
    }

    /// Whether the pairs of the reader stop without the group coming apart.
    fn stays_together(&self, reader: ArrayNumber) -> bool {
        let known = self.synchronous.as_ref().filter(|known| known.choice.reader == reader);
        known.is_some_and(Synchronous::stays_together)
    }

    /// What the S-VOLs of the synchronous reader are. A pair that is copied for the first time is no member of the image yet.
    fn svols_of_second(&self) -> Svols {
        let reader = self.synchronous.as_ref().map(|known| known.choice.reader);
        let mut own = self.pairs.values().flatten().filter(|pair| Some(pair.reader) == reader);
        let is_image = own.all(|pair| match pair.facts.state {
            PairState::Normal | PairState::NotYetCopied => !pair.resync.marking,
            PairState::BeingCopied => !pair.resync.marking && pair.resync.copy_from == UpdateNumber::NONE,
            PairState::Unused | PairState::Suspended | PairState::Abnormal => false,
        });
        if is_image { Svols::Image } else { Svols::Behind }
    }

    /// Whether the reader has pairs and all are normal.
    fn are_normal(&self, reader: ArrayNumber) -> bool {
        let mut own = self.pairs.values().flatten().filter(|pair| pair.reader == reader).peekable();
        own.peek().is_some() && own.all(|pair| pair.facts.state == PairState::Normal && !pair.resync.marking)
    }

    /// Whether little enough is on its way to the reader for hosts to wait for it.
    fn is_near(&self, reader: ArrayNumber) -> bool {
        let Some(known) = &self.synchronous else { return false };
        let bytes = match known.choice.over {
            Over::Push | Over::Nothing => self.unread_bytes(reader),
            Over::Relay => self.journal.areas_after(known.confirmed).1,
        };
        self.next.since(known.confirmed.next()) <= NEAR_UPDATES && bytes <= NEAR_BYTES
    }
}

const ENDS: &str = "the group ends here before the other array has confirmed";
const FENCED: &str =
    "the other array of the synchronous pair does not confirm, and the group's fence forbids to go on alone";
/// Data of a copy that was read waits no longer for the synchronous reader to have what it was read with; it is read again then.
const SECOND_WAIT: Duration = Duration::from_millis(500);
/// An array that has not asked for so long is not there.
const ALIVE: Duration = Duration::from_secs(5);
/// Hosts begin to wait when no more than this is on its way.
const NEAR_UPDATES: u64 = 4096;
/// The same of write data.
const NEAR_BYTES: u64 = 4 << 20;
