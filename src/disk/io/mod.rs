//! The implementations of [`BlockDevice`](super::device::BlockDevice), and who opens units by name.

pub mod opener;
pub mod sim;
