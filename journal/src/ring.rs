//! One ring: a part of the journal volume used round and round.
//!
//! Offsets are monotonic and only shown modulo the area: empty is `head == oldest`, full is a difference of the whole
//! size, and nothing ever compares wrapped addresses. A run that would pass the end of the area begins at its start
//! instead; the rest is padding and counts as used.

use crate::format::BLOCK_BYTES;

/// The next whole block at or behind `bytes`.
pub(crate) fn round_up(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES).saturating_mul(BLOCK_BYTES)
}

/// The place and the state of one area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ring {
    /// Byte offset of the area on the journal volume.
    pub(crate) area_offset_bytes: u64,
    /// Size of the area; whole blocks, never 0.
    pub(crate) size_bytes: u64,
    /// Monotonic offset of the next free block.
    pub(crate) head: u64,
    /// Monotonic offset of the oldest block that a durable checkpoint still holds.
    pub(crate) freed: u64,
    /// Nothing may be placed beyond this: at most `freed + size`.
    pub(crate) limit: u64,
}

impl Ring {
    pub(crate) fn new(area_offset_bytes: u64, size_bytes: u64) -> Self {
        Self { area_offset_bytes, size_bytes, head: 0, freed: 0, limit: size_bytes }
    }

    /// Byte offset inside the area.
    pub(crate) fn within(&self, offset: u64) -> u64 {
        offset.checked_rem(self.size_bytes).unwrap_or(0)
    }

    /// Byte offset on the journal volume.
    pub(crate) fn physical(&self, offset: u64) -> u64 {
        self.area_offset_bytes.saturating_add(self.within(offset))
    }

    /// From `offset` to the end of the area.
    pub(crate) fn until_area_end(&self, offset: u64) -> u64 {
        self.size_bytes.saturating_sub(self.within(offset))
    }

    /// The first offset of the lap behind `offset`.
    pub(crate) fn next_lap(&self, offset: u64) -> u64 {
        offset.saturating_add(self.until_area_end(offset))
    }

    /// Where a run of `length` bytes would begin if it were placed at `offset` or behind.
    pub(crate) fn start_for(&self, offset: u64, length: u64) -> u64 {
        if length <= self.until_area_end(offset) { offset } else { self.next_lap(offset) }
    }

    /// Where the next run of `length` bytes may begin; `None` if it does not fit.
    pub(crate) fn place(&self, length: u64) -> Option<u64> {
        let start = self.start_for(self.head, length);
        (start.saturating_add(length) <= self.limit).then_some(start)
    }

    /// Bytes that cannot be written: held, padded, or freed by no durable checkpoint yet.
    pub(crate) fn used(&self) -> u64 {
        self.head.saturating_sub(self.freed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring() -> Ring {
        Ring::new(8 * BLOCK_BYTES, 4 * BLOCK_BYTES)
    }

    #[test]
    fn an_empty_ring_takes_its_whole_size_and_a_full_one_nothing() {
        let mut ring = ring();
        assert_eq!(ring.place(4 * BLOCK_BYTES), Some(0));
        assert_eq!(ring.place(4 * BLOCK_BYTES + 1), None);
        ring.head = 4 * BLOCK_BYTES;
        assert_eq!(ring.used(), 4 * BLOCK_BYTES);
        assert_eq!(ring.place(1), None);
    }

    #[test]
    fn a_run_is_padded_past_the_end_of_the_area_and_never_split() {
        let mut ring = ring();
        ring.head = 3 * BLOCK_BYTES;
        ring.freed = 2 * BLOCK_BYTES;
        ring.limit = 6 * BLOCK_BYTES;
        assert_eq!(ring.place(BLOCK_BYTES), Some(3 * BLOCK_BYTES));
        assert_eq!(ring.place(2 * BLOCK_BYTES), Some(4 * BLOCK_BYTES));
        assert_eq!(ring.place(3 * BLOCK_BYTES), None);
        assert_eq!(ring.physical(4 * BLOCK_BYTES), 8 * BLOCK_BYTES);
        assert_eq!(ring.physical(7 * BLOCK_BYTES), 11 * BLOCK_BYTES);
    }
}
