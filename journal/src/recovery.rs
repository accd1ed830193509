//! What a restart makes of a journal volume.
//!
//! The caller reads the first four blocks, gives them to [`Recovery::open`], then feeds what
//! [`Recovery::poll_read`] asks for. The scan follows the chain of group commits from the checkpoint's oldest offset;
//! a group commit counts if it is whole, of this incarnation, at its place, contiguous in number and names the hash of
//! the record before it. Where the chain ends, the rest of ring A up to the checkpoint's limit is searched for records
//! that claim more to be flushed than the chain has. Then, for number n:
//!
//! | n belongs to | record n | something valid claims n or more as flushed | write data of n | verdict |
//! |---|---|---|---|---|
//! | this volume | valid | any | good | keep |
//! | this volume | valid | no  | bad | the journal ends at n−1, the rest is void |
//! | this volume | valid | yes | bad | corruption |
//! | this volume | bad or absent | no  | any | the journal ends at n−1, the rest is void |
//! | this volume | bad or absent | yes | any | corruption |
//! | a later volume | any | any | any | nothing: it is looked for there |
//!
//! Where a chain of volumes ([`crate::chain`]) goes on in a later volume with number N, everything below N is claimed
//! by that volume, and from N on nothing here counts ([`Recovery::open_until`]).
//!
//! Corruption fails the journal; nothing is ever cut off to get rid of it. A group commit is kept whole or not at
//! all, so the journal may end a few numbers earlier than the first bad one: none of them was ever called durable.
//!
//! Recovery writes nothing. The [`Journal`] it makes begins a *session* with its next number and takes nothing before a
//! checkpoint that says so is durable. The crash that would hurt: a group commit is thrown away because its write data
//! did not reach the unit; the host writes the same again, to the same place; then the discarded records would be
//! valid. Killed at any point, recovery may be run again.

use crate::format::record::{self, MAX_BATCH_INFO_BYTES, MAX_RECORD_BYTES, RECORD_MAGIC, Run, decode_run};
use crate::format::{
    BLOCK_BYTES, BLOCK_LENGTH, CheckpointRecord, FormatError, HEAD_BLOCKS, Layout, Superblock,
};
use crate::journal::Journal;
use crate::number::UpdateNumber;
use crate::ring::Ring;
use crate::sequencer::{Batch, Recent, Sequencer};
use crate::update::{DataPlace, Stored, data_blocks};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;

/// Bytes asked for at once, except for a few blocks more where a record may cross into the next piece.
pub const READ_BYTES: u64 = 1 << 20;
/// Bytes of the head of the volume that [`Recovery::open`] needs.
pub const HEAD_BYTES: u64 = HEAD_BLOCKS * BLOCK_BYTES;

/// Why a journal volume cannot be used as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryError {
    /// Neither copy of the superblock can be used; the reason of the first.
    NoSuperblock(FormatError),
    /// Neither checkpoint slot belongs to a superblock that can be used.
    NoCheckpoint,
    /// A durable update is damaged. The journal has failed.
    Corruption {
        /// The first damaged number.
        number: UpdateNumber,
        /// Where on the journal volume its update information or write data should be.
        volume_offset: u64,
    },
    /// There is more to read.
    NotFinished,
}

impl fmt::Display for RecoveryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuperblock(error) => write!(f, "no usable superblock: {error}"),
            Self::NoCheckpoint => f.write_str("no usable checkpoint"),
            Self::Corruption { number, volume_offset } => {
                write!(
                    f,
                    "update {number} was durable and is damaged at byte {volume_offset} of the journal volume"
                )
            }
            Self::NotFinished => f.write_str("the journal has not been read to its end"),
        }
    }
}

impl core::error::Error for RecoveryError {}

/// The structures that a restart begins from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The superblock.
    pub superblock: Superblock,
    /// The newest checkpoint of its incarnation.
    pub checkpoint: CheckpointRecord,
    /// The one before it. `None`: the other slot is unreadable, and the newer checkpoint may be lost, torn while it was
    /// written or damaged later.
    pub before: Option<CheckpointRecord>,
}

