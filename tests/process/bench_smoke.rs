//! A few seconds of load against the array and against tgt in the same run: figures to look at, and a floor that only a
//! broken hot path falls through. The measurement proper is not a test.

use crate::foreign_target::{ForeignTarget, VOLUME_BYTES};
use crate::support::process::{Array, Layout, expect_tool};
use std::process::Command;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a part of its own, with nothing beside it: `tests/run bench-smoke`"]
async fn reads_from_the_cache_are_not_slower_than_those_of_a_plain_target() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let layout = Layout { volumes: 1, volume_bytes: VOLUME_BYTES, engine: "io_uring", ..Layout::default() };
    let mut array = Array::alone(directory.path(), &layout);
    array.start().await;
    let foreign = ForeignTarget::start(179).await;
    for url in [array.url(1), foreign.url()] {
        expect_tool(Command::new("qemu-io").args(["-f", "raw", "-c", "write -P 0x11 0 16M", &url]));
    }
    for (depth, factor_percent) in [("32", 100), ("1", 70)] {
        let ours = iops(&array.url(1), depth);
        let theirs = iops(&foreign.url(), depth);
        println!("4 KiB random reads at depth {depth}: {ours} a second, tgt {theirs} a second");
        assert!(ours * 100 >= theirs * factor_percent, "depth {depth}: {ours} against {theirs}");
    }
    array.stop().await;
}

/// The average of two seconds.
fn iops(url: &str, depth: &str) -> u64 {
    let arguments = ["20", "iscsi-perf", "-m", depth, "-b", "8", "-t", "2", "-r", url];
    let text = expect_tool(Command::new("timeout").args(arguments));
    let average = text.rsplit_once("iops average ").and_then(|(_, rest)| rest.split_whitespace().next());
    average.and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("no figure in {text}"))
}
