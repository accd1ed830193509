//! One consistency group on one array: numbers, journal, visibility.
//!
//! # What it guarantees
//! * **Order.** One short critical section gives the update number, takes the place in the rings and makes the write
//!   visible in the cache. So numbers follow acknowledgement over all volumes of the group (invariant 1), and
//!   overlapping writes become visible in number order.
//! * **The journal is the write-ahead log.** A page that carries update n leaves the cache only when n and everything
//!   before it are durable in the journal: the gate (invariant 3).
//! * **Nothing is handed out that is not durable here** (invariant 2).
//! * **A journal that failed stays failed** (invariant 7): the group turns `abnormal`, its volumes are destaged, and
//!   only then do writes go on without a journal.
//!
//! # Who calls what
//! `io::write` calls `Group::try_sequence` with a [`Change`]; an auxiliary's fetch calls `Group::try_store`. Two
//! tasks belong to the group: `Group::write_journal` (group commit: `commit.rs`) and `Group::settle_loop` (destage,
//! release, checkpoint: `settle.rs`). Readers are answered by `serve.rs`, the copy is applied by `restore.rs`, the
//! initial copy is made by `initial.rs`.
//!
//! # What it costs
//! One std mutex, held for the time of a few map insertions; never across a wait.

use super::change::{Change, Payload, apply};
use super::closing::Closing;
pub(crate) use super::commit::Leaving;
use super::error::CopyError;
pub use super::error::Refusal;
use super::fetch::Whose;
use super::kept::{CacheShare, Kept};
use super::load::Opened;
use super::rest::Rests;
use super::rule::needs_journal;
pub(crate) use super::runtime::{PairRuntime, Role, SvolRuntime};
pub use super::settings::Settings;
use super::suspend::MarkStore;
use super::tamper::Tamper;
use super::times::{Times, creation_time};
use super::volumes::{SegmentStore, Volumes};
use crate::clock::{Clock, MonotonicNs};
use crate::disk::slot::SlotPool;
use crate::disk::{DiskAdapter, Gate, Prepared};
use crate::volume::kind::Schedule;
use crate::volume::pair::PairState;
use crate::volume::timing::RestoreStop;
use holdfast_journal::{
    AppendError, ArrayNumber, Draft, Full, Generation, Kind, Update, UpdateNumber, chain::Chain,
    reader::ReaderSet,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, watch};

/// A group at work. See the module's text.
pub struct Group {
    /// Local number.
    pub number: u32,
    /// Name, for people.
    pub name: String,
    /// The array this runs on.
    pub array: ArrayNumber,
    pub(crate) role: Role,
    pub(crate) disk: DiskAdapter,
    pub(crate) pool: SlotPool,
    pub(crate) clock: Arc<dyn Clock>,
    /// Journal volumes that are open.
    pub(super) opened: Opened,
    /// This group's part of the memory for journals.
    pub(super) cache: CacheShare,
    /// Reads of journal volumes, for what was not in memory.
    pub(super) unit_reads: AtomicU64,
    /// Where the journal volumes are named.
    pub(crate) segment_store: Arc<dyn SegmentStore>,
    /// One change of volumes at a time. Whoever holds it waits for no update to become durable.
    pub(super) chaining: tokio::sync::Mutex<()>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) settings: Settings,
    pub(super) schedule: watch::Sender<Schedule>,
    pub(crate) tamper: Option<Arc<dyn Tamper>>,
    sequencer: Mutex<Sequencer>,
    /// Something was appended.
    pub(super) work: Notify,
    /// Somebody waits for durability: commit at once.
    pub(super) hurry: Notify,
    pub(super) waiters: AtomicUsize,
    /// Room was freed, or the state changed.
    pub(crate) room: Notify,
    /// Room is wanted.
    pub(crate) settle_wanted: Notify,
    /// Something that views and readers look at has changed.
    pub(crate) changed: Notify,
    /// One checkpoint at a time: when it has returned, what was to be in it is durable.
    pub(crate) checkpointing: tokio::sync::Mutex<()>,
    /// One restore at a time: order is the whole point.
    pub(crate) restoring: tokio::sync::Mutex<()>,
    /// Who cuts volumes as they are between two restored updates.
    pub(super) cutting: super::cut::Cutting,
    /// Where difference maps are kept.
    pub(crate) marks: Arc<dyn MarkStore>,
    /// Whoever holds it has marks in hand that are not in the store. Nothing is waited for meanwhile.
    pub(super) marks_in_hand: Mutex<()>,
    pub(crate) closing: Closing,
    /// What hosts wait for beside the journal here.
    pub(super) waits: super::synchronous::Waits,
}

