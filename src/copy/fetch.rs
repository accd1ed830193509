//! Journal read processing at an auxiliary: figures 18 to 20.
//!
//! A follower keeps journal reads outstanding on a session with the array it reads from. Answers may arrive in any
//! order (J8); updates are stored strictly by number. What cannot be stored for want of room is held and tried again
//! (step 1755, second way), which stops the reading, nothing else. After any error the session is dropped and the next
//! one begins by naming the first number that this array does not have, so a repeated answer is never stored twice.
//!
//! The peer is not believed: head, records and data carry checksums, numbers must be the next ones, sizes are bounded.

use super::answer::{AnswerError, Head, MAX_RECORD_PAGES, Outcome};
use super::change::Payload;
use super::group::{Group, Refusal, SvolRuntime};
use super::restore::pages_of;
use super::source::{Source, SourceError};
use crate::disk::slot::{SLOT_BYTES, Slot};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use holdfast_journal::reader::Report;
use holdfast_journal::{Content, CopyForm, Draft, Kind, Update, UpdateNumber, format};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// When an auxiliary reads (J12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadSchedule {
    /// Always: the primary answers as soon as it has something.
    Immediate,
    /// One read after each interval.
    Every(Duration),
}

/// Why reading ended.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The session, or the status that the peer gave.
    #[error("{0}")]
    Source(#[from] SourceError),
    /// The answer is not one.
    #[error("journal read answer: {0}")]
    Answer(#[from] AnswerError),
    /// A record in it is not one.
    #[error("journal read answer: {0}")]
    Record(String),
    /// The group is not `normal` there.
    #[error("the group is not normal at the array that is read")]
    GroupNotNormal,
    /// The copy has to start again.
    #[error(
        "updates before {0} are no longer held at the array that is read: a copy of the differences has to follow"
    )]
    NotHeld(u64),
    /// The group ends here.
    #[error("the group is closed")]
    Closed,
    /// Nothing is held for this array. Asking again begins with the number that is wanted, which shows whether that is
    /// still so.
    #[error("the pairs of this array are suspended at the array that is read")]
    Suspended,
    /// This array's own journal refuses.
    #[error("{0}")]
    Store(String),
}

/// Updates as received, by number, until they are stored.
type Arrived = BTreeMap<UpdateNumber, (Arc<Update>, Payload)>;

impl Group {
    /// Reads over one session until it fails. `source_group` is the group's number there.
    pub(crate) async fn follow(
        self: &Arc<Self>,
        source: &dyn Source,
        source_group: u32,
        schedule: ReadSchedule,
    ) -> FetchError {
        let reporting = self.report_positions(source, source_group);
        let reading = self.read_journals(source, source_group, schedule);
        tokio::pin!(reporting, reading);
        tokio::select! {
            biased;
            () = self.closing.begins() => FetchError::Closed,
            error = reading => error,
            error = reporting => error,
        }
    }

    async fn read_journals(
        self: &Arc<Self>,
        source: &dyn Source,
        source_group: u32,
        schedule: ReadSchedule,
    ) -> FetchError {
        let (depth, wait) = match schedule {
            ReadSchedule::Immediate => (READS_IN_FLIGHT, LONG_POLL),
            ReadSchedule::Every(_) => (1, Duration::ZERO),
        };
        let (mut early, mut stalled) = (Arrived::new(), 0);
        let mut reads = FuturesUnordered::new();
        let first = self.lock().next;
        reads.push(source.journal_read(source_group, Some(first), self.position(), wait));
        loop {
            let Some(answer) = reads.next().await else {
                return FetchError::Record("no read in flight".into());
            };
            let outcome = match self.take_answer(answer, source_group, &mut early).await {
                Ok(outcome) => outcome,
                Err(error) => return error,
            };
            // A number that never comes, because a read of an earlier session moved the cursor: begin again with it.
            stalled = if early.is_empty() { 0 } else { stalled + 1 };
            if stalled > STALLED_MAX {
                return FetchError::Record("the next update does not come".into());
            }
            if let (ReadSchedule::Every(interval), Outcome::NoJournal) = (schedule, outcome) {
                self.clock.sleep(interval).await;
            }
            while reads.len() < depth {
                reads.push(source.journal_read(source_group, None, self.position(), wait));
            }
        }
    }

