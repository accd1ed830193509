//! Journals through a third array (promises X1 to X6, decision 21): the third and the fourth are targets with plain volumes,
//! which know nothing of groups. Everything dies and comes back, every way is cut, silenced and slowed; what a takeover
//! finds is one moment of the primary, and at the end the copy is equal, byte for byte.

use crate::cluster::{ALPHA, Cluster, Death, Takeover, Way, target_name};
use crate::in_virtual_time;
use crate::port::SimPort;
use crate::readers::{say, wait, write};
use crate::story::geometry_of;
use crate::support::random::{Random, number_from_environment};
use crate::support::wof::{
    DurableRule, Observed, Plan, Until, Verdict, Writer, check_crash, check_monotone, check_prefix,
    read_image,
};
use crate::tree::{SMALL, Tree};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) const BETA: usize = 1;
pub(crate) const GAMMA: usize = 2;
pub(crate) const DELTA: usize = 3;
pub(crate) const WAYS: [(&str, &str); 5] =
    [("alpha", "beta"), ("alpha", "gamma"), ("beta", "gamma"), ("alpha", "delta"), ("beta", "delta")];

/// A primary, a copy, and two targets; the journal LUNs are so small that they are written again and again.
pub(crate) fn cluster(seed: u64) -> Cluster {
    cluster_with(seed, "")
}

/// With more words for the group.
pub(crate) fn cluster_with(seed: u64, group: &str) -> Cluster {
    cluster_of(seed, |text| text.replace(GROUP, &format!("{GROUP}{group}")))
}

/// With another configuration of the primary.
pub(crate) fn cluster_of(seed: u64, change: impl Fn(String) -> String) -> Cluster {
    let tree = Tree::star(1);
    let cluster = Cluster::of(seed, SMALL, 4, &WAYS, |index, shape, random| match index {
        GAMMA => target_config("gamma", 3, 1024 + 512 * random.below(3)),
        DELTA => target_config("delta", 4, 2048),
        ALPHA => change(tree.config(index, shape, random)),
        _ => tree.config(index, shape, random),
    });
    cluster.readers.set(1);
    cluster
}

pub(crate) const GROUP: &str = "[[provision.group]]\nname = \"g1\"\n";

pub(crate) fn target_config(name: &str, number: u32, journal_kib: u64) -> String {
    let volume = |volume: &str, kib: u64| {
        format!(
            "[[provision.volume]]\nname = \"{volume}\"\nparity_group = \"pg0\"\nsize = \"{kib}KiB\"\nthin = true\n"
        )
    };
    // Each LUN is written by one side, and only read by the other one (claim 4).
    let readers = |array: &str| format!(", read_only_for = [\"iqn.2026-11.io.holdfast:{array}.relay\"]");
    let (for_alpha, for_beta) = (readers("alpha"), readers("beta"));
    format!(
        "[array]\nnumber = {number}\nname = \"{name}\"\ndata_dir = \"/{name}\"\n[cache]\nmemory = \"32MiB\"\n\
         [[portal]]\nlisten = \"0.0.0.0:3260\"\nserves = [\"hosts\"]\n\
         [[provision.parity_group]]\nname = \"pg0\"\nlevel = \"raid0\"\nstripe_unit = \"64KiB\"\n\
         units = [{{ path = \"/{name}/u0\", size = \"24MiB\" }}]\n{}{}{}\
         [[provision.target]]\niqn = \"{}\"\ninitiators = [\"*\"]\n\
         luns = [{{ lun = 1, volume = \"rj\"{for_beta} }}, {{ lun = 2, volume = \"rf\"{for_beta} }}, {{ lun = 3, volume = \"rs\"{for_alpha} }}]\n",
        volume("rj", journal_kib),
        volume("rf", 1024),
        volume("rs", 1024),
        target_name(name)
    )
}

pub(crate) async fn create(cluster: &Cluster, relay: &str, target: &str) {
    create_for(cluster, relay, target, "").await;
}

/// With more words at the first array.
pub(crate) async fn create_for(cluster: &Cluster, relay: &str, target: &str, more: &str) {
    create_with(cluster, relay, target, [more, ""]).await;
}

