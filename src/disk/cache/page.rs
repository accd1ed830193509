//! The state of one cached page, and a shard: some of the pages, behind one lock.
//!
//! ```text
//!             load            apply                capture              durable
//!  (absent) ------> Loading ---------> Dirty ---------------> Destaging -------> Clean ----> (absent)
//!     |                |    apply        ^  ^    given up        |  ^ |  apply     |   evicted
//!     |   loaded:      +-----------------+  +--------------------+  +-+ (newer)    |
//!     |   own token only --> Clean ---------------- apply -----> Dirty <-----------+
//! ```
//!
//! * A load puts its bytes in only while its own token stands there: what was written meanwhile is newer.
//! * What is being destaged does not change; newer content waits beside it and is dirty afterwards.
//! * An extent that moves makes loads from its old place worthless: they begin again.
//! * A pinned page stays: a partial write is merged with it, without waiting. `Missing` is a pinned page whose load
//!   failed or has not begun.
//!
//! All changes of state go through [`Shard::change`], which keeps the counts and the list of dirty pages right.

use super::super::slot::Slot;
use super::super::space::bits::{PAGES_PER_EXTENT, PageBits};
use super::super::space::map::VolumeId;
use crate::clock::MonotonicNs;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A page of a volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Key {
    pub(super) volume: VolumeId,
    pub(super) page: u64,
}

impl Key {
    pub(super) fn extent(self) -> u32 {
        u32::try_from(self.page / PAGES_PER_EXTENT).expect("pages of volumes of at most 256 TiB")
    }

    pub(super) fn in_extent(self) -> u8 {
        u8::try_from(self.page % PAGES_PER_EXTENT).expect("below 256")
    }
}

/// What a page holds.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Slot(Slot),
    Zero,
}

/// Content that is not on the units yet.
#[derive(Clone, Debug)]
pub(super) struct Version {
    pub(super) content: Content,
    /// The update that it carries; zero for none.
    pub(super) gate: u64,
    pub(super) since: MonotonicNs,
}

/// Names one load.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Token(pub(super) u64);

#[derive(Clone, Debug)]
pub(super) enum State {
    Missing,
    Loading(Token),
    Clean(Content),
    Dirty(Version),
    Destaging { writing: Version, newer: Option<Version> },
}

impl State {
    /// What a reader sees.
    pub(super) fn content(&self) -> Option<&Content> {
        match self {
            Self::Missing | Self::Loading(_) => None,
            Self::Clean(content) => Some(content),
            Self::Dirty(version) => Some(&version.content),
            Self::Destaging { writing, newer } => Some(&newer.as_ref().unwrap_or(writing).content),
        }
    }

    /// A write: the state with `new` visible. It waits at least for the gate of what it replaces.
    fn overwritten(self, mut new: Version) -> Self {
        match self {
            Self::Missing | Self::Loading(_) | Self::Clean(_) => Self::Dirty(new),
            Self::Dirty(old) => {
                new.gate = new.gate.max(old.gate);
                new.since = old.since;
                Self::Dirty(new)
            }
            Self::Destaging { writing, newer } => {
                new.gate = new.gate.max(newer.as_ref().unwrap_or(&writing).gate);
                new.since = newer.map_or(new.since, |newer| newer.since);
                Self::Destaging { writing, newer: Some(new) }
            }
        }
    }

    fn class(&self) -> PageClass {
        match self {
            Self::Missing | Self::Loading(_) | Self::Clean(Content::Zero) => PageClass::Neither,
            Self::Clean(Content::Slot(_)) => PageClass::Clean,
            Self::Dirty(version) => PageClass::of(&version.content),
            Self::Destaging { writing, newer } => PageClass::of(&newer.as_ref().unwrap_or(writing).content),
        }
    }
}

/// As what a page is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum PageClass {
    Neither,
    Clean,
    DirtySlot,
    DirtyZero,
}

impl PageClass {
    fn of(content: &Content) -> Self {
        match content {
            Content::Slot(_) => Self::DirtySlot,
            Content::Zero => Self::DirtyZero,
        }
    }

    fn is_dirty(self) -> bool {
        matches!(self, Self::DirtySlot | Self::DirtyZero)
    }
}

/// An entry of the cache.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) state: State,
    pub(super) pins: u32,
    referenced: bool,
    queued: bool,
}

/// Pages counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Counts {
    pub(super) clean: usize,
    pub(super) dirty: usize,
    pub(super) zero: usize,
}

/// The same over all shards, without locks.
#[derive(Debug, Default)]
pub(super) struct Totals {
    /// Pages that are not on the units, zeros included.
    pub(super) dirty: AtomicUsize,
    /// Those of them that are zeros.
    pub(super) zero: AtomicUsize,
}

