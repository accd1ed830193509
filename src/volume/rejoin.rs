//! Other readers of a primary that another array has overtaken (promises K4, O4; decisions 17 and 19).
//!
//! ```text
//! reader:       none -told by the new primary-> moving -all that it had is restored-> moving, with its number
//!                      +--- taken on ---> none, a copy of the new primary
//!                      +--- the old primary took itself back ---> none
//! ```
//!
//! Who took over may be overtaken itself before the reader has gone on: then that goes on from the next one. It names its P-VOLs
//! by the numbers of the array that it was a copy of, and every array remembers those of the arrays that it has copied
//! ([`FormerNumbers`]).
//!
//! # What it guarantees
//! * **A reader reads no branch any further.** From the moment that it has been told nothing of the old primary's journal is read,
//!   and nothing of what that says is done.
//! * **Nothing that only a reader has is overwritten unasked.** One that has more of the old primary than the array that took over
//!   is *ahead*: both say with how many updates, and it stays what it is until the operator of the new primary gives them up by
//!   `group failback`, or its own takes over there. What is given up is named by its last number.
//! * **No gap.** What such a reader may lack is marked at the new primary before it is told that it may read on: what was changed
//!   since the takeover, and of what came before all that the new primary's journal still held then, and what is marked of what it
//!   had to free. Where that does not reach back to what the reader has, everything is copied.
//! * **Each pair for itself.** A pair that was stopped, or in the middle of a copy of differences, says what it reaches: the number
//!   behind which everything was changed that its S-VOL lacks, or has too much of. Nobody believes that of one that was never an image, or
//!   failed, or lost its journal, nor where data of a copy is newer than what the new primary ever had.

use super::designation::DesignationId;
use super::group::{Generation, JournalOptions};
use super::name::{
    ArrayNumber, GroupName, GroupNumber, LinkName, PairNumber, UpdateNumber, VolumeName, VolumeNumber,
};
use super::onward::{OnwardPair, RemoteOnward};
use super::takeover::parting;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// What a reader knows whose primary was overtaken.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Moving {
    /// Link to the array that took over; none: there is none here, and it goes on when there is one.
    pub link: Option<LinkName>,
    /// That array.
    pub array: ArrayNumber,
    /// Its generations.
    pub generations: Vec<Generation>,
    /// What the S-VOLs here have, once everything is restored that came from the old primary.
    pub has: Option<UpdateNumber>,
    /// The word by which it was told: what it says of its S-VOLs holds for as long as it goes by that. Called back by its old primary it may be
    /// copied, and hosts may write, before it is told once more.
    #[serde(default)]
    pub told_by: Option<DesignationId>,
}

impl Moving {
    /// The array that took over, in words.
    #[must_use]
    pub fn whom(&self) -> String {
        match &self.link {
            Some(link) => link.to_string(),
            None => format!("array {} (to which there is no link)", self.array),
        }
    }

    /// How many updates this array has that the new primary has not; `ours` are the generations here.
    #[must_use]
    pub fn ahead(&self, ours: &[Generation]) -> u64 {
        self.has.map_or(0, |has| ahead(ours, &self.generations, has))
    }
}

/// How many updates an array has of its own that has everything up to `has` in its generations: those from where the other list
/// goes its own way.
#[must_use]
pub fn ahead(ours: &[Generation], theirs: &[Generation], has: UpdateNumber) -> u64 {
    // Of a generation that begins behind what it has it has only heard.
    let known: Vec<Generation> = ours.iter().filter(|one| one.first <= has).copied().collect();
    match parting(&known, theirs, UpdateNumber(u64::MAX)) {
        Some((first, _)) => has.0.saturating_add(1).saturating_sub(first.0),
        None => 0,
    }
}

impl RemoteOnward {
    /// At a reader, of which the sender takes it that it has everything up to a number, and that what it lacks is held or marked: that is
    /// not so if its S-VOLs have anything of an update that the sender never had. `contains`: they have nothing behind that number, whatever
    /// they had when the sender judged; `ours` are the generations here.
    #[must_use]
    pub(crate) fn takes_it_for_another(&self, ours: &[Generation], contains: UpdateNumber) -> bool {
        self.is_believed() && ahead(ours, &self.generations, contains) > 0
    }

