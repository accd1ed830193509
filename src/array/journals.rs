//! The journal volumes of groups, as the store names them and as groups at work use them (promise J13): opened after a
//! start, handed to groups as spares, given back when nothing needs them, and what follows when journal is lost.

use super::Array;
use super::cascade::{generation, stored_generation};
use super::groups::own_volume;
use super::view::{pointer_view, volume_name};
use crate::clock::Entropy;
use crate::copy::group::{Group, Role};
use crate::copy::recover::{self, JournalError};
use crate::copy::volumes::{NameError, Named, ResumePoint, SegmentStore, Spare};
use crate::copy::{CheckpointExtra, CopyError};
use crate::disk::{DiskAdapter, VolumeId};
use crate::shell::view::JournalView;
use crate::volume::designation::Refusal;
use crate::volume::group::{
    GroupEvent, GroupRecord, GroupRole, GroupState, JournalVolume, ResumeRecord, SegmentRecord,
};
use crate::volume::name::{
    ArrayNumber, GroupName, GroupNumber, PairName, UpdateNumber as StoredNumber, VolumeNumber,
};
use crate::volume::pair::PairEvent;
use crate::volume::record::{Identity, Who};
use crate::volume::store::Store;
use crate::volume::table::Tables;
use holdfast_journal::chain::{Chain, Position, Verdict, judge};
use holdfast_journal::format::FormatParams;
use holdfast_journal::{
    ArrayNumber as JournalArray, Incarnation, Journal, UpdateNumber, VolumeNumber as JournalVolumeNumber,
};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The control store, as a group names its journal volumes in it.
pub(crate) struct Segments {
    pub(crate) store: Arc<Store>,
    pub(crate) group: GroupNumber,
    pub(crate) entropy: Arc<dyn Entropy>,
}

impl SegmentStore for Segments {
    fn incarnation(&self) -> u128 {
        self.entropy.identity()
    }

    fn name(&self, segments: &[Named], why: &str, failed: Option<(u32, &str)>) -> Result<(), NameError> {
        let names: Vec<String> = self.store.read(|tables| {
            let name = |number: u32| {
                let volume = tables.volumes.get(&VolumeNumber(number));
                volume.map_or_else(|| number.to_string(), |volume| volume.name.to_string())
            };
            segments
                .iter()
                .map(|segment| format!("{} from update {}", name(segment.volume), segment.first))
                .collect()
        });
        let what = format!("group {}: its journal is in {}: {why}", self.group, names.join(", "));
        let rows = segments.iter().map(|segment| SegmentRecord {
            volume: VolumeNumber(segment.volume),
            incarnation: Identity(segment.incarnation),
            first: StoredNumber(segment.first.get()),
        });
        let failed = failed.map(|(volume, reason)| (VolumeNumber(volume), reason));
        let changed = self
            .store
            .change(&Who::Array, what, |tables| tables.journal_is_in(self.group, rows.collect(), failed));
        changed.map_err(|refusal| match refusal {
            Refusal::Store(reason) => NameError::Uncertain(reason),
            refused => NameError::Refused(refused.to_string()),
        })
    }
}

impl Array {
    /// The journal of a group as a restart left it in its volumes, or a new one.
    pub(crate) async fn open_chain(
        &self,
        record: &GroupRecord,
        first: Option<UpdateNumber>,
    ) -> anyhow::Result<(Chain, CheckpointExtra)> {
        if record.segments.is_empty() {
            return self.format_chain(record, first).await;
        }
        let found = recover_chain(&self.disk, self.config.array.number, record).await?;
        for (volume, error) in &found.lost {
            tracing::error!(group = %record.name, %volume, error,
                "a journal volume that readers may need cannot be read");
        }
        Ok((found.chain, found.extra))
    }

    /// Formats the first journal volume that can be used.
    async fn format_chain(
        &self,
        record: &GroupRecord,
        first: Option<UpdateNumber>,
    ) -> anyhow::Result<(Chain, CheckpointExtra)> {
        let usable = |reserve: bool| {
            let journals = record.journals.iter();
            journals.filter(move |journal| {
                !journal.is_leaving && journal.failure.is_none() && journal.options.reserve == reserve
            })
        };
        let mut trouble = anyhow::anyhow!("it has no journal volume");
        for journal in usable(false).chain(usable(true)) {
            match self.format_volume(record, journal, first).await {
                Ok(opened) => return Ok(opened),
                Err(error) => trouble = error,
            }
        }
        Err(trouble)
    }

