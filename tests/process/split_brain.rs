//! Split brain with both arrays alive (promise O4): the link is cut, somebody takes the group over at the copy, and hosts write at both. With the first
//! contact both know; both can be read, to the last write that was answered; nothing is overwritten until an operator names the loser, which is told what is
//! lost before, and keeps it by name if he says so.

use crate::rounds::{CATCH_UP, SESSIONS, wait_a_random_time, write_some, write_while, writer_for};
use crate::support::iscsi::{IscsiPort, PortOptions};
use crate::support::process::{Array, Cluster, Layout, binary, expect_tool, rows};
use crate::support::proxy::LinkState;
use crate::support::random::{Random, seed_from_environment};
use crate::support::wof::{
    Durability, DurableRule, HostError, HostPort, Observed, Place, Writer, check_crash, read_image,
};
use crate::takeover::{expect_everything, takeover, until_roles};
use serde_json::Value;
use std::process::Command;

const VOLUMES: u16 = 2;
const NAMES: [&str; 2] = ["alpha", "beta"];
/// Volumes of a branch are mapped from here on.
const BRANCH_LUNS: u16 = 50;

/// Both arrays, each with its own hosts and their history.
struct Both {
    cluster: Cluster,
    writers: [Writer; 2],
}

impl Both {
    /// Both are primaries, and neither knows of the other.
    async fn apart(seed: u64) -> Self {
        let layout = Layout { volumes: VOLUMES, volume_bytes: 8 << 20, ..Layout::default() };
        let cluster = Cluster::running(layout).await;
        let mut writer = writer_for(&cluster, seed);
        let mut random = Random::new(seed);
        let ports = cluster.arrays[0].ports(SESSIONS, VOLUMES);
        write_while(&mut writer, &ports, async {
            wait_a_random_time(&mut random, 500).await;
            cluster.set_link(1, LinkState::Cut);
            wait_a_random_time(&mut random, 100).await;
        })
        .await;
        let [alpha, beta] = [&cluster.arrays[0], &cluster.arrays[1]];
        let mut at_beta = writer.branch(seed + 1);
        // Its hosts write on: nobody has told them.
        write_while(&mut writer, &ports, takes_over(beta)).await;
        let found = Observed::from_images(at_beta.log(), &image(beta).await);
        at_beta.resume_after_crash(&found).unwrap_or_else(|verdict| panic!("no prefix: {verdict}"));
        let beta_ports = beta.ports(SESSIONS, VOLUMES);
        tokio::join!(write_some(&mut writer, &ports, 150), write_some(&mut at_beta, &beta_ports, 120));
        assert_eq!((takeover(alpha), takeover(beta).as_deref()), (None, Some("taken")), "no contact yet");
        Self { cluster, writers: [writer, at_beta] }
    }

    /// The link is whole again: alpha is shut, and both say the same of what only it has.
    async fn meet(&self) -> Value {
        self.cluster.set_link(1, LinkState::Up);
        let [alpha, beta] = [&self.cluster.arrays[0], &self.cluster.arrays[1]];
        let known = alpha
            .wait_until("alpha is shut, and both know how much only it has", CATCH_UP, || {
                let [shut, told] = [alpha.group()?["takeover"].clone(), beta.group()?["takeover"].clone()];
                let is_same = |field: &str| shut[field].is_u64() && shut[field] == told[field];
                let is_said =
                    ["branch_first_update_number", "branch_updates", "branch_bytes"].into_iter().all(is_same);
                (shut["state"] == "overtaken" && told["state"] == "taken" && is_said).then_some(told)
            })
            .await;
        assert!(known["branch_updates"].as_u64() > Some(0), "its hosts have written: {known}");
        self.both_have_theirs().await;
        for fua in [Durability::Plain, Durability::Fua] {
            let refused = one_write(alpha, fua).await;
            assert_eq!(refused, Err(HostError::Refused { key: 7, code: 0x2700 }), "write protected");
        }
        known
    }

    /// Hosts find at each array all that they were answered there, and nothing of the other one.
    async fn both_have_theirs(&self) {
        for (array, writer) in self.cluster.arrays.iter().zip(&self.writers) {
            let observed = Observed::from_images(writer.log(), &image(array).await);
            check_crash(writer.log(), &observed, DurableRule::Acknowledged).expect_clean(array.portal());
        }
    }

