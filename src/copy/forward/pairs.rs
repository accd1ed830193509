//! What an upstream array knows of one forwarded pair: where the two volumes may differ.
//!
//! # What it guarantees
//! Two sets of regions, one within the other:
//! * **marked**, in the control store: every byte in which the two volumes may differ, now or after a crash at any instant. The
//!   mark is durable before either side changes there. After a restart whatever is marked is copied.
//! * **stale**, in memory: every byte in which they differ, or may, and that no write under way will make equal. Only a copy
//!   of the region takes it away, over whatever connection: a copy that is cut goes on where it was.
//!
//! What is marked and not stale is an *activity log*: a write marks the extents that it touches, and
//! [`ForwardPair::forget_idle`] takes away those that nobody has touched for a round and that are not stale. Hot extents stay
//! marked and cost nothing.

use crate::copy::differences::{ChangedPart, DifferenceMap};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// One pair.
#[derive(Debug)]
pub(crate) struct ForwardPair {
    /// Its number here.
    pub(crate) pair: u32,
    /// The volume at the primary, by its number there.
    pub(crate) remote: u32,
    marked: DifferenceMap,
    stale: DifferenceMap,
    /// Writes under way, by extent.
    active: BTreeMap<u64, u32>,
    touched: BTreeSet<u64>,
    extent_bytes: u64,
    /// It is being taken away: nothing of it is sent any more, and what is under way ends here alone.
    pub(super) is_leaving: bool,
}

impl ForwardPair {
    /// A pair whose map is as the control store has it.
    pub(crate) fn new(pair: u32, remote: u32, marked: DifferenceMap) -> Self {
        // Large enough that random writes seldom meet a new one, small enough that copying them again takes a moment.
        let wanted = EXTENT_BYTES.min(marked.capacity_bytes() / EXTENTS_MIN);
        let extent_bytes = wanted.next_multiple_of(marked.region_bytes()).max(marked.region_bytes());
        Self {
            pair,
            remote,
            stale: marked.clone(),
            marked,
            active: BTreeMap::new(),
            touched: BTreeSet::new(),
            extent_bytes,
            is_leaving: false,
        }
    }

    /// A write to these ranges begins: marks the extents it touches, and says which they are.
    pub(super) fn enter(&mut self, ranges: &[Range<u64>]) -> BTreeSet<u64> {
        let extents: BTreeSet<u64> = ranges
            .iter()
            .filter(|range| !range.is_empty())
            .flat_map(|range| range.start / self.extent_bytes..range.end.div_ceil(self.extent_bytes))
            .collect();
        for extent in &extents {
            *self.active.entry(*extent).or_default() += 1;
            self.touched.insert(*extent);
            self.marked.mark(extent * self.extent_bytes, self.extent_bytes);
        }
        extents
    }

    /// It has ended.
    pub(super) fn leave(&mut self, extents: &BTreeSet<u64>) {
        for extent in extents {
            self.touched.insert(*extent);
            if let Some(count) = self.active.get_mut(extent) {
                *count -= 1;
                if *count == 0 {
                    self.active.remove(extent);
                }
            }
        }
    }

    /// The two sides may differ here, and nobody is about to make them equal. The ranges are marked.
    pub(super) fn set_stale(&mut self, ranges: &[Range<u64>]) {
        for range in ranges {
            self.stale.mark(range.start, range.end - range.start);
        }
    }

    /// The first bytes at or behind `from` that are to be copied: at most `longest`, but at least to the end of a region.
    pub(super) fn next_stale(&self, from: u64, longest: u64) -> Option<(u64, u64)> {
        self.stale.next_run(from, longest)
    }

    /// They have been.
    pub(super) fn is_copied(&mut self, start: u64, length: u64) {
        self.stale.clear(start, length);
    }

    /// Takes the marks off the extents that nobody writes to or has written to since the last call, and that need no copy.
    pub(super) fn forget_idle(&mut self) {
        let touched = std::mem::take(&mut self.touched);
        let mut from = 0;
        while let Some((start, _)) = self.marked.next_run(from, self.extent_bytes) {
            let extent = start / self.extent_bytes;
            let begin = extent * self.extent_bytes;
            from = begin + self.extent_bytes;
            let is_stale =
                self.stale.next_run(begin, self.extent_bytes).is_some_and(|(start, _)| start < from);
            if !is_stale && !touched.contains(&extent) && !self.active.contains_key(&extent) {
                self.marked.clear(begin, self.extent_bytes);
            }
        }
    }

    /// Whether marks are not in the control store yet.
    pub(super) fn has_unwritten(&self) -> bool {
        self.marked.has_changed() && !self.is_leaving
    }

