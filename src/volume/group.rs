//! A group: volumes whose copies are consistent with each other (mission row A4), and which state may follow which.
//!
//! The first update number is 1. The number in the store is a checkpoint: the true one is recovered from the journal.
//! A group without pairs, or with pairs that are being copied, is `normal`.

use super::compare::{CompareSchedule, Compared, Comparing};
use super::keep::KeepImages;
use super::kind::{
    FENCE_WAIT_DEFAULT, Fence, IdentityChoice, JournalLayout, JournalRatio, NoRoom, Release, ReleaseBy,
    SvolAccess, WhenOvertaken,
};
use super::name::{
    ArrayNumber, GroupName, GroupNumber, LinkName, PairNumber, SnapshotNumber, UpdateNumber, VolumeName,
    VolumeNumber,
};
use super::pair::PairState;
use super::record::Identity;
use super::rejoin::{Ahead, FormerNumbers, Judged, Rival};
use super::reversal::Reversal;
use super::takeover::Takeover;
use super::timing::RestoreStop;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// A row of the group information.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GroupRecord {
    /// Number here.
    pub number: GroupNumber,
    /// Name, the same at every array that keeps a copy.
    pub name: GroupName,
    /// State.
    pub state: GroupState,
    /// Why it is suspended or abnormal.
    pub reason: Option<String>,
    /// Where it comes from.
    pub role: GroupRole,
    /// Whether it has been started: journals are made, read and restored from then on.
    pub is_started: bool,
    /// It goes when its last pair has gone.
    #[serde(default)]
    pub is_leaving: bool,
    /// What the operator chose for it.
    pub settings: GroupSettings,
    /// Volumes of this array that were put into it apart from pairing them.
    #[serde(default)]
    pub members: Vec<VolumeNumber>,
    /// Its journal volumes here, in the order in which they were added.
    pub journals: Vec<JournalVolume>,
    /// Its journal volumes at other arrays, as designated here.
    pub remote_journals: Vec<RemoteJournal>,
    /// Checkpoint of the next number to give.
    pub next_update_number: UpdateNumber,
    /// Its generations, oldest first; at least one.
    pub generations: Vec<Generation>,
    /// The journal volumes that hold its journal, oldest first; the last one is written. None until one is formatted.
    #[serde(default)]
    pub segments: Vec<SegmentRecord>,
    /// Where it goes on when its journal is formatted anew; none: with the first number, or where its source says.
    #[serde(default)]
    pub resume: Option<ResumeRecord>,
    /// At an auxiliary: it had stored updates up to here, has lost them, and reads them again; 0: there is nothing of that kind.
    #[serde(default)]
    pub reads_again: UpdateNumber,
    /// The array stopped cleanly: no numbered update can have been lost since.
    #[serde(default)]
    pub stopped_cleanly: bool,
    /// Why reading from the source does not go on, at an auxiliary: what that array reported of itself, or a fault here.
    #[serde(default)]
    pub reading_stopped: Option<String>,
    /// The number with which the journal here began when it was formatted.
    #[serde(default)]
    pub journal_first: UpdateNumber,
    /// At an auxiliary: where restore stops.
    #[serde(default)]
    pub restore_stop: Option<RestoreStop>,
    /// At an auxiliary: where restore stops because of a suspension that its primary had not heard of yet; it goes when
    /// that is over. The one that an operator said counts beside it.
    #[serde(default)]
    pub suspension_stop: Option<RestoreStop>,
    /// At an auxiliary: images of the S-VOLs that it makes and keeps.
    #[serde(default)]
    pub keep_images: Option<KeepImages>,
    /// At an auxiliary: its S-VOLs, which hosts may write, are on the way to this snapshot.
    #[serde(default)]
    pub rewinding: Option<SnapshotNumber>,
    /// At an auxiliary: its primary has accepted a suspension of all pairs here, and has not said yet that it is over.
    #[serde(default)]
    pub suspension_is_accepted: bool,
    /// At an auxiliary: the array from which it reads instead of its source, when it may.
    #[serde(default)]
    pub other_source: Option<OtherSource>,
    /// P-VOLs and S-VOLs are changing places.
    #[serde(default)]
    pub reversal: Option<Reversal>,
    /// At an auxiliary: the counter of the generation with which its primary became that, if this array was told to follow
    /// it. Whoever is older is not followed any more.
    #[serde(default)]
    pub followed_counter: u64,
    /// How far a takeover has come here, or what it has made of this array.
    #[serde(default)]
    pub takeover: Option<Takeover>,
    /// Hosts wait for its synchronous reader. Whether they do is recorded before the first of them is answered otherwise.
    #[serde(default)]
    pub is_together: bool,
    /// An operator lets hosts go on without that reader, whatever the fence says; until that is recorded.
    #[serde(default)]
    pub goes_alone: bool,
    /// The array with which this one is the synchronous pair of the group, or was last: when hosts write here, they wait for that
    /// one, if it is a reader (promise K6).
    #[serde(default)]
    pub partner: Option<ArrayNumber>,
    /// Readers that were taken away by command: what a configuration declares of them is not made again by a start.
    #[serde(default)]
    pub dropped: Vec<LinkName>,
    /// At a synchronous copy: what its journal had to let go although other copies may lack it (promise K1).
    #[serde(default)]
    pub freed: Option<FreedRecord>,
    /// A counter of generations that this array has seen of the group; a larger one may stand in the other fields.
    #[serde(default)]
    pub seen_counter: u64,
    /// A counter that was named with the loser of a split brain, by this array or the one from which it copies: what is said of itself
    /// behind that has to bear it. No generation need have it, so it says nothing of who is newer.
    #[serde(default)]
    pub named_counter: u64,
    /// How often this array was told to take the group over.
    #[serde(default)]
    pub attempts: u64,
    /// What the takeover under way may not fall short of, by its operator: else it gives up.
    #[serde(default)]
    pub at_least: Option<UpdateNumber>,
    /// Readers of a primary that this array has overtaken, which have more of it than this array had.
    #[serde(default)]
    pub ahead: Vec<Ahead>,
    /// By which numbers the arrays that this one copied before named the volumes; the newest last.
    #[serde(default)]
    pub former: Vec<FormerNumbers>,
    /// Updates of a former primary that the journal here holds.
    #[serde(default)]
    pub inherited: Option<Inherited>,
    /// What was found of the other readers of a primary that this array has overtaken, the newest last.
    #[serde(default)]
    pub judged: Vec<Judged>,
    /// At a primary: arrays that are primaries of the group as well, and have no pairs with this one.
    #[serde(default)]
    pub rivals: Vec<Rival>,
    /// What came of comparisons with other arrays, the newest last.
    #[serde(default)]
    pub compared: Vec<Compared>,
    /// At an auxiliary: the comparison that is at work, or was when the array ended.
    #[serde(default)]
    pub comparing: Option<Comparing>,
    /// At an auxiliary: when it is compared with its source by itself.
    #[serde(default)]
    pub compare_schedule: Option<CompareSchedule>,
}

