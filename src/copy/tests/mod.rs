//! One group reading from another, figure by figure.

mod bookmarks;
mod cache;
mod claims;
mod cut;
mod figures;
mod flows;
mod promise;
mod reading;
pub(crate) mod rig;
mod second;
mod sources;
mod svols;
mod volumes;
