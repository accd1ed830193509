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
