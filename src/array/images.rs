//! Images of S-VOLs during a resync: kept before it is accepted, dropped behind it, gone back to (promise O3).
//!
//! 1. The primary says that differences of some pairs follow. Before that is noted and answered, [`Array::prepare_for`]
//!    restores what is here, keeps an image of what these S-VOLs are then, all at one moment, and notes its number.
//!    A crash before the note leaves volumes that nobody names; the next start drops them, and the primary, which has no
//!    answer, says it again.
//! 2. The designation is applied: from then on the S-VOLs are no image, and the tables say that there is one.
//! 3. When the last of the pairs that have an image becomes normal, the tables forget the images in the same
//!    transaction; the owner task drops their volumes.
//!
//! Without room for an image the resync is refused with the reason, which the primary shows and repeats, unless its
//! operator says that it shall do without (`--without-image`).

use super::Array;
use super::groups::own_volume;
use crate::copy::image::{fall_back, image_of, volume_of};
use crate::disk::VolumeId;
use crate::io::volume::VolumeRole;
use crate::volume::designation::{Designation, DesignationId, ImageWish, Refusal, ResyncedPair};
use crate::volume::group::{GroupEvent, GroupRole};
use crate::volume::name::{ArrayNumber, GroupNumber, PairNumber, UpdateNumber as StoredNumber, VolumeNumber};
use crate::volume::pair::{PairRecord, PairState};
use crate::volume::record::Who;
use crate::volume::resync::TakeoverPoint;
use crate::volume::table::Tables;
use holdfast_journal::UpdateNumber;
use std::collections::BTreeMap;
use std::time::Duration;

/// An S-VOL of which an image is to be kept.
#[derive(Clone, Debug)]
struct Wanted {
    pair: PairNumber,
    group: GroupNumber,
    volume: VolumeId,
    /// It is of no later number.
    at_most: Option<StoredNumber>,
    /// What the image may cost.
    bytes: u64,
}

impl Array {
    /// What has to be done before a designation of another array is applied.
    ///
    /// # Errors
    /// Why it cannot be done; the designation is refused then.
    pub(crate) async fn prepare_for(
        &self,
        id: DesignationId,
        what: &Designation,
        who: &Who,
    ) -> Result<(), Refusal> {
        let Who::Peer { array, .. } = who else { return Ok(()) };
        self.store.read(|tables| tables.is_not_taking_over(what))?;
        match what {
            Designation::RemoteResync { pairs, .. } => {
                let _one_at_a_time = self.images.lock().await;
                self.is_not_stopped(pairs)?;
                self.close_to_hosts(&self.store.tables(), pairs, *array)?;
                self.are_followed(&self.store.tables(), pairs, *array)?;
                self.check_room_beside_images(&self.store.tables(), pairs)?;
                self.keep_images(pairs, *array, Held::Restored).await
            }
            Designation::RemoteSvolWrite { pairs } => {
                let _one_at_a_time = self.images.lock().await;
                self.is_not_stopped(pairs)?;
                self.keep_images(pairs, *array, Held::Delayed).await
            }
            Designation::RemoteSuspend { pair, .. } => self.note_read_again(pair),
            Designation::ReverseMarks { pair, runs } => self.take_reverse_marks(pair, runs).await,
            Designation::JoinMarks { pair, runs } => self.join_marks(id, pair, runs, *array).await,
            _ => Ok(()),
        }
    }

    /// While an operator lets the restore of a group stop its S-VOLs stay what they are. The tables refuse it as well:
    /// this one is before anything was done for it.
    fn is_not_stopped(&self, pairs: &[ResyncedPair]) -> Result<(), Refusal> {
        let names = pairs.iter().map(|one| &one.pair);
        self.store.read(|tables| tables.restore_goes_on(names))
    }

