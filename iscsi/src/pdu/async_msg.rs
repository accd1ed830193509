//! Asynchronous Message (RFC 7143 section 11.9).

use super::bhs::FLAG_FINAL;
use super::{Bhs, Itt, Lun, Opcode, PduError, ResponseNumbers};

/// What happened, with the parameters that it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsyncEvent {
    /// A SCSI event; sense data is in the data segment.
    Scsi,
    /// Please log out within so many seconds.
    LogoutRequested {
        /// Seconds until the target drops the connection.
        within_s: u16,
    },
    /// One connection is dropped.
    ConnectionDropped {
        /// Which one.
        cid: u16,
        /// Seconds to wait before coming back.
        time2wait_s: u16,
        /// Seconds for which tasks are kept after that.
        time2retain_s: u16,
    },
    /// All connections of the session are dropped.
    SessionDropped {
        /// Seconds to wait before coming back.
        time2wait_s: u16,
        /// Seconds for which tasks are kept after that.
        time2retain_s: u16,
    },
    /// Please negotiate parameters within so many seconds.
    NegotiationRequested {
        /// Seconds until the target gives up.
        within_s: u16,
    },
    /// A vendor's own.
    Vendor {
        /// The vendor's code.
        code: u8,
    },
}

/// An Asynchronous Message PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsyncMessage {
    /// What happened.
    pub event: AsyncEvent,
    /// Logical unit of a SCSI event.
    pub lun: Lun,
    /// StatSN and the command window.
    pub numbers: ResponseNumbers,
    /// Sense length and sense of a SCSI event.
    pub data_bytes: u32,
}

impl AsyncMessage {
    /// Reads a header.
    ///
    /// # Errors
    /// When it is another PDU or the event is unknown.
    pub fn parse(bhs: &Bhs) -> Result<Self, PduError> {
        bhs.expect_opcode(Opcode::AsyncMessage)?;
        let (first, second, third) = (bhs.u16::<38>(), bhs.u16::<40>(), bhs.u16::<42>());
        let event = match bhs.byte::<36>() {
            0 => AsyncEvent::Scsi,
            1 => AsyncEvent::LogoutRequested { within_s: third },
            2 => AsyncEvent::ConnectionDropped { cid: first, time2wait_s: second, time2retain_s: third },
            3 => AsyncEvent::SessionDropped { time2wait_s: second, time2retain_s: third },
            4 => AsyncEvent::NegotiationRequested { within_s: third },
            255 => AsyncEvent::Vendor { code: bhs.byte::<37>() },
            _ => return Err(PduError::Field("asynchronous event")),
        };
        Ok(Self { event, lun: bhs.lun(), numbers: bhs.response_numbers(), data_bytes: bhs.data_bytes() })
    }

    /// Writes the header.
    #[must_use]
    pub fn build(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::AsyncMessage);
        bhs.set_flags(FLAG_FINAL);
        bhs.set_data_bytes(self.data_bytes);
        bhs.set_lun(self.lun);
        bhs.set_itt(Itt::RESERVED);
        bhs.set_response_numbers(self.numbers);
        let (kind, code, first, second, third) = match self.event {
            AsyncEvent::Scsi => (0, 0, 0, 0, 0),
            AsyncEvent::LogoutRequested { within_s } => (1, 0, 0, 0, within_s),
            AsyncEvent::ConnectionDropped { cid, time2wait_s, time2retain_s } => {
                (2, 0, cid, time2wait_s, time2retain_s)
            }
            AsyncEvent::SessionDropped { time2wait_s, time2retain_s } => {
                (3, 0, 0, time2wait_s, time2retain_s)
            }
            AsyncEvent::NegotiationRequested { within_s } => (4, 0, 0, 0, within_s),
            AsyncEvent::Vendor { code } => (255, code, 0, 0, 0),
        };
        bhs.set_byte::<36>(kind);
        bhs.set_byte::<37>(code);
        bhs.set_u16::<38>(first);
        bhs.set_u16::<40>(second);
        bhs.set_u16::<42>(third);
        bhs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_events_survive_the_way_out_and_back() {
        let (cid, time2wait_s, time2retain_s, within_s) = (1, 2, 3, 4);
        for event in [
            AsyncEvent::Scsi,
            AsyncEvent::LogoutRequested { within_s },
            AsyncEvent::ConnectionDropped { cid, time2wait_s, time2retain_s },
            AsyncEvent::SessionDropped { time2wait_s, time2retain_s },
            AsyncEvent::NegotiationRequested { within_s },
            AsyncEvent::Vendor { code: 7 },
        ] {
            let message =
                AsyncMessage { event, lun: [0; 8], numbers: ResponseNumbers::default(), data_bytes: 0 };
            assert_eq!(AsyncMessage::parse(&message.build()), Ok(message));
        }
    }
}
