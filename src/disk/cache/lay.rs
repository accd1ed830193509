//! How a volume lies on the units, extent by extent, past the cache: for volumes to which nobody writes and in which nothing is
//! dirty, such as a snapshot that was just completed.
//!
//! What is read is what the units hold, not what the cache remembers of it; and the cache keeps what hosts need.

use super::DiskAdapter;
use super::volume::Volume;
use crate::disk::VolumeError;
use crate::disk::slot::{Class, Slot, SlotMut};
use crate::disk::space::map::{EXTENT_BYTES, Extent, VolumeId};
use futures_util::future::try_join_all;
use std::sync::Arc;

/// An extent of such a volume.
#[derive(Clone, Debug)]
pub(crate) struct Laid {
    volume: Arc<Volume>,
    at: u32,
    extent: Extent,
}

impl DiskAdapter {
    /// The first extent at or after `from` in which something is written.
    ///
    /// # Errors
    /// No such volume.
    pub(crate) fn laid(&self, volume: VolumeId, from: u32) -> Result<Option<Laid>, VolumeError> {
        let volume = self.0.volume(volume)?;
        let found = {
            let map = volume.space.map();
            let map = map.volume(volume.id()).ok_or(VolumeError::Unknown { volume: volume.id() })?;
            map.extents.iter_from(from).find(|(_, extent)| !extent.written.is_empty())
        };
        Ok(found.map(|(at, extent)| Laid { volume, at, extent }))
    }

    /// How many extents it has.
    ///
    /// # Errors
    /// No such volume.
    pub(crate) fn laid_extents(&self, volume: VolumeId) -> Result<u32, VolumeError> {
        let volume = self.0.volume(volume)?;
        let map = volume.space.map();
        Ok(map.volume(volume.id()).map_or(0, |map| map.extents.len()))
    }

    /// Bytes that hashing a volume would read now.
    ///
    /// # Errors
    /// No such volume.
    pub(crate) fn to_hash_bytes(&self, volume: VolumeId, also_known: bool) -> Result<u64, VolumeError> {
        let volume = self.0.volume(volume)?;
        let map = volume.space.map();
        let extents = map.volume(volume.id()).into_iter().flat_map(|of| of.extents.iter());
        let to_read = extents.filter(|(_, extent)| {
            !extent.written.is_empty()
                && (also_known || map.digest(extent).is_none() || map.is_broken(extent))
        });
        Ok(to_read.count() as u64 * EXTENT_BYTES)
    }

    /// Whether the parity group of a volume has extents to spare: what is only looked at must not cost hosts the last ones.
    ///
    /// # Errors
    /// No such volume.
    pub(crate) fn has_extents_to_spare(&self, volume: VolumeId) -> Result<bool, VolumeError> {
        let volume = self.0.volume(volume)?;
        let (free, all) = (volume.space.map().free_extents(), volume.space.extents());
        Ok(free >= all / SPARE_PART)
    }
}

impl Laid {
    /// Which extent of the volume it is.
    pub(crate) fn at(&self) -> u32 {
        self.at
    }

    /// What is in it, if that was read since it was written last.
    pub(crate) fn known_digest(&self) -> Option<[u8; 32]> {
        self.volume.space.map().digest(&self.extent)
    }

    /// Whether the units were found to hold something else than that.
    pub(crate) fn is_broken(&self) -> bool {
        self.volume.space.map().is_broken(&self.extent)
    }

    /// The units hold something else than what is known.
    pub(crate) fn note_broken(&self) {
        self.volume.space.map_mut().note_broken(&self.extent);
    }

    /// Remembers that.
    pub(crate) fn keep_digest(&self, digest: [u8; 32]) {
        self.volume.space.map_mut().keep_digest(self.volume.id(), self.at, &self.extent, digest);
    }

    /// The next of its pages from `next` on that do not read as zero by definition, as the units hold them, and where to go on;
    /// none: there are no more. Who lets go of these before asking for more never waits for memory that only he could give.
    ///
    /// # Errors
    /// The volume is gone, or the parity group cannot read it.
    pub(crate) async fn read_from(
        &self,
        adapter: &DiskAdapter,
        mut next: u16,
    ) -> Result<Option<(Vec<(u8, Slot)>, u16)>, VolumeError> {
        let pool = &adapter.0.pool;
        let most = (pool.largest_request(Class::Host) / MEMORY_PART).clamp(1, PAGES_AT_ONCE);
        let (mut runs, mut left) = (Vec::new(), most);
        while left > 0 {
            let Some(run) = self.extent.written.run_from(next) else { break };
            let end = run.end.min(run.start.saturating_add(u16::try_from(left).unwrap_or(u16::MAX)));
            left -= usize::from(end - run.start);
            next = end;
            runs.push(run.start..end);
        }
        if runs.is_empty() {
            return Ok(None);
        }
        let mut supply = pool.take(Class::Host, most - left).await;
        let space = &self.volume.space;
        let mut reads = Vec::with_capacity(runs.len());
        for run in &runs {
            let into = supply.split_off(supply.len() - run.len());
            reads.push(space.read(space.page_bytes(self.extent.physical, run.start.into()), into));
        }
        let slots = try_join_all(reads).await?;
        // Else its extents may have been somebody else's before the reading was over.
        self.volume.check_there()?;
        let numbers = runs.into_iter().flatten().filter_map(|page| u8::try_from(page).ok());
        Ok(Some((numbers.zip(slots.into_iter().flatten().map(SlotMut::freeze)).collect(), next)))
    }
}

/// Pages read side by side.
const PAGES_AT_ONCE: usize = 256;
/// Of the memory that hosts may have, this part at most.
const MEMORY_PART: usize = 16;
/// This part of a parity group's extents is left to hosts.
const SPARE_PART: u32 = 32;
