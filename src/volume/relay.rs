//! Links to third-party targets over which the journals of a group go (promises X1 to X4; decision 21).

use super::group::Generation;
use super::kind::PortalAddress;
use super::name::{ArrayNumber, GroupName, IscsiName, LinkName, Lun};
use super::record::{Credential, Identity};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A relay: three LUNs of a target that needs nothing of ours, between this array and another one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RelayRecord {
    /// Its name, among those of links.
    pub name: LinkName,
    /// The group whose journals go over it. It works while there is such a group in which this array has that part.
    pub group: GroupName,
    /// The array at the other end.
    pub array: ArrayNumber,
    /// Which of both this array is.
    pub side: RelaySide,
    /// Where the target is; several are tried in turn.
    pub portals: Vec<PortalAddress>,
    /// The target.
    pub target: IscsiName,
    /// Its LUNs.
    pub luns: RelayLuns,
    /// At the first array: whether hosts wait until their writes are on it.
    #[serde(default)]
    pub hosts: RelayHosts,
    /// At the first array: what goes over it.
    #[serde(default)]
    pub journals: RelayJournals,
    /// Where this array's control information goes.
    #[serde(default)]
    pub control: RelayControl,
    /// What this array proves there.
    #[serde(default)]
    pub chap: Option<Credential>,
}

/// The chain of batches that this array began on a relay last: it goes on with no other one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RelayChainRecord {
    /// The relay.
    pub relay: LinkName,
    /// The chain's incarnation.
    pub chain: Identity,
    /// Of a relay with a part of the journals: the chain before, which lies there as well and is needed until the one above, and those on
    /// the other relays, have everything; none: that one is needed.
    #[serde(default)]
    pub kept: Option<Identity>,
}

/// What the second array says on a relay: it is the primary in this generation, or the copy of who is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RelayWord {
    /// The relay.
    pub relay: LinkName,
    /// The number of the control information that says it: only a later one takes it back.
    pub sequence: u64,
    /// The generation.
    pub generation: Generation,
}

/// The LUNs of a relay.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RelayLuns {
    /// Journals; written by the first array.
    pub journal: Lun,
    /// Control information of the first array; written by it.
    pub first: Lun,
    /// Control information of the second array; written by that.
    pub second: Lun,
}

impl RelayLuns {
    /// Whether they are three.
    #[must_use]
    pub fn are_different(&self) -> bool {
        self.journal != self.first && self.journal != self.second && self.first != self.second
    }
}

impl fmt::Display for RelayLuns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{},{}", self.journal, self.first, self.second)
    }
}

impl FromStr for RelayLuns {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let luns: Result<Vec<Lun>, String> = text
            .split(',')
            .map(|lun| {
                let number = lun.trim().parse::<u16>().ok();
                let number = number.filter(|number| *number <= super::name::LUN_MAX);
                number.map(Lun).ok_or_else(|| format!("{lun:?} is no LUN"))
            })
            .collect();
        match luns?.as_slice() {
            [journal, first, second] => Ok(Self { journal: *journal, first: *first, second: *second }),
            _ => Err("three LUNs: that of the journal, and those with control information of the first and of the \
                      second array, as in 1,2,3"
                .into()),
        }
    }
}

/// Whether hosts wait for a relay.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RelayHosts {
    /// They are answered by the first array alone.
    #[default]
    GoOn,
    /// They are answered when their writes are on the relay too, or at the second array; the group's fence says what
    /// becomes of them if that takes too long.
    Wait,
}

impl fmt::Display for RelayHosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::GoOn => "go-on",
            Self::Wait => "wait",
        })
    }
}

impl FromStr for RelayHosts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "go-on" => Ok(Self::GoOn),
            "wait" => Ok(Self::Wait),
            _ => Err("wait or go-on".into()),
        }
    }
}

/// Which journals go over a relay.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RelayJournals {
    /// All that the other array lacks.
    #[default]
    All,
    /// Each goes over one of several relays, and the other array merges them by their numbers (promise X7).
    Parts,
}

impl fmt::Display for RelayJournals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::All => "all",
            Self::Parts => "parts",
        })
    }
}

impl FromStr for RelayJournals {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "parts" => Ok(Self::Parts),
            _ => Err("all or parts".into()),
        }
    }
}

/// Where an array's control information goes (promise X3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RelayControl {
    /// To its LUN of the relay.
    #[default]
    Relay,
    /// Straight to the other array, while the link is up; to the LUN otherwise.
    Link,
}

impl fmt::Display for RelayControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Relay => "relay",
            Self::Link => "link",
        })
    }
}

impl FromStr for RelayControl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "relay" => Ok(Self::Relay),
            "link" => Ok(Self::Link),
            _ => Err("relay or link".into()),
        }
    }
}

/// Which part an array has at a relay.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RelaySide {
    /// The group's primary, which writes its journal.
    First,
    /// A copy, which reads it.
    Second,
}

impl fmt::Display for RelaySide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::First => "first",
            Self::Second => "second",
        })
    }
}

impl FromStr for RelaySide {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "first" => Ok(Self::First),
            "second" => Ok(Self::Second),
            _ => Err("first or second".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_luns_are_named_and_shown() {
        let luns: RelayLuns = "1, 2,300".parse().unwrap();
        assert_eq!((luns.to_string(), luns.are_different()), ("1,2,300".to_owned(), true));
        assert!(!"4,2,4".parse::<RelayLuns>().unwrap().are_different());
        for bad in ["", "1,2", "1,2,3,4", "1,2,x", "1,2,-3", "1,2,65536"] {
            assert!(bad.parse::<RelayLuns>().is_err(), "{bad}");
        }
        assert_eq!("second".parse::<RelaySide>().unwrap().to_string(), "second");
        for hosts in [RelayHosts::GoOn, RelayHosts::Wait] {
            assert_eq!(hosts.to_string().parse(), Ok(hosts));
        }
        for control in [RelayControl::Relay, RelayControl::Link] {
            assert_eq!(control.to_string().parse(), Ok(control));
        }
        for journals in [RelayJournals::All, RelayJournals::Parts] {
            assert_eq!(journals.to_string().parse(), Ok(journals));
        }
    }
}
