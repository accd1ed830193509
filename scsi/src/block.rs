//! Places on a volume: logical block address and ranges of blocks (SBC-3, 4.5).

/// A logical block address: which block, counted in the volume's own block size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lba(pub u64);

/// Consecutive logical blocks. Every range that leaves this crate lies inside its volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockRange {
    /// First block.
    pub start: Lba,
    /// How many; zero is a valid command that moves nothing.
    pub blocks: u64,
}

impl BlockRange {
    /// The range, if it lies inside a volume of `capacity_blocks`. The first address has to exist even when the range is
    /// empty, as SBC-3 asks of a transfer of zero blocks.
    #[must_use]
    pub fn within(start: Lba, blocks: u64, capacity_blocks: u64) -> Option<Self> {
        let room = capacity_blocks.checked_sub(start.0)?;
        (room > 0 && blocks <= room).then_some(Self { start, blocks })
    }

    /// True when no block is named.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_ends_at_the_last_block_at_most() {
        assert!(BlockRange::within(Lba(0), 10, 10).is_some());
        assert!(BlockRange::within(Lba(9), 1, 10).is_some());
        assert!(BlockRange::within(Lba(9), 2, 10).is_none());
        assert!(BlockRange::within(Lba(1), u64::MAX, 10).is_none());
        assert!(BlockRange::within(Lba(u64::MAX), u64::MAX, u64::MAX).is_none());
    }

    #[test]
    fn an_empty_range_still_needs_an_address_that_exists() {
        assert!(BlockRange::within(Lba(9), 0, 10).is_some_and(|range| range.is_empty()));
        assert!(BlockRange::within(Lba(10), 0, 10).is_none());
    }
}
