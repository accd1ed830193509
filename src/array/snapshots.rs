//! Snapshots, made and shown (decision 24).
//!
//! What has to be waited for is done before the designation is applied: numbers are reserved, in one transaction; the disk
//! adapter makes the volumes under them, durably; then the transaction of the designation names them. Whatever ends in
//! between leaves reserved numbers, and what there is under them is given back: in this run when the making has been given
//! up, else by the next start.

use super::Array;
use super::groups::own_volume;
use crate::copy::group::Group;
use crate::copy::image::Newest;
use crate::disk::cache::AdapterUsage;
use crate::disk::{Snapshot, VolumeId};
use crate::io::volume::Volume;
use crate::shell::view::{SnapshotView, SnapshotVolumeView};
use crate::volume::designation::{Designation, NewSnapshot, Refusal};
use crate::volume::group::{GroupRecord, GroupState};
use crate::volume::name::{BookmarkName, UpdateNumber, VolumeNumber};
use crate::volume::pair::{PairRecord, PairState};
use crate::volume::record::Who;
use crate::volume::resync::TakeoverPoint;
use crate::volume::snapshot::{MadeSnapshot, MadeVolume, Moment, SnapshotAt, SnapshotOf, SnapshotRecord};
use crate::volume::store::Order;
use crate::volume::table::Tables;
use crate::volume::takeover::Branch;
use std::sync::Arc;
use std::time::Duration;

impl Array {
    /// Makes the snapshots among these orders, durably, and puts into the orders what was made. Whoever applies the orders
    /// then does so without waiting for anything in between.
    ///
    /// # Errors
    /// One cannot be made: none of these is there.
    pub(super) async fn make_snapshots(&self, orders: &mut [Order], who: &Who) -> Result<(), Refusal> {
        let is_one = |(_, what): &Order| matches!(what, Designation::CreateSnapshot(_));
        if !orders.iter().any(is_one) || self.store.rehearse(orders, who)?.is_repetition {
            return Ok(());
        }
        let mut all = Vec::new();
        for (_, what) in orders {
            let Designation::CreateSnapshot(new) = what else { continue };
            let (made, reserved) = match new.at {
                SnapshotAt::Now => self.made_in_time(new, self.make_snapshot(new)).await?,
                SnapshotAt::Update(_) | SnapshotAt::Time { .. } | SnapshotAt::Bookmark(_) => {
                    self.image_at(new).await?
                }
            };
            new.made = Some(made);
            all.push(reserved);
        }
        all.into_iter().for_each(Reserved::keep);
        Ok(())
    }

    /// What is made, or the refusal when that takes too long.
    pub(super) async fn made_in_time<T>(
        &self,
        new: &NewSnapshot,
        making: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        tokio::select! {
            biased;
            made = making => made,
            () = self.env.clock.sleep(MADE_WITHIN) => Err(Refusal::Conflict(format!(
                "snapshot {} cannot be made in {} s: journals or units do not take what is in the cache",
                new.name, MADE_WITHIN.as_secs()
            ))),
        }
    }

    pub(super) async fn make_snapshot(
        &self,
        new: &NewSnapshot,
    ) -> Result<(MadeSnapshot, Reserved<'_>), Refusal> {
        // No image is kept or gone back to meanwhile, and no volume grows.
        let _one_at_a_time = self.images.lock().await;
        let tables = self.store.tables();
        let sources = tables.snapshot_sources(&new.of)?;
        let (volumes, group) = self.at_work(&tables, &sources)?;
        let reserved = self.reserve(&sources)?;
        let wanted = reserved.wanted(&sources);
        let failed = |error: &dyn std::fmt::Display| {
            Refusal::Conflict(format!("snapshot {} cannot be made: {error}", new.name))
        };
        // Past a group's lock write hosts who forward, who write S-VOLs, and all where there is no group.
        let stand_still = || volumes.iter().map(|volume| volume.alone()).collect::<Vec<_>>();
        let moment = match &group {
            Some((group, record)) => {
                let look = |newest| self.moment(record, &sources, newest);
                group.snapshot(&wanted, stand_still, look).await.map_err(|error| failed(&error))?
            }
            None => {
                let ready = self.disk.prepare_snapshots(&wanted).await.map_err(|error| failed(&error))?;
                let cut = {
                    let _still = stand_still();
                    ready.cut(0)
                };
                cut.complete().await.map_err(|error| failed(&error))?;
                Moment::Time
            }
        };
        let bookmark = match (&moment, &group) {
            (Moment::Update(number), Some((group, _))) => bookmark_at(group, *number),
            (_, _) => None,
        };
        let base = match (&moment, &group, &new.of) {
            (Moment::Update(number), Some((group, record)), SnapshotOf::Group(_)) => {
                self.base_of(record, group, *number)
            }
            (_, _, _) => None,
        };
        let made = self.made(&tables, &sources, &reserved, moment);
        Ok((MadeSnapshot { bookmark, base, ..made }, reserved))
    }

