//! The handle of a parity group: reads, batches of writes, flushes, and what a failing member means.
//!
//! A member fails when a flush or the device itself fails, and, with redundancy left, when a write fails. It stays
//! failed in this life of the process. Before a call that went on without it returns, the failure is durable in the
//! superblocks of the others. A write that was dropped or that failed half-way leaves its stripe *suspect*: its
//! parity is not believed until it has been computed again from the data. Every call runs to its end without help of
//! other calls, and takes scratch memory of class [`Class::Raid`](crate::disk::slot::Class) in pieces that never
//! exceed the reserve of that class.

use super::layout::Layout;
use super::{DiskError, GroupSpec, GroupState, Level, MemberState, MemberStatus, Owner, Run, UnitIdentity};
use crate::disk::device::{BlockDevice, DeviceError};
use crate::disk::slot::{SLOT_BYTES, Slot, SlotMut, SlotPool};
use crate::disk::superblock::Superblock;
use crate::disk::unit::{Refusal, write_superblock};
use futures_util::future::join_all;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

/// A parity group. Cloning gives another handle to the same group.
#[derive(Clone)]
pub struct ParityGroup(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) owner: Owner,
    pub(super) spec: GroupSpec,
    pub(super) layout: Layout,
    pub(super) members: Vec<Member>,
    pub(super) pool: SlotPool,
    pub(super) refused: Vec<Refusal>,
    /// Where data begin, on every member alike.
    pub(super) data_offset_bytes: u64,
    /// A bit for each member that is not used: missing, refused or failed.
    pub(super) out: AtomicU32,
    /// A bit for each member whose absence the superblocks of the others tell.
    pub(super) recorded: AtomicU32,
    /// Held while superblocks are written: their sequence.
    pub(super) sequence: tokio::sync::Mutex<u64>,
    pub(super) failed: OnceLock<String>,
    /// One for many stripes: held by whoever relies on or changes the parity of a stripe.
    pub(super) stripe_locks: Vec<tokio::sync::Mutex<()>>,
    /// Stripes whose parity may not be that of their data.
    pub(super) suspects: Mutex<BTreeSet<u64>>,
}

pub(super) struct Member {
    pub(super) name: String,
    pub(super) identity: UnitIdentity,
    /// None: missing or refused.
    pub(super) unit: Option<(Arc<dyn BlockDevice>, Superblock)>,
    /// Why it is out, when it was once in use or is recorded as failed.
    pub(super) reason: OnceLock<String>,
}

/// Slots that are contiguous on one member, with their indices in the caller's list.
pub(super) struct Piece<T> {
    pub(super) member: usize,
    pub(super) member_slot: u64,
    pub(super) slots: Vec<T>,
    pub(super) indices: Vec<usize>,
}

impl ParityGroup {
    /// Its size: a whole number of stripes.
    #[must_use]
    pub fn capacity_bytes(&self) -> u64 {
        self.0.layout.capacity_slots() * SLOT_BYTES as u64
    }

    /// Bytes of data in a stripe: writes of whole stripes need no reads.
    #[must_use]
    pub fn stripe_bytes(&self) -> u64 {
        self.0.layout.stripe_slots() * SLOT_BYTES as u64
    }

    /// Fills `into` from `offset_bytes` on and gives the slots back in order. What a member cannot give is computed
    /// from the others and, if the member is still in use, written back to it.
    ///
    /// # Errors
    /// The group is failed, or more is unreadable than its level bears: nothing is invented.
    pub async fn read(&self, offset_bytes: u64, into: Vec<SlotMut>) -> Result<Vec<SlotMut>, DiskError> {
        let group = &*self.0;
        group.usable()?;
        let first = group.range(offset_bytes, into.len())?;
        let mut order: Vec<Option<SlotMut>> = Vec::new();
        order.resize_with(into.len(), || None);
        let pieces = split(&group.layout, [(first, into)]);
        if pieces.len() == 1 {
            return match pieces.into_iter().next() {
                Some(piece) => group.read_piece(piece).await.map(|piece| piece.slots),
                None => Ok(Vec::new()),
            };
        }
        for piece in join_all(pieces.into_iter().map(|piece| group.read_piece(piece))).await {
            let piece = piece?;
            for (index, slot) in piece.indices.into_iter().zip(piece.slots) {
                order[index] = Some(slot);
            }
        }
        Ok(order.into_iter().flatten().collect())
    }

