//! `holdfast relay-check … --apply`: the updates that a relay holds, written onto images of the P-VOLs, when there is no array left
//! to take them (`docs/operations.md`).
//!
//! # What it guarantees
//! * What is written is what a copy would have restored: every batch is checked as one of the chain, then as the answer to a
//!   journal read, by the code of a copy.
//! * It begins with the update behind the one that the images are said to be of, and goes strictly by number, to the end of the chain or to the
//!   first update that is not there, is damaged, or stands for a change that went another way. It says how far it came.
//! * Done again with the same words it writes the same: so it may be killed at any point.
//!
//! Whether the images are of the update that the operator names, nobody can check here.

use crate::copy::answer::Head;
use crate::copy::change::Payload;
use crate::copy::received;
use crate::copy::restore::pages_of;
use crate::disk::slot::{Class, SLOT_BYTES, Slot, SlotMut, SlotPool};
use holdfast_journal::format::relay::{Batch, MAX_PAYLOAD_BLOCKS};
use holdfast_journal::{Content, Extent, Kind, Update, UpdateNumber};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Which images, and what they are of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The image of each P-VOL, by the number of the P-VOL at the first array; a file or a block device.
    pub images: Vec<(u32, PathBuf)>,
    /// They hold everything up to this update, and nothing behind it.
    pub as_of: u64,
}

/// Images that updates are written onto.
#[derive(Debug)]
pub(crate) struct Replay {
    images: BTreeMap<u32, Image>,
    pool: SlotPool,
    as_of: UpdateNumber,
    next: UpdateNumber,
    /// Why it went no further.
    stopped: Option<String>,
    /// Updates of volumes that have no image, by volume.
    passed_over: BTreeMap<u32, u64>,
    /// From there on the P-VOLs are no image of one moment.
    broken_since: Option<UpdateNumber>,
}

#[derive(Debug)]
struct Image {
    file: File,
    bytes: u64,
}

impl Replay {
    /// # Errors
    /// An image cannot be opened, or is named twice.
    pub(crate) fn open(wanted: &Wanted) -> io::Result<Self> {
        let mut images = BTreeMap::new();
        for (volume, path) in &wanted.images {
            let named =
                |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
            let mut file = OpenOptions::new().read(true).write(true).open(path).map_err(named)?;
            let bytes = file.seek(SeekFrom::End(0)).map_err(named)?;
            if images.insert(*volume, Image { file, bytes }).is_some() {
                return Err(named(io::Error::other("its volume is named twice")));
            }
        }
        let as_of = UpdateNumber::new(wanted.as_of);
        Ok(Self {
            images,
            pool: SlotPool::new((MAX_PAYLOAD_BLOCKS as usize + 64) * SLOT_BYTES),
            as_of,
            next: as_of.next(),
            stopped: None,
            passed_over: BTreeMap::new(),
            broken_since: None,
        })
    }

    /// Takes a batch that is whole, with its answer. Batches come in the order of the chain.
    ///
    /// # Errors
    /// An image cannot be written.
    pub(crate) fn handle_batch(&mut self, batch: &Batch, answer: &[u8]) -> io::Result<()> {
        if self.stopped.is_some() || batch.last < self.next {
            return Ok(());
        }
        if batch.first > self.next {
            self.stopped = Some(format!(
                "the relay goes on with update {}, {} is wanted: what lies between was at the second array",
                batch.first, self.next
            ));
            return Ok(());
        }
        let capacities = self.images.iter().map(|(volume, image)| (*volume, image.bytes)).collect();
        match received::decode(self.slots(answer)?, batch.id.group.0, &capacities) {
            Ok((head, behind)) if is_of(&head, batch) => {
                for (update, payload) in behind.updates {
                    if update.number >= self.next && self.stopped.is_none() {
                        self.handle_update(&update, &payload, batch)?;
                    }
                }
            }
            Ok(_) => self.stopped = Some(format!("batch {}: its answer is of other updates", batch.sequence)),
            Err(error) => self.stopped = Some(format!("batch {}: {error}", batch.sequence)),
        }
        Ok(())
    }

