//! The chain of batches on a relay's journal LUN, as both sides walk it.
//!
//! # What it guarantees
//! * The LUN is as large as the control information of the chain says, whatever its target says now: by that size its writer
//!   goes round.
//! * Of a batch that was given up because the session ended, anything may have landed, its head included. If what was written
//!   in its place is longer and begins at the front of the LUN, both heads follow the same batch: the whole one counts.
//! * Nothing is passed that may be such a remainder: the last batch of a chain is, if it is not whole.

use super::lun::{RelayError, RelayLun};
use holdfast_journal::format::crc32c;
use holdfast_journal::format::relay::{Batch, FirstControl, Position, RelayId};
use holdfast_journal::{Incarnation, UpdateNumber};

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

    /// Where the batch lies that has `wanted`, or behind which it will be.
    pub(super) async fn seek(
        &self,
        journal: &impl ReadPages,
        from: Position,
        wanted: UpdateNumber,
    ) -> Result<Position, RelayError> {
        let (mut at, mut passed) = (from, None);
        // No chain on this LUN has more batches than blocks.
        for _ in 0..self.blocks {
            match self.next(journal, &at).await? {
                Some((batch, hash)) if batch.last < wanted => {
                    passed = Some((at, batch));
                    at = Position::behind(&batch, hash);
                }
                Some(_) => return Ok(at),
                None => break,
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::slot::SLOT_BYTES;
    use holdfast_journal::format::relay::FIRST_BLOCK;
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
