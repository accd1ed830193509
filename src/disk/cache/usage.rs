//! What is used, and what is written at all.

use super::page::{Content, Counts, Key};
use super::read::{extents_of_pages, in_extent, written_in};
use super::volume::Volume;
use super::{DiskAdapter, Inner, ParityGroupId};
use crate::disk::VolumeError;
use crate::disk::slot::SLOT_BYTES;
use crate::disk::space::bits::PageBits;
use crate::disk::space::map::VolumeId;
use std::ops::Range;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

/// What a volume uses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeUsage {
    /// Which.
    pub volume: VolumeId,
    /// Bytes of the extents that it has, those included that others have too.
    pub allocated_bytes: u64,
    /// Bytes of the extents that others have too: snapshots of it, or what it is a snapshot of. Deleting this volume
    /// alone does not free them.
    pub shared_bytes: u64,
    /// Bytes of the pages on the units that do not read as zero by definition.
    pub written_bytes: u64,
    /// Pages in the cache that are on the units too.
    pub clean_pages: usize,
    /// Pages that are not on the units yet.
    pub dirty_pages: usize,
    /// Pages zeroed, which the units do not know yet.
    pub zero_pages: usize,
    /// Why the last destage failed, if it did.
    pub trouble: Option<VolumeError>,
}

/// What a parity group has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupUsage {
    /// Which.
    pub parity_group: ParityGroupId,
    /// Its extents of 1 MiB.
    pub extents: u32,
    /// Those that no volume has.
    pub free_extents: u32,
}

/// All of it, by number.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AdapterUsage {
    /// The volumes.
    pub volumes: Vec<VolumeUsage>,
    /// The parity groups.
    pub groups: Vec<GroupUsage>,
}

impl DiskAdapter {
    /// What is used at this moment.
    #[must_use]
    pub fn usage(&self) -> AdapterUsage {
        let mut usage = AdapterUsage::default();
        for spec in self.volumes() {
            if let Ok(volume) = self.0.volume(spec.id) {
                usage.volumes.push(self.0.volume_usage(&volume));
            }
        }
        for (id, space) in self.0.groups.read().unwrap_or_else(PoisonError::into_inner).iter() {
            let free_extents = space.map().free_extents();
            usage.groups.push(GroupUsage { parity_group: *id, extents: space.extents(), free_extents });
        }
        usage
    }

    /// How busy the adapter is, in permille: pages that are not on the units yet, in relation to those at which destage
    /// goes on without pause and hosts begin to wait.
    #[must_use]
    pub fn load_permille(&self) -> u32 {
        let dirty = self.0.totals.dirty.load(Ordering::Relaxed) as u64;
        let high = self.0.pool.limit() as u64 * u64::from(self.0.settings.dirty_high_percent) / 100;
        u32::try_from((dirty * 1000).checked_div(high).unwrap_or(0).min(1000)).unwrap_or(1000)
    }

    /// The next range at or after `from_offset` that may hold something else than zeros, dirty pages included, as bytes;
    /// at most to the end of its MiB. `None` when all that follows reads as zero.
    ///
    /// # Errors
    /// No such volume.
    pub fn written(&self, volume: VolumeId, from_offset: u64) -> Result<Option<Range<u64>>, VolumeError> {
        self.next_run(volume, from_offset, Zeroed::Counts)
    }

    /// The same for hosts: a page that was zeroed has no space behind it, although the units do not know that yet.
    ///
    /// # Errors
    /// No such volume.
    pub fn mapped(&self, volume: VolumeId, from_offset: u64) -> Result<Option<Range<u64>>, VolumeError> {
        self.next_run(volume, from_offset, Zeroed::IsAbsent)
    }

    fn next_run(
        &self,
        volume: VolumeId,
        from_offset: u64,
        zeroed: Zeroed,
    ) -> Result<Option<Range<u64>>, VolumeError> {
        let volume = self.0.volume(volume)?;
        volume.span(0, 0)?;
        let mut page = from_offset / SLOT_BYTES as u64;
        while let Some(extent) = self.0.next_extent(&volume, page) {
            let base = u64::from(extent) * 256;
            let from = page.max(base);
            let held = self.0.holds(&volume, extent, zeroed);
            if let Some(run) = held.run_from(u16::from(in_extent(from))) {
                let bytes = |page: u16| (base + u64::from(page)) * SLOT_BYTES as u64;
                return Ok(Some(bytes(run.start).max(from_offset)..bytes(run.end)));
            }
            page = base + 256;
        }
        Ok(None)
    }
}

/// Whether a zeroed page that the units do not know of yet is one that holds something.
#[derive(Clone, Copy)]
enum Zeroed {
    Counts,
    IsAbsent,
}

impl Inner {
    fn volume_usage(&self, volume: &Volume) -> VolumeUsage {
        let mut sum = Counts::default();
        for cell in &self.shards {
            let counts = cell.lock().counts.get(&volume.id()).copied().unwrap_or_default();
            sum.clean += counts.clean;
            sum.dirty += counts.dirty;
            sum.zero += counts.zero;
        }
        let map = volume.space.map();
        let extents = map.volume(volume.id()).map(|map| &map.extents);
        let pages: u64 =
            extents.iter().flat_map(|extents| extents.iter()).map(|(_, extent)| extent.written.count()).sum();
        let holding = map.holding(volume.id());
        VolumeUsage {
            volume: volume.id(),
            allocated_bytes: holding.own_bytes + holding.shared_bytes,
            shared_bytes: holding.shared_bytes,
            written_bytes: pages * SLOT_BYTES as u64,
            clean_pages: sum.clean,
            dirty_pages: sum.dirty,
            zero_pages: sum.zero,
            trouble: volume.trouble(),
        }
    }

    /// The first extent at or after this page's that has something on the units or dirty.
    fn next_extent(&self, volume: &Volume, page: u64) -> Option<u32> {
        if page >= volume.pages() {
            return None;
        }
        let (first, _) = extents_of_pages(page..page + 1).next()?;
        let on_units = volume.space.map().written_from(volume.id(), page).map(|run| run.start / 256);
        let on_units = on_units.and_then(|extent| u32::try_from(extent).ok());
        let place = (volume.id(), first)..=(volume.id(), u32::MAX);
        let dirty = self
            .shards
            .iter()
            .filter_map(|cell| cell.lock().dirty.range(place.clone()).next().map(|((_, extent), _)| *extent));
        dirty.chain(on_units).min()
    }

    /// The pages of an extent that may hold something else than zeros.
    fn holds(&self, volume: &Volume, extent: u32, zeroed: Zeroed) -> PageBits {
        let shard = self.cell(volume.id(), extent).lock();
        let (_, mut held) = written_in(volume, extent);
        let Some(dirty) = shard.dirty.get(&(volume.id(), extent)) else { return held };
        for in_extent in dirty.pages.iter() {
            let key = Key { volume: volume.id(), page: u64::from(extent) * 256 + u64::from(in_extent) };
            // A zeroed page counts until the map says so durably: a power loss would bring its old content back.
            match (shard.page(key).and_then(|page| page.state.content()), zeroed) {
                (None, _) => {}
                (Some(Content::Zero), Zeroed::IsAbsent) => {
                    held.remove(in_extent);
                }
                (Some(_), _) => {
                    held.insert(in_extent);
                }
            }
        }
        held
    }
}
