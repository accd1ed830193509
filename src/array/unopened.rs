//! A primary whose hosts wait for another array, while its group is not at work here: its journal has failed and was left, and the array was
//! started since (promise K1, decision 20).
//!
//! # What it guarantees
//! * Nobody is answered alone before the control store says that the group is apart; until then its hosts are refused.
//! * That comes to be said if an operator wants it, if what hosts waited for was taken away, or if the fence is `never`; and not before half of the group's
//!   limit is over since the group was first seen without work: nobody has given the other array a yes since then, so it does not show itself as synchronised any more.
//!
//! A group that is at work decides that itself (`copy/synchronous`), also when its journal has failed. How it is proved: tests in
//! `tests/sim/synchronous_failures.rs`.

use super::Array;
use super::groups::own_volume;
use super::marks::Marks;
use super::synchronous::choice;
use crate::copy::suspend::MarkStore;
use crate::copy::synchronous::Over;
use crate::io::volume::VolumeRole;
use crate::volume::group::{GroupRecord, GroupRole, GroupState};
use crate::volume::kind::Fence;
use crate::volume::table::Tables;
use std::sync::Arc;
use std::time::Duration;

impl Array {
    /// Hosts of such groups are shut out, and let in again. To be called when all groups that can be opened are.
    pub(super) fn look_at_unopened(self: &Arc<Self>) {
        let tables = self.store.tables();
        for record in tables.groups.iter() {
            let number = record.number.0;
            if !is_left(record) || self.runtime().groups.contains_key(&number) {
                self.runtime().unopened.remove(&number);
                continue;
            }
            if record.is_together {
                self.shut_unopened(&tables, record);
            } else if self.runtime().unopened.remove(&number).is_some() {
                self.set_roles(&tables, record, &VolumeRole::Plain);
            }
        }
    }

    fn shut_unopened(self: &Arc<Self>, tables: &Tables, record: &GroupRecord) {
        self.set_roles(tables, record, &VolumeRole::Waiting);
        let now = self.env.clock.now();
        let lease = choice(tables, record).map_or(Duration::ZERO, |choice| choice.limit) / 2;
        let since = self.runtime().unopened.get(&record.number.0).copied();
        let Some(since) = since else {
            self.runtime().unopened.insert(record.number.0, now);
            self.wake_after(lease);
            return;
        };
        let Some(why) = may_go_alone(tables, record) else { return };
        let left = lease.saturating_sub(now.since(since));
        if !left.is_zero() {
            self.wake_after(left); // The operator may have said it, or changed the limit, in the middle.
            return;
        }
        tracing::warn!(group = %record.name, why, "hosts are answered alone from here on");
        match Marks(self.store.clone()).note_together(record.number.0, Err(why)) {
            Ok(()) => self.wake(),
            Err(error) => {
                tracing::error!(group = %record.name, error, "that it is apart cannot be recorded");
                self.wake_after(AGAIN);
            }
        }
    }

    fn set_roles(&self, tables: &Tables, record: &GroupRecord, role: &VolumeRole) {
        let runtime = self.runtime();
        let own = tables.pairs_of_group(record.number).filter_map(|pair| own_volume(tables, pair));
        for volume in own.filter_map(|number| runtime.volumes.get(&number)) {
            volume.set_role(role.clone());
        }
    }

    fn wake_after(self: &Arc<Self>, pause: Duration) {
        let (array, clock) = (Arc::downgrade(self), self.env.clock.clone());
        self.spawn(async move {
            clock.sleep(pause).await;
            if let Some(array) = array.upgrade() {
                array.wake();
            }
        });
    }
}

/// Whether it is a primary that hosts may be let in to, without a journal that anybody could open.
fn is_left(record: &GroupRecord) -> bool {
    let is_primary = record.role == GroupRole::Primary && !record.is_shut();
    is_primary && record.state == GroupState::Abnormal && record.segments.is_empty()
}

/// What the volumes of a group are whose journal was just left: whoever looks at those that are not at work lets hosts in.
pub(super) fn role_when_left(record: &GroupRecord) -> VolumeRole {
    if record.is_together { VolumeRole::Waiting } else { VolumeRole::Plain }
}

/// Why hosts may be answered without the other array; none: they may not.
fn may_go_alone(tables: &Tables, record: &GroupRecord) -> Option<&'static str> {
    if record.goes_alone {
        return Some("the operator lets hosts go on alone");
    }
    if choice(tables, record).is_none_or(|choice| choice.over == Over::Nothing) {
        return Some("what hosts waited for was taken away");
    }
    (record.settings.fence == Fence::Never).then_some("the journal here has failed")
}

/// Between two attempts to record it.
const AGAIN: Duration = Duration::from_secs(2);
