//! What the disk adapter cannot do for a volume, and who is to blame.

use super::raid::DiskError;
use super::space::map::VolumeId;

/// Why an operation on a volume failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VolumeError {
    /// The parity group has no free extent, or the file system below no room. Nothing is lost; pages stay dirty.
    #[error("parity group {group} is full: add space or delete data")]
    NoSpace {
        /// Which.
        group: String,
    },
    /// The caller names a volume that is not there.
    #[error("volume {} does not exist", volume.0)]
    Unknown {
        /// Which.
        volume: VolumeId,
    },
    /// The operator creates what is there already.
    #[error("volume {} exists", volume.0)]
    Exists {
        /// Which.
        volume: VolumeId,
    },
    /// The caller names a parity group that is not there.
    #[error("parity group {number} does not exist")]
    UnknownGroup {
        /// Its number.
        number: u32,
    },
    /// The parity group was added before, or holds volumes whose numbers are in use.
    #[error("parity group {number} cannot be added: {reason}")]
    GroupRefused {
        /// Its number.
        number: u32,
        /// Why.
        reason: String,
    },
    /// The control store is an older copy: whoever goes on with it forgets what has been done since.
    #[error(
        "the control store is older than parity group {group}: the array has been started {found} times, the store knows of {}; put the \
         newer store back, or start with --take-older-store if it is lost",
        own.saturating_sub(1)
    )]
    OlderStore {
        /// Which.
        group: String,
        /// How often the store had been opened.
        found: u64,
        /// How often this one has been, this time included.
        own: u64,
    },
    /// The parity group holds as many volumes as it can.
    #[error("parity group {group} has as many volumes as it can have")]
    TooManyVolumes {
        /// Which.
        group: String,
    },
    /// Volumes that share extents differ in more than the map's log can hold. Nothing is lost; pages stay dirty.
    #[error("the map of parity group {group} has no room for more snapshots that differ: delete some")]
    MapFull {
        /// Which.
        group: String,
    },
    /// The parity group cannot hold its own map and one extent.
    #[error("parity group {group} is too small with {capacity_bytes} bytes")]
    TooSmall {
        /// Which.
        group: String,
        /// Its capacity.
        capacity_bytes: u64,
    },
    /// A volume's size must be a multiple of 4096, not zero, at most 256 TiB.
    #[error("{size_bytes} bytes are not the size of a volume")]
    Size {
        /// What was asked for.
        size_bytes: u64,
    },
    /// The range does not lie in the volume, or is more than memory can ever hold at once.
    #[error("{length_bytes} bytes at {offset_bytes} are not a range of volume {}", volume.0)]
    Range {
        /// Which.
        volume: VolumeId,
        /// Where.
        offset_bytes: u64,
        /// How much.
        length_bytes: u64,
    },
    /// A journal volume was used through the cache, or another one without it.
    #[error("volume {} is of another kind", volume.0)]
    Kind {
        /// Which.
        volume: VolumeId,
    },
    /// The map on the units is damaged. The parity group is not used; nothing is guessed.
    #[error("parity group {group}: {what}")]
    MapDamaged {
        /// Which.
        group: String,
        /// What is damaged.
        what: String,
    },
    /// The parity group failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
}
