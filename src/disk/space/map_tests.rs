//! The map without its log's units: what is logged, replayed, shared and given away.

use super::bits::PageBits;
use super::map::*;
use super::record::Record;
use super::replay::Replay;
use super::share::Borrowed;
use super::tree::visits;
use crate::clock::SeededEntropy;
use std::collections::BTreeMap;

fn bits(pages: &[u8]) -> PageBits {
    let mut bits = PageBits::default();
    for page in pages {
        bits.insert(*page);
    }
    bits
}

fn commit(map: &mut Map) -> Vec<Record> {
    let taken = map.take_changes();
    let records = taken.records.clone();
    map.changes_are_durable(taken);
    records
}

fn borrow(map: &mut Map, from: VolumeId) -> Result<Borrowed, MapRefusal> {
    let mut borrowed = map.borrow_of(from)?;
    while map.borrow_some(&mut borrowed, 2) {}
    Ok(borrowed)
}

fn snapshot(map: &mut Map, from: u32, to: u32) -> Result<(), MapRefusal> {
    let borrowed = borrow(map, VolumeId(from))?;
    if let Err((refusal, borrowed)) = map.adopt(VolumeId(to), VolumeId(from), borrowed) {
        map.give_back(borrowed);
        return Err(refusal);
    }
    map.complete(VolumeId(to), Origin { volume: VolumeId(from), as_of: u64::from(to) })
}

fn write(map: &mut Map, volume: u32, extent: u32, page: u8) -> Result<Place, MapRefusal> {
    let place = map.place(VolumeId(volume), extent)?;
    match place.from {
        Some(_) => map.mark_moved(VolumeId(volume), extent, &bits(&[page])),
        None => map.mark_written(VolumeId(volume), extent, &bits(&[page])),
    }
    Ok(place)
}

fn replayed(records: impl IntoIterator<Item = Record>, extents: u32) -> Result<Map, String> {
    let mut replay = Replay::default();
    for record in records {
        replay.handle_record(Record::decode(&record.encode())?, extents)?;
    }
    replay.finish(extents)
}

fn stated(map: &Map, part: usize) -> Vec<Record> {
    let mut frozen = map.frozen();
    let parts = std::iter::repeat_with(|| frozen.part(part)).take_while(|records| !records.is_empty());
    parts.flatten().collect()
}

#[test]
fn an_extent_given_up_is_free_only_when_that_is_durable() {
    let mut map = Map::new(1);
    map.create(VolumeId(1), VolumeKind::Thin, EXTENT_BYTES).unwrap();
    map.create(VolumeId(2), VolumeKind::Thin, EXTENT_BYTES).unwrap();
    write(&mut map, 1, 0, 5).unwrap();
    map.mark_zero(VolumeId(1), 0, &bits(&[5]));
    assert_eq!(map.place(VolumeId(2), 0), Err(MapRefusal::NoSpace));
    let failed = map.take_changes();
    map.changes_failed(failed);
    let taken = map.take_changes();
    map.changes_failed(taken);
    let taken = map.take_changes();
    assert!(map.is_unsettled());
    assert_eq!(map.place(VolumeId(2), 0), Err(MapRefusal::NoSpace));
    map.changes_are_durable(taken);
    assert_eq!(map.place(VolumeId(2), 0), Ok(Place { physical: 0, from: None }));
}

/// The crash that would hurt: the first moved away, the second wrote in place, and the first is back where it was.
#[test]
fn the_last_owner_writes_in_place_only_when_the_leaving_of_the_others_is_durable() {
    let mut map = Map::new(9);
    map.create(VolumeId(1), VolumeKind::Thin, EXTENT_BYTES).unwrap();
    write(&mut map, 1, 0, 5).unwrap();
    snapshot(&mut map, 1, 2).unwrap();
    commit(&mut map);
    let old = map.extent(VolumeId(1), 0).unwrap();
    let moved = write(&mut map, 1, 0, 6).unwrap();
    assert!(moved.from == Some(old) && moved.physical != old.physical);
    assert_eq!(map.extent(VolumeId(2), 0), Some(old), "the snapshot is what it was");
    assert!(map.place(VolumeId(2), 0).unwrap().from.is_some(), "the leaving is not durable");
    commit(&mut map);
    assert_eq!(map.place(VolumeId(2), 0), Ok(Place { physical: old.physical, from: None }));
}

