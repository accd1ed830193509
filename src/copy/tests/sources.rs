//! Other sources and generations (promise T5, invariant 9), and pieces of copies (T4), between two groups.

use super::rig::{Choice, DATA, READER, Rig, Way, life};
use crate::copy::answer::{Head, Outcome};
use crate::copy::cascade::CopyAsk;
use crate::copy::checkpoint::{CheckpointExtra, PairMark};
use crate::copy::fetch::{FetchError, Whose};
use crate::copy::group::SvolRuntime;
use crate::copy::serve::{Carrier, Form, Request};
use crate::volume::pair::PairState;
use holdfast_journal::reader::Report;
use holdfast_journal::{ArrayNumber, Generation, UpdateNumber};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Reads until everything is there, then no more.
pub(super) async fn read_all(rig: &Rig, way: &Arc<Way>) {
    let following = rig.copy.follow(&**way, 1, Whose::Source);
    tokio::select! {
        biased;
        error = following => panic!("{error}"),
        () = rig.until("read", |rig| rig.is_read()) => {}
    }
}

fn generation(counter: u32, array: u32, first: u64) -> Generation {
    Generation { counter, array: ArrayNumber(array), first: UpdateNumber::new(first) }
}

#[test]
fn a_source_whose_history_is_not_that_of_the_copy_is_not_read() {
    life(async {
        let rig = Rig::new(Choice::default()).await;
        let way = Arc::new(Way::new(&rig, &[Default::default()]));
        for page in 1..=5 {
            rig.write(page, 1, 7).await;
        }
        read_all(&rig, &way).await;
        let first = rig.source.lock().generation;
        // A later generation that begins behind what is here is a continuation.
        rig.source.lock().generations = vec![first, generation(2, 1, 6)];
        rig.write(6, 1, 7).await;
        read_all(&rig, &way).await;
        assert_eq!(rig.copy.take_generations().len(), 2, "it learns of it");
        // One that begins with a number that is here is not: that number was given twice.
        rig.source.lock().generations = vec![first, generation(2, 3, 4)];
        rig.write(7, 1, 7).await;
        let error = rig.copy.follow(&*way, 1, Whose::Source).await;
        assert!(matches!(error, FetchError::Generations(6)), "{error}");
        assert_eq!(rig.copy.durable_here(), UpdateNumber::new(6), "nothing of it was taken");
    });
}

#[test]
fn an_array_that_stays_behind_is_left_again() {
    life(async {
        let rig = Rig::new(Choice::default()).await;
        let way = Arc::new(Way::new(&rig, &[Default::default()]));
        rig.write(1, 1, 7).await;
        read_all(&rig, &way).await;
        rig.copy.lock().next = UpdateNumber::new(9); // As if the rest had come from elsewhere.
        let began = crate::clock::Clock::now(&*rig.clock);
        let error = rig.copy.follow(&*way, 1, Whose::Other).await;
        assert!(matches!(error, FetchError::Behind(1, 8)), "{error}");
        let waited = crate::clock::Clock::now(&*rig.clock).since(began);
        assert!(waited >= Duration::from_secs(4), "it is given some time: {waited:?}");
    });
}

#[test]
fn what_came_from_elsewhere_is_believed_of_those_who_read_elsewhere_only() {
    life(async {
        let rig = Rig::new(Choice::default()).await;
        for page in 1..=5 {
            rig.write(page, 1, 7).await;
        }
        rig.until("durable", |rig| rig.source.durable_here() == UpdateNumber::new(5)).await;
        let all = UpdateNumber::new(5);
        let report = Report { acknowledged: all, restored: all, settled: all, ..Report::default() };
        assert!(rig.source.report(READER, report, Carrier::Report).is_err(), "it was never sent that");
        rig.source.set_elsewhere(&BTreeSet::from([READER]));
        rig.source.report(READER, report, Carrier::Report).unwrap();
        assert_eq!(rig.acknowledged(), all);
        // It may be ahead of what is durable here; no more than that counts.
        let more = UpdateNumber::new(50);
        rig.source.report(READER, Report { acknowledged: more, ..report }, Carrier::Report).unwrap();
        assert_eq!(rig.acknowledged(), all);
    });
}

