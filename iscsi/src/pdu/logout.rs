//! Logout Request and Logout Response (RFC 7143 sections 11.14 and 11.15).

use super::bhs::{FLAG_FINAL, Immediate};
use super::{Bhs, Cid, Itt, Opcode, PduError, RequestNumbers, ResponseNumbers};

/// What is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum LogoutReason {
    /// The session with all its connections.
    CloseSession = 0,
    /// One connection.
    CloseConnection = 1,
    /// One connection, whose tasks move to another; only at ErrorRecoveryLevel 2.
    RemoveForRecovery = 2,
}

/// A Logout Request PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogoutRequest {
    /// Delivery outside the order of CmdSN.
    pub immediate: Immediate,
    /// What is to be closed.
    pub reason: LogoutReason,
    /// Task tag.
    pub itt: Itt,
    /// Which connection, unless the session closes.
    pub cid: Cid,
    /// CmdSN and ExpStatSN.
    pub numbers: RequestNumbers,
}

impl LogoutRequest {
    /// Reads a header.
    ///
    /// # Errors
    /// When it is another PDU or the reason is unknown.
    pub fn parse(bhs: &Bhs) -> Result<Self, PduError> {
        bhs.expect_opcode(Opcode::LogoutRequest)?;
        let reason = match bhs.flags() & 0x7f {
            0 => LogoutReason::CloseSession,
            1 => LogoutReason::CloseConnection,
            2 => LogoutReason::RemoveForRecovery,
            _ => return Err(PduError::Field("logout reason")),
        };
        Ok(Self {
            immediate: bhs.immediate(),
            reason,
            itt: bhs.itt(),
            cid: Cid(bhs.u16::<20>()),
            numbers: bhs.request_numbers(),
        })
    }

    /// Writes the header.
    #[must_use]
    pub fn build(&self) -> Bhs {
        let mut bhs = Bhs::new_request(Opcode::LogoutRequest, self.immediate);
        bhs.set_flags(FLAG_FINAL | self.reason as u8);
        bhs.set_itt(self.itt);
        bhs.set_u16::<20>(self.cid.0);
        bhs.set_request_numbers(self.numbers);
        bhs
    }
}

/// How a logout went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum LogoutOutcome {
    /// Closed.
    Closed = 0,
    /// There is no such connection.
    CidNotFound = 1,
    /// No recovery here.
    RecoveryNotSupported = 2,
    /// It could not be cleaned up.
    CleanupFailed = 3,
}

/// A Logout Response PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogoutResponse {
    /// How it went.
    pub outcome: LogoutOutcome,
    /// Task tag of the request.
    pub itt: Itt,
    /// StatSN and the command window.
    pub numbers: ResponseNumbers,
    /// Seconds to wait before coming back.
    pub time2wait_s: u16,
    /// Seconds for which tasks are kept after that.
    pub time2retain_s: u16,
}

impl LogoutResponse {
    /// Reads a header.
    ///
    /// # Errors
    /// When it is another PDU or the outcome is unknown.
    pub fn parse(bhs: &Bhs) -> Result<Self, PduError> {
        bhs.expect_opcode(Opcode::LogoutResponse)?;
        let outcome = match bhs.byte::<2>() {
            0 => LogoutOutcome::Closed,
            1 => LogoutOutcome::CidNotFound,
            2 => LogoutOutcome::RecoveryNotSupported,
            3 => LogoutOutcome::CleanupFailed,
            _ => return Err(PduError::Field("logout response")),
        };
        Ok(Self {
            outcome,
            itt: bhs.itt(),
            numbers: bhs.response_numbers(),
            time2wait_s: bhs.u16::<40>(),
            time2retain_s: bhs.u16::<42>(),
        })
    }

    /// Writes the header.
    #[must_use]
    pub fn build(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::LogoutResponse);
        bhs.set_flags(FLAG_FINAL);
        bhs.set_byte::<2>(self.outcome as u8);
        bhs.set_itt(self.itt);
        bhs.set_response_numbers(self.numbers);
        bhs.set_u16::<40>(self.time2wait_s);
        bhs.set_u16::<42>(self.time2retain_s);
        bhs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logout_survives_the_way_out_and_back() {
        let request = LogoutRequest {
            immediate: Immediate::No,
            reason: LogoutReason::CloseConnection,
            itt: Itt(1),
            cid: Cid(2),
            numbers: RequestNumbers::default(),
        };
        assert_eq!(LogoutRequest::parse(&request.build()), Ok(request));
        let response = LogoutResponse {
            outcome: LogoutOutcome::RecoveryNotSupported,
            itt: Itt(1),
            numbers: ResponseNumbers::default(),
            time2wait_s: 2,
            time2retain_s: 0,
        };
        assert_eq!(LogoutResponse::parse(&response.build()), Ok(response));
    }
}
