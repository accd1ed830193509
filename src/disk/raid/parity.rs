//! The sums of RAID: exclusive or over slots.
//!
//! Fixed lengths and no branches, so that the compiler turns the loops into the widest instructions there are.

use crate::disk::slot::SLOT_BYTES;

/// Adds `source` to `target`.
pub fn xor_into(target: &mut [u8; SLOT_BYTES], source: &[u8; SLOT_BYTES]) {
    for (target, source) in target.as_chunks_mut::<LANES>().0.iter_mut().zip(source.as_chunks::<LANES>().0) {
        for (target, source) in target.iter_mut().zip(source) {
            *target ^= source;
        }
    }
}

/// Adds both sources to `target` in one pass: a third less memory traffic than two passes.
pub fn xor_two_into(target: &mut [u8; SLOT_BYTES], one: &[u8; SLOT_BYTES], other: &[u8; SLOT_BYTES]) {
    let sources = one.as_chunks::<LANES>().0.iter().zip(other.as_chunks::<LANES>().0);
    for (target, (one, other)) in target.as_chunks_mut::<LANES>().0.iter_mut().zip(sources) {
        for (target, (one, other)) in target.iter_mut().zip(one.iter().zip(other)) {
            *target ^= one ^ other;
        }
    }
}

/// Adds every source to `target`.
pub fn xor_all_into<'a>(
    target: &mut [u8; SLOT_BYTES],
    sources: impl IntoIterator<Item = &'a [u8; SLOT_BYTES]>,
) {
    let mut sources = sources.into_iter();
    while let Some(one) = sources.next() {
        match sources.next() {
            Some(other) => xor_two_into(target, one, other),
            None => xor_into(target, one),
        }
    }
}

/// Bytes handled together: a cache line.
const LANES: usize = 64;
const _: () = assert!(SLOT_BYTES.is_multiple_of(LANES));

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn noise(seed: u64) -> [u8; SLOT_BYTES] {
        let mut bytes = [0; SLOT_BYTES];
        crate::clock::Entropy::fill(&crate::clock::SeededEntropy::new(seed), &mut bytes);
        bytes
    }

    proptest! {
        #[test]
        fn the_fast_sum_is_the_slow_one(seeds in prop::collection::vec(any::<u64>(), 1..9)) {
            let sources: Vec<_> = seeds.iter().map(|seed| noise(*seed)).collect();
            let mut fast = noise(1);
            let mut slow = noise(1);
            xor_all_into(&mut fast, &sources);
            for at in 0..SLOT_BYTES {
                slow[at] = sources.iter().fold(slow[at], |sum, source| sum ^ source[at]);
            }
            prop_assert_eq!(fast, slow);
        }
    }
}
