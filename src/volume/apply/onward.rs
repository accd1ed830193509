//! The other readers of a group go on from its new primary ([`crate::volume::onward`]; decision 17): what the old primary
//! says of them, how the new one takes them up, and how each of them takes note.

use super::asked;
use super::copy::{READERS_MAX, peer, set_volume_state};
use super::lacking::stopped;
use crate::volume::designation::{Designation, DesignationId, Outcome, Refusal};
use crate::volume::group::{Generation, GroupRecord, GroupRole, GroupState, RemoteJournal};
use crate::volume::kind::CopyMode;
use crate::volume::name::{ArrayNumber, GroupNumber, LinkName, PairNumber, UpdateNumber, VolumeNumber};
use crate::volume::onward::{
    ONWARD_PAIRS_MAX, ONWARD_RUNS_MAX, Onward, OnwardPair, RemoteOnward, RemoteOnwardPair,
};
use crate::volume::pair::{Asked, PairControl, PairRecord, PairSide, PairState, SuspendCause};
use crate::volume::record::{Identity, ReaderRecord, ScheduleRecord, VolumeState, Who};
use crate::volume::reversal::Manner;
use crate::volume::table::Tables;
use crate::volume::takeover::Takeover;
use std::collections::BTreeMap;

/// Whether the other readers of a group can go on from the array `to`, as far as its primary sees it.
pub(super) fn check_others(tables: &Tables, group: GroupNumber, to: ArrayNumber) -> Result<(), Refusal> {
    let goes_along: Vec<_> = tables
        .pairs_of_group(group)
        .filter(|pair| pair.auxiliary.array == to)
        .map(|pair| pair.primary.volume)
        .collect();
    let mut count = 0;
    for reader in tables.all_readers_of_group(group).filter(|reader| reader.array != to) {
        let conflict = |text: &str| Err(Refusal::Conflict(format!("reader {}: {text}", reader.link)));
        if reader.is_attached || reader.reads_from.is_some() {
            return conflict(
                "it reads the group from two arrays: `group set --source` lets it read from one first",
            );
        }
        if reader.is_leaving || reader.journal_lost {
            return conflict("it is being taken away, or has lost its journal");
        }
        let mut pairs =
            tables.pairs_of_group(group).filter(|pair| pair.auxiliary.array == reader.array).peekable();
        if pairs.peek().is_none() {
            return conflict("it keeps journals and has no pairs: take it away first");
        }
        for pair in pairs {
            count += 1;
            if !goes_along.contains(&pair.primary.volume) {
                return conflict(&format!(
                    "the P-VOL of pair {} is not copied to the new primary",
                    pair.name
                ));
            }
            if pair.control.svol_write
                || matches!(pair.state, PairState::NotYetCopied | PairState::BeingCopied)
            {
                let text = format!(
                    "pair {} is {}, or hosts write its S-VOL: wait, or resynchronise it",
                    pair.name, pair.state
                );
                return conflict(&text);
            }
            if !matches!(
                pair.control.asked,
                None | Some(Asked::Resync | Asked::ResyncSent | Asked::ResyncAccepted)
            ) {
                return conflict(&format!("pair {} has something else to do", pair.name));
            }
        }
    }
    super::local::within(count, ONWARD_PAIRS_MAX, "pairs of other readers of a group that is turned round")
}

/// At an array that shall become the primary: whether those that read the group from it already can go on doing so.
pub(super) fn check_below(tables: &Tables, group: GroupNumber, manner: Manner) -> Result<(), Refusal> {
    let conflict = |text: String| Err(Refusal::Conflict(text));
    let mut readers = tables.all_readers_of_group(group).peekable();
    if manner == Manner::Differences && readers.peek().is_some() {
        return conflict(
            "other arrays read the group from here: nobody knows what they lack of hosts' writes".to_owned(),
        );
    }
    if let Some(reader) =
        readers.find(|reader| reader.is_attached || reader.is_leaving || reader.journal_lost)
    {
        let text = format!(
            "{} reads the group here beside its source, is leaving it, or lacks its journal",
            reader.link
        );
        return conflict(text);
    }
    let is_ready = |pair: &&PairRecord| {
        matches!(pair.state, PairState::Normal | PairState::Suspended | PairState::Abnormal)
            && !pair.is_leaving()
    };
    let unready = tables.served_pairs(group).find(|pair| !is_ready(pair) || pair.control.svol_write);
    unready.map_or(Ok(()), |pair| {
        conflict(format!("pair {} is {} here, or hosts write its S-VOL", pair.name, pair.state))
    })
}

