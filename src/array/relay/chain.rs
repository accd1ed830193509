//! The chain of batches on a relay's journal LUN, as both sides walk it.
//!
//! # What it guarantees
//! * The LUN is as large as the control information of the chain says, whatever its target says now: by that size its writer
//!   goes round.
//! * Of a batch that was given up because the session ended, anything may have landed, its head included. If what was written
//!   in its place is longer and begins at the front of the LUN, both heads follow the same batch: the whole one counts.
//! * Nothing is passed that may be such a remainder: the last batch of a chain is, if it is not whole.

use super::lun::{RelayError, RelayLun};
use crate::disk::slot::SLOT_BYTES;
use holdfast_journal::format::crc32c;
use holdfast_journal::format::relay::{Batch, FIRST_BLOCK, FirstControl, Position, RelayId};
use holdfast_journal::{Incarnation, UpdateNumber};
use std::sync::{Mutex, PoisonError};

/// What is read in pages.
pub(super) trait ReadPages: Sync {
    /// Pages from `page` on; `count` is bounded by the caller.
    fn read_pages(&self, page: u64, count: u64) -> impl Future<Output = Result<Vec<u8>, RelayError>> + Send;
}

impl ReadPages for RelayLun {
    fn read_pages(&self, page: u64, count: u64) -> impl Future<Output = Result<Vec<u8>, RelayError>> + Send {
        self.read(page, count)
    }
}

/// Reads what lies behind along with what is asked for, as long as that is asked for next: heads of small batches lie near each other, and each
/// would be a round trip. To be used for one walk: what was read ahead may be written meanwhile.
struct Ahead<'a, R> {
    journal: &'a R,
    /// Blocks of the LUN.
    blocks: u64,
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    start: u64,
    bytes: Vec<u8>,
    /// The page at the front of the LUN, where each batch near its end may be followed.
    front: Option<Vec<u8>>,
    /// Pages to read at once.
    pages: u64,
    /// Something was found in it.
    is_used: bool,
}

impl<'a, R> Ahead<'a, R> {
    fn new(journal: &'a R, blocks: u64) -> Self {
        Self { journal, blocks, cache: Mutex::default() }
    }

    fn find(&self, page: u64, count: u64) -> Option<Vec<u8>> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if (page, count) == (FIRST_BLOCK, 1) && cache.front.is_some() {
            return cache.front.clone();
        }
        let bytes = |pages: u64| usize::try_from(pages).ok()?.checked_mul(SLOT_BYTES);
        let found = cache.bytes.get(bytes(page.checked_sub(cache.start)?)?..)?.get(..bytes(count)?)?.to_vec();
        cache.is_used = true;
        Some(found)
    }

    /// How many pages to read from one on.
    fn pages_from(&self, page: u64) -> u64 {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let is_used = std::mem::take(&mut cache.is_used);
        cache.pages =
            if is_used { cache.pages * 4 } else { 1.max(cache.pages / 4) }.clamp(AHEAD_MIN, AHEAD_MAX);
        cache.pages.min(self.blocks.saturating_sub(page)).max(1)
    }

    fn put(&self, start: u64, bytes: Vec<u8>) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        (cache.start, cache.bytes) = (start, bytes);
    }
}

impl<R: ReadPages> ReadPages for Ahead<'_, R> {
    async fn read_pages(&self, page: u64, count: u64) -> Result<Vec<u8>, RelayError> {
        if let Some(found) = self.find(page, count) {
            return Ok(found);
        }
        if count > 1 {
            return self.journal.read_pages(page, count).await;
        }
        if page == FIRST_BLOCK {
            let front = self.journal.read_pages(page, 1).await?;
            self.cache.lock().unwrap_or_else(PoisonError::into_inner).front = Some(front.clone());
            return Ok(front);
        }
        let bytes = self.journal.read_pages(page, self.pages_from(page)).await?;
        let first = bytes.get(..SLOT_BYTES).unwrap_or_default().to_vec();
        self.put(page, bytes);
        Ok(first)
    }
}

/// A chain, and the blocks of its journal LUN.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain {
    pub(super) incarnation: Incarnation,
    pub(super) id: RelayId,
    pub(super) blocks: u64,
}

impl Chain {
    /// That of which control information was issued.
    pub(super) fn of(control: &FirstControl) -> Self {
        let FirstControl { incarnation, id, journal_blocks: blocks, .. } = *control;
        Self { incarnation, id, blocks }
    }

    /// Whether the batch comes next at that position.
    pub(super) fn goes_on(&self, at: &Position, batch: &Batch) -> bool {
        at.is_followed_by(batch, (self.incarnation, self.id), self.blocks)
    }

