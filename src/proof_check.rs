//! `holdfast verify-proof`: checks what `group proof` has printed, without an array; and images of volumes, and what other arrays have printed, against it.

use crate::copy::compare::tree::{Digest, PAGES, Tree};
use crate::disk::slot::SLOT_BYTES;
use crate::volume::proof::Proof;
use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What was found, as text.
///
/// # Errors
/// What is wrong: the file is no proof, an entry is not what was sealed, or an image is another one.
pub fn check(file: &Path, with: &[PathBuf], images: &[(String, PathBuf)]) -> Result<String, String> {
    let proof = read(file)?;
    let mut said = String::new();
    for line in proof.check()? {
        let _ = writeln!(said, "{line}"); // A string takes everything.
    }
    for path in with {
        let other = read(path)?;
        let checked = other.check().and_then(|_| proof.check_with(&other));
        for line in checked.map_err(|error| failed(path, &error))? {
            let _ = writeln!(said, "{}: {line}", path.display());
        }
    }
    for (volume, path) in images {
        let found = proof.roots_of(volume).ok_or_else(|| format!("it has no root of volume {volume}"))?;
        let root = root_of(path).map_err(|error| failed(path, &error))?;
        let number = found.1.number.map_or(0, |number| number.0);
        let is_it = match (root == found.0.source, root == found.0.copy) {
            (true, true) => "both arrays found it",
            (true, false) => "the array of its P-VOL found it, that of the copy found another one",
            (false, true) => "the array of the copy found it, that of its P-VOL found another one",
            (false, false) => {
                return Err(format!("{} is not volume {volume} as of update {number}", path.display()));
            }
        };
        let _ = writeln!(said, "{}: volume {volume} as of update {number}: {is_it}", path.display());
    }
    Ok(said)
}

fn read(file: &Path) -> Result<Proof, String> {
    let mut text = String::new();
    let opened = File::open(file).map_err(|error| failed(file, &error))?;
    opened.take(PROOF_MAX_BYTES).read_to_string(&mut text).map_err(|error| failed(file, &error))?;
    serde_json::from_str(&text).map_err(|error| failed(file, &error))
}

fn failed(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("{}: {error}", path.display())
}

/// The root of the tree of an image, a file or a block device; what is missing of its last page are zeros.
fn root_of(path: &Path) -> std::io::Result<Digest> {
    let mut file = File::open(path)?;
    let (mut extents, mut at) = (Vec::new(), 0_u32);
    let mut bytes = vec![0; PAGES * SLOT_BYTES];
    loop {
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read(&mut bytes[filled..])? {
                0 => break,
                more => filled += more,
            }
        }
        if filled == 0 {
            return Ok(Tree::of(extents).root());
        }
        bytes[filled..].fill(0);
        let mut pages = [Digest::ZERO; PAGES];
        for (digest, page) in pages.iter_mut().zip(bytes.chunks(SLOT_BYTES)) {
            *digest = Digest::of_page(page);
        }
        extents.push((at, Digest::of_extent(&pages)));
        at = at
            .checked_add(1)
            .filter(|at| *at < EXTENTS_MAX)
            .ok_or_else(|| std::io::Error::other("it is larger than any volume"))?;
    }
}

/// More of a file is not read.
const PROOF_MAX_BYTES: u64 = 64 << 20;
/// Those of the largest volume.
const EXTENTS_MAX: u32 = 1 << 28;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_of_an_image_is_that_of_a_tree_and_zeros_at_its_end_do_not_count() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        let mut image = vec![0_u8; 3 << 20];
        image[(1 << 20) + 5000] = 7;
        std::fs::write(&path, &image).unwrap();
        let mut pages = [Digest::ZERO; PAGES];
        pages[1] = Digest::of_page(&image[(1 << 20) + 4096..(1 << 20) + 8192]);
        assert_eq!(root_of(&path).unwrap(), Tree::of(vec![(1, Digest::of_extent(&pages))]).root());
        std::fs::write(&path, &image[..(1 << 20) + 5001]).unwrap();
        assert_eq!(root_of(&path).unwrap(), Tree::of(vec![(1, Digest::of_extent(&pages))]).root());
        std::fs::write(&path, "{}").unwrap();
        assert!(check(&path, &[], &[]).is_err());
    }
}
