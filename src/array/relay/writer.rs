//! The first array's side of a relay: its journal goes there in batches, its control information behind them, and what the
//! second array reports frees both (promises X1, X2, X3).
//!
//! # What it guarantees
//! * Only what is durable in this array's own journal goes to the relay, and that journal keeps it until the second array
//!   has it durably. So a relay that is lost, full or not reached costs nothing but time (X6), and a relay is never ahead
//!   of this array.
//! * A batch that the second array may lack is not overwritten: neither while the array runs (places are freed by durable
//!   control information, `RelayRing`) nor behind a restart, which goes on with the chain that it finds.
//! * Nothing of a chain is overwritten by another one as long as the second array may show that it has everything hosts were answered.
//! * Where each relay gets a part of the journals (`parts.rs`) every session, and every round, begins a chain: what the second array has not
//!   reported is given out anew, out of this array's journal. The chain of the last whole round stays where it is until the new one is whole.
//! * A report is believed only if it was made for this chain and in this history.
//! * Where the second array says that it is no copy of this one any more nothing is written, and nothing that hosts write is confirmed (`told.rs`).

use super::begun::{begin_chain, forget_kept, found_chain, note_chain, ring_of_part};
use super::chain::{Chain, is_whole};
use super::direct::{OpenDirect, SESSION_STRIDE, for_lun};
use super::latest_second;
use super::lun::{Due, Luns, Ours, RelayError, slot_page, trouble};
use super::parts::{OpenPart, Round};
use super::told::is_not_overtaken;
use crate::array::Array;
use crate::copy::group::Group;
use crate::copy::relay::{RelayBatch, RelayNeed};
use crate::copy::serve::Carrier;
use crate::copy::synchronous::OpenRelay;
use crate::disk::slot::SLOT_BYTES;
use crate::volume::relay::{RelayControl, RelayHosts, RelayJournals, RelayRecord};
use holdfast_journal::format::crc32c;
use holdfast_journal::format::relay::{
    Batch, FirstControl, Has, Hosts, MAX_INFORMATION_BYTES, MAX_PAYLOAD_BLOCKS, Position, RelayId, RelayLun,
    RelayRing,
};
use holdfast_journal::{ArrayNumber, Generation, Incarnation, UpdateNumber};
use std::sync::Arc;
use std::time::Duration;

/// Writes a group's journal to a relay.
pub(super) struct Writer<'a> {
    array: &'a Arc<Array>,
    relay: &'a RelayRecord,
    group: &'a Arc<Group>,
    reader: ArrayNumber,
    id: RelayId,
    luns: &'a Luns,
    incarnation: Incarnation,
    ring: RelayRing,
    /// Of the control information that follows, and of the newest on the LUN.
    sequence: u64,
    on_lun: Option<u64>,
    /// What is said of the chain over the link.
    open: OpenDirect,
    /// Where each relay gets a part: this one, and the round in which its chain began. It goes before hosts hear that nothing is there.
    part: Option<(OpenPart, Round)>,
    /// What the second array is told of the hosts; and, if they wait for the relay, by whom they hear that it has their writes.
    hosts: Hosts,
    waits: Option<OpenRelay<'a>>,
    /// When the newest batch was put there.
    newest_wall_ns: Option<u64>,
    /// The newest generation of which control information has been issued.
    told: Option<Generation>,
    /// Control information says less than is so.
    is_stale: bool,
    /// Of the second array's control information that was taken in last.
    seen: Option<u64>,
    /// Up to where the second array has reported, and when it is looked whether what follows is on the relay.
    lacking: (UpdateNumber, Due),
    look: Due,
    tell: Due,
    beat: Due,
}

