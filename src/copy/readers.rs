//! The readers of a group: taken up, and such as get updates from two arrays (promise T5); and the generations by which
//! arrays know that they have the same history (invariant 9).
//!
//! A reader that reads from another array reports to its source what it has, and the source did not send it; a reader
//! that is let in by the other array has what its source sent. Both may have anything that is durable at the array to
//! which they report, because updates come from there: no more is believed.

use super::answer::{Head, Outcome};
use super::error::CopyError;
use super::fetch::FetchError;
use super::group::{Group, PairRuntime, Sequencer};
use super::serve::Answer;
use super::source::Source;
use super::times::Top;
use crate::clock::BoxFuture;
use crate::volume::pair::PairState;
use holdfast_journal::reader::{Reader, ReaderError, Report};
use holdfast_journal::{ArrayNumber, Generation, UpdateNumber};
use std::collections::BTreeSet;
use std::pin::Pin;
use std::time::Duration;

/// Readers that are not like the others.
#[derive(Clone, Debug, Default)]
pub(crate) struct Apart {
    /// They get updates from another array too (promise T5): what they report may have come from there.
    pub(crate) elsewhere: BTreeSet<ArrayNumber>,
    /// They do not know yet that this array is their primary: they are handed nothing.
    pub(crate) untold: BTreeSet<ArrayNumber>,
    /// They are about to be readers here, and no row says so yet.
    pub(crate) coming: BTreeSet<ArrayNumber>,
    /// At an auxiliary: what was heard of the array that gives numbers.
    pub(crate) top: Top,
    /// At an auxiliary: what it had to free although others may lack it.
    pub(crate) freed: Option<super::freed::Freed>,
    /// At an auxiliary: the number of the last answer to SYNCHRONISE.
    pub(crate) heard_answer: u32,
    /// What came last found no room in the journal.
    pub(crate) lacks_room: bool,
    /// At an auxiliary: whether the source has said that this is its synchronous copy.
    pub(crate) said_second: Option<bool>,
}

impl Group {
    /// Takes up new readers. Each is in a durable checkpoint before it is told where it begins: so a restart does not
    /// let it begin elsewhere.
    ///
    /// One that is `attached` is a copy of another array and may begin with anything that is held here.
    pub(crate) async fn take_up_readers(
        &self,
        readers: &[ArrayNumber],
        attached: &BTreeSet<ArrayNumber>,
    ) -> Result<(), CopyError> {
        let new: Vec<ArrayNumber> = {
            let mut seq = self.lock();
            for reader in readers {
                seq.take_up(*reader, attached.contains(reader));
            }
            readers.iter().filter(|reader| !seq.announced.contains(reader)).copied().collect()
        };
        if !new.is_empty() {
            self.checkpoint().await?;
            self.lock().announced.extend(new);
        }
        Ok(())
    }

    /// What the readers know is in a durable checkpoint: the one behind a replay.
    pub(crate) fn announce_readers(&self) {
        let mut seq = self.lock();
        let known: Vec<ArrayNumber> = seq.readers.iter().map(|(array, _)| array).collect();
        seq.announced.extend(known);
    }

    /// The owner is to be woken when the reader has everything up to a number durably; whether it has.
    pub(crate) fn await_reader(&self, awaited: Option<(ArrayNumber, UpdateNumber)>) -> bool {
        let mut seq = self.lock();
        seq.awaited = awaited;
        seq.is_awaited_there()
    }

    /// Up to which number a reader has said to have everything durably.
    pub(crate) fn acknowledged_by(&self, reader: ArrayNumber) -> Option<UpdateNumber> {
        self.lock().readers.reader(reader).map(|known| known.report.acknowledged)
    }

