//! The journal volumes of a group at work: which one is written, which comes next, and what is done when one fails
//! (promise J13). The order of everything is that of [`holdfast_journal::chain`].
//!
//! # The next volume
//! A group goes on in its next volume when the one that is written has been written from end to end (volumes take turns),
//! when its parity group is degraded and a volume stands in reserve, or when it is to be taken away
//! ([`Group::change_volume`]): appends wait, everything is made durable, the head of the next volume is written, the
//! control store names it, appends go on. A crash before the store names it finds the old chain, after it the new one.
//!
//! # A volume that fails
//! [`Group::take_over`]: appends wait, a volume in reserve is begun with the oldest update that is in memory, and gets all
//! of them once more, under their numbers; then the store names it and appends go on. No number is lost or given
//! twice: what is not durable is always in memory (`kept.rs`). What lay durably in the failed volume only:
//! * updates that a volume of the group here does not have yet are in the cache; the group settles at once. A crash
//!   before that is the second failure: it is replayed if the failed volume can still be read, else the group does not
//!   open and says so;
//! * updates that a reader has not read are read from the failed volume while that is possible. When it is not, they are
//!   *lost* ([`Group::lose`]): the reader's pairs are suspended with everything marked that it may lack, and copied
//!   again. At an auxiliary, updates that are not restored are read again from the source (`array/journals.rs`).

use super::checkpoint::CheckpointExtra;
use super::commit::{Trouble, joined};
use super::error::CopyError;
use super::group::{Group, Leaving, Role, Sequencer};
use super::kept::KeptUpdate;
use super::settle::pages_from;
use crate::disk::RawVolume;
use holdfast_journal::chain::Held;
use holdfast_journal::format::{FormatParams, Layout, Superblock};
use holdfast_journal::{
    AppendError, ArrayNumber, Draft, Full, Generation, GroupNumber, Incarnation, Journal, UpdateNumber,
    VolumeNumber,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Where the volumes that make up the journal are named. Defined here, by its user; the control store does it.
pub(crate) trait SegmentStore: Send + Sync {
    /// An identity that no journal volume ever had.
    fn incarnation(&self) -> u128;

    /// From here on these volumes, oldest first, are the journal; durable when it returns. `why` is for people; `failed` is
    /// a volume that has failed, and how.
    fn name(&self, segments: &[Named], why: &str, failed: Option<(u32, &str)>) -> Result<(), NameError>;
}

/// Why volumes were not named.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NameError {
    /// The store did not take it: nothing has changed.
    #[error("{0}")]
    Refused(String),
    /// The store failed: it may name the old volumes or the new ones, and nobody can tell before the next start. No volume
    /// that it may name is begun anew then.
    #[error("{0}")]
    Uncertain(String),
}

/// A volume that is part of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) volume: u32,
    pub(crate) incarnation: u128,
    pub(crate) first: UpdateNumber,
}

/// A journal volume that may be written: it is neither to be taken away nor has it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spare {
    pub(crate) volume: u32,
    /// It waits for another one to fail, and takes no turn.
    pub(crate) is_reserve: bool,
    /// Whether it is divided into two areas.
    pub(crate) layout: Layout,
    /// Bytes of write data for one of update information.
    pub(crate) data_per_info: u32,
}

/// The journal volumes of the group, as its owner names them.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    /// Those that may be written, in the order in which they take turns; some of them are in the chain.
    writable: Vec<Spare>,
    /// Room of those among them that take turns: update information, write data.
    areas: BTreeMap<u32, (u64, u64)>,
    /// They are to be taken away.
    pub(super) leaving: BTreeSet<u32>,
    /// They failed here since the start.
    failed: BTreeSet<u32>,
    /// They lie on a degraded parity group.
    degraded: BTreeSet<u32>,
    /// A volume has left the chain since the owner looked.
    pub(super) has_left: bool,
    /// What a read of it found last that failed.
    pub(super) unread: Option<(u32, String)>,
}

