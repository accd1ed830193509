//! Claims 3, 5, 6, 7, 8 and 10 on running groups: each test turns one thing in the arrays themselves, and counts what
//! reading or restoring makes of it. That the law is right is shown in `pace.rs`; here that it is fed what it says.

use super::rig::{Choice, Lane, Rig, Way, life};
use crate::copy::fetch::Whose;
use crate::copy::source::Wanted;
use crate::volume::kind::Schedule;
use crate::volume::timing::{ReadInput, ReadSize, ReadTiming, RestoreTiming};
use std::sync::Arc;

fn by(input: ReadInput) -> Schedule {
    Schedule { read: ReadTiming::Adaptive([input].into_iter().collect()), ..Schedule::default() }
}

/// Begins to read as the schedule says.
fn follow(rig: &mut Rig, schedule: Schedule) -> Arc<Way> {
    rig.copy.set_schedule(schedule);
    let way = Arc::new(Way::new(rig, &[Lane::default()]));
    let (copy, lane) = (rig.copy.clone(), way.clone());
    rig.tasks.spawn(async move {
        let error = copy.follow(&*lane, 1, Whose::Source).await;
        panic!("{error}");
    });
    way
}

/// Reads in the next ten seconds.
async fn reads_in_ten_seconds(rig: &Rig, way: &Way) -> usize {
    let before = way.log().len();
    rig.sleep_ms(10_000).await;
    way.log().len() - before
}

async fn write(rig: &Rig, count: u64) {
    for update in 0..count {
        rig.write(update % 1_000, 1, 1).await;
        if update % 100 == 99 {
            rig.sleep_ms(5).await;
        }
    }
}

#[test]
fn claim_3_a_copy_that_receives_more_updates_is_read_more_often() {
    let reads = |input: ReadInput, pause_ms: u64| {
        life(async move {
            let mut rig = Rig::new(Choice { read_bytes: 1 << 20, ..Choice::default() }).await;
            rig.settle();
            let copy = rig.copy.clone();
            rig.tasks.spawn(copy.restore_loop());
            let way = follow(&mut rig, by(input));
            let writes = 10_000 / pause_ms;
            for update in 0..writes {
                rig.write(update % 99, 1, 1).await;
                rig.sleep_ms(pause_ms).await;
            }
            way.log().len()
        })
    };
    let (few, many) = (reads(ReadInput::Received, 100), reads(ReadInput::Received, 2));
    assert!(many > 2 * few, "10 updates a second: {few} reads, 500: {many}");
    let (few, many) = (reads(ReadInput::Load, 100), reads(ReadInput::Load, 2));
    assert!(few.abs_diff(many) < few / 10, "not chosen, it changes nothing: {few}, {many}");
}

/// An idle copy that holds 3 MiB of journals, not restored.
async fn holding(source_journal_mib: u64, copy_journal_mib: u64, input: ReadInput) -> usize {
    let choice = Choice { source_journal_mib, copy_journal_mib, read_bytes: 1 << 20, ..Choice::default() };
    let mut rig = Rig::new(choice).await;
    let way = follow(&mut rig, by(input));
    write(&rig, 750).await;
    rig.until("read", Rig::is_read).await;
    reads_in_ten_seconds(&rig, &way).await
}

#[test]
fn claim_5_a_copy_whose_own_journal_is_fuller_reads_less_often() {
    let reads = |copy_mib, input| life(holding(16, copy_mib, input));
    let (full, empty) = (reads(4, ReadInput::Journal), reads(16, ReadInput::Journal));
    assert!(2 * full < empty, "4 MiB: {full} reads, 16 MiB: {empty}");
    assert_eq!(reads(4, ReadInput::Load), reads(16, ReadInput::Load), "not chosen, it changes nothing");
}

#[test]
fn claim_7_a_source_whose_journal_is_fuller_is_read_more_often() {
    let reads = |source_mib, input| life(holding(source_mib, 16, input));
    let (full, empty) = (reads(4, ReadInput::SourceJournal), reads(32, ReadInput::SourceJournal));
    assert!(full > 2 * empty, "4 MiB: {full} reads, 32 MiB: {empty}");
    assert_eq!(reads(4, ReadInput::Load), reads(32, ReadInput::Load), "not chosen, it changes nothing");
}

