//! Figure 23 with three processes: hosts write at an upstream array, which forwards to alpha, whose journal beta reads.
//! Everything is made by command. Alpha is killed and the upstream array goes on alone until it is back; the upstream
//! array is killed, and nothing that its hosts were answered is missing at beta.

use crate::by_command::{
    VOLUME_BYTES, VOLUMES, bare, images, make_storage, refused, say, wait_until_equal, writer,
};
use crate::rounds::{wait_a_random_time, write_some, write_while};
use crate::support::process::Array;
use crate::support::random::{Random, seed_from_environment};
use crate::support::wof::{DurableRule, Observed, Writer, check_crash};
use holdfast::clock::{Clock, SystemClock};
use std::time::Duration;

struct Three {
    up: Array,
    alpha: Array,
    beta: Array,
}

impl Three {
    /// Beta has everything that alpha has numbered.
    fn wait(&self) {
        for pair in ["p1", "p2"] {
            wait_until_equal(&self.alpha, &self.beta, "g1", pair);
        }
    }

    /// All three have the same, and everything that was acknowledged.
    async fn equal(&self, writer: &Writer) {
        for pair in ["s1", "s2"] {
            wait_until_normal(&self.up, pair).await;
        }
        self.wait();
        let upstream = images(&self.up, writer).await;
        check_crash(writer.log(), &Observed::from_images(writer.log(), &upstream), DurableRule::Acknowledged)
            .expect_clean("the upstream array");
        assert!(upstream == images(&self.alpha, writer).await, "alpha differs");
        assert!(upstream == images(&self.beta, writer).await, "beta differs");
    }
}

/// A pair that is suspended comes back by itself; a wait for its state would say that it is suspended.
async fn wait_until_normal(array: &Array, pair: &str) {
    for _ in 0..600 {
        if say(array, &format!("pair show {pair}"))["state"] == "normal" {
            return;
        }
        SystemClock::new().sleep(Duration::from_millis(100)).await;
    }
    panic!("{}\n{}", say(array, &format!("pair show {pair}")), array.log_tail());
}

fn link(at: &Array, to: &Array, name: &str, number: u32) {
    let secret = at.directory().join("link-secret");
    std::fs::write(&secret, "between two arrays of a test\n").expect("a file");
    let (portal, secret) = (to.portal(), secret.display());
    say(at, &format!("link create {name} --array {number} --portal {portal} --secret-file {secret}"));
}

