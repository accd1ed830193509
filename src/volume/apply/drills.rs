//! Drills in the tables: begun, judged, ended; their records are kept (decision 26).

use super::local::{number, within};
use super::snapshots;
use crate::volume::designation::{NewSnapshot, Outcome, Refusal};
use crate::volume::drill::{
    DrillAt, DrillBegun, DrillClose, DrillEnd, DrillNumber, DrillOrder, DrillRecord, DrillState, NewDrill,
    Verdict, usable,
};
use crate::volume::group::GroupRole;
use crate::volume::name::{GroupName, GroupNumber, SnapshotName, SnapshotNumber, UpdateNumber};
use crate::volume::record::Who;
use crate::volume::snapshot::{MadeSnapshot, SnapshotAt, SnapshotHosts, SnapshotOf};
use crate::volume::table::Tables;
use std::collections::BTreeSet;

pub(super) fn apply(tables: &mut Tables, order: &DrillOrder, who: &Who) -> Result<Outcome, Refusal> {
    match order {
        DrillOrder::Begin(new) => begin(tables, new, who),
        DrillOrder::Close(close) => self::close(tables, close, who),
    }
}

fn begin(tables: &mut Tables, new: &NewDrill, who: &Who) -> Result<Outcome, Refusal> {
    let group = tables.group_named(&new.group).ok_or_else(|| Refusal::missing("group", &new.group))?;
    let is_copied = matches!(group.role, GroupRole::Auxiliary { .. });
    if new.at != DrillAt::Newest && !is_copied {
        return Err(Refusal::conflict(format!(
            "group {} is not copied here: at its primary a drill is of what the P-VOLs are now; \
             say --at newest, or say it at an array that copies the group",
            new.group
        )));
    }
    if tables.drill_named(&new.group, &new.name).is_some() {
        return Err(Refusal::exists("drill", &new.name));
    }
    let is_taken = |drill: &DrillRecord| drill.name == new.name && !drill.is_ended();
    if tables.snapshots.iter().any(|row| row.name == new.name) || tables.drills.iter().any(is_taken) {
        return Err(Refusal::exists("snapshot", &new.name));
    }
    let going = tables.drills.iter().filter(|drill| drill.group == new.group && !drill.is_ended());
    within(going.count(), GOING_MAX, "drills of a group at a time")?;
    tables.forget_old_drills(&new.group);
    let number = DrillNumber(number(tables)?);
    let mut drill = DrillRecord {
        number,
        group: new.group.clone(),
        name: new.name.clone(),
        at: new.at,
        state: DrillState::Ended { how: DrillEnd::Operator },
        update_number: None,
        bookmark: None,
        by: who.clone(),
        begun_unix_ns: 0,
        made_unix_ns: None,
        expire: new.expire,
        quota_bytes: new.quota_bytes,
        note: new.note.clone(),
        verdict: None,
        volumes: Vec::new(),
        ended_unix_ns: None,
    };
    match (&new.begun, new.at) {
        (Some(DrillBegun::Made(made)), _) => {
            drill.begun_unix_ns = made.made_unix_ns;
            make(tables, &mut drill, Some(made))?;
        }
        (Some(DrillBegun::Waits { update, now_unix_ns }), _) => {
            let within_ns = u64::try_from(new.within.as_nanos()).unwrap_or(u64::MAX);
            let until_unix_ns = now_unix_ns.saturating_add(within_ns);
            drill.begun_unix_ns = *now_unix_ns;
            drill.update_number = Some(*update);
            drill.state = DrillState::Waiting { update: *update, until_unix_ns };
        }
        // A rehearsal: what cannot be a snapshot now is refused in either case.
        (None, DrillAt::Newest | DrillAt::Number(_) | DrillAt::Bookmark(_)) => {
            make(tables, &mut drill, None)?;
        }
    }
    tables.drills.put(drill);
    Ok(Outcome::Created { number: number.0 })
}

