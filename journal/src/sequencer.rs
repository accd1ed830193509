//! Appends become group commits: numbers in order, places in both rings, one batch in flight.
//!
//! A batch is closed when it is handed out to be written or when the next record does not fit into it. It is one: a
//! restart keeps all of it or nothing, so a record of a batch that was never durable cannot be mistaken later for
//! the one that took its place. Because one batch is in flight at a time, a batch that is found whole proves that
//! all earlier ones were durable; that is what its `flushed` says.
//!
//! In two rings a place is given to write data when it is appended. Where records and data are interleaved a batch is a
//! *frame* of ring A, records first: how long they are is known, and places are given, when the batch is handed out.

use crate::bookmark::Bookmarks;
use crate::format::record::{
    BatchStamp, Entry, MAX_BATCH_DATA_BYTES, MAX_BATCH_INFO_BYTES, MAX_RECORD_BYTES, Record, record_length,
};
use crate::format::{BLOCK_BYTES, Layout, Superblock};
use crate::number::{Generation, UpdateNumber};
use crate::ring::{Ring, round_up};
use crate::update::{
    DataPlace, Draft, DraftSize, MAX_EXTENTS, MAX_UPDATE_DATA_BYTES, Stored, UpdateError, data_blocks,
};
use alloc::borrow::Cow;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;

/// Batches that wait behind the one in flight. At this many [`Full::CommitBehind`] is given: the unit is slower than
/// the hosts, who have to wait for it.
pub const MAX_PENDING_BATCHES: usize = 16;
/// Updates whose update information stays in memory once it is durable. Older ones are read from ring A.
pub const MAX_RECENT_UPDATES: usize = 8192;

/// Where the write data of an appended update is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The number, as in the draft.
    pub number: UpdateNumber,
    /// Byte offset on the journal volume; a multiple of 4096. Without data it means nothing; none where records and data are
    /// interleaved: then [`Commit::data`] says it.
    pub data_offset: Option<u64>,
    /// Whole blocks; 0 without data.
    pub data_blocks: u64,
}

/// A group commit to be written: all of `info` and all write data, in any order, then a flush, then
/// [`crate::Journal::handle_committed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Byte offset of `info` on the journal volume; a multiple of 4096.
    pub info_offset: u64,
    /// Whole blocks of update information.
    pub info: Vec<u8>,
    /// The first update.
    pub first: UpdateNumber,
    /// The last update. An idle commit has no update: its `last` is the number before `first`.
    pub last: UpdateNumber,
    /// Volume byte offset of each update that has write data, in number order.
    pub data: Vec<(UpdateNumber, u64)>,
}

/// What there is no room for at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The update information area.
    Info,
    /// The write data area.
    Data,
    /// Too many batches wait to be written: wait for the commit in flight.
    CommitBehind,
    /// The first checkpoint after a restart is not durable yet. Before it is, even write data must not be written: it
    /// could complete a group commit that the restart threw away.
    NewSession,
}

/// Why an append was refused; nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendError {
    /// No room now: make a checkpoint if the journal wants one, or wait for a commit or a release.
    Full(Full),
    /// The caller numbered wrongly.
    NotNext {
        /// The number that must come next.
        expected: UpdateNumber,
        /// The number that was given.
        given: UpdateNumber,
    },
    /// Not an update.
    Invalid(UpdateError),
    /// The write data would not even fit into an empty area.
    TooLarge,
    /// The journal has failed and stays so until it is replaced.
    Failed,
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(Full::Info) => f.write_str("the update information area is full"),
            Self::Full(Full::Data) => f.write_str("the write data area is full"),
            Self::Full(Full::CommitBehind) => f.write_str("too many group commits wait to be written"),
            Self::Full(Full::NewSession) => {
                f.write_str("the first checkpoint after a restart is not durable")
            }
            Self::NotNext { expected, given } => write!(f, "update {given} where {expected} must come next"),
            Self::Invalid(error) => write!(f, "impossible update: {error}"),
            Self::TooLarge => f.write_str("the write data is larger than the write data area allows"),
            Self::Failed => f.write_str("the journal has failed"),
        }
    }
}

impl core::error::Error for AppendError {}