/// Where a group goes on whose journal is gone.
pub(crate) struct ResumePoint {
    /// The first number of its next journal.
    pub(crate) first: UpdateNumber,
    /// What that has to know, as a checkpoint keeps it.
    pub(crate) extra: Vec<u8>,
    /// The generation of the update before it, if one was stored here.
    pub(crate) generation: Option<Generation>,
    /// Up to here its readers may have updates.
    pub(crate) handed: UpdateNumber,
}

/// Why a volume does not take over.
enum Unfit {
    /// Another one may.
    Volume(String),
    /// None can.
    All(String),
}

impl Group {
    /// The owner says which volumes may be written, and which are to be left.
    pub(crate) fn set_volumes(&self, writable: Vec<Spare>, leaving: BTreeSet<u32>) {
        {
            let mut seq = self.lock();
            seq.volumes.has_left = false;
            if seq.volumes.writable == writable && seq.volumes.leaving == leaving {
                return;
            }
        }
        let mut areas = BTreeMap::new();
        for spare in writable.iter().filter(|spare| !spare.is_reserve) {
            let Ok(raw) = self.raw(VolumeNumber(spare.volume)) else { continue };
            let planned = self.params(spare, &raw, UpdateNumber::FIRST, 0);
            if let Ok(planned) = Superblock::plan(&planned) {
                areas.insert(spare.volume, (planned.info_bytes, planned.data_bytes));
            }
        }
        let mut seq = self.lock();
        (seq.volumes.writable, seq.volumes.leaving, seq.volumes.areas) = (writable, leaving, areas);
        seq.count_spare_room();
        drop(seq);
        self.settle_wanted.notify_one();
        self.work_arrived();
    }

    /// The chain, to be named in the store.
    pub(crate) fn segments(&self) -> Vec<Named> {
        named(&self.lock())
    }

    /// Whether the group should go on in another volume now.
    pub(crate) fn wants_change(&self) -> bool {
        let seq = self.lock();
        seq.next_volume().is_some()
    }

    /// Looks which volumes lie on degraded parity groups.
    pub(crate) fn look_at_units(&self) {
        let volumes: Vec<u32> = {
            let seq = self.lock();
            if seq.waiting().next().is_none() {
                return; // There is nowhere else to go.
            }
            seq.volumes.writable.iter().map(|volume| volume.volume).collect()
        };
        let is_degraded = |volume: &u32| self.raw(VolumeNumber(*volume)).is_ok_and(|raw| raw.is_degraded());
        let degraded = volumes.into_iter().filter(is_degraded).collect();
        self.lock().volumes.degraded = degraded;
    }

    /// Goes on in the next volume, if there is a reason to and a volume. Run by the task that settles.
    pub(crate) async fn change_volume(&self) -> Result<(), CopyError> {
        let _no_checkpoint = self.checkpointing.lock().await;
        let (spare, why, from, newest) = {
            let mut seq = self.lock();
            let Some((spare, why)) = seq.next_volume() else { return Ok(()) };
            seq.is_changing = true;
            (spare, why, seq.journal.volume(), seq.next.previous())
        };
        let _thaw = Thaw(self);
        self.try_durable(newest).await?;
        self.write_marks()?;
        let _one_at_a_time = self.chaining.lock().await;
        let raw = self.raw(VolumeNumber(spare.volume))?;
        let (params, settled, extra) = {
            let seq = self.lock();
            let is_well = !seq.leaving.blocks() && seq.failed.is_none() && seq.journal_error.is_none();
            if !is_well || seq.journal.volume() != from || seq.journal.has_uncommitted() {
                return Ok(()); // Another volume has taken over meanwhile, or will.
            }
            let incarnation = self.segment_store.incarnation();
            let params = FormatParams {
                generation: seq.generation,
                ..self.params(&spare, &raw, seq.next, incarnation)
            };
            (params, seq.settled, CheckpointExtra::of(&seq))
        };
        let promise = extra.0.promise;
        let extra = self.encoded(extra)?;
        let begun = self.begin_volume(&raw, params, settled, &extra).await;
        let journal = match begun {
            Ok(journal) => journal,
            Err(error) => {
                tracing::warn!(group = %self.name, volume = spare.volume, %error, "cannot become the journal");
                self.lock().exclude(spare.volume);
                return Ok(());
            }
        };
        let mut segments = self.segments();
        segments.push(Named {
            volume: spare.volume,
            incarnation: params.incarnation.get(),
            first: params.first,
        });
        if let Err(error) = self.segment_store.name(&segments, why, None) {
            if matches!(error, NameError::Uncertain(_)) {
                self.stop_for_good(from, &error);
            }
            return Err(CopyError::Damaged(error.to_string()));
        }
        let mut seq = self.lock();
        seq.go_on_in(spare.volume, params.first, journal);
        seq.promise_is_in_both(promise);
        drop(seq);
        tracing::info!(group = %self.name, volume = spare.volume, first = %params.first, why, "journal goes on");
        Ok(())
    }

