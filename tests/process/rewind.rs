//! Somebody overwrites everything, and the overwriting is copied as faithfully as all before: a copy that keeps images shows what was at
//! a bookmark, foreign tools find the file system in it sound, and the primary gets it back through its LUN (promise O9).

use crate::by_command::say;
use crate::qemu_image::{IMAGE_BYTES, compare, convert, make_image};
use crate::support::process::{Cluster, GROUP, Layout, expect_tool, run_tool};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const BACK: u16 = 31;

async fn has_restored_all(cluster: &Cluster) {
    let newest = cluster.arrays[0].group().and_then(|group| group["durable_update_number"].as_u64());
    cluster.arrays[1]
        .wait_until("everything is restored", Duration::from_secs(60), || {
            let restored = cluster.arrays[1].group()?["follows"]["restored_update_number"].as_u64();
            (restored >= newest).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_overwritten_comes_back_as_it_was_at_a_bookmark() {
    let layout = Layout {
        volumes: 1,
        volume_bytes: IMAGE_BYTES,
        // A third of it holds what is overwritten, and the units an image and a clone beside all of it.
        journal_bytes: 192 << 20,
        unit_bytes: Some(256 << 20),
        ..Layout::default()
    };
    let mut cluster = Cluster::running(layout).await;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| directory.path().join(name).display().to_string();
    let source = path("source.img");
    make_image(Path::new(&source));
    let beta = &cluster.arrays[1];
    say(beta, &format!("group set {GROUP} --keep-images 2min --image-interval 1s"));
    let data = cluster.arrays[0].url(1);
    expect_tool(&mut convert(&source, &data, false));
    // The journal of the copy holds what comes behind this image, and no more.
    let written = cluster.arrays[0].group().and_then(|group| group["durable_update_number"].as_u64());
    beta.wait_until("there is an image of that", Duration::from_secs(60), || {
        let listed = say(beta, "snapshot list");
        let mut images = listed.as_array()?.iter().filter(|image| image["is_scheduled"] == true);
        images.any(|image| image["update_number"].as_u64() >= written).then_some(())
    })
    .await;
    say(&cluster.arrays[0], &format!("group bookmark {GROUP} evening"));
    let overwrite = format!("write -P 0x13 0 {IMAGE_BYTES}");
    expect_tool(Command::new("qemu-io").args(["-f", "raw", "-c", &overwrite, &data]));
    has_restored_all(&cluster).await;
    let lost = run_tool(Command::new("qemu-img").args(["compare", "-f", "raw", "-F", "raw", &source, &data]));
    assert!(!lost.status.success(), "nothing was overwritten");

    // The copy dies as well: what it keeps is on its disks.
    cluster.arrays[1].kill();
    cluster.arrays[1].start().await;
    let beta = &cluster.arrays[1];
    beta.wait_until("the group is open", Duration::from_secs(30), || {
        beta.group()?["window"]["from_update_number"].as_u64()
    })
    .await;
    let made = say(beta, &format!("group rewind {GROUP} back --to bookmark:evening --read-only"));
    assert_eq!(made["changes"].as_array().map(Vec::len), Some(2), "a snapshot and a volume: {made}");
    let shown = say(beta, "snapshot show back");
    assert_eq!((shown["bookmark"].as_str(), shown["is_image"].as_bool()), (Some("evening"), Some(true)));
    say(beta, &format!("lun map {} {BACK} back.data1", beta.target()));
    let back = beta.url(BACK);
    compare(Path::new(&source), &back);
    let exported = path("back.img");
    expect_tool(&mut convert(&back, &exported, true));
    expect_tool(Command::new("e2fsck").args(["-f", "-n", &exported]));

    // Given back to those who lost it, over the LUN of the primary; and copied.
    expect_tool(&mut convert(&back, &data, false));
    compare(Path::new(&source), &data);
    has_restored_all(&cluster).await;
    let beta = &cluster.arrays[1];
    say(beta, &format!("lun unmap {} {BACK}", beta.target()));
    say(beta, "snapshot delete back --yes");
    say(beta, &format!("group set {GROUP} --keep-images off"));
    beta.wait_until("the images are gone", Duration::from_secs(20), || {
        say(beta, "snapshot list").as_array().is_some_and(Vec::is_empty).then_some(())
    })
    .await;
    for array in &mut cluster.arrays {
        array.stop().await;
    }
}