/// Updates that an array had as a copy, and goes on with as the primary (decision 22).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Inherited {
    /// The last of them.
    pub last: UpdateNumber,
    /// Their volumes: the numbers by which they name them, and those here.
    pub volumes: Vec<(VolumeNumber, VolumeNumber)>,
}

/// Updates that a synchronous copy had to let go although other copies may lack them: where these were is marked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FreedRecord {
    /// The first of them; zero: nothing counts.
    pub from: UpdateNumber,
    /// The last of them.
    pub through: UpdateNumber,
    /// Where the marks are.
    pub maps: Vec<FreedMap>,
}

impl FreedRecord {
    /// Whether a journal goes on right behind it that holds the updates from `held_from` on and gives `next` as its next number. One that gives
    /// numbers again which this stands for is another one.
    pub(crate) fn is_gone_on_with(&self, held_from: UpdateNumber, next: UpdateNumber) -> bool {
        self.from.0 > 0 && self.through < next && held_from.0 <= self.through.0.saturating_add(1)
    }
}

/// The marks of one volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FreedMap {
    /// The P-VOL, as the records name it.
    pub volume: VolumeNumber,
    /// The number under which the map is kept: that of no pair, and never of one.
    pub marks: PairNumber,
    /// The size of the volume for which the map is.
    pub size_bytes: u64,
}