    /// Nothing is appended any more, neither to the volume that is written nor to another one: the writer of the journal
    /// leaves it.
    fn stop_for_good(&self, volume: VolumeNumber, error: &NameError) {
        let mut seq = self.lock();
        seq.leaving = Leaving::TakingOver;
        seq.journal_error = Some(Trouble { volume, reason: error.to_string(), is_final: true });
        drop(seq);
        self.work_arrived();
    }

    /// A volume has failed. If it is the one that is written, another one takes over, and this returns `true`, or there is
    /// none. If the journal has gone on in another one meanwhile, the failed one is only not begun again. Run by the task
    /// that writes the journal.
    pub(crate) async fn take_over(&self, trouble: &Trouble) -> bool {
        let _one_at_a_time = self.chaining.lock().await;
        let (failed, reason) = (trouble.volume.0, trouble.reason.as_str());
        {
            let mut seq = self.lock();
            seq.exclude(failed);
            // While this task waited for its turn, a change of volumes may have left the store uncertain.
            let is_final = trouble.is_final || seq.journal_error.as_ref().is_some_and(|other| other.is_final);
            if !is_final && seq.journal.volume() != trouble.volume {
                return true;
            }
            seq.leaving = Leaving::TakingOver;
            seq.journal.handle_failed();
            if is_final {
                return false;
            }
        }
        loop {
            let chosen = self.lock().volume_for_failure();
            let Some(spare) = chosen else { return false };
            match self.rewrite_to(&spare, (failed, reason)).await {
                Ok(()) => break,
                Err(Unfit::Volume(error)) => {
                    tracing::error!(group = %self.name, volume = spare.volume, %error, "cannot take over the journal");
                    self.lock().exclude(spare.volume);
                }
                Err(Unfit::All(error)) => {
                    tracing::error!(group = %self.name, %error, "no volume can take over the journal");
                    return false;
                }
            }
        }
        let durable = {
            let mut seq = self.lock();
            seq.leaving = Leaving::No;
            seq.journal_error = None;
            seq.journal.durable()
        };
        self.gate.advance(durable.get());
        self.room.notify_waiters();
        self.changed.notify_waiters();
        self.settle_wanted.notify_one();
        true
    }