/// Chooses superblock and checkpoint from the first four blocks. A formatting that was cut off between the blocks
/// leaves the old journal, the new one or none, and is repeated: only a superblock with a checkpoint of its own
/// incarnation counts.
pub fn choose(head: &[u8]) -> Result<Chosen, RecoveryError> {
    let (blocks, _) = head.as_chunks::<BLOCK_LENGTH>();
    let [super_a, super_b, slot_a, slot_b, ..] = blocks else {
        return Err(RecoveryError::NoSuperblock(FormatError::TooShort));
    };
    let slots = [decode_slot(slot_a, 0), decode_slot(slot_b, 1)];
    let copies = [Superblock::decode(super_a), Superblock::decode(super_b)];
    for superblock in copies.iter().flatten() {
        let mut usable: Vec<&CheckpointRecord> =
            slots.iter().flatten().filter(|slot| belongs(slot, superblock)).collect();
        usable.sort_by_key(|slot| slot.sequence);
        if let Some(newest) = usable.pop() {
            let before = usable.pop().cloned();
            return Ok(Chosen { superblock: *superblock, checkpoint: newest.clone(), before });
        }
    }
    match copies {
        [Err(error), Err(_)] => Err(RecoveryError::NoSuperblock(error)),
        [Ok(_), _] | [_, Ok(_)] => Err(RecoveryError::NoCheckpoint),
    }
}

/// A checkpoint counts only in the slot that its sequence belongs to.
fn decode_slot(block: &[u8], parity: u64) -> Option<CheckpointRecord> {
    CheckpointRecord::decode(block).ok().filter(|slot| slot.sequence % 2 == parity)
}

fn belongs(slot: &CheckpointRecord, superblock: &Superblock) -> bool {
    let capacity_end = slot.info_oldest.saturating_add(superblock.info_bytes);
    slot.incarnation == superblock.incarnation && slot.info_limit <= capacity_end
}

/// Whether the record with a number was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Valid,
    Bad,
}

/// Whether something valid claims the number as flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    Made,
    Absent,
}

/// What the write data is. Of a claimed number it is not read by a restart, but whenever it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Payload {
    Good,
    Bad,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    End,
    Corruption,
    Elsewhere,
}

/// Which volume of a chain the number belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Here,
    Later,
}

/// A row: a place and what was found there, `None` for *any*; and what is done.
type Row = (Place, Option<Found>, Option<Claim>, Option<Payload>, Verdict);

/// The table of the module's documentation.
const DECISIONS: [Row; 6] = [
    (Place::Here, Some(Found::Valid), None, Some(Payload::Good), Verdict::Keep),
    (Place::Here, Some(Found::Valid), Some(Claim::Absent), Some(Payload::Bad), Verdict::End),
    (Place::Here, Some(Found::Valid), Some(Claim::Made), Some(Payload::Bad), Verdict::Corruption),
    (Place::Here, Some(Found::Bad), Some(Claim::Absent), None, Verdict::End),
    (Place::Here, Some(Found::Bad), Some(Claim::Made), None, Verdict::Corruption),
    (Place::Later, None, None, None, Verdict::Elsewhere),
];

fn matching(place: Place, found: Found, claim: Claim, payload: Payload) -> impl Iterator<Item = Verdict> {
    DECISIONS.into_iter().filter_map(move |(row_place, row_found, row_claim, row_payload, verdict)| {
        let matches = row_place == place
            && row_found.is_none_or(|row| row == found)
            && row_claim.is_none_or(|row| row == claim)
            && row_payload.is_none_or(|row| row == payload);
        matches.then_some(verdict)
    })
}

fn decide(place: Place, found: Found, claim: Claim, payload: Payload) -> Verdict {
    matching(place, found, claim, payload).next().expect("each combination meets exactly one row")
}

/// A part of the journal volume to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    /// Byte offset on the journal volume; a multiple of 4096.
    pub volume_offset: u64,
    /// Whole blocks, never 0.
    pub length: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Reads what begins at the start of ring A: the chain continues there where a run did not fit before its end.
    AreaStart,
    /// Follows the chain at `position`.
    Chain,
    /// Searches for claims from the offset on.
    LookAhead(u64),
    Done,
}

