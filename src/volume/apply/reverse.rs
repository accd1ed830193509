//! Designations that turn a group round (promise O2; decision 17), and what the arrays at work record of it.

use super::copy::{followed_group, peer, primary_group, set_volume_state};
use super::onward;
use crate::volume::designation::{Ask, Designation, DesignationId, Outcome, Refusal};
use crate::volume::group::{
    Generation, GroupRecord, GroupRole, GroupState, JournalVolume, RemoteJournal, ResumeRecord,
};
use crate::volume::name::{
    ArrayNumber, GroupName, GroupNumber, LinkName, PairName, PairNumber, UpdateNumber,
};
use crate::volume::pair::{Asked, PairControl, PairRecord, PairState, SuspendCause};
use crate::volume::record::{Identity, ReaderRecord, VolumeState, Who};
use crate::volume::resync::{RESYNC_PAIRS_MAX, RUNS_OF_A_MESSAGE};
use crate::volume::reversal::{Manner, RemoteReversal, Reversal, ReversalStep};
use crate::volume::table::Tables;
use std::collections::BTreeMap;
use std::time::Duration;

/// At the primary: hosts are shut out from here on, durably.
pub(super) fn reverse(
    tables: &mut Tables,
    group: &GroupName,
    to: &LinkName,
    wait: Duration,
) -> Result<Outcome, Refusal> {
    let row = primary_group(tables, group)?;
    let number = row.number;
    let conflict = |text: String| Err(Refusal::Conflict(text));
    if let Some(reversal) = &row.reversal {
        return if reversal.link == *to {
            Ok(Outcome::Done)
        } else {
            conflict(format!("it goes to {}", reversal.link))
        };
    }
    if row.state != GroupState::Normal || !row.is_started || row.is_leaving {
        return conflict(format!("group {group} is {}, or not started", row.state));
    }
    let array = tables.links.get(to).ok_or_else(|| Refusal::missing("link", to))?.array;
    if tables.readers_of_group(number).all(|reader| reader.array != array) {
        return Err(Refusal::missing("reader", format!("{to} of group {group}")));
    }
    onward::check_others(tables, number, array)?;
    if let Some(forward) = tables.forwards_to(to).next() {
        return conflict(format!("this is still on its way to {to}: {}", forward.designation));
    }
    if let Some(growing) = tables.growing_in(number) {
        return conflict(format!("{growing}: say it again then"));
    }
    let manner = manner_of(tables, number, array)?;
    if let Some(row) = tables.groups.edit(&number) {
        row.reversal = Some(Reversal { link: to.clone(), array, manner, wait, step: ReversalStep::Draining });
    }
    Ok(Outcome::Done)
}

/// What has to be copied afterwards, if the pairs of a group can be reversed at all.
fn manner_of(tables: &Tables, group: GroupNumber, to: ArrayNumber) -> Result<Manner, Refusal> {
    let pairs: Vec<&PairRecord> =
        tables.pairs_of_group(group).filter(|pair| pair.auxiliary.array == to).collect();
    if pairs.is_empty() || pairs.len() > RESYNC_PAIRS_MAX {
        return Err(Refusal::conflict(format!("a group of 1 to {RESYNC_PAIRS_MAX} pairs can be reversed")));
    }
    for pair in &pairs {
        let volume = pair.primary.volume;
        let is_virtual = volume
            .and_then(|volume| tables.volumes.get(&volume))
            .is_none_or(|row| row.parity_group.is_none());
        if is_virtual || volume.is_some_and(|volume| tables.forwarded_here(volume).is_some()) {
            let text =
                format!("the P-VOL of pair {} is virtual, or another array forwards its writes", pair.name);
            return Err(Refusal::conflict(text));
        }
        if tables.is_forwarded(group) || pair.control.asked.is_some() {
            return Err(Refusal::conflict(format!("pair {} has something else to do", pair.name)));
        }
    }
    let is_open = |pair: &&PairRecord| {
        pair.state == PairState::Suspended && pair.control.is_svol_write_sent && pair.control.told
    };
    if pairs.iter().all(|pair| pair.state == PairState::Normal) {
        Ok(Manner::Planned)
    } else if pairs.iter().all(is_open) {
        Ok(Manner::Differences)
    } else {
        let text = "its pairs are neither all normal nor all suspended with --svol-write: nobody knows what the S-VOLs are";
        Err(Refusal::conflict(text))
    }
}

