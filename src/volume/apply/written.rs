//! S-VOLs that hosts write while their pairs are suspended (promise O2).
//!
//! The primary opens them with one message for all of its pairs at one auxiliary, so that the images kept of them are
//! of one moment. Before differences are copied again the auxiliary closes them to hosts and tells the primary where they
//! were written; only when the primary has all of that does the auxiliary accept the copy.

use super::pairs::followed_pair;
use crate::volume::designation::{Designation, DesignationId, ImageWish, Outcome, Refusal, ResyncedPair};
use crate::volume::group::GroupRole;
use crate::volume::name::{LinkName, PairName, PairNumber};
use crate::volume::pair::{PairRecord, PairState};
use crate::volume::record::{Identity, Who};
use crate::volume::resync::{RESYNC_PAIRS_MAX, RUNS_OF_A_MESSAGE};
use crate::volume::table::Tables;
use std::collections::BTreeMap;

/// At the auxiliary. All of them or none.
pub(super) fn remote_svol_write(
    tables: &mut Tables,
    pairs: &[ResyncedPair],
    who: &Who,
) -> Result<Outcome, Refusal> {
    if pairs.len() > RESYNC_PAIRS_MAX {
        return Err(Refusal::Limit { what: "pairs of a message".to_owned(), limit: RESYNC_PAIRS_MAX });
    }
    tables.restore_goes_on(pairs.iter().map(|one| &one.pair))?;
    for opened in pairs {
        let number = followed_pair(tables, &opened.pair, who)?;
        let Some(row) = tables.pairs.edit(&number) else {
            return Err(Refusal::missing("pair", &opened.pair));
        };
        if row.state != PairState::Suspended {
            return Err(Refusal::conflict(format!("pair {} is {} here", row.name, row.state)));
        }
        if row.control.svol_write {
            continue; // Said once more.
        }
        super::shown::check_one_writer(std::iter::once(&*row))?;
        if !row.control.is_image {
            let text = format!("the S-VOL of pair {} is no image of one update: it is half a copy", row.name);
            return Err(Refusal::conflict(text));
        }
        if row.control.image.is_none() {
            let text = format!("the last image of the S-VOL of pair {} is not kept yet", row.name);
            return Err(Refusal::conflict(text));
        }
        if row.control.left_behind && opened.withheld_from.is_none() && row.control.stopped_at.is_none() {
            let text = format!("nobody says of which update the S-VOL of pair {} is", row.name);
            return Err(Refusal::conflict(text));
        }
        (row.control.is_image, row.control.svol_write) = (false, true);
    }
    Ok(Outcome::Done)
}

/// At the primary: the marks themselves are with its group already (`array/written.rs`).
pub(super) fn join_marks(
    tables: &mut Tables,
    pair: &PairName,
    runs: &[(u64, u64)],
    who: &Who,
) -> Result<Outcome, Refusal> {
    let row = tables.pair_named(pair).ok_or_else(|| Refusal::missing("pair", pair))?;
    let is_primary =
        tables.groups.get(&row.group).is_some_and(|group| matches!(group.role, GroupRole::Primary));
    let is_its = matches!(who, Who::Peer { array, .. } if *array == row.auxiliary.array);
    if !(is_primary && is_its) {
        return Err(Refusal::conflict(format!("pair {pair} is not copied there from here")));
    }
    if runs.len() > RUNS_OF_A_MESSAGE {
        return Err(Refusal::Limit { what: "ranges of a message".to_owned(), limit: RUNS_OF_A_MESSAGE });
    }
    // Behind the copy's back nothing may become different.
    if matches!(row.state, PairState::Suspended | PairState::Abnormal) {
        Ok(Outcome::Done)
    } else {
        Err(Refusal::conflict(format!("pair {pair} is {}", row.state)))
    }
}

/// The primary knows some more of where hosts wrote an S-VOL here; with the last of it nothing is left to tell.
pub(super) fn marks_joined(tables: &mut Tables, pair: &PairName) {
    let is_meant =
        |what: &Designation| matches!(what, Designation::JoinMarks { pair: other, .. } if other == pair);
    let is_all = !tables.forwards.iter().any(|forward| is_meant(&forward.designation));
    let number = tables.pair_named(pair).map(|pair| pair.number);
    if is_all && let Some(pair) = number.and_then(|number| tables.pairs.edit(&number)) {
        pair.control.is_written = false;
    }
}

