//! Journal volumes: straight to the parity group, past the cache.

use super::DiskAdapter;
use super::volume::Volume;
use crate::disk::VolumeError;
use crate::disk::raid::Run;
use crate::disk::slot::{Class, SLOT_BYTES, Slot, SlotPool};
use crate::disk::space::map::{EXTENT_BYTES, VolumeId, VolumeKind};
use std::sync::Arc;

/// A journal volume. What was never written reads as whatever the units held: its user's blocks say whose they are.
/// Offsets and lengths are multiples of 4096. Cloning gives another handle.
#[derive(Clone, Debug)]
pub struct RawVolume {
    volume: Arc<Volume>,
    pool: SlotPool,
    /// The extents of the parity group in the volume's order; they never change.
    extents: Arc<[u32]>,
}

impl DiskAdapter {
    /// The journal volume of this number.
    ///
    /// # Errors
    /// It does not exist or is of another kind.
    pub fn raw(&self, volume: VolumeId) -> Result<RawVolume, VolumeError> {
        let volume = self.0.volume(volume)?;
        if volume.spec.kind != VolumeKind::Journal {
            return Err(VolumeError::Kind { volume: volume.id() });
        }
        let extents = {
            let map = volume.space.map();
            let map = map.volume(volume.id()).ok_or(VolumeError::Unknown { volume: volume.id() })?;
            map.extents.iter().map(|(_, extent)| extent.physical).collect()
        };
        Ok(RawVolume { volume, pool: self.0.pool.clone(), extents })
    }
}

impl RawVolume {
    /// Its number.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.volume.id().0
    }

    /// Its size.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.volume.size_bytes()
    }

    /// Whether a unit of its parity group is out, so that the next loss may be that of the volume.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        self.volume.space.is_degraded()
    }

    /// Reads `count` slots from `offset_bytes` on, into memory of `class`.
    ///
    /// # Errors
    /// No such range, the volume is gone, or the parity group cannot read it.
    pub async fn read(
        &self,
        offset_bytes: u64,
        count: usize,
        class: Class,
    ) -> Result<Vec<Slot>, VolumeError> {
        let places = self.places(offset_bytes, count)?;
        if count > self.pool.largest_request(class) {
            return Err(self.refused(offset_bytes, count));
        }
        let mut supply = self.pool.take(class, count).await;
        let _in_use = self.volume.raw_use.read().await;
        self.volume.check_there()?;
        let mut reads = Vec::with_capacity(places.len());
        for (at, length) in places {
            let rest = supply.split_off(length);
            reads.push(self.volume.space.read(at, std::mem::replace(&mut supply, rest)));
        }
        let slots = futures_util::future::try_join_all(reads).await?;
        Ok(slots.into_iter().flatten().map(crate::disk::slot::SlotMut::freeze).collect())
    }

    /// Writes; durable after the next [`flush`](Self::flush) that begins after this has returned. Whoever drops this
    /// future before it ends does not know what is on the units.
    ///
    /// # Errors
    /// No such range, the volume is gone, or the parity group cannot write it: then any part of it may be written.
    pub async fn write(&self, runs: Vec<(u64, Vec<Slot>)>) -> Result<(), VolumeError> {
        let _in_use = self.volume.raw_use.read().await;
        self.volume.check_there()?;
        let mut placed: Vec<Run> = Vec::with_capacity(runs.len());
        for (offset_bytes, slots) in runs {
            let mut slots = slots.into_iter();
            for (at, length) in self.places(offset_bytes, slots.len())? {
                placed.push(Run { offset_bytes: at, slots: slots.by_ref().take(length).collect() });
            }
        }
        self.volume.space.write(placed).await
    }

    /// Makes every completed write durable. Shared with everybody else on the parity group.
    ///
    /// # Errors
    /// The parity group failed; what was not durable may be lost.
    pub async fn flush(&self) -> Result<(), VolumeError> {
        self.volume.check_there()?;
        self.volume.space.flush().await
    }

    /// Where a range lies: (byte of the parity group, slots), neighbouring extents joined.
    fn places(&self, offset_bytes: u64, count: usize) -> Result<Vec<(u64, usize)>, VolumeError> {
        let slot = SLOT_BYTES as u64;
        let length = (count as u64).saturating_mul(slot);
        if !offset_bytes.is_multiple_of(slot) || self.volume.range(offset_bytes, length).is_err() {
            return Err(self.refused(offset_bytes, count));
        }
        let mut places: Vec<(u64, usize)> = Vec::new();
        let (mut at, end) = (offset_bytes, offset_bytes + length);
        while at < end {
            let extent = usize::try_from(at / EXTENT_BYTES).unwrap_or(usize::MAX);
            let physical = self.extents.get(extent).ok_or_else(|| self.refused(offset_bytes, count))?;
            let stop = ((at / EXTENT_BYTES + 1) * EXTENT_BYTES).min(end);
            let place = self.volume.space.page_bytes(*physical, at % EXTENT_BYTES / slot);
            let slots = usize::try_from((stop - at) / slot).unwrap_or(usize::MAX);
            match places.last_mut() {
                Some((first, joined)) if *first + (*joined * SLOT_BYTES) as u64 == place => *joined += slots,
                _ => places.push((place, slots)),
            }
            at = stop;
        }
        Ok(places)
    }

    fn refused(&self, offset_bytes: u64, count: usize) -> VolumeError {
        let length_bytes = (count as u64).saturating_mul(SLOT_BYTES as u64);
        VolumeError::Range { volume: self.volume.id(), offset_bytes, length_bytes }
    }
}
