//! Suspending pairs and copying their differences, at the primary (promises O1, O2).
//!
//! # Suspension: marks, state, free
//! 1. [`Group::begin_marking`]: from here on every update of the pair's volume is marked, in the critical section that
//!    gives its number;
//! 2. [`Group::mark_unsettled`]: what the reader has not reported as settled is marked from the journal, which
//!    still holds it;
//! 3. the caller makes marks and state durable in one transaction ([`Group::take_marks`]);
//! 4. [`Group::suspended`]: the reader no longer holds the journal if all its pairs are suspended. If others go on, the
//!    suspended pair's updates are kept from it, once it knows ([`Group::withhold`]).
//!
//! A crash before 3 leaves the pair as it was, with the journal held; a crash after 3 finds the marks, and marks
//! again what it replays.
//!
//! # Resynchronisation
//! 1. The caller has told the auxiliary that its S-VOL is no image any more, and has its answer.
//! 2. [`Group::begin_resync`]: a reader that held nothing begins anew with the next number, and that is durable.
//! 3. The caller makes the state durable.
//! 4. [`Group::resyncing`]: marking ends, the copy of the marked regions begins (`initial.rs`), as records with numbers
//!    like those of an initial copy. A mark goes when the reader has settled the record that copied its region.
//!
//! Between 2 and 4 updates are marked *and* held: more than is needed, never less.

use super::change::Change;
use super::differences::{ChangedPart, DifferenceMap};
use super::error::CopyError;
use super::group::{Group, PairRuntime, Role, Sequencer};
pub(crate) use super::runtime::MarkStore;
use crate::disk::slot::Class;
use crate::volume::pair::PairState;
use holdfast_journal::{ArrayNumber, CopyForm, Extent, Kind, Update, UpdateNumber};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A record of an initial copy or of a copy of differences.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CopyRecord {
    pub(crate) number: UpdateNumber,
    /// Where the run of adjacent records begins that this one ends.
    pub(crate) run_start_bytes: u64,
    pub(crate) end_bytes: u64,
}

/// What a primary knows about the differences of a pair (`differences.rs`).
#[derive(Clone, Debug, Default)]
pub(crate) struct PairResync {
    /// Where the S-VOL may differ; none while that is settled by numbers alone.
    pub(crate) differences: Option<DifferenceMap>,
    /// Every update of the volume is marked.
    pub(crate) marking: bool,
    /// Updates of these numbers are not handed to the reader for this pair: from the first one, up to and not including
    /// the second.
    pub(crate) withheld: Option<(UpdateNumber, Option<UpdateNumber>)>,
    /// The first of these numbers is recorded. While it is not, nothing from there on is handed out.
    pub(crate) is_withheld_for_good: bool,
    /// Records of a copy below this number belong to an earlier copy.
    pub(crate) copy_from: UpdateNumber,
    /// Records of a copy below this number belong to an earlier pair of the same volumes.
    pub(crate) born: UpdateNumber,
    /// While the pair is not normal: what the S-VOL lacks was changed behind this number, if that is known.
    pub(crate) reaches: Option<UpdateNumber>,
    /// How far the copy of differences has come.
    pub(crate) copied_to_bytes: u64,
    /// Writes may be in the cache that no journal has: from before the pair was suspended.
    pub(crate) unjournaled: bool,
    /// Which copy of the pair this is, where numbers do not say it (`cascade.rs`).
    pub(crate) copies: u32,
    /// Of a virtual P-VOL: how far the upstream array has come with sending all of it.
    pub(crate) fill: super::whole::Fill,
}

impl PairResync {
    /// Whether the update with this number is kept from the reader.
    pub(crate) fn withholds(&self, number: UpdateNumber) -> bool {
        self.withheld.is_some_and(|(from, until)| number >= from && until.is_none_or(|until| number < until))
    }

    /// Marks what a change touches, if differences are recorded.
    pub(crate) fn note(&mut self, change: &Change) {
        if let (true, Some(map)) = (self.marking, &mut self.differences) {
            change.parts.iter().for_each(|part| map.mark(part.offset_bytes, part.length_bytes));
        }
    }
}

