//! Designations that concern this array alone: parity groups, volumes, targets, LUNs, links, schedules.

use crate::volume::designation::{
    Designation, DesignationId, LinkSettings, NewLink, NewParityGroup, NewTarget, NewVolume, Outcome, Refusal,
};
use crate::volume::group::GroupRole;
use crate::volume::kind::{InitiatorRule, RaidLevel, Schedule};
use crate::volume::name::{GroupName, IscsiName, LinkName, Lun, ParityGroupNumber, VolumeName, VolumeNumber};
use crate::volume::record::{
    DoomedRecord, LinkRecord, LunRecord, ParityGroupRecord, ScheduleRecord, TargetRecord, VolumeRecord,
    VolumeState, VolumeUsage,
};
use crate::volume::reversal::ReversalStep;
use crate::volume::table::Tables;
use crate::volume::transfer::{CONNECTIONS_MAX, LinkOptions, WINDOWS_MAX};

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
    if level == RaidLevel::Raid10 && count % 2 == 1 {
        return Err(Refusal::conflict(format!("raid10 needs an even number of units, not {count}")));
    }
    let stripe = new.stripe_unit_bytes;
    if !stripe.is_power_of_two() || !(STRIPE_UNIT_BYTES_MIN..=STRIPE_UNIT_BYTES_MAX).contains(&stripe) {
        return Err(Refusal::conflict("the stripe unit is a power of two from 4KiB to 16MiB"));
    }
    for size in new.units.iter().chain(&new.spares).filter_map(|unit| unit.size_bytes) {
        if !(UNIT_BYTES_MIN..=UNIT_BYTES_MAX).contains(&size) || !size.is_multiple_of(4_096) {
            return Err(Refusal::conflict("the size of a unit is 16MiB to 1024TiB, a multiple of 4KiB"));
        }
    }
    for (index, unit) in new.units.iter().chain(&new.spares).enumerate() {
        if new.units.iter().chain(&new.spares).skip(index + 1).any(|other| other.path == unit.path) {
            return Err(Refusal::exists("unit", unit.path.display()));
        }
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
    let is_own = |row: &&VolumeRecord| !matches!(row.usage, VolumeUsage::Snapshot(_));
    within(tables.volumes.iter().filter(is_own).count(), VOLUMES_MAX, "volumes")?;
    let parity_group = match &new.parity_group {
        Some(name) => {
            let group = tables.parity_group_named(name);
            Some(group.ok_or_else(|| Refusal::missing("parity group", name))?.number)
        }
        None if new.is_thin => {
            return Err(Refusal::conflict("a virtual volume takes no extents: it is not thin"));
        }
        None => None,
    };
    if !(VOLUME_BYTES_MIN..=VOLUME_BYTES_MAX).contains(&new.size_bytes)
        || !new.size_bytes.is_multiple_of(4_096)
    {
        return Err(Refusal::conflict("the size of a volume is 1MiB to 256TiB, a multiple of 4KiB"));
    }
    if !matches!(new.block_size_bytes, 512 | 4_096) {
        return Err(Refusal::conflict("the block size of a volume is 512 or 4096"));
    }
    let number = number(tables)?;
    tables.volumes.put(VolumeRecord {
        number: VolumeNumber(number),
        name: new.name.clone(),
        identity: new.identity,
        shown: None,
        state: VolumeState::Normal,
        reason: None,
        usage: VolumeUsage::Host,
        parity_group,
        is_carved: false,
        size_bytes: new.size_bytes,
        growth: None,
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
    if let Some(chap) = &new.chap {
        let users = [Some(&chap.initiator), chap.mutual.as_ref()];
        let is_name =
            |user: &str| (1..=CHAP_USER_MAX_BYTES).contains(&user.len()) && !user.contains(char::is_control);
        if users.into_iter().flatten().any(|credential| !is_name(&credential.user)) {
            return Err(Refusal::conflict(format!(
                "a CHAP name has 1 to {CHAP_USER_MAX_BYTES} printable bytes"
            )));
        }
        // RFC 7143 section 12.1.3: an initiator could otherwise reflect the target's own challenge.
        if chap.mutual.as_ref().is_some_and(|mutual| mutual.secret == chap.initiator.secret) {
            return Err(Refusal::conflict("the target's own secret must differ from the initiator's"));
        }
    }
    if new.initiators.len() > INITIATORS_MAX {
        return Err(Refusal::Limit { what: "initiators of a target".into(), limit: INITIATORS_MAX });
    }
    tables.targets.put(TargetRecord {
        iqn: new.iqn.clone(),
        luns: Vec::new(),
        initiators: new.initiators.clone(),
        chap: new.chap.clone(),
    });
    for (lun, volume) in &new.luns {
        map_lun(tables, &new.iqn, *lun, volume, &[])?;
    }
    for (lun, readers) in &new.read_only_for {
        set_lun(tables, &new.iqn, *lun, readers)?;
    }
    Ok(Outcome::Done)
}

/// LUNs of targets.
pub(super) fn dispatch_luns(tables: &mut Tables, what: &Designation) -> Result<Outcome, Refusal> {
    match what {
        Designation::MapLun { target, lun, volume, read_only_for } => {
            map_lun(tables, target, *lun, volume, read_only_for)
        }
        Designation::SetLun { target, lun, read_only_for } => set_lun(tables, target, *lun, read_only_for),
        Designation::UnmapLun { target, lun } => unmap_lun(tables, target, *lun),
        other => Err(Refusal::conflict(format!("{other}: no designation of a LUN"))),
    }
}

fn map_lun(
    tables: &mut Tables,
    target: &IscsiName,
    lun: Lun,
    volume: &VolumeName,
    read_only_for: &[InitiatorRule],
) -> Result<Outcome, Refusal> {
    few_readers(read_only_for)?;
    let found = tables.volume_named(volume).ok_or_else(|| Refusal::missing("volume", volume))?;
    if matches!(found.usage, VolumeUsage::Journal(_)) {
        return Err(Refusal::conflict(format!("{volume} is a journal volume, which hosts never see")));
    }
    let volume = found.number;
    let row = tables.targets.edit(target).ok_or_else(|| Refusal::missing("target", target))?;
    if row.luns.iter().any(|entry| entry.lun == lun) {
        return Err(Refusal::exists("LUN", lun));
    }
    within(row.luns.len(), LUNS_MAX, "LUNs of a target")?;
    row.luns.push(LunRecord { lun, volume, read_only_for: read_only_for.to_vec() });
    row.luns.sort_by_key(|entry| entry.lun);
    Ok(Outcome::Done)
}

fn set_lun(
    tables: &mut Tables,
    target: &IscsiName,
    lun: Lun,
    read_only_for: &[InitiatorRule],
) -> Result<Outcome, Refusal> {
    few_readers(read_only_for)?;
    let row = tables.targets.edit(target).ok_or_else(|| Refusal::missing("target", target))?;
    let mut entries = row.luns.iter_mut();
    let entry = entries.find(|entry| entry.lun == lun).ok_or_else(|| Refusal::missing("LUN", lun))?;
    entry.read_only_for = read_only_for.to_vec();
    Ok(Outcome::Done)
}

fn few_readers(read_only_for: &[InitiatorRule]) -> Result<(), Refusal> {
    if read_only_for.len() <= INITIATORS_MAX {
        return Ok(());
    }
    Err(Refusal::Limit { what: "initiators that may only read a LUN".into(), limit: INITIATORS_MAX })
}

fn unmap_lun(tables: &mut Tables, target: &IscsiName, lun: Lun) -> Result<Outcome, Refusal> {
    let row = tables.targets.edit(target).ok_or_else(|| Refusal::missing("target", target))?;
    let before = row.luns.len();
    row.luns.retain(|entry| entry.lun != lun);
    if row.luns.len() == before { Err(Refusal::missing("LUN", lun)) } else { Ok(Outcome::Done) }
}

/// Who needs a volume, in words: nobody when empty.
fn users_of_volume(tables: &Tables, volume: &VolumeRecord) -> Vec<String> {
    let mut users = Vec::new();
    for target in tables.targets.iter() {
        let luns = target.luns.iter().filter(|lun| lun.volume == volume.number);
        users.extend(luns.map(|lun| format!("LUN {} of target {}", lun.lun, target.iqn)));
    }
    users.extend(tables.pairs_of_volume(volume.number).map(|pair| format!("pair {}", pair.name)));
    users.extend(tables.group_of_member(volume.number).map(|group| format!("group {}", group.name)));
    if let VolumeUsage::Journal(group) = volume.usage {
        let name =
            tables.groups.get(&group).map_or_else(|| group.to_string(), |group| group.name.to_string());
        users.push(format!("group {name}, whose journal it is"));
    }
    if let VolumeUsage::Snapshot(snapshot) = volume.usage
        && let Some(snapshot) = tables.snapshots.get(&snapshot)
    {
        users.push(format!("snapshot {}, to which it belongs", snapshot.name));
    }
    users
}

fn unused(what: &str, name: &dyn std::fmt::Display, users: &[String]) -> Result<(), Refusal> {
    if users.is_empty() {
        return Ok(());
    }
    let (named, more) = users.split_at(users.len().min(USERS_NAMED));
    let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
    Err(Refusal::conflict(format!("{what} {name} is used by {}{more}", named.join(", "))))
}

pub(super) fn rename_volume(
    tables: &mut Tables,
    volume: &VolumeName,
    name: &VolumeName,
) -> Result<Outcome, Refusal> {
    let row = tables.volume_named(volume).ok_or_else(|| Refusal::missing("volume", volume))?;
    let number = row.number;
    // Targets know it by its number; groups and other arrays know it by its name.
    let users = users_of_volume(tables, row);
    let users: Vec<String> = users.into_iter().filter(|user| !user.starts_with("LUN ")).collect();
    unused("volume", volume, &users)?;
    if tables.volume_named(name).is_some() {
        return Err(Refusal::exists("volume", name));
    }
    if let Some(row) = tables.volumes.edit(&number) {
        row.name = name.clone();
    }
    Ok(Outcome::Done)
}

pub(super) fn delete_volume(tables: &mut Tables, volume: &VolumeName) -> Result<Outcome, Refusal> {
    let row = tables.volume_named(volume).ok_or_else(|| Refusal::missing("volume", volume))?;
    unused("volume", volume, &users_of_volume(tables, row))?;
    let (number, parity_group) = (row.number, row.parity_group);
    tables.volumes.remove(&number);
    tables.doomed.put(DoomedRecord { number, parity_group, reserved_in: None });
    Ok(Outcome::Done)
}

pub(super) fn delete_target(tables: &mut Tables, target: &IscsiName) -> Result<Outcome, Refusal> {
    if tables.targets.remove(target) { Ok(Outcome::Done) } else { Err(Refusal::missing("target", target)) }
}

pub(super) fn delete_link(tables: &mut Tables, link: &LinkName) -> Result<Outcome, Refusal> {
    if tables.relays.remove(link) {
        tables.relay_chains.remove(link);
        tables.forget_relay_words(link);
        return Ok(Outcome::Done); // What still comes over it comes from the source itself.
    }
    let array = tables.links.get(link).ok_or_else(|| Refusal::missing("link", link))?.array;
    let mut users: Vec<String> = Vec::new();
    for group in tables.groups.iter() {
        let is_source = matches!(&group.role, GroupRole::Auxiliary { link: over, .. } if over == link);
        let is_reader = tables.readers.get(&(group.number, array)).is_some();
        let is_source = is_source || group.other_source.as_ref().is_some_and(|other| other.link == *link);
        let has_journal = group.remote_journals.iter().any(|journal| journal.link == *link);
        let will_be_read = match group.reversal.as_ref().map(|reversal| &reversal.step) {
            Some(ReversalStep::TakingOver(told)) => told.others.iter().any(|other| other.array == array),
            _ => false,
        };
        if is_source || is_reader || has_journal || will_be_read {
            users.push(format!("group {}", group.name));
        }
    }
    users.extend(
        tables.pairs.iter().filter(|pair| pair.link == *link).map(|pair| format!("pair {}", pair.name)),
    );
    unused("link", link, &users)?;
    let on_their_way: Vec<u64> = tables.forwards_to(link).map(|forward| forward.sequence).collect();
    on_their_way.iter().for_each(|sequence| {
        tables.forwards.remove(sequence);
    });
    let schedules: Vec<_> = tables.schedules.iter().filter(|row| row.link == *link).cloned().collect();
    schedules.iter().for_each(|row| {
        tables.schedules.remove(&(row.link.clone(), row.group.clone()));
    });
    tables.links.remove(link);
    tables.asks_nobody_to_join(array);
    Ok(Outcome::Done)
}

pub(super) fn create_link(tables: &mut Tables, id: DesignationId, new: &NewLink) -> Result<Outcome, Refusal> {
    if tables.links.get(&new.name).is_some() || tables.relays.get(&new.name).is_some() {
        return Err(Refusal::exists("link", &new.name));
    }
    within(tables.links.len(), LINKS_MAX, "links")?;
    if new.array == tables.meta().number {
        return Err(Refusal::conflict(format!("{} is this array's own number", new.array)));
    }
    if let Some(other) = tables.link_to(new.array) {
        return Err(Refusal::conflict(format!("link {} leads to array {} already", other.name, new.array)));
    }
    check_portals(new.portals.len())?;
    check_options(&new.options)?;
    tables.links.put(LinkRecord {
        name: new.name.clone(),
        array: new.array,
        portals: new.portals.clone(),
        secret: new.secret.clone(),
        schedule: new.schedule,
        options: new.options.clone(),
    });
    tables.tell_takeovers_to(&new.name, new.array, id);
    Ok(Outcome::Done)
}

pub(super) fn set_link(
    tables: &mut Tables,
    link: &LinkName,
    settings: &LinkSettings,
) -> Result<Outcome, Refusal> {
    let old = tables.links.get(link).cloned().ok_or_else(|| Refusal::missing("link", link))?;
    let portals = settings.portals.clone().unwrap_or_else(|| old.portals.clone());
    let (options, schedule) = (settings.options(&old.options), settings.schedule(old.schedule));
    check_portals(portals.len())?;
    check_options(&options)?;
    tables.links.put(LinkRecord { portals, options, schedule, ..old });
    Ok(Outcome::Done)
}

pub(super) fn check_portals(count: usize) -> Result<(), Refusal> {
    if (1..=PORTALS_MAX).contains(&count) {
        return Ok(());
    }
    Err(Refusal::conflict(format!("a link has 1 to {PORTALS_MAX} portals")))
}

fn check_options(options: &LinkOptions) -> Result<(), Refusal> {
    if !(1..=CONNECTIONS_MAX).contains(&options.connections) {
        return Err(Refusal::conflict(format!("a link has 1 to {CONNECTIONS_MAX} connections")));
    }
    within(options.windows.len(), WINDOWS_MAX + 1, "windows of a link")
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

/// Users of an object that a refusal names; more are counted.
const USERS_NAMED: usize = 8;
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
/// Portals of one link; more are refused.
const PORTALS_MAX: usize = 16;
/// Initiators that a target names; more are refused.
const INITIATORS_MAX: usize = 1_024;
/// The longest CHAP name.
const CHAP_USER_MAX_BYTES: usize = 255;
const VOLUME_BYTES_MIN: u64 = 1 << 20;
/// The largest volume that is tested.
pub(super) const VOLUME_BYTES_MAX: u64 = 256 << 40;
const STRIPE_UNIT_BYTES_MIN: u64 = 4 << 10;
const STRIPE_UNIT_BYTES_MAX: u64 = 16 << 20;
/// Superblock, logs and maps take up to a quarter of a smaller unit.
const UNIT_BYTES_MIN: u64 = 16 << 20;
const UNIT_BYTES_MAX: u64 = 1 << 50;
