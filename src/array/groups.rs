//! Groups at work: opened from what the store and their journals say, watched, and their states recorded.

use super::Array;
use super::cascade::generation;
use crate::copy::PairMark;
use crate::copy::differences::DifferenceMap;
use crate::copy::group::{Group, Leaving, PairRuntime, Parts, Role, Sequencer, Settings, SvolRuntime};
use crate::copy::rule::PairFacts;
use crate::copy::suspend::PairResync;
use crate::disk::VolumeId;
use crate::io::volume::VolumeRole;
use crate::volume::designation::Refusal;
use crate::volume::group::{Generation, GroupEvent, GroupRecord, GroupRole, GroupState};
use crate::volume::kind::{Release, Schedule};
use crate::volume::name::{ArrayNumber, GroupNumber, UpdateNumber as StoredNumber};
use crate::volume::pair::{PairEvent, PairRecord, PairState};
use crate::volume::record::Who;
use crate::volume::store::Store;
use crate::volume::table::Tables;
use crate::volume::takeover::Takeover;
use crate::volume::timing::{ReadSize, ReadTiming};
use holdfast_journal::chain::Chain;
use holdfast_journal::reader::{ReaderSet, ReleaseRule};
use holdfast_journal::{ArrayNumber as JournalArray, UpdateNumber};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl Array {
    /// Opens started groups, and records what their data say.
    ///
    /// `tables` is what the volumes were opened by in this round: what was designated since waits for the next one,
    /// because its volumes may not be open. Nobody else opens groups, so none is ever opened twice.
    pub(crate) async fn reconcile_groups(self: &Arc<Self>, tables: &Tables) {
        for record in tables.groups.iter().filter(|record| record.is_started) {
            let number = record.number.0;
            let (open, failed, first) = {
                let runtime = self.runtime();
                let first = runtime.journal_begins.get(&number).copied();
                (runtime.groups.contains_key(&number), runtime.group_trouble.contains_key(&number), first)
            };
            let is_auxiliary = matches!(record.role, GroupRole::Auxiliary { .. });
            self.give_back_journals(record.number);
            let is_new = record.segments.is_empty() && record.resume.is_none();
            let waits = is_auxiliary && is_new && first.is_none();
            if !open && !failed && !waits && !record.journals.is_empty() && record.state == GroupState::Normal
            {
                self.open_group(tables, record, first).await;
            }
            let interrupted = record.state == GroupState::Abnormal && !record.segments.is_empty();
            if interrupted
                && !open
                && !failed
                && let Err(error) = self.finish_leaving(tables, record).await
            {
                tracing::error!(group = %record.name, %error, "its failed journal cannot be left");
                if self.give_up_replaced(tables, record, &error) {
                    self.wake();
                    continue;
                }
                self.runtime().group_trouble.insert(number, error.to_string());
                self.volumes_wait_for(tables, record, &error.to_string());
            }
        }
        let groups: Vec<Arc<Group>> = self.runtime().groups.values().cloned().collect();
        for group in groups {
            self.record_group(&group).await;
        }
        self.tell_ended_suspensions();
        self.delete_idle();
    }

    /// Opens a group; `first` is the first number of a journal that is yet to be formatted at an auxiliary.
    async fn open_group(
        self: &Arc<Self>,
        tables: &Tables,
        record: &GroupRecord,
        first: Option<UpdateNumber>,
    ) {
        let _no_going_back = self.images.lock().await;
        // Its S-VOLs went back to their image meanwhile, or it was given another source: what was its journal is none any more.
        let is_as_it_was = |now: &GroupRecord| {
            (now.state, &now.role, &now.segments, &now.resume)
                == (record.state, &record.role, &record.segments, &record.resume)
        };
        if !self.store.read(|now| now.groups.get(&record.number).is_some_and(is_as_it_was)) {
            self.wake();
            return;
        }
        match self.try_open_group(tables, record, first).await {
            Ok(group) => {
                self.run_group(record, &group);
                self.strand_at_once(&group);
                self.runtime().groups.insert(record.number.0, group.clone());
                // An upstream array that spoke meanwhile found no group at work.
                group.note_broken(super::inflow::is_broken(&self.store.tables(), record.number));
                self.wake();
            }
            Err(error) => {
                tracing::error!(group = %record.name, %error, "cannot be opened");
                if self.give_up_replaced(tables, record, &error) {
                    self.wake();
                    return;
                }
                self.runtime().group_trouble.insert(record.number.0, error.to_string());
                self.volumes_wait_for(tables, record, &error.to_string());
            }
        }
    }

    /// A volume whose journal cannot be read may lack updates that only the journal has: hosts must not use it.
    fn volumes_wait_for(&self, tables: &Tables, record: &GroupRecord, reason: &str) {
        if tables.needs_no_journal(record) {
            return;
        }
        let mut runtime = self.runtime();
        for pair in tables.pairs_of_group(record.number) {
            let Some(number) = followed_volume(tables, pair) else { continue };
            if let Some(volume) = runtime.volumes.get(&number) {
                volume.set_role(VolumeRole::Waiting);
            }
            let reason = format!("its group {} cannot be opened: {reason}", record.name);
            runtime.volume_trouble.insert(number, reason);
        }
    }

    async fn try_open_group(
        self: &Arc<Self>,
        tables: &Tables,
        record: &GroupRecord,
        first: Option<UpdateNumber>,
    ) -> anyhow::Result<Arc<Group>> {
        let own = tables.meta().number.0;
        let is_begun_anew = record.segments.is_empty() && record.resume.is_some();
        let (journal, extra) = self.open_chain(record, first).await?;
        let generation = self.generation_for(record, &journal)?;
        let mut sequencer = sequencer(tables, record, journal, generation, &extra)?;
        self.load_generations(record, &mut sequencer);
        self.load_marks(tables, record, &mut sequencer)?;
        super::cascade::add_readers(tables, record, &mut sequencer);
        sequencer.wholeness.is_broken = super::inflow::may_be_broken(tables, record.number);
        if is_begun_anew {
            // What was written while there was no journal may still be in the cache only.
            sequencer.pairs.values_mut().flatten().for_each(|pair| pair.resync.unjournaled = true);
            let handed = record.resume.as_ref().map_or(0, |resume| resume.handed.0);
            sequencer.handed_before(UpdateNumber::new(handed));
        }
        sequencer.derive_holds();
        sequencer.restart_stranded_keepers();
        let parts = Parts {
            number: record.number.0,
            name: record.name.to_string(),
            array: JournalArray(own),
            role: if matches!(record.role, GroupRole::Primary) { Role::Source } else { Role::Copy },
            disk: self.disk.clone(),
            pool: self.pool.clone(),
            clock: self.env.clock.clone(),
            tamper: self.env.tamper.clone(),
            settings: Settings {
                journal_cache: self.journal_cache.clone(),
                demand: self.demand.clone(),
                read_updates: record.settings.read_updates,
                read_bytes: u32::try_from(record.settings.read_bytes).unwrap_or(u32::MAX),
                copy_unit_bytes: record.settings.copy_unit_bytes,
                throttle: record.settings.throttle,
                release_by: record.settings.release_by,
                no_room: record.settings.no_room,
            },
            marks: Arc::new(super::marks::Marks(self.store.clone())),
            segment_store: Arc::new(self.segments_of(record.number)),
        };
        let group = Group::new(parts, sequencer);
        let schedule = self.schedule_now(tables, record);
        group.set_schedule(schedule);
        super::synchronous::take_up(tables, record, &group);
        self.set_stops(record, &group);
        let attached = self.attach(tables, record, &group);
        if record.state == GroupState::Normal {
            self.sync_journals(&group); // Should the journal fail to be written, another volume takes over.
        }
        let replayed = match attached {
            Ok(()) => group.replay(schedule.restore_delay).await.map_err(anyhow::Error::from),
            Err(error) => Err(error),
        };
        if let Err(error) = replayed {
            // Never one moment without a journal that somebody counts on.
            let role = if tables.needs_no_journal(record) { VolumeRole::Plain } else { VolumeRole::Waiting };
            self.detach(tables, record, &role);
            return Err(error);
        }
        group.announce_readers();
        Ok(group)
    }

    /// Nothing protects the group's volumes any more, and nothing waits for a journal that nobody writes.
    fn detach(&self, tables: &Tables, record: &GroupRecord, role: &VolumeRole) {
        for pair in tables.pairs_of_group(record.number) {
            let Some(volume) = followed_volume(tables, pair) else { continue };
            if let Err(error) = self.disk.set_gate(VolumeId(volume), None) {
                tracing::warn!(volume, %error, "the gate of a volume cannot be taken away");
            }
            if let Some(volume) = self.runtime().volumes.get(&volume) {
                volume.set_role(role.clone());
            }
        }
    }

    /// A start that finds a journal which failed earlier and was not left to the end: what it held durably goes to the
    /// volumes, then the store gives it up. Until then hosts do not get the volumes.
    async fn finish_leaving(self: &Arc<Self>, tables: &Tables, record: &GroupRecord) -> anyhow::Result<()> {
        let group = self.try_open_group(tables, record, None).await?;
        let volumes = tables.pairs_of_group(record.number).filter_map(|pair| own_volume(tables, pair));
        let volumes: Vec<VolumeId> = volumes.map(VolumeId).collect();
        self.disk.destage(&volumes).await?;
        self.give_up_journal(&group)?;
        self.detach(tables, record, &super::unopened::role_when_left(record));
        Ok(())
    }

    /// The write-ahead rule holds for the group's volumes, and hosts' writes go through it, from here on.
    fn attach(&self, tables: &Tables, record: &GroupRecord, group: &Arc<Group>) -> anyhow::Result<()> {
        for pair in tables.pairs_of_group(record.number) {
            let Some(volume) = followed_volume(tables, pair) else { continue };
            self.disk.set_gate(VolumeId(volume), Some(group.gate()))?;
            self.set_role_now(record, group, volume);
        }
        Ok(())
    }

    /// Hosts' writes of a volume go through the group, unless they have been shut out since `record` was read. Whoever shuts them out records
    /// that first and takes the roles away behind it, under the same lock: so one of the two sees the other.
    fn set_role_now(&self, record: &GroupRecord, group: &Arc<Group>, volume: u32) {
        let runtime = self.runtime();
        if let Some(volume) = runtime.volumes.get(&volume) {
            let now = self.store.tables();
            volume.set_role(volume_role(now.groups.get(&record.number).unwrap_or(record), group));
        }
    }

    fn run_group(self: &Arc<Self>, record: &GroupRecord, group: &Arc<Group>) {
        self.spawn(group.clone().write_journal());
        self.spawn(group.clone().settle_loop());
        let (watched, array) = (group.clone(), Arc::downgrade(self));
        self.spawn(async move {
            loop {
                watched.needs_owner().await;
                let Some(array) = array.upgrade() else { return };
                let changed = watched.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                array.wake();
                changed.await;
            }
        });
        self.run_synchronous(group);
        if matches!(record.role, GroupRole::Auxiliary { .. }) {
            self.spawn(group.clone().restore_loop());
        }
    }

    /// Numbers given after a restart that may have lost some belong to a new generation (invariant 9). It is durable
    /// before the first of them is given.
    fn generation_for(
        &self,
        record: &GroupRecord,
        journal: &Chain,
    ) -> anyhow::Result<holdfast_journal::Generation> {
        let newest = record.generations.last().copied();
        let own = ArrayNumber(self.config.array.number.0);
        let is_primary = matches!(record.role, GroupRole::Primary);
        let untouched = journal.next() == UpdateNumber::FIRST;
        let next = if is_primary && !record.stopped_cleanly && !untouched {
            let counter = record.largest_counter() + 1;
            Some(Generation { counter, array: own, first: StoredNumber(journal.next().get()) })
        } else {
            None
        };
        self.store.checkpoint(|tables| {
            if let Some(row) = tables.groups.edit(&record.number) {
                row.stopped_cleanly = false;
                if let Some(next) = next {
                    row.generations.push(next);
                    let surplus = row.generations.len().saturating_sub(GENERATIONS_KEPT);
                    row.generations.drain(1..1 + surplus.min(row.generations.len() - 1));
                }
            }
        })?;
        Ok(generation(next.or(newest).as_ref()))
    }

    /// Brings new pairs to the data path, starts initial copies, records pairs that became normal and a failure.
    async fn record_group(self: &Arc<Self>, group: &Arc<Group>) {
        let tables = self.store.tables();
        let Some(record) = tables.groups.get(&GroupNumber(group.number)) else { return };
        group.set_schedule(self.schedule_now(&tables, record));
        self.note_if_second(record, group);
        super::synchronous::take_up(&self.store.tables(), record, group);
        if let Some(reason) = group.failure() {
            self.record_failure(group, record, &reason);
            return;
        }
        self.take_up_readers(&tables, record, group).await;
        self.note_generations(record, group);
        if let Err(error) = self.add_new_pairs(&tables, record, group) {
            tracing::error!(group = %record.name, %error, "a new pair cannot be taken up");
        }
        self.sync_svols(group);
        self.sync_journals(group);
        self.read_again(&tables, group).await;
        self.note_normal_pairs(group);
        let begin: Vec<PairRecord> = self.store.read(|tables| {
            let pairs = tables.pairs_of_group(record.number);
            pairs
                .filter(|pair| pair.state == PairState::NotYetCopied)
                .filter(|pair| ready(tables, record, pair) && pair.control.asked.is_none())
                .cloned()
                .collect()
        });
        for pair in begin {
            if tables.is_served(&pair) {
                // While nothing is held for the reader its copy would begin with numbers that it never gets.
                let reader = JournalArray(pair.auxiliary.array.0);
                if !(group.holds_reader(reader) || self.readmit(group, reader).await)
                    || !self.note_birth(group, &pair).await
                {
                    continue;
                }
                if pair.is_cascaded() {
                    self.begin_cascaded_copy(group, &pair);
                    continue;
                }
            }
            self.pair_event(group, pair.number.0, PairEvent::CopyBegins, "initial copy begins");
            group.derive_holds();
        }
        self.work_on_pairs(group).await;
        if matches!(record.role, GroupRole::Primary) {
            self.start_copies(group);
        }
    }

    fn start_copies(self: &Arc<Self>, group: &Arc<Group>) {
        let tables = self.store.tables();
        for pair in tables.pairs_of_group(GroupNumber(group.number)) {
            let Some(volume) = pair.primary.volume else { continue };
            let wanted = pair.state == PairState::BeingCopied && group.wants_copy(pair.number.0);
            if !wanted || !self.runtime().copying.insert(pair.number.0) {
                continue;
            }
            let (group, number, array) = (group.clone(), pair.number.0, Arc::downgrade(self));
            self.spawn(async move {
                group.clone().copy_pair(volume.0, number).await;
                if let Some(array) = array.upgrade() {
                    array.runtime().copying.remove(&number);
                    if group.wants_copy(number) {
                        array.wake(); // It was stopped and has begun anew meanwhile.
                    }
                }
            });
        }
    }

    pub(super) fn pair_event(&self, group: &Arc<Group>, pair: u32, event: PairEvent, what: &str) {
        let number = crate::volume::name::PairNumber(pair);
        if let Some(state) = self.record_pair_event(number, event, group.copy_end(pair), what) {
            group.set_pair_state(pair, state);
        }
        self.changed().notify_waiters();
    }

    /// Records the steps of leaving a failed journal; each is durable before the group takes the next.
    fn record_failure(&self, group: &Arc<Group>, record: &GroupRecord, reason: &str) {
        let recorded = match group.leaving() {
            Leaving::Failed if record.state == GroupState::Abnormal => Ok(()),
            Leaving::Failed => {
                let is_primary = matches!(record.role, GroupRole::Primary);
                let marks = match is_primary {
                    true => Self::everything_differs(&self.store.tables(), record),
                    false => Vec::new(),
                };
                self.store.change_with_marks(
                    &Who::Array,
                    format!("group {} abnormal", record.name),
                    &marks,
                    |tables| {
                        let pairs: Vec<_> =
                            tables.pairs_of_group(record.number).map(|pair| pair.number).collect();
                        // A copy stays the image that it is; what is lacking is read again or copied.
                        for pair in pairs.into_iter().filter(|_| is_primary) {
                            tables.pair_event(pair, PairEvent::Fail, Some(reason.to_owned()))?;
                        }
                        tables
                            .group_event(record.number, GroupEvent::Fail, Some(reason.to_owned()))
                            .map(|_| ())
                    },
                )
            }
            Leaving::Destaged
                if !super::synchronous::may_go_unjournaled(&self.store.tables(), record, group) =>
            {
                return;
            }
            Leaving::Destaged => self.give_up_journal(group),
            Leaving::No | Leaving::TakingOver | Leaving::Destaging | Leaving::Left => return,
        };
        match recorded {
            Ok(()) => group.leaving_recorded(),
            Err(error) => {
                tracing::error!(group = %record.name, %error, "the failure cannot be recorded; writes wait");
            }
        }
    }

    fn add_new_pairs(&self, tables: &Tables, record: &GroupRecord, group: &Arc<Group>) -> anyhow::Result<()> {
        for pair in tables.pairs_of_group(record.number) {
            let Some(volume) = followed_volume(tables, pair) else { continue };
            if group.knows_pair(pair.number.0) {
                continue;
            }
            self.disk.set_gate(VolumeId(volume), Some(group.gate()))?;
            if tables.is_served(pair) {
                let mut runtime = pair_runtime(pair, false);
                if runtime.resync.marking {
                    // It was stopped before anything knew it: nothing of it was ever copied.
                    let mut map = DifferenceMap::new(pair.size_bytes);
                    map.mark(0, pair.size_bytes);
                    runtime.resync.differences = Some(map);
                }
                group.add_pair(record_volume(pair), runtime);
                self.set_role_now(record, group, volume);
            } else {
                self.set_role_now(record, group, volume);
                let mut svol = svol_runtime(pair, volume);
                if pair.control.copy_from.0 == 0 {
                    // What is held here of an earlier pair of the same volumes does not count.
                    let next = crate::volume::name::UpdateNumber(group.next_number().get());
                    let from = UpdateNumber::new(pair.first_of_copy(next).0);
                    let noted = crate::volume::name::UpdateNumber(from.get());
                    self.store.checkpoint(|tables| {
                        if let Some(row) = tables.pairs.edit(&pair.number) {
                            row.control.copy_from = noted;
                        }
                    })?;
                    svol.copy_from = from;
                }
                group.add_svol(record_volume(pair), svol);
            }
        }
        Ok(())
    }
}

