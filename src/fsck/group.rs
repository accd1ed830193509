//! A parity group: both superblocks of each unit, the log of its map, its volumes, its parity.

use super::{Report, Wants, has_parity, is_journal, name_of};
use crate::disk::cache::ParityGroupId;
use crate::disk::device::BlockDevice;
use crate::disk::io::opener::{OpenMode, OpenUnitError, UnitOpener};
use crate::disk::raid::group::ParityGroup;
use crate::disk::raid::{ArrayIdentity, GroupIdentity, Owner};
use crate::disk::slot::{Class, SLOT_BYTES, SlotMut, SlotPool};
use crate::disk::space::{MapStart, Opening};
use crate::disk::superblock::{Superblock, UncheckedSuperblock};
use crate::disk::{DiskAdapter, VolumeKind};
use crate::volume::record::{ParityGroupRecord, VolumeRecord};
use crate::volume::table::Tables;
use std::sync::Arc;

/// A unit that could be opened.
struct Unit {
    path: String,
    device: Arc<dyn BlockDevice>,
    superblock: Option<Superblock>,
}

pub(super) async fn check(
    tables: &Tables,
    record: &ParityGroupRecord,
    opener: &dyn UnitOpener,
    (disk, pool): (&DiskAdapter, &SlotPool),
    wants: Wants,
    report: &mut Report,
) {
    let place = format!("parity group {}", record.name);
    if !record.is_formatted {
        report.say(&place, "not made yet: the next start makes it");
        return;
    }
    (wants.progress)(&place);
    let before = report.damage.len();
    let mut units = Vec::new();
    for unit in &record.units {
        let path = unit.path.display().to_string();
        match opener.open(&path, OpenMode::Existing).await {
            Ok(device) => {
                let superblock = superblocks(&place, &path, &*device, pool, report).await;
                units.push(Unit { path, device, superblock });
            }
            Err(error @ OpenUnitError::Missing { .. }) if unit.path.is_relative() => {
                report.blame(
                    &place,
                    format!("unit {error}: its path begins at the directory in which the array is started"),
                );
            }
            Err(error @ OpenUnitError::Missing { .. }) => report.blame(&place, format!("unit {error}")),
            Err(error) => report.refuse(format!("unit {error}")),
        }
    }
    let meta = tables.meta();
    let owner = Owner { array: ArrayIdentity(meta.identity.0), number: u64::from(meta.number.0) };
    let devices = units.iter().map(|unit| (unit.path.clone(), unit.device.clone())).collect();
    let identity = GroupIdentity(record.identity.0);
    let group = match ParityGroup::open(owner, identity, devices, pool.clone()).await {
        Ok(group) => group,
        Err(error) => return report.blame(&place, format!("it cannot be opened: {error}")),
    };
    let state = group.state();
    for refused in state.refused {
        report.blame(&place, refused);
    }
    if state.degraded && report.damage.len() == before {
        report.blame(&place, "a unit is out: it is degraded");
    }
    let id = ParityGroupId(record.number.0);
    // As the next start would open it.
    let opening = Opening { count: meta.incarnation.saturating_add(1), takes_older: false };
    if let Err(error) = disk.add_parity_group(id, group, MapStart::Look, opening).await {
        return report.blame(&place, error);
    }
    for weak in disk.weak_map_places(id).await.unwrap_or_default() {
        report.blame(&place, format!("place {weak} of the log of its map: one of its two copies is damaged"));
    }
    let volumes = volumes(tables, record, disk, report);
    let (level, members) = (record.level, record.units.len());
    let mut said = format!("{level}, {members} units, superblocks and the map of {volumes} volumes read");
    if wants.parity && has_parity(record.level) && state.degraded {
        said.push_str(", parity not checked: a unit is out");
    } else if wants.parity && has_parity(record.level) {
        said.push_str(&parity(&place, &units, (pool, wants), report).await);
    }
    report.say(&place, said);
}

/// Both copies, each by itself; the one that a start believes.
async fn superblocks(
    place: &str,
    path: &str,
    device: &dyn BlockDevice,
    pool: &SlotPool,
    report: &mut Report,
) -> Option<Superblock> {
    let first = superblock_at(device, 0, pool).await;
    let end =
        first.as_ref().map_or(device.length_bytes(), |first| first.unit_bytes.min(device.length_bytes()));
    let last = (end / SLOT_BYTES as u64).saturating_sub(1) * SLOT_BYTES as u64;
    let second = superblock_at(device, last, pool).await;
    match (first, second) {
        (Ok(first), Ok(second)) => {
            if first != second {
                report.blame(
                    place,
                    format!(
                        "unit {path}: its two superblocks differ: a start that takes the unit writes both"
                    ),
                );
            }
            Some(if first.sequence >= second.sequence { first } else { second })
        }
        (Ok(sound), Err(error)) => {
            report.blame(
                place,
                format!(
                    "unit {path}, byte {last}: {error}; the other copy is sound: a start that takes the unit writes both"
                ),
            );
            Some(sound)
        }
        (Err(error), Ok(sound)) => {
            report.blame(
                place,
                format!("unit {path}, byte 0: {error}; the other copy is sound: a start that takes the unit writes both"),
            );
            Some(sound)
        }
        // That the unit is refused is said when the group is opened.
        (Err(_), Err(_)) => None,
    }
}

