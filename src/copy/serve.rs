//! Journal read reception: figure 17, for any number of readers, each at its own cursor (T1).
//!
//! A reader is handed only what is durable here. An initial-copy record gets its data now: the P-VOL's pages as they
//! are, with S, the newest number given once they were read; the answer leaves when S is durable, so that a restart
//! never leaves the reader ahead; and when a synchronous copy that hosts wait for has it, so that no takeover does. Before the pages are read everything in the range is destaged, because writes that
//! were made before the copy reached them are in no journal.

use super::answer::{HEAD_BYTES, Head, MAX_REASON_BYTES, MAX_RECORD_PAGES, MAX_UPDATES, Outcome};
use super::change::Payload;
use super::error::CopyError;
use super::group::{Group, Sequencer};
use crate::clock::BoxFuture;
use crate::disk::VolumeId;
use crate::disk::cache::{Piece, Pieces};
use crate::disk::slot::{Class, SLOT_BYTES, Slot};
use crate::volume::kind::ReleaseBy;
use holdfast_journal::reader::{Reader, ReaderError, Report};
use holdfast_journal::{
    ArrayNumber, Content, CopyForm, Extent, InitialCopy, Kind, Update, UpdateNumber, format,
};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// What a reader asks for.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Who asks.
    pub reader: ArrayNumber,
    /// Begin here; `None`: where the last answer ended (J7).
    pub start: Option<UpdateNumber>,
    /// Retry indication (figure 17, step 1530): everything that is not durable there; with a start number as many as
    /// `updates` says from that number on, and the cursor stays where it is.
    pub retry: bool,
    /// The most updates.
    pub updates: u32,
    /// The most bytes of the whole answer.
    pub bytes: u32,
    /// How long to wait when there is nothing.
    pub wait: Duration,
    /// What may come in place of the updates.
    pub form: Form,
}

/// In which form updates are handed out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// Themselves.
    Journals,
    /// Where they lie, as far as they lie in the journal volume.
    Tables,
}

/// What a reader's position came with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Carrier {
    /// A journal read.
    Read,
    /// A report of its own.
    Report,
}

/// Who has an answer made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asker {
    /// The reader, by a journal read.
    Reader,
    /// This array, to send it to a synchronous reader.
    Push,
}

