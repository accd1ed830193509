//! The superblock of a unit: who it is, whose it is, and where its areas are.
//!
//! Two copies: the first slot and the last slot of the unit. One slot each, little-endian, format 1:
//!
//! ```text
//! offset size
//!    0    8   magic "HFstUNIT"
//!    8    4   version, 1
//!   12    4   length, 4096
//!   16    8   sequence: the copy or member with the highest one is believed
//!   24   16   identity of the array
//!   40   16   identity of the parity group
//!   56   16   identity of this unit
//!   72    8   number of the array
//!   80    8   when the group was made, nanoseconds since 1970
//!   88    8   size of the unit in bytes
//!   96   16   checksum area: offset, length in bytes
//!  112   16   stripe log area: offset, length
//!  128   16   data area: offset, length
//!  144    4   stripe unit in bytes
//!  148    1   RAID level: 0, 1, 5, 6, 10
//!  149    1   which member this unit is
//!  150    1   how many members
//!  151    1   length of the group's name
//!  152   64   the group's name, UTF-8, filled with zeros
//!  216  384   16 rows of members: identity (16), 0 in use | 1 failed (1), zeros (7)
//!  600 3492   zeros
//! 4092    4   CRC-32C of the 4092 bytes before
//! ```
//!
//! Areas, in this order: superblock, checksums, stripe log, data, superblock. Both reserved areas are sized for what
//! will fill them and are all zero until then: 16 bytes of checksum for every slot of data (CRC-32C, place,
//! generation), and for a level with parity a log of 1/256 of the unit, between two and 64 MiB/stripe unit stripes.
//!
//! A member that fails is marked in the member tables of all others with a higher sequence, before anything is
//! acknowledged that it does not hold: so its content is never believed when it returns.

use super::raid::{ArrayIdentity, GroupIdentity, Level, MEMBERS_MAX, NAME_BYTES_MAX, Owner, UnitIdentity};
use super::slot::SLOT_BYTES;

/// A range of a unit, in bytes, of whole slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// Where it begins.
    pub offset_bytes: u64,
    /// How long it is.
    pub length_bytes: u64,
}

/// A row of the member table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberRow {
    /// The unit.
    pub identity: UnitIdentity,
    /// Whether the others went on without it.
    pub failed: bool,
}

/// A checked superblock: every field is consistent with every other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Rises with every change.
    pub sequence: u64,
    /// Whose the unit is.
    pub owner: Owner,
    /// The parity group.
    pub group: GroupIdentity,
    /// When the group was made; shown to people only.
    pub created_wall_ns: u64,
    /// Size of the unit.
    pub unit_bytes: u64,
    /// Reserved for block checksums.
    pub checksums: Area,
    /// Reserved for the stripe log.
    pub stripe_log: Area,
    /// Data and parity.
    pub data: Area,
    /// Bytes of one member in one stripe.
    pub stripe_unit_bytes: u32,
    /// The level.
    pub level: Level,
    /// Which row of `members` this unit is.
    pub member: usize,
    /// The members, in order.
    pub members: Vec<MemberRow>,
    /// The group's name.
    pub name: String,
}

/// Bytes read from where a superblock should be.
pub struct UncheckedSuperblock<'a>(pub &'a [u8; SLOT_BYTES]);

/// Why bytes are not a superblock.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuperblockError {
    /// The magic is not there: no unit of this program.
    #[error("it holds no superblock")]
    Absent,
    /// A later format.
    #[error("its format {0} is not known to this version, which knows format {VERSION}")]
    Version(u32),
    /// The checksum is wrong.
    #[error("its superblock is damaged (checksum)")]
    Damaged,
    /// The checksum is right and the content cannot be.
    #[error("its superblock is inconsistent ({0})")]
    Inconsistent(&'static str),
}

impl UncheckedSuperblock<'_> {
    /// The superblock, if these bytes are one.
    ///
    /// # Errors
    /// Why they are not.
    pub fn check(&self) -> Result<Superblock, SuperblockError> {
        let mut fields = Fields(self.0);
        if fields.take::<8>() != *MAGIC {
            return Err(SuperblockError::Absent);
        }
        // The checksum is judged first: a flipped bit in the version is damage, not a later format.
        let stored = u32::from_le_bytes(*self.0.last_chunk::<4>().expect("a slot has a last word"));
        if crc_fast::crc32_iscsi(&self.0[..CRC_AT]) != stored {
            return Err(SuperblockError::Damaged);
        }
        let version = fields.u32();
        if version != VERSION {
            return Err(SuperblockError::Version(version));
        }
        parse(&mut fields)
    }
}

