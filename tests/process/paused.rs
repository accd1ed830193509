//! An array that is stopped like a machine that hangs (SIGSTOP), and goes on behind a takeover: what its hosts had sent meanwhile is
//! answered by nobody, it finds out whose turn it is, and nothing of the new primary is lost (invariants I4 and I6).

use crate::rounds::CATCH_UP;
use crate::support::iscsi::{IscsiPort, PortOptions};
use crate::support::process::{Array, Cluster, Layout};
use crate::support::wof::{Durability, HostPort, Place};
use crate::takeover::{takeover, until_roles};
use holdfast::clock::{Clock, SystemClock};
use std::time::Duration;

const PLACE: Place = Place { volume: 0, lba: 0, sectors: 1 };
/// From the command to the first write that a host is answered.
const HOSTS_WITHIN: Duration = Duration::from_secs(60);

async fn port(array: &Array) -> IscsiPort {
    let port = IscsiPort::new(PortOptions::new(array.portal(), &array.target(), 8, 1));
    port.capacity(1).await.expect("it can be asked");
    port
}

fn sector(byte: u8) -> bytes::Bytes {
    vec![byte; 512].into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_was_stopped_answers_nothing_behind_a_takeover() {
    let layout = Layout {
        volumes: 1,
        volume_bytes: 8 << 20,
        is_synchronous: true,
        is_meshed: true,
        group: "fence = \"data\"\nfence_wait = \"2s\"\n",
        ..Layout::default()
    };
    let cluster = Cluster::running(layout).await;
    let [alpha, beta] = [&cluster.arrays[0], &cluster.arrays[1]];
    alpha
        .wait_until("together", CATCH_UP, || {
            let is = |array: &Array| Some(array.group()?["synchronous"]["state"] == "synchronised");
            (is(alpha)? && is(beta)?).then_some(())
        })
        .await;
    let host = port(alpha).await;
    host.write(PLACE, sector(1), Durability::Plain).await.expect("both have it");
    alpha.pause();
    // The system takes it for the process that stands still.
    let late = tokio::spawn(async move { host.write(PLACE, sector(2), Durability::Plain).await });
    let clock = SystemClock::new();
    clock.sleep(Duration::from_millis(300)).await;
    let since = clock.now();
    beta.shell(&["group", "takeover", "g1", "--yes"])
        .expect("it does not wait for the one that stands still");
    let there = port(beta).await;
    let found = there.read(PLACE).await.expect("hosts read it");
    assert_eq!(found[0], 1, "everything that was answered, and nothing else");
    there.write(PLACE, sector(3), Durability::Plain).await.expect("hosts write");
    let took = clock.now().since(since);
    eprintln!("hosts write at the second {took:?} behind the command");
    assert!(took < HOSTS_WITHIN, "{took:?}");
    alpha.resume();
    let late = late.await.expect("it ends");
    assert!(late.is_err(), "the first answered a write behind the takeover");
    alpha
        .wait_until("it knows", CATCH_UP, || (takeover(alpha).as_deref() == Some("overtaken")).then_some(()))
        .await;
    let refused = port(alpha).await.write(PLACE, sector(4), Durability::Plain).await;
    assert!(refused.is_err(), "it is no primary");
    assert_eq!(there.read(PLACE).await.expect("hosts read it")[0], 3);
    let failback = || beta.shell(&["group", "failback", "g1", "--to", "alpha", "--yes"]).ok();
    beta.wait_until("the third has gone over, and alpha may become a copy", CATCH_UP, failback).await;
    until_roles(&cluster, 1).await;
    assert_eq!(port(alpha).await.read(PLACE).await.expect("hosts read the copy")[0], 3);
}
