//! INQUIRY: standard data (SPC-4, 6.6.2) and vital product data pages (SPC-4, 7.8; SBC-3, 6.5).
//!
//! One list of pages for each device type decides both what page 00h shows and what is answered, so the two cannot differ.

use alloc::{format, string::String, vec::Vec};

use crate::cdb::spc::Inquiry;
use crate::extended_copy;
use crate::geometry::{
    Geometry, MAX_COMPARE_AND_WRITE_BLOCKS, MAX_UNMAP_BLOCKS, MAX_UNMAP_DESCRIPTORS, Provisioning,
};
use crate::identity::{Identity, VENDOR};
use crate::sense::Sense;
use crate::status::Response;

/// What stands behind a LUN, seen by INQUIRY.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Subject<'a> {
    Volume(&'a Identity, &'a Geometry),
    Peer(&'a Identity),
    Nothing,
}

/// Answers INQUIRY.
pub(crate) fn inquiry(subject: Subject<'_>, cdb: &[u8]) -> Result<Response, Sense> {
    let request = Inquiry::parse(cdb)?;
    let data = match request.page {
        None => standard(subject),
        Some(code) => {
            let body = page_body(subject, code)?;
            let [high, low] = u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes();
            let mut page = Vec::with_capacity(4 + body.len());
            page.extend([subject.peripheral(), code, high, low]);
            page.extend(body);
            page
        }
    };
    Ok(Response::data(data, request.allocation_length))
}

impl Subject<'_> {
    /// Peripheral qualifier and device type.
    fn peripheral(self) -> u8 {
        match self {
            Self::Volume(..) => DIRECT_ACCESS,
            Self::Peer(_) => STORAGE_ARRAY_CONTROLLER,
            Self::Nothing => NOTHING_HERE,
        }
    }

    fn pages(self) -> &'static [u8] {
        match self {
            Self::Volume(..) => &[0x00, 0x80, 0x83, 0x8F, 0xB0, 0xB1, 0xB2],
            Self::Peer(_) => &[0x00, 0x80, 0x83],
            Self::Nothing => &[0x00],
        }
    }

    fn version_descriptors(self) -> &'static [u16] {
        match self {
            Self::Volume(..) => &[SAM_5, SPC_4, SBC_3, ISCSI],
            Self::Peer(_) => &[SAM_5, SPC_4, ISCSI],
            Self::Nothing => &[],
        }
    }
}

/// ```text
/// 0 peripheral   2 version   3 HISUP, response data format   4 additional length   5 TPGS, 3PC   7 CMDQUE
/// 8-15 vendor    16-31 product    32-35 revision    58-73 version descriptors    96 bytes in all
/// ```
fn standard(subject: Subject<'_>) -> Vec<u8> {
    let port_groups_and_copy = match subject {
        Subject::Volume(..) => TPGS_IMPLICIT | THREE_PC,
        Subject::Peer(_) | Subject::Nothing => 0,
    };
    let mut data = Vec::with_capacity(STANDARD_BYTES);
    data.extend([
        subject.peripheral(),
        0,
        VERSION_SPC_4,
        HISUP | RESPONSE_FORMAT,
        STANDARD_BYTES_AFTER_5,
        port_groups_and_copy,
        0,
        CMDQUE,
    ]);
    data.extend(VENDOR);
    match subject {
        Subject::Volume(identity, _) | Subject::Peer(identity) => {
            data.extend(identity.product.padded());
            data.extend(identity.revision.padded());
        }
        Subject::Nothing => data.extend([b' '; 20]),
    }
    data.resize(VERSION_DESCRIPTORS_AT, 0);
    data.extend(subject.version_descriptors().iter().flat_map(|descriptor| descriptor.to_be_bytes()));
    data.resize(STANDARD_BYTES, 0);
    data
}

fn page_body(subject: Subject<'_>, code: u8) -> Result<Vec<u8>, Sense> {
    let unknown = Sense::invalid_field_in_cdb(2);
    if !subject.pages().contains(&code) {
        return Err(unknown);
    }
    match (code, subject) {
        (0x00, _) => Ok(subject.pages().to_vec()),
        (0x80, Subject::Volume(identity, _) | Subject::Peer(identity)) => {
            Ok(identity.serial.as_str().as_bytes().to_vec())
        }
        (0x83, Subject::Volume(identity, _) | Subject::Peer(identity)) => Ok(designators(identity)),
        (0x8F, Subject::Volume(..)) => Ok(extended_copy::third_party_page()),
        (0xB0, Subject::Volume(_, geometry)) => Ok(block_limits(geometry)),
        (0xB1, Subject::Volume(..)) => Ok(characteristics()),
        (0xB2, Subject::Volume(_, geometry)) => Ok(provisioning(geometry)),
        (_, Subject::Volume(..) | Subject::Peer(_) | Subject::Nothing) => Err(unknown),
    }
}

