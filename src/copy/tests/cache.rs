//! The cache for journals (promise J14): what is in it is served from it, and what does not fit into it is served from the
//! journal volume.

use super::reading::{IMMEDIATE, follow, restore};
use super::rig::{Choice, Lane, Rig, Way, life};
use crate::disk::slot::Class;
use holdfast_journal::UpdateNumber;
use std::sync::Arc;
use std::sync::atomic::Ordering;

fn unit_reads(rig: &Rig) -> (u64, u64) {
    let reads = |group: &super::super::group::Group| group.unit_reads.load(Ordering::Relaxed);
    (reads(&rig.source), reads(&rig.copy))
}

async fn write(rig: &Rig, updates: u64) -> UpdateNumber {
    let mut newest = UpdateNumber::NONE;
    for update in 0..updates {
        newest = rig.write(update % 1000, 1, 1).await;
    }
    rig.source.durable(newest).await;
    newest
}

#[test]
fn figures_17_and_22_read_no_unit_for_what_is_in_the_cache() {
    life(async {
        let mut rig = Rig::new(Choice::default()).await;
        let newest = write(&rig, 300).await;
        let way = Arc::new(Way::new(&rig, &[Lane::default(), Lane::default()]));
        follow(&mut rig, &way, IMMEDIATE);
        restore(&mut rig);
        rig.until("restored", |rig| rig.copy.lock().restored == newest).await;
        assert_eq!(unit_reads(&rig), (0, 0), "reads of journal volumes at the source and at the copy");
    });
}

#[test]
fn figure_14_the_cache_has_a_set_size_and_what_it_does_not_hold_is_read_from_the_units() {
    life(async {
        const CACHE: usize = 256 << 10;
        let mut rig = Rig::new(Choice { cache_bytes: CACHE, ..Choice::default() }).await;
        // 300 pages and their bookkeeping are more than four times what it takes.
        let newest = write(&rig, 300).await;
        let (kept, oldest) = {
            let seq = rig.source.lock();
            (seq.kept.bytes(), seq.kept.get(UpdateNumber::FIRST).is_some())
        };
        assert!(kept <= CACHE && !oldest, "{kept} bytes are kept of the 300 pages");
        let way = Arc::new(Way::new(&rig, &[Lane::default()]));
        follow(&mut rig, &way, IMMEDIATE);
        restore(&mut rig);
        rig.until("restored", |rig| rig.copy.lock().restored == newest).await;
        assert!(unit_reads(&rig).0 > 0, "the older ones came from the journal volume");
    });
}

#[test]
fn groups_share_the_cache_and_one_that_ends_gives_its_part_back() {
    let cache = crate::copy::kept::JournalCache::new(100);
    let first = cache.share();
    assert_eq!(first.bytes(), 100);
    let second = cache.share();
    assert_eq!((first.bytes(), second.bytes()), (50, 50));
    drop(first);
    assert_eq!(second.bytes(), 100);
}

#[test]
fn steps_1350_and_1380_update_information_lies_in_memory_until_it_is_written() {
    life(async {
        let rig = Rig::new(Choice::default()).await;
        let number = rig.write(7, 1, 0x5a).await;
        assert!(rig.source.durable_here() < number, "it is not written yet");
        let found = rig.source.load_information(number, Class::JournalRead).await.unwrap();
        let update = found.first().expect("its update information is there");
        assert_eq!((update.number, update.data_bytes), (number, 4096));
        assert_eq!(unit_reads(&rig), (0, 0));
        // Nobody is handed it before it is durable.
        let loaded = rig.source.load(number, 1, 1 << 20, Class::JournalRead).await.unwrap();
        assert!(loaded.is_empty());
        rig.source.durable(number).await;
        let loaded = rig.source.load(number, 1, 1 << 20, Class::JournalRead).await.unwrap();
        assert_eq!((loaded.len(), unit_reads(&rig)), (1, (0, 0)));
    });
}

#[test]
fn figure_14_a_later_write_never_changes_the_data_of_an_earlier_journal() {
    life(async {
        let mut rig = Rig::new(Choice::default()).await;
        let first = rig.write(3, 1, 0x11).await;
        let second = rig.write(3, 1, 0x22).await;
        rig.source.durable(second).await;
        let loaded = rig.source.load(first, 2, 1 << 20, Class::JournalRead).await.unwrap();
        let bytes: Vec<u8> = loaded.iter().map(|(_, payload)| payload.slots[0][0]).collect();
        assert_eq!((bytes, unit_reads(&rig)), (vec![0x11, 0x22], (0, 0)));
        rig.tasks.abort_all();
    });
}
