//! What the S-VOLs of a group are at any update that can be reached from here, as a snapshot of its own (promise O9, decision 27).
//!
//! [`Array::image_at`] is the primitive: clones of an image that is not behind the moment, and what the journal here holds between the two
//! replayed onto them (`copy/replay.rs`). The image is what the S-VOLs are now, or the newest one that was kept. Nobody else waits for any of
//! it: restore stands still for the cut of the clones, as for every snapshot, and reading never.
//!
//! The numbers of the clones are doomed before they exist (decision 24). Whatever ends before the snapshot is named, the array, the operator's
//! session or the group's work here, leaves nothing: what there is of the clones is given back.

use super::Array;
use super::groups::{own_volume, record_volume};
use super::keep::is_crowded;
use super::snapshots::{Reserved, bookmark_at};
use crate::copy::group::Group;
use crate::copy::replay::Clones;
use crate::disk::{Snapshot, VolumeId};
use crate::shell::view::RewindView;
use crate::volume::designation::Refusal;
use crate::volume::group::{Generation, GroupRecord};
use crate::volume::name::{ArrayNumber, UpdateNumber as StoredNumber, VolumeNumber};
use crate::volume::snapshot::{
    Base, MadeSnapshot, Moment, NewSnapshot, SnapshotAt, SnapshotOf, SnapshotRecord,
};
use crate::volume::table::Tables;
use holdfast_journal::UpdateNumber;
use std::sync::Arc;

/// Clones of an image, durable, under reserved numbers.
struct Cloned<'a> {
    reserved: Reserved<'a>,
    made: MadeSnapshot,
    /// Of which update they are, and what follows on it.
    number: UpdateNumber,
    base: Base,
}

impl Array {
    /// Makes clones of the volumes of a group that is copied here, durably, whose content is exactly all updates up to the moment that is
    /// wanted. They are nobody's until a snapshot names them, and are given back otherwise.
    ///
    /// # Errors
    /// It is no group that is copied here; the moment has not come yet, is not known, or cannot be reached any more; or a unit cannot.
    pub(super) async fn image_at(&self, new: &NewSnapshot) -> Result<(MadeSnapshot, Reserved<'_>), Refusal> {
        let SnapshotOf::Group(name) = &new.of else {
            return Err(Refusal::Conflict("only a group has moments that have a number".into()));
        };
        let failed = |why: String| {
            Refusal::Conflict(format!("group {name} cannot be shown as it is at {}: {why}", new.at))
        };
        let group = self.group_at_work(name)?;
        let held = group.hold();
        let to = number_wanted(&group, new.at).await.map_err(failed)?;
        let number = StoredNumber(to.get());
        // What has been replayed the journal may let go, and its name with it.
        let bookmark = bookmark_at(&group, number);
        let cloned = self.made_in_time(new, self.clone_before(new, &group, to)).await?;
        held.only_behind(cloned.number);
        let record = self.store.read(|tables| tables.group_named(name).cloned());
        let record = record.ok_or_else(|| Refusal::missing("group", name))?;
        let clones = clones_of(&self.store.tables(), &record, &cloned.made);
        let between = (cloned.number, to);
        group.may_replay(cloned.number, to, &clones).await.map_err(failed)?;
        let shown = self.show_rewind(new, &record, between);
        let told = |at: UpdateNumber| {
            shown.is_at(at);
            self.has_room_for(&cloned.made)
        };
        group.replay_onto(&held, between, &clones, told).await.map_err(failed)?;
        // Whoever asked for it deletes it, whatever it was made from.
        let base = Base { generation: stored_generation(&group, to), is_scheduled: false, ..cloned.base };
        let made = MadeSnapshot { moment: Moment::Update(number), bookmark, base: Some(base), ..cloned.made };
        Ok((made, cloned.reserved))
    }

