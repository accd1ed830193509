//! The middle of a cascade (promise T4): an array that copies a group is the source of the next ones.
//!
//! # What it guarantees
//! * **No numbers are given here.** The next array reads the journal that this one has received, records and numbers
//!   unchanged, as soon as they are durable here (invariant 2).
//! * **A copy is served outside of the number space.** An array in the middle cannot give a copy's records numbers, so
//!   the next array asks for pieces of this array's S-VOL (COPY READ). A piece carries *as of S*: every update up to S
//!   is in it. It is read when S is not below what the next array has restored and not below where the copy began, so
//!   nothing that the next array has is undone; and its pair is an image only from the largest S on (invariant 5).
//! * **Below an S-VOL that is no image nothing goes on.** While the pair above is copied or suspended, the pairs below
//!   are suspended, with marks in difference maps here, and keep their last image. The gate: an update that changes
//!   this array's S-VOL in another way than it changes the next one's (a step of a copy from above; a hole, which stands
//!   for what is kept back from this array) is not handed out before the pairs below that it concerns are stopped and
//!   the next array knows.
//!
//! Pairs of the next arrays are known here by the numbers that the records name, not by those of this array's volumes.
//!
//! # How it is proved
//! Unit tests below; `tests/sim/cascade.rs` cuts, kills and takes over at every level.

use super::answer::{Head, Outcome};
use super::change::Payload;
use super::error::CopyError;
use super::group::{Group, PairRuntime, Role, Sequencer};
use super::serve::{Answer, ServeError, split_zero_pages};
use crate::disk::VolumeId;
use crate::disk::slot::{Class, SLOT_BYTES};
use crate::volume::pair::PairState;
use holdfast_journal::reader::ReaderError;
use holdfast_journal::{
    ArrayNumber, Content, CopyForm, Extent, InitialCopy, Kind, Update, UpdateNumber, VolumeNumber, format,
};
use std::time::Duration;

/// What a reader asks for with COPY READ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyAsk {
    /// Who asks.
    pub reader: ArrayNumber,
    /// The volume, as the records name it.
    pub volume: u32,
    /// Which copy of the pair.
    pub copy: u32,
    /// Everything of this copy below this byte is durable at the reader.
    pub copied_to_bytes: u64,
    /// What the reader has restored.
    pub restored: UpdateNumber,
    /// The most bytes of the whole answer.
    pub bytes: u32,
    /// How long to wait when there is nothing yet.
    pub wait: Duration,
}

/// What there is to answer.
enum Turn {
    /// This range of the volume, by its number here.
    Piece { here: u32, start_bytes: u64, length_bytes: u64 },
    /// Everything has been copied.
    Ended,
    /// Not now.
    Wait,
}

