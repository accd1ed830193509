//! Reading through the cache.

use super::page::{Content, Key, Lookup, State, Token};
use super::pieces::{Piece, Pieces, Span};
use super::volume::Volume;
use super::{DiskAdapter, Inner};
use crate::disk::VolumeError;
use crate::disk::slot::{Class, SLOT_BYTES, Slot, SlotMut};
use crate::disk::space::bits::{PAGES_PER_EXTENT, PageBits};
use crate::disk::space::map::VolumeId;
use futures_util::future::try_join_all;
use std::ops::Range;
use std::sync::atomic::Ordering;

impl DiskAdapter {
    /// What stands there, if that can be said without waiting and without I/O: every page is in the cache or known to
    /// be zero. One lock for each MiB touched.
    #[must_use]
    pub fn try_read(&self, volume: VolumeId, offset_bytes: u64, length: usize) -> Option<Pieces> {
        let volume = self.0.volume(volume).ok()?;
        let span = volume.span(offset_bytes, length as u64).ok()?;
        let mut pieces = Pieces::with_pages(span.pages());
        for (extent, pages) in extents_of_pages(span.first_page()..span.end_page()) {
            let mut written = None;
            let mut shard = self.0.cell(volume.id(), extent).lock();
            for page in pages {
                let content = match shard.hit(Key { volume: volume.id(), page }) {
                    Lookup::Content(content) => content,
                    Lookup::Loading | Lookup::Missing => return None,
                    Lookup::Absent => {
                        let written = written.get_or_insert_with(|| written_in(&volume, extent).1);
                        if written.contains(in_extent(page)) {
                            return None;
                        }
                        Content::Zero
                    }
                };
                pieces.push(piece(content, span, page));
            }
        }
        Some(pieces)
    }

    /// Reads, loading what is not in the cache in as few transfers as possible. Readers of the same page share one
    /// load. A page overwritten meanwhile is given as it was at some moment of the call.
    ///
    /// # Errors
    /// No such range, or the parity group cannot read it.
    pub async fn read(
        &self,
        volume: VolumeId,
        offset_bytes: u64,
        length: usize,
        class: Class,
    ) -> Result<Pieces, VolumeError> {
        let volume = self.0.volume(volume)?;
        let span = volume.span(offset_bytes, length as u64)?;
        if span.pages() > self.0.pool.largest_request(class) {
            let length_bytes = length as u64;
            return Err(VolumeError::Range { volume: volume.id(), offset_bytes, length_bytes });
        }
        let pages = span.first_page()..span.end_page();
        let contents = self.0.fetch(&volume, pages.clone(), class, &mut Vec::new()).await?;
        let mut pieces = Pieces::with_pages(contents.len());
        for (page, content) in pages.zip(contents) {
            pieces.push(piece(content, span, page));
        }
        Ok(pieces)
    }
}

impl Inner {
    /// The content of some pages. Memory comes from `supply` first.
    pub(super) async fn fetch(
        &self,
        volume: &Volume,
        pages: Range<u64>,
        class: Class,
        supply: &mut Vec<SlotMut>,
    ) -> Result<Vec<Content>, VolumeError> {
        let count = usize::try_from(pages.end - pages.start).unwrap_or(usize::MAX);
        let mut found = vec![None; count];
        loop {
            volume.check_there()?;
            let seen = self.look(volume, &pages, &mut found);
            if seen.missing > 0 {
                // Memory first, then the claim: who has claimed a page never waits for memory, so that those who wait
                // for the page do not either.
                if supply.len() < seen.missing {
                    supply.extend(self.pool.take(class, seen.missing - supply.len()).await);
                }
                self.load(volume, &pages, &mut found, supply).await?;
            } else if let Some(page) = seen.busy {
                self.wait_loaded(Key { volume: volume.id(), page }).await;
            } else {
                return Ok(found.into_iter().flatten().collect());
            }
        }
    }

    /// Takes what is here; says how many pages somebody has to load, and one that somebody is loading.
    fn look(&self, volume: &Volume, pages: &Range<u64>, found: &mut [Option<Content>]) -> Seen {
        let mut seen = Seen { missing: 0, busy: None };
        for (extent, part) in extents_of_pages(pages.clone()) {
            let mut written = None;
            let mut shard = self.cell(volume.id(), extent).lock();
            for page in part {
                let place = &mut found[index(pages, page)];
                if place.is_some() {
                    continue;
                }
                match shard.hit(Key { volume: volume.id(), page }) {
                    Lookup::Content(content) => *place = Some(content),
                    Lookup::Loading => seen.busy = seen.busy.or(Some(page)),
                    Lookup::Missing => seen.missing += 1,
                    Lookup::Absent => {
                        let written = written.get_or_insert_with(|| written_in(volume, extent).1);
                        if written.contains(in_extent(page)) {
                            seen.missing += 1;
                        } else {
                            *place = Some(Content::Zero);
                        }
                    }
                }
            }
        }
        seen
    }