    /// That the number is no longer held, as soon as that may be said ([`Self::empty_from`]).
    pub(super) async fn not_held(
        &self,
        reader: ArrayNumber,
        deadline: &mut Pin<&mut BoxFuture<'static, ()>>,
    ) -> Answer {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.lock().may_begin_anew(reader) {
                return self.empty(reader, Outcome::NotHeld);
            }
            tokio::select! {
                biased;
                () = &mut changed => {}
                () = deadline.as_mut() => return self.empty(reader, Outcome::NoJournal),
            }
        }
    }

    /// Whether the array is one of the group's readers.
    pub(crate) fn is_read_by(&self, reader: ArrayNumber) -> bool {
        let seq = self.lock();
        seq.announced.contains(&reader) && !seq.apart.untold.contains(&reader)
    }

    /// JOURNAL INFORMATION for `reader`. Its `first` is where the reader begins if it has no journal, whatever was handed
    /// to it since: behind what is durable there.
    pub(crate) fn information(&self, reader: ArrayNumber) -> Vec<u8> {
        let first = self.lock().readers.reader(reader).map(Reader::retry_start);
        self.information_from(reader, first)
    }

    /// What the source said with its last answer.
    pub(crate) fn note_source(&self, head: &Head) {
        let now = self.clock.now();
        let mut seq = self.lock();
        let lacking = seq.restored.next();
        seq.apart.top.handle_heard(UpdateNumber::new(head.newest_given), head.heard_ms, now);
        seq.apart.top.forget_before(lacking);
        seq.source = Some(head.clone());
    }

    /// Which readers get updates from two arrays.
    pub(crate) fn set_elsewhere(&self, readers: &BTreeSet<ArrayNumber>) {
        let mut seq = self.lock();
        if seq.apart.elsewhere == *readers {
            return;
        }
        let durable = seq.journal.durable();
        // One that reads from here alone again may still report what came from elsewhere.
        let gone: Vec<ArrayNumber> = seq.apart.elsewhere.difference(readers).copied().collect();
        gone.into_iter().for_each(|reader| seq.readers.may_have(reader, durable));
        seq.apart.elsewhere.clone_from(readers);
    }

    /// Which readers do not know yet that this array is their primary: they are handed nothing.
    pub(crate) fn set_untold(&self, readers: BTreeSet<ArrayNumber>) {
        self.lock().apart.untold = readers;
    }

    /// Refuses a reader that would not know what it is handed.
    pub(super) fn check_told(&self, reader: ArrayNumber) -> Result<(), ReaderError> {
        if self.lock().apart.untold.contains(&reader) { Err(ReaderError::Unknown) } else { Ok(()) }
    }

    /// Whether updates may be taken from another array than the source. When this has returned `false` was obeyed: no later
    /// one is stored.
    pub(crate) fn allow_other(&self, is_allowed: bool) {
        self.lock().other_allowed = is_allowed;
    }

    /// Takes note of what a reader may have from elsewhere; whether it gets updates from two arrays.
    pub(super) fn believe_elsewhere(&self, reader: ArrayNumber) -> bool {
        let mut seq = self.lock();
        let is_elsewhere = seq.apart.elsewhere.contains(&reader);
        if is_elsewhere {
            let durable = seq.journal.durable();
            seq.readers.may_have(reader, durable);
        }
        is_elsewhere
    }

    /// The part of a report that this array can know of: a reader may be ahead by what came from elsewhere.
    pub(super) fn known_here(&self, report: Report) -> Report {
        let durable = self.durable_here();
        Report {
            acknowledged: report.acknowledged.min(durable),
            restored: report.restored.min(durable),
            settled: report.settled.min(durable),
            consistent_from: report.consistent_from.min(durable),
        }
    }

    /// JOURNAL INFORMATION: the head of an answer, and behind it the generations that are known here.
    pub(super) fn information_from(&self, reader: ArrayNumber, first: Option<UpdateNumber>) -> Vec<u8> {
        let seq = self.lock();
        let head = self.head(&seq, reader, Outcome::NoJournal);
        let head = Head { first: first.map_or(head.first, UpdateNumber::get), ..head };
        let mut bytes = Vec::with_capacity(seq.generations.len() * GENERATION_BYTES);
        encode_generations(&seq.generations, &mut bytes);
        head.encode(&bytes)
    }

    /// Looks whether the source has what follows here, of the same history, before anything is read from it. Another
    /// array than this one's own source may be behind: it is waited for, but not for long.
    pub(super) async fn meet(&self, source: &dyn Source, source_group: u32) -> Result<(), FetchError> {
        let mut waited = Duration::ZERO;
        loop {
            let answer = source.journal_information(source_group).await?;
            let (head, generations) = Head::decode(&answer)?;
            let generations = decode_generations(generations).ok_or(FetchError::Generations(0))?;
            let has = self.lock().next.previous();
            if !self.continues(&generations) {
                return Err(FetchError::Generations(has.get()));
            }
            if head.newest_durable >= has.get() {
                self.learn_generations(generations);
                return Ok(());
            }
            if waited >= BEHIND_FOR {
                return Err(FetchError::Behind(head.newest_durable, has.get()));
            }
            self.clock.sleep(BEHIND_PAUSE).await;
            waited += BEHIND_PAUSE;
        }
    }

    /// Whether the newest update here was given in the generation to which the other array counts its number.
    fn continues(&self, theirs: &[Generation]) -> bool {
        let seq = self.lock();
        let newest = seq.next.previous();
        if !seq.has_stored() {
            return true;
        }
        let there = theirs.iter().rev().find(|generation| generation.first <= newest);
        there == Some(&seq.generation)
    }

    fn learn_generations(&self, theirs: Vec<Generation>) {
        let mut seq = self.lock();
        if seq.generations != theirs {
            (seq.generations, seq.generations_noted) = (theirs, false);
            drop(seq);
            self.changed.notify_waiters();
        }
    }

    /// Whether the control store lacks generations.
    pub(crate) fn has_new_generations(&self) -> bool {
        !self.lock().generations_noted
    }

    /// The generations that are known; they are taken for noted.
    pub(crate) fn take_generations(&self) -> Vec<Generation> {
        let mut seq = self.lock();
        seq.generations_noted = true;
        seq.generations.clone()
    }

    /// They could not be noted.
    pub(crate) fn generations_not_noted(&self) {
        self.lock().generations_noted = false;
    }

    /// A reader has said that it lost what it had not settled. From here on nothing that it reports is believed, until what it
    /// lacks is marked: the journal that it begins then takes what was lost for settled.
    pub(crate) fn strand(&self, reader: ArrayNumber) {
        let mut seq = self.lock();
        let Some(known) = seq.readers.reader(reader) else { return };
        // While a copy is under way that began anew nobody knows any more what it has settled of what was before that.
        let is_unknown = known.report.settled < known.began;
        let settled = known.report.settled;
        let is_copied =
            |pair: &PairRuntime| pair.reader == reader && pair.facts.state == PairState::BeingCopied;
        let from = match is_unknown && seq.pairs.values().flatten().any(is_copied) {
            true => UpdateNumber::FIRST,
            false => settled.next(),
        };
        seq.strand(reader, from);
    }

    /// Whether a reader has said that it lost what it had stored, and that is not marked yet.
    pub(crate) fn has_lost(&self, reader: ArrayNumber) -> bool {
        self.lock().stranded.contains_key(&reader)
    }

    /// What a stranded reader lacks is marked, or it has no pairs.
    pub(crate) fn stranded_no_more(&self, reader: ArrayNumber) {
        self.lock().stranded.remove(&reader);
    }
}

