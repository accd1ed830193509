//! Writing and reading the map log: the order of writes that makes every crash safe.
//!
//! * Append: blocks, flush. Only then are the changes durable, and what they freed is free. The changes of one append
//!   are one commit: a crash leaves all of them or none, however many blocks they take.
//! * A half is full, or an append failed: snapshot into the other half, flush, its head (a higher generation), flush,
//!   the old head becomes *retired, taken over by that generation*, flush; only then is the new half appended to. So a
//!   head that cannot be read is either one that was never finished, when the other head still says *current*, or
//!   damage, when the other says that it was taken over. It is never a guess.
//! * Opening always starts a new half. What a crash left behind the end of the log is void from then on.

use super::map::Map;
use super::record::Record;
use super::replay::Replay;
use super::unit::{
    Block, Body, Found, Half, Head, Layout, PLACE_BYTES, RECORDS_PER_PLACE, Stamp, decode, encode,
};
use super::{GroupIo, Opening};
use crate::disk::VolumeError;
use crate::disk::raid::Run;
use crate::disk::slot::{Class, SLOT_BYTES};
use std::sync::{PoisonError, RwLock};

/// The open log of one parity group.
#[derive(Debug)]
pub(crate) struct Log {
    layout: Layout,
    identity: u128,
    half: Half,
    generation: u64,
    snapshot_places: u64,
    next_place: u64,
    durable_place: u64,
    previous: u32,
    /// After a failed append nobody knows what stands behind the end: the next one goes to the other half.
    must_switch: bool,
    /// The other half with a durable snapshot, as long as nobody knows which of the two is current: until that is known neither is written.
    unfinished: Option<Box<Self>>,
    /// Durable places of which one copy was damaged when it was read.
    weak_places: Vec<u64>,
}

impl Log {
    /// Writes an empty log, whatever was there before. A crash in it leaves either nothing or an empty log: the second
    /// half is blank or foreign until the first head is durable.
    pub(crate) async fn format(io: &GroupIo, layout: Layout, identity: u128) -> Result<Self, VolumeError> {
        let mut log = Self::at(layout, identity, Half::A, 1);
        log.erase(io, Half::B).await?;
        log.erase(io, Half::A).await?;
        io.flush().await?;
        log.write_head(io, Half::A, 1, None, 0).await?;
        io.flush().await?;
        log.write_head(io, Half::B, 0, Some(1), 0).await?;
        io.flush().await?;
        log.must_switch = false;
        Ok(log)
    }

    fn at(layout: Layout, identity: u128, half: Half, generation: u64) -> Self {
        Self {
            layout,
            identity,
            half,
            generation,
            snapshot_places: 0,
            next_place: 1,
            durable_place: 0,
            previous: 0,
            must_switch: true,
            unfinished: None,
            weak_places: Vec::new(),
        }
    }

    /// Finds the log and what it says; `None` when the area was never formatted.
    pub(crate) async fn recover(
        io: &GroupIo,
        layout: Layout,
        identity: u128,
    ) -> Result<Option<(Self, Map)>, VolumeError> {
        let reader = Reader { io, layout, identity };
        let ((a, a_whole), (b, b_whole)) = (reader.head(Half::A).await?, reader.head(Half::B).await?);
        let Some((half, generation, head)) = choose(&a, &b).map_err(|what| io.damaged(what))? else {
            return Ok(None);
        };
        if head.area_bytes != 2 * layout.half_bytes || head.extents > layout.extents {
            let (area, extents) = (head.area_bytes, head.extents);
            return Err(
                io.damaged(format!("its log was made for an area of {area} bytes and {extents} extents"))
            );
        }
        let Opening { count, takes_older } = io.opening;
        if count > 0 && head.opened_as >= count && !takes_older {
            return Err(VolumeError::OlderStore {
                group: io.name.clone(),
                found: head.opened_as,
                own: count,
            });
        }
        let (map, weak_places) = reader.replay(half, generation, head.snapshot_places).await?;
        let mut log = Self::at(layout, identity, half, generation);
        log.weak_places = weak_places;
        log.snapshot_places = head.snapshot_places;
        let (other, is_whole) = if half == Half::A { (b, a_whole) } else { (a, b_whole) };
        // Both copies were durable before the other half was retired.
        if !is_whole && matches!(other, FoundHead::Head(_, other) if other.successor == Some(generation)) {
            log.weak_places.insert(0, 0);
        }
        Ok(Some((log, map)))
    }

