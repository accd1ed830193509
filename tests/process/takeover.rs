//! The primary is killed with SIGKILL under load and its copy takes over by command, on real processes: hosts go on at the copy
//! within a minute, the old primary comes back shut, becomes a copy when it is named, and the primary again in the end.

use crate::qemu_image::compare;
use crate::rounds::{
    CATCH_UP, SESSIONS, start_in_time, wait_a_random_time, write_some, write_while, writer_for,
};
use crate::support::process::{Array, Cluster, Layout, expect_tool, rows};
use crate::support::random::{Random, seed_from_environment};
use crate::support::wof::{DurableRule, Observed, Writer, check_crash, read_image};
use holdfast::clock::{Clock, SystemClock};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// From the command to the first write of a host that is answered.
const HOSTS_WITHIN: Duration = Duration::from_secs(60);

pub(crate) fn takeover(array: &Array) -> Option<String> {
    array.group()?["takeover"]["state"].as_str().map(str::to_owned)
}

fn are_normal(array: &Array) -> bool {
    let pairs = array.shell(&["pair", "list"]).map(|pairs| rows(&pairs)).unwrap_or_default();
    !pairs.is_empty() && pairs.iter().all(|pair| pair["state"] == "normal")
}

pub(crate) async fn until_roles(cluster: &Cluster, primary: usize) {
    until_roles_of(&cluster.arrays[primary], &cluster.arrays[1 - primary]).await;
}

/// One is the primary, and the other one its copy, which has everything.
pub(crate) async fn until_roles_of(new: &Array, old: &Array) {
    new.wait_until("roles and copies are as they shall be", CATCH_UP, || {
        let [new_group, old_group] = [new.group()?, old.group()?];
        let are_roles = new_group["role"] == "primary" && old_group["role"] == "auxiliary";
        let newest = new_group["next_update_number"].as_u64()? - 1;
        let has_all = old_group["follows"]["restored_update_number"].as_u64()? == newest;
        (are_roles && has_all && are_normal(new) && are_normal(old)).then_some(())
    })
    .await;
}

pub(crate) async fn expect_everything(cluster: &Cluster, writer: &Writer, primary: usize) {
    let geometry = writer.log().geometry();
    let mut images = Vec::new();
    for array in [&cluster.arrays[primary], &cluster.arrays[1 - primary]] {
        let port = array.ports(1, cluster.layout.volumes).remove(0);
        images.push(read_image(&port, geometry).await.expect("hosts may read it"));
    }
    let observed = Observed::from_images(writer.log(), &images[0]);
    check_crash(writer.log(), &observed, DurableRule::Acknowledged).expect_clean("the primary");
    assert!(images[0] == images[1], "the copy differs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_takes_over_from_a_killed_primary_which_comes_back_shut_and_gets_its_role_back() {
    let seed = seed_from_environment(71);
    let mut random = Random::new(seed);
    let mut cluster = Cluster::running(Layout::default()).await;
    let mut writer = writer_for(&cluster, seed);
    let volumes = cluster.layout.volumes;
    let ports = cluster.arrays[0].ports(SESSIONS, volumes);
    let primary = cluster.primary();
    write_while(&mut writer, &ports, async {
        wait_a_random_time(&mut random, 1_000).await;
        primary.kill();
    })
    .await;
    drop(ports);
    let beta = &cluster.arrays[1];
    let seen = beta.shell(&["group", "takeover", "g1", "--dry-run"]).expect("a look");
    assert!(seen["says"].to_string().contains("image of update"), "{seen}");
    assert!(seen["destroys"].to_string().contains("whatever alpha was written since"), "{seen}");
    let refused = beta.shell(&["group", "takeover", "g1"]).unwrap_err();
    assert!(refused.contains("--yes"), "{refused}");
    let clock = SystemClock::new();
    let since = clock.now();
    beta.shell(&["group", "takeover", "g1", "--yes"]).expect("it takes over");
    let port = beta.ports(1, volumes).remove(0);
    let images = read_image(&port, writer.log().geometry()).await.expect("hosts read it");
    let observed = Observed::from_images(writer.log(), &images);
    if let Err(verdict) = writer.resume_after_crash(&observed) {
        verdict.expect_clean("the new primary is a prefix");
    }
    let ports = beta.ports(SESSIONS, volumes);
    write_some(&mut writer, &ports, 1).await;
    let took = clock.now().since(since);
    eprintln!("hosts write {took:?} after the command");
    assert!(took < HOSTS_WITHIN, "{took:?}");
    write_some(&mut writer, &ports, 200).await;

    start_in_time(&mut cluster, 0).await;
    let [alpha, beta] = [&cluster.arrays[0], &cluster.arrays[1]];
    alpha
        .wait_until("alpha is shut and has said what only it has", CATCH_UP, || {
            let is_said = !beta.group()?["takeover"]["branch_updates"].is_null();
            (takeover(alpha).as_deref() == Some("overtaken") && is_said).then_some(())
        })
        .await;
    let health = alpha.shell(&["event", "list"]).expect("events");
    assert!(health.to_string().contains("overtaken"), "{health}");
    let to_alpha = ["group", "failback", "g1", "--to", "alpha", "--yes"];
    let refused = beta.shell(&to_alpha).unwrap_err();
    assert!(refused.contains("also read over gamma"), "{refused}");
    alpha.shell(&["group", "delete", "g1", "--reader", "gamma", "--yes"]).expect("gamma is taken away");
    // Both sides can be read: what alpha has, to the last byte.
    let exported = tempfile::tempdir().expect("a temporary directory");
    let before = exported.path().join("before.img");
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-f", "raw", "-O", "raw", &alpha.url(1)]).arg(&before);
    expect_tool(&mut convert);
    let keeping = [&to_alpha[..5], &["--keep-branch", "lost", "--yes"]].concat();
    beta.wait_until("alpha becomes a copy", CATCH_UP, || beta.shell(&keeping).ok().map(|_| ())).await;
    write_some(&mut writer, &ports, 100).await;
    until_roles(&cluster, 1).await;
    expect_everything(&cluster, &writer, 1).await;
    drop(ports);
    let beta = &cluster.arrays[1];
    beta.wait_until("the roles go back", CATCH_UP, || beta.shell(&to_alpha).ok().map(|_| ())).await;
    until_roles(&cluster, 0).await;
    let ports = cluster.arrays[0].ports(SESSIONS, volumes);
    write_some(&mut writer, &ports, 100).await;
    until_roles(&cluster, 0).await;
    expect_everything(&cluster, &writer, 0).await;
    what_it_had_is_kept(&cluster.arrays[0], &before);
}

/// The branch of the loser is read by a foreign initiator, and dropped.
fn what_it_had_is_kept(alpha: &Array, before: &Path) {
    let (target, lun) = (alpha.target(), "50");
    let kept = alpha.shell(&["snapshot", "show", "lost"]).expect("it is kept");
    assert!(kept["differs_from_update_number"].as_u64().is_some(), "{kept}");
    alpha.shell(&["lun", "map", &target, lun, "lost.data1"]).expect("it is mapped");
    compare(before, &alpha.url(50));
    alpha.shell(&["lun", "unmap", &target, lun]).expect("it is unmapped");
    alpha.shell(&["snapshot", "delete", "lost", "--yes"]).expect("it is dropped");
}
