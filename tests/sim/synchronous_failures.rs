//! A synchronous pair of which one side has lost its journal, and one with a relay beside it (promise K1; decision 20): nothing that hosts
//! were answered is missing at the array that takes over, and hosts go on where nothing speaks against it.

use crate::cluster::{ALPHA, Cluster, Death, Second, Shape, Way};
use crate::in_virtual_time;
use crate::port::SimPort;
use crate::relay;
use crate::story::geometry_of;
use crate::support::wof::{Durability, HostError, HostPort, Place, Plan, SECTOR_BYTES, Until, Writer};
use crate::takeover::{BETA, begin, equal, go_on, group, ports, take_over, until, write};
use crate::tree::{SMALL, Tree};
use holdfast::disk::io::sim::Fault;
use std::sync::atomic::{AtomicBool, Ordering};

/// Each side has its journal on a unit of its own, and an ordinary volume that can take its place.
const APART: Shape =
    Shape { journal_kib: 12 << 10, is_journal_apart: true, second: Second::Ordinary, ..SMALL };

/// Alpha's hosts wait for beta; what its restore is like is added to beta's link.
fn pair_of(seed: u64, fence: &str, restore: &str) -> Cluster {
    let tree = Tree::chain(2);
    Cluster::of(seed, APART, 2, &tree.links(), |index, shape, random| {
        synchronous(&tree.config(index, shape, random), index, fence, restore)
    })
}

fn synchronous(text: &str, index: usize, fence: &str, restore: &str) -> String {
    let wish = format!("fence = \"{fence}\"\nfence_wait = \"{LIMIT_MS}ms\"\n");
    let mut out = String::new();
    for line in text.replace("svol_access = \"read\"\n", &wish).lines() {
        out += &format!("{line}\n");
        if line.starts_with("svol = ") {
            out += "copy = \"sync\"\n";
        }
        if index == BETA && line.starts_with("secret = ") {
            out += restore;
        }
    }
    out
}

fn state(cluster: &Cluster, index: usize) -> String {
    group(cluster, index).synchronous.map(|view| view.state).unwrap_or_default()
}

fn is_synchronised(cluster: &Cluster) -> bool {
    [ALPHA, BETA].iter().all(|index| state(cluster, *index) == "synchronised")
}

async fn until_synchronised(cluster: &Cluster) {
    until(cluster, "not synchronised", || is_synchronised(cluster)).await;
}

/// A host writes once.
async fn one_write(cluster: &Cluster, index: usize, lba: u64) -> Result<(), HostError> {
    let port = SimPort::new(cluster, "host", 5, index);
    let place = Place { volume: 0, lba, sectors: 1 };
    port.write(place, vec![7; SECTOR_BYTES].into(), Durability::Plain).await
}

async fn replace_journal(cluster: &Cluster, index: usize) {
    let line = "journal replace g1 --volume jnl --by jnl2 --yes";
    cluster.command(index, line).await.unwrap_or_else(|error| panic!("{error}: {}", cluster.state()));
}

/// The journal of the first fails under hosts that the fence keeps waiting. The operator lets them go on, then the journal is replaced.
#[test]
fn an_operator_lets_hosts_go_on_whose_journal_has_failed() {
    in_virtual_time(async {
        let cluster = pair_of(5, "data", "");
        let mut writer = Writer::new(5, Plan::mixed(5, geometry_of(APART)));
        begin(&cluster, &mut writer).await;
        until_synchronised(&cluster).await;
        cluster.disk(ALPHA, "j0").inject(Fault::Gone);
        assert!(one_write(&cluster, ALPHA, 3).await.is_err(), "no journal has it");
        until(&cluster, "nobody notices", || group(&cluster, ALPHA).state == "abnormal").await;
        cluster.sleep_ms(2 * LIMIT_MS).await;
        assert!(one_write(&cluster, ALPHA, 4).await.is_err(), "the fence forbids it: {}", cluster.state());
        // What replaces the journal changes nothing for hosts as long as beta is away.
        cluster.die(BETA, Death::PowerLoss).await;
        replace_journal(&cluster, ALPHA).await;
        until(&cluster, "not repaired", || {
            let group = group(&cluster, ALPHA);
            group.state == "normal" && group.next_update_number.is_some()
        })
        .await;
        assert!(one_write(&cluster, ALPHA, 5).await.is_err(), "{}", cluster.state());
        cluster.command(ALPHA, "group suspend g1 --reader beta").await.expect("it can be suspended");
        until(&cluster, "hosts are not answered alone", || state(&cluster, ALPHA) == "apart").await;
        assert_eq!(one_write(&cluster, ALPHA, 6).await, Ok(()));
        cluster.start(BETA).await;
        cluster.command(ALPHA, "group resync g1 --reader beta").await.expect("it is copied again");
        until_synchronised(&cluster).await;
    });
}