#[test]
fn updates_of_another_source_are_refused_from_the_moment_on_at_which_that_was_said() {
    life(async {
        let rig = Rig::new(Choice::default()).await;
        let way = Arc::new(Way::new(&rig, &[Default::default()]));
        rig.write(1, 1, 7).await;
        let error = rig.copy.follow(&*way, 1, Whose::Other).await;
        assert!(matches!(error, FetchError::Store(_)), "{error}");
        assert_eq!(rig.copy.durable_here(), UpdateNumber::NONE);
    });
}

/// The answer to COPY READ.
async fn ask(rig: &Rig, ask: CopyAsk) -> Head {
    let answer = rig.copy.serve_copy(ask).await.unwrap();
    Head::decode(&answer.head).unwrap().0
}

#[test]
fn pieces_are_not_older_than_what_their_reader_has_and_end_with_the_largest_number_as_of_which_one_was() {
    life(async {
        let rig = Rig::new(Choice::default()).await;
        let way = Arc::new(Way::new(&rig, &[Default::default()]));
        for page in 1..=5 {
            rig.write(page, 1, 7).await;
        }
        read_all(&rig, &way).await;
        // A third array copies the copy.
        let third = ArrayNumber(3);
        rig.copy.take_up_readers(&[third], &BTreeSet::new()).await.unwrap();
        {
            let mut seq = rig.copy.lock();
            let svol: SvolRuntime = seq.svols[&DATA];
            let mut pair = rig.source.lock().pairs[&DATA][0].clone();
            (pair.pair, pair.reader, pair.facts.state) = (77, third, PairState::NotYetCopied);
            pair.capacity_bytes = 1 << 20;
            assert_eq!(svol.state, PairState::Normal);
            seq.pairs.entry(DATA).or_default().push(pair);
        }
        rig.copy.begin_served_copy(77, UpdateNumber::new(5), 9);
        rig.copy.set_pair_state(77, PairState::BeingCopied);
        let asked = CopyAsk {
            reader: third,
            volume: DATA,
            copy: 9,
            copied_to_bytes: 0,
            restored: UpdateNumber::NONE,
            bytes: 2 << 20,
            wait: Duration::ZERO,
        };
        assert_eq!(ask(&rig, asked).await.outcome, Outcome::NoJournal, "update 5 is not restored here");
        rig.copy.restore_available(Duration::ZERO).await.unwrap();
        assert_eq!(ask(&rig, CopyAsk { copy: 8, ..asked }).await.outcome, Outcome::NoJournal, "another copy");
        let ahead = CopyAsk { restored: UpdateNumber::new(6), ..asked };
        assert_eq!(ask(&rig, ahead).await.outcome, Outcome::NoJournal, "the reader has more than that");
        let piece = ask(&rig, asked).await;
        assert_eq!((piece.outcome, piece.first, piece.updates), (Outcome::Updates, 5, 1));
        // Asked once more it comes once more; when it is durable there the copy is at its end.
        assert_eq!(ask(&rig, asked).await.outcome, Outcome::Updates);
        let end = ask(&rig, CopyAsk { copied_to_bytes: 1 << 20, ..asked }).await;
        assert_eq!((end.outcome, end.first), (Outcome::CopyEnded, 5));
        assert_eq!(rig.copy.copy_end(77), Some(UpdateNumber::new(5)));
        // Too little room serves nobody, and does not panic.
        assert!(rig.copy.serve_copy(CopyAsk { bytes: 4096, ..asked }).await.is_err());
    });
}