/// Pairs of one reader whose marking has begun.
#[derive(Clone, Debug)]
pub(crate) struct Marking {
    reader: ArrayNumber,
    pairs: BTreeSet<u32>,
    /// What the reader has settled need not be marked.
    from: UpdateNumber,
    /// It has said that it lost everything from here on, whatever it reported before.
    stranded: Option<UpdateNumber>,
    /// Pairs that were not marked before, and whether they had no map.
    begun: BTreeMap<u32, bool>,
    /// Updates behind this one are marked when they are numbered.
    pub(crate) up_to: UpdateNumber,
}

impl Marking {
    /// Whether the reader has said that it lost what it reported.
    pub(crate) fn is_stranded(&self) -> bool {
        self.stranded.is_some()
    }

    /// Everything that S-VOLs lack which were normal lies behind this number.
    pub(crate) fn reaches(&self) -> UpdateNumber {
        self.stranded.map_or(self.from, |stranded| stranded.min(self.from)).previous()
    }
}

/// How a copy of differences begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ResyncStart {
    /// The first number that is the reader's again.
    pub(crate) from: UpdateNumber,
    /// The reader begins anew: it has to leave the journal that it has.
    pub(crate) restarted: bool,
}

impl Group {
    /// Step 1 of a suspension. Pairs that the group does not know are passed over.
    pub(crate) fn begin_marking(&self, reader: ArrayNumber, pairs: &[u32]) -> Marking {
        let mut seq = self.lock();
        let from = seq.readers.reader(reader).map_or(UpdateNumber::NONE, |known| known.report.settled).next();
        let up_to = seq.next.previous();
        let mut begun = BTreeMap::new();
        for runtime in seq.pairs.values_mut().flatten().filter(|runtime| pairs.contains(&runtime.pair)) {
            if !runtime.resync.marking {
                begun.insert(runtime.pair, runtime.resync.differences.is_none());
            }
            runtime.begin_marking();
        }
        let stranded = seq.stranded.get(&reader).copied();
        Marking { reader, pairs: pairs.iter().copied().collect(), from, stranded, begun, up_to }
    }

    /// Step 2 of a suspension: afterwards everything that the S-VOLs may lack is marked in memory.
    ///
    /// # Errors
    /// The journal cannot be read. The pairs go on as if nobody had wanted to suspend them.
    pub(crate) async fn mark_unsettled(&self, marking: &Marking) -> Result<(), CopyError> {
        let marked = self.try_mark_unsettled(marking).await;
        if marked.is_err() {
            self.not_suspended(marking);
        }
        marked
    }

    /// A suspension that was begun does not come about: its pairs are copied on, and hosts wait for a synchronous one again. Marks
    /// that there were before stay.
    pub(crate) fn not_suspended(&self, marking: &Marking) {
        let mut seq = self.lock();
        for runtime in seq.pairs.values_mut().flatten().filter(|runtime| !runtime.facts.state.is_stopped()) {
            let Some(is_new) = marking.begun.get(&runtime.pair) else { continue };
            runtime.resync.marking = false;
            if *is_new {
                runtime.resync.differences = None;
            }
        }
        drop(seq);
        self.changed.notify_waiters();
    }

    async fn try_mark_unsettled(&self, marking: &Marking) -> Result<(), CopyError> {
        let mut next = self.mark_lost(marking, marking.stranded.unwrap_or(marking.from));
        while next <= marking.up_to {
            let updates = self.load_information(next, Class::Restore).await?;
            if updates.is_empty() {
                // Released meanwhile, or lost by this very read.
                let held = self.mark_lost(marking, next);
                if held <= next {
                    return Err(CopyError::Damaged(format!(
                        "group {}: update {next} is missing in its journal",
                        self.name
                    )));
                }
                next = held;
                continue;
            }
            let mut seq = self.lock();
            for update in updates.iter().filter(|update| update.number <= marking.up_to) {
                seq.mark_update(update, |pair| marking.pairs.contains(&pair.pair), marking.reader);
            }
            drop(seq);
            next = updates.last().map_or(next, |update| update.number).next();
        }
        Ok(())
    }

