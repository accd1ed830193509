//! The parameter list of FORWARDED WRITE: one change, as it travels to the primary.
//!
//! ```text
//!  0  4  "HFW2"
//!  4  4  parts, at most 256
//!  8  4  checksum of the write data: CRC-64/NVME, both halves folded
//! 12  4  zero
//! 16  8  when the command was created, ns since 1970; zero: that is not said
//! 24 24  a part: 8 first byte, 8 length, 4 content (0 data, 1 zeros, 2 pattern), 4 bytes of the pattern; else zero
//!  …     zeros to the end of a page
//! ```
//! Then the pages of each part with data in turn, its first byte at its place in the page, the rest of the pages zero; and
//! for a pattern one page that repeats it. Numbers are big-endian. So what arrives lies in pages as the cache wants it.

use crate::channel::piece::{Piece, Pieces};
use crate::copy::change::{Change, Content, Part, pages_touched, within_page};
use crate::disk::slot::{SLOT_BYTES, Slot, bytes_of};
use holdfast_journal::{MAX_EXTENTS, MAX_PATTERN_BYTES};

/// The list for a change with this checksum.
pub(crate) fn encode(change: &Change, checksum: u32) -> Pieces {
    let mut head = Vec::with_capacity(HEAD_BYTES + PART_BYTES * change.parts.len());
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&u32::try_from(change.parts.len()).unwrap_or(u32::MAX).to_be_bytes());
    head.extend_from_slice(&checksum.to_be_bytes());
    head.extend_from_slice(&[0; 4]);
    head.extend_from_slice(&change.created_ns.unwrap_or(0).to_be_bytes());
    for part in &change.parts {
        let (content, pattern) = match part.content {
            Content::Data(_) => (0_u32, 0),
            Content::Zero => (1, 0),
            Content::Pattern { bytes, .. } => (2, bytes),
        };
        head.extend_from_slice(&part.offset_bytes.to_be_bytes());
        head.extend_from_slice(&part.length_bytes.to_be_bytes());
        head.extend_from_slice(&content.to_be_bytes());
        head.extend_from_slice(&pattern.to_be_bytes());
    }
    let padding = padding(head.len());
    let mut pieces = Pieces::from(head);
    put_zeros(&mut pieces, padding);
    for part in &change.parts {
        match &part.content {
            Content::Data(slots) => put_data(&mut pieces, part, slots),
            Content::Pattern { slot, .. } => pieces.push(Piece::page(slot.clone())),
            Content::Zero => {}
        }
    }
    pieces
}

fn put_data(pieces: &mut Pieces, part: &Part, slots: &[Slot]) {
    // What lies around the bytes in their pages is nobody's business.
    let (mut at, mut left) = (within_page(part.offset_bytes), part.length_bytes);
    put_zeros(pieces, at.into());
    for slot in slots {
        let room = u64::from(PAGE - at);
        let bytes = u16::try_from(left.min(room)).unwrap_or(PAGE);
        pieces.push(Piece::Slot { slot: slot.clone(), at, bytes });
        left -= u64::from(bytes);
        at = 0;
    }
    let end = usize::from(within_page(part.offset_bytes + part.length_bytes));
    put_zeros(pieces, padding(end));
}

fn put_zeros(pieces: &mut Pieces, bytes: u32) {
    if bytes > 0 {
        pieces.push(Piece::Zero(bytes));
    }
}

/// The change and the checksum of its data, from what a peer sent; `volume` is where it goes.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn decode(volume: Target, pages: &[Slot], bytes: usize) -> Result<(Change, u32), &'static str> {
    if bytes != pages.len() * SLOT_BYTES {
        return Err("it does not end with a page");
    }
    let head = Head::new(pages)?;
    let mut at = head.pages;
    let mut parts = Vec::with_capacity(head.parts);
    for index in 0..head.parts {
        let (part, used) = head.part(index, volume, pages.get(at..).unwrap_or_default())?;
        at += used;
        parts.push(part);
    }
    if at != pages.len() {
        return Err("it has pages that belong to no part");
    }
    check_order(&parts)?;
    let created_ns = Some(head.created_ns).filter(|created| *created > 0);
    Ok((Change { created_ns, ..Change::new(volume.number, parts) }, head.checksum))
}

/// The volume that a change is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// Its number.
    pub(crate) number: u32,
    /// Logical block size.
    pub(crate) block_bytes: u32,
    /// Capacity.
    pub(crate) capacity_bytes: u64,
}

struct Head {
    bytes: Vec<u8>,
    parts: usize,
    pages: usize,
    checksum: u32,
    created_ns: u64,
}