    /// Writes runs that do not overlap. Stripes that they fill together are written without reading anything. Runs
    /// until every transfer has ended, also when one fails; then which of the slots are written is undefined.
    ///
    /// # Errors
    /// The group is failed, a file system is full, or there is no redundancy left to go on without a member.
    pub async fn write(&self, writes: Vec<Run>) -> Result<(), DiskError> {
        let group = &*self.0;
        group.usable()?;
        let mut runs = Vec::with_capacity(writes.len());
        for run in writes {
            runs.push((group.range(run.offset_bytes, run.slots.len())?, run.slots));
        }
        if group.layout.has_parity() {
            group.write_with_parity(runs).await?;
        } else {
            let pieces = split(&group.layout, runs);
            first_error(join_all(pieces.into_iter().map(|piece| group.write_striped(piece))).await)?;
        }
        group.record_failures().await
    }

    /// Makes every write that had returned durable. A member whose flush fails is failed.
    ///
    /// # Errors
    /// Without redundancy for that member; then, and ever after, writes that had returned may be lost.
    pub async fn flush(&self) -> Result<(), DiskError> {
        let group = &*self.0;
        group.usable()?;
        let flushes = (0..group.members.len()).filter_map(|member| {
            let device = group.device(member)?;
            Some(async move { (member, device.flush().await) })
        });
        for (member, result) in join_all(flushes).await {
            if let Err(error) = result {
                group.note_failure(member, &error);
                // Whatever kind of error a device gives here: completed writes may be lost.
                group.put_out(member, &error.to_string());
            }
        }
        group.usable()?;
        group.record_failures().await
    }

    /// Tells the units that a range is no longer needed; best effort. With parity nothing is done: content that is
    /// undefined afterwards would make parity that is wrong for the neighbours.
    pub async fn discard(&self, offset_bytes: u64, length_bytes: u64) {
        let group = &*self.0;
        let slots = usize::try_from(length_bytes / SLOT_BYTES as u64).unwrap_or(usize::MAX);
        let Ok(first) = group.range(offset_bytes, slots) else { return };
        if group.layout.has_parity() || group.usable().is_err() {
            return;
        }
        for extent in group.layout.extents(first, slots) {
            let offset = group.offset_bytes(extent.place.member_slot);
            if let Some(device) = group.device(extent.place.member) {
                let length = (extent.slots * SLOT_BYTES) as u64;
                if let Err(error) = device.discard(offset, length).await {
                    tracing::debug!(%error, "discard");
                    return;
                }
            }
        }
    }

    /// How it is now.
    #[must_use]
    pub fn state(&self) -> GroupState {
        let group = &*self.0;
        let members = group.members.iter().enumerate().map(|(index, member)| {
            let state = match (group.is_out(index), member.reason.get()) {
                (false, _) => MemberState::Normal,
                (true, None) if member.unit.is_none() => MemberState::Missing,
                (true, reason) => MemberState::Failed(reason.cloned().unwrap_or_default()),
            };
            MemberStatus { name: member.name.clone(), identity: member.identity, state }
        });
        let failed = group.failed.get().cloned();
        GroupState {
            name: group.spec.name.clone(),
            identity: group.spec.identity,
            level: group.spec.level,
            stripe_unit_bytes: group.spec.stripe_unit_bytes,
            members: members.collect(),
            refused: group.refused.clone(),
            degraded: failed.is_none() && group.out.load(Ordering::Acquire) != 0,
            failed,
        }
    }

    /// The array that owns it.
    #[must_use]
    pub fn owner(&self) -> Owner {
        self.0.owner
    }
}

