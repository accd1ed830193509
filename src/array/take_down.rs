//! What the store names no more: LUNs, targets, links and volumes that were deleted while the array runs.
//!
//! A volume goes in two steps. The designation takes it out of the volume information and puts it among the *doomed*,
//! in one transaction; here its extents are given back, and only then is it forgotten. A crash in between is finished
//! by the next start. Nothing else frees extents. A snapshot goes the other way at its beginning: its numbers are doomed before
//! it is made, and it is named by lifting that (`snapshots.rs`).

use super::Array;
use super::peer_session::peer_name;
use crate::disk::{VolumeError, VolumeId};
use crate::volume::record::DoomedRecord;
use crate::volume::table::Tables;
use holdfast_iscsi::name::IscsiName;
use std::sync::{Arc, PoisonError};

impl Array {
    pub(super) async fn take_down(self: &Arc<Self>, tables: &Tables) {
        self.hide_luns(tables);
        self.end_targets(tables).await;
        self.end_peers(tables).await;
        self.release_given_up();
        let now = tables.meta().incarnation;
        for doomed in tables.doomed.iter().filter(|doomed| doomed.reserved_in != Some(now)) {
            if let Err(error) = self.give_back(tables, doomed).await {
                tracing::error!(volume = doomed.number.0, %error, "the extents of a deleted volume cannot be given back yet");
            }
        }
    }

    /// LUNs that are mapped no more, or to another volume.
    pub(super) fn hide_luns(&self, tables: &Tables) {
        let mut runtime = self.runtime();
        let mut hidden = Vec::new();
        for (name, map) in &runtime.targets {
            let record = tables.targets.iter().find(|target| target.iqn.as_str() == name);
            let is_shown = |lun: u16, volume: u32| {
                let luns = record.map(|record| record.luns.as_slice()).unwrap_or_default();
                luns.iter().any(|entry| entry.lun.0 == lun && entry.volume.0 == volume)
            };
            let before = hidden.len();
            for (lun, unit) in map.all() {
                if !is_shown(lun, unit.volume.number) {
                    tracing::info!(target_name = %name, lun, "hosts are shown this LUN no more");
                    map.remove(lun);
                    hidden.push(unit);
                }
            }
            if hidden.len() > before {
                map.tell_of_change();
            }
        }
        for units in runtime.units.values_mut() {
            units.retain(|unit| !hidden.iter().any(|gone| Arc::ptr_eq(gone, unit)));
        }
        runtime.units.retain(|_, units| !units.is_empty());
    }

    /// Who may only read the LUNs that are shown.
    pub(super) fn restrict_luns(&self) {
        let _one_at_a_time = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let tables = self.store.tables();
        let targets = self.runtime().targets.clone();
        for target in tables.targets.iter() {
            let Some(map) = targets.get(target.iqn.as_str()) else { continue };
            for entry in &target.luns {
                // Another volume under that number is not shown any more, or not yet.
                if let Some(unit) = map.get(entry.lun.0).filter(|unit| unit.volume.number == entry.volume.0) {
                    unit.set_read_only_for(&entry.read_only_for);
                }
            }
        }
    }

    /// Targets that are there no more: whoever logged in at the last moment is logged out.
    async fn end_targets(&self, tables: &Tables) {
        let gone: Vec<String> = {
            let mut runtime = self.runtime();
            let is_there = |name: &String| tables.targets.iter().any(|target| target.iqn.as_str() == name);
            let gone = runtime.targets.keys().filter(|name| !is_there(name)).cloned().collect::<Vec<_>>();
            gone.iter().for_each(|name| {
                runtime.targets.remove(name);
            });
            gone
        };
        for name in gone {
            if let Some(name) = IscsiName::parse(&name) {
                self.sessions.drop_all(Some(&name)).await;
            }
        }
    }

    /// Sessions of arrays that no link leads to any more.
    async fn end_peers(&self, tables: &Tables) {
        let own = peer_name(self.config.array.name.as_str());
        let is_linked =
            |initiator: &str| tables.links.iter().any(|link| peer_name(link.name.as_str()) == initiator);
        for session in self.sessions.list() {
            if session.target.as_str() == own && !is_linked(session.initiator.as_str()) {
                self.sessions.drop_session(session.session).await;
            }
        }
    }

    async fn give_back(&self, tables: &Tables, doomed: &DoomedRecord) -> anyhow::Result<()> {
        let number = doomed.number.0;
        {
            let mut runtime = self.runtime();
            runtime.volumes.remove(&number);
            runtime.volume_trouble.remove(&number);
        }
        let group = doomed.parity_group.filter(|group| tables.parity_groups.get(group).is_some());
        let is_open =
            group.is_none_or(|group| matches!(self.runtime().parity_groups.get(&group.0), Some(Ok(_))));
        if !is_open {
            return Ok(()); // The map is read when its parity group opens; until then the row waits.
        }
        // Asked of it even if it is not known: a snapshot that is given up may come to exist until then.
        match self.disk.delete_volume(VolumeId(number)).await {
            Ok(()) | Err(VolumeError::Unknown { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        self.store.checkpoint(|tables| {
            tables.doomed.remove(&doomed.number);
        })?;
        Ok(())
    }
}
