//! The size of a volume, which grows while hosts use it (decision 18).

use super::volume::Volume;
use std::sync::atomic::Ordering;

impl Volume {
    /// Its capacity now.
    #[must_use]
    pub fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes.load(Ordering::Acquire)
    }

    /// It is larger from now on, and its parity group has the room; it never shrinks.
    pub(crate) fn grow(&self, capacity_bytes: u64) {
        self.capacity_bytes.fetch_max(capacity_bytes, Ordering::AcqRel);
    }
}
