//! Every byte on a relay: the LUNs of a third-party target over which one array hands its journal to another (promises
//! X1 to X4, `004_…`). Format version 1, little-endian, in blocks of 4096 bytes.
//!
//! Three LUNs: the *journal LUN* and the *first control LUN* are written by the first array alone, the *second control
//! LUN* by the second alone. Block 0 of each is its [`Label`].
//!
//! ```text
//! journal LUN   label | batch | batch | … to the end, then again from block 1
//! control LUN   label | slot 0: 8 blocks | slot 1: 8 blocks, written in turn
//! ```
//!
//! A batch is one block of [`Batch`] and behind it, in whole blocks, the answer to a journal read. It never passes the
//! end of the LUN: what does not fit begins at block 1, and a reader that finds no successor behind a batch looks there.
//! A batch is believed only where it continues a chain: incarnation, sequence number, the block it lies in, and the
//! checksum of the batch before. So neither a batch of the previous lap, nor one of another chain, nor a part of one is
//! ever taken for the next; and a reader goes on past what the control information names.
//!
//! | offset | bytes | [`Label`] |
//! |---|---|---|
//! | 0 | 8 | magic `HFRELAYL` |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | which LUN: 1 journal, 2 first control, 3 second control |
//! | 16 | 12 | [`RelayId`]: first array 4, group there 4, second array 4 |
//! | 28 | 4064 | zeros |
//! | 4092 | 4 | CRC-32C |
//!
//! | offset | bytes | [`Batch`] |
//! |---|---|---|
//! | 0 | 8 | magic `HFRELAYB` |
//! | 8 | 4 | version |
//! | 12 | 4 | blocks of the answer behind it, 1 to [`MAX_PAYLOAD_BLOCKS`] |
//! | 16 | 16 | incarnation of the chain |
//! | 32 | 12 | [`RelayId`] |
//! | 44 | 4 | CRC-32C of the answer, all its blocks |
//! | 48 | 8 | sequence number, from 1 |
//! | 56 | 8 | block in which this lies |
//! | 64 | 8 | first update number |
//! | 72 | 8 | last update number |
//! | 80 | 16 | generation of the last update: counter 4, array 4, first number 8 |
//! | 96 | 8 | wall clock of the first array, ns since 1970; shown, never compared |
//! | 104 | 4 | CRC-32C of the batch before (its last four bytes); 0 in the first one |
//! | 108 | 3984 | zeros |
//! | 4092 | 4 | CRC-32C |
//!
//! | offset | bytes | [`FirstControl`] |
//! |---|---|---|
//! | 0 | 8 | magic `HFRELAY1` |
//! | 8 | 4 | version |
//! | 12 | 4 | bytes of what stands behind this block, at most 7 blocks |
//! | 16 | 16 | incarnation |
//! | 32 | 12 | [`RelayId`] |
//! | 44 | 4 | CRC-32C of what stands behind it |
//! | 48 | 8 | sequence number; the higher of the two slots counts |
//! | 56 | 8 | blocks of the journal LUN that are in use, label included |
//! | 64 | 28 | [`Position`] of the oldest batch: block 8, sequence 8, number 8, CRC-32C of the one before 4 |
//! | 92 | 28 | [`Position`] behind the newest batch |
//! | 120 | 8 | wall clock |
//! | 128 | 8 | the second array's question that is answered, 0: none; then whether hosts wait for the relay, 0 or 1: 4 |
//! | 140 | 4 | for so many ms from that question on the second array is synchronised; 0: it is not |
//! | 144 | 4 | which journals are in the chain: 0 all, 1 a part, the others are on other relays |
//! | 148 | 4 | whether later control information goes over the link while that is up, 0 or 1 |
//! | 152 | 4 | of relays with parts: so many the second array has to reach for that time to count |
//! | 156 | 4 | whether another chain is kept on the journal LUN, 0 or 1; if 0, zeros follow |
//! | 160 | 24 | that one ([`Kept`]): incarnation 16, blocks of the journal LUN that it uses 8 |
//! | 184 | 56 | its [`Position`]s: of the oldest batch, and behind the newest |
//! | 240 | 3852 | zeros |
//! | 4092 | 4 | CRC-32C; then the answer to JOURNAL INFORMATION |
//!
//! | offset | bytes | [`SecondControl`] |
//! |---|---|---|
//! | 0 | 8 | magic `HFRELAY2` |
//! | 8 | 4 | version |
//! | 12 | 4 | zeros |
//! | 16 | 16 | incarnation of the chain that was read last |
//! | 32 | 12 | [`RelayId`] |
//! | 44 | 4 | zeros |
//! | 48 | 8 | sequence number |
//! | 56 | 32 | where the second array is: durable 8, restored 8, settled 8, consistent from 8 |
//! | 88 | 16 | generation of its newest update: counter 4, array 4, first number 8 |
//! | 104 | 8 | wall clock |
//! | 112 | 8 | number of its newest question whether it is synchronised, 0: none |
//! | 120 | 3972 | zeros |
//! | 4092 | 4 | CRC-32C |

