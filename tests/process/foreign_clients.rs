//! The initiators of libiscsi and QEMU reach the array: discovery, INQUIRY, capacity, load, and reads of what they wrote.

use crate::support::process::{Array, Layout, expect_tool, run_tool};
use std::process::{Command, Output};

#[tokio::test(flavor = "multi_thread")]
async fn libiscsi_tools_and_qemu_io_find_read_and_write_a_thin_volume() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let layout = Layout { volumes: 2, ..Layout::default() };
    let mut array = Array::alone(directory.path(), &layout);
    array.start().await;
    exercise(array.portal(), &array.target(), &array.url(1), layout.volume_bytes);
    array.stop().await;
}

/// One LUN, two initiators: one writes, and the other one is told, by mode data and by sense data, that it may only read.
#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_initiator_may_only_read_what_another_one_writes() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut array = Array::alone(directory.path(), &Layout { volumes: 1, ..Layout::default() });
    array.start().await;
    let target = array.target();
    let [writer, reader] = ["writer", "reader"].map(|host| format!("iqn.2026-11.io.holdfast.test:{host}"));
    assert!(may_write(&array, 1, &writer) && may_write(&array, 1, &reader));
    let refused = array.shell(&["lun", "set", &target, "1"]).expect_err("to whom is not said");
    assert!(refused.contains("--read-only-for"), "{refused}");
    array.shell(&["lun", "set", &target, "1", "--read-only-for", &reader]).expect("it is set");
    for round in 0..2 {
        assert!(may_write(&array, 1, &writer) && !may_write(&array, 1, &reader), "{round}");
        let pattern = format!("write -P {} 0 64k", round + 7);
        assert!(qemu_io(&array, 1, &writer, &[], &pattern).status.success());
        let read = qemu_io(&array, 1, &reader, &["-r"], &format!("read -P {} 0 64k", round + 7));
        let said = String::from_utf8_lossy(&read.stdout).into_owned();
        assert!(read.status.success() && !said.contains("failed"), "{said}");
        if round == 0 {
            array.kill();
            array.start().await;
        }
    }
    let shown = array.shell(&["lun", "list", &target]).expect("a list");
    assert_eq!(shown[0]["read_only_for"][0], *reader, "{shown}");
    array.shell(&["lun", "set", &target, "1", "--read-write"]).expect("it is set");
    assert!(may_write(&array, 1, &reader));
    let audit = array.shell(&["audit", "list"]).expect("a list").to_string();
    for said in
        [format!("lun set {target} 1 --read-only-for {reader}"), format!("lun set {target} 1 --read-write")]
    {
        assert!(audit.contains(&said), "{said} is not in {audit}");
    }
    array.stop().await;
}

/// Whether a foreign initiator of this name may open a LUN for writing; reading it always may.
pub(crate) fn may_write(array: &Array, lun: u16, initiator: &str) -> bool {
    let look = "read 0 4k";
    let read = qemu_io(array, lun, initiator, &["-r"], look);
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    let written = qemu_io(array, lun, initiator, &[], look);
    let why = String::from_utf8_lossy(&written.stderr).into_owned();
    assert!(written.status.success() || why.contains("write protected"), "{why}");
    written.status.success()
}

fn qemu_io(array: &Array, lun: u16, initiator: &str, how: &[&str], command: &str) -> Output {
    let (portal, target) = (array.portal(), array.target());
    let unit = format!(
        "driver=raw,file.driver=iscsi,file.transport=tcp,file.portal={portal},file.target={target},file.lun={lun},\
         file.initiator-name={initiator}"
    );
    run_tool(Command::new("qemu-io").args(how).args(["-c", command, "--image-opts", &unit]))
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