/// The scan of a journal volume after a restart; see the module's documentation for its rules.
///
/// Call [`poll_read`](Self::poll_read) and [`handle_read`](Self::handle_read) in turn until there is nothing to read,
/// then [`finish`](Self::finish). It reads every held record once, and behind the end at most
/// [`crate::LOOK_AHEAD_BYTES`].
#[derive(Debug)]
pub struct Recovery {
    superblock: Superblock,
    checkpoint: CheckpointRecord,
    before: Option<CheckpointRecord>,
    info: Ring,
    phase: Phase,
    area_start: Option<Run>,
    /// No record lies at or beyond it.
    limit: u64,
    position: u64,
    sequencer: Sequencer,
    index: VecDeque<Batch>,
    session: u32,
    highest_session: u32,
    data_end: u64,
    /// The highest number that something valid claims as flushed.
    claim: UpdateNumber,
    /// Numbers from here on belong to a later volume.
    end: Option<UpdateNumber>,
}

impl Recovery {
    /// Begins with the first four blocks of the volume.
    pub fn open(head: &[u8]) -> Result<Self, RecoveryError> {
        Self::open_volume(head, None)
    }

    /// The same for a volume that is not the last of its chain: the next one begins with number `end`. That it exists
    /// claims that everything before `end` was flushed.
    pub fn open_until(head: &[u8], end: UpdateNumber) -> Result<Self, RecoveryError> {
        Self::open_volume(head, Some(end))
    }

    fn open_volume(head: &[u8], end: Option<UpdateNumber>) -> Result<Self, RecoveryError> {
        let Chosen { superblock, checkpoint, before } = choose(head)?;
        let capacity_end = checkpoint.info_oldest.saturating_add(superblock.info_bytes);
        // A lost newer checkpoint may have allowed records beyond the limit of this one.
        let limit = if before.is_none() { capacity_end } else { checkpoint.info_limit };
        let mut sequencer = Sequencer::new(&superblock, checkpoint.first_retained, checkpoint.generation);
        sequencer.previous_hash = checkpoint.previous_hash;
        Ok(Self {
            info: superblock.info_ring(),
            phase: Phase::AreaStart,
            area_start: None,
            limit,
            position: checkpoint.info_oldest,
            sequencer,
            index: VecDeque::new(),
            session: 0,
            highest_session: checkpoint.session,
            data_end: checkpoint.data_oldest,
            claim: end.map_or(checkpoint.flushed, |end| end.previous().max(checkpoint.flushed)),
            superblock,
            checkpoint,
            before,
            end,
        })
    }

    fn place_of(&self, number: UpdateNumber) -> Place {
        if self.end.is_some_and(|end| number >= end) { Place::Later } else { Place::Here }
    }

    /// Bytes of the volume that the journal was made for: nothing behind them is asked for.
    pub fn volume_bytes(&self) -> u64 {
        self.superblock.volume_bytes()
    }

    /// What to read next; `None` when everything has been read.
    pub fn poll_read(&mut self) -> Option<ReadRequest> {
        if self.place_of(self.sequencer.next) == Place::Later {
            self.phase = Phase::Done;
        }
        if self.phase == Phase::Chain && self.available(self.position) == 0 {
            self.phase = Phase::LookAhead(self.position);
        }
        if let Phase::LookAhead(at) = self.phase
            && self.available(at) == 0
        {
            self.phase = Phase::Done;
        }
        let (offset, length) = match self.phase {
            Phase::AreaStart => (0, MAX_BATCH_INFO_BYTES.min(self.info.size_bytes)),
            Phase::Chain => (self.position, self.chain_read_bytes().min(self.available(self.position))),
            Phase::LookAhead(at) => (at, (READ_BYTES + OVERLAP_BYTES).min(self.available(at))),
            Phase::Done => return None,
        };
        Some(ReadRequest { volume_offset: self.info.physical(offset), length })
    }

    /// Between interleaved records lies write data, which is not read.
    fn chain_read_bytes(&self) -> u64 {
        match self.superblock.layout {
            Layout::TwoRings => READ_BYTES,
            Layout::Interleaved => MAX_BATCH_INFO_BYTES,
        }
    }

    /// The bytes that were asked for. Blocks that cannot be read are given as zeros.
    pub fn handle_read(&mut self, bytes: &[u8]) {
        match self.phase {
            Phase::AreaStart => {
                self.area_start = decode_run(self.superblock.incarnation, bytes).ok();
                self.phase = Phase::Chain;
            }
            Phase::Chain => self.follow_chain(bytes),
            Phase::LookAhead(at) => {
                self.collect_claims(bytes, at);
                self.phase = Phase::LookAhead(at.saturating_add(READ_BYTES.min(self.available(at))));
            }
            Phase::Done => {}
        }
    }

