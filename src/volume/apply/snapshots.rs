//! Snapshots in the tables: numbers are reserved by dooming them, and a snapshot is named by lifting that (decision 24).

use super::local::{number, within};
use crate::volume::designation::{NewSnapshot, Outcome, Refusal};
use crate::volume::group::GroupRole;
use crate::volume::name::{
    GroupName, GroupNumber, SnapshotName, SnapshotNumber, UpdateNumber, VolumeName, VolumeNumber,
};
use crate::volume::pair::PairRecord;
use crate::volume::record::{DoomedRecord, Identity, VolumeRecord, VolumeState, VolumeUsage};
use crate::volume::snapshot::{
    CopyOf, MadeSnapshot, MadeVolume, Moment, SnapshotAt, SnapshotHosts, SnapshotOf, SnapshotRecord,
    SnapshotVolume,
};
use crate::volume::table::Tables;
use crate::volume::takeover::Branch;
use std::collections::BTreeSet;

pub(super) fn create(tables: &mut Tables, new: &NewSnapshot) -> Result<Outcome, Refusal> {
    if tables.snapshots.iter().any(|row| row.name == new.name) {
        return Err(Refusal::exists("snapshot", &new.name));
    }
    within(tables.snapshots.len(), SNAPSHOTS_MAX, "snapshots")?;
    let sources = tables.snapshot_sources(&new.of)?;
    if new.at != SnapshotAt::Now {
        tables.may_rewind(&new.of)?;
    }
    let made = match &new.made {
        Some(made) => made.clone(),
        None => unmade(tables, &sources)?,
    };
    if !made.volumes.iter().map(|one| &one.of).eq(&sources) {
        return Err(Refusal::conflict("its volumes have changed meanwhile: say it again"));
    }
    put(tables, new, &made, None)
}

fn put(
    tables: &mut Tables,
    new: &NewSnapshot,
    made: &MadeSnapshot,
    branch: Option<Branch>,
) -> Result<Outcome, Refusal> {
    let is_snapshot = |row: &&VolumeRecord| matches!(row.usage, VolumeUsage::Snapshot(_));
    let known = tables.volumes.iter().filter(is_snapshot).count();
    within(known + made.volumes.len().saturating_sub(1), SNAPSHOT_VOLUMES_MAX, "volumes of snapshots")?;
    let number = SnapshotNumber(number(tables)?);
    let mut volumes = Vec::with_capacity(made.volumes.len());
    for one in &made.volumes {
        volumes.push(name_volume(tables, number, new, one)?);
    }
    tables.snapshots.put(SnapshotRecord {
        number,
        name: new.name.clone(),
        of: new.of.clone(),
        moment: made.moment.clone(),
        bookmark: made.bookmark,
        made_unix_ns: made.made_unix_ns,
        hosts: new.hosts,
        branch,
        base: made.base.clone().filter(|_| new.hosts == SnapshotHosts::ReadOnly),
        volumes,
    });
    Ok(Outcome::Created { number: number.0 })
}

/// What a rehearsal takes for made.
fn unmade(tables: &mut Tables, sources: &[VolumeNumber]) -> Result<MadeSnapshot, Refusal> {
    let reserved = tables.reserve_snapshot(sources).ok_or_else(all_given)?;
    let volume = |(of, volume): (&VolumeNumber, VolumeNumber)| MadeVolume {
        of: *of,
        volume,
        identity: Identity::default(),
        size_bytes: tables.volumes.get(of).map_or(0, |row| row.size_bytes),
    };
    let volumes = sources.iter().zip(reserved).map(volume).collect();
    Ok(MadeSnapshot { volumes, moment: Moment::Time, bookmark: None, made_unix_ns: 0, base: None })
}

fn all_given() -> Refusal {
    Refusal::conflict("this array has given all its numbers")
}

