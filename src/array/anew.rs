//! The journal of a copy begins anew (promise O1): what its source holds no more is in difference maps there.
//!
//! In two steps, because the session over which the copy is read may end at any moment, and whoever reads ends with it. He restores
//! all that is held and asks for the end of this journal ([`Array::begin_journal_anew`]); the owner of the groups ends it
//! ([`Array::end_journals`]). A group that has begun to end and stays at work would never be read again.
//!
//! What he has begun is carried to its end without him all the same: it writes checkpoints.
//!
//! Proved by seed 2971 of `tests/sim/story.rs`, in which the source dies between the two, and by `tests/sim/delay.rs`, in which the link is
//! cut while he restores.

use super::Array;
use crate::copy::fetch::FetchError;
use crate::copy::group::{Group, Role};
use crate::disk::VolumeId;
use crate::volume::name::{GroupNumber, UpdateNumber};
use crate::volume::pair::{PairRecord, PairState};
use crate::volume::record::Who;
use crate::volume::table::Tables;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

impl Array {
    /// At an auxiliary: what lies before the number that the source names is in difference maps. If no pair here claims
    /// to be an image, everything that is held is restored and the journal begins anew where the source says; whether it
    /// does.
    pub(crate) async fn begin_journal_anew(&self, group: &Arc<Group>, error: &FetchError) -> bool {
        let FetchError::NotHeld(first) = error else { return false };
        if !Self::may_begin_anew(&self.store.tables(), group) {
            return false;
        }
        tracing::info!(group = %group.name, first, "the journal begins anew: differences follow");
        if !self.restored_to_the_end(group).await {
            return false;
        }
        group.closing.ask_for_end(*first);
        self.wake();
        loop {
            let changed = self.changed().notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let is_there =
                self.runtime().groups.get(&group.number).is_some_and(|at_work| Arc::ptr_eq(at_work, group));
            if !is_there {
                return true;
            }
            if group.closing.wanted_end().is_none() {
                return false;
            }
            changed.await;
        }
    }

    /// Everything that is held is restored and on the units. A task of the array does it: a checkpoint that was dropped half-way would be
    /// waited for by all that come after it.
    async fn restored_to_the_end(&self, group: &Arc<Group>) -> bool {
        let Some(last) = group.begin_last_restore() else {
            return false; // Who asked before is gone, and it goes on still: it is looked at again in a moment.
        };
        let (done, ended) = oneshot::channel();
        let group = group.clone();
        self.spawn(async move {
            let settled = match group.restore_available(Duration::ZERO).await {
                Ok(_) => group.settle().await,
                Err(error) => Err(error),
            };
            if let Err(error) = &settled {
                tracing::error!(group = %group.name, %error, "cannot be restored to the end; trying again");
            }
            drop(last);
            done.send(settled.is_ok()).ok(); // Nobody waits for it any more when the link was cut.
        });
        ended.await.unwrap_or(false)
    }

    fn may_begin_anew(tables: &Tables, group: &Group) -> bool {
        let number = GroupNumber(group.number);
        let is_copied = |pair: &PairRecord| !matches!(pair.state, PairState::Normal | PairState::Abnormal);
        // What is behind a stop would be lost.
        group.role != Role::Source
            && !group.has_stop()
            && tables.followed_pairs(number).all(is_copied)
            && Self::is_quiet_below(tables, number)
    }

    /// Ends the journals of which that was asked, if it is right still. It may be said again at any time.
    pub(super) async fn end_journals(&self) {
        let wanted = |group: &Arc<Group>| Some((group.clone(), group.closing.wanted_end()?));
        let ending: Vec<(Arc<Group>, u64)> = self.runtime().groups.values().filter_map(wanted).collect();
        for (group, first) in ending {
            if !group.closing.has_begun() && !Self::may_begin_anew(&self.store.tables(), &group) {
                group.closing.take_back_end();
                continue;
            }
            self.end_journal(&group, first).await;
        }
    }

    async fn end_journal(&self, group: &Arc<Group>, first: u64) {
        let number = GroupNumber(group.number);
        group.close().await;
        let what = format!("group {}: the journal begins anew at update {first}", group.name);
        let restored = group.whole_number().map(|number| UpdateNumber(number.get()));
        let identity = self.new_identity();
        let recorded = self.store.change(&Who::Array, what, |tables| {
            tables.stop_images(number, restored);
            tables.tell_if_stopped(number, identity);
            if let Some(row) = tables.groups.edit(&number) {
                row.segments.clear();
                row.resume = None;
            }
            Ok(())
        });
        if let Err(error) = recorded {
            tracing::error!(group = %group.name, %error, "the end of its journal cannot be recorded");
        }
        let tables = self.store.tables();
        for pair in tables.pairs_of_group(number) {
            let Some(volume) = super::groups::own_volume(&tables, pair) else { continue };
            if let Err(error) = self.disk.set_gate(VolumeId(volume), None) {
                tracing::warn!(volume, %error, "the gate of a volume cannot be taken away");
            }
        }
        let mut runtime = self.runtime();
        runtime.groups.remove(&group.number);
        runtime.journal_begins.remove(&group.number);
    }
}
