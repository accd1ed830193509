//! What a synchronous copy had to free although another copy lacks it (promise K1; decision 22).
//!
//! # What it guarantees
//! * **No update is let go here unmarked that another reader of the primary may lack**, as far as the primary has said what they have:
//!   before a checkpoint frees such updates, the ranges that they change are in a difference map in the control store. In this order:
//!   marks and the numbers that they stand for, then the checkpoint.
//! * **It is whole, or it is none.** The map stands for all updates of a stretch without a gap, `from` to `through`, and counts only
//!   while the journal goes on right behind it. A copy that has everything before `from` lacks nothing but what is marked, and what the
//!   journal holds.
//! * **It costs little and holds up nothing**: regions of 64 KiB, as in any difference map. Where a map cannot be written it ends, and the
//!   journal is freed all the same: the copy that it was for is copied whole then.
//!
//! A takeover puts it into the marks of its pairs with the lost primary (`array/rejoin.rs`), from where it counts for those who join.
//!
//! How it is proved: `copy/tests/second.rs`; `tests/sim/far_behind.rs` lets the second free what the third lacks, kills it, and takes over.

use super::differences::{ChangedPart, DifferenceMap};
use super::error::CopyError;
use super::group::{Group, Role, Sequencer};
use super::inherited::ForOthers;
use crate::disk::slot::Class;
use holdfast_journal::UpdateNumber;
use std::collections::BTreeMap;

/// Where other copies may lack what the journal here does not hold any more.
#[derive(Clone, Debug, Default)]
pub(crate) struct Freed {
    /// Of the first update that is marked.
    pub(crate) from: UpdateNumber,
    /// Of the last one; durably.
    pub(crate) through: UpdateNumber,
    /// By the P-VOLs' numbers in the records.
    pub(crate) maps: BTreeMap<u32, DifferenceMap>,
}

/// What the control store is to keep of it, in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FreedNote {
    /// See [`Freed::from`].
    pub(crate) from: u64,
    /// See [`Freed::through`].
    pub(crate) through: u64,
    /// What was kept before counts no more.
    pub(crate) is_new: bool,
    /// Changed parts by P-VOL, with the size of the volume.
    pub(crate) parts: Vec<(u32, u64, Vec<ChangedPart>)>,
}

/// What a checkpoint is about to let go.
struct Stretch {
    first: UpdateNumber,
    known: Freed,
    is_new: bool,
}

impl Sequencer {
    /// The updates up to `up_to` that nobody needs here, and others may; none if there are none.
    fn about_to_free(&self, up_to: UpdateNumber) -> Option<Stretch> {
        let others_have = match self.for_others {
            ForOthers::Nothing => return None,
            ForOthers::Everything => UpdateNumber::NONE,
            ForOthers::Behind(number) => number,
        };
        let first = others_have.max(self.journal.released()).next();
        if first > up_to {
            return None;
        }
        // What all have is marked for nobody any more; and a stretch has no gap.
        let known = self.apart.freed.clone();
        let known = known.filter(|known| others_have < known.through && first <= known.through.next());
        let is_new = known.is_none();
        Some(Stretch { first, known: known.unwrap_or(Freed { from: first, ..Freed::default() }), is_new })
    }
}

impl Group {
    /// At a copy, before a checkpoint lets go of everything up to `up_to`: what others may lack of that is marked, durably.
    pub(super) async fn mark_freed(&self, up_to: UpdateNumber) {
        if self.role != Role::Copy {
            return;
        }
        let Some(stretch) = self.lock().about_to_free(up_to) else { return };
        let freed = match self.marked(stretch, up_to).await {
            Ok(freed) => Some(freed),
            Err(error) => {
                tracing::warn!(group = %self.name, %error, "what is freed here cannot be marked for other copies");
                None
            }
        };
        self.lock().apart.freed = freed;
    }

    async fn marked(&self, stretch: Stretch, up_to: UpdateNumber) -> Result<Freed, CopyError> {
        let Stretch { first, mut known, is_new } = stretch;
        let capacities = self.capacities();
        let mut next = first;
        while next <= up_to {
            let updates = self.load_information(next, Class::Restore).await?;
            for update in updates.iter().filter(|update| update.number <= up_to) {
                if update.number != next {
                    return Err(CopyError::Damaged(format!("update {next} is not in its journal")));
                }
                for extent in &update.extents {
                    let Some(capacity) = capacities.get(&extent.volume.0) else { continue };
                    let map = known.maps.entry(extent.volume.0);
                    let map = map.or_insert_with(|| DifferenceMap::new(*capacity));
                    if *capacity != map.capacity_bytes() && !map.grow(*capacity) {
                        *map = DifferenceMap::new(*capacity);
                        map.mark(0, *capacity);
                    }
                    map.mark(extent.start_bytes, extent.length_bytes);
                }
                next = update.number.next();
            }
            if updates.is_empty() {
                return Err(CopyError::Damaged(format!("update {next} is not in its journal")));
            }
        }
        known.through = up_to;
        let parts =
            known.maps.iter_mut().map(|(volume, map)| (*volume, map.capacity_bytes(), map.take_changed()));
        let (from, through) = (known.from.get(), known.through.get());
        let note = FreedNote { from, through, is_new, parts: parts.collect() };
        self.marks.note_freed(self.number, &note).map_err(CopyError::Damaged)?;
        Ok(known)
    }

    /// At a copy that takes over and has looked at its journal from `first` on: what it freed before that and others may lack.
    pub(crate) fn freed_before(&self, first: UpdateNumber) -> Option<Freed> {
        let known = self.lock().apart.freed.clone();
        known.filter(|known| known.through.next() >= first)
    }
}
