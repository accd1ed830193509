//! Making a parity group on empty units, and finding its members again, by identity.
//!
//! Units may be given in any order. One of another array, of another group, with both superblocks damaged, cut
//! short or out of date is refused by name and never written; with RAID 5 the group opens without one. Two units of
//! one identity end the attempt: nobody can tell which is the copy, and believing the wrong one loses data.

use super::group::{Inner, Member, ParityGroup};
use super::layout::Layout;
use super::{DiskError, GroupIdentity, GroupSpec, Level, NAME_BYTES_MAX, OpenError, Owner, UnitIdentity};
use crate::clock::{Entropy, WallNs};
use crate::disk::device::{BlockDevice, DeviceError};
use crate::disk::slot::{Class, SLOT_BYTES, SlotPool};
use crate::disk::superblock::{Area, MemberRow, Superblock, areas};
use crate::disk::unit::{Candidate, Found, Refusal, RefusalReason, write_superblock};
use futures_util::future::join_all;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, OnceLock};

/// What making a group needs from outside.
#[derive(Clone, Copy, Debug)]
pub struct Making<'a> {
    /// Gives the units their identities.
    pub entropy: &'a dyn Entropy,
    /// The time of making, for people.
    pub created: WallNs,
}

impl ParityGroup {
    /// Makes a group on units that hold nothing, in the given order, and opens it. All units are used as far as the
    /// smallest reaches.
    ///
    /// # Errors
    /// The wish cannot be fulfilled, or a unit holds a superblock already or fails.
    pub async fn create(
        owner: Owner,
        spec: GroupSpec,
        units: Vec<(String, Arc<dyn BlockDevice>)>,
        pool: SlotPool,
        making: Making<'_>,
    ) -> Result<Self, DiskError> {
        let wrong = |reason: String| DiskError::Spec { group: spec.name.clone(), reason };
        if spec.name.is_empty() || spec.name.len() > NAME_BYTES_MAX {
            return Err(wrong(format!("a name has 1 to {NAME_BYTES_MAX} bytes")));
        }
        let smallest = units.iter().map(|(_, device)| device.length_bytes()).min().unwrap_or(0);
        // Asked before the areas are computed, so that a level or stripe unit that cannot be is named as such.
        Layout::new(spec.level, units.len(), spec.stripe_unit_bytes, smallest / SLOT_BYTES as u64)
            .map_err(wrong)?;
        let found = areas(smallest, spec.level, spec.stripe_unit_bytes);
        let areas = found.ok_or_else(|| wrong(format!("a unit of {smallest} bytes is too small")))?;
        for (name, device) in &units {
            let candidate = Candidate { name: name.clone(), device: Arc::clone(device) };
            candidate.must_be_empty(&pool).await?;
        }
        let members: Vec<MemberRow> = units
            .iter()
            .map(|_| MemberRow { identity: UnitIdentity(making.entropy.identity()), failed: false })
            .collect();
        let superblock = |member: usize, length_bytes: u64| Superblock {
            sequence: 1,
            owner,
            group: spec.identity,
            created_wall_ns: making.created.0,
            unit_bytes: length_bytes / SLOT_BYTES as u64 * SLOT_BYTES as u64,
            checksums: areas[0],
            stripe_log: areas[1],
            data: areas[2],
            stripe_unit_bytes: spec.stripe_unit_bytes,
            level: spec.level,
            member,
            members: members.clone(),
            name: spec.name.clone(),
        };
        let writes = units.iter().enumerate().map(|(member, (name, device))| {
            let superblock = superblock(member, device.length_bytes());
            let pool = &pool;
            async move {
                let prepared = prepare(&**device, &superblock, pool).await;
                prepared.map_err(|error| Refusal { name: name.clone(), reason: RefusalReason::Device(error) })
            }
        });
        for written in join_all(writes).await {
            written?;
        }
        let opened = Self::open(owner, spec.identity, units, pool).await;
        opened.map_err(|error| wrong(format!("does not read back: {error}")))
    }

