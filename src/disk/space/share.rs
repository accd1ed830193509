//! Extents that belong to several volumes: snapshots, and going back to one.
//!
//! The owners of an extent are counted, never stored: the log names the extents of each volume, and opening counts
//! them again. An owner counts from when it stands in the map until its leaving is durable; so whoever finds himself
//! the only owner may write in place, whatever a crash brings back.
//!
//! A volume that is being made from another one is *forming*: it owns extents, gets pages of its own, and the log does
//! not know it. [`Map::complete`] makes it exist with the next commit, whole, with all that are completed together.
//!
//! Counting goes in steps ([`Map::borrow_some`], [`Map::reap`]), so that the map is never held for the time of a large
//! volume. In between the volume that is shared may not be destaged: the caller holds its turn.

use super::bits::PageBits;
use super::map::{
    EXTENT_BYTES, Extent, Map, MapRefusal, Origin, REAP_EXTENTS, VOLUMES_MAX, VolumeId, VolumeKind,
    VolumeMap, index,
};
use super::tree::ExtentTree;
use std::ops::Range;

/// A volume's extents, some of them counted as owned once more.
#[derive(Debug)]
pub(crate) struct Borrowed {
    extents: ExtentTree,
    counted: Range<u32>,
}

impl Borrowed {
    /// The extents of a volume that is gone.
    pub(super) fn all_of(extents: ExtentTree) -> Self {
        Self { extents, counted: 0..u32::MAX }
    }
}

/// A volume on its way back to an image.
#[derive(Debug)]
pub(crate) struct Restoring {
    volume: VolumeId,
    image: VolumeId,
    borrowed: Borrowed,
    /// What the volume leaves.
    old: ExtentTree,
    /// What it will have.
    extents: ExtentTree,
    /// Free extents taken for it.
    taken: Vec<u32>,
}

/// Bytes of the extents of a volume, by who has them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Holding {
    pub(crate) own_bytes: u64,
    pub(crate) shared_bytes: u64,
}

impl Map {
    /// The extents of a volume, none of them counted yet.
    pub(crate) fn borrow_of(&self, from: VolumeId) -> Result<Borrowed, MapRefusal> {
        let map = self.volumes.get(&from).ok_or(MapRefusal::Unknown)?;
        if map.kind == VolumeKind::Journal {
            return Err(MapRefusal::Kind);
        }
        Ok(Borrowed { extents: map.extents.clone(), counted: 0..0 })
    }

    /// Counts at most `most` more of them; whether there are more. What a thick volume has and never wrote stays its own.
    pub(crate) fn borrow_some(&mut self, borrowed: &mut Borrowed, most: u32) -> bool {
        for _ in 0..most {
            let Some((at, extent)) = borrowed.extents.next(borrowed.counted.end) else { return false };
            if extent.written.is_empty() {
                borrowed.extents.set(at, None);
            } else {
                self.owners[index(extent.physical)] += 1;
            }
            borrowed.counted.end = at + 1;
        }
        true
    }

    /// Gives back what was borrowed and did not become a volume's.
    pub(crate) fn give_back(&mut self, borrowed: Borrowed) {
        self.doomed.push(borrowed);
    }

    /// Adds a forming volume with what was borrowed from `from`.
    pub(crate) fn adopt(
        &mut self,
        volume: VolumeId,
        from: VolumeId,
        borrowed: Borrowed,
    ) -> Result<(), (MapRefusal, Borrowed)> {
        if let Err(refusal) = self.check_new(volume).and_then(|()| self.check_records()) {
            return Err((refusal, borrowed));
        }
        let Some(size_bytes) = self.volumes.get(&from).map(|map| map.size_bytes) else {
            return Err((MapRefusal::Unknown, borrowed));
        };
        let extents = borrowed.extents;
        let kind = VolumeKind::Thin;
        self.volumes.insert(volume, VolumeMap { kind, size_bytes, origin: None, extents, forming: true });
        self.families.put_behind(volume, from);
        self.records_bound += 2;
        Ok(())
    }

    /// A forming volume exists from the next commit on.
    pub(crate) fn complete(&mut self, volume: VolumeId, origin: Origin) -> Result<(), MapRefusal> {
        let map = self.volumes.get_mut(&volume).ok_or(MapRefusal::Unknown)?;
        map.forming = false;
        map.origin = Some(origin);
        self.changes.restated.insert(volume);
        self.changes.described.insert(volume);
        Ok(())
    }

