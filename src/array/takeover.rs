//! Takeover and the way back, at work (promises O3, O4, O6; decision 19).
//!
//! # What it guarantees
//! * The new primary's volumes are one image of all pairs, on its units, before the transaction that makes it the primary.
//! * Nothing waits for an array that does not answer: three seconds, and twenty for what it still has, are all the time it gets.
//! * An array that was overtaken lets no host write from the moment that it knows, and has everything marked that the new
//!   primary may lack before it says how much that is.
//!
//! # The steps
//! Those of [`Takeover`], taken by the owner task before it opens any group; each is one transaction, and everything before
//! it may be repeated. Only the old primary is spoken to by a task of its own, because it may not answer: `takeover_reach.rs`.

use super::Array;
use super::groups::{own_volume, record_volume};
use crate::copy::differences::DifferenceMap;
use crate::copy::group::Group;
use crate::disk::VolumeId;
use crate::volume::apply::taken::Journal;
use crate::volume::designation::Outcome;
use crate::volume::group::{Generation, GroupRecord, GroupRole, GroupState};
use crate::volume::name::{GroupName, GroupNumber, PairNumber, UpdateNumber as StoredNumber};
use crate::volume::pair::PairRecord;
use crate::volume::record::Who;
use crate::volume::resync::{RUNS_MAX, TakeoverPoint};
use crate::volume::store::PairMarks;
use crate::volume::table::Tables;
use crate::volume::takeover::{Branch, Overtaken, Taken, Takeover, Yielding, parting};
use holdfast_journal::ArrayNumber as JournalArray;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

impl Array {
    /// Hosts are shut out of what another array takes over: before that is answered.
    pub(super) fn shut_what_is_taken_over(&self) {
        let tables = self.store.tables();
        let is_shut = |record: &&GroupRecord| record.takeover.as_ref().is_some_and(Takeover::shuts_hosts_out);
        tables.groups.iter().filter(is_shut).for_each(|record| self.shut_p_vols(&tables, record));
    }

