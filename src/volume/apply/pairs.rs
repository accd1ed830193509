//! Designations that stop pairs, copy their differences and take them away (promise O2), at the primary and, in the
//! `remote_` forms, at the auxiliary.
//!
//! Here only what is asked is noted ([`Asked`]): the group at work has steps to make that take time
//! (`array/pairs.rs`), and each of them is recorded by one of the functions at the end of this file. A designation on
//! its way to the other array is put on the list in the same transaction.

use super::asked;
use super::cascade::{delete_below, group_with_pvols, pass_down};
use super::copy::{copied_group, followed_group, peer, primary_group, set_volume_state};
use crate::volume::designation::{
    Designation, DesignationId, ImageWish, Outcome, Refusal, ResyncedPair, SvolHosts, Which,
};
use crate::volume::group::{GroupRole, JournalVolume};
use crate::volume::kind::CopyMode;
use crate::volume::name::{GroupName, GroupNumber, LinkName, PairName, PairNumber, UpdateNumber};
use crate::volume::pair::{Asked, PairEvent, PairRecord, PairState, SuspendCause};
use crate::volume::record::{ForwardRecord, Identity, VolumeState, Who};
use crate::volume::resync::RESYNC_PAIRS_MAX;
use crate::volume::table::Tables;
use std::collections::BTreeMap;

pub(super) fn suspend(
    tables: &mut Tables,
    group: &GroupName,
    which: &Which,
    svol: SvolHosts,
) -> Result<Outcome, Refusal> {
    let cause = SuspendCause::Operator;
    let pairs = chosen(tables, group, which)?;
    if svol == SvolHosts::Write {
        let is_new = |pair: &&PairRecord| pair.state == PairState::NotYetCopied;
        if let Some(pair) = pairs.iter().filter_map(|pair| tables.pairs.get(pair)).find(is_new) {
            let text =
                format!("nothing of pair {} was ever copied: its S-VOL is no copy to write", pair.name);
            return Err(Refusal::conflict(text));
        }
        super::shown::check_one_writer(pairs.iter().filter_map(|pair| tables.pairs.get(pair)))?;
    }
    let is_second = |pair: &PairRecord| pair.copy == CopyMode::SyncJournal;
    let lets_go = pairs.iter().filter_map(|pair| tables.pairs.get(pair)).any(is_second);
    if lets_go
        && let Some(number) = tables.group_named(group).filter(|row| row.is_together).map(|row| row.number)
        && let Some(row) = tables.groups.edit(&number)
    {
        row.goes_alone = true; // Also if they are stopped already: hosts may be refused because of them.
    }
    for pair in pairs {
        let Some(pair) = tables.pairs.edit(&pair) else { continue };
        if svol == SvolHosts::Write && pair.state != PairState::Abnormal {
            (pair.control.svol_write, pair.control.is_svol_write_sent) = (true, false);
        }
        match pair.state {
            PairState::Unused | PairState::Abnormal => {}
            // That is what it is; the other array has been told, or will be.
            PairState::Suspended if pair.control.cause == Some(cause) && pair.control.asked.is_none() => {}
            PairState::Suspended => {
                (pair.control.cause, pair.control.asked) = (Some(cause), Some(Asked::Suspend(cause)));
            }
            PairState::NotYetCopied | PairState::BeingCopied | PairState::Normal => {
                pair.control.asked = Some(Asked::Suspend(cause));
            }
        }
    }
    Ok(Outcome::Done)
}

pub(super) fn resync(
    tables: &mut Tables,
    group: &GroupName,
    which: &Which,
    image: ImageWish,
) -> Result<Outcome, Refusal> {
    let pairs = chosen(tables, group, which)?;
    if image == ImageWish::Without {
        call_back_resyncs(tables, &pairs);
    }
    for pair in pairs {
        let Some(pair) = tables.pairs.edit(&pair) else { continue };
        let stopped = matches!(pair.state, PairState::Suspended | PairState::Abnormal);
        pair.control.without_image |= stopped && image == ImageWish::Without;
        pair.control.asked = match pair.control.asked {
            // It has not been stopped yet, and need not be.
            Some(Asked::Suspend(_)) if !stopped => {
                pair.control.svol_write = false;
                None
            }
            Some(Asked::Suspend(_)) | None if stopped => Some(Asked::Resync),
            other => other,
        };
    }
    Ok(Outcome::Done)
}