    fn handle_update(&mut self, update: &Update, payload: &Payload, batch: &Batch) -> io::Result<()> {
        match update.kind {
            Kind::Void if !update.extents.is_empty() => {
                self.stopped =
                    Some(format!("update {} stands for a change that went directly", update.number));
                return Ok(());
            }
            Kind::Broken => self.broken_since = Some(update.number),
            Kind::Whole => self.broken_since = None,
            Kind::HostWrite => self.write(update, payload)?,
            // Of another array's pair: nobody else restores it either.
            Kind::InitialCopy(copy) if copy.reader != batch.id.second => {}
            Kind::InitialCopy(_) => self.write(update, payload)?,
            Kind::Heartbeat | Kind::Void | Kind::Bookmark(_) => {}
        }
        self.next = update.number.next();
        Ok(())
    }

    fn write(&mut self, update: &Update, payload: &Payload) -> io::Result<()> {
        let mut first_page = 0;
        for extent in &update.extents {
            let pages = pages_of(extent);
            // `decode` has counted them.
            let slots = payload.slots.get(first_page..first_page + pages).unwrap_or_default();
            match self.images.get(&extent.volume.0) {
                Some(image) => image.write(extent, slots)?,
                None => *self.passed_over.entry(extent.volume.0).or_default() += 1,
            }
            first_page += pages;
        }
        Ok(())
    }

    fn slots(&self, answer: &[u8]) -> io::Result<Vec<Slot>> {
        let count = answer.len().div_ceil(SLOT_BYTES);
        let slots = self.pool.try_take(Class::Inbound, count);
        let mut slots = slots.ok_or_else(|| io::Error::other("a batch is too large"))?;
        for (slot, part) in slots.iter_mut().zip(answer.chunks(SLOT_BYTES)) {
            let (front, rest) = slot.split_at_mut(part.len());
            front.copy_from_slice(part);
            rest.fill(0);
        }
        Ok(slots.into_iter().map(SlotMut::freeze).collect())
    }

    /// Makes it durable. What came of it in words, and why it went no further than the chain if it did not.
    ///
    /// # Errors
    /// An image cannot be made durable.
    pub(crate) fn end(self) -> io::Result<(String, Option<String>)> {
        for image in self.images.values() {
            image.file.sync_all()?;
        }
        let last = self.next.previous();
        let mut said = match last > self.as_of {
            true => format!(
                "updates {} to {last} are written: the images are as of update {last}",
                self.as_of.next()
            ),
            false => format!("nothing behind update {last} could be written"),
        };
        // Writing into a string does not fail.
        for (volume, count) in &self.passed_over {
            let _ = write!(said, "\nvolume {volume}: no image is named, {count} changes are passed over");
        }
        if let Some(since) = self.broken_since {
            let _ = write!(
                said,
                "\nfrom update {since} on they are no image of one moment: an array upstream copied into them"
            );
        }
        Ok((said, self.stopped))
    }
}

impl Image {
    fn write(&self, extent: &Extent, slots: &[Slot]) -> io::Result<()> {
        let start = extent.start_bytes;
        match extent.content {
            Content::Data => {
                let skip = usize::try_from(start % SLOT_BYTES as u64).unwrap_or(0);
                let (mut at, mut from, mut left) = (start, skip, extent.length_bytes);
                for slot in slots {
                    let length = (SLOT_BYTES - from).min(usize::try_from(left).unwrap_or(usize::MAX));
                    self.file.write_all_at(&slot[from..from + length], at)?;
                    (at, from, left) = (at + length as u64, 0, left - length as u64);
                }
                Ok(())
            }
            Content::Zero => self.fill(start, extent.length_bytes, &[0; SLOT_BYTES]),
            Content::Pattern { bytes } => {
                // `decode` lets only such pass as divide a page, and begin at a multiple of themselves.
                let pattern = slots.first().and_then(|slot| slot.get(..bytes as usize)).unwrap_or(&[0]);
                let page: Vec<u8> = pattern.iter().copied().cycle().take(SLOT_BYTES).collect();
                self.fill(start, extent.length_bytes, &page)
            }
        }
    }

    /// Repeats a page, from its first byte on.
    fn fill(&self, start: u64, length_bytes: u64, page: &[u8]) -> io::Result<()> {
        let chunk = page.repeat(FILL_PAGES);
        let (mut at, end) = (start, start.saturating_add(length_bytes));
        while at < end {
            let length = usize::try_from(end - at).unwrap_or(usize::MAX).min(chunk.len());
            self.file.write_all_at(&chunk[..length], at)?;
            at += length as u64;
        }
        Ok(())
    }
}

fn is_of(head: &Head, batch: &Batch) -> bool {
    head.first == batch.first.get() && u64::from(head.updates) == batch.last.since(batch.first) + 1
}

/// Pages that are written at once where a range is filled.
const FILL_PAGES: usize = 64;