    /// The batch behind a position, with its checksum, if it is there; whether it is whole has not been looked at.
    pub(super) async fn next(
        &self,
        journal: &impl ReadPages,
        at: &Position,
    ) -> Result<Option<(Batch, u32)>, RelayError> {
        let mut found: Option<(Batch, u32)> = None;
        for place in at.candidates(self.blocks).into_iter().flatten() {
            let block = journal.read_pages(place, 1).await?;
            let Ok((batch, hash)) = Batch::decode(&block) else { continue };
            if batch.place != place || !self.goes_on(at, &batch) {
                continue;
            }
            if let Some((other, _)) = &found
                && is_whole(journal, other).await?
            {
                return Ok(found);
            }
            found = Some((batch, hash));
        }
        Ok(found)
    }

    /// The batches behind a position, one after the other, to where nothing follows or the caller has enough. Heads only: what is
    /// whole has not been looked at.
    pub(super) async fn walk(
        &self,
        journal: &impl ReadPages,
        mut at: Position,
        mut goes_on: impl FnMut(&Position, &Batch, u32) -> bool,
    ) -> Result<(), RelayError> {
        let ahead = Ahead::new(journal, self.blocks);
        // No chain on this LUN has more batches than blocks.
        for _ in 0..self.blocks {
            let found = match self.next(&ahead, &at).await? {
                // Where it ends is looked at once more: something may have come since that was read ahead.
                None => self.next(journal, &at).await?,
                found => found,
            };
            match found {
                Some((batch, hash)) if goes_on(&at, &batch, hash) => at = Position::behind(&batch, hash),
                Some(_) | None => break,
            }
        }
        Ok(())
    }

    /// Where the batch lies that has `wanted`, or behind which it will be.
    pub(super) async fn seek(
        &self,
        journal: &impl ReadPages,
        from: Position,
        wanted: UpdateNumber,
    ) -> Result<Position, RelayError> {
        let (mut at, mut passed, mut is_found) = (from, None, false);
        self.walk(journal, from, |before, batch, hash| {
            is_found = batch.last >= wanted;
            if !is_found {
                passed = Some((*before, *batch));
                at = Position::behind(batch, hash);
            }
            !is_found
        })
        .await?;
        if is_found {
            return Ok(at);
        }
        // The ones before the last one were whole before it was sent.
        match passed {
            Some((before, last)) if !is_whole(journal, &last).await? => Ok(before),
            Some(_) | None => Ok(at),
        }
    }
}

/// Whether the answer of a batch is all there.
pub(super) async fn is_whole(journal: &impl ReadPages, batch: &Batch) -> Result<bool, RelayError> {
    let payload = journal.read_pages(batch.place + 1, u64::from(batch.payload_blocks)).await?;
    Ok(crc32c(&payload) == batch.payload_crc)
}

