//! Takeover, split brain and the way back (promises O3, O4, O6, decision 19): the primary goes in every way there is, at random
//! moments under load, and comes back in any order. Judged by what a host knows: the image that it finds is a prefix of its
//! history, nothing is lost that was answered behind the takeover, and nothing that only the old primary has is overwritten before
//! an operator names the loser.

use crate::cluster::{ALPHA, Cluster, Death, Shape, Way};
use crate::in_virtual_time;
use crate::port::{SimPort, scribble};
use crate::story::geometry_of;
use crate::support::random::{Random, number_from_environment};
use crate::support::wof::{DurableRule, Observed, Plan, Until, Writer, check_crash, read_image};
use crate::tree::{SMALL, Tree};
use holdfast::clock::Clock;
use holdfast::shell::view::GroupView;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(crate) const BETA: usize = 1;
pub(crate) const SHAPE: Shape = SMALL;
const PATIENCE_MS: u64 = 60_000;
const TAKEOVER_MS: u64 = 60_000;

pub(crate) fn two(seed: u64) -> Cluster {
    two_of(seed, SHAPE)
}

pub(crate) fn two_of(seed: u64, shape: Shape) -> Cluster {
    let tree = Tree::chain(2);
    Cluster::of(seed, shape, 2, &tree.links(), |index, shape, random| {
        tree.config(index, shape, random).replace("svol_access = \"read\"\n", "")
    })
}

pub(crate) async fn until(cluster: &Cluster, what: &str, condition: impl Fn() -> bool) {
    let since = cluster.clock_ms();
    while !condition() {
        assert!(cluster.clock_ms() < since + PATIENCE_MS, "{what}: {}", cluster.state());
        cluster.sleep_ms(5).await;
    }
}

pub(crate) fn group(cluster: &Cluster, index: usize) -> GroupView {
    let snapshot = cluster.snapshot(index);
    snapshot.and_then(|snapshot| snapshot.groups.first().cloned()).unwrap_or_default()
}

/// The state of a takeover at an array; empty if there is none.
pub(crate) fn takeover(cluster: &Cluster, index: usize) -> String {
    group(cluster, index).takeover.map(|takeover| takeover.state).unwrap_or_default()
}

pub(crate) fn lets_hosts_write(cluster: &Cluster, index: usize) -> bool {
    let snapshot = cluster.snapshot(index);
    snapshot.is_some_and(|snapshot| {
        snapshot.targets.iter().any(|target| target.luns.iter().any(|lun| lun.access == "read-write"))
    })
}

/// The pairs are normal at both, `primary` is the primary, and its copy has everything.
pub(crate) fn is_settled(cluster: &Cluster, primary: usize) -> bool {
    let copy = 1 - primary;
    let normal = |index: usize| {
        let pairs = cluster.snapshot(index).map(|snapshot| snapshot.pairs).unwrap_or_default();
        pairs.len() == usize::from(SHAPE.volumes) && pairs.iter().all(|pair| pair.state == "normal")
    };
    let next = group(cluster, primary).next_update_number;
    let restored = group(cluster, copy).follows.map(|follows| follows.restored_update_number);
    let is = |index: usize, role: &str| {
        let group = group(cluster, index);
        group.role == role && group.takeover.is_none() && group.reversal.is_none()
    };
    is(primary, "primary")
        && is(copy, "auxiliary")
        && (normal(ALPHA) && normal(BETA))
        && next.is_some_and(|next| restored == Some(next - 1))
}

