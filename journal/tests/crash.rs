//! A journal on a volume that may lose any unflushed sector is found again as it was: every durable update, in order,
//! nothing behind a gap, nothing stale, over many laps and many restarts.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod common;

use common::{Bench, LAYOUTS, Random, make_update, number, recover, unmap};
use holdfast_journal::Full;
use holdfast_journal::format::Layout;
use holdfast_journal::pointer::Place;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Append(u64),
    StartCommit,
    StartCheckpoint,
    Flush,
    Idle,
    Release(u64),
    Crash(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        // Few seeds: after a restart the same write often comes again under the same number.
        10 => (0_u64..6).prop_map(Step::Append),
        4 => Just(Step::StartCommit),
        2 => Just(Step::StartCheckpoint),
        4 => Just(Step::Flush),
        1 => Just(Step::Idle),
        3 => (1_u64..12).prop_map(Step::Release),
        2 => any::<u64>().prop_map(Step::Crash),
    ];
    prop::collection::vec(step, 1..300)
}

fn run(bench: &mut Bench, step: &Step) {
    match step {
        Step::Append(seed) => {
            let _full = bench.append(*seed);
        }
        Step::StartCommit => {
            bench.start_commit();
        }
        Step::StartCheckpoint => {
            bench.start_checkpoint();
        }
        Step::Flush => bench.flush(),
        Step::Idle => {
            bench.journal.idle_commit();
        }
        Step::Release(count) => bench.release(*count),
        Step::Crash(seed) => bench.crash(&mut Random(*seed)),
    }
    let usage = bench.journal.usage();
    assert!(usage.info_used <= usage.info_capacity && usage.data_used <= usage.data_capacity);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn every_durable_update_survives_any_crash_and_nothing_else_appears(
        steps in steps(),
        layout in prop::sample::select(&LAYOUTS[..]),
    ) {
        let mut bench = Bench::with(4 + 16 + 20, 1, layout);
        for step in &steps {
            run(&mut bench, step);
        }
        bench.settle_down();
        bench.crash(&mut Random(1));
        prop_assert_eq!(bench.journal.durable().get(), bench.oracle.keys().last().copied().unwrap_or(0));
    }
}

#[test]
fn a_journal_runs_for_many_laps_with_crashes_and_never_jams() {
    LAYOUTS.into_iter().for_each(many_laps);
}

fn many_laps(layout: Layout) {
    let mut bench = Bench::with(4 + 16 + 32, 2, layout);
    let mut random = Random(2024);
    let mut crashes = 0;
    while bench.journal.next().get() < 6000 {
        if bench.append(random.below(1000)).is_err() {
            // Full: commit, free what is read, checkpoint; then there must be room again.
            bench.settle_down();
            bench.check();
            bench.release(1 + random.below(40));
            bench.release(u64::from(random.below(3) == 0) * 1000);
            bench.settle_down();
        }
        if random.below(5) == 0 {
            bench.start_commit();
        }
        if bench.journal.wants_checkpoint() {
            bench.start_checkpoint();
        }
        if random.below(7) == 0 {
            bench.flush();
        }
        if random.below(60) == 0 {
            bench.crash(&mut random);
            crashes += 1;
        }
    }
    assert!(crashes > 50);
    bench.settle_down();
    bench.check();
}

/// Found by the random test: a group commit of 1 and 2 was thrown away because the data of 1 was lost. The host wrote 1
/// again, its data landed at the same place, and a second crash found the old commit whole: 2 was back from the dead.
#[test]
fn nothing_is_taken_after_a_restart_before_its_checkpoint_is_durable() {
    LAYOUTS.into_iter().for_each(nothing_before_its_checkpoint);
}

fn nothing_before_its_checkpoint(layout: Layout) {
    let mut bench = Bench::with(4 + 16 + 20, 1, layout);
    bench.append(3).unwrap();
    bench.crash(&mut Random(9));
    assert_eq!(bench.append(3), Err(Full::NewSession));
    assert!(!bench.start_commit());
    assert!(bench.journal.wants_checkpoint());
    assert!(bench.start_checkpoint());
    assert_eq!(bench.append(3), Err(Full::NewSession));
    bench.flush();
    bench.append(3).unwrap();
    assert!(bench.start_commit());
}

#[test]
fn what_is_released_is_written_again_only_after_a_durable_checkpoint() {
    LAYOUTS.into_iter().for_each(released_and_written_again);
}

