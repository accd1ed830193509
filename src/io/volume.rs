//! A volume as the host path sees it: what a change of one command does, from filled slots to status.
//!
//! Steps consume their value: a [`Change`] becomes visible at most once, whole or not at all. A plain volume is written
//! to the cache; a P-VOL through its group, which gives the number. What was promised decides when the status goes
//! out: at once for write-back, when it is durable for FUA and write-through (figure 13, steps 1260 to 1280).

use crate::channel::storage::Nexus;
use crate::clock::BoxFuture;
use crate::copy::CopyError;
use crate::copy::change::{Change, Content, Payload, apply};
use crate::copy::group::{Group, Refusal, Sequenced};
use crate::disk::raid::DiskError;
use crate::disk::slot::Class;
use crate::disk::{DiskAdapter, Pieces, Prepared, VolumeError, VolumeId};
use holdfast_scsi::{Lba, Sense};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

/// A volume at work.
pub struct Volume {
    /// Its number.
    pub number: u32,
    /// Logical block size.
    pub block_bytes: u32,
    /// Capacity.
    pub capacity_bytes: u64,
    /// Every write is durable before its status.
    pub write_through: bool,
    disk: DiskAdapter,
    role: RwLock<VolumeRole>,
}

/// What becomes of a host's write to a volume.
#[derive(Clone)]
pub enum VolumeRole {
    /// It goes to the cache.
    Plain,
    /// It goes through the group, which decides about number and journal.
    Source(Arc<Group>),
    /// It is refused: the volume follows another one.
    Copy,
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

/// Why a host's command fails; nothing of it is visible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IoError {
    /// The disk adapter could not.
    #[error("{0}")]
    Disk(#[from] VolumeError),
    /// The journal could not.
    #[error("{0}")]
    Copy(#[from] CopyError),
    /// The session ended while the change waited for room; nothing of it is visible.
    #[error("the session ended before there was room for the write")]
    SessionEnded,
    /// The journal refuses the change for good.
    #[error("{0}")]
    Refused(String),
}

impl IoError {
    /// What the host is told; `lba` is where its command began.
    #[must_use]
    pub fn sense(&self, lba: Lba) -> Sense {
        match self {
            Self::Disk(error) | Self::Copy(CopyError::Volume(error)) => match error {
                VolumeError::NoSpace { .. } => Sense::SPACE_ALLOCATION_FAILED,
                VolumeError::Disk(DiskError::Lost { .. }) => Sense::unrecovered_read(lba),
                VolumeError::Range { .. } => Sense::LBA_OUT_OF_RANGE,
                _ => Sense::UNIT_FAILURE,
            },
            Self::Copy(CopyError::Damaged(_)) | Self::Refused(_) => Sense::INTERNAL_FAILURE,
            Self::SessionEnded => Sense::NEXUS_TIMEOUT,
        }
    }
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
            capacity_bytes,
            write_through,
            disk,
            role: RwLock::new(VolumeRole::Plain),
        }
    }

    /// From now on writes are treated like this. A write that waits meets the new role when it becomes visible.
    pub fn set_role(&self, role: VolumeRole) {
        *self.role.write().unwrap_or_else(PoisonError::into_inner) = role;
    }

    fn role(&self) -> RwLockReadGuard<'_, VolumeRole> {
        self.role.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn group(&self) -> Option<Arc<Group>> {
        match &*self.role() {
            VolumeRole::Source(group) => Some(group.clone()),
            VolumeRole::Plain | VolumeRole::Copy | VolumeRole::Waiting => None,
        }
    }

    /// Reads, at once if the cache holds it all.
    #[must_use]
    pub fn read(self: &Arc<Self>, offset_bytes: u64, length: usize) -> Outcome<Pieces> {
        if matches!(*self.role(), VolumeRole::Waiting) {
            return Outcome::Ready(Err(IoError::Refused(WAITING.into())));
        }
        if let Some(pieces) = self.disk.try_read(VolumeId(self.number), offset_bytes, length) {
            return Outcome::Ready(Ok(pieces));
        }
        let volume = self.clone();
        Outcome::Later(Box::pin(async move {
            Ok(volume.disk.read(VolumeId(volume.number), offset_bytes, length, Class::Host).await?)
        }))
    }

    /// Makes a change visible; `durable`: and durable.
    #[must_use]
    pub fn write(self: &Arc<Self>, change: Change, durable: bool, nexus: &Arc<Nexus>) -> Outcome<()> {
        let durable = durable || self.write_through;
        let (volume, nexus) = (self.clone(), nexus.clone());
        let mut pending =
            Pending { volume, group: None, nexus, change, payload: Payload::default(), checksum: 0, durable };
        let Some(mut prepared) = pending.try_prepare() else {
            return Outcome::Later(Box::pin(pending.wait_and_write(None)));
        };
        match pending.attempt(&mut prepared) {
            Ok(_) if !durable => Outcome::Ready(Ok(())),
            Ok(sequenced) => Outcome::Later(Box::pin(pending.make_durable(sequenced))),
            Err(Refusal::Invalid(reason)) => Outcome::Ready(Err(IoError::Refused(reason))),
            Err(Refusal::NoRoom | Refusal::Leaving) => {
                Outcome::Later(Box::pin(pending.wait_and_write(Some(prepared))))
            }
        }
    }