/// Another array from which an auxiliary reads a group (promise T5).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OtherSource {
    /// Link to it.
    pub link: LinkName,
    /// Only while the source is under load.
    pub by_load: bool,
    /// The group's number there; none until that array has let this one in.
    pub remote: Option<GroupNumber>,
    /// The source knows, and so believes reports of what it did not send.
    pub is_told: bool,
}

/// Where a group comes from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "role")]
pub enum GroupRole {
    /// Hosts write its volumes here, and this array gives the numbers.
    Primary,
    /// It is a copy that is read from another array.
    Auxiliary {
        /// Link to the array it is read from.
        link: LinkName,
        /// That array.
        source: ArrayNumber,
        /// The group's number there; none until that array has made the group known here.
        remote: Option<GroupNumber>,
    },
}

/// What the operator chose for a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GroupSettings {
    /// What hosts may do with the S-VOLs.
    pub svol_access: SvolAccess,
    /// When journals are freed.
    pub release: Release,
    /// Updates of one journal read at most.
    pub read_updates: u32,
    /// Bytes of one journal read at most.
    pub read_bytes: u64,
    /// Unit of the initial copy.
    pub copy_unit_bytes: u64,
    /// How long hosts wait for journal room that a reader holds before its pairs go to difference maps.
    #[serde(default)]
    pub throttle: Duration,
    /// Which report frees.
    #[serde(default)]
    pub release_by: ReleaseBy,
    /// What an auxiliary does with what it has no room for.
    #[serde(default)]
    pub no_room: NoRoom,
    /// What becomes of writes that cannot be forwarded.
    #[serde(default)]
    pub fence: Fence,
    /// How long they wait before.
    #[serde(default = "fence_wait_default")]
    pub fence_wait: Duration,
    /// Whether the S-VOLs of a synchronous copy show hosts the identity of their P-VOLs.
    #[serde(default)]
    pub identity: IdentityChoice,
    /// What becomes of a primary that was overtaken and has nothing of its own.
    #[serde(default)]
    pub overtaken: WhenOvertaken,
}

fn fence_wait_default() -> Duration {
    FENCE_WAIT_DEFAULT
}

/// A journal volume here.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct JournalVolume {
    /// The volume.
    pub volume: VolumeNumber,
    /// What the operator chose for it.
    #[serde(default)]
    pub options: JournalOptions,
    /// It is to be taken away, as soon as nothing needs what it holds.
    #[serde(default)]
    pub is_leaving: bool,
    /// The operator has put another one in its place: if it cannot be read, what only it holds may be given up.
    #[serde(default)]
    pub is_replaced: bool,
    /// How it failed.
    #[serde(default)]
    pub failure: Option<String>,
}

/// What the operator chooses for a journal volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct JournalOptions {
    /// It waits for another one to fail or degrade, and takes no turn.
    #[serde(default)]
    pub reserve: bool,
    /// How its two areas divide it, if it has two.
    #[serde(default)]
    pub ratio: JournalRatio,
    /// Whether it has two.
    #[serde(default)]
    pub layout: JournalLayout,
}

/// A part of the journal, in one volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SegmentRecord {
    /// The volume.
    pub volume: VolumeNumber,
    /// Identity of its formatting.
    pub incarnation: Identity,
    /// Its first number.
    pub first: UpdateNumber,
}

/// Where a group goes on whose journal is gone.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ResumeRecord {
    /// The first number of the next journal.
    pub first: UpdateNumber,
    /// What its first checkpoint has to know.
    pub extra: Vec<u8>,
    /// The generation of the update before it; none if no update was ever stored here.
    #[serde(default)]
    pub generation: Option<Generation>,
    /// Up to here readers may have been handed updates, which are given to this array once more.
    #[serde(default)]
    pub handed: UpdateNumber,
}

impl GroupRecord {
    /// Whether hosts are shut out of its P-VOLs: it is turned round, or another array has taken over.
    #[must_use]
    pub fn is_shut(&self) -> bool {
        self.reversal.is_some() || self.takeover.as_ref().is_some_and(Takeover::shuts_hosts_out)
    }

