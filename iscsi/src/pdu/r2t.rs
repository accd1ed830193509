//! Ready To Transfer (RFC 7143 section 11.8).

use super::bhs::FLAG_FINAL;
use super::{Bhs, Itt, Lun, Opcode, PduError, ResponseNumbers, Ttt};

/// An R2T PDU: the target asks for a part of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadyToTransfer {
    /// Logical unit.
    pub lun: Lun,
    /// Task tag.
    pub itt: Itt,
    /// Tag that the Data-Out PDUs repeat; never reserved.
    pub ttt: Ttt,
    /// The next StatSN (an R2T takes none) and the command window.
    pub numbers: ResponseNumbers,
    /// Place among the R2Ts of the command.
    pub r2t_sn: u32,
    /// Place in the command's buffer.
    pub buffer_offset: u32,
    /// Bytes asked for; never zero.
    pub desired_length: u32,
}

impl ReadyToTransfer {
    /// Reads a header.
    ///
    /// # Errors
    /// When it is another PDU, its tag is reserved or it asks for nothing.
    pub fn parse(bhs: &Bhs) -> Result<Self, PduError> {
        bhs.expect_opcode(Opcode::ReadyToTransfer)?;
        let r2t = Self {
            lun: bhs.lun(),
            itt: bhs.itt(),
            ttt: bhs.ttt(),
            numbers: bhs.response_numbers(),
            r2t_sn: bhs.u32::<36>(),
            buffer_offset: bhs.u32::<40>(),
            desired_length: bhs.u32::<44>(),
        };
        if r2t.ttt == Ttt::RESERVED {
            return Err(PduError::Field("target transfer tag"));
        }
        if r2t.desired_length == 0 {
            return Err(PduError::Field("desired data transfer length"));
        }
        Ok(r2t)
    }

    /// Writes the header.
    #[must_use]
    pub fn build(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::ReadyToTransfer);
        bhs.set_flags(FLAG_FINAL);
        bhs.set_lun(self.lun);
        bhs.set_itt(self.itt);
        bhs.set_ttt(self.ttt);
        bhs.set_response_numbers(self.numbers);
        bhs.set_u32::<36>(self.r2t_sn);
        bhs.set_u32::<40>(self.buffer_offset);
        bhs.set_u32::<44>(self.desired_length);
        bhs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_r2t_survives_the_way_out_and_back_and_must_ask_for_something() {
        let mut r2t = ReadyToTransfer {
            lun: [0; 8],
            itt: Itt(1),
            ttt: Ttt(2),
            numbers: ResponseNumbers::default(),
            r2t_sn: 3,
            buffer_offset: 4096,
            desired_length: 8192,
        };
        assert_eq!(ReadyToTransfer::parse(&r2t.build()), Ok(r2t));
        r2t.desired_length = 0;
        assert!(ReadyToTransfer::parse(&r2t.build()).is_err());
    }
}
