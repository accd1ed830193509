//! Images of what is compared: cut where the array knows that they are exactly one number, and hashed.

use super::super::Array;
use super::super::snapshots::Reserved;
use super::served::{Basis, Image, Served};
use crate::copy::CopyError;
use crate::copy::compare::hash::{Hashed, Progress};
use crate::copy::group::Group;
use crate::copy::image::Newest;
use crate::disk::VolumeId;
use crate::volume::compare::CompareOptions;
use crate::volume::group::{Generation, GroupRecord, GroupRole};
use crate::volume::name::{ArrayNumber, GroupNumber, UpdateNumber, VolumeNumber};
use crate::volume::pair::{PairRecord, PairState};
use crate::volume::resync::TakeoverPoint;
use crate::volume::table::Tables;
use holdfast_journal::UpdateNumber as JournalNumber;
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
        // Of images before it nothing counts.
        progress.done_bytes.store(0, Ordering::Relaxed);
        progress.read_bytes.store(0, Ordering::Relaxed);
        let hasher = self.hasher(group, options, progress);
        let mut all = Vec::with_capacity(volumes.len());
        for volume in volumes {
            all.push(hasher.volume(*volume).await.map_err(|error| error.to_string())?);
        }
        Ok(all)
    }

    /// Whether images of these volumes may go on to take room.
    pub(super) fn is_roomy(&self, volumes: &[VolumeNumber]) -> bool {
        volumes.iter().all(|volume| self.disk.has_extents_to_spare(VolumeId(volume.0)).unwrap_or(false))
    }

    /// An image of what is restored now, or at a primary of what hosts have written; or `at` just this number.
    pub(super) async fn cut_image(
        &self,
        served: &Served,
        at: Option<UpdateNumber>,
    ) -> Result<(Reserved<'_>, Image), String> {
        let _one_at_a_time = self.images.lock().await;
        let tables = self.store.tables();
        let record = tables.groups.get(&served.group).ok_or("the group is gone")?;
        served.check(&tables, record)?;
        let group = self.open_group_of(served.group).ok_or("the group is not open")?;
        for volume in &served.here {
            let is_roomy = self.disk.has_extents_to_spare(VolumeId(volume.0));
            if !is_roomy.map_err(|error| error.to_string())? {
                return Err(
                    "the parity group has hardly any room left: an image would make hosts wait".into()
                );
            }
        }
        let open: Option<Vec<_>> = {
            let runtime = self.runtime();
            served.here.iter().map(|volume| runtime.volumes.get(&volume.0).cloned()).collect()
        };
        let open = open.ok_or("a volume is not open")?;
        let reserved = self.reserve(&served.here).map_err(|error| error.to_string())?;
        let wanted = reserved.wanted(&served.here);
        let stand_still = || open.iter().map(|volume| volume.alone()).collect::<Vec<_>>();
        let look = |newest| {
            let tables = self.store.tables();
            let record = tables.groups.get(&served.group).ok_or("the group is gone")?;
            served.moment(&tables, record, newest)
        };
        let failed = |error: CopyError| error.to_string();
        let (number, generation) = match at {
            None => group.snapshot(&wanted, stand_still, look).await.map_err(failed)??,
            Some(at) => {
                let made =
                    group.snapshot_at(JournalNumber::new(at.0), &wanted, look).await.map_err(failed)?;
                made.ok_or("restore has gone past the number at which the image was to be cut")??
            }
        };
        let volumes = wanted.iter().map(|one| one.snapshot).collect();
        Ok((reserved, Image { number, generation, volumes }))
    }
}

impl Served {
    /// Whether these volumes can still be compared.
    fn check(&self, tables: &Tables, record: &GroupRecord) -> Result<(), String> {
        let here = volumes_here(tables, record, (self.peer, self.basis), &self.volumes)?;
        if here != self.here {
            return Err("the pairs have been made anew".to_owned());
        }
        Ok(())
    }

