//! The flows of data that the specification draws (figures 3, 12, 16 and 21), arrow by arrow: what is where, and when.

use super::reading::{IMMEDIATE, follow, restore};
use super::rig::{Choice, DATA, JOURNAL, Lane, Rig, Way, life};
use crate::copy::group::Group;
use crate::disk::VolumeId;
use crate::disk::slot::{Class, SLOT_BYTES};
use holdfast_journal::{UpdateNumber, VolumeNumber};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Pages of the journal volume, on its units, that are full of `byte`.
async fn in_journal_volume(group: &Group, byte: u8) -> usize {
    let raw = group.raw(VolumeNumber(JOURNAL)).unwrap();
    let mut found = 0;
    for offset in (0..raw.size_bytes()).step_by(SLOT_BYTES) {
        let page = raw.read(offset, 1, Class::JournalRead).await.unwrap();
        found += usize::from(page[0].iter().all(|one| *one == byte));
    }
    found
}

/// Bytes of the data volume that are on its units.
fn on_units(group: &Group) -> u64 {
    let usage = group.disk.usage();
    usage.volumes.iter().find(|volume| volume.volume == VolumeId(DATA)).unwrap().written_bytes
}

/// What the cache says of a page.
fn in_cache(group: &Group, page: u64) -> Option<Vec<u8>> {
    let pieces = group.disk.try_read(VolumeId(DATA), page * SLOT_BYTES as u64, SLOT_BYTES);
    pieces.map(|pieces| pieces.to_vec())
}

fn unit_reads(group: &Group) -> u64 {
    group.unit_reads.load(Ordering::Relaxed)
}

#[test]
fn figure_3_a_journal_is_update_information_and_write_data_each_in_its_area() {
    life(async {
        let rig = Rig::new(Choice::default()).await;
        let used = || {
            let usage = rig.source.lock().journal.usage();
            (usage.info_used, usage.data_used)
        };
        let empty = used();
        let number = rig.write(3, 2, 0x5a).await;
        rig.source.durable(number).await;
        let full = used();
        assert!(full.0 > empty.0, "its update information takes room in the one");
        assert_eq!(full.1 - empty.1, 2 * SLOT_BYTES as u64, "its write data in the other");
        let journals = rig.source.load(number, 1, 1 << 20, Class::JournalRead).await.unwrap();
        let (update, payload) = &journals[0];
        assert_eq!((update.number, update.data_bytes), (number, 8192));
        assert!(payload.slots.len() == 2 && payload.slots.iter().all(|slot| slot[0] == 0x5a));
    });
}

#[test]
fn figure_12_write_data_goes_through_the_cache_to_the_journal_volume_and_to_its_own_place() {
    life(async {
        let rig = Rig::new(Choice::default()).await;
        let next = rig.source.lock().next;
        let number = rig.write(3, 1, 0x5a).await;
        // 1100: it is in the cache, and nowhere else; 1120: its update information is made, with number and place.
        assert_eq!((number, in_cache(&rig.source, 3)), (next, Some(vec![0x5a; SLOT_BYTES])));
        assert!(rig.source.durable_here() < number && on_units(&rig.source) == 0);
        let information = rig.source.load_information(number, Class::JournalRead).await.unwrap();
        let extent = information[0].extents[0];
        assert_eq!((extent.volume.0, extent.start_bytes), (DATA, 3 * SLOT_BYTES as u64));
        // 1130, 1140, 1150: the journal is written to its volume, and before that nothing to any other.
        rig.source.durable(number).await;
        assert_eq!((in_journal_volume(&rig.source, 0x5a).await, on_units(&rig.source)), (1, 0));
        // 1140, 1110: the write data is written to the units of its volume, from the same pages.
        rig.source.disk.destage(&[VolumeId(DATA)]).await.unwrap();
        assert_eq!(on_units(&rig.source), SLOT_BYTES as u64);
        assert_eq!(in_cache(&rig.source, 3), Some(vec![0x5a; SLOT_BYTES]));
    });
}

/// So little memory for journals that most of what is written leaves it.
const LITTLE_BYTES: usize = 256 << 10;

async fn written(rig: &Rig) -> UpdateNumber {
    let mut newest = UpdateNumber::NONE;
    for page in 0..300 {
        newest = rig.write(page, 1, 0x33).await;
    }
    rig.source.durable(newest).await;
    newest
}

#[test]
fn figure_16_journals_come_from_the_units_through_the_cache_to_the_reader_and_leave_it() {
    life(async {
        let mut rig = Rig::new(Choice { cache_bytes: LITTLE_BYTES, ..Choice::default() }).await;
        let newest = written(&rig).await;
        rig.source.disk.destage(&[VolumeId(DATA)]).await.unwrap();
        let (reads, in_use) = (unit_reads(&rig.source), rig.source.pool.in_use());
        // 1410: the command; 1420 to 1450: update information and write data are read from the units.
        let way = Arc::new(Way::new(&rig, &[Lane::default()]));
        follow(&mut rig, &way, IMMEDIATE);
        rig.until("read", |rig| rig.copy.durable_here() == newest).await;
        assert!(unit_reads(&rig.source) > reads, "no longer in memory, so from the units");
        // 1460: they have gone to the reader, and the cache that held them is free again.
        assert_eq!(in_journal_volume(&rig.copy, 0x33).await, 300);
        assert!(rig.source.pool.in_use() <= in_use, "{} of {in_use} pages", rig.source.pool.in_use());
    });
}

#[test]
fn figure_21_journals_come_from_the_units_and_go_through_the_cache_to_the_s_vol() {
    life(async {
        let mut rig = Rig::new(Choice { cache_bytes: LITTLE_BYTES, ..Choice::default() }).await;
        let newest = written(&rig).await;
        let way = Arc::new(Way::new(&rig, &[Lane::default()]));
        follow(&mut rig, &way, IMMEDIATE);
        rig.until("read", |rig| rig.copy.durable_here() == newest).await;
        let reads = unit_reads(&rig.copy);
        assert_eq!(on_units(&rig.copy), 0, "nothing is restored yet");
        // 1910 to 1940: update information and write data are read from the units.
        restore(&mut rig);
        rig.until("restored", |rig| rig.copy.lock().restored == newest).await;
        assert!(unit_reads(&rig.copy) > reads, "no longer in memory, so from the units");
        // 1950: the S-VOL has it, in the cache; 1960: and on its units.
        assert_eq!(in_cache(&rig.copy, 299), Some(vec![0x33; SLOT_BYTES]));
        rig.copy.disk.destage(&[VolumeId(DATA)]).await.unwrap();
        assert_eq!(on_units(&rig.copy), 300 * SLOT_BYTES as u64);
    });
}
