//! A relay that changes under its two arrays (promises X2, X3, X6): its journal LUN grows, a batch on it is lost, and its first array is
//! gone while the second goes on looking at what it left.

use crate::cluster::{ALPHA, Cluster, Death, Way};
use crate::in_virtual_time;
use crate::readers::{say, wait, write};
use crate::relay::{BETA, GAMMA, create, equal, has_everything, reads_over, running};
use crate::relay_drain::{PAGE_BYTES, has_arrived_on_r1, journal_lun, newest_batch, write_page};

/// Its session at the relay ends, and it opens another one.
async fn new_session(cluster: &Cluster, array: &str, index: usize) {
    cluster.set_way(array, "gamma", Way::Cut);
    wait(cluster, "it notices", |cluster| state_of_r1(cluster, index) != "up").await;
    cluster.set_way(array, "gamma", Way::Up);
    wait(cluster, "it is back", |cluster| state_of_r1(cluster, index) == "up").await;
}

fn state_of_r1(cluster: &Cluster, index: usize) -> String {
    let links = cluster.snapshot(index).unwrap().links;
    links.into_iter().find(|link| link.name == "r1").unwrap().state
}

fn capacity_bytes(cluster: &Cluster) -> u64 {
    let links = cluster.snapshot(ALPHA).unwrap().links;
    links.into_iter().find(|link| link.name == "r1").and_then(|link| link.relay).unwrap().capacity_bytes
}

#[test]
fn a_journal_lun_that_grows_hides_nothing_and_is_used_to_its_end() {
    for seed in 1..=4 {
        in_virtual_time(async {
            let (cluster, mut writer, ports) = running(seed).await;
            create(&cluster, "r1", "gamma").await;
            wait(&cluster, "it is read over the relay", |cluster| reads_over(cluster) == "r1").await;
            write(&cluster, &mut writer, &ports, 60).await;
            say(&cluster, GAMMA, "volume resize rj 3MiB").await;
            // Only one of the two has found out, and nothing goes between them directly.
            let finds_out = if seed % 2 == 0 { ("alpha", ALPHA) } else { ("beta", BETA) };
            new_session(&cluster, finds_out.0, finds_out.1).await;
            cluster.set_way("alpha", "beta", Way::Cut);
            write(&cluster, &mut writer, &ports, 400).await;
            equal(&cluster).await;
            new_session(&cluster, "alpha", ALPHA).await;
            wait(&cluster, "it is used to its end", |cluster| {
                capacity_bytes(cluster) == (3 << 20) - u64::from(PAGE_BYTES)
            })
            .await;
            write(&cluster, &mut writer, &ports, 400).await;
            equal(&cluster).await;
        });
    }
}

/// The relay had acknowledged it, and it was read; then it is lost, and the first array, which comes back, gives its place in the
/// chain to another one.
#[test]
fn a_reader_that_is_beyond_the_chain_finds_what_is_written_anew() {
    for seed in 1..=3 {
        in_virtual_time(async {
            let (cluster, mut writer, ports) = running(seed).await;
            create(&cluster, "r1", "gamma").await;
            cluster.set_way("alpha", "beta", Way::Cut);
            wait(&cluster, "it is read over the relay", |cluster| reads_over(cluster) == "r1").await;
            write(&cluster, &mut writer, &ports, 60).await;
            equal(&cluster).await;
            cluster.sleep_ms(3_000).await;
            write_one(&cluster, &mut writer, &ports).await;
            wait(&cluster, "it is here", has_everything).await;
            cluster.set_way("alpha", "gamma", Way::Cut);
            let unit = journal_lun(&cluster).await;
            let lost = newest_batch(&unit).await;
            assert_eq!(Some(lost.last.get()), cluster.newest());
            write_page(&unit, lost.place, vec![0; usize::try_from(PAGE_BYTES).unwrap()]).await;
            wait(&cluster, "it notices", |cluster| state_of_r1(cluster, ALPHA) != "up").await;
            cluster.set_way("alpha", "gamma", Way::Up);
            wait(&cluster, "it is back", |cluster| state_of_r1(cluster, ALPHA) == "up").await;
            write_one(&cluster, &mut writer, &ports).await;
            // Hosts write no more: nothing else comes behind it.
            equal(&cluster).await;
        });
    }
}

/// Hosts make one update.
async fn write_one(
    cluster: &Cluster,
    writer: &mut crate::support::wof::Writer,
    ports: &[crate::port::SimPort],
) {
    let before = cluster.newest();
    while cluster.newest() == before {
        write(cluster, writer, &ports[..1], 1).await;
    }
}

fn behind_top_ms(cluster: &Cluster) -> Option<u64> {
    cluster.snapshot(BETA).unwrap().groups[0].follows.clone().unwrap().behind_top_ms
}

#[test]
fn what_a_relay_holds_of_an_array_that_is_gone_is_no_news_of_it() {
    in_virtual_time(async {
        let (cluster, mut writer, ports) = running(1).await;
        create(&cluster, "r1", "gamma").await;
        cluster.set_way("alpha", "beta", Way::Cut);
        wait(&cluster, "it is read over the relay", |cluster| reads_over(cluster) == "r1").await;
        // As long as it lives, at rest and at work, it is heard of by its control information.
        write(&cluster, &mut writer, &ports, 200).await;
        equal(&cluster).await;
        for _ in 0..3 {
            cluster.sleep_ms(5_000).await;
            assert!(behind_top_ms(&cluster).is_some_and(|ms| ms < 4_000), "{:?}", behind_top_ms(&cluster));
        }
        cluster.die(ALPHA, Death::PowerLoss).await;
        cluster.sleep_ms(60_000).await;
        assert!(behind_top_ms(&cluster).is_some_and(|ms| ms >= 60_000), "{:?}", behind_top_ms(&cluster));
        // An array that starts has heard nothing at all.
        cluster.die(BETA, Death::Kill).await;
        cluster.start(BETA).await;
        wait(&cluster, "it is read over the relay", |cluster| reads_over(cluster) == "r1").await;
        cluster.sleep_ms(10_000).await;
        assert_eq!(behind_top_ms(&cluster), None);
    });
    in_virtual_time(async {
        let (cluster, mut writer, ports) = running(2).await;
        create(&cluster, "r1", "gamma").await;
        cluster.set_way("alpha", "beta", Way::Cut);
        wait(&cluster, "it is read over the relay", |cluster| reads_over(cluster) == "r1").await;
        cluster.die(BETA, Death::Kill).await;
        write(&cluster, &mut writer, &ports, 20).await;
        let newest = has_arrived_on_r1(&cluster).await;
        cluster.die(ALPHA, Death::PowerLoss).await;
        cluster.sleep_ms(60_000).await;
        cluster.start(BETA).await;
        wait(&cluster, "it has what was left", |cluster| {
            cluster.position(BETA).is_some_and(|(durable, _)| durable >= newest)
        })
        .await;
        cluster.sleep_ms(5_000).await;
        assert_eq!(behind_top_ms(&cluster), None, "what it got is a minute old at least");
    });
}