pub use super::relay_control::{FirstControl, Has, Hosts, Kept, SecondControl};
pub use super::relay_ring::RelayRing;

use super::bytes::{Reader, Writer, unseal};
use super::{BLOCK_LENGTH, FormatError, VERSION};
use crate::number::{ArrayNumber, Generation, GroupNumber, Incarnation, UpdateNumber};
use alloc::vec::Vec;

/// Blocks of the largest answer: the largest write and 64 KiB.
pub const MAX_PAYLOAD_BLOCKS: u32 = 1_040;
/// Blocks of a slot of control information.
pub const SLOT_BLOCKS: u64 = 8;
/// Blocks of a control LUN that are used: the label and two slots.
pub const CONTROL_BLOCKS: u64 = 1 + 2 * SLOT_BLOCKS;
/// Bytes that may stand behind the control information of the first array.
pub const MAX_INFORMATION_BYTES: usize = 7 * BLOCK_LENGTH;
/// Blocks of the smallest journal LUN: 1 MiB.
pub const MIN_JOURNAL_BLOCKS: u64 = 256;
/// The first block behind the label.
pub const FIRST_BLOCK: u64 = 1;
/// The most updates of a batch.
pub const MAX_BATCH_UPDATES: u64 = 4_096;

/// Who hands what to whom over a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayId {
    /// The array whose journal it is.
    pub first: ArrayNumber,
    /// The group's number there.
    pub group: GroupNumber,
    /// The array that reads it.
    pub second: ArrayNumber,
}

/// Which LUN of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayLun {
    /// Batches.
    Journal,
    /// Control information of the first array.
    First,
    /// Control information of the second array.
    Second,
}

/// What a LUN is for. Whoever may write it writes its label before anything else, and only into a block of zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Which LUN it is.
    pub lun: RelayLun,
    /// For whom.
    pub id: RelayId,
}

/// The head of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The chain that it belongs to.
    pub incarnation: Incarnation,
    /// For whom.
    pub id: RelayId,
    /// Place in the chain, from 1.
    pub sequence: u64,
    /// Block in which this lies.
    pub place: u64,
    /// First update in it.
    pub first: UpdateNumber,
    /// Last update in it.
    pub last: UpdateNumber,
    /// Generation of the last update.
    pub generation: Generation,
    /// When it was made, ns since 1970 by the first array's clock.
    pub wall_ns: u64,
    /// Blocks behind it.
    pub payload_blocks: u32,
    /// Their checksum.
    pub payload_crc: u32,
    /// Checksum of the batch before.
    pub previous_hash: u32,
}

/// A place between two batches of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Block in which the next batch is looked for first.
    pub place: u64,
    /// Sequence number of the next batch.
    pub sequence: u64,
    /// The lowest number that the next batch may begin with.
    pub number: UpdateNumber,
    /// Checksum of the batch before.
    pub previous_hash: u32,
}

impl Position {
    /// The beginning of a chain whose first batch begins with `number` or later.
    #[must_use]
    pub fn start(number: UpdateNumber) -> Self {
        Self { place: FIRST_BLOCK, sequence: 1, number, previous_hash: 0 }
    }