    /// To keep what alpha has it is the primary again: then both are, each with hosts, until one is named.
    async fn both_are_primaries(&mut self) {
        let [alpha, beta] = [&self.cluster.arrays[0], &self.cluster.arrays[1]];
        let seen = alpha.shell(&["group", "takeover", "g1", "--dry-run"]).expect("a look");
        assert!(seen["destroys"].to_string().contains("then both are primaries"), "{seen}");
        assert_eq!(takeover(alpha).as_deref(), Some("overtaken"), "a look changes nothing");
        alpha.shell(&["group", "takeover", "g1", "--yes"]).expect("it takes itself back");
        alpha
            .wait_until("both say so", CATCH_UP, || {
                let is_so = |array| takeover(array).as_deref() == Some("split-brain");
                (is_so(alpha) && is_so(beta)).then_some(())
            })
            .await;
        let ports = [alpha, beta].map(|array| array.ports(SESSIONS, VOLUMES));
        let [at_alpha, at_beta] = &mut self.writers;
        tokio::join!(write_some(at_alpha, &ports[0], 60), write_some(at_beta, &ports[1], 60));
        self.both_have_theirs().await;
    }

    /// What is lost is said before, and nothing is lost by saying it.
    async fn what_is_lost_is_said(&self, winner: usize, keep: Option<&str>) -> (Value, Vec<Vec<u8>>) {
        let (stays, goes) = (&self.cluster.arrays[winner], &self.cluster.arrays[1 - winner]);
        let known = stays
            .wait_until("it knows what the other one has", CATCH_UP, || {
                let known = stays.group()?["takeover"].clone();
                known["branch_updates"].is_u64().then_some(known)
            })
            .await;
        let had = image(goes).await;
        let to = ["group", "failback", "g1", "--to", NAMES[1 - winner]];
        let line = |end: &[&'static str]| -> Vec<&str> {
            let kept = keep.into_iter().flat_map(|name| ["--keep-branch", name]);
            to.iter().copied().chain(kept).chain(end.iter().copied()).collect()
        };
        let seen = stays.shell(&line(&["--dry-run"])).expect("a look");
        let lost = format!(
            "{} updates that only {} has, from {} on, in up to {} bytes",
            known["branch_updates"],
            NAMES[1 - winner],
            known["branch_first_update_number"],
            known["branch_bytes"]
        );
        assert!(seen["destroys"].to_string().contains(&lost), "{lost}: {seen}");
        let refused = stays.shell(&line(&[])).expect_err("nobody said yes");
        assert!(refused.contains(&lost) && refused.contains("--yes"), "{refused}");
        if let Some(name) = keep {
            assert!(seen["says"].to_string().contains(&format!("as snapshot {name}")), "{seen}");
        }
        assert!(image(goes).await == had, "nothing is overwritten by a look");
        stays.shell(&line(&["--yes"])).expect("the loser is named");
        (known, had)
    }

    /// The loser was named: it becomes a copy, while hosts write on at the other one.
    async fn becomes_a_copy(&mut self, winner: usize) {
        let ports = self.cluster.arrays[winner].ports(SESSIONS, VOLUMES);
        write_some(&mut self.writers[winner], &ports, 80).await;
        until_roles(&self.cluster, winner).await;
        expect_everything(&self.cluster, &self.writers[winner], winner).await;
    }
}

