//! A volume as the host path sees it: what a change of one command does, from filled slots to status.
//!
//! Steps consume their value: a [`Change`] becomes visible at most once, whole or not at all. A plain volume is written
//! to the cache; a P-VOL through its group, which gives the number. What was promised decides when the status goes
//! out: at once for write-back, when it is durable for FUA and write-through (figure 13, steps 1260 to 1280).

pub(crate) use super::elsewhere::Elsewhere;
pub use super::error::IoError;
use super::forward::Way;
use super::manner::Manner;
use crate::channel::storage::Nexus;
use crate::clock::BoxFuture;
use crate::copy::change::{Change, Content, Payload, apply};
use crate::copy::forward::Forwarder;
use crate::copy::group::{Group, Refusal, Sequenced};
use crate::copy::inflow::Ticket;
use crate::copy::marked::SvolMarks;
use crate::copy::quota::Quota;
use crate::disk::slot::Class;
use crate::disk::{DiskAdapter, Pieces, Prepared, VolumeId};
use holdfast_scsi::{BlockRange, Lba, LbaStatus};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

/// A volume at work.
pub struct Volume {
    /// Its number.
    pub number: u32,
    /// Logical block size.
    pub block_bytes: u32,
    pub(super) capacity_bytes: AtomicU64,
    /// Every write is durable before its status.
    pub write_through: bool,
    pub(super) disk: DiskAdapter,
    /// Nothing of it is here but journals (promise T3): step 1270 is skipped.
    pub(super) is_virtual: bool,
    /// Where its data is, if it is virtual.
    elsewhere: Option<Arc<dyn Elsewhere>>,
    /// Held shared by what becomes visible or is read, alone by who changes it and by a change that is to be alone.
    role: RwLock<VolumeRole>,
    /// How many changes became visible alone.
    alone: AtomicU64,
}

/// What becomes of a host's write to a volume.
#[derive(Clone)]
pub enum VolumeRole {
    /// It goes to the cache.
    Plain,
    /// It goes through the group, which decides about number and journal.
    Source(Arc<Group>),
    /// It is passed on to the primary, and becomes visible when it is durable there.
    Forwarding(Arc<Forwarder>),
    /// It is refused: the volume follows another one.
    Copy,
    /// It goes to the cache once its regions are marked: the volume follows another one and is suspended.
    Marked(Arc<SvolMarks>),
    /// It goes to the cache once the room that it needs is counted: the volume is a clone of a drill that has a quota.
    Metered(Arc<Quota>),
    /// It is refused, and so is a read: the volume's group cannot be opened, and its journal may hold what the volume
    /// lacks.
    Waiting,
}

/// Done already, or later.
pub enum Outcome<T> {
    /// Without waiting for anything.
    Ready(Result<T, IoError>),
    /// When this completes.
    Later(BoxFuture<'static, Result<T, IoError>>),
}

impl Volume {
    /// A volume of the adapter.
    #[must_use]
    pub fn new(
        number: u32,
        block_bytes: u32,
        capacity_bytes: u64,
        write_through: bool,
        disk: DiskAdapter,
    ) -> Self {
        Self {
            number,
            block_bytes,
            capacity_bytes: AtomicU64::new(capacity_bytes),
            write_through,
            is_virtual: disk.is_virtual(VolumeId(number)),
            elsewhere: None,
            disk,
            role: RwLock::new(VolumeRole::Plain),
            alone: AtomicU64::new(0),
        }
    }

    /// The same without units: its data is elsewhere.
    #[must_use]
    pub(crate) fn with_data_at(self, elsewhere: Arc<dyn Elsewhere>) -> Self {
        Self { elsewhere: Some(elsewhere), ..self }
    }

    /// From now on writes are treated like this. A write that waits meets the new role when it becomes visible.
    pub fn set_role(&self, role: VolumeRole) {
        *self.role.write().unwrap_or_else(PoisonError::into_inner) = role;
    }