async fn superblock_at(device: &dyn BlockDevice, at: u64, pool: &SlotPool) -> Result<Superblock, String> {
    if at + SLOT_BYTES as u64 > device.length_bytes() {
        return Err("the unit is too short".to_owned());
    }
    let into = pool.take(Class::Raid, 1).await;
    let read = device.read(at, into).await.map_err(|error| error.to_string())?;
    let slot = read.first().ok_or("nothing was read")?;
    UncheckedSuperblock(slot).check().map_err(|error| error.to_string())
}

/// Whether the map has what the store says there is; how many volumes it has.
fn volumes(tables: &Tables, record: &ParityGroupRecord, disk: &DiskAdapter, report: &mut Report) -> usize {
    let id = ParityGroupId(record.number.0);
    let known: Vec<_> = disk.volumes().into_iter().filter(|spec| spec.parity_group == id).collect();
    let here = |volume: &&VolumeRecord| volume.parity_group == Some(record.number) && volume.is_carved;
    for volume in tables.volumes.iter().filter(here) {
        let place = format!("volume {}", volume.name);
        let Some(spec) = known.iter().find(|spec| spec.id.0 == volume.number.0) else {
            // A journal volume is made anew, also where a crash came between its two lives.
            if !is_journal(volume) {
                report.blame(place, format!("the map of parity group {} does not know it", record.name));
            }
            continue;
        };
        let becomes_another = is_journal(volume) != (spec.kind == VolumeKind::Journal);
        if !becomes_another && spec.size_bytes < volume.size_bytes {
            let (has, should) = (spec.size_bytes, volume.size_bytes);
            report.blame(place, format!("the map has {has} bytes of it, the control store says {should}"));
        }
    }
    known.len()
}

/// The exclusive-or of all members is zero in every stripe, wherever its parity lies.
async fn parity(
    place: &str,
    units: &[Unit],
    (pool, wants): (&SlotPool, Wants),
    report: &mut Report,
) -> String {
    let whole: Vec<_> = units.iter().filter_map(|unit| Some((unit, unit.superblock.as_ref()?))).collect();
    let Some((_, superblock)) = whole.first() else { return String::new() };
    let (length_bytes, stripe_unit_bytes) =
        (superblock.data.length_bytes, u64::from(superblock.stripe_unit_bytes.max(1)));
    let (mut wrong, mut first, mut at): (u64, Option<u64>, u64) = (0, None, 0);
    let mut last_wrong = None;
    while at < length_bytes {
        if at.is_multiple_of(SAID_BYTES) {
            (wants.progress)(&format!("{place}: parity, {} of {} GiB", at >> 30, length_bytes >> 30));
        }
        let bytes = (length_bytes - at).min(PIECE_BYTES);
        let slots = usize::try_from(bytes / SLOT_BYTES as u64).unwrap_or(0);
        let mut sum: Option<Vec<SlotMut>> = None;
        for (unit, superblock) in &whole {
            let into = pool.take(Class::Restore, slots).await;
            // What cannot be read is said by the unit.
            let Ok(read) = unit.device.read(superblock.data.offset_bytes + at, into).await else {
                sum = Some(Vec::new());
                break;
            };
            match &mut sum {
                None => sum = Some(read),
                Some(sum) => sum.iter_mut().zip(&read).for_each(|(sum, slot)| add(sum, slot)),
            }
        }
        for (index, slot) in sum.unwrap_or_default().iter().enumerate() {
            let stripe = (at + (index * SLOT_BYTES) as u64) / stripe_unit_bytes;
            if slot.iter().any(|byte| *byte != 0) && last_wrong != Some(stripe) {
                (wrong, last_wrong) = (wrong + 1, Some(stripe));
                first = first.or(last_wrong);
            }
        }
        at += bytes;
    }
    let stripes = length_bytes / stripe_unit_bytes;
    if let Some(first) = first {
        report.blame(
            place,
            format!(
                "the parity of {wrong} of {stripes} stripes is not that of their data, the first is stripe {first}: \
                 a kill or a power loss leaves that where something was being written, otherwise a unit has changed by itself"
            ),
        );
    }
    format!(", parity of {stripes} stripes read")
}

fn add(sum: &mut SlotMut, slot: &SlotMut) {
    sum.iter_mut().zip(slot.iter()).for_each(|(sum, byte)| *sum ^= byte);
}

/// What a volume of this number is called, for the journals.
pub(super) fn journal_place(tables: &Tables, volume: u32) -> String {
    format!("journal volume {}", name_of(tables, volume))
}

/// Bytes of each unit that are read at a time.
const PIECE_BYTES: u64 = 1 << 20;

/// Bytes of each unit between two words of progress.
const SAID_BYTES: u64 = 1 << 30;
