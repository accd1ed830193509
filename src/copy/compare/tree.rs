//! The tree of digests of one volume: pages of 4 KiB, extents of 1 MiB, and nodes of 64 children up to one root.
//!
//! # What it guarantees
//! * Two volumes have the same root if, and as far as SHA-256 holds only if, they have the same bytes, whatever of their zeros was ever
//!   written and wherever it lies.
//! * What is all zeros has the digest of 32 zero bytes, which nothing else has, and costs nothing.
//! * [`Tree::differing`] walks two trees, of which the other one answers by messages, and looks only below nodes that differ.
//!
//! SHA-256, because `sha2` is a dependency already and processors have instructions for it: 1 to 2 GB/s a core, more than units
//! give. Each level has a letter of its own in front of what is hashed, so that no page can pass for a node.

use crate::disk::slot::SLOT_BYTES;
pub use crate::volume::compare::{Digest, FAN, FAN_BITS, Node, PAGES, ROOT_LEVEL};
use sha2::{Digest as _, Sha256};

impl Digest {
    /// Of a page.
    #[must_use]
    pub fn of_page(page: &[u8]) -> Self {
        if page == &ZERO_PAGE[..] { Self::ZERO } else { hash(b'P', &[page]) }
    }

    /// Of the 256 pages of an extent.
    #[must_use]
    pub fn of_extent(pages: &[Self; PAGES]) -> Self {
        Self::of(b'E', pages)
    }

    fn of(level: u8, children: &[Self]) -> Self {
        if children.iter().all(|child| *child == Self::ZERO) {
            return Self::ZERO;
        }
        let parts: Vec<&[u8]> = children.iter().map(|child| &child.0[..]).collect();
        hash(level, &parts)
    }
}

fn hash(level: u8, parts: &[&[u8]]) -> Digest {
    let mut sha = Sha256::new();
    sha.update([level]);
    parts.iter().for_each(|part| sha.update(part));
    Digest(sha.finalize().into())
}

/// The digests of a volume. About 40 bytes of memory for each MiB that is not zeros.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tree {
    /// By level, each in ascending order; what is not there is zeros.
    levels: Vec<Vec<(u32, Digest)>>,
}

impl Tree {
    /// Of the extents that are not zeros, in ascending order.
    #[must_use]
    pub fn of(mut extents: Vec<(u32, Digest)>) -> Self {
        extents.retain(|(_, digest)| *digest != Digest::ZERO);
        let mut levels = vec![extents];
        for _ in 0..ROOT_LEVEL {
            let below = levels.last().map(Vec::as_slice).unwrap_or_default();
            let nodes = below.chunk_by(|a, b| a.0 >> FAN_BITS == b.0 >> FAN_BITS).map(|children| {
                let mut all = [Digest::ZERO; FAN];
                for (number, digest) in children {
                    all[usize::try_from(*number).unwrap_or(0) % FAN] = *digest;
                }
                (children[0].0 >> FAN_BITS, Digest::of(b'N', &all))
            });
            let nodes = nodes.collect();
            levels.push(nodes);
        }
        Self { levels }
    }

    /// Of the whole volume.
    #[must_use]
    pub fn root(&self) -> Digest {
        self.node(Node::ROOT)
    }

    /// Of one node.
    #[must_use]
    pub fn node(&self, node: Node) -> Digest {
        let level = self.levels.get(usize::from(node.level)).map(Vec::as_slice).unwrap_or_default();
        let found = level.binary_search_by_key(&node.number, |(number, _)| *number);
        found.ok().and_then(|at| level.get(at)).map_or(Digest::ZERO, |(_, digest)| *digest)
    }

    /// Of the children of an inner node.
    #[must_use]
    pub fn children(&self, node: Node) -> Vec<Digest> {
        (0..FAN).map(|at| self.node(node.child(at))).collect()
    }