/// A group commit, open, waiting, in flight or durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    /// Of an idle commit: the number behind `last`.
    pub(crate) first: UpdateNumber,
    pub(crate) last: UpdateNumber,
    /// Monotonic offset in ring A; whole blocks.
    pub(crate) info_start: u64,
    /// Bytes of the records.
    pub(crate) info_bytes: u64,
    /// Monotonic offsets in ring B, padding before the first data included.
    pub(crate) data_start: u64,
    pub(crate) data_end: u64,
    /// Bytes of write data behind the records, where they are interleaved.
    pub(crate) frame_data_bytes: u64,
    /// Hash of the record before the first; known once the batch is encoded.
    pub(crate) previous_hash: u32,
}

impl Batch {
    pub(crate) fn info_end(&self) -> u64 {
        self.info_start.saturating_add(round_up(self.info_bytes))
    }

    /// Where the next batch may begin in ring A.
    pub(crate) fn end(&self) -> u64 {
        self.info_end().saturating_add(self.frame_data_bytes)
    }

    fn is_marker(&self) -> bool {
        self.first > self.last
    }
}

/// An update whose update information is in memory.
#[derive(Clone, Debug)]
pub(crate) struct Recent {
    pub(crate) stored: Stored,
    pub(crate) data_offset: u64,
    pub(crate) skip_bytes: u16,
}

/// Where an append would go.
struct Plan {
    record_bytes: u64,
    /// `None`: behind the records, when the batch is handed out.
    data_offset: Option<u64>,
    data_bytes: u64,
    /// `None`: into the open batch.
    new_batch_at: Option<u64>,
}

/// The rings and what is on its way into them.
#[derive(Debug)]
pub(crate) struct Sequencer {
    layout: Layout,
    pub(crate) info: Ring,
    pub(crate) data: Ring,
    pub(crate) next: UpdateNumber,
    pub(crate) generation: Generation,
    /// Hash of the last encoded record.
    pub(crate) previous_hash: u32,
    pub(crate) session: u32,
    pub(crate) incarnation: u64,
    pub(crate) durable: UpdateNumber,
    /// The highest number that something durable claims as flushed.
    pub(crate) claimed: UpdateNumber,
    /// Front first; only the last one is open.
    pub(crate) pending: VecDeque<Batch>,
    pub(crate) in_flight: Option<Batch>,
    /// Contiguous numbers up to the newest; holds at least all that is not durable.
    pub(crate) recent: VecDeque<Recent>,
    /// Of all updates that are held.
    pub(crate) bookmarks: Bookmarks,
    batch_info_limit: u64,
    max_update_data_blocks: u64,
}

impl Sequencer {
    pub(crate) fn new(superblock: &Superblock, first: UpdateNumber, generation: Generation) -> Self {
        // At least two commits fit into ring A, whatever the padding; the longest record fits into one.
        let batch_info_limit = (superblock.info_bytes / 4).min(MAX_BATCH_INFO_BYTES);
        Self {
            layout: superblock.layout,
            info: superblock.info_ring(),
            data: superblock.data_ring(),
            next: first,
            generation,
            previous_hash: 0,
            session: 1,
            incarnation: superblock.incarnation.record_part(),
            durable: first.previous(),
            claimed: first.previous(),
            pending: VecDeque::new(),
            in_flight: None,
            recent: VecDeque::new(),
            bookmarks: Bookmarks::default(),
            batch_info_limit: batch_info_limit / BLOCK_BYTES * BLOCK_BYTES,
            max_update_data_blocks: superblock.max_update_data_blocks(),
        }
    }

