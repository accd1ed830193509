//! The extents of one volume: a map from extent number to [`Extent`] that is copied at once.
//!
//! A copy shares its nodes with the original; a change of either makes new nodes on one way from the root only. So a
//! snapshot costs no memory for what has not changed since, a change costs the same however many copies there are, and
//! comparing a copy with its original looks only where they differ.
//!
//! Five levels of fixed width: four of 64 branches, one of 16 extents: 2^28 extents, a volume of 256 TiB.

use super::map::Extent;
use std::fmt;
use std::sync::Arc;

/// A map from extent number to extent. See the module.
#[derive(Clone, Default)]
pub(crate) struct ExtentTree {
    root: Option<Arc<Node>>,
    len: u32,
}

#[derive(Clone)]
enum Node {
    Branch(Box<[Option<Arc<Node>>; BRANCHES]>),
    Leaf(Box<[Option<Extent>; LEAF_EXTENTS]>),
}

impl ExtentTree {
    /// How many extents are in it.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    pub(crate) fn get(&self, at: u32) -> Option<Extent> {
        let mut node = self.root.as_deref()?;
        let mut level = LEVELS;
        loop {
            #[cfg(test)]
            visits::count();
            match node {
                Node::Leaf(extents) => return extents[leaf_index(at)],
                Node::Branch(nodes) => {
                    level -= 1;
                    node = nodes[branch_index(at, level)].as_deref()?;
                }
            }
        }
    }

    pub(crate) fn contains(&self, at: u32) -> bool {
        self.get(at).is_some()
    }

    /// Puts an extent at a place, or takes what is there away; gives back what was there.
    pub(crate) fn set(&mut self, at: u32, new: Option<Extent>) -> Option<Extent> {
        assert!(at < EXTENTS, "extents of volumes of at most 256 TiB");
        if new.is_none() && !self.contains(at) {
            return None;
        }
        let old = put(&mut self.root, LEVELS, at, new);
        self.len = self.len + u32::from(new.is_some()) - u32::from(old.is_some());
        old
    }

    /// The first extent at or after `from`.
    pub(crate) fn next(&self, from: u32) -> Option<(u32, Extent)> {
        next_in(self.root.as_ref()?, LEVELS, 0, from)
    }

    /// The extents at or after `from`, in order.
    pub(crate) fn iter_from(&self, from: u32) -> impl Iterator<Item = (u32, Extent)> + '_ {
        let mut next = Some(from);
        std::iter::from_fn(move || {
            let (at, extent) = self.next(next?)?;
            next = at.checked_add(1);
            Some((at, extent))
        })
    }

    /// All extents, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, Extent)> + '_ {
        self.iter_from(0)
    }

    /// The first place at or after `from` where this is not what `other` is, and what stands here there.
    pub(crate) fn next_difference(&self, other: &Self, from: u32) -> Option<(u32, Option<Extent>)> {
        difference(self.root.as_ref(), other.root.as_ref(), LEVELS, 0, from)
    }

    /// All places where this is not what `other` is, in order, with what stands here there.
    pub(crate) fn differences<'a>(
        &'a self,
        other: &'a Self,
    ) -> impl Iterator<Item = (u32, Option<Extent>)> + 'a {
        let mut next = Some(0);
        std::iter::from_fn(move || {
            let found = self.next_difference(other, next?)?;
            next = found.0.checked_add(1);
            Some(found)
        })
    }
}

impl PartialEq for ExtentTree {
    fn eq(&self, other: &Self) -> bool {
        self.next_difference(other, 0).is_none()
    }
}

impl Eq for ExtentTree {}

impl fmt::Debug for ExtentTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// Nodes that were looked at or made, for tests that count.
#[cfg(test)]
pub(super) mod visits {
    use std::cell::Cell;
    thread_local!(static NODES: Cell<u64> = const { Cell::new(0) });

    pub(in crate::disk::space) fn count() {
        NODES.set(NODES.get() + 1);
    }

