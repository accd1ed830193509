//! Difference maps: where an S-VOL may differ from its P-VOL while no journal is held for it (promise O1, O2).
//!
//! # What it guarantees
//! Every byte that the S-VOL lacks or has in another state lies in a marked region. More may be marked, never less:
//! * marking begins under the group's lock, in the same critical section that gives numbers; what the reader had not
//!   reported as settled by then is marked from the journal before the hold ends (`suspend.rs`);
//! * a mark becomes durable before the update that caused it leaves the journal: the checkpoint that lets it go
//!   is written after the marks (`settle.rs`), and a restart marks again what it replays;
//! * a mark is taken away when the reader has settled a copy of its region that was made after it, or when the pair is
//!   normal again.
//!
//! # What it costs
//! One bit for each region. A region is 64 KiB or larger, so that a map never has more than [`REGIONS_MAX`] bits: 4 MiB
//! for a volume of 256 TiB, with regions of 8 MiB. Memory and store hold only the parts of a map in which something
//! is marked.
//!
//! How it is proved: the model test below; crash and suspension at random moments in `tests/sim`.

use std::collections::{BTreeMap, BTreeSet};

/// The smallest region.
pub const REGION_BYTES_MIN: u64 = 64 << 10;
/// Regions of one map.
pub const REGIONS_MAX: u64 = 1 << 25;
/// Bytes of one part of a map, as it lies in the control store: 32,768 regions.
pub const PART_BYTES: usize = 4096;
const REGIONS_IN_PART: u64 = PART_BYTES as u64 * 8;

/// A part of a map to be written to the control store; `None`: nothing is marked there any more.
pub type ChangedPart = (u32, Option<Vec<u8>>);

/// The map of one pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DifferenceMap {
    capacity_bytes: u64,
    region_bytes: u64,
    parts: BTreeMap<u32, Box<[u8; PART_BYTES]>>,
    /// Marked regions.
    marked: u64,
    /// Parts that the control store does not have as they are.
    changed: BTreeSet<u32>,
}

impl DifferenceMap {
    /// Nothing is marked.
    #[must_use]
    pub fn new(capacity_bytes: u64) -> Self {
        let mut region_bytes = REGION_BYTES_MIN;
        while capacity_bytes.div_ceil(region_bytes) > REGIONS_MAX {
            region_bytes *= 2;
        }
        Self { capacity_bytes, region_bytes, parts: BTreeMap::new(), marked: 0, changed: BTreeSet::new() }
    }

    /// The map as the control store has it; parts that no map has are refused. What is marked behind the end of the volume is
    /// nobody's: it was to grow, and that was called back.
    ///
    /// # Errors
    /// The number of the part that has the wrong size or place: the store is damaged.
    pub fn load(capacity_bytes: u64, parts: impl IntoIterator<Item = (u32, Vec<u8>)>) -> Result<Self, u32> {
        let mut map = Self::new(capacity_bytes);
        let regions = capacity_bytes.div_ceil(map.region_bytes);
        for (number, bytes) in parts {
            let mut bytes: Box<[u8; PART_BYTES]> = bytes.into_boxed_slice().try_into().map_err(|_| number)?;
            let first = u64::from(number) * REGIONS_IN_PART;
            if first >= REGIONS_MAX {
                return Err(number);
            }
            let own = usize::try_from(regions.saturating_sub(first).min(REGIONS_IN_PART)).unwrap_or(0);
            if set_bits(bytes.as_mut_slice(), own..PART_BYTES * 8, false) > 0 {
                map.changed.insert(number);
            }
            if own == 0 {
                continue;
            }
            map.marked += bytes.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>();
            map.parts.insert(number, bytes);
        }
        Ok(map)
    }

    /// How many bytes one mark stands for.
    #[must_use]
    pub fn region_bytes(&self) -> u64 {
        self.region_bytes
    }

