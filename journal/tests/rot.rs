//! Damage to what was durable is found and never cut off; what nothing claims as durable ends the journal quietly.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod common;

use common::{Bench, Disk, LAYOUTS, Random, index, number, recover, unmap};
use holdfast_journal::format::record::MAX_RECORD_BYTES;
use holdfast_journal::format::{BLOCK_BYTES, FormatParams, Layout};
use holdfast_journal::pointer::{Place, PointerInformation};
use holdfast_journal::recovery::{HEAD_BYTES, Recovery, RecoveryError};
use holdfast_journal::{
    AppendError, ArrayNumber, Content, Full, Generation, GroupNumber, Incarnation, Journal, UpdateNumber,
};
use std::sync::Arc;

/// Some group commits, a lap and a restart behind them, all claimed by an idle commit.
fn settled_bench(layout: Layout) -> Bench {
    let mut bench = Bench::with(4 + 16 + 40, 2, layout);
    let mut random = Random(77);
    for round in 0..30 {
        for _ in 0..3 {
            if bench.append(random.next()).is_err() {
                break;
            }
        }
        bench.start_commit();
        bench.flush();
        bench.release(if round <= 25 { 3 } else { 0 });
        if round % 4 == 0 || bench.journal.wants_checkpoint() {
            bench.start_checkpoint();
            bench.flush();
        }
        if round == 27 {
            bench.crash(&mut random);
            bench.start_checkpoint();
            bench.flush();
        }
    }
    bench.settle_down();
    bench.check();
    assert!(bench.journal.durable().since(bench.journal.first_retained()) > 5);
    bench
}

/// Either the damage is found, or everything that must be held is found unharmed.
fn found_or_harmless(bench: &Bench, disk: &Disk, what: &str) -> bool {
    match recover(disk) {
        Err(_) => true,
        Ok(recovered) => {
            assert_eq!(recovered.newest(), bench.journal.durable(), "{what}");
            let journal = recovered.into_journal();
            assert!(journal.first_retained() <= bench.journal.first_retained(), "{what}");
            for value in bench.journal.first_retained().get()..=journal.durable().get() {
                assert_eq!(journal.recent(number(value)).unwrap().update, bench.oracle[&value].0, "{what}");
            }
            false
        }
    }
}

#[test]
fn every_flipped_byte_of_a_durable_record_is_found_as_corruption() {
    LAYOUTS.into_iter().for_each(flip_records);
}

fn flip_records(layout: Layout) {
    let bench = settled_bench(layout);
    let mut value = bench.journal.first_retained();
    while value <= bench.journal.durable() {
        let located = bench.journal.locate(value).unwrap();
        let info = bench.disk.read(located.info_offset, located.info_bytes);
        let used = info.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        // The records are the same in both layouts.
        let step = if layout == Layout::TwoRings { 1 } else { 5 };
        for position in (0..info.len()).step_by(step) {
            let mut disk = bench.disk.clone();
            disk.flushed[index(located.info_offset) + position] ^= 0x40;
            let what = format!("byte {position} of the commit of {value}");
            if position < used {
                let error = recover(&disk).unwrap_err();
                let expected = located.first;
                assert!(
                    matches!(error, RecoveryError::Corruption { number, .. } if number == expected),
                    "{what}"
                );
            } else if position % 16 == 0 {
                found_or_harmless(&bench, &disk, &what);
            }
        }
        value = located.last.next();
    }
}

#[test]
fn every_flipped_byte_of_the_head_is_found_or_harmless() {
    LAYOUTS.into_iter().for_each(flip_the_head);
}

fn flip_the_head(layout: Layout) {
    let bench = settled_bench(layout);
    for position in 0..index(HEAD_BYTES) {
        let mut disk = bench.disk.clone();
        disk.flushed[position] ^= 0x10;
        found_or_harmless(&bench, &disk, &format!("byte {position}"));
    }
}

#[test]
fn a_large_hole_is_found_by_any_claim_behind_it() {
    LAYOUTS.into_iter().for_each(make_a_hole);
}

fn make_a_hole(layout: Layout) {
    let bench = settled_bench(layout);
    let first = bench.journal.first_retained();
    let last = bench.journal.durable();
    let start = bench.journal.locate(first).unwrap();
    let mut disk = bench.disk.clone();
    let mut value = first;
    // Everything but the last idle commit is gone.
    while value <= last {
        let located = bench.journal.locate(value).unwrap();
        let range = index(located.info_offset)..index(located.info_offset + located.info_bytes);
        disk.flushed[range].fill(0);
        value = located.last.next();
    }
    let error = recover(&disk).unwrap_err();
    assert_eq!(error, RecoveryError::Corruption { number: first, volume_offset: start.info_offset });
}

