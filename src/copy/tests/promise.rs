//! What was visible is visible again behind a restart, whatever the delay says by then (`promise.rs`).

use super::reading::{IMMEDIATE, follow};
use super::rig::{Choice, DATA, Lane, Rig, Way, life};
use crate::copy::checkpoint::CheckpointExtra;
use crate::copy::error::CopyError;
use crate::copy::group::Group;
use crate::copy::image::Kept;
use crate::copy::promise::Promise;
use crate::disk::VolumeId;
use crate::volume::kind::Schedule;
use crate::volume::timing::RestoreTiming;
use holdfast_journal::UpdateNumber;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3_600);
const SECOND: Duration = Duration::from_secs(1);

fn restored(group: &Group) -> u64 {
    group.lock().restored.get()
}

/// `writes` more, each durable at the copy a moment later.
async fn write(rig: &Rig, writes: u64) {
    for page in 0..writes {
        rig.write(page, 1, 7).await;
        if page % 50 == 0 {
            rig.sleep_ms(3).await;
        }
    }
    rig.until("stored", Rig::is_read).await;
}

/// What a start finds restored that is told to delay restore so long.
async fn replayed(rig: &Rig, delay: Duration) -> u64 {
    let reopened = rig.reopened().await;
    reopened.replay(delay).await.unwrap();
    restored(&reopened)
}

/// How far a start goes that may wait with everything else, before it writes anything.
async fn replayed_unwritten(rig: &Rig) -> u64 {
    let reopened = rig.reopened().await;
    reopened.restore_available(HOUR).await.unwrap();
    restored(&reopened)
}

async fn rig() -> Rig {
    let mut rig = Rig::new(Choice::default()).await;
    let way = Arc::new(Way::new(&rig, &[Lane::default()]));
    follow(&mut rig, &way, IMMEDIATE);
    rig
}

/// Once a start behind a delay that had just been made longer left what was visible before to time, and the units with
/// pages of it.
#[test]
fn what_was_visible_before_the_delay_was_made_longer_is_visible_behind_a_restart() {
    life(async {
        let rig = rig().await;
        write(&rig, 5).await;
        assert_eq!(rig.copy.restore_available(Duration::ZERO).await.unwrap(), 5);
        assert!(rig.copy.lock().settled < UpdateNumber::new(5), "a restart has something to redo");
        assert_eq!(replayed(&rig, HOUR).await, 5);
        // From a short delay to a long one.
        assert_eq!(rig.copy.restore_available(SECOND).await.unwrap(), 0);
        write(&rig, 5).await;
        rig.sleep_ms(2_000).await;
        assert_eq!(rig.copy.restore_available(SECOND).await.unwrap(), 5);
        assert_eq!(replayed(&rig, HOUR).await, 10);
        // And by a clock that has gone back.
        rig.clock.step_wall(-3_600_000_000_000);
        assert_eq!(replayed(&rig, SECOND).await, 10);
    });
}

/// The newest checkpoint, damaged long after it was durable, once left the one before it, whose promise was smaller: a start
/// made less visible again than was, and called it an image.
#[test]
fn whichever_checkpoint_is_damaged_later_what_was_visible_is_visible_again_and_no_more() {
    life(async {
        let rig = rig().await;
        rig.copy.restore_available(HOUR).await.unwrap();
        for visible in [5, 11] {
            write(&rig, 5).await;
            rig.sleep_ms(2_000).await;
            assert_eq!(rig.copy.restore_available(SECOND).await.unwrap(), 5);
            write(&rig, 1).await; // Held.
            for slot in [0, 1] {
                let block = rig.lose_checkpoint(slot).await;
                let replayed = replayed_unwritten(&rig).await;
                rig.put_checkpoint(slot, block).await;
                assert_eq!((replayed, restored(&rig.copy)), (visible, visible), "slot {slot}");
            }
            rig.sleep_ms(2_000).await;
            assert_eq!(rig.copy.restore_available(SECOND).await.unwrap(), 1);
        }
    });
}

/// What only one checkpoint says has not been visible: a start that went so far would depend on that one.
#[test]
fn a_promise_that_only_one_checkpoint_says_is_not_kept() {
    life(async {
        let rig = rig().await;
        rig.copy.restore_available(HOUR).await.unwrap();
        write(&rig, 5).await;
        let (visible, through) = (UpdateNumber::new(5), UpdateNumber::NONE);
        rig.copy.lock().promise(Promise { visible, through }).unwrap();
        rig.copy.checkpoint().await.unwrap();
        assert_eq!(replayed_unwritten(&rig).await, 0);
        rig.copy.keep_promise(Promise { visible, through }).await.unwrap();
        assert_eq!(replayed_unwritten(&rig).await, 5);
    });
}

