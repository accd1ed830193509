//! A SCSI device server without I/O: SAM-5, SPC-4 and SBC-3 level, for direct-access volumes and for the peer device through which
//! arrays copy from each other.
//!
//! Bytes of a command descriptor block go in, an *intent* comes out: either the finished answer, or what the caller has to
//! do (read this range, receive that much and write it). Nothing here waits, allocates on the path of READ and WRITE, knows a
//! clock, or knows which transport carries the command.
//!
//! Start with [`LogicalUnit`], which owns all state of one volume as hosts see it; [`PeerUnit`] is its sibling for other arrays, and
//! [`unmapped_lun`] answers where there is neither.
#![no_std]

extern crate alloc;

mod attention;
mod block;
mod cdb;
mod geometry;
mod identity;
mod inquiry;
mod logical_unit;
mod lun;
mod mode;
mod nexus;
mod peer_unit;
mod sense;
mod status;
mod target;
mod wire;

pub use attention::{FreshNexus, UnitAttention};
pub use block::{BlockRange, Lba};
pub use cdb::build::{Capacity, Forced, HostCdb, parse_lun_list, unmap_list};
pub use cdb::spc::ModeSelect;
pub use cdb::table::{DataDirection, data_direction};
pub use cdb::vendor::{
    Acknowledgement, Delivery, DesignationId, GroupNumber, JournalRead, MAX_CDB_BYTES, MAX_DESIGNATION_BYTES,
    UpdateNumber, VendorCdb, VendorCommand,
};
pub use geometry::{
    BlockSize, Geometry, MAX_TRANSFER_BYTES, MAX_UNMAP_BLOCKS, MAX_UNMAP_DESCRIPTORS, MAX_WRITE_SAME_BYTES,
    OPTIMAL_TRANSFER_BYTES, PHYSICAL_BLOCK_BYTES, Provisioning,
};
pub use identity::{AsciiText, Identity, Naa, VENDOR};
pub use logical_unit::{Access, Admission, LogicalUnit, SameBlock};
pub use lun::Lun;
pub use mode::{CacheControl, MAX_MODE_LIST_BYTES, ModeChange, WriteCache};
pub use nexus::NexusId;
pub use peer_unit::{PeerAdmission, PeerStanding, PeerUnit};
pub use sense::{FieldPointer, Sense, SenseFormat, SenseKey};
pub use status::{Response, Status};
pub use target::{report_luns, unmapped_lun};
