//! Designations that take journal volumes away or put others in their place (promise J13), and what the array at work
//! records of its journal volumes.
//!
//! Here only what is asked is noted: a volume that holds journal goes when nothing needs that any more.

use super::copy::{catalogue_journal, peer, primary_group};
use crate::volume::designation::{Designation, DesignationId, Outcome, Refusal};
use crate::volume::group::{
    GroupEvent, GroupRecord, GroupRole, GroupState, JournalVolume, ResumeRecord, SegmentRecord,
};
use crate::volume::name::{GroupName, GroupNumber, PairNumber, VolumeName, VolumeNumber};
use crate::volume::pair::{Asked, PairState};
use crate::volume::record::{Identity, VolumeUsage, Who};
use crate::volume::table::Tables;

pub(super) fn remove(
    tables: &mut Tables,
    group: &GroupName,
    volume: &VolumeName,
) -> Result<Outcome, Refusal> {
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

pub(super) fn replace(
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
pub(super) fn leave(
    tables: &mut Tables,
    group: &GroupName,
    volume: &VolumeName,
    who: &Who,
) -> Result<Outcome, Refusal> {
    let (_, link) = peer(tables, who)?;
    let number = primary_group(tables, group)?.number;
    if let Some(row) = tables.groups.edit(&number) {
        row.remote_journals.retain(|journal| !journal.is(&link, volume));
    }
    Ok(Outcome::Done)
}

/// From an auxiliary: everything that it had not settled is lost there.
pub(super) fn lost(tables: &mut Tables, group: &GroupName, who: &Who) -> Result<Outcome, Refusal> {
    let (array, _) = peer(tables, who)?;
    let number = primary_group(tables, group)?.number;
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
    let abnormal: Vec<PairNumber> = tables
        .pairs_of_group(group)
        .filter(|pair| pair.state == PairState::Abnormal && pair.control.asked.is_none())
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
        let goes_on = row.resume.take().is_some();
        row.segments = segments;
        if let Some((volume, reason)) = failed {
            for journal in row.journals.iter_mut().filter(|journal| journal.volume == volume) {
                journal.failure = Some(reason.to_owned());
            }
        }
        if goes_on {
            // What was of one number while there was no journal moves again.
            let pairs: Vec<PairNumber> = self.pairs_of_group(group).map(|pair| pair.number).collect();
            for pair in pairs {
                if let Some(pair) = self.pairs.edit(&pair).filter(|pair| !pair.state.is_stopped()) {
                    pair.control.stopped_at = None;
                }
            }
        }
        Ok(())
    }

    /// At an auxiliary: its primary is told that what was not durable in the S-VOLs is lost.
    pub(crate) fn tell_of_loss(&mut self, group: GroupNumber, identity: Identity) {
        let Some(row) = self.groups.get(&group) else { return };
        let (name, role) = (row.name.clone(), row.role.clone());
        if let GroupRole::Auxiliary { link, .. } = role {
            self.forward(&link, DesignationId(identity), Designation::JournalLost { group: name });
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
