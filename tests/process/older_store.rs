//! Yesterday's copy of the control store between arrays (promises A6, O4): an array whose group another one has taken over since, or that has taken over itself, is
//! started with a copy that knows nothing of it. It takes no host's write from the first contact on, overwrites nothing
//! of the array that is the primary now, and becomes its copy when an operator says so.

use crate::rounds::{
    CATCH_UP, SESSIONS, copied_so_far, expect_equal_copies, wait_a_random_time, write_some, write_while,
    writer_for,
};
use crate::support::process::{Array, Cluster, Layout, binary, rows, run_tool};
use crate::support::random::Random;
use crate::support::wof::{
    Durability, DurableRule, HostError, HostPort, Observed, Place, Writer, check_crash, read_image,
};
use crate::takeover::{expect_everything, takeover, until_roles};
use holdfast::clock::SystemClock;
use serde_json::Value;
use std::path::PathBuf;

const VOLUMES: u16 = 2;

/// A copy of an array's control store, made while the array is stopped.
struct Backup {
    store: PathBuf,
    bytes: Vec<u8>,
}

impl Backup {
    async fn of(array: &mut Array) -> Self {
        array.stop().await;
        let store = array.directory().join("data/control.redb");
        let bytes = std::fs::read(&store).expect("the store");
        array.start().await;
        Self { store, bytes }
    }

    /// The array is started with it; without being told so it refuses it.
    async fn comes_back(&self, array: &mut Array) {
        std::fs::write(&self.store, &self.bytes).expect("the copy is put back");
        let refused = run_tool(binary().arg("serve").arg("--config").arg(array.config_path()));
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(1) && said.contains("--take-older-store"), "{said}");
        array.start_with(&["--take-older-store"]).await;
    }
}

async fn cluster() -> Cluster {
    Cluster::running(Layout { volumes: VOLUMES, volume_bytes: 8 << 20, ..Layout::default() }).await
}

/// What hosts find at an array is the history of the writer, to the last write that was answered.
async fn has_all(array: &Array, writer: &Writer) {
    let port = array.ports(1, VOLUMES).remove(0);
    let image = read_image(&port, writer.log().geometry()).await.expect("hosts read it");
    let observed = Observed::from_images(writer.log(), &image);
    check_crash(writer.log(), &observed, DurableRule::Acknowledged).expect_clean("nothing was overwritten");
}

/// One write of a host that nobody told; whether it was answered.
async fn is_written(array: &Array) -> bool {
    let port = array.ports(1, VOLUMES).remove(0);
    let place = Place { volume: 0, lba: 0, sectors: 1 };
    match port.write(place, vec![0xee; 512].into(), Durability::Plain).await {
        Ok(()) => true,
        Err(HostError::Refused { .. } | HostError::Unknown(_)) => false,
    }
}

/// Alpha is lost under load, and beta takes over; hosts go on there.
async fn beta_takes_over(cluster: &mut Cluster, writer: &mut Writer) {
    let ports = cluster.arrays[0].ports(SESSIONS, VOLUMES);
    write_some(writer, &ports, 200).await;
    let alpha = &mut cluster.arrays[0];
    write_while(writer, &ports, async { alpha.kill() }).await;
    let beta = &cluster.arrays[1];
    beta.shell(&["group", "takeover", "g1", "--yes"]).expect("it takes over");
    let port = beta.ports(1, VOLUMES).remove(0);
    let images = read_image(&port, writer.log().geometry()).await.expect("hosts read it");
    let resumed = writer.resume_after_crash(&Observed::from_images(writer.log(), &images));
    resumed.unwrap_or_else(|verdict| panic!("no prefix: {verdict}"));
    write_some(writer, &beta.ports(SESSIONS, VOLUMES), 200).await;
}

