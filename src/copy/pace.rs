//! The pace of reading: how long to wait before the next journal read, how much to ask for (J5, J12; claims 3 to 8), and
//! how many reads to keep under way (J8).
//!
//! # The law
//! Three inputs make the array *want* journals, three make it *hold back*; only those that the operator chose count.
//!
//! | input | claim | says |
//! |---|---|---|
//! | received | 3 | wants the interval in which [`ANSWER_UPDATES`] arrive at the present rate, halved for each answer in a row that left something unread: what arrives is no measure of what is made while reading itself is the brake |
//! | source-journal | 7 | wants [`LONGEST`] while the source's journal is at most 1/8 full, [`SHORTEST`] from 1/2 on |
//! | source-pointers | 8 | wants [`LONGEST`] when nothing is unread there, [`SHORTEST`] from [`ANSWER_BYTES`] or [`ANSWER_UPDATES`] on, or when half of the journal there is held because of this array: a read says what it has |
//! | link | 4 | doubles the interval up to [`STEPS`] times, from half of the link's capacity in use on |
//! | journal | 5 | the same, from a journal here that is half full on |
//! | load | 6 | the same, from half load on |
//!
//! interval = the shortest that is wanted ([`ORDINARY`] if none of the three counts), doubled as often as the strongest
//! brake says, within [`SHORTEST`] and [`LONGEST`]. A source journal that counts and is 3/4 full overrules link and load:
//! an overflow there costs more than either. Nothing overrules a full journal here: what is read could not be stored.
//!
//! An adaptive size is the most that a group may allow, halved as often as link or load say, whichever says more.
//!
//! Pure: time and readings are arguments.

use crate::clock::MonotonicNs;
use crate::volume::timing::{ReadInput, ReadInputs};
use std::time::Duration;

/// What the inputs are at one moment. Shares are permille, 1000 and more is *full*.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Readings {
    /// Of what the link can carry, in use.
    pub(crate) link_permille: u32,
    /// Of the journal here, in use.
    pub(crate) journal_permille: u32,
    /// Load of this array.
    pub(crate) load_permille: u32,
    /// Of the journal at the source, in use.
    pub(crate) source_journal_permille: u32,
    /// Updates between the source's read start and newest.
    pub(crate) unread_updates: u64,
    /// Write data between them.
    pub(crate) unread_bytes: u64,
    /// Of the journal at the source, between the oldest and the newest that is held because of this array.
    pub(crate) held_permille: u32,
}

/// Keeps the rate of arrival and gives intervals and sizes.
#[derive(Clone, Debug)]
pub(crate) struct Pacer {
    inputs: ReadInputs,
    /// Updates in a thousand seconds, smoothed.
    rate_milli: u64,
    last: MonotonicNs,
    pending: u64,
    /// Answers in a row that left something unread.
    short: u32,
}

impl Pacer {
    pub(crate) fn new(inputs: ReadInputs, now: MonotonicNs) -> Self {
        Self { inputs, rate_milli: 0, last: now, pending: 0, short: 0 }
    }

    /// Other inputs count from now on.
    pub(crate) fn set_inputs(&mut self, inputs: ReadInputs) {
        self.inputs = inputs;
    }

    /// An answer has brought so many updates, and the source had so many more.
    pub(crate) fn handle_received(&mut self, now: MonotonicNs, updates: u64, left: u64) {
        self.short = if left == 0 { 0 } else { (self.short + 1).min(STEPS) };
        self.pending = self.pending.saturating_add(updates);
        let since = now.since(self.last);
        if since < SMOOTHED_OVER / 8 {
            return;
        }
        let since_us = u64::try_from(since.as_micros()).unwrap_or(u64::MAX).max(1);
        let rate_milli = self.pending.saturating_mul(1_000_000_000) / since_us;
        // The share of the new rate is the share of the window that it covers.
        let window_us = u64::try_from(SMOOTHED_OVER.as_micros()).unwrap_or(u64::MAX);
        let weight = since_us.min(window_us);
        let old = u128::from(self.rate_milli) * u128::from(window_us - weight);
        let new = u128::from(rate_milli) * u128::from(weight);
        self.rate_milli = u64::try_from((old + new) / u128::from(window_us)).unwrap_or(u64::MAX);
        (self.last, self.pending) = (now, 0);
    }

