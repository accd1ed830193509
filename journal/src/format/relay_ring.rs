//! The places of a relay's journal LUN, as its only writer gives them out.

use super::relay::{Batch, FIRST_BLOCK, Kept, Position};
use crate::number::{Incarnation, UpdateNumber};
use alloc::collections::VecDeque;

/// The places of the journal LUN, as its only writer has them in use.
///
/// Invariant: no place from the oldest batch that durable control information names, to the end of the newest batch, is
/// given out again. So whoever begins at that oldest batch finds the whole chain. The same of a chain that is kept, as long as it is.
#[derive(Clone, Debug)]
pub struct RelayRing {
    journal_blocks: u64,
    held: VecDeque<Held>,
    newest: Position,
    /// The chain before, which lies right in front of this one.
    kept: Option<Kept>,
    /// No more than half of the places are in use, so that a chain that follows has the other half while this one is kept.
    is_halved: bool,
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
        Self { journal_blocks, held: VecDeque::new(), newest, kept: None, is_halved: false }
    }

    /// The same, of which no more than half is used; beside a chain that is kept: `newest` is behind its newest batch then.
    #[must_use]
    pub fn halved(journal_blocks: u64, newest: Position, kept: Option<Kept>) -> Self {
        Self { kept, is_halved: true, ..Self::new(journal_blocks, newest) }
    }

    /// The chain that is kept.
    #[must_use]
    pub fn kept(&self) -> Option<&Kept> {
        self.kept.as_ref()
    }

    /// It is not needed any more; whether there was one. The caller makes control information durable that does not name it before it
    /// asks for a place again.
    pub fn forget_kept(&mut self) -> bool {
        self.kept.take().is_some()
    }

    /// This chain, to be kept beside the next one; none if no batch is held.
    #[must_use]
    pub fn kept_as(&self, incarnation: Incarnation) -> Option<Kept> {
        let (oldest, newest) = (self.oldest(), self.newest);
        (!self.held.is_empty()).then_some(Kept {
            incarnation,
            journal_blocks: self.journal_blocks,
            oldest,
            newest,
        })
    }

    /// Blocks of the journal LUN that are in use.
    #[must_use]
    pub fn journal_blocks(&self) -> u64 {
        self.journal_blocks
    }

    /// The LUN is so large now. It is used to its new end if no batch is held, otherwise another time: a chain goes round where
    /// its control information says.
    pub fn grow(&mut self, journal_blocks: u64) {
        if self.held.is_empty() && self.kept.is_none() {
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
        let own = self.held.front().map(|held| held.place);
        let place = match self.kept.map(|kept| kept.oldest.place).or(own) {
            None => fits_to(self.journal_blocks).or(is_at_front(self.journal_blocks)),
            Some(oldest) if oldest < from => fits_to(self.journal_blocks).or(is_at_front(oldest)),
            Some(oldest) => fits_to(oldest),
        }?;
        let used = self.blocks_between(own.unwrap_or(place), place + blocks);
        (!self.is_halved || 2 * used <= self.all()).then_some(place)
    }

    fn all(&self) -> u64 {
        self.journal_blocks.saturating_sub(FIRST_BLOCK)
    }

    /// Blocks from a place in use on to another one.
    fn blocks_between(&self, from: u64, to: u64) -> u64 {
        let forward = to.checked_sub(from).filter(|used| *used > 0);
        forward.unwrap_or_else(|| self.all().saturating_sub(from.saturating_sub(to)))
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
        let used = self.held.front().map_or(0, |held| self.blocks_between(held.place, self.newest.place));
        (used, self.all())
    }
}