/// The journal of the first has failed and was given up, and the first dies: behind its next start the fence holds as before, until the operator says
/// that hosts go on.
#[test]
fn a_first_whose_journal_has_failed_answers_nobody_alone_behind_a_restart() {
    in_virtual_time(async {
        let cluster = pair_of(8, "data", "");
        let mut writer = Writer::new(8, Plan::mixed(8, geometry_of(APART)));
        begin(&cluster, &mut writer).await;
        until_synchronised(&cluster).await;
        cluster.disk(ALPHA, "j0").inject(Fault::Gone);
        assert!(one_write(&cluster, ALPHA, 3).await.is_err(), "no journal has it");
        until(&cluster, "nobody notices", || group(&cluster, ALPHA).state == "abnormal").await;
        cluster.sleep_ms(2 * LIMIT_MS).await;
        cluster.die(ALPHA, Death::PowerLoss).await;
        cluster.start(ALPHA).await;
        for _ in 0..3 {
            assert!(one_write(&cluster, ALPHA, 4).await.is_err(), "{}", cluster.state());
            assert_eq!(state(&cluster, ALPHA), "refused");
            cluster.sleep_ms(LIMIT_MS).await;
        }
        cluster.command(ALPHA, "group suspend g1 --reader beta").await.expect("it can be suspended");
        until(&cluster, "hosts are not answered alone", || state(&cluster, ALPHA) == "apart").await;
        cluster.sleep_ms(10).await;
        assert_eq!(one_write(&cluster, ALPHA, 5).await, Ok(()));
        replace_journal(&cluster, ALPHA).await;
        until(&cluster, "not repaired", || group(&cluster, ALPHA).state == "normal").await;
        cluster.command(ALPHA, "group resync g1 --reader beta").await.expect("it is copied again");
        until_synchronised(&cluster).await;
        equal(&cluster, ALPHA).await;
    });
}

/// The first dies between the record that its journal has failed and the one that the group is apart, and its journal can be read again: its
/// hosts are answered alone no earlier than that is recorded, when beta does not show itself any more.
#[test]
fn a_first_that_died_while_it_left_its_journal_is_apart_before_it_answers_alone() {
    in_virtual_time(async {
        let cluster = pair_of(9, "never", "");
        let mut writer = Writer::new(9, Plan::mixed(9, geometry_of(APART)));
        begin(&cluster, &mut writer).await;
        until_synchronised(&cluster).await;
        cluster.disk(ALPHA, "j0").inject(Fault::Gone);
        let dying = async {
            until(&cluster, "nobody notices", || group(&cluster, ALPHA).state == "abnormal").await;
            assert_ne!(state(&cluster, ALPHA), "apart", "too late for this story");
            cluster.die(ALPHA, Death::PowerLoss).await;
        };
        let (outcome, ()) = tokio::join!(one_write(&cluster, ALPHA, 3), dying);
        assert!(outcome.is_err(), "no journal has it");
        cluster.disk(ALPHA, "j0").heal();
        cluster.start(ALPHA).await;
        let begun = cluster.clock_ms();
        while one_write(&cluster, ALPHA, 4).await.is_err() {
            assert!(cluster.clock_ms() < begun + 10 * LIMIT_MS, "{}", cluster.state());
            cluster.sleep_ms(20).await;
        }
        assert_eq!(state(&cluster, ALPHA), "apart", "{}", cluster.state());
        assert!(cluster.clock_ms() >= begun + LIMIT_MS / 2 - 100, "beta may show itself still");
    });
}

