//! The journal of one group: see [`Journal`].

use crate::bookmark::Bookmark;
use crate::format::{
    BLOCK_BYTES, CheckpointRecord, FormatError, FormatParams, HEAD_BLOCKS, Layout, Superblock, decode_batch,
    head,
};
use crate::number::{Generation, UpdateNumber};
use crate::pointer::{Place, PointerInformation};
use crate::sequencer::{AppendError, Batch, Commit, Full, Placement, Sequencer};
use crate::update::{Draft, DraftSize, Stored};
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// How far ring A may run ahead of the last checkpoint. It bounds what a restart has to search behind the end of the
/// journal; when half of it is used the journal wants a checkpoint, when all of it is used appends are refused.
pub const LOOK_AHEAD_BYTES: u64 = 64 << 20;

/// A checkpoint to be written: one block, then a flush, then [`Journal::handle_checkpointed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Byte offset of the slot on the journal volume.
    pub volume_offset: u64,
    /// 4096 bytes.
    pub block: Vec<u8>,
}

/// Where to read the update information of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    /// Byte offset on the journal volume; a multiple of 4096.
    pub info_offset: u64,
    /// Whole blocks.
    pub info_bytes: u64,
    /// The first update found there.
    pub first: UpdateNumber,
    /// The last update found there.
    pub last: UpdateNumber,
}

impl Located {
    /// The updates in the bytes that were read from here, in number order, with the places of their data. An error means
    /// that a durable record is damaged.
    pub fn decode(&self, superblock: &Superblock, bytes: &[u8]) -> Result<Vec<Stored>, FormatError> {
        let updates = decode_batch(superblock, bytes)?;
        let numbers = updates.first().zip(updates.last()).map(|(a, z)| (a.update.number, z.update.number));
        if numbers == Some((self.first, self.last)) { Ok(updates) } else { Err(FormatError::Misplaced) }
    }
}

/// How full the journal is. *Used* counts padding and what was released but is freed by no durable checkpoint yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of ring A that cannot be written.
    pub info_used: u64,
    /// Bytes of ring A.
    pub info_capacity: u64,
    /// Bytes of ring B that cannot be written.
    pub data_used: u64,
    /// Bytes of ring B.
    pub data_capacity: u64,
    /// Updates held.
    pub updates: u64,
    /// Bytes of both rings that the next checkpoint frees.
    pub freeable: u64,
}

/// The journal of one consistency group on one array.
///
/// It owns the places in both rings, the index by update number and the checkpoints; the caller owns numbers, payload
/// and all I/O. The order of calls for one update: [`append`](Self::append), then the write data to the place given;
/// [`poll_commit`](Self::poll_commit) hands out the records of all that was appended since; when they *and* their
/// write data are flushed, [`handle_committed`](Self::handle_committed). Nothing is freed before
/// [`release`](Self::release) and then a checkpoint that is durable.
///
/// Poll again: `poll_commit` after `append`, `idle_commit`, `handle_committed` and `handle_checkpointed`;
/// `poll_checkpoint` whenever [`wants_checkpoint`](Self::wants_checkpoint) says so, which may change with every call.
/// Write data and records of one commit may be written in any order before the flush: a restart verifies the write
/// data of what nothing claims as flushed. After a restart the first thing is a checkpoint; appends wait for it.
///
/// Costs: an append is O(1), a batch is encoded once; memory is one small entry for each group commit held, and the
/// update information of what is not durable plus the newest few thousand.
#[derive(Debug)]
pub struct Journal {
    superblock: Superblock,
    sequencer: Sequencer,
    index: VecDeque<Batch>,
    released: UpdateNumber,
    settled: UpdateNumber,
    extra: Vec<u8>,
    session_first: UpdateNumber,
    /// The newest durable checkpoint.
    checkpoint: CheckpointRecord,
    checkpoint_in_flight: Option<CheckpointRecord>,
    /// An append found no room since the last checkpoint.
    refused: bool,
    /// The next checkpoint is made although the newest one says the same.
    repeats: bool,
    failed: bool,
}

impl Journal {
    /// Formats a journal volume: gives the first four blocks, which must be durable before anything else is written,
    /// and the empty journal.
    pub fn format(params: FormatParams) -> Result<(Vec<u8>, Self), FormatError> {
        Self::format_following(params, UpdateNumber::NONE, &[])
    }

