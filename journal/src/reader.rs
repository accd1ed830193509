//! What each array that reads this journal has, and what may be freed because of it.
//!
//! A reader is handed numbers in order; it reports how far they are durable there, restored (visible) and settled
//! (durable in its volumes). A report is believed only within what was handed out, because space is freed by it.
//! Invariants of each reader: settled ≤ restored ≤ acknowledged ≤ sent, next ≤ sent + 1; what may be released never
//! moves back.

use crate::number::{ArrayNumber, UpdateNumber};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;

/// Reading arrays of a group; one more is refused.
pub const MAX_READERS: usize = 64;
/// Bytes of one reader in [`ReaderSet::encode`].
pub const READER_BYTES: usize = 28;

/// When a reader no longer holds an update; a choice of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseRule {
    /// When it is durable in the reader's journal.
    Read,
    /// When it is durable in the reader's volumes.
    Restored,
}

/// What a reader says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Everything up to this is durable in its journal.
    pub acknowledged: UpdateNumber,
    /// Everything up to this is visible in its volumes.
    pub restored: UpdateNumber,
    /// Everything up to this is durable in its volumes.
    pub settled: UpdateNumber,
    /// The largest number as of which its initial-copy data was read.
    pub consistent_from: UpdateNumber,
}

/// One reading array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reader {
    /// What it reported last.
    pub report: Report,
    /// The next number to send.
    pub next: UpdateNumber,
    /// The highest number that was ever handed to it.
    pub sent: UpdateNumber,
    /// The highest number as of which initial-copy data was handed to it.
    pub sent_as_of: UpdateNumber,
    /// Whether updates are held for it. Not while all its pairs are suspended: what it lacks is in difference maps.
    /// Not part of [`ReaderSet::encode`]; the caller derives it from the states of the pairs.
    pub holds: bool,
    /// The number that it began with: another one after it began anew. Not part of [`ReaderSet::encode`]: after a restart the
    /// one behind what it has settled.
    pub began: UpdateNumber,
}

impl Reader {
    /// Where a retry begins: behind what is durable there.
    pub fn retry_start(&self) -> UpdateNumber {
        self.report.acknowledged.next()
    }

    /// Whether its volumes, restored as reported, are the image of one number.
    pub fn is_consistent(&self) -> bool {
        self.report.restored >= self.report.consistent_from
    }

    fn released(&self, rule: ReleaseRule) -> UpdateNumber {
        match rule {
            ReleaseRule::Read => self.report.acknowledged,
            ReleaseRule::Restored => self.report.settled,
        }
    }
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReaderError {
    /// The peer reports or asks for something impossible: nothing of it is believed. Its fault.
    PeerMisbehaved,
    /// No such reader.
    Unknown,
    /// It is a reader already.
    Exists,
    /// What it would start from is released: a copy has to serve.
    Released,
    /// [`MAX_READERS`] are there.
    TooMany,
    /// The caller handed out of order, or bytes are not a set of readers.
    Malformed,
}

impl fmt::Display for ReaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PeerMisbehaved => "the reading array reports what it cannot have",
            Self::Unknown => "no such reading array",
            Self::Exists => "the array reads this group already",
            Self::Released => "the journal no longer holds that update",
            Self::TooMany => "too many reading arrays",
            Self::Malformed => "impossible order of updates or impossible bytes",
        })
    }
}

impl core::error::Error for ReaderError {}

/// The readers of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReaderSet {
    readers: BTreeMap<ArrayNumber, Reader>,
    rule: ReleaseRule,
    /// Up to here was given as releasable once.
    released: UpdateNumber,
}

impl ReaderSet {
    /// No readers; everything up to `released` is gone.
    pub fn new(rule: ReleaseRule, released: UpdateNumber) -> Self {
        Self { readers: BTreeMap::new(), rule, released }
    }

    /// Changes the rule. What has been released stays so.
    pub fn set_rule(&mut self, rule: ReleaseRule) {
        self.rule = rule;
    }