    /// The number, with its generation, that an image of them is of, which was cut at this moment.
    fn moment(
        &self,
        tables: &Tables,
        record: &GroupRecord,
        newest: Newest,
    ) -> Result<(UpdateNumber, Generation), String> {
        newest.whole?;
        self.check(tables, record)?;
        let number = UpdateNumber(newest.number.get());
        if tables.followed_pairs(record.number).next().is_some() {
            is_image_of(tables, record, number)?;
        }
        let generation = generation_of(&record.generations, number).ok_or("nothing has been written yet")?;
        Ok((number, generation))
    }
}

/// The volumes here that a peer names so, if it may compare them and they are images of their group.
pub(super) fn volumes_here(
    tables: &Tables,
    record: &GroupRecord,
    (peer, basis): (ArrayNumber, Basis),
    volumes: &[VolumeNumber],
) -> Result<Vec<VolumeNumber>, String> {
    match basis {
        Basis::Source => pvols_here(tables, record, peer, volumes),
        Basis::Copies(source, group) => svols_here(tables, record, (peer, source, group), volumes),
    }
}

/// Whether these P-VOLs have copies at that array that are images of their group.
fn pvols_here(
    tables: &Tables,
    record: &GroupRecord,
    peer: ArrayNumber,
    volumes: &[VolumeNumber],
) -> Result<Vec<VolumeNumber>, String> {
    if record.takeover.as_ref().is_some_and(|takeover| takeover.shuts_hosts_out()) {
        return Err("the group has been taken over".to_owned());
    }
    for volume in volumes {
        let is_it = |pair: &&PairRecord| pair.auxiliary.array == peer && pair.primary.volume == Some(*volume);
        let pair = tables.served_pairs(record.number).find(is_it);
        let pair = pair.ok_or_else(|| format!("volume {volume} has no pair with array {peer}"))?;
        is_settled(pair)?;
    }
    Ok(volumes.to_vec())
}

/// The copies here of these volumes of `source`, which the array that asks copies too. It need be no reader of this one, but has to be
/// linked: it hears digests, and what is restored here is held for as long as a cut takes.
fn svols_here(
    tables: &Tables,
    record: &GroupRecord,
    (peer, source, group): (ArrayNumber, ArrayNumber, GroupNumber),
    volumes: &[VolumeNumber],
) -> Result<Vec<VolumeNumber>, String> {
    if tables.link_to(peer).is_none() {
        return Err(format!("it has no link to array {peer}"));
    }
    let GroupRole::Auxiliary { source: own, remote, .. } = record.role else {
        return Err(format!("group {} is no copy there", record.name));
    };
    // Numbers of volumes are those of the array that is copied.
    if (own, remote) != (source, Some(group)) {
        return Err(format!(
            "group {} is copied there from array {own}, and not, as here, from array {source}: compare each with the array \
             from which it is copied",
            record.name
        ));
    }
    let mut here = Vec::with_capacity(volumes.len());
    for volume in volumes {
        let is_it = |pair: &&PairRecord| (pair.primary.array, pair.primary.volume) == (source, Some(*volume));
        let pair = tables.followed_pairs(record.number).find(is_it);
        let pair = pair.ok_or_else(|| {
            format!(
                "it has no copy of volume {volume} of array {source}: say it at the array that copies fewer"
            )
        })?;
        is_settled(pair)?;
        here.push(pair.auxiliary.volume.ok_or_else(|| format!("pair {} is not complete", pair.name))?);
    }
    Ok(here)
}

fn is_settled(pair: &PairRecord) -> Result<(), String> {
    if pair.state != PairState::Normal || pair.control.asked.is_some() {
        return Err(format!("pair {} is {}", pair.name, pair.state));
    }
    Ok(())
}

/// The generation to which a number belongs.
pub(super) fn generation_of(generations: &[Generation], number: UpdateNumber) -> Option<Generation> {
    generations.iter().rev().find(|one| one.first <= number).copied()
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
