//! Copying between arrays: update numbers, the journal at work, journal read, restore, initial copy.
//!
//! Start with [`group::Group`].

pub mod answer;
mod arrivals;
mod bookmark;
pub mod cascade;
pub mod change;
mod checkpoint;
mod closing;
mod commit;
pub mod compare;
pub mod compress;
pub(crate) mod cut;
pub mod demand;
pub mod differences;
mod edges;
mod error;
pub mod fetch;
pub mod forward;
pub(crate) mod freed;
pub mod group;
mod grow;
pub mod image;
pub(crate) mod inflow;
pub(crate) mod inherited;
mod initial;
pub(crate) mod kept;
pub mod link_key;
mod load;
pub mod marked;
mod overflow;
mod pace;
pub(crate) mod promise;
mod pull;
pub(crate) mod push;
pub mod quota;
pub(crate) mod rates;
pub(crate) mod readers;
pub(crate) mod received;
pub(crate) mod recover;
pub(crate) mod relay;
pub(crate) mod replay;
mod report;
mod rest;
pub mod restore;
pub mod rule;
mod runtime;
pub mod serve;
mod settings;
mod settle;
pub mod source;
pub mod status;
pub(crate) mod stop;
pub(crate) mod suspend;
pub(crate) mod svols;
pub mod synchronous;
pub(crate) mod tables;
mod taken;
#[doc(hidden)]
pub mod tamper;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod times;
pub(crate) mod volumes;
mod whole;

pub(crate) use checkpoint::{CheckpointExtra, PairMark};
pub use error::CopyError;