/// The other side: what is not due stays held, as soon as a checkpoint says that it is not visible.
#[test]
fn what_was_not_visible_waits_for_its_time_also_behind_a_restart() {
    life(async {
        let rig = rig().await;
        write(&rig, 5).await;
        rig.copy.restore_available(Duration::ZERO).await.unwrap();
        assert_eq!(rig.copy.lock().promised().visible, Promise::EVERYTHING);
        assert_eq!(rig.copy.restore_available(HOUR).await.unwrap(), 0);
        assert_eq!(rig.copy.lock().promised().visible, UpdateNumber::new(5));
        write(&rig, 5).await;
        assert_eq!(rig.copy.restore_available(HOUR).await.unwrap(), 0);
        assert_eq!(replayed(&rig, HOUR).await, 5);
        assert_eq!(replayed(&rig, Duration::ZERO).await, 10);
    });
}

/// Nothing is visible that a restart would not know of: the checkpoint comes first.
#[test]
fn nothing_becomes_visible_before_a_durable_checkpoint_says_that_it_may() {
    life(async {
        let rig = rig().await;
        rig.copy.restore_available(HOUR).await.unwrap();
        write(&rig, 5).await;
        rig.sleep_ms(2_000).await;
        {
            let _nothing_is_checkpointed = rig.copy.checkpointing.lock().await;
            tokio::select! {
                biased;
                found = rig.copy.restore_available(SECOND) => panic!("{found:?}"),
                () = rig.sleep_ms(500) => {}
            }
            tokio::select! {
                biased;
                found = rig.copy.restore_available(Duration::ZERO) => panic!("{found:?}"),
                () = rig.sleep_ms(500) => {}
            }
            assert_eq!(restored(&rig.copy), 0);
        }
        assert_eq!(rig.copy.restore_available(SECOND).await.unwrap(), 5);
    });
}

