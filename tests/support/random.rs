//! Repeatable randomness for tests: a stream from a seed, and a pure function of several numbers.

/// SplitMix64: small, fast, the same everywhere.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl Random {
    /// The stream that belongs to `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub(crate) fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        finish(self.0)
    }

    /// A number below `bound`; zero when `bound` is zero.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next_u64() % bound }
    }

    /// An index below `length`; zero when `length` is zero.
    pub(crate) fn index(&mut self, length: usize) -> usize {
        let bound = u64::try_from(length).expect("a length fits 64 bits");
        usize::try_from(self.below(bound)).expect("an index below a length fits")
    }

    /// True `percent` times of a hundred.
    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Fills `bytes`.
    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// A number that depends on all three and on nothing else.
pub(crate) fn mix(a: u64, b: u64, c: u64) -> u64 {
    finish(finish(finish(a.wrapping_add(STEP)) ^ b.wrapping_mul(STEP)) ^ c.rotate_left(32).wrapping_add(STEP))
}

/// The seed of this run: `HOLDFAST_SEED` if it is set, else `default`. Printed, so that a failure can be repeated.
pub(crate) fn seed_from_environment(default: u64) -> u64 {
    let seed = number_from_environment("HOLDFAST_SEED", default);
    eprintln!("seed {seed} (repeat with HOLDFAST_SEED={seed})");
    seed
}

/// The number in the environment variable `name`, else `default`.
pub(crate) fn number_from_environment(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}

fn finish(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
