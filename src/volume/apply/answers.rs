//! What the answers of other arrays to designations tell.

use super::{asked, failback, onward, pairs, reverse, sources, written};
use crate::volume::designation::{Designation, Outcome};
use crate::volume::name::GroupNumber;
use crate::volume::record::ForwardRecord;
use crate::volume::table::Tables;

/// Notes what the answer of another array tells.
pub(super) fn accepted(tables: &mut Tables, forward: &ForwardRecord, outcome: Outcome) {
    let Some(array) = tables.links.get(&forward.link).map(|link| link.array) else { return };
    sources::accepted(tables, &forward.link, &forward.designation, outcome);
    match (&forward.designation, outcome) {
        (Designation::RemoteGroup(group), Outcome::Created { number }) => {
            if let Some(reader) = tables.readers.edit(&(group.number, array)) {
                reader.remote_group = Some(GroupNumber(number));
            }
        }
        (Designation::RemotePair(remote), Outcome::Paired { volume, .. }) => {
            let number = tables.pair_named(&remote.name).map(|pair| pair.number);
            if let Some(pair) = number.and_then(|number| tables.pairs.edit(&number)) {
                pair.auxiliary.volume = Some(volume);
            }
        }
        (Designation::RemoteResync { pairs, .. }, Outcome::Done) => pairs::resync_accepted(tables, pairs),
        (Designation::AskPrimary(ask), Outcome::Done) => asked::ask_accepted(tables, ask),
        (Designation::RemoteSuspend { pair, .. }, Outcome::Done) => pairs::suspension_accepted(tables, pair),
        (Designation::RemoteReverse(told), Outcome::Created { number }) => {
            reverse::accepted(tables, told, GroupNumber(number));
        }
        (Designation::RemoteOnward(told), Outcome::Created { number }) => {
            onward::accepted(tables, told, array, GroupNumber(number));
        }
        (Designation::RemoteFailback(told), Outcome::Created { number }) => {
            failback::accepted(tables, told, GroupNumber(number));
        }
        (Designation::JoinMarks { pair, .. }, Outcome::Done) => written::marks_joined(tables, pair),
        (Designation::RemoteDeletePair { pair, .. }, Outcome::Done) => pairs::deletion_accepted(tables, pair),
        // The other answers tell nothing but that it is done.
        (_, Outcome::Done | Outcome::Shut { .. } | Outcome::Created { .. } | Outcome::Paired { .. }) => {}
    }
}