impl Group {
    /// Answers one COPY READ: a piece, the end of the copy, or nothing for the time being.
    pub async fn serve_copy(&self, ask: CopyAsk) -> Result<Answer, ServeError> {
        self.check_told(ask.reader)?;
        if let Some(answer) = self.not_normal(ask.reader) {
            return Ok(answer);
        }
        if ask.bytes < SMALLEST_ROOM {
            return Err(ReaderError::PeerMisbehaved.into());
        }
        let deadline = self.clock.sleep(ask.wait);
        tokio::pin!(deadline);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.copy_turn(&ask) {
                Turn::Piece { here, start_bytes, length_bytes } => {
                    return self.copy_piece(&ask, here, start_bytes, length_bytes).await;
                }
                Turn::Ended => return self.end_copy(&ask).await,
                Turn::Wait => tokio::select! {
                    biased;
                    () = &mut changed => {}
                    () = &mut deadline => return Ok(self.empty(ask.reader, Outcome::NoJournal)),
                },
            }
        }
    }

    fn copy_turn(&self, ask: &CopyAsk) -> Turn {
        let now = self.clock.now();
        let unit_bytes = self.settings.copy_unit_bytes.min(u64::from(ask.bytes - RECORD_ROOM));
        let mut seq = self.lock();
        seq.asked.insert(ask.reader, now);
        let restored = seq.restored;
        let Some(here) = seq.svols.get(&ask.volume).map(|svol| svol.volume) else { return Turn::Wait };
        let Some(pair) = seq.pair_of_reader(ask) else { return Turn::Wait };
        match pair.facts.state {
            PairState::Normal => Turn::Ended,
            PairState::BeingCopied
                if !pair.resync.marking && restored >= ask.restored.max(pair.resync.copy_from) =>
            {
                let Some(map) = &mut pair.resync.differences else { return Turn::Wait };
                // What is durable there need not be copied again, whatever happens here.
                map.clear(0, ask.copied_to_bytes);
                match map.next_run(ask.copied_to_bytes, unit_bytes) {
                    Some((start_bytes, length)) => {
                        Turn::Piece { here, start_bytes, length_bytes: length.min(unit_bytes) }
                    }
                    None => Turn::Ended,
                }
            }
            _ => Turn::Wait,
        }
    }

    async fn copy_piece(
        &self,
        ask: &CopyAsk,
        here: u32,
        start_bytes: u64,
        length_bytes: u64,
    ) -> Result<Answer, ServeError> {
        let length = usize::try_from(length_bytes).unwrap_or(usize::MAX);
        let read = self.disk.read(VolumeId(here), start_bytes, length, Class::JournalRead).await;
        let pieces = read.map_err(CopyError::from)?;
        let (mut extents, mut slots) = (Vec::new(), Vec::new());
        let volume = VolumeNumber(ask.volume);
        let range = Extent { volume, start_bytes, length_bytes, content: Content::Data };
        split_zero_pages(&range, &pieces, &mut extents, &mut slots);
        let data_bytes = u32::try_from(slots.len() * SLOT_BYTES).unwrap_or(u32::MAX);
        let payload = Payload { slots: slots.into(), skip: 0, bytes: data_bytes };
        let checksum = payload.checksum();
        let mut seq = self.lock();
        // Whatever the pages hold was given its number by now, is durable here, and may be ahead of what is restored: an
        // update that is being restored, and data that was itself copied as of a later number.
        let in_part = seq.restored_in_part.unwrap_or(UpdateNumber::NONE);
        let as_of = seq.restored.max(in_part).max(seq.consistent_from);
        let copy = InitialCopy {
            volume,
            reader: ask.reader,
            last_of_pair: false,
            form: CopyForm::Received { as_of },
        };
        let update = Update {
            number: as_of.max(UpdateNumber::FIRST),
            generation: seq.generation,
            kind: Kind::InitialCopy(copy),
            time_ns: self.clock.wall().0,
            extents,
            data_bytes,
            data_checksum: checksum,
        };
        let sent = seq.readers.reader(ask.reader).ok_or(ReaderError::Unknown)?.sent;
        seq.readers.handle_sent_again(ask.reader, sent, as_of)?;
        let mut records = Vec::new();
        format::encode_wire_to(&update, &mut records)
            .map_err(|error| CopyError::Damaged(error.to_string()))?;
        let total = seq.sent.entry(ask.reader).or_default();
        total.1 += (records.len() + payload.slots.len() * SLOT_BYTES) as u64;
        let head = self.head(&seq, ask.reader, Outcome::Updates);
        let head = Head { updates: 1, first: update.number.get(), ..head };
        Ok(Answer { head: head.encode(&records), pages: payload.slots.to_vec() })
    }

    /// The end of a copy is durable here before the reader hears of it: afterwards nobody asks for more.
    async fn end_copy(&self, ask: &CopyAsk) -> Result<Answer, ServeError> {
        let end = {
            let mut seq = self.lock();
            let known = *seq.readers.reader(ask.reader).ok_or(ReaderError::Unknown)?;
            // In a stretch that is no image of one moment (`whole.rs`) the copy ends with the end of that.
            let through = seq.wholeness.through;
            let here = seq.restored.max(seq.consistent_from).max(through);
            let Some(pair) = seq.pair_of_reader(ask) else {
                drop(seq);
                return Ok(self.empty(ask.reader, Outcome::NoJournal));
            };
            let end = match (pair.copy_end, pair.facts.state) {
                (Some(end), _) => end,
                // After a restart nobody remembers what was sent; what is restored here contains it.
                (None, PairState::Normal) => here,
                (None, _) => known.sent_as_of.max(pair.resync.copy_from).max(through),
            };
            pair.copy_end = Some(end);
            seq.readers.handle_sent_again(ask.reader, known.sent, end)?;
            end
        };
        self.checkpoint().await?;
        self.changed.notify_waiters();
        Ok(self.empty_from(ask.reader, Outcome::CopyEnded, Some(end)))
    }

    /// A copy of a pair below begins: everything that is marked is copied, as of `from` at least.
    pub(crate) fn begin_served_copy(&self, pair: u32, from: UpdateNumber, copies: u32) {
        let mut seq = self.lock();
        for runtime in seq.pairs.values_mut().flatten().filter(|runtime| runtime.pair == pair) {
            let capacity = runtime.capacity_bytes;
            let map = runtime.resync.differences.get_or_insert_with(|| {
                let mut map = super::differences::DifferenceMap::new(capacity);
                map.mark(0, capacity);
                map
            });
            drop(map.take_changed());
            (runtime.resync.copy_from, runtime.resync.copies, runtime.copy_end) = (from, copies, None);
        }
    }

    /// Which copy of a pair this is, as the store says.
    pub(crate) fn note_copies(&self, pair: u32, copies: u32) {
        let mut seq = self.lock();
        for runtime in seq.pairs.values_mut().flatten().filter(|runtime| runtime.pair == pair) {
            runtime.resync.copies = copies;
        }
        for svol in seq.svols.values_mut().filter(|svol| svol.pair == pair && svol.copies != copies) {
            // The end that is known is that of an earlier copy.
            (svol.copies, svol.copy_end) = (copies, None);
        }
    }

    /// From which number on updates of a suspended pair can be kept from its reader: here the next one that is numbered,
    /// in the middle of a cascade the next one that it has not been handed.
    pub(super) fn withhold_start(&self, seq: &Sequencer, reader: ArrayNumber) -> UpdateNumber {
        match self.role {
            Role::Source => seq.next,
            Role::Copy => seq.readers.reader(reader).map_or(seq.next, |known| known.next),
        }
    }

    /// Whether an update may not be handed to the reader yet: see the gate in the module's text. It is remembered.
    pub(super) fn stops_at(&self, reader: ArrayNumber, update: &Update) -> bool {
        if self.role == Role::Source || !changes_only_here(update) {
            return false;
        }
        let mut seq = self.lock();
        let live = update.extents.iter().find(|extent| seq.is_live(reader, extent.volume.0, update.number));
        let Some(volume) = live.map(|extent| extent.volume.0) else { return false };
        seq.gates.insert(reader, (update.number, volume));
        drop(seq);
        self.changed.notify_waiters(); // The owner stops the pair.
        true
    }

    /// Readers that are held up, and because of which volume: their pairs of it have to be stopped.
    pub(crate) fn gated(&self) -> Vec<(ArrayNumber, u32)> {
        let seq = self.lock();
        let held =
            seq.gates.iter().filter(|(reader, (number, volume))| seq.is_live(**reader, *volume, *number));
        held.map(|(reader, (_, volume))| (*reader, *volume)).collect()
    }

    /// Up to where the reader may be handed updates.
    pub(super) fn limit_for(&self, reader: ArrayNumber) -> UpdateNumber {
        let mut seq = self.lock();
        let durable = seq.journal.durable().min(seq.recorded_for(reader));
        let durable = seq.confirmed_for(reader).map_or(durable, |confirmed| confirmed.min(durable));
        match seq.gates.get(&reader).copied() {
            Some((number, volume)) if seq.is_live(reader, volume, number) => durable.min(number.previous()),
            Some(_) => {
                seq.gates.remove(&reader);
                durable
            }
            None => durable,
        }
    }

    /// After a start: what the journal here holds and no checkpoint has let go is marked again, for the pairs below whose
    /// differences are recorded.
    pub(super) async fn remark_stored(&self) -> Result<(), CopyError> {
        if !self.lock().pairs.values().flatten().any(|pair| pair.resync.marking) {
            return Ok(());
        }
        let mut next = {
            let seq = self.lock();
            seq.settled.next().max(seq.journal.first_retained())
        };
        while next <= self.durable_here() {
            let updates = self.load_information(next, Class::Restore).await?;
            let Some(last) = updates.last().map(|update| update.number) else {
                return Err(CopyError::Damaged(format!(
                    "group {}: update {next} is missing in its journal",
                    self.name
                )));
            };
            let mut seq = self.lock();
            updates.iter().for_each(|update| seq.mark_stored(update));
            drop(seq);
            next = last.next();
        }
        Ok(())
    }
}

