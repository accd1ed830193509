//! Sense data (SPC-4, 4.5): why a command did not simply end well.
//!
//! ```text
//! fixed format, 18 bytes           descriptor format, 8 bytes and descriptors
//!  0    VALID | 70h                 0    72h
//!  2    sense key                   1    sense key
//!  3-6  information, 32 bits        2-3  additional sense code, qualifier
//!  7    0Ah                         7    length of what follows
//! 12-13 additional sense code       8-   00h 0Ah 80h 00h information, 64 bits
//! 15-17 sense key specific               02h 06h 00h 00h sense key specific, 3 bytes, 00h
//! ```
//!
//! Information that does not fit 32 bits is left out of the fixed format, with VALID zero, never cut.

use alloc::vec::Vec;

use crate::block::Lba;
use crate::wire::{array_at, put, u8_at, u32_at, u64_at};

/// The category of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SenseKey {
    /// Nothing to report.
    NoSense,
    /// It worked in the end.
    RecoveredError,
    /// The medium cannot be accessed now.
    NotReady,
    /// The medium lost data.
    MediumError,
    /// The array failed.
    HardwareError,
    /// The initiator asked for something wrong.
    IllegalRequest,
    /// Something changed behind the initiator's back.
    UnitAttention,
    /// The medium may not be written.
    DataProtect,
    /// A blank or not blank place where the other was expected.
    BlankCheck,
    /// What the vendor says.
    VendorSpecific,
    /// A copy between units ended early.
    CopyAborted,
    /// The command was given up; a repeat may succeed.
    AbortedCommand,
    /// The end of a partition with data left to write.
    VolumeOverflow,
    /// Compared data differed.
    Miscompare,
    /// The command is done, and there is something to say.
    Completed,
}

/// The field that an ILLEGAL REQUEST is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldPointer {
    /// A byte of the command descriptor block.
    Cdb(u16),
    /// A byte of the parameter list.
    ParameterList(u16),
}

/// Which of the two layouts sense data takes: the D_SENSE bit of the control mode page, or the DESC bit of REQUEST SENSE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SenseFormat {
    /// Response code 70h.
    Fixed,
    /// Response code 72h.
    Descriptor,
}

/// A condition in the words of SPC-4. Units here report only what the constructors below name, so one list shows all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sense {
    /// Category.
    pub key: SenseKey,
    /// Additional sense code.
    pub asc: u8,
    /// Additional sense code qualifier.
    pub ascq: u8,
    /// What INFORMATION means for the command: usually the first block in error.
    pub information: Option<u64>,
    /// Where the wrong field is.
    pub field: Option<FieldPointer>,
}

impl Sense {
    /// Nothing to report.
    pub const NO_SENSE: Self = Self::new(SenseKey::NoSense, 0x00, 0x00);
    /// The operation code, or its service action, is not implemented here.
    pub const INVALID_COMMAND: Self = Self::new(SenseKey::IllegalRequest, 0x20, 0x00);
    /// A logical block address beyond the end.
    pub const LBA_OUT_OF_RANGE: Self = Self::new(SenseKey::IllegalRequest, 0x21, 0x00);
    /// No logical unit at this LUN.
    pub const LUN_NOT_SUPPORTED: Self = Self::new(SenseKey::IllegalRequest, 0x25, 0x00);
    /// A parameter list that is cut in the middle of something.
    pub const PARAMETER_LIST_LENGTH: Self = Self::new(SenseKey::IllegalRequest, 0x1A, 0x00);
    /// The transport announced another amount of data than the command takes. No field of the command is to blame.
    pub const WRONG_DATA_LENGTH: Self = Self::new(SenseKey::IllegalRequest, 0x24, 0x00);
    /// Saved mode pages were asked for.
    pub const SAVING_NOT_SUPPORTED: Self = Self::new(SenseKey::IllegalRequest, 0x39, 0x00);
    /// The volume is not to be written by hosts.
    pub const WRITE_PROTECTED: Self = Self::new(SenseKey::DataProtect, 0x27, 0x00);
    /// The host itself set SWP in the control mode page.
    pub const SOFTWARE_WRITE_PROTECTED: Self = Self::new(SenseKey::DataProtect, 0x27, 0x02);
    /// A thin volume found no space for a write.
    pub const SPACE_ALLOCATION_FAILED: Self = Self::new(SenseKey::DataProtect, 0x27, 0x07);
    /// The volume takes no host commands until an operator acts (a secondary volume before takeover). Linux does not try to start such
    /// a unit again and again, as it would for 04/02.
    pub const MANUAL_INTERVENTION: Self = Self::new(SenseKey::NotReady, 0x04, 0x03);
    /// The ports here are in standby: another target port group, whose state REPORT TARGET PORT GROUPS tells, takes the command.
    pub const STANDBY: Self = Self::new(SenseKey::NotReady, 0x04, 0x0B);
    /// The volume behind the unit has failed.
    pub const UNIT_FAILURE: Self = Self::new(SenseKey::HardwareError, 0x3E, 0x01);
    /// The array could not do what it should have.
    pub const INTERNAL_FAILURE: Self = Self::new(SenseKey::HardwareError, 0x44, 0x00);
    /// Not enough memory or table space for the command.
    pub const INSUFFICIENT_RESOURCES: Self = Self::new(SenseKey::AbortedCommand, 0x55, 0x03);
    /// A data segment arrived damaged (data digest).
    pub const DATA_CRC_ERROR: Self = Self::new(SenseKey::AbortedCommand, 0x47, 0x05);
    /// The transport's header contradicts the CDB.
    pub const INVALID_FIELD_IN_INFORMATION_UNIT: Self = Self::new(SenseKey::IllegalRequest, 0x0E, 0x03);
    /// Fewer bytes arrived, or in another order, than the transport's rules say.
    pub const DATA_PHASE_ERROR: Self = Self::new(SenseKey::AbortedCommand, 0x4B, 0x00);
    /// The initiator did not send in time what it was asked for.
    pub const NEXUS_TIMEOUT: Self = Self::new(SenseKey::AbortedCommand, 0x4B, 0x06);

