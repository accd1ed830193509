//! What the log is told: the changes since it was told last, and the whole map at one moment.
//!
//! A volume that shares extents is stated by its base and by what differs (`family.rs`); so a snapshot is one record
//! and its differences, and stating a thousand of them takes as many records as there are extents, not as their maps
//! together have.

use super::bits::PageBits;
use super::map::{Extent, Map, VolumeId, VolumeMap};
use super::record::Record;
use super::share::Borrowed;
use super::tree::ExtentTree;
use std::collections::BTreeSet;

/// What the log does not have yet.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(super) deleted: BTreeSet<VolumeId>,
    pub(super) described: BTreeSet<VolumeId>,
    /// Volumes that are stated anew as a whole, by their base and what differs.
    pub(super) restated: BTreeSet<VolumeId>,
    pub(super) extents: BTreeSet<(VolumeId, u32)>,
    /// Extents of the group that one owner has left, but that the durable map may still give to him.
    pub(super) given_up: Vec<u32>,
    /// The same, of whole volumes.
    pub(super) dead: Vec<Borrowed>,
}

impl Changes {
    /// Nothing of the volume has to be told any more.
    pub(super) fn forget(&mut self, volume: VolumeId) {
        self.described.remove(&volume);
        self.restated.remove(&volume);
        let old: Vec<_> = self.extents.range((volume, 0)..=(volume, u32::MAX)).copied().collect();
        for key in old {
            self.extents.remove(&key);
        }
    }
}

/// Changes on their way into the log: to be handed back as durable or as failed.
#[derive(Debug)]
pub(crate) struct TakenChanges {
    pub(crate) records: Vec<Record>,
    changes: Changes,
}

impl Map {
    /// What the log has to get, as records in the order in which they must be replayed, all or none: what is gone,
    /// extents, volumes that share behind their bases, the descriptors last.
    pub(crate) fn take_changes(&mut self) -> TakenChanges {
        let changes = std::mem::take(&mut self.changes);
        self.on_the_way = true;
        let mut records: Vec<_> =
            changes.deleted.iter().map(|volume| Record::Deleted { volume: *volume }).collect();
        let restated = &changes.restated;
        for &(volume, extent) in &changes.extents {
            if !self.is_forming(volume) && !restated.contains(&volume) {
                push(&mut records, volume, extent, self.extent(volume, extent));
            }
        }
        let mut stated = BTreeSet::new();
        for &volume in restated {
            let mut path = vec![volume];
            while let Some(base) = path.last().and_then(|last| self.families.base(*last))
                && restated.contains(&base)
                && !stated.contains(&base)
            {
                path.push(base);
            }
            for volume in path.into_iter().rev() {
                if stated.insert(volume) {
                    self.restate(volume, restated, &mut records);
                }
            }
        }
        for volume in &changes.described {
            records.extend(self.volumes.get(volume).map(|map| describe(*volume, map)));
        }
        TakenChanges { records, changes }
    }

    fn is_forming(&self, volume: VolumeId) -> bool {
        self.volumes.get(&volume).is_some_and(|map| map.forming)
    }

    /// States a volume by its base. One that has none any more is stated by the next of its family that the log knows:
    /// without that the log would not know them as relatives, and take what they share for damage.
    fn restate(&self, volume: VolumeId, restated: &BTreeSet<VolumeId>, records: &mut Vec<Record>) {
        let Some(map) = self.volumes.get(&volume) else { return };
        let mut behind = std::iter::successors(self.families.next(volume), |next| self.families.next(*next));
        let known = |next: &VolumeId| !self.is_forming(*next) && !restated.contains(next);
        let base = self.stated_base_id(volume).or_else(|| behind.find(known));
        let nothing = ExtentTree::default();
        let other = base.and_then(|base| self.volumes.get(&base)).map_or(&nothing, |base| &base.extents);
        records.push(Record::Shared { volume, from: base.unwrap_or(volume) });
        for (at, extent) in map.extents.differences(other) {
            push(records, volume, at, extent);
        }
    }

    /// The volume by which this one is stated: the first before it that exists.
    fn stated_base_id(&self, volume: VolumeId) -> Option<VolumeId> {
        std::iter::successors(self.families.base(volume), |base| self.families.base(*base))
            .find(|base| self.volumes.contains_key(base) && !self.is_forming(*base))
    }

    pub(super) fn stated_base(&self, volume: VolumeId) -> Option<&VolumeMap> {
        self.volumes.get(&self.stated_base_id(volume)?)
    }

