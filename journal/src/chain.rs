//! A journal over several volumes: [`Chain`].
//!
//! Each volume holds a *segment*: a [`Journal`] of its own, formatted to begin with one number. The last segment is
//! written; those before it are only read and, once nobody needs what they hold, dropped whole. So a chain grows by a
//! larger volume, shrinks, goes on in a reserve and alternates between volumes by one and the same step: the next
//! segment begins.
//!
//! # What it guarantees
//! * The head of a segment that begins with number N is written when everything below N is durable in the segments
//!   before it; and the caller names the segment in its own store before anything is appended to it behind what it
//!   took over. So a segment that is named claims everything below its first number as flushed.
//! * Of two segments that hold the same number the later one counts: a reserve that takes over is given once more what
//!   the caller has in memory.
//! * Checkpoints are written to the last segment only; they speak for the whole chain.
//!
//! # What a restart does
//! The caller recovers each named volume ([`crate::recovery`]; all but the last with
//! [`Recovery::open_until`](crate::recovery::Recovery::open_until)) and asks [`judge`]:
//!
//! | volume | what was found | something below its end is still to be replayed | verdict |
//! |---|---|---|---|
//! | last | a journal | any | keep |
//! | last | none | any | the journal has failed |
//! | earlier | a journal | any | keep |
//! | earlier | none | yes | the journal has failed |
//! | earlier | none | no | it is lost for readers: what they lack of it is in no journal any more |

use crate::bookmark::Bookmark;
use crate::format::{FormatError, Superblock};
use crate::journal::{Checkpoint, Journal, Located, Usage};
use crate::number::{Generation, Incarnation, UpdateNumber, VolumeNumber};
use crate::pointer::{Place, PointerInformation};
use crate::sequencer::{AppendError, Commit, Placement};
use crate::update::{Draft, DraftSize, Stored};
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// Segments of one chain at most; a caller begins no further one then.
pub const MAX_SEGMENTS: usize = 32;

/// One volume of a chain.
#[derive(Debug)]
struct Segment {
    volume: VolumeNumber,
    first: UpdateNumber,
    journal: Journal,
}

/// One volume of a chain, to be named in the caller's store or shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// The volume.
    pub volume: VolumeNumber,
    /// What it was formatted as.
    pub superblock: Superblock,
    /// Its first number.
    pub first: UpdateNumber,
    /// How full it is.
    pub usage: Usage,
    /// The oldest number that it holds.
    pub oldest: UpdateNumber,
    /// The newest one; below `oldest` if it holds none.
    pub newest: UpdateNumber,
    /// Its last write failed.
    pub is_failed: bool,
}

/// Where the update information of an update lies, and in which volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The volume.
    pub volume: VolumeNumber,
    /// Where in it.
    pub located: Located,
    superblock: Superblock,
    /// Numbers from here on are not this volume's.
    end: Option<UpdateNumber>,
}

impl Held {
    /// Identity of the formatting of the volume.
    pub fn incarnation(&self) -> Incarnation {
        self.superblock.incarnation
    }

    /// Whether both are the same bytes. The volume may have got an end meanwhile: the chain has gone on in another one.
    pub fn is_same_place(&self, other: &Self) -> bool {
        (self.volume, self.located, self.superblock) == (other.volume, other.located, other.superblock)
    }

    /// The updates in the bytes that were read from here, as [`Located::decode`] gives them, as far as they are this
    /// volume's.
    pub fn decode(&self, bytes: &[u8]) -> Result<Vec<Stored>, FormatError> {
        let mut updates = self.located.decode(&self.superblock, bytes)?;
        if let Some(end) = self.end {
            updates.retain(|stored| stored.update.number < end);
        }
        Ok(updates)
    }
}

/// Whether the volume is the last of its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// It is written.
    Last,
    /// Others follow it.
    Earlier,
}

/// What a restart has to do about one volume of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is part of the chain.
    Keep,
    /// The chain cannot be used.
    Failed,
    /// It is left out; [`Chain::lose_below`] says where the rest begins.
    Lost,
}

/// The table of the module's documentation: `None` is *any*.
const DECISIONS: [(Position, bool, Option<bool>, Verdict); 5] = [
    (Position::Last, true, None, Verdict::Keep),
    (Position::Last, false, None, Verdict::Failed),
    (Position::Earlier, true, None, Verdict::Keep),
    (Position::Earlier, false, Some(true), Verdict::Failed),
    (Position::Earlier, false, Some(false), Verdict::Lost),
];

