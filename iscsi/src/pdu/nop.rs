//! NOP-Out and NOP-In (RFC 7143 sections 11.18 and 11.19): pings of both sides.

use super::bhs::{FLAG_FINAL, Immediate};
use super::{Bhs, Itt, Lun, Opcode, PduError, RequestNumbers, ResponseNumbers, Ttt};

/// A NOP-Out PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NopOut {
    /// Delivery outside the order of CmdSN.
    pub immediate: Immediate,
    /// Repeated from the target's ping.
    pub lun: Lun,
    /// Tag of the initiator's ping, or reserved when no answer is wanted.
    pub itt: Itt,
    /// Tag of the target's ping that this answers, or reserved.
    pub ttt: Ttt,
    /// CmdSN and ExpStatSN.
    pub numbers: RequestNumbers,
    /// Length of the ping data.
    pub data_bytes: u32,
}

impl NopOut {
    /// Reads a header.
    ///
    /// # Errors
    /// When it is another PDU.
    pub fn parse(bhs: &Bhs) -> Result<Self, PduError> {
        bhs.expect_opcode(Opcode::NopOut)?;
        Ok(Self {
            immediate: bhs.immediate(),
            lun: bhs.lun(),
            itt: bhs.itt(),
            ttt: bhs.ttt(),
            numbers: bhs.request_numbers(),
            data_bytes: bhs.data_bytes(),
        })
    }

    /// Writes the header.
    #[must_use]
    pub fn build(&self) -> Bhs {
        let mut bhs = Bhs::new_request(Opcode::NopOut, self.immediate);
        bhs.set_flags(FLAG_FINAL);
        bhs.set_data_bytes(self.data_bytes);
        bhs.set_lun(self.lun);
        bhs.set_itt(self.itt);
        bhs.set_ttt(self.ttt);
        bhs.set_request_numbers(self.numbers);
        bhs
    }
}

/// A NOP-In PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NopIn {
    /// To be repeated with the transfer tag.
    pub lun: Lun,
    /// Tag of the initiator's ping that this answers, or reserved.
    pub itt: Itt,
    /// Tag of the target's ping, or reserved when no answer is wanted.
    pub ttt: Ttt,
    /// StatSN (taken only by an answer) and the command window.
    pub numbers: ResponseNumbers,
    /// Length of the ping data.
    pub data_bytes: u32,
}

impl NopIn {
    /// Reads a header.
    ///
    /// # Errors
    /// When it is another PDU.
    pub fn parse(bhs: &Bhs) -> Result<Self, PduError> {
        bhs.expect_opcode(Opcode::NopIn)?;
        Ok(Self {
            lun: bhs.lun(),
            itt: bhs.itt(),
            ttt: bhs.ttt(),
            numbers: bhs.response_numbers(),
            data_bytes: bhs.data_bytes(),
        })
    }

    /// Writes the header.
    #[must_use]
    pub fn build(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::NopIn);
        bhs.set_flags(FLAG_FINAL);
        bhs.set_data_bytes(self.data_bytes);
        bhs.set_lun(self.lun);
        bhs.set_itt(self.itt);
        bhs.set_ttt(self.ttt);
        bhs.set_response_numbers(self.numbers);
        bhs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_survive_the_way_out_and_back() {
        let out = NopOut {
            immediate: Immediate::Yes,
            lun: [0; 8],
            itt: Itt(3),
            ttt: Ttt::RESERVED,
            numbers: RequestNumbers::default(),
            data_bytes: 4,
        };
        assert_eq!(NopOut::parse(&out.build()), Ok(out));
        let back = NopIn {
            lun: [0; 8],
            itt: Itt(3),
            ttt: Ttt::RESERVED,
            numbers: ResponseNumbers::default(),
            data_bytes: 4,
        };
        assert_eq!(NopIn::parse(&back.build()), Ok(back));
    }
}
