//! Designations that one array gives and another carries out: what an operator has passed on, and figure 10 begun at
//! the auxiliary.
//!
//! Whichever side a step is said at, the primary catalogues and the auxiliary carries out what the primary then passes
//! to it: there is one way in which a pair comes to be, and no step leaves two arrays with halves of it. Groups and
//! journal volumes of the auxiliary's own are catalogued at once where they are said, and the primary is told.

use super::cascade;
use super::copy::{
    check_settings, copied_group, describe, followed_group, introduce_reader, new_group, peer, primary_group,
};
use super::journals::{REMOTE_JOURNALS_MAX, add_remote_journal, catalogue_journal};
use super::local::within;
use crate::volume::designation::{Designation, DesignationId, Outcome, Refusal, SettingsChange};
use crate::volume::group::{GroupRole, GroupSettings, JournalOptions, RemoteJournal};
use crate::volume::kind::{
    CopyMode, FENCE_WAIT_DEFAULT, Fence, IdentityChoice, NoRoom, Release, ReleaseBy, SvolAccess, SvolSpec,
    WhenOvertaken,
};
use crate::volume::name::{GroupName, GroupNumber, LinkName, PairName, VolumeName};
use crate::volume::record::{VolumeState, VolumeUsage, Who};
use crate::volume::table::Tables;

/// A pair to make, said at its auxiliary.
pub(super) struct FollowedPair<'a> {
    pub(super) name: &'a PairName,
    pub(super) group: &'a GroupName,
    pub(super) link: &'a LinkName,
    pub(super) pvol: &'a VolumeName,
    pub(super) svol: &'a VolumeName,
    pub(super) copy: CopyMode,
}

/// An operator has something designated at the array behind a link.
pub(super) fn pass_on(
    tables: &mut Tables,
    id: DesignationId,
    link: &LinkName,
    what: &Designation,
) -> Result<Outcome, Refusal> {
    if tables.links.get(link).is_none() {
        return Err(Refusal::missing("link", link));
    }
    if !what.may_be_passed_on() {
        return Err(Refusal::conflict("this is said at the array itself, not passed on"));
    }
    within(tables.forwards.len(), FORWARDS_MAX, "designations on their way")?;
    tables.forward_once(link, id.caused(0), what.clone());
    Ok(Outcome::Done)
}

/// Step 900 at the primary, for the auxiliary.
pub(super) fn introduce_group(
    tables: &mut Tables,
    id: DesignationId,
    group: &GroupName,
    link: &LinkName,
) -> Result<Outcome, Refusal> {
    let number = cascade::serving_group(tables, group)?.number;
    let array = tables.links.get(link).ok_or_else(|| Refusal::missing("link", link))?.array;
    if tables.readers.get(&(number, array)).is_some() {
        return Err(Refusal::exists("reader", format!("{link} of group {group}")));
    }
    introduce_reader(tables, id, number, link)?;
    Ok(Outcome::Done)
}

/// Step 900 at the auxiliary itself: the group is there at once, and its primary is asked to make it known.
pub(super) fn follow_group(
    tables: &mut Tables,
    id: DesignationId,
    group: &GroupName,
    link: &LinkName,
) -> Result<Outcome, Refusal> {
    let source = tables.links.get(link).ok_or_else(|| Refusal::missing("link", link))?.array;
    let role = GroupRole::Auxiliary { link: link.clone(), source, remote: None };
    // What its primary chose comes with the answer; nothing is read before.
    let outcome = new_group(tables, group, UNKNOWN_SETTINGS, role, Vec::new())?;
    tables.forward(link, id.caused(0), Designation::JoinGroup { group: group.clone() });
    Ok(outcome)
}

/// Step 910 at the auxiliary itself: what this array can see is checked here, then the primary catalogues the pair and
/// passes this array's part back.
pub(super) fn follow_pair(
    tables: &mut Tables,
    id: DesignationId,
    new: &FollowedPair<'_>,
) -> Result<Outcome, Refusal> {
    let Some((_, source)) = copied_group(tables, new.group)? else {
        let text = format!(
            "array {} is the primary of group {}: name the S-VOL as LINK:VOLUME",
            tables.meta().number,
            new.group
        );
        return Err(Refusal::conflict(text));
    };
    if source != *new.link {
        return Err(Refusal::conflict(format!(
            "group {} comes from {source}, not from {}",
            new.group, new.link
        )));
    }
    if tables.is_pair_name_taken(new.name) {
        return Err(Refusal::exists("pair", new.name));
    }
    let svol = tables.volume_named(new.svol).ok_or_else(|| Refusal::missing("volume", new.svol))?;
    if svol.usage != VolumeUsage::Host || svol.state != VolumeState::Normal {
        let text = format!("volume {} cannot follow another one: it is {}", svol.name, describe(svol));
        return Err(Refusal::conflict(text));
    }
    within(tables.forwards.len(), FORWARDS_MAX, "designations on their way")?;
    // A link is called like the array behind it, at the other array too.
    let own = tables
        .meta()
        .name
        .as_str()
        .parse()
        .map_err(|_| Refusal::conflict("this array has no usable name"))?;
    let designation = Designation::CreatePair {
        name: new.name.clone(),
        group: new.group.clone(),
        pvol: new.pvol.clone(),
        svol: SvolSpec { link: own, volume: new.svol.clone() },
        copy: new.copy,
    };
    tables.forward_once(&source, id.caused(0), designation);
    Ok(Outcome::Done)
}

