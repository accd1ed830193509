//! What becomes of forwarded writes: refused, lost, late, cut, and their pairs taken away.

use super::*;

/// Defect 1: the fence `data`, or `never` when going alone cannot be recorded. The write was journaled at the primary and
/// failed afterwards; the mark went, and the two sides differed for good.
#[test]
fn a_write_that_failed_after_it_was_sent_is_undone_by_a_copy_of_its_region() {
    for (fence, play) in [
        (Fence::Data, Play::ApplyAndRefuse),
        (Fence::Data, Play::ApplyAndStall),
        (Fence::Data, Play::Stall),
        (Fence::Never, Play::ApplyAndRefuse),
        (Fence::Never, Play::ApplyAndStall),
    ] {
        life(async {
            let upstream = Upstream::new(fence).await;
            upstream.book.refuses_alone.store(true, Ordering::SeqCst);
            let (_line, serving) = upstream.connect().await;
            upstream.write(3, 1).await.unwrap();
            upstream.primary.play(move |_| play);
            assert!(upstream.write(3, 2).await.is_err());
            assert_eq!(upstream.page(3).await, 1, "what failed is not seen");
            assert_eq!(upstream.forwarder.phase(), Phase::Copying, "{fence:?} {play:?}");
            assert!(upstream.is_marked(3));
            serving.await.unwrap();
            // What still lies in a queue there comes too late.
            upstream.primary.play(|_| Play::Answer);
            let (_line, _serving) = upstream.connect().await;
            upstream.primary.go_on.notify_waiters();
            upstream.pass(100).await;
            assert_eq!(upstream.forwarder.phase(), Phase::InStep);
            assert_eq!((upstream.page(3).await, upstream.primary.page(3)), (1, 1), "{fence:?} {play:?}");
            upstream.write(3, 4).await.unwrap();
            assert_eq!((upstream.page(3).await, upstream.primary.page(3)), (4, 4));
            assert_eq!(*upstream.book.recorded.lock().unwrap(), ["copying", "in step"]);
        });
    }
}

/// A write that was never sent has happened nowhere: nothing needs a copy.
#[test]
fn a_write_that_failed_before_it_was_sent_changes_nothing() {
    life(async {
        let upstream = Upstream::new(Fence::Data).await;
        assert!(upstream.write(3, 2).await.is_err(), "there is no connection");
        assert_eq!(upstream.forwarder.phase(), Phase::InStep);
        assert_eq!(upstream.forwarder.stale_bytes(VOLUME), 0);
    });
}

/// Defect 2: the role of the volume was plain before what was on its way had ended. The old write landed over a newer one,
/// or, with the fence `data`, the owner of the array waited for it without end.
#[test]
fn a_pair_that_goes_lets_what_is_under_way_end_before_hosts_write_the_plain_volume() {
    for fence in [Fence::Data, Fence::Never] {
        life(async {
            let upstream = Upstream::new(fence).await;
            let (_line, _serving) = upstream.connect().await;
            upstream.primary.play(|_| Play::Stall);
            let nexus = Nexus::for_tests();
            let old = upstream.begin(3, 1, &nexus).await;
            upstream.pass(10).await;
            assert!(upstream.forwarder.end_pair(VOLUME) && !upstream.forwarder.end_pair(VOLUME));
            let newer = upstream.begin(3, 2, &nexus).await;
            let forwarder = upstream.forwarder.clone();
            let detached = Arc::new(AtomicBool::default());
            let (volume, noted, old) = (upstream.volume.clone(), detached.clone(), Arc::new(old));
            let before = old.clone();
            let removed = tokio::time::timeout(
                Duration::from_secs(1),
                forwarder.remove_pair(VOLUME, move || {
                    assert!(before.is_finished(), "the volume was plain while a write was forwarded");
                    volume.set_role(VolumeRole::Plain);
                    noted.store(true, Ordering::SeqCst);
                }),
            );
            removed.await.expect("it waits for nobody else");
            assert!(detached.load(Ordering::SeqCst));
            newer.await.unwrap().unwrap();
            upstream.write(4, 3).await.unwrap();
            upstream.primary.go_on.notify_waiters();
            upstream.pass(10_000).await;
            assert_eq!((upstream.page(3).await, upstream.page(4).await), (2, 3));
            assert_eq!(upstream.primary.page(4), 0, "nothing of it is sent any more");
            // It can be made a pair again.
            upstream.primary.play(|_| Play::Answer);
            upstream.pair_up().await;
            let (_line, _serving) = upstream.connect().await;
            upstream.write(5, 6).await.unwrap();
            assert_eq!(upstream.primary.page(5), 6);
        });
    }
}

