//! The blocks of the map log, and where they lie.
//!
//! The log is an area at the head of the parity group: two halves, each a row of *places* of 8 KiB. A place holds one
//! block of 4096 bytes twice, so that a single bad block never costs a statement that was believed durable: the very
//! last block of a log has no successor that could testify that it once was there.
//!
//! ```text
//!  place 0 of a half: its head          places 1..=s: snapshot          places s+1..: log, appended
//!
//!  block, all numbers little-endian
//!   at  bytes  field
//!    0      8  magic "HFMAPLOG"
//!    8      2  version, 2; 1 is read too
//!   10      1  kind: 1 head, 2 records
//!   11      1  1: what is stated here counts only with the next block (not in version 1)
//!   12      2  records in this block (head: 0)
//!   14      2  zero
//!   16     16  identity of the parity group
//!   32      8  generation of the half
//!   40      8  place in the half (its sequence number)
//!   48      8  every place up to this one was durable when this block was written
//!   56      4  checksum of the block in the place before (0 in the head and in place 1): leftovers never chain on
//!   60      4  CRC-32C of the block with this field zero
//!   64   4032  84 records of 48 bytes; or the head's fields:
//!   64      4  state: 1 current, 2 retired
//!   68      4  extents of the parity group
//!   72      8  places of the snapshot
//!   80      8  successor: generation of the half that took over (retired), else 0
//!   88      8  bytes of the whole area
//! ```
//!
//! **Size.** A half holds the largest snapshot there can be (one record an extent, one a volume) and as much again for
//! appending, so that a snapshot is written at most once for each time its own size was logged. With two copies that is
//! 192 bytes for each MiB in each half: 0.04 % of a large parity group, and 2 MiB of a small one.

use super::map::{EXTENT_BYTES, VOLUMES_MAX};
use super::record::{RECORD_BYTES, Record};
use crate::disk::slot::SLOT_BYTES;
use crc_fast::CrcAlgorithm;

/// Records of a block.
pub(crate) const RECORDS_PER_PLACE: usize = (SLOT_BYTES - HEADER_BYTES) / RECORD_BYTES;
/// Bytes of a place: one block, twice.
pub(crate) const PLACE_BYTES: u64 = 2 * SLOT_BYTES as u64;

/// Where the log and the extents lie in a parity group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Layout {
    /// Bytes of one half.
    pub(crate) half_bytes: u64,
    /// Extents behind the two halves.
    pub(crate) extents: u32,
}

impl Layout {
    /// The layout of a parity group of this capacity; `None` if there is no room for one extent.
    pub(crate) fn of(capacity_bytes: u64) -> Option<Self> {
        let most_extents = capacity_bytes / EXTENT_BYTES;
        let records = most_extents + VOLUMES_MAX as u64;
        let snapshot_places = records.div_ceil(RECORDS_PER_PLACE as u64);
        let half_bytes = ((2 * snapshot_places + 1) * PLACE_BYTES).next_multiple_of(EXTENT_BYTES);
        let extents = most_extents.checked_sub(2 * (half_bytes / EXTENT_BYTES))?;
        let extents = u32::try_from(extents).ok().filter(|extents| *extents > 0)?;
        Some(Self { half_bytes, extents })
    }

    /// Places of a half.
    pub(crate) fn places(&self) -> u64 {
        self.half_bytes / PLACE_BYTES
    }

    /// Where a place lies in the parity group.
    pub(crate) fn place_bytes(&self, half: Half, place: u64) -> u64 {
        half.number() * self.half_bytes + place * PLACE_BYTES
    }

    /// Where a page of an extent of the group lies.
    pub(crate) fn page_bytes(&self, physical: u32, page: u64) -> u64 {
        2 * self.half_bytes + u64::from(physical) * EXTENT_BYTES + page * SLOT_BYTES as u64
    }
}

/// One of the two halves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Half {
    A,
    B,
}

impl Half {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    fn number(self) -> u64 {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }
}

/// What a block says about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stamp {
    pub(crate) identity: u128,
    pub(crate) generation: u64,
    pub(crate) place: u64,
    pub(crate) durable_place: u64,
    pub(crate) previous: u32,
    /// The commit goes on in the next place: without that one it is void.
    pub(crate) goes_on: bool,
}

/// A head's own fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Head {
    pub(crate) successor: Option<u64>,
    pub(crate) extents: u32,
    pub(crate) snapshot_places: u64,
    pub(crate) area_bytes: u64,
    /// How often the control store had been opened when it was written; 0: nobody counted.
    pub(crate) opened_as: u64,
}

/// A block that passed its checksum.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Block {
    pub(crate) stamp: Stamp,
    pub(crate) checksum: u32,
    pub(crate) body: Body,
}

/// What it carries.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Body {
    Head(Head),
    Records(Vec<Record>),
}

/// What stands in a block.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Found {
    /// Never written.
    Blank,
    /// No block: torn, damaged or something else's.
    Bad,
    /// A block.
    Block(Block),
}