    /// The same, at another place than the front of the LUN.
    #[must_use]
    pub fn start_at(place: u64, number: UpdateNumber) -> Self {
        Self { place, ..Self::start(number) }
    }

    /// Blocks in which the next batch may lie, on a journal LUN of so many blocks.
    #[must_use]
    pub fn candidates(&self, journal_blocks: u64) -> [Option<u64>; 2] {
        let here = (self.place < journal_blocks).then_some(self.place);
        let is_near_end = self.place.saturating_add(u64::from(MAX_PAYLOAD_BLOCKS)) >= journal_blocks;
        [here, Some(FIRST_BLOCK).filter(|first| is_near_end && *first != self.place)]
    }

    /// Whether the batch is the next one of this chain.
    #[must_use]
    pub fn is_followed_by(&self, batch: &Batch, chain: (Incarnation, RelayId), journal_blocks: u64) -> bool {
        let end = batch.end();
        (batch.incarnation, batch.id) == chain
            && batch.sequence == self.sequence
            && batch.previous_hash == self.previous_hash
            && batch.first >= self.number
            && end <= journal_blocks
            && self.candidates(journal_blocks).contains(&Some(batch.place))
    }

    /// The place behind that batch, whose checksum is `hash`.
    #[must_use]
    pub fn behind(batch: &Batch, hash: u32) -> Self {
        Self {
            place: batch.end(),
            sequence: batch.sequence.saturating_add(1),
            number: batch.last.next(),
            previous_hash: hash,
        }
    }

    pub(super) fn put(&self, out: &mut Writer<'_>) {
        out.u64(self.place).u64(self.sequence).u64(self.number.get()).u32(self.previous_hash);
    }

    pub(super) fn take(input: &mut Reader<'_>) -> Result<Self, FormatError> {
        let position = Self {
            place: input.u64()?,
            sequence: input.u64()?,
            number: UpdateNumber::new(input.u64()?),
            previous_hash: input.u32()?,
        };
        if position.place < FIRST_BLOCK || position.sequence == 0 {
            return Err(FormatError::Reserved);
        }
        Ok(position)
    }
}

impl Label {
    /// The block.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut block = Vec::new();
        let mut out = Writer::new(&mut block, BLOCK_LENGTH);
        out.put(LABEL_MAGIC).u32(VERSION).u32(match self.lun {
            RelayLun::Journal => 1,
            RelayLun::First => 2,
            RelayLun::Second => 3,
        });
        put_id(&mut out, self.id);
        out.pad_to(SEALED_LENGTH);
        out.seal();
        block
    }

    /// Reads the block.
    ///
    /// # Errors
    /// It is no label of this version.
    pub fn decode(block: &[u8]) -> Result<Self, FormatError> {
        let (mut input, _) = open(block, LABEL_MAGIC)?;
        let lun = match input.u32()? {
            1 => RelayLun::Journal,
            2 => RelayLun::First,
            3 => RelayLun::Second,
            _ => return Err(FormatError::Reserved),
        };
        let id = take_id(&mut input)?;
        input.reserved(SEALED_LENGTH - 28)?;
        Ok(Self { lun, id })
    }
}

impl Batch {
    /// The block behind it all.
    fn end(&self) -> u64 {
        self.place.saturating_add(1).saturating_add(u64::from(self.payload_blocks))
    }

    /// The block, and its checksum.
    #[must_use]
    pub fn encode(&self) -> (Vec<u8>, u32) {
        let mut block = Vec::new();
        let mut out = Writer::new(&mut block, BLOCK_LENGTH);
        out.put(BATCH_MAGIC).u32(VERSION).u32(self.payload_blocks);
        out.put(&self.incarnation.get().to_le_bytes());
        put_id(&mut out, self.id);
        out.u32(self.payload_crc).u64(self.sequence).u64(self.place);
        out.u64(self.first.get()).u64(self.last.get());
        put_generation(&mut out, self.generation);
        out.u64(self.wall_ns).u32(self.previous_hash);
        out.pad_to(SEALED_LENGTH);
        let hash = out.seal();
        (block, hash)
    }

