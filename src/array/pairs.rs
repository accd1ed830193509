//! What was asked of pairs, carried out: suspended, resynchronised, deleted; and overflow (promises O1, O2).
//!
//! The store says what was asked ([`Asked`]); each step here is made at the group and then recorded, in the order that
//! `copy/suspend.rs` gives. Every step may be repeated: a crash between two of them is finished by the next start.

use super::Array;
use super::journals::forget_loss;
use super::marks::pair_marks;
use crate::clock::MonotonicNs;
use crate::copy::differences::DifferenceMap;
use crate::copy::group::{Group, Role, Sequencer};
use crate::disk::VolumeId;
use crate::io::volume::VolumeRole;
use crate::volume::designation::Refusal;
use crate::volume::group::GroupRecord;
use crate::volume::name::{ArrayNumber, GroupNumber, PairNumber, UpdateNumber as StoredNumber};
use crate::volume::pair::{Asked, PairRecord, PairState, SuspendCause};
use crate::volume::record::{Identity, Who};
use crate::volume::store::PairMarks;
use crate::volume::table::Tables;
use crate::volume::takeover::Takeover;
use holdfast_journal::{ArrayNumber as JournalArray, UpdateNumber};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A reader whose pairs overflowed, since this array started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Overflow {
    since: MonotonicNs,
    times: u32,
}

impl Array {
    /// The difference maps as the store has them; the replay marks what came after.
    pub(crate) fn load_marks(
        &self,
        tables: &Tables,
        record: &GroupRecord,
        sequencer: &mut Sequencer,
    ) -> anyhow::Result<()> {
        for pair in tables.served_pairs(record.number) {
            if super::groups::own_volume(tables, pair).is_none() {
                continue;
            }
            let volume = super::groups::record_volume(pair);
            let parts = self.store.marks_of(pair.number).map_err(anyhow::Error::msg)?;
            let is_stopped = matches!(pair.state, PairState::Suspended | PairState::Abnormal);
            let is_resynced =
                pair.state == PairState::BeingCopied && (pair.control.copy_from.0 != 0 || pair.is_cascaded());
            if is_stopped || is_resynced {
                let map = DifferenceMap::load(pair.size_bytes, parts).map_err(|part| {
                    anyhow::anyhow!("part {part} of the difference map of pair {} is not one", pair.name)
                })?;
                if let Some(runtime) = sequencer.pair_mut(volume, pair.number.0) {
                    runtime.resync.differences = Some(map);
                }
            }
        }
        self.load_freed(record, sequencer);
        Ok(())
    }

    /// Carries out what was asked of the pairs of a group.
    pub(crate) async fn work_on_pairs(self: &Arc<Self>, group: &Arc<Group>) {
        let tables = self.store.tables();
        let record = tables.groups.get(&GroupNumber(group.number));
        // While it is turned round nothing else happens to its pairs.
        let Some(record) = record.filter(|record| group.failure().is_none() && record.reversal.is_none())
        else {
            return;
        };
        if record.is_shut() {
            // Another array has taken over: here readers can only be taken away.
            self.delete_asked(group).await;
            return;
        }
        self.strand_readers(&tables, group).await;
        self.mark_lacking(group).await;
        self.suspend_overflowing(&tables, group).await;
        self.follow_above(group).await;
        self.suspend_asked(group).await;
        self.withhold_suspended(group);
        self.send_svol_writes(group);
        self.resync_after_overflow(group);
        if let Err(error) = group.restart_keepers().await {
            tracing::error!(group = %group.name, %error, "a keeper of journals cannot begin anew");
        }
        self.send_resyncs(group).await;
        self.begin_resyncs(group).await;
        self.delete_asked(group).await;
    }

    /// At an auxiliary: the data path knows what the store says of its pairs.
    pub(crate) fn sync_svols(&self, group: &Arc<Group>) {
        if group.role == Role::Copy {
            for pair in self.pairs_where(group, |_| true) {
                group.sync_svol(pair.number.0, pair.state, UpdateNumber::new(pair.control.copy_from.0));
                group.note_copies(pair.number.0, pair.control.copies);
            }
        }
    }

