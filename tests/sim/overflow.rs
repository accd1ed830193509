//! A reader stays away until the journal is full because of it: its pairs go to difference maps, hosts and the other
//! reader do not notice, and it comes back by itself with a copy of the differences only (promise O1). And pairs and
//! groups are taken away under load (promise O2).

use crate::cluster::{ALPHA, ARRAYS, Cluster, Death, EIGHT, Shape, Way};
use crate::in_virtual_time;
use crate::port::SimPort;
use crate::story::geometry_of;
use crate::support::wof::{
    DurableRule, Observed, Plan, Until, Writer, check_crash, check_prefix, read_image,
};
use std::sync::atomic::AtomicBool;

const GAMMA: usize = 2;
/// Larger volumes than the other stories have: what is copied afterwards has to be less than all.
const WIDE: Shape = Shape { volume_kib: 16_384, ..EIGHT };

pub(crate) async fn all_normal(cluster: &Cluster) {
    for array in 0..3 {
        cluster.start(array).await;
    }
    while !(0..3).all(|index| cluster.is_normal(index)) {
        cluster.sleep_ms(20).await;
    }
    // What a reader has not settled yet counts as different, the initial copy included.
    cluster.sleep_ms(8_000).await;
}

/// Hosts send this many commands more.
pub(crate) async fn write(cluster: &Cluster, writer: &mut Writer, ports: &[SimPort], commands: u64) -> u64 {
    let never = AtomicBool::new(false);
    let until = Until { commands, stop: &never };
    let running = writer.run(ports, &*cluster.clock, 8, until);
    let summary = tokio::select! {
        biased;
        summary = running => summary,
        () = cluster.sleep_ms(120_000) => panic!("hosts do not go on: {}", cluster.state()),
    };
    assert_eq!(summary.violations, [], "reads while writing");
    summary.retries
}

pub(crate) fn states(cluster: &Cluster, array: usize, reader: &str) -> Vec<(String, Option<String>, u64)> {
    let snapshot = cluster.snapshot(array).expect("it runs");
    let pairs = snapshot.pairs.into_iter().filter(|pair| pair.name.ends_with(reader));
    pairs.map(|pair| (pair.state, pair.reason, pair.difference_bytes)).collect()
}

pub(crate) async fn equal(cluster: &Cluster, writer: &Writer) {
    let geometry = writer.log().geometry();
    let primary = read_image(&SimPort::new(cluster, "reader", 9, ALPHA), geometry).await.unwrap();
    let log = writer.log();
    check_crash(log, &Observed::from_images(log, &primary), DurableRule::Acknowledged)
        .expect_clean("the primary");
    for (index, name) in ARRAYS.iter().enumerate().skip(1) {
        let copy = read_image(&SimPort::new(cluster, "reader", 9, index), geometry).await.unwrap();
        assert!(copy == primary, "{name} differs");
    }
}

fn overflow(seed: u64, death: Option<Death>) {
    in_virtual_time(async {
        let cluster = Cluster::new(seed, WIDE);
        all_normal(&cluster).await;
        let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(WIDE)));
        let ports: Vec<SimPort> =
            (1..=4).map(|number| SimPort::new(&cluster, "host", number, ALPHA).thinking_ms(5)).collect();
        cluster.set_way("alpha", "gamma", Way::Cut);
        let mut rounds = 0;
        while states(&cluster, ALPHA, "gamma").iter().any(|(state, ..)| state != "suspended") {
            let retries = write(&cluster, &mut writer, &ports, 300).await;
            assert_eq!(retries, 0, "no command waits for the reader that is away until its session ends");
            rounds += 1;
            assert!(rounds < 60, "the journal never overflows: {}", cluster.state());
        }
        for (_, reason, _) in states(&cluster, ALPHA, "gamma") {
            assert!(reason.is_some_and(|reason| reason.contains("full")), "it says why");
        }
        if let Some(death) = death {
            // The marks survive whatever had happened since the last checkpoint.
            cluster.die(ALPHA, death).await;
            cluster.start(ALPHA).await;
            let image =
                read_image(&SimPort::new(&cluster, "reader", 9, ALPHA), geometry_of(WIDE)).await.unwrap();
            let observed = Observed::from_images(writer.log(), &image);
            writer
                .resume_after_crash(&observed)
                .unwrap_or_else(|verdict| panic!("after the crash: {verdict}"));
        }
        // The journal goes round several times without gamma; beta follows all along.
        for round in 0..5 {
            let retries = write(&cluster, &mut writer, &ports, 300).await;
            assert!(retries == 0 || (death.is_some() && round == 0), "{retries} retries in round {round}");
        }
        // Right after a restart of the primary beta may need a moment to be let in again, and overflow, too.
        let beta = states(&cluster, ALPHA, "beta");
        let follows = beta.iter().all(|(state, ..)| state == "normal");
        assert!(follows || death.is_some(), "{}", cluster.state());
        let marked: u64 = states(&cluster, ALPHA, "gamma").iter().map(|(.., bytes)| bytes).sum();
        let whole = (WIDE.volume_kib << 10) * u64::from(WIDE.volumes);
        assert!(marked > 0 && marked < whole, "{marked} of {whole} bytes are marked");
        let taken = cluster.take_over(GAMMA, Death::PowerLoss).await;
        if let Some(taken) = taken {
            let log = writer.log();
            check_prefix(log, &Observed::from_images(log, &taken.images)).expect_clean("gamma, left behind");
        }
        cluster.set_way("alpha", "gamma", Way::Up);
        let since = cluster.clock_ms();
        while !(0..3).all(|index| cluster.is_normal(index))
            || cluster.position(GAMMA).map(|(_, r)| r) != cluster.newest()
        {
            assert!(cluster.clock_ms() < since + 120_000, "gamma does not come back: {}", cluster.state());
            cluster.sleep_ms(50).await;
        }
        cluster.sleep_ms(1_000).await;
        equal(&cluster, &writer).await;
        assert!(states(&cluster, ALPHA, "gamma").iter().all(|(.., bytes)| *bytes == 0), "no mark is left");
    });
}

