//! Journal volumes are lost where more hangs on it than one group at one array: in the middle of a cascade, together with
//! the array itself, or with a unit of their parity group that the group survives. In the end everything is equal by itself,
//! or as soon as the operator has put another volume in the place of the lost one.

use crate::cluster::{ALPHA, Cluster, Death, EIGHT, NAMES, Second, Shape, Way};
use crate::in_virtual_time;
use crate::port::SimPort;
use crate::readers::{say, wait};
use crate::story::geometry_of;
use crate::support::random::Random;
use crate::support::wof::{Observed, Plan, Until, Writer, check_prefix, read_image};
use crate::tree::Tree;
use holdfast::copy::tamper::Tamper;
use holdfast::disk::io::sim::Fault;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The journal on a unit of its own, and one more volume on the units of the data.
const APART: Shape =
    Shape { volumes: 4, journal_kib: 12 << 10, is_journal_apart: true, second: Second::Ordinary, ..EIGHT };

const BETA: usize = 1;

/// What happens to the journal of one array.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Loss {
    /// Its unit is gone; a volume in reserve takes over.
    TakenOver,
    /// Its unit is gone; the operator replaces it.
    Replaced,
    /// Array and unit are gone; the array comes back without the unit, and the operator replaces it.
    GivenUp,
}

async fn all_normal(cluster: &Cluster, count: usize) {
    for array in 0..count {
        cluster.start(array).await;
    }
    while !(0..count).all(|index| cluster.is_normal(index)) {
        cluster.sleep_ms(20).await;
    }
}

fn ports(cluster: &Cluster) -> Vec<SimPort> {
    (1..=4).map(|number| SimPort::new(cluster, "host", number, ALPHA).thinking_ms(20)).collect()
}

async fn hosts(cluster: &Cluster, writer: &mut Writer, commands: u64, stop: &AtomicBool) {
    let ports = ports(cluster);
    let running = writer.run(&ports, &*cluster.clock, 8, Until { commands, stop });
    let summary = tokio::select! {
        biased;
        summary = running => summary,
        () = cluster.sleep_ms(300_000) => panic!("hosts do not go on: {}", cluster.state()),
    };
    assert_eq!(summary.violations, [], "reads while the journal is lost");
}

async fn replace(cluster: &Cluster, side: usize) {
    cluster.command(side, "journal replace g1 --volume jnl --by jnl2 --yes").await.expect("it is replaced");
}

async fn lose(cluster: &Cluster, random: &mut Random, side: usize, loss: Loss) {
    cluster.sleep_ms(50 + random.below(600)).await;
    cluster.note(format!("{} loses its journal", NAMES[side]));
    match loss {
        Loss::TakenOver => cluster.disk(side, "j0").inject(Fault::Gone),
        Loss::Replaced => {
            cluster.disk(side, "j0").inject(Fault::Gone);
            while cluster.snapshot(side).unwrap().groups[0].state != "abnormal" {
                cluster.sleep_ms(20).await;
            }
            cluster.sleep_ms(random.below(1500)).await;
            replace(cluster, side).await;
        }
        Loss::GivenUp => {
            cluster.die(side, Death::PowerLoss).await;
            cluster.disk(side, "j0").inject(Fault::Gone);
            cluster.start(side).await;
            cluster.sleep_ms(random.below(500)).await;
            replace(cluster, side).await;
        }
    }
}

/// Within bounded time the journal of `side` is in the other volume, and all copies have everything.
async fn comes_right(cluster: &Cluster, count: usize, side: usize) {
    let is_right = || {
        let journals = cluster.snapshot(side).unwrap().journals;
        let is_other =
            journals.last().is_some_and(|last| (&*last.volume, &*last.used_as) == ("jnl2", "written"));
        let newest = cluster.newest();
        let is_equal = |index: usize| {
            let restored = cluster.position(index).map(|(_, restored)| restored);
            restored.is_some() && restored == newest
        };
        is_other && cluster.is_normal(ALPHA) && (1..count).all(is_equal)
    };
    let since = cluster.clock_ms();
    while !is_right() {
        assert!(cluster.clock_ms() < since + 600_000, "it does not come right: {}", cluster.state());
        cluster.sleep_ms(100).await;
    }
}

