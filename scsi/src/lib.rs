//! A SCSI device server without I/O: SAM-5, SPC-4 and SBC-4 level, for direct-access volumes and for the peer device through which
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

mod admission;
mod attention;
mod block;
mod cdb;
mod extended_copy;
mod geometry;
mod identity;
mod inquiry;
mod lba_status;
mod logical_unit;
mod lun;
mod mode;
mod nexus;
mod peer_unit;
mod port_group;
mod sense;
mod status;
mod target;
mod wire;

pub use admission::{Admission, CopyQuestion, SameBlock};
pub use attention::{FreshNexus, UnitAttention};
pub use block::{BlockRange, Lba};
pub use cdb::build::{Capacity, Forced, HostCdb, parse_lun_list, unmap_list};
pub use cdb::sbc::VerifyCheck;
pub use cdb::spc::ModeSelect;
pub use cdb::table::{DataDirection, data_direction};
pub use cdb::vendor::{
    Acknowledgement, CopyRead, Delivery, DesignationId, ForwardedWrite, GroupNumber, JournalRead,
    JournalWrite, LinkTest, MAX_CDB_BYTES, MAX_COMPRESSION_LEVEL, MAX_DESIGNATION_BYTES, MAX_FORWARDED_BYTES,
    MAX_FORWARDING_STATE_BYTES, MAX_JOURNAL_WRITE_BYTES, MAX_LINK_TEST_BYTES, Synchronise, UpdateNumber,
    VendorCdb, VendorCommand,
};
pub use extended_copy::{
    CopyList, CopyOutcome, CopySegment, CopyTarget, MAX_COPY_LIST_BYTES, MAX_COPY_SEGMENT_BYTES,
    MAX_COPY_SEGMENTS, MAX_COPY_TARGETS,
};
pub use geometry::{
    BlockSize, Geometry, MAX_COMPARE_AND_WRITE_BLOCKS, MAX_TRANSFER_BYTES, MAX_UNMAP_BLOCKS,
    MAX_UNMAP_DESCRIPTORS, MAX_VERIFY_BYTES, MAX_WRITE_SAME_BYTES, OPTIMAL_TRANSFER_BYTES,
    PHYSICAL_BLOCK_BYTES, Provisioning,
};
pub use identity::{AsciiText, Identity, Naa, VENDOR};
pub use lba_status::{LbaStatus, lba_status, lba_status_room};
pub use logical_unit::{Access, LogicalUnit};
pub use lun::Lun;
pub use mode::{CacheControl, MAX_MODE_LIST_BYTES, ModeChange, WriteCache};
pub use nexus::{Grant, NexusId};
pub use peer_unit::{PeerAdmission, PeerStanding, PeerUnit};
pub use port_group::OtherPorts;
pub use sense::{FieldPointer, Sense, SenseFormat, SenseKey};
pub use status::{Response, Status};
pub use target::{report_luns, unmapped_lun};
