//! Parity groups, volumes and LUNs: what the store says there is, opened.

use super::Array;
use crate::copy::change::{Change, Part, apply, pages_touched, within_page};
use crate::copy::image::volume_of;
use crate::disk::cache::{ParityGroupId, VolumeSpec};
use crate::disk::device::BlockDevice;
use crate::disk::io::opener::{OpenMode, OpenUnitError};
use crate::disk::raid::assemble::Making;
use crate::disk::raid::group::ParityGroup;
use crate::disk::raid::{ArrayIdentity, GroupIdentity, GroupSpec, Level, Owner};
use crate::disk::slot::{Class, SLOT_BYTES, SlotMut};
use crate::disk::space::{MapStart, Opening, has_map};
use crate::disk::{VolumeError, VolumeId, VolumeKind};
use crate::io::lun::LunUnit;
use crate::io::volume::Volume;
use crate::volume::kind::{CacheMode, RaidLevel};
use crate::volume::name::ArrayNumber;
use crate::volume::record::{ParityGroupRecord, TargetRecord, VolumeRecord, VolumeState, VolumeUsage};
use crate::volume::table::{HostAccess, Tables};
use holdfast_scsi::{Access, BlockSize, CacheControl, Geometry, LogicalUnit, Provisioning, WriteCache};
use std::sync::Arc;

impl Array {
    /// Opens what is not open and starts what should run. May be repeated at any time.
    pub(crate) async fn reconcile(self: &Arc<Self>) {
        self.designate_deferred();
        self.reverse_groups().await;
        self.take_over_groups().await;
        self.end_journals().await;
        let tables = self.store.tables();
        self.close_deleted_groups(&tables).await;
        self.close_replaced_groups(&tables).await;
        self.take_down(&tables).await;
        for record in tables.parity_groups.iter() {
            if !self.runtime().parity_groups.contains_key(&record.number.0) {
                self.bring_up_parity_group(record).await;
            }
        }
        for record in tables.volumes.iter() {
            if self.needs_volume(record) {
                self.bring_up_volume(record).await;
            }
        }
        self.reconcile_groups(&tables).await;
        self.look_at_unopened();
        self.drop_stray_images().await;
        self.grow_volumes().await;
        self.reconcile_forwarding().await;
        self.open_written_svols().await;
        self.apply_rewinds().await;
        self.meter_drills();
        let tables = self.store.tables();
        for target in tables.targets.iter() {
            self.show_luns(&tables, target);
        }
        self.set_access(&tables);
        self.changed().notify_waiters();
    }

    /// Opens what units there are, before anything else is done.
    ///
    /// # Errors
    /// They were used with a newer control store than this one.
    pub(super) async fn open_parity_groups(&self) -> anyhow::Result<()> {
        let tables = self.store.tables();
        for record in tables.parity_groups.iter() {
            self.bring_up_parity_group(record).await;
        }
        if let Some(reason) = self.runtime().older_store.clone() {
            anyhow::bail!(reason);
        }
        if self.env.takes_older_store {
            // Numbers are never given twice, also those that this store has forgotten.
            let known = self.disk.volumes().into_iter().map(|spec| volume_of(spec.id).unwrap_or(spec.id).0);
            let last = known.max().unwrap_or(0);
            self.store.checkpoint(|tables| {
                tables.number_at_least(last);
                // Before any host is let in: whoever took over from this array has said so, and this store has forgotten it.
                tables.ask_who_is_primary(&mut || self.new_identity());
            })?;
        }
        Ok(())
    }

    async fn bring_up_parity_group(&self, record: &ParityGroupRecord) {
        let opened = self.open_parity_group(record).await.map_err(|error| {
            tracing::error!(parity_group = %record.name, %error, "cannot be used");
            let cause = error.downcast_ref::<VolumeError>();
            if matches!(cause, Some(VolumeError::OlderStore { .. })) {
                self.runtime().older_store = Some(error.to_string());
            }
            error.to_string()
        });
        self.runtime().parity_groups.insert(record.number.0, opened);
    }