/// With more words at each array.
pub(crate) async fn create_with(cluster: &Cluster, relay: &str, target: &str, more: [&str; 2]) {
    for (index, other, side, more) in [(ALPHA, 2, "first", more[0]), (BETA, 1, "second", more[1])] {
        let iqn = target_name(target);
        let line = format!(
            "link create {relay} --array {other} --portal {target}:3260 --target {iqn} --group g1 --luns 1,2,3 --as {side}{more}"
        );
        say(cluster, index, &line).await;
    }
}

pub(crate) fn reads_over(cluster: &Cluster) -> String {
    let group = cluster.snapshot(BETA).and_then(|snapshot| snapshot.groups.first().cloned());
    group.and_then(|group| group.follows).map(|follows| follows.reads_over).unwrap_or_default()
}

pub(crate) fn has_everything(cluster: &Cluster) -> bool {
    let newest = cluster.newest();
    newest.is_some() && cluster.position(BETA) == newest.map(|newest| (newest, newest))
}

pub(crate) async fn equal(cluster: &Cluster) {
    wait(cluster, "the copy has everything", has_everything).await;
    let top = cluster.array(ALPHA).expect("it runs");
    for (volume, copy) in (1..).zip(cluster.visible_copies(BETA).await) {
        let data = top.read_volume(&format!("data{volume}")).await.expect("it can be read");
        assert!(copy == data, "volume {volume} differs");
    }
}

pub(crate) async fn running(seed: u64) -> (Cluster, Writer, Vec<SimPort>) {
    let cluster = cluster(seed);
    for index in 0..4 {
        cluster.start(index).await;
    }
    let writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SMALL)));
    let ports = (1..=2).map(|number| SimPort::new(&cluster, "host", number, ALPHA).thinking_ms(4)).collect();
    wait(&cluster, "beta is normal", |cluster| cluster.is_normal(BETA)).await;
    (cluster, writer, ports)
}

#[test]
fn a_copy_is_kept_over_a_relay_alone() {
    for seed in 1..=4 {
        in_virtual_time(async {
            let (cluster, mut writer, ports) = running(seed).await;
            write(&cluster, &mut writer, &ports, 100).await;
            create(&cluster, "r1", "gamma").await;
            wait(&cluster, "it is read over the relay", |cluster| reads_over(cluster) == "r1").await;
            // Nothing passes between the two arrays any more: journals, reports and what is freed go over the relay.
            cluster.set_way("alpha", "beta", Way::Cut);
            write(&cluster, &mut writer, &ports, 800).await;
            equal(&cluster).await;
            let freed = |cluster: &Cluster| {
                let reader = cluster.snapshot(ALPHA).unwrap().groups[0].readers[0].clone();
                Some(reader.restored_update_number) == cluster.newest()
            };
            wait(&cluster, "the primary knows", freed).await;
            // The relay is lost, too: nothing moves, and no pair changes its state.
            cluster.die(GAMMA, Death::PowerLoss).await;
            write(&cluster, &mut writer, &ports, 50).await;
            cluster.sleep_ms(3_000).await;
            assert!(!has_everything(&cluster) && cluster.is_normal(BETA));
            // It comes back, and what it may have lost is sent again.
            cluster.start(GAMMA).await;
            equal(&cluster).await;
        });
    }
}

#[test]
fn a_relay_that_is_lost_is_replaced_by_the_direct_way_or_by_a_fourth_array() {
    for seed in 1..=4 {
        in_virtual_time(async {
            let (cluster, mut writer, ports) = running(seed).await;
            create(&cluster, "r1", "gamma").await;
            wait(&cluster, "it is read over the relay", |cluster| reads_over(cluster) == "r1").await;
            write(&cluster, &mut writer, &ports, 100).await;
            cluster.die(GAMMA, Death::Kill).await;
            write(&cluster, &mut writer, &ports, 100).await;
            equal(&cluster).await;
            assert_eq!(reads_over(&cluster), "alpha");
            cluster.start(GAMMA).await;
            wait(&cluster, "it is read over the relay again", |cluster| reads_over(cluster) == "r1").await;
            // Only the first array does not reach it: the second finds out by the control information.
            cluster.set_way("alpha", "gamma", Way::Silent);
            write(&cluster, &mut writer, &ports, 100).await;
            equal(&cluster).await;
            assert_eq!(reads_over(&cluster), "alpha");
            // A fourth array, without the direct way.
            create(&cluster, "r2", "delta").await;
            wait(&cluster, "it is read over the other relay", |cluster| reads_over(cluster) == "r2").await;
            cluster.set_way("alpha", "beta", Way::Cut);
            write(&cluster, &mut writer, &ports, 300).await;
            wait(&cluster, "the copy has everything", has_everything).await;
            cluster.heal();
            equal(&cluster).await;
        });
    }
}

