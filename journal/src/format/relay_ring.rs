//! The places of a relay's journal LUN, as its only writer gives them out.

use super::relay::{Batch, FIRST_BLOCK, Position};
use crate::number::UpdateNumber;
use alloc::collections::VecDeque;

/// The places of the journal LUN, as its only writer has them in use.
///
/// Invariant: no place from the oldest batch that durable control information names, to the end of the newest batch, is
/// given out again. So whoever begins at that oldest batch finds the whole chain.
#[derive(Clone, Debug)]
pub struct RelayRing {
    journal_blocks: u64,
    held: VecDeque<Held>,
    newest: Position,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    /// Where it was looked for, with what stood before it.
    at: Position,
    place: u64,
    last: UpdateNumber,
}

impl RelayRing {
    /// No batch, and the next one behind `newest`.
    #[must_use]
    pub fn new(journal_blocks: u64, newest: Position) -> Self {
        Self { journal_blocks, held: VecDeque::new(), newest }
    }

    /// Blocks of the journal LUN that are in use.
    #[must_use]
    pub fn journal_blocks(&self) -> u64 {
        self.journal_blocks
    }

    /// The LUN is so large now. It is used to its new end if no batch is held, otherwise another time: a chain goes round where
    /// its control information says.
    pub fn grow(&mut self, journal_blocks: u64) {
        if self.held.is_empty() {
            self.journal_blocks = self.journal_blocks.max(journal_blocks);
        }
    }

    /// Behind the newest batch.
    #[must_use]
    pub fn newest(&self) -> Position {
        self.newest
    }

    /// Where the oldest batch is, or where the next one will be.
    #[must_use]
    pub fn oldest(&self) -> Position {
        self.held.front().map_or(self.newest, |held| Position { place: held.place, ..held.at })
    }

    /// Where a batch of so many blocks, its head among them, may be put; none while there is no room.
    #[must_use]
    pub fn place_for(&self, blocks: u64) -> Option<u64> {
        let from = self.newest.place;
        let fits_to = |end: u64| from.checked_add(blocks).is_some_and(|behind| behind <= end).then_some(from);
        let is_at_front = |end: u64| (FIRST_BLOCK + blocks <= end).then_some(FIRST_BLOCK);
        match self.held.front().map(|held| held.place) {
            None => fits_to(self.journal_blocks).or(is_at_front(self.journal_blocks)),
            Some(oldest) if oldest < from => fits_to(self.journal_blocks).or(is_at_front(oldest)),
            Some(oldest) => fits_to(oldest),
        }
    }

    /// The batch, whose checksum is `hash`, is the newest one now.
    pub fn push(&mut self, batch: &Batch, hash: u32) {
        self.held.push_back(Held { at: self.newest, place: batch.place, last: batch.last });
        self.newest = Position::behind(batch, hash);
    }

    /// Batches with nothing above `number` are held no more; whether there were any. The caller makes control information
    /// durable that says so before it asks for a place again.
    pub fn release(&mut self, number: UpdateNumber) -> bool {
        let before = self.held.len();
        while self.held.front().is_some_and(|held| held.last <= number) {
            self.held.pop_front();
        }
        self.held.len() < before
    }

    /// Blocks between the oldest batch and the end of the newest, and all that there are.
    #[must_use]
    pub fn usage(&self) -> (u64, u64) {
        let all = self.journal_blocks.saturating_sub(FIRST_BLOCK);
        let used = self.held.front().map_or(0, |held| {
            let forward = self.newest.place.checked_sub(held.place).filter(|used| *used > 0);
            forward.unwrap_or_else(|| all.saturating_sub(held.place.saturating_sub(self.newest.place)))
        });
        (used, all)
    }
}
