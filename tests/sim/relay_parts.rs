//! A third and a fourth array at once (promise X7; `004_…`, claims 10 and 20; decision 21): each journal goes over one of two relays, and
//! the copy merges them by the numbers of updates. What either of them may have when it is lost is sent again over the other.

use crate::cluster::{ALPHA, Cluster, Death, Way, target_name};
use crate::in_virtual_time;
use crate::port::SimPort;
use crate::readers::{say, wait, write};
use crate::relay::{
    BETA, DELTA, GAMMA, cluster_with, create_for, equal, has_everything, reads_over, running,
};
use crate::relay_drain::{PAGE_BYTES, page, take_over};
use crate::relay_hosts::{one_write, state};
use crate::support::wof::{DurableRule, Observed, Writer, check_crash, check_prefix};
use crate::synchronous::Planted;
use holdfast::channel::host::{HostLun, lun};
use holdfast::channel::initiator::SessionOptions;
use holdfast::copy::tamper::SynchronousDefect;
use holdfast_journal::format::relay::Batch;
use std::sync::Arc;
use std::time::Duration;

const TARGETS: [(&str, &str); 2] = [("r1", "gamma"), ("r2", "delta")];

async fn with_parts(seed: u64) -> (Cluster, Writer, Vec<SimPort>) {
    let (cluster, writer, ports) = running(seed).await;
    for (relay, target) in TARGETS {
        create_for(&cluster, relay, target, " --journals parts").await;
    }
    wait(&cluster, "it is read over a relay", |cluster| reads_over(cluster).starts_with('r')).await;
    (cluster, writer, ports)
}

/// The batches of the chain that lies on a target.
async fn batches(cluster: &Cluster, target: &str) -> Vec<Batch> {
    let (connector, options) = (cluster.connector("host"), SessionOptions::default());
    let address = format!("{target}:3260");
    let session = connector.session(&address, &target_name(target), &options).await.unwrap();
    let unit = HostLun::open(session, lun(1), Duration::from_secs(10)).await.unwrap();
    let pages = unit.blocks * u64::from(unit.block_bytes) / u64::from(PAGE_BYTES);
    let mut found: Vec<Batch> = Vec::new();
    for at in 1..pages {
        let decoded = Batch::decode(&page(&unit, at).await).ok().map(|(batch, _)| batch);
        found.extend(decoded.filter(|batch| batch.place == at));
    }
    // Remainders of earlier chains lie there, too.
    let newest = found.iter().max_by_key(|batch| batch.wall_ns).map(|batch| batch.incarnation);
    found.retain(|batch| Some(batch.incarnation) == newest);
    found
}

fn newest_on(cluster: &Cluster, index: usize, relay: &str) -> u64 {
    let links = cluster.snapshot(index).unwrap().links;
    let found = links.into_iter().find(|link| link.name == relay).and_then(|link| link.relay);
    found.and_then(|relay| relay.newest_update_number).unwrap_or(0)
}

async fn everything_is_on_relays(cluster: &Cluster) -> u64 {
    wait(cluster, "the relays have everything", |cluster| {
        let newest = TARGETS.map(|(relay, _)| newest_on(cluster, ALPHA, relay)).into_iter().max();
        newest == cluster.newest()
    })
    .await;
    cluster.sleep_ms(1_000).await;
    cluster.newest().unwrap()
}

#[test]
fn each_journal_goes_over_one_of_two_relays_and_the_copy_merges_them() {
    for seed in 1..=2 {
        in_virtual_time(async {
            let (cluster, mut writer, ports) = with_parts(seed).await;
            cluster.set_way("alpha", "beta", Way::Cut);
            write(&cluster, &mut writer, &ports, 600).await;
            equal(&cluster).await;
            let [one, other] = [batches(&cluster, "gamma").await, batches(&cluster, "delta").await];
            assert!(one.len() > 4 && other.len() > 4, "{} and {} batches", one.len(), other.len());
            let is_apart = |a: &Batch, b: &Batch| a.last < b.first || b.last < a.first;
            assert!(one.iter().all(|a| other.iter().all(|b| is_apart(a, b))), "something went over both");
            // By turns, not one after the other: numbers of each lie between those of the other.
            let ends = |of: &[Batch]| (of.iter().map(|b| b.first).min(), of.iter().map(|b| b.last).max());
            assert!(ends(&one).0 < ends(&other).1 && ends(&other).0 < ends(&one).1);
            // Times are shown at both arrays.
            for index in [ALPHA, BETA] {
                let links = cluster.snapshot(index).unwrap().links;
                let relays: Vec<_> = links.into_iter().filter_map(|link| link.relay).collect();
                assert!(
                    relays.iter().all(|relay| relay.newest_unix_ms.is_some() && relay.journals == "parts")
                );
            }
        });
    }
}

