//! Cache memory: pages of 4096 bytes, counted, pooled, handed round by handle.
//!
//! A page is received into once, as a [`SlotMut`] that nobody else sees; frozen into a [`Slot`] it never changes
//! again, so the cache, the journal writer, a destage and a response may all hold the same bytes. Newer data takes a
//! new slot. The last handle that goes returns the page to its pool.
//!
//! The pool is the memory limit of the array (`[cache] memory`). It is divided by [`Class`]: the memory that later
//! classes may not touch is the reserve of the earlier ones, so that work which frees memory (journal, restore,
//! inbound) never waits for work that fills it (hosts): `docs/architecture.md`, "slots cannot deadlock".

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use tokio::sync::Notify;

/// Bytes of one slot: the page of the cache, and the unit of every transfer to a device.
pub const SLOT_BYTES: usize = 4096;

/// Who asks for memory, in the order of the reserves: a class may wait only for classes before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Parity and old data of a partial-stripe write.
    Raid,
    /// Records of the journal writer, and refilling of what it sent away.
    Journal,
    /// Pages refilled for a restore, destage of partial pages.
    Restore,
    /// Data arriving from a peer.
    Inbound,
    /// Journals read back from the units for a reader.
    JournalRead,
    /// Host reads and writes.
    Host,
}

impl Class {
    /// Thirty-seconds of the pool that must stay free after this class has taken its share.
    const fn kept_free(self) -> usize {
        match self {
            Self::Raid => 0,
            Self::Journal => 1,
            Self::Restore => 2,
            Self::Inbound => 4,
            Self::JournalRead => 6,
            Self::Host => 8,
        }
    }
}

/// Gives back memory on demand: the cache drops clean pages. Returns how many it dropped. Called with no lock of the
/// pool held; nobody may ask the pool for memory while holding a lock that this needs.
pub type Reclaim = Box<dyn Fn(usize) -> usize + Send + Sync>;

/// The pool. Cloning gives another handle to the same pool.
#[derive(Clone)]
pub struct SlotPool(Arc<Shared>);

struct Shared {
    limit: usize,
    in_use: AtomicUsize,
    /// Pages for reuse. With those in use never more than the limit: a page is made only when none is idle. They stay:
    /// the allocator would have to find and clear them again.
    idle: Mutex<Vec<Arc<Page>>>,
    /// All pages lie in a few pieces ([`SlotPool::make_at_once`]); those made one by one until then are not used again.
    in_pieces: AtomicBool,
    freed: Notify,
    reclaim: OnceLock<Reclaim>,
}

#[repr(C, align(4096))]
#[derive(Clone, Copy)]
struct Bytes([u8; SLOT_BYTES]);

struct Page {
    bytes: Memory,
    pool: Weak<Shared>,
}

/// Where the bytes of a page lie.
enum Memory {
    /// By themselves.
    Own(Box<Bytes>),
    /// In a piece of many, which is never freed.
    InPiece(&'static mut Bytes),
}

/// Memory of many pages in a row, there until the process ends: devices may get to know it once and for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its first address.
    pub start: usize,
    /// Its length.
    pub length_bytes: usize,
}

/// A ring takes no larger ones.
const PIECE_BYTES_MAX: usize = 1 << 30;

/// A page of one owner, writable. Its content is what the last user left: whoever freezes it has filled it.
pub struct SlotMut(Option<Arc<Page>>);

/// A page that never changes again. Cloning is cheap.
pub struct Slot(Option<Arc<Page>>);

impl SlotPool {
    /// A pool of `memory_bytes`; at least 64 slots, so that every class has one.
    #[must_use]
    pub fn new(memory_bytes: usize) -> Self {
        Self(Arc::new(Shared {
            limit: (memory_bytes / SLOT_BYTES).max(64),
            in_use: AtomicUsize::new(0),
            idle: Mutex::new(Vec::new()),
            in_pieces: AtomicBool::new(false),
            freed: Notify::new(),
            reclaim: OnceLock::new(),
        }))
    }

    /// Makes all pages now, in pieces that are there until the process ends, and hands each to `lend` before its pages are
    /// used. For arrays that last as long as their process: no write then pays for memory that nobody has used before. It takes
    /// a good part of a second for each GiB, so call it on a thread of its own; the pool works meanwhile. What the machine does not have is made one by one,
    /// as without this.
    pub fn make_at_once(&self, lend: impl Fn(Piece)) {
        self.0.in_pieces.store(true, Ordering::Release);
        let mut missing = self.0.limit;
        while missing > 0 {
            let count = missing.min(PIECE_BYTES_MAX / SLOT_BYTES);
            let mut piece = Vec::new();
            if let Err(error) = piece.try_reserve_exact(count) {
                tracing::warn!(%error, "no memory for the whole cache at once");
                self.0.in_pieces.store(false, Ordering::Release);
                return;
            }
            piece.resize(count, Bytes([0; SLOT_BYTES]));
            let piece: &'static mut [Bytes] = piece.leak();
            lend(Piece { start: piece.as_ptr().addr(), length_bytes: count * SLOT_BYTES });
            let pages = piece
                .iter_mut()
                .rev()
                .map(|bytes| Arc::new(Page { bytes: Memory::InPiece(bytes), pool: Arc::downgrade(&self.0) }));
            // Beneath those that have been used: the processor may still have these.
            let mut pages: Vec<_> = pages.collect();
            let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
            pages.append(&mut idle);
            *idle = pages;
            missing -= count;
        }
    }