#[test]
fn damaged_write_data_ends_the_journal_only_if_nothing_claims_it() {
    LAYOUTS.into_iter().for_each(damage_write_data);
}

fn damage_write_data(layout: Layout) {
    let mut bench = Bench::with(4 + 16 + 40, 2, layout);
    let with_data = (0..).find(|seed| !common::make_update(1, *seed).1.is_empty()).unwrap();
    for _ in 0..3 {
        bench.append(with_data).unwrap();
        bench.start_commit();
        bench.flush();
    }
    let place = bench.journal.recent(number(3)).unwrap().place.unwrap();
    let at = index(place.volume_offset_bytes) + usize::from(place.skip_bytes);
    let mut disk = bench.disk.clone();
    disk.flushed[at] ^= 1;
    assert_eq!(recover(&disk).unwrap().newest(), number(2));

    assert!(bench.journal.idle_commit());
    bench.start_commit();
    bench.flush();
    let mut recovered = recover(&bench.disk).unwrap();
    assert!(recovered.verify().is_empty(), "a restart reads only the data that nothing claims");
    let volume_offset = place.volume_offset_bytes;
    let expected = RecoveryError::Corruption { number: number(3), volume_offset };
    assert_eq!(recovered.truncate_at(number(3)), Err(expected));
    assert!(!bench.journal.idle_commit(), "nothing more to say");
}

#[test]
fn what_an_earlier_formatting_left_never_counts() {
    LAYOUTS.into_iter().for_each(format_again);
}

fn format_again(layout: Layout) {
    let bench = settled_bench(layout);
    let params = FormatParams {
        incarnation: Incarnation::new(99),
        array: ArrayNumber(1),
        group: GroupNumber(7),
        volume_bytes: u64::try_from(bench.disk.flushed.len()).unwrap(),
        layout: bench.journal.superblock().layout,
        data_per_info: 2,
        first: bench.journal.next(),
        generation: Generation::default(),
    };
    let (head, journal) = Journal::format(params).unwrap();
    // Any of the four blocks is written or not: the old journal or the new one, each whole, or none.
    for subset in 0..16 {
        let mut disk = bench.disk.clone();
        for block in (0..4).filter(|block| subset >> block & 1 == 1) {
            let range = block * 4096..(block + 1) * 4096;
            disk.flushed[range.clone()].copy_from_slice(&head[range]);
        }
        let recovered = match recover(&disk) {
            Ok(recovered) => recovered.into_journal(),
            Err(error) => {
                assert_eq!(error, RecoveryError::NoCheckpoint);
                assert!([0b0011, 0b1100].contains(&subset), "{subset:04b}");
                continue;
            }
        };
        let is_new = recovered.superblock().incarnation == Incarnation::new(99);
        assert_eq!(recovered.next(), bench.journal.next());
        assert_eq!(recovered.usage().updates > 0, !is_new);
    }
    assert_eq!(journal.next(), bench.journal.next());
}

#[test]
fn the_scan_asks_for_whole_blocks_inside_the_volume_and_comes_to_an_end() {
    LAYOUTS.into_iter().for_each(scan_zeros);
}

fn scan_zeros(layout: Layout) {
    let bench = settled_bench(layout);
    let mut recovery = Recovery::open(bench.disk.read(0, HEAD_BYTES)).unwrap();
    let mut requests = 0;
    while let Some(request) = recovery.poll_read() {
        assert!(request.length > 0 && request.length.is_multiple_of(BLOCK_BYTES));
        assert!(request.volume_offset + request.length <= bench.journal.superblock().volume_bytes());
        // A unit that gives nothing but zeros.
        recovery.handle_read(&vec![0; index(request.length)]);
        requests += 1;
        assert!(requests < 100);
    }
    assert!(matches!(recovery.finish(), Err(RecoveryError::Corruption { .. })));
}

