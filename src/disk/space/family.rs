//! Volumes that share extents: each family is a chain, and a volume stands next to the one from which it was made.
//!
//! Neighbours differ least, so the log states each volume by what differs from the one before it, its *base*. In a
//! chain a volume is the base of at most one other, and so a change of a volume changes at most two statements, however
//! many snapshots there are.

use super::map::VolumeId;
use std::collections::BTreeMap;

/// The chains. A volume that shares nothing with anybody is in none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Families {
    base: BTreeMap<VolumeId, VolumeId>,
    next: BTreeMap<VolumeId, VolumeId>,
}

impl Families {
    /// The volume before this one.
    pub(super) fn base(&self, volume: VolumeId) -> Option<VolumeId> {
        self.base.get(&volume).copied()
    }

    /// The volume behind this one.
    pub(super) fn next(&self, volume: VolumeId) -> Option<VolumeId> {
        self.next.get(&volume).copied()
    }

    /// Whether the volume may share extents with another.
    pub(super) fn is_alone(&self, volume: VolumeId) -> bool {
        !self.base.contains_key(&volume) && !self.next.contains_key(&volume)
    }

    /// All volumes that stand in a chain.
    pub(super) fn volumes(&self) -> Vec<VolumeId> {
        self.base.keys().chain(self.next.keys()).copied().collect()
    }

    /// Puts a volume right behind another one, wherever it was before.
    pub(super) fn put_behind(&mut self, volume: VolumeId, base: VolumeId) {
        debug_assert!(volume != base, "no volume is made from itself");
        self.remove(volume);
        if let Some(behind) = self.next.insert(base, volume) {
            self.base.insert(behind, volume);
            self.next.insert(volume, behind);
        }
        self.base.insert(volume, base);
    }

    /// Takes a volume out; those before and behind it are neighbours then.
    pub(super) fn remove(&mut self, volume: VolumeId) {
        let (base, next) = (self.base.remove(&volume), self.next.remove(&volume));
        if let Some(base) = base {
            self.next.remove(&base);
        }
        if let Some(next) = next {
            self.base.remove(&next);
        }
        if let (Some(base), Some(next)) = (base, next) {
            self.next.insert(base, next);
            self.base.insert(next, base);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(families: &Families, first: u32) -> Vec<u32> {
        std::iter::successors(Some(VolumeId(first)), |volume| families.next(*volume)).map(|v| v.0).collect()
    }

    #[test]
    fn neighbours_stay_a_chain_whoever_comes_and_goes() {
        let mut families = Families::default();
        for snapshot in 2..6 {
            families.put_behind(VolumeId(snapshot), VolumeId(1));
        }
        assert_eq!(chain(&families, 1), [1, 5, 4, 3, 2]);
        families.put_behind(VolumeId(9), VolumeId(4));
        families.remove(VolumeId(5));
        assert_eq!(chain(&families, 1), [1, 4, 9, 3, 2]);
        families.put_behind(VolumeId(1), VolumeId(3));
        assert_eq!(
            (chain(&families, 4), families.base(VolumeId(1))),
            (vec![4, 9, 3, 1, 2], Some(VolumeId(3)))
        );
        for gone in [4, 2, 3, 1] {
            families.remove(VolumeId(gone));
        }
        assert!(families.is_alone(VolumeId(9)));
        assert_eq!(families, Families::default());
    }
}
