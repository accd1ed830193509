//! A copy of which a unit has changed a byte by itself, on real processes and files: `group compare` says which one, while a host
//! writes, and repairs it.

use crate::support::process::{Array, Cluster, GROUP, Layout, expect_tool};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const VOLUME_BYTES: u64 = 8 << 20;

/// Where a run of bytes lies in a file.
fn places(file: &Path, wanted: &[u8]) -> Vec<u64> {
    let bytes = std::fs::read(file).expect("a unit");
    let pages = bytes.chunks(4096).enumerate();
    pages.filter(|(_, page)| page.starts_with(wanted)).map(|(at, _)| at as u64 * 4096).collect()
}

fn compare(array: &Array, more: &[&str]) -> Option<serde_json::Value> {
    let mut words = vec!["group", "compare", GROUP, "--wait", "--timeout", "60s"];
    words.extend(more);
    // With differences that stay it ends with 5, and the result is kept all the same.
    let _ = array.shell(&words);
    let group = array.group()?;
    group["compared"].as_array()?.last().cloned()
}

async fn settled(copy: &Array) {
    copy.wait_until("what came is on the units", Duration::from_secs(30), || {
        let follows = copy.group()?["follows"].clone();
        let durable = follows["durable_update_number"].as_u64()?;
        (follows["settled_update_number"].as_u64() >= Some(durable)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_that_a_unit_has_changed_is_found_named_and_repaired_while_a_host_writes() {
    let layout = Layout { volumes: 2, volume_bytes: VOLUME_BYTES, ..Layout::default() };
    let mut cluster = Cluster::running(layout).await;
    cluster.wait_for_normal_pairs(Duration::from_secs(60)).await;
    let io = |command: &str, url: &str| {
        let mut io = Command::new("qemu-io");
        io.args(["-f", "raw", "-c", command, url]);
        io
    };
    let url = cluster.arrays[0].url(1);
    expect_tool(&mut io("write -P 0xa7 1M 4k", &url));
    expect_tool(&mut io("write -P 0x31 3M 256k", &url));
    let first = compare(&cluster.arrays[1], &["--full"]).expect("it is compared");
    assert_eq!(
        (first["result"].as_str(), first["different_bytes"].as_u64()),
        (Some("equal"), Some(0)),
        "{first}"
    );
    assert!(first["read_bytes"].as_u64() > Some(0), "{first}");

    // What is in memory does not matter, because the units are read.
    settled(&cluster.arrays[1]).await;
    let units: Vec<_> =
        (0..8).map(|index| cluster.arrays[1].unit(index)).filter(|unit| unit.exists()).collect();
    let mut planted = 0;
    for unit in &units {
        for place in places(unit, &[0xa7; 4096]) {
            let file = std::fs::OpenOptions::new().write(true).open(unit).expect("a unit");
            file.write_all_at(&[0xa6], place + 1234).expect("a byte");
            planted += 1;
        }
    }
    assert!(planted > 0, "the page is on no unit");
    let mut load = io("write -P 0x55 0 8M", &cluster.arrays[0].url(2));
    let mut load = load.stdout(Stdio::null()).spawn().expect("it runs");
    let found = compare(&cluster.arrays[1], &["--full", "--repair"]).expect("it is compared");
    assert!(load.wait().expect("it ends").success());
    let [one] = found["differences"].as_array().expect("a list").as_slice() else { panic!("{found}") };
    assert_eq!(one["offset_bytes"].as_u64(), Some(1 << 20), "{found}");
    assert_eq!(one["length_bytes"].as_u64(), Some(4096), "{found}");
    assert_eq!((one["pvol"].as_str(), one["svol"].as_str()), (Some("data1"), Some("data1")), "{found}");
    assert_eq!(one["proven_wrong"].as_str(), Some("copy"), "it was read before: {found}");
    assert_eq!(found["repaired_bytes"].as_u64(), Some(4096), "{found}");
    settled(&cluster.arrays[1]).await;
    let equal = compare(&cluster.arrays[0], &["--full", "--reader", "beta"]).expect("it is compared");
    assert_eq!(equal["result"].as_str(), Some("equal"), "{equal}");
    // From the units, with an empty cache.
    cluster.arrays[1].stop().await;
    cluster.arrays[1].start().await;
    cluster.wait_for_normal_pairs(Duration::from_secs(60)).await;
    let copy = cluster.arrays[1].url(1);
    let mut read = Command::new("qemu-io");
    let said = expect_tool(read.args(["-r", "-f", "raw", "-c", "read -P 0xa7 1M 4k", &copy]));
    assert!(said.contains("read 4096/4096") && !said.contains("failed"), "{said}");
}
