//! The protocol data units of RFC 7143 chapter 11: one module each, parse and build in both directions.
//!
//! A PDU is a basic header segment of 48 bytes, additional header segments, and a data segment. [`Bhs`] is the
//! view over the 48 bytes that both sides share; each PDU has a representation with `parse` (bytes become a type that
//! cannot be wrong) and `build` (the other way). The data segment never passes through here.

pub mod ahs;
pub mod async_msg;
pub mod bhs;
pub mod command;
pub mod data;
pub mod login;
pub mod logout;
pub mod nop;
pub mod r2t;
pub mod reject;
pub mod task_mgmt;
pub mod text;

pub use bhs::{Bhs, Cid, Isid, Itt, Lun, Opcode, PduError, RequestNumbers, ResponseNumbers, Tsih, Ttt};
