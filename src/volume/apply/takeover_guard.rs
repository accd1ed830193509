//! What is not designated of a group while a takeover of it is on its way, or has not been decided (decision 19).

use crate::volume::designation::{Designation, Refusal, Which};
use crate::volume::name::{GroupName, GroupNumber, LinkName, PairName};
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
        Designation::RemoteDeletePair { pair } => of_pair(pair).into_iter().collect(),
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