/// At the primary: hosts may write again. Not once the other array may have taken over.
pub(super) fn cancel(tables: &mut Tables, group: &GroupName) -> Result<Outcome, Refusal> {
    let row = primary_group(tables, group)?;
    let (number, link) = match &row.reversal {
        None => return Ok(Outcome::Done),
        Some(Reversal { step: ReversalStep::Draining | ReversalStep::Telling, link, .. }) => {
            (row.number, link.clone())
        }
        Some(reversal) => {
            let text =
                format!("{} may have taken over: that cannot be undone, only reversed again", reversal.link);
            return Err(Refusal::conflict(text));
        }
    };
    tables.reversal_ends(number);
    tables.call_back_marks(number, &link);
    Ok(Outcome::Done)
}

/// Nothing else is designated for a group while it is turned round: it would be said to the wrong array.
pub(super) fn check_not_reversing(tables: &Tables, what: &Designation) -> Result<(), Refusal> {
    let Some(group) = group_meant(what) else { return Ok(()) };
    let reversal = tables.group_named(group).and_then(|row| row.reversal.as_ref());
    reversal.map_or(Ok(()), |reversal| {
        Err(Refusal::conflict(format!(
            "group {group} is being reversed with {}: {}",
            reversal.link, reversal.step
        )))
    })
}

/// The group of which this says something that an array in another role would have to be told.
pub(super) fn group_meant(what: &Designation) -> Option<&GroupName> {
    Some(match what {
        Designation::SuspendPairs { group, .. }
        | Designation::ResyncPairs { group, .. }
        | Designation::DeletePairs { group, .. }
        | Designation::DeleteGroup { group }
        | Designation::DeleteReader { group, .. }
        | Designation::SetGroup { group, .. }
        | Designation::SetSource { group, .. }
        | Designation::SetSynchronous(group, _)
        | Designation::StopRestore { group, .. }
        | Designation::SetBookmark { group, .. }
        | Designation::AddJournal { group, .. }
        | Designation::RemoveJournal { group, .. }
        | Designation::ReplaceJournal { group, .. }
        | Designation::LeaveJournal { group, .. }
        | Designation::CreatePair { group, .. }
        | Designation::FollowPair { group, .. }
        | Designation::StartGroup { group }
        | Designation::IntroduceGroup { group, .. }
        | Designation::AttachReader { group }
        | Designation::JoinGroup { group }
        | Designation::AddMember { group, .. }
        | Designation::RemoveMember { group, .. }
        | Designation::AskPrimary(Ask { group, .. })
        | Designation::JoinJournal { group, .. } => group,
        _ => return None,
    })
}

/// At the auxiliary: where the primary's hosts have changed the P-VOL while the pair was suspended. The marks themselves are
/// with the S-VOL already (`array/reverse.rs`).
pub(super) fn reverse_marks(
    tables: &mut Tables,
    pair: &PairName,
    runs: &[(u64, u64)],
    who: &Who,
) -> Result<Outcome, Refusal> {
    let number = super::pairs::followed_pair(tables, pair, who)?;
    if runs.len() > RUNS_OF_A_MESSAGE {
        return Err(Refusal::Limit { what: "ranges of a message".to_owned(), limit: RUNS_OF_A_MESSAGE });
    }
    let is_open = tables.pairs.get(&number).is_some_and(|pair| pair.control.svol_open);
    if is_open {
        Ok(Outcome::Done)
    } else {
        Err(Refusal::conflict(format!("pair {pair} is not open to hosts")))
    }
}