/// Puts the row of one of its volumes, whose extents are durable, in place of its doom.
fn name_volume(
    tables: &mut Tables,
    snapshot: SnapshotNumber,
    new: &NewSnapshot,
    one: &MadeVolume,
) -> Result<SnapshotVolume, Refusal> {
    let now = tables.meta().incarnation;
    let is_reserved = tables.doomed.get(&one.volume).is_some_and(|row| row.reserved_in == Some(now));
    let source = tables.volumes.get(&one.of).cloned();
    let Some(source) = source.filter(|row| is_reserved && row.size_bytes == one.size_bytes) else {
        let text = format!("what snapshot {} was made of has changed meanwhile: say it again", new.name);
        return Err(Refusal::conflict(text));
    };
    let name = volume_of(new, &source)?;
    if tables.volume_named(&name).is_some() {
        return Err(Refusal::exists("volume", &name));
    }
    tables.doomed.remove(&one.volume);
    tables.volumes.put(VolumeRecord {
        number: one.volume,
        name,
        identity: one.identity,
        shown: None,
        state: VolumeState::Normal,
        reason: None,
        usage: VolumeUsage::Snapshot(snapshot),
        parity_group: source.parity_group,
        is_carved: true,
        size_bytes: source.size_bytes,
        growth: None,
        block_size_bytes: source.block_size_bytes,
        is_thin: true,
        cache: source.cache,
    });
    Ok(SnapshotVolume { of: source.number, of_name: source.name, volume: one.volume })
}

fn branch_of(name: SnapshotName, group: GroupName) -> NewSnapshot {
    let (of, hosts) = (SnapshotOf::Group(group), SnapshotHosts::ReadOnly);
    NewSnapshot { name, of, hosts, at: SnapshotAt::Now, made: None }
}

/// What a volume of a snapshot is called.
fn volume_of(new: &NewSnapshot, source: &VolumeRecord) -> Result<VolumeName, Refusal> {
    let name = match new.of {
        SnapshotOf::Volume(_) => new.name.to_string(),
        SnapshotOf::Group(_) => format!("{}.{}", new.name, source.name),
    };
    name.parse().map_err(|bad| Refusal::conflict(format!("its volume would be called {name}: {bad}")))
}

pub(super) fn delete(tables: &mut Tables, name: &SnapshotName) -> Result<Outcome, Refusal> {
    let row = tables.snapshots.iter().find(|row| row.name == *name);
    let row = row.ok_or_else(|| Refusal::missing("snapshot", name))?.clone();
    if tables.is_rewound_to(row.number) {
        return Err(Refusal::Conflict(format!(
            "S-VOLs are on the way to snapshot {name}: wait until they are there"
        )));
    }
    if let Some(drill) = tables.drills.iter().find(|drill| drill.snapshot() == Some(row.number)) {
        let text = format!("snapshot {name} is that of a drill: `group drill {} {name} --end`", drill.group);
        return Err(Refusal::conflict(text));
    }
    for target in tables.targets.iter() {
        let shown = target.luns.iter().find(|lun| row.volumes.iter().any(|one| one.volume == lun.volume));
        if let Some(lun) = shown {
            let text = format!(
                "snapshot {name} is used by LUN {} of target {}: unmap it first",
                lun.lun, target.iqn
            );
            return Err(Refusal::conflict(text));
        }
    }
    doom(tables, &row);
    Ok(Outcome::Done)
}

/// Takes a snapshot out that nobody is shown, with its volumes; their extents are given back behind it.
pub(super) fn doom(tables: &mut Tables, row: &SnapshotRecord) {
    for one in &row.volumes {
        let parity_group = tables.volumes.get(&one.volume).and_then(|volume| volume.parity_group);
        tables.volumes.remove(&one.volume);
        tables.doomed.put(DoomedRecord { number: one.volume, parity_group, reserved_in: None });
    }
    tables.snapshots.remove(&row.number);
}