fn matching(position: Position, is_found: bool, is_needed: bool) -> impl Iterator<Item = Verdict> {
    DECISIONS.into_iter().filter_map(move |(row_position, row_found, row_needed, verdict)| {
        let matches = row_position == position
            && row_found == is_found
            && row_needed.is_none_or(|row| row == is_needed);
        matches.then_some(verdict)
    })
}

/// What to do about one volume: whether a journal was found on it, and whether something below its end is still to be
/// replayed (what is settled, as the last volume's checkpoint says, ends before its end).
pub fn judge(position: Position, is_found: bool, is_needed: bool) -> Verdict {
    matching(position, is_found, is_needed).next().expect("each combination meets exactly one row")
}

/// Where each segment but the last of a chain ends, given the first number of each, oldest first: at the smallest first
/// number of those behind it. A volume that takes over may begin below the ones before it, which then hold nothing.
pub fn ends_of(firsts: &[UpdateNumber]) -> Vec<UpdateNumber> {
    let mut ends: Vec<UpdateNumber> = firsts
        .iter()
        .skip(1)
        .rev()
        .scan(None, |end: &mut Option<UpdateNumber>, first| {
            let smallest = end.map_or(*first, |end| end.min(*first));
            *end = Some(smallest);
            Some(smallest)
        })
        .collect();
    ends.reverse();
    ends
}

/// A journal over several volumes; see the module's documentation. What is not said of a method here is as at
/// [`Journal`].
#[derive(Debug)]
pub struct Chain {
    /// Earlier ones, oldest first.
    earlier: VecDeque<Segment>,
    last: Segment,
    /// What lies below in earlier segments cannot be read any more.
    lost_below: UpdateNumber,
    released: UpdateNumber,
    /// What was released when the checkpoint in flight was made.
    freeing: Option<UpdateNumber>,
    /// What was released when the durable checkpoint was made: a restart asks for nothing before it.
    freed: UpdateNumber,
    /// Room of volumes that wait for their turn: update information, write data.
    spare: (u64, u64),
    /// What was appended to earlier volumes.
    appended: (u64, u64),
}

impl Chain {
    /// A chain of one volume.
    pub fn new(volume: VolumeNumber, journal: Journal) -> Self {
        let first = journal.first_retained();
        let released = journal.released();
        let last = Segment { volume, first, journal };
        Self::assemble(VecDeque::new(), last, released)
    }

    fn assemble(earlier: VecDeque<Segment>, last: Segment, released: UpdateNumber) -> Self {
        Self {
            earlier,
            last,
            lost_below: UpdateNumber::NONE,
            released,
            freeing: None,
            freed: released,
            spare: (0, 0),
            appended: (0, 0),
        }
    }

    /// A chain as a restart found it: volumes that were kept, oldest first, each with its first number.
    pub fn join(segments: Vec<(VolumeNumber, UpdateNumber, Journal)>) -> Option<Self> {
        let mut earlier: VecDeque<Segment> =
            segments.into_iter().map(|(volume, first, journal)| Segment { volume, first, journal }).collect();
        let last = earlier.pop_back()?;
        // A volume that has freed something shows that nothing before it is needed, though it may still be named: its own
        // checkpoints are the only ones that were written since it began.
        let oldest = earlier.front().unwrap_or(&last);
        let has_freed = |segment: &&Segment| segment.journal.first_retained() > segment.first;
        let freeing = [&last].into_iter().chain(earlier.iter().rev()).find(has_freed).unwrap_or(oldest);
        let released = freeing.journal.first_retained().previous();
        Some(Self::assemble(earlier, last, released))
    }

    /// The next volume begins with number `first`. Either nothing was appended from there on, or `journal` holds all of
    /// that again; then everything is durable in it.
    pub fn begin_segment(&mut self, volume: VolumeNumber, first: UpdateNumber, journal: Journal) {
        let next = Segment { volume, first, journal };
        let before = core::mem::replace(&mut self.last, next);
        let (info, data) = before.journal.appended();
        self.appended = (self.appended.0.saturating_add(info), self.appended.1.saturating_add(data));
        self.earlier.push_back(before);
        self.freeing = None;
    }

