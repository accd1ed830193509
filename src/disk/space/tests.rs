//! The map log on simulated disks: every flip, every crash, full halves.

use super::bits::PageBits;
use super::map::{EXTENT_BYTES, VolumeId, VolumeKind, VolumeMap};
use super::unit::{Found, Half, Layout, PLACE_BYTES, Stamp, decode, encode};
use super::*;
use crate::clock::SeededEntropy;
use crate::disk::cache::tests::rig::{Bed, MIB, life, settings};
use crate::disk::io::sim::Fault;
use crate::disk::raid::Level;
use crate::disk::slot::SLOT_BYTES;
use std::collections::BTreeMap;

type Volumes = BTreeMap<VolumeId, VolumeMap>;

fn bed(seed: u64) -> Bed {
    Bed::new(seed, 1, Level::Raid0, 8 * MIB, 1 << 20)
}

fn volumes(space: &Space) -> Volumes {
    space.map().volumes().map(|(id, map)| (id, map.clone())).collect()
}

/// Where the log lies on the only unit: the one place that holds its magic.
fn area_offset(bed: &Bed) -> u64 {
    let disk = &bed.watches[0].disk;
    let pages = (0..8 * MIB).step_by(SLOT_BYTES);
    pages.into_iter().find(|at| disk.peek(*at)[..8] == *b"HFMAPLOG").expect("the log is on the unit")
}

async fn change(space: &Space, n: u64) -> Result<(), VolumeError> {
    let mut pages = PageBits::default();
    pages.insert(u8::try_from(n % 200).unwrap());
    let extent = u32::try_from(n % 3).unwrap();
    {
        let mut map = space.map_mut();
        map.place(VolumeId(1), extent).map_err(|refusal| space.refusal(VolumeId(1), refusal))?;
        if n % 7 == 6 {
            map.mark_zero(VolumeId(1), extent, &PageBits::FULL);
        } else {
            map.mark_written(VolumeId(1), extent, &pages);
        }
    }
    space.commit().await
}

#[test]
fn a_layout_has_room_for_every_snapshot() {
    for mib in 3..5000 {
        let Some(layout) = Layout::of(mib * MIB + 12_288) else { continue };
        assert!(2 * layout.half_bytes + u64::from(layout.extents) * EXTENT_BYTES <= mib * MIB + 12_288);
        let records = u64::from(layout.extents) + map::VOLUMES_MAX as u64;
        assert!(layout.places() > records.div_ceil(84) * 2);
    }
    let large = Layout::of(1 << 40).unwrap();
    assert!(2 * large.half_bytes < (1 << 40) / 2000, "under half a thousandth");
    assert!(Layout::of(2 * MIB).is_none());
}

#[test]
fn a_flip_of_any_bit_of_a_block_is_noticed() {
    let stamp = Stamp { identity: 7, generation: 3, place: 5, durable_place: 4, previous: 9, goes_on: true };
    let record = record::Record::Freed { volume: VolumeId(1), extent: 2, count: 1 };
    let mut bytes = [0; SLOT_BYTES];
    encode(&stamp, &unit::Body::Records(vec![record; 84]), &mut bytes);
    assert!(matches!(decode(&bytes), Ok(Found::Block(_))));
    for at in 0..SLOT_BYTES {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            assert_eq!(decode(&bytes), Ok(Found::Bad));
            bytes[at] ^= 1 << bit;
        }
    }
}

/// A log with a snapshot of several records, then `appends` places.
fn logged(bed: &Bed, appends: u64) -> Volumes {
    life(async {
        let array = bed.open().await.unwrap();
        array.create(1, 3 * MIB, VolumeKind::Thin).await;
        array.create(2, MIB, VolumeKind::Thick).await;
    });
    life(async {
        let array = bed.open().await.unwrap();
        let space = array.adapter.space_for_tests();
        for n in 0..appends {
            change(&space, n).await.unwrap();
        }
        volumes(&space)
    })
}

