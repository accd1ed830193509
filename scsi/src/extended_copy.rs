//! EXTENDED COPY(LID1) and what is asked about it afterwards (SPC-4, 6.4, 6.20 to 6.23): copies between volumes without their data
//! travelling through the host.
//!
//! One kind of segment exists, block device to block device (02h), and one kind of target descriptor, the identification descriptor
//! (E4h): what Linux and VMware use.
//!
//! ```text
//! parameter list               target descriptor (32 bytes)           segment descriptor (28 bytes)
//!  0    list identifier         0    E4h                               0    02h
//!  1    LIST ID USAGE           4    code set                          1    DC
//!  2-3  bytes of targets        5    association, designator type      2-3  0018h
//!  8-11 bytes of segments       7    length of the designator          4-5  source   6-7  destination
//! 12-15 bytes of inline data    8-27 designator                       10-11 number of blocks
//! 16-   targets, segments      28    PAD   29-31 block length         12-19 source  20-27 destination block
//! ```
//!
//! What SPC-3 had in byte 1 of a target descriptor (LU ID TYPE, NUL) means nothing since SPC-4 and is not looked at.

use alloc::vec::Vec;

use crate::block::Lba;
use crate::identity::Identity;
use crate::sense::Sense;
use crate::status::Response;
use crate::wire::{put, u8_at, u16_at, u32_at, u64_at};

/// The most volumes that one EXTENDED COPY may name; more end with TOO MANY TARGET DESCRIPTORS.
pub const MAX_COPY_TARGETS: u16 = 8;
/// The most segments of one EXTENDED COPY; more end with TOO MANY SEGMENT DESCRIPTORS.
pub const MAX_COPY_SEGMENTS: u16 = 16;
/// The most bytes that one segment may copy; a longer one ends with INVALID FIELD IN PARAMETER LIST. What VMware asks for at most. It
/// bounds, with the number of segments, how long one command copies.
pub const MAX_COPY_SEGMENT_BYTES: u32 = 16 << 20;
/// The longest parameter list; a longer one ends with PARAMETER LIST LENGTH ERROR.
pub const MAX_COPY_LIST_BYTES: u32 = 16 + MAX_DESCRIPTOR_BYTES;

/// A volume as a copy names it: by a designator of its device identification page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyTarget {
    code_set: u8,
    kind: u8,
    length: u8,
    designator: [u8; MAX_DESIGNATOR_BYTES],
    block_bytes: u32,
}

/// One stretch of a copy. The number of blocks counts blocks of the destination if `counts_destination`, else of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopySegment {
    /// Which of [`CopyList::targets`] is read.
    pub source: u16,
    /// Which of them is written.
    pub destination: u16,
    /// How many blocks.
    pub blocks: u16,
    /// The DC bit.
    pub counts_destination: bool,
    /// First block read.
    pub source_start: Lba,
    /// First block written.
    pub destination_start: Lba,
}

/// What one EXTENDED COPY is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyList {
    /// By which the outcome is asked for; `None` if the initiator will not.
    pub identifier: Option<u8>,
    /// The volumes it names. Whether they are there has to be found out in the nexus' own map.
    pub targets: Vec<CopyTarget>,
    /// What to copy, in order.
    pub segments: Vec<CopySegment>,
}

/// How a copy ended, as COPY STATUS and FAILED SEGMENT DETAILS tell it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CopyOutcome {
    /// Segments that were copied whole.
    pub segments: u16,
    /// Bytes that were copied.
    pub bytes: u64,
    /// The sense data with which it ended, encoded; empty if it ended well.
    pub sense: Vec<u8>,
}

impl CopyTarget {
    /// Whether the descriptor means this unit, which has blocks of so many bytes.
    #[must_use]
    pub fn means(&self, identity: &Identity, block_bytes: u32) -> bool {
        let named = match (self.code_set, self.kind) {
            (BINARY, NAA) => self.designator() == identity.naa.to_bytes(),
            _ => false,
        };
        // A block length of zero is left to the unit.
        named && (self.block_bytes == 0 || self.block_bytes == block_bytes)
    }

    fn designator(&self) -> &[u8] {
        self.designator.get(..usize::from(self.length)).unwrap_or(&[])
    }

