//! How much journal data may pass over a link in a second: a bucket that can only be in debt.
//!
//! What has come is charged; while a debt is left no further journal read is sent. So over any time the data is at
//! most the limit times that time and what the reads under way brought, and a link that was idle has saved nothing up.
//! Pure: time and rate are arguments.

use crate::clock::MonotonicNs;
use std::time::Duration;

/// See the module's text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    /// Bytes times nanoseconds of a second: what a rate pays off without rounding.
    debt: u128,
    paid_at: MonotonicNs,
}

impl Bucket {
    pub(crate) fn new(now: MonotonicNs) -> Self {
        Self { debt: 0, paid_at: now }
    }

    /// So many bytes have come.
    pub(crate) fn charge(&mut self, bytes: u64) {
        self.debt = self.debt.saturating_add(u128::from(bytes) * NS_PER_S);
    }

    /// How long to wait before the next read at this rate; the rate may change in between.
    pub(crate) fn wait(&mut self, now: MonotonicNs, bytes_per_s: Option<u64>) -> Duration {
        let since = now.since(self.paid_at).as_nanos();
        self.paid_at = now;
        let Some(rate) = bytes_per_s.map(u128::from).filter(|rate| *rate > 0) else {
            self.debt = 0;
            return Duration::ZERO;
        };
        self.debt = self.debt.saturating_sub(since.saturating_mul(rate));
        Duration::from_nanos(u64::try_from(self.debt.div_ceil(rate)).unwrap_or(u64::MAX))
    }
}

const NS_PER_S: u128 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> MonotonicNs {
        MonotonicNs(ms * 1_000_000)
    }

    #[test]
    fn what_has_come_is_waited_for_at_the_rate_and_nothing_is_saved_up() {
        let mut bucket = Bucket::new(at(0));
        assert_eq!(bucket.wait(at(10_000), Some(1_000)), Duration::ZERO);
        bucket.charge(500);
        assert_eq!(bucket.wait(at(10_000), Some(1_000)), Duration::from_millis(500));
        assert_eq!(bucket.wait(at(10_200), Some(1_000)), Duration::from_millis(300));
        bucket.charge(100);
        assert_eq!(bucket.wait(at(10_300), Some(1_000)), Duration::from_millis(300));
        assert_eq!(bucket.wait(at(10_600), Some(1_000)), Duration::ZERO);
    }

    #[test]
    fn another_rate_counts_at_once() {
        let mut bucket = Bucket::new(at(0));
        bucket.charge(10_000);
        assert_eq!(bucket.wait(at(0), Some(100)), Duration::from_secs(100));
        assert_eq!(bucket.wait(at(0), Some(10_000)), Duration::from_secs(1));
        assert_eq!(bucket.wait(at(0), None), Duration::ZERO);
        assert_eq!(bucket.wait(at(0), Some(100)), Duration::ZERO, "without a limit nothing is owed");
    }
}