#[test]
fn claim_6_a_copy_with_more_load_reads_less_often() {
    let reads = |mib: u64, input| {
        life(async move {
            let mut rig = Rig::new(Choice::default()).await;
            rig.load_copy(mib).await;
            let way = follow(&mut rig, by(input));
            reads_in_ten_seconds(&rig, &way).await
        })
    };
    let (idle, busy) = (reads(0, ReadInput::Load), reads(32, ReadInput::Load));
    assert!(2 * busy < idle, "idle: {idle} reads, busy: {busy}");
    assert_eq!(reads(0, ReadInput::Journal), reads(32, ReadInput::Journal), "not chosen, it changes nothing");
}

#[test]
fn claim_6_a_copy_whose_hosts_wait_for_more_commands_reads_less_often() {
    let reads = |commands: usize, input| {
        life(async move {
            let mut rig = Rig::new(Choice::default()).await;
            let asked = rig.ask_copy(commands);
            rig.sleep_ms(1_000).await;
            let way = follow(&mut rig, by(input));
            let reads = reads_in_ten_seconds(&rig, &way).await;
            assert_eq!(rig.copy.disk.load_permille(), 0, "nothing else was turned");
            drop(asked);
            reads
        })
    };
    let (idle, busy) = (reads(0, ReadInput::Load), reads(60, ReadInput::Load));
    assert!(2 * busy < idle, "idle: {idle} reads, busy: {busy}");
    assert_eq!(reads(0, ReadInput::Journal), reads(60, ReadInput::Journal), "not chosen, it changes nothing");
}

#[test]
fn claim_8_the_farther_apart_the_pointers_of_the_source_the_sooner_the_next_read() {
    let pauses = |updates: u64, input: ReadInput| {
        life(async move {
            let mut rig = Rig::new(Choice::default()).await;
            write(&rig, updates).await;
            let newest = rig.source.lock().next.previous();
            rig.source.durable(newest).await;
            let way = follow(&mut rig, Schedule { read_size: ReadSize::Updates(2), ..by(input) });
            rig.until("three reads", |_| way.log().len() >= 3).await;
            let log = way.log();
            assert!(matches!(log[0].2.what, Wanted::From(_)));
            log[2].0 - log[0].0
        })
    };
    let (near, far) = (pauses(6, ReadInput::SourcePointers), pauses(300, ReadInput::SourcePointers));
    assert!(4 * far < near, "6 updates apart: {near} ms for two reads, 300: {far} ms");
    assert_eq!(pauses(6, ReadInput::Load), pauses(300, ReadInput::Load), "not chosen, it changes nothing");
}

/// The longest that one of twenty updates takes to be restored at a copy that has so much to destage, and so many
/// commands of hosts waiting.
fn restored_after_ms(mib: u64, commands: usize, restore: RestoreTiming) -> u64 {
    life(async move {
        let mut rig = Rig::new(Choice::default()).await;
        rig.load_copy(mib).await;
        let asked = rig.ask_copy(commands);
        rig.sleep_ms(1_000).await;
        follow(&mut rig, Schedule { restore, ..Schedule::default() });
        let copy = rig.copy.clone();
        rig.tasks.spawn(copy.restore_loop());
        let mut worst_ms = 0;
        for update in 0..20 {
            rig.write(update, 1, 1).await;
            let begun = rig.now_ms();
            rig.until("restored", |rig| rig.is_read() && rig.is_restored()).await;
            worst_ms = worst_ms.max(rig.now_ms() - begun);
            rig.sleep_ms(7).await;
        }
        drop(asked);
        worst_ms
    })
}

#[test]
fn claim_10_a_copy_with_more_load_restores_later() {
    let idle = restored_after_ms(0, 0, RestoreTiming::Load);
    for (mib, commands) in [(32, 0), (0, 60)] {
        let busy = restored_after_ms(mib, commands, RestoreTiming::Load);
        assert!(
            idle < 50 && busy > 5 * idle,
            "{mib} MiB, {commands} commands: idle {idle} ms, busy {busy} ms"
        );
        let immediate = restored_after_ms(mib, commands, RestoreTiming::Immediate);
        assert!(immediate < 50, "not chosen, it changes nothing: {immediate} ms");
    }
}