impl Tables {
    /// The volumes here that a snapshot of this would be of, by number.
    ///
    /// # Errors
    /// There is no such object, or of one of them there can be none.
    pub(crate) fn snapshot_sources(&self, of: &SnapshotOf) -> Result<Vec<VolumeNumber>, Refusal> {
        let numbers: BTreeSet<VolumeNumber> = match of {
            SnapshotOf::Volume(name) => {
                let row = self.volume_named(name).ok_or_else(|| Refusal::missing("volume", name))?;
                BTreeSet::from([row.number])
            }
            SnapshotOf::Group(name) => {
                let row = self.group_named(name).ok_or_else(|| Refusal::missing("group", name))?;
                let pairs = self.pairs_of_group(row.number).filter(|pair| !pair.is_leaving());
                let own = |pair| if self.is_served(pair) { &pair.primary } else { &pair.auxiliary };
                let numbers: BTreeSet<_> = pairs.filter_map(|pair| own(pair).volume).collect();
                if numbers.is_empty() {
                    return Err(Refusal::conflict(format!("group {name} has no paired volumes here")));
                }
                numbers
            }
        };
        for row in numbers.iter().filter_map(|number| self.volumes.get(number)) {
            let conflict = |text: &str| Err(Refusal::conflict(format!("volume {} {text}", row.name)));
            match (row.usage, row.state) {
                (VolumeUsage::Journal(_), _) => return conflict("is a journal volume"),
                (_, VolumeState::Abnormal | VolumeState::Unused) => return conflict("cannot be used"),
                _ if row.parity_group.is_none() => return conflict("is virtual: nothing of it is here"),
                _ if !row.is_carved => return conflict("is not made yet: say it again"),
                _ if row.growth.is_some() => return conflict("is growing: say it again when it has grown"),
                _ => {}
            }
        }
        Ok(numbers.into_iter().collect())
    }

    /// Whether what this array has of a group, which it gives up, can be kept under this name.
    pub(crate) fn may_keep_branch(&self, group: GroupNumber, name: &SnapshotName) -> Result<(), Refusal> {
        within(self.snapshots.len(), SNAPSHOTS_MAX, "snapshots")?;
        if self.snapshots.iter().any(|row| row.name == *name) {
            return Err(Refusal::exists("snapshot", name));
        }
        let row = self.groups.get(&group).ok_or_else(|| Refusal::missing("group", group))?;
        let new = branch_of(name.clone(), row.name.clone());
        for source in self.branch_sources(group).iter().filter_map(|number| self.volumes.get(number)) {
            let name = volume_of(&new, source)?;
            if self.volume_named(&name).is_some() {
                return Err(Refusal::exists("volume", &name));
            }
        }
        Ok(())
    }

    /// The volumes here of which the branch of a group consists.
    pub(crate) fn branch_sources(&self, group: GroupNumber) -> Vec<VolumeNumber> {
        let own = |pair| if self.is_served(pair) { &pair.primary } else { &pair.auxiliary };
        let numbers: BTreeSet<_> = self.pairs_of_group(group).filter_map(|pair| own(pair).volume).collect();
        numbers.into_iter().collect()
    }

    /// Names what this array had of a group, in the transaction that makes it a copy. Where that name has been given
    /// away since it was asked for, it is the next one: nothing is overwritten for want of a name.
    ///
    /// # Errors
    /// No name is free, or there are as many snapshots as there can be.
    pub(crate) fn name_branch(
        &mut self,
        group: &GroupName,
        wanted: &SnapshotName,
        made: &MadeSnapshot,
        branch: Branch,
    ) -> Result<(), Refusal> {
        within(self.snapshots.len(), SNAPSHOTS_MAX, "snapshots")?;
        let mut refusal = Refusal::exists("snapshot", wanted);
        for turn in 1..=BRANCH_NAMES_MAX {
            let name = if turn == 1 { wanted.to_string() } else { format!("{wanted}-{turn}") };
            let Ok(name) = name.parse::<SnapshotName>() else { break };
            if self.snapshots.iter().any(|row| row.name == name) {
                continue;
            }
            let mut changed = self.clone();
            match put(&mut changed, &branch_of(name, group.clone()), made, Some(branch)) {
                Ok(_) => {
                    *self = changed;
                    return Ok(());
                }
                Err(why) => refusal = why,
            }
        }
        Err(refusal)
    }

