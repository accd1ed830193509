//! Restore at an auxiliary: figure 22.
//!
//! Updates are applied strictly in number order: the next one only when its number follows, all its ranges, then the
//! number of the group moves. What is applied is durable in this array's journal first, so a crash replays it
//! (`recover.rs`), and the units never get ahead of the journal. Updates of pairs that have no S-VOL here are passed
//! over. What has to be read for a batch is read side by side before it (`edges.rs`). Space is freed by `settle.rs` once the S-VOLs are on the units.

use super::change::Payload;
use super::error::CopyError;
use super::group::Group;
use super::pace;
use crate::disk::VolumeId;
use crate::disk::slot::{Class, SLOT_BYTES, Slot};
use crate::volume::timing::RestoreTiming;
use holdfast_journal::{Content, Extent, InitialCopy, Kind, Update};
use std::sync::Arc;
use std::time::Duration;

impl Group {
    /// Restores for ever; ends with its array, or when an update cannot be applied at all.
    pub(crate) async fn restore_loop(self: Arc<Self>) {
        let _running = self.running();
        let mut schedules = self.schedule.subscribe();
        loop {
            let schedule = *schedules.borrow_and_update();
            let (timing, delay) = (schedule.restore, schedule.restore_delay);
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let restored = self.restore_due(delay, Holds::Count).await;
            let stands_at_cut = self.stands_at_cut();
            match restored {
                _ if self.closing.has_begun() => return,
                // With a delay something may fall due although nothing changes.
                Ok(0) if delay.is_zero() => {
                    tokio::select! {
                        biased;
                        () = self.closing.begins() => return,
                        () = changed => {}
                        _ = schedules.changed() => continue,
                    }
                }
                // Each look that finds something costs a checkpoint.
                Ok(_) if !delay.is_zero() => self.sleep_or_end(DUE_CHECK).await,
                Ok(_) => {}
                Err(error) => {
                    // Only a local fault stops restore (errata to 2015); reading goes on while there is room.
                    tracing::error!(group = %self.name, %error, "cannot restore; trying again");
                    self.sleep_or_end(RETRY).await;
                }
            }
            if stands_at_cut {
                continue; // The round is not over.
            }
            let pause = match timing {
                RestoreTiming::Immediate => continue,
                RestoreTiming::Every(interval) => interval,
                RestoreTiming::Load => self.restore_pause(),
            };
            // Another schedule counts at once.
            tokio::select! {
                biased;
                () = self.sleep_or_end(pause) => {}
                _ = schedules.changed() => {}
            }
        }
    }

    /// Claim 10: how long to pause between two rounds. Up to half load nothing, at full load [`pace::LONGEST`]; a journal that is
    /// more than 3/4 full overrules the load, because restoring is what empties it.
    fn restore_pause(&self) -> Duration {
        let usage = self.lock().journal.usage();
        let filled = pace::permille(usage.info_used, usage.info_capacity)
            .max(pace::permille(usage.data_used, usage.data_capacity));
        pace::restore_pause(self.load_permille(), filled)
    }

    async fn sleep_or_end(&self, pause: Duration) {
        tokio::select! {
            biased;
            () = self.closing.begins() => {}
            () = self.clock.sleep(pause) => {}
        }
    }

    /// Applies what is durable here, old enough or promised (`promise.rs`), and not restored yet; how many updates that
    /// were. For others than the group's own restore, which looks afterwards what its own delay says: more may be promised
    /// now than that allows.
    ///
    /// # Errors
    /// An update cannot be applied or promised, or the group ends.
    pub(crate) async fn restore_available(&self, delay: Duration) -> Result<u64, CopyError> {
        let restored = self.restore_due(delay, Holds::DoNot).await;
        if delay < self.schedule.borrow().restore_delay {
            self.schedule.send_modify(|_| {}); // Its pause may be long.
        }
        restored
    }