    async fn format_volume(
        &self,
        record: &GroupRecord,
        journal: &JournalVolume,
        first: Option<UpdateNumber>,
    ) -> anyhow::Result<(Chain, CheckpointExtra)> {
        let raw = self.disk.raw(VolumeId(journal.volume.0))?;
        let incarnation = self.env.entropy.identity();
        let resume = record.resume.as_ref();
        let first = resume.map(|resume| UpdateNumber::new(resume.first.0)).or(first);
        let params = FormatParams {
            incarnation: Incarnation::new(incarnation),
            array: JournalArray(self.config.array.number.0),
            group: holdfast_journal::GroupNumber(record.number.0),
            volume_bytes: raw.size_bytes(),
            layout: journal.options.layout.format(),
            data_per_info: journal.options.ratio.data_per_info(),
            first: first.unwrap_or(UpdateNumber::FIRST),
            generation: generation(
                resume.and_then(|resume| resume.generation.as_ref()).or(record.generations.last()),
            ),
        };
        let bytes = resume.map_or(&[][..], |resume| resume.extra.as_slice());
        let extra = CheckpointExtra::decode(bytes).ok_or(JournalError::Extra)?;
        let formatted = recover::format(&raw, &self.pool, params, bytes).await?;
        // The formatting is durable before the store names it: a crash in between formats once more.
        let segments = self.segments_of(record.number);
        let named = Named { volume: journal.volume.0, incarnation, first: params.first };
        segments.name(&[named], "it begins", None).map_err(anyhow::Error::msg)?;
        Ok((Chain::new(JournalVolumeNumber(journal.volume.0), formatted), extra))
    }

    pub(crate) fn segments_of(&self, group: GroupNumber) -> Segments {
        Segments { store: self.store.clone(), group, entropy: self.env.entropy.clone() }
    }

    /// Tells the group at work which volumes it may write, and gives those back that shall go.
    pub(crate) fn sync_journals(&self, group: &Arc<Group>) {
        self.give_back_journals(GroupNumber(group.number));
        let (writable, leaving) = self.store.read(|tables| writable_of(tables, GroupNumber(group.number)));
        // Ready is what the disk adapter has opened as a journal volume.
        let is_ready = |spare: &Spare| self.disk.raw(VolumeId(spare.volume)).is_ok();
        group.set_volumes(writable.into_iter().filter(is_ready).collect(), leaving);
    }

    /// Journal volumes that shall go and hold nothing that is needed become ordinary volumes.
    pub(crate) fn give_back_journals(&self, group: GroupNumber) {
        let volumes = self.store.read(|tables| tables.journals_to_go(group));
        if volumes.is_empty() {
            return;
        }
        let what = format!("group {group}: {} journal volumes taken away", volumes.len());
        let mut identity = || Identity(self.env.entropy.identity());
        let recorded = self.store.change(&Who::Array, what, |tables| {
            tables.journals_are_gone(group, &volumes, &mut identity);
            Ok(())
        });
        match recorded {
            Ok(()) => {
                let at_work = self.runtime().groups.get(&group.0).cloned();
                if let Some(at_work) = at_work {
                    at_work.forget_journals(volumes.iter().map(|volume| volume.0));
                }
                self.wake();
            }
            Err(error) => tracing::error!(%group, %error, "a journal volume cannot be given back"),
        }
    }