    /// How long to wait before the next read.
    pub(crate) fn interval(&self, readings: &Readings) -> Duration {
        let counts = |input| self.inputs.has(input);
        let mut wanted = None;
        let mut want = |interval: Duration| wanted = Some(wanted.unwrap_or(LONGEST).min(interval));
        if counts(ReadInput::Received) {
            want(self.interval_by_rate());
        }
        if counts(ReadInput::SourceJournal) {
            want(LONGEST / (1 << steps(readings.source_journal_permille, 125, 500)));
        }
        if counts(ReadInput::SourcePointers) {
            let updates = share(readings.unread_updates, ANSWER_UPDATES);
            let bytes = share(readings.unread_bytes, ANSWER_BYTES);
            want(LONGEST / (1 << steps(updates.max(bytes), 0, 1000)));
            want(LONGEST / (1 << steps(readings.held_permille, 125, 500)));
        }
        let urgent = counts(ReadInput::SourceJournal) && readings.source_journal_permille >= 750;
        let brakes = [
            (ReadInput::Link, readings.link_permille, !urgent),
            (ReadInput::Load, readings.load_permille, !urgent),
            (ReadInput::Journal, readings.journal_permille, true),
        ];
        let brake = brakes.into_iter().filter(|(input, _, heard)| *heard && counts(*input));
        let doubled = brake.map(|(_, permille, _)| steps(permille, 500, 950)).max().unwrap_or(0);
        (wanted.unwrap_or(ORDINARY).max(SHORTEST) * (1 << doubled)).clamp(SHORTEST, LONGEST)
    }

    fn interval_by_rate(&self) -> Duration {
        if self.rate_milli == 0 {
            return LONGEST;
        }
        let us = (ANSWER_UPDATES * 1_000_000_000) / self.rate_milli;
        (Duration::from_micros(us).min(LONGEST) / (1 << self.short)).clamp(SHORTEST, LONGEST)
    }
}

/// The most updates and bytes to ask for with an adaptive size.
pub(crate) fn adaptive_size(readings: &Readings) -> (u32, u64) {
    let halved = steps(readings.link_permille.max(readings.load_permille), 500, 950).min(SIZE_STEPS);
    (SIZE_UPDATES >> halved, SIZE_BYTES >> halved)
}

/// Under a limit one answer asks for no more than the data of a part of a second, so that it flows evenly.
pub(crate) fn answer_bytes_max(limit_bytes_per_s: u64) -> u64 {
    (limit_bytes_per_s / ANSWERS_PER_S).max(ANSWER_BYTES_MIN)
}

/// How many reads to keep under way on a link, so that what it carries in a round trip has been asked for: twice the best
/// rate that was seen, so that it grows until the link is full and a slow one is never asked for minutes of work; its
/// limit, where one is set; [`LINK_BYTES_PER_S`] at most. An answer brings half of its room as a rule. No more than there is
/// memory for their rooms, and than [`READS_MAX`].
pub(crate) fn reads_in_flight(
    round_trip: Duration,
    (seen_bytes_per_s, limit_bytes_per_s): (u64, Option<u64>),
    room_bytes: u64,
    memory_bytes: u64,
) -> usize {
    let rate =
        limit_bytes_per_s.unwrap_or(u64::MAX).min(seen_bytes_per_s.saturating_mul(2)).min(LINK_BYTES_PER_S);
    let on_the_way = u128::from(rate) * round_trip.as_micros() / 1_000_000;
    let wanted = on_the_way.div_ceil(u128::from((room_bytes / 2).max(1)));
    let held = u128::from(memory_bytes / room_bytes.max(1));
    usize::try_from(wanted.min(held).min(READS_MAX)).unwrap_or(0)
}

/// Claim 10: the pause between two rounds of restore, by the load of this array and how full its journal is.
pub(crate) fn restore_pause(load_permille: u32, journal_permille: u32) -> Duration {
    let steps = steps(load_permille, 500, 950);
    if steps == 0 || journal_permille >= 750 { Duration::ZERO } else { SHORTEST * (1 << steps) }
}

/// 0 at `from` and below, [`STEPS`] at `to` and above, in even steps between.
fn steps(permille: u32, from: u32, to: u32) -> u32 {
    permille.saturating_sub(from).saturating_mul(STEPS).div_ceil(to - from).min(STEPS)
}

fn share(part: u64, whole: u64) -> u32 {
    u32::try_from((u128::from(part) * 1000 / u128::from(whole)).min(1000)).unwrap_or(1000)
}

/// Permille of `used` in `capacity`; nothing where there is no capacity.
pub(crate) fn permille(used: u64, capacity: u64) -> u32 {
    let share = (u128::from(used) * 1000).checked_div(u128::from(capacity)).unwrap_or(0);
    u32::try_from(share.min(1000)).unwrap_or(1000)
}

