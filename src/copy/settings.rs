//! What the operator chose for a group.

use super::demand::Demand;
use super::kept::JournalCache;
use crate::volume::kind::{NoRoom, ReleaseBy};
use std::sync::Arc;
use std::time::Duration;

/// What the operator chose for a group.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Memory for journals that readers have not fetched yet (J14); older ones are read back from the journal volume.
    pub journal_cache: Arc<JournalCache>,
    /// What hosts ask of the array, all of them.
    pub demand: Arc<Demand>,
    /// Updates of one answer at most, whatever the reader asks for (J5).
    pub read_updates: u32,
    /// Write data of one answer beyond which no further update is added (J5).
    pub read_bytes: u32,
    /// Unit of the initial copy (J3); at most 1 MiB.
    pub copy_unit_bytes: u64,
    /// How long hosts wait for room that a reader holds before its pairs go to difference maps (O1); zero: not at all.
    pub throttle: Duration,
    /// Which report of a reader frees (J6).
    pub release_by: ReleaseBy,
    /// What happens to journals that there is no room for (J10).
    pub no_room: NoRoom,
}
