//! What the shell and the web page may see of the array: plain values, made anew for every question.
//!
//! The array implements [`Console`]; nothing here knows how. Field names are the names in `--json` documents, which
//! people script against: they are only ever added to. Units stand at the end of the names.

use crate::clock::BoxFuture;
use crate::config::Provision;
use crate::volume::designation::{DesignationId, Refusal};
use crate::volume::effect::Effect;
use crate::volume::name::{GroupName, SnapshotName};
use crate::volume::proof::Proof;
use crate::volume::record::{Identity, Who};
use crate::volume::store::Order;
use serde::Serialize;

pub use super::view_compare::{
    CompareStartView, CompareView, CompareWish, ComparedView, ComparesView, DifferentRangeView,
};
pub use super::view_drill::DrillView;
pub use super::view_event::EventView;
pub use super::view_group::{
    BookmarkView, FollowView, GenerationView, GroupView, LagView, ReaderView, RewindView, SynchronousView,
    WindowView,
};
pub use super::view_link::{BackTestView, LinkTestView, LinkView, PortalTestView, RelayView};
pub use super::view_snapshot::{SnapshotView, SnapshotVolumeView};
pub use super::view_takeover::{AheadView, JudgedView, LossView, PositionView, RivalView, TakeoverView};

/// What a console offers. Implemented by the array, and by a fixed picture in tests.
pub trait Console: Send + Sync {
    /// The array as it is now. A picture of one instant as far as the owners of the parts can give one.
    fn snapshot(&self) -> Snapshot;
    /// The newest `last` records of the audit log, oldest first.
    fn audit(&self, last: usize) -> Vec<AuditView>;
    /// Resolves when something in a snapshot may have changed since the call; may resolve without a change.
    /// A change after the call is never missed.
    fn changed(&self) -> BoxFuture<'_, ()>;

    /// What designations need before they are applied and has to be waited for. Before each [`Console::designate`] that
    /// is no dry run.
    ///
    /// # Errors
    /// Why they cannot be applied.
    fn prepare<'a>(&'a self, _orders: &'a mut [Order], _who: &'a Who) -> BoxFuture<'a, Result<(), Refusal>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Applies designations in one transaction, all or none, with a record of who gave them in the audit log.
    ///
    /// # Errors
    /// Why it cannot be done: nothing has changed then.
    fn designate(&self, _orders: &[Order], _who: &Who, _options: Options) -> Result<Effect, Refusal> {
        Err(Refusal::Conflict("nothing can be changed here".into()))
    }

    /// All objects as a configuration declares them, secrets included: for [`crate::config::to_toml`] and nobody else.
    fn declared(&self) -> Provision {
        Provision::default()
    }

    /// What of these declarations is missing here, as designations; and what is different here, in words.
    fn compared(&self, _wanted: &Provision) -> (Vec<Order>, Vec<String>) {
        (Vec::new(), Vec::new())
    }

    /// A new identity, for an object or a designation.
    fn identity(&self) -> Identity {
        Identity(0)
    }

    /// Resolves when everything that was designated before the call has been taken up: opened, shown, started.
    fn settled(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Events behind the number `after`, oldest first, at most the newest `last` of them.
    fn events(&self, _after: u64, _last: usize) -> Vec<EventView> {
        Vec::new()
    }

    /// Resolves when there is an event behind the number `after`.
    fn event_behind(&self, _after: u64) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }

    /// Tries a link: logins both ways, round trip, rate.
    fn try_link<'a>(&'a self, _link: &'a str) -> BoxFuture<'a, Result<LinkTestView, String>> {
        Box::pin(std::future::ready(Err("no link can be tried here".into())))
    }

    /// Begins or ends a comparison of a group's volumes.
    ///
    /// # Errors
    /// Why it cannot be done.
    fn compare<'a>(
        &'a self,
        _group: &'a GroupName,
        _wish: &'a CompareWish,
        _who: &'a Who,
    ) -> BoxFuture<'a, Result<CompareStartView, Refusal>> {
        Box::pin(std::future::ready(Err(Refusal::Conflict("nothing can be compared here".into()))))
    }

    /// The sealed results that are kept of a group.
    ///
    /// # Errors
    /// There is no such group.
    fn proof(&self, group: &GroupName) -> Result<Proof, Refusal> {
        Err(Refusal::missing("group", group))
    }

    /// Finds the roots of a read-only snapshot of a group, reading all of it or what is not known, and seals them among these results.
    ///
    /// # Errors
    /// Why it cannot be done.
    fn prove<'a>(
        &'a self,
        _group: &'a GroupName,
        _of: (&'a SnapshotName, bool),
        _who: &'a Who,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        Box::pin(std::future::ready(Err(Refusal::Conflict("nothing can be read here".into()))))
    }

    /// What every other array that can be reached has of a group that is copied here.
    fn positions<'a>(&'a self, _group: &'a str) -> BoxFuture<'a, Vec<PositionView>> {
        Box::pin(std::future::ready(Vec::new()))
    }

    /// What these designations have put on its way to other arrays and those have not accepted yet, and what was
    /// refused for good.
    fn on_their_way(&self, _orders: &[DesignationId]) -> Vec<MessageView> {
        Vec::new()
    }

    /// What was done under this identity, in the words of the audit log, as long as that is known.
    fn answered(&self, _id: DesignationId) -> Option<String> {
        None
    }
}

