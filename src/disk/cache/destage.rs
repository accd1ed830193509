//! The way to the units.
//!
//! One *pass* of a volume at a time: it captures dirty pages in the order of their extents, so that full stripes form,
//! waits until their gates are open, and writes them: data, flush, map log, flush ([`crate::disk::space`]). Only then are
//! they clean. A page that is overwritten meanwhile stays dirty with the newer content. Capturing before waiting for the
//! gate keeps a page that is overwritten all the time from never being written.
//!
//! A pass writes in batches, and gives way between two of them to who wants to hold the destage of its volume back
//! ([`super::snapshot`]). An extent that others have too moves, 1 MiB at a time, so a batch has few of those.
//!
//! Who asks for a destage while a pass is under way is served by the next one, together with all others who asked:
//! group commit. A pass runs as a task of its own: who asked may go away, a transfer may not be left alone, because its
//! old bytes could reach a unit after newer ones.

use super::page::{Content, DirtyExtent, Key, State, Version};
use super::read::{extents_of_pages, in_extent};
use super::volume::{Volume, lock};
use super::{DiskAdapter, Inner};
use crate::clock::MonotonicNs;
use crate::disk::VolumeError;
use crate::disk::raid::Run;
use crate::disk::slot::{Class, SLOT_BYTES, SlotMut};
use crate::disk::space::bits::PageBits;
use crate::disk::space::map::{Extent, MapRefusal, Place, VolumeId};
use futures_util::future::join_all;
use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use tokio::sync::OwnedMutexGuard;

/// Somebody waits until these pages are durable.
#[derive(Debug)]
pub(super) struct Request {
    pages: Range<u64>,
    result: OnceLock<Result<(), VolumeError>>,
}

impl DiskAdapter {
    /// Makes durable everything in these volumes that is dirty at the call, or what has overwritten it. Waits for gates.
    ///
    /// # Errors
    /// The first error of a volume; its pages stay dirty, those of the others are durable.
    pub async fn destage(&self, volumes: &[VolumeId]) -> Result<(), VolumeError> {
        let all = join_all(volumes.iter().map(|volume| self.destage_range(*volume, 0, u64::MAX))).await;
        all.into_iter().collect()
    }

    /// The same for a range of one volume; `u64::MAX` is *to the end*.
    ///
    /// # Errors
    /// The pages could not be made durable and stay dirty.
    pub async fn destage_range(
        &self,
        volume: VolumeId,
        offset_bytes: u64,
        length_bytes: u64,
    ) -> Result<(), VolumeError> {
        if self.is_virtual(volume) {
            return Ok(());
        }
        let volume = self.0.volume(volume)?;
        let rest = volume.size_bytes().saturating_sub(offset_bytes);
        let length = if length_bytes == u64::MAX { rest } else { length_bytes };
        let span = volume.span(offset_bytes, length)?;
        let pages = span.first_page()..span.end_page();
        let request = Arc::new(Request { pages, result: OnceLock::new() });
        lock(&volume.requests).push(Arc::clone(&request));
        let turn = Arc::clone(&volume.pass).lock_owned().await;
        if let Some(result) = request.result.get() {
            return result.clone();
        }
        volume.check_there()?;
        let inner = Arc::clone(&self.0);
        shielded(async move { inner.serve_requests(&volume, request, turn).await }).await
    }
}

/// Runs to its end even when the caller goes away.
pub(super) async fn shielded<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down: nobody will look at an answer.
            Err(_) => std::future::pending().await,
        },
    }
}

/// What a sweep did.
#[derive(Default)]
pub(super) struct Swept {
    pub(super) pages: usize,
    pub(super) failed: bool,
    /// A page that has to wait for its gate.
    pub(super) closed: Option<(Arc<Volume>, u64)>,
}

/// Whether a pass waits for gates.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Gates {
    Wait,
    Skip,
}

