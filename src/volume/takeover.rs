//! A takeover, as a group's row says it (promises O3, O4, O6; decision 19).
//!
//! ```text
//! auxiliary:    none -takeover-> reaching -stopped, or not reached-> restoring -done-> taken (a primary)
//! old primary:  none -fence-> overtaken -complete-> overtaken, branch counted -named as the loser-> yielding -> (auxiliary)
//!               none <-given up--+
//!                                  +-- takeover here --> retaking -> taken
//! taken:        -failback accepted-> none, its pairs are copied     -another one took over-> taken, with a rival
//! ```
//!
//! # What a message of another array means
//! It may come an hour late, twice, behind a restart, or when the group has been turned round, taken back, paired anew or
//! taken over again. So nothing is believed by its place in time:
//! * **What an array has of its own is a [`Branch`]**: the generation in which it ends there, the generation of the other array in
//!   which that went its own way, and its numbers. Whoever gives one up names it whole, and the array that has it obeys only if it is
//!   what it has said of itself last. What is said of an earlier branch, or to an earlier takeover, is not noted.
//! * **Counters of generations are a clock of the group.** A takeover opens a generation whose counter is larger than any that its
//!   array has seen of the group, and says the largest with everything ([`RemoteTakeover::knows`]). An array that becomes a
//!   copy again has seen, with that, a counter which is larger than any of its own before; the array that it copies notes
//!   it, and refuses what speaks of less: that was said before.
//! * **Each attempt to take over has a number.** An array that gives one up says so until its primary has heard it, which lets its
//!   hosts write again if that attempt has shut them out, and takes no notice of what comes of it later.
//! * **While an array takes over, its copies are what they are**: its primary can neither copy to them, nor hand them on, nor take
//!   them away (`volume/apply/takeover_guard.rs`).

use super::group::{CommonPoint, Generation, common_point};
use super::name::{ArrayNumber, GroupName, GroupNumber, LinkName, PairName, SnapshotName, UpdateNumber};
use super::rejoin::Moving;
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
    /// At another reader of a primary that was overtaken: nothing is read from that any more.
    Moving(Moving),
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
    /// The generations of the other array, if that took over as well.
    pub rival: Option<Vec<Generation>>,
    /// What the other array was told of what is only here, because it took over as well.
    pub told: Option<Branch>,
    /// The other array was told to become a copy of this one.
    pub is_told: bool,
    /// What the pairs with the other array have marked is everything that was changed from this number on.
    pub marked_from: UpdateNumber,
    /// Whoever reads this array is told who is the primary now, also when a link there is made later.
    #[serde(default)]
    pub former: Option<ArrayNumber>,
    /// The other array took over as well, and speaks of itself as if it had not: its control store is an older copy. What it has is named by nobody.
    #[serde(default)]
    pub has_forgotten: bool,
}

/// What an array has written past the common point.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Branch {
    /// The generation in which it ends: the newest one of that array.
    pub of: Generation,
    /// The generation in which the other array went its own way.
    pub against: Generation,
    /// The first number that only it has.
    pub first: UpdateNumber,
    /// The last one; before the first: there is none.
    pub last: UpdateNumber,
    /// How much of its volumes that may touch, at most.
    pub bytes: u64,
}

impl Branch {
    /// Larger for what an array says of itself later, in the same or a later generation.
    pub(crate) fn age(&self) -> (u64, UpdateNumber) {
        (self.of.counter, self.last)
    }

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
    /// Before that: which of its attempts to become it this is.
    #[serde(default)]
    pub attempt: u64,
    /// What only this array has, once that is counted and everything of it is marked.
    pub branch: Option<Branch>,
    /// Before that: this array had taken over itself, and has if the other one gives it up.
    #[serde(default)]
    pub had_taken: Option<Box<Taken>>,
}

/// What an array knows that becomes a copy of another one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Yielding {
    /// What it was before.
    pub to: Overtaken,
    /// The group's number there.
    pub remote: GroupNumber,
    /// From this counter of generations on it speaks as that copy.
    pub since: u64,
    /// Its volumes are kept under this name before.
    #[serde(default)]
    pub keep_branch: Option<SnapshotName>,
}