    /// Begins `spare` with everything that is in memory.
    async fn rewrite_to(&self, spare: &Spare, failed: (u32, &str)) -> Result<(), Unfit> {
        let unfit = |error: CopyError| Unfit::Volume(error.to_string());
        self.write_marks().map_err(|error| Unfit::All(error.to_string()))?;
        let raw = self.raw(VolumeNumber(spare.volume)).map_err(unfit)?;
        let (params, settled, extra, kept) = {
            let seq = self.lock();
            let kept = seq.kept.all();
            let first = kept.first().map_or(seq.next, |oldest| oldest.update.number);
            let incarnation = self.segment_store.incarnation();
            let params =
                FormatParams { generation: seq.generation, ..self.params(spare, &raw, first, incarnation) };
            (params, seq.settled, CheckpointExtra::of(&seq), kept)
        };
        let promise = extra.0.promise;
        let extra = self.encoded(extra).map_err(|error| Unfit::All(error.to_string()))?;
        let mut journal = self.begin_volume(&raw, params, settled, &extra).await.map_err(unfit)?;
        let mut waiting = kept.iter().peekable();
        loop {
            while let Some(next) = waiting.peek() {
                match journal.append(Draft::new(next.update.clone())) {
                    Ok(_) => waiting.next(),
                    Err(AppendError::Full(Full::CommitBehind)) => break,
                    Err(error) => return Err(Unfit::Volume(error.to_string())),
                };
            }
            let Some(commit) = journal.poll_commit() else { break };
            let data: Vec<_> =
                commit.data.iter().filter_map(|(number, at)| Some((*at, payload(&kept, *number)?))).collect();
            let mut runs = joined(&data);
            runs.push((commit.info_offset, pages_from(&self.pool, &commit.info).await));
            raw.write(runs).await.map_err(|error| unfit(error.into()))?;
            raw.flush().await.map_err(|error| unfit(error.into()))?;
            journal.handle_committed();
        }
        let mut segments = self.segments();
        let named =
            Named { volume: spare.volume, incarnation: params.incarnation.get(), first: params.first };
        segments.push(named);
        self.segment_store
            .name(&segments, "the one before it failed", Some(failed))
            .map_err(|error| Unfit::All(error.to_string()))?;
        let mut seq = self.lock();
        tracing::warn!(
            group = %self.name, volume = spare.volume, from = %params.first, reason = failed.1,
            "a journal volume failed; another one has taken over"
        );
        seq.go_on_in(spare.volume, params.first, journal);
        seq.promise_is_in_both(promise);
        Ok(())
    }

    async fn begin_volume(
        &self,
        raw: &RawVolume,
        params: FormatParams,
        settled: UpdateNumber,
        extra: &[u8],
    ) -> Result<Journal, CopyError> {
        let (head, journal) = Journal::format_following(params, settled, extra)
            .map_err(|error| CopyError::Damaged(error.to_string()))?;
        raw.write(vec![(0, pages_from(&self.pool, &head).await)]).await?;
        raw.flush().await?;
        Ok(journal)
    }

    fn params(&self, spare: &Spare, raw: &RawVolume, first: UpdateNumber, incarnation: u128) -> FormatParams {
        FormatParams {
            incarnation: Incarnation::new(incarnation),
            array: self.array,
            group: GroupNumber(self.number),
            volume_bytes: raw.size_bytes(),
            layout: spare.layout,
            data_per_info: spare.data_per_info,
            first,
            generation: Generation::default(),
        }
    }

    /// What an earlier volume holds cannot be read. `true` if it was one: then what it held is lost, and `held` is none of
    /// the journal any more. Reading fails on the volume that is written: another one takes over, if there is one.
    ///
    /// A read of `number` that ends after the volume was left proves nothing: nothing is lost then, and `true` says that
    /// `held` is none of the journal any more.
    pub(crate) fn lose(&self, number: UpdateNumber, held: &Held, error: &CopyError) -> bool {
        let mut seq = self.lock();
        if !seq.journal.locate(number).is_some_and(|now| now.is_same_place(held)) {
            return true;
        }
        seq.volumes.unread = Some((held.volume.0, error.to_string()));
        if held.volume == seq.journal.volume() {
            if seq.volume_for_failure().is_some() && !seq.leaving.blocks() {
                seq.journal_error.get_or_insert_with(|| Trouble::of(held.volume, error));
                drop(seq);
                self.work_arrived();
            }
            return false;
        }
        if let Some(end) = seq.journal.end_of(number) {
            tracing::error!(group = %self.name, %error, below = %end, "journal that only a failed volume holds is lost");
            seq.journal.lose_below(end);
        }
        drop(seq);
        self.changed.notify_waiters();
        self.settle_wanted.notify_one();
        true
    }