/// Resyncs that are on their way, because no image can be kept there, are said anew.
fn call_back_resyncs(tables: &mut Tables, pairs: &[PairNumber]) {
    let names: Vec<PairName> = pairs
        .iter()
        .filter_map(|number| tables.pairs.get(number))
        .filter(|pair| pair.control.asked == Some(Asked::ResyncSent))
        .map(|pair| pair.name.clone())
        .collect();
    take_back_resyncs(tables, &names);
}

/// No resync of these pairs is on its way any more; where one was sent it is asked for still.
pub(super) fn take_back_resyncs(tables: &mut Tables, names: &[PairName]) {
    let is_meant = |forward: &&ForwardRecord| match &forward.designation {
        Designation::RemoteResync { pairs, .. } => pairs.iter().any(|one| names.contains(&one.pair)),
        _ => false,
    };
    let on_their_way: Vec<ForwardRecord> = tables.forwards.iter().filter(is_meant).cloned().collect();
    for forward in on_their_way {
        tables.forwards.remove(&forward.sequence);
        let Designation::RemoteResync { pairs, .. } = &forward.designation else { continue };
        for resynced in pairs {
            let number = tables.pair_named(&resynced.pair).map(|pair| pair.number);
            if let Some(pair) = number.and_then(|number| tables.pairs.edit(&number))
                && pair.control.asked == Some(Asked::ResyncSent)
            {
                pair.control.asked = Some(Asked::Resync);
            }
        }
    }
}

/// At an auxiliary: images are given up, and with them the consistency of what a takeover finds.
pub(super) fn drop_image(tables: &mut Tables, group: &GroupName) -> Result<Outcome, Refusal> {
    let Some((number, _)) = copied_group(tables, group)? else {
        return Err(Refusal::conflict(format!("group {group} is not copied here: it has no S-VOLs")));
    };
    let kept: Vec<PairNumber> = tables
        .pairs_of_group(number)
        .filter(|pair| pair.control.image.is_some())
        .map(|pair| pair.number)
        .collect();
    if kept.is_empty() {
        return Err(Refusal::conflict(format!("no image is kept of group {group}")));
    }
    for number in kept {
        if let Some(pair) = tables.pairs.edit(&number) {
            pair.control.image = None;
        }
    }
    Ok(Outcome::Done)
}

pub(super) fn delete(tables: &mut Tables, group: &GroupName, which: &Which) -> Result<Outcome, Refusal> {
    for pair in chosen(tables, group, which)? {
        if let Some(pair) = tables.pairs.edit(&pair) {
            pair.control.asked = Some(Asked::Delete);
        }
    }
    Ok(Outcome::Done)
}

pub(super) fn delete_group(tables: &mut Tables, group: &GroupName) -> Result<Outcome, Refusal> {
    let number = primary_group(tables, group)?.number;
    if tables.pairs_of_group(number).next().is_some() {
        delete(tables, group, &Which::All).or_else(|refusal| {
            // All of them are on their way out already.
            if tables.pairs_of_group(number).all(is_leaving) { Ok(Outcome::Done) } else { Err(refusal) }
        })?;
    }
    if let Some(row) = tables.groups.edit(&number) {
        row.is_leaving = true;
    }
    Ok(Outcome::Done)
}

/// What a primary says of a pair that it has stopped.
pub(super) struct Said<'a> {
    pub(super) reason: &'a str,
    pub(super) others_go_on: bool,
    pub(super) by_operator: bool,
}

pub(super) fn remote_suspend(
    tables: &mut Tables,
    id: DesignationId,
    pair: &PairName,
    said: Said<'_>,
    who: &Who,
) -> Result<Outcome, Refusal> {
    let number = followed_pair(tables, pair, who)?;
    let reason: String = said.reason.chars().take(REASON_MAX_CHARS).collect();
    if let Some(pair) = tables.pairs.edit(&number) {
        pair.control.cause = said.by_operator.then_some(SuspendCause::Operator);
        pair.control.left_behind |= said.others_go_on;
        if pair.state != PairState::Suspended {
            pair.control.had_from_elsewhere = UpdateNumber(0);
        }
    }
    match tables.pairs.get(&number).map(|pair| pair.state) {
        // A failure here is not hidden by what the other array says.
        Some(PairState::Abnormal) | None => {}
        Some(_) => drop(tables.pair_event(number, PairEvent::Suspend, Some(reason))?),
    }
    if let Some(group) = tables.pairs.get(&number).map(|pair| pair.group) {
        asked::lift_if_nothing_comes(tables, group);
        tables.tell_if_stopped(group, id.caused(0).0);
    }
    Ok(Outcome::Done)
}

