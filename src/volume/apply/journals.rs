//! Designations of journal volumes: added (step 920), taken away, replaced (promise J13); and what the array at work records
//! of them.
//!
//! Of those that are to go only that is noted: a volume that holds journal goes when nothing needs that any more.

use super::cascade::serving_group;
use super::copy::{
    READERS_MAX, copied_group, describe, followed_group, introduce_reader, peer, primary_group,
};
use super::local::within;
use crate::volume::designation::{Designation, DesignationId, Outcome, Refusal};
use crate::volume::group::{
    GroupEvent, GroupRecord, GroupRole, GroupState, JournalOptions, JournalVolume, RemoteJournal,
    ResumeRecord, SegmentRecord,
};
use crate::volume::name::{
    GroupName, GroupNumber, LinkName, PairNumber, UpdateNumber, VolumeName, VolumeNumber,
};
use crate::volume::pair::{Asked, PairRecord, PairState};
use crate::volume::record::{Identity, VolumeState, VolumeUsage, Who};
use crate::volume::table::Tables;

/// What is said of journal volumes.
pub(super) fn dispatch(
    tables: &mut Tables,
    id: DesignationId,
    what: &Designation,
    who: &Who,
) -> Result<Outcome, Refusal> {
    match what {
        Designation::AddJournal { group, volume, at, options } => {
            add(tables, id, group, volume, at.as_ref(), *options)
        }
        Designation::RemoteJournal { group, volume, options } => {
            remote_journal(tables, group, volume, *options, who)
        }
        Designation::JoinJournal { group, volume, options } => {
            super::remote::join_journal(tables, group, volume, *options, who)
        }
        Designation::LeaveJournal { group, volume } => leave(tables, group, volume, who),
        Designation::JournalLost { group } => lost(tables, group, who),
        Designation::RemoveJournal { group, volume } => remove(tables, group, volume),
        Designation::ReplaceJournal { group, volume, by } => replace(tables, id, group, volume, by),
        _ => Err(Refusal::conflict("this does not concern a journal volume")),
    }
}

fn add(
    tables: &mut Tables,
    id: DesignationId,
    group: &GroupName,
    volume: &VolumeName,
    at: Option<&LinkName>,
    options: JournalOptions,
) -> Result<Outcome, Refusal> {
    if let Some((number, source)) = copied_group(tables, group)? {
        return super::remote::add_journal_of_copy(
            tables,
            id,
            (group, number, &source),
            (volume, options),
            at,
        );
    }
    let number = primary_group(tables, group)?.number;
    let Some(link) = at else { return catalogue_journal(tables, number, volume, options) };
    add_remote_journal(tables, id, (group, number), (volume, options), link)
}

/// Step 920 for an array that reads the group from here.
pub(super) fn add_remote_journal(
    tables: &mut Tables,
    id: DesignationId,
    (group, number): (&GroupName, GroupNumber),
    (volume, options): (&VolumeName, JournalOptions),
    link: &LinkName,
) -> Result<Outcome, Refusal> {
    introduce_reader(tables, id, number, link)?;
    let row = tables.groups.edit(&number).ok_or_else(|| Refusal::missing("group", group))?;
    if row.remote_journals.iter().any(|journal| journal.is(link, volume)) {
        return Err(Refusal::exists("journal volume", format!("{link}:{volume}")));
    }
    within(row.remote_journals.len(), REMOTE_JOURNALS_MAX, "journal volumes at other arrays")?;
    row.remote_journals.push(RemoteJournal { link: link.clone(), volume: volume.clone(), options });
    let designation = Designation::RemoteJournal { group: group.clone(), volume: volume.clone(), options };
    tables.forward(link, id.caused(1), designation);
    Ok(Outcome::Done)
}

fn remote_journal(
    tables: &mut Tables,
    group: &GroupName,
    volume: &VolumeName,
    options: JournalOptions,
    who: &Who,
) -> Result<Outcome, Refusal> {
    let number = followed_group(tables, group, who)?;
    let is_there = tables.volume_named(volume).is_some_and(|row| row.usage == VolumeUsage::Journal(number));
    if is_there { Ok(Outcome::Done) } else { catalogue_journal(tables, number, volume, options) }
}