    /// It ends between two steps when the group does, and never in the midst of a checkpoint: that lands before the next
    /// journal begins.
    async fn restore_due(&self, delay: Duration, holds: Holds) -> Result<u64, CopyError> {
        let mut one_at_a_time = self.restore_turn().await?;
        let mut told = Told { group: self, applied: 0 };
        loop {
            let (next, failed, is_held) = {
                let seq = self.lock();
                let next = seq.restored.next();
                (next, seq.failed.is_some(), holds == Holds::Count && seq.is_held(next))
            };
            if self.closing.has_begun() {
                return Err(self.ends());
            }
            // Where a failed journal is left, the copy stays as it is.
            if failed || is_held {
                return Ok(told.applied);
            }
            let reach = self.reach(delay).await?;
            if next > reach || next > self.durable_here() {
                return Ok(told.applied);
            }
            let loading = async {
                let loaded = self.load(next, BATCH_UPDATES, BATCH_BYTES, Class::Restore).await?;
                if delay.is_zero() {
                    self.read_edges(&loaded).await;
                }
                Ok::<_, CopyError>(loaded)
            };
            let loaded = tokio::select! {
                biased;
                loaded = loading => loaded?,
                () = self.closing.begins() => return Err(self.ends()),
            };
            if loaded.is_empty() {
                return Err(self.is_missing(next));
            }
            for (update, payload) in loaded {
                if update.number > reach {
                    break; // Perhaps a stretch was entered whose end lies behind it.
                }
                let is_held = || holds == Holds::Count && self.lock().is_kept_back(&update);
                if is_held() || !self.may_pass(&update).await? {
                    return Ok(told.applied);
                }
                let begins = {
                    let mut seq = self.lock();
                    let is_held = holds == Holds::Count && seq.is_kept_back(&update);
                    !is_held && seq.failed.is_none() && seq.begin_restore(&update)
                };
                if !begins {
                    return Ok(told.applied);
                }
                tokio::select! {
                    biased;
                    restored = self.restore_one(&update, &payload) => restored?,
                    // It may wait for room. Nothing of it is under way on a unit: what it makes visible lies in the cache.
                    () = self.closing.begins() => return Err(self.ends()),
                }
                told.applied += 1;
            }
            told.tell();
            // What is in memory is applied without a wait: others have their turn here.
            tokio::task::yield_now().await;
            if self.is_to_be_cut() {
                drop(one_at_a_time);
                one_at_a_time = self.restore_turn().await?;
            }
        }
    }

