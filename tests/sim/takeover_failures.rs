//! What can go wrong in a takeover and on the way back beside the loss of the primary (promises O3, O4, decision 19): journals that
//! fail on either side, an array that dies between its promise and its turn, messages that come late, hosts that nobody told.

use crate::cluster::{ALPHA, Cluster, Death, Second, Shape, Way};
use crate::in_virtual_time;
use crate::port::scribble;
use crate::story::geometry_of;
use crate::support::random::Random;
use crate::support::wof::{Observed, Plan, Until, Writer};
use crate::takeover::{
    BETA, SHAPE, begin, content, equal, fail_back, go_on, group, has_everything, image, lets_hosts_write,
    ports, take_over, takeover, two, two_of, until, until_overtaken, write,
};
use crate::tree::SMALL;
use holdfast::copy::tamper::Tamper;
use holdfast::disk::io::sim::Fault;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Each side has its journal on a unit of its own, and an ordinary volume that can take its place.
const APART: Shape =
    Shape { journal_kib: 12 << 10, is_journal_apart: true, second: Second::Ordinary, ..SMALL };

async fn replace_journal(cluster: &Cluster, index: usize) {
    let line = "journal replace g1 --volume jnl --by jnl2 --yes";
    cluster.command(index, line).await.unwrap_or_else(|error| panic!("{error}: {}", cluster.state()));
}

/// The old primary comes back without its journal, or loses it when it has been overtaken: it is given another one, says what
/// only it may have, and becomes a copy.
#[test]
fn an_old_primary_without_its_journal_is_given_another_one_and_becomes_a_copy() {
    for seed in 1..=4 {
        in_virtual_time(async {
            let cluster = two_of(seed, APART);
            let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(APART)));
            begin(&cluster, &mut writer).await;
            let is_open = seed % 2 == 0;
            if is_open {
                cluster.set_way("alpha", "beta", Way::Cut);
                write(&cluster, &mut writer, ALPHA, 30).await;
            } else {
                cluster.die(ALPHA, Death::PowerLoss).await;
            }
            take_over(&cluster, BETA).await;
            go_on(&cluster, &mut writer, BETA, false).await;
            cluster.disk(ALPHA, "j0").inject(Fault::Gone);
            cluster.heal();
            if !is_open {
                cluster.start(ALPHA).await;
            }
            until(&cluster, "not overtaken", || takeover(&cluster, ALPHA) == "overtaken").await;
            cluster.sleep_ms(seed * 300).await;
            if !is_open {
                let branch = group(&cluster, BETA).takeover.and_then(|takeover| takeover.branch_updates);
                assert_eq!(branch, None, "nobody knows what it had");
            }
            if is_open {
                until_overtaken(&cluster, BETA).await;
            }
            replace_journal(&cluster, ALPHA).await;
            until_overtaken(&cluster, BETA).await;
            until(&cluster, "not repaired", || group(&cluster, ALPHA).state == "normal").await;
            fail_back(&cluster, &mut writer, BETA).await;
            equal(&cluster, BETA).await;
            has_everything(&cluster, &writer, BETA).await;
        });
    }
}

/// The journal of the array that took over fails while it is the only one at work: all of it counts as different.
#[test]
fn a_new_primary_whose_journal_failed_fails_back_when_it_has_another_one() {
    for seed in 11..=12 {
        in_virtual_time(async {
            let cluster = two_of(seed, APART);
            let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(APART)));
            begin(&cluster, &mut writer).await;
            cluster.die(ALPHA, Death::Kill).await;
            take_over(&cluster, BETA).await;
            go_on(&cluster, &mut writer, BETA, false).await;
            cluster.disk(BETA, "j0").inject(Fault::Gone);
            write(&cluster, &mut writer, BETA, 40).await;
            until(&cluster, "nobody notices", || group(&cluster, BETA).state == "abnormal").await;
            cluster.start(ALPHA).await;
            until_overtaken(&cluster, BETA).await;
            let refused = cluster.command(BETA, "group failback g1 --to alpha --yes").await.unwrap_err();
            assert!(refused.contains("journal"), "{refused}");
            replace_journal(&cluster, BETA).await;
            until(&cluster, "not repaired", || {
                let group = group(&cluster, BETA);
                group.state == "normal" && group.next_update_number.is_some()
            })
            .await;
            let before = content(&cluster, ALPHA).await;
            cluster.sleep_ms(2_000).await;
            assert!(content(&cluster, ALPHA).await == before, "nothing is copied unasked");
            let pairs = cluster.snapshot(BETA).expect("it runs").pairs;
            assert!(pairs.iter().all(|pair| pair.asked.is_none()), "and nothing waits to be: {pairs:?}");
            fail_back(&cluster, &mut writer, BETA).await;
            equal(&cluster, BETA).await;
            has_everything(&cluster, &writer, BETA).await;
        });
    }
}

