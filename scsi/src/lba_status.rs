//! The answer to GET LBA STATUS (SBC-4, 5.8): which blocks have space behind them.

use alloc::vec::Vec;

use crate::block::BlockRange;
use crate::status::Response;

/// Blocks that are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LbaStatus {
    /// Which; not empty.
    pub range: BlockRange,
    /// They have space behind them. Others read as zeros.
    pub is_mapped: bool,
}

/// How many descriptors an answer of so many bytes can hold: at least one, at most `MAX_DESCRIPTORS`.
#[must_use]
pub fn lba_status_room(allocation_length: u32) -> usize {
    let room = allocation_length.saturating_sub(HEADER_BYTES) / DESCRIPTOR_BYTES;
    usize::try_from(room).unwrap_or(usize::MAX).clamp(1, MAX_DESCRIPTORS)
}

/// The parameter data. A range of more blocks than a descriptor can say is cut, and then has to be the last.
///
/// ```text
/// 0-3 length of what follows   8- descriptors: block (8), number of blocks (4), status (0 mapped, 1 deallocated), 3 reserved
/// ```
#[must_use]
pub fn lba_status(descriptors: &[LbaStatus], allocation_length: u32) -> Response {
    let descriptors = descriptors.get(..MAX_DESCRIPTORS).unwrap_or(descriptors);
    let mut data = Vec::with_capacity(8 + 16 * descriptors.len());
    data.extend([0; 8]);
    for LbaStatus { range, is_mapped } in descriptors {
        data.extend(range.start.0.to_be_bytes());
        data.extend(u32::try_from(range.blocks).unwrap_or(u32::MAX).to_be_bytes());
        data.extend([u8::from(!is_mapped), 0, 0, 0]);
    }
    let follows = u32::try_from(data.len() - 4).unwrap_or(0);
    crate::wire::put(&mut data, 0, &follows.to_be_bytes());
    Response::data(data, allocation_length)
}

const HEADER_BYTES: u32 = 8;
const DESCRIPTOR_BYTES: u32 = 16;
/// Descriptors of one answer; an initiator that wants more asks again behind the last.
const MAX_DESCRIPTORS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Lba;

    #[test]
    fn descriptors_follow_the_length() {
        let one = |start, blocks, is_mapped| LbaStatus {
            range: BlockRange { start: Lba(start), blocks },
            is_mapped,
        };
        let data = lba_status(&[one(8, 16, true), one(24, 1 << 40, false)], 255).data_in;
        assert_eq!(data[..8], [0, 0, 0, 36, 0, 0, 0, 0]);
        assert_eq!(data[8..24], [0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 16, 0, 0, 0, 0]);
        assert_eq!(data[24..40], [0, 0, 0, 0, 0, 0, 0, 24, 255, 255, 255, 255, 1, 0, 0, 0]);
        assert_eq!(lba_status(&[one(8, 16, true)], 12).data_in.len(), 12);
    }

    #[test]
    fn room_has_limits() {
        assert_eq!([0, 24, 40, u32::MAX].map(lba_status_room), [1, 1, 2, MAX_DESCRIPTORS]);
    }
}
