//! The kept image of a group of S-VOLs: what they were before a resync began to change them (promise O3).
//!
//! A resync copies differences in whatever order; until all are there the S-VOLs are the image of no number. So before
//! the first of them is applied the last image is kept, by shared extents ([`Group::keep_image`]), and given up when the
//! new one is whole ([`Group::drop_image`]). A takeover in between goes back to it ([`Group::fall_back_to_image`]).
//!
//! **What it guarantees.** The image is what all the S-VOLs were at one update number, and the number is kept with it:
//! no update is half in it. It is there, durably, when `keep_image` has returned; of a call that a crash cut off there is
//! an image of all S-VOLs or none that anybody takes for one. Falling back gives exactly the image on every S-VOL. S-VOLs
//! on several parity groups have a map log each: a fall-back that a crash cut off may be done on some of them, and is finished by
//! calling it again. The caller has recorded durably that he falls back, before he does.
//!
//! **How it is found again.** The image of volume v is volume [`image_of`] v, with its origin in the map: nothing else has to
//! be recorded.
//!
//! It costs the space of what the resync overwrites, at 1 MiB granularity. Without that space updates are not restored
//! and wait; dropping the image makes room.

use super::error::CopyError;
use super::group::{Group, Sequencer};
use crate::disk::{DiskAdapter, Snapshot, SnapshotsCut, SnapshotsReady, VolumeError, VolumeId};
use holdfast_journal::UpdateNumber;

/// The volume that keeps the image of a volume. Numbers of volumes are given from 1 on, one by one, and never come
/// near.
pub fn image_of(volume: VolumeId) -> VolumeId {
    VolumeId(volume.0 | IMAGE)
}

/// The volume of which this one keeps the image, by its number.
pub fn volume_of(image: VolumeId) -> Option<VolumeId> {
    (image.0 & IMAGE != 0).then_some(VolumeId(image.0 & !IMAGE))
}

/// What there is of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Of every volume, as of this update number.
    Whole(UpdateNumber),
    /// Of some volumes, or of different numbers: left by a call that was cut off.
    Part,
    /// Nothing.
    None,
}

impl Group {
    /// Keeps what the S-VOLs are now, after the update that was restored last; gives its number. An image that is whole
    /// already stays, and its number is given: a resync that begins again must not replace it by what it has made of the
    /// S-VOLs. Nothing is restored during the cut, and only a moment before.
    ///
    /// The number is at most `at_most`: from then on nothing was handed to this array for these volumes, whatever it has
    /// restored since.
    ///
    /// # Errors
    /// The volumes cannot be destaged, the S-VOLs are the image of no number now, or the map cannot hold the image:
    /// nothing is kept. Try again later.
    pub async fn keep_image(
        &self,
        volumes: &[VolumeId],
        at_most: Option<UpdateNumber>,
    ) -> Result<UpdateNumber, CopyError> {
        match self.kept_image(volumes)? {
            Kept::Whole(number) => return Ok(number),
            Kept::Part => self.drop_image(volumes).await?,
            Kept::None => {}
        }
        let _others_give_way = self.wants_to_cut_alone();
        // Most of it before restore has to stand still.
        self.disk.destage(volumes).await?;
        let (cut, number) = {
            // Before the destage of the volumes is held back: a restore under way may need it to get room.
            let _nothing_is_restored = self.restoring.lock().await;
            let ready = self.disk.prepare_snapshots(&pairs(volumes)).await?;
            let number = self.image_number()?;
            let number = at_most.map_or(number, |at_most| at_most.min(number));
            (ready.cut(number.get()), number)
        };
        cut.complete().await?;
        Ok(number)
    }