    /// Hosts are shut out for an array that takes the group over: for how long another one may show itself as synchronised still.
    pub(super) fn shut_for(&self, group: &GroupName, who: &Who) -> Outcome {
        let number = self.store.read(|tables| tables.group_named(group).map(|row| row.number));
        let (Some(group), Who::Peer { array, .. }) =
            (number.and_then(|number| self.open_group_of(number)), who)
        else {
            return Outcome::Done;
        };
        let left = group.lease_left_but_for(JournalArray(array.0));
        if left.is_zero() {
            return Outcome::Done;
        }
        let lease_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX).saturating_add(1);
        Outcome::Shut { lease_ms }
    }

    /// Takes the next step of every takeover.
    pub(crate) async fn take_over_groups(self: &Arc<Self>) {
        let tables = self.store.tables();
        for record in tables.groups.iter() {
            let Some(takeover) = &record.takeover else { continue };
            if let Some(tamper) = &self.env.tamper {
                self.env.clock.sleep(tamper.before_turning()).await;
            }
            if takeover.shuts_hosts_out() {
                self.shut_p_vols(&tables, record);
            }
            let taken = match takeover {
                Takeover::Reaching => {
                    self.reach_primary(record);
                    Ok(())
                }
                Takeover::Restoring => self.restore_and_turn(&tables, record).await,
                Takeover::Taken(taken) => {
                    self.tell_rival(&tables, record, taken).and_then(|()| self.let_rejoin(record, taken))
                }
                Takeover::Overtaken(other) if other.is_complete && other.branch.is_none() => {
                    self.count_branch(&tables, record, other).await
                }
                Takeover::Overtaken(_) => Ok(()),
                Takeover::Retaking(other) => self.retake(&tables, record, other).await,
                Takeover::Yielding(yielding) => self.yield_group(&tables, record, yielding).await,
                Takeover::Moving(moving) => self.stop_following(record, moving).await,
            };
            if let Err(error) = taken {
                tracing::error!(group = %record.name, %takeover, %error, "a takeover does not go on; trying again");
            }
        }
    }

    /// Everything that is here and may be restored is, and that is one image; then this array is the primary.
    #[expect(clippy::too_many_lines, reason = "the steps of a takeover, one after the other under one lock")]
    async fn restore_and_turn(self: &Arc<Self>, tables: &Tables, record: &GroupRecord) -> anyhow::Result<()> {
        let number = record.number;
        let are_written = self.store.read(|tables| are_written(tables, number));
        if let Some(group) = self.open_group_of(number) {
            // What its primary is told from here on to be here would not be in what this array goes on from.
            group.take_from_source(false);
            if group.failure().is_none() {
                group.all_durable().await?;
            }
            // Before anything is restored that an operator wants to be restored later.
            let here = StoredNumber(group.durable_here().get());
            if let Some(reason) = falls_short(record, here).filter(|_| !are_written) {
                return self.give_takeover_up(record, &reason);
            }
            group.restore_available(Duration::ZERO).await?;
            if let Err(error) = group.settle().await {
                // What becomes of that is seen below.
                tracing::warn!(group = %record.name, %error, "its journal cannot be gone on with");
            }
        } else if record.state == GroupState::Normal && !record.segments.is_empty() {
            let Some(trouble) = self.runtime().group_trouble.get(&number.0).cloned() else {
                return Ok(()); // It is opened in a moment: what its journal has belongs to it.
            };
            // Without its journal the volumes may lack what they had; an image lacks nothing.
            if !matches!(self.takeover_point_of(tables, number), Ok(TakeoverPoint::Image(_))) {
                return self.give_takeover_up(record, &trouble);
            }
        }
        if !self.leave_is_over(tables, record) {
            return Ok(()); // Its owner is woken when it is.
        }
        let goes_back =
            !are_written && matches!(self.takeover_point_of(tables, number), Ok(TakeoverPoint::Image(_)));
        if (goes_back || are_written) && tables.all_readers_of_group(number).next().is_some() {
            return self.give_takeover_up(record, super::takeover_below::NOT_ALL);
        }
        // Before anything is changed here that cannot be taken back.
        if goes_back
            && let Ok(TakeoverPoint::Image(number)) = self.takeover_point_of(tables, number)
            && let Some(reason) = falls_short(record, number)
        {
            return self.give_takeover_up(record, &reason);
        }
        if goes_back {
            self.go_back(record.name.as_str()).await.map_err(anyhow::Error::msg)?;
        }
        let _no_images = self.images.lock().await;
        let tables = self.store.tables();
        let Some(record) = tables.groups.get(&number) else { return Ok(()) };
        if self::are_written(&tables, number) != are_written {
            self.wake(); // Hosts were let in meanwhile, or shut out: once more, from what is so now.
            return Ok(());
        }
        let open = self.open_group_of(number);
        let handed_on = match self.below_is_ready(&tables, number, open.as_ref()).await {
            Ok(handed_on) => handed_on,
            Err(reason) => return self.give_takeover_up(record, &reason),
        };
        if let Some(tamper) = &self.env.tamper {
            self.env.clock.sleep(tamper.before_closing()).await;
        }
        self.runtime().groups.remove(&number.0);
        let mut restored = None;
        if let Some(group) = &open {
            group.close().await;
            restored = group.whole_number();
        }
        let has_more = |group: &Group| handed_on.is_some_and(|handed_on| group.durable_here() != handed_on);
        if open.as_deref().is_some_and(has_more) {
            self.wake(); // Something came all the same: opened again, and once more from what is so then.
            return Ok(());
        }
        // Nothing is read or restored any more: what the journal holds now is what there is.
        let recent = self.recent_for_others(&tables, record, open.as_deref()).await;
        let point = match are_written {
            true => images_of(&tables, number),
            false => tables.takeover_point(number, restored.map(|number| StoredNumber(number.get()))),
        };
        let last = match point {
            Ok(TakeoverPoint::Volumes(last)) => last,
            Ok(TakeoverPoint::Image(last)) if are_written => last,
            // It came to this meanwhile: the group is opened again, and this is done once more.
            Ok(TakeoverPoint::Image(_)) => return Ok(()),
            Err(reason) => return self.give_takeover_up(record, &reason),
        };
        if let Some(reason) = falls_short(record, last) {
            return self.give_takeover_up(record, &reason);
        }
        self.shut_hosts_out(&tables, number);
        let volumes = tables.pairs_of_group(number).filter_map(|pair| own_volume(&tables, pair));
        let volumes: Vec<VolumeId> = volumes.map(VolumeId).collect();
        self.take_gates_away(&volumes);
        self.disk.destage(&volumes).await?;
        let failure = open.as_ref().and_then(|group| group.failure());
        // Nobody notes what hosts write, or nobody restored what the journal has: the other array may have freed that.
        let is_held_back = open.as_ref().is_some_and(|group| group.durable_here().get() > last.0);
        let is_all_different = failure.is_some() || is_held_back || record.state != GroupState::Normal;
        let mut marks = Vec::new();
        if is_all_different {
            marks.extend(tables.served_pairs(number).map(Self::all_of_it_differs));
        }
        for pair in tables.followed_pairs(number) {
            marks.push(match (is_all_different, are_written) {
                (true, _) => Self::all_of_it_differs(pair),
                (false, are_written) => {
                    let mut all = DifferenceMap::new(pair.size_bytes);
                    let written = if are_written { self.svol_map(pair)?.runs(RUNS_MAX) } else { Vec::new() };
                    written.iter().for_each(|(start, length)| all.mark(*start, *length));
                    recent.1.get(&record_volume(pair)).into_iter().for_each(|recent| all.join(recent));
                    PairMarks { pair: pair.number, replace: true, parts: all.take_changed() }
                }
            });
        }
        let others_may_read = self.others_may_read(&tables, record);
        let journal = match &open {
            Some(group)
                // Who reads from here already begins with the new numbers.
                if handed_on.is_none()
                    && others_may_read
                    && !is_all_different
                    && !are_written
                    && group.ends_with(last.0) =>
            {
                Journal::GoesOn
            }
            _ => Journal::BeginsAnew,
        };
        let what =
            format!("group {}: taken over as of update {last}, this array is its primary", record.name);
        self.wake(); // Whatever comes of this, something is to be opened.
        self.store.change_with_marks(&Who::Array, what, &marks, |tables| {
            if let Some(reason) = &failure
                && record.state == GroupState::Normal
            {
                tables.group_event(number, crate::volume::group::GroupEvent::Fail, Some(reason.clone()))?;
            }
            let marked_from = if is_all_different { StoredNumber(0) } else { recent.0 };
            tables.takeover_done(number, last, marked_from, journal, &mut || self.new_identity())
        })?;
        self.has_turned(record);
        Ok(())
    }

    /// What other readers of the same primary may lack that this array has: nothing, where there can be none.
    async fn recent_for_others(
        &self,
        tables: &Tables,
        record: &GroupRecord,
        open: Option<&Group>,
    ) -> (StoredNumber, BTreeMap<u32, DifferenceMap>) {
        match open {
            Some(group) if self.others_may_read(tables, record) => {
                let (first, recent) = self.recent_changes(tables, group, record.number).await;
                super::rejoin::with_freed(group, first, recent)
            }
            _ => (StoredNumber(u64::MAX), BTreeMap::new()),
        }
    }

    /// Whether there can be other readers of the primary that is overtaken: they come over links.
    fn others_may_read(&self, tables: &Tables, record: &GroupRecord) -> bool {
        let GroupRole::Auxiliary { source, .. } = record.role else { return false };
        tables.links.iter().any(|link| link.array != source)
    }

    fn give_takeover_up(&self, record: &GroupRecord, reason: &str) -> anyhow::Result<()> {
        let what = format!("group {}: takeover given up: {reason}", record.name);
        self.store.change(&Who::Array, what, |tables| {
            tables.takeover_given_up(record.number, self.new_identity());
            Ok(())
        })?;
        self.runtime().leaves.remove(&record.number.0);
        self.wake();
        Ok(())
    }

    /// Everything that the new primary may lack of what was written here is marked, durably, and it is told how much that is.
    async fn count_branch(
        &self,
        tables: &Tables,
        record: &GroupRecord,
        other: &Overtaken,
    ) -> anyhow::Result<()> {
        let Some(whole) = branch_of(record, &other.generations) else { return Ok(()) };
        let pairs: Vec<&PairRecord> = tables.pairs_over(record.number, &other.link).collect();
        let identity = &mut || self.new_identity();
        let what = |branch: &Branch| {
            let updates = branch.updates();
            format!("group {}: overtaken by {}, {updates} updates are only here", record.name, other.link)
        };
        let open = self.open_group_of(record.number);
        if record.state == GroupState::Abnormal {
            // Its journal had failed: all of it counts as different already.
            let given = open.map(|group| StoredNumber(group.next_number().previous().get()));
            let last = given.unwrap_or(record.next_update_number).max(whole.first);
            let bytes = pairs.iter().map(|pair| pair.size_bytes).sum();
            let branch = Branch { last, bytes, ..whole };
            self.store.change(&Who::Array, what(&branch), |tables| {
                tables.branch_counted(record.number, &[], branch, identity)
            })?;
            return Ok(());
        }
        let Some(group) = open else { return Ok(()) }; // It is opened soon, or its journal has to be replaced.
        if group.failure().is_some() {
            return Ok(()); // That is recorded first.
        }
        let reader = JournalArray(other.array.0);
        let going = pairs.iter().filter(|pair| !pair.state.is_stopped()).map(|pair| pair.number);
        let going: Vec<PairNumber> = going.filter(|pair| group.knows_pair(pair.0)).collect();
        let numbers: Vec<u32> = going.iter().map(|pair| pair.0).collect();
        let marking = group.begin_marking(reader, &numbers);
        group.mark_unsettled(&marking).await?;
        let _one_at_a_time = group.checkpointing.lock().await;
        let all: Vec<u32> = pairs.iter().map(|pair| pair.number.0).collect();
        let taken = group.take_marks(&all);
        let last = StoredNumber(group.next_number().get() - 1);
        let branch = Branch { last, bytes: marked_bytes(&group, &all), ..whole };
        let marks = super::marks::pair_marks(taken.parts.clone());
        let recorded = self.store.change_with_marks(&Who::Array, what(&branch), &marks, |tables| {
            tables.branch_counted(record.number, &going, branch, identity)
        });
        match recorded {
            Ok(()) => {
                group.suspended(&marking);
                self.wake();
                Ok(())
            }
            Err(error) => {
                group.marks_not_written(&taken.parts);
                Err(error.into())
            }
        }
    }

    /// Both arrays took over: the other one hears how much there is here.
    fn tell_rival(&self, tables: &Tables, record: &GroupRecord, taken: &Taken) -> anyhow::Result<()> {
        let (Some(rival), None) = (&taken.rival, &taken.told) else { return Ok(()) };
        let Some(group) = self.open_group_of(record.number) else { return Ok(()) };
        let Some(whole) = branch_of(record, rival) else { return Ok(()) };
        let pairs: Vec<u32> =
            tables.pairs_over(record.number, &taken.link).map(|pair| pair.number.0).collect();
        let last = StoredNumber(group.next_number().get() - 1);
        let branch = Branch { last, bytes: marked_bytes(&group, &pairs), ..whole };
        let what = format!("group {}: {} took over as well: split brain", record.name, taken.link);
        self.store.change(&Who::Array, what, |tables| {
            tables.rival_told(record.number, branch, &mut || self.new_identity());
            Ok(())
        })?;
        self.wake();
        Ok(())
    }

    /// A primary that was shut goes on, in a generation of its own.
    async fn retake(&self, tables: &Tables, record: &GroupRecord, other: &Overtaken) -> anyhow::Result<()> {
        if other.branch.is_none() {
            return self.count_branch(tables, record, other).await;
        }
        let Some(group) = self.open_group_of(record.number) else {
            return match record.state {
                GroupState::Abnormal => self.give_retake_an_end(record, record.next_update_number),
                _ => Ok(()), // It is opened soon, and knows its last number then.
            };
        };
        if let Some(standing) = group.standing()
            && !group.is_apart_from(standing.choice.reader, "this array is taken over again")
        {
            return Ok(()); // It may still show itself as synchronised. The owner is woken when it does not.
        }
        let last = StoredNumber(group.next_number().get() - 1);
        drop(group);
        self.end_group(tables, record).await?;
        self.give_retake_an_end(record, last)
    }

    fn give_retake_an_end(&self, record: &GroupRecord, last: StoredNumber) -> anyhow::Result<()> {
        let what = format!("group {}: taken over again behind update {last}", record.name);
        self.store.change(&Who::Array, what, |tables| {
            tables.retaken(record.number, last, &mut || self.new_identity());
            Ok(())
        })?;
        self.has_turned(record);
        Ok(())
    }

    /// This array was named as the loser: it copies from the other one.
    async fn yield_group(
        &self,
        tables: &Tables,
        record: &GroupRecord,
        yielding: &Yielding,
    ) -> anyhow::Result<()> {
        if yielding.to.branch.is_none() {
            return self.count_branch(tables, record, &yielding.to).await;
        }
        // Behind a start its journal has what the units lack, also of what the other array has already and nobody copies.
        if self.open_group_of(record.number).is_none() && record.state != GroupState::Abnormal {
            return Ok(()); // It is opened soon.
        }
        let _no_images = self.images.lock().await;
        self.end_group(tables, record).await?;
        let (mut written, mut marks) = (Vec::new(), Vec::new());
        for pair in tables.pairs_of_group(record.number) {
            if pair.link == yielding.to.link {
                written.push((pair.number, self.svol_map(pair)?.runs(RUNS_MAX)));
            }
            marks.push(PairMarks::gone(pair.number));
        }
        // All that its hosts have written, and from here on nobody writes it before the rows say that it is a copy.
        let branch = match (&yielding.keep_branch, yielding.to.branch) {
            (Some(name), Some(branch)) => {
                Some((name, branch, self.make_branch(tables, record, &branch).await?))
            }
            (_, _) => None,
        };
        let what = format!("group {}: a copy of {} from here on", record.name, yielding.to.link);
        let yielded = self.store.change_with_marks(&Who::Array, what, &marks, |tables| {
            if let Some((name, branch, (made, _))) = &branch {
                tables.name_branch(&record.name, name, made, *branch)?;
            }
            tables.yielded(record.number, &written, &mut || self.new_identity());
            Ok(())
        });
        if yielded.is_err() {
            self.pause_before_another_branch().await;
        }
        yielded?;
        self.has_turned(record);
        Ok(())
    }
}

