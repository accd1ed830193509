//! The free extents of a parity group, as runs, lowest first.
//!
//! Lowest first keeps the used part of a sparse unit together and makes neighbouring extents of a volume neighbours on
//! the units, so that long transfers stay long.

use std::collections::BTreeMap;

/// Free extents: start of a run -> its length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FreeExtents {
    runs: BTreeMap<u32, u32>,
    count: u32,
}

impl FreeExtents {
    /// Extents 0 to `count` - 1, all free.
    pub(crate) fn all(count: u32) -> Self {
        let mut free = Self::default();
        if count > 0 {
            free.runs.insert(0, count);
            free.count = count;
        }
        free
    }

    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Takes at most `most` extents that follow each other: (first, how many).
    pub(crate) fn take_run(&mut self, most: u32) -> Option<(u32, u32)> {
        let (&start, &length) = self.runs.first_key_value()?;
        let taken = length.min(most);
        if taken == 0 {
            return None;
        }
        self.runs.remove(&start);
        if taken < length {
            self.runs.insert(start + taken, length - taken);
        }
        self.count -= taken;
        Some((start, taken))
    }

    /// Takes this very extent; false if it is not free (used when a map is rebuilt from its log).
    pub(crate) fn take_exact(&mut self, extent: u32) -> bool {
        let Some((&start, &length)) = self.runs.range(..=extent).next_back() else { return false };
        if extent >= start + length {
            return false;
        }
        self.runs.remove(&start);
        if extent > start {
            self.runs.insert(start, extent - start);
        }
        if extent + 1 < start + length {
            self.runs.insert(extent + 1, start + length - extent - 1);
        }
        self.count -= 1;
        true
    }

    /// Gives an extent back.
    pub(crate) fn release(&mut self, extent: u32) {
        let mut start = extent;
        let mut length = 1;
        if let Some((&before, &before_length)) = self.runs.range(..=extent).next_back() {
            assert!(before + before_length <= extent, "extent {extent} is freed twice");
            if before + before_length == extent {
                self.runs.remove(&before);
                start = before;
                length += before_length;
            }
        }
        if let Some(after) = self.runs.remove(&(extent + 1)) {
            length += after;
        }
        self.runs.insert(start, length);
        self.count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_and_given_back_in_any_order_is_one_run_again() {
        let mut free = FreeExtents::all(10);
        assert!(free.take_exact(5) && !free.take_exact(5));
        assert_eq!(free.take_run(100), Some((0, 5)));
        assert_eq!(free.take_run(2), Some((6, 2)));
        assert_eq!(free.count(), 2);
        for extent in [7, 0, 5, 3, 1, 6, 2, 4] {
            free.release(extent);
        }
        assert_eq!(free, FreeExtents::all(10));
        assert_eq!(FreeExtents::all(0).take_run(1), None);
    }
}
