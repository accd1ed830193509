//! Difference maps of groups at work and states of their pairs, in the control store.

use super::Array;
use super::groups::record_volume;
use crate::copy::PairMark;
use crate::copy::differences::ChangedPart;
use crate::copy::suspend::MarkStore;
use crate::volume::designation::Refusal;
use crate::volume::name::{GroupNumber, PairNumber, UpdateNumber as StoredNumber};
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

impl Array {
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
