//! A group is turned round at work: its S-VOLs become P-VOLs, and the other way round (promise O2; decision 17).
//!
//! # What it guarantees
//! * **Never two arrays that hosts may write.** The primary shuts hosts out durably and in memory before it tells anybody;
//!   the auxiliary lets them in behind the transaction that makes it the primary. What it promised before that is
//!   durable as well, so a start on either side goes on from where it was.
//! * **Nothing that was answered is lost** in a planned reversal: the auxiliary promises only when its S-VOLs are what the
//!   P-VOLs were when the last of their hosts was shut out, on its units.
//! * **Differences only**: with pairs that are suspended the auxiliary knows every mark of the primary before it promises.
//!
//! # The steps
//! Those of [`ReversalStep`]. Each is one transaction of the control store, and everything before it may be repeated. The
//! owner task takes one after the other, for all groups, before it opens any: who was cut off in the middle opens
//! the group in its new role.

use super::Array;
use super::groups::own_volume;
use crate::copy::differences::DifferenceMap;
use crate::copy::group::Group;
use crate::copy::tamper::ReversalDefect;
use crate::disk::VolumeId;
use crate::io::volume::VolumeRole;
use crate::volume::designation::{Designation, DesignationId, Outcome, Refusal};
use crate::volume::group::{GroupEvent, GroupRecord, GroupRole, GroupState};
use crate::volume::name::{GroupNumber, PairName, PairNumber, UpdateNumber as StoredNumber};
use crate::volume::pair::{PairRecord, PairState};
use crate::volume::record::{VolumeRecord, VolumeState, Who};
use crate::volume::resync::RUNS_MAX;
use crate::volume::reversal::{Manner, RemoteReversal, Reversal, ReversalStep};
use crate::volume::store::PairMarks;
use crate::volume::table::Tables;
use holdfast_journal::{ArrayNumber as JournalArray, UpdateNumber};
use std::sync::Arc;
use std::time::Duration;

impl Array {
    /// Takes the next step of every group that is turned round.
    pub(crate) async fn reverse_groups(&self) {
        let tables = self.store.tables();
        for record in tables.groups.iter() {
            let taken = match &record.reversal {
                None if record.is_shut() => Ok(()), // Another array has taken over.
                None => {
                    self.let_hosts_in_again(&tables, record);
                    Ok(())
                }
                Some(reversal) => self.next_step(&tables, record, reversal).await,
            };
            if let Err(error) = taken {
                tracing::error!(group = %record.name, %error, "it cannot be reversed yet; trying again");
            }
        }
    }

    async fn next_step(
        &self,
        tables: &Tables,
        record: &GroupRecord,
        reversal: &Reversal,
    ) -> anyhow::Result<()> {
        if !matches!(reversal.step, ReversalStep::TakingOver(_)) {
            self.shut_p_vols(tables, record);
        }
        if let (ReversalStep::Leaving(..) | ReversalStep::TakingOver(_), Some(tamper)) =
            (&reversal.step, &self.env.tamper)
        {
            self.env.clock.sleep(tamper.before_turning()).await;
        }
        match &reversal.step {
            ReversalStep::Draining => self.drain(tables, record, reversal).await,
            ReversalStep::Telling => self.hand_over_when_told(tables, record, reversal),
            ReversalStep::HandedOver(_) => Ok(()), // The answer is what it waits for.
            ReversalStep::Leaving(..) => self.leave(tables, record).await,
            ReversalStep::TakingOver(_) => self.take_over(tables, record, reversal).await,
        }
    }

    /// No write of a host becomes visible, or gets a number, from here on; those that wait for room hear of it.
    pub(super) fn shut_p_vols(&self, tables: &Tables, record: &GroupRecord) {
        if self.has_defect(ReversalDefect::HostsWriteOn) {
            return;
        }
        let mut runtime = self.runtime();
        for pair in tables.pairs_of_group(record.number) {
            let volume = own_volume(tables, pair).and_then(|volume| runtime.volumes.get(&volume));
            if let Some(volume) = volume {
                volume.set_role(VolumeRole::Copy);
            }
        }
        let now = self.env.clock.now();
        let is_new = !runtime.shut.contains_key(&record.number.0);
        runtime.shut.entry(record.number.0).or_insert(now);
        if let Some(group) = runtime.groups.get(&record.number.0) {
            group.shut_hosts_out(true);
            if is_new {
                group.room.notify_waiters();
            }
        }
    }

