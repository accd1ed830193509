//! What a group at work knows of its role and of its pairs.

use super::rule::PairFacts;
use super::suspend::{CopyRecord, PairResync};
use crate::volume::pair::PairState;
use holdfast_journal::{ArrayNumber, UpdateNumber};
use std::collections::VecDeque;

/// What a group is on this array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Hosts write its volumes here.
    Source,
    /// It is read from another array.
    Copy,
}

/// A pair as the primary's data path sees it.
#[derive(Clone, Debug)]
pub(crate) struct PairRuntime {
    pub(crate) pair: u32,
    pub(crate) reader: ArrayNumber,
    pub(crate) facts: PairFacts,
    pub(crate) capacity_bytes: u64,
    /// Number of the record that ended the copy.
    pub(crate) copy_end: Option<UpdateNumber>,
    /// The newest records of the copy, oldest first.
    pub(crate) copy_records: VecDeque<CopyRecord>,
    /// Suspension and resynchronisation.
    pub(crate) resync: PairResync,
}

/// A pair as the auxiliary's restore sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SvolRuntime {
    pub(crate) pair: u32,
    /// The S-VOL, by its number here.
    pub(crate) volume: u32,
    pub(crate) state: PairState,
    /// Number of the record that ended the initial copy, once it was restored.
    pub(crate) copy_end: Option<UpdateNumber>,
    /// Records of a copy below this number belong to an earlier copy.
    pub(crate) copy_from: UpdateNumber,
    /// Its source is itself a copy: copied data comes in pieces, without numbers (`pull.rs`).
    pub(crate) cascaded: bool,
    /// Which copy of the pair this is.
    pub(crate) copies: u32,
}