    /// Whether a power loss leaves each command of the volume whole or not there at all: it is journaled, or forwarded.
    #[must_use]
    pub fn writes_atomically(&self) -> bool {
        matches!(*self.role(), VolumeRole::Source(_) | VolumeRole::Forwarding(_))
    }

    /// Whether hosts may be answered here that take the volume for the same as another array's (decision 25).
    pub(super) fn has_leave(&self, needs_group: bool) -> bool {
        match &*self.role() {
            VolumeRole::Source(group) => group.has_leave(),
            VolumeRole::Plain | VolumeRole::Metered(_) => !needs_group,
            VolumeRole::Forwarding(_) | VolumeRole::Copy | VolumeRole::Marked(_) | VolumeRole::Waiting => {
                false
            }
        }
    }

    fn role(&self) -> RwLockReadGuard<'_, VolumeRole> {
        self.role.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// While this lives nothing changes what the volume is.
    pub(super) fn shared(&self) -> impl Drop + '_ {
        self.role()
    }

    /// While this lives nothing else becomes visible in the volume.
    pub(crate) fn alone(&self) -> impl Drop + '_ {
        let role = self.role.write().unwrap_or_else(PoisonError::into_inner);
        self.alone.fetch_add(1, Ordering::Release);
        role
    }

    pub(super) fn forwarder(&self) -> Option<Arc<Forwarder>> {
        match &*self.role() {
            VolumeRole::Forwarding(forwarder) => Some(forwarder.clone()),
            VolumeRole::Plain
            | VolumeRole::Source(_)
            | VolumeRole::Copy
            | VolumeRole::Marked(_)
            | VolumeRole::Metered(_)
            | VolumeRole::Waiting => None,
        }
    }

    /// Whether its writes go that way now.
    pub(super) fn is_forwarded_by(&self, forwarder: &Arc<Forwarder>) -> bool {
        self.forwarder().is_some_and(|now| Arc::ptr_eq(&now, forwarder))
    }

    pub(super) fn group(&self) -> Option<Arc<Group>> {
        match &*self.role() {
            VolumeRole::Source(group) => Some(group.clone()),
            VolumeRole::Plain
            | VolumeRole::Forwarding(_)
            | VolumeRole::Copy
            | VolumeRole::Marked(_)
            | VolumeRole::Metered(_)
            | VolumeRole::Waiting => None,
        }
    }

    /// Sees to it that a change may become visible that [`Stop::Unmarked`] has held up, if the role still does.
    async fn mark(&self, change: &Change) -> Result<(), IoError> {
        let role = self.role().clone();
        match role {
            VolumeRole::Marked(marks) => marks.mark(change).await.map_err(IoError::Refused)?,
            VolumeRole::Metered(quota) => quota.admit(change).await?,
            VolumeRole::Plain
            | VolumeRole::Forwarding(_)
            | VolumeRole::Copy
            | VolumeRole::Source(_)
            | VolumeRole::Waiting => {}
        }
        Ok(())
    }

    /// Reads, at once if the cache holds it all. Of a change that became visible alone all is read or nothing.
    #[must_use]
    pub fn read(self: &Arc<Self>, offset_bytes: u64, length: usize) -> Outcome<Pieces> {
        let role = self.role();
        if matches!(*role, VolumeRole::Waiting) {
            return Outcome::Ready(Err(IoError::Refused(WAITING.into())));
        }
        if self.is_virtual {
            return match &self.elsewhere {
                Some(elsewhere) => Outcome::Later(elsewhere.read(self.number, offset_bytes, length)),
                None => Outcome::Ready(Err(IoError::Refused(VIRTUAL.into()))),
            };
        }
        if let Some(pieces) = self.disk.try_read(VolumeId(self.number), offset_bytes, length) {
            return Outcome::Ready(Ok(pieces));
        }
        drop(role);
        Outcome::Later(Box::pin(self.clone().load(offset_bytes, length, Class::Host)))
    }

    /// Reads what the cache does not hold. While it is loaded page by page a change may become visible alone: then the
    /// pages are of different times, and it is read again.
    pub(super) async fn load(
        self: Arc<Self>,
        offset_bytes: u64,
        length: usize,
        class: Class,
    ) -> Result<Pieces, IoError> {
        let id = VolumeId(self.number);
        for _ in 0..TRIES_MAX {
            let before = self.changes_alone();
            let pieces = self.disk.read(id, offset_bytes, length, class).await?;
            if self.changes_alone() == before {
                return Ok(pieces);
            }
            let _still = self.role();
            if let Some(pieces) = self.disk.try_read(id, offset_bytes, length) {
                return Ok(pieces);
            }
        }
        Err(IoError::Contended)
    }

    /// How many changes became visible alone; none is doing so at this moment.
    fn changes_alone(&self) -> u64 {
        let _none = self.role();
        self.alone.load(Ordering::Acquire)
    }

    /// Which blocks from `start` on are mapped; at most `most` ranges, the last perhaps cut short.
    pub(super) fn lba_status(
        &self,
        start: Lba,
        is_thin: bool,
        most: usize,
    ) -> Result<Vec<LbaStatus>, IoError> {
        let block = u64::from(self.block_bytes);
        let status = |from: u64, to: u64, is_mapped| LbaStatus {
            range: BlockRange { start: Lba(from / block), blocks: (to - from) / block },
            is_mapped,
        };
        let (mut at, capacity) = (start.0 * block, self.capacity_bytes());
        if !is_thin {
            return Ok(vec![status(at, capacity, true)]);
        }
        let mut found: Vec<LbaStatus> = Vec::new();
        for _ in 0..MAPPED_WALK_MAX {
            if at >= capacity {
                break;
            }
            let run = self.disk.mapped(VolumeId(self.number), at)?;
            let run = run.unwrap_or(capacity..capacity);
            if run.start > at {
                found.push(status(at, run.start, false));
            }
            match found.last_mut() {
                _ if run.is_empty() => {}
                Some(last) if last.is_mapped => last.range.blocks += (run.end - run.start) / block,
                _ => found.push(status(run.start, run.end, true)),
            }
            at = run.end;
            if found.len() > most {
                break; // One more than is wanted: the last that is wanted is whole.
            }
        }
        found.truncate(most);
        Ok(found)
    }

    /// Makes a change visible; `durable`: and durable.
    #[must_use]
    pub fn write(self: &Arc<Self>, change: Change, durable: bool, nexus: &Arc<Nexus>) -> Outcome<()> {
        self.write_as(change, Manner::Plain, durable, nexus)
    }

    /// The same in another manner.
    #[must_use]
    pub fn write_as(
        self: &Arc<Self>,
        change: Change,
        manner: Manner,
        durable: bool,
        nexus: &Arc<Nexus>,
    ) -> Outcome<()> {
        let durable = durable || self.write_through;
        let (volume, nexus) = (self.clone(), nexus.clone());
        let (payload, checksum) = (Payload::default(), 0);
        let ticket = None;
        let pending =
            Pending { volume, group: None, nexus, change, manner, payload, checksum, durable, ticket };
        if matches!(pending.manner, Manner::Or(_)) || self.forwarder().is_some() {
            return Outcome::Later(Box::pin(pending.wait_and_write(None)));
        }
        pending.write()
    }

    /// Makes a write visible and durable that an upstream array has forwarded, unless that has been done or is too late.
    #[must_use]
    pub(crate) fn write_forwarded(
        self: &Arc<Self>,
        change: Change,
        ticket: Ticket,
        nexus: &Arc<Nexus>,
    ) -> Outcome<()> {
        let (volume, nexus, manner) = (self.clone(), nexus.clone(), Manner::Plain);
        let (payload, checksum, durable) = (Payload::default(), 0, true);
        let ticket = Some(ticket);
        Pending { volume, group: None, nexus, change, manner, payload, checksum, durable, ticket }.write()
    }
}

