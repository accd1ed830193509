//! A snapshot of a group while a host writes, on real processes: a file system in it is sound by `e2fsck`, a copy that has restored
//! just its number is the same by `qemu-img compare`, nothing that hosts write afterwards changes it, a clone of it is
//! written without its noticing, and it is another disk than its original for every host.

use crate::by_command::say;
use crate::qemu_image::{IMAGE_BYTES, compare, convert, make_image};
use crate::support::process::{Array, Cluster, GROUP, Layout, binary, expect_tool, run_tool};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const NIGHT: u16 = 21;
const LAB: u16 = 22;

fn serial(url: &str) -> String {
    expect_tool(Command::new("iscsi-inq").args(["-e", "1", "-c", "131"]).arg(url))
}

fn write(url: &str) -> bool {
    let mut io = Command::new("qemu-io");
    io.args(["-f", "raw", "-c", "write -P 0x77 1M 64k", url]);
    let output = run_tool(&mut io);
    output.status.success() && !String::from_utf8_lossy(&output.stdout).contains("failed")
}

/// At exactly that number, also the volume that was being written.
async fn a_copy_is_the_same(copy: &Array, number: u64, images: [&str; 2]) {
    say(copy, &format!("group restore {GROUP} --until {number}"));
    copy.wait_until("it is restored", Duration::from_secs(60), || {
        (copy.group()?["follows"]["restored_update_number"].as_u64() == Some(number)).then_some(())
    })
    .await;
    for (lun, image) in (1..).zip(images) {
        compare(Path::new(image), &copy.url(lun));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_under_load_is_sound_stays_what_it_is_and_can_be_cloned() {
    let layout = Layout { volumes: 2, volume_bytes: IMAGE_BYTES, ..Layout::default() };
    let mut cluster = Cluster::running(layout).await;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (source, busy) = (path("source.img"), path("busy.img"));
    make_image(Path::new(&source));
    std::fs::write(&busy, vec![0xEE; 32 << 20]).expect("an image");
    let url = |array: &Array, lun: u16| array.url(lun);
    expect_tool(&mut convert(&source, &url(&cluster.arrays[0], 1), false));

    say(&cluster.arrays[1], &format!("group restore {GROUP} --until now"));
    // A host that writes the other volume all along.
    let mut load = convert(&busy, &url(&cluster.arrays[0], 2), false);
    let mut load = load.stdout(Stdio::null()).spawn().expect("it runs");
    let made = say(&cluster.arrays[0], &format!("snapshot create night --group {GROUP}"));
    assert_eq!(made["changes"].as_array().map(Vec::len), Some(3), "a snapshot and two volumes: {made}");
    let shown = say(&cluster.arrays[0], "snapshot show night");
    let number = shown["update_number"].as_u64().expect("every write has a number");
    assert!(load.wait().expect("it ends").success());
    // What no later backup could undo: everything is overwritten.
    let mut ransom = Command::new("qemu-io");
    let overwrite = format!("write -P 0x13 0 {IMAGE_BYTES}");
    expect_tool(ransom.args(["-f", "raw", "-c", &overwrite, &url(&cluster.arrays[0], 1)]));

    let target = cluster.arrays[0].target();
    for (lun, volume) in [(NIGHT, "night.data1"), (NIGHT + 10, "night.data2")] {
        say(&cluster.arrays[0], &format!("lun map {target} {lun} {volume}"));
    }
    let night = url(&cluster.arrays[0], NIGHT);
    compare(Path::new(&source), &night);
    let exported = path("night.img");
    expect_tool(&mut convert(&night, &exported, true));
    expect_tool(Command::new("e2fsck").args(["-f", "-n", &exported]));
    assert_ne!(serial(&night), serial(&url(&cluster.arrays[0], 1)), "another disk for every host");
    assert!(!write(&night), "it is read-only");

    let busy_then = path("busy-then.img");
    expect_tool(&mut convert(&url(&cluster.arrays[0], NIGHT + 10), &busy_then, true));
    a_copy_is_the_same(&cluster.arrays[1], number, [&exported, &busy_then]).await;

    say(&cluster.arrays[0], "snapshot create lab --volume night.data1 --writable");
    say(&cluster.arrays[0], &format!("lun map {target} {LAB} lab"));
    let lab = url(&cluster.arrays[0], LAB);
    compare(Path::new(&source), &lab);
    assert!(write(&lab));
    compare(Path::new(&source), &night);

    cluster.arrays[0].kill();
    cluster.arrays[0].start().await;
    compare(Path::new(&source), &night);
    let listed = say(&cluster.arrays[0], "snapshot list");
    let own = |name: &str| {
        let row = listed.as_array().and_then(|rows| rows.iter().find(|row| row["name"] == name)).cloned();
        row.and_then(|row| row["own_bytes"].as_u64()).expect("it is there")
    };
    assert!(own("lab") >= 64 << 10, "what was written to it: {listed}");

    let refused = binary()
        .args(["snapshot", "delete", "night"])
        .env("HOLDFAST_SOCKET", cluster.arrays[0].directory().join("data/holdfast.sock"))
        .output()
        .expect("it runs");
    assert!(!refused.status.success());
    for lun in [NIGHT, NIGHT + 10, LAB] {
        say(&cluster.arrays[0], &format!("lun unmap {target} {lun}"));
    }
    for name in ["night", "lab"] {
        say(&cluster.arrays[0], &format!("snapshot delete {name} --yes"));
    }
    assert_eq!(say(&cluster.arrays[0], "snapshot list").as_array().map(Vec::len), Some(0));
    for array in &mut cluster.arrays {
        array.stop().await;
    }
}