#[test]
fn ring_a_never_runs_further_ahead_of_a_checkpoint_than_a_restart_searches() {
    let params = FormatParams {
        incarnation: Incarnation::new(5),
        array: ArrayNumber(1),
        group: GroupNumber(7),
        volume_bytes: 1 << 40,
        layout: Layout::TwoRings,
        data_per_info: 16,
        first: UpdateNumber::FIRST,
        generation: Generation::default(),
    };
    let (_, mut journal) = Journal::format(params).unwrap();
    let mut wanted_at = None;
    let refused_at = loop {
        let used = journal.usage().info_used;
        match journal.append(unmap(journal.next())) {
            Ok(_) => {}
            Err(AppendError::Full(Full::CommitBehind)) => {
                journal.poll_commit().unwrap();
                journal.handle_committed().unwrap();
            }
            Err(error) => {
                assert_eq!(error, AppendError::Full(Full::Info));
                break used;
            }
        }
        if journal.wants_checkpoint() && wanted_at.is_none() {
            wanted_at = Some(used);
        }
    };
    assert!(refused_at <= holdfast_journal::LOOK_AHEAD_BYTES);
    assert!(refused_at + u64::try_from(2 * MAX_RECORD_BYTES).unwrap() > holdfast_journal::LOOK_AHEAD_BYTES);
    assert!(wanted_at.unwrap() < holdfast_journal::LOOK_AHEAD_BYTES * 2 / 3);
    journal.poll_checkpoint().unwrap();
    journal.handle_checkpointed();
    journal.append(unmap(journal.next())).unwrap();
    assert!(!journal.wants_checkpoint());
}

#[test]
fn appends_out_of_order_impossible_or_too_large_change_nothing() {
    let mut bench = Bench::new(4 + 16 + 40, 2);
    let before = bench.journal.usage();
    let wrong = unmap(number(2));
    let expected = AppendError::NotNext { expected: number(1), given: number(2) };
    assert_eq!(bench.journal.append(wrong), Err(expected));
    let mut bad = unmap(number(1));
    Arc::make_mut(&mut bad.update).extents[0].length_bytes = 0;
    assert!(matches!(bench.journal.append(bad), Err(AppendError::Invalid(_))));
    let mut large = unmap(number(1));
    let update = Arc::make_mut(&mut large.update);
    update.extents.truncate(1);
    update.extents[0].content = Content::Data;
    update.extents[0].length_bytes = 30 * 4096;
    update.data_bytes = 30 * 4096;
    assert_eq!(bench.journal.append(large), Err(AppendError::TooLarge));
    assert_eq!(bench.journal.usage(), before);
    bench.journal.handle_failed();
    assert_eq!(bench.journal.append(unmap(number(1))), Err(AppendError::Failed));
    assert!(bench.journal.poll_commit().is_none() && bench.journal.poll_checkpoint().is_none());
}

fn place(oldest: u64, retry: u64, read: u64) -> Place {
    Place { oldest: number(oldest), retry: number(retry), read: number(read) }
}

/// Figures 26 and 27: the heads and the newest addresses are those of the volume, the same for all; what is oldest, what
/// is read next and what is read again is each reader's own.
#[test]
fn figure_27_two_readers_of_one_journal_volume_have_pointers_of_their_own() {
    let mut bench = Bench::new(4 + 16 + 60, 2);
    let with_data = (0..).find(|seed| common::make_update(1, *seed).1.len() == 4096).unwrap();
    for _ in 0..3 {
        bench.append(with_data).unwrap();
        bench.start_commit();
        bench.flush();
    }
    let blocks = bench.journal.recent(number(1)).unwrap().place.unwrap().blocks;
    let head = 4 * BLOCK_BYTES;
    let data = head + bench.journal.superblock().info_bytes;
    // As in figure 26: one holds all three, has been sent two and is to send the second again; the other one is further on.
    let one = bench.journal.pointer_information(place(1, 2, 3));
    let other = bench.journal.pointer_information(place(2, 3, 4));
    for pointers in [one, other] {
        assert_eq!((pointers.update_information_head, pointers.write_data_head), (head, data));
        assert_eq!(pointers.update_information_newest, head + 3 * BLOCK_BYTES);
        assert_eq!(pointers.write_data_newest, data + 3 * blocks * BLOCK_BYTES);
    }
    let own = |at: PointerInformation| {
        let PointerInformation {
            update_information_oldest, write_data_oldest, read_start, retry_start, ..
        } = at;
        [update_information_oldest, write_data_oldest, retry_start, read_start]
    };
    assert_eq!(own(one), [head, data, head + BLOCK_BYTES, head + 2 * BLOCK_BYTES]);
    let second_data = data + blocks * BLOCK_BYTES;
    assert_eq!(own(other), [head + BLOCK_BYTES, second_data, head + 2 * BLOCK_BYTES, head + 3 * BLOCK_BYTES]);
    // What all have is freed; the one that is behind does not see that, and the other one has nothing left here.
    bench.release(1);
    assert_eq!(bench.journal.pointer_information(place(2, 2, 3)).update_information_oldest, own(other)[0]);
    let nothing = bench.journal.pointer_information(place(4, 4, 4));
    assert_eq!(own(nothing)[..2], [nothing.update_information_newest, nothing.write_data_newest]);
}