/// Makes each step of a takeover last.
#[derive(Debug)]
struct Slow(Duration);

impl Tamper for Slow {
    fn before_turning(&self) -> Duration {
        self.0
    }
}

/// From here on nothing gets from the cache of an array to its data units; its journal is as fast as ever.
fn destages_nothing(cluster: &Cluster, index: usize) {
    (0..3).for_each(|unit| {
        cluster.disk(index, &format!("u{unit}")).inject(Fault::Slow(Duration::from_secs(3_600)));
    });
}

async fn comes_back(cluster: &Cluster, index: usize, death: Death) {
    cluster.die(index, death).await;
    (0..3).for_each(|unit| cluster.disk(index, &format!("u{unit}")).heal());
    cluster.start(index).await;
}

/// The loser dies when it has promised to copy and is still what it was; its journal has what its volumes lack, also of what both
/// have, which nobody copies.
#[test]
fn a_loser_that_dies_between_its_promise_and_its_turn_loses_nothing_that_both_had() {
    for seed in 21..=24 {
        in_virtual_time(async {
            let cluster = two_of(seed, APART);
            let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(APART)));
            begin(&cluster, &mut writer).await;
            equal(&cluster, ALPHA).await;
            destages_nothing(&cluster, ALPHA);
            write(&cluster, &mut writer, ALPHA, 60).await;
            cluster.sleep_ms(12_000).await; // Beta has all of it on its units, and has said so: no mark is left of it.
            take_over(&cluster, BETA).await;
            go_on(&cluster, &mut writer, BETA, true).await;
            until_overtaken(&cluster, BETA).await;
            let naming = cluster.command(BETA, "group failback g1 --to alpha --yes");
            let dying = async {
                until(&cluster, "not yielding", || takeover(&cluster, ALPHA) == "yielding").await;
                cluster.sleep_ms(50).await;
                assert_eq!(takeover(&cluster, ALPHA), "yielding");
                let death = if seed % 2 == 0 { Death::Kill } else { Death::PowerLoss };
                comes_back(&cluster, ALPHA, death).await;
            };
            let _ = tokio::join!(naming, dying);
            equal(&cluster, BETA).await;
            has_everything(&cluster, &writer, BETA).await;
        });
    }
}

/// A primary that is to go on by command dies on the way: what it had is in its journal, and so is its last number.
#[test]
fn a_primary_that_dies_while_it_is_taken_back_has_everything_that_it_answered() {
    for seed in 31..=34 {
        in_virtual_time(async {
            let cluster = two_of(seed, APART);
            let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(APART)));
            begin(&cluster, &mut writer).await;
            equal(&cluster, ALPHA).await;
            cluster.set_way("alpha", "beta", Way::Cut);
            take_over(&cluster, BETA).await;
            destages_nothing(&cluster, ALPHA);
            write(&cluster, &mut writer, ALPHA, 60).await;
            cluster.heal();
            until_overtaken(&cluster, BETA).await;
            let last = group(&cluster, ALPHA).next_update_number.expect("it is open") - 1;
            let retaking = async {
                let _ = cluster.command(ALPHA, "group takeover g1 --yes").await;
            };
            let dying = async {
                until(&cluster, "not retaking", || takeover(&cluster, ALPHA) == "retaking").await;
                cluster.sleep_ms(50).await;
                let death = if seed % 2 == 0 { Death::Kill } else { Death::PowerLoss };
                comes_back(&cluster, ALPHA, death).await;
            };
            tokio::select! { biased; () = dying => {} () = retaking => panic!("it was too fast") }
            until(&cluster, "not taken", || {
                lets_hosts_write(&cluster, ALPHA) && group(&cluster, ALPHA).next_update_number.is_some()
            })
            .await;
            let taken = group(&cluster, ALPHA).takeover.and_then(|takeover| takeover.update_number);
            assert_eq!(taken, Some(last), "it goes on behind its last number");
            let images = image(&cluster, ALPHA).await;
            let resumed = writer.resume_after_crash(&Observed::from_images(writer.log(), &images));
            resumed.unwrap_or_else(|verdict| panic!("no prefix: {verdict}"));
            until(&cluster, "they do not know of each other", || {
                let branch =
                    |index| group(&cluster, index).takeover.and_then(|takeover| takeover.branch_updates);
                branch(ALPHA).is_some() && branch(BETA).is_some_and(|updates| updates > 0)
            })
            .await;
            fail_back(&cluster, &mut writer, ALPHA).await;
            equal(&cluster, ALPHA).await;
            has_everything(&cluster, &writer, ALPHA).await;
        });
    }
}

