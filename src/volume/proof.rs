//! What a comparison leaves to whoever was not there: sealed results, each of which names the one before (promise O8, decision 28).
//!
//! # What it guarantees
//! A [`Proof`] is what both arrays keep, as text. Its entries are in the order in which they were made: each carries the seal of the one before it, a SHA-256 over all that it
//! says. So whoever kept one seal knows of every later proof whether that entry is still what it was, and whoever has an image of a volume as of the number can compute its
//! root and find it here. So are the roots of a snapshot, which one array finds alone: what two arrays have found of one update can be held against each other later
//! ([`Proof::check_with`]). What it does not say: that an array did not lie from the beginning. Both arrays would have to, and the same.

use super::compare::{Between, CompareOutcome, Compared, Digest};
use super::group::Generation;
use super::name::{GroupName, UpdateNumber, VolumeName};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// What both sides found of one volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VolumeRoots {
    /// The volume at the source.
    pub pvol: VolumeName,
    /// The volume at the copy.
    pub svol: VolumeName,
    /// The root of its tree at the source.
    pub source: Digest,
    /// The same at the copy.
    pub copy: Digest,
}

/// The results that are kept of a group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Proof {
    /// [`FORMAT`].
    pub format: String,
    /// The group.
    pub group: GroupName,
    /// Its results, the newest last, those of each pair of arrays sealed one after the other.
    pub entries: Vec<Compared>,
}

impl Compared {
    /// Puts the roots in, names the result before, and seals all of it.
    #[must_use]
    pub fn sealed(mut self, previous: Digest, roots: Vec<VolumeRoots>) -> Self {
        (self.previous, self.roots_digest, self.roots) = (previous, digest_of_roots(&roots), roots);
        self.seal = self.computed_seal();
        self
    }

    /// What its seal has to be.
    #[must_use]
    pub fn computed_seal(&self) -> Digest {
        let said = Self { seal: Digest::ZERO, roots: Vec::new(), ..self.clone() };
        sha256(&[b"holdfast comparison 1\n", &serde_json::to_vec(&said).unwrap_or_default()])
    }

    /// Why it is not what was sealed.
    ///
    /// # Errors
    /// In words.
    pub fn check_seal(&self) -> Result<(), String> {
        if self.computed_seal() != self.seal {
            return Err("it is not what was sealed".to_owned());
        }
        if !self.roots.is_empty() && digest_of_roots(&self.roots) != self.roots_digest {
            return Err("its roots are not what was sealed".to_owned());
        }
        let differs = self.roots.iter().any(|one| one.source != one.copy);
        match self.outcome {
            CompareOutcome::Equal if differs => Err("it says equal, and its roots differ".to_owned()),
            CompareOutcome::Different if !differs && !self.roots.is_empty() => {
                Err("it says different, and its roots are equal".to_owned())
            }
            CompareOutcome::Equal
            | CompareOutcome::Different
            | CompareOutcome::Cancelled
            | CompareOutcome::Failed(_) => Ok(()),
        }
    }
}

/// What the array that was asked in a comparison has found itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// Of which update its image was.
    pub number: UpdateNumber,
    /// And of which generation.
    pub generation: Generation,
    /// One for each volume.
    pub roots: Vec<Digest>,
}

impl Compared {
    /// Whether what the array that led says that the other one has found is what that has found. A result of a comparison that it does
    /// not know, or not any more, may only say that it came to nothing.
    ///
    /// # Errors
    /// Why the array that was asked does not keep it.
    pub fn is_what_was_found(&self, found: Option<&Found>) -> Result<(), String> {
        if !self.outcome.is_whole() && self.roots.is_empty() {
            return Ok(());
        }
        let Some(found) = found.filter(|_| !self.roots.is_empty()) else {
            return Err("the result says what this array has found, which knows nothing of it".to_owned());
        };
        let is_number = self.number == Some(found.number)
            && self.generation.is_none_or(|generation| generation == found.generation);
        if !is_number || !self.roots.iter().map(|one| one.source).eq(found.roots.iter().copied()) {
            return Err("the result names other roots than were found here".to_owned());
        }
        Ok(())
    }
}