    /// A group that could not be opened for a journal volume which the operator has meanwhile replaced: what that volume
    /// held is given up, everything counts as different, and the group begins a new journal. No other error gives up a
    /// journal: what is durable in it may be read the next time.
    pub(crate) fn give_up_replaced(
        &self,
        tables: &Tables,
        record: &GroupRecord,
        error: &anyhow::Error,
    ) -> bool {
        let Some(last) = record.segments.last().filter(|_| may_be_given_up(&record.journals, error)) else {
            return false;
        };
        let reason = error.to_string();
        let marks = Self::everything_differs(tables, record);
        // No number that may ever have been given is given again.
        let first =
            StoredNumber(last.first.0.max(record.next_update_number.0).saturating_add(NUMBERS_SKIPPED));
        let is_primary = matches!(record.role, GroupRole::Primary);
        let what = format!("group {}: its journal is given up: {reason}", record.name);
        let recorded = self.store.change_with_marks(&Who::Array, what, &marks, |tables| {
            if record.state == GroupState::Abnormal {
                tables.group_event(record.number, GroupEvent::Resume, None)?;
            }
            {
                let pairs: Vec<_> = tables.pairs_of_group(record.number).map(|pair| pair.number).collect();
                for pair in pairs {
                    tables.pair_event(pair, PairEvent::Fail, Some(reason.clone()))?;
                    let is_served = tables.pairs.get(&pair).is_some_and(|pair| tables.is_served(pair));
                    if let Some(row) = tables.pairs.edit(&pair).filter(|_| is_served) {
                        row.control.asked = Some(crate::volume::pair::Asked::Resync);
                    }
                }
            }
            if let Some(row) = tables.groups.edit(&record.number) {
                row.segments.clear();
                row.resume = is_primary.then(|| ResumeRecord { first, ..ResumeRecord::default() });
            }
            tables.stop_images(record.number, None);
            tables.tell_of_loss(record.number, Identity(self.env.entropy.identity()));
            Ok(())
        });
        match recorded {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(group = %record.name, %error, "its journal cannot be given up");
                false
            }
        }
    }

    /// A group whose journal was lost and left, and for which the operator has put another volume in its place.
    pub(crate) async fn close_replaced_groups(&self, tables: &Tables) {
        let replaced: Vec<Arc<Group>> = {
            let runtime = self.runtime();
            let is_normal = |number: &u32| {
                let record = tables.groups.get(&GroupNumber(*number));
                record.is_some_and(|record| record.state == GroupState::Normal && record.segments.is_empty())
            };
            let groups = runtime
                .groups
                .iter()
                .filter(|(number, group)| group.failure().is_some() && is_normal(number));
            groups.map(|(_, group)| group.clone()).collect()
        };
        for group in replaced {
            group.close().await;
            self.runtime().groups.remove(&group.number);
        }
    }

    /// At an auxiliary: journal that was not restored is lost. What is restored goes to the units, and the next journal
    /// begins behind it: the source is asked for the rest again.
    pub(crate) async fn read_again(&self, tables: &Tables, group: &Arc<Group>) {
        if group.role != Role::Copy || !group.must_read_again() {
            return;
        }
        if let Err(error) = group.close_destaged().await {
            tracing::error!(group = %group.name, %error, "cannot be destaged; trying again");
            // Its journal stays until that is done; the owner looks again.
            self.runtime().group_trouble.insert(group.number, error.to_string());
            return;
        }
        let resume = resume_record(group);
        let number = GroupNumber(group.number);
        let first = resume.first;
        let what = format!("group {}: journal is lost; it is read again from update {first} on", group.name);
        let whole = group.whole_number().map(|number| StoredNumber(number.get()));
        let identity = Identity(self.env.entropy.identity());
        let recorded = self.store.change(&Who::Array, what, |tables| {
            tables.journal_is_lost(number, whole, &resume, identity);
            if let Some(row) = tables.groups.edit(&number) {
                row.segments.clear();
                row.resume = Some(resume);
            }
            Ok(())
        });
        if let Err(error) = recorded {
            tracing::error!(group = %group.name, %error, "the loss of its journal cannot be recorded");
        }
        for pair in tables.pairs_of_group(number) {
            let Some(volume) = own_volume(tables, pair) else { continue };
            if let Err(error) = self.disk.set_gate(VolumeId(volume), None) {
                tracing::warn!(volume, %error, "the gate of a volume cannot be taken away");
            }
        }
        self.runtime().groups.remove(&group.number);
        self.wake();
    }

    /// At an auxiliary that lost its journal: whether it has everything again counts when a pair is suspended.
    pub(super) fn note_read_again(&self, pair: &PairName) -> Result<(), Refusal> {
        let row = self.store.read(|tables| {
            let number = tables.pair_named(pair)?.group;
            tables
                .groups
                .get(&number)
                .map(|row| (row.number, row.reads_again))
                .filter(|(_, again)| again.0 != 0)
        });
        let Some((number, again)) = row else { return Ok(()) };
        let has_it = |group: Arc<Group>| group.durable_here().get() >= again.0;
        if !self.open_group_of(number).is_some_and(has_it) {
            return Ok(());
        }
        self.store.checkpoint(|tables| tables.has_read_again(number))
    }

    /// Readers that have said that their journal is lost: what they had not settled is marked, whatever they said of it.
    pub(super) async fn strand_readers(&self, tables: &Tables, group: &Arc<Group>) {
        let number = GroupNumber(group.number);
        for reader in tables.readers_of_group(number).filter(|reader| reader.journal_lost) {
            if let Some(tamper) = &self.env.tamper {
                self.env.clock.sleep(tamper.before_marking_lost()).await;
            }
            let array = JournalArray(reader.array.0);
            let goes_on = !tables.pairs_taken_for_normal(number, reader.array).is_empty();
            if goes_on || group.holds_reader(array) {
                group.strand(array); // They are suspended, and what was before with them.
                continue;
            }
            let forget = |tables: &mut Tables| forget_loss(tables, number, reader.array);
            if self.mark_stopped(group, reader.array, forget).await {
                group.stranded_no_more(array);
                self.wake();
            }
        }
    }

    /// The same as soon as it is said, and before a group is served: the owner of the groups comes later than the first report of
    /// the reader, which takes what it lost for settled.
    pub(super) fn strand_at_once(&self, group: &Group) {
        let number = GroupNumber(group.number);
        let lost: Vec<ArrayNumber> = self.store.read(|tables| {
            let readers = tables.readers_of_group(number).filter(|reader| reader.journal_lost);
            readers.map(|reader| reader.array).collect()
        });
        lost.into_iter().for_each(|array| group.strand(JournalArray(array.0)));
    }

    /// A reader has just said so.
    pub(super) fn journal_is_lost(&self, group: &GroupName) {
        let number = self.store.read(|tables| tables.group_named(group).map(|row| row.number));
        if let Some(group) = number.and_then(|number| self.open_group_of(number)) {
            self.strand_at_once(&group);
        }
    }

    /// What each journal volume of a group at work is and holds.
    pub(super) fn journal_views(&self, tables: &Tables, record: &GroupRecord) -> Vec<JournalView> {
        let Some(status) = self.status_of(record) else { return Vec::new() };
        let written = status.segments.last().map(|segment| segment.volume.0);
        let view = |journal: &JournalVolume| {
            let number = journal.volume.0;
            let mut segments = status.segments.iter().zip(&status.pointers).rev();
            let segment = segments.find(|(segment, _)| segment.volume.0 == number);
            let segment = segment.filter(|_| !record.segments.is_empty());
            let pointers = segment.map(|(_, pointers)| pointers);
            let segment = segment.map(|(segment, _)| segment);
            let is_written = segment.is_some() && written == Some(number);
            let used_as = match (segment, journal.options.reserve) {
                (Some(_), _) if is_written => "written",
                (Some(_), _) => "read",
                (None, true) => "reserve",
                (None, false) => "waiting",
            };
            let state = match journal {
                journal if journal.failure.is_some() => "failed".to_owned(),
                journal if journal.is_leaving => "leaving".to_owned(),
                _ => record.state.to_string(),
            };
            let usage = segment.map(|segment| segment.usage);
            let held = segment.filter(|segment| segment.oldest <= segment.newest);
            Some(JournalView {
                group: record.name.to_string(),
                volume: volume_name(tables, journal.volume)?,
                state,
                reason: journal.failure.clone().or_else(|| record.reason.clone()),
                used_as: used_as.to_owned(),
                ratio: journal.options.ratio.to_string(),
                layout: journal.options.layout.to_string(),
                update_information_bytes: usage.map_or(0, |usage| usage.info_capacity),
                update_information_used_bytes: usage.map_or(0, |usage| usage.info_used),
                write_data_bytes: usage.map_or(0, |usage| usage.data_capacity),
                write_data_used_bytes: usage.map_or(0, |usage| usage.data_used),
                oldest_update_number: held.map(|segment| segment.oldest.get()),
                newest_update_number: held.map(|segment| segment.newest.get()),
                cache_bytes: status.cache_bytes.0,
                cache_used_bytes: status.cache_bytes.1,
                unit_reads: status.unit_reads,
                pointers: pointers
                    .into_iter()
                    .flatten()
                    .map(|(array, at)| pointer_view(*array, *at))
                    .collect(),
            })
        };
        record.journals.iter().filter_map(view).collect()
    }

    /// The journal of a group is left for good; where the next one goes on is recorded with it.
    pub(crate) fn give_up_journal(&self, group: &Group) -> Result<(), Refusal> {
        let number = GroupNumber(group.number);
        let resume = resume_record(group);
        let whole = group.whole_number().map(|number| StoredNumber(number.get()));
        let identity = Identity(self.env.entropy.identity());
        self.store.checkpoint(|tables| {
            tables.journal_is_lost(number, whole, &resume, identity);
            tables.journal_is_left(number, resume);
        })
    }
}