/// A primary that answers loses nothing, however long its owner takes: hosts are shut out before the answer.
#[test]
fn a_fence_is_answered_when_no_host_writes_any_more() {
    for seed in 41..=42 {
        in_virtual_time(async {
            let cluster = two(seed);
            cluster.plant(ALPHA, Arc::new(Slow(Duration::from_millis(700))));
            let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
            begin(&cluster, &mut writer).await;
            let (stop, ports) = (AtomicBool::new(false), ports(&cluster, ALPHA));
            let running = writer.run(&ports, &*cluster.clock, 8, Until { commands: u64::MAX, stop: &stop });
            let taking = async {
                cluster.sleep_ms(100).await;
                cluster.command(BETA, "group takeover g1 --yes").await.expect("it takes over");
                cluster.sleep_ms(1_000).await;
                stop.store(true, Ordering::Relaxed);
            };
            let (summary, ()) = tokio::join!(running, taking);
            assert_eq!(summary.violations, []);
            go_on(&cluster, &mut writer, BETA, true).await;
        });
    }
}

/// Restore is stopped by an operator when the primary goes: what is here and was not restored is lost, and the old primary may
/// have freed it, so all of it is copied back.
#[test]
fn what_a_stop_of_restore_held_back_is_copied_back_as_well() {
    for seed in 51..=53 {
        in_virtual_time(async {
            let cluster = two(seed);
            let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
            begin(&cluster, &mut writer).await;
            equal(&cluster, ALPHA).await;
            cluster.command(BETA, "group restore g1 --until now").await.unwrap();
            write(&cluster, &mut writer, ALPHA, 60).await;
            until(&cluster, "not received", || {
                let next = group(&cluster, ALPHA).next_update_number;
                let here = group(&cluster, BETA).follows.map(|follows| follows.durable_update_number);
                next.is_some() && here == next.map(|next| next - 1)
            })
            .await;
            cluster.sleep_ms(2_000).await; // It has said so, and the primary has let it go.
            cluster.die(ALPHA, Death::Kill).await;
            let loss = group(&cluster, BETA).loss.expect("it is a copy");
            assert!(loss.held_back_updates > 0 && loss.copy_back_bytes > 0, "{loss:?}");
            take_over(&cluster, BETA).await;
            go_on(&cluster, &mut writer, BETA, false).await;
            cluster.start(ALPHA).await;
            until_overtaken(&cluster, BETA).await;
            cluster.command(BETA, "group failback g1 --to alpha --yes").await.expect("the loser is named");
            equal(&cluster, BETA).await;
            has_everything(&cluster, &writer, BETA).await;
        });
    }
}

/// Holds up messages of takeovers that arrive while it is armed.
#[derive(Debug, Default)]
struct Holds {
    for_ms: AtomicU64,
    held: AtomicU64,
}

impl Tamper for Holds {
    fn before_promising(&self) -> Duration {
        let ms = self.for_ms.load(Ordering::Relaxed);
        if ms > 0 {
            self.held.fetch_add(1, Ordering::Relaxed);
        }
        Duration::from_millis(ms)
    }
}