    /// The reversal was given up.
    fn let_hosts_in_again(&self, tables: &Tables, record: &GroupRecord) {
        let mut runtime = self.runtime();
        // The picture may be older than a takeover that has been answered. Under the lock: `Array::set_role_now`.
        if self.store.read(|now| now.groups.get(&record.number).is_none_or(GroupRecord::is_shut)) {
            return;
        }
        if runtime.shut.remove(&record.number.0).is_none() || record.role != GroupRole::Primary {
            return;
        }
        let Some(group) = runtime.groups.get(&record.number.0).cloned() else { return };
        group.await_reader(None);
        group.shut_hosts_out(false);
        for pair in tables.pairs_of_group(record.number) {
            let volume = own_volume(tables, pair).and_then(|volume| runtime.volumes.get(&volume));
            if let Some(volume) = volume {
                volume.set_role(VolumeRole::Source(group.clone()));
            }
        }
    }

    /// What was written goes to the other array, and to the units here.
    async fn drain(&self, tables: &Tables, record: &GroupRecord, reversal: &Reversal) -> anyhow::Result<()> {
        let Some(group) = self.open_group_of(record.number) else { return Ok(()) };
        if let Some(reason) = why_not(tables, &group, record, reversal) {
            let what = format!("group {}: it cannot be reversed: {reason}", record.name);
            self.store.change(&Who::Array, what, |tables| {
                tables.reversal_ends(record.number);
                Ok(())
            })?;
            self.wake();
            return Ok(());
        }
        // Nothing gets a number any more: this is the last one.
        let last = group.next_number().previous();
        if reversal.manner == Manner::Planned
            && !group.await_reader(Some((JournalArray(reversal.array.0), last)))
        {
            return Ok(()); // The owner is woken when it is there.
        }
        if !self.others_are_ready(record, reversal, &group, last).await {
            return Ok(());
        }
        if !group.lease_left_but_for(JournalArray(reversal.array.0)).is_zero() {
            return Ok(()); // It gets no further one; the owner looks now and then.
        }
        group.settle().await?;
        match reversal.manner {
            Manner::Planned => self.hand_over(record, &group, last),
            Manner::Differences => self.tell_marks(tables, record, &group),
        }
    }

    fn hand_over(&self, record: &GroupRecord, group: &Group, last: UpdateNumber) -> anyhow::Result<()> {
        let runs = self.runs_of_others(&self.store.tables(), record, group);
        let last = StoredNumber(last.get());
        let what = format!("group {}: handed over behind update {last}", record.name);
        self.store.change(&Who::Array, what, |tables| {
            tables.handed_over(record.number, last, &runs, self.new_identity());
            Ok(())
        })?;
        self.wake();
        Ok(())
    }

    /// Where hosts wrote here while the pairs were suspended, the S-VOLs differ: the other array is told before it promises.
    fn tell_marks(&self, tables: &Tables, record: &GroupRecord, group: &Group) -> anyhow::Result<()> {
        let to = record.reversal.as_ref().map(|reversal| reversal.array);
        let marks: Vec<(PairNumber, Vec<(u64, u64)>)> = tables
            .pairs_of_group(record.number)
            .filter(|pair| Some(pair.auxiliary.array) == to)
            .map(|pair| (pair.number, group.marked_runs(pair.number.0, RUNS_MAX)))
            .collect();
        let what = format!("group {}: its differences are told", record.name);
        self.store.change(&Who::Array, what, |tables| {
            tables.reversal_told(record.number, &marks, &mut || self.new_identity());
            Ok(())
        })?;
        self.wake();
        Ok(())
    }

    fn hand_over_when_told(
        &self,
        tables: &Tables,
        record: &GroupRecord,
        reversal: &Reversal,
    ) -> anyhow::Result<()> {
        match self.open_group_of(record.number) {
            Some(group) if tables.is_all_told(record.number, reversal) => {
                self.hand_over(record, &group, group.next_number().previous())
            }
            _ => Ok(()),
        }
    }

    /// The other array has promised: this one copies from it. Everything is on the units here since before that.
    async fn leave(&self, tables: &Tables, record: &GroupRecord) -> anyhow::Result<()> {
        self.end_group(tables, record).await?;
        let gone = |pair: &PairRecord| PairMarks::gone(pair.number);
        let marks: Vec<PairMarks> = tables.pairs_of_group(record.number).map(gone).collect();
        let what = format!("group {}: reversed, it is a copy here", record.name);
        self.store.change_with_marks(&Who::Array, what, &marks, |tables| {
            tables.left(record.number);
            Ok(())
        })?;
        self.has_turned(record);
        Ok(())
    }