    /// At the primary: from which number on records of a copy belong to this pair; `false` if that cannot be recorded now.
    pub(crate) async fn note_birth(&self, group: &Arc<Group>, pair: &PairRecord) -> bool {
        if pair.control.born.0 != 0 {
            return true;
        }
        let Ok(born) = group.next_for_good().await else { return false };
        let recorded = self.store.checkpoint(|tables| {
            if let Some(row) = tables.pairs.edit(&pair.number) {
                row.control.born = StoredNumber(born.get());
            }
        });
        group.note_birth(pair.number.0, born);
        recorded.is_ok()
    }

    /// Whether something has to be looked at again after a while although nothing changes.
    pub(crate) fn awaits_readers(&self) -> bool {
        self.store.read(|tables| {
            let is_reversed = |group: &GroupRecord| {
                let is_settled = |one: &Takeover| matches!(one, Takeover::Taken(_));
                group.reversal.is_some() || group.takeover.as_ref().is_some_and(|one| !is_settled(one))
            };
            tables.groups.iter().any(is_reversed)
                || tables.pairs.iter().any(|pair| {
                    pair.control.cause == Some(SuspendCause::Overflow) || pair.control.asked.is_some()
                })
        })
    }

    async fn suspend_overflowing(&self, tables: &Tables, group: &Arc<Group>) {
        let stranded = group.stranded();
        let Some(reader) = stranded.or_else(|| group.overflowing()) else { return };
        let pairs: Vec<PairNumber> = tables
            .pairs_of_group(GroupNumber(group.number))
            .filter(|pair| pair.auxiliary.array.0 == reader.0)
            .filter(|pair| !matches!(pair.state, PairState::Suspended | PairState::Abnormal))
            .filter(|pair| group.knows_pair(pair.number.0))
            .map(|pair| pair.number)
            .collect();
        if pairs.is_empty() {
            // It keeps journals and has no S-VOLs: nothing can take the place of what it misses.
            let what = format!(
                "group {}: array {} keeps journals and lacks what is held no more: it begins anew later, with a gap",
                group.name, reader.0
            );
            let recorded = self.store.change(&Who::Array, what, |tables| {
                forget_loss(tables, GroupNumber(group.number), ArrayNumber(reader.0));
                Ok(())
            });
            if let Err(error) = recorded {
                tracing::error!(group = %group.name, %error, "an overflow cannot be recorded");
            }
            group.drop_keeper(reader);
            group.stranded_no_more(reader);
            return;
        }
        let why = "the journal does not hold what it has not taken";
        if !group.may_stop_pairs(reader, SuspendCause::Overflow, why) {
            return; // Its owner is woken when it may.
        }
        let is_stopped = |pair: &PairRecord| pair.auxiliary.array.0 == reader.0 && pair.state.is_stopped();
        let are_stopped = tables.pairs_of_group(GroupNumber(group.number)).any(is_stopped);
        if are_stopped
            && group.has_lost(reader)
            && !self.mark_stopped(group, ArrayNumber(reader.0), |_| ()).await
        {
            return;
        }
        let now = self.env.clock.now();
        {
            let mut runtime = self.runtime();
            let overflow = runtime
                .overflows
                .entry((group.number, reader.0))
                .or_insert(Overflow { since: now, times: 0 });
            (overflow.since, overflow.times) = (now, overflow.times.saturating_add(1));
        }
        let reason = match stranded {
            Some(_) => format!("journal that array {} had not taken is lost", reader.0),
            None => format!("the journal was full of what array {} had not taken", reader.0),
        };
        self.suspend_pairs(group, reader, &pairs, SuspendCause::Overflow, &reason).await;
    }

    async fn suspend_asked(&self, group: &Arc<Group>) {
        let asked: Vec<PairRecord> = self.pairs_where(group, |pair| {
            matches!(pair.control.asked, Some(Asked::Suspend(_))) && group.knows_pair(pair.number.0)
        });
        for (reader, pairs) in by_reader(&asked) {
            let cause = SuspendCause::Operator;
            self.suspend_pairs(group, reader, &pairs, cause, "suspended by the operator").await;
        }
    }

