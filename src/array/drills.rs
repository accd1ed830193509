//! Disaster drills at work: clones are made, at a number if need be, and go again (decision 26).
//!
//! A drill at the newest update is made like a snapshot, before the designation is applied. One at a number is recorded as
//! waiting first; from then on restore pauses at that number (`copy/cut.rs`), and one task attends to it: it makes the clones there,
//! records them, and lets restore go on. A number that restore has gone past, or that a delay keeps from it, is made by replaying updates
//! onto clones (decision 27), if an image and the journal lead there; else the drill is refused, or given up, and its record says why.
//! The same task lets drills expire, and takes away what has ended: first no target shows it and hosts are told so, then its
//! volumes go. Whatever a crash cuts off, the record says where it goes on.

use super::Array;
use crate::clock::MonotonicNs;
use crate::copy::cut::Approach;
use crate::copy::differences::DifferenceMap;
use crate::copy::group::Group;
use crate::copy::marked::SvolMarks;
use crate::copy::quota::{Allowance, EXTENT_BYTES, Quota};
use crate::disk::VolumeId;
use crate::io::volume::VolumeRole;
use crate::volume::designation::{Designation, NewSnapshot, Refusal};
use crate::volume::drill::{
    DrillAt, DrillBegun, DrillNumber, DrillOrder, DrillRecord, DrillState, NewDrill, usable,
};
use crate::volume::effect::Effect;
use crate::volume::group::{GroupRecord, GroupRole};
use crate::volume::name::{GroupName, GroupNumber, PairNumber, SnapshotName, UpdateNumber, VolumeNumber};
use crate::volume::record::Who;
use crate::volume::snapshot::{SnapshotAt, SnapshotHosts, SnapshotOf, SnapshotRecord};
use crate::volume::store::{Order, PairMarks};
use crate::volume::table::Tables;
use futures_util::future::select_all;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

impl Array {
    /// Makes the clones of drills at the newest update among these orders, durably, and puts them into the orders.
    ///
    /// # Errors
    /// They cannot be made, or would be of no use: there are none.
    pub(super) async fn make_drills(&self, orders: &mut [Order], who: &Who) -> Result<(), Refusal> {
        let is_one = |(_, what): &Order| matches!(what, Designation::Drill(_));
        if !orders.iter().any(is_one) || self.store.rehearse(orders, who)?.is_repetition {
            return Ok(());
        }
        for (_, what) in orders {
            let Designation::Drill(order) = what else { continue };
            match order.as_mut() {
                DrillOrder::Begin(new) => {
                    let (made, reserved) = match self.gone_by(new)? {
                        _ if new.at == DrillAt::Newest => {
                            let now = clones(&new.group, &new.name, SnapshotAt::Now);
                            self.made_in_time(&now, self.make_snapshot(&now)).await?
                        }
                        Some(update) => {
                            let then = clones(&new.group, &new.name, SnapshotAt::Update(update));
                            self.image_at(&then).await?
                        }
                        None => continue,
                    };
                    usable(&made.moment).map_err(Refusal::Conflict)?;
                    new.begun = Some(DrillBegun::Made(made));
                    reserved.keep();
                }
                DrillOrder::Close(_) => {}
            }
        }
        Ok(())
    }

    /// Applies what was said of drills. A number that one waits for is first taken up by its group, then recorded, so that restore
    /// does not go past it in between.
    pub(super) fn designate_drills(&self, orders: &[Order], who: &Who) -> Result<Effect, Refusal> {
        let one_at_a_time = self.stops.lock().unwrap_or_else(PoisonError::into_inner);
        let mut orders = orders.to_vec();
        let now_unix_ns = self.env.clock.wall().0;
        let mut fill_in = || {
            for (_, what) in &mut orders {
                let Designation::Drill(order) = what else { continue };
                match order.as_mut() {
                    DrillOrder::Begin(new) if new.begun.is_none() => {
                        let update = self.take_cut(new)?;
                        new.begun = Some(DrillBegun::Waits { update, now_unix_ns });
                    }
                    DrillOrder::Begin(_) => {}
                    DrillOrder::Close(close) => close.now_unix_ns = Some(now_unix_ns),
                }
            }
            Ok(())
        };
        let recorded = fill_in().and_then(|()| self.store.designate_all(&orders, who));
        self.set_cuts();
        drop(one_at_a_time);
        self.wake();
        recorded
    }

