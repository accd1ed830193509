//! The middle of a cascade at work (promise T4), and readers that come and go (T1).
//!
//! A pair whose P-VOL is itself a copy goes on only while that is the image of one number: [`Array::follow_above`]
//! stops it otherwise, with marks here, and lets it go on afterwards. See `copy/cascade.rs` for why.

use super::Array;
use crate::config::Config;
use crate::copy::differences::DifferenceMap;
use crate::copy::group::{Group, Role, Sequencer};
use crate::volume::designation::{Designation, DesignationId, Refusal};
use crate::volume::group::{Generation, GroupRecord, GroupRole};
use crate::volume::name::{ArrayNumber, GroupNumber, PairNumber, UpdateNumber as StoredNumber};
use crate::volume::pair::{Asked, PairEvent, PairRecord, PairState, SuspendCause};
use crate::volume::record::{ReaderRecord, Who};
use crate::volume::store::PairMarks;
use crate::volume::table::Tables;
use holdfast_journal::{ArrayNumber as JournalArray, UpdateNumber};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Whether a declaration may be refused at first: it is of a group that is copied here, and its source may not have made it
/// known yet.
pub(super) fn may_wait(config: &Config, what: &Designation) -> bool {
    let (Designation::AddJournal { group, .. } | Designation::CreatePair { group, .. }) = what else {
        return matches!(what, Designation::SetSource { .. } | Designation::KeepImages { .. });
    };
    config.provision.groups.iter().any(|spec| spec.name == *group && spec.source.is_some())
}

impl Array {
    /// Tries again what was declared and could not be done when the array started.
    pub(crate) fn designate_deferred(&self) {
        let deferred = std::mem::take(&mut self.runtime().deferred);
        let mut left = Vec::new();
        for what in deferred {
            let id = DesignationId(self.new_identity());
            match self.store.designate(id, &what, &Who::Provision) {
                Ok(_) | Err(Refusal::Exists { .. }) => self.wake(),
                Err(refusal) => {
                    tracing::debug!(%what, %refusal, "waits");
                    left.push(what);
                }
            }
        }
        self.runtime().deferred.extend(left);
    }

    /// Readers that the store names and the group does not know are taken up, and the others let go.
    pub(crate) async fn take_up_readers(&self, tables: &Tables, record: &GroupRecord, group: &Arc<Group>) {
        let all = || tables.all_readers_of_group(record.number);
        let readers: Vec<JournalArray> = all().map(|reader| JournalArray(reader.array.0)).collect();
        let attached = all().filter(|reader| reader.is_attached);
        let attached: BTreeSet<JournalArray> = attached.map(|reader| JournalArray(reader.array.0)).collect();
        let is_elsewhere = |reader: &&ReaderRecord| {
            let has_relay = super::relay::has_relay_to(tables, record, reader.array);
            reader.is_attached || reader.reads_from.is_some() || has_relay
        };
        let elsewhere = all().filter(is_elsewhere);
        group.set_elsewhere(&elsewhere.map(|reader| JournalArray(reader.array.0)).collect());
        group.set_untold(untold(tables, record));
        if let Err(error) = group.take_up_readers(&readers, &attached).await {
            tracing::error!(group = %record.name, %error, "a new reader cannot be taken up");
        }
        let readers: BTreeSet<JournalArray> = readers.into_iter().collect();
        if group.has_other_readers(&readers) {
            group.keep_readers(&readers);
        }
    }

    /// The generations that the store knows, and that of the newest update here.
    pub(crate) fn load_generations(&self, record: &GroupRecord, sequencer: &mut Sequencer) {
        let stored_any =
            !record.segments.is_empty() && sequencer.journal.next().get() > record.journal_first.0;
        if matches!(record.role, GroupRole::Auxiliary { .. }) && stored_any {
            sequencer.generation = sequencer.journal.generation();
        }
        sequencer.stored_any = stored_any;
        let stored = self.store.read(|tables| {
            tables.groups.get(&record.number).map(|row| row.generations.clone()).unwrap_or_default()
        });
        let mut known: Vec<_> = stored.iter().map(|one| generation(Some(one))).collect();
        if !known.contains(&sequencer.generation) {
            known.push(sequencer.generation);
        }
        sequencer.generations = known;
    }

    /// The store knows the generations that the group has heard of.
    pub(crate) fn note_generations(&self, record: &GroupRecord, group: &Arc<Group>) {
        if !group.has_new_generations() {
            return;
        }
        let known: Vec<Generation> = group.take_generations().iter().map(stored_generation).collect();
        let recorded = self.store.checkpoint(|tables| {
            if let Some(row) = tables.groups.edit(&record.number) {
                row.generations = known;
            }
        });
        if let Err(error) = recorded {
            group.generations_not_noted();
            tracing::error!(group = %record.name, %error, "generations cannot be recorded");
        }
    }

