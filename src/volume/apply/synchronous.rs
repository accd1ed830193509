//! Which array is the synchronous copy of a group (promise K6; decision 22).
//!
//! # What it guarantees
//! * **Every array knows its partner**: the one with which it is the synchronous pair of the group, or was last. It is chosen with
//!   `pair create --copy sync`, and by command at any array in any role; nobody has to say it again behind a change of roles.
//! * **An array that becomes the primary lets hosts wait for its partner**, if that is one of its readers, and for nobody else: whoever
//!   it took the role from, as often as roles change. Where it has none its copies are asynchronous, until an operator names one.
//! * **At most one reader is synchronous, and it knows**: the primary decides, every answer to a journal read says it, and the reader
//!   takes note ([`Tables::is_second`]). Nothing is shown as synchronised because of that: a lease says so (decision 20).
//!
//! A pair's mode is what is in force; the partner is what is remembered. While a pair is [`CopyMode::SyncJournal`] its two arrays are each
//! other's partner.

use super::copy::copied_group;
use crate::volume::designation::{Outcome, Refusal};
use crate::volume::group::{GroupRecord, GroupRole};
use crate::volume::kind::CopyMode;
use crate::volume::name::{ArrayNumber, GroupName, GroupNumber, LinkName, PairNumber};
use crate::volume::pair::PairRecord;
use crate::volume::table::Tables;

/// By the operator: hosts of this array wait for the one behind that link, or for none. At a copy that is for when it is the primary.
pub(super) fn set_synchronous(
    tables: &mut Tables,
    group: &GroupName,
    with: Option<&LinkName>,
) -> Result<Outcome, Refusal> {
    let number = tables.group_named(group).ok_or_else(|| Refusal::missing("group", group))?.number;
    let partner = match with {
        None => None,
        Some(link) => Some(tables.links.get(link).ok_or_else(|| Refusal::missing("link", link))?.array),
    };
    if tables.pairs_of_group(number).any(|pair| pair.shared.is_some()) {
        let text = "hosts see one unit at both arrays of its synchronous pair, which no other copy can take the place of";
        return Err(Refusal::conflict(format!("group {group}: {text}")));
    }
    if let Some((_, source)) = copied_group(tables, group)? {
        if tables.followed_pairs(number).any(|pair| pair.copy == CopyMode::SyncJournal) {
            let text = format!("hosts of {source} wait for this copy of group {group}: that is said there");
            return Err(Refusal::conflict(text));
        }
    } else if tables.is_forwarded(number) {
        return Err(Refusal::conflict(format!(
            "writes of group {group} are forwarded: that is its synchronous copy"
        )));
    } else if let Some(link) = with {
        check_partner(tables, group, number, link)?;
    }
    if let Some(row) = tables.groups.edit(&number) {
        row.partner = partner;
    }
    tables.partner_is_waited_for(number);
    Ok(Outcome::Done)
}

/// At the primary: whether that reader can be the one that hosts wait for.
fn check_partner(
    tables: &Tables,
    group: &GroupName,
    number: GroupNumber,
    link: &LinkName,
) -> Result<(), Refusal> {
    let conflict = |text: String| Err(Refusal::Conflict(format!("group {group}: {text}")));
    if let Some(relay) = super::relay::waits_for(tables, group).next() {
        return conflict(format!("its hosts wait for relay {}", relay.name));
    }
    if tables.groups.get(&number).is_none_or(|row| row.journals.is_empty()) {
        return conflict("it has no journal volume here".to_owned());
    }
    let mut readers = tables.all_readers_of_group(number).filter(|reader| reader.link == *link);
    let Some(reader) = readers.next() else { return conflict(format!("{link} does not copy it")) };
    if reader.is_attached || reader.reads_from.is_some() || reader.is_leaving {
        return conflict(format!("{link} reads it from two arrays, or is being taken away"));
    }
    if !tables.served_pairs(number).any(|pair| pair.auxiliary.array == reader.array) {
        return conflict(format!("{link} keeps its journals and has no pairs"));
    }
    Ok(())
}