    pub(super) fn made(
        &self,
        tables: &Tables,
        sources: &[VolumeNumber],
        reserved: &Reserved<'_>,
        moment: Moment,
    ) -> MadeSnapshot {
        let volume = |(of, volume): (&VolumeNumber, &VolumeNumber)| MadeVolume {
            of: *of,
            volume: *volume,
            identity: self.new_identity(),
            size_bytes: tables.volumes.get(of).map_or(0, |row| row.size_bytes),
        };
        let volumes = sources.iter().zip(&reserved.numbers).map(volume).collect();
        let made_unix_ns = self.env.clock.wall().0;
        MadeSnapshot { volumes, moment, bookmark: None, made_unix_ns, base: None }
    }

    /// Makes what this array has of a group that it gives up, durably: its hosts are shut out, and its group has ended.
    pub(super) async fn make_branch(
        &self,
        tables: &Tables,
        record: &GroupRecord,
        branch: &Branch,
    ) -> Result<(MadeSnapshot, Reserved<'_>), Refusal> {
        let sources = tables.branch_sources(record.number);
        let reserved = self.reserve(&sources)?;
        let wanted = reserved.wanted(&sources);
        if let Err(error) = self.disk.snapshot(&wanted, branch.last.0).await {
            self.pause_before_another_branch().await;
            let text = format!("what only this array has of group {} cannot be kept: {error}", record.name);
            return Err(Refusal::Conflict(text));
        }
        // A journal that has failed gave no numbers.
        let is_numbered = record.state == GroupState::Normal;
        let moment = if is_numbered { Moment::Update(branch.last) } else { Moment::Time };
        Ok((self.made(tables, &sources, &reserved, moment), reserved))
    }

    /// What is given up wakes the owner, who would try again at once, and for as long as the cause lasts.
    pub(super) async fn pause_before_another_branch(&self) {
        self.env.clock.sleep(ANOTHER_BRANCH).await;
    }

    /// The volumes as hosts use them, and the group whose numbers they have, if any.
    #[expect(clippy::type_complexity, reason = "two lists that belong together")]
    pub(super) fn at_work(
        &self,
        tables: &Tables,
        sources: &[VolumeNumber],
    ) -> Result<(Vec<Arc<Volume>>, Option<(Arc<Group>, GroupRecord)>), Refusal> {
        let runtime = self.runtime();
        let mut volumes = Vec::with_capacity(sources.len());
        let mut group = None;
        for number in sources {
            let name = tables.volumes.get(number).map(|row| row.name.to_string()).unwrap_or_default();
            let conflict = |text: &str| Err(Refusal::Conflict(format!("volume {name}: {text}")));
            match runtime.volumes.get(&number.0) {
                Some(volume) => volumes.push(volume.clone()),
                None => return conflict("it is not open"),
            }
            let record =
                tables.pairs_of_volume(*number).next().and_then(|pair| tables.groups.get(&pair.group));
            let Some(record) = record else { continue };
            match runtime.groups.get(&record.number.0) {
                Some(open) => group = Some((open.clone(), record.clone())),
                None if runtime.forwarders.contains_key(&record.number.0) => {}
                None if Self::has_no_journal(record) => {}
                // Its journal may hold what the volume lacks.
                None => return conflict("its group is not open: say it again when it is"),
            }
        }
        Ok((volumes, group))
    }

    /// Nothing of the group can be in a journal here.
    fn has_no_journal(record: &GroupRecord) -> bool {
        record.segments.is_empty() && record.journals.is_empty() && record.takeover.is_none()
    }

