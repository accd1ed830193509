//! The journal of one consistency group on one array, without I/O.
//!
//! Every write to a copied volume becomes an *update*: update information (a record in ring A) and, where there is
//! any, write data (whole 4 KiB blocks in ring B). This crate decides where both go, what is written together, what is
//! durable, what may be freed and what a restart finds; it never sees payload, a file, a clock or a thread. The caller
//! writes what [`Journal::poll_commit`] and [`Journal::poll_checkpoint`] hand out and says when it is durable.
//!
//! * [`format`]: every byte on the journal volume and of the record that travels between arrays
//! * [`Journal`]: rings, group commit, index, release, checkpoints
//! * [`chain`]: a journal over several volumes, one after the other
//! * [`recovery`]: what a restart makes of the volume
//! * [`reader`]: what each reading array has, and what may be freed because of it
//! * [`mod@pointer`]: the eight addresses of the pointer information
#![no_std]
extern crate alloc;

mod bookmark;
pub mod chain;
pub mod format;
mod journal;
mod number;
pub mod pointer;
pub mod reader;
pub mod recovery;

mod ring;
mod sequencer;
mod update;

pub use bookmark::{Bookmark, BookmarkName, MAX_BOOKMARKS};
pub use journal::{Checkpoint, Journal, LOOK_AHEAD_BYTES, Located, Usage};
pub use number::{ArrayNumber, Generation, GroupNumber, Incarnation, UpdateNumber, VolumeNumber};
pub use sequencer::{AppendError, Commit, Full, MAX_PENDING_BATCHES, MAX_RECENT_UPDATES, Placement};
pub use update::{
    Content, CopyForm, DataPlace, Draft, DraftSize, Extent, InitialCopy, Kind, MAX_EXTENTS,
    MAX_PATTERN_BYTES, MAX_UPDATE_DATA_BYTES, Stored, Update, UpdateError,
};