/// Fills `bytes` and returns the block's checksum.
pub(crate) fn encode(stamp: &Stamp, body: &Body, bytes: &mut [u8; SLOT_BYTES]) -> u32 {
    bytes.fill(0);
    bytes[0..8].copy_from_slice(MAGIC);
    bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..32].copy_from_slice(&stamp.identity.to_le_bytes());
    bytes[32..40].copy_from_slice(&stamp.generation.to_le_bytes());
    bytes[40..48].copy_from_slice(&stamp.place.to_le_bytes());
    bytes[48..56].copy_from_slice(&stamp.durable_place.to_le_bytes());
    bytes[56..60].copy_from_slice(&stamp.previous.to_le_bytes());
    bytes[11] = u8::from(stamp.goes_on);
    match body {
        Body::Head(head) => {
            bytes[10] = KIND_HEAD;
            let state: u32 = if head.successor.is_some() { 2 } else { 1 };
            bytes[64..68].copy_from_slice(&state.to_le_bytes());
            bytes[68..72].copy_from_slice(&head.extents.to_le_bytes());
            bytes[72..80].copy_from_slice(&head.snapshot_places.to_le_bytes());
            bytes[80..88].copy_from_slice(&head.successor.unwrap_or(0).to_le_bytes());
            bytes[88..96].copy_from_slice(&head.area_bytes.to_le_bytes());
            bytes[96..104].copy_from_slice(&head.opened_as.to_le_bytes());
        }
        Body::Records(records) => {
            bytes[10] = KIND_RECORDS;
            let count = u16::try_from(records.len()).expect("at most RECORDS_PER_PLACE");
            bytes[12..14].copy_from_slice(&count.to_le_bytes());
            for (to, record) in bytes[HEADER_BYTES..].chunks_exact_mut(RECORD_BYTES).zip(records) {
                to.copy_from_slice(&record.encode());
            }
        }
    }
    let sum = block_checksum(bytes);
    bytes[60..64].copy_from_slice(&sum.to_le_bytes());
    sum
}

/// Reads a block. A block with a good checksum and impossible content is `Err`: that is not damage by the device but a
/// version or a program that we do not know.
pub(crate) fn decode(bytes: &[u8; SLOT_BYTES]) -> Result<Found, String> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(Found::Blank);
    }
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
    let sum = u32_at(60);
    if bytes[0..8] != *MAGIC || sum != block_checksum(bytes) {
        return Ok(Found::Bad);
    }
    let version = u16::from_le_bytes([bytes[8], bytes[9]]);
    let goes_on = match (version, bytes[11]) {
        (1 | VERSION, 0) => false,
        (VERSION, 1) => true,
        (1 | VERSION, other) => return Err(format!("a block of the map log has unknown flags {other:#x}")),
        _ => return Err(format!("the map log has version {version}, this program knows 1 to {VERSION}")),
    };
    let stamp = Stamp {
        identity: u128::from(u64_at(16)) | u128::from(u64_at(24)) << 64,
        generation: u64_at(32),
        place: u64_at(40),
        durable_place: u64_at(48),
        previous: u32_at(56),
        goes_on,
    };
    let body = match (bytes[10], u32_at(64)) {
        (KIND_HEAD, state @ (1 | 2)) => Body::Head(Head {
            successor: (state == 2).then(|| u64_at(80)),
            extents: u32_at(68),
            snapshot_places: u64_at(72),
            area_bytes: u64_at(88),
            opened_as: u64_at(96),
        }),
        (KIND_RECORDS, _) => {
            let count = usize::from(u16::from_le_bytes([bytes[12], bytes[13]]));
            if count > RECORDS_PER_PLACE {
                return Err(format!("a block of the map log claims {count} records"));
            }
            let records = bytes[HEADER_BYTES..].chunks_exact(RECORD_BYTES).take(count);
            let records = records.map(|record| Record::decode(record.try_into().expect("exact chunks")));
            Body::Records(records.collect::<Result<_, _>>()?)
        }
        (kind, _) => return Err(format!("a block of the map log has unknown kind {kind}")),
    };
    Ok(Found::Block(Block { stamp, checksum: sum, body }))
}

/// Makes a block one of another version, behind another block, for tests; its new checksum.
#[cfg(test)]
pub(crate) fn rewrite(bytes: &mut [u8; SLOT_BYTES], version: u16, previous: u32) -> u32 {
    bytes[8..10].copy_from_slice(&version.to_le_bytes());
    bytes[56..60].copy_from_slice(&previous.to_le_bytes());
    let sum = block_checksum(bytes);
    bytes[60..64].copy_from_slice(&sum.to_le_bytes());
    sum
}

fn block_checksum(bytes: &[u8; SLOT_BYTES]) -> u32 {
    let mut digest = crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(&bytes[..60]);
    digest.update(&[0; 4]);
    digest.update(&bytes[64..]);
    u32::try_from(digest.finalize()).expect("a CRC of 32 bits")
}

const MAGIC: &[u8; 8] = b"HFMAPLOG";
const VERSION: u16 = 2;
const KIND_HEAD: u8 = 1;
const KIND_RECORDS: u8 = 2;
const HEADER_BYTES: usize = 64;
const _: () = assert!(RECORDS_PER_PLACE == 84 && HEADER_BYTES + 84 * RECORD_BYTES == SLOT_BYTES);
