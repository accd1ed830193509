//! The records of the map log, 48 bytes each, all numbers little-endian.
//!
//! ```text
//!  at  bytes  field
//!   0      1  type: 1 volume, 2 volume deleted, 3 extent, 4 run of extents, 5 extents freed,
//!             6 extents shared (not in version 1)
//!   1      1  flags: volume: bit 0 thin, bit 1 journal, bit 2 it has an origin (not in version 1);
//!             run: bit 0 every page is written
//!   2      2  zero
//!   4      4  volume number
//!   8      4  extent of the volume             (types 3, 4, 5)
//!  12      4  extent of the parity group       (types 3, 4)
//!             type 6: the volume whose extents it has, as they are at this point of the log; its own
//!             number: it has none
//!  16     32  type 1: size in bytes (8); with an origin: as of (8), volume of origin (4); zeros
//!             type 3: bit map of written pages
//!             type 4: extents in the run (4), zero (28)
//!             type 5: extents in the run (4), 0 counts as 1 (version 1 had no runs of these), zero (28)
//! ```
//!
//! A record says what *is*, not what changes: replaying one twice, with all that follow it, is harmless.

use super::bits::PageBits;
use super::map::{Origin, VolumeId, VolumeKind};

/// Bytes of a record.
pub(crate) const RECORD_BYTES: usize = 48;

/// One statement about the map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Record {
    /// The volume exists.
    Volume { volume: VolumeId, kind: VolumeKind, size_bytes: u64, origin: Option<Origin> },
    /// The volume and all its extents are gone.
    Deleted { volume: VolumeId },
    /// Where an extent lies and which of its pages are written.
    Extent { volume: VolumeId, extent: u32, physical: u32, written: PageBits },
    /// `count` extents in a row, on both sides, with all pages or none written.
    Run { volume: VolumeId, extent: u32, physical: u32, count: u32, written: bool },
    /// The volume has nothing in `count` extents any more.
    Freed { volume: VolumeId, extent: u32, count: u32 },
    /// The volume has the extents that `from` has here, and none if it names itself.
    Shared { volume: VolumeId, from: VolumeId },
}

impl Record {
    pub(crate) fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        let mut put = |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let (kind, flags) = match *self {
            Self::Volume { volume, kind, size_bytes, origin } => {
                put(4, volume.0);
                if let Some(origin) = origin {
                    put(32, origin.volume.0);
                    bytes[24..32].copy_from_slice(&origin.as_of.to_le_bytes());
                }
                bytes[16..24].copy_from_slice(&size_bytes.to_le_bytes());
                (1, kind_flags(kind) | if origin.is_some() { HAS_ORIGIN } else { 0 })
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
            Self::Freed { volume, extent, count } => {
                put(4, volume.0);
                put(8, extent);
                put(16, count);
                (5, 0)
            }
            Self::Shared { volume, from } => {
                put(4, volume.0);
                put(12, from.0);
                (6, 0)
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
                let wide = |at: usize| u64::from(get(at)) | u64::from(get(at + 4)) << 32;
                let origin = Origin { volume: VolumeId(get(32)), as_of: wide(24) };
                let origin = (flags & HAS_ORIGIN != 0).then_some(origin);
                let kind = flags_kind(flags & !HAS_ORIGIN)?;
                Ok(Self::Volume { volume, kind, size_bytes: wide(16), origin })
            }
            (2, 0) => Ok(Self::Deleted { volume }),
            (3, 0) => {
                let written = bytes[16..48].try_into().expect("thirty-two bytes inside a record");
                Ok(Self::Extent { volume, extent, physical, written: PageBits::from_le_bytes(written) })
            }
            (4, flags @ (0 | 1)) => {
                Ok(Self::Run { volume, extent, physical, count: get(16), written: flags == 1 })
            }
            (5, 0) => Ok(Self::Freed { volume, extent, count: get(16).max(1) }),
            (6, 0) => Ok(Self::Shared { volume, from: VolumeId(physical) }),
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

/// Flag of a volume that was made from another one.
const HAS_ORIGIN: u8 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_comes_back_as_it_was() {
        let volume = VolumeId(7);
        let origin = Origin { volume: VolumeId(u32::MAX), as_of: u64::MAX - 1 };
        let mut written = PageBits::default();
        written.insert(200);
        for record in [
            Record::Volume { volume, kind: VolumeKind::Thin, size_bytes: 1 << 48, origin: None },
            Record::Volume { volume, kind: VolumeKind::Thin, size_bytes: 1 << 48, origin: Some(origin) },
            Record::Volume { volume, kind: VolumeKind::Journal, size_bytes: 4096, origin: None },
            Record::Deleted { volume },
            Record::Extent { volume, extent: 9, physical: 8, written },
            Record::Run { volume, extent: 1, physical: 2, count: 3, written: true },
            Record::Freed { volume, extent: 5, count: 3 },
            Record::Shared { volume, from: VolumeId(6) },
        ] {
            assert_eq!(Record::decode(&record.encode()), Ok(record));
        }
        assert!(Record::decode(&[9; RECORD_BYTES]).is_err());
        let mut flagged = Record::Extent { volume, extent: 9, physical: 8, written }.encode();
        flagged[1] = 0x80;
        assert!(Record::decode(&flagged).is_err(), "a flag that nobody sets");
        let mut single = Record::Freed { volume, extent: 5, count: 1 }.encode();
        single[16] = 0;
        assert_eq!(Record::decode(&single), Ok(Record::Freed { volume, extent: 5, count: 1 }), "version 1");
    }
}
