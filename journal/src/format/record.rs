//! The record: update information of one update, as it lies in ring A.
//!
//! ```text
//!   0  4  magic "HFUR"
//!   4  4  length of the whole record: 120 + 24 x extents
//!   8  1  kind: 1 host write, 2 initial copy, 3 heartbeat, 4 void, 5 bookmark, 128 marker
//!   9  1  flags: 1 last of the pair, 2 initial-copy data is in ring B (received form)
//!  10  2  extents
//!  12  2  skip: offset of the first data byte in its first block
//!  14  2  index of this record in its group commit
//!  16  2  records in the group commit
//!  18  2  reserved
//!  20  4  session: one more at each restart of the journal
//!  24  8  update number; of a marker: the highest number given
//!  32 16  generation: counter 4, array 4, first number 8
//!  48  8  incarnation, folded to 64 bits
//!  56  8  monotonic offset in ring A of the group commit's first block
//!  64  8  time in nanoseconds since 1970
//!  72  8  flushed: the highest number that was durable before this record was written
//!  80  4  checksum of the previous record
//!  84  4  checksum of the write data (CRC-64/NVME, both halves folded)
//!  88  8  monotonic offset in ring B of the write data's first block
//!  96  4  bytes of write data
//! 100  4  P-VOL of the initial copy
//! 104  8  as of: the number S of received initial-copy data
//! 112 24n extents: volume 4, content 2 (0 data, 1 zero, 2 pattern), pattern bytes 2, start 8, length 8;
//!        a bookmark has two with content zero, whose volumes, starts and lengths are the 40 bytes of its name
//!      4  initial copy: the reading array whose pair is copied, else 0
//!      4  CRC32C of all bytes before
//! ```
//!
//! A *marker* is the record of an idle commit: it takes no number and only says once more what is flushed.
//! The checksum chained from record to record leaves out the checksum field itself: over a record with its own CRC
//! behind it every CRC has the same residue.

use super::bytes::{Reader, Writer, unseal};
use super::{BLOCK_BYTES, FormatError};
use crate::bookmark::BookmarkName;
use crate::number::{ArrayNumber, Generation, Incarnation, UpdateNumber, VolumeNumber};
use crate::ring::{Ring, round_up};
use crate::update::{
    Content, CopyForm, DataPlace, Extent, InitialCopy, Kind, MAX_EXTENTS, Stored, Update, data_blocks,
};
use alloc::borrow::Cow;
use alloc::vec::Vec;

/// Bytes of a record without its extents.
pub const RECORD_BASE_BYTES: usize = 120;
/// Bytes of one extent.
pub const EXTENT_BYTES: usize = 24;
/// The longest record.
pub const MAX_RECORD_BYTES: usize = RECORD_BASE_BYTES + MAX_EXTENTS * EXTENT_BYTES;
/// Update information of one group commit; what does not fit goes into the next one.
pub const MAX_BATCH_INFO_BYTES: u64 = 256 << 10;
/// Write data of one group commit; what does not fit goes into the next one.
pub const MAX_BATCH_DATA_BYTES: u64 = 32 << 20;

pub(crate) const RECORD_MAGIC: [u8; 4] = *b"HFUR";
const HEADER_BYTES: usize = 112;
const MARKER_CODE: u8 = 128;
const FLAG_LAST_OF_PAIR: u8 = 1;
const FLAG_RECEIVED: u8 = 2;

// Records follow each other without padding, so a look-ahead that tries every eighth byte meets each of them.
const _: () = assert!(RECORD_BASE_BYTES.is_multiple_of(8) && EXTENT_BYTES.is_multiple_of(8));
const _: () = assert!(HEADER_BYTES + 8 == RECORD_BASE_BYTES);
// The count of records in a group commit is a 16-bit field.
const _: () = assert!(MAX_BATCH_INFO_BYTES / 120 < 65536);

