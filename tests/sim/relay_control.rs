//! Where control information goes (promise X3; `004_…`, claims 3, 7, 13 and 17; decision 21): that of each array to its LUN of the relay, or
//! straight to the other array.

use crate::cluster::{ALPHA, Cluster, Death, Way};
use crate::in_virtual_time;
use crate::port::SimPort;
use crate::readers::{say, wait, write};
use crate::relay::{BETA, create_with, equal, reads_over, running};
use crate::relay_drain::{PAGE_BYTES, has_arrived_on_r1, lun_of, page};
use crate::support::wof::{Durability, HostPort, Place, SECTOR_BYTES};

/// Both control LUNs, without their labels.
async fn control(cluster: &Cluster) -> [Vec<Vec<u8>>; 2] {
    let mut luns = [Vec::new(), Vec::new()];
    for (pages, number) in luns.iter_mut().zip([2, 3]) {
        let unit = lun_of(cluster, number).await;
        assert!(unit.block_bytes <= PAGE_BYTES);
        for at in 1..17 {
            pages.push(page(&unit, at).await);
        }
    }
    luns
}

/// Single sectors, so that the journal LUN has room for all of them.
async fn write_little(cluster: &Cluster, from: u64) {
    let port = SimPort::new(cluster, "host", 6, ALPHA);
    for lba in from..from + 10 {
        let place = Place { volume: 0, lba, sectors: 1 };
        port.write(place, vec![5; SECTOR_BYTES].into(), Durability::Plain).await.expect("it is written");
        cluster.sleep_ms(200).await;
    }
}

async fn has_reported(cluster: &Cluster) {
    wait(cluster, "the primary knows", |cluster| {
        let reader = cluster.snapshot(ALPHA).unwrap().groups[0].readers[0].clone();
        Some(reader.restored_update_number) == cluster.newest()
    })
    .await;
}

#[test]
fn control_information_of_each_array_goes_by_the_way_that_is_chosen_there() {
    for (seed, first, second) in
        [(1, "relay", "relay"), (2, "relay", "link"), (3, "link", "relay"), (4, "link", "link")]
    {
        in_virtual_time(async {
            let (cluster, mut writer, ports) = running(seed).await;
            let word = |way: &str| format!(" --control {way}");
            create_with(&cluster, "r1", "gamma", [&word(first), &word(second)]).await;
            wait(&cluster, "it is read over the relay", |cluster| reads_over(cluster) == "r1").await;
            write_little(&cluster, 0).await;
            has_reported(&cluster).await;
            let before = control(&cluster).await;
            write_little(&cluster, 100).await;
            has_reported(&cluster).await;
            cluster.sleep_ms(3_000).await;
            assert_eq!(reads_over(&cluster), "r1");
            let after = control(&cluster).await;
            let is_same = [before[0] == after[0], before[1] == after[1]];
            assert_eq!(is_same, [first == "link", second == "link"], "{first} {second}");
            // Without the link all of it goes over the relay, and back by itself.
            cluster.set_way("alpha", "beta", Way::Cut);
            write(&cluster, &mut writer, &ports, 300).await;
            wait(&cluster, "it is read over the relay", |cluster| reads_over(cluster) == "r1").await;
            has_reported(&cluster).await;
            cluster.heal();
            write(&cluster, &mut writer, &ports, 100).await;
            equal(&cluster).await;
            // What was said over the link alone is found without it.
            cluster.sleep_ms(4_000).await;
            write(&cluster, &mut writer, &ports, 30).await;
            cluster.die(BETA, Death::Kill).await;
            write(&cluster, &mut writer, &ports, 10).await;
            let newest = has_arrived_on_r1(&cluster).await;
            let array = cluster.array(ALPHA).expect("it runs");
            let mut before = Vec::new();
            for volume in 1..=cluster.shape.volumes {
                before.push(array.read_volume(&format!("data{volume}")).await.expect("it can be read"));
            }
            drop(array);
            cluster.die(ALPHA, Death::PowerLoss).await;
            cluster.start(BETA).await;
            cluster.sleep_ms(300).await;
            say(&cluster, BETA, "group takeover g1 --yes").await;
            wait(&cluster, "beta is the primary", |cluster| {
                cluster.snapshot(BETA).unwrap().groups[0].role == "primary"
            })
            .await;
            let group = cluster.snapshot(BETA).unwrap().groups[0].clone();
            assert!(group.next_update_number > Some(newest), "{newest}: {group:?}");
            assert!(
                cluster.visible_copies(BETA).await == before,
                "{first} {second}: the new primary differs"
            );
        });
    }
}
