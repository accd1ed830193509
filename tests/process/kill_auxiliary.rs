//! An auxiliary is killed with SIGKILL while the primary is written. Each time it serves within ten seconds; cut off
//! from the primary it shows an image that is a prefix of the history and never older than the one before; and at the
//! end it is equal again without a full copy. The other auxiliary never notices.

use crate::rounds::{
    CATCH_UP, SESSIONS, copied_so_far, expect_equal_copies, roomy, start_in_time, wait_a_random_time,
    write_some, write_while, writer_for,
};
use crate::support::process::Cluster;
use crate::support::proxy::LinkState;
use crate::support::random::{Random, number_from_environment, seed_from_environment};
use crate::support::wof::{Observed, Verdict, check_monotone, check_prefix, read_image};

const KILLED: usize = 1;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_auxiliary_is_always_a_prefix_and_becomes_equal_again() {
    let seed = seed_from_environment(22);
    let kills = number_from_environment("HOLDFAST_KILLS", 10);
    let mut random = Random::new(seed);
    let mut cluster = Cluster::running(roomy()).await;
    let copied = copied_so_far(&cluster);
    let mut writer = writer_for(&cluster, seed);
    let volumes = cluster.layout.volumes;
    let mut before: Option<Verdict> = None;
    for round in 1..=kills {
        let ports = cluster.arrays[0].ports(SESSIONS, volumes);
        let cluster_now = &mut cluster;
        let random = &mut random;
        let summary = write_while(&mut writer, &ports, async move {
            wait_a_random_time(random, 1_500).await;
            cluster_now.arrays[KILLED].kill();
            cluster_now.set_link(KILLED, LinkState::Cut);
            wait_a_random_time(random, 300).await;
        })
        .await;
        start_in_time(&mut cluster, KILLED).await;
        cluster.wait_until_drained(KILLED, CATCH_UP).await;
        let port = cluster.arrays[KILLED].ports(1, volumes).remove(0);
        let images = read_image(&port, writer.log().geometry()).await.expect("the copy can be read");
        let verdict = check_prefix(writer.log(), &Observed::from_images(writer.log(), &images));
        verdict.expect_clean(&format!("kill {round}: the copy is a prefix"));
        if let Some(before) = &before {
            assert_eq!(
                check_monotone(writer.log().geometry(), before, &verdict),
                [],
                "kill {round}: never backwards"
            );
        }
        before = Some(verdict);
        cluster.set_link(KILLED, LinkState::Up);
        // Every other time it is killed again while it still catches up. It has to arrive now and then, because a journal
        // that is full of what one reader lacks holds back the hosts.
        if round % 2 == 0 {
            cluster.wait_for_readers(&[2], CATCH_UP).await;
        }
        eprintln!("kill {round}: {} commands, {} syncs", summary.acknowledged, summary.syncs);
    }
    let ports = cluster.arrays[0].ports(SESSIONS, volumes);
    write_some(&mut writer, &ports, 500).await;
    expect_equal_copies(&cluster, &writer, &copied).await;
}
