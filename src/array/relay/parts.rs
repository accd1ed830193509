//! Which relay gets which journals, where each gets a part of them (promise X7; `004_…`, claims 10 and 20; decision 21).
//!
//! # What it guarantees
//! * Every number is given to one of the relays that are written now, in the order of the numbers; whichever is free takes what
//!   comes next. So along each chain numbers rise, and the other array merges them.
//! * A relay that is not written any more while it holds what the other array has not reported, or which that array does not come to while
//!   it comes to another one, ends the *round*: in the next one the relays that are left get everything from there on
//!   anew, in order, each in a chain of its own (X6).
//! * A round is *whole* when the relays that are written in it have everything that was given out before it and that the other array has not
//!   reported; and when the store says so. Until then each relay keeps the chain that it had in the last whole round, and what was put there since
//!   counts for nobody: so whenever this array is lost, one whole round lies on the relays, with everything that a host was answered
//!   because of them.
//!
//! How it is proved: unit tests here; whole arrays in `tests/sim/relay_parts.rs`.

use crate::clock::MonotonicNs;
use holdfast_journal::UpdateNumber;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The relays of one group to one array, as the first array gives out numbers to them.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    state: Mutex<State>,
    /// One looks for what comes next at a time.
    pub(super) turn: tokio::sync::Mutex<()>,
}

/// A stretch of time in which every number is given out once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Round(u64);

#[derive(Debug, Default)]
struct State {
    round: Round,
    /// The lowest number that was not given out in this round.
    next: UpdateNumber,
    /// Up to where the round has to be written until it is whole; and whether it is.
    goal: UpdateNumber,
    is_whole: bool,
    /// Relays that are written now, by name.
    open: BTreeMap<String, Part>,
    /// When the other array was heard over relays, written now or not; forgotten when none is written any more.
    signs: BTreeMap<String, Signs>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Part {
    /// The highest number that it was given in this round.
    last: UpdateNumber,
    /// The first number of what is being put on it now.
    writing: Option<UpdateNumber>,
    /// The other array has come to it since it is written.
    is_known: bool,
}

/// Signs of life of the other array at a relay.
#[derive(Clone, Copy, Debug)]
struct Signs {
    /// The last one; or when the relay was written first.
    last: MonotonicNs,
    /// Since when they have come again and again; none: they have not come.
    since: Option<MonotonicNs>,
}

impl Parts {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A relay is written from here on, in a new chain, until what is returned goes. The other array has reported everything up
    /// to `acknowledged`; whatever a host was answered is not above `newest`.
    pub(super) fn open(
        self: &Arc<Self>,
        name: &str,
        acknowledged: UpdateNumber,
        newest: UpdateNumber,
        now: MonotonicNs,
    ) -> (OpenPart, Round) {
        let mut state = self.lock();
        if state.open.is_empty() {
            state.begin_round(acknowledged);
            state.goal = newest;
            state.signs.clear();
        }
        state.open.insert(name.to_owned(), Part::default());
        state.signs.entry(name.to_owned()).or_insert(Signs { last: now, since: None });
        let open = OpenPart { parts: self.clone(), name: name.to_owned(), reported: acknowledged };
        (open, state.round)
    }

    /// Everything up to this that the other array has not reported is on the relays that are written, for certain: a whole round has it, and
    /// as long as somebody may show itself by it (`is_promised`), it is where that array comes.
    pub(super) fn have(&self, acknowledged: UpdateNumber, is_promised: bool) -> UpdateNumber {
        let state = self.lock();
        let counts = state.is_whole && (!is_promised || state.are_known(acknowledged));
        if counts { state.written(acknowledged) } else { acknowledged }
    }

    /// How many relays the other array has to reach if it shows itself by what [`Parts::have`] says; none: it must not.
    pub(super) fn needed(&self, acknowledged: UpdateNumber) -> Option<u32> {
        let state = self.lock();
        let known = state.open.values().filter(|part| part.is_known).count();
        (state.is_whole && state.are_known(acknowledged)).then_some(u32::try_from(known).unwrap_or(u32::MAX))
    }
}

impl State {
    fn begin_round(&mut self, acknowledged: UpdateNumber) {
        // What was put on relays in a round that was not whole counted for nobody.
        self.goal = if self.is_whole { self.goal.max(self.next.previous()) } else { self.goal };
        self.is_whole = false;
        self.round.0 += 1;
        self.next = acknowledged.next();
        self.open.values_mut().for_each(|part| (part.last, part.writing) = (UpdateNumber::NONE, None));
    }