/// In the middle of a cascade nobody asks again for a copy that has ended: a restart that did not know its end would
/// leave the pair `being-copied` for ever.
#[test]
fn no_end_of_a_copy_is_forgotten_however_many_are_made_at_once() {
    life(async {
        const PAIRS: u32 = 500;
        let mark = |pair| PairMark { pair, copy_completion_bytes: 1, copy_end: 100 + u64::from(pair) };
        let rig = Rig::new(Choice::default()).await;
        let mut seq = rig.source.lock();
        let known = seq.pairs.values().flatten().next().unwrap().clone();
        for pair in 1..=PAIRS {
            let mut runtime = known.clone();
            (runtime.pair, runtime.facts.state) = (pair, PairState::BeingCopied);
            runtime.resync.copies = 1;
            // Every second one has ended.
            runtime.copy_end = (pair % 2 == 0).then_some(UpdateNumber::new(mark(pair).copy_end));
            seq.pairs.insert(1_000 + pair, vec![runtime]);
        }
        let (extra, surplus) = CheckpointExtra::of(&seq);
        let extra = CheckpointExtra::decode(&extra.encode()).unwrap();
        for pair in (2..=PAIRS).step_by(2) {
            let told = surplus.iter().find(|mark| mark.pair == pair).copied();
            let nothing = PairMark { pair, ..PairMark::default() };
            assert_eq!(extra.mark_of(told.unwrap_or(nothing)), mark(pair));
        }
    });
}

/// The number was once chosen, recorded, and only then obeyed: what came in between was handed out although the record
/// said that it was not.
#[test]
fn nothing_is_handed_out_behind_the_number_from_which_on_a_pair_is_kept_back_until_that_is_recorded() {
    life(async {
        let rig = Rig::new(Choice::default()).await;
        let last = rig.write(1, 1, 7).await;
        rig.until("durable", |rig| rig.source.durable_here() == last).await;
        let pair = rig.source.lock().pairs.values().flatten().next().unwrap().pair;
        let from = rig.source.withhold(pair).unwrap();
        assert_eq!(from, last.next());
        let newest = rig.write(2, 1, 7).await;
        rig.until("durable", |rig| rig.source.durable_here() == newest).await;
        assert_eq!(rig.source.limit_for(READER), last, "a crash now would choose another number");
        assert_eq!(rig.source.withhold(pair), Some(from), "it stays the same one");
        rig.source.withholding_recorded(pair);
        assert_eq!(rig.source.limit_for(READER), newest);
    });
}

/// A read once waited in the source while all pairs of its reader were suspended. What came then was handed out, without
/// the updates of the pairs whose suspension the reader knew already: an image behind which one volume had stayed.
#[test]
fn a_read_that_waits_gets_nothing_more_when_all_pairs_of_its_reader_are_suspended() {
    life(async {
        let rig = Rig::new(Choice::default()).await;
        let last = rig.write(1, 1, 7).await;
        rig.until("durable", |rig| rig.source.durable_here() == last).await;
        let waiting = Request {
            reader: READER,
            start: None,
            retry: false,
            updates: 64,
            bytes: 1 << 20,
            wait: Duration::from_secs(60),
            form: Form::Journals,
        };
        let read = async || {
            let answer = rig.source.answer(waiting).await.unwrap();
            Head::decode(&answer.head).unwrap().0
        };
        let first = read().await;
        assert_eq!((first.outcome, first.updates), (Outcome::Updates, 1));
        let (source, pair) =
            (rig.source.clone(), rig.source.lock().pairs.values().flatten().next().unwrap().pair);
        let suspended = async {
            rig.sleep_ms(5).await;
            let marking = source.begin_marking(READER, &[pair]);
            source.mark_unsettled(&marking).await.unwrap();
            source.suspended(&marking);
            source.withhold(pair).unwrap();
            source.withholding_recorded(pair);
            rig.write(2, 1, 7).await
        };
        let (answered, _) = tokio::join!(read(), suspended);
        assert_eq!((answered.outcome, answered.updates), (Outcome::Suspended, 0));
    });
}