    /// Makes ready that a volume gets the extents borrowed from `image` instead of all it has. A thick one keeps or takes
    /// the extents that the image does not have. Nothing changes yet.
    pub(crate) fn prepare_restore(
        &mut self,
        volume: VolumeId,
        image: VolumeId,
        borrowed: Borrowed,
    ) -> Result<Restoring, (MapRefusal, Borrowed)> {
        let sizes = [volume, image].map(|id| self.volumes.get(&id).map(|map| map.size_bytes));
        let known = self.volumes.get(&volume);
        let known = known.filter(|map| map.kind != VolumeKind::Journal && sizes[0] == sizes[1]);
        let Some(map) = known.filter(|_| volume != image) else {
            return Err((MapRefusal::Kind, borrowed));
        };
        let (kind, count) = (map.kind, map.extent_count());
        let (old, extents) = (map.extents.clone(), borrowed.extents.clone());
        let mut restoring = Restoring { volume, image, borrowed, old, extents, taken: Vec::new() };
        if kind == VolumeKind::Thick
            && let Err(refusal) = self.fill(&mut restoring, count)
        {
            return Err((refusal, self.cancel_restore(restoring)));
        }
        Ok(restoring)
    }

    /// Takes back what [`Self::prepare_restore`] has taken.
    pub(crate) fn cancel_restore(&mut self, restoring: Restoring) -> Borrowed {
        restoring.taken.into_iter().for_each(|physical| self.drop_owner(physical));
        restoring.borrowed
    }

    /// The volume is what the image is, with the next commit.
    pub(crate) fn restore(&mut self, restoring: Restoring) {
        let Restoring { volume, image, old, extents, .. } = restoring;
        let Some(map) = self.volumes.get_mut(&volume) else { return };
        self.records_bound += 2 + u64::from(extents.len());
        map.extents = extents;
        self.changes.dead.push(Borrowed::all_of(old));
        self.changes.forget(volume);
        self.changes.restated.insert(volume);
        self.changes.described.insert(volume);
        self.families.put_behind(volume, image);
    }

    fn fill(&mut self, restoring: &mut Restoring, count: u32) -> Result<(), MapRefusal> {
        for at in 0..count {
            if restoring.extents.contains(at) {
                continue;
            }
            let physical = match restoring.old.get(at) {
                // Its old one, if that is its alone.
                Some(own) if !self.is_shared(own.physical) => {
                    restoring.old.set(at, None);
                    own.physical
                }
                _ => {
                    while self.free_extents() == 0 && self.reap(REAP_EXTENTS) {}
                    let physical = self.take_free()?;
                    restoring.taken.push(physical);
                    physical
                }
            };
            restoring.extents.set(at, Some(Extent { physical, written: PageBits::default() }));
        }
        Ok(())
    }

    /// Counts off at most `most` extents of volumes that are durably gone; false when there are none.
    pub(crate) fn reap(&mut self, most: u32) -> bool {
        let Some(mut doomed) = self.doomed.pop() else { return false };
        for _ in 0..most {
            let next = doomed.extents.next(doomed.counted.start);
            let Some((at, extent)) = next.filter(|(at, _)| *at < doomed.counted.end) else { return true };
            doomed.counted.start = at + 1;
            self.drop_owner(extent.physical);
        }
        self.doomed.push(doomed);
        true
    }

    /// One owner less; without any the extent is free.
    pub(super) fn drop_owner(&mut self, physical: u32) {
        let owners = &mut self.owners[index(physical)];
        *owners = owners.checked_sub(1).expect("an extent that is given up has an owner");
        if *owners == 0 {
            self.free.release(physical);
            self.digests.forget(physical);
        }
    }

    /// What a volume has.
    pub(crate) fn holding(&self, volume: VolumeId) -> Holding {
        let mut holding = Holding::default();
        for (_, extent) in self.volumes.get(&volume).iter().flat_map(|map| map.extents.iter()) {
            match self.is_shared(extent.physical) {
                true => holding.shared_bytes += EXTENT_BYTES,
                false => holding.own_bytes += EXTENT_BYTES,
            }
        }
        holding
    }

    /// Whether a volume may share extents with another.
    pub(crate) fn is_alone(&self, volume: VolumeId) -> bool {
        self.families.is_alone(volume)
    }

    /// Refuses one more sharing volume while the map could not be stated with room left in the log for as many changes
    /// as half the map.
    fn check_records(&mut self) -> Result<(), MapRefusal> {
        let most = (self.owners.len() as u64 + VOLUMES_MAX as u64) / 2 * 3;
        if self.records_bound + 2 > most {
            self.records_bound = self.records();
        }
        if self.records_bound + 2 > most { Err(MapRefusal::TooManyDifferences) } else { Ok(()) }
    }

    /// Records that state the whole map, if none but those of missing extents are joined to runs.
    pub(super) fn records(&self) -> u64 {
        let nothing = ExtentTree::default();
        let mut records = 0;
        for (id, map) in &self.volumes {
            let base = self.stated_base(*id).map_or(&nothing, |base| &base.extents);
            let mut missing = None;
            records += 2;
            for (at, extent) in map.extents.differences(base) {
                records += u64::from(extent.is_some() || missing != Some(at));
                missing = extent.is_none().then_some(at + 1);
            }
        }
        records
    }

    /// Whether an extent can be taken, if need be from a deleted volume.
    pub(crate) fn has_free(&self) -> bool {
        self.free.count() > 0 || !self.doomed.is_empty()
    }
}
