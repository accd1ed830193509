//! Updates of a copy's journal, applied to clones of its S-VOLs (promise O9, decision 27).
//!
//! # What it guarantees
//! A clone that began as what the S-VOLs were at update R, and onto which R+1 to N were replayed, is what they are, or were, or
//! will be, when N is the last update that is restored: whole commands in number order, each under the checksum with which
//! it arrived. Where that cannot be said, nothing is replayed at all ([`Group::may_replay`]): where a record is not here, where one is a step of a
//! copy of these S-VOLs (before its end they are no image), a hole (their source has the change in difference maps), and
//! inside of a stretch in which the P-VOLs were no image (`whole.rs`).
//!
//! S-VOLs, restore and reading are not touched: what is replayed are records that are durable here, and who replays has the last
//! claim on memory. While records are replayed ([`Held`]), and for as long as images are kept that they follow on
//! ([`Group::retain_for`]), they are not let go though restore and readers are done with them. That is only a wish: where the journal
//! fills ([`HELD_UNTIL_PERCENT`], [`RETAINED_UNTIL_PERCENT`]) they go, the oldest first, and a replay that wants them ends.
//!
//! # How it is proved
//! `tests/sim/rewind.rs`: random numbers under load, over eight volumes, against a copy whose restore is stopped there.

use super::answer::Head;
use super::change::Payload;
use super::error::CopyError;
use super::group::{Group, Sequencer};
use super::restore::pages_of;
use super::times::UNHEARD;
use crate::disk::VolumeId;
use crate::disk::slot::{Class, SLOT_BYTES};
use crate::volume::name::BookmarkName;
use holdfast_journal::{Generation, Kind, Update, UpdateNumber};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is kept in the journal of a copy beside what restore and readers need.
#[derive(Clone, Debug, Default)]
pub(crate) struct Retained {
    /// For replays at work: everything behind these numbers.
    held: BTreeMap<u64, UpdateNumber>,
    /// Of which numbers there are images, in order: everything behind the oldest of them for which there is room.
    images: Vec<UpdateNumber>,
    next_id: u64,
}

/// The clones that stand for S-VOLs, by the number with which records name the P-VOL.
pub(crate) type Clones = BTreeMap<u32, VolumeId>;

/// While this is there the journal keeps every update behind a number, if it has room.
pub(crate) struct Held {
    group: Arc<Group>,
    id: u64,
}

impl Held {
    /// Updates up to this one are wanted no more.
    pub(crate) fn only_behind(&self, number: UpdateNumber) {
        self.group.lock().retained.held.insert(self.id, number);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.group.lock().retained.held.remove(&self.id);
    }
}

/// The ends of what a copy's journal and its images reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reach {
    /// The oldest update that the journal holds.
    pub(crate) first: UpdateNumber,
    /// The newest one that is durable.
    pub(crate) last: UpdateNumber,
}

impl Group {
    /// Keeps everything that the journal holds now.
    pub(crate) fn hold(self: &Arc<Self>) -> Held {
        let mut seq = self.lock();
        let behind = seq.journal.first_retained().previous();
        let id = seq.retained.next_id;
        seq.retained.next_id += 1;
        seq.retained.held.insert(id, behind);
        Held { group: self.clone(), id }
    }

    /// There are images of these numbers: what has come behind them is kept while there is room.
    pub(crate) fn retain_for(&self, mut images: Vec<UpdateNumber>) {
        images.sort_unstable();
        self.lock().retained.images = images;
    }

    /// What can be replayed.
    pub(crate) fn within_reach(&self) -> Reach {
        let seq = self.lock();
        Reach { first: seq.journal.first_retained(), last: seq.journal.durable() }
    }

    /// In which generation that number was given.
    pub(crate) fn generation_of(&self, number: UpdateNumber) -> Option<Generation> {
        self.lock().generations.iter().rev().find(|generation| generation.first <= number).copied()
    }

    /// The newest bookmark of this name that the journal here holds durably.
    pub(crate) fn number_of_bookmark(&self, name: BookmarkName) -> Option<UpdateNumber> {
        let seq = self.lock();
        let durable = seq.journal.durable();
        let found = seq.journal.bookmarks().filter(|one| one.name == name.0 && one.number <= durable);
        found.map(|one| one.number).max()
    }