    /// A reader that goes on with other pairs no longer gets the updates of one that it knows to be suspended.
    fn withhold_suspended(&self, group: &Arc<Group>) {
        let told = self.pairs_where(group, |pair| {
            // One that is copied again soon is not withheld any more: its auxiliary was told since when it is.
            let is_resynced =
                matches!(pair.control.asked, Some(Asked::Resync | Asked::ResyncSent | Asked::ResyncAccepted));
            pair.state == PairState::Suspended
                && pair.control.told
                && pair.control.withheld_from.is_none()
                && !is_resynced
        });
        if told.is_empty() {
            return;
        }
        let start = |pair: &PairRecord| Some((pair.number.0, group.withhold(pair.number.0)?));
        let told: Vec<(u32, UpdateNumber)> = told.iter().filter_map(start).collect();
        let recorded = self.store.checkpoint(|tables| {
            told.iter().for_each(|(pair, from)| tables.withhold(PairNumber(*pair), StoredNumber(from.get())));
        });
        match recorded {
            Ok(()) => told.iter().for_each(|(pair, _)| group.withholding_recorded(*pair)),
            Err(error) => tracing::error!(group = %group.name, %error, "a suspension cannot be recorded"),
        }
    }

    /// Marks, state, free.
    pub(crate) async fn suspend_pairs(
        &self,
        group: &Arc<Group>,
        reader: JournalArray,
        pairs: &[PairNumber],
        cause: SuspendCause,
        reason: &str,
    ) {
        if !group.may_stop_pairs(reader, cause, reason) {
            return; // Its owner is woken when it may.
        }
        let numbers: Vec<u32> = pairs.iter().map(|pair| pair.0).collect();
        let marking = group.begin_marking(reader, &numbers);
        if let Err(error) = group.mark_unsettled(&marking).await {
            tracing::error!(group = %group.name, %error, "pairs cannot be suspended");
            return;
        }
        // Between taking marks and having them in the store nobody else may write older ones.
        let _one_at_a_time = group.checkpointing.lock().await;
        let taken = group.take_marks(&numbers);
        let what =
            format!("group {}: {} pairs of array {} suspended: {reason}", group.name, pairs.len(), reader.0);
        let recorded =
            self.store.change_with_marks(&Who::Array, what, &pair_marks(taken.parts.clone()), |tables| {
                // Those that were stopped before are marked by then.
                if cause == SuspendCause::Overflow && marking.is_stranded() {
                    forget_loss(tables, GroupNumber(group.number), ArrayNumber(reader.0));
                }
                let reaches = StoredNumber(marking.reaches().get());
                tables.pairs_suspended(pairs, (cause, reason), reaches, &mut || self.new_identity())
            });
        match recorded {
            Ok(()) => {
                group.suspended(&marking);
                self.wake();
            }
            // Tried again later: a store that fails must not make its owner spin.
            Err(error) => {
                group.marks_not_written(&taken.parts);
                if !matches!(error, Refusal::Store(_)) {
                    group.not_suspended(&marking); // What a store that failed has of it nobody knows.
                }
                tracing::error!(group = %group.name, %error, "a suspension cannot be recorded");
            }
        }
    }

    /// Pairs that overflowed are copied again once their reader asks for updates, there is room, and a pause is over.
    fn resync_after_overflow(&self, group: &Arc<Group>) {
        let overflowed = self.pairs_where(group, |pair| {
            pair.control.cause == Some(SuspendCause::Overflow)
                && pair.state == PairState::Suspended
                && pair.control.asked.is_none()
        });
        let now = self.env.clock.now();
        for (reader, pairs) in by_reader(&overflowed) {
            let begun = Overflow { since: self.started, times: 1 };
            let overflow = *self.runtime().overflows.entry((group.number, reader.0)).or_insert(begun);
            let pause = PAUSE_MIN.saturating_mul(1 << overflow.times.min(6).saturating_sub(1));
            if now.since(overflow.since) < pause || !group.may_resync(reader, overflow.since) {
                continue;
            }
            let what = format!("group {}: array {} asks again, resync", group.name, reader.0);
            let recorded = self.store.change(&Who::Array, what, |tables| {
                for pair in &pairs {
                    if let Some(row) = tables.pairs.edit(pair) {
                        row.control.asked = Some(Asked::Resync);
                    }
                }
                Ok(())
            });
            if let Err(error) = recorded {
                tracing::error!(group = %group.name, %error, "a resync cannot be recorded");
            }
        }
    }

