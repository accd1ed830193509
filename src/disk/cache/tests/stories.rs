//! The races and the borders, one by one.

use super::rig::*;
use crate::clock::{Clock, SeededEntropy};
use crate::disk::VolumeError;
use crate::disk::cache::{DiskAdapter, Gate, VolumeId, VolumeSpec};
use crate::disk::io::sim::Fault;
use crate::disk::raid::Level;
use crate::disk::slot::Class;
use crate::disk::space::map::VolumeKind;
use futures_util::future::join_all;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

fn bed(mib: u64) -> Bed {
    Bed::new(3, 1, Level::Raid0, mib * MIB, 4 << 20)
}

fn evict_all(adapter: &DiskAdapter) {
    for _ in 0..4 {
        adapter.0.reclaim(100_000);
    }
    adapter.0.pressed.store(false, Ordering::Release);
}

fn version(stamps: &[Option<Stamp>]) -> u64 {
    let version = stamps[0].map_or(0, |stamp| stamp.version);
    assert!(stamps.iter().all(|stamp| stamp.map_or(0, |stamp| stamp.version) == version));
    version
}

/// A load that was overtaken puts nothing into the cache and gives its reader nothing old, nor another volume's bytes
/// from an extent that changed its owner meanwhile: for every sequence of four things that can happen meanwhile.
#[test]
fn a_load_that_was_overtaken_is_worth_nothing() {
    for sequence in 0..5_u32.pow(4) {
        let bed = bed(9);
        life(async {
            let array = bed.open().await.unwrap();
            let (mine, other) = (
                array.create(1, MIB, VolumeKind::Thin).await,
                array.create(2, 8 * MIB, VolumeKind::Thin).await,
            );
            array.write(mine, 0, 8, 1).await.unwrap();
            array.adapter.destage(&[mine]).await.unwrap();
            evict_all(&array.adapter);
            let held = bed.watches[0].hold_reads.clone().write_owned().await;
            let reader = tokio::spawn({
                let array = array.clone();
                async move { version(&array.stamps(mine, 0, 8).await.unwrap()) }
            });
            array.clock.sleep(Duration::from_millis(3)).await;
            let mut history = vec![1];
            for step in 0..4_u32 {
                let next = u64::from(step) + 2;
                match sequence / 5_u32.pow(step) % 5 {
                    0 => {
                        array.write(mine, 0, 8, next).await.unwrap();
                        history.push(next);
                    }
                    1 => {
                        let prepared = array.adapter.prepare_zero(mine, 0, MIB, Class::Host).await.unwrap();
                        array.adapter.apply_zero(prepared, 0);
                        history.push(0);
                    }
                    2 => array.adapter.destage(&[mine]).await.unwrap(),
                    3 => evict_all(&array.adapter),
                    _ => {
                        array.write(other, u64::from(step) * 2048, 8, 77).await.unwrap();
                        // Free extents are taken lowest first: what the first gave up is taken here.
                        array.adapter.destage(&[other]).await.unwrap();
                    }
                }
            }
            drop(held);
            let seen = reader.await.unwrap();
            assert!(history.contains(&seen), "{sequence}: read {seen}, never was there: {history:?}");
            let newest = history[history.len() - 1];
            assert_eq!(version(&array.stamps(mine, 0, 8).await.unwrap()), newest, "sequence {sequence}");
            array.adapter.destage(&[mine]).await.unwrap();
            evict_all(&array.adapter);
            assert_eq!(version(&array.stamps(mine, 0, 8).await.unwrap()), newest, "sequence {sequence}");
        });
    }
}

#[test]
fn what_is_overwritten_on_its_way_stays_dirty_with_the_newer_content() {
    let bed = bed(8);
    life(async {
        let array = bed.open().await.unwrap();
        let volume = array.create(1, MIB, VolumeKind::Thin).await;
        array.write(volume, 0, 16, 1).await.unwrap();
        let held = bed.watches[0].hold.clone().write_owned().await;
        let destage = tokio::spawn({
            let adapter = array.adapter.clone();
            async move { adapter.destage(&[volume]).await }
        });
        array.clock.sleep(Duration::from_millis(5)).await;
        array.write(volume, 0, 8, 2).await.unwrap();
        assert_eq!(version(&array.stamps(volume, 0, 8).await.unwrap()), 2);
        drop(held);
        destage.await.unwrap().unwrap();
        let usage = &array.adapter.usage().volumes[0];
        assert_eq!((usage.dirty_pages, usage.clean_pages, usage.written_bytes), (1, 1, 2 * PAGE));
        assert_eq!(version(&array.stamps(volume, 0, 8).await.unwrap()), 2);
        array.adapter.destage(&[volume]).await.unwrap();
    });
    bed.crash(&SeededEntropy::new(1));
    life(async {
        let array = bed.open().await.unwrap();
        assert_eq!(version(&array.stamps(VolumeId(1), 0, 8).await.unwrap()), 2);
        assert_eq!(version(&array.stamps(VolumeId(1), 8, 8).await.unwrap()), 1);
    });
}