impl Tables {
    /// The auxiliaries of these pairs may open their S-VOLs to hosts' writes. It is known from which number on
    /// updates are withheld from them, and they are told: the images that they keep carry the number before it.
    pub(crate) fn svol_write_sent(&mut self, pairs: &[PairNumber], identity: &mut dyn FnMut() -> Identity) {
        let mut by_link: BTreeMap<LinkName, Vec<ResyncedPair>> = BTreeMap::new();
        for number in pairs {
            let Some(pair) = self.pairs.edit(number) else { continue };
            pair.control.is_svol_write_sent = true;
            by_link.entry(pair.link.clone()).or_default().push(ResyncedPair {
                pair: pair.name.clone(),
                withheld_from: pair.control.withheld_from,
                rewritten_bytes: 0,
                image: ImageWish::Keep,
                copies: pair.control.copies,
            });
        }
        for (link, opened) in by_link {
            for pairs in opened.chunks(RESYNC_PAIRS_MAX) {
                let what = Designation::RemoteSvolWrite { pairs: pairs.to_vec() };
                self.forward(&link, DesignationId(identity()), what);
            }
        }
    }

    /// These S-VOLs are out of restore for good, and hosts are let in.
    pub(crate) fn svols_opened(&mut self, pairs: &[PairNumber]) {
        for number in pairs {
            if let Some(pair) = self.pairs.edit(number) {
                pair.control.svol_open = true;
            }
        }
    }

    /// The pair is gone: what still was to be said of it, but that it goes, would be offered for ever.
    pub(super) fn forget_messages_about(&mut self, pair: &PairRecord, identity: Identity) {
        let on_their_way: Vec<_> = self.forwards_to(&pair.link).cloned().collect();
        for (index, mut forward) in (2..).zip(on_their_way) {
            let is_about_others = |resynced: &ResyncedPair| resynced.pair != pair.name;
            let is_left = match &mut forward.designation {
                Designation::RemoteSuspend { pair: about, .. }
                | Designation::JoinMarks { pair: about, .. } => *about != pair.name,
                Designation::RemoteSvolWrite { pairs } | Designation::RemoteResync { pairs, .. } => {
                    if pairs.iter().all(is_about_others) {
                        continue;
                    }
                    pairs.retain(is_about_others);
                    !pairs.is_empty()
                }
                _ => continue,
            };
            self.forwards.remove(&forward.sequence);
            if is_left {
                // The other array may have seen it as it was: this is another message.
                let id = DesignationId(Identity(identity.0 ^ index));
                self.forward(&forward.link, id, forward.designation);
            }
        }
    }

    /// These pairs are copied again: what was on its way to open their S-VOLs must not come behind that.
    pub(super) fn call_back_svol_writes(
        &mut self,
        pairs: &[PairNumber],
        identity: &mut dyn FnMut() -> Identity,
    ) {
        let names: Vec<PairName> =
            pairs.iter().filter_map(|number| self.pairs.get(number)).map(|pair| pair.name.clone()).collect();
        let on_their_way: Vec<_> = self.forwards.iter().cloned().collect();
        for forward in on_their_way {
            let Designation::RemoteSvolWrite { pairs } = forward.designation else { continue };
            let others: Vec<ResyncedPair> =
                pairs.iter().filter(|opened| !names.contains(&opened.pair)).cloned().collect();
            if others.len() == pairs.len() {
                continue;
            }
            self.forwards.remove(&forward.sequence);
            if !others.is_empty() {
                let what = Designation::RemoteSvolWrite { pairs: others };
                self.forward(&forward.link, DesignationId(identity()), what);
            }
        }
    }

    /// Hosts have been shut out of these S-VOLs; where they wrote is told to the primary.
    ///
    /// # Errors
    /// An operator has just sent them to a snapshot, where only S-VOLs come that hosts may write, or let restore stop: they are opened again.
    pub(crate) fn close_svols(
        &mut self,
        written: &[(PairNumber, Vec<(u64, u64)>)],
        identity: &mut dyn FnMut() -> Identity,
    ) -> Result<(), Refusal> {
        self.restore_goes_on(written.iter().filter_map(|(number, _)| Some(&self.pairs.get(number)?.name)))?;
        self.svols_closed(written, identity);
        Ok(())
    }

    /// The same where an operator has no say any more.
    pub(super) fn svols_closed(
        &mut self,
        written: &[(PairNumber, Vec<(u64, u64)>)],
        identity: &mut dyn FnMut() -> Identity,
    ) {
        for (number, runs) in written {
            let Some(pair) = self.pairs.edit(number) else { continue };
            (pair.control.svol_write, pair.control.svol_open) = (false, false);
            pair.control.is_written = !runs.is_empty();
            let (pair, link) = (pair.name.clone(), pair.link.clone());
            for runs in runs.chunks(RUNS_OF_A_MESSAGE) {
                let what = Designation::JoinMarks { pair: pair.clone(), runs: runs.to_vec() };
                self.forward(&link, DesignationId(identity()), what);
            }
        }
    }
}
