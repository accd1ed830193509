//! P-VOLs and S-VOLs change places in a group that has another reader (promises O2 and T1, decision 17): it goes on from
//! the new primary, without a copy if it has everything, by its differences if it was away. The host has paths to all
//! three arrays and writes wherever it is let in.

use crate::cluster::{ALPHA, Cluster, Death, NAMES, Shape, Way};
use crate::in_virtual_time;
use crate::port::{SimPort, scribble};
use crate::reversal::{image, is_primary, lets_hosts_write, role, until, write};
use crate::story::geometry_of;
use crate::support::random::{Random, number_from_environment};
use crate::support::wof::{DurableRule, Observed, Plan, Until, Writer, check_crash};
use crate::tree::{SMALL, Tree};
use holdfast::clock::Clock;
use holdfast::copy::tamper::Tamper;
use std::cell::Cell;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const BETA: usize = 1;
const GAMMA: usize = 2;
const SHAPE: Shape = SMALL;

/// Beta's volumes have other numbers than alpha's: what is taken for a volume of the other one shows.
pub(crate) fn otherwise_numbered(index: usize, text: String) -> String {
    let text = text.replace("svol_access = \"read\"\n", "");
    let volume = "[[provision.volume]]\n";
    let first = format!(
        "{volume}name = \"first\"\nparity_group = \"pg0\"\nsize = \"1024KiB\"\nthin = true\n{volume}"
    );
    if index == BETA { text.replacen(volume, &first, 1) } else { text }
}

/// With a link between beta and gamma.
pub(crate) fn linked(index: usize, mut text: String) -> String {
    let other = NAMES[BETA + GAMMA - index];
    let number = BETA + GAMMA - index + 1;
    writeln!(
        text,
        "[[provision.link]]\nname = \"{other}\"\narray = {number}\nportal = [\"{other}:3260\"]\n\
         secret = \"a secret of simulations\"\nread = \"every 20ms\"\nrestore = \"every 20ms\""
    )
    .unwrap();
    text
}

pub(crate) fn three(seed: u64) -> Cluster {
    three_of(seed, SHAPE)
}

/// Alpha, which beta and gamma read, and links between all of them.
pub(crate) fn three_of(seed: u64, shape: Shape) -> Cluster {
    three_as(seed, shape, |_, text| text)
}

/// The same, with other configurations.
pub(crate) fn three_as(seed: u64, shape: Shape, change: impl Fn(usize, String) -> String) -> Cluster {
    let tree = Tree::star(2);
    let ways = [("alpha", "beta"), ("alpha", "gamma"), ("beta", "gamma")];
    Cluster::of(seed, shape, 3, &ways, |index, shape, random| {
        let text = otherwise_numbered(index, tree.config(index, shape, random));
        change(index, if index == ALPHA { text } else { linked(index, text) })
    })
}

/// All pairs are normal everywhere, `primary` is the primary, and the two others have everything from it.
pub(crate) fn is_settled(cluster: &Cluster, primary: usize) -> bool {
    let Some(at_primary) = cluster.snapshot(primary) else { return false };
    let newest = at_primary.groups[0].next_update_number.map(|next| next - 1);
    (0..cluster.count()).all(|index| {
        let Some(snapshot) = cluster.snapshot(index) else { return false };
        let sets = if index == primary { cluster.count() - 1 } else { 1 };
        let normal = snapshot.pairs.len() == usize::from(SHAPE.volumes) * sets
            && snapshot.pairs.iter().all(|pair| pair.state == "normal");
        let follows = snapshot.groups[0].follows.as_ref();
        let has_all = || {
            follows.is_some_and(|follows| {
                follows.reads_over == NAMES[primary] && Some(follows.restored_update_number) == newest
            })
        };
        normal && if index == primary { is_primary(cluster, index) } else { has_all() }
    })
}

fn primaries(cluster: &Cluster) -> usize {
    (0..cluster.count()).filter(|index| lets_hosts_write(cluster, *index)).count()
}

pub(crate) async fn content(cluster: &Cluster, index: usize) -> Vec<Vec<u8>> {
    let prefix = if index == ALPHA { "data" } else { "copy" };
    let array = cluster.array(index).expect("it runs");
    let mut images = Vec::new();
    for volume in 1..=SHAPE.volumes {
        images.push(array.read_volume(&format!("{prefix}{volume}")).await.expect("it can be read"));
    }
    images
}

/// They are equal, and nothing that was answered is missing.
pub(crate) async fn equal(cluster: &Cluster, writer: &Writer, primary: usize) {
    until(cluster, "not settled", || is_settled(cluster, primary)).await;
    let at_primary = content(cluster, primary).await;
    for (index, name) in NAMES.iter().enumerate().take(cluster.count()) {
        assert!(content(cluster, index).await == at_primary, "{name} differs");
    }
    let (log, image) = (writer.log(), image(cluster, primary).await);
    check_crash(log, &Observed::from_images(log, &image), DurableRule::Acknowledged)
        .expect_clean("the new primary");
}

