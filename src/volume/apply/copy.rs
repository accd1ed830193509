//! Designations of copies: groups, journal volumes, pairs, start (figure 10), at the primary and, in the `remote_`
//! forms, at the auxiliary.
//!
//! Journal volumes and pairs may be catalogued in either order; the first of them that concerns another array makes
//! the group known there. What a peer says is believed only about groups that it is the source of.

use super::cascade;
use super::copy_mode::{check_copy_mode, copy_mode};
use super::local::{number, within};
use super::members;
use super::shown;
use crate::volume::designation::{Designation, DesignationId, Outcome, Refusal, RemoteGroup, RemotePair};
use crate::volume::group::{Generation, GroupEvent, GroupRecord, GroupRole, GroupSettings, GroupState};
use crate::volume::kind::{CopyMode, SvolSpec};
use crate::volume::name::{
    ArrayNumber, GroupName, GroupNumber, LinkName, PairName, PairNumber, UpdateNumber, VolumeName,
    VolumeNumber,
};
use crate::volume::pair::{PairControl, PairEvent, PairRecord, PairSide, PairState};
use crate::volume::record::{ReaderRecord, VolumeRecord, VolumeState, VolumeUsage, Who};
use crate::volume::table::Tables;
use crate::volume::timing::StopWish;

/// A pair to make, at its primary.
pub(super) struct NewPair<'a> {
    pub(super) name: &'a PairName,
    pub(super) group: &'a GroupName,
    pub(super) pvol: &'a VolumeName,
    pub(super) svol: &'a SvolSpec,
    pub(super) copy: CopyMode,
}

pub(super) fn create_group(
    tables: &mut Tables,
    id: DesignationId,
    name: &GroupName,
    settings: GroupSettings,
) -> Result<Outcome, Refusal> {
    check_settings(&settings)?;
    let array = tables.meta().number;
    // Drawn at random, with the designation: what is said late of an earlier group of this name has nothing in common with it.
    let counter = u64::try_from(id.0.0 >> FIRST_COUNTER_SHIFT).unwrap_or(0).saturating_add(1);
    let generations = vec![Generation { counter, array, first: FIRST_UPDATE }];
    new_group(tables, name, settings, GroupRole::Primary, generations)
}

pub(super) fn create_pair(
    tables: &mut Tables,
    id: DesignationId,
    new: &NewPair<'_>,
) -> Result<Outcome, Refusal> {
    if tables.is_pair_name_taken(new.name) {
        return Err(Refusal::exists("pair", new.name));
    }
    within(tables.pairs.len(), PAIRS_MAX, "pairs")?;
    let serving = cascade::serving_group(tables, new.group)?;
    let group = serving.number;
    let link = tables.links.get(&new.svol.link).ok_or_else(|| Refusal::missing("link", &new.svol.link))?;
    let (link, auxiliary) = (link.name.clone(), link.array);
    let pvol = tables.volume_named(new.pvol).ok_or_else(|| Refusal::missing("volume", new.pvol))?.clone();
    let copy = copy_mode(tables, group, new.copy);
    check_copy_mode(tables, group, pvol.number, copy, &link)?;
    let origin = cascade::origin_of(tables, serving, &pvol, auxiliary)?;
    check_pvol(tables, &pvol, group, auxiliary)?;
    check_svol_is_free(tables, new.svol, auxiliary)?;
    check_size_stays(&pvol)?;
    members::check_group(tables, &pvol, group)?;
    let shared = shown::shared_by(tables, group, copy, &pvol, id)?;
    introduce_reader(tables, id, group, &link)?;
    let pair = PairNumber(number(tables)?);
    let own = tables.meta().number;
    // No two pairs here ever count the same copies.
    let copies = origin.map_or(0, |_| pair.0.wrapping_shl(COPIES_SHIFT) | 1);
    tables.pairs.put(PairRecord {
        number: pair,
        name: new.name.clone(),
        state: created(PairState::Unused),
        reason: None,
        primary: PairSide { array: own, volume: Some(pvol.number), name: Some(pvol.name.clone()) },
        auxiliary: PairSide { array: auxiliary, volume: None, name: Some(new.svol.volume.clone()) },
        group,
        link: link.clone(),
        copy,
        size_bytes: pvol.size_bytes,
        copy_completion_bytes: 0,
        copy_end: UpdateNumber(0),
        control: PairControl { origin, copies, ..PairControl::default() },
        shared: shared.map(|shared| shared.spare),
    });
    tables.note_partner(group, auxiliary, copy);
    if origin.is_none() {
        set_volume_state(tables, pvol.number, VolumeState::Main);
    }
    let designation = Designation::RemotePair(RemotePair {
        name: new.name.clone(),
        group: new.group.clone(),
        pvol: pvol.number,
        pvol_name: pvol.name,
        origin,
        copies,
        svol: new.svol.volume.clone(),
        size_bytes: pvol.size_bytes,
        block_size_bytes: pvol.block_size_bytes,
        copy,
        shared,
    });
    tables.forward(&link, id.caused(1), designation);
    Ok(Outcome::Paired { pair, volume: pvol.number })
}

