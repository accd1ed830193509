//! The table of what has arrived ahead of its turn, in number order, and of what has been lost (J8).
//!
//! Several reads are under way on several connections; the source cuts them in order from one cursor, and their answers
//! overtake each other. An update is handed out here only when its number is the next one. A number that was handed
//! out there and did not arrive may still be on its way: it counts as *lost* when every read that was under way when
//! the gap was first seen has ended. Then the range is asked for again (the retry indication names a range, see the
//! errata to steps 1530 and 1755).
//!
//! Invariants: everything held has a number above the newest one stored; at most [`EARLY_MAX`] updates are held, and
//! the caller sends no further read of what follows while more than [`EARLY_BYTES`] are.

use holdfast_journal::UpdateNumber;
use std::collections::{BTreeMap, BTreeSet};

/// A read under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

/// A range of numbers that was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    /// The first number.
    pub(crate) first: UpdateNumber,
    /// How many.
    pub(crate) count: u32,
}

/// The peer sends what cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArrivalFault {
    /// More than 65,536 updates ahead of the next one.
    #[error("too many updates arrived ahead of the next one")]
    TooEarly,
    /// Asked for eight times in a row, and it does not come.
    #[error("the next update does not come")]
    Lost,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Arrivals<T> {
    early: BTreeMap<UpdateNumber, (T, usize)>,
    early_bytes: usize,
    under_way: BTreeSet<Ticket>,
    tickets: u64,
    /// The highest number that the source says it has handed out.
    handed_out: UpdateNumber,
    gap: Option<Gap>,
    repeats: u32,
}

#[derive(Clone, Copy, Debug)]
struct Gap {
    first: UpdateNumber,
    /// Reads with smaller tickets were under way when it was seen.
    below: Ticket,
}

impl<T> Default for Arrivals<T> {
    fn default() -> Self {
        Self {
            early: BTreeMap::new(),
            early_bytes: 0,
            under_way: BTreeSet::new(),
            tickets: 0,
            handed_out: UpdateNumber::NONE,
            gap: None,
            repeats: 0,
        }
    }
}

impl<T> Arrivals<T> {
    /// A read is sent.
    pub(crate) fn handle_sent(&mut self) -> Ticket {
        let ticket = Ticket(self.tickets);
        self.tickets += 1;
        self.under_way.insert(ticket);
        ticket
    }

    /// A read has ended, with an answer or without.
    pub(crate) fn handle_ended(&mut self, ticket: Ticket) {
        self.under_way.remove(&ticket);
    }

    /// The source says that it has handed out everything up to `number` to somebody's reads.
    pub(crate) fn handle_handed_out(&mut self, number: UpdateNumber) {
        self.handed_out = self.handed_out.max(number);
    }

    /// An update whose number is not below `next` has arrived; one that is here already is passed over.
    pub(crate) fn handle_arrived(
        &mut self,
        number: UpdateNumber,
        bytes: usize,
        update: T,
    ) -> Result<(), ArrivalFault> {
        if self.early.len() >= EARLY_MAX && !self.early.contains_key(&number) {
            return Err(ArrivalFault::TooEarly);
        }
        if let std::collections::btree_map::Entry::Vacant(entry) = self.early.entry(number) {
            entry.insert((update, bytes));
            self.early_bytes += bytes;
        }
        Ok(())
    }

    /// The update `next`, if it has arrived.
    pub(crate) fn poll_next(&mut self, next: UpdateNumber) -> Option<T> {
        while let Some(stale) = self.early.first_entry().filter(|first| *first.key() < next) {
            // It came by another way meanwhile.
            self.early_bytes -= stale.remove().1;
        }
        let (update, bytes) = self.early.remove(&next)?;
        self.early_bytes -= bytes;
        (self.gap, self.repeats) = (None, 0);
        Some(update)
    }