/// The command, while the test goes on writing.
async fn takes_over(array: &Array) {
    let mut command = binary();
    command.args(["group", "takeover", "g1", "--yes"]);
    command.env("HOLDFAST_SOCKET", array.directory().join("data/holdfast.sock"));
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("it runs");
    let output = output.expect("the binary starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

async fn image(array: &Array) -> Vec<Vec<u8>> {
    let port = array.ports(1, VOLUMES).remove(0);
    let bytes = (8_u64 << 20) / 512;
    let geometry = crate::support::wof::Geometry::new(u32::from(VOLUMES), bytes);
    read_image(&port, geometry).await.unwrap_or_else(|why| panic!("{}: {why:?}", array.portal()))
}

async fn one_write(array: &Array, durability: Durability) -> Result<(), HostError> {
    let port = array.ports(1, VOLUMES).remove(0);
    port.write(Place { volume: 0, lba: 0, sectors: 1 }, vec![0xee; 512].into(), durability).await
}

/// What the loser had is a volume like any other: hosts read it and a foreign tool exports it, byte by byte; then it is dropped.
async fn the_branch_is_read_and_dropped(loser: &Array, writer: &Writer, had: &[Vec<u8>]) {
    let kept = loser.shell(&["snapshot", "show", "lost"]).expect("it is kept");
    assert!(kept["branch_updates"].as_u64() > Some(0), "{kept}");
    let target = loser.target();
    let luns: Vec<u16> = (BRANCH_LUNS..BRANCH_LUNS + VOLUMES).collect();
    for (volume, lun) in (1..).zip(&luns) {
        let name = format!("lost.data{volume}");
        loser.shell(&["lun", "map", &target, &lun.to_string(), &name]).expect("it is mapped");
    }
    let options = PortOptions::new(loser.portal(), &target, 7, VOLUMES);
    let port = IscsiPort::new(PortOptions { luns: luns.clone(), ..options });
    let found = read_image(&port, writer.log().geometry()).await.expect("hosts read it");
    assert!(found == had, "it is what the loser had");
    let observed = Observed::from_images(writer.log(), &found);
    check_crash(writer.log(), &observed, DurableRule::Acknowledged).expect_clean("the branch");
    let place = Place { volume: 0, lba: 0, sectors: 1 };
    let refused = port.write(place, vec![0; 512].into(), Durability::Plain).await;
    assert!(matches!(refused, Err(HostError::Refused { key: 7, .. })), "nobody changes it: {refused:?}");
    let exported = tempfile::tempdir().expect("a temporary directory");
    let file = exported.path().join("branch.img");
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-f", "raw", "-O", "raw", &loser.url(BRANCH_LUNS)]).arg(&file);
    expect_tool(&mut convert);
    assert!(std::fs::read(&file).expect("it is exported") == had[0], "and so is what a foreign tool exports");
    drop(port);
    for lun in &luns {
        loser.shell(&["lun", "unmap", &target, &lun.to_string()]).expect("it is unmapped");
    }
    loser.shell(&["snapshot", "delete", "lost", "--yes"]).expect("it is dropped");
    let left = rows(&loser.shell(&["snapshot", "list"]).expect("snapshots"));
    assert!(left.iter().all(|one| one["name"] != "lost"), "{left:?}");
}

/// Alpha, which was overtaken, is named as the loser.
async fn alpha_loses(seed: u64, keep: Option<&str>) {
    let mut both = Both::apart(seed_from_environment(seed)).await;
    let told = both.meet().await;
    let alpha = &both.cluster.arrays[0];
    // It cannot go on from beta, to which it has no link.
    alpha.shell(&["group", "delete", "g1", "--reader", "gamma", "--yes"]).expect("gamma is taken away");
    let (known, had) = both.what_is_lost_is_said(1, keep).await;
    assert_eq!(known["branch_updates"], told["branch_updates"], "nothing came to it: it is shut");
    both.becomes_a_copy(1).await;
    if keep.is_some() {
        let kept = both.cluster.arrays[0].shell(&["snapshot", "show", "lost"]).expect("it is kept");
        assert_eq!(kept["branch_updates"], told["branch_updates"], "{kept}");
        the_branch_is_read_and_dropped(&both.cluster.arrays[0], &both.writers[0], &had).await;
    }
    let back = ["group", "failback", "g1", "--to", "alpha", "--yes"];
    let beta = &both.cluster.arrays[1];
    beta.wait_until("the roles go back", CATCH_UP, || beta.shell(&back).ok().map(|_| ())).await;
    until_roles(&both.cluster, 0).await;
    expect_everything(&both.cluster, &both.writers[1], 0).await;
}

/// Alpha takes itself back, both are primaries, and beta is named as the loser; gamma has read alpha all along.
async fn beta_loses(seed: u64, keep: Option<&str>) {
    let mut both = Both::apart(seed_from_environment(seed)).await;
    both.meet().await;
    both.both_are_primaries().await;
    let (_, had) = both.what_is_lost_is_said(0, keep).await;
    both.becomes_a_copy(0).await;
    if keep.is_some() {
        the_branch_is_read_and_dropped(&both.cluster.arrays[1], &both.writers[1], &had).await;
    }
    both.cluster.wait_for_readers(&[2, 3], CATCH_UP).await;
    assert!(image(&both.cluster.arrays[2]).await == image(&both.cluster.arrays[0]).await, "gamma differs");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_array_that_was_overtaken_loses_and_keeps_its_branch() {
    alpha_loses(101, Some("lost")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_array_that_was_overtaken_loses_without_a_branch() {
    alpha_loses(102, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_array_that_took_over_loses_and_keeps_its_branch() {
    beta_loses(103, Some("lost")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_array_that_took_over_loses_without_a_branch() {
    beta_loses(104, None).await;
}
