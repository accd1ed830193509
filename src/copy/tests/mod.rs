//! One group reading from another, figure by figure.

mod claims;
mod figures;
mod reading;
mod rig;
mod sources;
