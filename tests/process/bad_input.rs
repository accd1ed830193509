//! Bad input: a configuration with several mistakes, units that are not ours, a disk that is full.

use crate::rounds::QUEUE_DEPTH;
use crate::support::process::{Array, Layout, binary, expect_tool, run_tool};
use crate::support::random::seed_from_environment;
use crate::support::wof::{
    DurableRule, Geometry, Observed, Plan, Until, Writer, check_crash, check_prefix, read_image,
};
use holdfast::clock::{Clock, SystemClock};
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
    let mut damaged = original.clone();
    damaged[..64 << 10].iter_mut().for_each(|byte| *byte ^= 0x5a);
    let truncated = original[..original.len() / 2].to_vec();
    for (what, content) in [("foreign", foreign), ("damaged", damaged), ("truncated", truncated)] {
        std::fs::write(&unit, &content).expect("the unit is replaced");
        let said = refusal(&mut array).await;
        assert!(said.contains(&unit.display().to_string()), "{what}: the unit is named\n{said}");
        assert!(std::fs::read(&unit).expect("still there") == content, "{what}: the unit was written");
    }
    std::fs::write(&unit, &original).expect("the unit is put back");
    array.start().await;
    array.stop().await;
}

/// Either the array does not start, or it starts without that parity group; in both cases it says which unit is wrong.
async fn refusal(array: &mut Array) -> String {
    let log = array.directory().join("log");
    let _ = std::fs::remove_file(&log);
    array.spawn();
    let unit = array.unit(1).display().to_string();
    let clock = SystemClock::new();
    for _ in 0..100 {
        let said = array.log_tail();
        let shown = array.shell(&["array", "show"]).is_ok();
        if shown || said.contains(&unit) {
            clock.sleep(Duration::from_millis(500)).await;
            break;
        }
        clock.sleep(Duration::from_millis(100)).await;
    }
    array.end_anyhow();
    array.log_tail()
}

/// An array that has been started, written and stopped once.
async fn made_array(parent: &Path, layout: &Layout) -> Array {
    let mut array = Array::alone(parent, layout);
    array.start().await;
    expect_tool(Command::new("qemu-io").args(["-f", "raw", "-c", "write -P 0x11 0 1M", &array.url(1)]));
    array.stop().await;
    array
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_gives_a_sense_code_and_loses_nothing() {
    let disk = SmallDisk::mount(96 << 20);
    let layout = Layout { volumes: 2, volume_bytes: 64 << 20, level: "raid0", ..Layout::default() };
    let mut array = Array::alone(&disk.path, &layout);
    array.start().await;
    let seed = seed_from_environment(41);
    let geometry = Geometry { sectors_per_block: 1, ..Geometry::new(2, layout.volume_bytes / 512) };
    let ports = array.ports(2, layout.volumes);
    let mut writer = Writer::new(seed, Plan::mixed(seed, geometry));
    let (clock, stop) = (SystemClock::new(), AtomicBool::new(false));
    write_for(&mut writer, &ports, 300, &clock, &stop).await;
    disk.fill();
    // The rest of the write-once areas does not fit any more: the array has to refuse, and to stay alive.
    let until = Until { commands: u64::MAX, stop: &stop };
    let (summary, ()) = tokio::join!(writer.run(&ports, &clock, QUEUE_DEPTH, until), async {
        clock.sleep(Duration::from_secs(15)).await;
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(summary.violations, []);
    assert!(summary.refusals.keys().any(|&(key, _)| key != 0xff), "a sense code is given: {summary:?}");
    disk.make_room();
    stop.store(false, Ordering::Relaxed);
    write_for(&mut writer, &ports, 300, &clock, &stop).await;
    array.stop().await;
    array.start().await;
    let images = read_image(&ports[0], geometry).await.expect("the volumes can be read");
    let observed = Observed::from_images(writer.log(), &images);
    check_prefix(writer.log(), &observed).expect_clean("after a full disk");
    check_crash(writer.log(), &observed, DurableRule::Acknowledged).expect_clean("after a clean stop");
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

    /// Takes all room that is left.
    fn fill(&self) {
        let filler = self.path.join("filler");
        let output = run_tool(Command::new("dd").args(["if=/dev/zero", "bs=64k"]).arg(of(&filler)));
        assert!(!output.status.success(), "dd ends because the disk is full");
    }

    fn make_room(&self) {
        std::fs::remove_file(self.path.join("filler")).expect("the filler is there");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

fn of(path: &Path) -> String {
    format!("of={}", path.display())
}