/// At the new primary, before it promises: whether it can take these readers up.
pub(super) fn check_taken_on(
    tables: &Tables,
    group: GroupNumber,
    others: &[Onward],
    source: ArrayNumber,
) -> Result<(), Refusal> {
    let conflict = |text: String| Err(Refusal::Conflict(text));
    let count = others.iter().map(|other| other.pairs.len()).sum();
    super::local::within(count, ONWARD_PAIRS_MAX, "pairs of other readers")?;
    super::local::within(others.len(), READERS_MAX.saturating_sub(1), "readers of a group")?;
    let journals = others.iter().map(|other| other.journals.len()).sum();
    super::local::within(journals, super::journals::REMOTE_JOURNALS_MAX, "journal volumes of other readers")?;
    let own = tables.meta().number;
    for (index, other) in others.iter().enumerate() {
        let array = other.array;
        let is_twice = others.iter().skip(index.saturating_add(1)).any(|later| later.array == array);
        if array == own || array == source || is_twice {
            return conflict(format!("array {array} is named twice among the readers of the group"));
        }
        if tables.link_to(array).is_none() {
            return conflict(format!("array {array} reads the group too, and there is no link to it here"));
        }
        for pair in &other.pairs {
            if tables.is_pair_name_taken(&pair.name) {
                return Err(Refusal::exists("pair", &pair.name));
            }
            let Some((_, size_bytes)) = super::rejoin::volume_with(tables, group, source, pair) else {
                return conflict(format!("the P-VOL of pair {} is not copied here", pair.name));
            };
            let is_inside = |(start, length): &(u64, u64)| {
                start.checked_add(*length).is_some_and(|end| end <= size_bytes)
            };
            let runs = pair.stopped.as_ref().map_or(&[][..], |stopped| &stopped.runs);
            if pair.svol.array != array || runs.len() > ONWARD_RUNS_MAX || !runs.iter().all(is_inside) {
                return conflict(format!("what is said of pair {} cannot be", pair.name));
            }
        }
    }
    Ok(())
}

/// The pair by which this array has the volume that a pair of another reader is of, on whichever side the old primary is.
pub(super) fn pair_with<'t>(
    tables: &'t Tables,
    group: GroupNumber,
    source: ArrayNumber,
    other: &OnwardPair,
) -> Option<&'t PairRecord> {
    let is_there = |side: &PairSide| side.array == source && side.volume == Some(other.pvol);
    tables.pairs_of_group(group).find(|pair| is_there(&pair.primary) || is_there(&pair.auxiliary))
}

