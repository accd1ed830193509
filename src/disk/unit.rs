//! A unit: a device with a superblock. Finding out what it is, refusing it by name, repairing one bad copy of two.
//!
//! Nothing here writes to a unit before its caller has accepted it as a member.

use super::device::{BlockDevice, DeviceError};
use super::raid::{ArrayIdentity, GroupIdentity, UnitIdentity};
use super::slot::{Class, SLOT_BYTES, SlotMut, SlotPool};
use super::superblock::{Superblock, SuperblockError, UncheckedSuperblock};
use std::sync::Arc;

/// A unit that is not used, by name, with the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unit {name} is refused: {reason}")]
pub struct Refusal {
    /// The name under which it was given.
    pub name: String,
    /// Why.
    pub reason: RefusalReason,
}

/// Why a unit is not used. It was not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusalReason {
    /// Both superblocks are bad; the first one's fault is told.
    #[error("{0}")]
    Superblock(SuperblockError),
    /// The two superblocks are sound and contradict each other.
    #[error("its two superblocks are of different units")]
    Contradiction,
    /// The file is shorter than its superblock says.
    #[error("it is cut short: {found_bytes} bytes of {unit_bytes}")]
    Truncated {
        /// Its size by the superblock.
        unit_bytes: u64,
        /// Its size.
        found_bytes: u64,
    },
    /// Of another array.
    #[error("it belongs to another array ({0})")]
    ForeignArray(ArrayIdentity),
    /// Of another parity group.
    #[error("it belongs to another parity group ({name}, {identity})")]
    OtherGroup {
        /// That group's name.
        name: String,
        /// That group.
        identity: GroupIdentity,
    },
    /// Two units with one identity: one is a copy, and nobody can tell which.
    #[error("it is the same unit as {0} ({1}): one of them is a copy")]
    Duplicate(String, UnitIdentity),
    /// The other members went on without it.
    #[error("it failed earlier and the others went on without it: its content is out of date")]
    Stale,
    /// Its description of the group is not that of the others.
    #[error("it describes the group in another way than the other members")]
    Mismatch,
    /// It is a unit already, so no new group is made on it.
    #[error("it holds a unit of parity group {name} ({identity})")]
    InUse {
        /// That group's name.
        name: String,
        /// That group.
        identity: GroupIdentity,
    },
    /// It begins with something, though not with a superblock of ours.
    #[error("it is not empty: it may hold somebody's data, wipe its beginning first")]
    NotEmpty,
    /// It cannot be read or written.
    #[error("{0}")]
    Device(DeviceError),
}

/// A unit as given: a device and what people call it.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) name: String,
    pub(super) device: Arc<dyn BlockDevice>,
}

/// A device with a superblock that can be believed.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) name: String,
    pub(super) device: Arc<dyn BlockDevice>,
    pub(super) superblock: Superblock,
    /// One copy is bad or older than the other.
    pub(super) needs_repair: bool,
}

impl Candidate {
    pub(super) fn refuse(&self, reason: RefusalReason) -> Refusal {
        Refusal { name: self.name.clone(), reason }
    }

    /// Reads both copies of the superblock and believes the newer sound one.
    pub(super) async fn examine(self, pool: &SlotPool) -> Result<Found, Refusal> {
        match self.believe(pool).await {
            Ok((superblock, needs_repair)) => {
                Ok(Found { name: self.name, device: self.device, superblock, needs_repair })
            }
            Err(reason) => Err(self.refuse(reason)),
        }
    }

    async fn believe(&self, pool: &SlotPool) -> Result<(Superblock, bool), RefusalReason> {
        let found_bytes = self.device.length_bytes();
        let slot = SLOT_BYTES as u64;
        let first = self.read_at(0, pool).await;
        // The second copy is at the end of the unit, which is the end of the file unless that has grown.
        let unit_bytes = first.as_ref().map_or(found_bytes / slot * slot, |first| first.unit_bytes);
        if unit_bytes > found_bytes {
            return Err(RefusalReason::Truncated { unit_bytes, found_bytes });
        }
        let second = match unit_bytes.checked_sub(slot).filter(|at| *at > 0) {
            Some(at) => self.read_at(at, pool).await,
            None => Err(RefusalReason::Superblock(SuperblockError::Absent)),
        };
        let second = second.and_then(|second| match second.unit_bytes == unit_bytes {
            true => Ok(second),
            false => Err(RefusalReason::Superblock(SuperblockError::Inconsistent("size"))),
        });
        match (first, second) {
            (Ok(first), Ok(second)) if first.identity() != second.identity() => {
                Err(RefusalReason::Contradiction)
            }
            (Ok(first), Ok(second)) if first.sequence == second.sequence => {
                if first == second {
                    Ok((first, false))
                } else {
                    Err(RefusalReason::Contradiction)
                }
            }
            (Ok(first), Ok(second)) => {
                Ok((if first.sequence > second.sequence { first } else { second }, true))
            }
            (Ok(sound), Err(_)) | (Err(_), Ok(sound)) => Ok((sound, true)),
            (Err(RefusalReason::Superblock(SuperblockError::Absent)), Err(second)) => Err(second),
            (Err(first), Err(_)) => Err(first),
        }
    }

    /// Nothing is ever made over what may be somebody's data: partition tables and file systems begin in the first
    /// slot.
    pub(super) async fn must_be_empty(self, pool: &SlotPool) -> Result<(), Refusal> {
        match self.believe(pool).await {
            Err(RefusalReason::Superblock(SuperblockError::Absent)) => {}
            Err(reason) => return Err(self.refuse(reason)),
            Ok((found, _)) => {
                return Err(self.refuse(RefusalReason::InUse { name: found.name, identity: found.group }));
            }
        }
        let first = self.read_slot(0, pool).await.map_err(|reason| self.refuse(reason))?;
        if first.is_some_and(|slot| slot.iter().any(|byte| *byte != 0)) {
            return Err(self.refuse(RefusalReason::NotEmpty));
        }
        Ok(())
    }

    async fn read_at(&self, offset_bytes: u64, pool: &SlotPool) -> Result<Superblock, RefusalReason> {
        match self.read_slot(offset_bytes, pool).await? {
            Some(slot) => UncheckedSuperblock(&slot).check().map_err(RefusalReason::Superblock),
            None => Err(RefusalReason::Superblock(SuperblockError::Absent)),
        }
    }

    async fn read_slot(&self, offset_bytes: u64, pool: &SlotPool) -> Result<Option<SlotMut>, RefusalReason> {
        if offset_bytes + SLOT_BYTES as u64 > self.device.length_bytes() {
            return Ok(None);
        }
        let into = pool.take(Class::Raid, 1).await;
        let slots = self.device.read(offset_bytes, into).await.map_err(RefusalReason::Device)?;
        Ok(slots.into_iter().next())
    }
}

/// Writes both copies durably, one after the other: a power loss in between leaves one of them whole.
pub(super) async fn write_superblock(
    device: &dyn BlockDevice,
    superblock: &Superblock,
    pool: &SlotPool,
) -> Result<(), DeviceError> {
    for offset_bytes in superblock.copies() {
        let mut slots = pool.take(Class::Raid, 1).await;
        slots.iter_mut().for_each(|slot| superblock.encode_into(slot));
        device.write(offset_bytes, slots.into_iter().map(SlotMut::freeze).collect()).await?;
        device.flush().await?;
    }
    Ok(())
}
