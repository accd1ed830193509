//! Hosts that wait until their writes are on a relay (promise X1, claim 1 of `004_…`; decision 21). The relays, the copy and every way
//! between them fail at random while hosts write; then the primary is lost, and the copy with it for a moment; and the copy takes over.
//!
//! What is checked: whenever the primary, or the copy, shows in the moment of the loss that everything is in a second place, the takeover
//! finds **every write that a host was answered by then**; with the fence `data` always, once hosts have waited.

use crate::cluster::{ALPHA, Cluster, Death, Way};
use crate::in_virtual_time;
use crate::port::SimPort;
use crate::readers::{say, wait};
use crate::relay::{BETA, DELTA, GAMMA, WAYS, any_death, cluster, cluster_with, create, create_for};
use crate::story::geometry_of;
use crate::support::random::{Random, number_from_environment};
use crate::support::wof::{
    Durability, HostError, HostPort, Observed, Place, Plan, SECTOR_BYTES, Until, Writer, check_prefix,
    lost_writes,
};
use crate::tree::SMALL;
use holdfast::clock::Clock;
use holdfast::copy::tamper::{SynchronousDefect, Tamper};
use holdfast::shell::view::SynchronousView;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const SYNCHRONISED: &str = "synchronised";

/// What a seed came to.
#[derive(Clone, Copy, Default, Debug)]
struct Sum {
    acknowledged: u64,
    /// The primary, and the copy, showed that everything is in a second place when the primary was lost.
    shown: u64,
    shown_by_copy: u64,
    /// Writes that only the relay had.
    found: u64,
}

struct Story {
    cluster: Cluster,
    random: Random,
    writer: Writer,
    ports: Vec<SimPort>,
    fence: &'static str,
}

impl Story {
    async fn new(seed: u64, defect: Option<(usize, SynchronousDefect)>) -> Self {
        let mut random = Random::new(seed ^ 0x686f_7374);
        let fence = ["never", "never", "data"][usize::try_from(seed % 3).unwrap()];
        let limit_ms = [500, 1000, 4000][random.index(3)];
        let cluster = cluster_with(seed, &fence_words(fence, limit_ms));
        if let Some((index, defect)) = defect {
            cluster.plant(index, Arc::new(Planted(defect)));
        }
        let writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SMALL)));
        let think_ms = [4, 20, 60][random.index(3)];
        let port = |number| SimPort::new(&cluster, "host", number, ALPHA).thinking_ms(think_ms);
        let ports = (1..=3).map(port).collect();
        for index in 0..4 {
            cluster.start(index).await;
        }
        wait(&cluster, "beta is normal", |cluster| cluster.is_normal(BETA)).await;
        create_for(&cluster, "r1", "gamma", " --hosts wait").await;
        match random.below(3) {
            0 => create(&cluster, "r2", "delta").await,
            1 => create_for(&cluster, "r2", "delta", " --hosts wait").await,
            _ => {}
        }
        wait(&cluster, "hosts wait", |cluster| state(cluster, ALPHA) == SYNCHRONISED).await;
        Self { cluster, random, writer, ports, fence }
    }

    async fn tell(mut self) -> Sum {
        let mut sum = Sum::default();
        let stop = AtomicBool::new(false);
        let until = Until { commands: 600, stop: &stop };
        let depth = [1, 8, 32][self.random.index(3)];
        let running = self.writer.run(&self.ports, &*self.cluster.clock, depth, until);
        let (cluster, random) = (&self.cluster, &mut self.random);
        let ending = async {
            trouble(cluster, random).await;
            let shown = [ALPHA, BETA].map(|index| state(cluster, index) == SYNCHRONISED);
            let had = cluster.position(BETA);
            let at_ns = cluster.clock.now().0;
            cluster.note(format!("the primary is lost, shown {shown:?}, beta at {had:?}"));
            cluster.die(ALPHA, any_death(random)).await;
            for index in [BETA, GAMMA, DELTA] {
                if random.percent(50) {
                    cluster.die(index, any_death(random)).await;
                }
            }
            stop.store(true, Ordering::Relaxed);
            (shown, had, at_ns)
        };
        let (summary, (shown, had, at_ns)) = tokio::join!(running, ending);
        assert_eq!(summary.violations, [], "reads while writing");
        sum.acknowledged = summary.acknowledged;
        self.cluster.heal();
        for index in [GAMMA, DELTA, BETA] {
            if !self.cluster.runs(index) {
                self.cluster.start(index).await;
            }
        }
        self.cluster.sleep_ms(self.random.below(3_000)).await;
        say(&self.cluster, BETA, "group takeover g1 --yes").await;
        wait(&self.cluster, "beta is the primary", |cluster| {
            cluster.snapshot(BETA).unwrap().groups[0].role == "primary"
        })
        .await;
        let log = self.writer.log();
        let verdict =
            check_prefix(log, &Observed::from_images(log, &self.cluster.visible_copies(BETA).await));
        verdict.expect_clean("the new primary");
        let next = self.cluster.snapshot(BETA).unwrap().groups[0].next_update_number;
        let more = next.unwrap_or(0).saturating_sub(1 + had.map_or(0, |(durable, _)| durable));
        sum.shown = u64::from(shown[0]);
        sum.shown_by_copy = u64::from(shown[1]);
        if shown == [false, false] && self.fence != "data" {
            return sum;
        }
        sum.found = more;
        let lost = lost_writes(log, &verdict).into_iter().filter_map(|id| log.entry(id));
        let lost: Vec<_> = lost.filter(|entry| entry.acked_ns < at_ns).collect();
        assert!(
            lost.is_empty(),
            "the takeover ({shown:?}, {}) lacks what was answered: {lost:?}",
            self.fence
        );
        sum
    }
}