    pub(crate) fn append(&mut self, draft: Draft) -> Result<Placement, AppendError> {
        let Draft { update, skip_bytes } = &draft;
        let number = update.number;
        if number != self.next {
            return Err(AppendError::NotNext { expected: self.next, given: number });
        }
        update.check().map_err(AppendError::Invalid)?;
        if u64::from(*skip_bytes) >= BLOCK_BYTES || (update.data_bytes == 0 && *skip_bytes != 0) {
            return Err(AppendError::Invalid(UpdateError::Skip));
        }
        let size = draft.size();
        let plan = self.plan(size)?;
        let batch = self.batch_for(&plan);
        batch.last = number;
        batch.info_bytes = batch.info_bytes.saturating_add(plan.record_bytes);
        match plan.data_offset {
            Some(offset) if plan.data_bytes > 0 => batch.data_end = offset.saturating_add(plan.data_bytes),
            Some(_) => {}
            None => batch.frame_data_bytes = batch.frame_data_bytes.saturating_add(plan.data_bytes),
        }
        let (end, data_end) = (batch.end(), batch.data_end);
        (self.info.head, self.data.head) = (end, data_end);
        self.next = number.next();
        self.generation = draft.update.generation;
        draft.update.bookmark().into_iter().for_each(|bookmark| self.bookmarks.push(bookmark));
        let data_offset = plan.data_offset.map(|offset| self.data.physical(offset));
        let has_data = size.data_blocks > 0;
        let place = data_offset.filter(|_| has_data).map(|volume_offset_bytes| DataPlace {
            volume_offset_bytes,
            blocks: size.data_blocks,
            skip_bytes: draft.skip_bytes,
        });
        self.recent.push_back(Recent {
            stored: Stored { update: draft.update, place },
            data_offset: plan.data_offset.unwrap_or(0),
            skip_bytes: draft.skip_bytes,
        });
        Ok(Placement { number, data_offset, data_blocks: size.data_blocks })
    }

    /// Whether an append of that size would be taken now.
    pub(crate) fn fits(&self, size: DraftSize) -> bool {
        self.plan(size).is_ok()
    }

    fn batch_for(&mut self, plan: &Plan) -> &mut Batch {
        if let Some(info_start) = plan.new_batch_at {
            self.pending.push_back(Batch {
                first: self.next,
                last: self.next,
                info_start,
                info_bytes: 0,
                data_start: self.data.head,
                data_end: self.data.head,
                frame_data_bytes: 0,
                previous_hash: 0,
            });
        }
        self.pending.back_mut().expect("the plan found an open batch or asked for a new one")
    }

    fn plan(&self, size: DraftSize) -> Result<Plan, AppendError> {
        if size.extent_count > MAX_EXTENTS {
            return Err(AppendError::Invalid(UpdateError::TooManyExtents));
        }
        if size.data_blocks > self.max_update_data_blocks {
            return Err(AppendError::TooLarge);
        }
        let record_bytes =
            u64::try_from(record_length(size.extent_count)).map_err(|_| AppendError::TooLarge)?;
        let data_bytes = size.data_blocks.saturating_mul(BLOCK_BYTES);
        if self.layout == Layout::Interleaved {
            return self.plan_in_frame(record_bytes, data_bytes);
        }
        let data_offset = match data_bytes {
            0 => self.data.head,
            _ => self.data.place(data_bytes).ok_or(AppendError::Full(Full::Data))?,
        };
        let data_end = data_offset.saturating_add(data_bytes);
        let new_batch_at = if self.open_batch_takes(record_bytes, data_end)? {
            None
        } else if self.pending.len() >= MAX_PENDING_BATCHES {
            return Err(AppendError::Full(Full::CommitBehind));
        } else {
            Some(self.info.place(round_up(record_bytes)).ok_or(AppendError::Full(Full::Info))?)
        };
        Ok(Plan { record_bytes, data_offset: Some(data_offset), data_bytes, new_batch_at })
    }

    /// The same where records and data are interleaved.
    fn plan_in_frame(&self, record_bytes: u64, data_bytes: u64) -> Result<Plan, AppendError> {
        let new_batch_at = if self.open_frame_takes(record_bytes, data_bytes)? {
            None
        } else if self.pending.len() >= MAX_PENDING_BATCHES {
            return Err(AppendError::Full(Full::CommitBehind));
        } else {
            let frame_bytes = round_up(record_bytes).saturating_add(data_bytes);
            Some(self.info.place(frame_bytes).ok_or(AppendError::Full(Full::Info))?)
        };
        Ok(Plan { record_bytes, data_offset: None, data_bytes, new_batch_at })
    }

