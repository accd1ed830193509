//! Holdfast itself as the relay (promises X1, X4 to X6, claims 4 and 14): a third array with three plain volumes, each of which one side
//! may write and the other one only read. The two arrays replicate over it alone; it is killed under load and comes back, then
//! the first array is lost under load for good, as it seems, and comes back over the direct path.

use crate::by_command::{VOLUMES, bare, images, say, wait_until_equal, writer};
use crate::foreign_clients::may_write;
use crate::relay::{LIMIT, SESSIONS, copied, hosts_wait, is_read_over, takes_over, use_relay, way_back};
use crate::rounds::{QUEUE_DEPTH, wait_a_random_time, write_some, write_while};
use crate::support::process::Array;
use crate::support::proxy::{LinkState, Proxy};
use crate::support::random::{Random, seed_from_environment};
use std::path::Path;

/// An array with nothing but the LUNs of a relay.
async fn relay(directory: &Path) -> Array {
    let mut gamma = bare("gamma", 3, directory);
    gamma.start().await;
    let unit = gamma.unit(0);
    say(&gamma, &format!("parity-group create pg0 --level raid0 --unit {}:64MiB", unit.display()));
    for (volume, size) in [("journals", "16MiB"), ("from-first", "1MiB"), ("from-second", "1MiB")] {
        say(&gamma, &format!("volume create {volume} --parity-group pg0 --size {size}"));
    }
    let target = gamma.target();
    let (first, second) = (side("alpha"), side("beta"));
    say(&gamma, &format!("target create {target} --initiator {first} {second}"));
    say(&gamma, &format!("lun map {target} 1 journals --read-only-for {second}"));
    say(&gamma, &format!("lun map {target} 2 from-first --read-only-for {second}"));
    say(&gamma, &format!("lun map {target} 3 from-second --read-only-for {first}"));
    gamma
}

/// As what an array comes to a relay.
fn side(array: &str) -> String {
    format!("iqn.2026-11.io.holdfast:{array}.relay")
}

#[tokio::test(flavor = "multi_thread")]
async fn holdfast_is_the_relay_and_everything_comes_back_over_the_direct_path() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut random = Random::new(seed_from_environment(91));
    let (mut alpha, mut beta, link) = copied(directory.path(), " --fence-wait 1s").await;
    let mut gamma = relay(directory.path()).await;
    let (first, second) = (side("alpha"), side("beta"));
    let rights = |initiator: &str| [1, 2, 3].map(|lun| may_write(&gamma, lun, initiator));
    assert_eq!((rights(&first), rights(&second)), ([true, true, false], [false, false, true]));
    let way = Proxy::start(gamma.portal().to_owned()).await.expect("a free port");
    use_relay(&alpha, &beta, [gamma.portal(), &way.address()], &gamma.target());
    is_read_over(&beta, "r1").await;
    hosts_wait(&alpha).await;
    link.iter().for_each(|proxy| proxy.set(LinkState::Cut));
    let mut writer = writer();
    write_some(&mut writer, &alpha.ports(SESSIONS, VOLUMES), 200).await;
    // The relay is killed under load, and there is no other way: hosts wait as long as the fence says and go on alone. When the
    // relay is back it is used again, and has what was written meanwhile, without a word.
    let summary = write_while(&mut writer, &alpha.ports(SESSIONS, VOLUMES), async {
        wait_a_random_time(&mut random, 300).await;
        gamma.kill();
        let is_alone = || {
            let group = say(&alpha, "group show g1");
            (group["synchronous"]["state"] != "synchronised").then_some(())
        };
        alpha.wait_until("hosts go on alone", LIMIT, is_alone).await;
        gamma.start().await;
    })
    .await;
    assert_eq!(summary.refusals, [].into());
    hosts_wait(&alpha).await;
    hosts_wait(&beta).await;
    wait_until_equal(&alpha, &beta, "g1", "p1");
    assert!(images(&alpha, &writer).await == images(&beta, &writer).await);
    is_read_over(&beta, "r1").await;
    // The first is lost under load, while the second does not reach the relay: what hosts were answered last lies there only.
    write_while(&mut writer, &alpha.ports(SESSIONS, VOLUMES), async {
        way.set(LinkState::Cut);
        // Not so long that alpha's journal is full because of beta: then its hosts are not to wait for it any longer.
        wait_a_random_time(&mut random, 150).await;
        let state = say(&alpha, "group show g1")["synchronous"]["state"].clone();
        assert_eq!(state, "synchronised", "its hosts wait");
        alpha.kill();
    })
    .await;
    way.set(LinkState::Up);
    takes_over(&beta, &mut writer).await;
    let in_flight = u64::try_from(QUEUE_DEPTH).expect("a number");
    way_back(&mut alpha, &beta, &mut writer, &link, in_flight).await;
    // And everything is as at first.
    is_read_over(&beta, "r1").await;
    hosts_wait(&alpha).await;
    gamma.stop().await;
    beta.stop().await;
}
