//! Where a synchronous pair and what hosts were told could part company (promises K1, K3, I4): a takeover while its primary still
//! sends, the fence behind a change of roles, a journal that fails at either side.

use crate::cluster::{ALPHA, Cluster, Death, Second, Shape, Way};
use crate::in_virtual_time;
use crate::onward::equal;
use crate::port::scribble;
use crate::story::geometry_of;
use crate::support::random::Random;
use crate::support::wof::{Plan, Until, Writer};
use crate::takeover::{BETA, go_on, group, lets_hosts_write, ports, take_over, takeover, until, write};
use crate::three_centres::{begin, centres_of, comes_back, shows, until_synchronised};
use crate::tree::SMALL;
use holdfast::disk::io::sim::Fault;
use std::sync::atomic::{AtomicBool, Ordering};

const GAMMA: usize = 2;
/// The journals on units of their own, and a volume that can take the place of one.
const SHAPE: Shape =
    Shape { journal_kib: 12 << 10, is_journal_apart: true, second: Second::Ordinary, ..SMALL };

fn writer_for(seed: u64) -> Writer {
    Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)))
}

/// Alpha cannot say that it is shut, because its control store has failed; its hosts write on, and its updates go to beta all the
/// time while that takes over. What alpha was told to be at beta is what beta goes on with.
#[test]
fn nothing_is_confirmed_that_a_takeover_under_way_leaves_out() {
    for seed in 1..=2 {
        in_virtual_time(async {
            let cluster = centres_of(seed, SHAPE, "data");
            let mut random = Random::new(seed);
            let mut writer = writer_for(seed);
            begin(&cluster, &mut writer).await;
            cluster.fail_store_after(ALPHA, 0);
            let stop = AtomicBool::new(false);
            let hosts = ports(&cluster, ALPHA);
            let running = writer.run(&hosts, &*cluster.clock, 8, Until { commands: u64::MAX, stop: &stop });
            let taking = async {
                cluster.sleep_ms(50 + random.below(300)).await;
                cluster.command(BETA, "group takeover g1 --yes").await.expect("it takes over");
                // Nobody confirms anything to alpha any more.
                assert!(!shows(&cluster, BETA) && lets_hosts_write(&cluster, BETA), "{}", cluster.state());
                cluster.die(ALPHA, Death::PowerLoss).await;
                stop.store(true, Ordering::Relaxed);
            };
            let (summary, ()) = tokio::join!(running, taking);
            assert_eq!(summary.violations, []);
            go_on(&cluster, &mut writer, BETA, true).await;
        });
    }
}

/// The record that hosts wait belongs to one time as the primary. Behind further changes of roles nobody waits for an array that is
/// gone, whatever the fence.
#[test]
fn hosts_are_let_in_behind_every_takeover_whatever_the_fence_says() {
    for (seed, fence) in [(1, "data"), (2, "status")] {
        in_virtual_time(async {
            let cluster = centres_of(seed, SHAPE, fence);
            let mut writer = writer_for(seed);
            begin(&cluster, &mut writer).await;
            cluster.die(ALPHA, Death::PowerLoss).await;
            take_over(&cluster, BETA).await;
            go_on(&cluster, &mut writer, BETA, true).await;
            cluster.start(ALPHA).await;
            comes_back(&cluster, &mut writer, BETA).await;
            cluster.die(BETA, Death::Kill).await;
            take_over(&cluster, ALPHA).await;
            let since = cluster.clock_ms();
            go_on(&cluster, &mut writer, ALPHA, true).await;
            assert!(cluster.clock_ms() < since + 20_000, "hosts wait for an array that is gone");
            // Beta takes over while alpha is cut off, and the operator decides for alpha.
            cluster.start(BETA).await;
            comes_back(&cluster, &mut writer, ALPHA).await;
            cluster.set_way("alpha", "beta", Way::Cut);
            cluster.command(BETA, "group takeover g1 --yes").await.expect("it takes over");
            cluster.heal();
            until(&cluster, "not overtaken", || takeover(&cluster, ALPHA) == "overtaken").await;
            take_over(&cluster, ALPHA).await;
            let since = cluster.clock_ms();
            go_on(&cluster, &mut writer, ALPHA, true).await;
            assert!(cluster.clock_ms() < since + 20_000, "hosts wait for an array that is no copy");
        });
    }
}

