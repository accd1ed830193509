//! What the array is made of: volumes, pairs, groups, pointers, and the store that keeps their tables.
//!
//! A leaf: it knows nothing of devices, connections or the journal's bytes. Mission rows A2 to A6 and J15.

pub(crate) mod apply;
pub mod ask;
pub mod compare;
pub mod designation;
pub mod drill;
pub mod effect;
pub mod group;
pub mod keep;
pub mod kind;
pub mod name;
mod objects;
pub mod onward;
mod outcome;
pub mod pair;
pub mod pointer;
pub mod position;
pub mod proof;
pub mod record;
pub mod rejoin;
pub mod relay;
mod remote;
pub mod resync;
pub mod reversal;
mod rewind;
pub mod secret;
mod settings;
pub mod shown;
pub mod snapshot;
mod speaker;
pub mod store;
pub mod table;
pub mod takeover;
pub mod timing;
pub mod transfer;
mod which;
mod words;
