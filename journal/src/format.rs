//! Every byte on a journal volume and of the record that travels between arrays. Format version 1, little-endian.
//!
//! A journal volume is a space of 4096-byte blocks:
//!
//! ```text
//! block 0, 1   two copies of the superblock
//! block 2, 3   two checkpoint slots, written in turn
//! block 4 ..   update information area (ring A)
//!       ..     write data area (ring B), to the end
//! ```
//!
//! Ring A holds *group commits*: runs of whole blocks, each with records back to back and zeros behind the last. Ring B
//! holds the write data of each update in whole blocks. Neither a group commit nor the data of one update passes the
//! end of its area. The byte tables are in [`record`], [`head`] and [`wire`].
//!
//! Everything ends with a CRC32C over all that precedes it, reserved bytes are 0 and checked, so that every changed
//! byte is found.

mod bytes;
pub mod head;
pub mod record;
pub mod relay;
mod relay_control;
mod relay_ring;
pub mod wire;

pub use bytes::crc32c;
pub use head::{CheckpointRecord, FormatParams, Layout, Superblock};
pub use record::{decode_batch, decode_record};
pub use wire::{decode_wire, encode_wire, encode_wire_to, wire_length};

use crate::update::UpdateError;
use core::fmt;

/// The unit of space on a journal volume.
pub const BLOCK_BYTES: u64 = 4096;
/// The same as a length in memory.
pub const BLOCK_LENGTH: usize = 4096;
/// Superblocks and checkpoint slots in front of the areas.
pub const HEAD_BLOCKS: u64 = 4;
/// The only version so far.
pub const VERSION: u32 = 1;

/// Why bytes are not what they should be, or a volume cannot be formatted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormatError {
    /// Fewer bytes than the structure has.
    TooShort,
    /// Another structure, or none.
    Magic,
    /// A version that this program does not know.
    Version(u32),
    /// A length that the structure cannot have.
    Length,
    /// The checksum does not match.
    Checksum,
    /// A reserved byte is set or a code is unknown.
    Reserved,
    /// The record does not belong where it was found: another incarnation, place or order.
    Misplaced,
    /// The update itself is impossible.
    Update(UpdateError),
    /// The volume, or one of its areas at this ratio, is below the minimum.
    VolumeTooSmall,
    /// The ratio of the areas is 0 or above [`head::MAX_RATIO`].
    Ratio,
    /// More than [`head::MAX_EXTRA_BYTES`] of the caller's own bytes.
    ExtraTooLong,
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort => f.write_str("too few bytes"),
            Self::Magic => f.write_str("not the structure that belongs here"),
            Self::Version(version) => write!(f, "format version {version} is not known"),
            Self::Length => f.write_str("impossible length"),
            Self::Checksum => f.write_str("checksum does not match"),
            Self::Reserved => f.write_str("a reserved byte is set or a code is unknown"),
            Self::Misplaced => f.write_str("a record of another place, order or incarnation"),
            Self::Update(error) => write!(f, "impossible update: {error}"),
            Self::VolumeTooSmall => f.write_str("the journal volume is too small"),
            Self::Ratio => f.write_str("the ratio of write data to update information is out of range"),
            Self::ExtraTooLong => f.write_str("more bytes of the caller's own than a checkpoint holds"),
        }
    }
}

impl core::error::Error for FormatError {}

impl From<UpdateError> for FormatError {
    fn from(error: UpdateError) -> Self {
        Self::Update(error)
    }
}
