//! An upstream array before the primary (promise T2, figure 23): gamma takes the hosts' writes and forwards them to alpha,
//! whose journal beta reads. All three die at random, all ways are cut, slowed and silenced, while hosts write at gamma.
//!
//! What is checked against what hosts at *gamma* were answered: every takeover of beta finds one moment of all volumes;
//! nothing that was answered is lost by gamma while it does not go on alone; and at the end all three are equal, byte for
//! byte, without an operator.

use crate::cluster::{ALPHA, ARRAYS, Cluster, Death, EIGHT, Shape, Takeover, Way, target_name};
use crate::in_virtual_time;
use crate::port::SimPort;
use crate::story::geometry_of;
use crate::support::random::{Random, number_from_environment};
use crate::support::wof::{
    DurableRule, Observed, Plan, SECTOR_BYTES, Until, Writer, check_crash, check_prefix, lost_writes,
    read_image,
};
use std::cell::Cell;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};

const BETA: usize = 1;
/// The upstream array.
pub(crate) const GAMMA: usize = 2;

/// What becomes of writes that cannot be forwarded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fence {
    Never,
    Data,
}

/// Whether there are units behind alpha's volumes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Primary {
    /// Figure 23.
    Real,
    /// Figure 24.
    Virtual,
}

pub(crate) fn config_text(
    index: usize,
    shape: Shape,
    (fence, primary): (Fence, Primary),
    random: &mut Random,
) -> String {
    let (name, number) = (ARRAYS[index], index + 1);
    let prefix = ["data", "copy", "org"][index];
    let unit_mib = ((shape.volume_kib * u64::from(shape.volumes) + shape.journal_kib) / 2048 + 8).max(16);
    let mut text = format!(
        "[array]\nnumber = {number}\nname = \"{name}\"\ndata_dir = \"/{name}\"\n[cache]\nmemory = \"96MiB\"\n\
         [[portal]]\nlisten = \"0.0.0.0:3260\"\nserves = [\"hosts\", \"arrays\"]\n\
         [[portal]]\nlisten = \"0.0.0.0:3261\"\nserves = [\"hosts\"]\ngroup = 2\n\
         [[provision.parity_group]]\nname = \"pg0\"\nlevel = \"raid5\"\nstripe_unit = \"64KiB\"\nunits = [\n"
    );
    for unit in 0..3 {
        writeln!(text, "  {{ path = \"/{name}/u{unit}\", size = \"{unit_mib}MiB\" }},").unwrap();
    }
    text += "]\n";
    let mut luns = Vec::new();
    for volume in 1..=shape.volumes {
        let place = match (index, primary) {
            (ALPHA, Primary::Virtual) => "virtual = true",
            _ => "parity_group = \"pg0\"\nthin = true",
        };
        writeln!(
            text,
            "[[provision.volume]]\nname = \"{prefix}{volume}\"\n{place}\nsize = \"{}KiB\"",
            shape.volume_kib
        )
        .unwrap();
        luns.push(format!("{{ lun = {volume}, volume = \"{prefix}{volume}\" }}"));
    }
    writeln!(
        text,
        "[[provision.target]]\niqn = \"{}\"\ninitiators = [\"*\"]\nluns = [{}]",
        target_name(name),
        luns.join(", ")
    )
    .unwrap();
    let others: &[usize] = if index == ALPHA { &[BETA, GAMMA] } else { &[ALPHA] };
    for &other in others {
        writeln!(
            text,
            "[[provision.link]]\nname = \"{0}\"\narray = {1}\nportal = [\"{0}:3260\"]\nsecret = \"a secret of simulations\"",
            ARRAYS[other],
            other + 1
        )
        .unwrap();
    }
    if index != GAMMA {
        writeln!(
            text,
            "[[provision.volume]]\nname = \"jnl\"\nparity_group = \"pg0\"\nsize = \"{}KiB\"",
            shape.journal_kib
        )
        .unwrap();
    }
    let mut pairs = |group: &str, pvol: &str, svol: &str, copy: &str| {
        for volume in 1..=shape.volumes {
            writeln!(
                text,
                "[[provision.pair]]\nname = \"{group}-{volume}\"\ngroup = \"{group}\"\npvol = \"{pvol}{volume}\"\n\
                 svol = \"{svol}{volume}\"\ncopy = \"{copy}\""
            )
            .unwrap();
        }
    };
    match index {
        ALPHA => {
            pairs("g1", "data", "beta:copy", "async");
            text += "[[provision.group]]\nname = \"g1\"\nsvol_access = \"read\"\n\
                 [[provision.journal]]\ngroup = \"g1\"\nvolume = \"jnl\"\n\
                 [[provision.journal]]\ngroup = \"g1\"\nvolume = \"jnl\"\nat = \"beta\"\n";
        }
        GAMMA => {
            pairs("up", "org", "alpha:data", "sync");
            let (fence, wait) = match fence {
                Fence::Never => ("never", [50, 400, 1500][random.index(3)]),
                Fence::Data => ("data", 700),
            };
            writeln!(
                text,
                "[[provision.group]]\nname = \"up\"\nsvol_access = \"read\"\nfence = \"{fence}\"\nfence_wait = \"{wait}ms\""
            )
            .unwrap();
        }
        _ => {}
    }
    text
}

