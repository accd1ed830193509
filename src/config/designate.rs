//! From declared objects to designations: what a configuration declares and the tables do not have yet.
//!
//! Objects are found by name and never changed or deleted. A start that was interrupted goes on at the next one,
//! because each object is looked for by itself.

use super::provision::{
    Chap, ChapUser, GroupSpec, JournalSpec, LinkSpec, MemberSpec, ParityGroupSpec, Provision, TargetSpec,
    UnitSpec, VolumeSpec,
};
use crate::volume::designation::{Designation, DesignationId, NewLink, NewParityGroup, NewTarget, NewVolume};
use crate::volume::group::{GroupRole, GroupSettings};
use crate::volume::name::GroupName;
use crate::volume::record::{ChapRecord, Credential, Identity, UnitRecord};
use crate::volume::table::Tables;

/// The designations that are missing, in an order in which each finds what it refers to. Identities are drawn from
/// `identity`, which gives a new one at each call.
pub fn missing_designations(
    provision: &Provision,
    tables: &Tables,
    mut identity: impl FnMut() -> Identity,
) -> Vec<(DesignationId, Designation)> {
    let mut missing = Vec::new();
    let groups = provision.parity_groups.iter().filter(|g| tables.parity_group_named(&g.name).is_none());
    missing.extend(groups.map(|group| parity_group(group, &mut identity)));
    let volumes = provision.volumes.iter().filter(|v| tables.volume_named(&v.name).is_none());
    missing.extend(volumes.map(|spec| volume(spec, &mut identity)));
    let targets = provision.targets.iter().filter(|t| tables.targets.get(&t.iqn).is_none());
    missing.extend(targets.map(target));
    missing.extend(provision.links.iter().filter(|l| tables.links.get(&l.name).is_none()).map(link));
    let relays = provision.relays.iter().filter(|relay| tables.relays.get(&relay.name).is_none());
    missing.extend(relays.map(|relay| Designation::CreateRelay(Box::new(relay.clone()))));
    missing.extend(schedules(provision, tables));
    missing.extend(provision.groups.iter().filter(|g| tables.group_named(&g.name).is_none()).map(group));
    missing.extend(provision.members.iter().filter(|m| !is_member(m, tables)).map(member));
    missing.extend(provision.journals.iter().filter(|j| !has_journal(j, tables)).map(journal));
    missing.extend(pairs(provision, tables));
    missing.extend(starts(provision, tables));
    missing.extend(sources(provision, tables));
    missing.extend(kept_images(provision, tables));
    missing.retain(|what| !is_turned_round(provision, tables, what));
    missing.into_iter().map(|designation| (DesignationId(identity()), designation)).collect()
}

/// Whether this concerns a group that was reversed since it was declared, or is just now: what is declared for it is no
/// longer for this array to say.
fn is_turned_round(provision: &Provision, tables: &Tables, what: &Designation) -> bool {
    let (Designation::AddJournal { group, .. }
    | Designation::CreatePair { group, .. }
    | Designation::StartGroup { group }
    | Designation::SetSource { group, .. }
    | Designation::KeepImages { group, .. }) = what
    else {
        return false;
    };
    let Some(row) = tables.group_named(group) else { return false };
    let declared = provision.groups.iter().find(|spec| spec.name == *group);
    let is_declared_primary = declared.is_some_and(|spec| spec.source.is_none());
    let is_primary = row.role == GroupRole::Primary;
    let is_turning = row.reversal.is_some() || row.takeover.is_some();
    is_turning || (declared.is_some() && is_declared_primary != is_primary)
}

fn parity_group(spec: &ParityGroupSpec, identity: &mut impl FnMut() -> Identity) -> Designation {
    let mut unit = |unit: &UnitSpec| UnitRecord {
        identity: identity(),
        path: unit.path.clone(),
        size_bytes: unit.size.map(|size| size.0),
        is_ours: false,
    };
    let units = spec.units.iter().map(&mut unit).collect();
    let spares = spec.spares.iter().map(&mut unit).collect();
    Designation::CreateParityGroup(NewParityGroup {
        name: spec.name.clone(),
        identity: identity(),
        level: spec.level,
        stripe_unit_bytes: spec.stripe_unit.0,
        units,
        spares,
    })
}

