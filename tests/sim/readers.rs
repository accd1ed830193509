//! Readers that come and go while hosts write (promise T1; claims 11 and 12): an array becomes a reader of a running
//! group and is taken away again, one keeps journals without S-VOLs and gets them later, and one gets a new pair while
//! all its others are suspended.

use crate::cluster::{ALPHA, Cluster, Death, Way};
use crate::in_virtual_time;
use crate::port::SimPort;
use crate::story::geometry_of;
use crate::support::wof::{Plan, Until, Writer};
use crate::tree::{SMALL, Tree};
use std::sync::atomic::AtomicBool;

const BETA: usize = 1;
const GAMMA: usize = 2;

/// A primary with one reader, and a third array that has nothing to do with it yet.
async fn running(seed: u64) -> (Cluster, Writer, Vec<SimPort>) {
    let tree = Tree { later: vec![GAMMA], ..Tree::star(2) };
    let cluster = tree.cluster(seed, SMALL);
    for index in 0..3 {
        cluster.start(index).await;
    }
    let writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SMALL)));
    let ports = (1..=2)
        .map(|number| SimPort::new(&cluster, "host", number, ALPHA).thinking_ms(4))
        .collect::<Vec<_>>();
    wait(&cluster, "beta is normal", |cluster| cluster.is_normal(BETA)).await;
    (cluster, writer, ports)
}

pub(crate) async fn wait(cluster: &Cluster, what: &str, is_so: impl Fn(&Cluster) -> bool) {
    let since = cluster.clock_ms();
    while !is_so(cluster) {
        assert!(cluster.clock_ms() < since + 60_000, "{what}: {}", cluster.state());
        cluster.sleep_ms(20).await;
    }
}

pub(crate) async fn write(cluster: &Cluster, writer: &mut Writer, ports: &[SimPort], commands: u64) {
    let never = AtomicBool::new(false);
    let until = Until { commands, stop: &never };
    let running = writer.run(ports, &*cluster.clock, 4, until);
    let summary = tokio::select! {
        biased;
        summary = running => summary,
        () = cluster.sleep_ms(120_000) => panic!("hosts do not go on: {}", cluster.state()),
    };
    assert_eq!(summary.violations, [], "reads while writing");
}

pub(crate) async fn say(cluster: &Cluster, index: usize, line: &str) {
    if let Err(error) = cluster.command(index, line).await {
        panic!("{line}: {error}");
    }
}

/// States of pairs as an array shows them.
fn states(cluster: &Cluster, index: usize, of: &str) -> Vec<String> {
    let pairs = cluster.snapshot(index).expect("it runs").pairs;
    pairs.into_iter().filter(|pair| pair.name.ends_with(of)).map(|pair| pair.state).collect()
}

fn are(states: &[String], count: usize, state: &str) -> bool {
    states.len() == count && states.iter().all(|one| one == state)
}

async fn equal(cluster: &Cluster, index: usize) {
    wait(cluster, "it has caught up", |cluster| {
        let follows = cluster.snapshot(index).and_then(|snapshot| snapshot.groups[0].follows.clone());
        follows.map(|follows| follows.restored_update_number) == cluster.newest()
    })
    .await;
    let top = cluster.array(ALPHA).expect("it runs");
    for (volume, copy) in (1..).zip(cluster.visible_copies(index).await) {
        let data = top.read_volume(&format!("data{volume}")).await.expect("it can be read");
        assert!(copy == data, "volume {volume} differs");
    }
}

async fn pairs_with_gamma(cluster: &Cluster) {
    for volume in 1..=SMALL.volumes {
        let line =
            format!("pair create p{volume}-gamma --group g1 --pvol data{volume} --svol gamma:copy{volume}");
        say(cluster, ALPHA, &line).await;
    }
}

