//! A synchronous copy and a third that reads (promises K1 and K2, decision 20): alpha's hosts wait for beta, gamma reads alpha at its
//! own pace. All three die at random, all ways are cut, slowed and silenced, while hosts write.
//!
//! What is checked: whenever beta shows itself as `synchronised`, a takeover of it finds **every write that a host was answered by
//! then**, however beta itself ends in that moment; with the fence `data` that holds without exception once the arrays were together;
//! gamma never has what beta lacks while hosts wait for beta; every takeover finds one moment of all volumes; alpha loses nothing
//! that it should not; and at the end all three are equal, and beta is synchronised again, without an operator.

use crate::cluster::{ALPHA, ARRAYS, Cluster, Death, EIGHT, Shape, Takeover, Way};
use crate::in_virtual_time;
use crate::port::SimPort;
use crate::story::geometry_of;
use crate::support::random::{Random, number_from_environment};
use crate::support::wof::{
    Durability, DurableRule, HostError, HostPort, Observed, Place, Plan, SECTOR_BYTES, Until, Writer,
    check_crash, check_prefix, lost_writes, read_image,
};
use crate::three;
use holdfast::copy::tamper::{SynchronousDefect, Tamper};
use holdfast::shell::view::SynchronousView;
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const BETA: usize = 1;
const GAMMA: usize = 2;
const SYNCHRONISED: &str = "synchronised";

/// How a story goes.
#[derive(Clone, Copy, Debug)]
struct Choice {
    fence: &'static str,
    limit_ms: u64,
    /// The operator suspends and resumes beta's pairs.
    operator: bool,
}

fn choice_of(seed: u64) -> Choice {
    let mut random = Random::new(seed ^ 0x6c69_6d69);
    let fence = ["never", "never", "never", "data", "never", "status"][usize::try_from(seed % 6).unwrap()];
    Choice {
        fence,
        limit_ms: [200, 1000, 3000][random.index(3)],
        operator: fence == "never" && random.percent(40),
    }
}

fn config_text(index: usize, shape: Shape, choice: Choice, random: &mut Random) -> String {
    let text = three::config_text(index, shape, random);
    let wish = format!("fence = \"{}\"\nfence_wait = \"{}ms\"\n", choice.fence, choice.limit_ms);
    let text = text.replace(
        "[[provision.group]]\nname = \"g1\"\nsvol_access = \"read\"\n",
        &format!("[[provision.group]]\nname = \"g1\"\nsvol_access = \"read\"\n{wish}"),
    );
    let mut out = String::new();
    for line in text.lines() {
        out += line;
        out += "\n";
        if line.starts_with("svol = \"beta:") {
            out += "copy = \"sync\"\n";
        }
    }
    out
}

/// What a takeover of beta found, and what beta showed in that moment.
struct Look {
    found: Takeover,
    is_synchronised: bool,
}

/// What a seed came to.
#[derive(Clone, Copy, Default, Debug)]
struct Sum {
    acknowledged: u64,
    takeovers: u64,
    synchronised: u64,
    deaths: u64,
    apart: u64,
}

struct Story {
    cluster: Cluster,
    random: Random,
    choice: Choice,
    writer: Writer,
    ports: Vec<SimPort>,
    queue_depth: usize,
    comparable_from: u64,
    /// Alpha and beta have been together.
    was_together: bool,
    sum: Sum,
}

impl Story {
    fn new(seed: u64, choice: Choice) -> Self {
        let shape = Shape { journal_kib: 8192, ..EIGHT };
        let cluster =
            Cluster::with(seed, shape, |index, shape, random| config_text(index, shape, choice, random));
        let mut random = Random::new(seed ^ 0x7379_6e63);
        let queue_depth = [1, 8, 32][usize::try_from(seed % 3).unwrap()];
        let writer = Writer::new(seed, Plan::mixed(seed, geometry_of(shape)));
        let think_ms = [0, 10, 60][random.index(3)];
        let ports = (1..=4)
            .map(|number| SimPort::new(&cluster, "host", number, ALPHA).thinking_ms(think_ms))
            .collect();
        let sum = Sum::default();
        Self {
            cluster,
            random,
            choice,
            writer,
            ports,
            queue_depth,
            comparable_from: 0,
            was_together: false,
            sum,
        }
    }