    /// The result of the scan.
    pub fn finish(mut self) -> Result<Recovered, RecoveryError> {
        if self.poll_read().is_some() {
            return Err(RecoveryError::NotFinished);
        }
        let next = self.sequencer.next;
        let claim = if self.claim >= next { Claim::Made } else { Claim::Absent };
        if decide(self.place_of(next), Found::Bad, claim, Payload::Good) == Verdict::Corruption {
            let volume_offset = self.info.physical(self.position);
            return Err(RecoveryError::Corruption { number: next, volume_offset });
        }
        self.sequencer.info.head = self.position;
        self.sequencer.data.head = self.data_end;
        self.sequencer.durable = next.previous();
        // In a volume that others follow nothing needs to be verified: they claim all of it.
        self.claim = if self.end.is_some() { self.claim.max(next.previous()) } else { self.claim };
        self.sequencer.claimed = self.claim;
        let journal = Journal::assemble(self.superblock, self.sequencer, self.index, self.checkpoint);
        let session = self.highest_session.saturating_add(1);
        Ok(Recovered { journal, before: self.before, claim: self.claim, session })
    }

    /// Contiguous bytes of ring A from `offset` to its end or to the limit.
    fn available(&self, offset: u64) -> u64 {
        self.info.until_area_end(offset).min(self.limit.saturating_sub(offset))
    }

    fn follow_chain(&mut self, bytes: &[u8]) {
        let mut at = 0;
        loop {
            let rest = bytes.get(at..).unwrap_or(&[]);
            let here = decode_run(self.superblock.incarnation, rest)
                .ok()
                .filter(|run| self.continues(run, self.position));
            let next_lap = self.info.next_lap(self.position);
            let wrapped = self.area_start.as_ref().filter(|run| self.continues(run, next_lap));
            // Both only if a run was thrown away by a restart and its successor went to the start of the area: the
            // later session is the successor.
            let prefer_wrapped = match (&here, wrapped) {
                (Some(here), Some(wrapped)) => wrapped.stamp.session > here.stamp.session,
                (None, Some(_)) => true,
                (_, None) => false,
            };
            let rest_length = u64::try_from(rest.len()).unwrap_or(0);
            let whole = rest_length >= self.available(self.position).min(MAX_BATCH_INFO_BYTES);
            if here.is_none() && !whole && at > 0 {
                return;
            }
            if prefer_wrapped && let Some(run) = self.area_start.take() {
                self.take_run(run, next_lap);
                return;
            }
            let Some(run) = here else {
                self.phase = Phase::LookAhead(self.position);
                return;
            };
            let frame_bytes = run.run_bytes().saturating_add(self.frame_data_bytes(&run));
            at = at.saturating_add(usize::try_from(frame_bytes).unwrap_or(usize::MAX));
            self.take_run(run, self.position);
            if self.info.within(self.position) == 0 {
                return;
            }
        }
    }

    /// Whether `run` is the next one of the chain if it lies at `offset`.
    fn continues(&self, run: &Run, offset: u64) -> bool {
        let number = if run.is_marker() { run.last } else { run.first };
        let thrown_away =
            run.stamp.session < self.checkpoint.session && number >= self.checkpoint.session_first;
        run.stamp.info_offset == offset
            && run.first == self.sequencer.next
            && run.previous_hash == self.sequencer.previous_hash
            && run.stamp.session >= self.session
            && !thrown_away
            && run.stamp.flushed < run.first
            && offset.saturating_add(run.run_bytes()) <= self.limit
            && match self.superblock.layout {
                Layout::TwoRings => self.data_in_order(run),
                Layout::Interleaved => self.is_frame(run, offset),
            }
    }

    /// Write data behind the records of a commit, where they are interleaved.
    fn frame_data_bytes(&self, run: &Run) -> u64 {
        let ring = &self.info;
        let blocks = run.records.iter().filter_map(|record| record.place(ring)).map(|place| place.blocks);
        match self.superblock.layout {
            Layout::TwoRings => 0,
            Layout::Interleaved => blocks.fold(0, u64::saturating_add).saturating_mul(BLOCK_BYTES),
        }
    }

