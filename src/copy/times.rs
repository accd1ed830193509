//! When updates were made, by this array's monotonic clock: what lag in seconds is measured by (promise O5).
//!
//! Not every update is remembered, the fewer the longer ago the oldest one is that a reader lacks: [`Times::of`] gives
//! the time of the newest remembered update at or before a number. So a lag is never shown smaller than it is, and steps
//! of the wall clock change nothing. After a restart the times in the records are all there is; [`Times::recall`] takes
//! them in.

use crate::clock::MonotonicNs;
use holdfast_journal::UpdateNumber;
use std::collections::VecDeque;
use std::time::Duration;

/// Remembered times, in number order.
#[derive(Clone, Debug)]
pub(crate) struct Times {
    entries: VecDeque<(UpdateNumber, MonotonicNs)>,
    /// Updates that follow each other within this time share one entry.
    apart: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self { entries: VecDeque::new(), apart: FINEST }
    }
}

impl Times {
    /// An update is made now.
    pub(crate) fn note(&mut self, number: UpdateNumber, now: MonotonicNs) {
        if self.entries.back().is_some_and(|(_, last)| now.since(*last) < self.apart) {
            return;
        }
        if self.entries.len() >= TIMES_MAX {
            // Every second one goes, and the rest is taken down as far apart.
            let mut index = 0;
            self.entries.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.apart *= 2;
        }
        self.entries.push_back((number, now));
    }

    /// Nobody lacks updates before `number` any more.
    pub(crate) fn forget_before(&mut self, number: UpdateNumber) {
        while self.entries.get(1).is_some_and(|(second, _)| *second <= number) {
            self.entries.pop_front();
        }
        if self.entries.len() < TIMES_MAX / 8 {
            self.apart = FINEST;
        }
    }

    /// An update that was made so long ago, as its record says, found after a restart.
    pub(crate) fn recall(&mut self, number: UpdateNumber, now: MonotonicNs, age: Duration) {
        let age_ns = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
        let at = self.entries.partition_point(|(known, _)| *known < number);
        if self.entries.get(at).is_none_or(|(known, _)| *known != number) && self.entries.len() < TIMES_MAX {
            self.entries.insert(at, (number, MonotonicNs(now.0.saturating_sub(age_ns))));
        }
    }

    /// The oldest time that is known.
    pub(crate) fn oldest(&self) -> Option<MonotonicNs> {
        self.entries.front().map(|(_, time)| *time)
    }

    /// When the update with this number was made, or a little earlier; `None` if nothing is known of it.
    pub(crate) fn of(&self, number: UpdateNumber) -> Option<MonotonicNs> {
        let behind = self.entries.partition_point(|(known, _)| *known <= number);
        behind.checked_sub(1).and_then(|index| self.entries.get(index)).map(|(_, time)| *time)
    }
}

/// At an auxiliary: how far the array that gives numbers had come, and when, as far as that was heard of over any number of hops.
/// By this array's monotonic clock and the time that each hop kept the news: no wall clock counts. The way itself does
/// not, which is half a round trip for each hop.
#[derive(Clone, Debug, Default)]
pub(crate) struct Top {
    /// The update behind the newest was not made before that.
    known: Times,
    heard: Option<(UpdateNumber, MonotonicNs)>,
}

impl Top {
    /// So far it had come, so many milliseconds ago.
    pub(crate) fn handle_heard(&mut self, newest: UpdateNumber, age_ms: u32, now: MonotonicNs) {
        let at = MonotonicNs(now.0.saturating_sub(u64::from(age_ms) * 1_000_000));
        // What came another way may be older.
        let is_older = self.heard.is_some_and(|(number, time)| newest < number || at < time);
        if age_ms == UNHEARD || is_older {
            return;
        }
        self.heard = Some((newest, at));
        self.known.note(newest.next(), at);
    }

    /// How old the news are.
    pub(crate) fn age_ms(&self, now: MonotonicNs) -> u32 {
        let age = self.heard.map(|(_, at)| now.since(at).as_millis());
        age.map_or(UNHEARD, |age| u32::try_from(age).unwrap_or(UNHEARD).min(UNHEARD - 1))
    }

    /// How long ago an update was made that is lacking here, at most; none while nothing is known of it.
    pub(crate) fn behind(&self, lacking: UpdateNumber, now: MonotonicNs) -> Option<Duration> {
        self.known.of(lacking).map(|at| now.since(at))
    }