#[test]
fn figure_9_pointer_information_shows_the_eight_addresses() {
    let mut bench = Bench::new(4 + 16 + 40, 2);
    let with_data = (0..).find(|seed| common::make_update(1, *seed).1.len() == 4096).unwrap();
    for _ in 0..3 {
        bench.append(with_data).unwrap();
        bench.start_commit();
        bench.flush();
    }
    bench.release(1);
    let blocks = bench.journal.recent(number(2)).unwrap().place.unwrap().blocks;
    let info = bench.journal.pointer_information(place(2, 2, 3));
    let head = 4 * BLOCK_BYTES;
    let data = head + bench.journal.superblock().info_bytes;
    assert_eq!(info.update_information_head, head);
    assert_eq!(info.write_data_head, data);
    assert_eq!(bench.journal.bytes_after(number(2)), (1 + blocks) * BLOCK_BYTES);
    assert_eq!(bench.journal.bytes_after(number(3)), 0);
    assert_eq!(info.update_information_oldest, head + BLOCK_BYTES);
    assert_eq!(info.update_information_newest, head + 3 * BLOCK_BYTES);
    assert_eq!(info.write_data_oldest, data + blocks * BLOCK_BYTES);
    assert_eq!(info.write_data_newest, data + 3 * blocks * BLOCK_BYTES);
    assert_eq!(info.read_start, head + 2 * BLOCK_BYTES);
    assert_eq!(info.retry_start, head + BLOCK_BYTES);
    assert_eq!(bench.journal.pointer_information(place(4, 4, 4)).read_start, info.update_information_newest);
}

/// The modification example of figure 3: the eight addresses are then of one area.
#[test]
fn interleaved_write_data_lies_behind_its_records_and_one_area_holds_both() {
    let mut bench = Bench::with(4 + 40, 2, Layout::Interleaved);
    let with_data = (0..).find(|seed| common::make_update(1, *seed).1.len() == 4096).unwrap();
    for _ in 0..2 {
        bench.append(with_data).unwrap();
        bench.append(with_data).unwrap();
        assert_eq!(bench.journal.recent(bench.journal.next().previous()).unwrap().place, None, "not yet");
        bench.start_commit();
        bench.flush();
    }
    let head = 4 * BLOCK_BYTES;
    let data_of = |value| bench.journal.recent(number(value)).unwrap().place.unwrap().volume_offset_bytes;
    let blocks = bench.journal.recent(number(1)).unwrap().place.unwrap().blocks * BLOCK_BYTES;
    assert_eq!((data_of(1), data_of(2)), (head + BLOCK_BYTES, head + BLOCK_BYTES + blocks));
    let second = head + BLOCK_BYTES + 2 * blocks;
    assert_eq!(bench.journal.locate(number(3)).unwrap().info_offset, second);
    let usage = bench.journal.usage();
    assert_eq!((usage.info_capacity, usage.data_capacity), (40 * BLOCK_BYTES, 0));
    assert_eq!(usage.info_used, 2 * (BLOCK_BYTES + 2 * blocks));
    assert_eq!(bench.journal.areas_after(number(2)), (BLOCK_BYTES + 2 * blocks, 0));
    let info = bench.journal.pointer_information(place(1, 3, 3));
    assert_eq!((info.update_information_head, info.write_data_head), (head, head));
    assert_eq!((info.write_data_oldest, info.write_data_newest), (head, head + usage.info_used));
    assert_eq!(info.read_start, second);
    let superblock = *bench.journal.superblock();
    assert_eq!(superblock.volume_bytes(), 44 * BLOCK_BYTES);
    assert_eq!(superblock.max_update_data_blocks(), 18);
}

