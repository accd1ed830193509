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
//! While the primary cannot be reached a suspension of all pairs stops restore here at once. That stop goes when the
//! primary refuses, or says that the suspension is over ([`Designation::SuspensionEnded`]): it does so when no pair of the
//! array that asked is to be stopped any more, whatever became of each. Said more than once, the stop goes with the last
//! that is open: those that have not been answered, and what was accepted and is not over. So a stop never outlives what
//! it came of, and nothing else takes it away before but the operator, and pairs that are all stopped or taken away.
//!
//! In the middle of a cascade a group's own verbs mean the pairs whose P-VOLs are there, as long as there are any; a pair
//! is meant by its name, wherever its P-VOL is.

use super::cascade;
use super::copy::{copied_group, followed_group, peer};
use super::pairs;
use super::remote::FORWARDS_MAX;
use crate::volume::ask::{Ask, AskedBy, Wish};
use crate::volume::designation::{Designation, DesignationId, Outcome, Refusal, Which};
use crate::volume::group::GroupRole;
use crate::volume::name::{ArrayNumber, GroupName, GroupNumber, LinkName, PairName};
use crate::volume::pair::{Asked, PairRecord, PairState};
use crate::volume::record::{ForwardRecord, Identity, ReaderRecord, Who};
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
    if matches!(ask.wish, Wish::Resync { .. }) && ask.pair.is_none() {
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
        Wish::Suspend { svol } => {
            let outcome = pairs::suspend(tables, &ask.group, &which, svol)?;
            if ask.pair.is_none()
                && let Some(reader) = tables.readers.edit(&(number, array))
            {
                reader.awaits_suspension = Some(id);
            }
            Ok(outcome)
        }
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
        Some(_) => Ok(Outcome::Done),
        None => {
            // Its last pair has gone, and it has not been told that the group has gone with that.
            super::local::within(tables.forwards.len(), FORWARDS_MAX, "designations on their way")?;
            let what = Designation::RemoteDeleteGroup { group: group.clone() };
            if !tables.forwards_to(&link).any(|forward| forward.designation == what) {
                tables.forward(&link, id.caused(0), what);
            }
            Ok(Outcome::Done)
        }
    }
}

/// At the auxiliary: the primary has taken note. A group that it never made known here goes with that; another one goes
/// when it says so.
pub(super) fn ask_accepted(tables: &mut Tables, ask: &Ask) {
    let Some(row) = tables.group_named(&ask.group) else { return };
    let is_unknown_there = matches!(row.role, GroupRole::Auxiliary { remote: None, .. });
    let number = row.number;
    match ask.wish {
        Wish::Leave if is_unknown_there => pairs::remove_group(tables, number),
        Wish::Suspend { .. } if ask.pair.is_none() => {
            if let Some(row) = tables.groups.edit(&number) {
                row.suspension_is_accepted = true;
            }
        }
        Wish::Suspend { .. } | Wish::Resync { .. } | Wish::Delete | Wish::Leave => {}
    }
}

/// At the auxiliary: the primary has done what is to be done of a suspension.
pub(super) fn suspension_ended(
    tables: &mut Tables,
    group: &GroupName,
    of: DesignationId,
    who: &Who,
) -> Result<Outcome, Refusal> {
    let (_, link) = peer(tables, who)?;
    // Of a group that comes from elsewhere by now it means nothing.
    let Ok(number) = followed_group(tables, group, who) else { return Ok(Outcome::Done) };
    // What is over was accepted: the answer that says so may come later than this, or have been lost with its link.
    let meant = tables.forwards_to(&link).filter(|forward| forward.id == of && is_suspension(forward, group));
    let meant: Vec<u64> = meant.map(|forward| forward.sequence).collect();
    for sequence in meant {
        tables.forwards.remove(&sequence);
    }
    if let Some(row) = tables.groups.edit(&number) {
        row.suspension_is_accepted = false;
    }
    if !tables.is_suspension_on_its_way(group) {
        lift_stop_of_suspension(tables, number);
    }
    Ok(Outcome::Done)
}

/// Whether this asks for a suspension of all pairs of the group.
fn is_suspension(forward: &ForwardRecord, group: &GroupName) -> bool {
    match &forward.designation {
        Designation::AskPrimary(ask) => {
            ask.group == *group && ask.pair.is_none() && matches!(ask.wish, Wish::Suspend { .. })
        }
        _ => false,
    }
}