    /// Everything below `number` in earlier segments cannot be read.
    pub fn lose_below(&mut self, number: UpdateNumber) {
        self.lost_below = self.lost_below.max(number.min(self.last.first));
    }

    /// Below this number nothing can be read that an earlier segment held.
    pub fn lost_below(&self) -> UpdateNumber {
        self.lost_below
    }

    /// Where the segment that holds `number` ends: the smallest first number of those behind it, because one that took
    /// over may reach back over several; none for the last segment.
    pub fn end_of(&self, number: UpdateNumber) -> Option<UpdateNumber> {
        let holder = self.earlier.iter().rposition(|segment| number >= segment.first);
        let latest_first = [&self.last].into_iter().chain(self.earlier.iter().rev());
        let behind = if number >= self.last.first {
            0
        } else {
            self.earlier.len().saturating_sub(holder.map_or(0, |at| at.saturating_add(1))).saturating_add(1)
        };
        latest_first.take(behind).map(|segment| segment.first).min()
    }

    /// Where each of the earlier segments ends, oldest first.
    fn ends(&self) -> Vec<UpdateNumber> {
        let firsts: Vec<UpdateNumber> =
            self.earlier.iter().chain([&self.last]).map(|segment| segment.first).collect();
        ends_of(&firsts)
    }

    /// The volume that is written.
    pub fn volume(&self) -> VolumeNumber {
        self.last.volume
    }

    /// Where the volume that is written began.
    pub fn first_of_last(&self) -> UpdateNumber {
        self.last.first
    }

    /// Whether no further segment may begin.
    pub fn is_too_long(&self) -> bool {
        self.earlier.len().saturating_add(1) >= MAX_SEGMENTS
    }

    /// Whether an earlier volume of the chain has failed.
    pub fn has_failed_segment(&self) -> bool {
        self.earlier.iter().any(|segment| segment.journal.is_failed())
    }

