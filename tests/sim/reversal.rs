//! P-VOLs and S-VOLs change places (promise O2, decision 17): under load, with deaths of either array between any two of the
//! steps. The host has paths to both arrays and writes wherever it is let in: two arrays that let it in at once would lose a
//! write that was answered, or show an old one, and its log would tell.

use crate::cluster::{ALPHA, Cluster, Death, Shape, Way};
use crate::in_virtual_time;
use crate::port::{SimPort, scribble};
use crate::story::geometry_of;
use crate::support::random::Random;
use crate::support::wof::{
    DurableRule, Observed, Plan, Until, Writer, check_crash, check_prefix, read_image,
};
use crate::tree::{SMALL, Tree};
use holdfast::clock::Clock;
use holdfast::copy::tamper::Tamper;
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(crate) const BETA: usize = 1;
const SHAPE: Shape = SMALL;
const PATIENCE_MS: u64 = 60_000;

/// Lets a simulation see the moment between a promise and its keeping, which is none otherwise.
#[derive(Debug)]
struct Slow;

impl Tamper for Slow {
    fn before_turning(&self) -> Duration {
        Duration::from_millis(3)
    }
}

/// Two arrays; S-VOLs are not read, so that what a host reads is always the newest.
pub(crate) fn two(seed: u64) -> Cluster {
    two_of(seed, SHAPE)
}

pub(crate) fn two_of(seed: u64, shape: Shape) -> Cluster {
    let tree = Tree::chain(2);
    Cluster::of(seed, shape, 2, &tree.links(), |index, shape, random| {
        let text = tree.config(index, shape, random).replace("svol_access = \"read\"\n", "");
        // In every second story restore is far behind what is durable.
        let is_slow = |line: &&str| seed.is_multiple_of(2) && line.starts_with("restore = ");
        let line = |line| if is_slow(&line) { "restore = \"every 2s\"" } else { line };
        text.lines().map(line).collect::<Vec<_>>().join("\n") + "\n"
    })
}

pub(crate) async fn until(cluster: &Cluster, what: &str, condition: impl Fn() -> bool) {
    let since = cluster.clock_ms();
    while !condition() {
        assert!(cluster.clock_ms() < since + PATIENCE_MS, "{what}: {}", cluster.state());
        cluster.sleep_ms(5).await;
    }
}

/// What an array is for the group, and how far a reversal has come there.
pub(crate) fn role(cluster: &Cluster, index: usize) -> (String, Option<String>) {
    cluster.snapshot(index).map_or_else(
        || ("down".to_owned(), None),
        |snapshot| {
            snapshot
                .groups
                .first()
                .map_or_else(Default::default, |group| (group.role.clone(), group.reversal.clone()))
        },
    )
}

pub(crate) fn is_primary(cluster: &Cluster, index: usize) -> bool {
    role(cluster, index) == ("primary".to_owned(), None)
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
    let next = || cluster.snapshot(primary)?.groups[0].next_update_number;
    let restored = || Some(cluster.snapshot(copy)?.groups[0].follows.as_ref()?.restored_update_number);
    is_primary(cluster, primary)
        && role(cluster, copy) == ("auxiliary".to_owned(), None)
        && (normal(ALPHA) && normal(BETA))
        && next().is_some_and(|next| restored() == Some(next - 1))
}

/// Paths to both arrays.
pub(crate) fn ports(cluster: &Cluster) -> Vec<SimPort> {
    let port = |number| {
        SimPort::new(cluster, "host", number, usize::from(number) % cluster.count().min(3)).thinking_ms(5)
    };
    (1..=4).map(port).collect()
}