    /// A copy between units names a unit that is not there for this initiator.
    pub const COPY_TARGET_UNREACHABLE: Self = Self::new(SenseKey::CopyAborted, 0x0D, 0x02);
    /// A copy between units ended early; what came of its segments is to be asked for.
    pub const COPY_ABORTED: Self = Self::new(SenseKey::CopyAborted, 0x00, 0x00);
    /// A copy with the identifier of one that still runs.
    pub const OPERATION_IN_PROGRESS: Self = Self::new(SenseKey::IllegalRequest, 0x00, 0x16);
    /// A segment of a copy that is longer than the operating parameters allow, or no whole number of blocks on both sides.
    pub const COPY_SEGMENT_LENGTH: Self = Self::new(SenseKey::IllegalRequest, 0x26, 0x00);
    /// More descriptors of units than the operating parameters allow.
    pub const TOO_MANY_TARGET_DESCRIPTORS: Self = Self::new(SenseKey::IllegalRequest, 0x26, 0x06);
    /// A descriptor of a unit of a type that is not known here.
    pub const TARGET_DESCRIPTOR_TYPE: Self = Self::new(SenseKey::IllegalRequest, 0x26, 0x07);
    /// More segments than the operating parameters allow.
    pub const TOO_MANY_SEGMENT_DESCRIPTORS: Self = Self::new(SenseKey::IllegalRequest, 0x26, 0x08);
    /// A segment of a type that is not known here.
    pub const SEGMENT_DESCRIPTOR_TYPE: Self = Self::new(SenseKey::IllegalRequest, 0x26, 0x09);
    /// Data inside the list of a copy, which nothing here takes.
    pub const INLINE_DATA_LENGTH: Self = Self::new(SenseKey::IllegalRequest, 0x26, 0x0B);

    const fn new(key: SenseKey, asc: u8, ascq: u8) -> Self {
        Self { key, asc, ascq, information: None, field: None }
    }

    /// A unit attention condition with this code.
    pub(crate) const fn attention(asc: u8, ascq: u8) -> Self {
        Self::new(SenseKey::UnitAttention, asc, ascq)
    }

    /// A field of the command that is wrong or asks for what is not implemented.
    #[must_use]
    pub const fn invalid_field_in_cdb(byte: u16) -> Self {
        let mut sense = Self::new(SenseKey::IllegalRequest, 0x24, 0x00);
        sense.field = Some(FieldPointer::Cdb(byte));
        sense
    }

    /// A field of the parameter list that is wrong or asks for what is not implemented.
    #[must_use]
    pub const fn invalid_field_in_parameters(byte: u16) -> Self {
        let mut sense = Self::new(SenseKey::IllegalRequest, 0x26, 0x00);
        sense.field = Some(FieldPointer::ParameterList(byte));
        sense
    }

    /// Data of this block is lost.
    #[must_use]
    pub const fn unrecovered_read(first: Lba) -> Self {
        let mut sense = Self::new(SenseKey::MediumError, 0x11, 0x00);
        sense.information = Some(first.0);
        sense
    }