    /// Clones of the newest image that is not behind `to`.
    async fn clone_before(
        &self,
        new: &NewSnapshot,
        group: &Arc<Group>,
        to: UpdateNumber,
    ) -> Result<Cloned<'_>, Refusal> {
        // No copy of differences begins meanwhile, and no volume grows.
        let _one_at_a_time = self.images.lock().await;
        let tables = self.store.tables();
        let sources = tables.snapshot_sources(&new.of)?;
        let record = match self.at_work(&tables, &sources)? {
            (_, Some((open, record))) if Arc::ptr_eq(&open, group) => record,
            (_, _) => return Err(Refusal::Conflict(format!("group {} has been opened anew", group.name))),
        };
        let kept = newest_base(&tables, &record, group, &sources, to);
        let is_near = |restored: &UpdateNumber| {
            *restored <= to && kept.as_ref().is_none_or(|(number, ..)| restored >= number)
        };
        let now = group.whole_number().filter(is_near);
        if now.is_some()
            && let Some(cloned) = self.clone_now(&tables, &record, group, &sources, to).await?
        {
            return Ok(cloned);
        }
        match kept {
            Some((number, base, volumes)) => {
                let reserved = self.reserve(&sources)?;
                let wanted: Vec<Snapshot> = volumes
                    .iter()
                    .zip(&reserved.numbers)
                    .map(|(image, clone)| Snapshot { volume: *image, snapshot: VolumeId(clone.0) })
                    .collect();
                let cloned = self.disk.snapshot(&wanted, number.get()).await;
                cloned.map_err(|error| Refusal::Conflict(error.to_string()))?;
                let made =
                    self.made(&tables, &sources, &reserved, Moment::Update(StoredNumber(number.get())));
                Ok(Cloned { reserved, made, number, base })
            }
            None => Err(unreachable(&tables, &record, group, &sources, to)),
        }
    }

    /// Clones of what the S-VOLs are, between two restored updates; none: they are behind `to` by now.
    async fn clone_now(
        &self,
        tables: &Tables,
        record: &GroupRecord,
        group: &Arc<Group>,
        sources: &[VolumeNumber],
        to: UpdateNumber,
    ) -> Result<Option<Cloned<'_>>, Refusal> {
        let reserved = self.reserve(sources)?;
        let failed = |why: String| Refusal::Conflict(format!("group {}: {why}", record.name));
        let (volumes, _) = self.at_work(tables, sources)?;
        let stand_still = || volumes.iter().map(|volume| volume.alone()).collect::<Vec<_>>();
        let look = |newest| self.moment(record, sources, newest);
        let moment = group.snapshot(&reserved.wanted(sources), stand_still, look).await;
        let number = match moment.map_err(|error| failed(error.to_string()))? {
            Moment::Update(number) => UpdateNumber::new(number.0),
            Moment::Time => return Err(failed("its volumes have no number".into())),
            Moment::NoImage { why, .. } => return Err(failed(why)),
        };
        if number > to {
            return Ok(None);
        }
        let base = self.base_of(record, group, StoredNumber(number.get()));
        let base = base.ok_or_else(|| failed("it is not copied here".into()))?;
        let made = self.made(tables, sources, &reserved, Moment::Update(StoredNumber(number.get())));
        Ok(Some(Cloned { reserved, made, number, base }))
    }

    /// A rewind never takes the last room, which restore may need.
    fn has_room_for(&self, made: &MadeSnapshot) -> Result<(), String> {
        let (tables, usage) = (self.store.tables(), self.disk.usage());
        match made.volumes.iter().find(|one| is_crowded(&tables, &usage, one.of)) {
            None => Ok(()),
            Some(_) => Err("its parity group has less than 1/16 free, which restore may need".to_owned()),
        }
    }

    /// What follows on an image of the S-VOLs of a group as they are; none where it is not copied. No copy of differences begins
    /// meanwhile: the caller keeps that back.
    pub(super) fn base_of(&self, record: &GroupRecord, group: &Group, number: StoredNumber) -> Option<Base> {
        let tables = self.store.tables();
        tables.followed_pairs(record.number).next()?;
        Some(Base {
            group: record.number,
            generation: stored_generation(group, UpdateNumber::new(number.0)),
            copies: tables.copies_here(record.number),
            is_scheduled: false,
        })
    }

    pub(super) fn rewind_views(&self, record: &GroupRecord) -> Vec<RewindView> {
        let runtime = self.runtime();
        let of_group = runtime.rewinds.values().filter(|(group, _)| *group == record.number);
        of_group.map(|(_, view)| view.clone()).collect()
    }

    fn show_rewind(
        &self,
        new: &NewSnapshot,
        record: &GroupRecord,
        (base, to): (UpdateNumber, UpdateNumber),
    ) -> Shown<'_> {
        let mut runtime = self.runtime();
        let id = runtime.rewinds.keys().next_back().map_or(0, |last| last + 1);
        let view = RewindView {
            name: new.name.to_string(),
            from_update_number: base.get(),
            at_update_number: base.get(),
            to_update_number: to.get(),
        };
        runtime.rewinds.insert(id, (record.number, view));
        Shown { array: self, id }
    }
}