    /// The update that a drill is to be of, if the S-VOLs have gone past it.
    fn gone_by(&self, new: &NewDrill) -> Result<Option<UpdateNumber>, Refusal> {
        if new.at == DrillAt::Newest {
            return Ok(None);
        }
        let (group, update) = self.update_of(new)?;
        Ok((group.approach(update) == Approach::Past).then_some(update))
    }

    /// The number that a drill shall wait for; restore does not go past it from here on.
    fn take_cut(&self, new: &NewDrill) -> Result<UpdateNumber, Refusal> {
        let (group, update) = self.update_of(new)?;
        group.add_cut(update).map_err(|restored| {
            Refusal::Conflict(format!("the S-VOLs have just come to update {restored}: say it again"))
        })?;
        Ok(update)
    }

    fn update_of(&self, new: &NewDrill) -> Result<(Arc<Group>, UpdateNumber), Refusal> {
        let group = self.group_at_work(&new.group)?;
        let update = match new.at {
            DrillAt::Newest => return Err(Refusal::Conflict("clones are made before they are named".into())),
            DrillAt::Number(number) => number,
            DrillAt::Bookmark(name) => {
                let number = group.number_of_bookmark(name).ok_or_else(|| {
                    Refusal::Conflict(format!(
                        "the journal here holds no bookmark {name}: it has not come yet, or is freed"
                    ))
                })?;
                UpdateNumber(number.get())
            }
        };
        Ok((group, update))
    }

    /// Groups pause where the records say, and nowhere else. The caller holds `stops`.
    fn set_cuts(&self) {
        let tables = self.store.tables();
        for group in self.runtime().groups.values() {
            group.set_cuts(&tables.drill_cuts(GroupNumber(group.number)));
        }
    }

    fn take_up_cuts(&self) {
        let _one_at_a_time = self.stops.lock().unwrap_or_else(PoisonError::into_inner);
        self.set_cuts();
    }

    /// A group that is being opened: where its restore stops, where it pauses, and what its journal keeps.
    pub(super) fn set_stops(&self, record: &GroupRecord, group: &Group) {
        group.set_restore_stops(record.restore_stops());
        self.retain_journal(group, record);
        group.set_cuts(&self.store.read(|tables| tables.drill_cuts(record.number)));
    }

    /// Attends to drills for as long as the array lives.
    pub(super) fn start_drills(self: &Arc<Self>) {
        self.spawn(Self::attend_drills(Arc::downgrade(self)));
    }

    async fn attend_drills(array: Weak<Self>) {
        let mut seen = BTreeMap::new();
        loop {
            let Some(array) = array.upgrade() else { return };
            let changed = array.changed().notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let again = array.attend(&mut seen).await;
            tokio::select! {
                biased;
                () = &mut changed => {}
                () = array.some_approach() => {}
                () = array.env.clock.sleep(again) => {}
            }
        }
    }

    /// Does what is due; after how long to look again, if nothing happens. `seen`: of those that wait.
    async fn attend(self: &Arc<Self>, seen: &mut BTreeMap<DrillNumber, Seen>) -> Duration {
        let going: Vec<DrillRecord> = self
            .store
            .read(|tables| tables.drills.iter().filter(|drill| !drill.is_ended()).cloned().collect());
        // A group may have been opened with what was recorded a moment before that.
        self.take_up_cuts();
        seen.retain(|number, _| going.iter().any(|drill| drill.number == *number));
        let mut again = LOOK_AGAIN;
        for drill in going {
            let now_unix_ns = self.env.clock.wall().0;
            let due_ns = match &drill.state {
                DrillState::Waiting { update, until_unix_ns } => {
                    let seen = seen.entry(drill.number).or_default();
                    self.attend_waiting(&drill, *update, now_unix_ns >= *until_unix_ns, seen).await;
                    again = again.min(HELD_BACK);
                    Some(*until_unix_ns)
                }
                DrillState::Running { .. } => {
                    let due_ns = drill.expires_unix_ns();
                    if due_ns.is_some_and(|due_ns| due_ns <= now_unix_ns) {
                        self.expire(&drill);
                    }
                    due_ns
                }
                DrillState::Ending { .. } => {
                    self.take_away(&drill).await;
                    None
                }
                DrillState::Ended { .. } => None,
            };
            if let Some(due_ns) = due_ns {
                // The wall clock may step: nothing is slept for at a stretch. What could not be recorded is tried again.
                let left = Duration::from_nanos(due_ns.saturating_sub(self.env.clock.wall().0));
                again = again.min(if left.is_zero() { TRY_AGAIN } else { left });
            }
        }
        again
    }