fn volume(spec: &VolumeSpec, identity: &mut impl FnMut() -> Identity) -> Designation {
    Designation::CreateVolume(NewVolume {
        name: spec.name.clone(),
        identity: identity(),
        parity_group: spec.parity_group.clone(),
        size_bytes: spec.size.0,
        block_size_bytes: spec.block_size_bytes,
        is_thin: spec.thin,
        cache: spec.cache,
    })
}

fn target(spec: &TargetSpec) -> Designation {
    Designation::CreateTarget(NewTarget {
        iqn: spec.iqn.clone(),
        luns: spec.luns.iter().map(|entry| (entry.lun, entry.volume.clone())).collect(),
        read_only_for: spec
            .luns
            .iter()
            .filter(|entry| !entry.read_only_for.is_empty())
            .map(|entry| (entry.lun, entry.read_only_for.clone()))
            .collect(),
        initiators: spec.initiators.clone(),
        chap: spec.chap.as_ref().map(chap),
    })
}

fn chap(spec: &Chap) -> ChapRecord {
    let credential = |user: &ChapUser| Credential { user: user.user.clone(), secret: user.secret.clone() };
    ChapRecord { initiator: credential(&spec.initiator), mutual: spec.mutual.as_ref().map(credential) }
}

fn link(spec: &LinkSpec) -> Designation {
    Designation::CreateLink(NewLink {
        name: spec.name.clone(),
        array: spec.array,
        portals: spec.portals.clone(),
        secret: spec.secret.clone(),
        schedule: spec.schedule,
        options: spec.options.clone(),
    })
}

fn schedules(provision: &Provision, tables: &Tables) -> impl Iterator<Item = Designation> {
    let is_new = |link, group| tables.schedules.get(&(link, group)).is_none();
    provision.readers.iter().filter(move |r| is_new(r.link.clone(), r.group.clone())).map(|reader| {
        let (link, group, schedule) = (reader.link.clone(), reader.group.clone(), reader.schedule);
        Designation::SetSchedule { link, group, schedule }
    })
}

fn group(spec: &GroupSpec) -> Designation {
    if let Some(link) = &spec.source {
        return Designation::FollowGroup { group: spec.name.clone(), link: link.clone() };
    }
    let settings = GroupSettings {
        svol_access: spec.svol_access,
        release: spec.release,
        read_updates: spec.read_updates,
        read_bytes: spec.read_bytes.0,
        copy_unit_bytes: spec.copy_unit.0,
        throttle: spec.throttle,
        release_by: spec.release_by,
        no_room: spec.no_room,
        fence: spec.fence,
        fence_wait: spec.fence_wait,
        identity: spec.identity,
        overtaken: spec.overtaken,
    };
    Designation::CreateGroup { name: spec.name.clone(), settings }
}

fn is_member(spec: &MemberSpec, tables: &Tables) -> bool {
    let group = tables.group_named(&spec.group);
    let volume = tables.volume_named(&spec.volume);
    group.zip(volume).is_some_and(|(group, volume)| group.members.contains(&volume.number))
}

fn member(spec: &MemberSpec) -> Designation {
    Designation::AddMember { group: spec.group.clone(), volume: spec.volume.clone() }
}

fn has_journal(spec: &JournalSpec, tables: &Tables) -> bool {
    let Some(group) = tables.group_named(&spec.group) else { return false };
    match &spec.at {
        None => {
            let volume = tables.volume_named(&spec.volume).map(|volume| volume.number);
            volume.is_some_and(|volume| group.has_journal_volume(volume))
        }
        Some(link) => group.remote_journals.iter().any(|journal| journal.is(link, &spec.volume)),
    }
}

fn journal(spec: &JournalSpec) -> Designation {
    Designation::AddJournal {
        group: spec.group.clone(),
        volume: spec.volume.clone(),
        at: spec.at.clone(),
        options: spec.options,
    }
}

