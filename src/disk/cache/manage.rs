//! Parity groups and volumes come and go.

use super::destage::shielded;
use super::volume::Volume;
use super::{DiskAdapter, Inner, ParityGroupId, VolumeSpec};
use crate::disk::VolumeError;
use crate::disk::raid::group::ParityGroup;
use crate::disk::slot::SLOT_BYTES;
use crate::disk::space::map::{MapRefusal, VOLUME_BYTES_MAX, VolumeId, VolumeKind};
use crate::disk::space::{MapStart, Opening, Space};
use std::sync::{Arc, PoisonError};

impl DiskAdapter {
    /// Adds a parity group: reads the map of its volumes, which are there afterwards.
    ///
    /// # Errors
    /// A damaged map, a volume number that another group has, or what the group itself reports. Nothing is added then.
    pub async fn add_parity_group(
        &self,
        id: ParityGroupId,
        group: ParityGroup,
        start: MapStart,
        opening: Opening,
    ) -> Result<(), VolumeError> {
        let _one_at_a_time = self.0.manage.lock().await;
        let refused = |reason: String| VolumeError::GroupRefused { number: id.0, reason };
        if self.0.groups.read().unwrap_or_else(PoisonError::into_inner).contains_key(&id) {
            return Err(refused("it was added before".to_owned()));
        }
        let space = Arc::new(Space::open(group, self.0.pool.clone(), start, opening).await?);
        let found: Vec<_> = space
            .map()
            .volumes()
            .map(|(volume, map)| VolumeSpec {
                id: volume,
                parity_group: id,
                size_bytes: map.size_bytes,
                kind: map.kind,
            })
            .collect();
        let mut volumes = self.0.volumes.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(spec) = found.iter().find(|spec| volumes.contains_key(&spec.id)) {
            return Err(refused(format!("volume {} exists in another parity group", spec.id.0)));
        }
        for spec in found {
            let volume = Volume::new(spec, Arc::clone(&space));
            if !space.map().is_alone(spec.id) {
                volume.set_may_share();
            }
            volumes.insert(spec.id, Arc::new(volume));
        }
        self.0.groups.write().unwrap_or_else(PoisonError::into_inner).insert(id, space);
        Ok(())
    }

    /// Whether a parity group has been added.
    #[must_use]
    pub fn has_parity_group(&self, group: ParityGroupId) -> bool {
        self.space(group).is_ok()
    }

    /// Places of the log of a parity group's map of which one copy was damaged when it was opened; the other one was believed.
    ///
    /// # Errors
    /// There is no such parity group.
    pub async fn weak_map_places(&self, group: ParityGroupId) -> Result<Vec<u64>, VolumeError> {
        Ok(self.space(group)?.weak_places().await)
    }

    /// Creates a volume, durably. It reads as zeros.
    ///
    /// # Errors
    /// A number that exists, an impossible size, no room for a thick volume, or the group's own errors: then the
    /// volume does not exist.
    pub async fn create_volume(&self, spec: VolumeSpec) -> Result<(), VolumeError> {
        let size_bytes = spec.size_bytes;
        if size_bytes == 0 || size_bytes > VOLUME_BYTES_MAX || !size_bytes.is_multiple_of(SLOT_BYTES as u64) {
            return Err(VolumeError::Size { size_bytes });
        }
        let adapter = self.clone();
        shielded(async move { adapter.create(spec).await }).await
    }

    async fn create(&self, spec: VolumeSpec) -> Result<(), VolumeError> {
        let _one_at_a_time = self.0.manage.lock().await;
        let _alone = self.0.uses.alone([spec.id]).await;
        if self.0.volume(spec.id).is_ok() {
            return Err(VolumeError::Exists { volume: spec.id });
        }
        let space = self.space(spec.parity_group)?;
        let create = || space.map_mut().create(spec.id, spec.kind, spec.size_bytes);
        let mut created = create();
        if created == Err(MapRefusal::NoSpace) && space.map().is_unsettled() {
            // Extents that were given up are free once that is durable.
            space.commit().await?;
            created = create();
        }
        created.map_err(|refusal| space.refusal(spec.id, refusal))?;
        let mut undo = Undo { space: &space, volume: Some(spec.id) };
        space.commit().await?;
        undo.volume = None;
        let volume = Arc::new(Volume::new(spec, Arc::clone(&space)));
        self.0.volumes.write().unwrap_or_else(PoisonError::into_inner).insert(spec.id, volume);
        Ok(())
    }

    /// Deletes a volume with everything in it, durably. Operations on it that are under way fail or have no effect. What
    /// nobody else has of its extents is given back in steps afterwards; after a crash there is nothing to go on with,
    /// because who owns what is found out at each start.
    ///
    /// # Errors
    /// When it does not exist, or the deletion could not be made durable: then it is gone in this run, and may be
    /// there again after the next start, with content that is not defined; deleting it again is safe.
    pub async fn delete_volume(&self, id: VolumeId) -> Result<(), VolumeError> {
        let adapter = self.clone();
        shielded(async move { adapter.delete(id).await }).await
    }

