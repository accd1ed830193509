//! What the arrays at work record of a takeover, each in a transaction of its own (decision 19).

use super::reverse::GENERATIONS_MAX;
use crate::volume::designation::{Designation, DesignationId, Refusal};
use crate::volume::group::{
    CommonPoint, Generation, GroupEvent, GroupRecord, GroupRole, GroupState, Inherited, SegmentRecord,
    common_point,
};
use crate::volume::name::{
    ArrayNumber, GroupNumber, LinkName, PairName, PairNumber, UpdateNumber, VolumeNumber,
};
use crate::volume::pair::{PairEvent, PairRecord, PairState, SuspendCause};
use crate::volume::record::Identity;
use crate::volume::rejoin::RemoteRejoin;
use crate::volume::reversal::{Manner, RemoteReversal, Reversal, ReversalStep};
use crate::volume::table::Tables;
use crate::volume::takeover::{Branch, RemoteFailback, RemoteTakeover, Taken, Takeover, Yielding};
use std::time::Duration;

/// What becomes of the journal of an array that takes over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Journal {
    /// It holds more than the volumes have, or nobody knows what it holds.
    BeginsAnew,
    /// It ends with the last update, and all of it is on the units.
    GoesOn,
}

impl Tables {
    /// The pairs of a group with the array behind a link that has, or had, their S-VOLs.
    pub(crate) fn pairs_over<'t>(
        &'t self,
        group: GroupNumber,
        link: &'t LinkName,
    ) -> impl Iterator<Item = &'t PairRecord> {
        self.pairs_of_group(group).filter(move |pair| pair.link == *link)
    }

    /// A reversal that another array, or an operator, has put an end to.
    pub(super) fn drop_reversal(&mut self, group: GroupNumber) {
        let Some(row) = self.groups.edit(&group) else { return };
        let (name, Some(reversal)) = (row.name.clone(), row.reversal.take()) else { return };
        self.call_back_marks(group, &reversal.link);
        let is_meant =
            |what: &Designation| matches!(what, Designation::RemoteReverse(told) if told.group == name);
        let meant = self.forwards_to(&reversal.link).filter(|forward| is_meant(&forward.designation));
        let meant: Vec<u64> = meant.map(|forward| forward.sequence).collect();
        for sequence in meant {
            self.forwards.remove(&sequence);
        }
    }

    /// Whether this attempt of the array to take over is at its first step: speaking to the primary.
    pub(crate) fn is_reaching(&self, group: GroupNumber, attempt: u64) -> bool {
        let is_it = |row: &GroupRecord| row.takeover == Some(Takeover::Reaching) && row.attempts == attempt;
        self.groups.get(&group).is_some_and(is_it)
    }

    /// The primary is shut and everything that it had is here, or it does not answer.
    pub(crate) fn primary_reached(&mut self, group: GroupNumber) {
        if let Some(row) = self.groups.edit(&group)
            && row.takeover == Some(Takeover::Reaching)
        {
            row.takeover = Some(Takeover::Restoring);
        }
    }

    /// The takeover of a group cannot be done. Its primary is told, which may have shut its hosts out for it.
    pub(crate) fn takeover_given_up(&mut self, group: GroupNumber, identity: Identity) {
        if let Some(row) = self.groups.edit(&group)
            && matches!(row.takeover, Some(Takeover::Reaching | Takeover::Restoring))
            && let GroupRole::Auxiliary { link, .. } = &row.role
        {
            row.takeover = None;
            let link = link.clone();
            let what = Designation::TakeoverGivenUp { group: row.name.clone(), attempt: row.attempts };
            let name = row.name.clone();
            let is_earlier = |what: &Designation| matches!(what, Designation::TakeoverGivenUp { group, .. } if *group == name);
            self.forget_forwards(&link, is_earlier);
            self.forward(&link, DesignationId(identity), what);
        }
    }

    /// Takeovers that a start finds, and that need nothing from outside any more.
    pub(crate) fn takeovers_cut_off(&self) -> Vec<GroupNumber> {
        let is_cut_off = |row: &&GroupRecord| {
            row.takeover == Some(Takeover::Restoring) && row.state != GroupState::Suspended
        };
        self.groups.iter().filter(is_cut_off).map(|row| row.number).collect()
    }

    /// Their primaries are asked once more, because they may have been taken back since. Not where something has gone back to an image
    /// for it already.
    pub(crate) fn takeovers_ask_again(&mut self) {
        for number in self.takeovers_cut_off() {
            if let Some(row) = self.groups.edit(&number) {
                row.takeover = Some(Takeover::Reaching);
            }
        }
    }

    /// Pairs with the array that was taken over from rest until that is a copy.
    fn suspend_taken_over(&mut self, group: GroupNumber, link: &LinkName, last: UpdateNumber) {
        let pairs: Vec<PairNumber> = self.pairs_over(group, link).map(|pair| pair.number).collect();
        for number in pairs {
            let Some(pair) = self.pairs.edit(&number) else { continue };
            if pair.state != PairState::Abnormal {
                pair.state = PairState::Suspended;
                pair.reason = Some(format!("taken over from {link} as of update {last}"));
            }
            (pair.control.cause, pair.control.told) = (Some(SuspendCause::Operator), true);
        }
    }

    /// This array is the primary of a group from here on, from the image as of `last`: the next generation is its own. Where
    /// the S-VOLs differ from what the old primary has is not known to it yet.
    pub(crate) fn takeover_done(
        &mut self,
        group: GroupNumber,
        last: UpdateNumber,
        marked_from: UpdateNumber,
        journal: Journal,
        identity: &mut dyn FnMut() -> Identity,
    ) -> Result<(), Refusal> {
        let Some(row) = self.groups.get(&group).cloned() else { return Ok(()) };
        is_under_way(&row)?;
        let newest = row.largest_counter();
        let GroupRole::Auxiliary { link, source, remote: Some(remote) } = row.role else { return Ok(()) };
        if row.state == GroupState::Suspended {
            // It went back to an image; its journal begins anew.
            self.group_event(group, GroupEvent::Resume, None)?;
        }
        // Of what came later nothing is kept.
        let mut generations = row.generations;
        let kept = generations.iter().skip(1).take_while(|one| one.first <= last).count() + 1;
        generations.truncate(kept);
        let told = RemoteReversal {
            group: row.name.clone(),
            number: remote,
            manner: Manner::Planned,
            last,
            generations,
            journals: Vec::new(),
            pairs: Vec::new(),
            others: Vec::new(),
        };
        if let Some(row) = self.groups.edit(&group) {
            let step = ReversalStep::TakingOver(told);
            row.reversal = Some(Reversal {
                link: link.clone(),
                array: source,
                manner: Manner::Planned,
                step,
                wait: Duration::ZERO,
            });
        }
        self.call_back_joining(group);
        self.note_former_numbers(group);
        let inherited = Inherited { last, volumes: self.volumes_by_records(group) };
        self.taken_over_in(group, &[], newest.saturating_add(1), identity);
        self.journal_taken_over(group, journal, row.segments, inherited);
        self.suspend_taken_over(group, &link, last);
        if let Some(other) = row.other_source {
            let what = Designation::DetachReader { group: row.name.clone() };
            self.forward(&other.link, DesignationId(identity()), what);
        }
        if let Some(reader) = self.readers.edit(&(group, source)) {
            reader.since = newest;
        }
        let Some(row) = self.groups.edit(&group) else { return Ok(()) };
        row.other_source = None;
        let taken = Taken {
            link: link.clone(),
            array: source,
            last,
            branch: None,
            rival: None,
            told: None,
            is_told: false,
            marked_from,
            former: Some(source),
            has_forgotten: false,
        };
        row.takeover = Some(Takeover::Taken(taken));
        self.tell_takeover(group, &link, identity);
        let others: Vec<LinkName> =
            self.links.iter().filter(|one| one.array != source).map(|one| one.name.clone()).collect();
        self.tell_readers_of(group, source, &others, identity);
        Ok(())
    }

    fn journal_taken_over(
        &mut self,
        group: GroupNumber,
        journal: Journal,
        segments: Vec<SegmentRecord>,
        inherited: Inherited,
    ) {
        let Some(row) = self.groups.edit(&group) else { return };
        row.judged.clear();
        row.inherited = None;
        if journal == Journal::GoesOn {
            (row.segments, row.resume, row.inherited) = (segments, None, Some(inherited));
        }
    }

    /// The numbers by which records of the group name volumes, and those that these have here.
    fn volumes_by_records(&self, group: GroupNumber) -> Vec<(VolumeNumber, VolumeNumber)> {
        let both = |pair: &PairRecord| Some((pair.record_volume()?, pair.auxiliary.volume?));
        self.followed_pairs(group).filter_map(both).collect()
    }

    /// Whether this array took a group over from that one, which has not become its copy since.
    pub(super) fn took_over_from(&self, group: GroupNumber, array: ArrayNumber) -> bool {
        let takeover = self.groups.get(&group).and_then(|row| row.takeover.as_ref());
        takeover.and_then(Takeover::taken).is_some_and(|taken| taken.array == array)
    }

    /// With its last pair and its row among the readers the array that was overtaken concerns the group no more: this array
    /// is a primary like any other. That it has taken over is still said there, should that array ever come back.
    pub(super) fn takeover_may_end(&mut self, group: GroupNumber, array: ArrayNumber) {
        let is_reader = self.readers.get(&(group, array)).is_some();
        if !self.took_over_from(group, array) || is_reader || self.pairs_with(group, array).next().is_some() {
            return;
        }
        let Some(row) = self.groups.edit(&group) else { return };
        let (name, newest) = (row.name.clone(), row.newest_counter());
        let Some(takeover) = row.takeover.take() else { return };
        let taken = takeover.taken().map(|taken| taken.link.clone());
        row.takeover = takeover.without_taken();
        let Some(link) = taken else { return };
        row.seen_counter = newest;
        // It is named as the loser no more: there is nothing that it could copy.
        let is_order =
            |what: &Designation| matches!(what, Designation::RemoteFailback(told) if told.group == name);
        self.forget_forwards(&link, is_order);
        self.call_back_who_stays(group, array);
    }

    /// Whoever read the former primary is told who is it now.
    fn tell_readers_of(
        &mut self,
        group: GroupNumber,
        former: ArrayNumber,
        links: &[LinkName],
        identity: &mut dyn FnMut() -> Identity,
    ) {
        let Some(row) = self.groups.get(&group) else { return };
        let (group, generations) = (row.name.clone(), row.generations.clone());
        for link in links {
            let (group, generations) = (group.clone(), generations.clone());
            let told = RemoteRejoin { group, former, generations, by: None, asks: false, knows: 0 };
            self.forward(link, DesignationId(identity()), Designation::RemoteRejoin(told));
        }
    }

    /// There is a new link: what was said at takeovers to the arrays that were linked then is said there.
    pub(super) fn tell_takeovers_to(&mut self, link: &LinkName, array: ArrayNumber, id: DesignationId) {
        let news = |row: &GroupRecord| {
            let taken = row.takeover.as_ref()?.taken().filter(|taken| taken.array != array)?;
            Some((row.number, taken.former?))
        };
        let news: Vec<(GroupNumber, ArrayNumber)> = self.groups.iter().filter_map(news).collect();
        let mut id = id;
        for (group, former) in news {
            id = id.caused(0);
            self.tell_readers_of(group, former, std::slice::from_ref(link), &mut || id.0);
        }
    }

    fn tell_takeover(&mut self, group: GroupNumber, link: &LinkName, identity: &mut dyn FnMut() -> Identity) {
        self.call_back_takeover(group, Some(link));
        self.tell_rival(group, link, DesignationId(identity()));
    }

    /// That this array has taken over is said to the array behind the link, beside what else is on its way there.
    pub(super) fn tell_rival(&mut self, group: GroupNumber, link: &LinkName, id: DesignationId) {
        let Some(row) = self.groups.get(&group) else { return };
        let told = RemoteTakeover {
            group: row.name.clone(),
            generations: row.generations.clone(),
            knows: row.largest_counter(),
            is_complete: true,
            attempt: row.attempts,
        };
        self.forward(link, id, Designation::RemoteTakeover(told));
    }

    /// What this array had to say of a takeover of the group, or of what only it has, is not what it is any more.
    pub(super) fn call_back_takeover(&mut self, group: GroupNumber, link: Option<&LinkName>) {
        let Some(name) = self.groups.get(&group).map(|row| row.name.clone()) else { return };
        let is_meant = |what: &Designation| match what {
            Designation::RemoteTakeover(RemoteTakeover { group, .. })
            | Designation::TakeoverGivenUp { group, .. }
            | Designation::RemoteBranch { group, .. }
            | Designation::RemoteFailback(RemoteFailback { group, .. }) => *group == name,
            _ => false,
        };
        let is_there = |to: &LinkName| link.is_none_or(|link| link == to);
        // Readers of others are told by who is the primary.
        let is_call =
            |what: &Designation| matches!(what, Designation::RemoteRejoin(told) if told.group == name);
        let meant: Vec<u64> = self
            .forwards
            .iter()
            .filter(|forward| {
                let what = &forward.designation;
                (is_there(&forward.link) && is_meant(what)) || is_call(what)
            })
            .map(|forward| forward.sequence)
            .collect();
        for sequence in meant {
            self.forwards.remove(&sequence);
        }
    }

    /// At an array that was overtaken, or is a rival: what only it has is marked and counted. These pairs are suspended by it.
    pub(crate) fn branch_counted(
        &mut self,
        group: GroupNumber,
        pairs: &[PairNumber],
        branch: Branch,
        identity: &mut dyn FnMut() -> Identity,
    ) -> Result<(), Refusal> {
        for number in pairs {
            self.pair_event(*number, PairEvent::Suspend, Some("another array has taken over".to_owned()))?;
        }
        for number in pairs {
            if let Some(pair) = self.pairs.edit(number) {
                (pair.control.cause, pair.control.told) = (Some(SuspendCause::Operator), true);
            }
        }
        self.copy_nothing_over(group);
        let Some(row) = self.groups.edit(&group) else { return Ok(()) };
        let link = match &mut row.takeover {
            Some(
                Takeover::Overtaken(other)
                | Takeover::Retaking(other)
                | Takeover::Yielding(Yielding { to: other, .. }),
            ) => {
                other.branch = Some(branch);
                other.link.clone()
            }
            _ => return Ok(()),
        };
        let what = Designation::RemoteBranch { group: row.name.clone(), branch };
        self.call_back_takeover(group, Some(&link));
        self.forward(&link, DesignationId(identity()), what);
        self.tell_own_readers(group, identity);
        Ok(())
    }

    /// At an array that was overtaken: its other readers hear by whom. They may have heard of a restart here that the one who has taken
    /// over knows nothing of, and that one may have no link to them.
    fn tell_own_readers(&mut self, group: GroupNumber, identity: &mut dyn FnMut() -> Identity) {
        let own = self.meta().number;
        let Some(row) = self.groups.get(&group) else { return };
        let Some(Takeover::Overtaken(other)) = row.takeover.clone() else { return };
        let told = RemoteRejoin {
            group: row.name.clone(),
            former: own,
            generations: other.generations,
            by: Some(other.array),
            asks: false,
            knows: 0,
        };
        let readers = self.readers_of_group(group).filter(|reader| reader.link != other.link);
        let readers: Vec<LinkName> = readers.map(|reader| reader.link.clone()).collect();
        for link in readers {
            self.forward(&link, DesignationId(identity()), Designation::RemoteRejoin(told.clone()));
        }
    }

    /// Whatever was to be copied to the array that has taken over, or was said to it of that, is no order any more.
    fn copy_nothing_over(&mut self, group: GroupNumber) {
        let takeover = self.groups.get(&group).and_then(|row| row.takeover.as_ref());
        let Some(link) = takeover.and_then(|takeover| takeover.link().cloned()) else { return };
        let pairs: Vec<(PairNumber, PairName)> =
            self.pairs_over(group, &link).map(|pair| (pair.number, pair.name.clone())).collect();
        let names: Vec<PairName> = pairs.iter().map(|(_, name)| name.clone()).collect();
        super::pairs::take_back_resyncs(self, &names);
        for (number, _) in pairs {
            if let Some(pair) = self.pairs.edit(&number).filter(|pair| !pair.is_leaving()) {
                pair.control.asked = None;
            }
        }
    }

    /// At an array that took over as well as another one: what that one would lose if this one stays is its business; this one
    /// tells how much it has itself.
    pub(crate) fn rival_told(
        &mut self,
        group: GroupNumber,
        branch: Branch,
        identity: &mut dyn FnMut() -> Identity,
    ) {
        let Some(row) = self.groups.edit(&group) else { return };
        let Some(Takeover::Taken(taken)) = &mut row.takeover else { return };
        taken.told = Some(branch);
        let (link, what) =
            (taken.link.clone(), Designation::RemoteBranch { group: row.name.clone(), branch });
        self.forward(&link, DesignationId(identity()), what);
    }

    /// This array goes on as the primary, behind `last`, in a generation that is newer than that of who overtook it.
    pub(crate) fn retaken(
        &mut self,
        group: GroupNumber,
        last: UpdateNumber,
        identity: &mut dyn FnMut() -> Identity,
    ) {
        let own = self.meta().number;
        let Some(row) = self.groups.edit(&group) else { return };
        let Some(Takeover::Retaking(other)) = row.takeover.clone() else { return };
        let theirs = other.generations.iter().map(|one| one.counter).max().unwrap_or(0);
        let counter = row.largest_counter().max(theirs).saturating_add(1);
        let opened = Generation { counter, array: own, first: UpdateNumber(last.0 + 1) };
        row.generations.push(opened);
        row.generations.drain(1..=row.generations.len().saturating_sub(GENERATIONS_MAX));
        row.stopped_cleanly = true; // No number of it has been given.
        (row.is_together, row.goes_alone) = (false, false); // The lease of its synchronous reader is over (`array/takeover.rs`).
        row.takeover = Some(Takeover::Taken(Taken {
            link: other.link.clone(),
            array: other.array,
            last,
            branch: None,
            rival: other.is_complete.then(|| other.generations.clone()),
            told: None,
            is_told: false,
            marked_from: UpdateNumber(u64::MAX), // Its readers are its own still.
            former: Some(own),
            has_forgotten: false,
        }));
        self.tell_takeover(group, &other.link, identity);
        let others = self.readers_of_group(group).filter(|reader| reader.link != other.link);
        let others: Vec<LinkName> = others.map(|reader| reader.link.clone()).collect();
        self.tell_readers_of(group, own, &others, identity);
        self.let_go_of_who_left(group);
    }

    /// This array copies the group from the one that was named to stay. Where it was written itself is told there.
    pub(crate) fn yielded(
        &mut self,
        group: GroupNumber,
        written: &[(PairNumber, Vec<(u64, u64)>)],
        identity: &mut dyn FnMut() -> Identity,
    ) {
        let link = self.groups.get(&group).and_then(|row| row.takeover.as_ref()?.link().cloned());
        self.call_back_takeover(group, link.as_ref());
        let Some(row) = self.groups.edit(&group) else { return };
        let Some(Takeover::Yielding(Yielding { to, remote, since, .. })) = row.takeover.take() else {
            return;
        };
        row.named_counter = row.largest_counter().max(since);
        // The image that it keeps of itself is of its own branch; in the numbers of the other array it has all before that.
        let begins = common_point(&row.generations, &to.generations);
        let common = match begins {
            CommonPoint::OtherGoesOn(first) | CommonPoint::Diverged(first) => first.0.saturating_sub(1),
            CommonPoint::None | CommonPoint::Same | CommonPoint::OursGoesOn(_) => 0,
        };
        let step = ReversalStep::Leaving(UpdateNumber(common), remote);
        let (link, array) = (to.link.clone(), to.array);
        row.reversal = Some(Reversal {
            link: link.clone(),
            array,
            manner: Manner::Differences,
            step,
            wait: Duration::ZERO,
        });
        let counter = to.generations.last().map_or(0, |newest| newest.counter);
        row.generations = to.generations;
        let (name, journals) = (row.name.clone(), row.journals.clone());
        self.left(group);
        if let Some(row) = self.groups.edit(&group) {
            row.followed_counter = counter;
        }
        self.svols_closed(written, identity);
        for journal in journals {
            let Some(volume) = self.volumes.get(&journal.volume) else { continue };
            let (group, volume, options) = (name.clone(), volume.name.clone(), journal.options);
            let what = Designation::JoinJournal { group, volume, options };
            self.forward(&link, DesignationId(identity()), what);
        }
    }
}

fn is_under_way(row: &GroupRecord) -> Result<(), Refusal> {
    if row.takeover == Some(Takeover::Restoring) {
        return Ok(());
    }
    Err(Refusal::conflict(format!("the takeover of group {} was given up", row.name)))
}