    async fn restore_turn(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, CopyError> {
        tokio::select! {
            biased;
            turn = self.restoring.lock() => Ok(turn),
            () = self.closing.begins() => Err(self.ends()),
        }
    }

    fn ends(&self) -> CopyError {
        CopyError::Damaged(format!("group {} ends", self.name))
    }

    /// Steps 2040 to 2060 for one update that has begun. Whoever looks at the numbers is told by the caller.
    async fn restore_one(&self, update: &Update, payload: &Payload) -> Result<(), CopyError> {
        match &self.tamper {
            None => self.restore_extents(update, payload, update.number.get()).await?,
            Some(tamper) => {
                for (update, payload) in tamper.restore(update, payload) {
                    self.restore_extents(&update, &payload, update.number.get()).await?;
                }
            }
        }
        self.restored(update);
        Ok(())
    }

    /// Applies an update under a number that the journal here has; 0: a piece of a copy, which no journal has.
    pub(super) async fn restore_extents(
        &self,
        update: &Update,
        payload: &Payload,
        number: u64,
    ) -> Result<(), CopyError> {
        if update.kind == Kind::Void {
            return Ok(()); // It names what is not in it.
        }
        let mut first_page = 0;
        for extent in &update.extents {
            let pages = pages_of(extent);
            let (target, is_gone) = {
                let seq = self.lock();
                let svol = seq.svols.get(&extent.volume.0).map(|svol| svol.volume);
                let is_gone = seq.gone.contains(&extent.volume.0);
                (svol.filter(|_| !is_gone), is_gone)
            };
            let is_lacking = target.is_none() && !is_gone && self.copies_to_us(update);
            if is_lacking && self.marks.has_pair_of(self.number, extent.volume.0) {
                // Passing it over would leave a hole in an S-VOL that turns normal. What the store does not know has
                // been taken away: it knows a pair before its copy has a record.
                let what = format!("the S-VOL of update {} is not open", update.number);
                return Err(CopyError::Damaged(what));
            }
            if let Some(volume) = target {
                let slots = payload.slots.get(first_page..first_page + pages).ok_or_else(|| {
                    CopyError::Damaged(format!(
                        "update {} has less data than its extents need",
                        update.number
                    ))
                })?;
                self.restore_extent((VolumeId(volume), Class::Restore), extent, slots, number).await?;
            }
            first_page += pages;
        }
        Ok(())
    }

    /// Applies one range to a volume, with memory of that class.
    pub(super) async fn restore_extent(
        &self,
        (volume, class): (VolumeId, Class),
        extent: &Extent,
        slots: &[Slot],
        number: u64,
    ) -> Result<(), CopyError> {
        let (start, length) = (extent.start_bytes, extent.length_bytes);
        // A zero range may be as long as a volume; it is applied in steps so that no map grows without limit.
        let step = if extent.content == Content::Zero { ZERO_STEP_BYTES } else { length };
        let mut at = start;
        while at < start + length {
            let bytes = step.min(start + length - at);
            match extent.content {
                Content::Data => {
                    let prepared = match self.disk.try_prepare(volume, at, bytes) {
                        Some(prepared) => prepared,
                        None => self.disk.prepare(volume, at, bytes, class).await?,
                    };
                    self.disk.apply(prepared, slots, number);
                }
                Content::Zero => {
                    let prepared = self.disk.prepare_zero(volume, at, bytes, class).await?;
                    self.disk.apply_zero(prepared, number);
                }
                Content::Pattern { bytes: pattern } => {
                    let page = self.pattern_page(&slots[0], pattern, extent).await?;
                    let prepared = self.disk.prepare(volume, at, bytes, class).await?;
                    self.disk.apply_pattern(prepared, &page, number);
                }
            }
            at += bytes;
        }
        Ok(())
    }

    /// Whether the update is a step of the initial copy of a pair of this array.
    fn copies_to_us(&self, update: &Update) -> bool {
        matches!(update.kind, Kind::InitialCopy(copy) if copy.reader == self.array)
    }

    /// The page that repeats a pattern. Only the pattern itself is covered by the update's checksum.
    pub(super) async fn pattern_page(
        &self,
        slot: &Slot,
        bytes: u32,
        extent: &Extent,
    ) -> Result<Slot, CopyError> {
        let length = bytes as usize;
        if length == 0
            || !SLOT_BYTES.is_multiple_of(length)
            || !extent.start_bytes.is_multiple_of(length as u64)
        {
            return Err(CopyError::Damaged(format!("a pattern of {length} bytes does not fit its pages")));
        }
        let mut page = self.pool.take(Class::Restore, 1).await.remove(0);
        for part in page.chunks_mut(length) {
            part.copy_from_slice(&slot[..length]);
        }
        Ok(page.freeze())
    }

    fn restored(&self, update: &Update) {
        let mut seq = self.lock();
        seq.restored = update.number;
        seq.restored_in_part = None;
        if let Some(as_of) = update.as_of() {
            seq.consistent_from = seq.consistent_from.max(as_of);
        }
        if let Kind::InitialCopy(InitialCopy { volume, reader, last_of_pair: true, .. }) = update.kind
            && reader == self.array
            && let Some(svol) = seq.svols.get_mut(&volume.0)
            && update.number >= svol.copy_from
        {
            svol.copy_end = Some(update.number);
        }
    }
}

/// Whether restore stands still where somebody holds it (`compare/hold.rs`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holds {
    Count,
    /// Somebody needs what is there.
    DoNot,
}

/// Tells those who look at the numbers about a batch, not about each update: who wakes up costs more than an update.
/// Its end tells of the last batch, however it ends.
struct Told<'a> {
    group: &'a Group,
    applied: u64,
}

impl Told<'_> {
    fn tell(&self) {
        let dropped = self.group.trim_kept(&mut self.group.lock());
        drop(dropped);
        self.group.changed.notify_waiters();
    }
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if self.applied > 0 {
            self.tell();
        }
    }
}

/// Pages of the payload that belong to an extent: its own pages if it carries data, one for a pattern.
pub(crate) fn pages_of(extent: &Extent) -> usize {
    match extent.content {
        Content::Data => super::change::pages_touched(extent.start_bytes, extent.length_bytes),
        Content::Pattern { .. } => 1,
        Content::Zero => 0,
    }
}

/// Updates loaded at a time.
const BATCH_UPDATES: usize = 256;
/// Write data loaded at a time.
const BATCH_BYTES: usize = 256 * SLOT_BYTES;
/// How often a delayed restore looks whether something has fallen due.
pub(super) const DUE_CHECK: Duration = Duration::from_millis(100);
/// Pause after a failed attempt.
const RETRY: Duration = Duration::from_secs(1);
/// Step of a long zero range.
const ZERO_STEP_BYTES: u64 = 64 << 20;