#[test]
fn a_reader_is_added_to_a_running_group_and_taken_away_again() {
    for seed in 1..=3 {
        in_virtual_time(async {
            let (cluster, mut writer, ports) = running(seed).await;
            write(&cluster, &mut writer, &ports, 100).await;
            say(&cluster, ALPHA, "journal add g1 --volume jnl --at gamma").await;
            pairs_with_gamma(&cluster).await;
            write(&cluster, &mut writer, &ports, 200).await;
            wait(&cluster, "gamma is normal", |cluster| cluster.is_normal(GAMMA)).await;
            equal(&cluster, GAMMA).await;
            assert_eq!(cluster.snapshot(ALPHA).unwrap().groups[0].readers.len(), 2);
            say(&cluster, ALPHA, "group delete g1 --reader gamma --yes").await;
            write(&cluster, &mut writer, &ports, 100).await;
            let gone = |cluster: &Cluster| {
                let (top, gamma) = (cluster.snapshot(ALPHA).unwrap(), cluster.snapshot(GAMMA).unwrap());
                let journal = gamma.volumes.iter().find(|volume| volume.name == "jnl").unwrap().usage.clone();
                top.groups[0].readers.len() == 1
                    && top.pairs.len() == usize::from(SMALL.volumes)
                    && gamma.groups.is_empty()
                    && gamma.pairs.is_empty()
                    && journal == "host"
            };
            wait(&cluster, "gamma is gone", gone).await;
            equal(&cluster, BETA).await;
            // And it can come back.
            say(&cluster, ALPHA, "journal add g1 --volume jnl --at gamma").await;
            pairs_with_gamma(&cluster).await;
            write(&cluster, &mut writer, &ports, 50).await;
            wait(&cluster, "gamma is normal again", |cluster| cluster.is_normal(GAMMA)).await;
            equal(&cluster, GAMMA).await;
        });
    }
}

#[test]
fn a_keeper_of_journals_reads_without_s_vols_and_gets_some_later() {
    for seed in 1..=3 {
        in_virtual_time(async {
            let (cluster, mut writer, ports) = running(seed).await;
            say(&cluster, ALPHA, "journal add g1 --volume jnl --at gamma").await;
            write(&cluster, &mut writer, &ports, 200).await;
            let keeps = |cluster: &Cluster| {
                let reader =
                    cluster.snapshot(ALPHA).unwrap().groups[0].readers.iter().find(|r| r.array == 3).cloned();
                reader.is_some_and(|reader| Some(reader.durable_update_number) == cluster.newest())
            };
            wait(&cluster, "gamma has the journals", keeps).await;
            assert!(cluster.snapshot(GAMMA).unwrap().pairs.is_empty());
            // What it keeps survives it.
            cluster.die(GAMMA, Death::PowerLoss).await;
            write(&cluster, &mut writer, &ports, 50).await;
            cluster.start(GAMMA).await;
            wait(&cluster, "gamma has the journals again", keeps).await;
            pairs_with_gamma(&cluster).await;
            write(&cluster, &mut writer, &ports, 100).await;
            wait(&cluster, "gamma is normal", |cluster| cluster.is_normal(GAMMA)).await;
            equal(&cluster, GAMMA).await;
        });
    }
}

#[test]
fn a_new_pair_does_not_wait_until_the_suspended_ones_of_its_reader_go_on() {
    for seed in 1..=4 {
        in_virtual_time(async {
            let (cluster, mut writer, ports) = running(seed).await;
            say(&cluster, ALPHA, "journal add g1 --volume jnl --at gamma").await;
            for volume in 1..=2 {
                let line = format!(
                    "pair create p{volume}-gamma --group g1 --pvol data{volume} --svol gamma:copy{volume}"
                );
                say(&cluster, ALPHA, &line).await;
            }
            wait(&cluster, "two are normal", |cluster| are(&states(cluster, GAMMA, "gamma"), 2, "normal"))
                .await;
            write(&cluster, &mut writer, &ports, 100).await;
            if seed % 2 == 0 {
                cluster.set_way("alpha", "gamma", Way::Cut); // It hears of all this at once.
            }
            say(&cluster, ALPHA, "group suspend g1 --reader gamma").await;
            wait(&cluster, "they are suspended", |cluster| {
                are(&states(cluster, ALPHA, "gamma"), 2, "suspended")
            })
            .await;
            // What is not held for it any more is soon gone.
            write(&cluster, &mut writer, &ports, 400).await;
            say(&cluster, ALPHA, "pair create p3-gamma --group g1 --pvol data3 --svol gamma:copy3").await;
            cluster.set_way("alpha", "gamma", Way::Up);
            write(&cluster, &mut writer, &ports, 50).await;
            wait(&cluster, "the new one is normal", |cluster| {
                states(cluster, GAMMA, "p3-gamma") == ["normal"]
            })
            .await;
            assert_eq!(states(&cluster, ALPHA, "p1-gamma"), ["suspended"]);
            assert_eq!(states(&cluster, GAMMA, "p2-gamma"), ["suspended"]);
            say(&cluster, ALPHA, "group resync g1 --reader gamma").await;
            wait(&cluster, "all are normal", |cluster| cluster.is_normal(GAMMA)).await;
            equal(&cluster, GAMMA).await;
        });
    }
}
