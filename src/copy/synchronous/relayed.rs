//! Hosts that wait until their writes lie on a relay (promise X1, `004_…` claim 1; decision 21).
//!
//! # What it guarantees
//! * While hosts wait, a write is answered when it is durable here and, with everything before it that the other array
//!   lacks, durable on a relay; or at the other array itself, whatever way it went.
//! * The other array is told that it is synchronised over a relay that has everything that hosts were answered, for the time
//!   of a lease from its asking on, and nothing is answered meanwhile that this relay lacks, also if it is lost: that array may find no other one; it asks one question after the other over the relay, and takes the answer to the
//!   newest one only. Whether an answer landed is not known here: a lease counts from when it was made up.
//! * Where each relay has a part of the journals they count together: what all of them have without a gap, each of them has; and that may become
//!   less, when one is lost, until it is on the others.
//! * Everything else is as with a synchronous copy: the limit, the fence, the record, the lease. That the other array does
//!   not show itself any more is never heard, so the fence `status` decides as `data` once a lease was given.

use super::decide::{Over, Svols, Synchronous};
use crate::clock::MonotonicNs;
use crate::copy::group::Group;
use crate::copy::tamper::SynchronousDefect;
use holdfast_journal::{ArrayNumber, UpdateNumber};
use std::time::Duration;

/// A relay that is written now, or was when the other array last showed itself by it.
#[derive(Clone, Copy, Debug)]
pub(super) struct OnRelay {
    /// Everything up to this that the other array lacks is on it.
    has: UpdateNumber,
    /// It is written.
    is_open: bool,
    /// When the other array was last told that it is synchronised by this relay alone.
    said_yes: Option<MonotonicNs>,
}

/// What was found together at the start: a yes may have been given over any of these relays until then, with everything up to this number on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) newest: UpdateNumber,
    pub(super) at: MonotonicNs,
    /// How many there are that have all journals each.
    pub(super) relays: usize,
}

impl Synchronous {
    /// Whether updates go where hosts wait for them, and everything that they were answered is there.
    pub(super) fn is_level(&self) -> bool {
        match self.choice.over {
            Over::Relay => self.relays.values().any(|relay| relay.is_open && relay.has >= self.answered),
            Over::Push | Over::Nothing => self.is_told() && self.confirmed >= self.answered,
        }
    }

    /// A relay is written from here on; what an earlier session found on it, or on another one, does not count any more.
    fn open_relay(&mut self, name: &str, has: UpdateNumber, reported: UpdateNumber) -> bool {
        let said_yes = self.relays.get(name).and_then(|relay| relay.said_yes);
        self.relays.insert(name.to_owned(), OnRelay { has, is_open: true, said_yes });
        let on_relays = self.relays.values().filter(|relay| relay.is_open).map(|relay| relay.has).max();
        self.confirmed = on_relays.unwrap_or(UpdateNumber::NONE).max(reported);
        true
    }

    /// A relay is not written any more. `is_part`: together with others, so that less is there. Whether that is news.
    fn close_relay(&mut self, name: &str, reported: UpdateNumber, is_part: bool, now: MonotonicNs) -> bool {
        if is_part {
            // Who writes the others says at once what they have without it.
            self.relays.values_mut().for_each(|relay| relay.has = reported);
        }
        let was_there = self.relays.get_mut(name).map(|relay| relay.is_open = false).is_some();
        let lease = self.lease();
        self.relays.retain(|_, relay| relay.is_open || !relay.yes_left(lease, now).is_zero());
        was_there
    }

    /// Up to where everything is on each relay by which the other array may show itself now, and how long the one that has least lets it do so;
    /// none: there is no such relay. What the other array has reported is nowhere lacking.
    pub(super) fn held(&self, now: MonotonicNs) -> Option<(UpdateNumber, Duration)> {
        let lease = self.lease();
        let all = self.relays.values();
        let running = all.map(|relay| (relay.has, relay.yes_left(lease, now)));
        let found = self.found.filter(|found| found.relays > 1).map(|found| {
            let open = self.relays.values().filter(|relay| relay.is_open);
            let are_all_open = open.clone().count() >= found.relays;
            let has = open.map(|relay| relay.has).min().filter(|_| are_all_open);
            (has.unwrap_or(found.newest), lease.saturating_sub(now.since(found.at)))
        });
        let least = running.chain(found).filter(|(_, left)| !left.is_zero()).min_by_key(|(has, _)| *has);
        least.map(|(has, left)| (has.max(self.reported), left))
    }

