//! What a takeover has made of a group, and what one would lose.

use serde::Serialize;

/// A takeover on its way, or what it has made of this array.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TakeoverView {
    /// `reaching`, `restoring`, `taken`, `split-brain` (both took over), `fenced`, `overtaken`, `retaking` or `yielding`;
    /// at another reader of a primary that was overtaken `moving`, or `ahead` (it has more than the new primary had).
    pub state: String,
    /// Link to the other array, where that is known.
    pub link: Option<String>,
    /// The other array.
    pub array: Option<u32>,
    /// As of which number this array took over.
    pub update_number: Option<u64>,
    /// The first number that only the array has that was overtaken.
    pub branch_first_update_number: Option<u64>,
    /// How many updates that are; none: it has not been said yet.
    pub branch_updates: Option<u64>,
    /// How much of its volumes they touch, at most.
    pub branch_bytes: Option<u64>,
    /// The array that was overtaken is told to copy from here.
    pub is_asked_back: bool,
}

/// What a takeover here would lose, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LossView {
    /// All S-VOLs as of this number are what it finds now; none: there is no one moment.
    pub update_number: Option<u64>,
    /// They have to go back to their kept image for that.
    pub is_image: bool,
    /// Why there is no one moment.
    pub reason: Option<String>,
    /// Held here up to this number; what is not restored yet is restored first, unless something holds it back.
    pub received_update_number: u64,
    /// Updates that are here and would be lost: behind the stop of restore, or of a resync that has not ended.
    pub held_back_updates: u64,
    /// The newest number that the primary has said it gave.
    pub heard_update_number: Option<u64>,
    /// Updates up to that one that are not here.
    pub unread_updates: u64,
    /// Their write data, as the primary said last.
    pub unread_bytes: u64,
    /// How long ago the oldest of them was made, at most, by the primary's clock and the time that has passed here since.
    pub oldest_unread_ms: Option<u64>,
    /// When it said so, by its own clock.
    pub heard_unix_ms: Option<u64>,
    /// The link to it is up.
    pub is_primary_reached: bool,
    /// What would have to be copied back afterwards at once; more is what hosts write then.
    pub copy_back_bytes: u64,
    /// What hosts have written into the S-VOLs stays.
    pub keeps_svol_writes: bool,
    /// Hosts are told that the volumes here and at the primary are one unit: if the primary does not answer, they are let in so much later,
    /// when it answers them no more.
    pub one_unit_wait_ms: Option<u64>,
    /// S-VOLs that hosts were let into and that go back to what they were before.
    pub dropped_svols: usize,
    /// How much of them hosts have changed, at most.
    pub dropped_bytes: u64,
    /// The other readers of the primary have everything up to this number, as it said last; none: it has said nothing.
    pub others_have_update_number: Option<u64>,
    /// Those of their S-VOLs whose pairs are not normal reach this number only, as it said last; the same where all are normal.
    #[serde(default)]
    pub others_reach_update_number: Option<u64>,
    /// The journal here begins with this number: what they lack from there on they can read from here.
    pub journal_from_update_number: Option<u64>,
    /// Pairs that are stopped: what their P-VOLs were written since is kept from here, and only the primary has it.
    pub stopped_pairs: usize,
}

/// How a reader of a former primary goes on from the array that took over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct JudgedView {
    /// The reader.
    pub array: u32,
    /// It had everything up to this number.
    pub update_number: u64,
    /// `nothing-missing`, `journal`, `differences` or `full-copy`.
    pub way: String,
    /// So many updates were read from the journal here.
    pub updates: Option<u64>,
    /// So much of the journal, of the differences, or of all of it.
    pub bytes: Option<u64>,
    /// The same in words, with the reason.
    pub text: String,
}

/// A reader of a former primary that has more of it than the array that took over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AheadView {
    /// Link to it.
    pub link: String,
    /// It.
    pub array: u32,
    /// What it has.
    pub update_number: u64,
    /// How many updates only it has.
    pub updates: u64,
    /// The operator has given them up.
    pub is_given_up: bool,
}

/// Another array that is a primary of the group as well, and has no pairs with this one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RivalView {
    /// Link to it.
    pub link: String,
    /// It.
    pub array: u32,
    /// From this number on the two have different updates.
    pub first_update_number: u64,
}

/// What another array has of a group that may be taken over here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PositionView {
    /// Link to it.
    pub link: String,
    /// It.
    pub array: u32,
    /// What a takeover there would have, held against one here: `more`, `same`, `fewer`; `branch` (each has something that the
    /// other one has not), `no-image` (there is no one moment there), `primary` (it takes hosts' writes, or did),
    /// `foreign` (another group of that name), `unreached`.
    pub standing: String,
    /// Why there is no one moment, or no answer.
    pub reason: Option<String>,
    /// How far a takeover has come there, or what one has made of it.
    pub takeover: Option<String>,
    /// The array whose copy it is, if that is not the one whose copy this array is.
    pub copies_from: Option<u32>,
    /// Everything up to this number is durable there.
    pub received_update_number: Option<u64>,
    /// A takeover there would go on from the image as of this number.
    pub takeover_update_number: Option<u64>,
    /// How many updates more or fewer that is.
    pub updates: Option<u64>,
    /// Write data of those that are more, as long as the journal there holds them all.
    pub bytes: Option<u64>,
    /// When it heard of the primary last, by the primary's own clock.
    pub heard_unix_ms: Option<u64>,
    /// How much later than this array, if it has more.
    pub heard_later_ms: Option<u64>,
}