pub(crate) fn ports(cluster: &Cluster, index: usize) -> Vec<SimPort> {
    (1..=4).map(|number| SimPort::new(cluster, "host", number, index).thinking_ms(5)).collect()
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

pub(crate) async fn image(cluster: &Cluster, index: usize) -> Vec<Vec<u8>> {
    let port = SimPort::new(cluster, "reader", 9, index);
    read_image(&port, geometry_of(SHAPE)).await.expect("its hosts read it")
}

pub(crate) async fn write(cluster: &Cluster, writer: &mut Writer, index: usize, commands: u64) {
    let (never, ports) = (AtomicBool::new(false), ports(cluster, index));
    let running = writer.run(&ports, &*cluster.clock, 8, Until { commands, stop: &never });
    let summary = tokio::select! {
        biased;
        summary = running => summary,
        () = cluster.sleep_ms(PATIENCE_MS) => panic!("hosts do not go on: {}", cluster.state()),
    };
    assert_eq!(summary.violations, [], "reads while writing");
}

pub(crate) async fn equal(cluster: &Cluster, primary: usize) {
    until(cluster, "not settled", || is_settled(cluster, primary)).await;
    assert!(
        content(cluster, ALPHA).await == content(cluster, BETA).await,
        "they differ: {}",
        cluster.state()
    );
}

pub(crate) async fn has_everything(cluster: &Cluster, writer: &Writer, primary: usize) {
    let (log, image) = (writer.log(), image(cluster, primary).await);
    check_crash(log, &Observed::from_images(log, &image), DurableRule::Acknowledged)
        .expect_clean("the primary");
}

pub(crate) async fn begin(cluster: &Cluster, writer: &mut Writer) {
    for index in [ALPHA, BETA] {
        cluster.start(index).await;
    }
    until(cluster, "not normal at first", || is_settled(cluster, ALPHA)).await;
    write(cluster, writer, ALPHA, 80).await;
}

/// How the primary goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Loss {
    Dies(Death),
    /// It lives, its hosts too, and the link does this.
    Alone(Way),
    /// It lives and is reached: the operator is wrong.
    Not,
}

const LOSSES: [Loss; 6] = [
    Loss::Dies(Death::Kill),
    Loss::Dies(Death::PowerLoss),
    Loss::Alone(Way::Cut),
    Loss::Alone(Way::Silent),
    Loss::Alone(Way::DeafBack),
    Loss::Not,
];

/// The host writes at alpha, and at a random moment alpha is lost.
async fn lose(cluster: &Cluster, writer: &mut Writer, random: &mut Random, loss: Loss) {
    let (stop, ports) = (AtomicBool::new(false), ports(cluster, ALPHA));
    let running = writer.run(&ports, &*cluster.clock, 8, Until { commands: u64::MAX, stop: &stop });
    let after_ms = random.below(700);
    let losing = async {
        cluster.sleep_ms(after_ms).await;
        match loss {
            Loss::Dies(death) => cluster.die(ALPHA, death).await,
            Loss::Alone(way) => cluster.set_way("alpha", "beta", way),
            Loss::Not => {}
        }
        cluster.sleep_ms(20).await;
        stop.store(true, Ordering::Relaxed);
    };
    let (summary, ()) = tokio::join!(running, losing);
    assert_eq!(summary.violations, [], "reads while writing");
}

/// The command as an operator gives it: a look, a refusal that says what is lost, the real thing; how long that took.
pub(crate) async fn take_over(cluster: &Cluster, index: usize) -> u64 {
    // Looking asks other arrays, which takes a moment: what has come before is restored meanwhile.
    let idle = || {
        let follows = group(cluster, index).follows?;
        let restored = follows.restored_update_number;
        (restored == follows.durable_update_number).then_some(restored)
    };
    let (state, restored, before) = (takeover(cluster, index), idle(), content(cluster, index).await);
    let seen =
        cluster.command(index, "group takeover g1 --dry-run").await.expect("it says what it would find");
    assert!(seen.contains("\"destroys\""), "{seen}");
    let refused = cluster.command(index, "group takeover g1").await.unwrap_err();
    assert!(refused.contains("--yes"), "{refused}");
    assert!(takeover(cluster, index) == state, "a look changes nothing");
    let after = content(cluster, index).await;
    assert!(restored.is_none() || idle() != restored || after == before, "nor what the copies are");
    let since = cluster.clock_ms();
    cluster.command(index, "group takeover g1 --yes").await.expect("it takes over");
    let took = cluster.clock_ms() - since;
    assert!(took < TAKEOVER_MS, "{took} ms");
    assert!(lets_hosts_write(cluster, index), "{}", cluster.state());
    took
}

/// What the host finds at the new primary is a prefix of what it has done, and it goes on from there.
pub(crate) async fn go_on(cluster: &Cluster, writer: &mut Writer, index: usize, loses_nothing: bool) {
    let images = image(cluster, index).await;
    let observed = Observed::from_images(writer.log(), &images);
    if loses_nothing {
        check_crash(writer.log(), &observed, DurableRule::Acknowledged).expect_clean("the new primary");
    }
    let resumed = writer.resume_after_crash(&observed);
    resumed.unwrap_or_else(|verdict| panic!("no prefix at {index}: {verdict}"));
    write(cluster, writer, index, 60).await;
}