/// Bytes of a record with that many extents.
pub(crate) fn record_length(extent_count: usize) -> usize {
    RECORD_BASE_BYTES.saturating_add(extent_count.saturating_mul(EXTENT_BYTES))
}

/// What a record is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry<'a> {
    /// An update; borrowed when it is written, owned when it was read.
    Update(Cow<'a, Update>),
    /// An idle commit; everything up to `number` is flushed.
    Marker { number: UpdateNumber, generation: Generation },
}

impl Entry<'_> {
    pub(crate) fn number(&self) -> UpdateNumber {
        match self {
            Self::Update(update) => update.number,
            Self::Marker { number, .. } => *number,
        }
    }

    fn generation(&self) -> Generation {
        match self {
            Self::Update(update) => update.generation,
            Self::Marker { generation, .. } => *generation,
        }
    }
}

/// What all records of one group commit have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchStamp {
    pub(crate) record_count: u16,
    pub(crate) session: u32,
    pub(crate) incarnation: u64,
    pub(crate) info_offset: u64,
    pub(crate) flushed: UpdateNumber,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) entry: Entry<'a>,
    pub(crate) stamp: BatchStamp,
    pub(crate) index: u16,
    pub(crate) previous_hash: u32,
    /// Monotonic offset in ring B.
    pub(crate) data_offset: u64,
    pub(crate) skip_bytes: u16,
    /// The record's own checksum, by which the next one names it; set by decoding.
    pub(crate) hash: u32,
}

impl Record<'_> {
    /// Appends the bytes to `bytes`, and gives the hash that the next record carries.
    pub(crate) fn encode(&self, bytes: &mut Vec<u8>) -> Result<u32, FormatError> {
        let extents = match &self.entry {
            Entry::Update(update) => {
                update.check()?;
                update.entries()
            }
            Entry::Marker { .. } => Cow::default(),
        };
        let length = record_length(extents.len());
        let body = Body::of(&self.entry);
        let generation = self.entry.generation();
        let length_field = u32::try_from(length).map_err(|_| FormatError::Length)?;
        let count_field = u16::try_from(extents.len()).map_err(|_| FormatError::Length)?;
        let mut out = Writer::new(bytes, length);
        out.put(&RECORD_MAGIC).u32(length_field).u8(body.code).u8(body.flags).u16(count_field);
        out.u16(self.skip_bytes).u16(self.index).u16(self.stamp.record_count).u16(0);
        out.u32(self.stamp.session).u64(self.entry.number().get());
        put_generation(&mut out, generation);
        out.u64(self.stamp.incarnation).u64(self.stamp.info_offset).u64(body.time_ns);
        out.u64(self.stamp.flushed.get()).u32(self.previous_hash).u32(body.data_checksum);
        out.u64(self.data_offset).u32(body.data_bytes).u32(body.pair_volume.0).u64(body.as_of.get());
        put_extents(&mut out, &extents)?;
        out.u32(body.reader.0);
        Ok(out.seal())
    }

    /// The place of its data, if it is an update with data.
    pub(crate) fn place(&self, data: &Ring) -> Option<DataPlace> {
        let Entry::Update(update) = &self.entry else { return None };
        (update.data_bytes > 0).then(|| DataPlace {
            volume_offset_bytes: data.physical(self.data_offset),
            blocks: data_blocks(update.data_bytes, self.skip_bytes),
            skip_bytes: self.skip_bytes,
        })
    }
}