/// X5: what the second array lacks lies on the relay only, behind the last control information too.
#[test]
fn a_takeover_reads_the_relay_to_its_end_first() {
    for seed in 1..=6 {
        in_virtual_time(async {
            let (cluster, mut writer, ports) = running(seed).await;
            create(&cluster, "r1", "gamma").await;
            create(&cluster, "r2", "delta").await;
            wait(&cluster, "it is read over the relay", |cluster| reads_over(cluster) == "r1").await;
            write(&cluster, &mut writer, &ports, 150).await;
            equal(&cluster).await;
            // The second array is away while its first one writes, and dies for good.
            cluster.die(BETA, Death::PowerLoss).await;
            write(&cluster, &mut writer, &ports, 12).await;
            let on_relay = |relay: usize| {
                move |cluster: &Cluster| {
                    let links = cluster.snapshot(ALPHA).unwrap().links;
                    let newest = links[relay].relay.clone().unwrap().newest_update_number;
                    newest == cluster.newest()
                }
            };
            let relay = 1 + usize::try_from(seed % 2).unwrap();
            if relay == 2 {
                // The relay that is read first knows less than the other one.
                cluster.set_way("alpha", "gamma", Way::Cut);
                write(&cluster, &mut writer, &ports, 8).await;
            }
            wait(&cluster, "the relay has everything", on_relay(relay)).await;
            let newest = cluster.newest().unwrap();
            cluster.die(ALPHA, Death::PowerLoss).await;
            cluster.start(BETA).await;
            cluster.sleep_ms(200).await;
            say(&cluster, BETA, "group takeover g1 --yes").await;
            wait(&cluster, "beta is the primary", |cluster| {
                cluster.snapshot(BETA).unwrap().groups[0].role == "primary"
            })
            .await;
            let group = cluster.snapshot(BETA).unwrap().groups[0].clone();
            assert!(group.next_update_number > Some(newest), "{group:?}");
            let log = writer.log();
            let found = Observed::from_images(log, &cluster.visible_copies(BETA).await);
            check_crash(log, &found, DurableRule::Acknowledged).expect_clean("the new primary");
            // A takeover ends the relay's part in it.
            let rests = |cluster: &Cluster| {
                let reason = cluster.snapshot(BETA).unwrap().links[1].reason.clone();
                reason.is_some_and(|reason| reason.contains("at rest"))
            };
            wait(&cluster, "the relay rests", rests).await;
        });
    }
}

#[test]
fn a_relay_rests_while_its_roles_are_turned_round_and_works_again() {
    for seed in 1..=3 {
        in_virtual_time(async {
            let (cluster, mut writer, ports) = running(seed).await;
            create(&cluster, "r1", "gamma").await;
            wait(&cluster, "it is read over the relay", |cluster| reads_over(cluster) == "r1").await;
            write(&cluster, &mut writer, &ports, 60).await;
            equal(&cluster).await;
            let is_primary = |index: usize| {
                move |cluster: &Cluster| cluster.snapshot(index).unwrap().groups[0].role == "primary"
            };
            say(&cluster, ALPHA, "group reverse g1 --to beta --yes").await;
            wait(&cluster, "beta is the primary", is_primary(BETA)).await;
            let there: Vec<SimPort> =
                (5..=6).map(|number| SimPort::new(&cluster, "host", number, BETA).thinking_ms(4)).collect();
            write(&cluster, &mut writer, &there, 60).await;
            let rests = |cluster: &Cluster| {
                [ALPHA, BETA].into_iter().all(|index| {
                    let relay = cluster.snapshot(index).unwrap().links[1].clone();
                    relay.state == "idle" && relay.reason.is_some_and(|reason| reason.contains("at rest"))
                })
            };
            wait(&cluster, "the relay rests", rests).await;
            say(&cluster, BETA, "group reverse g1 --to alpha --yes").await;
            wait(&cluster, "alpha is the primary", is_primary(ALPHA)).await;
            // Where its new journal begins an array hears from its source itself.
            equal(&cluster).await;
            wait(&cluster, "it is read over the relay again", |cluster| reads_over(cluster) == "r1").await;
            cluster.set_way("alpha", "beta", Way::Cut);
            write(&cluster, &mut writer, &ports, 200).await;
            equal(&cluster).await;
        });
    }
}

