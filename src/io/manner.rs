//! How a change becomes visible, if not simply as it is: alone, only if the range holds what was expected, or or-ed with
//! what it holds.
//!
//! # What it guarantees
//! Everything a volume does for hosts becomes visible while it holds the volume's role shared; what is done here holds it
//! alone. So between the look at the old bytes and the visibility of the new ones nothing else of the volume becomes
//! visible, the number of the group lies in between too, and a reader sees all of the change or nothing
//! ([`Volume::read`](super::volume::Volume::read) holds the role as well, or reads again). A comparison that fails takes
//! no number and makes nothing visible.
//!
//! # How it is shown
//! The tests below compare bytes; `tests/sim/whole.rs` runs the commands against each other and against readers on P-VOLs,
//! through crashes, and compares the copies.

use crate::copy::change::{Change, Content, pages_touched, within_page};
use crate::disk::cache::{Piece, Pieces};
use crate::disk::slot::{SLOT_BYTES, Slot, SlotMut, SlotPool};

/// How a change becomes visible.
#[derive(Debug, Default)]
pub enum Manner {
    /// As it is; other commands may become visible between two of its extents.
    #[default]
    Plain,
    /// Alone, and as one update: WRITE ATOMIC.
    Alone,
    /// Alone, and only if the range of its one part holds these bytes: COMPARE AND WRITE.
    IfSame(Expected),
    /// Alone; the bytes of its one part, which are data, or-ed with what the range holds: ORWRITE.
    Or(Oring),
}

/// Bytes in pages.
#[derive(Debug)]
pub struct Expected {
    /// The pages.
    pub slots: Vec<Slot>,
    /// Where in the first one they begin.
    pub at: usize,
}

/// What an ORWRITE needs besides its change.
#[derive(Debug)]
pub struct Oring {
    /// Where pages for the result come from.
    pub pool: SlotPool,
    mask: Vec<Slot>,
    result: Vec<SlotMut>,
}

impl Expected {
    /// The place of the first byte that is not as expected.
    pub(super) fn first_difference(&self, held: &Pieces) -> Option<u64> {
        first_difference(held, self.at, |page| &self.slots[page])
    }
}

/// The place of the first byte of `held` that is not that of the pages which `page` gives, the first byte at `at`.
pub(super) fn first_difference<'a>(
    held: &Pieces,
    at: usize,
    page: impl Fn(usize) -> &'a Slot,
) -> Option<u64> {
    let mut done = 0;
    for piece in held.iter() {
        let end = done + piece.length();
        let begin = done;
        while done < end {
            let from = (at + done) % SLOT_BYTES;
            let length = (SLOT_BYTES - from).min(end - done);
            let theirs = &page((at + done) / SLOT_BYTES)[from..from + length];
            let differs = match piece {
                Piece::Bytes { slot, start, .. } => {
                    let ours = &slot[start + done - begin..][..length];
                    // The quick comparison first: most are equal.
                    if ours == theirs { None } else { ours.iter().zip(theirs).position(|(a, b)| a != b) }
                }
                Piece::Zero { .. } => theirs.iter().position(|byte| *byte != 0),
            };
            if let Some(place) = differs {
                return u64::try_from(done + place).ok();
            }
            done += length;
        }
    }
    None
}

impl Oring {
    /// For a change whose one part is the data to be or-ed in.
    #[must_use]
    pub fn new(pool: SlotPool, change: &Change) -> Self {
        let mask = change.parts.iter().find_map(|part| match &part.content {
            Content::Data(slots) => Some(slots.clone()),
            Content::Zero | Content::Pattern { .. } => None,
        });
        Self { pool, mask: mask.unwrap_or_default(), result: Vec::new() }
    }

    /// Pages of the result that are still to be taken.
    pub(super) fn missing(&self) -> usize {
        self.mask.len() - self.result.len()
    }

    pub(super) fn supply(&mut self, slots: Vec<SlotMut>) {
        self.result.extend(slots);
    }