/// Defect 4: one slow write and more quick ones behind it than the primary remembers. It refused, and the group went alone
/// on a healthy link.
#[test]
fn one_slow_write_holds_up_those_that_come_much_later_and_no_more() {
    life(async {
        let upstream = Upstream::new(Fence::Never).await;
        let (_line, _serving) = upstream.connect().await;
        upstream.primary.play(|write| match write.change.parts[0].offset_bytes {
            0 => Play::Stall,
            _ => Play::Answer,
        });
        let nexus = Nexus::for_tests();
        let slow = upstream.begin(0, 1, &nexus).await;
        let mut quick = Vec::new();
        for number in 0..WINDOW as u64 + 200 {
            quick.push(upstream.begin(1 + number, 2, &nexus).await);
            if number % 64 == 0 {
                upstream.pass(20).await;
            }
        }
        upstream.pass(500).await;
        assert!(!slow.is_finished());
        let done = quick.iter().filter(|write| write.is_finished()).count();
        assert_eq!(done, WINDOW - 1, "all numbers that the primary remembers are used");
        upstream.primary.go_on.notify_waiters();
        upstream.pass(500).await;
        assert!(slow.is_finished() && quick.iter().all(JoinHandle::is_finished));
        assert_eq!(upstream.forwarder.phase(), Phase::InStep);
    });
}

/// Defect 5: a copy that was cut began at zero, because marks were forgotten only in step.
#[test]
fn a_copy_that_is_cut_goes_on_where_it_was_also_behind_a_restart() {
    life(async {
        let upstream = Upstream::new(Fence::Never).await;
        upstream.forwarder.go_alone(Because::Unreachable, "for a test").unwrap();
        for mebibyte in 0..16 {
            upstream.write(mebibyte * 256, 5).await.unwrap();
        }
        let all = upstream.forwarder.stale_bytes(VOLUME);
        assert_eq!(all, 16 * 64 * 1024);
        let answered = AtomicU64::new(0);
        upstream.primary.play(move |_| match answered.fetch_add(1, Ordering::SeqCst) {
            0..10 => Play::Answer,
            _ => Play::Stall,
        });
        let (line, serving) = upstream.connect().await;
        // Long enough for what is at rest to be forgotten.
        upstream.pass(10_000).await;
        line.cut();
        serving.await.unwrap();
        assert_eq!(upstream.forwarder.stale_bytes(VOLUME), 6 * 64 * 1024);
        let marked = (0..16).filter(|mebibyte| upstream.is_marked(mebibyte * 256)).count();
        assert_eq!(marked, 6, "a restart copies these");
        upstream.primary.play(|_| Play::Answer);
        upstream.primary.take_sent();
        let (_line, _serving) = upstream.connect().await;
        upstream.pass(1000).await;
        assert_eq!(upstream.primary.take_sent().len(), 6);
        assert_eq!(upstream.forwarder.phase(), Phase::InStep);
        for mebibyte in 0..16 {
            assert_eq!(upstream.primary.page(mebibyte * 256), 5);
        }
    });
}

/// Defect 7: a write whose session was over became visible when the link returned, perhaps hours later (invariant 8).
#[test]
fn a_write_whose_session_has_ended_never_becomes_visible() {
    for (fence, play) in
        [(Fence::Never, Play::Stall), (Fence::Never, Play::ApplyAndStall), (Fence::Data, Play::Stall)]
    {
        life(async {
            let upstream = Upstream::new(fence).await;
            let (line, serving) = upstream.connect().await;
            upstream.primary.play(move |_| play);
            let nexus = Nexus::for_tests();
            let write = upstream.begin(3, 7, &nexus).await;
            upstream.pass(100).await;
            nexus.end_for_tests();
            upstream.pass(100).await;
            assert!(!write.is_finished(), "its session ends with it, not before it");
            assert!(write.await.unwrap().is_err());
            assert!(upstream.clock.now().0 < 2_000_000_000, "and not much later");
            line.cut();
            serving.await.unwrap();
            upstream.primary.play(|_| Play::Answer);
            let (_line, _serving) = upstream.connect().await;
            upstream.primary.go_on.notify_waiters();
            upstream.pass(20_000).await;
            assert_eq!((upstream.page(3).await, upstream.primary.page(3)), (0, 0), "{fence:?} {play:?}");
            assert_eq!(upstream.forwarder.phase(), Phase::InStep);
        });
    }
}

