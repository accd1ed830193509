//! How far an auxiliary may make updates visible, as a durable checkpoint of its journal says it (promises J11, J16, O3).
//!
//! # What it guarantees
//! What is visible may lie on the units a moment later, page by page. So a restart has to make visible again all that was,
//! whatever the delay of restore, the clocks, and the operator say by then: else the S-VOLs are newer in some pages than
//! in others, while their number says that they are an image. Therefore nothing is made visible before a durable
//! checkpoint says that it may be ([`Group::reach`], [`Group::go_through`]), and a replay goes at least as far as the
//! checkpoint says: before anybody reads the S-VOLs, and before anything says which number they are of.
//!
//! *Durable* means in both slots of the journal's head: whichever is damaged later, the other one says no less. So what only
//! the newer slot says was never visible, and a restart goes as far as both say, or the one that is left.
//!
//! # What it costs
//! Without a delay everything that is held is promised, once; nothing is written after that. With one, two checkpoints
//! for what has fallen due, up to [`PROMISED_MAX`] updates at a time, and with less at most once each [`DUE_CHECK`]. When the
//! delay is made longer the promise shrinks to what is visible, with the next checkpoint: a crash before that restores what
//! was held then.
//!
//! A stretch in which the P-VOLs are no image (`whole.rs`) is promised to its end before it is entered: neither a delay
//! nor a stop may leave the S-VOLs inside.

use super::error::CopyError;
use super::group::{Group, Sequencer};
use super::restore::DUE_CHECK;
use crate::clock::MonotonicNs;
use crate::disk::slot::Class;
use holdfast_journal::{Update, UpdateNumber};
use std::time::Duration;

/// What a checkpoint says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Promise {
    /// Updates up to here may be visible; [`Promise::EVERYTHING`]: all that the journal holds.
    pub(crate) visible: UpdateNumber,
    /// Up to here restore goes without a stop.
    pub(crate) through: UpdateNumber,
}

impl Promise {
    /// No number is larger.
    pub(crate) const EVERYTHING: UpdateNumber = UpdateNumber::new(u64::MAX);

    fn covers(self, wanted: Self) -> bool {
        self.visible >= wanted.visible && self.through >= wanted.through
    }

    /// What both say.
    pub(super) fn in_both(self, other: Self) -> Self {
        Self { visible: self.visible.min(other.visible), through: self.through.min(other.through) }
    }
}

/// Of a journal that was never checkpointed, or is not restored from.
impl Default for Promise {
    fn default() -> Self {
        Self { visible: Self::EVERYTHING, through: UpdateNumber::NONE }
    }
}

/// What is promised, and what of it a durable checkpoint says: nothing beyond either becomes visible.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Promises {
    /// By every checkpoint from here on.
    visible: UpdateNumber,
    /// By the newest durable one, and by the one before it.
    newest: Promise,
    before: Promise,
    /// When the newest promise was made of all that had fallen due by then.
    fallen_due_at: Option<MonotonicNs>,
}

impl Promises {
    /// As a restart finds them.
    pub(crate) fn found(durable: Promise) -> Self {
        Self { visible: durable.visible, newest: durable, before: durable, fallen_due_at: None }
    }

    /// What is left of it if one slot is lost.
    fn durable(&self) -> Promise {
        self.newest.in_both(self.before)
    }

    fn is_in_both(&self, wanted: Promise) -> bool {
        self.newest == wanted && self.before == wanted
    }
}

impl Group {
    /// Up to where restore may go now with this delay: nothing beyond it is due, or may be visible after a restart. Called by
    /// the one who restores.
    ///
    /// # Errors
    /// It cannot be made durable.
    pub(super) async fn reach(&self, delay: Duration) -> Result<UpdateNumber, CopyError> {
        let (next, allowed, inside_until) = {
            let seq = self.lock();
            (seq.restored.next(), seq.allowed(), seq.inside_until())
        };
        if delay.is_zero() {
            if allowed != Promise::EVERYTHING {
                self.promise(Promise::EVERYTHING).await?;
            }
            return Ok(self.durable_here());
        }
        if allowed != Promise::EVERYTHING && next <= allowed {
            return Ok(allowed);
        }
        let due = match inside_until {
            Some(until) => until,
            None => self.due(next, delay).await?,
        };
        let now = self.clock.now();
        let (visible, is_durable, is_early) = {
            let seq = self.lock();
            let promises = &seq.promises;
            let is_early = promises.fallen_due_at.is_some_and(|at| now.since(at) < DUE_CHECK);
            (seq.visible_now(), promises.is_in_both(seq.promised()), is_early)
        };
        let is_full = due.get().saturating_sub(next.previous().get()) >= PROMISED_MAX;
        // One that shrinks is written again until it is durable.
        if allowed != Promise::EVERYTHING && is_durable {
            if due < next {
                return Ok(due);
            }
            if is_early && !is_full && inside_until.is_none() {
                return Ok(next.previous()); // What falls due one by one shares a checkpoint.
            }
        }
        self.promise(due.max(visible)).await?;
        if due >= next && !is_full {
            self.lock().promises.fallen_due_at = Some(now);
        }
        Ok(due)
    }

