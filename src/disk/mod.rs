//! The disk adapter: cache memory, units, RAID, the extents of volumes, the cache.
//!
//! A leaf: it knows volumes by number only.

pub mod cache;
pub mod device;
mod error;
pub mod io;
pub mod raid;
pub mod slot;
pub mod space;
pub mod superblock;
pub mod unit;

pub use cache::{
    DiskAdapter, Gate, HeldBack, Pieces, Prepared, RawVolume, Snapshot, SnapshotsCut, SnapshotsReady,
};
pub use error::VolumeError;
pub use space::map::{Origin, VolumeId, VolumeKind};
