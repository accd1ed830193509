//! What a synchronous copy had to free although another copy lacks it (promise K1; decisions 22 and 29).
//!
//! # What it guarantees
//! * **No update is let go here unmarked that another reader of the primary may lack**, as far as the primary has said what they have:
//!   before a checkpoint frees such updates, the ranges that they change are in a difference map in the control store. In this order:
//!   marks and the numbers that they stand for, then the checkpoint.
//! * **It is whole, or it is none.** The map stands for all updates of a stretch without a gap, `from` to `through`, and counts only
//!   while the journal goes on right behind it. A copy that has everything before `from` lacks nothing but what is marked, and what the
//!   journal holds.
//! * **It reaches back to where a stopped pair of another reader stopped.** The primary says it, and as long as it does the map is not
//!   begun anew; so whoever copies differences to that pair, or has begun to, may go by it.
//! * **A takeover need not read all of a long journal**: what is more than [`UNMARKED`] updates old is marked although it is not freed.
//! * **It costs little and holds up nothing**: regions of 64 KiB, as in any difference map. Where a map cannot be written it ends, and the
//!   journal is freed all the same: the copy that it was for is copied whole then.
//!
//! A takeover puts it into the marks of its pairs with the lost primary (`array/rejoin.rs`), from where it counts for those who join.
//!
//! How it is proved: `copy/tests/second.rs`; `tests/sim/far_behind.rs` lets the second free what the third lacks, kills it, and takes over.

use super::differences::{ChangedPart, DifferenceMap};
use super::error::CopyError;
use super::group::{Group, Role, Sequencer};
use super::inherited::{ForOthers, Others};
use super::tamper::SynchronousDefect;
use crate::disk::slot::Class;
use holdfast_journal::{Extent, UpdateNumber};
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
    up_to: UpdateNumber,
    known: Freed,
    is_new: bool,
}

impl Sequencer {
    /// The updates that others may lack, and that nobody needs here up to `up_to`, or that are old; none if there are none.
    fn about_to_free(&self, up_to: UpdateNumber) -> Option<Stretch> {
        let others_have = match self.for_others {
            ForOthers::Nothing => return None,
            ForOthers::Everything => UpdateNumber::NONE,
            ForOthers::Behind(others) => others.reaches,
        };
        let first = others_have.max(self.journal.released()).next();
        // What all have is marked for nobody any more; and a stretch has no gap.
        let known = self.apart.freed.clone();
        let known = known.filter(|known| others_have < known.through && first <= known.through.next());
        let marked = known.as_ref().map_or(first.previous(), |known| known.through.max(first.previous()));
        let durable = self.journal.durable();
        let is_old = durable.get() > marked.get().saturating_add(UNMARKED);
        let old = UpdateNumber::new(durable.get().saturating_sub(UNMARKED / 2));
        let up_to = if is_old { up_to.max(old) } else { up_to };
        let is_new = known.is_none();
        let known = known.unwrap_or(Freed { from: first, ..Freed::default() });
        (marked < up_to).then_some(Stretch { first: marked.next(), up_to, known, is_new })
    }
}

impl Sequencer {
    /// `others`: see [`Group::others_have`].
    fn all_have_what_was_freed(&self, others: Option<Others>) -> bool {
        let all_have = |known: &Freed| others.is_none_or(|others| known.through <= others.reaches);
        self.apart.freed.as_ref().is_some_and(all_have) && !self.takes_nothing
    }
}

impl Group {
    /// At a copy, before a checkpoint lets go of everything up to `up_to`: what others may lack of that is marked, durably.
    pub(super) async fn mark_freed(&self, up_to: UpdateNumber) {
        if self.role != Role::Copy {
            return;
        }
        let Some(stretch) = self.lock().about_to_free(up_to) else { return };
        let freed = match self.marked(stretch).await {
            Ok(freed) => Some(freed),
            Err(error) => {
                tracing::warn!(group = %self.name, %error, "what is freed here cannot be marked for other copies");
                None
            }
        };
        self.lock().apart.freed = freed;
    }

    async fn marked(&self, stretch: Stretch) -> Result<Freed, CopyError> {
        let Stretch { first, up_to, mut known, is_new } = stretch;
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
                    self.mark_for_others(map, extent);
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

    /// At such a copy, when the source has said how far the others are, or that there are none: what all of them have is not kept. Behind a
    /// restart nobody would know that they have it, and an initial copy may be in it: all of a volume. And what was marked long ago would let
    /// a takeover look through all of the journal behind it, for nobody.
    pub(super) fn forget_freed(&self, others: Option<Others>) {
        // A checkpoint that is being written does it the next time.
        let Ok(_one_at_a_time) = self.checkpointing.try_lock() else { return };
        if !self.lock().all_have_what_was_freed(others) {
            return;
        }
        let note = FreedNote { from: 0, through: 0, is_new: true, parts: Vec::new() };
        match self.marks.note_freed(self.number, &note) {
            Ok(()) => self.lock().apart.freed = None,
            Err(error) => {
                tracing::warn!(group = %self.name, %error, "what was freed for other copies is kept for longer");
            }
        }
    }

    /// At a copy that takes over and has looked at its journal from `first` on: what it freed before that and others may lack.
    pub(crate) fn freed_before(&self, first: UpdateNumber) -> Option<Freed> {
        let known = self.lock().apart.freed.clone();
        known.filter(|known| known.through.next() >= first)
    }

    /// What an update changed others may lack.
    pub(crate) fn mark_for_others(&self, map: &mut DifferenceMap, extent: &Extent) {
        let is_forgotten = || (extent.start_bytes / map.region_bytes()) % 2 == 1;
        if self.defect() == Some(SynchronousDefect::MarkForgotten) && is_forgotten() {
            return;
        }
        map.mark(extent.start_bytes, extent.length_bytes);
    }

    /// At such a copy: up to where everything that others may lack is marked, if what follows is in the journal.
    pub(crate) fn marked_through(&self) -> Option<UpdateNumber> {
        self.freed_before(self.first_retained()).map(|known| known.through)
    }
}

/// As soon as there are more updates in the journal that others may lack and that are not marked, half of them is.
const UNMARKED: u64 = 65_536;
