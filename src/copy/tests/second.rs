//! A third array beside a synchronous copy (promises K1 and K2; decisions 20 and 22).

use super::rig::{Choice, DATA, READER, Rig, Way, life};
use super::sources::read_all;
use crate::clock::BoxFuture;
use crate::copy::answer::{Head, MAX_ANSWER_BYTES, Outcome};
use crate::copy::fetch::Whose;
use crate::copy::group::{PairRuntime, Sequenced};
use crate::copy::inherited::Others;
use crate::copy::push::Second;
use crate::copy::serve::{Answer, Form, Request};
use crate::copy::source::SourceError;
use crate::copy::synchronous::{self, Asked, Over};
use crate::volume::kind::Fence;
use crate::volume::pair::PairState;
use holdfast_journal::{ArrayNumber, UpdateNumber};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SECOND: ArrayNumber = ArrayNumber(3);
const CHANNEL: u64 = 7;

fn chosen(reader: ArrayNumber) -> synchronous::Choice {
    let limit = Duration::from_secs(600);
    synchronous::Choice { reader, over: Over::Push, fence: Fence::Never, limit, relays: 0 }
}

/// What one journal read of the third brings, and the last number in it.
async fn read(rig: &Rig) -> (Outcome, u64) {
    let request = Request {
        reader: READER,
        start: None,
        retry: false,
        updates: 100,
        bytes: MAX_ANSWER_BYTES,
        wait: Duration::from_millis(200),
        form: Form::Journals,
    };
    let answer = rig.source.answer(request).await.expect("it is a reader");
    let (head, _) = Head::decode(&answer.head).unwrap();
    (head.outcome, (head.first + u64::from(head.updates)).saturating_sub(1))
}

/// The range of a copy was changed by a write that hosts wait for: as long as the second lacks that, the third is not handed it either,
/// in whatever record it would come.
#[test]
fn the_data_of_a_copy_leaves_when_the_second_has_everything_in_it() {
    life(async {
        let mut rig = Rig::new(Choice { pair: PairState::BeingCopied, ..Choice::default() }).await;
        rig.source.lock().readers.add(SECOND, UpdateNumber::FIRST).unwrap();
        assert_eq!(rig.try_write(0, 8192, 7).await, Ok(Sequenced::Unjournaled), "the copy brings it");
        rig.tasks.spawn(rig.source.clone().copy_pair(DATA, 1));
        rig.sleep_ms(200).await;
        rig.source.set_synchronous(Some(chosen(SECOND)), true);
        assert!(rig.source.open_channel(CHANNEL, SECOND));
        let copied = rig.source.newest_number();
        assert!(rig.source.lock().pairs[&DATA][0].copy_end.is_some() && copied > UpdateNumber::FIRST);
        rig.source.durable(copied).await;
        rig.source.confirm(CHANNEL, copied);
        let written = rig.write(2, 1, 8).await;
        rig.source.durable(written).await;
        let (outcome, last) = read(&rig).await;
        assert!(
            outcome == Outcome::NoJournal || last == 0,
            "{outcome:?}: as of {written}, confirmed {copied}"
        );
        rig.source.confirm(CHANNEL, written);
        let (mut outcome, mut last) = read(&rig).await;
        while outcome == Outcome::Updates && last < written.get() {
            (outcome, last) = read(&rig).await;
        }
        assert_eq!((outcome, last), (Outcome::Updates, written.get()));
    });
}

fn others(settled: u64, reaches: u64) -> Option<Others> {
    Some(Others { settled: UpdateNumber::new(settled), reaches: UpdateNumber::new(reaches) })
}

/// The copy has six updates, of pages 64 KiB apart, and lets them go bit by bit.
#[test]
fn what_others_lack_is_marked_before_it_is_let_go_and_only_a_stretch_without_a_gap_counts() {
    life(async {
        let rig = Rig::new(Choice::default()).await;
        for page in 0..6 {
            rig.write(page * 16, 1, 7).await;
        }
        let way = Arc::new(Way::new(&rig, &[Default::default()]));
        read_all(&rig, &way).await;
        let copy = rig.copy.clone();
        let marked = |first: u64| {
            let freed = copy.freed_before(UpdateNumber::new(first))?;
            let regions = (0..6).filter(|page| freed.maps[&DATA].is_marked(page << 16, 4096));
            Some((freed.from.get(), freed.through.get(), regions.collect::<Vec<u64>>()))
        };
        copy.mark_freed(UpdateNumber::new(2)).await;
        assert_eq!(marked(1), None, "nobody else reads the primary");
        copy.others_have(others(1, 1));
        copy.mark_freed(UpdateNumber::new(3)).await;
        assert_eq!(marked(4), Some((2, 3, vec![1, 2])));
        assert_eq!(marked(5), None, "the journal goes on behind a gap");
        copy.lock().journal.release(UpdateNumber::new(3));
        copy.mark_freed(UpdateNumber::new(5)).await;
        assert_eq!(marked(6), Some((2, 5, vec![1, 2, 3, 4])), "it goes on");
        copy.lock().journal.release(UpdateNumber::new(5));
        copy.others_have(others(5, 5));
        copy.mark_freed(UpdateNumber::new(6)).await;
        assert_eq!(marked(7), Some((6, 6, vec![5])), "what all have is marked for nobody");
    });
}