#[test]
fn a_thick_volume_has_all_its_extents_in_few_records_or_does_not_exist() {
    let mut map = Map::new(1000);
    assert_eq!(map.create(VolumeId(1), VolumeKind::Thick, 1001 * EXTENT_BYTES), Err(MapRefusal::NoSpace));
    map.create(VolumeId(1), VolumeKind::Thick, 900 * EXTENT_BYTES).unwrap();
    assert_eq!(map.create(VolumeId(1), VolumeKind::Thin, 0), Err(MapRefusal::Exists));
    let taken = map.take_changes();
    assert_eq!(taken.records.len(), 2);
    assert_eq!(replayed([taken.records[0]], 1000).unwrap().free_extents(), 1000);
}

#[test]
fn a_thick_volume_keeps_its_extents_when_it_goes_back_to_an_image_that_has_fewer() {
    let mut map = Map::new(12);
    map.create(VolumeId(1), VolumeKind::Thick, 8 * EXTENT_BYTES).unwrap();
    write(&mut map, 1, 2, 5).unwrap();
    snapshot(&mut map, 1, 2).unwrap();
    assert_eq!(map.volume(VolumeId(2)).unwrap().extents.len(), 1, "what was never written is not shared");
    for extent in 0..8 {
        write(&mut map, 1, extent, 7).unwrap();
    }
    snapshot(&mut map, 1, 3).unwrap();
    commit(&mut map);
    let borrowed = borrow(&mut map, VolumeId(2)).unwrap();
    let Err((refusal, borrowed)) = map.prepare_restore(VolumeId(1), VolumeId(2), borrowed) else {
        panic!("seven extents are needed and three are free");
    };
    assert_eq!(refusal, MapRefusal::NoSpace);
    map.give_back(borrowed);
    map.delete(VolumeId(3)).unwrap();
    commit(&mut map);
    while map.reap(1) {}
    let borrowed = borrow(&mut map, VolumeId(2)).unwrap();
    let restoring = map.prepare_restore(VolumeId(1), VolumeId(2), borrowed).unwrap();
    map.restore(restoring);
    commit(&mut map);
    while map.reap(1) {}
    let restored = map.volume(VolumeId(1)).unwrap();
    assert_eq!(restored.extents.len(), 8);
    assert_eq!(map.written_from(VolumeId(1), 0), Some(2 * 256 + 5..2 * 256 + 6));
    assert_eq!(map.written_from(VolumeId(1), 2 * 256 + 6), None);
    assert_eq!(map.free_extents(), 12 - 8);
}

#[test]
fn extents_of_two_families_or_two_places_are_damage() {
    let volume = |id: u32| Record::Volume {
        volume: VolumeId(id),
        kind: VolumeKind::Thin,
        size_bytes: 4 * EXTENT_BYTES,
        origin: None,
    };
    let extent = |id: u32, extent, physical| Record::Extent {
        volume: VolumeId(id),
        extent,
        physical,
        written: bits(&[1]),
    };
    let shared = Record::Shared { volume: VolumeId(2), from: VolumeId(1) };
    assert!(replayed([volume(1), extent(1, 0, 3), volume(2), extent(2, 0, 3)], 9).is_err());
    assert!(replayed([volume(1), extent(1, 0, 3), volume(2), shared, extent(2, 1, 3)], 9).is_err());
    let map = replayed([volume(1), extent(1, 0, 3), volume(2), shared], 9).unwrap();
    assert!(map.is_shared(3) && map.free_extents() == 8);
    let gone = Record::Deleted { volume: VolumeId(1) };
    let map = replayed([volume(1), extent(1, 0, 3), volume(2), shared, gone], 9).unwrap();
    assert!(!map.is_shared(3) && map.free_extents() == 8);
    let ghost = Record::Shared { volume: VolumeId(1), from: VolumeId(77) };
    assert!(replayed([volume(1), ghost, extent(1, 0, 3)], 9).is_ok());
}

