//! Designations of the way back from a takeover (promise O4; decision 19): who copies from whom is said by the operator of the array whose data stays; or
//! by nobody, where nothing is lost and the group is made so.

use super::copy::{peer, primary_group};
use super::takeover::{branch_begins, is_leaving_to};
use crate::volume::designation::{Designation, DesignationId, Outcome, Refusal};
use crate::volume::group::{GroupRecord, GroupRole, GroupState};
use crate::volume::kind::WhenOvertaken;
use crate::volume::name::{ArrayNumber, GroupName, GroupNumber, LinkName, PairNumber, SnapshotName};
use crate::volume::pair::{Asked, PairRecord};
use crate::volume::record::{ForwardRecord, Identity, ReaderRecord, Who};
use crate::volume::rejoin::RemoteRejoin;
use crate::volume::table::Tables;
use crate::volume::takeover::{Branch, OTHERS_WAIT, Overtaken, RemoteFailback, Taken, Takeover, Yielding};

/// By the operator of the primary whose data stays: the array behind the link copies it from here on, and what only that one
/// has is lost. Where nothing is to be lost any more, it becomes the primary again.
pub(super) fn fail_back(
    tables: &mut Tables,
    id: DesignationId,
    (group, to): (&GroupName, &LinkName),
    keep_branch: Option<&SnapshotName>,
) -> Result<Outcome, Refusal> {
    let row = primary_group(tables, group)?;
    let number = row.number;
    let conflict = |text: String| Err(Refusal::Conflict(text));
    if let (Some(name), false) = (keep_branch, matches!(row.takeover, Some(Takeover::Taken(_)))) {
        return conflict(format!(
            "{to} was not taken over from here, so there is no branch to be kept as {name}"
        ));
    }
    if let (Some(name), true) = (keep_branch, row.ahead.iter().any(|known| known.link == *to)) {
        return conflict(format!(
            "{to} is another reader, which stays what it is until then: `snapshot create {name} --group {group}` there first"
        ));
    }
    if super::rejoin::give_up_lead(tables, number, to) {
        return Ok(Outcome::Done);
    }
    let row = primary_group(tables, group)?;
    let taken = match &row.takeover {
        _ if row.rivals.iter().any(|rival| rival.link == *to) => {
            return conflict(format!(
                "{to} is a primary of group {group} as well, and has no pairs with this array: `group delete {group}` there, \
                 when nothing of it is wanted any more, and `pair create` here"
            ));
        }
        None => return super::reverse::reverse(tables, group, to, OTHERS_WAIT),
        Some(Takeover::Taken(taken)) if taken.link == *to => taken,
        Some(Takeover::Taken(taken)) => {
            return conflict(format!("group {group} was taken over from {}, not from {to}", taken.link));
        }
        Some(_) => {
            let text = format!(
                "{to} has taken over group {group}: say it there to keep what is there, or take over here first"
            );
            return conflict(text);
        }
    };
    if taken.is_told {
        return Ok(Outcome::Done);
    }
    if taken.has_forgotten {
        return conflict(format!(
            "{to} took over as well, and was started with an older copy of its control store since: it does not know what it would lose. \
             `group delete {group} --reader {to}` here, and pair it anew when nothing of it is wanted any more"
        ));
    }
    let Some(branch) = taken.branch else {
        return conflict(format!("{to} has not said yet what it would lose: it has not been reached since"));
    };
    let told = as_loser(tables, number, to, branch, keep_branch)?;
    tables.forward_once(to, id.caused(0), Designation::RemoteFailback(told));
    Ok(Outcome::Done)
}

/// What the array behind the link is told that is to copy from here and loses that branch; here it counts as told from now on.
fn as_loser(
    tables: &mut Tables,
    number: GroupNumber,
    to: &LinkName,
    branch: Branch,
    keep_branch: Option<&SnapshotName>,
) -> Result<RemoteFailback, Refusal> {
    let row = tables.groups.get(&number).ok_or_else(|| Refusal::missing("group", number))?;
    let group = &row.name;
    let conflict = |text: String| Err(Refusal::Conflict(text));
    if row.state != GroupState::Normal {
        return conflict(format!("group {group} is {}: let its journal go on first", row.state));
    }
    let since = row.largest_counter().max(branch.of.counter).saturating_add(1);
    if since >= super::reverse::COUNTER_MAX {
        return conflict(format!("group {group} has had more generations than there can be"));
    }
    let told = RemoteFailback {
        group: group.clone(),
        number,
        generations: row.generations.clone(),
        pairs: tables.pairs_over(number, to).map(|pair| pair.name.clone()).collect(),
        branch,
        since,
        keep_branch: keep_branch.cloned(),
    };
    if let Some(row) = tables.groups.edit(&number) {
        row.named_counter = since;
        if let Some(Takeover::Taken(taken)) = &mut row.takeover {
            taken.is_told = true;
        }
    }
    Ok(told)
}