/// Whether the initial copy of a pair may begin: at the array with the P-VOL when the other one has accepted it and the
/// P-VOL is the image of one number, at the auxiliary at once.
fn ready(tables: &Tables, record: &GroupRecord, pair: &PairRecord) -> bool {
    if !tables.is_served(pair) {
        return true;
    }
    let is_there = pair.auxiliary.volume.is_some() && own_volume(tables, pair).is_some();
    is_there && (record.role == GroupRole::Primary || super::cascade::is_image_above(tables, pair))
}

/// This array's volume of a pair.
pub(crate) fn own_volume(tables: &Tables, pair: &PairRecord) -> Option<u32> {
    let own = tables.meta().number;
    let side = if pair.primary.array == own { &pair.primary } else { &pair.auxiliary };
    side.volume.map(|volume| volume.0)
}

/// The same, unless hosts are let into its S-VOL here: then the group has nothing to do with it.
fn followed_volume(tables: &Tables, pair: &PairRecord) -> Option<u32> {
    let own = tables.meta().number;
    let is_written = pair.control.svol_open && pair.primary.array != own;
    own_volume(tables, pair).filter(|_| !is_written)
}

/// What a volume of the group is for hosts' writes.
fn volume_role(record: &GroupRecord, group: &Arc<Group>) -> VolumeRole {
    match record.role {
        GroupRole::Primary if !record.is_shut() => VolumeRole::Source(group.clone()),
        GroupRole::Primary => VolumeRole::Copy, // Hosts write it no more: it is turned round.
        GroupRole::Auxiliary { .. } => VolumeRole::Copy,
    }
}

