//! What one SCSI command changes: the shape in which every write travels through the array.

use crate::disk::slot::{SLOT_BYTES, Slot, bytes_of};
use crate::disk::{DiskAdapter, Prepared};
use holdfast_journal as journal;
use std::sync::Arc;

/// The change of one command: ranges of one volume, applied together or not at all.
#[derive(Debug)]
pub struct Change {
    /// The volume.
    pub volume: u32,
    /// Its ranges; at most [`journal::MAX_EXTENTS`]. Between two parts with data the first ends and the second begins at
    /// a page.
    pub parts: Vec<Part>,
    /// A power loss may leave all of it or nothing: it is journaled where the copy itself would not need it.
    pub whole: bool,
    /// When the command was made, as another array says that took it from its host; nanoseconds since 1970.
    pub created_ns: Option<u64>,
}

/// One range and what it becomes.
#[derive(Debug)]
pub struct Part {
    /// First byte.
    pub offset_bytes: u64,
    /// How many.
    pub length_bytes: u64,
    /// What they become.
    pub content: Content,
}

/// What a range becomes.
#[derive(Clone, Debug)]
pub enum Content {
    /// The bytes in these pages, the first at `offset_bytes % 4096` of the first page.
    Data(Vec<Slot>),
    /// Zeros.
    Zero,
    /// The page, repeated: it holds a pattern of `bytes` bytes a whole number of times, from its first byte on.
    Pattern {
        /// The page.
        slot: Slot,
        /// Length of the pattern.
        bytes: u32,
    },
}

impl Part {
    /// Data at a place.
    #[must_use]
    pub fn data(offset_bytes: u64, length_bytes: u64, slots: Vec<Slot>) -> Self {
        Self { offset_bytes, length_bytes, content: Content::Data(slots) }
    }

    /// Zeros at a place.
    #[must_use]
    pub fn zero(offset_bytes: u64, length_bytes: u64) -> Self {
        Self { offset_bytes, length_bytes, content: Content::Zero }
    }

    fn extent(&self, volume: u32) -> journal::Extent {
        journal::Extent {
            volume: journal::VolumeNumber(volume),
            start_bytes: self.offset_bytes,
            length_bytes: self.length_bytes,
            content: match self.content {
                Content::Data(_) => journal::Content::Data,
                Content::Zero => journal::Content::Zero,
                Content::Pattern { bytes, .. } => journal::Content::Pattern { bytes },
            },
        }
    }
}

impl Change {
    /// The change of a command of which a power loss may leave a part, if it is not journaled.
    #[must_use]
    pub fn new(volume: u32, parts: Vec<Part>) -> Self {
        Self { volume, parts, whole: false, created_ns: None }
    }

    /// The extents as the journal records them.
    #[must_use]
    pub fn extents(&self) -> Vec<journal::Extent> {
        self.parts.iter().map(|part| part.extent(self.volume)).collect()
    }

    /// The write data as the journal keeps it: pages, the offset of the first byte, how many bytes.
    ///
    /// A pattern is the only part with data of its command (WRITE SAME has one part). Several parts with data (EXTENDED
    /// COPY) meet at page boundaries, so their bytes lie back to back as a record wants them.
    #[must_use]
    pub fn payload(&self) -> Payload {
        if let [Part { offset_bytes, length_bytes, content: Content::Data(slots) }] = self.parts.as_slice() {
            let bytes = u32::try_from(*length_bytes).unwrap_or(u32::MAX);
            return Payload { slots: slots.as_slice().into(), skip: within_page(*offset_bytes), bytes };
        }
        let (mut gathered, mut skip, mut bytes) = (Vec::new(), 0, 0_u32);
        for part in &self.parts {
            match &part.content {
                Content::Data(slots) => {
                    if gathered.is_empty() {
                        skip = within_page(part.offset_bytes);
                    }
                    gathered.extend_from_slice(slots);
                    bytes = bytes.saturating_add(u32::try_from(part.length_bytes).unwrap_or(u32::MAX));
                }
                Content::Pattern { slot, bytes } => {
                    return Payload { slots: [slot.clone()].into(), skip: 0, bytes: *bytes };
                }
                Content::Zero => {}
            }
        }
        Payload { slots: gathered.into(), skip, bytes }
    }
}

/// Write data by handle. Cloning takes one handle, however many pages there are: journal writer and readers do it under
/// the lock of the group.
#[derive(Clone, Debug, Default)]
pub struct Payload {
    /// Whole pages.
    pub slots: Arc<[Slot]>,
    /// Where the first byte lies in the first page.
    pub skip: u16,
    /// How many bytes.
    pub bytes: u32,
}

