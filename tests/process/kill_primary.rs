//! The primary is killed with SIGKILL under the checked writer, again and again. Each time it serves within ten
//! seconds, is sound before that, has everything that was acknowledged as durable, is the image of a prefix of the history, and at the end
//! both copies are equal to it without a full copy.

use crate::rounds::{
    SESSIONS, copied_so_far, expect_equal_copies, roomy, start_in_time, wait_a_random_time, write_some,
    write_while, writer_for,
};
use crate::support::process::{Cluster, binary, expect_tool};
use crate::support::random::{Random, number_from_environment, seed_from_environment};
use crate::support::wof::{DurableRule, Observed, check_crash, read_image};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_primary_loses_nothing_durable_and_its_copies_become_equal_again() {
    let seed = seed_from_environment(21);
    let kills = number_from_environment("HOLDFAST_KILLS", 10);
    let mut random = Random::new(seed);
    let mut cluster = Cluster::running(roomy()).await;
    let copied = copied_so_far(&cluster);
    let mut writer = writer_for(&cluster, seed);
    let volumes = cluster.layout.volumes;
    for round in 1..=kills {
        let ports = cluster.arrays[0].ports(SESSIONS, volumes);
        let primary = cluster.primary();
        let summary = write_while(&mut writer, &ports, async {
            wait_a_random_time(&mut random, 1_500).await;
            primary.kill();
        })
        .await;
        drop(ports);
        if round % 3 == 1 {
            let data = cluster.arrays[0].directory().join("data");
            expect_tool(binary().arg("fsck").arg(data));
        }
        start_in_time(&mut cluster, 0).await;
        let port = cluster.arrays[0].ports(1, volumes).remove(0);
        let images = read_image(&port, writer.log().geometry()).await.expect("the volumes can be read");
        let observed = Observed::from_images(writer.log(), &images);
        let verdict = check_crash(writer.log(), &observed, DurableRule::Flushed);
        verdict.expect_clean(&format!("kill {round}: durable writes"));
        if let Err(verdict) = writer.resume_after_crash(&observed) {
            verdict.expect_clean(&format!("kill {round}: the journal is a prefix"));
        }
        eprintln!("kill {round}: {} commands, {} syncs", summary.acknowledged, summary.syncs);
    }
    let ports = cluster.arrays[0].ports(SESSIONS, volumes);
    write_some(&mut writer, &ports, 500).await;
    expect_equal_copies(&cluster, &writer, &copied).await;
    cluster.primary().stop().await;
}
