//! Three data centres (promises K1 to K6, claims 16 to 40 of the document; decision 22): hosts wait for beta, gamma reads at its own
//! pace. Sites are lost under load, in every way and order, and come back; roles go round. Judged by what hosts know: nothing that
//! was answered is missing behind any takeover, the third array goes on by the journal of the second where that holds what it lacks,
//! without one moment in which its volumes are no image, and in the end all three are equal and the pair is synchronised again.

use crate::cluster::{ALPHA, Cluster, Death, NAMES, Shape, Way};
use crate::in_virtual_time;
use crate::onward::{content, equal, is_settled, three_as};
use crate::rejoin::follows;
use crate::story::geometry_of;
use crate::support::random::{Random, number_from_environment};
use crate::support::wof::{Observed, Plan, Until, Writer};
use crate::takeover::{
    BETA, go_on, group, image, lets_hosts_write, ports, take_over, takeover, until, write,
};
use crate::tree::SMALL;
use holdfast::shell::view::JudgedView;
use std::sync::atomic::{AtomicBool, Ordering};

const GAMMA: usize = 2;
/// A journal that has room for what the third array may lack.
const SHAPE: Shape = Shape { journal_kib: 8192, ..SMALL };

/// Alpha's hosts wait for beta.
fn centres(seed: u64, fence: &str) -> Cluster {
    centres_of(seed, SHAPE, fence)
}

pub(crate) fn centres_of(seed: u64, shape: Shape, fence: &str) -> Cluster {
    centres_as(seed, shape, fence, |text| text)
}

/// The same, with another configuration of beta.
pub(crate) fn centres_as(
    seed: u64,
    shape: Shape,
    fence: &str,
    of_beta: impl Fn(String) -> String,
) -> Cluster {
    three_as(seed, shape, |index, text| {
        if index != ALPHA {
            return if index == BETA { of_beta(text) } else { text };
        }
        // Little is written at a time: update information needs room, too.
        let journal = "[[provision.journal]]\ngroup = \"g1\"\nvolume = \"jnl\"\n";
        let text = text.replace(journal, &format!("{journal}ratio = \"1:2\"\n"));
        let group = "[[provision.group]]\nname = \"g1\"\n";
        let wish = format!("{group}fence = \"{fence}\"\nfence_wait = \"1000ms\"\n");
        let mut out = String::new();
        for line in text.replace(group, &wish).lines() {
            out += line;
            out += "\n";
            if line.starts_with("svol = \"beta:") {
                out += "copy = \"sync\"\n";
            }
        }
        out
    })
}

pub(crate) fn shows(cluster: &Cluster, index: usize) -> bool {
    group(cluster, index).synchronous.is_some_and(|view| view.state == "synchronised")
}

pub(crate) async fn until_synchronised(cluster: &Cluster) {
    until(cluster, "not synchronised", || shows(cluster, ALPHA) && shows(cluster, BETA)).await;
}

pub(crate) async fn begin(cluster: &Cluster, writer: &mut Writer) {
    crate::onward::begin(cluster, writer).await;
    until_synchronised(cluster).await;
}

/// Hosts write at an array until it is lost.
pub(crate) async fn lose_under_load(
    cluster: &Cluster,
    writer: &mut Writer,
    index: usize,
    random: &mut Random,
) {
    let (stop, ports) = (AtomicBool::new(false), ports(cluster, index));
    let running = writer.run(&ports, &*cluster.clock, 8, Until { commands: u64::MAX, stop: &stop });
    let after_ms = random.below(500);
    let death = any_death(random);
    let losing = async {
        cluster.sleep_ms(after_ms).await;
        cluster.die(index, death).await;
        cluster.sleep_ms(20).await;
        stop.store(true, Ordering::Relaxed);
    };
    let (summary, ()) = tokio::join!(running, losing);
    assert_eq!(summary.violations, [], "reads while writing");
}

pub(crate) fn any_death(random: &mut Random) -> Death {
    if random.percent(50) { Death::Kill } else { Death::PowerLoss }
}

fn judged(cluster: &Cluster, primary: usize) -> Option<JudgedView> {
    group(cluster, primary).judged.into_iter().find(|judged| judged.array == 3)
}

/// Gamma's S-VOLs are an image of one moment, as it says itself.
fn is_image(cluster: &Cluster, index: usize) -> bool {
    cluster.snapshot(index).is_none_or(|now| now.pairs.iter().all(|pair| pair.state == "normal"))
}