impl Inner {
    async fn serve_requests(
        &self,
        volume: &Volume,
        first: Arc<Request>,
        mut turn: OwnedMutexGuard<()>,
    ) -> Result<(), VolumeError> {
        // Whoever has asked until here is served. The first one's request may be with an earlier leader's list, if that
        // one went away before it began.
        let mut requests = std::mem::take(&mut *lock(&volume.requests));
        requests.push(first);
        let mut targets = BTreeMap::new();
        for request in &requests {
            for (extent, pages) in self.dirty_extents(volume.id(), request.pages.clone()) {
                let wanted: &mut PageBits = targets.entry(extent).or_default();
                pages.iter().for_each(|page| _ = wanted.insert(page));
            }
        }
        let (mut swept, mut result) = (Swept::default(), Ok(()));
        let mut targets = targets.into_iter().peekable();
        loop {
            let passed = self.pass_until_wanted(volume, &mut targets, Gates::Wait, &mut swept).await;
            let goes_on = matches!(passed, Ok(()) | Err(VolumeError::NoSpace { .. }));
            result = result.and(passed);
            if !goes_on || targets.peek().is_none() {
                break;
            }
            drop(turn);
            turn = Arc::clone(&volume.pass).lock_owned().await;
            if let Err(gone) = volume.check_there() {
                result = Err(gone);
                break;
            }
        }
        for request in requests {
            let _ = request.result.set(result.clone());
        }
        result
    }

    /// Dirty pages of a range of pages, by extent, in order.
    pub(super) fn dirty_extents(&self, volume: VolumeId, pages: Range<u64>) -> Vec<(u32, PageBits)> {
        let mut found = Vec::new();
        let few = pages.end.saturating_sub(pages.start) <= FEW_EXTENTS * 256;
        if few {
            for (extent, part) in extents_of_pages(pages) {
                let shard = self.cell(volume, extent).lock();
                if let Some(dirty) = shard.dirty.get(&(volume, extent)) {
                    found.push((extent, within(dirty, &part)));
                }
            }
        } else {
            let first = u32::try_from(pages.start / 256).unwrap_or(u32::MAX);
            let last = u32::try_from((pages.end - 1) / 256).unwrap_or(u32::MAX);
            for cell in &self.shards {
                let shard = cell.lock();
                for (&(_, extent), dirty) in shard.dirty.range((volume, first)..=(volume, last)) {
                    let base = u64::from(extent) * 256;
                    found.push((extent, within(dirty, &(pages.start.max(base)..pages.end.min(base + 256)))));
                }
            }
            found.sort_unstable_by_key(|(extent, _)| *extent);
        }
        found.retain(|(_, pages)| !pages.is_empty());
        found
    }

    /// Destages the pages, in batches, until somebody wants to hold that back: what is left then is in `targets`. The turn of the
    /// volume must be held.
    pub(super) async fn pass_until_wanted(
        &self,
        volume: &Volume,
        targets: &mut Peekable<impl Iterator<Item = (u32, PageBits)>>,
        gates: Gates,
        swept: &mut Swept,
    ) -> Result<(), VolumeError> {
        let (mut outcome, mut is_first) = (Ok(()), true);
        while targets.peek().is_some() && (is_first || !volume.is_wanted()) {
            is_first = false;
            let mut batch =
                Capture { inner: self, volume, pages: Vec::new(), moves: BTreeMap::new(), closed: None };
            let mut moving = 0;
            while batch.pages.len() < self.settings.pass_pages
                && moving < MOVES_AT_ONCE
                && let Some((extent, pages)) = targets.next()
            {
                moving += usize::from(volume.will_move(extent));
                batch.capture(extent, &pages, gates);
            }
            let count = batch.pages.len();
            let closed = batch.closed;
            let written = self.write_out(volume, batch).await;
            // Let those see it who wait for memory or room, whatever became of it.
            self.pool.wake();
            self.progress.notify_waiters();
            if let Err(error) = written {
                swept.failed = true;
                let full = matches!(error, VolumeError::NoSpace { .. });
                outcome = outcome.and(Err(error));
                // Where one extent found no room, others may have theirs.
                if !full {
                    break;
                }
            } else {
                swept.pages += count;
            }
            if let Some(number) = closed {
                swept.closed = swept.closed.take().or(self.volume(volume.id()).ok().map(|v| (v, number)));
            }
        }
        if outcome.is_err() {
            let pause = u64::try_from(self.settings.retry_pause.as_nanos()).unwrap_or(u64::MAX);
            volume.pause_until(MonotonicNs(self.clock.now().0.saturating_add(pause)));
        }
        // A pass that found nothing to write has proved nothing.
        if outcome.is_err() || swept.pages > 0 {
            volume.set_trouble(outcome.clone().err());
        }
        outcome
    }

