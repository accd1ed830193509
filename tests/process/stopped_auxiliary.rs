//! With one auxiliary stopped the other keeps following; the journal is kept for the stopped one, which catches up when
//! it is back. The same for a link that is cut, half-open or slow.

use crate::rounds::{
    CATCH_UP, SESSIONS, copied_so_far, expect_equal_copies, start_in_time, write_some, writer_for,
};
use crate::support::process::{Cluster, Layout};
use crate::support::proxy::LinkState;
use crate::support::random::seed_from_environment;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn the_other_auxiliary_follows_while_one_is_stopped_and_the_stopped_one_catches_up() {
    let mut cluster = Cluster::running(Layout::default()).await;
    let copied = copied_so_far(&cluster);
    let mut writer = writer_for(&cluster, seed_from_environment(23));
    let ports = cluster.arrays[0].ports(SESSIONS, cluster.layout.volumes);
    write_some(&mut writer, &ports, 200).await;
    cluster.arrays[1].stop().await;
    write_some(&mut writer, &ports, 400).await;
    cluster.wait_for_readers(&[3], CATCH_UP).await;
    let behind = reader_behind(&cluster, 2);
    assert!(behind >= 400, "the journal is kept for the stopped reader: {behind} updates behind");
    start_in_time(&mut cluster, 1).await;
    write_some(&mut writer, &ports, 200).await;
    expect_equal_copies(&cluster, &writer, &copied).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_link_stops_neither_hosts_nor_the_other_reader_and_heals_by_itself() {
    let cluster = Cluster::running(Layout::default()).await;
    let copied = copied_so_far(&cluster);
    let mut writer = writer_for(&cluster, seed_from_environment(24));
    let ports = cluster.arrays[0].ports(SESSIONS, cluster.layout.volumes);
    let slow = LinkState::Slow { delay: Duration::from_millis(100), bytes_per_s: 2_000_000 };
    for state in [LinkState::Cut, LinkState::HalfOpen, slow] {
        cluster.set_link(2, state);
        write_some(&mut writer, &ports, 200).await;
        cluster.wait_for_readers(&[2], CATCH_UP).await;
        cluster.set_link(2, LinkState::Up);
        cluster.wait_for_readers(&[3], CATCH_UP).await;
    }
    expect_equal_copies(&cluster, &writer, &copied).await;
}

fn reader_behind(cluster: &Cluster, number: u64) -> u64 {
    let group = cluster.arrays[0].group().expect("the primary answers");
    let readers = group["readers"].as_array().expect("a list");
    let reader = readers.iter().find(|reader| reader["array"] == number).expect("the reader is shown");
    reader["behind"]["updates"].as_u64().expect("a number")
}