    /// Steps 1720 to 1800 for one answer.
    async fn take_answer(
        &self,
        answer: Result<Vec<Slot>, SourceError>,
        source_group: u32,
        early: &mut Arrived,
    ) -> Result<Outcome, FetchError> {
        let (head, received) = decode(answer?, source_group, &self.capacities())?;
        match head.outcome {
            Outcome::Updates => {}
            Outcome::NoJournal => {
                self.note_source(&head);
                return Ok(Outcome::NoJournal);
            }
            Outcome::GroupNotNormal => return Err(FetchError::GroupNotNormal),
            Outcome::NotHeld => return Err(FetchError::NotHeld(head.first)),
            Outcome::Suspended => return Err(FetchError::Suspended),
        }
        let next = self.lock().next;
        let new = received.into_iter().filter(|(update, _)| update.number >= next);
        early.extend(new.map(|(update, payload)| (update.number, (Arc::new(update), payload))));
        if early.len() > EARLY_MAX {
            return Err(FetchError::Record("too many updates arrived ahead of the next one".into()));
        }
        self.note_source(&head);
        self.store_contiguous(early).await?;
        Ok(Outcome::Updates)
    }

    /// How large the S-VOLs are here, by the P-VOLs' numbers.
    fn capacities(&self) -> BTreeMap<u32, u64> {
        let sizes: BTreeMap<u32, u64> =
            self.disk.volumes().into_iter().map(|spec| (spec.id.0, spec.size_bytes)).collect();
        let seq = self.lock();
        let known = |(pvol, svol): (&u32, &SvolRuntime)| Some((*pvol, *sizes.get(&svol.volume)?));
        seq.svols.iter().filter_map(known).collect()
    }

    /// Stores what follows the newest number held, waiting for room where there is none (figure 20).
    async fn store_contiguous(&self, early: &mut Arrived) -> Result<(), FetchError> {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            match self.try_store(early) {
                Ok(()) => return Ok(()),
                Err(Refusal::NoRoom | Refusal::Leaving) => room.await,
                Err(Refusal::Invalid(reason)) => return Err(FetchError::Store(reason)),
            }
        }
    }

    /// Where this array is, for the array it reads from.
    pub(crate) fn position(&self) -> Report {
        let seq = self.lock();
        let position = Report {
            acknowledged: seq.journal.durable(),
            restored: seq.restored,
            settled: seq.settled,
            consistent_from: seq.consistent_from,
        };
        self.tamper.as_ref().map_or(position, |tamper| tamper.position(position))
    }

    /// Reports by a command of its own what no journal read carries at the moment, at most every [`REPORT_EVERY`].
    async fn report_positions(self: &Arc<Self>, source: &dyn Source, source_group: u32) -> FetchError {
        let mut reported = None;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let position = self.position();
            if reported == Some(position) {
                changed.await;
                continue;
            }
            if let Err(error) = source.report_position(source_group, position).await {
                return error.into();
            }
            reported = Some(position);
            self.clock.sleep(REPORT_EVERY).await;
        }
    }
}

