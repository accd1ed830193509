//! What is not designated of a group while a takeover of it is on its way, or has not been decided (decision 19).

use crate::volume::designation::{Designation, Refusal, Which};
use crate::volume::name::{GroupName, GroupNumber, LinkName, PairName, PairNumber};
use crate::volume::pair::{Asked, PairRecord};
use crate::volume::record::{ForwardRecord, Who};
use crate::volume::resync::RESYNC_PAIRS_MAX;
use crate::volume::table::Tables;
use crate::volume::takeover::Takeover;
use crate::volume::timing::StopWish;

/// The groups whose copies here another array, or an operator, would make something else of.
fn groups_changed(tables: &Tables, what: &Designation) -> Vec<GroupNumber> {
    let of_pair = |name: &PairName| tables.pair_named(name).map(|pair| pair.group);
    let of_group = |name: &GroupName| tables.group_named(name).map(|row| row.number);
    match what {
        Designation::RemoteResync { pairs, .. } | Designation::RemoteSvolWrite { pairs } => {
            pairs.iter().take(RESYNC_PAIRS_MAX).filter_map(|one| of_pair(&one.pair)).collect()
        }
        Designation::RemoteDeletePair { pair, .. } => of_pair(pair).into_iter().collect(),
        Designation::RemotePair(remote) => of_group(&remote.group).into_iter().collect(),
        Designation::RemoteReverse(told) => of_group(&told.group).into_iter().collect(),
        Designation::RemoteOnward(told) => of_group(&told.group).into_iter().collect(),
        Designation::DropImage { group } => of_group(group).into_iter().collect(),
        _ => Vec::new(),
    }
}

impl Tables {
    /// Refuses what would make something else of S-VOLs while this array takes their group over: what they are is what it goes on
    /// from. What of it comes from the primary is offered again, and refused by what this array is then.
    pub(crate) fn is_not_taking_over(&self, what: &Designation) -> Result<(), Refusal> {
        for group in groups_changed(self, what).iter().filter_map(|number| self.groups.get(number)) {
            let is_moving = matches!(group.takeover, Some(Takeover::Moving(_)))
                && !matches!(what, Designation::RemoteOnward(_) | Designation::DropImage { .. });
            if is_moving {
                let text = format!("group {} goes on from another array here", group.name);
                return Err(Refusal::Conflict(text));
            }
            if matches!(group.takeover, Some(Takeover::Reaching | Takeover::Restoring)) {
                let text = format!("group {} is being taken over here at this moment", group.name);
                return Err(Refusal::Conflict(text));
            }
        }
        Ok(())
    }
}

/// At a new primary: what its former one has asked of a pair before it hears that it was overtaken was not asked of this array. It hears of that first,
/// and calls it back; or it answers why that is nothing to it, and the pair there goes.
pub(super) fn has_heard_of_takeover(tables: &Tables, name: &PairName, who: &Who) -> Result<(), Refusal> {
    let Who::Peer { array, .. } = who else { return Ok(()) };
    let Some(pair) = tables.pair_named(name).filter(|pair| pair.auxiliary.array == *array) else {
        return Ok(());
    };
    let Some(row) = tables.groups.get(&pair.group) else { return Ok(()) };
    let is_unheard = |forward: &ForwardRecord| match &forward.designation {
        Designation::RemoteTakeover(told) => told.group == row.name && forward.refusal.is_none(),
        _ => false,
    };
    if tables.forwards_to(&pair.link).any(is_unheard) {
        let text =
            format!("group {} was taken over here, and array {array} has not heard of it yet", row.name);
        return Err(Refusal::Conflict(text));
    }
    Ok(())
}

impl Tables {
    /// At an array that another one has overtaken: that pairs with it, or the group, shall go was asked before, and of other roles. What goes is
    /// decided with who stays. One that goes there already, because the other array had obeyed, goes.
    pub(super) fn call_back_deletions(&mut self, group: GroupNumber, link: &LinkName) {
        let is_going =
            |pair: &&PairRecord| matches!(pair.control.asked, Some(Asked::Delete | Asked::DeleteSent));
        let going: Vec<(PairNumber, PairName)> = self
            .pairs_over(group, link)
            .filter(is_going)
            .map(|pair| (pair.number, pair.name.clone()))
            .collect();
        for (number, name) in going {
            self.forget_forwards(
                link,
                |what| matches!(what, Designation::RemoteDeletePair { pair, .. } if *pair == name),
            );
            if let Some(pair) = self.pairs.edit(&number) {
                pair.control.asked = None;
            }
        }
        let leaving =
            self.all_readers_of_group(group).find(|reader| reader.link == *link && reader.is_leaving);
        if let Some(array) = leaving.map(|reader| reader.array)
            && let Some(reader) = self.readers.edit(&(group, array))
        {
            reader.is_leaving = false;
        }
        if self.groups.get(&group).is_some_and(|row| row.is_leaving)
            && let Some(row) = self.groups.edit(&group)
        {
            row.is_leaving = false;
        }
    }
}

/// What a reader that goes on from another array may wait for: its operator lets restore go on, or replaces a journal.
fn moving_waits_for(what: &Designation) -> bool {
    matches!(
        what,
        Designation::StopRestore { wish: StopWish::GoOn, .. }
            | Designation::AddJournal { at: None, .. }
            | Designation::RemoveJournal { .. }
            | Designation::ReplaceJournal { .. }
    )
}

/// What would be said to the wrong array, or would copy over what nobody has given up, is not designated.
pub(super) fn check(tables: &Tables, what: &Designation) -> Result<(), Refusal> {
    tables.is_not_taking_over(what)?;
    let group = match what {
        Designation::ReverseGroup { group, .. } => Some(group),
        _ => super::reverse::group_meant(what),
    };
    let Some(group) = group else { return Ok(()) };
    let Some(row) = tables.group_named(group) else { return Ok(()) };
    let is_of = |link: &LinkName, which: &Which| match which {
        Which::All => tables.pairs_over(row.number, link).next().is_some(),
        Which::Reader(reader) => reader == link,
        Which::Pair(pair) => tables.pair_named(pair).is_some_and(|pair| pair.link == *link),
    };
    let (link, is_refused) = match &row.takeover {
        None => return Ok(()),
        Some(Takeover::Taken(taken)) => {
            let is_refused = match what {
                Designation::ResyncPairs { which, .. } => is_of(&taken.link, which),
                Designation::ReverseGroup { .. } => true,
                _ => false,
            };
            (taken.link.to_string(), is_refused)
        }
        Some(Takeover::Overtaken(other) | Takeover::Retaking(other)) => {
            let is_allowed = match what {
                Designation::DeleteReader { link, .. } => *link != other.link,
                Designation::DeletePairs { which, .. } => !is_of(&other.link, which),
                // One whose journal has failed can neither become a copy nor go on as the primary.
                Designation::AddJournal { at: None, .. }
                | Designation::RemoveJournal { .. }
                | Designation::ReplaceJournal { .. } => true,
                _ => false,
            };
            (other.link.to_string(), !is_allowed)
        }
        Some(Takeover::Yielding(yielding)) => (yielding.to.link.to_string(), true),
        Some(Takeover::Moving(moving)) => (moving.whom(), !moving_waits_for(what)),
        Some(Takeover::Reaching | Takeover::Restoring) => ("its primary".to_owned(), true),
    };
    if !is_refused {
        return Ok(());
    }
    let state = row.takeover.as_ref().map_or_else(String::new, ToString::to_string);
    Err(Refusal::conflict(format!(
        "group {group} is {state} (takeover, with {link}): `group takeover` or `group failback` decide first"
    )))
}
