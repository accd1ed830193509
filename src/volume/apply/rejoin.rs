//! Other readers of a primary that was overtaken ([`crate::volume::rejoin`]): told, stopped, taken on by the new primary.

use super::copy::{READERS_MAX, peer};
use super::takeover::branch_begins;
use crate::volume::designation::{Designation, DesignationId, Outcome, Refusal};
use crate::volume::group::{Generation, GroupRecord, GroupRole, GroupState};
use crate::volume::kind::CopyMode;
use crate::volume::name::{ArrayNumber, GroupName, GroupNumber, LinkName, PairNumber, UpdateNumber};
use crate::volume::onward::{ONWARD_PAIRS_MAX, Onward, OnwardPair, RemoteOnwardPair, Stopped};
use crate::volume::pair::{Asked, PairControl, PairRecord, PairSide, PairState, SuspendCause};
use crate::volume::record::{Identity, VolumeState, VolumeUsage, Who};
use crate::volume::rejoin::{
    Ahead, FORMERS_KEPT, FormerNumbers, FormerVolume, Has, JoinOnward, Judged, Moving, RemoteRejoin, ahead,
};
use crate::volume::table::Tables;
use crate::volume::takeover::Takeover;

/// From an array that is the primary of a group now.
pub(super) fn remote_rejoin(
    tables: &mut Tables,
    id: DesignationId,
    told: &RemoteRejoin,
    who: &Who,
) -> Result<Outcome, Refusal> {
    let (array, link) = peer(tables, who)?;
    let Some(row) = tables.group_named(&told.group) else { return Ok(Outcome::Done) };
    let number = row.number;
    if row.role == GroupRole::Primary {
        return super::rivals::heard_at_a_primary(tables, id, (number, array, link), told);
    }
    let GroupRole::Auxiliary { source, remote: Some(_), .. } = row.role else { return Ok(Outcome::Done) };
    if told.asks {
        super::rivals::tell_who_leads(tables, id, (number, array, &link), told);
        return Ok(Outcome::Done);
    }
    if !is_left_alone(row, source, told) {
        return Ok(Outcome::Done); // It reads another array: this is nothing to it.
    }
    let conflict = |text: &str| Err(Refusal::Conflict(format!("group {} {text}", told.group)));
    let newest = told.generations.last().map_or(0, |newest| newest.counter);
    let goes_on = branch_begins(row, &told.generations)?.is_some();
    match (told.by, &row.takeover) {
        (Some(by), _) if source == array => return told_by_its_source(tables, id, (number, by), told),
        (Some(by), Some(Takeover::Moving(moving))) if moving.array == array => {
            let is_late = told.knows < newest_of(moving);
            return if is_late { Ok(Outcome::Done) } else { told_by_a_copy(tables, id, (number, by), told) };
        }
        (Some(_), _) => return Ok(Outcome::Done), // Of others it says nothing that they do not say themselves.
        (None, _) => {}
    }
    let next = match &row.takeover {
        Some(Takeover::Moving(moving)) if newest <= newest_of(moving) => return Ok(Outcome::Done),
        // Its own primary took itself back, behind what another array had taken over.
        Some(Takeover::Moving(_)) if source == array => None,
        None if source == array => {
            // What another array said before that, of an earlier takeover, may come behind it.
            if let Some(row) = tables.groups.edit(&number) {
                row.seen_counter = row.seen_counter.max(newest);
            }
            return Ok(Outcome::Done);
        }
        Some(Takeover::Moving(moving)) if moving.array != array && !goes_on_behind(moving, told) => {
            return conflict(&format!("goes on from array {} there", moving.array));
        }
        // The former primary may have been started again in a generation that is just as new, and who has taken over never heard of that.
        None if newest < row.newest_counter() => {
            return conflict("has a primary there that is newer than that");
        }
        Some(Takeover::Moving(_)) | None if !goes_on => return conflict("goes on there just so"),
        Some(Takeover::Moving(_)) | None => {
            if row.reversal.is_some() || row.other_source.is_some() {
                return conflict("is being turned round there, or read from two arrays");
            }
            Some(Takeover::Moving(Moving {
                link: Some(link),
                array,
                generations: told.generations.clone(),
                has: None,
                told_by: Some(word_for(row, array, id)),
            }))
        }
        Some(_) => return conflict("is being taken over there at this moment"),
    };
    tables.call_back_joining(number);
    if let Some(row) = tables.groups.edit(&number) {
        row.takeover = next;
        row.seen_counter = row.seen_counter.max(newest);
    }
    Ok(Outcome::Done)
}