/// All of them or none: their images were kept of one moment (`array/images.rs`).
pub(super) fn remote_resync(
    tables: &mut Tables,
    pairs: &[ResyncedPair],
    from: UpdateNumber,
    who: &Who,
) -> Result<Outcome, Refusal> {
    if pairs.len() > RESYNC_PAIRS_MAX {
        return Err(Refusal::Limit { what: "pairs of a resync".to_owned(), limit: RESYNC_PAIRS_MAX });
    }
    tables.restore_goes_on(pairs.iter().map(|one| &one.pair))?;
    for resynced in pairs {
        let number = followed_pair(tables, &resynced.pair, who)?;
        let group = tables.pairs.get(&number).map(|pair| pair.group);
        group.map_or(Ok(()), |group| tables.check_loss_is_told(group))?;
        let Some(row) = tables.pairs.edit(&number) else {
            return Err(Refusal::missing("pair", &resynced.pair));
        };
        match resynced.image {
            ImageWish::Without => row.control.image = None,
            ImageWish::Keep if row.control.is_image && row.control.image.is_none() => {
                let text = format!("the last image of the S-VOL of pair {} is not kept yet", row.name);
                return Err(Refusal::conflict(text));
            }
            ImageWish::Keep => {}
        }
        if row.control.svol_write || row.control.is_written {
            let text =
                format!("where hosts wrote the S-VOL of pair {} is on its way to its primary", row.name);
            return Err(Refusal::conflict(text));
        }
        // Whatever the S-VOL was, from here on it is on the way to something else, by what differs from what it reaches.
        row.control.reaches = row.reaches(row.control.image.filter(|_| row.control.is_image));
        (row.state, row.reason) = (PairState::BeingCopied, None);
        (row.control.is_image, row.control.cause) = (false, None);
        row.control.copy_from = row.control.copy_from.max(row.first_of_copy(from));
        row.control.copies = resynced.copies;
    }
    Ok(Outcome::Done)
}

pub(super) fn remote_delete_pair(
    tables: &mut Tables,
    (pair, is_gone): (&PairName, bool),
    who: &Who,
) -> Result<Outcome, Refusal> {
    if tables.pair_named(pair).is_none() {
        return Ok(Outcome::Done); // It is gone already.
    }
    if !is_gone {
        super::takeover_guard::has_heard_of_takeover(tables, pair, who)?;
    }
    if super::shown::is_left_by_its_copy(tables, pair, who)? {
        return Ok(Outcome::Done);
    }
    let Ok(number) = followed_pair(tables, pair, who) else {
        return Ok(Outcome::Done); // The one of this name is copied from another array by now: the sender's is gone.
    };
    if let Some(row) = tables.pairs.edit(&number) {
        row.control.asked = Some(Asked::Delete);
        // Nothing more comes for it: from here on it is no member of the group's image.
        (row.state, row.reason) = (PairState::Suspended, Some("being taken away by its primary".to_owned()));
    }
    if let Some((group, Some(volume))) =
        tables.pairs.get(&number).map(|pair| (pair.group, pair.auxiliary.volume))
    {
        delete_below(tables, group, volume);
    }
    if let Some(group) = tables.pairs.get(&number).map(|pair| pair.group) {
        asked::lift_if_nothing_comes(tables, group);
    }
    Ok(Outcome::Done)
}

pub(super) fn remote_delete_group(
    tables: &mut Tables,
    id: DesignationId,
    group: &GroupName,
    who: &Who,
) -> Result<Outcome, Refusal> {
    if tables.group_named(group).is_none() {
        return Ok(Outcome::Done);
    }
    let number = followed_group(tables, group, who)?;
    let row = tables.groups.get(&number);
    if row.is_some_and(|row| matches!(row.role, GroupRole::Auxiliary { remote: None, .. })) {
        return Ok(Outcome::Done); // It was asked for anew since; an earlier one of this name is meant.
    }
    if tables.pairs_of_group(number).next().is_some() {
        return Err(Refusal::conflict(format!("pairs of group {group} are still being taken away here")));
    }
    pass_down(tables, number, id, &Designation::RemoteDeleteGroup { group: group.clone() })?;
    let readers: Vec<_> = tables.all_readers_of_group(number).map(|reader| reader.array).collect();
    readers.iter().for_each(|array| {
        tables.readers.remove(&(number, *array));
    });
    remove_group(tables, number);
    Ok(Outcome::Done)
}