    pub(super) fn take_marks(&mut self) -> Option<(u32, Vec<ChangedPart>)> {
        if self.is_leaving {
            return None;
        }
        let parts = self.marked.take_changed();
        (!parts.is_empty()).then_some((self.pair, parts))
    }

    pub(super) fn not_written(&mut self, parts: &[ChangedPart]) {
        self.marked.not_written(parts);
    }

    /// Everything differs from here on.
    pub(crate) fn mark_all(&mut self) {
        let capacity = self.marked.capacity_bytes();
        self.marked.mark(0, capacity);
        self.stale.mark(0, capacity);
    }

    /// Whether a copy of what is stale is one of the whole volume.
    pub(super) fn is_all_stale(&self) -> bool {
        self.stale.is_marked(0, self.stale.capacity_bytes())
    }

    /// Bytes that a copy would carry.
    pub(crate) fn stale_bytes(&self) -> u64 {
        self.stale.marked_bytes()
    }

    /// Whether anything is to be copied.
    pub(crate) fn is_stale(&self) -> bool {
        !self.stale.is_empty()
    }
}

/// Extents of the activity log, of large volumes.
const EXTENT_BYTES: u64 = 4 << 20;
/// Extents that a small volume is divided into at least.
const EXTENTS_MIN: u64 = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copy::differences::REGION_BYTES_MIN;

    const CAPACITY: u64 = 256 * REGION_BYTES_MIN;

    fn pair() -> ForwardPair {
        ForwardPair::new(1, 2, DifferenceMap::new(CAPACITY))
    }

    fn marked(pair: &ForwardPair) -> Vec<(u64, u64)> {
        let mut runs = Vec::new();
        let mut from = 0;
        while let Some((start, length)) = pair.marked.next_run(from, u64::MAX) {
            runs.push((start, length));
            from = start + length;
        }
        runs
    }

    #[test]
    fn an_extent_stays_marked_while_it_is_written_to_and_for_a_round_after() {
        let mut pair = pair();
        let extent = pair.extent_bytes;
        assert_eq!(extent, 4 * REGION_BYTES_MIN);
        let extents = pair.enter(&[5..6, extent - 1..extent + 1]);
        assert_eq!(marked(&pair), [(0, 2 * extent)]);
        pair.forget_idle();
        pair.forget_idle();
        assert_eq!(marked(&pair), [(0, 2 * extent)], "it is under way");
        let other = pair.enter(std::slice::from_ref(&(0..1)));
        pair.leave(&extents);
        pair.forget_idle();
        assert_eq!(marked(&pair), [(0, 2 * extent)], "touched in this round");
        pair.forget_idle();
        assert_eq!(marked(&pair), [(0, extent)], "the other write goes on");
        pair.leave(&other);
        pair.forget_idle();
        assert_eq!(marked(&pair), [(0, extent)], "a round after its end");
        pair.forget_idle();
        assert!(marked(&pair).is_empty() && !pair.is_stale());
    }

    #[test]
    fn what_is_still_to_be_copied_stays_marked_and_what_was_copied_does_not() {
        let mut pair = pair();
        let extent = pair.extent_bytes;
        pair.mark_all();
        assert!(pair.is_all_stale());
        pair.is_copied(0, 3 * extent);
        assert!(!pair.is_all_stale());
        pair.forget_idle();
        assert_eq!(marked(&pair), [(3 * extent, CAPACITY - 3 * extent)]);
        assert_eq!(pair.next_stale(0, extent), Some((3 * extent, extent)));
        // One write that ended badly is enough for a region, and for its whole extent to stay marked.
        let written = [Range { start: extent, end: extent + 1 }];
        let extents = pair.enter(&written);
        pair.set_stale(&written);
        pair.leave(&extents);
        pair.forget_idle();
        pair.forget_idle();
        assert_eq!(pair.next_stale(0, u64::MAX), Some((extent, REGION_BYTES_MIN)));
        assert_eq!(marked(&pair)[0], (extent, extent));
    }

    #[test]
    fn a_restart_copies_what_is_marked() {
        let mut pair = pair();
        let extents = pair.enter(std::slice::from_ref(&(0..1)));
        pair.leave(&extents);
        assert!(!pair.is_stale(), "it has ended the same at both sides");
        let (_, parts) = pair.take_marks().unwrap();
        let parts = parts.into_iter().filter_map(|(number, bytes)| Some((number, bytes?)));
        let again = ForwardPair::new(1, 2, DifferenceMap::load(CAPACITY, parts).unwrap());
        assert_eq!(again.stale_bytes(), pair.extent_bytes);
    }
}