    /// Passes by what is in no journal any more, from `next` on; where what is still held begins. Only what was released
    /// because the reader reported is passed in silence: it has that. What was lost is marked by what is remembered of it,
    /// and where nothing is, everything is marked.
    fn mark_lost(&self, marking: &Marking, next: UpdateNumber) -> UpdateNumber {
        let mut seq = self.lock();
        let held_from = seq.journal.first_retained().max(next);
        let mut next = next.max(marking.stranded.unwrap_or_else(|| seq.needs_from(marking.reader, next)));
        while next < held_from && next <= marking.up_to {
            let kept = seq.kept.get(next).map(|kept| kept.update.clone());
            let known = kept.or_else(|| seq.recent_information(next));
            let Some(update) = known else { break };
            seq.mark_update(&update, |pair| marking.pairs.contains(&pair.pair), marking.reader);
            next = next.next();
        }
        if next >= held_from || next > marking.up_to {
            return held_from;
        }
        tracing::warn!(group = %self.name, reader = marking.reader.0, "what a reader lacks is not known: all is copied again");
        for runtime in seq.pairs.values_mut().flatten().filter(|pair| marking.pairs.contains(&pair.pair)) {
            let capacity = runtime.capacity_bytes;
            if let Some(map) = &mut runtime.resync.differences {
                map.mark(0, capacity);
            }
        }
        held_from
    }

    /// Step 4 of a suspension: the store has marks and state.
    pub(crate) fn suspended(&self, marking: &Marking) {
        let mut seq = self.lock();
        for runtime in seq.pairs.values_mut().flatten().filter(|pair| marking.pairs.contains(&pair.pair)) {
            if runtime.facts.state == PairState::Normal {
                runtime.resync.reaches = Some(marking.reaches());
            }
            // It is kept from the reader again once that knows, as for the first time. What an earlier suspension kept from it and it
            // has not passed by yet it gets: that is older than the copy behind it, and marked where the copy has not come.
            runtime.resync.withheld = runtime.resync.withheld.filter(|(_, until)| until.is_none());
            runtime.resync.unjournaled |= !runtime.facts.copied_before
                && matches!(runtime.facts.state, PairState::NotYetCopied | PairState::BeingCopied);
        }
        drop(seq);
        for pair in &marking.pairs {
            self.set_pair_state(*pair, PairState::Suspended);
        }
        let mut seq = self.lock();
        let goes_on = |pair: &PairRuntime| {
            let goes_on = matches!(pair.facts.state, PairState::BeingCopied | PairState::Normal);
            pair.reader == marking.reader && goes_on
        };
        if !seq.pairs.values().flatten().any(goes_on) {
            seq.stranded.remove(&marking.reader);
        }
        drop(seq);
        self.derive_holds();
    }

    /// The auxiliary knows that the pair is suspended: updates from the number on that this gives are kept from it. Before it
    /// knew, it had to get them: a volume that silently stays behind would break the image of its group there.
    ///
    /// Until [`Group::withholding_recorded`] says that the number is recorded, the reader is handed nothing from there on: a restart that
    /// chose another number would hand it what lies between.
    pub(crate) fn withhold(&self, pair: u32) -> Option<UpdateNumber> {
        let mut seq = self.lock();
        let reader = seq.pairs.values().flatten().find(|runtime| runtime.pair == pair)?.reader;
        let start = self.withhold_start(&seq, reader);
        let runtime = seq.pairs.values_mut().flatten().find(|runtime| runtime.pair == pair)?;
        runtime.resync.is_withheld_for_good &= runtime.resync.withheld.is_some();
        Some(runtime.resync.withheld.get_or_insert((start, None)).0)
    }

    /// From which number on updates of the pair are kept from its reader is recorded.
    pub(crate) fn withholding_recorded(&self, pair: u32) {
        let mut seq = self.lock();
        for runtime in seq.pairs.values_mut().flatten().filter(|runtime| runtime.pair == pair) {
            runtime.resync.is_withheld_for_good = true;
        }
        drop(seq);
        self.changed.notify_waiters();
    }

    /// Whether nothing of the pair's volume reaches the reader any more: its pair may go without more ado.
    pub(crate) fn is_cut_off(&self, pair: u32) -> bool {
        let seq = self.lock();
        let runtime = seq.pairs.values().flatten().find(|runtime| runtime.pair == pair);
        runtime.is_none_or(|runtime| {
            !seq.holds(runtime.reader) || runtime.resync.withheld.is_some_and(|(_, until)| until.is_none())
        })
    }

    /// A reader holds the journal unless all pairs that it has are suspended or abnormal.
    pub(crate) fn derive_holds(&self) {
        self.lock().derive_holds();
        self.settle_wanted.notify_one();
        self.changed.notify_waiters();
    }

