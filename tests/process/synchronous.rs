//! A synchronous pair on real processes (promise K1): its primary is lost under load, sometimes with the copy a moment later (a rolling
//! disaster), the copy takes over, and **nothing that a host was answered is missing**; the old primary comes back as the synchronous
//! copy of the new one, and the next loss is that of the other site. `HOLDFAST_SITE_LOSSES` says how often, two times if nothing does.

use crate::rounds::{
    CATCH_UP, SESSIONS, start_in_time, wait_a_random_time, write_some, write_while, writer_for,
};
use crate::support::process::{Array, Cluster, Layout};
use crate::support::random::{Random, number_from_environment, seed_from_environment};
use crate::support::wof::{DurableRule, Observed, check_crash, read_image};
use holdfast::clock::{Clock, SystemClock};
use std::time::Duration;

fn shows(array: &Array) -> Option<()> {
    (array.group()?["synchronous"]["state"] == "synchronised").then_some(())
}

async fn until_synchronised(cluster: &Cluster) {
    for array in &cluster.arrays[..2] {
        array.wait_until("it is synchronised", CATCH_UP, || shows(array)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_loss_of_a_site_loses_what_a_host_of_a_synchronous_pair_was_answered() {
    let seed = seed_from_environment(81);
    let losses = number_from_environment("HOLDFAST_SITE_LOSSES", 2);
    let mut random = Random::new(seed);
    let mut cluster = Cluster::running(Layout { is_synchronous: true, ..Layout::default() }).await;
    let mut writer = writer_for(&cluster, seed);
    let volumes = cluster.layout.volumes;
    let (mut first, mut second) = (0, 1);
    let clock = SystemClock::new();
    let mut longest = Duration::ZERO;
    for loss in 0..losses {
        until_synchronised(&cluster).await;
        let ports = cluster.arrays[first].ports(SESSIONS, volumes);
        let is_rolling = loss % 2 == 1;
        write_while(&mut writer, &ports, async {
            wait_a_random_time(&mut random, 1_500).await;
            cluster.arrays[first].kill();
            if is_rolling {
                cluster.arrays[second].kill();
            }
        })
        .await;
        drop(ports);
        if is_rolling {
            start_in_time(&mut cluster, second).await;
        }
        let since = clock.now();
        let taker = &cluster.arrays[second];
        taker.shell(&["group", "takeover", "g1", "--yes"]).expect("it takes over");
        let port = taker.ports(1, volumes).remove(0);
        let images = read_image(&port, writer.log().geometry()).await.expect("hosts read it");
        longest = longest.max(clock.now().since(since));
        let observed = Observed::from_images(writer.log(), &images);
        check_crash(writer.log(), &observed, DurableRule::Acknowledged)
            .expect_clean("every answered write is there");
        if let Err(verdict) = writer.resume_after_crash(&observed) {
            verdict.expect_clean("the new primary is a prefix");
        }
        let ports = taker.ports(SESSIONS, volumes);
        write_some(&mut writer, &ports, 100).await;
        drop(ports);
        start_in_time(&mut cluster, first).await;
        let (taker, lost) = (&cluster.arrays[second], ["alpha", "beta"][first]);
        let back = ["group", "failback", "g1", "--to", lost, "--yes"];
        let old = &cluster.arrays[first];
        taker
            .wait_until("the old primary becomes the copy", CATCH_UP, || {
                // What its configuration declares is there again after a restart: another reader, which has to go first.
                let _ = old.shell(&["group", "delete", "g1", "--reader", "gamma", "--yes"]);
                taker.shell(&back).ok().map(|_| ())
            })
            .await;
        (first, second) = (second, first);
    }
    until_synchronised(&cluster).await;
    let ports = cluster.arrays[first].ports(SESSIONS, volumes);
    write_some(&mut writer, &ports, 100).await;
    println!(
        "{losses} sites lost, {} commands answered, none missing; takeover within {longest:?}",
        writer.log().acked_count()
    );
}
