//! Forwarded writes at the primary: which of them may still be applied (promise T2, invariant 8).
//!
//! # What it guarantees
//! * A write is applied only while the connection that it came over is the newest one of its upstream array, and to a volume
//!   that this connection named and whose pair is still there. That is looked at in the critical section in which it becomes
//!   visible, and a new connection is opened under the same lock: when [`Inflow::open`] has returned, nothing of an earlier
//!   connection becomes visible any more; when [`Inflow::keep`] has, nothing of a pair that was taken away.
//! * A write that was applied is not applied again, over whatever connection it comes, for as long as this array runs. After a
//!   restart the upstream array may send once more what it has no answer for: the same bytes to a range that it holds.

use super::group::{Refusal, Sequenced};
use std::collections::{BTreeMap, BTreeSet};
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
    /// The volumes that it named, as far as their pairs are still there.
    volumes: BTreeSet<u32>,
    /// Over the newest connection differences have been announced.
    copies: bool,
    /// What was applied, by sequence number, as far as it may be sent again.
    applied: BTreeMap<u64, Sequenced>,
}

/// One write that has come over a connection.
#[derive(Clone, Debug)]
pub(crate) struct Ticket {
    inflow: Arc<Inflow>,
    volume: u32,
    connection: Connection,
    sequence: u64,
    oldest: u64,
}

impl Inflow {
    /// From here on only this connection counts, for these volumes. Repeated for the same one it changes nothing else.
    ///
    /// # Errors
    /// A later one is open already.
    pub(crate) fn open(&self, connection: Connection, volumes: BTreeSet<u32>) -> Result<(), &'static str> {
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
        (state.newest, state.volumes) = (Some(connection), volumes);
        Ok(())
    }

    /// Only these volumes have pairs.
    pub(crate) fn keep(&self, volumes: &BTreeSet<u32>) {
        self.lock().volumes.retain(|volume| volumes.contains(volume));
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
    pub(crate) fn ticket(
        self: &Arc<Self>,
        volume: u32,
        connection: Connection,
        (sequence, oldest): (u64, u64),
    ) -> Ticket {
        Ticket { inflow: self.clone(), volume, connection, sequence, oldest }
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
        if !state.volumes.contains(&self.volume) {
            return Err(Refusal::Invalid("its connection is not about this volume, or not any more".into()));
        }
        state.applied = state.applied.split_off(&self.oldest);
        if let Some(done) = state.applied.get(&self.sequence) {
            return Ok(*done);
        }
        // An array that keeps to the window never gets here.
        if state.applied.len() >= APPLIED_MAX {
            return Err(Refusal::Again);
        }
        let done = apply()?;
        state.applied.insert(self.sequence, done);
        Ok(done)
    }
}

/// Applied writes that are remembered: as many as the numbers of writes under way may lie apart.
const APPLIED_MAX: usize = super::forward::WINDOW;

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_journal::UpdateNumber;

    const FIRST: Connection = Connection { incarnation: 3, number: 1 };
    const SECOND: Connection = Connection { incarnation: 3, number: 2 };
    const RESTARTED: Connection = Connection { incarnation: 4, number: 1 };

    fn named() -> BTreeSet<u32> {
        BTreeSet::from([7])
    }

    fn applied(number: u64) -> Result<Sequenced, Refusal> {
        Ok(Sequenced::Journaled(UpdateNumber::new(number)))
    }

    #[test]
    fn a_repeated_write_is_applied_once_and_gets_the_same_number() {
        let inflow = Arc::new(Inflow::default());
        inflow.open(FIRST, named()).unwrap();
        assert_eq!(inflow.ticket(7, FIRST, (7, 7)).pass(|| applied(100)), applied(100));
        inflow.open(SECOND, named()).unwrap();
        let again = inflow.ticket(7, SECOND, (7, 7)).pass(|| panic!("it was applied already"));
        assert_eq!(again, applied(100));
        // What is below the oldest one under way is forgotten, after a restart of the upstream everything.
        assert_eq!(inflow.ticket(7, SECOND, (8, 8)).pass(|| applied(101)), applied(101));
        assert_eq!(inflow.lock().applied.len(), 1);
        inflow.open(RESTARTED, named()).unwrap();
        assert_eq!(inflow.ticket(7, RESTARTED, (8, 8)).pass(|| applied(102)), applied(102));
    }

    #[test]
    fn nothing_of_an_earlier_connection_is_applied_once_a_later_one_is_open() {
        let inflow = Arc::new(Inflow::default());
        let late = inflow.ticket(7, FIRST, (7, 7));
        assert!(late.pass(|| panic!("no connection is open")).is_err());
        inflow.open(FIRST, named()).unwrap();
        inflow.begin_copy();
        inflow.open(SECOND, named()).unwrap();
        assert!(!inflow.copies(), "what one connection announced says nothing of the next");
        assert!(late.pass(|| panic!("its connection is over")).is_err());
        assert!(inflow.open(FIRST, named()).is_err());
        inflow.open(RESTARTED, named()).unwrap();
        assert!(inflow.open(SECOND, named()).is_err());
    }

    #[test]
    fn a_write_that_was_refused_may_come_again_and_no_more_are_remembered_than_there_can_be() {
        let inflow = Arc::new(Inflow::default());
        inflow.open(FIRST, named()).unwrap();
        assert_eq!(inflow.ticket(7, FIRST, (1, 1)).pass(|| Err(Refusal::NoRoom)), Err(Refusal::NoRoom));
        for sequence in 1..=APPLIED_MAX as u64 {
            assert_eq!(inflow.ticket(7, FIRST, (sequence, 1)).pass(|| applied(sequence)), applied(sequence));
        }
        let one_more = inflow.ticket(7, FIRST, (1 + APPLIED_MAX as u64, 1));
        assert_eq!(one_more.pass(|| panic!("too many")), Err(Refusal::Again));
    }

    #[test]
    fn nothing_is_applied_to_a_volume_that_was_not_named_or_whose_pair_is_gone() {
        let inflow = Arc::new(Inflow::default());
        inflow.open(FIRST, named()).unwrap();
        let late = inflow.ticket(7, FIRST, (1, 1));
        assert!(inflow.ticket(8, FIRST, (2, 1)).pass(|| panic!("it was not named")).is_err());
        assert_eq!(late.pass(|| Err(Refusal::NoRoom)), Err(Refusal::NoRoom), "it waits for room");
        inflow.keep(&BTreeSet::from([8]));
        assert!(late.pass(|| panic!("hosts may write the volume by now")).is_err());
    }
}