/// When this array reads and restores the group.
pub(crate) fn schedule(tables: &Tables, record: &GroupRecord) -> Schedule {
    let GroupRole::Auxiliary { link, .. } = &record.role else { return Schedule::default() };
    let own = tables.schedules.get(&(link.clone(), record.name.clone())).map(|row| row.schedule);
    let chosen = own.or_else(|| tables.links.get(link).map(|link| link.schedule)).unwrap_or_default();
    if record.takeover == Some(Takeover::Reaching) {
        // What its primary still has comes in a limited time.
        return Schedule { read: ReadTiming::Immediate, read_size: ReadSize::Group, ..chosen };
    }
    chosen
}

/// The number by which the group's records name the volume of a pair.
pub(crate) fn record_volume(pair: &PairRecord) -> u32 {
    pair.record_volume().map_or(0, |volume| volume.0)
}

/// A pair after a start: what was being copied before is journaled as a whole from now on, because the journal may
/// hold a record of any of its blocks.
pub(super) fn pair_runtime(pair: &PairRecord, restarted: bool) -> PairRuntime {
    let begun = !matches!(pair.state, PairState::Unused | PairState::NotYetCopied);
    PairRuntime {
        pair: pair.number.0,
        reader: JournalArray(pair.auxiliary.array.0),
        facts: PairFacts { state: pair.state, copy_completion_bytes: 0, copied_before: restarted && begun },
        capacity_bytes: pair.size_bytes,
        copy_end: None,
        copy_records: std::collections::VecDeque::new(),
        resync: PairResync {
            marking: matches!(pair.state, PairState::Suspended | PairState::Abnormal),
            withheld: pair.control.withheld_from.map(|from| {
                let until = pair.control.withheld_until.map(|until| UpdateNumber::new(until.0));
                (UpdateNumber::new(from.0), until)
            }),
            copy_from: UpdateNumber::new(pair.control.copy_from.0),
            born: UpdateNumber::new(pair.control.born.0),
            is_withheld_for_good: true,
            copies: pair.control.copies,
            reaches: pair.control.reaches.map(|number| UpdateNumber::new(number.0)),
            ..PairResync::default()
        },
    }
}