/// A change on its way.
pub(super) struct Pending {
    pub(super) volume: Arc<Volume>,
    pub(super) group: Option<Arc<Group>>,
    pub(super) nexus: Arc<Nexus>,
    pub(super) change: Change,
    pub(super) manner: Manner,
    payload: Payload,
    checksum: u32,
    pub(super) durable: bool,
    /// It was forwarded here.
    ticket: Option<Ticket>,
}

impl Pending {
    /// Makes it visible now if it can be.
    fn write(self) -> Outcome<()> {
        let durable = self.durable;
        let mut pending = self;
        let Some(mut prepared) = pending.try_prepare() else {
            return Outcome::Later(Box::pin(pending.wait_and_write(None)));
        };
        match pending.attempt(&mut prepared) {
            Ok(_) if !durable && !pending.waits() => Outcome::Ready(Ok(())),
            Ok(sequenced) => Outcome::Later(Box::pin(pending.until_answered(sequenced))),
            Err(Stop::Refused(Refusal::NoRoom | Refusal::Leaving) | Stop::NotCached | Stop::Unmarked) => {
                Outcome::Later(Box::pin(pending.wait_and_write(Some(prepared))))
            }
            Err(Stop::Renewed) => Outcome::Later(Box::pin(pending.wait_and_write(None))),
            Err(stop) => Outcome::Ready(Err(stop.into())),
        }
    }
}

