//! The first array's leave to answer hosts where both arrays show them one identity (decision 25).
//!
//! A host that has paths to both must not be answered by both. Writes are fenced as ever (`decide.rs`); a read needs nobody's word,
//! and a first that is cut off, or comes back, would serve what is old while the second has taken over.
//!
//! # What it guarantees
//! While hosts wait for the second (*together*), the first serves them only within [`leave`](Synchronous::leave) of having **sent** something that
//! the second has taken since. A takeover takes nothing more from the moment that it restores, and if it has not shut the first it
//! lets hosts in only after the group's whole limit: later than the leave, whatever either clock shows. Neither is compared
//! with the other; a quarter of the limit is for the difference of their speeds. Behind a start the first has no leave.
//!
//! At rest something is sent every eighth of the limit. Hosts that are not waited for, or not any more by the durable record, need no leave.
//!
//! How it is proved: tests below; `tests/sim/identity.rs`.

use super::decide::{Phase, Synchronous};
use crate::clock::MonotonicNs;
use crate::copy::group::{Group, Sequencer};
use crate::copy::tamper::SynchronousDefect;
use std::sync::atomic::Ordering;
use std::time::Duration;

impl Synchronous {
    /// For so long after something was sent that the second has taken hosts are served.
    pub(super) fn leave(&self) -> Duration {
        self.choice.limit / 4 * 3
    }

    /// The second has taken what was sent to it at this time, over the open channel.
    pub(super) fn note_taken(&mut self, channel: u64, sent: MonotonicNs) {
        if self.channel.is_some_and(|open| open.id == channel) {
            self.taken = self.taken.max(Some(sent));
        }
    }

    /// Until when hosts are served; none: as long as they come.
    fn leave_ends(&self) -> Option<MonotonicNs> {
        let leave = u64::try_from(self.leave().as_nanos()).unwrap_or(0);
        let ends = |sent: MonotonicNs| MonotonicNs(sent.0.saturating_add(leave));
        (self.phase == Phase::Together).then(|| self.taken.map_or(MonotonicNs(0), ends))
    }
}

impl Group {
    /// Whether hosts may be answered here that take the volumes of this array and of the second for the same.
    pub(crate) fn has_leave(&self) -> bool {
        let is_given = self.clock.now().0 < self.waits.leave_ends.load(Ordering::Acquire);
        let tampered = || self.tamper.as_ref().and_then(|tamper| tamper.synchronous());
        is_given || tampered() == Some(SynchronousDefect::ServedWithoutLeave)
    }

    /// The second has taken what was sent to it at this time.
    pub(in crate::copy) fn note_taken(&self, channel: u64, sent: MonotonicNs) {
        let mut seq = self.lock();
        if let Some(known) = &mut seq.synchronous {
            known.note_taken(channel, sent);
        }
        self.note_leave(&seq);
    }

    /// To be called whenever something changes on which leave depends.
    pub(super) fn note_leave(&self, seq: &Sequencer) {
        let ends = seq.synchronous.as_ref().and_then(Synchronous::leave_ends);
        self.waits.leave_ends.store(ends.map_or(u64::MAX, |ends| ends.0), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::super::decide::{Channel, Choice, Over};
    use super::*;
    use crate::volume::kind::Fence;
    use holdfast_journal::{ArrayNumber, UpdateNumber};

    const LIMIT: Duration = Duration::from_secs(4);
    const CHANNEL: u64 = 7;

    fn at(ms: u64) -> MonotonicNs {
        MonotonicNs(ms * 1_000_000)
    }

    fn started(is_together: bool) -> Synchronous {
        let (reader, over) = (ArrayNumber(2), Over::Push);
        let choice = Choice { reader, over, fence: Fence::Data, limit: LIMIT, relays: 0 };
        let mut state = Synchronous::new(choice, is_together, UpdateNumber::new(10), at(0));
        state.channel = Some(Channel { id: CHANNEL, is_told: true });
        state
    }

    #[test]
    fn a_first_that_starts_serves_nobody_before_the_second_has_taken_something() {
        let mut state = started(true);
        assert_eq!(state.leave_ends(), Some(at(0)));
        state.note_taken(CHANNEL, at(500));
        assert_eq!(state.leave_ends(), Some(at(3500)), "counted from the sending");
        state.note_taken(CHANNEL, at(400));
        assert_eq!(state.leave_ends(), Some(at(3500)), "an answer that overtook another one");
        state.note_taken(CHANNEL + 1, at(900));
        assert_eq!(state.leave_ends(), Some(at(3500)), "over another channel");
    }

    #[test]
    fn who_does_not_wait_for_the_second_needs_no_leave() {
        let mut state = started(false);
        assert_eq!(state.leave_ends(), None);
        state.phase = Phase::Joining;
        state.note_taken(CHANNEL, at(100));
        assert_eq!(state.leave_ends(), None);
        state.phase = Phase::Together;
        assert_eq!(state.leave_ends(), Some(at(3100)), "what was taken before counts");
    }

    #[test]
    fn leave_ends_before_a_takeover_lets_hosts_in_also_if_a_clock_is_slow() {
        let state = started(true);
        // What was sent at the last moment at which the second took something: 20 % slower here, still before the limit there.
        assert!(state.leave() * 12 / 10 < LIMIT);
        assert!(state.leave() > LIMIT / 8 * 2, "at rest something is sent twice within it, at least");
    }
}