/// An answer: whole pages, ready to be sent by handle.
#[derive(Debug)]
pub struct Answer {
    /// Head and records.
    pub head: Vec<u8>,
    /// Payload pages.
    pub pages: Vec<Slot>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The reader is to blame, or is none.
    #[error("{0}")]
    Reader(#[from] ReaderError),
    /// The disk is to blame.
    #[error("{0}")]
    Disk(#[from] CopyError),
}

impl Group {
    /// Takes note of where a reader is; frees what that allows (J6). Which of the two carriers counts is a choice of the
    /// group: a report that came by itself frees nothing where the next journal read is to free.
    pub fn report(&self, reader: ArrayNumber, report: Report, carrier: Carrier) -> Result<(), ReaderError> {
        self.check_told(reader)?;
        let is_elsewhere = self.believe_elsewhere(reader);
        if carrier == Carrier::Report && self.settings.release_by == ReleaseBy::NextCommand && !is_elsewhere {
            return self.lock().readers.reader(reader).map(|_| ()).ok_or(ReaderError::Unknown);
        }
        let report = if is_elsewhere { self.known_here(report) } else { report };
        let dropped = {
            let now = self.clock.now();
            let mut seq = self.lock();
            let before = seq.readers.reader(reader).map(|known| known.report);
            if seq.stranded.contains_key(&reader) {
                return Ok(()); // What it lost it takes for settled since; what it lacks is marked first.
            }
            seq.readers.handle_report(reader, report)?;
            seq.heard.insert(reader, now);
            if before == seq.readers.reader(reader).map(|known| known.report) {
                return Ok(());
            }
            let lacked = seq.readers.iter().map(|(_, known)| known.report.restored.next()).min();
            seq.times.forget_before(lacked.unwrap_or(UpdateNumber::NONE));
            self.trim_kept(&mut seq)
        };
        drop(dropped);
        self.confirm_by_report(reader);
        self.changed.notify_waiters();
        if self.settings.release_by == ReleaseBy::AtOnce {
            self.settle_wanted.notify_one();
        } else {
            self.settle_if_worthwhile();
        }
        Ok(())
    }

    /// Answers one journal read. Reads of one reader are answered one after the other, each behind the last one's end.
    pub async fn answer(&self, request: Request) -> Result<Answer, ServeError> {
        self.check_told(request.reader)?;
        if let (Some(start), true) = (request.start, request.retry) {
            return self.answer_again(&request, start).await;
        }
        self.answer_in_turn(request, Asker::Reader).await
    }

    /// The same on behalf of a reader to which the answer is sent by itself.
    pub(super) async fn answer_pushed(&self, request: Request) -> Result<Answer, ServeError> {
        self.check_told(request.reader)?;
        self.answer_in_turn(request, Asker::Push).await
    }

    async fn answer_in_turn(&self, request: Request, asker: Asker) -> Result<Answer, ServeError> {
        let is_sent = || asker == Asker::Reader && self.pushes_to(request.reader);
        let deadline = self.clock.sleep(request.wait);
        tokio::pin!(deadline);
        if is_sent() {
            self.while_pushed(request.reader, &mut deadline).await;
            if is_sent() {
                return Ok(self.while_sent(request.reader));
            }
        }
        let turn = self.turn_of(request.reader)?;
        let _turn = tokio::select! {
            biased;
            guard = turn.lock() => guard,
            () = &mut deadline => return Ok(self.empty(request.reader, Outcome::NoJournal)),
        };
        if let Some(answer) = self.not_normal(request.reader) {
            return Ok(answer); // Steps 1515 and 1525.
        }
        if !self.holds_for(request.reader) {
            // All its pairs are suspended. It hears so at once if it may not wait, else when that ends.
            self.until_held(request.reader, &mut deadline).await;
            if !self.holds_for(request.reader) {
                return Ok(self.empty(request.reader, Outcome::Suspended));
            }
        }
        match self.begin(&request) {
            Ok(()) => {}
            Err(ReaderError::Released) => return Ok(self.not_held(request.reader, &mut deadline).await),
            Err(error) => return Err(error.into()),
        }
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if is_sent() {
                return Ok(self.while_sent(request.reader));
            }
            // All its pairs were suspended while it waited: of those that know it something is kept from it already, and what
            // goes to the others beside that is no image.
            let turned = self.lock().has_turned(request.reader, &[]);
            if let Some(outcome) = turned {
                return Ok(self.empty(request.reader, outcome));
            }
            let limit = self.limit_for(request.reader);
            let first = self.lock().readers.poll_send(request.reader, limit);
            if let Some(first) = first {
                if request.form == Form::Tables
                    && let Some(answer) = self.tables(&request, first).await?
                {
                    return Ok(answer);
                }
                return self.collect(&request, first, Cursor::Moves).await;
            }
            tokio::select! {
                biased;
                () = &mut changed => {}
                () = &mut deadline => return Ok(self.empty(request.reader, Outcome::NoJournal)), // Step 1560.
            }
        }
    }

    /// What a journal read brings while updates are sent to the reader: it knows nothing of those by this.
    fn while_sent(&self, reader: ArrayNumber) -> Answer {
        let has = self.lock().readers.reader(reader).map(Reader::retry_start);
        self.empty_from(reader, Outcome::NoJournal, has)
    }

    /// Whether updates are held for the reader; that it has asked is noted, because it shows that the reader lives.
    fn holds_for(&self, reader: ArrayNumber) -> bool {
        let now = self.clock.now();
        let mut seq = self.lock();
        seq.asked.insert(reader, now);
        seq.readers.reader(reader).is_some_and(|known| known.holds)
    }

    async fn until_held(&self, reader: ArrayNumber, deadline: &mut Pin<&mut BoxFuture<'static, ()>>) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.holds_for(reader) {
                return;
            }
            tokio::select! {
                biased;
                () = &mut changed => {}
                () = deadline.as_mut() => return,
            }
        }
    }

    /// A range once more (J8): another connection lost it. It waits for nobody's turn, because the cursor stays; what was
    /// never sent is refused.
    async fn answer_again(&self, request: &Request, start: UpdateNumber) -> Result<Answer, ServeError> {
        if let Some(answer) = self.not_normal(request.reader) {
            return Ok(answer);
        }
        if !self.holds_for(request.reader) {
            return Ok(self.empty(request.reader, Outcome::Suspended));
        }
        let judged = {
            let seq = self.lock();
            let held_from = seq.journal.first_retained();
            let reader = seq.readers.reader(request.reader).ok_or(ReaderError::Unknown)?;
            match () {
                () if start > reader.sent => Err(ReaderError::PeerMisbehaved),
                // Below its position it began anew since: what lies between is in difference maps.
                () if start < reader.retry_start() || start < held_from => Err(ReaderError::Released),
                () => Ok(u32::try_from(reader.sent.since(start)).unwrap_or(u32::MAX).saturating_add(1)),
            }
        };
        let handed_out = match judged {
            Ok(handed_out) => handed_out,
            Err(ReaderError::Released) => return Ok(self.empty(request.reader, Outcome::NotHeld)),
            Err(error) => return Err(error.into()),
        };
        let request = Request { updates: request.updates.min(handed_out), ..*request };
        self.collect(&request, start, Cursor::Stays).await
    }

    /// The answer of a group that is not `normal` here, with the reason.
    pub(super) fn not_normal(&self, reader: ArrayNumber) -> Option<Answer> {
        let seq = self.lock();
        let reason = seq.failed.as_ref()?;
        let text = reason.as_bytes();
        let text = text.get(..MAX_REASON_BYTES).unwrap_or(text);
        let head = self.head(&seq, reader, Outcome::GroupNotNormal);
        Some(Answer { head: head.encode(text), pages: Vec::new() })
    }

    fn turn_of(&self, reader: ArrayNumber) -> Result<Arc<tokio::sync::Mutex<()>>, ReaderError> {
        let mut seq = self.lock();
        seq.readers.reader(reader).ok_or(ReaderError::Unknown)?;
        Ok(seq.turns.entry(reader).or_default().clone())
    }

    /// Sets the reader's cursor as the command asks: to a named number, or back for a retry (step 1530).
    fn begin(&self, request: &Request) -> Result<(), ReaderError> {
        self.believe_elsewhere(request.reader);
        let mut seq = self.lock();
        if let Some(start) = request.start {
            let known = seq.readers.reader(request.reader).ok_or(ReaderError::Unknown)?;
            if start < known.retry_start() {
                let (began, settled) = (known.began, known.report.settled);
                if start < began || start <= settled {
                    // It began anew since: what lies between is in difference maps.
                    return Err(ReaderError::Released);
                }
                // Its journal failed with what it had not restored: it gets that again, if it is still held.
                if start < seq.journal.first_retained() {
                    seq.strand(request.reader, start);
                    drop(seq);
                    self.changed.notify_waiters();
                    return Err(ReaderError::Released);
                }
                seq.readers.handle_lost(request.reader, start)?;
            } else {
                seq.readers.handle_retry(request.reader, start)?;
            }
        } else if request.retry {
            seq.readers.handle_reconnected(request.reader)?;
        }
        let held_from = seq.journal.first_retained();
        let next = seq.readers.reader(request.reader).ok_or(ReaderError::Unknown)?.next;
        if next < held_from { Err(ReaderError::Released) } else { Ok(()) }
    }

    async fn collect(
        &self,
        request: &Request,
        first: UpdateNumber,
        cursor: Cursor,
    ) -> Result<Answer, ServeError> {
        let (count, budget) = self.answer_limits(request);
        // What is handed out again was within it once.
        let limit = match cursor {
            Cursor::Moves => self.limit_for(request.reader),
            Cursor::Stays => UpdateNumber::new(u64::MAX),
        };
        let began = self.lock().readers.reader(request.reader).map(|known| known.began);
        let found = self.load(first, count as usize, budget / 2, Class::JournalRead).await?;
        let (mut records, mut pages, mut sent) = (Vec::new(), Vec::new(), 0);
        let (mut last, mut as_of) = (first, UpdateNumber::NONE);
        let (mut is_stopped, mut whole) = (false, Vec::new());
        for (update, payload) in found {
            if update.number > limit || self.stops_at(request.reader, &update) {
                is_stopped = true;
                break;
            }
            let Some((update, payload)) = self.for_reader(request.reader, update, payload).await? else {
                is_stopped = true;
                break;
            };
            let before = records.len();
            format::encode_wire_to(&update, &mut records)
                .map_err(|error| CopyError::Damaged(error.to_string()))?;
            let record_pages = (HEAD_BYTES + records.len()).div_ceil(SLOT_BYTES);
            let total = (record_pages + pages.len() + payload.slots.len()) * SLOT_BYTES;
            let fits = total <= request.bytes as usize && record_pages <= MAX_RECORD_PAGES as usize;
            if !fits && sent == 0 {
                return Ok(self.more_room(request.reader, total));
            }
            if !fits {
                records.truncate(before);
                break;
            }
            pages.extend_from_slice(&payload.slots);
            sent += 1;
            as_of = as_of.max(update.as_of().unwrap_or(UpdateNumber::NONE));
            last = update.number;
            if update.kind == Kind::HostWrite {
                whole.push(update);
            }
        }
        if sent == 0 {
            let outcome = if is_stopped { Outcome::NoJournal } else { Outcome::NotHeld };
            return Ok(self.empty(request.reader, outcome));
        }
        let mut seq = self.lock();
        if seq.readers.reader(request.reader).map(|known| known.began) != began {
            drop(seq);
            return Ok(self.empty(request.reader, Outcome::NotHeld)); // It began anew meanwhile.
        }
        if let Some(outcome) = seq.has_turned(request.reader, &whole) {
            drop(seq);
            return Ok(self.empty(request.reader, outcome));
        }
        match cursor {
            Cursor::Moves => seq.readers.handle_sent(request.reader, last, as_of)?,
            Cursor::Stays => seq.readers.handle_sent_again(request.reader, last, as_of)?,
        }
        let total = seq.sent.entry(request.reader).or_default();
        total.0 += u64::from(sent);
        total.1 += (HEAD_BYTES + records.len() + pages.len() * SLOT_BYTES) as u64;
        let head =
            Head { updates: sent, first: first.get(), ..self.head(&seq, request.reader, Outcome::Updates) };
        Ok(Answer { head: head.encode(&records), pages })
    }

    /// Updates of one answer at most, and bytes, of which further updates get the first half.
    pub(super) fn answer_limits(&self, request: &Request) -> (u32, usize) {
        let bytes =
            (request.bytes as usize).saturating_sub(SLOT_BYTES).min(2 * self.settings.read_bytes as usize);
        // One update always goes, however small the wish: a reader that gets none would ask for ever.
        (request.updates.min(MAX_UPDATES).min(self.settings.read_updates).max(1), bytes)
    }

    /// The form in which an update leaves for `reader`; none: it may not leave yet.
    pub(super) async fn for_reader(
        &self,
        reader: ArrayNumber,
        update: Arc<Update>,
        payload: Payload,
    ) -> Result<Option<(Arc<Update>, Payload)>, CopyError> {
        let leaves = match update.kind {
            Kind::InitialCopy(copy)
                if copy.reader != reader || !self.still_copies(reader, copy, update.number) =>
            {
                (Arc::new(void_of(&update)), Payload::default())
            }
            Kind::InitialCopy(copy) if copy.form == CopyForm::RangeOnly => {
                let (update, payload) = self.copy_payload(&update, copy).await?;
                if !self.second_has(reader, update.as_of().unwrap_or(update.number)).await {
                    return Ok(None);
                }
                (Arc::new(update), payload)
            }
            Kind::HostWrite if self.withheld(reader, &update) => {
                (Arc::new(hole_of(&update)), Payload::default())
            }
            _ => (update, payload),
        };
        Ok(Some(leaves))
    }

    /// Whether the pair whose copy this is a step of is still there.
    fn still_copies(&self, reader: ArrayNumber, copy: InitialCopy, number: UpdateNumber) -> bool {
        let seq = self.lock();
        let pairs = seq.pairs.get(&copy.volume.0);
        pairs.into_iter().flatten().any(|pair| pair.reader == reader && number >= pair.resync.born)
    }

    /// Whether the update belongs to a pair of the reader whose differences are marked instead. A command changes one
    /// volume.
    pub(super) fn withheld(&self, reader: ArrayNumber, update: &Update) -> bool {
        self.lock().withholds(reader, update)
    }

    /// The data of an initial-copy record, read now.
    async fn copy_payload(&self, update: &Update, copy: InitialCopy) -> Result<(Update, Payload), CopyError> {
        let mut extents = Vec::new();
        let mut slots = Vec::new();
        let mut as_of = update.number;
        for extent in &update.extents {
            if extent.content == Content::Zero {
                // What an unjournaled UNMAP zeroed is durable before the reader has it.
                self.disk
                    .destage_range(VolumeId(extent.volume.0), extent.start_bytes, extent.length_bytes)
                    .await?;
                // Nothing had ever been written there when the record was made; whatever came later has its own number.
                extents.push(*extent);
                continue;
            }
            let volume = VolumeId(extent.volume.0);
            self.disk.destage_range(volume, extent.start_bytes, extent.length_bytes).await?;
            let length = usize::try_from(extent.length_bytes).unwrap_or(usize::MAX);
            let pieces = self.disk.read(volume, extent.start_bytes, length, Class::JournalRead).await?;
            // Whatever the pages hold had its number by now.
            as_of = as_of.max(self.lock().next.previous());
            split_zero_pages(extent, &pieces, &mut extents, &mut slots);
        }
        self.durable(as_of).await;
        let data_bytes = u32::try_from(slots.len() * SLOT_BYTES).unwrap_or(u32::MAX);
        let payload = Payload { slots: slots.into(), skip: 0, bytes: data_bytes };
        let update = Update {
            kind: Kind::InitialCopy(InitialCopy { form: CopyForm::Received { as_of }, ..copy }),
            extents,
            data_bytes,
            data_checksum: payload.checksum(),
            ..update.clone()
        };
        Ok((update, payload))
    }

    pub(super) fn more_room(&self, reader: ArrayNumber, needed: usize) -> Answer {
        let seq = self.lock();
        let room_bytes = u32::try_from(needed).unwrap_or(u32::MAX);
        let head = Head { room_bytes, ..self.head(&seq, reader, Outcome::MoreRoom) };
        Answer { head: head.encode(&[]), pages: Vec::new() }
    }

    pub(super) fn empty(&self, reader: ArrayNumber, outcome: Outcome) -> Answer {
        self.empty_from(reader, outcome, None)
    }

    /// An answer with nothing in it but the head; `first` instead of the reader's next number. A reader that hears "no longer held" begins
    /// anew and claims to have everything before its next number: until that is durable it hears "no journal" instead, or a crash
    /// here would leave it with more than there is, and it would be believed nothing any more.
    pub(super) fn empty_from(
        &self,
        reader: ArrayNumber,
        outcome: Outcome,
        first: Option<UpdateNumber>,
    ) -> Answer {
        let seq = self.lock();
        let next = seq.readers.reader(reader).map_or(seq.next, |known| known.next);
        let first = first.unwrap_or(next);
        let is_early = outcome == Outcome::NotHeld && !seq.may_begin_anew(reader);
        let outcome = if is_early { Outcome::NoJournal } else { outcome };
        let head = Head { updates: 0, first: first.get(), ..self.head(&seq, reader, outcome) };
        Answer { head: head.encode(&[]), pages: Vec::new() }
    }

    pub(super) fn head(&self, seq: &Sequencer, reader: ArrayNumber, outcome: Outcome) -> Head {
        let usage = seq.journal.usage();
        let first = seq.readers.reader(reader).map_or(seq.next, |known| known.next);
        Head {
            outcome,
            group: self.number,
            updates: 0,
            generation: seq.generation.counter,
            first: first.get(),
            newest_durable: seq.journal.durable().get(),
            oldest_held: seq.journal.first_retained().get(),
            newest_given: self.newest_given(seq),
            heard_ms: self.heard_ms(seq),
            information_bytes: (usage.info_used, usage.info_capacity),
            data_bytes: (usage.data_used, usage.data_capacity),
            wall_ns: self.clock.wall().0,
            unread_bytes: seq.unread_bytes(reader),
            pointers: seq.distances(reader),
            room_bytes: 0,
            load_permille: self.load_permille(),
            is_second: seq.is_pushed_to(reader),
        }
    }
}

