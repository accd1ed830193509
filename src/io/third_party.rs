//! EXTENDED COPY: copies between volumes of one nexus.
//!
//! # What it guarantees
//! * A volume is found in the nexus' own map of LUNs and nowhere else; before each step it is looked up again, with its
//!   access: a copy ends when a mapping or the right to read or write goes away meanwhile.
//! * Each step of at most 1 MiB is one write of the destination like any other: on a P-VOL one update. What the source never
//!   wrote, and what it holds of zero pages, travels as zero ranges, not as bytes.
//! * Where source and destination lie alike in their pages no byte is copied: the pages are shared by handle.
//! * A copy within one volume whose ranges overlap moves the source as it was when the step reads it, from the end if the
//!   destination lies behind: as if the source had been read whole before.
//!
//! # Limits
//! [`MAX_COPY_SEGMENTS`](holdfast_scsi::MAX_COPY_SEGMENTS) of
//! [`MAX_COPY_SEGMENT_BYTES`](holdfast_scsi::MAX_COPY_SEGMENT_BYTES) a command; the end of the session ends it at the next
//! step. A session remembers the outcome of one copy for each of the 256 identifiers.

use super::host::{Task, good};
use super::lun::LunUnit;
use super::luns::LunMap;
use super::volume::{IoError, Outcome};
use crate::channel::storage::{AfterData, Completed, Completion};
use crate::copy::change::{Change, Content, Part, pages_touched, within_page};
use crate::disk::cache::{Piece, Pieces};
use crate::disk::slot::{Class, SLOT_BYTES, Slot, SlotMut, SlotPool};
use holdfast_scsi::{
    CopyList, CopyOutcome, CopyQuestion, CopySegment, CopyTarget, Lba, MAX_COPY_SEGMENT_BYTES, Response,
    Sense, WriteCache,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most bytes of one step; a step ends where a multiple of it begins at the destination, so it has at most 256 pages and
/// its parts fit one update.
const STEP_BYTES: u64 = 1 << 20;

/// The copies of one session, by their identifiers.
#[derive(Default)]
pub(super) struct Copies(Mutex<BTreeMap<u8, Copy>>);

#[derive(Clone)]
enum Copy {
    Running,
    Ended(CopyOutcome),
}

impl Copies {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u8, Copy>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// RECEIVE COPY RESULTS. Of a copy that runs it says that nothing has been copied yet.
    pub(super) fn answer(&self, question: CopyQuestion, identifier: u8, allocation_length: u32) -> Response {
        match (self.lock().get(&identifier), question) {
            (None, _) => Response::check(Sense::invalid_field_in_cdb(2)),
            (Some(Copy::Running), CopyQuestion::Status) => CopyOutcome::running_status(allocation_length),
            (Some(Copy::Running), CopyQuestion::Failure) => CopyOutcome::default().failure(allocation_length),
            (Some(Copy::Ended(outcome)), CopyQuestion::Status) => outcome.status(allocation_length),
            (Some(Copy::Ended(outcome)), CopyQuestion::Failure) => outcome.failure(allocation_length),
        }
    }

    /// Takes an identifier; `false` if a copy of it runs.
    fn begin(&self, identifier: u8) -> bool {
        let mut copies = self.lock();
        let free = !matches!(copies.get(&identifier), Some(Copy::Running));
        if free {
            copies.insert(identifier, Copy::Running);
        }
        free
    }

    fn end(&self, identifier: Option<u8>, outcome: CopyOutcome) {
        if let Some(identifier) = identifier {
            self.lock().insert(identifier, Copy::Ended(outcome));
        }
    }
}

/// What a copy needs of its session.
pub(super) struct Copier {
    pub(super) luns: Arc<LunMap>,
    pub(super) pool: SlotPool,
    pub(super) copies: Arc<Copies>,
    pub(super) task: Task,
}

/// A volume of the copy: where it was found, and what it is.
#[derive(Clone)]
struct Found {
    lun: u16,
    unit: Arc<LunUnit>,
}

/// A segment in bytes of volumes that were found.
struct Stretch {
    from: Found,
    from_offset: u64,
    to: Found,
    to_offset: u64,
    length: u64,
}

impl Copier {
    /// Everything that can be said without copying, then the copy. `list` is what came of the parameter list.
    pub(super) fn run(self, list: &[u8]) -> AfterData {
        let moved = list.len() as u64;
        let list = match CopyList::parse(list) {
            Ok(None) => return good(moved),
            Ok(Some(list)) => list,
            Err(sense) => return self.task.fail(sense),
        };
        if let Some(identifier) = list.identifier
            && !self.copies.begin(identifier)
        {
            return self.task.fail(Sense::OPERATION_IN_PROGRESS);
        }
        let stretches: Result<Vec<Stretch>, Sense> =
            list.segments.iter().map(|segment| self.stretch(&list, segment)).collect();
        let stretches = match stretches {
            Ok(stretches) => stretches,
            Err(sense) => {
                let outcome =
                    CopyOutcome { sense: sense.to_bytes(self.task.format), ..CopyOutcome::default() };
                self.copies.end(list.identifier, outcome);
                return self.task.fail(sense);
            }
        };
        AfterData::Later(Box::pin(async move {
            let mut outcome = CopyOutcome::default();
            let copied = self.copy(&stretches, &mut outcome).await;
            let sense = copied.err();
            outcome.sense = sense.map(|sense| sense.to_bytes(self.task.format)).unwrap_or_default();
            self.copies.end(list.identifier, outcome);
            match sense {
                None => Completed::Done(Completion::good(moved)),
                Some(sense) => super::host::completed(Response::check(sense), self.task.format),
            }
        }))
    }

    fn stretch(&self, list: &CopyList, segment: &CopySegment) -> Result<Stretch, Sense> {
        let named = |index: u16| {
            let target = list.targets.get(usize::from(index)).ok_or(Sense::COPY_TARGET_UNREACHABLE)?;
            self.find(target)
        };
        let (from, to) = (named(segment.source)?, named(segment.destination)?);
        let (from_block, to_block) = (from.block_bytes(), to.block_bytes());
        let unit = if segment.counts_destination { to_block } else { from_block };
        let length = u64::from(segment.blocks) * unit;
        if length > u64::from(MAX_COPY_SEGMENT_BYTES)
            || !length.is_multiple_of(from_block)
            || !length.is_multiple_of(to_block)
        {
            return Err(Sense::COPY_SEGMENT_LENGTH);
        }
        let from_offset = from.place(segment.source_start, length)?;
        let to_offset = to.place(segment.destination_start, length)?;
        Ok(Stretch { from, from_offset, to, to_offset, length })
    }

    fn find(&self, target: &CopyTarget) -> Result<Found, Sense> {
        let luns = self.luns.all();
        let mut named = luns.into_iter().filter(|(_, unit)| {
            let guard = unit.unit();
            target.means(guard.identity(), guard.geometry().block_size.bytes())
        });
        named.next().map(|(lun, unit)| Found { lun, unit }).ok_or(Sense::COPY_TARGET_UNREACHABLE)
    }

    async fn copy(&self, stretches: &[Stretch], outcome: &mut CopyOutcome) -> Result<(), Sense> {
        for stretch in stretches {
            for (at, length) in stretch.steps() {
                if self.task.nexus.is_ending() {
                    return Err(Sense::COPY_ABORTED);
                }
                self.check(&stretch.from, false)?;
                self.check(&stretch.to, true)?;
                self.step(stretch, at, length).await.map_err(|error| {
                    let volume = stretch.to.unit.volume.number;
                    tracing::warn!(volume, %error, "a copy between volumes failed");
                    Sense::COPY_ABORTED
                })?;
                outcome.bytes += length;
            }
            outcome.segments += 1;
        }
        Ok(())
    }

    /// Whether the nexus may still do that to the volume.
    fn check(&self, found: &Found, writes: bool) -> Result<(), Sense> {
        let now = self.luns.get(found.lun).filter(|now| Arc::ptr_eq(now, &found.unit));
        let unit = now.ok_or(Sense::COPY_TARGET_UNREACHABLE)?;
        let guard = unit.unit();
        let grant = unit.grant(&self.task.nexus.initiator);
        guard.check_copy(grant, writes).map_err(|_| Sense::COPY_ABORTED)
    }

    async fn step(&self, stretch: &Stretch, at: u64, length: u64) -> Result<(), IoError> {
        let bytes = usize::try_from(length).unwrap_or(usize::MAX);
        let (source, target) = (&stretch.from.unit, &stretch.to.unit);
        let held = match source.volume.read(stretch.from_offset + at, bytes) {
            Outcome::Ready(held) => held?,
            Outcome::Later(reading) => reading.await?,
        };
        let parts = self.parts(&held, stretch.from_offset + at, stretch.to_offset + at, length).await;
        drop(held);
        source.counters.read(length);
        target.counters.wrote(length);
        let durable = target.unit().write_cache() == WriteCache::Through;
        let change = Change::new(target.volume.number, parts);
        match target.volume.write(change, durable, &self.task.nexus) {
            Outcome::Ready(written) => written,
            Outcome::Later(writing) => writing.await,
        }
    }

    /// What was read as parts of a change at another place, zero pages as ranges.
    async fn parts(&self, held: &Pieces, from: u64, to: u64, length: u64) -> Vec<Part> {
        let mut parts = Parts { at: to, found: Vec::new() };
        if within_page(from) == within_page(to) {
            for piece in held.iter() {
                match piece {
                    Piece::Bytes { slot, start, length } => parts.push(slot, *start, *length),
                    Piece::Zero { length } => parts.push_zero(*length),
                }
            }
            return parts.found;
        }
        // The pages do not fit: their bytes are moved. What was read is held, so this is of an earlier class.
        let mut pages = self.pool.take(Class::JournalRead, pages_touched(to, length)).await;
        let first = usize::from(within_page(to));
        fill(&mut pages, first, held);
        let mut left = usize::try_from(length).unwrap_or(usize::MAX);
        let mut start = first;
        for page in pages {
            let length = left.min(SLOT_BYTES - start);
            parts.push(&page.freeze(), start, length);
            (start, left) = (0, left - length);
        }
        parts.found
    }
}

impl Found {
    fn block_bytes(&self) -> u64 {
        u64::from(self.unit.volume.block_bytes)
    }

    /// The first byte of a range, if the volume has all of it.
    fn place(&self, start: Lba, length: u64) -> Result<u64, Sense> {
        let offset = start.0.checked_mul(self.block_bytes()).ok_or(Sense::COPY_ABORTED)?;
        let end = offset.checked_add(length).ok_or(Sense::COPY_ABORTED)?;
        if end <= self.unit.volume.capacity_bytes() { Ok(offset) } else { Err(Sense::COPY_ABORTED) }
    }
}

impl Stretch {
    /// Offset in the stretch and length of each step, in the order in which they have to be copied.
    fn steps(&self) -> Vec<(u64, u64)> {
        let mut steps = Vec::new();
        let mut at = 0;
        while at < self.length {
            let step = (STEP_BYTES - (self.to_offset + at) % STEP_BYTES).min(self.length - at);
            steps.push((at, step));
            at += step;
        }
        let one_volume = self.from.unit.volume.number == self.to.unit.volume.number;
        if one_volume && self.to_offset > self.from_offset {
            steps.reverse();
        }
        steps
    }
}

/// Parts under construction: what is alike becomes one.
struct Parts {
    at: u64,
    found: Vec<Part>,
}

impl Parts {
    /// Part of a page, at its place in the page.
    fn push(&mut self, slot: &Slot, start: usize, length: usize) {
        if slot[start..start + length].iter().all(|byte| *byte == 0) {
            return self.push_zero(length);
        }
        let length = length as u64;
        match self.found.last_mut() {
            Some(Part { length_bytes, content: Content::Data(slots), .. }) => {
                *length_bytes += length;
                slots.push(slot.clone());
            }
            _ => self.found.push(Part::data(self.at, length, vec![slot.clone()])),
        }
        self.at += length;
    }

    fn push_zero(&mut self, length: usize) {
        let length = length as u64;
        match self.found.last_mut() {
            Some(Part { length_bytes, content: Content::Zero, .. }) => *length_bytes += length,
            _ => self.found.push(Part::zero(self.at, length)),
        }
        self.at += length;
    }
}

/// Puts what was read into pages, from `first` of the first one on.
fn fill(pages: &mut [SlotMut], first: usize, held: &Pieces) {
    let mut at = first;
    for piece in held.iter() {
        let mut done = 0;
        while done < piece.length() {
            let from = at % SLOT_BYTES;
            let length = (SLOT_BYTES - from).min(piece.length() - done);
            let place = &mut pages[at / SLOT_BYTES][from..from + length];
            match piece {
                Piece::Bytes { slot, start, .. } => place.copy_from_slice(&slot[start + done..][..length]),
                Piece::Zero { .. } => place.fill(0),
            }
            (at, done) = (at + length, done + length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_alike_becomes_one_part_and_zero_pages_carry_no_bytes() {
        let pool = SlotPool::new(1 << 20);
        let page = |filling: u8| {
            let mut slot = pool.try_take(Class::Host, 1).unwrap().remove(0);
            slot.fill(filling);
            slot.freeze()
        };
        let mut parts = Parts { at: 512, found: Vec::new() };
        parts.push(&page(1), 512, 3584);
        parts.push(&page(2), 0, 4096);
        parts.push(&page(0), 0, 4096);
        parts.push_zero(8192);
        parts.push(&page(3), 0, 1024);
        let shape: Vec<(u64, u64, usize)> = parts
            .found
            .iter()
            .map(|part| match &part.content {
                Content::Data(slots) => (part.offset_bytes, part.length_bytes, slots.len()),
                Content::Zero | Content::Pattern { .. } => (part.offset_bytes, part.length_bytes, 0),
            })
            .collect();
        assert_eq!(shape, [(512, 7680, 2), (8192, 12288, 0), (20480, 1024, 1)]);
    }

    #[test]
    fn bytes_move_to_any_place_of_their_pages() {
        let pool = SlotPool::new(1 << 20);
        let mut slot = pool.try_take(Class::Host, 1).unwrap().remove(0);
        for (place, byte) in slot.iter_mut().enumerate() {
            *byte = u8::try_from(place % 251).unwrap();
        }
        let slot = slot.freeze();
        let bytes = Piece::Bytes { slot, start: 512, length: 3584 };
        let held: Pieces = [bytes, Piece::Zero { length: 5000 }].into_iter().collect();
        for first in [0, 512, 1024, 3584] {
            let mut pages = pool.try_take(Class::Host, pages_touched(first as u64, 8584)).unwrap();
            pages.iter_mut().for_each(|page| page.fill(0xAA));
            fill(&mut pages, first, &held);
            let flat: Vec<u8> = pages.iter().flat_map(|page| page[..].to_vec()).collect();
            assert_eq!(flat[first..first + 8584], held.to_vec());
        }
    }
}