    /// Whether that is news.
    fn note_on_relay(&mut self, name: &str, has: UpdateNumber, svols: Svols) -> bool {
        let relay = self.relays.get_mut(name);
        if relay.as_ref().is_some_and(|relay| relay.has >= has) {
            return false;
        }
        match relay {
            Some(relay) => relay.has = has,
            None => drop(self.relays.insert(name.to_owned(), OnRelay { has, is_open: true, said_yes: None })),
        }
        self.note_confirmed(has, svols)
    }

    /// Relays with parts have everything up to there together. Whether that is news.
    fn note_together(&mut self, has: UpdateNumber, svols: Svols) -> bool {
        let is_same = self.relays.values().all(|relay| relay.has == has || !relay.is_open);
        self.relays.values_mut().filter(|relay| relay.is_open).for_each(|relay| relay.has = has);
        let is_more = self.confirmed < has;
        (!is_same || is_more) && self.note_confirmed(has, svols)
    }

    /// The other array does not lack anything up to there, so no relay does.
    fn note_reported(&mut self, number: UpdateNumber, svols: Svols) -> bool {
        self.relays.values_mut().for_each(|relay| relay.has = relay.has.max(number));
        self.reported = self.reported.max(number);
        self.note_confirmed(number, svols)
    }

    fn note_confirmed(&mut self, number: UpdateNumber, svols: Svols) -> bool {
        self.confirmed = self.confirmed.max(number);
        self.is_fenced &= svols != Svols::Image;
        true
    }

    /// What the other array's question over that relay is answered: for how long it is synchronised. `is_part`: by all relays together.
    fn answer_over(&mut self, name: &str, is_part: bool, all_normal: bool, now: MonotonicNs) -> Duration {
        let Some(has) = self.relays.get(name).map(|relay| relay.has) else { return Duration::ZERO };
        if !self.may_say_yes(has, all_normal, now) {
            return Duration::ZERO;
        }
        self.granted = Some(now);
        if let Some(relay) = self.relays.get_mut(name).filter(|_| !is_part) {
            relay.said_yes = Some(now);
        }
        self.lease()
    }
}

impl OnRelay {
    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    /// For how long the other array may show itself by this relay.
    fn yes_left(&self, lease: Duration, now: MonotonicNs) -> Duration {
        self.said_yes.map_or(Duration::ZERO, |then| lease.saturating_sub(now.since(then)))
    }
}