impl Inner {
    pub(super) fn usable(&self) -> Result<(), DiskError> {
        match self.failed.get() {
            None => Ok(()),
            Some(reason) => Err(DiskError::Failed { group: self.spec.name.clone(), reason: reason.clone() }),
        }
    }

    pub(super) fn is_out(&self, member: usize) -> bool {
        self.out.load(Ordering::Acquire) & (1 << member) != 0
    }

    /// The device of a member that is in use.
    pub(super) fn device(&self, member: usize) -> Option<&dyn BlockDevice> {
        let (device, _) = self.members[member].unit.as_ref()?;
        (!self.is_out(member)).then_some(&**device)
    }

    pub(super) fn offset_bytes(&self, member_slot: u64) -> u64 {
        self.data_offset_bytes + member_slot * SLOT_BYTES as u64
    }

    pub(super) fn device_error(&self, source: DeviceError) -> DiskError {
        match self.usable() {
            Ok(()) => DiskError::Device { group: self.spec.name.clone(), source },
            Err(failed) => failed,
        }
    }

    /// What reading or writing through a member that is out gives.
    pub(super) fn gone(&self, member: usize) -> DeviceError {
        let unit = self.members[member].name.clone();
        DeviceError::Gone { unit, reason: "it is not in use".to_owned() }
    }

    /// The first slot of a range of the group.
    fn range(&self, offset_bytes: u64, slots: usize) -> Result<u64, DiskError> {
        let first = offset_bytes / SLOT_BYTES as u64;
        let end = first.checked_add(slots as u64);
        if !offset_bytes.is_multiple_of(SLOT_BYTES as u64)
            || end.is_none_or(|end| end > self.layout.capacity_slots())
        {
            return Err(DiskError::Range { group: self.spec.name.clone(), offset_bytes, slots });
        }
        Ok(first)
    }

    /// Reads slots of one member's place in the group, from it or from the others.
    async fn read_piece(&self, piece: Piece<SlotMut>) -> Result<Piece<SlotMut>, DiskError> {
        let Piece { member, member_slot, slots, indices } = piece;
        let count = slots.len();
        let slots = match self.device(member) {
            Some(device) => match device.read(self.offset_bytes(member_slot), slots).await {
                Ok(slots) => slots,
                Err(error) => {
                    self.note_failure(member, &error);
                    if !self.layout.has_parity() {
                        return Err(self.device_error(error));
                    }
                    tracing::warn!(group = self.spec.name, %error, "read from the other members instead");
                    self.repair(member, member_slot, count).await?
                }
            },
            None => self.reconstruct(member, member_slot, slots).await?,
        };
        Ok(Piece { member, member_slot, slots, indices })
    }

    async fn write_striped(&self, piece: Piece<Slot>) -> Result<(), DiskError> {
        let Some(device) = self.device(piece.member) else {
            return Err(self.device_error(self.gone(piece.member)));
        };
        device.write(self.offset_bytes(piece.member_slot), piece.slots).await.map_err(|error| {
            self.note_failure(piece.member, &error);
            self.device_error(error)
        })
    }

    /// Decides what an error of a member means for it and for the group.
    pub(super) fn note_failure(&self, member: usize, error: &DeviceError) {
        match error {
            DeviceError::Read { .. } | DeviceError::NoSpace { .. } => {}
            DeviceError::Flush { .. } | DeviceError::Gone { .. } => self.put_out(member, &error.to_string()),
            DeviceError::Write { .. } if self.layout.has_parity() => {
                // The last redundancy is not given up for one bad place: then the write fails, not the group.
                let alone = self.out.compare_exchange(0, 1 << member, Ordering::AcqRel, Ordering::Acquire);
                if alone.is_ok() {
                    self.explain(member, &error.to_string());
                }
            }
            DeviceError::Write { .. } => {}
        }
    }