/// Beta loses its journal with what it had confirmed and not restored, and alpha has freed that. With the fence `data` nothing is answered
/// that beta does not have, until it has everything again.
#[test]
fn a_second_that_lost_its_journal_is_copied_while_hosts_wait_for_it() {
    for seed in 1..=2 {
        in_virtual_time(async {
            let cluster = pair_of(seed, "data", "restore_delay = \"20s\"\n");
            let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(APART)));
            for index in [ALPHA, BETA] {
                cluster.start(index).await;
            }
            until_synchronised(&cluster).await;
            write(&cluster, &mut writer, ALPHA, 80).await;
            until_synchronised(&cluster).await;
            cluster.sleep_ms(12_000).await; // Alpha has it on its units, and lets go of what beta has in its journal.
            cluster.disk(BETA, "j0").inject(Fault::Gone);
            let (stop, ports) = (AtomicBool::new(false), ports(&cluster, ALPHA));
            let running = writer.run(&ports, &*cluster.clock, 8, Until { commands: u64::MAX, stop: &stop });
            let repairing = async {
                until(&cluster, "nobody notices", || group(&cluster, BETA).state == "abnormal").await;
                replace_journal(&cluster, BETA).await;
                let mut was_copied = false;
                let since = cluster.clock_ms();
                while !(was_copied && is_synchronised(&cluster)) {
                    assert_ne!(state(&cluster, ALPHA), "apart", "nobody has asked for that");
                    was_copied |=
                        !cluster.snapshot(ALPHA).unwrap().pairs.iter().all(|pair| pair.state == "normal");
                    assert!(
                        cluster.clock_ms() < since + 400_000,
                        "it does not come back: {}",
                        cluster.state()
                    );
                    cluster.sleep_ms(10).await;
                }
                cluster.sleep_ms(500).await;
                cluster.die(ALPHA, Death::PowerLoss).await;
                stop.store(true, Ordering::Relaxed);
            };
            let (summary, ()) = tokio::join!(running, repairing);
            assert_eq!(summary.violations, []);
            assert!(summary.acknowledged > 0, "hosts go on when it has everything");
            take_over(&cluster, BETA).await;
            go_on(&cluster, &mut writer, BETA, true).await;
        });
    }
}

/// While what beta lost is copied a takeover there goes back to the image that it keeps: what it confirms meanwhile is answered to nobody, with
/// the fence `data`.
#[test]
fn hosts_are_answered_nothing_while_a_second_that_lost_its_journal_is_no_image() {
    in_virtual_time(async {
        let cluster = pair_of(3, "data", "restore_delay = \"20s\"\n");
        let mut writer = Writer::new(3, Plan::mixed(3, geometry_of(APART)));
        for index in [ALPHA, BETA] {
            cluster.start(index).await;
        }
        until_synchronised(&cluster).await;
        write(&cluster, &mut writer, ALPHA, 80).await;
        cluster.sleep_ms(12_000).await;
        cluster.disk(BETA, "j0").inject(Fault::Gone);
        let ports = ports(&cluster, ALPHA);
        let stop = AtomicBool::new(false);
        let running = writer.run(&ports, &*cluster.clock, 8, Until { commands: u64::MAX, stop: &stop });
        let noticing = async {
            until(&cluster, "nobody notices", || group(&cluster, BETA).state == "abnormal").await;
            stop.store(true, Ordering::Relaxed);
        };
        tokio::join!(running, noticing);
        // What is copied waits for beta's delay of its restore; what hosts write meanwhile is sent there, and durable.
        replace_journal(&cluster, BETA).await;
        let are_normal = || cluster.snapshot(ALPHA).unwrap().pairs.iter().all(|pair| pair.state == "normal");
        until(&cluster, "nothing is copied", || !are_normal()).await;
        let stop = AtomicBool::new(false);
        let running = writer.run(&ports, &*cluster.clock, 8, Until { commands: u64::MAX, stop: &stop });
        let copying = async {
            cluster.sleep_ms(3 * LIMIT_MS).await;
            assert!(!are_normal(), "too late for this story");
            stop.store(true, Ordering::Relaxed);
        };
        let (summary, ()) = tokio::join!(running, copying);
        assert!(!are_normal(), "too late for this story");
        assert_eq!(
            (summary.acknowledged, state(&cluster, ALPHA) == "apart"),
            (0, false),
            "{}",
            cluster.state()
        );
        until_synchronised(&cluster).await;
        write(&cluster, &mut writer, ALPHA, 40).await;
        cluster.die(ALPHA, Death::PowerLoss).await;
        take_over(&cluster, BETA).await;
        go_on(&cluster, &mut writer, BETA, true).await;
    });
}