    /// Names the one who gives memory back; the first call counts.
    pub fn set_reclaim(&self, reclaim: Reclaim) {
        let _ = self.0.reclaim.set(reclaim);
    }

    /// `count` slots for `class`, or none at all when that would touch an earlier class's reserve even after the
    /// cache has given back what it can.
    #[must_use]
    pub fn try_take(&self, class: Class, count: usize) -> Option<Vec<SlotMut>> {
        self.claim(class, count).then(|| self.pages(count))
    }

    /// `count` slots for `class`, waiting until they are there.
    pub async fn take(&self, class: Class, count: usize) -> Vec<SlotMut> {
        loop {
            let freed = self.0.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if let Some(slots) = self.try_take(class, count) {
                return slots;
            }
            freed.await;
        }
    }

    /// Lets everybody who waits try again: pages have become clean, so the cache can give some back now.
    pub fn wake(&self) {
        self.0.freed.notify_waiters();
    }

    /// The most slots that one request of `class` can ever get: more would wait for ever.
    #[must_use]
    pub fn largest_request(&self, class: Class) -> usize {
        self.0.limit - self.kept_free(class)
    }

    /// Slots in use, clean pages of the cache included.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.0.in_use.load(Ordering::Relaxed)
    }

    /// Slots of the whole pool.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    fn kept_free(&self, class: Class) -> usize {
        let share = |class: Class| (self.0.limit * class.kept_free()).div_ceil(32);
        // What comes from a peer as one command finds room when everybody behind it has taken all.
        let of_inbound = share(Class::JournalRead) - share(Class::Inbound);
        let is_small = of_inbound < LONGEST_INBOUND && self.0.limit >= 3 * LONGEST_INBOUND;
        match class {
            Class::JournalRead | Class::Host if is_small => share(class) + LONGEST_INBOUND - of_inbound,
            class => share(class),
        }
    }

    fn claim(&self, class: Class, count: usize) -> bool {
        let ceiling = self.largest_request(class);
        loop {
            let mut now = self.0.in_use.load(Ordering::Relaxed);
            while now + count <= ceiling {
                match self.0.in_use.compare_exchange_weak(
                    now,
                    now + count,
                    Ordering::AcqRel,
                    Ordering::Relaxed,
                ) {
                    Ok(_) => return true,
                    Err(seen) => now = seen,
                }
            }
            // A little more than is missing, so that the next requests find room without asking again. What the cache
            // drops may still be held by somebody else, such as a journal kept for its readers, and then frees nothing:
            // so it is asked until there is room or until it has nothing left. Each round drops a page at least.
            let missing = (now + count).saturating_sub(ceiling) + RECLAIM_AHEAD;
            let dropped = self.0.reclaim.get().map_or(0, |reclaim| reclaim(missing));
            if dropped == 0 {
                return false;
            }
        }
    }

    /// Pages that were claimed, the one that was given back last first: the processor may still have it.
    fn pages(&self, count: usize) -> Vec<SlotMut> {
        let mut slots = Vec::with_capacity(count);
        {
            let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let from = idle.len().saturating_sub(count);
            slots.extend(idle.drain(from..).rev().map(|page| SlotMut(Some(page))));
        }
        slots.resize_with(count, || {
            let bytes = Memory::Own(Box::new(Bytes([0; SLOT_BYTES])));
            SlotMut(Some(Arc::new(Page { bytes, pool: Arc::downgrade(&self.0) })))
        });
        slots
    }
}

impl Shared {
    /// Whether a page that nobody uses is to be used again.
    fn keeps(&self, page: &Page) -> bool {
        matches!(page.bytes, Memory::InPiece(_)) || !self.in_pieces.load(Ordering::Relaxed)
    }
}

impl Deref for Page {
    type Target = [u8; SLOT_BYTES];
    fn deref(&self) -> &[u8; SLOT_BYTES] {
        match &self.bytes {
            Memory::Own(bytes) => &bytes.0,
            Memory::InPiece(bytes) => &bytes.0,
        }
    }
}