impl Head {
    fn new(pages: &[Slot]) -> Result<Self, &'static str> {
        let first = pages.first().ok_or("it is empty")?;
        let (magic, rest) = first.split_at(4);
        let word = |at: usize| u32::from_be_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
        let parts = usize::try_from(word(0)).unwrap_or(usize::MAX);
        if magic != MAGIC || word(8) != 0 {
            return Err("it does not begin as a forwarded write");
        }
        if !(1..=MAX_EXTENTS).contains(&parts) {
            return Err("it has no parts or too many");
        }
        let count = (HEAD_BYTES + parts * PART_BYTES).div_ceil(SLOT_BYTES);
        let head = pages.get(..count).ok_or("it is cut short")?;
        let created_ns = u64::from(word(12)) << 32 | u64::from(word(16));
        let bytes = bytes_of(head);
        Ok(Self { bytes, parts, pages: count, checksum: word(4), created_ns })
    }

    /// One part, with its data from the first of the pages that are left, and how many of them it takes.
    fn part(&self, index: usize, volume: Target, pages: &[Slot]) -> Result<(Part, usize), &'static str> {
        let bytes = &self.bytes[HEAD_BYTES + index * PART_BYTES..][..PART_BYTES];
        let long = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
        let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap_or_default());
        let (offset_bytes, length_bytes, content, pattern) = (long(0), long(8), word(16), word(20));
        let block = u64::from(volume.block_bytes);
        let end = offset_bytes.checked_add(length_bytes).ok_or("a part lies nowhere")?;
        let is_aligned = offset_bytes.is_multiple_of(block) && length_bytes.is_multiple_of(block);
        if length_bytes == 0 || end > volume.capacity_bytes || !is_aligned {
            return Err("a part does not lie in the volume");
        }
        let (content, used) = match content {
            0 => {
                let used = pages_touched(offset_bytes, length_bytes);
                let slots = pages.get(..used).ok_or("it has less data than its parts need")?;
                (Content::Data(slots.to_vec()), used)
            }
            1 => (Content::Zero, 0),
            2 => {
                let slot = pages.first().ok_or("it has less data than its parts need")?.clone();
                check_pattern(&slot, pattern, offset_bytes, length_bytes, self.parts)?;
                (Content::Pattern { slot, bytes: pattern }, 1)
            }
            _ => return Err("a part has an unknown content"),
        };
        if pattern != 0 && !matches!(content, Content::Pattern { .. }) {
            return Err("a part without a pattern names one");
        }
        Ok((Part { offset_bytes, length_bytes, content }, used))
    }
}

/// A page that claims to repeat a pattern does, over the whole part.
fn check_pattern(
    slot: &Slot,
    bytes: u32,
    offset: u64,
    length: u64,
    parts: usize,
) -> Result<(), &'static str> {
    let count = usize::try_from(bytes).unwrap_or(usize::MAX);
    let fits = (1..=MAX_PATTERN_BYTES).contains(&bytes)
        && SLOT_BYTES.is_multiple_of(count)
        && offset.is_multiple_of(bytes.into())
        && length.is_multiple_of(bytes.into());
    if !fits || parts != 1 || slot.chunks(count).any(|chunk| chunk != &slot[..count]) {
        return Err("a pattern does not repeat");
    }
    Ok(())
}

/// Parts with data meet at pages, as a journal record wants them.
fn check_order(parts: &[Part]) -> Result<(), &'static str> {
    let data: Vec<&Part> = parts.iter().filter(|part| matches!(part.content, Content::Data(_))).collect();
    let meets = |pair: &[&Part]| {
        within_page(pair[0].offset_bytes + pair[0].length_bytes) == 0
            && within_page(pair[1].offset_bytes) == 0
    };
    if !data.windows(2).all(meets) {
        return Err("parts with data do not meet at pages");
    }
    Ok(())
}

fn padding(bytes: usize) -> u32 {
    u32::try_from(bytes.next_multiple_of(SLOT_BYTES) - bytes).unwrap_or(0)
}