/// Answers in a second under a limit, and the least that one of them asks for.
const ANSWERS_PER_S: u64 = 8;
const ANSWER_BYTES_MIN: u64 = 16 << 10;
/// What a link is thought to carry: somewhat more than 1 Gbit/s.
const LINK_BYTES_PER_S: u64 = 128 << 20;
/// Reads of one group under way at most.
const READS_MAX: u128 = 32;
/// The shortest interval: below it commands cost more than they bring.
pub(crate) const SHORTEST: Duration = Duration::from_millis(2);
/// The longest interval: an idle group is looked at so often, and its lag is at least that.
pub(crate) const LONGEST: Duration = Duration::from_secs(1);
/// The interval when nothing that was chosen wants one.
const ORDINARY: Duration = Duration::from_millis(20);
/// `SHORTEST` doubled so often is about `LONGEST`.
const STEPS: u32 = 9;
/// Updates that are worth a command.
const ANSWER_UPDATES: u64 = 64;
/// Write data that is worth a command.
const ANSWER_BYTES: u64 = 1 << 20;
/// The rate of arrival is that of about this time.
const SMOOTHED_OVER: Duration = Duration::from_secs(1);
/// The most that an adaptive size asks for, and how often it is halved: down to 64 KiB and 64 updates.
const SIZE_UPDATES: u32 = 4096;
const SIZE_BYTES: u64 = 4 << 20;
const SIZE_STEPS: u32 = 6;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> MonotonicNs {
        MonotonicNs(ms * 1_000_000)
    }

    fn pacer(inputs: &[ReadInput]) -> Pacer {
        Pacer::new(inputs.iter().copied().collect(), at(0))
    }

    fn receiving(inputs: &[ReadInput], per_second: u64) -> Pacer {
        let mut pacer = pacer(inputs);
        (1..=50).for_each(|tenth| pacer.handle_received(at(100 * tenth), per_second / 10, 0));
        pacer
    }

    /// Readings at which every input has something to say and none has the last word.
    const MIDDLE: Readings = Readings {
        link_permille: 600,
        journal_permille: 600,
        load_permille: 600,
        source_journal_permille: 300,
        unread_updates: 20,
        unread_bytes: 200 << 10,
        held_permille: 150,
    };

    #[test]
    fn claim_3_the_more_updates_arrive_the_shorter_the_interval() {
        let interval = |rate| receiving(&[ReadInput::Received], rate).interval(&MIDDLE);
        assert_eq!(interval(0), LONGEST);
        assert!(interval(200) < LONGEST && interval(2_000) < interval(200));
        assert_eq!(interval(1_000_000), SHORTEST);
        assert_eq!(
            receiving(&[ReadInput::Load], 10).interval(&MIDDLE),
            receiving(&[ReadInput::Load], 9_999).interval(&MIDDLE)
        );
    }

    #[test]
    fn answers_that_leave_something_unread_shorten_the_interval_until_none_does() {
        let mut pacer = receiving(&[ReadInput::Received], 100);
        let before = pacer.interval(&MIDDLE);
        pacer.handle_received(at(5_010), 1, 40);
        pacer.handle_received(at(5_020), 1, 20);
        assert_eq!(pacer.interval(&MIDDLE), before / 4);
        pacer.handle_received(at(5_030), 1, 0);
        assert_eq!(pacer.interval(&MIDDLE), before);
    }

    /// The interval with only `turn` changed between two readings, each input chosen alone.
    fn turned(input: ReadInput, turn: impl Fn(&mut Readings)) -> (Duration, Duration) {
        let mut more = MIDDLE;
        turn(&mut more);
        for other in ReadInput::ALL.into_iter().filter(|other| *other != input) {
            let other = pacer(&[other]);
            assert_eq!(other.interval(&MIDDLE), other.interval(&more), "only {input} was turned");
        }
        let pacer = pacer(&[input]);
        (pacer.interval(&MIDDLE), pacer.interval(&more))
    }

    #[test]
    fn claim_4_the_more_of_the_link_is_in_use_the_longer_the_interval() {
        let (before, after) = turned(ReadInput::Link, |readings| readings.link_permille = 800);
        assert!(after > before);
    }

    #[test]
    fn claim_5_the_fuller_the_journal_here_the_longer_the_interval() {
        let (before, after) = turned(ReadInput::Journal, |readings| readings.journal_permille = 800);
        assert!(after > before);
    }

    #[test]
    fn claim_6_the_more_load_here_the_longer_the_interval() {
        let (before, after) = turned(ReadInput::Load, |readings| readings.load_permille = 800);
        assert!(after > before);
    }

    #[test]
    fn claim_7_the_fuller_the_journal_at_the_source_the_shorter_the_interval() {
        let (before, after) =
            turned(ReadInput::SourceJournal, |readings| readings.source_journal_permille = 450);
        assert!(after < before);
    }

    #[test]
    fn claim_8_the_farther_apart_the_pointers_at_the_source_the_shorter_the_interval() {
        let (before, after) = turned(ReadInput::SourcePointers, |readings| readings.unread_updates = 50);
        assert!(after < before);
        let (before, after) = turned(ReadInput::SourcePointers, |readings| readings.held_permille = 400);
        assert!(after < before, "the oldest pointers count too");
        let (before, after) = turned(ReadInput::SourcePointers, |readings| readings.unread_bytes = 900 << 10);
        assert!(after < before);
    }

    #[test]
    fn each_input_still_matters_beside_all_others() {
        let all: Vec<ReadInput> = ReadInput::ALL.to_vec();
        let quiet = Readings {
            link_permille: 0,
            journal_permille: 0,
            load_permille: 0,
            source_journal_permille: 0,
            unread_updates: 0,
            unread_bytes: 0,
            held_permille: 0,
        };
        let base = pacer(&all).interval(&quiet);
        assert_eq!(base, LONGEST);
        assert!(receiving(&all, 5_000).interval(&quiet) < base);
        assert!(pacer(&all).interval(&Readings { source_journal_permille: 400, ..quiet }) < base);
        assert!(pacer(&all).interval(&Readings { unread_updates: 60, ..quiet }) < base);
        let busy = Readings { source_journal_permille: 500, ..quiet };
        let base = pacer(&all).interval(&busy);
        for braked in [
            Readings { link_permille: 900, ..busy },
            Readings { journal_permille: 900, ..busy },
            Readings { load_permille: 900, ..busy },
        ] {
            assert!(pacer(&all).interval(&braked) > base, "{braked:?}");
        }
    }

    #[test]
    fn a_source_that_runs_full_overrules_link_and_load_and_nothing_overrules_a_full_journal_here() {
        let pacer = pacer(&ReadInput::ALL);
        let urgent = Readings {
            source_journal_permille: 800,
            link_permille: 999,
            load_permille: 999,
            ..Readings::default()
        };
        assert_eq!(pacer.interval(&urgent), SHORTEST);
        assert!(pacer.interval(&Readings { journal_permille: 999, ..urgent }) > LONGEST / 2);
    }

    #[test]
    fn intervals_stay_within_their_limits_whatever_the_readings() {
        let extremes = [0, 1, 500, 1000, u32::MAX];
        for (a, b) in extremes.into_iter().flat_map(|a| extremes.map(|b| (a, b))) {
            let readings = Readings {
                link_permille: a,
                journal_permille: b,
                load_permille: a,
                source_journal_permille: b,
                unread_updates: u64::from(a) << 32,
                unread_bytes: u64::MAX - u64::from(b),
                held_permille: a,
            };
            let interval = receiving(&ReadInput::ALL, u64::from(a)).interval(&readings);
            assert!((SHORTEST..=LONGEST).contains(&interval), "{readings:?}");
        }
    }

    #[test]
    fn so_many_reads_are_under_way_as_the_link_carries_in_a_round_trip() {
        const MIB: u64 = 1 << 20;
        let reads =
            |ms, seen, memory| reads_in_flight(Duration::from_millis(ms), (seen, None), 2 * MIB, memory);
        let fast = 64 * MIB;
        assert_eq!([0, 1, 50, 200, 2_000].map(|ms| reads(ms, fast, 256 * MIB)), [0, 1, 7, 26, 32]);
        assert_eq!(reads(200, fast, 16 * MIB), 8, "as many as there is room for");
        assert_eq!(
            [1, 5, 10, 20].map(|seen| reads(200, seen * MIB, 256 * MIB)),
            [1, 2, 4, 8],
            "and it grows"
        );
        let limited = |limit: u64| {
            let room = 2 * answer_bytes_max(limit);
            reads_in_flight(Duration::from_millis(200), (fast, Some(limit)), room, 256 * MIB)
        };
        assert_eq!(
            [MIB, 10 * MIB, 64 * MIB].map(limited),
            [2, 2, 2],
            "a limit is never asked for many times over"
        );
    }

    #[test]
    fn claim_10_restore_pauses_by_the_load_until_the_journal_fills() {
        let pauses = [0, 500, 600, 800, 1000].map(|load| restore_pause(load, 100));
        assert_eq!(pauses[..2], [Duration::ZERO; 2]);
        assert!(pauses.is_sorted() && pauses[2] < pauses[3] && pauses[3] < pauses[4]);
        assert_eq!(restore_pause(1000, 750), Duration::ZERO);
    }

    #[test]
    fn an_adaptive_size_shrinks_with_link_and_load_and_with_nothing_else() {
        let most = adaptive_size(&Readings::default());
        assert_eq!(most, (SIZE_UPDATES, SIZE_BYTES));
        for readings in [
            Readings { link_permille: 800, ..Readings::default() },
            Readings { load_permille: 800, ..Readings::default() },
        ] {
            let (updates, bytes) = adaptive_size(&readings);
            assert!(updates < most.0 && bytes < most.1);
        }
        let other = Readings { journal_permille: 999, source_journal_permille: 999, ..Readings::default() };
        assert_eq!(adaptive_size(&other), most);
        assert_eq!(adaptive_size(&Readings { link_permille: 1000, ..Readings::default() }), (64, 64 << 10));
    }
}