    async fn attend_waiting(
        self: &Arc<Self>,
        drill: &DrillRecord,
        update: UpdateNumber,
        is_over: bool,
        seen: &mut Seen,
    ) {
        let tables = self.store.tables();
        let Some(row) = tables.group_named(&drill.group) else {
            return self.give_up_drill(drill, "the group is gone");
        };
        if !matches!(row.role, GroupRole::Auxiliary { .. }) {
            return self.give_up_drill(drill, "this array has become the primary of the group");
        }
        let open = self.runtime().groups.get(&row.number.0).cloned();
        let approach = open.as_ref().map(|group| (group, group.approach(update)));
        match approach {
            Some((_, Approach::There)) => self.make_drill(drill, update, SnapshotAt::Now).await,
            // This array was ended when it came; or it was a takeover, a resync, or the like, that went past it.
            Some((_, Approach::Past)) => self.replay_drill(drill, update, seen),
            Some((group, _)) if self.is_held_back(group, update, seen) => {
                self.replay_drill(drill, update, seen);
            }
            _ if is_over => {
                self.give_up_drill(drill, &format!("update {update} did not come in the time that was set"));
            }
            Some((group, Approach::Near)) if !std::mem::replace(&mut seen.is_destaged, true) => {
                let sources = tables.snapshot_sources(&SnapshotOf::Group(drill.group.clone()));
                let volumes: Vec<VolumeId> =
                    sources.into_iter().flatten().map(|volume| VolumeId(volume.0)).collect();
                group.destage_ahead(&volumes).await;
            }
            Some((_, Approach::Near | Approach::Far)) | None => {}
        }
    }

    /// Resolves when restore has come nearer to a number that a drill waits for.
    async fn some_approach(&self) {
        let waiting: Vec<(Arc<Group>, UpdateNumber)> = {
            let tables = self.store.tables();
            let runtime = self.runtime();
            let open = |drill: &DrillRecord| {
                let row = tables.group_named(&drill.group)?;
                Some((runtime.groups.get(&row.number.0)?.clone(), drill.waits_for()?))
            };
            tables.drills.iter().filter_map(open).collect()
        };
        if waiting.is_empty() {
            return std::future::pending().await;
        }
        let approaches = waiting.iter().map(|(group, update)| {
            let was = group.approach(*update);
            Box::pin(group.approaches(*update, was))
        });
        select_all(approaches).await;
    }

    /// Whether the update that a drill waits for has come and is kept from being restored, by a delay or a stop: then it is made
    /// from what the journal holds.
    fn is_held_back(&self, group: &Group, update: UpdateNumber, seen: &mut Seen) -> bool {
        if group.within_reach().last.get() < update.0 {
            return false;
        }
        let now = self.env.clock.now();
        let since = *seen.has_come.get_or_insert(now);
        now.since(since) >= HELD_BACK
    }

    /// That takes as long as what is replayed: nobody waits for it.
    fn replay_drill(self: &Arc<Self>, drill: &DrillRecord, update: UpdateNumber, seen: &mut Seen) {
        if !std::mem::replace(&mut seen.is_replayed, true) {
            let (array, drill) = (self.clone(), drill.clone());
            self.spawn(async move { array.make_drill(&drill, update, SnapshotAt::Update(update)).await });
        }
    }

