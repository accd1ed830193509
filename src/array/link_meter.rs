//! How much goes over a link, in relation to what it can carry (claim 4).
//!
//! The capacity is what the operator set as its bandwidth; where nothing is set, the highest rate that was ever seen,
//! slowly forgotten. Pure: time is an argument.

use crate::clock::MonotonicNs;
use std::time::Duration;

/// Traffic of one link.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meter {
    window_began: MonotonicNs,
    window_bytes: u64,
    /// Bytes in a second, of the last whole window.
    rate: u64,
    best: u64,
}

impl Meter {
    pub(crate) fn new(now: MonotonicNs) -> Self {
        Self { window_began: now, window_bytes: 0, rate: 0, best: CAPACITY_MIN }
    }

    /// So many bytes have come.
    pub(crate) fn handle_bytes(&mut self, now: MonotonicNs, bytes: u64) {
        self.window_bytes = self.window_bytes.saturating_add(bytes);
        let since = now.since(self.window_began);
        if since < WINDOW {
            return;
        }
        self.rate = per_second(self.window_bytes, since);
        self.best = (self.best - self.best / FORGET).max(self.rate).max(CAPACITY_MIN);
        (self.window_began, self.window_bytes) = (now, 0);
    }

    /// The best rate that was lately seen, in bytes a second.
    pub(crate) fn best(&self) -> u64 {
        self.best
    }

    /// The share in use, in permille; `limit` is the bandwidth that was set, in bytes a second.
    pub(crate) fn permille(&self, now: MonotonicNs, limit: Option<u64>) -> u32 {
        let since = now.since(self.window_began);
        // A window that has lasted long says more than the one before it.
        let rate = if since < WINDOW { self.rate } else { per_second(self.window_bytes, since) };
        let capacity = limit.unwrap_or(self.best).max(1);
        u32::try_from((u128::from(rate) * 1000 / u128::from(capacity)).min(1000)).unwrap_or(1000)
    }
}

fn per_second(bytes: u64, time: Duration) -> u64 {
    u64::try_from(u128::from(bytes) * 1_000_000_000 / time.as_nanos().max(1)).unwrap_or(u64::MAX)
}

/// Traffic is that of so much time.
const WINDOW: Duration = Duration::from_millis(200);
/// In each window the best rate loses one part in so many: half of it in less than a minute.
const FORGET: u64 = 256;
/// No link is taken for slower than this: 1 MiB a second.
const CAPACITY_MIN: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> MonotonicNs {
        MonotonicNs(ms * 1_000_000)
    }

    #[test]
    fn the_share_is_traffic_in_relation_to_the_bandwidth() {
        let mut meter = Meter::new(at(0));
        (1..=10).for_each(|step| meter.handle_bytes(at(100 * step), 1 << 20));
        assert_eq!(meter.permille(at(1_000), Some(20 << 20)), 500);
        assert_eq!(meter.permille(at(1_000), Some(10 << 20)), 1000);
        assert_eq!(meter.permille(at(1_000), None), 1000, "the best that was ever seen");
        assert!(meter.permille(at(10_000), Some(10 << 20)) < 10, "nothing has come for long");
    }

    #[test]
    fn a_rate_that_was_once_reached_is_the_capacity_for_a_while() {
        let mut meter = Meter::new(at(0));
        meter.handle_bytes(at(200), 20 << 20);
        meter.handle_bytes(at(400), 5 << 20);
        let share = meter.permille(at(400), None);
        assert!((240..=260).contains(&share), "{share}");
        (3..2_000).for_each(|step| meter.handle_bytes(at(200 * step), 5 << 20));
        assert!(meter.permille(at(399_900), None) > 990, "forgotten");
    }
}
