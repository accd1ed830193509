//! What a group with a synchronous reader decides, without I/O and without a clock. The states and what they guarantee stand in
//! the module above.

use super::relayed::{Found, OnRelay};
use crate::clock::MonotonicNs;
use crate::copy::inherited::Others;
use crate::volume::kind::Fence;
use holdfast_journal::{ArrayNumber, UpdateNumber};
use std::collections::BTreeMap;
use std::time::Duration;

/// What the operator chose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Choice {
    /// The array that hosts wait for.
    pub(crate) reader: ArrayNumber,
    /// How it comes to have their writes.
    pub(crate) over: Over,
    /// What becomes of writes that it does not confirm in time.
    pub(crate) fence: Fence,
    /// That time.
    pub(crate) limit: Duration,
    /// On how many relays all journals lie that hosts wait for.
    pub(crate) relays: usize,
}

impl Choice {
    /// Whether updates are sent to that array because hosts wait for it.
    pub(super) fn is_pushed_to(self, reader: ArrayNumber) -> bool {
        self.reader == reader && self.over == Over::Push
    }

    /// Whether hosts wait until relays to that array have their writes.
    pub(super) fn is_relayed_to(self, reader: ArrayNumber) -> bool {
        self.reader == reader && self.over == Over::Relay
    }
}

/// How the other array comes to have what hosts wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Over {
    /// It is sent there (decision 20).
    Push,
    /// It lies on a relay from which that array gets it, or has got there in another way (decision 21).
    Relay,
    /// What hosts waited for was taken away: the group comes apart when the lease is over.
    Nothing,
}

/// Whether hosts wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// They are answered alone.
    Apart,
    /// They wait; what was answered before that is still on its way there.
    Joining,
    /// They wait, and the control store says so.
    Together,
}

/// How the copy stands, for views.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Standing {
    pub(crate) choice: Choice,
    pub(crate) phase: Phase,
    /// Updates go there now, everything that hosts were answered is there, and the volumes there are its image.
    pub(crate) is_level: bool,
    /// Hosts' writes are refused.
    pub(crate) is_fenced: bool,
    /// Why it is apart, if it was together since the start.
    pub(crate) reason: Option<String>,
    /// Everything up to this is durable there.
    pub(crate) confirmed: UpdateNumber,
    /// Commands of hosts that wait.
    pub(crate) waiting: usize,
}

/// What the other array asks (SYNCHRONISE).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked {
    /// The channel that it knows of; zero: none.
    pub channel: u64,
    /// Updates have come over it.
    pub in_use: bool,
    /// It shows itself as synchronised.
    pub holds_lease: bool,
    /// The number of the last answer that it got, over whatever session; zero: none.
    pub heard: u32,
}

/// What it is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Told {
    /// The channel over which updates come; zero: none.
    pub channel: u64,
    /// For so long from its question on it is synchronised; zero: it is not.
    pub lease: Duration,
    /// How often it is to ask.
    pub every: Duration,
    /// How far every other reader of the one that answers is; none: it has no other.
    pub others_have: Option<Others>,
    /// Its number: one more than that of the answer before it, over whatever session; others in each life of the group.
    pub number: u32,
}

/// By whom a write is durable when its host is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answered {
    /// By the other array as well.
    Together,
    /// Hosts do not wait, or not any more.
    Alone,
}

/// What the S-VOLs there are, for what is confirmed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Svols {
    /// One image, and all that is confirmed belongs to it.
    Image,
    /// Their differences are copied, or will be: what is confirmed is there, and a takeover does not find it yet.
    Behind,
}

/// What a waiting host's command does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It is answered.
    Done(Answered),
    /// It looks again after this time, or when something has changed.
    Wait(Duration),
    /// The group comes apart.
    Part,
    /// It fails.
    Fenced,
}