    /// Whether the data of a commit lies behind its records, in order, inside the area and the limit.
    fn is_frame(&self, run: &Run, offset: u64) -> bool {
        let mut end = offset.saturating_add(run.run_bytes());
        let follows = run.records.iter().all(|record| {
            let Some(place) = record.place(&self.info) else { return true };
            let is_next = record.data_offset == end;
            end = end.saturating_add(place.blocks.saturating_mul(BLOCK_BYTES));
            is_next
        });
        follows && end <= self.limit && end.saturating_sub(offset) <= self.info.until_area_end(offset)
    }

    fn data_in_order(&self, run: &Run) -> bool {
        let limit = self.checkpoint.data_oldest.saturating_add(self.superblock.data_bytes);
        let ring = &self.sequencer.data;
        let mut end = self.data_end;
        run.records.iter().all(|record| {
            let Some(place) = record.place(ring) else { return true };
            let length = place.blocks.saturating_mul(BLOCK_BYTES);
            let fits = record.data_offset.is_multiple_of(BLOCK_BYTES)
                && record.data_offset >= end
                && length <= ring.until_area_end(record.data_offset);
            end = record.data_offset.saturating_add(length);
            fits && end <= limit
        })
    }

    fn take_run(&mut self, run: Run, info_start: u64) {
        let frame_data_bytes = self.frame_data_bytes(&run);
        let mut batch = Batch {
            first: run.first,
            last: run.last,
            info_start,
            info_bytes: run.info_bytes,
            data_start: self.data_end,
            data_end: self.data_end,
            frame_data_bytes,
            previous_hash: run.previous_hash,
        };
        self.position = info_start.saturating_add(run.run_bytes()).saturating_add(frame_data_bytes);
        self.session = run.stamp.session;
        self.highest_session = self.highest_session.max(run.stamp.session);
        self.claim = self.claim.max(run.stamp.flushed);
        self.sequencer.previous_hash = run.hash;
        self.sequencer.next = run.last.next();
        // All of it counts as durable for keeping update information in memory: only the newest is kept.
        self.sequencer.durable = run.last;
        for record in run.records {
            let place = record.place(&self.sequencer.data);
            let record::Entry::Update(update) = record.entry else { continue };
            let blocks = data_blocks(update.data_bytes, record.skip_bytes);
            if blocks > 0 && self.superblock.layout == Layout::TwoRings {
                batch.data_end = record.data_offset.saturating_add(blocks.saturating_mul(BLOCK_BYTES));
            }
            self.sequencer.generation = update.generation;
            update.bookmark().into_iter().for_each(|bookmark| self.sequencer.bookmarks.push(bookmark));
            self.sequencer.recent.push_back(Recent {
                stored: Stored { update: update.into_owned().into(), place },
                data_offset: record.data_offset,
                skip_bytes: record.skip_bytes,
            });
        }
        self.data_end = batch.data_end;
        self.sequencer.trim_recent(UpdateNumber::NONE);
        self.index.push_back(batch);
    }

    /// Any record of this incarnation speaks the truth about what was flushed when it was written, wherever it lies
    /// and however damaged its surroundings are. Records begin at multiples of 8. Where write data lies between them only
    /// a record that is in its place counts: a host may have written the copy of one.
    fn collect_claims(&mut self, bytes: &[u8], from: u64) {
        let (words, _) = bytes.as_chunks::<8>();
        for (position, word) in words.iter().enumerate() {
            if !word.starts_with(&RECORD_MAGIC) {
                continue;
            }
            let rest = bytes.get(position.saturating_mul(8)..).unwrap_or(&[]);
            let Ok((record, _)) = record::decode(rest) else { continue };
            let offset = from.saturating_add(u64::try_from(position.saturating_mul(8)).unwrap_or(u64::MAX));
            let into_commit = offset.checked_sub(record.stamp.info_offset);
            let is_in_place = match (self.superblock.layout, record.index) {
                (Layout::TwoRings, _) => true,
                (Layout::Interleaved, 0) => into_commit == Some(0),
                (Layout::Interleaved, _) => into_commit.is_some_and(|into| into < MAX_BATCH_INFO_BYTES),
            };
            if is_in_place && record.stamp.incarnation == self.superblock.incarnation.record_part() {
                self.claim = self.claim.max(record.stamp.flushed);
                self.highest_session = self.highest_session.max(record.stamp.session);
            }
        }
    }
}