/// A host writes what is a record of this very journal, and claims more than was ever flushed.
#[test]
fn a_record_inside_interleaved_write_data_claims_nothing() {
    let mut bench = Bench::with(4 + 40, 2, Layout::Interleaved);
    for _ in 0..6 {
        bench.append_draft(unmap(bench.journal.next()), Vec::new()).unwrap();
        bench.start_commit();
        bench.flush();
    }
    let located = bench.journal.locate(number(6)).unwrap();
    let record = bench.disk.read(located.info_offset, located.info_bytes).to_vec();
    // What comes behind the end of a journal that lost its tail: nothing of it is in its place.
    let mut twin = Bench::with(4 + 40, 2, Layout::Interleaved);
    for _ in 0..2 {
        twin.append_draft(unmap(twin.journal.next()), Vec::new()).unwrap();
        twin.start_commit();
        twin.flush();
    }
    let at = index(located.info_offset) + 4096;
    twin.disk.flushed[at..at + record.len()].copy_from_slice(&record);
    assert_eq!(recover(&twin.disk).unwrap().newest(), number(2));
    let at = index(located.info_offset);
    twin.disk.flushed[at..at + record.len()].copy_from_slice(&record);
    assert!(recover(&twin.disk).is_err(), "in its place it counts");
}

#[test]
fn the_callers_own_bytes_and_the_settled_number_come_back() {
    let mut bench = Bench::new(4 + 16 + 40, 2);
    bench.append(1).unwrap();
    bench.journal.set_extra(b"readers").unwrap();
    bench.start_commit();
    bench.flush();
    bench.journal.handle_settled(number(9));
    bench.settle_down();
    let journal = recover(&bench.disk).unwrap().into_journal();
    assert_eq!(journal.extra(), b"readers");
    assert_eq!(journal.settled(), number(1), "only what is durable can be settled");
    assert!(bench.journal.set_extra(&[0; 3901]).is_err());
}

#[test]
fn a_valid_commit_of_another_history_in_the_place_of_a_durable_one_is_corruption() {
    LAYOUTS.into_iter().for_each(swap_histories);
}

fn swap_histories(layout: Layout) {
    let mut benches = [Bench::with(4 + 16 + 40, 2, layout), Bench::with(4 + 16 + 40, 2, layout)];
    for (history, bench) in benches.iter_mut().enumerate() {
        for value in 0..4 {
            bench.append(value * 10 + u64::try_from(history).unwrap()).unwrap();
            bench.start_commit();
            bench.flush();
        }
    }
    let [ours, twin] = benches;
    let located = ours.journal.locate(number(2)).unwrap();
    let range = index(located.info_offset)..index(located.info_offset + located.info_bytes);
    let mut disk = ours.disk.clone();
    disk.flushed[range.clone()].copy_from_slice(&twin.disk.flushed[range]);
    assert!(matches!(recover(&disk), Err(RecoveryError::Corruption { number, .. }) if number.get() == 2));
}

#[test]
fn a_lost_checkpoint_hides_nothing_that_it_allowed() {
    LAYOUTS.into_iter().for_each(lose_a_checkpoint);
}

fn lose_a_checkpoint(layout: Layout) {
    // Ring A of 96 MiB: larger than one look-ahead.
    let mut bench = Bench::with(4 + 2 * 24576, 1, layout);
    let commit = |bench: &mut Bench| {
        while let Some(commit) = bench.journal.poll_commit() {
            bench.disk.write(commit.info_offset, &commit.info);
            bench.disk.flush();
            bench.journal.handle_committed().unwrap();
        }
    };
    while bench.journal.usage().info_used < 80 << 20 {
        match bench.journal.append(unmap(bench.journal.next())) {
            Ok(_) => {}
            Err(AppendError::Full(Full::CommitBehind)) => commit(&mut bench),
            Err(error) => {
                assert_eq!(error, AppendError::Full(Full::Info));
                commit(&mut bench);
                bench.start_checkpoint();
                bench.flush();
            }
        }
    }
    commit(&mut bench);
    let newest = bench.journal.durable();
    assert_eq!(recover(&bench.disk).unwrap().newest(), newest);
    for slot in [2, 3] {
        bench.disk.flushed[slot * 4096 + 100] ^= 1;
        assert_eq!(recover(&bench.disk).unwrap().newest(), newest);
        bench.disk.flushed[slot * 4096 + 100] ^= 1;
    }
}
