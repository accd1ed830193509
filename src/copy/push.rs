//! Updates that go to a synchronous reader by themselves (promise K1, decision 20): JOURNAL WRITE at both ends, and
//! SYNCHRONISE at the reader.
//!
//! The primary answers journal reads of its own on the reader's behalf and sends the answers: so what a reader is handed,
//! and in which form, is decided in one place (`serve.rs`). The reader stores them by the code that stores what it has
//! read (`Group::try_store`), strictly by number, and answers when everything before is durable, too.
//!
//! A channel lives at most as long as the reader reads its source over one session ([`Group::hold_lease`]); so nothing is
//! taken from an array whose generations were not compared.

use super::answer::{Head, MAX_ANSWER_BYTES, MAX_UPDATES, Outcome};
use super::fetch::{FetchError, Reading, Whose};
use super::group::{Group, Refusal, Role, Sequencer};
use super::inherited::ForOthers;
use super::received::decode;
use super::serve::{Answer, Form, Request};
use super::source::{Source, SourceError};
use super::synchronous::{Asked, Choice};
use super::tamper::SynchronousDefect;
use crate::clock::{BoxFuture, MonotonicNs};
use crate::disk::slot::{SLOT_BYTES, Slot};
use crate::volume::pair::PairState;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use holdfast_journal::{ArrayNumber, UpdateNumber};
use std::collections::BTreeMap;
use std::time::Duration;

/// The way to the synchronous reader. Defined here, by its user; implemented over a session of its own.
pub(crate) trait Second: Send + Sync {
    /// JOURNAL WRITE: what is sent is durable there, with everything before it, when this returns.
    fn write(&self, channel: u64, answer: Answer) -> BoxFuture<'_, Result<(), SourceError>>;
    /// Waits until the way is gone.
    fn closed(&self) -> BoxFuture<'_, ()>;
}

/// What a synchronous reader knows of how it stands.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pushed {
    /// Its pairs are synchronous.
    pub(crate) is_synchronous: bool,
    /// The channel over which its source will send; zero: none.
    expected: u64,
    /// The channel over which it did, everything before being here; zero: none.
    in_use: u64,
    /// It has everything that any host was answered, until then.
    lease: Option<MonotonicNs>,
}

/// Why a push is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PushRefused {
    /// It comes over a channel that this array does not know, or not any more.
    #[error("it comes over an unknown channel")]
    Channel,
    /// What lies before it does not come.
    #[error("updates before {0} are missing")]
    Gap(u64),
    /// There is no room here.
    #[error("there is no room for it")]
    NoRoom,
    /// It is damaged, or this array's journal refuses.
    #[error("{0}")]
    Invalid(String),
}

