//! Initial copy at the primary: figure 11.
//!
//! For each unit of the P-VOL a record is appended that names the range and carries no data; in the same critical
//! section the copy completion address moves behind it (errata to 1040, 1050 and 1380: only on success, and before
//! anything is read). The bytes are read when a reader fetches the record (`serve.rs`). Ranges that were never written
//! are one record of zeros, whatever their length.
//!
//! Pace: at most [`AHEAD`] records of the pair are on their way to the reader; so the copy follows the reader, whatever
//! hosts write meanwhile, and they keep the journal's room.

use super::change::Payload;
use super::differences::DifferenceMap;
use super::group::{Group, Refusal, Sequencer};
use super::suspend::CopyRecord;
use super::whole::Fill;
use crate::disk::VolumeId;
use crate::volume::pair::PairState;
use holdfast_journal::{Content, CopyForm, Extent, InitialCopy, Kind, Update, VolumeNumber};
use std::sync::Arc;

/// Records of an initial copy that may lie ahead of the reader.
const AHEAD: usize = 32;
/// Records of a copy that the reader has and has not settled: more wait, because each is remembered until then.
const UNSETTLED: usize = 4096;

/// What one step of the copy did.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// A record was appended.
    Copied,
    /// Wait for the reader, or for room.
    Wait,
    /// Nothing is left to do for this pair.
    Ended,
}

impl Group {
    /// Copies one pair until its end; returns when nothing is left to do for it. Resumes where a restart left it.
    pub(crate) async fn copy_pair(self: Arc<Self>, volume: u32, pair: u32) {
        let _running = self.running();
        while !self.closing.has_begun() {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.copy_step(volume, pair) {
                Step::Copied => tokio::task::yield_now().await,
                Step::Wait => tokio::select! {
                    biased;
                    () = self.closing.begins() => return,
                    () = changed => {}
                },
                Step::Ended => return,
            }
        }
    }

    fn copy_step(&self, volume: u32, pair: u32) -> Step {
        let mut seq = self.lock();
        if seq.failed.is_some() {
            return Step::Ended;
        }
        if seq.pair_mut(volume, pair).is_some_and(|runtime| runtime.resync.marking) {
            return Step::Wait; // It is being suspended.
        }
        let Some((range, last, reader)) = self.next_range(&mut seq, volume, pair) else { return Step::Ended };
        let lacks = self.is_virtual(volume)
            && seq.pair_mut(volume, pair).is_some_and(|runtime| runtime.resync.fill != Fill::Done);
        if last && (seq.wholeness.is_broken || lacks) {
            return Step::Wait; // What would be normal with this record is no image yet.
        }
        let report = seq.readers.reader(reader).map(|known| known.report).unwrap_or_default();
        let (had, settled) = (report.acknowledged, report.settled);
        let records = seq.pair_mut(volume, pair).map_or(0, |runtime| {
            runtime.copy_settled(settled);
            runtime.copy_records.iter().filter(|record| record.number > had).count()
        });
        let unsettled = seq.pair_mut(volume, pair).map_or(0, |runtime| runtime.copy_records.len());
        if records >= AHEAD || unsettled >= UNSETTLED {
            return Step::Wait;
        }
        let number = seq.next;
        let update = Update {
            number,
            generation: seq.generation,
            kind: Kind::InitialCopy(InitialCopy {
                volume: VolumeNumber(volume),
                reader,
                last_of_pair: last,
                form: CopyForm::RangeOnly,
            }),
            time_ns: self.clock.wall().0,
            extents: range.into_iter().collect(),
            data_bytes: 0,
            data_checksum: 0,
        };
        match self.append(&mut seq, &Arc::new(update), &Payload::default()) {
            Ok(()) => {}
            Err(Refusal::NoRoom | Refusal::Leaving | Refusal::Again | Refusal::Fenced) => return Step::Wait,
            Err(Refusal::Invalid(reason)) => {
                tracing::error!(group = %self.name, %reason, "initial copy stopped");
                return Step::Ended;
            }
        }
        seq.restored = number;
        if let Some(runtime) = seq.pair_mut(volume, pair) {
            let whole = Extent {
                volume: VolumeNumber(volume),
                start_bytes: 0,
                length_bytes: runtime.capacity_bytes,
                content: Content::Zero,
            };
            let range = range.unwrap_or(whole);
            runtime.facts.copy_completion_bytes = range.end_bytes();
            runtime.copy_end = last.then_some(number);
            runtime.resync.copied_to_bytes = range.end_bytes();
            let adjoins = runtime.copy_records.back().filter(|last| last.end_bytes == range.start_bytes);
            let run_start_bytes = adjoins.map_or(range.start_bytes, |last| last.run_start_bytes);
            let end_bytes = range.end_bytes();
            runtime.copy_records.push_back(CopyRecord { number, run_start_bytes, end_bytes });
        }
        drop(seq);
        self.work_arrived();
        if last { Step::Ended } else { Step::Copied }
    }

    /// The next range of the pair: one unit with data in it, or everything up to the next unit that was ever written.
    fn next_range(
        &self,
        seq: &mut Sequencer,
        volume: u32,
        pair: u32,
    ) -> Option<(Option<Extent>, bool, holdfast_journal::ArrayNumber)> {
        let runtime = seq.pair_mut(volume, pair)?;
        if runtime.facts.state != PairState::BeingCopied || runtime.copy_end.is_some() {
            return None;
        }
        if self.is_virtual(volume) {
            // Its data comes from the upstream array, as writes (figure 24): this is only the end.
            return Some((None, true, runtime.reader));
        }
        let (from, capacity) = (runtime.facts.copy_completion_bytes, runtime.capacity_bytes);
        let unit = self.settings.copy_unit_bytes;
        if let Some(map) = &runtime.resync.differences {
            let reader = runtime.reader;
            let (start, length, last) = next_difference(map, runtime.resync.copied_to_bytes, unit)?;
            let written = self.disk.written(VolumeId(volume), start).ok()?;
            let is_empty = written.is_none_or(|range| range.start >= start + length);
            let content = if is_empty { Content::Zero } else { Content::Data };
            let extent =
                Extent { volume: VolumeNumber(volume), start_bytes: start, length_bytes: length, content };
            return Some((Some(extent), last, reader));
        }
        // Under the group's lock nothing new becomes visible, so "never written" stays true until the address moves.
        let written = self.disk.written(VolumeId(volume), from).ok()?.map_or(capacity, |range| range.start);
        let empty_to = if written >= capacity { capacity } else { written - written % unit };
        let (end, content) = if empty_to > from {
            (empty_to, Content::Zero)
        } else {
            ((from - from % unit + unit).min(capacity), Content::Data)
        };
        let extent =
            Extent { volume: VolumeNumber(volume), start_bytes: from, length_bytes: end - from, content };
        Some((Some(extent), end == capacity, runtime.reader))
    }
}

/// The next range of a copy of differences, and whether it is the last one. With nothing marked one region is copied all
/// the same: its record is the end of the copy.
fn next_difference(map: &DifferenceMap, from: u64, unit_bytes: u64) -> Option<(u64, u64, bool)> {
    let Some((start, length)) = map.next_run(from, unit_bytes) else {
        let length = map.region_bytes().min(unit_bytes).min(map.capacity_bytes());
        return (from == 0).then_some((0, length, true));
    };
    let length = length.min(unit_bytes);
    Some((start, length, map.next_run(start + length, unit_bytes).is_none()))
}
