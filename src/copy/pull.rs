//! Copying from an array that is itself a copy: the reading side of `cascade.rs`.
//!
//! One piece after the other is asked for. While one is on its way nothing is restored here, so the piece is not older
//! than what it is put over; it is applied without a number, written to the units, and only then the next ask says
//! that it is durable. A restart begins again with what is still marked at the source. The restore replays from here
//! what the pieces contain already, which changes nothing in the end: the pair is an image when everything up to the
//! end of the copy is restored.

use super::answer::{AnswerError, Head, MAX_RECORD_PAGES, Outcome, reason};
use super::change::Payload;
use super::error::CopyError;
use super::fetch::FetchError;
use super::group::Group;
use super::received::acceptable;
use super::restore::pages_of;
use super::source::{PieceAsk, Source};
use crate::disk::VolumeId;
use crate::disk::slot::{SLOT_BYTES, Slot, bytes_of};
use crate::volume::pair::PairState;
use holdfast_journal::{Draft, Kind, Update, UpdateNumber, format};
use std::sync::Arc;
use std::time::Duration;

/// A copy that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    /// The volume, as the records name it.
    volume: u32,
    /// The S-VOL.
    here: u32,
    copy: u32,
}

/// What an answer brings.
enum Brought {
    Piece(Arc<Update>, Payload),
    Ended(UpdateNumber),
    Nothing,
}

impl Group {
    /// Copies what this array's pairs need from a source that is itself a copy, for ever.
    pub(super) async fn pull_copies(&self, source: &dyn Source, source_group: u32) -> FetchError {
        let mut at: Option<(Wanted, u64)> = None;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let Some(wanted) = self.wanted_copy() else {
                at = None;
                changed.await;
                continue;
            };
            let from = at.filter(|(last, _)| *last == wanted).map_or(0, |(_, from)| from);
            match self.pull_piece(source, source_group, wanted, from).await {
                Ok(Some(copied_to)) => at = Some((wanted, copied_to)),
                Ok(None) => {
                    tokio::select! {
                        biased;
                        () = &mut changed => {}
                        () = self.clock.sleep(LOOK_AGAIN) => {}
                    }
                    // Restored numbers change all the time.
                    self.clock.sleep(PAUSE).await;
                }
                Err(error) => return error,
            }
        }
    }

    /// The first pair that is copied from here and has not come to its end.
    fn wanted_copy(&self) -> Option<Wanted> {
        let seq = self.lock();
        if seq.failed.is_some() {
            return None;
        }
        let wanted = seq.svols.iter().find(|(volume, svol)| {
            svol.cascaded
                && svol.state == PairState::BeingCopied
                && svol.copy_end.is_none()
                && seq.is_quiet_below(**volume)
        });
        wanted.map(|(volume, svol)| Wanted { volume: *volume, here: svol.volume, copy: svol.copies })
    }

    /// One piece: how far the copy is durable then; `None` if there was nothing, or the copy has ended.
    async fn pull_piece(
        &self,
        source: &dyn Source,
        source_group: u32,
        wanted: Wanted,
        copied_to_bytes: u64,
    ) -> Result<Option<u64>, FetchError> {
        let restoring = self.restoring.lock().await;
        let restored = self.lock().restored;
        let ask = PieceAsk {
            volume: wanted.volume,
            copy: wanted.copy,
            copied_to_bytes,
            restored,
            room_bytes: ROOM_BYTES,
            wait: Duration::ZERO,
        };
        let pages = source.copy_read(source_group, ask).await?;
        match brought(pages, source_group)? {
            Brought::Nothing => Ok(None),
            Brought::Ended(as_of) => {
                self.copy_has_ended(wanted, as_of);
                Ok(None)
            }
            Brought::Piece(update, payload) => {
                let end = self.check_piece(&update, wanted, restored, copied_to_bytes)?;
                if !self.take_piece(&update, wanted) {
                    return Ok(None); // Another copy has begun meanwhile.
                }
                self.restore_extents(&update, &payload, 0).await.map_err(local)?;
                drop(restoring);
                for extent in &update.extents {
                    let here = VolumeId(wanted.here);
                    let written = self.disk.destage_range(here, extent.start_bytes, extent.length_bytes);
                    written.await.map_err(|error| local(error.into()))?;
                }
                Ok(Some(end))
            }
        }
    }

    /// Where a piece ends; it is refused unless it is one that was asked for.
    fn check_piece(
        &self,
        update: &Update,
        wanted: Wanted,
        restored: UpdateNumber,
        copied_to_bytes: u64,
    ) -> Result<u64, FetchError> {
        acceptable(update, &self.capacities())?;
        let Kind::InitialCopy(copy) = update.kind else {
            return Err(FetchError::Record("a piece of a copy is no step of a copy".into()));
        };
        let as_of = update.as_of().unwrap_or(UpdateNumber::NONE);
        let is_here = |extent: &holdfast_journal::Extent| extent.volume.0 == wanted.volume;
        let start = update.extents.first().map_or(0, |extent| extent.start_bytes);
        let end = update.extents.last().map_or(0, holdfast_journal::Extent::end_bytes);
        if copy.reader != self.array
            || copy.volume.0 != wanted.volume
            || !update.extents.iter().all(is_here)
            || as_of < restored
            || start < copied_to_bytes
            || end <= copied_to_bytes
        {
            return Err(FetchError::Record("a piece of a copy that was not asked for".into()));
        }
        Ok(end)
    }

    /// Notes what a piece says of itself before it is seen; `false` if it is not wanted any more.
    fn take_piece(&self, update: &Update, wanted: Wanted) -> bool {
        let mut seq = self.lock();
        let still = seq.svols.get(&wanted.volume).is_some_and(|svol| {
            svol.volume == wanted.here
                && svol.copies == wanted.copy
                && svol.state == PairState::BeingCopied
                && svol.cascaded
        });
        if !still || !seq.is_quiet_below(wanted.volume) {
            return false;
        }
        seq.consistent_from = seq.consistent_from.max(update.as_of().unwrap_or(UpdateNumber::NONE));
        seq.mark_stored(update);
        true
    }

    fn copy_has_ended(&self, wanted: Wanted, as_of: UpdateNumber) {
        let mut seq = self.lock();
        seq.consistent_from = seq.consistent_from.max(as_of);
        if let Some(svol) = seq.svols.get_mut(&wanted.volume)
            && svol.copies == wanted.copy
            && svol.state == PairState::BeingCopied
        {
            svol.copy_end = Some(as_of.max(svol.copy_from));
        }
        drop(seq);
        self.settle_wanted.notify_one();
        self.changed.notify_waiters();
    }
}