/// Whether the array from which this one reads, or is about to, is said to be the primary no more. It may have been away when its primary
/// was overtaken for the first time: then the sender's history says so.
fn is_left_alone(row: &GroupRecord, source: ArrayNumber, told: &RemoteRejoin) -> bool {
    // Its own primary may have taken over from an earlier time as the primary that the sender knows of: that one's successor is its own.
    let reign = reign_of(&row.generations, source);
    let begins = told.generations.iter().rposition(|one| reign.contains(one));
    let has_successor =
        begins.is_some_and(|begins| told.generations[begins..].iter().any(|one| one.array != source));
    let is_about_to = match &row.takeover {
        Some(Takeover::Moving(moving)) => moving.array == told.former || goes_on_behind(moving, told),
        _ => false,
    };
    source == told.former || is_about_to || has_successor
}

/// The generations of an array's present time as the primary, if these end with that.
fn reign_of(generations: &[Generation], array: ArrayNumber) -> &[Generation] {
    let others = generations.iter().rposition(|one| one.array != array).map_or(0, |last| last + 1);
    generations.get(others..).unwrap_or_default()
}

/// Whether the sender has overtaken the array from which this one is about to read.
fn goes_on_behind(moving: &Moving, told: &RemoteRejoin) -> bool {
    let newest = moving.generations.last();
    moving.array == told.former || newest.is_some_and(|newest| told.generations.contains(newest))
}

/// From the primary that this array copies: it was overtaken, by another one.
fn told_by_its_source(
    tables: &mut Tables,
    id: DesignationId,
    (number, by): (GroupNumber, ArrayNumber),
    told: &RemoteRejoin,
) -> Result<Outcome, Refusal> {
    let Some(row) = tables.groups.get(&number) else { return Ok(Outcome::Done) };
    let conflict = |text: String| Err(Refusal::Conflict(format!("group {} {text}", told.group)));
    let newest = told.generations.last().map_or(0, |newest| newest.counter);
    match &row.takeover {
        None => {}
        // It took part in this already, or more has happened since.
        Some(Takeover::Moving(moving)) if moving.array == by || newest <= newest_of(moving) => {
            return Ok(Outcome::Done);
        }
        Some(Takeover::Moving(_)) => {}
        Some(_) => return conflict("is being taken over there at this moment".to_owned()),
    }
    if by == tables.meta().number || branch_begins(row, &told.generations)?.is_none() {
        return Ok(Outcome::Done);
    }
    if row.reversal.is_some() || row.other_source.is_some() {
        return conflict("is being turned round there, or read from two arrays".to_owned());
    }
    let link = tables.link_to(by).map(|link| link.name.clone());
    tables.call_back_joining(number);
    if let Some(row) = tables.groups.edit(&number) {
        let generations = told.generations.clone();
        let told_by = Some(word_for(row, by, id));
        row.takeover = Some(Takeover::Moving(Moving { link, array: by, generations, has: None, told_by }));
        row.seen_counter = row.seen_counter.max(newest);
    }
    Ok(Outcome::Done)
}