/// What the group itself knows, the array has looked at (`copy/stop.rs`).
pub(super) fn stop_restore(
    tables: &mut Tables,
    group: &GroupName,
    wish: StopWish,
    for_suspension: bool,
) -> Result<Outcome, Refusal> {
    let Some((number, _)) = copied_group(tables, group)? else {
        return Err(Refusal::conflict(format!("group {group} is not copied here: nothing is restored")));
    };
    let stop = match wish {
        StopWish::GoOn => None,
        StopWish::Now | StopWish::At(_) | StopWish::Bookmark(_) => {
            for pair in tables.followed_pairs(number) {
                if pair.control.svol_write {
                    let text =
                        format!("hosts may write the S-VOL of pair {}: resynchronise it first", pair.name);
                    return Err(Refusal::Conflict(text));
                }
                if !pair.control.is_image {
                    let text =
                        format!("the S-VOL of pair {} is no image yet: say it when it is normal", pair.name);
                    return Err(Refusal::Conflict(text));
                }
            }
            if tables.followed_pairs(number).next().is_none() {
                return Err(Refusal::conflict(format!("group {group} has no S-VOLs here")));
            }
            match wish {
                StopWish::At(stop) => Some(stop),
                // Looked at only.
                StopWish::GoOn | StopWish::Now | StopWish::Bookmark(_) => return Ok(Outcome::Done),
            }
        }
    };
    if let Some(row) = tables.groups.edit(&number) {
        match (stop, for_suspension) {
            (None, _) => (row.restore_stop, row.suspension_stop) = (None, None),
            (Some(_), true) => row.suspension_stop = stop,
            (Some(_), false) => row.restore_stop = stop,
        }
    }
    Ok(Outcome::Done)
}

/// The array has appended it by then, or looks only at whether it may (`copy/bookmark.rs`).
pub(super) fn set_bookmark(tables: &Tables, group: &GroupName) -> Result<Outcome, Refusal> {
    if copied_group(tables, group)?.is_some() {
        return Err(Refusal::conflict(format!(
            "group {group} is copied here: bookmarks are set at its primary, and come from there"
        )));
    }
    Ok(Outcome::Done)
}

pub(super) fn start_group(
    tables: &mut Tables,
    id: DesignationId,
    group: &GroupName,
) -> Result<Outcome, Refusal> {
    if let Some((_, source)) = copied_group(tables, group)? {
        tables.forward_once(&source, id.caused(0), Designation::StartGroup { group: group.clone() });
        return Ok(Outcome::Done);
    }
    let row = primary_group(tables, group)?;
    let number = row.number;
    if row.state != GroupState::Normal {
        return Err(Refusal::conflict(format!("group {group} is {}, not normal", row.state)));
    }
    if row.journals.is_empty() && !tables.is_forwarded(number) {
        return Err(Refusal::conflict(format!("group {group} has no journal volume here")));
    }
    if tables.pairs_of_group(number).next().is_none() {
        return Err(Refusal::conflict(format!("group {group} has no pairs")));
    }
    if let Some(row) = tables.groups.edit(&number) {
        row.is_started = true;
    }
    let links: Vec<LinkName> = tables.readers_of_group(number).map(|reader| reader.link.clone()).collect();
    for (index, link) in links.iter().enumerate() {
        let index = u8::try_from(index).map_err(|_| Refusal::conflict("the group has too many readers"))?;
        tables.forward(link, id.caused(index + 1), Designation::RemoteStart { group: group.clone() });
    }
    Ok(Outcome::Done)
}