/// What the lock guards.
pub(crate) struct Sequencer {
    pub(crate) journal: Chain,
    /// The journal volumes beside those.
    pub(crate) volumes: Volumes,
    /// The journal goes on in another volume: appends wait.
    pub(crate) is_changing: bool,
    /// Readers that have said that they lost what no journal here holds any more, and from which number on.
    pub(crate) stranded: BTreeMap<ArrayNumber, UpdateNumber>,
    /// The next number to give, or to expect from the source.
    pub(crate) next: UpdateNumber,
    pub(crate) generation: Generation,
    pub(crate) kept: Kept,
    /// Pairs that are read from here, by P-VOL as the records name it: at the primary its own number.
    pub(crate) pairs: BTreeMap<u32, Vec<PairRuntime>>,
    pub(crate) readers: ReaderSet,
    /// Updates and bytes that each reader was sent since the start.
    pub(crate) sent: BTreeMap<ArrayNumber, (u64, u64)>,
    /// One journal read of a reader is answered at a time.
    pub(crate) turns: BTreeMap<ArrayNumber, Arc<tokio::sync::Mutex<()>>>,
    /// S-VOLs by the P-VOL's number (at an auxiliary).
    pub(crate) svols: BTreeMap<u32, SvolRuntime>,
    /// What the source said last (at an auxiliary).
    pub(crate) source: Option<super::answer::Head>,
    /// How reading goes (at an auxiliary).
    pub(crate) reading: super::fetch::Reading,
    /// Applied to the volumes: at the primary always the newest number.
    pub(crate) restored: UpdateNumber,
    /// The update that is being restored: some of its ranges may be visible already, also after an error.
    pub(crate) restored_in_part: Option<UpdateNumber>,
    /// Its own restore goes no further (at an auxiliary; `compare/hold.rs`).
    pub(crate) held_behind: Option<UpdateNumber>,
    /// Durable in the volumes.
    pub(crate) settled: UpdateNumber,
    /// Where an operator wants restore to stop (at an auxiliary; `stop.rs`).
    pub(crate) restore_stops: [Option<RestoreStop>; 2],
    /// A further one, which counts as well until the control store has it, or certainly has not.
    pub(crate) unrecorded_stop: Option<RestoreStop>,
    /// What came next was behind it.
    pub(crate) has_stopped: bool,
    /// Where the group's own restore pauses (`cut.rs`).
    pub(crate) cuts: BTreeSet<UpdateNumber>,
    /// The latest time of what was restored since the start, by the primary's clock.
    pub(crate) restored_time_ns: Option<u64>,
    /// Largest S of restored initial-copy data (auxiliary).
    pub(crate) consistent_from: UpdateNumber,
    pub(crate) failed: Option<String>,
    /// How far the leaving of a failed journal has come.
    pub(crate) leaving: Leaving,
    /// A write or flush of the journal volume failed elsewhere than in the group commit.
    pub(crate) journal_error: Option<super::commit::Trouble>,
    /// For each P-VOL the end of the highest range that was ever journaled: a write below it that left no record would
    /// be undone by a replay.
    pub(crate) journaled_end: BTreeMap<u32, u64>,
    /// Readers that a durable checkpoint knows: only they are told where they begin.
    pub(crate) announced: BTreeSet<ArrayNumber>,
    /// When updates were made.
    pub(crate) times: Times,
    /// How fast the journal fills and readers empty it.
    pub(crate) rates: super::rates::Rates,
    /// When each reader last said where it is.
    pub(crate) heard: BTreeMap<ArrayNumber, MonotonicNs>,
    /// When each reader last asked for updates.
    pub(crate) asked: BTreeMap<ArrayNumber, MonotonicNs>,
    /// Write data appended since the last commit was made up.
    pub(crate) gathered_bytes: u64,
    /// Since when a change waits for room that a reader holds.
    pub(crate) refused_since: Option<MonotonicNs>,
    /// A volume that is leaving the group: its writes wait.
    pub(crate) frozen: BTreeSet<u32>,
    /// P-VOLs whose pair was taken away at this auxiliary: what still comes of them is passed over.
    pub(crate) gone: BTreeSet<u32>,
    /// Whether the P-VOLs are an image of one moment.
    pub(crate) wholeness: super::whole::Wholeness,
    /// How far updates may become visible (at an auxiliary).
    pub(crate) promises: super::promise::Promises,
    /// Readers that are not like the others.
    pub(crate) apart: super::readers::Apart,
    /// The generations that are known, oldest first; and whether the control store has them.
    pub(crate) generations: Vec<Generation>,
    pub(crate) generations_noted: bool,
    /// The owner waits until this reader has everything up to the number durably.
    pub(crate) awaited: Option<(ArrayNumber, UpdateNumber)>,
    /// `generation` is that of an update that is or was in the journal here.
    pub(crate) stored_any: bool,
    /// Updates may be taken from another array than the source now (`array/sources.rs`).
    pub(crate) other_allowed: bool,
    /// Readers below that may not be handed this update yet, because of this volume (`cascade.rs`).
    pub(crate) gates: BTreeMap<ArrayNumber, (UpdateNumber, u32)>,
    /// The reader that hosts wait for (at the primary).
    pub(crate) synchronous: Option<super::synchronous::Synchronous>,
    /// How a synchronous copy stands (at the copy).
    pub(crate) pushed: super::push::Pushed,
    /// Updates of a former primary in the journal here.
    pub(crate) inherited: Option<Arc<super::inherited::Inherited>>,
    /// What other copies may need of the journal here.
    pub(crate) for_others: super::inherited::ForOthers,
    /// At a copy: nothing is taken from its source any more, because this array takes over.
    pub(crate) takes_nothing: bool,
    /// At a copy: reads that began before the last of these are stale (`rest.rs`).
    pub(crate) rests: Rests,
    /// At a copy: what is kept beside what it and its readers need.
    pub(crate) retained: super::replay::Retained,
}