    /// Adds a reader that begins with number `from`.
    pub fn add(&mut self, array: ArrayNumber, from: UpdateNumber) -> Result<(), ReaderError> {
        if self.readers.contains_key(&array) {
            return Err(ReaderError::Exists);
        }
        if self.readers.len() >= MAX_READERS {
            return Err(ReaderError::TooMany);
        }
        if from <= self.released {
            return Err(ReaderError::Released);
        }
        let has = from.previous();
        let report =
            Report { acknowledged: has, restored: has, settled: has, consistent_from: UpdateNumber::NONE };
        self.readers.insert(
            array,
            Reader {
                report,
                next: from,
                sent: has,
                sent_as_of: UpdateNumber::NONE,
                holds: true,
                began: from,
            },
        );
        Ok(())
    }

    /// Takes a reader away: it holds nothing any more.
    pub fn remove(&mut self, array: ArrayNumber) -> Option<Reader> {
        self.readers.remove(&array)
    }

    /// Says whether updates are held for a reader. Ending the hold frees; a reader that lacks freed updates begins again
    /// with [`restart`](Self::restart).
    pub fn set_holds(&mut self, array: ArrayNumber, holds: bool) {
        if let Some(reader) = self.readers.get_mut(&array) {
            reader.holds = holds;
        }
    }

    /// Begins anew with number `from`: what the reader lacks of everything before is in difference maps, and a copy
    /// follows. It holds again.
    pub fn restart(&mut self, array: ArrayNumber, from: UpdateNumber) -> Result<(), ReaderError> {
        if !self.readers.contains_key(&array) {
            return Err(ReaderError::Unknown);
        }
        if from <= self.released {
            return Err(ReaderError::Released);
        }
        self.readers.remove(&array);
        self.add(array, from)?;
        if let Some(reader) = self.readers.get_mut(&array) {
            // Until it has begun anew it reports what it was handed before.
            reader.sent_as_of = from.previous();
        }
        Ok(())
    }

    /// One reader.
    pub fn reader(&self, array: ArrayNumber) -> Option<&Reader> {
        self.readers.get(&array)
    }

    /// All readers, by array number.
    pub fn iter(&self) -> impl Iterator<Item = (ArrayNumber, &Reader)> {
        self.readers.iter().map(|(array, reader)| (*array, reader))
    }

    /// The next number to send to the reader, if `limit` (what is durable and may be handed out) has it.
    pub fn poll_send(&self, array: ArrayNumber, limit: UpdateNumber) -> Option<UpdateNumber> {
        let next = self.readers.get(&array)?.next;
        (next <= limit).then_some(next)
    }

    /// The updates from the reader's next number up to `last` are handed to it; the largest number as of which
    /// initial-copy data among them was read is `as_of`, [`UpdateNumber::NONE`] if there is none.
    pub fn handle_sent(
        &mut self,
        array: ArrayNumber,
        last: UpdateNumber,
        as_of: UpdateNumber,
    ) -> Result<(), ReaderError> {
        let reader = self.readers.get_mut(&array).ok_or(ReaderError::Unknown)?;
        if last < reader.next {
            return Err(ReaderError::Malformed);
        }
        reader.next = last.next();
        reader.sent = reader.sent.max(last);
        reader.sent_as_of = reader.sent_as_of.max(as_of);
        Ok(())
    }

    /// Updates up to `last`, which were handed to the reader before, are handed to it once more; its next number stays.
    /// Initial-copy data among them was read again, as of `as_of`.
    pub fn handle_sent_again(
        &mut self,
        array: ArrayNumber,
        last: UpdateNumber,
        as_of: UpdateNumber,
    ) -> Result<(), ReaderError> {
        let reader = self.readers.get_mut(&array).ok_or(ReaderError::Unknown)?;
        if last > reader.sent {
            return Err(ReaderError::Malformed);
        }
        reader.sent_as_of = reader.sent_as_of.max(as_of);
        Ok(())
    }