/// A pair of another reader reaches update 2 only, while that reader goes on with its other pairs: what is marked is kept as long as the
/// primary says so, and is begun anew behind that.
#[test]
fn what_a_stopped_pair_lacks_stays_marked_while_its_reader_goes_on() {
    life(async {
        let rig = Rig::new(Choice::default()).await;
        for page in 0..6 {
            rig.write(page * 16, 1, 7).await;
        }
        let way = Arc::new(Way::new(&rig, &[Default::default()]));
        read_all(&rig, &way).await;
        let copy = rig.copy.clone();
        let from = || copy.freed_before(UpdateNumber::new(1)).map(|freed| freed.from.get());
        copy.others_have(others(2, 2));
        copy.mark_freed(UpdateNumber::new(4)).await;
        copy.lock().journal.release(UpdateNumber::new(4));
        copy.others_have(others(6, 2));
        copy.mark_freed(UpdateNumber::new(5)).await;
        assert_eq!(from(), Some(3), "it goes on from where the pair stopped");
        assert_eq!(copy.marked_through(), Some(UpdateNumber::new(5)));
        copy.lock().journal.release(UpdateNumber::new(5));
        copy.others_have(others(6, 6));
        assert_eq!(from(), None, "all have it");
        copy.mark_freed(UpdateNumber::new(6)).await;
        assert_eq!(from(), None, "nothing was freed that anybody lacks");
        rig.write(0, 1, 7).await;
        read_all(&rig, &way).await;
        copy.mark_freed(UpdateNumber::new(7)).await;
        assert_eq!(from(), Some(7));
        copy.others_have(others(9, 6));
        assert_eq!(from(), Some(7), "a stopped pair lacks it");
        copy.others_have(others(9, 7));
        assert_eq!(from(), None);
    });
}

/// The third was taken away while something was marked for it. A takeover would have looked through all of the journal behind that, for
/// nobody.
#[test]
fn what_is_marked_is_forgotten_when_nobody_else_reads_the_primary() {
    life(async {
        let rig = Rig::new(Choice::default()).await;
        for page in 0..3 {
            rig.write(page * 16, 1, 7).await;
        }
        let way = Arc::new(Way::new(&rig, &[Default::default()]));
        read_all(&rig, &way).await;
        let copy = rig.copy.clone();
        copy.others_have(others(0, 0));
        copy.mark_freed(UpdateNumber::new(2)).await;
        assert_eq!(copy.marked_through(), Some(UpdateNumber::new(2)));
        copy.others_have(None);
        assert_eq!(copy.marked_through(), None);
    });
}

/// A second that was full of what it had not restored settled over and over: each round woke the write of journals that waited for room,
/// and that asked for the next round. In the simulation no time passed any more.
#[test]
fn what_is_not_restored_is_not_settled_for_room() {
    life(async {
        let rig = Rig::new(Choice { copy_journal_mib: 1, ..Choice::default() }).await;
        for page in 0..10 {
            rig.write(page * 16, 16, 7).await;
        }
        let way = Arc::new(Way::new(&rig, &[Default::default()]));
        let following = rig.copy.follow(&*way, 1, Whose::Source);
        tokio::select! {
            biased;
            error = following => panic!("{error}"),
            () = rig.until("read", |rig| rig.copy.lock().used_percent() >= 60) => {}
        }
        assert!(!rig.copy.lock().fills_up(), "nothing is restored");
        rig.copy.durable(UpdateNumber::new(10)).await;
        rig.copy.restore_available(Duration::ZERO).await.unwrap();
        assert!(rig.copy.lock().fills_up());
        rig.copy.settle().await.unwrap();
        assert!(!rig.copy.lock().fills_up());
    });
}

/// What is kept for the third lies in the volumes of the journal that come next, and an update does not fit into the one that is written.
/// The second refused it for ever, as long as all volumes together were far from full.
#[test]
fn nothing_is_kept_for_others_when_there_is_no_room_for_what_comes() {
    life(async {
        let rig = Rig::new(Choice::default()).await;
        rig.write(0, 1, 7).await;
        let way = Arc::new(Way::new(&rig, &[Default::default()]));
        read_all(&rig, &way).await;
        rig.copy.others_have(others(0, 0));
        let mut seq = rig.copy.lock();
        let settled = UpdateNumber::FIRST;
        assert_eq!(seq.needed_here(settled), UpdateNumber::NONE);
        seq.apart.lacks_room = true;
        assert_eq!(seq.needed_here(settled), settled);
    });
}