/// The other array has taken note of a resync that was sent to it.
pub(super) fn resync_accepted(tables: &mut Tables, pairs: &[ResyncedPair]) {
    for resynced in pairs {
        let number = tables.pair_named(&resynced.pair).map(|pair| pair.number);
        if let Some(pair) = number.and_then(|number| tables.pairs.edit(&number))
            && pair.control.asked == Some(Asked::ResyncSent)
        {
            pair.control.asked = Some(Asked::ResyncAccepted);
        }
    }
}

/// The other array knows that a pair is suspended.
pub(super) fn suspension_accepted(tables: &mut Tables, pair: &PairName) {
    let number = tables.pair_named(pair).map(|pair| pair.number);
    if let Some(pair) = number.and_then(|number| tables.pairs.edit(&number)) {
        pair.control.told |= pair.state == PairState::Suspended;
    }
}

/// The other array takes its side of a pair away.
pub(super) fn deletion_accepted(tables: &mut Tables, pair: &PairName) {
    let number = tables.pair_named(pair).map(|pair| pair.number);
    if let Some(pair) = number.and_then(|number| tables.pairs.edit(&number))
        && pair.control.asked == Some(Asked::DeleteSent)
    {
        pair.control.asked = Some(Asked::DeleteAccepted);
    }
}

fn chosen(tables: &Tables, group: &GroupName, which: &Which) -> Result<Vec<PairNumber>, Refusal> {
    let number = group_with_pvols(tables, group)?.number;
    let pairs = tables.served_pairs(number).filter(|pair| !is_leaving(pair));
    let chosen: Vec<PairNumber> = match which {
        Which::All => pairs.map(|pair| pair.number).collect(),
        Which::Reader(link) => {
            if tables.links.get(link).is_none() {
                return Err(Refusal::missing("link", link));
            }
            pairs.filter(|pair| pair.link == *link).map(|pair| pair.number).collect()
        }
        Which::Pair(name) => pairs.filter(|pair| pair.name == *name).map(|pair| pair.number).collect(),
    };
    if chosen.is_empty() {
        return Err(Refusal::conflict(format!("group {group} has no such pairs ({which})")));
    }
    Ok(chosen)
}

pub(super) fn is_leaving(pair: &PairRecord) -> bool {
    pair.is_leaving()
}

pub(super) fn followed_pair(tables: &Tables, name: &PairName, who: &Who) -> Result<PairNumber, Refusal> {
    let (array, _) = peer(tables, who)?;
    let pair = tables.pair_named(name).ok_or_else(|| Refusal::missing("pair", name))?;
    if pair.primary.array == array {
        Ok(pair.number)
    } else {
        Err(Refusal::conflict(format!("pair {name} is not copied from array {array} here")))
    }
}

pub(super) fn remove_group(tables: &mut Tables, number: GroupNumber) {
    tables.call_back_takeover(number, None);
    let journals: Vec<JournalVolume> =
        tables.groups.get(&number).map(|group| group.journals.clone()).unwrap_or_default();
    journals.iter().for_each(|journal| super::journals::make_ordinary(tables, journal.volume));
    tables.groups.remove(&number);
}

// ---- What the array at work records, each in a transaction of its own --------------------------------------------