/// A volume joins a group whose hosts wait: until its copy is restored a takeover lacks it, and neither side says that everything is there.
#[test]
fn a_first_says_that_all_is_there_when_a_volume_that_was_added_is() {
    in_virtual_time(async {
        let cluster = pair_of(10, "data", "restore_delay = \"5s\"\n");
        for index in [ALPHA, BETA] {
            cluster.start(index).await;
        }
        until_synchronised(&cluster).await;
        let line = "pair create p9 --group g1 --pvol jnl2 --svol beta:jnl2 --copy sync";
        cluster.command(ALPHA, line).await.expect("it is made");
        let are_normal = || cluster.snapshot(ALPHA).unwrap().pairs.iter().all(|pair| pair.state == "normal");
        let mut looks = 0;
        while !are_normal() {
            assert_ne!(state(&cluster, ALPHA), "synchronised", "{}", cluster.state());
            looks += 1;
            assert!(looks < 4_000, "it is not copied: {}", cluster.state());
            cluster.sleep_ms(20).await;
        }
        assert!(looks > 100, "too fast for this story");
        until_synchronised(&cluster).await;
    });
}

/// A relay is there, too: what is sent to beta goes the direct way, and over the relay only what is written while there is no other.
#[test]
fn a_relay_takes_no_host_from_its_synchronous_copy() {
    in_virtual_time(async {
        let tree = Tree::star(1);
        let ways = [("alpha", "beta"), ("alpha", "gamma"), ("beta", "gamma")];
        let cluster = Cluster::of(7, SMALL, 3, &ways, |index, shape, random| match index {
            GAMMA => relay::target_config("gamma", 3, 4096),
            _ => synchronous(&tree.config(index, shape, random), index, "never", ""),
        });
        for index in [ALPHA, BETA, GAMMA] {
            cluster.start(index).await;
        }
        let mut writer = Writer::new(7, Plan::mixed(7, geometry_of(SMALL)));
        until_synchronised(&cluster).await;
        relay::create(&cluster, "r1", "gamma").await;
        let has_newest = || {
            let links = cluster.snapshot(ALPHA).unwrap().links;
            let newest = links.into_iter().filter_map(|link| link.relay?.newest_update_number).max();
            newest.is_some() && newest == cluster.newest()
        };
        let begun = cluster.clock_ms();
        while cluster.clock_ms() < begun + 6_000 {
            write(&cluster, &mut writer, ALPHA, 10).await;
            assert!(is_synchronised(&cluster), "hosts wait for beta: {}", cluster.state());
            let over = group(&cluster, BETA).follows.map(|follows| follows.reads_over);
            assert_eq!(over.as_deref(), Some("alpha"));
            cluster.sleep_ms(200).await;
        }
        until(&cluster, "the relay is not written", has_newest).await;
        cluster.set_way("alpha", "beta", Way::Cut);
        write(&cluster, &mut writer, ALPHA, 60).await;
        until(&cluster, "not over the relay", || {
            let follows = group(&cluster, BETA).follows.unwrap_or_default();
            follows.reads_over == "r1" && Some(follows.durable_update_number) == cluster.newest()
        })
        .await;
        assert_eq!(state(&cluster, ALPHA), "apart");
        cluster.heal();
        until_synchronised(&cluster).await;
        write(&cluster, &mut writer, ALPHA, 30).await;
        assert!(is_synchronised(&cluster));
    });
}

const GAMMA: usize = 2;
/// What hosts wait for at most.
const LIMIT_MS: u64 = 2_000;
