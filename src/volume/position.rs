//! Which copy of a group has most (promises O4, O6; decision 23): what an array that may take over asks the others, and how
//! their answers compare.
//!
//! # What it guarantees
//! * **Asking changes nothing** at either array, is recorded nowhere, and may be left unanswered.
//! * **Numbers are compared within one history only.** A number of a generation that the other array does not have is a branch,
//!   not more and not less ([`compare`]).
//! * **Nothing that is answered is believed for more than words**: a takeover loses what it loses whatever the others say. They
//!   decide what the operator is told before.

use super::compare::AskCompare;
use super::group::{CommonPoint, Generation, common_point};
use super::name::{ArrayNumber, GroupName, UpdateNumber};
use super::record::Identity;
use serde::{Deserialize, Serialize};

/// What one array asks another without changing anything there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// Where is your copy of this group?
    Position(AskPosition),
    /// What is said of a relay, straight from one array to the other.
    Relay(AskRelay),
    /// A comparison of volumes: of what is asked here only a repair changes anything, by updates like those of hosts.
    Compare(Box<AskCompare>),
}

/// What the second array of a relay says over the link, and what it wants to hear there (promise X3).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AskRelay {
    /// The chain that it reads.
    pub chain: Identity,
    /// Its control information, if it has any for the link.
    pub said: Option<Vec<u8>>,
}

/// What the first array of a relay answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TellRelay {
    /// Its control information, and what stands behind it, if that goes over the link.
    pub said: Option<(Vec<u8>, Vec<u8>)>,
}

/// The first question.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AskPosition {
    /// The group.
    pub group: GroupName,
    /// What a takeover at the asking array would be as of: the answer says how much is behind that.
    pub has: UpdateNumber,
}

/// The answer: what a takeover at the answering array would find.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Position {
    /// The array whose copy it is; none: it is the primary itself.
    pub source: Option<ArrayNumber>,
    /// How far a takeover has come there, or what one has made of it, in a word.
    pub takeover: Option<String>,
    /// Its generations.
    pub generations: Vec<Generation>,
    /// Everything up to this number is durable there.
    pub received: UpdateNumber,
    /// A takeover there would go on from the image as of this number; none: there is no one moment.
    pub finds: Option<UpdateNumber>,
    /// Why there is none.
    pub reason: Option<String>,
    /// Write data of the updates behind what the asking array has, as far as the journal there still holds them all.
    pub bytes_behind: Option<u64>,
    /// When the primary was heard of last, by the primary's own clock, in milliseconds of Unix time.
    pub heard_unix_ms: Option<u64>,
}

impl Position {
    /// Whether it can be what an array says of itself.
    #[must_use]
    pub fn is_possible(&self) -> bool {
        let texts = [&self.reason, &self.takeover];
        (1..=GENERATIONS_MAX).contains(&self.generations.len())
            && texts.into_iter().flatten().all(|text| text.len() <= TEXT_MAX_BYTES)
            && self.received.0 <= NUMBER_MAX
            && self.finds.is_none_or(|finds| finds.0 <= NUMBER_MAX)
            && self.heard_unix_ms.is_none_or(|ms| ms <= NUMBER_MAX)
    }
}

/// What another array has, held against what this one has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// The same.
    Same,
    /// So many updates less.
    Fewer(u64),
    /// So many updates more.
    More(u64),
    /// Each has something that the other one has not: numbers of generations that went their own ways.
    Branch,
    /// It is another group, which only has the same name.
    Foreign,
}

/// Compares what two copies of a group have: their generations, and the number up to which each has everything.
#[must_use]
pub fn compare(
    (ours, own): (&[Generation], UpdateNumber),
    (theirs, other): (&[Generation], UpdateNumber),
) -> Standing {
    if ours.first() != theirs.first() || ours.is_empty() {
        return Standing::Foreign;
    }
    // Of a generation that begins behind what an array has it has only heard.
    let known = |generations: &[Generation], has: UpdateNumber| -> Vec<Generation> {
        let held = generations.iter().enumerate().filter(|(index, one)| *index == 0 || one.first <= has);
        held.map(|(_, one)| *one).collect()
    };
    let is_apart = match common_point(&known(ours, own), &known(theirs, other)) {
        CommonPoint::None => return Standing::Foreign,
        CommonPoint::Same => false,
        CommonPoint::OtherGoesOn(first) => first <= own,
        CommonPoint::OursGoesOn(first) => first <= other,
        CommonPoint::Diverged(_) => true,
    };
    match (is_apart, own.0.cmp(&other.0)) {
        (true, _) => Standing::Branch,
        (false, std::cmp::Ordering::Equal) => Standing::Same,
        (false, std::cmp::Ordering::Greater) => Standing::Fewer(own.0 - other.0),
        (false, std::cmp::Ordering::Less) => Standing::More(other.0 - own.0),
    }
}

/// Generations that an answer may name.
const GENERATIONS_MAX: usize = super::apply::reverse::GENERATIONS_MAX;
/// The largest number that is believed.
const NUMBER_MAX: u64 = super::apply::reverse::LAST_MAX;
/// The longest text that is shown.
const TEXT_MAX_BYTES: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn g(counter: u64, array: u32, first: u64) -> Generation {
        Generation { counter, array: ArrayNumber(array), first: UpdateNumber(first) }
    }

    fn of(ours: &[Generation], own: u64, theirs: &[Generation], other: u64) -> Standing {
        compare((ours, UpdateNumber(own)), (theirs, UpdateNumber(other)))
    }

    #[test]
    fn copies_of_one_history_compare_by_number() {
        let a = g(1, 1, 1);
        assert_eq!(of(&[a], 40, &[a], 40), Standing::Same);
        assert_eq!(of(&[a], 40, &[a], 52), Standing::More(12));
        assert_eq!(of(&[a], 40, &[a], 3), Standing::Fewer(37));
        assert_eq!(of(&[a], 0, &[a], 0), Standing::Same, "nothing has come to either");
        // The primary was started again behind 45; one of the two has not heard of that.
        let b = g(2, 1, 46);
        assert_eq!(of(&[a], 45, &[a, b], 50), Standing::More(5));
        assert_eq!(of(&[a], 45, &[a, b], 45), Standing::Same);
        assert_eq!(of(&[a, b], 50, &[a], 45), Standing::Fewer(5));
        assert_eq!(of(&[a, b], 50, &[a, b], 44), Standing::Fewer(6));
        assert_eq!(of(&[a, b], 30, &[a], 40), Standing::More(10), "it has heard of what it has not");
    }

    #[test]
    fn numbers_of_histories_that_went_their_own_ways_are_not_compared() {
        let (a, b, c) = (g(1, 1, 1), g(2, 1, 46), g(2, 2, 41));
        assert_eq!(of(&[a], 48, &[a, b], 60), Standing::Branch, "46 to 48 are others there");
        assert_eq!(of(&[a, b], 60, &[a], 48), Standing::Branch);
        assert_eq!(of(&[a, b], 50, &[a, c], 60), Standing::Branch);
        assert_eq!(of(&[a, b], 45, &[a, c], 60), Standing::Branch, "41 to 45 are others there");
        assert_eq!(of(&[a], 9, &[g(1, 2, 1)], 9), Standing::Foreign);
        assert_eq!(of(&[], 9, &[], 9), Standing::Foreign);
        // Generations may begin behind what anybody has.
        assert_eq!(of(&[g(3, 1, 20)], 0, &[g(3, 1, 20)], 25), Standing::More(25));
    }
}
