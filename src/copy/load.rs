//! Getting updates back: from memory while they are kept there, else from the journal volume.

use super::change::Payload;
use super::error::CopyError;
use super::group::Group;
use super::inherited::named_here;
use super::suspend::{INFORMATION_UPDATES, Information};
use crate::disk::slot::{Class, SLOT_BYTES, Slot};
use crate::disk::{RawVolume, VolumeId};
use holdfast_journal::chain::Held;
use holdfast_journal::{DataPlace, Stored, Update, UpdateNumber, VolumeNumber};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

/// Journal volumes that are open.
#[derive(Debug, Default)]
pub(crate) struct Opened(Mutex<BTreeMap<u32, Arc<RawVolume>>>);

impl Group {
    /// A journal volume, to be read or written.
    pub(crate) fn raw(&self, volume: VolumeNumber) -> Result<Arc<RawVolume>, CopyError> {
        let mut opened = self.opened.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(raw) = opened.get(&volume.0) {
            return Ok(raw.clone());
        }
        let raw = Arc::new(self.disk.raw(VolumeId(volume.0))?);
        opened.insert(volume.0, raw.clone());
        Ok(raw)
    }

    /// Durable updates from `first` on, in order without a gap: at most `count`, and no further one once `bytes` of
    /// write data are there. At least one unless `first` is not durable or no longer held.
    pub(crate) async fn load(
        &self,
        first: UpdateNumber,
        count: usize,
        bytes: usize,
        class: Class,
    ) -> Result<Vec<(Arc<Update>, Payload)>, CopyError> {
        loop {
            let from_memory = self.load_from_memory(first, count, bytes);
            if !from_memory.is_empty() || first > self.durable_here() {
                return Ok(from_memory);
            }
            let found = self.load_from_volume(first, count, bytes, class).await?;
            // It may have become durable in between, and is in memory.
            if !found.is_empty() || self.lock().kept.get(first).is_none() {
                return Ok(found);
            }
        }
    }

    /// The information of updates from `first` on, durable or not, without their data; empty if `first` is no longer
    /// held.
    pub(crate) async fn load_information(
        &self,
        first: UpdateNumber,
        class: Class,
    ) -> Result<Information, CopyError> {
        let located = {
            let seq = self.lock();
            let mut found = Vec::new();
            let mut number = first;
            while found.len() < INFORMATION_UPDATES
                && let Some(kept) = seq.kept.get(number)
            {
                found.push(kept.update.clone());
                number = number.next();
            }
            if !found.is_empty() {
                return Ok(found);
            }
            seq.journal.locate(first)
        };
        let Some(mut held) = located else { return Ok(Vec::new()) };
        let stored = loop {
            let stored = match self.load_records(first, &held, class).await {
                Err(error) if self.lose(first, &held, &error) => Vec::new(),
                stored => stored?,
            };
            match self.moved(first, &held) {
                Some(place) if stored.is_empty() => held = place,
                _ => break stored,
            }
        };
        let wanted = stored.into_iter().map(|stored| stored.update).filter(|update| update.number >= first);
        Ok(wanted.collect())
    }

    /// The records of the group commit that holds `first`; none if it is no longer held.
    async fn load_records(
        &self,
        first: UpdateNumber,
        held: &Held,
        class: Class,
    ) -> Result<Vec<Stored>, CopyError> {
        let located = held.located;
        let pages = usize::try_from(located.info_bytes).unwrap_or(usize::MAX) / SLOT_BYTES;
        let info = self.read_journal(held.volume, located.info_offset, pages, class).await?;
        let joined = info.iter().map(|slot| slot.as_slice()).collect::<Vec<_>>().concat();
        // Freed and written again while it was read? Then the number is no longer held there.
        let now = self.lock().journal.locate(first);
        let Some(now) = now.filter(|now| now.is_same_place(held)) else { return Ok(Vec::new()) };
        // Outside of the lock: hosts do not wait for a reader that catches up.
        let stored = now.decode(&joined).map_err(|error| self.damaged(first, &error.to_string()))?;
        let inherited = self.lock().inherited.clone();
        Ok(named_here(inherited.as_deref(), stored))
    }

    /// Where `first` lies, if that is another place than this one.
    fn moved(&self, first: UpdateNumber, held: &Held) -> Option<Held> {
        self.lock().journal.locate(first).filter(|now| !now.is_same_place(held))
    }

    /// The highest number that is durable in the journal here. Not the gate: that opens when a journal is left.
    pub(crate) fn durable_here(&self) -> UpdateNumber {
        self.lock().journal.durable()
    }

    fn load_from_memory(
        &self,
        first: UpdateNumber,
        count: usize,
        bytes: usize,
    ) -> Vec<(Arc<Update>, Payload)> {
        let seq = self.lock();
        let durable = seq.journal.durable();
        let (mut found, mut total, mut number) = (Vec::new(), 0, first);
        while number <= durable && found.len() < count && (total < bytes || found.is_empty()) {
            let Some(kept) = seq.kept.get(number) else { break };
            total += kept.payload.slots.len() * SLOT_BYTES;
            found.push((kept.update.clone(), kept.payload.clone()));
            number = number.next();
        }
        found
    }

