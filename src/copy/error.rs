//! Why copying failed at this array.

use super::answer::AnswerError;
use super::arrivals::ArrivalFault;
use super::source::SourceError;
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
    /// A journal volume cannot be read, or holds something else than this array wrote there: what a start needs of it
    /// nobody else has.
    #[error("journal volume {volume}: {reason}")]
    Journal {
        /// Its number here.
        volume: u32,
        /// How it showed.
        reason: String,
    },
}

/// Why reading ended.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The session, or the status that the peer gave.
    #[error("{0}")]
    Source(#[from] SourceError),
    /// The answer is not one.
    #[error("journal read answer: {0}")]
    Answer(#[from] AnswerError),
    /// A record in it is not one.
    #[error("journal read answer: {0}")]
    Record(String),
    /// The group is not `normal` there, for this reason.
    #[error("the group is not normal at the array that is read: {0}")]
    GroupNotNormal(String),
    /// The copy has to start again.
    #[error(
        "updates before {0} are no longer held at the array that is read: a copy of the differences has to follow"
    )]
    NotHeld(u64),
    /// The other array does not have the history of this one.
    #[error(
        "the array that is read has another history: update {0} here was given in another generation than there"
    )]
    Generations(u64),
    /// The other array is behind this one and does not come forward.
    #[error("the array that is read is at update {0}, behind update {1} here")]
    Behind(u64, u64),
    /// The other array does not have what this one needs.
    #[error("update {0} changes a volume that is not copied to the array that is read")]
    Hole(u64),
    /// The group ends here.
    #[error("the group is closed")]
    Closed,
    /// Nothing is held for this array. Asking again begins with the number that is wanted, which shows whether that is
    /// still so.
    #[error("the pairs of this array are suspended at the array that is read")]
    Suspended,
    /// Updates do not come as they should.
    #[error("{0}")]
    Arrival(#[from] ArrivalFault),
    /// This array's own journal refuses.
    #[error("{0}")]
    Store(String),
}

/// Why a change has to wait or is refused. Nothing is visible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No room in the journal or in memory: wait for `Group::room` and try again.
    NoRoom,
    /// The journal is being left; wait likewise.
    Leaving,
    /// Not now: whoever sent it is to send it again.
    Again,
    /// The synchronous copy does not confirm, and the group's fence forbids to go on alone.
    Fenced,
    /// The update is not one (a bug or a hostile peer).
    Invalid(String),
}
