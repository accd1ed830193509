//! The disk adapter: cache memory, units, RAID, the extents of volumes, the cache.
//!
//! A leaf: it knows volumes by number only.

pub mod device;
pub mod io;
pub mod raid;
pub mod slot;
pub mod superblock;
pub mod unit;