pub(super) fn remote_group(tables: &mut Tables, remote: &RemoteGroup, who: &Who) -> Result<Outcome, Refusal> {
    let (source, link) = peer(tables, who)?;
    if remote.generations.is_empty() || remote.generations.len() > GENERATIONS_MAX {
        return Err(Refusal::conflict("a group has at least one generation and not thousands"));
    }
    check_settings(&remote.settings)?;
    let role = GroupRole::Auxiliary { link, source, remote: Some(remote.number) };
    if let Some(known) = tables.group_named(&remote.name) {
        let number = known.number;
        return match &known.role {
            GroupRole::Auxiliary { source: s, remote: Some(r), .. }
                if *s == source && *r == remote.number =>
            {
                Ok(Outcome::Created { number: number.0 })
            }
            // It was made here first and has waited for this.
            GroupRole::Auxiliary { source: s, remote: None, .. } if *s == source => {
                if let Some(row) = tables.groups.edit(&number) {
                    (row.role, row.settings) = (role, remote.settings);
                    row.generations.clone_from(&remote.generations);
                }
                Ok(Outcome::Created { number: number.0 })
            }
            GroupRole::Auxiliary { .. } | GroupRole::Primary => Err(Refusal::exists("group", &remote.name)),
        };
    }
    new_group(tables, &remote.name, remote.settings, role, remote.generations.clone())
}

pub(super) fn remote_pair(tables: &mut Tables, remote: &RemotePair, who: &Who) -> Result<Outcome, Refusal> {
    let group = followed_group(tables, &remote.group, who)?;
    let (source, link) = peer(tables, who)?;
    let own = tables.meta().number;
    if tables.is_pair_name_taken(&remote.name) {
        return Err(Refusal::exists("pair", &remote.name));
    }
    within(tables.pairs.len(), PAIRS_MAX, "pairs")?;
    let svol =
        tables.volume_named(&remote.svol).ok_or_else(|| Refusal::missing("volume", &remote.svol))?.clone();
    // Forwarded writes are like those of hosts: the volume may be a P-VOL itself.
    let is_source = remote.copy == CopyMode::Sync && svol.state == VolumeState::Main;
    if svol.usage != VolumeUsage::Host || !(svol.state == VolumeState::Normal || is_source) {
        let text = format!("volume {} cannot follow another one: it is {}", svol.name, describe(&svol));
        return Err(Refusal::conflict(text));
    }
    if svol.parity_group.is_none() && remote.copy != CopyMode::Sync {
        return Err(Refusal::conflict(format!(
            "volume {} is virtual: there is no place for a copy",
            svol.name
        )));
    }
    if tables.forwarded_here(svol.number).is_some() {
        return Err(Refusal::conflict(format!("writes are forwarded to volume {} already", svol.name)));
    }
    check_size_stays(&svol)?;
    members::check_group(tables, &svol, group)?;
    if (svol.size_bytes, svol.block_size_bytes) != (remote.size_bytes, remote.block_size_bytes) {
        return Err(Refusal::conflict(format!(
            "volume {} has {} bytes in blocks of {}, the P-VOL {} in blocks of {}",
            svol.name, svol.size_bytes, svol.block_size_bytes, remote.size_bytes, remote.block_size_bytes
        )));
    }
    shown::check_remote(tables, &svol, remote)?;
    let pair = PairNumber(number(tables)?);
    tables.pairs.put(PairRecord {
        number: pair,
        name: remote.name.clone(),
        state: created(PairState::Unused),
        reason: None,
        primary: PairSide { array: source, volume: Some(remote.pvol), name: Some(remote.pvol_name.clone()) },
        auxiliary: PairSide { array: own, volume: Some(svol.number), name: Some(svol.name.clone()) },
        group,
        link,
        copy: remote.copy,
        size_bytes: remote.size_bytes,
        copy_completion_bytes: 0,
        copy_end: UpdateNumber(0),
        control: PairControl { origin: remote.origin, copies: remote.copies, ..PairControl::default() },
        shared: remote.shared.map(|shared| shared.spare),
    });
    if let Some(shared) = &remote.shared {
        shown::show(tables, svol.number, shared.shown);
    }
    tables.note_partner(group, source, remote.copy);
    if !is_source {
        set_volume_state(tables, svol.number, VolumeState::Auxiliary);
    }
    Ok(Outcome::Paired { pair, volume: svol.number })
}