/// The seal of the newest result of two arrays that says what they are. One that came to nothing proves nothing, and is no link of the
/// chain: it may never have been heard of at the other one, because the link was down.
#[must_use]
pub fn last_seal(all: &[Compared], like: &Compared) -> Digest {
    let same = |one: &&Compared| (one.source, one.copy) == (like.source, like.copy) && one.outcome.is_whole();
    all.iter().rfind(same).map_or(Digest::ZERO, |one| one.seal)
}

impl Proof {
    /// Whether every entry is what was sealed, and each follows the one before it; a sentence for each.
    ///
    /// # Errors
    /// What is wrong, and with which.
    pub fn check(&self) -> Result<Vec<String>, String> {
        if self.format != FORMAT {
            return Err(format!("the format is {:?}, not {FORMAT:?}", self.format));
        }
        let mut said = Vec::new();
        for (at, one) in self.entries.iter().enumerate() {
            let wrong = |why: &str| format!("comparison {}: {why}", one.id);
            one.check_seal().map_err(|why| wrong(&why))?;
            let before = &self.entries[..at];
            let last = last_seal(before, one);
            if last != Digest::ZERO && last != one.previous {
                return Err(wrong("it does not follow the one before it: one is missing, or was put in"));
            }
            said.push(format!("{}  {one}", one.seal));
        }
        Ok(said)
    }

    /// What another array's proof says of the same updates: a sentence for each volume of which both have a root.
    ///
    /// # Errors
    /// They differ, or say nothing of the same update.
    pub fn check_with(&self, other: &Self) -> Result<Vec<String>, String> {
        let theirs = other.known_roots();
        let mut said = Vec::new();
        for (of, roots) in self.known_roots() {
            let Some(others) = theirs.get(&of) else { continue };
            let (_, _, number, volume) = of;
            if roots.len() != 1 || *others != roots {
                return Err(format!("volume {volume} as of update {number} is another one there"));
            }
            said.push(format!("volume {volume} as of update {number}: the same in both"));
        }
        if said.is_empty() {
            return Err("the two have no roots of the same volume as of the same update".to_owned());
        }
        Ok(said)
    }

    /// By generation, number, and name of the P-VOL.
    fn known_roots(&self) -> BTreeMap<(u64, u32, u64, &str), BTreeSet<[u8; 32]>> {
        let mut all = BTreeMap::<_, BTreeSet<_>>::new();
        // Of two copies the names are not those of P-VOLs.
        for one in self.entries.iter().filter(|one| one.between != Between::Copies) {
            let (Some(generation), Some(number)) = (one.generation, one.number) else { continue };
            for roots in &one.roots {
                let of = (generation.counter, generation.array.0, number.0, roots.pvol.as_str());
                all.entry(of).or_default().extend([roots.source.0, roots.copy.0]);
            }
        }
        all
    }

    /// The newest roots of a volume, by its name on either side, and as of which update.
    #[must_use]
    pub fn roots_of(&self, volume: &str) -> Option<(&VolumeRoots, &Compared)> {
        let is_it = |one: &&VolumeRoots| one.pvol.as_str() == volume || one.svol.as_str() == volume;
        self.entries.iter().rev().find_map(|one| Some((one.roots.iter().find(is_it)?, one)))
    }
}

fn digest_of_roots(roots: &[VolumeRoots]) -> Digest {
    sha256(&[b"holdfast roots 1\n", &serde_json::to_vec(roots).unwrap_or_default()])
}

fn sha256(parts: &[&[u8]]) -> Digest {
    let mut sha = Sha256::new();
    parts.iter().for_each(|part| sha.update(part));
    Digest(sha.finalize().into())
}

/// What stands in a proof of this form.
pub const FORMAT: &str = "holdfast-proof-1";

#[cfg(test)]
mod tests {
    use super::super::compare::CompareOptions;
    use super::super::group::Generation;
    use super::super::name::{ArrayNumber, UpdateNumber};
    use super::super::record::Identity;
    use super::*;

    fn result(id: u64, number: u64) -> Compared {
        Compared {
            id: Identity(id.into()),
            between: Between::SourceAndCopy,
            source: ArrayNumber(1),
            copy: ArrayNumber(2),
            number: Some(UpdateNumber(number)),
            generation: None,
            began_unix_ns: id,
            ended_unix_ns: id + 5,
            options: CompareOptions::default(),
            compared_bytes: 1 << 20,
            read_bytes: 0,
            source_read_bytes: 0,
            outcome: CompareOutcome::Equal,
            different_bytes: 0,
            ranges: Vec::new(),
            repaired_bytes: 0,
            previous: Digest::ZERO,
            roots_digest: Digest::ZERO,
            roots: Vec::new(),
            seal: Digest::ZERO,
        }
    }