/// What an answer to COPY READ brings, everything checked that can be checked without knowing the pair.
fn brought(pages: Vec<Slot>, source_group: u32) -> Result<Brought, FetchError> {
    let first = pages.first().ok_or(AnswerError::NotAnAnswer)?;
    let announced =
        usize::try_from(Head::announced_pages(first.as_slice())?.min(MAX_RECORD_PAGES)).unwrap_or(0);
    let front = pages.get(..announced).ok_or(AnswerError::Field("pages of records"))?;
    let bytes = bytes_of(front);
    let (head, records) = Head::decode(&bytes)?;
    if head.group != source_group {
        return Err(FetchError::Record(format!("it is of group {}, not {source_group}", head.group)));
    }
    match head.outcome {
        Outcome::NoJournal | Outcome::Suspended | Outcome::NotHeld | Outcome::MoreRoom => {
            return Ok(Brought::Nothing);
        }
        Outcome::CopyEnded => return Ok(Brought::Ended(UpdateNumber::new(head.first))),
        Outcome::GroupNotNormal => return Err(FetchError::GroupNotNormal(reason(records))),
        Outcome::Tables => return Err(AnswerError::Field("outcome").into()),
        Outcome::Updates => {}
    }
    let (update, _) = format::decode_wire(records).map_err(|error| FetchError::Record(error.to_string()))?;
    let count: usize = update.extents.iter().map(pages_of).sum();
    let slots: Vec<Slot> = pages.into_iter().skip(announced).take(count).collect();
    let draft = Draft::new(update);
    let payload = Payload { slots: slots.into(), skip: draft.skip_bytes, bytes: draft.update.data_bytes };
    let whole = payload.slots.len() == count && payload.bytes as usize == count * SLOT_BYTES;
    if !whole || payload.checksum() != draft.update.data_checksum {
        return Err(FetchError::Record("the data of a piece of a copy is damaged or missing".into()));
    }
    Ok(Brought::Piece(draft.update, payload))
}

fn local(error: CopyError) -> FetchError {
    FetchError::Store(error.to_string())
}

/// Room for a piece: the largest unit, and its record.
const ROOM_BYTES: u32 = (1 << 20) + (128 << 10);
/// When there was nothing, how long until it is asked again although nothing changes here.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// The shortest time between two asks that bring nothing.
const PAUSE: Duration = Duration::from_millis(20);
