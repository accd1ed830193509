//! Disaster drills at work: clones are made, at a number if need be, and go again (decision 26).
//!
//! A drill at the newest update is made like a snapshot, before the designation is applied. One at a number is recorded as
//! waiting first; from then on restore pauses at that number (`copy/cut.rs`), and a task of the drill's own attends to it until its clones
//! are made (`drill_cut.rs`). A number that restore has gone past is made by replaying updates onto clones (decision 27), if an image and the
//! journal lead there; else the drill is refused.
//!
//! One task lets drills expire. What has ended is taken away by a task of its own: first no target shows it and hosts are told so,
//! then its volumes go. Whatever a crash cuts off, the record says where it goes on.

use super::Array;
use super::drill_cut::Waiting;
use crate::copy::cut::Approach;
use crate::copy::differences::DifferenceMap;
use crate::copy::group::Group;
use crate::copy::marked::SvolMarks;
use crate::copy::quota::{Allowance, EXTENT_BYTES, Quota};
use crate::io::volume::VolumeRole;
use crate::volume::designation::{Designation, NewSnapshot, Refusal};
use crate::volume::drill::{
    DrillAt, DrillBegun, DrillNumber, DrillOrder, DrillRecord, DrillState, NewDrill, usable,
};
use crate::volume::effect::Effect;
use crate::volume::group::GroupRecord;
use crate::volume::name::{GroupName, GroupNumber, PairNumber, SnapshotName, UpdateNumber, VolumeNumber};
use crate::volume::record::Who;
use crate::volume::snapshot::{SnapshotAt, SnapshotHosts, SnapshotOf, SnapshotRecord};
use crate::volume::store::{Order, PairMarks};
use crate::volume::table::Tables;
use std::collections::{BTreeMap, BTreeSet};
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
        let runtime = self.runtime();
        for group in runtime.groups.values() {
            group.set_cuts(&tables.drill_cuts(GroupNumber(group.number), &runtime.cut_drills));
        }
    }

    pub(super) fn take_up_cuts(&self) {
        let _one_at_a_time = self.stops.lock().unwrap_or_else(PoisonError::into_inner);
        self.set_cuts();
    }

    /// A group that is being opened: where its restore stops, where it pauses, and what its journal keeps.
    pub(super) fn set_stops(&self, record: &GroupRecord, group: &Group) {
        group.set_restore_stops(record.restore_stops());
        self.retain_journal(group, record);
        let are_cut = BTreeSet::new();
        group.set_cuts(&self.store.read(|tables| tables.drill_cuts(record.number, &are_cut)));
    }

    /// Attends to drills for as long as the array lives.
    pub(super) fn start_drills(self: &Arc<Self>) {
        self.spawn(Self::attend_drills(Arc::downgrade(self)));
    }

    async fn attend_drills(array: Weak<Self>) {
        loop {
            let Some(array) = array.upgrade() else { return };
            let changed = array.changed().notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let again = array.attend();
            tokio::select! {
                biased;
                () = &mut changed => {}
                () = array.env.clock.sleep(again) => {}
            }
        }
    }

    /// Does what is due; after how long to look again, if nothing happens.
    fn attend(self: &Arc<Self>) -> Duration {
        let going: Vec<DrillRecord> = self
            .store
            .read(|tables| tables.drills.iter().filter(|drill| !drill.is_ended()).cloned().collect());
        // A group may have been opened with what was recorded a moment before that.
        self.take_up_cuts();
        let mut again = LOOK_AGAIN;
        for drill in going {
            match &drill.state {
                DrillState::Waiting { .. } | DrillState::Ending { .. } => self.attend_apart(drill.number),
                DrillState::Running { .. } => {
                    let Some(due_ns) = drill.expires_unix_ns() else { continue };
                    if due_ns <= self.env.clock.wall().0 {
                        self.expire(&drill);
                    }
                    // The wall clock may step: nothing is slept for at a stretch. What could not be recorded is tried again.
                    let left = Duration::from_nanos(due_ns.saturating_sub(self.env.clock.wall().0));
                    again = again.min(if left.is_zero() { TRY_AGAIN } else { left });
                }
                DrillState::Ended { .. } => {}
            }
        }
        again
    }

    /// A drill that waits, or that goes, has a task of its own: whatever it waits for, no other one does.
    fn attend_apart(self: &Arc<Self>, number: DrillNumber) {
        if self.runtime().attended_drills.insert(number) {
            let attended = Attended { array: self.clone(), number };
            self.spawn(async move { attended.array.attend_one(number).await });
        }
    }

    async fn attend_one(&self, number: DrillNumber) {
        let mut waiting = Waiting::default();
        loop {
            let drill = self.store.read(|tables| tables.drills.get(&number).cloned());
            let Some(drill) = drill else { return };
            match drill.state {
                DrillState::Waiting { update, until_unix_ns } => {
                    self.wait_for_number(&drill, update, until_unix_ns, &mut waiting).await;
                }
                DrillState::Ending { .. } => {
                    self.take_away(&drill).await;
                    if self.store.read(|now| now.drills.get(&number).is_some_and(|drill| !drill.is_ended())) {
                        // S-VOLs need its clones still, or the store is in trouble.
                        self.env.clock.sleep(TRY_AGAIN).await;
                    }
                }
                DrillState::Running { .. } | DrillState::Ended { .. } => return,
            }
        }
    }

    pub(super) fn give_up_drill(&self, drill: &DrillRecord, why: &str) {
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
pub(super) fn clones(group: &GroupName, name: &SnapshotName, at: SnapshotAt) -> NewSnapshot {
    let of = SnapshotOf::Group(group.clone());
    NewSnapshot { name: name.clone(), of, hosts: SnapshotHosts::ReadWrite, at, made: None }
}

/// A drill that has its task.
struct Attended {
    array: Arc<Array>,
    number: DrillNumber,
}

impl Drop for Attended {
    fn drop(&mut self) {
        self.array.runtime().attended_drills.remove(&self.number);
        self.array.changed().notify_waiters();
    }
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
/// Clones go after this time also when the owner has not taken their LUNs away yet.
const HIDDEN_WITHIN: Duration = Duration::from_secs(5);
