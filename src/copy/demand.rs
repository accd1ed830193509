//! What hosts ask of this array: one of the two inputs of its load (claims 6 and 10, promise T5).
//!
//! # What it says
//! How many commands of hosts were waiting for this array on average, over a quarter of a second or more: their rate
//! times the time each took (Little's law). 64 of them are a full load. A command counts from when it is
//! admitted until its end as far as it waits: for memory, for units, for the group commit, for a synchronous copy.
//! One that is answered at once from the cache counts as nothing, and so does the time in which a host sends its data:
//! neither is anything that a copy could spare it.
//!
//! Commands of peers do not count: a copy that slowed down because it reads would never get anywhere.
//!
//! The other input is what the cache has not destaged yet ([`DiskAdapter::load_permille`](crate::disk::DiskAdapter::load_permille)).
//! The load of the array is the larger of the two.

use super::group::Group;
use crate::clock::{Clock, MonotonicNs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Counts commands of hosts. See the module's text.
#[derive(Debug)]
pub struct Demand {
    clock: Arc<dyn Clock>,
    count: Mutex<Count>,
}

/// A command of a host that waits, until this goes.
#[derive(Debug)]
pub struct UnderWay(Arc<Demand>);

impl Demand {
    /// Nothing is under way.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        let count = Mutex::new(Count::new(clock.now()));
        Arc::new(Self { clock, count })
    }

    /// A command begins to wait.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> UnderWay {
        let now = self.clock.now();
        self.lock().change(now, |commands| commands.saturating_add(1));
        UnderWay(self.clone())
    }

    /// The load that hosts make, in permille.
    #[must_use]
    pub fn permille(&self) -> u32 {
        let now = self.clock.now();
        self.lock().permille(now)
    }

    fn lock(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let now = self.0.clock.now();
        self.0.lock().change(now, |commands| commands.saturating_sub(1));
    }
}

impl Group {
    /// The load of this array: what its cache has not destaged, or what hosts ask, whichever says more.
    pub(crate) fn load_permille(&self) -> u32 {
        self.disk.load_permille().max(self.settings.demand.permille())
    }
}

/// Commands over time. Pure: time is an argument.
#[derive(Clone, Copy, Debug)]
struct Count {
    commands: u64,
    /// Up to when `waited_ns` is known.
    since: MonotonicNs,
    window_began: MonotonicNs,
    /// Sum of what each command waited in this window.
    waited_ns: u128,
    /// Of the last whole window.
    permille: u32,
}

impl Count {
    fn new(now: MonotonicNs) -> Self {
        Self { commands: 0, since: now, window_began: now, waited_ns: 0, permille: 0 }
    }

    fn change(&mut self, now: MonotonicNs, change: impl FnOnce(u64) -> u64) {
        self.advance(now);
        self.commands = change(self.commands);
    }

    fn permille(&mut self, now: MonotonicNs) -> u32 {
        self.advance(now);
        self.permille
    }

    fn advance(&mut self, now: MonotonicNs) {
        self.waited_ns =
            self.waited_ns.saturating_add(u128::from(self.commands) * now.since(self.since).as_nanos());
        self.since = now;
        let window = now.since(self.window_began);
        if window < WINDOW {
            return;
        }
        let full_ns = window.as_nanos().saturating_mul(u128::from(FULL_COMMANDS));
        let permille = self.waited_ns.saturating_mul(1000) / full_ns.max(1);
        self.permille = u32::try_from(permille.min(1000)).unwrap_or(1000);
        (self.window_began, self.waited_ns) = (now, 0);
    }
}

/// The average is that of at least so much time.
const WINDOW: Duration = Duration::from_millis(250);
/// Commands that wait at the same time when hosts ask all that an array is thought to serve: what two Linux hosts keep
/// under way with one disk each (`node.session.queue_depth` is 32).
const FULL_COMMANDS: u64 = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SimClock;

    fn at(ms: u64) -> MonotonicNs {
        MonotonicNs(ms * 1_000_000)
    }

    #[test]
    fn the_load_of_hosts_is_the_mean_number_of_commands_that_wait() {
        let mut count = Count::new(at(0));
        // 32 commands for half of the time: 16 of 64.
        for ms in (0..1_000).step_by(10) {
            count.change(at(ms), |_| 32);
            count.change(at(ms + 5), |_| 0);
        }
        assert_eq!(count.permille(at(1_000)), 250);
        count.change(at(1_000), |_| 1_000_000);
        assert_eq!(count.permille(at(2_000)), 1_000, "more than full is full");
        count.change(at(2_000), |_| 64);
        assert_eq!(count.permille(at(60_000)), 1_000, "nothing has ended, and all of it still waits");
        count.change(at(60_000), |_| 0);
        assert_eq!(count.permille(at(60_250)), 0, "and it is forgotten soon");
    }

    #[test]
    fn a_command_counts_until_its_guard_goes() {
        let clock = Arc::new(SimClock::new(0));
        let demand = Demand::new(clock);
        let guards: Vec<UnderWay> = (0..3).map(|_| demand.begin()).collect();
        assert_eq!(demand.lock().commands, 3);
        drop(guards);
        assert_eq!(demand.lock().commands, 0);
    }
}
