//! A takeover, as a group's row says it (promises O3, O4, O6; decision 19).
//!
//! ```text
//! auxiliary:    none -takeover-> reaching -stopped, or not reached-> restoring -done-> taken (a primary)
//! old primary:  none -fence-> overtaken -complete-> overtaken, branch counted -named as the loser-> yielding -> (auxiliary)
//!                                  +-- takeover here --> retaking -> taken
//! taken:        -failback accepted-> none, its pairs are copied     -another one took over-> taken, with a rival
//! ```

use super::group::Generation;
use super::name::{ArrayNumber, GroupName, GroupNumber, LinkName, PairName, UpdateNumber};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// How far a takeover has come here, or what it has made of this array.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Takeover {
    /// At an auxiliary: its primary is asked to stop, for a limited time.
    Reaching,
    /// At an auxiliary: what is here is restored, then it is the primary.
    Restoring,
    /// This array is the primary because it took over.
    Taken(Taken),
    /// Another array has taken over, or is about to: hosts are shut out here.
    Overtaken(Overtaken),
    /// The same, and this array goes on as the primary all the same, by command.
    Retaking(Overtaken),
    /// This array is going to copy from the other one.
    Yielding(Yielding),
}

/// What a primary that took over knows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Taken {
    /// Link to the array from which it took over.
    pub link: LinkName,
    /// That array.
    pub array: ArrayNumber,
    /// The volumes were as of this number.
    pub last: UpdateNumber,
    /// What the other array has beyond that; none until it has said so.
    pub branch: Option<Branch>,
    /// The other array took over as well.
    pub has_rival: bool,
    /// The other array was told how much is only here, because it took over as well.
    pub is_branch_told: bool,
    /// The other array was told to become a copy of this one.
    pub is_told: bool,
}

/// What an array has written past the common point.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Branch {
    /// The first number that only it has.
    pub first: UpdateNumber,
    /// The last one; before the first: there is none.
    pub last: UpdateNumber,
    /// How much of its volumes that may touch, at most.
    pub bytes: u64,
}

impl Branch {
    /// How many updates only it has.
    #[must_use]
    pub fn updates(&self) -> u64 {
        (self.last.0.saturating_add(1)).saturating_sub(self.first.0)
    }
}

/// What an array knows that another one has overtaken.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Overtaken {
    /// Link to that array.
    pub link: LinkName,
    /// That array.
    pub array: ArrayNumber,
    /// Its generations; only those that both have while it has not taken over yet.
    pub generations: Vec<Generation>,
    /// It is the primary. Before that it may still want what is here.
    pub is_complete: bool,
    /// What only this array has, once that is counted and everything of it is marked.
    pub branch: Option<Branch>,
}

/// What an array knows that becomes a copy of another one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Yielding {
    /// What it was before.
    pub to: Overtaken,
    /// The group's number there.
    pub remote: GroupNumber,
}

/// What an array tells the former primary of a group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RemoteTakeover {
    /// The group.
    pub group: GroupName,
    /// The generations that the sender knows.
    pub generations: Vec<Generation>,
    /// The sender is the primary now; else it is about to be, and takes what it can get.
    pub is_complete: bool,
}

/// What the array whose data stays tells the one that shall copy it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RemoteFailback {
    /// The group.
    pub group: GroupName,
    /// Its number at the sender.
    pub number: GroupNumber,
    /// The generations of the sender.
    pub generations: Vec<Generation>,
    /// All its pairs.
    pub pairs: Vec<PairName>,
}

/// How long other readers are waited for when a former primary gets its role back.
pub const OTHERS_WAIT: Duration = Duration::from_secs(10);

impl Takeover {
    /// What is known of the other array's part, in words.
    #[must_use]
    pub fn told(&self) -> Option<String> {
        let said = |branch: Option<Branch>, who: &str| match branch {
            Some(branch) => format!("{} updates are only at {who}", branch.updates()),
            None => format!("how much is only at {who} is not known yet"),
        };
        match self {
            Self::Reaching | Self::Restoring => None,
            Self::Taken(taken) if taken.has_rival => Some(format!("{} took over as well", taken.link)),
            Self::Taken(taken) => Some(said(taken.branch, taken.link.as_str())),
            Self::Overtaken(other) | Self::Retaking(other) | Self::Yielding(Yielding { to: other, .. }) => {
                Some(format!("by {}: {}", other.link, said(other.branch, "this array")))
            }
        }
    }

    /// Whether hosts are shut out of the P-VOLs here because of it.
    #[must_use]
    pub fn shuts_hosts_out(&self) -> bool {
        matches!(self, Self::Overtaken(_) | Self::Retaking(_) | Self::Yielding(_))
    }
}

impl fmt::Display for Takeover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reaching => "reaching",
            Self::Restoring => "restoring",
            Self::Taken(Taken { has_rival: true, .. }) => "split-brain",
            Self::Taken(_) => "taken",
            Self::Overtaken(Overtaken { is_complete: false, .. }) => "fenced",
            Self::Overtaken(_) => "overtaken",
            Self::Retaking(_) => "retaking",
            Self::Yielding(_) => "yielding",
        })
    }
}