fn fence_words(fence: &str, limit_ms: u64) -> String {
    format!("fence = \"{fence}\"\nfence_wait = \"{limit_ms}ms\"\n")
}

/// Some seconds in which things go wrong.
async fn trouble(cluster: &Cluster, random: &mut Random) {
    for _ in 0..1 + random.below(5) {
        let pause = [3, 30, 300, 2500][random.index(4)];
        cluster.sleep_ms(random.below(pause)).await;
        match random.below(10) {
            0..5 => {
                let (a, b) = WAYS[random.index(WAYS.len())];
                let bad = [Way::Cut, Way::Silent, Way::DeafThere, Way::DeafBack, Way::Slow];
                let way = bad[random.index(bad.len())];
                cluster.note(format!("{way:?} {a}-{b}"));
                cluster.set_way(a, b, way);
                if random.percent(50) {
                    let lasts = [20, 500, 4000][random.index(3)];
                    cluster.sleep_ms(random.below(lasts)).await;
                    cluster.set_way(a, b, Way::Up);
                }
            }
            5 => cluster.heal(),
            _ => {
                let index = [BETA, GAMMA, GAMMA, DELTA][random.index(4)];
                if cluster.runs(index) {
                    cluster.die(index, any_death(random)).await;
                    cluster.sleep_ms(random.below(1200)).await;
                }
                cluster.start(index).await;
            }
        }
    }
    // What goes wrong just before the primary is lost.
    let (ways, pause): (&[(&str, &str)], u64) = match random.below(4) {
        0 => (&[("alpha", "gamma")], 300),
        1 => (&[("alpha", "gamma"), ("alpha", "beta"), ("alpha", "delta")], 12_000),
        _ => (&[], [3, 100, 2000][random.index(3)]),
    };
    for (a, b) in ways {
        cluster.note(format!("{a}-{b} is silent"));
        cluster.set_way(a, b, Way::Silent);
    }
    cluster.sleep_ms(random.below(pause)).await;
}

fn standing(cluster: &Cluster, index: usize) -> Option<SynchronousView> {
    cluster.snapshot(index)?.groups.first()?.synchronous.clone()
}