    /// The auxiliary is told before anything is copied.
    async fn send_resyncs(&self, group: &Arc<Group>) {
        let asked = self.pairs_where(group, |pair| {
            let is_stopped = matches!(pair.state, PairState::Suspended | PairState::Abnormal);
            let is_wanted = pair.control.asked == Some(Asked::Resync) && pair.auxiliary.volume.is_some();
            is_wanted && is_stopped && !self.is_untold(pair)
        });
        if asked.is_empty() {
            return;
        }
        // All records of an earlier copy have smaller numbers, and no crash gives one of these again.
        let Ok(from) = group.next_for_good().await else { return };
        let from = StoredNumber(from.get());
        let what = format!("group {}: resync of {} pairs", group.name, asked.len());
        let pairs: Vec<(PairNumber, u64)> =
            asked.iter().map(|pair| (pair.number, group.rewritten_bytes(pair.number.0))).collect();
        let recorded = self.store.change(&Who::Array, what, |tables| {
            tables.resync_sent(&pairs, from, &mut || self.new_identity());
            Ok(())
        });
        match recorded {
            Ok(()) => self.wake(),
            Err(error) => tracing::error!(group = %group.name, %error, "a resync cannot be recorded"),
        }
    }

    /// Begins the copy of differences of a reader's pairs, when all that were asked for are accepted there.
    async fn begin_resyncs(self: &Arc<Self>, group: &Arc<Group>) {
        // One that its auxiliary has no S-VOL for waits for that alone.
        let asked = self.pairs_where(group, |pair| {
            matches!(pair.control.asked, Some(Asked::Resync | Asked::ResyncSent | Asked::ResyncAccepted))
                && pair.auxiliary.volume.is_some()
        });
        for (reader, _) in by_reader(&asked) {
            let of_reader = || asked.iter().filter(|pair| pair.auxiliary.array.0 == reader.0);
            if of_reader().any(|pair| pair.control.asked != Some(Asked::ResyncAccepted)) {
                continue;
            }
            let row = (GroupNumber(group.number), ArrayNumber(reader.0));
            if self.store.read(|tables| tables.readers.get(&row).is_some_and(|reader| reader.journal_lost)) {
                continue; // What it lost is marked first.
            }
            let pairs: Vec<PairNumber> = of_reader()
                .filter(|pair| matches!(pair.state, PairState::Suspended | PairState::Abnormal))
                .map(|pair| pair.number)
                .collect();
            if pairs.is_empty() || !self.others_know(group, reader, &pairs) {
                continue;
            }
            let numbers: Vec<u32> = pairs.iter().map(|pair| pair.0).collect();
            let start = match group.begin_resync(reader, &numbers).await {
                Ok(start) => start,
                Err(error) => {
                    tracing::error!(group = %group.name, %error, "a resync cannot begin");
                    group.resync_not_begun(&numbers);
                    continue;
                }
            };
            let _one_at_a_time = group.checkpointing.lock().await;
            let taken = group.take_marks(&numbers);
            let from = StoredNumber(start.from.get());
            let what = format!(
                "group {}: differences of {} pairs are copied from update {from} on",
                group.name,
                pairs.len()
            );
            let marks = pair_marks(taken.parts.clone());
            let recorded = self.store.change_with_marks(&Who::Array, what, &marks, |tables| {
                pairs.iter().try_for_each(|pair| tables.resync_begins(*pair, from, start.restarted))
            });
            match recorded {
                Ok(()) => {
                    pairs.iter().for_each(|pair| group.resyncing(pair.0, start));
                    self.wake();
                }
                Err(error) => {
                    group.marks_not_written(&taken.parts);
                    group.resync_not_begun(&numbers);
                    tracing::error!(group = %group.name, %error, "a resync cannot be recorded");
                }
            }
            group.derive_holds();
        }
    }