    /// At a reader that goes by the word `told_by`: whether the sender takes it that what stopped pairs lack is marked, and judged that by what the
    /// reader said before it was called back, and told once more. What hosts wrote into S-VOLs meanwhile is in no map then.
    #[must_use]
    pub(crate) fn answers_an_earlier_word(&self, told_by: Option<DesignationId>) -> bool {
        let has_stopped = self.pairs.iter().any(|pair| pair.stopped.is_some());
        self.is_believed() && has_stopped && told_by.is_some() && self.told_by != told_by
    }

    /// The sender takes it that what the reader lacks is held or marked.
    #[must_use]
    pub(crate) fn is_believed(&self) -> bool {
        self.assumed.0 > 0 && self.gives_up.is_none()
    }
}

/// From an array that has taken over, or taken itself back, to those that read the former primary.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RemoteRejoin {
    /// The group.
    pub group: GroupName,
    /// The array that is its primary no more; the sender itself, if that took itself back.
    pub former: ArrayNumber,
    /// The generations of the array that is the primary now.
    pub generations: Vec<Generation>,
    /// That array, where it is not the sender: the former primary says to its own readers by whom it was overtaken. They believe it
    /// whatever they have heard of its restarts.
    #[serde(default)]
    pub by: Option<ArrayNumber>,
    /// A question: the sender is a primary by a control store that is an older copy. Whoever knows more says so; nobody goes back to it by that.
    #[serde(default)]
    pub asks: bool,
    /// From a copy that says by whom it was overtaken, or is copied: the largest counter of a generation that it has seen. What it says was said
    /// after it had taken over in a generation of a smaller one.
    #[serde(default)]
    pub knows: u64,
}

/// The answer: from such a reader, which has stopped.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct JoinOnward {
    /// The group.
    pub group: GroupName,
    /// Its number at the sender.
    pub number: GroupNumber,
    /// The array that it was a copy of; P-VOLs are named by their numbers there.
    pub former: ArrayNumber,
    /// The generations that the sender knows.
    pub generations: Vec<Generation>,
    /// Its S-VOLs have everything up to this number; 0: they are no image.
    pub has: UpdateNumber,
    /// All of them: none of its pairs is suspended, or being copied.
    #[serde(default)]
    pub are_all_normal: bool,
    /// No S-VOL has anything of an update behind this number: data that was copied may be newer than `has`.
    #[serde(default)]
    pub contains: UpdateNumber,
    /// By which word it goes ([`Moving::told_by`]); the answer names it.
    #[serde(default)]
    pub told_by: Option<DesignationId>,
    /// Its journal volumes.
    pub journals: Vec<(VolumeName, JournalOptions)>,
    /// Its pairs.
    pub pairs: Vec<OnwardPair>,
}

impl JoinOnward {
    /// Which of its S-VOLs lack nothing but what was changed behind an update that is marked at the new primary, from `marked_from` on, and
    /// what the reader says itself; in the order of its pairs. `ours` are the generations of the new primary.
    #[must_use]
    pub fn lack_what_is_marked(&self, marked_from: UpdateNumber, ours: &[Generation]) -> Vec<bool> {
        // What was read for a copy may be of updates that the new primary never had: nobody here knows where.
        let has_more = ahead(&self.generations, ours, self.contains.max(self.has)) > 0;
        let is_marked = |pair: &OnwardPair| {
            let reaches = pair.stopped.as_ref().and_then(|stopped| stopped.reaches);
            reaches.is_some_and(|reaches| {
                !has_more && reaches <= self.has && reaches.0.saturating_add(1) >= marked_from.0
            })
        };
        self.pairs.iter().map(is_marked).collect()
    }
}

