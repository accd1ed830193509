//! Writing into the cache: everything that may wait or fail comes first ([`DiskAdapter::prepare`]), then the write
//! becomes visible in one synchronous step that cannot fail.

use super::page::{Content, Key, State, Version};
use super::pieces::Span;
use super::read::{extents_of_pages, in_extent, written_in};
use super::volume::Volume;
use super::{DiskAdapter, Inner};
use crate::disk::VolumeError;
use crate::disk::slot::{Class, SLOT_BYTES, Slot, SlotMut};
use crate::disk::space::map::{VolumeId, VolumeKind};
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A range of a volume that can be written at once: its first and last page, where they are written in part only, are
/// in the cache, stay there, and have memory for their merged copies. Dropping it gives everything back.
pub struct Prepared {
    inner: Arc<Inner>,
    volume: Arc<Volume>,
    span: Span,
    pinned: Vec<u64>,
    copies: Vec<SlotMut>,
}

impl Prepared {
    pub(super) fn of_whole_pages(inner: Arc<Inner>, volume: Arc<Volume>, span: Span) -> Self {
        Self { inner, volume, span, pinned: Vec::new(), copies: Vec::new() }
    }

    /// First byte.
    #[must_use]
    pub fn offset_bytes(&self) -> u64 {
        self.span.offset_bytes
    }

    /// Bytes.
    #[must_use]
    pub fn length_bytes(&self) -> u64 {
        self.span.length
    }

    /// Whether its volume is there no more, or is another one under its number by now: what is applied goes nowhere.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.volume.is_gone()
    }

    /// Slots that [`DiskAdapter::apply`] wants.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.span.pages()
    }
}

impl DiskAdapter {
    /// Makes a range ready to be written. Of a range of whole pages nothing is loaded and no memory is taken. A range
    /// that is not page-aligned takes at most four slots of `class`: call this before taking the slots of the data, or
    /// with a class before theirs, or commands that hold data could wait here for each other.
    ///
    /// Waits while too many pages are dirty or zero ([`CacheSettings::zero_pages_max`](super::CacheSettings)).
    ///
    /// # Errors
    /// No such range; a page cannot be loaded; the parity group is full or in trouble and may take no more.
    pub async fn prepare(
        &self,
        volume: VolumeId,
        offset_bytes: u64,
        length_bytes: u64,
        class: Class,
    ) -> Result<Prepared, VolumeError> {
        let volume = self.0.volume(volume)?;
        let span = volume.span(offset_bytes, length_bytes)?;
        self.0.check_trouble(&volume)?;
        self.0.check_space(&volume, span)?;
        self.0.prepare(volume, span, class).await
    }

    /// The same for [`apply_zero`](Self::apply_zero), which needs no space and so is not refused where there is none.
    ///
    /// # Errors
    /// No such range, or a page cannot be loaded.
    pub async fn prepare_zero(
        &self,
        volume: VolumeId,
        offset_bytes: u64,
        length_bytes: u64,
        class: Class,
    ) -> Result<Prepared, VolumeError> {
        let volume = self.0.volume(volume)?;
        let span = volume.span(offset_bytes, length_bytes)?;
        self.0.prepare(volume, span, class).await
    }

    /// Whether the volume takes writes now; to be asked before memory is taken for one.
    ///
    /// # Errors
    /// Why not: it does not exist, or cannot be destaged and has as many dirty pages as it may have then.
    pub fn check_writable(&self, volume: VolumeId) -> Result<(), VolumeError> {
        let volume = self.0.volume(volume)?;
        self.0.check_trouble(&volume)
    }

    /// Makes a write visible and dirty. `slots` hold the data page-aligned: its first byte lies in the first slot at
    /// the offset's place in its page. Whole pages are taken by handle, the others are merged with what is visible now.
    /// `gate` is the number of the update, zero if it has none.
    ///
    /// # Panics
    /// When the number of slots is not that of the pages.
    pub fn apply(&self, prepared: Prepared, slots: &[Slot], gate: u64) {
        assert_eq!(slots.len(), prepared.pages(), "one slot for each page");
        let first = prepared.span.first_page();
        self.0.apply(prepared, gate, |page| &slots[usize::try_from(page - first).unwrap_or(usize::MAX)]);
    }

    /// Makes the repetition of one page visible and dirty: `page` is what a whole page of the range holds, the
    /// pattern repeated from the page's first byte on. All pages share it.
    pub fn apply_pattern(&self, prepared: Prepared, page: &Slot, gate: u64) {
        self.0.apply(prepared, gate, |_| page);
    }