    fn open_frame_takes(&self, record_bytes: u64, data_bytes: u64) -> Result<bool, AppendError> {
        let Some(batch) = self.pending.back().filter(|batch| !batch.is_marker()) else { return Ok(false) };
        let run_bytes = round_up(batch.info_bytes.saturating_add(record_bytes));
        let data_bytes = batch.frame_data_bytes.saturating_add(data_bytes);
        let frame_bytes = run_bytes.saturating_add(data_bytes);
        // Half the area, so that two frames fit into it, whatever the padding.
        let within_limits = run_bytes <= self.batch_info_limit
            && data_bytes <= MAX_BATCH_DATA_BYTES
            && frame_bytes <= self.info.until_area_end(batch.info_start).min(self.info.size_bytes / 2);
        if within_limits && batch.info_start.saturating_add(frame_bytes) > self.info.limit {
            return Err(AppendError::Full(Full::Info));
        }
        Ok(within_limits)
    }

    /// Gives the write data of a frame its places, now that the length of its records is known.
    fn place_in_frame(&mut self, batch: &Batch) {
        let mut at = batch.info_end();
        let info = self.info;
        let oldest = self.recent.front().map_or(batch.first, |oldest| oldest.stored.update.number);
        let skipped = usize::try_from(batch.first.since(oldest)).unwrap_or(usize::MAX);
        let of_batch = self.recent.iter_mut().skip(skipped);
        for recent in of_batch.take_while(|recent| recent.stored.update.number <= batch.last) {
            let blocks = data_blocks(recent.stored.update.data_bytes, recent.skip_bytes);
            if blocks > 0 {
                let skip_bytes = recent.skip_bytes;
                recent.data_offset = at;
                recent.stored.place =
                    Some(DataPlace { volume_offset_bytes: info.physical(at), blocks, skip_bytes });
                at = at.saturating_add(blocks.saturating_mul(BLOCK_BYTES));
            }
        }
    }

    /// Whether the record belongs into the open batch; an error if it does, but ring A has no room.
    fn open_batch_takes(&self, record_bytes: u64, data_end: u64) -> Result<bool, AppendError> {
        let Some(batch) = self.pending.back().filter(|batch| !batch.is_marker()) else { return Ok(false) };
        let run_bytes = round_up(batch.info_bytes.saturating_add(record_bytes));
        let within_limits = run_bytes <= self.batch_info_limit
            && data_end.saturating_sub(batch.data_start) <= MAX_BATCH_DATA_BYTES
            && run_bytes <= self.info.until_area_end(batch.info_start);
        if within_limits && batch.info_start.saturating_add(run_bytes) > self.info.limit {
            return Err(AppendError::Full(Full::Info));
        }
        Ok(within_limits)
    }

    /// Queues a record without a number that says once more what is flushed.
    pub(crate) fn idle_commit(&mut self) -> bool {
        let idle = self.pending.is_empty() && self.in_flight.is_none();
        if !idle || self.claimed >= self.durable {
            return false;
        }
        let Some(info_start) = self.info.place(BLOCK_BYTES) else { return false };
        let batch = Batch {
            first: self.next,
            last: self.durable,
            info_start,
            info_bytes: u64::try_from(record_length(0)).unwrap_or(BLOCK_BYTES),
            data_start: self.data.head,
            data_end: self.data.head,
            frame_data_bytes: 0,
            previous_hash: 0,
        };
        self.info.head = batch.end();
        self.pending.push_back(batch);
        true
    }

    pub(crate) fn poll_commit(&mut self) -> Option<Commit> {
        if self.in_flight.is_some() {
            return None;
        }
        let mut batch = self.pending.pop_front()?;
        batch.previous_hash = self.previous_hash;
        if self.layout == Layout::Interleaved {
            self.place_in_frame(&batch);
        }
        let mut commit = Commit {
            info_offset: self.info.physical(batch.info_start),
            info: Vec::with_capacity(usize::try_from(round_up(batch.info_bytes)).unwrap_or(0)),
            first: batch.first,
            last: batch.last,
            data: Vec::new(),
        };
        self.encode(&batch, &mut commit);
        // Zeros behind the last record: blocks are written whole.
        let run_bytes = usize::try_from(round_up(batch.info_bytes)).unwrap_or(commit.info.len());
        commit.info.resize(run_bytes, 0);
        self.in_flight = Some(batch);
        Some(commit)
    }

