//! The first four blocks of a journal volume: superblock and checkpoint.
//!
//! ```text
//! superblock (block 0 and again block 1)          checkpoint (block 2 and block 3 in turn)
//!    0  8  magic "HFJSUPER"                          0  8  magic "HFJCHECK"
//!    8  4  version                                   8  4  version
//!   12  4  block size 4096                          12  4  session
//!   16 16  incarnation                              16 16  incarnation
//!   32  4  array number                             32  8  sequence: the valid slot with the higher one counts
//!   36  4  group number                             40  8  oldest offset held in ring A
//!   40  8  size of ring A                           48  8  oldest offset held in ring B
//!   48  8  size of ring B                           56  8  limit: no record lies at or beyond it in ring A
//!   56  4  layout: 0 two rings, 1 interleaved       64  8  first retained number
//!   60     zeros
//! 4092  4  CRC32C                                   72  8  next number
//!                                                   80  8  flushed
//!                                                   88  8  settled
//!                                                   96  8  first number of the session
//!                                                  104 16  generation
//!                                                  120  4  checksum of the record before the first retained
//!                                                  124  4  length of the caller's bytes
//!                                                  128     the caller's bytes, then zeros
//!                                                 4092  4  CRC32C
//! ```

use super::bytes::{Reader, Writer, unseal};
use super::record::{MAX_BATCH_DATA_BYTES, put_generation, take_generation};
use super::{BLOCK_BYTES, BLOCK_LENGTH, FormatError, HEAD_BLOCKS, VERSION};
use crate::number::{ArrayNumber, Generation, GroupNumber, Incarnation, UpdateNumber};
use crate::ring::Ring;
use alloc::vec::Vec;

/// Bytes of the caller's own in a checkpoint; more are refused.
pub const MAX_EXTRA_BYTES: usize = 3900;
/// The smallest area: a tail, the longest record and a marker always fit beside each other.
pub const MIN_AREA_BLOCKS: u64 = 16;
/// Write data for each byte of update information unless the operator chooses: a 4 KiB write needs a record of 144
/// bytes, 1:28 when commits are full; 1:16 leaves room for commits of few updates.
pub const DEFAULT_RATIO: u32 = 16;
/// A larger ratio would starve ring A.
pub const MAX_RATIO: u32 = 4096;

const SUPERBLOCK_MAGIC: [u8; 8] = *b"HFJSUPER";
const CHECKPOINT_MAGIC: [u8; 8] = *b"HFJCHECK";
const SEALED_LENGTH: usize = BLOCK_LENGTH - 4;
const _: () = assert!(128 + MAX_EXTRA_BYTES <= SEALED_LENGTH);

/// How update information and write data lie on a journal volume (figure 3 and its modification example).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// Each in a ring of its own.
    #[default]
    TwoRings,
    /// In one ring: the update information of a group commit, and behind it the write data of its updates in their order.
    Interleaved,
}

/// How a journal volume is to be formatted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormatParams {
    /// 128 random bits, never used before.
    pub incarnation: Incarnation,
    /// The array that the volume belongs to.
    pub array: ArrayNumber,
    /// The group, by its number there.
    pub group: GroupNumber,
    /// Size of the journal volume; a last partial block is left alone.
    pub volume_bytes: u64,
    /// Where records and write data go.
    pub layout: Layout,
    /// Bytes of write data area for one of update information area, [`DEFAULT_RATIO`] by default; of no meaning where they
    /// are interleaved.
    pub data_per_info: u32,
    /// The number of the first update that will be appended: 1, or where a group that exists goes on.
    pub first: UpdateNumber,
    /// The generation in force.
    pub generation: Generation,
}

/// What never changes while the volume is formatted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Identity of the formatting.
    pub incarnation: Incarnation,
    /// The array that the volume belongs to.
    pub array: ArrayNumber,
    /// The group, by its number there.
    pub group: GroupNumber,
    /// Where records and write data go.
    pub layout: Layout,
    /// Size of the update information area; of the one area where the two are interleaved.
    pub info_bytes: u64,
    /// Size of the write data area; 0 where there is one area.
    pub data_bytes: u64,
}

