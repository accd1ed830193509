//! What an auxiliary knows about the images that its S-VOLs are, and what a takeover would find (promise O3).
//!
//! An S-VOL is the image of one number from its first `normal` on, also while it is suspended, and it is none while
//! differences are copied to it. Before that begins its last image is kept (`copy/image.rs`), and the number of it is
//! noted in the pair; it is forgotten in the same transaction in which the last of the pairs that have one becomes
//! normal. So at every moment the tables say what a takeover finds: [`Tables::takeover_point`].

use super::designation::Refusal;
use super::group::GroupRole;
use super::name::{GroupNumber, PairName, PairNumber, UpdateNumber};
use super::pair::{Asked, PairRecord, PairState};
use super::table::Tables;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Whether a copy of differences may begin without an image of what the S-VOLs were.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageWish {
    /// No: it waits until one can be kept.
    #[default]
    Keep,
    /// Yes: none is kept.
    Without,
}

/// What hosts may do with an S-VOL while its pair is suspended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SvolHosts {
    /// What the group lets them do.
    #[default]
    Keep,
    /// Write it, too. Where they do is marked; the next copy of differences takes it back.
    Write,
}

/// A pair whose differences will be copied, as its primary says it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ResyncedPair {
    /// The pair.
    pub pair: PairName,
    /// Updates from this number on were kept from the auxiliary for this pair.
    pub withheld_from: Option<UpdateNumber>,
    /// How much of the S-VOL the copy rewrites at most, in whole MiB.
    pub rewritten_bytes: u64,
    /// Whether it may begin without an image.
    pub image: ImageWish,
    /// Which copy of the pair begins, where numbers do not say it.
    #[serde(default)]
    pub copies: u32,
}

/// What a takeover of a copied group finds: all S-VOLs of it as of one number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TakeoverPoint {
    /// The S-VOLs themselves.
    Volumes(UpdateNumber),
    /// Images of them, to which it has to go back.
    Image(UpdateNumber),
}

impl TakeoverPoint {
    /// The number.
    #[must_use]
    pub fn number(self) -> UpdateNumber {
        match self {
            Self::Volumes(number) | Self::Image(number) => number,
        }
    }
}

impl PairRecord {
    /// No later number than this one can be what the S-VOL itself is of, at its auxiliary, which has restored
    /// `restored`.
    #[must_use]
    pub fn at_most(&self, restored: UpdateNumber) -> UpdateNumber {
        self.control.stopped_at.map_or(restored, |stopped| stopped.min(restored))
    }
}

impl PairRecord {
    /// No later number than this one can be what its S-VOL here is of, when updates from `withheld_from` on were kept from
    /// it; none: it is of what the group has restored.
    ///
    /// Its source chooses the number behind the newest one that it knows this array to have. What has come from another
    /// array until then (promise T5) is in the S-VOL all the same.
    #[must_use]
    pub fn image_at_most(&self, withheld_from: Option<UpdateNumber>) -> Option<UpdateNumber> {
        let had = self.control.had_from_elsewhere;
        let withheld = withheld_from.map(|from| UpdateNumber(from.0.saturating_sub(1)).max(had));
        [withheld, self.control.stopped_at].into_iter().flatten().min()
    }
}

