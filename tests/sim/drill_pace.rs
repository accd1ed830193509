//! What drills cost restore (promise O7): nothing. Two copies of one primary follow it under load, in virtual time, with the same
//! schedules. One of them has drills: at the newest number and at numbers that are to come, several at once, with hosts that
//! write the clones, verdicts, and clones that go. What is measured is how long an update is durable at a copy before it is restored
//! there: whatever the disks and links do, that is the time in which restore stands still. The same story without any drill is the
//! baseline.

use crate::cluster::{ALPHA, Cluster, Death, EIGHT, Second, Shape};
use crate::drills::{CLONE_LUN, clone_lun, drill, map, state_of};
use crate::in_virtual_time;
use crate::port::SimPort;
use crate::readers::{say, wait, write};
use crate::story::geometry_of;
use crate::support::random::number_from_environment;
use crate::support::wof::{Plan, SECTOR_BYTES, Until, Writer};
use crate::tree::Tree;
use holdfast::channel::host::Durability;
use holdfast::copy::tamper::Tamper;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const BETA: usize = 1;
const GAMMA: usize = 2;
const SHAPE: Shape = Shape { second: Second::None, journal_kib: 8192, ..EIGHT };
/// So far ahead operators name numbers: where units are slow a batch of a destage takes 80 ms, and so many updates come in that time.
const AHEAD: u64 = 150;
/// So long hosts write, and operators drill.
const LASTING_MS: u64 = 4_000;

/// When each update was durable and restored at a copy, in ms.
#[derive(Default)]
struct Seen {
    durable_ms: BTreeMap<u64, u64>,
    restored_ms: BTreeMap<u64, u64>,
}

impl Seen {
    fn look(&mut self, cluster: &Cluster, index: usize) {
        let Some((durable, restored)) = cluster.array(index).and_then(|array| array.restore_position("g1"))
        else {
            return;
        };
        let now_ms = cluster.clock_ms();
        let (was_durable, was_restored) = (newest(&self.durable_ms), newest(&self.restored_ms));
        self.durable_ms.extend((was_durable.unwrap_or(durable) + 1..=durable).map(|number| (number, now_ms)));
        self.restored_ms
            .extend((was_restored.unwrap_or(restored) + 1..=restored).map(|number| (number, now_ms)));
        self.durable_ms.entry(durable).or_insert(now_ms);
        self.restored_ms.entry(restored).or_insert(now_ms);
    }

    /// How long each update waited for restore.
    fn waits_ms(&self) -> Vec<u64> {
        let both =
            self.restored_ms.iter().filter_map(|(number, at)| Some((self.durable_ms.get(number)?, at)));
        both.map(|(durable, restored)| restored - durable).collect()
    }
}

fn newest(times: &BTreeMap<u64, u64>) -> Option<u64> {
    times.last_key_value().map(|(number, _)| *number)
}

#[derive(Debug)]
struct Pace {
    updates: usize,
    longest_ms: u64,
    mean_us: u64,
}

impl Pace {
    fn of(seen: &Seen) -> Self {
        let waits = seen.waits_ms();
        let sum: u64 = waits.iter().sum();
        let count = u64::try_from(waits.len()).unwrap().max(1);
        Self {
            updates: waits.len(),
            longest_ms: waits.iter().copied().max().unwrap_or(0),
            mean_us: sum * 1000 / count,
        }
    }
}

/// What came of one run: restore at both copies.
#[derive(Debug)]
struct Told {
    beta: Pace,
    gamma: Pace,
    made: u64,
}

/// Both copies read and restore at once, whatever the seed has for them, and have room for all clones.
fn cluster_of(seed: u64) -> Cluster {
    let tree = Tree::star(2);
    Cluster::of(seed, SHAPE, 3, &tree.links(), |index, shape, random| {
        let text = tree.config(index, shape, random);
        let at_once = text.lines().map(|line| match line.split_once(" = ") {
            Some((what @ ("read" | "restore"), _)) => format!("{what} = \"immediate\"\n"),
            _ if line.contains("/u") => format!("{}\n", line.replace("16MiB", "96MiB")),
            _ => format!("{line}\n"),
        });
        at_once.collect()
    })
}