impl<'a> Writer<'a> {
    /// Goes on with the chain that the relay holds, or begins one.
    pub(super) async fn open(
        array: &'a Arc<Array>,
        relay: &'a RelayRecord,
        group: &'a Arc<Group>,
        luns: &'a Luns,
    ) -> Result<Self, RelayError> {
        let id = super::id_of(relay, array.config.array.number.0, group.number);
        luns.journal.check_label(RelayLun::Journal, id, Ours::Yes).await?;
        luns.first.check_label(RelayLun::First, id, Ours::Yes).await?;
        let reader = ArrayNumber(relay.array.0);
        let clock = array.env.clock.as_ref();
        let (on_lun, found) = found_chain(array, relay, group, luns).await?;
        let is_part = relay.journals == RelayJournals::Parts;
        if found.is_none() {
            // What lies there is what the other array shows itself by until then.
            clock.sleep(group.lease_left()).await;
        }
        let (incarnation, ring, part) = match found {
            Some((incarnation, ring)) if !is_part => (incarnation, ring, None),
            found => begin_chain(array, relay, group, luns, found).await?,
        };
        let newest = latest_second(&luns.second, id).await?;
        is_not_overtaken(array, relay, luns, (newest, on_lun.is_some())).await?;
        let mut writer = Self {
            array,
            relay,
            group,
            reader,
            id,
            luns,
            incarnation,
            ring,
            sequence: on_lun.unwrap_or(0).saturating_add(SESSION_STRIDE),
            on_lun,
            open: OpenDirect::new(array, incarnation, id),
            hosts: Hosts { wait: relay.hosts == RelayHosts::Wait, ..Hosts::default() },
            waits: None,
            part,
            newest_wall_ns: None,
            told: None,
            is_stale: true,
            seen: None,
            lacking: (UpdateNumber::NONE, Due::now(clock, VERIFY_AFTER)),
            look: Due::now(clock, LOOK_EVERY),
            tell: Due::now(clock, TELL_EVERY),
            beat: Due::now(clock, BEAT_EVERY),
        };
        // Whoever reads another chain finds this one before anything of the other is overwritten.
        writer.tell().await?;
        if writer.hosts.wait {
            // Of a part nothing counts yet.
            let has = if is_part { UpdateNumber::NONE } else { writer.ring.newest().number.previous() };
            writer.waits = Some(group.open_relay(reader, relay.name.as_str(), has, is_part));
        }
        Ok(writer)
    }

