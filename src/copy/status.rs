//! What a group shows of itself: numbers, lag, pointers. Copied out under the lock, never held.
//!
//! Lag in seconds is by the primary's monotonic clock alone: the age of the oldest update that the reader has not
//! restored, never shown smaller than it is (`times.rs`).

use super::answer::PointerDistances;
use super::fetch::Reading;
use super::group::{Group, PairRuntime, Sequencer};
use super::rates::Position;
use crate::clock::MonotonicNs;
use crate::volume::pair::PairState;
use holdfast_journal::chain::SegmentInfo;
use holdfast_journal::pointer::{Place, PointerInformation};
use holdfast_journal::reader::{Reader, Report};
use holdfast_journal::{ArrayNumber, UpdateNumber, Usage};
use std::sync::atomic::Ordering;
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
    /// How full the journal is: what can be written of it.
    pub usage: Usage,
    /// The volumes that hold it, oldest first; the last one is written.
    pub segments: Vec<SegmentInfo>,
    /// Memory for updates that readers may still ask for, and what of it is in use.
    pub cache_bytes: (u64, u64),
    /// Reads of journal volumes since the start.
    pub unit_reads: u64,
    /// Readers.
    pub readers: Vec<ReaderStatus>,
    /// Pairs at the primary.
    pub pairs: Vec<PairStatus>,
    /// For each of `segments`: the pointers of this array's own restore, then those of each reader.
    pub pointers: Vec<Vec<(u32, PointerInformation)>>,
    /// The newest number given at the source, as it said last.
    pub source_newest: Option<u64>,
    /// How long ago what is not restored here was made, as far as the array that gives numbers was heard of.
    pub behind_top: Option<Duration>,
    /// How long ago the oldest update was made that is not here, at most, as far as that array was heard of.
    pub oldest_unread: Option<Duration>,
    /// What it said then that it still has for this array, and when that was by its own clock.
    pub source_unread: Option<(u64, u64)>,
    /// How reading goes, at an auxiliary.
    pub(crate) reading: Reading,
}

impl Status {
    /// Updates that are given at the array which gives numbers, as far as it was heard of, and not restored here.
    #[must_use]
    pub fn updates_behind_top(&self) -> Option<u64> {
        self.source_newest.map(|newest| newest.saturating_sub(self.restored))
    }
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
    /// Until its copy ends, at the rate of the last seconds; none unless it is being copied and moves on.
    pub time_left: Option<Duration>,
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
    /// Bytes that the difference maps of its pairs mark.
    pub differing_bytes: u64,
    /// Since it last said where it is; none before the first time.
    pub last_report: Option<Duration>,
    /// Until the journal is full because of it, at the present rates.
    pub time_to_full: Option<Duration>,
    /// Until it has caught up, at the present rates.
    pub time_to_catch_up: Option<Duration>,
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
    /// Write data of the updates behind `number`, if the journal here still holds all of them; to within one group commit.
    pub(crate) fn bytes_behind(&self, number: UpdateNumber) -> Option<u64> {
        let seq = self.lock();
        let is_held = seq.journal.first_retained() <= number.next();
        is_held.then(|| seq.journal.areas_after(number).1)
    }

    /// Looks where everything is: once a second.
    pub(super) fn sample_rates(&self) {
        let now = self.clock.now();
        let mut seq = self.lock();
        let (information, data) = seq.journal.appended();
        let holding = seq.readers.iter().filter(|(_, reader)| reader.holds);
        let readers: Vec<_> = holding.map(|(array, reader)| (array, position(&seq, reader))).collect();
        seq.rates.sample(now, [information, data], readers.into_iter());
        let unit = self.settings.copy_unit_bytes;
        let copied = seq.pairs.values().flatten().filter(|pair| pair.facts.state == PairState::BeingCopied);
        let left: Vec<_> = copied.map(|pair| (pair.pair, left_bytes(&seq, pair, unit))).collect();
        seq.rates.copies.sample(now, left.into_iter());
    }

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
            segments: seq.journal.segments(),
            cache_bytes: (self.cache.bytes() as u64, seq.kept.bytes() as u64),
            unit_reads: self.unit_reads.load(Ordering::Relaxed),
            readers,
            pairs: seq
                .pairs
                .values()
                .flatten()
                .map(|pair| {
                    let copied_bytes = copied_bytes(pair);
                    let is_copied = pair.facts.state == PairState::BeingCopied;
                    let left = left_bytes(&seq, pair, self.settings.copy_unit_bytes);
                    let left = seq.rates.copies.time_left(pair.pair, left);
                    PairStatus {
                        pair: pair.pair,
                        copied_bytes,
                        differing_bytes: pair.differing_bytes(),
                        time_left: left.filter(|_| is_copied),
                    }
                })
                .collect(),
            pointers: pointers(&seq, self.array),
            reading: seq.reading.clone(),
            source_newest: seq.source.as_ref().map(|head| head.newest_given),
            behind_top: seq.apart.top.behind(seq.restored.next(), now),
            oldest_unread: seq.apart.top.behind(seq.journal.durable().next(), now),
            source_unread: seq.source.as_ref().map(|head| (head.unread_bytes, head.wall_ns)),
        }
    }
}