/// Why a change has not become visible.
pub(super) enum Stop {
    Refused(Refusal),
    /// What it has to look at is not in the cache.
    NotCached,
    /// What it touches has to be marked, or counted, first.
    Unmarked,
    /// The volume has become what a snapshot is since the change was prepared, which nothing of it would reach.
    Renewed,
    /// The range does not hold what was expected, from this byte on.
    Differs(u64),
}

impl From<Stop> for IoError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Refused(Refusal::Invalid(reason)) => Self::Refused(reason),
            Stop::Refused(Refusal::Again) => Self::Contended,
            Stop::Refused(Refusal::Fenced) => Self::Fenced(FENCED.into()),
            Stop::Refused(refusal) => Self::Refused(format!("{refusal:?}")),
            Stop::NotCached | Stop::Unmarked | Stop::Renewed => Self::Contended,
            Stop::Differs(offset_bytes) => Self::Differs(offset_bytes),
        }
    }
}

impl Pending {
    /// What the change needs before it can become visible, if that is there without waiting: whole pages need nothing.
    fn try_prepare(&self) -> Option<Vec<Prepared>> {
        if self.volume.is_virtual {
            return Some(Vec::new());
        }
        let volume = VolumeId(self.volume.number);
        let parts = self.change.parts.iter();
        parts.map(|part| self.volume.disk.try_prepare(volume, part.offset_bytes, part.length_bytes)).collect()
    }

    /// Makes the change visible as the volume's role is at this moment: it does not change until that is done.
    fn attempt(&mut self, prepared: &mut Vec<Prepared>) -> Result<Sequenced, Stop> {
        let volume = self.volume.clone();
        if !self.manner.is_alone() {
            let role = volume.role();
            self.check_ready(&role, prepared)?;
            return self.sequence(&role, prepared).map_err(Stop::Refused);
        }
        let role = volume.role.write().unwrap_or_else(PoisonError::into_inner);
        self.check_ready(&role, prepared)?;
        self.look()?;
        volume.alone.fetch_add(1, Ordering::Release);
        self.sequence(&role, prepared).map_err(Stop::Refused)
    }

    fn check_ready(&self, role: &VolumeRole, prepared: &[Prepared]) -> Result<(), Stop> {
        match role {
            VolumeRole::Marked(marks) if !marks.covers(&self.change) => Err(Stop::Unmarked),
            VolumeRole::Metered(quota) if !quota.covers(&self.change) => Err(Stop::Unmarked),
            // It is refused, or goes another way.
            VolumeRole::Copy | VolumeRole::Waiting | VolumeRole::Forwarding(_) => Ok(()),
            _ if prepared.iter().any(Prepared::is_gone) => Err(Stop::Renewed),
            _ => Ok(()),
        }
    }