/// Whether what hosts have made of the S-VOLs of a group counts: they were let into all of them.
fn are_written(tables: &Tables, group: GroupNumber) -> bool {
    let mut pairs = tables.followed_pairs(group).peekable();
    pairs.peek().is_some() && pairs.all(|pair| pair.control.svol_open)
}

/// The number that the S-VOLs of a group were images of when hosts were let into them.
fn images_of(tables: &Tables, group: GroupNumber) -> Result<TakeoverPoint, String> {
    let kept: Vec<Option<StoredNumber>> =
        tables.followed_pairs(group).map(|pair| pair.control.image).collect();
    match kept.first().copied().flatten() {
        Some(first) if kept.iter().all(|one| *one == Some(first)) => Ok(TakeoverPoint::Image(first)),
        _ => Err("hosts were let into its S-VOLs at different moments".to_owned()),
    }
}

/// Why a takeover that has come as far as `found` is not what its operator asked for, if it is not.
fn falls_short(record: &GroupRecord, found: StoredNumber) -> Option<String> {
    let wanted = record.at_least.filter(|wanted| found < *wanted)?;
    Some(format!("only what is up to update {found} is here, and nothing up to {wanted} was to be lost"))
}

/// What only this array has, as far as generations say it: it has a first number, and no end yet.
fn branch_of(record: &GroupRecord, theirs: &[Generation]) -> Option<Branch> {
    let of = *record.generations.last()?;
    let (first, against) = parting(&record.generations, theirs, record.next_update_number)?;
    Some(Branch { of, against, first, last: first, bytes: 0 })
}

pub(super) fn marked_bytes(group: &Group, pairs: &[u32]) -> u64 {
    let status = group.status();
    status.pairs.iter().filter(|one| pairs.contains(&one.pair)).map(|one| one.differing_bytes).sum()
}