/// Page 83h: first what names the unit, then the port, then the target.
fn designators(identity: &Identity) -> Vec<u8> {
    let mut page = Vec::new();
    designator(&mut page, Kind { code_set: BINARY, association: UNIT, kind: 3 }, &identity.naa.to_bytes());
    let mut vendor_specific = VENDOR.to_vec();
    vendor_specific.extend(identity.serial.as_str().bytes());
    designator(&mut page, Kind { code_set: ASCII, association: UNIT, kind: 1 }, &vendor_specific);
    let [high, low] = identity.relative_port.to_be_bytes();
    designator(&mut page, Kind { code_set: BINARY, association: PORT, kind: 4 }, &[0, 0, high, low]);
    let [high, low] = identity.target_port_group.to_be_bytes();
    designator(&mut page, Kind { code_set: BINARY, association: PORT, kind: 5 }, &[0, 0, high, low]);
    let port_name = format!("{},t,0x{:04x}", identity.target_name.as_str(), identity.portal_group);
    designator(&mut page, Kind { code_set: UTF8, association: PORT, kind: 8 }, &name_string(port_name));
    let target_name = String::from(identity.target_name.as_str());
    designator(&mut page, Kind { code_set: UTF8, association: TARGET, kind: 8 }, &name_string(target_name));
    page
}

/// What a designator is made of and what it names.
#[derive(Clone, Copy)]
struct Kind {
    code_set: u8,
    association: u8,
    kind: u8,
}

/// ```text
/// 0 protocol, code set   1 PIV, association, type   3 length   4- the designator
/// ```
/// Ports and targets say that their protocol is iSCSI.
fn designator(page: &mut Vec<u8>, kind: Kind, bytes: &[u8]) {
    let (protocol, piv) = if kind.association == UNIT { (0, 0) } else { (PROTOCOL_ISCSI << 4, 0x80) };
    let length = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
    page.extend([protocol | kind.code_set, piv | kind.association << 4 | kind.kind, 0, length]);
    page.extend(bytes.iter().take(usize::from(length)));
}

