//! The records of the map log, 48 bytes each, all numbers little-endian.
//!
//! ```text
//!  at  bytes  field
//!   0      1  type: 1 volume, 2 volume deleted, 3 extent, 4 run of extents, 5 extent freed
//!   1      1  flags: volume: bit 0 thin, bit 1 journal; run: bit 0 every page is written;
//!             extent and run: bit 7 shared between volumes (kept for snapshots; refused by version 1)
//!   2      2  zero
//!   4      4  volume number
//!   8      4  extent of the volume             (types 3, 4, 5)
//!  12      4  extent of the parity group       (types 3, 4)
//!  16     32  type 1: size in bytes (8), zero (24)
//!             type 3: bit map of written pages
//!             type 4: extents in the run (4), zero (28)
//! ```
//!
//! Every record says what *is*, not what changes: replaying one twice is harmless.

use super::bits::PageBits;
use super::map::{VolumeId, VolumeKind};

/// Bytes of a record.
pub(crate) const RECORD_BYTES: usize = 48;

/// One statement about the map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Record {
    /// The volume exists.
    Volume { volume: VolumeId, kind: VolumeKind, size_bytes: u64 },
    /// The volume and all its extents are gone.
    Deleted { volume: VolumeId },
    /// Where an extent lies and which of its pages are written.
    Extent { volume: VolumeId, extent: u32, physical: u32, written: PageBits },
    /// `count` extents in a row, on both sides, with all pages or none written.
    Run { volume: VolumeId, extent: u32, physical: u32, count: u32, written: bool },
    /// The volume has nothing in this extent any more.
    Freed { volume: VolumeId, extent: u32 },
}

impl Record {
    pub(crate) fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        let mut put = |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let (kind, flags) = match *self {
            Self::Volume { volume, kind, size_bytes } => {
                put(4, volume.0);
                bytes[16..24].copy_from_slice(&size_bytes.to_le_bytes());
                (1, kind_flags(kind))
            }
            Self::Deleted { volume } => {
                put(4, volume.0);
                (2, 0)
            }
            Self::Extent { volume, extent, physical, written } => {
                put(4, volume.0);
                put(8, extent);
                put(12, physical);
                bytes[16..48].copy_from_slice(&written.to_le_bytes());
                (3, 0)
            }
            Self::Run { volume, extent, physical, count, written } => {
                put(4, volume.0);
                put(8, extent);
                put(12, physical);
                put(16, count);
                (4, u8::from(written))
            }
            Self::Freed { volume, extent } => {
                put(4, volume.0);
                put(8, extent);
                (5, 0)
            }
        };
        bytes[0] = kind;
        bytes[1] = flags;
        bytes
    }

    /// The record, or what is wrong with it.
    pub(crate) fn decode(bytes: &[u8; RECORD_BYTES]) -> Result<Self, String> {
        let get =
            |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes inside a record"));
        let (volume, extent, physical) = (VolumeId(get(4)), get(8), get(12));
        match (bytes[0], bytes[1]) {
            (1, flags) => {
                let size_bytes = u64::from(get(16)) | u64::from(get(20)) << 32;
                Ok(Self::Volume { volume, kind: flags_kind(flags)?, size_bytes })
            }
            (2, 0) => Ok(Self::Deleted { volume }),
            (3, 0) => {
                let written = bytes[16..48].try_into().expect("thirty-two bytes inside a record");
                Ok(Self::Extent { volume, extent, physical, written: PageBits::from_le_bytes(written) })
            }
            (4, flags @ (0 | 1)) => {
                Ok(Self::Run { volume, extent, physical, count: get(16), written: flags == 1 })
            }
            (5, 0) => Ok(Self::Freed { volume, extent }),
            (kind, flags) => Err(format!("record of type {kind} with flags {flags:#x} is not known here")),
        }
    }
}

fn kind_flags(kind: VolumeKind) -> u8 {
    match kind {
        VolumeKind::Thick => 0,
        VolumeKind::Thin => 1,
        VolumeKind::Journal => 2,
    }
}

fn flags_kind(flags: u8) -> Result<VolumeKind, String> {
    match flags {
        0 => Ok(VolumeKind::Thick),
        1 => Ok(VolumeKind::Thin),
        2 => Ok(VolumeKind::Journal),
        _ => Err(format!("volume flags {flags:#x} are not known here")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_comes_back_as_it_was() {
        let volume = VolumeId(7);
        let mut written = PageBits::default();
        written.insert(200);
        for record in [
            Record::Volume { volume, kind: VolumeKind::Thin, size_bytes: 1 << 48 },
            Record::Volume { volume, kind: VolumeKind::Journal, size_bytes: 4096 },
            Record::Deleted { volume },
            Record::Extent { volume, extent: 9, physical: 8, written },
            Record::Run { volume, extent: 1, physical: 2, count: 3, written: true },
            Record::Freed { volume, extent: 5 },
        ] {
            assert_eq!(Record::decode(&record.encode()), Ok(record));
        }
        assert!(Record::decode(&[9; RECORD_BYTES]).is_err());
        let mut shared = Record::Extent { volume, extent: 9, physical: 8, written }.encode();
        shared[1] = 0x80;
        assert!(Record::decode(&shared).is_err(), "sharing is not in version 1");
    }
}
