//! Hosts that wait until their writes are on a relay (promise X1, claim 1 of `004_…`; decision 21). The relays, the copy and every way
//! between them fail at random while hosts write; then the primary is lost, and the copy with it for a moment; and the copy takes over.
//!
//! What is checked: whenever the primary, or the copy, shows in the moment of the loss that everything is in a second place, the takeover
//! finds **every write that a host was answered by then**; with the fence `data` always, once hosts have waited. The same where each of two relays
//! has a part of the journals, and the primary comes back for moments.

use crate::cluster::{ALPHA, Cluster, Death, Way, target_name};
use crate::in_virtual_time;
use crate::port::SimPort;
use crate::readers::{say, wait, write};
use crate::relay::{
    BETA, DELTA, GAMMA, WAYS, any_death, cluster, cluster_with, create, create_for, create_with,
};
use crate::relay_drain::has_arrived_on_r1;
use crate::story::geometry_of;
use crate::support::random::{Random, number_from_environment};
use crate::support::wof::{
    Durability, HostError, HostPort, Observed, Place, Plan, SECTOR_BYTES, Until, Writer, check_prefix,
    lost_writes,
};
use crate::synchronous::Planted;
use crate::tree::SMALL;
use holdfast::clock::Clock;
use holdfast::copy::tamper::SynchronousDefect;
use holdfast::shell::view::SynchronousView;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) const SYNCHRONISED: &str = "synchronised";

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
    journals: Journals,
}

/// What goes over each relay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Journals {
    All,
    Parts,
}

impl Story {
    async fn new(seed: u64, journals: Journals, defect: Option<(usize, SynchronousDefect)>) -> Self {
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
        let control = [0, 1].map(|_| if random.percent(30) { " --control link" } else { "" });
        let parts = if journals == Journals::Parts { " --journals parts" } else { "" };
        let more = format!(" --hosts wait{parts}{}", control[0]);
        create_with(&cluster, "r1", "gamma", [&more, control[1]]).await;
        match random.below(3) {
            _ if journals == Journals::Parts => {
                create_with(&cluster, "r2", "delta", [&more, control[1]]).await;
            }
            0 => create(&cluster, "r2", "delta").await,
            1 => create_for(&cluster, "r2", "delta", " --hosts wait").await,
            _ => {}
        }
        wait(&cluster, "hosts wait", |cluster| state(cluster, ALPHA) == SYNCHRONISED).await;
        Self { cluster, random, writer, ports, fence, journals }
    }

