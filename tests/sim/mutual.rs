//! Two arrays that forward to each other: each takes the writes of its own hosts and is the primary of the other one.

use crate::cluster::{Cluster, NAMES, Shape, target_name};
use crate::in_virtual_time;
use holdfast::channel::host::{Durability, HostLun, lun};
use holdfast::channel::initiator::SessionOptions;
use holdfast_iscsi::pdu::Isid;
use std::fmt::Write;
use std::time::Duration;

/// The largest write that there is.
const WRITE_BYTES: usize = 4 << 20;
/// Of one host, all at once: more than the memory of an array.
const WRITES: usize = 24;

fn config_text(index: usize, memory_mib: u32) -> String {
    let (own, other) = (NAMES[index], NAMES[1 - index]);
    let mut text = format!(
        "[array]\nnumber = {}\nname = \"{own}\"\ndata_dir = \"/{own}\"\n[cache]\nmemory = \"{memory_mib}MiB\"\n\
         [[portal]]\nlisten = \"0.0.0.0:3260\"\nserves = [\"hosts\", \"arrays\"]\n\
         [[provision.parity_group]]\nname = \"pg0\"\nlevel = \"raid0\"\nstripe_unit = \"64KiB\"\n\
         units = [ {{ path = \"/{own}/u0\", size = \"64MiB\" }} ]\n\
         [[provision.link]]\nname = \"{other}\"\narray = {}\nportal = [\"{other}:3260\"]\n\
         secret = \"a secret of simulations\"\n",
        index + 1,
        2 - index
    );
    for volume in ["org", "data"] {
        writeln!(
            text,
            "[[provision.volume]]\nname = \"{volume}\"\nparity_group = \"pg0\"\nthin = true\nsize = \"8MiB\""
        )
        .unwrap();
    }
    writeln!(
        text,
        "[[provision.target]]\niqn = \"{}\"\ninitiators = [\"*\"]\nluns = [{{ lun = 1, volume = \"org\" }}]\n\
         [[provision.pair]]\nname = \"{own}1\"\ngroup = \"up-{own}\"\npvol = \"org\"\nsvol = \"{other}:data\"\n\
         copy = \"sync\"\n\
         [[provision.group]]\nname = \"up-{own}\"\nfence = \"never\"\nfence_wait = \"20s\"",
        target_name(own)
    )
    .unwrap();
    text
}

/// What the pair of an array is, as the array itself shows it.
fn own_pair(cluster: &Cluster, index: usize) -> (String, Option<String>) {
    let snapshot = cluster.snapshot(index).expect("it runs");
    let pair = snapshot.pairs.into_iter().find(|pair| pair.name == format!("{}1", NAMES[index]));
    pair.map(|pair| (pair.state, pair.reason)).expect("it has one")
}

async fn load(cluster: &Cluster, index: usize) {
    let options = SessionOptions { isid: Some(Isid([0x80, 0, 0, 0, 0, 1])), ..SessionOptions::default() };
    let connector = cluster.connector("host");
    let address = format!("{}:3260", NAMES[index]);
    let session = connector.session(&address, &target_name(NAMES[index]), &options).await.unwrap();
    let volume = HostLun::open(session, lun(1), Duration::from_secs(300)).await.unwrap();
    let blocks = (WRITE_BYTES / 512) as u64;
    let writes = (0..WRITES).map(|number| {
        let bytes = bytes::Bytes::from(vec![number as u8 + 1; WRITE_BYTES]);
        volume.write((number as u64 % 2) * blocks, bytes, Durability::Cached)
    });
    for written in futures_util::future::join_all(writes).await {
        written.unwrap();
    }
}

/// The hosts of both fill the memory of both, and each write waits for room at the other array.
#[test]
fn two_arrays_that_forward_to_each_other_do_not_wait_for_each_others_hosts() {
    [72, 24].into_iter().for_each(hosts_of_both);
}

fn hosts_of_both(memory_mib: u32) {
    let shape = Shape { volumes: 1, volume_kib: 8192, ..crate::EIGHT };
    in_virtual_time(async {
        let cluster =
            Cluster::of(3, shape, 2, &[("alpha", "beta")], |index, _, _| config_text(index, memory_mib));
        cluster.start(0).await;
        cluster.start(1).await;
        while (0..2).any(|index| own_pair(&cluster, index).0 != "normal") {
            assert!(cluster.clock_ms() < 60_000, "not in step: {}", cluster.state());
            cluster.sleep_ms(50).await;
        }
        tokio::join!(load(&cluster, 0), load(&cluster, 1));
        for index in 0..2 {
            assert_eq!(own_pair(&cluster, index), ("normal".to_owned(), None));
        }
        let alone = |index: usize| {
            use holdfast::shell::view::Console;
            let array = cluster.array(index).expect("it runs");
            array.audit(1000).iter().any(|record| record.what.contains("not forwarded any more"))
        };
        assert!(!alone(0) && !alone(1), "an array went on alone although the link is up");
        for (index, other) in [(0, 1), (1, 0)] {
            let own = cluster.array(index).unwrap().read_volume("org").await.unwrap();
            let there = cluster.array(other).unwrap().read_volume("data").await.unwrap();
            assert!(own == there, "{} differs", NAMES[index]);
        }
    });
}
