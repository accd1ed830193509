//! A disaster drill at a copy while a host goes on writing to the primary, on real processes with foreign initiators: the file
//! system in its clones is sound by `e2fsck` and what the primary's host had written by `qemu-img compare`, it is written into
//! as far as the quota allows, the verdict and the record stay through a SIGKILL, and the copy is what it would have been.

use crate::by_command::say;
use crate::qemu_image::{IMAGE_BYTES, compare, convert, make_image};
use crate::support::process::{Array, Cluster, GROUP, Layout, binary, expect_tool, run_tool};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const LAB: u16 = 31;

fn write(url: &str, what: &str) -> bool {
    let output = run_tool(Command::new("qemu-io").args(["-f", "raw", "-c", what, url]));
    output.status.success() && !String::from_utf8_lossy(&output.stdout).contains("failed")
}

fn drill(array: &Array, name: &str) -> serde_json::Value {
    let listed = say(array, &format!("group drill {GROUP} --list"));
    let found = listed.as_array().and_then(|rows| rows.iter().find(|row| row["name"] == name)).cloned();
    found.unwrap_or_else(|| panic!("no drill {name}: {listed}"))
}

async fn caught_up(cluster: &Cluster) {
    cluster.arrays[1]
        .wait_until("the copy has caught up", Duration::from_secs(60), || {
            let newest = cluster.arrays[0].group()?["next_update_number"].as_u64()?;
            (cluster.arrays[1].group()?["follows"]["restored_update_number"].as_u64()? + 1 == newest)
                .then_some(())
        })
        .await;
}

#[expect(clippy::too_many_lines, reason = "one story from the file system to the verdict")]
#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_is_tried_at_the_copy_while_the_primary_is_written_and_the_verdict_stays() {
    let layout = Layout { volumes: 2, volume_bytes: IMAGE_BYTES, ..Layout::default() };
    let mut cluster = Cluster::running(layout).await;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (source, busy) = (path("source.img"), path("busy.img"));
    make_image(Path::new(&source));
    std::fs::write(&busy, vec![0xEE; 32 << 20]).expect("an image");
    let url = |array: &Array, lun: u16| array.url(lun);
    expect_tool(&mut convert(&source, &url(&cluster.arrays[0], 1), false));
    let bookmark = say(&cluster.arrays[0], &format!("group bookmark {GROUP} made"));
    assert!(bookmark["changes"].is_array());

    // A host writes the other volume all along; the drill waits for the number that comes in the midst of that.
    let newest =
        cluster.arrays[0].group().expect("it runs")["next_update_number"].as_u64().expect("a number");
    let at = newest + 5;
    let copy = &cluster.arrays[1];
    say(copy, &format!("group drill {GROUP} friday --at {at} --within 60s --expire 8h --quota 2MiB"));
    assert_eq!(drill(copy, "friday")["state"], "waiting");
    let mut load = convert(&busy, &url(&cluster.arrays[0], 2), false);
    let mut load = load.stdout(Stdio::null()).spawn().expect("it runs");
    copy.wait_until("it is made", Duration::from_secs(60), || {
        (drill(copy, "friday")["state"] == "running").then_some(())
    })
    .await;
    let shown = drill(copy, "friday");
    assert_eq!((shown["update_number"].as_u64(), shown["verdict"].as_str()), (Some(at), Some("open")));

    let target = copy.target();
    say(copy, &format!("lun map {target} {LAB} friday.data1"));
    let lab = url(copy, LAB);
    compare(Path::new(&source), &lab);
    let exported = path("friday.img");
    expect_tool(&mut convert(&lab, &exported, true));
    expect_tool(Command::new("e2fsck").args(["-f", "-n", &exported]));
    let serial = |url: &str| expect_tool(Command::new("iscsi-inq").args(["-e", "1", "-c", "131"]).arg(url));
    assert_ne!(serial(&lab), serial(&url(&cluster.arrays[0], 1)), "another disk for every host");

    assert!(write(&lab, "write -P 0x77 0 2M"), "the quota allows it");
    assert!(!write(&lab, "write -P 0x77 4M 64k"), "and no more");
    assert!(write(&lab, "write -P 0x78 1M 64k"), "what is written already is written again");
    assert!(load.wait().expect("it ends").success());
    caught_up(&cluster).await;
    for (lun, image) in [(1, &source), (2, &busy)] {
        compare(Path::new(image), &url(&cluster.arrays[1], lun));
    }

    let copy = &cluster.arrays[1];
    let words = ["group", "drill", GROUP, "friday", "--passed", "--note", "mounts, and is sound"];
    copy.shell(&words).expect("it is judged");
    cluster.arrays[1].kill();
    cluster.arrays[1].start().await;
    let copy = &cluster.arrays[1];
    let group = copy.group().expect("it runs");
    let shown = &group["drills"][0];
    assert_eq!((shown["verdict"].as_str(), shown["state"].as_str()), (Some("passed"), Some("running")));
    assert_eq!(shown["verdict_note"], "mounts, and is sound");
    assert!(!write(&lab, "write -P 0x77 4M 64k"), "the quota is as used as before");

    let refused = binary()
        .args(["group", "drill", GROUP, "friday", "--end"])
        .env("HOLDFAST_SOCKET", copy.directory().join("data/holdfast.sock"))
        .output()
        .expect("it runs");
    assert!(!refused.status.success(), "it says first what is lost");
    say(copy, &format!("group drill {GROUP} friday --end --yes"));
    copy.wait_until("its clones are gone", Duration::from_secs(30), || {
        (drill(copy, "friday")["state"] == "ended").then_some(())
    })
    .await;
    assert_eq!(say(copy, "snapshot list").as_array().map(Vec::len), Some(0));
    let luns = say(copy, "lun list");
    assert!(luns.as_array().is_some_and(|luns| luns.iter().all(|lun| lun["volume"] != "friday.data1")));
    let audit = say(copy, "audit list --last 50").to_string();
    for what in ["drill friday --at", "drill friday --passed", "drill friday --end", "is made at update"] {
        let what = what.replace("drill friday", &format!("drill {GROUP} friday"));
        let by_array = what.replace(&format!("drill {GROUP} friday"), "drill friday");
        assert!(audit.contains(&what) || audit.contains(&by_array), "{what}: {audit}");
    }
    caught_up(&cluster).await;
    for array in &mut cluster.arrays {
        array.stop().await;
    }
}
