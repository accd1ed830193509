//! What readings with hostile eyes found in relays (decision 21): each test fails without its remedy.

use crate::cluster::{ALPHA, Cluster, Death, Way, target_name};
use crate::in_virtual_time;
use crate::port::SimPort;
use crate::readers::{say, wait, write};
use crate::relay::{BETA, GAMMA, WAYS, create, equal, has_everything, reads_over, running, target_config};
use crate::story::geometry_of;
use crate::support::wof::{DurableRule, Observed, Plan, Writer, check_crash};
use crate::tree::{SMALL, Tree};
use holdfast::channel::host::{Durability, HostLun, lun};
use holdfast::channel::initiator::SessionOptions;
use std::time::Duration;

const DELTA: usize = 3;

async fn is_primary(cluster: &Cluster) {
    wait(cluster, "beta is the primary", |cluster| {
        cluster.snapshot(BETA).unwrap().groups[0].role == "primary"
    })
    .await;
}

async fn is_on(cluster: &Cluster, relay: &str) {
    wait(cluster, "the relay has everything", |cluster| {
        let links = cluster.snapshot(ALPHA).unwrap().links;
        let relay = links.iter().find(|link| link.name == relay).and_then(|link| link.relay.clone());
        relay.and_then(|relay| relay.newest_update_number) == cluster.newest()
    })
    .await;
}

async fn nothing_is_lost(cluster: &Cluster, writer: &Writer) {
    let log = writer.log();
    let found = Observed::from_images(log, &cluster.visible_copies(BETA).await);
    check_crash(log, &found, DurableRule::Acknowledged).expect_clean("the new primary");
}

/// What the operator chose for other times, an interval and a delay, let a takeover wait until it gave up.
#[test]
fn a_takeover_reads_its_relay_at_once_whatever_the_schedule_says() {
    for (seed, read) in [(1, "every 60s"), (2, "periodic 60s"), (3, "fixed 40s")] {
        in_virtual_time(async {
            let (cluster, mut writer, ports) = running(seed).await;
            create(&cluster, "r1", "gamma").await;
            wait(&cluster, "it is read over the relay", |cluster| reads_over(cluster) == "r1").await;
            write(&cluster, &mut writer, &ports, 60).await;
            equal(&cluster).await;
            let line = ["link", "set", "alpha", "--read", read, "--restore-delay", "1h"];
            cluster.command_of(BETA, line.map(str::to_owned).to_vec()).await.expect("it is set");
            cluster.sleep_ms(1_000).await;
            cluster.set_way("alpha", "beta", Way::Cut);
            for _ in 0..3 {
                write(&cluster, &mut writer, &ports, 20).await;
                cluster.sleep_ms(500).await;
            }
            is_on(&cluster, "r1").await;
            cluster.die(ALPHA, Death::PowerLoss).await;
            let since = cluster.clock_ms();
            say(&cluster, BETA, "group takeover g1 --yes").await;
            is_primary(&cluster).await;
            assert!(cluster.clock_ms() < since + 15_000, "{read}: {} ms", cluster.clock_ms() - since);
            nothing_is_lost(&cluster, &writer).await;
        });
    }
}

/// The other copy that was chosen as the source kept the relay from being read.
#[test]
fn a_takeover_reads_its_relay_though_another_copy_is_its_source() {
    in_virtual_time(async {
        let tree = Tree { other: vec![(BETA, GAMMA)], ..Tree::star(2) };
        let ways = [&WAYS[..3], &[("alpha", "delta"), ("beta", "delta")]].concat();
        let cluster = Cluster::of(5, SMALL, 4, &ways, |index, shape, random| match index {
            DELTA => target_config("delta", 4, 2048),
            _ => tree.config(index, shape, random),
        });
        cluster.readers.set(2);
        for index in 0..4 {
            cluster.start(index).await;
        }
        let mut writer = Writer::new(5, Plan::mixed(5, geometry_of(SMALL)));
        let ports: Vec<SimPort> =
            (1..=2).map(|number| SimPort::new(&cluster, "host", number, ALPHA).thinking_ms(4)).collect();
        let normal = |cluster: &Cluster| cluster.is_normal(BETA) && cluster.is_normal(GAMMA);
        wait(&cluster, "both are normal", normal).await;
        create(&cluster, "r1", "delta").await;
        say(&cluster, BETA, "group set g1 --source gamma").await;
        wait(&cluster, "it is read from gamma", |cluster| reads_over(cluster) == "gamma").await;
        write(&cluster, &mut writer, &ports, 60).await;
        wait(&cluster, "the copy has everything", has_everything).await;
        cluster.set_way("alpha", "gamma", Way::Cut);
        cluster.set_way("alpha", "beta", Way::Cut);
        write(&cluster, &mut writer, &ports, 20).await;
        is_on(&cluster, "r1").await;
        cluster.die(ALPHA, Death::PowerLoss).await;
        say(&cluster, BETA, "group takeover g1 --yes").await;
        is_primary(&cluster).await;
        nothing_is_lost(&cluster, &writer).await;
    });
}