    /// Opens a group on its units, given in any order.
    ///
    /// # Errors
    /// Too few units are sound; every refused one is named with its reason.
    pub async fn open(
        owner: Owner,
        identity: GroupIdentity,
        units: Vec<(String, Arc<dyn BlockDevice>)>,
        pool: SlotPool,
    ) -> Result<Self, OpenError> {
        let candidates = units.into_iter().map(|(name, device)| Candidate { name, device });
        let mut refused = Vec::new();
        let mut found: Vec<Found> = Vec::new();
        for result in join_all(candidates.map(|candidate| candidate.examine(&pool))).await {
            match result.and_then(|unit| unit.must_belong(owner, identity)) {
                Ok(unit) => found.push(unit),
                Err(refusal) => refused.push(refusal),
            }
        }
        let fail = |reason: String, refused: &[Refusal]| OpenError {
            group: identity,
            reason,
            refused: refused.to_vec(),
        };
        if let Some(duplicates) = duplicates(&found) {
            refused.extend(duplicates);
            return Err(fail("a unit is there twice".to_owned(), &refused));
        }
        // Whatever the others missed, the one with the highest sequence knows.
        let Some(newest) = found.iter().max_by_key(|unit| unit.superblock.sequence) else {
            return Err(fail("none of its units is there".to_owned(), &refused));
        };
        let newest = newest.superblock.clone();
        let (found, others): (Vec<_>, Vec<_>) =
            found.into_iter().map(|unit| unit.must_agree(&newest)).partition(Result::is_ok);
        refused.extend(others.into_iter().filter_map(Result::err));
        let found: Vec<Found> = found.into_iter().flatten().collect();
        let stale_copies =
            found.iter().any(|unit| unit.needs_repair || unit.superblock.sequence != newest.sequence);
        let inner = assemble(owner, &newest, found, refused, pool)?;
        if stale_copies {
            // Same sequence and same content for all: repeating this after a crash changes nothing.
            let recorded = inner.recorded.load(std::sync::atomic::Ordering::Acquire);
            inner.write_superblocks(newest.sequence, recorded).await;
        }
        match inner.failed.get() {
            None => Ok(Self(Arc::new(inner))),
            Some(reason) => Err(fail(reason.clone(), &inner.refused)),
        }
    }
}

impl Found {
    fn refuse(self, reason: RefusalReason) -> Refusal {
        Refusal { name: self.name, reason }
    }

    fn must_belong(self, owner: Owner, identity: GroupIdentity) -> Result<Self, Refusal> {
        let (array, group) = (self.superblock.owner.array, self.superblock.group);
        if array != owner.array {
            return Err(self.refuse(RefusalReason::ForeignArray(array)));
        }
        if group != identity {
            let name = self.superblock.name.clone();
            return Err(self.refuse(RefusalReason::OtherGroup { name, identity: group }));
        }
        Ok(self)
    }

    fn must_agree(self, newest: &Superblock) -> Result<Self, Refusal> {
        let mine = &self.superblock;
        let same = Superblock {
            sequence: newest.sequence,
            owner: newest.owner,
            unit_bytes: newest.unit_bytes,
            member: newest.member,
            members: newest.members.clone(),
            ..mine.clone()
        };
        let rows = |superblock: &Superblock| -> Vec<UnitIdentity> {
            superblock.members.iter().map(|row| row.identity).collect()
        };
        if same != *newest || rows(mine) != rows(newest) {
            return Err(self.refuse(RefusalReason::Mismatch));
        }
        if newest.members[mine.member].failed {
            return Err(self.refuse(RefusalReason::Stale));
        }
        Ok(self)
    }
}

fn duplicates(found: &[Found]) -> Option<Vec<Refusal>> {
    for (index, one) in found.iter().enumerate() {
        let identity = one.superblock.identity();
        if let Some(other) = found[..index].iter().find(|other| other.superblock.identity() == identity) {
            let refusal = |name: &str, other: &str| Refusal {
                name: name.to_owned(),
                reason: RefusalReason::Duplicate(other.to_owned(), identity),
            };
            return Some(vec![refusal(&other.name, &one.name), refusal(&one.name, &other.name)]);
        }
    }
    None
}