/// What a seed came to.
#[derive(Clone, Copy, Default, Debug)]
struct Sum {
    acknowledged: u64,
    takeovers: u64,
    most_lost: u64,
    deaths: u64,
    alone: u64,
}

pub(crate) struct Story {
    pub(crate) cluster: Cluster,
    random: Random,
    fence: Fence,
    pub(crate) writer: Writer,
    ports: Vec<SimPort>,
    queue_depth: usize,
    /// Copies below this number may hold what a crash of gamma has undone.
    comparable_from: u64,
    sum: Sum,
}

impl Story {
    pub(crate) fn new(seed: u64, shape: Shape, fence: Fence, primary: Primary) -> Self {
        let cluster = Cluster::with(seed, shape, |index, shape, random| {
            config_text(index, shape, (fence, primary), random)
        });
        let mut random = Random::new(seed ^ 0x75_7073_7472);
        let queue_depth = [1, 8, 32][usize::try_from(seed % 3).unwrap()];
        let writer = Writer::new(seed, Plan::mixed(seed, geometry_of(shape)));
        let think_ms = [0, 10, 60][random.index(3)];
        let ports = (1..=4)
            .map(|number| SimPort::new(&cluster, "host", number, GAMMA).thinking_ms(think_ms))
            .collect();
        let sum = Sum::default();
        Self { cluster, random, fence, writer, ports, queue_depth, comparable_from: 0, sum }
    }

    async fn tell(&mut self) -> Sum {
        let mut order = [0, 1, 2];
        order.swap(0, self.random.index(3));
        for index in order {
            self.cluster.start(index).await;
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
            trouble(&self.cluster, &mut random, self.fence).await;
            is_over.set(true);
            let mut looks = Vec::new();
            if dies {
                self.cluster.die(GAMMA, any_death(&mut random)).await;
                // The moment that copies are for: what alpha has goes on to beta.
                looks.extend(self.cluster.take_over(BETA, any_death(&mut random)).await);
            }
            stop.store(true, Ordering::Relaxed);
            looks
        };
        let (summary, mut looks, last) = tokio::join!(running, observing, trouble);
        assert_eq!(summary.violations, [], "reads while writing");
        self.sum.acknowledged += summary.acknowledged;
        self.cluster.note(format!("{} commands, {} retries", summary.acknowledged, summary.retries));
        looks.extend(last);
        looks.into_iter().for_each(|look| self.check_takeover(&look));
        if dies {
            self.sum.deaths += 1;
            self.recover().await;
        }
    }