/// How designations are applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Only say what would change.
    pub dry_run: bool,
}

/// A designation on its way to another array.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct MessageView {
    /// Link to that array.
    pub link: String,
    /// What is designated.
    pub what: String,
    /// Why it has not accepted it; none while it has not answered.
    pub refusal: Option<String>,
    /// Whether it is offered again until it is accepted; otherwise a refusal is its end.
    pub is_offered_again: bool,
}

/// Everything that `list` and `show` can say.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Snapshot {
    /// This array.
    pub array: ArrayView,
    /// Units in the order of their parity groups.
    pub units: Vec<UnitView>,
    /// Parity groups by number.
    pub parity_groups: Vec<ParityGroupView>,
    /// Volumes by number.
    pub volumes: Vec<VolumeView>,
    /// Snapshots.
    pub snapshots: Vec<SnapshotView>,
    /// Targets by name.
    pub targets: Vec<TargetView>,
    /// Sessions by number.
    pub sessions: Vec<SessionView>,
    /// Links by name.
    pub links: Vec<LinkView>,
    /// Groups by number.
    pub groups: Vec<GroupView>,
    /// Journal volumes by group and place in it.
    pub journals: Vec<JournalView>,
    /// Pairs by number.
    pub pairs: Vec<PairView>,
}

/// This array.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ArrayView {
    /// Storage system number.
    pub number: u32,
    /// Name.
    pub name: String,
    /// 128-bit identity, 32 hexadecimal digits.
    pub identity: String,
    /// Version of the program.
    pub version: String,
    /// The configuration file that it was started with.
    pub config_file: String,
    /// How often this array has been started.
    pub incarnation: u64,
    /// Wall time of the snapshot, ms since 1970.
    pub time_unix_ms: u64,
    /// Since the start.
    pub uptime_ms: u64,
    /// How units are read and written: `io_uring` or `plain`.
    pub disk_engine: String,
    /// Memory for slots.
    pub cache_memory_bytes: u64,
    /// Of it, in use.
    pub cache_used_bytes: u64,
    /// Of it, not yet on the units.
    pub cache_dirty_bytes: u64,
    /// Load of the array, which copies by load go by: the larger of the next two. 1000 is full.
    pub load_permille: u32,
    /// Of what is not yet on the units, in relation to where hosts begin to wait for it.
    pub load_cache_permille: u32,
    /// Of the commands of hosts that wait, in relation to 64.
    pub load_hosts_permille: u32,
    /// Host reads since the start.
    pub host_reads: u64,
    /// Host writes since the start.
    pub host_writes: u64,
    /// Bytes that hosts have read since the start.
    pub host_read_bytes: u64,
    /// Bytes that hosts have written since the start.
    pub host_written_bytes: u64,
    /// Where it listens.
    pub portals: Vec<PortalView>,
    /// The shell over SSH; none when it is not configured.
    pub ssh: Option<SshView>,
    /// Where metrics and health are served over HTTP, address and port; none when that is not configured.
    pub web: Option<String>,
}

/// The shell over SSH.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SshView {
    /// Address and port, as bound.
    pub listen: String,
    /// The host's public key, as it stands in `known_hosts`.
    pub host_key: String,
    /// Its fingerprint, as `ssh` asks about it at the first login.
    pub fingerprint: String,
}

/// A portal.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PortalView {
    /// Address and port, as bound.
    pub listen: String,
    /// `hosts`, `arrays`.
    pub serves: Vec<String>,
    /// Target portal group tag.
    pub group: u16,
}