#[test]
fn a_reader_that_stays_away_goes_to_difference_maps_and_comes_back_by_itself() {
    (1..=3).for_each(|seed| overflow(seed, None));
}

#[test]
fn marks_survive_a_power_loss_of_the_primary() {
    (11..=13).for_each(|seed| overflow(seed, Some(Death::PowerLoss)));
    overflow(14, Some(Death::Kill));
}

/// Hosts wait for a reader that is away for as long as the group's `--throttle` says, once, and then never again.
fn wait_within(throttle_s: u64) {
    in_virtual_time(async {
        let (seed, budget_ms) = (throttle_s, throttle_s * 1_000);
        let cluster = Cluster::new(seed, Shape { throttle_s, ..EIGHT });
        all_normal(&cluster).await;
        let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(EIGHT)));
        let ports = [SimPort::new(&cluster, "host", 1, ALPHA).thinking_ms(5)];
        cluster.set_way("alpha", "gamma", Way::Cut);
        let (mut longest_ms, mut behind) = (0, 0);
        while behind < 30 {
            let since = cluster.clock_ms();
            write(&cluster, &mut writer, &ports, 10).await;
            let took_ms = cluster.clock_ms() - since;
            longest_ms = longest_ms.max(took_ms);
            let is_suspended =
                states(&cluster, ALPHA, "gamma").iter().all(|(state, ..)| state == "suspended");
            behind += u64::from(is_suspended);
            assert!(is_suspended || longest_ms < budget_ms + 1_000, "they go on behind {longest_ms} ms");
        }
        let few_ms = 1_000;
        assert!(longest_ms >= budget_ms && longest_ms < budget_ms + few_ms, "{longest_ms} of {budget_ms} ms");
        let beta = states(&cluster, ALPHA, "beta");
        assert!(
            beta.iter().all(|(state, ..)| state == "normal"),
            "the other one does not notice ({budget_ms} ms)"
        );
    });
}

#[test]
fn hosts_wait_for_a_reader_no_longer_than_the_budget_of_their_group() {
    [0, 3, 12].into_iter().for_each(wait_within);
}

fn take_away(seed: u64) {
    in_virtual_time(async {
        let cluster = Cluster::new(seed, EIGHT);
        all_normal(&cluster).await;
        let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(EIGHT)));
        let ports: Vec<SimPort> =
            (1..=4).map(|number| SimPort::new(&cluster, "host", number, ALPHA).thinking_ms(5)).collect();
        write(&cluster, &mut writer, &ports, 200).await;
        let commands = async {
            for volume in 1..=EIGHT.volumes {
                cluster.command(ALPHA, &format!("pair delete p{volume}-gamma --yes")).await.unwrap();
            }
            cluster.sleep_ms(200).await;
            cluster.command(ALPHA, "group delete g1 --yes").await.unwrap();
        };
        tokio::join!(write(&cluster, &mut writer, &ports, 600), commands);
        let since = cluster.clock_ms();
        let left = |index: usize| {
            let snapshot = cluster.snapshot(index).unwrap();
            snapshot.pairs.len() + snapshot.groups.len()
        };
        while (0..3).any(|index| left(index) > 0) {
            assert!(cluster.clock_ms() < since + 60_000, "something is left: {}", cluster.state());
            cluster.sleep_ms(50).await;
        }
        for (index, name) in ARRAYS.iter().enumerate() {
            for volume in cluster.snapshot(index).unwrap().volumes {
                assert_eq!(volume.state, "normal", "{} at {name}", volume.name);
            }
        }
        // What hosts wrote on the way is there, and outlives a power loss as on any other volume.
        write(&cluster, &mut writer, &ports, 200).await;
        cluster.die(ALPHA, Death::PowerLoss).await;
        cluster.start(ALPHA).await;
        let image =
            read_image(&SimPort::new(&cluster, "reader", 9, ALPHA), geometry_of(EIGHT)).await.unwrap();
        let log = writer.log();
        check_crash(log, &Observed::from_images(log, &image), DurableRule::Flushed)
            .expect_clean("the primary");
    });
}