pub(super) fn remote_start(
    tables: &mut Tables,
    id: DesignationId,
    group: &GroupName,
    who: &Who,
) -> Result<Outcome, Refusal> {
    let number = followed_group(tables, group, who)?;
    let row = tables.groups.edit(&number).ok_or_else(|| Refusal::missing("group", group))?;
    if matches!(row.role, GroupRole::Auxiliary { remote: None, .. }) {
        return Err(Refusal::conflict(format!("group {group} has not been made known here yet")));
    }
    // Journal volumes may be catalogued later: nothing is read before there is one.
    row.is_started = true;
    cascade::pass_down(tables, number, id, &Designation::RemoteStart { group: group.clone() })?;
    Ok(Outcome::Done)
}

pub(super) fn new_group(
    tables: &mut Tables,
    name: &GroupName,
    settings: GroupSettings,
    role: GroupRole,
    generations: Vec<Generation>,
) -> Result<Outcome, Refusal> {
    if tables.group_named(name).is_some() {
        return Err(Refusal::exists("group", name));
    }
    within(tables.groups.len(), GROUPS_MAX, "groups")?;
    let number = number(tables)?;
    tables.groups.put(GroupRecord {
        number: GroupNumber(number),
        name: name.clone(),
        state: GroupState::Unused.after(GroupEvent::Create).unwrap_or(GroupState::Normal),
        reason: None,
        role,
        is_started: false,
        is_leaving: false,
        settings,
        members: Vec::new(),
        journals: Vec::new(),
        remote_journals: Vec::new(),
        next_update_number: FIRST_UPDATE,
        generations,
        segments: Vec::new(),
        resume: None,
        reads_again: UpdateNumber(0),
        journal_first: FIRST_UPDATE,
        stopped_cleanly: false,
        reading_stopped: None,
        other_source: None,
        reversal: None,
        followed_counter: 0,
        takeover: None,
        seen_counter: 0,
        named_counter: 0,
        ahead: Vec::new(),
        inherited: None,
        judged: Vec::new(),
        former: Vec::new(),
        attempts: 0,
        at_least: None,
        rivals: Vec::new(),
        compared: Vec::new(),
        comparing: None,
        compare_schedule: None,
        partner: None,
        dropped: Vec::new(),
        freed: None,
        restore_stop: None,
        suspension_stop: None,
        keep_images: None,
        rewinding: None,
        suspension_is_accepted: false,
        is_together: false,
        goes_alone: false,
    });
    Ok(Outcome::Created { number })
}

/// The state of a pair that has just been catalogued.
fn created(state: PairState) -> PairState {
    state.after(PairEvent::Create).unwrap_or(PairState::NotYetCopied)
}

pub(super) fn primary_group<'t>(tables: &'t Tables, name: &GroupName) -> Result<&'t GroupRecord, Refusal> {
    let group = tables.group_named(name).ok_or_else(|| Refusal::missing("group", name))?;
    match &group.role {
        GroupRole::Primary => Ok(group),
        GroupRole::Auxiliary { link, .. } => {
            Err(Refusal::conflict(format!("group {name} is a copy here; say it at the array behind {link}")))
        }
    }
}