/// From the array from which this one is about to go on: that is a copy itself by now, because the other one was named to stay. Where that is the source
/// here, and takes this array for its reader, nothing has happened; else it is asked in its turn.
fn told_by_a_copy(
    tables: &mut Tables,
    id: DesignationId,
    (number, by): (GroupNumber, ArrayNumber),
    told: &RemoteRejoin,
) -> Result<Outcome, Refusal> {
    let Some(row) = tables.groups.get(&number) else { return Ok(Outcome::Done) };
    let GroupRole::Auxiliary { source, .. } = row.role else { return Ok(Outcome::Done) };
    let goes_on = branch_begins(row, &told.generations)?.is_some();
    // It has been the primary all along, however often it was started.
    let known = row.generations.last();
    let is_stayed_with =
        by == source && known.is_some_and(|known| reign_of(&told.generations, by).contains(known));
    let next = match is_stayed_with {
        true => None,
        false if by == tables.meta().number || !goes_on => return Ok(Outcome::Done),
        false => Some(Takeover::Moving(Moving {
            link: tables.link_to(by).map(|link| link.name.clone()),
            array: by,
            generations: told.generations.clone(),
            has: None,
            told_by: Some(word_for(row, by, id)),
        })),
    };
    tables.call_back_joining(number);
    if let Some(row) = tables.groups.edit(&number) {
        row.takeover = next;
        let newest = told.generations.last().map_or(0, |newest| newest.counter);
        row.seen_counter = row.seen_counter.max(newest);
    }
    Ok(Outcome::Done)
}

/// By which word a reader goes that is told, now by `id`, to go on from `array`: it has been at rest since the first one.
fn word_for(row: &GroupRecord, array: ArrayNumber, id: DesignationId) -> DesignationId {
    match &row.takeover {
        Some(Takeover::Moving(moving)) if moving.array == array => moving.told_by.unwrap_or(id),
        _ => id,
    }
}

fn newest_of(moving: &Moving) -> u64 {
    moving.generations.last().map_or(0, |newest| newest.counter)
}

/// At the old primary: this reader goes on from another array.
pub(super) fn left_onward(tables: &mut Tables, group: &GroupName, who: &Who) -> Result<Outcome, Refusal> {
    let (array, _) = peer(tables, who)?;
    let number = tables.group_named(group).map(|row| row.number);
    if let Some(reader) = number.and_then(|number| tables.readers.edit(&(number, array))) {
        reader.has_left = true;
    }
    number.into_iter().for_each(|number| tables.let_go_of_who_left(number));
    Ok(Outcome::Done)
}

/// By the operator of the new primary: what only a reader behind this link has of the former one is given up. Whether there is any.
pub(super) fn give_up_lead(tables: &mut Tables, group: GroupNumber, link: &LinkName) -> bool {
    let Some(row) = tables.groups.edit(&group) else { return false };
    let Some(known) = row.ahead.iter_mut().find(|known| known.link == *link) else { return false };
    known.is_given_up = true;
    true
}

/// At the new primary: whether the reader can be taken on, as far as the tables say it; what it is then.
pub(crate) fn check_joining(
    tables: &Tables,
    told: &JoinOnward,
    who: &Who,
) -> Result<(GroupNumber, ArrayNumber, Onward), Refusal> {
    let (array, _) = peer(tables, who)?;
    let row = super::copy::primary_group(tables, &told.group)?;
    let conflict = |text: &str| Err(Refusal::Conflict(format!("group {} {text}", told.group)));
    let is_open = matches!(row.takeover, None | Some(Takeover::Taken(_)));
    if row.state != GroupState::Normal || !row.is_started || !is_open || row.reversal.is_some() {
        return conflict("is not at work there");
    }
    branch_begins(row, &told.generations)?;
    if told.pairs.len() > ONWARD_PAIRS_MAX || told.has.0 > super::reverse::LAST_MAX {
        return conflict("has too many pairs, or numbers that nobody gives");
    }
    if tables.readers.get(&(row.number, array)).is_some() {
        return conflict("is read by that array already");
    }
    if told.pairs.iter().any(|pair| pair.stopped.is_none()) {
        return conflict("cannot be gone on with as if nothing had been written since");
    }
    let onward = Onward {
        array,
        remote: Some(told.number),
        assumed: UpdateNumber(0), // The array at work says whether its marks count on what it has.
        begins: None,
        told_by: told.told_by,
        journals: told.journals.clone(),
        pairs: told.pairs.clone(),
    };
    super::onward::check_taken_on(tables, row.number, std::slice::from_ref(&onward), told.former)?;
    let ours = |pair| super::onward::pair_with(tables, row.number, told.former, pair);
    if told.pairs.iter().filter_map(ours).any(PairRecord::is_leaving) {
        return conflict("is being taken away from its former primary there: again when that is done");
    }
    Ok((row.number, told.former, onward))
}