    fn roots(of: u8) -> Vec<VolumeRoots> {
        let (pvol, svol) = ("data1".parse().unwrap(), "copy1".parse().unwrap());
        vec![VolumeRoots { pvol, svol, source: Digest([of; 32]), copy: Digest([of; 32]) }]
    }

    fn proof() -> Proof {
        let mut entries: Vec<Compared> = Vec::new();
        for n in 1..=4 {
            let one = result(n.into(), u64::from(n) * 10);
            let previous = last_seal(&entries, &one);
            super::super::compare::keep(&mut entries, one.sealed(previous, roots(n)));
        }
        Proof { format: FORMAT.to_owned(), group: "g1".parse().unwrap(), entries }
    }

    #[test]
    fn a_proof_is_believed_as_it_was_made_and_after_no_change_at_all() {
        let proof = proof();
        assert_eq!(proof.check().unwrap().len(), 4);
        let text = serde_json::to_string(&proof).unwrap();
        assert_eq!(serde_json::from_str::<Proof>(&text).unwrap().check(), proof.check());
        let (found, of) = proof.roots_of("copy1").unwrap();
        assert_eq!((found.source, of.number), (Digest([4; 32]), Some(UpdateNumber(40))));
        type Change = fn(&mut Proof);
        let changes: [(&str, Change); 7] = [
            ("a number", |proof| proof.entries[1].number = Some(UpdateNumber(21))),
            ("an outcome", |proof| proof.entries[0].outcome = CompareOutcome::Cancelled),
            ("one is gone", |proof| _ = proof.entries.remove(2)),
            ("their order", |proof| proof.entries.swap(0, 1)),
            ("a root", |proof| proof.entries[3].roots[0].source = Digest([9; 32])),
            ("a seal", |proof| proof.entries[2].seal = Digest([9; 32])),
            ("made anew", |proof| {
                let one = proof.entries[1].clone();
                proof.entries[1] = Compared { compared_bytes: 7, ..one }.sealed(Digest::ZERO, roots(2));
            }),
        ];
        for (what, change) in changes {
            let mut changed = self::proof();
            change(&mut changed);
            assert!(changed.check().is_err(), "{what}");
        }
    }

    /// The link was down at the end of a comparison that failed for it: only one of the two arrays has heard of that.
    #[test]
    fn what_came_to_nothing_is_no_link_of_the_chain() {
        let mut entries: Vec<Compared> = Vec::new();
        for n in 1..=4_u8 {
            let failed = CompareOutcome::Failed("the link is down".to_owned());
            let outcome = if n == 2 { failed } else { CompareOutcome::Equal };
            let one = Compared { outcome, ..result(n.into(), u64::from(n) * 10) };
            let known = if one.outcome.is_whole() { roots(n) } else { Vec::new() };
            let previous = last_seal(&entries, &one);
            entries.push(one.sealed(previous, known));
        }
        let without = |at: usize| {
            let mut proof = Proof { entries: entries.clone(), ..proof() };
            proof.entries.remove(at);
            proof.check()
        };
        assert_eq!(Proof { entries: entries.clone(), ..proof() }.check().unwrap().len(), 4);
        assert!(without(1).is_ok(), "never heard of");
        assert!(without(2).is_err(), "one that says something is gone");
    }

    #[test]
    fn nothing_is_kept_that_says_of_this_array_what_it_has_not_found() {
        let generation = Generation { counter: 1, array: ArrayNumber(1), first: UpdateNumber(1) };
        let found = Found { number: UpdateNumber(10), generation, roots: vec![Digest([3; 32])] };
        let said = result(1, 10).sealed(Digest::ZERO, roots(3));
        assert_eq!(said.is_what_was_found(Some(&found)), Ok(()));
        let cancelled = Compared { outcome: CompareOutcome::Cancelled, ..result(1, 10) };
        assert_eq!(cancelled.is_what_was_found(None), Ok(()), "it says nothing");
        let wrong = [
            (said.clone(), None),
            (result(1, 11).sealed(Digest::ZERO, roots(3)), Some(&found)),
            (result(1, 10).sealed(Digest::ZERO, roots(4)), Some(&found)),
            (result(1, 10).sealed(Digest::ZERO, Vec::new()), Some(&found)),
            (Compared { roots: roots(3), ..cancelled }, None),
        ];
        for (said, found) in wrong {
            assert!(said.is_what_was_found(found).is_err(), "{said:?}");
        }
    }

