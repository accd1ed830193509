//! One bit for each page of an extent: 256 pages of 4 KiB in 1 MiB.

use std::ops::Range;

/// Pages of an extent.
pub(crate) const PAGES_PER_EXTENT: u64 = 256;

/// A set of pages of one extent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct PageBits([u64; 4]);

impl PageBits {
    /// All pages.
    pub(crate) const FULL: Self = Self([u64::MAX; 4]);

    pub(crate) fn contains(&self, page: u8) -> bool {
        self.0[usize::from(page) / 64] >> (page % 64) & 1 == 1
    }

    /// Adds a page; true if it was not there.
    pub(crate) fn insert(&mut self, page: u8) -> bool {
        let word = &mut self.0[usize::from(page) / 64];
        let new = *word >> (page % 64) & 1 == 0;
        *word |= 1 << (page % 64);
        new
    }

    /// Removes a page; true if it was there.
    pub(crate) fn remove(&mut self, page: u8) -> bool {
        let was = self.contains(page);
        self.0[usize::from(page) / 64] &= !(1 << (page % 64));
        was
    }

    /// Adds pages; true if one was not there.
    pub(crate) fn insert_all(&mut self, pages: &Self) -> bool {
        let before = *self;
        self.0.iter_mut().zip(pages.0).for_each(|(word, more)| *word |= more);
        *self != before
    }

    /// Removes pages; true if one was there.
    pub(crate) fn remove_all(&mut self, pages: &Self) -> bool {
        let before = *self;
        self.0.iter_mut().zip(pages.0).for_each(|(word, less)| *word &= !less);
        *self != before
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// The pages in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u8> + use<> {
        let bits = *self;
        (0..=u8::MAX).filter(move |page| bits.contains(*page))
    }

    /// The first run of pages at or after `from`, as numbers below 256.
    pub(crate) fn run_from(&self, from: u16) -> Option<Range<u16>> {
        let has = |page: &u16| u8::try_from(*page).is_ok_and(|page| self.contains(page));
        let start = (from..256).find(has)?;
        let end = (start..256).find(|page| !has(page)).unwrap_or(256);
        Some(start..end)
    }

    pub(crate) fn to_le_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (to, word) in bytes.chunks_exact_mut(8).zip(self.0) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    pub(crate) fn from_le_bytes(bytes: [u8; 32]) -> Self {
        let mut words = [0; 4];
        for (word, from) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(from.try_into().expect("chunks of eight bytes"));
        }
        Self(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_pages_remembers_what_was_put_in() {
        let mut bits = PageBits::default();
        assert!(bits.insert(3) && bits.insert(255) && bits.insert(4) && !bits.insert(3));
        assert_eq!(bits.iter().collect::<Vec<_>>(), [3, 4, 255]);
        assert_eq!(bits.run_from(0), Some(3..5));
        assert_eq!(bits.run_from(5), Some(255..256));
        assert!(bits.remove(255) && !bits.remove(255));
        assert_eq!((bits.run_from(5), bits.count()), (None, 2));
        assert_eq!(PageBits::from_le_bytes(bits.to_le_bytes()), bits);
        assert_eq!(PageBits::FULL.run_from(7), Some(7..256));
    }
}
