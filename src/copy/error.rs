//! Why copying failed at this array.

use crate::disk::VolumeError;

/// The device is to blame, or whoever damaged what it holds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// A volume or the journal volume could not.
    #[error("{0}")]
    Volume(#[from] VolumeError),
    /// The journal holds something that this array did not write.
    #[error("{0}")]
    Damaged(String),
}

/// Why a change has to wait or is refused. Nothing is visible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No room in the journal or in memory: wait for `Group::room` and try again.
    NoRoom,
    /// The journal is being left; wait likewise.
    Leaving,
    /// The update is not one (a bug or a hostile peer).
    Invalid(String),
}
