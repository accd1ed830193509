//! A reversal on its way: the S-VOLs of a group become its P-VOLs, and the other way round (promise O2; decision 17).
//!
//! ```text
//! primary:    none -reverse-> draining -everything is there-> handed-over -accepted-> leaving -done-> (auxiliary)
//!                      |                                          |
//!                      +---- cancelled, or a pair stopped ---> none <-- refused
//! auxiliary:  none -remote reverse-> taking-over -done-> (primary)
//! ```
//!
//! At every moment at most one of the two arrays lets hosts write: the primary stops before it hands over, and the
//! auxiliary begins behind its last step.

use super::group::{Generation, JournalOptions};
use super::name::{ArrayNumber, GroupName, GroupNumber, LinkName, PairName, UpdateNumber, VolumeName};
use super::onward::Onward;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// A reversal, as a group's row says it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reversal {
    /// Link to the other array.
    pub link: LinkName,
    /// That array.
    pub array: ArrayNumber,
    /// What is copied afterwards.
    pub manner: Manner,
    /// How long other readers are waited for before their pairs go to difference maps.
    #[serde(default)]
    pub wait: Duration,
    /// How far it has come.
    pub step: ReversalStep,
}

/// What has to be copied behind a reversal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Manner {
    /// Nothing: the pairs are `normal`, and both sides are the same image.
    Planned,
    /// Where either side was changed: the pairs are suspended, and hosts write the S-VOLs.
    Differences,
}

/// How far a reversal has come.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReversalStep {
    /// At the primary: hosts write no more, and what they wrote goes to the other array.
    Draining,
    /// At the primary: the other array is told where the P-VOLs were changed while the pairs were suspended.
    Telling,
    /// At the primary: the other array is told to take over, behind this number. It may have done so.
    HandedOver(UpdateNumber),
    /// At the primary: it takes over, and has this number for the group.
    Leaving(UpdateNumber, GroupNumber),
    /// At the auxiliary: it has promised to take over.
    TakingOver(RemoteReversal),
}

/// What a primary tells the array that shall take its place.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RemoteReversal {
    /// The group.
    pub group: GroupName,
    /// Its number at the sender.
    pub number: GroupNumber,
    /// What is copied afterwards.
    pub manner: Manner,
    /// The last number that was given; the next generation begins behind it.
    pub last: UpdateNumber,
    /// The generations so far, oldest first.
    pub generations: Vec<Generation>,
    /// The sender's journal volumes of the group.
    pub journals: Vec<(VolumeName, JournalOptions)>,
    /// All its pairs with the receiver.
    pub pairs: Vec<PairName>,
    /// Its other readers.
    #[serde(default)]
    pub others: Vec<Onward>,
}

impl fmt::Display for ReversalStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Draining => "draining",
            Self::Telling => "telling",
            Self::HandedOver(_) => "handed-over",
            Self::Leaving(..) => "leaving",
            Self::TakingOver(_) => "taking-over",
        })
    }
}