/// The state of a group with a synchronous reader. See the module's text.
#[derive(Debug)]
pub(crate) struct Synchronous {
    pub(super) choice: Choice,
    pub(super) phase: Phase,
    pub(super) channel: Option<Channel>,
    /// Relays that are written now, or by which the other array may show itself still.
    pub(super) relays: BTreeMap<String, OnRelay>,
    /// What the other array has reported over whatever way, where hosts wait for relays.
    pub(super) reported: UpdateNumber,
    pub(super) found: Option<Found>,
    /// Durable there, by what came over the open channel; without one: by what it had reported when the last one began. With
    /// relays: durable there or on a relay.
    pub(super) confirmed: UpdateNumber,
    /// Nothing above this was answered to a host: what the other array must have to be called synchronised.
    pub(super) answered: UpdateNumber,
    /// When the last of what the other array has taken was sent to it.
    pub(super) taken: Option<MonotonicNs>,
    /// Since when hosts' commands wait, in the order of their coming.
    pub(super) waiting: BTreeMap<u64, MonotonicNs>,
    pub(super) tickets: u64,
    /// The last yes; none if the other array has said since that it does not use it, or if there was none.
    pub(super) granted: Option<MonotonicNs>,
    /// The number of the answer that was this yes, and of the last answer.
    pub(super) yes: u32,
    pub(super) told: u32,
    /// When it asked last.
    pub(super) asked: Option<MonotonicNs>,
    /// When somebody looked at the clock last, and when that had not happened for long: the process was stopped.
    pub(super) looked: MonotonicNs,
    pub(super) resumed: MonotonicNs,
    /// It is to come apart as soon as the lease is over: no further yes.
    pub(super) parting: Option<String>,
    pub(super) is_fenced: bool,
    /// Hosts are shut out.
    pub(super) is_shut: bool,
    /// When it came apart because of trouble.
    pub(super) apart_since: Option<MonotonicNs>,
    pub(super) reason: Option<String>,
}

/// A stretch of time for which the other array keeps what it was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Channel {
    pub(super) id: u64,
    /// The other array knows of it.
    pub(super) is_told: bool,
}

impl Synchronous {
    /// At the start of a group. Whatever was in its journal may have been answered, and a yes may have been given until this
    /// moment.
    pub(crate) fn new(choice: Choice, is_together: bool, newest: UpdateNumber, now: MonotonicNs) -> Self {
        Self {
            choice,
            phase: if is_together { Phase::Together } else { Phase::Apart },
            channel: None,
            relays: BTreeMap::new(),
            reported: UpdateNumber::NONE,
            found: is_together.then_some(Found { newest, at: now, relays: choice.relays }),
            confirmed: UpdateNumber::NONE,
            answered: newest,
            taken: None,
            waiting: BTreeMap::new(),
            tickets: 0,
            granted: is_together.then_some(now),
            yes: 0,
            told: 0,
            asked: None,
            looked: now,
            resumed: now,
            parting: (choice.over == Over::Nothing).then(|| TAKEN_AWAY.to_owned()),
            is_fenced: false,
            is_shut: false,
            apart_since: None,
            reason: None,
        }
    }

    /// Answers of this life are numbered from there on: nobody has heard any of them yet.
    pub(crate) fn numbered_from(self, first: u32) -> Self {
        Self { yes: first, told: first, ..self }
    }

    pub(super) fn hosts_wait(&self) -> bool {
        self.phase != Phase::Apart
    }

    /// Half the limit for the lease, half for it to run out.
    pub(super) fn lease(&self) -> Duration {
        self.choice.limit / 2
    }

    /// When the other array certainly does not show itself as synchronised any more.
    pub(super) fn lease_left(&self, now: MonotonicNs) -> Duration {
        self.granted.map_or(Duration::ZERO, |then| self.lease().saturating_sub(now.since(then)))
    }

    pub(super) fn judge(
        &mut self,
        number: UpdateNumber,
        svols: Svols,
        since: MonotonicNs,
        now: MonotonicNs,
    ) -> Verdict {
        if !self.hosts_wait() {
            return Verdict::Done(Answered::Alone);
        }
        if number <= self.confirmed && svols == Svols::Image {
            if let Some((_, left)) = self.held(now).filter(|(has, _)| number > *has) {
                return Verdict::Wait(left); // From half the limit on no further yes is given.
            }
            self.answered = self.answered.max(number);
            return Verdict::Done(Answered::Together);
        }
        let limit = self.choice.limit;
        if self.was_stopped(now) {
            return Verdict::Wait(self.look_every());
        }
        let left = limit.saturating_sub(now.since(since.max(self.resumed)));
        if !left.is_zero() {
            return Verdict::Wait(left);
        }
        if !self.may_part() {
            self.is_fenced = true;
            return Verdict::Fenced;
        }
        // From here on there is no further yes.
        self.parting.get_or_insert_with(|| TOO_LATE.to_owned());
        match self.lease_left(now) {
            Duration::ZERO => Verdict::Part,
            left => Verdict::Wait(left),
        }
    }