    /// Whether something stands here that is not known to be durable in the log.
    pub(crate) fn is_unsettled(&self) -> bool {
        let changes = &self.changes;
        self.on_the_way
            || !(changes.deleted.is_empty()
                && changes.described.is_empty()
                && changes.restated.is_empty()
                && changes.extents.is_empty())
    }

    /// The log has them on the units: the extents they gave up have an owner less.
    pub(crate) fn changes_are_durable(&mut self, taken: TakenChanges) {
        self.on_the_way = false;
        for physical in taken.changes.given_up {
            self.drop_owner(physical);
        }
        self.doomed.extend(taken.changes.dead);
    }

    /// The log could not take them: they stay to be logged.
    pub(crate) fn changes_failed(&mut self, taken: TakenChanges) {
        let changes = taken.changes;
        self.on_the_way = false;
        let exists = |volume: &VolumeId| self.volumes.contains_key(volume);
        self.changes.described.extend(changes.described.into_iter().filter(exists));
        self.changes.restated.extend(changes.restated.into_iter().filter(exists));
        self.changes.deleted.extend(changes.deleted);
        self.changes.given_up.extend(changes.given_up);
        self.changes.dead.extend(changes.dead);
        self.changes.extents.extend(changes.extents);
    }

    /// The whole map as it is now, to be stated in parts while it goes on changing: what changes is logged behind it.
    pub(crate) fn frozen(&self) -> Frozen {
        let mut volumes: Vec<Stated> = Vec::with_capacity(self.volumes.len());
        for (&first, map) in &self.volumes {
            if map.forming || self.stated_base_id(first).is_some() {
                continue;
            }
            let chain = std::iter::successors(Some(first), |volume| self.families.next(*volume));
            let mut base: Option<(VolumeId, ExtentTree)> = None;
            for id in chain {
                let Some(map) = self.volumes.get(&id).filter(|map| !map.forming) else { continue };
                volumes.push(Stated { id, map: map.clone(), base: base.take() });
                base = Some((id, map.extents.clone()));
            }
        }
        volumes.reverse();
        Frozen { volumes, at: 0, begun: false }
    }
}

/// A map as it was at one moment, and how far it was stated.
#[derive(Debug)]
pub(crate) struct Frozen {
    /// What is still to be stated, the next one last.
    volumes: Vec<Stated>,
    at: u32,
    begun: bool,
}

#[derive(Debug)]
struct Stated {
    id: VolumeId,
    map: VolumeMap,
    base: Option<(VolumeId, ExtentTree)>,
}

impl Frozen {
    /// About `most` more records; none at the end.
    pub(crate) fn part(&mut self, most: usize) -> Vec<Record> {
        let mut records = Vec::new();
        let nothing = ExtentTree::default();
        while let Some(Stated { id, map, base }) = self.volumes.last() {
            if !self.begun {
                records.push(describe(*id, map));
                records.extend(base.as_ref().map(|(from, _)| Record::Shared { volume: *id, from: *from }));
                self.begun = true;
            }
            let other = base.as_ref().map_or(&nothing, |(_, extents)| extents);
            while let Some((at, extent)) = map.extents.next_difference(other, self.at) {
                if records.len() >= most {
                    return records;
                }
                push(&mut records, *id, at, extent);
                self.at = at + 1;
            }
            self.volumes.pop();
            (self.at, self.begun) = (0, false);
            if records.len() >= most {
                break;
            }
        }
        records
    }
}

fn describe(volume: VolumeId, map: &VolumeMap) -> Record {
    Record::Volume { volume, kind: map.kind, size_bytes: map.size_bytes, origin: map.origin }
}

/// Adds what an extent is, as one more of a run when it continues the last record.
fn push(records: &mut Vec<Record>, volume: VolumeId, extent: u32, entry: Option<Extent>) {
    let Some(entry) = entry else {
        match records.last_mut() {
            Some(Record::Freed { volume: same, extent: first, count })
                if (*same, *first + *count) == (volume, extent) =>
            {
                *count += 1;
            }
            _ => records.push(Record::Freed { volume, extent, count: 1 }),
        }
        return;
    };
    let full = entry.written == PageBits::FULL;
    if !full && !entry.written.is_empty() {
        let Extent { physical, written } = entry;
        records.push(Record::Extent { volume, extent, physical, written });
        return;
    }
    if let Some(Record::Run { volume: same, extent: first, physical, count, written }) = records.last_mut()
        && (*same, *written, *first + *count, *physical + *count) == (volume, full, extent, entry.physical)
    {
        *count += 1;
        return;
    }
    records.push(Record::Run { volume, extent, physical: entry.physical, count: 1, written: full });
}
