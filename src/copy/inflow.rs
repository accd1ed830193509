//! Forwarded writes at the primary: which of them may still be applied (promise T2, invariant 8).
//!
//! # What it guarantees
//! * A write is applied only while the connection that it came over is the newest one of its upstream array. That is looked
//!   at in the critical section in which it becomes visible, and a new connection is opened under the same lock: when
//!   [`Inflow::open`] has returned, nothing of an earlier connection becomes visible any more.
//! * A write that was applied is not applied again, over whatever connection it comes, for as long as this array runs. After a
//!   restart the upstream array may send once more what it has no answer for: the same bytes to a range that it holds.

use super::group::{Refusal, Sequenced};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A connection of an upstream array; later ones are greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Connection {
    /// How often that array has been started.
    pub(crate) incarnation: u64,
    /// Its connections since then.
    pub(crate) number: u32,
}

/// What comes from one upstream array for one group.
#[derive(Debug, Default)]
pub(crate) struct Inflow(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    newest: Option<Connection>,
    /// Over the newest connection differences have been announced.
    copies: bool,
    /// What was applied, by sequence number, as far as it may be sent again.
    applied: BTreeMap<u64, Sequenced>,
}

/// One write that has come over a connection.
#[derive(Clone, Debug)]
pub(crate) struct Ticket {
    inflow: Arc<Inflow>,
    connection: Connection,
    sequence: u64,
    oldest: u64,
}

impl Inflow {
    /// From here on only this connection counts. Repeated for the same one it changes nothing.
    ///
    /// # Errors
    /// A later one is open already.
    pub(crate) fn open(&self, connection: Connection) -> Result<(), &'static str> {
        let mut state = self.lock();
        if state.newest.is_some_and(|newest| newest > connection) {
            return Err("a later connection is open");
        }
        if state.newest.is_none_or(|newest| newest.incarnation != connection.incarnation) {
            state.applied.clear();
        }
        if state.newest != Some(connection) {
            state.copies = false;
        }
        state.newest = Some(connection);
        Ok(())
    }

    /// Differences come over the open connection.
    pub(crate) fn begin_copy(&self) {
        self.lock().copies = true;
    }

    /// Whether differences have been announced over the open connection.
    pub(crate) fn copies(&self) -> bool {
        self.lock().copies
    }

    /// A write that has come.
    pub(crate) fn ticket(self: &Arc<Self>, connection: Connection, sequence: u64, oldest: u64) -> Ticket {
        Ticket { inflow: self.clone(), connection, sequence, oldest }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// Applies the write, if it may be and has not been. `apply` makes it visible and does not wait.
    pub(crate) fn pass(
        &self,
        apply: impl FnOnce() -> Result<Sequenced, Refusal>,
    ) -> Result<Sequenced, Refusal> {
        let mut state = self.inflow.lock();
        if state.newest != Some(self.connection) {
            return Err(Refusal::Invalid("it came over a connection that is over".into()));
        }
        state.applied = state.applied.split_off(&self.oldest);
        if let Some(done) = state.applied.get(&self.sequence) {
            return Ok(*done);
        }
        if state.applied.len() >= APPLIED_MAX {
            return Err(Refusal::Invalid("more writes are under way than an upstream array may have".into()));
        }
        let done = apply()?;
        state.applied.insert(self.sequence, done);
        Ok(done)
    }
}

/// Applied writes that are remembered: more than an upstream array has under way.
const APPLIED_MAX: usize = 2 * super::forward::UNDER_WAY_MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_journal::UpdateNumber;

    const FIRST: Connection = Connection { incarnation: 3, number: 1 };
    const SECOND: Connection = Connection { incarnation: 3, number: 2 };
    const RESTARTED: Connection = Connection { incarnation: 4, number: 1 };

    fn applied(number: u64) -> Result<Sequenced, Refusal> {
        Ok(Sequenced::Journaled(UpdateNumber::new(number)))
    }

    #[test]
    fn a_repeated_write_is_applied_once_and_gets_the_same_number() {
        let inflow = Arc::new(Inflow::default());
        inflow.open(FIRST).unwrap();
        assert_eq!(inflow.ticket(FIRST, 7, 7).pass(|| applied(100)), applied(100));
        inflow.open(SECOND).unwrap();
        let again = inflow.ticket(SECOND, 7, 7).pass(|| panic!("it was applied already"));
        assert_eq!(again, applied(100));
        // What is below the oldest one under way is forgotten, after a restart of the upstream everything.
        assert_eq!(inflow.ticket(SECOND, 8, 8).pass(|| applied(101)), applied(101));
        assert_eq!(inflow.lock().applied.len(), 1);
        inflow.open(RESTARTED).unwrap();
        assert_eq!(inflow.ticket(RESTARTED, 8, 8).pass(|| applied(102)), applied(102));
    }

    #[test]
    fn nothing_of_an_earlier_connection_is_applied_once_a_later_one_is_open() {
        let inflow = Arc::new(Inflow::default());
        let late = inflow.ticket(FIRST, 7, 7);
        assert!(late.pass(|| panic!("no connection is open")).is_err());
        inflow.open(FIRST).unwrap();
        inflow.begin_copy();
        inflow.open(SECOND).unwrap();
        assert!(!inflow.copies(), "what one connection announced says nothing of the next");
        assert!(late.pass(|| panic!("its connection is over")).is_err());
        assert!(inflow.open(FIRST).is_err());
        inflow.open(RESTARTED).unwrap();
        assert!(inflow.open(SECOND).is_err());
    }

    #[test]
    fn a_write_that_was_refused_may_come_again_and_no_more_are_remembered_than_there_can_be() {
        let inflow = Arc::new(Inflow::default());
        inflow.open(FIRST).unwrap();
        assert_eq!(inflow.ticket(FIRST, 1, 1).pass(|| Err(Refusal::NoRoom)), Err(Refusal::NoRoom));
        for sequence in 1..=APPLIED_MAX as u64 {
            assert_eq!(inflow.ticket(FIRST, sequence, 1).pass(|| applied(sequence)), applied(sequence));
        }
        let one_more = inflow.ticket(FIRST, 1 + APPLIED_MAX as u64, 1);
        assert!(matches!(one_more.pass(|| panic!("too many")), Err(Refusal::Invalid(_))));
    }
}
