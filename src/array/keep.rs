//! Images of S-VOLs that are made on a schedule and deleted when their time or the room for them is over (`volume/keep.rs`).
//!
//! One task looks after all groups, every [`LOOK_EVERY`]. An image is an ordinary read-only snapshot of the group; the transaction that names it
//! says what follows on it, so a start knows how far back the journal is kept before it lets anything of it go. Between the cut and that
//! transaction a hold keeps the updates behind it. A crash in between leaves doomed numbers and a journal that begins later.

use super::Array;
use super::rewind::{is_of_generation, oldest_reachable};
use crate::copy::group::Group;
use crate::disk::cache::AdapterUsage;
use crate::shell::view::WindowView;
use crate::volume::designation::{Designation, DesignationId, NewSnapshot, Refusal};
use crate::volume::group::{GroupRecord, GroupRole};
use crate::volume::keep::{IMAGES_MAX, KeepImages};
use crate::volume::name::{BadName, SnapshotName, VolumeNumber};
use crate::volume::record::Who;
use crate::volume::resync::TakeoverPoint;
use crate::volume::snapshot::{Moment, SnapshotAt, SnapshotHosts, SnapshotOf, SnapshotRecord};
use crate::volume::table::Tables;
use holdfast_journal::UpdateNumber;
use std::sync::Arc;
use std::time::Duration;

impl Array {
    /// Looks after the images of all groups; ends with the array.
    pub(super) async fn look_after_images(self: Arc<Self>) {
        loop {
            self.env.clock.sleep(LOOK_EVERY).await;
            let tables = self.store.tables();
            for record in tables.groups.iter() {
                if record.keep_images.is_some() || !tables.scheduled_images(record.number).is_empty() {
                    self.look_after(record).await;
                }
            }
            self.delete_orphans(&tables);
        }
    }

    /// Images of groups that are gone.
    fn delete_orphans(&self, tables: &Tables) {
        let is_orphan = |image: &&SnapshotRecord| {
            let base = image.base.as_ref().filter(|base| base.is_scheduled);
            base.is_some_and(|base| tables.groups.get(&base.group).is_none())
        };
        tables.snapshots.iter().filter(is_orphan).for_each(|image| self.delete_image(image));
    }

    fn delete_image(&self, image: &SnapshotRecord) {
        let what = Designation::DeleteSnapshot { snapshot: image.name.clone() };
        match self.store.designate(DesignationId(self.new_identity()), &what, &Who::Array) {
            Ok(_) => self.wake(),
            // Hosts are shown it.
            Err(refusal) => tracing::debug!(image = %image.name, %refusal, "an image is kept for longer"),
        }
    }

    async fn look_after(&self, record: &GroupRecord) {
        self.delete_over(record);
        let group = self.runtime().groups.get(&record.number.0).cloned();
        let Some(group) = group else { return };
        if let Some(keep) = record.keep_images
            && self.is_due(record, &group, keep)
            && let Err(refusal) = self.keep_one(record, &group).await
        {
            tracing::warn!(group = %record.name, %refusal, "no image is kept for rewinds now");
        }
        self.retain_journal(&group, record);
    }

    /// Says to the journal from where on it is kept.
    pub(super) fn retain_journal(&self, group: &Group, record: &GroupRecord) {
        let numbers = self.store.read(|tables| tables.retained_images(record.number));
        group.retain_for(numbers.into_iter().map(|number| UpdateNumber::new(number.0)).collect());
    }

    /// Whether an image is to be made: the newest one is old enough, or of a time that has not come, and something was restored since.
    fn is_due(&self, record: &GroupRecord, group: &Group, keep: KeepImages) -> bool {
        if !matches!(record.role, GroupRole::Auxiliary { .. }) || record.reversal.is_some() {
            return false;
        }
        let Some(restored) = group.whole_number() else { return false };
        let tables = self.store.tables();
        let bases = tables.bases(record.number, &tables.svols(record.number));
        let is_there = bases.iter().any(|(number, row)| {
            let is_scheduled = row.base.as_ref().is_some_and(|base| base.is_scheduled);
            is_scheduled && number.0 == restored.get() && is_of_generation(row, group)
        });
        let point = self.takeover_point_of(&tables, record.number);
        let usage = self.disk.usage();
        let is_crowded = |number: &VolumeNumber| is_crowded(&tables, &usage, *number);
        if tables.svols(record.number).iter().any(is_crowded) {
            return false;
        }
        if is_there || !matches!(point, Ok(TakeoverPoint::Volumes(_))) {
            return false;
        }
        let now_ns = self.env.clock.wall().0;
        let images = tables.scheduled_images(record.number);
        images.last().is_none_or(|newest| match now_ns.checked_sub(newest.made_unix_ns) {
            Some(age_ns) => Duration::from_nanos(age_ns) >= keep.every,
            None => true,
        })
    }