/// At a reader: whether it can go on from the array that says so. What the S-VOLs are, the array at work looks at
/// (`array/onward.rs`).
pub(crate) fn check_onward(tables: &Tables, told: &RemoteOnward, who: &Who) -> Result<GroupNumber, Refusal> {
    let (array, _) = peer(tables, who)?;
    let row = tables.group_named(&told.group).ok_or_else(|| Refusal::missing("group", &told.group))?;
    let conflict = |text: &str| Err(Refusal::Conflict(format!("group {} {text}", told.group)));
    let Some(newest) = told.generations.last() else { return conflict("has no generation") };
    let is_source = matches!(&row.role, GroupRole::Auxiliary { source, .. } if *source == array);
    if told.generations.len() > super::reverse::GENERATIONS_MAX || !(newest.array == array || is_source) {
        return conflict("has a generation that is not that of its new primary, or too many");
    }
    if newest.first.0 != told.last.0.saturating_add(1) {
        return conflict("has a generation that does not begin behind the last number");
    }
    let GroupRole::Auxiliary { .. } = &row.role else { return conflict("is no copy here") };
    if newest.counter >= super::reverse::COUNTER_MAX || told.last.0 > super::reverse::LAST_MAX {
        return conflict("has numbers that nobody gives");
    }
    if row.followed_counter >= newest.counter {
        return conflict("follows a newer primary here");
    }
    match &row.takeover {
        None => knows_our_history(row, told)?,
        // How it parted was told, and what it has is held against it by the array at work.
        Some(Takeover::Moving(moving)) if moving.array == array && moving.has.is_some() => {
            if told.answers_an_earlier_word(moving.told_by) {
                return Err(Refusal::Lacks { group: told.group.to_string() });
            }
        }
        Some(_) => return conflict("is being taken over here, or goes on from another array"),
    }
    if row.state != GroupState::Normal
        || !row.is_started
        || row.reversal.is_some()
        || row.other_source.is_some()
    {
        return conflict("is not at work here, or read from two arrays");
    }
    check_below(tables, row.number, Manner::Planned)?;
    let pairs: Vec<&PairRecord> = tables.followed_pairs(row.number).collect();
    let same = |pair: &&PairRecord| told.pairs.iter().any(|one| one.name == pair.name);
    if pairs.len() != told.pairs.len() || !pairs.iter().all(same) {
        return conflict("has other pairs here");
    }
    let is_stopped =
        |pair: &PairRecord| told.pairs.iter().any(|one| one.name == pair.name && one.stopped.is_some());
    let are_hosts_in = |pair: &PairRecord| pair.control.svol_write || pair.control.svol_open;
    if let Some(pair) =
        pairs.iter().find(|pair| (are_hosts_in(pair) && !is_stopped(pair)) || pair.is_leaving())
    {
        return conflict(&format!(
            "cannot be moved: hosts write the S-VOL of pair {}, or it goes",
            pair.name
        ));
    }
    let goes_on =
        |pair: &&&PairRecord| told.pairs.iter().any(|one| one.name == pair.name && one.stopped.is_none());
    if let Some(pair) = pairs.iter().filter(goes_on).find(|pair| pair.state != PairState::Normal) {
        if pair.state == PairState::Abnormal {
            return Err(Refusal::Lacks { group: told.group.to_string() });
        }
        return conflict(&format!("cannot go on: pair {} is {} here", pair.name, pair.state));
    }
    if row.suspension_stop.is_some() && tables.is_suspension_on_its_way(&told.group) {
        return conflict("is held by a suspension said here, which its old primary has not answered yet");
    }
    if row.restore_stop.is_some() {
        return conflict("is held by a stop of its restore here: `group restore --go-on` lets it go on");
    }
    Ok(row.number)
}

/// Whoever is believed knows the whole history that this array knows.
fn knows_our_history(row: &GroupRecord, told: &RemoteOnward) -> Result<(), Refusal> {
    let oldest = told.generations.first().map_or(0, |oldest| oldest.counter);
    let mut known = row.generations.iter().filter(|known| known.counter >= oldest);
    let ends_in_it = row.generations.last().is_none_or(|known| told.generations.contains(known));
    if ends_in_it && known.all(|known| told.generations.contains(known)) {
        return Ok(());
    }
    Err(Refusal::Conflict(format!("group {} has another history here: it is a branch", told.group)))
}

/// At a reader: it reads from the new primary from here on. Everything that it had is in its S-VOLs, on the units, and the
/// group is not open.
pub(super) fn remote_onward(
    tables: &mut Tables,
    id: DesignationId,
    told: &RemoteOnward,
    who: &Who,
) -> Result<Outcome, Refusal> {
    let (array, link) = peer(tables, who)?;
    let number = check_onward(tables, told, who)?;
    tables.count_as_of(number, &told.generations);
    let had = tables.followed_pairs(number).filter_map(|pair| pair.control.stopped_at).max();
    let had = had.unwrap_or(UpdateNumber(0)).min(told.last);
    tables.note_former_numbers(number);
    let goes_on_behind = told.begins.map_or(told.last, |begins| UpdateNumber(begins.0.saturating_sub(1)));
    let Some(row) = tables.groups.edit(&number) else { return Err(Refusal::missing("group", &told.group)) };
    let role = GroupRole::Auxiliary { link: link.clone(), source: array, remote: Some(told.number) };
    let old = std::mem::replace(&mut row.role, role);
    row.generations.clone_from(&told.generations);
    row.followed_counter = told.generations.last().map_or(0, |newest| newest.counter);
    row.segments.clear();
    row.forget_freed();
    (row.resume, row.reading_stopped) = (None, None);
    row.forget_suspension();
    let has_moved = matches!(row.takeover.take(), Some(Takeover::Moving(_)));
    // What it left before, and reads again, is not to hear late that it left.
    let is_left =
        |what: &Designation| matches!(what, Designation::LeftOnward { group } if *group == told.group);
    tables.forget_forwards(&link, is_left);
    if let GroupRole::Auxiliary { link: old, .. } = old {
        if has_moved {
            super::rejoin::has_moved(tables, id, number, (&old, &link));
        }
        let asked = asked::asked_there(tables, &old, &told.group);
        tables.stop_asking_as_a_copy(&told.group, &old);
        // What its operator chose for it, a delay of its restore above all, goes with it.
        let schedule = tables.schedules.get(&(old, told.group.clone())).cloned();
        if let Some(schedule) =
            schedule.filter(|_| tables.schedules.get(&(link.clone(), told.group.clone())).is_none())
        {
            tables.schedules.put(ScheduleRecord { link: link.clone(), ..schedule });
        }
        // What its operator wants done to the copies is the new primary's to do.
        for (id, ask) in asked {
            tables.forward_once(&link, id, Designation::AskPrimary(ask));
        }
    }
    for one in &told.pairs {
        let number = tables.pair_named(&one.name).map(|pair| pair.number);
        if let Some(pair) = number.and_then(|number| tables.pairs.edit(&number)) {
            super::rejoin::goes_on_from(pair, one, (&link, array), goes_on_behind);
        }
    }
    let mut index = 0_u8;
    tables.keep_readers_below(number, (had, told.begins), &mut || {
        index = index.saturating_add(1);
        id.caused(index).0
    });
    Ok(Outcome::Created { number: number.0 })
}