/// A unit.
#[derive(Clone, Debug, Default, Serialize)]
pub struct UnitView {
    /// `PARITY_GROUP.INDEX`, or `PARITY_GROUP.sINDEX` for a spare.
    pub name: String,
    /// Parity group.
    pub parity_group: String,
    /// Path now.
    pub path: String,
    /// 128-bit identity from its superblock, 32 hexadecimal digits.
    pub identity: String,
    /// `normal`, `failed`, `missing`, `rebuilding` or `spare`.
    pub state: String,
    /// Why, when it is not normal.
    pub reason: Option<String>,
    /// Size.
    pub size_bytes: u64,
}

/// A parity group.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ParityGroupView {
    /// Number.
    pub number: u32,
    /// Name.
    pub name: String,
    /// 128-bit identity, 32 hexadecimal digits.
    pub identity: String,
    /// `raid0` and so on.
    pub level: String,
    /// `normal`, `degraded` or `failed`.
    pub state: String,
    /// Why, when it is not normal.
    pub reason: Option<String>,
    /// Units in it.
    pub units: usize,
    /// Spares that stand by.
    pub spares: usize,
    /// Stripe unit.
    pub stripe_unit_bytes: u64,
    /// Room for volumes.
    pub size_bytes: u64,
    /// Of it, not given to a volume.
    pub free_bytes: u64,
}

/// A volume.
#[derive(Clone, Debug, Default, Serialize)]
pub struct VolumeView {
    /// Number.
    pub number: u32,
    /// Name.
    pub name: String,
    /// `normal`, `main`, `auxiliary`, `abnormal` or `unused`.
    pub state: String,
    /// Why, when it is abnormal.
    pub reason: Option<String>,
    /// What it serves for: `host`, `journal` or `snapshot`.
    pub usage: String,
    /// The snapshot to which it belongs.
    pub snapshot: Option<String>,
    /// Parity group; none for a virtual volume.
    pub parity_group: Option<String>,
    /// Capacity.
    pub size_bytes: u64,
    /// The size to which it is growing.
    pub grows_to_bytes: Option<u64>,
    /// What its growth waits for.
    pub growth_waits_for: Option<String>,
    /// Of it, on units.
    pub allocated_bytes: u64,
    /// Logical block size.
    pub block_size_bytes: u32,
    /// Whether extents are taken only when they are written.
    pub is_thin: bool,
    /// `write-back` or `write-through`.
    pub cache: String,
    /// What hosts know it by: its serial number (page 80h), of which its world-wide name is made (page 83h).
    pub identity: String,
    /// The other array that shows hosts the same identity (decision 25).
    pub shared_with_array: Option<u32>,
    /// Names of its pairs.
    pub pairs: Vec<String>,
    /// Host reads since the start.
    pub reads: u64,
    /// Host writes since the start.
    pub writes: u64,
    /// Bytes read by hosts since the start.
    pub read_bytes: u64,
    /// Bytes written by hosts since the start.
    pub written_bytes: u64,
}

/// A target.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TargetView {
    /// iSCSI name.
    pub name: String,
    /// What it shows, by number.
    pub luns: Vec<LunView>,
    /// Who may log in; `*` for anybody.
    pub initiators: Vec<String>,
    /// `none`, `chap` or `mutual-chap`.
    pub authentication: String,
    /// Sessions now.
    pub sessions: usize,
}

/// A volume under a logical unit number.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LunView {
    /// Target.
    pub target: String,
    /// Logical unit number.
    pub lun: u16,
    /// Volume.
    pub volume: String,
    /// What hosts may do with it now: `read-write`, `read-only` or `none`; `standby`: another array shows the same unit, and
    /// hosts are told to use it there.
    pub access: String,
    /// Which initiators may only read it, whatever `access` says; `*` for all.
    pub read_only_for: Vec<String>,
}

/// A session.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SessionView {
    /// Target session identifying handle.
    pub number: u16,
    /// Name of the initiator, as it gave it.
    pub initiator: String,
    /// Initiator's session identifier, 12 hexadecimal digits.
    pub isid: String,
    /// Target; empty for a discovery session.
    pub target: String,
    /// `normal`, `discovery` or `peer`.
    pub kind: String,
    /// Remote addresses of its connections.
    pub connections: Vec<String>,
    /// `none`, `header`, `data` or `header+data`.
    pub digests: String,
    /// Since the login.
    pub age_ms: u64,
    /// Commands in progress.
    pub commands: u32,
}