/// The newest number of a first array that was dead for hours was taken for news of now.
#[test]
fn a_copy_that_only_a_relay_is_left_to_does_not_show_itself_as_level_with_a_dead_array() {
    in_virtual_time(async {
        let (cluster, mut writer, ports) = running(4).await;
        create(&cluster, "r1", "gamma").await;
        wait(&cluster, "it is read over the relay", |cluster| reads_over(cluster) == "r1").await;
        cluster.set_way("alpha", "beta", Way::Cut);
        write(&cluster, &mut writer, &ports, 60).await;
        equal(&cluster).await;
        let behind = |cluster: &Cluster| {
            let group = cluster.snapshot(BETA).unwrap().groups[0].clone();
            group.follows.and_then(|follows| follows.behind_top_ms)
        };
        wait(&cluster, "it is level", |cluster| behind(cluster).is_some_and(|behind| behind < 3_000)).await;
        cluster.die(ALPHA, Death::PowerLoss).await;
        cluster.sleep_ms(60_000).await;
        assert!(behind(&cluster).is_none_or(|behind| behind > 50_000), "{:?}", behind(&cluster));
        // Nor when it starts, and finds what was said a minute ago.
        cluster.die(BETA, Death::Kill).await;
        cluster.start(BETA).await;
        wait(&cluster, "it is read over the relay", |cluster| reads_over(cluster) == "r1").await;
        cluster.sleep_ms(2_000).await;
        assert!(behind(&cluster).is_none_or(|behind| behind > 50_000), "{:?}", behind(&cluster));
    });
}

/// A relay that is made again with LUNs that hold a chain goes on without an update of it.
#[test]
fn a_relay_that_is_made_again_begins_anew() {
    in_virtual_time(async {
        let (cluster, mut writer, ports) = running(6).await;
        create(&cluster, "r1", "gamma").await;
        wait(&cluster, "it is read over the relay", |cluster| reads_over(cluster) == "r1").await;
        cluster.die(BETA, Death::PowerLoss).await;
        write(&cluster, &mut writer, &ports, 20).await;
        is_on(&cluster, "r1").await;
        say(&cluster, ALPHA, "link delete r1 --yes").await;
        cluster.sleep_ms(3_000).await;
        cluster.start(BETA).await;
        say(&cluster, BETA, "link delete r1 --yes").await;
        cluster.sleep_ms(3_000).await;
        create(&cluster, "r1", "gamma").await;
        wait(&cluster, "it is read over the relay", |cluster| reads_over(cluster) == "r1").await;
        cluster.set_way("alpha", "beta", Way::Cut);
        write(&cluster, &mut writer, &ports, 60).await;
        equal(&cluster).await;
    });
}

/// The link is down, and the relay loses what it had acknowledged: nobody wrote it again.
#[test]
fn what_a_relay_has_lost_is_written_again_though_nothing_else_connects_the_arrays() {
    in_virtual_time(async {
        let (cluster, mut writer, ports) = running(7).await;
        create(&cluster, "r1", "gamma").await;
        wait(&cluster, "it is read over the relay", |cluster| reads_over(cluster) == "r1").await;
        cluster.set_way("alpha", "beta", Way::Cut);
        cluster.die(BETA, Death::Kill).await;
        write(&cluster, &mut writer, &ports, 20).await;
        is_on(&cluster, "r1").await;
        let connector = cluster.connector("host");
        let options = SessionOptions::default();
        let session = connector.session("gamma:3260", &target_name("gamma"), &options).await.unwrap();
        let journal = HostLun::open(session, lun(1), Duration::from_secs(5)).await.unwrap();
        let page = 4096 / u64::from(journal.block_bytes);
        // All but the label.
        for at in 1..journal.blocks / page {
            journal.write(at * page, vec![0; 4096], Durability::Forced).await.unwrap();
        }
        cluster.start(BETA).await;
        equal(&cluster).await;
        assert_eq!(reads_over(&cluster), "r1");
    });
}