pub(super) fn catalogue_journal(
    tables: &mut Tables,
    group: GroupNumber,
    volume: &VolumeName,
    options: JournalOptions,
) -> Result<Outcome, Refusal> {
    let row = tables.volume_named(volume).ok_or_else(|| Refusal::missing("volume", volume))?;
    if row.usage != VolumeUsage::Host || row.state != VolumeState::Normal || row.parity_group.is_none() {
        let text = format!("volume {volume} cannot become a journal volume: it is {}", describe(row));
        return Err(Refusal::conflict(text));
    }
    let number = row.number;
    if row.growth.is_some() {
        return Err(Refusal::conflict(format!("volume {volume} is growing: say it again then")));
    }
    if let Some(other) = tables.group_of_member(number) {
        return Err(Refusal::conflict(format!("volume {volume} was put into group {}", other.name)));
    }
    if tables.is_mapped(number) {
        return Err(Refusal::conflict(format!("volume {volume} is mapped to hosts")));
    }
    if tables.is_forwarded(group) {
        return Err(Refusal::conflict("the writes of this group are forwarded: it has no journal here"));
    }
    let group_row = tables.groups.edit(&group).ok_or_else(|| Refusal::missing("group", group))?;
    within(group_row.journals.len(), JOURNALS_MAX, "journal volumes of a group")?;
    group_row.journals.push(JournalVolume {
        volume: number,
        options,
        is_leaving: false,
        is_replaced: false,
        failure: None,
    });
    if let Some(row) = tables.volumes.edit(&number) {
        row.usage = VolumeUsage::Journal(group);
    }
    Ok(Outcome::Done)
}

fn remove(tables: &mut Tables, group: &GroupName, volume: &VolumeName) -> Result<Outcome, Refusal> {
    let (number, volume_number) = journal_volume(tables, group, volume)?;
    let row = tables.groups.edit(&number).ok_or_else(|| Refusal::missing("group", group))?;
    let is_other = |other: &&JournalVolume| {
        other.volume != volume_number && !other.is_leaving && other.failure.is_none()
    };
    if row.is_started && row.journals.iter().find(is_other).is_none() {
        let text =
            format!("volume {volume} is the only journal volume of group {group}: add another one first");
        return Err(Refusal::conflict(text));
    }
    leaves(row, volume_number);
    Ok(Outcome::Done)
}

fn replace(
    tables: &mut Tables,
    id: DesignationId,
    group: &GroupName,
    volume: &VolumeName,
    by: &VolumeName,
) -> Result<Outcome, Refusal> {
    let (number, volume_number) = journal_volume(tables, group, volume)?;
    let row = tables.groups.get(&number).ok_or_else(|| Refusal::missing("group", group))?;
    let old = row.journals.iter().find(|journal| journal.volume == volume_number);
    let options = old.map(|journal| journal.options).unwrap_or_default();
    // One that is still leaving its failed journal goes on when it has left it.
    let has_left = row.state == GroupState::Abnormal && row.segments.is_empty();
    let role = row.role.clone();
    catalogue_journal(tables, number, by, options)?;
    if let Some(row) = tables.groups.edit(&number) {
        leaves(row, volume_number);
        let mut old = row.journals.iter_mut();
        if let Some(old) = old.find(|journal| journal.volume == volume_number) {
            old.is_replaced = true;
        }
    }
    if has_left {
        goes_on(tables, number)?;
    }
    if let GroupRole::Auxiliary { link, .. } = role {
        let joins = Designation::JoinJournal { group: group.clone(), volume: by.clone(), options };
        tables.forward(&link, id.caused(0), joins);
    }
    Ok(Outcome::Done)
}

/// From an auxiliary: its volume is a journal volume no more.
fn leave(tables: &mut Tables, group: &GroupName, volume: &VolumeName, who: &Who) -> Result<Outcome, Refusal> {
    let (_, link) = peer(tables, who)?;
    let number = serving_group(tables, group)?.number;
    if let Some(row) = tables.groups.edit(&number) {
        row.remote_journals.retain(|journal| !journal.is(&link, volume));
    }
    Ok(Outcome::Done)
}

/// From an auxiliary: everything that it had not settled is lost there.
fn lost(tables: &mut Tables, group: &GroupName, who: &Who) -> Result<Outcome, Refusal> {
    let (array, _) = peer(tables, who)?;
    let number = serving_group(tables, group)?.number;
    match tables.readers.edit(&(number, array)) {
        Some(reader) => reader.journal_lost = true,
        None => return Err(Refusal::conflict(format!("array {array} does not copy group {group}"))),
    }
    Ok(Outcome::Done)
}

/// The volume is an ordinary one again. Its content was the journal's: it is made anew.
pub(super) fn make_ordinary(tables: &mut Tables, volume: VolumeNumber) {
    if let Some(volume) = tables.volumes.edit(&volume) {
        (volume.usage, volume.is_carved) = (VolumeUsage::Host, false);
    }
}

fn journal_volume(
    tables: &Tables,
    group: &GroupName,
    volume: &VolumeName,
) -> Result<(GroupNumber, VolumeNumber), Refusal> {
    let row = tables.group_named(group).ok_or_else(|| Refusal::missing("group", group))?;
    let number = tables.volume_named(volume).ok_or_else(|| Refusal::missing("volume", volume))?.number;
    if row.has_journal_volume(number) {
        Ok((row.number, number))
    } else {
        Err(Refusal::conflict(format!("volume {volume} is no journal volume of group {group}")))
    }
}