    /// Makes the range read as zero. Pages that read as zero already cost nothing, whole extents of them neither.
    pub fn apply_zero(&self, mut prepared: Prepared, gate: u64) {
        let volume = Arc::clone(&prepared.volume);
        let span = prepared.span;
        for (extent, pages) in self.0.extents_to_zero(&volume, span) {
            self.0.zero_extent(&volume, extent, pages, gate, &mut prepared);
        }
        self.0.written();
    }
}

impl Inner {
    async fn prepare(
        self: &Arc<Self>,
        volume: Arc<Volume>,
        span: Span,
        class: Class,
    ) -> Result<Prepared, VolumeError> {
        self.wait_room(&volume).await?;
        let mut prepared = Prepared {
            inner: Arc::clone(self),
            volume: Arc::clone(&volume),
            span,
            pinned: Vec::new(),
            copies: Vec::new(),
        };
        let partial = partial_pages(span);
        if partial.is_empty() {
            return Ok(prepared);
        }
        let mut supply = self.pool.take(class, 2 * partial.len()).await;
        prepared.copies = supply.split_off(partial.len());
        for page in partial {
            volume.check_there()?;
            self.pin(&volume, page);
            prepared.pinned.push(page);
            self.fetch(&volume, page..page + 1, class, &mut supply).await?;
        }
        Ok(prepared)
    }

    fn apply<'a>(&self, mut prepared: Prepared, gate: u64, slot_of: impl Fn(u64) -> &'a Slot) {
        let volume = Arc::clone(&prepared.volume);
        let span = prepared.span;
        let since = self.clock.now();
        for (extent, pages) in extents_of_pages(span.first_page()..span.end_page()) {
            let cell = self.cell(volume.id(), extent);
            let mut shard = cell.lock();
            if volume.is_gone() {
                return;
            }
            for page in pages {
                let key = Key { volume: volume.id(), page };
                let data = slot_of(page);
                let content = if span.is_partial(page) {
                    let current = shard.page(key).and_then(|page| page.state.content());
                    Content::Slot(merge(prepared.copy(), current, Some(data), span.within(page)))
                } else {
                    Content::Slot(data.clone())
                };
                shard.write(key, Version { content, gate, since }, &self.totals);
            }
            drop(shard);
            cell.loaded.notify_waiters();
        }
        drop(prepared);
        self.written();
    }

    /// The parts of a range that may hold something else than zeros. A long range is not walked: what is not in the
    /// map has no clean page either.
    fn extents_to_zero(&self, volume: &Volume, span: Span) -> Vec<(u32, Range<u64>)> {
        let pages = span.first_page()..span.end_page();
        let all = extents_of_pages(pages.clone());
        if span.length <= ZERO_WALK_BYTES {
            return all.collect();
        }
        let mut extents: BTreeSet<u32> =
            self.dirty_extents(volume.id(), pages.clone()).into_iter().map(|(extent, _)| extent).collect();
        let first = extents_of_pages(pages.start..pages.start + 1).map(|(extent, _)| extent);
        let last = extents_of_pages(pages.end - 1..pages.end).map(|(extent, _)| extent);
        extents.extend(first.chain(last));
        if let (Some(first), Some(last)) = (extents.first().copied(), extents.last().copied())
            && let Some(map) = volume.space.map().volume(volume.id())
        {
            let held = map.extents.iter_from(first).map(|(extent, _)| extent);
            extents.extend(held.take_while(|extent| *extent <= last));
        }
        let base = |extent: u32| u64::from(extent) * 256;
        extents
            .into_iter()
            .map(|extent| (extent, pages.start.max(base(extent))..pages.end.min(base(extent) + 256)))
            .collect()
    }

    fn zero_extent(
        &self,
        volume: &Volume,
        extent: u32,
        pages: Range<u64>,
        gate: u64,
        prepared: &mut Prepared,
    ) {
        let since = self.clock.now();
        let span = prepared.span;
        let cell = self.cell(volume.id(), extent);
        let mut shard = cell.lock();
        if volume.is_gone() {
            return;
        }
        let (_, on_disk) = written_in(volume, extent);
        for page in pages {
            let key = Key { volume: volume.id(), page };
            let state = shard.page(key).map(|page| &page.state);
            let is_zero = match state {
                None => !on_disk.contains(in_extent(page)),
                Some(state) => matches!(state.content(), Some(Content::Zero)),
            };
            if is_zero {
                continue;
            }
            let content = if span.is_partial(page) {
                let current = state.and_then(State::content);
                Content::Slot(merge(prepared.copy(), current, None, span.within(page)))
            } else {
                Content::Zero
            };
            shard.write(key, Version { content, gate, since }, &self.totals);
        }
        drop(shard);
        cell.loaded.notify_waiters();
    }

    /// Keeps a page in the cache, or a place for it.
    fn pin(&self, volume: &Volume, page: u64) {
        let key = Key { volume: volume.id(), page };
        let mut shard = self.cell_of(key).lock();
        if volume.is_gone() {
            return;
        }
        let zero = shard.page(key).is_none() && {
            let (_, written) = written_in(volume, key.extent());
            !written.contains(key.in_extent())
        };
        shard.change(key, &self.totals, |page| {
            page.pins += 1;
            if zero {
                page.state = State::Clean(Content::Zero);
            }
        });
    }

    fn unpin(&self, volume: &Volume, page: u64) {
        let key = Key { volume: volume.id(), page };
        let mut shard = self.cell_of(key).lock();
        if !volume.is_gone() && shard.page(key).is_some() {
            shard.change(key, &self.totals, |page| page.pins = page.pins.saturating_sub(1));
        }
    }

    pub(super) fn check_trouble(&self, volume: &Volume) -> Result<(), VolumeError> {
        match volume.trouble() {
            Some(trouble) if self.totals.dirty.load(Ordering::Acquire) >= self.trouble_limit() => {
                Err(trouble)
            }
            _ => Ok(()),
        }
    }

    /// Dirty pages in all from which on a volume that cannot be destaged takes no more.
    fn trouble_limit(&self) -> usize {
        self.dirty_limit(self.settings.dirty_low_percent)
    }

    pub(super) fn check_space(&self, volume: &Volume, span: Span) -> Result<(), VolumeError> {
        if volume.spec.kind != VolumeKind::Thin && !volume.may_share() {
            return Ok(());
        }
        let map = volume.space.map();
        if map.has_free() {
            return Ok(());
        }
        let mut extents = extents_of_pages(span.first_page()..span.end_page());
        if extents.all(|(extent, _)| map.has_place(volume.id(), extent)) {
            return Ok(());
        }
        Err(VolumeError::NoSpace { group: volume.space.name().to_owned() })
    }

    /// Waits until the cache may take more entries.
    async fn wait_room(&self, volume: &Volume) -> Result<(), VolumeError> {
        loop {
            volume.check_there()?;
            let progress = self.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            let zero = self.totals.zero.load(Ordering::Acquire);
            let written = self.totals.dirty.load(Ordering::Acquire).saturating_sub(zero);
            if zero < self.settings.zero_pages_max && written < DIRTY_PER_SLOT_MAX * self.pool.limit() {
                return Ok(());
            }
            if let Some(trouble) = volume.trouble() {
                return Err(trouble);
            }
            self.press();
            progress.await;
        }
    }

    /// Something became dirty: whoever destages may have to know.
    fn written(&self) {
        let dirty = self.totals.dirty.load(Ordering::Acquire);
        let idle = self.idle.swap(false, Ordering::SeqCst);
        if idle || dirty > self.dirty_limit(self.settings.dirty_high_percent) {
            self.kick.notify_one();
        }
    }
}