    async fn open_parity_group(&self, record: &ParityGroupRecord) -> anyhow::Result<ParityGroup> {
        let meta = self.store.read(|tables| tables.meta().clone());
        let owner = Owner { array: ArrayIdentity(meta.identity.0), number: u64::from(meta.number.0) };
        let (group, is_new) = if record.is_formatted {
            (self.open_units(record, owner).await?, false)
        } else {
            self.make_units(record, owner).await?
        };
        for refused in group.state().refused {
            tracing::error!(parity_group = %record.name, unit = %refused, "unit refused");
        }
        let start = if is_new { MapStart::Format } else { MapStart::Recover };
        let opening = Opening { count: meta.incarnation, takes_older: self.env.takes_older_store };
        self.disk.add_parity_group(ParityGroupId(record.number.0), group.clone(), start, opening).await?;
        if !record.is_formatted {
            self.store.checkpoint(|tables| {
                if let Some(row) = tables.parity_groups.edit(&record.number) {
                    row.is_formatted = true;
                }
            })?;
        }
        Ok(group)
    }

    async fn open_units(&self, record: &ParityGroupRecord, owner: Owner) -> anyhow::Result<ParityGroup> {
        let mut units = Vec::new();
        let mut unopened = Vec::new();
        for unit in &record.units {
            let path = unit.path.display().to_string();
            match self.env.units.open(&path, OpenMode::Existing).await {
                Ok(device) => units.push((path, device)),
                Err(error) => {
                    tracing::error!(parity_group = %record.name, %error, "unit not available");
                    unopened.push(error.to_string());
                }
            }
        }
        let opened =
            ParityGroup::open(owner, GroupIdentity(record.identity.0), units, self.pool.clone()).await;
        opened.map_err(|error| {
            let missing = unopened.iter().map(|unit| format!("; {unit}")).collect::<String>();
            anyhow::anyhow!("{error}{missing}")
        })
    }

    /// Makes the group on new units; whether it is new. A start that was cut off here has left files that it had made itself: those are
    /// wiped and used again. Whatever else is not empty is refused. What has a map is not new, whatever the store knows of it: an
    /// older copy of the store may say so of units that are full of data.
    async fn make_units(
        &self,
        record: &ParityGroupRecord,
        owner: Owner,
    ) -> anyhow::Result<(ParityGroup, bool)> {
        if record.units.iter().any(|unit| unit.is_ours)
            && let Ok(group) = self.open_units(record, owner).await
            && has_map(&group, &self.pool).await?
        {
            return Ok((group, false));
        }
        let mut units = Vec::new();
        for (index, unit) in record.units.iter().enumerate() {
            let path = unit.path.display().to_string();
            let device = match self.env.units.open(&path, OpenMode::Existing).await {
                Ok(device) if unit.is_ours => self.wiped(device).await?,
                Ok(device) => device,
                Err(OpenUnitError::Missing { .. }) => {
                    let size_bytes = unit.size_bytes.ok_or_else(|| {
                        anyhow::anyhow!("{path}: does not exist, and no size is given to create it with")
                    })?;
                    let device = self.env.units.open(&path, OpenMode::Create { size_bytes }).await?;
                    // Noted before anything is written to it: a crash before this leaves a file of zeros.
                    self.store.checkpoint(|tables| {
                        if let Some(row) = tables.parity_groups.edit(&record.number) {
                            row.units[index].is_ours = true;
                        }
                    })?;
                    device
                }
                Err(error) => return Err(error.into()),
            };
            units.push((path, device));
        }
        let spec = GroupSpec {
            identity: GroupIdentity(record.identity.0),
            name: record.name.to_string(),
            level: level(record.level)?,
            stripe_unit_bytes: u32::try_from(record.stripe_unit_bytes)?,
        };
        let making = Making { entropy: self.env.entropy.as_ref(), created: self.env.clock.wall() };
        match ParityGroup::create(owner, spec, units.clone(), self.pool.clone(), making).await {
            Ok(group) => Ok((group, true)),
            Err(error) => {
                let identity = GroupIdentity(record.identity.0);
                let opened = ParityGroup::open(owner, identity, units, self.pool.clone()).await;
                // Anything less than all of them is a making that was cut off half-way.
                let whole = opened.ok().filter(|group| !group.state().degraded);
                whole.map(|group| (group, false)).ok_or_else(|| {
                    anyhow::anyhow!(
                        "{error}; if an earlier start was cut off here, delete these units and start again"
                    )
                })
            }
        }
    }

    /// The unit without any trace of a superblock.
    async fn wiped(&self, device: Arc<dyn BlockDevice>) -> anyhow::Result<Arc<dyn BlockDevice>> {
        let last = device.length_bytes() / SLOT_BYTES as u64 * SLOT_BYTES as u64 - SLOT_BYTES as u64;
        for offset_bytes in [0, last] {
            let mut slots = self.pool.take(Class::Raid, 1).await;
            slots[0].fill(0);
            device.write(offset_bytes, slots.into_iter().map(SlotMut::freeze).collect()).await?;
        }
        device.flush().await?;
        Ok(device)
    }

