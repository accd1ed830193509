//! The second array's side of a relay: journals come from there, where this array is goes there (promises X2, X3).
//!
//! # What it guarantees
//! * What comes over the relay is taken in by the code that takes in the answers to journal reads; it has been checked as a
//!   batch of the chain, and is checked as an answer.
//! * It is read like another copy of the group (promise T5): only while every pair here is normal, from the number behind
//!   the newest one here, in the same history. So it may be left for the direct way, and taken again, at any update.
//! * Where each relay has a part of the journals all that are reached are read together (`merge.rs`).
//! * It is left when the first array has not issued control information for [`FRESH_FOR`] although it is reached directly,
//!   when the next update is not on it, or when what is on it is damaged.
//! * The end of the chain is where nothing follows, not where the control information says (errata of `004_…`, claims 1
//!   and 5).

use super::chain::Chain;
use super::lun::{Luns, RelayError, trouble};
use super::merge::RelaySource;
use super::watch::{Known, Watch};
use crate::array::Array;
use crate::clock::MonotonicNs;
use crate::copy::answer::{Head, Outcome};
use crate::copy::fetch::Whose;
use crate::copy::group::Group;
use crate::disk::slot::{Class, SLOT_BYTES, Slot, SlotMut};
use crate::volume::group::GroupRole;
use crate::volume::name::GroupNumber;
use crate::volume::relay::RelayRecord;
use holdfast_journal::format::crc32c;
use holdfast_journal::format::relay::{Batch, FirstControl, Has, Position};
use holdfast_journal::{Incarnation, UpdateNumber};
use std::sync::Arc;
use std::time::Duration;

impl Array {
    /// Watches a relay and reads over it, until something fails.
    pub(super) async fn read_relay(
        self: &Arc<Self>,
        relay: &RelayRecord,
        number: GroupNumber,
        luns: &Luns,
    ) -> RelayError {
        let remote = self.store.read(|tables| match tables.groups.get(&number).map(|group| &group.role) {
            Some(GroupRole::Auxiliary { remote, .. }) => *remote,
            Some(GroupRole::Primary) | None => None,
        });
        let Some(remote) = remote else { return trouble("the group is not copied here") };
        let id = super::id_of(relay, self.config.array.number.0, remote.0);
        let watch = match Watch::open(self, relay, luns, id).await {
            Ok(watch) => Arc::new(watch),
            Err(error) => return error,
        };
        let _watched = Watched::new(&watch);
        self.relay_is_up(&relay.name);
        tokio::select! {
            biased;
            () = luns.session.closed() => trouble("the session was closed"),
            error = watch.go_on(number) => error,
            error = self.follow_relay(relay, number, remote.0, &watch) => error,
        }
    }

    async fn follow_relay(
        self: &Arc<Self>,
        relay: &RelayRecord,
        number: GroupNumber,
        remote: u32,
        watch: &Arc<Watch>,
    ) -> RelayError {
        loop {
            self.source_comes(number.0, &relay.name).await;
            let changed = self.changed().notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let group = self.runtime().groups.get(&number.0).cloned();
            let Some(group) = group else {
                changed.await;
                continue;
            };
            if !self.let_other_in(&group) {
                continue;
            }
            let source = RelaySource::new(Reader {
                watch: watch.clone(),
                group: group.clone(),
                which: Which::Written,
            });
            let error = tokio::select! {
                biased;
                error = group.follow(&source, remote, Whose::Other) => error,
                () = self.record_reading(&group) => continue,
                () = self.source_moves(number.0, &relay.name) => continue,
            };
            self.avoid_relay(&relay.name, &error);
            if watch.luns.session.is_closed() {
                return trouble(error.to_string());
            }
        }
    }
}

/// The relay is watched until this goes: others may read it, too.
struct Watched<'a>(&'a Arc<Watch>);

impl<'a> Watched<'a> {
    fn new(watch: &'a Arc<Watch>) -> Self {
        watch.array.runtime().watches.insert(watch.relay.name.to_string(), watch.clone());
        Self(watch)
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.0.array.runtime().watches.remove(self.0.relay.name.as_str());
    }
}

