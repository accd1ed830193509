//! An iSCSI host of the tests' own, written from RFC 7143 alone: an independent witness of what the array does on the
//! wire. One connection a session, no authentication, any queue depth, optional digests.
//!
//! A command that has no answer within [`COMMAND_LIMIT`] ends its session: the next one logs in with the same ISID,
//! which reinstates the session and so ends the tasks of the old one.

mod pdu;
mod port;
mod session;

pub(crate) use port::{IscsiPort, PortOptions};
pub(crate) use session::{Digests, Session, SessionOptions, Transfer};

/// The longest time that a command may take.
pub(crate) const COMMAND_LIMIT: std::time::Duration = std::time::Duration::from_secs(20);