    /// The volumes, oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let all = self.earlier.iter().chain([&self.last]);
        all.zip(self.ends().into_iter().map(Some).chain([None]))
            .map(|(segment, end)| SegmentInfo {
                volume: segment.volume,
                superblock: *segment.journal.superblock(),
                first: segment.first,
                usage: segment.journal.usage(),
                oldest: segment.journal.first_retained(),
                newest: end.map_or(segment.journal.next(), |end| end.min(segment.journal.next())).previous(),
                is_failed: segment.journal.is_failed(),
            })
            .collect()
    }

    /// Whether the volume holds a part of it.
    pub fn contains(&self, volume: VolumeNumber) -> bool {
        self.earlier.iter().chain([&self.last]).any(|segment| segment.volume == volume)
    }

    /// The oldest volumes that hold nothing from `number` on; never the one that is written.
    pub fn segments_before(&self, number: UpdateNumber) -> impl Iterator<Item = u32> {
        let before = self.earlier.iter().zip(self.ends()).take_while(move |(_, end)| *end <= number);
        before.map(|(segment, _)| segment.volume.0)
    }

    /// How many of the oldest segments hold nothing any more that the last durable checkpoint needs.
    pub fn drained(&self) -> usize {
        if self.earlier.is_empty() {
            return 0;
        }
        self.ends().into_iter().take_while(|end| *end <= self.freed.next()).count()
    }

    /// Whether there are such segments.
    pub fn has_drained(&self) -> bool {
        self.drained() > 0
    }

    /// Takes out the oldest segments, once the caller's store no longer names them.
    pub fn drop_oldest(&mut self, count: usize) {
        self.earlier.drain(..count.min(self.earlier.len()));
    }

    /// Whether the volume that is written has been written from its beginning to its end: time for the next one.
    pub fn has_made_a_lap(&self) -> bool {
        self.last.journal.has_made_a_lap()
    }

    /// The room of the volumes that wait for their turn, for [`usage`](Self::usage).
    pub fn set_spare(&mut self, (info_bytes, data_bytes): (u64, u64)) {
        self.spare = (info_bytes, data_bytes);
    }

    /// See [`Journal::append`].
    pub fn append(&mut self, draft: Draft) -> Result<Placement, AppendError> {
        self.last.journal.append(draft)
    }

    /// See [`Journal::fits`].
    pub fn fits(&self, size: DraftSize) -> bool {
        self.last.journal.fits(size)
    }

    /// See [`Journal::poll_commit`]. It belongs into [`volume`](Self::volume).
    pub fn poll_commit(&mut self) -> Option<Commit> {
        self.last.journal.poll_commit()
    }

    /// See [`Journal::handle_committed`].
    pub fn handle_committed(&mut self) -> Option<(UpdateNumber, UpdateNumber)> {
        self.last.journal.handle_committed()
    }

    /// See [`Journal::has_uncommitted`].
    pub fn has_uncommitted(&self) -> bool {
        self.last.journal.has_uncommitted()
    }

    /// See [`Journal::next`].
    pub fn next(&self) -> UpdateNumber {
        self.last.journal.next()
    }

    /// See [`Journal::generation`]; of the newest update, which an earlier volume may hold.
    pub fn generation(&self) -> Generation {
        self.last.journal.generation()
    }

    /// See [`Journal::durable`].
    pub fn durable(&self) -> UpdateNumber {
        self.last.journal.durable()
    }

    /// The oldest update that is held and not lost; the next number if none is.
    pub fn first_retained(&self) -> UpdateNumber {
        let held = self.earlier.iter().find_map(|segment| {
            let oldest = segment.journal.first_retained().max(segment.first);
            let end = self.end_of(segment.first)?;
            (oldest < end && end > self.lost_below).then_some(oldest)
        });
        let oldest = held.unwrap_or(self.last.journal.first_retained());
        oldest.max(self.lost_below).max(self.released.next()).min(self.next())
    }

    /// See [`Journal::handle_failed`]; of the volume that is written.
    pub fn handle_failed(&mut self) {
        self.last.journal.handle_failed();
    }

    /// See [`Journal::recent`]; also of what was lost since, as long as it is remembered.
    pub fn recent(&self, number: UpdateNumber) -> Option<&Stored> {
        self.segment_of(number).journal.recent(number)
    }

    /// See [`Journal::bytes_after`].
    pub fn bytes_after(&self, number: UpdateNumber) -> u64 {
        let (info, data) = self.areas_after(number);
        info.saturating_add(data)
    }

    /// See [`Journal::areas_after`].
    pub fn areas_after(&self, number: UpdateNumber) -> (u64, u64) {
        let earlier = self
            .earlier
            .iter()
            .filter(|segment| self.end_of(segment.first).is_some_and(|end| number.next() < end));
        earlier.chain([&self.last]).fold((0, 0), |(info, data), segment| {
            let (more_info, more_data) = segment.journal.areas_after(number);
            (more_info.saturating_add(info), more_data.saturating_add(data))
        })
    }

    /// See [`Journal::appended`]; of all volumes.
    pub fn appended(&self) -> (u64, u64) {
        let (info, data) = self.last.journal.appended();
        (info.saturating_add(self.appended.0), data.saturating_add(self.appended.1))
    }

    /// Where the update information of a durable update that is held lies.
    pub fn locate(&self, number: UpdateNumber) -> Option<Held> {
        if number < self.lost_below && number < self.last.first {
            return None;
        }
        let segment = self.segment_of(number);
        let located = segment.journal.locate(number)?;
        let end = self.end_of(number);
        let superblock = *segment.journal.superblock();
        Some(Held { volume: segment.volume, located, superblock, end })
    }

    fn segment_of(&self, number: UpdateNumber) -> &Segment {
        let mut latest_first = [&self.last].into_iter().chain(self.earlier.iter().rev());
        latest_first.find(|segment| number >= segment.first).unwrap_or(&self.last)
    }

    /// See [`Journal::release`].
    pub fn release(&mut self, up_to: UpdateNumber) {
        self.released = self.released.max(up_to.min(self.durable()));
        for segment in self.earlier.iter_mut().chain([&mut self.last]) {
            segment.journal.release(up_to);
        }
    }

    /// See [`Journal::bookmarks`].
    pub fn bookmarks(&self) -> impl Iterator<Item = Bookmark> {
        let segments = self.earlier.iter().chain([&self.last]);
        segments.flat_map(|segment| segment.journal.bookmarks())
    }

    /// See [`Journal::released`].
    pub fn released(&self) -> UpdateNumber {
        self.released
    }

    /// See [`Journal::handle_settled`].
    pub fn handle_settled(&mut self, number: UpdateNumber) {
        self.last.journal.handle_settled(number);
    }

    /// See [`Journal::settled`].
    pub fn settled(&self) -> UpdateNumber {
        self.last.journal.settled()
    }

    /// See [`Journal::set_extra`].
    pub fn set_extra(&mut self, extra: &[u8]) -> Result<(), FormatError> {
        self.last.journal.set_extra(extra)
    }

    /// See [`Journal::wants_checkpoint`].
    pub fn wants_checkpoint(&self) -> bool {
        self.last.journal.wants_checkpoint()
    }

    /// See [`Journal::repeat_checkpoint`].
    pub fn repeat_checkpoint(&mut self) {
        self.last.journal.repeat_checkpoint();
    }

    /// See [`Journal::poll_checkpoint`]. It belongs into [`volume`](Self::volume).
    pub fn poll_checkpoint(&mut self) -> Option<Checkpoint> {
        let checkpoint = self.last.journal.poll_checkpoint();
        match checkpoint {
            Some(_) => self.freeing = Some(self.released),
            // Nothing has changed since the durable one.
            None if self.freeing.is_none() && !self.last.journal.is_failed() => self.freed = self.released,
            None => {}
        }
        checkpoint
    }

    /// See [`Journal::handle_checkpointed`].
    pub fn handle_checkpointed(&mut self) {
        self.last.journal.handle_checkpointed();
        if let Some(freeing) = self.freeing.take() {
            self.freed = self.freed.max(freeing);
        }
    }

    /// How full that is what can be written: the last volume, and the room of those that wait for their turn. What
    /// earlier volumes hold is in none of the two numbers.
    pub fn usage(&self) -> Usage {
        let usage = self.last.journal.usage();
        Usage {
            info_capacity: usage.info_capacity.saturating_add(self.spare.0),
            data_capacity: usage.data_capacity.saturating_add(self.spare.1),
            updates: self.next().since(self.first_retained()),
            ..usage
        }
    }

    /// See [`Journal::pointer_information`]; of each volume, oldest first. In one that has nothing from a number on the
    /// address is the newest, in one behind it the oldest.
    pub fn pointer_information(&self, place: Place) -> Vec<(VolumeNumber, PointerInformation)> {
        let all = self.earlier.iter().chain([&self.last]);
        all.zip(self.ends().into_iter().map(Some).chain([None]))
            .map(|(segment, end)| (segment.volume, segment.journal.pointers_below(place, end)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_meets_exactly_one_row_of_the_decision_table() {
        for position in [Position::Last, Position::Earlier] {
            for is_found in [true, false] {
                for is_needed in [true, false] {
                    let rows = matching(position, is_found, is_needed).count();
                    assert_eq!(rows, 1, "{position:?} {is_found} {is_needed}");
                }
            }
        }
    }

    fn number(value: u64) -> UpdateNumber {
        UpdateNumber::new(value)
    }

    fn segment(volume: u32, first: u64) -> (VolumeNumber, UpdateNumber, Journal) {
        let params = crate::format::FormatParams {
            incarnation: Incarnation::new(u128::from(volume)),
            array: crate::ArrayNumber(1),
            group: crate::GroupNumber(1),
            volume_bytes: 4 << 20,
            layout: crate::format::Layout::default(),
            data_per_info: crate::format::head::DEFAULT_RATIO,
            first: number(first),
            generation: Generation::default(),
        };
        let (_, journal) = Journal::format_following(params, number(first).previous(), &[]).unwrap();
        (VolumeNumber(volume), number(first), journal)
    }

    #[test]
    fn a_volume_that_reaches_back_over_two_ends_both_where_it_begins() {
        assert_eq!(ends_of(&[1, 100, 50].map(number)), [50, 50].map(number));
        let chain = Chain::join([segment(1, 1), segment(2, 100), segment(3, 50)].into()).unwrap();
        assert_eq!(chain.end_of(number(1)), Some(number(50)));
        assert_eq!(chain.end_of(number(49)), Some(number(50)));
        assert_eq!(chain.end_of(number(60)), None, "the last volume has it");
        assert_eq!(chain.segments_before(number(50)).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn nothing_that_is_still_to_be_replayed_is_ever_left_out() {
        for position in [Position::Last, Position::Earlier] {
            assert_eq!(judge(position, false, true), Verdict::Failed);
        }
    }
}