    /// What comes for an S-VOL that is not followed again yet would be passed over: its copy must not begin before.
    fn are_followed(
        &self,
        tables: &Tables,
        resynced: &[ResyncedPair],
        source: ArrayNumber,
    ) -> Result<(), Refusal> {
        for pair in resynced.iter().filter_map(|one| tables.pair_named(&one.pair)) {
            let group = self.runtime().groups.get(&pair.group.0).cloned();
            let is_passed_over = group.is_some_and(|group| !group.knows_pair(pair.number.0));
            if pair.primary.array == source && is_passed_over {
                self.wake();
                let text = format!("the S-VOL of pair {} is not followed again yet", pair.name);
                return Err(Refusal::Conflict(text));
            }
        }
        Ok(())
    }

    async fn keep_images(
        &self,
        resynced: &[ResyncedPair],
        source: ArrayNumber,
        held: Held,
    ) -> Result<(), Refusal> {
        let tables = self.store.tables();
        let mut by_group: BTreeMap<GroupNumber, Vec<Wanted>> = BTreeMap::new();
        for wanted in resynced.iter().filter_map(|resynced| wanted(&tables, resynced, source)) {
            by_group.entry(wanted.group).or_default().push(wanted);
        }
        for (group, wanted) in by_group {
            self.keep_images_of(&tables, group, &wanted, held).await?;
        }
        Ok(())
    }

    async fn keep_images_of(
        &self,
        tables: &Tables,
        number: GroupNumber,
        wanted: &[Wanted],
        held: Held,
    ) -> Result<(), Refusal> {
        let group = self.runtime().groups.get(&number.0).cloned();
        let Some(group) = group else {
            let text = "the group is not open here: the image of its S-VOLs cannot be kept now";
            return Err(Refusal::Conflict(text.to_owned()));
        };
        let failed = |error: crate::copy::CopyError| {
            Refusal::Conflict(format!(
                "the last image of the S-VOLs of group {} cannot be kept: {error}",
                group.name
            ))
        };
        let rests = is_stopped(tables, number);
        if rests {
            group.come_to_rest().await.map_err(failed)?;
        }
        // What a takeover would restore belongs to the image. Where others go on behind a delay, it stays theirs.
        let delay = self.restore_delay(tables, number);
        if (held == Held::Restored && rests) || delay.is_zero() {
            group.restore_available(Duration::ZERO).await.map_err(failed)?;
        }
        self.check_room_for(tables, wanted)?;
        let wanted = &self.without_one(tables, number, wanted)[..];
        // Of an earlier attempt; the S-VOLs may have gone on since.
        self.forget_images(tables, wanted)?;
        let volumes: Vec<VolumeId> = wanted.iter().map(|one| one.volume).collect();
        group.drop_image(&volumes).await.map_err(failed)?;
        let mut moments: BTreeMap<Option<StoredNumber>, Vec<&Wanted>> = BTreeMap::new();
        wanted.iter().for_each(|one| moments.entry(one.at_most).or_default().push(one));
        let mut kept = Vec::with_capacity(wanted.len());
        for (at_most, of_one_moment) in moments {
            let volumes: Vec<VolumeId> = of_one_moment.iter().map(|one| one.volume).collect();
            let at_most = at_most.map(|number| UpdateNumber::new(number.0));
            let as_of = group.keep_image(&volumes, at_most).await.map_err(failed)?;
            kept.extend(of_one_moment.iter().map(|one| (one.pair, StoredNumber(as_of.get()))));
        }
        let numbers: Vec<String> = kept.iter().map(|(_, as_of)| as_of.to_string()).collect();
        let newest = numbers.first().cloned().unwrap_or_default();
        let what =
            format!("group {}: images of {} S-VOLs kept, as of update {newest}", group.name, kept.len());
        // What is stopped with them and is not resynchronised now stays as of this moment, whatever comes for the others. Where
        // something is held back still, its number is known when this journal ends.
        let stopped_at = rests.then(|| group.number_at_rest()).flatten();
        self.store.change(&Who::Array, what, |tables| {
            tables.images_kept(&kept);
            if let Some(stopped_at) = stopped_at {
                tables.stays_as_of(number, &kept, StoredNumber(stopped_at.get()));
            }
            Ok(())
        })
    }