fn pairs(provision: &Provision, tables: &Tables) -> impl Iterator<Item = Designation> {
    provision.pairs.iter().filter(|pair| tables.pair_named(&pair.name).is_none()).map(|pair| {
        Designation::CreatePair {
            name: pair.name.clone(),
            group: pair.group.clone(),
            pvol: pair.pvol.clone(),
            svol: pair.svol.clone(),
            copy: pair.copy,
        }
    })
}

/// Where copies are read from. It is declared for groups that are not known here yet: what is chosen later stays.
fn sources(provision: &Provision, tables: &Tables) -> impl Iterator<Item = Designation> {
    provision.readers.iter().filter_map(|reader| {
        let source = reader.source.clone()?;
        let known = tables.group_named(&reader.group);
        let is_open =
            known.is_none_or(|group| matches!(group.role, GroupRole::Auxiliary { remote: None, .. }));
        let (group, from, by_load) = (reader.group.clone(), Some(source), reader.by_load);
        is_open.then_some(Designation::SetSource { group, reader: None, from, by_load })
    })
}

/// Images that are kept of copies. As for their sources, what is chosen later stays.
fn kept_images(provision: &Provision, tables: &Tables) -> impl Iterator<Item = Designation> {
    provision.readers.iter().filter_map(|reader| {
        let keep = Some(reader.keep_images?);
        let known = tables.group_named(&reader.group);
        let is_open =
            known.is_none_or(|group| matches!(group.role, GroupRole::Auxiliary { remote: None, .. }));
        is_open.then_some(Designation::KeepImages { group: reader.group.clone(), keep })
    })
}

/// Declared groups with pairs start by themselves, once.
fn starts(provision: &Provision, tables: &Tables) -> impl Iterator<Item = Designation> {
    let has_pairs = |name: &GroupName| provision.pairs.iter().any(|pair| pair.group == *name);
    let is_waiting = |name: &GroupName| {
        tables.group_named(name).is_none_or(|group| group.role == GroupRole::Primary && !group.is_started)
    };
    let own = provision.groups.iter().filter(|g| g.source.is_none());
    let waiting = own.filter(move |g| has_pairs(&g.name) && is_waiting(&g.name));
    waiting.map(|group| Designation::StartGroup { group: group.name.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::config::Config;
    use crate::volume::record::Who;
    use crate::volume::store::{Backend, Owner, SimStorage, Store};
    use std::path::Path;
    use std::sync::Arc;

    #[tokio::test]
    async fn every_example_can_be_made_and_is_made_once() {
        for text in [
            include_str!("../../conf/holdfast.toml"),
            include_str!("../../conf/demo.toml"),
            include_str!("../../conf/bench.toml"),
        ] {
            // The full example maps one volume under two targets, which is as good as under one.
            let config = Config::parse(Path::new("x.toml"), text).unwrap();
            let owner = Owner {
                number: config.array.number,
                name: config.array.name.clone(),
                identity: Identity(1),
                audit_records_max: 100,
            };
            let backend = Backend::Simulated(SimStorage::new());
            let store = Store::open(&backend, &owner, Arc::new(SystemClock::new())).unwrap();
            let mut last = 100;
            let mut identity = || {
                last += 1;
                Identity(last)
            };
            let missing = missing_designations(&config.provision, &store.tables(), &mut identity);
            assert!(!missing.is_empty());
            // An interruption in the middle is made good by the next start.
            for (id, designation) in missing.iter().take(missing.len() / 2) {
                store.designate(*id, designation, &Who::Provision).unwrap();
            }
            let rest = missing_designations(&config.provision, &store.tables(), &mut identity);
            for (id, designation) in &rest {
                store.designate(*id, designation, &Who::Provision).unwrap();
            }
            assert!(missing_designations(&config.provision, &store.tables(), &mut identity).is_empty());
            assert_eq!(store.tables().pairs.len(), config.provision.pairs.len());
            assert!(store.tables().groups.iter().all(|group| group.is_started));
        }
    }
}
