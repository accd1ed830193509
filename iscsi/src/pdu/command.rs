//! SCSI Command and SCSI Response (RFC 7143 sections 11.3 and 11.4).
//!
//! The data segment of a response is `SenseLength (2 bytes), sense, response data`; [`split_sense`] and
//! [`join_sense`] are the two directions.

use super::ahs::Cdb;
use super::bhs::{FLAG_FINAL, Immediate};
use super::{Bhs, Itt, Lun, Opcode, PduError, RequestNumbers, ResponseNumbers};
use alloc::vec::Vec;

/// Sense data in a response is never longer than this (SPC: 252 bytes); the rest is cut off.
pub const MAX_SENSE_BYTES: usize = 252;

const READ: u8 = 0x40;
const WRITE: u8 = 0x20;
const ATTRIBUTE_MASK: u8 = 0x07;
const BIDIRECTIONAL_OVERFLOW: u8 = 0x10;
const BIDIRECTIONAL_UNDERFLOW: u8 = 0x08;
pub(super) const OVERFLOW: u8 = 0x04;
pub(super) const UNDERFLOW: u8 = 0x02;

/// Task attribute (RFC 7143 section 11.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TaskAttribute {
    /// No attribute; the device server treats it as simple.
    #[default]
    Untagged,
    /// May be reordered.
    Simple,
    /// After all before it, before all after it.
    Ordered,
    /// Before all others.
    HeadOfQueue,
    /// Auto contingent allegiance.
    Aca,
}

/// Which way data moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// No data.
    None,
    /// From the target to the initiator.
    Read,
    /// From the initiator to the target.
    Write,
    /// Both ways; refused everywhere here.
    Bidirectional,
}

/// A SCSI Command PDU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScsiCommand {
    /// Delivery outside the order of CmdSN.
    pub immediate: Immediate,
    /// No unsolicited Data-Out follows.
    pub is_final: bool,
    /// Which way data moves.
    pub direction: Direction,
    /// Task attribute.
    pub attribute: TaskAttribute,
    /// Logical unit.
    pub lun: Lun,
    /// Task tag.
    pub itt: Itt,
    /// Bytes that the initiator expects to move.
    pub expected_length: u32,
    /// CmdSN and ExpStatSN.
    pub numbers: RequestNumbers,
    /// The command; its extended part is not in the header.
    pub cdb: Cdb,
    /// Immediate data in this PDU.
    pub data_bytes: u32,
}

impl ScsiCommand {
    /// Reads a header and its additional segments.
    ///
    /// # Errors
    /// When it is another PDU, an attribute is unknown or a segment is refused.
    pub fn parse(bhs: &Bhs, ahs: &[u8]) -> Result<Self, PduError> {
        bhs.expect_opcode(Opcode::ScsiCommand)?;
        let flags = bhs.flags();
        Ok(Self {
            immediate: bhs.immediate(),
            is_final: bhs.is_final(),
            direction: match (flags & READ != 0, flags & WRITE != 0) {
                (false, false) => Direction::None,
                (true, false) => Direction::Read,
                (false, true) => Direction::Write,
                (true, true) => Direction::Bidirectional,
            },
            attribute: match flags & ATTRIBUTE_MASK {
                0 => TaskAttribute::Untagged,
                1 => TaskAttribute::Simple,
                2 => TaskAttribute::Ordered,
                3 => TaskAttribute::HeadOfQueue,
                4 => TaskAttribute::Aca,
                _ => return Err(PduError::Field("task attribute")),
            },
            lun: bhs.lun(),
            itt: bhs.itt(),
            expected_length: bhs.u32::<20>(),
            numbers: bhs.request_numbers(),
            cdb: Cdb::new(bhs.take::<32, 16>()).with_ahs(ahs)?,
            data_bytes: bhs.data_bytes(),
        })
    }

