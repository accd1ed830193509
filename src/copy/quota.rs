//! How much hosts may write to the clones of a drill (promise O7, decision 26).
//!
//! What a clone costs is the extents that are rewritten, in it or in the volume that it is of. Of the first its hosts are the
//! cause, and only those are counted here: an extent counts from the first write into it on, once, whatever is written to it
//! later. Zeroing whole extents needs no room and counts nothing. The clones of a drill share one allowance.
//!
//! **What it guarantees.** An extent is counted durably, in the control store, before the first change of it becomes
//! visible; so the allowance is what it was behind a restart too. A change that would need more is refused whole, and nothing of
//! it is visible. Who writes elsewhere is never looked at.
//!
//! **What it costs.** One transaction of the control store for the first write to an extent; those that come together share one.

use super::change::{Change, Content, Part};
use super::marked::SvolMarks;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the clones of a drill may still take.
#[derive(Debug)]
pub struct Allowance {
    limit_bytes: u64,
    used_bytes: Mutex<u64>,
    /// Something was refused.
    refused: AtomicBool,
}

impl Allowance {
    /// Of so much, so much is used.
    pub(crate) fn new(limit_bytes: u64, used_bytes: u64) -> Arc<Self> {
        let used_bytes = Mutex::new(used_bytes);
        Arc::new(Self { limit_bytes, used_bytes, refused: AtomicBool::new(false) })
    }

    /// How much is used, in bytes of extents.
    pub(crate) fn used_bytes(&self) -> u64 {
        *self.lock()
    }

    /// Whether hosts were refused a write because of it since the array was started, or the next would be.
    pub(crate) fn is_used_up(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
            || self.used_bytes().saturating_add(EXTENT_BYTES) > self.limit_bytes
    }

    fn left_bytes(&self) -> u64 {
        self.limit_bytes.saturating_sub(*self.lock())
    }

    /// Takes so much; false, and nothing is taken, if that is more than is left.
    fn take(&self, bytes: u64) -> bool {
        let mut used = self.lock();
        let wanted = used.saturating_add(bytes);
        if wanted > self.limit_bytes {
            return false;
        }
        *used = wanted;
        true
    }

    fn refuse(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.used_bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a change is not admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotAdmitted {
    /// The allowance does not suffice.
    UsedUp,
    /// It cannot be counted, or the drill has ended.
    Ended(String),
}

/// The count of one clone.
pub struct Quota {
    counted: Arc<SvolMarks>,
    allowance: Arc<Allowance>,
}

impl Quota {
    /// A clone whose counted extents are marked in `counted`, and in `allowance` as used.
    pub(crate) fn new(counted: Arc<SvolMarks>, allowance: Arc<Allowance>) -> Arc<Self> {
        Arc::new(Self { counted, allowance })
    }

    /// Whether everything that the change costs is counted durably: it may become visible.
    pub(crate) fn covers(&self, change: &Change) -> bool {
        change.parts.iter().flat_map(costs).all(|(start, length)| self.counted.is_durable(start, length))
    }

    /// Counts what the change costs; when this returns that is durable.
    ///
    /// # Errors
    /// It may not, or cannot.
    pub(crate) async fn admit(&self, change: &Change) -> Result<(), NotAdmitted> {
        let runs: Vec<(u64, u64)> = change.parts.iter().flat_map(costs).collect();
        let left_bytes = self.allowance.left_bytes();
        if !self.counted.claim(&runs, EXTENT_BYTES, left_bytes, |bytes| self.allowance.take(bytes)) {
            self.allowance.refuse();
            return Err(NotAdmitted::UsedUp);
        }
        self.counted.mark_runs(&runs).await.map_err(NotAdmitted::Ended)
    }

    /// What the clones together may still take.
    pub(crate) fn allowance(&self) -> &Arc<Allowance> {
        &self.allowance
    }

    /// Nothing is admitted any more.
    pub(crate) fn end(&self) {
        drop(self.counted.end());
    }
}

/// The whole extents, at most two runs of them, that a part may need room for.
fn costs(part: &Part) -> impl Iterator<Item = (u64, u64)> {
    let end = part.offset_bytes.saturating_add(part.length_bytes);
    let first = part.offset_bytes / EXTENT_BYTES * EXTENT_BYTES;
    let past = end.checked_next_multiple_of(EXTENT_BYTES).unwrap_or(u64::MAX);
    let runs = match part.content {
        _ if part.length_bytes == 0 => [None, None],
        Content::Data(_) | Content::Pattern { .. } => [Some((first, past - first)), None],
        // Pages are zeroed in the extents at its two ends; whole ones are given up.
        Content::Zero => {
            let head = (first < part.offset_bytes).then_some((first, EXTENT_BYTES));
            let tail = (end < past).then(|| (past - EXTENT_BYTES, EXTENT_BYTES));
            [head, tail.filter(|tail| Some(*tail) != head)]
        }
    };
    runs.into_iter().flatten()
}

/// Bytes of an extent, which the disk adapter gives and moves whole.
pub(crate) const EXTENT_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Entropy, SeededEntropy};
    use std::collections::BTreeSet;

    fn part(offset_bytes: u64, length_bytes: u64, content: Content) -> Part {
        Part { offset_bytes, length_bytes, content }
    }

    /// The slow twin: extent by extent, page by page.
    fn needs_room(part: &Part) -> BTreeSet<u64> {
        let end = part.offset_bytes + part.length_bytes;
        let touched = |at: &u64| part.offset_bytes < at + EXTENT_BYTES && *at < end;
        let is_whole = |at: &u64| part.offset_bytes <= *at && at + EXTENT_BYTES <= end;
        let is_zero = matches!(part.content, Content::Zero);
        let extents = (0..16).map(|extent| extent * EXTENT_BYTES);
        extents.filter(touched).filter(|at| !(is_zero && is_whole(at))).collect()
    }

    #[test]
    fn what_needs_room_is_counted_by_extents_and_zeroing_whole_ones_is_not() {
        let random = SeededEntropy::new(7);
        for round in 0..4_000 {
            let mut bytes = [0; 3];
            random.fill(&mut bytes);
            let [first, length, kind] = bytes.map(u64::from);
            let (first, length) = (first % 64 * (EXTENT_BYTES / 8), length % 48 * (EXTENT_BYTES / 8));
            let content = if kind % 2 == 0 { Content::Zero } else { Content::Data(Vec::new()) };
            let part = part(first, length, content);
            let mut found = BTreeSet::new();
            for (start, length) in costs(&part) {
                let new = (start..start + length).step_by(usize::try_from(EXTENT_BYTES).unwrap());
                new.for_each(|at| assert!(found.insert(at), "{round}: twice"));
            }
            let wanted = if length == 0 { BTreeSet::new() } else { needs_room(&part) };
            assert_eq!(found, wanted, "{round}: {part:?}");
        }
    }

    #[test]
    fn an_allowance_is_taken_whole_or_not_at_all() {
        let allowance = Allowance::new(5 * EXTENT_BYTES, 2 * EXTENT_BYTES);
        assert!(allowance.take(2 * EXTENT_BYTES) && !allowance.is_used_up());
        assert!(!allowance.take(2 * EXTENT_BYTES), "one is left");
        assert_eq!(allowance.used_bytes(), 4 * EXTENT_BYTES);
        allowance.refuse();
        assert!(allowance.is_used_up(), "somebody was refused");
        assert!(allowance.take(EXTENT_BYTES));
        assert!(!allowance.take(1));
    }
}