async fn all_equal(cluster: &Cluster, count: usize, writer: Option<&Writer>) {
    let port = SimPort::new(cluster, "reader", 9, ALPHA);
    let top = read_image(&port, geometry_of(cluster.shape)).await.expect("the primary can be read");
    for (index, name) in NAMES.iter().enumerate().take(count).skip(1) {
        let images = cluster.take_over(index, Death::PowerLoss).await.expect("its pairs are normal").images;
        if let Some(log) = writer.map(Writer::log) {
            check_prefix(log, &Observed::from_images(log, &images)).expect_clean(name);
        }
        assert!(images == top, "{name} is equal to the primary");
    }
}

/// The middle of three arrays in a row loses its journal, with and without the array below it being away.
/// Whether the array below lacked what only the lost volume had.
fn the_middle_loses_its_journal(seed: u64, loss: Loss) -> bool {
    in_virtual_time(async {
        let second = if loss == Loss::TakenOver { Second::Reserve } else { Second::Ordinary };
        let shape = Shape { second, is_cache_small: true, ..APART };
        let tree = Tree::chain(3);
        let cluster = tree.cluster(seed, shape);
        all_normal(&cluster, 3).await;
        let mut random = Random::new(seed);
        let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(shape)));
        let never = AtomicBool::new(false);
        let losing = async {
            // What an array lacks is then only in the volume that is lost: at the last one, or in the middle itself.
            match seed % 3 {
                0 => cluster.set_way("beta", "gamma", Way::Cut),
                1 => cluster.set_way("alpha", "beta", Way::Slow),
                _ => {}
            }
            lose(&cluster, &mut random, 1, loss).await;
            cluster.sleep_ms(400).await;
            cluster.heal();
        };
        tokio::join!(hosts(&cluster, &mut writer, 300, &never), losing);
        hosts(&cluster, &mut writer, 50, &never).await;
        comes_right(&cluster, 3, 1).await;
        all_equal(&cluster, 3, Some(&writer)).await;
        cluster.command(1, "audit list").await.unwrap().contains("of array 3 suspended: journal that")
    })
}

#[test]
fn a_reserve_takes_over_in_the_middle_of_a_cascade() {
    let lost = (1..=3).filter(|seed| the_middle_loses_its_journal(*seed, Loss::TakenOver)).count();
    assert!(lost > 0, "in no story did the last one lack what only the lost volume had");
}

#[test]
fn a_journal_in_the_middle_of_a_cascade_is_replaced_or_given_up_and_those_below_come_back() {
    let lost = (3..=4).filter(|seed| the_middle_loses_its_journal(*seed, Loss::Replaced)).count();
    assert!(lost > 0, "in no story did the last one lack what only the lost volume had");
    (5..=6).for_each(|seed| _ = the_middle_loses_its_journal(seed, Loss::GivenUp));
}

/// An auxiliary comes back without the unit of its journal. Its copies are what they are; when the operator puts another
/// volume in its place they are copied again where anything can differ.
#[test]
fn an_auxiliary_that_comes_back_without_its_journal_gives_it_up_for_another_one() {
    for seed in 1..=2 {
        in_virtual_time(async {
            let cluster = Cluster::new(seed, APART);
            all_normal(&cluster, 3).await;
            let mut random = Random::new(seed);
            let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(APART)));
            let never = AtomicBool::new(false);
            let losing = lose(&cluster, &mut random, 1, Loss::GivenUp);
            tokio::join!(hosts(&cluster, &mut writer, 300, &never), losing);
            comes_right(&cluster, 3, 1).await;
            all_equal(&cluster, 3, Some(&writer)).await;
        });
    }
}

/// Alpha and beta, which has acknowledged what it has not restored.
async fn acknowledged_only(seed: u64, release: &str) -> (Cluster, Writer) {
    acknowledged_only_and(seed, release, None).await
}

async fn acknowledged_only_and(
    seed: u64,
    release: &str,
    at_the_primary: Option<Arc<dyn Tamper>>,
) -> (Cluster, Writer) {
    let tree = Tree::chain(2);
    let (name, rule) = ("name = \"g1\"\n", format!("name = \"g1\"\nrelease = \"{release}\"\n"));
    let cluster = Cluster::of(seed, APART, 2, &tree.links(), |index, shape, random| {
        tree.config(index, shape, random).replace(name, &rule)
    });
    at_the_primary.into_iter().for_each(|tamper| cluster.plant(ALPHA, tamper));
    cluster.readers.set(1);
    all_normal(&cluster, 2).await;
    let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(APART)));
    let never = AtomicBool::new(false);
    hosts(&cluster, &mut writer, 100, &never).await;
    say(&cluster, BETA, "group restore g1 --until now").await;
    hosts(&cluster, &mut writer, 150, &never).await;
    let has_read = |cluster: &Cluster| {
        let durable = cluster.position(BETA).map(|(durable, _)| durable);
        durable.is_some() && durable == cluster.newest()
    };
    wait(&cluster, "beta has stored everything", has_read).await;
    cluster.sleep_ms(60_000).await; // What nobody holds is released.
    (cluster, writer)
}

