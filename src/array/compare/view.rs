//! Comparisons as they are shown.

use super::super::Array;
use super::copy::{Job, Phase};
use super::served::{Basis, Served};
use crate::shell::view::{CompareView, ComparedView, DifferentRangeView};
use crate::volume::compare::{Between, CompareOutcome, Compared, Comparing, Side};
use crate::volume::group::{GroupRecord, GroupRole};
use crate::volume::name::ArrayNumber;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Array {
    /// Those at work of a group.
    pub(in crate::array) fn compare_views(&self, row: &GroupRecord) -> Vec<CompareView> {
        let (led, served): (Option<Arc<Job>>, Vec<Arc<Served>>) = {
            let state = self.compares.lock();
            let led = state.led.get(&row.number.0).map(|(job, _)| job.clone());
            (led, state.served.values().filter(|one| one.group == row.number).cloned().collect())
        };
        let interrupted = self.compares.lock().interrupted.get(&row.number.0).copied();
        let led =
            led.map(|job| self.led_view(&job)).or_else(|| Some(self.interrupted_view(row, interrupted?)));
        led.into_iter().chain(served.iter().map(|one| self.served_view(one))).collect()
    }

    fn led_view(&self, job: &Job) -> CompareView {
        let shown = job.shown().clone();
        let load = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        let own = [load(&job.progress.total_bytes), load(&job.progress.done_bytes)];
        let [total, done] = [own[0] + shown.source[0], own[1] + shown.source[1]];
        let spent_ms = shown.hashing_since.map_or(0, |since| {
            u64::try_from(self.env.clock.now().since(since).as_millis()).unwrap_or(u64::MAX)
        });
        let is_hashing = shown.phase == Phase::Hashing;
        let rate = (is_hashing && spent_ms > 0).then(|| done.saturating_mul(1000) / spent_ms);
        CompareView {
            id: job.id.to_string(),
            with: self.name_of(job.other),
            role: "copy".to_owned(),
            state: match shown.phase {
                Phase::Preparing => "preparing",
                Phase::Waiting => "waiting",
                Phase::Hashing => "hashing",
                Phase::Searching => "searching",
                Phase::Repairing => "repairing",
            }
            .to_owned(),
            update_number: shown.number.map(|number| number.0),
            is_full: job.options.is_full,
            total_bytes: total,
            done_bytes: done,
            progress_percent: percent(done, total, shown.phase >= Phase::Searching),
            bytes_per_s: rate,
            time_left_ms: rate
                .filter(|rate| *rate > 0)
                .map(|rate| total.saturating_sub(done).saturating_mul(1000) / rate),
            started_unix_ms: job.began_unix_ns / NS_PER_MS,
            different_bytes: shown.found.different_bytes,
        }
    }

    /// One that is begun again as soon as that can be.
    fn interrupted_view(&self, row: &GroupRecord, one: Comparing) -> CompareView {
        let with = match row.role {
            GroupRole::Auxiliary { source, .. } => one.beside.unwrap_or(source),
            GroupRole::Primary => self.config.array.number,
        };
        CompareView {
            with: self.name_of(with),
            role: "copy".to_owned(),
            state: "interrupted".to_owned(),
            is_full: one.options.is_full,
            started_unix_ms: one.began_unix_ns / NS_PER_MS,
            ..CompareView::default()
        }
    }

    fn served_view(&self, served: &Served) -> CompareView {
        let load = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        let (total, done) = (load(&served.progress.total_bytes), load(&served.progress.done_bytes));
        let spent_ms = self.env.clock.now().since(served.began).as_millis();
        let spent_ms = u64::try_from(spent_ms).unwrap_or(u64::MAX).max(1);
        let number = served.number();
        let state = match number {
            None => "preparing",
            Some(_) if total == 0 => "waiting",
            Some(_) if done < total => "hashing",
            Some(_) => "answering",
        };
        CompareView {
            id: served.id.to_string(),
            with: self.name_of(served.peer),
            role: if served.basis == Basis::Source { "source" } else { "other-copy" }.to_owned(),
            state: state.to_owned(),
            update_number: number.map(|number| number.0),
            is_full: served.options.is_full,
            total_bytes: total,
            done_bytes: done,
            progress_percent: percent(done, total, false),
            bytes_per_s: (state == "hashing").then(|| done.saturating_mul(1000) / spent_ms),
            time_left_ms: None,
            started_unix_ms: served.began_unix_ns / NS_PER_MS,
            different_bytes: 0,
        }
    }

    /// What came of those before.
    pub(in crate::array) fn compared_views(&self, row: &GroupRecord) -> Vec<ComparedView> {
        row.compared.iter().map(|one| self.compared_view(one)).collect()
    }

    fn compared_view(&self, one: &Compared) -> ComparedView {
        let named: u64 = one.ranges.iter().map(|range| range.length_bytes).sum();
        let (result, reason) = match &one.outcome {
            CompareOutcome::Equal if one.between == Between::Snapshot => ("roots", None),
            CompareOutcome::Equal => ("equal", None),
            CompareOutcome::Different => ("different", None),
            CompareOutcome::Cancelled => ("cancelled", None),
            CompareOutcome::Failed(why) => ("failed", Some(why.clone())),
        };
        let other = if one.source == self.config.array.number { one.copy } else { one.source };
        ComparedView {
            id: one.id.to_string(),
            with: self.name_of(other),
            result: result.to_owned(),
            reason,
            update_number: one.number.map(|number| number.0),
            is_full: one.options.is_full,
            between: match one.between {
                Between::SourceAndCopy => "source-and-copy",
                Between::Copies => "copies",
                Between::Snapshot => "snapshot",
            }
            .to_owned(),
            started_unix_ms: one.began_unix_ns / NS_PER_MS,
            ended_unix_ms: one.ended_unix_ns / NS_PER_MS,
            compared_bytes: one.compared_bytes,
            read_bytes: one.read_bytes,
            source_read_bytes: one.source_read_bytes,
            different_bytes: one.different_bytes,
            repaired_bytes: one.repaired_bytes,
            differences: one
                .ranges
                .iter()
                .map(|range| DifferentRangeView {
                    pvol: range.pvol.to_string(),
                    svol: range.svol.to_string(),
                    offset_bytes: range.offset_bytes,
                    length_bytes: range.length_bytes,
                    proven_wrong: range.wrong.map(|side| match (one.between, side) {
                        (Between::SourceAndCopy, Side::Primary) => "primary".to_owned(),
                        (Between::SourceAndCopy, Side::Copy) => "copy".to_owned(),
                        (_, Side::Primary) => self.name_of(one.source),
                        (_, Side::Copy) => self.name_of(one.copy),
                    }),
                })
                .collect(),
            different_bytes_not_named: one.different_bytes.saturating_sub(named),
        }
    }

    fn name_of(&self, array: ArrayNumber) -> String {
        if array == self.config.array.number {
            return self.config.array.name.as_str().to_owned();
        }
        let named = self.store.read(|tables| tables.link_to(array).map(|link| link.name.to_string()));
        named.unwrap_or_else(|| format!("array {array}"))
    }
}

#[expect(clippy::cast_precision_loss, reason = "it is shown with a digit or two")]
fn percent(done: u64, total: u64, is_over: bool) -> f64 {
    match total {
        _ if is_over => 100.0,
        0 => 0.0,
        total => (done as f64 * 100.0 / total as f64).min(100.0),
    }
}

const NS_PER_MS: u64 = 1_000_000;