    /// Data, flush, map, flush; then the pages are clean. On any error those that are not stay dirty.
    async fn write_out(&self, volume: &Volume, mut batch: Capture<'_>) -> Result<(), VolumeError> {
        if batch.pages.is_empty() {
            return Ok(());
        }
        let number = batch.pages.iter().map(|page| page.gate).max().unwrap_or(0);
        volume.wait_open(number).await;
        volume.check_there()?;
        let placed = batch.place();
        batch.copy_moving().await?;
        let runs = batch.runs();
        let space = &volume.space;
        if !runs.is_empty() {
            space.write(runs).await?;
            // The crash that would hurt without it: the map says that pages are written whose bytes are not there.
            space.flush().await?;
        }
        if batch.mark() {
            space.commit().await?;
        }
        batch.finish();
        placed
    }
}

fn within(dirty: &DirtyExtent, part: &Range<u64>) -> PageBits {
    if part.end - part.start == 256 {
        return dirty.pages;
    }
    let mut pages = PageBits::default();
    let wanted = part.clone().map(in_extent).filter(|page| dirty.pages.contains(*page));
    wanted.for_each(|page| _ = pages.insert(page));
    pages
}

/// A page on its way.
struct Captured {
    page: u64,
    content: Content,
    gate: u64,
    /// Where it goes; `None` for zeros and where there is no room.
    at: Option<u64>,
}

/// Pages on their way. Those that did not arrive when it is dropped are dirty again.
struct Capture<'a> {
    inner: &'a Inner,
    volume: &'a Volume,
    pages: Vec<Captured>,
    /// Extents that others have too, and so move: what they are until then, and where they go.
    moves: BTreeMap<u32, (Extent, u32)>,
    closed: Option<u64>,
}

