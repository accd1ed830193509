//! A group as it is shown, with those who read it and the array from which it is copied.

use super::view_compare::{CompareView, ComparedView};
use super::view_drill::DrillView;
use super::view_takeover::{AheadView, JudgedView, LossView, RivalView, TakeoverView};
use serde::Serialize;

/// A group.
#[derive(Clone, Debug, Default, Serialize)]
pub struct GroupView {
    /// Number here.
    pub number: u32,
    /// Name.
    pub name: String,
    /// `unused`, `normal`, `suspended` or `abnormal`.
    pub state: String,
    /// Why.
    pub reason: Option<String>,
    /// What this array is for it: `primary`, `auxiliary` or `both`.
    pub role: String,
    /// Whether `start` has been said.
    pub is_started: bool,
    /// The step to which a reversal has come, if one is on its way.
    pub reversal: Option<String>,
    /// How far a takeover has come, or what one has made of this array.
    pub takeover: Option<TakeoverView>,
    /// Readers of a primary that this array has overtaken, which have more of it than this array had.
    pub ahead: Vec<AheadView>,
    /// Other readers of a primary that this array has overtaken, and how each of them went on from here.
    pub judged: Vec<JudgedView>,
    /// Other arrays that are primaries of the group as well, and have no pairs with this one.
    pub rivals: Vec<RivalView>,
    /// Where this array keeps the copy: what a takeover would lose.
    pub loss: Option<LossView>,
    /// States of its pairs in one word: a state of pairs, `none` or `mixed`.
    pub pairs_state: String,
    /// Names of its pairs.
    pub pairs: Vec<String>,
    /// Names of the volumes here that were put into it by themselves.
    pub members: Vec<String>,
    /// Names of its journal volumes here.
    pub journals: Vec<String>,
    /// The next update number to give; none where this array gives no numbers.
    pub next_update_number: Option<u64>,
    /// Largest number that is durable here.
    pub durable_update_number: u64,
    /// Write data put into the journal here since the start.
    pub journaled_bytes: u64,
    /// What hosts may do with the S-VOLs: `none` or `read`.
    pub svol_access: String,
    /// When journals are freed: `read` or `restored`.
    pub release: String,
    /// Its generations, oldest first.
    pub generations: Vec<GenerationView>,
    /// Who reads it, as its source sees it.
    pub readers: Vec<ReaderView>,
    /// From whom it is read and how, where this array keeps the copy.
    pub follows: Option<FollowView>,
    /// How its synchronous copy stands, at the array that hosts write to and at the copy.
    pub synchronous: Option<SynchronousView>,
    /// Bookmarks that the journal here holds, oldest first.
    pub bookmarks: Vec<BookmarkView>,
    /// Rewinds at work.
    pub rewinds: Vec<RewindView>,
    /// How far a rewind reaches, where this array keeps the copy.
    pub window: Option<WindowView>,
    /// Comparisons with other arrays at work.
    pub comparing: Vec<CompareView>,
    /// What came of those before, the newest last.
    pub compared: Vec<ComparedView>,
    /// At an array that copies it: between two comparisons that it begins by itself.
    pub compare_every_ms: Option<u64>,
    /// Disaster drills of which there is a record here, oldest first.
    pub drills: Vec<DrillView>,
}

/// Which updates a rewind can show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WindowView {
    /// The oldest of them; none: no image is here from which the journal leads on.
    pub from_update_number: Option<u64>,
    /// When the image of it was made, in milliseconds since 1970; none: it is what the S-VOLs are.
    pub from_unix_ms: Option<u64>,
    /// The newest.
    pub to_update_number: u64,
    /// Images that the array has made and keeps.
    pub images: u64,
    /// What each of them alone has, together.
    pub images_own_bytes: u64,
    /// What the journal here takes.
    pub journal_bytes: u64,
    /// How far back images are wanted; none: none are made.
    pub keep_ms: Option<u64>,
    /// How often they are made.
    pub every_ms: Option<u64>,
    /// What images and updates may take.
    pub bytes_max: Option<u64>,
}

/// A rewind at work: clones of an image, onto which updates are being replayed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RewindView {
    /// The snapshot that it will be.
    pub name: String,
    /// The number of the image that it began from.
    pub from_update_number: u64,
    /// How far it is.
    pub at_update_number: u64,
    /// Where it goes.
    pub to_update_number: u64,
}

/// How the synchronous copy of a group stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SynchronousView {
    /// Link to the other array of the two.
    pub link: String,
    /// `synchronised`: the copy has every write that any host was answered. Else, at the array that hosts write to: `apart`
    /// (hosts are answered alone), `joining`, `waiting` (hosts wait, and updates cannot go there now), `refused` (hosts'
    /// writes fail); at the copy `unknown`.
    pub state: String,
    /// Why it came apart.
    pub reason: Option<String>,
    /// `never`, `data` or `status`.
    pub fence: String,
    /// How long a host's write waits at most before that decides.
    pub fence_wait_ms: u64,
    /// Everything up to this number is durable at the copy; where hosts write.
    pub confirmed_update_number: Option<u64>,
    /// Commands of hosts that wait for the copy; where hosts write.
    pub waiting_commands: Option<u64>,
}

