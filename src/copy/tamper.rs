//! Defects on purpose, for the test of the tests: a simulation is worth what it finds when something is wrong.
//!
//! Nothing of this can be switched on from outside: only whoever builds an [`Env`](crate::array::env::Env) in code can
//! plant a defect, and the real one has none.

use super::change::Payload;
use super::serve::Answer;
use crate::volume::compare::Repair;
use holdfast_journal::Update;
use holdfast_journal::reader::Report;
use std::fmt::Debug;
use std::time::Duration;

/// What a tampered array does in place of the right thing. Every method does the right thing unless it is replaced.
#[doc(hidden)]
pub trait Tamper: Debug + Send + Sync {
    /// What an auxiliary applies to its S-VOLs in place of `update`. The group's number moves as if it had been that.
    fn restore(&self, update: &Update, payload: &Payload) -> Vec<(Update, Payload)> {
        vec![(update.clone(), payload.clone())]
    }

    /// What a primary sends in place of the right answer to a journal read.
    fn answer(&self, answer: Answer) -> Answer {
        answer
    }

    /// How long an array waits before it turns a group round that it has promised, or was promised, to turn; and before each
    /// step of a takeover.
    fn before_turning(&self) -> Duration {
        Duration::ZERO
    }

    /// How long a takeover rests when everything that is here is restored, before nothing more is let in.
    fn before_closing(&self) -> Duration {
        Duration::ZERO
    }

    /// How long an array holds a message up that asks it for a promise to take over, says who is its primary, or is one of a
    /// takeover, before it looks at it.
    fn before_promising(&self) -> Duration {
        Duration::ZERO
    }

    /// How long an array that has heard of the loss of a reader's journal waits before it marks what that held.
    fn before_marking_lost(&self) -> Duration {
        Duration::ZERO
    }

    /// How long an array goes on reading where it has noted that it reads no further.
    fn before_moving(&self) -> Duration {
        Duration::ZERO
    }

    /// How long restore stands still at a cut for nothing.
    fn before_cutting(&self) -> Duration {
        Duration::ZERO
    }

    /// What an array does wrong when a group is turned round.
    fn reversal(&self) -> Option<ReversalDefect> {
        None
    }

    /// What an array does wrong with a synchronous copy.
    fn synchronous(&self) -> Option<SynchronousDefect> {
        None
    }

    /// What an auxiliary reports in place of its true position.
    fn position(&self, position: Report) -> Report {
        position
    }

    /// What a copy repairs in place of what was wished.
    fn repair(&self, wish: Option<Repair>) -> Option<Repair> {
        wish
    }
}

/// A defect of a synchronous copy.
#[doc(hidden)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SynchronousDefect {
    /// The primary answers hosts before the other array has confirmed.
    AnsweredEarly,
    /// The copy confirms what it has stored and what is not durable; a relay counts as having what is on its way there.
    ConfirmedEarly,
    /// The copy confirms what lies behind a gap, and does not store it.
    GapAccepted,
    /// The copy goes on showing itself as synchronised when nobody says so any more.
    LeaseKept,
    /// Relays with parts of the journals keep nothing of a round while the next one is written.
    RoundsForgotten,
    /// Places on a relay are used again before the second array has reported what lies there.
    FreedEarly,
    /// The copy forgets some marks of what other copies may lack.
    MarkForgotten,
    /// The primary goes on serving hosts that see both arrays' volumes as one when it does not hear of the copy any more.
    ServedWithoutLeave,
}

/// A defect of a reversal.
#[doc(hidden)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReversalDefect {
    /// The old primary goes on taking writes of its hosts.
    HostsWriteOn,
    /// The new primary promises before it has restored everything.
    PromisedEarly,
    /// Where the old primary's hosts wrote while the pairs were suspended is forgotten at the new one.
    MarksForgotten,
    /// The new primary goes on in the generation of the old one.
    GenerationKept,
}