#[test]
fn pairs_and_groups_are_taken_away_while_hosts_write() {
    (1..=4).for_each(take_away);
}

/// One pair is suspended and resynchronised while the others of its reader go on, and the primary dies right after the
/// copy of the differences has begun: the marks of the last moments were only in memory before that.
fn resync_one_pair(seed: u64, death: Death) {
    in_virtual_time(async {
        let cluster = Cluster::new(seed, EIGHT);
        all_normal(&cluster).await;
        let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(EIGHT)));
        let ports: Vec<SimPort> =
            (1..=4).map(|number| SimPort::new(&cluster, "host", number, ALPHA).thinking_ms(5)).collect();
        write(&cluster, &mut writer, &ports, 100).await;
        cluster.command(ALPHA, "pair suspend p1-gamma").await.unwrap();
        while states(&cluster, GAMMA, "p1-gamma")[0].0 != "suspended" {
            cluster.sleep_ms(10).await;
        }
        cluster.sleep_ms(7_000).await; // Everything so far is behind a checkpoint.
        write(&cluster, &mut writer, &ports, 60).await;
        cluster.command(ALPHA, "pair resync p1-gamma").await.unwrap();
        while states(&cluster, ALPHA, "p1-gamma")[0].0 == "suspended" {
            cluster.sleep_ms(1).await;
        }
        cluster.die(ALPHA, death).await;
        cluster.start(ALPHA).await;
        let image =
            read_image(&SimPort::new(&cluster, "reader", 9, ALPHA), geometry_of(EIGHT)).await.unwrap();
        let observed = Observed::from_images(writer.log(), &image);
        writer.resume_after_crash(&observed).unwrap_or_else(|verdict| panic!("after the crash: {verdict}"));
        let since = cluster.clock_ms();
        while !(0..3).all(|index| cluster.is_normal(index))
            || (1..3).any(|index| cluster.position(index).map(|(_, r)| r) != cluster.newest())
        {
            assert!(cluster.clock_ms() < since + 120_000, "not normal again: {}", cluster.state());
            cluster.sleep_ms(50).await;
        }
        equal(&cluster, &writer).await;
    });
}

#[test]
fn a_resync_of_one_pair_loses_no_mark_when_the_primary_dies_as_it_begins() {
    (21..=26).for_each(|seed| resync_one_pair(seed, Death::PowerLoss));
    (31..=33).for_each(|seed| resync_one_pair(seed, Death::Kill));
}

/// A pair whose S-VOL is not there was suspended with the others of its reader, and asked for again with them; that it never could be
/// accepted there once kept all the others suspended.
#[test]
fn a_pair_whose_s_vol_is_missing_does_not_keep_the_others_suspended() {
    in_virtual_time(async {
        let cluster = Cluster::new(41, EIGHT);
        all_normal(&cluster).await;
        let mut writer = Writer::new(41, Plan::mixed(41, geometry_of(EIGHT)));
        let ports: Vec<SimPort> =
            (1..=4).map(|number| SimPort::new(&cluster, "host", number, ALPHA).thinking_ms(5)).collect();
        let make = |name: &'static str| format!("volume create {name} --parity-group pg0 --size 1MiB");
        cluster.command(ALPHA, &make("data9")).await.unwrap();
        // It is catalogued, and offered until its S-VOL is there.
        drop(cluster.command(ALPHA, "pair create p9 --group g1 --pvol data9 --svol gamma:copy9").await);
        let until = async |what: &str, is: &dyn Fn() -> bool| {
            let since = cluster.clock_ms();
            while !is() {
                assert!(cluster.clock_ms() < since + 60_000, "{what}: {}", cluster.state());
                cluster.sleep_ms(20).await;
            }
        };
        let are = |name: &str, state: &str| {
            let found = states(&cluster, ALPHA, name);
            !found.is_empty() && found.iter().all(|(found, ..)| found == state)
        };
        until("it is not catalogued", &|| !states(&cluster, ALPHA, "p9").is_empty()).await;
        cluster.command(ALPHA, "group suspend g1 --reader gamma").await.unwrap();
        until("not suspended", &|| are("-gamma", "suspended") && are("p9", "suspended")).await;
        write(&cluster, &mut writer, &ports, 60).await;
        cluster.command(ALPHA, "group resync g1 --reader gamma").await.unwrap();
        until("the others wait for it", &|| are("-gamma", "normal")).await;
        assert!(are("p9", "suspended"));
        cluster.command(GAMMA, &make("copy9")).await.unwrap();
        until("it is not copied", &|| are("p9", "normal")).await;
        write(&cluster, &mut writer, &ports, 60).await;
        let has_all = || {
            let restored = cluster.snapshot(GAMMA).unwrap().groups[0].follows.clone();
            restored.map(|follows| follows.restored_update_number) == cluster.newest()
        };
        until("gamma is behind", &has_all).await;
        cluster.sleep_ms(1_000).await;
        equal(&cluster, &writer).await;
    });
}