/// What the S-VOLs of a reader that has stopped are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Has {
    /// They have everything up to this number, as far as they are not stopped; 0: they are no image.
    pub(crate) up_to: UpdateNumber,
    /// And nothing of any update behind this one.
    pub(crate) contains: UpdateNumber,
    /// Where those that are not normal differ besides, because of what hosts did here: by pair, those of which it is known.
    pub(crate) written: BTreeMap<PairNumber, Vec<(u64, u64)>>,
}

impl Has {
    /// All of them are an image.
    #[cfg(test)]
    pub(crate) fn of(number: UpdateNumber) -> Self {
        Self { up_to: number, contains: number, written: BTreeMap::new() }
    }
}

/// At the new primary: by which way a reader of the former one goes on from here.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Judged {
    /// The reader.
    pub array: ArrayNumber,
    /// It had everything up to this number.
    pub has: UpdateNumber,
    /// What follows from that.
    pub way: WayOn,
}

/// How a reader of a former primary comes to have what the new one has (claims 18 to 20 and 28 of the document on three data centres).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WayOn {
    /// It lacked nothing.
    NothingMissing,
    /// The journal here held everything that it lacked: it reads on.
    Journal {
        /// So many updates.
        updates: u64,
        /// What they take in the journal.
        bytes: u64,
    },
    /// What it may lack is in difference maps.
    Differences {
        /// So much.
        bytes: u64,
        /// Why not by the journal.
        why: String,
    },
    /// Nobody knows what it lacks: everything is copied.
    FullCopy {
        /// So much.
        bytes: u64,
        /// Why not by less.
        why: String,
    },
}

impl WayOn {
    /// One word for it.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::NothingMissing => "nothing-missing",
            Self::Journal { .. } => "journal",
            Self::Differences { .. } => "differences",
            Self::FullCopy { .. } => "full-copy",
        }
    }
}

impl fmt::Display for WayOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NothingMissing => f.write_str("nothing is missing"),
            Self::Journal { updates, bytes } => {
                write!(f, "possible by the journal (delta resync): {updates} updates, {bytes} bytes")
            }
            Self::Differences { bytes, why } => {
                write!(f, "not possible by the journal ({why}): by its differences, {bytes} bytes")
            }
            Self::FullCopy { bytes, why } => {
                write!(f, "not possible ({why}): all of it is copied, {bytes} bytes")
            }
        }
    }
}
/// By which numbers an array that this one copied before knew the volumes that are here. A reader that has not heard of anybody since names
/// P-VOLs so when it comes; the pairs with that array may be gone by then.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FormerNumbers {
    /// That array.
    pub array: ArrayNumber,
    /// The volumes.
    pub volumes: Vec<FormerVolume>,
}

/// One of these volumes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FormerVolume {
    /// Its P-VOL's number at that array.
    pub theirs: VolumeNumber,
    /// Its number here.
    pub ours: VolumeNumber,
    /// The size of both then.
    pub size_bytes: u64,
}

/// So many arrays are remembered for each group. A reader that names its P-VOLs by one before them is not taken on: it has to be paired anew.
pub(crate) const FORMERS_KEPT: usize = 4;

/// At the new primary: a reader of the former one that has more than this array had.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ahead {
    /// Link to it.
    pub link: LinkName,
    /// It.
    pub array: ArrayNumber,
    /// Up to this number.
    pub has: UpdateNumber,
    /// How many updates only it has.
    pub updates: u64,
    /// The operator has given them up.
    pub is_given_up: bool,
}

