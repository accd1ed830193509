//! Fields of the primary commands (SPC-4, chapter 6). Lengths have been checked by `table::lookup`.

use crate::sense::{Sense, SenseFormat};
use crate::wire::{u8_at, u16_at, u32_at};

/// INQUIRY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Inquiry {
    /// The vital product data page, or the standard data.
    pub(crate) page: Option<u8>,
    pub(crate) allocation_length: u32,
}

impl Inquiry {
    pub(crate) fn parse(cdb: &[u8]) -> Result<Self, Sense> {
        let allocation_length = u32::from(u16_at(cdb, 3));
        match (u8_at(cdb, 1) & (EVPD | CMDDT), u8_at(cdb, 2)) {
            (0, 0) => Ok(Self { page: None, allocation_length }),
            (EVPD, page) => Ok(Self { page: Some(page), allocation_length }),
            (0, _) => Err(Sense::invalid_field_in_cdb(2)),
            _ => Err(Sense::invalid_field_in_cdb(1)),
        }
    }
}

/// REQUEST SENSE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestSense {
    pub(crate) format: SenseFormat,
    pub(crate) allocation_length: u32,
}

impl RequestSense {
    pub(crate) fn parse(cdb: &[u8]) -> Self {
        let format = if u8_at(cdb, 1) & DESC == 0 { SenseFormat::Fixed } else { SenseFormat::Descriptor };
        Self { format, allocation_length: u32::from(u8_at(cdb, 4)) }
    }
}

/// Which LUNs REPORT LUNS asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SelectReport {
    /// All, without well-known ones, or with them: there are none here.
    Units,
    /// Well-known ones only.
    WellKnown,
}

/// REPORT LUNS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReportLuns {
    pub(crate) select: SelectReport,
    pub(crate) allocation_length: u32,
}

impl ReportLuns {
    pub(crate) fn parse(cdb: &[u8]) -> Result<Self, Sense> {
        let select = match u8_at(cdb, 2) {
            0 | 2 => SelectReport::Units,
            1 => SelectReport::WellKnown,
            _ => return Err(Sense::invalid_field_in_cdb(2)),
        };
        let allocation_length = u32_at(cdb, 6);
        if allocation_length < MIN_REPORT_LUNS_ALLOCATION {
            return Err(Sense::invalid_field_in_cdb(6));
        }
        Ok(Self { select, allocation_length })
    }
}

/// Length of the header, and of length fields, in MODE SENSE and MODE SELECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ModeForm {
    Six,
    Ten,
}

/// Which values MODE SENSE asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PageControl {
    Current,
    Changeable,
    Default,
}

/// The block descriptor in front of mode pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlockDescriptor {
    Omitted,
    Short,
    Long,
}

/// MODE SENSE of either length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ModeSense {
    pub(crate) form: ModeForm,
    pub(crate) control: PageControl,
    pub(crate) page: u8,
    pub(crate) subpage: u8,
    pub(crate) descriptor: BlockDescriptor,
    pub(crate) allocation_length: u32,
}

impl ModeSense {
    pub(crate) fn parse(form: ModeForm, cdb: &[u8]) -> Result<Self, Sense> {
        let control = match u8_at(cdb, 2) >> 6 {
            0 => PageControl::Current,
            1 => PageControl::Changeable,
            2 => PageControl::Default,
            _ => return Err(Sense::SAVING_NOT_SUPPORTED),
        };
        let flags = u8_at(cdb, 1);
        let (allocation_length, long_allowed) = match form {
            ModeForm::Six => (u32::from(u8_at(cdb, 4)), false),
            ModeForm::Ten => (u32::from(u16_at(cdb, 7)), flags & LLBAA != 0),
        };
        let descriptor = match (flags & DBD != 0, long_allowed) {
            (true, _) => BlockDescriptor::Omitted,
            (false, true) => BlockDescriptor::Long,
            (false, false) => BlockDescriptor::Short,
        };
        let (page, subpage) = (u8_at(cdb, 2) & 0x3F, u8_at(cdb, 3));
        Ok(Self { form, control, page, subpage, descriptor, allocation_length })
    }
}

/// MODE SELECT of either length: how the parameter list that follows is to be read. Hand it back to
/// [`crate::LogicalUnit::mode_select`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModeSelect {
    pub(crate) form: ModeForm,
}

impl ModeSelect {
    /// The form and the length of the list. Only pages in the standard's format, and nothing to be saved.
    pub(crate) fn parse(form: ModeForm, cdb: &[u8]) -> Result<(Self, u16), Sense> {
        if u8_at(cdb, 1) & (PF | SP) != PF {
            return Err(Sense::invalid_field_in_cdb(1));
        }
        let length = match form {
            ModeForm::Six => u16::from(u8_at(cdb, 4)),
            ModeForm::Ten => u16_at(cdb, 7),
        };
        Ok((Self { form }, length))
    }
}

