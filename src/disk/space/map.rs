//! The map of one parity group: which extent of which volume lies where, and which of its pages are written.
//!
//! Pure: no I/O, no waiting. What happens to it:
//!
//! * A page whose bit is clear reads as zero whatever is on the units, so no volume is ever zeroed in advance and
//!   nothing of an earlier owner of an extent can be seen.
//! * A thick volume has all its extents from the beginning, a thin one takes them when pages are destaged and gives
//!   them back when the last page is unmapped. A journal volume is thick and its bits do not count.
//! * Every change is remembered until the log has it (`take_changes`); an extent that was given up is free
//!   for others only when the change that gave it up is durable (`changes_are_durable`). Otherwise a crash
//!   could bring the old owner back, with the new owner's bytes in its extent.

use super::bits::{PAGES_PER_EXTENT, PageBits};
use super::free::FreeExtents;
use super::record::Record;
use std::collections::{BTreeMap, BTreeSet};
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
    pub(crate) extents: BTreeMap<u32, Extent>,
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
}

/// What the log does not have yet.
#[derive(Debug, Default)]
struct Changes {
    deleted: BTreeSet<VolumeId>,
    described: BTreeSet<VolumeId>,
    extents: BTreeSet<(VolumeId, u32)>,
    /// Extents of the group that nobody owns any more, but that the durable map may still give to somebody.
    given_up: Vec<u32>,
}

/// Changes on their way into the log: to be handed back as durable or as failed.
#[derive(Debug)]
pub(crate) struct TakenChanges {
    pub(crate) records: Vec<Record>,
    changes: Changes,
}

/// Where a snapshot goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SnapshotCursor {
    volume: VolumeId,
    extent: u32,
    described: bool,
}

/// The map. See the module.
#[derive(Debug)]
pub(crate) struct Map {
    free: FreeExtents,
    volumes: BTreeMap<VolumeId, VolumeMap>,
    changes: Changes,
    /// Changes were taken, and the log has not said yet what became of them.
    on_the_way: bool,
}