/// A host at the primary and trouble everywhere.
struct Run {
    cluster: Cluster,
    random: Random,
    writer: Writer,
    ports: Vec<SimPort>,
    seen: Option<Verdict>,
    takeovers: u64,
    /// How often the copy was seen to be read over a relay.
    relayed: Cell<u64>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let cluster = cluster(seed);
        let writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SMALL)));
        let ports =
            (1..=2).map(|number| SimPort::new(&cluster, "host", number, ALPHA).thinking_ms(10)).collect();
        let random = Random::new(seed ^ 0x7265_6c61);
        Self { random, cluster, writer, ports, seen: None, takeovers: 0, relayed: Cell::new(0) }
    }

    async fn tell(&mut self) {
        for index in 0..4 {
            self.cluster.start(index).await;
        }
        let (has_fourth, has_parts) = (self.random.percent(60), self.random.percent(50));
        let parts = if has_fourth && has_parts { " --journals parts" } else { "" };
        let control = [0, 1].map(|_| if self.random.percent(40) { " --control link" } else { "" });
        let more = [&format!("{parts}{}", control[0]), control[1]];
        create_with(&self.cluster, "r1", "gamma", more).await;
        if has_fourth {
            create_with(&self.cluster, "r2", "delta", more).await;
        }
        if self.random.percent(70) {
            wait(&self.cluster, "beta is normal", |cluster| cluster.is_normal(BETA)).await;
        }
        for _ in 0..3 {
            self.round().await;
        }
        self.end().await;
    }

    async fn round(&mut self) {
        let (stop, is_over) = (AtomicBool::new(false), Cell::new(false));
        let mut random = Random::new(self.random.next_u64());
        let primary_dies = self.random.percent(40) && self.cluster.is_normal(ALPHA);
        let depth = [1, 8, 32][self.random.index(3)];
        let until = Until { commands: 300, stop: &stop };
        let (cluster, relayed) = (&self.cluster, &self.relayed);
        let mut observer = Random::new(self.random.next_u64());
        let observing = async {
            let mut found: Vec<Takeover> = Vec::new();
            while !is_over.get() && found.len() < 8 {
                cluster.sleep_ms(1 + observer.below(500)).await;
                relayed.set(relayed.get() + u64::from(reads_over(cluster).starts_with('r')));
                found.extend(cluster.take_over(BETA, any_death(&mut observer)).await);
            }
            found
        };
        let running = self.writer.run(&self.ports, &*cluster.clock, depth, until);
        let trouble = async {
            trouble(cluster, &mut random).await;
            is_over.set(true);
            let mut last = Vec::new();
            if primary_dies && cluster.is_normal(ALPHA) {
                cluster.die(ALPHA, any_death(&mut random)).await;
                last.extend(cluster.take_over(BETA, any_death(&mut random)).await);
            }
            stop.store(true, Ordering::Relaxed);
            last
        };
        let (summary, found, last) = tokio::join!(running, observing, trouble);
        assert_eq!(summary.violations, [], "reads while writing");
        let mut found: Vec<Takeover> = found.into_iter().chain(last).collect();
        found.sort_by_key(|found| found.at_ns);
        found.iter().for_each(|found| self.judge(found));
        if !self.cluster.runs(ALPHA) {
            self.cluster.start(ALPHA).await;
            let image = self.top().await;
            let observed = Observed::from_images(self.writer.log(), &image);
            check_crash(self.writer.log(), &observed, DurableRule::Flushed).expect_clean("after the crash");
            self.writer.resume_after_crash(&observed).expect("the volumes are of one moment");
        }
    }

    fn judge(&mut self, found: &Takeover) {
        let log = self.writer.log();
        let verdict = check_prefix(log, &Observed::from_images(log, &found.images));
        verdict.expect_clean(&format!("the copies at update {}", found.restored));
        if let Some((durable, _)) = found.said {
            assert!(found.restored >= durable, "it had update {durable} and finds {}", found.restored);
        }
        if let Some(before) = &self.seen {
            assert_eq!(check_monotone(log.geometry(), before, &verdict), [], "the copies moved backwards");
        }
        if found.said.is_some_and(|(_, restored)| restored == found.restored) {
            self.seen = Some(verdict);
        }
        self.takeovers += 1;
    }

    async fn top(&self) -> Vec<Vec<u8>> {
        self.cluster.set_way("reader", "alpha", Way::Up);
        let port = SimPort::new(&self.cluster, "reader", 9, ALPHA);
        loop {
            if let Ok(image) = read_image(&port, self.writer.log().geometry()).await {
                return image;
            }
            self.cluster.sleep_ms(100).await;
        }
    }

    async fn end(&mut self) {
        self.cluster.note("faults stop");
        self.cluster.heal();
        let never = AtomicBool::new(false);
        while !self.writer.is_settled() {
            let until = Until { commands: 1, stop: &never };
            let summary = self.writer.run(&self.ports, &*self.cluster.clock, 8, until).await;
            assert_eq!(summary.violations, []);
        }
        let since = self.cluster.clock_ms();
        while !(self.cluster.is_normal(ALPHA) && has_everything(&self.cluster)) {
            assert!(self.cluster.clock_ms() < since + 180_000, "not equal: {}", self.cluster.state());
            // What overflowed goes on by itself; what an operator suspended, when the operator says so.
            let _ = self.cluster.command(ALPHA, "group resync g1").await;
            self.cluster.sleep_ms(500).await;
        }
        let (top, log) = (self.top().await, self.writer.log());
        check_crash(log, &Observed::from_images(log, &top), DurableRule::Acknowledged)
            .expect_clean("the top");
        assert!(self.cluster.visible_copies(BETA).await == top, "the copy differs");
        wait(&self.cluster, "it is read over a relay in the end", |cluster| {
            reads_over(cluster).starts_with('r')
        })
        .await;
    }
}

