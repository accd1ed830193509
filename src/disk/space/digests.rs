//! Digests of extents, known since somebody read them: what was not written since need not be read again.
//!
//! A digest belongs to a place on the units and to the pages that count there. It is forgotten when the place is about to be
//! written or is nobody's any more, so it never outlives what it is of. It says nothing of what the units have made of it
//! since: only who reads finds that.

use super::bits::PageBits;
use super::map::{Extent, Map, VolumeId};
use std::collections::BTreeMap;

/// The digests of one parity group.
#[derive(Debug, Default)]
pub(crate) struct Digests(BTreeMap<u32, Known>);

#[derive(Debug)]
struct Known {
    written: PageBits,
    digest: [u8; 32],
    /// Something else was read since.
    is_broken: bool,
}

impl Digests {
    /// The extent at this place is about to be written, or free.
    pub(super) fn forget(&mut self, physical: u32) {
        self.0.remove(&physical);
    }
}

impl Map {
    /// The digest of what these pages are at their place.
    pub(crate) fn digest(&self, extent: &Extent) -> Option<[u8; 32]> {
        let known = self.digests.0.get(&extent.physical)?;
        (known.written == extent.written).then_some(known.digest)
    }

    /// Whether something else than what is known was read there: whoever wants to know what the units hold has to read it.
    pub(crate) fn is_broken(&self, extent: &Extent) -> bool {
        self.digests.0.get(&extent.physical).is_some_and(|known| known.is_broken)
    }

    /// Something else than what is known was read at the place of this extent, if it is known still.
    pub(crate) fn note_broken(&mut self, extent: &Extent) {
        let known = self.digests.0.get_mut(&extent.physical).filter(|known| known.written == extent.written);
        if let Some(known) = known {
            known.is_broken = true;
        }
    }

    /// Keeps a digest of what was read of an extent of a volume, if the volume has it still; while there is room.
    pub(crate) fn keep_digest(&mut self, volume: VolumeId, at: u32, extent: &Extent, digest: [u8; 32]) {
        let is_there = self.extent(volume, at).as_ref() == Some(extent);
        let has_room = self.digests.0.len() < DIGESTS_MAX || self.digests.0.contains_key(&extent.physical);
        if is_there && has_room {
            let known = Known { written: extent.written, digest, is_broken: false };
            self.digests.0.insert(extent.physical, known);
        }
    }
}

/// Digests of one parity group: those of 1 TiB, in less than 100 MiB of memory. Extents beyond them are read each time.
const DIGESTS_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::super::map::{Origin, VolumeKind};
    use super::*;

    const A: VolumeId = VolumeId(1);
    const B: VolumeId = VolumeId(2);

    fn pages(of: &[u8]) -> PageBits {
        let mut bits = PageBits::default();
        of.iter().for_each(|page| _ = bits.insert(*page));
        bits
    }

    fn settle(map: &mut Map) {
        let taken = map.take_changes();
        map.changes_are_durable(taken);
        while map.reap(100) {}
    }

    /// A volume with one extent, and one that shares it.
    fn shared() -> (Map, Extent) {
        let mut map = Map::new(8);
        map.create(A, VolumeKind::Thin, 4 << 20).unwrap();
        map.place(A, 0).unwrap();
        map.mark_written(A, 0, &pages(&[1, 2]));
        settle(&mut map);
        let mut borrowed = map.borrow_of(A).unwrap();
        while map.borrow_some(&mut borrowed, 100) {}
        map.adopt(B, A, borrowed).unwrap();
        map.complete(B, Origin { volume: A, as_of: 0 }).unwrap();
        settle(&mut map);
        let extent = map.extent(B, 0).unwrap();
        (map, extent)
    }

    #[test]
    fn a_digest_is_known_until_its_extent_is_written_and_never_of_other_pages() {
        let (mut map, extent) = shared();
        map.keep_digest(B, 0, &extent, [7; 32]);
        assert_eq!(map.digest(&map.extent(A, 0).unwrap()), Some([7; 32]), "it lies at the same place");
        // A part of it is zero in one of the two.
        map.mark_zero(A, 0, &pages(&[2]));
        assert_eq!(map.digest(&map.extent(A, 0).unwrap()), None);
        assert_eq!(map.digest(&map.extent(B, 0).unwrap()), Some([7; 32]));
        // Who writes goes elsewhere, and what was read stays known.
        map.place(A, 0).unwrap();
        map.mark_moved(A, 0, &pages(&[5]));
        settle(&mut map);
        assert_eq!(map.digest(&map.extent(A, 0).unwrap()), None);
        assert_eq!(map.digest(&extent), Some([7; 32]));
        map.note_broken(&extent);
        assert!(map.is_broken(&extent) && map.digest(&extent) == Some([7; 32]), "what it was is the proof");
        // Now it is alone and is written in place.
        map.place(B, 0).unwrap();
        assert!(map.digest(&extent).is_none() && !map.is_broken(&extent));
    }

    #[test]
    fn a_place_that_somebody_else_gets_has_no_digest() {
        let (mut map, extent) = shared();
        map.keep_digest(B, 0, &extent, [7; 32]);
        map.delete(A).unwrap();
        settle(&mut map);
        assert_eq!(map.digest(&extent), Some([7; 32]));
        map.delete(B).unwrap();
        settle(&mut map);
        assert_eq!(map.digest(&extent), None);
        map.keep_digest(B, 0, &extent, [7; 32]);
        assert_eq!(map.digest(&extent), None, "what came too late is of nobody");
    }
}