    /// The same for a volume that continues a journal: its first checkpoint carries what the last one of the volume
    /// before it would say, the settled number and the caller's own bytes.
    pub fn format_following(
        params: FormatParams,
        settled: UpdateNumber,
        extra: &[u8],
    ) -> Result<(Vec<u8>, Self), FormatError> {
        let superblock = Superblock::plan(&params)?;
        let sequencer = Sequencer::new(&superblock, params.first, params.generation);
        let mut checkpoint = CheckpointRecord {
            incarnation: superblock.incarnation,
            session: 1,
            sequence: 0,
            info_oldest: 0,
            data_oldest: 0,
            info_limit: superblock.info_bytes.min(LOOK_AHEAD_BYTES),
            first_retained: params.first,
            next: params.first,
            flushed: params.first.previous(),
            settled: settled.min(params.first.previous()),
            session_first: params.first,
            generation: params.generation,
            previous_hash: 0,
            extra: extra.to_vec(),
        };
        let mut blocks = superblock.encode();
        blocks.extend_from_slice(&superblock.encode());
        // Both slots, so that a slot that cannot be read is always a loss and never just unused.
        blocks.extend_from_slice(&checkpoint.encode()?);
        checkpoint.sequence = 1;
        blocks.extend_from_slice(&checkpoint.encode()?);
        Ok((blocks, Self::assemble(superblock, sequencer, VecDeque::new(), checkpoint)))
    }

    pub(crate) fn assemble(
        superblock: Superblock,
        mut sequencer: Sequencer,
        index: VecDeque<Batch>,
        checkpoint: CheckpointRecord,
    ) -> Self {
        sequencer.info.freed = checkpoint.info_oldest;
        sequencer.info.limit = checkpoint.info_limit;
        sequencer.data.freed = checkpoint.data_oldest;
        sequencer.data.limit = checkpoint.data_oldest.saturating_add(superblock.data_bytes);
        Self {
            superblock,
            sequencer,
            index,
            released: checkpoint.first_retained.previous(),
            settled: checkpoint.settled,
            extra: checkpoint.extra.clone(),
            session_first: checkpoint.session_first,
            checkpoint,
            checkpoint_in_flight: None,
            refused: false,
            repeats: false,
            failed: false,
        }
    }

    /// After a restart: a new session begins with the next number. Nothing is committed before a checkpoint that says
    /// so is durable; otherwise what the restart threw away could be taken for what is written in its place.
    pub(crate) fn begin_session(&mut self, session: u32) {
        self.sequencer.session = session;
        self.session_first = self.sequencer.next;
    }

    /// Throws away the group commit that holds `number` and all later ones, which were never durable.
    pub(crate) fn truncate_at(&mut self, number: UpdateNumber) {
        while let Some(batch) = self.index.pop_back_if(|batch| batch.last >= number) {
            self.sequencer.forget(&batch);
        }
        let newest = self.sequencer.recent.back().map(|recent| recent.stored.update.generation);
        self.sequencer.generation = newest.unwrap_or(self.checkpoint.generation);
    }

    /// Takes the next update and says where its write data goes. The number must be [`next`](Self::next).
    pub fn append(&mut self, draft: Draft) -> Result<Placement, AppendError> {
        if self.failed {
            return Err(AppendError::Failed);
        }
        if self.is_new_session() {
            return Err(AppendError::Full(Full::NewSession));
        }
        let result = self.sequencer.append(draft);
        self.refused |= matches!(result, Err(AppendError::Full(_)));
        result
    }

    /// Whether an update of that size would be taken now.
    pub fn fits(&self, size: DraftSize) -> bool {
        !self.failed && !self.is_new_session() && self.sequencer.fits(size)
    }

    /// Write data that one update may have at most, in blocks: half the area.
    pub fn max_update_data_blocks(&self) -> u64 {
        self.superblock.max_update_data_blocks()
    }

    /// Bytes of each ring that were ever taken, padding included: update information, write data.
    pub fn appended(&self) -> (u64, u64) {
        (self.sequencer.info.head, self.sequencer.data.head)
    }

