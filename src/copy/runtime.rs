//! What a group at work knows of its role and of its pairs, and what it records of them.

use super::checkpoint::PairMark;
use super::differences::ChangedPart;
use super::rule::PairFacts;
use super::suspend::{CopyRecord, PairResync};
use crate::volume::pair::PairState;
use holdfast_journal::{ArrayNumber, UpdateNumber};
use std::collections::VecDeque;

/// Where difference maps and states are kept. Defined here, by its user; the control store does it.
pub(crate) trait MarkStore: Send + Sync {
    /// Makes changed parts of maps durable, by pair.
    fn put(&self, changed: Vec<(u32, Vec<ChangedPart>)>) -> Result<(), String>;

    /// Notes where copies ended of which a checkpoint cannot say it.
    fn note_copy_ends(&self, ends: &[PairMark]) -> Result<(), String>;

    /// Records whether hosts of a group wait for its synchronous reader; an error is the reason why they do not any more.
    fn note_together(&self, group: u32, together: Result<(), &str>) -> Result<(), String>;

    /// Keeps what a group had to free although other copies may lack it; durable when this returns.
    fn note_freed(&self, group: u32, note: &super::freed::FreedNote) -> Result<(), String>;

    /// Whether a pair is catalogued by which this group restores what records of that P-VOL say.
    fn has_pair_of(&self, group: u32, pvol: u32) -> bool;
}

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