    /// Loads what is still missing, as far as the supply of memory goes.
    async fn load(
        &self,
        volume: &Volume,
        pages: &Range<u64>,
        found: &mut [Option<Content>],
        supply: &mut Vec<SlotMut>,
    ) -> Result<(), VolumeError> {
        let mut claim = self.claim(volume, pages, found, supply.len());
        let mut reads = Vec::new();
        for run in claim.places.chunk_by(|a, b| a.1 + SLOT_BYTES as u64 == b.1) {
            let into = supply.split_off(supply.len() - run.len());
            reads.push(volume.space.read(run[0].1, into));
        }
        let slots = try_join_all(reads).await?;
        let places = std::mem::take(&mut claim.places);
        for ((page, _), slot) in places.iter().zip(slots.into_iter().flatten()) {
            found[index(pages, *page)] = self.put_loaded(volume, *page, claim.token, slot.freeze());
        }
        claim.places = places;
        // Dropped here, the claim wakes those who wait.
        Ok(())
    }

    /// Marks at most `most` of the missing pages as being loaded by this caller.
    fn claim<'a>(
        &'a self,
        volume: &'a Volume,
        pages: &Range<u64>,
        found: &[Option<Content>],
        most: usize,
    ) -> Claim<'a> {
        let token = Token(self.next_token.fetch_add(1, Ordering::Relaxed));
        let mut claim = Claim { inner: self, volume, token, places: Vec::new() };
        for (extent, part) in extents_of_pages(pages.clone()) {
            let mut shard = self.cell(volume.id(), extent).lock();
            if volume.is_gone() {
                break;
            }
            let (physical, written) = written_in(volume, extent);
            for page in part {
                let key = Key { volume: volume.id(), page };
                let free = match shard.page(key) {
                    None => true,
                    Some(page) => matches!(page.state, State::Missing),
                };
                let wanted = free && found[index(pages, page)].is_none() && written.contains(in_extent(page));
                if wanted && claim.places.len() < most {
                    shard.change(key, &self.totals, |page| page.state = State::Loading(token));
                    let at = volume.space.page_bytes(physical, u64::from(in_extent(page)));
                    claim.places.push((page, at));
                }
            }
        }
        claim
    }

    /// Puts what was loaded into the cache, unless something newer came there meanwhile: then it is worth nothing, not
    /// even to this reader, because the extent may belong to somebody else by now.
    fn put_loaded(&self, volume: &Volume, page: u64, token: Token, slot: Slot) -> Option<Content> {
        let key = Key { volume: volume.id(), page };
        let mut shard = self.cell_of(key).lock();
        if volume.is_gone() || !is_loading(shard.page(key), token) {
            return None;
        }
        let content = Content::Slot(slot);
        shard.change(key, &self.totals, |page| page.state = State::Clean(content.clone()));
        shard.trim_ring();
        Some(content)
    }

    async fn wait_loaded(&self, key: Key) {
        let cell = self.cell_of(key);
        let loaded = cell.loaded.notified();
        tokio::pin!(loaded);
        loaded.as_mut().enable();
        let busy = cell.lock().page(key).is_some_and(|page| matches!(page.state, State::Loading(_)));
        if busy {
            loaded.await;
        }
    }
}

/// What [`Inner::look`] did not find.
struct Seen {
    missing: usize,
    busy: Option<u64>,
}

/// Pages that this caller loads: (page, where it lies). What was not loaded when it is dropped can be claimed again.
struct Claim<'a> {
    inner: &'a Inner,
    volume: &'a Volume,
    token: Token,
    places: Vec<(u64, u64)>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        for (page, _) in &self.places {
            let key = Key { volume: self.volume.id(), page: *page };
            let cell = self.inner.cell_of(key);
            let mut shard = cell.lock();
            if is_loading(shard.page(key), self.token) {
                shard.change(key, &self.inner.totals, |page| page.state = State::Missing);
            }
            drop(shard);
            cell.loaded.notify_waiters();
        }
    }
}

fn is_loading(page: Option<&super::page::Page>, token: Token) -> bool {
    page.is_some_and(|page| matches!(page.state, State::Loading(now) if now == token))
}

/// The pages by extent.
pub(super) fn extents_of_pages(pages: Range<u64>) -> impl Iterator<Item = (u32, Range<u64>)> {
    let first = pages.start / PAGES_PER_EXTENT;
    let end = pages.end.div_ceil(PAGES_PER_EXTENT);
    (first..end).map(move |extent| {
        let base = extent * PAGES_PER_EXTENT;
        let part = pages.start.max(base)..pages.end.min(base + PAGES_PER_EXTENT);
        (u32::try_from(extent).expect("pages of volumes of at most 256 TiB"), part)
    })
}

pub(super) fn in_extent(page: u64) -> u8 {
    u8::try_from(page % PAGES_PER_EXTENT).expect("below 256")
}

/// Where an extent lies and what is written in it; the place means nothing when nothing is.
pub(super) fn written_in(volume: &Volume, extent: u32) -> (u32, PageBits) {
    let extent = volume.space.map().extent(volume.id(), extent);
    extent.map_or((0, PageBits::default()), |extent| (extent.physical, extent.written))
}

fn index(pages: &Range<u64>, page: u64) -> usize {
    usize::try_from(page - pages.start).expect("ranges of pages fit into memory")
}

fn piece(content: Content, span: Span, page: u64) -> Piece {
    let (start, end) = span.within(page);
    match content {
        Content::Slot(slot) => Piece::Bytes { slot, start, length: end - start },
        Content::Zero => Piece::Zero { length: end - start },
    }
}