    /// Takes a member out of use.
    pub(super) fn put_out(&self, member: usize, reason: &str) {
        let out = self.out.fetch_or(1 << member, Ordering::AcqRel) | (1 << member);
        self.explain(member, reason);
        if out.count_ones() > self.spec.level.tolerance() {
            let reason = format!("unit {}: {reason}", self.members[member].name);
            if self.failed.set(reason.clone()).is_ok() {
                tracing::error!(group = self.spec.name, reason, "parity group failed");
            }
        }
    }

    fn explain(&self, member: usize, reason: &str) {
        if self.members[member].reason.set(reason.to_owned()).is_ok() {
            tracing::error!(group = self.spec.name, unit = self.members[member].name, reason, "unit failed");
        }
    }

    /// Makes the absence of members durable in the others, so that their content is never believed when they return.
    /// Nothing is acknowledged that they lack before this has succeeded.
    pub(super) async fn record_failures(&self) -> Result<(), DiskError> {
        if self.unrecorded() == 0 {
            return Ok(());
        }
        let mut sequence = self.sequence.lock().await;
        while self.unrecorded() != 0 {
            self.usable()?;
            let out = self.out.load(Ordering::Acquire);
            *sequence += 1;
            self.write_superblocks(*sequence, out).await;
            // A member that failed meanwhile ends the group or, at a higher level, makes another round.
            self.usable()?;
            self.recorded.store(out, Ordering::Release);
        }
        Ok(())
    }

    fn unrecorded(&self) -> u32 {
        let out = self.out.load(Ordering::Acquire);
        if self.spec.level.tolerance() == 0 { 0 } else { out & !self.recorded.load(Ordering::Acquire) }
    }

    /// Writes the superblocks of all members in use; one that cannot take its own is put out.
    pub(super) async fn write_superblocks(&self, sequence: u64, failed: u32) {
        let writes = self.members.iter().enumerate().filter_map(|(index, member)| {
            let (device, superblock) = member.unit.as_ref().filter(|_| !self.is_out(index))?;
            let mut superblock = superblock.clone();
            superblock.sequence = sequence;
            for (row, entry) in superblock.members.iter_mut().enumerate() {
                entry.failed = failed & (1 << row) != 0;
            }
            Some(async move { (index, write_superblock(&**device, &superblock, &self.pool).await) })
        });
        for (member, result) in join_all(writes).await {
            if let Err(error) = result {
                self.put_out(member, &error.to_string());
            }
        }
    }
}

impl Level {
    /// How many members may be out.
    pub(super) fn tolerance(self) -> u32 {
        match self {
            Self::Raid0 => 0,
            Self::Raid1 | Self::Raid10 | Self::Raid5 => 1,
            Self::Raid6 => 2,
        }
    }
}

/// Cuts runs into one piece for each range that is contiguous on a member, however many stripes it goes through.
pub(super) fn split<T>(layout: &Layout, runs: impl IntoIterator<Item = (u64, Vec<T>)>) -> Vec<Piece<T>> {
    let mut pieces: Vec<Piece<T>> = Vec::new();
    let mut newest: Vec<Option<usize>> = vec![None; layout.members()];
    let mut index = 0;
    for (first, slots) in runs {
        let count = slots.len();
        let mut slots = slots.into_iter();
        for extent in layout.extents(first, count) {
            let (member, member_slot) = (extent.place.member, extent.place.member_slot);
            let open = newest[member].filter(|at| {
                let piece = &pieces[*at];
                piece.member_slot + piece.slots.len() as u64 == member_slot
            });
            let at = open.unwrap_or_else(|| {
                pieces.push(Piece { member, member_slot, slots: Vec::new(), indices: Vec::new() });
                pieces.len() - 1
            });
            newest[member] = Some(at);
            pieces[at].slots.extend(slots.by_ref().take(extent.slots));
            pieces[at].indices.extend(index..index + extent.slots);
            index += extent.slots;
        }
    }
    pieces
}

pub(super) fn first_error(results: Vec<Result<(), DiskError>>) -> Result<(), DiskError> {
    results.into_iter().collect()
}

impl fmt::Debug for ParityGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ParityGroup({}, {})", self.0.spec.name, self.0.spec.level)
    }
}