#[test]
fn what_a_lost_relay_may_have_goes_over_the_other_one() {
    for seed in 1..=3 {
        in_virtual_time(async {
            let (cluster, mut writer, ports) = with_parts(seed).await;
            cluster.set_way("alpha", "beta", Way::Cut);
            write(&cluster, &mut writer, &ports, 100).await;
            let (lost, target) = [(GAMMA, "gamma"), (DELTA, "delta")][usize::try_from(seed % 2).unwrap()];
            // It holds what the copy has not read.
            cluster.set_way("beta", "gamma", Way::Cut);
            cluster.set_way("beta", "delta", Way::Cut);
            write(&cluster, &mut writer, &ports, 20).await;
            cluster.die(lost, Death::PowerLoss).await;
            cluster.heal();
            cluster.set_way("alpha", "beta", Way::Cut);
            write(&cluster, &mut writer, &ports, 60).await;
            equal(&cluster).await;
            // Back, and it gets its part again.
            cluster.start(lost).await;
            cluster.sleep_ms(4_000).await;
            write(&cluster, &mut writer, &ports, 100).await;
            equal(&cluster).await;
            // The copy alone does not reach it.
            let before = newest_on(&cluster, ALPHA, if lost == GAMMA { "r1" } else { "r2" });
            assert!(before > 0);
            cluster.set_way("beta", target, Way::Silent);
            write(&cluster, &mut writer, &ports, 100).await;
            equal(&cluster).await;
        });
    }
}

#[test]
fn a_takeover_merges_what_both_relays_have() {
    for seed in 1..=4 {
        in_virtual_time(async {
            let (cluster, mut writer, ports) = with_parts(seed).await;
            write(&cluster, &mut writer, &ports, 60).await;
            equal(&cluster).await;
            let had = cluster.position(BETA).unwrap().0;
            cluster.die(BETA, Death::PowerLoss).await;
            write(&cluster, &mut writer, &ports, 30).await;
            let newest = everything_is_on_relays(&cluster).await;
            let parts = [batches(&cluster, "gamma").await, batches(&cluster, "delta").await];
            let is_needed = |part: &Vec<Batch>| part.iter().any(|batch| batch.last.get() > had);
            assert!(parts.iter().all(is_needed), "both have some of it");
            cluster.die(ALPHA, Death::PowerLoss).await;
            cluster.start(BETA).await;
            cluster.sleep_ms([0, 30, 200, 2_000][usize::try_from(seed % 4).unwrap()]).await;
            take_over(&cluster).await;
            let group = cluster.snapshot(BETA).unwrap().groups[0].clone();
            assert!(group.next_update_number > Some(newest), "{newest}: {group:?}");
            let log = writer.log();
            let found = Observed::from_images(log, &cluster.visible_copies(BETA).await);
            check_crash(log, &found, DurableRule::Acknowledged).expect_clean("the new primary");
        });
    }
}

/// One of the two is gone with the first array: what follows a gap is not used.
#[test]
fn a_takeover_that_reaches_one_of_two_relays_finds_one_moment() {
    for seed in 1..=2 {
        in_virtual_time(async {
            let (cluster, mut writer, ports) = with_parts(seed).await;
            write(&cluster, &mut writer, &ports, 60).await;
            equal(&cluster).await;
            let had = cluster.position(BETA).unwrap().0;
            cluster.die(BETA, Death::PowerLoss).await;
            write(&cluster, &mut writer, &ports, 30).await;
            everything_is_on_relays(&cluster).await;
            cluster.die(ALPHA, Death::PowerLoss).await;
            cluster.die(if seed == 1 { GAMMA } else { DELTA }, Death::PowerLoss).await;
            cluster.start(BETA).await;
            let begun = cluster.clock_ms();
            take_over(&cluster).await;
            assert!(cluster.clock_ms() < begun + 40_000, "{} ms", cluster.clock_ms() - begun);
            let next = cluster.snapshot(BETA).unwrap().groups[0].next_update_number;
            assert!(next > Some(had));
            let log = writer.log();
            let found = Observed::from_images(log, &cluster.visible_copies(BETA).await);
            check_prefix(log, &found).expect_clean("the new primary");
        });
    }
}

