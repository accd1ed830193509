//! Journal read reception and journal read: figures 16 to 20, J4 to J10 and J12.

use super::rig::{Choice, Lane, READER, Rig, Way, life};
use crate::clock::Clock as _;
use crate::copy::fetch::{Reading, Whose};
use crate::copy::serve::Carrier;
use crate::copy::source::Wanted;
use crate::volume::kind::{NoRoom, ReleaseBy, Schedule};
use crate::volume::timing::{ReadInput, ReadSize, ReadTiming, RestoreTiming};
use holdfast_journal::UpdateNumber;
use holdfast_journal::reader::Report;
use std::sync::Arc;
use std::time::Duration;

/// When a copy reads, and how much.
#[derive(Clone, Copy)]
pub(super) struct ReadPlan {
    pub(super) timing: ReadTiming,
    pub(super) size: ReadSize,
}

pub(super) const IMMEDIATE: ReadPlan = ReadPlan { timing: ReadTiming::Immediate, size: ReadSize::Group };

/// Starts reading; when it ends, it begins again after a moment, as over a link.
pub(super) fn follow(rig: &mut Rig, way: &Arc<Way>, plan: ReadPlan) {
    set_plan(rig, plan);
    let (copy, way, clock) = (rig.copy.clone(), way.clone(), rig.clock.clone());
    rig.tasks.spawn(async move {
        loop {
            copy.follow(&*way, 1, Whose::Source).await;
            crate::clock::Clock::sleep(&*clock, Duration::from_millis(50)).await;
        }
    });
}

fn set_plan(rig: &Rig, plan: ReadPlan) {
    let schedule = Schedule { read: plan.timing, read_size: plan.size, ..Schedule::default() };
    rig.copy.set_schedule(schedule);
}

pub(super) fn restore(rig: &mut Rig) {
    let copy = rig.copy.clone();
    rig.tasks.spawn(copy.restore_loop());
}

/// Writes `count` updates of one page each, a page apart, so that the last value of each page is known.
async fn write_many(rig: &Rig, count: u64) {
    for update in 1..=count {
        rig.write(update % 500, 1, u8::try_from(update % 251).unwrap()).await;
        if update % 50 == 0 {
            rig.sleep_ms(3).await;
        }
    }
}

async fn assert_equal(rig: &Rig, count: u64) {
    rig.until("restored", |rig| rig.is_read() && rig.is_restored()).await;
    for page in 1..500.min(count) {
        let newest = (1..=count).rev().find(|update| update % 500 == page).unwrap();
        assert_eq!(u64::from(rig.copied(page).await), newest % 251, "page {page}");
    }
}

#[test]
fn figure_18_answers_on_several_connections_overtake_each_other_and_are_stored_in_order() {
    life(async {
        let mut rig = Rig::new(Choice::default()).await;
        let lanes = [30, 2, 11, 0].map(|delay_ms| Lane { delay_ms, ..Lane::default() });
        let way = Arc::new(Way::new(&rig, &lanes));
        follow(&mut rig, &way, IMMEDIATE);
        restore(&mut rig);
        write_many(&rig, 1_500).await;
        assert_equal(&rig, 1_500).await;
        for lane in 0..lanes.len() {
            assert!(way.log().iter().filter(|(_, by, _)| *by == lane).count() > 5, "lane {lane} is used");
        }
    });
}

/// 4 MiB in answers of 64 KiB, each of them 200 ms on its way: two at a time would take 6.4 s.
#[test]
fn figure_18_on_a_long_link_enough_reads_are_under_way() {
    life(async {
        let mut rig = Rig::new(Choice::default()).await;
        for page in 0..1_024 {
            rig.write(page, 1, 7).await;
        }
        let way = Arc::new(Way::new(&rig, &[Lane { delay_ms: 200, ..Lane::default() }]));
        *way.round_trip_ms.lock().unwrap() = 200;
        let began_ms = rig.now_ms();
        follow(&mut rig, &way, IMMEDIATE);
        rig.until("read", Rig::is_read).await;
        let took_ms = rig.now_ms() - began_ms;
        assert!(took_ms < 2_000, "{took_ms} ms");
    });
}