    /// The volume is larger now; what is new is not marked. False, and nothing changes, if a mark would stand for more
    /// bytes than before: what the control store has would mean something else.
    #[must_use]
    pub fn grow(&mut self, capacity_bytes: u64) -> bool {
        let is_same = Self::new(capacity_bytes).region_bytes == self.region_bytes;
        if is_same {
            self.capacity_bytes = self.capacity_bytes.max(capacity_bytes);
        }
        is_same
    }

    /// Whether nothing is marked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.marked == 0
    }

    /// How many bytes a copy of everything marked would carry.
    #[must_use]
    pub fn marked_bytes(&self) -> u64 {
        (self.marked * self.region_bytes).min(self.capacity_bytes)
    }

    /// How many bytes the pieces of `piece_bytes` have in which anything is marked; a piece holds whole regions or is
    /// smaller than one.
    #[must_use]
    pub fn touched_bytes(&self, piece_bytes: u64) -> u64 {
        let (mut sum, mut from) = (0, 0);
        while let Some((start, length)) = self.next_run(from, u64::MAX) {
            let first = (start / piece_bytes * piece_bytes).max(from);
            let past = (start + length).next_multiple_of(piece_bytes).min(self.capacity_bytes);
            sum += past - first;
            from = past;
        }
        sum
    }

    /// Marks every region that the range touches; what lies past the end of the volume is nobody's.
    pub fn mark(&mut self, start_bytes: u64, length_bytes: u64) {
        let end = start_bytes.saturating_add(length_bytes).min(self.capacity_bytes);
        if start_bytes < end {
            self.set(start_bytes / self.region_bytes, end.div_ceil(self.region_bytes), true);
        }
    }

    /// Marks whatever the other map has marked.
    pub fn join(&mut self, other: &Self) {
        let mut from = 0;
        while let Some((start, length)) = other.next_run(from, u64::MAX) {
            self.mark(start, length);
            from = start + length;
        }
    }

    /// Whether every region that the range touches is marked; what lies past the end of the volume is nobody's.
    #[must_use]
    pub fn is_marked(&self, start_bytes: u64, length_bytes: u64) -> bool {
        let end = start_bytes.saturating_add(length_bytes).min(self.capacity_bytes);
        let first = start_bytes / self.region_bytes;
        start_bytes >= end
            || self.next_region(first, false).is_none_or(|unmarked| unmarked * self.region_bytes >= end)
    }

    /// Takes up parts as they were given to be written.
    pub fn adopt(&mut self, parts: &[ChangedPart]) {
        for (number, bytes) in parts {
            let bytes = bytes.as_ref().and_then(|bytes| <[u8; PART_BYTES]>::try_from(bytes.as_slice()).ok());
            let ones =
                |part: &[u8; PART_BYTES]| part.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>();
            let (before, after) =
                (self.parts.get(number).map_or(0, |part| ones(part)), bytes.as_ref().map_or(0, ones));
            self.marked = self.marked - before + after;
            match bytes {
                Some(bytes) => drop(self.parts.insert(*number, Box::new(bytes))),
                None => drop(self.parts.remove(number)),
            }
        }
    }

    /// All that is marked, as ranges of bytes; beyond `most` of them the last one reaches to the end of the volume.
    #[must_use]
    pub fn runs(&self, most: usize) -> Vec<(u64, u64)> {
        let (mut runs, mut from) = (Vec::new(), 0);
        while let Some((start, length)) = self.next_run(from, u64::MAX) {
            if runs.len() + 1 == most {
                runs.push((start, self.capacity_bytes - start));
                break;
            }
            runs.push((start, length));
            from = start + length;
        }
        runs
    }

    /// Takes the marks off the regions that lie in the range as a whole.
    pub fn clear(&mut self, start_bytes: u64, length_bytes: u64) {
        let end = start_bytes.saturating_add(length_bytes).min(self.capacity_bytes);
        let first = start_bytes.div_ceil(self.region_bytes);
        let past = if end == self.capacity_bytes {
            end.div_ceil(self.region_bytes)
        } else {
            end / self.region_bytes
        };
        if first < past {
            self.set(first, past, false);
        }
    }

    /// The first run of marked bytes at or behind `from`: at most `longest` bytes, but at least to the end of a region.
    #[must_use]
    pub fn next_run(&self, from: u64, longest: u64) -> Option<(u64, u64)> {
        let first = self.next_region(from / self.region_bytes, true)?;
        let most = (longest / self.region_bytes).max(1);
        let past = self.next_region(first, false).unwrap_or(u64::MAX).min(first.saturating_add(most));
        let start = from.max(first * self.region_bytes);
        let end = past.saturating_mul(self.region_bytes).min(self.capacity_bytes);
        (start < end).then_some((start, end - start))
    }

    /// Size of the volume.
    #[must_use]
    pub fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    /// Whether something has changed since [`take_changed`](Self::take_changed) was called last.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// What changed since it was asked for last, to be written to the control store.
    pub fn take_changed(&mut self) -> Vec<ChangedPart> {
        let changed = std::mem::take(&mut self.changed);
        changed
            .into_iter()
            .map(|number| {
                let part = self.parts.get(&number).filter(|part| part.iter().any(|byte| *byte != 0));
                let bytes = part.map(|part| part.to_vec());
                if bytes.is_none() {
                    self.parts.remove(&number);
                }
                (number, bytes)
            })
            .collect()
    }

    /// What was taken could not be written: it is still to be written.
    pub fn not_written(&mut self, parts: &[ChangedPart]) {
        self.changed.extend(parts.iter().map(|(number, _)| *number));
    }

    fn set(&mut self, first: u64, past: u64, value: bool) {
        let mut region = first;
        while region < past {
            let number = u32::try_from(region / REGIONS_IN_PART).unwrap_or(u32::MAX);
            let part_first = u64::from(number) * REGIONS_IN_PART;
            let part_past = (part_first + REGIONS_IN_PART).min(past);
            if !value && !self.parts.contains_key(&number) {
                region = part_past;
                continue;
            }
            let part = self.parts.entry(number).or_insert_with(|| Box::new([0; PART_BYTES]));
            let in_part = |region: u64| usize::try_from(region - part_first).unwrap_or(0);
            let different = set_bits(part.as_mut_slice(), in_part(region)..in_part(part_past), value);
            if different > 0 {
                self.changed.insert(number);
            }
            self.marked = if value { self.marked + different } else { self.marked.saturating_sub(different) };
            region = part_past;
        }
    }

    /// The first region at or behind `from` that is marked, or is not.
    fn next_region(&self, from: u64, marked: bool) -> Option<u64> {
        let regions = self.capacity_bytes.div_ceil(self.region_bytes);
        let mut region = from;
        while region < regions {
            let number = u32::try_from(region / REGIONS_IN_PART).unwrap_or(u32::MAX);
            let part_first = u64::from(number) * REGIONS_IN_PART;
            let Some(part) = self.parts.get(&number) else {
                if !marked {
                    return Some(region);
                }
                let (next, _) = self.parts.range(number..).next()?;
                region = u64::from(*next) * REGIONS_IN_PART;
                continue;
            };
            let from_bit = usize::try_from(region - part_first).unwrap_or(0);
            if let Some(bit) = find_bit(part.as_slice(), from_bit, marked) {
                let found = part_first + bit as u64;
                return (found < regions).then_some(found);
            }
            region = part_first + REGIONS_IN_PART;
        }
        None
    }
}