/// Hosts that wait are answered by all of them together, and by those that are left when one is lost.
#[test]
fn hosts_wait_for_relays_with_parts_together() {
    in_virtual_time(async {
        let cluster = cluster_with(5, "fence = \"data\"\nfence_wait = \"4000ms\"\n");
        for index in 0..4 {
            cluster.start(index).await;
        }
        wait(&cluster, "beta is normal", |cluster| cluster.is_normal(BETA)).await;
        for (relay, target) in TARGETS {
            create_for(&cluster, relay, target, " --journals parts --hosts wait").await;
        }
        let both = |cluster: &Cluster| {
            [ALPHA, BETA].map(|index| state(cluster, index)) == ["synchronised", "synchronised"]
        };
        wait(&cluster, "both show it", both).await;
        // The copy is away, and so is the direct way to it: what hosts are answered is on the relays.
        cluster.die(BETA, Death::PowerLoss).await;
        let mut took = Vec::new();
        for lba in 1..40 {
            took.push(one_write(&cluster, lba).await);
        }
        assert!(took.iter().all(|(ms, outcome)| *ms < 100 && outcome.is_ok()), "{took:?}");
        // One is lost: a host waits until what it had is on the other one, and no longer.
        cluster.die(DELTA, Death::PowerLoss).await;
        let (took_ms, outcome) = one_write(&cluster, 41).await;
        assert!(took_ms < 4_000 && outcome.is_ok(), "{took_ms} ms: {outcome:?}");
        wait(&cluster, "everything is on the other one", |cluster| state(cluster, ALPHA) == "synchronised")
            .await;
        let newest = cluster.newest().unwrap();
        cluster.die(ALPHA, Death::PowerLoss).await;
        cluster.start(BETA).await;
        take_over(&cluster).await;
        let next = cluster.snapshot(BETA).unwrap().groups[0].next_update_number;
        assert!(next > Some(newest), "{next:?}, {newest} was answered");
    });
}

/// A relay is lost, and the first array while what that had is written again: whether what was there before is there still.
async fn is_found_though_it_is_written_again(seed: u64, defect: Option<SynchronousDefect>) -> bool {
    let (cluster, mut writer, ports) = with_parts(seed).await;
    if let Some(defect) = defect {
        // From its next start on.
        cluster.plant(ALPHA, Arc::new(Planted(defect)));
        cluster.die(ALPHA, Death::Kill).await;
        cluster.start(ALPHA).await;
    }
    write(&cluster, &mut writer, &ports, 60).await;
    equal(&cluster).await;
    cluster.die(BETA, Death::PowerLoss).await;
    write(&cluster, &mut writer, &ports, 25).await;
    let newest = everything_is_on_relays(&cluster).await;
    let (lost, kept, target) =
        [(GAMMA, "r2", "delta"), (DELTA, "r1", "gamma")][usize::try_from(seed % 2).unwrap()];
    let before = newest_on(&cluster, ALPHA, kept);
    assert!(before > 0);
    // The other one is slow, so that its new chain is never as long as the two were.
    cluster.set_way("alpha", target, Way::Slow);
    cluster.die(lost, Death::PowerLoss).await;
    wait(&cluster, "it is begun anew", |cluster| newest_on(cluster, ALPHA, kept) < before).await;
    cluster.sleep_ms([0, 3][usize::try_from(seed / 2 % 2).unwrap()]).await;
    cluster.die(ALPHA, Death::PowerLoss).await;
    if seed > 2 {
        // And once more, started anew.
        cluster.start(ALPHA).await;
        cluster.sleep_ms(300).await;
        cluster.die(ALPHA, Death::PowerLoss).await;
    }
    cluster.heal();
    cluster.start(lost).await;
    cluster.start(BETA).await;
    take_over(&cluster).await;
    let log = writer.log();
    let found = Observed::from_images(log, &cluster.visible_copies(BETA).await);
    check_prefix(log, &found).expect_clean("the new primary");
    cluster.snapshot(BETA).unwrap().groups[0].next_update_number > Some(newest)
}

#[test]
fn a_first_array_that_is_lost_while_parts_are_written_again_leaves_what_it_had() {
    for seed in 1..=4 {
        assert!(in_virtual_time(is_found_though_it_is_written_again(seed, None)), "seed {seed}");
    }
    // The story is worth what it finds.
    let forgotten = Some(SynchronousDefect::RoundsForgotten);
    let is_lost = |seed| !in_virtual_time(is_found_though_it_is_written_again(seed, forgotten));
    assert!((1..=4).any(is_lost), "what is overwritten is not missed");
}

#[test]
fn parts_are_chosen_at_the_first_array_and_hosts_wait_for_all_of_them_or_for_none() {
    in_virtual_time(async {
        let (cluster, ..) = running(4).await;
        let line = |relay: &str, side: &str, array: u32, more: &str| {
            format!(
                "link create {relay} --array {array} --portal gamma:3260 --target iqn.2026-11.example:{relay} --group g1 \
                 --luns 1,2,3 --as {side} --journals {more}"
            )
        };
        say(&cluster, ALPHA, &line("r1", "first", 2, "parts --hosts wait")).await;
        for (index, side, other, more, why) in [
            (BETA, "second", 1, "parts", "at the first array"),
            (ALPHA, "first", 2, "parts", "for all of these relays or for none"),
            (ALPHA, "first", 2, "all --hosts wait", "wait for relay r1, which gets parts"),
            (ALPHA, "first", 2, "half", "all or parts"),
        ] {
            let said =
                cluster.command(index, &line("r2", side, other, more)).await.expect_err("it is refused");
            assert!(said.contains(why), "{said}");
        }
        say(&cluster, ALPHA, &line("r2", "first", 2, "parts --hosts wait")).await;
        assert!(has_everything(&cluster));
    });
}
