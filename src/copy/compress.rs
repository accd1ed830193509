//! Compression of journal read answers on their way (zstd), a choice of the link at its reader.
//!
//! # What it guarantees
//! * Head and records stay as they are; only the pages of write data behind them are compressed, and only where that
//!   makes them shorter. The checksums of the updates are those of the data as hosts wrote it, and are verified after
//!   decompression: compression adds no trust and takes none away.
//! * **Nothing announced is believed.** An answer that was not asked for so, that would take more room than the reader
//!   gave, or that does not decompress to exactly what it announces, is a fault of the peer. Memory is bounded by
//!   that room, and the compressed data lies outside of the cache only as long as it is being worked on.
//! * Hosts do not wait for it: it runs on a [`Workbench`], beside the tasks of the array. In a simulation it runs in
//!   place, so that a seed stays one run.

use super::answer::{HEAD_BYTES, Head};
use crate::disk::slot::{Class, SLOT_BYTES, Slot, SlotMut, SlotPool, bytes_of};
use std::num::NonZeroU8;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Where work is done that takes the processor for long.
#[derive(Clone, Debug)]
pub struct Workbench {
    places: Arc<Semaphore>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Threads,
    InPlace,
}

impl Workbench {
    /// On threads of their own, `PLACES` at a time: more is waited for.
    #[must_use]
    pub fn threads() -> Self {
        Self { places: Arc::new(Semaphore::new(PLACES)), kind: Kind::Threads }
    }

    /// Where it is asked for: for simulations, which have one thread.
    #[must_use]
    pub fn in_place() -> Self {
        Self { places: Arc::new(Semaphore::new(PLACES)), kind: Kind::InPlace }
    }

    /// What came of `work`; none if it could not be done at all.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let _place = self.places.acquire().await.ok()?;
        match self.kind {
            Kind::InPlace => Some(work()),
            Kind::Threads => tokio::task::spawn_blocking(work).await.ok(),
        }
    }
}

/// The write data of an answer, compressed.
pub(crate) struct Packed {
    /// Head and records, in which it is announced.
    pub(crate) head: Vec<u8>,
    /// The data.
    pub(crate) data: Vec<u8>,
}

/// Compresses what lies behind `head`; none where that does not make it shorter.
pub(crate) async fn pack(bench: &Workbench, level: NonZeroU8, head: &[u8], pages: &[Slot]) -> Option<Packed> {
    let plain = bytes_of(pages);
    if plain.is_empty() {
        return None;
    }
    let pages = u32::try_from(pages.len()).ok()?;
    let room = plain.len() - 1;
    let level = i32::from(level.get());
    let work = move || {
        let mut data = Vec::with_capacity(room);
        zstd::bulk::Compressor::new(level).ok()?.compress_to_buffer(&plain, &mut data).ok().map(|_| data)
    };
    // What does not fit is longer than it was.
    let data = bench.run(work).await??;
    let mut head = head.to_vec();
    Head::announce_packed(&mut head, u32::try_from(data.len()).ok()?, pages).ok()?;
    Some(Packed { head, data })
}

/// An answer as it would have come uncompressed, and the bytes of write data on the link and in truth.
#[derive(Debug)]
pub(crate) struct Unpacked {
    pub(crate) pages: Vec<Slot>,
    pub(crate) wire_bytes: u64,
    pub(crate) plain_bytes: u64,
}

/// Takes an answer of `received_bytes` in whole pages, for which `room_bytes` were given. What is wrong with it whoever
/// decodes it says: of compressed data that is not believed only head and records are handed on, without any data.
pub(crate) async fn unpack(
    bench: &Workbench,
    pool: &SlotPool,
    (mut pages, received_bytes): (Vec<Slot>, usize),
    room_bytes: usize,
    is_asked_for: bool,
) -> Unpacked {
    let plain = |pages: Vec<Slot>| {
        let bytes = received_bytes as u64;
        Unpacked { pages, wire_bytes: bytes, plain_bytes: bytes }
    };
    let announced = pages.first().and_then(|first| {
        let front = Head::announced_pages(first.as_slice()).ok()?;
        Some((to_usize(front), Head::packed(first.as_slice()).ok()??))
    });
    let Some((front, (packed_bytes, plain_pages))) = announced else { return plain(pages) };
    let (packed_bytes, plain_pages) = (to_usize(packed_bytes), to_usize(plain_pages));
    let front_bytes = front.saturating_mul(SLOT_BYTES);
    let plain_bytes = plain_pages.saturating_mul(SLOT_BYTES);
    let is_sound = is_asked_for
        && front_bytes.saturating_add(plain_bytes) <= room_bytes
        && front_bytes.checked_add(packed_bytes) == Some(received_bytes);
    let mut data = bytes_of(pages.get(front..).unwrap_or_default());
    data.truncate(packed_bytes);
    pages.truncate(front);
    if !is_sound {
        return plain(pages);
    }
    let work = move || {
        let mut plain = Vec::with_capacity(plain_bytes);
        let count = zstd::bulk::Decompressor::new().ok()?.decompress_to_buffer(&data, &mut plain).ok()?;
        (count == plain_bytes).then_some(plain)
    };
    let Some(unpacked) = bench.run(work).await.flatten() else { return plain(pages) };
    let bytes = bytes_of(&pages);
    // No memory of the cache is held while more of it is waited for.
    drop(pages);
    let mut slots = pool.take(Class::Inbound, front + plain_pages).await;
    for (slot, bytes) in slots.iter_mut().zip(bytes.chunks(SLOT_BYTES).chain(unpacked.chunks(SLOT_BYTES))) {
        slot[..bytes.len()].copy_from_slice(bytes);
    }
    Unpacked {
        pages: slots.into_iter().map(SlotMut::freeze).collect(),
        wire_bytes: packed_bytes as u64,
        plain_bytes: plain_bytes as u64,
    }
}

