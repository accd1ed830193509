//! Designations: every change of what the array is made of, as a value (architecture, chapter 5; mission row J15).
//!
//! They come from the configuration file, the shell or, in the `Remote` forms, from another array. One function
//! checks one against the tables and applies it, all or nothing; what another array must do is put in the same
//! transaction on the list of designations on their way. A repeated identity gets the recorded answer.

pub use super::ask::{Ask, Wish};
pub use super::drill::DrillOrder;
use super::group::{GroupSettings, JournalOptions};
use super::keep::KeepImages;
use super::kind::{CopyMode, InitiatorRule, Schedule, SvolSpec};
use super::name::{
    ArrayNumber, BookmarkName, GroupName, IscsiName, LinkName, Lun, PairName, SnapshotName, UpdateNumber,
    VolumeName,
};
pub use super::objects::{NewParityGroup, NewTarget, NewVolume};
use super::onward::RemoteOnward;
pub use super::outcome::{Outcome, Refusal};
use super::record::Identity;
use super::rejoin::{JoinOnward, RemoteRejoin};
pub use super::relay::RelayRecord;
pub use super::remote::{RemoteGroup, RemotePair};
pub use super::resync::{ImageWish, ResyncedPair, SvolHosts};
use super::reversal::RemoteReversal;
pub use super::settings::SettingsChange;
pub use super::snapshot::NewSnapshot;
use super::takeover::{Branch, RemoteFailback, RemoteTakeover};
use super::timing::StopWish;
pub use super::transfer::{LinkSettings, NewLink};
pub use super::which::Which;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The identity of a designation: made where it is first given, kept on all its ways.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DesignationId(pub Identity);

impl DesignationId {
    /// The identity of the `index`th designation that this one causes at another array.
    #[must_use]
    pub fn caused(self, index: u8) -> Self {
        Self(Identity(self.0.0.rotate_left(1) ^ (0x5afe_0000 + u128::from(index))))
    }
}