    /// Everything before is here.
    pub(crate) fn forget_before(&mut self, lacking: UpdateNumber) {
        self.known.forget_before(lacking);
    }
}

/// Nothing has been heard yet.
pub(crate) const UNHEARD: u32 = u32::MAX;
/// The finest distance of two entries.
const FINEST: Duration = Duration::from_millis(5);
/// Entries; at this many every second one goes.
const TIMES_MAX: usize = 8192;

/// The time that update information carries: when the command was created, if who sent it said so and that can be true, or when
/// it was received. A restore that waits or stops by time goes by it, so the clock of another array may shift it a little at most.
pub(super) fn creation_time(created_ns: Option<u64>, now_ns: u64) -> u64 {
    created_ns
        .filter(|created| (now_ns.saturating_sub(CREATED_MAX_NS)..=now_ns).contains(created))
        .unwrap_or(now_ns)
}

/// How long a command may have been on its way: as long as one that is forwarded is waited for.
const CREATED_MAX_NS: u64 = 60_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn number(value: u64) -> UpdateNumber {
        UpdateNumber::new(value)
    }

    #[test]
    fn a_time_is_never_later_than_the_update_and_memory_is_bounded() {
        let mut times = Times::default();
        assert_eq!(times.of(number(1)), None);
        let made = |value: u64| MonotonicNs(value * 3_000_000);
        for value in 1..100_000 {
            times.note(number(value), made(value));
            assert!(times.entries.len() <= TIMES_MAX);
        }
        for value in (1..100_000).step_by(777) {
            let time = times.of(number(value)).unwrap();
            assert!(time <= made(value), "{value}");
            // 300 s in at most 8192 entries, up to twice as far apart right after a thinning.
            assert!(made(value).since(time) < Duration::from_millis(160), "{value}: too coarse");
        }
        times.forget_before(number(99_990));
        assert!(times.entries.len() < 20 && times.apart == FINEST);
        assert!(times.of(number(99_990)).is_some_and(|time| time <= made(99_990)));
    }

    #[test]
    fn who_hears_of_the_top_by_others_is_never_shown_nearer_to_it_than_he_is() {
        let at = |ms: u64| MonotonicNs(ms * 1_000_000);
        let behind =
            |top: &Top, lacking, now| top.behind(number(lacking), at(now)).map(|time| time.as_millis());
        let mut top = Top::default();
        assert_eq!((top.age_ms(at(5)), behind(&top, 1, 5)), (u32::MAX, None));
        top.handle_heard(number(10), u32::MAX, at(900));
        assert_eq!(behind(&top, 11, 1_000), None, "nobody has heard of it");
        top.handle_heard(number(10), 200, at(1_000));
        assert_eq!(behind(&top, 11, 1_000), Some(200), "it may have been made just behind the news");
        assert_eq!(behind(&top, 10, 1_000), None, "nothing is known of when that was made");
        top.handle_heard(number(12), 100, at(2_000));
        assert_eq!((behind(&top, 11, 2_000), behind(&top, 13, 2_000)), (Some(1_200), Some(100)));
        top.handle_heard(number(11), 0, at(2_500));
        top.handle_heard(number(12), 5_000, at(2_500));
        assert_eq!(behind(&top, 13, 3_000), Some(1_100), "older news by another way");
        assert_eq!(top.age_ms(at(3_000)), 1_100);
        top.forget_before(number(13));
        assert_eq!(behind(&top, 13, 3_000), Some(1_100));
    }

    #[test]
    fn what_a_restart_finds_counts_by_its_age() {
        let mut times = Times::default();
        times.note(number(50), MonotonicNs(10_000_000_000));
        times.recall(number(20), MonotonicNs(10_000_000_000), Duration::from_secs(4));
        assert_eq!(times.of(number(19)), None);
        assert_eq!(times.of(number(30)), Some(MonotonicNs(6_000_000_000)));
        assert_eq!(times.of(number(60)), Some(MonotonicNs(10_000_000_000)));
    }

    #[test]
    fn the_time_of_creation_counts_if_it_can_be_true() {
        let now = 1_700_000_000_000_000_000;
        assert_eq!(creation_time(None, now), now);
        assert_eq!(creation_time(Some(now - 5_000_000_000), now), now - 5_000_000_000);
        // A clock that is an hour wrong, whichever way, changes nothing.
        for wrong in [now + 1, now + 3_600_000_000_000, now - 3_600_000_000_000, 0, u64::MAX] {
            assert_eq!(creation_time(Some(wrong), now), now);
        }
    }
}