fn reopened(bed: &Bed) -> Result<Volumes, VolumeError> {
    life(async {
        let array = bed.open().await?;
        Ok(volumes(&array.adapter.space_for_tests()))
    })
}

/// The half that is current after [`logged`], its place `place`, first copy.
fn place_at(bed: &Bed, place: u64) -> u64 {
    // One start made A (empty), the volumes went there; the second start switched to B. A small half has 1 MiB.
    area_offset(bed) + MIB + place * PLACE_BYTES
}

#[test]
fn one_damaged_copy_anywhere_costs_nothing() {
    let origin = bed(1);
    let expected = logged(&origin, 5);
    for place in 0..7 {
        for copy in 0..2 {
            for at in (0..SLOT_BYTES as u64).step_by(331) {
                let bed = bed(1);
                logged(&bed, 5);
                bed.watches[0]
                    .disk
                    .inject(Fault::Flip(place_at(&bed, place) + copy * SLOT_BYTES as u64 + at));
                assert_eq!(reopened(&bed), Ok(expected.clone()), "place {place} copy {copy} byte {at}");
                assert_eq!(reopened(&bed), Ok(expected.clone()), "and again");
            }
        }
    }
}

#[test]
fn both_copies_damaged_are_refused_by_name_wherever_the_log_can_know() {
    // The head, the snapshot, and every place that a later one knows to have been durable.
    for place in 0..6 {
        let bed = bed(1);
        logged(&bed, 5);
        for copy in 0..2 {
            bed.watches[0].disk.inject(Fault::Flip(place_at(&bed, place) + copy * SLOT_BYTES as u64 + 100));
        }
        let refused = reopened(&bed);
        assert!(matches!(refused, Err(VolumeError::MapDamaged { .. })), "place {place}: {refused:?}");
        assert_eq!(reopened(&bed), refused, "refusing changes nothing");
    }
}

#[test]
fn a_log_of_version_1_is_read_and_goes_on_in_version_2() {
    let bed = bed(1);
    let expected = logged(&bed, 5);
    let (area, disk) = (area_offset(&bed), &bed.watches[0].disk);
    let rewrite_all = |version: u16| {
        for half in 0..2 {
            let mut previous = 0;
            for place in 0..MIB / PLACE_BYTES {
                let at = area + half * MIB + place * PLACE_BYTES;
                let mut bytes = disk.peek(at);
                if bytes[..8] != *b"HFMAPLOG" {
                    break;
                }
                let sum = unit::rewrite(&mut bytes, version, previous);
                previous = if place == 0 { 0 } else { sum };
                (0..2).for_each(|copy| disk.poke(at + copy * SLOT_BYTES as u64, &bytes));
            }
        }
    };
    rewrite_all(1);
    assert_eq!(disk.peek(area)[8], 1);
    assert_eq!(reopened(&bed), Ok(expected.clone()));
    assert_eq!(disk.peek(area)[8], 2, "both heads were written anew");
    assert_eq!(reopened(&bed), Ok(expected));
    rewrite_all(3);
    assert!(matches!(reopened(&bed), Err(VolumeError::MapDamaged { .. })));
}

