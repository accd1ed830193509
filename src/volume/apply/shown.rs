//! Pairs both of whose volumes show hosts one identity (decision 25), as they are designated.

use super::copy::peer;
use crate::volume::designation::RemotePair;
use crate::volume::designation::{DesignationId, Refusal};
use crate::volume::group::GroupSettings;
use crate::volume::kind::{CopyMode, Fence, IdentityChoice, SvolAccess};
use crate::volume::name::{GroupNumber, PairName, VolumeNumber};
use crate::volume::pair::PairRecord;
use crate::volume::record::{Identity, VolumeRecord, Who};
use crate::volume::shown::SharedIdentity;
use crate::volume::table::Tables;

/// One identity is shown only where at most one array answers hosts.
pub(super) fn check_settings(settings: &GroupSettings) -> Result<(), Refusal> {
    if settings.identity == IdentityChoice::Own {
        return Ok(());
    }
    if settings.fence != Fence::Data {
        return Err(Refusal::conflict(format!(
            "identity shared needs fence data: with fence {} the first array may answer hosts after the second has taken over",
            settings.fence
        )));
    }
    if settings.svol_access != SvolAccess::None {
        return Err(Refusal::conflict(
            "identity shared needs svol-access none: hosts would take what the S-VOL has for what the P-VOL has",
        ));
    }
    Ok(())
}

/// What pairs were made with stays.
pub(super) fn check_change(
    tables: &Tables,
    group: GroupNumber,
    settings: &GroupSettings,
) -> Result<(), Refusal> {
    let row = tables.groups.get(&group).filter(|row| row.settings.identity != settings.identity);
    match row {
        Some(row) if tables.pairs_of_group(group).next().is_some() => {
            Err(Refusal::conflict(format!("group {} has pairs: whose identity they show stays", row.name)))
        }
        Some(_) | None => Ok(()),
    }
}

/// What both volumes of a new pair show, if that is one identity.
pub(super) fn shared_by(
    tables: &Tables,
    group: GroupNumber,
    copy: CopyMode,
    pvol: &VolumeRecord,
    id: DesignationId,
) -> Result<Option<SharedIdentity>, Refusal> {
    let choice = tables.groups.get(&group).map(|row| row.settings.identity);
    match (choice, copy) {
        (Some(IdentityChoice::Own) | None, _) | (_, CopyMode::Async) => Ok(None),
        (Some(IdentityChoice::Shared), CopyMode::Sync) => {
            Err(Refusal::conflict("identity shared: the group needs a journal volume before its first pair"))
        }
        (Some(IdentityChoice::Shared), CopyMode::SyncJournal) => Ok(Some(SharedIdentity::of(pvol, id.0))),
    }
}

/// At the array of the S-VOL: everything that would let hosts see two units where they are told of one.
pub(super) fn check_remote(tables: &Tables, svol: &VolumeRecord, remote: &RemotePair) -> Result<(), Refusal> {
    let Some(shared) = &remote.shared else { return Ok(()) };
    if remote.copy != CopyMode::SyncJournal {
        return Err(Refusal::conflict("only a synchronous copy by journals shows the identity of its P-VOL"));
    }
    if (svol.is_thin, svol.cache) != (shared.is_thin, shared.cache) {
        let text = format!(
            "volume {} cannot show the identity of the P-VOL: they differ in what hosts are told of them (thin, cache)",
            svol.name
        );
        return Err(Refusal::conflict(text));
    }
    let is_other = |volume: &&VolumeRecord| volume.number != svol.number && volume.shown() == shared.shown;
    match tables.volumes.iter().find(is_other) {
        Some(other) => {
            Err(Refusal::conflict(format!("volume {} here shows that identity already", other.name)))
        }
        None => Ok(()),
    }
}

/// Hosts are shown this identity from here on.
pub(super) fn show(tables: &mut Tables, volume: VolumeNumber, shown: Identity) {
    if let Some(row) = tables.volumes.edit(&volume) {
        row.shown = (shown != row.identity).then_some(shown);
    }
}

/// Hosts may not be let into both volumes of a pair that are one to them.
pub(super) fn check_one_writer<'t>(pairs: impl Iterator<Item = &'t PairRecord>) -> Result<(), Refusal> {
    let mut shared = pairs.filter(|pair| pair.shared.is_some());
    shared.next().map_or(Ok(()), |pair| {
        Err(Refusal::conflict(format!(
            "hosts take both volumes of pair {} for one: they may write one of them only",
            pair.name
        )))
    })
}

/// From an array that took over from this one, or from which this one took over: its pair is no more, and its volume goes on to show
/// what both have shown. Whether it was so; then nothing is shown here any more that hosts could take for that volume.
pub(super) fn is_left_by_its_copy(tables: &mut Tables, pair: &PairName, who: &Who) -> Result<bool, Refusal> {
    let (array, _) = peer(tables, who)?;
    let known = tables.pair_named(pair).filter(|pair| pair.shared.is_some() && pair.auxiliary.array == array);
    let Some(number) = known.map(|pair| pair.number) else { return Ok(false) };
    if let Some(row) = tables.pairs.edit(&number) {
        row.shared = None;
    }
    Ok(true)
}