/// A rewind as operators see it, for as long as it is at work.
struct Shown<'a> {
    array: &'a Array,
    id: u64,
}

impl Shown<'_> {
    fn is_at(&self, at: UpdateNumber) {
        if let Some((_, view)) = self.array.runtime().rewinds.get_mut(&self.id) {
            view.at_update_number = at.get();
        }
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.array.runtime().rewinds.remove(&self.id);
    }
}

/// The number of the moment that is wanted, which has come.
async fn number_wanted(group: &Arc<Group>, at: SnapshotAt) -> Result<UpdateNumber, String> {
    let last = group.within_reach().last;
    let number = match at {
        SnapshotAt::Now => last,
        SnapshotAt::Update(number) => UpdateNumber::new(number.0),
        SnapshotAt::Time { unix_ns } => group.number_at(unix_ns).await?,
        SnapshotAt::Bookmark(name) => group.number_of_bookmark(name).ok_or_else(|| {
            format!("the journal here holds no bookmark {name}: it has not come yet, or is freed")
        })?,
    };
    if number > last {
        return Err(format!("only updates up to {last} have come"));
    }
    Ok(number)
}

/// The newest kept image not behind `to` from which the journal here leads there: its number, and its volumes in the order of the S-VOLs.
fn newest_base(
    tables: &Tables,
    record: &GroupRecord,
    group: &Group,
    sources: &[VolumeNumber],
    to: UpdateNumber,
) -> Option<(UpdateNumber, Base, Vec<VolumeId>)> {
    let first = group.within_reach().first;
    let bases = tables.bases(record.number, sources).into_iter();
    bases
        .filter_map(|(number, row)| Some((UpdateNumber::new(number.0), row.base.clone()?, &row.volumes)))
        .find(|(number, base, _)| {
            let leads_there = *number == to || number.next() >= first;
            *number <= to && leads_there && base.generation == stored_generation(group, *number)
        })
        .map(|(number, base, volumes)| {
            (number, base, volumes.iter().map(|one| VolumeId(one.volume.0)).collect())
        })
}

/// Why there is nothing to begin from, and what there is.
fn unreachable(
    tables: &Tables,
    record: &GroupRecord,
    group: &Group,
    sources: &[VolumeNumber],
    to: UpdateNumber,
) -> Refusal {
    let oldest = oldest_reachable(tables, record, group, sources);
    let text = match (group.whole_number(), oldest) {
        (_, Some(oldest)) => format!("the oldest update that can be reached is {oldest}"),
        (Some(restored), None) => format!(
            "its S-VOLs are at update {restored} already, and no image before that is kept (`group set {} --keep-images`)",
            record.name
        ),
        (None, None) => "its S-VOLs are no image now, and none of before is kept".to_owned(),
    };
    Refusal::Conflict(format!("group {}: update {to} is out of reach: {text}", record.name))
}

/// The oldest update from which on every one can be reached.
pub(super) fn oldest_reachable(
    tables: &Tables,
    record: &GroupRecord,
    group: &Group,
    sources: &[VolumeNumber],
) -> Option<UpdateNumber> {
    let reach = group.within_reach();
    let bases = tables.bases(record.number, sources).into_iter();
    let numbers = bases.filter_map(|(number, row)| {
        let number = UpdateNumber::new(number.0);
        let leads_on = number.next() >= reach.first && number <= reach.last;
        (leads_on && is_of_generation(row, group)).then_some(number)
    });
    numbers.min()
}

/// The clones of what was made, by the numbers with which records name their P-VOLs.
fn clones_of(tables: &Tables, record: &GroupRecord, made: &MadeSnapshot) -> Clones {
    let clone = |pair: &crate::volume::pair::PairRecord| {
        let svol = own_volume(tables, pair)?;
        let one = made.volumes.iter().find(|one| one.of.0 == svol)?;
        Some((record_volume(pair), VolumeId(one.volume.0)))
    };
    tables.followed_pairs(record.number).filter_map(clone).collect()
}

/// Whether the number of an image is still of the generation in which it was given.
pub(super) fn is_of_generation(image: &SnapshotRecord, group: &Group) -> bool {
    let (Some(base), Some(number)) = (&image.base, image.update_number()) else { return false };
    base.generation == stored_generation(group, UpdateNumber::new(number.0))
}

fn stored_generation(group: &Group, number: UpdateNumber) -> Option<Generation> {
    group.generation_of(number).map(|one| Generation {
        counter: u64::from(one.counter),
        array: ArrayNumber(one.array.0),
        first: StoredNumber(one.first.get()),
    })
}