/// The other array is shut, and says how much only it has.
pub(crate) async fn until_overtaken(cluster: &Cluster, winner: usize) {
    let loser = 1 - winner;
    until(cluster, "not overtaken", || {
        let is_known =
            group(cluster, winner).takeover.is_some_and(|takeover| takeover.branch_updates.is_some());
        takeover(cluster, loser) == "overtaken" && is_known
    })
    .await;
    assert!(!lets_hosts_write(cluster, loser));
}

/// The operator names the loser, is told what that costs, and in the end both are equal again.
pub(crate) async fn fail_back(cluster: &Cluster, writer: &mut Writer, winner: usize) {
    let loser = ["beta", "alpha"][winner];
    let refused = cluster.command(winner, "group resync g1").await.unwrap_err();
    assert!(refused.contains("takeover"), "{refused}");
    let before = content(cluster, 1 - winner).await;
    let branch = group(cluster, winner).takeover.and_then(|takeover| takeover.branch_updates);
    let line = format!("group failback g1 --to {loser}");
    cluster.command(winner, &format!("{line} --dry-run")).await.expect("it says what is lost");
    if branch != Some(0) {
        let refused = cluster.command(winner, &line).await.unwrap_err();
        assert!(refused.contains("updates that only"), "{refused}");
    }
    cluster.sleep_ms(200).await;
    assert!(content(cluster, 1 - winner).await == before, "nothing is overwritten unasked");
    cluster.command(winner, &format!("{line} --yes")).await.expect("the loser is named");
    write(cluster, writer, winner, 40).await;
}

fn story(seed: u64) -> (u64, u64) {
    in_virtual_time(async {
        let cluster = two(seed);
        let mut random = Random::new(seed ^ 0x7a6b);
        let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
        begin(&cluster, &mut writer).await;
        let loss = LOSSES[random.index(LOSSES.len())];
        cluster.note(format!("{loss:?}"));
        lose(&cluster, &mut writer, &mut random, loss).await;
        // Hosts that nobody told write on where they are.
        if matches!(loss, Loss::Alone(_)) {
            let writes = random.below(30) as usize;
            scribble(&cluster, ALPHA, &mut random, writes).await;
        }
        // The array that takes over dies on the way, or not; then the operator says it again.
        if random.percent(40) {
            let death = if random.percent(50) { Death::Kill } else { Death::PowerLoss };
            let (after_ms, is_dead) = (random.below(150), Cell::new(false));
            let commanding = async {
                let _ = cluster.command(BETA, "group takeover g1 --yes").await;
            };
            let dying = async {
                cluster.sleep_ms(after_ms).await;
                cluster.die(BETA, death).await;
                is_dead.set(true);
            };
            tokio::select! { biased; () = dying => {} () = async { commanding.await; while !is_dead.get() { cluster.sleep_ms(1).await; } } => {} }
            if !cluster.runs(BETA) {
                cluster.start(BETA).await;
            }
            until(&cluster, "beta is not up", || {
                let group = group(&cluster, BETA);
                let is_there = group.follows.is_some_and(|follows| follows.takeover_update_number.is_some());
                (is_there && takeover(&cluster, BETA).is_empty()) || takeover(&cluster, BETA) == "taken"
            })
            .await;
        }
        let took = if takeover(&cluster, BETA) == "taken" {
            // Said once more it changes nothing, and is answered when hosts are let in.
            cluster.command(BETA, "group takeover g1").await.expect("it is the primary");
            0
        } else {
            take_over(&cluster, BETA).await
        };
        go_on(&cluster, &mut writer, BETA, loss == Loss::Not).await;
        // They come back in any order, and more than once.
        if random.percent(30) {
            cluster.die(BETA, Death::Kill).await;
        }
        if !cluster.runs(ALPHA) {
            cluster.start(ALPHA).await;
        }
        if random.percent(50) {
            cluster.heal();
        }
        cluster.sleep_ms(random.below(400)).await;
        if random.percent(30) && cluster.runs(BETA) {
            cluster.die(ALPHA, Death::Kill).await;
            cluster.start(ALPHA).await;
        }
        if !cluster.runs(BETA) {
            cluster.start(BETA).await;
            until(&cluster, "beta is not up", || lets_hosts_write(&cluster, BETA)).await;
            let images = image(&cluster, BETA).await;
            let resumed = writer.resume_after_loss(&Observed::from_images(writer.log(), &images));
            resumed.unwrap_or_else(|verdict| panic!("after a restart: {verdict}"));
        }
        cluster.heal();
        until_overtaken(&cluster, BETA).await;
        assert_eq!(scribble(&cluster, ALPHA, &mut random, 3).await, 0, "hosts are shut out");
        fail_back(&cluster, &mut writer, BETA).await;
        if random.percent(40) {
            cluster.sleep_ms(random.below(300)).await;
            cluster.die(ALPHA, if random.percent(50) { Death::Kill } else { Death::PowerLoss }).await;
            cluster.start(ALPHA).await;
        }
        equal(&cluster, BETA).await;
        has_everything(&cluster, &writer, BETA).await;
        // The roles go back.
        cluster.command(BETA, "group failback g1 --to alpha --yes").await.expect("a planned reversal");
        until(&cluster, "not turned", || is_settled(&cluster, ALPHA)).await;
        has_everything(&cluster, &writer, ALPHA).await;
        write(&cluster, &mut writer, ALPHA, 30).await;
        equal(&cluster, ALPHA).await;
        (took, u64::from(loss == Loss::Not))
    })
}