/// At a reader: its pair goes on from the array that is its source now. Its S-VOL is of `goes_on_behind`, unless it is stopped.
pub(super) fn goes_on_from(
    pair: &mut PairRecord,
    one: &RemoteOnwardPair,
    (link, array): (&LinkName, ArrayNumber),
    goes_on_behind: UpdateNumber,
) {
    pair.primary = PairSide { array, volume: Some(one.pvol), name: Some(one.pvol_name.clone()) };
    pair.link.clone_from(link);
    if pair.copy == CopyMode::SyncJournal {
        pair.copy = CopyMode::Async; // Until the new primary says otherwise.
    }
    (pair.copy_completion_bytes, pair.copy_end) = (0, UpdateNumber(0));
    match &one.stopped {
        None => {
            pair.control = PairControl {
                is_image: true,
                stopped_at: Some(goes_on_behind),
                origin: one.origin,
                copies: pair.control.copies,
                ..PairControl::default()
            };
        }
        Some(reason) => {
            let known = std::mem::take(&mut pair.control);
            pair.control = PairControl {
                is_image: known.is_image,
                image: known.image,
                left_behind: known.left_behind,
                stopped_at: known.stopped_at,
                had_from_elsewhere: known.had_from_elsewhere,
                // Hosts that were let in stay, until its new primary copies differences.
                svol_write: known.svol_write,
                svol_open: known.svol_open,
                cause: known.cause,
                origin: one.origin,
                copies: known.copies,
                ..PairControl::default()
            };
            // A failure here is not hidden by what the other array says.
            if pair.state != PairState::Abnormal {
                let reason = reason.chars().take(super::onward::REASON_MAX_CHARS).collect();
                (pair.state, pair.reason) = (PairState::Suspended, Some(reason));
            }
        }
    }
}

/// At a reader that was told to go on: what the old source and the new one, which may be the same, hear of that. Its journal volumes may have been
/// replaced since the new one was asked.
pub(super) fn has_moved(
    tables: &mut Tables,
    id: DesignationId,
    group: GroupNumber,
    (old, new): (&LinkName, &LinkName),
) {
    tables.call_back_joining(group);
    let Some(row) = tables.groups.get(&group) else { return };
    let left = Designation::LeftOnward { group: row.name.clone() };
    let stays = row.journals.iter().filter(|journal| !journal.is_leaving);
    let joins = stays.filter_map(|journal| {
        let volume = tables.volumes.get(&journal.volume)?.name.clone();
        Some(Designation::JoinJournal { group: row.name.clone(), volume, options: journal.options })
    });
    let joins: Vec<Designation> = joins.collect();
    if old != new {
        tables.forward(old, id.caused(255), left);
    }
    for (index, joins) in (JOURNALS_TOLD..u8::MAX).zip(joins) {
        tables.forward(new, id.caused(index), joins);
    }
}

impl Tables {
    /// At a reader whose primary was overtaken: it has everything up to `has`, and asks the new primary to go on there.
    pub(crate) fn asks_to_join(&mut self, group: GroupNumber, known: Has, identity: Identity) {
        let has = known.up_to;
        let Some(row) = self.groups.get(&group) else { return };
        let (GroupRole::Auxiliary { source, .. }, Some(Takeover::Moving(moving))) =
            (&row.role, &row.takeover)
        else {
            return;
        };
        let Some(link) = self.link_to(moving.array).map(|link| link.name.clone()) else { return };
        let journal = |journal: &crate::volume::group::JournalVolume| {
            let volume = self.volumes.get(&journal.volume)?;
            Some((volume.name.clone(), journal.options))
        };
        let told = JoinOnward {
            group: row.name.clone(),
            number: group,
            former: *source,
            generations: row.generations.clone(),
            has,
            are_all_normal: self.followed_pairs(group).all(|pair| is_of_the_image(pair, has)),
            contains: known.contains,
            told_by: moving.told_by,
            journals: row.journals.iter().filter(|one| !one.is_leaving).filter_map(journal).collect(),
            pairs: self.followed_pairs(group).filter_map(|pair| joining(pair, &known)).collect(),
        };
        self.call_back_joining(group);
        self.forward(&link, DesignationId(identity), Designation::JoinOnward(told));
        if let Some(row) = self.groups.edit(&group)
            && let Some(Takeover::Moving(moving)) = &mut row.takeover
        {
            (moving.link, moving.has) = (Some(link), Some(has));
        }
    }