    /// Looks at what the range holds, if the manner asks for it. Called while the volume's role is held alone.
    pub(super) fn look(&mut self) -> Result<(), Stop> {
        let Some(part) = self.change.parts.first() else { return Ok(()) };
        if matches!(self.manner, Manner::Plain | Manner::Alone) {
            return Ok(());
        }
        let length = usize::try_from(part.length_bytes).unwrap_or(usize::MAX);
        let held = self.volume.disk.try_read(VolumeId(self.volume.number), part.offset_bytes, length);
        let held = held.ok_or(Stop::NotCached)?;
        match &mut self.manner {
            Manner::Plain | Manner::Alone => {}
            Manner::IfSame(expected) => {
                if let Some(offset_bytes) = expected.first_difference(&held) {
                    return Err(Stop::Differs(offset_bytes));
                }
            }
            Manner::Or(oring) => {
                oring.compute(&held, &mut self.change);
                self.group = None; // The payload is another one now.
            }
        }
        Ok(())
    }

    fn sequence(&mut self, role: &VolumeRole, prepared: &mut Vec<Prepared>) -> Result<Sequenced, Refusal> {
        match self.ticket.clone() {
            Some(ticket) => ticket.pass(|| self.sequence_as(role, prepared)),
            None => self.sequence_as(role, prepared),
        }
    }

    fn sequence_as(&mut self, role: &VolumeRole, prepared: &mut Vec<Prepared>) -> Result<Sequenced, Refusal> {
        match role {
            VolumeRole::Source(group) => {
                if self.group.as_ref().is_none_or(|known| !Arc::ptr_eq(known, group)) {
                    self.payload = self.change.payload();
                    self.checksum = self.payload.checksum();
                    self.group = Some(group.clone());
                }
                group.try_sequence(&self.change, &self.payload, self.checksum, prepared)
            }
            VolumeRole::Plain | VolumeRole::Marked(_) | VolumeRole::Metered(_) if self.volume.is_virtual => {
                Err(Refusal::Invalid(VIRTUAL.into()))
            }
            VolumeRole::Plain | VolumeRole::Marked(_) | VolumeRole::Metered(_) if self.change.whole => {
                Err(Refusal::Invalid(NOT_ATOMIC.into()))
            }
            VolumeRole::Plain | VolumeRole::Marked(_) | VolumeRole::Metered(_) => {
                self.group = None;
                apply(&self.volume.disk, &self.change, prepared, 0);
                Ok(Sequenced::Unjournaled)
            }
            // It has just begun to be forwarded: the next attempt is.
            VolumeRole::Forwarding(_) => Err(Refusal::Leaving),
            VolumeRole::Copy => Err(Refusal::Invalid("the volume has become a copy of another one".into())),
            VolumeRole::Waiting => Err(Refusal::Invalid(WAITING.into())),
        }
    }

    /// Makes it visible as soon as it can be, unless the volume comes to be forwarded.
    pub(super) async fn write_here(mut self, prepared: Option<Vec<Prepared>>) -> Result<Way, IoError> {
        let mut prepared = match prepared {
            Some(prepared) => prepared,
            None => self.prepare_in_session().await?,
        };
        let (mut loads, mut waits_since) = (0, None);
        let sequenced = loop {
            self.supply().await?;
            if self.volume.forwarder().is_some() {
                return Ok(Way::Turned(Box::new(self)));
            }
            let group = self.volume.group();
            let room = group.as_ref().map(|group| group.room.notified());
            tokio::pin!(room);
            if let Some(room) = room.as_mut().as_pin_mut() {
                room.enable();
            }
            match self.attempt(&mut prepared) {
                Err(Stop::Refused(Refusal::NoRoom | Refusal::Leaving)) => {
                    // Without a group the volume has just come into one, which the next attempt meets.
                    let Some(room) = room.as_mut().as_pin_mut() else { continue };
                    let patience = self.patience(group.as_ref(), &mut waits_since)?;
                    // Nobody waits for the answer of a session that ends, and its end may not wait for throttling.
                    tokio::select! {
                        biased;
                        () = room => {}
                        () = patience => {}
                        () = self.nexus.ending() => return Err(IoError::SessionEnded),
                    }
                }
                Err(Stop::Unmarked) => {
                    tokio::select! {
                        biased;
                        marked = self.volume.mark(&self.change) => marked?,
                        () = self.nexus.ending() => return Err(IoError::SessionEnded),
                    }
                }
                Err(Stop::NotCached) if loads < TRIES_MAX => {
                    loads += 1;
                    self.bring_into_cache().await?;
                }
                Err(Stop::Renewed) => {
                    prepared.clear(); // Its memory first.
                    prepared = self.prepare_in_session().await?;
                }
                outcome => break outcome?,
            }
        };
        self.until_answered(sequenced).await?;
        Ok(Way::Made)
    }