    fn parse(bytes: &[u8], at: u16) -> Result<Self, Sense> {
        if u8_at(bytes, 0) != IDENTIFICATION_DESCRIPTOR {
            return Err(Sense::TARGET_DESCRIPTOR_TYPE);
        }
        let length = u8_at(bytes, 7);
        if usize::from(length) > MAX_DESIGNATOR_BYTES {
            return Err(Sense::invalid_field_in_parameters(at + 7));
        }
        let mut designator = [0; MAX_DESIGNATOR_BYTES];
        put(&mut designator, 0, bytes.get(8..28).unwrap_or(&[]));
        Ok(Self {
            code_set: u8_at(bytes, 4) & 0x0F,
            // Association and type together: only what names the unit itself is of use.
            kind: u8_at(bytes, 5) & 0x3F,
            length,
            designator,
            block_bytes: u32_at(bytes, 28) & 0x00FF_FFFF,
        })
    }
}

impl CopySegment {
    fn parse(bytes: &[u8], at: u16) -> Result<Self, Sense> {
        if u8_at(bytes, 0) != BLOCK_TO_BLOCK {
            return Err(Sense::SEGMENT_DESCRIPTOR_TYPE);
        }
        if u16_at(bytes, 2) != SEGMENT_LENGTH {
            return Err(Sense::invalid_field_in_parameters(at + 2));
        }
        if bytes.len() < SEGMENT_BYTES {
            return Err(Sense::PARAMETER_LIST_LENGTH);
        }
        Ok(Self {
            source: u16_at(bytes, 4),
            destination: u16_at(bytes, 6),
            blocks: u16_at(bytes, 10),
            counts_destination: u8_at(bytes, 1) & DC != 0,
            source_start: Lba(u64_at(bytes, 12)),
            destination_start: Lba(u64_at(bytes, 20)),
        })
    }
}

impl CopyList {
    /// Reads a parameter list. `None`: an empty one, which copies nothing and is no error.
    ///
    /// # Errors
    /// The sense of the CHECK CONDITION that ends the command; nothing is to be copied then.
    pub fn parse(list: &[u8]) -> Result<Option<Self>, Sense> {
        if list.is_empty() {
            return Ok(None);
        }
        let body = list.get(HEADER_BYTES..).ok_or(Sense::PARAMETER_LIST_LENGTH)?;
        let target_bytes = usize::from(u16_at(list, 2));
        let segment_bytes = usize::try_from(u32_at(list, 8)).unwrap_or(usize::MAX);
        let both = target_bytes.checked_add(segment_bytes).ok_or(Sense::PARAMETER_LIST_LENGTH)?;
        if both > body.len() || u32::try_from(both).map_or(true, |both| both > MAX_DESCRIPTOR_BYTES) {
            return Err(Sense::PARAMETER_LIST_LENGTH);
        }
        if u32_at(list, 12) != 0 {
            return Err(Sense::INLINE_DATA_LENGTH);
        }
        let identifier = match (u8_at(list, 1) >> 3) & 0x03 {
            HOLD_RESULTS => Some(u8_at(list, 0)),
            RESULTS_NOT_HELD | NO_IDENTIFIER => None,
            _ => return Err(Sense::invalid_field_in_parameters(1)),
        };
        let (targets, rest) = body.split_at_checked(target_bytes).ok_or(Sense::PARAMETER_LIST_LENGTH)?;
        let segments = rest.get(..segment_bytes).ok_or(Sense::PARAMETER_LIST_LENGTH)?;
        Ok(Some(Self {
            identifier,
            targets: parse_targets(targets)?,
            segments: parse_segments(segments, target_bytes)?,
        }))
    }
}

fn parse_targets(bytes: &[u8]) -> Result<Vec<CopyTarget>, Sense> {
    let (whole, cut) = bytes.as_chunks::<TARGET_BYTES>();
    if !cut.is_empty() {
        return Err(Sense::invalid_field_in_parameters(2));
    }
    if whole.len() > usize::from(MAX_COPY_TARGETS) {
        return Err(Sense::TOO_MANY_TARGET_DESCRIPTORS);
    }
    let places = (HEADER_BYTES..).step_by(TARGET_BYTES);
    whole.iter().zip(places).map(|(target, at)| CopyTarget::parse(target, place(at))).collect()
}

fn parse_segments(bytes: &[u8], target_bytes: usize) -> Result<Vec<CopySegment>, Sense> {
    let places = (HEADER_BYTES + target_bytes..).step_by(SEGMENT_BYTES);
    let mut segments = Vec::new();
    for (segment, at) in bytes.chunks(SEGMENT_BYTES).zip(places) {
        if segments.len() == usize::from(MAX_COPY_SEGMENTS) {
            return Err(Sense::TOO_MANY_SEGMENT_DESCRIPTORS);
        }
        segments.push(CopySegment::parse(segment, place(at))?);
    }
    Ok(segments)
}

fn place(at: usize) -> u16 {
    u16::try_from(at).unwrap_or(u16::MAX)
}