/// At the auxiliary: a promise to take over. From here on the other array is not the primary any more, whatever becomes
/// of the answer; so everything that could keep this one from it is looked at before.
pub(super) fn remote_reverse(
    tables: &mut Tables,
    told: &RemoteReversal,
    who: &Who,
) -> Result<Outcome, Refusal> {
    // Its identity may be forgotten here, and the promise kept.
    if tables.has_taken_over(told) {
        let number = tables.group_named(&told.group).map_or(0, |row| row.number.0);
        return Ok(Outcome::Created { number });
    }
    let (array, link) = peer(tables, who)?;
    let number = followed_group(tables, &told.group, who)?;
    let conflict = |text: &str| Err(Refusal::conflict(format!("group {} {text}", told.group)));
    let Some(row) = tables.groups.get(&number) else { return Err(Refusal::missing("group", &told.group)) };
    if told.generations.is_empty() || told.generations.len() > GENERATIONS_MAX {
        return conflict("has at least one generation and not thousands");
    }
    let is_possible =
        |newest: &Generation| newest.counter < COUNTER_MAX && newest.first.0 <= told.last.0.saturating_add(1);
    if told.last.0 > LAST_MAX || !told.generations.last().is_some_and(is_possible) {
        return conflict("has numbers that nobody gives");
    }
    if told.journals.is_empty() || told.journals.len() > super::journals::REMOTE_JOURNALS_MAX {
        return conflict("has no journal volume at its primary, or too many");
    }
    if row.state != GroupState::Normal || !row.is_started || row.journals.is_empty() {
        return conflict("is not at work here");
    }
    if row.rewinding.is_some() {
        return conflict("is on the way to a snapshot here");
    }
    if row.other_source.is_some() {
        return conflict("is read from another array than its primary here");
    }
    onward::check_below(tables, number, told.manner)?;
    let pairs: Vec<&PairRecord> = tables.pairs_with(number, array).collect();
    let is_told = |pair: &&PairRecord| told.pairs.contains(&pair.name) && pair.primary.array == array;
    if pairs.len() != told.pairs.len() || !pairs.iter().all(is_told) {
        return conflict("has other pairs here");
    }
    let is_ready = |pair: &&PairRecord| match told.manner {
        Manner::Planned => pair.state == PairState::Normal && pair.control.image.is_none(),
        Manner::Differences => pair.state == PairState::Suspended && pair.control.svol_open,
    };
    if let Some(pair) = pairs.iter().find(|pair| !is_ready(pair) || pair.control.asked.is_some()) {
        return conflict(&format!("cannot be taken over: pair {} is {} here", pair.name, pair.state));
    }
    // Nobody would be left who does it.
    if !super::asked::asked_there(tables, &link, &told.group).is_empty() {
        return conflict("has something on its way to its primary that was said here");
    }
    onward::check_taken_on(tables, number, &told.others, array)?;
    if let Some(row) = tables.groups.edit(&number) {
        let step = ReversalStep::TakingOver(told.clone());
        row.reversal = Some(Reversal { link, array, manner: told.manner, wait: Duration::ZERO, step });
    }
    Ok(Outcome::Created { number: number.0 })
}

/// At the primary: the other array has promised.
pub(super) fn accepted(tables: &mut Tables, told: &RemoteReversal, remote: GroupNumber) {
    if let Some(reversal) = tables.groups.edit(&told.number).and_then(|row| row.reversal.as_mut())
        && reversal.step == ReversalStep::HandedOver(told.last)
    {
        reversal.step = ReversalStep::Leaving(told.last, remote);
    }
}

/// At the primary: the other array has refused, and has promised nothing.
pub(super) fn refused(tables: &mut Tables, what: &Designation) {
    if let Designation::RemoteReverse(told) = what {
        tables.reversal_ends(told.number);
    }
}

impl Tables {
    /// Whether this array has promised to take over, or has done so, behind just that number.
    #[must_use]
    pub(crate) fn has_taken_over(&self, told: &RemoteReversal) -> bool {
        let Some(row) = self.group_named(&told.group) else { return false };
        match (&row.role, &row.reversal) {
            (GroupRole::Auxiliary { .. }, Some(Reversal { step: ReversalStep::TakingOver(known), .. })) => {
                known == told
            }
            (GroupRole::Primary, _) => {
                let own = told.generations.last().map(|newest| self.next_generation(newest, told.last));
                own.is_some_and(|own| row.generations.contains(&own))
            }
            (GroupRole::Auxiliary { .. }, _) => false,
        }
    }

    fn next_generation(&self, newest: &Generation, last: UpdateNumber) -> Generation {
        let first = UpdateNumber(last.0.saturating_add(1));
        Generation { counter: newest.counter.saturating_add(1), array: self.meta().number, first }
    }

    /// Whether hosts may use the volumes of a group whose journal cannot be opened: it never held anything, and no pair
    /// counts on it that what hosts write is journaled or marked, nor do they wait for another array. A group that was turned round has pairs and no
    /// journal yet.
    pub(crate) fn needs_no_journal(&self, row: &GroupRecord) -> bool {
        let counts_on_it =
            |pair: &PairRecord| !matches!(pair.state, PairState::NotYetCopied | PairState::Abnormal);
        let is_primary = row.role == GroupRole::Primary;
        let is_counted_on = row.is_together || self.pairs_of_group(row.number).any(counts_on_it);
        row.segments.is_empty() && !(is_primary && is_counted_on)
    }