    /// At a reader that goes on in another history, before it takes that over: numbers that its own has beyond it were given up, and the other
    /// one has them too, of other updates. What they were said of has the other one's only as far as the two go together.
    pub(super) fn count_as_of(&mut self, group: GroupNumber, theirs: &[Generation]) {
        let Some(ours) = self.groups.get(&group).map(|row| row.generations.clone()) else { return };
        let common = |has: UpdateNumber| UpdateNumber(has.0.saturating_sub(ahead(&ours, theirs, has)));
        let pairs: Vec<PairNumber> = self.followed_pairs(group).map(|pair| pair.number).collect();
        for number in pairs {
            let Some(pair) = self.pairs.edit(&number) else { continue };
            let known = &mut pair.control;
            (known.stopped_at, known.image) = (known.stopped_at.map(common), known.image.map(common));
            known.had_from_elsewhere = common(known.had_from_elsewhere);
        }
    }

    /// This array is about to copy its source no more: by which numbers that named the volumes is kept.
    pub(super) fn note_former_numbers(&mut self, group: GroupNumber) {
        let role = self.groups.get(&group).map(|row| row.role.clone());
        let Some(GroupRole::Auxiliary { source: array, .. }) = role else { return };
        let volume = |pair: &PairRecord| {
            let (theirs, ours) = (pair.primary.volume?, pair.auxiliary.volume?);
            Some(FormerVolume { theirs, ours, size_bytes: pair.size_bytes })
        };
        let volumes = self.followed_pairs(group).filter_map(volume).take(ONWARD_PAIRS_MAX).collect();
        let Some(row) = self.groups.edit(&group) else { return };
        row.former.retain(|known| known.array != array);
        row.former.push(FormerNumbers { array, volumes });
        let surplus = row.former.len().saturating_sub(FORMERS_KEPT);
        row.former.drain(..surplus);
    }

    /// The link to an array goes, with what was asked there: whoever waits for an answer asks again when there is one.
    pub(super) fn asks_nobody_to_join(&mut self, array: ArrayNumber) {
        let is_waiting = |row: &&GroupRecord| matches!(&row.takeover, Some(Takeover::Moving(moving)) if moving.array == array);
        let waiting: Vec<GroupNumber> = self.groups.iter().filter(is_waiting).map(|row| row.number).collect();
        for group in waiting {
            if let Some(Takeover::Moving(moving)) =
                self.groups.edit(&group).and_then(|row| row.takeover.as_mut())
            {
                (moving.link, moving.has) = (None, None);
            }
        }
    }

    /// At a copy, which a reader takes for the primary from which it could go on: what that is told, unless it is on its way to it.
    pub(crate) fn whose_copy_it_asks(
        &self,
        told: &JoinOnward,
        from: ArrayNumber,
    ) -> Option<(LinkName, Designation)> {
        let row = self.group_named(&told.group)?;
        let GroupRole::Auxiliary { source, remote: Some(_), .. } = row.role else { return None };
        let link = self.link_to(from)?.name.clone();
        let says = Designation::RemoteRejoin(RemoteRejoin {
            group: told.group.clone(),
            former: told.former,
            generations: row.generations.clone(),
            by: Some(source),
            asks: false,
            knows: row.largest_counter(),
        });
        let is_settled = row.takeover.is_none() && row.reversal.is_none();
        let is_said = self.forwards_to(&link).any(|forward| forward.designation == says);
        (is_settled && !is_said).then_some((link, says))
    }

