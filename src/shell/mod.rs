//! The maintenance shell: one command tree for the binary, the local socket and whatever else talks to operators.
//!
//! It sees the array through [`view::Console`] only.

pub mod change;
pub mod client;
pub mod command;
mod compare;
pub mod complete;
pub mod edit;
pub mod parse;
mod print;
pub mod prompt;
pub mod prompt_local;
pub mod schedule;
pub mod socket;
pub mod ssh;
pub mod view;
mod view_compare;
mod view_drill;
mod view_event;
mod view_group;
mod view_link;
mod view_snapshot;
mod view_takeover;

pub(crate) use print::{document, escape};