    async fn delete(&self, id: VolumeId) -> Result<(), VolumeError> {
        let _one_at_a_time = self.0.manage.lock().await;
        let _alone = self.0.uses.alone([id]).await;
        let volume = self.0.volume(id)?;
        volume.set_gone();
        // Whoever destages or writes around the cache has ended when these are held.
        let _no_pass = volume.pass.lock().await;
        let _no_raw_use = volume.raw_use.write().await;
        self.0.volumes.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
        self.0.purge(id);
        let deleted = volume.space.map_mut().delete(id);
        deleted.map_err(|refusal| volume.space.refusal(id, refusal))?;
        self.0.pool.wake();
        self.0.progress.notify_waiters();
        let committed = volume.space.commit().await;
        reap(Arc::clone(&volume.space));
        committed
    }

    /// Makes volumes of one parity group at least so large, durably and all of them or none. What is new reads as zeros. A
    /// thick volume takes its extents now. Nobody has to wait for it, and saying it again is harmless.
    ///
    /// # Errors
    /// A volume that does not exist, is a journal volume or in another parity group than the first; an impossible size;
    /// no room for a thick volume: then nothing has changed. What the group itself reports: then nothing is larger in
    /// this run, and may be after the next start.
    pub async fn grow_volumes(&self, ids: &[VolumeId], size_bytes: u64) -> Result<(), VolumeError> {
        if size_bytes > VOLUME_BYTES_MAX || !size_bytes.is_multiple_of(SLOT_BYTES as u64) {
            return Err(VolumeError::Size { size_bytes });
        }
        let (adapter, ids) = (self.clone(), ids.to_vec());
        shielded(async move { adapter.grow(&ids, size_bytes).await }).await
    }

    async fn grow(&self, ids: &[VolumeId], size_bytes: u64) -> Result<(), VolumeError> {
        let _one_at_a_time = self.0.manage.lock().await;
        let _alone = self.0.uses.alone(ids.iter().copied()).await;
        let volumes = ids.iter().map(|id| self.0.volume(*id)).collect::<Result<Vec<_>, _>>()?;
        let Some(space) = volumes.first().map(|volume| volume.space.clone()) else { return Ok(()) };
        if let Some(other) = volumes
            .iter()
            .find(|volume| volume.spec.kind == VolumeKind::Journal || !Arc::ptr_eq(&volume.space, &space))
        {
            return Err(VolumeError::Kind { volume: other.id() });
        }
        let grow = || space.map_mut().grow(ids, size_bytes);
        let mut grown = grow();
        if grown == Err(MapRefusal::NoSpace) && space.map().is_unsettled() {
            // Extents that were given up are free once that is durable.
            space.commit().await?;
            grown = grow();
        }
        grown.map_err(|refusal| space.refusal(volumes[0].id(), refusal))?;
        space.commit().await?;
        volumes.iter().for_each(|volume| volume.set_size(size_bytes));
        Ok(())
    }

    pub(super) fn space(&self, id: ParityGroupId) -> Result<Arc<Space>, VolumeError> {
        let groups = self.0.groups.read().unwrap_or_else(PoisonError::into_inner);
        groups.get(&id).cloned().ok_or(VolumeError::UnknownGroup { number: id.0 })
    }

    /// The volumes, by number.
    #[must_use]
    pub fn volumes(&self) -> Vec<VolumeSpec> {
        let volumes = self.0.volumes.read().unwrap_or_else(PoisonError::into_inner);
        let mut specs: Vec<_> = volumes
            .values()
            .map(|volume| VolumeSpec { size_bytes: volume.size_bytes(), ..volume.spec })
            .collect();
        specs.sort_by_key(|spec| spec.id);
        specs
    }
}

impl Inner {
    /// Forgets the pages of a volume that is gone.
    pub(super) fn purge(&self, id: VolumeId) {
        for cell in &self.shards {
            let gone = cell.lock().purge(id, &self.totals);
            drop(gone);
            cell.loaded.notify_waiters();
        }
    }
}

/// Counts off the extents of volumes that are gone, in the background.
pub(super) fn reap(space: Arc<Space>) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        return; // Whoever needs an extent counts off what is left.
    };
    runtime.spawn(async move {
        while space.reap() {
            tokio::task::yield_now().await;
        }
    });
}

/// Takes back a volume whose creation did not become durable.
struct Undo<'a> {
    space: &'a Space,
    volume: Option<VolumeId>,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if let Some(volume) = self.volume.take() {
            let undone = self.space.map_mut().delete(volume);
            debug_assert!(undone.is_ok(), "it was created under the same lock");
        }
    }
}

#[cfg(test)]
impl DiskAdapter {
    pub(crate) fn space_for_tests(&self) -> Arc<Space> {
        self.space(ParityGroupId(1)).expect("tests use parity group 1")
    }
}
