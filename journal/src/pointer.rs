//! Pointer information: the eight addresses that a maintenance terminal shows for each reading array and journal volume.
//!
//! They are a view. Inside, offsets are monotonic; here they are byte addresses on the journal volume, so *newest
//! equals oldest* may mean empty as well as full: [`crate::Journal::usage`] tells which.

use crate::number::UpdateNumber;

/// Where a reader is, as numbers: what its pointers are made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The first update that is held because of it; at most `retry`.
    pub oldest: UpdateNumber,
    /// What is sent again first.
    pub retry: UpdateNumber,
    /// What is sent next.
    pub read: UpdateNumber,
}

/// The eight addresses, as byte offsets on the journal volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PointerInformation {
    /// Where the update information area begins.
    pub update_information_head: u64,
    /// Where the write data area begins.
    pub write_data_head: u64,
    /// Where the next update information will be stored.
    pub update_information_newest: u64,
    /// The oldest update information that is held because of this reader; the newest address if there is none.
    pub update_information_oldest: u64,
    /// Where the next write data will be stored.
    pub write_data_newest: u64,
    /// The oldest write data that is held because of this reader; the newest address if there is none.
    pub write_data_oldest: u64,
    /// The group commit from which the next journal read is answered; the newest address if there is none.
    pub read_start: u64,
    /// The group commit from which a retry is answered; the newest address if there is none.
    pub retry_start: u64,
}