async fn trouble(cluster: &Cluster, random: &mut Random) {
    for _ in 0..2 + random.below(6) {
        let pause = [3, 30, 300, 3000][random.index(4)];
        cluster.sleep_ms(random.below(pause)).await;
        match random.below(10) {
            0..4 => {
                let (a, b) = WAYS[random.index(WAYS.len())];
                let bad = [Way::Cut, Way::Silent, Way::DeafThere, Way::DeafBack, Way::Slow];
                let way = bad[random.index(bad.len())];
                cluster.note(format!("{way:?} {a}-{b}"));
                cluster.set_way(a, b, way);
            }
            4 => cluster.heal(),
            5..8 => {
                let index = [BETA, GAMMA, GAMMA, DELTA][random.index(4)];
                cluster.die(index, any_death(random)).await;
                cluster.sleep_ms(random.below(800)).await;
                cluster.start(index).await;
            }
            _ => {
                let volume = 1 + random.below(u64::from(cluster.shape.volumes));
                let line = match random.below(4) {
                    0 => "group suspend g1 --reader beta".to_owned(),
                    1 => format!("pair suspend p{volume}-beta"),
                    2 => format!("pair resync p{volume}-beta"),
                    _ => "group resync g1".to_owned(),
                };
                let _ = cluster.command(ALPHA, &line).await;
            }
        }
    }
    cluster.heal();
}

pub(crate) fn any_death(random: &mut Random) -> Death {
    if random.percent(40) { Death::Kill } else { Death::PowerLoss }
}

#[test]
fn arrays_and_their_relays_survive_what_the_seeds_do_to_them() {
    let seeds = (number_from_environment("HOLDFAST_SIM_SEEDS", 400) / 20).max(2);
    let first = number_from_environment("HOLDFAST_SIM_FIRST_SEED", 1);
    let (mut takeovers, mut relayed) = (0, 0);
    for seed in first..first + seeds {
        let outcome = std::panic::catch_unwind(|| {
            in_virtual_time(async {
                let mut run = Run::new(seed);
                run.tell().await;
                (run.takeovers, run.relayed.get())
            })
        });
        let (tried, seen) = outcome.unwrap_or_else(|cause| {
            eprintln!("relays: seed {seed} failed");
            std::panic::resume_unwind(cause)
        });
        takeovers += tried;
        relayed += seen;
    }
    println!("relays: {seeds} seeds, {takeovers} takeovers, {relayed} times seen to be read over a relay");
    assert!(takeovers > 0 && relayed > 0);
}
