//! Reject (RFC 7143 section 11.17): a PDU was not taken. Its data segment is the header in error.

use super::bhs::FLAG_FINAL;
use super::{Bhs, Itt, Opcode, PduError, ResponseNumbers};

/// Why a PDU was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RejectReason {
    /// The data digest was wrong.
    DataDigestError = 2,
    /// A SNACK cannot be served.
    SnackReject = 3,
    /// Something that this standard forbids.
    ProtocolError = 4,
    /// Known, but not done here.
    CommandNotSupported = 5,
    /// Too many immediate commands.
    TooManyImmediate = 6,
    /// The task is still going on.
    TaskInProgress = 7,
    /// A DataACK makes no sense.
    InvalidDataAck = 8,
    /// A field holds something impossible.
    InvalidPduField = 9,
    /// No room.
    LongOperation = 10,
    /// The negotiation is given up.
    NegotiationReset = 11,
    /// The target waits for a logout.
    WaitingForLogout = 12,
}

/// A Reject PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    /// Why.
    pub reason: RejectReason,
    /// StatSN and the command window.
    pub numbers: ResponseNumbers,
    /// DataSN or R2TSN, where the reason needs one.
    pub data_sn: u32,
    /// Length of the header in error.
    pub data_bytes: u32,
}

impl Reject {
    /// Reads a header.
    ///
    /// # Errors
    /// When it is another PDU or the reason is unknown.
    pub fn parse(bhs: &Bhs) -> Result<Self, PduError> {
        bhs.expect_opcode(Opcode::Reject)?;
        let reason = match bhs.byte::<2>() {
            2 => RejectReason::DataDigestError,
            3 => RejectReason::SnackReject,
            4 => RejectReason::ProtocolError,
            5 => RejectReason::CommandNotSupported,
            6 => RejectReason::TooManyImmediate,
            7 => RejectReason::TaskInProgress,
            8 => RejectReason::InvalidDataAck,
            9 => RejectReason::InvalidPduField,
            10 => RejectReason::LongOperation,
            11 => RejectReason::NegotiationReset,
            12 => RejectReason::WaitingForLogout,
            _ => return Err(PduError::Field("reject reason")),
        };
        Ok(Self {
            reason,
            numbers: bhs.response_numbers(),
            data_sn: bhs.u32::<36>(),
            data_bytes: bhs.data_bytes(),
        })
    }

    /// Writes the header.
    #[must_use]
    pub fn build(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::Reject);
        bhs.set_flags(FLAG_FINAL);
        bhs.set_byte::<2>(self.reason as u8);
        bhs.set_data_bytes(self.data_bytes);
        bhs.set_itt(Itt::RESERVED);
        bhs.set_response_numbers(self.numbers);
        bhs.set_u32::<36>(self.data_sn);
        bhs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_reasons_survive_the_way_out_and_back() {
        let mut known = 0;
        for byte in 0..=0xff_u8 {
            let mut bhs = Bhs::new(Opcode::Reject);
            bhs.set_byte::<2>(byte);
            if let Ok(reject) = Reject::parse(&bhs) {
                known += 1;
                assert_eq!(Reject::parse(&reject.build()), Ok(reject));
            }
        }
        assert_eq!(known, 11);
    }
}
