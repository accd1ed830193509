//! The map of one parity group: which extent of which volume lies where, and which of its pages are written.
//!
//! Pure: no I/O, no waiting. What happens to it:
//!
//! * A page whose bit is clear reads as zero whatever is on the units, so no volume is ever zeroed in advance and
//!   nothing of an earlier owner of an extent can be seen.
//! * A thick volume has all its extents from the beginning, a thin one takes them when pages are destaged and gives
//!   them back when the last page is unmapped. A journal volume is thick and its bits do not count.
//! * An extent may belong to several volumes of one family (`share.rs`). Then nobody writes into it: who has to write
//!   gets another one (`Map::place`), to which the pages that stay are copied.
//! * Every change is remembered until the log has it (`statements.rs`); an extent that was given up is free
//!   for others, or a former partner's alone, only when the change that gave it up is durable. Otherwise a crash
//!   could bring the old owner back, with the new owner's bytes in its extent.

use super::bits::{PAGES_PER_EXTENT, PageBits};
use super::digests::Digests;
use super::family::Families;
use super::free::FreeExtents;
use super::share::Borrowed;
use super::statements::Changes;
use super::tree::ExtentTree;
use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes of an extent.
pub const EXTENT_BYTES: u64 = 1 << 20;
/// Volumes of one parity group at most; creating one more is refused. Bounds the snapshot of the map.
pub const VOLUMES_MAX: usize = 4096;
/// Bytes of a volume at most (256 TiB): the design limit, and what keeps extent numbers in 32 bits.
pub const VOLUME_BYTES_MAX: u64 = 256 << 40;

/// A volume, by number; unique in the array.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct VolumeId(pub u32);

/// How a volume uses its parity group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VolumeKind {
    /// All extents are allocated at creation.
    Thick,
    /// Extents are allocated when pages are first destaged.
    Thin,
    /// Thick, without cache and without page bits: only [`RawVolume`](crate::disk::cache::RawVolume) reaches it. What
    /// was never written reads as whatever the units held.
    Journal,
}

/// Of what a volume was made, and when: kept with it in the map, for whoever made it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin {
    /// The volume whose content it had.
    pub volume: VolumeId,
    /// What its maker says about the moment; an update number, for instance.
    pub as_of: u64,
}

/// An extent of a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Extent {
    pub(crate) physical: u32,
    pub(crate) written: PageBits,
}

/// A volume as the map knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct VolumeMap {
    pub(crate) kind: VolumeKind,
    pub(crate) size_bytes: u64,
    pub(crate) origin: Option<Origin>,
    pub(crate) extents: ExtentTree,
    /// It is being made and does not exist yet: the log says nothing of it.
    pub(crate) forming: bool,
}

impl VolumeMap {
    pub(crate) fn extent_count(&self) -> u32 {
        extents_of(self.size_bytes)
    }
}

/// Extents that hold `size_bytes`.
pub(crate) fn extents_of(size_bytes: u64) -> u32 {
    u32::try_from(size_bytes.div_ceil(EXTENT_BYTES)).expect("sizes are at most VOLUME_BYTES_MAX")
}

/// Why the map refuses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MapRefusal {
    NoSpace,
    Exists,
    TooMany,
    Unknown,
    /// A journal volume, whose extents are nobody else's; or sizes that differ.
    Kind,
    /// The log would have no room for what differs between the volumes that share extents.
    TooManyDifferences,
}

/// Where the pages of an extent are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) physical: u32,
    /// The extent belongs to others too, so this is another one: all pages written in the old one go there with those
    /// that are written now, before [`Map::mark_moved`].
    pub(crate) from: Option<Extent>,
}

/// The map. See the module.
#[derive(Debug)]
pub(crate) struct Map {
    pub(super) free: FreeExtents,
    pub(super) volumes: BTreeMap<VolumeId, VolumeMap>,
    pub(super) families: Families,
    /// For each extent of the group, how many volumes have it: here, or still in the durable map.
    pub(super) owners: Vec<u32>,
    /// Places found for extents that have to move and have not yet. The log does not know them.
    pub(super) moves: BTreeMap<(VolumeId, u32), u32>,
    /// Extents of volumes that are durably gone, not counted off yet.
    pub(super) doomed: Vec<Borrowed>,
    pub(super) changes: Changes,
    /// Changes were taken, and the log has not said yet what became of them.
    pub(super) on_the_way: bool,
    /// What extents are known to hold.
    pub(super) digests: Digests,
    /// Records that state the whole map, at most; see [`Map::records`].
    pub(super) records_bound: u64,
}

impl Map {
    /// A map without volumes over `extents_total` extents.
    pub(crate) fn new(extents_total: u32) -> Self {
        Self {
            free: FreeExtents::all(extents_total),
            volumes: BTreeMap::new(),
            families: Families::default(),
            owners: vec![0; usize::try_from(extents_total).unwrap_or(usize::MAX)],
            moves: BTreeMap::new(),
            doomed: Vec::new(),
            changes: Changes::default(),
            on_the_way: false,
            digests: Digests::default(),
            records_bound: 0,
        }
    }