#[test]
fn a_primary_that_is_lost_in_any_way_is_taken_over_and_comes_back_as_a_copy() {
    let seeds = number_from_environment("HOLDFAST_TAKEOVER_SEEDS", 60);
    let first = number_from_environment("HOLDFAST_SIM_FIRST_SEED", 1);
    let mut longest = 0;
    for seed in first..first + seeds {
        let told = std::panic::catch_unwind(|| story(seed));
        let (took, _) = told.unwrap_or_else(|_| panic!("seed {seed} failed"));
        longest = longest.max(took);
    }
    println!("{seeds} takeovers, the longest took {longest} ms");
}

/// An operator takes over at both arrays: neither copies over the other before one of them is named.
#[test]
fn two_arrays_that_both_took_over_stay_as_they_are_until_an_operator_names_the_loser() {
    for seed in 101..=103 {
        in_virtual_time(async {
            let cluster = two(seed);
            let mut random = Random::new(seed);
            let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
            begin(&cluster, &mut writer).await;
            cluster.set_way("alpha", "beta", Way::Cut);
            write(&cluster, &mut writer, ALPHA, 30).await;
            take_over(&cluster, BETA).await;
            assert_eq!(scribble(&cluster, BETA, &mut random, 20).await, 20);
            cluster.heal();
            until_overtaken(&cluster, BETA).await;
            take_over(&cluster, ALPHA).await;
            until(&cluster, "they do not know of each other", || {
                [ALPHA, BETA].iter().all(|index| takeover(&cluster, *index) == "split-brain")
            })
            .await;
            // Both go on; what a restart finds is no other thing.
            cluster.die([ALPHA, BETA][random.index(2)], Death::Kill).await;
            for index in [ALPHA, BETA] {
                if !cluster.runs(index) {
                    cluster.start(index).await;
                    until(&cluster, "not open", || group(&cluster, index).next_update_number.is_some()).await;
                }
            }
            let before = (content(&cluster, ALPHA).await, content(&cluster, BETA).await);
            cluster.sleep_ms(5_000).await;
            assert!((content(&cluster, ALPHA).await, content(&cluster, BETA).await) == before);
            assert!(lets_hosts_write(&cluster, ALPHA) && lets_hosts_write(&cluster, BETA));
            // A kill takes nothing that was answered: that is in the process's files.
            let observed = Observed::from_images(writer.log(), &image(&cluster, ALPHA).await);
            writer.resume_after_loss(&observed).unwrap_or_else(|verdict| panic!("alpha: {verdict}"));
            until(&cluster, "beta does not say what it has", || {
                group(&cluster, ALPHA).takeover.is_some_and(|takeover| takeover.branch_updates.is_some())
            })
            .await;
            fail_back(&cluster, &mut writer, ALPHA).await;
            equal(&cluster, ALPHA).await;
            has_everything(&cluster, &writer, ALPHA).await;
        });
    }
}