/// RECEIVE COPY RESULTS; the length stands in EXTENDED COPY at the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CopyResults {
    pub(crate) identifier: u8,
    pub(crate) allocation_length: u32,
}

impl CopyResults {
    pub(crate) fn parse(cdb: &[u8]) -> Self {
        Self { identifier: u8_at(cdb, 2), allocation_length: u32_at(cdb, 10) }
    }
}

/// REPORT TARGET PORT GROUPS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReportTargetPortGroups {
    /// The parameter data begins with the longer header.
    pub(crate) is_extended: bool,
    pub(crate) allocation_length: u32,
}

impl ReportTargetPortGroups {
    pub(crate) fn parse(cdb: &[u8]) -> Result<Self, Sense> {
        let is_extended = match u8_at(cdb, 1) >> 5 {
            0 => false,
            1 => true,
            _ => return Err(Sense::invalid_field_in_cdb(1)),
        };
        Ok(Self { is_extended, allocation_length: u32_at(cdb, 6) })
    }
}

/// What REPORT SUPPORTED OPERATION CODES asks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CodesAsked {
    All,
    /// An operation code that has no service actions.
    Opcode(u8),
    /// An operation code that has service actions.
    ServiceAction(u8, u16),
    /// Either.
    Any(u8, u16),
}

/// Whether the answer shows how long commands take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timeouts {
    Omitted,
    Shown,
}

/// REPORT SUPPORTED OPERATION CODES.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReportOperationCodes {
    pub(crate) asked: CodesAsked,
    pub(crate) timeouts: Timeouts,
    pub(crate) allocation_length: u32,
}

impl ReportOperationCodes {
    pub(crate) fn parse(cdb: &[u8]) -> Result<Self, Sense> {
        let (opcode, service_action) = (u8_at(cdb, 3), u16_at(cdb, 4));
        let asked = match u8_at(cdb, 2) & 0x07 {
            0 => CodesAsked::All,
            1 => CodesAsked::Opcode(opcode),
            2 => CodesAsked::ServiceAction(opcode, service_action),
            3 => CodesAsked::Any(opcode, service_action),
            _ => return Err(Sense::invalid_field_in_cdb(2)),
        };
        let timeouts = if u8_at(cdb, 2) & RCTD == 0 { Timeouts::Omitted } else { Timeouts::Shown };
        Ok(Self { asked, timeouts, allocation_length: u32_at(cdb, 6) })
    }
}

const EVPD: u8 = 0x01;
const CMDDT: u8 = 0x02;
const DESC: u8 = 0x01;
const DBD: u8 = 0x08;
const LLBAA: u8 = 0x10;
const PF: u8 = 0x10;
const SP: u8 = 0x01;
const RCTD: u8 = 0x80;
/// SPC-4, 6.33: less has no room for a single LUN and is an error.
const MIN_REPORT_LUNS_ALLOCATION: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inquiry_wants_a_page_code_only_with_evpd() {
        assert_eq!(
            Inquiry::parse(&[0x12, 0, 0, 1, 4, 0]),
            Ok(Inquiry { page: None, allocation_length: 260 })
        );
        assert_eq!(
            Inquiry::parse(&[0x12, 1, 0x83, 0, 4, 0]),
            Ok(Inquiry { page: Some(0x83), allocation_length: 4 })
        );
        assert_eq!(Inquiry::parse(&[0x12, 0, 0x83, 0, 4, 0]), Err(Sense::invalid_field_in_cdb(2)));
        assert_eq!(Inquiry::parse(&[0x12, 2, 0, 0, 4, 0]), Err(Sense::invalid_field_in_cdb(1)));
    }

    #[test]
    fn report_luns_needs_room_for_one() {
        let cdb = |select, length| [0xA0, 0, select, 0, 0, 0, 0, 0, 0, length, 0, 0];
        assert!(ReportLuns::parse(&cdb(0, 16)).is_ok());
        assert_eq!(ReportLuns::parse(&cdb(0, 15)), Err(Sense::invalid_field_in_cdb(6)));
        assert_eq!(ReportLuns::parse(&cdb(1, 16)).unwrap().select, SelectReport::WellKnown);
        assert_eq!(ReportLuns::parse(&cdb(3, 16)), Err(Sense::invalid_field_in_cdb(2)));
    }

    #[test]
    fn mode_pages_are_neither_saved_nor_in_a_format_of_before() {
        assert!(ModeSense::parse(ModeForm::Six, &[0x1A, 0, 0xFF, 0, 255, 0]).is_err());
        for flags in [0x00, 0x01, 0x11] {
            assert!(ModeSelect::parse(ModeForm::Six, &[0x15, flags, 0, 0, 24, 0]).is_err());
        }
        assert_eq!(ModeSelect::parse(ModeForm::Six, &[0x15, 0x10, 0, 0, 24, 0]).unwrap().1, 24);
    }
}