    fn check_takeover(&mut self, look: &Takeover) {
        if look.restored < self.comparable_from {
            return;
        }
        let log = self.writer.log();
        let observed = Observed::from_images(log, &look.images);
        let verdict = check_prefix(log, &observed);
        verdict.expect_clean(&format!("a takeover of beta at update {}", look.restored));
        let lost = lost_writes(log, &verdict).len();
        self.sum.most_lost = self.sum.most_lost.max(u64::try_from(lost).unwrap());
        self.sum.takeovers += 1;
    }

    /// Gamma comes back, by itself what it was.
    async fn recover(&mut self) {
        while self.random.percent(30) {
            let (after_ms, death) = (self.random.below(60), any_death(&mut self.random));
            self.cluster.start_and_die(GAMMA, after_ms, death).await;
        }
        self.cluster.start(GAMMA).await;
        let image = self.image_of(GAMMA).await;
        let observed = Observed::from_images(self.writer.log(), &image);
        let rule = match self.fence {
            // It may have gone on alone, as a write-back array does.
            Fence::Never => DurableRule::Flushed,
            Fence::Data => DurableRule::Acknowledged,
        };
        check_crash(self.writer.log(), &observed, rule).expect_clean("after gamma's crash");
        self.writer.resume_after_loss(&observed).unwrap_or_else(|verdict| panic!("after a crash: {verdict}"));
        self.cluster.heal();
        self.settle_writer().await;
        self.in_step().await;
        self.comparable_from = self.cluster.newest().expect("alpha runs");
    }

    /// Until every command that was sent has been acknowledged.
    async fn settle_writer(&mut self) {
        let never = AtomicBool::new(false);
        let since = self.cluster.clock_ms();
        while !self.writer.is_settled() || self.cluster.clock_ms() == since {
            let until = Until { commands: 1, stop: &never };
            let running = self.writer.run(&self.ports, &*self.cluster.clock, self.queue_depth, until);
            let summary = tokio::select! {
                biased;
                summary = running => summary,
                () = self.cluster.sleep_ms(PATIENCE_MS) => panic!("hosts cannot finish: {}", self.cluster.state()),
            };
            assert_eq!(summary.violations, [], "reads while finishing");
            self.sum.acknowledged += summary.acknowledged;
            // Where disks and ways take no time, an array that goes on alone would finish at one instant for ever.
            self.cluster.sleep_ms(1).await;
        }
    }

    /// All pairs of gamma are normal.
    pub(crate) async fn in_step(&self) {
        let since = self.cluster.clock_ms();
        while !self.cluster.is_normal(GAMMA) {
            self.cluster.sleep_ms(50).await;
            assert!(self.cluster.clock_ms() < since + PATIENCE_MS, "not in step: {}", self.cluster.state());
        }
    }

    async fn end(&mut self) {
        self.cluster.note("faults stop");
        self.cluster.heal();
        self.settle_writer().await;
        self.in_step().await;
        let since = self.cluster.clock_ms();
        while !self.is_caught_up() {
            assert!(
                self.cluster.clock_ms() < since + PATIENCE_MS,
                "beta does not catch up: {}",
                self.cluster.state()
            );
            self.cluster.sleep_ms(50).await;
        }
        let upstream = self.image_of(GAMMA).await;
        let log = self.writer.log();
        check_crash(log, &Observed::from_images(log, &upstream), DurableRule::Acknowledged)
            .expect_clean("gamma at the end");
        // What hosts read of virtual volumes at alpha comes from gamma.
        for index in [ALPHA, BETA] {
            let other = self.image_of(index).await;
            for (volume, (ours, theirs)) in upstream.iter().zip(&other).enumerate() {
                let sectors = ours.chunks(SECTOR_BYTES).zip(theirs.chunks(SECTOR_BYTES));
                let differ: Vec<usize> =
                    sectors.enumerate().filter(|(_, (a, b))| a != b).map(|(lba, _)| lba).collect();
                assert!(differ.is_empty(), "volume {volume} at {} differs in {differ:?}", ARRAYS[index]);
            }
        }
        self.sum.alone = self.cluster.array(GAMMA).map_or(0, |array| {
            use holdfast::shell::view::Console;
            let alone =
                |record: &holdfast::shell::view::AuditView| record.what.contains("not forwarded any more");
            u64::try_from(array.audit(1000).iter().filter(|record| alone(record)).count()).unwrap()
        });
    }