/// At the primary.
impl Group {
    /// Waits until updates should go to the synchronous reader; none: the group ends.
    pub(crate) async fn second_wanted(&self) -> Option<Choice> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(choice) = self.wants_channel() {
                return Some(choice);
            }
            tokio::select! {
                biased;
                () = self.closing.begins() => return None,
                () = async {
                    self.has_second().await;
                    tokio::select! {
                        biased;
                        () = changed => {}
                        // It also depends on when the other array was heard of.
                        () = self.clock.sleep(WANTED_LOOK) => {}
                    }
                } => {}
            }
        }
    }

    /// Sends updates over a way to that reader until it fails or is not wanted any more, or another reader is the synchronous one; why.
    pub(crate) async fn push_over(&self, to: &dyn Second, reader: ArrayNumber, channel: u64) -> String {
        if !self.open_channel(channel, reader) {
            return "it is not the synchronous one any more".into();
        }
        let _ends = Ends { group: self, reader, channel };
        let told = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                match self.channel_is_told(channel) {
                    Some(true) => return true,
                    Some(false) => changed.await,
                    None => return false,
                }
            }
        };
        let is_told = tokio::select! {
            biased;
            () = self.closing.begins() => return "the group ends".into(),
            () = to.closed() => return "the session was closed".into(),
            is_told = told => is_told,
            () = self.clock.sleep(TOLD_WITHIN) => false,
        };
        if !is_told {
            return "the other array does not ask for the channel".into();
        }
        match self.push_all(to, reader, channel).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn push_all(
        &self,
        to: &dyn Second,
        reader: ArrayNumber,
        channel: u64,
    ) -> Result<std::convert::Infallible, String> {
        let mut under_way = FuturesUnordered::new();
        let mut bytes_under_way = 0;
        let mut next: Option<BoxFuture<'_, Result<Push, String>>> = None;
        loop {
            let choice = self.wanted_by(reader)?;
            let has_room = under_way.len() < UNDER_WAY_MAX && bytes_under_way < BYTES_UNDER_WAY_MAX;
            if next.is_none() && has_room {
                next = Some(Box::pin(self.next_push(choice)));
            }
            let following = async {
                match &mut next {
                    Some(next) => next.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.closing.begins() => return Err("the group ends".into()),
                () = to.closed() => return Err("the session was closed".into()),
                Some(ended) = under_way.next(), if !under_way.is_empty() => {
                    let (bytes, sent, ended): (usize, MonotonicNs, Result<UpdateNumber, String>) = ended;
                    bytes_under_way -= bytes;
                    let end = ended?;
                    self.note_taken(channel, sent);
                    self.confirm(channel, end);
                }
                push = following => {
                    next = None;
                    let Push { answer, end } = push?;
                    self.wanted_by(reader)?;
                    let bytes = answer.head.len() + answer.pages.len() * SLOT_BYTES;
                    bytes_under_way += bytes;
                    let (patience, sent) = (choice.limit.max(ANSWER_MIN), self.clock.now());
                    under_way.push(async move {
                        let ended = tokio::select! {
                            biased;
                            written = to.write(channel, answer) => written.map(|()| end).map_err(|error| error.to_string()),
                            () = self.clock.sleep(patience) => Err("a write of journals is not answered".into()),
                        };
                        (bytes, sent, ended)
                    });
                }
            }
        }
    }

    /// Whether the reader is to be sent updates still. What another one is to get is not what this one lacks.
    fn wanted_by(&self, reader: ArrayNumber) -> Result<Choice, String> {
        let wanted = self.wants_channel().filter(|choice| choice.reader == reader);
        wanted.ok_or_else(|| "it is not wanted now".to_owned())
    }

    /// What is sent next: updates as soon as there are any, or after a while the number up to which there are none.
    async fn next_push(&self, choice: Choice) -> Result<Push, String> {
        let request = Request {
            reader: choice.reader,
            start: None,
            retry: false,
            updates: MAX_UPDATES,
            bytes: MAX_ANSWER_BYTES,
            wait: (choice.limit / 8).max(PUSH_WAIT_MIN),
            form: Form::Journals,
        };
        let answer = self.answer_pushed(request).await.map_err(|error| error.to_string())?;
        let (head, _) = Head::decode(&answer.head).map_err(|error| error.to_string())?;
        match head.outcome {
            Outcome::Updates | Outcome::NoJournal => {
                let end = UpdateNumber::new((head.first + u64::from(head.updates)).saturating_sub(1));
                Ok(Push { answer, end })
            }
            other => Err(format!("nothing can be sent: {other:?}")),
        }
    }
}

/// One JOURNAL WRITE.
struct Push {
    answer: Answer,
    /// When it is answered, everything up to here is durable there.
    end: UpdateNumber,
}

/// The end of a channel, however it comes.
struct Ends<'a> {
    group: &'a Group,
    reader: ArrayNumber,
    channel: u64,
}

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.group.close_channel(self.channel, self.reader);
    }
}

impl Sequencer {
    /// Its volumes are an image, nothing keeps restore from what comes, and it may come.
    fn is_taken_over_whole(&self) -> bool {
        let all_normal = self.svols.values().all(|svol| svol.state == PairState::Normal);
        // A takeover would end at the stop, or go back before the stretch.
        let is_held_back = self.stops().iter().any(Option::is_some) || self.inside_until().is_some();
        all_normal && !is_held_back && !self.takes_nothing && self.failed.is_none()
    }
}

/// At the reader.
impl Group {
    /// Whether the pairs here are synchronous, as the store says.
    pub(crate) fn set_is_synchronous(&self, is_synchronous: bool) {
        let mut seq = self.lock();
        if seq.pushed.is_synchronous == is_synchronous {
            return;
        }
        seq.pushed = Pushed { is_synchronous, ..Pushed::default() };
        seq.for_others = if is_synchronous { ForOthers::Everything } else { ForOthers::Nothing };
        drop(seq);
        self.changed.notify_waiters();
    }

    /// The source has said whether this array is its synchronous copy.
    pub(super) fn hears_if_second(&self, is_second: bool) {
        let mut seq = self.lock();
        let is_news = seq.apart.said_second.replace(is_second) != Some(is_second);
        drop(seq);
        if is_news {
            self.changed.notify_waiters();
        }
    }

    /// The same, where the store does not say so yet.
    pub(crate) fn second_news(&self) -> Option<bool> {
        let seq = self.lock();
        let said = seq.apart.said_second.filter(|_| self.role == Role::Copy);
        said.filter(|is_second| *is_second != seq.pushed.is_synchronous)
    }