async fn until_overtaken(cluster: &Cluster) {
    let [alpha, beta] = [&cluster.arrays[0], &cluster.arrays[1]];
    alpha
        .wait_until("alpha is shut and has said what only it has", CATCH_UP, || {
            let is_said = !beta.group()?["takeover"]["branch_updates"].is_null();
            (takeover(alpha).as_deref() == Some("overtaken") && is_said).then_some(())
        })
        .await;
}

async fn until_volumes(array: &Array, state: &str) {
    array
        .wait_until(state, CATCH_UP, || {
            let volumes = rows(&array.shell(&["volume", "list"]).ok()?);
            let is_data = |one: &&Value| one["name"].as_str().is_some_and(|name| name.starts_with("data"));
            volumes.iter().filter(is_data).all(|one| one["state"] == state).then_some(())
        })
        .await;
}

async fn alpha_becomes_the_copy(cluster: &Cluster) {
    let [alpha, beta] = [&cluster.arrays[0], &cluster.arrays[1]];
    let to_alpha = ["group", "failback", "g1", "--to", "alpha", "--yes"];
    beta.wait_until("alpha becomes a copy", CATCH_UP, || {
        let _ = alpha.shell(&["group", "delete", "g1", "--reader", "gamma", "--yes"]);
        beta.shell(&to_alpha).ok().map(|_| ())
    })
    .await;
    until_roles(cluster, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_array_that_was_overtaken_and_knows_nothing_of_it_is_shut_at_first_contact() {
    let mut cluster = cluster().await;
    let mut writer = writer_for(&cluster, 91);
    let backup = Backup::of(&mut cluster.arrays[0]).await;
    beta_takes_over(&mut cluster, &mut writer).await;
    cluster.arrays[0].start().await;
    until_overtaken(&cluster).await;
    cluster.arrays[0].stop().await;
    backup.comes_back(&mut cluster.arrays[0]).await;
    until_overtaken(&cluster).await;
    assert!(!is_written(&cluster.arrays[0]).await, "hosts are shut out");
    has_all(&cluster.arrays[1], &writer).await;
    write_some(&mut writer, &cluster.arrays[1].ports(SESSIONS, VOLUMES), 100).await;
    alpha_becomes_the_copy(&cluster).await;
    expect_everything(&cluster, &writer, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_array_that_had_become_a_copy_since_and_knows_nothing_of_it_is_shut_at_first_contact() {
    let mut cluster = cluster().await;
    let mut writer = writer_for(&cluster, 92);
    let backup = Backup::of(&mut cluster.arrays[0]).await;
    beta_takes_over(&mut cluster, &mut writer).await;
    cluster.arrays[0].start().await;
    until_overtaken(&cluster).await;
    alpha_becomes_the_copy(&cluster).await;
    cluster.arrays[0].stop().await;
    write_some(&mut writer, &cluster.arrays[1].ports(SESSIONS, VOLUMES), 100).await;
    backup.comes_back(&mut cluster.arrays[0]).await;
    let alpha = &cluster.arrays[0];
    alpha
        .wait_until("alpha is shut", CATCH_UP, || {
            (takeover(alpha).as_deref() == Some("overtaken")).then_some(())
        })
        .await;
    assert!(!is_written(&cluster.arrays[0]).await, "hosts are shut out");
    write_some(&mut writer, &cluster.arrays[1].ports(SESSIONS, VOLUMES), 100).await;
    has_all(&cluster.arrays[1], &writer).await;
    // Nothing of it can be gone on with: it is taken away, and comes back as a new array.
    cluster.arrays[0].stop().await;
    let beta = &cluster.arrays[1];
    beta.shell(&["group", "suspend", "g1", "--reader", "alpha"]).expect("it is not waited for");
    beta.wait_until("its pairs are suspended", CATCH_UP, || {
        let pairs = rows(&beta.shell(&["pair", "list"]).ok()?);
        pairs.iter().all(|pair| pair["state"] == "suspended").then_some(())
    })
    .await;
    beta.shell(&["group", "delete", "g1", "--reader", "alpha", "--yes"]).expect("it is taken away");
    beta.wait_until("it has no copy", CATCH_UP, || {
        rows(&beta.shell(&["pair", "list"]).ok()?).is_empty().then_some(())
    })
    .await;
    write_some(&mut writer, &beta.ports(SESSIONS, VOLUMES), 20).await;
    has_all(beta, &writer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_array_that_took_over_and_knows_nothing_of_it_overwrites_nothing_that_it_was_written() {
    let mut cluster = cluster().await;
    let mut writer = writer_for(&cluster, 93);
    let backup = Backup::of(&mut cluster.arrays[1]).await;
    beta_takes_over(&mut cluster, &mut writer).await;
    cluster.arrays[0].start().await;
    until_overtaken(&cluster).await;
    cluster.arrays[1].stop().await;
    backup.comes_back(&mut cluster.arrays[1]).await;
    let [alpha, beta] = [&cluster.arrays[0], &cluster.arrays[1]];
    for _ in 0..20 {
        assert!(!is_written(alpha).await, "alpha is shut still");
        assert!(!is_written(beta).await, "beta does not know that it is the primary");
        wait_a_random_time(&mut Random::new(93), 100).await;
    }
    // It does not open its journal, which is another one by now, and so nobody reads its volumes. What was in that is on the units: it was stopped cleanly.
    let made = ["volume", "create", "jnl2", "--parity-group", "pg0", "--size", "16MiB"];
    beta.shell(&made).expect("a volume");
    let replaced = ["journal", "replace", "g1", "--volume", "jnl", "--by", "jnl2", "--yes"];
    beta.shell(&replaced).expect("another journal volume");
    until_volumes(beta, "auxiliary").await;
    let port = beta.ports(1, VOLUMES).remove(0);
    let place = Place { volume: 0, lba: 0, sectors: 1 };
    let mut random = Random::new(93);
    for attempt in 0.. {
        match port.read(place).await {
            Ok(_) => break,
            Err(why) => {
                assert!(attempt < 60, "{why:?} {:?}\n{}", beta.shell(&["journal", "list"]), beta.log_tail())
            }
        }
        wait_a_random_time(&mut random, 300).await;
    }
    has_all(beta, &writer).await;
    assert!(!is_written(beta).await, "it is a copy by this store");
    // What it has is not given up by the name of what it believes: nothing.
    alpha.shell(&["group", "takeover", "g1", "--yes"]).expect("it takes itself back");
    wait_a_random_time(&mut Random::new(93), 1_000).await;
    let failback = ["group", "failback", "g1", "--to", "beta", "--yes"];
    let refused = alpha.shell(&failback).unwrap_err();
    assert!(refused.contains("was started with an older copy of its control store"), "{refused}");
    assert_eq!(takeover(alpha).as_deref(), Some("split-brain"));
    has_all(beta, &writer).await;
}

/// Nobody took over: with yesterday's store it is what it was then, and its copies are equal again.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_nobody_took_over_goes_on_with_an_older_store_and_its_copies_become_equal() {
    let mut cluster = cluster().await;
    let mut writer = writer_for(&cluster, 94);
    let backup = Backup::of(&mut cluster.arrays[0]).await;
    let ports = cluster.arrays[0].ports(SESSIONS, VOLUMES);
    write_some(&mut writer, &ports, 200).await;
    writer.flush(&ports, &SystemClock::new()).await;
    cluster.arrays[0].kill();
    cluster.arrays[0].start().await;
    write_some(&mut writer, &ports, 100).await;
    cluster.arrays[0].stop().await;
    backup.comes_back(&mut cluster.arrays[0]).await;
    let alpha = &cluster.arrays[0];
    alpha.wait_until("hosts are let in", CATCH_UP, || alpha.group()?["next_update_number"].as_u64()).await;
    has_all(alpha, &writer).await;
    write_some(&mut writer, &ports, 100).await;
    expect_equal_copies(&cluster, &writer, &copied_so_far(&cluster)).await;
}