impl Map {
    /// A map without volumes over `extents_total` extents.
    pub(crate) fn new(extents_total: u32) -> Self {
        Self {
            free: FreeExtents::all(extents_total),
            volumes: BTreeMap::new(),
            changes: Changes::default(),
            on_the_way: false,
        }
    }

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
        self.volumes.get(&volume)?.extents.get(&extent).copied()
    }

    /// Adds a volume; a thick one gets its extents, all or none.
    pub(crate) fn create(
        &mut self,
        volume: VolumeId,
        kind: VolumeKind,
        size_bytes: u64,
    ) -> Result<(), MapRefusal> {
        if self.volumes.contains_key(&volume) {
            return Err(MapRefusal::Exists);
        }
        if self.volumes.len() >= VOLUMES_MAX {
            return Err(MapRefusal::TooMany);
        }
        let mut extents = BTreeMap::new();
        let wanted = if kind == VolumeKind::Thin { 0 } else { extents_of(size_bytes) };
        if self.free.count() < wanted {
            return Err(MapRefusal::NoSpace);
        }
        let mut next = 0;
        while next < wanted {
            let (first, count) = self.free.take_run(wanted - next).expect("free extents were counted");
            for i in 0..count {
                extents.insert(next + i, Extent { physical: first + i, written: PageBits::default() });
                self.changes.extents.insert((volume, next + i));
            }
            next += count;
        }
        self.volumes.insert(volume, VolumeMap { kind, size_bytes, extents });
        self.changes.described.insert(volume);
        Ok(())
    }

    /// Removes a volume; its extents are free once that is durable.
    pub(crate) fn delete(&mut self, volume: VolumeId) -> Result<(), MapRefusal> {
        let gone = self.volumes.remove(&volume).ok_or(MapRefusal::Unknown)?;
        self.changes.given_up.extend(gone.extents.values().map(|extent| extent.physical));
        self.changes.described.remove(&volume);
        let old: Vec<_> = self.changes.extents.range((volume, 0)..=(volume, u32::MAX)).copied().collect();
        for key in old {
            self.changes.extents.remove(&key);
        }
        self.changes.deleted.insert(volume);
        Ok(())
    }

    /// Where an extent of a volume lies, taking a free one if it has none.
    pub(crate) fn place(&mut self, volume: VolumeId, extent: u32) -> Result<u32, MapRefusal> {
        let map = self.volumes.get_mut(&volume).ok_or(MapRefusal::Unknown)?;
        if let Some(extent) = map.extents.get(&extent) {
            return Ok(extent.physical);
        }
        let (physical, _) = self.free.take_run(1).ok_or(MapRefusal::NoSpace)?;
        map.extents.insert(extent, Extent { physical, written: PageBits::default() });
        self.changes.extents.insert((volume, extent));
        Ok(physical)
    }

    /// The pages' bytes are durable on the units at the extent's place: from now on they are read from there.
    pub(crate) fn mark_written(&mut self, volume: VolumeId, extent: u32, pages: &PageBits) {
        let Some(entry) = self.volumes.get_mut(&volume).and_then(|v| v.extents.get_mut(&extent)) else {
            return;
        };
        let mut new = false;
        for page in pages.iter() {
            new |= entry.written.insert(page);
        }
        if new {
            self.changes.extents.insert((volume, extent));
        }
    }

    /// The pages read as zero from now on; a thin volume gives up an extent that has no page left.
    pub(crate) fn mark_zero(&mut self, volume: VolumeId, extent: u32, pages: &PageBits) {
        let Some(map) = self.volumes.get_mut(&volume) else { return };
        let Some(entry) = map.extents.get_mut(&extent) else { return };
        let mut changed = false;
        for page in pages.iter() {
            changed |= entry.written.remove(page);
        }
        if entry.written.is_empty() && map.kind == VolumeKind::Thin {
            self.changes.given_up.push(entry.physical);
            map.extents.remove(&extent);
            changed = true;
        }
        if changed {
            self.changes.extents.insert((volume, extent));
        }
    }

    /// What the log has to get, as records in the order in which they must be replayed: what is gone, extents, and the
    /// descriptors last, so that a volume whose creation was cut off half-way does not exist.
    pub(crate) fn take_changes(&mut self) -> TakenChanges {
        let changes = std::mem::take(&mut self.changes);
        self.on_the_way = true;
        let mut records: Vec<_> =
            changes.deleted.iter().map(|volume| Record::Deleted { volume: *volume }).collect();
        for &(volume, extent) in &changes.extents {
            match self.extent(volume, extent) {
                Some(entry) => push_extent(&mut records, volume, extent, entry),
                None => records.push(Record::Freed { volume, extent }),
            }
        }
        for volume in &changes.described {
            records.extend(self.volumes.get(volume).map(|map| describe(*volume, map)));
        }
        TakenChanges { records, changes }
    }

    /// Whether something stands here that is not known to be durable in the log.
    pub(crate) fn is_unsettled(&self) -> bool {
        let changes = &self.changes;
        self.on_the_way
            || !(changes.deleted.is_empty() && changes.described.is_empty() && changes.extents.is_empty())
    }

    /// The log has them on the units: the extents they gave up are free.
    pub(crate) fn changes_are_durable(&mut self, taken: TakenChanges) {
        self.on_the_way = false;
        for physical in taken.changes.given_up {
            self.free.release(physical);
        }
    }

    /// The log could not take them: they stay to be logged.
    pub(crate) fn changes_failed(&mut self, taken: TakenChanges) {
        let changes = taken.changes;
        self.on_the_way = false;
        self.changes.deleted.extend(changes.deleted);
        self.changes.given_up.extend(changes.given_up);
        for volume in changes.described {
            if self.volumes.contains_key(&volume) {
                self.changes.described.insert(volume);
            }
        }
        self.changes.extents.extend(changes.extents);
    }

    /// At least `most` records of a snapshot if there are as many, and where it goes on. Changes between two parts do
    /// no harm: they are logged behind the snapshot.
    pub(crate) fn snapshot(
        &self,
        from: Option<SnapshotCursor>,
        most: usize,
    ) -> (Vec<Record>, Option<SnapshotCursor>) {
        let mut records = Vec::new();
        let start = from.unwrap_or(SnapshotCursor { volume: VolumeId(0), extent: 0, described: false });
        for (&volume, map) in self.volumes.range(start.volume..) {
            let resumed = volume == start.volume;
            if !(resumed && start.described) {
                records.push(describe(volume, map));
            }
            for (&extent, entry) in map.extents.range(if resumed { start.extent } else { 0 }..) {
                if records.len() >= most {
                    return (records, Some(SnapshotCursor { volume, extent, described: true }));
                }
                push_extent(&mut records, volume, extent, *entry);
            }
        }
        (records, None)
    }

    /// The first written pages of a volume at or after `from_page`, as page numbers of the volume.
    pub(crate) fn written_from(&self, volume: VolumeId, from_page: u64) -> Option<Range<u64>> {
        let map = self.volumes.get(&volume)?;
        let first = u32::try_from(from_page / PAGES_PER_EXTENT).ok()?;
        map.extents.range(first..).find_map(|(&extent, entry)| {
            let from = if extent == first { from_page % PAGES_PER_EXTENT } else { 0 };
            let run = entry.written.run_from(u16::try_from(from).expect("below 256"))?;
            let base = u64::from(extent) * PAGES_PER_EXTENT;
            Some(base + u64::from(run.start)..base + u64::from(run.end))
        })
    }
}

