//! Both backends on real files.

use super::opener::{Engine, FileOpener, OpenMode, OpenUnitError, UnitOpener};
use crate::clock::{SeededEntropy, WallNs};
use crate::disk::device::{BlockDevice, DeviceError};
use crate::disk::raid::assemble::Making;
use crate::disk::raid::group::ParityGroup;
use crate::disk::raid::{ArrayIdentity, GroupIdentity, GroupSpec, Level, Owner, Run};
use crate::disk::slot::{Class, SLOT_BYTES, Slot, SlotMut, SlotPool};
use std::sync::Arc;

const MIB: u64 = 1 << 20;

/// Every engine that works here.
fn openers() -> Vec<FileOpener> {
    let mut openers = vec![FileOpener::new(Engine::plain().unwrap())];
    match Engine::ring() {
        Ok(ring) => openers.push(FileOpener::new(ring)),
        Err(error) => println!("the ring is not tested: {error}"),
    }
    openers
}

fn numbered(pool: &SlotPool, count: usize) -> Vec<Slot> {
    let slots =
        pool.try_take(Class::Host, count).unwrap().into_iter().enumerate().map(|(index, mut slot)| {
            slot.fill(0);
            slot[..8].copy_from_slice(&(index as u64 + 1).to_le_bytes());
            slot
        });
    slots.map(SlotMut::freeze).collect()
}

fn number(slot: &SlotMut) -> u64 {
    u64::from_le_bytes(slot[..8].try_into().unwrap())
}

#[tokio::test]
async fn transfers_of_any_length_read_back() {
    let pool = SlotPool::new(64 << 20);
    for opener in openers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("unit").to_str().unwrap().to_owned();
        let unit = opener.open(&path, OpenMode::Create { size_bytes: 16 * MIB }).await.unwrap();
        assert!(unit.starts_zeroed() && unit.length_bytes() == 16 * MIB);
        for count in [0, 1, 3, 1024, 1025, 3000] {
            unit.write(8 * SLOT_BYTES as u64, numbered(&pool, count)).await.unwrap();
            unit.flush().await.unwrap();
            let read =
                unit.read(8 * SLOT_BYTES as u64, pool.try_take(Class::Host, count).unwrap()).await.unwrap();
            assert!(read.iter().map(number).eq(1..=count as u64), "{opener:?} {count}");
        }
        unit.discard(0, MIB).await.unwrap();
        let outside = unit.write(16 * MIB, numbered(&pool, 1)).await;
        assert!(matches!(outside, Err(DeviceError::Write { .. })));
        drop(unit);
        let unit = opener.open(&path, OpenMode::Existing).await.unwrap();
        assert!(!unit.starts_zeroed());
        let read = unit.read(3000 * SLOT_BYTES as u64, pool.try_take(Class::Host, 2).unwrap()).await.unwrap();
        assert_eq!(number(&read[0]), 2993);
    }
    assert_eq!(pool.in_use(), 0);
}

/// Memory that the ring knows, memory that it does not, and both in one transfer.
#[tokio::test]
async fn transfers_of_memory_that_was_lent_read_back() {
    for opener in openers() {
        let (lent, other) = (SlotPool::new(32 << 20), SlotPool::new(32 << 20));
        lent.make_at_once(|piece| opener.lend(piece));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("unit").to_str().unwrap().to_owned();
        let unit = opener.open(&path, OpenMode::Create { size_bytes: 16 * MIB }).await.unwrap();
        for (from_lent, from_other) in [(1, 0), (1025, 0), (2, 1), (0, 2)] {
            let count = from_lent + from_other;
            let mut slots = Vec::new();
            for (pool, count) in [(&lent, from_lent), (&other, from_other)] {
                slots.extend(pool.try_take(Class::Host, count).unwrap());
            }
            for (slot, index) in slots.iter_mut().zip(1_u64..) {
                slot.fill(7);
                slot[..8].copy_from_slice(&index.to_le_bytes());
            }
            unit.write(0, slots.into_iter().map(SlotMut::freeze).collect()).await.unwrap();
            unit.flush().await.unwrap();
            let into: Vec<_> = [(&other, from_other), (&lent, from_lent)]
                .into_iter()
                .flat_map(|(pool, count)| pool.try_take(Class::Host, count).unwrap())
                .collect();
            let read = unit.read(0, into).await.unwrap();
            assert!(read.iter().map(number).eq(1..=count as u64), "{opener:?} {count}");
            assert!(read.iter().all(|slot| slot[8..].iter().all(|byte| *byte == 7)), "{opener:?} {count}");
        }
        let outside = unit.write(16 * MIB, numbered(&lent, 1)).await;
        assert!(matches!(outside, Err(DeviceError::Write { .. })));
    }
}

#[tokio::test]
async fn many_transfers_at_once_all_end() {
    let pool = SlotPool::new(64 << 20);
    for opener in openers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("unit").to_str().unwrap().to_owned();
        let unit = opener.open(&path, OpenMode::CreateSparse { size_bytes: 16 * MIB }).await.unwrap();
        let slots = numbered(&pool, 2000);
        let writes = slots
            .iter()
            .enumerate()
            .map(|(at, slot)| unit.write((at * SLOT_BYTES) as u64, vec![slot.clone()]));
        let flushes = (0..20).map(|_| unit.flush());
        let both = futures_util::future::join(
            futures_util::future::join_all(writes),
            futures_util::future::join_all(flushes),
        );
        let (writes, flushes) = both.await;
        assert!(writes.iter().chain(&flushes).all(Result::is_ok));
        let reads =
            (0..2000).map(|at| unit.read((at * SLOT_BYTES) as u64, pool.try_take(Class::Host, 1).unwrap()));
        let reads = futures_util::future::join_all(reads).await;
        assert!(reads.iter().map(|read| number(&read.as_ref().unwrap()[0])).eq(1..=2000));
    }
}

