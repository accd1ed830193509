//! Pairs are suspended, resumed and taken away by command, on real processes: only differences are copied, also when
//! the primary is killed in between.

use crate::rounds::{
    CATCH_UP, SESSIONS, copied_so_far, expect_equal_copies, start_in_time, write_some, writer_for,
};
use crate::support::process::{Array, Cluster, Layout};
use crate::support::random::seed_from_environment;
use crate::support::wof::{Durability, HostPort, Place, SECTOR_BYTES};
use bytes::Bytes;
use serde_json::Value;

fn pairs_of(array: &Array, reader: u64) -> Vec<Value> {
    let pairs = array.shell(&["pair", "list"]).expect("the array answers");
    let pairs = pairs.as_array().expect("a list").iter();
    pairs.filter(|pair| pair["auxiliary_array"] == reader).cloned().collect()
}

fn all_are(array: &Array, reader: u64, state: &str) -> Option<()> {
    let pairs = pairs_of(array, reader);
    (!pairs.is_empty() && pairs.iter().all(|pair| pair["state"] == state)).then_some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_reader_gets_the_differences_and_nothing_else() {
    let mut cluster = Cluster::running(Layout::default()).await;
    let copied = copied_so_far(&cluster);
    let mut writer = writer_for(&cluster, seed_from_environment(31));
    let ports = cluster.arrays[0].ports(SESSIONS, cluster.layout.volumes);
    write_some(&mut writer, &ports, 200).await;
    // What the reader has not settled yet counts as different, the initial copy included.
    let settled = || {
        let group = cluster.arrays[0].group()?;
        let newest = group["durable_update_number"].as_u64()?;
        let readers = group["readers"].as_array()?;
        let reader = readers.iter().find(|reader| reader["array"] == 2)?;
        (reader["settled_update_number"] == newest).then_some(())
    };
    cluster.arrays[0].wait_until("beta has settled everything", CATCH_UP, settled).await;
    cluster.arrays[0].shell(&["group", "suspend", "g1", "--reader", "beta"]).expect("suspended");
    cluster.arrays[0]
        .wait_until("the pairs are suspended", CATCH_UP, || all_are(&cluster.arrays[0], 2, "suspended"))
        .await;
    cluster.arrays[1]
        .wait_until("beta knows", CATCH_UP, || all_are(&cluster.arrays[1], 2, "suspended"))
        .await;
    write_some(&mut writer, &ports, 40).await;
    let marked = |array: &Array| -> u64 {
        pairs_of(array, 2).iter().map(|pair| pair["difference_bytes"].as_u64().expect("a number")).sum()
    };
    let before = marked(&cluster.arrays[0]);
    let whole: u64 =
        pairs_of(&cluster.arrays[0], 2).iter().map(|pair| pair["size_bytes"].as_u64().unwrap()).sum();
    assert!(before > 0 && before < whole, "{before} of {whole} bytes are marked");
    cluster.wait_for_readers(&[3], CATCH_UP).await;

    cluster.arrays[0].kill();
    start_in_time(&mut cluster, 0).await;
    let after = marked(&cluster.arrays[0]);
    assert!(after >= before, "{before} bytes were marked, after the kill {after}");
    cluster.arrays[0].shell(&["group", "resume", "g1", "--reader", "beta"]).expect("resumed");
    cluster.arrays[0]
        .wait_until("the pairs are normal", CATCH_UP, || all_are(&cluster.arrays[0], 2, "normal"))
        .await;
    let audit = cluster.arrays[1].shell(&["audit", "list"]).expect("the audit log");
    let kept = audit.as_array().expect("a list").iter().filter_map(|entry| entry["what"].as_str());
    assert!(kept.into_iter().any(|what| what.contains("S-VOLs kept, as of update")), "{audit}");
    let follows = |array: &Array| array.group().expect("its group")["follows"].clone();
    cluster.arrays[1]
        .wait_until("the image is not needed any more", CATCH_UP, || {
            let pairs = pairs_of(&cluster.arrays[1], 2);
            let follows = follows(&cluster.arrays[1]);
            let is_current = follows["takeover_from"] == "volumes" && follows["image_bytes"] == 0;
            let is_dropped = pairs.iter().all(|pair| pair["image_update_number"].is_null());
            (is_current && is_dropped).then_some(())
        })
        .await;
    let ports = cluster.arrays[0].ports(SESSIONS, cluster.layout.volumes);
    write_some(&mut writer, &ports, 100).await;
    expect_equal_copies(&cluster, &writer, &copied).await;
}

/// Hosts write the copy while it is suspended, and that array is killed meanwhile: a resync takes all of it back.
#[tokio::test(flavor = "multi_thread")]
async fn what_hosts_wrote_to_a_suspended_copy_is_taken_back() {
    let mut cluster = Cluster::running(Layout::default()).await;
    let mut writer = writer_for(&cluster, seed_from_environment(32));
    let ports = cluster.arrays[0].ports(SESSIONS, cluster.layout.volumes);
    write_some(&mut writer, &ports, 100).await;
    cluster.wait_for_readers(&[2, 3], CATCH_UP).await;
    let suspend = ["group", "suspend", "g1", "--reader", "beta", "--svol-write"];
    cluster.arrays[0].shell(&suspend).expect("suspended");
    for round in 0..2_u64 {
        let beta = &cluster.arrays[1];
        beta.wait_until("hosts may write beta", CATCH_UP, || {
            let targets = beta.shell(&["target", "list"]).ok()?;
            let luns = targets[0]["luns"].as_array()?;
            luns.iter().all(|lun| lun["access"] == "read-write").then_some(())
        })
        .await;
        let port = &beta.ports(1, cluster.layout.volumes)[0];
        for at in 0..20 {
            let place = Place { volume: 0, lba: (round * 20 + at) * 256, sectors: 8 };
            let garbage = Bytes::from(vec![0xA5; 8 * SECTOR_BYTES]);
            port.write(place, garbage, Durability::Fua).await.expect("hosts may write it");
        }
        let marked: u64 = pairs_of(beta, 2).iter().filter_map(|pair| pair["difference_bytes"].as_u64()).sum();
        assert!(marked >= (round + 1) * 20 * (64 << 10), "{marked} bytes are marked");
        write_some(&mut writer, &ports, 50).await;
        cluster.arrays[1].kill();
        start_in_time(&mut cluster, 1).await;
    }
    let find = || cluster.arrays[1].group().map(|group| group["follows"]["takeover_from"].clone());
    assert_eq!(find().expect("its group"), "image", "what was there before hosts wrote is kept");
    cluster.arrays[0].shell(&["group", "resync", "g1", "--reader", "beta"]).expect("resumed");
    cluster.arrays[0]
        .wait_until("the pairs are normal", CATCH_UP, || all_are(&cluster.arrays[0], 2, "normal"))
        .await;
    let copied = copied_so_far(&cluster);
    expect_equal_copies(&cluster, &writer, &copied).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_taken_away_and_its_volumes_are_ordinary_again() {
    let cluster = Cluster::running(Layout::default()).await;
    let primary = &cluster.arrays[0];
    let refused = primary.shell(&["group", "delete", "g1"]).expect_err("it destroys something");
    assert!(refused.contains("--yes"), "{refused}");
    primary.shell(&["group", "delete", "g1", "--yes"]).expect("deleted");
    for array in &cluster.arrays {
        array
            .wait_until("nothing is left of it", CATCH_UP, || {
                let groups = array.shell(&["group", "list"]).ok()?;
                let pairs = array.shell(&["pair", "list"]).ok()?;
                let volumes = array.shell(&["volume", "list"]).ok()?;
                let is_ordinary = |volume: &Value| volume["state"] == "normal";
                let is_gone = groups.as_array()?.is_empty() && pairs.as_array()?.is_empty();
                (is_gone && volumes.as_array()?.iter().all(is_ordinary)).then_some(())
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_held_at_one_moment_through_a_kill_and_goes_on() {
    let mut cluster = Cluster::running(Layout::default()).await;
    let copied = copied_so_far(&cluster);
    let mut writer = writer_for(&cluster, seed_from_environment(37));
    let ports = cluster.arrays[0].ports(SESSIONS, cluster.layout.volumes);
    write_some(&mut writer, &ports, 50).await;
    let newest = cluster.arrays[0].group().expect("its group")["durable_update_number"].as_u64().unwrap();
    let stop = newest + 20;
    cluster.arrays[1].shell(&["group", "restore", "g1", "--until", &stop.to_string()]).expect("taken up");
    write_some(&mut writer, &ports, 100).await;
    let held = |array: &Array| {
        let follows = array.group()?["follows"].clone();
        let is_held = follows["restore_state"] == "stopped"
            && follows["restored_update_number"] == stop
            && follows["durable_update_number"].as_u64()? > stop
            && follows["restore_until"] == format!("update {stop}");
        is_held.then_some(())
    };
    cluster.arrays[1].wait_until("beta has stopped", CATCH_UP, || held(&cluster.arrays[1])).await;
    cluster.arrays[1].kill();
    start_in_time(&mut cluster, 1).await;
    cluster.arrays[1].wait_until("it has stopped again", CATCH_UP, || held(&cluster.arrays[1])).await;
    cluster.arrays[1].shell(&["group", "restore", "g1", "--until", "1"]).expect_err("that is behind it");
    cluster.arrays[1].shell(&["group", "restore", "g1", "--go-on"]).expect("it goes on");
    write_some(&mut writer, &ports, 20).await;
    expect_equal_copies(&cluster, &writer, &copied).await;
}