#[test]
fn a_destage_whose_caller_went_away_ends_by_itself() {
    let bed = bed(8);
    life(async {
        let array = bed.open().await.unwrap();
        let volume = array.create(1, MIB, VolumeKind::Thin).await;
        array.write(volume, 0, 8, 1).await.unwrap();
        let held = bed.watches[0].hold.clone().write_owned().await;
        tokio::select! {
            biased;
            _ = async { array.adapter.destage(&[volume]).await } => panic!("writes are held"),
            () = array.clock.sleep(Duration::from_millis(2)) => {}
        }
        array.write(volume, 0, 8, 2).await.unwrap();
        drop(held);
        array.adapter.destage(&[volume]).await.unwrap();
        evict_all(&array.adapter);
        assert_eq!(version(&array.stamps(volume, 0, 8).await.unwrap()), 2);
    });
}

#[test]
fn a_page_that_is_overwritten_all_the_time_is_destaged_all_the_same() {
    let bed = bed(8);
    life(async {
        let array = bed.open().await.unwrap();
        let volume = array.create(1, MIB, VolumeKind::Thin).await;
        array.adapter.set_gate(volume, Some(bed.gate.clone())).unwrap();
        let host = async {
            for number in 1.. {
                let (prepared, slots) = array.ready(volume, 0, 8).await.unwrap();
                array.adapter.apply(prepared, &fill(slots, volume, 0, 8, number, number), number);
                // The journal is always behind the newest write.
                bed.gate.advance(number.saturating_sub(3));
                array.clock.sleep(Duration::from_millis(1)).await;
            }
        };
        let destage = async {
            array.clock.sleep(Duration::from_millis(5)).await;
            tokio::time::timeout(Duration::from_millis(50), array.adapter.destage(&[volume])).await
        };
        tokio::select! { biased; () = host => {} done = destage => done.expect("it ends").unwrap() }
    });
}

#[test]
fn a_closed_gate_holds_only_its_own_volume_and_setting_none_opens_it() {
    let bed = bed(8);
    life(async {
        let array = bed.open().await.unwrap();
        let (gated, free) =
            (array.create(1, MIB, VolumeKind::Thin).await, array.create(2, MIB, VolumeKind::Thin).await);
        array.adapter.set_gate(gated, Some(Arc::new(Gate::new(4)))).unwrap();
        let (prepared, slots) = array.ready(gated, 0, 8).await.unwrap();
        array.adapter.apply(prepared, &fill(slots, gated, 0, 8, 1, 0), 5);
        array.write(free, 0, 8, 1).await.unwrap();
        let waiting = tokio::spawn({
            let adapter = array.adapter.clone();
            async move { adapter.destage(&[gated]).await }
        });
        array.adapter.destage(&[free]).await.unwrap();
        array.clock.sleep(Duration::from_secs(5)).await;
        assert!(!waiting.is_finished());
        array.adapter.set_gate(gated, None).unwrap();
        waiting.await.unwrap().unwrap();
    });
}

#[test]
fn nothing_is_lost_while_the_units_refuse_and_hosts_see_why() {
    let bed = bed(12);
    life(async {
        let array = bed.open().await.unwrap();
        let volume = array.create(1, 4 * MIB, VolumeKind::Thin).await;
        let background = tokio::spawn({
            let adapter = array.adapter.clone();
            async move { adapter.run().await }
        });
        bed.watches[0].disk.inject(Fault::NoSpace);
        let mut written = 0;
        let refused = loop {
            match array.write(volume, written * 8, 8, written + 1).await {
                Ok(()) => written += 1,
                Err(error) => break error,
            }
            array.clock.sleep(Duration::from_millis(1)).await;
        };
        assert!(matches!(refused, VolumeError::NoSpace { .. }));
        assert_eq!(array.adapter.check_writable(volume), Err(refused.clone()));
        assert_eq!(array.adapter.destage(&[volume]).await, Err(refused));
        assert_eq!(array.adapter.usage().volumes[0].dirty_pages, usize::try_from(written).unwrap());
        bed.watches[0].disk.heal();
        array.clock.sleep(Duration::from_secs(1)).await;
        assert_eq!(array.adapter.usage().volumes[0].dirty_pages, 0, "it goes on by itself");
        assert_eq!(array.adapter.check_writable(volume), Ok(()));
        evict_all(&array.adapter);
        for page in 0..written {
            assert_eq!(version(&array.stamps(volume, page * 8, 8).await.unwrap()), page + 1);
        }
        background.abort();
    });
}

