//! Payload by handle: what goes out is a list of [`Pieces`], what comes in lands in a [`Room`].
//!
//! Invariant: a piece never changes once it is in a list (a [`Slot`] is frozen, [`Bytes`] are shared), so that it may
//! be queued for a socket, journaled and cached at the same time without a copy.

use crate::disk::slot::{SLOT_BYTES, Slot, SlotMut, bytes_of};
use bytes::Bytes;
use std::io::IoSliceMut;

/// A run of bytes that somebody holds.
#[derive(Clone, Debug)]
pub enum Piece {
    /// A part of a cache page.
    Slot {
        /// The page.
        slot: Slot,
        /// Where the part begins.
        at: u16,
        /// Its length; with `at` at most [`SLOT_BYTES`].
        bytes: u16,
    },
    /// So many zero bytes that are not stored anywhere.
    Zero(u32),
    /// Bytes outside the cache.
    Bytes(Bytes),
}

impl Piece {
    /// A whole page.
    #[must_use]
    pub fn page(slot: Slot) -> Self {
        Self::Slot { slot, at: 0, bytes: PAGE }
    }

    /// Its length.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Slot { bytes, .. } => usize::from(*bytes),
            Self::Zero(bytes) => usize::try_from(*bytes).unwrap_or(usize::MAX),
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `bytes` of it from `from` on; both within its length.
    fn part(&self, from: usize, bytes: usize) -> Self {
        match self {
            Self::Slot { slot, at, .. } => Self::Slot {
                slot: slot.clone(),
                at: at.saturating_add(u16::try_from(from).unwrap_or(PAGE)),
                bytes: u16::try_from(bytes).unwrap_or(0),
            },
            Self::Zero(_) => Self::Zero(u32::try_from(bytes).unwrap_or(0)),
            Self::Bytes(all) => Self::Bytes(all.slice(from..from + bytes)),
        }
    }

    /// Calls `each` with its bytes, from `from` on.
    pub(super) fn for_each_slice<'a>(&'a self, from: usize, mut each: impl FnMut(&'a [u8])) {
        match self {
            Self::Slot { slot, at, bytes } => {
                let at = usize::from(*at);
                each(&slot[at + from..at + usize::from(*bytes)]);
            }
            Self::Bytes(bytes) => each(&bytes[from..]),
            Self::Zero(_) => {
                let mut left = self.len() - from;
                while left > 0 {
                    let part = left.min(ZEROES.len());
                    each(&ZEROES[..part]);
                    left -= part;
                }
            }
        }
    }
}

/// Pieces in their order. One piece needs no memory of its own, which is the case of a small read.
#[derive(Clone, Debug, Default)]
pub struct Pieces {
    first: Option<Piece>,
    rest: Vec<Piece>,
    bytes: usize,
}

impl Pieces {
    /// No bytes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a piece.
    pub fn push(&mut self, piece: Piece) {
        self.bytes += piece.len();
        if self.first.is_none() {
            self.first = Some(piece);
        } else {
            self.rest.push(piece);
        }
    }

    /// Bytes of all pieces.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The pieces in order.
    pub fn iter(&self) -> impl Iterator<Item = &Piece> {
        self.first.iter().chain(&self.rest)
    }

    /// Hands out `bytes` from `offset` on as pieces of their own; what lies beyond the end is not there.
    pub(super) fn cut(&self, offset: usize, bytes: usize, mut each: impl FnMut(Piece)) {
        let (mut skip, mut left) = (offset, bytes);
        for piece in self.iter() {
            if left == 0 {
                return;
            }
            if skip >= piece.len() {
                skip -= piece.len();
                continue;
            }
            let part = left.min(piece.len() - skip);
            each(piece.part(skip, part));
            left -= part;
            skip = 0;
        }
    }

    /// All bytes in one place: a copy, for answers of control commands and for tests.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.bytes);
        for piece in self.iter() {
            piece.for_each_slice(0, |slice| all.extend_from_slice(slice));
        }
        all
    }
}

impl FromIterator<Piece> for Pieces {
    fn from_iter<I: IntoIterator<Item = Piece>>(pieces: I) -> Self {
        let mut all = Self::new();
        for piece in pieces {
            all.push(piece);
        }
        all
    }
}