/// A SCSI name string ends with zeros, at least one, and its length is a multiple of four.
fn name_string(name: String) -> Vec<u8> {
    let mut bytes = name.into_bytes();
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Page B0h:
///
/// ```text
///  4 WSNZ    5 maximum compare and write    6-7 optimal transfer granularity    8-11 maximum transfer    12-15 optimal transfer    20-23 maximum unmap blocks
/// 24-27 maximum unmap descriptors    28-31 optimal unmap granularity    32-35 UGAVALID, alignment    36-43 maximum write same
/// 44-47 maximum atomic transfer    48-63 alignment, granularity and boundaries of atomic writes: none
/// ```
fn block_limits(geometry: &Geometry) -> Vec<u8> {
    let (unmap_blocks, unmap_descriptors, granularity, aligned) = match geometry.provisioning {
        Provisioning::Full => (0, 0, 0, 0),
        Provisioning::Thin { unmap_granularity_blocks } => {
            (MAX_UNMAP_BLOCKS, MAX_UNMAP_DESCRIPTORS, unmap_granularity_blocks, UGAVALID)
        }
    };
    let transfer_granularity: u16 = 1 << geometry.block_size.physical_exponent();
    let mut page = Vec::with_capacity(BLOCK_LIMITS_BYTES);
    page.extend([WSNZ, MAX_COMPARE_AND_WRITE_BLOCKS]);
    page.extend(transfer_granularity.to_be_bytes());
    page.extend(geometry.max_transfer_blocks().to_be_bytes());
    page.extend(geometry.optimal_transfer_blocks().to_be_bytes());
    page.extend([0; 4]);
    page.extend(unmap_blocks.to_be_bytes());
    page.extend(unmap_descriptors.to_be_bytes());
    page.extend(granularity.to_be_bytes());
    page.extend(aligned.to_be_bytes());
    page.extend(u64::from(geometry.max_write_same_blocks()).to_be_bytes());
    page.extend(geometry.max_atomic_blocks().to_be_bytes());
    page.resize(BLOCK_LIMITS_BYTES, 0);
    page
}

/// Page B1h: a medium that does not rotate, of no particular form.
fn characteristics() -> Vec<u8> {
    let mut page = Vec::from(NON_ROTATING.to_be_bytes());
    page.resize(CHARACTERISTICS_BYTES, 0);
    page
}

/// Page B2h. What is unmapped reads as zeros, and READ CAPACITY(16) says the same.
fn provisioning(geometry: &Geometry) -> Vec<u8> {
    match geometry.provisioning {
        Provisioning::Full => Vec::from([0, 0, PROVISIONING_FULL, 0]),
        Provisioning::Thin { .. } => Vec::from([0, LBPU | LBPWS | LBPWS10 | LBPRZ, PROVISIONING_THIN, 0]),
    }
}

const DIRECT_ACCESS: u8 = 0x00;
const STORAGE_ARRAY_CONTROLLER: u8 = 0x0C;
/// Qualifier 011b, type 1Fh: nothing can be connected here.
const NOTHING_HERE: u8 = 0x7F;
const VERSION_SPC_4: u8 = 0x06;
/// LUNs are those of SAM, to be found with REPORT LUNS.
const HISUP: u8 = 0x10;
/// Ports change their state of access by themselves, and tell it (REPORT TARGET PORT GROUPS).
const TPGS_IMPLICIT: u8 = 0x10;
/// The unit copies by itself (EXTENDED COPY).
const THREE_PC: u8 = 0x08;
const RESPONSE_FORMAT: u8 = 0x02;
const CMDQUE: u8 = 0x02;
const STANDARD_BYTES: usize = 96;
const STANDARD_BYTES_AFTER_5: u8 = 91;
const VERSION_DESCRIPTORS_AT: usize = 58;
const SAM_5: u16 = 0x00A0;
const SPC_4: u16 = 0x0460;
const SBC_3: u16 = 0x04C0;
const ISCSI: u16 = 0x0960;
const BINARY: u8 = 1;
const ASCII: u8 = 2;
const UTF8: u8 = 3;
const UNIT: u8 = 0;
const PORT: u8 = 1;
const TARGET: u8 = 2;
const PROTOCOL_ISCSI: u8 = 5;
/// WRITE SAME of zero blocks is an error, not "all up to the end".
const WSNZ: u8 = 0x01;
/// The alignment field is valid, and zero.
const UGAVALID: u32 = 1 << 31;
const BLOCK_LIMITS_BYTES: usize = 0x3C;
const CHARACTERISTICS_BYTES: usize = 0x3C;
const NON_ROTATING: u16 = 1;
const LBPU: u8 = 0x80;
const LBPWS: u8 = 0x40;
const LBPWS10: u8 = 0x20;
const LBPRZ: u8 = 0x04;
const PROVISIONING_FULL: u8 = 0;
const PROVISIONING_THIN: u8 = 2;

const _: () = assert!(STANDARD_BYTES_AFTER_5 as usize + 5 == STANDARD_BYTES);

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::geometry::BlockSize;
    use crate::identity::{AsciiText, Naa};
    use crate::wire::{u16_at, u32_at, u64_at};

    pub(crate) fn identity() -> Identity {
        Identity {
            product: AsciiText::new("VOLUME").unwrap(),
            revision: AsciiText::new("0.1").unwrap(),
            serial: AsciiText::new("00c0ffee0001").unwrap(),
            naa: Naa::new([0x60, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]).unwrap(),
            target_name: AsciiText::new("iqn.2026-01.example:array").unwrap(),
            relative_port: 1,
            portal_group: 2,
            target_port_group: 3,
        }
    }

    pub(crate) fn geometry(block_size: BlockSize, provisioning: Provisioning) -> Geometry {
        Geometry { block_size, blocks: 4 << 20, provisioning, atomic: false }
    }

    const THIN: Provisioning = Provisioning::Thin { unmap_granularity_blocks: 8 };

    fn ask(subject: Subject<'_>, page: Option<u8>, length: u8) -> Result<Vec<u8>, Sense> {
        let cdb = [0x12, u8::from(page.is_some()), page.unwrap_or(0), 0, length, 0];
        inquiry(subject, &cdb).map(|response| response.data_in)
    }

    #[test]
    fn standard_data_claims_the_levels_that_are_kept() {
        let (identity, geometry) = (identity(), geometry(BlockSize::B512, THIN));
        let data = ask(Subject::Volume(&identity, &geometry), None, 255).unwrap();
        assert_eq!(data.len(), usize::from(data[4]) + 5);
        assert_eq!(data[..8], [0, 0, 6, 0x12, 91, 0x18, 0, 2]);
        assert_eq!(&data[8..36], b"HOLDFASTVOLUME          0.1 ");
        assert_eq!(data[58..66], [0x00, 0xA0, 0x04, 0x60, 0x04, 0xC0, 0x09, 0x60]);
        let peer = ask(Subject::Peer(&identity), None, 255).unwrap();
        assert_eq!((peer[0], &peer[58..64]), (0x0C, &[0x00, 0xA0, 0x04, 0x60, 0x09, 0x60][..]));
        assert_eq!(ask(Subject::Nothing, None, 36).unwrap()[0], 0x7F);
    }

    #[test]
    fn every_page_that_is_listed_exists_and_no_other_does() {
        let (identity, geometry) = (identity(), geometry(BlockSize::B4096, THIN));
        for subject in [Subject::Volume(&identity, &geometry), Subject::Peer(&identity), Subject::Nothing] {
            let list = ask(subject, Some(0), 255).unwrap();
            assert!(list[4..].is_sorted());
            for code in 0..=u8::MAX {
                match ask(subject, Some(code), 255) {
                    Ok(page) => {
                        assert!(list[4..].contains(&code));
                        assert_eq!((page[0], page[1]), (list[0], code));
                        assert_eq!(usize::from(u16_at(&page, 2)) + 4, page.len());
                    }
                    Err(sense) => {
                        assert!(!list[4..].contains(&code));
                        assert_eq!(sense, Sense::invalid_field_in_cdb(2));
                    }
                }
            }
        }
    }

    #[test]
    fn data_is_cut_to_the_allocation_length_while_lengths_stay_whole() {
        let (identity, geometry) = (identity(), geometry(BlockSize::B512, THIN));
        for length in 0..=64 {
            let page = ask(Subject::Volume(&identity, &geometry), Some(0xB0), length).unwrap();
            assert_eq!(page.len(), usize::from(length));
            assert!(page.len() < 4 || page[3] == 0x3C);
        }
    }

    #[test]
    fn block_limits_are_those_that_commands_are_checked_against() {
        let (identity, mut geometry) = (identity(), geometry(BlockSize::B512, THIN));
        let page = ask(Subject::Volume(&identity, &geometry), Some(0xB0), 255).unwrap();
        assert_eq!(page[4..6], [1, 255]);
        assert_eq!(u16_at(&page, 6), 8);
        assert_eq!(u32_at(&page, 8), 8192);
        assert_eq!(u32_at(&page, 20), 1 << 20);
        assert_eq!(u32_at(&page, 24), 256);
        assert_eq!((u32_at(&page, 28), u32_at(&page, 32)), (8, 1 << 31));
        assert_eq!((u64_at(&page, 36), u32_at(&page, 44)), (8192, 0));
        geometry.atomic = true;
        let page = ask(Subject::Volume(&identity, &geometry), Some(0xB0), 255).unwrap();
        assert_eq!((u32_at(&page, 44), &page[48..]), (8192, &[0; 16][..]));
    }

    #[test]
    fn a_fully_provisioned_volume_shows_no_unmap() {
        let (identity, geometry) = (identity(), geometry(BlockSize::B512, Provisioning::Full));
        let subject = Subject::Volume(&identity, &geometry);
        assert_eq!(ask(subject, Some(0xB0), 255).unwrap()[20..36], [0; 16]);
        assert_eq!(ask(subject, Some(0xB2), 255).unwrap(), [0, 0xB2, 0, 4, 0, 0, 0, 0]);
    }

    #[test]
    fn designators_follow_each_other_without_a_gap() {
        let identity = identity();
        let page = ask(Subject::Peer(&identity), Some(0x83), 255).unwrap();
        let mut rest = &page[4..];
        let mut kinds = Vec::new();
        while let [_, kind, _, length, ..] = rest {
            kinds.push(kind & 0x3F);
            assert!(kind & 0x0F != 8 || length % 4 == 0);
            rest = &rest[4 + usize::from(*length)..];
        }
        assert!(rest.is_empty());
        assert_eq!(kinds, [0x03, 0x01, 0x14, 0x15, 0x18, 0x28]);
        assert_eq!(page[8..24], identity.naa.to_bytes());
    }

    #[test]
    fn the_longest_names_still_fit_a_designator() {
        let mut identity = identity();
        identity.target_name = AsciiText::new(&"x".repeat(223)).unwrap();
        let names = designators(&identity);
        assert!(names.windows(9).any(|window| window == b",t,0x0002"));
    }
}