    async fn tell(mut self) -> Sum {
        let mut sum = Sum::default();
        let depth = [1, 8, 32][self.random.index(3)];
        let (cluster, random) = (&self.cluster, &mut self.random);
        let stop = AtomicBool::new(false);
        let until = Until { commands: 400, stop: &stop };
        let running = self.writer.run(&self.ports, &*cluster.clock, depth, until);
        let failing = async {
            trouble(cluster, random).await;
            stop.store(true, Ordering::Relaxed);
        };
        let (summary, ()) = tokio::join!(running, failing);
        assert_eq!(summary.violations, [], "reads while writing");
        sum.acknowledged = summary.acknowledged;
        // Mostly the loss comes while everything is shown to be in a second place, or a moment after that; hosts write to its end.
        if random.percent(75) {
            let who: &[usize] = if random.percent(70) { &[ALPHA, BETA] } else { &[ALPHA] };
            level_again(cluster, who).await;
        }
        let stop = AtomicBool::new(false);
        let until = Until { commands: 400, stop: &stop };
        let running = self.writer.run(&self.ports, &*cluster.clock, depth, until);
        let ending = async {
            last_trouble(cluster, random).await;
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
        sum.acknowledged += summary.acknowledged;
        if self.journals == Journals::Parts {
            self.comes_back_for_moments().await;
        }
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

    /// The primary starts to put on its relays anew what the copy lacks, and is lost before it has.
    async fn comes_back_for_moments(&mut self) {
        for _ in 0..self.random.below(3) {
            if self.random.percent(70) {
                self.cluster.heal();
            }
            for index in [GAMMA, DELTA] {
                if self.random.percent(70) && !self.cluster.runs(index) {
                    self.cluster.start(index).await;
                }
            }
            let after_ms = [30, 300, 3_000][self.random.index(3)];
            let (after_ms, death) = (self.random.below(after_ms), any_death(&mut self.random));
            self.cluster.start_and_die(ALPHA, after_ms, death).await;
        }
    }
}

pub(crate) fn fence_words(fence: &str, limit_ms: u64) -> String {
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
}

/// What goes wrong just before the primary is lost.
async fn last_trouble(cluster: &Cluster, random: &mut Random) {
    let (ways, pause): (&[(&str, &str)], u64) = match random.below(8) {
        0 => (&[("alpha", "gamma")], 300),
        1..4 => {
            (&[("alpha", "gamma"), ("alpha", "beta"), ("alpha", "delta")], [300, 12_000][random.index(2)])
        }
        4 => (&[("alpha", "beta")], 2_000),
        5 => (&[("beta", "gamma")], 1_000),
        _ => (&[], [3, 100, 2000][random.index(3)]),
    };
    for (a, b) in ways {
        cluster.note(format!("{a}-{b} is silent"));
        cluster.set_way(a, b, Way::Silent);
    }
    cluster.sleep_ms(random.below(pause)).await;
}

/// Everything is reachable again, until these arrays show that everything is in a second place; or for a while.
async fn level_again(cluster: &Cluster, who: &[usize]) {
    cluster.heal();
    for index in [BETA, GAMMA, DELTA] {
        if !cluster.runs(index) {
            cluster.start(index).await;
        }
    }
    let since = cluster.clock_ms();
    let are_level = || who.iter().all(|index| state(cluster, *index) == SYNCHRONISED);
    while !are_level() && cluster.clock_ms() < since + LEVEL_WITHIN_MS {
        cluster.sleep_ms(5).await;
    }
}

/// What is wrong for longer is wrong when the primary is lost.
const LEVEL_WITHIN_MS: u64 = 20_000;

fn standing(cluster: &Cluster, index: usize) -> Option<SynchronousView> {
    cluster.snapshot(index)?.groups.first()?.synchronous.clone()
}

pub(crate) fn state(cluster: &Cluster, index: usize) -> String {
    standing(cluster, index).map(|view| view.state).unwrap_or_default()
}

fn run_seed(seed: u64, journals: Journals, defect: Option<(usize, SynchronousDefect)>) -> Sum {
    let story = || in_virtual_time(async { Story::new(seed, journals, defect).await.tell().await });
    std::panic::catch_unwind(story).unwrap_or_else(|cause| {
        if defect.is_none() {
            eprintln!("hosts that wait for relays ({journals:?}): seed {seed} failed");
        }
        std::panic::resume_unwind(cause)
    })
}

fn run_seeds(journals: Journals) {
    let seeds = (number_from_environment("HOLDFAST_SIM_SEEDS", 400) / 40).max(2);
    let first = number_from_environment("HOLDFAST_SIM_FIRST_SEED", 1);
    let mut all = Sum::default();
    for seed in first..first + seeds {
        let sum = run_seed(seed, journals, None);
        all.acknowledged += sum.acknowledged;
        all.shown += sum.shown;
        all.shown_by_copy += sum.shown_by_copy;
        all.found += sum.found;
    }
    println!("hosts that wait for relays ({journals:?}): {seeds} seeds, {all:?}");
    let happened = 2 * all.shown >= seeds && 3 * all.shown_by_copy >= seeds && all.found > 0;
    assert!(seeds < 10 || happened, "too little happened: {all:?}");
}

#[test]
fn what_was_answered_is_found_by_a_takeover_whenever_it_is_shown_to_be_in_a_second_place() {
    run_seeds(Journals::All);
}

/// X7 with hosts that wait; and a first array that is lost while what was on its relays is written again.
#[test]
fn what_was_answered_is_found_by_a_takeover_on_all_relays_with_parts_together() {
    run_seeds(Journals::Parts);
}

/// The story is worth what its checks find.
#[test]
fn each_defect_planted_where_hosts_wait_for_a_relay_is_found() {
    for (journals, index, defect) in [
        (Journals::All, ALPHA, SynchronousDefect::AnsweredEarly),
        (Journals::All, ALPHA, SynchronousDefect::ConfirmedEarly),
        (Journals::All, BETA, SynchronousDefect::LeaseKept),
        (Journals::All, ALPHA, SynchronousDefect::FreedEarly),
        (Journals::Parts, ALPHA, SynchronousDefect::AnsweredEarly),
    ] {
        let is_found = (1..25).any(|seed| {
            let told = std::panic::catch_unwind(|| run_seed(seed, journals, Some((index, defect))));
            told.is_err_and(|cause| {
                let text = cause.downcast_ref::<String>().cloned().unwrap_or_default();
                println!(
                    "{defect:?} ({journals:?}), seed {seed}: {}",
                    text.lines().next().unwrap_or_default()
                );
                text.contains("lacks what was answered")
            })
        });
        assert!(is_found, "{defect:?} ({journals:?}) is not found");
    }
}

/// A host writes once; how long that took, and what it was answered.
pub(crate) async fn one_write(cluster: &Cluster, lba: u64) -> (u64, Result<(), HostError>) {
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

/// A relay that is made again begins another chain, over what the copy has not read and shows itself by: not before that is over.
#[test]
fn a_relay_that_is_made_again_keeps_what_the_copy_shows_itself_by() {
    in_virtual_time(async {
        let cluster = cluster_with(1, &fence_words("never", 4_000));
        for index in 0..4 {
            cluster.start(index).await;
        }
        wait(&cluster, "beta is normal", |cluster| cluster.is_normal(BETA)).await;
        let mut writer = Writer::new(1, Plan::mixed(1, geometry_of(SMALL)));
        let ports: Vec<SimPort> =
            (1..=2).map(|number| SimPort::new(&cluster, "host", number, ALPHA).thinking_ms(4)).collect();
        create_for(&cluster, "r1", "gamma", " --hosts wait").await;
        cluster.set_way("alpha", "beta", Way::Cut);
        let is_shown = |cluster: &Cluster| state(cluster, BETA) == SYNCHRONISED;
        wait(&cluster, "the copy shows it", is_shown).await;
        say(&cluster, BETA, "group schedule g1 --link alpha --restore immediate --restore-delay 1h").await;
        // Until what comes has no room at the copy.
        while cluster.position(BETA).unwrap().0 == has_arrived_on_r1(&cluster).await {
            write(&cluster, &mut writer, &ports, 30).await;
            cluster.sleep_ms(1_000).await;
        }
        write(&cluster, &mut writer, &ports, 5).await;
        let newest = has_arrived_on_r1(&cluster).await;
        assert!(cluster.position(BETA).unwrap().0 < newest, "there is no room for it");
        wait(&cluster, "the copy shows it", is_shown).await;
        say(&cluster, ALPHA, "link delete r1 --yes").await;
        let iqn = target_name("gamma");
        let line = format!(
            "link create r1 --array 2 --portal gamma:3260 --target {iqn} --group g1 --luns 1,2,3 --as first"
        );
        say(&cluster, ALPHA, &line).await;
        // As soon as the other chain has begun, or as late as the copy shows it.
        let is_written = |cluster: &Cluster| {
            let links = cluster.snapshot(ALPHA).unwrap().links;
            links.into_iter().any(|link| link.name == "r1" && link.state == "up")
        };
        while is_shown(&cluster) && !is_written(&cluster) {
            cluster.sleep_ms(1).await;
        }
        assert!(!is_shown(&cluster) || is_written(&cluster));
        let was_shown = is_shown(&cluster);
        cluster.die(ALPHA, Death::PowerLoss).await;
        say(&cluster, BETA, "group takeover g1 --yes").await;
        wait(&cluster, "beta is the primary", |cluster| {
            cluster.snapshot(BETA).unwrap().groups[0].role == "primary"
        })
        .await;
        let next = cluster.snapshot(BETA).unwrap().groups[0].next_update_number;
        assert!(next > Some(newest), "shown {was_shown}: {next:?}, {newest} was answered");
    });
}

/// Where restore stops by an operator's word a takeover ends there, whatever lies on the relay: nothing says that this copy is level.
#[test]
fn a_copy_whose_restore_stops_is_not_shown_as_synchronised_over_a_relay() {
    in_virtual_time(async {
        let cluster = cluster_with(9, &fence_words("never", 4_000));
        for index in 0..4 {
            cluster.start(index).await;
        }
        wait(&cluster, "beta is normal", |cluster| cluster.is_normal(BETA)).await;
        create_for(&cluster, "r1", "gamma", " --hosts wait").await;
        let is_shown = |cluster: &Cluster| state(cluster, BETA) == SYNCHRONISED;
        wait(&cluster, "the copy shows it", is_shown).await;
        say(&cluster, BETA, "group restore g1 --until now").await;
        for lba in 0..20 {
            assert!(one_write(&cluster, lba).await.1.is_ok());
            assert!(!is_shown(&cluster), "a takeover ends at the stop: {}", cluster.state());
            cluster.sleep_ms(200).await;
        }
        say(&cluster, BETA, "group restore g1 --go-on").await;
        wait(&cluster, "the copy shows it again", is_shown).await;
    });
}

/// Hosts wait for two relays, of which the copy reaches one, and by that one it shows itself: what only the other one has is answered when it does not do
/// so any more.
#[test]
fn a_copy_that_shows_itself_by_one_relay_lacks_nothing_that_only_the_other_one_has() {
    for way in [Way::Silent, Way::Cut] {
        in_virtual_time(async {
            let cluster = cluster_with(11, &fence_words("never", 4_000));
            for index in 0..4 {
                cluster.start(index).await;
            }
            wait(&cluster, "beta is normal", |cluster| cluster.is_normal(BETA)).await;
            create_for(&cluster, "r1", "gamma", " --hosts wait").await;
            create_for(&cluster, "r2", "delta", " --hosts wait").await;
            let is_shown = |cluster: &Cluster| state(cluster, BETA) == SYNCHRONISED;
            wait(&cluster, "the copy shows it", is_shown).await;
            assert!(one_write(&cluster, 3).await.1.is_ok());
            cluster.set_way("beta", "delta", Way::Cut);
            cluster.set_way("alpha", "beta", Way::Cut);
            cluster.sleep_ms(5_000).await;
            let is_written = |cluster: &Cluster| {
                let links = cluster.snapshot(ALPHA).unwrap().links;
                ["r1", "r2"]
                    .iter()
                    .all(|name| links.iter().any(|link| link.name == *name && link.state == "up"))
            };
            wait(&cluster, "both relays are written, and one is shown", |cluster| {
                is_shown(cluster) && is_written(cluster)
            })
            .await;
            cluster.set_way("alpha", "gamma", way);
            let (took_ms, outcome) = one_write(&cluster, 4).await;
            assert!(outcome.is_ok() && took_ms < 4_000, "{way:?}: {took_ms} ms: {outcome:?}");
            assert!(!is_shown(&cluster), "{way:?}: r1 lacks it ({took_ms} ms): {}", cluster.state());
            assert_eq!(state(&cluster, ALPHA), SYNCHRONISED, "it lies on r2");
            let (took_ms, outcome) = one_write(&cluster, 5).await;
            assert!(outcome.is_ok() && took_ms < 100, "{way:?}: {took_ms} ms: {outcome:?}");
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
