//! Difference maps of groups at work and states of their pairs, in the control store.

use super::Array;
use super::groups::record_volume;
use crate::copy::PairMark;
use crate::copy::differences::{ChangedPart, DifferenceMap};
use crate::copy::freed::{Freed, FreedNote};
use crate::copy::group::Sequencer;
use crate::copy::suspend::MarkStore;
use crate::volume::designation::Refusal;
use crate::volume::group::{FreedMap, FreedRecord, GroupRecord, GroupRole};
use crate::volume::name::{GroupNumber, PairNumber, UpdateNumber as StoredNumber, VolumeNumber};
use crate::volume::pair::{PairEvent, PairRecord, PairState};
use crate::volume::record::Who;
use crate::volume::store::{PairMarks, Store};
use crate::volume::table::Tables;
use holdfast_journal::UpdateNumber;
use std::sync::Arc;

/// The control store, as groups keep their difference maps in it.
pub(crate) struct Marks(pub(crate) Arc<Store>);

impl MarkStore for Marks {
    fn put(&self, changed: Vec<(u32, Vec<ChangedPart>)>) -> Result<(), String> {
        self.0.put_marks(&pair_marks(changed)).map_err(|refusal| refusal.to_string())
    }

    fn note_together(&self, group: u32, together: Result<(), &str>) -> Result<(), String> {
        let number = GroupNumber(group);
        let what = match together {
            Ok(()) => "hosts wait for its synchronous copy from here on".to_owned(),
            Err(why) => format!("hosts are answered without its synchronous copy from here on: {why}"),
        };
        let name = self.0.read(|tables| tables.groups.get(&number).map(|row| row.name.to_string()));
        let what = format!("group {}: {what}", name.unwrap_or_default());
        let recorded = self.0.change(&Who::Array, what, |tables| {
            if let Some(row) = tables.groups.edit(&number) {
                (row.is_together, row.goes_alone) = (together.is_ok(), false);
            }
            Ok(())
        });
        recorded.map_err(|refusal| refusal.to_string())
    }

    fn note_freed(&self, group: u32, note: &FreedNote) -> Result<(), String> {
        let number = GroupNumber(group);
        let row = || self.0.read(|tables| tables.groups.get(&number).and_then(|row| row.freed.clone()));
        let known = row().map_or_else(Vec::new, |freed| freed.maps);
        let is_new = |volume: u32| !known.iter().any(|map| map.volume.0 == volume);
        let new: Vec<(u32, u64)> =
            note.parts.iter().filter(|part| is_new(part.0)).map(|part| (part.0, part.1)).collect();
        if !new.is_empty() {
            self.reserve_freed(number, &new).map_err(|refusal| refusal.to_string())?;
        }
        let maps = row().map_or_else(Vec::new, |freed| freed.maps);
        let mut marks: Vec<PairMarks> = match note.is_new {
            true => maps.iter().map(|map| PairMarks::gone(map.marks)).collect(),
            false => Vec::new(),
        };
        for (volume, _, parts) in &note.parts {
            let Some(map) = maps.iter().find(|map| map.volume.0 == *volume) else { continue };
            marks.push(PairMarks { pair: map.marks, replace: note.is_new, parts: parts.clone() });
        }
        let recorded = self.0.checkpoint_with_marks(&marks, |tables| {
            let Some(freed) = tables.groups.edit(&number).and_then(|row| row.freed.as_mut()) else { return };
            (freed.from, freed.through) = (StoredNumber(note.from), StoredNumber(note.through));
            for map in &mut freed.maps {
                let size = note.parts.iter().find(|part| part.0 == map.volume.0).map(|part| part.1);
                map.size_bytes = size.unwrap_or(map.size_bytes);
            }
        });
        recorded.map_err(|refusal| refusal.to_string())
    }

    fn has_pair_of(&self, group: u32, pvol: u32) -> bool {
        self.0.read(|tables| {
            let mut pairs = tables.pairs_of_group(GroupNumber(group));
            pairs.any(|pair| !tables.is_served(pair) && record_volume(pair) == pvol)
        })
    }

