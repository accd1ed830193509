//! VERIFY: looks at a range in steps, so that it needs little memory however long the range is.
//!
//! What the cache holds counts as readable. What was never written is not read.

use super::host::{Task, good};
use super::manner::first_difference;
use super::volume::{IoError, Volume};
use crate::channel::piece::Received;
use crate::channel::storage::{AfterData, Completed, Completion, Nexus};
use crate::copy::change::within_page;
use crate::disk::VolumeId;
use crate::disk::slot::{Class, Slot, SlotPool};
use holdfast_scsi::{BlockRange, Lba, Sense};
use std::sync::Arc;

/// Bytes of one step.
const STEP_BYTES: u64 = 1 << 20;

/// What a range is compared with.
enum With {
    /// Nothing.
    Nothing,
    /// These pages, the first byte at its place in the first.
    Pages(Vec<Slot>),
    /// This page, again and again.
    Page(Slot),
}

impl Task {
    /// VERIFY without data.
    pub(super) fn verify_readable(self, range: BlockRange) -> AfterData {
        self.verify(range, With::Nothing, 0)
    }

    /// VERIFY of every block with the one that came for it.
    pub(super) fn verify_all(self, range: BlockRange, received: Received) -> AfterData {
        let (_, length) = self.bytes(range);
        match received {
            Received::Slots { slots, bytes } if bytes as u64 == length => {
                self.verify(range, With::Pages(slots), length)
            }
            Received::Slots { .. } | Received::Bytes(_) => self.fail(Sense::WRONG_DATA_LENGTH),
        }
    }

    /// VERIFY of all blocks with one.
    pub(super) fn verify_one(self, range: BlockRange, block: Vec<u8>, pool: SlotPool) -> AfterData {
        if block.len() != self.unit.volume.block_bytes as usize {
            return self.fail(Sense::WRONG_DATA_LENGTH);
        }
        AfterData::Later(Box::pin(async move {
            let mut page = pool.take(Class::Host, 1).await.remove(0);
            for part in page.chunks_mut(block.len()) {
                part.copy_from_slice(&block[..part.len()]);
            }
            match self.verify(range, With::Page(page.freeze()), block.len() as u64) {
                AfterData::Now(completed) => completed,
                AfterData::Later(later) => later.await,
            }
        }))
    }

    fn verify(self, range: BlockRange, with: With, moved: u64) -> AfterData {
        let (offset, length) = self.bytes(range);
        if length == 0 {
            return good(moved);
        }
        self.unit.counters.read(length);
        AfterData::Later(Box::pin(async move {
            match self.unit.volume.clone().verify(offset, length, &with, &self.nexus).await {
                Ok(()) => Completed::Done(Completion::good(moved)),
                Err((at, error)) => self.error(&error, Lba(at / u64::from(self.unit.volume.block_bytes))),
            }
        }))
    }
}

impl Volume {
    /// The error comes with the byte of the volume at which the failing step began.
    async fn verify(
        self: Arc<Self>,
        offset: u64,
        length: u64,
        with: &With,
        nexus: &Nexus,
    ) -> Result<(), (u64, IoError)> {
        let (mut at, end) = (offset, offset + length);
        while at < end {
            if nexus.is_ending() {
                return Err((at, IoError::SessionEnded));
            }
            if matches!(with, With::Nothing) {
                let written = self.disk.written(VolumeId(self.number), at);
                match written.map_err(|error| (at, error.into()))? {
                    Some(run) if run.start < end => at = run.start.max(at),
                    _ => return Ok(()),
                }
            }
            let step = (STEP_BYTES - at % STEP_BYTES).min(end - at);
            let bytes = usize::try_from(step).unwrap_or(usize::MAX);
            let held = self.clone().load(at, bytes, Class::JournalRead).await.map_err(|error| (at, error))?;
            let first = usize::from(within_page(offset));
            let done = usize::try_from(at - offset).unwrap_or(usize::MAX);
            let differs = match with {
                With::Nothing => None,
                With::Pages(pages) => first_difference(&held, first + done, |page| &pages[page]),
                With::Page(page) => first_difference(&held, usize::from(within_page(at)), |_| page),
            };
            if let Some(place) = differs {
                return Err((at, IoError::Differs(at - offset + place)));
            }
            at += step;
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}