impl Tables {
    /// A pair with that array was made, in that way.
    pub(super) fn note_partner(&mut self, group: GroupNumber, other: ArrayNumber, copy: CopyMode) {
        let Some(row) = self.groups.get(&group) else { return };
        let partner = match copy {
            CopyMode::SyncJournal => Some(other),
            CopyMode::Async | CopyMode::Sync => row.partner.filter(|known| *known != other),
        };
        self.set_partner(group, partner);
    }

    /// At an array that becomes the primary, before its readers are taken on: it stays the synchronous pair with who has been the
    /// primary, if it was that.
    pub(super) fn partner_stays(&mut self, group: GroupNumber, former: ArrayNumber) {
        let mut pairs = self.pairs_with(group, former);
        if pairs.any(|pair| pair.copy == CopyMode::SyncJournal) {
            drop(pairs);
            self.set_partner(group, Some(former));
        }
    }

    /// At the primary: the pairs with its partner are synchronous, and no other ones.
    pub(super) fn partner_is_waited_for(&mut self, group: GroupNumber) {
        let Some(row) = self.groups.get(&group) else { return };
        // It never changes how a group without a journal follows.
        if row.role != GroupRole::Primary || row.journals.is_empty() {
            return;
        }
        let is_relayed = super::relay::waits_for(self, &row.name).next().is_some();
        let partner = row.partner.filter(|_| !is_relayed);
        let pairs: Vec<(PairNumber, CopyMode)> =
            self.served_pairs(group).map(|pair| (pair.number, mode(pair, partner))).collect();
        self.set_modes(pairs);
    }

    /// At a copy: the primary says whether this array is its synchronous copy.
    pub(crate) fn is_second(&mut self, group: GroupNumber, source: ArrayNumber, is_second: bool) {
        let Some(row) = self.groups.get(&group) else { return };
        let is_theirs = matches!(&row.role, GroupRole::Auxiliary { source: from, .. } if *from == source);
        if !is_theirs || is_changing(row) {
            return;
        }
        let known = row.partner;
        let partner = if is_second { Some(source) } else { known.filter(|known| *known != source) };
        self.set_partner(group, partner);
        let pairs: Vec<(PairNumber, CopyMode)> = self
            .followed_pairs(group)
            .map(|pair| (pair.number, mode(pair, Some(source).filter(|_| is_second))))
            .collect();
        self.set_modes(pairs);
    }

    fn set_partner(&mut self, group: GroupNumber, partner: Option<ArrayNumber>) {
        let is_news = self.groups.get(&group).is_some_and(|row| row.partner != partner);
        if let Some(row) = self.groups.edit(&group).filter(|_| is_news) {
            row.partner = partner;
        }
    }

    fn set_modes(&mut self, modes: Vec<(PairNumber, CopyMode)>) {
        for (number, copy) in modes {
            let is_news = self.pairs.get(&number).is_some_and(|pair| pair.copy != copy);
            if let Some(pair) = self.pairs.edit(&number).filter(|_| is_news) {
                pair.copy = copy;
            }
        }
    }
}

/// How the pair follows when that array, of either end, is the partner.
fn mode(pair: &PairRecord, partner: Option<ArrayNumber>) -> CopyMode {
    let is_with = |array| partner == Some(array);
    match pair.copy {
        CopyMode::Sync => CopyMode::Sync,
        _ if is_with(pair.auxiliary.array) || is_with(pair.primary.array) => CopyMode::SyncJournal,
        CopyMode::Async | CopyMode::SyncJournal => CopyMode::Async,
    }
}

/// Whether its role is about to change: what its source says then is of the role before.
fn is_changing(row: &GroupRecord) -> bool {
    row.reversal.is_some() || row.takeover.is_some()
}
