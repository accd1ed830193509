//! The extents of one update. Nearly every update has one, and it lies in the update itself: a list beside it would be memory
//! of its own for every write of a host, which has left the processor's caches each time the update is looked at again.

use crate::update::Extent;
use alloc::vec::Vec;
use core::ops::{Deref, DerefMut};

/// Extents in the order in which they are applied.
#[derive(Clone, Debug, Default)]
pub struct Extents(List);

/// A list of one is always [`List::One`] when it is made; what is taken away from a longer one later changes only where it lies.
#[derive(Clone, Debug, Default)]
enum List {
    #[default]
    None,
    One(Extent),
    Many(Vec<Extent>),
}

impl Extents {
    /// None.
    pub const fn new() -> Self {
        Self(List::None)
    }
}

impl Deref for Extents {
    type Target = [Extent];
    fn deref(&self) -> &[Extent] {
        match &self.0 {
            List::None => &[],
            List::One(extent) => core::slice::from_ref(extent),
            List::Many(extents) => extents,
        }
    }
}

impl DerefMut for Extents {
    fn deref_mut(&mut self) -> &mut [Extent] {
        match &mut self.0 {
            List::None => &mut [],
            List::One(extent) => core::slice::from_mut(extent),
            List::Many(extents) => extents,
        }
    }
}

impl PartialEq for Extents {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Extents {}

impl From<Extent> for Extents {
    fn from(extent: Extent) -> Self {
        Self(List::One(extent))
    }
}

impl From<Vec<Extent>> for Extents {
    fn from(extents: Vec<Extent>) -> Self {
        Self(match *extents {
            [] => List::None,
            [extent] => List::One(extent),
            _ => List::Many(extents),
        })
    }
}

impl FromIterator<Extent> for Extents {
    fn from_iter<I: IntoIterator<Item = Extent>>(extents: I) -> Self {
        let mut extents = extents.into_iter();
        let Some(first) = extents.next() else { return Self::new() };
        let Some(second) = extents.next() else { return first.into() };
        Self(List::Many([first, second].into_iter().chain(extents).collect()))
    }
}

impl<'a> IntoIterator for &'a Extents {
    type Item = &'a Extent;
    type IntoIter = core::slice::Iter<'a, Extent>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a> IntoIterator for &'a mut Extents {
    type Item = &'a mut Extent;
    type IntoIter = core::slice::IterMut<'a, Extent>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::VolumeNumber;
    use crate::update::Content;

    #[test]
    fn wherever_they_lie_they_are_the_same_extents() {
        let extent = |start_bytes| Extent {
            volume: VolumeNumber(1),
            start_bytes,
            length_bytes: 512,
            content: Content::Data,
        };
        for count in 0..4 {
            let all: Vec<Extent> = (0..count).map(|at| extent(at * 512)).collect();
            let (collected, made): (Extents, Extents) = (all.iter().copied().collect(), all.clone().into());
            assert_eq!((&*collected, &collected), (&*all, &made));
            let mut moved = made.clone();
            moved.iter_mut().for_each(|extent| extent.start_bytes += 512);
            assert_eq!(moved == made, count == 0);
            assert!(moved.into_iter().zip(&all).all(|(new, old)| new.start_bytes == old.start_bytes + 512));
        }
        assert_eq!(Extents::from(extent(0)), vec_of(extent(0)));
    }

    fn vec_of(extent: Extent) -> Extents {
        Extents(List::Many([extent].into()))
    }
}
