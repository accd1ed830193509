//! The group commit, waiting for it, and leaving a journal that has failed.
//!
//! One task of a group runs [`Group::write_journal`]. Whoever needs durability (FUA, SYNCHRONIZE CACHE, a journal
//! read) waits in [`Group::durable`] and by that ends the gathering.

use super::error::CopyError;
use super::group::{Group, PairRuntime, Role, Sequencer};
use super::kept::KeptUpdate;
use super::settle::pages_from;
use crate::clock::MonotonicNs;
use crate::disk::VolumeId;
use crate::disk::slot::{SLOT_BYTES, Slot};
use crate::volume::pair::PairState;
use holdfast_journal::{UpdateNumber, VolumeNumber};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Leaving a failed journal (invariant 3), step by step; each is durable before the next begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// The journal works.
    No,
    /// A volume failed, and another one takes over: nothing is accepted until it has.
    TakingOver,
    /// It failed: nothing is accepted until the control store says so, too.
    Failed,
    /// The store says so: what the cache holds goes to the units.
    Destaging,
    /// Everything is on the units; the store has to give the journal up.
    Destaged,
    /// Writes go on without a journal.
    Left,
}

impl Leaving {
    /// Whether writes have to wait.
    pub(crate) fn blocks(self) -> bool {
        matches!(self, Self::TakingOver | Self::Failed | Self::Destaging | Self::Destaged)
    }
}

/// Why a volume cannot be written any longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// The one that failed: another one may be written by the time somebody acts on it.
    pub(crate) volume: VolumeNumber,
    pub(crate) reason: String,
    /// No other volume can take over: nobody knows which one the control store names.
    pub(crate) is_final: bool,
}

impl Trouble {
    pub(crate) fn of(volume: VolumeNumber, error: &CopyError) -> Self {
        Self { volume, reason: error.to_string(), is_final: false }
    }
}

/// The shortest time between two commits while nobody waits for one and less than [`Group::enough_bytes`] have gathered. What
/// comes after a pause is committed at once.
///
/// A commit costs two handovers to the ring's thread and wakes every reader, whose answer costs as much again: at depth
/// 1 that is more than the few writes it carries, and each of these steps makes one write of a host wait. This is seldom
/// enough that fewer than one write in a hundred does, and a small part of what a lag may be.
const GATHER: Duration = Duration::from_millis(25);
/// Write data with which a commit is worth its while: the handovers of a commit take as long as some twenty writes.
const ENOUGH_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=4 << 20;

impl Group {
    /// Write data with which a commit is worth its while. Of a small memory for journals it is a part: what is not durable may not
    /// fill it.
    pub(super) fn enough_bytes(&self) -> u64 {
        (self.cache.bytes() as u64 / 8).clamp(*ENOUGH_BYTES.start(), *ENOUGH_BYTES.end())
    }