    /// How full it is.
    pub fn usage(&self) -> Usage {
        let Sequencer { info, data, next, .. } = &self.sequencer;
        let (info_oldest, data_oldest) = self.oldest_offsets();
        Usage {
            info_used: info.used(),
            info_capacity: info.size_bytes,
            data_used: data.used(),
            data_capacity: self.superblock.data_bytes,
            updates: next.since(self.first_retained()),
            freeable: info_oldest
                .saturating_sub(info.freed)
                .saturating_add(data_oldest.saturating_sub(data.freed)),
        }
    }

    /// Closes the open batch and hands it out, if none is in flight.
    pub fn poll_commit(&mut self) -> Option<Commit> {
        if self.failed || self.is_new_session() {
            return None;
        }
        self.sequencer.poll_commit()
    }

    /// The commit that was handed out is durable, write data included; gives its first and last number.
    pub fn handle_committed(&mut self) -> Option<(UpdateNumber, UpdateNumber)> {
        let batch = self.sequencer.handle_committed()?;
        self.index.push_back(batch);
        Some((batch.first, batch.last))
    }

    /// Writes the flushed claim once more: a record without a number, one block. To be called when nothing else will
    /// be committed soon; without it the newest commit, though durable, could be thrown away by a restart that finds
    /// it damaged, where otherwise the damage is found. `false` if there is nothing to say or no room.
    pub fn idle_commit(&mut self) -> bool {
        !self.failed && self.sequencer.idle_commit()
    }

    /// The generation of the newest update that was appended; before the first that of the formatting.
    pub fn generation(&self) -> Generation {
        self.sequencer.generation
    }

    /// The number that must be appended next.
    pub fn next(&self) -> UpdateNumber {
        self.sequencer.next
    }

    /// The highest durable number; before the first update the number before it.
    pub fn durable(&self) -> UpdateNumber {
        self.sequencer.durable
    }

    /// The oldest update that is held; the next number if none is.
    pub fn first_retained(&self) -> UpdateNumber {
        let waiting = || self.sequencer.oldest_waiting().map(|batch| batch.first);
        let held = self.index.front().map(|batch| batch.first);
        held.or_else(waiting).unwrap_or(self.sequencer.next)
    }

    /// Whether something was appended that is not durable.
    pub fn has_uncommitted(&self) -> bool {
        self.sequencer.in_flight.is_some() || !self.sequencer.pending.is_empty()
    }

    /// A write or flush of the journal volume failed: nothing more is taken or handed out, for good.
    pub fn handle_failed(&mut self) {
        self.failed = true;
    }

    /// Whether it has failed.
    pub fn is_failed(&self) -> bool {
        self.failed
    }

    /// The update information of a recent update, durable or not, from memory.
    pub fn recent(&self, number: UpdateNumber) -> Option<&Stored> {
        self.sequencer.find_recent(number).map(|recent| &recent.stored)
    }

    /// Bytes of both rings that lie behind the group commit of `number`: how far a reader that has everything up to
    /// `number` is behind, to within one group commit.
    pub fn bytes_after(&self, number: UpdateNumber) -> u64 {
        let (info, data) = self.areas_after(number);
        info.saturating_add(data)
    }

    /// The same for each ring: update information, write data.
    pub fn areas_after(&self, number: UpdateNumber) -> (u64, u64) {
        let Sequencer { info, data, .. } = &self.sequencer;
        let position = self.index.partition_point(|batch| batch.last <= number);
        let next = self.index.get(position).copied().or_else(|| {
            let mut waiting = self.sequencer.in_flight.iter().chain(&self.sequencer.pending);
            waiting.find(|batch| batch.last > number).copied()
        });
        next.map_or((0, 0), |batch| {
            (info.head.saturating_sub(batch.info_start), data.head.saturating_sub(batch.data_start))
        })
    }

    /// Where the update information of a durable update that is held lies.
    pub fn locate(&self, number: UpdateNumber) -> Option<Located> {
        let batch = self.find_batch(number)?;
        Some(Located {
            info_offset: self.sequencer.info.physical(batch.info_start),
            info_bytes: batch.info_end().saturating_sub(batch.info_start),
            first: batch.first,
            last: batch.last,
        })
    }