    /// Up to where everything is on relays in this round.
    fn written(&self, acknowledged: UpdateNumber) -> UpdateNumber {
        let first = self.open.values().filter_map(|part| part.writing).min();
        first.unwrap_or(self.next).previous().max(acknowledged)
    }

    /// Whether the other array comes to each relay with something that it has not reported.
    fn are_known(&self, acknowledged: UpdateNumber) -> bool {
        self.open.values().all(|part| part.is_known || part.last <= acknowledged)
    }

    /// Whether the other array comes to another relay and not to this one.
    fn is_shunned(&self, name: &str, now: MonotonicNs) -> bool {
        let own = self.signs.get(name).map_or(MonotonicNs(0), |signs| signs.last);
        let others = self.open.keys().filter(|other| other.as_str() != name);
        others.filter_map(|other| self.signs.get(other)).any(|other| {
            let Some(since) = other.since else { return false };
            now.since(other.last) < SILENT_FOR && now.since(own.max(since)) >= SILENT_FOR
        })
    }
}

/// A relay that is written.
#[derive(Debug)]
pub(super) struct OpenPart {
    parts: Arc<Parts>,
    name: String,
    /// What the other array had reported when this was looked at last.
    reported: UpdateNumber,
}

impl OpenPart {
    /// Looks after the round: it ends if the other array does not come to this relay though it needs what is there. Gives the round
    /// that is on.
    pub(super) fn look(&mut self, acknowledged: UpdateNumber, now: MonotonicNs) -> Round {
        self.reported = self.reported.max(acknowledged);
        let mut state = self.parts.lock();
        if state.is_shunned(&self.name, now)
            && let Some(part) = state.open.get_mut(&self.name)
        {
            part.is_known = false; // Nobody has to reach it.
            if part.last > acknowledged {
                state.begin_round(acknowledged);
            }
        }
        state.round
    }

    /// Where the next batch begins, if this relay may have it. To be asked and answered by [`OpenPart::take`] in one turn. `is_promised`: the
    /// other array may show itself by what it reaches.
    pub(super) fn next(
        &self,
        round: Round,
        acknowledged: UpdateNumber,
        is_promised: bool,
        now: MonotonicNs,
    ) -> Option<UpdateNumber> {
        let state = self.parts.lock();
        let is_known = |name: &str| state.open.get(name).is_some_and(|part| part.is_known);
        // One to which the other array has yet to come waits for that.
        let is_new = is_promised && !is_known(&self.name) && state.open.keys().any(|name| is_known(name));
        let may = state.round == round && !is_new && !state.is_shunned(&self.name, now);
        may.then(|| state.next.max(acknowledged.next()))
    }

    /// Everything from there, where [`OpenPart::next`] said, up to `last` goes to this relay now; false if the round has ended.
    pub(super) fn take(&self, round: Round, first: UpdateNumber, last: UpdateNumber) -> bool {
        let mut state = self.parts.lock();
        if state.round != round {
            return false;
        }
        state.next = last.next();
        if let Some(part) = state.open.get_mut(&self.name) {
            (part.last, part.writing) = (last, Some(first));
        }
        true
    }

    /// What was taken is durable on this relay.
    pub(super) fn put(&self, round: Round) {
        let mut state = self.parts.lock();
        if state.round == round
            && let Some(part) = state.open.get_mut(&self.name)
        {
            part.writing = None;
        }
    }

    /// Whether that round is whole.
    pub(super) fn is_whole(&self, round: Round) -> bool {
        let state = self.parts.lock();
        state.round == round && state.is_whole
    }