    fn needs_volume(&self, record: &VolumeRecord) -> bool {
        let runtime = self.runtime();
        if runtime.volume_trouble.contains_key(&record.number.0) {
            return false;
        }
        let open = runtime.volumes.contains_key(&record.number.0);
        let known = self.disk.volumes().into_iter().find(|spec| spec.id.0 == record.number.0);
        !open || known.is_some_and(|spec| is_journal(record) != (spec.kind == VolumeKind::Journal))
    }

    async fn bring_up_volume(self: &Arc<Self>, record: &VolumeRecord) {
        if let Err(error) = self.open_volume(record).await {
            tracing::error!(volume = %record.name, %error, "cannot be used");
            self.runtime().volume_trouble.insert(record.number.0, error.to_string());
        }
    }

    async fn open_volume(self: &Arc<Self>, record: &VolumeRecord) -> anyhow::Result<()> {
        let write_through = record.cache == CacheMode::WriteThrough;
        let new = |id: u32| {
            Volume::new(id, record.block_size_bytes, record.size_bytes, write_through, self.disk.clone())
        };
        let Some(parity_group) = record.parity_group else {
            self.disk.add_virtual(VolumeId(record.number.0));
            let upstream = Arc::new(super::inflow::Upstream(Arc::downgrade(self)));
            let volume = new(record.number.0).with_data_at(upstream);
            self.runtime().volumes.insert(record.number.0, Arc::new(volume));
            return Ok(());
        };
        let failed = match self.runtime().parity_groups.get(&parity_group.0) {
            Some(Ok(_)) => None,
            Some(Err(reason)) => Some(reason.clone()),
            None => Some("its parity group does not exist".to_owned()),
        };
        if let Some(reason) = failed {
            anyhow::bail!(reason);
        }
        let id = VolumeId(record.number.0);
        let kind = match record.usage {
            VolumeUsage::Journal(_) => VolumeKind::Journal,
            VolumeUsage::Snapshot(_) => VolumeKind::Thin,
            VolumeUsage::Host if record.is_thin => VolumeKind::Thin,
            VolumeUsage::Host => VolumeKind::Thick,
        };
        let known = self.disk.volumes().into_iter().find(|spec| spec.id == id);
        if known.is_some_and(|spec| spec.kind != kind) {
            // It became a journal volume or ceased to be one: what was on it is given up, as the designation said.
            self.runtime().volumes.remove(&record.number.0);
            self.disk.delete_volume(id).await?;
        }
        let known = self.disk.volumes().into_iter().any(|spec| spec.id == id);
        if !known {
            if record.is_carved && !is_journal(record) {
                anyhow::bail!("the map of its parity group does not know it");
            }
            let parity_group = ParityGroupId(parity_group.0);
            self.disk
                .create_volume(VolumeSpec { id, parity_group, size_bytes: record.size_bytes, kind })
                .await?;
        }
        if !record.is_carved {
            self.store.checkpoint(|tables| {
                if let Some(row) = tables.volumes.edit(&record.number) {
                    row.is_carved = true;
                }
            })?;
        }
        self.write_atomic_again(record).await?;
        self.runtime().volumes.insert(id.0, Arc::new(new(id.0)));
        Ok(())
    }

    /// Atomic writes that a crash has cut are made whole before anybody sees the volume.
    async fn write_atomic_again(&self, record: &VolumeRecord) -> anyhow::Result<()> {
        let kept = self.store.atomic_writes(record.number).map_err(anyhow::Error::msg)?;
        for (key, write) in kept {
            let end = write.offset_bytes.checked_add(write.data.len() as u64);
            if write.identity == record.identity && end.is_some_and(|end| end <= record.size_bytes) {
                for (index, data) in write.data.chunks(AGAIN_BYTES).enumerate() {
                    let offset = write.offset_bytes + (index * AGAIN_BYTES) as u64;
                    self.write_again(record.number.0, offset, data).await?;
                }
                tracing::info!(volume = %record.name, "an atomic write was made whole");
            }
            self.store.forget_atomic(key)?;
        }
        Ok(())
    }

