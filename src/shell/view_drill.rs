//! Disaster drills as operators see them.

use serde::Serialize;

/// A drill.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DrillView {
    /// Number; later ones are larger.
    pub number: u32,
    /// Name, which is that of its snapshot.
    pub name: String,
    /// The group.
    pub group: String,
    /// `waiting` (for an update), `running` (the clones can be used), `ending` or `ended` (the record is left).
    pub state: String,
    /// Why it ended, or what hinders it.
    pub reason: Option<String>,
    /// `open`, `passed`, `failed`, `ended without a verdict`, `expired without a verdict`, or `never made`.
    pub verdict: String,
    /// What was said with the verdict.
    pub verdict_note: Option<String>,
    /// Who gave it.
    pub verdict_by: Option<String>,
    /// From where.
    pub verdict_from: Option<String>,
    /// When: wall time of this array.
    pub verdict_unix_ms: Option<u64>,
    /// What was asked for: `newest`, a number, or `bookmark:NAME`.
    pub at: String,
    /// The clones have all updates up to this one and nothing else, or shall have.
    pub update_number: Option<u64>,
    /// The bookmark at that number.
    pub bookmark: Option<String>,
    /// Updates that are still to be restored until then, while it waits.
    pub updates_left: Option<u64>,
    /// It does not wait longer than that.
    pub waits_until_unix_ms: Option<u64>,
    /// Who began it.
    pub by: String,
    /// From where.
    pub from: String,
    /// What was said about it.
    pub note: Option<String>,
    /// When it was begun: wall time of this array.
    pub begun_unix_ms: u64,
    /// When the clones were made.
    pub made_unix_ms: Option<u64>,
    /// When they are deleted, if nobody ends it before.
    pub expires_unix_ms: Option<u64>,
    /// When it ended.
    pub ended_unix_ms: Option<u64>,
    /// How much hosts may write to the clones together, in bytes of extents of 1 MiB.
    pub quota_bytes: Option<u64>,
    /// How much they have written, so counted; only with a quota.
    pub written_bytes: Option<u64>,
    /// Hosts are refused what the quota does not allow, or the next new extent would be.
    pub is_quota_used_up: bool,
    /// What only the clones have: ending it frees that.
    pub own_bytes: u64,
    /// Names of the clones, as they are mapped; also when they are gone.
    pub volumes: Vec<String>,
}
