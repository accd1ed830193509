//! Snapshots one by one: a crash at every write, readers while an extent moves, what is used.

use super::rig::*;
use crate::clock::{Clock, SeededEntropy};
use crate::disk::VolumeError;
use crate::disk::cache::{CacheSettings, DiskAdapter, Gate, Snapshot, VolumeId, VolumeUsage};
use crate::disk::raid::Level;
use crate::disk::space::map::{Origin, VolumeKind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const COUNT: usize = 4096;
const SECTORS: u64 = COUNT as u64;
const BYTES: u64 = SECTORS * 512;

fn bed(seed: u64) -> Bed {
    Bed::new(seed, 1, Level::Raid0, 16 * MIB, 4 << 20)
}

fn pair(volume: u32, snapshot: u32) -> Snapshot {
    Snapshot { volume: VolumeId(volume), snapshot: VolumeId(snapshot) }
}

fn evict_all(adapter: &DiskAdapter) {
    for _ in 0..4 {
        adapter.0.reclaim(100_000);
    }
    adapter.0.pressed.store(false, Ordering::Release);
}

/// The versions of all sectors.
async fn content(array: &Array, volume: u32) -> Vec<u64> {
    let mut versions = Vec::new();
    for first in (0..SECTORS).step_by(256) {
        let stamps = array.stamps(VolumeId(volume), first, 256).await.unwrap();
        versions.extend(stamps.iter().map(|stamp| stamp.map_or(0, |stamp| stamp.version)));
    }
    versions
}

fn usage(adapter: &DiskAdapter, volume: u32) -> VolumeUsage {
    adapter.usage().volumes.into_iter().find(|usage| usage.volume == VolumeId(volume)).unwrap()
}

/// A batch that is on its way is waited for, and no more of what is dirty; that is destaged when the volume is let go.
#[test]
fn a_destage_gives_way_to_who_holds_its_volume_back() {
    let bed = bed(3);
    life(async {
        let array = bed.open().await.unwrap();
        array.create(1, BYTES, VolumeKind::Thin).await;
        array.write(VolumeId(1), 0, SECTORS, 1).await.unwrap();
        let dirty = || array.adapter.0.dirty_extents(VolumeId(1), 0..SECTORS / 8).len();
        assert_eq!(dirty(), 2);
        let adapter = array.adapter.clone();
        let destaged = tokio::spawn(async move { adapter.destage(&[VolumeId(1)]).await });
        array.clock.sleep(Duration::from_micros(10)).await;
        let held = array.adapter.hold_back([VolumeId(1)]).await.unwrap();
        assert_eq!(dirty(), 1, "one batch is one extent");
        let ready = array.adapter.prepare_held(&[pair(1, 2)], held.clone()).await.unwrap();
        let other = array.adapter.prepare_held(&[pair(1, 3)], held).await.unwrap();
        array.clock.sleep(Duration::from_millis(30)).await;
        assert_eq!(dirty(), 1, "it stands still");
        let cut = ready.cut(7);
        array.write(VolumeId(1), 8, 8, 2).await.unwrap();
        let other = other.cut(8);
        let (one, other) = tokio::join!(cut.complete(), other.complete());
        one.and(other).unwrap();
        destaged.await.unwrap().unwrap();
        array.adapter.destage(&[VolumeId(1)]).await.unwrap();
        evict_all(&array.adapter);
        let mut expected = vec![1; COUNT];
        assert_eq!(content(&array, 2).await, expected);
        expected[8..16].fill(2);
        assert_eq!(content(&array, 3).await, expected, "it was cut later");
        assert_eq!(content(&array, 1).await, expected);
    });
}

/// Who deletes a volume waits for those who make a snapshot of it, and nobody else waits for him.
#[test]
fn what_is_deleted_meanwhile_holds_up_no_snapshot_of_another_volume() {
    let bed = bed(4);
    life(async {
        let array = bed.open().await.unwrap();
        for volume in 1..=3 {
            array.create(volume, BYTES, VolumeKind::Thin).await;
            array.write(VolumeId(volume), 0, 8, u64::from(volume)).await.unwrap();
        }
        // Somebody is slow with his snapshot.
        let cut = array.adapter.prepare_snapshots(&[pair(1, 11)]).await.unwrap().cut(7);
        let delete = |volume: u32| {
            let adapter = array.adapter.clone();
            tokio::spawn(async move { adapter.delete_volume(VolumeId(volume)).await })
        };
        delete(3).await.unwrap().unwrap();
        let source = delete(1);
        let given_up = delete(11);
        array.clock.sleep(Duration::from_millis(50)).await;
        assert!(!source.is_finished() && !given_up.is_finished(), "a snapshot is made of one as the other");
        let second = [pair(2, 12)];
        let other = array.adapter.prepare_snapshots(&second);
        let other = tokio::time::timeout(Duration::from_millis(50), other).await.unwrap().unwrap();
        other.cut(8).complete().await.unwrap();
        cut.complete().await.unwrap();
        source.await.unwrap().unwrap();
        given_up.await.unwrap().unwrap();
        evict_all(&array.adapter);
        let numbers: Vec<u32> = array.adapter.volumes().iter().map(|spec| spec.id.0).collect();
        assert_eq!(numbers, [2, 12]);
        assert_eq!(content(&array, 12).await[..8], [2; 8]);
    });
}

/// Who destages by itself and finds that a volume is held back goes on as soon as it is not.
#[test]
fn a_volume_that_was_held_back_is_destaged_at_once() {
    let bed = bed(5);
    life(async {
        let patient = CacheSettings { retry_pause: Duration::from_millis(500), ..settings() };
        let array = bed.open_with(patient).await.unwrap();
        array.create(1, BYTES, VolumeKind::Thin).await;
        array.write(VolumeId(1), 0, 8, 1).await.unwrap();
        let dirty = || array.adapter.0.dirty_extents(VolumeId(1), 0..SECTORS / 8).len();
        let held = array.adapter.hold_back([VolumeId(1)]).await.unwrap();
        let adapter = array.adapter.clone();
        let _background = tokio::spawn(async move { adapter.run().await });
        // Old enough for it.
        array.clock.sleep(array.adapter.0.settings.age_max + Duration::from_millis(5)).await;
        assert_eq!(dirty(), 1);
        drop(held);
        array.clock.sleep(Duration::from_millis(100)).await;
        assert_eq!(dirty(), 0);
    });
}

#[test]
fn a_snapshot_is_what_was_visible_dirty_pages_included_and_takes_no_space_before_a_write() {
    let bed = bed(1);
    life(async {
        let array = bed.open().await.unwrap();
        array.create(1, BYTES, VolumeKind::Thin).await;
        array.write(VolumeId(1), 0, 4000, 1).await.unwrap();
        array.adapter.destage(&[VolumeId(1)]).await.unwrap();
        let free = array.adapter.usage().groups[0].free_extents;
        array.adapter.snapshot(&[pair(1, 2)], 77).await.unwrap();
        assert_eq!(array.adapter.usage().groups[0].free_extents, free);
        assert_eq!(usage(&array.adapter, 1).shared_bytes, 2 * MIB);
        assert_eq!(array.adapter.origin(VolumeId(2)), Ok(Some(Origin { volume: VolumeId(1), as_of: 77 })));
        let ready = array.adapter.prepare_snapshots(&[pair(1, 3)]).await.unwrap();
        array.write(VolumeId(1), 5, 2, 9).await.unwrap();
        let cut = ready.cut(78);
        array.write(VolumeId(1), 6, 2, 10).await.unwrap();
        cut.complete().await.unwrap();
        array.adapter.destage(&[VolumeId(1)]).await.unwrap();
        evict_all(&array.adapter);
        let mut expected = vec![1; 4000];
        expected.resize(COUNT, 0);
        assert_eq!(content(&array, 2).await, expected);
        expected[5..7].fill(9);
        assert_eq!(content(&array, 3).await, expected);
        expected[6..8].fill(10);
        assert_eq!(content(&array, 1).await, expected);
        assert_eq!(usage(&array.adapter, 1).shared_bytes, MIB, "the first extent moved away");
        array.adapter.delete_volume(VolumeId(2)).await.unwrap();
        array.adapter.delete_volume(VolumeId(3)).await.unwrap();
        array.clock.sleep(Duration::from_millis(1)).await;
        assert_eq!(
            (usage(&array.adapter, 1).shared_bytes, usage(&array.adapter, 1).allocated_bytes),
            (0, 2 * MIB)
        );
        assert_eq!(array.adapter.usage().groups[0].free_extents, free);
    });
}

#[test]
fn what_cannot_be_a_snapshot_is_refused_and_leaves_nothing() {
    let bed = bed(1);
    life(async {
        let array = bed.open().await.unwrap();
        array.create(1, BYTES, VolumeKind::Thin).await;
        array.create(9, BYTES, VolumeKind::Journal).await;
        let refused = |wanted: Vec<Snapshot>| {
            let adapter = array.adapter.clone();
            async move { adapter.snapshot(&wanted, 0).await.unwrap_err() }
        };
        assert_eq!(refused(vec![pair(1, 2), pair(7, 3)]).await, VolumeError::Unknown { volume: VolumeId(7) });
        assert_eq!(refused(vec![pair(1, 2), pair(9, 3)]).await, VolumeError::Kind { volume: VolumeId(9) });
        assert_eq!(refused(vec![pair(1, 9)]).await, VolumeError::Exists { volume: VolumeId(9) });
        assert_eq!(refused(vec![pair(1, 2), pair(1, 2)]).await, VolumeError::Exists { volume: VolumeId(2) });
        assert_eq!(array.adapter.volumes().len(), 2);
        array.adapter.snapshot(&[pair(1, 2), pair(1, 3)], 0).await.unwrap();
        let back = array.adapter.restore_snapshots(&[pair(1, 9)]).await;
        assert_eq!(back, Err(VolumeError::Kind { volume: VolumeId(9) }));
    });
}

/// The gate of the volume holds the pages of its snapshot too, and a snapshot that is not complete is not there.
#[test]
fn a_snapshot_waits_for_the_journal_of_its_pages_and_then_for_none() {
    let bed = bed(4);
    life(async {
        let array = bed.open().await.unwrap();
        let volume = array.create(1, BYTES, VolumeKind::Thin).await;
        array.adapter.set_gate(volume, Some(bed.gate.clone())).unwrap();
        let ready = array.adapter.prepare_snapshots(&[pair(1, 2)]).await.unwrap();
        let (prepared, slots) = array.ready(volume, 0, 8).await.unwrap();
        array.adapter.apply(prepared, &fill(slots, volume, 0, 8, 1, 5), 5);
        let making = tokio::spawn(ready.cut(5).complete());
        array.clock.sleep(Duration::from_millis(50)).await;
        assert!(!making.is_finished() && array.adapter.volumes().len() == 1);
        bed.gate.advance(5);
        making.await.unwrap().unwrap();
        assert_eq!(array.adapter.volumes().len(), 2);
        array.adapter.set_gate(volume, Some(Arc::new(Gate::default()))).unwrap();
        array.write(VolumeId(2), 0, 8, 3).await.unwrap();
        array.adapter.destage(&[VolumeId(2)]).await.unwrap();
    });
}

/// A reader that began to load from the old place of an extent is given nothing of who has that place by then.
#[test]
fn a_load_from_an_extent_that_moves_and_is_given_away_meanwhile_begins_again() {
    let bed = Bed::new(8, 1, Level::Raid0, 16 * MIB, 4 << 20);
    life(async {
        let array = bed.open().await.unwrap();
        let (mine, other) = (
            array.create(1, BYTES, VolumeKind::Thin).await,
            array.create(5, 8 * MIB, VolumeKind::Thin).await,
        );
        array.write(mine, 0, 64, 1).await.unwrap();
        array.adapter.snapshot(&[pair(1, 2)], 0).await.unwrap();
        evict_all(&array.adapter);
        // The read itself is done; what it read is on its way.
        let held = bed.watches[0].hold_reads.clone().write_owned().await;
        let reader = tokio::spawn({
            let array = array.clone();
            async move { array.stamps(VolumeId(1), 40, 8).await.unwrap() }
        });
        array.clock.sleep(Duration::from_millis(3)).await;
        array.write(mine, 0, 8, 2).await.unwrap();
        let moving = tokio::spawn({
            let adapter = array.adapter.clone();
            async move { adapter.destage(&[VolumeId(1)]).await }
        });
        array.clock.sleep(Duration::from_millis(3)).await;
        drop(held);
        moving.await.unwrap().unwrap();
        array.adapter.delete_volume(VolumeId(2)).await.unwrap();
        array.clock.sleep(Duration::from_millis(1)).await;
        for first in (0..8 * 2048).step_by(2048) {
            array.write(other, first, 64, 66).await.unwrap();
        }
        array.adapter.destage(&[other]).await.unwrap();
        assert!(reader.await.unwrap().iter().all(|stamp| stamp.is_some_and(|stamp| stamp.version == 1)));
        evict_all(&array.adapter);
        let now = content(&array, 1).await;
        assert!(
            now[..8].iter().all(|version| *version == 2) && now[8..64].iter().all(|version| *version == 1)
        );
    });
}

/// What the scripted life below knows to be durable, and what it was doing when it was cut off.
#[derive(Default)]
struct Progress {
    first: bool,
    second: bool,
    overwritten: bool,
    back: bool,
    dropped: bool,
}

/// Volumes 1 (thin) and 2 (thick) hold version 1, a first snapshot of both is made, both are overwritten with version
/// 2, a second snapshot is made, both go back to the first, the second is deleted.
async fn script(array: &Array, progress: &std::cell::RefCell<Progress>) {
    let (one, two) = (VolumeId(1), VolumeId(2));
    let adapter = &array.adapter;
    adapter.snapshot(&[pair(1, 11), pair(2, 12)], 1).await.unwrap();
    progress.borrow_mut().first = true;
    for volume in [one, two] {
        array.write(volume, 4, 9, 2).await.unwrap();
        array.write(volume, 2048, 300, 2).await.unwrap();
    }
    adapter.destage(&[one, two]).await.unwrap();
    progress.borrow_mut().overwritten = true;
    adapter.snapshot(&[pair(1, 21), pair(2, 22)], 2).await.unwrap();
    progress.borrow_mut().second = true;
    adapter.restore_snapshots(&[pair(1, 11), pair(2, 12)]).await.unwrap();
    progress.borrow_mut().back = true;
    adapter.delete_volume(VolumeId(21)).await.unwrap();
    adapter.delete_volume(VolumeId(22)).await.unwrap();
    progress.borrow_mut().dropped = true;
}

/// Whatever it was, it goes on from here: everything can be deleted and every extent is free again.
async fn nothing_is_lost(array: &Array) {
    for volume in array.adapter.volumes() {
        array.adapter.delete_volume(volume.id).await.unwrap();
    }
    array.clock.sleep(Duration::from_millis(1)).await;
    let group = array.adapter.usage().groups.remove(0);
    assert_eq!(group.free_extents, group.extents);
}

#[test]
fn a_crash_at_any_write_or_flush_leaves_each_set_whole_or_not_at_all() {
    let old = |sector: usize| u64::from(sector < 3000);
    let new = |sector: usize| {
        if (4..13).contains(&sector) || (2048..2348).contains(&sector) { 2 } else { old(sector) }
    };
    let before: Vec<u64> = (0..COUNT).map(old).collect();
    let after: Vec<u64> = (0..COUNT).map(new).collect();
    let (mut cut_off_at, mut seen) = (0, [0; 5]);
    loop {
        let (bed, random) = (bed(cut_off_at), SeededEntropy::new(cut_off_at));
        life(async {
            let array = bed.open().await.unwrap();
            for (id, kind) in [(1, VolumeKind::Thin), (2, VolumeKind::Thick)] {
                array.create(id, BYTES, kind).await;
                array.write(VolumeId(id), 0, 3000, 1).await.unwrap();
            }
            array.adapter.destage(&[VolumeId(1), VolumeId(2)]).await.unwrap();
        });
        let progress = std::cell::RefCell::new(Progress::default());
        life(async {
            let array = bed.open().await.unwrap();
            bed.watches[0].operations_left.store(cut_off_at, Ordering::SeqCst);
            let _ = tokio::time::timeout(Duration::from_secs(60), script(&array, &progress)).await;
        });
        bed.watches[0].operations_left.store(u64::MAX, Ordering::SeqCst);
        bed.crash(&random);
        let progress = progress.into_inner();
        life(async {
            let array = bed.open().await.unwrap();
            let there: Vec<u32> = array.adapter.volumes().iter().map(|spec| spec.id.0).collect();
            let has = |id: u32| there.contains(&id);
            assert!(has(1) && has(2) && has(11) == has(12), "{cut_off_at}: {there:?}");
            assert!(has(11) || !progress.first, "{cut_off_at}: the first set is gone");
            assert!(progress.back || has(21) == has(22), "{cut_off_at}: {there:?}");
            assert!(has(21) || !progress.second || progress.back, "{cut_off_at}");
            assert!(!progress.dropped || !(has(21) || has(22)), "{cut_off_at}");
            for (id, expected) in [(11, &before), (12, &before), (21, &after), (22, &after)] {
                if has(id) {
                    assert_eq!(content(&array, id).await, *expected, "{cut_off_at}: snapshot {id}");
                }
            }
            let (one, two) = (content(&array, 1).await, content(&array, 2).await);
            if progress.back {
                assert!(one == before && two == before, "{cut_off_at}: both are back");
            } else if progress.second {
                assert!(one == two && (one == before || one == after), "{cut_off_at}: both or none is back");
            } else if progress.overwritten {
                assert!(one == after && two == after, "{cut_off_at}");
            } else {
                for (sector, found) in one.iter().chain(&two).enumerate() {
                    let sector = sector % COUNT;
                    assert!([old(sector), new(sector)].contains(found), "{cut_off_at}: sector {sector}");
                }
            }
            nothing_is_lost(&array).await;
        });
        let Progress { first, second, overwritten, back, dropped } = progress;
        for (count, was) in seen.iter_mut().zip([first, overwritten, second, back, dropped]) {
            *count += u64::from(!was);
        }
        if dropped {
            break;
        }
        cut_off_at += 1;
    }
    assert!(
        cut_off_at > 25 && seen[0] > 0 && seen[4] > seen[3] && seen[3] > seen[2],
        "{cut_off_at} {seen:?}"
    );
}

#[test]
fn a_snapshot_that_cannot_be_completed_is_gone_and_the_volume_goes_on() {
    let bed = Bed::new(5, 1, Level::Raid0, 8 * MIB, 4 << 20);
    life(async {
        let array = bed.open().await.unwrap();
        let free = array.adapter.usage().groups[0].free_extents;
        let volume = array.create(1, 8 * MIB, VolumeKind::Thin).await;
        for extent in 0..u64::from(free) {
            array.write(volume, extent * 2048, 8, 1).await.unwrap();
        }
        array.adapter.destage(&[volume]).await.unwrap();
        let ready = array.adapter.prepare_snapshots(&[pair(1, 2)]).await.unwrap();
        array.write(volume, 0, 8, 2).await.unwrap_err();
        drop(ready);
        array.clock.sleep(Duration::from_millis(1)).await;
        array.write(volume, 0, 8, 2).await.unwrap();
        array.adapter.destage(&[volume]).await.unwrap();
        assert_eq!(array.adapter.volumes().len(), 1);
        // Full and shared: writes are refused in time, and taken again when the snapshot is deleted.
        array.adapter.snapshot(&[pair(1, 2)], 0).await.unwrap();
        assert!(matches!(array.write(volume, 0, 8, 3).await, Err(VolumeError::NoSpace { .. })));
        array.adapter.delete_volume(VolumeId(2)).await.unwrap();
        array.clock.sleep(Duration::from_millis(1)).await;
        array.write(volume, 0, 8, 3).await.unwrap();
        array.adapter.destage(&[volume]).await.unwrap();
    });
}

/// A snapshot once had the size that its volume had at the start of the array: what lay behind that could not be read.
#[test]
fn a_snapshot_of_a_volume_that_has_grown_has_all_of_it() {
    let bed = bed(4);
    life(async {
        let array = bed.open().await.unwrap();
        array.create(1, BYTES, VolumeKind::Thin).await;
        array.adapter.grow_volumes(&[VolumeId(1)], 2 * BYTES).await.unwrap();
        array.write(VolumeId(1), SECTORS + 8, 8, 5).await.unwrap();
        array.adapter.snapshot(&[pair(1, 2)], 1).await.unwrap();
        let stamps = array.stamps(VolumeId(2), SECTORS + 8, 8).await.unwrap();
        assert!(stamps.iter().all(|stamp| stamp.is_some_and(|stamp| stamp.version == 5)));
        array.write(VolumeId(1), SECTORS + 8, 8, 6).await.unwrap();
        array.adapter.restore_snapshots(&[pair(1, 2)]).await.unwrap();
        let stamps = array.stamps(VolumeId(1), SECTORS + 8, 8).await.unwrap();
        assert!(stamps.iter().all(|stamp| stamp.is_some_and(|stamp| stamp.version == 5)));
    });
}
