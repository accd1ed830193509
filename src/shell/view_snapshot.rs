//! Snapshots as operators see them.

use serde::Serialize;

/// A snapshot.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SnapshotView {
    /// Number.
    pub number: u32,
    /// Name.
    pub name: String,
    /// The volume that it is of.
    pub of_volume: Option<String>,
    /// The group that it is of.
    pub of_group: Option<String>,
    /// What hosts may do with it: `read-only` or `read-write`.
    pub access: String,
    /// It has all updates of the group up to this number and nothing else; none: not every write had a number, or it is
    /// no image.
    pub update_number: Option<u64>,
    /// The bookmark at that number.
    pub bookmark: Option<String>,
    /// Its volumes are of one moment, as hosts wrote them.
    pub is_image: bool,
    /// Why they are not.
    pub reason: Option<String>,
    /// The array made it on the group's schedule of images, and deletes it when its time is over.
    pub is_scheduled: bool,
    /// It is what this array had when it was named as the loser of a takeover: from this number on it differs from the group.
    pub differs_from_update_number: Option<u64>,
    /// How many updates only it has.
    pub branch_updates: Option<u64>,
    /// When it was made: wall time of this array.
    pub made_unix_ms: u64,
    /// Capacity of its volumes.
    pub size_bytes: u64,
    /// What only its volumes have: deleting it frees that.
    pub own_bytes: u64,
    /// What they share with other volumes.
    pub shared_bytes: u64,
    /// Its volumes.
    pub volumes: Vec<SnapshotVolumeView>,
}

impl SnapshotView {
    pub(super) fn of(&self) -> String {
        match (&self.of_volume, &self.of_group) {
            (Some(volume), _) => format!("volume {volume}"),
            (None, Some(group)) => format!("group {group}"),
            (None, None) => "-".to_owned(),
        }
    }

    pub(super) fn remark(&self) -> String {
        match (&self.reason, self.differs_from_update_number) {
            (Some(reason), _) => reason.clone(),
            (None, None) if self.is_scheduled => "kept for rewinds".to_owned(),
            (None, Some(first)) => format!("branch: differs from update {first} on"),
            (None, None) => "-".to_owned(),
        }
    }
}

/// A volume of a snapshot.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SnapshotVolumeView {
    /// Its name.
    pub volume: String,
    /// The volume that it is of, as that was called then.
    pub of_volume: String,
    /// Capacity.
    pub size_bytes: u64,
    /// What only it has.
    pub own_bytes: u64,
    /// What it shares with other volumes.
    pub shared_bytes: u64,
    /// Whether it is mapped.
    pub is_mapped: bool,
}