    /// Puts the result into the change. The pages are used up.
    pub(super) fn compute(&mut self, held: &Pieces, change: &mut Change) {
        let Some(part) = change.parts.first_mut() else { return };
        let mut result = std::mem::take(&mut self.result);
        for (page, mask) in result.iter_mut().zip(&self.mask) {
            page.copy_from_slice(&mask[..]);
        }
        let first = usize::from(within_page(part.offset_bytes));
        let mut done = 0;
        for piece in held.iter() {
            if let Piece::Bytes { slot, start, length } = piece {
                // A piece is a page or a part of one, at its place in the page: so it lies in one page of the result.
                let at = first + done;
                let page = &mut result[at / SLOT_BYTES];
                let ours = &mut page[at % SLOT_BYTES..][..*length];
                ours.iter_mut().zip(&slot[*start..]).for_each(|(ours, held)| *ours |= held);
            }
            done += piece.length();
        }
        debug_assert_eq!(result.len(), pages_touched(part.offset_bytes, part.length_bytes));
        part.content = Content::Data(result.into_iter().map(SlotMut::freeze).collect());
    }
}

impl Manner {
    /// Whether nothing else of the volume may become visible meanwhile.
    pub(super) fn is_alone(&self) -> bool {
        !matches!(self, Self::Plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copy::change::Part;
    use crate::disk::slot::Class;

    /// A volume of two pages of which only the second was written, read from its sector `first` on.
    fn held(pool: &SlotPool, page: &[u8], first: usize, sectors: usize) -> Pieces {
        let mut slot = pool.try_take(Class::Host, 1).unwrap().remove(0);
        slot.copy_from_slice(page);
        let (start, end) = (first * 512, (first + sectors) * 512);
        let zeros = SLOT_BYTES.clamp(start, end) - start;
        let bytes = Piece::Bytes { slot: slot.freeze(), start: 0, length: end - start - zeros };
        [Piece::Zero { length: zeros }, bytes].into_iter().collect()
    }

    fn pages(pool: &SlotPool, bytes: &[u8], at: usize) -> Vec<Slot> {
        let mut slots = pool.try_take(Class::Host, (at + bytes.len()).div_ceil(SLOT_BYTES)).unwrap();
        for (place, byte) in bytes.iter().enumerate() {
            slots[(at + place) / SLOT_BYTES][(at + place) % SLOT_BYTES] = *byte;
        }
        slots.into_iter().map(SlotMut::freeze).collect()
    }

    fn pattern() -> Vec<u8> {
        (0..SLOT_BYTES).map(|place| u8::try_from(place % 251).unwrap() | 1).collect()
    }

    #[test]
    fn the_first_byte_that_differs_is_found_wherever_the_pages_lie() {
        let (pool, page) = (SlotPool::new(1 << 20), pattern());
        for (first, sectors, at) in [(7, 2, 3584), (5, 11, 512), (0, 16, 0), (8, 8, 4000), (3, 4, 1)] {
            let held = held(&pool, &page, first, sectors);
            let bytes = held.to_vec();
            let expected = |bytes: &[u8]| Expected { slots: pages(&pool, bytes, at), at };
            assert_eq!(expected(&bytes).first_difference(&held), None);
            for wrong in [0, 1, bytes.len() / 2, bytes.len() - 1] {
                let mut changed = bytes.clone();
                changed[wrong] ^= 0x40;
                *changed.last_mut().unwrap() ^= 0x80;
                assert_eq!(expected(&changed).first_difference(&held), Some(wrong as u64), "{first} {wrong}");
            }
        }
    }

    #[test]
    fn bits_are_added_to_what_is_there() {
        let (pool, page) = (SlotPool::new(1 << 20), pattern());
        for (first, sectors) in [(7, 2), (5, 11), (0, 16), (8, 1)] {
            let held = held(&pool, &page, first, sectors);
            let mask: Vec<u8> = (0..sectors * 512).map(|place| 1 << (place % 8)).collect();
            let slots = pages(&pool, &mask, first * 512 % SLOT_BYTES);
            let part = Part::data(first as u64 * 512, sectors as u64 * 512, slots);
            let mut change = Change::new(1, vec![part]);
            let mut oring = Oring::new(pool.clone(), &change);
            oring.supply(pool.try_take(Class::Host, oring.missing()).unwrap());
            oring.compute(&held, &mut change);
            let payload = change.payload();
            let flat: Vec<u8> = payload.slots.iter().flat_map(|slot| slot[..].to_vec()).collect();
            let result = &flat[usize::from(payload.skip)..][..payload.bytes as usize];
            let wanted: Vec<u8> = held.to_vec().iter().zip(&mask).map(|(a, b)| a | b).collect();
            assert_eq!(result, wanted, "{first}");
            assert_eq!(oring.missing(), payload.slots.len(), "a second attempt needs pages of its own");
        }
    }
}