fn state(cluster: &Cluster, index: usize) -> String {
    standing(cluster, index).map(|view| view.state).unwrap_or_default()
}

fn run_seed(seed: u64, defect: Option<(usize, SynchronousDefect)>) -> Sum {
    let outcome =
        std::panic::catch_unwind(|| in_virtual_time(async { Story::new(seed, defect).await.tell().await }));
    outcome.unwrap_or_else(|cause| {
        if defect.is_none() {
            eprintln!("hosts that wait for relays: seed {seed} failed");
        }
        std::panic::resume_unwind(cause)
    })
}

#[test]
fn what_was_answered_is_found_by_a_takeover_whenever_it_is_shown_to_be_in_a_second_place() {
    let seeds = (number_from_environment("HOLDFAST_SIM_SEEDS", 400) / 40).max(2);
    let first = number_from_environment("HOLDFAST_SIM_FIRST_SEED", 1);
    let mut all = Sum::default();
    for seed in first..first + seeds {
        let sum = run_seed(seed, None);
        all.acknowledged += sum.acknowledged;
        all.shown += sum.shown;
        all.shown_by_copy += sum.shown_by_copy;
        all.found += sum.found;
    }
    println!("hosts that wait for relays: {seeds} seeds, {all:?}");
    let happened = all.shown > 2 && all.shown_by_copy > 0 && all.found > 0;
    assert!(seeds < 10 || happened, "too little happened: {all:?}");
}

#[derive(Debug)]
struct Planted(SynchronousDefect);

impl Tamper for Planted {
    fn synchronous(&self) -> Option<SynchronousDefect> {
        Some(self.0)
    }
}

/// The story is worth what its checks find.
#[test]
fn each_defect_planted_where_hosts_wait_for_a_relay_is_found() {
    for (index, first, defect) in [
        (ALPHA, 1, SynchronousDefect::AnsweredEarly),
        (ALPHA, 1, SynchronousDefect::ConfirmedEarly),
        (BETA, 1, SynchronousDefect::LeaseKept),
    ] {
        let is_found = (first..first + 24).any(|seed| {
            let told = std::panic::catch_unwind(|| run_seed(seed, Some((index, defect))));
            told.is_err_and(|cause| {
                let text = cause.downcast_ref::<String>().cloned().unwrap_or_default();
                println!("{defect:?}, seed {seed}: {}", text.lines().next().unwrap_or_default());
                text.contains("lacks what was answered")
            })
        });
        assert!(is_found, "{defect:?} is not found");
    }
}

/// A host writes once; how long that took, and what it was answered.
async fn one_write(cluster: &Cluster, lba: u64) -> (u64, Result<(), HostError>) {
    let port = SimPort::new(cluster, "host", 5, ALPHA);
    let place = Place { volume: 0, lba, sectors: 1 };
    port.read(place).await.expect("alpha can be read"); // It logs in.
    let since = cluster.clock_ms();
    let outcome = port.write(place, vec![7; SECTOR_BYTES].into(), Durability::Plain).await;
    (cluster.clock_ms() - since, outcome)
}