/// For those who write relays.
impl Group {
    /// A relay for which hosts wait is written from here on, until what is returned goes. It has everything up to `has`
    /// that the reader lacks. `is_part`: together with others, so that less is there when it goes.
    pub(crate) fn open_relay<'a>(
        &'a self,
        reader: ArrayNumber,
        name: &str,
        has: UpdateNumber,
        is_part: bool,
    ) -> OpenRelay<'a> {
        self.with_relays(reader, |known, reported, _| known.open_relay(name, has, reported));
        OpenRelay { group: self, reader, name: name.to_owned(), is_part }
    }

    /// For how long another array may still show that it has everything that hosts were answered: what lies on relays stays as it
    /// is until then.
    pub(crate) fn lease_left(&self) -> Duration {
        let now = self.clock.now();
        let seq = self.lock();
        let known = seq.synchronous.as_ref().filter(|known| known.choice.over != Over::Push);
        known.map_or(Duration::ZERO, |known| known.lease_left(now))
    }

    /// The reader's report has been taken in.
    pub(in crate::copy) fn confirm_by_report(&self, reader: ArrayNumber) {
        self.with_relays(reader, Synchronous::note_reported);
    }

    /// On purpose, for the test of the tests: a copy goes on showing itself as synchronised when nobody says so any more.
    pub(crate) fn keeps_lease(&self) -> bool {
        let tamper = self.tamper.as_ref();
        tamper.and_then(|tamper| tamper.synchronous()) == Some(SynchronousDefect::LeaseKept)
    }

    /// On purpose, for the test of the tests: what relays with parts had is overwritten before it is there again.
    pub(crate) fn forgets_rounds(&self) -> bool {
        let tamper = self.tamper.as_ref();
        tamper.and_then(|tamper| tamper.synchronous()) == Some(SynchronousDefect::RoundsForgotten)
    }

    /// On purpose, for the test of the tests: places on a relay are used again before the other array has what lies there.
    pub(crate) fn frees_early(&self) -> bool {
        let tamper = self.tamper.as_ref();
        tamper.and_then(|tamper| tamper.synchronous()) == Some(SynchronousDefect::FreedEarly)
    }

    /// Changes what is known, if hosts wait for relays to that reader, and tells everybody if that is news. It is told what
    /// the reader has reported as durable.
    fn with_relays(
        &self,
        reader: ArrayNumber,
        change: impl FnOnce(&mut Synchronous, UpdateNumber, Svols) -> bool,
    ) {
        {
            let mut seq = self.lock();
            let reported = seq.readers.reader(reader).map(|known| known.report.acknowledged);
            let svols = seq.svols_of_second();
            let known = seq.synchronous.as_mut();
            let Some(known) = known.filter(|known| known.choice.is_relayed_to(reader)) else { return };
            if !change(known, reported.unwrap_or(UpdateNumber::NONE), svols) {
                return;
            }
        }
        self.waits.confirmed.notify_waiters();
        self.changed.notify_waiters(); // Other readers may be handed more.
        self.come_together();
    }
}

/// A relay that is written, for hosts that wait for it.
pub(crate) struct OpenRelay<'a> {
    group: &'a Group,
    reader: ArrayNumber,
    name: String,
    is_part: bool,
}

impl OpenRelay<'_> {
    /// Everything up to there that the reader lacks is durable on it.
    pub(crate) fn note_has(&self, has: UpdateNumber) {
        self.group.with_relays(self.reader, |known, _, svols| known.note_on_relay(&self.name, has, svols));
    }

    /// Everything up to what `has` says that the reader lacks is durable on this one and the other relays with parts. It is told what the reader has
    /// reported, and whether that may show itself as synchronised, and must not wait.
    pub(crate) fn note_together(&self, has: impl FnOnce(UpdateNumber, bool) -> UpdateNumber) {
        let now = self.group.clock.now();
        self.group.with_relays(self.reader, |known, reported, svols| {
            let is_promised = !known.lease_left(now).is_zero();
            known.note_together(has(reported, is_promised), svols)
        });
    }

    /// To be called again and again: a group that came apart joins again when it has rested, though nobody writes.
    pub(crate) fn look(&self) {
        self.group.come_together();
    }

    /// On purpose, for the test of the tests: what is on its way there counts.
    pub(crate) fn counts_early(&self) -> bool {
        let tamper = self.group.tamper.as_ref();
        tamper.and_then(|tamper| tamper.synchronous()) == Some(SynchronousDefect::ConfirmedEarly)
    }

    /// The other array asks over it whether it is synchronised: for how long it is, from its asking on.
    pub(crate) fn answer(&self) -> Duration {
        let now = self.group.clock.now();
        let mut seq = self.group.lock();
        let all_normal = seq.are_normal(self.reader) && seq.failed.is_none();
        let known = seq.synchronous.as_mut();
        let known = known.filter(|known| known.choice.is_relayed_to(self.reader));
        known.map_or(Duration::ZERO, |known| known.answer_over(&self.name, self.is_part, all_normal, now))
    }
}

