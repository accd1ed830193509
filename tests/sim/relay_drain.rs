//! What a takeover finds on a relay (promise X5) when something is in its way: a full journal, damage that passes, a portal that is
//! silent. In each story the first array is gone for good, and only the relay has its last updates.

use crate::cluster::{ALPHA, Cluster, Death, Way, target_name};
use crate::in_virtual_time;
use crate::readers::{say, wait, write};
use crate::relay::{BETA, create, equal, reads_over, running};
use crate::support::wof::{DurableRule, Observed, Writer, check_crash};
use holdfast::channel::host::{Durability, HostLun, lun};
use holdfast::channel::initiator::SessionOptions;
use holdfast_journal::format::relay::Batch;
use std::time::Duration;

pub(crate) async fn has_arrived_on_r1(cluster: &Cluster) -> u64 {
    wait(cluster, "the relay has everything", |cluster| {
        let links = cluster.snapshot(ALPHA).unwrap().links;
        let relay = links.into_iter().find(|link| link.name == "r1").and_then(|link| link.relay);
        relay.and_then(|relay| relay.newest_update_number) == cluster.newest()
    })
    .await;
    cluster.newest().unwrap()
}

/// Beta takes over: the command answers when it is the primary.
pub(super) async fn take_over(cluster: &Cluster) {
    say(cluster, BETA, "group takeover g1 --yes").await;
    wait(cluster, "beta is the primary", |cluster| {
        cluster.snapshot(BETA).unwrap().groups[0].role == "primary"
    })
    .await;
}

/// Everything up to that update is here, and no write is lost that a host was answered.
async fn lacks_nothing(cluster: &Cluster, writer: &Writer, newest: u64) {
    let group = cluster.snapshot(BETA).unwrap().groups[0].clone();
    assert!(group.next_update_number > Some(newest), "{newest}: {group:?}");
    let log = writer.log();
    let found = Observed::from_images(log, &cluster.visible_copies(BETA).await);
    check_crash(log, &found, DurableRule::Acknowledged).expect_clean("the new primary");
}

fn reason_of_r1(cluster: &Cluster) -> String {
    let links = cluster.snapshot(BETA).unwrap().links;
    links.into_iter().find(|link| link.name == "r1").and_then(|link| link.reason).unwrap_or_default()
}

#[test]
fn a_journal_that_a_delayed_restore_keeps_full_leaves_nothing_on_the_relay() {
    for seed in 1..=2 {
        in_virtual_time(async {
            let (cluster, mut writer, ports) = running(seed).await;
            create(&cluster, "r1", "gamma").await;
            cluster.set_way("alpha", "beta", Way::Cut);
            wait(&cluster, "it is read over the relay", |cluster| reads_over(cluster) == "r1").await;
            say(&cluster, BETA, "group schedule g1 --link alpha --restore immediate --restore-delay 1h")
                .await;
            // Until what comes has no room there.
            while cluster.position(BETA).unwrap().0 == has_arrived_on_r1(&cluster).await {
                write(&cluster, &mut writer, &ports, 30).await;
                cluster.sleep_ms(1_000).await;
            }
            write(&cluster, &mut writer, &ports, 10).await;
            let newest = has_arrived_on_r1(&cluster).await;
            assert!(cluster.position(BETA).unwrap().0 < newest, "there is no room for it");
            cluster.die(ALPHA, Death::PowerLoss).await;
            take_over(&cluster).await;
            lacks_nothing(&cluster, &writer, newest).await;
        });
    }
}

/// The journal LUN of r1, as a host reaches it.
pub(crate) async fn journal_lun(cluster: &Cluster) -> HostLun {
    lun_of(cluster, 1).await
}

/// A LUN of r1, by its number.
pub(crate) async fn lun_of(cluster: &Cluster, number: u16) -> HostLun {
    let (connector, options) = (cluster.connector("host"), SessionOptions::default());
    let session = connector.session("gamma:3260", &target_name("gamma"), &options).await.unwrap();
    HostLun::open(session, lun(number), Duration::from_secs(10)).await.unwrap()
}

pub(crate) async fn page(unit: &HostLun, page: u64) -> Vec<u8> {
    let count = PAGE_BYTES / unit.block_bytes;
    unit.read(page * u64::from(count), count).await.unwrap()
}

pub(crate) async fn write_page(unit: &HostLun, page: u64, bytes: Vec<u8>) {
    let count = u64::from(PAGE_BYTES / unit.block_bytes);
    unit.write(page * count, bytes, Durability::Forced).await.unwrap();
}

