//! Images of what is compared: cut where the array knows that they are exactly one number, and hashed.

use super::super::Array;
use super::super::snapshots::Reserved;
use super::served::{Image, Served};
use crate::copy::compare::hash::{Hashed, Progress};
use crate::copy::group::Group;
use crate::copy::image::Newest;
use crate::disk::VolumeId;
use crate::volume::compare::CompareOptions;
use crate::volume::group::GroupRecord;
use crate::volume::name::{ArrayNumber, UpdateNumber, VolumeNumber};
use crate::volume::pair::{PairRecord, PairState};
use crate::volume::resync::TakeoverPoint;
use crate::volume::table::Tables;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Array {
    /// The trees of the volumes of an image.
    pub(super) async fn hash_image(
        &self,
        group: &Arc<Group>,
        volumes: &[VolumeId],
        options: CompareOptions,
        progress: &Arc<Progress>,
    ) -> Result<Vec<Hashed>, String> {
        let extents = volumes.iter().map(|volume| self.disk.laid_extents(*volume));
        let extents: u64 = extents.map(|count| count.map_or(0, u64::from)).sum();
        progress.total_bytes.store(extents << 20, Ordering::Relaxed);
        let hasher = self.hasher(group, options, progress);
        let mut all = Vec::with_capacity(volumes.len());
        for volume in volumes {
            all.push(hasher.volume(*volume).await.map_err(|error| error.to_string())?);
        }
        Ok(all)
    }

    pub(super) async fn cut_image(&self, served: &Served) -> Result<(Reserved<'_>, Image), String> {
        let _one_at_a_time = self.images.lock().await;
        let tables = self.store.tables();
        let record = tables.groups.get(&served.group).ok_or("the group is gone")?;
        can_be_compared(&tables, record, served.peer, &served.volumes)?;
        let group = self.open_group_of(served.group).ok_or("the group is not open")?;
        for volume in &served.volumes {
            let is_roomy = self.disk.has_extents_to_spare(VolumeId(volume.0));
            if !is_roomy.map_err(|error| error.to_string())? {
                return Err(
                    "the parity group has hardly any room left: an image would make hosts wait".into()
                );
            }
        }
        let open: Option<Vec<_>> = {
            let runtime = self.runtime();
            served.volumes.iter().map(|volume| runtime.volumes.get(&volume.0).cloned()).collect()
        };
        let open = open.ok_or("a volume is not open")?;
        let reserved = self.reserve(&served.volumes).map_err(|error| error.to_string())?;
        let wanted = reserved.wanted(&served.volumes);
        let stand_still = || open.iter().map(|volume| volume.alone()).collect::<Vec<_>>();
        let look = |newest| {
            let tables = self.store.tables();
            let record = tables.groups.get(&served.group).ok_or("the group is gone")?;
            source_moment(&tables, record, served.peer, &served.volumes, newest)
        };
        let number =
            group.snapshot(&wanted, stand_still, look).await.map_err(|error| error.to_string())??;
        let volumes = wanted.iter().map(|one| one.snapshot).collect();
        Ok((reserved, Image { number, volumes }))
    }
}

/// Whether these P-VOLs have copies at that array that are images of their group.
pub(super) fn can_be_compared(
    tables: &Tables,
    record: &GroupRecord,
    peer: ArrayNumber,
    volumes: &[VolumeNumber],
) -> Result<(), String> {
    if record.takeover.as_ref().is_some_and(|takeover| takeover.shuts_hosts_out()) {
        return Err("the group has been taken over".to_owned());
    }
    for volume in volumes {
        let is_it = |pair: &&PairRecord| pair.auxiliary.array == peer && pair.primary.volume == Some(*volume);
        let pair = tables.served_pairs(record.number).find(is_it);
        let pair = pair.ok_or_else(|| format!("volume {volume} has no pair with array {peer}"))?;
        if pair.state != PairState::Normal || pair.control.asked.is_some() {
            return Err(format!("pair {} is {}", pair.name, pair.state));
        }
    }
    Ok(())
}

/// The number that an image of these volumes is of, which was cut at this moment.
fn source_moment(
    tables: &Tables,
    record: &GroupRecord,
    peer: ArrayNumber,
    volumes: &[VolumeNumber],
    newest: Newest,
) -> Result<UpdateNumber, String> {
    newest.whole?;
    can_be_compared(tables, record, peer, volumes)?;
    let number = UpdateNumber(newest.number.get());
    if tables.followed_pairs(record.number).next().is_some() {
        is_image_of(tables, record, number)?;
    }
    Ok(number)
}

/// Whether the S-VOLs of a group here are the image of exactly this number.
pub(super) fn is_image_of(tables: &Tables, record: &GroupRecord, number: UpdateNumber) -> Result<(), String> {
    let is_other = |pair: &&PairRecord| {
        pair.state != PairState::Normal || pair.control.svol_write || pair.control.is_written
    };
    if let Some(pair) = tables.followed_pairs(record.number).find(is_other) {
        return Err(format!("pair {} is {}, or hosts may have written its S-VOL", pair.name, pair.state));
    }
    match tables.takeover_point(record.number, Some(number))? {
        TakeoverPoint::Volumes(found) if found == number => Ok(()),
        point => Err(format!("the S-VOLs are as of update {}", point.number())),
    }
}