/// Decodes the record at the start of `bytes`; also gives its length. Says nothing about whether it belongs there.
pub(crate) fn decode(bytes: &[u8]) -> Result<(Record<'static>, usize), FormatError> {
    let mut input = Reader::new(bytes);
    if input.take::<4>()? != RECORD_MAGIC {
        return Err(FormatError::Magic);
    }
    let length = usize::try_from(input.u32()?).map_err(|_| FormatError::Length)?;
    if !(RECORD_BASE_BYTES..=MAX_RECORD_BYTES).contains(&length) {
        return Err(FormatError::Length);
    }
    let whole = bytes.get(..length).ok_or(FormatError::TooShort)?;
    let (covered, hash) = unseal(whole)?;
    let mut input = Reader::new(covered);
    input.slice(8)?;
    let code = input.u8()?;
    let flags = input.u8()?;
    let extent_count = usize::from(input.u16()?);
    if length != record_length(extent_count) {
        return Err(FormatError::Length);
    }
    let skip_bytes = input.u16()?;
    let index = input.u16()?;
    let record_count = input.u16()?;
    input.reserved(2)?;
    let session = input.u32()?;
    let number = UpdateNumber::new(input.u64()?);
    let generation = take_generation(&mut input)?;
    let incarnation = input.u64()?;
    let info_offset = input.u64()?;
    let time_ns = input.u64()?;
    let flushed = UpdateNumber::new(input.u64()?);
    let previous_hash = input.u32()?;
    let data_checksum = input.u32()?;
    let data_offset = input.u64()?;
    let data_bytes = input.u32()?;
    let pair_volume = VolumeNumber(input.u32()?);
    let as_of = UpdateNumber::new(input.u64()?);
    let extents = take_extents(&mut input, extent_count)?;
    let reader = ArrayNumber(input.u32()?);
    let body = Body { code, flags, time_ns, data_checksum, data_bytes, pair_volume, reader, as_of };
    let entry = body.entry(number, generation, extents)?;
    let stamp = BatchStamp { record_count, session, incarnation, info_offset, flushed };
    if index >= record_count
        || u64::from(skip_bytes) >= BLOCK_BYTES
        || !info_offset.is_multiple_of(BLOCK_BYTES)
    {
        return Err(FormatError::Misplaced);
    }
    Ok((Record { entry, stamp, index, previous_hash, data_offset, skip_bytes, hash }, length))
}

/// Decodes one record of a journal volume that was read by ordinary READ commands; gives the update, where its data
/// lies on that volume, and the record's length. The caller checks that the number is the one it looked for.
pub fn decode_record(superblock: &super::Superblock, bytes: &[u8]) -> Result<(Stored, usize), FormatError> {
    let (record, length) = decode(bytes)?;
    if record.stamp.incarnation != superblock.incarnation.record_part() {
        return Err(FormatError::Misplaced);
    }
    let place = record.place(&superblock.data_ring());
    match record.entry {
        Entry::Update(update) => Ok((Stored { update: update.into_owned().into(), place }, length)),
        Entry::Marker { .. } => Err(FormatError::Magic),
    }
}

/// Decodes the updates of one group commit, in number order. `bytes` begins at its first block.
pub fn decode_batch(superblock: &super::Superblock, bytes: &[u8]) -> Result<Vec<Stored>, FormatError> {
    let run = decode_run(superblock.incarnation, bytes)?;
    let ring = superblock.data_ring();
    let mut updates = Vec::with_capacity(run.records.len());
    for record in run.records {
        let place = record.place(&ring);
        if let Entry::Update(update) = record.entry {
            updates.push(Stored { update: update.into_owned().into(), place });
        }
    }
    Ok(updates)
}

/// A whole group commit.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// Never empty.
    pub(crate) records: Vec<Record<'static>>,
    pub(crate) stamp: BatchStamp,
    /// Hash of the record before the first.
    pub(crate) previous_hash: u32,
    /// Hash of the last record.
    pub(crate) hash: u32,
    /// The first number; of a marker the number behind the highest given.
    pub(crate) first: UpdateNumber,
    /// The last number; of a marker the highest given.
    pub(crate) last: UpdateNumber,
    /// Bytes of all records.
    pub(crate) info_bytes: u64,
}

impl Run {
    pub(crate) fn is_marker(&self) -> bool {
        self.first > self.last
    }

