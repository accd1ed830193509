//! Designations about where an auxiliary reads from (promise T5): from the array that it is a copy of, or from another
//! one that has the same journal.
//!
//! Pairs, reports and everything that is designated stay between the auxiliary and its source. The other array lets it
//! in as a reader of its own that has no pairs there, and the source is told, because it frees by reports of updates
//! that it did not send itself.

use super::cascade::serving_group;
use super::copy::{followed_group, peer};
use super::local::within;
use crate::volume::designation::{Designation, DesignationId, Outcome, Refusal};
use crate::volume::group::{GroupRole, OtherSource};
use crate::volume::name::{ArrayNumber, GroupName, GroupNumber, LinkName};
use crate::volume::record::{ReaderRecord, Who};
use crate::volume::table::Tables;

/// Where a group is to be read from.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    group: &'a GroupName,
    /// Link to the array; none, or that to the source: the source.
    from: Option<&'a LinkName>,
    /// Only while the source is under load.
    by_load: bool,
}

/// One of the designations of this file.
pub(super) fn dispatch(
    tables: &mut Tables,
    id: DesignationId,
    what: &Designation,
    who: &Who,
) -> Result<Outcome, Refusal> {
    match what {
        Designation::SetSource { group, reader, from, by_load } => {
            let wanted = Wanted { group, from: from.as_ref(), by_load: *by_load };
            set_source(tables, id, reader.as_ref(), wanted)
        }
        Designation::RemoteSource { group, array, by_load } => {
            remote_source(tables, id, group, *array, *by_load, who)
        }
        Designation::AttachReader { group } => attach_reader(tables, group, who),
        Designation::DetachReader { group } => detach_reader(tables, group, who),
        Designation::ReadsElsewhere { group, array } => reads_elsewhere(tables, group, *array, who),
        _ => Err(Refusal::conflict("it is not about where a group is read from")),
    }
}

/// Said at the auxiliary itself, or at its source for it.
fn set_source(
    tables: &mut Tables,
    id: DesignationId,
    reader: Option<&LinkName>,
    wanted: Wanted<'_>,
) -> Result<Outcome, Refusal> {
    let Some(reader) = reader else { return read_from(tables, id, wanted) };
    let group = serving_group(tables, wanted.group)?;
    let to = tables.links.get(reader).ok_or_else(|| Refusal::missing("link", reader))?.array;
    if tables.readers.get(&(group.number, to)).is_none_or(|known| known.is_attached) {
        return Err(Refusal::missing("reader", format!("{reader} of group {}", wanted.group)));
    }
    let array = match wanted.from {
        None => None,
        Some(from) => Some(tables.links.get(from).ok_or_else(|| Refusal::missing("link", from))?.array),
    };
    let what = Designation::RemoteSource { group: wanted.group.clone(), array, by_load: wanted.by_load };
    tables.forward_once(reader, id.caused(0), what);
    Ok(Outcome::Done)
}

/// From the source: read from that array; none: from me.
fn remote_source(
    tables: &mut Tables,
    id: DesignationId,
    group: &GroupName,
    array: Option<ArrayNumber>,
    by_load: bool,
    who: &Who,
) -> Result<Outcome, Refusal> {
    followed_group(tables, group, who)?;
    let link = |array| {
        let link = tables.link_to(array).map(|link| link.name.clone());
        link.ok_or_else(|| Refusal::missing("link to array", array))
    };
    let from = array.map(link).transpose()?;
    read_from(tables, id, Wanted { group, from: from.as_ref(), by_load })
}

