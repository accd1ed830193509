//! The other readers of a group that gets another primary, at work (promises T1, K4; decision 17): waited for and stopped
//! by the old primary, taken up by the new one, and how each of them moves. See [`crate::volume::onward`] for what that
//! guarantees.

use super::Array;
use super::pairs::by_reader;
use crate::copy::differences::DifferenceMap;
use crate::copy::group::Group;
use crate::volume::apply::onward::check_onward;
use crate::volume::designation::{Designation, DesignationId, Outcome, Refusal};
use crate::volume::group::GroupRecord;
use crate::volume::name::{GroupNumber, PairNumber, UpdateNumber as StoredNumber};
use crate::volume::onward::{ONWARD_RUNS_MAX, OnwardPair, RemoteOnward};
use crate::volume::pair::{PairRecord, PairState, SuspendCause};
use crate::volume::record::Who;
use crate::volume::rejoin::ahead;
use crate::volume::resync::RUNS_MAX;
use crate::volume::reversal::{Manner, RemoteReversal, Reversal};
use crate::volume::store::PairMarks;
use crate::volume::table::Tables;
use holdfast_journal::UpdateNumber;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

impl Array {
    /// At the old primary, behind its last number: whether each other reader has everything, or is stopped with marks.
    /// One that does not keep up within the time that the operator gave is stopped here.
    pub(super) async fn others_are_ready(
        &self,
        record: &GroupRecord,
        reversal: &Reversal,
        group: &Arc<Group>,
        last: UpdateNumber,
    ) -> bool {
        let is_other = |pair: &PairRecord| {
            pair.auxiliary.array != reversal.array
                && !matches!(pair.state, PairState::Suspended | PairState::Abnormal)
        };
        let going = self.pairs_where(group, is_other);
        let since = self.runtime().shut.get(&record.number.0).copied();
        let waited = since.map_or(Duration::ZERO, |since| self.env.clock.now().since(since));
        for (reader, pairs) in by_reader(&going) {
            let of_reader = |pair: &&PairRecord| pair.auxiliary.array.0 == reader.0;
            let are_normal = going.iter().filter(of_reader).all(|pair| pair.state == PairState::Normal);
            if are_normal && group.await_reader(Some((reader, last))) {
                continue;
            }
            if are_normal && waited < reversal.wait {
                return false; // The owner is woken when it is there, and looks now and then.
            }
            let reason = "it did not keep up when its group was turned round";
            self.suspend_pairs(group, reader, &pairs, SuspendCause::Overflow, reason).await;
            return false;
        }
        group.await_reader(None);
        true
    }

    /// Whether the pair's reader does not know yet that this array is the primary: it would take what is said to it for
    /// the former one's, and stop again when it is told.
    pub(super) fn is_untold(&self, pair: &PairRecord) -> bool {
        let reader = (pair.group, pair.auxiliary.array);
        self.store.read(|tables| tables.readers.get(&reader).is_some_and(|row| row.is_untold))
    }

    /// At the middle of a cascade, behind the last number: each array that reads from here has everything, or is stopped with
    /// marks. They are not waited for for long: hosts are shut out.
    pub(super) async fn readers_below_are_ready(
        &self,
        group: &Arc<Group>,
        last: UpdateNumber,
    ) -> Result<(), Refusal> {
        let number = GroupNumber(group.number);
        let mut waited = Duration::ZERO;
        loop {
            let is_going =
                |tables: &Tables, pair: &PairRecord| tables.is_served(pair) && !pair.state.is_stopped();
            let going: Vec<PairRecord> = self.store.read(|tables| {
                tables.pairs_of_group(number).filter(|pair| is_going(tables, pair)).cloned().collect()
            });
            let mut lacking = by_reader(&going);
            lacking.retain(|reader, _| !group.await_reader(Some((*reader, last))));
            if lacking.is_empty() {
                group.await_reader(None);
                return Ok(());
            }
            if waited > BELOW_STOPPED_BY {
                let text = format!("arrays that read group {} from here cannot be stopped", group.name);
                return Err(Refusal::Conflict(text));
            }
            if waited >= BELOW_WAIT {
                for (reader, pairs) in lacking {
                    let reason = "it did not keep up when its group was turned round";
                    self.suspend_pairs(group, reader, &pairs, SuspendCause::Overflow, reason).await;
                }
            }
            self.env.clock.sleep(BELOW_PAUSE).await;
            waited += BELOW_PAUSE;
        }
    }