/// Write data that the caller has to verify because nothing claims it as flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verify {
    /// Of this update.
    pub number: UpdateNumber,
    /// Where it lies.
    pub place: DataPlace,
    /// Its length, from the skip on.
    pub data_bytes: u32,
    /// What its checksum must be.
    pub data_checksum: u32,
}

/// A journal volume that has been scanned. The caller reads what [`verify`](Self::verify) lists, in order, says
/// [`truncate_at`](Self::truncate_at) for the first that fails, and takes the journal.
#[derive(Debug)]
pub struct Recovered {
    journal: Journal,
    before: Option<CheckpointRecord>,
    claim: UpdateNumber,
    session: u32,
}

impl Recovered {
    /// Write data to be verified, in number order: that of the newest group commit at most.
    pub fn verify(&self) -> Vec<Verify> {
        let first = self.claim.next().get();
        let newest = self.journal.durable().get();
        let updates = (first..=newest).filter_map(|number| self.journal.recent(UpdateNumber::new(number)));
        updates
            .filter_map(|stored| {
                let Stored { update, place } = stored;
                place.map(|place| Verify {
                    number: update.number,
                    place,
                    data_bytes: update.data_bytes,
                    data_checksum: update.data_checksum,
                })
            })
            .collect()
    }

    /// The write data of `number` is bad: the journal ends before the group commit that holds it. An error if the
    /// number was flushed: then this is damage, and the journal has failed.
    pub fn truncate_at(&mut self, number: UpdateNumber) -> Result<(), RecoveryError> {
        let claim = if number <= self.claim { Claim::Made } else { Claim::Absent };
        if decide(Place::Here, Found::Valid, claim, Payload::Bad) == Verdict::Corruption {
            let place = self.journal.recent(number).and_then(|stored| stored.place);
            let volume_offset = place.map_or(0, |place| place.volume_offset_bytes);
            return Err(RecoveryError::Corruption { number, volume_offset });
        }
        self.journal.truncate_at(number);
        Ok(())
    }

    /// The highest number that the journal holds.
    pub fn newest(&self) -> UpdateNumber {
        self.journal.durable()
    }

    /// The caller's own bytes in the checkpoint before the newest, where its slot is not lost. Those of the newest are
    /// [`Journal::extra`].
    pub fn extra_before(&self) -> Option<&[u8]> {
        self.before.as_ref().map(|before| before.extra.as_slice())
    }

    /// The journal, in a new session: it wants a checkpoint first. Replay begins behind [`Journal::settled`], or with
    /// [`Journal::first_retained`] if that is later.
    pub fn into_journal(mut self) -> Journal {
        self.journal.begin_session(self.session);
        self.journal
    }
}

/// Read beyond a piece, so that a record that begins in it is whole.
const OVERLAP_BYTES: u64 = 2 * BLOCK_BYTES;
const _: () = assert!(MAX_RECORD_BYTES <= 8192 && MAX_BATCH_INFO_BYTES <= READ_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_meets_exactly_one_row_of_the_decision_table() {
        for place in [Place::Here, Place::Later] {
            for found in [Found::Valid, Found::Bad] {
                for claim in [Claim::Made, Claim::Absent] {
                    for payload in [Payload::Good, Payload::Bad] {
                        let rows = matching(place, found, claim, payload).count();
                        assert_eq!(rows, 1, "{place:?} {found:?} {claim:?} {payload:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_was_flushed_is_never_cut_off() {
        for found in [Found::Valid, Found::Bad] {
            for payload in [Payload::Good, Payload::Bad] {
                assert_ne!(decide(Place::Here, found, Claim::Made, payload), Verdict::End);
            }
        }
    }

    #[test]
    fn a_head_that_is_too_short_or_empty_is_refused() {
        assert!(matches!(choose(&[]), Err(RecoveryError::NoSuperblock(FormatError::TooShort))));
        let zeros = alloc::vec![0; 4 * BLOCK_LENGTH];
        assert!(matches!(choose(&zeros), Err(RecoveryError::NoSuperblock(FormatError::Magic))));
    }
}