    /// Whether hosts may be answered alone, once the lease is over, though no operator has said so.
    fn may_part(&self) -> bool {
        match self.choice.fence {
            Fence::Never => true,
            Fence::Data => self.phase == Phase::Joining,
            Fence::Status => self.phase == Phase::Joining || self.granted.is_none(),
        }
    }

    /// Whether pairs that stop by themselves are no reason to answer hosts alone: those wait until everything is copied again.
    pub(super) fn stays_together(&self) -> bool {
        self.hosts_wait() && self.parting.is_none() && !self.may_part()
    }

    /// Nobody looked at the clock for longer than anybody would have slept.
    pub(super) fn was_stopped(&self, now: MonotonicNs) -> bool {
        now.since(self.looked) > (self.choice.limit / 2).max(4 * LOOK_MIN)
    }

    /// How often somebody has to look.
    pub(super) fn look_every(&self) -> Duration {
        (self.choice.limit / 16).max(LOOK_MIN)
    }

    /// Looks at the clock; why the group has to come apart now, if it has to. `is_fenced`: hosts' writes are refused before they get
    /// numbers, so none of them is there to be judged.
    pub(super) fn look(&mut self, now: MonotonicNs, is_fenced: bool) -> Option<String> {
        if self.was_stopped(now) {
            self.resumed = now;
        }
        self.looked = now;
        // Nothing was promised yet, or the other array has been told.
        let may_part =
            self.phase == Phase::Joining || self.choice.fence == Fence::Status && self.granted.is_none();
        if is_fenced && may_part && self.hosts_wait() {
            self.parting.get_or_insert_with(|| TOO_LATE.to_owned());
        }
        self.parting.clone().filter(|_| self.lease_left(now).is_zero())
    }

    /// What the other array is told.
    pub(super) fn answer(&mut self, asked: Asked, all_normal: bool, now: MonotonicNs) -> Told {
        self.asked = Some(now);
        if !asked.holds_lease && asked.heard.wrapping_sub(self.yes) <= self.told.wrapping_sub(self.yes) {
            // It got the yes, or a later answer, before it asked. A question of an earlier session, however late it is executed, was not.
            self.granted = None;
        }
        self.told = self.told.wrapping_add(1);
        if let Some(channel) = self.channel.as_mut().filter(|channel| channel.id == asked.channel) {
            channel.is_told = true;
        }
        let is_yes = self.channel.is_some_and(|channel| channel.id == asked.channel)
            && asked.in_use
            && self.may_say_yes(self.confirmed, all_normal, now);
        if is_yes {
            (self.granted, self.yes) = (Some(now), self.told);
        }
        Told {
            channel: self.channel.map_or(0, |channel| channel.id),
            lease: if is_yes { self.lease() } else { Duration::ZERO },
            every: (self.lease() / 4).clamp(LOOK_MIN, ASK_MAX),
            others_have: Some(Others::default()),
            number: self.told,
        }
    }

    /// Whether the other array may be told that it is synchronised, if it gets everything up to `has` from where the answer goes.
    pub(super) fn may_say_yes(&self, has: UpdateNumber, all_normal: bool, now: MonotonicNs) -> bool {
        let oldest = self.waiting.first_key_value().map(|(_, since)| now.since((*since).max(self.resumed)));
        let is_held_up = oldest.is_some_and(|waited| waited >= self.choice.limit / 2);
        self.phase == Phase::Together
            && has >= self.answered
            && self.parting.is_none()
            && !self.is_shut
            && all_normal
            && !is_held_up
            && !self.was_stopped(now)
    }