    /// Makes snapshots of volumes of this group, durable when this returns: of all updates up to one number and nothing else,
    /// or, at an auxiliary, of what was restored up to it. `stand_still` keeps back whoever writes to the volumes past this
    /// group's lock; `look` sees what they were, before anything more is restored. Hosts at a primary, and restore at an auxiliary, wait
    /// for the cut alone, whose cost is that of the pages that were written since the destage before it.
    ///
    /// # Errors
    /// The volumes cannot be destaged, or the map cannot hold the snapshots: there are none.
    pub(crate) async fn snapshot<S, L>(
        &self,
        wanted: &[Snapshot],
        stand_still: impl FnOnce() -> S,
        look: impl FnOnce(Newest) -> L,
    ) -> Result<L, CopyError> {
        let volumes: Vec<VolumeId> = wanted.iter().map(|one| one.volume).collect();
        // Most of it before anything has to stand still.
        self.disk.destage(&volumes).await?;
        let (cut, seen) = {
            let (ready, _nothing_is_restored) = self.ready_to_cut(wanted).await?;
            let (cut, newest) = self.cut(ready, stand_still);
            (cut, look(newest))
        };
        cut.complete().await?;
        Ok(seen)
    }

    pub(super) fn cut<S>(
        &self,
        ready: SnapshotsReady,
        stand_still: impl FnOnce() -> S,
    ) -> (SnapshotsCut, Newest) {
        let _still = stand_still();
        // Numbers are given, and what has them becomes visible, under this lock.
        let seq = self.lock();
        let whole = match &seq.failed {
            Some(reason) => Err(format!("writes have had no number since the journal failed: {reason}")),
            None => seq.image_number().map(|_| ()).map_err(|error| error.to_string()),
        };
        let newest = Newest { number: seq.restored, whole };
        (ready.cut(newest.number.get()), newest)
    }

    /// The oldest update that the journal here holds.
    pub(crate) fn first_retained(&self) -> UpdateNumber {
        self.lock().journal.first_retained()
    }

    /// The update that was restored last, if the S-VOLs are an image as of it: the next one is not restored in part, and
    /// they are not inside a stretch in which the P-VOLs were none (`whole.rs`).
    pub(crate) fn whole_number(&self) -> Option<UpdateNumber> {
        self.image_number().ok()
    }

    /// The same, or why there is none.
    pub(super) fn image_number(&self) -> Result<UpdateNumber, CopyError> {
        self.lock().image_number()
    }