    /// Makes the records durable; when they do not fit, or the last append failed, by a snapshot of the whole map, in
    /// which they are contained.
    pub(crate) async fn append(
        &mut self,
        io: &GroupIo,
        records: &[Record],
        map: &RwLock<Map>,
    ) -> Result<(), VolumeError> {
        let places = records.len().div_ceil(RECORDS_PER_PLACE) as u64;
        if self.must_switch || self.next_place + places > self.layout.places() {
            return self.switch(io, map).await;
        }
        // Cleared when all is durable: an error, or a caller that goes away in the middle, leaves an end that nobody
        // knows.
        self.must_switch = true;
        let mut parts = records.chunks(RECORDS_PER_PLACE * PLACES_PER_WRITE).peekable();
        while let Some(part) = parts.next() {
            let end = if parts.peek().is_some() { End::GoesOn } else { End::OfCommit };
            self.write_records(io, part, end).await?;
        }
        io.flush().await?;
        self.durable_place = self.next_place - 1;
        self.must_switch = false;
        Ok(())
    }

    /// Starts the other half with a snapshot.
    pub(crate) async fn switch(&mut self, io: &GroupIo, map: &RwLock<Map>) -> Result<(), VolumeError> {
        // Until it is done nothing may be appended here: the other half may be the current one already.
        self.must_switch = true;
        self.finish_switch(io).await?;
        let mut new = Self::at(self.layout, self.identity, self.half.other(), self.generation + 1);
        let mut frozen = map.read().unwrap_or_else(PoisonError::into_inner).frozen();
        loop {
            let records = frozen.part(RECORDS_PER_PLACE * PLACES_PER_WRITE);
            if records.is_empty() {
                break;
            }
            new.write_records(io, &records, End::OfEach).await?;
        }
        // The head makes the snapshot current: not before all of it is durable.
        io.flush().await?;
        new.snapshot_places = new.next_place - 1;
        new.durable_place = new.snapshot_places;
        self.unfinished = Some(Box::new(new));
        self.finish_switch(io).await?;
        self.must_switch = false;
        Ok(())
    }

    /// Makes the other half current that has a durable snapshot. What fails here is done again with the same contents, before anything
    /// else is written into either half: a head may be durable although its write has failed.
    async fn finish_switch(&mut self, io: &GroupIo) -> Result<(), VolumeError> {
        let Some(new) = &self.unfinished else { return Ok(()) };
        new.write_head(io, new.half, new.generation, None, new.snapshot_places).await?;
        io.flush().await?;
        // From here on a lost new head is damage and not an unfinished switch: before the first append that matters.
        new.write_head(io, self.half, self.generation, Some(new.generation), self.snapshot_places).await?;
        io.flush().await?;
        if let Some(new) = self.unfinished.take() {
            *self = *new; // It may be older than the map by now: the next commit begins the other half anew.
        }
        Ok(())
    }

    async fn write_records(&mut self, io: &GroupIo, records: &[Record], end: End) -> Result<(), VolumeError> {
        let mut parts = records.chunks(RECORDS_PER_PLACE).peekable();
        while parts.peek().is_some() {
            let wanted = parts.len();
            let slots = match io.pool.try_take(Class::Raid, wanted) {
                Some(slots) => slots,
                None => io.pool.take(Class::Raid, 1).await,
            };
            let mut runs = Vec::with_capacity(slots.len());
            for mut slot in slots {
                let Some(part) = parts.next() else { break };
                let place = self.next_place;
                if place >= self.layout.places() {
                    // What is appended was measured: a map whose volumes differ in too much. Deleting some helps.
                    return Err(VolumeError::MapFull { group: io.name.clone() });
                }
                let goes_on = match end {
                    End::OfEach => false,
                    End::OfCommit => parts.peek().is_some(),
                    End::GoesOn => true,
                };
                let stamp = Stamp {
                    identity: self.identity,
                    generation: self.generation,
                    place,
                    durable_place: self.durable_place,
                    previous: self.previous,
                    goes_on,
                };
                self.previous = encode(&stamp, &Body::Records(part.to_vec()), &mut slot);
                self.next_place += 1;
                let slot = slot.freeze();
                let offset_bytes = self.layout.place_bytes(self.half, place);
                runs.push(Run { offset_bytes, slots: vec![slot.clone(), slot] });
            }
            io.write(runs).await?;
        }
        Ok(())
    }