#[test]
fn a_failed_flush_makes_nothing_durable_and_loses_nothing_in_the_cache() {
    let bed = bed(8);
    life(async {
        let array = bed.open().await.unwrap();
        let volume = array.create(1, MIB, VolumeKind::Thin).await;
        array.write(volume, 0, 8, 1).await.unwrap();
        bed.watches[0].disk.inject(Fault::NextFlush);
        assert!(matches!(array.adapter.destage(&[volume]).await, Err(VolumeError::Disk(_))));
        assert!(array.adapter.destage(&[volume]).await.is_err(), "it is never retried and believed");
        assert_eq!(version(&array.stamps(volume, 0, 8).await.unwrap()), 1);
        assert_eq!(array.adapter.usage().volumes[0].dirty_pages, 1);
    });
}

#[test]
fn who_asks_together_shares_flushes_and_loads() {
    let bed = bed(8);
    life(async {
        let array = bed.open().await.unwrap();
        let volume = array.create(1, 2 * MIB, VolumeKind::Thick).await;
        for round in 0..2 {
            for page in 0..64 {
                array.write(volume, page * 8, 8, 1 + round).await.unwrap();
            }
            let before = bed.watches[0].disk.counts();
            let asked = (0..64).map(|page| array.adapter.destage_range(volume, page * PAGE, PAGE));
            assert!(join_all(asked).await.iter().all(Result::is_ok));
            let after = bed.watches[0].disk.counts();
            assert!(after.flushes - before.flushes <= 4, "the first, then all others together");
            assert!(after.writes - before.writes <= 6);
        }
        evict_all(&array.adapter);
        assert_eq!(array.adapter.usage().volumes[0].clean_pages, 0);
        let before = bed.watches[0].disk.counts();
        assert!(array.adapter.try_read(volume, 0, 4096).is_none());
        let readers = (0..8).map(|_| array.stamps(volume, 0, 512));
        assert!(join_all(readers).await.iter().all(Result::is_ok));
        assert_eq!(bed.watches[0].disk.counts().reads - before.reads, 1, "64 pages in a row, one load");
        assert!(array.adapter.try_read(volume, 0, 4096).is_some());
    });
}

#[test]
fn unmapped_space_is_used_again_and_only_what_is_written_is_named() {
    let bed = bed(5);
    life(async {
        let array = bed.open().await.unwrap();
        let free = array.adapter.usage().groups[0].free_extents;
        assert!(free >= 2);
        let volume = array.create(1, 1 << 40, VolumeKind::Thin).await;
        assert_eq!(array.adapter.written(volume, 0), Ok(None));
        let far = (1 << 40) - MIB;
        for round in 1..20 {
            array.write(volume, far / 512 + 8, 16, round).await.unwrap();
            assert_eq!(array.adapter.written(volume, 5), Ok(Some(far + PAGE..far + 3 * PAGE)));
            array.adapter.destage(&[volume]).await.unwrap();
            assert_eq!(
                array.adapter.written(volume, far + PAGE + 7),
                Ok(Some(far + PAGE + 7..far + 3 * PAGE))
            );
            assert_eq!(array.adapter.usage().volumes[0].allocated_bytes, MIB);
            let all = array.adapter.prepare_zero(volume, 0, 1 << 40, Class::Host).await.unwrap();
            array.adapter.apply_zero(all, 0);
            // A power loss now would bring the old content back: it counts until the map says durably that it is gone.
            assert_eq!(array.adapter.written(volume, 0), Ok(Some(far + PAGE..far + 3 * PAGE)));
            assert_eq!(array.adapter.usage().volumes[0].zero_pages, 2);
            array.adapter.destage(&[volume]).await.unwrap();
            assert_eq!(array.adapter.written(volume, 0), Ok(None));
            assert_eq!(array.adapter.usage().groups[0].free_extents, free);
        }
    });
}