    /// Of what these volumes of a group are at this moment.
    pub(super) fn moment(&self, record: &GroupRecord, sources: &[VolumeNumber], newest: Newest) -> Moment {
        let tables = self.store.tables();
        let number = UpdateNumber(newest.number.get());
        let no_image = |why: String| Moment::NoImage { restored: number, why };
        let follows = tables.followed_pairs(record.number).next().is_some();
        let followed = || {
            let is_here = |pair: &&PairRecord| {
                own_volume(&tables, pair).is_some_and(|volume| sources.contains(&VolumeNumber(volume)))
            };
            tables.followed_pairs(record.number).filter(is_here)
        };
        if let Err(why) = newest.whole {
            return no_image(why);
        }
        if !follows {
            // Before its first copy has passed a place a write there has no number.
            let is_counted = |pair: &PairRecord| {
                matches!(pair.state, PairState::Normal | PairState::Suspended | PairState::Abnormal)
            };
            let all = tables.served_pairs(record.number).all(is_counted);
            return if all { Moment::Update(number) } else { Moment::Time };
        }
        if let Some(pair) = followed().find(|pair| pair.control.svol_write || pair.control.is_written) {
            return no_image(format!("hosts here may have written the S-VOL of pair {}", pair.name));
        }
        let all = tables.followed_pairs(record.number).count();
        match tables.takeover_point(record.number, Some(number)) {
            Ok(TakeoverPoint::Volumes(number)) => Moment::Update(number),
            _ if sources.len() == 1 && all > 1 => match followed().next() {
                // What the group has restored since says nothing of it.
                Some(pair) if pair.control.left_behind => no_image(format!(
                    "pair {} stopped while others went on: nobody here knows at which update",
                    pair.name
                )),
                Some(pair) if pair.control.is_image => Moment::Update(pair.at_most(number)),
                Some(_) | None => no_image("the S-VOL is being copied".to_owned()),
            },
            Ok(TakeoverPoint::Image(as_of)) => no_image(format!(
                "the S-VOLs are being resynchronised; the image of update {as_of} is kept beside them"
            )),
            Err(why) => no_image(why),
        }
    }

    /// Takes numbers for the volumes of a snapshot, durably.
    pub(super) fn reserve(&self, sources: &[VolumeNumber]) -> Result<Reserved<'_>, Refusal> {
        let mut numbers = None;
        self.store.checkpoint(|tables| numbers = tables.reserve_snapshot(sources))?;
        let numbers =
            numbers.ok_or_else(|| Refusal::Conflict("this array has given all its numbers".into()))?;
        Ok(Reserved { array: self, numbers })
    }

    /// The numbers that were reserved for snapshots of these orders: given back, unless they have been named, when this is
    /// dropped.
    pub(super) fn reserved_by(&self, orders: &[Order]) -> Option<Reserved<'_>> {
        let made = orders.iter().filter_map(|(_, what)| match what {
            Designation::CreateSnapshot(new) => new.made.as_ref(),
            Designation::Drill(order) => order.made(),
            _ => None,
        });
        let numbers: Vec<VolumeNumber> =
            made.flat_map(|made| made.volumes.iter().map(|one| one.volume)).collect();
        (!numbers.is_empty()).then_some(Reserved { array: self, numbers })
    }

    /// What the tables alone cannot know: a rehearsal looks at what is open, and the real thing has been made.
    pub(super) fn check_snapshots(&self, orders: &[Order], is_rehearsal: bool) -> Result<(), Refusal> {
        for (_, what) in orders {
            let Designation::CreateSnapshot(new) = what else { continue };
            match (&new.made, is_rehearsal) {
                (Some(_), _) => {}
                (None, true) => {
                    let tables = self.store.tables();
                    self.at_work(&tables, &tables.snapshot_sources(&new.of)?)?;
                }
                (None, false) => {
                    return Err(Refusal::Conflict("a snapshot is made before it is named".into()));
                }
            }
        }
        Ok(())
    }

    /// What there is of snapshots that were given up need not be kept any more.
    pub(super) fn release_given_up(&self) {
        let numbers = std::mem::take(&mut self.runtime().given_up);
        if numbers.is_empty() {
            return;
        }
        match self.store.checkpoint(|tables| tables.release_snapshot(&numbers)) {
            Ok(()) => self.wake(),
            Err(error) => {
                tracing::error!(%error, "what there is of a snapshot that was given up is given back at the next start");
            }
        }
    }
}