impl Tables {
    /// The differences of these pairs are marked: they are suspended, and the other array is told. All that it lacks of those that were
    /// normal lies behind `reaches`.
    pub(crate) fn pairs_suspended(
        &mut self,
        pairs: &[PairNumber],
        (cause, reason): (SuspendCause, &str),
        reaches: UpdateNumber,
        identity: &mut dyn FnMut() -> Identity,
    ) -> Result<(), Refusal> {
        for number in pairs {
            let was_normal = self.pairs.get(number).is_some_and(|pair| pair.state == PairState::Normal);
            self.pair_event(*number, PairEvent::Suspend, Some(reason.to_owned()))?;
            if let Some(pair) = self.pairs.edit(number).filter(|_| was_normal) {
                pair.control.reaches = Some(reaches);
            }
        }
        // What was said before must not come behind this, nor stand in the list once for each time that it is said.
        let names: Vec<PairName> =
            pairs.iter().filter_map(|number| self.pairs.get(number)).map(|pair| pair.name.clone()).collect();
        take_back_resyncs(self, &names);
        for number in pairs {
            let others_go_on = self.others_go_on(*number) | self.take_back_suspension(*number);
            let Some(pair) = self.pairs.edit(number) else { continue };
            let control = &mut pair.control;
            if matches!(control.asked, Some(Asked::Suspend(_))) {
                control.asked = None;
            }
            (control.cause, control.told) = (Some(cause), false);
            if control.withheld_until.is_some() {
                // That was an earlier suspension: of this one the auxiliary does not know yet (`copy/suspend.rs`).
                (control.withheld_from, control.withheld_until) = (None, None);
            }
            let told = Designation::RemoteSuspend {
                pair: pair.name.clone(),
                reason: reason.to_owned(),
                others_go_on,
                by_operator: cause == SuspendCause::Operator,
            };
            let link = pair.link.clone();
            self.forward(&link, DesignationId(identity()), told);
        }
        self.tell_ended_suspensions(identity);
        Ok(())
    }

    /// Takes back a suspension of this pair that is on its way; whether others went on then.
    fn take_back_suspension(&mut self, pair: PairNumber) -> bool {
        let Some((name, link)) = self.pairs.get(&pair).map(|pair| (pair.name.clone(), pair.link.clone()))
        else {
            return false;
        };
        let went_on = |what: &Designation| match what {
            Designation::RemoteSuspend { pair, others_go_on, .. } if *pair == name => Some(*others_go_on),
            _ => None,
        };
        let others_went_on =
            self.forwards_to(&link).any(|forward| went_on(&forward.designation) == Some(true));
        self.forget_forwards(&link, |what| went_on(what).is_some());
        others_went_on
    }

    /// Whether updates are still handed to the reader of this pair for other ones.
    fn others_go_on(&self, pair: PairNumber) -> bool {
        self.pairs.get(&pair).is_some_and(|pair| {
            let mut others = self.pairs_of_group(pair.group).filter(|other| other.link == pair.link);
            others.any(|other| matches!(other.state, PairState::BeingCopied | PairState::Normal))
        })
    }

    /// The auxiliary knows that the pair is suspended: updates from `from` on are kept from it.
    pub(crate) fn withhold(&mut self, pair: PairNumber, from: UpdateNumber) {
        if let Some(row) = self.pairs.edit(&pair) {
            row.control.withheld_from.get_or_insert(from);
        }
    }

    /// The auxiliary is told that the pair will be taken away.
    pub(crate) fn deletion_sent(&mut self, pair: PairNumber, identity: Identity) {
        let Some(row) = self.pairs.edit(&pair) else { return };
        row.control.asked = Some(Asked::DeleteSent);
        let (name, link) = (row.name.clone(), row.link.clone());
        let told = Designation::RemoteDeletePair { pair: name, is_gone: false };
        self.forward(&link, DesignationId(identity), told);
    }

    /// The other arrays are told that differences of these pairs will follow, with numbers from `from` on; with each
    /// pair comes how much of its S-VOL is rewritten at most.
    pub(crate) fn resync_sent(
        &mut self,
        pairs: &[(PairNumber, u64)],
        from: UpdateNumber,
        identity: &mut dyn FnMut() -> Identity,
    ) {
        let numbers: Vec<PairNumber> = pairs.iter().map(|(number, _)| *number).collect();
        self.call_back_svol_writes(&numbers, identity);
        let mut by_link: BTreeMap<LinkName, Vec<ResyncedPair>> = BTreeMap::new();
        for (number, rewritten_bytes) in pairs {
            let Some(row) = self.pairs.edit(number) else { continue };
            row.control.asked = Some(Asked::ResyncSent);
            if row.is_cascaded() {
                row.control.copies = row.control.copies.wrapping_add(1).max(1);
            }
            let resynced = ResyncedPair {
                pair: row.name.clone(),
                withheld_from: row.control.withheld_from,
                rewritten_bytes: *rewritten_bytes,
                image: if row.control.without_image { ImageWish::Without } else { ImageWish::Keep },
                copies: row.control.copies,
            };
            by_link.entry(row.link.clone()).or_default().push(resynced);
        }
        for (link, resynced) in by_link {
            for pairs in resynced.chunks(RESYNC_PAIRS_MAX) {
                let what = Designation::RemoteResync { pairs: pairs.to_vec(), from };
                self.forward(&link, DesignationId(identity()), what);
            }
        }
    }