/// Who was overtaken by this array and may become its copy by itself: it has said that it has nothing of its own, and the group is made so.
/// Two that both took over wait for an operator in any case.
fn rejoins(row: &GroupRecord) -> Option<(&Taken, Branch)> {
    let Some(Takeover::Taken(taken)) = &row.takeover else { return None };
    let may = row.settings.overtaken == WhenOvertaken::Rejoin
        && row.state == GroupState::Normal
        && taken.rival.is_none()
        && !taken.is_told;
    let branch = taken.branch.filter(|branch| branch.updates() == 0);
    branch.filter(|_| may).map(|branch| (taken, branch))
}

impl Tables {
    /// Whether [`Tables::let_rejoin`] has something to do.
    #[must_use]
    pub(crate) fn may_rejoin(&self, group: GroupNumber) -> bool {
        self.groups.get(&group).is_some_and(|row| rejoins(row).is_some())
    }

    /// The array that was overtaken by this one and has nothing of its own is told to copy from here, until it does: readers that it has may have
    /// to leave it first.
    pub(crate) fn let_rejoin(&mut self, group: GroupNumber, identity: Identity) -> Result<(), Refusal> {
        let found =
            self.groups.get(&group).and_then(rejoins).map(|(taken, branch)| (taken.link.clone(), branch));
        let Some((link, branch)) = found else { return Ok(()) };
        let told = as_loser(self, group, &link, branch, None)?;
        self.forward(&link, DesignationId(identity), Designation::RemoteFailback(told));
        Ok(())
    }

    /// That is not said any more: the other array has something of its own by now, or has taken over as well.
    pub(super) fn call_rejoin_back(&mut self, group: GroupNumber) {
        let Some(row) = self.groups.edit(&group) else { return };
        let name = row.name.clone();
        let Some(taken) = row.takeover.as_mut().and_then(Takeover::taken_mut) else { return };
        let is_meant = |forward: &&ForwardRecord| {
            let is_failback =
                matches!(&forward.designation, Designation::RemoteFailback(told) if told.group == name);
            forward.link == taken.link && is_failback && !forward.is_once
        };
        let meant: Vec<u64> = self.forwards.iter().filter(is_meant).map(|one| one.sequence).collect();
        if !meant.is_empty() {
            taken.is_told = false;
        }
        for sequence in meant {
            self.forwards.remove(&sequence);
        }
    }
}

/// The operator of the other array has named this one as the loser: it will copy from there. A promise, so everything that could keep
/// it from it is looked at first.
pub(super) fn remote_failback(
    tables: &mut Tables,
    told: &RemoteFailback,
    who: &Who,
) -> Result<Outcome, Refusal> {
    let (array, link) = peer(tables, who)?;
    let row = tables.group_named(&told.group).ok_or_else(|| Refusal::missing("group", &told.group))?;
    let number = row.number;
    let created = Outcome::Created { number: number.0 };
    let conflict = |text: &str| Err(Refusal::Conflict(format!("group {} {text}", told.group)));
    if told.since >= super::reverse::COUNTER_MAX {
        return conflict("has a generation that nobody opens");
    }
    if let GroupRole::Auxiliary { source, .. } = row.role {
        if source != array {
            return conflict("is a copy of another array there");
        }
        // The sender believes nothing older from here on: what this array says next must bear that.
        if let Some(row) = tables.groups.edit(&number) {
            row.named_counter = row.named_counter.max(told.since);
        }
        return Ok(created);
    }
    // What was said of itself last, and in a split brain to whom took over as well.
    let (said, branch) = match &row.takeover {
        Some(Takeover::Yielding(yielding)) if yielding.to.array == array => return Ok(created),
        Some(Takeover::Overtaken(other)) if other.array == array => (other.branch, other.branch),
        Some(Takeover::Taken(taken)) if taken.array == array => (taken.told, None),
        _ => (None, None),
    };
    if said != Some(told.branch) {
        return conflict("is not what was given up: it has gone on there since, by command");
    }
    if branch_begins(row, &told.generations)?.is_none() {
        return conflict("goes on there in the newer generation");
    }
    if row.state != GroupState::Normal || row.journals.is_empty() {
        return conflict("is not at work there: let its journal go on first");
    }
    if is_leaving_to(row, array) {
        return conflict("is being reversed there");
    }
    if let Some(other) = tables.readers_that_stay(number, array).next() {
        return conflict(&format!(
            "is also read over {} there: until that has gone on, or is taken away there (group delete {} --reader {})",
            other.link, told.group, other.link
        ));
    }
    let pairs: Vec<&PairRecord> = tables.pairs_over(number, &link).collect();
    if pairs.len() != told.pairs.len() || !pairs.iter().all(|pair| told.pairs.contains(&pair.name)) {
        return conflict("has other pairs there");
    }
    for pair in pairs {
        let volume = pair.primary.volume.and_then(|volume| tables.volumes.get(&volume));
        let is_forwarded = volume.is_some_and(|row| tables.forwarded_here(row.number).is_some());
        if volume.is_none_or(|row| row.parity_group.is_none())
            || is_forwarded
            || tables.is_forwarded(number)
            || pair.is_leaving()
        {
            let text = format!("cannot be copied there: pair {} has no P-VOL of its own, or goes", pair.name);
            return conflict(&text);
        }
    }
    if let Some(name) = &told.keep_branch {
        tables.may_keep_branch(number, name)?;
    }
    let keep_branch = told.keep_branch.clone();
    let generations = told.generations.clone();
    let to = Overtaken { link, array, generations, is_complete: true, attempt: 0, branch, had_taken: None };
    tables.drop_reversal(number);
    if let Some(row) = tables.groups.edit(&number) {
        let (remote, since) = (told.number, told.since);
        row.takeover = Some(Takeover::Yielding(Yielding { to, remote, since, keep_branch }));
    }
    Ok(created)
}