    /// The children of `node` that are other ones here than these.
    #[must_use]
    pub fn differing(&self, node: Node, theirs: &[Digest]) -> Vec<Node> {
        let ours = self.children(node);
        let pairs = ours.iter().zip(theirs).enumerate();
        pairs.filter(|(_, (ours, theirs))| ours != theirs).map(|(at, _)| node.child(at)).collect()
    }
}

const _: () = assert!(1_u64 << (FAN_BITS * 5 + 20) >= crate::disk::space::map::VOLUME_BYTES_MAX);
static ZERO_PAGE: [u8; SLOT_BYTES] = [0; SLOT_BYTES];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SeededEntropy;
    use std::collections::BTreeMap;

    fn below(random: &SeededEntropy, limit: u64) -> u32 {
        u32::try_from(random.below(limit)).unwrap()
    }

    fn tree(extents: &BTreeMap<u32, u8>) -> Tree {
        Tree::of(extents.iter().map(|(at, of)| (*at, Digest([*of; 32]))).collect())
    }

    /// Descends as two arrays do, by messages.
    fn found(ours: &Tree, theirs: &Tree) -> Vec<u32> {
        let mut nodes = if ours.root() == theirs.root() { vec![] } else { vec![Node::ROOT] };
        while nodes.first().is_some_and(|node| node.level > 0) {
            nodes = nodes.iter().flat_map(|node| ours.differing(*node, &theirs.children(*node))).collect();
        }
        nodes.into_iter().map(|node| node.number).collect()
    }

    /// The slow twin: two maps, compared extent by extent.
    #[test]
    fn descending_finds_exactly_the_extents_that_differ() {
        for seed in 0..60 {
            let random = SeededEntropy::new(seed);
            let all = [100, 5_000, u64::from(u32::MAX) >> 4][usize::try_from(seed).unwrap() % 3];
            let mut ours: BTreeMap<u32, u8> = (0..random.below(300))
                .map(|_| (below(&random, all), 1 + u8::try_from(random.below(200)).unwrap()))
                .collect();
            let mut theirs = ours.clone();
            let mut expected = std::collections::BTreeSet::new();
            for _ in 0..random.below(12) {
                let at = below(&random, all);
                let one = if random.below(2) == 0 { &mut ours } else { &mut theirs };
                match random.below(3) {
                    0 => _ = one.remove(&at),
                    1 => _ = one.insert(at, 0), // Zeros that were written.
                    _ => _ = one.insert(at, 250),
                }
                expected.insert(at);
            }
            let of = |map: &BTreeMap<u32, u8>, at: &u32| map.get(at).copied().unwrap_or(0);
            expected.retain(|at| of(&ours, at) != of(&theirs, at));
            let (ours, theirs) = (tree(&ours), tree(&theirs));
            assert_eq!(found(&ours, &theirs), expected.iter().copied().collect::<Vec<_>>(), "seed {seed}");
            assert_eq!(ours.root() == theirs.root(), expected.is_empty());
        }
    }

    #[test]
    fn zeros_are_zeros_whether_they_were_written_or_not() {
        assert_eq!(Digest::of_page(&[0; SLOT_BYTES]), Digest::ZERO);
        let mut page = [0; SLOT_BYTES];
        page[4095] = 1;
        assert_ne!(Digest::of_page(&page), Digest::ZERO);
        assert_eq!(Digest::of_extent(&[Digest::ZERO; PAGES]), Digest::ZERO);
        assert_eq!(Tree::of(vec![(7, Digest::ZERO)]), Tree::of(Vec::new()));
        assert_eq!(Tree::of(Vec::new()).root(), Digest::ZERO);
        let mut pages = [Digest::ZERO; PAGES];
        pages[3] = Digest::of_page(&page);
        let mut moved = [Digest::ZERO; PAGES];
        moved[4] = pages[3];
        assert_ne!(Digest::of_extent(&pages), Digest::of_extent(&moved), "swapped pages differ");
    }
}
