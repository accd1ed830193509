//! When updates were made, by this array's monotonic clock: what lag in seconds is measured by (promise O5).
//!
//! Not every update is remembered, and those of long ago less finely: [`Times::of`] gives the time of the newest
//! remembered update at or before a number. So a lag is never shown smaller than it is, and steps of the wall clock
//! change nothing. After a restart the times in the records are all there is; [`Times::recall`] takes them in.

use crate::clock::MonotonicNs;
use holdfast_journal::UpdateNumber;
use std::collections::VecDeque;
use std::time::Duration;

/// Remembered times, in number order.
#[derive(Debug, Default)]
pub(crate) struct Times(VecDeque<(UpdateNumber, MonotonicNs)>);

impl Times {
    /// An update is made now.
    pub(crate) fn note(&mut self, number: UpdateNumber, now: MonotonicNs) {
        if self.0.back().is_some_and(|(_, last)| now.since(*last) < FINEST) {
            return;
        }
        if self.0.len() >= TIMES_MAX {
            // Every second one goes: the times of long ago become coarser.
            let mut index = 0;
            self.0.retain(|_| {
                index += 1;
                index % 2 == 1
            });
        }
        self.0.push_back((number, now));
    }

    /// An update that was made so long ago, as its record says, found after a restart.
    pub(crate) fn recall(&mut self, number: UpdateNumber, now: MonotonicNs, age: Duration) {
        let age_ns = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
        let at = self.0.partition_point(|(known, _)| *known < number);
        if self.0.get(at).is_none_or(|(known, _)| *known != number) && self.0.len() < TIMES_MAX {
            self.0.insert(at, (number, MonotonicNs(now.0.saturating_sub(age_ns))));
        }
    }

    /// The oldest time that is known.
    pub(crate) fn oldest(&self) -> Option<MonotonicNs> {
        self.0.front().map(|(_, time)| *time)
    }

    /// When the update with this number was made, or a little earlier; `None` if nothing is known of it.
    pub(crate) fn of(&self, number: UpdateNumber) -> Option<MonotonicNs> {
        let behind = self.0.partition_point(|(known, _)| *known <= number);
        behind.checked_sub(1).and_then(|index| self.0.get(index)).map(|(_, time)| *time)
    }
}

/// Updates that follow each other within this time share one entry.
const FINEST: Duration = Duration::from_millis(5);
/// Entries; at this many every second one is forgotten.
const TIMES_MAX: usize = 8192;

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
            assert!(times.0.len() <= TIMES_MAX);
        }
        for value in (1..100_000).step_by(777) {
            let time = times.of(number(value)).unwrap();
            assert!(time <= made(value), "{value}");
            assert!(made(value).since(time) < Duration::from_secs(1), "{value}: too coarse");
        }
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
}