fn to_usize(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// Answers that are worked on at a time: what compression may take of processors and, at the highest level, of memory
/// (each about 30 MiB) whatever the readers ask for.
const PLACES: usize = 2;

const _: () = assert!(HEAD_BYTES <= SLOT_BYTES, "the announcement stands in the first page");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copy::answer::Outcome;

    const LEVEL: NonZeroU8 = NonZeroU8::new(3).unwrap();

    fn head() -> Vec<u8> {
        let head = Head {
            outcome: Outcome::Updates,
            group: 1,
            updates: 1,
            generation: 1,
            first: 1,
            newest_durable: 1,
            oldest_held: 1,
            newest_given: 1,
            heard_ms: 0,
            information_bytes: (0, 0),
            data_bytes: (0, 0),
            wall_ns: 0,
            unread_bytes: 0,
            pointers: Default::default(),
            room_bytes: 0,
            load_permille: 0,
            is_second: false,
        };
        head.encode(b"records")
    }

    async fn slots(pool: &SlotPool, bytes: &[u8]) -> Vec<Slot> {
        let mut slots = pool.take(Class::Inbound, bytes.len().div_ceil(SLOT_BYTES)).await;
        for (slot, bytes) in slots.iter_mut().zip(bytes.chunks(SLOT_BYTES)) {
            slot.fill(0);
            slot[..bytes.len()].copy_from_slice(bytes);
        }
        slots.into_iter().map(SlotMut::freeze).collect()
    }

    /// An answer on the wire, with pages full of `byte`.
    async fn packed(pool: &SlotPool, count: usize, byte: u8) -> Vec<u8> {
        let pages = slots(pool, &vec![byte; count * SLOT_BYTES]).await;
        let packed = pack(&Workbench::in_place(), LEVEL, &head(), &pages).await.unwrap();
        [packed.head, packed.data].concat()
    }

    async fn taken(pool: &SlotPool, wire: &[u8], room: usize) -> Unpacked {
        let pages = slots(pool, wire).await;
        unpack(&Workbench::in_place(), pool, (pages, wire.len()), room, true).await
    }

    #[tokio::test]
    async fn what_is_packed_comes_out_as_it_was() {
        let pool = SlotPool::new(8 << 20);
        let wire = packed(&pool, 40, 0x5a).await;
        assert!(wire.len() < 2 * SLOT_BYTES);
        let unpacked = taken(&pool, &wire, 1 << 20).await;
        assert_eq!(unpacked.pages.len(), 41);
        assert!(unpacked.pages[1..].iter().all(|page| page.iter().all(|byte| *byte == 0x5a)));
        let front = unpacked.pages[0].as_slice();
        assert_eq!(Head::decode(front).unwrap().1, b"records");
        assert_eq!(unpacked.plain_bytes, 40 * SLOT_BYTES as u64);
        assert!(unpacked.wire_bytes < 4096);
    }

    #[tokio::test]
    async fn what_does_not_shrink_is_sent_as_it_is() {
        let pool = SlotPool::new(8 << 20);
        let mut state = 1_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        })
        .take(4 * SLOT_BYTES)
        .collect();
        let pages = slots(&pool, &noise).await;
        assert!(pack(&Workbench::in_place(), LEVEL, &head(), &pages).await.is_none());
        assert!(pack(&Workbench::in_place(), LEVEL, &head(), &[]).await.is_none());
        let plain = [head(), noise].concat();
        let unpacked = taken(&pool, &plain, 1 << 20).await;
        assert_eq!((unpacked.pages.len(), unpacked.wire_bytes), (5, unpacked.plain_bytes));
    }

    #[tokio::test]
    async fn a_peer_that_lies_about_lengths_is_refused_and_allocates_nothing() {
        let pool = SlotPool::new(8 << 20);
        let wire = packed(&pool, 40, 1).await;
        let announced = |bytes: u32, pages: u32| {
            let mut lie = wire.clone();
            Head::announce_packed(&mut lie[..SLOT_BYTES], bytes, pages).unwrap();
            lie
        };
        let length = u32::try_from(wire.len() - SLOT_BYTES).unwrap();
        for lie in [
            announced(length, 39),
            announced(length, 41),
            announced(length, u32::MAX),
            announced(length + 1, 40),
            announced(u32::MAX, 40),
            announced(1, 40),
        ] {
            assert_eq!(taken(&pool, &lie, 1 << 20).await.pages.len(), 1, "no data");
        }
        assert_eq!(taken(&pool, &wire, 40 * SLOT_BYTES).await.pages.len(), 1, "one page more than the room");
        assert_eq!(taken(&pool, &wire[..wire.len() - 1], 1 << 20).await.pages.len(), 1, "cut off");
        let answer = (slots(&pool, &wire).await, wire.len());
        let unasked = unpack(&Workbench::in_place(), &pool, answer, 1 << 20, false).await;
        assert_eq!(unasked.pages.len(), 1, "not asked for");
        for at in (0..wire.len()).filter(|at| *at < 135 || *at >= SLOT_BYTES) {
            let mut damaged = wire.clone();
            damaged[at] ^= 0x10;
            // A head that was damaged fails its own checksum, data the checksums of its updates.
            let pages = taken(&pool, &damaged, 1 << 20).await.pages;
            let is_head_sound = Head::decode(pages[0].as_slice()).is_ok();
            assert_eq!(is_head_sound, at >= SLOT_BYTES, "byte {at}");
            assert!(pages.len() <= 41);
        }
    }
}