/// The message that names alpha as the loser is held up; meanwhile its operator takes it back, and its hosts go on.
#[test]
fn a_failback_that_was_held_up_takes_nothing_from_who_was_taken_back_meanwhile() {
    for seed in 61..=63 {
        in_virtual_time(async {
            let cluster = two(seed);
            let holds = Arc::new(Holds::default());
            cluster.plant(ALPHA, holds.clone());
            let mut random = Random::new(seed);
            let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
            begin(&cluster, &mut writer).await;
            cluster.set_way("alpha", "beta", Way::Cut);
            write(&cluster, &mut writer, ALPHA, 30).await;
            take_over(&cluster, BETA).await;
            assert_eq!(scribble(&cluster, BETA, &mut random, 10).await, 10);
            cluster.heal();
            until_overtaken(&cluster, BETA).await;
            holds.for_ms.store(4_000, Ordering::Relaxed);
            let naming = cluster.command(BETA, "group failback g1 --to alpha --yes");
            let taking_back = async {
                until(&cluster, "nothing is held up", || holds.held.load(Ordering::Relaxed) > 0).await;
                holds.for_ms.store(0, Ordering::Relaxed);
                take_over(&cluster, ALPHA).await;
            };
            let _ = tokio::join!(naming, taking_back);
            let images = image(&cluster, ALPHA).await;
            writer
                .resume_after_loss(&Observed::from_images(writer.log(), &images))
                .unwrap_or_else(|verdict| panic!("alpha: {verdict}"));
            write(&cluster, &mut writer, ALPHA, 30).await;
            cluster.sleep_ms(8_000).await;
            assert!(lets_hosts_write(&cluster, ALPHA), "{}", cluster.state());
            until(&cluster, "they do not know of each other", || {
                let view = |index| group(&cluster, index).takeover.unwrap_or_default();
                [ALPHA, BETA].iter().all(|index| view(*index).state == "split-brain")
                    && view(BETA).branch_updates.is_some_and(|updates| updates > 0)
                    && !view(BETA).is_asked_back
            })
            .await;
            // What alpha has is what beta gives up now, or the other way round.
            let winner = if seed % 2 == 0 { ALPHA } else { BETA };
            if winner == BETA {
                let images = image(&cluster, BETA).await;
                cluster.command(BETA, "group failback g1 --to alpha --yes").await.expect("it is named again");
                until(&cluster, "alpha does not yield", || !lets_hosts_write(&cluster, ALPHA)).await;
                equal(&cluster, BETA).await;
                assert!(content(&cluster, ALPHA).await == images, "what beta had");
            } else {
                fail_back(&cluster, &mut writer, ALPHA).await;
                equal(&cluster, ALPHA).await;
                has_everything(&cluster, &writer, ALPHA).await;
            }
        });
    }
}

/// A takeover rests when everything is restored, before this array is the primary.
#[derive(Debug)]
struct Rests(Duration);

impl Tamper for Rests {
    fn before_closing(&self) -> Duration {
        self.0
    }
}

/// Beta's takeover is cut off, or hangs, when alpha is shut and has given everything; alpha's operator takes it back, and its hosts go on. Beta does not become a
/// primary of its own accord hours later.
#[test]
fn a_takeover_that_did_not_end_is_not_ended_when_its_primary_has_been_taken_back() {
    for seed in 71..=73 {
        in_virtual_time(async {
            let cluster = two(seed);
            let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
            cluster.plant(BETA, Arc::new(Rests(Duration::from_secs(30))));
            begin(&cluster, &mut writer).await;
            equal(&cluster, ALPHA).await;
            let is_cut_off = seed != 73;
            let commanding = async {
                let _ = cluster.command(BETA, "group takeover g1 --yes").await;
                std::future::pending::<()>().await;
            };
            let taking_back = async {
                until(&cluster, "not restoring", || takeover(&cluster, BETA) == "restoring").await;
                assert_eq!(takeover(&cluster, ALPHA), "fenced");
                cluster.sleep_ms(300).await;
                if is_cut_off {
                    cluster.die(BETA, if seed == 71 { Death::Kill } else { Death::PowerLoss }).await;
                }
                take_over(&cluster, ALPHA).await;
                write(&cluster, &mut writer, ALPHA, 30).await;
                if is_cut_off {
                    cluster.start(BETA).await;
                }
                let since = cluster.clock_ms();
                while cluster.clock_ms() < since + 50_000 {
                    assert!(!lets_hosts_write(&cluster, BETA), "two primaries: {}", cluster.state());
                    cluster.sleep_ms(50).await;
                }
            };
            tokio::select! { biased; () = taking_back => {} () = commanding => {} }
            assert!(takeover(&cluster, BETA).is_empty(), "{}", cluster.state());
            until(&cluster, "beta says nothing", || {
                group(&cluster, ALPHA).takeover.is_some_and(|takeover| takeover.branch_updates == Some(0))
            })
            .await;
            cluster.command(ALPHA, "group failback g1 --to beta --yes").await.expect("it copies again");
            equal(&cluster, ALPHA).await;
            has_everything(&cluster, &writer, ALPHA).await;
        });
    }
}

