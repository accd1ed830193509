//! Suspension, resync and deletion said at the auxiliary (promise J15; decision 6).
//!
//! There is one way in which a pair is stopped, copied again or taken away: its primary does it, and tells the auxiliary.
//! So what an operator says at the auxiliary goes to the primary as an [`Ask`], durable here before it is answered, and a
//! refusal there is its end. The primary lets an array speak of its own pairs only. What the primary does then is the same
//! as if its own operator had said it: a death at any step leaves what was asked on its way, or noted there, or nothing.
//!
//! | said at an auxiliary | asked of the primary |
//! |---|---|
//! | `group suspend`, `resume`, `resync` | all pairs of this array |
//! | `pair suspend`, `resync`, `delete` | that pair |
//! | `group delete` | this array leaves the group, with its pairs and its journal |
//!
//! In the middle of a cascade a group's own verbs mean the pairs whose P-VOLs are there, as long as there are any; a pair
//! is meant by its name, wherever its P-VOL is.

use super::cascade;
use super::copy::{copied_group, peer};
use super::pairs;
use super::remote::FORWARDS_MAX;
use crate::volume::ask::{Ask, AskedBy, Wish};
use crate::volume::designation::{Designation, DesignationId, Outcome, Refusal, Which};
use crate::volume::group::GroupRole;
use crate::volume::name::{GroupName, GroupNumber, LinkName, PairName};
use crate::volume::record::Who;
use crate::volume::table::Tables;

impl Tables {
    /// What is said here about a group that is a copy here, as it is asked of the primary behind a link; none for what is
    /// carried out here, or refused here.
    pub(crate) fn ask_of_primary(&self, what: &Designation, who: &Who) -> Option<(LinkName, Ask)> {
        let (group, which, wish) = match what {
            Designation::SuspendPairs { group, which, svol } => (group, which, Wish::Suspend { svol: *svol }),
            Designation::ResyncPairs { group, which, image } => {
                (group, which, Wish::Resync { image: *image })
            }
            Designation::DeletePairs { group, which } => (group, which, Wish::Delete),
            Designation::DeleteGroup { group } => (group, &Which::All, Wish::Leave),
            _ => return None,
        };
        let (number, link) = copied_group(self, group).ok()??;
        let pair = match which {
            Which::Reader(_) => return None,
            Which::All if wish == Wish::Leave => None,
            Which::All if self.served_pairs(number).next().is_some() => return None,
            Which::All => None,
            Which::Pair(name) => {
                self.followed_pairs(number).find(|pair| pair.name == *name)?;
                Some(name.clone())
            }
        };
        Some((link, Ask { group: group.clone(), pair, wish, by: AskedBy::from(who) }))
    }
}

/// At the auxiliary: what an operator says here goes to the primary.
pub(super) fn ask_primary(
    tables: &mut Tables,
    id: DesignationId,
    link: &LinkName,
    ask: Ask,
) -> Result<Outcome, Refusal> {
    super::local::within(tables.forwards.len(), FORWARDS_MAX, "designations on their way")?;
    let (number, is_known) = match tables.group_named(&ask.group) {
        Some(row) => (row.number, !matches!(row.role, GroupRole::Auxiliary { remote: None, .. })),
        None => return Err(Refusal::missing("group", &ask.group)),
    };
    if ask.wish == Wish::Leave {
        forget_requests(tables, &ask.group);
    } else if !is_known {
        let text = format!("group {} has not been made known by {link} yet: it has no pairs here", ask.group);
        return Err(Refusal::conflict(text));
    } else if tables.followed_pairs(number).next().is_none() {
        return Err(Refusal::conflict(format!("group {} has no pairs here", ask.group)));
    }
    if matches!(ask.wish, Wish::Resync { .. }) {
        lift_stop_of_suspension(tables, number);
    }
    tables.forward_once(link, id.caused(0), Designation::AskPrimary(ask));
    Ok(Outcome::Done)
}

