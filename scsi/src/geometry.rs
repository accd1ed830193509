//! Size and shape of a volume, and the limits of single commands that follow from it (SBC-3, block limits page B0h).

use crate::block::{BlockRange, Lba};
use crate::sense::Sense;
use crate::wire;
use alloc::vec::Vec;

/// The most data that one READ or WRITE may move. A longer one ends with INVALID FIELD IN CDB; hosts read the limit in page B0h
/// and split. It bounds the cache a single command reserves.
pub const MAX_TRANSFER_BYTES: u32 = 4 << 20;

/// The transfer length that page B0h recommends: a few full stripes.
pub const OPTIMAL_TRANSFER_BYTES: u32 = 1 << 20;

/// The most space one WRITE SAME may cover: what one READ can read back, which initiators take for granted (libiscsi's suite does). A
/// longer one ends with INVALID FIELD IN CDB. It bounds how long one command holds its range.
pub const MAX_WRITE_SAME_BYTES: u32 = MAX_TRANSFER_BYTES;

/// The most blocks one UNMAP may name in all. Beyond it the command ends with INVALID FIELD IN PARAMETER LIST.
pub const MAX_UNMAP_BLOCKS: u32 = 1 << 20;

/// The most descriptors one UNMAP may carry. Beyond it the command ends with INVALID FIELD IN PARAMETER LIST.
pub const MAX_UNMAP_DESCRIPTORS: u32 = 256;

/// The most blocks one COMPARE AND WRITE may compare: what its field can say. With 4,096-byte blocks it is 1 MiB, compared while
/// no other command of the volume becomes visible.
pub const MAX_COMPARE_AND_WRITE_BLOCKS: u8 = u8::MAX;

/// The most that one VERIFY without data may look at: what VERIFY(10) can name, as Windows uses it. A longer one ends with INVALID FIELD
/// IN CDB. It bounds how long one command reads.
pub const MAX_VERIFY_BYTES: u32 = 256 << 20;

/// What the disk adapter really writes; smaller aligned writes are possible but cost a read.
pub const PHYSICAL_BLOCK_BYTES: u32 = 4096;

/// Length of a logical block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockSize {
    /// 512 bytes, eight to a physical block.
    B512,
    /// 4,096 bytes.
    B4096,
}

impl BlockSize {
    /// The length in bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        match self {
            Self::B512 => 512,
            Self::B4096 => 4096,
        }
    }

    /// Two to this power are the logical blocks in a physical one (LOGICAL BLOCKS PER PHYSICAL BLOCK EXPONENT).
    #[must_use]
    pub const fn physical_exponent(self) -> u8 {
        match self {
            Self::B512 => 3,
            Self::B4096 => 0,
        }
    }
}

/// Whether blocks get space when they are written, or had it from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provisioning {
    /// Fully provisioned: UNMAP does not exist here.
    Full,
    /// Thin: unmapped blocks read as zeros and give their space back in multiples of this many blocks.
    Thin {
        /// OPTIMAL UNMAP GRANULARITY of page B0h, at least one.
        unmap_granularity_blocks: u32,
    },
}

/// Size and shape of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Length of a logical block.
    pub block_size: BlockSize,
    /// Number of logical blocks, at least one.
    pub blocks: u64,
    /// Thin or not.
    pub provisioning: Provisioning,
    /// WRITE ATOMIC exists: a journal makes each command of the volume whole at a power loss.
    pub atomic: bool,
}

impl Geometry {
    /// True when UNMAP and its relatives exist.
    #[must_use]
    pub fn is_thin(&self) -> bool {
        match self.provisioning {
            Provisioning::Full => false,
            Provisioning::Thin { .. } => true,
        }
    }

    /// MAXIMUM TRANSFER LENGTH of page B0h.
    #[must_use]
    pub fn max_transfer_blocks(&self) -> u32 {
        MAX_TRANSFER_BYTES / self.block_size.bytes()
    }

    /// MAXIMUM ATOMIC TRANSFER LENGTH of page B0h, where there is WRITE ATOMIC: what its field can say, or one transfer. Zero elsewhere.
    #[must_use]
    pub fn max_atomic_blocks(&self) -> u32 {
        if self.atomic { self.max_transfer_blocks().min(u32::from(u16::MAX)) } else { 0 }
    }

    /// The most blocks of one VERIFY without data.
    #[must_use]
    pub fn max_verify_blocks(&self) -> u32 {
        MAX_VERIFY_BYTES / self.block_size.bytes()
    }

    /// OPTIMAL TRANSFER LENGTH of page B0h.
    #[must_use]
    pub fn optimal_transfer_blocks(&self) -> u32 {
        OPTIMAL_TRANSFER_BYTES / self.block_size.bytes()
    }

    /// MAXIMUM WRITE SAME LENGTH of page B0h.
    #[must_use]
    pub fn max_write_same_blocks(&self) -> u32 {
        MAX_WRITE_SAME_BYTES / self.block_size.bytes()
    }

    /// The range inside this volume, or what to tell the initiator.
    pub(crate) fn range(&self, start: Lba, blocks: u64) -> Result<BlockRange, Sense> {
        BlockRange::within(start, blocks, self.blocks).ok_or(Sense::LBA_OUT_OF_RANGE)
    }