impl Drop for OpenRelay<'_> {
    fn drop(&mut self) {
        let now = self.group.clock.now();
        self.group.with_relays(self.reader, |known, reported, _| {
            known.close_relay(&self.name, reported, self.is_part, now)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::decide::{Answered, Choice, Phase, Verdict};
    use super::*;
    use crate::volume::kind::Fence;

    const LIMIT: Duration = Duration::from_secs(4);

    fn at(ms: u64) -> MonotonicNs {
        MonotonicNs(ms * 1_000_000)
    }

    fn number(value: u64) -> UpdateNumber {
        UpdateNumber::new(value)
    }

    /// Up to 10 everything is on both relays, and hosts have begun to wait for them.
    fn waiting(is_together: bool) -> Synchronous {
        let reader = ArrayNumber(2);
        let choice = Choice { reader, over: Over::Relay, fence: Fence::Never, limit: LIMIT, relays: 2 };
        let mut state = Synchronous::new(choice, is_together, number(10), at(0));
        state.phase = Phase::Together;
        state.look(at(100), false);
        state
    }

    fn two() -> Synchronous {
        let mut state = waiting(false);
        state.open_relay("a", number(10), UpdateNumber::NONE);
        state.open_relay("b", number(10), UpdateNumber::NONE);
        state
    }

    fn judge(state: &mut Synchronous, value: u64, now: u64) -> Verdict {
        state.judge(number(value), Svols::Image, at(100), at(now))
    }

    fn wait_ms(ms: u64) -> Verdict {
        Verdict::Wait(Duration::from_millis(ms))
    }

    const DONE: Verdict = Verdict::Done(Answered::Together);

    #[test]
    fn what_only_one_relay_has_waits_while_the_copy_shows_itself_by_the_other_one() {
        let mut state = two();
        assert_eq!(state.answer_over("a", false, true, at(100)), LIMIT / 2);
        assert!(state.note_on_relay("b", number(11), Svols::Image));
        assert_eq!(judge(&mut state, 11, 100), wait_ms(2000));
        let mut has_both = two();
        has_both.answer_over("a", false, true, at(100));
        has_both.note_on_relay("b", number(11), Svols::Image);
        has_both.note_on_relay("a", number(11), Svols::Image);
        assert_eq!(judge(&mut has_both, 11, 100), DONE);
        // Also when that one is lost, and written again.
        assert!(state.close_relay("a", UpdateNumber::NONE, false, at(200)));
        assert_eq!(judge(&mut state, 11, 200), wait_ms(1900));
        state.open_relay("a", number(10), UpdateNumber::NONE);
        assert_eq!(judge(&mut state, 11, 300), wait_ms(1800));
        state.look(at(2000), false);
        assert_eq!(judge(&mut state, 11, 2100), DONE);
        assert_eq!(state.answer_over("a", false, true, at(2100)), Duration::ZERO, "it lacks 11");
        assert_eq!(state.answer_over("b", false, true, at(2100)), LIMIT / 2);
    }

    #[test]
    fn what_the_copy_has_itself_waits_for_no_relay() {
        let mut state = two();
        state.answer_over("a", false, true, at(100));
        state.close_relay("a", UpdateNumber::NONE, false, at(150));
        state.note_reported(number(11), Svols::Image);
        assert_eq!(judge(&mut state, 11, 200), DONE);
    }

    #[test]
    fn a_relay_that_has_only_a_part_holds_nothing_up() {
        let mut state = two();
        assert_eq!(state.answer_over("a", true, true, at(100)), LIMIT / 2);
        state.close_relay("a", UpdateNumber::NONE, true, at(150));
        state.note_together(number(11), Svols::Image);
        assert_eq!(judge(&mut state, 11, 200), DONE);
    }

    /// Nobody knows by which relays the copy showed itself before: by each of them, so all have to have it.
    #[test]
    fn behind_a_start_a_yes_of_before_may_have_gone_over_each_relay() {
        let mut state = waiting(true);
        state.open_relay("b", number(10), UpdateNumber::NONE);
        state.note_on_relay("b", number(11), Svols::Image);
        assert_eq!(judge(&mut state, 10, 100), DONE);
        assert_eq!(judge(&mut state, 11, 100), wait_ms(1900));
        state.open_relay("a", number(10), UpdateNumber::NONE);
        state.note_on_relay("b", number(11), Svols::Image);
        assert_eq!(judge(&mut state, 11, 200), wait_ms(1800));
        state.note_on_relay("a", number(11), Svols::Image);
        assert_eq!(judge(&mut state, 11, 300), DONE);
        let mut alone = waiting(true);
        alone.open_relay("b", number(10), UpdateNumber::NONE);
        alone.note_on_relay("b", number(11), Svols::Image);
        alone.look(at(1900), false);
        assert_eq!(judge(&mut alone, 11, 2000), DONE, "that is over");
    }
}