impl Superblock {
    /// Divides the volume.
    pub fn plan(params: &FormatParams) -> Result<Self, FormatError> {
        if params.data_per_info == 0 || params.data_per_info > MAX_RATIO {
            return Err(FormatError::Ratio);
        }
        let blocks = (params.volume_bytes / BLOCK_BYTES).saturating_sub(HEAD_BLOCKS);
        let parts = u64::from(params.data_per_info).saturating_add(1);
        if blocks < 2 * MIN_AREA_BLOCKS {
            return Err(FormatError::VolumeTooSmall);
        }
        let info_blocks = match params.layout {
            Layout::TwoRings => blocks.checked_div(parts).unwrap_or(0).max(MIN_AREA_BLOCKS),
            Layout::Interleaved => blocks,
        };
        let data_blocks = blocks.saturating_sub(info_blocks);
        Ok(Self {
            incarnation: params.incarnation,
            array: params.array,
            group: params.group,
            layout: params.layout,
            info_bytes: info_blocks.saturating_mul(BLOCK_BYTES),
            data_bytes: data_blocks.saturating_mul(BLOCK_BYTES),
        })
    }

    /// The block.
    pub fn encode(&self) -> Vec<u8> {
        let mut block = Vec::new();
        let mut out = Writer::new(&mut block, BLOCK_LENGTH);
        out.put(&SUPERBLOCK_MAGIC).u32(VERSION).u32(4096).put(&self.incarnation.get().to_le_bytes());
        out.u32(self.array.0).u32(self.group.0).u64(self.info_bytes).u64(self.data_bytes);
        out.u32(match self.layout {
            Layout::TwoRings => 0,
            Layout::Interleaved => 1,
        });
        out.pad_to(SEALED_LENGTH);
        out.seal();
        block
    }

    /// Reads one copy.
    pub fn decode(block: &[u8]) -> Result<Self, FormatError> {
        let mut input = open_block(block, SUPERBLOCK_MAGIC)?;
        if input.u32()? != 4096 {
            return Err(FormatError::Length);
        }
        let superblock = Self {
            incarnation: Incarnation::new(input.u128()?),
            array: ArrayNumber(input.u32()?),
            group: GroupNumber(input.u32()?),
            info_bytes: input.u64()?,
            data_bytes: input.u64()?,
            layout: match input.u32()? {
                0 => Layout::TwoRings,
                1 => Layout::Interleaved,
                _ => return Err(FormatError::Reserved),
            },
        };
        input.reserved(SEALED_LENGTH - 60)?;
        let area_ok = |bytes: u64, blocks_min: u64| {
            bytes.is_multiple_of(BLOCK_BYTES) && bytes / BLOCK_BYTES >= blocks_min
        };
        let areas_ok = match superblock.layout {
            Layout::TwoRings => {
                area_ok(superblock.info_bytes, MIN_AREA_BLOCKS)
                    && area_ok(superblock.data_bytes, MIN_AREA_BLOCKS)
            }
            Layout::Interleaved => {
                area_ok(superblock.info_bytes, 2 * MIN_AREA_BLOCKS) && superblock.data_bytes == 0
            }
        };
        let total = superblock.info_bytes.checked_add(superblock.data_bytes);
        // Half the address space is beyond any volume and keeps every sum of offsets exact.
        let total_ok = total.is_some_and(|total| total < u64::MAX / 2);
        if areas_ok && total_ok { Ok(superblock) } else { Err(FormatError::Length) }
    }

    /// Bytes of the volume that are in use: both areas and what lies before them.
    pub fn volume_bytes(&self) -> u64 {
        (HEAD_BLOCKS * BLOCK_BYTES).saturating_add(self.info_bytes).saturating_add(self.data_bytes)
    }

    /// Write data that one update may have: half the area, so that it always fits into an empty one behind any
    /// padding, and never more than a group commit holds.
    pub fn max_update_data_blocks(&self) -> u64 {
        let most = match self.layout {
            Layout::TwoRings => self.data_bytes / 2,
            // Beside its own record.
            Layout::Interleaved => (self.info_bytes / 2).saturating_sub(2 * BLOCK_BYTES),
        };
        most.min(MAX_BATCH_DATA_BYTES) / BLOCK_BYTES
    }

    pub(crate) fn info_ring(&self) -> Ring {
        Ring::new(HEAD_BLOCKS * BLOCK_BYTES, self.info_bytes)
    }

    /// Where write data lies; the same area as that of the records where the two are interleaved.
    pub(crate) fn data_ring(&self) -> Ring {
        if self.layout == Layout::Interleaved {
            return self.info_ring();
        }
        Ring::new((HEAD_BLOCKS * BLOCK_BYTES).saturating_add(self.info_bytes), self.data_bytes)
    }
}

