//! Readers that lack what their new primary takes them to have, because their journal was lost before they were told of it
//! ([`crate::volume::onward`]): all of their S-VOLs counts as different.

use super::Array;
use super::marks::pair_marks;
use crate::copy::group::Group;
use crate::volume::name::{ArrayNumber, GroupNumber, PairNumber};
use crate::volume::pair::{PairRecord, SuspendCause};
use crate::volume::record::Who;
use crate::volume::table::Tables;
use holdfast_journal::ArrayNumber as JournalArray;
use std::sync::Arc;

impl Array {
    /// Marks, then says so: a crash in between does it again.
    pub(super) async fn mark_lacking(&self, group: &Arc<Group>) {
        let number = GroupNumber(group.number);
        let lacking: Vec<ArrayNumber> = self.store.read(|tables| {
            let readers = tables.all_readers_of_group(number).filter(|reader| reader.is_lacking);
            readers.map(|reader| reader.array).collect()
        });
        for array in lacking {
            let going = self.store.read(|tables| tables.pairs_taken_for_normal(number, array));
            if !going.is_empty() {
                let pairs: Vec<PairNumber> = going.iter().map(|pair| pair.number).collect();
                self.suspend_pairs(group, JournalArray(array.0), &pairs, SuspendCause::Overflow, REASON)
                    .await;
            }
            self.mark_all_of(group, array).await;
        }
    }

    async fn mark_all_of(&self, group: &Arc<Group>, array: ArrayNumber) {
        let number = GroupNumber(group.number);
        // Between taking marks and having them in the store nobody else may write older ones.
        let _one_at_a_time = group.checkpointing.lock().await;
        let pairs: Vec<PairRecord> =
            self.pairs_where(group, |pair| pair.auxiliary.array == array && pair.state.is_stopped());
        let is_going = !self.store.read(|tables| tables.pairs_taken_for_normal(number, array)).is_empty();
        let all = |pair: &PairRecord| group.mark_runs(pair.number.0, &[(0, pair.size_bytes)]);
        if is_going || !pairs.iter().all(all) {
            tracing::error!(group = %group.name, array = array.0, "what its S-VOLs lack cannot be marked; trying again");
            return;
        }
        let numbers: Vec<u32> = pairs.iter().map(|pair| pair.number.0).collect();
        let taken = group.take_marks(&numbers);
        let what = format!("group {}: {REASON}: all of the S-VOLs of array {} differs", group.name, array.0);
        let recorded =
            self.store.change_with_marks(&Who::Array, what, &pair_marks(taken.parts.clone()), |tables| {
                tables.lacks_are_marked(number, array, REASON);
                Ok(())
            });
        match recorded {
            Ok(()) => self.wake(),
            Err(error) => {
                group.marks_not_written(&taken.parts);
                tracing::error!(group = %group.name, %error, "what a reader lacks cannot be recorded");
            }
        }
    }
}

impl Array {
    /// A reader has lost what it had not settled. Of that nothing is in the maps of its pairs that were suspended before, where
    /// the reader had acknowledged it and it was released: all of them differs. Whether that is durable, with what `done` records.
    pub(super) async fn mark_stopped(
        &self,
        group: &Arc<Group>,
        array: ArrayNumber,
        done: impl FnOnce(&mut Tables),
    ) -> bool {
        // Between taking marks and having them in the store nobody else may write older ones.
        let _one_at_a_time = group.checkpointing.lock().await;
        let stopped = self.pairs_where(group, |pair| {
            pair.auxiliary.array == array && pair.state.is_stopped() && group.knows_pair(pair.number.0)
        });
        let numbers: Vec<u32> = stopped.iter().map(|pair| pair.number.0).collect();
        group.mark_whole(&numbers);
        let taken = group.take_marks(&numbers);
        let what = format!(
            "group {}: array {array} has lost its journal: {} suspended pairs count as different in whole",
            group.name,
            stopped.len()
        );
        let marks = pair_marks(taken.parts.clone());
        let recorded = self.store.change_with_marks(&Who::Array, what, &marks, |tables| {
            done(tables);
            Ok(())
        });
        if let Err(error) = &recorded {
            group.marks_not_written(&taken.parts);
            tracing::error!(group = %group.name, %error, "what a reader lacks cannot be recorded");
        }
        recorded.is_ok()
    }
}

/// Why the pairs of such a reader are suspended.
const REASON: &str = "it lost what it had acknowledged to the former primary";