/// A journal as a restart left it.
pub(crate) struct RecoveredChain {
    pub(crate) chain: Chain,
    pub(crate) extra: CheckpointExtra,
    /// Volumes that are named and cannot be read, and why: nothing is replayed from them, but readers may need them.
    pub(crate) lost: Vec<(VolumeNumber, String)>,
}

/// The journal of a group as a restart left it in its volumes. Nothing is written.
///
/// # Errors
/// It has no volume, or one without which the journal cannot be used holds none that can be read.
pub(crate) async fn recover_chain(
    disk: &DiskAdapter,
    own: ArrayNumber,
    record: &GroupRecord,
) -> anyhow::Result<RecoveredChain> {
    let (mut kept, mut extra, mut lost_below) = (Vec::new(), None, UpdateNumber::NONE);
    let mut lost = Vec::new();
    let mut settled = UpdateNumber::NONE;
    let mut end: Option<UpdateNumber> = None;
    // The last one first: it says what is settled.
    for segment in record.segments.iter().rev() {
        let number = UpdateNumber::new(segment.first.0);
        if end.is_some_and(|end| number >= end) {
            continue; // A volume that took over reaches back over all that it could hold.
        }
        let found = recover_segment(disk, segment, end).await.and_then(|(journal, extra)| {
            check_owner(&journal, own.0, record, segment)?;
            Ok((journal, extra))
        });
        let position = if end.is_none() { Position::Last } else { Position::Earlier };
        let is_needed = end.is_none_or(|end| settled.next() < end);
        match (judge(position, found.is_ok(), is_needed), found) {
            (Verdict::Keep, Ok((journal, its_extra))) => {
                if position == Position::Last {
                    settled = journal.settled();
                    extra = Some(its_extra);
                }
                kept.push((JournalVolumeNumber(segment.volume.0), number, journal));
            }
            (Verdict::Lost, Err(error)) => {
                lost.push((segment.volume, error.to_string()));
                lost_below = lost_below.max(end.unwrap_or(UpdateNumber::NONE));
            }
            (_, Err(error)) => {
                let volume = segment.volume;
                return Err(UnreadableVolume { volume, reason: error.to_string() }.into());
            }
            (_, Ok(_)) => anyhow::bail!("a journal that was found cannot be used"),
        }
        end = Some(number);
    }
    kept.reverse();
    let mut chain = Chain::join(kept).ok_or_else(|| anyhow::anyhow!("it has no journal volume"))?;
    chain.lose_below(lost_below);
    Ok(RecoveredChain { chain, extra: extra.unwrap_or_default(), lost })
}