    /// The reversal of a group is given up: its hosts write here.
    pub(crate) fn reversal_ends(&mut self, group: GroupNumber) {
        if let Some(row) = self.groups.edit(&group) {
            row.reversal = None;
        }
    }

    /// What was to be told of the marks of this group is not needed any more.
    pub(crate) fn call_back_marks(&mut self, group: GroupNumber, link: &LinkName) {
        let marks: Vec<u64> = self.marks_to_tell(group, link).collect();
        for sequence in marks {
            self.forwards.remove(&sequence);
        }
    }

    /// The places of the messages that tell the array behind a link of marks of a group: others may be turned round at the
    /// same time.
    fn marks_to_tell<'t>(&'t self, group: GroupNumber, link: &'t LinkName) -> impl Iterator<Item = u64> + 't {
        let is_of_group =
            move |pair: &PairName| self.pair_named(pair).is_some_and(|pair| pair.group == group);
        let forwards = self.forwards_to(link).filter(move |forward| {
            matches!(&forward.designation, Designation::ReverseMarks { pair, .. } if is_of_group(pair))
        });
        forwards.map(|forward| forward.sequence)
    }

    /// At the primary: where its P-VOLs were changed while they were suspended is told to the other array.
    pub(crate) fn reversal_told(
        &mut self,
        group: GroupNumber,
        marks: &[(PairNumber, Vec<(u64, u64)>)],
        identity: &mut dyn FnMut() -> Identity,
    ) {
        let reversal = self.groups.get(&group).and_then(|row| row.reversal.as_ref());
        if reversal.is_none_or(|reversal| reversal.step != ReversalStep::Draining) {
            return; // It was given up meanwhile.
        }
        for (number, runs) in marks {
            let Some(pair) = self.pairs.get(number) else { continue };
            let (pair, link) = (pair.name.clone(), pair.link.clone());
            for runs in runs.chunks(RUNS_OF_A_MESSAGE) {
                let what = Designation::ReverseMarks { pair: pair.clone(), runs: runs.to_vec() };
                self.forward(&link, DesignationId(identity()), what);
            }
        }
        if let Some(reversal) = self.groups.edit(&group).and_then(|row| row.reversal.as_mut()) {
            reversal.step = ReversalStep::Telling;
        }
    }

    /// Whether the other array knows all marks of a group that is turned round.
    #[must_use]
    pub(crate) fn is_all_told(&self, group: GroupNumber, reversal: &Reversal) -> bool {
        self.marks_to_tell(group, &reversal.link).next().is_none()
    }

    /// At the primary: everything up to `last` is at the other array, which is told to take over.
    ///
    /// `runs` says where the S-VOLs of its other readers may differ whose pairs are stopped.
    pub(crate) fn handed_over(
        &mut self,
        group: GroupNumber,
        last: UpdateNumber,
        runs: &BTreeMap<PairNumber, Vec<(u64, u64)>>,
        identity: Identity,
    ) {
        let Some(row) = self.groups.get(&group).cloned() else { return };
        let Some(reversal) = row.reversal else { return };
        let journal = |journal: &JournalVolume| {
            let volume = self.volumes.get(&journal.volume)?;
            Some((volume.name.clone(), journal.options))
        };
        let told = RemoteReversal {
            group: row.name,
            number: group,
            manner: reversal.manner,
            last,
            generations: row.generations,
            journals: row.journals.iter().filter_map(journal).collect(),
            pairs: self.pairs_with(group, reversal.array).map(|pair| pair.name.clone()).collect(),
            others: self.others_going_on(
                group,
                (reversal.array, last),
                runs,
                reversal.manner == Manner::Differences,
            ),
        };
        // Once: a refusal is its end, because the other array has promised nothing then.
        self.forward_once(&reversal.link, DesignationId(identity), Designation::RemoteReverse(told));
        if let Some(reversal) = self.groups.edit(&group).and_then(|row| row.reversal.as_mut()) {
            reversal.step = ReversalStep::HandedOver(last);
        }
    }

