//! Holdfast: a storage array in software, whose consistent copies live at two or three sites.
//!
//! `docs/architecture.md` is the map.

pub mod array;
pub mod channel;
pub mod clock;
pub mod config;
pub mod copy;
pub mod demo;
pub mod disk;
pub mod fsck;
pub mod io;
pub mod proof_check;
pub mod relay_apply;
pub mod relay_check;
pub mod serve;
pub mod shell;
pub mod volume;
pub mod web;