impl From<Vec<u8>> for Pieces {
    fn from(bytes: Vec<u8>) -> Self {
        Self::from_iter([Piece::Bytes(bytes.into())])
    }
}

/// Where payload lands.
#[derive(Debug)]
pub enum Room {
    /// In cache pages; the first byte lies at `first_offset` of the first one, so that pages and volume blocks agree.
    Slots {
        /// The pages, in order.
        slots: Vec<SlotMut>,
        /// Below [`SLOT_BYTES`].
        first_offset: usize,
    },
    /// Outside the cache.
    Bytes(Vec<u8>),
}

impl Room {
    /// Room of `bytes` outside the cache.
    #[must_use]
    pub fn of_bytes(bytes: usize) -> Self {
        Self::Bytes(vec![0; bytes])
    }

    /// Pages that `bytes` take when the first one lies at `first_offset` of its page.
    #[must_use]
    pub fn slots_for(bytes: usize, first_offset: usize) -> usize {
        (first_offset + bytes).div_ceil(SLOT_BYTES)
    }

    /// Bytes that fit.
    #[must_use]
    pub fn capacity(&self) -> usize {
        match self {
            Self::Slots { slots, first_offset } => (slots.len() * SLOT_BYTES).saturating_sub(*first_offset),
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    /// Copies `bytes` to `offset`; what does not fit is dropped.
    pub(super) fn put(&mut self, offset: usize, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(self.capacity().saturating_sub(offset))];
        if bytes.is_empty() {
            return;
        }
        match self {
            Self::Bytes(room) => room[offset..offset + bytes.len()].copy_from_slice(bytes),
            Self::Slots { slots, first_offset } => {
                let (mut at, mut left) = (*first_offset + offset, bytes);
                while !left.is_empty() {
                    let within = at % SLOT_BYTES;
                    let (part, rest) = left.split_at(left.len().min(SLOT_BYTES - within));
                    slots[at / SLOT_BYTES][within..within + part.len()].copy_from_slice(part);
                    at += part.len();
                    left = rest;
                }
            }
        }
    }

    /// Places for the bytes from `offset` on, `bytes` of them or as many as fit `places_max` places.
    pub(super) fn places<'a>(
        &'a mut self,
        offset: usize,
        bytes: usize,
        places_max: usize,
        places: &mut Vec<IoSliceMut<'a>>,
    ) {
        let bytes = bytes.min(self.capacity().saturating_sub(offset));
        match self {
            Self::Bytes(room) => places.push(IoSliceMut::new(&mut room[offset..offset + bytes])),
            Self::Slots { slots, first_offset } => {
                let start = *first_offset + offset;
                let (mut within, mut left) = (start % SLOT_BYTES, bytes);
                for slot in slots.iter_mut().skip(start / SLOT_BYTES).take(places_max) {
                    let part = left.min(SLOT_BYTES - within);
                    if part == 0 {
                        break;
                    }
                    places.push(IoSliceMut::new(&mut slot[within..within + part]));
                    left -= part;
                    within = 0;
                }
            }
        }
    }

    /// Calls `each` with the bytes from `offset` on, in order.
    pub(super) fn for_each_slice(&self, offset: usize, bytes: usize, mut each: impl FnMut(&[u8])) {
        match self {
            Self::Bytes(room) => each(&room[offset..offset + bytes]),
            Self::Slots { slots, first_offset } => {
                let (mut at, mut left) = (*first_offset + offset, bytes);
                while left > 0 {
                    let within = at % SLOT_BYTES;
                    let part = left.min(SLOT_BYTES - within);
                    each(&slots[at / SLOT_BYTES][within..within + part]);
                    at += part;
                    left -= part;
                }
            }
        }
    }
}

/// What was received into a [`Room`], sealed.
#[derive(Clone, Debug)]
pub enum Received {
    /// Pages; beyond the bytes received the last one is zero, pages that got nothing are gone.
    Slots {
        /// The pages, in order.
        slots: Vec<Slot>,
        /// Bytes received.
        bytes: usize,
    },
    /// Bytes outside the cache.
    Bytes(Vec<u8>),
}

#[cfg(test)]
impl Room {
    pub(crate) fn put_for_tests(&mut self, bytes: &[u8]) {
        self.put(0, bytes);
    }
}