    async fn write_head(
        &self,
        io: &GroupIo,
        half: Half,
        generation: u64,
        successor: Option<u64>,
        snapshot_places: u64,
    ) -> Result<(), VolumeError> {
        let mut slot = io.pool.take(Class::Raid, 1).await.remove(0);
        let stamp = Stamp {
            identity: self.identity,
            generation,
            place: 0,
            durable_place: snapshot_places,
            previous: 0,
            goes_on: false,
        };
        let head = Head {
            successor,
            extents: self.layout.extents,
            snapshot_places,
            area_bytes: 2 * self.layout.half_bytes,
            opened_as: io.opening.count,
        };
        encode(&stamp, &Body::Head(head), &mut slot);
        let slot = slot.freeze();
        let offset_bytes = self.layout.place_bytes(half, 0);
        io.write(vec![Run { offset_bytes, slots: vec![slot.clone(), slot] }]).await
    }

    async fn erase(&self, io: &GroupIo, half: Half) -> Result<(), VolumeError> {
        let mut slot = io.pool.take(Class::Raid, 1).await.remove(0);
        slot.fill(0);
        let slot = slot.freeze();
        let offset_bytes = self.layout.place_bytes(half, 0);
        io.write(vec![Run { offset_bytes, slots: vec![slot.clone(), slot] }]).await
    }

    /// Durable places of which one copy was damaged when the log was read.
    pub(crate) fn weak_places(&self) -> &[u64] {
        &self.weak_places
    }

    #[cfg(test)]
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }
}

/// What the head of a half is found to be.
#[derive(Clone, Copy, PartialEq, Debug)]
enum FoundHead {
    /// Never written by this parity group.
    Blank,
    /// Neither copy is a head.
    Bad,
    /// A head.
    Head(u64, Head),
}

/// Which half is current: one row for each combination of what the two heads are found to be.
fn choose(a: &FoundHead, b: &FoundHead) -> Result<Option<(Half, u64, Head)>, String> {
    use FoundHead::{Bad, Blank, Head};
    match (*a, *b) {
        // The first format never finished: B is written after A is durable, and nothing was logged before that.
        (Blank | Bad, Blank) => Ok(None),
        (Blank | Bad, Bad) | (Blank, Head(..)) => {
            Err("neither head of its map log can be believed: the first is gone".to_owned())
        }
        (Head(generation, head), Blank | Bad) => current(Half::A, generation, head),
        (Bad, Head(generation, head)) => current(Half::B, generation, head),
        (Head(ga, head), Head(gb, _)) if ga > gb => current(Half::A, ga, head),
        (Head(..), Head(gb, head)) => current(Half::B, gb, head),
    }
}

fn current(half: Half, generation: u64, head: Head) -> Result<Option<(Half, u64, Head)>, String> {
    match head.successor {
        None => Ok(Some((half, generation, head))),
        Some(successor) => Err(format!(
            "head {generation} of its map log was taken over by {successor}, whose head cannot be read"
        )),
    }
}

/// Reads the log back.
struct Reader<'a> {
    io: &'a GroupIo,
    layout: Layout,
    identity: u128,
}

