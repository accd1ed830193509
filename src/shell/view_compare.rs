//! Comparisons of a group as operators see them (promise O8).

use crate::volume::compare::{CompareOptions, CompareSchedule};
use crate::volume::name::LinkName;
use serde::Serialize;

/// What an operator wants of a comparison.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CompareWish {
    /// Begin one.
    Start {
        /// At the primary: with the copy behind this link.
        reader: Option<LinkName>,
        /// At a copy: with the array behind this link, which may be another copy.
        with: Option<LinkName>,
        /// How.
        options: CompareOptions,
        /// Only say what would be done.
        is_dry_run: bool,
    },
    /// End what is at work.
    Cancel,
    /// At an array that copies the group: compare by itself from now on; or not any more.
    Schedule(Option<CompareSchedule>),
}

/// A comparison that is begun, or would be.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct CompareStartView {
    /// Group.
    pub group: String,
    /// The link to the other array; empty for one that is ended.
    pub with: String,
    /// Volumes; of one that is ended, how many are.
    pub volumes: usize,
    /// What has to be read here at least.
    pub to_read_bytes: u64,
    /// Nothing was begun.
    pub is_dry_run: bool,
}

/// A comparison at work.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct CompareView {
    /// Its identity, the same at both arrays.
    pub id: String,
    /// The link to the other array.
    pub with: String,
    /// What this array is in it: `copy`, which leads, `source`, or `other-copy`, which another copy has asked.
    pub role: String,
    /// `preparing` (until both have an image of one number), `waiting` (for restore to come to that), `hashing`, `searching`,
    /// `repairing`; at the source also `answering`; `interrupted` by the end of this array until it begins again.
    pub state: String,
    /// Both are compared as of this update.
    pub update_number: Option<u64>,
    /// Also what was not written since it was read last is read.
    pub is_full: bool,
    /// Bytes to hash, at the copy those of both sides.
    pub total_bytes: u64,
    /// Of them, done.
    pub done_bytes: u64,
    /// The same, 0 to 100.
    pub progress_percent: f64,
    /// While it hashes.
    pub bytes_per_s: Option<u64>,
    /// Until hashing is done, at the present rate.
    pub time_left_ms: Option<u64>,
    /// When it began, wall time.
    pub started_unix_ms: u64,
    /// Found so far.
    pub different_bytes: u64,
}

/// What came of a comparison.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct ComparedView {
    /// Its identity, the same at both arrays.
    pub id: String,
    /// The link to the other array.
    pub with: String,
    /// `equal`, `different`, `cancelled` or `failed`; `roots`: of a snapshot here, compared with nothing.
    pub result: String,
    /// Why it failed.
    pub reason: Option<String>,
    /// Both were compared as of this update.
    pub update_number: Option<u64>,
    /// Also what was not written since it was read last was read.
    pub is_full: bool,
    /// `source-and-copy`; or `snapshot`; or `copies`: both copy from the same array. Of these the one that led is meant where it says copy here, the
    /// other one where it says source.
    pub between: String,
    /// When it began, by the clock of the array that copies.
    pub started_unix_ms: u64,
    /// When it ended.
    pub ended_unix_ms: u64,
    /// What was held against each other; zeros that were never written are not counted.
    pub compared_bytes: u64,
    /// Of it, read at the copy.
    pub read_bytes: u64,
    /// Of it, read at the source.
    pub source_read_bytes: u64,
    /// What differed, in pages of 4 KiB, or, beyond the first 1,024 extents, in MiB.
    pub different_bytes: u64,
    /// Of it, made equal.
    pub repaired_bytes: u64,
    /// Where, the first 64 ranges.
    pub differences: Vec<DifferentRangeView>,
    /// Differs as well, and is not named.
    pub different_bytes_not_named: u64,
}

/// Where two volumes differ.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct DifferentRangeView {
    /// The volume at the array from which it is copied; of two copies at the one that was asked.
    pub pvol: String,
    /// The volume at the copy; of two copies at the one that led.
    pub svol: String,
    /// First byte, the same in both.
    pub offset_bytes: u64,
    /// How many.
    pub length_bytes: u64,
    /// `primary` or `copy`, of two copies the array, where that side is proven wrong: what was read there before has changed
    /// without being written.
    pub proven_wrong: Option<String>,
}

/// What `group compare --show` answers.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct ComparesView {
    /// At work.
    pub comparing: Vec<CompareView>,
    /// Over, the newest last.
    pub compared: Vec<ComparedView>,
}