    pub(crate) fn find_batch(&self, number: UpdateNumber) -> Option<&Batch> {
        let position = self.index.partition_point(|batch| batch.last < number);
        self.index.get(position).filter(|batch| batch.first <= number)
    }

    /// Everything up to `up_to` is needed by nobody any more. Whole group commits are freed, by the next checkpoint.
    pub fn release(&mut self, up_to: UpdateNumber) {
        self.released = self.released.max(up_to.min(self.durable()));
        while self.index.front().is_some_and(|batch| batch.last <= self.released) {
            self.index.pop_front();
        }
        self.sequencer.trim_recent(self.released);
        let first_retained = self.first_retained();
        self.sequencer.bookmarks.forget_before(first_retained);
    }

    /// The bookmarks that it holds, durable or not, in number order.
    pub fn bookmarks(&self) -> impl Iterator<Item = Bookmark> {
        self.sequencer.bookmarks.iter()
    }

    /// Everything up to here has been released.
    pub fn released(&self) -> UpdateNumber {
        self.released
    }

    /// Everything up to `number` is durable in the volumes: a restart replays from behind it. In the next checkpoint.
    pub fn handle_settled(&mut self, number: UpdateNumber) {
        self.settled = self.settled.max(number.min(self.durable()));
    }

    /// What the caller said is settled.
    pub fn settled(&self) -> UpdateNumber {
        self.settled
    }

    /// The caller's own bytes for the next checkpoint, at most [`head::MAX_EXTRA_BYTES`].
    pub fn set_extra(&mut self, extra: &[u8]) -> Result<(), FormatError> {
        if extra.len() > head::MAX_EXTRA_BYTES {
            return Err(FormatError::ExtraTooLong);
        }
        self.extra = extra.to_vec();
        Ok(())
    }

    /// The caller's own bytes as set last or as found by a restart.
    pub fn extra(&self) -> &[u8] {
        &self.extra
    }

    /// Whether a checkpoint should be made soon: a restart has begun a new session, an eighth of a ring waits to be
    /// freed, an append was refused that a checkpoint may help, or ring A is far ahead of the last one.
    pub fn wants_checkpoint(&self) -> bool {
        if self.failed || self.checkpoint_in_flight.is_some() {
            return false;
        }
        let Sequencer { info, data, .. } = &self.sequencer;
        let (info_oldest, data_oldest) = self.oldest_offsets();
        let info_freeable = info_oldest.saturating_sub(info.freed);
        let data_freeable = data_oldest.saturating_sub(data.freed);
        let limit_moves = self.info_limit(info_oldest) > info.limit;
        self.is_new_session()
            || info_freeable >= info.size_bytes / 8
            || data_freeable >= data.size_bytes / 8
            || (self.refused && (limit_moves || data_freeable > 0))
            || (limit_moves && info.limit.saturating_sub(info.head) < LOOK_AHEAD_BYTES / 2)
    }

    /// The next checkpoint is made even if the durable one says the same: then both slots say it, and the loss of either
    /// changes nothing.
    pub fn repeat_checkpoint(&mut self) {
        self.repeats = true;
    }

    /// A checkpoint of the present state, if it differs from the durable one and none is in flight.
    pub fn poll_checkpoint(&mut self) -> Option<Checkpoint> {
        if self.failed || self.checkpoint_in_flight.is_some() {
            return None;
        }
        let record = self.snapshot();
        if record == self.checkpoint && !self.repeats {
            return None;
        }
        self.repeats = false;
        let record = CheckpointRecord { sequence: record.sequence.saturating_add(1), ..record };
        let block = record.encode().expect("set_extra bounds the only part of variable length");
        // The slot that does not hold the newest durable checkpoint: a torn write leaves that one.
        let slot = HEAD_BLOCKS - 2 + record.sequence % 2;
        self.checkpoint_in_flight = Some(record);
        Some(Checkpoint { volume_offset: slot * BLOCK_BYTES, block })
    }

    /// The checkpoint that was handed out is durable: what it freed can be written again.
    pub fn handle_checkpointed(&mut self) {
        let Some(record) = self.checkpoint_in_flight.take() else { return };
        let Sequencer { info, data, claimed, .. } = &mut self.sequencer;
        info.freed = record.info_oldest;
        info.limit = record.info_limit;
        data.freed = record.data_oldest;
        data.limit = record.data_oldest.saturating_add(data.size_bytes);
        *claimed = (*claimed).max(record.flushed);
        self.refused = false;
        self.checkpoint = record;
    }