impl Capture<'_> {
    fn capture(&mut self, extent: u32, wanted: &PageBits, gates: Gates) {
        let mut shard = self.inner.cell(self.volume.id(), extent).lock();
        for page in wanted.iter() {
            let page = u64::from(extent) * 256 + u64::from(page);
            let key = Key { volume: self.volume.id(), page };
            let Some(State::Dirty(version)) = shard.page(key).map(|page| &page.state) else { continue };
            if gates == Gates::Skip && !self.volume.is_open(version.gate) {
                self.closed = Some(self.closed.map_or(version.gate, |closed| closed.min(version.gate)));
                continue;
            }
            let (content, gate, writing) = (version.content.clone(), version.gate, version.clone());
            shard.change(key, &self.inner.totals, |page| {
                page.state = State::Destaging { writing, newer: None }
            });
            self.pages.push(Captured { page, content, gate, at: None });
        }
    }

    /// Finds a place for every page that is not zero. Pages for which there is none are let go.
    fn place(&mut self) -> Result<(), VolumeError> {
        let (volume, mut result) = (self.volume, Ok(()));
        let mut map = volume.space.map_mut();
        let mut last: Option<(u32, Result<Place, MapRefusal>)> = None;
        for captured in &mut self.pages {
            if matches!(captured.content, Content::Zero) {
                continue;
            }
            let extent = Key { volume: volume.id(), page: captured.page }.extent();
            let place = match last {
                Some((same, place)) if same == extent => place,
                _ => map.place(volume.id(), extent),
            };
            last = Some((extent, place));
            match place {
                Ok(place) => {
                    let page = u64::from(in_extent(captured.page));
                    captured.at = Some(volume.space.page_bytes(place.physical, page));
                    if let Some(from) = place.from {
                        self.moves.insert(extent, (from, place.physical));
                    }
                }
                Err(refusal) => result = Err(volume.space.refusal(volume.id(), refusal)),
            }
        }
        drop(map);
        if result.is_err() {
            let (kept, refused) = std::mem::take(&mut self.pages)
                .into_iter()
                .partition(|captured| captured.at.is_some() || matches!(captured.content, Content::Zero));
            self.pages = kept;
            let refused: Vec<_> = refused;
            self.give_up(&refused);
        }
        result
    }

    /// What is written, in long runs.
    fn runs(&self) -> Vec<Run> {
        let mut pages: Vec<_> = self
            .pages
            .iter()
            .filter_map(|captured| match (&captured.content, captured.at) {
                (Content::Slot(slot), Some(at)) => Some((at, slot.clone())),
                _ => None,
            })
            .collect();
        pages.sort_unstable_by_key(|(at, _)| *at);
        let mut runs: Vec<Run> = Vec::new();
        for (at, slot) in pages {
            match runs.last_mut() {
                Some(run) if run.offset_bytes + (run.slots.len() * SLOT_BYTES) as u64 == at => {
                    run.slots.push(slot)
                }
                _ => runs.push(Run { offset_bytes: at, slots: vec![slot] }),
            }
        }
        runs
    }

    /// The pages of each extent: written, zero.
    fn by_extent(&self) -> Vec<(u32, PageBits, PageBits)> {
        let mut extents: BTreeMap<u32, (PageBits, PageBits)> = BTreeMap::new();
        for captured in &self.pages {
            let key = Key { volume: self.volume.id(), page: captured.page };
            let (written, zero) = extents.entry(key.extent()).or_default();
            let set = if captured.at.is_some() { written } else { zero };
            set.insert(key.in_extent());
        }
        extents.into_iter().map(|(extent, (written, zero))| (extent, written, zero)).collect()
    }

    /// Copies the pages that stay as they are to the places to which their extents move. The old places are written by
    /// nobody while they are shared, and only under this volume's turn when they are not any more.
    async fn copy_moving(&self) -> Result<(), VolumeError> {
        let captured = self.by_extent();
        let copies = self.moves.iter().map(|(extent, (from, to))| {
            let mut stay = from.written;
            if let Some((_, written, zero)) = captured.iter().find(|(same, ..)| same == extent) {
                stay.remove_all(written);
                stay.remove_all(zero);
            }
            self.copy_pages(from.physical, *to, stay)
        });
        // Side by side, and all of them to their end: no transfer is left alone.
        join_all(copies).await.into_iter().collect()
    }

    /// Copies pages of one extent to another one; small gaps between them as well, which is cheaper than to leave them out. What lies in a gap is
    /// overwritten behind this, or nobody believes it.
    async fn copy_pages(&self, from: u32, to: u32, pages: PageBits) -> Result<(), VolumeError> {
        let space = &self.volume.space;
        let mut next = pages.run_from(0);
        while let Some(mut run) = next {
            while let Some(more) = pages.run_from(run.end).filter(|more| more.start - run.end <= GAP_PAGES) {
                run.end = more.end;
            }
            let (slots, _alone) = self.inner.copy_memory(run.len()).await;
            let count = slots.len();
            let (start, end) = (u64::from(run.start), usize::from(run.start) + count);
            let slots = space.read(space.page_bytes(from, start), slots).await?;
            let slots = slots.into_iter().map(SlotMut::freeze).collect();
            space.write(vec![Run { offset_bytes: space.page_bytes(to, start), slots }]).await?;
            next = pages.run_from(u16::try_from(end).unwrap_or(u16::MAX));
        }
        Ok(())
    }

    /// Tells the map what is on the units; whether something has to be made durable there.
    fn mark(&self) -> bool {
        let (volume, space) = (self.volume.id(), &self.volume.space);
        let (moved, stayed): (Vec<_>, Vec<_>) =
            self.by_extent().into_iter().partition(|(extent, ..)| self.moves.contains_key(extent));
        for (extent, written, zero) in moved {
            // Who loads from the old place must not believe it later, when it may be somebody else's.
            let cell = self.inner.cell(volume, extent);
            let mut shard = cell.lock();
            shard.forget_loads(volume, extent, &self.inner.totals);
            let mut map = space.map_mut();
            map.mark_moved(volume, extent, &written);
            map.mark_zero(volume, extent, &zero);
            drop((map, shard));
            cell.loaded.notify_waiters();
        }
        let mut map = space.map_mut();
        for (extent, written, zero) in stayed {
            map.mark_written(volume, extent, &written);
            map.mark_zero(volume, extent, &zero);
        }
        map.is_unsettled()
    }

    /// They are durable.
    fn finish(mut self) {
        let pages = std::mem::take(&mut self.pages);
        self.end(&pages, |writing, newer| match newer {
            Some(newer) => State::Dirty(newer),
            None => State::Clean(writing.content),
        });
    }

    fn give_up(&self, pages: &[Captured]) {
        self.end(pages, |writing, newer| match newer {
            Some(newer) => State::Dirty(Version { since: writing.since, ..newer }),
            None => State::Dirty(writing),
        });
    }

    fn end(&self, pages: &[Captured], end: impl Fn(Version, Option<Version>) -> State) {
        for same_extent in pages.chunk_by(|a, b| a.page / 256 == b.page / 256) {
            let Some(first) = same_extent.first() else { continue };
            let extent = Key { volume: self.volume.id(), page: first.page }.extent();
            let mut shard = self.inner.cell(self.volume.id(), extent).lock();
            for captured in same_extent {
                let key = Key { volume: self.volume.id(), page: captured.page };
                if !matches!(shard.page(key).map(|page| &page.state), Some(State::Destaging { .. })) {
                    continue;
                }
                shard.change(key, &self.inner.totals, |page| {
                    page.state = match std::mem::replace(&mut page.state, State::Missing) {
                        State::Destaging { writing, newer } => end(writing, newer),
                        other => other,
                    };
                });
            }
            shard.refresh_oldest(self.volume.id(), extent);
            shard.trim_ring();
        }
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        let pages = std::mem::take(&mut self.pages);
        self.give_up(&pages);
    }
}

impl Inner {
    /// Memory to copy at most `most` pages. Destage frees memory, so it may not wait for any: when there is little, one
    /// page at a time, and one copier.
    async fn copy_memory(&self, most: usize) -> (Vec<SlotMut>, Option<tokio::sync::MutexGuard<'_, ()>>) {
        for count in [COPY_PAGES, FEW_COPY_PAGES] {
            if let Some(slots) = self.pool.try_take(Class::Journal, most.min(count)) {
                return (slots, None);
            }
        }
        let alone = self.copier.lock().await;
        (self.pool.take(Class::Raid, 1).await, Some(alone))
    }
}

/// Extents that move in one batch, side by side: who waits for the batch waits for that many MiB to be copied, and for two flushes.
const MOVES_AT_ONCE: usize = 8;
/// Pages copied at a time when an extent moves.
const COPY_PAGES: usize = 128;
/// Pages between two that are copied as well.
const GAP_PAGES: u16 = 16;
/// When there is little memory.
const FEW_COPY_PAGES: usize = 16;
/// Ranges up to so many extents are looked up one by one, longer ones by what is dirty.
const FEW_EXTENTS: u64 = 64;
