//! Pointer information (mission row A5): for each reading array and journal volume, where in the journal it is.
//!
//! Offsets count bytes since the journal volume was catalogued and never wrap; an address is the head of its area plus
//! the offset modulo the area's size (figures 8 and 9, with the arithmetic of mission section 10: empty is equal, full
//! is a difference of the area's size). What is stored is a checkpoint; the journal knows better after a recovery.

use super::name::{ArrayNumber, GroupNumber, UpdateNumber, VolumeNumber};
use serde::{Deserialize, Serialize};

/// One set of pointers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PointerRecord {
    /// Group, here.
    pub group: GroupNumber,
    /// The reading array; this array itself where it keeps the copy.
    pub array: ArrayNumber,
    /// The journal volume, here.
    pub volume: VolumeNumber,
    /// The update information area.
    pub information: Area,
    /// The write data area.
    pub data: Area,
    /// What the next journal read gives, an offset in the update information area.
    pub read_start: u64,
    /// What a retried journal read gives.
    pub retry_start: u64,
    /// The reader holds everything up to this number durably.
    pub durable: UpdateNumber,
    /// The reader has restored everything up to this number.
    pub restored: UpdateNumber,
    /// The reader has everything up to this number durably in its volumes.
    pub settled: UpdateNumber,
}

/// One area of a journal volume, as one reader sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Area {
    /// Where it begins in the journal volume.
    pub head_bytes: u64,
    /// How large it is.
    pub size_bytes: u64,
    /// Offset where the next entry will be put.
    pub newest: u64,
    /// Offset of the oldest entry that the reader still needs.
    pub oldest: u64,
}

impl Area {
    /// The address of an offset; the head when the area has no size.
    #[must_use]
    pub fn address(&self, offset: u64) -> u64 {
        self.head_bytes + offset.checked_rem(self.size_bytes).unwrap_or(0)
    }

    /// Bytes that the reader still needs.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.newest.saturating_sub(self.oldest)
    }
}

/// The eight addresses of figure 8, in its order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EightAddresses {
    /// Where the update information area begins.
    pub information_head: u64,
    /// Where the write data area begins.
    pub data_head: u64,
    /// Where the next update information is put.
    pub information_newest: u64,
    /// The oldest update information.
    pub information_oldest: u64,
    /// Where the next write data is put.
    pub data_newest: u64,
    /// The oldest write data.
    pub data_oldest: u64,
    /// What the next journal read gives.
    pub read_start: u64,
    /// What a retried journal read gives.
    pub retry_start: u64,
}

impl PointerRecord {
    /// The view of these pointers that figure 8 draws.
    #[must_use]
    pub fn addresses(&self) -> EightAddresses {
        EightAddresses {
            information_head: self.information.head_bytes,
            data_head: self.data.head_bytes,
            information_newest: self.information.address(self.information.newest),
            information_oldest: self.information.address(self.information.oldest),
            data_newest: self.data.address(self.data.newest),
            data_oldest: self.data.address(self.data.oldest),
            read_start: self.information.address(self.read_start),
            retry_start: self.information.address(self.retry_start),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figure_8_the_eight_addresses_are_offsets_modulo_their_area() {
        let information = Area { head_bytes: 0, size_bytes: 700, newest: 1_200, oldest: 900 };
        let data = Area { head_bytes: 700, size_bytes: 2_000, newest: 2_000, oldest: 0 };
        let record = PointerRecord {
            group: GroupNumber(1),
            array: ArrayNumber(2),
            volume: VolumeNumber(4),
            information,
            data,
            read_start: 1_000,
            retry_start: 900,
            durable: UpdateNumber(3),
            restored: UpdateNumber(2),
            settled: UpdateNumber(1),
        };
        let eight = record.addresses();
        assert_eq!((eight.information_newest, eight.information_oldest), (500, 200));
        assert_eq!((eight.data_newest, eight.data_oldest), (700, 700), "full and empty look alike here");
        assert_eq!(record.data.used_bytes(), 2_000, "and differ here");
        assert_eq!((eight.read_start, eight.retry_start), (300, 200));
    }
}