/// The other one of alpha and beta copies from `primary` again, and is synchronised.
pub(crate) async fn comes_back(cluster: &Cluster, writer: &mut Writer, primary: usize) {
    let lost = BETA - primary;
    let line = format!("group failback g1 --to {} --yes", NAMES[lost]);
    let since = cluster.clock_ms();
    while let Err(error) = cluster.command(primary, &line).await {
        assert!(cluster.clock_ms() < since + 60_000, "{line}: {error}: {}", cluster.state());
        cluster.sleep_ms(300).await;
    }
    write(cluster, writer, primary, 20).await;
    until_synchronised(cluster).await;
}

/// Claims 18 to 27: the first is lost, the second judges what the third lacks, and the third reads just that, and goes on.
fn delta_resync(seed: u64) {
    in_virtual_time(async {
        let cluster = centres(seed, ["never", "data", "status"][usize::try_from(seed % 3).unwrap()]);
        let mut random = Random::new(seed ^ 0x3363);
        let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
        begin(&cluster, &mut writer).await;
        equal(&cluster, &writer, ALPHA).await;
        let is_behind = !seed.is_multiple_of(4);
        if is_behind {
            cluster.set_way("alpha", "gamma", Way::Cut);
            write(&cluster, &mut writer, ALPHA, 10).await;
            // Beta settles, and would free its journal if nobody needed it.
            cluster.sleep_ms(20_000).await;
        }
        let had = group(&cluster, GAMMA).follows.unwrap().restored_update_number;
        match is_behind {
            true => lose_under_load(&cluster, &mut writer, ALPHA, &mut random).await,
            // Gamma has everything.
            false => cluster.die(ALPHA, any_death(&mut random)).await,
        }
        if random.percent(30) {
            // Both sites in a row: what beta knew of gamma is forgotten, what it holds is not.
            cluster.die(BETA, any_death(&mut random)).await;
            cluster.start(BETA).await;
            until(&cluster, "beta is not up", || {
                group(&cluster, BETA).follows.is_some_and(|follows| follows.takeover_update_number.is_some())
            })
            .await;
        }
        take_over(&cluster, BETA).await;
        go_on(&cluster, &mut writer, BETA, true).await;
        let since = cluster.clock_ms();
        while !follows(&cluster, BETA, GAMMA) {
            assert!(cluster.clock_ms() < since + 60_000, "gamma does not go on: {}", cluster.state());
            assert!(is_image(&cluster, GAMMA), "{}", cluster.state());
            cluster.sleep_ms(1).await;
            if random.percent(1) && cluster.clock_ms() < since + 3_000 {
                let who = [BETA, GAMMA][random.index(2)];
                cluster.die(who, any_death(&mut random)).await;
                cluster.start(who).await;
                until(&cluster, "not up", || {
                    group(&cluster, BETA).next_update_number.is_some() && lets_hosts_write(&cluster, BETA)
                })
                .await;
                let images = image(&cluster, BETA).await;
                let resumed = writer.resume_after_loss(&Observed::from_images(writer.log(), &images));
                resumed.unwrap_or_else(|verdict| panic!("after a restart: {verdict}"));
            }
        }
        assert!(content(&cluster, GAMMA).await == content(&cluster, BETA).await, "{}", cluster.state());
        let judged = judged(&cluster, BETA).expect("gamma was judged");
        let taken = group(&cluster, BETA).takeover.and_then(|takeover| takeover.update_number);
        let lacked = taken.expect("beta took over") - had;
        assert_eq!(judged.way, if is_behind { "journal" } else { "nothing-missing" }, "{judged:?}");
        assert_eq!((judged.update_number, lacked > 0), (had, is_behind), "{judged:?}");
        assert_eq!(judged.updates, is_behind.then_some(lacked), "{judged:?}");
        assert!(judged.bytes > Some(0) || !is_behind, "{judged:?}");
        // The first comes back, as the synchronous copy of the second, while the third reads on from that.
        cluster.heal();
        cluster.start(ALPHA).await;
        comes_back(&cluster, &mut writer, BETA).await;
        equal(&cluster, &writer, BETA).await;
        // And every role returns.
        cluster.command(BETA, "group reverse g1 --to alpha --yes").await.expect("a planned swap");
        until(&cluster, "not turned", || is_settled(&cluster, ALPHA)).await;
        write(&cluster, &mut writer, ALPHA, 20).await;
        until_synchronised(&cluster).await;
        equal(&cluster, &writer, ALPHA).await;
        let audit = cluster.command(GAMMA, "audit list").await.unwrap();
        assert!(!audit.contains("resync"), "{audit}");
    });
}

#[test]
fn when_the_first_is_lost_the_third_reads_what_it_lacks_from_the_journal_of_the_second() {
    // In the fourth the third lacks nothing.
    (1..=4).for_each(|seed| {
        std::panic::catch_unwind(|| delta_resync(seed)).unwrap_or_else(|cause| {
            eprintln!("seed {seed} failed");
            std::panic::resume_unwind(cause)
        });
    });
}