    /// Whether this array has every write that any host was answered, for certain; none: its pairs are not synchronous.
    pub(crate) fn shows_synchronised(&self) -> Option<bool> {
        let now = self.clock.now();
        let seq = self.lock();
        let is_kept = self.defect() == Some(SynchronousDefect::LeaseKept) && seq.pushed.lease.is_some();
        let holds = is_kept || seq.pushed.lease.is_some_and(|until| now < until);
        seq.pushed.is_synchronous.then_some(holds && seq.is_taken_over_whole())
    }

    /// Whether a takeover would find everything that has come here, or may be read until then.
    pub(crate) fn is_taken_over_whole(&self) -> bool {
        self.lock().is_taken_over_whole()
    }

    /// Whether this array takes over, and takes nothing more from its source.
    pub(crate) fn takes_nothing(&self) -> bool {
        self.lock().takes_nothing
    }

    pub(super) fn defect(&self) -> Option<SynchronousDefect> {
        self.tamper.as_ref().and_then(|tamper| tamper.synchronous())
    }

    /// Whether anything is taken from the source: not while this array takes over. What is stored by then is made durable by the
    /// caller ([`Group::all_durable`]), because its source may have answered hosts for it.
    pub(crate) fn take_from_source(&self, is_allowed: bool) {
        let mut seq = self.lock();
        if seq.takes_nothing != is_allowed {
            return;
        }
        seq.takes_nothing = !is_allowed;
        seq.pushed.begin_anew();
        drop(seq);
        self.changed.notify_waiters();
    }

    /// Waits until everything that is stored here is durable.
    pub(crate) async fn all_durable(&self) -> Result<(), super::error::CopyError> {
        let last = self.next_number().previous();
        self.try_durable(last).await
    }

    /// Asks the source how the synchronous copy stands, again and again until the session fails. What was learnt ends with it.
    pub(super) async fn hold_lease(&self, source: &dyn Source, source_group: u32) -> FetchError {
        let _forgets = Forgets(self);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let sent = self.clock.now();
            let (known, heard) = {
                let seq = self.lock();
                (seq.pushed.clone(), seq.apart.heard_answer)
            };
            if !known.is_synchronous || self.lock().takes_nothing {
                changed.await;
                continue;
            }
            let asked = Asked {
                channel: known.expected,
                in_use: known.in_use != 0 && known.in_use == known.expected,
                holds_lease: known.lease.is_some_and(|until| sent < until),
                heard,
            };
            let told = match source.synchronise(source_group, asked).await {
                Ok(told) => told,
                Err(error) => return error.into(),
            };
            self.lock().apart.heard_answer = told.number;
            self.others_have(told.others_have);
            let is_news = {
                let mut seq = self.lock();
                if seq.takes_nothing {
                    continue; // What it says comes too late.
                }
                let pushed = &mut seq.pushed;
                let before = (pushed.expected, pushed.lease.is_some());
                pushed.expected = told.channel;
                if pushed.in_use != told.channel {
                    pushed.in_use = 0;
                }
                // The yes is about the channel that was asked about.
                let is_yes = !told.lease.is_zero() && asked.in_use && asked.channel == told.channel;
                let until = MonotonicNs(sent.0.saturating_add(nanoseconds(told.lease)));
                if self.defect() != Some(SynchronousDefect::LeaseKept) || is_yes {
                    pushed.lease = is_yes.then_some(until);
                }
                before != (pushed.expected, pushed.lease.is_some())
            };
            if is_news {
                self.changed.notify_waiters();
                self.clock.sleep(ASK_PAUSE).await;
                continue; // The source waits to hear that it was understood.
            }
            // What has begun to come is told at once.
            let pause = self.clock.sleep(told.every.clamp(ASK_PAUSE, ASK_MAX));
            tokio::pin!(pause);
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                let is_in_use = self.lock().pushed.is_in_use();
                if is_in_use != asked.in_use {
                    break;
                }
                tokio::select! {
                    biased;
                    () = &mut pause => break,
                    () = &mut changed => {}
                }
            }
        }
    }

    /// JOURNAL WRITE: stores what has come once everything before it is stored, and waits until it is durable.
    pub(crate) async fn take_push(
        &self,
        channel: u64,
        pages: Vec<Slot>,
        source_group: u32,
    ) -> Result<(), PushRefused> {
        let invalid = |error: FetchError| PushRefused::Invalid(error.to_string());
        let (head, received) = decode(pages, source_group, &self.capacities()).map_err(invalid)?;
        if !matches!(head.outcome, Outcome::Updates | Outcome::NoJournal) {
            return Err(PushRefused::Invalid("it carries no updates".into()));
        }
        let end = UpdateNumber::new(head.first + u64::from(head.updates));
        let deadline = self.clock.sleep(TURN_WITHIN);
        tokio::pin!(deadline);
        let mut arrived: BTreeMap<_, _> = received
            .updates
            .into_iter()
            .map(|(update, payload)| (update.number, (update, payload)))
            .collect();
        loop {
            let (changed, room) = (self.changed.notified(), self.room.notified());
            tokio::pin!(changed, room);
            changed.as_mut().enable();
            room.as_mut().enable();
            let next = {
                let seq = self.lock();
                if self.role != Role::Copy
                    || channel == 0
                    || seq.pushed.expected != channel
                    || seq.takes_nothing
                {
                    return Err(PushRefused::Channel);
                }
                seq.next
            };
            let waits_for = if head.first > next.get() {
                PushRefused::Gap(head.first)
            } else {
                arrived = arrived.split_off(&next);
                match self.try_store(&mut arrived, Whose::Source, None) {
                    Ok(()) => match self.next_number() {
                        after if after >= end => break,
                        // What was read meanwhile was stored in between.
                        after if after > next => continue,
                        _ => return Err(PushRefused::Invalid("it has a gap".into())),
                    },
                    Err(Refusal::NoRoom | Refusal::Leaving | Refusal::Again | Refusal::Fenced) => {
                        PushRefused::NoRoom
                    }
                    Err(Refusal::Invalid(reason)) => return Err(PushRefused::Invalid(reason)),
                }
            };
            if self.defect() == Some(SynchronousDefect::GapAccepted) {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = &mut changed => {}
                () = &mut room => {}
                () = &mut deadline => return Err(waits_for),
            }
        }
        self.note_pushed(channel, &head, end);
        if self.defect() == Some(SynchronousDefect::ConfirmedEarly) {
            return Ok(());
        }
        self.try_durable(end.previous()).await.map_err(|error| PushRefused::Invalid(error.to_string()))
    }

    /// Everything before `end` is stored here.
    fn note_pushed(&self, channel: u64, head: &Head, end: UpdateNumber) {
        let mut seq = self.lock();
        if seq.pushed.expected == channel && seq.next >= end {
            seq.pushed.in_use = channel;
        }
        seq.reading = Reading::Going;
        let read_start = head.first + u64::from(head.updates);
        seq.source = Some(Head { first: read_start, ..head.clone() });
        drop(seq);
        self.changed.notify_waiters(); // Whoever comes next is waiting for this.
    }
}