pub(crate) async fn begin(cluster: &Cluster, writer: &mut Writer) {
    for index in 0..cluster.count() {
        cluster.start(index).await;
    }
    until(cluster, "not normal at first", || is_settled(cluster, ALPHA)).await;
    write(cluster, writer, 80).await;
}

fn ports(cluster: &Cluster) -> Vec<SimPort> {
    (0..6_u8)
        .map(|number| SimPort::new(cluster, "host", number, usize::from(number % 3)).thinking_ms(5))
        .collect()
}

/// The host writes on until it is over; never two that let it in.
async fn under_load(cluster: &Cluster, writer: &mut Writer, is_over: impl Fn() -> bool) {
    let (stop, ports, most) = (AtomicBool::new(false), ports(cluster), Cell::new(0));
    let running = writer.run(&ports, &*cluster.clock, 8, Until { commands: u64::MAX, stop: &stop });
    let watching = async {
        let since = cluster.clock_ms();
        while !is_over() {
            assert!(cluster.clock_ms() < since + 60_000, "it does not end: {}", cluster.state());
            most.set(most.get().max(primaries(cluster)));
            cluster.clock.sleep(Duration::from_millis(1)).await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    let (summary, ()) = tokio::join!(running, watching);
    assert_eq!(summary.violations, [], "reads while writing");
    assert!(most.get() <= 1, "two primaries");
}

pub(crate) async fn reverse(cluster: &Cluster, from: usize, to: usize, wait: &str) {
    let line = format!("group reverse g1 --to {} --wait {wait} --yes", NAMES[to]);
    cluster.command(from, &line).await.unwrap_or_else(|error| panic!("{line}: {error}"));
}

#[test]
fn every_array_of_three_becomes_the_primary_under_load_and_nothing_is_copied() {
    for seed in 1..=2 {
        in_virtual_time(async {
            let cluster = three(seed);
            let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
            begin(&cluster, &mut writer).await;
            for (from, to) in [(ALPHA, BETA), (BETA, GAMMA), (GAMMA, ALPHA)] {
                let since = cluster.clock_ms();
                let turning = async {
                    cluster.sleep_ms(200).await;
                    reverse(&cluster, from, to, "10s").await;
                };
                let over = || cluster.clock_ms() > since + 2_000;
                tokio::join!(turning, under_load(&cluster, &mut writer, over));
                assert!(is_primary(&cluster, to), "{}", cluster.state());
                write(&cluster, &mut writer, 80).await;
                equal(&cluster, &writer, to).await;
            }
            for index in 0..3 {
                let audit = cluster.command(index, "audit list").await.unwrap();
                assert!(!audit.contains("resync") && !audit.contains("suspended"), "{audit}");
            }
            let generations = cluster.snapshot(ALPHA).unwrap().groups[0].generations.clone();
            let by: Vec<u32> = generations.iter().map(|generation| generation.array).collect();
            assert_eq!(by, [1, 2, 3, 1]);
        });
    }
}

/// The third array is away while the other two change places, once or twice, and comes back by its differences, by itself.
fn is_away(seed: u64, turns: usize) {
    in_virtual_time(async {
        let cluster = three(seed);
        let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
        begin(&cluster, &mut writer).await;
        equal(&cluster, &writer, ALPHA).await;
        let is_dead = seed.is_multiple_of(2);
        if is_dead {
            cluster.die(GAMMA, Death::PowerLoss).await;
        }
        for (a, b) in [("alpha", "gamma"), ("beta", "gamma")] {
            cluster.set_way(a, b, Way::Cut);
        }
        write(&cluster, &mut writer, 10).await;
        let mut primary = ALPHA;
        for _ in 0..turns {
            let to = BETA - primary;
            reverse(&cluster, primary, to, "1s").await;
            until(&cluster, "not turned", || is_primary(&cluster, to) && role(&cluster, primary).1.is_none())
                .await;
            primary = to;
            write(&cluster, &mut writer, 5).await;
            until(&cluster, "the other one lacks something", || {
                let pairs = cluster.snapshot(primary).unwrap().pairs;
                pairs.iter().all(|pair| pair.state == "normal" || pair.auxiliary_array == 3)
            })
            .await;
        }
        let differs: u64 =
            cluster.snapshot(primary).unwrap().pairs.iter().map(|pair| pair.difference_bytes).sum();
        let all = u64::from(SHAPE.volumes) * (SHAPE.volume_kib << 10);
        assert!(differs > 0 && differs < all * 3 / 4, "{differs} of {all} bytes count as different");
        cluster.heal();
        if is_dead {
            cluster.start(GAMMA).await;
        }
        equal(&cluster, &writer, primary).await;
        write(&cluster, &mut writer, 20).await;
        equal(&cluster, &writer, primary).await;
    });
}

#[test]
fn a_reader_that_is_away_while_its_primary_changes_comes_back_by_its_differences() {
    (1..=2).for_each(|seed| is_away(seed, 1));
}

#[test]
fn a_reader_that_is_away_while_its_primary_changes_twice_comes_back_by_its_differences() {
    (3..=4).for_each(|seed| is_away(seed, 2));
}

/// Hosts have used the S-VOLs at beta while the group was suspended there; gamma, which followed alpha all the time, gets
/// what beta has, and by differences.
#[test]
fn a_third_array_follows_the_side_that_is_kept() {
    for seed in 11..=12 {
        in_virtual_time(async {
            let cluster = three(seed);
            let mut random = Random::new(seed);
            let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
            begin(&cluster, &mut writer).await;
            equal(&cluster, &writer, ALPHA).await;
            cluster.command(ALPHA, "group suspend g1 --reader beta --svol-write").await.unwrap();
            until(&cluster, "hosts cannot write", || lets_hosts_write(&cluster, BETA)).await;
            let only_beta: Vec<SimPort> =
                (1..=4).map(|number| SimPort::new(&cluster, "host", number, BETA).thinking_ms(5)).collect();
            let never = AtomicBool::new(false);
            let summary =
                writer.run(&only_beta, &*cluster.clock, 8, Until { commands: 60, stop: &never }).await;
            assert_eq!(summary.violations, []);
            assert_eq!(scribble(&cluster, ALPHA, &mut random, 30).await, 30);
            reverse(&cluster, ALPHA, BETA, "5s").await;
            until(&cluster, "not turned", || is_primary(&cluster, BETA)).await;
            write(&cluster, &mut writer, 60).await;
            equal(&cluster, &writer, BETA).await;
        });
    }
}

/// Alpha, beta below it, gamma below beta: beta becomes the primary, and gamma, which may be away then, reads on from it.
fn turns_in_a_cascade(seed: u64) {
    in_virtual_time(async {
        let tree = Tree::chain(3);
        let cluster = Cluster::of(seed, SHAPE, 3, &tree.links(), |index, shape, random| {
            otherwise_numbered(index, tree.config(index, shape, random))
        });
        cluster.plant(GAMMA, Arc::new(HearsLate));
        let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
        for index in 0..cluster.count() {
            cluster.start(index).await;
        }
        until(&cluster, "not normal at first", || {
            let pairs = |index| cluster.snapshot(index).map(|now| now.pairs).unwrap_or_default();
            (0..3).all(|index| pairs(index).iter().all(|pair| pair.state == "normal"))
                && (0..3).map(|index| pairs(index).len()).sum::<usize>() == 4 * usize::from(SHAPE.volumes)
        })
        .await;
        write(&cluster, &mut writer, 80).await;
        let is_away = seed.is_multiple_of(2);
        if is_away {
            cluster.set_way("beta", "gamma", Way::Cut);
            write(&cluster, &mut writer, 10).await;
        }
        reverse(&cluster, ALPHA, BETA, "5s").await;
        let turned = || is_primary(&cluster, BETA) && role(&cluster, ALPHA).1.is_none();
        tokio::join!(under_load(&cluster, &mut writer, turned));
        write(&cluster, &mut writer, 20).await;
        cluster.heal();
        equal(&cluster, &writer, BETA).await;
        let audit = cluster.command(BETA, "audit list").await.unwrap();
        assert_eq!(audit.contains("suspended"), is_away, "{audit}");
        // Alpha has no link to gamma, and does not promise.
        reverse(&cluster, BETA, ALPHA, "5s").await;
        until(&cluster, "no end", || role(&cluster, BETA).1.is_none()).await;
        assert!(is_primary(&cluster, BETA), "{}", cluster.state());
        write(&cluster, &mut writer, 20).await;
        equal(&cluster, &writer, BETA).await;
    });
}

#[test]
fn the_middle_of_a_cascade_becomes_the_primary_and_who_is_below_it_reads_on() {
    (21..=22).for_each(turns_in_a_cascade);
}

/// Takes its time when it is told who its primary is.
#[derive(Debug)]
struct HearsLate;

impl Tamper for HearsLate {
    fn before_promising(&self) -> Duration {
        Duration::from_secs(3)
    }
}

/// Alpha is read by beta and gamma, and gamma hands on to delta, in another numbering: all three go on behind beta.
#[test]
fn a_reader_that_hands_the_group_on_takes_those_below_it_along() {
    for seed in 41..=44 {
        in_virtual_time(async {
            let tree = Tree { above: vec![0, 0, 2], later: Vec::new(), other: Vec::new() };
            let ways = [("alpha", "beta"), ("alpha", "gamma"), ("gamma", "delta"), ("beta", "gamma")];
            let cluster = Cluster::of(seed, SHAPE, 4, &ways, |index, shape, random| {
                let text = otherwise_numbered(index, tree.config(index, shape, random));
                if index == BETA || index == GAMMA { linked(index, text) } else { text }
            });
            let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
            for index in 0..cluster.count() {
                cluster.start(index).await;
            }
            let normal = || {
                let pairs = |index| cluster.snapshot(index).map(|now| now.pairs).unwrap_or_default();
                (0..4).all(|index| pairs(index).iter().all(|pair| pair.state == "normal"))
                    && (0..4).map(|index| pairs(index).len()).sum::<usize>() == 6 * usize::from(SHAPE.volumes)
            };
            until(&cluster, "not normal at first", normal).await;
            write(&cluster, &mut writer, 80).await;
            let away = ["", "gamma", "delta", ""][usize::try_from(seed % 4).unwrap()];
            for (a, b) in ways.iter().filter(|(a, b)| *a == away || *b == away) {
                cluster.set_way(a, b, Way::Cut);
            }
            write(&cluster, &mut writer, 10).await;
            reverse(&cluster, ALPHA, BETA, "1s").await;
            until(&cluster, "not turned", || is_primary(&cluster, BETA) && role(&cluster, ALPHA).1.is_none())
                .await;
            write(&cluster, &mut writer, 20).await;
            cluster.sleep_ms(3_000).await;
            cluster.heal();
            write(&cluster, &mut writer, 20).await;
            let newest = || cluster.snapshot(BETA).unwrap().groups[0].next_update_number.map(|next| next - 1);
            let restored = |index: usize| {
                Some(cluster.snapshot(index)?.groups[0].follows.as_ref()?.restored_update_number)
            };
            until(&cluster, "not settled", || {
                normal() && [ALPHA, GAMMA, 3].iter().all(|index| restored(*index) == newest())
            })
            .await;
            let at_beta = content(&cluster, BETA).await;
            for index in [ALPHA, GAMMA, 3] {
                assert!(content(&cluster, index).await == at_beta, "{} differs", NAMES[index]);
            }
            let (log, image) = (writer.log(), image(&cluster, BETA).await);
            check_crash(log, &Observed::from_images(log, &image), DurableRule::Acknowledged)
                .expect_clean("beta");
        });
    }
}

/// Any of the three dies at any moment of it, and comes back.
fn dies(seed: u64) -> bool {
    in_virtual_time(async {
        let cluster = three(seed);
        let mut random = Random::new(seed ^ 0x6f6e_7761);
        let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
        begin(&cluster, &mut writer).await;
        let who = random.index(3);
        let death = if random.percent(50) { Death::Kill } else { Death::PowerLoss };
        let longest_us = [2_000, 20_000, 200_000, 2_000_000][random.index(4)];
        let after_us = random.below(longest_us);
        let wait = ["0s", "100ms", "10s"][random.index(3)];
        let is_dead = Cell::new(false);
        let dying = async {
            cluster.sleep_ms(50).await;
            reverse(&cluster, ALPHA, BETA, wait).await;
            cluster.clock.sleep(Duration::from_micros(after_us)).await;
            cluster.die(who, death).await;
            is_dead.set(true);
        };
        tokio::join!(dying, under_load(&cluster, &mut writer, || is_dead.get()));
        cluster.sleep_ms(random.below(3_000)).await;
        assert!(primaries(&cluster) <= 1);
        cluster.start(who).await;
        let settled = || is_settled(&cluster, ALPHA) || is_settled(&cluster, BETA);
        until(&cluster, "nobody is the primary", settled).await;
        let primary = if is_primary(&cluster, BETA) { BETA } else { ALPHA };
        let observed = Observed::from_images(writer.log(), &image(&cluster, primary).await);
        let resumed = writer.resume_after_crash(&observed);
        resumed.unwrap_or_else(|verdict| panic!("at {}: {verdict}", NAMES[primary]));
        write(&cluster, &mut writer, 60).await;
        equal(&cluster, &writer, primary).await;
        primary == BETA
    })
}

#[test]
fn three_arrays_come_right_whichever_of_them_dies_at_whatever_moment_of_a_reversal() {
    let seeds = (number_from_environment("HOLDFAST_SIM_SEEDS", 400) / 20).max(8);
    let turned = (100..100 + seeds).filter(|seed| {
        std::panic::catch_unwind(|| dies(*seed)).unwrap_or_else(|cause| {
            eprintln!("seed {seed} failed");
            std::panic::resume_unwind(cause)
        })
    });
    let turned = turned.count();
    assert!(turned > 0, "no seed turned it round");
}
