//! Designations that concern this array alone: parity groups, volumes, targets, LUNs, links, schedules.

use crate::volume::designation::{NewLink, NewParityGroup, NewTarget, NewVolume, Outcome, Refusal};
use crate::volume::kind::Schedule;
use crate::volume::name::{GroupName, IscsiName, LinkName, Lun, ParityGroupNumber, VolumeName, VolumeNumber};
use crate::volume::record::{
    LinkRecord, LunRecord, ParityGroupRecord, ScheduleRecord, TargetRecord, VolumeRecord, VolumeState,
    VolumeUsage,
};
use crate::volume::table::Tables;

pub(super) fn create_parity_group(tables: &mut Tables, new: &NewParityGroup) -> Result<Outcome, Refusal> {
    if tables.parity_group_named(&new.name).is_some() {
        return Err(Refusal::exists("parity group", &new.name));
    }
    within(tables.parity_groups.len(), PARITY_GROUPS_MAX, "parity groups")?;
    let (level, count) = (new.level, new.units.len());
    if count < level.units_min() || count > UNITS_MAX {
        let least = level.units_min();
        return Err(Refusal::conflict(format!("{level} has {least} to {UNITS_MAX} units, not {count}")));
    }
    let all = || tables.parity_groups.iter().flat_map(|group| group.units.iter().chain(&group.spares));
    for unit in new.units.iter().chain(&new.spares) {
        if all().any(|other| other.path == unit.path || other.identity == unit.identity) {
            return Err(Refusal::exists("unit", unit.path.display()));
        }
    }
    let number = number(tables)?;
    tables.parity_groups.put(ParityGroupRecord {
        number: ParityGroupNumber(number),
        name: new.name.clone(),
        identity: new.identity,
        level,
        stripe_unit_bytes: new.stripe_unit_bytes,
        units: new.units.clone(),
        spares: new.spares.clone(),
        is_formatted: false,
    });
    Ok(Outcome::Created { number })
}

pub(super) fn create_volume(tables: &mut Tables, new: &NewVolume) -> Result<Outcome, Refusal> {
    if tables.volume_named(&new.name).is_some() {
        return Err(Refusal::exists("volume", &new.name));
    }
    within(tables.volumes.len(), VOLUMES_MAX, "volumes")?;
    let group = tables.parity_group_named(&new.parity_group);
    let parity_group = group.ok_or_else(|| Refusal::missing("parity group", &new.parity_group))?.number;
    if new.size_bytes == 0 || !new.size_bytes.is_multiple_of(4_096) {
        return Err(Refusal::conflict("the size of a volume is a multiple of 4096 bytes"));
    }
    if !matches!(new.block_size_bytes, 512 | 4_096) {
        return Err(Refusal::conflict("the block size of a volume is 512 or 4096"));
    }
    let number = number(tables)?;
    tables.volumes.put(VolumeRecord {
        number: VolumeNumber(number),
        name: new.name.clone(),
        identity: new.identity,
        state: VolumeState::Normal,
        reason: None,
        usage: VolumeUsage::Host,
        parity_group: Some(parity_group),
        is_carved: false,
        size_bytes: new.size_bytes,
        block_size_bytes: new.block_size_bytes,
        is_thin: new.is_thin,
        cache: new.cache,
    });
    Ok(Outcome::Created { number })
}

pub(super) fn create_target(tables: &mut Tables, new: &NewTarget) -> Result<Outcome, Refusal> {
    if tables.targets.get(&new.iqn).is_some() {
        return Err(Refusal::exists("target", &new.iqn));
    }
    within(tables.targets.len(), TARGETS_MAX, "targets")?;
    tables.targets.put(TargetRecord {
        iqn: new.iqn.clone(),
        luns: Vec::new(),
        initiators: new.initiators.clone(),
        chap: new.chap.clone(),
    });
    for (lun, volume) in &new.luns {
        map_lun(tables, &new.iqn, *lun, volume)?;
    }
    Ok(Outcome::Done)
}

pub(super) fn map_lun(
    tables: &mut Tables,
    target: &IscsiName,
    lun: Lun,
    volume: &VolumeName,
) -> Result<Outcome, Refusal> {
    let found = tables.volume_named(volume).ok_or_else(|| Refusal::missing("volume", volume))?;
    if found.usage != VolumeUsage::Host {
        return Err(Refusal::conflict(format!("{volume} is a journal volume, which hosts never see")));
    }
    let volume = found.number;
    let row = tables.targets.edit(target).ok_or_else(|| Refusal::missing("target", target))?;
    if row.luns.iter().any(|entry| entry.lun == lun) {
        return Err(Refusal::exists("LUN", lun));
    }
    within(row.luns.len(), LUNS_MAX, "LUNs of a target")?;
    row.luns.push(LunRecord { lun, volume });
    row.luns.sort_by_key(|entry| entry.lun);
    Ok(Outcome::Done)
}

pub(super) fn create_link(tables: &mut Tables, new: &NewLink) -> Result<Outcome, Refusal> {
    if tables.links.get(&new.name).is_some() {
        return Err(Refusal::exists("link", &new.name));
    }
    within(tables.links.len(), LINKS_MAX, "links")?;
    if new.array == tables.meta().number {
        return Err(Refusal::conflict(format!("{} is this array's own number", new.array)));
    }
    if let Some(other) = tables.link_to(new.array) {
        return Err(Refusal::conflict(format!("link {} leads to array {} already", other.name, new.array)));
    }
    tables.links.put(LinkRecord {
        name: new.name.clone(),
        array: new.array,
        portals: new.portals.clone(),
        secret: new.secret.clone(),
        schedule: new.schedule,
    });
    Ok(Outcome::Done)
}

pub(super) fn set_schedule(
    tables: &mut Tables,
    link: &LinkName,
    group: &GroupName,
    schedule: Schedule,
) -> Result<Outcome, Refusal> {
    if tables.links.get(link).is_none() {
        return Err(Refusal::missing("link", link));
    }
    within(tables.schedules.len(), SCHEDULES_MAX, "schedules")?;
    tables.schedules.put(ScheduleRecord { link: link.clone(), group: group.clone(), schedule });
    Ok(Outcome::Done)
}

/// A number for a new object.
pub(super) fn number(tables: &mut Tables) -> Result<u32, Refusal> {
    tables.next_number().ok_or_else(|| Refusal::conflict("this array has given all its numbers"))
}

/// One more is possible.
pub(super) fn within(count: usize, limit: usize, what: &str) -> Result<(), Refusal> {
    if count < limit { Ok(()) } else { Err(Refusal::Limit { what: what.to_owned(), limit }) }
}

/// Units of one parity group; more are refused.
const UNITS_MAX: usize = 16;
/// Parity groups; more are refused.
const PARITY_GROUPS_MAX: usize = 256;
/// Volumes; more are refused.
const VOLUMES_MAX: usize = 1_024;
/// Targets; more are refused.
const TARGETS_MAX: usize = 1_024;
/// LUNs of one target; more are refused.
const LUNS_MAX: usize = 1_024;
/// Links; more are refused. One for every reader that can be.
const LINKS_MAX: usize = 64;
/// Schedules of single groups; more are refused.
const SCHEDULES_MAX: usize = 4_096;