/// At the new primary: the reader knows.
pub(super) fn accepted(tables: &mut Tables, told: &RemoteOnward, array: ArrayNumber, remote: GroupNumber) {
    let Some(group) = tables.group_named(&told.group).map(|row| row.number) else { return };
    if let Some(reader) = tables.readers.edit(&(group, array)) {
        // Whatever it had left before.
        (reader.remote_group, reader.is_untold, reader.has_left) = (Some(remote), false, false);
        reader.assumed = UpdateNumber(0);
        reader.since = reader.since.max(told.generations.last().map_or(0, |newest| newest.counter));
    }
    tables.is_no_rival(group, Some(array));
    for one in told.pairs.iter().filter(|one| one.stopped.is_some()) {
        let number = tables.pair_named(&one.name).map(|pair| pair.number);
        if let Some(pair) = number.and_then(|number| tables.pairs.edit(&number)) {
            pair.control.told |= pair.state == PairState::Suspended;
        }
    }
}

impl Tables {
    /// At the old primary: its readers but `to`, as the new primary has to know them. `runs` says where the S-VOLs of the
    /// pairs that are stopped may differ; `all_stop`: none of them is what the new primary has. Everything up to `last` is
    /// acknowledged by each reader that has a pair which is not stopped.
    pub(crate) fn others_going_on(
        &self,
        group: GroupNumber,
        (to, last): (ArrayNumber, UpdateNumber),
        runs: &BTreeMap<PairNumber, Vec<(u64, u64)>>,
        all_stop: bool,
    ) -> Vec<Onward> {
        let remote_journals =
            self.groups.get(&group).map(|row| row.remote_journals.clone()).unwrap_or_default();
        let has_all = |reader: &ReaderRecord| {
            let mut its = self.pairs_of_group(group).filter(|pair| pair.auxiliary.array == reader.array);
            its.any(|pair| pair.state == PairState::Normal)
        };
        let one = |reader: &ReaderRecord| Onward {
            array: reader.array,
            assumed: if has_all(reader) { last } else { reader.assumed },
            begins: None,
            told_by: None,
            remote: reader.remote_group,
            journals: remote_journals
                .iter()
                .filter(|journal| journal.link == reader.link)
                .map(|journal| (journal.volume.clone(), journal.options))
                .collect(),
            pairs: self
                .pairs_of_group(group)
                .filter(|pair| pair.auxiliary.array == reader.array)
                .filter_map(|pair| {
                    Some(OnwardPair {
                        name: pair.name.clone(),
                        pvol: pair.primary.volume?,
                        svol: pair.auxiliary.clone(),
                        stopped: stopped(pair, runs.get(&pair.number), all_stop),
                    })
                })
                .collect(),
        };
        self.all_readers_of_group(group).filter(|reader| reader.array != to).map(one).collect()
    }