    async fn tell(&mut self) -> Sum {
        for index in [ALPHA, BETA, GAMMA] {
            self.cluster.start(index).await;
        }
        if self.random.percent(70) {
            self.come_together().await;
        }
        for _ in 0..2 + self.random.below(3) {
            self.round().await;
        }
        self.end().await;
        self.sum
    }

    async fn round(&mut self) {
        let stop = AtomicBool::new(false);
        let dies = self.random.percent(60);
        let mut random = Random::new(self.random.next_u64());
        let is_over = Cell::new(false);
        let until = Until { commands: 500, stop: &stop };
        let observing = observe(&self.cluster, Random::new(self.random.next_u64()), &is_over);
        let running = self.writer.run(&self.ports, &*self.cluster.clock, self.queue_depth, until);
        let trouble = async {
            trouble(&self.cluster, &mut random, self.choice).await;
            is_over.set(true);
            let mut looks = Vec::new();
            if dies {
                self.cluster.die(ALPHA, any_death(&mut random)).await;
                // The moment that copies are for.
                looks.extend(look(&self.cluster, any_death(&mut random)).await);
                self.cluster.sleep_ms(random.below(self.choice.limit_ms * 2)).await;
                looks.extend(look(&self.cluster, any_death(&mut random)).await);
            }
            stop.store(true, Ordering::Relaxed);
            looks
        };
        let (summary, mut looks, last) = tokio::join!(running, observing, trouble);
        assert_eq!(summary.violations, [], "reads while writing");
        self.sum.acknowledged += summary.acknowledged;
        self.cluster.note(format!(
            "{} commands, {} retries {:?}",
            summary.acknowledged, summary.retries, summary.refusals
        ));
        looks.extend(last);
        looks.into_iter().for_each(|look| self.check(&look));
        if dies {
            self.sum.deaths += 1;
            self.recover().await;
        }
        for index in [BETA, GAMMA] {
            if !self.cluster.runs(index) {
                self.cluster.start(index).await;
            }
        }
    }

    fn check(&mut self, look: &Look) {
        let found = &look.found;
        if found.restored < self.comparable_from {
            return;
        }
        let log = self.writer.log();
        let observed = Observed::from_images(log, &found.images);
        let verdict = check_prefix(log, &observed);
        let what = format!("a takeover of beta at update {}", found.restored);
        verdict.expect_clean(&what);
        self.sum.takeovers += 1;
        // With the fence `data` nothing is ever answered alone.
        let is_never_alone = self.was_together && self.choice.fence == "data";
        if !look.is_synchronised && !is_never_alone {
            return;
        }
        self.sum.synchronised += u64::from(look.is_synchronised);
        let lost = lost_writes(log, &verdict).into_iter().filter_map(|id| log.entry(id));
        let lost: Vec<_> = lost.filter(|entry| entry.acked_ns < found.at_ns).collect();
        assert!(
            lost.is_empty(),
            "{what} ({look:?}) lacks what was answered: {lost:?}",
            look = look.is_synchronised
        );
    }

    /// Alpha comes back, by itself what it was.
    async fn recover(&mut self) {
        while self.random.percent(30) {
            let (after_ms, death) = (self.random.below(60), any_death(&mut self.random));
            self.cluster.start_and_die(ALPHA, after_ms, death).await;
        }
        self.cluster.start(ALPHA).await;
        let image = self.image_of(ALPHA).await;
        let observed = Observed::from_images(self.writer.log(), &image);
        let rule = match self.choice.fence {
            "data" if self.was_together => DurableRule::Acknowledged,
            // It may have gone on alone, as a write-back array does.
            _ => DurableRule::Flushed,
        };
        check_crash(self.writer.log(), &observed, rule).expect_clean("after alpha's crash");
        self.writer.resume_after_loss(&observed).unwrap_or_else(|verdict| panic!("after a crash: {verdict}"));
        self.cluster.heal();
        for index in [BETA, GAMMA] {
            if !self.cluster.runs(index) {
                self.cluster.start(index).await;
            }
        }
        self.settle_writer().await;
        self.comparable_from = self.cluster.newest().expect("alpha runs");
    }