    /// The largest counter that this array has seen: the next one that it gives has to be larger.
    #[must_use]
    pub fn largest_counter(&self) -> u64 {
        self.newest_counter().max(self.named_counter)
    }

    /// The largest counter of a generation of the group that this array has seen.
    #[must_use]
    pub fn newest_counter(&self) -> u64 {
        let counters = self.generations.iter().map(|one| one.counter);
        counters.chain([self.followed_counter, self.seen_counter]).max().unwrap_or(0)
    }

    /// Whether the volume is a journal volume of the group here.
    #[must_use]
    pub fn has_journal_volume(&self, volume: VolumeNumber) -> bool {
        self.journals.iter().any(|journal| journal.volume == volume)
    }

    /// No suspension that was said here is waited for any more: its stop goes.
    pub(super) fn forget_suspension(&mut self) {
        (self.suspension_stop, self.suspension_is_accepted) = (None, false);
    }

    /// What is marked as freed here is of a journal that is not gone on with.
    pub(super) fn forget_freed(&mut self) {
        if let Some(freed) = &mut self.freed {
            (freed.from, freed.through) = (UpdateNumber(0), UpdateNumber(0));
        }
    }

    /// The numbers of the maps that are kept for a volume, or all of them.
    pub(crate) fn freed_marks(&self, volume: Option<VolumeNumber>) -> Vec<PairNumber> {
        let maps = self.freed.iter().flat_map(|freed| &freed.maps);
        maps.filter(|map| volume.is_none_or(|volume| map.volume == volume)).map(|map| map.marks).collect()
    }

    /// Where restore stops: what an operator said, and what a suspension brought, which never lies behind that.
    #[must_use]
    pub fn restore_stops(&self) -> [Option<RestoreStop>; 2] {
        [self.restore_stop, self.suspension_stop]
    }
}

/// A journal volume at another array.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RemoteJournal {
    /// Link to that array.
    pub link: LinkName,
    /// Its name there.
    pub volume: VolumeName,
    /// What was chosen for it.
    #[serde(default)]
    pub options: JournalOptions,
}

impl RemoteJournal {
    /// Whether it is that volume.
    #[must_use]
    pub fn is(&self, link: &LinkName, volume: &VolumeName) -> bool {
        self.link == *link && self.volume == *volume
    }
}

/// A generation: who has given numbers since which number (architecture, invariant 9).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Generation {
    /// Larger with each one.
    pub counter: u64,
    /// The array that opened it.
    pub array: ArrayNumber,
    /// The first number that belongs to it.
    pub first: UpdateNumber,
}

/// The newest common point of two generation lists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CommonPoint {
    /// Nothing in common: not the same group.
    None,
    /// Equal lists.
    Same,
    /// The other list goes on past ours, from this number on.
    OtherGoesOn(UpdateNumber),
    /// Our list goes on past the other's, from this number on.
    OursGoesOn(UpdateNumber),
    /// Both go on, differently, from this number on: what either side has from there is a branch.
    Diverged(UpdateNumber),
}

/// Compares two generation lists, oldest first.
#[must_use]
pub fn common_point(ours: &[Generation], other: &[Generation]) -> CommonPoint {
    let shared = ours.iter().zip(other).take_while(|(a, b)| a == b).count();
    if shared == 0 {
        return CommonPoint::None;
    }
    match (ours.get(shared), other.get(shared)) {
        (None, None) => CommonPoint::Same,
        (None, Some(next)) => CommonPoint::OtherGoesOn(next.first),
        (Some(next), None) => CommonPoint::OursGoesOn(next.first),
        (Some(a), Some(b)) => CommonPoint::Diverged(a.first.min(b.first)),
    }
}

/// State of a group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupState {
    /// No group.
    Unused,
    /// Journals are made, read and restored once it is started.
    Normal,
    /// Stopped on purpose.
    Suspended,
    /// Its journal or one of its parts failed here.
    Abnormal,
}

/// What happens to a group.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum GroupEvent {
    /// It is created.
    Create,
    /// The operator stops it.
    Suspend,
    /// The operator lets it go on, or what had failed was replaced.
    Resume,
    /// A local fault. What a peer says never does this.
    Fail,
    /// It is deleted by the operator of this array.
    Delete,
}

