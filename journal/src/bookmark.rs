//! Named points in the order of updates (promise J1; O9 goes back to them).
//!
//! A bookmark is an update that changes nothing: it takes a number, travels and is freed like any other, so every copy
//! meets it at the same moment of its volumes. A journal knows the newest [`MAX_BOOKMARKS`] of those that it holds.

use crate::number::{UpdateNumber, VolumeNumber};
use crate::update::{Content, Extent};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;
use core::str;

/// Bytes of the longest name.
pub(crate) const MAX_NAME_BYTES: usize = 40;
/// Bookmarks that a journal lists; of more it forgets the names of the oldest, not the updates.
pub const MAX_BOOKMARKS: usize = 256;
/// Entries for extents that the name takes in a record.
pub(crate) const NAME_ENTRIES: usize = MAX_NAME_BYTES / ENTRY_BYTES;
/// Bytes of the name in each: volume, start and length.
const ENTRY_BYTES: usize = 20;

/// The name: 1 to 40 ASCII letters, digits, `-`, `_` and `.`, the first of them a letter or digit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BookmarkName([u8; MAX_NAME_BYTES]);

impl BookmarkName {
    /// The name, unless it is none.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let mut bytes = [0; MAX_NAME_BYTES];
        bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        Self::checked(bytes)
    }

    fn checked(bytes: [u8; MAX_NAME_BYTES]) -> Option<Self> {
        let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(MAX_NAME_BYTES);
        let (text, rest) = bytes.split_at_checked(length)?;
        let is_name = text.first()?.is_ascii_alphanumeric()
            && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte));
        (is_name && rest.iter().all(|byte| *byte == 0)).then_some(Self(bytes))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let text = self.0.split(|byte| *byte == 0).next().unwrap_or_default();
        str::from_utf8(text).unwrap_or_default()
    }

    /// As it lies in a record, where other updates have their extents.
    pub(crate) fn to_entries(self) -> Vec<Extent> {
        let (chunks, _) = self.0.as_chunks::<ENTRY_BYTES>();
        let entry = |bytes: &[u8; ENTRY_BYTES]| {
            let [a, b, c, d, start @ .., e, f, g, h, i, j, k, l] = *bytes;
            Extent {
                volume: VolumeNumber(u32::from_le_bytes([a, b, c, d])),
                start_bytes: u64::from_le_bytes(start),
                length_bytes: u64::from_le_bytes([e, f, g, h, i, j, k, l]),
                content: Content::Zero,
            }
        };
        chunks.iter().map(entry).collect()
    }

    /// The reverse.
    pub(crate) fn from_entries(entries: &[Extent]) -> Option<Self> {
        let mut bytes = [0; MAX_NAME_BYTES];
        if entries.len() != NAME_ENTRIES || entries.iter().any(|entry| entry.content != Content::Zero) {
            return None;
        }
        let written = entries.iter().flat_map(|entry| {
            let numbers = entry.start_bytes.to_le_bytes().into_iter().chain(entry.length_bytes.to_le_bytes());
            entry.volume.0.to_le_bytes().into_iter().chain(numbers)
        });
        bytes.iter_mut().zip(written).for_each(|(byte, found)| *byte = found);
        Self::checked(bytes)
    }
}

impl fmt::Display for BookmarkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for BookmarkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// A bookmark that a journal holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bookmark {
    /// Its place in the order of updates: it shows what everything up to this number has made.
    pub number: UpdateNumber,
    /// When it was set, by the primary's clock; nanoseconds since 1970.
    pub time_ns: u64,
    /// What it is called. Nothing keeps two from being called the same.
    pub name: BookmarkName,
}

/// Those that a journal volume holds, in number order.
#[derive(Debug, Default)]
pub(crate) struct Bookmarks(VecDeque<Bookmark>);

impl Bookmarks {
    pub(crate) fn push(&mut self, bookmark: Bookmark) {
        if self.0.len() >= MAX_BOOKMARKS {
            self.0.pop_front();
        }
        self.0.push_back(bookmark);
    }

    pub(crate) fn forget_before(&mut self, number: UpdateNumber) {
        while self.0.pop_front_if(|oldest| oldest.number < number).is_some() {}
    }

    pub(crate) fn forget_from(&mut self, number: UpdateNumber) {
        while self.0.pop_back_if(|newest| newest.number >= number).is_some() {}
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Bookmark> {
        self.0.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_a_record_and_a_terminal_can_carry() {
        for name in ["a", "7", "before-upgrade_2.1", &"x".repeat(MAX_NAME_BYTES)] {
            let name_found = BookmarkName::new(name).unwrap();
            assert_eq!(name_found.as_str(), name);
            assert_eq!(BookmarkName::from_entries(&name_found.to_entries()), Some(name_found));
        }
        for wrong in ["", "-a", ".a", "a b", "ä", "a\0b", "a\n", &"x".repeat(MAX_NAME_BYTES + 1)] {
            assert_eq!(BookmarkName::new(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn entries_that_are_no_name_are_refused() {
        let entries = BookmarkName::new("night").unwrap().to_entries();
        assert_eq!(BookmarkName::from_entries(&entries[..1]), None);
        let with = |change: fn(&mut Extent)| {
            let mut changed = entries.clone();
            changed.iter_mut().for_each(change);
            BookmarkName::from_entries(&changed)
        };
        assert_eq!(with(|entry| entry.content = Content::Data), None);
        assert_eq!(with(|entry| entry.volume = VolumeNumber(0)), None);
        assert_eq!(with(|entry| entry.length_bytes = 1), None, "something behind the end");
    }

    #[test]
    fn only_the_newest_are_listed() {
        let mut bookmarks = Bookmarks::default();
        let name = BookmarkName::new("a").unwrap();
        for number in 1..=300 {
            bookmarks.push(Bookmark { number: UpdateNumber::new(number), time_ns: number, name });
        }
        bookmarks.forget_from(UpdateNumber::new(299));
        bookmarks.forget_before(UpdateNumber::new(290));
        let numbers: Vec<_> = bookmarks.iter().map(|bookmark| bookmark.number.get()).collect();
        assert_eq!(numbers, (290..299).collect::<Vec<_>>());
    }
}