    /// A reader begins its journal anew only when it knows of all its stopped pairs: those that stay stopped keep their
    /// image then, because nothing of them is handed to it any more. One that it has no S-VOL for has none to keep.
    pub(crate) fn others_know(&self, group: &Arc<Group>, reader: JournalArray, pairs: &[PairNumber]) -> bool {
        let unaware = self.pairs_where(group, |pair| {
            pair.auxiliary.array.0 == reader.0
                && pair.state == PairState::Suspended
                && !pairs.contains(&pair.number)
                && pair.auxiliary.volume.is_some()
                && pair.control.withheld_from.is_none()
        });
        group.holds_reader(reader) || unaware.is_empty()
    }

    /// Takes pairs away that shall be deleted.
    async fn delete_asked(&self, group: &Arc<Group>) {
        let asked = self.pairs_where(group, |pair| {
            matches!(pair.control.asked, Some(Asked::Delete | Asked::DeleteAccepted))
        });
        for pair in asked {
            let knows = pair.control.asked == Some(Asked::DeleteAccepted);
            let is_served = self.store.read(|tables| tables.is_served(&pair));
            if !is_served && self.store.read(|tables| is_followed_below(tables, &pair)) {
                continue; // The pairs below go first.
            }
            let reader = JournalArray(pair.auxiliary.array.0);
            if is_served && !group.is_apart_from(reader, "a pair is taken away") {
                continue; // Its owner is woken when it is.
            }
            if is_served && !knows && !group.is_cut_off(pair.number.0) {
                let what = format!("pair {}: its auxiliary is told that it goes", pair.name);
                let recorded = self.store.change(&Who::Array, what, |tables| {
                    tables.deletion_sent(pair.number, self.new_identity());
                    Ok(())
                });
                if let Err(error) = recorded {
                    tracing::error!(pair = %pair.name, %error, "a deletion cannot be recorded");
                }
                continue;
            }
            match self.delete_pair(group, &pair).await {
                Ok(()) => self.wake(),
                Err(error) => {
                    tracing::error!(pair = %pair.name, %error, "cannot be taken away; trying again")
                }
            }
        }
    }

    /// Pairs of a group that never made a journal go without more ado, and a group that shall go and has no pairs.
    pub(crate) fn delete_idle(&self) {
        let tables = self.store.tables();
        for record in tables.groups.iter() {
            let is_open = self.runtime().groups.contains_key(&record.number.0);
            let never_journaled = record.segments.is_empty() && !is_open;
            let goes = |pair: &&PairRecord| {
                let asked = pair.control.asked;
                let goes = never_journaled && matches!(asked, Some(Asked::Delete | Asked::DeleteAccepted));
                goes && !self.is_forwarding(pair) && !self.breaks_image(pair)
            };
            let pairs: Vec<PairNumber> =
                tables.pairs_of_group(record.number).filter(goes).map(|pair| pair.number).collect();
            let empty = tables.pairs_of_group(record.number).count() == pairs.len();
            if pairs.is_empty() && !(empty && record.is_leaving) {
                continue;
            }
            let what = format!("group {}: what shall go is taken away", record.name);
            let freed = if empty { record.freed_marks(None) } else { Vec::new() };
            let marks: Vec<PairMarks> =
                pairs.iter().chain(&freed).map(|pair| PairMarks::gone(*pair)).collect();
            let recorded = self.store.change_with_marks(&Who::Array, what, &marks, |tables| {
                pairs.iter().for_each(|pair| tables.pair_is_gone(*pair, self.new_identity()));
                if empty && record.is_leaving {
                    tables.group_is_gone(record.number, &mut || self.new_identity());
                }
                Ok(())
            });
            match recorded {
                Ok(()) => self.wake(),
                Err(error) => {
                    tracing::error!(group = %record.name, %error, "a deletion cannot be recorded");
                }
            }
        }
    }