/// At a primary: another array that is one as well, and has no pairs with this one. Two operators took over at two readers of a
/// former primary, or one where the group was handed to another; neither copies from the other.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rival {
    /// Link to it.
    pub link: LinkName,
    /// It.
    pub array: ArrayNumber,
    /// Its generations.
    pub generations: Vec<Generation>,
    /// The first number from which on the two have different updates.
    pub first: UpdateNumber,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::onward::Stopped;
    use crate::volume::pair::PairSide;

    fn pair(reaches: Option<u64>) -> OnwardPair {
        OnwardPair {
            name: "p1".parse().unwrap(),
            pvol: VolumeNumber(1),
            svol: PairSide { array: ArrayNumber(3), volume: Some(VolumeNumber(1)), name: None },
            stopped: Some(Stopped {
                cause: None,
                reason: String::new(),
                goes_on: true,
                told: false,
                withheld_from: None,
                runs: Vec::new(),
                reaches: reaches.map(UpdateNumber),
            }),
        }
    }

    /// Each row: what a pair reaches, what the reader has, what data of copies contains, from where on the new primary has marked.
    #[test]
    fn a_stopped_pair_comes_by_what_is_marked_only_if_all_that_it_lacks_is() {
        let g = |counter, array, first| Generation {
            counter,
            array: ArrayNumber(array),
            first: UpdateNumber(first),
        };
        // The new primary goes on behind update 40.
        let ours = [g(1, 1, 1), g(2, 2, 41)];
        for (reaches, has, contains, marked_from, expected) in [
            (Some(20), 30, 30, 21, true),
            (Some(20), 30, 30, 22, false),
            (Some(20), 30, 40, 5, true),
            (Some(20), 30, 41, 5, false),
            (Some(30), 30, 41, 5, false),
            (Some(31), 30, 41, 5, false),
            (Some(31), 30, 31, 5, false),
            (None, 30, 30, 5, false),
        ] {
            let told = JoinOnward {
                group: "g1".parse().unwrap(),
                number: GroupNumber(1),
                former: ArrayNumber(1),
                generations: vec![g(1, 1, 1)],
                has: UpdateNumber(has),
                are_all_normal: false,
                contains: UpdateNumber(contains),
                told_by: None,
                journals: Vec::new(),
                pairs: vec![pair(reaches)],
            };
            let found = told.lack_what_is_marked(UpdateNumber(marked_from), &ours);
            assert_eq!(found, [expected], "{reaches:?}, {has}, {contains}, {marked_from}");
        }
    }

    /// The copy of differences went on while the new primary judged, and brought what that never had.
    #[test]
    fn a_reader_says_that_it_has_more_than_the_new_primary_when_it_is_taken_on() {
        let g = |counter, array, first| Generation {
            counter,
            array: ArrayNumber(array),
            first: UpdateNumber(first),
        };
        let told = |assumed| RemoteOnward {
            group: "g1".parse().unwrap(),
            number: GroupNumber(1),
            last: UpdateNumber(44),
            // The new primary goes on behind update 40, and has given four numbers since.
            generations: vec![g(1, 1, 1), g(2, 2, 41)],
            assumed: UpdateNumber(assumed),
            begins: None,
            pairs: Vec::new(),
            gives_up: None,
            told_by: None,
        };
        let ours = [g(1, 1, 1)];
        assert!(!told(30).takes_it_for_another(&ours, UpdateNumber(40)));
        assert!(told(30).takes_it_for_another(&ours, UpdateNumber(41)));
        assert!(!told(0).takes_it_for_another(&ours, UpdateNumber(41)), "everything counts as different");
    }

    #[test]
    fn who_has_more_than_the_new_primary_had_is_ahead_by_what_it_has_itself() {
        let g = |counter, array, first| Generation {
            counter,
            array: ArrayNumber(array),
            first: UpdateNumber(first),
        };
        let (a, b) = (g(1, 1, 1), g(2, 2, 41));
        let of = |ours: &[Generation], theirs: &[Generation], has| ahead(ours, theirs, UpdateNumber(has));
        assert_eq!(of(&[a], &[a, b], 40), 0, "as far as the takeover");
        assert_eq!(of(&[a], &[a, b], 12), 0);
        assert_eq!(of(&[a], &[a, b], 43), 3);
        assert_eq!(of(&[a], &[a, b, g(3, 2, 90)], 43), 3, "wherever the new primary is now");
        // It has heard of a generation of the old primary without having anything of it.
        assert_eq!(of(&[a, g(2, 1, 45)], &[a, b], 40), 0);
        assert_eq!(of(&[a, g(2, 1, 30)], &[a, b], 35), 6, "and here it has");
        assert_eq!(of(&[a, b], &[a, b], 60), 0, "it is a copy of it already");
    }
}
