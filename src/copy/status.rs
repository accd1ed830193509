//! What a group shows of itself: numbers, lag, pointers. Copied out under the lock, never held.
//!
//! Lag in seconds is by the primary's monotonic clock alone: the age of the oldest update that the reader has not
//! restored, never shown smaller than it is (`times.rs`).

use super::fetch::Reading;
use super::group::{Group, Sequencer};
use crate::clock::MonotonicNs;
use holdfast_journal::pointer::PointerInformation;
use holdfast_journal::reader::{Reader, Report};
use holdfast_journal::{ArrayNumber, UpdateNumber, Usage};
use std::time::Duration;

/// A group at one moment.
#[derive(Clone, Debug)]
pub struct Status {
    /// The next number to give, or to expect.
    pub next: u64,
    /// Durable in the journal here.
    pub durable: u64,
    /// Visible in the volumes here.
    pub restored: u64,
    /// Durable in the volumes here.
    pub settled: u64,
    /// The oldest number held.
    pub oldest: u64,
    /// Write data that went into the journal since the start.
    pub journaled_bytes: u64,
    /// How full the journal is.
    pub usage: Usage,
    /// Readers.
    pub readers: Vec<ReaderStatus>,
    /// Pairs at the primary.
    pub pairs: Vec<PairStatus>,
    /// Pointers of this array's own restore.
    pub pointers: PointerInformation,
    /// The newest number given at the source, as it said last.
    pub source_newest: Option<u64>,
    /// How reading goes, at an auxiliary.
    pub(crate) reading: Reading,
}

/// A pair at one moment.
#[derive(Clone, Copy, Debug)]
pub struct PairStatus {
    /// Its number.
    pub pair: u32,
    /// Bytes that need not be copied any more.
    pub copied_bytes: u64,
    /// Bytes that its difference map marks.
    pub differing_bytes: u64,
}

/// A reader at one moment.
#[derive(Clone, Debug)]
pub struct ReaderStatus {
    /// Its array.
    pub array: u32,
    /// What it reported.
    pub report: Report,
    /// Updates and bytes that it was sent since the start.
    pub sent: (u64, u64),
    /// Not read yet.
    pub not_read: Lag,
    /// Read and not restored.
    pub not_restored: Lag,
    /// Both.
    pub behind: Lag,
    /// Its pointers here.
    pub pointers: PointerInformation,
}

/// How far behind.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Lag {
    /// Updates.
    pub updates: u64,
    /// Bytes of write data that are kept in memory.
    pub bytes: u64,
    /// Age of the oldest of them.
    pub seconds: f64,
}

impl Group {
    /// The group now.
    #[must_use]
    pub fn status(&self) -> Status {
        let now = self.clock.now();
        let seq = self.lock();
        let readers =
            seq.readers.iter().map(|(array, reader)| reader_status(&seq, array, reader, now)).collect();
        Status {
            next: seq.next.get(),
            durable: seq.journal.durable().get(),
            restored: seq.restored.get(),
            settled: seq.settled.get(),
            oldest: seq.journal.first_retained().get(),
            journaled_bytes: seq.kept.pushed_bytes(),
            usage: seq.journal.usage(),
            readers,
            pairs: seq
                .pairs
                .values()
                .flatten()
                .map(|pair| {
                    let differing_bytes = pair.differing_bytes();
                    // A copy of differences has everything that is not marked.
                    let copied_bytes = match pair.resync.differences {
                        Some(_) => pair.capacity_bytes - differing_bytes,
                        None => pair.facts.copy_completion_bytes,
                    };
                    PairStatus { pair: pair.pair, copied_bytes, differing_bytes }
                })
                .collect(),
            pointers: seq.journal.pointer_information(seq.restored.next(), seq.restored.next()),
            reading: seq.reading.clone(),
            source_newest: seq.source.as_ref().map(|head| head.newest_given),
        }
    }
}

fn reader_status(
    seq: &Sequencer,
    reader_number: ArrayNumber,
    reader: &Reader,
    now: MonotonicNs,
) -> ReaderStatus {
    let newest = seq.next.previous();
    let report = reader.report;
    ReaderStatus {
        array: reader_number.0,
        report,
        sent: seq.sent.get(&reader_number).copied().unwrap_or_default(),
        not_read: lag(seq, report.acknowledged, newest, now),
        not_restored: lag(seq, report.restored, report.acknowledged, now),
        behind: lag(seq, report.restored, newest, now),
        pointers: seq.journal.pointer_information(reader.next, reader.retry_start()),
    }
}

/// The updates behind `from` up to and including `to`. Bytes are exact for updates in memory, and to within one group
/// commit for those that only the journal volume holds.
fn lag(seq: &Sequencer, from: UpdateNumber, to: UpdateNumber, now: MonotonicNs) -> Lag {
    let updates = to.since(from);
    if updates == 0 {
        return Lag::default();
    }
    let made = seq.times.of(from.next()).or_else(|| seq.times.oldest());
    let age = made.map_or(Duration::ZERO, |made| now.since(made));
    let bytes = if seq.kept.get(from.next()).is_some() {
        seq.kept.bytes_from(from.next()).saturating_sub(seq.kept.bytes_from(to.next()))
    } else {
        seq.journal.areas_after(from).1.saturating_sub(seq.journal.areas_after(to).1)
    };
    Lag { updates, bytes, seconds: age.as_secs_f64() }
}
