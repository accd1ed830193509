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

/// The category of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SenseKey {
    /// Nothing to report.
    NoSense,
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
    /// The command was given up; a repeat may succeed.
    AbortedCommand,
    /// Compared data differed.
    Miscompare,
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

/// A condition in the words of SPC-4. The constructors below are the only ones in use, so one list shows all that can be reported.
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
    /// The volume behind the unit has failed.
    pub const UNIT_FAILURE: Self = Self::new(SenseKey::HardwareError, 0x3E, 0x01);
    /// The array could not do what it should have.
    pub const INTERNAL_FAILURE: Self = Self::new(SenseKey::HardwareError, 0x44, 0x00);
    /// Not enough memory or table space for the command.
    pub const INSUFFICIENT_RESOURCES: Self = Self::new(SenseKey::AbortedCommand, 0x55, 0x03);
    /// A data segment arrived damaged (data digest).
    pub const DATA_CRC_ERROR: Self = Self::new(SenseKey::AbortedCommand, 0x47, 0x05);
    /// Fewer bytes arrived, or in another order, than the transport's rules say.
    pub const DATA_PHASE_ERROR: Self = Self::new(SenseKey::AbortedCommand, 0x4B, 0x00);
    /// The initiator did not send in time what it was asked for.
    pub const NEXUS_TIMEOUT: Self = Self::new(SenseKey::AbortedCommand, 0x4B, 0x06);

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

    fn fixed(&self) -> [u8; 18] {
        let fitting = self.information.and_then(|value| u32::try_from(value).ok());
        let valid = if fitting.is_some() { 0x80 } else { 0x00 };
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
        crate::wire::put(&mut bytes, 7, &[length]);
        bytes
    }

    /// SKSV, C/D and the field pointer; the bit pointer is not used.
    fn specific(&self) -> [u8; 3] {
        let (flags, byte) = match self.field {
            None => return [0; 3],
            Some(FieldPointer::Cdb(byte)) => (0xC0, byte),
            Some(FieldPointer::ParameterList(byte)) => (0x80, byte),
        };
        let [high, low] = byte.to_be_bytes();
        [flags, high, low]
    }
}

impl SenseKey {
    /// The code on the wire.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::NoSense => 0x0,
            Self::NotReady => 0x2,
            Self::MediumError => 0x3,
            Self::HardwareError => 0x4,
            Self::IllegalRequest => 0x5,
            Self::UnitAttention => 0x6,
            Self::DataProtect => 0x7,
            Self::AbortedCommand => 0xB,
            Self::Miscompare => 0xE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