    /// Until every command that was sent has been acknowledged.
    async fn settle_writer(&mut self) {
        let never = AtomicBool::new(false);
        while !self.writer.is_settled() {
            let until = Until { commands: 1, stop: &never };
            let running = self.writer.run(&self.ports, &*self.cluster.clock, self.queue_depth, until);
            let summary = tokio::select! {
                biased;
                summary = running => summary,
                () = self.cluster.sleep_ms(PATIENCE_MS) => panic!("hosts cannot finish: {}", self.cluster.state()),
            };
            assert_eq!(summary.violations, [], "reads while finishing");
            self.sum.acknowledged += summary.acknowledged;
            self.cluster.sleep_ms(1).await;
        }
    }

    async fn come_together(&mut self) {
        let since = self.cluster.clock_ms();
        while !(shows(&self.cluster, ALPHA) && shows(&self.cluster, BETA)) {
            self.cluster.sleep_ms(50).await;
            assert!(
                self.cluster.clock_ms() < since + PATIENCE_MS,
                "not synchronised: {}",
                self.cluster.state()
            );
        }
        self.was_together = true;
    }

    async fn end(&mut self) {
        self.cluster.note("faults stop");
        self.cluster.heal();
        self.settle_writer().await;
        self.come_together().await;
        let since = self.cluster.clock_ms();
        while !self.is_caught_up() {
            let is_late = self.cluster.clock_ms() >= since + PATIENCE_MS;
            assert!(!is_late, "the copies do not catch up: {}", self.cluster.state());
            self.cluster.sleep_ms(50).await;
        }
        let first = self.image_of(ALPHA).await;
        let log = self.writer.log();
        check_crash(log, &Observed::from_images(log, &first), DurableRule::Acknowledged)
            .expect_clean("alpha at the end");
        for index in [BETA, GAMMA] {
            let other = self.image_of(index).await;
            for (volume, (ours, theirs)) in first.iter().zip(&other).enumerate() {
                let sectors = ours.chunks(SECTOR_BYTES).zip(theirs.chunks(SECTOR_BYTES));
                let differ = sectors.enumerate().filter(|(_, (a, b))| a != b).map(|(lba, _)| lba);
                let differ: Vec<usize> = differ.collect();
                assert!(differ.is_empty(), "volume {volume} at {} differs in {differ:?}", ARRAYS[index]);
            }
        }
        self.sum.apart = self.cluster.array(ALPHA).map_or(0, |array| {
            use holdfast::shell::view::Console;
            let records = array.audit(10_000);
            let apart =
                records.iter().filter(|record| record.what.contains("answered without its synchronous copy"));
            u64::try_from(apart.count()).unwrap()
        });
    }

    fn is_caught_up(&self) -> bool {
        let Some(newest) = self.cluster.newest() else { return false };
        let has_all = |index| self.cluster.position(index) == Some((newest, newest));
        self.cluster.is_normal(ALPHA) && has_all(BETA) && has_all(GAMMA)
    }

    async fn image_of(&self, index: usize) -> Vec<Vec<u8>> {
        self.cluster.set_way("reader", ARRAYS[index], Way::Up);
        let port = SimPort::new(&self.cluster, "reader", 9, index);
        let since = self.cluster.clock_ms();
        loop {
            match read_image(&port, self.writer.log().geometry()).await {
                Ok(image) => return image,
                Err(error) => {
                    let is_late = self.cluster.clock_ms() >= since + PATIENCE_MS;
                    assert!(
                        !is_late,
                        "{} cannot be read: {error:?}: {}",
                        ARRAYS[index],
                        self.cluster.state()
                    );
                }
            }
            self.cluster.sleep_ms(100).await;
        }
    }
}