    /// Whether it may be called so, and is not. To be asked in a turn in which the store is told, too, before [`OpenPart::is_recorded`] is said.
    pub(super) fn is_written(&self, round: Round, acknowledged: UpdateNumber) -> bool {
        let state = self.parts.lock();
        state.round == round && !state.is_whole && state.written(acknowledged) >= state.goal
    }

    /// The store says that the round is whole.
    pub(super) fn is_recorded(&self, round: Round) {
        let mut state = self.parts.lock();
        state.is_whole |= state.round == round;
    }

    /// The other array has shown that it comes to this relay.
    pub(super) fn note_sign(&self, now: MonotonicNs) {
        let mut state = self.parts.lock();
        if let Some(signs) = state.signs.get_mut(&self.name) {
            let goes_on = now.since(signs.last) < SILENT_FOR;
            signs.since = signs.since.filter(|_| goes_on).or(Some(now));
            signs.last = now;
        }
        if let Some(part) = state.open.get_mut(&self.name) {
            part.is_known = true;
        }
    }

    /// The turn in which numbers are given out.
    pub(super) fn parts(&self) -> Arc<Parts> {
        self.parts.clone()
    }
}

impl Drop for OpenPart {
    fn drop(&mut self) {
        let mut state = self.parts.lock();
        let Some(part) = state.open.remove(&self.name) else { return };
        if part.last > self.reported {
            state.begin_round(self.reported);
        }
    }
}

/// The other array shows itself at each relay it comes to four times as often.
pub(super) const SILENT_FOR: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> MonotonicNs {
        MonotonicNs(ms * 1_000_000)
    }

    fn number(value: u64) -> UpdateNumber {
        UpdateNumber::new(value)
    }

    #[test]
    fn each_number_is_given_out_once_and_again_when_a_relay_goes_that_held_what_is_not_reported() {
        let parts = Arc::new(Parts::default());
        let (a, round) = parts.open("a", number(10), number(10), at(0));
        let (mut b, same) = parts.open("b", number(10), number(10), at(0));
        assert_eq!(round, same);
        assert_eq!(a.next(round, number(10), false, at(0)), Some(number(11)));
        assert!(a.take(round, number(11), number(14)));
        assert_eq!(b.next(round, number(10), false, at(0)), Some(number(15)));
        assert!(b.take(round, number(15), number(20)));
        // Read directly meanwhile.
        assert_eq!(b.next(round, number(30), false, at(0)), Some(number(31)));
        drop(a);
        let next = b.look(number(10), at(1));
        assert_ne!(next, round);
        assert!(!b.take(round, number(31), number(40)), "what was begun before does not count");
        assert_eq!(b.next(round, number(10), false, at(1)), None);
        assert_eq!(b.next(next, number(10), false, at(1)), Some(number(11)));
        // One that held nothing that is needed leaves the others alone.
        let (mut c, same) = parts.open("c", number(10), number(10), at(2));
        assert_eq!(same, next);
        assert!(c.take(next, number(11), number(12)));
        assert_eq!(c.look(number(12), at(3)), next);
        drop(c);
        assert_eq!(b.look(number(12), at(3)), next);
    }

    #[test]
    fn a_relay_to_which_the_other_array_does_not_come_is_passed_over_while_it_comes_to_another_one() {
        let parts = Arc::new(Parts::default());
        let (mut a, round) = parts.open("a", number(0), number(0), at(0));
        let (b, _) = parts.open("b", number(0), number(0), at(0));
        assert!(a.take(round, number(1), number(5)));
        // It is away: whatever comes goes to both.
        assert_eq!(a.look(number(0), at(60_000)), round);
        assert!(a.next(round, number(0), false, at(60_000)).is_some());
        // It comes to one of them, and a while later not yet to the other one.
        b.note_sign(at(60_000));
        assert_eq!(a.look(number(0), at(60_000)), round);
        b.note_sign(at(64_000));
        assert_eq!(a.look(number(0), at(64_900)), round);
        let next = a.look(number(0), at(65_100));
        assert_ne!(next, round);
        assert_eq!(a.next(next, number(0), false, at(65_100)), None);
        assert_eq!(b.next(next, number(0), false, at(65_100)), Some(number(1)));
        assert!(b.take(next, number(1), number(5)));
        // It comes to that one, too; then only to the first one.
        a.note_sign(at(65_200));
        assert_eq!(a.next(next, number(0), false, at(65_300)), Some(number(6)));
        a.note_sign(at(68_000));
        assert_eq!(b.next(next, number(0), false, at(68_100)), Some(number(6)));
        a.note_sign(at(71_000));
        assert_eq!(b.next(next, number(0), false, at(71_100)), None);
        // Nothing is needed from there, so nothing begins anew.
        let mut b = b;
        assert_eq!(b.look(number(5), at(71_200)), next);
    }