    /// Makes the clones of a drill that has waited, at just that number, and lets restore go on: of what the S-VOLs are, or of another
    /// moment, by replaying updates onto clones.
    async fn make_drill(&self, drill: &DrillRecord, update: UpdateNumber, at: SnapshotAt) {
        let new = clones(&drill.group, &drill.name, at);
        let made = match at {
            SnapshotAt::Now => self.made_in_time(&new, self.make_snapshot(&new)).await,
            SnapshotAt::Update(_) | SnapshotAt::Time { .. } | SnapshotAt::Bookmark(_) => {
                self.image_at(&new).await
            }
        };
        let recorded =
            made.map_err(|refusal| refusal.to_string()).and_then(|(made, _given_back_unless_named)| {
                match usable(&made.moment)? {
                    Some(number) if number == update => {}
                    Some(number) => return Err(format!("the S-VOLs have come to update {number}")),
                    None => return Err("not every write has had a number".to_owned()),
                }
                let what = format!("group {}: drill {} is made at update {update}", drill.group, drill.name);
                let recorded =
                    self.store.change(&Who::Array, what, |tables| tables.drill_made(drill.number, &made));
                recorded.map_err(|refusal| refusal.to_string())
            });
        match recorded {
            Ok(()) => {
                self.take_up_cuts();
                self.wake();
            }
            Err(why) => self.give_up_drill(drill, &why),
        }
    }

    fn give_up_drill(&self, drill: &DrillRecord, why: &str) {
        let what = format!("group {}: drill {} is not made: {why}", drill.group, drill.name);
        let now_unix_ns = self.env.clock.wall().0;
        self.record(what, |tables| tables.drill_given_up(drill.number, why, now_unix_ns));
        self.take_up_cuts();
    }

    fn expire(&self, drill: &DrillRecord) {
        let what = format!("group {}: the time of drill {} is over", drill.group, drill.name);
        self.record(what, |tables| tables.drill_expires(drill.number));
    }

    /// Nobody is shown the clones any more, and hosts have been told: they go.
    async fn take_away(&self, drill: &DrillRecord) {
        tokio::select! {
            biased;
            () = self.reconciled() => {}
            () = self.env.clock.sleep(HIDDEN_WITHIN) => {}
        }
        if !self.store.read(|tables| tables.may_drill_go(drill.number)) {
            return;
        }
        let what = format!("group {}: the clones of drill {} are deleted", drill.group, drill.name);
        let now_unix_ns = self.env.clock.wall().0;
        let row =
            drill.snapshot().and_then(|number| self.store.read(|now| now.snapshots.get(&number).cloned()));
        let volumes = row.iter().flat_map(|row| &row.volumes);
        let marks: Vec<PairMarks> = volumes.map(|one| PairMarks::gone(counted_under(one.volume))).collect();
        let recorded = self.store.change_with_marks(&Who::Array, what, &marks, |tables| {
            tables.drill_gone(drill.number, now_unix_ns);
            Ok(())
        });
        match recorded {
            Ok(()) => self.wake(),
            Err(error) => tracing::error!(drill = %drill.name, %error, "its clones cannot be deleted yet"),
        }
    }

    fn record(&self, what: String, change: impl FnOnce(&mut Tables)) {
        let recorded = self.store.change(&Who::Array, &what, |tables| {
            change(tables);
            Ok(())
        });
        match recorded {
            Ok(()) => self.wake(),
            Err(error) => tracing::error!(%what, %error, "this cannot be recorded"),
        }
    }

    /// Counts what hosts write to clones that have a quota, before any target shows them.
    pub(super) fn meter_drills(&self) {
        let tables = self.store.tables();
        let metered: BTreeMap<u32, &DrillRecord> = tables
            .drills
            .iter()
            .filter(|drill| drill.quota_bytes.is_some() && matches!(drill.state, DrillState::Running { .. }))
            .flat_map(|drill| volumes_of(&tables, drill).map(move |volume| (volume.0, drill)))
            .collect();
        self.runtime().quotas.retain(|volume, quota| {
            let stays = metered.contains_key(volume);
            if !stays {
                quota.end();
            }
            stays
        });
        for (volume, drill) in metered {
            if !self.runtime().quotas.contains_key(&volume) {
                self.meter(&tables, drill, VolumeNumber(volume));
            }
        }
    }