/// A commit of many blocks: power is lost at each of its writes, and all of it holds or nothing.
#[test]
fn a_commit_of_several_blocks_holds_as_a_whole_or_not_at_all() {
    let (mut all, mut none) = (0, 0);
    for cut_off_at in 0..8 {
        for seed in 0..12 {
            let bed = Bed::new(seed, 1, Level::Raid0, 800 * MIB, 4 << 20);
            life(async {
                let array = bed.open().await.unwrap();
                array.create(1, 600 * MIB, VolumeKind::Thin).await;
                let space = array.adapter.space_for_tests();
                for extent in 0..500 {
                    let mut pages = PageBits::default();
                    pages.insert(7);
                    space.map_mut().place(VolumeId(1), extent).unwrap();
                    space.map_mut().mark_written(VolumeId(1), extent, &pages);
                }
                bed.watches[0].operations_left.store(cut_off_at, Ordering::SeqCst);
                let _ = tokio::time::timeout(std::time::Duration::from_secs(9), space.commit()).await;
            });
            bed.watches[0].operations_left.store(u64::MAX, Ordering::SeqCst);
            bed.crash(&SeededEntropy::new(seed));
            match reopened(&bed).unwrap()[&VolumeId(1)].extents.len() {
                0 => none += 1,
                500 => all += 1,
                some => panic!("{some} of 500 extents, cut off at {cut_off_at}, seed {seed}"),
            }
        }
    }
    assert!(all > 5 && none > 5, "{all} {none}");
}

#[test]
fn an_unreadable_copy_is_as_good_as_a_damaged_one() {
    let bed = bed(1);
    let expected = logged(&bed, 5);
    for place in 0..7 {
        bed.watches[0].disk.inject(Fault::BadSlot(place_at(&bed, place)));
    }
    assert_eq!(reopened(&bed), Ok(expected));
}

#[test]
fn full_halves_are_switched_and_any_crash_leaves_a_state_between_durable_and_now() {
    let mut generations = 0;
    for seed in 0..40 {
        println!("seed {seed}");
        let (bed, random) = (bed(seed), SeededEntropy::new(seed));
        let mut allowed: Vec<Volumes> = vec![Volumes::new()];
        for _ in 0..4 {
            generations += life(async {
                let array = bed.open().await.unwrap();
                let space = array.adapter.space_for_tests();
                let found = volumes(&space);
                assert!(allowed.contains(&found), "seed {seed}");
                allowed = vec![found];
                if space.map().volume(VolumeId(1)).is_none() {
                    space.map_mut().create(VolumeId(1), VolumeKind::Thin, 3 * MIB).unwrap();
                    allowed.push(volumes(&space));
                }
                let generation = space.log_generation().await;
                let work = async {
                    for n in random.below(100).. {
                        // The state is noted when the change is made: it may become durable from then on.
                        let change = change(&space, n);
                        tokio::pin!(change);
                        let first = futures_util::poll!(change.as_mut());
                        allowed.push(volumes(&space));
                        let result = match first {
                            std::task::Poll::Ready(result) => result,
                            std::task::Poll::Pending => change.await,
                        };
                        if result.is_ok() {
                            allowed = vec![volumes(&space)];
                        } else {
                            allowed.push(volumes(&space));
                        }
                    }
                };
                let limit = crate::clock::Clock::sleep(
                    &*array.clock,
                    std::time::Duration::from_millis(random.below(900)),
                );
                tokio::select! { biased; () = work => {} () = limit => {} }
                space.log_generation().await - generation
            });
            bed.crash(&random);
        }
    }
    assert!(generations > 50, "{generations} switches are too few to say anything");
}

#[test]
fn a_switch_to_the_other_half_may_be_cut_off_anywhere_and_again() {
    for cut_ms in 25..60 {
        for seed in 0..12 {
            let (bed, random) = (bed(seed), SeededEntropy::new(seed));
            let expected = logged(&bed, 5);
            for again in 0..2 {
                life(async {
                    // Opening ends with a switch.
                    let limit = std::time::Duration::from_millis(cut_ms + 3 * again);
                    let _ = tokio::time::timeout(limit, bed.open()).await;
                });
                bed.crash(&random);
            }
            assert_eq!(reopened(&bed), Ok(expected), "cut off after {cut_ms} ms, seed {seed}");
        }
    }
}

