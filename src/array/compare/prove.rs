//! `group proof --of`: the roots of a snapshot of a group, found by this array alone and sealed among the results of comparisons.
//!
//! What it guarantees: the roots are those of the snapshot, which nobody writes, and the number and generation those of which it is an image. So
//! for every number that an array can make a snapshot of (`group rewind` makes them of any that a copy still has) it says what
//! it has, and whoever has the same of another array compares the two (`verify-proof --with`). It makes nothing but the result, and ends with
//! who waits for it.

use super::super::Array;
use super::image::generation_of;
use crate::copy::compare::hash::Progress;
use crate::disk::VolumeId;
use crate::volume::compare::{Between, CompareOptions, CompareOutcome, Compared, Digest, VOLUMES_MAX};
use crate::volume::designation::Refusal;
use crate::volume::group::{Generation, GroupRecord};
use crate::volume::name::{GroupName, SnapshotName, UpdateNumber, VolumeName, VolumeNumber};
use crate::volume::proof::{VolumeRoots, last_seal};
use crate::volume::record::Who;
use crate::volume::snapshot::{SnapshotHosts, SnapshotOf, SnapshotRecord};
use crate::volume::table::Tables;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Array {
    /// Finds and seals the roots of a snapshot.
    ///
    /// # Errors
    /// It is no image of one update that stays, or cannot be read, or is another one than it was.
    pub(in crate::array) async fn prove(
        &self,
        group: &GroupName,
        (of, is_full): (&SnapshotName, bool),
        who: &Who,
    ) -> Result<(), Refusal> {
        let Ok(_one_at_a_time) = self.compares.proving.try_lock() else {
            return Err(Refusal::conflict("the roots of another snapshot are being found"));
        };
        let began_unix_ns = self.env.clock.wall().0;
        let tables = self.store.tables();
        let row = tables.group_named(group).ok_or_else(|| Refusal::missing("group", group))?;
        let snapshot = tables.snapshots.iter().find(|one| one.name == *of);
        let snapshot = snapshot.ok_or_else(|| Refusal::missing("snapshot", of))?;
        let (number, generation) = moment_of(row, snapshot).map_err(Refusal::Conflict)?;
        let open = self.open_group_of(row.number);
        let open = open.ok_or_else(|| Refusal::Conflict(format!("group {group} is not open")))?;
        let options = CompareOptions { is_full, ..CompareOptions::default() };
        let volumes: Vec<VolumeId> = snapshot.volumes.iter().map(|one| VolumeId(one.volume.0)).collect();
        let progress = Arc::new(Progress::default());
        let hashed = self.hash_image(&open, &volumes, options, &progress).await.map_err(Refusal::Conflict)?;
        let mut roots = Vec::with_capacity(hashed.len());
        for (one, hashed) in snapshot.volumes.iter().zip(&hashed) {
            if let Some(extent) = hashed.rotten.first() {
                return Err(Refusal::Conflict(format!(
                    "volume {} is not what it was when it was read before, at MiB {extent}: compare it (`group compare --full`)",
                    one.of_name
                )));
            }
            let (svol, root) = (one.of_name.clone(), hashed.tree.root());
            let pvol = name_above(&tables, row, one.of).unwrap_or_else(|| svol.clone());
            roots.push(VolumeRoots { pvol, svol, source: root, copy: root });
        }
        let own = self.config.array.number;
        let result = Compared {
            id: self.new_identity(),
            between: Between::Snapshot,
            source: own,
            copy: own,
            number: Some(number),
            generation: Some(generation),
            began_unix_ns,
            ended_unix_ns: self.env.clock.wall().0,
            options,
            compared_bytes: progress.done_bytes.load(Ordering::Relaxed),
            read_bytes: progress.read_bytes.load(Ordering::Relaxed),
            source_read_bytes: 0,
            outcome: CompareOutcome::Equal,
            different_bytes: 0,
            ranges: Vec::new(),
            repaired_bytes: 0,
            previous: Digest::ZERO,
            roots_digest: Digest::ZERO,
            roots: Vec::new(),
            seal: Digest::ZERO,
        };
        let previous = self.store.read(|tables| {
            let all = tables.groups.get(&row.number).map(|row| row.compared.as_slice());
            last_seal(all.unwrap_or_default(), &result)
        });
        self.store.change(who, format!("group proof {group} --of {of}"), |_| Ok(()))?;
        self.keep_compared(row.number, result.sealed(previous, roots))
    }
}

/// Of which update a snapshot of a group is, for good.
fn moment_of(row: &GroupRecord, snapshot: &SnapshotRecord) -> Result<(UpdateNumber, Generation), String> {
    let name = &snapshot.name;
    if snapshot.of != SnapshotOf::Group(row.name.clone()) {
        return Err(format!("snapshot {name} is not of group {}", row.name));
    }
    if snapshot.hosts != SnapshotHosts::ReadOnly {
        return Err(format!("hosts may write snapshot {name}"));
    }
    let number = snapshot.update_number().filter(|_| snapshot.branch.is_none());
    let number = number.ok_or_else(|| format!("snapshot {name} is the image of no update of the group"))?;
    if snapshot.volumes.is_empty() || snapshot.volumes.len() > VOLUMES_MAX {
        return Err(format!(
            "it has {} volumes, and 1 to {VOLUMES_MAX} are possible",
            snapshot.volumes.len()
        ));
    }
    let generation = match &snapshot.base {
        Some(base) => base.generation,
        None => generation_of(&row.generations, number),
    };
    let generation = generation.ok_or("nothing had been written yet")?;
    Ok((number, generation))
}

/// What the array above calls the volume of which this is the copy.
fn name_above(tables: &Tables, row: &GroupRecord, volume: VolumeNumber) -> Option<VolumeName> {
    tables.pair_above(row.number, volume)?.primary.name.clone()
}
