//! What a read gives: handles on pages and stretches of zeros, in order.

use crate::disk::slot::{SLOT_BYTES, Slot};

/// A stretch of what was read.
#[derive(Clone, Debug)]
pub enum Piece {
    /// `length` bytes of a page from `start` on.
    Bytes {
        /// The page.
        slot: Slot,
        /// First byte in it.
        start: usize,
        /// How many.
        length: usize,
    },
    /// Zeros.
    Zero {
        /// How many.
        length: usize,
    },
}

impl Piece {
    /// Its length.
    #[must_use]
    pub fn length(&self) -> usize {
        match self {
            Self::Bytes { length, .. } | Self::Zero { length } => *length,
        }
    }
}

/// The pieces of a read in order. Two of them, which is what a small unaligned read has, need no allocation.
#[derive(Clone, Debug, Default)]
pub struct Pieces {
    first: [Option<Piece>; 2],
    rest: Vec<Piece>,
    length: usize,
}

impl Pieces {
    /// The pieces in order.
    pub fn iter(&self) -> impl Iterator<Item = &Piece> {
        self.first.iter().flatten().chain(&self.rest)
    }

    /// Bytes in all.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// All bytes in one place: for small things and tests; a response gathers from the pieces instead.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.length);
        for piece in self.iter() {
            match piece {
                Piece::Bytes { slot, start, length } => {
                    bytes.extend_from_slice(&slot[*start..start + length])
                }
                Piece::Zero { length } => bytes.resize(bytes.len() + length, 0),
            }
        }
        bytes
    }

    pub(super) fn with_pages(pages: usize) -> Self {
        Self { rest: Vec::with_capacity(pages.saturating_sub(2)), ..Self::default() }
    }

    /// Adds the next piece; zeros behind zeros become one.
    pub(super) fn push(&mut self, piece: Piece) {
        self.length += piece.length();
        if let Piece::Zero { length } = &piece
            && let Some(Piece::Zero { length: before }) = self.last_mut()
        {
            *before += length;
            return;
        }
        match &mut self.first {
            [first @ None, _] => *first = Some(piece),
            [_, second @ None] => *second = Some(piece),
            _ => self.rest.push(piece),
        }
    }

    fn last_mut(&mut self) -> Option<&mut Piece> {
        let [first, second] = &mut self.first;
        self.rest.last_mut().or(second.as_mut()).or(first.as_mut())
    }
}

impl FromIterator<Piece> for Pieces {
    fn from_iter<I: IntoIterator<Item = Piece>>(pieces: I) -> Self {
        let mut all = Self::default();
        pieces.into_iter().filter(|piece| piece.length() > 0).for_each(|piece| all.push(piece));
        all
    }
}

/// A byte range as pages: which, and which bytes of each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Span {
    pub(super) offset_bytes: u64,
    pub(super) length: u64,
}

impl Span {
    pub(super) fn end(&self) -> u64 {
        self.offset_bytes + self.length
    }

    pub(super) fn first_page(&self) -> u64 {
        self.offset_bytes / SLOT_BYTES as u64
    }

    /// One behind the last page.
    pub(super) fn end_page(&self) -> u64 {
        if self.length == 0 { self.first_page() } else { self.end().div_ceil(SLOT_BYTES as u64) }
    }

    pub(super) fn pages(&self) -> usize {
        usize::try_from(self.end_page() - self.first_page()).unwrap_or(usize::MAX)
    }

    /// The bytes of `page` that lie in the range: from, to.
    pub(super) fn within(&self, page: u64) -> (usize, usize) {
        let base = page * SLOT_BYTES as u64;
        let from = self.offset_bytes.saturating_sub(base);
        let to = (self.end() - base).min(SLOT_BYTES as u64);
        (usize::try_from(from).unwrap_or(SLOT_BYTES), usize::try_from(to).unwrap_or(SLOT_BYTES))
    }

    /// Whether the range covers the page only in part.
    pub(super) fn is_partial(&self, page: u64) -> bool {
        self.within(page) != (0, SLOT_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_join_and_a_range_knows_its_pages() {
        let mut pieces = Pieces::with_pages(3);
        pieces.push(Piece::Zero { length: 10 });
        pieces.push(Piece::Zero { length: 4096 });
        assert_eq!((pieces.iter().count(), pieces.length()), (1, 4106));
        let span = Span { offset_bytes: 4000, length: 200 };
        assert_eq!((span.first_page(), span.end_page()), (0, 2));
        assert_eq!((span.within(0), span.within(1)), ((4000, 4096), (0, 104)));
        let whole = Span { offset_bytes: 8192, length: 4096 };
        assert!(!whole.is_partial(2) && span.is_partial(1));
        assert_eq!(Span { offset_bytes: 4095, length: 0 }.pages(), 0);
    }
}