impl Payload {
    /// The bytes themselves.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = bytes_of(&self.slots);
        bytes.truncate(usize::from(self.skip) + self.bytes as usize);
        bytes.drain(..usize::from(self.skip).min(bytes.len()));
        bytes
    }

    /// Checksum over the bytes themselves, without what surrounds them in their pages: CRC-64/NVME, both halves folded.
    ///
    /// Not CRC-32C: hosts' blocks may end with a CRC-32C of their own, as file systems' and the tests' do, and over data
    /// with its own CRC behind it every CRC of that polynomial is the same. A torn mix of old and new blocks would pass.
    #[must_use]
    pub fn checksum(&self) -> u32 {
        if self.bytes == 0 {
            return 0;
        }
        let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
        let (mut at, mut left) = (usize::from(self.skip), self.bytes as usize);
        for slot in self.slots.iter() {
            let end = SLOT_BYTES.min(at + left);
            digest.update(&slot[at..end]);
            left -= end - at;
            at = 0;
            if left == 0 {
                break;
            }
        }
        let whole = digest.finalize();
        u32::try_from((whole >> 32) ^ (whole & u64::from(u32::MAX))).unwrap_or(0)
    }
}

/// Makes a change visible in the cache. One entry of `prepared` belongs to each part, in order; all are used up.
pub(crate) fn apply(disk: &DiskAdapter, change: &Change, prepared: &mut Vec<Prepared>, gate: u64) {
    for (part, prepared) in change.parts.iter().zip(prepared.drain(..)) {
        match &part.content {
            Content::Data(slots) => disk.apply(prepared, slots, gate),
            Content::Zero => disk.apply_zero(prepared, gate),
            Content::Pattern { slot, .. } => disk.apply_pattern(prepared, slot, gate),
        }
    }
}

/// Where a byte of a volume lies in its page.
#[must_use]
pub fn within_page(offset_bytes: u64) -> u16 {
    u16::try_from(offset_bytes % SLOT_BYTES as u64).expect("a page is smaller than 64 KiB")
}

/// Pages that `length_bytes` bytes at `offset_bytes` touch.
#[must_use]
pub fn pages_touched(offset_bytes: u64, length_bytes: u64) -> usize {
    let pages = (u64::from(within_page(offset_bytes)) + length_bytes).div_ceil(SLOT_BYTES as u64);
    usize::try_from(pages).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::slot::{Class, SlotPool};

    #[test]
    fn data_around_zeros_lies_back_to_back() {
        let pool = SlotPool::new(1 << 20);
        let page = |filling: u8| {
            let mut slot = pool.try_take(Class::Host, 1).unwrap().remove(0);
            slot.fill(filling);
            slot.freeze()
        };
        let parts = vec![
            Part::zero(0, 4096),
            Part::data(4096 + 512, 3584, vec![page(1)]),
            Part::zero(8192, 8192),
            Part::data(16384, 4096 + 512, vec![page(2), page(3)]),
        ];
        let payload = Change::new(7, parts).payload();
        assert_eq!((payload.slots.len(), payload.skip, payload.bytes), (3, 512, 3584 + 4096 + 512));
        let flat: Vec<u8> = payload.slots.iter().flat_map(|slot| slot[..].to_vec()).collect();
        let whole = &flat[512..][..payload.bytes as usize];
        assert!(
            whole[..3584].iter().all(|byte| *byte == 1) && whole[3584 + 4096..].iter().all(|byte| *byte == 3)
        );
    }

    /// A simulated array applied torn write data after a power loss: the sectors carried a CRC-32C each, so every mix of
    /// whole sectors had the checksum of the record.
    #[test]
    fn a_mix_of_blocks_that_carry_their_own_crc_has_another_checksum() {
        let pool = SlotPool::new(1 << 20);
        let block = |filling: u8| {
            let mut block = vec![filling; 512];
            let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &block[..508]);
            block[508..].copy_from_slice(&u32::try_from(crc).unwrap().to_le_bytes());
            block
        };
        let payload = |fillings: [u8; 2]| {
            let mut slot = pool.try_take(Class::Host, 1).unwrap().remove(0);
            slot[..512].copy_from_slice(&block(fillings[0]));
            slot[512..1024].copy_from_slice(&block(fillings[1]));
            Payload { slots: [slot.freeze()].into(), skip: 0, bytes: 1024 }
        };
        let (new, torn, old) =
            (payload([1, 1]).checksum(), payload([1, 2]).checksum(), payload([2, 2]).checksum());
        assert!(new != torn && torn != old && new != old);
    }
}