    /// Where the S-VOLs of other readers may differ, as far as a message can say it.
    pub(super) fn runs_of_others(
        &self,
        tables: &Tables,
        record: &GroupRecord,
        group: &Group,
    ) -> BTreeMap<PairNumber, Vec<(u64, u64)>> {
        let to = record.reversal.as_ref().map(|reversal| reversal.array);
        let others: Vec<&PairRecord> =
            tables.pairs_of_group(record.number).filter(|pair| Some(pair.auxiliary.array) != to).collect();
        let each = ONWARD_RUNS_MAX / others.len().max(1);
        let runs = |pair: &&PairRecord| {
            let runs = group.marked_runs(pair.number.0, RUNS_MAX);
            (pair.number, thinned(runs, each.max(1)))
        };
        others.iter().map(runs).collect()
    }

    /// Numbers for the pairs that the new primary will have with other readers.
    pub(super) fn reserve_numbers(&self, told: &RemoteReversal) -> Result<Vec<PairNumber>, Refusal> {
        let count = told.others.iter().map(|other| other.pairs.len()).sum();
        if count == 0 {
            return Ok(Vec::new());
        }
        let mut reserved = Ok(Vec::new());
        self.store.checkpoint(|tables| reserved = tables.reserve_pair_numbers(count))?;
        reserved
    }

    /// At the new primary: what the S-VOLs of other readers lack. Where the S-VOLs here were written by hosts, that too.
    pub(super) fn marks_of_others(
        &self,
        tables: &Tables,
        told: &RemoteReversal,
        numbers: &[PairNumber],
        has_failed: bool,
    ) -> anyhow::Result<Vec<PairMarks>> {
        let pairs = told.others.iter().flat_map(|other| &other.pairs);
        let mut marks = Vec::new();
        for (pair, number) in pairs.zip(numbers) {
            let group = tables.group_named(&told.group).map(|row| row.number);
            let is_of_it = |ours: &&PairRecord| ours.primary.volume == Some(pair.pvol);
            let ours = group.and_then(|group| tables.followed_pairs(group).find(is_of_it));
            let Some(ours) = ours else { continue };
            if let Some(map) = self.map_of_other(ours, pair, told.manner, has_failed)? {
                let mut map = map;
                marks.push(PairMarks { pair: *number, replace: true, parts: map.take_changed() });
            }
        }
        Ok(marks)
    }

    fn map_of_other(
        &self,
        ours: &PairRecord,
        other: &OnwardPair,
        manner: Manner,
        has_failed: bool,
    ) -> anyhow::Result<Option<DifferenceMap>> {
        let mut map = DifferenceMap::new(ours.size_bytes);
        if has_failed {
            map.mark(0, ours.size_bytes); // Nobody notes what its hosts will write.
            return Ok(Some(map));
        }
        let Some(stopped) = &other.stopped else { return Ok(None) };
        if manner == Manner::Differences {
            let known = self.svol_map(ours)?.runs(RUNS_MAX);
            known.iter().for_each(|(start, length)| map.mark(*start, *length));
        }
        stopped.runs.iter().for_each(|(start, length)| map.mark(*start, *length));
        Ok(Some(map))
    }

    /// At a reader: the group is read from its new primary from here on. Everything that came from the old one is restored
    /// and on the units before a row changes, whatever waits for a delay of its restore.
    ///
    /// # Errors
    /// Why it cannot go on there now. The new primary offers it again.
    pub(super) async fn go_onward(
        &self,
        id: DesignationId,
        told: &RemoteOnward,
        who: &Who,
    ) -> Result<Outcome, Refusal> {
        if let Some(tamper) = &self.env.tamper {
            self.env.clock.sleep(tamper.before_promising()).await;
        }
        let _one_at_a_time = self.images.lock().await;
        let what = Designation::RemoteOnward(told.clone());
        let tables = self.store.tables();
        if tables.was_answered(id) {
            return self.designate_by_peer(id, what, who);
        }
        let number = check_onward(&tables, told, who)?;
        let Some(record) = tables.groups.get(&number) else {
            return Err(Refusal::Missing { what: "group".to_owned(), name: told.group.to_string() });
        };
        self.lift_answered_suspension(record)?;
        let at_work = self.open_group_of(number);
        let found = self.restore_all(record, told).await?;
        let failed = |error: anyhow::Error| Refusal::Conflict(error.to_string());
        self.end_group(&tables, record).await.map_err(failed)?;
        if let (Found::Image(judged), Some(group)) = (&found, at_work)
            && group.whole_number().map(UpdateNumber::get) != Some(judged.0)
        {
            self.wake(); // It was judged as of another number than it has.
            return Err(Refusal::Conflict(format!("group {} has gone on meanwhile", record.name)));
        }
        let outcome = self.store.change(who, what.to_string(), |tables| {
            match found {
                Found::Nothing => {}
                Found::Image(restored) => tables.stop_images(number, Some(restored)),
                Found::NoImage => tables.stop_images(number, None),
            }
            tables.apply(id, &what, who)
        });
        self.has_turned(record);
        outcome
    }

