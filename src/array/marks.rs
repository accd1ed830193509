//! Difference maps of groups at work, in the control store.

use super::groups::record_volume;
use crate::copy::PairMark;
use crate::copy::differences::ChangedPart;
use crate::copy::suspend::MarkStore;
use crate::volume::name::{GroupNumber, PairNumber, UpdateNumber as StoredNumber};
use crate::volume::pair::PairRecord;
use crate::volume::store::{PairMarks, Store};
use crate::volume::table::Tables;
use std::sync::Arc;

/// The control store, as groups keep their difference maps in it.
pub(crate) struct Marks(pub(crate) Arc<Store>);

impl MarkStore for Marks {
    fn put(&self, changed: Vec<(u32, Vec<ChangedPart>)>) -> Result<(), String> {
        self.0.put_marks(&pair_marks(changed)).map_err(|refusal| refusal.to_string())
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

/// Changed parts as the store takes them.
pub(super) fn pair_marks(changed: Vec<(u32, Vec<ChangedPart>)>) -> Vec<PairMarks> {
    let marks = |(pair, parts)| PairMarks { pair: PairNumber(pair), replace: false, parts };
    changed.into_iter().map(marks).collect()
}