#[test]
fn a_full_group_refuses_new_extents_and_takes_the_rest() {
    let bed = bed(5);
    life(async {
        let array = bed.open().await.unwrap();
        let free = u64::from(array.adapter.usage().groups[0].free_extents);
        let volume = array.create(1, 64 * MIB, VolumeKind::Thin).await;
        for extent in 0..=free {
            array.write(volume, extent * 2048, 8, 1).await.unwrap();
        }
        let full = array.adapter.destage(&[volume]).await;
        assert!(matches!(full, Err(VolumeError::NoSpace { .. })));
        let usage = array.adapter.usage();
        assert_eq!((usage.volumes[0].dirty_pages, usage.groups[0].free_extents), (1, 0));
        assert!(matches!(array.write(volume, 60 * 2048, 8, 1).await, Err(VolumeError::NoSpace { .. })));
        array.write(volume, 8, 8, 2).await.unwrap();
        let spec =
            VolumeSpec { id: VolumeId(2), parity_group: GROUP, size_bytes: MIB, kind: VolumeKind::Thick };
        assert!(matches!(array.adapter.create_volume(spec).await, Err(VolumeError::NoSpace { .. })));
        // Room comes back by unmapping, and what waited goes out.
        let gone = array.adapter.prepare_zero(volume, 0, MIB, Class::Host).await.unwrap();
        array.adapter.apply_zero(gone, 0);
        let _ = array.adapter.destage(&[volume]).await;
        array.adapter.destage(&[volume]).await.unwrap();
        assert_eq!(array.adapter.usage().volumes[0].dirty_pages, 0);
    });
}

#[test]
fn a_deleted_volume_leaves_nothing_behind() {
    let bed = bed(8);
    life(async {
        let array = bed.open().await.unwrap();
        let volume = array.create(1, 2 * MIB, VolumeKind::Thick).await;
        array.write(volume, 0, 64, 1).await.unwrap();
        array.adapter.destage(&[volume]).await.unwrap();
        array.write(volume, 0, 8, 2).await.unwrap();
        let (prepared, slots) = array.ready(volume, 3, 2).await.unwrap();
        array.adapter.delete_volume(volume).await.unwrap();
        assert_eq!(array.stamps(volume, 0, 8).await, Err(VolumeError::Unknown { volume }));
        array.create(1, 2 * MIB, VolumeKind::Thick).await;
        array.adapter.apply(prepared, &fill(slots, volume, 3, 2, 9, 0), 0);
        assert_eq!(version(&array.stamps(volume, 0, 4096).await.unwrap()), 0);
        assert_eq!(array.adapter.usage().volumes[0].dirty_pages, 0);
    });
    bed.crash(&SeededEntropy::new(1));
    life(async {
        let array = bed.open().await.unwrap();
        assert_eq!(version(&array.stamps(VolumeId(1), 0, 4096).await.unwrap()), 0);
        assert_eq!(array.adapter.volumes().len(), 1);
    });
}

#[test]
fn a_journal_volume_is_reached_past_the_cache_only() {
    let bed = bed(8);
    life(async {
        let array = bed.open().await.unwrap();
        let volume = array.create(1, 3 * MIB, VolumeKind::Journal).await;
        let raw = array.adapter.raw(volume).unwrap();
        assert_eq!(
            array.adapter.prepare(volume, 0, 512, Class::Host).await.err(),
            Some(VolumeError::Kind { volume })
        );
        let slots = array.pool.take(Class::Host, 4).await;
        let slots = fill(slots, volume, 2040, 32, 5, 0);
        raw.write(vec![(MIB - 2 * PAGE, slots[..3].to_vec()), (0, slots[3..].to_vec())]).await.unwrap();
        raw.flush().await.unwrap();
        let back = raw.read(MIB - 2 * PAGE, 3, Class::JournalRead).await.unwrap();
        assert!(back.iter().zip(&slots).all(|(a, b)| a[..] == b[..]));
        assert!(raw.read(3 * MIB - PAGE, 2, Class::JournalRead).await.is_err());
        assert!(raw.read(1, 1, Class::JournalRead).await.is_err());
        array.adapter.delete_volume(volume).await.unwrap();
        assert!(raw.write(vec![(0, slots)]).await.is_err());
    });
    bed.crash(&SeededEntropy::new(1));
}

#[test]
fn writers_with_far_more_data_than_memory_get_through() {
    let bed = Bed::new(3, 2, Level::Raid0, 16 * MIB, 64 * 4096);
    life(async {
        let array = bed.open().await.unwrap();
        let volume = array.create(1, 16 * MIB, VolumeKind::Thin).await;
        let writer = |i: u64| {
            let array = array.clone();
            async move {
                for n in 0..60 {
                    array
                        .write(volume, (i * 60 + n) * 50 % 30_000, 1 + (i + n) % 90, i * 100 + n + 1)
                        .await
                        .unwrap();
                }
            }
        };
        let work = join_all((0..6).map(writer));
        let limit = array.clock.sleep(Duration::from_secs(600));
        tokio::select! { biased; _ = work => {} () = array.adapter.run() => {} () = limit => panic!("stuck") }
        array.adapter.destage(&[volume]).await.unwrap();
        assert_eq!(array.adapter.oldest_dirty(), None);
    });
}
