//! What comes of a designation: an answer, or why not.

use super::name::{PairNumber, VolumeNumber};
use serde::{Deserialize, Serialize};

/// What came of a designation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Done; there is no number to tell.
    Done,
    /// A parity group, volume or group with this number.
    Created {
        /// The number.
        number: u32,
    },
    /// Hosts are shut out. Until this time is over another copy may still show that it has all that they were answered.
    Shut {
        /// So long.
        lease_ms: u32,
    },
    /// A pair.
    Paired {
        /// Its number here.
        pair: PairNumber,
        /// The number of the volume here.
        volume: VolumeNumber,
    },
}

impl Outcome {
    /// The number that was given to what was made, if one was.
    #[must_use]
    pub fn number(self) -> Option<u32> {
        match self {
            Self::Done | Self::Shut { .. } => None,
            Self::Created { number } => Some(number),
            Self::Paired { pair, .. } => Some(pair.0),
        }
    }
}

/// Why a designation was not applied. The one who gave it is to blame, except for `Store`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
pub enum Refusal {
    /// Something of this name exists.
    #[error("there is a {what} {name:?} already")]
    Exists {
        /// Kind of object.
        what: String,
        /// Its name.
        name: String,
    },
    /// Nothing of this name exists.
    #[error("there is no {what} {name:?}")]
    Missing {
        /// Kind of object.
        what: String,
        /// Its name.
        name: String,
    },
    /// It cannot be done as things are.
    #[error("{0}")]
    Conflict(String),
    /// The S-VOLs of a reader lack what its new primary takes them to have.
    #[error("the S-VOLs of group {group} lack updates here that were acknowledged: what held them is lost")]
    Lacks {
        /// The group's name.
        group: String,
    },
    /// A limit is reached.
    #[error("no more than {limit} {what} are possible")]
    Limit {
        /// Of what.
        what: String,
        /// How many.
        limit: usize,
    },
    /// The array that has to be asked cannot be reached.
    #[error("{0}")]
    Unreachable(String),
    /// The control store cannot be written; nothing can be changed until the array is started again.
    #[error("the control store failed: {0}")]
    Store(String),
}