    async fn delete_pair(&self, group: &Arc<Group>, pair: &PairRecord) -> anyhow::Result<()> {
        let tables = self.store.tables();
        let volume = super::groups::own_volume(&tables, pair);
        let is_last = volume.is_none_or(|volume| {
            tables.pairs_of_volume(crate::volume::name::VolumeNumber(volume)).count() <= 1
        });
        let leaves = if tables.is_served(pair) {
            group.forget_pair(pair.number.0).await?
        } else {
            group.forget_svol(pair.number.0, self.restore_delay(&tables, pair.group)).await?;
            volume.filter(|_| is_last)
        };
        if let Some(number) = leaves {
            self.disk.set_gate(VolumeId(number), None)?;
            if let Some(volume) = self.runtime().volumes.get(&number) {
                volume.set_role(VolumeRole::Plain);
            }
            group.forget_volume(number);
        }
        let what = format!("pair {} taken away", pair.name);
        let identity = self.new_identity();
        self.store.change_with_marks(&Who::Array, what, &[PairMarks::gone(pair.number)], |tables| {
            tables.pair_is_gone(pair.number, identity);
            Ok(())
        })?;
        let tables = self.store.tables();
        let readers = tables.all_readers_of_group(GroupNumber(group.number));
        let readers: BTreeSet<JournalArray> = readers.map(|reader| JournalArray(reader.array.0)).collect();
        group.keep_readers(&readers);
        Ok(())
    }

    /// Groups at work whose rows are gone: they end, and their journal volumes are ordinary ones again.
    pub(crate) async fn close_deleted_groups(&self, tables: &Tables) {
        let gone: Vec<Arc<Group>> = {
            let runtime = self.runtime();
            let is_gone = |number: &u32| tables.groups.get(&GroupNumber(*number)).is_none();
            runtime
                .groups
                .iter()
                .filter(|(number, _)| is_gone(number))
                .map(|(_, group)| group.clone())
                .collect()
        };
        for group in gone {
            group.close().await;
            let mut runtime = self.runtime();
            runtime.groups.remove(&group.number);
            runtime.journal_begins.remove(&group.number);
        }
    }

    /// The journal of a primary has failed: nobody can say what its readers lack, so everything counts as different.
    pub(crate) fn everything_differs(tables: &Tables, record: &GroupRecord) -> Vec<PairMarks> {
        tables.served_pairs(record.number).map(Self::all_of_it_differs).collect()
    }

    pub(crate) fn all_of_it_differs(pair: &PairRecord) -> PairMarks {
        let mut map = DifferenceMap::new(pair.size_bytes);
        map.mark(0, pair.size_bytes);
        PairMarks { pair: pair.number, replace: true, parts: map.take_changed() }
    }

    pub(super) fn pairs_where(&self, group: &Group, wanted: impl Fn(&PairRecord) -> bool) -> Vec<PairRecord> {
        self.store.read(|tables| {
            tables.pairs_of_group(GroupNumber(group.number)).filter(|pair| wanted(pair)).cloned().collect()
        })
    }

    pub(crate) fn new_identity(&self) -> Identity {
        Identity(self.env.entropy.identity())
    }
}

/// Whether other arrays copy the S-VOL of a pair.
fn is_followed_below(tables: &Tables, pair: &PairRecord) -> bool {
    pair.auxiliary.volume.is_some_and(|volume| tables.pairs_below(pair.group, volume).next().is_some())
}

pub(super) fn by_reader(pairs: &[PairRecord]) -> BTreeMap<JournalArray, Vec<PairNumber>> {
    let mut readers: BTreeMap<JournalArray, Vec<PairNumber>> = BTreeMap::new();
    for pair in pairs {
        let ArrayNumber(array) = pair.auxiliary.array;
        readers.entry(JournalArray(array)).or_default().push(pair.number);
    }
    readers
}

/// First pause between an overflow and the copy that follows it; each further overflow doubles it, up to 64 times.
const PAUSE_MIN: Duration = Duration::from_secs(1);
