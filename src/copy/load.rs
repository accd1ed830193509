//! Getting updates back: from memory while they are kept there, else from the journal volume.

use super::change::Payload;
use super::error::CopyError;
use super::group::Group;
use crate::disk::slot::{Class, SLOT_BYTES, Slot};
use holdfast_journal::{DataPlace, Stored, Update, UpdateNumber};
use std::sync::Arc;

impl Group {
    /// Durable updates from `first` on, in order without a gap: at most `count`, and no further one once `bytes` of
    /// write data are there. At least one unless `first` is not durable or no longer held.
    pub(crate) async fn load(
        &self,
        first: UpdateNumber,
        count: usize,
        bytes: usize,
        class: Class,
    ) -> Result<Vec<(Arc<Update>, Payload)>, CopyError> {
        let from_memory = self.load_from_memory(first, count, bytes);
        if !from_memory.is_empty() || first > self.durable_here() {
            return Ok(from_memory);
        }
        self.load_from_volume(first, count, bytes, class).await
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
        let Some(located) = self.lock().journal.locate(first) else { return Ok(Vec::new()) };
        let pages = usize::try_from(located.info_bytes).unwrap_or(usize::MAX) / SLOT_BYTES;
        let info = self.read_journal(located.info_offset, pages, class).await?;
        let joined: Vec<u8> = info.iter().flat_map(|slot| slot.iter().copied()).collect();
        // Freed and written again while it was read? Then the number is no longer held.
        if self.lock().journal.locate(first) != Some(located) {
            return Ok(Vec::new());
        }
        let stored = self
            .lock()
            .journal
            .decode_batch(&located, &joined)
            .map_err(|error| self.damaged(first, &error.to_string()))?;
        let (mut found, mut total) = (Vec::new(), 0);
        for Stored { update, place } in stored.into_iter().skip_while(|stored| stored.update.number < first) {
            if found.len() >= count || (total >= bytes && !found.is_empty()) {
                break;
            }
            let payload = self.load_payload(&update, place, class).await?;
            total += payload.slots.len() * SLOT_BYTES;
            found.push((Arc::new(update), payload));
        }
        if self.lock().journal.locate(first) != Some(located) {
            return Ok(Vec::new());
        }
        Ok(found)
    }

    /// The write data of one update, checked against the checksum made when it arrived.
    pub(crate) async fn load_payload(
        &self,
        update: &Update,
        place: Option<DataPlace>,
        class: Class,
    ) -> Result<Payload, CopyError> {
        let Some(place) = place else { return Ok(Payload::default()) };
        let pages = usize::try_from(place.blocks).unwrap_or(usize::MAX);
        let slots = self.read_journal(place.volume_offset_bytes, pages, class).await?;
        let payload = Payload { slots, skip: place.skip_bytes, bytes: update.data_bytes };
        if payload.crc32c() == update.data_crc32c {
            Ok(payload)
        } else {
            Err(self.damaged(update.number, "the checksum of its write data is wrong"))
        }
    }

    async fn read_journal(
        &self,
        offset_bytes: u64,
        pages: usize,
        class: Class,
    ) -> Result<Vec<Slot>, CopyError> {
        Ok(self.journal_volume.read(offset_bytes, pages, class).await?)
    }

    fn damaged(&self, number: UpdateNumber, what: &str) -> CopyError {
        CopyError::Damaged(format!("group {}: update {number} in the journal: {what}", self.name))
    }
}