    /// Reads the block; and its checksum. Whether it is the one that is looked for, [`Position::is_followed_by`] says.
    ///
    /// # Errors
    /// It is no head of a batch that a correct array writes.
    pub fn decode(block: &[u8]) -> Result<(Self, u32), FormatError> {
        let (mut input, hash) = open(block, BATCH_MAGIC)?;
        let payload_blocks = input.u32()?;
        let incarnation = Incarnation::new(input.u128()?);
        let id = take_id(&mut input)?;
        let payload_crc = input.u32()?;
        let (sequence, place) = (input.u64()?, input.u64()?);
        let (first, last) = (UpdateNumber::new(input.u64()?), UpdateNumber::new(input.u64()?));
        let generation = take_generation(&mut input)?;
        let (wall_ns, previous_hash) = (input.u64()?, input.u32()?);
        input.reserved(SEALED_LENGTH - 108)?;
        if payload_blocks == 0 || payload_blocks > MAX_PAYLOAD_BLOCKS {
            return Err(FormatError::Length);
        }
        let is_ordered =
            first != UpdateNumber::NONE && first <= last && last.since(first) < MAX_BATCH_UPDATES;
        if !is_ordered || sequence == 0 || place < FIRST_BLOCK {
            return Err(FormatError::Reserved);
        }
        let batch = Self {
            incarnation,
            id,
            sequence,
            place,
            first,
            last,
            generation,
            wall_ns,
            payload_blocks,
            payload_crc,
            previous_hash,
        };
        Ok((batch, hash))
    }
}

const LABEL_MAGIC: &[u8; 8] = b"HFRELAYL";
const BATCH_MAGIC: &[u8; 8] = b"HFRELAYB";
pub(super) const FIRST_MAGIC: &[u8; 8] = b"HFRELAY1";
pub(super) const SECOND_MAGIC: &[u8; 8] = b"HFRELAY2";
pub(super) const SEALED_LENGTH: usize = BLOCK_LENGTH - 4;
/// Blocks of the largest journal LUN that is believed: 2 EiB.
pub(super) const MAX_JOURNAL_BLOCKS: u64 = 1 << 49;

pub(super) fn take_flag(input: &mut Reader<'_>) -> Result<bool, FormatError> {
    match input.u32()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(FormatError::Reserved),
    }
}

pub(super) fn put_id(out: &mut Writer<'_>, id: RelayId) {
    out.u32(id.first.0).u32(id.group.0).u32(id.second.0);
}

pub(super) fn take_id(input: &mut Reader<'_>) -> Result<RelayId, FormatError> {
    Ok(RelayId {
        first: ArrayNumber(input.u32()?),
        group: GroupNumber(input.u32()?),
        second: ArrayNumber(input.u32()?),
    })
}

pub(super) fn put_generation(out: &mut Writer<'_>, generation: Generation) {
    let Generation { counter, array, first } = generation;
    out.u32(counter).u32(array.0).u64(first.get());
}

pub(super) fn take_generation(input: &mut Reader<'_>) -> Result<Generation, FormatError> {
    Ok(Generation {
        counter: input.u32()?,
        array: ArrayNumber(input.u32()?),
        first: UpdateNumber::new(input.u64()?),
    })
}

/// What stands behind magic and version of a sealed block, and its checksum.
pub(super) fn open<'a>(block: &'a [u8], magic: &[u8; 8]) -> Result<(Reader<'a>, u32), FormatError> {
    if block.len() != BLOCK_LENGTH {
        return Err(FormatError::TooShort);
    }
    let mut input = Reader::new(block);
    if input.take::<8>()? != *magic {
        return Err(FormatError::Magic);
    }
    let (covered, hash) = unseal(block)?;
    let mut input = Reader::new(covered);
    input.slice(8)?;
    match input.u32()? {
        VERSION => Ok((input, hash)),
        version => Err(FormatError::Version(version)),
    }
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