impl Sequencer {
    /// The state around a journal that was formatted or recovered: everything in it is durable, nothing is applied
    /// beyond what is settled.
    pub(crate) fn new(
        journal: Chain,
        generation: Generation,
        pairs: BTreeMap<u32, Vec<PairRuntime>>,
        svols: BTreeMap<u32, SvolRuntime>,
        readers: ReaderSet,
        consistent_from: UpdateNumber,
    ) -> Self {
        let (next, settled) = (journal.next(), journal.settled().max(journal.first_retained().previous()));
        Self {
            kept: Kept::new(next),
            next,
            generation,
            pairs,
            readers,
            sent: BTreeMap::new(),
            turns: BTreeMap::new(),
            svols,
            source: None,
            reading: super::fetch::Reading::default(),
            restored: settled,
            restored_in_part: None,
            held_behind: None,
            restore_stops: [None; 2],
            unrecorded_stop: None,
            has_stopped: false,
            cuts: BTreeSet::new(),
            restored_time_ns: None,
            settled,
            consistent_from,
            failed: None,
            leaving: Leaving::No,
            journal_error: None,
            journaled_end: BTreeMap::new(),
            announced: BTreeSet::new(),
            times: Times::default(),
            rates: super::rates::Rates::default(),
            heard: BTreeMap::new(),
            asked: BTreeMap::new(),
            gathered_bytes: 0,
            refused_since: None,
            frozen: BTreeSet::new(),
            gone: BTreeSet::new(),
            wholeness: super::whole::Wholeness::default(),
            promises: super::promise::Promises::found(super::promise::Promise::default()),
            gates: BTreeMap::new(),
            synchronous: None,
            pushed: super::push::Pushed::default(),
            inherited: None,
            for_others: super::inherited::ForOthers::default(),
            takes_nothing: false,
            rests: Rests::default(),
            retained: super::replay::Retained::default(),
            apart: super::readers::Apart::default(),
            other_allowed: false,
            generations: vec![generation],
            generations_noted: true,
            awaited: None,
            stored_any: false,
            volumes: Volumes::default(),
            is_changing: false,
            stranded: BTreeMap::new(),
            journal,
        }
    }

