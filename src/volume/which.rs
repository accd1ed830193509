//! Which pairs of a group a designation means.

use super::name::{LinkName, PairName};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Which pairs of a group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// All of them.
    All,
    /// Those of the array behind this link.
    Reader(LinkName),
    /// This one.
    Pair(PairName),
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all pairs"),
            Self::Reader(link) => write!(f, "pairs at {link}"),
            Self::Pair(pair) => write!(f, "pair {pair}"),
        }
    }
}