async fn recover_segment(
    disk: &DiskAdapter,
    segment: &SegmentRecord,
    end: Option<UpdateNumber>,
) -> anyhow::Result<(Journal, CheckpointExtra)> {
    let raw = disk.raw(VolumeId(segment.volume.0))?;
    Ok(recover::recover(&raw, end).await?)
}

/// A volume without which the journal cannot be used holds no journal that can be read.
#[derive(Debug, thiserror::Error)]
#[error("journal volume {volume}: {reason}")]
struct UnreadableVolume {
    volume: VolumeNumber,
    reason: String,
}

/// Whether the operator has put another volume in the place of the very one that cannot be read. One that is only to be
/// taken away is still waited for.
fn may_be_given_up(journals: &[JournalVolume], error: &anyhow::Error) -> bool {
    let unreadable = match (error.downcast_ref::<UnreadableVolume>(), error.downcast_ref::<CopyError>()) {
        (Some(unreadable), _) => unreadable.volume,
        // Its head could be read; what a replay needs could not.
        (None, Some(CopyError::Journal { volume, .. })) => VolumeNumber(*volume),
        (None, _) => return false,
    };
    let is_replaced = journals
        .iter()
        .any(|journal| journal.volume == unreadable && journal.is_leaving && journal.is_replaced);
    is_replaced && journals.iter().any(|journal| !journal.is_leaving && journal.failure.is_none())
}