    /// The newest update that is old enough, with all before it; the age is by the source's clock in the record and this
    /// array's own: a step of either shifts the window, nothing else.
    async fn due(&self, next: UpdateNumber, delay: Duration) -> Result<UpdateNumber, CopyError> {
        let (durable, now_ns) = (self.durable_here(), self.clock.wall().0);
        let delay_ns = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
        let is_due =
            |update: &Update| update.number <= durable && update.time_ns.saturating_add(delay_ns) <= now_ns;
        let (mut due, mut number) = (next.previous(), next);
        while number <= durable && due.get() - next.previous().get() < PROMISED_MAX {
            let updates = self.load_information(number, Class::Restore).await?;
            let Some(last) = updates.last().map(|update| update.number) else {
                return Err(self.is_missing(number));
            };
            if let Some(early) = updates.iter().find(|update| !is_due(update)) {
                return Ok(early.number.previous());
            }
            (due, number) = (last, last.next());
        }
        Ok(due)
    }

    /// Says in a durable checkpoint that updates up to there may be visible.
    async fn promise(&self, visible: UpdateNumber) -> Result<(), CopyError> {
        let wanted = {
            let mut seq = self.lock();
            let through = seq.wholeness.through;
            seq.promise(Promise { visible, through })?
        };
        self.keep_promise(wanted).await
    }

    /// Makes durable what [`Sequencer::promise`] has promised.
    pub(super) async fn keep_promise(&self, wanted: Promise) -> Result<(), CopyError> {
        for _ in 0..SLOTS {
            {
                let mut seq = self.lock();
                if seq.promises.is_in_both(wanted) {
                    return Ok(());
                }
                seq.journal.repeat_checkpoint();
            }
            self.checkpoint().await?;
        }
        if self.lock().promises.durable().covers(wanted) {
            return Ok(());
        }
        Err(CopyError::Damaged(format!("the journal of group {} goes on elsewhere", self.name)))
    }

    pub(super) fn is_missing(&self, number: UpdateNumber) -> CopyError {
        CopyError::Damaged(format!("update {number} is missing in the journal of group {}", self.name))
    }
}

impl Sequencer {
    /// What a checkpoint says that is made up now.
    pub(super) fn promised(&self) -> Promise {
        Promise { visible: self.promises.visible, through: self.wholeness.through }
    }

    /// A checkpoint that says this is durable, and the newest one.
    pub(super) fn promise_is_durable(&mut self, durable: Promise) {
        self.promises.before = std::mem::replace(&mut self.promises.newest, durable);
    }

    /// So do both slots of the volume that the journal goes on in.
    pub(super) fn promise_is_in_both(&mut self, durable: Promise) {
        (self.promises.newest, self.promises.before) = (durable, durable);
    }

    /// Promises this from here on; no checkpoint says it yet.
    ///
    /// # Errors
    /// The journal is being left: the checkpoint that another volume begins with may be made up already.
    pub(super) fn promise(&mut self, wanted: Promise) -> Result<Promise, CopyError> {
        if self.leaving.blocks() {
            return Err(CopyError::Damaged("the journal is being left".to_owned()));
        }
        self.promises.visible = wanted.visible;
        self.wholeness.through = self.wholeness.through.max(wanted.through);
        Ok(self.promised())
    }

    /// Nothing beyond it may become visible.
    fn allowed(&self) -> UpdateNumber {
        self.promises.visible.min(self.promises.durable().visible)
    }

    /// What may be visible: the update that is restored in part is.
    fn visible_now(&self) -> UpdateNumber {
        self.restored.max(self.restored_in_part.unwrap_or(UpdateNumber::NONE))
    }
}

/// Updates that one checkpoint promises with a delay; a restart may have to restore so many that are not visible yet.
const PROMISED_MAX: u64 = 4096;
/// For checkpoints in the head of a journal volume.
const SLOTS: usize = 2;