/// A pair that was suspended in the middle of its resync was once kept from its reader at once: the reader could have finished the copy
/// by then and say that all its volumes are of one moment, while one of them missed what its hosts wrote.
#[test]
fn a_pair_that_is_suspended_again_is_kept_from_its_reader_only_when_that_knows() {
    life(async {
        let rig = Rig::new(Choice::default()).await;
        let source = rig.source.clone();
        {
            // Another pair of the reader goes on.
            let mut seq = source.lock();
            let mut other = seq.pairs.values().flatten().next().unwrap().clone();
            other.pair = 2;
            seq.pairs.insert(1_000, vec![other]);
        }
        let suspend = async || {
            let marking = source.begin_marking(READER, &[1]);
            source.mark_unsettled(&marking).await.unwrap();
            source.suspended(&marking);
        };
        let is_withheld = |number| {
            let seq = source.lock();
            seq.pairs[&DATA][0].resync.withholds(number)
        };
        suspend().await;
        let from = source.withhold(1).unwrap();
        source.withholding_recorded(1);
        let kept_back = rig.write(1, 1, 7).await;
        suspend().await;
        assert!(is_withheld(kept_back) && from == kept_back, "said once more, it is the same suspension");
        let start = source.begin_resync(READER, &[1]).await.unwrap();
        assert!(!start.restarted);
        source.resyncing(1, start);
        let copied = rig.write(2, 1, 7).await;
        assert!(is_withheld(kept_back) && !is_withheld(copied));
        suspend().await;
        let behind = rig.write(3, 1, 7).await;
        assert!(!is_withheld(copied) && !is_withheld(behind), "the reader does not know yet");
        rig.until("durable", |rig| rig.source.durable_here() == behind).await;
        assert_eq!(source.limit_for(READER), behind);
        // Now it does.
        assert_eq!(source.withhold(1), Some(behind.next()));
        let last = rig.write(4, 1, 7).await;
        rig.until("durable", |rig| rig.source.durable_here() == last).await;
        assert_eq!(source.limit_for(READER), behind, "the number is not recorded");
        source.withholding_recorded(1);
        assert!(is_withheld(last) && !is_withheld(behind) && source.limit_for(READER) == last);
    });
}

/// Where a reader begins, and claims with that to have everything before, is durable at its source: a source that lost it in a crash
/// believed the reader nothing any more, and its pairs stayed `being-copied` (seed 22017 of `tests/sim/story.rs`).
#[test]
fn a_reader_begins_anew_with_nothing_that_a_crash_of_its_source_may_take_back() {
    life(async {
        let rig = Rig::new(Choice::default()).await;
        let source = &rig.source;
        let first = rig.write(1, 1, 7).await;
        rig.until("durable", |rig| rig.source.durable_here() == first).await;
        let marking = source.begin_marking(READER, &[1]);
        source.mark_unsettled(&marking).await.unwrap();
        source.suspended(&marking);
        rig.write(2, 1, 7).await;
        let last = rig.write(3, 1, 7).await;
        drop(source.take_marks(&[1])); // As if the store had them.
        assert!(source.durable_here() < last);
        let read = async |wait| {
            let asked = Request {
                reader: READER,
                start: Some(first.next()),
                retry: false,
                updates: 64,
                bytes: 1 << 20,
                wait,
                form: Form::Journals,
            };
            Head::decode(&source.answer(asked).await.unwrap().head).unwrap().0
        };
        let (start, early, waited) = tokio::join!(
            source.begin_resync(READER, &[1]),
            read(Duration::ZERO),
            read(Duration::from_secs(60))
        );
        assert!(start.unwrap().restarted);
        assert_eq!(early.outcome, Outcome::NoJournal, "it is not durable yet");
        assert_eq!(waited.outcome, Outcome::NotHeld);
        assert_eq!((waited.first, waited.newest_durable), (last.get() + 1, last.get()));
        let again = source.information(READER);
        assert_eq!(Head::decode(&again).unwrap().0.first, last.get() + 1);
    });
}