impl Tables {
    /// Refuses what would make another thing of S-VOLs whose restore an operator has let stop.
    pub(crate) fn restore_goes_on<'a>(
        &self,
        pairs: impl Iterator<Item = &'a PairName>,
    ) -> Result<(), Refusal> {
        let groups =
            pairs.filter_map(|name| self.pair_named(name)).filter_map(|pair| self.groups.get(&pair.group));
        for group in groups {
            if group.rewinding.is_some() {
                let text = format!("the S-VOLs of group {} there are on the way to a snapshot", group.name);
                return Err(Refusal::Conflict(text));
            }
            if let Some(stop) = group.restore_stops().into_iter().flatten().last() {
                return Err(Refusal::Conflict(format!(
                    "restore is stopped there at {stop}: `group restore {} --go-on` at that array lets it go on",
                    group.name
                )));
            }
        }
        Ok(())
    }

    /// What a takeover of a group finds that is copied here; `restored` is what its S-VOLs have, if that is known.
    ///
    /// # Errors
    /// Why there is no one moment that all its S-VOLs are of.
    pub fn takeover_point(
        &self,
        group: GroupNumber,
        restored: Option<UpdateNumber>,
    ) -> Result<TakeoverPoint, String> {
        // One that is being taken away gets nothing any more: it is no member.
        let pairs: Vec<&PairRecord> =
            self.followed_pairs(group).filter(|pair| pair.control.asked != Some(Asked::Delete)).collect();
        let goes_back = pairs.iter().any(|pair| !pair.control.is_image && pair.control.image.is_some());
        let found = one_moment(&pairs, restored, goes_back);
        if found.is_err() && pairs.iter().any(|pair| pair.control.image.is_some()) {
            // Resynchronised one by one, they were of one moment last before the first of them went on.
            return one_moment(&pairs, restored, true).or(found);
        }
        found
    }

    /// The group's journal here ends, and everything in it has been restored: what is stopped stays as of `restored`.
    /// Without it the S-VOLs have half of an update, or are in a stretch in which the P-VOLs were no image, and are none.
    pub(crate) fn stop_images(&mut self, group: GroupNumber, restored: Option<UpdateNumber>) {
        let is_copied = |row: &super::group::GroupRecord| matches!(row.role, GroupRole::Auxiliary { .. });
        if !self.groups.get(&group).is_some_and(is_copied) {
            return;
        }
        let numbers: Vec<PairNumber> = self.followed_pairs(group).map(|pair| pair.number).collect();
        for number in numbers {
            let Some(pair) = self.pairs.edit(&number) else { continue };
            match restored {
                Some(restored) => {
                    pair.control.stopped_at.get_or_insert(restored);
                }
                // It may have part of what it reached before.
                None => (pair.control.is_image, pair.control.reaches) = (false, None),
            }
        }
    }

    /// Images of S-VOLs, kept.
    pub(crate) fn images_kept(&mut self, kept: &[(PairNumber, UpdateNumber)]) {
        for (number, as_of) in kept {
            if let Some(pair) = self.pairs.edit(number) {
                pair.control.image = Some(*as_of);
            }
        }
    }

    /// Of a stopped group's S-VOLs those that are not resynchronised with these stay what they are.
    pub(crate) fn stays_as_of(
        &mut self,
        group: GroupNumber,
        resynced: &[(PairNumber, UpdateNumber)],
        as_of: UpdateNumber,
    ) {
        let numbers: Vec<PairNumber> = self.followed_pairs(group).map(|pair| pair.number).collect();
        for number in numbers.into_iter().filter(|number| !resynced.iter().any(|(one, _)| one == number)) {
            let Some(pair) = self.pairs.edit(&number) else { continue };
            if pair.control.is_image && !pair.control.left_behind {
                pair.control.stopped_at.get_or_insert(as_of);
            }
        }
    }

    /// The S-VOLs of a group are what their images were, and these are needed no more. The others stay what they are.
    pub(crate) fn fallen_back(&mut self, group: GroupNumber, restored: Option<UpdateNumber>) {
        if restored.is_some() {
            self.stop_images(group, restored);
        }
        let numbers: Vec<PairNumber> = self.followed_pairs(group).map(|pair| pair.number).collect();
        for number in numbers {
            let Some(pair) = self.pairs.edit(&number) else { continue };
            if let Some(as_of) = pair.control.image.take() {
                (pair.control.is_image, pair.control.stopped_at) = (true, Some(as_of));
                // The image may be older than the last moment at which the pair was normal. What was not noted is not known: an image is kept
                // through changes of roles, and its number may be one of another history.
                pair.control.reaches = pair.control.reaches.map(|reaches| reaches.min(as_of));
                // What hosts have written here is given up with it.
                (pair.control.svol_write, pair.control.svol_open) = (false, false);
                pair.control.is_written = false;
                (pair.state, pair.reason) =
                    (PairState::Suspended, Some(format!("gone back to update {as_of}")));
            }
        }
    }

    /// Images are needed until all pairs of the group are normal: also one that has none, as it was not resynchronised
    /// with the others, may be of their moment. One that never was an image is of none.
    pub(super) fn forget_images_of_the_past(&mut self, group: GroupNumber) {
        let is_needed = |pair: &PairRecord| {
            let was_one = pair.control.is_image || pair.control.image.is_some();
            was_one && pair.state != PairState::Normal
        };
        if !self.followed_pairs(group).any(is_needed) {
            let numbers: Vec<PairNumber> = self.followed_pairs(group).map(|pair| pair.number).collect();
            for number in numbers {
                if let Some(pair) = self.pairs.edit(&number) {
                    pair.control.image = None;
                }
            }
        }
    }
}

