//! Marks on their way from memory to the store. Parts of a map replace what the store has of them, so between taking them and
//! having them there nobody else may take newer ones: those would be written first, and these over them. Proved by every test
//! of `tests/rig.rs` in which marks are written.

use super::differences::ChangedPart;
use super::error::CopyError;
use super::group::{Group, PairRuntime};
use std::sync::{MutexGuard, PoisonError};

/// Marks on their way to the store.
pub(crate) struct TakenMarks<'a> {
    pub(crate) parts: Vec<(u32, Vec<ChangedPart>)>,
    _in_hand: MutexGuard<'a, ()>,
}

impl Group {
    /// The marks of these pairs that the store does not have yet, for step 3. Keep them until they are written or given back:
    /// as long as they live nobody else takes newer ones, over which these would be written.
    pub(crate) fn take_marks(&self, pairs: &[u32]) -> TakenMarks<'_> {
        self.take_marks_of(|runtime| pairs.contains(&runtime.pair))
    }

    fn take_marks_of(&self, chosen: impl Fn(&PairRuntime) -> bool) -> TakenMarks<'_> {
        let in_hand = self.marks_in_hand.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seq = self.lock();
        let chosen = seq.pairs.values_mut().flatten().filter(|runtime| chosen(runtime));
        TakenMarks { parts: chosen.filter_map(PairRuntime::take_marks).collect(), _in_hand: in_hand }
    }

    /// What was taken is not durable: it is taken again the next time.
    pub(crate) fn marks_not_written(&self, marks: &[(u32, Vec<ChangedPart>)]) {
        let mut seq = self.lock();
        for runtime in seq.pairs.values_mut().flatten() {
            let parts = marks.iter().filter(|(pair, _)| *pair == runtime.pair);
            if let Some(map) = &mut runtime.resync.differences {
                parts.for_each(|(_, parts)| map.not_written(parts));
            }
        }
    }

    /// Marks that changed since the last checkpoint become durable: before anything leaves the journal that caused them.
    pub(crate) fn write_marks(&self) -> Result<(), CopyError> {
        let taken = self.take_marks_of(|_| true);
        if taken.parts.is_empty() {
            return Ok(());
        }
        self.marks.put(taken.parts.clone()).map_err(|reason| {
            self.marks_not_written(&taken.parts);
            CopyError::Damaged(format!("group {}: difference maps cannot be written: {reason}", self.name))
        })
    }
}