impl GroupState {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Unused, Self::Normal, Self::Suspended, Self::Abnormal];

    /// The state after `event`, or `None` where the event has no meaning.
    #[must_use]
    pub fn after(self, event: GroupEvent) -> Option<Self> {
        use GroupEvent::{Create, Delete, Fail, Resume, Suspend};
        use GroupState::{Abnormal, Normal, Suspended, Unused};
        match (self, event) {
            (Unused, Create) => Some(Normal),
            (Normal | Suspended, Suspend) => Some(Suspended),
            (Normal | Suspended | Abnormal, Resume) => Some(Normal),
            (Normal | Suspended | Abnormal, Fail) => Some(Abnormal),
            (Unused | Normal | Suspended | Abnormal, Delete) => Some(Unused),
            (Unused, Suspend | Resume | Fail)
            | (Normal | Suspended | Abnormal, Create)
            | (Abnormal, Suspend) => None,
        }
    }
}

impl fmt::Display for GroupState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unused => "unused",
            Self::Normal => "normal",
            Self::Suspended => "suspended",
            Self::Abnormal => "abnormal",
        })
    }
}

/// The states of a group's pairs in one word; derived, never stored.
#[must_use]
pub fn summary(pairs: impl IntoIterator<Item = PairState>) -> String {
    let mut pairs = pairs.into_iter();
    let Some(first) = pairs.next() else { return "none".to_owned() };
    if pairs.all(|state| state == first) { first.to_string() } else { "mixed".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_marked_as_freed_counts_only_with_the_journal_that_goes_on_behind_it() {
        let freed = FreedRecord { from: UpdateNumber(10), through: UpdateNumber(100), maps: Vec::new() };
        let counts = |held_from, next| freed.is_gone_on_with(UpdateNumber(held_from), UpdateNumber(next));
        assert!(counts(101, 101) && counts(101, 200) && counts(50, 200));
        assert!(!counts(102, 200), "there is a gap");
        assert!(
            !counts(90, 90) && !counts(90, 100),
            "it began anew, and gives numbers again that are marked"
        );
        let nothing = FreedRecord { from: UpdateNumber(0), ..freed.clone() };
        assert!(!nothing.is_gone_on_with(UpdateNumber(101), UpdateNumber(200)));
    }

    #[test]
    fn figure_7_every_state_and_event_of_a_group_meet_as_the_table_says() {
        use GroupEvent::{Create, Delete, Fail, Resume, Suspend};
        use GroupState::{Abnormal as A, Normal as N, Suspended as S, Unused as U};
        let table = [
            (U, [Some(N), None, None, None, Some(U)]),
            (N, [None, Some(S), Some(N), Some(A), Some(U)]),
            (S, [None, Some(S), Some(N), Some(A), Some(U)]),
            (A, [None, None, Some(N), Some(A), Some(U)]),
        ];
        assert_eq!(table.map(|(state, _)| state), GroupState::ALL);
        for (state, row) in table {
            assert_eq!(
                [Create, Suspend, Resume, Fail, Delete].map(|event| state.after(event)),
                row,
                "{state}"
            );
        }
    }

    #[test]
    fn generation_lists_tell_their_newest_common_point() {
        let g = |counter, array, first| Generation {
            counter,
            array: ArrayNumber(array),
            first: UpdateNumber(first),
        };
        let (a, b, c) = (g(1, 1, 1), g(2, 2, 50), g(2, 1, 40));
        assert_eq!(common_point(&[a], &[a]), CommonPoint::Same);
        assert_eq!(common_point(&[a], &[a, b]), CommonPoint::OtherGoesOn(UpdateNumber(50)));
        assert_eq!(common_point(&[a, b], &[a]), CommonPoint::OursGoesOn(UpdateNumber(50)));
        assert_eq!(common_point(&[a, b], &[a, c]), CommonPoint::Diverged(UpdateNumber(40)));
        assert_eq!(common_point(&[a], &[b]), CommonPoint::None);
    }

    #[test]
    fn the_summary_is_one_word() {
        assert_eq!(summary([]), "none");
        assert_eq!(summary([PairState::Normal, PairState::Normal]), "normal");
        assert_eq!(summary([PairState::Normal, PairState::BeingCopied]), "mixed");
    }
}
