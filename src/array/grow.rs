//! Volumes that grow, carried out step by step by the owner task (decision 18): the units first, then what marks and
//! copies know of the size, then the control store, then the sessions of hosts. Each step may be done once more.

use super::Array;
use crate::copy::image::image_of;
use crate::disk::VolumeId;
use crate::volume::name::GroupNumber;
use crate::volume::record::{Growth, VolumeRecord, VolumeUsage, Who};
use crate::volume::table::Tables;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl Array {
    /// Takes every growth as far as it can go now, and shows hosts what has become larger.
    pub(crate) async fn grow_volumes(self: &Arc<Self>) {
        let tables = self.store.tables();
        let growing = tables.volumes.iter().filter(|record| !matches!(record.usage, VolumeUsage::Journal(_)));
        for record in growing {
            let Some(growth) = &record.growth else { continue };
            if growth.has_room && !tables.grows_alone(record.number) {
                continue; // Its primary says when.
            }
            if let Err(why) = self.grow_volume(&tables, record, growth).await {
                self.growth_waits(record, growth, &why);
            }
        }
        self.show_sizes();
    }

    async fn grow_volume(
        &self,
        tables: &Tables,
        record: &VolumeRecord,
        growth: &Growth,
    ) -> Result<(), String> {
        let (number, to_bytes) = (record.number, growth.to_bytes);
        if let Some(why) = tables.growth_waits_for(number, to_bytes) {
            return Err(why);
        }
        // No image is kept, dropped or gone back to meanwhile: it has the size of its volume.
        let _no_image_changes = self.images.lock().await;
        let known: BTreeSet<VolumeId> = self.disk.volumes().into_iter().map(|spec| spec.id).collect();
        let volume = VolumeId(number.0);
        let ids: Vec<VolumeId> =
            [volume, image_of(volume)].into_iter().filter(|id| known.contains(id)).collect();
        if !ids.contains(&volume) {
            return Err("it is not open".to_owned());
        }
        self.disk.grow_volumes(&ids, to_bytes).await.map_err(|error| error.to_string())?;
        // By their own numbers: in the middle of a cascade a group knows the volume by the one that it has at the first array.
        let mut pairs: BTreeMap<GroupNumber, BTreeSet<u32>> = BTreeMap::new();
        for pair in tables.pairs_of_volume(number) {
            pairs.entry(pair.group).or_default().insert(pair.number.0);
        }
        for (group, pairs) in pairs {
            let group = self.runtime().groups.get(&group.0).cloned();
            if let Some(group) = group {
                group.grow_pairs(&pairs, to_bytes)?;
            }
        }
        let what = format!("volume {}: room for {to_bytes} bytes", record.name);
        let recorded = self
            .store
            .change(&Who::Array, what, |tables| tables.room_was_made(number, &mut || self.new_identity()));
        recorded.map_err(|error| error.to_string())?;
        self.wake();
        Ok(())
    }

    fn growth_waits(&self, record: &VolumeRecord, growth: &Growth, why: &str) {
        if growth.reason.as_deref() == Some(why) {
            return;
        }
        tracing::info!(volume = %record.name, %why, "does not grow yet");
        let recorded = self.store.checkpoint(|tables| tables.growth_waits(record.number, why));
        if let Err(error) = recorded {
            tracing::error!(volume = %record.name, %error, "why it does not grow cannot be recorded");
        }
    }

    /// Hosts see the sizes that the control store says; whoever is logged in is told.
    fn show_sizes(&self) {
        let tables = self.store.tables();
        let (volumes, units) = {
            let runtime = self.runtime();
            (runtime.volumes.clone(), runtime.units.clone())
        };
        for record in tables.volumes.iter() {
            let Some(volume) = volumes.get(&record.number.0) else { continue };
            if volume.capacity_bytes() < record.size_bytes {
                volume.grow(record.size_bytes);
                for unit in units.get(&record.number.0).into_iter().flatten() {
                    unit.resize(record.size_bytes);
                }
            }
        }
    }

    /// Whether a volume grows, and may have to be tried again.
    pub(crate) fn is_growing(&self) -> bool {
        self.store.read(|tables| tables.volumes.iter().any(|volume| volume.growth.is_some()))
    }
}