impl CopyOutcome {
    /// COPY STATUS of a copy that has not ended yet.
    #[must_use]
    pub fn running_status(allocation_length: u32) -> Response {
        let mut response = Self::default().status(12);
        put(&mut response.data_in, 4, &[RUNNING]);
        Response::data(response.data_in, allocation_length)
    }

    /// RECEIVE COPY RESULTS with COPY STATUS:
    ///
    /// ```text
    /// 0-3 length of what follows   4 status   5-6 segments   7 unit of the count (0: bytes, 1: KiB)   8-11 count
    /// ```
    #[must_use]
    pub fn status(&self, allocation_length: u32) -> Response {
        let mut data = Vec::with_capacity(12);
        data.extend(8_u32.to_be_bytes());
        data.push(if self.sense.is_empty() { ENDED_WELL } else { ENDED_WITH_ERRORS });
        data.extend(self.segments.to_be_bytes());
        match u32::try_from(self.bytes) {
            Ok(bytes) => {
                data.push(0);
                data.extend(bytes.to_be_bytes());
            }
            Err(_) => {
                data.push(1);
                data.extend(u32::try_from(self.bytes / 1024).unwrap_or(u32::MAX).to_be_bytes());
            }
        }
        Response::data(data, allocation_length)
    }

    /// RECEIVE COPY RESULTS with FAILED SEGMENT DETAILS: nothing if the copy did not fail.
    ///
    /// ```text
    /// 0-3 length of what follows   56 status of the command   58-59 length of the sense data   60- sense data
    /// ```
    #[must_use]
    pub fn failure(&self, allocation_length: u32) -> Response {
        let mut data = Vec::from([0; 4]);
        if !self.sense.is_empty() {
            data.resize(60, 0);
            put(&mut data, 56, &[crate::status::Status::CheckCondition.code()]);
            put(&mut data, 58, &u16::try_from(self.sense.len()).unwrap_or(0).to_be_bytes());
            data.extend(&self.sense);
            let follows = u32::try_from(data.len() - 4).unwrap_or(0);
            put(&mut data, 0, &follows.to_be_bytes());
        }
        Response::data(data, allocation_length)
    }
}

/// RECEIVE COPY RESULTS with OPERATING PARAMETERS:
///
/// ```text
/// 0-3 length of what follows   4 SNLID   8-9 targets   10-11 segments   12-15 bytes of descriptors   16-19 bytes of a segment
/// 20-33 inline data, held data and streams: none   34-35, 36 copies at once   37-39 granularities   43- descriptor types
/// ```
pub(crate) fn operating_parameters(allocation_length: u32) -> Response {
    let mut data = Vec::from([0; 44]);
    put(&mut data, 4, &[SNLID]);
    put(&mut data, 8, &MAX_COPY_TARGETS.to_be_bytes());
    put(&mut data, 10, &MAX_COPY_SEGMENTS.to_be_bytes());
    put(&mut data, 12, &MAX_DESCRIPTOR_BYTES.to_be_bytes());
    put(&mut data, 16, &MAX_COPY_SEGMENT_BYTES.to_be_bytes());
    put(&mut data, 34, &TOTAL_CONCURRENT_COPIES.to_be_bytes());
    put(&mut data, 36, &[CONCURRENT_COPIES, GRANULARITY]);
    put(&mut data, 43, &[2]);
    data.extend([BLOCK_TO_BLOCK, IDENTIFICATION_DESCRIPTOR]);
    let follows = u32::try_from(data.len() - 4).unwrap_or(0);
    put(&mut data, 0, &follows.to_be_bytes());
    Response::data(data, allocation_length)
}

/// Page 8Fh (SPC-4, 7.8.17), its four mandatory descriptors: commands, parameters, descriptor types, general operations. There is no
/// descriptor of tokens, by which Windows knows that its offloaded transfers do not exist here.
pub(crate) fn third_party_page() -> Vec<u8> {
    let mut page = Vec::new();
    page_descriptor(&mut page, 0x0001, &[9, 0x83, 1, 0x00, 0x84, 3, 0x00, 0x03, 0x04, 0]);
    let mut parameters = [0; 28];
    put(&mut parameters, 4, &MAX_COPY_TARGETS.to_be_bytes());
    put(&mut parameters, 6, &MAX_COPY_SEGMENTS.to_be_bytes());
    put(&mut parameters, 8, &MAX_DESCRIPTOR_BYTES.to_be_bytes());
    page_descriptor(&mut page, 0x0004, &parameters);
    page_descriptor(&mut page, 0x0008, &[2, BLOCK_TO_BLOCK, IDENTIFICATION_DESCRIPTOR]);
    let mut general = [0; 32];
    put(&mut general, 0, &u32::from(TOTAL_CONCURRENT_COPIES).to_be_bytes());
    put(&mut general, 4, &u32::from(CONCURRENT_COPIES).to_be_bytes());
    put(&mut general, 8, &MAX_COPY_SEGMENT_BYTES.to_be_bytes());
    put(&mut general, 12, &[GRANULARITY]);
    page_descriptor(&mut page, 0x8001, &general);
    page
}

