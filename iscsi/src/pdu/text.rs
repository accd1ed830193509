//! Text Request and Text Response (RFC 7143 sections 11.10 and 11.11).

use super::bhs::{FLAG_FINAL, Immediate};
use super::{Bhs, Itt, Lun, Opcode, PduError, RequestNumbers, ResponseNumbers, Ttt};

const CONTINUE: u8 = 0x40;

/// A Text Request PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextRequest {
    /// Delivery outside the order of CmdSN.
    pub immediate: Immediate,
    /// The initiator has no more to say.
    pub is_final: bool,
    /// The text goes on in the next request.
    pub is_continued: bool,
    /// Repeated from the target's answer, with the transfer tag.
    pub lun: Lun,
    /// Task tag.
    pub itt: Itt,
    /// Repeated from the target's answer, or [`Ttt::RESERVED`] to begin anew.
    pub ttt: Ttt,
    /// CmdSN and ExpStatSN.
    pub numbers: RequestNumbers,
    /// Length of the text.
    pub data_bytes: u32,
}

impl TextRequest {
    /// Reads a header.
    ///
    /// # Errors
    /// When it is another PDU, or it is final and goes on at once.
    pub fn parse(bhs: &Bhs) -> Result<Self, PduError> {
        bhs.expect_opcode(Opcode::TextRequest)?;
        Ok(Self {
            immediate: bhs.immediate(),
            is_final: bhs.is_final(),
            is_continued: continues(bhs)?,
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
        let mut bhs = Bhs::new_request(Opcode::TextRequest, self.immediate);
        bhs.set_flags(flags(self.is_final, self.is_continued));
        bhs.set_data_bytes(self.data_bytes);
        bhs.set_lun(self.lun);
        bhs.set_itt(self.itt);
        bhs.set_ttt(self.ttt);
        bhs.set_request_numbers(self.numbers);
        bhs
    }
}

/// A Text Response PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextResponse {
    /// The target has no more to say.
    pub is_final: bool,
    /// The text goes on in the next response, for which the initiator has to ask.
    pub is_continued: bool,
    /// To be repeated with the transfer tag.
    pub lun: Lun,
    /// Task tag, repeated.
    pub itt: Itt,
    /// Tag to ask for more with; [`Ttt::RESERVED`] in a final response.
    pub ttt: Ttt,
    /// StatSN and the command window.
    pub numbers: ResponseNumbers,
    /// Length of the text.
    pub data_bytes: u32,
}

impl TextResponse {
    /// Reads a header.
    ///
    /// # Errors
    /// When it is another PDU, or it is final and goes on at once.
    pub fn parse(bhs: &Bhs) -> Result<Self, PduError> {
        bhs.expect_opcode(Opcode::TextResponse)?;
        Ok(Self {
            is_final: bhs.is_final(),
            is_continued: continues(bhs)?,
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
        let mut bhs = Bhs::new(Opcode::TextResponse);
        bhs.set_flags(flags(self.is_final, self.is_continued));
        bhs.set_data_bytes(self.data_bytes);
        bhs.set_lun(self.lun);
        bhs.set_itt(self.itt);
        bhs.set_ttt(self.ttt);
        bhs.set_response_numbers(self.numbers);
        bhs
    }
}

fn flags(is_final: bool, is_continued: bool) -> u8 {
    (if is_final { FLAG_FINAL } else { 0 }) | (if is_continued { CONTINUE } else { 0 })
}

fn continues(bhs: &Bhs) -> Result<bool, PduError> {
    let continued = bhs.flags() & CONTINUE != 0;
    if continued && bhs.is_final() {
        return Err(PduError::Field("text bits F and C together"));
    }
    Ok(continued)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_pdus_survive_the_way_out_and_back() {
        let request = TextRequest {
            immediate: Immediate::Yes,
            is_final: true,
            is_continued: false,
            lun: [0; 8],
            itt: Itt(4),
            ttt: Ttt::RESERVED,
            numbers: RequestNumbers::default(),
            data_bytes: 16,
        };
        assert_eq!(TextRequest::parse(&request.build()), Ok(request));
        let response = TextResponse {
            is_final: false,
            is_continued: true,
            lun: [0; 8],
            itt: Itt(4),
            ttt: Ttt(8),
            numbers: ResponseNumbers::default(),
            data_bytes: 8192,
        };
        assert_eq!(TextResponse::parse(&response.build()), Ok(response));
    }

    #[test]
    fn final_and_continued_exclude_each_other() {
        let mut bhs = Bhs::new(Opcode::TextRequest);
        bhs.set_flags(FLAG_FINAL | CONTINUE);
        assert!(TextRequest::parse(&bhs).is_err());
    }
}
