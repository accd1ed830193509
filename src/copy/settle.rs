//! Settling: what the journal protects goes to the units, then the journal's room is freed.
//!
//! Order of writes, and the crash that each step is there for:
//! 1. wait until every visible update is durable in the journal (a page never overtakes its record);
//! 2. destage the group's volumes and flush their units: a crash before this replays the journal;
//! 3. write the checkpoint that says so and flush it: a crash before this replays updates that the units already
//!    have, which changes nothing, because every replay runs to the newest durable update;
//! 4. only then may the rings reuse the room (invariant 6): a crash after this never needs it.
//!
//! A round runs at rest once the last update is older than [`IDLE`], under load every [`SETTLE_EVERY`], which bounds
//! what a restart replays, and when room is short as soon as it makes a good piece of room ([`WORTHWHILE`]): a round
//! writes every dirty page of the group's volumes, and most of those are written again a moment later.

use super::checkpoint::{CheckpointExtra, PairMark};
use super::commit::Trouble;
use super::error::CopyError;
use super::group::{Group, Role, Sequencer};
use super::volumes::named;
use crate::disk::VolumeId;
use crate::disk::slot::{Class, SLOT_BYTES, Slot, SlotMut, SlotPool};
use crate::volume::kind::ReleaseBy;
use holdfast_journal::{Checkpoint, UpdateNumber, VolumeNumber};
use std::sync::Arc;
use std::time::Duration;

impl Group {
    /// Settles for ever; ends with its array.
    pub(crate) async fn settle_loop(self: Arc<Self>) {
        let _running = self.running();
        let (mut seen, mut settled_at) = (UpdateNumber::NONE, self.clock.now());
        let mut tick = self.clock.sleep(IDLE);
        loop {
            let round = tokio::select! {
                biased;
                () = self.closing.begins() => return,
                () = &mut tick => {
                    tick = self.clock.sleep(self.pause());
                    self.sample_rates();
                    self.look_at_units();
                    let restored = self.lock().restored;
                    let at_rest = std::mem::replace(&mut seen, restored) == restored;
                    let long_ago = self.clock.now().since(settled_at) >= SETTLE_EVERY;
                    self.round_of_a_tick(at_rest || long_ago)
                }
                () = self.settle_wanted.notified() => self.round_for_room(),
            };
            if self.wants_change()
                && let Err(error) = self.change_volume().await
            {
                tracing::warn!(group = %self.name, %error, "the journal cannot go on in another volume; trying again");
            }
            if self.overflowing().is_some() || self.stranded().is_some() {
                self.changed.notify_waiters(); // The owner takes the reader's pairs to difference maps.
            }
            let done = match round {
                Round::None => continue,
                Round::Checkpoint => self.checkpoint().await,
                Round::Settle => {
                    settled_at = self.clock.now();
                    self.settle().await
                }
            };
            if let Err(error) = done {
                // Nothing is freed; hosts feel it when the rings are full. The cause is in the unit's state.
                tracing::warn!(group = %self.name, %error, "cannot settle; trying again");
                self.clock.sleep(IDLE).await;
            }
        }
    }

    /// Until something is looked at again: sooner if the budget of waiting hosts ends sooner.
    fn pause(&self) -> Duration {
        self.budget_ends().filter(|left| !left.is_zero()).map_or(IDLE, |left| left.min(IDLE))
    }

    /// Makes room before somebody needs it.
    pub(crate) fn settle_if_worthwhile(&self) {
        let seq = self.lock();
        if room_is_short(&seq) && is_worthwhile(&seq) {
            self.settle_wanted.notify_one();
        }
    }

    fn round_of_a_tick(&self, is_due: bool) -> Round {
        let mut seq = self.lock();
        let settled = seq.settled;
        let needed = seq.needed_here(settled);
        let frees = seq.readers.releasable(needed) > seq.journal.released();
        if seq.failed.is_some() {
            Round::None
        } else if settled < seq.restored && (is_due || seq.depends_on_failed() || room_is_short(&seq)) {
            Round::Settle
        } else if frees || seq.journal.wants_checkpoint() {
            Round::Checkpoint
        } else {
            Round::None
        }
    }