impl Sequencer {
    fn withholds(&self, reader: ArrayNumber, update: &Update) -> bool {
        let pairs = update.extents.first().and_then(|extent| self.pairs.get(&extent.volume.0));
        pairs.into_iter().flatten().any(|pair| pair.reader == reader && pair.resync.withholds(update.number))
    }

    /// Why the reader may not be handed what was gathered for it: its pairs were suspended meanwhile, all of them, or one of
    /// which something is in there as a `whole` that is to be kept from it now.
    pub(super) fn has_turned(&self, reader: ArrayNumber, whole: &[Arc<Update>]) -> Option<Outcome> {
        if !self.readers.reader(reader).is_some_and(|known| known.holds) {
            return Some(Outcome::Suspended);
        }
        whole.iter().any(|update| self.withholds(reader, update)).then_some(Outcome::NoJournal)
    }
}

impl Group {
    /// The newest number given, at the array that gives numbers: in the middle of a cascade what was heard from above.
    fn newest_given(&self, seq: &Sequencer) -> u64 {
        let above = seq.source.as_ref().map_or(0, |head| head.newest_given);
        seq.next.previous().get().max(above)
    }

    /// How old that is.
    fn heard_ms(&self, seq: &Sequencer) -> u32 {
        if self.role == super::group::Role::Source { 0 } else { seq.apart.top.age_ms(self.clock.now()) }
    }
}