    /// At a primary that goes on: readers that went on from another one are none of its own. One that comes back is taken on like any other; as long as
    /// it stood here its asking was taken for an old word, and it waited for ever. An array that is shut keeps what it has of them until it is known
    /// who stays; and one that does not know of another primary does not let its hosts go on without who left.
    pub(crate) fn let_go_of_who_left(&mut self, group: GroupNumber) {
        let knows_rival = |row: &GroupRecord| matches!(&row.takeover, Some(Takeover::Taken(taken)) if taken.rival.is_some());
        let is_open =
            |row: &GroupRecord| row.role == GroupRole::Primary && !row.is_shut() && knows_rival(row);
        if !self.groups.get(&group).is_some_and(is_open) {
            return;
        }
        let left = self.all_readers_of_group(group).filter(|reader| reader.has_left && !reader.is_leaving);
        let left: Vec<(ArrayNumber, LinkName)> =
            left.map(|reader| (reader.array, reader.link.clone())).collect();
        for (array, link) in left {
            let pairs: Vec<PairNumber> = self.pairs_with(group, array).map(|pair| pair.number).collect();
            for pair in pairs {
                if let Some(pair) = self.pairs.edit(&pair) {
                    pair.control.asked = Some(Asked::DeleteAccepted); // It knows.
                }
            }
            if let Some(reader) = self.readers.edit(&(group, array)) {
                reader.is_leaving = true;
            }
            if let Some(row) = self.groups.edit(&group) {
                row.remote_journals.retain(|journal| journal.link != link);
            }
            self.forget_reader_that_left(group, array);
        }
    }

    /// With its last pair: it is told nothing of that.
    pub(super) fn forget_reader_that_left(&mut self, group: GroupNumber, array: ArrayNumber) {
        if self.pairs_with(group, array).next().is_none() {
            self.readers.remove(&(group, array));
        }
    }

    /// It does not want to be taken on any more.
    pub(super) fn call_back_joining(&mut self, group: GroupNumber) {
        let Some(name) = self.groups.get(&group).map(|row| row.name.clone()) else { return };
        let is_meant =
            |what: &Designation| matches!(what, Designation::JoinOnward(told) if told.group == name);
        let meant = self.forwards.iter().filter(|forward| is_meant(&forward.designation));
        let meant: Vec<u64> = meant.map(|forward| forward.sequence).collect();
        for sequence in meant {
            self.forwards.remove(&sequence);
        }
    }

    /// At the new primary: how many updates only the reader has that wants to join, if they are not given up; noted, with the reader.
    pub(crate) fn note_lead(&mut self, group: GroupNumber, told: &JoinOnward, array: ArrayNumber) -> u64 {
        let Some(link) = self.link_to(array).map(|link| link.name.clone()) else { return 0 };
        let Some(row) = self.groups.edit(&group) else { return 0 };
        let updates = lead(row, told);
        let known = row.ahead.iter().find(|known| known.array == array);
        let is_given_up = known.is_some_and(|known| known.is_given_up && known.has == told.has);
        row.ahead.retain(|known| known.array != array);
        if updates > 0 && row.ahead.len() < READERS_MAX {
            row.ahead.push(Ahead { link, array, has: told.has, updates, is_given_up });
        }
        if is_given_up { 0 } else { updates }
    }
}

impl Tables {
    /// At the new primary: how a reader goes on from here.
    pub(crate) fn note_judged(&mut self, group: GroupNumber, judged: Judged) {
        let Some(row) = self.groups.edit(&group) else { return };
        row.judged.retain(|known| known.array != judged.array);
        let surplus = (row.judged.len() + 1).saturating_sub(READERS_MAX);
        row.judged.drain(..surplus);
        row.judged.push(judged);
    }
}

/// How many updates only the reader has that wants to join.
pub(crate) fn lead(row: &GroupRecord, told: &JoinOnward) -> u64 {
    ahead(&told.generations, &row.generations, told.has)
}

