//! What a device server asks its caller to do with a command that it has read.

use crate::block::{BlockRange, Lba};
use crate::cdb::sbc::VerifyCheck;
use crate::cdb::spc::ModeSelect;
#[cfg(doc)]
use crate::sense::Sense;
use crate::status::Response;

/// What the caller does with a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// Send this.
    Done(Response),
    /// Answer with [`crate::report_luns`], then [`crate::LogicalUnit::luns_were_reported`].
    ReportLuns,
    /// Return this range, never empty, as Data-In.
    Read {
        /// What to read.
        range: BlockRange,
        /// Only what is durable may be returned: make dirty blocks of the range durable first.
        fua: bool,
    },
    /// Receive the range's bytes, never none, as Data-Out and write them.
    Write {
        /// What to write.
        range: BlockRange,
        /// GOOD only once it is durable, for the FUA bit or because the volume is write-through.
        fua: bool,
    },
    /// Write the same block all over the range.
    WriteSame {
        /// What to write, never empty.
        range: BlockRange,
        /// The range may be unmapped instead, if the block is all zeros.
        unmap: bool,
        /// GOOD only once it is durable.
        fua: bool,
        /// Where the block comes from.
        block: SameBlock,
    },
    /// Receive this many bytes of Data-Out and give them to [`crate::LogicalUnit::parse_unmap`].
    Unmap {
        /// Never zero.
        parameter_length: u16,
        /// GOOD only once it is durable.
        fua: bool,
    },
    /// Receive twice the range's bytes as Data-Out. If the first half is what the range holds, write the second; if not, end with
    /// [`Sense::miscompare`] and change nothing. No other command may become visible in the range in between.
    CompareAndWrite {
        /// What to compare and write, never empty.
        range: BlockRange,
        /// GOOD only once it is durable.
        fua: bool,
    },
    /// Receive the range's bytes as Data-Out and write them or-ed with what the range holds, as one step.
    OrWrite {
        /// What to change, never empty.
        range: BlockRange,
        /// GOOD only once it is durable.
        fua: bool,
    },
    /// Receive the range's bytes as Data-Out and write them all or not at all, whatever happens; a reader sees all or nothing.
    WriteAtomic {
        /// What to write, never empty.
        range: BlockRange,
        /// GOOD only once it is durable.
        fua: bool,
    },
    /// Look whether the range can be read, or whether it holds what is received as Data-Out; if not, end with [`Sense::miscompare`].
    Verify {
        /// What to look at, never empty.
        range: BlockRange,
        /// What is received.
        check: VerifyCheck,
    },
    /// Bring the range into the cache; CONDITION MET if it fits.
    PreFetch {
        /// What to read.
        range: BlockRange,
        /// Answer before it is done.
        immediate: bool,
    },
    /// Answer with [`crate::lba_status`].
    GetLbaStatus {
        /// Where to begin.
        start: Lba,
        /// The initiator's room.
        allocation_length: u32,
    },
    /// Receive this many bytes of Data-Out, read them with [`crate::CopyList::parse`] and copy.
    ExtendedCopy {
        /// Never zero.
        parameter_length: u32,
    },
    /// Answer with the [`crate::CopyOutcome`] of this nexus' copy, INVALID FIELD IN CDB if there is none of this identifier.
    CopyResults {
        /// What is asked.
        question: CopyQuestion,
        /// Of which copy.
        identifier: u8,
        /// The initiator's room.
        allocation_length: u32,
    },
    /// Make what was written to the range durable.
    SynchronizeCache {
        /// What to make durable.
        range: BlockRange,
        /// GOOD at once, before it is durable.
        immediate: bool,
    },
    /// Receive this many bytes of Data-Out and give them to [`crate::LogicalUnit::mode_select`].
    ParameterOut {
        /// To be handed over with the bytes.
        select: ModeSelect,
        /// Never zero.
        parameter_length: u16,
    },
}

/// The block of a WRITE SAME.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameBlock {
    /// Receive one block of Data-Out.
    Received,
    /// Nothing is sent; the block is all zeros.
    Zeros,
}

/// What RECEIVE COPY RESULTS asks about one copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyQuestion {
    /// How far it came.
    Status,
    /// Why it failed.
    Failure,
}