    /// Those of which an image has to be kept anew. What images there are belong together, and stay, while S-VOLs are on the way to
    /// something else already, or a takeover would go back to them: others that stay suspended may be of their moment.
    fn without_one(&self, tables: &Tables, number: GroupNumber, wanted: &[Wanted]) -> Vec<Wanted> {
        let is_on_its_way = |pair: &PairRecord| !pair.control.is_image && pair.control.image.is_some();
        let they_stay = tables.pairs_of_group(number).any(is_on_its_way)
            || matches!(self.takeover_point_of(tables, number), Ok(TakeoverPoint::Image(_)));
        let has_one =
            |one: &Wanted| tables.pairs.get(&one.pair).is_some_and(|pair| pair.control.image.is_some());
        wanted.iter().filter(|one| !(they_stay && has_one(one))).cloned().collect()
    }

    /// What is kept already is not kept anew, but the copy takes it out of sharing where it rewrites the S-VOL: where its
    /// primary has changed it, and where hosts have here. They have done so themselves in the pieces that they wrote;
    /// but a mark may stand for more than one.
    fn check_room_beside_images(&self, tables: &Tables, resynced: &[ResyncedPair]) -> Result<(), Refusal> {
        let mut kept = Vec::new();
        for (one, pair) in
            resynced.iter().filter_map(|one| tables.pair_named(&one.pair).map(|pair| (one, pair)))
        {
            let is_kept = pair.control.image.is_some() && !pair.control.is_image;
            let Some(volume) = own_volume(tables, pair).filter(|_| is_kept) else { continue };
            if one.image == ImageWish::Without || pair.state == PairState::BeingCopied {
                continue;
            }
            let written = self.svol_map(pair).map_err(|error| Refusal::Conflict(error.to_string()))?;
            let bytes = one.rewritten_bytes.saturating_add(written.touched_bytes(1 << EXTENT_SHIFT));
            let (pair, group, volume) = (pair.number, pair.group, VolumeId(volume));
            kept.push(Wanted { pair, group, volume, at_most: None, bytes });
        }
        self.check_room_for(tables, &kept)
    }

    /// Images cost what is rewritten, at most; nobody shall find out half-way through that there is no room.
    fn check_room_for(&self, tables: &Tables, wanted: &[Wanted]) -> Result<(), Refusal> {
        let usage = self.disk.usage();
        let mut needed: BTreeMap<u32, u64> = BTreeMap::new();
        for one in wanted {
            let used = |volume| usage.volumes.iter().find(move |used| used.volume == volume);
            // Of an image that is there only what is still shared can cost something.
            let kept = used(image_of(one.volume)).map(|image| image.shared_bytes);
            let whole = used(one.volume).map_or(0, |volume| volume.allocated_bytes);
            let bytes = one.bytes.min(kept.unwrap_or(whole));
            let record = tables.volumes.get(&VolumeNumber(one.volume.0));
            if let Some(group) = record.and_then(|record| record.parity_group) {
                *needed.entry(group.0).or_default() += bytes;
            }
        }
        for used in &usage.groups {
            let needed = needed.get(&used.parity_group.0).copied().unwrap_or(0);
            let free_bytes = u64::from(used.free_extents) << EXTENT_SHIFT;
            if needed > free_bytes {
                let name = tables.parity_groups.iter().find(|row| row.number.0 == used.parity_group.0);
                let name = name.map_or_else(String::new, |row| row.name.to_string());
                return Err(Refusal::Conflict(format!(
                    "no room to keep the last image of {} S-VOLs until the resync has ended: up to {needed} bytes in \
                     parity group {name}, which has {free_bytes} free; make room, or resync --without-image",
                    wanted.len()
                )));
            }
        }
        Ok(())
    }