/// The same number with nothing in it.
fn void_of(update: &Update) -> Update {
    Update { kind: Kind::Void, extents: Vec::new(), data_bytes: 0, data_checksum: 0, ..update.clone() }
}

/// The same number with nothing in it but what it would have changed: the source has that in difference maps. It
/// travels down a cascade as it is.
fn hole_of(update: &Update) -> Update {
    let ranges = update.extents.iter().map(|extent| Extent { content: Content::Zero, ..*extent });
    Update { extents: ranges.collect(), ..void_of(update) }
}

/// What an answer does to the reader's cursor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cursor {
    /// The next read goes on behind it.
    Moves,
    /// It repeats what was lost.
    Stays,
}

/// Splits one extent of whole pages into runs of data and runs of zeros.
pub(super) fn split_zero_pages(
    extent: &Extent,
    pieces: &Pieces,
    extents: &mut Vec<Extent>,
    slots: &mut Vec<Slot>,
) {
    let mut at = extent.start_bytes;
    let first = extents.len();
    for piece in pieces.iter() {
        let (content, length) = match piece {
            Piece::Bytes { slot, .. } => {
                slots.push(slot.clone());
                (Content::Data, SLOT_BYTES as u64)
            }
            Piece::Zero { length } => (Content::Zero, *length as u64),
        };
        match extents[first..].last_mut() {
            Some(last) if last.content == content => last.length_bytes += length,
            _ => extents.push(Extent { start_bytes: at, length_bytes: length, content, ..*extent }),
        }
        at += length;
    }
}
