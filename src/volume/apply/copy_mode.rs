//! How a pair follows: which copies a group may have beside each other.

use crate::volume::designation::Refusal;
use crate::volume::group::GroupRole;
use crate::volume::kind::{CopyMode, Fence};
use crate::volume::name::{GroupNumber, LinkName, VolumeNumber};
use crate::volume::pair::PairRecord;
use crate::volume::table::Tables;

/// How a pair follows for which the operator says `sync`: by its journal if the group has one, else its writes are forwarded.
pub(super) fn copy_mode(tables: &Tables, group: GroupNumber, said: CopyMode) -> CopyMode {
    let has_journal = tables.groups.get(&group).is_some_and(|row| !row.journals.is_empty());
    if said == CopyMode::Sync && has_journal { CopyMode::SyncJournal } else { said }
}

/// All pairs of a group with one array follow in the same way, and at most one array synchronously. What is forwarded goes to
/// one array, and has no journal here: the order over the volumes of a group is that of one receiver.
pub(super) fn check_copy_mode(
    tables: &Tables,
    group: GroupNumber,
    pvol: VolumeNumber,
    copy: CopyMode,
    link: &LinkName,
) -> Result<(), Refusal> {
    let is_forwarded = |mode| mode == CopyMode::Sync;
    let other = tables.pairs_of_group(group).find(|pair| {
        pair.copy != copy && (pair.link == *link || is_forwarded(pair.copy) || is_forwarded(copy))
    });
    if let Some(other) = other {
        let how =
            |mode| if is_forwarded(mode) { "sync, without a journal".to_owned() } else { mode.to_string() };
        let text = format!("pair {} of this group is {}, not {}", other.name, how(other.copy), how(copy));
        return Err(Refusal::conflict(text));
    }
    match copy {
        CopyMode::Async => return Ok(()),
        CopyMode::SyncJournal => return check_synchronous(tables, group, link),
        CopyMode::Sync => {}
    }
    if tables.groups.get(&group).is_some_and(|row| row.settings.fence == Fence::Status) {
        return Err(Refusal::conflict(
            "forwarded writes have the fence never or data; for status the group needs a journal volume",
        ));
    }
    if tables.volumes.get(&pvol).is_some_and(|volume| volume.parity_group.is_none()) {
        return Err(Refusal::conflict("a virtual volume has nothing that could be forwarded"));
    }
    if tables.forwarded_here(pvol).is_some() {
        return Err(Refusal::conflict("writes are forwarded to this volume: it forwards none itself"));
    }
    if let Some(other) = tables.pairs_of_group(group).find(|pair| pair.link != *link) {
        let text = format!("pair {} of this group is forwarded over {}, not {link}", other.name, other.link);
        return Err(Refusal::conflict(text));
    }
    Ok(())
}

fn check_synchronous(tables: &Tables, group: GroupNumber, link: &LinkName) -> Result<(), Refusal> {
    if !tables.groups.get(&group).is_some_and(|row| row.role == GroupRole::Primary) {
        return Err(Refusal::conflict("hosts write elsewhere: only their array has a synchronous copy"));
    }
    let name = tables.groups.get(&group).map(|row| &row.name);
    if let Some(relay) = name.and_then(|name| super::relay::waits_for(tables, name).next()) {
        return Err(Refusal::conflict(format!("hosts of the group wait for relay {}", relay.name)));
    }
    let is_other = |pair: &&PairRecord| pair.copy == CopyMode::SyncJournal && pair.link != *link;
    match tables.pairs_of_group(group).find(is_other) {
        Some(other) => Err(Refusal::conflict(format!(
            "the group has its synchronous copy at {}, by pair {}",
            other.link, other.name
        ))),
        None => Ok(()),
    }
}