/// Step 920 said at the auxiliary: for itself, and its primary is told; or for its primary.
pub(super) fn add_journal_of_copy(
    tables: &mut Tables,
    id: DesignationId,
    (group, number, source): (&GroupName, GroupNumber, &LinkName),
    (volume, options): (&VolumeName, JournalOptions),
    at: Option<&LinkName>,
) -> Result<Outcome, Refusal> {
    let (group, volume) = (group.clone(), volume.clone());
    match at {
        None => {
            let outcome = catalogue_journal(tables, number, &volume, options)?;
            tables.forward(source, id.caused(0), Designation::JoinJournal { group, volume, options });
            Ok(outcome)
        }
        Some(at) if at == source => {
            within(tables.forwards.len(), FORWARDS_MAX, "designations on their way")?;
            let there = Designation::AddJournal { group, volume, at: None, options };
            tables.forward_once(source, id.caused(0), there);
            Ok(Outcome::Done)
        }
        Some(at) => {
            cascade::serving_group(tables, &group)?;
            add_remote_journal(tables, id, (&group, number), (&volume, options), at)
        }
    }
}

/// What an operator chose for a group changes, at its primary and at every reader.
pub(super) fn set_group(
    tables: &mut Tables,
    id: DesignationId,
    group: &GroupName,
    change: SettingsChange,
) -> Result<Outcome, Refusal> {
    let row = primary_group(tables, group)?;
    let number = row.number;
    let settings = change.applied_to(row.settings);
    check_settings(&settings)?;
    let old = GroupSettings { svol_access: settings.svol_access, ..row.settings };
    if row.is_started && settings != old {
        let text = format!("group {group} is started: only --svol-access can be changed while it runs");
        return Err(Refusal::conflict(text));
    }
    super::shown::check_change(tables, number, &settings)?;
    if let Some(row) = tables.groups.edit(&number) {
        row.settings = settings;
    }
    let links: Vec<LinkName> = tables.readers_of_group(number).map(|reader| reader.link.clone()).collect();
    for (index, link) in links.iter().enumerate() {
        let index = u8::try_from(index).map_err(|_| Refusal::conflict("the group has too many readers"))?;
        tables.forward(
            link,
            id.caused(index),
            Designation::RemoteSettings { group: group.clone(), settings },
        );
    }
    Ok(Outcome::Done)
}

/// An auxiliary asks for a group of this array; it becomes a reader as if this array's operator had said it.
pub(super) fn join_group(
    tables: &mut Tables,
    id: DesignationId,
    group: &GroupName,
    who: &Who,
) -> Result<Outcome, Refusal> {
    let (array, link) = peer(tables, who)?;
    let row = cascade::serving_group(tables, group)?;
    let number = row.number;
    if matches!(row.role, GroupRole::Auxiliary { source, .. } if source == array) {
        return Err(Refusal::conflict(format!("group {group} comes from array {array}")));
    }
    introduce_reader(tables, id, number, &link)?;
    Ok(Outcome::Done)
}

/// An auxiliary tells of its own journal volume.
pub(super) fn join_journal(
    tables: &mut Tables,
    group: &GroupName,
    volume: &VolumeName,
    options: JournalOptions,
    who: &Who,
) -> Result<Outcome, Refusal> {
    let (array, link) = peer(tables, who)?;
    let number = cascade::serving_group(tables, group)?.number;
    if tables.readers.get(&(number, array)).is_none() {
        return Err(Refusal::conflict(format!("array {array} does not copy group {group}")));
    }
    let row = tables.groups.edit(&number).ok_or_else(|| Refusal::missing("group", group))?;
    if !row.remote_journals.iter().any(|journal| journal.is(&link, volume)) {
        within(row.remote_journals.len(), REMOTE_JOURNALS_MAX, "journal volumes at other arrays")?;
        row.remote_journals.push(RemoteJournal { link, volume: volume.clone(), options });
    }
    Ok(Outcome::Done)
}

pub(super) fn remote_settings(
    tables: &mut Tables,
    id: DesignationId,
    group: &GroupName,
    settings: GroupSettings,
    who: &Who,
) -> Result<Outcome, Refusal> {
    check_settings(&settings)?;
    let number = followed_group(tables, group, who)?;
    if let Some(row) = tables.groups.edit(&number) {
        row.settings = settings;
    }
    cascade::pass_down(tables, number, id, &Designation::RemoteSettings { group: group.clone(), settings })?;
    Ok(Outcome::Done)
}

/// What stands in a group whose primary has not spoken yet.
const UNKNOWN_SETTINGS: GroupSettings = GroupSettings {
    svol_access: SvolAccess::None,
    release: Release::Read,
    read_updates: 1_024,
    read_bytes: 1 << 20,
    copy_unit_bytes: 1 << 20,
    throttle: std::time::Duration::ZERO,
    release_by: ReleaseBy::Named,
    no_room: NoRoom::Hold,
    fence: Fence::Never,
    fence_wait: FENCE_WAIT_DEFAULT,
    identity: IdentityChoice::Own,
    overtaken: WhenOvertaken::Wait,
};
/// Designations on their way that operators may add to; more are refused.
pub(super) const FORWARDS_MAX: usize = 4_096;
