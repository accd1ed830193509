//! iSCSI without I/O: PDUs, text negotiation, login, discovery, sessions (RFC 7143).
//!
//! Nothing here reads a socket, a clock or a random device: bytes and time come in as arguments, PDUs and
//! events go out through `poll_*`. One connection per session (MaxConnections=1), ErrorRecoveryLevel 0.
#![no_std]
extern crate alloc;

pub mod chap;
pub mod digest;
pub mod discovery;
pub mod initiator;
mod login;
pub mod name;
pub mod params;
pub mod pdu;
pub mod serial;
pub mod target;
pub mod text;