/// What a copy has acknowledged and not restored is in no map of its pairs that are suspended then, if the primary has released it.
/// When the journal of the copy was lost, the next resync once left that out, and the pairs were `normal`.
fn a_suspended_copy_loses_what_it_acknowledged(seed: u64, loss: Loss, release: &str) {
    in_virtual_time(async {
        let (cluster, mut writer) = acknowledged_only(seed, release).await;
        let never = AtomicBool::new(false);
        let suspend = async || {
            say(&cluster, ALPHA, "group suspend g1").await;
            let is_suspended = |cluster: &Cluster| {
                let states = |side: usize| cluster.snapshot(side).unwrap().pairs;
                [ALPHA, BETA].iter().all(|side| states(*side).iter().all(|pair| pair.state == "suspended"))
            };
            wait(&cluster, "all are suspended", is_suspended).await;
        };
        match loss {
            Loss::TakenOver => unreachable!("there is no reserve"),
            Loss::Replaced => {
                cluster.disk(BETA, "j0").inject(Fault::Gone);
                hosts(&cluster, &mut writer, 50, &never).await;
                let has_failed =
                    |cluster: &Cluster| cluster.snapshot(BETA).unwrap().groups[0].state == "abnormal";
                wait(&cluster, "it has failed", has_failed).await;
                suspend().await;
            }
            Loss::GivenUp => {
                suspend().await;
                cluster.die(BETA, Death::PowerLoss).await;
                cluster.disk(BETA, "j0").inject(Fault::Gone);
                cluster.start(BETA).await;
                cluster.sleep_ms(500).await;
            }
        }
        hosts(&cluster, &mut writer, 50, &never).await;
        replace(&cluster, BETA).await;
        say(&cluster, BETA, "group restore g1 --go-on").await;
        say(&cluster, ALPHA, "group resync g1").await;
        comes_right(&cluster, 2, BETA).await;
        all_equal(&cluster, 2, Some(&writer)).await;
    });
}

#[test]
fn what_a_suspended_copy_acknowledged_and_lost_is_copied_by_the_next_resync() {
    a_suspended_copy_loses_what_it_acknowledged(1, Loss::Replaced, "read");
}

/// What a copy holds behind the loss of its journal it calls settled, also what it lost. It says so before its primary has marked anything, and once
/// more to a primary that died in between.
#[test]
fn what_a_copy_reports_before_its_loss_is_marked_hides_nothing_of_what_it_lost() {
    #[derive(Debug)]
    struct Dawdles;
    impl Tamper for Dawdles {
        fn before_marking_lost(&self) -> Duration {
            Duration::from_secs(8)
        }
    }
    for does_die in [false, true] {
        in_virtual_time(async {
            let (cluster, writer) = acknowledged_only_and(1, "read", Some(Arc::new(Dawdles))).await;
            cluster.die(BETA, Death::PowerLoss).await;
            cluster.disk(BETA, "j0").inject(Fault::Gone);
            cluster.start(BETA).await;
            cluster.sleep_ms(500).await;
            replace(&cluster, BETA).await;
            while cluster.command(BETA, "group restore g1 --go-on").await.is_err() {
                cluster.sleep_ms(100).await; // The group is not open again yet.
            }
            if does_die {
                cluster.sleep_ms(2_000).await;
                cluster.die(ALPHA, Death::Kill).await;
                cluster.start(ALPHA).await;
            }
            // Its pairs are `normal` until it has marked what they lack.
            cluster.sleep_ms(20_000).await;
            let is_equal = |cluster: &Cluster| {
                let restored = cluster.position(BETA).map(|(_, restored)| restored);
                cluster.is_normal(ALPHA) && restored.is_some() && restored == cluster.newest()
            };
            wait(&cluster, "beta has everything", is_equal).await;
            all_equal(&cluster, 2, Some(&writer)).await;
        });
    }
}