/// What beta had asked alpha for is still waited for when alpha's operator takes it back and beta's says once more that it shall take over: what comes of the
/// first attempt says nothing of the second. Alpha, which hosts use, is asked again, and refuses.
#[test]
fn what_came_of_an_earlier_attempt_is_not_believed_of_a_later_one() {
    for seed in 81..=82 {
        in_virtual_time(async {
            let cluster = two_of(seed, APART);
            let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(APART)));
            begin(&cluster, &mut writer).await;
            equal(&cluster, ALPHA).await;
            // Beta gets everything, and has nothing of it durably for long.
            cluster.disk(BETA, "j0").inject(Fault::Slow(Duration::from_secs(15)));
            write(&cluster, &mut writer, ALPHA, 30).await;
            cluster.sleep_ms(500).await;
            let first = async {
                let _ = cluster.command(BETA, "group takeover g1 --yes").await;
                std::future::pending::<()>().await;
            };
            let going_on = async {
                until(&cluster, "not fenced", || takeover(&cluster, ALPHA) == "fenced").await;
                assert_eq!(takeover(&cluster, BETA), "reaching");
                take_over(&cluster, ALPHA).await;
                until(&cluster, "not given up", || takeover(&cluster, BETA).is_empty()).await;
                let second = async {
                    let _ = cluster.command(BETA, "group takeover g1 --yes").await;
                    std::future::pending::<()>().await;
                };
                let watching = async {
                    until(&cluster, "no second attempt", || takeover(&cluster, BETA) == "reaching").await;
                    let since = cluster.clock_ms();
                    while cluster.clock_ms() < since + 70_000 {
                        let both = [ALPHA, BETA].iter().all(|index| lets_hosts_write(&cluster, *index));
                        assert!(!both, "two primaries: {}", cluster.state());
                        if cluster.clock_ms() > since + 25_000 {
                            cluster.disk(BETA, "j0").heal();
                        }
                        cluster.sleep_ms(50).await;
                    }
                };
                tokio::select! { biased; () = watching => {} () = second => {} }
                assert!(takeover(&cluster, BETA).is_empty(), "{}", cluster.state());
                write(&cluster, &mut writer, ALPHA, 30).await;
            };
            tokio::select! { biased; () = going_on => {} () = first => {} }
        });
    }
}

/// An operator who may lose nothing up to a number is not made the primary of less, also where the takeover would go back to an image: it gives
/// up before anything is changed, and the copy goes on as one.
#[test]
fn a_takeover_gives_up_where_it_would_lose_more_than_was_named() {
    let line = |number| format!("group takeover g1 --at-least {number} --yes");
    let gives_up = async |cluster: &Cluster| {
        let newest = cluster.newest().expect("alpha runs");
        let said = cluster.command(BETA, &format!("{} --dry-run", line(newest))).await.unwrap();
        assert!(said.contains("it gives up, and nothing is changed, unless"), "{said}");
        newest
    };
    let was_given_up = |cluster: &Cluster, said: Result<String, String>| {
        let said = said.expect_err("it lacks some of it");
        assert!(said.contains("was not taken over") && said.contains("was to be lost"), "{said}");
        assert!(
            takeover(cluster, BETA).is_empty() && !lets_hosts_write(cluster, BETA),
            "{}",
            cluster.state()
        );
    };
    in_virtual_time(async {
        let cluster = two(71);
        let mut writer = Writer::new(71, Plan::mixed(71, geometry_of(SHAPE)));
        begin(&cluster, &mut writer).await;
        cluster.set_way("alpha", "beta", Way::Cut);
        write(&cluster, &mut writer, ALPHA, 30).await;
        let newest = gives_up(&cluster).await;
        was_given_up(&cluster, cluster.command(BETA, &line(newest)).await);
        write(&cluster, &mut writer, ALPHA, 10).await;
        cluster.heal();
        equal(&cluster, ALPHA).await;
        has_everything(&cluster, &writer, ALPHA).await;

        // In the middle of a resync, when its source is lost.
        cluster.command(ALPHA, "group suspend g1").await.unwrap();
        write(&cluster, &mut writer, ALPHA, 60).await;
        cluster.set_way("alpha", "beta", Way::Slow);
        cluster.command(ALPHA, "group resync g1").await.unwrap();
        let is_image = || group(&cluster, BETA).loss.is_some_and(|loss| loss.is_image);
        until(&cluster, "no resync", is_image).await;
        let newest = gives_up(&cluster).await;
        cluster.die(ALPHA, Death::Kill).await;
        was_given_up(&cluster, cluster.command(BETA, &line(newest)).await);
        assert_eq!(group(&cluster, BETA).state, "normal", "it has not gone back to its image");
        cluster.heal();
        cluster.start(ALPHA).await;
        equal(&cluster, ALPHA).await;

        let newest = cluster.newest().unwrap();
        cluster.die(ALPHA, Death::Kill).await;
        cluster.command(BETA, &line(newest)).await.expect("it has all of that");
        has_everything(&cluster, &writer, BETA).await;
    });
}