    /// Reads the parameter list of UNMAP (SBC-3, 5.28): the ranges to unmap in the order given, empty ones left out.
    ///
    /// ```text
    /// 0-1 length of what follows   2-3 length of the descriptors   8- descriptors: LBA (8), number of blocks (4), reserved (4)
    /// ```
    pub(crate) fn parse_unmap(&self, list: &[u8]) -> Result<Vec<BlockRange>, Sense> {
        if list.is_empty() {
            return Ok(Vec::new());
        }
        let descriptors = list.get(UNMAP_HEADER_BYTES..).ok_or(Sense::PARAMETER_LIST_LENGTH)?;
        // A descriptor that the length cuts in two does not count; one that the *list* cuts in two is an error.
        let named = usize::from(wire::u16_at(list, 2)) / UNMAP_DESCRIPTOR_BYTES;
        let (descriptors, _) = descriptors.as_chunks::<UNMAP_DESCRIPTOR_BYTES>();
        let descriptors = descriptors.get(..named).ok_or(Sense::PARAMETER_LIST_LENGTH)?;
        if u32::try_from(named).map_or(true, |count| count > MAX_UNMAP_DESCRIPTORS) {
            return Err(Sense::invalid_field_in_parameters(2));
        }
        let mut total_blocks = 0_u64;
        let mut ranges = Vec::with_capacity(named);
        for descriptor in descriptors {
            let blocks = u64::from(wire::u32_at(descriptor, 8));
            total_blocks += blocks;
            if total_blocks > u64::from(MAX_UNMAP_BLOCKS) {
                return Err(Sense::invalid_field_in_parameters(UNMAP_FIRST_COUNT));
            }
            if blocks > 0 {
                ranges.push(self.range(Lba(wire::u64_at(descriptor, 0)), blocks)?);
            }
        }
        Ok(ranges)
    }
}

const UNMAP_HEADER_BYTES: usize = 8;
const UNMAP_DESCRIPTOR_BYTES: usize = 16;
/// Where the first descriptor has its number of blocks.
const UNMAP_FIRST_COUNT: u16 = 16;

const _: () =
    assert!(1 << BlockSize::B512.physical_exponent() == PHYSICAL_BLOCK_BYTES / BlockSize::B512.bytes());
const _: () =
    assert!(1 << BlockSize::B4096.physical_exponent() == PHYSICAL_BLOCK_BYTES / BlockSize::B4096.bytes());

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VOLUME: Geometry = Geometry {
        block_size: BlockSize::B512,
        blocks: 4 << 20,
        provisioning: Provisioning::Thin { unmap_granularity_blocks: 8 },
        atomic: false,
    };

    fn list(descriptors: &[(u64, u32)]) -> Vec<u8> {
        let bytes = u16::try_from(descriptors.len() * 16).unwrap();
        let mut list = Vec::new();
        list.extend((bytes + 6).to_be_bytes());
        list.extend(bytes.to_be_bytes());
        list.extend([0; 4]);
        for (lba, blocks) in descriptors {
            list.extend(lba.to_be_bytes());
            list.extend(blocks.to_be_bytes());
            list.extend([0; 4]);
        }
        list
    }

    #[test]
    fn ranges_come_back_in_order_without_the_empty_ones() {
        let ranges = VOLUME.parse_unmap(&list(&[(8, 16), (1, 0), (0, 1)])).unwrap();
        assert_eq!(
            ranges,
            [BlockRange { start: Lba(8), blocks: 16 }, BlockRange { start: Lba(0), blocks: 1 }]
        );
        assert_eq!(VOLUME.parse_unmap(&list(&[])), Ok(Vec::new()));
        assert_eq!(VOLUME.parse_unmap(&[]), Ok(Vec::new()));
    }

    #[test]
    fn a_list_cut_short_is_a_length_error() {
        assert_eq!(VOLUME.parse_unmap(&[0; 7]), Err(Sense::PARAMETER_LIST_LENGTH));
        let whole = list(&[(8, 16), (32, 16)]);
        assert_eq!(VOLUME.parse_unmap(&whole[..39]), Err(Sense::PARAMETER_LIST_LENGTH));
    }

    #[test]
    fn the_limits_that_page_b0_shows_are_enforced() {
        let many: Vec<(u64, u32)> = (0..256).map(|index| (index * 8, 8)).collect();
        assert_eq!(VOLUME.parse_unmap(&list(&many)).unwrap().len(), 256);
        let more: Vec<(u64, u32)> = (0..257).map(|index| (index * 8, 8)).collect();
        assert_eq!(VOLUME.parse_unmap(&list(&more)), Err(Sense::invalid_field_in_parameters(2)));
        assert!(VOLUME.parse_unmap(&list(&[(0, MAX_UNMAP_BLOCKS)])).is_ok());
        assert_eq!(
            VOLUME.parse_unmap(&list(&[(0, MAX_UNMAP_BLOCKS), (0, 1)])),
            Err(Sense::invalid_field_in_parameters(16))
        );
    }

    #[test]
    fn a_range_past_the_end_names_no_block_at_all() {
        let beyond = list(&[(0, 8), ((4 << 20) - 1, 2)]);
        assert_eq!(VOLUME.parse_unmap(&beyond), Err(Sense::LBA_OUT_OF_RANGE));
        assert_eq!(VOLUME.parse_unmap(&list(&[(u64::MAX, 8)])), Err(Sense::LBA_OUT_OF_RANGE));
    }

    proptest! {
        #[test]
        fn any_bytes_give_ranges_inside_the_volume_or_an_error(list in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(ranges) = VOLUME.parse_unmap(&list) {
                for range in ranges {
                    prop_assert!(!range.is_empty() && range.start.0 + range.blocks <= VOLUME.blocks);
                }
            }
        }
    }
}
