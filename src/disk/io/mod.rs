//! The implementations of [`BlockDevice`](super::device::BlockDevice), and who opens units by name.

mod file;
pub mod opener;
pub mod plain;
pub mod ring;
pub mod sim;

#[cfg(test)]
mod tests;