    /// The pointer information for a reader that is at `place`.
    pub fn pointer_information(&self, place: Place) -> PointerInformation {
        self.pointers_below(place, None)
    }

    /// The same, when from `end` on another volume has what is asked for.
    pub(crate) fn pointers_below(&self, place: Place, end: Option<UpdateNumber>) -> PointerInformation {
        let Sequencer { info, data, .. } = &self.sequencer;
        let is_held_here = |number: &UpdateNumber| end.is_none_or(|end| *number < end);
        // The first group commit that has the number or a later one.
        let held = |number: UpdateNumber| {
            let position = self.index.partition_point(|batch| batch.last < number);
            let waiting = || self.sequencer.oldest_waiting().filter(|batch| batch.last >= number);
            self.index.get(position).copied().or_else(waiting)
        };
        let offsets = |number: UpdateNumber| {
            let held = Some(number).filter(is_held_here).and_then(held);
            held.map_or((info.head, data.head), |batch| (batch.info_start, batch.data_start))
        };
        let (info_oldest, data_oldest) = offsets(place.oldest);
        let newest = info.physical(info.head);
        let is_one = self.superblock.layout == Layout::Interleaved;
        // What is not durable is not read yet.
        let durable = self.sequencer.durable;
        let address = |number: UpdateNumber| match number <= durable {
            true => info.physical(offsets(number).0),
            false => newest,
        };
        PointerInformation {
            update_information_head: info.area_offset_bytes,
            write_data_head: data.area_offset_bytes,
            update_information_newest: newest,
            update_information_oldest: info.physical(info_oldest),
            write_data_newest: if is_one { newest } else { data.physical(data.head) },
            write_data_oldest: if is_one { info.physical(info_oldest) } else { data.physical(data_oldest) },
            read_start: address(place.read),
            retry_start: address(place.retry),
        }
    }

    /// Whether one of the areas has been written to its end, or nearly so, since the volume was formatted.
    pub(crate) fn has_made_a_lap(&self) -> bool {
        let Sequencer { info, data, .. } = &self.sequencer;
        [info, data].into_iter().any(|ring| ring.head >= ring.size_bytes / 16 * 15)
    }

    /// What the volume was formatted as.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// A restart's first checkpoint is not durable.
    fn is_new_session(&self) -> bool {
        self.checkpoint.session != self.sequencer.session
    }

    /// The oldest group commit that is held, durable or not.
    fn oldest(&self) -> Option<Batch> {
        self.index.front().copied().or_else(|| self.sequencer.oldest_waiting())
    }

    fn oldest_offsets(&self) -> (u64, u64) {
        let Sequencer { info, data, .. } = &self.sequencer;
        self.oldest().map_or((info.head, data.head), |batch| (batch.info_start, batch.data_start))
    }

    /// Never lower than the limit in force: appends go on up to that one while a checkpoint is written.
    fn info_limit(&self, info_oldest: u64) -> u64 {
        let info = &self.sequencer.info;
        let capacity = info_oldest.saturating_add(info.size_bytes);
        capacity.min(info.head.saturating_add(LOOK_AHEAD_BYTES)).max(info.limit)
    }

    fn snapshot(&self) -> CheckpointRecord {
        let sequencer = &self.sequencer;
        let (info_oldest, data_oldest) = self.oldest_offsets();
        CheckpointRecord {
            incarnation: self.superblock.incarnation,
            session: sequencer.session,
            sequence: self.checkpoint.sequence,
            info_oldest,
            data_oldest,
            info_limit: self.info_limit(info_oldest),
            first_retained: self.oldest().map_or(sequencer.next, |batch| batch.first),
            next: sequencer.durable.next(),
            flushed: sequencer.durable,
            settled: self.settled,
            session_first: self.session_first,
            generation: sequencer.generation,
            previous_hash: self.oldest().map_or(sequencer.previous_hash, |batch| batch.previous_hash),
            extra: self.extra.clone(),
        }
    }
}