/// Hosts write at `primary` until `this` is over.
async fn under_load(cluster: &Cluster, writer: &mut Writer, primary: usize, this: impl Future<Output = ()>) {
    let (stop, ports) = (AtomicBool::new(false), ports(cluster, primary));
    let running = writer.run(&ports, &*cluster.clock, 8, Until { commands: u64::MAX, stop: &stop });
    let doing = async {
        this.await;
        stop.store(true, Ordering::Relaxed);
    };
    let (summary, ()) = tokio::join!(running, doing);
    assert_eq!(summary.violations, [], "reads while writing");
}

/// The two others copy from `primary`, while hosts write there: by themselves, or when an operator has done what `primary` asks for.
pub(crate) async fn all_follow(cluster: &Cluster, writer: &mut Writer, primary: usize) {
    let since = cluster.clock_ms();
    let others = || [ALPHA, BETA, GAMMA].into_iter().filter(|index| *index != primary);
    while !others().all(|index| follows(cluster, primary, index)) {
        assert!(cluster.clock_ms() < since + 60_000, "they do not follow: {}", cluster.state());
        let here = group(cluster, primary);
        let overtaken = here.takeover.and_then(|view| view.array.filter(|_| !view.is_asked_back));
        let ahead = here.ahead.iter().filter(|ahead| !ahead.is_given_up).map(|ahead| ahead.array);
        for number in ahead.chain(overtaken) {
            let name = NAMES[usize::try_from(number).unwrap() - 1];
            // Refused as long as it is not known what that one has, or another one has to move first.
            let _ = cluster.command(primary, &format!("group failback g1 --to {name} --yes")).await;
        }
        write(cluster, writer, primary, 5).await;
        cluster.sleep_ms(300).await;
    }
}

/// Someone who is left takes over before anybody returns; who was lost returns under load. Which one of the synchronous pair is the first
/// then.
async fn taken_over_at_once(
    cluster: &Cluster,
    writer: &mut Writer,
    random: &mut Random,
    (first, primary): (usize, usize),
    lost: Vec<usize>,
) -> usize {
    let second = BETA - first;
    cluster.note(format!("{} takes over at once", NAMES[primary]));
    take_over(cluster, primary).await;
    go_on(cluster, writer, primary, primary == second).await;
    let returning = async {
        for index in lost {
            cluster.sleep_ms(random.below(1_000)).await;
            cluster.start(index).await;
        }
        cluster.sleep_ms(random.below(2_000)).await;
    };
    under_load(cluster, writer, primary, returning).await;
    all_follow(cluster, writer, primary).await;
    if primary != GAMMA {
        return primary;
    }
    // The pair is in place again when one of it is the primary.
    let to = random.index(2);
    until(cluster, "not settled", || is_settled(cluster, GAMMA)).await;
    let line = format!("group reverse g1 --to {} --yes", NAMES[to]);
    cluster.command(GAMMA, &line).await.unwrap_or_else(|error| panic!("{line}: {error}"));
    until(cluster, "not turned", || is_settled(cluster, to)).await;
    write(cluster, writer, to, 20).await;
    to
}