/// What a reader said of the loss of its journal is seen to.
pub(super) fn forget_loss(tables: &mut Tables, group: GroupNumber, reader: ArrayNumber) {
    if let Some(row) = tables.readers.edit(&(group, reader)) {
        row.journal_lost = false;
    }
}

fn resume_record(group: &Group) -> ResumeRecord {
    let ResumePoint { first, extra, generation, handed } = group.resume_point();
    ResumeRecord {
        first: StoredNumber(first.get()),
        extra,
        generation: generation.as_ref().map(stored_generation),
        handed: StoredNumber(handed.get()),
    }
}

fn writable_of(tables: &Tables, group: GroupNumber) -> (Vec<Spare>, BTreeSet<u32>) {
    let Some(record) = tables.groups.get(&group) else { return Default::default() };
    let writable = record.journals.iter().filter(|journal| !journal.is_leaving && journal.failure.is_none());
    let writable = writable.map(|journal| Spare {
        volume: journal.volume.0,
        is_reserve: journal.options.reserve,
        layout: journal.options.layout.format(),
        data_per_info: journal.options.ratio.data_per_info(),
    });
    let leaving = record.journals.iter().filter(|journal| journal.is_leaving);
    (writable.collect(), leaving.map(|journal| journal.volume.0).collect())
}

fn check_owner(
    journal: &Journal,
    own: u32,
    record: &GroupRecord,
    segment: &SegmentRecord,
) -> anyhow::Result<()> {
    let superblock = journal.superblock();
    let expected = segment.incarnation.0 == superblock.incarnation.get();
    if superblock.array.0 != own || superblock.group.0 != record.number.0 || !expected {
        anyhow::bail!(
            "the journal volume holds the journal of group {} of array {}",
            superblock.group.0,
            superblock.array.0
        );
    }
    Ok(())
}

/// Numbers that are never given when a journal is given up of which nobody knows the newest.
const NUMBERS_SKIPPED: u64 = 1 << 40;

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(number: u32) -> JournalVolume {
        JournalVolume {
            volume: VolumeNumber(number),
            options: Default::default(),
            is_leaving: false,
            is_replaced: false,
            failure: None,
        }
    }

    #[test]
    fn a_journal_is_given_up_only_for_a_volume_that_was_replaced_and_cannot_be_read() {
        let unreadable = |number| {
            let reason = "no journal".to_owned();
            anyhow::Error::from(UnreadableVolume { volume: VolumeNumber(number), reason })
        };
        let removed = JournalVolume { is_leaving: true, ..volume(1) };
        let replaced = JournalVolume { is_replaced: true, ..removed.clone() };
        let of_removed = [removed, volume(2)];
        let of_replaced = [replaced.clone(), volume(2)];
        assert!(may_be_given_up(&of_replaced, &unreadable(1)));
        assert!(!may_be_given_up(&of_replaced, &unreadable(2)), "another one cannot be read");
        assert!(!may_be_given_up(&of_replaced, &anyhow::anyhow!("no memory")), "something else");
        let unread = |volume| anyhow::Error::from(CopyError::Journal { volume, reason: "bad".to_owned() });
        assert!(may_be_given_up(&of_replaced, &unread(1)), "its head could be read");
        assert!(!may_be_given_up(&of_replaced, &unread(2)));
        let other = CopyError::Damaged("the volume of a pair".to_owned());
        assert!(!may_be_given_up(&of_replaced, &anyhow::Error::from(other)), "no journal volume is to blame");
        assert!(!may_be_given_up(&of_removed, &unreadable(1)), "it was to go in peace");
        assert!(!may_be_given_up(&[replaced], &unreadable(1)), "there is no other one");
    }
}