fn standing(cluster: &Cluster, index: usize) -> Option<SynchronousView> {
    cluster.snapshot(index)?.groups.first()?.synchronous.clone()
}

fn shows(cluster: &Cluster, index: usize) -> bool {
    standing(cluster, index).is_some_and(|view| view.state == SYNCHRONISED)
}

/// What a takeover of beta finds in this moment.
async fn look(cluster: &Cluster, death: Death) -> Option<Look> {
    let is_synchronised = shows(cluster, BETA);
    let found = cluster.take_over(BETA, death).await;
    assert!(
        found.is_some() || !is_synchronised,
        "it said that it was synchronised, and there is nothing to take over"
    );
    Some(Look { found: found?, is_synchronised })
}

/// While hosts wait for beta, gamma has nothing that beta lacks.
fn check_third(cluster: &Cluster) {
    let waits =
        standing(cluster, ALPHA).is_some_and(|view| !matches!(view.state.as_str(), "apart" | "joining"));
    if let (true, Some((second, _)), Some((third, _))) =
        (waits, cluster.position(BETA), cluster.position(GAMMA))
    {
        assert!(third <= second, "gamma has {third}, beta only {second}: {}", cluster.state());
    }
}

/// Some seconds in which things go wrong.
async fn trouble(cluster: &Cluster, random: &mut Random, choice: Choice) {
    for _ in 0..1 + random.below(6) {
        let pause = [3, 30, 300, 2500][random.index(4)];
        cluster.sleep_ms(random.below(pause)).await;
        match random.below(10) {
            0..5 => {
                let ways = [("alpha", "beta"), ("alpha", "beta"), ("alpha", "gamma"), ("host", "alpha")];
                let (a, b) = ways[random.index(ways.len())];
                let bad = [Way::Cut, Way::Silent, Way::DeafThere, Way::DeafBack, Way::Slow];
                let way = bad[random.index(bad.len())];
                cluster.note(format!("{a}-{b} {way:?}"));
                cluster.set_way(a, b, way);
                if random.percent(60) {
                    let lasts = [20, 500, 4000][random.index(3)];
                    cluster.sleep_ms(random.below(lasts)).await;
                    cluster.note(format!("{a}-{b} up"));
                    cluster.set_way(a, b, Way::Up);
                }
            }
            5 => cluster.heal(),
            6..9 => {
                let index = [BETA, BETA, GAMMA][random.index(3)];
                if cluster.runs(index) {
                    cluster.die(index, any_death(random)).await;
                    cluster.sleep_ms(random.below(1200)).await;
                }
                if random.percent(20) {
                    let (after_ms, death) = (random.below(40), any_death(random));
                    cluster.start_and_die(index, after_ms, death).await;
                }
                cluster.start(index).await;
            }
            _ if !choice.operator => {}
            _ => {
                let line =
                    ["group suspend g1 --reader beta", "group resync g1 --reader beta"][random.index(2)];
                let _ = cluster.command(ALPHA, line).await;
            }
        }
    }
    cluster.heal();
    if choice.operator {
        // What the operator suspended goes on only when the operator says so.
        let _ = cluster.command(ALPHA, "group resync g1 --reader beta").await;
    }
}

/// Takes beta over at random moments until it is over, whatever goes on.
async fn observe(cluster: &Cluster, mut random: Random, is_over: &Cell<bool>) -> Vec<Look> {
    let mut looks = Vec::new();
    while !is_over.get() && looks.len() < TAKEOVERS_A_ROUND {
        for _ in 0..1 + random.below(10) {
            let pause = [10, 60, 200][random.index(3)];
            cluster.sleep_ms(1 + random.below(pause)).await;
            check_third(cluster);
        }
        if !is_over.get() {
            looks.extend(look(cluster, any_death(&mut random)).await);
        }
    }
    looks
}