/// Names the clones; without `made` only for a rehearsal.
fn make(tables: &mut Tables, drill: &mut DrillRecord, made: Option<&MadeSnapshot>) -> Result<(), Refusal> {
    if let Some(made) = made {
        drill.update_number = usable(&made.moment).map_err(Refusal::Conflict)?;
        (drill.bookmark, drill.made_unix_ns) = (made.bookmark, Some(made.made_unix_ns));
    }
    let of = SnapshotOf::Group(drill.group.clone());
    let hosts = SnapshotHosts::ReadWrite;
    let (name, at, made) = (drill.name.clone(), SnapshotAt::Now, made.cloned());
    let new = NewSnapshot { name, of, hosts, at, made };
    let outcome = snapshots::create(tables, &new)?;
    let snapshot = SnapshotNumber(outcome.number().unwrap_or_default());
    let row = tables.snapshots.get(&snapshot);
    let volumes = row.iter().flat_map(|row| &row.volumes).filter_map(|one| tables.volumes.get(&one.volume));
    drill.volumes = volumes.map(|volume| volume.name.clone()).collect();
    drill.state = DrillState::Running { snapshot };
    Ok(())
}

fn close(tables: &mut Tables, close: &DrillClose, who: &Who) -> Result<Outcome, Refusal> {
    let drill = tables.drill_named(&close.group, &close.name);
    let mut drill = drill.ok_or_else(|| Refusal::missing("drill", &close.name))?.clone();
    let conflict = |text: String| Err(Refusal::Conflict(text));
    let now_unix_ns = close.now_unix_ns.unwrap_or_default();
    if let Some(passed) = close.passed {
        if drill.made_unix_ns.is_none() {
            return conflict(format!("drill {} had no clones: there is nothing to judge", drill.name));
        }
        let (note, by) = (close.note.clone(), who.clone());
        drill.verdict = Some(Verdict { passed, note, by, given_unix_ns: now_unix_ns });
    }
    if close.end {
        match drill.state {
            DrillState::Waiting { .. } => {
                drill.state = DrillState::Ended { how: DrillEnd::Operator };
                drill.ended_unix_ns = Some(now_unix_ns);
            }
            DrillState::Running { snapshot } => {
                drill.state = DrillState::Ending { snapshot, how: DrillEnd::Operator };
                hide(tables, snapshot);
            }
            DrillState::Ending { .. } | DrillState::Ended { .. } => {
                return conflict(format!("drill {} has ended already", drill.name));
            }
        }
    }
    tables.drills.put(drill);
    Ok(Outcome::Done)
}

/// No target shows a volume of the snapshot any more.
fn hide(tables: &mut Tables, snapshot: SnapshotNumber) {
    let Some(row) = tables.snapshots.get(&snapshot) else { return };
    let volumes: BTreeSet<_> = row.volumes.iter().map(|one| one.volume).collect();
    let shows = |target: &&crate::volume::record::TargetRecord| {
        target.luns.iter().any(|lun| volumes.contains(&lun.volume))
    };
    let targets: Vec<_> = tables.targets.iter().filter(shows).map(|target| target.iqn.clone()).collect();
    for target in targets {
        if let Some(row) = tables.targets.edit(&target) {
            row.luns.retain(|lun| !volumes.contains(&lun.volume));
        }
    }
}

impl Tables {
    /// A drill of a group that is kept, by its name.
    #[must_use]
    pub fn drill_named(&self, group: &GroupName, name: &SnapshotName) -> Option<&DrillRecord> {
        self.drills.iter().find(|drill| drill.group == *group && drill.name == *name)
    }

    /// The drills of a group that are kept, oldest first.
    pub fn drills_of<'t>(&'t self, group: &'t GroupName) -> impl Iterator<Item = &'t DrillRecord> {
        self.drills.iter().filter(move |drill| drill.group == *group)
    }