impl Reader<'_> {
    /// The head of a half, and whether both of its copies say so.
    async fn head(&self, half: Half) -> Result<(FoundHead, bool), VolumeError> {
        let mut found = FoundHead::Blank;
        let mut heads = Vec::new();
        for copy in self.copies(half, 0, 1).await?.into_iter().flatten() {
            match copy {
                Found::Block(Block { stamp, body: Body::Head(head), .. })
                    if stamp.identity == self.identity =>
                {
                    heads.push(FoundHead::Head(stamp.generation, head));
                }
                // Left by another parity group that once lived on these units: as good as blank.
                Found::Block(block) if block.stamp.identity != self.identity => {}
                Found::Block(_) | Found::Bad => found = FoundHead::Bad,
                Found::Blank => {}
            }
        }
        let is_whole = matches!(heads[..], [first, second] if first == second);
        Ok((heads.first().copied().unwrap_or(found), is_whole))
    }

    /// The map, and the durable places that only one sound copy is left of.
    async fn replay(
        &self,
        half: Half,
        generation: u64,
        snapshot_places: u64,
    ) -> Result<(Map, Vec<u64>), VolumeError> {
        let mut replay = Replay::default();
        let (mut place, mut previous, mut end) = (1, 0, None);
        let (mut weak, mut durable) = (Vec::new(), snapshot_places);
        // A commit counts when its last block is there.
        let mut commit = Vec::new();
        while place < self.layout.places() {
            let count = (self.layout.places() - place).min(PLACES_PER_READ);
            for copies in self.copies(half, place, count).await? {
                let [first, second] = copies.map(|found| self.belongs(found, generation, place));
                let is_weak = first.is_none() || second.is_none();
                match (end, first.or(second)) {
                    (None, Some((block, records))) if block.previous == previous => {
                        previous = block.checksum;
                        durable = durable.max(block.durable_place);
                        weak.extend(is_weak.then_some(place));
                        commit.extend(records);
                        let whole = if block.goes_on { Vec::new() } else { std::mem::take(&mut commit) };
                        for record in whole {
                            let done = replay.handle_record(record, self.layout.extents);
                            done.map_err(|what| self.io.damaged(what))?;
                        }
                    }
                    (None, _) if place <= snapshot_places => {
                        return Err(self
                            .io
                            .damaged(format!("place {place} of the snapshot of its map is damaged")));
                    }
                    (None, block) => {
                        end = Some(place);
                        self.check_void(place, place, block.map(|(block, _)| block))?;
                    }
                    (Some(end), block) => self.check_void(end, place, block.map(|(block, _)| block))?,
                }
                place += 1;
            }
        }
        // What was not known to be durable may have been cut off by a crash between its copies.
        weak.retain(|place| *place <= durable);
        let map = replay.finish(self.layout.extents).map_err(|what| self.io.damaged(what))?;
        Ok((map, weak))
    }

    /// Behind the end of the log a block may stand that a crash let through, but none that knew the missing one to be
    /// durable.
    fn check_void(&self, end: u64, place: u64, block: Option<Belongs>) -> Result<(), VolumeError> {
        match block {
            Some(block) if block.durable_place >= end => Err(self.io.damaged(format!(
                "place {end} of its map log is damaged: place {place} says that it was durable"
            ))),
            _ => Ok(()),
        }
    }

    fn belongs(&self, found: Found, generation: u64, place: u64) -> Option<(Belongs, Vec<Record>)> {
        let Found::Block(Block { stamp, checksum, body: Body::Records(records) }) = found else {
            return None;
        };
        let mine = (self.identity, generation, place);
        ((stamp.identity, stamp.generation, stamp.place) == mine).then_some((
            Belongs {
                checksum,
                previous: stamp.previous,
                durable_place: stamp.durable_place,
                goes_on: stamp.goes_on,
            },
            records,
        ))
    }

    /// Both copies of some places. A place that cannot be read is as bad as one that is damaged.
    async fn copies(&self, half: Half, place: u64, count: u64) -> Result<Vec<[Found; 2]>, VolumeError> {
        let count = usize::try_from(count).expect("a few places");
        let slots = self.io.pool.take(Class::Restore, 2 * count).await;
        let offset_bytes = self.layout.place_bytes(half, place);
        let Ok(slots) = self.io.read(offset_bytes, slots).await else {
            return self.copies_one_by_one(offset_bytes, count).await;
        };
        slots.chunks_exact(2).map(|pair| Ok([self.decode(&pair[0])?, self.decode(&pair[1])?])).collect()
    }

    async fn copies_one_by_one(
        &self,
        offset_bytes: u64,
        count: usize,
    ) -> Result<Vec<[Found; 2]>, VolumeError> {
        let mut places = Vec::with_capacity(count);
        for place in 0..count as u64 {
            let mut pair = [Found::Bad, Found::Bad];
            for (copy, found) in pair.iter_mut().enumerate() {
                let at = offset_bytes + place * PLACE_BYTES + (copy * SLOT_BYTES) as u64;
                let slot = self.io.pool.take(Class::Restore, 1).await;
                if let Ok(slot) = self.io.read(at, slot).await {
                    *found = self.decode(&slot[0])?;
                }
            }
            places.push(pair);
        }
        Ok(places)
    }

    fn decode(&self, bytes: &[u8; SLOT_BYTES]) -> Result<Found, VolumeError> {
        decode(bytes).map_err(|what| self.io.damaged(what))
    }
}

/// What replay needs of a block that belongs where it was found.
struct Belongs {
    checksum: u32,
    previous: u32,
    durable_place: u64,
    goes_on: bool,
}

/// What some blocks are the end of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Each counts for itself: a snapshot, which counts as a whole when its head is there.
    OfEach,
    /// The last is the end of a commit.
    OfCommit,
    /// The commit goes on behind them.
    GoesOn,
}

/// Places written with one call; bounds the memory of a snapshot.
const PLACES_PER_WRITE: usize = 8;
/// Places read with one call; 8 slots, so that the smallest pool can start.
const PLACES_PER_READ: u64 = 4;
