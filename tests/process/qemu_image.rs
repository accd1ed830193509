//! A disk image goes to the primary with `qemu-img convert`, is the same there with `qemu-img compare`, and after a
//! clean stop of the primary is the same on each auxiliary.

use crate::support::process::{Cluster, Layout, expect_tool};
use crate::support::random::Random;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

pub(crate) const IMAGE_BYTES: u64 = 48 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn an_image_written_by_qemu_is_identical_on_the_primary_and_on_each_auxiliary() {
    let layout = Layout { volumes: 2, volume_bytes: IMAGE_BYTES, ..Layout::default() };
    let mut cluster = Cluster::running(layout).await;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let source = directory.path().join("source.img");
    make_image(&source);
    expect_tool(&mut convert(&source.display().to_string(), &cluster.arrays[0].url(1), false));
    compare(&source, &cluster.arrays[0].url(1));
    cluster.wait_for_readers(&[2, 3], Duration::from_secs(60)).await;
    cluster.primary().stop().await;
    for auxiliary in &cluster.arrays[1..] {
        compare(&source, &auxiliary.url(1));
    }
    for array in &mut cluster.arrays[1..] {
        array.stop().await;
    }
}

/// A copy of an image, or of a disk; what is not new has its size already.
pub(crate) fn convert(from: &str, to: &str, is_new: bool) -> Command {
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-f", "raw", "-O", "raw"]);
    if !is_new {
        convert.arg("-n");
    }
    convert.args([from, to]);
    convert
}

pub(crate) fn compare(source: &Path, url: &str) {
    let mut compare = Command::new("qemu-img");
    compare.args(["compare", "-f", "raw", "-F", "raw"]).arg(source).arg(url);
    assert!(expect_tool(&mut compare).contains("Images are identical"), "{url}");
}

/// A file system with files in it where `mkfs.ext4` is there, and in any case runs of noise, repetition and holes.
pub(crate) fn make_image(path: &Path) {
    let mut file = std::fs::File::create(path).expect("an image file");
    file.set_len(IMAGE_BYTES).expect("a sparse file");
    let mut random = Random::new(77);
    let mut offset = 0;
    while offset < IMAGE_BYTES {
        let length = (1 + random.below(64)) * 4096;
        let length = length.min(IMAGE_BYTES - offset);
        let mut run = vec![0; usize::try_from(length).expect("a run is short")];
        match random.below(3) {
            0 => random.fill(&mut run),
            1 => run.fill(0xa5),
            _ => {
                offset += length; // a hole
                continue;
            }
        }
        file.seek(SeekFrom::Start(offset)).expect("within the file");
        file.write_all(&run).expect("room for the image");
        offset += length;
    }
    // The front half becomes a real file system; ext4 leaves what it does not use as it is.
    let size = format!("{}K", IMAGE_BYTES / 2 / 1024);
    let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(path).arg(size).status();
    assert!(made.is_ok_and(|status| status.success()), "mkfs.ext4 is part of every Debian");
}