#[test]
fn figure_17_steps_1530_to_1545_a_range_that_a_connection_lost_is_sent_again_and_the_cursor_stays() {
    life(async {
        let mut rig = Rig::new(Choice::default()).await;
        let lost = Lane { delay_ms: 5, loses_every: 4, ..Lane::default() };
        let way = Arc::new(Way::new(&rig, &[Lane::default(), lost, lost]));
        follow(&mut rig, &way, IMMEDIATE);
        restore(&mut rig);
        write_many(&rig, 1_500).await;
        assert_equal(&rig, 1_500).await;
        assert!(way.asked(|what| matches!(what, Wanted::Again { .. })) > 3, "ranges were asked for again");
        assert_eq!(way.asked(|what| matches!(what, Wanted::From(_))), 1, "one session served all the time");
    });
}

#[test]
fn figure_17_step_1590_by_name_any_report_frees_what_it_names() {
    life(async {
        let mut rig = Rig::new(Choice::default()).await;
        let newest = rig.write(1, 1, 1).await;
        rig.source.durable(newest).await;
        let way = Arc::new(Way::new(&rig, &[Lane::default()]));
        follow(&mut rig, &way, IMMEDIATE);
        rig.until("read", Rig::is_read).await;
        rig.until("reported", |rig| rig.acknowledged() == newest).await;
        assert!(way.reports() > 0);
        rig.source.settle().await.unwrap();
        assert_eq!(rig.held_from(), newest.get() + 1);
    });
}

#[test]
fn figure_17_step_1590_with_the_next_command_a_report_of_its_own_frees_nothing() {
    life(async {
        let choice = Choice { release_by: ReleaseBy::NextCommand, ..Choice::default() };
        let mut rig = Rig::new(choice).await;
        let first = rig.write(1, 1, 1).await;
        let second = rig.write(2, 1, 2).await;
        rig.source.durable(second).await;
        let way = Arc::new(Way::new(&rig, &[Lane::default()]));
        // One read at a time, far apart, so that it is known which of them carries what.
        let plan =
            ReadPlan { timing: ReadTiming::Every(Duration::from_secs(20)), size: ReadSize::Updates(1) };
        follow(&mut rig, &way, plan);
        rig.until("read", Rig::is_read).await;
        rig.sleep_ms(1_000).await;
        assert_eq!(way.reports(), 0, "the reader sends none");
        rig.source.settle().await.unwrap();
        let acknowledged = rig.acknowledged();
        assert!(acknowledged < second, "the last read left before this was durable");
        assert!(rig.held_from() <= second.get());
        // Nor does the source obey one that comes.
        let position = Report { acknowledged: second, ..Report::default() };
        rig.source.report(READER, position, Carrier::Report).unwrap();
        rig.source.settle().await.unwrap();
        assert_eq!(rig.held_from(), acknowledged.get() + 1);
        rig.source.report(READER, position, Carrier::Read).unwrap();
        rig.source.settle().await.unwrap();
        assert_eq!(rig.held_from(), second.get() + 1, "the next command frees; first was {first}");
    });
}

#[test]
fn figure_17_step_1590_at_once_room_is_free_as_soon_as_the_reader_has_said_that_it_holds_the_journal() {
    let freed_after_ms = |release_by| {
        life(async move {
            let mut rig = Rig::new(Choice { release_by, ..Choice::default() }).await;
            rig.settle();
            let way = Arc::new(Way::new(&rig, &[Lane::default()]));
            follow(&mut rig, &way, IMMEDIATE);
            rig.sleep_ms(1_500).await;
            let newest = rig.write(1, 1, 1).await;
            let begun = crate::clock::Clock::now(&*rig.clock);
            rig.until("freed", |rig| rig.held_from() > newest.get()).await;
            let took = crate::clock::Clock::now(&*rig.clock).since(begun);
            assert!(rig.copy.durable_here() >= newest, "never before the reader holds it");
            took.as_millis()
        })
    };
    let (at_once, by_name) = (freed_after_ms(ReleaseBy::AtOnce), freed_after_ms(ReleaseBy::Named));
    assert!(at_once < 50, "{at_once} ms");
    assert!(by_name > 100, "{by_name} ms: with the next settling");
}

