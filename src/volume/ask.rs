//! What an operator of an auxiliary wants done to this array's own copies of a group, as it goes to the primary (promise
//! J15, `docs/decisions/0006-what-a-linked-array-may-designate.md`).
//!
//! It never speaks of another array's pairs: which array is meant is who says it. With it goes who asked there, so that
//! the audit log of the primary names a person too.

use super::designation::{ImageWish, SvolHosts};
use super::name::{GroupName, PairName};
use super::record::Who;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Something that an auxiliary wants done to its pairs of a group, by the primary of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ask {
    /// The group.
    pub group: GroupName,
    /// This pair; none: all those of the array that asks.
    pub pair: Option<PairName>,
    /// What.
    pub wish: Wish,
    /// Who asked there, for the audit log.
    pub by: AskedBy,
}

/// What is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// Stop them.
    Suspend {
        /// What hosts may do with the S-VOLs meanwhile.
        svol: SvolHosts,
    },
    /// Copy their differences.
    Resync {
        /// Whether an image is kept of the S-VOLs first.
        image: ImageWish,
    },
    /// Take them away.
    Delete,
    /// Take the array that asks away from the group, with its pairs.
    Leave,
}

/// Who asked, in words that fit into an audit log, whoever made them up.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct AskedBy(String);

impl From<String> for AskedBy {
    fn from(text: String) -> Self {
        Self(text.chars().filter(|c| !c.is_control()).take(ASKED_BY_MAX_CHARS).collect())
    }
}

impl From<AskedBy> for String {
    fn from(by: AskedBy) -> Self {
        by.0
    }
}

impl From<&Who> for AskedBy {
    fn from(who: &Who) -> Self {
        let (name, from) = who.named();
        Self::from(format!("{name} from {from}"))
    }
}

impl fmt::Display for Ask {
    /// What the audit log says.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { group, pair, wish, by } = self;
        match wish {
            Wish::Suspend { .. } => write!(f, "group suspend {group}: ")?,
            Wish::Resync { .. } => write!(f, "group resync {group}: ")?,
            Wish::Delete => write!(f, "pair delete, group {group}: ")?,
            Wish::Leave => write!(f, "group delete {group}: ")?,
        }
        match (wish, pair) {
            (Wish::Leave, _) => write!(f, "the auxiliary with its pairs")?,
            (_, Some(pair)) => write!(f, "pair {pair}")?,
            (_, None) => write!(f, "all pairs of the auxiliary")?,
        }
        match wish {
            Wish::Suspend { svol } => write!(f, "{svol}")?,
            Wish::Resync { image } => write!(f, "{image}")?,
            Wish::Delete | Wish::Leave => {}
        }
        write!(f, ", asked for there by {}", by.0)
    }
}

/// Who asked is cut to this.
const ASKED_BY_MAX_CHARS: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asked_fits_into_a_log_whatever_another_array_says() {
        let long = format!("\u{1b}[2J{}", "x".repeat(1 << 20));
        let by: AskedBy = serde_json::from_value(serde_json::Value::String(long)).unwrap();
        assert_eq!(by.0.chars().count(), ASKED_BY_MAX_CHARS);
        assert!(by.0.starts_with("[2J"), "no control character is left");
    }
}