    async fn keep_one(&self, record: &GroupRecord, group: &Arc<Group>) -> Result<(), Refusal> {
        let name = format!("k{}-{}", record.number, self.env.clock.wall().0 / 1_000_000);
        let name = name.parse::<SnapshotName>();
        let name = name.map_err(|bad: BadName| Refusal::Conflict(bad.to_string()))?;
        let of = SnapshotOf::Group(record.name.clone());
        let mut new =
            NewSnapshot { name, of, hosts: SnapshotHosts::ReadOnly, at: SnapshotAt::Now, made: None };
        let _held = group.hold();
        let (mut made, reserved) = self.made_in_time(&new, self.make_snapshot(&new)).await?;
        let Some(base) = made.base.as_mut().filter(|_| matches!(made.moment, Moment::Update(_))) else {
            return Ok(()); // They have just become none.
        };
        base.is_scheduled = true;
        new.made = Some(made);
        let id = DesignationId(self.new_identity());
        self.store.designate(id, &Designation::CreateSnapshot(Box::new(new)), &Who::Array)?;
        reserved.keep();
        self.retain_journal(group, record);
        self.wake();
        Ok(())
    }

    /// Deletes images whose time is over, and the oldest while they take too much.
    fn delete_over(&self, record: &GroupRecord) {
        let tables = self.store.tables();
        let images = tables.scheduled_images(record.number);
        let over = self.over(&tables, record, &images);
        images.into_iter().take(over).for_each(|image| self.delete_image(image));
    }

    /// How many of the oldest images are to go.
    fn over(&self, tables: &Tables, record: &GroupRecord, images: &[&SnapshotRecord]) -> usize {
        let Some(keep) = record.keep_images else { return images.len() };
        let now_ns = self.env.clock.wall().0;
        let age = |image: &SnapshotRecord| Duration::from_nanos(now_ns.saturating_sub(image.made_unix_ns));
        // One is needed as long as the next one is too young for what lies between them.
        let old = images.iter().skip(1).take_while(|next| age(next) > keep.for_time).count();
        let max = usize::try_from(IMAGES_MAX).unwrap_or(usize::MAX);
        let many = images.len().saturating_sub(max);
        let usage = self.disk.usage();
        let is_crowded =
            |image: &&&SnapshotRecord| image.volumes.iter().any(|one| is_crowded(tables, &usage, one.volume));
        // One at a time: what it frees shows at the next look.
        let crowded = usize::from(images.first().filter(is_crowded).is_some());
        let large =
            usize::from(keep.bytes.is_some_and(|bytes| self.taken_bytes(record, &usage, images) > bytes));
        old.max(many).max(crowded).max(large)
    }

    /// What images, each for itself, and the updates that are kept for them take.
    fn taken_bytes(&self, record: &GroupRecord, usage: &AdapterUsage, images: &[&SnapshotRecord]) -> u64 {
        let own: u64 = images.iter().map(|image| own_bytes(usage, image)).sum();
        own + self.kept_journal_bytes(record)
    }

    fn kept_journal_bytes(&self, record: &GroupRecord) -> u64 {
        let group = self.runtime().groups.get(&record.number.0).cloned();
        let begins = |group: &Arc<Group>| group.within_reach().first.previous();
        group.and_then(|group| group.bytes_behind(begins(&group))).unwrap_or(0)
    }

    /// Where a rewind of the group can go from here; none where it is not copied.
    pub(super) fn window_view(&self, tables: &Tables, record: &GroupRecord) -> Option<WindowView> {
        let group = self.runtime().groups.get(&record.number.0).cloned()?;
        if !matches!(record.role, GroupRole::Auxiliary { .. }) {
            return None;
        }
        let svols = tables.svols(record.number);
        let restored = group.whole_number().filter(|_| {
            matches!(self.takeover_point_of(tables, record.number), Ok(TakeoverPoint::Volumes(_)))
        });
        let oldest = oldest_reachable(tables, record, &group, &svols);
        let from = oldest.into_iter().chain(restored).min();
        let bases = tables.bases(record.number, &svols);
        let made = bases.iter().find(|(number, _)| Some(number.0) == oldest.map(UpdateNumber::get));
        let images = tables.scheduled_images(record.number);
        let usage = self.disk.usage();
        let keep = record.keep_images;
        Some(WindowView {
            from_update_number: from.map(UpdateNumber::get),
            from_unix_ms: made.map(|(_, row)| row.made_unix_ns / 1_000_000).filter(|_| from == oldest),
            to_update_number: group.within_reach().last.get(),
            images: images.len() as u64,
            images_own_bytes: images.iter().map(|image| own_bytes(&usage, image)).sum(),
            journal_bytes: self.kept_journal_bytes(record),
            keep_ms: keep.map(|keep| super::view::ms(keep.for_time)),
            every_ms: keep.map(|keep| super::view::ms(keep.every)),
            bytes_max: keep.and_then(|keep| keep.bytes),
        })
    }
}

fn own_bytes(usage: &AdapterUsage, image: &SnapshotRecord) -> u64 {
    let used = |number: u32| usage.volumes.iter().find(move |used| used.volume.0 == number);
    let own = image.volumes.iter().filter_map(|one| used(one.volume.0));
    own.map(|used| used.allocated_bytes - used.shared_bytes).sum()
}

/// Whether the parity group of a volume has little room left: what is restored there comes first.
pub(super) fn is_crowded(tables: &Tables, usage: &AdapterUsage, volume: VolumeNumber) -> bool {
    let group = tables.volumes.get(&volume).and_then(|row| row.parity_group);
    let used = usage.groups.iter().find(|used| Some(used.parity_group.0) == group.map(|group| group.0));
    used.is_some_and(|used| used.free_extents < used.extents / CROWDED_PART)
}

/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A parity group with less than this part of it free keeps no images.
const CROWDED_PART: u32 = 16;