    /// SYNCHRONIZE CACHE: everything accepted before is durable afterwards.
    pub async fn synchronize(self: Arc<Self>) -> Result<(), IoError> {
        match self.group() {
            Some(group) => group.synchronize(self.number).await?,
            None => self.disk.destage(&[VolumeId(self.number)]).await?,
        }
        Ok(())
    }
}

/// A change on its way.
struct Pending {
    volume: Arc<Volume>,
    group: Option<Arc<Group>>,
    nexus: Arc<Nexus>,
    change: Change,
    payload: Payload,
    checksum: u32,
    durable: bool,
}

impl Pending {
    /// What the change needs before it can become visible, if that is there without waiting: whole pages need nothing.
    fn try_prepare(&self) -> Option<Vec<Prepared>> {
        let volume = VolumeId(self.volume.number);
        let parts = self.change.parts.iter();
        parts.map(|part| self.volume.disk.try_prepare(volume, part.offset_bytes, part.length_bytes)).collect()
    }

    /// Makes the change visible as the volume's role is at this moment: it does not change until that is done.
    fn attempt(&mut self, prepared: &mut Vec<Prepared>) -> Result<Sequenced, Refusal> {
        let volume = self.volume.clone();
        let role = volume.role();
        match &*role {
            VolumeRole::Source(group) => {
                if self.group.as_ref().is_none_or(|known| !Arc::ptr_eq(known, group)) {
                    self.payload = self.change.payload();
                    self.checksum = self.payload.checksum();
                    self.group = Some(group.clone());
                }
                group.try_sequence(&self.change, &self.payload, self.checksum, prepared)
            }
            VolumeRole::Plain => {
                self.group = None;
                apply(&volume.disk, &self.change, prepared, 0);
                Ok(Sequenced::Unjournaled)
            }
            VolumeRole::Copy => Err(Refusal::Invalid("the volume has become a copy of another one".into())),
            VolumeRole::Waiting => Err(Refusal::Invalid(WAITING.into())),
        }
    }

    async fn wait_and_write(mut self, prepared: Option<Vec<Prepared>>) -> Result<(), IoError> {
        let mut prepared = match prepared {
            Some(prepared) => prepared,
            None => {
                // Nobody waits for the answer of a session that ends, and its end may not wait for memory.
                let nexus = self.nexus.clone();
                tokio::select! {
                    biased;
                    prepared = self.prepare() => prepared?,
                    () = nexus.ending() => return Err(IoError::SessionEnded),
                }
            }
        };
        let sequenced = loop {
            let Some(group) = self.volume.group() else { break self.attempt(&mut prepared) };
            let room = group.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            match self.attempt(&mut prepared) {
                // Nobody waits for the answer of a session that ends, and its end may not wait for throttling.
                Err(Refusal::NoRoom | Refusal::Leaving) => tokio::select! {
                    biased;
                    () = room => {}
                    () = self.nexus.ending() => return Err(IoError::SessionEnded),
                },
                outcome => break outcome,
            }
        };
        match sequenced {
            Ok(sequenced) if self.durable => self.make_durable(sequenced).await,
            Ok(_) => Ok(()),
            Err(refusal) => Err(IoError::Refused(format!("{refusal:?}"))),
        }
    }

    async fn prepare(&self) -> Result<Vec<Prepared>, IoError> {
        let mut prepared = Vec::with_capacity(self.change.parts.len());
        for part in &self.change.parts {
            let volume = VolumeId(self.volume.number);
            let disk = &self.volume.disk;
            let (offset, length) = (part.offset_bytes, part.length_bytes);
            // The data is held already: its partial pages are taken from an earlier class, so that two commands that
            // hold data never wait for each other.
            prepared.push(match part.content {
                Content::Zero => disk.prepare_zero(volume, offset, length, Class::JournalRead).await?,
                _ => disk.prepare(volume, offset, length, Class::JournalRead).await?,
            });
        }
        Ok(prepared)
    }

    async fn make_durable(self, sequenced: Sequenced) -> Result<(), IoError> {
        match (sequenced, &self.group) {
            (Sequenced::Journaled(number), Some(group)) => group.durable(number).await,
            _ => {
                for part in &self.change.parts {
                    let volume = VolumeId(self.volume.number);
                    self.volume.disk.destage_range(volume, part.offset_bytes, part.length_bytes).await?;
                }
            }
        }
        Ok(())
    }
}

const WAITING: &str = "the group of the volume cannot be opened";