/// A bookmark.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BookmarkView {
    /// Its name.
    pub name: String,
    /// Its place in the order of updates.
    pub update_number: u64,
    /// When it was set, by the primary's clock, in milliseconds since 1970.
    pub time_unix_ms: u64,
    /// Whether the volumes here have passed it.
    pub is_restored: bool,
}

/// A generation of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GenerationView {
    /// Counts takeovers and restarts that lost numbers.
    pub counter: u64,
    /// The array that opened it.
    pub array: u32,
    /// Its first update number.
    pub first_update_number: u64,
}

/// An array that reads a group from this one.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ReaderView {
    /// Link to it.
    pub link: String,
    /// Its number.
    pub array: u32,
    /// `waiting`, `copying`, `normal`, `suspended` or `abnormal`.
    pub state: String,
    /// Why.
    pub reason: Option<String>,
    /// It holds everything up to this number durably.
    pub durable_update_number: u64,
    /// It has restored everything up to this number.
    pub restored_update_number: u64,
    /// It has everything up to this number durably in its volumes.
    pub settled_update_number: u64,
    /// All that it is behind.
    pub behind: LagView,
    /// Of it, not yet read.
    pub not_yet_read: LagView,
    /// Of it, read and not yet restored.
    pub read_not_restored: LagView,
    /// Of it, in difference maps; these carry no order and so no seconds.
    pub in_difference_maps: LagView,
    /// Updates sent to it since the start, repeated ones too.
    pub sent_updates: u64,
    /// Bytes of the answers that it got since the start.
    pub sent_bytes: u64,
    /// It is a copy of another array and reads here instead.
    pub is_attached: bool,
    /// The array from which it reads instead; it reports here.
    pub reads_from: Option<u32>,
    /// Since its last report; none before the first.
    pub last_report_ms: Option<u64>,
    /// Until its journal is full, at the present rates.
    pub time_to_full_ms: Option<u64>,
    /// Until it has caught up, at the present rates.
    pub time_to_catch_up_ms: Option<u64>,
}

/// How far somebody is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct LagView {
    /// Updates.
    pub updates: u64,
    /// Bytes of write data.
    pub bytes: u64,
    /// Seconds, by the clock of the primary alone.
    pub seconds: f64,
}

/// Where a copy comes from and on which schedule.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FollowView {
    /// Link to the source.
    pub link: String,
    /// Number of the group at the source.
    pub remote_group: u32,
    /// When the next journal read is sent: `immediate`, `every 250ms` or `adaptive:` with its inputs.
    pub read: String,
    /// How much one asks for: `group`, `adaptive`, `256 updates` or bytes.
    pub read_size: String,
    /// Between two rounds of reads; 0: at once, or adaptive.
    pub read_interval_ms: u64,
    /// When what was read is restored: `immediate`, `every 250ms` or `load`.
    pub restore: String,
    /// Between two rounds of restores; 0: at once, or by load.
    pub restore_interval_ms: u64,
    /// Delay of the restore on purpose.
    pub restore_delay_ms: u64,
    /// Durable in the journal here up to this number.
    pub durable_update_number: u64,
    /// Restored up to this number.
    pub restored_update_number: u64,
    /// Durable in the volumes up to this number.
    pub settled_update_number: u64,
    /// Link to the array that it is read from now: that of `link`, or another copy.
    pub reads_over: String,
    /// Link to another copy from which it may be read.
    pub other_source: Option<String>,
    /// Only while the source is under load.
    pub other_source_by_load: bool,
    /// Why the other copy is not read at the moment, when it could not give what was wanted.
    pub other_source_reason: Option<String>,
    /// The newest number given at the array that hosts write to, as far as it has been heard of.
    pub top_update_number: Option<u64>,
    /// Updates behind that one: in a cascade over all hops.
    pub behind_top_updates: Option<u64>,
    /// What hosts wrote longer ago than that is restored here, in milliseconds, over all hops; null while that is not known.
    pub behind_top_ms: Option<u64>,
    /// What reading is doing: `reading`, `waiting`, `retrying`, `no-room` or `stopped`.
    pub read_state: String,
    /// What restoring is doing: `restoring`, `waiting` or `stopped`.
    pub restore_state: String,
    /// Where restore stops: `update 17` or a time.
    pub restore_until: Option<String>,
    /// Why, when one of them is stopped or held up.
    pub reason: Option<String>,
    /// All S-VOLs as of this number are what a takeover finds now; none: there is no one moment.
    pub takeover_update_number: Option<u64>,
    /// Where it finds them: `volumes`, `image` (kept until a resync has ended) or `none`.
    pub takeover_from: String,
    /// Why there is no one moment.
    pub takeover_reason: Option<String>,
    /// What kept images cost beside the S-VOLs.
    pub image_bytes: u64,
}