    fn note_copy_ends(&self, ends: &[PairMark]) -> Result<(), String> {
        let noted = |pair: &PairRecord| (pair.copy_completion_bytes, pair.copy_end.0);
        let is_new = |tables: &Tables, end: &&PairMark| {
            let pair = tables.pairs.get(&PairNumber(end.pair));
            pair.is_some_and(|pair| noted(pair) != (end.copy_completion_bytes, end.copy_end))
        };
        if !self.0.read(|tables| ends.iter().any(|end| is_new(tables, &end))) {
            return Ok(());
        }
        let recorded = self.0.checkpoint(|tables| {
            for end in ends {
                if let Some(pair) = tables.pairs.edit(&PairNumber(end.pair)) {
                    pair.copy_completion_bytes = end.copy_completion_bytes;
                    pair.copy_end = StoredNumber(end.copy_end);
                }
            }
        });
        recorded.map_err(|refusal| refusal.to_string())
    }
}

impl Marks {
    /// Numbers for maps that are of no pair.
    fn reserve_freed(&self, group: GroupNumber, new: &[(u32, u64)]) -> Result<(), Refusal> {
        let mut reserved = Ok(());
        self.0.checkpoint(|tables| {
            let numbers = match tables.reserve_pair_numbers(new.len()) {
                Ok(numbers) => numbers,
                Err(refusal) => {
                    reserved = Err(refusal);
                    return;
                }
            };
            let Some(row) = tables.groups.edit(&group) else { return };
            let nothing = FreedRecord { from: StoredNumber(0), through: StoredNumber(0), maps: Vec::new() };
            let freed = row.freed.get_or_insert(nothing);
            for ((volume, size_bytes), marks) in new.iter().zip(numbers) {
                freed.maps.push(FreedMap { volume: VolumeNumber(*volume), marks, size_bytes: *size_bytes });
            }
        })?;
        reserved
    }
}

impl Array {
    /// What a synchronous copy had freed although others may lack it, as far as its journal goes on right behind that. Otherwise it is
    /// forgotten: a journal that begins anew may give the same numbers to other updates, and reach it later.
    pub(super) fn load_freed(&self, record: &GroupRecord, sequencer: &mut Sequencer) {
        let (held_from, next) = (sequencer.journal.first_retained().get(), sequencer.next.get());
        let is_copy = record.role != GroupRole::Primary;
        let known = record.freed.as_ref().filter(|freed| is_copy && freed.from.0 > 0);
        let Some(known) = known else { return };
        if !known.is_gone_on_with(StoredNumber(held_from), StoredNumber(next)) {
            let note = FreedNote { from: 0, through: 0, is_new: true, parts: Vec::new() };
            if let Err(error) = Marks(self.store.clone()).note_freed(record.number.0, &note) {
                tracing::warn!(group = %record.name, %error, "what was freed for other copies is kept for longer");
            }
            return;
        }
        let mut freed = Freed {
            from: UpdateNumber::new(known.from.0),
            through: UpdateNumber::new(known.through.0),
            ..Freed::default()
        };
        for map in &known.maps {
            let parts = self.store.marks_of(map.marks);
            let loaded = parts.and_then(|parts| {
                DifferenceMap::load(map.size_bytes, parts).map_err(|part| format!("part {part} is none"))
            });
            match loaded {
                Ok(loaded) => drop(freed.maps.insert(map.volume.0, loaded)),
                Err(error) => {
                    // Whoever it was for is copied whole.
                    tracing::warn!(group = %record.name, %error, "what was freed for other copies is not known any more");
                    return;
                }
            }
        }
        sequencer.apart.freed = Some(freed);
    }

    /// The state of a pair, recorded by what its data say; a pair that is normal has no map any more.
    pub(crate) fn record_pair_event(
        &self,
        pair: PairNumber,
        event: PairEvent,
        copy_end: Option<UpdateNumber>,
        what: &str,
    ) -> Option<PairState> {
        let ends = event == PairEvent::CopyRestored;
        let marks = if ends { vec![PairMarks::gone(pair)] } else { Vec::new() };
        let changed =
            self.store.change_with_marks(&Who::Array, format!("pair {pair}: {what}"), &marks, |tables| {
                let from = tables.pairs.get(&pair).map_or(StoredNumber(0), |pair| pair.control.copy_from);
                if ends && copy_end.is_none_or(|end| end.get() < from.0) {
                    return Err(Refusal::Conflict("another copy of it has begun meanwhile".to_owned()));
                }
                tables.pair_event(pair, event, None)
            });
        changed
            .inspect_err(|error| tracing::error!(%pair, %error, "the state of a pair cannot be recorded"))
            .ok()
    }
}

/// Changed parts as the store takes them.
pub(super) fn pair_marks(changed: Vec<(u32, Vec<ChangedPart>)>) -> Vec<PairMarks> {
    let marks = |(pair, parts)| PairMarks { pair: PairNumber(pair), replace: false, parts };
    changed.into_iter().map(marks).collect()
}