/// This array's volume that a pair of another reader is of, and its size: by the pair that it has with the old primary; or, if there is
/// none any more, by what that called it when it was copied from there.
pub(super) fn volume_with(
    tables: &Tables,
    group: GroupNumber,
    source: ArrayNumber,
    other: &OnwardPair,
) -> Option<(PairSide, u64)> {
    let own = tables.meta().number;
    if let Some(ours) = super::onward::pair_with(tables, group, source, other) {
        let side = if ours.primary.array == own { &ours.primary } else { &ours.auxiliary };
        return Some((side.clone(), ours.size_bytes));
    }
    let former = tables.groups.get(&group)?.former.iter().find(|known| known.array == source)?;
    let former = former.volumes.iter().find(|known| known.theirs == other.pvol)?;
    let volume = tables.volumes.get(&former.ours)?;
    // It may have become anything since.
    let is_primary = matches!(volume.state, VolumeState::Normal | VolumeState::Main)
        && (volume.usage == VolumeUsage::Host && volume.parity_group.is_some() && volume.growth.is_none());
    let is_of_group = tables.group_of_member(volume.number).is_none_or(|row| row.number == group)
        && tables.pairs_of_volume(volume.number).all(|pair| pair.group == group && pair.primary.array == own);
    if !is_primary || !is_of_group || volume.size_bytes != former.size_bytes {
        return None;
    }
    let side = PairSide { array: own, volume: Some(volume.number), name: Some(volume.name.clone()) };
    Some((side, volume.size_bytes))
}

/// A pair of a reader that asks to join, with what the new primary cannot know that it lacks.
fn joining(pair: &PairRecord, known: &Has) -> Option<OnwardPair> {
    let has = known.up_to;
    let is_of_the_image = is_of_the_image(pair, has);
    let reaches = if is_of_the_image { Some(has) } else { pair.reaches(Some(has)) };
    let written = if is_of_the_image { Some(Vec::new()) } else { known.written.get(&pair.number).cloned() };
    let (reaches, runs) = match (reaches, written) {
        (Some(reaches), Some(written)) if has.0 > 0 => (Some(reaches.min(has)), written),
        _ => (None, vec![(0, pair.size_bytes)]),
    };
    // One that was synchronous reads like the others from there.
    if pair.copy == CopyMode::Sync || pair.is_leaving() {
        return None;
    }
    Some(OnwardPair {
        name: pair.name.clone(),
        pvol: pair.primary.volume?,
        svol: pair.auxiliary.clone(),
        stopped: Some(Stopped {
            cause: Some(SuspendCause::Operator),
            reason: "its primary was overtaken by another array".to_owned(),
            goes_on: !stays_as_it_is(pair),
            told: false,
            withheld_from: None,
            runs,
            reaches,
        }),
    })
}

/// Whether only an operator lets a pair go on: one has stopped it, or hosts were let into its S-VOL.
fn stays_as_it_is(pair: &PairRecord) -> bool {
    let is_stopped = pair.state == PairState::Suspended && pair.control.cause == Some(SuspendCause::Operator);
    is_stopped || pair.control.svol_write || pair.control.svol_open
}

/// Whether the S-VOL of a pair is what the group has restored here, to the last update: only then all that it lacks came afterwards.
fn is_of_the_image(pair: &PairRecord, has: UpdateNumber) -> bool {
    let PairControl { is_image, left_behind, stopped_at, svol_open, is_written, .. } = pair.control;
    let is_apart = left_behind || stopped_at.is_some_and(|at| at != has) || svol_open || is_written;
    pair.state == PairState::Normal && is_image && !is_apart
}

/// The pairs here that say what was changed since the takeover, for those of a reader that joins: in the order of its pairs.
pub(crate) fn alike(
    tables: &Tables,
    group: GroupNumber,
    former: ArrayNumber,
    onward: &Onward,
) -> Vec<Option<PairNumber>> {
    let like =
        |pair: &OnwardPair| super::onward::pair_with(tables, group, former, pair).map(|ours| ours.number);
    onward.pairs.iter().map(like).collect()
}

/// The identities of what is told of journals begin here: a group has 16 of them at most.
const JOURNALS_TOLD: u8 = 200;
