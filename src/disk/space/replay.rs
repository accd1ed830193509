//! Rebuilding a map from the records of its log.

use super::bits::PageBits;
use super::family::Families;
use super::map::{
    Extent, Map, Origin, VOLUME_BYTES_MAX, VOLUMES_MAX, VolumeId, VolumeKind, VolumeMap, extents_of, index,
};
use super::record::Record;
use super::tree::ExtentTree;
use std::collections::BTreeMap;

/// Rebuilds a map from records.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    described: BTreeMap<VolumeId, (VolumeKind, u64, Option<Origin>)>,
    extents: BTreeMap<VolumeId, ExtentTree>,
    families: Families,
}

impl Replay {
    /// Takes the next record; `extents_total` bounds what it may name.
    pub(crate) fn handle_record(&mut self, record: Record, extents_total: u32) -> Result<(), String> {
        let all = extents_of(VOLUME_BYTES_MAX);
        match record {
            Record::Volume { volume, kind, size_bytes, origin } => {
                if size_bytes > VOLUME_BYTES_MAX {
                    return Err(format!("volume {} has impossible size {size_bytes}", volume.0));
                }
                self.described.insert(volume, (kind, size_bytes, origin));
                // Within one commit those that come may stand before those that go.
                if self.described.len() > 2 * VOLUMES_MAX {
                    return Err(format!("it names more than {VOLUMES_MAX} volumes"));
                }
            }
            Record::Deleted { volume } => {
                self.described.remove(&volume);
                self.extents.remove(&volume);
                self.families.remove(volume);
            }
            Record::Extent { volume, extent, physical, written } => {
                check_place(physical, 1, extents_total)?;
                check_place(extent, 1, all)?;
                self.extents.entry(volume).or_default().set(extent, Some(Extent { physical, written }));
            }
            Record::Run { volume, extent, physical, count, written } => {
                check_place(physical, count, extents_total)?;
                check_place(extent, count, all)?;
                let written = if written { PageBits::FULL } else { PageBits::default() };
                let extents = self.extents.entry(volume).or_default();
                for i in 0..count {
                    extents.set(extent + i, Some(Extent { physical: physical + i, written }));
                }
            }
            Record::Freed { volume, extent, count } => {
                check_place(extent, count, all)?;
                let extents = self.extents.entry(volume).or_default();
                // What is not there is passed over, however long the run claims to be.
                while let Some((at, _)) = extents.next(extent).filter(|(at, _)| *at - extent < count) {
                    extents.set(at, None);
                }
            }
            Record::Shared { volume, from } if volume == from => {
                self.extents.insert(volume, ExtentTree::default());
            }
            Record::Shared { volume, from } => {
                let extents = self.extents.get(&from).cloned().unwrap_or_default();
                self.extents.insert(volume, extents);
                self.families.put_behind(volume, from);
            }
        }
        Ok(())
    }

    /// The map that the records say; an extent with owners that are not of one family, or outside its volume, is
    /// damage, never a guess.
    pub(crate) fn finish(mut self, extents_total: u32) -> Result<Map, String> {
        let mut map = Map::new(extents_total);
        // Extents left over belong to a volume whose creation never became durable: they are free.
        for volume in self.families.volumes() {
            if !self.described.contains_key(&volume) {
                self.families.remove(volume);
            }
        }
        let heads: Vec<_> =
            self.described.keys().filter(|volume| self.families.base(**volume).is_none()).copied().collect();
        let mut places: Vec<Option<(VolumeId, u32)>> = vec![None; index(extents_total)];
        for head in heads {
            let chain: Vec<_> =
                std::iter::successors(Some(head), |volume| self.families.next(*volume)).collect();
            for volume in chain {
                let Some(entry) = self.volume(volume)? else { continue };
                for (at, extent) in entry.extents.iter() {
                    let place = &mut places[index(extent.physical)];
                    if *place.get_or_insert((head, at)) != (head, at) {
                        return Err(format!(
                            "extent {} of volume {} has two owners",
                            extent.physical, volume.0
                        ));
                    }
                    map.owners[index(extent.physical)] += 1;
                    if map.owners[index(extent.physical)] == 1 && !map.free.take_exact(extent.physical) {
                        return Err(format!("extent {} lies nowhere", extent.physical));
                    }
                }
                map.volumes.insert(volume, entry);
            }
        }
        if let Some(volume) = self.described.keys().next() {
            return Err(format!("volume {} shares extents with itself", volume.0));
        }
        map.families = self.families;
        map.records_bound = u64::MAX - RECORDS_SLACK;
        Ok(map)
    }

    fn volume(&mut self, volume: VolumeId) -> Result<Option<VolumeMap>, String> {
        let Some((kind, size_bytes, origin)) = self.described.remove(&volume) else { return Ok(None) };
        let extents = self.extents.remove(&volume).unwrap_or_default();
        let entry = VolumeMap { kind, size_bytes, origin, extents, forming: false };
        let complete = kind == VolumeKind::Thin || entry.extents.len() == entry.extent_count();
        if entry.extents.next(entry.extent_count()).is_some() || !complete {
            return Err(format!("volume {} does not have the extents of its size", volume.0));
        }
        Ok(Some(entry))
    }
}

fn check_place(first: u32, count: u32, total: u32) -> Result<(), String> {
    match first.checked_add(count) {
        Some(end) if end <= total && count > 0 => Ok(()),
        _ => Err(format!("extents {first} + {count} lie outside of {total}")),
    }
}

/// The bound is not known after opening: it is counted when somebody asks, and until then only rises.
const RECORDS_SLACK: u64 = 1 << 62;
