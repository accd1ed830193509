//! Restore with a delay on purpose (promise J11) that changes, ends and begins while arrays die: the S-VOLs are always the
//! image of one moment, and never of an earlier one than was visible.

use crate::cluster::{ALPHA, Cluster, Death, Way};
use crate::in_virtual_time;
use crate::overflow::{all_normal, equal, states, write};
use crate::resync::{GAMMA, SHAPE, ports, until, until_normal};
use crate::story::geometry_of;
use crate::support::random::Random;
use crate::support::wof::{Observed, Plan, Writer, check_prefix};
use holdfast::disk::io::sim::{Fault, SimDisk};
use std::time::Duration;

async fn say(cluster: &Cluster, delay: &str) {
    let line = format!("group schedule g1 --link alpha --restore immediate --restore-delay {delay}");
    cluster.command(GAMMA, &line).await.unwrap();
}

fn restored(cluster: &Cluster) -> u64 {
    let snapshot = cluster.snapshot(GAMMA).expect("it runs");
    snapshot.groups[0].follows.as_ref().expect("it copies").restored_update_number
}

async fn is_one_moment(cluster: &Cluster, writer: &Writer, what: &str) {
    let images = cluster.visible_copies(GAMMA).await;
    check_prefix(writer.log(), &Observed::from_images(writer.log(), &images)).expect_clean(what);
}

/// A longer delay once counted for what was visible already: behind a death the S-VOLs were older in some pages than in
/// others, and of an earlier number than before.
#[test]
fn a_death_behind_a_change_of_the_delay_leaves_s_vols_at_what_was_visible() {
    for seed in 131..=132 {
        in_virtual_time(async {
            let cluster = Cluster::new(seed, SHAPE);
            let mut random = Random::new(seed);
            let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
            all_normal(&cluster).await;
            let ports = ports(&cluster);
            for round in 0..5 {
                say(&cluster, ["0s", "150ms", "900ms"][random.index(3)]).await;
                write(&cluster, &mut writer, &ports, 120).await;
                cluster.sleep_ms(random.below(1_200)).await;
                say(&cluster, ["600ms", "2s", "10min"][random.index(3)]).await;
                cluster.sleep_ms(random.below(2) * random.below(40)).await;
                let before = restored(&cluster);
                let death = if round % 2 == 0 { Death::Kill } else { Death::PowerLoss };
                if let Some(found) = cluster.take_over(GAMMA, death).await {
                    let log = writer.log();
                    check_prefix(log, &Observed::from_images(log, &found.images)).expect_clean("a takeover");
                    assert!(found.restored >= before, "{} after {before}", found.restored);
                }
                cluster.die(GAMMA, death).await;
                cluster.start(GAMMA).await;
                let after = restored(&cluster);
                assert!(after >= before, "round {round}: {before} was visible, {after} is");
                is_one_moment(&cluster, &writer, "behind the death").await;
            }
            say(&cluster, "0s").await;
            until_normal(&cluster).await;
            equal(&cluster, &writer).await;
        });
    }
}

/// Records of its copy that nobody had restored once stopped restore for all pairs behind the next start.
#[test]
fn what_is_held_of_a_pair_that_is_taken_away_is_passed_over_behind_a_restart() {
    for (seed, is_held_here) in [(141, true), (142, false)] {
        in_virtual_time(async {
            let cluster = Cluster::new(seed, SHAPE);
            for array in 0..3 {
                cluster.start(array).await;
            }
            let group_is_there = || cluster.snapshot(GAMMA).is_some_and(|now| !now.groups.is_empty());
            until(&cluster, "no group", group_is_there).await;
            say(&cluster, "10min").await;
            if !is_held_here {
                cluster.set_way("alpha", "gamma", Way::Slow);
            }
            let is_copied = || {
                let pairs = states(&cluster, GAMMA, "gamma");
                pairs.len() == usize::from(SHAPE.volumes)
                    && pairs.iter().all(|(state, ..)| state == "being-copied")
            };
            until(&cluster, "not copied", is_copied).await;
            cluster.sleep_ms(if is_held_here { 3_000 } else { 1_000 }).await;
            cluster.command(ALPHA, "pair delete p1-gamma --yes").await.unwrap();
            let is_gone = || {
                [ALPHA, GAMMA].iter().all(|at| {
                    let pairs = cluster.snapshot(*at).unwrap().pairs;
                    pairs.iter().all(|pair| pair.name != "p1-gamma")
                })
            };
            until(&cluster, "not taken away", is_gone).await;
            cluster.die(GAMMA, Death::Kill).await;
            cluster.start(GAMMA).await;
            say(&cluster, "0s").await;
            cluster.heal();
            let others_are_normal = || {
                let pairs = states(&cluster, GAMMA, "gamma");
                pairs.len() == usize::from(SHAPE.volumes) - 1
                    && pairs.iter().all(|(state, ..)| state == "normal")
            };
            until(&cluster, "restore does not go on", others_are_normal).await;
        });
    }
}

/// A link that was cut while everything was restored before a journal began anew once left a checkpoint half written: with a delay nothing was
/// restored any more, until the array was started again.
#[test]
fn a_link_that_is_cut_while_a_journal_begins_anew_does_not_stop_restore() {
    in_virtual_time(async {
        let cluster = Cluster::new(151, SHAPE);
        let mut writer = Writer::new(151, Plan::mixed(151, geometry_of(SHAPE)));
        all_normal(&cluster).await;
        let ports = ports(&cluster);
        let disks = ["u0", "u1", "u2"].map(|unit| cluster.disk(GAMMA, unit));
        for after_ms in [300, 900, 1_500, 2_100, 2_700, 3_300] {
            write(&cluster, &mut writer, &ports, 20).await;
            cluster.command(ALPHA, "group suspend g1 --reader gamma").await.unwrap();
            let are = |state: &str| states(&cluster, GAMMA, "gamma").iter().all(|(found, ..)| found == state);
            until(&cluster, "not suspended", || are("suspended")).await;
            write(&cluster, &mut writer, &ports, 20).await;
            say(&cluster, "10min").await;
            cluster.command(ALPHA, "group resync g1 --reader gamma").await.unwrap();
            until(&cluster, "no resync", || are("being-copied")).await;
            disks.iter().for_each(|disk| disk.inject(Fault::Slow(Duration::from_millis(200))));
            cluster.sleep_ms(after_ms).await;
            cluster.set_way("alpha", "gamma", Way::Cut);
            cluster.sleep_ms(100).await;
            cluster.heal();
            disks.iter().for_each(SimDisk::heal);
            cluster.sleep_ms(5_000).await;
            say(&cluster, "0s").await;
            until_normal(&cluster).await;
        }
        equal(&cluster, &writer).await;
    });
}