    fn forget_images(&self, tables: &Tables, wanted: &[Wanted]) -> Result<(), Refusal> {
        let is_noted =
            |pair: &PairNumber| tables.pairs.get(pair).is_some_and(|pair| pair.control.image.is_some());
        if !wanted.iter().any(|one| is_noted(&one.pair)) {
            return Ok(());
        }
        self.store.checkpoint(|tables| {
            for one in wanted {
                if let Some(pair) = tables.pairs.edit(&one.pair) {
                    pair.control.image = None;
                }
            }
        })
    }

    /// Volumes that keep an image of which the tables do not know: of a resync that has ended, of a pair that is gone, or
    /// of an attempt that was cut off.
    pub(crate) async fn drop_stray_images(&self) {
        if self.stray_images().is_empty() {
            return;
        }
        let _one_at_a_time = self.images.lock().await;
        for image in self.stray_images() {
            if let Err(error) = self.disk.delete_volume(image).await {
                tracing::error!(volume = image.0, %error, "an image that is needed no more cannot be dropped yet");
            }
        }
    }

    fn stray_images(&self) -> Vec<VolumeId> {
        let tables = self.store.tables();
        let is_named = |volume: VolumeId| {
            let mut pairs = tables.pairs_of_volume(VolumeNumber(volume.0));
            pairs.any(|pair| pair.control.image.is_some())
        };
        let images = self.disk.volumes().into_iter().map(|spec| spec.id);
        images.filter(|id| volume_of(*id).is_some_and(|volume| !is_named(volume))).collect()
    }

    /// What a takeover of the group finds now.
    ///
    /// # Errors
    /// Why there is no one moment that all S-VOLs are of.
    pub(crate) fn takeover_point_of(
        &self,
        tables: &Tables,
        group: GroupNumber,
    ) -> Result<TakeoverPoint, String> {
        let open = self.runtime().groups.get(&group.0).cloned();
        let restored = open.and_then(|group| group.whole_number());
        tables.takeover_point(group, restored.map(|number| StoredNumber(number.get())))
    }

    /// How much of the S-VOLs only their images have.
    pub(crate) fn image_bytes(&self, tables: &Tables, group: GroupNumber) -> u64 {
        let kept: Vec<VolumeId> = tables
            .pairs_of_group(group)
            .filter(|pair| pair.control.image.is_some())
            .filter_map(|pair| own_volume(tables, pair))
            .map(|volume| image_of(VolumeId(volume)))
            .collect();
        if kept.is_empty() {
            return 0;
        }
        let usage = self.disk.usage();
        let images = usage.volumes.iter().filter(|used| kept.contains(&used.volume));
        images.map(|used| used.allocated_bytes - used.shared_bytes).sum()
    }