    /// At the primary, which is one no more: it copies the group from the other array from here on.
    pub(crate) fn left(&mut self, group: GroupNumber) {
        let Some(Reversal { link, array, manner, step: ReversalStep::Leaving(last, remote), .. }) =
            self.groups.get(&group).and_then(|row| row.reversal.clone())
        else {
            return;
        };
        self.let_others_go(group, array);
        self.is_no_rival(group, None);
        if let Some(row) = self.groups.edit(&group) {
            row.followed_counter =
                row.generations.last().map_or(0, |newest| newest.counter.saturating_add(1));
            row.role = GroupRole::Auxiliary { link: link.clone(), source: array, remote: Some(remote) };
            (row.reversal, row.resume) = (None, None);
            (row.reading_stopped, row.restore_stop) = (None, None);
            row.forget_suspension();
            row.segments.clear();
            row.remote_journals.clear();
            row.inherited = None;
            row.judged.clear();
            row.ahead.clear();
            row.forget_freed();
            (row.is_together, row.goes_alone) = (false, false);
        }
        self.readers.remove(&(group, array));
        self.call_back_what_a_primary_says(group, &link);
        for number in self.numbers_of(group) {
            self.forget_failure(number, manner);
            // It is of this number until its journal begins at the new primary, or the copy of differences has ended.
            let control = PairControl { is_image: true, stopped_at: Some(last), ..PairControl::default() };
            self.turn_round(number, VolumeState::Auxiliary, control);
        }
    }

    /// At the auxiliary, which is the primary from here on: the next generation is its own.
    ///
    /// The pairs of the other readers get `numbers`, in their order.
    pub(crate) fn taken_over(
        &mut self,
        group: GroupNumber,
        numbers: &[PairNumber],
        identity: &mut dyn FnMut() -> Identity,
    ) {
        self.taken_over_in(group, numbers, 0, identity);
    }

    /// The same in a generation whose counter is at least this one: those that read from here already are told of it.
    pub(super) fn taken_over_in(
        &mut self,
        group: GroupNumber,
        numbers: &[PairNumber],
        counter: u64,
        identity: &mut dyn FnMut() -> Identity,
    ) {
        let Some(Reversal { link, array, manner, step: ReversalStep::TakingOver(told), .. }) =
            self.groups.get(&group).and_then(|row| row.reversal.clone())
        else {
            return;
        };
        let Some(newest) = told.generations.last() else { return };
        let generation = self.next_generation(newest, told.last);
        let generation = Generation { counter: generation.counter.max(counter), ..generation };
        self.stop_asking_as_a_copy(&told.group, &link);
        let failed = self.groups.get(&group).is_none_or(|row| row.state != GroupState::Normal);
        if let Some(row) = self.groups.edit(&group) {
            row.role = GroupRole::Primary;
            row.generations.clone_from(&told.generations);
            row.generations.push(generation);
            row.generations.drain(1..=row.generations.len().saturating_sub(GENERATIONS_MAX));
            row.next_update_number = generation.first;
            row.resume = Some(ResumeRecord { first: generation.first, ..ResumeRecord::default() });
            row.segments.clear();
            row.reversal = None;
            (row.reading_stopped, row.restore_stop) = (None, None);
            row.forget_suspension();
            row.forget_freed();
            // No number of the new generation has been given, so none can be lost.
            row.stopped_cleanly = true;
            // What hosts were answered in an earlier time as the primary binds nobody: both have it, or it was given up.
            (row.is_together, row.goes_alone) = (false, false);
            let journals = told.journals.iter().map(|(volume, options)| RemoteJournal {
                link: link.clone(),
                volume: volume.clone(),
                options: *options,
            });
            row.remote_journals.extend(journals);
        }
        self.keep_readers_below(group, (told.last, None), identity);
        self.readers.put(ReaderRecord {
            remote_group: Some(told.number),
            since: newest.counter,
            ..ReaderRecord::new(group, array, link.clone())
        });
        let turned: Vec<PairNumber> = self.pairs_with(group, array).map(|pair| pair.number).collect();
        for number in turned {
            let born = PairControl { born: generation.first, ..PairControl::default() };
            let control = match manner {
                Manner::Planned => born,
                Manner::Differences => PairControl {
                    asked: Some(Asked::Resync),
                    cause: Some(SuspendCause::Operator),
                    told: true,
                    ..born
                },
            };
            self.turn_round(number, VolumeState::Main, control);
            if failed && let Some(pair) = self.pairs.edit(&number) {
                // Its journal failed here: nothing notes what hosts write, so all of it counts as different
                // (`array/reverse.rs` writes those marks in the same transaction).
                pair.state = PairState::Abnormal;
                pair.reason = Some("the journal had failed when the group was turned round".to_owned());
            }
        }
        self.partner_stays(group, array);
        let mut numbers = numbers;
        for other in &told.others {
            let (its, left) = numbers.split_at(other.pairs.len().min(numbers.len()));
            self.take_on(group, other, array, its, identity());
            numbers = left;
        }
        self.partner_is_waited_for(group);
    }

