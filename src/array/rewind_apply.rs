//! S-VOLs that hosts write become what a snapshot of them is (promise O9, decision 27).
//!
//! Nothing else follows them then: they are suspended, out of restore, and open to hosts. In this order, whoever dies in between:
//! 1. it is designated, durably;
//! 2. hosts are shut out, of reads too; and of writing the snapshot: what is marked is what it holds until 4, of one moment;
//! 3. what may differ is marked, durably, like what hosts write;
//! 4. the S-VOLs get the extents of the snapshot, those of a parity group in one commit;
//! 5. that is recorded, and hosts are let in again.
//!
//! A start between 1 and 5 does 2 to 5 before it lets a host into the S-VOLs, so nobody sees some as they were and others as they are to be. The
//! snapshot stays what it is. Where hosts may write it, what they did before 2 belongs to it, and what fails between 2 and 5 begins anew
//! with 2.

use super::Array;
use super::groups::own_volume;
use crate::copy::marked::SvolMarks;
use crate::disk::{DiskAdapter, Snapshot, VolumeId};
use crate::io::volume::{Volume, VolumeRole};
use crate::volume::group::GroupRecord;
use crate::volume::pair::PairRecord;
use crate::volume::record::Who;
use crate::volume::table::Tables;
use std::sync::Arc;

/// One S-VOL on its way.
struct Going {
    volume: Arc<Volume>,
    marks: Arc<SvolMarks>,
    /// What it becomes, and what its hosts may do with that otherwise.
    snapshot: Arc<Volume>,
    snapshot_role: VolumeRole,
    wanted: Snapshot,
    size_bytes: u64,
}

impl Array {
    /// Takes S-VOLs where they were told to go. What fails is tried again.
    pub(super) async fn apply_rewinds(&self) {
        let tables = self.store.tables();
        for record in tables.groups.iter().filter(|record| record.rewinding.is_some()) {
            let Err(error) = self.apply_rewind(record).await else { continue };
            tracing::error!(group = %record.name, %error, "its S-VOLs cannot become what they are to be yet");
            let reason = format!("on the way to a snapshot of group {}: {error}", record.name);
            let mut runtime = self.runtime();
            for svol in tables.svols(record.number) {
                runtime.volume_trouble.insert(svol.0, reason.clone());
            }
        }
    }

    async fn apply_rewind(&self, record: &GroupRecord) -> anyhow::Result<()> {
        // Nobody closes them meanwhile, and no volume grows.
        let _one_at_a_time = self.images.lock().await;
        let tables = self.store.tables();
        let all: Vec<Going> = tables
            .followed_pairs(record.number)
            .map(|pair| self.going(&tables, record, pair))
            .collect::<Result<_, _>>()?;
        all.iter().for_each(|one| one.volume.set_role(VolumeRole::Waiting));
        all.iter().for_each(|one| one.snapshot.set_role(VolumeRole::Copy));
        let arrived = self.become_snapshot(record, &all).await;
        all.iter().for_each(|one| one.snapshot.set_role(one.snapshot_role.clone()));
        arrived?;
        all.into_iter().for_each(|one| one.volume.set_role(VolumeRole::Marked(one.marks)));
        self.changed().notify_waiters();
        Ok(())
    }

    async fn become_snapshot(&self, record: &GroupRecord, all: &[Going]) -> anyhow::Result<()> {
        for Going { marks, wanted, size_bytes, .. } in all {
            for volume in [wanted.volume, wanted.snapshot] {
                let runs = written_runs(&self.disk, volume, *size_bytes)?;
                marks.mark_runs(&runs).await.map_err(anyhow::Error::msg)?;
            }
        }
        let wanted: Vec<Snapshot> = all.iter().map(|one| one.wanted).collect();
        self.disk.restore_snapshots(&wanted).await?;
        let what = format!("group {}: its S-VOLs are what the snapshot is", record.name);
        self.store.change(&Who::Array, what, |tables| {
            tables.rewound(record.number);
            Ok(())
        })?;
        Ok(())
    }

    fn going(&self, tables: &Tables, record: &GroupRecord, pair: &PairRecord) -> anyhow::Result<Going> {
        let svol = own_volume(tables, pair)
            .ok_or_else(|| anyhow::anyhow!("pair {} has no volume here", pair.name))?;
        let image = record.rewinding.and_then(|number| tables.snapshots.get(&number));
        let image = image.and_then(|row| row.volumes.iter().find(|one| one.of.0 == svol));
        let image = image.ok_or_else(|| anyhow::anyhow!("the snapshot has nothing of pair {}", pair.name))?;
        let runtime = self.runtime();
        let open = runtime.volumes.get(&svol).zip(runtime.written.get(&pair.number.0));
        let (volume, marks) =
            open.ok_or_else(|| anyhow::anyhow!("the S-VOL of pair {} is not open yet", pair.name))?;
        let snapshot = runtime.volumes.get(&image.volume.0).cloned();
        let snapshot = snapshot
            .ok_or_else(|| anyhow::anyhow!("the snapshot of the S-VOL of pair {} is not open", pair.name))?;
        let quota = runtime.quotas.get(&image.volume.0);
        let snapshot_role = quota.map_or(VolumeRole::Plain, |quota| VolumeRole::Metered(quota.clone()));
        let wanted = Snapshot { volume: VolumeId(svol), snapshot: VolumeId(image.volume.0) };
        let (volume, marks) = (volume.clone(), marks.clone());
        Ok(Going { volume, marks, snapshot, snapshot_role, wanted, size_bytes: pair.size_bytes })
    }
}

/// Where a volume holds anything, in whole extents that adjoin each other in one run.
fn written_runs(disk: &DiskAdapter, volume: VolumeId, size_bytes: u64) -> anyhow::Result<Vec<(u64, u64)>> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    let mut at = 0;
    while at < size_bytes
        && let Some(run) = disk.mapped(volume, at)?
    {
        let start = run.start / EXTENT_BYTES * EXTENT_BYTES;
        let end = run.end.next_multiple_of(EXTENT_BYTES).min(size_bytes);
        match runs.last_mut() {
            Some((first, length)) if *first + *length >= start => *length = end - *first,
            _ => runs.push((start, end - start)),
        }
        at = end;
    }
    Ok(runs)
}

/// Extents are shared whole.
const EXTENT_BYTES: u64 = 1 << 20;
