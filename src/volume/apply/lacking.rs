//! Readers that their new primary takes up ([`crate::volume::onward`]): one that lacks what it had acknowledged, and the names
//! of the pairs of those that are about to come; and what the old primary says of theirs.

use crate::volume::designation::{Designation, Refusal};
use crate::volume::name::{ArrayNumber, GroupNumber, PairName, UpdateNumber};
use crate::volume::onward::Stopped;
use crate::volume::pair::{Asked, PairRecord, PairState, SuspendCause};
use crate::volume::record::ForwardRecord;
use crate::volume::reversal::{Reversal, ReversalStep};
use crate::volume::table::Tables;

/// At the new primary: the reader says that it lacks what it is taken to have. What is done about it needs the group at work.
pub(super) fn refused(tables: &mut Tables, sequence: u64, refusal: &Refusal) {
    let Some(ForwardRecord { link, designation: Designation::RemoteOnward(told), .. }) =
        tables.forwards.get(&sequence).cloned()
    else {
        return;
    };
    let array = tables.links.get(&link).map(|link| link.array);
    let group = tables.group_named(&told.group).map(|row| row.number);
    if let (Refusal::Lacks { .. }, Some(group), Some(array)) = (refusal, group, array)
        && tables.readers.get(&(group, array)).is_some_and(|reader| reader.is_untold && !reader.is_lacking)
        && let Some(reader) = tables.readers.edit(&(group, array))
    {
        reader.is_lacking = true;
    }
}

impl Tables {
    /// At a primary: the pairs of a reader that said that it lacks something, and are still taken for copies of what was.
    pub(crate) fn pairs_taken_for_normal(&self, group: GroupNumber, array: ArrayNumber) -> Vec<PairRecord> {
        let is_going = |pair: &&PairRecord| {
            pair.auxiliary.array == array && matches!(pair.state, PairState::BeingCopied | PairState::Normal)
        };
        self.served_pairs(group).filter(is_going).cloned().collect()
    }

    /// All of the reader's S-VOLs counts as different here, with this transaction: it is told so, and is not taken to have
    /// anything any more.
    pub(crate) fn lacks_are_marked(&mut self, group: GroupNumber, array: ArrayNumber, reason: &str) {
        let Some(name) = self.groups.get(&group).map(|row| row.name.clone()) else { return };
        let Some(reader) = self.readers.edit(&(group, array)) else { return };
        (reader.assumed, reader.is_lacking) = (UpdateNumber(0), false);
        let link = reader.link.clone();
        let is_meant =
            |what: &Designation| matches!(what, Designation::RemoteOnward(told) if told.group == name);
        let meant = self.forwards_to(&link).filter(|forward| is_meant(&forward.designation));
        let meant: Vec<u64> = meant.map(|forward| forward.sequence).collect();
        for sequence in meant {
            let Some(forward) = self.forwards.edit(&sequence) else { continue };
            if let Designation::RemoteOnward(told) = &mut forward.designation {
                told.assumed = UpdateNumber(0);
                for pair in &mut told.pairs {
                    pair.stopped.get_or_insert_with(|| reason.to_owned());
                }
            }
        }
    }

    /// Whether a pair has this name, or will have it as soon as a promise is kept to take up the readers of another primary.
    pub(super) fn is_pair_name_taken(&self, name: &PairName) -> bool {
        let is_to_come = self.groups.iter().any(|row| match &row.reversal {
            Some(Reversal { step: ReversalStep::TakingOver(told), .. }) => {
                told.others.iter().flat_map(|other| &other.pairs).any(|pair| pair.name == *name)
            }
            _ => false,
        });
        is_to_come || self.pair_named(name).is_some()
    }
}

/// What the old primary says of a pair of another reader.
pub(super) fn stopped(pair: &PairRecord, runs: Option<&Vec<(u64, u64)>>, all_stop: bool) -> Option<Stopped> {
    if pair.state == PairState::Normal && !all_stop {
        return None;
    }
    let asked = matches!(pair.control.asked, Some(Asked::Resync | Asked::ResyncSent | Asked::ResyncAccepted));
    let is_abnormal = pair.state == PairState::Abnormal;
    Some(Stopped {
        cause: (!is_abnormal).then(|| pair.control.cause.unwrap_or(SuspendCause::Operator)),
        reason: pair.reason.clone().unwrap_or_else(|| "its group was turned round".to_owned()),
        goes_on: asked || pair.state == PairState::Normal,
        told: pair.control.told,
        withheld_from: pair.control.withheld_from,
        runs: runs.cloned().unwrap_or_else(|| vec![(0, pair.size_bytes)]),
        reaches: None,
    })
}
