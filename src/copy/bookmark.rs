//! Bookmarks (promises J1, O9): points in the order of a group's updates that have a name.
//!
//! # What it guarantees
//! Everything that was acknowledged before the command began is before the bookmark, over all volumes of the group, and
//! everything that is written after its answer is behind it; the answer comes when it is durable (`array/bookmarks.rs`). It travels with the
//! updates: a copy whose restore stops there (`stop.rs`) is the image of exactly that moment. A journal lists those that
//! it holds; when the updates around one are freed, its name is gone with them.

use super::change::Payload;
use super::group::{Group, Role};
use holdfast_journal::{Bookmark, BookmarkName, Kind, Update, UpdateNumber};
use std::sync::Arc;

impl Group {
    /// At the primary: the next number is the bookmark.
    ///
    /// # Errors
    /// Why there is none, for the operator.
    pub(crate) fn append_bookmark(&self, name: BookmarkName) -> Result<UpdateNumber, String> {
        let number = {
            let mut seq = self.lock();
            if self.role != Role::Source {
                return Err(format!("group {} is copied here: bookmarks are set at its primary", self.name));
            }
            if let Some(reason) = &seq.failed {
                return Err(format!("the journal of group {} has failed: {reason}", self.name));
            }
            if seq.wholeness.is_broken {
                let text = "are no image of one moment while an upstream array copies differences into them";
                return Err(format!("the P-VOLs of group {} {text}: say it again when it has", self.name));
            }
            let number = seq.next;
            let update = Update {
                number,
                generation: seq.generation,
                kind: Kind::Bookmark(name),
                time_ns: self.clock.wall().0,
                extents: Vec::new(),
                data_bytes: 0,
                data_checksum: 0,
            };
            self.append(&mut seq, &Arc::new(update), &Payload::default()).map_err(|_| {
                format!("the journal of group {} is full at the moment: say it again", self.name)
            })?;
            seq.restored = number;
            number
        };
        self.work_arrived();
        Ok(number)
    }

    /// Those that the journal here holds, in the order of updates, and up to which number the volumes are.
    pub(crate) fn bookmarks(&self) -> (Vec<Bookmark>, UpdateNumber) {
        let seq = self.lock();
        (seq.journal.bookmarks().collect(), seq.restored)
    }
}