    fn is_caught_up(&self) -> bool {
        let Some(newest) = self.cluster.newest() else { return false };
        self.cluster.is_normal(ALPHA) && self.cluster.position(BETA) == Some((newest, newest))
    }

    async fn image_of(&self, index: usize) -> Vec<Vec<u8>> {
        self.cluster.set_way("reader", ARRAYS[index], Way::Up);
        let port = SimPort::new(&self.cluster, "reader", 9, index);
        let since = self.cluster.clock_ms();
        loop {
            match read_image(&port, self.writer.log().geometry()).await {
                Ok(image) => return image,
                Err(error) => assert!(
                    self.cluster.clock_ms() < since + PATIENCE_MS,
                    "{} cannot be read: {error:?}: {}",
                    ARRAYS[index],
                    self.cluster.state()
                ),
            }
            self.cluster.sleep_ms(100).await;
        }
    }
}

/// Some seconds in which things go wrong.
async fn trouble(cluster: &Cluster, random: &mut Random, fence: Fence) {
    for _ in 0..1 + random.below(6) {
        let pause = [3, 30, 300, 2500][random.index(4)];
        cluster.sleep_ms(random.below(pause)).await;
        match random.below(9) {
            0..4 => {
                let ways = [("alpha", "beta"), ("alpha", "gamma"), ("alpha", "gamma"), ("host", "gamma")];
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
            4 => cluster.heal(),
            5..8 => {
                let index = [ALPHA, ALPHA, BETA][random.index(3)];
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
            // With the other fence nothing that was answered may be lost: it does not go on alone.
            _ if fence == Fence::Data => {}
            _ => {
                let line = ["group suspend up", "group resync up"][random.index(2)];
                let _ = cluster.command(GAMMA, line).await;
            }
        }
    }
    cluster.heal();
    // What the operator suspended goes on only when the operator says so.
    cluster.command(GAMMA, "group resync up").await.expect("gamma runs");
}

/// Takes beta over at random moments until it is over, whatever goes on.
async fn observe(cluster: &Cluster, mut random: Random, is_over: &Cell<bool>) -> Vec<Takeover> {
    let mut takeovers = Vec::new();
    while !is_over.get() && takeovers.len() < TAKEOVERS_A_ROUND {
        let pause = [10, 60, 300, 900][random.index(4)];
        cluster.sleep_ms(1 + random.below(pause)).await;
        if !is_over.get() {
            takeovers.extend(cluster.take_over(BETA, any_death(&mut random)).await);
        }
    }
    takeovers
}

fn any_death(random: &mut Random) -> Death {
    if random.percent(40) { Death::Kill } else { Death::PowerLoss }
}

fn run_named(seed: u64, fence: Fence, primary: Primary) -> Sum {
    let shape = Shape { volume_kib: 1024, journal_kib: 12_288, ..EIGHT };
    let outcome = std::panic::catch_unwind(|| {
        in_virtual_time(async { Story::new(seed, shape, fence, primary).tell().await })
    });
    outcome.unwrap_or_else(|cause| {
        eprintln!(
            "seed {seed} failed with {fence:?} {primary:?} (HOLDFAST_UPSTREAM_SEED={seed} HOLDFAST_TRACE=1)"
        );
        std::panic::resume_unwind(cause)
    })
}

fn fence_of(seed: u64) -> Fence {
    if seed.is_multiple_of(4) { Fence::Data } else { Fence::Never }
}

/// Figure 23, steps 2310 to 2330, through everything that can go wrong.
#[test]
fn figure_23_an_upstream_array_keeps_primary_and_auxiliary_in_the_order_of_its_hosts() {
    run_seeds(Primary::Real, 6);
}

/// Figure 24, steps 2410 to 2430: the primary has journals and nothing else.
#[test]
fn figure_24_an_upstream_array_and_a_primary_without_volumes_keep_the_auxiliary_in_order() {
    run_seeds(Primary::Virtual, 4);
}

fn run_seeds(primary: Primary, count: u64) {
    if std::env::var_os("HOLDFAST_UPSTREAM_SEED").is_some() {
        let seed = number_from_environment("HOLDFAST_UPSTREAM_SEED", 1);
        println!("{:?}", run_named(seed, fence_of(seed), primary));
        return;
    }
    let seeds = number_from_environment("HOLDFAST_UPSTREAM_SEEDS", count);
    let first = number_from_environment("HOLDFAST_SIM_FIRST_SEED", 1);
    let mut all = Sum::default();
    for seed in first..first + seeds {
        let sum = run_named(seed, fence_of(seed), primary);
        all.acknowledged += sum.acknowledged;
        all.takeovers += sum.takeovers;
        all.deaths += sum.deaths;
        all.alone += sum.alone;
        all.most_lost = all.most_lost.max(sum.most_lost);
    }
    println!("{primary:?}: {seeds} seeds: {all:?}");
    assert!(seeds < 4 || (all.takeovers > 10 && all.deaths > 1 && all.alone > 0), "too little happened");
}

/// Hosts write in peace.
pub(crate) async fn write(story: &mut Story, commands: u64) {
    let never = AtomicBool::new(false);
    let until = Until { commands, stop: &never };
    let running = story.writer.run(&story.ports, &*story.cluster.clock, 8, until);
    let summary = tokio::select! {
        biased;
        summary = running => summary,
        () = story.cluster.sleep_ms(PATIENCE_MS) => panic!("hosts do not go on: {}", story.cluster.state()),
    };
    assert_eq!(summary.violations, [], "reads while writing");
}

/// Figure 24: the upstream array fails while beta cannot read; later the journal is drained, and nothing that hosts were
/// answered is missing in what a takeover of beta finds. Alpha loses its power in between.
#[test]
fn the_journals_of_virtual_volumes_hold_everything_that_hosts_were_answered_when_upstream_fails() {
    in_virtual_time(async {
        let mut story = Story::new(5, EIGHT, Fence::Data, Primary::Virtual);
        for index in [GAMMA, ALPHA, BETA] {
            story.cluster.start(index).await;
        }
        write(&mut story, 40).await;
        story.in_step().await;
        while story.cluster.position(BETA).is_none() {
            story.cluster.sleep_ms(50).await;
        }
        story.cluster.set_way("alpha", "beta", Way::Cut);
        write(&mut story, 120).await;
        assert!(
            story.cluster.is_normal(GAMMA),
            "with this fence it never goes on alone: {}",
            story.cluster.state()
        );
        story.cluster.die(GAMMA, Death::PowerLoss).await;
        story.cluster.die(ALPHA, Death::PowerLoss).await;
        story.cluster.start(ALPHA).await;
        story.cluster.heal();
        let newest = story.cluster.newest().expect("alpha runs");
        while story.cluster.position(BETA).is_none_or(|(_, restored)| restored < newest) {
            story.cluster.sleep_ms(50).await;
        }
        let found = story.cluster.take_over(BETA, Death::PowerLoss).await.expect("its pairs are normal");
        story.check_takeover(&found);
        assert_eq!((story.sum.takeovers, story.sum.most_lost), (1, 0));
    });
}

/// Overflow with virtual P-VOLs: there is no difference map at alpha, so a full journal makes the upstream array note the
/// differences (O1). Beta comes back, and gets them by itself.
#[test]
fn a_full_journal_of_virtual_volumes_makes_the_upstream_array_note_what_differs() {
    in_virtual_time(async {
        // More volume than journal.
        let shape = Shape { journal_kib: 4096, volume_kib: 2048, ..EIGHT };
        let mut story = Story::new(7, shape, Fence::Never, Primary::Virtual);
        for index in [GAMMA, ALPHA, BETA] {
            story.cluster.start(index).await;
        }
        write(&mut story, 40).await;
        story.in_step().await;
        while story.cluster.position(BETA).is_none() {
            story.cluster.sleep_ms(50).await;
        }
        story.cluster.set_way("alpha", "beta", Way::Cut);
        let mut written = 0;
        while story.cluster.is_normal(GAMMA) {
            write(&mut story, 50).await;
            written += 50;
            assert!(written < 5_000, "the journal never became full");
        }
        write(&mut story, 100).await;
        let pairs = story.cluster.snapshot(GAMMA).expect("it runs").pairs;
        assert!(pairs.iter().all(|pair| pair.state != "normal"), "all of them or none: {pairs:?}");
        assert!(pairs.iter().any(|pair| pair.difference_bytes > 0));
        let alpha = story.cluster.snapshot(ALPHA).expect("it runs").pairs;
        let own = alpha.iter().filter(|pair| pair.copy == "async");
        assert!(own.clone().count() == 8 && own.clone().all(|pair| pair.state == "normal"), "{alpha:?}");
        let behind = story.cluster.take_over(BETA, Death::Kill).await.expect("its pairs are normal");
        story.check_takeover(&behind);
        story.end().await;
    });
}

/// Pairs are taken away while hosts write and the primary says nothing: what is under way ends at gamma alone, in time, and
/// nothing older lands over what hosts write to the plain volumes. Alpha follows when it hears of it.
#[test]
fn pairs_that_are_taken_away_while_the_primary_is_silent_leave_hosts_what_they_wrote() {
    for (seed, fence) in [(3, Fence::Never), (4, Fence::Data)] {
        in_virtual_time(async {
            let mut story = Story::new(seed, EIGHT, fence, Primary::Real);
            for index in [GAMMA, ALPHA, BETA] {
                story.cluster.start(index).await;
            }
            write(&mut story, 40).await;
            story.in_step().await;
            let stop = AtomicBool::new(false);
            {
                let Story { cluster, writer, ports, .. } = &mut story;
                let until = Until { commands: u64::MAX, stop: &stop };
                let running = writer.run(ports, &*cluster.clock, 32, until);
                let trouble = async {
                    cluster.sleep_ms(100).await;
                    cluster.set_way("alpha", "gamma", Way::Silent);
                    cluster.sleep_ms(30).await;
                    let since = cluster.clock_ms();
                    for volume in 1..=cluster.shape.volumes {
                        cluster.command(GAMMA, &format!("pair delete up-{volume} --yes")).await.unwrap();
                    }
                    cluster.command(GAMMA, "group delete up --yes").await.unwrap();
                    while !cluster.snapshot(GAMMA).expect("it runs").groups.is_empty() {
                        assert!(cluster.clock_ms() < since + 2_000, "the owner waits for alpha");
                        cluster.sleep_ms(10).await;
                    }
                    cluster.sleep_ms(300).await;
                    stop.store(true, Ordering::Relaxed);
                };
                let (summary, ()) = tokio::join!(running, trouble);
                assert_eq!(summary.violations, [], "reads while writing");
            }
            story.settle_writer().await;
            story.cluster.heal();
            let is_gone = |cluster: &Cluster| {
                cluster
                    .snapshot(ALPHA)
                    .is_some_and(|alpha| alpha.pairs.iter().all(|pair| pair.copy == "async"))
            };
            let since = story.cluster.clock_ms();
            while !is_gone(&story.cluster) {
                assert!(story.cluster.clock_ms() < since + PATIENCE_MS, "{}", story.cluster.state());
                story.cluster.sleep_ms(50).await;
            }
            story.cluster.sleep_ms(10_000).await;
            let image = story.image_of(GAMMA).await;
            let log = story.writer.log();
            check_crash(log, &Observed::from_images(log, &image), DurableRule::Acknowledged)
                .expect_clean("gamma without its pairs");
        });
    }
}

/// Takeovers of one round at most.
const TAKEOVERS_A_ROUND: usize = 8;
/// Virtual time after which waiting is given up.
const PATIENCE_MS: u64 = 120_000;