/// The primary dies while differences are copied to the other array: that goes back to the image it has kept.
#[test]
fn a_takeover_in_the_middle_of_a_resync_goes_on_from_the_kept_image() {
    for seed in 111..=114 {
        in_virtual_time(async {
            let cluster = two(seed);
            let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
            begin(&cluster, &mut writer).await;
            equal(&cluster, ALPHA).await;
            cluster.command(ALPHA, "group suspend g1").await.unwrap();
            write(&cluster, &mut writer, ALPHA, 100).await;
            cluster.set_way("alpha", "beta", Way::Slow);
            cluster.command(ALPHA, "group resume g1").await.unwrap();
            let copied = || {
                let pairs = cluster.snapshot(BETA).map(|snapshot| snapshot.pairs).unwrap_or_default();
                pairs.iter().any(|pair| pair.state == "being-copied")
            };
            until(&cluster, "no copy", copied).await;
            cluster.sleep_ms(seed * 97 % 500).await;
            cluster.die(ALPHA, if seed % 2 == 0 { Death::Kill } else { Death::PowerLoss }).await;
            let loss = group(&cluster, BETA).loss.expect("it is a copy");
            assert!(loss.is_image && loss.copy_back_bytes > 0, "{loss:?}");
            take_over(&cluster, BETA).await;
            go_on(&cluster, &mut writer, BETA, false).await;
            cluster.start(ALPHA).await;
            cluster.heal();
            until_overtaken(&cluster, BETA).await;
            fail_back(&cluster, &mut writer, BETA).await;
            equal(&cluster, BETA).await;
            has_everything(&cluster, &writer, BETA).await;
        });
    }
}

/// The array that was about to take over dies when the primary is shut already: that goes on by command.
#[test]
fn a_primary_that_was_fenced_in_vain_goes_on_by_command_and_the_other_array_is_its_copy_again() {
    for seed in 121..=123 {
        in_virtual_time(async {
            let cluster = two(seed);
            let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
            begin(&cluster, &mut writer).await;
            let commanding = cluster.command(BETA, "group takeover g1 --yes");
            let dying = async {
                until(&cluster, "not fenced", || takeover(&cluster, ALPHA) == "fenced").await;
                cluster.die(BETA, Death::Kill).await;
            };
            tokio::select! { biased; () = dying => {} _ = commanding => {} }
            assert!(!cluster.runs(BETA), "it died on the way");
            assert!(!lets_hosts_write(&cluster, ALPHA));
            take_over(&cluster, ALPHA).await;
            write(&cluster, &mut writer, ALPHA, 30).await;
            // What it had begun it gives up, because the primary answers and says no.
            cluster.start(BETA).await;
            until(&cluster, "beta does not give up", || {
                let is_known =
                    group(&cluster, ALPHA).takeover.is_some_and(|takeover| takeover.branch_updates.is_some());
                takeover(&cluster, BETA).is_empty() && group(&cluster, BETA).role == "auxiliary" && is_known
            })
            .await;
            cluster.command(ALPHA, "group failback g1 --to beta --yes").await.expect("it copies again");
            equal(&cluster, ALPHA).await;
            has_everything(&cluster, &writer, ALPHA).await;
            // And it can take over again, from a primary that lives.
            take_over(&cluster, BETA).await;
            go_on(&cluster, &mut writer, BETA, true).await;
            until_overtaken(&cluster, BETA).await;
        });
    }
}

/// The array to which a group is being handed over dies, with or without its promise: the old primary goes on by command.
#[test]
fn a_reversal_that_was_cut_off_is_ended_by_a_takeover_at_the_old_primary() {
    for seed in 131..=134 {
        in_virtual_time(async {
            let cluster = two(seed);
            let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
            begin(&cluster, &mut writer).await;
            equal(&cluster, ALPHA).await;
            cluster.command(ALPHA, "group reverse g1 --to beta --yes").await.unwrap();
            let handed_over = || {
                let step = group(&cluster, ALPHA).reversal.unwrap_or_default();
                assert!(group(&cluster, ALPHA).role == "primary", "too late to cut it off");
                step == "handed-over"
            };
            while !handed_over() {
                cluster.clock.sleep(Duration::from_micros(50)).await;
            }
            cluster.die(BETA, Death::Kill).await;
            if group(&cluster, ALPHA).reversal.as_deref() != Some("handed-over") {
                return; // It has the promise: it is as any other death in a reversal.
            }
            take_over(&cluster, ALPHA).await;
            write(&cluster, &mut writer, ALPHA, 30).await;
            cluster.start(BETA).await;
            until(&cluster, "beta says nothing", || {
                group(&cluster, ALPHA).takeover.is_some_and(|takeover| takeover.branch_updates.is_some())
            })
            .await;
            assert!(!lets_hosts_write(&cluster, BETA), "{}", cluster.state());
            cluster.command(ALPHA, "group failback g1 --to beta --yes").await.expect("it copies again");
            equal(&cluster, ALPHA).await;
            has_everything(&cluster, &writer, ALPHA).await;
        });
    }
}