fn any_death(random: &mut Random) -> Death {
    if random.percent(40) { Death::Kill } else { Death::PowerLoss }
}

fn run_named(seed: u64, tamper: Option<(usize, SynchronousDefect)>) -> Sum {
    let choice = choice_of(seed);
    let outcome = std::panic::catch_unwind(|| {
        in_virtual_time(async {
            let mut story = Story::new(seed, choice);
            if let Some((index, defect)) = tamper {
                story.cluster.plant(index, Arc::new(Planted(defect)));
            }
            story.tell().await
        })
    });
    outcome.unwrap_or_else(|cause| {
        if tamper.is_none() {
            eprintln!(
                "seed {seed} failed with {choice:?} (HOLDFAST_SYNCHRONOUS_SEED={seed} HOLDFAST_TRACE=1)"
            );
        }
        std::panic::resume_unwind(cause)
    })
}

/// Claims 1 to 15 of the document on three data centres, through everything that can go wrong.
#[test]
fn what_was_answered_is_at_the_second_array_whenever_it_says_that_it_is_synchronised() {
    if std::env::var_os("HOLDFAST_SYNCHRONOUS_SEED").is_some() {
        println!("{:?}", run_named(number_from_environment("HOLDFAST_SYNCHRONOUS_SEED", 1), None));
        return;
    }
    let seeds = number_from_environment("HOLDFAST_SYNCHRONOUS_SEEDS", 6);
    let first = number_from_environment("HOLDFAST_SIM_FIRST_SEED", 1);
    let mut all = Sum::default();
    for seed in first..first + seeds {
        let sum = run_named(seed, None);
        all.acknowledged += sum.acknowledged;
        all.takeovers += sum.takeovers;
        all.synchronised += sum.synchronised;
        all.deaths += sum.deaths;
        all.apart += sum.apart;
    }
    println!("{seeds} seeds: {all:?}");
    let happened = all.synchronised > 10 && all.deaths > 1 && all.apart > 0;
    assert!(seeds < 6 || happened, "too little happened: {all:?}");
}

/// The defect, at the array that gets it.
#[derive(Debug)]
pub(super) struct Planted(pub(super) SynchronousDefect);

impl Tamper for Planted {
    fn synchronous(&self) -> Option<SynchronousDefect> {
        Some(self.0)
    }
}