#[test]
fn figure_17_steps_1515_and_1525_the_state_of_the_group_is_reported_with_its_reason_and_reading_resumes() {
    life(async {
        let mut rig = Rig::new(Choice::default()).await;
        rig.write(1, 1, 1).await;
        rig.source.lock().failed = Some("unit u3 failed\n\u{7}".into());
        let way = Arc::new(Way::new(&rig, &[Lane::default()]));
        follow(&mut rig, &way, IMMEDIATE);
        let said = |rig: &Rig| match rig.copy.reading() {
            Reading::Retrying(reason) => reason.contains("not normal") && reason.contains("unit u3 failed  "),
            Reading::Waiting | Reading::Going | Reading::NoRoom => false,
        };
        rig.until("reported", said).await;
        rig.source.lock().failed = None;
        rig.until("read", Rig::is_read).await;
        rig.until("reading", |rig| rig.copy.reading() == Reading::Going).await;
    });
}

/// A copy whose journal is smaller than what comes, and that restores only later.
async fn full_copy(no_room: NoRoom) -> (Rig, Arc<Way>) {
    let choice = Choice { copy_journal_mib: 4, source_journal_mib: 16, no_room, ..Choice::default() };
    let mut rig = Rig::new(choice).await;
    rig.settle();
    let way = Arc::new(Way::new(&rig, &[Lane::default(), Lane { delay_ms: 3, ..Lane::default() }]));
    follow(&mut rig, &way, IMMEDIATE);
    write_many(&rig, 1_500).await;
    rig.until("full", |rig| rig.copy.reading() == Reading::NoRoom).await;
    rig.sleep_ms(2_000).await;
    assert_eq!(rig.copy.reading(), Reading::NoRoom);
    assert!(!rig.is_read());
    (rig, way)
}

#[test]
fn figure_19_step_1755_what_there_is_no_room_for_is_dropped_and_asked_for_again_with_retry_indication() {
    life(async {
        let (mut rig, way) = full_copy(NoRoom::Retry).await;
        let retries = way.asked(|what| what == Wanted::Retry);
        assert!(retries > 3, "asked again after each interval");
        restore(&mut rig);
        assert_equal(&rig, 1_500).await;
        assert_eq!(way.asked(|what| matches!(what, Wanted::From(_))), 1, "without a new session");
        assert_eq!(rig.copy.reading(), Reading::Going);
    });
}

#[test]
fn figure_19_step_1755_what_there_is_no_room_for_is_held_in_the_cache_and_stored_later() {
    life(async {
        let (mut rig, way) = full_copy(NoRoom::Hold).await;
        let before = way.log().len();
        rig.sleep_ms(5_000).await;
        assert_eq!(way.log().len(), before, "nothing is asked for meanwhile");
        restore(&mut rig);
        assert_equal(&rig, 1_500).await;
        assert_eq!(way.asked(|what| what == Wanted::Retry), 0);
        assert_eq!(rig.copy.reading(), Reading::Going);
    });
}

#[test]
fn an_update_that_does_not_fit_the_room_of_a_read_is_asked_for_again_with_more_room() {
    life(async {
        let mut rig = Rig::new(Choice { read_bytes: 4 << 10, ..Choice::default() }).await;
        let way = Arc::new(Way::new(&rig, &[Lane::default(), Lane::default()]));
        let plan = ReadPlan { size: ReadSize::Bytes(4 << 10), ..IMMEDIATE };
        follow(&mut rig, &way, plan);
        restore(&mut rig);
        rig.write(7, 512, 0x5a).await;
        rig.write(8, 1, 0x11).await;
        rig.until("read", Rig::is_read).await;
        rig.until("restored", |rig| rig.copy.lock().restored.get() == 2).await;
        assert_eq!((rig.copied(7).await, rig.copied(8).await, rig.copied(518).await), (0x5a, 0x11, 0x5a));
        assert_eq!(way.asked(|what| matches!(what, Wanted::From(_))), 1, "one session served all the time");
        let rooms: Vec<u32> = way.log().iter().map(|(_, _, ask)| ask.room_bytes).collect();
        assert!(rooms.iter().any(|room| *room > 2 << 20) && rooms.last().is_some_and(|room| *room < 1 << 20));
    });
}