impl Sequencer {
    /// The reader lacks everything from `from` on, or from an earlier number if that is known already.
    pub(super) fn strand(&mut self, reader: ArrayNumber, from: UpdateNumber) {
        let known = self.stranded.entry(reader).or_insert(from);
        *known = from.min(*known);
    }

    /// Whether a reader has what the owner waits for.
    pub(super) fn is_awaited_there(&self) -> bool {
        self.awaited.is_some_and(|(reader, number)| {
            self.readers.reader(reader).is_some_and(|known| known.report.acknowledged >= number)
        })
    }

    /// The generation of the update that is being stored.
    pub(super) fn note_generation(&mut self, generation: Generation) {
        if self.generation == generation && self.stored_any {
            return;
        }
        (self.generation, self.stored_any) = (generation, true);
        if !self.generations.contains(&generation) && self.generations.len() < GENERATIONS_MAX {
            self.generations.push(generation);
            self.generations_noted = false;
        }
    }

    /// Whether what lies before the reader's next number is durable.
    pub(super) fn may_begin_anew(&self, reader: ArrayNumber) -> bool {
        let next = self.readers.reader(reader).map_or(self.next, |known| known.next);
        next.previous() <= self.journal.durable()
    }

    /// Whether the generation here is that of an update that was stored, and not only the newest that was heard of.
    fn has_stored(&self) -> bool {
        self.stored_any
    }

    /// Readers may have everything up to `number` from a journal that is gone.
    pub(crate) fn handed_before(&mut self, number: UpdateNumber) {
        let readers: Vec<ArrayNumber> = self.readers.iter().map(|(array, _)| array).collect();
        readers.into_iter().for_each(|reader| self.readers.may_have(reader, number));
    }

    /// Takes up a reader: with the next number, or, if it is a copy of another array, with whatever it asks for that is
    /// held.
    pub(crate) fn take_up(&mut self, reader: ArrayNumber, is_attached: bool) {
        if !is_attached {
            self.add_reader(reader);
            return;
        }
        let from = self.journal.released().next();
        if self.readers.add(reader, from).is_ok() {
            let durable = self.journal.durable();
            self.readers.may_have(reader, durable);
        }
    }
}

/// Generations as they stand behind the head of JOURNAL INFORMATION.
pub(crate) fn encode_generations(generations: &[Generation], bytes: &mut Vec<u8>) {
    for generation in generations {
        bytes.extend_from_slice(&generation.counter.to_be_bytes());
        bytes.extend_from_slice(&generation.array.0.to_be_bytes());
        bytes.extend_from_slice(&generation.first.get().to_be_bytes());
    }
}

/// The generations behind the head of JOURNAL INFORMATION.
pub(crate) fn decode_generations(bytes: &[u8]) -> Option<Vec<Generation>> {
    let (entries, rest) = bytes.as_chunks::<GENERATION_BYTES>();
    if !rest.is_empty() || entries.len() > GENERATIONS_MAX {
        return None;
    }
    let decode = |entry: &[u8; GENERATION_BYTES]| {
        let (counter, rest) = entry.split_first_chunk::<4>()?;
        let (array, rest) = rest.split_first_chunk::<4>()?;
        let first = rest.first_chunk::<8>()?;
        Some(Generation {
            counter: u32::from_be_bytes(*counter),
            array: ArrayNumber(u32::from_be_bytes(*array)),
            first: UpdateNumber::new(u64::from_be_bytes(*first)),
        })
    };
    entries.iter().map(decode).collect()
}

/// Bytes of one generation.
const GENERATION_BYTES: usize = 16;
/// Generations that are told at most; a longer list is refused.
const GENERATIONS_MAX: usize = 1_024;
/// How long an array that is behind is waited for.
const BEHIND_FOR: Duration = Duration::from_secs(5);
/// How often it is asked meanwhile.
const BEHIND_PAUSE: Duration = Duration::from_millis(50);