/// What is answered in time ends as always, though its session is over.
#[test]
fn the_end_of_a_session_waits_for_a_primary_that_answers() {
    life(async {
        let upstream = Upstream::new(Fence::Never).await;
        let (_line, _serving) = upstream.connect().await;
        upstream.primary.play(|_| Play::Stall);
        let nexus = Nexus::for_tests();
        let write = upstream.begin(3, 7, &nexus).await;
        nexus.end_for_tests();
        upstream.pass(100).await;
        upstream.primary.go_on.notify_waiters();
        write.await.unwrap().unwrap();
        assert_eq!((upstream.page(3).await, upstream.primary.page(3)), (7, 7));
        assert_eq!(upstream.forwarder.phase(), Phase::InStep);
        assert_eq!(upstream.primary.said.lock().unwrap().len(), 1, "the connection goes on");
    });
}

/// Defect 9: the pair was taken up, and could be copied, before hosts' writes came this way.
#[test]
fn hosts_writes_come_this_way_before_a_new_pair_can_be_copied() {
    life(async {
        let upstream = Upstream::new(Fence::Never).await;
        assert!(upstream.forwarder.end_pair(VOLUME));
        upstream.forwarder.remove_pair(VOLUME, || upstream.volume.set_role(VolumeRole::Plain)).await;
        let (_line, serving) = upstream.connect().await;
        serving.await.unwrap();
        assert!(upstream.primary.said.lock().unwrap().is_empty(), "there is nothing to say");
        let mut pair = ForwardPair::new(PAIR, REMOTE, DifferenceMap::new(upstream.capacity));
        pair.mark_all();
        let attach = || {
            assert_eq!(upstream.forwarder.pair_of(VOLUME), None, "nothing can be copied yet");
            upstream.volume.set_role(VolumeRole::Forwarding(upstream.forwarder.clone()));
        };
        upstream.forwarder.add_pair(VOLUME, pair, attach).await;
        let nexus = Nexus::for_tests();
        let write = upstream.begin(3, 7, &nexus).await;
        let (_line, _serving) = upstream.connect().await;
        let said = upstream.primary.said.lock().unwrap()[0].clone();
        let all = Announcement { what: Announced::Copying, volumes: vec![REMOTE], whole: vec![REMOTE] };
        assert_eq!(said, all);
        upstream.pass(2000).await;
        write.await.unwrap().unwrap();
        assert_eq!((upstream.page(3).await, upstream.primary.page(3)), (7, 7));
        assert_eq!(upstream.primary.last_said().what, Announced::InStep);
    });
}

/// Defect 10: a region of a volume above 32 TiB is longer than what a forwarded write may be; the copy never ended.
#[test]
fn the_regions_of_the_largest_volumes_are_copied_in_pieces() {
    life(async {
        let upstream = Upstream::with(Fence::Never, 256 << 40).await;
        assert!(DifferenceMap::new(upstream.capacity).region_bytes() > u64::from(MAX_FORWARDED_BYTES));
        upstream.forwarder.go_alone(Because::Unreachable, "for a test").unwrap();
        let nexus = Nexus::for_tests();
        for mebibyte in 0..8 {
            let change = upstream.change(mebibyte * 256, 256, 9).await;
            let Outcome::Later(writing) = upstream.volume.write(change, true, &nexus) else { panic!() };
            writing.await.unwrap();
        }
        let (_line, _serving) = upstream.connect().await;
        upstream.pass(5000).await;
        assert_eq!(upstream.forwarder.phase(), Phase::InStep);
        assert_eq!(upstream.primary.held.lock().unwrap().len(), 2048);
    });
}

/// The primary records when the command came from its host, not when the link was there again; a copy says nothing of that.
#[test]
fn a_forwarded_write_says_when_it_was_created() {
    life(async {
        let upstream = Upstream::new(Fence::Never).await;
        let created = upstream.clock.wall().0;
        let write = upstream.begin(3, 7, &Nexus::for_tests()).await;
        upstream.pass(3000).await;
        let (_line, _serving) = upstream.connect().await;
        write.await.unwrap().unwrap();
        assert_eq!(upstream.primary.created_ns.load(Ordering::SeqCst), created);
        upstream.forwarder.go_alone(Because::Unreachable, "for a test").unwrap();
        upstream.write(3, 8).await.unwrap();
        let (_line, _serving) = upstream.connect().await;
        upstream.pass(100).await;
        assert_eq!(upstream.primary.page(3), 8);
        assert_eq!(upstream.primary.created_ns.load(Ordering::SeqCst), 0);
    });
}