/// Where reading a relay is.
pub(super) struct Cursor {
    incarnation: Incarnation,
    at: Position,
    /// The next update that is wanted.
    pub(super) wanted: UpdateNumber,
    /// When it came to where it is.
    moved: MonotonicNs,
    /// Since when something is there that cannot be used.
    pub(super) stuck_since: Option<MonotonicNs>,
    /// Pages of the journal LUN that were read ahead, from a page on.
    ahead: (u64, Vec<u8>),
    /// The last look brought something.
    is_busy: bool,
    /// What comes here next, if that is behind what is wanted.
    early: Option<Whole>,
}

/// A batch with its checksum and its answer.
struct Whole {
    batch: Batch,
    hash: u32,
    payload: Vec<u8>,
}

/// What lies behind a cursor.
enum Look {
    Batch(Whole),
    /// One of which not everything is what it should be: it is being written, or it is damaged.
    Unusable,
    Nothing,
}

/// What there is.
pub(super) enum Found {
    /// The answer to a journal read.
    Answer(Vec<Slot>),
    /// What is wanted is on another relay, if it is on any: this one goes on with that update.
    Early(UpdateNumber),
}

/// Which chain on a relay: the one that is written, or the one that is kept beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Which {
    Written,
    Kept,
}

impl Which {
    /// The chain, its oldest batch, and the place behind its newest one.
    fn of(self, control: &FirstControl) -> Result<(Chain, Position, Position), RelayError> {
        match self {
            Self::Written => Ok((Chain::of(control), control.oldest, control.newest)),
            Self::Kept => {
                let kept = control.kept.ok_or_else(|| trouble("no other chain is kept there any more"))?;
                let (incarnation, blocks) = (kept.incarnation, kept.journal_blocks);
                Ok((Chain { incarnation, id: control.id, blocks }, kept.oldest, kept.newest))
            }
        }
    }
}

/// A relay as one reads it.
pub(super) struct Reader {
    pub(super) watch: Arc<Watch>,
    pub(super) group: Arc<Group>,
    pub(super) which: Which,
}

impl Reader {
    /// The highest number on the relay, in either chain.
    pub(super) async fn newest(&self) -> Result<UpdateNumber, RelayError> {
        self.watch.look().await?;
        let control = self.watch.known()?.control;
        let end = UpdateNumber::new(u64::MAX);
        let at = Chain::of(&control).seek(&self.watch.luns.journal, control.newest, end).await?;
        let kept = control.kept.map_or(UpdateNumber::NONE, |kept| kept.newest.number.previous());
        Ok(at.number.previous().max(kept))
    }

    /// Looks for the batch that has this update, or behind which it will be.
    pub(super) async fn seek(&self, wanted: UpdateNumber) -> Result<Cursor, RelayError> {
        self.watch.look().await?;
        let control = self.watch.known()?.control;
        let (chain, oldest, _) = self.which.of(&control)?;
        let start = match self.which {
            Which::Written => self.known_start(&control, wanted).await?,
            Which::Kept => oldest,
        };
        let at = chain.seek(&self.watch.luns.journal, start, wanted).await?;
        let cursor = Cursor {
            incarnation: chain.incarnation,
            at,
            wanted,
            moved: self.watch.clock().now(),
            stuck_since: None,
            ahead: (0, Vec::new()),
            is_busy: false,
            early: None,
        };
        if at.number > wanted && !self.watch.is_part() {
            return Err(gap(at.number, wanted));
        }
        Ok(cursor)
    }

    /// The oldest batch; or where this array had come to in the same chain, if it goes on from there and what is wanted is not
    /// before that.
    async fn known_start(
        &self,
        control: &FirstControl,
        wanted: UpdateNumber,
    ) -> Result<Position, RelayError> {
        let read_to = {
            let runtime = self.watch.array.runtime();
            runtime.relays.get(self.watch.relay.name.as_str()).and_then(|status| status.read_to)
        };
        let Some((_, at)) = read_to.filter(|(incarnation, at)| {
            let is_held = (control.oldest.sequence..=control.newest.sequence).contains(&at.sequence);
            *incarnation == control.incarnation && is_held && at.number <= wanted
        }) else {
            return Ok(control.oldest);
        };
        let chain = Chain::of(control);
        let goes_on = at == control.newest || chain.next(&self.watch.luns.journal, &at).await?.is_some();
        Ok(if goes_on { at } else { control.oldest })
    }