    /// Whether so much waits that nothing further should be asked for.
    pub(crate) fn is_crowded(&self) -> bool {
        self.early_bytes > EARLY_BYTES || self.early.len() > EARLY_MAX / 2
    }

    /// Forgets what has arrived and what the source said: it will be asked to begin again behind what is stored.
    pub(crate) fn clear(&mut self) {
        self.early.clear();
        self.early_bytes = 0;
        self.handed_out = UpdateNumber::NONE;
        self.gap = None;
    }

    /// A range that is lost, given once for each time that it has to be asked for; `next` is the first number that is
    /// not stored.
    pub(crate) fn poll_missing(&mut self, next: UpdateNumber) -> Result<Option<Missing>, ArrivalFault> {
        let first_early = self.early.first_key_value().map(|(number, _)| *number);
        if next > self.handed_out || first_early == Some(next) {
            self.gap = None;
            return Ok(None);
        }
        let now = Ticket(self.tickets);
        let gap = match self.gap {
            Some(gap) if gap.first == next => gap,
            _ => *self.gap.insert(Gap { first: next, below: now }),
        };
        if self.under_way.first().is_some_and(|oldest| *oldest < gap.below) {
            return Ok(None);
        }
        self.repeats += 1;
        if self.repeats > REPEATS_MAX {
            return Err(ArrivalFault::Lost);
        }
        // Asked for again only when this request, too, has ended without it.
        self.gap = Some(Gap { first: next, below: Ticket(self.tickets + 1) });
        let end = first_early.unwrap_or(self.handed_out.next()).min(self.handed_out.next());
        let count = u32::try_from(end.since(next)).unwrap_or(u32::MAX).min(super::answer::MAX_UPDATES);
        Ok(Some(Missing { first: next, count }))
    }
}

