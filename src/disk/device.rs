//! What the array asks of a device that keeps blocks, and what may go wrong there.
//!
//! Defined by its user, the disk adapter; implemented by the ring and plain backends for files and block devices, and
//! by the simulated disk. Every transfer is whole slots (4096 bytes) at offsets that are multiples of a slot.

use super::slot::{Slot, SlotMut};
use crate::clock::BoxFuture;
use std::fmt;

/// A device: one unit of a parity group.
///
/// Nothing is durable before a [`flush`](BlockDevice::flush) that began after the write had completed has succeeded.
/// A flush that failed is never retried and believed: the caller fails the unit (`docs/architecture.md`, invariant 7).
pub trait BlockDevice: Send + Sync + fmt::Debug {
    /// Its size.
    fn length_bytes(&self) -> u64;
    /// Fills `into` from `offset_bytes` on and gives the slots back.
    fn read(&self, offset_bytes: u64, into: Vec<SlotMut>)
    -> BoxFuture<'_, Result<Vec<SlotMut>, DeviceError>>;
    /// Writes `from` at `offset_bytes`.
    fn write(&self, offset_bytes: u64, from: Vec<Slot>) -> BoxFuture<'_, Result<(), DeviceError>>;
    /// Makes every completed write durable.
    fn flush(&self) -> BoxFuture<'_, Result<(), DeviceError>>;
    /// Tells the device that the range is no longer needed; its content is undefined afterwards.
    fn discard(&self, offset_bytes: u64, length_bytes: u64) -> BoxFuture<'_, Result<(), DeviceError>>;
    /// Whether every byte that was not yet written through this handle surely reads as zero (a file just created).
    /// Then nobody needs to write the first parity.
    fn starts_zeroed(&self) -> bool {
        false
    }
}

/// What a device could not do. The device is to blame, never the host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The range cannot be read (medium error at that place).
    #[error("{unit}: cannot read {length_bytes} bytes at {offset_bytes}: {reason}")]
    Read {
        /// Path or name of the unit.
        unit: String,
        /// Where.
        offset_bytes: u64,
        /// How much.
        length_bytes: u64,
        /// What the system said.
        reason: String,
    },
    /// The range cannot be written.
    #[error("{unit}: cannot write at {offset_bytes}: {reason}")]
    Write {
        /// Path or name of the unit.
        unit: String,
        /// Where.
        offset_bytes: u64,
        /// What the system said.
        reason: String,
    },
    /// There is no room behind a sparse file: nothing was written, hosts get a sense code, nothing is lost.
    #[error("{unit}: no space left: free some on its file system")]
    NoSpace {
        /// Path or name of the unit.
        unit: String,
    },
    /// Completed writes may be lost; the unit must not be used again in this life of the process.
    #[error("{unit}: flush failed, the unit is no longer used: {reason}")]
    Flush {
        /// Path or name of the unit.
        unit: String,
        /// What the system said.
        reason: String,
    },
    /// The device is gone or was failed earlier.
    #[error("{unit}: not available: {reason}")]
    Gone {
        /// Path or name of the unit.
        unit: String,
        /// Since when and why.
        reason: String,
    },
}