    /// What the S-VOLs are when everything that is here is in them, and whether that is what the new primary takes them to be.
    async fn restore_all(&self, record: &GroupRecord, told: &RemoteOnward) -> Result<Found, Refusal> {
        let conflict = |text: String| Err(Refusal::Conflict(format!("group {} {text}", record.name)));
        let lacks = || Err(Refusal::Lacks { group: record.name.to_string() });
        let goes_on = told.pairs.iter().any(|pair| pair.stopped.is_none());
        let is_handed_on =
            self.store.read(|tables| tables.all_readers_of_group(record.number).next().is_some());
        let Some(group) = self.open_group_of(record.number) else {
            // A journal that was never formatted, or was given up, holds nothing.
            let is_empty = record.segments.is_empty() && record.resume.is_none() && !is_handed_on;
            return match is_empty {
                true if told.assumed.0 > 0 => lacks(),
                true if !goes_on => Ok(Found::Nothing),
                _ => conflict("is not open here yet".to_owned()),
            };
        };
        let failed = |error: crate::copy::CopyError| Refusal::Conflict(error.to_string());
        group.come_to_rest().await.map_err(failed)?;
        group.restore_available(Duration::ZERO).await.map_err(failed)?;
        let Some(restored) = group.whole_number() else {
            if told.assumed.0 > 0 {
                return lacks();
            }
            if goes_on || is_handed_on {
                return conflict("has S-VOLs here that are no image of one moment".to_owned());
            }
            group.settle().await.map_err(failed)?;
            return Ok(Found::NoImage);
        };
        let (last, has) = (told.last.0, restored.get());
        let lead = ahead(&record.generations, &told.generations, StoredNumber(has));
        if (has > last || lead > 0) && told.gives_up != Some(StoredNumber(has)) {
            return conflict(format!(
                "has update {has} here, {lead} of them nowhere else: it is a branch that nobody has given up"
            ));
        }
        let goes_on_behind = told.begins.map_or(last, |begins| begins.0.saturating_sub(1));
        if has < told.assumed.0 || (goes_on && has != goes_on_behind) {
            return lacks();
        }
        // Whoever is believed says so of what is in its S-VOLs now: data of a copy may have come since it was asked, or they have failed.
        let contains = StoredNumber(group.contains().get());
        let has_failed = |tables: &Tables| {
            tables.followed_pairs(record.number).any(|pair| pair.state == PairState::Abnormal)
        };
        let is_other = told.takes_it_for_another(&record.generations, contains);
        if is_other || (told.is_believed() && self.store.read(has_failed)) {
            return lacks();
        }
        self.readers_below_are_ready(&group, restored).await?;
        group.settle().await.map_err(failed)?;
        Ok(Found::Image(StoredNumber(has)))
    }
}

/// What the S-VOLs of a reader are.
enum Found {
    /// What they were: nothing was ever read here since the group began anew.
    Nothing,
    /// As of this number.
    Image(StoredNumber),
    /// No image of one moment.
    NoImage,
}

/// How long arrays that read from a new primary already are waited for before their pairs go to difference maps.
const BELOW_WAIT: Duration = Duration::from_secs(2);
/// When that has to be done; the promise is refused if it is not.
const BELOW_STOPPED_BY: Duration = Duration::from_secs(4);
/// How often it is looked at.
const BELOW_PAUSE: Duration = Duration::from_millis(20);

/// At most so many ranges that contain all of these: those that are closest become one.
pub(super) fn thinned(mut runs: Vec<(u64, u64)>, most: usize) -> Vec<(u64, u64)> {
    let mut gap = 1_u64 << 20;
    while runs.len() > most {
        let mut merged: Vec<(u64, u64)> = Vec::with_capacity(runs.len());
        for (start, length) in runs {
            match merged.last_mut() {
                Some((from, so_far)) if start.saturating_sub(*from + *so_far) <= gap => {
                    *so_far = (start + length).saturating_sub(*from).max(*so_far);
                }
                _ => merged.push((start, length)),
            }
        }
        runs = merged;
        gap = gap.saturating_mul(2);
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_become_fewer_and_cover_what_they_covered() {
        let runs: Vec<(u64, u64)> = (0..1_000).map(|at| (at * at * 3_000_000, 4096)).collect();
        for most in [1, 7, 100, 999, 1_000] {
            let fewer = thinned(runs.clone(), most);
            assert!(fewer.len() <= most && !fewer.is_empty());
            for (start, length) in &runs {
                let is_in = |(from, long): &(u64, u64)| from <= start && start + length <= from + long;
                assert!(fewer.iter().any(is_in), "{start} is lost");
            }
        }
        assert_eq!(thinned(runs.clone(), 1_000), runs, "as they are while they fit");
        assert_eq!(thinned(Vec::new(), 1), []);
    }
}