    /// A reader for which updates are held that no journal here holds any more.
    pub(crate) fn stranded(&self) -> Option<ArrayNumber> {
        let seq = self.lock();
        if seq.failed.is_some() || seq.must_read_again(self.role) {
            return None; // In a cascade what is lacking may come once more.
        }
        let mut holding = seq.readers.iter().filter(|(_, reader)| reader.holds);
        let is_stranded =
            |array: ArrayNumber| seq.stranded.contains_key(&array) || seq.lacks(array).is_some();
        holding.find(|(array, _)| is_stranded(*array)).map(|(array, _)| array)
    }

    /// At an auxiliary: an update that is not restored is in no journal here any more.
    pub(crate) fn must_read_again(&self) -> bool {
        self.lock().must_read_again(self.role)
    }

    /// Where a group whose journal is gone goes on. At a primary readers begin anew. At an auxiliary that others read they
    /// may be ahead of it: it is given the same updates again.
    pub(crate) fn resume_point(&self) -> ResumePoint {
        let seq = self.lock();
        let none =
            ResumePoint { first: seq.next, extra: Vec::new(), generation: None, handed: UpdateNumber::NONE };
        if self.role == Role::Source {
            return none;
        }
        let of_restored = seq.generations.iter().rev().find(|known| known.first <= seq.restored);
        ResumePoint {
            first: seq.restored.next(),
            // Copies whose end does not fit are made anew.
            extra: CheckpointExtra::of_resumed(&seq).encode(),
            generation: of_restored.copied().filter(|_| seq.stored_any),
            handed: seq.next.previous(),
        }
    }
}

impl Sequencer {
    /// The first update that a reader lacks, if no journal here holds it any more.
    pub(super) fn lacks(&self, reader: ArrayNumber) -> Option<UpdateNumber> {
        let lacks = self.readers.reader(reader)?.retry_start();
        (lacks < self.journal.first_retained()).then_some(lacks)
    }

    /// The first of the updates from `next` on that the reader may lack if it is in no journal any more: what it reported is
    /// its own, but what was lost rather than released counts from what the release goes by.
    pub(super) fn needs_from(&self, reader: ArrayNumber, next: UpdateNumber) -> UpdateNumber {
        let released = self.readers.released_by(reader).map_or(next, UpdateNumber::next).max(next);
        if released < self.journal.lost_below() {
            return released;
        }
        let known = self.readers.reader(reader);
        known.map_or(self.journal.first_retained(), |known| known.retry_start().max(released))
    }

    fn must_read_again(&self, role: Role) -> bool {
        role == Role::Copy && self.failed.is_none() && self.restored.next() < self.journal.lost_below()
    }

    /// Whether a crash would have to replay from a volume that has failed.
    pub(super) fn depends_on_failed(&self) -> bool {
        self.journal.has_failed_segment() && self.settled.next() < self.journal.first_of_last()
    }

    /// What can still be written is the volume that is written and the room of those that wait for their turn.
    pub(super) fn count_spare_room(&mut self) {
        let areas: Vec<(u64, u64)> =
            self.waiting().filter_map(|spare| self.volumes.areas.get(&spare.volume).copied()).collect();
        self.journal.set_spare(summed(&areas));
    }

    /// Room that comes without anything being asked of a reader that has reported everything up to `released`: of earlier
    /// volumes, which then only wait for what is in them to be settled.
    pub(super) fn room_to_come(&self, released: UpdateNumber) -> (u64, u64) {
        let earlier = self.journal.segments_before(released.next());
        let areas: Vec<(u64, u64)> = earlier
            .filter(|volume| !self.volumes.leaving.contains(volume) && !self.volumes.failed.contains(volume))
            .filter_map(|volume| self.volumes.areas.get(&volume).copied())
            .collect();
        summed(&areas)
    }

    /// It has failed: nothing is written there any more.
    fn exclude(&mut self, volume: u32) {
        self.volumes.failed.insert(volume);
        self.count_spare_room();
    }

