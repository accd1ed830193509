//! Time and randomness enter the program here and nowhere else.
//!
//! `Clock` has two implementations: `SystemClock`, and `SimClock` whose time is that of a paused tokio runtime, so
//! that hours of virtual time cost milliseconds and every run of a seed is the same run. Monotonic time orders and
//! measures; wall time is shown to people and travels in records, and decides nothing.

use std::fmt;
use std::pin::Pin;
use std::sync::Mutex;
use std::time::{Duration, UNIX_EPOCH};

/// A boxed future: the shape of every asynchronous trait method here (traits stay usable as objects).
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Nanoseconds on a clock that never steps; comparable only within one run of one array.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct MonotonicNs(pub u64);

impl MonotonicNs {
    /// Time since `earlier`, zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Nanoseconds since 1970 as this machine believes; may step in either direction.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct WallNs(pub u64);

/// Where time comes from.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Monotonic time.
    fn now(&self) -> MonotonicNs;
    /// Wall time.
    fn wall(&self) -> WallNs;
    /// Waits for `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// Where randomness comes from: identities, challenges, tags. Never used for a decision about data.
pub trait Entropy: Send + Sync + fmt::Debug {
    /// Fills `bytes` with random bytes.
    fn fill(&self, bytes: &mut [u8]);

    /// A random 128-bit identity.
    fn identity(&self) -> u128 {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        u128::from_le_bytes(bytes)
    }
}

/// The machine's own clock.
#[derive(Debug)]
pub struct SystemClock {
    origin: tokio::time::Instant,
}

impl SystemClock {
    /// A clock whose monotonic zero is now.
    #[must_use]
    pub fn new() -> Self {
        Self { origin: tokio::time::Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> MonotonicNs {
        MonotonicNs(duration_ns(self.origin.elapsed()))
    }

    #[expect(clippy::disallowed_methods, reason = "the one place where wall time is read")]
    fn wall(&self) -> WallNs {
        WallNs(std::time::SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, duration_ns))
    }

    #[expect(clippy::disallowed_methods, reason = "the one place where real time is waited for")]
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// Virtual time: tokio's paused clock, with a wall clock that starts where the test says and may be stepped.
#[derive(Debug)]
pub struct SimClock {
    origin: tokio::time::Instant,
    wall_at_origin: Mutex<u64>,
}

impl SimClock {
    /// Must be called inside a paused runtime; `wall_ns` is the wall time at this instant.
    #[must_use]
    pub fn new(wall_ns: u64) -> Self {
        Self { origin: tokio::time::Instant::now(), wall_at_origin: Mutex::new(wall_ns) }
    }

    /// Steps the wall clock, as an operator or a time server would.
    pub fn step_wall(&self, by_ns: i64) {
        let mut wall = self.wall_at_origin.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *wall = wall.saturating_add_signed(by_ns);
    }
}

impl Clock for SimClock {
    fn now(&self) -> MonotonicNs {
        MonotonicNs(duration_ns(self.origin.elapsed()))
    }

    fn wall(&self) -> WallNs {
        let origin = *self.wall_at_origin.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        WallNs(origin.saturating_add(self.now().0))
    }

    #[expect(clippy::disallowed_methods, reason = "tokio's clock is paused in a simulation")]
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// The operating system's randomness.
#[derive(Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    #[expect(clippy::disallowed_methods, reason = "the one place where the system is asked for randomness")]
    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the kernel's random source works once the system has booted");
    }
}

/// SplitMix64 from a seed: small, repeatable, good enough for simulated identities and schedules.
#[derive(Debug)]
pub struct SeededEntropy(Mutex<u64>);

impl SeededEntropy {
    /// The stream that belongs to `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }

    /// The next 64 bits.
    pub fn next_u64(&self) -> u64 {
        let mut state = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound` (zero when `bound` is zero).
    pub fn below(&self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next_u64() % bound }
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// Whole nanoseconds of a duration, saturating after 584 years.
fn duration_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_stream() {
        let (a, b) = (SeededEntropy::new(7), SeededEntropy::new(7));
        assert_eq!(
            (0..100).map(|_| a.next_u64()).collect::<Vec<_>>(),
            (0..100).map(|_| b.next_u64()).collect::<Vec<_>>()
        );
        assert_ne!(SeededEntropy::new(8).next_u64(), SeededEntropy::new(7).next_u64());
    }

    #[tokio::test(start_paused = true)]
    async fn virtual_time_passes_without_waiting() {
        let clock = SimClock::new(1_000);
        clock.sleep(Duration::from_secs(3600)).await;
        assert_eq!(clock.now(), MonotonicNs(3_600_000_000_000));
        clock.step_wall(-500);
        assert_eq!(clock.wall(), WallNs(3_600_000_000_500));
    }
}