/// The primary began anew meanwhile, and knew of the copy what its last checkpoint said.
#[test]
fn a_copy_that_lost_what_it_acknowledged_is_not_refused_for_ever_by_a_primary_that_began_anew() {
    in_virtual_time(async {
        let (cluster, _) = acknowledged_only(1, "read").await;
        cluster.die(ALPHA, Death::PowerLoss).await;
        cluster.start(ALPHA).await;
        wait(&cluster, "both are there", |cluster| cluster.position(BETA).is_some()).await;
        cluster.sleep_ms(5_000).await;
        cluster.disk(BETA, "j0").inject(Fault::Gone);
        let mut after = Writer::new(101, Plan::mixed(101, geometry_of(APART)));
        let (ports, never) = (ports(&cluster), AtomicBool::new(false));
        after.run(&ports, &*cluster.clock, 8, Until { commands: 50, stop: &never }).await;
        let has_failed = |cluster: &Cluster| cluster.snapshot(BETA).unwrap().groups[0].state == "abnormal";
        wait(&cluster, "it has failed", has_failed).await;
        replace(&cluster, BETA).await;
        say(&cluster, BETA, "group restore g1 --go-on").await;
        comes_right(&cluster, 2, BETA).await;
        all_equal(&cluster, 2, None).await;
    });
}

/// The same at the primary: until the operator has decided, hosts are refused, for only the journal may have what they were
/// told is written. Afterwards they go on with what the volumes have, and the copies follow that.
#[test]
fn a_primary_that_comes_back_without_its_journal_serves_no_host_until_it_is_given_up() {
    for seed in 1..=2 {
        in_virtual_time(async {
            let cluster = Cluster::new(seed, APART);
            all_normal(&cluster, 3).await;
            let mut random = Random::new(seed);
            let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(APART)));
            let stop = AtomicBool::new(false);
            let losing = async {
                cluster.sleep_ms(50 + random.below(600)).await;
                cluster.die(ALPHA, Death::PowerLoss).await;
                stop.store(true, Ordering::Relaxed);
            };
            tokio::join!(hosts(&cluster, &mut writer, 300, &stop), losing);
            cluster.disk(ALPHA, "j0").inject(Fault::Gone);
            cluster.start(ALPHA).await;
            cluster.sleep_ms(1_000).await;
            let port = SimPort::new(&cluster, "reader", 9, ALPHA);
            let refused = tokio::select! {
                biased;
                image = read_image(&port, geometry_of(APART)) => image.is_err(),
                () = cluster.sleep_ms(5_000) => true,
            };
            assert!(refused, "what hosts read could lack what they were told is written");
            replace(&cluster, ALPHA).await;
            // What was lost is for the hosts to find out; what they write from here on is copied.
            let after = Writer::new(seed + 100, Plan::mixed(seed + 100, geometry_of(APART)));
            let never = AtomicBool::new(false);
            let (ports, mut after) = (ports(&cluster), after);
            let running = after.run(&ports, &*cluster.clock, 8, Until { commands: 200, stop: &never });
            tokio::select! {
                biased;
                _ = running => {}
                () = cluster.sleep_ms(300_000) => panic!("hosts do not go on: {}", cluster.state()),
            }
            comes_right(&cluster, 3, ALPHA).await;
            all_equal(&cluster, 3, None).await;
        });
    }
}

/// A unit of the RAID 5 that the journal lies on is lost while hosts write: the group goes on in the volume that stands in
/// reserve on other units, and nobody notices.
#[test]
fn a_degraded_parity_group_sends_the_journal_to_the_reserve_and_nobody_notices() {
    for seed in 1..=2 {
        in_virtual_time(async {
            let shape = Shape { is_journal_apart: false, second: Second::ReserveApart, ..APART };
            let cluster = Cluster::new(seed, shape);
            all_normal(&cluster, 3).await;
            let mut random = Random::new(seed);
            let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(shape)));
            let never = AtomicBool::new(false);
            let losing = async {
                cluster.sleep_ms(50 + random.below(600)).await;
                cluster.disk(ALPHA, "u1").inject(Fault::Gone);
            };
            tokio::join!(hosts(&cluster, &mut writer, 300, &never), losing);
            comes_right(&cluster, 3, ALPHA).await;
            let journals = cluster.snapshot(ALPHA).unwrap().journals;
            assert!(journals.iter().all(|journal| journal.state == "normal"), "{journals:?}");
            let audit = cluster.command(ALPHA, "audit list").await.unwrap();
            assert!(audit.contains("degraded") && !audit.contains("suspended"), "{audit}");
            // It stays there: the other one is still on a degraded group, though it could take a turn.
            hosts(&cluster, &mut writer, 600, &never).await;
            comes_right(&cluster, 3, ALPHA).await;
            all_equal(&cluster, 3, Some(&writer)).await;
        });
    }
}
