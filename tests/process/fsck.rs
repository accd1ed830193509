//! `holdfast fsck`: an array that was killed is sound; whatever is damaged is found, with its place; nothing is written.

use crate::rounds::{write_some, writer_for};
use crate::support::process::{Cluster, Layout, binary, expect_tool, run_tool};
use crate::support::proxy::LinkState;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A change of the files of the array, and what `fsck` has to say of it.
struct Trial {
    what: &'static str,
    /// The bytes that are turned round: in which file, where.
    at: Vec<(usize, usize)>,
    /// A part of the line that names it.
    expected: &'static str,
    parity: bool,
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_killed_is_sound_and_whatever_is_damaged_is_found_by_its_place() {
    let layout = Layout {
        volumes: 2,
        volume_bytes: 8 << 20,
        journal_bytes: 16 << 20,
        unit_bytes: Some(40 << 20),
        ..Layout::default()
    };
    let mut cluster = Cluster::running(layout).await;
    let mut writer = writer_for(&cluster, 77);
    write_some(&mut writer, &cluster.arrays[0].ports(1, 2), 200).await;
    // Behind a cut the journal holds what no copy has.
    cluster.set_link(1, LinkState::Cut);
    cluster.set_link(2, LinkState::Cut);
    let url = cluster.arrays[0].url(1);
    // The second one says in the journal that the first is durable: without that a crash may have torn it.
    for write in ["write -P 0xc7 1M 64k", "write -P 0x11 2M 4k"] {
        expect_tool(Command::new("qemu-io").args(["-f", "raw", "-c", write, &url]));
    }
    let directory = cluster.arrays[0].directory().join("data");
    let running = fsck(&directory, &[]);
    assert_eq!(running.status.code(), Some(1));
    let said = String::from_utf8_lossy(&running.stderr).into_owned();
    assert!(said.starts_with("fsck ") && said.contains("is in use"), "{said}");

    cluster.primary().kill();
    let store = directory.join("control.redb");
    let units: Vec<PathBuf> = (0..3).map(|index| cluster.arrays[0].unit(index)).collect();
    let before: Vec<(PathBuf, Vec<u8>)> = [&store]
        .into_iter()
        .chain(&units)
        .map(|path| (path.clone(), std::fs::read(path).expect("a file of the array")))
        .collect();
    let sound = fsck(&directory, &["--json"]);
    let report: Value = serde_json::from_slice(&sound.stdout).expect("one document");
    assert_eq!((sound.status.code(), &report["sound"]), (Some(0), &Value::Bool(true)), "{sound:?}");
    let text = String::from_utf8_lossy(&fsck(&directory, &[]).stdout).into_owned();
    eprintln!("{text}");
    for part in [
        "control store: 3 volumes",
        "parity group pg0: raid5, 3 units",
        "journal of group g1: in jnl: updates",
        "\nsound\n",
    ] {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }
    for trial in trials(&before) {
        expect_found(&trial, &before, &directory);
    }
    before.iter().for_each(|(path, bytes)| std::fs::write(path, bytes).expect("it can be mended"));
    let gone = directory.join("elsewhere");
    std::fs::rename(&units[1], &gone).expect("it can be moved");
    let said = String::from_utf8_lossy(&fsck(&directory, &[]).stderr).into_owned();
    assert!(said.contains("u1: there is no such file"), "{said}");
    std::fs::rename(&gone, &units[1]).expect("and back");
    assert_eq!(fsck(&directory, &[]).status.code(), Some(0));
    cluster.set_link(1, LinkState::Up);
    cluster.set_link(2, LinkState::Up);
    cluster.primary().start().await;
    let read = expect_tool(Command::new("qemu-io").args(["-f", "raw", "-c", "read -P 0xc7 1M 64k", &url]));
    assert!(!read.contains("Pattern verification failed"), "{read}");
    cluster.primary().stop().await;
    let clean = fsck(&directory, &["--parity"]);
    assert_eq!(clean.status.code(), Some(0), "{clean:?}");
}

#[test]
fn a_directory_that_holds_nothing_of_ours_is_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(directory.path().join("letter"), "dear reader").expect("a file");
    for (path, why) in
        [(directory.path(), "nothing of Holdfast"), (Path::new("/nonexistent"), "No such file")]
    {
        let output = fsck(path, &[]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1));
        assert!(said.starts_with(&format!("fsck {}: ", path.display())) && said.contains(why), "{said}");
    }
}