    /// Results that were sealed when there was only one kind of them say nothing of it.
    #[test]
    fn the_kind_of_a_result_is_sealed_and_changes_no_seal_of_before() {
        let one = result(1, 1).sealed(Digest::ZERO, roots(1));
        let text = serde_json::to_string(&one).unwrap();
        assert!(!text.contains("between"), "{text}");
        assert_eq!(serde_json::from_str::<Compared>(&text).unwrap(), one);
        let other = Compared { between: Between::Copies, ..one.clone() };
        assert!(other.check_seal().is_err());
        let other = other.sealed(Digest::ZERO, roots(1));
        assert_eq!(serde_json::from_str::<Compared>(&serde_json::to_string(&other).unwrap()).unwrap(), other);
    }

    /// Comparisons with one array, however many, push those with another one out last.
    #[test]
    fn the_newest_result_of_two_arrays_is_kept_while_there_are_older_ones_of_others() {
        let mut kept = Vec::new();
        let other = Compared { copy: ArrayNumber(3), ..result(100, 1) };
        for one in (1..=3).map(|n| result(n, n)).chain([other]).chain((4..=40).map(|n| result(n, n))) {
            super::super::compare::keep(&mut kept, one);
        }
        let ids: Vec<u128> = kept.iter().map(|one| one.id.0).collect();
        assert_eq!(ids, [100, 34, 35, 36, 37, 38, 39, 40]);
    }

    /// An auditor has two files and no array.
    #[test]
    fn two_proofs_are_held_against_each_other_where_they_speak_of_the_same_update() {
        let generation = |counter| Generation { counter, array: ArrayNumber(1), first: UpdateNumber(1) };
        let of = |array: u32, counter, root| {
            let one = Compared {
                between: Between::Snapshot,
                source: ArrayNumber(array),
                copy: ArrayNumber(array),
                generation: Some(generation(counter)),
                ..result(u64::from(array), 77)
            };
            Proof { entries: vec![one.sealed(Digest::ZERO, roots(root))], ..proof() }
        };
        assert_eq!(of(1, 1, 5).check_with(&of(2, 1, 5)).unwrap().len(), 1);
        assert!(of(1, 1, 5).check_with(&of(2, 1, 6)).is_err(), "another root");
        assert!(of(1, 1, 5).check_with(&of(2, 2, 5)).is_err(), "the number is of another history");
        assert!(of(1, 1, 5).check_with(&proof()).is_err(), "nothing in common");
    }

    /// A comparison that failed, over a cut link for example, took the roots of the last good one with it.
    #[test]
    fn roots_stay_until_another_comparison_has_some() {
        let mut proof = proof();
        for id in 5..=7 {
            let outcome = CompareOutcome::Failed("the link was cut".to_owned());
            let failed = Compared { outcome, ..result(id, 50) };
            let previous = last_seal(&proof.entries, &failed);
            super::super::compare::keep(&mut proof.entries, failed.sealed(previous, Vec::new()));
        }
        assert_eq!(proof.check().unwrap().len(), 7);
        let (found, of) = proof.roots_of("copy1").unwrap();
        assert_eq!((found.source, of.number), (Digest([4; 32]), Some(UpdateNumber(40))));
        let equal = result(8, 60);
        let previous = last_seal(&proof.entries, &equal);
        super::super::compare::keep(&mut proof.entries, equal.sealed(previous, roots(8)));
        assert_eq!(proof.roots_of("copy1").unwrap().1.number, Some(UpdateNumber(60)));
        assert_eq!(proof.entries.iter().filter(|one| !one.roots.is_empty()).count(), 1);
    }

    #[test]
    fn what_is_said_has_to_be_what_the_roots_say() {
        let mut different = roots(1);
        different[0].copy = Digest([2; 32]);
        assert!(result(1, 1).sealed(Digest::ZERO, different).check_seal().is_err());
        let says_different = Compared { outcome: CompareOutcome::Different, ..result(1, 1) };
        assert!(says_different.sealed(Digest::ZERO, roots(1)).check_seal().is_err());
    }
}