    /// The reader asks to begin again with `from` (a retry, or the start named in the command). It may name neither
    /// what it was never sent, nor what it has reported as durable.
    pub fn handle_retry(&mut self, array: ArrayNumber, from: UpdateNumber) -> Result<(), ReaderError> {
        let released = self.released;
        let reader = self.readers.get_mut(&array).ok_or(ReaderError::Unknown)?;
        if from <= released {
            return Err(ReaderError::Released);
        }
        if from < reader.retry_start() || from > reader.sent.next() {
            return Err(ReaderError::PeerMisbehaved);
        }
        reader.next = from;
        Ok(())
    }

    /// The reader has lost its journal, with everything from `from` on that it had not settled: it is handed that again.
    /// It may name neither what it has settled, nor what was before it began.
    pub fn handle_lost(&mut self, array: ArrayNumber, from: UpdateNumber) -> Result<(), ReaderError> {
        let released = self.released;
        let reader = self.readers.get_mut(&array).ok_or(ReaderError::Unknown)?;
        if from <= released {
            return Err(ReaderError::Released);
        }
        if from <= reader.report.settled || from < reader.began || from > reader.sent.next() {
            return Err(ReaderError::PeerMisbehaved);
        }
        let has = from.previous();
        reader.report.acknowledged = reader.report.acknowledged.min(has);
        reader.report.restored = reader.report.restored.min(has);
        reader.next = from;
        Ok(())
    }

    /// The link to the reader was lost or the reader restarted: what is not durable there is sent again, and what was
    /// visible there may be so no longer.
    pub fn handle_reconnected(&mut self, array: ArrayNumber) -> Result<(), ReaderError> {
        let reader = self.readers.get_mut(&array).ok_or(ReaderError::Unknown)?;
        reader.next = reader.retry_start();
        reader.report.restored = reader.report.settled;
        Ok(())
    }

    /// The reader gets updates from another array too: it may have everything up to `number`, whoever sent it.
    pub fn may_have(&mut self, array: ArrayNumber, number: UpdateNumber) {
        if let Some(reader) = self.readers.get_mut(&array) {
            reader.sent = reader.sent.max(number);
            reader.sent_as_of = reader.sent_as_of.max(number);
        }
    }

    /// What the reader reports. Reports overtake each other on several connections, so none moves anything back.
    pub fn handle_report(&mut self, array: ArrayNumber, report: Report) -> Result<(), ReaderError> {
        let reader = self.readers.get_mut(&array).ok_or(ReaderError::Unknown)?;
        let ordered = report.settled <= report.restored && report.restored <= report.acknowledged;
        let known = &mut reader.report;
        let as_of_limit = reader.sent_as_of.max(known.consistent_from);
        if !ordered || report.acknowledged > reader.sent || report.consistent_from > as_of_limit {
            return Err(ReaderError::PeerMisbehaved);
        }
        known.acknowledged = known.acknowledged.max(report.acknowledged);
        known.restored = known.restored.max(report.restored);
        known.settled = known.settled.max(report.settled);
        known.consistent_from = known.consistent_from.max(report.consistent_from);
        reader.next = reader.next.max(known.acknowledged.next());
        Ok(())
    }

    /// Everything up to this number is held by no reader. `here` is what this array itself needs no longer (its own
    /// settled number); without readers that alone counts. Never moves back.
    pub fn releasable(&mut self, here: UpdateNumber) -> UpdateNumber {
        self.released = self.held_by_nobody(here);
        self.released
    }

    /// What [`releasable`](Self::releasable) would give if this array's own settled number were `here`; nothing changes.
    pub fn held_by_nobody(&self, here: UpdateNumber) -> UpdateNumber {
        let holding = self.readers.values().filter(|reader| reader.holds);
        let lowest = holding.map(|reader| reader.released(self.rule)).fold(here, UpdateNumber::min);
        self.released.max(lowest)
    }