/// Head, records and payload of one answer, everything checked.
fn decode(
    pages: Vec<Slot>,
    source_group: u32,
    capacities: &BTreeMap<u32, u64>,
) -> Result<(Head, Vec<(Update, Payload)>), FetchError> {
    let first = pages.first().ok_or(AnswerError::NotAnAnswer)?;
    let announced =
        usize::try_from(Head::announced_pages(first.as_slice())?.min(MAX_RECORD_PAGES)).unwrap_or(0);
    let front = pages.get(..announced).ok_or(AnswerError::Field("pages of records"))?;
    let bytes: Vec<u8> = front.iter().flat_map(|page| page.iter().copied()).collect(); // Records are small; data stays.
    let (head, mut records) = Head::decode(&bytes)?;
    if head.group != source_group {
        return Err(FetchError::Record(format!("it is of group {}, not {source_group}", head.group)));
    }
    let mut payload_pages = pages.into_iter().skip(announced);
    let mut received = Vec::new();
    let end = head.first.checked_add(u64::from(head.updates)).ok_or(AnswerError::Field("first number"))?;
    if head.updates > 0 && (head.newest_durable < end - 1 || head.newest_given < head.newest_durable) {
        return Err(AnswerError::Field("newest numbers").into());
    }
    for expected in head.first..end {
        let (update, used) =
            format::decode_wire(records).map_err(|error| FetchError::Record(error.to_string()))?;
        records = records.get(used..).unwrap_or(&[]);
        if update.number.get() != expected {
            return Err(FetchError::Record(format!("update {} where {expected} was due", update.number)));
        }
        acceptable(&update, capacities)?;
        let count: usize = update.extents.iter().map(pages_of).sum();
        let slots: Arc<[Slot]> = payload_pages.by_ref().take(count).collect();
        // The data lies in its pages as it lay in the cache of its source.
        let draft = Draft::new(update);
        let draft_blocks = draft.size().data_blocks;
        let payload = Payload { slots, skip: draft.skip_bytes, bytes: draft.update.data_bytes };
        let update = draft.update;
        let blocks = usize::try_from(draft_blocks).unwrap_or(usize::MAX);
        if payload.slots.len() != count || count != blocks || payload.checksum() != update.data_checksum {
            return Err(FetchError::Record(format!(
                "the data of update {} is damaged or missing",
                update.number
            )));
        }
        received.push((update, payload));
    }
    Ok((head, received))
}

/// Whether a correct peer sends this: everything that could be stored but never be restored is refused here.
fn acceptable(update: &Update, capacities: &BTreeMap<u32, u64>) -> Result<(), FetchError> {
    let beyond = update.extents.iter().find(|extent| {
        capacities.get(&extent.volume.0).is_some_and(|capacity| extent.end_bytes() > *capacity)
    });
    if let Some(extent) = beyond {
        return Err(FetchError::Record(format!(
            "update {} reaches beyond the end of volume {}",
            update.number, extent.volume.0
        )));
    }
    let range_only = matches!(update.kind, Kind::InitialCopy(copy) if copy.form == CopyForm::RangeOnly);
    let odd_pattern = update.extents.iter().any(|extent| match extent.content {
        Content::Pattern { bytes } => {
            let bytes = u64::from(bytes);
            !(SLOT_BYTES as u64).is_multiple_of(bytes.max(1))
                || !extent.start_bytes.is_multiple_of(bytes.max(1))
        }
        Content::Data | Content::Zero => false,
    });
    if range_only || odd_pattern {
        return Err(FetchError::Record(format!("update {} has a form that no array sends", update.number)));
    }
    Ok(())
}

/// Journal reads outstanding at a time on one session.
const READS_IN_FLIGHT: usize = 2;
/// How long the primary may hold a read when it has nothing: a lost link is found within it and the time limit.
const LONG_POLL: Duration = Duration::from_secs(2);
/// Answers after which a gap is taken for one that stays.
const STALLED_MAX: u32 = 8;
/// Updates that arrived ahead of the next one; more than a few answers' worth is a peer's mistake.
const EARLY_MAX: usize = 4 * super::answer::MAX_UPDATES as usize;
/// At most so often a position is reported by a command of its own.
const REPORT_EVERY: Duration = Duration::from_millis(20);

const _: () = assert!(SLOT_BYTES == 4096, "answers are laid out in pages of 4096 bytes");