    fn encode(&mut self, batch: &Batch, commit: &mut Commit) {
        let record_count = if batch.is_marker() { 1 } else { batch.last.next().since(batch.first) };
        let stamp = BatchStamp {
            record_count: u16::try_from(record_count)
                .expect("MAX_BATCH_INFO_BYTES bounds the records of a batch"),
            session: self.session,
            incarnation: self.incarnation,
            info_offset: batch.info_start,
            flushed: self.durable,
        };
        for index in 0..stamp.record_count {
            let record = self.record(batch, stamp, index, commit);
            self.previous_hash = record.encode(&mut commit.info).expect("append checked the update");
        }
    }

    fn record(&self, batch: &Batch, stamp: BatchStamp, index: u16, commit: &mut Commit) -> Record<'_> {
        let previous_hash = self.previous_hash;
        if batch.is_marker() {
            let entry = Entry::Marker { number: batch.last, generation: self.generation };
            return Record {
                entry,
                stamp,
                index,
                previous_hash,
                data_offset: self.data.head,
                skip_bytes: 0,
                hash: 0,
            };
        }
        let number = UpdateNumber::new(batch.first.get().saturating_add(u64::from(index)));
        let recent = self.find_recent(number).expect("what is not durable is kept in memory");
        if let Some(place) = recent.stored.place {
            commit.data.push((number, place.volume_offset_bytes));
        }
        Record {
            entry: Entry::Update(Cow::Borrowed(&recent.stored.update)),
            stamp,
            index,
            previous_hash,
            data_offset: recent.data_offset,
            skip_bytes: recent.skip_bytes,
            hash: 0,
        }
    }

    /// The batch in flight is durable; gives it.
    pub(crate) fn handle_committed(&mut self) -> Option<Batch> {
        let batch = self.in_flight.take()?;
        // Its records claim what was durable when they were encoded, and nothing became durable since.
        self.claimed = self.claimed.max(self.durable);
        self.durable = self.durable.max(batch.last);
        self.trim_recent(UpdateNumber::NONE);
        Some(batch)
    }

    pub(crate) fn find_recent(&self, number: UpdateNumber) -> Option<&Recent> {
        let oldest = self.recent.front()?.stored.update.number;
        let position = number.get().checked_sub(oldest.get())?;
        self.recent.get(usize::try_from(position).ok()?)
    }

    /// Drops what is released or beyond the limit, never what is not durable.
    pub(crate) fn trim_recent(&mut self, released: UpdateNumber) {
        while let Some(oldest) = self.recent.front().map(|recent| recent.stored.update.number) {
            let surplus = self.recent.len() > MAX_RECENT_UPDATES && oldest <= self.durable;
            if oldest > released && !surplus {
                return;
            }
            self.recent.pop_front();
        }
    }

    /// After a restart: the newest batch turned out not to be durable.
    pub(crate) fn forget(&mut self, batch: &Batch) {
        self.info.head = batch.info_start;
        self.data.head = batch.data_start;
        self.next = batch.first;
        self.durable = batch.first.previous();
        self.previous_hash = batch.previous_hash;
        self.bookmarks.forget_from(batch.first);
        while self.recent.back().is_some_and(|recent| recent.stored.update.number >= batch.first) {
            self.recent.pop_back();
        }
    }

    /// The oldest batch that is not durable.
    pub(crate) fn oldest_waiting(&self) -> Option<Batch> {
        // A batch that was not encoded yet follows what was encoded last.
        let waiting = self.pending.front().map(|batch| Batch { previous_hash: self.previous_hash, ..*batch });
        self.in_flight.or(waiting)
    }
}