/// Pages of one extent that are not on the units.
#[derive(Clone, Copy, Debug)]
pub(super) struct DirtyExtent {
    pub(super) pages: PageBits,
    /// No page has waited longer; pages that became clean may have.
    pub(super) oldest: MonotonicNs,
}

/// Some of the pages: all of one extent are in the same shard.
#[derive(Debug, Default)]
pub(super) struct Shard {
    pages: HashMap<Key, Page, BuildHasherDefault<KeyHasher>>,
    /// Clean pages in the order of the clock hand.
    ring: VecDeque<Key>,
    pub(super) dirty: BTreeMap<(VolumeId, u32), DirtyExtent>,
    pub(super) counts: BTreeMap<VolumeId, Counts>,
}

impl Shard {
    pub(super) fn page(&self, key: Key) -> Option<&Page> {
        self.pages.get(&key)
    }

    /// What a reader of the page sees if it is here; marks it as used.
    pub(super) fn hit(&mut self, key: Key) -> Lookup {
        let Some(page) = self.pages.get_mut(&key) else { return Lookup::Absent };
        page.referenced = true;
        match &page.state {
            State::Missing => Lookup::Missing,
            State::Loading(_) => Lookup::Loading,
            state => state.content().cloned().map_or(Lookup::Missing, Lookup::Content),
        }
    }

    /// Writes: makes `new` what readers see.
    pub(super) fn write(&mut self, key: Key, new: Version, totals: &Totals) {
        self.change(key, totals, |page| {
            let old = std::mem::replace(&mut page.state, State::Missing);
            page.state = old.overwritten(new);
        });
    }

    /// Changes the state or the pins of a page, which is made as `Missing` if it is not here. A page that ends as
    /// `Missing` or as clean zero without a pin is dropped.
    pub(super) fn change<R>(&mut self, key: Key, totals: &Totals, change: impl FnOnce(&mut Page) -> R) -> R {
        let page = self.pages.entry(key).or_insert(Page {
            state: State::Missing,
            pins: 0,
            referenced: false,
            queued: false,
        });
        let before = page.state.class();
        let result = change(page);
        let after = page.state.class();
        let unpinned = page.pins == 0;
        let since = match &page.state {
            State::Dirty(version) => Some(version.since),
            State::Destaging { writing, .. } => Some(writing.since),
            State::Missing | State::Loading(_) | State::Clean(_) => None,
        };
        if after == PageClass::Clean && !page.queued {
            page.queued = true;
            self.ring.push_back(key);
        }
        if unpinned && matches!(page.state, State::Missing | State::Clean(Content::Zero)) {
            self.pages.remove(&key);
        }
        self.account(key, before, after, since, totals);
        result
    }

    fn account(
        &mut self,
        key: Key,
        before: PageClass,
        after: PageClass,
        since: Option<MonotonicNs>,
        totals: &Totals,
    ) {
        if before != after {
            let counts = self.counts.entry(key.volume).or_default();
            match before {
                PageClass::Neither => {}
                PageClass::Clean => counts.clean -= 1,
                PageClass::DirtySlot => counts.dirty -= 1,
                PageClass::DirtyZero => counts.zero -= 1,
            }
            match after {
                PageClass::Neither => {}
                PageClass::Clean => counts.clean += 1,
                PageClass::DirtySlot => counts.dirty += 1,
                PageClass::DirtyZero => counts.zero += 1,
            }
            shift(&totals.zero, before == PageClass::DirtyZero, after == PageClass::DirtyZero);
            shift(&totals.dirty, before.is_dirty(), after.is_dirty());
        }
        let place = (key.volume, key.extent());
        if let Some(since) = since {
            let extent =
                self.dirty.entry(place).or_insert(DirtyExtent { pages: PageBits::default(), oldest: since });
            extent.pages.insert(key.in_extent());
            extent.oldest = extent.oldest.min(since);
        } else if before.is_dirty()
            && let Some(extent) = self.dirty.get_mut(&place)
        {
            extent.pages.remove(key.in_extent());
            if extent.pages.is_empty() {
                self.dirty.remove(&place);
            }
        }
    }

    /// Finds out again how long the oldest page of an extent has waited.
    pub(super) fn refresh_oldest(&mut self, volume: VolumeId, extent: u32) {
        let Some(entry) = self.dirty.get(&(volume, extent)) else { return };
        let base = u64::from(extent) * PAGES_PER_EXTENT;
        let oldest = entry.pages.iter().filter_map(|page| {
            match &self.pages.get(&Key { volume, page: base + u64::from(page) })?.state {
                State::Dirty(version) => Some(version.since),
                State::Destaging { writing, .. } => Some(writing.since),
                State::Missing | State::Loading(_) | State::Clean(_) => None,
            }
        });
        if let Some(oldest) = oldest.min()
            && let Some(entry) = self.dirty.get_mut(&(volume, extent))
        {
            entry.oldest = oldest;
        }
    }