    /// Extents that can be taken, those of deleted volumes included once their deletion is durable.
    pub(crate) fn free_extents(&self) -> u32 {
        self.free.count()
    }

    pub(crate) fn volumes(&self) -> impl Iterator<Item = (VolumeId, &VolumeMap)> {
        self.volumes.iter().map(|(id, volume)| (*id, volume))
    }

    pub(crate) fn volume(&self, volume: VolumeId) -> Option<&VolumeMap> {
        self.volumes.get(&volume)
    }

    pub(crate) fn extent(&self, volume: VolumeId, extent: u32) -> Option<Extent> {
        self.volumes.get(&volume)?.extents.get(extent)
    }

    /// Whether more than one volume has this extent of the group.
    pub(crate) fn is_shared(&self, physical: u32) -> bool {
        self.owners[index(physical)] > 1
    }

    /// Whether pages of an extent can be destaged without another extent.
    pub(crate) fn has_place(&self, volume: VolumeId, extent: u32) -> bool {
        self.extent(volume, extent).is_some_and(|extent| !self.is_shared(extent.physical))
            || self.moves.contains_key(&(volume, extent))
    }

    /// Adds a volume; a thick one gets its extents, all or none.
    pub(crate) fn create(
        &mut self,
        volume: VolumeId,
        kind: VolumeKind,
        size_bytes: u64,
    ) -> Result<(), MapRefusal> {
        self.check_new(volume)?;
        let mut extents = ExtentTree::default();
        let wanted = if kind == VolumeKind::Thin { 0 } else { extents_of(size_bytes) };
        while self.free.count() < wanted && self.reap(REAP_EXTENTS) {}
        if self.free.count() < wanted {
            return Err(MapRefusal::NoSpace);
        }
        let mut next = 0;
        while next < wanted {
            let (first, count) = self.free.take_run(wanted - next).expect("free extents were counted");
            for i in 0..count {
                self.owners[index(first + i)] = 1;
                extents.set(next + i, Some(Extent { physical: first + i, written: PageBits::default() }));
                self.changes.extents.insert((volume, next + i));
            }
            next += count;
        }
        self.records_bound += 1 + u64::from(wanted);
        self.volumes.insert(volume, VolumeMap { kind, size_bytes, origin: None, extents, forming: false });
        self.changes.described.insert(volume);
        Ok(())
    }

    /// Makes volumes at least so large; thick ones get their extents, all of them or none.
    pub(crate) fn grow(&mut self, volumes: &[VolumeId], size_bytes: u64) -> Result<(), MapRefusal> {
        let mut wanted = 0;
        for volume in volumes {
            let map = self.volumes.get(volume).ok_or(MapRefusal::Unknown)?;
            if map.kind == VolumeKind::Journal {
                return Err(MapRefusal::Kind);
            }
            if map.kind == VolumeKind::Thick {
                wanted += extents_of(size_bytes).saturating_sub(map.extent_count());
            }
        }
        while self.free.count() < wanted && self.reap(REAP_EXTENTS) {}
        if self.free.count() < wanted {
            return Err(MapRefusal::NoSpace);
        }
        for volume in volumes {
            let Some(map) = self.volumes.get_mut(volume).filter(|map| map.size_bytes < size_bytes) else {
                continue;
            };
            let (mut next, kind) = (map.extent_count(), map.kind);
            map.size_bytes = size_bytes;
            self.records_bound += 1;
            self.changes.described.insert(*volume);
            while kind == VolumeKind::Thick && next < extents_of(size_bytes) {
                let left = extents_of(size_bytes) - next;
                let (first, count) = self.free.take_run(left).expect("free extents were counted");
                for i in 0..count {
                    self.owners[index(first + i)] = 1;
                    self.put(
                        *volume,
                        next + i,
                        Some(Extent { physical: first + i, written: PageBits::default() }),
                    );
                }
                next += count;
            }
        }
        Ok(())
    }

    /// Whether a volume of this number can be added.
    pub(super) fn check_new(&self, volume: VolumeId) -> Result<(), MapRefusal> {
        if self.volumes.contains_key(&volume) {
            return Err(MapRefusal::Exists);
        }
        if self.volumes.len() >= VOLUMES_MAX {
            return Err(MapRefusal::TooMany);
        }
        Ok(())
    }

    /// Removes a volume; its extents are free, or its partners' alone, once that is durable and [`Map::reap`] has
    /// counted them off.
    pub(crate) fn delete(&mut self, volume: VolumeId) -> Result<(), MapRefusal> {
        let gone = self.volumes.remove(&volume).ok_or(MapRefusal::Unknown)?;
        self.families.remove(volume);
        self.changes.forget(volume);
        let moves: Vec<_> = self.moves.range((volume, 0)..=(volume, u32::MAX)).map(|(key, _)| *key).collect();
        self.changes.given_up.extend(moves.iter().filter_map(|key| self.moves.remove(key)));
        if gone.forming {
            // The durable map never knew it.
            self.doomed.push(Borrowed::all_of(gone.extents));
        } else {
            self.changes.dead.push(Borrowed::all_of(gone.extents));
            self.changes.deleted.insert(volume);
        }
        Ok(())
    }

