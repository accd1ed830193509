//! The way of a host's command through the array: from what the device server admits to status.
//!
//! `host` answers the commands of one session at one target, `volume` makes changes visible and durable.

pub mod host;
pub mod lun;
mod pieces;
pub mod volume;