    /// Waits until everything up to `number` is durable in the journal.
    pub(crate) async fn durable(&self, number: UpdateNumber) {
        if self.gate.durable() < number.get() {
            let waiting = Waiting::new(&self.waiters);
            self.hurry.notify_one();
            self.gate.wait(number.get()).await;
            drop(waiting);
        }
        // A failed journal opens the gate for the cache; durable it is only once everything is on the units.
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            if !self.lock().leaving.blocks() {
                return;
            }
            room.await;
        }
    }

    /// The same for those on whose work a failed journal, or the end of the group, itself waits: they give up then.
    pub(crate) async fn try_durable(&self, number: UpdateNumber) -> Result<(), CopyError> {
        let broken = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                let reason = self.lock().failed.clone();
                if let Some(reason) = reason {
                    return CopyError::Damaged(format!(
                        "the journal of group {} failed: {reason}",
                        self.name
                    ));
                }
                changed.await;
            }
        };
        tokio::select! {
            biased;
            error = broken => Err(error),
            () = self.durable(number) => Ok(()),
            () = self.closing.begins() => {
                Err(CopyError::Damaged(format!("group {} ends", self.name)))
            }
        }
    }

    /// SYNCHRONIZE CACHE and FUA on a P-VOL: what was accepted before is durable afterwards.
    pub(crate) async fn synchronize(&self, volume: u32) -> Result<(), CopyError> {
        let (newest, unjournaled, partly_unjournaled) = {
            let seq = self.lock();
            let partly = |pair: &PairRuntime| {
                !pair.facts.copied_before
                    && matches!(pair.facts.state, PairState::NotYetCopied | PairState::BeingCopied)
            };
            let pairs = seq.pairs.get(&volume);
            // As long as a pair is copied for the first time, some writes are journaled nowhere.
            let unjournaled = seq.failed.is_some() || pairs.is_none_or(|pairs| pairs.iter().all(partly));
            let older = pairs.is_some_and(|pairs| pairs.iter().any(|pair| pair.resync.unjournaled));
            (seq.next.previous(), unjournaled, older)
        };
        if unjournaled {
            return Ok(self.disk.destage(&[VolumeId(volume)]).await?);
        }
        self.durable(newest).await;
        if partly_unjournaled {
            // Writes from before the pair was suspended in its first copy are in no journal.
            self.disk.destage(&[VolumeId(volume)]).await?;
        }
        Ok(())
    }

    /// The group commit: gathers what was appended, writes it in one go, flushes once. Runs until the journal fails.
    pub(crate) async fn write_journal(self: Arc<Self>) {
        let _running = self.running();
        let mut committed_at = None;
        while !self.closing.has_begun() {
            self.gather(committed_at).await;
            let (trouble, volume) = {
                let mut seq = self.lock();
                (seq.journal_error.take(), seq.journal.volume())
            };
            if let Some(trouble) = trouble {
                if self.take_over(&trouble).await {
                    continue;
                }
                return self.leave_journal(trouble.reason).await;
            }
            match self.commit_once(volume).await {
                Ok(true) => committed_at = Some(self.clock.now()),
                Ok(false) => tokio::select! {
                    biased;
                    () = self.closing.begins() => return,
                    () = self.work.notified() => {}
                },
                Err(error) => {
                    let trouble = Trouble::of(volume, &error);
                    if !self.take_over(&trouble).await {
                        return self.leave_journal(trouble.reason).await;
                    }
                }
            }
        }
    }

    /// While nobody waits for durability a moment of gathering makes one commit of many; a reader's lag grows by it.
    async fn gather(&self, committed_at: Option<MonotonicNs>) {
        let passed = committed_at.map(|then| self.clock.now().since(then));
        let Some(left) = passed.and_then(|passed| GATHER.checked_sub(passed)) else { return };
        if self.waiters.load(Ordering::Acquire) > 0 || self.lock().gathered_bytes >= self.enough_bytes() {
            return;
        }
        tokio::select! {
            biased;
            () = self.hurry.notified() => {}
            () = self.clock.sleep(left) => {}
        }
    }

    /// One commit, to this volume; `false` when there was nothing to write. If another volume is the one that is written by
    /// now, nothing is done.
    async fn commit_once(&self, volume: VolumeNumber) -> Result<bool, CopyError> {
        let (raw, commit, data) = {
            let raw = self.raw(volume)?;
            let mut seq = self.lock();
            if seq.journal.volume() != volume {
                return Ok(true);
            }
            let Some(commit) = seq.journal.poll_commit() else { return Ok(false) };
            seq.gathered_bytes = 0;
            let data = commit.data.iter().map(|(number, offset)| {
                let kept = seq.kept.get(*number).expect("what is not durable is never trimmed");
                (*offset, kept.payload.slots.clone())
            });
            let data: Vec<_> = data.collect();
            (raw, commit, data)
        };
        let mut runs = joined(&data);
        drop(data);
        runs.push((commit.info_offset, pages_from(&self.pool, &commit.info).await));
        // Records and data may reach the units in any order: a record carries the checksum of its data, and recovery
        // believes a record above the flushed claim only when its data matches. So one flush serves both.
        raw.write(runs).await?;
        raw.flush().await?;
        let mut seq = self.lock();
        seq.journal.handle_committed();
        let durable = seq.journal.durable();
        let dropped = self.trim_kept(&mut seq);
        let fills_up = seq.fills_up() || seq.next_volume().is_some();
        drop(seq);
        drop(dropped);
        if fills_up {
            self.settle_wanted.notify_one();
        }
        self.gate.advance(durable.get());
        self.changed.notify_waiters();
        self.room.notify_waiters();
        Ok(true)
    }

    /// Updates that need not be in memory any more, to be dropped outside of the lock. A reader asks for what it does not
    /// have; its lag is shown by what it has not restored. A copy restores from here.
    #[must_use]
    pub(super) fn trim_kept(&self, seq: &mut Sequencer) -> Vec<KeptUpdate> {
        let unneeded = match self.role {
            Role::Source => {
                let holding = seq.readers.iter().filter(|(_, reader)| reader.holds);
                holding.map(|(_, reader)| reader.report.restored).min()
            }
            Role::Copy => {
                let holding = seq.readers.iter().filter(|(_, reader)| reader.holds);
                let below = holding.map(|(_, reader)| reader.report.acknowledged).min();
                Some(below.map_or(seq.restored, |below| below.min(seq.restored)))
            }
        };
        let durable = seq.journal.durable();
        seq.kept.trim(durable, unneeded.unwrap_or(durable), self.cache.bytes())
    }

    /// The journal has failed. Writes wait until the control store says so, what is in the cache goes to the units, the
    /// store gives the journal up, and only then writes go on unjournaled. A crash before the store gives it up
    /// replays the journal; a crash after that never does.
    ///
    /// Whoever ends the group meanwhile may be the very owner who would record it: he is not waited for, and sees to the
    /// volumes himself.
    async fn leave_journal(&self, reason: String) {
        tracing::error!(group = %self.name, %reason, "journal failed; the group turns abnormal");
        {
            let mut seq = self.lock();
            seq.leaving = Leaving::Failed;
            seq.failed = Some(reason);
            seq.journal.handle_failed();
        }
        self.changed.notify_waiters();
        // What is being restored comes to its end; nothing is after it.
        drop(self.restoring.lock().await);
        if !self.comes_to(Leaving::Destaging).await {
            return;
        }
        // From here on the cache may destage pages whose records never became durable: the volumes themselves are the
        // only truth left.
        self.gate.advance(u64::MAX);
        let volumes = self.data_volumes(&self.lock());
        while let Err(error) = self.disk.destage(&volumes).await {
            tracing::error!(group = %self.name, %error, "cannot destage after the loss of the journal; trying again");
            if self.closing.has_begun() {
                return;
            }
            self.clock.sleep(Duration::from_secs(1)).await;
        }
        self.lock().leaving = Leaving::Destaged;
        self.changed.notify_waiters();
    }

    /// Waits for a step of that; `false`: the group ends before it.
    async fn comes_to(&self, step: Leaving) -> bool {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            if self.lock().leaving == step {
                return true;
            }
            tokio::select! {
                biased;
                () = self.closing.begins() => return false,
                () = &mut room => {}
            }
        }
    }

    /// How far the leaving of a failed journal has come.
    pub(crate) fn leaving(&self) -> Leaving {
        self.lock().leaving
    }

    /// The control store has recorded the last step: the next one begins.
    pub(crate) fn leaving_recorded(&self) {
        let mut seq = self.lock();
        seq.leaving = match seq.leaving {
            Leaving::Failed => Leaving::Destaging,
            Leaving::Destaged => Leaving::Left,
            other => other,
        };
        drop(seq);
        self.room.notify_waiters();
        self.changed.notify_waiters();
    }
}

/// Pages that lie one behind the other as one run.
pub(super) fn joined(data: &[(u64, Arc<[Slot]>)]) -> Vec<(u64, Vec<Slot>)> {
    let mut runs: Vec<(u64, Vec<Slot>)> = Vec::new();
    for (offset, slots) in data {
        match runs.last_mut() {
            Some((start, run)) if *start + (run.len() * SLOT_BYTES) as u64 == *offset => {
                run.extend_from_slice(slots);
            }
            _ => runs.push((*offset, slots.to_vec())),
        }
    }
    runs
}

/// Counts who waits for durability, however the wait ends.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