/// What of a pair need not be copied any more.
fn copied_bytes(pair: &PairRuntime) -> u64 {
    match pair.resync.differences {
        // A copy of differences has everything that is not marked.
        Some(_) => pair.capacity_bytes - pair.differing_bytes(),
        None => pair.facts.copy_completion_bytes.min(pair.capacity_bytes),
    }
}

/// What of a pair its reader lacks: also what has a record and was not read yet, which is counted in whole units.
fn left_bytes(seq: &Sequencer, pair: &PairRuntime, unit_bytes: u64) -> u64 {
    let copied = copied_bytes(pair);
    let left = pair.capacity_bytes.saturating_sub(copied);
    if pair.resync.differences.is_some() {
        return left;
    }
    let had = seq.readers.reader(pair.reader).map_or(UpdateNumber::NONE, |known| known.report.acknowledged);
    let under_way = pair.copy_records.iter().filter(|record| record.number > had).count() as u64;
    left + under_way.saturating_mul(unit_bytes).min(copied)
}

/// For each journal volume, oldest first, the pointers of this array and of its readers.
fn pointers(seq: &Sequencer, own: ArrayNumber) -> Vec<Vec<(u32, PointerInformation)>> {
    let settled = seq.settled.next();
    let restored = seq.restored.next();
    let mut places = vec![(own, Place { oldest: settled, retry: restored, read: restored })];
    places.extend(seq.readers.iter().map(|(array, _)| (array, seq.place_of(array))));
    let mut volumes = vec![Vec::new(); seq.journal.segments().len()];
    for (array, place) in places {
        let pointers = seq.journal.pointer_information(place);
        for (volume, (_, at)) in volumes.iter_mut().zip(pointers) {
            volume.push((array.0, at));
        }
    }
    volumes
}

impl Status {
    /// The pointers of this array's own restore in the volume that is written.
    #[cfg(test)]
    pub(crate) fn own_pointers(&self) -> PointerInformation {
        self.pointers.last().unwrap()[0].1
    }
}

impl Sequencer {
    /// Where a reader is in the journal.
    pub(super) fn place_of(&self, array: ArrayNumber) -> Place {
        let known = self.readers.reader(array);
        let (retry, read) = known.map_or((self.next, self.next), |known| (known.retry_start(), known.next));
        // What is not held for it is in difference maps.
        let held = known.filter(|known| known.holds).and_then(|_| self.readers.released_by(array));
        Place { oldest: held.map_or(self.next, UpdateNumber::next), retry, read }
    }

    /// How far the pointers of a reader are apart.
    pub(super) fn distances(&self, array: ArrayNumber) -> PointerDistances {
        let place = self.place_of(array);
        let to_newest = |number: UpdateNumber| self.journal.areas_after(number.previous());
        let ((held_information, held_data), (unread, _)) = (to_newest(place.oldest), to_newest(place.read));
        PointerDistances {
            held_information,
            held_data,
            unread_information: unread,
            again_information: to_newest(place.retry).0.saturating_sub(unread),
        }
    }
}

/// What the reader holds of the journal, and what it has not restored.
fn position(seq: &Sequencer, reader: &Reader) -> Position {
    let behind = |number| {
        let (information, data) = seq.journal.areas_after(number);
        [information, data]
    };
    Position { held: behind(reader.report.acknowledged), behind: behind(reader.report.restored) }
}

fn reader_status(
    seq: &Sequencer,
    reader_number: ArrayNumber,
    reader: &Reader,
    now: MonotonicNs,
) -> ReaderStatus {
    let newest = seq.next.previous();
    let report = reader.report;
    let usage = seq.journal.usage();
    let capacity = [usage.info_capacity, usage.data_capacity];
    let outlook = seq.rates.outlook(reader_number, position(seq, reader), capacity);
    ReaderStatus {
        array: reader_number.0,
        report,
        last_report: seq.heard.get(&reader_number).map(|heard| now.since(*heard)),
        // Of a reader whose pairs are all suspended nothing is held, and it restores nothing.
        time_to_full: outlook.full.filter(|_| reader.holds),
        time_to_catch_up: outlook.caught_up.filter(|_| reader.holds),
        sent: seq.sent.get(&reader_number).copied().unwrap_or_default(),
        not_read: lag(seq, report.acknowledged, newest, now),
        not_restored: lag(seq, report.restored, report.acknowledged, now),
        behind: lag(seq, report.restored, newest, now),
        differing_bytes: {
            let pairs = seq.pairs.values().flatten().filter(|pair| pair.reader == reader_number);
            pairs.map(PairRuntime::differing_bytes).sum()
        },
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