    /// Gives the image up, or what there is of it.
    ///
    /// # Errors
    /// The map could not be made durable: some of the image may be there after a restart. Call it again.
    pub async fn drop_image(&self, volumes: &[VolumeId]) -> Result<(), CopyError> {
        for Snapshot { snapshot, .. } in pairs(volumes) {
            match self.disk.delete_volume(snapshot).await {
                Ok(()) | Err(VolumeError::Unknown { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// [`fall_back`] of this group's S-VOLs, with nothing being restored.
    ///
    /// # Errors
    /// As there.
    pub async fn fall_back_to_image(&self, volumes: &[VolumeId]) -> Result<UpdateNumber, CopyError> {
        let _nothing_is_restored = self.restoring.lock().await;
        fall_back(&self.disk, volumes).await
    }

    /// What there is of an image of these volumes.
    ///
    /// # Errors
    /// The image's number is in use by a volume that is none.
    pub fn kept_image(&self, volumes: &[VolumeId]) -> Result<Kept, CopyError> {
        kept_image(&self.disk, volumes)
    }
}

/// Where volumes of a group are at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Newest {
    /// The update that became visible last.
    pub(crate) number: UpdateNumber,
    /// They have it and all before it, whole; or why not.
    pub(crate) whole: Result<(), String>,
}

impl Sequencer {
    pub(super) fn image_number(&self) -> Result<UpdateNumber, CopyError> {
        match (self.restored_in_part, self.inside_until()) {
            (Some(update), _) => {
                Err(CopyError::Damaged(format!("update {update} is restored in part: no image now")))
            }
            (None, Some(until)) => Err(CopyError::Damaged(format!(
                "restored is update {}: the S-VOLs are no image of one moment until {until}",
                self.restored
            ))),
            (None, None) => Ok(self.restored),
        }
    }
}

/// Makes S-VOLs what they were when the image was kept, durably, and gives that number. The image stays until it is
/// dropped; calling it again changes nothing more.
///
/// The caller has ended restore and resync for these volumes. Updates behind the number that this array's journal
/// still holds are not in the volumes any more, though the group counts them as restored: what becomes of them is
/// for the takeover to decide.
///
/// # Errors
/// There is no whole image: nothing has changed. Or a volume could not be put back: call it again.
pub async fn fall_back(disk: &DiskAdapter, volumes: &[VolumeId]) -> Result<UpdateNumber, CopyError> {
    let Kept::Whole(number) = kept_image(disk, volumes)? else {
        return Err(CopyError::Damaged("there is no whole image to fall back to".to_owned()));
    };
    disk.restore_snapshots(&pairs(volumes)).await?;
    Ok(number)
}

fn kept_image(disk: &DiskAdapter, volumes: &[VolumeId]) -> Result<Kept, CopyError> {
    let (mut numbers, mut missing) = (Vec::new(), false);
    for Snapshot { volume, snapshot } in pairs(volumes) {
        match disk.origin(snapshot) {
            Ok(Some(origin)) if origin.volume == volume => numbers.push(origin.as_of),
            Ok(_) => {
                let what = format!("volume {} is in the place of an image and is none", snapshot.0);
                return Err(CopyError::Damaged(what));
            }
            Err(VolumeError::Unknown { .. }) => missing = true,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(match numbers.first() {
        None => Kept::None,
        Some(number) if !missing && numbers.iter().all(|other| other == number) => {
            Kept::Whole(UpdateNumber::new(*number))
        }
        Some(_) => Kept::Part,
    })
}

fn pairs(volumes: &[VolumeId]) -> Vec<Snapshot> {
    volumes.iter().map(|volume| Snapshot { volume: *volume, snapshot: image_of(*volume) }).collect()
}

/// Set in the number of a volume that keeps an image.
const IMAGE: u32 = 1 << 31;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, SeededEntropy};
    use crate::copy::change::Payload;
    use crate::copy::differences::ChangedPart;
    use crate::copy::fetch::Whose;
    use crate::copy::group::{Parts, Role, Sequencer, Settings, SvolRuntime};
    use crate::copy::kept::JournalCache;
    use crate::copy::recover;
    use crate::copy::suspend::MarkStore;
    use crate::copy::tests::rig::Unnamed;
    use crate::disk::VolumeKind;
    use crate::disk::cache::tests::rig::{Array, Bed, MIB, Stamp, life, seeds, stamps_of};
    use crate::disk::raid::Level;
    use crate::disk::slot::Class;
    use crate::volume::kind::{NoRoom, ReleaseBy};
    use crate::volume::pair::PairState;
    use holdfast_journal::chain::Chain;
    use holdfast_journal::format::FormatParams;
    use holdfast_journal::reader::{ReaderSet, ReleaseRule};
    use holdfast_journal::{
        ArrayNumber, Content, Extent, Generation, GroupNumber, Incarnation, Kind, Update, VolumeNumber,
    };
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    const BYTES: u64 = 2 * MIB;
    const PAGES: u64 = BYTES / 4096;
    const JOURNAL: VolumeId = VolumeId(40);
    const GENERATION: Generation =
        Generation { counter: 1, array: ArrayNumber(1), first: UpdateNumber::FIRST };

    /// An auxiliary has no difference maps.
    struct NoMarks;

    impl MarkStore for NoMarks {
        fn note_freed(&self, _group: u32, _note: &crate::copy::freed::FreedNote) -> Result<(), String> {
            Ok(())
        }

        fn note_together(&self, _group: u32, _together: Result<(), &str>) -> Result<(), String> {
            Ok(())
        }

        fn has_pair_of(&self, _group: u32, _pvol: u32) -> bool {
            true
        }

        fn note_copy_ends(&self, _ends: &[crate::copy::checkpoint::PairMark]) -> Result<(), String> {
            Ok(())
        }

        fn put(&self, _changed: Vec<(u32, Vec<ChangedPart>)>) -> Result<(), String> {
            Err("an auxiliary marks nothing".into())
        }
    }

    fn svols() -> Vec<VolumeId> {
        (11..=14).map(VolumeId).collect()
    }

    /// A group of four S-VOLs, thin and thick, whose P-VOLs are 1 to 4.
    async fn group(array: &Array, is_new: bool) -> Arc<Group> {
        if is_new {
            for volume in svols() {
                let kind = if volume.0 % 2 == 0 { VolumeKind::Thick } else { VolumeKind::Thin };
                array.create(volume.0, BYTES, kind).await;
            }
            array.create(JOURNAL.0, 4 * MIB, VolumeKind::Journal).await;
        }
        let raw = array.adapter.raw(JOURNAL).unwrap();
        let params = FormatParams {
            incarnation: Incarnation::new(7),
            array: ArrayNumber(2),
            group: GroupNumber(1),
            volume_bytes: raw.size_bytes(),
            layout: holdfast_journal::format::Layout::default(),
            data_per_info: 16,
            first: UpdateNumber::FIRST,
            generation: GENERATION,
        };
        let journal = match is_new {
            true => recover::format(&raw, &array.pool, params, &[]).await.unwrap(),
            false => recover::recover(&raw, None).await.unwrap().0,
        };
        let journal = Chain::new(VolumeNumber(JOURNAL.0), journal);
        let svols: BTreeMap<u32, SvolRuntime> =
            svols().iter().map(|volume| (volume.0 - 10, svol(volume.0))).collect();
        let readers = ReaderSet::new(ReleaseRule::Restored, UpdateNumber::NONE);
        let sequencer =
            Sequencer::new(journal, GENERATION, BTreeMap::new(), svols, readers, UpdateNumber::NONE);
        let parts = Parts {
            number: 1,
            name: "g".into(),
            array: ArrayNumber(2),
            role: Role::Copy,
            disk: array.adapter.clone(),
            pool: array.pool.clone(),
            clock: array.clock.clone(),
            tamper: None,
            marks: Arc::new(NoMarks),
            segment_store: Arc::new(Unnamed::default()),
            settings: Settings {
                journal_cache: JournalCache::new(1 << 20),
                demand: crate::copy::demand::Demand::new(array.clock.clone()),
                read_updates: 16,
                read_bytes: 1 << 20,
                copy_unit_bytes: 1 << 20,
                throttle: Duration::ZERO,
                release_by: ReleaseBy::default(),
                no_room: NoRoom::default(),
            },
        };
        let group = Group::new(parts, sequencer);
        for volume in self::svols() {
            array.adapter.set_gate(volume, Some(group.gate())).unwrap();
        }
        group
    }

    fn svol(volume: u32) -> SvolRuntime {
        SvolRuntime {
            pair: volume,
            volume,
            state: PairState::Normal,
            copy_end: None,
            copy_from: UpdateNumber::NONE,
            cascaded: false,
            copies: 0,
        }
    }

    /// Where update `number` writes its page, the same in all volumes; they come back to each page, so every extent
    /// is written again and again.
    fn page_of(number: u64) -> u64 {
        number * 37 % PAGES
    }

    type Arrived = BTreeMap<UpdateNumber, (Arc<Update>, Payload)>;

    /// An update that writes a page of each of the volumes, stamped with its number.
    async fn update(group: &Arc<Group>, number: u64) -> Arrived {
        let mut slots = group.pool.take(Class::Inbound, 4).await;
        for (pvol, slot) in (1..).zip(&mut slots) {
            for (at, bytes) in slot.chunks_exact_mut(512).enumerate() {
                let sector = page_of(number) * 8 + at as u64;
                Stamp { volume: pvol, sector, version: number, gate: 0 }.write(bytes);
            }
        }
        let slots = slots.into_iter().map(crate::disk::slot::SlotMut::freeze).collect();
        let payload = Payload { slots, skip: 0, bytes: 4 * 4096 };
        let extent = |pvol| Extent {
            volume: VolumeNumber(pvol),
            start_bytes: page_of(number) * 4096,
            length_bytes: 4096,
            content: Content::Data,
        };
        let update = Update {
            number: UpdateNumber::new(number),
            generation: GENERATION,
            kind: Kind::HostWrite,
            time_ns: number,
            extents: (1..=4).map(extent).collect(),
            data_bytes: payload.bytes,
            data_checksum: payload.checksum(),
        };
        BTreeMap::from([(update.number, (Arc::new(update), payload))])
    }

    async fn store(group: &Arc<Group>, number: u64) {
        let mut arrived = update(group, number).await;
        while group.try_store(&mut arrived, Whose::Source, None).is_err() {
            // No room in the journal: what is there is restored and settled.
            restore(group, number - 1).await;
            group.settle().await.unwrap();
        }
        assert!(arrived.is_empty(), "update {number} is stored");
    }

    async fn restore(group: &Arc<Group>, number: u64) {
        group.durable(UpdateNumber::new(number)).await;
        group.restore_available(Duration::ZERO).await.unwrap();
    }

    async fn restore_to(group: &Arc<Group>, from: u64, to: u64) {
        for number in from..=to {
            store(group, number).await;
            if number % 8 == 0 || number == to {
                restore(group, number).await;
            }
        }
    }

    /// For each page of a volume the number of the update that it holds.
    async fn content(array: &Array, volume: VolumeId) -> Vec<u64> {
        let mut found = Vec::new();
        for page in 0..PAGES {
            let pieces = array.adapter.read(volume, page * 4096, 4096, Class::Host).await.unwrap();
            let stamps = stamps_of(&pieces.to_vec());
            let number = |stamp: &Option<Stamp>| stamp.map_or(0, |stamp| stamp.version);
            assert!(stamps.iter().all(|stamp| number(stamp) == number(&stamps[0])));
            found.push(number(&stamps[0]));
        }
        found
    }

    /// What all volumes are after update `number`.
    fn image(number: u64) -> Vec<u64> {
        let mut pages = vec![0; usize::try_from(PAGES).unwrap()];
        (1..=number).for_each(|n| pages[usize::try_from(page_of(n)).unwrap()] = n);
        pages
    }

    async fn working<T>(group: &Arc<Group>, work: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            () = group.clone().write_journal() => panic!("the journal failed"),
            () = group.clone().settle_loop() => unreachable!("it ends with its array"),
            result = work => result,
        }
    }

    /// Kept at a number, overwritten by what follows, power lost at some moment of that or of the fall-back itself:
    /// falling back gives every volume exactly what it was at that number.
    #[test]
    fn falling_back_gives_the_kept_image_of_one_number_over_all_volumes() {
        let (mut whole, mut none) = (0, 0);
        for seed in seeds(0, 12) {
            println!("seed {seed}");
            let random = SeededEntropy::new(seed);
            let bed = Bed::new(seed, 2, Level::Raid0, 20 * MIB, 4 << 20);
            let kept = 200 + random.below(80);
            life(async {
                let array = bed.open().await.unwrap();
                let group = group(&array, true).await;
                working(&group, async {
                    bed.gate.advance(u64::MAX);
                    restore_to(&group, 1, kept).await;
                    let limit = array.clock.sleep(Duration::from_millis(1 + random.below(if seed % 2 == 0 { 6 } else { 250 })));
                    let resync = async {
                        let number = group.keep_image(&svols(), None).await.unwrap();
                        assert_eq!(number.get(), kept);
                        restore_to(&group, kept + 1, kept + 150).await;
                        assert_eq!(group.keep_image(&svols(), None).await.unwrap().get(), kept, "it stays");
                        group.fall_back_to_image(&svols()).await.unwrap();
                    };
                    tokio::select! { biased; () = resync => {} () = array.adapter.run() => {} () = limit => {} }
                })
                .await;
            });
            bed.crash(&random);
            // Fallen back after the restart; once more cut off, and once more.
            for again in 0..3 {
                life(async {
                    let array = bed.open().await.unwrap();
                    let group = group(&array, false).await;
                    match group.kept_image(&svols()).unwrap() {
                        Kept::Whole(number) => assert_eq!(number.get(), kept),
                        Kept::Part => panic!("one parity group: whole or not at all"),
                        Kept::None => {
                            none += 1;
                            assert!(group.fall_back_to_image(&svols()).await.is_err());
                            return;
                        }
                    }
                    whole += 1;
                    let limit = Duration::from_millis(if again < 2 { random.below(20) } else { 100_000 });
                    let fallen = tokio::time::timeout(limit, group.fall_back_to_image(&svols())).await;
                    let Ok(fallen) = fallen else { return };
                    assert_eq!(fallen.unwrap().get(), kept);
                    for volume in svols().into_iter().flat_map(|volume| [volume, image_of(volume)]) {
                        assert_eq!(content(&array, volume).await, image(kept), "seed {seed}: {volume:?}");
                    }
                    if again == 2 {
                        group.drop_image(&svols()).await.unwrap();
                        group.drop_image(&svols()).await.unwrap();
                        assert_eq!(group.kept_image(&svols()).unwrap(), Kept::None);
                    }
                });
                bed.crash(&random);
            }
        }
        assert!(whole > 10 && none > 0, "{whole} {none}");
    }

    /// A copy once noted that its S-VOLs stay as of a number while updates behind it were on their way to its journal; they were
    /// restored all the same.
    #[test]
    fn what_was_asked_for_before_a_copy_came_to_rest_is_not_taken_and_what_had_come_counts() {
        let bed = Bed::new(2, 1, Level::Raid0, 24 * MIB, 4 << 20);
        life(async {
            let array = bed.open().await.unwrap();
            let group = group(&array, true).await;
            bed.gate.advance(u64::MAX);
            working(&group, async {
                restore_to(&group, 1, 10).await;
                assert_eq!(group.number_at_rest().map(UpdateNumber::get), Some(10));
                let begun = group.rests();
                let mut early = update(&group, 11).await;
                group.try_store(&mut early, Whose::Source, Some(begun)).unwrap();
                assert_eq!(group.number_at_rest(), None, "it will be restored");
                let mut late = update(&group, 12).await;
                group.come_to_rest().await.unwrap();
                group.restore_available(Duration::ZERO).await.unwrap();
                assert_eq!(group.number_at_rest().map(UpdateNumber::get), Some(11));
                assert!(group.try_store(&mut late, Whose::Source, Some(begun)).is_err());
                assert_eq!((late.len(), group.next_number().get()), (1, 12), "it is not stored");
                group.try_store(&mut late, Whose::Source, Some(group.rests())).unwrap();
                assert_eq!(group.next_number().get(), 13, "asked for since");
            })
            .await;
        });
    }

    #[test]
    fn a_part_of_an_image_is_never_fallen_back_to() {
        let bed = Bed::new(1, 1, Level::Raid0, 24 * MIB, 4 << 20);
        life(async {
            let array = bed.open().await.unwrap();
            let group = group(&array, true).await;
            bed.gate.advance(u64::MAX);
            working(&group, async {
                restore_to(&group, 1, 30).await;
                group.keep_image(&svols(), None).await.unwrap();
                array.adapter.delete_volume(image_of(VolumeId(12))).await.unwrap();
                assert_eq!(group.kept_image(&svols()).unwrap(), Kept::Part);
                assert!(group.fall_back_to_image(&svols()).await.is_err());
                restore_to(&group, 31, 40).await;
                assert_eq!(content(&array, VolumeId(11)).await, image(40), "nothing was put back");
                assert_eq!(group.keep_image(&svols(), None).await.unwrap().get(), 40, "made anew");
                let other = Snapshot { volume: VolumeId(11), snapshot: image_of(VolumeId(13)) };
                group.drop_image(&svols()).await.unwrap();
                array.adapter.snapshot(&[other], 1).await.unwrap();
                assert!(group.kept_image(&svols()).is_err(), "the image of another volume");
            })
            .await;
        });
        assert!(bed.watches[0].operations_left.load(Ordering::SeqCst) > 0);
    }
}