impl Pushed {
    /// Nothing is taken over the channel any more, and nothing is promised.
    pub(super) fn begin_anew(&mut self) {
        *self = Self { is_synchronous: self.is_synchronous, ..Self::default() };
    }

    fn is_in_use(&self) -> bool {
        self.in_use != 0 && self.in_use == self.expected
    }
}

/// What a reader knew from its source ends with the session over which it asked.
struct Forgets<'a>(&'a Group);

impl Drop for Forgets<'_> {
    fn drop(&mut self) {
        let mut seq = self.0.lock();
        let lease = seq.pushed.lease.filter(|_| self.0.defect() == Some(SynchronousDefect::LeaseKept));
        seq.pushed = Pushed { is_synchronous: seq.pushed.is_synchronous, lease, ..Pushed::default() };
        drop(seq);
        self.0.changed.notify_waiters();
    }
}

/// Whom updates go to by themselves reads none.
impl Group {
    /// A journal read of an array to which updates are sent is held, and brings nothing.
    pub(super) async fn while_pushed(
        &self,
        reader: ArrayNumber,
        deadline: &mut std::pin::Pin<&mut BoxFuture<'static, ()>>,
    ) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if !self.pushes_to(reader) {
                return;
            }
            tokio::select! {
                biased;
                () = &mut changed => {}
                () = deadline.as_mut() => return,
            }
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Writes of journals under way at a time.
const UNDER_WAY_MAX: usize = 16;
/// Their bytes, beyond which none is added.
const BYTES_UNDER_WAY_MAX: usize = 8 << 20;
/// A write of journals is answered within the group's limit, and within this if that is less.
const ANSWER_MIN: Duration = Duration::from_secs(1);
/// An empty push is sent no more often than this.
const PUSH_WAIT_MIN: Duration = Duration::from_millis(10);
/// The other array asks for the channel within this.
const TOLD_WITHIN: Duration = Duration::from_secs(2);
/// A push waits no longer for what lies before it, and for room; it holds memory meanwhile.
const TURN_WITHIN: Duration = Duration::from_secs(4);
/// How often is looked whether updates should be sent.
const WANTED_LOOK: Duration = Duration::from_secs(1);
/// Between two questions at least and at most.
const ASK_PAUSE: Duration = Duration::from_millis(5);
/// See [`ASK_PAUSE`].
const ASK_MAX: Duration = Duration::from_secs(1);