fn describe(volume: VolumeId, map: &VolumeMap) -> Record {
    Record::Volume { volume, kind: map.kind, size_bytes: map.size_bytes }
}

/// Adds an extent, as one more of a run when it continues the last record.
fn push_extent(records: &mut Vec<Record>, volume: VolumeId, extent: u32, entry: Extent) {
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

/// Rebuilds a map from records.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    described: BTreeMap<VolumeId, (VolumeKind, u64)>,
    extents: BTreeMap<VolumeId, BTreeMap<u32, Extent>>,
}

impl Replay {
    /// Takes the next record; `extents_total` bounds what it may name.
    pub(crate) fn handle_record(&mut self, record: Record, extents_total: u32) -> Result<(), String> {
        match record {
            Record::Volume { volume, kind, size_bytes } => {
                if size_bytes > VOLUME_BYTES_MAX {
                    return Err(format!("volume {} has impossible size {size_bytes}", volume.0));
                }
                self.described.insert(volume, (kind, size_bytes));
            }
            Record::Deleted { volume } => {
                self.described.remove(&volume);
                self.extents.remove(&volume);
            }
            Record::Extent { volume, extent, physical, written } => {
                check_place(physical, 1, extents_total)?;
                self.extents.entry(volume).or_default().insert(extent, Extent { physical, written });
            }
            Record::Run { volume, extent, physical, count, written } => {
                check_place(physical, count, extents_total)?;
                check_place(extent, count, extents_of(VOLUME_BYTES_MAX))?;
                let written = if written { PageBits::FULL } else { PageBits::default() };
                let extents = self.extents.entry(volume).or_default();
                extents.extend((0..count).map(|i| (extent + i, Extent { physical: physical + i, written })));
            }
            Record::Freed { volume, extent } => {
                self.extents.entry(volume).or_default().remove(&extent);
            }
        }
        Ok(())
    }

    /// The map that the records say; an extent with two owners or outside its volume is damage, never a guess.
    pub(crate) fn finish(mut self, extents_total: u32) -> Result<Map, String> {
        let mut map = Map::new(extents_total);
        for (volume, (kind, size_bytes)) in std::mem::take(&mut self.described) {
            let extents = self.extents.remove(&volume).unwrap_or_default();
            let entry = VolumeMap { kind, size_bytes, extents };
            let last = entry.extents.last_key_value().map_or(0, |(extent, _)| extent + 1);
            let complete = kind == VolumeKind::Thin
                || entry.extents.len() == usize::try_from(entry.extent_count()).unwrap_or(usize::MAX);
            if last > entry.extent_count() || !complete {
                return Err(format!("volume {} does not have the extents of its size", volume.0));
            }
            for extent in entry.extents.values() {
                if !map.free.take_exact(extent.physical) {
                    return Err(format!("extent {} of volume {} has two owners", extent.physical, volume.0));
                }
            }
            map.volumes.insert(volume, entry);
        }
        // Extents left over belong to a volume whose creation never became durable: they are free.
        Ok(map)
    }
}