impl DerefMut for Page {
    fn deref_mut(&mut self) -> &mut [u8; SLOT_BYTES] {
        match &mut self.bytes {
            Memory::Own(bytes) => &mut bytes.0,
            Memory::InPiece(bytes) => &mut bytes.0,
        }
    }
}

impl fmt::Debug for SlotPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SlotPool({} of {})", self.in_use(), self.limit())
    }
}

/// Slots of the longest forwarded write: 4 MiB that begin and end within a page, and a list of 256 parts. An array with the
/// least memory has more than three times as much; only in pools of tests shares alone count.
const LONGEST_INBOUND: usize = 1024 + 1 + 2;

/// Slots given back beyond those that are missing, in one pass over the cache.
const RECLAIM_AHEAD: usize = 32;

/// Returns a page to its pool when this was the last handle.
fn give_back(page: &mut Option<Arc<Page>>) {
    let Some(mut page) = page.take() else { return };
    if Arc::get_mut(&mut page).is_none() {
        return; // Another handle is left, or goes at this moment: then `Page::drop` settles the account.
    }
    let Some(shared) = page.pool.upgrade() else { return };
    if !shared.keeps(&page) {
        return; // Settled by `Page::drop`.
    }
    shared.idle.lock().unwrap_or_else(PoisonError::into_inner).push(page);
    shared.in_use.fetch_sub(1, Ordering::AcqRel);
    shared.freed.notify_waiters();
}

impl SlotMut {
    /// Gives back many at once. They were taken together from one pool, and what was not needed of them goes back in the
    /// order in which it will be taken again.
    pub fn give_back_all(slots: Vec<Self>) {
        let shared = slots.first().and_then(|slot| slot.0.as_ref()?.pool.upgrade());
        let Some(shared) = shared else { return };
        let pages = slots.into_iter().rev().filter_map(|mut slot| slot.0.take());
        let pages: Vec<_> = pages.filter(|page| shared.keeps(page)).collect();
        let count = pages.len();
        shared.idle.lock().unwrap_or_else(PoisonError::into_inner).extend(pages);
        shared.in_use.fetch_sub(count, Ordering::AcqRel);
        shared.freed.notify_waiters();
    }

    /// No byte changes from here on.
    #[must_use]
    pub fn freeze(mut self) -> Slot {
        Slot(self.0.take())
    }
}

/// The bytes of these pages in one piece, copied a page at a time.
#[must_use]
pub fn bytes_of(pages: &[Slot]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(pages.len() * SLOT_BYTES);
    for page in pages {
        bytes.extend_from_slice(page.as_slice());
    }
    bytes
}

impl Deref for SlotMut {
    type Target = [u8; SLOT_BYTES];
    fn deref(&self) -> &[u8; SLOT_BYTES] {
        self.0.as_ref().expect("a slot holds its page until it is dropped")
    }
}

impl DerefMut for SlotMut {
    fn deref_mut(&mut self) -> &mut [u8; SLOT_BYTES] {
        let page = self.0.as_mut().expect("a slot holds its page until it is dropped");
        Arc::get_mut(page).expect("a writable slot has one owner and no weak handles")
    }
}

impl Deref for Slot {
    type Target = [u8; SLOT_BYTES];
    fn deref(&self) -> &[u8; SLOT_BYTES] {
        self.0.as_ref().expect("a slot holds its page until it is dropped")
    }
}

