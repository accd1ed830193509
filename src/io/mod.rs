//! The way of a host's command through the array: from what the device server admits to status.
//!
//! `host` answers the commands of one session at one target (`luns`), `volume` makes changes visible and durable, `manner` says how
//! those do that look before they write. `verify` and `third_party` are commands that read in steps.

mod answered;
mod counted;
mod elsewhere;
mod error;
#[cfg(test)]
mod figures;
mod forward;
pub mod host;
pub mod lun;
pub mod luns;
pub mod manner;
pub(crate) mod pieces;
mod size;
mod third_party;
mod verify;
pub mod volume;
