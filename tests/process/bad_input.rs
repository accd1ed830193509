//! Bad input: a configuration with several mistakes, units that are not ours, a disk that is full.

use crate::rounds::QUEUE_DEPTH;
use crate::support::process::{Array, Layout, binary, expect_tool, rows, run_tool};
use crate::support::random::seed_from_environment;
use crate::support::wof::{
    DurableRule, Geometry, Observed, Plan, Until, Writer, check_crash, check_prefix, read_image,
};
use holdfast::clock::{Clock, SystemClock};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[test]
fn a_configuration_with_five_mistakes_names_all_five_with_their_places() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("five.toml");
    let text = "[array]\nnumber = 0\nname = \"alpha\"\ndata_dir = \"var/alpha\"\ncolour = \"blue\"\n\n\
                [cache]\nmemory = \"lots\"\n\n[disk]\nengine = \"steam\"\n\n\
                [[portal]]\nlisten = \"nowhere\"\nserves = [\"hosts\"]\n";
    std::fs::write(&path, text).expect("the configuration is written");
    for command in ["check", "serve"] {
        let output = run_tool(binary().arg(command).arg("--config").arg(&path));
        assert_eq!(output.status.code(), Some(1), "{command}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        for (line, what) in [(2, "number"), (5, "colour"), (8, "memory"), (11, "engine"), (14, "listen")] {
            let place = format!("{}:{line}:", path.display());
            let names = said.lines().any(|one| one.contains(&place));
            assert!(names, "{command} names {what} at {place}\n{said}");
        }
    }
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/holdfast.toml");
    let output = run_tool(binary().args(["check", "--config", shipped]));
    assert!(output.status.success() && output.stderr.is_empty() && output.stdout.is_empty(), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_is_foreign_damaged_or_truncated_is_refused_by_name_and_never_written() {
    let (mine, other) = (tempfile::tempdir().expect("temporary"), tempfile::tempdir().expect("temporary"));
    let layout = Layout { volumes: 1, level: "raid0", ..Layout::default() };
    let mut array = made_array(mine.path(), &layout).await;
    let stranger = made_array(other.path(), &layout).await;
    let unit = array.unit(1);
    let original = std::fs::read(&unit).expect("the unit is there");
    let foreign = std::fs::read(stranger.unit(1)).expect("the unit is there");
    // Both copies of the superblock: a single one would be repaired from the other.
    let mut damaged = original.clone();
    let last = damaged.len() - (64 << 10);
    damaged[..64 << 10].iter_mut().for_each(|byte| *byte ^= 0x5a);
    damaged[last..].iter_mut().for_each(|byte| *byte ^= 0x5a);
    let truncated = original[..original.len() / 2].to_vec();
    for (what, content) in [("foreign", foreign), ("damaged", damaged), ("truncated", truncated)] {
        std::fs::write(&unit, &content).expect("the unit is replaced");
        let name = unit.display().to_string();
        array.start().await;
        let group = only(&array, &["parity-group", "list"]);
        assert_eq!(group["state"], "failed", "{what}: {group}");
        let reason = group["reason"].as_str().unwrap_or_default();
        assert!(reason.contains(&name), "{what}: the list names the unit: {group}");
        let volume = only(&array, &["volume", "list"]);
        assert_eq!(volume["state"], "abnormal", "{what}: {volume}");
        assert!(array.log_tail().contains(&name), "{what}: so does the log\n{}", array.log_tail());
        array.kill();
        assert!(std::fs::read(&unit).expect("still there") == content, "{what}: the unit was written");
    }
    std::fs::write(&unit, &original).expect("the unit is put back");
    array.start().await;
    let read =
        expect_tool(Command::new("qemu-io").args(["-f", "raw", "-c", "read -P 0x11 0 1M", &array.url(1)]));
    assert!(!read.contains("Pattern verification failed"), "{read}");
    array.stop().await;
}

/// The only row of a list.
fn only(array: &Array, command: &[&str]) -> Value {
    let shown = rows(&array.shell(command).expect("the array answers"));
    assert_eq!(shown.len(), 1, "{shown:?}");
    shown.into_iter().next().expect("counted")
}

/// An array that has been started, written and stopped once.
async fn made_array(parent: &Path, layout: &Layout) -> Array {
    let mut array = Array::alone(parent, layout);
    array.start().await;
    expect_tool(Command::new("qemu-io").args(["-f", "raw", "-c", "write -P 0x11 0 1M", &array.url(1)]));
    array.stop().await;
    array
}

/// Units take their whole space when they are made, so a disk that fills up afterwards harms nobody. What can be full is
/// a parity group that has promised more to thin volumes than it has.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_parity_group_gives_a_sense_code_and_loses_nothing() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let unit_bytes = Some(40 << 20);
    let layout =
        Layout { volumes: 3, volume_bytes: 64 << 20, unit_bytes, level: "raid0", ..Layout::default() };
    let mut array = Array::alone(directory.path(), &layout);
    array.start().await;
    // The third volume is ballast that the writer does not know.
    expect_qemu_io(&array, "write -P 0x77 0 60M");
    let seed = seed_from_environment(41);
    let geometry = Geometry { sectors_per_block: 1, ..Geometry::new(2, layout.volume_bytes / 512) };
    let ports = array.ports(2, 2);
    let mut writer = Writer::new(seed, Plan::mixed(seed, geometry));
    let (clock, stop) = (SystemClock::new(), AtomicBool::new(false));
    write_for(&mut writer, &ports, 300, &clock, &stop).await;
    // The rest of the write-once areas does not fit any more: the array has to refuse, and to stay alive.
    let until = Until { commands: u64::MAX, stop: &stop };
    let (summary, ()) = tokio::join!(writer.run(&ports, &clock, QUEUE_DEPTH, until), async {
        array.wait_until("full", Duration::from_secs(60), || has_no_room(&array)).await;
        clock.sleep(Duration::from_secs(2)).await;
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(summary.violations, []);
    let refused = summary.refusals.get(&SPACE_ALLOCATION_FAILED).copied().unwrap_or(0);
    assert!(refused > 0, "a sense code is given: {summary:?}");
    expect_qemu_io(&array, "discard 0 60M");
    stop.store(false, Ordering::Relaxed);
    write_for(&mut writer, &ports, 300, &clock, &stop).await;
    array.stop().await;
    array.start().await;
    let images = read_image(&ports[0], geometry).await.expect("the volumes can be read");
    let observed = Observed::from_images(writer.log(), &images);
    check_prefix(writer.log(), &observed).expect_clean("after a full parity group");
    check_crash(writer.log(), &observed, DurableRule::Acknowledged).expect_clean("after a clean stop");
    array.stop().await;
}

fn has_no_room(array: &Array) -> Option<()> {
    let group = only(array, &["parity-group", "list"]);
    (group["free_bytes"].as_u64()? == 0).then_some(())
}

fn expect_qemu_io(array: &Array, command: &str) {
    let said = expect_tool(Command::new("qemu-io").args(["-f", "raw", "-c", command, &array.url(3)]));
    assert!(!said.contains("failed:"), "{command}: {said}");
}

/// DATA PROTECT, SPACE ALLOCATION FAILED WRITE PROTECT.
const SPACE_ALLOCATION_FAILED: (u8, u16) = (0x07, 0x2707);

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_without_room_is_refused_by_name_and_size_and_harms_nothing_else() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let disk = SmallDisk::mount(16 << 20);
    let layout = Layout { volumes: 1, level: "raid0", ..Layout::default() };
    let mut array = Array::alone(directory.path(), &layout);
    let config = std::fs::read_to_string(array.config_path()).expect("just written");
    let unit = disk.path.join("u").display().to_string();
    array.write_config(&format!(
        "{config}\n[[provision.parity_group]]\nname = \"pg1\"\nlevel = \"raid0\"\n\
         units = [{{ path = \"{unit}\", size = \"64MiB\" }}]\n"
    ));
    array.start().await;
    let groups = rows(&array.shell(&["parity-group", "list"]).expect("the array answers"));
    let named = |name: &str| groups.iter().find(|group| group["name"] == name).expect("both are shown");
    assert_eq!(named("pg0")["state"], "normal");
    assert_eq!(named("pg1")["state"], "failed");
    let reason = named("pg1")["reason"].as_str().unwrap_or_default();
    assert!(reason.contains(&unit) && reason.contains(&(64 << 20).to_string()), "{reason}");
    assert!(array.log_tail().contains(&unit), "{}", array.log_tail());
    assert!(!Path::new(&unit).exists(), "nothing is left of the attempt");
    expect_tool(Command::new("qemu-io").args(["-f", "raw", "-c", "write -P 0x11 0 1M", &array.url(1)]));
    array.stop().await;
}

async fn write_for(
    writer: &mut Writer,
    ports: &[crate::support::iscsi::IscsiPort],
    commands: u64,
    clock: &SystemClock,
    stop: &AtomicBool,
) {
    let summary = writer.run(ports, clock, QUEUE_DEPTH, Until { commands, stop }).await;
    assert_eq!(summary.violations, []);
}

/// A file system of its own size in memory, so that it can be full without harm to anything else.
struct SmallDisk {
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl SmallDisk {
    fn mount(bytes: u64) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("disk");
        std::fs::create_dir(&path).expect("a mount point");
        let size = format!("size={bytes}");
        expect_tool(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path));
        Self { path, _directory: directory }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}