/// The group of this name if it is a copy here, with the link to its source.
pub(super) fn copied_group(
    tables: &Tables,
    name: &GroupName,
) -> Result<Option<(GroupNumber, LinkName)>, Refusal> {
    let group = tables.group_named(name).ok_or_else(|| Refusal::missing("group", name))?;
    Ok(match &group.role {
        GroupRole::Primary => None,
        GroupRole::Auxiliary { link, .. } => Some((group.number, link.clone())),
    })
}

/// Settings that the copy can work with, wherever they come from.
pub(super) fn check_settings(settings: &GroupSettings) -> Result<(), Refusal> {
    if !(1..=READ_UPDATES_MAX).contains(&settings.read_updates) {
        return Err(Refusal::conflict(format!("a journal read has 1 to {READ_UPDATES_MAX} updates")));
    }
    let pages =
        |bytes: u64, least: u64, most: u64| (least..=most).contains(&bytes) && bytes.is_multiple_of(4_096);
    if !pages(settings.read_bytes, 4 << 10, 4 << 20) {
        return Err(Refusal::conflict("a journal read has 4KiB to 4MiB, a multiple of 4KiB"));
    }
    // One unit is one update, and an update has at most 256 ranges: as many as 1 MiB has pages.
    if !pages(settings.copy_unit_bytes, 64 << 10, 1 << 20) {
        return Err(Refusal::conflict("the unit of the initial copy is 64KiB to 1MiB, a multiple of 4KiB"));
    }
    shown::check_settings(settings)
}

/// The group of this name that this array copies from the peer who speaks.
pub(super) fn followed_group(tables: &Tables, name: &GroupName, who: &Who) -> Result<GroupNumber, Refusal> {
    let (array, _) = peer(tables, who)?;
    let group = tables.group_named(name).ok_or_else(|| Refusal::missing("group", name))?;
    match &group.role {
        GroupRole::Auxiliary { source, .. } if *source == array => Ok(group.number),
        GroupRole::Auxiliary { .. } | GroupRole::Primary => {
            Err(Refusal::conflict(format!("group {name} is not copied from array {array} here")))
        }
    }
}

/// The array that speaks, and our link to it.
pub(super) fn peer(tables: &Tables, who: &Who) -> Result<(ArrayNumber, LinkName), Refusal> {
    let Who::Peer { array, .. } = who else {
        return Err(Refusal::conflict("only another array designates this"));
    };
    let link = tables.link_to(*array).ok_or_else(|| Refusal::missing("link to array", array))?;
    Ok((*array, link.name.clone()))
}

/// Makes the group known behind `link`, once.
pub(super) fn introduce_reader(
    tables: &mut Tables,
    id: DesignationId,
    group: GroupNumber,
    link: &LinkName,
) -> Result<(), Refusal> {
    let array = tables.links.get(link).ok_or_else(|| Refusal::missing("link", link))?.array;
    if let Some(reader) = tables.readers.get(&(group, array)) {
        let text = if reader.is_attached {
            format!("{link} reads the group here as a copy of another array")
        } else {
            format!("{link} is being taken away from the group")
        };
        return if reader.is_leaving || reader.is_attached { Err(Refusal::conflict(text)) } else { Ok(()) };
    }
    within(tables.all_readers_of_group(group).count(), READERS_MAX, "readers of a group")?;
    let Some(row) = tables.groups.get(&group) else { return Err(Refusal::missing("group", group)) };
    let (is_started, name) = (row.is_started, row.name.clone());
    let remote = RemoteGroup {
        name: name.clone(),
        number: group,
        settings: row.settings,
        generations: row.generations.clone(),
    };
    let since = row.generations.last().map_or(0, |newest| newest.counter);
    tables.readers.put(ReaderRecord { since, ..ReaderRecord::new(group, array, link.clone()) });
    tables.is_no_rival(group, Some(array));
    if let Some(row) = tables.groups.edit(&group) {
        row.dropped.retain(|known| known != link);
    }
    // That an earlier reader of this name was forgotten means it no more.
    tables.forget_forwards(link, |what| *what == Designation::RemoteDeleteGroup { group: name.clone() });
    tables.forward(link, id.caused(0), Designation::RemoteGroup(remote));
    if is_started {
        // A reader that joins a running group has been started before it has a journal volume.
        tables.forward(link, id.caused(2), Designation::RemoteStart { group: name });
    }
    Ok(())
}

