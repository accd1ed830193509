//! Primaries that hear of each other and have no pairs between them ([`Rival`]; decision 19): an array that sees a history which
//! goes on past its own shuts its hosts out; where both went their own ways, both say so.

use super::takeover::branch_begins;
use crate::volume::designation::{Designation, DesignationId, Outcome, Refusal};
use crate::volume::group::{CommonPoint, GroupRecord, GroupRole, common_point};
use crate::volume::name::{ArrayNumber, GroupNumber, LinkName};
use crate::volume::record::{Identity, ReaderRecord};
use crate::volume::rejoin::{RemoteRejoin, Rival};
use crate::volume::reversal::ReversalStep;
use crate::volume::table::Tables;
use crate::volume::takeover::{Overtaken, Takeover};

/// At an array that is the primary of a group: another one says that it is.
pub(super) fn heard_at_a_primary(
    tables: &mut Tables,
    id: DesignationId,
    (group, array, link): (GroupNumber, ArrayNumber, LinkName),
    told: &RemoteRejoin,
) -> Result<Outcome, Refusal> {
    if told.by == Some(tables.meta().number) {
        return Ok(Outcome::Done); // It is told of itself.
    }
    if told.asks && tell_who_is_behind(tables, id, (group, array, &link), told)? {
        return Ok(Outcome::Done);
    }
    let teller = array;
    // Who tells may not be whose history it is: with that one everything else is spoken, if there is a link to it.
    let whose = told.by.and_then(|by| Some((by, tables.link_to(by)?.name.clone())));
    let (array, link) = whose.unwrap_or((array, link));
    let Some(row) = tables.groups.get(&group) else { return Err(Refusal::missing("group", &told.group)) };
    // They speak of it by other messages already (`remote_takeover`).
    let has_met = row.takeover.as_ref().is_some_and(|takeover| takeover.link() == Some(&link));
    let Ok(Some(first)) = branch_begins(row, &told.generations) else { return Ok(Outcome::Done) };
    is_not_handed_over(row, array)?;
    // One that has not heard yet that this array is its primary may have become another one.
    let reads = |reader: &ReaderRecord| !(reader.is_attached || reader.has_left || reader.is_untold);
    let is_reader = tables.readers.get(&(group, array)).is_some_and(reads);
    match common_point(&row.generations, &told.generations) {
        CommonPoint::OtherGoesOn(_) if !has_met => overtaken(tables, group, array, link, told),
        // Of one that reads from here it is old news if another one says it: it says for itself when it takes over.
        CommonPoint::Diverged(_) if !has_met && (told.by.is_none() || !is_reader) => {
            let rival = Rival { link: link.clone(), array, generations: told.generations.clone(), first };
            let is_news = !row.rivals.contains(&rival);
            let answer = RemoteRejoin {
                group: told.group.clone(),
                former: told.former,
                generations: row.generations.clone(),
                by: None,
                asks: false,
                knows: 0,
            };
            if let Some(row) = tables.groups.edit(&group) {
                row.rivals.retain(|known| known.array != array);
                if row.rivals.len() < super::copy::READERS_MAX {
                    row.rivals.push(rival);
                }
                let newest = told.generations.last().map_or(0, |newest| newest.counter);
                row.seen_counter = row.seen_counter.max(newest);
            }
            if is_news {
                tables.forward(&link, id.caused(0), Designation::RemoteRejoin(answer));
            }
        }
        _ => return Ok(Outcome::Done),
    }
    if told.by.is_none() {
        tables.has_told(group, teller, told.generations.last().map_or(0, |newest| newest.counter));
    }
    Ok(Outcome::Done)
}

/// An array asks ([`Tables::ask_who_is_primary`]), and what it knows is a part of what has happened since. It is told, whatever it was told before.
/// Whether it was so; it asks again where nobody knows yet who will be the primary.
fn tell_who_is_behind(
    tables: &mut Tables,
    id: DesignationId,
    (group, array, link): (GroupNumber, ArrayNumber, &LinkName),
    told: &RemoteRejoin,
) -> Result<bool, Refusal> {
    let Some(row) = tables.groups.get(&group) else { return Ok(false) };
    if !matches!(common_point(&row.generations, &told.generations), CommonPoint::OursGoesOn(_)) {
        return Ok(false);
    }
    let is_shut = row.takeover.as_ref().is_some_and(Takeover::shuts_hosts_out);
    if is_shut || row.reversal.is_some() {
        return Err(Refusal::Conflict(format!("group {} is being handed over there", told.group)));
    }
    let name = row.name.clone();
    let answer = RemoteRejoin {
        group: name.clone(),
        former: told.former,
        generations: row.generations.clone(),
        by: None,
        asks: false,
        knows: 0,
    };
    let is_meant = |what: &Designation| match what {
        Designation::RemoteTakeover(earlier) => earlier.group == name,
        Designation::RemoteRejoin(earlier) => earlier.group == name,
        _ => false,
    };
    tables.forget_forwards(link, is_meant);
    // What it had said of itself it does not know any more: it says it anew, and is named by that.
    tables.call_rejoin_back(group);
    if let Some(Takeover::Taken(taken)) = tables.groups.edit(&group).and_then(|row| row.takeover.as_mut())
        && taken.array == array
    {
        (taken.branch, taken.is_told) = (None, false);
    }
    // Where both know their pairs; and where the other one knows them no more, or there never were any.
    if tables.pairs_with(group, array).next().is_some() {
        tables.tell_rival(group, link, id.caused(0));
    }
    tables.forward(link, id.caused(1), Designation::RemoteRejoin(answer));
    Ok(true)
}