/// The journal of the second fails: it lives, and says that it takes nothing. With the fence `status` hosts go on.
#[test]
fn with_the_fence_status_hosts_go_on_when_the_second_lives_and_takes_nothing() {
    in_virtual_time(async {
        let cluster = centres_of(5, SHAPE, "status");
        let mut writer = writer_for(5);
        begin(&cluster, &mut writer).await;
        cluster.disk(BETA, "j0").inject(Fault::Gone);
        let since = cluster.clock_ms();
        write(&cluster, &mut writer, ALPHA, 40).await;
        assert!(cluster.clock_ms() < since + 20_000, "hosts do not go on");
        let standing = group(&cluster, ALPHA).synchronous.expect("it has a synchronous copy");
        assert!(standing.state == "apart" && !shows(&cluster, BETA), "{standing:?}");
        until(&cluster, "not abnormal", || group(&cluster, BETA).state == "abnormal").await;
        replace(&cluster, BETA).await;
        until_synchronised(&cluster).await;
        equal(&cluster, &writer, ALPHA).await;
    });
}

/// The journal of the first fails while hosts wait. Nothing is answered alone before the second shows itself as synchronised no
/// more; with the fence `data` not before an operator says so.
#[test]
fn a_first_whose_journal_fails_answers_nobody_alone_before_the_second_knows() {
    for (seed, fence) in [(6, "never"), (7, "data")] {
        in_virtual_time(async {
            let cluster = centres_of(seed, SHAPE, fence);
            let mut random = Random::new(seed);
            let mut writer = writer_for(seed);
            begin(&cluster, &mut writer).await;
            let stop = AtomicBool::new(false);
            let hosts = ports(&cluster, ALPHA);
            let running = writer.run(&hosts, &*cluster.clock, 8, Until { commands: u64::MAX, stop: &stop });
            let losing = async {
                cluster.sleep_ms(100 + random.below(300)).await;
                cluster.disk(ALPHA, "j0").inject(Fault::Gone);
                until(&cluster, "not abnormal", || group(&cluster, ALPHA).state == "abnormal").await;
                stop.store(true, Ordering::Relaxed);
            };
            let (summary, ()) = tokio::join!(running, losing);
            assert_eq!(summary.violations, []);
            if fence == "data" {
                cluster.sleep_ms(5_000).await;
                assert_eq!(scribble(&cluster, ALPHA, &mut random, 2).await, 0, "hosts are refused");
                cluster.command(ALPHA, "group suspend g1 --reader beta").await.expect("it can be said");
            }
            until(&cluster, "not apart", || {
                group(&cluster, ALPHA).synchronous.is_some_and(|view| view.state == "apart")
            })
            .await;
            assert!(!shows(&cluster, BETA), "{}", cluster.state());
            write(&cluster, &mut writer, ALPHA, 40).await;
            replace(&cluster, ALPHA).await;
            until(&cluster, "not normal", || group(&cluster, ALPHA).state == "normal").await;
            let _ = cluster.command(ALPHA, "group resync g1").await;
            until_synchronised(&cluster).await;
            equal(&cluster, &writer, ALPHA).await;
        });
    }
}

/// The second is away for long, with the fence `data`: when it is back hosts are let on, though nothing was written meanwhile that
/// would wake anybody.
#[test]
fn hosts_go_on_when_a_second_is_back_that_was_away_for_long() {
    in_virtual_time(async {
        let cluster = centres_of(8, SHAPE, "data");
        let mut random = Random::new(8);
        let mut writer = writer_for(8);
        begin(&cluster, &mut writer).await;
        equal(&cluster, &writer, ALPHA).await;
        cluster.set_way("alpha", "beta", Way::Cut);
        assert_eq!(scribble(&cluster, ALPHA, &mut random, 2).await, 0, "hosts are refused");
        cluster.sleep_ms(20_000).await;
        cluster.heal();
        until_synchronised(&cluster).await;
    });
}

/// What beta shows is true for hosts of the whole group: not while a takeover would stop short of what it has, and not while hosts
/// may be answered by a third array.
#[test]
fn a_second_does_not_call_itself_synchronised_when_a_takeover_of_it_would_lose_something() {
    in_virtual_time(async {
        let cluster = centres_of(9, SHAPE, "never");
        let mut writer = writer_for(9);
        begin(&cluster, &mut writer).await;
        cluster.command(BETA, "group restore g1 --until now").await.expect("restore is held");
        until(&cluster, "it says so still", || !shows(&cluster, BETA)).await;
        cluster.command(BETA, "group restore g1 --go-on").await.expect("restore goes on");
        until_synchronised(&cluster).await;
        // Gamma takes over, and beta does not hear of it.
        cluster.set_way("beta", "gamma", Way::Cut);
        cluster.command(GAMMA, "group takeover g1 --yes").await.expect("it takes over");
        assert!(takeover(&cluster, ALPHA).ends_with("overtaken") || takeover(&cluster, ALPHA) == "fenced");
        cluster.sleep_ms(1_000).await;
        for _ in 0..100 {
            assert!(!shows(&cluster, BETA), "hosts are answered at gamma: {}", cluster.state());
            cluster.sleep_ms(50).await;
        }
    });
}

async fn replace(cluster: &Cluster, side: usize) {
    cluster.command(side, "journal replace g1 --volume jnl --by jnl2 --yes").await.expect("it is replaced");
}