/// ```text
/// 0-1 type   2-3 length, with the zeros that make it a multiple of four   4- the descriptor
/// ```
fn page_descriptor(page: &mut Vec<u8>, kind: u16, bytes: &[u8]) {
    let length = bytes.len().next_multiple_of(4);
    page.extend(kind.to_be_bytes());
    page.extend(place(length).to_be_bytes());
    page.extend(bytes);
    page.resize(page.len() + length - bytes.len(), 0);
}

const HEADER_BYTES: usize = 16;
const TARGET_BYTES: usize = 32;
const SEGMENT_BYTES: usize = 28;
const SEGMENT_LENGTH: u16 = 0x18;
const MAX_DESIGNATOR_BYTES: usize = 20;
const MAX_DESCRIPTOR_BYTES: u32 = 32 * MAX_COPY_TARGETS as u32 + 28 * MAX_COPY_SEGMENTS as u32;
const _: () = assert!(HEADER_BYTES == 16 && TARGET_BYTES == 32 && SEGMENT_BYTES == 28);
const IDENTIFICATION_DESCRIPTOR: u8 = 0xE4;
const BLOCK_TO_BLOCK: u8 = 0x02;
const DC: u8 = 0x02;
const BINARY: u8 = 1;
const NAA: u8 = 3;
/// Values of LIST ID USAGE; 1 is reserved.
const HOLD_RESULTS: u8 = 0;
const RESULTS_NOT_HELD: u8 = 2;
const NO_IDENTIFIER: u8 = 3;
/// An initiator need not give identifiers.
const SNLID: u8 = 0x01;
const RUNNING: u8 = 0x00;
const ENDED_WELL: u8 = 0x01;
const ENDED_WITH_ERRORS: u8 = 0x02;
/// Copies at once, over all initiators: as many as their queues hold, of which this is a number that the field can say.
const TOTAL_CONCURRENT_COPIES: u16 = 255;
/// Copies at once of one initiator.
const CONCURRENT_COPIES: u8 = 255;
/// Blocks of at least 2^9 bytes.
const GRANULARITY: u8 = 9;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inquiry::tests::identity;
    use proptest::prelude::*;

    fn target(kind: u8, naa: [u8; 16]) -> [u8; TARGET_BYTES] {
        let mut target = [0; TARGET_BYTES];
        (target[0], target[4], target[5], target[7]) = (kind, BINARY, NAA, 16);
        target[8..24].copy_from_slice(&naa);
        target[30] = 2;
        target
    }

    fn segment(kind: u8, blocks: u16) -> [u8; SEGMENT_BYTES] {
        let mut segment = [0; SEGMENT_BYTES];
        (segment[0], segment[1], segment[3], segment[7]) = (kind, DC, 0x18, 1);
        segment[10..12].copy_from_slice(&blocks.to_be_bytes());
        (segment[19], segment[27]) = (8, 16);
        segment
    }

    fn list(targets: &[[u8; TARGET_BYTES]], segments: &[[u8; SEGMENT_BYTES]]) -> Vec<u8> {
        let mut list = Vec::from([0; HEADER_BYTES]);
        list[0] = 7;
        put(&mut list, 2, &place(targets.len() * TARGET_BYTES).to_be_bytes());
        put(&mut list, 8, &u32::from(place(segments.len() * SEGMENT_BYTES)).to_be_bytes());
        list.extend(targets.as_flattened());
        list.extend(segments.as_flattened());
        list
    }

    #[test]
    fn a_list_names_its_units_by_their_world_wide_name() {
        let identity = identity();
        let named = target(0xE4, identity.naa.to_bytes());
        let copy = CopyList::parse(&list(&[named, named], &[segment(2, 16)])).unwrap().unwrap();
        assert_eq!(copy.identifier, Some(7));
        let expected = CopySegment {
            source: 0,
            destination: 1,
            blocks: 16,
            counts_destination: true,
            source_start: Lba(8),
            destination_start: Lba(16),
        };
        assert_eq!(copy.segments, [expected]);
        assert!(copy.targets[0].means(&identity, 512) && !copy.targets[0].means(&identity, 4096));
        for (at, other) in [(4, 2), (5, 0x13), (5, 1), (7, 15), (8, 0x61), (23, 0)] {
            let mut changed = named;
            changed[at] = other;
            let copy = CopyList::parse(&list(&[changed], &[])).unwrap().unwrap();
            assert!(!copy.targets[0].means(&identity, 512), "byte {at}");
        }
    }

    #[test]
    fn limits_and_types_have_their_own_errors() {
        let (unit, stretch) = (target(0xE4, [0; 16]), segment(2, 1));
        assert_eq!(CopyList::parse(&[]), Ok(None));
        assert_eq!(CopyList::parse(&[0; 15]), Err(Sense::PARAMETER_LIST_LENGTH));
        assert!(CopyList::parse(&list(&[unit; 8], &[stretch; 16])).is_ok());
        let refused = [
            (list(&[unit; 9], &[stretch]), Sense::TOO_MANY_TARGET_DESCRIPTORS),
            (list(&[unit], &[stretch; 17]), Sense::TOO_MANY_SEGMENT_DESCRIPTORS),
            (list(&[unit; 9], &[stretch; 17]), Sense::PARAMETER_LIST_LENGTH),
            (list(&[target(0xE0, [0; 16])], &[stretch]), Sense::TARGET_DESCRIPTOR_TYPE),
            (list(&[unit], &[segment(3, 1)]), Sense::SEGMENT_DESCRIPTOR_TYPE),
        ];
        for (list, sense) in refused {
            assert_eq!(CopyList::parse(&list), Err(sense));
        }
        let whole = list(&[unit], &[stretch]);
        for cut in [16 + 31, 16 + 32 + 27] {
            assert_eq!(CopyList::parse(&whole[..cut]), Err(Sense::PARAMETER_LIST_LENGTH));
        }
        for (at, value, sense) in [
            (1, 0x08, Sense::invalid_field_in_parameters(1)),
            (15, 1, Sense::INLINE_DATA_LENGTH),
            (23, 21, Sense::invalid_field_in_parameters(23)),
            (51, 0x14, Sense::invalid_field_in_parameters(50)),
        ] {
            let mut wrong = whole.clone();
            wrong[at] = value;
            assert_eq!(CopyList::parse(&wrong), Err(sense), "byte {at}");
        }
    }

    #[test]
    fn results_say_how_far_a_copy_came() {
        let good = CopyOutcome { segments: 2, bytes: 5 << 30, sense: Vec::new() };
        assert_eq!(good.status(255).data_in, [0, 0, 0, 8, 1, 0, 2, 1, 0, 0x50, 0, 0]);
        assert_eq!(good.failure(255).data_in, [0; 4]);
        assert_eq!(CopyOutcome::running_status(255).data_in, [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
        let bad = CopyOutcome { segments: 0, bytes: 512, sense: Vec::from([0x70, 0, 0x0A]) };
        assert_eq!(bad.status(255).data_in, [0, 0, 0, 8, 2, 0, 0, 0, 0, 0, 2, 0]);
        let failure = bad.failure(255).data_in;
        assert_eq!((failure.len(), failure[3], failure[56], failure[59]), (63, 59, 2, 3));
    }

    #[test]
    fn the_page_and_the_parameters_say_the_limits_that_are_kept() {
        let parameters = operating_parameters(255).data_in;
        assert_eq!((u32_at(&parameters, 0), parameters.len()), (42, 46));
        assert_eq!((u16_at(&parameters, 8), u16_at(&parameters, 10)), (8, 16));
        assert_eq!((u32_at(&parameters, 12), u32_at(&parameters, 16)), (704, 16 << 20));
        let page = third_party_page();
        let mut rest = page.as_slice();
        let mut kinds = Vec::new();
        while !rest.is_empty() {
            kinds.push(u16_at(rest, 0));
            rest = &rest[4 + usize::from(u16_at(rest, 2))..];
        }
        assert_eq!(kinds, [0x0001, 0x0004, 0x0008, 0x8001]);
        assert!(page.len().is_multiple_of(4));
    }

    proptest! {
        #[test]
        fn no_list_breaks_anything(mut bytes in prop::collection::vec(any::<u8>(), 0..900), plausible: bool) {
            if plausible {
                put(&mut bytes, 1, &[0, 0, 64]);
                put(&mut bytes, 8, &[0, 0, 0, 56, 0, 0, 0, 0, 0xE4]);
                put(&mut bytes, 48, &[0xE4]);
            }
            if let Ok(Some(copy)) = CopyList::parse(&bytes) {
                prop_assert!(copy.targets.len() <= 8 && copy.segments.len() <= 16);
            }
        }
    }
}
