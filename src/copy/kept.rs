//! The journal's updates that are still in memory: readers are answered from here, without a read of the journal volume.
//!
//! The numbers are contiguous. What is not durable yet is never dropped: the journal writer takes it from here.

use super::change::Payload;
use crate::disk::slot::SLOT_BYTES;
use holdfast_journal::{Update, UpdateNumber};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The memory for updates that readers may still ask for (J14): a part of the array's, shared equally by its groups.
#[derive(Debug)]
pub struct JournalCache {
    bytes: usize,
    groups: AtomicUsize,
}

impl JournalCache {
    /// So many bytes for all groups together.
    #[must_use]
    pub fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { bytes, groups: AtomicUsize::new(0) })
    }

    /// A group comes to share it.
    pub(crate) fn share(self: &Arc<Self>) -> CacheShare {
        self.groups.fetch_add(1, Ordering::Relaxed);
        CacheShare(self.clone())
    }
}

/// A group's part of it, for as long as this lives.
#[derive(Debug)]
pub(crate) struct CacheShare(Arc<JournalCache>);

impl CacheShare {
    /// How many bytes that is now.
    pub(crate) fn bytes(&self) -> usize {
        self.0.bytes / self.0.groups.load(Ordering::Relaxed).max(1)
    }
}

impl Drop for CacheShare {
    fn drop(&mut self) {
        self.0.groups.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Updates held in memory: everything that is not durable yet, and the newest durable ones that somebody may still ask
/// for, as long as the budget lasts.
pub(crate) struct Kept {
    first: u64,
    updates: VecDeque<KeptUpdate>,
    /// What they cost in memory.
    bytes: usize,
    /// Write data of all updates ever pushed.
    pushed_bytes: u64,
}

/// One of them.
#[derive(Clone)]
pub(crate) struct KeptUpdate {
    pub(crate) update: Arc<Update>,
    pub(crate) payload: Payload,
    /// Write data of all updates before it.
    bytes_before: u64,
}

impl Kept {
    /// Nothing is kept yet; the first to come is `first`.
    pub(crate) fn new(first: UpdateNumber) -> Self {
        Self { first: first.get(), updates: VecDeque::new(), bytes: 0, pushed_bytes: 0 }
    }

    /// Keeps the update that follows the newest one.
    pub(crate) fn push(&mut self, update: Arc<Update>, payload: Payload) {
        debug_assert_eq!(self.first + self.updates.len() as u64, update.number.get());
        self.bytes += cost(&payload);
        let bytes_before = self.pushed_bytes;
        self.pushed_bytes += u64::from(payload.bytes);
        self.updates.push_back(KeptUpdate { update, payload, bytes_before });
    }

    /// The update with this number, if it is in memory.
    pub(crate) fn get(&self, number: UpdateNumber) -> Option<&KeptUpdate> {
        let index = number.get().checked_sub(self.first)?;
        self.updates.get(usize::try_from(index).ok()?)
    }

    /// All of them, oldest first.
    pub(crate) fn all(&self) -> Vec<KeptUpdate> {
        self.updates.iter().cloned().collect()
    }

    /// Write data of the updates from `number` on.
    pub(crate) fn bytes_from(&self, number: UpdateNumber) -> u64 {
        let skip = usize::try_from(number.get().saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.updates.get(skip).map_or(0, |kept| self.pushed_bytes - kept.bytes_before)
    }

    /// Write data of all updates ever pushed.
    pub(crate) fn pushed_bytes(&self) -> u64 {
        self.pushed_bytes
    }

    /// What all of it costs in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes out the durable updates that nobody will ask for (up to `unneeded`), and of the others the oldest until the
    /// budget is kept. What comes out is for the caller to drop, outside of the lock: that gives pages back.
    ///
    /// Pages that are given back soon are used again while the processor still has them; that alone is a third of
    /// the time of a write whose reader keeps up.
    #[must_use]
    pub(crate) fn trim(
        &mut self,
        durable: UpdateNumber,
        unneeded: UpdateNumber,
        budget_bytes: usize,
    ) -> Vec<KeptUpdate> {
        let mut out = Vec::new();
        while self.first <= durable.get() && (self.first <= unneeded.get() || self.bytes > budget_bytes) {
            let Some(oldest) = self.updates.pop_front() else { break };
            self.bytes -= cost(&oldest.payload);
            self.first += 1;
            out.push(oldest);
        }
        out
    }
}

/// What an update costs in memory, its own bookkeeping included.
fn cost(payload: &Payload) -> usize {
    payload.slots.len() * SLOT_BYTES + 256
}
