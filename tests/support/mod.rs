//! What the tests of whole arrays share: the write-order checker, a host client of their own, child processes,
//! a proxy that breaks links.
//!
//! Every test binary includes this module and uses its own part of it.
#![allow(dead_code, unused_imports, reason = "each test binary uses its own part")]

pub(crate) mod iscsi;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod random;
pub(crate) mod wof;