/// The same at a copy of another array: it says whose copy it is.
pub(super) fn tell_who_leads(
    tables: &mut Tables,
    id: DesignationId,
    (group, array, link): (GroupNumber, ArrayNumber, &LinkName),
    told: &RemoteRejoin,
) {
    let Some(row) = tables.groups.get(&group) else { return };
    let GroupRole::Auxiliary { source, .. } = row.role else { return };
    let is_behind = matches!(common_point(&row.generations, &told.generations), CommonPoint::OursGoesOn(_));
    if source == array || !is_behind {
        return;
    }
    let (group, generations) = (row.name.clone(), row.generations.clone());
    let by = Some(source);
    let answer = RemoteRejoin { group, former: told.former, generations, by, asks: false, knows: 0 };
    tables.forward(link, id.caused(1), Designation::RemoteRejoin(answer));
}

/// What the other array has goes on past everything here: hosts are shut out, whoever took over from whom.
fn overtaken(
    tables: &mut Tables,
    group: GroupNumber,
    array: ArrayNumber,
    link: LinkName,
    told: &RemoteRejoin,
) {
    let Some(row) = tables.groups.get(&group) else { return };
    let is_known = match &row.takeover {
        Some(Takeover::Yielding(_)) => true,
        // Another one that is past that as well: it was overtaken itself, or will be told.
        Some(Takeover::Overtaken(other) | Takeover::Retaking(other)) => {
            other.array == array
                || !matches!(common_point(&other.generations, &told.generations), CommonPoint::OtherGoesOn(_))
        }
        _ => false,
    };
    if is_known {
        return;
    }
    let generations = told.generations.clone();
    let by =
        Overtaken { link, array, generations, is_complete: true, attempt: 0, branch: None, had_taken: None };
    tables.drop_reversal(group);
    if let Some(row) = tables.groups.edit(&group) {
        let newest = told.generations.last().map_or(0, |newest| newest.counter);
        row.seen_counter = row.seen_counter.max(newest);
        row.takeover = Some(match row.takeover {
            Some(Takeover::Retaking(_)) => Takeover::Retaking(by),
            _ => Takeover::Overtaken(by),
        });
    }
}

/// An array that was told to be the primary, or has promised it, may be that already: what a third one says cannot undo it.
pub(super) fn is_not_handed_over(row: &GroupRecord, by: ArrayNumber) -> Result<(), Refusal> {
    match &row.reversal {
        Some(reversal)
            if reversal.array != by
                && matches!(reversal.step, ReversalStep::HandedOver(_) | ReversalStep::Leaving(..)) =>
        {
            Err(Refusal::Conflict(format!(
                "group {} is being handed over to {}: that array may be its primary already",
                row.name, reversal.link
            )))
        }
        _ => Ok(()),
    }
}

impl Tables {
    /// This store is an older copy of the one that the array had. Of the groups of which it is the primary by this store another array may have become
    /// the primary since, and does not say so twice: each array behind a link is told what is known here, and whoever knows more answers.
    pub(crate) fn ask_who_is_primary(&mut self, identity: &mut dyn FnMut() -> Identity) {
        let former = self.meta().number;
        let links: Vec<LinkName> = self.links.iter().map(|link| link.name.clone()).collect();
        // One that knows that it was overtaken lets nobody in.
        let is_open = |row: &&GroupRecord| !row.takeover.as_ref().is_some_and(Takeover::shuts_hosts_out);
        let is_led = |row: &&GroupRecord| row.role == GroupRole::Primary && !row.generations.is_empty();
        let groups: Vec<GroupRecord> = self.groups.iter().filter(is_led).filter(is_open).cloned().collect();
        for row in groups {
            let asked = RemoteRejoin {
                group: row.name.clone(),
                former,
                generations: row.generations,
                by: None,
                asks: true,
                knows: 0,
            };
            let is_call = |what: &Designation| matches!(what, Designation::RemoteRejoin(told) if told.group == row.name);
            for link in &links {
                self.forget_forwards(link, is_call);
                self.forward(link, DesignationId(identity()), Designation::RemoteRejoin(asked.clone()));
            }
        }
    }

    /// An array that was named to stay is named as the loser by now, or gone: nobody is to hear any more that it is the primary.
    pub(super) fn call_back_who_stays(&mut self, group: GroupNumber, array: ArrayNumber) {
        let Some(name) = self.groups.get(&group).map(|row| row.name.clone()) else { return };
        let links: Vec<LinkName> = self.links.iter().map(|link| link.name.clone()).collect();
        let is_that = |what: &Designation| matches!(what, Designation::RemoteRejoin(told) if told.group == name && told.by == Some(array));
        links.iter().for_each(|link| self.forget_forwards(link, is_that));
    }

    /// An array is a reader of this one, or this one a copy: it is no rival any more.
    pub(super) fn is_no_rival(&mut self, group: GroupNumber, array: Option<ArrayNumber>) {
        let is_noted = self.groups.get(&group).is_some_and(|row| !row.rivals.is_empty());
        if let Some(row) = self.groups.edit(&group).filter(|_| is_noted) {
            row.rivals.retain(|known| array.is_some_and(|array| known.array != array));
        }
    }
}
