//! Bookmarks (promises J1, O9): points in the order of a group's updates that have a name.
//!
//! # What it guarantees
//! Everything that was acknowledged before the command began is before the bookmark, over all volumes of the group, and
//! everything that is written after its answer is behind it, over all groups that were named together; the answer comes when it is durable (`array/bookmarks.rs`). It travels with the
//! updates: a copy whose restore stops there (`stop.rs`) is the image of exactly that moment. A journal lists those that
//! it holds; when the updates around one are freed, its name is gone with them.

use super::change::Payload;
use super::group::{Group, Role, Sequencer};
use holdfast_journal::{Bookmark, BookmarkName, DraftSize, Kind, Update, UpdateNumber};
use std::sync::Arc;

impl Group {
    /// At the primary: the next number of each of these groups is its bookmark, all of them at one instant, or none. No group gives a number
    /// meanwhile: a write in one of them that is behind its bookmark was answered after all of these had one, and what was sent only
    /// then is behind the bookmark of its own group.
    ///
    /// # Errors
    /// Why there is none, for the operator.
    pub(crate) fn append_bookmarks(
        wanted: &[(Arc<Self>, BookmarkName)],
    ) -> Result<Vec<UpdateNumber>, String> {
        // Whoever takes several of these locks takes them in this order, and nobody else takes more than one.
        let mut order: Vec<usize> = (0..wanted.len()).collect();
        order.sort_by_key(|index| wanted.get(*index).map(|(group, _)| group.number));
        let mut locked = Vec::with_capacity(wanted.len());
        let mut before = None;
        for index in order {
            let Some((group, name)) = wanted.get(index) else { continue };
            if before.replace(group).is_some_and(|before| Arc::ptr_eq(before, group)) {
                return Err(format!("group {} is named twice", group.name));
            }
            let seq = group.lock();
            group.takes_bookmark(&seq)?;
            locked.push((index, group, *name, seq));
        }
        let mut numbers = vec![UpdateNumber::NONE; wanted.len()];
        for (index, group, name, seq) in &mut locked {
            let appended = group.append_bookmark(seq, *name)?;
            if let Some(number) = numbers.get_mut(*index) {
                *number = appended;
            }
        }
        drop(locked);
        wanted.iter().for_each(|(group, _)| group.work_arrived());
        Ok(numbers)
    }

    /// Whether a bookmark can be appended now.
    fn takes_bookmark(&self, seq: &Sequencer) -> Result<(), String> {
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
        if self.is_full_for_now(seq) || !seq.journal.fits(BOOKMARK_SIZE) {
            return Err(format!("the journal of group {} is full at the moment: say it again", self.name));
        }
        Ok(())
    }

    fn append_bookmark(&self, seq: &mut Sequencer, name: BookmarkName) -> Result<UpdateNumber, String> {
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
        self.append(seq, &Arc::new(update), &Payload::default())
            .map_err(|_| format!("the journal of group {} is full at the moment: say it again", self.name))?;
        seq.restored = number;
        Ok(number)
    }

    /// Those that the journal here holds, in the order of updates, and up to which number the volumes are.
    pub(crate) fn bookmarks(&self) -> (Vec<Bookmark>, UpdateNumber) {
        let seq = self.lock();
        (seq.journal.bookmarks().collect(), seq.restored)
    }
}

/// What a bookmark takes in a journal: its name lies where other updates have extents.
const BOOKMARK_SIZE: DraftSize = DraftSize { extent_count: 2, data_blocks: 0 };