    /// The copy of differences begins: updates from `from` on are the reader's again.
    pub(crate) fn resync_begins(
        &mut self,
        pair: PairNumber,
        from: UpdateNumber,
        restarted: bool,
    ) -> Result<(), Refusal> {
        self.pair_event(pair, PairEvent::Resync, None)?;
        if let Some(row) = self.pairs.edit(&pair) {
            let copy_from = row.first_of_copy(from);
            let control = &mut row.control;
            if control.asked == Some(Asked::ResyncAccepted) {
                control.asked = None;
            }
            (control.cause, control.copy_from, control.told) = (None, copy_from, false);
            (control.without_image, control.svol_write, control.is_svol_write_sent) = (false, false, false);
            if restarted {
                (control.withheld_from, control.withheld_until) = (None, None);
            } else {
                control.withheld_until = control.withheld_from.map(|_| from);
            }
        }
        Ok(())
    }

    /// Nothing at work knows the pair any more: its rows go, its volume here is an ordinary one again if no other pair
    /// needs it. At the primary the other array is told, and a reader without pairs and journal volumes goes too.
    pub(crate) fn pair_is_gone(&mut self, number: PairNumber, identity: Identity) {
        let Some(pair) = self.pairs.get(&number).cloned() else { return };
        self.pairs.remove(&number);
        self.forget_messages_about(&pair, identity);
        self.forget_images_of_the_past(pair.group);
        let own = self.meta().number;
        let side = if pair.primary.array == own { &pair.primary } else { &pair.auxiliary };
        if let Some(volume) = side.volume
            && self.pairs_of_volume(volume).next().is_none()
        {
            set_volume_state(self, volume, VolumeState::Normal);
        }
        if pair.primary.array == own {
            // Of an array from which this one took over, none has ever copied from here.
            let is_told = pair.control.asked == Some(Asked::DeleteAccepted)
                // … but hosts may take a volume of it for the one here.
                || pair.shared.is_none() && self.took_over_from(pair.group, pair.auxiliary.array);
            if !is_told {
                let told = Designation::RemoteDeletePair { pair: pair.name.clone(), is_gone: true };
                self.forward(&pair.link, DesignationId(identity), told);
            }
            self.forget_leaving_reader(pair.group, pair.auxiliary.array, Identity(identity.0 ^ 1));
            self.forget_reader_without_work(&pair, Identity(identity.0 ^ 2));
            self.takeover_may_end(pair.group, pair.auxiliary.array);
        }
    }

    /// A group that shall go has no pairs any more: it goes, and its readers are told.
    pub(crate) fn group_is_gone(&mut self, number: GroupNumber, identity: &mut dyn FnMut() -> Identity) {
        let Some(name) = self.groups.get(&number).map(|group| group.name.clone()) else { return };
        let readers: Vec<_> = self.readers_of_group(number).map(|r| (r.link.clone(), r.array)).collect();
        for (link, array) in readers {
            let told = Designation::RemoteDeleteGroup { group: name.clone() };
            self.forward(&link, DesignationId(identity()), told);
            self.readers.remove(&(number, array));
        }
        let attached: Vec<_> = self.all_readers_of_group(number).map(|reader| reader.array).collect();
        attached.iter().for_each(|array| {
            self.readers.remove(&(number, *array));
        });
        remove_group(self, number);
    }

    /// It is told: else its group would stay there, without pairs.
    fn forget_reader_without_work(&mut self, pair: &PairRecord, identity: Identity) {
        let keeps_journals = |link: &LinkName| {
            let group = self.groups.get(&pair.group);
            group.is_some_and(|group| group.remote_journals.iter().any(|journal| journal.link == *link))
        };
        let has_pairs = self.served_pairs(pair.group).any(|other| other.link == pair.link);
        let key = (pair.group, pair.auxiliary.array);
        if has_pairs || keeps_journals(&pair.link) || self.readers.get(&key).is_none() {
            return;
        }
        self.readers.remove(&key);
        if self.took_over_from(pair.group, pair.auxiliary.array) {
            return;
        }
        if let Some(name) = self.groups.get(&pair.group).map(|group| group.name.clone()) {
            let told = Designation::RemoteDeleteGroup { group: name };
            self.forward(&pair.link, DesignationId(identity), told);
        }
    }
}

/// A reason that another array gives is cut to this.
const REASON_MAX_CHARS: usize = 500;