impl Tables {
    /// At one of two that took over, which is named as the loser and read by others: they hear who stays, and go on from there. Nothing is copied
    /// over what they have until then; one that has more than the other is ahead of it, and says so there.
    pub(crate) fn tell_readers_who_stays(
        &mut self,
        told: &RemoteFailback,
        array: ArrayNumber,
        identity: &mut dyn FnMut() -> Identity,
    ) {
        let Some(row) = self.group_named(&told.group) else { return };
        let (number, former) = (row.number, self.meta().number);
        let is_named = matches!(&row.takeover, Some(Takeover::Taken(taken))
            if taken.array == array && taken.rival.is_some() && taken.told == Some(told.branch));
        if !is_named || !matches!(branch_begins(row, &told.generations), Ok(Some(_))) {
            return;
        }
        let what = Designation::RemoteRejoin(RemoteRejoin {
            group: told.group.clone(),
            former,
            generations: told.generations.clone(),
            by: Some(array),
            asks: false,
            knows: row.largest_counter(),
        });
        let readers: Vec<LinkName> =
            self.readers_that_stay(number, array).map(|reader| reader.link.clone()).collect();
        for link in readers {
            if !self.forwards_to(&link).any(|forward| forward.designation == what) {
                self.forward(&link, DesignationId(identity()), what.clone());
            }
        }
    }

    /// Readers but that one. One that shall go need not hear of it first: it may be dead, or on its way to the new primary.
    fn readers_that_stay(&self, group: GroupNumber, but: ArrayNumber) -> impl Iterator<Item = &ReaderRecord> {
        let stays =
            move |reader: &&ReaderRecord| reader.array != but && !reader.has_left && !reader.is_leaving;
        self.all_readers_of_group(group).filter(stays)
    }
}

/// The loser will copy from here: its pairs are copied as soon as it has told what it has changed.
pub(super) fn accepted(tables: &mut Tables, told: &RemoteFailback, remote: GroupNumber) {
    let Some(row) = tables.groups.edit(&told.number) else { return };
    let Some(taken) = row.takeover.as_ref().and_then(Takeover::taken).filter(|taken| taken.is_told) else {
        return;
    };
    let (link, array) = (taken.link.clone(), taken.array);
    row.takeover = row.takeover.take().and_then(Takeover::without_taken);
    tables.call_back_who_stays(told.number, array);
    if let Some(reader) = tables.readers.edit(&(told.number, array)) {
        reader.remote_group = Some(remote);
        reader.since = reader.since.max(told.since);
    }
    let pairs: Vec<PairNumber> = tables.pairs_over(told.number, &link).map(|pair| pair.number).collect();
    for number in pairs {
        if let Some(pair) = tables.pairs.edit(&number) {
            pair.control.asked = Some(Asked::Resync);
        }
    }
}

/// The array that was named as the loser cannot be it.
pub(super) fn refused(tables: &mut Tables, what: &Designation) {
    if let Designation::RemoteFailback(told) = what
        && let Some(taken) = tables
            .groups
            .edit(&told.number)
            .and_then(|row| row.takeover.as_mut())
            .and_then(Takeover::taken_mut)
    {
        taken.is_told = false;
    }
}