    /// What hosts are answered because of relays is there in whole rounds only, and in order.
    #[test]
    fn relays_have_what_is_written_without_a_gap_in_a_round_that_is_whole() {
        let parts = Arc::new(Parts::default());
        let (a, round) = parts.open("a", number(10), number(14), at(0));
        let (b, _) = parts.open("b", number(10), number(14), at(0));
        assert!(a.take(round, number(11), number(12)) && b.take(round, number(13), number(20)));
        b.put(round);
        assert!(!a.is_written(round, number(10)), "11 is on its way");
        assert!(a.is_written(round, number(14)), "it is where it has to be");
        a.put(round);
        assert!(a.is_written(round, number(10)) && !a.is_whole(round));
        assert_eq!(parts.have(number(10), false), number(10), "the store does not say so yet");
        a.is_recorded(round);
        assert!(b.is_whole(round) && !b.is_written(round, number(10)));
        assert_eq!(parts.have(number(10), false), number(20));
        assert!(a.take(round, number(21), number(25)) && b.take(round, number(26), number(27)));
        b.put(round);
        assert_eq!(parts.have(number(10), false), number(20), "21 is on its way");
        a.put(round);
        assert_eq!(parts.have(number(10), false), number(27));
        drop(a);
        // All that was given out has to be written again before anything else counts.
        let mut b = b;
        let next = b.look(number(10), at(1));
        assert!(!b.is_whole(next) && b.take(next, number(11), number(26)));
        b.put(next);
        b.is_recorded(round);
        assert_eq!((b.is_whole(next), b.is_written(next, number(10))), (false, false));
        assert_eq!(parts.have(number(10), false), number(10));
        assert!(b.take(next, number(27), number(27)));
        b.put(next);
        b.is_recorded(next);
        assert_eq!(parts.have(number(10), false), number(27));
    }

    #[test]
    fn nobody_shows_itself_by_a_relay_to_which_it_has_not_come() {
        let parts = Arc::new(Parts::default());
        let (a, round) = parts.open("a", number(0), number(0), at(0));
        a.is_recorded(round);
        assert!(a.take(round, number(1), number(5)));
        a.put(round);
        assert_eq!((parts.have(number(0), false), parts.have(number(0), true)), (number(5), number(0)));
        assert_eq!((parts.needed(number(0)), parts.needed(number(5))), (None, Some(0)));
        a.note_sign(at(1));
        assert_eq!((parts.have(number(0), true), parts.needed(number(0))), (number(5), Some(1)));
        // Another one gets nothing until it has come there, too.
        let (b, _) = parts.open("b", number(0), number(5), at(2));
        assert_eq!(b.next(round, number(0), true, at(2)), None);
        assert_eq!(b.next(round, number(0), false, at(2)), Some(number(6)));
        b.note_sign(at(3));
        assert_eq!(
            (b.next(round, number(0), true, at(3)), parts.needed(number(0))),
            (Some(number(6)), Some(2))
        );
        // It does not come to the first one any more: what that has goes to the other one, which is enough then.
        let (mut a, mut b) = (a, b);
        (4..12).for_each(|second| b.note_sign(at(second * 1_000)));
        let next = a.look(number(0), at(11_500));
        assert_ne!(next, round);
        assert_eq!((b.look(number(0), at(11_500)), parts.needed(number(0))), (next, None));
        assert!(b.take(next, number(1), number(5)));
        b.put(next);
        b.is_recorded(next);
        assert_eq!((parts.have(number(0), true), parts.needed(number(0))), (number(5), Some(1)));
    }
}