    /// Refuses another moment than now of anything but a group that is copied here.
    fn may_rewind(&self, of: &SnapshotOf) -> Result<(), Refusal> {
        let SnapshotOf::Group(name) = of else {
            return Err(Refusal::conflict("only a group has moments that have a number"));
        };
        let row = self.group_named(name).ok_or_else(|| Refusal::missing("group", name))?;
        match row.role {
            GroupRole::Auxiliary { .. } => Ok(()),
            GroupRole::Primary => Err(Refusal::conflict(format!(
                "hosts write group {name} here: say it at an array that copies it"
            ))),
        }
    }

    /// Which copies of its pairs a group is here.
    pub(crate) fn copies_here(&self, group: GroupNumber) -> Vec<CopyOf> {
        let copy = |pair: &PairRecord| {
            let (from, copies) = (pair.control.copy_from, pair.control.copies);
            CopyOf { pair: pair.number, from, copies }
        };
        let mut copies: Vec<CopyOf> = self.followed_pairs(group).map(copy).collect();
        copies.sort_by_key(|one| one.pair);
        copies
    }

    /// Images of these S-VOLs, the newest first, onto clones of which what has come since can be replayed.
    pub(crate) fn bases(
        &self,
        group: GroupNumber,
        svols: &[VolumeNumber],
    ) -> Vec<(UpdateNumber, &SnapshotRecord)> {
        let copies = self.copies_here(group);
        let is_base = |row: &&SnapshotRecord| {
            let is_of_it = row.base.as_ref().is_some_and(|base| base.group == group && base.copies == copies);
            let size = |number: &VolumeNumber| self.volumes.get(number).map(|row| row.size_bytes);
            let is_same = row.volumes.iter().all(|one| size(&one.of) == size(&one.volume));
            is_of_it && is_same && row.volumes.iter().map(|one| &one.of).eq(svols)
        };
        let bases = self.snapshots.iter().filter(is_base);
        let mut bases: Vec<_> = bases.filter_map(|row| Some((row.update_number()?, row))).collect();
        bases.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
        bases
    }

    /// Numbers for volumes that begin as what these are; whatever comes to exist under them is given back unless a snapshot
    /// is named before this array is started again. `None`: there are no numbers left.
    pub(crate) fn reserve_snapshot(&mut self, sources: &[VolumeNumber]) -> Option<Vec<VolumeNumber>> {
        let reserved_in = Some(self.meta().incarnation);
        let mut numbers = Vec::with_capacity(sources.len());
        for source in sources {
            let number = VolumeNumber(self.next_number()?);
            let parity_group = self.volumes.get(source).and_then(|row| row.parity_group);
            self.doomed.put(DoomedRecord { number, parity_group, reserved_in });
            numbers.push(number);
        }
        Some(numbers)
    }

    /// Nothing is made under these numbers any more: what there is of it can be given back now.
    pub(crate) fn release_snapshot(&mut self, numbers: &[VolumeNumber]) {
        for number in numbers {
            if let Some(row) = self.doomed.edit(number) {
                row.reserved_in = None;
            }
        }
    }
}

/// Names that are tried for a branch.
const BRANCH_NAMES_MAX: usize = 99;
/// Snapshots; more are refused.
const SNAPSHOTS_MAX: usize = 2_048;
/// Volumes of snapshots; more are refused. With all other volumes and an image of each a parity group's map can hold them.
const SNAPSHOT_VOLUMES_MAX: usize = 2_048;
