//! What an auxiliary asks of the array it reads from. Defined here, by its user; implemented over the sessions of a
//! link.

use super::answer::Head;
use super::synchronous::{Asked, Told};
use crate::clock::BoxFuture;
use crate::disk::slot::Slot;
use holdfast_journal::UpdateNumber;
use holdfast_journal::reader::Report;
use std::time::Duration;

/// The way to the array that is read: one or several connections, called *lanes*. Lane 0 carries everything that is no
/// journal read, and its loss is the end of the whole; another lane may come and go.
pub trait Source: Send + Sync {
    /// Lanes that there may be; at least 1.
    fn lanes(&self) -> usize {
        1
    }

    /// Whether a lane can be used now.
    fn is_open(&self, lane: usize) -> bool {
        lane == 0
    }

    /// JOURNAL READ: the pages of the answer.
    fn journal_read(
        &self,
        lane: usize,
        group: u32,
        ask: Ask,
    ) -> BoxFuture<'_, Result<Vec<Slot>, SourceError>>;

    /// JOURNAL INFORMATION: the head of an answer that has nothing in it.
    fn journal_information(&self, group: u32) -> BoxFuture<'_, Result<Vec<u8>, SourceError>>;

    /// What the head of an answer says, with the newest number that was given and how long ago that was so, by the clock here:
    /// as it stands there, if the source answers for itself.
    fn news(&self, head: Head) -> Head {
        head
    }

    /// COPY READ: the pages of the answer.
    /// Only a source that is itself a copy is asked.
    fn copy_read(&self, _group: u32, _ask: PieceAsk) -> BoxFuture<'_, Result<Vec<Slot>, SourceError>> {
        Box::pin(std::future::ready(Err(SourceError("this source serves no pieces of copies".into()))))
    }

    /// REPORT POSITION.
    fn report_position(&self, group: u32, position: Report) -> BoxFuture<'_, Result<(), SourceError>>;

    /// SYNCHRONISE: how the synchronous copy here stands, as its source sees it.
    fn synchronise(&self, _group: u32, _asked: Asked) -> BoxFuture<'_, Result<Told, SourceError>> {
        Box::pin(std::future::ready(Err(SourceError("this source has no synchronous copies".into()))))
    }

    /// What may pass in a second; none: as much as there is.
    fn limit_bytes_per_s(&self) -> Option<u64> {
        None
    }

    /// The best rate that was lately seen.
    fn seen_bytes_per_s(&self) -> u64 {
        u64::MAX
    }

    /// Journal reads under way over the link, of all groups.
    fn reads_under_way(&self) -> usize {
        0
    }

    /// How long a short command and its answer take without a queue on the way; zero: not known.
    fn round_trip(&self) -> Duration {
        Duration::ZERO
    }

    /// How much of what the link can carry is in use, in permille.
    fn link_permille(&self) -> u32 {
        0
    }
}

/// What one journal read asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Which updates.
    pub what: Wanted,
    /// How many at most.
    pub updates: u32,
    /// Room for the answer, bytes in whole pages.
    pub room_bytes: u32,
    /// Where this array is.
    pub position: Report,
    /// How long the source may hold the command when it has nothing.
    pub wait: Duration,
}

/// What one COPY READ asks for (`cascade.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PieceAsk {
    /// The volume, as the group's records name it.
    pub volume: u32,
    /// Which copy of the pair.
    pub copy: u32,
    /// Everything below this byte is durable here.
    pub copied_to_bytes: u64,
    /// What is restored here.
    pub restored: UpdateNumber,
    /// Room for the answer, bytes in whole pages.
    pub room_bytes: u32,
    /// How long the source may hold the command when it has nothing.
    pub wait: Duration,
}

/// Which updates a journal read asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Those behind the last answer.
    Next,
    /// Those from this number on; what follows is behind them.
    From(UpdateNumber),
    /// Retry indication: everything that this array has not reported as durable, once more.
    Retry,
    /// Retry indication with a range; what follows stays where it is.
    Again {
        /// The first number.
        first: UpdateNumber,
        /// How many.
        count: u32,
    },
}

/// Why the other array gave no answer. The session is of no more use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub String);