    /// Step 2 of a resynchronisation of pairs of one reader.
    pub(crate) async fn begin_resync(
        &self,
        reader: ArrayNumber,
        pairs: &[u32],
    ) -> Result<ResyncStart, CopyError> {
        let (from, restarted) = {
            let mut seq = self.lock();
            let holds = seq.holds(reader);
            let from = seq.next;
            if !holds {
                seq.readers.restart(reader, from).map_err(|error| CopyError::Damaged(error.to_string()))?;
            }
            for runtime in seq.pairs.values_mut().flatten().filter(|pair| pairs.contains(&pair.pair)) {
                // From this number on the reader gets everything again, whatever is marked besides.
                let withheld = runtime.resync.withheld.map(|(first, _)| (first, Some(from)));
                runtime.resync.withheld = withheld.filter(|_| holds);
            }
            (from, !holds)
        };
        if restarted {
            // Where it begins is durable before it is told, and before a mark may go because of its reports.
            self.checkpoint().await?;
        } else {
            // A crash must not let numbers below `from` be given once more: they count as those of an earlier copy.
            self.try_durable(from.previous()).await?;
        }
        Ok(ResyncStart { from, restarted })
    }

    /// A resynchronisation that was begun and could not be recorded is undone.
    pub(crate) fn resync_not_begun(&self, pairs: &[u32]) {
        let mut seq = self.lock();
        let next = seq.next;
        for runtime in seq.pairs.values_mut().flatten().filter(|pair| pairs.contains(&pair.pair)) {
            // What is marked is kept from it again; what it was handed meanwhile is marked, too.
            runtime.resync.withheld = runtime.resync.withheld.map(|_| (next, None));
        }
        drop(seq);
        self.derive_holds();
    }

    /// Step 4 of a resynchronisation: the store has the state.
    pub(crate) fn resyncing(&self, pair: u32, start: ResyncStart) {
        let mut seq = self.lock();
        for runtime in seq.pairs.values_mut().flatten().filter(|runtime| runtime.pair == pair) {
            let resync = &mut runtime.resync;
            (resync.marking, resync.copied_to_bytes, resync.copy_from) = (false, 0, start.from);
            if self.role == Role::Copy {
                resync.copy_from = start.from.previous(); // The largest number that every piece must contain.
            }
            resync.fill = super::whole::Fill::Wanted;
            resync.differences.get_or_insert_with(|| DifferenceMap::new(runtime.capacity_bytes));
            runtime.copy_end = None;
            runtime.copy_records.clear();
            runtime.facts.copied_before = true;
        }
        drop(seq);
        self.set_pair_state(pair, PairState::BeingCopied);
    }
}

impl Group {
    /// The next number that will be given, once everything before it is durable: also a crash gives none below it.
    pub(crate) async fn next_for_good(&self) -> Result<UpdateNumber, CopyError> {
        let next = self.next_number();
        self.try_durable(next.previous()).await?;
        Ok(next)
    }

    /// From which number on records of a copy belong to this pair.
    pub(crate) fn note_birth(&self, pair: u32, born: UpdateNumber) {
        let mut seq = self.lock();
        for runtime in seq.pairs.values_mut().flatten().filter(|runtime| runtime.pair == pair) {
            runtime.resync.born = born;
        }
    }

    /// How much of its S-VOL a copy of the pair's differences rewrites at most, in whole MiB: what is marked now.
    pub(crate) fn rewritten_bytes(&self, pair: u32) -> u64 {
        let seq = self.lock();
        let runtime = seq.pairs.values().flatten().find(|runtime| runtime.pair == pair);
        let map = runtime.and_then(|runtime| runtime.resync.differences.as_ref());
        map.map_or(0, |map| map.touched_bytes(EXTENT_BYTES))
    }

    /// Whether updates are held for the reader.
    pub(crate) fn holds_reader(&self, reader: ArrayNumber) -> bool {
        self.lock().holds(reader)
    }

    /// Where the copy of a pair ended.
    pub(crate) fn copy_end(&self, pair: u32) -> Option<UpdateNumber> {
        let seq = self.lock();
        let source = seq.pairs.values().flatten().find(|runtime| runtime.pair == pair);
        let copy = seq.svols.values().find(|svol| svol.pair == pair);
        source.and_then(|runtime| runtime.copy_end).or_else(|| copy.and_then(|svol| svol.copy_end))
    }