    fn round_for_room(&self) -> Round {
        let seq = self.lock();
        if seq.failed.is_some() {
            Round::None
        } else if is_worthwhile(&seq) || seq.fills_up() || seq.depends_on_failed() || self.frees_at_once(&seq)
        {
            Round::Settle
        } else if seq.journal.wants_checkpoint() {
            Round::Checkpoint
        } else {
            Round::None
        }
    }

    /// Whether the group frees what readers hold as soon as they say so (J6), and they hold more than is freed.
    fn frees_at_once(&self, seq: &Sequencer) -> bool {
        let held = seq.readers.iter().map(|(_, reader)| reader.report.acknowledged).min();
        self.settings.release_by == ReleaseBy::AtOnce && held > Some(seq.journal.released())
    }

    /// One round; afterwards `settled` is what was visible when it began.
    pub(crate) async fn settle(&self) -> Result<(), CopyError> {
        let (target, volumes, unjournaled) = {
            let seq = self.lock();
            let pairs = seq.pairs.values().flatten().filter(|pair| pair.resync.unjournaled);
            let unjournaled: Vec<u32> = pairs.map(|pair| pair.pair).collect();
            (seq.restored, self.data_volumes(&seq), unjournaled)
        };
        self.try_durable(target).await?;
        self.disk.destage(&volumes).await?;
        {
            let mut seq = self.lock();
            seq.settled = seq.settled.max(target);
            for pair in seq.pairs.values_mut().flatten().filter(|pair| unjournaled.contains(&pair.pair)) {
                pair.resync.unjournaled = false;
            }
        }
        self.changed.notify_waiters();
        self.checkpoint().await
    }

    /// Writes a checkpoint and frees what it says is free. When this has returned, everything that was true at the call
    /// is in a durable checkpoint.
    ///
    /// A checkpoint may not know more than the journal: the copy completion addresses in it belong to records that have
    /// to be durable first. Otherwise a crash would lose the record and keep the address, and the range would never
    /// be copied.
    pub(crate) async fn checkpoint(&self) -> Result<(), CopyError> {
        let _one_at_a_time = self.checkpointing.lock().await;
        let (newest, settled, up_to, extra) = {
            let mut seq = self.lock();
            // What is freed is what these readers, as the checkpoint keeps them, do not lack.
            let (settled, extra) = (seq.settled, CheckpointExtra::of(&seq));
            let needed = seq.lets_go(settled);
            (seq.next.previous(), settled, seq.readers.releasable(needed), extra)
        };
        self.try_durable(newest).await?;
        self.mark_freed(up_to).await;
        // What the checkpoint lets go may have left marks, or ended copies: they are durable first.
        self.write_marks()?;
        let promise = extra.0.promise;
        let extra = self.encoded(extra)?;
        let (volume, checkpoint) = {
            let mut seq = self.lock();
            if seq.failed.is_some() {
                return Ok(());
            }
            seq.journal.release(up_to);
            seq.journal.handle_settled(settled);
            seq.journal.set_extra(&extra).map_err(|error| CopyError::Damaged(error.to_string()))?;
            (seq.journal.volume(), seq.journal.poll_checkpoint())
        };
        let Some(checkpoint) = checkpoint else { return self.drop_drained().await };
        if let Err(error) = self.write_checkpoint(volume, &checkpoint).await {
            // A journal that failed stays failed: its writer leaves it, or goes on in another volume.
            let mut seq = self.lock();
            if seq.journal.volume() == volume {
                seq.journal_error = Some(Trouble::of(volume, &error));
            }
            drop(seq);
            self.work_arrived();
            return Err(error);
        }
        {
            let mut seq = self.lock();
            if seq.journal.volume() != volume {
                return Ok(()); // Another volume has taken over, and knows nothing of this checkpoint.
            }
            seq.journal.handle_checkpointed();
            seq.promise_is_durable(promise);
        }
        self.drop_drained().await?;
        self.room.notify_waiters();
        self.changed.notify_waiters();
        Ok(())
    }