    /// Where pages of an extent of a volume are written: in its place if it is the volume's alone, in a free extent if
    /// it has none or shares it. Asking again gives the same answer.
    pub(crate) fn place(&mut self, volume: VolumeId, extent: u32) -> Result<Place, MapRefusal> {
        while self.free.count() == 0 && self.reap(REAP_EXTENTS) {}
        let known = self.volumes.get(&volume).ok_or(MapRefusal::Unknown)?.extents.get(extent);
        let waiting = self.moves.get(&(volume, extent)).copied();
        match known {
            Some(known) if !self.is_shared(known.physical) => {
                // The others are gone since a move began.
                self.changes.given_up.extend(waiting);
                self.moves.remove(&(volume, extent));
                self.digests.forget(known.physical);
                Ok(Place { physical: known.physical, from: None })
            }
            Some(known) if !known.written.is_empty() => {
                let physical = waiting.map_or_else(|| self.take_free(), Ok)?;
                self.moves.insert((volume, extent), physical);
                Ok(Place { physical, from: Some(known) })
            }
            known => {
                let physical = waiting.map_or_else(|| self.take_free(), Ok)?;
                self.moves.remove(&(volume, extent));
                self.changes.given_up.extend(known.map(|known| known.physical));
                self.put(volume, extent, Some(Extent { physical, written: PageBits::default() }));
                Ok(Place { physical, from: None })
            }
        }
    }

    /// One free extent, with its first owner.
    pub(super) fn take_free(&mut self) -> Result<u32, MapRefusal> {
        let (physical, _) = self.free.take_run(1).ok_or(MapRefusal::NoSpace)?;
        self.owners[index(physical)] = 1;
        Ok(physical)
    }

    /// The pages' bytes are durable on the units at the extent's place: from now on they are read from there.
    pub(crate) fn mark_written(&mut self, volume: VolumeId, extent: u32, pages: &PageBits) {
        let Some(mut entry) = self.extent(volume, extent) else { return };
        if entry.written.insert_all(pages) {
            self.put(volume, extent, Some(entry));
        }
    }

    /// The extent lies where [`Map::place`] said: everything in it, `pages` included, is durable there.
    pub(crate) fn mark_moved(&mut self, volume: VolumeId, extent: u32, pages: &PageBits) {
        let Some(mut entry) = self.extent(volume, extent) else { return };
        let Some(physical) = self.moves.remove(&(volume, extent)) else { return };
        self.changes.given_up.push(entry.physical);
        entry.physical = physical;
        entry.written.insert_all(pages);
        self.put(volume, extent, Some(entry));
    }

    /// The pages read as zero from now on; a thin volume gives up an extent that has no page left.
    pub(crate) fn mark_zero(&mut self, volume: VolumeId, extent: u32, pages: &PageBits) {
        let Some(map) = self.volumes.get(&volume) else { return };
        let Some(mut entry) = map.extents.get(extent) else { return };
        let changed = entry.written.remove_all(pages);
        if entry.written.is_empty() && map.kind == VolumeKind::Thin {
            self.changes.given_up.push(entry.physical);
            self.put(volume, extent, None);
        } else if changed {
            self.put(volume, extent, Some(entry));
        }
    }

    /// Puts an extent of a volume, or none, into the map and notes that for the log.
    fn put(&mut self, volume: VolumeId, extent: u32, entry: Option<Extent>) {
        let Some(map) = self.volumes.get_mut(&volume) else { return };
        map.extents.set(extent, entry);
        self.records_bound += 2;
        self.changes.extents.insert((volume, extent));
    }

    /// The first written pages of a volume at or after `from_page`, as page numbers of the volume.
    pub(crate) fn written_from(&self, volume: VolumeId, from_page: u64) -> Option<Range<u64>> {
        let map = self.volumes.get(&volume)?;
        let first = u32::try_from(from_page / PAGES_PER_EXTENT).ok()?;
        map.extents.iter_from(first).find_map(|(extent, entry)| {
            let from = if extent == first { from_page % PAGES_PER_EXTENT } else { 0 };
            let run = entry.written.run_from(u16::try_from(from).expect("below 256"))?;
            let base = u64::from(extent) * PAGES_PER_EXTENT;
            Some(base + u64::from(run.start)..base + u64::from(run.end))
        })
    }
}

/// An extent of the group as an index.
pub(super) fn index(physical: u32) -> usize {
    usize::try_from(physical).expect("numbers of extents fit into memory")
}

/// Extents of deleted volumes that are counted off at a time, so that nobody waits long for the map.
pub(crate) const REAP_EXTENTS: u32 = 4096;
