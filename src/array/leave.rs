//! How long a takeover waits before hosts are let in that see the volumes of the lost primary as the same (decision 25; the other side of
//! `copy/synchronous/leave.rs`).

use super::Array;
use crate::clock::MonotonicNs;
use crate::volume::group::GroupRecord;
use crate::volume::table::Tables;
use std::sync::Arc;
use std::time::Duration;

/// Whether hosts may still be served at the primary of a group that is being taken over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Leave {
    /// The primary has shut them out, durably.
    GivenUp,
    /// Nothing has been taken from it since then, so that it has no leave for longer than the group's limit.
    NotRenewedSince(MonotonicNs),
}

/// How long a takeover of the group waits at most.
pub(super) fn wait_ms(record: &GroupRecord) -> u64 {
    u64::try_from(limit(record).as_millis()).unwrap_or(u64::MAX)
}

fn limit(record: &GroupRecord) -> Duration {
    record.settings.fence_wait.max(super::synchronous::LIMIT_MIN)
}

impl Array {
    /// Whether no host is served at the primary of the group any more. If that is a matter of time only, the owner is woken when it
    /// is over. To be called once nothing is taken from the primary.
    pub(super) fn leave_is_over(self: &Arc<Self>, tables: &Tables, record: &GroupRecord) -> bool {
        if !tables.followed_pairs(record.number).any(|pair| pair.shared.is_some()) {
            return true;
        }
        let now = self.env.clock.now();
        let mut runtime = self.runtime();
        let is_new = !runtime.leaves.contains_key(&record.number.0);
        let leave = *runtime.leaves.entry(record.number.0).or_insert(Leave::NotRenewedSince(now));
        drop(runtime);
        let Leave::NotRenewedSince(since) = leave else { return true };
        let left = limit(record).saturating_sub(now.since(since));
        if is_new && !left.is_zero() {
            let (array, clock) = (Arc::downgrade(self), self.env.clock.clone());
            self.spawn(async move {
                clock.sleep(left).await;
                if let Some(array) = array.upgrade() {
                    array.wake();
                }
            });
        }
        left.is_zero()
    }
}