    /// Writes the header; the extended part of the CDB goes out through [`Cdb::build_ahs`].
    #[must_use]
    pub fn build(&self) -> Bhs {
        let mut bhs = Bhs::new_request(Opcode::ScsiCommand, self.immediate);
        let attribute = match self.attribute {
            TaskAttribute::Untagged => 0,
            TaskAttribute::Simple => 1,
            TaskAttribute::Ordered => 2,
            TaskAttribute::HeadOfQueue => 3,
            TaskAttribute::Aca => 4,
        };
        let direction = match self.direction {
            Direction::None => 0,
            Direction::Read => READ,
            Direction::Write => WRITE,
            Direction::Bidirectional => READ | WRITE,
        };
        bhs.set_flags(if self.is_final { FLAG_FINAL } else { 0 } | direction | attribute);
        let extended = self.cdb.extended_part().len();
        if extended > 0 {
            bhs.set_ahs_words(u8::try_from((4 + extended).div_ceil(4)).unwrap_or(u8::MAX));
        }
        bhs.set_data_bytes(self.data_bytes);
        bhs.set_lun(self.lun);
        bhs.set_itt(self.itt);
        bhs.set_u32::<20>(self.expected_length);
        bhs.set_request_numbers(self.numbers);
        bhs.put::<32, 16>(self.cdb.header_part());
        bhs
    }
}

/// How the bytes that a command moves compare with those that the initiator expected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Residual {
    /// They are equal.
    #[default]
    None,
    /// So many bytes fewer were moved.
    Underflow(u32),
    /// So many bytes more would have been moved.
    Overflow(u32),
}

impl Residual {
    /// Compares what the command itself would move with what the initiator expected.
    #[must_use]
    pub fn of(command_bytes: u64, expected_length: u32) -> Self {
        let expected = u64::from(expected_length);
        let capped = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
        match command_bytes {
            bytes if bytes < expected => Self::Underflow(capped(expected - bytes)),
            bytes if bytes > expected => Self::Overflow(capped(bytes - expected)),
            _ => Self::None,
        }
    }

    pub(super) fn flags(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Underflow(_) => UNDERFLOW,
            Self::Overflow(_) => OVERFLOW,
        }
    }

    pub(super) fn count(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Underflow(bytes) | Self::Overflow(bytes) => bytes,
        }
    }

    pub(super) fn parse(flags: u8, count: u32) -> Result<Self, PduError> {
        match (flags & OVERFLOW != 0, flags & UNDERFLOW != 0) {
            (false, false) => Ok(Self::None),
            (false, true) => Ok(Self::Underflow(count)),
            (true, false) => Ok(Self::Overflow(count)),
            (true, true) => Err(PduError::Field("residual flags")),
        }
    }
}

/// A SCSI Response PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScsiResponse {
    /// Task tag.
    pub itt: Itt,
    /// iSCSI service response: 0 completed at target, 1 target failure.
    pub response: u8,
    /// SCSI status.
    pub status: u8,
    /// Residual of the transfer.
    pub residual: Residual,
    /// StatSN and the command window.
    pub numbers: ResponseNumbers,
    /// Data-In and R2T PDUs that went out for this command.
    pub exp_data_sn: u32,
    /// Sense length, sense and response data.
    pub data_bytes: u32,
}

impl ScsiResponse {
    /// Reads a header.
    ///
    /// # Errors
    /// When it is another PDU or its residual flags contradict each other.
    pub fn parse(bhs: &Bhs) -> Result<Self, PduError> {
        bhs.expect_opcode(Opcode::ScsiResponse)?;
        if bhs.flags() & (BIDIRECTIONAL_OVERFLOW | BIDIRECTIONAL_UNDERFLOW) != 0 {
            return Err(PduError::Field("bidirectional residual"));
        }
        Ok(Self {
            itt: bhs.itt(),
            response: bhs.byte::<2>(),
            status: bhs.byte::<3>(),
            residual: Residual::parse(bhs.flags(), bhs.u32::<44>())?,
            numbers: bhs.response_numbers(),
            exp_data_sn: bhs.u32::<36>(),
            data_bytes: bhs.data_bytes(),
        })
    }

