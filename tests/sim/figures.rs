//! What a look at a takeover says in figures, held against what happens then (promise O6): as of which update, how many updates and bytes are lost, and what is
//! copied afterwards.

use crate::cluster::{ALPHA, Cluster, Way};
use crate::in_virtual_time;
use crate::port::SimPort;
use crate::story::geometry_of;
use crate::support::wof::{Durability, HostPort, Place, Plan, Writer};
use crate::takeover::{BETA, SHAPE, begin, equal, group, until, until_overtaken};
use crate::tree::Tree;
use bytes::Bytes;
use serde_json::Value;

const WRITE_SECTORS: u32 = 8;
const WRITE_BYTES: u64 = 4_096;
/// Differences are counted in regions of so much.
const REGION_BYTES: u64 = 64 << 10;

/// Hosts' writes of one size, each to a place of its own.
async fn writes(cluster: &Cluster, array: usize, places: std::ops::Range<u64>) {
    let port = SimPort::new(cluster, "host", 5, array);
    for place in places {
        let volume = u32::try_from(place % u64::from(SHAPE.volumes)).unwrap();
        let place = Place { volume, lba: place * u64::from(WRITE_SECTORS), sectors: WRITE_SECTORS };
        port.write(place, Bytes::from(vec![0xb7; place.bytes()]), Durability::Plain).await.expect("written");
    }
}

async fn look(cluster: &Cluster, line: &str) -> [String; 2] {
    let said = cluster.command(BETA, &format!("{line} --dry-run")).await.expect("a look");
    let said: Value = serde_json::from_str(&said).expect("JSON");
    ["destroys", "says"].map(|field| said[field].to_string())
}

fn newest(cluster: &Cluster) -> u64 {
    group(cluster, ALPHA).next_update_number.expect("it is the primary") - 1
}

/// How much beta has sent to alpha, and what of it is different.
fn sent_and_different(cluster: &Cluster) -> [u64; 2] {
    let readers = group(cluster, BETA).readers;
    let reader = readers.iter().find(|reader| reader.link == "alpha").expect("it reads");
    [reader.sent_bytes, reader.in_difference_maps.bytes]
}

/// Two updates a read: a link that is slow is heard of more than it brings.
fn slow_reader(seed: u64) -> Cluster {
    let tree = Tree::chain(2);
    Cluster::of(seed, SHAPE, 2, &tree.links(), |index, shape, random| {
        let text = tree.config(index, shape, random).replace("svol_access = \"read\"\n", "");
        text.replace("[[provision.group]]\n", "[[provision.group]]\nread_updates = 2\n")
    })
}

fn story(seed: u64) {
    in_virtual_time(async {
        let cluster = slow_reader(seed);
        let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
        begin(&cluster, &mut writer).await;
        equal(&cluster, ALPHA).await;
        // Beta hears of updates that it does not get, and alpha is written on when it is heard of no more.
        cluster.set_way("alpha", "beta", Way::Slow);
        let began_ms = cluster.clock_ms();
        writes(&cluster, ALPHA, 0..40 + seed % 7).await;
        let loss = || group(&cluster, BETA).loss.expect("it is a copy");
        until(&cluster, "it hears of nothing", || loss().unread_updates > 5).await;
        cluster.set_way("alpha", "beta", Way::Cut);
        cluster.sleep_ms(3_000).await;
        writes(&cluster, ALPHA, 50..50 + seed % 11).await;
        let loss = loss();
        let (has, heard) = (loss.received_update_number, loss.heard_update_number.expect("it has heard"));
        assert!(loss.unread_updates > 0, "{loss:?}");
        assert_eq!(loss.unread_updates, heard - has, "{loss:?}");
        assert_eq!(
            loss.unread_bytes,
            loss.unread_updates * WRITE_BYTES,
            "each is a write of that size: {loss:?}"
        );
        let age_ms = loss.oldest_unread_ms.expect("it knows when they were made");
        let since_ms = cluster.clock_ms() - began_ms;
        // It is told no finer than it hears of times.
        assert!(age_ms >= 3_000 && age_ms <= since_ms + 500, "{age_ms} ms of {since_ms}: {loss:?}");
        let [destroys, says] = look(&cluster, "group takeover g1").await;
        let made = format!(", the oldest of them made {}.", age_ms / 1_000);
        assert!(destroys.contains(&made), "{made}: {destroys}");
        let lost =
            format!("{} updates ({} bytes) that alpha has said", loss.unread_updates, loss.unread_bytes);
        assert!(destroys.contains(&lost), "{lost}: {destroys}");
        assert!(says.contains(&format!("up to update {has}")), "{has}: {says}");
        assert!(loss.copy_back_bytes == 0 && says.contains("only differences"), "{says}");

        cluster.command(BETA, "group takeover g1 --yes").await.expect("it takes over");
        let newest = newest(&cluster);
        assert_eq!(group(&cluster, BETA).takeover.and_then(|taken| taken.update_number), Some(has));
        writes(&cluster, BETA, 70..80).await;
        cluster.heal();
        until_overtaken(&cluster, BETA).await;
        let taken = group(&cluster, BETA).takeover.expect("it took over");
        assert_eq!(taken.branch_first_update_number, Some(has + 1));
        let only_there = taken.branch_updates.expect("it has said so");
        assert_eq!(only_there, newest - has, "what it had said it has, and what it was written since");
        assert_eq!(only_there, loss.unread_updates + (newest - heard));
        let bytes = taken.branch_bytes.expect("it has said so");
        assert!(bytes >= only_there * WRITE_BYTES && bytes.is_multiple_of(REGION_BYTES), "{taken:?}");

        let [sent, own] = sent_and_different(&cluster);
        let [destroys, says] = look(&cluster, "group failback g1 --to alpha").await;
        let lost =
            format!("{only_there} updates that only alpha has, from {} on, in up to {bytes} bytes", has + 1);
        assert!(destroys.contains(&lost), "{lost}: {destroys}");
        let copied = format!("up to {own} bytes changed here and {bytes} there are copied");
        assert!(says.contains(&copied), "{copied}: {says}");
        cluster.command(BETA, "group failback g1 --to alpha --yes").await.expect("the loser is named");
        equal(&cluster, BETA).await;
        let sent = sent_and_different(&cluster)[0] - sent;
        // Records around the data are small against it.
        let at_most = (own + bytes) * 9 / 8;
        assert!((10 * WRITE_BYTES..=at_most).contains(&sent), "{sent} of {at_most}");
    });
}

#[test]
fn what_a_look_says_is_what_a_takeover_loses_and_a_failback_copies() {
    (1..=6).for_each(story);
}