    pub(super) fn confirm(&mut self, channel: u64, number: UpdateNumber, svols: Svols) {
        if self.channel.is_some_and(|open| open.id == channel) {
            self.confirmed = self.confirmed.max(number);
            self.is_fenced &= svols != Svols::Image;
        }
    }

    /// Whether hosts may begin to wait.
    pub(super) fn may_join(&self, now: MonotonicNs) -> bool {
        let rested = self.apart_since.is_none_or(|then| now.since(then) >= self.choice.limit);
        self.phase == Phase::Apart && self.parting.is_none() && self.is_open() && rested
    }

    /// Whether updates go where hosts wait for them.
    pub(super) fn is_open(&self) -> bool {
        match self.choice.over {
            Over::Push => self.is_told(),
            Over::Relay => self.relays.values().any(OnRelay::is_open),
            Over::Nothing => false,
        }
    }

    /// Whether updates can be sent there.
    pub(super) fn is_told(&self) -> bool {
        self.channel.is_some_and(|channel| channel.is_told)
    }
}

/// Why a group comes apart by itself.
pub(super) const TOO_LATE: &str = "the other array did not confirm in time";
/// The same, when an operator took a relay away, say.
pub(super) const TAKEN_AWAY: &str = "what hosts waited for was taken away";
/// Somebody looks at the clock no more often than this.
const LOOK_MIN: Duration = Duration::from_millis(5);
/// The other array asks at least so often.
const ASK_MAX: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(4);
    const CHANNEL: u64 = 7;

    fn at(ms: u64) -> MonotonicNs {
        MonotonicNs(ms * 1_000_000)
    }

    fn number(value: u64) -> UpdateNumber {
        UpdateNumber::new(value)
    }

    /// Together since the beginning, everything up to 10 answered and confirmed over a channel that is known there; and
    /// somebody looks at the clock all the time.
    fn together(fence: Fence) -> Synchronous {
        let choice = Choice { reader: ArrayNumber(2), over: Over::Push, fence, limit: LIMIT, relays: 0 };
        let mut state = Synchronous::new(choice, true, number(10), at(0));
        state.channel = Some(Channel { id: CHANNEL, is_told: true });
        state.confirm(CHANNEL, number(10), Svols::Image);
        state
    }

    fn look_until(state: &mut Synchronous, ms: u64) -> Option<String> {
        (0..=ms).step_by(100).map(|now| state.look(at(now), state.is_fenced)).last().flatten()
    }

    const IN_USE: Asked = Asked { channel: CHANNEL, in_use: true, holds_lease: true, heard: 0 };

    #[test]
    fn a_host_is_answered_when_its_write_and_all_before_it_are_confirmed() {
        let mut state = together(Fence::Never);
        assert_eq!(state.judge(number(11), Svols::Image, at(0), at(0)), Verdict::Wait(LIMIT));
        state.confirm(CHANNEL + 1, number(20), Svols::Image);
        assert_eq!(
            state.judge(number(11), Svols::Image, at(0), at(0)),
            Verdict::Wait(LIMIT),
            "over another channel"
        );
        state.confirm(CHANNEL, number(12), Svols::Image);
        assert_eq!(state.judge(number(12), Svols::Image, at(0), at(0)), Verdict::Done(Answered::Together));
        assert_eq!(state.judge(number(13), Svols::Image, at(0), at(0)), Verdict::Wait(LIMIT));
    }

    #[test]
    fn the_fence_decides_at_the_limit_and_never_within_the_lease() {
        for (fence, holds_lease, expected) in [
            (Fence::Never, true, Verdict::Wait(Duration::from_millis(500))),
            (Fence::Never, false, Verdict::Part),
            (Fence::Data, true, Verdict::Fenced),
            (Fence::Data, false, Verdict::Fenced),
            (Fence::Status, true, Verdict::Fenced),
            (Fence::Status, false, Verdict::Part),
        ] {
            let mut state = together(fence);
            look_until(&mut state, 2_500);
            let yes = state.answer(IN_USE, true, at(2_500));
            assert!(!yes.lease.is_zero());
            if !holds_lease {
                // It says so itself.
                let asked = Asked { in_use: false, holds_lease: false, heard: yes.number, ..IN_USE };
                state.answer(asked, true, at(2_600));
            }
            look_until(&mut state, 4_000);
            assert_eq!(
                state.judge(number(11), Svols::Image, at(0), at(4_000)),
                expected,
                "{fence:?} {holds_lease}"
            );
            if fence == Fence::Never {
                let told = state.answer(IN_USE, true, at(4_000));
                assert!(told.lease.is_zero(), "no yes once it is about to come apart");
                assert!(look_until(&mut state, 4_500).is_some(), "the lease of 2.5 s is over at 4.5 s");
            }
        }
    }

    /// A question that was asked before the yes, over a session that has ended since, is executed behind it.
    #[test]
    fn only_who_has_heard_the_last_yes_says_that_no_lease_is_in_use() {
        let mut state = together(Fence::Status);
        let earlier = state.answer(IN_USE, true, at(10));
        let yes = state.answer(Asked { heard: earlier.number, ..IN_USE }, true, at(20));
        assert!(!yes.lease.is_zero() && yes.number > earlier.number);
        let late = Asked { in_use: false, holds_lease: false, heard: earlier.number, ..IN_USE };
        // Zero: of nobody yet; the last one: of an earlier life of the group.
        for heard in [earlier.number, 0, u32::MAX] {
            state.answer(Asked { heard, ..late }, true, at(30));
            assert!(!state.lease_left(at(30)).is_zero() && !state.may_part(), "the lease is in use");
        }
        // Over a new session it says that it has heard it.
        state.answer(Asked { channel: 0, heard: yes.number, ..late }, true, at(40));
        assert!(state.lease_left(at(40)).is_zero() && state.may_part());
    }

    #[test]
    fn while_hosts_begin_to_wait_a_second_that_is_too_slow_fences_nobody() {
        for fence in [Fence::Data, Fence::Status, Fence::Never] {
            let mut state = together(fence);
            (state.phase, state.granted) = (Phase::Joining, None);
            look_until(&mut state, 4_000);
            assert_eq!(state.judge(number(11), Svols::Image, at(0), at(4_000)), Verdict::Part, "{fence:?}");
        }
    }

    /// The journal of the first has failed, say, while no host was waiting.
    #[test]
    fn hosts_that_are_refused_before_they_get_numbers_do_not_wait_for_nothing() {
        for (fence, phase, is_told, parts) in [
            (Fence::Data, Phase::Together, true, false),
            (Fence::Status, Phase::Together, false, false),
            (Fence::Status, Phase::Together, true, true),
            (Fence::Data, Phase::Joining, true, true),
        ] {
            let mut state = together(fence);
            state.phase = phase;
            if is_told {
                state.answer(Asked { in_use: false, holds_lease: false, ..IN_USE }, false, at(0));
            }
            let is_over = (0..=50).any(|step| state.look(at(step * 100), true).is_some());
            assert_eq!(is_over, parts, "{fence:?} {phase:?} {is_told}");
            assert_eq!(together(fence).look(at(0), false), None, "nobody is refused");
        }
    }

    #[test]
    fn no_yes_is_given_while_hosts_are_shut_out() {
        let mut state = together(Fence::Never);
        state.is_shut = true;
        assert!(state.answer(IN_USE, true, at(0)).lease.is_zero());
    }

    #[test]
    fn a_process_that_was_stopped_gives_everybody_the_limit_anew() {
        let mut state = together(Fence::Never);
        look_until(&mut state, 100);
        let woken = 300_000;
        assert!(matches!(state.judge(number(11), Svols::Image, at(50), at(woken)), Verdict::Wait(_)));
        assert!(state.answer(IN_USE, true, at(woken)).lease.is_zero(), "who does not look grants nothing");
        assert_eq!(state.look(at(woken), false), None);
        assert_eq!(state.judge(number(11), Svols::Image, at(50), at(woken)), Verdict::Wait(LIMIT));
    }

    #[test]
    fn a_yes_is_only_given_over_the_channel_by_which_everything_answered_is_there() {
        let yes = |change: fn(&mut Synchronous), asked: Asked, all_normal| {
            let mut state = together(Fence::Never);
            change(&mut state);
            let told = state.answer(asked, all_normal, at(0));
            assert_eq!(told.lease.is_zero(), told.lease != LIMIT / 2);
            !told.lease.is_zero()
        };
        assert!(yes(|_| {}, IN_USE, true));
        assert!(!yes(|_| {}, IN_USE, false), "a pair is not normal");
        assert!(!yes(|_| {}, Asked { channel: 8, ..IN_USE }, true));
        assert!(!yes(|_| {}, Asked { in_use: false, ..IN_USE }, true));
        assert!(!yes(|state| state.channel = None, IN_USE, true));
        assert!(!yes(|state| state.phase = Phase::Joining, IN_USE, true));
        assert!(!yes(|state| state.phase = Phase::Apart, IN_USE, true));
        assert!(!yes(|state| state.answered = number(11), IN_USE, true), "a new channel has confirmed less");
        assert!(!yes(|state| state.parting = Some("for a test".into()), IN_USE, true));
        let held_up = |state: &mut Synchronous| {
            state.waiting.insert(1, at(0));
            state.resumed = at(0);
        };
        assert!(yes(held_up, IN_USE, true), "nobody has waited for long");
    }

    #[test]
    fn no_yes_is_given_while_a_host_waits_for_longer_than_half_the_limit() {
        let mut state = together(Fence::Never);
        state.waiting.insert(1, at(0));
        look_until(&mut state, 2_000);
        assert!(state.answer(IN_USE, true, at(2_000)).lease.is_zero());
        assert!(!state.lease_left(at(1_999)).is_zero(), "that of the start");
    }

    #[test]
    fn after_a_start_everything_counts_as_answered_and_a_yes_as_just_given() {
        let choice =
            Choice { reader: ArrayNumber(2), over: Over::Push, fence: Fence::Never, limit: LIMIT, relays: 0 };
        let state = Synchronous::new(choice, true, number(10), at(0));
        assert_eq!((state.answered, state.lease_left(at(0))), (number(10), LIMIT / 2));
        let apart = Synchronous::new(choice, false, number(10), at(0));
        assert!(!apart.hosts_wait() && apart.lease_left(at(0)).is_zero());
    }

    #[test]
    fn a_group_that_came_apart_rests_before_it_joins_again() {
        let mut state = together(Fence::Never);
        (state.phase, state.apart_since) = (Phase::Apart, Some(at(1_000)));
        assert!(!state.may_join(at(4_900)) && state.may_join(at(5_000)));
        state.channel = Some(Channel { id: 9, is_told: false });
        assert!(!state.may_join(at(5_000)), "the other array does not know the channel");
    }

    #[test]
    fn what_is_confirmed_while_differences_are_copied_is_answered_when_they_are() {
        let mut state = together(Fence::Data);
        state.confirm(CHANNEL, number(11), Svols::Behind);
        look_until(&mut state, 4_000);
        assert_eq!(state.judge(number(11), Svols::Behind, at(0), at(4_000)), Verdict::Fenced);
        state.confirm(CHANNEL, number(12), Svols::Behind);
        assert!(state.is_fenced, "nothing is numbered in vain");
        state.confirm(CHANNEL, number(12), Svols::Image);
        assert!(!state.is_fenced);
        assert_eq!(
            state.judge(number(12), Svols::Image, at(0), at(4_000)),
            Verdict::Done(Answered::Together)
        );
    }

    #[test]
    fn pairs_that_end_by_themselves_part_nobody_whom_the_fence_keeps_waiting() {
        for (fence, is_told, stays) in [
            (Fence::Never, false, false),
            (Fence::Data, false, true),
            (Fence::Data, true, true),
            (Fence::Status, false, true),
            (Fence::Status, true, false),
        ] {
            let mut state = together(fence);
            if is_told {
                state.answer(Asked { in_use: false, holds_lease: false, ..IN_USE }, false, at(100));
            }
            assert_eq!(state.stays_together(), stays, "{fence:?} {is_told}");
            state.parting = Some("by an operator".to_owned());
            assert!(!state.stays_together());
            (state.parting, state.phase) = (None, Phase::Apart);
            assert!(!state.stays_together());
        }
    }
}