/// Updates held ahead of the next one; more is a peer's mistake, because no read is sent while half of it is held.
const EARLY_MAX: usize = 16 * super::answer::MAX_UPDATES as usize;
/// Write data held ahead of the next update, beyond which only lost ranges are asked for.
const EARLY_BYTES: usize = 16 << 20;
/// A lost range is asked for so often in a row; then the session is given up.
const REPEATS_MAX: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number(value: u64) -> UpdateNumber {
        UpdateNumber::new(value)
    }

    #[test]
    fn what_arrives_early_waits_for_its_turn() {
        let mut arrivals = Arrivals::default();
        let (a, b) = (arrivals.handle_sent(), arrivals.handle_sent());
        arrivals.handle_ended(b);
        arrivals.handle_handed_out(number(2));
        arrivals.handle_arrived(number(2), 10, "two").unwrap();
        assert_eq!(arrivals.poll_next(number(1)), None);
        assert_eq!(arrivals.poll_missing(number(1)), Ok(None), "the first read may still bring it");
        arrivals.handle_ended(a);
        arrivals.handle_arrived(number(1), 10, "one").unwrap();
        assert_eq!(arrivals.poll_next(number(1)), Some("one"));
        assert_eq!(arrivals.poll_next(number(2)), Some("two"));
        assert_eq!(arrivals.poll_missing(number(3)), Ok(None));
    }

    #[test]
    fn what_was_lost_is_named_as_a_range_once_every_older_read_has_ended() {
        let mut arrivals = Arrivals::default();
        let reads: Vec<Ticket> = (0..3).map(|_| arrivals.handle_sent()).collect();
        arrivals.handle_ended(reads[1]);
        arrivals.handle_handed_out(number(9));
        arrivals.handle_arrived(number(7), 1, ()).unwrap();
        assert_eq!(arrivals.poll_missing(number(4)), Ok(None));
        let later = arrivals.handle_sent();
        arrivals.handle_ended(reads[0]);
        arrivals.handle_ended(reads[2]);
        assert_eq!(arrivals.poll_missing(number(4)), Ok(Some(Missing { first: number(4), count: 3 })));
        let again = arrivals.handle_sent();
        arrivals.handle_ended(later);
        assert_eq!(arrivals.poll_missing(number(4)), Ok(None), "the repeated read is under way");
        arrivals.handle_ended(again);
        assert!(arrivals.poll_missing(number(4)).unwrap().is_some());
    }

    #[test]
    fn a_lost_end_is_found_by_what_the_source_says_it_has_handed_out() {
        let mut arrivals: Arrivals<()> = Arrivals::default();
        let lost = arrivals.handle_sent();
        arrivals.handle_ended(lost);
        assert_eq!(arrivals.poll_missing(number(5)), Ok(None));
        arrivals.handle_handed_out(number(6));
        assert_eq!(arrivals.poll_missing(number(5)), Ok(Some(Missing { first: number(5), count: 2 })));
    }

    #[test]
    fn a_peer_that_never_sends_the_next_update_is_given_up() {
        let mut arrivals = Arrivals::default();
        arrivals.handle_handed_out(number(9));
        arrivals.handle_arrived(number(9), 1, ()).unwrap();
        let mut faults = 0;
        for _ in 0..=REPEATS_MAX {
            match arrivals.poll_missing(number(1)) {
                Ok(missing) => assert!(missing.is_some()),
                Err(fault) => {
                    assert_eq!(fault, ArrivalFault::Lost);
                    faults += 1;
                }
            }
            let again = arrivals.handle_sent();
            arrivals.handle_ended(again);
        }
        assert_eq!(faults, 1);
    }

    #[test]
    fn what_is_held_is_bounded() {
        let mut arrivals = Arrivals::default();
        let all = u64::try_from(EARLY_MAX).unwrap();
        for value in 2..all + 2 {
            arrivals.handle_arrived(number(value), 0, ()).unwrap();
        }
        assert!(arrivals.is_crowded());
        assert_eq!(arrivals.handle_arrived(number(all + 9), 0, ()), Err(ArrivalFault::TooEarly));
        let mut heavy = Arrivals::default();
        heavy.handle_arrived(number(2), EARLY_BYTES + 1, ()).unwrap();
        assert!(heavy.is_crowded());
    }

    proptest! {
        /// Reads on any number of connections, cut from one cursor, answered or lost in any order: everything comes,
        /// each number once, in order.
        #[test]
        fn every_number_comes_once_and_in_order(
            lanes in 1_usize..8, choices in prop::collection::vec((any::<u8>(), 0_u8..6), 30..300)
        ) {
            const LAST: u64 = 200;
            let mut arrivals: Arrivals<u64> = Arrivals::default();
            let (mut next, mut cursor) = (1_u64, 1_u64);
            let mut reads: Vec<(Ticket, std::ops::Range<u64>)> = Vec::new();
            let mut choices = choices.into_iter();
            while next <= LAST {
                if let Some(missing) = arrivals.poll_missing(number(next)).unwrap() {
                    let first = missing.first.get();
                    reads.push((arrivals.handle_sent(), first..first + u64::from(missing.count).min(5)));
                }
                while reads.len() < 2 * lanes && cursor <= LAST {
                    let end = (cursor + 3).min(LAST + 1);
                    reads.push((arrivals.handle_sent(), cursor..end));
                    cursor = end;
                }
                if reads.is_empty() {
                    arrivals.handle_handed_out(number(cursor - 1)); // "Nothing new", and how far it is.
                    continue;
                }
                let (pick, lost) = choices.next().unwrap_or((0, 1));
                let (ticket, range) = reads.swap_remove(usize::from(pick) % reads.len());
                arrivals.handle_ended(ticket);
                if lost == 0 {
                    continue;
                }
                arrivals.handle_handed_out(number(range.end - 1));
                for value in range.filter(|value| *value >= next) {
                    arrivals.handle_arrived(number(value), 1, value).unwrap();
                }
                while let Some(value) = arrivals.poll_next(number(next)) {
                    prop_assert_eq!(value, next);
                    next += 1;
                }
            }
        }
    }
}