    /// How many since the last call.
    pub(in crate::disk::space) fn take() -> u64 {
        NODES.take()
    }
}

/// Sets one place below `node`, which stands `level` levels above the leaves' extents; empty nodes go.
fn put(node: &mut Option<Arc<Node>>, level: u32, at: u32, new: Option<Extent>) -> Option<Extent> {
    #[cfg(test)]
    visits::count();
    let branch = level > 1;
    let empty = || {
        let leaf = || Node::Leaf(Box::new([None; LEAF_EXTENTS]));
        let node = || Node::Branch(Box::new([const { None }; BRANCHES]));
        Arc::new(if branch { node() } else { leaf() })
    };
    let inner = Arc::make_mut(node.get_or_insert_with(empty));
    let (old, is_empty) = match inner {
        Node::Leaf(extents) => {
            let old = std::mem::replace(&mut extents[leaf_index(at)], new);
            (old, new.is_none() && extents.iter().all(Option::is_none))
        }
        Node::Branch(nodes) => {
            let old = put(&mut nodes[branch_index(at, level - 1)], level - 1, at, new);
            (old, new.is_none() && nodes.iter().all(Option::is_none))
        }
    };
    if is_empty {
        *node = None;
    }
    old
}

fn next_in(node: &Arc<Node>, level: u32, base: u32, from: u32) -> Option<(u32, Extent)> {
    #[cfg(test)]
    visits::count();
    match &**node {
        Node::Leaf(extents) => {
            let first = usize::try_from(from.saturating_sub(base)).unwrap_or(LEAF_EXTENTS);
            let found = (first..LEAF_EXTENTS).find_map(|i| Some((i, extents[i]?)))?;
            Some((base + index_number(found.0), found.1))
        }
        Node::Branch(nodes) => {
            let width = width(level - 1);
            let first = usize::try_from(from.saturating_sub(base) / width).unwrap_or(BRANCHES);
            (first..BRANCHES)
                .find_map(|i| next_in(nodes[i].as_ref()?, level - 1, base + index_number(i) * width, from))
        }
    }
}

fn difference(
    a: Option<&Arc<Node>>,
    b: Option<&Arc<Node>>,
    level: u32,
    base: u32,
    from: u32,
) -> Option<(u32, Option<Extent>)> {
    match (a, b) {
        (None, None) => return None,
        (Some(a), Some(b)) if Arc::ptr_eq(a, b) => return None,
        _ => {}
    }
    if level > 1 {
        let width = width(level - 1);
        let first = usize::try_from(from.saturating_sub(base) / width).unwrap_or(BRANCHES);
        let child = |node: Option<&'_ Arc<Node>>, i: usize| match node.map(|node| &**node) {
            Some(Node::Branch(nodes)) => nodes[i].clone(),
            Some(Node::Leaf(_)) | None => None,
        };
        return (first..BRANCHES).find_map(|i| {
            let base = base + index_number(i) * width;
            difference(child(a, i).as_ref(), child(b, i).as_ref(), level - 1, base, from)
        });
    }
    let first = usize::try_from(from.saturating_sub(base)).unwrap_or(LEAF_EXTENTS);
    let extent = |node: Option<&Arc<Node>>, i: usize| match node.map(|node| &**node) {
        Some(Node::Leaf(extents)) => extents[i],
        Some(Node::Branch(_)) | None => None,
    };
    let found = (first..LEAF_EXTENTS).find(|i| extent(a, *i) != extent(b, *i))?;
    Some((base + index_number(found), extent(a, found)))
}

/// Extents below a node that stands `level` levels above them.
fn width(level: u32) -> u32 {
    1 << (LEAF_BITS + BRANCH_BITS * (level - 1))
}

fn branch_index(at: u32, level: u32) -> usize {
    usize::try_from(at / width(level)).unwrap_or(usize::MAX) % BRANCHES
}

fn leaf_index(at: u32) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX) % LEAF_EXTENTS
}

fn index_number(index: usize) -> u32 {
    u32::try_from(index).expect("branches of a node are few")
}