fn leaves(row: &mut GroupRecord, volume: VolumeNumber) {
    for journal in row.journals.iter_mut().filter(|journal| journal.volume == volume) {
        journal.is_leaving = true;
    }
}

/// A group whose journal has failed goes on with another one.
fn goes_on(tables: &mut Tables, group: GroupNumber) -> Result<(), Refusal> {
    tables.group_event(group, GroupEvent::Resume, None)?;
    let role = tables.groups.get(&group).map(|row| row.role.clone());
    if matches!(role, Some(GroupRole::Primary)) {
        copy_again(tables, group);
    }
    Ok(())
}

/// Pairs that turned abnormal with the journal are copied again: their maps say what.
fn copy_again(tables: &mut Tables, group: GroupNumber) {
    // Nothing is copied to the array of a takeover before its operator has given up what is only there.
    let held = tables.groups.get(&group).and_then(|row| row.takeover.as_ref()?.link().cloned());
    let abnormal: Vec<PairNumber> = tables
        .pairs_of_group(group)
        .filter(|pair| pair.state == PairState::Abnormal && pair.control.asked.is_none())
        .filter(|pair| held.as_ref() != Some(&pair.link))
        .map(|pair| pair.number)
        .collect();
    for pair in abnormal {
        if let Some(row) = tables.pairs.edit(&pair) {
            row.control.asked = Some(Asked::Resync);
        }
    }
}

// ---- What the array at work records, each in a transaction of its own --------------------------------------------

impl Tables {
    /// From here on these volumes, oldest first, are the group's journal. The last one must be a journal volume of the
    /// group that nobody takes away.
    pub(crate) fn journal_is_in(
        &mut self,
        group: GroupNumber,
        segments: Vec<SegmentRecord>,
        failed: Option<(VolumeNumber, &str)>,
    ) -> Result<(), Refusal> {
        let row = self.groups.edit(&group).ok_or_else(|| Refusal::missing("group", group))?;
        let is_new = |last: &SegmentRecord| row.segments.last() != Some(last);
        if let Some(last) = segments.last().filter(|last| is_new(last)) {
            let mut known = row.journals.iter().filter(|journal| journal.volume == last.volume);
            if known.next().is_none_or(|journal| journal.is_leaving) {
                return Err(Refusal::conflict("the volume has been taken away meanwhile"));
            }
        }
        let resume = row.resume.take();
        let (goes_on, begins) = (resume.is_some(), segments.first().filter(|_| row.segments.is_empty()));
        let begins = begins.map(|segment| segment.first);
        // What was stored before it goes on counts for the generations.
        let has_history = resume.is_some_and(|resume| resume.generation.is_some());
        if let Some(first) = begins.filter(|_| !has_history) {
            row.journal_first = first;
        }
        row.segments = segments;
        if let Some((volume, reason)) = failed {
            for journal in row.journals.iter_mut().filter(|journal| journal.volume == volume) {
                journal.failure = Some(reason.to_owned());
            }
        }
        // What was of one number while there was no journal moves again: with the number behind that, and with no later one.
        let is_next =
            |stopped: UpdateNumber| begins.is_some_and(|first| first.0 <= stopped.0.saturating_add(1));
        let pairs: Vec<PairNumber> = self.pairs_of_group(group).map(|pair| pair.number).collect();
        for pair in pairs {
            let moves = |pair: &PairRecord| pair.control.stopped_at.is_some_and(|at| goes_on || is_next(at));
            let is_meant = self.pairs.get(&pair).is_some_and(|pair| !pair.state.is_stopped() && moves(pair));
            if let Some(pair) = self.pairs.edit(&pair).filter(|_| is_meant) {
                pair.control.stopped_at = None;
            }
        }
        Ok(())
    }

    /// At an auxiliary: its primary is told that what was not durable in the S-VOLs is lost.
    pub(crate) fn tell_of_loss(&mut self, group: GroupNumber, identity: Identity) {
        let Some(row) = self.groups.edit(&group) else { return };
        row.reads_again = UpdateNumber(0);
        let (name, role) = (row.name.clone(), row.role.clone());
        if let GroupRole::Auxiliary { link, .. } = role {
            self.forward(&link, DesignationId(identity), Designation::JournalLost { group: name });
        }
    }