/// Whatever happens, in whatever order commits fail: the log and any statement of the whole map give the same map; the
/// extents that nobody may write in place are those that somebody else has, here or in the durable map; and none is
/// lost.
#[test]
fn replaying_all_changes_or_any_snapshot_gives_the_same_map() {
    for seed in 0..150 {
        let random = SeededEntropy::new(seed);
        let mut map = Map::new(60);
        let mut log = Vec::new();
        let mut durable = Map::new(60);
        for _ in 0..400 {
            let number = |below| u32::try_from(random.below(below)).unwrap();
            let (volume, other, extent) = (number(5), number(5), number(12));
            let page = u8::try_from(random.below(3)).unwrap();
            let id = VolumeId(volume);
            match random.below(16) {
                0 => {
                    let kind = if random.below(2) == 0 { VolumeKind::Thin } else { VolumeKind::Thick };
                    let _ = map.create(id, kind, 12 * EXTENT_BYTES);
                }
                1 => {
                    let _ = map.delete(id);
                }
                2..=5 => {
                    if let Ok(Place { physical, .. }) = write(&mut map, volume, extent, page) {
                        for (owner, held) in durable.volumes() {
                            let has = held.extents.iter().any(|(_, extent)| extent.physical == physical);
                            assert!(!has || owner == id, "seed {seed}: {id:?} writes what {owner:?} has");
                        }
                    }
                }
                6 => map.mark_zero(id, extent, &PageBits::FULL),
                7 => map.mark_zero(id, extent, &bits(&[page])),
                8..=9 => {
                    let _ = snapshot(&mut map, other, volume);
                }
                10 => {
                    let Ok(borrowed) = borrow(&mut map, VolumeId(other)) else { continue };
                    match map.prepare_restore(id, VolumeId(other), borrowed) {
                        Ok(restoring) => map.restore(restoring),
                        Err((_, borrowed)) => map.give_back(borrowed),
                    }
                }
                11 => _ = map.reap(5),
                _ => {
                    let taken = map.take_changes();
                    if random.below(4) == 0 {
                        map.changes_failed(taken);
                    } else {
                        log.extend(taken.records.iter().copied());
                        map.changes_are_durable(taken);
                        durable = replayed(log.iter().copied(), 60).unwrap();
                        assert_eq!(durable.volumes, map.volumes, "seed {seed}");
                    }
                }
            }
        }
        log.extend(commit(&mut map));
        while map.reap(3) {}
        for records in [log, stated(&map, 3), stated(&map, 1000)] {
            let again = replayed(records, 60).unwrap();
            assert_eq!(again.volumes, map.volumes, "seed {seed}");
            let held: Vec<u32> = again.owners.clone();
            let mut counted = map.owners.clone();
            map.moves.values().for_each(|physical| counted[index(*physical)] -= 1);
            assert_eq!(held, counted, "seed {seed}: owners");
            assert_eq!(again.free_extents() as usize, map.free_extents() as usize + map.moves.len());
        }
    }
}

/// A volume of 1024 extents with a thousand snapshots, a write between any two: the work of a write, in nodes and
/// records, is what it is with one; and stating the whole map takes a record for each extent in use and a few for each
/// snapshot.
#[test]
fn a_thousand_snapshots_make_no_write_dearer() {
    let mut map = Map::new(10_000);
    map.create(VolumeId(1), VolumeKind::Thin, 1024 * EXTENT_BYTES).unwrap();
    for extent in 0..1024 {
        write(&mut map, 1, extent, 1).unwrap();
    }
    commit(&mut map);
    let mut dearest = BTreeMap::new();
    for n in 0..1000 {
        snapshot(&mut map, 1, n + 2).unwrap();
        commit(&mut map);
        visits::take();
        write(&mut map, 1, n * 37 % 1024, 2).unwrap();
        let records = commit(&mut map).len();
        let work = (visits::take(), records);
        let most = dearest.entry(n / 500).or_insert((0, 0));
        *most = (work.0.max(most.0), work.1.max(most.1));
    }
    assert_eq!(dearest[&0], dearest[&1], "(nodes, records) of the first and the second half");
    assert!(dearest[&1].0 < 100 && dearest[&1].1 == 1, "{dearest:?}");
    let records = stated(&map, 500);
    assert!(records.len() < 1024 + 1000 + 4 * 1000, "{} records", records.len());
    let again = replayed(records, 10_000).unwrap();
    assert_eq!(again.volumes, map.volumes);
    assert_eq!(map.free_extents(), 10_000 - 1024 - 1000);
    for n in 0..1000 {
        map.delete(VolumeId(n + 2)).unwrap();
    }
    commit(&mut map);
    while map.reap(1000) {}
    assert_eq!(map.free_extents(), 10_000 - 1024);
}

#[test]
fn a_snapshot_is_refused_when_the_log_could_not_state_one_more() {
    let mut map = Map::new(20);
    map.create(VolumeId(0), VolumeKind::Thin, 4 * EXTENT_BYTES).unwrap();
    write(&mut map, 0, 0, 1).unwrap();
    let mut refused = None;
    for n in 1..5000 {
        // Every other one differs in its bits, the one thing that costs a record and no extent.
        if let Err(refusal) = snapshot(&mut map, 0, n) {
            refused = Some(refusal);
            break;
        }
        map.mark_written(VolumeId(0), 0, &PageBits::default());
    }
    assert_eq!(refused, Some(MapRefusal::TooManyDifferences));
    assert!(map.records() <= (20 + 4096) / 2 * 3);
    map.delete(VolumeId(1)).unwrap();
    assert_eq!(snapshot(&mut map, 0, 1), Ok(()));
}