    /// At a middle of a cascade, in the transaction that makes it the primary or gives it another source: those that read the
    /// group from it go on doing so. Records name other volumes from here on, and they are told.
    ///
    /// They have acknowledged everything up to `had`, as far as they are not stopped, and go on with `begins`.
    pub(super) fn keep_readers_below(
        &mut self,
        group: GroupNumber,
        (had, begins): (UpdateNumber, Option<UpdateNumber>),
        identity: &mut dyn FnMut() -> Identity,
    ) {
        let Some(row) = self.groups.get(&group) else { return };
        let Some(since) = row.generations.last().copied() else { return };
        let (name, generations, has_failed) =
            (row.name.clone(), row.generations.clone(), row.state != GroupState::Normal);
        let readers: Vec<ReaderRecord> = self.all_readers_of_group(group).cloned().collect();
        for reader in readers {
            let its = |pair: &&PairRecord| pair.auxiliary.array == reader.array;
            let pairs: Vec<PairNumber> =
                self.served_pairs(group).filter(its).map(|pair| pair.number).collect();
            let (mut told, mut assumed) = (Vec::new(), reader.assumed);
            for number in pairs {
                let (origin, is_image) = self.named_by(group, number);
                let Some(pair) = self.pairs.edit(&number) else { continue };
                if pair.state == PairState::Normal {
                    assumed = assumed.max(had);
                }
                if !is_image && pair.state == PairState::Normal {
                    // Differences follow here: it goes on by itself behind them.
                    pair.state = PairState::Suspended;
                    pair.reason = Some("its P-VOL is a copy that is copied again".to_owned());
                    pair.control.cause = Some(SuspendCause::Above);
                }
                if has_failed {
                    (pair.state, pair.reason) = (PairState::Abnormal, Some(FAILED.to_owned()));
                }
                let is_above = pair.control.cause == Some(SuspendCause::Above) && origin.is_none();
                let goes_on = pair.control.asked.is_some() || is_above;
                let known = std::mem::take(&mut pair.control);
                pair.control = PairControl {
                    born: since.first,
                    cause: known.cause,
                    asked: (goes_on && pair.state == PairState::Suspended).then_some(Asked::Resync),
                    told: known.told,
                    withheld_from: known.withheld_from,
                    origin,
                    copies: origin.map_or(0, |_| known.copies),
                    ..PairControl::default()
                };
                (pair.copy_completion_bytes, pair.copy_end) = (0, UpdateNumber(0));
                if let PairSide { volume: Some(pvol), name: Some(pvol_name), .. } = pair.primary.clone() {
                    let reason = || pair.reason.clone().unwrap_or_else(|| "stopped".to_owned());
                    let stopped = (pair.state != PairState::Normal).then(reason);
                    told.push(RemoteOnwardPair { name: pair.name.clone(), pvol, pvol_name, origin, stopped });
                }
            }
            let last = UpdateNumber(since.first.0.saturating_sub(1));
            let told = RemoteOnward {
                group: name.clone(),
                number: group,
                last,
                generations: generations.clone(),
                assumed: if has_failed { UpdateNumber(0) } else { assumed },
                begins,
                pairs: told,
                gives_up: None,
                told_by: None,
            };
            self.forward(&reader.link, DesignationId(identity()), Designation::RemoteOnward(told));
            if let Some(row) = self.readers.edit(&(group, reader.array)) {
                row.is_untold = true;
                row.assumed = if has_failed { UpdateNumber(0) } else { assumed };
            }
        }
    }

    /// By which number records name the P-VOL of a pair that is served here, if that is another array's; and whether it is an
    /// image.
    fn named_by(&self, group: GroupNumber, pair: PairNumber) -> (Option<VolumeNumber>, bool) {
        let is_copy = self.groups.get(&group).is_some_and(|row| row.role != GroupRole::Primary);
        let pvol = self.pairs.get(&pair).and_then(|pair| pair.primary.volume);
        let above = pvol.and_then(|pvol| self.pair_above(group, pvol)).filter(|_| is_copy);
        (
            above.and_then(PairRecord::record_volume),
            above.is_none_or(|above| above.state == PairState::Normal),
        )
    }

