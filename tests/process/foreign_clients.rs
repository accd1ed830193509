//! The initiators of libiscsi and QEMU reach the array: discovery, INQUIRY, capacity, load, and reads of what they wrote.

use crate::support::process::{Array, Layout, expect_tool};
use std::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn libiscsi_tools_and_qemu_io_find_read_and_write_a_thin_volume() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let layout = Layout { volumes: 2, ..Layout::default() };
    let mut array = Array::alone(directory.path(), &layout);
    array.start().await;
    exercise(array.portal(), &array.target(), &array.url(1), layout.volume_bytes);
    array.stop().await;
}

/// What every target must stand; LUN 1 of `target` at `url` has `volume_bytes`.
pub(crate) fn exercise(portal: &str, target: &str, url: &str, volume_bytes: u64) {
    let listed = expect_tool(Command::new("iscsi-ls").arg("-s").arg(format!("iscsi://{portal}/")));
    assert!(listed.contains(target), "discovery names the target: {listed}");
    let inquiry = expect_tool(Command::new("iscsi-inq").arg(url));
    assert!(inquiry.contains("DIRECT_ACCESS") || inquiry.contains("Peripheral Device Type"), "{inquiry}");
    for page in [0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2] {
        expect_tool(Command::new("iscsi-inq").args(["-e", "1", "-c", &page.to_string()]).arg(url));
    }
    let capacity = expect_tool(Command::new("iscsi-readcapacity16").arg(url));
    let size_line = format!("Total size:{volume_bytes}");
    assert!(capacity.contains(&size_line), "{size_line} in {capacity}");
    for write in ["write -P 0x5a 1M 256k", "write -f -P 0x33 1M 4k", "write -z -u 1152k 64k", "flush"] {
        expect_qemu_io(url, write);
    }
    for read in
        ["read -P 0x33 1M 4k", "read -P 0x5a 1028k 124k", "read -P 0 1152k 64k", "read -P 0x5a 1216k 64k"]
    {
        expect_qemu_io(url, read);
    }
    let arguments = ["-m", "32", "-b", "8", "-t", "2", "-r"];
    expect_tool(Command::new("timeout").args(["20", "iscsi-perf"]).args(arguments).arg(url));
}

fn expect_qemu_io(url: &str, command: &str) {
    let text = expect_tool(Command::new("qemu-io").args(["-f", "raw", "-c", command, url]));
    // QEMU asks where data are before it reads, takes a refusal for "everywhere", and mentions it.
    let mentioned = |line: &&str| line.contains("GET_LBA_STATUS") && line.contains("INVALID_OPERATION_CODE");
    let failed = text.lines().filter(|line| !mentioned(line)).any(|line| line.contains("failed"));
    assert!(!failed, "{command}: {text}");
}