    fn meter(&self, tables: &Tables, drill: &DrillRecord, number: VolumeNumber) {
        let Some(volume) = self.runtime().volumes.get(&number.0).cloned() else { return };
        let counted = self.counted(tables, number).unwrap_or_else(|why| {
            tracing::error!(drill = %drill.name, %why, "what hosts have written to it is not known");
            DifferenceMap::new(volume.capacity_bytes())
        });
        let allowance = match self.allowance_of(tables, drill) {
            Some(known) => known,
            None => self.new_allowance(tables, drill),
        };
        let store = Arc::new(super::marks::Marks(self.store.clone()));
        let marks = SvolMarks::new(counted_under(number).0, counted, store);
        self.spawn(marks.clone().write_marks());
        let quota = Quota::new(marks, allowance);
        volume.set_role(VolumeRole::Metered(quota.clone()));
        self.runtime().quotas.insert(number.0, quota);
    }

    /// What the clones of a drill share, if one of them is metered already.
    pub(super) fn allowance_of(&self, tables: &Tables, drill: &DrillRecord) -> Option<Arc<Allowance>> {
        let runtime = self.runtime();
        let quota = volumes_of(tables, drill).find_map(|volume| runtime.quotas.get(&volume.0));
        quota.map(|quota| quota.allowance().clone())
    }

    /// As the store has it. Where that cannot be read nothing more is allowed.
    fn new_allowance(&self, tables: &Tables, drill: &DrillRecord) -> Arc<Allowance> {
        let maps: Result<Vec<DifferenceMap>, String> =
            volumes_of(tables, drill).map(|volume| self.counted(tables, volume)).collect();
        match maps {
            Ok(maps) => {
                let used_bytes = maps.iter().map(|map| map.touched_bytes(EXTENT_BYTES)).sum();
                Allowance::new(drill.quota_bytes.unwrap_or(u64::MAX), used_bytes)
            }
            Err(_) => Allowance::new(0, 0),
        }
    }

    /// The extents of a clone that count against its drill's quota.
    fn counted(&self, tables: &Tables, volume: VolumeNumber) -> Result<DifferenceMap, String> {
        let size_bytes = tables.volumes.get(&volume).map_or(0, |row| row.size_bytes);
        let parts = self.store.marks_of(counted_under(volume))?;
        DifferenceMap::load(size_bytes, parts).map_err(|part| format!("part {part} is not one of its map"))
    }
}

/// What a drill is made of.
fn clones(group: &GroupName, name: &SnapshotName, at: SnapshotAt) -> NewSnapshot {
    let of = SnapshotOf::Group(group.clone());
    NewSnapshot { name: name.clone(), of, hosts: SnapshotHosts::ReadWrite, at, made: None }
}

/// What is remembered of a drill that waits.
#[derive(Default)]
struct Seen {
    /// Its volumes were destaged ahead of the cut.
    is_destaged: bool,
    /// Its clones are being made from what the journal holds.
    is_replayed: bool,
    /// Since when its update has been in the journal here, and not restored.
    has_come: Option<MonotonicNs>,
}

/// Its clones, while they are there.
pub(super) fn volumes_of<'t>(
    tables: &'t Tables,
    drill: &DrillRecord,
) -> impl Iterator<Item = VolumeNumber> + use<'t> {
    let row: Option<&SnapshotRecord> = drill.snapshot().and_then(|number| tables.snapshots.get(&number));
    row.into_iter().flat_map(|row| &row.volumes).map(|one| one.volume)
}

/// Under which number the store keeps what is counted of a clone: no pair ever has that of a volume.
fn counted_under(volume: VolumeNumber) -> PairNumber {
    PairNumber(volume.0)
}

/// Times of drills are looked at so often at least: the wall clock may step.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// What was due and could not be done is tried again after this.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// An update that has come and is not restored within this time is kept back on purpose.
const HELD_BACK: Duration = Duration::from_secs(1);
/// Clones go after this time also when the owner has not taken their LUNs away yet.
const HIDDEN_WITHIN: Duration = Duration::from_secs(5);