/// What a restart begins from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointRecord {
    /// The formatting it belongs to.
    pub incarnation: Incarnation,
    /// One more at each restart; records of an earlier session that a restart threw away never count again.
    pub session: u32,
    /// One more at each checkpoint.
    pub sequence: u64,
    /// Monotonic offset in ring A of the oldest record that is held.
    pub info_oldest: u64,
    /// Monotonic offset in ring B of the oldest write data that is held.
    pub data_oldest: u64,
    /// No record lies at or beyond this monotonic offset of ring A, so a look-ahead ends here.
    pub info_limit: u64,
    /// Number of the oldest update that is held; the next number if none is.
    pub first_retained: UpdateNumber,
    /// The number behind the highest durable one.
    pub next: UpdateNumber,
    /// The highest durable number.
    pub flushed: UpdateNumber,
    /// Everything up to this is durable in the volumes, as the caller said.
    pub settled: UpdateNumber,
    /// Numbers from here on belong to this session.
    pub session_first: UpdateNumber,
    /// The generation in force.
    pub generation: Generation,
    /// Checksum of the record before the oldest that is held.
    pub previous_hash: u32,
    /// The caller's own bytes.
    pub extra: Vec<u8>,
}

impl CheckpointRecord {
    /// The block.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        if self.extra.len() > MAX_EXTRA_BYTES {
            return Err(FormatError::ExtraTooLong);
        }
        let extra_length = u32::try_from(self.extra.len()).map_err(|_| FormatError::ExtraTooLong)?;
        let mut block = Vec::new();
        let mut out = Writer::new(&mut block, BLOCK_LENGTH);
        out.put(&CHECKPOINT_MAGIC).u32(VERSION).u32(self.session).put(&self.incarnation.get().to_le_bytes());
        out.u64(self.sequence).u64(self.info_oldest).u64(self.data_oldest).u64(self.info_limit);
        out.u64(self.first_retained.get()).u64(self.next.get()).u64(self.flushed.get());
        out.u64(self.settled.get()).u64(self.session_first.get());
        put_generation(&mut out, self.generation);
        out.u32(self.previous_hash).u32(extra_length).put(&self.extra);
        out.pad_to(SEALED_LENGTH);
        out.seal();
        Ok(block)
    }

    /// Reads one slot.
    pub fn decode(block: &[u8]) -> Result<Self, FormatError> {
        let mut input = open_block(block, CHECKPOINT_MAGIC)?;
        let session = input.u32()?;
        let incarnation = Incarnation::new(input.u128()?);
        let sequence = input.u64()?;
        let info_oldest = input.u64()?;
        let data_oldest = input.u64()?;
        let info_limit = input.u64()?;
        let first_retained = UpdateNumber::new(input.u64()?);
        let next = UpdateNumber::new(input.u64()?);
        let flushed = UpdateNumber::new(input.u64()?);
        let settled = UpdateNumber::new(input.u64()?);
        let session_first = UpdateNumber::new(input.u64()?);
        let generation = take_generation(&mut input)?;
        let previous_hash = input.u32()?;
        let extra_length = usize::try_from(input.u32()?).map_err(|_| FormatError::Length)?;
        if extra_length > MAX_EXTRA_BYTES {
            return Err(FormatError::Length);
        }
        let extra = input.slice(extra_length)?.to_vec();
        input.reserved((SEALED_LENGTH - 128).saturating_sub(extra_length))?;
        let whole_blocks = info_oldest.is_multiple_of(BLOCK_BYTES) && data_oldest.is_multiple_of(BLOCK_BYTES);
        let ordered = first_retained <= next && settled <= flushed && flushed.next() == next;
        if !whole_blocks || !ordered || info_limit < info_oldest {
            return Err(FormatError::Reserved);
        }
        Ok(Self {
            incarnation,
            session,
            sequence,
            info_oldest,
            data_oldest,
            info_limit,
            first_retained,
            next,
            flushed,
            settled,
            session_first,
            generation,
            previous_hash,
            extra,
        })
    }
}