/// The one moment that all these S-VOLs are of, as they are or as their images were.
fn one_moment(
    pairs: &[&PairRecord],
    restored: Option<UpdateNumber>,
    goes_back: bool,
) -> Result<TakeoverPoint, String> {
    let mut numbers = BTreeSet::new();
    for pair in pairs {
        let number = match (pair.control.image, pair.control.is_image) {
            (Some(kept), _) if goes_back => kept,
            (_, false) => return Err(format!("pair {} is no image of any moment", pair.name)),
            (_, true) if pair.control.left_behind => {
                return Err(format!("pair {} stopped while others went on", pair.name));
            }
            (_, true) => {
                let restored = restored.or(pair.control.stopped_at);
                let restored = restored.ok_or_else(|| NO_NUMBER.to_owned())?;
                pair.at_most(restored)
            }
        };
        numbers.insert(number);
    }
    let mut numbers = numbers.into_iter();
    match (numbers.next(), numbers.next()) {
        (None, _) => Err("the group has no pairs here".to_owned()),
        (Some(number), None) if goes_back => Ok(TakeoverPoint::Image(number)),
        (Some(number), None) => Ok(TakeoverPoint::Volumes(number)),
        (Some(first), Some(second)) => {
            Err(format!("its pairs are of different moments: update {first}, update {second}"))
        }
    }
}