    /// The pairs of a group that have their other volume at an array.
    pub(crate) fn pairs_with(
        &self,
        group: GroupNumber,
        array: ArrayNumber,
    ) -> impl Iterator<Item = &PairRecord> {
        let is_there = move |pair: &&PairRecord| pair.primary.array == array || pair.auxiliary.array == array;
        self.pairs_of_group(group).filter(is_there)
    }

    /// Numbers for pairs that will be made; what is not used is never given again.
    ///
    /// # Errors
    /// There are no more.
    pub(crate) fn reserve_pair_numbers(&mut self, count: usize) -> Result<Vec<PairNumber>, Refusal> {
        (0..count).map(|_| super::local::number(self).map(PairNumber)).collect()
    }

    /// What failed here on the way was its journal, and what counts was on the units of both before: the pair is what it is
    /// at the new primary, unless its volume itself failed.
    fn forget_failure(&mut self, number: PairNumber, manner: Manner) {
        let own = self.meta().number;
        let Some(pair) = self.pairs.get(&number) else { return };
        let side = if pair.primary.array == own { &pair.primary } else { &pair.auxiliary };
        let volume = side.volume.and_then(|volume| self.volumes.get(&volume));
        if volume.is_some_and(|volume| volume.state == VolumeState::Abnormal) {
            return;
        }
        if let Some(pair) = self.pairs.edit(&number).filter(|pair| pair.state == PairState::Abnormal) {
            (pair.state, pair.reason) = match manner {
                Manner::Planned => (PairState::Normal, None),
                Manner::Differences => (PairState::Suspended, Some("its group was turned round".to_owned())),
            };
        }
    }

    /// What this array had to tell its source as its copy means nothing to an array that copies from here, which would
    /// refuse it for ever.
    pub(super) fn stop_asking_as_a_copy(&mut self, group: &GroupName, source: &LinkName) {
        let is_meant = |what: &Designation| match what {
            Designation::JoinJournal { group: of, .. }
            | Designation::AskPrimary(Ask { group: of, .. })
            | Designation::ReadsElsewhere { group: of, .. }
            | Designation::LeaveJournal { group: of, .. }
            | Designation::JournalLost { group: of } => of == group,
            _ => false,
        };
        let meant = self.forwards_to(source).filter(|forward| is_meant(&forward.designation));
        let meant: Vec<u64> = meant.map(|forward| forward.sequence).collect();
        for sequence in meant {
            self.forwards.remove(&sequence);
        }
    }

    fn numbers_of(&self, group: GroupNumber) -> Vec<PairNumber> {
        self.pairs_of_group(group).map(|pair| pair.number).collect()
    }

    /// P-VOL and S-VOL change places; the volume here is what the other one was.
    fn turn_round(&mut self, number: PairNumber, here: VolumeState, control: PairControl) {
        let own = self.meta().number;
        let Some(pair) = self.pairs.edit(&number) else { return };
        std::mem::swap(&mut pair.primary, &mut pair.auxiliary);
        (pair.copy_completion_bytes, pair.copy_end) = (0, UpdateNumber(0));
        pair.control = control;
        let side = if pair.primary.array == own { &pair.primary } else { &pair.auxiliary };
        if let Some(volume) = side.volume {
            set_volume_state(self, volume, here);
        }
    }
}

/// The largest last number that is believed: behind it there are more than anybody will ever give.
pub(crate) const LAST_MAX: u64 = 1 << 62;
/// Counters of generations end before this one; journals have 32 bits for them.
pub(super) const COUNTER_MAX: u64 = u32::MAX as u64;
/// Generations that a peer may tell, more are refused; and that are kept: the first, and the newest ones.
pub(crate) const GENERATIONS_MAX: usize = 1_000;