    /// This block could not be written.
    #[must_use]
    pub const fn write_error(first: Lba) -> Self {
        let mut sense = Self::new(SenseKey::MediumError, 0x0C, 0x00);
        sense.information = Some(first.0);
        sense
    }

    /// Compared data differs first at this byte.
    #[must_use]
    pub const fn miscompare(offset_bytes: u64) -> Self {
        let mut sense = Self::new(SenseKey::Miscompare, 0x1D, 0x00);
        sense.information = Some(offset_bytes);
        sense
    }

    /// The sense data as it travels.
    #[must_use]
    pub fn to_bytes(&self, format: SenseFormat) -> Vec<u8> {
        match format {
            SenseFormat::Fixed => self.fixed().to_vec(),
            SenseFormat::Descriptor => self.descriptor(),
        }
    }

    /// Reads the sense data of another target, of either format. `None`: too short, or a response code that SPC-4 does not have.
    /// Only information and field pointer are kept of what follows the code.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match u8_at(bytes, 0) & RESPONSE_CODE {
            0x70 | 0x71 => Self::from_fixed(bytes),
            0x72 | 0x73 => Self::from_descriptor(bytes),
            _ => None,
        }
    }

    fn from_fixed(bytes: &[u8]) -> Option<Self> {
        let key = SenseKey::from_code(bytes.get(2)? & KEY)?;
        let mut sense = Self::new(key, u8_at(bytes, 12), u8_at(bytes, 13));
        if u8_at(bytes, 0) & VALID != 0 {
            sense.information = Some(u64::from(u32_at(bytes, 3)));
        }
        sense.field = field_pointer(key, array_at(bytes, 15));
        Some(sense)
    }

    fn from_descriptor(bytes: &[u8]) -> Option<Self> {
        let key = SenseKey::from_code(bytes.get(1)? & KEY)?;
        let mut sense = Self::new(key, u8_at(bytes, 2), u8_at(bytes, 3));
        let mut rest = bytes.get(8..).unwrap_or(&[]);
        while let [kind, length, ..] = rest {
            let (descriptor, next) = rest.split_at_checked(2 + usize::from(*length)).unwrap_or((rest, &[]));
            match kind {
                0x00 if u8_at(descriptor, 2) & VALID != 0 => sense.information = Some(u64_at(descriptor, 4)),
                0x02 => sense.field = field_pointer(key, array_at(descriptor, 4)),
                _ => {}
            }
            rest = next;
        }
        Some(sense)
    }

    fn fixed(&self) -> [u8; 18] {
        let fitting = self.information.and_then(|value| u32::try_from(value).ok());
        let valid = if fitting.is_some() { VALID } else { 0 };
        let [i0, i1, i2, i3] = fitting.unwrap_or(0).to_be_bytes();
        let [s0, s1, s2] = self.specific();
        let key = self.key.code();
        [valid | 0x70, 0, key, i0, i1, i2, i3, 10, 0, 0, 0, 0, self.asc, self.ascq, 0, s0, s1, s2]
    }

    fn descriptor(&self) -> Vec<u8> {
        let mut length = 0;
        let mut bytes = Vec::with_capacity(28);
        bytes.extend([0x72, self.key.code(), self.asc, self.ascq, 0, 0, 0, 0]);
        if let Some(information) = self.information {
            bytes.extend([0x00, 0x0A, 0x80, 0x00]);
            bytes.extend(information.to_be_bytes());
            length += 12;
        }
        if self.field.is_some() {
            bytes.extend([0x02, 0x06, 0x00, 0x00]);
            bytes.extend(self.specific());
            bytes.push(0);
            length += 8;
        }
        put(&mut bytes, 7, &[length]);
        bytes
    }

    /// SKSV, C/D and the field pointer; the bit pointer is not used.
    fn specific(&self) -> [u8; 3] {
        let (flags, byte) = match self.field {
            None => return [0; 3],
            Some(FieldPointer::Cdb(byte)) => (SKSV | CDB, byte),
            Some(FieldPointer::ParameterList(byte)) => (SKSV, byte),
        };
        let [high, low] = byte.to_be_bytes();
        [flags, high, low]
    }
}

/// Sense key specific bytes have this meaning with ILLEGAL REQUEST only.
fn field_pointer(key: SenseKey, specific: [u8; 3]) -> Option<FieldPointer> {
    let [flags, high, low] = specific;
    let byte = u16::from_be_bytes([high, low]);
    match (key, flags & (SKSV | CDB)) {
        (SenseKey::IllegalRequest, SKSV) => Some(FieldPointer::ParameterList(byte)),
        (SenseKey::IllegalRequest, flags) if flags == SKSV | CDB => Some(FieldPointer::Cdb(byte)),
        _ => None,
    }
}

