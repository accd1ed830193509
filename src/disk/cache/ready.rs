//! Preparing a write without waiting: the hot path of whole pages.

use super::DiskAdapter;
use super::write::Prepared;
use crate::disk::space::map::VolumeId;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl DiskAdapter {
    /// [`prepare`](Self::prepare) for a range of whole pages, if nothing has to be waited for: `None` says to call
    /// that one instead, which also names the error if there is one.
    #[must_use]
    pub fn try_prepare(&self, volume: VolumeId, offset_bytes: u64, length_bytes: u64) -> Option<Prepared> {
        let volume = self.0.volume(volume).ok()?;
        let span = volume.span(offset_bytes, length_bytes).ok()?;
        let whole =
            span.length > 0 && !span.is_partial(span.first_page()) && !span.is_partial(span.end_page() - 1);
        let inner = &self.0;
        let zero = inner.totals.zero.load(Ordering::Acquire);
        let written = inner.totals.dirty.load(Ordering::Acquire).saturating_sub(zero);
        let room = zero < inner.settings.zero_pages_max
            && written < super::write::DIRTY_PER_SLOT_MAX * inner.pool.limit();
        let fine = inner.check_trouble(&volume).is_ok() && inner.check_space(&volume, span).is_ok();
        (whole && room && fine).then(|| Prepared::of_whole_pages(Arc::clone(inner), volume, span))
    }
}