    /// The update that was the newest at this time, by the clock of the array that gave its number. Where that clock was set back
    /// there may be several such moments; this is one of them.
    ///
    /// # Errors
    /// The journal here does not hold that moment, or it may not have come yet.
    pub(crate) async fn number_at(&self, unix_ns: u64) -> Result<UpdateNumber, String> {
        let Reach { first, last } = self.within_reach();
        if last < first || !self.is_before(first, unix_ns).await? {
            return Err(format!("the journal of group {} here begins later: with update {first}", self.name));
        }
        if self.is_before(last, unix_ns).await? {
            // By the clock of the array that is read: what it has heard itself of the one that gives numbers is as old as it says.
            let said = |head: &Head| match head.heard_ms {
                UNHEARD => (head.newest_given, 0),
                ms => (head.newest_given, head.wall_ns.saturating_sub(u64::from(ms) * 1_000_000)),
            };
            let heard = self.lock().source.as_ref().map_or((u64::MAX, 0), said);
            if heard.0 > last.get() || heard.1 < unix_ns {
                let text = format!(
                    "only updates up to {last} have come, and the array that is read may have given others before that time"
                );
                return Err(text);
            }
            return Ok(last);
        }
        // `early` is not behind that time, `late` is.
        let (mut early, mut late) = (first, last);
        while early.next() < late {
            let middle = UpdateNumber::new(u64::midpoint(early.get(), late.get()));
            if self.is_before(middle, unix_ns).await? {
                early = middle;
            } else {
                late = middle;
            }
        }
        Ok(early)
    }

    async fn is_before(&self, number: UpdateNumber, unix_ns: u64) -> Result<bool, String> {
        let found = self.load_information(number, Class::JournalRead).await;
        let found = found.map_err(|error| error.to_string())?;
        let found = found.first().filter(|update| update.number == number);
        found.map(|update| update.time_ns <= unix_ns).ok_or_else(|| self.was_let_go(number))
    }

    /// Whether clones of one moment, update `base`, become what the S-VOLs are at `to` when what lies between is replayed.
    ///
    /// # Errors
    /// Why not.
    pub(crate) async fn may_replay(
        &self,
        base: UpdateNumber,
        to: UpdateNumber,
        clones: &Clones,
    ) -> Result<(), String> {
        let (mut next, mut broken) = (base.next(), None);
        while next <= to {
            let found = self.load_information(next, Class::JournalRead).await;
            let found = found.map_err(|error| error.to_string())?;
            let Some(last) = found.last().map(|update| update.number).filter(|last| *last >= next) else {
                return Err(self.was_let_go(next));
            };
            for update in found.iter().filter(|update| update.number <= to) {
                self.is_replayable(update, clones)?;
                match update.kind {
                    Kind::Broken => broken = Some(update.number),
                    Kind::Whole => broken = None,
                    Kind::HostWrite
                    | Kind::InitialCopy(_)
                    | Kind::Heartbeat
                    | Kind::Void
                    | Kind::Bookmark(_) => {}
                }
            }
            next = last.next();
        }
        match broken {
            None => Ok(()),
            Some(from) => Err(format!(
                "from update {from} on the P-VOLs were no image of one moment, and were still none at update {to}"
            )),
        }
    }

    fn is_replayable(&self, update: &Update, clones: &Clones) -> Result<(), String> {
        let touches = || update.extents.iter().any(|extent| clones.contains_key(&extent.volume.0));
        match update.kind {
            Kind::InitialCopy(copy) if copy.reader == self.array && clones.contains_key(&copy.volume.0) => {
                Err(format!("update {} is a step of a copy of these S-VOLs", update.number))
            }
            // A source may hand out a step of a copy of another reader empty, and does so with nothing else.
            Kind::Void if touches() => Err(format!(
                "update {} was kept from this array: its source has it in difference maps",
                update.number
            )),
            Kind::HostWrite
            | Kind::InitialCopy(_)
            | Kind::Heartbeat
            | Kind::Void
            | Kind::Bookmark(_)
            | Kind::Broken
            | Kind::Whole => Ok(()),
        }
    }