const _: () = assert!(MAX_RECORD_BYTES <= 2 * 4096);
const _: () = assert!((MAX_UPDATE_DATA_BYTES as u64) < MAX_BATCH_DATA_BYTES);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::FormatParams;
    use crate::number::{ArrayNumber, GroupNumber, Incarnation, VolumeNumber};
    use crate::update::{Content, Extent, Kind, Update};
    use alloc::sync::Arc;
    use alloc::vec;

    fn sequencer() -> Sequencer {
        let params = FormatParams {
            incarnation: Incarnation::new(5),
            array: ArrayNumber(1),
            group: GroupNumber(7),
            volume_bytes: 1 << 30,
            layout: Layout::TwoRings,
            data_per_info: 16,
            first: UpdateNumber::new(100),
            generation: Generation::default(),
        };
        Sequencer::new(&Superblock::plan(&params).unwrap(), params.first, params.generation)
    }

    fn write(number: UpdateNumber, start_bytes: u64, data_bytes: u32) -> Draft {
        let length_bytes = u64::from(data_bytes);
        Draft::new(Update {
            number,
            generation: Generation::default(),
            kind: Kind::HostWrite,
            time_ns: 0,
            extents: vec![Extent {
                volume: VolumeNumber(1),
                start_bytes,
                length_bytes,
                content: Content::Data,
            }],
            data_bytes,
            data_checksum: 1,
        })
    }

    #[test]
    fn data_lies_as_its_cache_pages_lie() {
        let mut sequencer = sequencer();
        let data_area = sequencer.data.area_offset_bytes;
        // 4096 bytes from byte 512 on touch two pages.
        let placement = sequencer.append(write(UpdateNumber::new(100), 3 * 4096 + 512, 4096)).unwrap();
        assert_eq!((placement.data_offset, placement.data_blocks), (Some(data_area), 2));
        assert_eq!(sequencer.recent[0].stored.place.unwrap().skip_bytes, 512);
        let placement = sequencer.append(write(UpdateNumber::new(101), 8192, 4096)).unwrap();
        assert_eq!((placement.data_offset, placement.data_blocks), (Some(data_area + 8192), 1));
    }

    #[test]
    fn a_commit_holds_no_more_data_than_its_limit_and_one_is_in_flight() {
        let mut sequencer = sequencer();
        for _ in 0..5 {
            sequencer.append(write(sequencer.next, 0, MAX_UPDATE_DATA_BYTES)).unwrap();
        }
        let commit = sequencer.poll_commit().unwrap();
        assert_eq!((commit.first.get(), commit.last.get(), commit.data.len()), (100, 101, 2));
        assert!(sequencer.poll_commit().is_none());
        assert_eq!(sequencer.durable.get(), 99);
        sequencer.handle_committed().unwrap();
        assert_eq!(sequencer.durable.get(), 101);
        assert_eq!(sequencer.poll_commit().unwrap().first.get(), 102);
    }

    #[test]
    fn a_commit_holds_no_more_records_than_its_limit_and_so_many_may_wait() {
        let mut sequencer = sequencer();
        let refused = loop {
            let mut draft = write(sequencer.next, 0, 512);
            let update = Arc::make_mut(&mut draft.update);
            update.extents[0].content = Content::Zero;
            (update.data_bytes, update.data_checksum, draft.skip_bytes) = (0, 0, 0);
            if let Err(error) = sequencer.append(draft) {
                break error;
            }
        };
        assert_eq!(refused, AppendError::Full(Full::CommitBehind));
        assert_eq!(sequencer.pending.len(), MAX_PENDING_BATCHES);
        let commit = sequencer.poll_commit().unwrap();
        assert_eq!(u64::try_from(commit.info.len()).unwrap(), MAX_BATCH_INFO_BYTES);
        assert!(commit.data.is_empty());
    }

    #[test]
    fn what_is_not_durable_stays_in_memory_and_of_the_rest_the_newest() {
        let mut sequencer = sequencer();
        for _ in 0..2 * MAX_RECENT_UPDATES {
            sequencer.append(write(sequencer.next, 0, 512)).unwrap();
        }
        assert!(sequencer.find_recent(UpdateNumber::new(100)).is_some());
        while sequencer.poll_commit().is_some() {
            sequencer.handle_committed();
        }
        assert_eq!(sequencer.recent.len(), MAX_RECENT_UPDATES);
        assert!(sequencer.find_recent(UpdateNumber::new(100)).is_none());
        assert!(sequencer.find_recent(sequencer.durable).is_some());
        assert!(sequencer.find_recent(sequencer.next).is_none());
    }
}