impl Sequencer {
    /// The pair of a reader of which it asks for pieces; none if it means another copy.
    fn pair_of_reader(&mut self, ask: &CopyAsk) -> Option<&mut PairRuntime> {
        let pairs = self.pairs.get_mut(&ask.volume)?;
        pairs.iter_mut().find(|pair| pair.reader == ask.reader && pair.resync.copies == ask.copy)
    }

    /// Up to where it is recorded what is kept back from the reader.
    fn recorded_for(&self, reader: ArrayNumber) -> UpdateNumber {
        let pairs = self.pairs.values().flatten().filter(|pair| pair.reader == reader);
        let unrecorded = pairs.filter(|pair| !pair.resync.is_withheld_for_good);
        let starts = unrecorded.filter_map(|pair| pair.resync.withheld).map(|(from, _)| from.previous());
        starts.min().unwrap_or(UpdateNumber::new(u64::MAX))
    }

    /// Whether a pair of the reader goes on with the volume: it would have to be stopped before something reaches this
    /// array's S-VOL that does not reach the reader's.
    fn is_live(&self, reader: ArrayNumber, volume: u32, number: UpdateNumber) -> bool {
        self.pairs.get(&volume).into_iter().flatten().any(|pair| {
            pair.reader == reader
                && pair.facts.state != PairState::NotYetCopied
                // Its copy has it: every piece is as of that number or later.
                && number > pair.resync.copy_from
                && !pair.resync.withholds(number)
        })
    }

