//! What an operator chooses anew for a group.

use super::group::GroupSettings;
use super::kind::{Fence, IdentityChoice, NoRoom, Release, ReleaseBy, SvolAccess, WhenOvertaken};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What is chosen anew for a group; the rest stays as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SettingsChange {
    /// What hosts may do with the S-VOLs.
    pub svol_access: Option<SvolAccess>,
    /// When journals are freed.
    pub release: Option<Release>,
    /// Updates of one journal read at most.
    pub read_updates: Option<u32>,
    /// Bytes of one journal read at most.
    pub read_bytes: Option<u64>,
    /// Unit of the initial copy.
    pub copy_unit_bytes: Option<u64>,
    /// How long hosts wait for room that a reader holds.
    pub throttle: Option<Duration>,
    /// Which report frees.
    #[serde(default)]
    pub release_by: Option<ReleaseBy>,
    /// What an auxiliary does with what it has no room for.
    #[serde(default)]
    pub no_room: Option<NoRoom>,
    /// What becomes of writes that cannot be forwarded.
    #[serde(default)]
    pub fence: Option<Fence>,
    /// How long they wait before.
    #[serde(default)]
    pub fence_wait: Option<Duration>,
    /// Whose identity the S-VOLs of a synchronous copy show.
    #[serde(default)]
    pub identity: Option<IdentityChoice>,
    /// What becomes of a primary that was overtaken and has nothing of its own.
    #[serde(default)]
    pub overtaken: Option<WhenOvertaken>,
}

impl SettingsChange {
    /// The settings after the change.
    #[must_use]
    pub fn applied_to(self, old: GroupSettings) -> GroupSettings {
        GroupSettings {
            svol_access: self.svol_access.unwrap_or(old.svol_access),
            release: self.release.unwrap_or(old.release),
            read_updates: self.read_updates.unwrap_or(old.read_updates),
            read_bytes: self.read_bytes.unwrap_or(old.read_bytes),
            copy_unit_bytes: self.copy_unit_bytes.unwrap_or(old.copy_unit_bytes),
            throttle: self.throttle.unwrap_or(old.throttle),
            release_by: self.release_by.unwrap_or(old.release_by),
            no_room: self.no_room.unwrap_or(old.no_room),
            fence: self.fence.unwrap_or(old.fence),
            fence_wait: self.fence_wait.unwrap_or(old.fence_wait),
            identity: self.identity.unwrap_or(old.identity),
            overtaken: self.overtaken.unwrap_or(old.overtaken),
        }
    }
}