fn assemble(
    owner: Owner,
    newest: &Superblock,
    found: Vec<Found>,
    refused: Vec<Refusal>,
    pool: SlotPool,
) -> Result<Inner, OpenError> {
    let fail = |reason: String, refused: Vec<Refusal>| OpenError { group: newest.group, reason, refused };
    let slots = newest.data.length_bytes / SLOT_BYTES as u64;
    let layout = match Layout::new(newest.level, newest.members.len(), newest.stripe_unit_bytes, slots) {
        Ok(layout) => layout,
        Err(reason) => return Err(fail(reason, refused)),
    };
    let mut members: Vec<Member> = newest.members.iter().enumerate().map(unseen_member).collect();
    let mut out = (1_u32 << members.len()) - 1;
    for unit in found {
        let row = unit.superblock.member;
        members[row].name = unit.name;
        members[row].unit = Some((unit.device, unit.superblock));
        out &= !(1 << row);
    }
    let recorded = newest.members.iter().rev().fold(0, |bits, row| bits << 1 | u32::from(row.failed));
    if out.count_ones() > newest.level.tolerance() {
        let absent = members.iter().filter(|member| member.unit.is_none());
        let absent: Vec<&str> = absent.map(|member| member.name.as_str()).collect();
        return Err(fail(format!("{} cannot be without {}", newest.level, absent.join(" and ")), refused));
    }
    Ok(Inner {
        owner,
        spec: GroupSpec {
            identity: newest.group,
            name: newest.name.clone(),
            level: newest.level,
            stripe_unit_bytes: newest.stripe_unit_bytes,
        },
        layout,
        members,
        pool,
        refused,
        data_offset_bytes: newest.data.offset_bytes,
        out: AtomicU32::new(out),
        recorded: AtomicU32::new(recorded),
        sequence: tokio::sync::Mutex::new(newest.sequence),
        failed: OnceLock::new(),
        stripe_locks: (0..STRIPE_LOCKS).map(|_| tokio::sync::Mutex::new(())).collect(),
        suspects: Mutex::default(),
    })
}

fn unseen_member((index, row): (usize, &MemberRow)) -> Member {
    let reason = OnceLock::new();
    if row.failed {
        let _ = reason.set("it failed earlier and the others went on without it".to_owned());
    }
    Member {
        name: format!("member {index} (unit {})", row.identity),
        identity: row.identity,
        unit: None,
        reason,
    }
}

/// Zeros wherever zeros are relied on, then the superblocks: a unit with a superblock is a finished one.
async fn prepare(
    device: &dyn BlockDevice,
    superblock: &Superblock,
    pool: &SlotPool,
) -> Result<(), DeviceError> {
    if !device.starts_zeroed() {
        zero(device, superblock.checksums, pool).await?;
        zero(device, superblock.stripe_log, pool).await?;
        // The parity of zeros is zero; without parity old bytes harm nobody.
        if superblock.level != Level::Raid0 {
            zero(device, superblock.data, pool).await?;
        }
        device.flush().await?;
    }
    write_superblock(device, superblock, pool).await
}

async fn zero(device: &dyn BlockDevice, area: Area, pool: &SlotPool) -> Result<(), DeviceError> {
    let mut slot = pool.take(Class::Raid, 1).await.remove(0);
    slot.fill(0);
    let slot = slot.freeze();
    let mut offset_bytes = area.offset_bytes;
    let end = area.offset_bytes + area.length_bytes;
    while offset_bytes < end {
        let length = (end - offset_bytes).min(ZERO_SLOTS as u64 * SLOT_BYTES as u64);
        let count = usize::try_from(length).unwrap_or(0) / SLOT_BYTES;
        device.write(offset_bytes, vec![slot.clone(); count]).await?;
        offset_bytes += length;
    }
    Ok(())
}

/// Locks shared by the stripes of a group: enough that two stripes in flight seldom meet.
const STRIPE_LOCKS: usize = 256;
/// Slots of zeros written at once.
const ZERO_SLOTS: usize = 256;