/// Nothing more is asked for a group that is left: what has not been answered yet would bring it back.
fn forget_requests(tables: &mut Tables, left: &GroupName) {
    let is_about = |what: &Designation| match what {
        Designation::JoinGroup { group } | Designation::JoinJournal { group, .. } => group == left,
        _ => false,
    };
    let about: Vec<u64> = tables
        .forwards
        .iter()
        .filter(|forward| is_about(&forward.designation))
        .map(|forward| forward.sequence)
        .collect();
    about.iter().for_each(|sequence| {
        tables.forwards.remove(sequence);
    });
}

/// At the primary: an auxiliary wants something done to its own pairs.
pub(super) fn asked(
    tables: &mut Tables,
    id: DesignationId,
    ask: &Ask,
    who: &Who,
) -> Result<Outcome, Refusal> {
    let (array, link) = peer(tables, who)?;
    if ask.wish == Wish::Leave {
        return leave(tables, id, &ask.group, who);
    }
    let number = cascade::serving_group(tables, &ask.group)?.number;
    if tables.readers.get(&(number, array)).is_none_or(|reader| reader.is_attached) {
        return Err(Refusal::conflict(format!("array {array} does not copy group {}", ask.group)));
    }
    let which = match &ask.pair {
        None => Which::Reader(link),
        Some(name) => Which::Pair(own_pair(tables, number, name, who)?),
    };
    match ask.wish {
        Wish::Suspend { svol } => pairs::suspend(tables, &ask.group, &which, svol),
        Wish::Resync { image } => pairs::resync(tables, &ask.group, &which, image),
        Wish::Delete => pairs::delete(tables, &ask.group, &which),
        Wish::Leave => Ok(Outcome::Done),
    }
}

/// A pair of the group whose S-VOL is at the array that speaks.
fn own_pair(tables: &Tables, group: GroupNumber, name: &PairName, who: &Who) -> Result<PairName, Refusal> {
    let (array, _) = peer(tables, who)?;
    let pair = tables.served_pairs(group).find(|pair| pair.name == *name);
    match pair {
        Some(pair) if pair.auxiliary.array == array => Ok(name.clone()),
        Some(_) => Err(Refusal::conflict("an array speaks of its own pairs only")),
        None => Err(Refusal::missing("pair", name)),
    }
}

/// The array that speaks leaves a group. One that is not in it has left.
fn leave(tables: &mut Tables, id: DesignationId, group: &GroupName, who: &Who) -> Result<Outcome, Refusal> {
    let (array, link) = peer(tables, who)?;
    let known = tables.group_named(group).map(|row| row.number);
    let reader = known.and_then(|number| tables.readers.get(&(number, array)));
    match reader {
        Some(reader) if !reader.is_attached => cascade::delete_reader(tables, id, group, &link),
        Some(_) | None => Ok(Outcome::Done),
    }
}

/// At the auxiliary: the primary has taken note. A group that it never made known here goes with that; another one goes
/// when it says so.
pub(super) fn ask_accepted(tables: &mut Tables, ask: &Ask) {
    let Some(row) = tables.group_named(&ask.group) else { return };
    let is_unknown_there = matches!(row.role, GroupRole::Auxiliary { remote: None, .. });
    if ask.wish == Wish::Leave && is_unknown_there {
        let number = row.number;
        pairs::remove_group(tables, number);
    }
}

/// A stop that came of a suspension goes with it: nothing behind the suspension comes any more, or the pairs go on.
pub(super) fn lift_stop_of_suspension(tables: &mut Tables, group: GroupNumber) {
    if let Some(row) = tables.groups.edit(&group)
        && row.is_stop_of_suspension
    {
        (row.restore_stop, row.is_stop_of_suspension) = (None, false);
    }
}

/// At the auxiliary: the primary refuses, so that nothing is left of what was asked.
pub(super) fn refused(tables: &mut Tables, what: &Designation) {
    let Designation::AskPrimary(Ask { group, wish: Wish::Suspend { .. }, .. }) = what else { return };
    if let Some(number) = tables.group_named(group).map(|row| row.number) {
        lift_stop_of_suspension(tables, number);
    }
}