    /// Looks for it anew. What follows there has not been looked at: nothing says that it is the end.
    async fn seek_anew(&self, cursor: &mut Cursor) -> Result<(), RelayError> {
        *cursor = self.seek(cursor.wanted).await?;
        cursor.stuck_since = Some(self.watch.clock().now());
        Ok(())
    }

    /// The next batch as the answer to a journal read; none if it is not there, or not all of it.
    pub(super) async fn next(
        &self,
        cursor: &mut Cursor,
        room_bytes: u32,
    ) -> Result<Option<Found>, RelayError> {
        let known = self.watch.known()?;
        let (chain, _, newest) = self.which.of(&known.control)?;
        if chain.incarnation != cursor.incarnation {
            return self.seek_anew(cursor).await.map(|()| None);
        }
        let early = cursor.early.take().map(Look::Batch);
        let looked = match early {
            Some(look) => look,
            None => self.whole_batch(cursor, chain).await?,
        };
        let whole = match looked {
            Look::Batch(whole) => whole,
            Look::Unusable => {
                let is_named = cursor.at.sequence < newest.sequence;
                let why = match is_named {
                    true => "a batch is damaged",
                    false => "the last batch is not whole: it was being written, or is damaged",
                };
                // A takeover tries again by itself.
                let patience = if is_named || self.is_drained() { STUCK_FOR } else { WRITTEN_WITHIN };
                return self.stuck(cursor, why, patience).map(|()| None);
            }
            Look::Nothing => return self.nothing_follows(cursor, &known, newest).await.map(|()| None),
        };
        let batch = &whole.batch;
        let generations = self.group.generations_beyond(&known.generations);
        let there = generations.iter().rev().find(|generation| generation.first <= batch.last);
        if there != Some(&batch.generation) {
            // Numbered since this array last looked.
            self.watch.look().await?;
            return self
                .stuck(cursor, "a batch is of another history than the control information", STUCK_FOR)
                .map(|()| None);
        }
        if batch.first > cursor.wanted {
            let first = batch.first;
            if known.control.has == Has::All {
                return Err(gap(first, cursor.wanted));
            }
            (cursor.stuck_since, cursor.early) = (None, Some(whole));
            return Ok(Some(Found::Early(first)));
        }
        if whole.payload.len() > usize::try_from(room_bytes).unwrap_or(usize::MAX) {
            let needed = u32::try_from(whole.payload.len()).unwrap_or(u32::MAX);
            let answer = self.nothing(Outcome::MoreRoom, cursor.wanted, needed).await?;
            cursor.early = Some(whole);
            return Ok(Some(Found::Answer(answer)));
        }
        let answer = self.slots(&whole.payload).await;
        cursor.at = Position::behind(batch, whole.hash);
        cursor.wanted = cursor.wanted.max(batch.last.next());
        (cursor.stuck_since, cursor.is_busy) = (None, true);
        cursor.moved = self.watch.clock().now();
        self.watch.array.note_relay(&self.watch.relay.name, |status| {
            status.newest = status.newest.max(batch.last.get());
            status.newest_wall_ns = status.newest_wall_ns.max(Some(batch.wall_ns));
            if self.which == Which::Written {
                status.read_to = Some((chain.incarnation, cursor.at));
            }
            status.trouble = None;
        });
        Ok(Some(Found::Answer(answer)))
    }

    pub(super) fn is_drained(&self) -> bool {
        let runtime = self.watch.array.runtime();
        runtime.relays.get(self.watch.relay.name.as_str()).is_some_and(|status| status.is_drained)
    }

    /// The batch behind the cursor with all of its answer.
    async fn whole_batch(&self, cursor: &mut Cursor, chain: Chain) -> Result<Look, RelayError> {
        let journal = &self.watch.luns.journal;
        let mut found = Look::Nothing;
        for place in cursor.at.candidates(chain.blocks).into_iter().flatten() {
            // What was read ahead may have been written since; only what is whole counts, and it is looked at once more.
            for is_fresh in [false, true] {
                let pages = if cursor.is_busy { AHEAD_PAGES } else { 1 };
                let count = pages.min(journal.pages.saturating_sub(place));
                if is_fresh {
                    cursor.ahead = (place, journal.read(place, count).await?);
                }
                let Some(block) = ahead(&cursor.ahead, place, 1) else { continue };
                let Ok((batch, hash)) = Batch::decode(block) else { continue };
                if batch.place != place || !chain.goes_on(&cursor.at, &batch) {
                    continue;
                }
                let length = u64::from(batch.payload_blocks);
                let payload = match ahead(&cursor.ahead, place + 1, length) {
                    Some(payload) => payload.to_vec(),
                    None => journal.read(place + 1, length).await?,
                };
                if crc32c(&payload) == batch.payload_crc {
                    return Ok(Look::Batch(Whole { batch, hash, payload }));
                }
                if is_fresh {
                    found = Look::Unusable;
                }
            }
        }
        cursor.is_busy = false;
        Ok(found)
    }