fn read_from(tables: &mut Tables, id: DesignationId, wanted: Wanted<'_>) -> Result<Outcome, Refusal> {
    let group = tables.group_named(wanted.group).ok_or_else(|| Refusal::missing("group", wanted.group))?;
    let (number, name, old) = (group.number, group.name.clone(), group.other_source.clone());
    let GroupRole::Auxiliary { link: home, source, remote: Some(_) } = group.role.clone() else {
        return Err(Refusal::conflict(format!("group {name} is not read from anywhere here")));
    };
    let from = wanted.from.filter(|from| **from != home);
    if let (Some(old), Some(from)) = (&old, from)
        && old.link == *from
    {
        let same = Some(OtherSource { by_load: wanted.by_load, ..old.clone() });
        if let Some(row) = tables.groups.edit(&number) {
            row.other_source = same;
        }
        return Ok(Outcome::Done);
    }
    let array = match from {
        None => None,
        Some(from) => Some(tables.links.get(from).ok_or_else(|| Refusal::missing("link", from))?.array),
    };
    if array.is_some() && tables.all_readers_of_group(number).any(|reader| reader.is_attached) {
        return Err(Refusal::conflict(format!(
            "other arrays read group {name} from here instead of its source"
        )));
    }
    if array == Some(source) {
        return Err(Refusal::conflict(format!("{home} is the link to the source of group {name}")));
    }
    if let Some(old) = old {
        tables.forward(&old.link, id.caused(0), Designation::DetachReader { group: name.clone() });
    }
    if let Some(row) = tables.groups.edit(&number) {
        row.other_source = from.map(|from| OtherSource {
            link: from.clone(),
            by_load: wanted.by_load,
            remote: None,
            is_told: false,
        });
    }
    if let Some(from) = from {
        tables.forward(from, id.caused(1), Designation::AttachReader { group: name.clone() });
    }
    tables.forward(&home, id.caused(2), Designation::ReadsElsewhere { group: name, array });
    Ok(Outcome::Done)
}

/// From an array that copies the same group: it wants to read it here.
fn attach_reader(tables: &mut Tables, name: &GroupName, who: &Who) -> Result<Outcome, Refusal> {
    let (array, link) = peer(tables, who)?;
    let group = serving_group(tables, name)?;
    let number = group.number;
    if !group.is_started {
        return Err(Refusal::conflict(format!("group {name} is not started here")));
    }
    if group.other_source.is_some() {
        // Two arrays that wait for each other would never move.
        return Err(Refusal::conflict(format!(
            "group {name} is itself read from another array than its source here"
        )));
    }
    if matches!(&group.role, GroupRole::Auxiliary { source, .. } if *source == array) {
        return Err(Refusal::conflict(format!("group {name} comes from array {array}")));
    }
    match tables.readers.get(&(number, array)) {
        Some(known) if known.is_attached => {}
        Some(_) => return Err(Refusal::exists("reader", format!("array {array} of group {name}"))),
        None => {
            within(
                tables.all_readers_of_group(number).count(),
                super::copy::READERS_MAX,
                "readers of a group",
            )?;
            let reader = ReaderRecord::new(number, array, link);
            tables.readers.put(ReaderRecord { is_attached: true, ..reader });
        }
    }
    Ok(Outcome::Created { number: number.0 })
}

/// From an array that was let in: it reads elsewhere again.
fn detach_reader(tables: &mut Tables, name: &GroupName, who: &Who) -> Result<Outcome, Refusal> {
    let (array, _) = peer(tables, who)?;
    let Some(number) = tables.group_named(name).map(|group| group.number) else { return Ok(Outcome::Done) };
    if tables.readers.get(&(number, array)).is_some_and(|known| known.is_attached) {
        tables.readers.remove(&(number, array));
    }
    Ok(Outcome::Done)
}

/// From a reader of this array: it gets updates from that array too, or from here alone again.
fn reads_elsewhere(
    tables: &mut Tables,
    name: &GroupName,
    from: Option<ArrayNumber>,
    who: &Who,
) -> Result<Outcome, Refusal> {
    let (array, _) = peer(tables, who)?;
    let number = serving_group(tables, name)?.number;
    match tables.readers.edit(&(number, array)) {
        Some(reader) if !reader.is_attached => {
            reader.reads_from = from;
            Ok(Outcome::Done)
        }
        _ => Err(Refusal::conflict(format!("array {array} does not copy group {name}"))),
    }
}

/// Notes what the answers of the other array and of the source tell.
pub(super) fn accepted(tables: &mut Tables, link: &LinkName, what: &Designation, outcome: Outcome) {
    let (Designation::AttachReader { group } | Designation::ReadsElsewhere { group, .. }) = what else {
        return;
    };
    let Some(number) = tables.group_named(group).map(|group| group.number) else { return };
    let Some(other) = tables.groups.edit(&number).and_then(|row| row.other_source.as_mut()) else { return };
    match (what, outcome) {
        (Designation::AttachReader { .. }, Outcome::Created { number }) if other.link == *link => {
            other.remote = Some(GroupNumber(number));
        }
        (Designation::ReadsElsewhere { array: Some(_), .. }, Outcome::Done) => other.is_told = true,
        _ => {}
    }
}
