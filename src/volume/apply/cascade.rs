//! Designations in the middle of a cascade (promise T4), and the taking away of one reader (T1).
//!
//! An array that copies a group may hand it on: it catalogues pairs whose P-VOL is its own S-VOL, and the arrays behind
//! them read the journal that it has received. What its source says of the group is passed on to them.

use super::copy::{READERS_MAX, describe, primary_group};
use super::pairs;
use crate::volume::designation::{Designation, DesignationId, Outcome, Refusal, Which};
use crate::volume::group::{GroupRecord, GroupRole};
use crate::volume::name::{ArrayNumber, GroupName, GroupNumber, LinkName, PairNumber, VolumeNumber};
use crate::volume::pair::Asked;
use crate::volume::record::{Identity, VolumeRecord};
use crate::volume::table::Tables;

/// A group that this array can hand on: its own, or one that it copies and whose source has made it known.
pub(super) fn serving_group<'t>(tables: &'t Tables, name: &GroupName) -> Result<&'t GroupRecord, Refusal> {
    let group = tables.group_named(name).ok_or_else(|| Refusal::missing("group", name))?;
    match &group.role {
        GroupRole::Primary | GroupRole::Auxiliary { remote: Some(_), .. } => Ok(group),
        GroupRole::Auxiliary { remote: None, link, .. } => Err(Refusal::conflict(format!(
            "group {name} is a copy here, and has not been made known by {link} yet"
        ))),
    }
}

/// The group whose pairs are meant where only the array with the P-VOL may say it.
pub(super) fn group_with_pvols<'t>(tables: &'t Tables, name: &GroupName) -> Result<&'t GroupRecord, Refusal> {
    let group = serving_group(tables, name)?;
    if tables.served_pairs(group.number).next().is_some() { Ok(group) } else { primary_group(tables, name) }
}

/// By which number the group's records name a volume that is to be the P-VOL of a pair here; none at the primary.
pub(super) fn origin_of(
    tables: &Tables,
    group: &GroupRecord,
    pvol: &VolumeRecord,
    reader: ArrayNumber,
) -> Result<Option<VolumeNumber>, Refusal> {
    let GroupRole::Auxiliary { source, .. } = &group.role else { return Ok(None) };
    if *source == reader {
        let text = format!("group {} comes from array {reader}: it cannot go back there", group.name);
        return Err(Refusal::conflict(text));
    }
    match tables.pair_above(group.number, pvol.number).and_then(|above| above.record_volume()) {
        Some(origin) => Ok(Some(origin)),
        None => Err(Refusal::conflict(format!(
            "volume {} is no copy of group {} here: it is {}",
            pvol.name,
            group.name,
            describe(pvol)
        ))),
    }
}

/// What the source says of a group goes on to the arrays that read it from here.
pub(super) fn pass_down(
    tables: &mut Tables,
    group: GroupNumber,
    id: DesignationId,
    what: &Designation,
) -> Result<(), Refusal> {
    let links: Vec<LinkName> = tables.readers_of_group(group).map(|reader| reader.link.clone()).collect();
    for (index, link) in links.iter().enumerate() {
        let index = u8::try_from(index).map_err(|_| Refusal::conflict("the group has too many readers"))?;
        tables.forward(link, id.caused(PASSED_DOWN.saturating_add(index)), what.clone());
    }
    Ok(())
}

/// Takes an array away from a group that it reads here.
pub(super) fn delete_reader(
    tables: &mut Tables,
    id: DesignationId,
    name: &GroupName,
    link: &LinkName,
) -> Result<Outcome, Refusal> {
    let group = serving_group(tables, name)?.number;
    let array = tables.links.get(link).ok_or_else(|| Refusal::missing("link", link))?.array;
    if tables.readers.get(&(group, array)).is_none() {
        return Err(Refusal::missing("reader", format!("{link} of group {name}")));
    }
    if tables.served_pairs(group).any(|pair| pair.link == *link && !pairs::is_leaving(pair)) {
        pairs::delete(tables, name, &Which::Reader(link.clone()))?;
    }
    if let Some(reader) = tables.readers.edit(&(group, array)) {
        reader.is_leaving = true;
    }
    if let Some(row) = tables.groups.edit(&group) {
        row.remote_journals.retain(|journal| journal.link != *link);
        row.dropped.retain(|known| known != link);
        let surplus = (row.dropped.len() + 1).saturating_sub(READERS_MAX);
        row.dropped.drain(..surplus);
        row.dropped.push(link.clone());
    }
    tables.forget_leaving_reader(group, array, id.caused(0).0);
    Ok(Outcome::Done)
}

/// The pairs of the next arrays go before the volume that they follow stops being a copy.
pub(super) fn delete_below(tables: &mut Tables, group: GroupNumber, volume: VolumeNumber) {
    let below: Vec<PairNumber> = tables.pairs_below(group, volume).map(|pair| pair.number).collect();
    for pair in below {
        if let Some(row) = tables.pairs.edit(&pair).filter(|row| !pairs::is_leaving(row)) {
            row.control.asked = Some(Asked::Delete);
        }
    }
}

impl Tables {
    /// Whether this concerns a reader that was taken away by command, and that nobody has named since.
    pub(crate) fn was_dropped(&self, declared: &Designation) -> bool {
        let (group, link) = match declared {
            Designation::CreatePair { group, svol, .. } => (group, &svol.link),
            Designation::AddJournal { group, at: Some(at), .. } => (group, at),
            _ => return false,
        };
        self.group_named(group).is_some_and(|row| row.dropped.contains(link))
    }

    /// A reader that shall go and has no pairs any more: it goes, and is told.
    pub(crate) fn forget_leaving_reader(
        &mut self,
        group: GroupNumber,
        array: ArrayNumber,
        identity: Identity,
    ) {
        let leaves = self.readers.get(&(group, array)).filter(|reader| reader.is_leaving);
        if leaves.is_some_and(|reader| reader.has_left) {
            return self.forget_reader_that_left(group, array);
        }
        let Some(link) = leaves.map(|reader| reader.link.clone()) else { return };
        if self.served_pairs(group).any(|pair| pair.auxiliary.array == array) {
            return;
        }
        self.readers.remove(&(group, array));
        if self.took_over_from(group, array) {
            self.takeover_may_end(group, array);
        } else if let Some(name) = self.groups.get(&group).map(|group| group.name.clone()) {
            self.forward(&link, DesignationId(identity), Designation::RemoteDeleteGroup { group: name });
        }
    }
}

/// The identities of what is passed down begin here, behind those that a designation causes by itself.
const PASSED_DOWN: u8 = 128;