    /// Nothing follows. If control information says otherwise, the chain has been written anew from somewhere before.
    async fn nothing_follows(
        &self,
        cursor: &mut Cursor,
        known: &Known,
        newest: Position,
    ) -> Result<(), RelayError> {
        if newest.sequence <= cursor.at.sequence {
            cursor.stuck_since = None;
            // What was written since says something else than what was read: the end of the chain was lost, and is written anew.
            let is_later = known.since.since(cursor.moved) >= ROLLED_BACK;
            let is_there =
                (newest.sequence, newest.previous_hash) == (cursor.at.sequence, cursor.at.previous_hash);
            return if is_later && !is_there { self.seek_anew(cursor).await } else { Ok(()) };
        }
        self.stuck(cursor, "what control information names is not there", STUCK_FOR)?;
        let since = cursor.stuck_since;
        *cursor = self.seek(cursor.wanted).await?;
        cursor.stuck_since = since;
        Ok(())
    }

    /// Something is there and cannot be used: for a while that may be because it is being written.
    fn stuck(&self, cursor: &mut Cursor, why: &str, patience: Duration) -> Result<(), RelayError> {
        let now = self.watch.clock().now();
        let since = *cursor.stuck_since.get_or_insert(now);
        if now.since(since) < patience { Ok(()) } else { Err(trouble(why)) }
    }

    /// An answer without updates.
    pub(super) async fn nothing(
        &self,
        outcome: Outcome,
        next: UpdateNumber,
        room_bytes: u32,
    ) -> Result<Vec<Slot>, RelayError> {
        let known = self.watch.known()?;
        let (head, _) = Head::decode(&known.information).map_err(|error| trouble(error.to_string()))?;
        let head = Head { outcome, updates: 0, first: next.get(), room_bytes, ..head };
        Ok(self.slots(&head.encode(&[])).await)
    }

    /// Bytes in pages: a copy, because whether they are a batch is known only when they are here.
    async fn slots(&self, bytes: &[u8]) -> Vec<Slot> {
        let count = bytes.len().div_ceil(SLOT_BYTES);
        let mut slots = self.watch.array.pool.take(Class::Inbound, count).await;
        for (slot, part) in slots.iter_mut().zip(bytes.chunks(SLOT_BYTES)) {
            let (front, rest) = slot.split_at_mut(part.len());
            front.copy_from_slice(part);
            rest.fill(0);
        }
        slots.into_iter().map(SlotMut::freeze).collect()
    }
}

pub(super) fn gap(there: UpdateNumber, wanted: UpdateNumber) -> RelayError {
    trouble(format!("the relay goes on with update {there}, {wanted} is wanted"))
}

/// Pages out of those that were read ahead.
fn ahead((start, bytes): &(u64, Vec<u8>), page: u64, count: u64) -> Option<&[u8]> {
    let skip = usize::try_from(page.checked_sub(*start)?).ok()?.checked_mul(SLOT_BYTES)?;
    let length = usize::try_from(count).ok()?.checked_mul(SLOT_BYTES)?;
    bytes.get(skip..)?.get(..length)
}

/// Control information that came so long behind a batch knows of it.
const ROLLED_BACK: Duration = Duration::from_secs(2);
/// What is there and cannot be used is looked at again for so long.
pub(super) const STUCK_FOR: Duration = Duration::from_secs(2);
/// The same for one that control information does not name: a first array on a slow way gives up its commands after that.
pub(super) const WRITTEN_WITHIN: Duration = Duration::from_secs(10);
/// Pages that are read at once while batches follow each other.
const AHEAD_PAGES: u64 = 64;