impl Clone for Slot {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl Drop for SlotMut {
    fn drop(&mut self) {
        give_back(&mut self.0);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        give_back(&mut self.0);
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // Pages that wait in the pool were settled when they came back; they are dropped with the pool itself,
        // when the upgrade fails.
        if let Some(shared) = self.pool.upgrade() {
            shared.in_use.fetch_sub(1, Ordering::AcqRel);
            shared.freed.notify_waiters();
        }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot")
    }
}

impl fmt::Debug for SlotMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SlotMut")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_leaves_the_reserves_of_those_before_it() {
        let pool = SlotPool::new(64 * SLOT_BYTES);
        let host = pool.try_take(Class::Host, 48).expect("three quarters are for hosts");
        assert!(pool.try_take(Class::Host, 1).is_none());
        let inbound = pool.try_take(Class::Inbound, 8).expect("peers still get theirs");
        assert!(pool.try_take(Class::JournalRead, 1).is_none());
        drop(host);
        drop(inbound);
        assert_eq!(pool.in_use(), 0);
    }

    /// Two arrays with less than 72 MiB that forward to each other once waited for each other: the longest write of a host of
    /// one found no room at the other, whose hosts' writes waited for the first.
    #[test]
    fn whatever_hosts_and_readers_have_taken_the_longest_forwarded_write_finds_room() {
        for mebibytes in [16, 17, 24, 36, 64, 72, 73, 256] {
            let pool = SlotPool::new(mebibytes << 20);
            let hosts = pool.try_take(Class::Host, pool.largest_request(Class::Host)).unwrap();
            assert!(hosts.len() > 2 * LONGEST_INBOUND, "{mebibytes} MiB: hosts can write as well");
            let left = pool.largest_request(Class::JournalRead) - hosts.len();
            let readers = pool.try_take(Class::JournalRead, left).unwrap();
            assert!(pool.try_take(Class::Inbound, LONGEST_INBOUND).is_some(), "{mebibytes} MiB");
            drop((hosts, readers));
        }
    }

    #[test]
    fn the_last_handle_returns_the_page() {
        let pool = SlotPool::new(64 * SLOT_BYTES);
        let mut slot = pool.try_take(Class::Host, 1).expect("empty pool").remove(0);
        slot[0] = 9;
        let (a, b) = {
            let slot = slot.freeze();
            (slot.clone(), slot)
        };
        drop(a);
        assert_eq!((pool.in_use(), b[0]), (1, 9));
        drop(b);
        assert_eq!(pool.in_use(), 0);
    }

    /// Reads of an auxiliary took a second each: the cache gave back pages that the kept journal still held, and the
    /// pool did not ask again before something else woke it.
    #[test]
    fn the_cache_is_asked_again_when_what_it_gave_back_is_held_elsewhere() {
        let pool = SlotPool::new(64 * SLOT_BYTES);
        let cached: Vec<Slot> =
            pool.try_take(Class::Host, 48).expect("empty pool").into_iter().map(SlotMut::freeze).collect();
        let kept: Vec<Slot> = cached[..40].to_vec();
        let cached = Mutex::new(std::collections::VecDeque::from(cached));
        pool.set_reclaim(Box::new(move |wanted| {
            let mut cached = cached.lock().unwrap();
            let wanted = wanted.min(cached.len());
            cached.drain(..wanted).count()
        }));
        let taken = pool.try_take(Class::Host, 8).expect("eight pages are in nobody else's hands");
        assert!(pool.try_take(Class::Host, 1).is_none(), "and it ends when nothing is left");
        drop((kept, taken));
    }

    /// A journal read has room for the longest write and gets a few pages; the rest of its room is taken again next time.
    #[test]
    fn what_is_given_back_together_is_taken_again_in_the_same_order() {
        let pool = SlotPool::new(64 * SLOT_BYTES);
        let mut room = pool.try_take(Class::Host, 8).expect("empty pool");
        for (slot, number) in room.iter_mut().zip(0..) {
            slot[0] = number;
        }
        let used = room.drain(..2).collect::<Vec<_>>();
        SlotMut::give_back_all(room);
        assert_eq!(pool.in_use(), 2);
        let again = pool.try_take(Class::Host, 8).expect("empty but for two");
        assert_eq!(again.iter().map(|slot| slot[0]).collect::<Vec<_>>(), [2, 3, 4, 5, 6, 7, 0, 0]);
        drop((used, again));
        assert_eq!(pool.in_use(), 0);
        SlotMut::give_back_all(Vec::new());
    }

    /// Pages lie where a device was told, in ascending order as they are taken; what was made before goes.
    #[test]
    fn pages_that_are_made_at_once_take_the_place_of_those_made_one_by_one() {
        let pool = SlotPool::new(64 * SLOT_BYTES);
        let mut early = pool.try_take(Class::Host, 2).expect("empty pool");
        let lent = Mutex::new(Vec::new());
        pool.make_at_once(|piece| lent.lock().unwrap().push(piece));
        let lent = lent.into_inner().unwrap();
        assert_eq!(lent.iter().map(|piece| piece.length_bytes).sum::<usize>(), 64 * SLOT_BYTES);
        SlotMut::give_back_all(vec![early.remove(0)]);
        drop(early);
        assert_eq!(pool.in_use(), 0);
        for _ in 0..2 {
            let all = pool.try_take(Class::Raid, 64).expect("everything was given back");
            let places: Vec<usize> = all.iter().map(|slot| slot.as_ptr().addr()).collect();
            assert!(places.iter().zip(0..).all(|(place, at)| *place == lent[0].start + at * SLOT_BYTES));
            SlotMut::give_back_all(all);
        }
        assert_eq!(pool.in_use(), 0);
    }

    #[tokio::test]
    async fn who_waits_is_woken_when_memory_is_freed() {
        let pool = SlotPool::new(64 * SLOT_BYTES);
        let all = pool.take(Class::Host, 48).await;
        let waiting = tokio::spawn({
            let pool = pool.clone();
            async move { pool.take(Class::Host, 4).await.len() }
        });
        tokio::task::yield_now().await;
        drop(all);
        assert_eq!(waiting.await.expect("no panic"), 4);
    }
}
