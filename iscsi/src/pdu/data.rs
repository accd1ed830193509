//! SCSI Data-Out and Data-In (RFC 7143 section 11.7).

use super::bhs::FLAG_FINAL;
use super::command::Residual;
use super::{Bhs, Itt, Lun, Opcode, PduError, ResponseNumbers, Ttt};
use crate::serial::StatSn;

const ACKNOWLEDGE: u8 = 0x40;
const HAS_STATUS: u8 = 0x01;

/// A SCSI Data-Out PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataOut {
    /// Last PDU of its sequence.
    pub is_final: bool,
    /// Logical unit.
    pub lun: Lun,
    /// Task tag.
    pub itt: Itt,
    /// The R2T it answers, or [`Ttt::RESERVED`] for unsolicited data.
    pub ttt: Ttt,
    /// Acknowledged statuses.
    pub exp_stat_sn: StatSn,
    /// Place in its sequence.
    pub data_sn: u32,
    /// Place of the payload in the command's buffer.
    pub buffer_offset: u32,
    /// Length of the payload.
    pub data_bytes: u32,
}

impl DataOut {
    /// Reads a header.
    ///
    /// # Errors
    /// When it is another PDU.
    pub fn parse(bhs: &Bhs) -> Result<Self, PduError> {
        bhs.expect_opcode(Opcode::DataOut)?;
        Ok(Self {
            is_final: bhs.is_final(),
            lun: bhs.lun(),
            itt: bhs.itt(),
            ttt: bhs.ttt(),
            exp_stat_sn: StatSn(bhs.u32::<28>()),
            data_sn: bhs.u32::<36>(),
            buffer_offset: bhs.u32::<40>(),
            data_bytes: bhs.data_bytes(),
        })
    }

    /// Writes the header.
    #[must_use]
    pub fn build(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::DataOut);
        bhs.set_flags(if self.is_final { FLAG_FINAL } else { 0 });
        bhs.set_data_bytes(self.data_bytes);
        bhs.set_lun(self.lun);
        bhs.set_itt(self.itt);
        bhs.set_ttt(self.ttt);
        bhs.set_u32::<28>(self.exp_stat_sn.0);
        bhs.set_u32::<36>(self.data_sn);
        bhs.set_u32::<40>(self.buffer_offset);
        bhs
    }
}

/// Status that travels in the last Data-In of a command, which saves the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataInStatus {
    /// SCSI status; never one with sense data.
    pub status: u8,
    /// Residual of the transfer.
    pub residual: Residual,
}

/// A SCSI Data-In PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataIn {
    /// Last PDU of its sequence.
    pub is_final: bool,
    /// The target asks for a DataACK; only at ErrorRecoveryLevel 1 and above.
    pub acknowledge: bool,
    /// Status of the command, if this is its last PDU; StatSN is valid only then.
    pub status: Option<DataInStatus>,
    /// Logical unit, valid with a transfer tag.
    pub lun: Lun,
    /// Task tag.
    pub itt: Itt,
    /// Tag for a DataACK.
    pub ttt: Ttt,
    /// StatSN and the command window.
    pub numbers: ResponseNumbers,
    /// Place among the Data-In PDUs of the command.
    pub data_sn: u32,
    /// Place of the payload in the command's buffer.
    pub buffer_offset: u32,
    /// Length of the payload.
    pub data_bytes: u32,
}

impl DataIn {
    /// Reads a header.
    ///
    /// # Errors
    /// When it is another PDU, or status comes without the final bit.
    pub fn parse(bhs: &Bhs) -> Result<Self, PduError> {
        bhs.expect_opcode(Opcode::DataIn)?;
        let flags = bhs.flags();
        let status = if flags & HAS_STATUS == 0 {
            None
        } else if bhs.is_final() {
            let residual = Residual::parse(flags, bhs.u32::<44>())?;
            Some(DataInStatus { status: bhs.byte::<3>(), residual })
        } else {
            return Err(PduError::Field("status without final bit"));
        };
        Ok(Self {
            is_final: bhs.is_final(),
            acknowledge: flags & ACKNOWLEDGE != 0,
            status,
            lun: bhs.lun(),
            itt: bhs.itt(),
            ttt: bhs.ttt(),
            numbers: bhs.response_numbers(),
            data_sn: bhs.u32::<36>(),
            buffer_offset: bhs.u32::<40>(),
            data_bytes: bhs.data_bytes(),
        })
    }

    /// Writes the header; StatSN is left out where there is no status.
    #[must_use]
    pub fn build(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::DataIn);
        let mut flags = if self.is_final || self.status.is_some() { FLAG_FINAL } else { 0 };
        if self.acknowledge {
            flags |= ACKNOWLEDGE;
        }
        bhs.set_data_bytes(self.data_bytes);
        bhs.set_lun(self.lun);
        bhs.set_itt(self.itt);
        bhs.set_ttt(self.ttt);
        let mut numbers = self.numbers;
        if let Some(DataInStatus { status, residual }) = self.status {
            flags |= HAS_STATUS | residual.flags();
            bhs.set_byte::<3>(status);
            bhs.set_u32::<44>(residual.count());
        } else {
            numbers.stat_sn = StatSn(0);
        }
        bhs.set_flags(flags);
        bhs.set_response_numbers(numbers);
        bhs.set_u32::<36>(self.data_sn);
        bhs.set_u32::<40>(self.buffer_offset);
        bhs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serial::CmdSn;

    #[test]
    fn data_out_survives_the_way_out_and_back() {
        let data = DataOut {
            is_final: true,
            lun: [0, 3, 0, 0, 0, 0, 0, 0],
            itt: Itt(1),
            ttt: Ttt(2),
            exp_stat_sn: StatSn(3),
            data_sn: 4,
            buffer_offset: 5,
            data_bytes: 6,
        };
        assert_eq!(DataOut::parse(&data.build()), Ok(data));
    }

    #[test]
    fn data_in_survives_the_way_out_and_back_with_and_without_status() {
        let mut data = DataIn {
            is_final: true,
            acknowledge: false,
            status: Some(DataInStatus { status: 0, residual: Residual::Overflow(8) }),
            lun: [0; 8],
            itt: Itt(1),
            ttt: Ttt::RESERVED,
            numbers: ResponseNumbers { stat_sn: StatSn(9), exp_cmd_sn: CmdSn(2), max_cmd_sn: CmdSn(3) },
            data_sn: 4,
            buffer_offset: 5,
            data_bytes: 6,
        };
        assert_eq!(DataIn::parse(&data.build()), Ok(data));
        data.status = None;
        data.is_final = false;
        data.numbers.stat_sn = StatSn(0);
        assert_eq!(DataIn::parse(&data.build()), Ok(data));
    }

    #[test]
    fn status_in_the_middle_of_a_sequence_is_refused() {
        let mut bhs = Bhs::new(Opcode::DataIn);
        bhs.set_flags(HAS_STATUS);
        assert_eq!(DataIn::parse(&bhs), Err(PduError::Field("status without final bit")));
    }
}