    async fn load_from_volume(
        &self,
        first: UpdateNumber,
        count: usize,
        bytes: usize,
        class: Class,
    ) -> Result<Vec<(Arc<Update>, Payload)>, CopyError> {
        let mut found: Vec<(Arc<Update>, Payload)> = Vec::new();
        let (mut total, mut number) = (0, first);
        // One group commit after the other; what is in memory again is taken from there next time.
        while found.len() < count && total < bytes && self.lock().kept.get(number).is_none() {
            let batch = self.load_batch(number, count - found.len(), bytes - total, class).await?;
            let Some((newest, _)) = batch.last() else { break };
            number = newest.number.next();
            total += batch.iter().map(|(_, payload)| payload.slots.len() * SLOT_BYTES).sum::<usize>();
            found.extend(batch);
        }
        Ok(found)
    }

    /// Updates of the group commit that holds `first`, from it on.
    async fn load_batch(
        &self,
        first: UpdateNumber,
        count: usize,
        bytes: usize,
        class: Class,
    ) -> Result<Vec<(Arc<Update>, Payload)>, CopyError> {
        let located = self.lock().journal.locate(first);
        let Some(mut held) = located else { return Ok(Vec::new()) };
        loop {
            let found = match self.load_held(first, &held, count, bytes, class).await {
                Err(error) if self.lose(first, &held, &error) => Vec::new(),
                found => found?,
            };
            match self.moved(first, &held) {
                Some(place) if found.is_empty() => held = place,
                _ => return Ok(found),
            }
        }
    }

    async fn load_held(
        &self,
        first: UpdateNumber,
        held: &Held,
        count: usize,
        bytes: usize,
        class: Class,
    ) -> Result<Vec<(Arc<Update>, Payload)>, CopyError> {
        let stored = self.load_records(first, held, class).await?;
        let mut total = 0;
        let wanted: Vec<Stored> = stored
            .into_iter()
            .skip_while(|stored| stored.update.number < first)
            .take(count)
            .take_while(|stored| {
                let fits = total < bytes;
                total += pages_at(stored.place) * SLOT_BYTES;
                fits
            })
            .collect();
        let found = self.load_payloads(held.volume, wanted, class).await;
        let now = self.lock().journal.locate(first);
        if !now.is_some_and(|now| now.is_same_place(held)) {
            return Ok(Vec::new()); // Written again while it was read: what looks damaged is something else.
        }
        found
    }

    /// The write data of updates that follow each other. The journal wrote it as one run where it could, and it is read
    /// so: one read for each [`READ_PAGES`], not for each update.
    async fn load_payloads(
        &self,
        volume: VolumeNumber,
        stored: Vec<Stored>,
        class: Class,
    ) -> Result<Vec<(Arc<Update>, Payload)>, CopyError> {
        let pages_max = READ_PAGES.min(self.pool.largest_request(class) / 4).max(1);
        let mut found = Vec::with_capacity(stored.len());
        let mut waiting = VecDeque::from(stored);
        while !waiting.is_empty() {
            let (mut run, mut start, mut pages) = (Vec::new(), None, 0);
            while let Some(stored) = waiting.front() {
                if let Some(place) = stored.place {
                    let from = *start.get_or_insert(place.volume_offset_bytes);
                    let follows = place.volume_offset_bytes == from + (pages * SLOT_BYTES) as u64;
                    if pages > 0 && (!follows || pages + pages_at(stored.place) > pages_max) {
                        break;
                    }
                    pages += pages_at(stored.place);
                }
                run.extend(waiting.pop_front());
            }
            let mut slots = match start {
                Some(start) => self.read_journal(volume, start, pages, class).await?.into_iter(),
                None => Vec::new().into_iter(),
            };
            for Stored { update, place } in run {
                let payload = Payload {
                    slots: slots.by_ref().take(pages_at(place)).collect(),
                    skip: place.map_or(0, |place| place.skip_bytes),
                    bytes: update.data_bytes,
                };
                if payload.checksum() != update.data_checksum {
                    return Err(self.damaged(update.number, "the checksum of its write data is wrong"));
                }
                found.push((update, payload));
            }
        }
        Ok(found)
    }

    async fn read_journal(
        &self,
        volume: VolumeNumber,
        offset_bytes: u64,
        pages: usize,
        class: Class,
    ) -> Result<Vec<Slot>, CopyError> {
        self.unit_reads.fetch_add(1, Ordering::Relaxed);
        Ok(self.raw(volume)?.read(offset_bytes, pages, class).await?)
    }

    fn damaged(&self, number: UpdateNumber, what: &str) -> CopyError {
        CopyError::Damaged(format!("group {}: update {number} in the journal: {what}", self.name))
    }
}

impl Opened {
    /// It is no journal volume any more, or will be opened again.
    pub(crate) fn forget(&self, volume: VolumeNumber) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&volume.0);
    }
}

/// Pages of write data that an update has.
fn pages_at(place: Option<DataPlace>) -> usize {
    place.map_or(0, |place| usize::try_from(place.blocks).unwrap_or(usize::MAX))
}

/// Pages of one read of the journal volume, unless a single update has more: 1 MiB.
const READ_PAGES: usize = 256;