/// Sets or clears bits; how many were different before.
fn set_bits(bytes: &mut [u8], range: std::ops::Range<usize>, value: bool) -> u64 {
    let mut different = 0;
    let mut bit = range.start;
    while bit < range.end {
        let (index, offset) = (bit / 8, bit % 8);
        let count = (8 - offset).min(range.end - bit);
        let mask = u8::try_from(((1_u16 << count) - 1) << offset).unwrap_or(u8::MAX);
        let before = bytes[index];
        bytes[index] = if value { before | mask } else { before & !mask };
        different += u64::from((bytes[index] ^ before).count_ones());
        bit += count;
    }
    different
}

/// The first bit at or behind `from` that has this value.
fn find_bit(bytes: &[u8], from: usize, value: bool) -> Option<usize> {
    let flip = if value { 0 } else { u8::MAX };
    let mut index = from / 8;
    let mut byte = (bytes.get(index)? ^ flip) & (u8::MAX << (from % 8));
    loop {
        if byte != 0 {
            return Some(index * 8 + byte.trailing_zeros() as usize);
        }
        index += 1;
        byte = bytes.get(index)? ^ flip;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_volume_of_256_tib_needs_4_mib() {
        let mut map = DifferenceMap::new(256 << 40);
        assert_eq!(map.region_bytes(), 8 << 20);
        map.mark(0, u64::MAX);
        assert_eq!(map.parts.len() * PART_BYTES, 4 << 20);
        assert_eq!(map.marked_bytes(), 256 << 40);
        assert_eq!(DifferenceMap::new(1 << 40).region_bytes(), REGION_BYTES_MIN);
    }

    #[test]
    fn a_map_joins_what_another_one_has_marked() {
        let (mut map, mut other) = (DifferenceMap::new(1 << 30), DifferenceMap::new(1 << 30));
        map.mark(0, 1);
        other.mark(5 << 20, 1 << 20);
        other.mark((1 << 30) - 1, 1);
        map.join(&other);
        assert_eq!(map.runs(9), [(0, 64 << 10), (5 << 20, 1 << 20), ((1 << 30) - (64 << 10), 64 << 10)]);
    }

    #[test]
    fn a_map_is_read_back_and_parts_of_another_one_are_refused() {
        let mut map = DifferenceMap::new(10 << 30);
        map.mark(5, 1);
        map.mark(3 << 30, 1 << 20);
        let parts = map.take_changed();
        assert_eq!(parts.len(), 2);
        let stored = parts.iter().map(|(number, bytes)| (*number, bytes.clone().unwrap()));
        assert_eq!(DifferenceMap::load(10 << 30, stored), Ok(map.clone()));
        assert_eq!(DifferenceMap::load(10 << 30, [(1_024, vec![0; PART_BYTES])]), Err(1_024));
        assert_eq!(DifferenceMap::load(10 << 30, [(0, vec![0; 7])]), Err(0));
        assert_eq!(map.take_changed(), []);
        map.clear(0, 1 << 30);
        assert_eq!(map.take_changed(), [(0, None)]);
        map.not_written(&parts);
        assert_eq!(map.take_changed().len(), 2);
    }

    /// A growth that was called back leaves marks in the store that are nobody's: the group could not be opened with them.
    #[test]
    fn what_was_marked_behind_the_end_of_a_volume_is_not_read_back() {
        let mut grown = DifferenceMap::new(10 << 30);
        grown.mark(0, 1);
        grown.mark((3 << 30) - REGION_BYTES_MIN, 7 << 30);
        let stored = grown.take_changed();
        let parts = || stored.iter().filter_map(|(number, bytes)| Some((*number, bytes.clone()?)));
        let map = DifferenceMap::load(3 << 30, parts()).unwrap();
        assert_eq!(map.marked_bytes(), 2 * REGION_BYTES_MIN);
        assert_eq!(map.runs(9), [(0, REGION_BYTES_MIN), ((3 << 30) - REGION_BYTES_MIN, REGION_BYTES_MIN)]);
        let mut map = DifferenceMap::load(1 << 30, parts()).unwrap();
        map.clear(0, 1 << 30);
        assert!(map.is_empty());
    }

    #[test]
    fn ranges_and_parts_say_what_a_map_says() {
        let mut map = DifferenceMap::new(10 << 30);
        for at in [0, 5 << 20, (5 << 20) + REGION_BYTES_MIN, 9 << 30] {
            map.mark(at, 1);
        }
        let all = [(0, REGION_BYTES_MIN), (5 << 20, 2 * REGION_BYTES_MIN), (9 << 30, REGION_BYTES_MIN)];
        assert_eq!(map.runs(9), all);
        assert_eq!(map.runs(2), [all[0], (5 << 20, (10 << 30) - (5 << 20))], "more, never less");
        assert!(
            map.is_marked(5 << 20, 2 * REGION_BYTES_MIN) && !map.is_marked(5 << 20, 3 * REGION_BYTES_MIN)
        );
        assert!(map.is_marked(10 << 30, 5) && !map.is_marked((10 << 30) - 1, 5));
        let mut other = DifferenceMap::new(10 << 30);
        other.mark(1 << 30, 1);
        other.adopt(&map.take_changed());
        assert!(
            other.is_marked(9 << 30, 1) && !other.is_marked(1 << 30, 1),
            "the first part is another one now"
        );
        assert_eq!(other.marked, map.marked);
    }

    #[test]
    fn what_is_marked_counts_in_whole_pieces() {
        const MIB: u64 = 1 << 20;
        let mut map = DifferenceMap::new(10 * MIB + 4096);
        assert_eq!(map.touched_bytes(MIB), 0);
        map.mark(MIB + 5, 1);
        map.mark(2 * MIB - 1, 2);
        map.mark(10 * MIB + 4095, 1);
        assert_eq!(map.touched_bytes(MIB), 2 * MIB + 4096);
        let mut coarse = DifferenceMap::new(256 << 40);
        coarse.mark(9 << 20, 1);
        assert_eq!(coarse.touched_bytes(MIB), 8 << 20);
    }

    #[test]
    fn only_regions_that_were_copied_as_a_whole_lose_their_mark() {
        let mut map = DifferenceMap::new(REGION_BYTES_MIN * 4 + 5);
        map.mark(0, u64::MAX);
        map.clear(1, REGION_BYTES_MIN * 2);
        assert_eq!(map.next_run(0, u64::MAX), Some((0, REGION_BYTES_MIN)));
        assert_eq!(map.next_run(1, REGION_BYTES_MIN), Some((1, REGION_BYTES_MIN - 1)));
        let second = 2 * REGION_BYTES_MIN;
        assert_eq!(map.next_run(REGION_BYTES_MIN, REGION_BYTES_MIN), Some((second, REGION_BYTES_MIN)));
        assert_eq!(map.next_run(REGION_BYTES_MIN, u64::MAX), Some((second, second + 5)));
        map.clear(second, second + 5);
        assert_eq!(map.next_run(REGION_BYTES_MIN, u64::MAX), None);
        assert_eq!(map.next_run(second * 2 + 5, u64::MAX), None);
    }

    proptest! {
        #[test]
        fn every_byte_of_a_range_that_was_marked_and_not_copied_since_is_in_a_run(
            steps in prop::collection::vec((any::<bool>(), 0_u64..70_000, 1_u64..9_000), 1..60),
        ) {
            const PLACE: u64 = 10_000; // Steps are in units of this many bytes.
            let capacity = 70_000 * PLACE;
            let mut map = DifferenceMap::new(capacity);
            let region = map.region_bytes();
            let mut model = vec![false; usize::try_from(capacity.div_ceil(region)).unwrap()];
            for (mark, start, length) in steps {
                let (start, length) = (start * PLACE, length * PLACE);
                let end = (start + length).min(capacity);
                if mark {
                    map.mark(start, length);
                } else {
                    map.clear(start, length);
                }
                for (index, marked) in model.iter_mut().enumerate() {
                    let (from, to) = (index as u64 * region, ((index as u64 + 1) * region).min(capacity));
                    let touched = if mark { start < to && from < end } else { start <= from && to <= end };
                    if touched {
                        *marked = mark;
                    }
                }
            }
            let mut found = vec![false; model.len()];
            let mut from = 0;
            while let Some((start, length)) = map.next_run(from, 5 * region) {
                prop_assert!(start >= from && length <= 5 * region);
                for slot in &mut found[usize::try_from(start / region).unwrap()..usize::try_from((start + length).div_ceil(region)).unwrap()] {
                    *slot = true;
                }
                from = start + length;
            }
            prop_assert_eq!(map.marked, model.iter().filter(|marked| **marked).count() as u64);
            prop_assert_eq!(found, model);
        }
    }
}