    /// Stops the pairs of the next arrays whose P-VOL here is no image, and lets those go on whose P-VOL is one again.
    pub(crate) async fn follow_above(&self, group: &Arc<Group>) {
        if group.role == Role::Source {
            return;
        }
        let tables = self.store.tables();
        let mut stops: BTreeMap<JournalArray, Vec<PairNumber>> = BTreeMap::new();
        let mut goes_on = Vec::new();
        // What happened to the pair above may be over before anybody looks.
        let gated = group.gated();
        let is_gated = |pair: &PairRecord| {
            gated.contains(&(JournalArray(pair.auxiliary.array.0), super::groups::record_volume(pair)))
        };
        for pair in tables.served_pairs(GroupNumber(group.number)) {
            match pair.state {
                PairState::BeingCopied | PairState::Normal
                    if !is_image_above(&tables, pair) || is_gated(pair) =>
                {
                    stops.entry(JournalArray(pair.auxiliary.array.0)).or_default().push(pair.number);
                }
                PairState::Suspended
                    if pair.control.cause == Some(SuspendCause::Above)
                        && pair.control.asked.is_none()
                        && is_image_above(&tables, pair) =>
                {
                    goes_on.push(pair.number);
                }
                _ => {}
            }
        }
        for (reader, pairs) in stops {
            let reason = "its P-VOL is a copy that is no image of one update at the moment";
            self.suspend_pairs(group, reader, &pairs, SuspendCause::Above, reason).await;
        }
        if goes_on.is_empty() {
            return;
        }
        let what =
            format!("group {}: the P-VOLs of {} pairs are images again, resync", group.name, goes_on.len());
        let recorded = self.store.change(&Who::Array, what, |tables| {
            for pair in &goes_on {
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

    /// Begins the first copy of a pair whose P-VOL is itself a copy: everything is marked, and that is durable.
    pub(crate) fn begin_cascaded_copy(&self, group: &Arc<Group>, pair: &PairRecord) -> bool {
        let from = group.next_number().previous();
        let mut map = DifferenceMap::new(pair.size_bytes);
        map.mark(0, pair.size_bytes);
        let marks = [PairMarks { pair: pair.number, replace: true, parts: map.take_changed() }];
        let what = format!("pair {}: initial copy begins, as of update {from} or later", pair.name);
        let recorded = self.store.change_with_marks(&Who::Array, what, &marks, |tables| {
            if let Some(row) = tables.pairs.edit(&pair.number) {
                row.control.copy_from = StoredNumber(from.get());
            }
            tables.pair_event(pair.number, PairEvent::CopyBegins, None)
        });
        match recorded {
            Ok(state) => {
                group.begin_served_copy(pair.number.0, from, pair.control.copies);
                group.set_pair_state(pair.number.0, state);
                group.derive_holds();
                self.changed().notify_waiters();
                true
            }
            Err(error) => {
                tracing::error!(pair = %pair.name, %error, "an initial copy cannot be recorded");
                false
            }
        }
    }

    /// A pair is to be copied to an array for which nothing is held, because all its other pairs are suspended: it begins
    /// anew, and those stay as they are. `false`: not yet.
    pub(crate) async fn readmit(&self, group: &Arc<Group>, reader: JournalArray) -> bool {
        if !self.others_know(group, reader, &[]) {
            return false;
        }
        match group.begin_resync(reader, &[]).await {
            Ok(_) => true,
            Err(error) => {
                tracing::error!(group = %group.name, %error, "a reader cannot begin anew");
                group.derive_holds();
                false
            }
        }
    }

    /// Whether every pair of the next arrays is stopped, so that this array's journal may begin anew: what they lack is in
    /// difference maps.
    pub(crate) fn is_quiet_below(tables: &Tables, group: GroupNumber) -> bool {
        let is_stopped = |pair: &PairRecord| {
            matches!(pair.state, PairState::NotYetCopied | PairState::Suspended | PairState::Abnormal)
        };
        tables.served_pairs(group).all(is_stopped)
    }
}

/// A generation as the journal knows it; the first of all if none is stored.
pub(crate) fn generation(stored: Option<&Generation>) -> holdfast_journal::Generation {
    stored.map_or_else(holdfast_journal::Generation::default, |stored| holdfast_journal::Generation {
        counter: u32::try_from(stored.counter).unwrap_or(u32::MAX),
        array: JournalArray(stored.array.0),
        first: UpdateNumber::new(stored.first.0),
    })
}

pub(super) fn stored_generation(generation: &holdfast_journal::Generation) -> Generation {
    Generation {
        counter: u64::from(generation.counter),
        array: ArrayNumber(generation.array.0),
        first: StoredNumber(generation.first.get()),
    }
}

/// Whether the P-VOL of a pair is the image of one number; it is where hosts write.
pub(crate) fn is_image_above(tables: &Tables, pair: &PairRecord) -> bool {
    if !pair.is_cascaded() {
        return true;
    }
    let above = pair.primary.volume.and_then(|volume| tables.pair_above(pair.group, volume));
    above.is_some_and(|above| above.state == PairState::Normal)
}

/// Readers that have not been told yet that this array is their primary.
fn untold(tables: &Tables, record: &GroupRecord) -> BTreeSet<JournalArray> {
    let untold = tables.all_readers_of_group(record.number).filter(|reader| reader.is_untold);
    untold.map(|reader| JournalArray(reader.array.0)).collect()
}

/// Readers that the store names and the checkpoint does not know: they begin with the next number, which the
/// checkpoint behind the replay makes durable before any reader is answered.
pub(super) fn add_readers(tables: &Tables, record: &GroupRecord, sequencer: &mut Sequencer) {
    sequencer.apart.untold = untold(tables, record);
    for reader in tables.all_readers_of_group(record.number) {
        sequencer.take_up(JournalArray(reader.array.0), reader.is_attached);
    }
}