/// Drills of every kind, one behind the other and several at once.
async fn drills_at_work(cluster: &Cluster) -> u64 {
    let mut names = Vec::new();
    for round in 0..4 {
        let mut begin = async |name: String, more: &str| {
            say(cluster, BETA, &format!("group drill g1 {name} --expire 1h {more}")).await;
            names.push(name);
        };
        begin(format!("n{round}"), "--quota 4MiB").await;
        let newest = cluster.newest().expect("alpha runs");
        begin(format!("a{round}"), &format!("--at {}", newest + AHEAD)).await;
        begin(format!("b{round}"), &format!("--at {}", newest + AHEAD)).await;
        begin(format!("c{round}"), &format!("--at {}", newest + AHEAD + 4)).await;
        map(cluster, CLONE_LUN, &format!("n{round}.copy1")).await;
        let shown = clone_lun(cluster, BETA, CLONE_LUN).await.expect("it is mapped");
        for lba in (0..1800).step_by(300) {
            let block = vec![7_u8; SECTOR_BYTES];
            shown.write(lba, block, Durability::Forced).await.expect("a clone is written");
        }
        drop(shown);
        let waits = |cluster: &Cluster| {
            ["a", "b", "c"].iter().all(|kind| state_of(cluster, BETA, &format!("{kind}{round}")) != "waiting")
        };
        wait(cluster, "they are made", waits).await;
        say(cluster, BETA, &format!("group drill g1 n{round} --passed --end --yes")).await;
        say(cluster, BETA, &format!("group drill g1 a{round} --passed --end --yes")).await;
        say(cluster, BETA, &format!("group drill g1 b{round} --failed --end --yes")).await;
    }
    let is_made =
        |name: &&String| drill(cluster, BETA, name).is_some_and(|drill| drill.made_unix_ms.is_some());
    let made = names.iter().filter(is_made).count();
    u64::try_from(made).unwrap()
}

async fn told(seed: u64, with_drills: bool, tamper: Option<Arc<dyn Tamper>>) -> Told {
    let cluster = cluster_of(seed);
    if let Some(tamper) = tamper {
        cluster.plant(BETA, tamper);
    }
    for index in 0..3 {
        cluster.start(index).await;
    }
    let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
    let ports: Vec<SimPort> =
        (1..=2).map(|number| SimPort::new(&cluster, "host", number, ALPHA).thinking_ms(3)).collect();
    wait(&cluster, "all pairs are normal", |cluster| (0..3).all(|index| cluster.is_normal(index))).await;
    write(&cluster, &mut writer, &ports, 60).await;
    let (mut beta, mut gamma) = (Seen::default(), Seen::default());
    let (stop, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
    let running = async {
        let until = Until { commands: u64::MAX, stop: &stop };
        let summary = writer.run(&ports, &*cluster.clock, 4, until).await;
        assert_eq!(summary.violations, [], "reads while writing");
        cluster.sleep_ms(200).await;
        is_over.store(true, Ordering::Relaxed);
    };
    let looking = async {
        while !is_over.load(Ordering::Relaxed) {
            beta.look(&cluster, BETA);
            gamma.look(&cluster, GAMMA);
            cluster.sleep_ms(1).await;
        }
    };
    let operating = async {
        let since = cluster.clock_ms();
        let made = if with_drills { drills_at_work(&cluster).await } else { 0 };
        let left_ms = (since + LASTING_MS).saturating_sub(cluster.clock_ms());
        cluster.sleep_ms(left_ms).await;
        stop.store(true, Ordering::Relaxed);
        made
    };
    let ((), (), made) = tokio::join!(running, looking, operating);
    for index in 0..3 {
        cluster.die(index, Death::Kill).await;
    }
    Told { beta: Pace::of(&beta), gamma: Pace::of(&gamma), made }
}

/// Whether restore at the copy with drills stood still for longer than at copies without, or on the whole.
fn is_slowed(without: &Told, with: &Told) -> bool {
    let usual = without.beta.longest_ms.max(without.gamma.longest_ms).max(with.gamma.longest_ms);
    let mean_us = without.beta.mean_us.max(without.gamma.mean_us).max(with.gamma.mean_us);
    with.beta.longest_ms > usual + LONGER_MS || with.beta.mean_us > mean_us + LONGER_MEAN_US
}

#[test]
fn restore_is_not_slowed_by_drills() {
    let seeds = (number_from_environment("HOLDFAST_SIM_SEEDS", 400) / 100).max(3);
    let first = number_from_environment("HOLDFAST_SIM_FIRST_SEED", 1);
    for seed in first..first + seeds {
        let without = in_virtual_time(told(seed, false, None));
        let with = in_virtual_time(told(seed, true, None));
        eprintln!("seed {seed}: without {without:?}\nseed {seed}: with    {with:?}");
        assert!(with.beta.updates > 400, "seed {seed}: hosts wrote {} updates", with.beta.updates);
        assert!(with.made >= 14, "seed {seed}: {} drills were made", with.made);
        assert!(!is_slowed(&without, &with), "seed {seed}: {with:?}, without drills {without:?}");
    }
}

/// Restore stands still at each cut for nothing.
#[derive(Debug)]
struct StandsStill;

impl Tamper for StandsStill {
    fn before_cutting(&self) -> Duration {
        Duration::from_millis(30)
    }
}

#[test]
fn a_drill_at_which_restore_stands_still_is_found() {
    for seed in 1..=3 {
        let without = in_virtual_time(told(seed, false, None));
        let with = in_virtual_time(told(seed, true, Some(Arc::new(StandsStill))));
        assert!(is_slowed(&without, &with), "seed {seed}: {with:?}, without drills {without:?}");
    }
}

/// Behind which a wait is longer than any without drills: what is drawn by chance for disks and links differs between runs.
const LONGER_MS: u64 = 15;
/// And on the average.
const LONGER_MEAN_US: u64 = 1_500;
