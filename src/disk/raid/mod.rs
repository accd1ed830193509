//! Parity groups: several units as one range of slots that survives the loss of as many as its level says.
//!
//! [`layout`] says where a slot is (pure), [`stripe`] what a write of part of a stripe must read and compute (pure),
//! [`parity`] does the sums, [`assemble`] makes and opens groups, [`group`] executes. What a group is called and who owns it comes from its creator.
//!
//! Absent: rebuilding to a spare, block checksums, and closing the write hole. After a power loss the parity of a
//! stripe that was being written may not be that of its data; nothing notices before a member is lost. The areas that
//! will hold checksums and stripe log are reserved in format 1 of the units.

pub mod assemble;
pub mod group;
pub mod layout;
pub mod parity;
mod raid5;
pub mod stripe;

use super::device::DeviceError;
use super::slot::Slot;
use super::unit::Refusal;
use std::fmt;

/// The RAID levels that configuration may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// Striping without redundancy.
    Raid0,
    /// Mirroring.
    Raid1,
    /// Striping over mirrors.
    Raid10,
    /// Striping with one rotating parity.
    Raid5,
    /// Striping with two rotating parities.
    Raid6,
}

impl Level {
    /// Its name in configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raid0 => "raid0",
            Self::Raid1 => "raid1",
            Self::Raid10 => "raid10",
            Self::Raid5 => "raid5",
            Self::Raid6 => "raid6",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Level {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        [Self::Raid0, Self::Raid1, Self::Raid10, Self::Raid5, Self::Raid6]
            .into_iter()
            .find(|level| level.name() == name)
            .ok_or_else(|| format!("{name:?} is not a RAID level: raid0, raid1, raid10, raid5 and raid6 are"))
    }
}

/// Identity of an array.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArrayIdentity(pub u128);

/// Identity of a parity group, unique for ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupIdentity(pub u128);

/// Identity of a unit, unique for ever: it, not the path, says which member a file is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitIdentity(pub u128);

macro_rules! shown_as_hex {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    )*};
}
shown_as_hex!(ArrayIdentity, GroupIdentity, UnitIdentity);

/// The array that owns a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its identity.
    pub array: ArrayIdentity,
    /// Its number, as people say it.
    pub number: u64,
}

/// What a new group shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSpec {
    /// Its identity.
    pub identity: GroupIdentity,
    /// Its name, 1 to 64 bytes.
    pub name: String,
    /// Its level.
    pub level: Level,
    /// Bytes of one member in one stripe: a multiple of 4096, at most 16 MiB.
    pub stripe_unit_bytes: u32,
}

/// Contiguous slots to be written at a place.
#[derive(Clone, Debug)]
pub struct Run {
    /// Where, a multiple of 4096.
    pub offset_bytes: u64,
    /// What.
    pub slots: Vec<Slot>,
}

/// How one member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberState {
    /// In use.
    Normal,
    /// Failed in operation, or recorded as failed earlier; no longer read nor written.
    Failed(String),
    /// Not among the units that were given.
    Missing,
}

/// One member, for display.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// The name under which its unit was given; that of a missing one says which it is.
    pub name: String,
    /// The unit.
    pub identity: UnitIdentity,
    /// How it is.
    pub state: MemberState,
}

/// How a group is, at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupState {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub identity: GroupIdentity,
    /// Its level.
    pub level: Level,
    /// Bytes of one member in one stripe.
    pub stripe_unit_bytes: u32,
    /// Its members in order.
    pub members: Vec<MemberStatus>,
    /// Units that were given at opening and refused.
    pub refused: Vec<Refusal>,
    /// Works, but the next member that fails loses data.
    pub degraded: bool,
    /// No longer works: every call fails with this reason.
    pub failed: Option<String>,
}

/// What a group could not do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// The configuration asks for something that cannot be.
    #[error("parity group {group}: {reason}")]
    Spec {
        /// The group's name.
        group: String,
        /// Why not.
        reason: String,
    },
    /// A unit given for a new group cannot be taken.
    #[error(transparent)]
    Unit(#[from] Refusal),
    /// Ourselves: a range outside the group or not of whole slots.
    #[error("parity group {group}: {slots} slots at byte {offset_bytes} are not a range of it")]
    Range {
        /// The group's name.
        group: String,
        /// Where.
        offset_bytes: u64,
        /// How many.
        slots: usize,
    },
    /// Ourselves: two runs of one batch write the same slot.
    #[error("parity group {group}: runs of one batch overlap")]
    Overlap {
        /// The group's name.
        group: String,
    },
    /// A unit could not do it and there is no redundancy to help.
    #[error("parity group {group}: {source}")]
    Device {
        /// The group's name.
        group: String,
        /// What the unit said.
        source: DeviceError,
    },
    /// The bytes are lost: more members of this stripe are unreadable than its level bears.
    #[error("parity group {group}: stripe {stripe} cannot be read or computed: {reason}")]
    Lost {
        /// The group's name.
        group: String,
        /// Which stripe.
        stripe: u64,
        /// Why.
        reason: String,
    },
    /// The group is failed.
    #[error("parity group {group} is failed: {reason}")]
    Failed {
        /// The group's name.
        group: String,
        /// The first reason.
        reason: String,
    },
}

impl DiskError {
    /// Whether the cause is a full file system: nothing is broken, and the write may be repeated when there is room.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Device { source: DeviceError::NoSpace { .. }, .. })
    }
}

/// Why a group was not opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("parity group {group} is not opened: {reason}{}", list(refused))]
pub struct OpenError {
    /// Which.
    pub group: GroupIdentity,
    /// Why.
    pub reason: String,
    /// Units that were refused, each with its reason.
    pub refused: Vec<Refusal>,
}

fn list(refused: &[Refusal]) -> String {
    refused.iter().map(|refusal| format!("; {refusal}")).collect()
}

/// Members of a group at most: the member table of the superblock has this many rows.
pub const MEMBERS_MAX: usize = 16;
/// Bytes of a group's name at most.
pub const NAME_BYTES_MAX: usize = 64;
/// Bytes of one stripe unit at most.
pub const STRIPE_UNIT_BYTES_MAX: u32 = 16 << 20;

#[cfg(test)]
mod tests;
