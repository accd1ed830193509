//! `[provision]` as designations: what the file declares and the store does not have is created; nothing else happens.

use crate::clock::Entropy;
use crate::config::{CacheMode, Config, GroupSpec, ParityGroupSpec, TargetSpec, UnitSpec, VolumeSpec};
use crate::volume::designation::{Designation, DesignationId, NewLink, NewParityGroup, NewTarget, NewVolume};
use crate::volume::group::GroupSettings;
use crate::volume::record::{ChapRecord, Credential, Identity, LunRecord, UnitRecord, Who};
use crate::volume::store::Store;
use crate::volume::table::Tables;

/// Applies what is declared and not there yet.
///
/// # Errors
/// The first declaration that the array refuses, with what it is.
pub(crate) fn provision(store: &Store, config: &Config, entropy: &dyn Entropy) -> anyhow::Result<()> {
    let declared = &config.provision;
    let apply = |designation: Designation| {
        let id = DesignationId(Identity(entropy.identity()));
        store.designate(id, &designation, &Who::Provision).map(|_| ()).map_err(|refusal| {
            anyhow::anyhow!("{}: [provision] {designation}: {refusal}", config.source.display())
        })
    };
    let missing = |is_there: &dyn Fn(&Tables) -> bool| !store.read(|tables| is_there(tables));
    for group in &declared.parity_groups {
        if missing(&|tables| tables.parity_group_named(&group.name).is_some()) {
            apply(parity_group(group, entropy))?;
        }
    }
    for volume in &declared.volumes {
        if missing(&|tables| tables.volume_named(&volume.name).is_some()) {
            apply(new_volume(volume, entropy))?;
        }
    }
    for target in &declared.targets {
        if missing(&|tables| tables.targets.get(&target.iqn).is_some()) {
            apply(new_target(target))?;
        }
        for lun in &target.luns {
            let shown = |luns: &[LunRecord]| luns.iter().any(|shown| shown.lun == lun.lun);
            if missing(&|tables| tables.targets.get(&target.iqn).is_some_and(|row| shown(&row.luns))) {
                let (target, volume) = (target.iqn.clone(), lun.volume.clone());
                apply(Designation::MapLun { target, lun: lun.lun, volume })?;
            }
        }
    }
    for link in &declared.links {
        if missing(&|tables| tables.links.get(&link.name).is_some()) {
            apply(Designation::CreateLink(NewLink {
                name: link.name.clone(),
                array: link.array,
                portals: link.portals.clone(),
                secret: link.secret.clone(),
                schedule: link.schedule,
            }))?;
        }
    }
    copies(config, &apply, &missing)
}

fn copies(
    config: &Config,
    apply: &dyn Fn(Designation) -> anyhow::Result<()>,
    missing: &dyn Fn(&dyn Fn(&Tables) -> bool) -> bool,
) -> anyhow::Result<()> {
    let declared = &config.provision;
    for group in &declared.groups {
        if missing(&|tables| tables.group_named(&group.name).is_some()) {
            apply(Designation::CreateGroup { name: group.name.clone(), settings: settings(group) })?;
        }
    }
    for journal in &declared.journals {
        let is_there = |tables: &Tables| {
            let Some(group) = tables.group_named(&journal.group) else { return false };
            match &journal.at {
                None => tables.volume_named(&journal.volume).is_some_and(|row| group.journals.contains(&row.number)),
                Some(at) => {
                    group.remote_journals.iter().any(|row| row.link == *at && row.volume == journal.volume)
                }
            }
        };
        if missing(&is_there) {
            let (group, volume, at) = (journal.group.clone(), journal.volume.clone(), journal.at.clone());
            apply(Designation::AddJournal { group, volume, at })?;
        }
    }
    for pair in &declared.pairs {
        if missing(&|tables| tables.pair_named(&pair.name).is_some()) {
            apply(Designation::CreatePair {
                name: pair.name.clone(),
                group: pair.group.clone(),
                pvol: pair.pvol.clone(),
                svol: pair.svol.clone(),
                copy: pair.copy,
            })?;
        }
    }
    for reader in &declared.readers {
        let key = (reader.link.clone(), reader.group.clone());
        if missing(&|tables| tables.schedules.get(&key).is_some()) {
            let (link, group, schedule) = (reader.link.clone(), reader.group.clone(), reader.schedule);
            apply(Designation::SetSchedule { link, group, schedule })?;
        }
    }
    for group in &declared.groups {
        if missing(&|tables| tables.group_named(&group.name).is_some_and(|row| row.is_started)) {
            apply(Designation::StartGroup { group: group.name.clone() })?;
        }
    }
    Ok(())
}

fn parity_group(spec: &ParityGroupSpec, entropy: &dyn Entropy) -> Designation {
    let unit = |unit: &UnitSpec| UnitRecord {
        identity: Identity(entropy.identity()),
        path: unit.path.clone(),
        size_bytes: unit.size.map(crate::config::ByteSize::bytes),
    };
    Designation::CreateParityGroup(NewParityGroup {
        name: spec.name.clone(),
        identity: Identity(entropy.identity()),
        level: spec.level,
        stripe_unit_bytes: spec.stripe_unit.bytes(),
        units: spec.units.iter().map(unit).collect(),
        spares: spec.spares.iter().map(unit).collect(),
    })
}

fn new_volume(spec: &VolumeSpec, entropy: &dyn Entropy) -> Designation {
    let cache: CacheMode = spec.cache;
    Designation::CreateVolume(NewVolume {
        name: spec.name.clone(),
        identity: Identity(entropy.identity()),
        parity_group: spec.parity_group.clone(),
        size_bytes: spec.size.bytes(),
        block_size_bytes: spec.block_size_bytes,
        is_thin: spec.thin,
        cache,
    })
}

fn new_target(spec: &TargetSpec) -> Designation {
    let chap = spec.chap.as_ref().map(|chap| ChapRecord {
        initiator: Credential { user: chap.initiator.user.clone(), secret: chap.initiator.secret.clone() },
        mutual: chap
            .mutual
            .as_ref()
            .map(|mutual| Credential { user: mutual.user.clone(), secret: mutual.secret.clone() }),
    });
    Designation::CreateTarget(NewTarget {
        iqn: spec.iqn.clone(),
        luns: spec.luns.iter().map(|lun| (lun.lun, lun.volume.clone())).collect(),
        initiators: spec.initiators.clone(),
        chap,
    })
}

fn settings(spec: &GroupSpec) -> GroupSettings {
    GroupSettings {
        svol_access: spec.svol_access,
        release: spec.release,
        read_updates: spec.read_updates,
        read_bytes: spec.read_bytes.bytes(),
        commit_bytes: spec.commit_bytes.bytes(),
        copy_unit_bytes: spec.copy_unit.bytes(),
    }
}