/// Sites are lost in any order, one, two or all, and come back in any order; who takes over is any one that is left, or the other one of
/// the synchronous pair when that is back.
fn any_order(seed: u64) {
    in_virtual_time(async {
        let cluster = centres(seed, ["never", "status", "data"][usize::try_from(seed % 3).unwrap()]);
        let mut random = Random::new(seed ^ 0x6b36);
        let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
        begin(&cluster, &mut writer).await;
        let mut first = ALPHA;
        for _ in 0..3 + random.below(3) {
            let second = BETA - first;
            until_synchronised(&cluster).await;
            let mut others: Vec<usize> = [second, GAMMA].into_iter().filter(|_| random.percent(40)).collect();
            let first_is_lost = random.percent(70) || others.is_empty();
            cluster.note(format!("{} is first, lost: {first_is_lost} {others:?}", NAMES[first]));
            if first_is_lost {
                lose_under_load(&cluster, &mut writer, first, &mut random).await;
            }
            for index in &others {
                cluster.sleep_ms(random.below(30)).await;
                cluster.die(*index, any_death(&mut random)).await;
            }
            if random.percent(50) {
                others.reverse();
            }
            cluster.sleep_ms(random.below(3_000)).await;
            let left: Vec<usize> =
                [second, GAMMA].into_iter().filter(|index| !others.contains(index)).collect();
            if first_is_lost && !left.is_empty() && random.percent(50) {
                let mut lost = others;
                lost.insert(random.index(lost.len() + 1), first);
                let who = (first, left[random.index(left.len())]);
                first = taken_over_at_once(&cluster, &mut writer, &mut random, who, lost).await;
                continue;
            }
            let returns = first_is_lost && random.percent(25);
            if returns {
                // The first is back before anybody takes over: it goes on as the primary.
                cluster.start(first).await;
            }
            for index in others {
                cluster.start(index).await;
                cluster.sleep_ms(random.below(500)).await;
            }
            if first_is_lost && !returns {
                until(&cluster, "the second is not up", || {
                    let follows = group(&cluster, second).follows;
                    follows.is_some_and(|follows| follows.takeover_update_number.is_some())
                })
                .await;
                take_over(&cluster, second).await;
                go_on(&cluster, &mut writer, second, true).await;
                if random.percent(50) {
                    until(&cluster, "gamma does not go on", || follows(&cluster, second, GAMMA)).await;
                }
                cluster.start(first).await;
                comes_back(&cluster, &mut writer, second).await;
                first = second;
            } else if first_is_lost {
                until(&cluster, "the first is not up", || lets_hosts_write(&cluster, first)).await;
                go_on(&cluster, &mut writer, first, true).await;
            } else {
                write(&cluster, &mut writer, first, 30).await;
            }
            until_synchronised(&cluster).await;
            if random.percent(40) {
                let to = BETA - first;
                until(&cluster, "not settled", || is_settled(&cluster, first)).await;
                let line = format!("group reverse g1 --to {} --yes", NAMES[to]);
                cluster.command(first, &line).await.unwrap_or_else(|error| panic!("{line}: {error}"));
                until(&cluster, "not turned", || is_settled(&cluster, to)).await;
                first = to;
                write(&cluster, &mut writer, first, 30).await;
            }
        }
        until_synchronised(&cluster).await;
        equal(&cluster, &writer, first).await;
        assert!(takeover(&cluster, first).is_empty(), "{}", cluster.state());
    });
}

#[test]
fn three_data_centres_are_lost_and_come_back_in_any_order() {
    let seeds = number_from_environment("HOLDFAST_CENTRES_SEEDS", 2);
    let first = number_from_environment("HOLDFAST_SIM_FIRST_SEED", 1);
    for seed in first..first + seeds {
        std::panic::catch_unwind(|| any_order(seed)).unwrap_or_else(|cause| {
            eprintln!("seed {seed} failed (HOLDFAST_SIM_FIRST_SEED={seed} HOLDFAST_CENTRES_SEEDS=1)");
            std::panic::resume_unwind(cause)
        });
    }
}

/// The first is cut off, or lost for a while, and finds on its return that the second has taken over. Where the group is made so and it has nothing
/// of its own it becomes the synchronous copy by itself, the third reading from the second all along; what it has of its own is an
/// operator's to give up.
#[test]
fn a_first_that_was_overtaken_and_has_nothing_of_its_own_comes_back_by_itself() {
    for (seed, is_cut, has_own) in [(21, true, false), (22, false, false), (23, true, true)] {
        in_virtual_time(async {
            let fence = if has_own { "never" } else { "data" };
            let cluster = centres(seed, &format!("{fence}\"\novertaken = \"rejoin"));
            let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
            begin(&cluster, &mut writer).await;
            until_synchronised(&cluster).await;
            if is_cut {
                cluster.set_way("alpha", "beta", Way::Cut);
                cluster.set_way("alpha", "gamma", Way::Cut);
            } else {
                cluster.die(ALPHA, Death::PowerLoss).await;
            }
            if has_own {
                // It goes on alone when the limit is over.
                write(&cluster, &mut writer, ALPHA, 3).await;
            }
            take_over(&cluster, BETA).await;
            go_on(&cluster, &mut writer, BETA, !has_own).await;
            cluster.heal();
            if !is_cut {
                cluster.start(ALPHA).await;
            }
            if has_own {
                cluster.sleep_ms(15_000).await;
                assert_eq!(
                    (takeover(&cluster, ALPHA).as_str(), lets_hosts_write(&cluster, ALPHA)),
                    ("overtaken", false)
                );
                cluster
                    .command(BETA, "group failback g1 --to alpha --yes")
                    .await
                    .expect("its loser is named");
            }
            until(&cluster, "alpha is no copy", || group(&cluster, ALPHA).role == "auxiliary").await;
            until_synchronised(&cluster).await;
            equal(&cluster, &writer, BETA).await;
            assert!(follows(&cluster, BETA, GAMMA) && follows(&cluster, BETA, ALPHA), "{}", cluster.state());
        });
    }
}