fn check_place(first: u32, count: u32, total: u32) -> Result<(), String> {
    match first.checked_add(count) {
        Some(end) if end <= total && count > 0 => Ok(()),
        _ => Err(format!("extents {first} + {count} lie outside of {total}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SeededEntropy;

    fn bits(pages: &[u8]) -> PageBits {
        let mut bits = PageBits::default();
        for page in pages {
            bits.insert(*page);
        }
        bits
    }

    #[test]
    fn an_extent_given_up_is_free_only_when_that_is_durable() {
        let mut map = Map::new(1);
        map.create(VolumeId(1), VolumeKind::Thin, EXTENT_BYTES).unwrap();
        map.create(VolumeId(2), VolumeKind::Thin, EXTENT_BYTES).unwrap();
        map.place(VolumeId(1), 0).unwrap();
        map.mark_written(VolumeId(1), 0, &bits(&[5]));
        map.mark_zero(VolumeId(1), 0, &bits(&[5]));
        assert_eq!(map.place(VolumeId(2), 0), Err(MapRefusal::NoSpace));
        let failed = map.take_changes();
        map.changes_failed(failed);
        let taken = map.take_changes();
        map.changes_failed(taken);
        let taken = map.take_changes();
        assert!(map.is_unsettled());
        assert_eq!(map.place(VolumeId(2), 0), Err(MapRefusal::NoSpace));
        map.changes_are_durable(taken);
        assert_eq!(map.place(VolumeId(2), 0), Ok(0));
    }

    #[test]
    fn a_thick_volume_has_all_its_extents_in_few_records_or_does_not_exist() {
        let mut map = Map::new(1000);
        assert_eq!(map.create(VolumeId(1), VolumeKind::Thick, 1001 * EXTENT_BYTES), Err(MapRefusal::NoSpace));
        map.create(VolumeId(1), VolumeKind::Thick, 900 * EXTENT_BYTES).unwrap();
        assert_eq!(map.create(VolumeId(1), VolumeKind::Thin, 0), Err(MapRefusal::Exists));
        let taken = map.take_changes();
        assert_eq!(taken.records.len(), 2);
        let mut cut_off = Replay::default();
        cut_off.handle_record(taken.records[0], 1000).unwrap();
        assert_eq!(cut_off.finish(1000).unwrap().free_extents(), 1000);
    }

    #[test]
    fn replaying_all_changes_or_any_snapshot_gives_the_same_map() {
        for seed in 0..200 {
            let random = SeededEntropy::new(seed);
            let mut map = Map::new(40);
            let mut log = Vec::new();
            for _ in 0..300 {
                let volume = VolumeId(u32::try_from(random.below(4)).unwrap());
                let extent = u32::try_from(random.below(12)).unwrap();
                let pages = bits(&[u8::try_from(random.below(3)).unwrap()]);
                match random.below(12) {
                    0 => {
                        let kind = if random.below(2) == 0 { VolumeKind::Thin } else { VolumeKind::Thick };
                        let _ = map.create(volume, kind, 12 * EXTENT_BYTES);
                    }
                    1 => {
                        let _ = map.delete(volume);
                    }
                    2..=5 => {
                        if map.place(volume, extent).is_ok() {
                            map.mark_written(volume, extent, &pages);
                        }
                    }
                    6 => map.mark_zero(volume, extent, &PageBits::FULL),
                    7 => map.mark_zero(volume, extent, &pages),
                    _ => {
                        let taken = map.take_changes();
                        if random.below(4) == 0 {
                            map.changes_failed(taken);
                        } else {
                            log.extend(taken.records.iter().copied());
                            map.changes_are_durable(taken);
                        }
                    }
                }
            }
            log.extend(map.take_changes().records);
            let mut snapshot = Vec::new();
            let mut cursor = None;
            loop {
                let (records, next) = map.snapshot(cursor, 3);
                snapshot.extend(records);
                cursor = next;
                if cursor.is_none() {
                    break;
                }
            }
            for records in [log, snapshot] {
                let mut replay = Replay::default();
                for record in records {
                    let record = Record::decode(&record.encode()).unwrap();
                    replay.handle_record(record, 40).unwrap();
                }
                assert_eq!(replay.finish(40).unwrap().volumes, map.volumes, "seed {seed}");
            }
        }
    }
}