    async fn write_again(&self, number: u32, offset: u64, data: &[u8]) -> anyhow::Result<()> {
        let (id, length) = (VolumeId(number), data.len() as u64);
        let mut slots = self.pool.take(Class::Journal, pages_touched(offset, length)).await;
        let (mut at, mut left) = (usize::from(within_page(offset)), data);
        for slot in &mut slots {
            let (now, later) = left.split_at(left.len().min(SLOT_BYTES - at));
            slot[at..at + now.len()].copy_from_slice(now);
            (at, left) = (0, later);
        }
        let slots = slots.into_iter().map(SlotMut::freeze).collect();
        let change = Change::new(number, vec![Part::data(offset, length, slots)]);
        let prepared = self.disk.prepare(id, offset, length, Class::Journal).await?;
        apply(&self.disk, &change, &mut vec![prepared], 0);
        self.disk.destage_range(id, offset, length).await?;
        Ok(())
    }

    fn show_luns(&self, tables: &Tables, target: &TargetRecord) {
        let map = self.runtime().targets.entry(target.iqn.as_str().to_owned()).or_default().clone();
        let mut is_new = false;
        for lun in &target.luns {
            if map.get(lun.lun.0).is_some() {
                continue;
            }
            let (record, volume) =
                (tables.volumes.get(&lun.volume), self.runtime().volumes.get(&lun.volume.0).cloned());
            let (Some(record), Some(volume)) = (record, volume) else { continue };
            let Some(unit) = logical_unit(record, target.iqn.as_str(), tables.meta().number) else {
                continue;
            };
            let unit = Arc::new(LunUnit::new(unit, volume));
            unit.set_read_only_for(&lun.read_only_for);
            self.show_unit(tables, record, &unit); // Before anybody can find it.
            self.runtime().units.entry(lun.volume.0).or_default().push(unit.clone());
            map.insert(lun.lun.0, unit);
            is_new = true;
        }
        if is_new {
            map.tell_of_change();
        }
    }

    /// What hosts may do with each volume follows from its state.
    pub(crate) fn set_access(&self, tables: &Tables) {
        // First: a volume that is mapped no more may be one that its hosts must not reach as what it becomes now (decision 25).
        self.hide_luns(&self.store.tables());
        self.restrict_luns();
        let units = self.runtime().units.clone();
        for (number, units) in units {
            let Some(record) = tables.volumes.iter().find(|record| record.number.0 == number) else {
                continue;
            };
            for unit in units {
                self.show_unit(tables, record, &unit);
            }
        }
    }

    fn show_unit(&self, tables: &Tables, record: &VolumeRecord, unit: &LunUnit) {
        let is_written = self.is_written(tables, record.number) || self.goes_on_wrongly(record);
        let access = if is_written { Access::ReadWrite } else { access(tables, record) };
        let shared = tables.shared_volume(record.number).filter(|_| !is_written);
        super::identity::show(unit, record, shared, access);
    }
}

fn is_journal(record: &VolumeRecord) -> bool {
    matches!(record.usage, VolumeUsage::Journal(_))
}

/// Bytes of an atomic write that are written again at a time.
const AGAIN_BYTES: usize = 1 << 20;

fn access(tables: &Tables, record: &VolumeRecord) -> Access {
    match tables.host_access(record.number) {
        HostAccess::ReadWrite => Access::ReadWrite,
        HostAccess::ReadOnly => Access::ReadOnly,
        HostAccess::None if record.state == VolumeState::Abnormal => Access::Failed,
        HostAccess::None => Access::NoHostAccess,
    }
}

fn logical_unit(record: &VolumeRecord, target: &str, array: ArrayNumber) -> Option<LogicalUnit> {
    let block_size = if record.block_size_bytes == 4096 { BlockSize::B4096 } else { BlockSize::B512 };
    let identity = super::identity::identity(record, "VOLUME", target, array)?;
    let provisioning = if record.is_thin {
        Provisioning::Thin { unmap_granularity_blocks: 4096 / block_size.bytes() }
    } else {
        Provisioning::Full
    };
    let blocks = record.size_bytes / u64::from(block_size.bytes());
    let cache = match record.cache {
        CacheMode::WriteBack => CacheControl::Host(WriteCache::Back),
        CacheMode::WriteThrough => CacheControl::Array(WriteCache::Through),
    };
    let geometry = Geometry { block_size, blocks, provisioning, atomic: false };
    Some(LogicalUnit::new(identity, geometry, Access::ReadWrite, cache))
}

fn level(level: RaidLevel) -> anyhow::Result<Level> {
    match level {
        RaidLevel::Raid0 => Ok(Level::Raid0),
        RaidLevel::Raid5 => Ok(Level::Raid5),
        RaidLevel::Raid1 | RaidLevel::Raid10 | RaidLevel::Raid6 => {
            anyhow::bail!("{level} is not built yet: use raid0 or raid5")
        }
    }
}
