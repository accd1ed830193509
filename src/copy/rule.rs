//! Is this write journaled? The creation rules of figure 14 (steps 1330, 1335), decided for each pair.
//!
//! The decision is made under the lock that gives the number and moves the copy completion address, so nothing can
//! change between the two. Errata: a command of which any block lies below the address is journaled whole.

use crate::volume::pair::PairState;

/// What the rule looks at in one pair of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairFacts {
    /// Its state.
    pub state: PairState,
    /// Everything below this byte of the P-VOL has been given to the initial copy.
    pub copy_completion_bytes: u64,
    /// The volume has been journaled as a whole before: the journal may hold a record of any block, and a write that
    /// left no record behind it would be undone by a replay (`docs/architecture.md`, invariant 3).
    pub copied_before: bool,
}

/// Whether one pair needs a journal of a write that begins at `start_bytes`.
#[must_use]
pub fn pair_needs_journal(pair: PairFacts, start_bytes: u64) -> bool {
    match pair.state {
        PairState::Unused => false,
        PairState::NotYetCopied => pair.copied_before,
        PairState::BeingCopied => pair.copied_before || start_bytes < pair.copy_completion_bytes,
        PairState::Normal | PairState::Suspended | PairState::Abnormal => true,
    }
}

/// Whether a write that begins at `start_bytes` is journaled: if any pair of its volume needs it.
#[must_use]
pub fn needs_journal(pairs: &[PairFacts], start_bytes: u64) -> bool {
    pairs.iter().any(|pair| pair_needs_journal(*pair, start_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(state: PairState, copy_completion_bytes: u64, copied_before: bool) -> PairFacts {
        PairFacts { state, copy_completion_bytes, copied_before }
    }

    #[test]
    fn figure_14_steps_1330_and_1335_for_every_state() {
        let table = [
            (PairState::Unused, false, false, false),
            (PairState::NotYetCopied, false, false, false),
            (PairState::BeingCopied, true, false, false),
            (PairState::Normal, true, true, true),
            (PairState::Suspended, true, true, true),
            (PairState::Abnormal, true, true, true),
        ];
        for (state, below, at, above) in table {
            for (start, expected) in [(99, below), (100, at), (101, above)] {
                assert_eq!(
                    pair_needs_journal(pair(state, 100, false), start),
                    expected,
                    "{state:?} at {start}"
                );
            }
        }
    }

    #[test]
    fn a_volume_that_was_journaled_once_stays_journaled() {
        assert!(pair_needs_journal(pair(PairState::NotYetCopied, 0, true), 5));
        assert!(pair_needs_journal(pair(PairState::BeingCopied, 0, true), 5));
    }

    #[test]
    fn one_pair_that_needs_it_is_enough() {
        let pairs = [pair(PairState::NotYetCopied, 0, false), pair(PairState::Normal, 0, false)];
        assert!(needs_journal(&pairs, 0));
        assert!(!needs_journal(&[], 0));
    }
}