    /// Bytes of the blocks that it fills.
    pub(crate) fn run_bytes(&self) -> u64 {
        round_up(self.info_bytes)
    }
}

/// Decodes a group commit and checks that it is whole, one, and of this incarnation: all or nothing.
pub(crate) fn decode_run(incarnation: Incarnation, bytes: &[u8]) -> Result<Run, FormatError> {
    let (first, mut at) = decode(bytes)?;
    let stamp = first.stamp;
    let is_marker = matches!(first.entry, Entry::Marker { .. });
    if stamp.incarnation != incarnation.record_part()
        || first.index != 0
        || (is_marker && stamp.record_count != 1)
    {
        return Err(FormatError::Misplaced);
    }
    let last = first.entry.number();
    let first_number = if is_marker { last.next() } else { last };
    let mut run = Run {
        stamp,
        previous_hash: first.previous_hash,
        hash: first.hash,
        first: first_number,
        last,
        info_bytes: 0,
        records: Vec::with_capacity(usize::from(stamp.record_count)),
    };
    run.records.push(first);
    for index in 1..stamp.record_count {
        let rest = bytes.get(at..).ok_or(FormatError::TooShort)?;
        let (record, length) = decode(rest)?;
        let follows = record.stamp == stamp
            && record.index == index
            && record.previous_hash == run.hash
            && record.entry.number() == run.last.next()
            && matches!(record.entry, Entry::Update(_));
        if !follows {
            return Err(FormatError::Misplaced);
        }
        at = at.saturating_add(length);
        run.hash = record.hash;
        run.last = record.entry.number();
        run.records.push(record);
    }
    run.info_bytes = u64::try_from(at).map_err(|_| FormatError::Length)?;
    if run.info_bytes > MAX_BATCH_INFO_BYTES { Err(FormatError::Length) } else { Ok(run) }
}

/// The fields that depend on the kind, as they are written.
pub(super) struct Body {
    pub(super) code: u8,
    pub(super) flags: u8,
    pub(super) time_ns: u64,
    pub(super) data_checksum: u32,
    pub(super) data_bytes: u32,
    pub(super) pair_volume: VolumeNumber,
    pub(super) reader: ArrayNumber,
    pub(super) as_of: UpdateNumber,
}

impl Body {
    fn of(entry: &Entry<'_>) -> Self {
        match entry {
            Entry::Update(update) => Self::of_update(update),
            Entry::Marker { .. } => Self {
                code: MARKER_CODE,
                flags: 0,
                time_ns: 0,
                data_checksum: 0,
                data_bytes: 0,
                pair_volume: VolumeNumber(0),
                reader: ArrayNumber(0),
                as_of: UpdateNumber::NONE,
            },
        }
    }

    pub(super) fn of_update(update: &Update) -> Self {
        let (code, copy) = match &update.kind {
            Kind::HostWrite => (1, None),
            Kind::InitialCopy(copy) => (2, Some(copy)),
            Kind::Heartbeat => (3, None),
            Kind::Void => (4, None),
            Kind::Bookmark(_) => (5, None),
            Kind::Broken => (6, None),
            Kind::Whole => (7, None),
        };
        let last = copy.is_some_and(|copy| copy.last_of_pair);
        let received = copy.is_some_and(|copy| copy.form != CopyForm::RangeOnly);
        let flags = if last { FLAG_LAST_OF_PAIR } else { 0 } | if received { FLAG_RECEIVED } else { 0 };
        Self {
            code,
            flags,
            time_ns: update.time_ns,
            data_checksum: update.data_checksum,
            data_bytes: update.data_bytes,
            pair_volume: copy.map_or(VolumeNumber(0), |copy| copy.volume),
            reader: copy.map_or(ArrayNumber(0), |copy| copy.reader),
            as_of: update.as_of().unwrap_or(UpdateNumber::NONE),
        }
    }