fn open_block(block: &[u8], magic: [u8; 8]) -> Result<Reader<'_>, FormatError> {
    if block.len() != BLOCK_LENGTH {
        return Err(FormatError::TooShort);
    }
    let mut input = Reader::new(block);
    if input.take::<8>()? != magic {
        return Err(FormatError::Magic);
    }
    let version = input.u32()?;
    let (covered, _) = unseal(block)?;
    if version != VERSION {
        return Err(FormatError::Version(version));
    }
    let mut input = Reader::new(covered);
    input.slice(12)?;
    Ok(input)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn superblock() -> Superblock {
        Superblock {
            incarnation: Incarnation::new(0x0102_0304_0506_0708_090A_0B0C_0D0E_0F10),
            array: ArrayNumber(3),
            group: GroupNumber(4),
            layout: Layout::TwoRings,
            info_bytes: 16 * BLOCK_BYTES,
            data_bytes: 256 * BLOCK_BYTES,
        }
    }

    fn checkpoint() -> CheckpointRecord {
        CheckpointRecord {
            incarnation: superblock().incarnation,
            session: 2,
            sequence: 9,
            info_oldest: 3 * BLOCK_BYTES,
            data_oldest: 40 * BLOCK_BYTES,
            info_limit: 19 * BLOCK_BYTES,
            first_retained: UpdateNumber::new(11),
            next: UpdateNumber::new(21),
            flushed: UpdateNumber::new(20),
            settled: UpdateNumber::new(10),
            session_first: UpdateNumber::new(5),
            generation: Generation { counter: 1, array: ArrayNumber(3), first: UpdateNumber::FIRST },
            previous_hash: 0xABCD_EF01,
            extra: vec![7; MAX_EXTRA_BYTES],
        }
    }

    #[test]
    fn superblock_and_checkpoint_decode_to_what_was_encoded() {
        assert_eq!(Superblock::decode(&superblock().encode()), Ok(superblock()));
        for length in [0, 1, MAX_EXTRA_BYTES] {
            let checkpoint = CheckpointRecord { extra: vec![7; length], ..checkpoint() };
            assert_eq!(CheckpointRecord::decode(&checkpoint.encode().unwrap()), Ok(checkpoint));
        }
        let too_long = CheckpointRecord { extra: vec![7; MAX_EXTRA_BYTES + 1], ..checkpoint() };
        assert_eq!(too_long.encode(), Err(FormatError::ExtraTooLong));
    }

    #[test]
    fn every_flipped_byte_of_superblock_and_checkpoint_is_found() {
        let (superblock, checkpoint) = (superblock().encode(), checkpoint().encode().unwrap());
        for position in 0..BLOCK_LENGTH {
            for flip in [0x01, 0x80, 0xFF] {
                let (mut a, mut b) = (superblock.clone(), checkpoint.clone());
                a[position] ^= flip;
                b[position] ^= flip;
                assert!(Superblock::decode(&a).is_err(), "superblock byte {position}");
                assert!(CheckpointRecord::decode(&b).is_err(), "checkpoint byte {position}");
            }
        }
    }

    #[test]
    fn every_subset_of_sectors_of_two_checkpoints_is_one_of_them_or_refused() {
        let (old, new) =
            (checkpoint(), CheckpointRecord { sequence: 11, settled: UpdateNumber::new(12), ..checkpoint() });
        let (old_block, new_block) = (old.encode().unwrap(), new.encode().unwrap());
        for subset in 0_u32..256 {
            let mut block = old_block.clone();
            for sector in (0..8).filter(|sector| subset >> sector & 1 == 1) {
                let range = sector * 512..(sector + 1) * 512;
                block[range.clone()].copy_from_slice(&new_block[range]);
            }
            if let Ok(found) = CheckpointRecord::decode(&block) {
                assert!(found == old || found == new, "subset {subset:08b}");
            }
        }
    }

    #[test]
    fn a_later_version_is_named_and_not_guessed_at() {
        let mut block = superblock().encode();
        block[8] = 2;
        let crc = super::super::crc32c(&block[..SEALED_LENGTH]);
        block[SEALED_LENGTH..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Superblock::decode(&block), Err(FormatError::Version(2)));
    }

    #[test]
    fn a_volume_is_divided_by_the_ratio_and_one_too_small_is_refused() {
        let params = FormatParams {
            incarnation: Incarnation::new(1),
            array: ArrayNumber(1),
            group: GroupNumber(1),
            volume_bytes: 1 << 30,
            layout: Layout::TwoRings,
            data_per_info: DEFAULT_RATIO,
            first: UpdateNumber::FIRST,
            generation: Generation::default(),
        };
        let plan = Superblock::plan(&params).unwrap();
        assert_eq!(plan.volume_bytes(), 1 << 30);
        assert_eq!(plan.data_bytes / plan.info_bytes, 16);
        let smallest = (HEAD_BLOCKS + 2 * MIN_AREA_BLOCKS) * BLOCK_BYTES;
        assert!(Superblock::plan(&FormatParams { volume_bytes: smallest, ..params }).is_ok());
        for volume_bytes in [0, BLOCK_BYTES, smallest - 1] {
            let result = Superblock::plan(&FormatParams { volume_bytes, ..params });
            assert_eq!(result, Err(FormatError::VolumeTooSmall));
        }
        for data_per_info in [0, MAX_RATIO + 1] {
            assert_eq!(Superblock::plan(&FormatParams { data_per_info, ..params }), Err(FormatError::Ratio));
        }
    }
}