    /// The promise is kept. Hosts are let in when the group is open in its new role.
    async fn take_over(
        &self,
        tables: &Tables,
        record: &GroupRecord,
        reversal: &Reversal,
    ) -> anyhow::Result<()> {
        let _no_images = self.images.lock().await;
        self.shut_hosts_out(tables, record.number);
        let group = self.open_group_of(record.number);
        self.end_group(tables, record).await?;
        // Its failure may not be recorded yet.
        let failure = group.and_then(|group| group.failure());
        let has_failed = failure.is_some() || record.state != GroupState::Normal;
        let mut marks = Vec::new();
        if has_failed {
            let below = tables.served_pairs(record.number);
            marks.extend(below.map(Self::all_of_it_differs));
        }
        for pair in tables.pairs_with(record.number, reversal.array) {
            marks.push(match reversal.manner {
                // Nobody notes what its hosts will write.
                _ if has_failed => Self::all_of_it_differs(pair),
                Manner::Planned => PairMarks::gone(pair.number),
                Manner::Differences => {
                    // What became visible was marked durably before.
                    let mut all = DifferenceMap::new(pair.size_bytes);
                    let known = self.svol_map(pair)?.runs(RUNS_MAX);
                    known.iter().for_each(|(start, length)| all.mark(*start, *length));
                    PairMarks { pair: pair.number, replace: true, parts: all.take_changed() }
                }
            });
        }
        let ReversalStep::TakingOver(told) = &reversal.step else { return Ok(()) };
        let numbers = self.reserve_numbers(told)?;
        marks.extend(self.marks_of_others(tables, told, &numbers, has_failed)?);
        let what = format!("group {}: reversed, this array is its primary", record.name);
        self.store.change_with_marks(&Who::Array, what, &marks, |tables| {
            if let Some(reason) = &failure
                && record.state == GroupState::Normal
            {
                tables.group_event(record.number, GroupEvent::Fail, Some(reason.clone()))?;
            }
            tables.taken_over(record.number, &numbers, &mut || self.new_identity());
            if self.has_defect(ReversalDefect::GenerationKept) {
                tables.groups.edit(&record.number).and_then(|row| row.generations.pop());
            }
            Ok(())
        })?;
        self.has_turned(record);
        Ok(())
    }

    /// Ends a group in the role that it had.
    pub(super) async fn end_group(&self, tables: &Tables, record: &GroupRecord) -> anyhow::Result<()> {
        let volumes = tables.pairs_of_group(record.number).filter_map(|pair| own_volume(tables, pair));
        let volumes: Vec<VolumeId> = volumes.map(VolumeId).collect();
        if let Some(group) = self.open_group_of(record.number) {
            // Nothing becomes durable in a journal that failed, and nothing needs it: what counts was on the units before
            // the group was handed over, or promised.
            if group.failure().is_none()
                && let Err(error) = group.settle().await
                && group.failure().is_none()
            {
                return Err(error.into());
            }
            if group.failure().is_some() {
                self.take_gates_away(&volumes);
                self.disk.destage(&volumes).await?;
            }
            self.runtime().groups.remove(&record.number.0);
            group.close().await;
        }
        self.take_gates_away(&volumes);
        Ok(())
    }

    pub(super) fn take_gates_away(&self, volumes: &[VolumeId]) {
        for volume in volumes {
            if let Err(error) = self.disk.set_gate(*volume, None) {
                tracing::warn!(volume = volume.0, %error, "the gate of a volume cannot be taken away");
            }
        }
    }

    pub(super) fn has_turned(&self, record: &GroupRecord) {
        let mut runtime = self.runtime();
        let number = record.number.0;
        runtime.journal_begins.remove(&number);
        runtime.group_trouble.remove(&number);
        runtime.sourcing.remove(&number);
        runtime.shut.remove(&number);
        runtime.leaves.remove(&number);
        runtime.overflows.retain(|(group, _), _| *group != number);
        drop(runtime);
        self.wake();
    }