fn parse(fields: &mut Fields<'_>) -> Result<Superblock, SuperblockError> {
    let wrong = SuperblockError::Inconsistent;
    if fields.u32() != LENGTH {
        return Err(wrong("length"));
    }
    let sequence = fields.u64();
    let array = ArrayIdentity(fields.u128());
    let group = GroupIdentity(fields.u128());
    let identity = UnitIdentity(fields.u128());
    let owner = Owner { array, number: fields.u64() };
    let created_wall_ns = fields.u64();
    let unit_bytes = fields.u64();
    let (checksums, stripe_log, data) = (fields.area(), fields.area(), fields.area());
    let stripe_unit_bytes = fields.u32();
    let [level, member, members, name_length] = fields.take::<4>();
    let level = level_of(level).ok_or(wrong("level"))?;
    let (member, members) = (usize::from(member), usize::from(members));
    if members > MEMBERS_MAX || member >= members {
        return Err(wrong("member"));
    }
    let name = fields.take::<NAME_BYTES_MAX>();
    let name = name.get(..usize::from(name_length)).and_then(|name| std::str::from_utf8(name).ok());
    let name = name.filter(|name| !name.is_empty()).ok_or(wrong("name"))?.to_owned();
    let mut rows = Vec::with_capacity(members);
    for _ in 0..members {
        let identity = UnitIdentity(fields.u128());
        let failed = match fields.take::<8>()[0] {
            0 => false,
            1 => true,
            _ => return Err(wrong("member table")),
        };
        rows.push(MemberRow { identity, failed });
    }
    if rows[member].identity != identity {
        return Err(wrong("member table"));
    }
    let areas = [checksums, stripe_log, data];
    check_areas(unit_bytes, &areas)?;
    Ok(Superblock {
        sequence,
        owner,
        group,
        created_wall_ns,
        unit_bytes,
        checksums,
        stripe_log,
        data,
        stripe_unit_bytes,
        level,
        member,
        members: rows,
        name,
    })
}

/// The areas follow one another between the two superblocks, in whole slots.
fn check_areas(unit_bytes: u64, areas: &[Area; 3]) -> Result<(), SuperblockError> {
    let wrong = SuperblockError::Inconsistent("areas");
    let slot = SLOT_BYTES as u64;
    let mut next = slot;
    for area in areas {
        let aligned = area.offset_bytes.is_multiple_of(slot) && area.length_bytes.is_multiple_of(slot);
        if !aligned || area.offset_bytes < next {
            return Err(wrong);
        }
        next = area.offset_bytes.checked_add(area.length_bytes).ok_or(wrong.clone())?;
    }
    let last =
        unit_bytes.checked_sub(slot).filter(|_| unit_bytes.is_multiple_of(slot)).ok_or(wrong.clone())?;
    if next > last { Err(wrong) } else { Ok(()) }
}

impl Superblock {
    /// This unit's identity.
    #[must_use]
    pub fn identity(&self) -> UnitIdentity {
        self.members[self.member].identity
    }

    /// Where its two copies are.
    #[must_use]
    pub fn copies(&self) -> [u64; 2] {
        [0, self.unit_bytes - SLOT_BYTES as u64]
    }

    /// Its bytes.
    pub fn encode_into(&self, slot: &mut [u8; SLOT_BYTES]) {
        slot.fill(0);
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            slot[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(MAGIC);
        put(&VERSION.to_le_bytes());
        put(&LENGTH.to_le_bytes());
        put(&self.sequence.to_le_bytes());
        put(&self.owner.array.0.to_le_bytes());
        put(&self.group.0.to_le_bytes());
        put(&self.identity().0.to_le_bytes());
        put(&self.owner.number.to_le_bytes());
        put(&self.created_wall_ns.to_le_bytes());
        put(&self.unit_bytes.to_le_bytes());
        for area in [self.checksums, self.stripe_log, self.data] {
            put(&area.offset_bytes.to_le_bytes());
            put(&area.length_bytes.to_le_bytes());
        }
        put(&self.stripe_unit_bytes.to_le_bytes());
        let small = |count: usize| {
            u8::try_from(count).expect("members and name have been checked against their maxima")
        };
        put(&[code_of(self.level), small(self.member), small(self.members.len()), small(self.name.len())]);
        let mut name = [0; NAME_BYTES_MAX];
        name[..self.name.len()].copy_from_slice(self.name.as_bytes());
        put(&name);
        for row in &self.members {
            put(&row.identity.0.to_le_bytes());
            put(&[u8::from(row.failed), 0, 0, 0, 0, 0, 0, 0]);
        }
        let crc = crc_fast::crc32_iscsi(&slot[..CRC_AT]);
        slot[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    }
}

/// The areas of a unit of `unit_bytes`: checksums, stripe log, data. None if it is too small to hold one stripe unit.
#[must_use]
pub fn areas(unit_bytes: u64, level: Level, stripe_unit_bytes: u32) -> Option<[Area; 3]> {
    let slot = SLOT_BYTES as u64;
    let unit = u64::from(stripe_unit_bytes) / slot;
    let inside = (unit_bytes / slot).checked_sub(2)?;
    let log = match level {
        Level::Raid0 | Level::Raid1 | Level::Raid10 => 0,
        // A log entry is a header and the parity and data of one unit; two entries let one be written while one is
        // cleared.
        Level::Raid5 | Level::Raid6 => {
            (inside / 256).clamp(2 * (unit + 1), STRIPE_LOG_SLOTS_MAX.max(2 * (unit + 1)))
        }
    };
    let checksums = (inside.checked_sub(log)?).div_ceil(SLOT_BYTES as u64 / CHECKSUM_BYTES);
    // Data begin at a multiple of the stripe unit, so that aligned transfers stay aligned on the medium.
    let first = (1 + checksums + log).next_multiple_of(unit.max(1));
    let data = (inside + 1).checked_sub(first)? / unit.max(1) * unit;
    let area = |first: u64, slots: u64| Area { offset_bytes: first * slot, length_bytes: slots * slot };
    (data > 0).then(|| [area(1, checksums), area(1 + checksums, log), area(first, data)])
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (taken, rest) = self.0.split_first_chunk::<N>().expect("the fields of format 1 fit into a slot");
        self.0 = rest;
        *taken
    }
    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }
    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
    fn u128(&mut self) -> u128 {
        u128::from_le_bytes(self.take())
    }
    fn area(&mut self) -> Area {
        Area { offset_bytes: self.u64(), length_bytes: self.u64() }
    }
}