    /// What this reader has reported that lets updates be released, by the rule.
    pub fn released_by(&self, array: ArrayNumber) -> Option<UpdateNumber> {
        self.readers.get(&array).map(|reader| reader.released(self.rule))
    }

    /// The reader that holds the oldest update, if it holds anything that this array itself, having settled `here`,
    /// needs no longer.
    pub fn slowest(&self, here: UpdateNumber) -> Option<(ArrayNumber, UpdateNumber)> {
        let holding = self.readers.iter().filter(|(_, reader)| reader.holds);
        let slowest = holding.map(|(array, reader)| (*array, reader.released(self.rule)));
        slowest.min_by_key(|(_, released)| *released).filter(|(_, released)| *released < here)
    }

    /// The bytes for the caller's part of a checkpoint: for each reader array number 4, acknowledged 8, settled 8,
    /// consistent from 8. [`MAX_READERS`] of them fit.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.readers.len().saturating_mul(READER_BYTES));
        for (array, reader) in &self.readers {
            out.extend_from_slice(&array.0.to_le_bytes());
            out.extend_from_slice(&reader.report.acknowledged.get().to_le_bytes());
            out.extend_from_slice(&reader.report.settled.get().to_le_bytes());
            out.extend_from_slice(&reader.report.consistent_from.get().to_le_bytes());
        }
        out
    }

    /// The readers as a checkpoint kept them. `durable` is the highest durable number here: any reader may have been
    /// handed everything up to it since.
    pub fn decode(
        bytes: &[u8],
        rule: ReleaseRule,
        released: UpdateNumber,
        durable: UpdateNumber,
    ) -> Result<Self, ReaderError> {
        let mut set = Self::new(rule, released);
        let (entries, rest) = bytes.as_chunks::<READER_BYTES>();
        if !rest.is_empty() || entries.len() > MAX_READERS {
            return Err(ReaderError::Malformed);
        }
        for entry in entries {
            let (array, numbers) = entry.split_first_chunk::<4>().ok_or(ReaderError::Malformed)?;
            let (numbers, _) = numbers.as_chunks::<8>();
            let [acknowledged, settled, consistent_from] = *numbers else {
                return Err(ReaderError::Malformed);
            };
            let number = |bytes| UpdateNumber::new(u64::from_le_bytes(bytes));
            let report = Report {
                acknowledged: number(acknowledged),
                restored: number(settled),
                settled: number(settled),
                consistent_from: number(consistent_from),
            };
            let next = report.acknowledged.next();
            let sent = durable.max(report.acknowledged);
            let sent_as_of = durable.max(report.consistent_from);
            // It may lose its journal, and with that all that it has not settled: so far back it may name a number.
            let began = report.settled.next();
            let reader = Reader { report, next, sent, sent_as_of, holds: true, began };
            let ordered = report.settled <= report.acknowledged;
            if !ordered || set.readers.insert(ArrayNumber(u32::from_le_bytes(*array)), reader).is_some() {
                return Err(ReaderError::Malformed);
            }
        }
        Ok(set)
    }
}