    /// A reading array that begins with the next number; whether it was not known before.
    pub(crate) fn add_reader(&mut self, reader: ArrayNumber) -> bool {
        self.readers.add(reader, self.next).is_ok()
    }

    /// Write data that `reader` has not been handed yet, as far as it is kept in memory.
    pub(crate) fn unread_bytes(&self, reader: ArrayNumber) -> u64 {
        let Some(reader) = self.readers.reader(reader) else { return 0 };
        self.kept.bytes_from(reader.next)
    }

    pub(crate) fn pair_mut(&mut self, volume: u32, pair: u32) -> Option<&mut PairRuntime> {
        self.pairs.get_mut(&volume)?.iter_mut().find(|runtime| runtime.pair == pair)
    }

    /// Pairs whose state should be another one by what their data say; to be recorded in the control store, then here
    /// ([`Group::set_pair_state`]).
    pub(crate) fn pairs_that_became_normal(&self) -> Vec<u32> {
        let sources = self.pairs.values().flatten().filter(|pair| {
            let Some(reader) = self.readers.reader(pair.reader) else { return false };
            pair.facts.state == PairState::BeingCopied
                && pair.copy_end.is_some_and(|end| reader.report.restored >= end)
                && reader.is_consistent()
        });
        let consistent = self.restored >= self.consistent_from;
        let copies = self.svols.values().filter(|svol| {
            svol.state == PairState::BeingCopied
                && consistent
                && svol.copy_end.is_some_and(|end| self.restored >= end)
        });
        sources.map(|pair| pair.pair).chain(copies.map(|svol| svol.pair)).collect()
    }
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sequenced {
    /// It has this number.
    Journaled(UpdateNumber),
    /// No pair needed a journal (figure 14, step 1335): an ordinary write to an ordinary volume.
    Unjournaled,
}

impl Group {
    /// A group around a journal that was just formatted or recovered.
    pub(crate) fn new(parts: Parts, sequencer: Sequencer) -> Arc<Self> {
        let gate = Gate::new(sequencer.journal.durable().get());
        Arc::new(Self {
            number: parts.number,
            name: parts.name,
            array: parts.array,
            role: parts.role,
            disk: parts.disk,
            pool: parts.pool,
            clock: parts.clock,
            opened: Opened::default(),
            cache: parts.settings.journal_cache.share(),
            unit_reads: AtomicU64::new(0),
            segment_store: parts.segment_store,
            chaining: tokio::sync::Mutex::default(),
            gate: Arc::new(gate),
            settings: parts.settings,
            schedule: watch::Sender::default(),
            tamper: parts.tamper,
            sequencer: Mutex::new(sequencer),
            work: Notify::new(),
            hurry: Notify::new(),
            waiters: AtomicUsize::new(0),
            room: Notify::new(),
            settle_wanted: Notify::new(),
            changed: Notify::new(),
            checkpointing: tokio::sync::Mutex::default(),
            restoring: tokio::sync::Mutex::default(),
            cutting: super::cut::Cutting::default(),
            marks: parts.marks,
            marks_in_hand: Mutex::default(),
            closing: Closing::default(),
            waits: super::synchronous::Waits::default(),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Sequencer> {
        self.sequencer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The write-ahead gate, for the cache.
    #[must_use]
    pub fn gate(&self) -> Arc<Gate> {
        self.gate.clone()
    }

    /// Gives `change` its number and makes it visible, or refuses it with nothing visible. `prepared` has one entry for
    /// each part and is used up on success.
    pub(crate) fn try_sequence(
        &self,
        change: &Change,
        payload: &Payload,
        checksum: u32,
        prepared: &mut Vec<Prepared>,
    ) -> Result<Sequenced, Refusal> {
        let time_ns = creation_time(change.created_ns, self.clock.wall().0);
        let mut seq = self.lock();
        if seq.leaving.blocks() || seq.frozen.contains(&change.volume) {
            return Err(Refusal::Leaving);
        }
        if seq.is_fenced() {
            return Err(Refusal::Fenced);
        }
        let start = change.parts.iter().map(|part| part.offset_bytes).min().unwrap_or(0);
        let facts = seq.pairs.get(&change.volume);
        let journaled =
            facts.is_some_and(|pairs| pairs.iter().any(|pair| needs_journal(&[pair.facts], start)));
        let replayable = seq.journaled_end.get(&change.volume).is_some_and(|end| start < *end);
        let is_virtual = self.is_virtual(change.volume);
        if is_virtual && (facts.is_none() || seq.failed.is_some()) {
            return Err(Refusal::Invalid("a virtual volume without a journal takes no writes".into()));
        }
        let forced = is_virtual || change.whole && facts.is_some();
        if !(journaled || replayable || forced) || seq.failed.is_some() {
            if change.whole {
                return Err(Refusal::Invalid("without a journal nothing is written atomically".into()));
            }
            apply(&self.disk, change, prepared, 0);
            return Ok(Sequenced::Unjournaled);
        }
        let number = seq.next;
        let update = Update {
            number,
            generation: seq.generation,
            kind: Kind::HostWrite,
            time_ns,
            extents: change.extents(),
            data_bytes: payload.bytes,
            data_checksum: checksum,
        };
        self.append(&mut seq, &Arc::new(update), payload)?;
        seq.restored = number;
        let end = change.parts.iter().map(|part| part.offset_bytes + part.length_bytes).max().unwrap_or(0);
        let known = seq.journaled_end.entry(change.volume).or_default();
        *known = (*known).max(end);
        seq.pairs.get_mut(&change.volume).into_iter().flatten().for_each(|pair| pair.resync.note(change));
        apply(&self.disk, change, prepared, number.get());
        drop(seq);
        self.work.notify_one();
        Ok(Sequenced::Journaled(number))
    }

    /// Appends an update that has no change of its own here: initial copy, heartbeat, or what a peer sent.
    pub(crate) fn append(
        &self,
        seq: &mut Sequencer,
        update: &Arc<Update>,
        payload: &Payload,
    ) -> Result<(), Refusal> {
        if self.is_full_for_now(seq) {
            return Err(Refusal::NoRoom);
        }
        let number = update.number;
        match seq.journal.append(Draft::new(update.clone())) {
            Ok(_) => {}
            Err(AppendError::Full(full)) => {
                seq.apart.lacks_room = matches!(full, Full::Info | Full::Data);
                seq.refused_since.get_or_insert(self.clock.now());
                self.settle_wanted.notify_one();
                return Err(Refusal::NoRoom);
            }
            Err(other) => return Err(Refusal::Invalid(other.to_string())),
        }
        (seq.refused_since, seq.apart.lacks_room) = (None, false);
        seq.times.note(number, self.clock.now());
        seq.kept.push(update.clone(), payload.clone());
        seq.next = number.next();
        let gathered = seq.gathered_bytes + u64::from(payload.bytes);
        let enough = self.enough_bytes();
        if seq.gathered_bytes < enough && gathered >= enough {
            self.hurry.notify_one();
        }
        seq.gathered_bytes = gathered;
        Ok(())
    }

    /// Whether nothing is appended now, whatever room the journal has.
    pub(super) fn is_full_for_now(&self, seq: &Sequencer) -> bool {
        // What is not durable yet may not fill the memory.
        let is_gathering = seq.kept.bytes() > 2 * self.cache.bytes().max(1 << 20);
        seq.is_changing || seq.leaving.blocks() || is_gathering
    }

    /// Stores what a peer sent, with the peer's numbers (figure 20): takes from `arrived` what follows the newest number
    /// held, up to a gap. Durable when the gate says so. What is refused stays in `arrived`. `begun`: see `rest.rs`.
    pub(crate) fn try_store(
        &self,
        arrived: &mut BTreeMap<UpdateNumber, (Arc<Update>, Payload)>,
        whose: Whose,
        begun: Option<Rests>,
    ) -> Result<(), Refusal> {
        let mut seq = self.lock();
        seq.may_store(whose, begun)?;
        let mut stored = Ok(());
        while let Some(next) = arrived.first_entry().filter(|next| *next.key() == seq.next) {
            let (update, payload) = next.get();
            seq.note_generation(update.generation);
            stored = self.append(&mut seq, update, payload);
            if stored.is_err() {
                break;
            }
            seq.mark_stored(update);
            next.remove();
        }
        drop(seq);
        self.work.notify_one();
        stored
    }

    /// Why the journal has failed, once everything it protected is on the units.
    pub(crate) fn failure(&self) -> Option<String> {
        self.lock().failed.clone()
    }

    /// Pairs whose data say that they are normal and whose state does not yet.
    pub(crate) fn pairs_that_became_normal(&self) -> Vec<u32> {
        self.lock().pairs_that_became_normal()
    }

    /// Waits until the owner has something to record.
    pub(crate) async fn needs_owner(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let (leaving, failed, has_left) = {
                let seq = self.lock();
                (seq.leaving, seq.failed.is_some(), seq.volumes.has_left)
            };
            let recorded = matches!(leaving, Leaving::Failed | Leaving::Destaged);
            if (recorded && failed)
                || !self.pairs_that_became_normal().is_empty()
                || self.overflowing().is_some()
                || self.has_new_generations()
                || !self.gated().is_empty()
                || has_left
                || self.stranded().is_some()
                || self.must_read_again()
                || self.second_news().is_some()
                || self.lock().is_awaited_there()
            {
                return;
            }
            changed.await;
        }
    }

    /// Whether the data path knows the pair.
    pub(crate) fn knows_pair(&self, pair: u32) -> bool {
        let seq = self.lock();
        seq.pairs.values().flatten().any(|runtime| runtime.pair == pair)
            || seq.svols.values().any(|svol| svol.pair == pair)
    }

    /// Takes up a new pair at the primary; its reader is known.
    pub(crate) fn add_pair(&self, volume: u32, pair: PairRuntime) {
        self.lock().pairs.entry(volume).or_default().push(pair);
    }

    /// Takes up a new pair at an auxiliary.
    pub(crate) fn add_svol(&self, pvol: u32, svol: SvolRuntime) {
        let mut seq = self.lock();
        seq.gone.remove(&pvol);
        seq.svols.insert(pvol, svol);
    }

    /// Makes what is visible durable in the volumes: the end of a clean stop. What an auxiliary has stored and not restored
    /// stays in its journal.
    pub(crate) async fn finish(&self) -> Result<(), CopyError> {
        if self.failure().is_some() {
            return Ok(());
        }
        self.settle().await
    }

    /// Records a pair's new state; the control store has it already.
    pub(crate) fn set_pair_state(&self, pair: u32, state: PairState) {
        let mut seq = self.lock();
        for runtime in seq.pairs.values_mut().flatten().filter(|runtime| runtime.pair == pair) {
            runtime.facts.state = state;
            runtime.facts.copied_before |=
                matches!(state, PairState::Normal | PairState::Suspended | PairState::Abnormal);
            if state == PairState::Normal {
                // Numbers alone say from now on what the reader has.
                let resync = &mut runtime.resync;
                (resync.differences, resync.withheld, resync.reaches) = (None, None, None);
                runtime.copy_records.clear();
            }
        }
        for svol in seq.svols.values_mut().filter(|svol| svol.pair == pair) {
            svol.state = state;
        }
        drop(seq);
        self.changed.notify_waiters();
    }

    /// Something was appended: the journal writer has work.
    pub(crate) fn work_arrived(&self) {
        self.work.notify_one();
    }
}

/// What a group is made of.
pub(crate) struct Parts {
    pub(crate) number: u32,
    pub(crate) name: String,
    pub(crate) array: ArrayNumber,
    pub(crate) role: Role,
    pub(crate) disk: DiskAdapter,
    pub(crate) pool: SlotPool,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) settings: Settings,
    pub(crate) tamper: Option<Arc<dyn Tamper>>,
    pub(crate) marks: Arc<dyn MarkStore>,
    pub(crate) segment_store: Arc<dyn SegmentStore>,
}