    /// Makes the S-VOLs of a copied group what a takeover finds, durably, and gives its number. If that is an image,
    /// reading and restoring have ended for the group: the copies follow nothing any more. May be repeated when it was cut
    /// off.
    ///
    /// # Errors
    /// There is no such group, no one moment that all its S-VOLs are of, or the disk's error.
    #[doc(hidden)]
    pub async fn go_back(&self, name: &str) -> Result<(u64, bool), String> {
        let _one_at_a_time = self.images.lock().await;
        let tables = self.store.tables();
        let record = tables.groups.iter().find(|record| record.name.as_str() == name);
        let record = record.ok_or_else(|| format!("there is no group {name}"))?;
        let number = record.number;
        let as_of = match self.takeover_point_of(&tables, number)? {
            TakeoverPoint::Volumes(as_of) => return Ok((as_of.0, false)),
            TakeoverPoint::Image(as_of) => as_of,
        };
        // Recorded first: a crash in between must not let anything be restored to what was put back.
        let what = format!("group {name}: its S-VOLs go back to update {as_of}");
        let event = (GroupEvent::Suspend, Some(what.clone()));
        self.store
            .change(&Who::Array, what, |tables| tables.group_event(number, event.0, event.1))
            .map_err(|refusal| refusal.to_string())?;
        self.shut_hosts_out(&tables, number);
        let open = self.runtime().groups.remove(&number.0);
        let restored = match open {
            Some(group) => {
                group.close().await;
                group.whole_number().map(|number| StoredNumber(number.get()))
            }
            None => None,
        };
        // What was restored until the group ended counts: a copy may have come to its end meanwhile.
        let tables = self.store.tables();
        let as_of = match tables.takeover_point(number, restored) {
            Ok(TakeoverPoint::Image(as_of)) => as_of,
            found => {
                let what = format!("group {name}: its S-VOLs need not go back, or cannot");
                let resumed = self
                    .store
                    .change(&Who::Array, what, |tables| tables.group_event(number, GroupEvent::Resume, None));
                self.wake();
                resumed.map_err(|refusal| refusal.to_string())?;
                return found.map(|point| (point.number().0, false));
            }
        };
        let volumes: Vec<VolumeId> = tables
            .pairs_of_group(number)
            .filter(|pair| pair.control.image.is_some())
            .filter_map(|pair| own_volume(&tables, pair))
            .map(VolumeId)
            .collect();
        fall_back(&self.disk, &volumes).await.map_err(|error| error.to_string())?;
        {
            // What kept them from being used, if anything did, was on the way to what they are no longer.
            let mut runtime = self.runtime();
            runtime.group_trouble.remove(&number.0);
            volumes.iter().for_each(|volume| drop(runtime.volume_trouble.remove(&volume.0)));
        }
        self.store
            .change(&Who::Array, format!("group {name}: went back to update {as_of}"), |tables| {
                tables.fallen_back(number, restored);
                Ok(())
            })
            .map_err(|refusal| refusal.to_string())?;
        Ok((as_of.0, true))
    }

    /// No host's write becomes visible in the S-VOLs of a group any more.
    pub(super) fn shut_hosts_out(&self, tables: &Tables, group: GroupNumber) {
        let mut runtime = self.runtime();
        for pair in tables.followed_pairs(group) {
            let volume = own_volume(tables, pair).and_then(|volume| runtime.volumes.get(&volume).cloned());
            if let Some(volume) = volume {
                volume.set_role(VolumeRole::Copy);
            }
            if let Some(marks) = runtime.written.remove(&pair.number.0) {
                marks.end();
            }
        }
    }

    pub(super) fn restore_delay(&self, tables: &Tables, group: GroupNumber) -> Duration {
        let record = tables.groups.get(&group);
        record.map_or(Duration::ZERO, |record| super::groups::schedule(tables, record).restore_delay)
    }
}

/// What is held here and not restored yet, when an image is kept of S-VOLs to which nothing comes any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Held {
    /// It is restored first: the journal here may begin anew, and the image is the newest that there is.
    Restored,
    /// It waits for as long as the group's operator wants.
    Delayed,
}

/// The image that has to be kept for a pair, if there is one to keep.
fn wanted(tables: &Tables, resynced: &ResyncedPair, source: ArrayNumber) -> Option<Wanted> {
    let pair = tables.pair_named(&resynced.pair)?;
    let group = tables.groups.get(&pair.group)?;
    let is_copied = matches!(group.role, GroupRole::Auxiliary { .. }) && pair.primary.array == source;
    let is_kept = resynced.image == ImageWish::Keep && pair.control.is_image;
    if !(is_copied && is_kept) {
        return None;
    }
    let at_most = pair.image_at_most(resynced.withheld_from);
    let volume = VolumeId(own_volume(tables, pair)?);
    Some(Wanted { pair: pair.number, group: pair.group, volume, at_most, bytes: resynced.rewritten_bytes })
}

/// Whether nothing comes any more for any pair of the group.
fn is_stopped(tables: &Tables, group: GroupNumber) -> bool {
    let is_stopped = |pair: &PairRecord| matches!(pair.state, PairState::Suspended | PairState::Abnormal);
    tables.followed_pairs(group).all(is_stopped)
}

/// An extent has 1 MiB.
const EXTENT_SHIFT: u32 = 20;
