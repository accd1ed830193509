//! A primary that is one no more has nothing to say to the readers that it had.

use crate::volume::designation::Designation;
use crate::volume::name::{ArrayNumber, GroupName, GroupNumber, LinkName};
use crate::volume::pair::PairRecord;
use crate::volume::record::ReaderRecord;
use crate::volume::table::Tables;

impl Tables {
    /// What this array had to tell the one behind a link as the primary of a group means nothing when that is the primary.
    pub(super) fn call_back_what_a_primary_says(&mut self, group: GroupNumber, link: &LinkName) {
        let name = self.groups.get(&group).map(|row| row.name.clone());
        let pairs: Vec<PairRecord> = self.pairs_of_group(group).cloned().collect();
        self.call_back(link, name.as_ref(), &pairs);
    }

    fn call_back(&mut self, link: &LinkName, name: Option<&GroupName>, pairs: &[PairRecord]) {
        let is_meant =
            |what: &Designation| concerns(what, name) || pairs.iter().any(|pair| is_about(what, pair));
        let meant = self.forwards_to(link).filter(|forward| is_meant(&forward.designation));
        let meant: Vec<u64> = meant.map(|forward| forward.sequence).collect();
        for sequence in meant {
            self.forwards.remove(&sequence);
        }
    }

    /// At the old primary, which is one no more: its other readers are the new primary's.
    pub(super) fn let_others_go(&mut self, group: GroupNumber, to: ArrayNumber) {
        let own = self.meta().number;
        let is_other = |pair: &&PairRecord| pair.primary.array == own && pair.auxiliary.array != to;
        let pairs: Vec<PairRecord> = self.pairs_of_group(group).filter(is_other).cloned().collect();
        let readers: Vec<ReaderRecord> =
            self.all_readers_of_group(group).filter(|reader| reader.array != to).cloned().collect();
        let name = self.groups.get(&group).map(|row| row.name.clone());
        for reader in &readers {
            self.call_back(&reader.link, name.as_ref(), &pairs);
            self.readers.remove(&(group, reader.array));
        }
        for pair in pairs {
            self.pairs.remove(&pair.number);
        }
    }
}

/// Whether a message to a reader is about the group.
fn concerns(what: &Designation, name: Option<&GroupName>) -> bool {
    match what {
        Designation::RemoteGroup(remote) => Some(&remote.name) == name,
        Designation::RemoteOnward(told) => Some(&told.group) == name,
        Designation::RemoteJournal { group, .. }
        | Designation::RemoteStart { group }
        | Designation::RemoteSettings { group, .. }
        | Designation::RemoteSource { group, .. }
        | Designation::SuspensionEnded { group, .. }
        | Designation::RemoteDeleteGroup { group } => Some(group) == name,
        _ => false,
    }
}

/// Whether a message to a reader is about this pair.
fn is_about(what: &Designation, pair: &PairRecord) -> bool {
    match what {
        Designation::RemotePair(remote) => remote.name == pair.name,
        Designation::RemoteSuspend { pair: about, .. }
        | Designation::RemoteDeletePair { pair: about, .. } => *about == pair.name,
        Designation::RemoteResync { pairs, .. } | Designation::RemoteSvolWrite { pairs } => {
            pairs.iter().any(|one| one.pair == pair.name)
        }
        _ => false,
    }
}