fn code_of(level: Level) -> u8 {
    match level {
        Level::Raid0 => 0,
        Level::Raid1 => 1,
        Level::Raid5 => 5,
        Level::Raid6 => 6,
        Level::Raid10 => 10,
    }
}

fn level_of(code: u8) -> Option<Level> {
    match code {
        0 => Some(Level::Raid0),
        1 => Some(Level::Raid1),
        5 => Some(Level::Raid5),
        6 => Some(Level::Raid6),
        10 => Some(Level::Raid10),
        _ => None,
    }
}

const MAGIC: &[u8; 8] = b"HFstUNIT";
const VERSION: u32 = 1;
const LENGTH: u32 = 4096;
const CRC_AT: usize = SLOT_BYTES - 4;
/// Bytes of checksum for each slot of data.
const CHECKSUM_BYTES: u64 = 16;
/// Slots of the stripe log at most, unless two entries need more: 64 MiB cover all stripes in flight.
const STRIPE_LOG_SLOTS_MAX: u64 = 16_384;
const MEMBER_TABLE_AT: usize = 8 + 4 + 4 + 8 + 3 * 16 + 3 * 8 + 3 * 16 + 4 + 4 + NAME_BYTES_MAX;
const _: () = assert!(MEMBER_TABLE_AT == 216 && MEMBER_TABLE_AT + MEMBERS_MAX * 24 == 600);
const _: () = assert!(SLOT_BYTES == 4096 && CRC_AT == 4092);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn sample() -> Superblock {
        let [checksums, stripe_log, data] = areas(1 << 22, Level::Raid5, 8192).unwrap();
        Superblock {
            sequence: 3,
            owner: Owner { array: ArrayIdentity(7), number: 64015 },
            group: GroupIdentity(9),
            created_wall_ns: 1,
            unit_bytes: 1 << 22,
            checksums,
            stripe_log,
            data,
            stripe_unit_bytes: 8192,
            level: Level::Raid5,
            member: 1,
            members: (1..=3).map(|id| MemberRow { identity: UnitIdentity(id), failed: id == 3 }).collect(),
            name: "pg0".to_owned(),
        }
    }

    #[test]
    fn a_superblock_reads_back_as_written() {
        let mut slot = [0xff; SLOT_BYTES];
        sample().encode_into(&mut slot);
        assert_eq!(UncheckedSuperblock(&slot).check(), Ok(sample()));
    }

    #[test]
    fn a_flip_of_any_byte_is_noticed() {
        let mut slot = [0; SLOT_BYTES];
        sample().encode_into(&mut slot);
        for at in 0..SLOT_BYTES {
            for bit in 0..8 {
                slot[at] ^= 1 << bit;
                assert!(UncheckedSuperblock(&slot).check().is_err(), "byte {at} bit {bit}");
                slot[at] ^= 1 << bit;
            }
        }
    }

    proptest! {
        #[test]
        fn random_bytes_under_a_right_checksum_never_panic(words in prop::collection::vec(any::<u64>(), 512)) {
            let mut slot = [0; SLOT_BYTES];
            for (chunk, word) in slot.chunks_mut(8).zip(words) {
                chunk.copy_from_slice(&word.to_le_bytes());
            }
            slot[..16].copy_from_slice(b"HFstUNIT\x01\0\0\0\0\x10\0\0");
            let crc = crc_fast::crc32_iscsi(&slot[..CRC_AT]);
            slot[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
            let _ = UncheckedSuperblock(&slot).check();
        }

        #[test]
        fn areas_never_overlap_and_checksums_cover_the_data(
            slots in 0_u64..1 << 30, unit in 1_u32..=64, raid5: bool, odd in 0_u64..4096
        ) {
            let level = if raid5 { Level::Raid5 } else { Level::Raid0 };
            let unit_bytes = slots * 4096;
            if let Some(found) = areas(unit_bytes + odd, level, unit * 4096) {
                prop_assert_eq!(check_areas(unit_bytes, &found), Ok(()));
                let [checksums, _, data] = found;
                prop_assert!(checksums.length_bytes * 256 >= data.length_bytes);
                prop_assert!(data.offset_bytes.is_multiple_of(u64::from(unit) * 4096));
            }
        }
    }
}