/// A snapshot as the shell shows it.
pub(super) fn snapshot_view(tables: &Tables, row: &SnapshotRecord, usage: &AdapterUsage) -> SnapshotView {
    let (of_volume, of_group) = match &row.of {
        SnapshotOf::Volume(name) => (Some(name.to_string()), None),
        SnapshotOf::Group(name) => (None, Some(name.to_string())),
    };
    let (update_number, reason) = match &row.moment {
        Moment::Time => (None, None),
        Moment::Update(number) => (Some(number.0), None),
        Moment::NoImage { restored, why } => {
            (None, Some(format!("no image, restored was update {restored}: {why}")))
        }
    };
    let volumes: Vec<SnapshotVolumeView> = row
        .volumes
        .iter()
        .map(|one| {
            let used = usage.volumes.iter().find(|used| used.volume.0 == one.volume.0);
            let volume = tables.volumes.get(&one.volume);
            SnapshotVolumeView {
                volume: volume.map(|volume| volume.name.to_string()).unwrap_or_default(),
                of_volume: one.of_name.to_string(),
                size_bytes: volume.map_or(0, |volume| volume.size_bytes),
                own_bytes: used.map_or(0, |used| used.allocated_bytes - used.shared_bytes),
                shared_bytes: used.map_or(0, |used| used.shared_bytes),
                is_mapped: tables.is_mapped(one.volume),
            }
        })
        .collect();
    SnapshotView {
        number: row.number.0,
        name: row.name.to_string(),
        of_volume,
        of_group,
        access: row.hosts.to_string(),
        update_number,
        bookmark: row.bookmark.map(|name| name.to_string()),
        is_image: !matches!(row.moment, Moment::NoImage { .. }),
        reason,
        is_scheduled: row.base.as_ref().is_some_and(|base| base.is_scheduled),
        differs_from_update_number: row.branch.map(|branch| branch.first.0),
        branch_updates: row.branch.map(|branch| branch.updates()),
        made_unix_ms: row.made_unix_ns / 1_000_000,
        size_bytes: volumes.iter().map(|one| one.size_bytes).sum(),
        own_bytes: volumes.iter().map(|one| one.own_bytes).sum(),
        shared_bytes: volumes.iter().map(|one| one.shared_bytes).sum(),
        volumes,
    }
}

pub(super) fn bookmark_at(group: &Group, number: UpdateNumber) -> Option<BookmarkName> {
    let (bookmarks, _) = group.bookmarks();
    let found = bookmarks.iter().find(|bookmark| bookmark.number.get() == number.0);
    found.map(|bookmark| BookmarkName(bookmark.name))
}

/// Numbers that are reserved for a snapshot; given back when this is dropped.
pub(super) struct Reserved<'a> {
    array: &'a Array,
    pub(super) numbers: Vec<VolumeNumber>,
}

impl Reserved<'_> {
    pub(super) fn wanted(&self, sources: &[VolumeNumber]) -> Vec<Snapshot> {
        let ids = sources.iter().zip(&self.numbers);
        ids.map(|(of, number)| Snapshot { volume: VolumeId(of.0), snapshot: VolumeId(number.0) }).collect()
    }

    /// Whoever names them looks after them from now on.
    pub(super) fn keep(mut self) {
        self.numbers.clear();
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        let is_reserved = |tables: &Tables| {
            self.numbers
                .iter()
                .any(|number| tables.doomed.get(number).is_some_and(|row| row.reserved_in.is_some()))
        };
        if self.array.store.read(is_reserved) {
            self.array.runtime().given_up.append(&mut self.numbers);
            self.array.wake();
        }
    }
}

/// Between two attempts to keep a branch.
const ANOTHER_BRANCH: Duration = Duration::from_secs(1);
/// A snapshot waits for the journals and units. While it does no image of a resync is kept.
pub(super) const MADE_WITHIN: Duration = Duration::from_secs(30);