    /// Whether this array takes over. Whoever is refused lets hosts write again, so what is said to one copy of a message is
    /// said to all, also to one that was held up on another session: a refusal is durable before it is answered. Of a
    /// control store that failed the peer hears as of no answer.
    ///
    /// # Errors
    /// Why it does not; or the store's own failure, which says nothing of that.
    pub(super) async fn answer_reversal(
        &self,
        id: DesignationId,
        told: &RemoteReversal,
        who: &Who,
    ) -> Result<Outcome, Refusal> {
        if let Some(tamper) = &self.env.tamper {
            self.env.clock.sleep(tamper.before_promising()).await;
        }
        let _one_at_a_time = self.images.lock().await;
        let what = Designation::RemoteReverse(told.clone());
        // A promise that is kept already is not looked at again: the group is not what it was.
        let prepared = match self.store.read(|tables| tables.was_answered(id)) {
            true => Ok(()),
            false => self.prepare_reversal(told).await,
        };
        let answer = prepared.and_then(|()| self.designate_by_peer(id, what.clone(), who));
        if let Err(refusal) = &answer
            && !matches!(refusal, Refusal::Store(_))
        {
            self.store.checkpoint(|tables| tables.reversal_refused(id, &what, refusal))?;
        }
        answer
    }

    /// Before this array promises to take over: its S-VOLs are what the P-VOLs are, on the units.
    async fn prepare_reversal(&self, told: &RemoteReversal) -> Result<(), Refusal> {
        let tables = self.store.tables();
        let is_early = self.has_defect(ReversalDefect::PromisedEarly);
        if tables.has_taken_over(told) || told.manner == Manner::Differences || is_early {
            return Ok(());
        }
        let number = tables.group_named(&told.group).map(|row| row.number);
        let group = number.and_then(|number| self.open_group_of(number));
        let Some(group) = group else {
            return Err(Refusal::Conflict(format!("group {} is not open here", told.group)));
        };
        let failed = |error: crate::copy::CopyError| Refusal::Conflict(error.to_string());
        group.restore_available(Duration::ZERO).await.map_err(failed)?;
        let restored = group.whole_number();
        if restored != Some(UpdateNumber::new(told.last.0)) {
            let restored =
                restored.map_or_else(|| "no image of one moment".to_owned(), |number| number.to_string());
            let text = format!("group {}: {restored} is restored here, not update {}", told.group, told.last);
            return Err(Refusal::Conflict(text));
        }
        self.readers_below_are_ready(&group, UpdateNumber::new(told.last.0)).await?;
        group.settle().await.map_err(failed)
    }

    /// At the auxiliary: where the P-VOL was changed counts as different, durably, before the primary is answered.
    pub(super) async fn take_reverse_marks(
        &self,
        name: &PairName,
        runs: &[(u64, u64)],
    ) -> Result<(), Refusal> {
        if self.has_defect(ReversalDefect::MarksForgotten) {
            return Ok(());
        }
        let number = self.store.read(|tables| tables.pair_named(name).map(|pair| pair.number));
        let marks = number.and_then(|number| self.runtime().written.get(&number.0).cloned());
        let Some(marks) = marks else {
            return Err(Refusal::Conflict(format!("the S-VOL of pair {name} is not open to hosts")));
        };
        marks.mark_runs(runs).await.map_err(Refusal::Conflict)
    }

    /// A defect that is planted for the test of the tests.
    pub(super) fn has_defect(&self, defect: ReversalDefect) -> bool {
        self.env.tamper.as_ref().is_some_and(|tamper| tamper.reversal() == Some(defect))
    }

    /// Whether hosts write a P-VOL although it is turned round, which only a planted defect lets them.
    pub(super) fn goes_on_wrongly(&self, record: &VolumeRecord) -> bool {
        record.state == VolumeState::Main && self.has_defect(ReversalDefect::HostsWriteOn)
    }

    pub(super) fn open_group_of(&self, number: GroupNumber) -> Option<Arc<Group>> {
        self.runtime().groups.get(&number.0).cloned()
    }
}

/// Why a reversal that has begun cannot go on: something happened to the pairs meanwhile.
fn why_not(tables: &Tables, group: &Group, record: &GroupRecord, reversal: &Reversal) -> Option<String> {
    let wanted = match reversal.manner {
        Manner::Planned => PairState::Normal,
        Manner::Differences => PairState::Suspended,
    };
    let mut pairs = tables.pairs_with(record.number, reversal.array);
    let other = pairs.find(|pair| pair.state != wanted);
    let state = other.map(|pair| format!("pair {} is {}", pair.name, pair.state));
    state.or_else(|| group.failure())
}