impl SenseKey {
    /// All of them, in the order of their codes, Ch being reserved.
    const BY_CODE: [Option<Self>; 16] = [
        Some(Self::NoSense),
        Some(Self::RecoveredError),
        Some(Self::NotReady),
        Some(Self::MediumError),
        Some(Self::HardwareError),
        Some(Self::IllegalRequest),
        Some(Self::UnitAttention),
        Some(Self::DataProtect),
        Some(Self::BlankCheck),
        Some(Self::VendorSpecific),
        Some(Self::CopyAborted),
        Some(Self::AbortedCommand),
        None,
        Some(Self::VolumeOverflow),
        Some(Self::Miscompare),
        Some(Self::Completed),
    ];

    /// The code on the wire.
    #[must_use]
    pub fn code(self) -> u8 {
        let place = Self::BY_CODE.iter().position(|key| *key == Some(self));
        place.and_then(|code| u8::try_from(code).ok()).unwrap_or(0)
    }

    fn from_code(code: u8) -> Option<Self> {
        Self::BY_CODE.get(usize::from(code)).copied().flatten()
    }
}

const RESPONSE_CODE: u8 = 0x7F;
const VALID: u8 = 0x80;
const KEY: u8 = 0x0F;
const SKSV: u8 = 0x80;
/// The field is in the command, not in the parameter list.
const CDB: u8 = 0x40;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fixed_format_points_at_the_field() {
        let bytes = Sense::invalid_field_in_cdb(2).to_bytes(SenseFormat::Fixed);
        assert_eq!(bytes, [0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0xC0, 0, 2]);
    }

    #[test]
    fn information_too_wide_for_the_fixed_format_is_left_out() {
        let sense = Sense::unrecovered_read(Lba(0x1_0000_0001));
        let fixed = sense.to_bytes(SenseFormat::Fixed);
        assert_eq!((fixed[0], &fixed[3..7]), (0x70, &[0; 4][..]));
        let descriptor = sense.to_bytes(SenseFormat::Descriptor);
        assert_eq!(&descriptor[8..], [0, 0x0A, 0x80, 0, 0, 0, 0, 1, 0, 0, 0, 1]);
        assert_eq!(Sense::write_error(Lba(7)).to_bytes(SenseFormat::Fixed)[..7], [0xF0, 0, 3, 0, 0, 0, 7]);
    }

    #[test]
    fn descriptor_format_counts_what_follows() {
        let mut sense = Sense::invalid_field_in_parameters(0x0102);
        sense.information = Some(1);
        let bytes = sense.to_bytes(SenseFormat::Descriptor);
        assert_eq!(usize::from(bytes[7]), bytes.len() - 8);
        assert_eq!(&bytes[20..], [0x02, 0x06, 0, 0, 0x80, 1, 2, 0]);
        assert_eq!(Sense::NO_SENSE.to_bytes(SenseFormat::Descriptor), [0x72, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn every_key_has_its_own_code() {
        for code in 0..16 {
            let back = SenseKey::from_code(code).map(SenseKey::code);
            assert_eq!(back, (code != 0xC).then_some(code));
        }
        assert_eq!(SenseKey::AbortedCommand.code(), 0xB);
        assert_eq!(SenseKey::Miscompare.code(), 0xE);
    }

    #[test]
    fn what_is_reported_is_read_back() {
        let mut both = Sense::invalid_field_in_parameters(7);
        both.information = Some(9);
        for sense in
            [Sense::NO_SENSE, Sense::UNIT_FAILURE, Sense::invalid_field_in_cdb(1), Sense::miscompare(3), both]
        {
            for format in [SenseFormat::Fixed, SenseFormat::Descriptor] {
                assert_eq!(Sense::from_bytes(&sense.to_bytes(format)), Some(sense));
            }
        }
        let cut = &Sense::MANUAL_INTERVENTION.to_bytes(SenseFormat::Fixed)[..14];
        assert_eq!(Sense::from_bytes(cut), Some(Sense::MANUAL_INTERVENTION));
    }

    proptest! {
        #[test]
        fn no_sense_data_breaks_anything(mut bytes in prop::collection::vec(any::<u8>(), 0..260), code in 0x70_u8..0x74) {
            let _ = Sense::from_bytes(&bytes);
            put(&mut bytes, 0, &[code]);
            let _ = Sense::from_bytes(&bytes);
        }
    }
}