impl Prepared {
    fn copy(&mut self) -> SlotMut {
        self.copies.pop().expect("memory was taken for every partial page")
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Span { offset_bytes, length } = self.span;
        write!(f, "Prepared(volume {}, {length} bytes at {offset_bytes})", self.volume.id().0)
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        for page in &self.pinned {
            self.inner.unpin(&self.volume, *page);
        }
    }
}

/// The pages that the range covers in part: none, one or two.
fn partial_pages(span: Span) -> Vec<u64> {
    if span.length == 0 {
        return Vec::new();
    }
    let (first, last) = (span.first_page(), span.end_page() - 1);
    let mut pages = Vec::new();
    if span.is_partial(first) {
        pages.push(first);
    }
    if last != first && span.is_partial(last) {
        pages.push(last);
    }
    pages
}

/// `current` with some bytes replaced. This is the one copy on the way of a write, and only of pages written in part.
fn merge(
    mut copy: SlotMut,
    current: Option<&Content>,
    data: Option<&Slot>,
    (from, to): (usize, usize),
) -> Slot {
    match current {
        Some(Content::Slot(slot)) => copy.copy_from_slice(&slot[..]),
        Some(Content::Zero) => copy.fill(0),
        None => unreachable!("a pinned page that was prepared has content"),
    }
    match data {
        Some(data) => copy[from..to].copy_from_slice(&data[from..to]),
        None => copy[from..to].fill(0),
    }
    copy.freeze()
}

/// A zero range up to this is walked page by page; a longer one by the extents that hold something.
const ZERO_WALK_BYTES: u64 = 64 << 20;
/// Dirty pages for each slot of the pool at most: pages that share a slot (WRITE SAME) cost only their entry. More
/// writes wait.
pub(super) const DIRTY_PER_SLOT_MAX: usize = 4;
const _: () = assert!(SLOT_BYTES == 4096);