    /// Writes the header.
    #[must_use]
    pub fn build(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::ScsiResponse);
        bhs.set_flags(FLAG_FINAL | self.residual.flags());
        bhs.set_byte::<2>(self.response);
        bhs.set_byte::<3>(self.status);
        bhs.set_data_bytes(self.data_bytes);
        bhs.set_itt(self.itt);
        bhs.set_response_numbers(self.numbers);
        bhs.set_u32::<36>(self.exp_data_sn);
        bhs.set_u32::<44>(self.residual.count());
        bhs
    }
}

/// The data segment of a response with this sense data; empty when there is none.
#[must_use]
pub fn join_sense(sense: &[u8]) -> Vec<u8> {
    let kept = sense.get(..MAX_SENSE_BYTES).unwrap_or(sense);
    if kept.is_empty() {
        return Vec::new();
    }
    let length = u16::try_from(kept.len()).unwrap_or_default();
    let mut segment = Vec::with_capacity(2 + kept.len());
    segment.extend_from_slice(&length.to_be_bytes());
    segment.extend_from_slice(kept);
    segment
}

/// The sense data in the data segment of a response; empty when there is none or its length is a lie.
#[must_use]
pub fn split_sense(segment: &[u8]) -> &[u8] {
    let Some((length, rest)) = segment.split_first_chunk() else { return &[] };
    rest.get(..usize::from(u16::from_be_bytes(*length))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serial::{CmdSn, StatSn};

    #[test]
    fn a_command_survives_the_way_out_and_back() {
        let command = ScsiCommand {
            immediate: Immediate::No,
            is_final: true,
            direction: Direction::Write,
            attribute: TaskAttribute::Ordered,
            lun: [0, 1, 0, 0, 0, 0, 0, 0],
            itt: Itt(7),
            expected_length: 4096,
            numbers: RequestNumbers { cmd_sn: CmdSn(3), exp_stat_sn: StatSn(4) },
            cdb: Cdb::from_slice(&[0x8a; 33]).unwrap(),
            data_bytes: 512,
        };
        let bhs = command.build();
        let mut out = [0; super::super::ahs::MAX_AHS_BYTES];
        let ahs = command.cdb.build_ahs(&mut out);
        assert_eq!(bhs.ahs_bytes(), ahs.len());
        assert_eq!(ScsiCommand::parse(&bhs, ahs), Ok(command));
    }

    #[test]
    fn a_response_survives_the_way_out_and_back() {
        let response = ScsiResponse {
            itt: Itt(7),
            response: 0,
            status: 2,
            residual: Residual::Underflow(99),
            numbers: ResponseNumbers { stat_sn: StatSn(1), exp_cmd_sn: CmdSn(2), max_cmd_sn: CmdSn(3) },
            exp_data_sn: 5,
            data_bytes: 20,
        };
        assert_eq!(ScsiResponse::parse(&response.build()), Ok(response));
    }

    #[test]
    fn residuals_compare_what_moves_with_what_was_expected() {
        assert_eq!(Residual::of(512, 512), Residual::None);
        assert_eq!(Residual::of(512, 1024), Residual::Underflow(512));
        assert_eq!(Residual::of(1024, 512), Residual::Overflow(512));
        assert_eq!(Residual::of(u64::MAX, 0), Residual::Overflow(u32::MAX));
    }

    #[test]
    fn sense_is_cut_to_its_limit_and_a_lying_length_gives_none() {
        assert_eq!(split_sense(&join_sense(&[7; 18])), &[7; 18]);
        assert_eq!(split_sense(&join_sense(&[7; 500])).len(), MAX_SENSE_BYTES);
        assert_eq!(split_sense(&[0, 9, 1]), b"");
        assert!(join_sense(&[]).is_empty());
    }
}