/// A restart in the midst of a stretch once left the S-VOLs there until the rest of it fell due.
#[test]
fn a_restart_in_the_midst_of_a_broken_stretch_goes_through_to_its_end() {
    life(async {
        let rig = rig().await;
        rig.copy.restore_available(HOUR).await.unwrap();
        write(&rig, 1).await;
        rig.source.break_image().await.unwrap(); // 2
        rig.sleep_ms(2_000).await;
        write(&rig, 600).await;
        rig.source.make_whole().await.unwrap(); // 603
        write(&rig, 1).await;
        {
            // The array ends somewhere in between: of the stretch only the first two are due.
            let restoring = rig.copy.restore_available(SECOND);
            tokio::pin!(restoring);
            std::future::poll_fn(|context| {
                assert!(restoring.as_mut().poll(context).is_pending(), "it restores in steps");
                if restored(&rig.copy) > 250 { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
        let visible = restored(&rig.copy);
        assert!((250..603).contains(&visible), "{visible}");
        rig.copy.settle().await.unwrap();
        assert_eq!(replayed(&rig, SECOND).await, 603, "the last one is not due");
    });
}

/// An update, and a stretch that is no image from number 2 to 603.
async fn broken_stretch(rig: &Rig) {
    write(rig, 1).await;
    rig.source.break_image().await.unwrap();
    write(rig, 600).await;
    rig.source.make_whole().await.unwrap();
    rig.until("stored", Rig::is_read).await;
}

/// Restores until it is in the midst of that stretch, where something cuts it off.
async fn cut_off_inside(rig: &Rig, delay: Duration) {
    let restoring = rig.copy.restore_available(delay);
    tokio::pin!(restoring);
    std::future::poll_fn(|context| {
        assert!(restoring.as_mut().poll(context).is_pending(), "it restores in steps");
        if restored(&rig.copy) > 250 { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    assert!((250..603).contains(&restored(&rig.copy)));
    assert_eq!(rig.copy.lock().restored_in_part, None, "between two updates");
}

/// Between two updates of a stretch the S-VOLs were once taken for the image of the first of them: by a takeover, by
/// the image that a resync keeps, by hosts to whom they were opened, and by what is recorded when the journal is lost.
#[test]
fn inside_a_broken_stretch_the_s_vols_are_no_image_and_nobody_takes_them_for_one() {
    life(async {
        let rig = rig().await;
        rig.copy.restore_available(Duration::ZERO).await.unwrap();
        broken_stretch(&rig).await;
        {
            // Promised and not begun: they are what they were before it.
            let _nothing_is_checkpointed = rig.copy.checkpointing.lock().await;
            tokio::select! {
                biased;
                found = rig.copy.restore_available(Duration::ZERO) => panic!("{found:?}"),
                () = rig.sleep_ms(500) => {}
            }
            assert_eq!(rig.copy.lock().wholeness.through, UpdateNumber::new(603));
            assert_eq!(rig.copy.whole_number(), Some(UpdateNumber::FIRST));
            let resumed = CheckpointExtra::decode(&rig.copy.resume_point().extra).unwrap();
            assert_eq!(resumed.promise.through, UpdateNumber::NONE);
        }
        cut_off_inside(&rig, Duration::ZERO).await;
        assert_eq!(rig.copy.whole_number(), None);
        let volumes = [VolumeId(DATA)];
        rig.copy.keep_image(&volumes, None).await.expect_err("an image of nothing");
        assert_eq!(rig.copy.kept_image(&volumes).unwrap(), Kept::None);
        let taken: Result<(), CopyError> =
            rig.copy.take_out_svols(&[1], |_| panic!("hosts would write a mixture")).await;
        taken.expect_err("no image");
        // The journal is lost here, and the next one begins inside it.
        let resumed = CheckpointExtra::decode(&rig.copy.resume_point().extra).unwrap();
        let next = rig.reopened().await;
        next.lock().found_promised(resumed.promise);
        next.lock().restored = UpdateNumber::new(restored(&rig.copy));
        assert_eq!(next.whole_number(), None);
        next.lock().restored = UpdateNumber::new(603);
        assert_eq!(next.whole_number(), Some(UpdateNumber::new(603)));
    });
}

/// The newest record *whole* was once taken for the end of every stretch: restore went through to it, whatever delay and
/// stop said.
#[test]
fn restore_goes_through_to_the_end_of_the_stretch_and_not_to_that_of_a_later_one() {
    life(async {
        let rig = rig().await;
        rig.copy.restore_available(HOUR).await.unwrap();
        broken_stretch(&rig).await;
        write(&rig, 1).await;
        rig.sleep_ms(2_000).await;
        rig.source.break_image().await.unwrap(); // 605
        write(&rig, 1).await;
        rig.source.make_whole().await.unwrap(); // 607
        rig.until("stored", Rig::is_read).await;
        rig.copy.restore_available(SECOND).await.unwrap();
        assert_eq!(restored(&rig.copy), 604, "the rest is not due");
        assert_eq!(rig.copy.lock().promised().through, UpdateNumber::new(603));
        rig.sleep_ms(2_000).await;
        rig.copy.restore_available(SECOND).await.unwrap();
        assert_eq!(restored(&rig.copy), 607);
    });
}

/// A search that has found nothing goes on where it ended, also when more than one end comes at once.
#[test]
fn a_stretch_whose_end_has_not_come_is_entered_when_it_has() {
    life(async {
        let rig = rig().await;
        rig.source.break_image().await.unwrap(); // 1
        for last in [3, 5, 7] {
            write(&rig, 2).await;
            rig.copy.restore_available(Duration::ZERO).await.unwrap();
            let searched = rig.copy.lock().wholeness.searched;
            assert_eq!(searched, Some((UpdateNumber::FIRST, UpdateNumber::new(last))));
            assert_eq!(restored(&rig.copy), 0);
        }
        rig.source.make_whole().await.unwrap(); // 8
        rig.source.break_image().await.unwrap(); // 9
        rig.source.make_whole().await.unwrap(); // 10
        rig.until("stored", Rig::is_read).await;
        rig.copy.restore_available(Duration::ZERO).await.unwrap();
        assert_eq!(restored(&rig.copy), 10);
    });
}

/// A delay that came while restore was inside a stretch once left the S-VOLs there, and so did a restart.
#[test]
fn a_delay_that_comes_in_the_midst_of_a_broken_stretch_counts_behind_its_end() {
    life(async {
        let rig = rig().await;
        rig.copy.restore_available(Duration::ZERO).await.unwrap();
        broken_stretch(&rig).await;
        write(&rig, 1).await;
        cut_off_inside(&rig, Duration::ZERO).await;
        rig.copy.settle().await.unwrap();
        rig.copy.restore_available(HOUR).await.unwrap();
        assert_eq!(restored(&rig.copy), 603, "the last one is not due");
        assert_eq!(replayed(&rig, HOUR).await, 603);
    });
}

/// A longer delay whose checkpoint failed was once taken for durable: a restart restored all that was held.
#[test]
fn a_delay_that_was_made_longer_is_written_until_a_checkpoint_says_it() {
    life(async {
        let rig = rig().await;
        write(&rig, 5).await;
        rig.copy.restore_available(Duration::ZERO).await.unwrap();
        {
            let _nothing_is_checkpointed = rig.copy.checkpointing.lock().await;
            tokio::select! {
                biased;
                found = rig.copy.restore_available(HOUR) => panic!("{found:?}"),
                () = rig.sleep_ms(500) => {}
            }
        }
        write(&rig, 5).await;
        assert_eq!(rig.copy.restore_available(HOUR).await.unwrap(), 0);
        assert_eq!(replayed(&rig, HOUR).await, 5);
    });
}

/// Whoever has everything restored and then does not need it (a reversal that is refused) leaves no promise behind.
#[test]
fn what_another_one_has_had_promised_is_taken_back_at_once() {
    life(async {
        let mut rig = rig().await;
        let restore = RestoreTiming::Every(HOUR);
        rig.copy.set_schedule(Schedule { restore, restore_delay: HOUR, ..Schedule::default() });
        rig.tasks.spawn(rig.copy.clone().restore_loop());
        rig.sleep_ms(1_000).await;
        write(&rig, 5).await;
        assert_eq!(rig.copy.restore_available(Duration::ZERO).await.unwrap(), 5);
        assert_eq!(rig.copy.lock().promised().visible, Promise::EVERYTHING);
        rig.sleep_ms(1_000).await;
        assert_eq!(rig.copy.lock().promised().visible, UpdateNumber::new(5));
        write(&rig, 5).await;
        assert_eq!(replayed(&rig, HOUR).await, 5);
    });
}

/// Once each update that fell due cost a checkpoint, and each of those a group commit.
#[test]
fn what_falls_due_one_by_one_shares_a_checkpoint() {
    life(async {
        let rig = rig().await;
        rig.copy.restore_available(SECOND).await.unwrap();
        let mut promises = 0;
        for _ in 0..200 {
            rig.write(1, 1, 7).await;
            rig.sleep_ms(20).await;
            let before = rig.copy.lock().promised().visible;
            rig.copy.restore_available(SECOND).await.unwrap();
            promises += u32::from(rig.copy.lock().promised().visible != before);
        }
        // Four seconds, the first of which makes nothing due.
        assert!((20..=31).contains(&promises), "{promises}");
        assert!(restored(&rig.copy) > 130, "{}", restored(&rig.copy));
    });
}

/// A write of the journal's head that was cut off once went on in the unit, over the head of the next journal.
#[test]
fn a_group_does_not_end_in_the_midst_of_a_checkpoint_of_its_restore() {
    life(async {
        let mut rig = rig().await;
        rig.copy.set_schedule(Schedule { restore_delay: HOUR, ..Schedule::default() });
        let checkpointing = rig.copy.checkpointing.lock().await;
        rig.tasks.spawn(rig.copy.clone().restore_loop());
        rig.sleep_ms(500).await;
        let closing = rig.copy.close();
        tokio::pin!(closing);
        tokio::select! {
            biased;
            () = &mut closing => panic!("its restore has a checkpoint under way"),
            () = rig.sleep_ms(500) => {}
        }
        drop(checkpointing);
        closing.await;
        assert!(rig.copy.checkpointing.try_lock().is_ok());
        rig.copy.restore_available(Duration::ZERO).await.expect_err("it has ended");
    });
}

/// A start whose replay failed once named no volume: the operator's answer to that, another one in its place, had no effect.
#[test]
fn a_replay_that_cannot_read_what_it_needs_says_in_which_volume() {
    life(async {
        let mut rig = Rig::new(Choice { cache_bytes: 0, ..Choice::default() }).await;
        let way = Arc::new(Way::new(&rig, &[Lane::default()]));
        follow(&mut rig, &way, IMMEDIATE);
        for byte in 1..=5 {
            rig.write(u64::from(byte), 1, byte).await;
            rig.sleep_ms(20).await;
        }
        rig.until("stored", Rig::is_read).await;
        rig.damage(2).await;
        let reopened = rig.reopened().await;
        let error = reopened.replay(Duration::ZERO).await.unwrap_err();
        assert!(matches!(error, CopyError::Journal { volume: 2, .. }), "{error}");
    });
}