    /// At the new primary, in the transaction that makes it that: a reader of the old one is its own from here on, and is
    /// told so. Its new pairs get `numbers`, in their order; what they differ in is put into the store under these by the
    /// caller, in the same transaction.
    ///
    /// The newest generation of the group's row is that of this array; `source` is the old primary, to which the numbers of
    /// P-VOLs belong.
    pub(crate) fn take_on(
        &mut self,
        group: GroupNumber,
        reader: &Onward,
        source: ArrayNumber,
        numbers: &[PairNumber],
        identity: Identity,
    ) {
        let Some(link) = self.link_to(reader.array).map(|link| link.name.clone()) else { return };
        self.is_no_rival(group, Some(reader.array));
        let Some(row) = self.groups.edit(&group) else { return };
        let Some(since) = row.generations.last().copied() else { return };
        let journals = reader.journals.iter().map(|(volume, options)| RemoteJournal {
            link: link.clone(),
            volume: volume.clone(),
            options: *options,
        });
        row.remote_journals.extend(journals);
        row.dropped.retain(|known| *known != link);
        let (name, generations, has_failed) =
            (row.name.clone(), row.generations.clone(), row.state != GroupState::Normal);
        self.readers.put(ReaderRecord {
            remote_group: reader.remote,
            is_untold: true,
            assumed: if has_failed { UpdateNumber(0) } else { reader.assumed },
            // `since` is raised when it has accepted.
            ..ReaderRecord::new(group, reader.array, link.clone())
        });
        let mut told = Vec::new();
        for (pair, number) in reader.pairs.iter().zip(numbers) {
            let Some(ours) = super::rejoin::volume_with(self, group, source, pair) else { continue };
            let volume = ours.0.volume.and_then(|volume| self.volumes.get(&volume));
            if let Some(number) = volume.filter(|row| row.state == VolumeState::Normal).map(|row| row.number)
            {
                set_volume_state(self, number, VolumeState::Main); // Its last pair had gone.
            }
            let record = taken_on(pair, *number, (group, &link), ours, since, has_failed);
            if let PairSide { volume: Some(pvol), name: Some(pvol_name), .. } = record.primary.clone() {
                let stopped = (record.state != PairState::Normal).then(|| {
                    record.reason.clone().unwrap_or_else(|| "stopped by the old primary".to_owned())
                });
                let name = pair.name.clone();
                told.push(RemoteOnwardPair { name, pvol, pvol_name, origin: None, stopped });
            }
            self.pairs.put(record);
        }
        self.partner_is_waited_for(group);
        let last = UpdateNumber(since.first.0.saturating_sub(1));
        let assumed = if has_failed { UpdateNumber(0) } else { reader.assumed };
        let begins = reader.begins;
        let gives_up = self.given_up_of(group, reader.array);
        let told = RemoteOnward {
            group: name,
            number: group,
            last,
            generations,
            assumed,
            begins,
            pairs: told,
            gives_up,
            told_by: reader.told_by,
        };
        self.forward(&link, DesignationId(identity), Designation::RemoteOnward(told));
    }

    /// What a reader has more than this array is none of its own any more; up to which number its operator gave that up.
    fn given_up_of(&mut self, group: GroupNumber, reader: ArrayNumber) -> Option<UpdateNumber> {
        let row = self.groups.edit(&group)?;
        let ahead = row.ahead.iter().find(|one| one.array == reader);
        let gives_up = ahead.filter(|one| one.is_given_up).map(|one| one.has);
        row.ahead.retain(|one| one.array != reader);
        gives_up
    }
}

fn taken_on(
    pair: &OnwardPair,
    number: PairNumber,
    (group, link): (GroupNumber, &LinkName),
    (primary, size_bytes): (PairSide, u64),
    since: Generation,
    has_failed: bool,
) -> PairRecord {
    let born = PairControl { born: since.first, ..PairControl::default() };
    let (state, reason, control) = match &pair.stopped {
        _ if has_failed => (PairState::Abnormal, Some(FAILED.to_owned()), born),
        None => (PairState::Normal, None, born),
        Some(stopped) => {
            let state = if stopped.cause.is_some() { PairState::Suspended } else { PairState::Abnormal };
            let control = PairControl {
                cause: stopped.cause,
                asked: stopped.goes_on.then_some(Asked::Resync),
                told: stopped.told && stopped.cause.is_some(),
                withheld_from: stopped.withheld_from,
                ..born
            };
            (state, Some(stopped.reason.chars().take(REASON_MAX_CHARS).collect()), control)
        }
    };
    PairRecord {
        number,
        name: pair.name.clone(),
        state,
        reason,
        primary,
        auxiliary: pair.svol.clone(),
        group,
        link: link.clone(),
        copy: CopyMode::Async,
        size_bytes,
        copy_completion_bytes: 0,
        copy_end: UpdateNumber(0),
        control,
        shared: None,
    }
}

/// A reason that another array gives is cut to this.
pub(super) const REASON_MAX_CHARS: usize = 500;
/// Why nobody knows what the S-VOLs lack.
const FAILED: &str = "the journal had failed when the group was turned round";