const _: () = assert!(MAX_READERS * READER_BYTES <= crate::format::head::MAX_EXTRA_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    const A: ArrayNumber = ArrayNumber(2);
    const B: ArrayNumber = ArrayNumber(3);

    #[test]
    fn a_reader_that_lost_its_journal_is_handed_again_what_it_had_not_settled() {
        let number = UpdateNumber::new;
        let mut set = ReaderSet::new(ReleaseRule::Restored, UpdateNumber::NONE);
        set.add(A, number(1)).unwrap();
        set.handle_sent(A, number(9), UpdateNumber::NONE).unwrap();
        let report =
            Report { acknowledged: number(8), restored: number(6), settled: number(4), ..Report::default() };
        set.handle_report(A, report).unwrap();
        assert_eq!(set.handle_lost(A, number(4)), Err(ReaderError::PeerMisbehaved), "it is settled there");
        assert_eq!(set.releasable(number(9)), number(4));
        assert_eq!(set.handle_lost(A, number(11)), Err(ReaderError::PeerMisbehaved), "never sent");
        set.handle_lost(A, number(5)).unwrap();
        let reader = set.reader(A).unwrap();
        assert_eq!(
            (reader.next, reader.report.acknowledged, reader.report.restored),
            (number(5), number(4), number(4))
        );
        assert_eq!(set.poll_send(A, number(9)), Some(number(5)));
        assert_eq!(set.releasable(number(9)), number(4), "what was lost is held");
    }

    /// A reader that lost its journal behind a restart of its source was refused for ever, with its pairs `normal`: what it had
    /// acknowledged once counted as what it began with.
    #[test]
    fn a_reader_that_lost_its_journal_behind_a_restart_of_its_source_is_handed_again_what_it_had_not_settled()
    {
        let mut set = ReaderSet::new(ReleaseRule::Restored, UpdateNumber::NONE);
        set.add(A, number(1)).unwrap();
        set.handle_sent(A, number(9), UpdateNumber::NONE).unwrap();
        set.handle_report(A, report(8, 6, 4)).unwrap();
        let mut again =
            ReaderSet::decode(&set.encode(), ReleaseRule::Restored, number(4), number(9)).unwrap();
        assert_eq!(
            again.reader(A).unwrap().began,
            number(5),
            "the source asks this before it lets it go back"
        );
        assert_eq!(
            again.handle_lost(A, number(4)),
            Err(ReaderError::Released),
            "it is settled there, and gone here"
        );
        again.handle_lost(A, number(5)).unwrap();
        assert_eq!(again.poll_send(A, number(9)), Some(number(5)));
    }

    fn number(value: u64) -> UpdateNumber {
        UpdateNumber::new(value)
    }

    fn report(acknowledged: u64, restored: u64, settled: u64) -> Report {
        Report {
            acknowledged: number(acknowledged),
            restored: number(restored),
            settled: number(settled),
            consistent_from: UpdateNumber::NONE,
        }
    }

    fn two_readers(rule: ReleaseRule) -> ReaderSet {
        let mut set = ReaderSet::new(rule, UpdateNumber::NONE);
        for array in [A, B] {
            set.add(array, UpdateNumber::FIRST).unwrap();
            set.handle_sent(array, number(10), UpdateNumber::NONE).unwrap();
        }
        set
    }

    #[test]
    fn figure_26_an_update_is_held_until_every_reader_has_it() {
        let mut set = two_readers(ReleaseRule::Read);
        set.handle_report(A, report(10, 4, 2)).unwrap();
        assert_eq!(set.releasable(number(10)), UpdateNumber::NONE);
        set.handle_report(B, report(7, 0, 0)).unwrap();
        assert_eq!(set.releasable(number(10)), number(7));
        assert_eq!(set.releasable(number(3)), number(7), "never back");
        set.remove(B);
        assert_eq!(set.releasable(number(9)), number(9), "this array has settled 9 only");
    }

    #[test]
    fn by_the_rule_restored_only_what_is_durable_in_the_volumes_counts() {
        let mut set = two_readers(ReleaseRule::Restored);
        set.handle_report(A, report(10, 9, 5)).unwrap();
        set.handle_report(B, report(10, 9, 6)).unwrap();
        assert_eq!(set.releasable(number(10)), number(5));
    }

    #[test]
    fn a_peer_that_acknowledges_more_than_it_was_sent_is_not_believed() {
        let mut set = two_readers(ReleaseRule::Read);
        for lie in [report(11, 0, 0), report(5, 6, 0), report(5, 4, 5)] {
            assert_eq!(set.handle_report(A, lie), Err(ReaderError::PeerMisbehaved));
        }
        let lie = Report { consistent_from: number(1), ..report(5, 5, 5) };
        assert_eq!(set.handle_report(A, lie), Err(ReaderError::PeerMisbehaved));
        assert_eq!(set.reader(A).unwrap().report, report(0, 0, 0), "nothing of a lie is kept");
    }

    #[test]
    fn a_late_report_moves_nothing_back() {
        let mut set = two_readers(ReleaseRule::Read);
        set.handle_report(A, report(8, 6, 4)).unwrap();
        set.handle_report(A, report(5, 5, 5)).unwrap();
        assert_eq!(set.reader(A).unwrap().report, report(8, 6, 5));
    }

    #[test]
    fn a_retry_begins_behind_what_is_durable_there_and_within_what_was_sent() {
        let mut set = two_readers(ReleaseRule::Read);
        set.handle_report(A, report(4, 0, 0)).unwrap();
        assert_eq!(set.poll_send(A, number(10)), None);
        assert_eq!(set.handle_retry(A, number(4)), Err(ReaderError::PeerMisbehaved));
        assert_eq!(set.handle_retry(A, number(12)), Err(ReaderError::PeerMisbehaved));
        set.handle_retry(A, number(6)).unwrap();
        assert_eq!(set.poll_send(A, number(10)), Some(number(6)));
        set.handle_reconnected(A).unwrap();
        assert_eq!(set.poll_send(A, number(10)), Some(number(5)));
        assert_eq!(set.poll_send(A, number(4)), None, "only what may be handed out");
    }

    #[test]
    fn a_reader_whose_pairs_are_suspended_holds_nothing_and_begins_anew() {
        let mut set = two_readers(ReleaseRule::Restored);
        set.handle_report(A, report(10, 9, 8)).unwrap();
        set.handle_report(B, report(3, 3, 3)).unwrap();
        assert_eq!(set.slowest(number(10)), Some((B, number(3))));
        set.set_holds(B, false);
        assert_eq!(set.slowest(number(10)), Some((A, number(8))));
        assert_eq!(set.slowest(number(8)), None, "what this array itself has not settled is nobody's fault");
        assert_eq!(set.releasable(number(10)), number(8));
        assert_eq!(set.restart(B, number(8)), Err(ReaderError::Released));
        set.restart(B, number(13)).unwrap();
        let reader = set.reader(B).unwrap();
        assert_eq!((reader.next, reader.sent, reader.report), (number(13), number(12), report(12, 12, 12)));
        assert_eq!(set.releasable(number(20)), number(8), "it holds again, from its new beginning on");
    }

    #[test]
    fn what_is_repeated_moves_no_cursor() {
        let mut set = two_readers(ReleaseRule::Read);
        set.handle_sent_again(A, number(7), number(9)).unwrap();
        let reader = set.reader(A).unwrap();
        assert_eq!((reader.next, reader.sent, reader.sent_as_of), (number(11), number(10), number(9)));
        assert_eq!(set.handle_sent_again(A, number(11), number(0)), Err(ReaderError::Malformed));
    }

    #[test]
    fn a_reader_cannot_begin_with_what_is_released() {
        let mut set = ReaderSet::new(ReleaseRule::Read, number(5));
        assert_eq!(set.add(A, number(5)), Err(ReaderError::Released));
        set.add(A, number(6)).unwrap();
        assert_eq!(set.add(A, number(6)), Err(ReaderError::Exists));
    }

    #[test]
    fn readers_survive_a_checkpoint_and_are_sent_again_what_is_not_durable_there() {
        let mut set = two_readers(ReleaseRule::Read);
        set.handle_report(A, report(8, 6, 4)).unwrap();
        let again = ReaderSet::decode(&set.encode(), ReleaseRule::Read, number(4), number(12)).unwrap();
        let reader = again.reader(A).unwrap();
        assert_eq!(reader.report, report(8, 4, 4));
        assert_eq!((reader.next, reader.sent), (number(9), number(12)));
        assert_eq!(again.iter().count(), 2);
        let bytes = set.encode();
        for length in (0..bytes.len()).filter(|length| length % READER_BYTES != 0) {
            assert!(ReaderSet::decode(&bytes[..length], ReleaseRule::Read, number(0), number(0)).is_err());
        }
    }
}