/// A switch whose last write failed was once done again over the half that it had made the current one already.
#[test]
fn a_switch_in_which_writes_fail_is_done_again_and_may_be_cut_off_anywhere() {
    const FIRST: u32 = 10;
    let mut failures = 0;
    for seed in 0..300 {
        let (bed, random) = (bed(seed), SeededEntropy::new(seed));
        logged(&bed, 4);
        let mut allowed = Vec::new();
        failures += life(async {
            let array = bed.open().await.unwrap();
            let space = array.adapter.space_for_tests();
            let disk = bed.watches[0].disk.clone();
            // A snapshot of several places, and which place says what changes with each commit.
            for volume in FIRST..FIRST + 300 {
                space.map_mut().create(VolumeId(volume), VolumeKind::Thin, MIB).unwrap();
            }
            space.commit().await.unwrap();
            allowed.push(volumes(&space));
            let mut failures = 0;
            let mut fails = true;
            let work = async {
                for volume in FIRST.. {
                    space.map_mut().delete(VolumeId(volume)).unwrap();
                    let commit = space.commit();
                    tokio::pin!(commit);
                    let first = futures_util::poll!(commit.as_mut());
                    allowed.push(volumes(&space));
                    // The first one fails as it is appended: all that follow are switches.
                    let after = std::time::Duration::from_micros(if fails { 1 } else { random.below(6000) });
                    fails = false;
                    let inject = async {
                        crate::clock::Clock::sleep(&*array.clock, after).await;
                        disk.inject(Fault::NextWrite);
                        std::future::pending::<()>().await;
                    };
                    let result = match first {
                        std::task::Poll::Ready(result) => result,
                        std::task::Poll::Pending => {
                            tokio::select! { biased; result = commit => result, () = inject => Ok(()) }
                        }
                    };
                    match result {
                        Ok(()) => allowed = vec![volumes(&space)],
                        Err(_) => failures += 1,
                    }
                }
            };
            let limit = std::time::Duration::from_micros(random.below(25_000));
            let _ = tokio::time::timeout(limit, work).await;
            failures
        });
        bed.crash(&random);
        bed.watches[0].disk.heal();
        let found = reopened(&bed).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert!(allowed.contains(&found), "seed {seed}");
    }
    assert!(failures > 300, "only {failures} writes failed");
}

#[test]
fn the_first_format_may_be_cut_off_anywhere() {
    for cut_ms in 0..20 {
        for seed in 0..20 {
            let (bed, random) = (bed(seed), SeededEntropy::new(seed));
            life(async {
                let open = bed.open();
                let limit = std::time::Duration::from_millis(cut_ms);
                let _ = tokio::time::timeout(limit, open).await;
            });
            bed.crash(&random);
            assert_eq!(reopened(&bed), Ok(Volumes::new()));
        }
    }
    assert_eq!(Half::A.other(), Half::B);
}

#[test]
fn a_store_that_was_opened_less_often_than_the_units_know_is_refused_until_it_is_taken_by_name() {
    let bed = bed(9);
    let open = |count, takes_older| {
        let opening = Opening { count, takes_older };
        life(async {
            let opened = bed.open_as(settings(), opening).await;
            opened.map(|array| array.adapter.volumes().len())
        })
    };
    assert_eq!(open(3, false), Ok(0), "new units");
    let older = |own| VolumeError::OlderStore { group: "pg".into(), found: 3, own };
    let content =
        || (0..8 * MIB).step_by(SLOT_BYTES).map(|at| bed.watches[0].disk.peek(at)).collect::<Vec<_>>();
    let before = content();
    let refused = [2, 3].map(|own| (open(own, false).unwrap_err(), older(own)));
    refused.into_iter().for_each(|(said, expected)| assert_eq!(said.to_string(), expected.to_string()));
    assert!(content() == before, "nothing was written");
    assert_eq!(open(4, false), Ok(0), "the next start");
    assert!(open(4, false).is_err(), "a copy of the store from before it");
    assert_eq!(open(2, true), Ok(0));
    assert_eq!(open(3, false), Ok(0), "from then on that one counts");
    assert_eq!(open(0, false), Ok(0), "nobody counts");
}
