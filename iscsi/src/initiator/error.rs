//! Why a connection of the initiator ends. The target is not trusted: most variants are its fault.

use crate::pdu::login::LoginStatus;
use crate::pdu::reject::RejectReason;
use crate::pdu::{Itt, Opcode, PduError};
use alloc::string::String;
use core::fmt;

/// Why a connection ended. After any of them nothing more may be sent or received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// A header makes no sense.
    Pdu(PduError),
    /// A PDU came that has no place here.
    Unexpected(Opcode),
    /// A length, an offset or a number contradicts what was agreed; the word says which.
    Protocol(&'static str),
    /// A PDU names a task that does not exist.
    UnknownTask(Itt),
    /// A header or data digest is wrong.
    Digest,
    /// The target refused the login.
    LoginRefused(LoginStatus),
    /// The target is to be found at another address.
    Redirected {
        /// Where, as the target wrote it.
        address: String,
    },
    /// One of the two sides does not prove who it is; the word says what failed.
    Authentication(&'static str),
    /// The answer to a key is not one that may be given.
    Negotiation(&'static str),
    /// The target rejected a PDU.
    Rejected(RejectReason),
    /// The target announced that it drops the connection.
    Dropped,
    /// The login took too long.
    LoginTimedOut,
    /// The target does not answer a ping.
    PingTimedOut,
    /// A command was not answered in time. Only the end of the connection makes sure that it does not act later.
    CommandTimedOut,
}

impl From<PduError> for Error {
    fn from(error: PduError) -> Self {
        Self::Pdu(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pdu(error) => write!(f, "the target sent a malformed PDU ({error:?})"),
            Self::Unexpected(opcode) => write!(f, "the target sent {opcode:?} out of place"),
            Self::Protocol(what) => write!(f, "the target broke the protocol: {what}"),
            Self::UnknownTask(itt) => {
                write!(f, "the target answered a task that does not exist ({:#x})", itt.0)
            }
            Self::Digest => f.write_str("a digest is wrong"),
            Self::LoginRefused(status) => {
                write!(f, "login refused: class {}, detail {}", status.class, status.detail)
            }
            Self::Redirected { address } => write!(f, "login redirected to {address:?}"),
            Self::Authentication(what) => write!(f, "authentication failed: {what}"),
            Self::Negotiation(key) => write!(f, "no agreement on {key}"),
            Self::Rejected(reason) => write!(f, "the target rejected a PDU: {reason:?}"),
            Self::Dropped => f.write_str("the target drops the connection"),
            Self::LoginTimedOut => f.write_str("the login took too long"),
            Self::PingTimedOut => f.write_str("the target does not answer"),
            Self::CommandTimedOut => f.write_str("a command was not answered in time"),
        }
    }
}

impl core::error::Error for Error {}