    /// Replays `base`+1 to `to` onto clones, which nobody else uses, and makes that durable on the units. `at` is told how far it
    /// is, and may end it. What a crash leaves of it is for the caller to give back.
    ///
    /// # Errors
    /// Why it ends before that: the group does, a record had to be let go, a unit cannot be written.
    pub(crate) async fn replay_onto(
        self: &Arc<Self>,
        held: &Held,
        (base, to): (UpdateNumber, UpdateNumber),
        clones: &Clones,
        at: impl Fn(UpdateNumber) -> Result<(), String>,
    ) -> Result<(), String> {
        let _running = self.running();
        let ends = || format!("group {} ends here, or begins anew", self.name);
        let mut next = base.next();
        while next <= to {
            let loading = self.load(next, BATCH_UPDATES, BATCH_BYTES, Class::JournalRead);
            let loaded = tokio::select! {
                biased;
                () = self.closing.begins() => return Err(ends()),
                loaded = loading => loaded.map_err(|error| error.to_string())?,
            };
            if loaded.is_empty() {
                return Err(self.was_let_go(next));
            }
            for (update, payload) in loaded.iter().filter(|(update, _)| update.number <= to) {
                if update.number != next {
                    return Err(self.was_let_go(next));
                }
                tokio::select! {
                    biased;
                    () = self.closing.begins() => return Err(ends()),
                    replayed = self.replay_one(update, payload, clones) => {
                        replayed.map_err(|error| error.to_string())?;
                    }
                }
                next = update.number.next();
            }
            held.only_behind(next.previous());
            at(next.previous())?;
            tokio::task::yield_now().await;
        }
        let volumes: Vec<VolumeId> = clones.values().copied().collect();
        tokio::select! {
            biased;
            () = self.closing.begins() => Err(ends()),
            destaged = self.disk.destage(&volumes) => destaged.map_err(|error| error.to_string()),
        }
    }

    async fn replay_one(&self, update: &Update, payload: &Payload, clones: &Clones) -> Result<(), CopyError> {
        if update.kind != Kind::HostWrite {
            return Ok(()); // A step of another array's copy repeats what its P-VOL is; the others change nothing.
        }
        let mut first_page = 0;
        for extent in &update.extents {
            let pages = pages_of(extent);
            if let Some(clone) = clones.get(&extent.volume.0) {
                let slots = payload.slots.get(first_page..first_page + pages).ok_or_else(|| {
                    CopyError::Damaged(format!(
                        "update {} has less data than its extents need",
                        update.number
                    ))
                })?;
                // No gate is there to wait for: its record is durable.
                self.restore_extent((*clone, Class::Host), extent, slots, 0).await?;
            }
            first_page += pages;
        }
        Ok(())
    }

    fn was_let_go(&self, number: UpdateNumber) -> String {
        format!("update {number} is not in the journal of group {} here, or had to be let go", self.name)
    }
}

impl Sequencer {
    /// Up to where the journal of a copy may be let go that needs nothing up to `needed` for itself and for readers.
    pub(super) fn retained_up_to(&self, needed: UpdateNumber) -> UpdateNumber {
        let is_nothing_kept = self.retained.held.is_empty() && self.retained.images.is_empty();
        if is_nothing_kept || !self.volumes.leaving.is_empty() {
            return needed; // One that leaves is to be empty.
        }
        let used = self.used_percent();
        let held = self.retained.held.values().copied().min().filter(|_| used < HELD_UNTIL_PERCENT);
        let begins = self.journal.first_retained().previous();
        let for_others = used.saturating_sub(self.held_percent(begins, needed, (0, 0)));
        let room = RETAINED_PERCENT.min(RETAINED_UNTIL_PERCENT.saturating_sub(for_others));
        let has_room = |image: &UpdateNumber| self.held_percent(*image, needed, (0, 0)) < room;
        // Behind an image of which the journal has lost something there is nothing to keep for it.
        let mut images = self.retained.images.iter().copied();
        let image = images.find(|image| *image >= begins && *image < needed && has_room(image));
        [held, image].into_iter().flatten().fold(needed, UpdateNumber::min)
    }
}

/// Updates loaded at a time.
const BATCH_UPDATES: usize = 256;
/// Write data loaded at a time.
const BATCH_BYTES: usize = 256 * SLOT_BYTES;
/// A journal that is fuller keeps nothing for a replay at work.
const HELD_UNTIL_PERCENT: u64 = 85;
/// What is kept for images never makes a journal fuller than this …
const RETAINED_UNTIL_PERCENT: u64 = 60;
/// … and never takes more of the fuller ring.
const RETAINED_PERCENT: u64 = 35;
