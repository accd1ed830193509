//! What an upstream array knows of one forwarded pair: where the two volumes may differ.
//!
//! # What it guarantees
//! Every byte in which the two volumes may differ lies in a marked region, and the mark is durable before either side
//! changes there. While everything is in step the marks are an *activity log*: a write marks the extents that it touches,
//! and [`ForwardPair::forget_idle`] takes away those that nobody has touched for a round. Hot extents stay marked and cost
//! nothing. After a restart whatever is marked is copied again.

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
    differs: DifferenceMap,
    /// What is still to be copied, while that is done.
    pub(super) to_copy: Option<DifferenceMap>,
    /// Writes under way, by extent.
    active: BTreeMap<u64, u32>,
    touched: BTreeSet<u64>,
    extent_bytes: u64,
    /// Everything is marked, and has been since the last copy ended.
    is_all_marked: bool,
}

impl ForwardPair {
    /// A pair whose map is as the control store has it.
    pub(crate) fn new(pair: u32, remote: u32, differs: DifferenceMap) -> Self {
        // Large enough that random writes seldom meet a new one, small enough that copying them again takes a moment.
        let wanted = EXTENT_BYTES.min(differs.capacity_bytes() / EXTENTS_MIN);
        let extent_bytes = wanted.next_multiple_of(differs.region_bytes()).max(differs.region_bytes());
        Self {
            pair,
            remote,
            differs,
            to_copy: None,
            active: BTreeMap::new(),
            touched: BTreeSet::new(),
            extent_bytes,
            is_all_marked: false,
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
            self.differs.mark(extent * self.extent_bytes, self.extent_bytes);
        }
        extents
    }

    /// It has ended, the same at both sides.
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

    /// Takes the marks off the extents that nobody writes to, has written to since the last call, or that are still to be
    /// copied.
    pub(super) fn forget_idle(&mut self) {
        let touched = std::mem::take(&mut self.touched);
        let mut from = 0;
        while let Some((start, _)) = self.differs.next_run(from, self.extent_bytes) {
            let extent = start / self.extent_bytes;
            let begin = extent * self.extent_bytes;
            from = begin + self.extent_bytes;
            let is_copied = self.to_copy.as_ref().is_none_or(|map| {
                map.next_run(begin, self.extent_bytes).is_none_or(|(start, _)| start >= from)
            });
            if is_copied && !touched.contains(&extent) && !self.active.contains_key(&extent) {
                self.differs.clear(begin, self.extent_bytes);
            }
        }
    }

    /// Whether marks are not in the control store yet.
    pub(super) fn has_unwritten(&self) -> bool {
        self.differs.has_changed()
    }

    pub(super) fn take_marks(&mut self) -> Option<(u32, Vec<ChangedPart>)> {
        let parts = self.differs.take_changed();
        (!parts.is_empty()).then_some((self.pair, parts))
    }

    pub(super) fn not_written(&mut self, parts: &[ChangedPart]) {
        self.differs.not_written(parts);
    }

    /// Everything that is marked shall be copied.
    pub(super) fn begin_copy(&mut self) {
        self.to_copy = Some(self.differs.clone());
    }

    /// Everything differs from here on.
    pub(crate) fn mark_all(&mut self) {
        let capacity = self.differs.capacity_bytes();
        self.is_all_marked = true;
        self.differs.mark(0, capacity);
    }

    /// Everything that was to be copied has been.
    pub(super) fn end_copy(&mut self) {
        (self.to_copy, self.is_all_marked) = (None, false);
    }

    /// Whether a copy of what is marked is one of the whole volume.
    pub(super) fn is_all_marked(&self) -> bool {
        self.is_all_marked
    }

    /// Bytes that a copy of what is marked would carry, or still carries.
    pub(crate) fn marked_bytes(&self) -> u64 {
        self.to_copy.as_ref().map_or(self.differs.marked_bytes(), DifferenceMap::marked_bytes)
    }

    /// Whether anything is marked.
    pub(crate) fn is_marked(&self) -> bool {
        !self.differs.is_empty()
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
        while let Some((start, length)) = pair.differs.next_run(from, u64::MAX) {
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
        assert!(!pair.is_marked());
    }

    #[test]
    fn what_is_still_to_be_copied_stays_marked() {
        let mut pair = pair();
        let extent = pair.extent_bytes;
        pair.mark_all();
        pair.begin_copy();
        pair.to_copy.as_mut().unwrap().clear(0, 3 * extent);
        pair.forget_idle();
        assert_eq!(marked(&pair), [(3 * extent, CAPACITY - 3 * extent)]);
    }
}