/// A change. Identities of what is created come with it, because randomness is not made here.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Designation {
    /// Makes a parity group.
    CreateParityGroup(NewParityGroup),
    /// Makes a volume.
    CreateVolume(NewVolume),
    /// Makes a target, with what it shows.
    CreateTarget(NewTarget),
    /// Shows a volume under a LUN of a target.
    MapLun {
        /// Target.
        target: IscsiName,
        /// LUN.
        lun: Lun,
        /// Volume.
        volume: VolumeName,
        /// Who may only read it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        read_only_for: Vec<InitiatorRule>,
    },
    /// Says who may only read a LUN from now on.
    SetLun {
        /// Target.
        target: IscsiName,
        /// LUN.
        lun: Lun,
        /// They; nobody when empty.
        read_only_for: Vec<InitiatorRule>,
    },
    /// Shows a LUN of a target no more.
    UnmapLun {
        /// Target.
        target: IscsiName,
        /// LUN.
        lun: Lun,
    },
    /// Gives a volume that nothing else knows by its name another one.
    RenameVolume {
        /// Its name.
        volume: VolumeName,
        /// Its new name.
        name: VolumeName,
    },
    /// Puts a volume of this array into a group, apart from pairing it (figure 10, step 910).
    AddMember {
        /// The group.
        group: GroupName,
        /// The volume.
        volume: VolumeName,
    },
    /// Takes a volume that is not paired out of a group into which it was put.
    RemoveMember {
        /// The group.
        group: GroupName,
        /// The volume.
        volume: VolumeName,
    },
    /// Makes a volume larger, with all its copies (decision 18).
    ResizeVolume {
        /// Its name.
        volume: VolumeName,
        /// Its size afterwards.
        size_bytes: u64,
    },
    /// From a primary: your S-VOL of this pair needs so much room; say when it has it.
    RemoteGrow {
        /// The pair.
        pair: PairName,
        /// How much.
        size_bytes: u64,
    },
    /// From an auxiliary: my S-VOL of this pair has so much room, and so has what follows it.
    JoinRoom {
        /// The pair.
        pair: PairName,
        /// How much.
        size_bytes: u64,
    },
    /// From a primary: my P-VOL of this pair has that size now.
    RemoteGrown {
        /// The pair.
        pair: PairName,
        /// Its size.
        size_bytes: u64,
    },
    /// Deletes a volume that nothing uses, with all that is on it.
    DeleteVolume {
        /// Its name.
        volume: VolumeName,
    },
    /// Makes a snapshot (decision 24).
    CreateSnapshot(Box<NewSnapshot>),
    /// Deletes a snapshot, with its volumes and what was written to them.
    DeleteSnapshot {
        /// Its name.
        snapshot: SnapshotName,
    },
    /// What is said of a disaster drill (decision 26).
    Drill(Box<DrillOrder>),
    /// Deletes a target, with its LUNs.
    DeleteTarget {
        /// Its name.
        target: IscsiName,
    },
    /// Deletes a link that no copy uses.
    DeleteLink {
        /// Its name.
        link: LinkName,
    },
    /// Makes a link.
    CreateLink(NewLink),
    /// Makes a link to a third-party target, over which the journals of a group go (promise X1).
    CreateRelay(Box<RelayRecord>),
    /// Changes how a link is used.
    SetLink {
        /// Its name.
        link: LinkName,
        /// What is chosen anew.
        settings: Box<LinkSettings>,
    },
    /// Passes a designation on to the array behind a link; a refusal there is its end.
    PassOn {
        /// The link.
        link: LinkName,
        /// What is designated there.
        what: Box<Designation>,
    },
    /// Makes a group known at an array that shall copy it, before anything is catalogued there (figure 10, step 900).
    IntroduceGroup {
        /// The group, of which this array is the primary.
        group: GroupName,
        /// Link to that array.
        link: LinkName,
    },
    /// Makes a group at an auxiliary itself (figure 10, step 900); its primary is asked to make it known here.
    FollowGroup {
        /// Its name, which is that at the primary.
        group: GroupName,
        /// Link to the primary.
        link: LinkName,
    },
    /// Changes what the operator chose for a group, at its primary.
    SetGroup {
        /// Its name.
        group: GroupName,
        /// What is chosen anew.
        settings: SettingsChange,
    },
    /// Makes a pair, at its auxiliary itself (figure 10, step 910): the primary is asked to catalogue it.
    FollowPair {
        /// Its name.
        name: PairName,
        /// Its group, which is copied here.
        group: GroupName,
        /// Link to the primary.
        link: LinkName,
        /// The volume that hosts write, at the primary.
        pvol: VolumeName,
        /// The volume that follows it, here.
        svol: VolumeName,
        /// How.
        copy: CopyMode,
    },
    /// Makes a group, at its primary.
    CreateGroup {
        /// Its name.
        name: GroupName,
        /// What the operator chose for it.
        settings: GroupSettings,
    },
    /// Makes a volume a journal volume of a group.
    AddJournal {
        /// Group.
        group: GroupName,
        /// Volume, of the array that `at` names.
        volume: VolumeName,
        /// The array behind this link; none: this array.
        at: Option<LinkName>,
        /// What is chosen for it.
        #[serde(default)]
        options: JournalOptions,
    },
    /// Takes a journal volume away from a group, as soon as nothing needs what it holds. It becomes an ordinary volume.
    RemoveJournal {
        /// Group.
        group: GroupName,
        /// Volume.
        volume: VolumeName,
    },
    /// Puts a volume in the place of a journal volume that has failed, and lets a group go on that turned abnormal by it.
    ReplaceJournal {
        /// Group.
        group: GroupName,
        /// The journal volume that goes.
        volume: VolumeName,
        /// The ordinary volume that comes.
        by: VolumeName,
    },
    /// Makes a pair, at its primary.
    CreatePair {
        /// Its name.
        name: PairName,
        /// Its group.
        group: GroupName,
        /// The volume that hosts write.
        pvol: VolumeName,
        /// The volume that follows it.
        svol: SvolSpec,
        /// How.
        copy: CopyMode,
    },
    /// Starts a group: initial copy, journal reads, restores.
    StartGroup {
        /// Group.
        group: GroupName,
    },
    /// Sets the schedule of one group that this array copies.
    SetSchedule {
        /// Link to the array it is read from.
        link: LinkName,
        /// Its name.
        group: GroupName,
        /// The schedule.
        schedule: Schedule,
    },
    /// At an array that copies it: lets restore stop somewhere, or go on.
    StopRestore {
        /// Its name.
        group: GroupName,
        /// What is wanted.
        wish: StopWish,
        /// Only until the primary has heard that its pairs are suspended, which cannot be told now.
        #[serde(default)]
        for_suspension: bool,
    },
    /// At an array that copies it: which images of the S-VOLs are made and kept; none: none.
    KeepImages {
        /// Its name.
        group: GroupName,
        /// How far back, how often, for how much room.
        keep: Option<KeepImages>,
    },
    /// At an array that copies it: its S-VOLs, which hosts may write, become what a snapshot of them is.
    ApplyRewind {
        /// Its name.
        group: GroupName,
        /// The snapshot's.
        snapshot: SnapshotName,
    },
    /// At the primary: gives the point that the group has reached a name.
    SetBookmark {
        /// Its name.
        group: GroupName,
        /// The bookmark's.
        name: BookmarkName,
        /// Where it is; the array fills that in.
        number: Option<UpdateNumber>,
    },
    /// Lets an auxiliary read a group from another array than its source. Said at the auxiliary, or at the source with
    /// `reader`.
    SetSource {
        /// The group.
        group: GroupName,
        /// Link to the auxiliary; none: this array.
        reader: Option<LinkName>,
        /// Link to the array to be read from; none: the source.
        from: Option<LinkName>,
        /// Only while the source is under load.
        by_load: bool,
    },
    /// Which array hosts of a group wait for when they write here, by its link; none: nobody.
    SetSynchronous(GroupName, Option<LinkName>),
    /// From the source of a group: read it from that array.
    RemoteSource {
        /// The group.
        group: GroupName,
        /// The array; none: the source itself.
        array: Option<ArrayNumber>,
        /// Only while the source is under load.
        by_load: bool,
    },
    /// From another copy of the group: it shall be read here.
    AttachReader {
        /// The group.
        group: GroupName,
    },
    /// From another copy of the group: it is read here no more.
    DetachReader {
        /// The group.
        group: GroupName,
    },
    /// From an auxiliary: updates of your group come from that array too.
    ReadsElsewhere {
        /// The group.
        group: GroupName,
        /// The array; none: from you alone.
        array: Option<ArrayNumber>,
    },
    /// From an auxiliary: your group shall be copied here.
    JoinGroup {
        /// Group.
        group: GroupName,
    },
    /// From an auxiliary: this volume here became a journal volume of your group.
    JoinJournal {
        /// Group.
        group: GroupName,
        /// Volume, of the auxiliary.
        volume: VolumeName,
        /// What was chosen for it.
        #[serde(default)]
        options: JournalOptions,
    },
    /// From an auxiliary: my journal of your group is lost, with all that was not durable in the S-VOLs.
    JournalLost {
        /// Group.
        group: GroupName,
    },
    /// From an auxiliary: this volume here is no journal volume of your group any more.
    LeaveJournal {
        /// Group.
        group: GroupName,
        /// Volume, of the auxiliary.
        volume: VolumeName,
    },
    /// From a primary: the settings of the group have changed.
    RemoteSettings {
        /// Group.
        group: GroupName,
        /// All of them.
        settings: GroupSettings,
    },
    /// Stops pairs, at their primary.
    SuspendPairs {
        /// Their group.
        group: GroupName,
        /// Which of its pairs.
        which: Which,
        /// What hosts may do with the S-VOLs meanwhile.
        #[serde(default)]
        svol: SvolHosts,
    },
    /// Copies the differences of pairs that are suspended or abnormal, at their primary.
    ResyncPairs {
        /// Their group.
        group: GroupName,
        /// Which of its pairs.
        which: Which,
        /// Whether the auxiliary has to keep an image of the S-VOLs before anything is copied.
        #[serde(default)]
        image: ImageWish,
    },
    /// Gives up the images of S-VOLs that an auxiliary keeps during a resync.
    DropImage {
        /// Their group, which is copied here.
        group: GroupName,
    },
    /// Lets the S-VOLs of a group become its P-VOLs, and the other way round, at its primary.
    ReverseGroup {
        /// The group.
        group: GroupName,
        /// Link to the array that becomes its primary.
        to: LinkName,
        /// How long other readers are waited for before their pairs go to difference maps.
        #[serde(default)]
        wait: Duration,
    },
    /// Gives a reversal up, as long as the other array is not told to take over.
    CancelReversal {
        /// The group.
        group: GroupName,
    },
    /// From a primary, which takes no writes any more: be the primary.
    RemoteReverse(RemoteReversal),
    /// From the new primary of a group that you copy: read it from here on.
    RemoteOnward(RemoteOnward),
    /// From a primary that will say so: your S-VOL differs here.
    ReverseMarks {
        /// The pair.
        pair: PairName,
        /// Where, as first byte and length.
        runs: Vec<(u64, u64)>,
    },
    /// Lets this array be the primary of a group: of one that it copies, or of one whose hosts were shut out here.
    TakeOverGroup {
        /// The group.
        group: GroupName,
        /// At an auxiliary: nothing up to this update may be lost. A takeover that finds less here gives up before it changes anything.
        #[serde(default)]
        at_least: Option<UpdateNumber>,
    },
    /// Lets the array from which a group was taken over copy it from here: what only that one has is lost.
    FailBackGroup {
        /// The group.
        group: GroupName,
        /// Link to that array.
        to: LinkName,
        /// It keeps what it had under this name, as a snapshot.
        #[serde(default)]
        keep_branch: Option<SnapshotName>,
    },
    /// From an array that has taken over, or is about to: take no writes any more.
    RemoteTakeover(RemoteTakeover),
    /// From an array that was about to take over: it stays a copy.
    TakeoverGivenUp {
        /// The group.
        group: GroupName,
        /// Which of its attempts that was.
        attempt: u64,
    },
    /// From an array that was overtaken: so much is only there.
    RemoteBranch {
        /// The group.
        group: GroupName,
        /// What is only there.
        branch: Branch,
    },
    /// From an array that took over, whose data stays: copy from me.
    RemoteFailback(RemoteFailback),
    /// From an array that is the primary now: the one that you read is it no more.
    RemoteRejoin(RemoteRejoin),
    /// From a reader of a primary that was overtaken: it has stopped, and wants to go on from here.
    JoinOnward(JoinOnward),
    /// From a reader: it goes on from another array.
    LeftOnward {
        /// The group.
        group: GroupName,
    },
    /// Takes pairs away, at their primary. Both volumes stay as they are and are ordinary volumes then.
    DeletePairs {
        /// Their group.
        group: GroupName,
        /// Which of its pairs.
        which: Which,
    },
    /// Takes a group away that has no pairs any more. Its journal volumes become ordinary volumes.
    DeleteGroup {
        /// The group.
        group: GroupName,
    },
    /// Takes an array that reads a group away from it, with its pairs. Its journal volumes become ordinary volumes.
    DeleteReader {
        /// The group.
        group: GroupName,
        /// Link to the array.
        link: LinkName,
    },
    /// From an auxiliary, whose operator wants it: do this to my pairs of your group.
    AskPrimary(Ask),
    /// From a primary: this pair is stopped; what you have been handed of it stays.
    RemoteSuspend {
        /// The pair.
        pair: PairName,
        /// Why.
        reason: String,
        /// Other pairs of the group here are not stopped: from some number on nothing of this one comes any more.
        #[serde(default)]
        others_go_on: bool,
        /// An operator has said so: whoever is its primary later, only an operator lets it go on.
        #[serde(default)]
        by_operator: bool,
    },
    /// From a primary: nothing is left to do of the suspension of all its pairs that an auxiliary asked for. They are
    /// stopped, or will not be.
    SuspensionEnded {
        /// The group.
        group: GroupName,
        /// Under which identity it was asked for, the last one if that was more than once.
        of: DesignationId,
    },
    /// From a primary: the differences of these pairs follow, so their S-VOLs are no image until they are restored.
    RemoteResync {
        /// The pairs.
        pairs: Vec<ResyncedPair>,
        /// Records of a copy below this number belong to an earlier copy.
        from: UpdateNumber,
    },
    /// From a primary: hosts may write these S-VOLs, whose pairs are suspended, until their differences follow.
    RemoteSvolWrite {
        /// The pairs.
        pairs: Vec<ResyncedPair>,
    },
    /// From an auxiliary: hosts here have changed the S-VOL of this suspended pair there.
    JoinMarks {
        /// The pair.
        pair: PairName,
        /// Where, as first byte and length.
        runs: Vec<(u64, u64)>,
    },
    /// From a primary: this pair is no more.
    RemoteDeletePair {
        /// The pair.
        pair: PairName,
        /// The sender has it no more; else it goes when this is answered.
        #[serde(default)]
        is_gone: bool,
    },
    /// From a primary: this group is no more.
    RemoteDeleteGroup {
        /// The group.
        group: GroupName,
    },
    /// From a primary: there is a group that you copy.
    RemoteGroup(RemoteGroup),
    /// From a primary: this volume of yours is a journal volume of the group.
    RemoteJournal {
        /// Group.
        group: GroupName,
        /// Volume.
        volume: VolumeName,
        /// What is chosen for it.
        #[serde(default)]
        options: JournalOptions,
    },
    /// From a primary: this volume of yours follows mine.
    RemotePair(RemotePair),
    /// From a primary: read and restore from now on.
    RemoteStart {
        /// Group.
        group: GroupName,
    },
}