/// Makes the damage, and looks whether it is named and nothing is written.
fn expect_found(trial: &Trial, before: &[(PathBuf, Vec<u8>)], directory: &Path) {
    let mut changed = before.to_vec();
    trial.at.iter().for_each(|(file, at)| changed[*file].1[*at] ^= 0x40);
    changed.iter().for_each(|(path, bytes)| std::fs::write(path, bytes).expect("it can be damaged"));
    let output = fsck(directory, if trial.parity { &["--parity"] } else { &[] });
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{}: {said}", trial.what);
    let named = said.lines().any(|line| line.starts_with("fsck: ") && line.contains(trial.expected));
    assert!(named, "{}: {:?} in\n{said}", trial.what, trial.expected);
    eprintln!("{}: {}", trial.what, said.lines().next().unwrap_or_default());
    for (path, bytes) in &changed {
        let now = std::fs::read(path).expect("still there");
        assert!(now == *bytes, "{}: {} was written", trial.what, path.display());
    }
}

/// What is damaged, one after the other: the first file is the control store, the others are units.
fn trials(files: &[(PathBuf, Vec<u8>)]) -> Vec<Trial> {
    let one = |what, at, expected| Trial { what, at, expected, parity: false };
    let (first, last) = ((1, 100), (1, files[1].1.len() - SLOT + 100));
    let store = (0..files[0].1.len()).step_by(512).map(|at| (0, at)).collect();
    let moved = |places: &[(usize, usize)], by: usize| -> Vec<_> {
        places.iter().map(|(file, at)| (*file, at + by)).collect()
    };
    // Each place of the log of a map has two copies, one behind the other.
    let logs = pages(files, b"HFMAPLOG");
    let firsts: Vec<_> = logs
        .chunk_by(|a, b| a.0 == b.0 && a.1 + SLOT == b.1)
        .flat_map(|run| run.iter().step_by(2))
        .copied()
        .collect();
    let data = pages(files, &[0xc7; SLOT]);
    vec![
        one("the first superblock of a unit", vec![first], "u0, byte 0: its superblock is damaged"),
        one("the second superblock of a unit", vec![last], "its superblock is damaged"),
        one("both", vec![first, last], "is refused"),
        one("the control store", store, "control store: "),
        Trial { parity: true, ..one("parity", vec![(1, files[1].1.len() / 4 * 3)], "the parity of 1 of") },
        one("a copy of each block of a map's log", moved(&firsts, 70), "one of its two copies is damaged"),
        one("both copies", moved(&logs, 70), "its map log"),
        one("write data in a journal", moved(&data, 9), "the write data of update"),
        one("update information", moved(&pages(files, b"HFUR"), 20), "journal of group g1: journal volume"),
    ]
}

/// Pages of units that begin with these bytes.
fn pages(files: &[(PathBuf, Vec<u8>)], head: &[u8]) -> Vec<(usize, usize)> {
    let units = files.iter().enumerate().skip(1);
    let found: Vec<_> = units
        .flat_map(|(file, (_, bytes))| {
            let pages = bytes.chunks_exact(SLOT).enumerate().filter(|(_, page)| page.starts_with(head));
            pages.map(move |(index, _)| (file, index * SLOT))
        })
        .collect();
    assert!(!found.is_empty(), "nothing begins with {head:?}");
    found
}

fn fsck(directory: &Path, options: &[&str]) -> Output {
    run_tool(binary().arg("fsck").arg(directory).args(options))
}

const SLOT: usize = 4096;