    /// The updates at which drills of a group wait to be made, while it is copied here; without those that are cut.
    pub(crate) fn drill_cuts(
        &self,
        group: GroupNumber,
        are_cut: &BTreeSet<DrillNumber>,
    ) -> BTreeSet<UpdateNumber> {
        let row = self.groups.get(&group).filter(|row| matches!(row.role, GroupRole::Auxiliary { .. }));
        let Some(row) = row else { return BTreeSet::new() };
        let waiting = self.drills_of(&row.name).filter(|drill| !are_cut.contains(&drill.number));
        waiting.filter_map(DrillRecord::waits_for).collect()
    }

    /// The clones of a drill that has waited are durable: it has them from now on.
    ///
    /// # Errors
    /// It does not wait any more, or they cannot be named.
    pub(crate) fn drill_made(&mut self, number: DrillNumber, made: &MadeSnapshot) -> Result<(), Refusal> {
        let drill = self.drills.get(&number).filter(|drill| drill.waits_for().is_some()).cloned();
        let mut drill = drill.ok_or_else(|| Refusal::conflict("the drill does not wait any more"))?;
        let bookmark = drill.bookmark;
        make(self, &mut drill, Some(made))?;
        drill.bookmark = drill.bookmark.or(bookmark);
        self.drills.put(drill);
        Ok(())
    }

    /// A drill that has waited will not be made.
    pub(crate) fn drill_given_up(&mut self, number: DrillNumber, why: &str, now_unix_ns: u64) {
        if let Some(drill) = self.drills.edit(&number)
            && drill.waits_for().is_some()
        {
            drill.state = DrillState::Ended { how: DrillEnd::GivenUp { why: why.to_owned() } };
            drill.ended_unix_ns = Some(now_unix_ns);
        }
    }

    /// The time of a drill is over: no host is shown its clones any more.
    pub(crate) fn drill_expires(&mut self, number: DrillNumber) {
        let Some(drill) = self.drills.edit(&number) else { return };
        if let DrillState::Running { snapshot } = drill.state {
            drill.state = DrillState::Ending { snapshot, how: DrillEnd::Expired };
            hide(self, snapshot);
        }
    }

    /// Whether the clones of a drill that ends are needed no more: S-VOLs that are on the way to them need them until they are there.
    pub(crate) fn may_drill_go(&self, number: DrillNumber) -> bool {
        let snapshot = self.drills.get(&number).and_then(DrillRecord::snapshot);
        snapshot.is_some_and(|snapshot| !self.is_rewound_to(snapshot))
    }

    /// The clones of a drill that ends go: their extents are given back behind this.
    pub(crate) fn drill_gone(&mut self, number: DrillNumber, now_unix_ns: u64) {
        let Some(drill) = self.drills.get(&number).filter(|_| self.may_drill_go(number)) else { return };
        let DrillState::Ending { snapshot, how } = drill.state.clone() else { return };
        if let Some(drill) = self.drills.edit(&number) {
            drill.state = DrillState::Ended { how };
            drill.ended_unix_ns = Some(now_unix_ns);
        }
        // Mapped again since it was hidden: that goes too.
        hide(self, snapshot);
        if let Some(row) = self.snapshots.get(&snapshot).cloned() {
            snapshots::doom(self, &row);
        }
    }

    /// Makes room for one more record of the group: the oldest that has ended goes, and those of groups that are gone.
    fn forget_old_drills(&mut self, group: &GroupName) {
        let is_orphan = |drill: &&DrillRecord| drill.is_ended() && self.group_named(&drill.group).is_none();
        let orphans: Vec<DrillNumber> =
            self.drills.iter().filter(is_orphan).map(|drill| drill.number).collect();
        let surplus = (self.drills_of(group).count() + 1).saturating_sub(KEPT_MAX);
        let ended = self.drills_of(group).filter(|drill| drill.is_ended()).take(surplus);
        let ended: Vec<DrillNumber> = ended.map(|drill| drill.number).collect();
        for number in orphans.iter().chain(&ended) {
            self.drills.remove(number);
        }
    }
}

/// Drills of a group that have not ended; more are refused.
const GOING_MAX: usize = 16;
/// Drills of a group whose records are kept; of more the oldest that have ended are forgotten. The audit log has them still.
const KEPT_MAX: usize = 64;