/// Where the newest batch lies.
pub(crate) async fn newest_batch(unit: &HostLun) -> Batch {
    let pages = unit.blocks * u64::from(unit.block_bytes) / u64::from(PAGE_BYTES);
    let mut newest: Option<Batch> = None;
    for at in 1..pages {
        let found = Batch::decode(&page(unit, at).await).ok().map(|(batch, _)| batch);
        newest = newest.into_iter().chain(found).max_by_key(|batch| batch.last);
    }
    newest.expect("there is a batch")
}

#[test]
fn what_cannot_be_read_for_a_moment_is_read_after_it() {
    for seed in 1..=2 {
        in_virtual_time(async {
            let (cluster, mut writer, ports) = running(seed).await;
            create(&cluster, "r1", "gamma").await;
            wait(&cluster, "it is read over the relay", |cluster| reads_over(cluster) == "r1").await;
            write(&cluster, &mut writer, &ports, 60).await;
            equal(&cluster).await;
            cluster.die(BETA, Death::PowerLoss).await;
            write(&cluster, &mut writer, &ports, 12).await;
            let newest = has_arrived_on_r1(&cluster).await;
            cluster.die(ALPHA, Death::PowerLoss).await;
            let unit = journal_lun(&cluster).await;
            let place = newest_batch(&unit).await.place + 1;
            let good = page(&unit, place).await;
            write_page(&unit, place, vec![0xa5; good.len()]).await;
            cluster.start(BETA).await;
            cluster.sleep_ms(100).await;
            let repair = async {
                wait(&cluster, "it is seen", |cluster| reason_of_r1(cluster).contains("damaged")).await;
                cluster.sleep_ms(300).await;
                write_page(&unit, place, good).await;
            };
            tokio::join!(take_over(&cluster), repair);
            lacks_nothing(&cluster, &writer, newest).await;
        });
    }
}

/// And one that stays damaged ends it in time.
#[test]
fn a_relay_that_cannot_be_read_ends_a_takeover_no_later_than_one_that_is_slow() {
    in_virtual_time(async {
        let (cluster, mut writer, ports) = running(3).await;
        create(&cluster, "r1", "gamma").await;
        wait(&cluster, "it is read over the relay", |cluster| reads_over(cluster) == "r1").await;
        cluster.die(BETA, Death::PowerLoss).await;
        write(&cluster, &mut writer, &ports, 12).await;
        has_arrived_on_r1(&cluster).await;
        cluster.die(ALPHA, Death::PowerLoss).await;
        let unit = journal_lun(&cluster).await;
        let place = newest_batch(&unit).await.place + 1;
        write_page(&unit, place, vec![0xa5; usize::try_from(PAGE_BYTES).unwrap()]).await;
        cluster.start(BETA).await;
        let begun = cluster.clock_ms();
        take_over(&cluster).await;
        let took_ms = cluster.clock_ms() - begun;
        assert!((6_000..20_000).contains(&took_ms), "{took_ms} ms");
    });
}

#[test]
fn a_silent_portal_does_not_hide_one_that_answers() {
    for seed in 1..=2 {
        in_virtual_time(async {
            let (cluster, mut writer, ports) = running(seed).await;
            for (index, other, side) in [(ALPHA, 2, "first"), (BETA, 1, "second")] {
                let iqn = target_name("gamma");
                let line = format!(
                    "link create r1 --array {other} --portal delta:3260 gamma:3260 --target {iqn} --group g1 --luns 1,2,3 --as {side}"
                );
                say(&cluster, index, &line).await;
            }
            wait(&cluster, "it is read over the relay", |cluster| reads_over(cluster) == "r1").await;
            write(&cluster, &mut writer, &ports, 60).await;
            equal(&cluster).await;
            cluster.die(BETA, Death::PowerLoss).await;
            write(&cluster, &mut writer, &ports, 12).await;
            let newest = has_arrived_on_r1(&cluster).await;
            cluster.die(ALPHA, Death::PowerLoss).await;
            cluster.set_way("beta", "delta", Way::Silent);
            cluster.start(BETA).await;
            cluster.sleep_ms(100).await;
            take_over(&cluster).await;
            lacks_nothing(&cluster, &writer, newest).await;
        });
    }
}

pub(crate) const PAGE_BYTES: u32 = 4096;