/// A journal volume, with the pointers of one reader (figure 8).
#[derive(Clone, Debug, Default, Serialize)]
pub struct JournalView {
    /// Group.
    pub group: String,
    /// Volume.
    pub volume: String,
    /// `normal`, `failed` or `leaving`, or the state of a group that is not normal.
    pub state: String,
    /// Why, when it is not normal.
    pub reason: Option<String>,
    /// What it does: `written`, `read` (others have taken its place, and something in it is still needed), `waiting` for
    /// its turn, or in `reserve`.
    #[serde(rename = "use")]
    pub used_as: String,
    /// How its areas divide it, update information to write data.
    pub ratio: String,
    /// How records and write data lie on it.
    pub layout: String,
    /// Room for update information.
    pub update_information_bytes: u64,
    /// Of it, in use.
    pub update_information_used_bytes: u64,
    /// Room for write data.
    pub write_data_bytes: u64,
    /// Of it, in use.
    pub write_data_used_bytes: u64,
    /// Oldest number in it; none when it is empty.
    pub oldest_update_number: Option<u64>,
    /// Newest number in it; none when it is empty.
    pub newest_update_number: Option<u64>,
    /// Memory for updates that readers may still ask for, of the whole group.
    pub cache_bytes: u64,
    /// Of it, in use; what is not durable yet may take more.
    pub cache_used_bytes: u64,
    /// Reads of the group's journal volumes since the start: for what was not in memory.
    pub unit_reads: u64,
    /// One set for every array that reads it; one for this array itself where it keeps a copy.
    pub pointers: Vec<PointerView>,
}

/// The eight addresses of figure 8, in bytes from the beginning of the journal volume, with the meanings of figure 9.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PointerView {
    /// The reading array.
    pub array: u32,
    /// Where the update information area begins.
    pub update_information_head: u64,
    /// Where the write data area begins.
    pub write_data_head: u64,
    /// Where the next update information will be put.
    pub update_information_newest: u64,
    /// Oldest update information that this reader still needs.
    pub update_information_oldest: u64,
    /// Where the next write data will be put.
    pub write_data_newest: u64,
    /// Oldest write data that this reader still needs.
    pub write_data_oldest: u64,
    /// What the next journal read gives.
    pub read_start: u64,
    /// What a retried journal read gives.
    pub retry_start: u64,
}

/// A pair.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PairView {
    /// Number here.
    pub number: u32,
    /// Name.
    pub name: String,
    /// Group.
    pub group: String,
    /// `unused`, `not-yet-copied`, `being-copied`, `normal`, `suspended` or `abnormal`.
    pub state: String,
    /// Why.
    pub reason: Option<String>,
    /// Array of the P-VOL.
    pub primary_array: u32,
    /// P-VOL: its name here, or its number there.
    pub pvol: String,
    /// Array of the S-VOL.
    pub auxiliary_array: u32,
    /// S-VOL: its name.
    pub svol: String,
    /// `async`, or `sync`: writes are forwarded.
    pub copy: String,
    /// `own`, or `shared`: hosts are told that both volumes are one.
    pub identity: String,
    /// Everything below it has been copied.
    pub copy_completion_bytes: u64,
    /// Size of the P-VOL.
    pub size_bytes: u64,
    /// Progress of the initial copy or resync, 0 to 100.
    pub progress_percent: f64,
    /// Until its end, at the present rate.
    pub time_left_ms: Option<u64>,
    /// Recorded differences.
    pub difference_bytes: u64,
    /// The S-VOL is the image of everything up to this number; none before the initial copy has ended.
    pub restored_update_number: Option<u64>,
    /// Hosts may write the S-VOL while the pair is suspended.
    pub svol_write: bool,
    /// At the primary: what was asked of it and is still to be done: `suspend`, `resync` or `delete`.
    pub asked: Option<String>,
    /// At the auxiliary: what the S-VOL was as of this number is kept until its resync has ended.
    pub image_update_number: Option<u64>,
}

/// A record of the audit log.
#[derive(Clone, Debug, Default, Serialize)]
pub struct AuditView {
    /// Its number.
    pub number: u64,
    /// Wall time, ms since 1970.
    pub time_unix_ms: u64,
    /// Who asked.
    pub who: String,
    /// From where.
    pub from: String,
    /// For what.
    pub what: String,
    /// `done`, or why not.
    pub result: String,
}