const LEAF_BITS: u32 = 4;
const BRANCH_BITS: u32 = 6;
const LEVELS: u32 = 5;
const LEAF_EXTENTS: usize = 1 << LEAF_BITS;
const BRANCHES: usize = 1 << BRANCH_BITS;
/// Extents that fit.
const EXTENTS: u32 = 1 << (LEAF_BITS + BRANCH_BITS * (LEVELS - 1));
const _: () = assert!(EXTENTS as u64 * super::map::EXTENT_BYTES == super::map::VOLUME_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::super::bits::PageBits;
    use super::*;
    use crate::clock::SeededEntropy;
    use std::collections::BTreeMap;

    fn extent(physical: u32) -> Extent {
        Extent { physical, written: PageBits::default() }
    }

    /// The slow twin: two ordinary maps, and all their differences.
    #[test]
    fn a_tree_and_its_copy_do_what_two_maps_do() {
        for seed in 0..40 {
            let random = SeededEntropy::new(seed);
            let mut trees = [ExtentTree::default(), ExtentTree::default()];
            let mut maps = [BTreeMap::new(), BTreeMap::new()];
            for n in 0..400 {
                let which = usize::try_from(random.below(2)).unwrap();
                let at = match random.below(3) {
                    0 => u32::try_from(random.below(40)).unwrap(),
                    1 => u32::try_from(random.below(5000)).unwrap(),
                    _ => EXTENTS - 1 - u32::try_from(random.below(3)).unwrap(),
                };
                match random.below(20) {
                    0 => {
                        trees[1] = trees[0].clone();
                        maps[1] = maps[0].clone();
                    }
                    1..8 => {
                        assert_eq!(trees[which].set(at, None), maps[which].remove(&at), "seed {seed}");
                    }
                    _ => {
                        let new = extent(n);
                        assert_eq!(trees[which].set(at, Some(new)), maps[which].insert(at, new));
                    }
                }
                assert_eq!(trees[which].get(at), maps[which].get(&at).copied());
                let next = maps[which].range(at..).next().map(|(at, extent)| (*at, *extent));
                assert_eq!(trees[which].next(at), next);
            }
            for (tree, map) in trees.iter().zip(&maps) {
                assert_eq!(tree.iter().collect::<BTreeMap<_, _>>(), *map);
                assert_eq!(tree.len() as usize, map.len());
            }
            let all: std::collections::BTreeSet<u32> =
                maps[0].keys().chain(maps[1].keys()).copied().collect();
            let different = all.into_iter().filter(|at| maps[0].get(at) != maps[1].get(at));
            let expected: Vec<_> = different.map(|at| (at, maps[0].get(&at).copied())).collect();
            assert_eq!(trees[0].differences(&trees[1]).collect::<Vec<_>>(), expected, "seed {seed}");
            assert_eq!(trees[0] == trees[1], expected.is_empty());
        }
    }

    #[test]
    fn a_change_of_a_copy_takes_one_way_of_nodes_however_large_it_is() {
        let mut tree = ExtentTree::default();
        for at in 0..10_000 {
            tree.set(at, Some(extent(at)));
        }
        let mut copies = vec![tree.clone()];
        for n in 0..50 {
            tree.set(n * 199, Some(extent(n)));
            copies.push(tree.clone());
        }
        let mut nodes = std::collections::BTreeSet::new();
        copies.iter().filter_map(|copy| copy.root.as_ref()).for_each(|root| count(root, &mut nodes));
        let once = 10_000 / 16 + 10_000_usize.div_ceil(1024) + 3;
        assert!(nodes.len() <= once + 50 * 5, "{} nodes", nodes.len());
    }

    fn count(node: &Arc<Node>, seen: &mut std::collections::BTreeSet<usize>) {
        if seen.insert(Arc::as_ptr(node) as usize)
            && let Node::Branch(nodes) = &**node
        {
            nodes.iter().flatten().for_each(|node| count(node, seen));
        }
    }
}
