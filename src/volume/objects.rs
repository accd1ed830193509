//! Objects of one array that are yet to be made: parity groups, volumes, targets.

use super::kind::{CacheMode, InitiatorRule, RaidLevel};
use super::name::{IscsiName, Lun, ParityGroupName, VolumeName};
use super::record::{ChapRecord, Identity, UnitRecord};
use serde::{Deserialize, Serialize};

/// A parity group to make.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NewParityGroup {
    /// Name.
    pub name: ParityGroupName,
    /// Identity.
    pub identity: Identity,
    /// Level.
    pub level: RaidLevel,
    /// Stripe unit.
    pub stripe_unit_bytes: u64,
    /// Units.
    pub units: Vec<UnitRecord>,
    /// Spares.
    pub spares: Vec<UnitRecord>,
}

/// A volume to make.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NewVolume {
    /// Name.
    pub name: VolumeName,
    /// Identity.
    pub identity: Identity,
    /// Parity group; none: it is virtual (promise T3).
    pub parity_group: Option<ParityGroupName>,
    /// Capacity.
    pub size_bytes: u64,
    /// Logical block size.
    pub block_size_bytes: u32,
    /// Whether extents are taken only when they are written.
    pub is_thin: bool,
    /// When a write is answered.
    pub cache: CacheMode,
}

/// A target to make.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NewTarget {
    /// Name.
    pub iqn: IscsiName,
    /// What it shows.
    pub luns: Vec<(Lun, VolumeName)>,
    /// Of these, the ones that some may only read, and who.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub read_only_for: Vec<(Lun, Vec<InitiatorRule>)>,
    /// To whom.
    pub initiators: Vec<InitiatorRule>,
    /// What they must prove.
    pub chap: Option<ChapRecord>,
}
