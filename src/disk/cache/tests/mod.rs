//! The cache on simulated disks, against an oracle; crashes at any moment; and the races one by one.

mod model;
pub(crate) mod rig;
mod snapshot_model;
mod snapshots;
mod stories;