#[test]
fn how_much_one_read_brings_is_chosen_by_the_command_the_group_or_the_load_of_the_link() {
    let reads = |size: ReadSize, link_permille: u32| {
        life(async move {
            let mut rig = Rig::new(Choice { read_bytes: 256 << 10, ..Choice::default() }).await;
            for update in 0..400 {
                rig.write(update, 1, 1).await;
            }
            let newest = rig.source.lock().next.previous();
            rig.source.durable(newest).await;
            let way = Arc::new(Way::new(&rig, &[Lane::default()]));
            *way.link_permille.lock().unwrap() = link_permille;
            let timing = ReadTiming::Every(Duration::from_secs(5));
            follow(&mut rig, &way, ReadPlan { timing, size });
            rig.until("read", Rig::is_read).await;
            way.log().len()
        })
    };
    let group = reads(ReadSize::Group, 0);
    assert!((400 / 64..400 / 32).contains(&group), "{group} reads of up to 256 KiB");
    assert!((400 / 10..=400 / 10 + 2).contains(&reads(ReadSize::Updates(10), 0)));
    let small = reads(ReadSize::Bytes(16 << 10), 0);
    assert!(small > 2 * group, "{small} reads of about 16 KiB");
    assert_eq!(reads(ReadSize::Adaptive, 0), group);
    assert!(reads(ReadSize::Adaptive, 1000) > group, "a loaded link gets smaller answers");
}

#[test]
fn figure_19_steps_1725_and_1760_reads_follow_the_interval_that_was_chosen() {
    let reads_in_ten_seconds = |timing: ReadTiming, link_permille: u32| {
        // What comes in a fixed interval has to fit one answer.
        let read_bytes = match timing {
            ReadTiming::Fixed(_) | ReadTiming::Periodic(_) => 1 << 20,
            ReadTiming::Immediate | ReadTiming::Every(_) | ReadTiming::Adaptive(_) => 64 << 10,
        };
        life(async move {
            let mut rig = Rig::new(Choice { read_bytes, ..Choice::default() }).await;
            let way = Arc::new(Way::new(&rig, &[Lane::default()]));
            *way.link_permille.lock().unwrap() = link_permille;
            rig.settle();
            restore(&mut rig);
            follow(&mut rig, &way, ReadPlan { timing, size: ReadSize::Group });
            for update in 0..1_000 {
                rig.write(update % 99, 1, 1).await;
                rig.sleep_ms(10).await;
            }
            if link_permille == 0 {
                assert!(rig.copy.durable_here().get() > 800, "{timing} keeps up");
            }
            way.log().len()
        })
    };
    let fixed = reads_in_ten_seconds(ReadTiming::Fixed(Duration::from_millis(500)), 0);
    assert!((19..=21).contains(&fixed), "{fixed}: one read in each interval, whatever it finds");
    let periodic = reads_in_ten_seconds(ReadTiming::Periodic(Duration::from_millis(500)), 0);
    assert!((20..=22).contains(&periodic), "{periodic}");
    let adaptive = |inputs: &[ReadInput]| ReadTiming::Adaptive(inputs.iter().copied().collect());
    let fixed = reads_in_ten_seconds(ReadTiming::Every(Duration::from_millis(500)), 0);
    assert!((20..=110).contains(&fixed), "{fixed}: a round of reads in each interval");
    let received = reads_in_ten_seconds(adaptive(&[ReadInput::Received]), 0);
    assert!((10..200).contains(&received), "{received}: as many as it takes");
    let pointers = reads_in_ten_seconds(adaptive(&[ReadInput::SourcePointers]), 0);
    assert!((10..400).contains(&pointers), "{pointers}: JOURNAL INFORMATION shows what is unread");
    let (free, busy) = (adaptive(&[ReadInput::Link]), adaptive(&[ReadInput::Link]));
    assert!(reads_in_ten_seconds(free, 0) > 2 * reads_in_ten_seconds(busy, 900));
}