    /// At an auxiliary: the journal ends here with everything that is not restored, and goes on as `resume` says. The S-VOLs are
    /// as of `whole`, or no image.
    ///
    /// What was stored and is lost is asked for again. A primary that holds it no more because it was acknowledged marks it when
    /// it hears that, and only for pairs that it has not suspended before. So of a suspended pair it is told ([`Self::reads_again`]).
    pub(crate) fn journal_is_lost(
        &mut self,
        group: GroupNumber,
        whole: Option<UpdateNumber>,
        resume: &ResumeRecord,
        identity: Identity,
    ) {
        self.stop_images(group, whole);
        let Some(row) = self.groups.edit(&group) else { return };
        let had = row.reads_again.max(resume.handed);
        row.reads_again = if had >= resume.first { had } else { UpdateNumber(0) };
        if whole.is_none() {
            self.tell_of_loss(group, identity);
        } else {
            self.tell_if_stopped(group, identity);
        }
    }

    /// At an auxiliary that has stored again what it lost.
    pub(crate) fn has_read_again(&mut self, group: GroupNumber) {
        if let Some(row) = self.groups.edit(&group) {
            row.reads_again = UpdateNumber(0);
        }
    }

    /// At an auxiliary: what is to be read again is missing in the maps of pairs that are not `normal` any more.
    pub(crate) fn tell_if_stopped(&mut self, group: GroupNumber, identity: Identity) {
        let is_lacking = self.groups.get(&group).is_some_and(|row| row.reads_again.0 != 0);
        if is_lacking && self.followed_pairs(group).any(|pair| pair.state != PairState::Normal) {
            self.tell_of_loss(group, identity);
        }
    }

    /// At an auxiliary: its primary has not heard yet that its journal was lost, and would copy what it has marked without that.
    pub(super) fn check_loss_is_told(&self, group: GroupNumber) -> Result<(), Refusal> {
        let Some(GroupRecord { name, role: GroupRole::Auxiliary { link, .. }, .. }) = self.groups.get(&group)
        else {
            return Ok(());
        };
        let is_loss =
            |what: &Designation| matches!(what, Designation::JournalLost { group } if group == name);
        match self.forwards_to(link).any(|forward| is_loss(&forward.designation)) {
            true => Err(Refusal::conflict(format!(
                "that the journal of group {name} was lost is on its way to you"
            ))),
            false => Ok(()),
        }
    }

    /// A failed journal is left to the end; where the next one goes on. If its place has been taken meanwhile, the group
    /// goes on.
    pub(crate) fn journal_is_left(&mut self, group: GroupNumber, resume: ResumeRecord) {
        let Some(row) = self.groups.edit(&group) else { return };
        let failed = row.segments.last().map(|segment| segment.volume);
        let mut is_replaced = false;
        for journal in row.journals.iter_mut().filter(|journal| Some(journal.volume) == failed) {
            journal.failure = row.reason.clone();
            is_replaced = journal.is_leaving;
        }
        row.segments.clear();
        // What hosts write until there is another one is in none, also where no number is lost by that.
        row.inherited = None;
        row.next_update_number = resume.first;
        row.resume = Some(resume);
        if is_replaced {
            // An abnormal group may always go on.
            let _ = goes_on(self, group);
        }
    }

    /// Journal volumes that shall go and hold nothing that is needed.
    pub(crate) fn journals_to_go(&self, group: GroupNumber) -> Vec<VolumeNumber> {
        let Some(row) = self.groups.get(&group) else { return Vec::new() };
        let is_in_use = |volume| row.segments.iter().any(|segment| segment.volume == volume);
        let gone = row.journals.iter().filter(|journal| journal.is_leaving && !is_in_use(journal.volume));
        gone.map(|journal| journal.volume).collect()
    }

    /// They are ordinary volumes again; at an auxiliary the primary is told.
    pub(crate) fn journals_are_gone(
        &mut self,
        group: GroupNumber,
        volumes: &[VolumeNumber],
        identity: &mut dyn FnMut() -> Identity,
    ) {
        let Some(row) = self.groups.edit(&group) else { return };
        row.journals.retain(|journal| !volumes.contains(&journal.volume));
        let (name, role) = (row.name.clone(), row.role.clone());
        for volume in volumes {
            let volume_name = self.volumes.get(volume).map(|volume| volume.name.clone());
            make_ordinary(self, *volume);
            if let (GroupRole::Auxiliary { link, .. }, Some(volume)) = (&role, volume_name) {
                let told = Designation::LeaveJournal { group: name.clone(), volume };
                self.forward(link, DesignationId(identity()), told);
            }
        }
    }
}

/// Journal volumes of one group at one array; more are refused.
const JOURNALS_MAX: usize = 16;
/// Journal volumes of one group at all other arrays; more are refused.
pub(super) const REMOTE_JOURNALS_MAX: usize = JOURNALS_MAX * READERS_MAX;