const NO_NUMBER: &str = "the group is not open here, or its S-VOLs are no image of one moment now";
/// Ranges in which an S-VOL was written, of one message and of one pair; the last one stands for all that follow.
pub(crate) const RUNS_OF_A_MESSAGE: usize = 8_192;
pub(crate) const RUNS_MAX: usize = 8 * RUNS_OF_A_MESSAGE;
/// Pairs of one message that says that their differences follow; those of more messages have images of different
/// moments.
pub(crate) const RESYNC_PAIRS_MAX: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::kind::CopyMode;
    use crate::volume::name::ArrayNumber;
    use crate::volume::pair::{PairControl, PairEvent, PairSide};

    const GROUP: GroupNumber = GroupNumber(9);
    const RESTORED: Option<UpdateNumber> = Some(UpdateNumber(100));

    fn tables(pairs: &[PairControl]) -> Tables {
        let mut tables = Tables::default();
        for (number, control) in (1..).zip(pairs) {
            let side = |array| PairSide { array: ArrayNumber(array), volume: None, name: None };
            tables.pairs.put(PairRecord {
                number: PairNumber(number),
                name: format!("p{number}").parse().unwrap(),
                state: if control.is_image { PairState::Suspended } else { PairState::BeingCopied },
                reason: None,
                primary: side(1),
                auxiliary: side(2),
                group: GROUP,
                link: "alpha".parse().unwrap(),
                copy: CopyMode::Async,
                size_bytes: 1 << 20,
                copy_completion_bytes: 0,
                copy_end: UpdateNumber(0),
                control: control.clone(),
                shared: None,
            });
        }
        tables
    }

    fn svol() -> PairControl {
        PairControl { is_image: true, ..PairControl::default() }
    }

    fn copied(kept: Option<u64>) -> PairControl {
        PairControl { image: kept.map(UpdateNumber), ..PairControl::default() }
    }

    fn stopped(at: u64) -> PairControl {
        PairControl { stopped_at: Some(UpdateNumber(at)), ..svol() }
    }

    fn lost(control: PairControl) -> PairControl {
        PairControl { left_behind: true, ..control }
    }

    #[test]
    fn what_a_takeover_finds_is_of_one_moment_or_nothing() {
        let (volumes, image) =
            (|n| Ok(TakeoverPoint::Volumes(UpdateNumber(n))), |n| Ok(TakeoverPoint::Image(UpdateNumber(n))));
        let table: [(&[PairControl], Result<TakeoverPoint, ()>); 11] = [
            (&[], Err(())),
            (&[svol(), svol()], volumes(100)),
            (&[svol(), stopped(100)], volumes(100)),
            (&[svol(), stopped(70)], Err(())),
            (&[stopped(70), stopped(70)], volumes(70)),
            (&[svol(), lost(svol())], Err(())),
            (&[svol(), copied(None)], Err(())),
            (&[copied(Some(60)), copied(Some(60))], image(60)),
            (&[copied(Some(60)), copied(Some(61))], Err(())),
            // One is normal already and has an image still; one that stopped then is of the same moment.
            (
                &[copied(Some(60)), PairControl { image: Some(UpdateNumber(60)), ..svol() }, stopped(60)],
                image(60),
            ),
            // An image that was kept for a copy that has not begun is not needed.
            (&[PairControl { image: Some(UpdateNumber(60)), ..svol() }, svol()], volumes(100)),
        ];
        for (pairs, expected) in table {
            let found = tables(pairs).takeover_point(GROUP, RESTORED);
            assert_eq!(found.map_err(|_| ()), expected, "{pairs:?}");
        }
        assert!(tables(&[svol()]).takeover_point(GROUP, None).is_err(), "nobody knows the number");
        assert!(
            tables(&[copied(Some(3))]).takeover_point(GROUP, None).is_ok(),
            "an image needs no group at work"
        );
    }

    /// A reader that read from another array than the middle one above it was once said to have an older image than it had.
    #[test]
    fn what_came_from_another_array_than_the_source_counts_for_the_number_of_an_image() {
        let at_most = |control: PairControl, withheld: Option<u64>| {
            let tables = tables(&[control]);
            let pair = tables.pairs.get(&PairNumber(1)).unwrap();
            pair.image_at_most(withheld.map(UpdateNumber)).map(|number| number.0)
        };
        let had = |had, control| PairControl { had_from_elsewhere: UpdateNumber(had), ..control };
        let table = [
            (at_most(svol(), Some(51)), Some(50)),
            (at_most(had(80, svol()), Some(51)), Some(80)),
            (at_most(had(30, svol()), Some(51)), Some(50)),
            (at_most(had(80, stopped(70)), Some(51)), Some(70)),
            (at_most(had(80, svol()), None), None),
        ];
        for (found, expected) in table {
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn images_are_forgotten_with_the_last_pair_that_becomes_normal() {
        let mut tables = tables(&[copied(Some(60)), copied(Some(60)), stopped(60)]);
        tables.pair_event(PairNumber(1), PairEvent::CopyRestored, None).unwrap();
        assert_eq!(tables.takeover_point(GROUP, RESTORED), Ok(TakeoverPoint::Image(UpdateNumber(60))));
        tables.pair_event(PairNumber(2), PairEvent::CopyRestored, None).unwrap();
        // The third has stopped long ago, and is still of the moment of the others' images.
        assert_eq!(tables.takeover_point(GROUP, RESTORED), Ok(TakeoverPoint::Image(UpdateNumber(60))));
        tables.pair_event(PairNumber(3), PairEvent::Resync, None).unwrap();
        tables.pair_event(PairNumber(3), PairEvent::CopyRestored, None).unwrap();
        assert!(tables.pairs.iter().all(|pair| pair.control.image.is_none()));
    }
}