    /// The next number that will be given.
    pub(crate) fn next_number(&self) -> UpdateNumber {
        self.lock().next
    }

    /// Whether the copy of the pair has not come to its end.
    pub(crate) fn wants_copy(&self, pair: u32) -> bool {
        let seq = self.lock();
        let wants = |runtime: &PairRuntime| {
            runtime.pair == pair
                && runtime.facts.state == PairState::BeingCopied
                && runtime.copy_end.is_none()
                && !runtime.resync.marking
        };
        seq.failed.is_none() && seq.pairs.values().flatten().any(wants)
    }

    /// At an auxiliary: what the control store says about a pair.
    pub(crate) fn sync_svol(&self, pair: u32, state: PairState, copy_from: UpdateNumber) {
        let mut seq = self.lock();
        let mut is_new = false;
        for svol in seq.svols.values_mut().filter(|svol| svol.pair == pair) {
            is_new |= (svol.state, svol.copy_from) != (state, copy_from);
            (svol.state, svol.copy_from) = (state, copy_from);
            svol.copy_end = svol.copy_end.filter(|end| *end >= copy_from);
        }
        drop(seq);
        if is_new {
            self.changed.notify_waiters(); // A copy that is pulled may begin.
        }
    }

    /// Takes a pair out at the primary. If it was the last one of its volume, writes to that volume wait from here on until
    /// [`Group::forget_volume`]; when this returns everything that the journal protected of it is on the units, and
    /// no replay will touch it.
    ///
    /// Gives that volume. An error leaves everything as it was.
    pub(crate) async fn forget_pair(&self, pair: u32) -> Result<Option<u32>, CopyError> {
        let (volume, is_last) = {
            let mut seq = self.lock();
            let mut known = seq.pairs.iter();
            let found = known.find(|(_, pairs)| pairs.iter().any(|runtime| runtime.pair == pair));
            let Some((volume, is_last)) = found.map(|(volume, pairs)| (*volume, pairs.len() == 1)) else {
                return Ok(None);
            };
            let is_last = is_last && self.role == Role::Source;
            if is_last {
                seq.frozen.insert(volume);
            }
            (volume, is_last)
        };
        if is_last && let Err(error) = self.settle().await {
            self.lock().frozen.remove(&volume);
            self.room.notify_waiters();
            return Err(error);
        }
        let mut seq = self.lock();
        seq.pairs.get_mut(&volume).into_iter().for_each(|pairs| pairs.retain(|runtime| runtime.pair != pair));
        if self.role == Role::Copy {
            seq.pairs.retain(|_, pairs| !pairs.is_empty());
            seq.gates.clear();
            return Ok(None); // It stays an S-VOL.
        }
        Ok(is_last.then_some(volume))
    }

    /// The volume is an ordinary one: writes that waited go on there.
    pub(crate) fn forget_volume(&self, volume: u32) {
        let mut seq = self.lock();
        seq.pairs.retain(|number, pairs| *number != volume || !pairs.is_empty());
        seq.journaled_end.remove(&volume);
        seq.frozen.remove(&volume);
        drop(seq);
        self.room.notify_waiters();
    }

    /// Whether the group knows readers beside these.
    pub(crate) fn has_other_readers(&self, readers: &BTreeSet<ArrayNumber>) -> bool {
        let seq = self.lock();
        seq.readers.iter().any(|(array, _)| !readers.contains(&array) && !seq.apart.coming.contains(&array))
    }

    /// Readers that are none any more hold nothing.
    pub(crate) fn keep_readers(&self, readers: &BTreeSet<ArrayNumber>) {
        let mut seq = self.lock();
        let gone: Vec<ArrayNumber> =
            seq.readers.iter().map(|(array, _)| array).filter(|array| !readers.contains(array)).collect();
        let gone = gone.into_iter().filter(|array| !seq.apart.coming.contains(array)).collect::<Vec<_>>();
        for array in gone {
            seq.readers.remove(array);
            seq.announced.remove(&array);
            seq.turns.remove(&array);
            seq.gates.remove(&array);
            seq.asked.remove(&array);
        }
        drop(seq);
        self.settle_wanted.notify_one();
    }
}