    /// What a checkpoint says, when the control store has what there is no room for in it.
    pub(super) fn encoded(
        &self,
        (extra, surplus): (CheckpointExtra, Vec<PairMark>),
    ) -> Result<Vec<u8>, CopyError> {
        if !surplus.is_empty() {
            let noted = self.marks.note_copy_ends(&surplus);
            noted
                .map_err(|reason| CopyError::Damaged(format!("ends of copies cannot be noted: {reason}")))?;
        }
        Ok(extra.encode())
    }

    async fn write_checkpoint(&self, volume: VolumeNumber, checkpoint: &Checkpoint) -> Result<(), CopyError> {
        let raw = self.raw(volume)?;
        let slots = pages_from(&self.pool, &checkpoint.block).await;
        raw.write(vec![(checkpoint.volume_offset, slots)]).await?;
        Ok(raw.flush().await?)
    }

    /// Volumes that hold nothing any more that a durable checkpoint needs leave the chain.
    async fn drop_drained(&self) -> Result<(), CopyError> {
        if !self.lock().journal.has_drained() {
            return Ok(());
        }
        let _one_at_a_time = self.chaining.lock().await;
        let (kept, dropped) = {
            let seq = self.lock();
            let mut all = named(&seq);
            let count = seq.journal.drained();
            let kept = all.split_off(count.min(all.len().saturating_sub(1)));
            (kept, all)
        };
        self.segment_store
            .name(&kept, "the ones before it hold nothing any more", None)
            .map_err(|error| CopyError::Damaged(error.to_string()))?;
        let mut seq = self.lock();
        seq.journal.drop_oldest(dropped.len());
        seq.count_spare_room();
        seq.volumes.has_left = true;
        drop(seq);
        for segment in dropped {
            self.opened.forget(VolumeNumber(segment.volume));
        }
        self.changed.notify_waiters();
        Ok(())
    }

    pub(super) fn data_volumes(&self, seq: &Sequencer) -> Vec<VolumeId> {
        // In the middle of a cascade pairs go by the numbers of another array; the volumes are the S-VOLs.
        let sources = seq.pairs.keys().copied().filter(|_| self.role == Role::Source);
        sources.chain(seq.svols.values().map(|svol| svol.volume)).map(VolumeId).collect()
    }
}

/// What the loop does next.
enum Round {
    None,
    Checkpoint,
    Settle,
}

/// More than half of a ring is used, here or, while this is a copy, at the source: that may wait for what is settled
/// here.
fn room_is_short(seq: &Sequencer) -> bool {
    let usage = seq.journal.usage();
    let source = seq.source.as_ref();
    let areas = [(usage.info_used, usage.info_capacity), (usage.data_used, usage.data_capacity)];
    let there = source.into_iter().flat_map(|head| [head.information_bytes, head.data_bytes]);
    areas.into_iter().chain(there).any(|(used, capacity)| used > capacity / 2)
}

/// Whether a round would free a good piece of the journal: not as long as a reader holds nearly all of it.
fn is_worthwhile(seq: &Sequencer) -> bool {
    let usage = seq.journal.usage();
    let needed = seq.needed_here(seq.restored);
    let kept_bytes = seq.journal.bytes_after(seq.readers.held_by_nobody(needed));
    let freed_bytes = (usage.info_used + usage.data_used).saturating_sub(kept_bytes);
    freed_bytes >= (usage.info_capacity + usage.data_capacity) / WORTHWHILE
}

/// Bytes as whole pages, for the journal volume: records and checkpoints are built in the crate without I/O.
pub(crate) async fn pages_from(pool: &SlotPool, bytes: &[u8]) -> Vec<Slot> {
    let mut slots = pool.take(Class::Journal, bytes.len().div_ceil(SLOT_BYTES)).await;
    for (slot, bytes) in slots.iter_mut().zip(bytes.chunks(SLOT_BYTES)) {
        slot[..bytes.len()].copy_from_slice(bytes);
        slot[bytes.len()..].fill(0);
    }
    slots.into_iter().map(SlotMut::freeze).collect()
}

/// How long after the last update what is visible is settled.
const IDLE: Duration = Duration::from_secs(1);
/// How long an update may wait to be settled under load while there is room: as long as a dirty page waits at most.
const SETTLE_EVERY: Duration = Duration::from_secs(5);
/// The part of the journal that a round has to free to be worth its writes.
const WORTHWHILE: u64 = 16;