/// The story is worth what its checks find.
#[test]
fn each_defect_planted_in_a_synchronous_copy_is_found() {
    // Each begins with a seed that was seen to find it.
    for (index, first, defect) in [
        (ALPHA, 1, SynchronousDefect::AnsweredEarly),
        (BETA, 1, SynchronousDefect::ConfirmedEarly),
        (BETA, 6, SynchronousDefect::GapAccepted),
        (BETA, 4, SynchronousDefect::LeaseKept),
    ] {
        let is_found = (first..first + 12).any(|seed| {
            let told = std::panic::catch_unwind(|| run_named(seed, Some((index, defect))));
            told.is_err_and(|cause| {
                let text = cause.downcast_ref::<String>().cloned().unwrap_or_default();
                println!("{defect:?}, seed {seed}: {}", text.lines().next().unwrap_or_default());
                text.contains("lacks what was answered") || text.contains("gamma has")
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

async fn until(cluster: &Cluster, what: &str, condition: impl Fn() -> bool) {
    let since = cluster.clock_ms();
    while !condition() {
        assert!(cluster.clock_ms() < since + PATIENCE_MS, "{what}: {}", cluster.state());
        cluster.sleep_ms(5).await;
    }
}

fn state(cluster: &Cluster, index: usize) -> String {
    standing(cluster, index).map(|view| view.state).unwrap_or_default()
}

/// I4, L1, L2 and L5 of the failure model: hosts wait no longer than the limit, then the fence decides, and it comes back by itself.
#[test]
fn hosts_wait_for_a_lost_link_no_longer_than_the_limit_and_then_the_fence_decides() {
    for (fence, way) in [
        ("never", Way::Silent),
        ("never", Way::Cut),
        ("never", Way::DeafThere),
        ("data", Way::Silent),
        ("status", Way::DeafBack),
        ("status", Way::Cut),
    ] {
        in_virtual_time(async {
            let choice = Choice { fence, limit_ms: 1000, operator: false };
            let mut story = Story::new(8, choice);
            for index in [ALPHA, BETA, GAMMA] {
                story.cluster.start(index).await;
            }
            story.come_together().await;
            let cluster = &story.cluster;
            let (took_ms, outcome) = one_write(cluster, 3).await;
            assert!(outcome.is_ok() && took_ms < 60, "{took_ms} ms: {outcome:?}");
            cluster.set_way("alpha", "beta", way);
            cluster.sleep_ms(600).await;
            assert!(!shows(cluster, BETA), "the lease is half of the limit");
            let (took_ms, outcome) = one_write(cluster, 4).await;
            assert!(took_ms < 1100, "{fence} {way:?}: {took_ms} ms");
            match outcome {
                Ok(()) => {
                    assert_eq!((fence, state(cluster, ALPHA).as_str()), ("never", "apart"));
                    let (took_ms, outcome) = one_write(cluster, 5).await;
                    assert!(outcome.is_ok() && took_ms < 60, "it is answered alone: {took_ms} ms");
                }
                Err(HostError::Refused { key, code }) => {
                    assert_eq!((key, code), (0x02, 0x0403), "NOT READY");
                    assert!(fence != "never" && state(cluster, ALPHA) == "refused", "{}", cluster.state());
                    let (took_ms, outcome) = one_write(cluster, 5).await;
                    assert!(outcome.is_err() && took_ms < 60, "it is refused at once: {took_ms} ms");
                }
                Err(error) => panic!("{error:?}"),
            }
            cluster.heal();
            story.come_together().await;
            let (took_ms, outcome) = one_write(&story.cluster, 6).await;
            assert!(outcome.is_ok() && took_ms < 60, "{took_ms} ms: {outcome:?}");
        });
    }
}

/// With the fence `status` hosts go on alone when the second lives and has been told, though it takes no updates: its journal has
/// failed, say. An operator opens a group with the fence `data` by suspending the pairs.
#[test]
fn an_operator_lets_hosts_go_on_that_a_fence_has_stopped() {
    in_virtual_time(async {
        let choice = Choice { fence: "data", limit_ms: 1000, operator: false };
        let mut story = Story::new(8, choice);
        for index in [ALPHA, BETA, GAMMA] {
            story.cluster.start(index).await;
        }
        story.come_together().await;
        let cluster = &story.cluster;
        cluster.die(BETA, Death::PowerLoss).await;
        assert!(one_write(cluster, 4).await.1.is_err());
        // A restart of alpha changes nothing.
        cluster.die(ALPHA, Death::PowerLoss).await;
        cluster.start(ALPHA).await;
        assert!(one_write(cluster, 5).await.1.is_err());
        cluster.command(ALPHA, "group suspend g1 --reader beta").await.expect("it can be suspended");
        until(cluster, "hosts are answered alone", || state(cluster, ALPHA) == "apart").await;
        assert_eq!(one_write(cluster, 6).await.1, Ok(()));
        cluster.start(BETA).await;
        until(cluster, "beta hears of it", || state(cluster, BETA) == "unknown").await;
        cluster.command(ALPHA, "group resync g1 --reader beta").await.expect("it can be copied again");
        story.come_together().await;
    });
}

/// Takeovers of one round at most.
const TAKEOVERS_A_ROUND: usize = 8;
/// Virtual time after which waiting is given up.
const PATIENCE_MS: u64 = 120_000;