    /// Works until something fails.
    pub(super) async fn run(&mut self) -> RelayError {
        loop {
            let group = self.group;
            let changed = group.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.step().await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => return error,
            }
            let clock = self.array.env.clock.clone();
            let due = if self.is_stale { &self.tell } else { &self.beat };
            let left = self.look.left(clock.as_ref()).min(due.left(clock.as_ref()));
            tokio::select! {
                biased;
                () = group.closing.begins() => return trouble("the group is closed"),
                () = self.luns.session.closed() => return trouble("the session was closed"),
                () = &mut changed => {}
                () = clock.sleep(left) => {}
            }
        }
    }

    /// Does what is due; whether there may be more to do at once.
    async fn step(&mut self) -> Result<bool, RelayError> {
        let clock = self.array.env.clock.clone();
        if self.look.take(clock.as_ref()) {
            self.look_at_second().await?;
        }
        let need = self.need()?;
        if let Some((part, round)) = &mut self.part {
            let now_on = part.look(need.acknowledged, clock.now());
            if now_on != std::mem::replace(round, now_on) {
                self.begin_anew(need).await?;
            }
        }
        self.look_at_round(need).await?;
        let is_beat = self.beat.take(clock.as_ref());
        if let Some(waits) = self.waits.as_ref().filter(|_| is_beat) {
            waits.look();
        }
        if is_beat || (self.is_stale && self.tell.take(clock.as_ref())) {
            self.tell_what_came(need).await?;
        }
        self.note_has(need);
        self.verify(need).await?;
        self.put_batch().await
    }

    fn need(&self) -> Result<RelayNeed, RelayError> {
        let need = self.group.relay_need(self.reader);
        need.ok_or_else(|| trouble("the other array does not read the group"))
    }

    /// Another round has begun: so does another chain. That of the last whole round is kept; the one that ends, if it was that.
    async fn begin_anew(&mut self, need: RelayNeed) -> Result<(), RelayError> {
        self.note_has(need);
        let chain = self.array.env.entropy.identity();
        let Some(parts) = self.part.as_ref().map(|(part, _)| part.parts()) else { return Ok(()) };
        {
            let _turn = parts.turn.lock().await;
            let row = self.array.store.read(|tables| tables.relay_chains.get(&self.relay.name).cloned());
            let kept = match row {
                Some(row) if row.kept.is_some() => self.ring.kept().copied(),
                Some(_) => self.ring.kept_as(self.incarnation),
                None => None,
            };
            let kept = kept.filter(|_| !self.group.forgets_rounds());
            let ring = ring_of_part(self.luns, need, kept);
            note_chain(self.array, self.relay, Some(chain), ring.kept())?;
            self.ring = ring;
        }
        self.incarnation = Incarnation::new(chain);
        self.open = OpenDirect::new(self.array, self.incarnation, self.id);
        self.tell().await
    }

    /// Where a relay has a part: a round that has become whole is recorded, and what was kept until then is not needed any more.
    async fn look_at_round(&mut self, need: RelayNeed) -> Result<(), RelayError> {
        let Some((part, round)) = &self.part else { return Ok(()) };
        if part.is_written(*round, need.acknowledged) {
            let parts = part.parts();
            let _turn = parts.turn.lock().await;
            // In this turn no relay begins another chain.
            if part.is_written(*round, need.acknowledged) {
                self.array.store.checkpoint(|tables| forget_kept(tables, self.relay)).map_err(|error| {
                    trouble(format!("that everything is on the relays cannot be recorded: {error}"))
                })?;
                part.is_recorded(*round);
                self.group.changed.notify_waiters(); // The others look.
            }
        }
        if part.is_whole(*round) && self.ring.forget_kept() {
            self.tell().await?;
        }
        Ok(())
    }

    /// Puts the next batch on the relay; whether there was one.
    async fn put_batch(&mut self) -> Result<bool, RelayError> {
        let parts = self.part.as_ref().map(|(part, _)| part.parts());
        let turn = match &parts {
            Some(parts) => Some(parts.turn.lock().await),
            None => None,
        };
        let need = self.need()?;
        let first = match &self.part {
            None => Some(self.ring.newest().number.max(need.acknowledged.next())),
            Some((part, round)) => {
                let is_promised = self.waits.is_some() && !self.group.lease_left().is_zero();
                part.next(*round, need.acknowledged, is_promised, self.array.env.clock.now())
            }
        };
        let Some(first) = first else { return Ok(false) };
        let batch = self.group.relay_batch(self.reader, first, self.room_bytes()).await;
        let Some(batch) = batch.map_err(|error| trouble(error.to_string()))? else { return Ok(false) };
        let pages = (batch.head.len() / SLOT_BYTES + batch.pages.len()) as u64;
        let payload_blocks = u32::try_from(pages).unwrap_or(u32::MAX);
        let Some(place) = self.ring.place_for(pages + 1).filter(|_| payload_blocks <= MAX_PAYLOAD_BLOCKS)
        else {
            drop(turn);
            return self.make_room(pages + 1).await;
        };
        if let Some((part, round)) = &self.part
            && !part.take(*round, first, batch.last)
        {
            return Ok(true); // Another round begins.
        }
        drop(turn);
        let at = self.ring.newest();
        let head = Batch {
            incarnation: self.incarnation,
            id: self.id,
            sequence: at.sequence,
            place,
            first: batch.first,
            last: batch.last,
            generation: batch.generation,
            wall_ns: self.array.env.clock.wall().0,
            payload_blocks,
            payload_crc: checksum(&batch),
            previous_hash: at.previous_hash,
        };
        // Otherwise the second array cannot know that this is the history, if this array ends now.
        if self.told.is_none_or(|told| batch.generation.first > told.first) {
            self.tell().await?;
        }
        let (mut front, hash) = head.encode();
        front.extend_from_slice(&batch.head);
        if let Some(waits) = self.waits.as_ref().filter(|waits| waits.counts_early()) {
            waits.note_has(batch.last);
        }
        self.luns.journal.write(place, front, &batch.pages).await?;
        self.ring.push(&head, hash);
        if let Some((part, round)) = &self.part {
            part.put(*round);
        }
        self.newest_wall_ns = Some(head.wall_ns);
        self.note_has(need);
        self.is_stale = true;
        self.note(None);
        Ok(true)
    }

    /// When the second array does not come forward: whether what it needs next is still there. A relay may lose what it had
    /// acknowledged, and while there is no other way nobody else can tell.
    async fn verify(&mut self, need: RelayNeed) -> Result<(), RelayError> {
        let clock = self.array.env.clock.clone();
        let (reported, due) = &mut self.lacking;
        if *reported != need.acknowledged {
            *reported = need.acknowledged;
            due.begin(clock.as_ref(), VERIFY_AFTER);
        }
        if !due.take(clock.as_ref()) {
            return Ok(());
        }
        due.begin(clock.as_ref(), VERIFY_AGAIN);
        let chain = Chain { incarnation: self.incarnation, id: self.id, blocks: self.ring.journal_blocks() };
        let mut at = self.ring.oldest();
        for _ in 0..VERIFIED {
            if at.sequence >= self.ring.newest().sequence {
                break;
            }
            let found = chain.next(&self.luns.journal, &at).await?;
            let Some((batch, hash)) = found else { return self.lost() };
            if !is_whole(&self.luns.journal, &batch).await? {
                return self.lost();
            }
            at = Position::behind(&batch, hash);
        }
        Ok(())
    }

    /// The relay has lost what was on it: another chain begins with what the second array lacks.
    fn lost(&self) -> Result<(), RelayError> {
        note_chain(self.array, self.relay, None, None)?;
        Err(trouble("what was written there is damaged or gone: it is written again"))
    }

    /// Hosts hear what is on the relay, or needs not go there.
    fn note_has(&self, need: RelayNeed) {
        match (&self.waits, &self.part) {
            (Some(waits), None) => {
                waits.note_has(self.ring.newest().number.previous().max(need.acknowledged));
            }
            (Some(waits), Some((part, _))) => {
                let parts = part.parts();
                waits.note_together(|reported, is_promised| parts.have(reported, is_promised));
            }
            (None, _) => {}
        }
    }

    /// The second array's question is answered: for how long it is synchronised, in milliseconds, and how many relays it has to reach for
    /// that.
    fn lease(&self, waits: &OpenRelay<'_>, need: RelayNeed) -> (u32, u32) {
        self.note_has(need);
        let relays = match &self.part {
            None => Some(0),
            Some((part, _)) => part.parts().needed(need.acknowledged).filter(|relays| *relays > 0),
        };
        let Some(relays) = relays else { return (0, 0) };
        (u32::try_from(waits.answer().as_millis()).unwrap_or(0), relays)
    }

    /// There is no place for so many pages: whether there is more room now.
    async fn make_room(&mut self, pages: u64) -> Result<bool, RelayError> {
        let need = self.need()?;
        if self.release(need) {
            self.tell().await?;
            return Ok(true);
        }
        let (used, all) = self.ring.usage();
        if used == 0 {
            return Err(trouble(format!(
                "an update needs {pages} pages, the journal LUN has {all}: it goes to the other array directly"
            )));
        }
        self.note(Some("the journal LUN is full: the other array has not reported what is on it".into()));
        Ok(false)
    }

    /// Room for an answer, in which a single update may be larger.
    fn room_bytes(&self) -> usize {
        let (_, all) = self.ring.usage();
        // Half of the LUN is left to another chain, and that may lie around its end.
        let share =
            if self.part.is_some() { (all / RING_SHARE / 2).saturating_sub(1) } else { all / RING_SHARE };
        let share = usize::try_from(share).unwrap_or(usize::MAX).saturating_mul(SLOT_BYTES);
        let most = MAX_PAYLOAD_BLOCKS as usize * SLOT_BYTES;
        (2 * self.group.settings.read_bytes as usize).min(most).min(share)
    }

    /// Says what came and that this array lives. What that frees can wait while there is room, if the link carries the rest.
    async fn tell_what_came(&mut self, need: RelayNeed) -> Result<(), RelayError> {
        let (used, all) = self.ring.usage();
        if self.goes_directly() && 2 * used <= all {
            return self.tell_news();
        }
        self.release(need);
        self.tell().await
    }

    /// What the second array has reported needs no place any more; whether that frees one.
    fn release(&mut self, need: RelayNeed) -> bool {
        let newest = self.ring.newest().number.previous();
        self.ring.release(if self.group.frees_early() { newest } else { need.acknowledged })
    }

    /// Whether what frees no place and begins no chain goes over the link.
    fn goes_directly(&self) -> bool {
        let now = self.array.env.clock.now();
        self.relay.control == RelayControl::Link && self.open.direct.is_asked(now)
    }

    /// Issues control information over the link alone.
    fn tell_news(&mut self) -> Result<(), RelayError> {
        let (control, information) = self.control(self.sequence)?;
        self.sequence = self.sequence.saturating_add(1);
        self.open.direct.say(&control.encode(), &information);
        self.is_stale = false;
        self.note(None);
        Ok(())
    }

    /// Control information with the answer to JOURNAL INFORMATION.
    fn control(&self, sequence: u64) -> Result<(FirstControl, Vec<u8>), RelayError> {
        let information = self.group.information(self.reader);
        if information.len() > MAX_INFORMATION_BYTES {
            return Err(trouble("the group has too long a history for control information"));
        }
        let length = u32::try_from(information.len()).unwrap_or(u32::MAX);
        let control = FirstControl {
            incarnation: self.incarnation,
            id: self.id,
            sequence,
            journal_blocks: self.ring.journal_blocks(),
            oldest: self.ring.oldest(),
            newest: self.ring.newest(),
            wall_ns: self.array.env.clock.wall().0,
            information: (length, crc32c(&information)),
            hosts: self.hosts,
            has: if self.part.is_some() { Has::Parts } else { Has::All },
            by_link: self.relay.control == RelayControl::Link,
            kept: self.ring.kept().copied(),
        };
        Ok((control, information))
    }

    /// Issues control information on the relay.
    async fn tell(&mut self) -> Result<(), RelayError> {
        // A LUN that has grown is used to its end from a moment on in which no batch is held.
        self.ring.grow(self.luns.journal.pages);
        let history = self.group.generation_at(UpdateNumber::new(u64::MAX));
        let sequence = for_lun(self.sequence, self.on_lun);
        let (control, information) = self.control(sequence)?;
        // Counted first: a write that failed may have landed, and its slot is not the one to be written again.
        self.sequence = sequence.saturating_add(1);
        let mut front = control.encode();
        if self.relay.control == RelayControl::Link {
            self.open.direct.say(&front, &information);
        }
        front.extend_from_slice(&information);
        front.resize(front.len().next_multiple_of(SLOT_BYTES), 0);
        self.luns.first.write(slot_page(sequence), front, &[]).await?;
        (self.is_stale, self.told, self.on_lun) = (false, history, Some(sequence));
        self.note(None);
        Ok(())
    }

    /// Takes in the second array's control information.
    async fn look_at_second(&mut self) -> Result<(), RelayError> {
        let found = [latest_second(&self.luns.second, self.id).await?, self.open.direct.heard()];
        let newest = found.into_iter().flatten().max_by_key(|control| control.sequence);
        is_not_overtaken(self.array, self.relay, self.luns, (newest, true)).await?;
        let Some(control) = newest else { return Ok(()) };
        let seen = self.seen.replace(control.sequence);
        if let Some((part, _)) = &self.part
            && seen.is_some_and(|seen| control.sequence > seen)
        {
            part.note_sign(self.array.env.clock.now());
        }
        if control.incarnation != self.incarnation || seen.is_some_and(|seen| control.sequence <= seen) {
            return Ok(());
        }
        // Another history: it has not read this chain since.
        if self.group.generation_at(control.report.acknowledged) != Some(control.generation) {
            return Ok(());
        }
        // What is there at the beginning may be of any age: it shows nothing but what it says.
        if seen.is_none() && control.report.acknowledged <= self.need()?.acknowledged {
            return Ok(());
        }
        if seen.is_some() {
            self.group.heard_over_relay(self.reader);
        }
        if let Err(error) = self.group.report(self.reader, control.report, Carrier::Read) {
            tracing::warn!(relay = %self.relay.name, %error, "control information of the second array is not believed");
        }
        if let Some(waits) = self.waits.as_ref().filter(|_| control.question != self.hosts.question) {
            let (lease_ms, relays) = self.lease(waits, self.need()?);
            self.hosts = Hosts { question: control.question, lease_ms, relays, ..self.hosts };
            // The lease runs already.
            match self.goes_directly() {
                true => self.tell_news()?,
                false => self.tell().await?,
            }
        }
        Ok(())
    }

    fn note(&self, trouble: Option<String>) {
        let newest = self.ring.newest().number.previous();
        self.array.note_relay(&self.relay.name, |status| {
            (status.newest, status.usage) = (newest.get(), self.ring.usage());
            status.newest_wall_ns = self.newest_wall_ns;
            status.trouble = trouble;
        });
    }
}

fn checksum(batch: &RelayBatch) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(&batch.head);
    batch.pages.iter().for_each(|page| digest.update(page.as_slice()));
    u32::try_from(digest.finalize()).unwrap_or(0)
}

/// The second array's control information is looked at so often.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Control information follows new batches within this time: the second array finds them by themselves.
const TELL_EVERY: Duration = Duration::from_millis(250);
/// And it is written so often if nothing happens, to show that this array lives.
pub(super) const BEAT_EVERY: Duration = Duration::from_secs(1);
/// A second array that has not come forward for so long may lack what the relay has lost.
const VERIFY_AFTER: Duration = Duration::from_secs(10);
/// And so often while it does not.
const VERIFY_AGAIN: Duration = Duration::from_secs(300);
/// Batches that are looked at then: the ones that it needs next.
const VERIFIED: usize = 8;
/// A batch takes no more than this part of the journal LUN, unless a single update does.
const RING_SHARE: u64 = 4;