/// WRITE ATOMIC: what a start has to write again is kept before anything is seen, and gone before anybody else may write there.
#[test]
fn an_atomic_write_is_kept_from_before_it_is_seen_until_it_is_durable() {
    life(async {
        let upstream = Upstream::new(Fence::Never).await;
        assert!(upstream.volume.writes_atomically());
        let (_line, _serving) = upstream.connect().await;
        let nexus = Nexus::for_tests();
        let atomic = |byte| {
            let upstream = &upstream;
            let nexus = &nexus;
            async move {
                let change = Change { whole: true, ..upstream.change(3, 2, byte).await };
                let writing = upstream.volume.write_as(change, Manner::Alone, false, nexus);
                let Outcome::Later(later) = writing else { panic!("it is forwarded first") };
                later.await
            }
        };
        upstream.primary.play(|_| Play::Stall);
        let (first, ()) = tokio::join!(atomic(1), async {
            upstream.pass(50).await;
            assert!(upstream.book.recorded.lock().unwrap().is_empty(), "it may fail yet");
            upstream.primary.go_on.notify_waiters();
        });
        first.unwrap();
        upstream.primary.play(|_| Play::Answer);
        assert_eq!(*upstream.book.recorded.lock().unwrap(), ["atomic", "whole"]);
        upstream.forwarder.go_alone(Because::Unreachable, "for a test").unwrap();
        atomic(2).await.unwrap();
        assert_eq!(*upstream.book.recorded.lock().unwrap(), ["atomic", "whole", "alone", "atomic", "whole"]);
        // A row that cannot be taken away is written again by the next start: nothing newer may lie there then.
        upstream.book.refuses_alone.store(true, Ordering::SeqCst);
        assert!(atomic(3).await.is_err());
        let over = upstream.begin(4, 9, &nexus).await;
        let beside = upstream.begin(5, 9, &nexus).await;
        upstream.pass(30_000).await;
        assert!(!over.is_finished() && beside.is_finished());
    });
}

/// The simulation found an auxiliary that took three of eight volumes for an image: the other five pairs were on their way.
#[test]
fn no_copy_ends_before_all_pairs_of_the_group_take_part() {
    life(async {
        let upstream = Upstream::new(Fence::Never).await;
        upstream.forwarder.go_alone(Because::Unreachable, "for a test").unwrap();
        upstream.write(3, 8).await.unwrap();
        upstream.forwarder.set_lacking(&[(2, Lack::Coming)].into());
        let (_line, _serving) = upstream.connect().await;
        upstream.pass(5000).await;
        assert_eq!(upstream.primary.page(3), 8, "it is copied all the same");
        assert_eq!(
            (upstream.forwarder.phase(), upstream.primary.last_said().what),
            (Phase::Copying, Announced::Copying)
        );
        upstream.forwarder.set_lacking(&BTreeMap::new());
        upstream.pass(10).await;
        assert_eq!(
            (upstream.forwarder.phase(), upstream.primary.last_said().what),
            (Phase::InStep, Announced::InStep)
        );
    });
}

/// A primary that has not made its volumes yet refuses their pairs: the copy of the others once ended without them.
#[test]
fn a_pair_that_the_primary_refuses_for_a_while_holds_up_the_end_of_the_copy_and_not_for_ever() {
    life(async {
        let upstream = Upstream::new(Fence::Never).await;
        let is_ended = |upstream: &Upstream| {
            (upstream.forwarder.phase(), upstream.primary.last_said().what)
                == (Phase::InStep, Announced::InStep)
        };
        // It is accepted in time.
        upstream.forwarder.go_alone(Because::Unreachable, "for a test").unwrap();
        upstream.write(3, 8).await.unwrap();
        upstream.forwarder.set_lacking(&[(2, Lack::Refused)].into());
        let (_line, _serving) = upstream.connect().await;
        upstream.pass(5_000).await;
        assert!(!is_ended(&upstream));
        upstream.forwarder.set_lacking(&[(2, Lack::Coming)].into());
        upstream.pass(120_000).await;
        assert!(!is_ended(&upstream), "it is accepted, and only has to be taken up");
        upstream.forwarder.set_lacking(&BTreeMap::new());
        upstream.pass(10).await;
        assert!(is_ended(&upstream));
        // It never is: the others do not wait for its operator.
        upstream.forwarder.go_alone(Because::Unreachable, "for a test").unwrap();
        upstream.write(4, 9).await.unwrap();
        upstream.forwarder.set_lacking(&[(2, Lack::Refused)].into());
        let (_line, _serving) = upstream.connect().await;
        upstream.pass(30_000).await;
        upstream.forwarder.set_lacking(&[(2, Lack::Refused)].into());
        upstream.pass(25_000).await;
        assert!(!is_ended(&upstream));
        upstream.pass(10_000).await;
        assert!(is_ended(&upstream));
    });
}