fn released_and_written_again(layout: Layout) {
    let mut bench = Bench::with(4 + 16 + 20, 1, layout);
    while bench.append(5).is_ok() {
        bench.start_commit();
        bench.flush();
    }
    bench.release(1_000_000);
    assert!(bench.append(5).is_err());
    assert!(bench.journal.wants_checkpoint());
    assert!(bench.start_checkpoint());
    assert!(bench.append(5).is_err());
    bench.flush();
    bench.append(5).unwrap();
    assert_eq!(bench.journal.usage().updates, 1);
}

/// A seed whose update satisfies `wanted`.
fn seed_where(wanted: impl Fn(&holdfast_journal::Update) -> bool) -> u64 {
    (0..).find(|seed| wanted(&make_update(1, *seed).0.update)).expect("some seed does")
}

#[test]
fn a_torn_group_commit_is_kept_whole_or_not_at_all_whatever_sectors_survive() {
    let many_extents = seed_where(|update| update.extents.len() == 12 && update.data_bytes == 0);
    for (count, layout) in [1, 5, 10, 14].into_iter().flat_map(|count| LAYOUTS.map(|layout| (count, layout)))
    {
        let mut bench = Bench::with(4 + 16 + 20, 1, layout);
        bench.append(1).unwrap();
        bench.start_commit();
        bench.flush();
        for _ in 0..count {
            bench.append(many_extents).unwrap();
        }
        let before = bench.disk.clone();
        assert!(bench.start_commit());
        bench.disk.flush();
        let sectors = if count > 9 { 16 } else { 8 };
        let place = Place { oldest: number(9), retry: number(9), read: number(9) };
        let at =
            common::index(bench.journal.pointer_information(place).update_information_newest) - sectors * 512;
        for subset in 0_u32..1 << sectors {
            if sectors == 16 && subset % 37 != 0 && subset != 0xFFFF {
                continue;
            }
            let mut disk = before.clone();
            for sector in (0..sectors).filter(|sector| subset >> sector & 1 == 1) {
                let range = at + sector * 512..at + (sector + 1) * 512;
                disk.flushed[range.clone()].copy_from_slice(&bench.disk.flushed[range]);
            }
            let newest = recover(&disk).unwrap().newest().get();
            assert!(newest == 1 || newest == 1 + count, "{count} records, sectors {subset:b}: {newest}");
            // Zeros behind the last record need not have been written.
            let same = disk.flushed == bench.disk.flushed;
            assert_eq!(newest == 1 + count, same, "{count} records, sectors {subset:b}");
        }
    }
}

/// The discarded commit lies whole in the last block of ring A, its successor did not fit there and went to the start
/// of the area; two restarts later no checkpoint names the first number of that session any more.
#[test]
fn a_discarded_commit_before_the_end_of_the_area_does_not_hide_its_successor_at_the_start() {
    let mut bench = Bench::new(4 + 16 + 64, 1);
    let small = seed_where(|update| update.extents.len() == 1 && update.data_bytes == 512);
    let blocks = bench.journal.superblock().info_bytes / 4096;
    for _ in 0..blocks - 1 {
        bench.append(small).unwrap();
        bench.start_commit();
        bench.flush();
    }
    bench.release(4);
    bench.start_checkpoint();
    bench.flush();
    let last = bench.journal.durable();
    // The commit of the next number reaches the volume, its write data does not.
    let without_data = bench.disk.clone();
    bench.append(small).unwrap();
    let place = bench.journal.recent(last.next()).unwrap().place.unwrap();
    bench.start_commit();
    bench.disk.flush();
    let at = common::index(place.volume_offset_bytes);
    bench.disk.flushed[at..at + 4096].copy_from_slice(&without_data.flushed[at..at + 4096]);
    bench.crash(&mut Random(1));
    assert_eq!(bench.journal.durable(), last);
    bench.start_checkpoint();
    bench.flush();
    // A record of two blocks: it goes to the start of the area.
    bench.append_draft(unmap(last.next()), Vec::new()).unwrap();
    bench.start_commit();
    bench.flush();
    bench.release(1);
    for _ in 0..3 {
        bench.crash(&mut Random(1));
        assert_eq!(bench.journal.durable().since(last), 1);
        bench.start_checkpoint();
        bench.flush();
    }
}