    fn go_on_in(&mut self, volume: u32, first: UpdateNumber, journal: Journal) {
        self.journal.begin_segment(VolumeNumber(volume), first, journal);
        self.count_spare_room();
    }

    /// The volumes that could become the next one.
    fn waiting(&self) -> impl Iterator<Item = Spare> {
        let volumes = &self.volumes;
        let is_usable = |spare: &&Spare| {
            !volumes.failed.contains(&spare.volume)
                && !volumes.leaving.contains(&spare.volume)
                && !self.journal.contains(VolumeNumber(spare.volume))
        };
        volumes.writable.iter().filter(is_usable).copied()
    }

    /// The one whose turn it is after `written`; none on a degraded parity group.
    fn in_turn(&self, written: u32) -> Option<Spare> {
        let is_well = |spare: &Spare| !spare.is_reserve && !self.volumes.degraded.contains(&spare.volume);
        let in_turn = || self.waiting().filter(is_well);
        in_turn().find(|spare| spare.volume > written).or_else(|| in_turn().next())
    }

    /// The volume to go on in now, and why.
    pub(super) fn next_volume(&self) -> Option<(Spare, &'static str)> {
        let volumes = &self.volumes;
        if self.is_changing || self.leaving.blocks() || self.failed.is_some() || self.journal.is_too_long() {
            return None;
        }
        let written = self.journal.volume().0;
        if volumes.leaving.contains(&written) {
            let next = self.in_turn(written).or_else(|| self.waiting().next())?;
            return Some((next, "the one before it is taken away"));
        }
        if volumes.degraded.contains(&written) {
            let reserve = self.waiting().find(|spare| spare.is_reserve);
            let reserve = reserve.filter(|spare| !volumes.degraded.contains(&spare.volume));
            if let Some(reserve) = reserve {
                return Some((reserve, "the parity group of the one before it is degraded"));
            }
        }
        // A large update may find no room before the end is reached.
        if self.journal.has_made_a_lap() || self.refused_since.is_some() {
            return Some((self.in_turn(written)?, "it is its turn"));
        }
        None
    }

    /// The volume to take over from one that failed: one in reserve before others.
    fn volume_for_failure(&self) -> Option<Spare> {
        let reserve = self.waiting().find(|spare| spare.is_reserve);
        let usable = reserve.or_else(|| self.waiting().next());
        usable.filter(|_| !self.journal.is_too_long())
    }
}

impl Group {
    /// These volumes were given back: should they come again, they are other ones.
    pub(crate) fn forget_journals(&self, volumes: impl Iterator<Item = u32>) {
        let mut seq = self.lock();
        for volume in volumes {
            self.opened.forget(VolumeNumber(volume));
            seq.volumes.failed.remove(&volume);
            seq.volumes.areas.remove(&volume);
            seq.volumes.writable.retain(|spare| spare.volume != volume);
        }
        seq.count_spare_room();
    }
}

/// Lets appends go on, however the change of volumes ends.
struct Thaw<'a>(&'a Group);

impl Drop for Thaw<'_> {
    fn drop(&mut self) {
        self.0.lock().is_changing = false;
        self.0.room.notify_waiters();
        self.0.changed.notify_waiters();
    }
}

pub(super) fn named(seq: &Sequencer) -> Vec<Named> {
    let segments = seq.journal.segments();
    let named = segments.iter().map(|segment| Named {
        volume: segment.volume.0,
        incarnation: segment.superblock.incarnation.get(),
        first: segment.first,
    });
    named.collect()
}

fn summed(areas: &[(u64, u64)]) -> (u64, u64) {
    areas.iter().fold((0, 0), |sum, area| (sum.0 + area.0, sum.1 + area.1))
}

fn payload(kept: &[KeptUpdate], number: UpdateNumber) -> Option<Arc<[crate::disk::slot::Slot]>> {
    let first = kept.first()?.update.number;
    let index = usize::try_from(number.get().checked_sub(first.get())?).ok()?;
    Some(kept.get(index)?.payload.slots.clone())
}