    fn entry(
        self,
        number: UpdateNumber,
        generation: Generation,
        extents: Vec<Extent>,
    ) -> Result<Entry<'static>, FormatError> {
        if self.code != MARKER_CODE {
            return Ok(Entry::Update(Cow::Owned(self.update(number, generation, extents)?)));
        }
        let empty = self.flags == 0 && self.data_bytes == 0 && extents.is_empty();
        if empty { Ok(Entry::Marker { number, generation }) } else { Err(FormatError::Reserved) }
    }

    pub(super) fn update(
        self,
        number: UpdateNumber,
        generation: Generation,
        extents: Vec<Extent>,
    ) -> Result<Update, FormatError> {
        let received = self.flags & FLAG_RECEIVED != 0;
        let kind = match self.code {
            1 => Kind::HostWrite,
            2 => Kind::InitialCopy(InitialCopy {
                volume: self.pair_volume,
                reader: self.reader,
                last_of_pair: self.flags & FLAG_LAST_OF_PAIR != 0,
                form: if received { CopyForm::Received { as_of: self.as_of } } else { CopyForm::RangeOnly },
            }),
            3 => Kind::Heartbeat,
            4 => Kind::Void,
            5 => Kind::Bookmark(BookmarkName::from_entries(&extents).ok_or(FormatError::Reserved)?),
            6 => Kind::Broken,
            7 => Kind::Whole,
            _ => return Err(FormatError::Reserved),
        };
        let is_copy = matches!(kind, Kind::InitialCopy(_));
        let known_flags = if is_copy { FLAG_LAST_OF_PAIR | FLAG_RECEIVED } else { 0 };
        let unused_set = (!is_copy && (self.pair_volume.0 != 0 || self.reader.0 != 0))
            || (!received && self.as_of != UpdateNumber::NONE);
        if self.flags & !known_flags != 0 || unused_set {
            return Err(FormatError::Reserved);
        }
        let carries_name = matches!(kind, Kind::Bookmark(_));
        let update = Update {
            number,
            generation,
            kind,
            time_ns: self.time_ns,
            extents: if carries_name { Vec::new() } else { extents },
            data_bytes: self.data_bytes,
            data_checksum: self.data_checksum,
        };
        update.check()?;
        Ok(update)
    }
}

pub(super) fn put_generation(out: &mut Writer<'_>, generation: Generation) {
    out.u32(generation.counter).u32(generation.array.0).u64(generation.first.get());
}

pub(super) fn take_generation(input: &mut Reader<'_>) -> Result<Generation, FormatError> {
    Ok(Generation {
        counter: input.u32()?,
        array: ArrayNumber(input.u32()?),
        first: UpdateNumber::new(input.u64()?),
    })
}

pub(super) fn put_extents(out: &mut Writer<'_>, extents: &[Extent]) -> Result<(), FormatError> {
    for extent in extents {
        let (content, pattern_bytes) = match extent.content {
            Content::Data => (0, 0),
            Content::Zero => (1, 0),
            Content::Pattern { bytes } => (2, u16::try_from(bytes).map_err(|_| FormatError::Length)?),
        };
        out.u32(extent.volume.0).u16(content).u16(pattern_bytes);
        out.u64(extent.start_bytes).u64(extent.length_bytes);
    }
    Ok(())
}