/// A journaled group from alpha to beta, and a synchronous one from the upstream array to alpha.
fn pair_up(all: &Three) {
    say(&all.alpha, "group create g1 --svol-access read");
    say(&all.alpha, "journal add g1 --volume jnl1");
    say(&all.alpha, "journal add g1 --volume jnl1 --at beta");
    say(&all.up, "group create g0 --svol-access read --fence never --fence-wait 1s");
    for volume in ["1", "2"] {
        let pair = format!("pair create p{volume} --group g1 --pvol data{volume}");
        say(&all.alpha, &format!("{pair} --svol beta:copy{volume}"));
        let pair = format!("pair create s{volume} --group g0 --pvol org{volume}");
        say(&all.up, &format!("{pair} --svol alpha:data{volume} --copy sync"));
    }
    say(&all.alpha, "group start g1");
    say(&all.up, "group start g0");
    let why = refused(&all.up, "journal add g0 --volume jnl1");
    assert!(why.contains("forwarded"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hosts_write_upstream_reaches_primary_and_auxiliary_whoever_is_killed() {
    let mut random = Random::new(seed_from_environment(61));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let parent = directory.path();
    let (up, alpha, beta) = (bare("up", 3, parent), bare("alpha", 1, parent), bare("beta", 2, parent));
    let mut all = Three { up, alpha, beta };
    for (array, volumes) in [
        (&mut all.up, ["org1", "org2"]),
        (&mut all.alpha, ["data1", "data2"]),
        (&mut all.beta, ["copy1", "copy2"]),
    ] {
        array.start().await;
        make_storage(array, volumes);
    }
    // Before there is a copy, so that the initial copy has something to do.
    let mut writer = writer();
    write_some(&mut writer, &all.up.ports(2, VOLUMES), 200).await;
    link(&all.up, &all.alpha, "alpha", 1);
    link(&all.alpha, &all.up, "up", 3);
    link(&all.alpha, &all.beta, "beta", 2);
    link(&all.beta, &all.alpha, "alpha", 1);
    pair_up(&all);
    all.equal(&writer).await;
    let lun = say(&all.alpha, "lun list");
    assert!(lun.to_string().contains("read-only"), "hosts write upstream only: {lun}");

    // Alpha dies: after a second hosts are answered without it, and what they write then is copied later.
    let ports = all.up.ports(4, VOLUMES);
    write_while(&mut writer, &ports, async {
        wait_a_random_time(&mut random, 300).await;
        all.alpha.kill();
        wait_a_random_time(&mut random, 200).await;
    })
    .await;
    write_some(&mut writer, &ports, 300).await;
    let pair = say(&all.up, "pair show s1");
    assert_eq!(pair["state"], "suspended", "{pair}");
    assert!(pair["difference_bytes"].as_u64() > Some(0) && pair["copy"] == "sync", "{pair}");
    all.alpha.start().await;
    all.equal(&writer).await;

    // The upstream array dies for good as far as beta knows: it reaches what hosts were answered last.
    write_while(&mut writer, &ports, async {
        wait_a_random_time(&mut random, 300).await;
        all.up.kill();
    })
    .await;
    all.wait();
    let copies = images(&all.beta, &writer).await;
    check_crash(writer.log(), &Observed::from_images(writer.log(), &copies), DurableRule::Acknowledged)
        .expect_clean("beta without the upstream array");

    // It comes back, and has lost nothing either.
    all.up.start().await;
    let found = Observed::from_images(writer.log(), &images(&all.up, &writer).await);
    check_crash(writer.log(), &found, DurableRule::Acknowledged)
        .expect_clean("the upstream array after its crash");
    writer.resume_after_loss(&found).unwrap_or_else(|verdict| panic!("after the crash: {verdict}"));
    write_some(&mut writer, &ports, 300).await;
    all.equal(&writer).await;

    // Taken away by command, both volumes are ordinary ones again.
    say(&all.up, "pair delete s2 --yes");
    say(&all.up, "group delete g0 --yes");
    write_some(&mut writer, &ports, 100).await;
    for array in [&mut all.up, &mut all.alpha, &mut all.beta] {
        array.stop().await;
    }
}

/// Volumes without units, and journal volumes.
fn make_virtual_storage(array: &Array) {
    say(array, &format!("parity-group create pg0 --level raid0 --unit {}:128MiB", array.unit(0).display()));
    for name in ["data1", "data2"] {
        say(array, &format!("volume create {name} --virtual --size {VOLUME_BYTES}B"));
    }
    say(array, "volume create jnl1 --parity-group pg0 --size 32MiB");
    let target = array.target();
    say(array, &format!("target create {target} --lun 1=data1 --initiator *"));
    say(array, &format!("lun map {target} 2 data2"));
}

/// Figure 24 with three processes: alpha has journals and no data. Beta is stopped, so that what hosts write is in alpha's journal
/// alone; then the upstream array is killed for good, and alpha too, to start again. Beta drains the journal: nothing that
/// was answered is missing.
#[tokio::test(flavor = "multi_thread")]
async fn the_journal_of_virtual_volumes_brings_the_auxiliary_all_that_hosts_were_answered() {
    let mut random = Random::new(seed_from_environment(67));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let parent = directory.path();
    let (up, alpha, beta) = (bare("up", 3, parent), bare("alpha", 1, parent), bare("beta", 2, parent));
    let mut all = Three { up, alpha, beta };
    for array in [&mut all.up, &mut all.alpha, &mut all.beta] {
        array.start().await;
    }
    make_storage(&all.up, ["org1", "org2"]);
    make_virtual_storage(&all.alpha);
    make_storage(&all.beta, ["copy1", "copy2"]);
    let mut writer = writer();
    write_some(&mut writer, &all.up.ports(2, VOLUMES), 200).await;
    link(&all.up, &all.alpha, "alpha", 1);
    link(&all.alpha, &all.up, "up", 3);
    link(&all.alpha, &all.beta, "beta", 2);
    link(&all.beta, &all.alpha, "alpha", 1);
    pair_up(&all);
    // What hosts read at alpha comes from the upstream array.
    all.equal(&writer).await;

    all.beta.kill();
    let ports = all.up.ports(4, VOLUMES);
    write_some(&mut writer, &ports, 200).await;
    write_while(&mut writer, &ports, async {
        wait_a_random_time(&mut random, 300).await;
        all.up.kill();
    })
    .await;
    all.alpha.kill();
    all.alpha.start().await;
    all.beta.start().await;
    all.wait();
    let copies = images(&all.beta, &writer).await;
    check_crash(writer.log(), &Observed::from_images(writer.log(), &copies), DurableRule::Acknowledged)
        .expect_clean("beta, without the upstream array");
    let port = all.alpha.ports(1, VOLUMES).remove(0);
    let read = crate::support::wof::read_image(&port, writer.log().geometry()).await;
    assert!(read.is_err(), "alpha says that it does not have the data");

    // The upstream array comes back and is in step by itself.
    all.up.start().await;
    let found = Observed::from_images(writer.log(), &images(&all.up, &writer).await);
    writer.resume_after_loss(&found).unwrap_or_else(|verdict| panic!("after the crash: {verdict}"));
    write_some(&mut writer, &ports, 100).await;
    all.equal(&writer).await;
    for array in [&mut all.up, &mut all.alpha, &mut all.beta] {
        array.stop().await;
    }
}