/// X6 with hosts that wait: the direct way confirms, too; without any the fence decides; and it comes back by itself.
#[test]
fn hosts_wait_for_a_relay_or_for_the_direct_way_no_longer_than_the_limit() {
    for fence in ["never", "data"] {
        in_virtual_time(async {
            let cluster = cluster_with(7, &fence_words(fence, 4_000));
            for index in 0..4 {
                cluster.start(index).await;
            }
            wait(&cluster, "beta is normal", |cluster| cluster.is_normal(BETA)).await;
            create_for(&cluster, "r1", "gamma", " --hosts wait").await;
            let both =
                |cluster: &Cluster| [ALPHA, BETA].map(|index| state(cluster, index)) == [SYNCHRONISED; 2];
            wait(&cluster, "both show it", both).await;
            let (took_ms, outcome) = one_write(&cluster, 3).await;
            assert!(outcome.is_ok() && took_ms < 100, "{took_ms} ms: {outcome:?}");
            // The copy is away: the relay is enough.
            cluster.die(BETA, Death::PowerLoss).await;
            let (took_ms, outcome) = one_write(&cluster, 4).await;
            assert!(outcome.is_ok() && took_ms < 100, "{took_ms} ms: {outcome:?}");
            cluster.start(BETA).await;
            wait(&cluster, "both show it again", both).await;
            // The relay is away: the copy reads directly, and that is enough.
            cluster.die(GAMMA, Death::PowerLoss).await;
            let (took_ms, outcome) = one_write(&cluster, 5).await;
            assert!(outcome.is_ok() && took_ms < 4_000, "{took_ms} ms: {outcome:?}");
            assert!(state(&cluster, ALPHA) == "waiting" && state(&cluster, BETA) != SYNCHRONISED);
            let (took_ms, outcome) = one_write(&cluster, 6).await;
            assert!(outcome.is_ok() && took_ms < 1_000, "{took_ms} ms: {outcome:?}");
            // Both are away.
            cluster.set_way("alpha", "beta", Way::Silent);
            cluster.sleep_ms(5_000).await;
            let (took_ms, outcome) = one_write(&cluster, 7).await;
            assert!(took_ms < 4_200, "{took_ms} ms: {outcome:?}");
            match fence {
                "never" => {
                    assert_eq!((outcome, state(&cluster, ALPHA).as_str()), (Ok(()), "apart"));
                }
                _ => {
                    let key = match outcome {
                        Err(HostError::Refused { key, .. }) => key,
                        other => panic!("{other:?}"),
                    };
                    assert_eq!((key, state(&cluster, ALPHA).as_str()), (0x02, "refused"));
                    // It stays so behind a restart.
                    cluster.die(ALPHA, Death::Kill).await;
                    cluster.start(ALPHA).await;
                    assert!(one_write(&cluster, 8).await.1.is_err());
                }
            }
            cluster.heal();
            cluster.start(GAMMA).await;
            wait(&cluster, "both show it in the end", both).await;
            assert!(one_write(&cluster, 9).await.0 < 100);
            // An operator takes the relay away: nobody waits any more, when nobody is told any more that it is synchronised.
            say(&cluster, ALPHA, "link delete r1 --yes").await;
            assert_ne!(state(&cluster, ALPHA), "");
            wait(&cluster, "hosts do not wait", |cluster| state(cluster, ALPHA).is_empty()).await;
            assert_ne!(state(&cluster, BETA), SYNCHRONISED);
            assert!(one_write(&cluster, 10).await.0 < 100);
        });
    }
}

#[test]
fn what_hosts_cannot_wait_for_is_refused() {
    in_virtual_time(async {
        let cluster = cluster(8);
        for index in 0..4 {
            cluster.start(index).await;
        }
        wait(&cluster, "beta is normal", |cluster| cluster.is_normal(BETA)).await;
        let line = |side: &str, array: u32, name: &str, hosts: &str| {
            format!(
                "link create {name} --array {array} --portal gamma:3260 --target iqn.2026-11.example:{name} --group g1 \
                 --luns 1,2,3 --as {side} --hosts {hosts}"
            )
        };
        let refused = |index: usize, line: String| {
            let cluster = &cluster;
            async move { cluster.command(index, &line).await.expect_err("it is refused") }
        };
        let why = refused(BETA, line("second", 1, "r1", "wait")).await;
        assert!(why.contains("first array"), "{why}");
        let why = refused(ALPHA, line("first", 2, "r1", "soon")).await;
        assert!(why.contains("wait or go-on"), "{why}");
        say(&cluster, ALPHA, &line("first", 2, "r1", "wait")).await;
        say(&cluster, ALPHA, &line("first", 2, "r2", "wait")).await;
        let why = refused(ALPHA, line("first", 5, "r3", "wait")).await;
        assert!(why.contains("wait for relay r1"), "{why}");
        say(&cluster, ALPHA, &line("first", 5, "r3", "go-on")).await;
    });
}