#[tokio::test]
async fn a_dropped_transfer_keeps_its_pages_until_the_end() {
    let pool = SlotPool::new(64 << 20);
    for opener in openers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("unit").to_str().unwrap().to_owned();
        let unit = opener.open(&path, OpenMode::Create { size_bytes: 16 * MIB }).await.unwrap();
        for _ in 0..50 {
            let mut write = unit.write(0, numbered(&pool, 100));
            let _ = futures_util::poll!(&mut write);
            drop(write);
            let mut read = unit.read(0, pool.try_take(Class::Host, 100).unwrap());
            let _ = futures_util::poll!(&mut read);
        }
        drop(unit);
        drop(opener);
        // The engine ends only when the last transfer has: then every page is back.
        tokio::time::timeout(std::time::Duration::from_secs(20), async {
            while pool.in_use() != 0 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("all pages come back");
    }
}

#[tokio::test]
async fn what_cannot_be_opened_says_why_by_name() {
    for opener in openers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("unit").to_str().unwrap().to_owned();
        let missing = opener.open(&path, OpenMode::Existing).await.unwrap_err();
        assert_eq!(missing, OpenUnitError::Missing { path: path.clone() });
        let huge = opener.open(&path, OpenMode::Create { size_bytes: 1 << 50 }).await.unwrap_err();
        assert!(
            matches!(&huge, OpenUnitError::NoRoom { size_bytes, .. } if *size_bytes == 1 << 50),
            "{huge}"
        );
        assert!(huge.to_string().contains(&path));
        let unit = opener
            .open(&path, OpenMode::Create { size_bytes: MIB })
            .await
            .expect("the failed attempt left nothing");
        let again = opener.open(&path, OpenMode::Create { size_bytes: MIB }).await.unwrap_err();
        assert_eq!(again, OpenUnitError::Exists { path: path.clone() });
        let twice = opener.open(&path, OpenMode::Existing).await.unwrap_err();
        assert_eq!(twice, OpenUnitError::InUse { path: path.clone() });
        drop(unit);
    }
}

#[tokio::test]
async fn a_file_cut_short_while_open_is_an_error_and_not_zeros() {
    let pool = SlotPool::new(1 << 20);
    for opener in openers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("unit").to_str().unwrap().to_owned();
        let unit = opener.open(&path, OpenMode::Create { size_bytes: MIB }).await.unwrap();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(MIB / 2).unwrap();
        let read = unit.read(MIB / 2 - 4096, pool.try_take(Class::Host, 2).unwrap()).await;
        assert!(matches!(read, Err(DeviceError::Read { .. })), "{opener:?}");
    }
}

/// A thread of the engine may still hold the last transfer's handle, and with it the lock, for a moment.
async fn open_again(opener: &FileOpener, path: &str) -> Arc<dyn BlockDevice> {
    loop {
        match opener.open(path, OpenMode::Existing).await {
            Err(OpenUnitError::InUse { .. }) => tokio::task::yield_now().await,
            opened => return opened.unwrap(),
        }
    }
}

#[tokio::test]
async fn a_parity_group_lives_on_files_and_on_a_memory_file_system() {
    for folder in [tempfile::tempdir().ok(), tempfile::tempdir_in("/dev/shm").ok()].into_iter().flatten() {
        for opener in openers() {
            let pool = SlotPool::new(16 << 20);
            let owner = Owner { array: ArrayIdentity(1), number: 64001 };
            let identity = GroupIdentity(2);
            let spec =
                GroupSpec { identity, name: "pg0".into(), level: Level::Raid5, stripe_unit_bytes: 65536 };
            let path = |index: usize| folder.path().join(format!("u{index}")).to_str().unwrap().to_owned();
            let mut units = Vec::new();
            for index in 0..4 {
                let mode = OpenMode::Create { size_bytes: 2 * MIB };
                units.push((path(index), opener.open(&path(index), mode).await.unwrap()));
            }
            let entropy = SeededEntropy::new(1);
            let making = Making { entropy: &entropy, created: WallNs(0) };
            let group = ParityGroup::create(owner, spec, units, pool.clone(), making).await.unwrap();
            let written = numbered(&pool, 200);
            group.write(vec![Run { offset_bytes: 5 * 4096, slots: written }]).await.unwrap();
            group.flush().await.unwrap();
            drop(group);
            let mut units = Vec::new();
            for index in [3, 0, 2] {
                units.push((path(index), open_again(&opener, &path(index)).await));
            }
            let group = ParityGroup::open(owner, identity, units, pool.clone()).await.unwrap();
            assert!(group.state().degraded);
            let read = group.read(5 * 4096, pool.try_take(Class::Host, 200).unwrap()).await.unwrap();
            assert!(read.iter().map(number).eq(1..=200));
            drop(group);
            (0..4).for_each(|index| std::fs::remove_file(path(index)).unwrap());
        }
    }
}