    /// Drops at most `most` clean pages that were not used lately; the slots are for the caller to drop, outside of
    /// the lock.
    pub(super) fn evict(&mut self, most: usize) -> Vec<Content> {
        let mut evicted = Vec::new();
        // Twice round: the first takes the mark, the second the page.
        for _ in 0..2 * self.ring.len() {
            if evicted.len() >= most {
                break;
            }
            let Some(key) = self.ring.pop_front() else { break };
            let Some(page) = self.pages.get_mut(&key) else { continue };
            match &page.state {
                State::Clean(_) if page.pins == 0 && !page.referenced => {
                    if let Some(Page { state: State::Clean(content), .. }) = self.pages.remove(&key) {
                        self.counts.entry(key.volume).or_default().clean -= 1;
                        evicted.push(content);
                    }
                }
                State::Clean(_) => {
                    page.referenced = false;
                    self.ring.push_back(key);
                }
                State::Missing | State::Loading(_) | State::Dirty(_) | State::Destaging { .. } => {
                    page.queued = false;
                }
            }
        }
        evicted
    }

    /// Loads of an extent's pages that are under way are worth nothing: it lies elsewhere now.
    pub(super) fn forget_loads(&mut self, volume: VolumeId, extent: u32, totals: &Totals) {
        let base = u64::from(extent) * PAGES_PER_EXTENT;
        for page in base..base + PAGES_PER_EXTENT {
            let key = Key { volume, page };
            if matches!(self.page(key).map(|page| &page.state), Some(State::Loading(_))) {
                self.change(key, totals, |page| page.state = State::Missing);
            }
        }
    }

    /// Content of the dirty pages of a volume, as readers see it.
    pub(super) fn dirty_versions(&self, volume: VolumeId) -> Vec<(Key, Version)> {
        let mut found = Vec::new();
        for (&(_, extent), dirty) in self.dirty.range((volume, 0)..=(volume, u32::MAX)) {
            for page in dirty.pages.iter() {
                let key = Key { volume, page: u64::from(extent) * PAGES_PER_EXTENT + u64::from(page) };
                match self.page(key).map(|page| &page.state) {
                    Some(State::Dirty(version)) => found.push((key, version.clone())),
                    Some(State::Destaging { writing, newer }) => {
                        found.push((key, newer.as_ref().unwrap_or(writing).clone()));
                    }
                    Some(State::Missing | State::Loading(_) | State::Clean(_)) | None => {}
                }
            }
        }
        found
    }

    /// Forgets a volume.
    pub(super) fn purge(&mut self, volume: VolumeId, totals: &Totals) -> Vec<Page> {
        let keys: Vec<_> = self.pages.keys().filter(|key| key.volume == volume).copied().collect();
        let gone = keys.iter().filter_map(|key| self.pages.remove(key)).collect();
        let counts = self.counts.remove(&volume).unwrap_or_default();
        totals.zero.fetch_sub(counts.zero, Ordering::AcqRel);
        totals.dirty.fetch_sub(counts.zero + counts.dirty, Ordering::AcqRel);
        self.dirty.retain(|(owner, _), _| *owner != volume);
        gone
    }

    /// Keeps the ring from growing with names of pages that left by another way.
    pub(super) fn trim_ring(&mut self) {
        if self.ring.len() > 2 * self.pages.len() + RING_SLACK {
            let mut seen = std::collections::BTreeSet::new();
            let pages = &self.pages;
            self.ring.retain(|key| pages.get(key).is_some_and(|page| page.queued) && seen.insert(*key));
        }
    }
}

/// What a reader finds.
#[derive(Debug)]
pub(super) enum Lookup {
    Content(Content),
    /// Somebody loads it.
    Loading,
    /// It is pinned and nobody loads it.
    Missing,
    /// It is not in the cache: the map knows.
    Absent,
}

fn shift(total: &AtomicUsize, before: bool, after: bool) {
    if before && !after {
        total.fetch_sub(1, Ordering::SeqCst);
    } else if !before && after {
        total.fetch_add(1, Ordering::SeqCst);
    }
}

/// Multiplies and folds: quick, and the same in every run. Keys are chosen by the array, not by an attacker's hash.
#[derive(Default)]
pub(super) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        let product = u128::from(self.0 ^ value ^ 0x243f_6a88_85a3_08d3) * 0x9e37_79b9_7f4a_7c15_u128;
        self.0 = u64::try_from((product ^ (product >> 64)) & u128::from(u64::MAX)).unwrap_or(0);
    }
}

/// Names in the ring beyond twice the pages before it is cleaned.
const RING_SLACK: usize = 256;