const MAGIC: &[u8; 4] = b"HFW2";
const HEAD_BYTES: usize = 24;
const PART_BYTES: usize = 24;
const PAGE: u16 = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::piece::{Received, Room};
    use crate::disk::slot::{Class, SlotMut, SlotPool};
    use proptest::prelude::*;

    const VOLUME: Target = Target { number: 7, block_bytes: 512, capacity_bytes: 64 << 20 };

    fn pages(pool: &SlotPool, count: usize, filling: u8) -> Vec<Slot> {
        let mut slots = pool.try_take(Class::Host, count).unwrap();
        for (index, slot) in slots.iter_mut().enumerate() {
            slot.fill(filling.wrapping_add(u8::try_from(index % 7).unwrap()));
        }
        slots.into_iter().map(SlotMut::freeze).collect()
    }

    /// What the other side has after the list went over the wire.
    fn received(pool: &SlotPool, bytes: &[u8]) -> (Vec<Slot>, usize) {
        let slots = pool.try_take(Class::Host, bytes.len().div_ceil(SLOT_BYTES)).unwrap();
        let mut room = Room::Slots { slots, first_offset: 0 };
        room.put_for_tests(bytes);
        match Received::seal_for_tests(room, bytes.len()) {
            Received::Slots { slots, bytes } => (slots, bytes),
            Received::Bytes(_) => unreachable!("it was received into pages"),
        }
    }

    fn same(a: &Change, b: &Change) -> bool {
        let payload = |change: &Change| {
            let payload = change.payload();
            let flat: Vec<u8> = payload.slots.iter().flat_map(|slot| slot[..].to_vec()).collect();
            flat[usize::from(payload.skip)..][..payload.bytes as usize].to_vec()
        };
        a.extents() == b.extents() && a.created_ns == b.created_ns && payload(a) == payload(b)
    }

    proptest! {
        #[test]
        fn a_change_arrives_as_it_was(
            blocks in prop::collection::vec((0_u64..4000, 1_u64..40, 0..3), 1..6), filling: u8, lead in 0_u64..8,
            created: u64,
        ) {
            let pool = SlotPool::new(16 << 20);
            let data = blocks.iter().filter(|(_, _, kind)| *kind == 0).count();
            let parts: Vec<Part> = blocks.iter().map(|(at, length, kind)| {
                if *kind == 0 {
                    // One part lies anywhere, several meet at pages.
                    let (unit, lead) = if data == 1 { (512, lead * 512) } else { (4096, 0) };
                    let (offset, length) = (at * 4096 + lead, length * unit);
                    Part::data(offset, length, pages(&pool, pages_touched(offset, length), filling))
                } else {
                    Part::zero(at * 512, length * 512)
                }
            }).collect();
            let created_ns = Some(created).filter(|created| *created > 0);
            let change = Change { created_ns, ..Change::new(7, parts) };
            let list = encode(&change, change.payload().checksum()).to_vec();
            let (slots, bytes) = received(&pool, &list);
            let (decoded, checksum) = decode(VOLUME, &slots, bytes).unwrap();
            prop_assert!(same(&change, &decoded));
            prop_assert_eq!(checksum, decoded.payload().checksum());
        }

        #[test]
        fn nothing_that_a_peer_sends_panics(mut noise in prop::collection::vec(any::<u8>(), 4096..=8192), parts in 0_u32..300) {
            noise[..4].copy_from_slice(MAGIC);
            noise[4..8].copy_from_slice(&parts.to_be_bytes());
            noise[12..16].fill(0);
            let pool = SlotPool::new(1 << 20);
            let (slots, bytes) = received(&pool, &noise);
            let _ = decode(VOLUME, &slots, bytes);
        }
    }

    #[test]
    fn a_pattern_arrives_and_one_that_does_not_repeat_is_refused() {
        let pool = SlotPool::new(1 << 20);
        let slot = pages(&pool, 1, 3).remove(0);
        let content = Content::Pattern { slot, bytes: 512 };
        let change = Change::new(7, vec![Part { offset_bytes: 512, length_bytes: 5120, content }]);
        let mut list = encode(&change, change.payload().checksum()).to_vec();
        let (slots, bytes) = received(&pool, &list);
        assert!(same(&change, &decode(VOLUME, &slots, bytes).unwrap().0));
        *list.last_mut().unwrap() ^= 1;
        let (slots, bytes) = received(&pool, &list);
        assert_eq!(decode(VOLUME, &slots, bytes).unwrap_err(), "a pattern does not repeat");
    }

    #[test]
    fn what_lies_outside_of_the_volume_or_is_cut_short_is_refused() {
        let pool = SlotPool::new(1 << 20);
        let part =
            |offset, length| Part::data(offset, length, pages(&pool, pages_touched(offset, length), 1));
        let refused = |change: &Change, cut: usize| {
            let list = encode(change, 0).to_vec();
            let (slots, bytes) = received(&pool, &list[..list.len() - cut]);
            decode(VOLUME, &slots, bytes).unwrap_err()
        };
        let outside = "a part does not lie in the volume";
        assert_eq!(refused(&Change::new(7, vec![part((64 << 20) - 512, 1024)]), 0), outside);
        assert_eq!(refused(&Change::new(7, vec![part(100, 512)]), 0), outside);
        assert_eq!(
            refused(&Change::new(7, vec![Part::zero(u64::MAX - 511, 1024)]), 0),
            "a part lies nowhere"
        );
        let whole = Change::new(7, vec![part(0, 8192)]);
        assert_eq!(refused(&whole, 4096), "it has less data than its parts need");
        assert_eq!(refused(&whole, 1), "it does not end with a page");
    }
}