/// A pair is made of volumes whose sizes are known.
fn check_size_stays(volume: &VolumeRecord) -> Result<(), Refusal> {
    match &volume.growth {
        None => Ok(()),
        Some(growth) => Err(Refusal::conflict(format!(
            "volume {} is growing to {} bytes: say it again then",
            volume.name, growth.to_bytes
        ))),
    }
}

fn check_pvol(
    tables: &Tables,
    pvol: &VolumeRecord,
    group: GroupNumber,
    auxiliary: ArrayNumber,
) -> Result<(), Refusal> {
    let forwarded = tables.forwarded_here(pvol.number).map(|pair| pair.number);
    let is_usable = match pvol.state {
        VolumeState::Normal | VolumeState::Main => true,
        // In the middle of a cascade; `origin_of` has looked at it.
        VolumeState::Auxiliary => forwarded.is_some() || tables.pair_above(group, pvol.number).is_some(),
        VolumeState::Abnormal | VolumeState::Unused => forwarded.is_some(),
    };
    if pvol.usage != VolumeUsage::Host || !is_usable {
        let text = format!("volume {} cannot be a P-VOL: it is {}", pvol.name, describe(pvol));
        return Err(Refusal::conflict(text));
    }
    for pair in tables.pairs_of_volume(pvol.number).filter(|pair| tables.is_served(pair)) {
        if pair.group != group {
            let text = format!("volume {} is in another group, by pair {}", pvol.name, pair.name);
            return Err(Refusal::conflict(text));
        }
        if pair.auxiliary.array == auxiliary {
            let text = format!("volume {} has a copy there already, by pair {}", pvol.name, pair.name);
            return Err(Refusal::conflict(text));
        }
    }
    Ok(())
}

fn check_svol_is_free(tables: &Tables, svol: &SvolSpec, auxiliary: ArrayNumber) -> Result<(), Refusal> {
    let is_taken = |pair: &&PairRecord| {
        pair.auxiliary.array == auxiliary && pair.auxiliary.name.as_ref() == Some(&svol.volume)
    };
    match tables.pairs.iter().find(is_taken) {
        Some(pair) => {
            Err(Refusal::conflict(format!("{svol} follows another volume already, by pair {}", pair.name)))
        }
        None => Ok(()),
    }
}

pub(super) fn set_volume_state(tables: &mut Tables, volume: VolumeNumber, state: VolumeState) {
    if let Some(row) = tables.volumes.edit(&volume) {
        row.state = state;
    }
}

pub(super) fn describe(volume: &VolumeRecord) -> String {
    match volume.usage {
        VolumeUsage::Journal(_) => "a journal volume".to_owned(),
        VolumeUsage::Snapshot(_) => "of a snapshot".to_owned(),
        VolumeUsage::Host if volume.parity_group.is_none() => "virtual".to_owned(),
        VolumeUsage::Host => volume.state.to_string(),
    }
}

/// The first number that a group gives (mission row A4).
const FIRST_UPDATE: UpdateNumber = UpdateNumber(1);
/// Updates of one journal read; more are refused.
const READ_UPDATES_MAX: u32 = 65_536;
/// Groups; more are refused.
const GROUPS_MAX: usize = 256;
/// Pairs; more are refused.
const PAIRS_MAX: usize = 16_384;
/// The first counter of a group has 30 bits of the designation's identity; journals have 32 bits for all that follow.
const FIRST_COUNTER_SHIFT: u32 = 98;
/// Arrays that read one group; more are refused.
pub(super) const READERS_MAX: usize = 64;
/// Copies of a pair are counted from its number times two to the power of this.
const COPIES_SHIFT: u32 = 12;
/// Generations that a peer may tell; more are refused.
const GENERATIONS_MAX: usize = 1_024;