/// What an array tells the former primary of a group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RemoteTakeover {
    /// The group.
    pub group: GroupName,
    /// The generations that the sender knows.
    pub generations: Vec<Generation>,
    /// The largest counter of a generation of the group that the sender has seen.
    pub knows: u64,
    /// The sender is the primary now; else it is about to be, and takes what it can get.
    pub is_complete: bool,
    /// Which of the sender's attempts this is. One that it has given up shuts nobody out, however late it comes.
    #[serde(default)]
    pub attempt: u64,
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
    /// What is given up: what the receiver has said that only it has.
    pub branch: Branch,
    /// A counter of generations that is larger than any of the receiver's before.
    pub since: u64,
    /// The receiver keeps what it has under this name, as a snapshot, before anything of it is overwritten.
    #[serde(default)]
    pub keep_branch: Option<SnapshotName>,
}

/// Where two arrays parted: the first number that only the one with `ours` has, `next` if it has none; and the generation of the other
/// one in which that went its own way.
#[must_use]
pub fn parting(
    ours: &[Generation],
    theirs: &[Generation],
    next: UpdateNumber,
) -> Option<(UpdateNumber, Generation)> {
    let first = match common_point(ours, theirs) {
        CommonPoint::OtherGoesOn(first) | CommonPoint::Diverged(first) => first,
        CommonPoint::None | CommonPoint::Same | CommonPoint::OursGoesOn(_) => next,
    };
    let shared = ours.iter().zip(theirs).take_while(|(a, b)| a == b).count();
    let against = theirs.get(shared).or(theirs.last())?;
    Some((first, *against))
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
            Self::Moving(moving) => Some(format!("{} has taken over from its primary", moving.whom())),
            Self::Taken(taken) if taken.has_forgotten => Some(format!(
                "{} took over as well, and does not know that any more: its control store is an older copy",
                taken.link
            )),
            Self::Taken(taken) if taken.rival.is_some() => Some(format!("{} took over as well", taken.link)),
            Self::Taken(taken) => Some(said(taken.branch, taken.link.as_str())),
            Self::Overtaken(other) | Self::Retaking(other) | Self::Yielding(Yielding { to: other, .. }) => {
                Some(format!("by {}: {}", other.link, said(other.branch, "this array")))
            }
        }
    }

    /// Link to the array with which it is; none while this one has not taken over yet.
    #[must_use]
    pub fn link(&self) -> Option<&LinkName> {
        match self {
            Self::Reaching | Self::Restoring => None,
            Self::Moving(moving) => moving.link.as_ref(),
            Self::Taken(taken) => Some(&taken.link),
            Self::Overtaken(other) | Self::Retaking(other) | Self::Yielding(Yielding { to: other, .. }) => {
                Some(&other.link)
            }
        }
    }

    /// What this array has taken over, also while another one is about to take over from it.
    #[must_use]
    pub(crate) fn taken(&self) -> Option<&Taken> {
        match self {
            Self::Taken(taken) => Some(taken),
            Self::Overtaken(other) => other.had_taken.as_deref(),
            Self::Reaching | Self::Restoring | Self::Retaking(_) | Self::Yielding(_) | Self::Moving(_) => {
                None
            }
        }
    }

    /// The same, to note what the array that was overtaken says.
    pub(crate) fn taken_mut(&mut self) -> Option<&mut Taken> {
        match self {
            Self::Taken(taken) => Some(taken),
            Self::Overtaken(other) => other.had_taken.as_deref_mut(),
            Self::Reaching | Self::Restoring | Self::Retaking(_) | Self::Yielding(_) | Self::Moving(_) => {
                None
            }
        }
    }

    /// That takeover is over: there is nobody any more who was overtaken.
    pub(crate) fn without_taken(self) -> Option<Self> {
        match self {
            Self::Taken(_) => None,
            Self::Overtaken(other) => Some(Self::Overtaken(Overtaken { had_taken: None, ..other })),
            Self::Reaching | Self::Restoring | Self::Retaking(_) | Self::Yielding(_) | Self::Moving(_) => {
                Some(self)
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
            Self::Taken(Taken { rival: Some(_), .. }) => "split-brain",
            Self::Taken(_) => "taken",
            Self::Overtaken(Overtaken { is_complete: false, .. }) => "fenced",
            Self::Overtaken(_) => "overtaken",
            Self::Retaking(_) => "retaking",
            Self::Yielding(_) => "yielding",
            Self::Moving(_) => "moving",
        })
    }
}