#[cfg(test)]
impl Received {
    pub(crate) fn seal_for_tests(room: Room, bytes: usize) -> Self {
        Self::seal(room, bytes)
    }
}

impl Received {
    /// Seals what has come. Pages do not keep what their last user left behind the end.
    pub(super) fn seal(room: Room, bytes: usize) -> Self {
        match room {
            Room::Bytes(mut room) => {
                room.truncate(bytes);
                Self::Bytes(room)
            }
            Room::Slots { mut slots, first_offset } => {
                let unused = slots.split_off(Room::slots_for(bytes, first_offset).min(slots.len()));
                SlotMut::give_back_all(unused);
                if let Some(first) = slots.first_mut() {
                    first[..first_offset].fill(0);
                }
                let tail = (first_offset + bytes) % SLOT_BYTES;
                if let Some(last) = slots.last_mut().filter(|_| tail > 0) {
                    last[tail..].fill(0);
                }
                Self::Slots { slots: slots.into_iter().map(SlotMut::freeze).collect(), bytes }
            }
        }
    }

    /// Bytes received.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Slots { bytes, .. } => *bytes,
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    /// Whether nothing came.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All bytes in one place; a copy if they lie in pages, which begin at their start then.
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Slots { slots, bytes } => {
                let mut all: Vec<u8> = bytes_of(&slots);
                all.truncate(bytes);
                all
            }
        }
    }
}

/// [`SLOT_BYTES`] where a part of a page is counted.
#[expect(clippy::cast_possible_truncation, reason = "checked right below, when this is compiled")]
const PAGE: u16 = SLOT_BYTES as u16;
const _: () = assert!(SLOT_BYTES < 65_536);
/// What zero pieces are sent from.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::slot::{Class, SlotPool};

    #[test]
    fn a_part_of_pieces_is_found_wherever_it_lies() {
        let pool = SlotPool::new(64 * SLOT_BYTES);
        let mut page = pool.try_take(Class::Host, 1).unwrap().remove(0);
        page.iter_mut().zip(0_usize..).for_each(|(byte, at)| *byte = u8::try_from(at % 251).unwrap());
        let pieces: Pieces =
            [Piece::Bytes(Bytes::from_static(b"head")), Piece::page(page.freeze()), Piece::Zero(100_000)]
                .into_iter()
                .collect();
        let all = pieces.to_vec();
        assert_eq!((all.len(), pieces.len()), (104_100, 104_100));
        for (offset, bytes) in [(0, 4), (2, 10), (4, 4096), (4099, 2), (5000, 99_000), (0, 104_100)] {
            let mut part = Pieces::new();
            pieces.cut(offset, bytes, |piece| part.push(piece));
            assert_eq!(part.to_vec(), all[offset..offset + bytes]);
        }
    }

    #[test]
    fn a_room_of_pages_takes_bytes_at_any_offset_and_leaks_nothing_old() {
        let pool = SlotPool::new(64 * SLOT_BYTES);
        let mut slots = pool.try_take(Class::Host, 3).unwrap();
        slots.iter_mut().for_each(|slot| slot.fill(0xee));
        let mut room = Room::Slots { slots, first_offset: 512 };
        assert_eq!(room.capacity(), 3 * SLOT_BYTES - 512);
        let data: Vec<u8> = (0..7000_u32).map(|at| u8::try_from(at % 253).unwrap()).collect();
        room.put(0, &data[..3000]);
        room.put(3000, &data[3000..]);
        let mut seen = Vec::new();
        room.for_each_slice(0, 7000, |slice| seen.extend_from_slice(slice));
        assert_eq!(seen, data);
        let mut places = Vec::new();
        room.places(3000, 4000, 8, &mut places);
        assert_eq!(places.iter().map(|place| place.len()).collect::<Vec<_>>(), [584, 3416]);
        let Received::Slots { slots, bytes } = Received::seal(room, 7000) else { panic!("pages stay pages") };
        assert_eq!((slots.len(), bytes), (2, 7000));
        assert!(slots[0][..512].iter().all(|byte| *byte == 0));
        assert!(slots[1][3416..].iter().all(|byte| *byte == 0));
    }
}
