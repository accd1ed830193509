//! The other readers of a group go on from its new primary (promises T1, K4; decision 17).
//!
//! When a group gets another primary, the arrays that read it besides keep their S-VOLs and read on from there. What the
//! new primary has to know of them is an [`Onward`] for each: it takes the reader up (`Tables::take_on`) in the
//! transaction that makes it the primary, and tells it so with a [`RemoteOnward`], which is offered until it is accepted.
//!
//! # What it guarantees
//! * **No gap, nothing twice.** A pair goes on without a copy only if its S-VOL is what the P-VOLs were as of the last
//!   number of the old primary: the reader itself looks at that before it changes a row, and refuses otherwise.
//!   Whatever it may lack is marked at the new primary before the new primary gives its first number.
//! * **The newest generation wins.** A reader believes who tells it a longer history than the one that it followed
//!   last; a message of an earlier primary that was held up is refused, however late it comes.
//! * **Who has not been told is handed nothing.** A reader knows volumes by the numbers that its old primary gave them; it may be
//!   one that read from the new primary all along, in a cascade.
//! * **What a reader had acknowledged is not taken for what its S-VOLs have.** Its journal may be lost before it is told. It compares,
//!   and what it lacks then counts as different: all of its S-VOLs, because nobody holds records of it any more. The number goes
//!   along as long as the reader has not been told, through any number of primaries.
//! * **Nobody waits for a reader that is away.** Its pairs are suspended with marks, and go on by themselves, by their
//!   differences, when it is back and has been told.

use super::designation::DesignationId;
use super::group::{Generation, JournalOptions};
use super::name::{ArrayNumber, GroupName, GroupNumber, PairName, UpdateNumber, VolumeName, VolumeNumber};
use super::pair::{PairSide, SuspendCause};
use serde::{Deserialize, Serialize};

/// A reader of a group as its new primary has to know it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Onward {
    /// The reader.
    pub array: ArrayNumber,
    /// The group's number there, if it is known.
    pub remote: Option<GroupNumber>,
    /// Its journal volumes.
    pub journals: Vec<(VolumeName, JournalOptions)>,
    /// It has acknowledged everything up to this number, of which nothing else says where its S-VOLs may lack it.
    #[serde(default)]
    pub assumed: UpdateNumber,
    /// It reads on with this number; none: with the first one of the new primary.
    #[serde(default)]
    pub begins: Option<UpdateNumber>,
    /// By which word it asked to be taken on ([`Moving::told_by`](super::rejoin::Moving::told_by)), if it did.
    #[serde(default)]
    pub told_by: Option<DesignationId>,
    /// Its pairs.
    pub pairs: Vec<OnwardPair>,
}

/// A pair of such a reader.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OnwardPair {
    /// Its name.
    pub name: PairName,
    /// The P-VOL, by its number at the old primary.
    pub pvol: VolumeNumber,
    /// The S-VOL.
    pub svol: PairSide,
    /// What the S-VOL lacks; none: it is what the P-VOL was as of the last number.
    pub stopped: Option<Stopped>,
}

/// A pair that is not copied at the moment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Stopped {
    /// Why it is suspended; none: it is abnormal.
    pub cause: Option<SuspendCause>,
    /// The same in words.
    pub reason: String,
    /// Its differences are to be copied as soon as the reader has been told.
    pub goes_on: bool,
    /// The reader knows that it is suspended.
    pub told: bool,
    /// Updates from this number on were kept from the reader for this pair.
    pub withheld_from: Option<UpdateNumber>,
    /// Where the S-VOL may differ, as first byte and length.
    pub runs: Vec<(u64, u64)>,
    /// Of a reader that asks to join: what the S-VOL lacks beside `runs` was changed behind this number. None: nobody knows.
    #[serde(default)]
    pub reaches: Option<UpdateNumber>,
}

/// What the new primary tells such a reader; and what a reader that hands the group on tells those below it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RemoteOnward {
    /// The group.
    pub group: GroupName,
    /// Its number at the sender.
    pub number: GroupNumber,
    /// The last number before the sender's own.
    pub last: UpdateNumber,
    /// The generations, oldest first; the last one is the new primary's.
    pub generations: Vec<Generation>,
    /// The reader is taken to have everything up to this number ([`Onward::assumed`]). It refuses with
    /// [`Refusal::Lacks`](super::designation::Refusal::Lacks) if its S-VOLs have not, and is offered this again when all of them counts as
    /// different at the sender.
    #[serde(default)]
    pub assumed: UpdateNumber,
    /// Pairs that are not stopped go on with this number, and the S-VOLs have everything before it; none: with the one behind `last`
    /// (promise K3: the sender's journal holds what lies between).
    #[serde(default)]
    pub begins: Option<UpdateNumber>,
    /// All pairs of the reader.
    pub pairs: Vec<RemoteOnwardPair>,
    /// The operator of the sender has given up what only the reader has, up to this number.
    #[serde(default)]
    pub gives_up: Option<UpdateNumber>,
    /// The word by which the reader went when it said what this rests on ([`Moving::told_by`](super::rejoin::Moving::told_by)).
    #[serde(default)]
    pub told_by: Option<DesignationId>,
}

/// One of its pairs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RemoteOnwardPair {
    /// Its name.
    pub name: PairName,
    /// The P-VOL, by its number at the sender.
    pub pvol: VolumeNumber,
    /// And by its name there.
    pub pvol_name: VolumeName,
    /// By which number the group's records name the volume, where that is not the P-VOL's (promise T4).
    #[serde(default)]
    pub origin: Option<VolumeNumber>,
    /// Why it is not copied at the moment; none: it goes on with the number behind the last one.
    pub stopped: Option<String>,
}

/// Pairs of all other readers of a group that go on from a new primary: more would not fit into the message.
pub(crate) const ONWARD_PAIRS_MAX: usize = 1_024;
/// Ranges that are told of all their differences together; what lies between two ranges that are close counts as different
/// where there are more.
pub(crate) const ONWARD_RUNS_MAX: usize = 8_192;