impl PairRuntime {
    fn begin_marking(&mut self) {
        let capacity = self.capacity_bytes;
        if self.resync.differences.is_none() {
            let mut map = DifferenceMap::new(capacity);
            match self.facts.state {
                // What the copy has not reached was never sent.
                PairState::NotYetCopied => map.mark(0, capacity),
                PairState::BeingCopied if self.copy_end.is_none() => {
                    map.mark(self.facts.copy_completion_bytes, capacity);
                }
                PairState::BeingCopied | PairState::Normal => {}
                PairState::Unused | PairState::Suspended | PairState::Abnormal => {}
            }
            self.resync.differences = Some(map);
        }
        self.resync.marking = true;
        // Their marks stay, settled there or not.
        self.copy_records.clear();
    }

    pub(super) fn take_marks(&mut self) -> Option<(u32, Vec<ChangedPart>)> {
        let changed = self.resync.differences.as_mut()?.take_changed();
        (!changed.is_empty()).then_some((self.pair, changed))
    }

    /// Takes the marks off what the reader has settled a copy of.
    pub(crate) fn copy_settled(&mut self, settled: UpdateNumber) {
        while let Some(record) = self.copy_records.pop_front_if(|record| record.number <= settled) {
            if let Some(map) = &mut self.resync.differences {
                map.clear(record.run_start_bytes, record.end_bytes - record.run_start_bytes);
            }
        }
    }

    /// How many bytes the S-VOL may differ in.
    pub(crate) fn differing_bytes(&self) -> u64 {
        self.resync.differences.as_ref().map_or(0, DifferenceMap::marked_bytes)
    }
}

impl Sequencer {
    /// Marks what an update touches in the maps of the chosen pairs; a step of a copy counts for its own reader.
    pub(crate) fn mark_update(
        &mut self,
        update: &Update,
        chosen: impl Fn(&PairRuntime) -> bool,
        reader: ArrayNumber,
    ) {
        let copies_for = match update.kind {
            // What was copied to this array is a change like any other for those that read from here.
            Kind::InitialCopy(copy) if copy.form == CopyForm::RangeOnly => Some(copy.reader),
            _ => None,
        };
        for extent in &update.extents {
            let pairs = self.pairs.get_mut(&extent.volume.0).into_iter().flatten();
            let concerned = |pair: &&mut PairRuntime| {
                chosen(pair) && pair.reader == reader && copies_for.is_none_or(|copies| copies == pair.reader)
            };
            for pair in pairs.filter(concerned) {
                mark_extent(pair, extent);
            }
        }
    }

    /// Marks again what a restart replays, for the pairs whose differences are recorded.
    pub(crate) fn mark_replayed(&mut self, update: &Update) {
        let readers: Vec<ArrayNumber> = self.readers.iter().map(|(array, _)| array).collect();
        for reader in readers {
            self.mark_update(update, |pair| pair.resync.marking, reader);
        }
    }

    /// Whether updates are held for the reader, and all that it lacks still is.
    pub(crate) fn holds(&self, reader: ArrayNumber) -> bool {
        let held_from = self.journal.first_retained();
        self.readers.reader(reader).is_some_and(|known| known.holds && known.retry_start() >= held_from)
    }

    /// See [`Group::derive_holds`].
    pub(crate) fn derive_holds(&mut self) {
        let mut holds: BTreeMap<ArrayNumber, bool> = BTreeMap::new();
        // A pair of which nothing was copied yet needs no hold: its copy begins when there is one.
        for pair in self.pairs.values().flatten().filter(|pair| pair.facts.state != PairState::NotYetCopied) {
            let is_stopped = matches!(pair.facts.state, PairState::Suspended | PairState::Abnormal);
            *holds.entry(pair.reader).or_default() |= !is_stopped;
        }
        for (reader, holds) in holds {
            self.readers.set_holds(reader, holds);
        }
    }
}

fn mark_extent(pair: &mut PairRuntime, extent: &Extent) {
    if let Some(map) = &mut pair.resync.differences {
        map.mark(extent.start_bytes, extent.length_bytes);
    }
}

/// What is shared with a kept image is moved in pieces of this size.
const EXTENT_BYTES: u64 = 1 << 20;
/// Updates of which the information is loaded at a time.
pub(super) const INFORMATION_UPDATES: usize = 1024;

/// The information of updates, without their data.
pub(super) type Information = Vec<Arc<Update>>;