    /// Memory for what the manner computes. Like partial pages it is of an earlier class than the data that is held.
    pub(super) async fn supply(&mut self) -> Result<(), IoError> {
        let Manner::Or(oring) = &mut self.manner else { return Ok(()) };
        let missing = oring.missing();
        if missing > 0 {
            let slots = tokio::select! {
                biased;
                slots = oring.pool.take(Class::JournalRead, missing) => slots,
                () = self.nexus.ending() => return Err(IoError::SessionEnded),
            };
            oring.supply(slots);
        }
        Ok(())
    }

    /// What the manner looks at.
    pub(super) async fn bring_into_cache(&self) -> Result<(), IoError> {
        for part in &self.change.parts {
            let length = usize::try_from(part.length_bytes).unwrap_or(usize::MAX);
            let volume = VolumeId(self.volume.number);
            let read = self.volume.disk.read(volume, part.offset_bytes, length, Class::JournalRead);
            tokio::select! {
                biased;
                read = read => drop(read?),
                () = self.nexus.ending() => return Err(IoError::SessionEnded),
            }
        }
        Ok(())
    }

    /// Nobody waits for the answer of a session that ends, and its end may not wait for memory.
    async fn prepare_in_session(&self) -> Result<Vec<Prepared>, IoError> {
        tokio::select! {
            biased;
            prepared = self.prepare() => prepared,
            () = self.nexus.ending() => Err(IoError::SessionEnded),
        }
    }

    pub(super) async fn prepare(&self) -> Result<Vec<Prepared>, IoError> {
        if self.volume.is_virtual {
            return Ok(Vec::new());
        }
        // The data is held already: its partial pages are taken from an earlier class, so that two commands that hold data
        // never wait for each other.
        let class = if self.ticket.is_some() { Class::Restore } else { Class::JournalRead };
        let mut prepared = Vec::with_capacity(self.change.parts.len());
        for part in &self.change.parts {
            let volume = VolumeId(self.volume.number);
            let disk = &self.volume.disk;
            let (offset, length) = (part.offset_bytes, part.length_bytes);
            prepared.push(match part.content {
                Content::Zero => disk.prepare_zero(volume, offset, length, class).await?,
                _ => disk.prepare(volume, offset, length, class).await?,
            });
        }
        Ok(prepared)
    }
}

/// How often a range is brought into the cache again for one command, because others evict it or change it meanwhile.
pub(super) const TRIES_MAX: u32 = 64;
/// Stretches of at most 1 MiB that one GET LBA STATUS looks at; the answer ends there.
const MAPPED_WALK_MAX: usize = 4096;
const NOT_ATOMIC: &str = "only volumes whose writes are journaled or forwarded write atomically";
/// Why a write is refused whose synchronous copy does not keep up.
pub(super) const FENCED: &str =
    "the synchronous copy does not confirm, and the group's fence forbids to go on alone";
const VIRTUAL: &str = "the volume is virtual: its data is at the upstream array";
const WAITING: &str = "the group of the volume cannot be opened";

#[cfg(test)]
mod tests;