/// At the auxiliary: nothing comes any more behind the stop of a suspension when all pairs are stopped, or go.
pub(super) fn lift_if_nothing_comes(tables: &mut Tables, group: GroupNumber) {
    let Some(name) = tables.groups.get(&group).map(|row| row.name.clone()) else { return };
    if tables.followed_pairs(group).all(|pair| pair.state.is_stopped() || pair.is_leaving())
        && !tables.is_suspension_on_its_way(&name)
    {
        lift_stop_of_suspension(tables, group);
    }
}

/// What is asked about a group and is on its way to the array behind a link.
pub(super) fn asked_there(tables: &Tables, link: &LinkName, group: &GroupName) -> Vec<(DesignationId, Ask)> {
    let asks = tables.forwards_to(link).filter_map(|forward| match &forward.designation {
        Designation::AskPrimary(ask) if ask.group == *group => Some((forward.id, ask.clone())),
        _ => None,
    });
    asks.collect()
}

/// A stop that came of a suspension goes with it.
pub(super) fn lift_stop_of_suspension(tables: &mut Tables, group: GroupNumber) {
    if let Some(row) = tables.groups.edit(&group) {
        row.forget_suspension();
    }
}

/// At the auxiliary: the primary refuses, so that nothing is left of what was asked.
pub(super) fn refused(tables: &mut Tables, what: &Designation) {
    let Designation::AskPrimary(Ask { group, pair: None, wish: Wish::Suspend { .. }, .. }) = what else {
        return;
    };
    let Some(row) = tables.group_named(group) else { return };
    // Said again, or before: that one is waited for.
    if !tables.is_suspension_on_its_way(group) && !row.suspension_is_accepted {
        let number = row.number;
        lift_stop_of_suspension(tables, number);
    }
}

impl Tables {
    /// At an auxiliary: whether a suspension of all pairs of a group has not been answered by its primary yet.
    pub(super) fn is_suspension_on_its_way(&self, group: &GroupName) -> bool {
        self.forwards.iter().any(|forward| is_suspension(forward, group))
    }

    /// At an auxiliary: takes away the stop of a suspension that nobody will say the end of any more.
    pub(crate) fn lift_answered_suspension(&mut self, group: GroupNumber) {
        let name = self.groups.get(&group).map(|row| row.name.clone());
        if name.is_some_and(|name| !self.is_suspension_on_its_way(&name)) {
            lift_stop_of_suspension(self, group);
        }
    }

    /// At a primary: the readers that wait for the end of a suspension of which nothing is left to do.
    pub(crate) fn ended_suspensions(&self) -> Vec<(GroupNumber, ArrayNumber)> {
        let is_to_stop = |pair: &PairRecord| {
            matches!(pair.control.asked, Some(Asked::Suspend(_))) && pair.state != PairState::Abnormal
        };
        let has_ended = |reader: &&ReaderRecord| {
            let mut its = self.served_pairs(reader.group).filter(|pair| pair.auxiliary.array == reader.array);
            reader.awaits_suspension.is_some() && !its.any(is_to_stop)
        };
        self.readers.iter().filter(has_ended).map(|reader| (reader.group, reader.array)).collect()
    }

    /// They are told, once each, behind what they are told of their pairs.
    pub(crate) fn tell_ended_suspensions(&mut self, identity: &mut dyn FnMut() -> Identity) {
        for key in self.ended_suspensions() {
            let Some(name) = self.groups.get(&key.0).map(|row| row.name.clone()) else { continue };
            let Some(reader) = self.readers.edit(&key) else { continue };
            let (Some(of), link) = (reader.awaits_suspension.take(), reader.link.clone()) else { continue };
            self.forget_forwards(&link, |told| match told {
                Designation::SuspensionEnded { group, .. } => *group == name,
                _ => false,
            });
            self.forward(&link, DesignationId(identity()), Designation::SuspensionEnded { group: name, of });
        }
    }

    /// Takes back what is on its way to the array behind a link.
    pub(super) fn forget_forwards(&mut self, link: &LinkName, is_meant: impl Fn(&Designation) -> bool) {
        let meant = self.forwards_to(link).filter(|forward| is_meant(&forward.designation));
        let meant: Vec<u64> = meant.map(|forward| forward.sequence).collect();
        for sequence in meant {
            self.forwards.remove(&sequence);
        }
    }
}