fn svol_runtime(pair: &PairRecord, volume: u32) -> SvolRuntime {
    SvolRuntime {
        pair: pair.number.0,
        volume,
        state: pair.state,
        copy_end: None,
        copy_from: UpdateNumber::new(pair.control.copy_from.0),
        cascaded: pair.is_cascaded(),
        copies: pair.control.copies,
    }
}

fn sequencer(
    tables: &Tables,
    record: &GroupRecord,
    journal: Chain,
    generation: holdfast_journal::Generation,
    extra: &crate::copy::CheckpointExtra,
) -> anyhow::Result<Sequencer> {
    let (mut pairs, mut svols) = (BTreeMap::<u32, Vec<PairRuntime>>::new(), BTreeMap::new());
    let mut gone = BTreeSet::new();
    for pair in tables.pairs_of_group(record.number) {
        let Some(volume) = followed_volume(tables, pair) else {
            gone.insert(record_volume(pair));
            continue;
        };
        let mark = extra.mark_of(PairMark::told(pair));
        let copy_end = UpdateNumber::new(mark.copy_end);
        // A checkpoint may still name the end of an earlier copy.
        let is_of_this_copy = mark.copy_end != 0
            && mark.copy_end >= pair.control.copy_from.0
            && (!pair.is_cascaded() || mark.copy_completion_bytes == u64::from(pair.control.copies));
        let copy_end = is_of_this_copy.then_some(copy_end);
        if tables.is_served(pair) {
            let mut runtime = pair_runtime(pair, true);
            runtime.facts.copy_completion_bytes = mark.copy_completion_bytes;
            runtime.copy_end = copy_end;
            pairs.entry(record_volume(pair)).or_default().push(runtime);
        } else {
            svols.insert(record_volume(pair), SvolRuntime { copy_end, ..svol_runtime(pair, volume) });
        }
    }
    let rule = match record.settings.release {
        Release::Read => ReleaseRule::Read,
        Release::Restored => ReleaseRule::Restored,
    };
    let released = journal.first_retained().previous();
    let readers = ReaderSet::decode(&extra.readers, rule, released, journal.durable())?;
    let consistent_from = UpdateNumber::new(extra.consistent_from);
    let mut sequencer = Sequencer::new(journal, generation, pairs, svols, readers, consistent_from);
    if record.role != GroupRole::Primary {
        sequencer.found_promised(extra.promise);
    } else if let Some(inherited) = &record.inherited {
        sequencer.inherit(inherited);
    }
    Ok(Sequencer { gone, ..sequencer })
}

/// Notes that these groups stopped with everything durable in their volumes.
pub(crate) fn note_clean_stop(store: &Store, groups: &[u32]) -> Result<(), Refusal> {
    store.checkpoint(|tables| {
        for number in groups {
            if let Some(row) = tables.groups.edit(&GroupNumber(*number)) {
                row.stopped_cleanly = true;
            }
        }
    })
}

/// Generations kept in the store: the first, and the newest ones.
const GENERATIONS_KEPT: usize = 1_000;