/// The primary says of a reader what its stopped pairs reach, from the suspension until they are normal.
#[test]
fn the_primary_says_what_stopped_pairs_of_its_other_readers_reach() {
    life(async {
        let rig = Rig::new(Choice::default()).await;
        rig.source.lock().readers.add(SECOND, UpdateNumber::FIRST).unwrap();
        let beside = || rig.source.others_beside(SECOND).map(|one| (one.settled.get(), one.reaches.get()));
        assert_eq!(beside(), Some((0, 0)));
        rig.write(1, 1, 7).await;
        let marking = rig.source.begin_marking(READER, &[1]);
        rig.source.mark_unsettled(&marking).await.unwrap();
        rig.source.suspended(&marking);
        let written = rig.write(2, 1, 7).await;
        rig.source.durable(written).await;
        rig.source.lock().readers.restart(READER, written.next()).unwrap();
        assert_eq!(beside(), Some((2, 0)), "it begins anew, and its pair reaches what it had");
        rig.source.set_pair_state(1, PairState::BeingCopied);
        assert_eq!(beside(), Some((2, 0)), "also while its differences are copied");
        let again = rig.source.begin_marking(READER, &[1]);
        rig.source.suspended(&again);
        assert_eq!(beside(), Some((2, 0)), "also if that is stopped");
        rig.source.set_pair_state(1, PairState::Normal);
        assert_eq!(beside(), Some((2, 2)));
    });
}

/// A way that takes everything; the last numbers of what was sent over it.
#[derive(Default)]
struct Sink(Mutex<Vec<u64>>);

impl Second for Sink {
    fn write(&self, _channel: u64, answer: Answer) -> BoxFuture<'_, Result<(), SourceError>> {
        let (head, _) = Head::decode(&answer.head).unwrap();
        if head.updates > 0 {
            self.0.lock().unwrap().push(head.first + u64::from(head.updates) - 1);
        }
        Box::pin(std::future::ready(Ok(())))
    }

    fn closed(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }
}

/// Hosts are to wait for another copy: over the way to the former one nothing is sent that is meant for that. It may have holes
/// where the former one lacks nothing.
#[test]
fn what_another_copy_is_to_get_is_not_sent_over_the_way_to_the_former_one() {
    life(async {
        let rig = Rig::new(Choice::default()).await;
        rig.source.lock().readers.add(SECOND, UpdateNumber::FIRST).unwrap();
        let ask = |reader, channel| {
            rig.source.answer_second(reader, Asked { channel, in_use: false, holds_lease: false, heard: 0 });
        };
        rig.source.set_synchronous(Some(chosen(READER)), false);
        ask(READER, 0);
        let sink = Sink::default();
        let other = async {
            rig.sleep_ms(10).await;
            ask(READER, CHANNEL);
            rig.write(1, 1, 7).await;
            rig.until("it is sent", |_| *sink.0.lock().unwrap() == [1]).await;
            // Hosts wait for the former one until its lease is over; none was given.
            rig.source.set_synchronous(Some(chosen(SECOND)), true);
            rig.source.look_at_second();
            rig.source.set_synchronous(Some(chosen(SECOND)), true);
            assert_eq!(rig.source.standing().map(|standing| standing.choice), Some(chosen(SECOND)));
            ask(SECOND, 0);
            rig.write(2, 1, 7).await;
            rig.sleep_ms(1_000).await;
        };
        let pushed = rig.source.push_over(&sink, READER, CHANNEL);
        let (why, ()) = tokio::join!(pushed, other);
        assert_eq!(
            (why.as_str(), sink.0.lock().unwrap().as_slice()),
            ("it is not wanted now", [1].as_slice())
        );
        let late = rig.source.push_over(&sink, READER, CHANNEL + 1).await;
        assert_eq!(late, "it is not the synchronous one any more");
    });
}

/// A reader that came was prepared, and is no reader after all: nothing of it stays that would hold journals, or be taken for a pair.
#[test]
fn nothing_stays_of_the_pairs_of_a_reader_that_was_not_taken_on() {
    life(async {
        let rig = Rig::new(Choice::default()).await;
        let first = rig.source.lock().pairs[&DATA][0].clone();
        rig.source.add_pair(DATA, PairRuntime { pair: 77, reader: SECOND, ..first });
        rig.source.derive_holds();
        assert!(rig.source.knows_pair(77) && rig.source.lock().pairs[&DATA].len() == 2);
        rig.source.forget_joining(&[77]);
        assert!(!rig.source.knows_pair(77) && rig.source.knows_pair(1));
        assert!(!rig.source.holds_reader(SECOND) && rig.source.holds_reader(READER));
        assert_eq!(rig.source.lock().pairs[&DATA].len(), 1, "the last real one is the last one");
    });
}
