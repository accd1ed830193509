//! Opening a group's journal: formatting it, or finding out what a restart left in it, and replaying that.
//!
//! Nothing here is visible or answered before it has succeeded. It may be killed at any point and run again: the scan
//! writes nothing, the replay writes only what the journal holds, and nothing is freed before the next checkpoint.

use super::change::{Change, Content, Part, Payload, apply};
use super::checkpoint::CheckpointExtra;
use super::error::CopyError;
use super::group::{Group, Role};
use super::promise::Promise;
use super::restore::pages_of;
use super::settle::pages_from;
use crate::disk::slot::{Class, SLOT_BYTES, SlotPool, bytes_of};
use crate::disk::{RawVolume, VolumeError, VolumeId};
use holdfast_journal as journal;
use holdfast_journal::format::FormatParams;
use holdfast_journal::recovery::{HEAD_BYTES, Recovery, RecoveryError};
use holdfast_journal::{Journal, Kind, Update, UpdateNumber};
use std::time::Duration;

/// Why a journal cannot be opened. The device is to blame, or whoever damaged it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    /// The volume cannot be read or written.
    #[error("{0}")]
    Copy(#[from] CopyError),
    /// The volume itself.
    #[error("{0}")]
    Volume(#[from] VolumeError),
    /// What is on it.
    #[error("{0}")]
    Recovery(#[from] RecoveryError),
    /// It cannot hold a journal.
    #[error("{0}")]
    Format(#[from] holdfast_journal::format::FormatError),
    /// What it was formatted for does not fit onto it.
    #[error("its superblock is of a larger volume than this one of {volume_bytes} bytes")]
    Larger {
        /// Of this volume.
        volume_bytes: u64,
    },
    /// Its content is not what this array wrote.
    #[error("the checkpoint of the journal holds something else than this array writes")]
    Extra,
}

/// Makes an empty journal; durable when this returns. `extra` is what its first checkpoint has to know of what was
/// settled before it began.
pub(crate) async fn format(
    volume: &RawVolume,
    pool: &SlotPool,
    params: FormatParams,
    extra: &[u8],
) -> Result<Journal, JournalError> {
    let settled = if extra.is_empty() { UpdateNumber::NONE } else { params.first.previous() };
    let (head, journal) = Journal::format_following(params, settled, extra)?;
    volume.write(vec![(0, pages_from(pool, &head).await)]).await?;
    volume.flush().await?;
    Ok(journal)
}

/// Finds the journal as a restart left it, the tail verified; `end` is where the next volume of its chain begins.
pub(crate) async fn recover(
    volume: &RawVolume,
    end: Option<UpdateNumber>,
) -> Result<(Journal, CheckpointExtra), JournalError> {
    let head = read_bytes(volume, 0, HEAD_BYTES).await?;
    let mut recovery = match end {
        None => Recovery::open(&head)?,
        Some(end) => Recovery::open_until(&head, end)?,
    };
    if recovery.volume_bytes() > volume.size_bytes() {
        return Err(JournalError::Larger { volume_bytes: volume.size_bytes() });
    }
    while let Some(request) = recovery.poll_read() {
        recovery.handle_read(&read_bytes(volume, request.volume_offset, request.length).await?);
    }
    let mut recovered = recovery.finish()?;
    for verify in recovered.verify() {
        let pages = usize::try_from(verify.place.blocks).unwrap_or(usize::MAX);
        let slots = volume.read(verify.place.volume_offset_bytes, pages, Class::JournalRead).await?;
        let payload =
            Payload { slots: slots.into(), skip: verify.place.skip_bytes, bytes: verify.data_bytes };
        if payload.checksum() != verify.data_checksum {
            recovered.truncate_at(verify.number)?;
            break;
        }
    }
    let before = recovered.extra_before().and_then(CheckpointExtra::decode);
    let journal = recovered.into_journal();
    let mut extra = CheckpointExtra::decode(journal.extra()).ok_or(JournalError::Extra)?;
    extra.promise = before.map_or(extra.promise, |before| extra.promise.in_both(before.promise));
    Ok((journal, extra))
}

/// Bytes of the journal volume; a block that cannot be read is given as zeros, because every structure has a second
/// copy or is judged by what the others claim.
async fn read_bytes(volume: &RawVolume, offset_bytes: u64, length_bytes: u64) -> Result<Vec<u8>, CopyError> {
    let pages = usize::try_from(length_bytes / SLOT_BYTES as u64).unwrap_or(usize::MAX);
    if let Ok(slots) = volume.read(offset_bytes, pages, Class::JournalRead).await {
        return Ok(bytes_of(&slots));
    }
    let mut bytes = Vec::with_capacity(pages * SLOT_BYTES);
    for page in 0..pages {
        let at = offset_bytes + (page * SLOT_BYTES) as u64;
        match volume.read(at, 1, Class::JournalRead).await {
            Ok(slots) => slots.iter().for_each(|slot| bytes.extend_from_slice(slot.as_slice())),
            Err(error) => {
                tracing::warn!(%error, at, "a block of a journal volume cannot be read");
                bytes.resize(bytes.len() + SLOT_BYTES, 0);
            }
        }
    }
    Ok(bytes)
}

impl Group {
    /// Makes the volumes what the journal says: at a primary by applying every update behind the settled one again, at
    /// an auxiliary by restoring what may ever have been visible, and what is due. Afterwards the journal's first checkpoint is durable and the group may work.
    ///
    /// # Errors
    /// [`CopyError::Journal`] if a journal volume is to blame.
    pub(crate) async fn replay(&self, delay: Duration) -> Result<(), CopyError> {
        self.replay_all(delay).await.map_err(|error| self.blamed(error))?;
        // Whatever was lost before, a checkpoint that fails is not to blame on it.
        match self.checkpoint().await {
            // Its head is the checkpoint.
            Err(_) if self.take_over_at_start().await => Ok(()),
            checkpointed => checkpointed,
        }
    }

    /// Says of an error which journal volume is to blame, if one is.
    fn blamed(&self, error: CopyError) -> CopyError {
        match self.lock().volumes.unread.clone() {
            Some((volume, reason)) => CopyError::Journal { volume, reason },
            None => error,
        }
    }

    async fn replay_all(&self, delay: Duration) -> Result<(), CopyError> {
        if self.role == Role::Source {
            self.replay_source().await?;
            self.recall_times().await?;
        } else {
            self.remark_stored().await?;
            self.replay_copy(delay).await?;
        }
        Ok(())
    }

    /// What may have been visible lies on the units in part: all of it becomes visible, and what is due besides.
    async fn replay_copy(&self, delay: Duration) -> Result<(), CopyError> {
        let is_everything = self.lock().promised().visible == Promise::EVERYTHING;
        let delay = if is_everything { Duration::ZERO } else { delay };
        match self.restore_available(delay).await {
            Err(_) if self.take_over_at_start().await => self.restore_available(delay).await.map(|_| ()),
            restored => restored.map(|_| ()),
        }
    }

    /// Whether the journal, which can be read and not be written, goes on in another volume.
    async fn take_over_at_start(&self) -> bool {
        let trouble = self.lock().journal_error.take();
        match trouble {
            Some(trouble) => self.take_over(&trouble).await,
            None => false,
        }
    }

    /// Since when each reader lacks something: what its lag in seconds is measured from.
    async fn recall_times(&self) -> Result<(), CopyError> {
        let wanted: Vec<_> =
            self.lock().readers.iter().map(|(_, reader)| reader.report.restored.next()).collect();
        for number in wanted {
            let oldest = number.max(self.lock().journal.first_retained());
            let found = self.load_information(oldest, Class::Restore).await?;
            let Some(update) = found.first() else { continue };
            let age = Duration::from_nanos(self.clock.wall().0.saturating_sub(update.time_ns));
            self.lock().times.recall(number, self.clock.now(), age);
        }
        Ok(())
    }

    async fn replay_source(&self) -> Result<(), CopyError> {
        let newest = self.durable_here();
        let mut next = self.lock().settled.next();
        next = next.max(self.lock().journal.first_retained());
        while next <= newest {
            let loaded = self.load(next, 64, 1 << 20, Class::Restore).await?;
            if loaded.is_empty() {
                return Err(CopyError::Damaged(format!(
                    "group {}: update {next} is missing in its journal",
                    self.name
                )));
            }
            for (update, payload) in loaded {
                self.replay_update(&update, &payload).await?;
                next = update.number.next();
            }
        }
        self.lock().restored = newest;
        Ok(())
    }

    async fn replay_update(&self, update: &Update, payload: &Payload) -> Result<(), CopyError> {
        self.lock().mark_replayed(update);
        match update.kind {
            Kind::InitialCopy(copy) => {
                // The copy completion address is at least behind every range that has a record.
                let end = update.extents.iter().map(holdfast_journal::Extent::end_bytes).max().unwrap_or(0);
                let mut seq = self.lock();
                let pairs = seq.pairs.entry(copy.volume.0).or_default();
                for pair in pairs.iter_mut().filter(|pair| pair.reader == copy.reader) {
                    if update.number < pair.resync.copy_from.max(pair.resync.born) {
                        continue; // A step of an earlier copy.
                    }
                    pair.facts.copy_completion_bytes = pair.facts.copy_completion_bytes.max(end);
                    pair.copy_end = pair.copy_end.or(copy.last_of_pair.then_some(update.number));
                }
                Ok(())
            }
            // Step 1270 was skipped: there is nothing to repeat.
            Kind::HostWrite if self.is_of_virtual(update) => Ok(()),
            Kind::HostWrite => self.replay_write(update, payload).await,
            Kind::Heartbeat | Kind::Void | Kind::Bookmark(_) | Kind::Broken | Kind::Whole => Ok(()),
        }
    }

    async fn replay_write(&self, update: &Update, payload: &Payload) -> Result<(), CopyError> {
        let mut first_page = 0;
        for extent in &update.extents {
            let pages = pages_of(extent);
            let slots = payload.slots.get(first_page..first_page + pages).ok_or_else(|| {
                CopyError::Damaged(format!("update {} has less data than its ranges need", update.number))
            })?;
            first_page += pages;
            let content = match extent.content {
                journal::Content::Data => Content::Data(slots.to_vec()),
                journal::Content::Zero => Content::Zero,
                journal::Content::Pattern { bytes } => {
                    let slot = self.pattern_page(&slots[0], bytes, extent).await?;
                    Content::Pattern { slot, bytes }
                }
            };
            let (offset_bytes, length_bytes) = (extent.start_bytes, extent.length_bytes);
            let (volume, id) = (extent.volume.0, VolumeId(extent.volume.0));
            let prepared = match content {
                Content::Zero => {
                    self.disk.prepare_zero(id, offset_bytes, length_bytes, Class::Restore).await?
                }
                _ => self.disk.prepare(id, offset_bytes, length_bytes, Class::Restore).await?,
            };
            {
                let mut seq = self.lock();
                let end = seq.journaled_end.entry(volume).or_default();
                *end = (*end).max(offset_bytes + length_bytes);
            }
            let change = Change::new(volume, vec![Part { offset_bytes, length_bytes, content }]);
            apply(&self.disk, &change, &mut vec![prepared], update.number.get());
        }
        Ok(())
    }
}