/// `count` is at most [`MAX_EXTENTS`]: the length of the whole was checked before.
pub(super) fn take_extents(input: &mut Reader<'_>, count: usize) -> Result<Vec<Extent>, FormatError> {
    let mut extents = Vec::with_capacity(count.min(MAX_EXTENTS));
    for _ in 0..count {
        let volume = VolumeNumber(input.u32()?);
        let content = match (input.u16()?, input.u16()?) {
            (0, 0) => Content::Data,
            (1, 0) => Content::Zero,
            (2, bytes) => Content::Pattern { bytes: u32::from(bytes) },
            _ => return Err(FormatError::Reserved),
        };
        let start_bytes = input.u64()?;
        extents.push(Extent { volume, start_bytes, length_bytes: input.u64()?, content });
    }
    Ok(extents)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    fn stamp() -> BatchStamp {
        BatchStamp {
            record_count: 3,
            session: 0x0102_0304,
            incarnation: 0x1112_1314_1516_1718,
            info_offset: 0x2000,
            flushed: UpdateNumber::new(0x41),
        }
    }

    fn record(update: Update) -> Record<'static> {
        let data_offset = 0x5000;
        Record {
            entry: Entry::Update(Cow::Owned(update)),
            stamp: stamp(),
            index: 1,
            previous_hash: 7,
            data_offset,
            skip_bytes: 512,
            hash: 0,
        }
    }

    fn encoded(record: &Record<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        record.encode(&mut bytes).unwrap();
        bytes
    }

    pub(crate) fn arbitrary_update() -> impl Strategy<Value = Update> {
        let extent = (0_u32..9, 0_u64..1 << 48, 1_u64..1 << 15, 0_u8..3).prop_map(
            |(volume, start, length, content)| {
                let (length_bytes, content) = match content {
                    0 => (length, Content::Data),
                    1 => (length, Content::Zero),
                    _ => (length * 512, Content::Pattern { bytes: 512 }),
                };
                Extent { volume: VolumeNumber(volume), start_bytes: start, length_bytes, content }
            },
        );
        let copy = (any::<u32>(), any::<bool>(), prop::option::of(any::<u64>()));
        (1_u64.., any::<[u64; 3]>(), 0_u8..8, copy, prop::collection::vec(extent, 0..9)).prop_map(
            |(number, [first, time_ns, crc], kind, (volume, last_of_pair, as_of), mut extents)| {
                let form = as_of.map_or(CopyForm::RangeOnly, |as_of| CopyForm::Received {
                    as_of: UpdateNumber::new(as_of),
                });
                let kind = match kind {
                    0 => Kind::Heartbeat,
                    1 => Kind::Void,
                    2 => Kind::Bookmark(BookmarkName::new("night.7").unwrap()),
                    6 => Kind::Broken,
                    7 => Kind::Whole,
                    3 => Kind::InitialCopy(InitialCopy {
                        volume: VolumeNumber(volume),
                        reader: ArrayNumber(2),
                        last_of_pair,
                        form,
                    }),
                    _ => Kind::HostWrite,
                };
                let carries = matches!(kind, Kind::HostWrite | Kind::InitialCopy(_));
                if !carries {
                    extents.clear();
                }
                let range_only = matches!(kind, Kind::InitialCopy(copy) if copy.form == CopyForm::RangeOnly);
                let data: u64 = extents.iter().map(Extent::payload_bytes).sum();
                let data_bytes = if range_only { 0 } else { u32::try_from(data).unwrap() };
                Update {
                    number: UpdateNumber::new(number),
                    generation: Generation {
                        counter: volume,
                        array: ArrayNumber(3),
                        first: UpdateNumber::new(first),
                    },
                    kind,
                    time_ns,
                    extents,
                    data_bytes,
                    data_checksum: if data_bytes == 0 { 0 } else { u32::try_from(crc >> 32).unwrap() },
                }
            },
        )
    }

    pub(crate) fn fixed_update() -> Update {
        let extent =
            |content| Extent { volume: VolumeNumber(9), start_bytes: 0x600, length_bytes: 1024, content };
        Update {
            number: UpdateNumber::new(0x42),
            generation: Generation { counter: 5, array: ArrayNumber(6), first: UpdateNumber::new(0x40) },
            kind: Kind::InitialCopy(InitialCopy {
                volume: VolumeNumber(9),
                reader: ArrayNumber(8),
                last_of_pair: true,
                form: CopyForm::Received { as_of: UpdateNumber::new(0x3F) },
            }),
            time_ns: 0x7777,
            extents: vec![
                extent(Content::Data),
                extent(Content::Zero),
                extent(Content::Pattern { bytes: 512 }),
            ],
            data_bytes: 1536,
            data_checksum: 0x8888,
        }
    }

    #[test]
    fn figure_4_the_fields_of_a_record_lie_where_the_table_says() {
        let bytes = encoded(&record(fixed_update()));
        let number = |at: usize, width: usize| {
            bytes[at..at + width].iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte))
        };
        assert_eq!(&bytes[..4], b"HFUR");
        let fields = [
            (4, 4, 192),
            (8, 1, 2),
            (9, 1, 3),
            (10, 2, 3),
            (12, 2, 512),
            (14, 2, 1),
            (16, 2, 3),
            (18, 2, 0),
            (20, 4, 0x0102_0304),
            (24, 8, 0x42),
            (32, 4, 5),
            (36, 4, 6),
            (40, 8, 0x40),
            (48, 8, 0x1112_1314_1516_1718),
            (56, 8, 0x2000),
            (64, 8, 0x7777),
            (72, 8, 0x41),
            (80, 4, 7),
            (84, 4, 0x8888),
            (88, 8, 0x5000),
            (96, 4, 1536),
            (100, 4, 9),
            (104, 8, 0x3F),
            (112, 4, 9),
            (116, 2, 0),
            (120, 8, 0x600),
            (128, 8, 1024),
            (140, 2, 1),
            (164, 2, 2),
            (166, 2, 512),
            (184, 4, 8),
        ];
        for (at, width, value) in fields {
            assert_eq!(number(at, width), value, "at {at}");
        }
        assert_eq!(number(188, 4), u64::from(crate::format::crc32c(&bytes[..188])));
        assert_eq!(bytes.len(), 192);
    }

    #[test]
    fn every_flipped_bit_of_a_record_is_found() {
        let bytes = encoded(&record(fixed_update()));
        for position in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[position / 8] ^= 1 << (position % 8);
            assert!(decode(&damaged).is_err(), "bit {position}");
        }
        for length in 0..bytes.len() {
            assert_eq!(decode(&bytes[..length]).unwrap_err(), FormatError::TooShort);
        }
    }

    #[test]
    fn the_longest_update_fits_into_a_record_and_a_longer_one_is_refused() {
        let mut update = fixed_update();
        update.kind = Kind::HostWrite;
        let zero = Extent { content: Content::Zero, ..update.extents[1] };
        update.extents = vec![zero; MAX_EXTENTS];
        (update.data_bytes, update.data_checksum) = (0, 0);
        assert_eq!(encoded(&record(update.clone())).len(), MAX_RECORD_BYTES);
        update.extents.push(zero);
        assert!(record(update).encode(&mut Vec::new()).is_err());
    }

    proptest! {
        #[test]
        fn a_record_decodes_to_what_was_encoded(update in arbitrary_update(), behind in any::<[u8; 5]>()) {
            let original = record(update);
            let mut bytes = encoded(&original);
            let length = bytes.len();
            bytes.extend_from_slice(&behind);
            let (decoded, decoded_length) = decode(&bytes).unwrap();
            prop_assert_eq!(decoded_length, length);
            let hash = decoded.hash;
            prop_assert_eq!(decoded, Record { hash, ..original });
        }

        #[test]
        fn garbage_with_a_right_checksum_never_panics(
            update in arbitrary_update(), position in any::<prop::sample::Index>(), garbage in any::<[u8; 8]>(),
        ) {
            let mut bytes = encoded(&record(update));
            let end = bytes.len() - 4;
            let at = position.index(end - 8);
            bytes[at..at + 8].copy_from_slice(&garbage);
            let crc = crate::format::crc32c(&bytes[..end]);
            bytes[end..].copy_from_slice(&crc.to_le_bytes());
            if let Ok((decoded, _)) = decode(&bytes) && let Entry::Update(update) = decoded.entry {
                prop_assert_eq!(update.check(), Ok(()));
            }
        }
    }
}