#[test]
fn figure_19_step_1760_periodic_reads_keep_their_spacing_however_long_an_answer_takes() {
    life(async {
        let mut rig = Rig::new(Choice::default()).await;
        let slow = Lane { delay_ms: 70, ..Lane::default() };
        let way = Arc::new(Way::new(&rig, &[slow, slow]));
        follow(
            &mut rig,
            &way,
            ReadPlan { timing: ReadTiming::Periodic(Duration::from_millis(50)), ..IMMEDIATE },
        );
        rig.settle();
        restore(&mut rig);
        for update in 0..400 {
            rig.write(update % 99, 1, 1).await;
            rig.sleep_ms(5).await;
        }
        let times: Vec<u64> = way.log().iter().map(|(at_ms, ..)| *at_ms).skip(2).collect();
        assert!(times.len() > 30);
        let spacings: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(spacings.iter().all(|spacing| *spacing == 50), "{spacings:?}");
        // A fixed time is counted from the answer on: with one lane every 70 + 50 ms.
        let mut rig = Rig::new(Choice::default()).await;
        let way = Arc::new(Way::new(&rig, &[slow]));
        follow(
            &mut rig,
            &way,
            ReadPlan { timing: ReadTiming::Fixed(Duration::from_millis(50)), ..IMMEDIATE },
        );
        rig.sleep_ms(2_000).await;
        let times: Vec<u64> = way.log().iter().map(|(at_ms, ..)| *at_ms).collect();
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 120), "{times:?}");
    });
}

#[test]
fn another_schedule_of_reading_and_restoring_counts_at_once() {
    life(async {
        let mut rig = Rig::new(Choice::default()).await;
        let way = Arc::new(Way::new(&rig, &[Lane::default()]));
        let hourly = Duration::from_secs(3_600);
        follow(&mut rig, &way, IMMEDIATE);
        let schedule = Schedule {
            read: ReadTiming::Every(hourly),
            restore: RestoreTiming::Every(hourly),
            ..Schedule::default()
        };
        rig.copy.set_schedule(schedule);
        restore(&mut rig);
        // Both have begun to wait.
        rig.sleep_ms(5_000).await;
        rig.write(1, 1, 1).await;
        rig.sleep_ms(60_000).await;
        assert!(!rig.is_read());
        rig.copy.set_schedule(Schedule { read: ReadTiming::Immediate, ..schedule });
        rig.sleep_ms(100).await;
        assert!(rig.is_read() && !rig.is_restored());
        rig.copy.set_schedule(Schedule::default());
        rig.sleep_ms(100).await;
        assert!(rig.is_restored());
        assert_eq!(way.asked(|what| matches!(what, Wanted::From(_))), 1, "without a new session");
    });
}

/// The moment of a rewind: the newest update that is not behind it, and none where another one may have been given by then that has not come.
#[test]
fn a_time_is_the_newest_update_before_it_as_far_as_everything_before_it_has_come() {
    life(async {
        let rig = Rig::new(Choice::default()).await;
        let way = Arc::new(Way::new(&rig, &[Default::default()]));
        let mut times = Vec::new();
        for page in 1..=3 {
            times.push(rig.clock.wall().0);
            rig.write(page, 1, 7).await;
            rig.sleep_ms(1_000).await;
        }
        let number = async |unix_ns| rig.copy.number_at(unix_ns).await.map(UpdateNumber::get);
        assert!(number(times[2]).await.unwrap_err().contains("begins later"), "nothing has come");
        super::sources::read_all(&rig, &way).await;
        let second = 1_000_000_000;
        assert!(number(times[0] - 1).await.unwrap_err().contains("begins later: with update 1"));
        assert_eq!(number(times[0] + second / 2).await, Ok(1));
        assert_eq!(number(times[1] + second / 2).await, Ok(2));
        let heard = rig.copy.lock().source.as_ref().unwrap().wall_ns;
        assert!(heard >= times[2] + second);
        assert_eq!(number(heard).await, Ok(3));
        assert!(number(heard + 1).await.unwrap_err().contains("may have given others"));
        // What is read has heard nothing of the array that gives numbers for a second.
        rig.copy.lock().source.as_mut().unwrap().heard_ms = 1_000;
        assert!(number(heard).await.unwrap_err().contains("may have given others"));
        assert_eq!(number(heard - second).await, Ok(3));
    });
}