/// Pages that are read at once in a walk, at least, and when batches follow each other closely.
const AHEAD_MIN: u64 = 8;
/// See [`AHEAD_MIN`].
const AHEAD_MAX: u64 = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_journal::{ArrayNumber, Generation, GroupNumber};

    struct Lun(Vec<u8>);

    impl ReadPages for Lun {
        fn read_pages(
            &self,
            page: u64,
            count: u64,
        ) -> impl Future<Output = Result<Vec<u8>, RelayError>> + Send {
            let (start, length) = (bytes(page), bytes(count));
            std::future::ready(Ok(self.0[start..start + length].to_vec()))
        }
    }

    fn bytes(pages: u64) -> usize {
        usize::try_from(pages).unwrap() * SLOT_BYTES
    }

    const BLOCKS: u64 = 300;
    const ID: RelayId = RelayId { first: ArrayNumber(1), group: GroupNumber(1), second: ArrayNumber(2) };
    const CHAIN: Chain = Chain { incarnation: Incarnation::new(7), id: ID, blocks: BLOCKS };

    impl Lun {
        fn new() -> Self {
            Self(vec![0; bytes(BLOCKS + 50)])
        }

        /// Puts a batch at a place, of so many updates and blocks; only its head, if it was given up.
        fn put(
            &mut self,
            at: Position,
            place: u64,
            (updates, blocks): (u64, u32),
            is_whole: bool,
        ) -> Position {
            let payload = vec![0x5a; bytes(blocks.into())];
            let batch = Batch {
                incarnation: CHAIN.incarnation,
                id: ID,
                sequence: at.sequence,
                place,
                first: at.number,
                last: UpdateNumber::new(at.number.get() + updates - 1),
                generation: Generation { counter: 1, array: ArrayNumber(1), first: UpdateNumber::FIRST },
                wall_ns: 0,
                payload_blocks: blocks,
                payload_crc: crc32c(&payload),
                previous_hash: at.previous_hash,
            };
            let (head, hash) = batch.encode();
            let mut all = head;
            all.extend_from_slice(&payload);
            all.truncate(if is_whole { usize::MAX } else { SLOT_BYTES });
            self.0[bytes(place)..bytes(place) + all.len()].copy_from_slice(&all);
            Position::behind(&batch, hash)
        }
    }

    /// A LUN that counts how often it is read.
    struct Counted(Lun, std::sync::atomic::AtomicU64);

    impl ReadPages for Counted {
        fn read_pages(
            &self,
            page: u64,
            count: u64,
        ) -> impl Future<Output = Result<Vec<u8>, RelayError>> + Send {
            self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            self.0.read_pages(page, count)
        }
    }

    #[tokio::test]
    async fn heads_of_small_batches_are_read_in_runs_and_large_ones_are_not_read_along() {
        for (blocks, batches, most) in [(1, 140, 20), (70, 4, 10)] {
            let mut lun = Lun::new();
            let start = Position::start(UpdateNumber::new(1));
            let end = (0..batches).fold(start, |at, _| lun.put(at, at.place, (1, blocks), true));
            let lun = Counted(lun, 0.into());
            assert_eq!(CHAIN.seek(&lun, start, UpdateNumber::new(u64::MAX)).await, Ok(end));
            let reads = lun.1.into_inner();
            assert!(reads <= most, "{reads} reads");
        }
    }

    /// The first array puts a batch near the end, its session ends, and what it puts in its place is longer.
    #[tokio::test]
    async fn a_remainder_near_the_end_does_not_hide_what_came_in_its_place() {
        let mut lun = Lun::new();
        let start = Position { place: BLOCKS - 40, sequence: 9, ..Position::start(UpdateNumber::new(50)) };
        let one = lun.put(start, start.place, (3, 10), true);
        lun.put(one, one.place, (2, 20), false);
        let two = lun.put(one, FIRST_BLOCK, (7, 60), true);
        let three = lun.put(two, two.place, (1, 5), true);
        let number = UpdateNumber::new;
        assert_eq!(CHAIN.next(&lun, &one).await.unwrap().map(|(batch, _)| batch.place), Some(FIRST_BLOCK));
        // It is found by whoever begins with an update that only the longer one has, or with a later one.
        for (wanted, found) in
            [(50, start), (52, start), (53, one), (54, one), (55, one), (59, one), (60, two)]
        {
            assert_eq!(CHAIN.seek(&lun, start, number(wanted)).await, Ok(found), "{wanted}");
        }
        for wanted in [61, u64::MAX] {
            assert_eq!(CHAIN.seek(&lun, start, number(wanted)).await, Ok(three));
        }
        // The other way round: the one near the end is whole, and at the front lies something of the same sequence number.
        let mut lun = Lun::new();
        let one = lun.put(start, start.place, (3, 10), true);
        lun.put(one, FIRST_BLOCK, (7, 60), false);
        let two = lun.put(one, one.place, (2, 20), true);
        assert_eq!(CHAIN.seek(&lun, start, number(99)).await, Ok(two));
    }

    #[tokio::test]
    async fn a_remainder_at_the_end_of_the_chain_is_not_passed() {
        let mut lun = Lun::new();
        let start = Position::start(UpdateNumber::new(50));
        let one = lun.put(start, start.place, (3, 10), true);
        lun.put(one, one.place, (2, 20), false);
        for wanted in [53, 54, 55, 90] {
            assert_eq!(CHAIN.seek(&lun, start, UpdateNumber::new(wanted)).await, Ok(one), "{wanted}");
        }
    }

    /// The LUN has grown since the chain was begun: its writer still goes round where it ended then.
    #[tokio::test]
    async fn a_chain_goes_round_where_its_control_information_says() {
        let mut lun = Lun::new();
        let start = Position { place: BLOCKS - 12, ..Position::start(UpdateNumber::new(50)) };
        let one = lun.put(start, start.place, (3, 11), true);
        let two = lun.put(one, FIRST_BLOCK, (3, 30), true);
        assert_eq!(CHAIN.seek(&lun, start, UpdateNumber::new(90)).await, Ok(two));
        // What passes the end is none of this chain.
        let mut lun = Lun::new();
        let start = Position { place: BLOCKS - 12, ..start };
        lun.put(start, start.place, (3, 12), true);
        assert_eq!(CHAIN.seek(&lun, start, UpdateNumber::new(90)).await, Ok(start));
    }
}