    /// Marks what an update that is stored here changes, for the pairs below whose differences are recorded.
    pub(super) fn mark_stored(&mut self, update: &Update) {
        for extent in &update.extents {
            self.mark_below(extent.volume.0, extent.start_bytes, extent.length_bytes);
        }
    }

    /// Marks a range of a volume for the pairs below whose differences are recorded.
    pub(super) fn mark_below(&mut self, volume: u32, start_bytes: u64, length_bytes: u64) {
        let below = self.pairs.get_mut(&volume).into_iter().flatten();
        for pair in below.filter(|pair| pair.resync.marking) {
            if let Some(map) = &mut pair.resync.differences {
                map.mark(start_bytes, length_bytes);
            }
        }
    }

    /// Whether nothing of the volume goes on below: a copy from above may change it.
    pub(super) fn is_quiet_below(&self, volume: u32) -> bool {
        let is_quiet =
            |pair: &PairRuntime| pair.resync.marking || pair.facts.state == PairState::NotYetCopied;
        self.pairs.get(&volume).into_iter().flatten().all(is_quiet)
    }
}

/// Whether an update stands for something else here than at the next array: a step of a copy, or a hole.
fn changes_only_here(update: &Update) -> bool {
    match update.kind {
        Kind::InitialCopy(copy) => matches!(copy.form, CopyForm::Received { .. }),
        Kind::Void => !update.extents.is_empty(),
        Kind::HostWrite | Kind::Heartbeat | Kind::Bookmark(_) | Kind::Broken | Kind::Whole => false,
    }
}

/// Room for head and records in an answer: one record of as many ranges as there may be.
const RECORD_ROOM: u32 = 64 << 10;
/// Less room than this serves nobody.
const SMALLEST_ROOM: u32 = RECORD_ROOM + (64 << 10);
