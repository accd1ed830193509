//! What an auxiliary asks of the array it reads from. Defined here, by its user; implemented over a session of the
//! array's own initiator.

use crate::clock::BoxFuture;
use crate::disk::slot::Slot;
use holdfast_journal::UpdateNumber;
use holdfast_journal::reader::Report;
use std::time::Duration;

/// One connection to the array that is read.
pub trait Source: Send + Sync {
    /// JOURNAL READ: the pages of the answer. `start`: the first update wanted, or whatever comes next.
    fn journal_read(
        &self,
        group: u32,
        start: Option<UpdateNumber>,
        position: Report,
        wait: Duration,
    ) -> BoxFuture<'_, Result<Vec<Slot>, SourceError>>;

    /// REPORT POSITION.
    fn report_position(&self, group: u32, position: Report) -> BoxFuture<'_, Result<(), SourceError>>;
}

/// Why the other array gave no answer. The session is of no more use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub String);