async fn content(cluster: &Cluster, index: usize) -> Vec<Vec<u8>> {
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

/// Some commands more, wherever the host is let in.
pub(crate) async fn write(cluster: &Cluster, writer: &mut Writer, commands: u64) {
    let (never, ports) = (AtomicBool::new(false), ports(cluster));
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
    assert!(content(cluster, ALPHA).await == content(cluster, BETA).await, "they differ");
}

/// Nothing that was answered is missing at the array that is the primary now.
pub(crate) async fn has_everything(cluster: &Cluster, writer: &Writer, primary: usize) {
    let (log, image) = (writer.log(), image(cluster, primary).await);
    check_crash(log, &Observed::from_images(log, &image), DurableRule::Acknowledged)
        .expect_clean("the new primary");
}

pub(crate) async fn begin(cluster: &Cluster, writer: &mut Writer) {
    for index in [ALPHA, BETA] {
        cluster.start(index).await;
    }
    until(cluster, "not normal at first", || is_settled(cluster, ALPHA)).await;
    write(cluster, writer, 80).await;
}

/// When something ends.
#[derive(Clone, Copy, Debug)]
enum When {
    /// So long after the command.
    After(u64),
    /// When the array says that this is the step.
    At(usize, &'static str),
}

impl When {
    fn has_come(self, cluster: &Cluster, since_ms: u64) -> bool {
        match self {
            Self::After(ms) => cluster.clock_ms() >= since_ms + ms,
            Self::At(index, step) => role(cluster, index).1.as_deref() == Some(step),
        }
    }
}

/// The host writes on while the group is turned round; whether at some moment both arrays said that they let it in.
pub(crate) async fn turn_under_load(
    cluster: &Cluster,
    writer: &mut Writer,
    from: usize,
    is_over: impl Fn(u64) -> bool,
) -> bool {
    let (stop, ports, both) = (AtomicBool::new(false), ports(cluster), Cell::new(false));
    let running = writer.run(&ports, &*cluster.clock, 8, Until { commands: u64::MAX, stop: &stop });
    let to = ["beta", "alpha"][from];
    let turning = async {
        cluster.sleep_ms(200).await;
        let refused = cluster.command(from, &format!("group reverse g1 --to {to}")).await.unwrap_err();
        assert!(refused.contains("--yes"), "{refused}");
        cluster.command(from, &format!("group reverse g1 --to {to} --yes")).await.unwrap();
        let since = cluster.clock_ms();
        while !is_over(cluster.clock_ms() - since) {
            both.set(both.get() || (lets_hosts_write(cluster, ALPHA) && lets_hosts_write(cluster, BETA)));
            cluster.clock.sleep(Duration::from_micros(500)).await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    let (summary, ()) = tokio::join!(running, turning);
    assert_eq!(summary.violations, [], "reads while writing");
    both.get()
}

/// There and back under load; with a defect if one is planted.
pub(crate) fn planned(seed: u64, tamper: Option<Arc<dyn Tamper>>) {
    in_virtual_time(async {
        let cluster = two(seed);
        for (index, tamper) in [ALPHA, BETA].into_iter().zip([tamper.clone(), tamper]) {
            tamper.into_iter().for_each(|tamper| cluster.plant(index, tamper));
        }
        let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
        begin(&cluster, &mut writer).await;
        for (from, to) in [(ALPHA, BETA), (BETA, ALPHA)] {
            assert!(!turn_under_load(&cluster, &mut writer, from, |ms| ms >= 2_000).await, "two primaries");
            assert!(is_primary(&cluster, to), "{}", cluster.state());
            has_everything(&cluster, &writer, to).await;
            write(&cluster, &mut writer, 80).await;
            equal(&cluster, to).await;
        }
        let generations = cluster.snapshot(ALPHA).unwrap().groups[0].generations.clone();
        let by: Vec<u32> = generations.iter().map(|generation| generation.array).collect();
        assert_eq!(by, [1, 2, 1], "each primary numbers in a generation of its own: {generations:?}");
        for pair in cluster.snapshot(BETA).unwrap().pairs {
            assert_eq!(pair.difference_bytes, 0);
        }
    });
}

#[test]
fn a_planned_reversal_under_load_loses_nothing_and_copies_nothing() {
    (1..=3).for_each(|seed| planned(seed, None));
}

/// A death between any two of the steps, at either side; what had begun is finished by the next start, or was given up.
fn dies_in_the_middle(seed: u64, who: usize, death: Death, when: When) -> bool {
    in_virtual_time(async {
        let cluster = two(seed);
        [ALPHA, BETA].iter().for_each(|index| cluster.plant(*index, Arc::new(Slow)));
        let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
        begin(&cluster, &mut writer).await;
        let (steps, is_dead) = (Cell::new((None, None)), Cell::new(false));
        let dying = async {
            until(&cluster, "no reversal", || {
                let begun = [ALPHA, BETA].iter().any(|index| role(&cluster, *index).1.is_some());
                begun || is_primary(&cluster, BETA)
            })
            .await;
            let since = cluster.clock_ms();
            while !when.has_come(&cluster, since) {
                assert!(cluster.clock_ms() < since + 10_000, "{when:?} never came: {}", cluster.state());
                cluster.clock.sleep(Duration::from_micros(50)).await;
            }
            steps.set((role(&cluster, ALPHA).1, role(&cluster, BETA).1));
            cluster.die(who, death).await;
            is_dead.set(true);
        };
        // The host stops at the same moment: what it had in flight is lost or not.
        let turning = turn_under_load(&cluster, &mut writer, ALPHA, |_| is_dead.get());
        let (two_primaries, ()) = tokio::join!(turning, dying);
        assert!(!two_primaries, "two primaries");
        let steps = steps.take();
        cluster.note(format!("{steps:?}"));
        cluster.sleep_ms(seed * 131 % 3_000).await;
        assert!(!(lets_hosts_write(&cluster, ALPHA) && lets_hosts_write(&cluster, BETA)));
        cluster.start(who).await;
        until(&cluster, "nobody is the primary", || {
            is_settled(&cluster, ALPHA) || is_settled(&cluster, BETA)
        })
        .await;
        let primary = if is_primary(&cluster, BETA) { BETA } else { ALPHA };
        let observed = Observed::from_images(writer.log(), &image(&cluster, primary).await);
        let resumed = writer.resume_after_crash(&observed);
        resumed.unwrap_or_else(|verdict| panic!("{primary} after {steps:?}: {verdict}"));
        write(&cluster, &mut writer, 80).await;
        equal(&cluster, primary).await;
        has_everything(&cluster, &writer, primary).await;
        primary == BETA
    })
}

#[test]
fn a_reversal_is_finished_or_given_up_when_an_array_dies_between_any_two_of_its_steps() {
    let death = |seed: u64| if seed % 4 < 2 { Death::Kill } else { Death::PowerLoss };
    for (seed, after_ms) in (11..).zip([1, 14, 40, 90]) {
        dies_in_the_middle(seed, usize::from(seed % 2 == 0), death(seed), When::After(after_ms));
    }
    // Once it is handed over it is finished, whoever dies.
    let steps = [(ALPHA, "handed-over"), (BETA, "taking-over"), (ALPHA, "leaving")];
    for (seed, (at, step)) in (21..).zip(steps) {
        for who in [ALPHA, BETA] {
            let turned = dies_in_the_middle(seed, who, death(seed + who as u64), When::At(at, step));
            // Beta may refuse after a restart if it has not opened the group yet; then hosts stay at alpha.
            assert!(turned || (step, who) == ("handed-over", BETA), "{step}, {who}");
        }
    }
}

#[test]
fn a_reversal_waits_while_the_link_is_cut_and_can_be_given_up_until_it_is_handed_over() {
    in_virtual_time(async {
        let cluster = two(31);
        let mut writer = Writer::new(31, Plan::mixed(31, geometry_of(SHAPE)));
        begin(&cluster, &mut writer).await;
        cluster.set_way("alpha", "beta", Way::Cut);
        write(&cluster, &mut writer, 40).await;
        cluster.command(ALPHA, "group reverse g1 --to beta --yes").await.unwrap();
        cluster.sleep_ms(3_000).await;
        assert_eq!(role(&cluster, ALPHA).1.as_deref(), Some("draining"), "beta lacks something");
        assert!(!lets_hosts_write(&cluster, ALPHA) && !lets_hosts_write(&cluster, BETA));
        let refused = cluster.command(ALPHA, "group suspend g1").await.unwrap_err();
        assert!(refused.contains("being reversed"), "{refused}");
        cluster.command(ALPHA, "group reverse g1 --cancel").await.unwrap();
        write(&cluster, &mut writer, 40).await;
        cluster.heal();
        equal(&cluster, ALPHA).await;
        has_everything(&cluster, &writer, ALPHA).await;
    });
}

/// Hosts use the S-VOLs of a suspended group, and that side is kept: the union of what either side changed travels, and what
/// was written at the first array since is gone, as its operator was told. Either array dies on the way.
pub(crate) fn takes_over(seed: u64, tamper: Option<Arc<dyn Tamper>>) {
    in_virtual_time(async {
        let cluster = two(seed);
        tamper.into_iter().for_each(|tamper| cluster.plant(BETA, tamper));
        let mut random = Random::new(seed);
        let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
        begin(&cluster, &mut writer).await;
        equal(&cluster, ALPHA).await;
        cluster.command(ALPHA, "group suspend g1 --svol-write").await.unwrap();
        until(&cluster, "hosts cannot write", || lets_hosts_write(&cluster, BETA)).await;
        // What is kept: the host writes at beta from here on. At alpha there is garbage.
        let only_beta: Vec<SimPort> =
            (1..=4).map(|number| SimPort::new(&cluster, "host", number, BETA).thinking_ms(5)).collect();
        let never = AtomicBool::new(false);
        let until_60 = Until { commands: 60, stop: &never };
        let summary = writer.run(&only_beta, &*cluster.clock, 8, until_60).await;
        assert_eq!(summary.violations, []);
        assert_eq!(scribble(&cluster, ALPHA, &mut random, 30).await, 30);
        let before = content(&cluster, ALPHA).await;
        cluster.command(ALPHA, "group reverse g1 --to beta --yes").await.unwrap();
        cluster.sleep_ms(seed * 37 % 400).await;
        let who = usize::from(seed.is_multiple_of(2));
        if !seed.is_multiple_of(3) {
            cluster.die(who, if seed % 4 < 2 { Death::Kill } else { Death::PowerLoss }).await;
            cluster.start(who).await;
        }
        until(&cluster, "not turned", || is_primary(&cluster, BETA)).await;
        assert_eq!(scribble(&cluster, ALPHA, &mut random, 3).await, 0, "it is a copy");
        let observed = Observed::from_images(writer.log(), &image(&cluster, BETA).await);
        if who == BETA {
            let resumed = writer.resume_after_loss(&observed);
            resumed.unwrap_or_else(|verdict| panic!("after the crash: {verdict}"));
        } else {
            check_crash(writer.log(), &observed, DurableRule::Acknowledged).expect_clean("beta");
        }
        write(&cluster, &mut writer, 60).await;
        equal(&cluster, BETA).await;
        has_everything(&cluster, &writer, BETA).await;
        assert!(content(&cluster, ALPHA).await != before);
        let copied = cluster.snapshot(BETA).unwrap().groups[0].readers[0].sent_updates;
        assert!(copied > 0, "differences have travelled");
    });
}

#[test]
fn a_reversal_of_suspended_pairs_copies_what_either_side_changed_to_the_first_array() {
    (41..=46).for_each(|seed| takes_over(seed, None));
}

/// The former primary keeps what it was until the copy has ended: a takeover there finds one moment.
#[test]
fn a_takeover_in_the_middle_of_the_copy_back_finds_what_the_former_primary_was() {
    in_virtual_time(async {
        let cluster = two(51);
        let mut writer = Writer::new(51, Plan::mixed(51, geometry_of(SHAPE)));
        begin(&cluster, &mut writer).await;
        cluster.command(ALPHA, "group suspend g1 --svol-write").await.unwrap();
        until(&cluster, "hosts cannot write", || lets_hosts_write(&cluster, BETA)).await;
        let log_at_alpha = content(&cluster, ALPHA).await;
        scribble(&cluster, BETA, &mut Random::new(51), 200).await;
        cluster.command(ALPHA, "group reverse g1 --to beta --yes").await.unwrap();
        until(&cluster, "not turned", || is_primary(&cluster, BETA)).await;
        cluster.set_way("alpha", "beta", Way::Slow);
        let copied =
            || cluster.snapshot(ALPHA).unwrap().pairs.iter().any(|pair| pair.state == "being-copied");
        until(&cluster, "no copy", copied).await;
        let (number, _) = cluster.array(ALPHA).unwrap().go_back("g1").await.expect("there is an image");
        assert!(number > 0);
        let images = content(&cluster, ALPHA).await;
        assert!(images == log_at_alpha, "it is what it was when it was left");
        check_prefix(writer.log(), &Observed::from_images(writer.log(), &images)).expect_clean("alpha");
    });
}
