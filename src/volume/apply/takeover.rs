//! Designations of a takeover and of the way back (promises O3, O4, O6; decision 19), and what the arrays at work record of
//! them.

use super::copy::peer;
use super::failback;
use crate::volume::designation::{Designation, DesignationId, Outcome, Refusal};
use crate::volume::group::{CommonPoint, Generation, GroupRecord, GroupRole, GroupState, common_point};
use crate::volume::kind::CopyMode;
use crate::volume::name::{ArrayNumber, GroupName, GroupNumber, LinkName, UpdateNumber};
use crate::volume::pair::{PairRecord, PairState};
use crate::volume::record::Who;
use crate::volume::resync::RESYNC_PAIRS_MAX;
use crate::volume::reversal::{Reversal, ReversalStep};
use crate::volume::table::Tables;
use crate::volume::takeover::{Branch, Overtaken, RemoteTakeover, Taken, Takeover, parting};

/// What is said by operators and other arrays of a takeover.
pub(super) fn dispatch(
    tables: &mut Tables,
    id: DesignationId,
    what: &Designation,
    who: &Who,
) -> Result<Outcome, Refusal> {
    match what {
        Designation::TakeOverGroup { group, at_least } => take_over(tables, group, *at_least),
        Designation::FailBackGroup { group, to, keep_branch } => {
            failback::fail_back(tables, id, (group, to), keep_branch.as_ref())
        }
        Designation::RemoteTakeover(told) => remote_takeover(tables, id, told, who),
        Designation::TakeoverGivenUp { group, attempt } => given_up(tables, group, *attempt, who),
        Designation::RemoteBranch { group, branch } => remote_branch(tables, group, *branch, who),
        Designation::RemoteFailback(told) => failback::remote_failback(tables, told, who),
        _ => Err(Refusal::conflict("this is no takeover")),
    }
}

/// By the operator of the array that shall take over. What it finds there is looked at by the array at work.
fn take_over(
    tables: &mut Tables,
    group: &GroupName,
    at_least: Option<UpdateNumber>,
) -> Result<Outcome, Refusal> {
    let row = tables.group_named(group).ok_or_else(|| Refusal::missing("group", group))?;
    let number = row.number;
    let next = match &row.role {
        GroupRole::Primary if at_least.is_some() => None,
        GroupRole::Primary => retake(row)?,
        GroupRole::Auxiliary { .. } => begin(tables, row)?,
    };
    let Some(next) = next else { return is_enough(row, at_least) };
    if let Takeover::Retaking(_) = next {
        tables.drop_reversal(number);
    }
    if let Some(row) = tables.groups.edit(&number) {
        row.attempts = row.attempts.saturating_add(1);
        (row.takeover, row.at_least) = (Some(next), at_least);
    }
    Ok(Outcome::Done)
}

/// There is nothing more to do, or it is on its way: as far as that is what is said now.
fn is_enough(row: &GroupRecord, at_least: Option<UpdateNumber>) -> Result<Outcome, Refusal> {
    let Some(wanted) = at_least else { return Ok(Outcome::Done) };
    let conflict = |text: &str| Err(Refusal::conflict(format!("group {} {text}", row.name)));
    match (&row.role, &row.takeover) {
        (GroupRole::Primary, Some(Takeover::Taken(taken))) if taken.last >= wanted => Ok(Outcome::Done),
        (GroupRole::Primary, _) => conflict("is not copied here: this array is its primary already"),
        (GroupRole::Auxiliary { .. }, _) if row.at_least.is_some_and(|known| known >= wanted) => {
            Ok(Outcome::Done)
        }
        (GroupRole::Auxiliary { .. }, _) => {
            conflict("is on its way to be taken over here already, and that without this limit")
        }
    }
}

/// At a primary that is shut: it goes on. Nothing if it is open.
fn retake(row: &GroupRecord) -> Result<Option<Takeover>, Refusal> {
    match (&row.takeover, &row.reversal) {
        (Some(Takeover::Overtaken(other)), _) => Ok(Some(Takeover::Retaking(other.clone()))),
        (Some(Takeover::Yielding(_)), _) => {
            let text = format!("group {} becomes a copy here: take it over when it is one", row.name);
            Err(Refusal::conflict(text))
        }
        (Some(_), _) | (None, None) => Ok(None),
        (None, Some(Reversal { step: ReversalStep::Leaving(..), link, .. })) => {
            let text = format!("{link} has taken over group {}: this array becomes its copy", row.name);
            Err(Refusal::conflict(text))
        }
        // The other array may have taken over, or may yet: two lists of generations will tell.
        (None, Some(reversal)) => Ok(Some(Takeover::Retaking(Overtaken {
            link: reversal.link.clone(),
            array: reversal.array,
            generations: row.generations.clone(),
            is_complete: false,
            attempt: 0,
            branch: None,
            had_taken: None,
        }))),
    }
}

/// At an auxiliary: everything that could keep it from it is looked at first.
fn begin(tables: &Tables, row: &GroupRecord) -> Result<Option<Takeover>, Refusal> {
    let is_moving = matches!(row.takeover, Some(Takeover::Moving(_)));
    if (row.takeover.is_some() && !is_moving) || row.reversal.is_some() {
        return Ok(None); // On its way already, by command or by promise.
    }
    let conflict = |text: &str| Err(Refusal::conflict(format!("group {} {text}", row.name)));
    if row.rewinding.is_some() {
        return conflict("is on the way to a snapshot: say it again when its S-VOLs are there");
    }
    let GroupRole::Auxiliary { source, remote: Some(_), .. } = &row.role else {
        return conflict("was never made known by its primary");
    };
    if !row.is_started || row.journals.is_empty() {
        return conflict("is not started here, or has no journal volume here");
    }
    check_below(tables, row)?;
    let pairs: Vec<&PairRecord> = tables.followed_pairs(row.number).collect();
    if pairs.is_empty() || pairs.len() > RESYNC_PAIRS_MAX {
        return conflict(&format!("has not 1 to {RESYNC_PAIRS_MAX} pairs here"));
    }
    for pair in pairs {
        if pair.primary.array != *source || pair.copy == CopyMode::Sync || pair.control.asked.is_some() {
            let text = format!("cannot be taken over: pair {} is forwarded, or being taken away", pair.name);
            return conflict(&text);
        }
    }
    Ok(Some(Takeover::Reaching))
}

/// Those that read the group from here already go on doing so ([`crate::volume::onward`]). What keeps one from it is said, and ends
/// when it is taken away.
fn check_below(tables: &Tables, row: &GroupRecord) -> Result<(), Refusal> {
    let conflict = |text: String| Err(Refusal::Conflict(format!("group {} {text}", row.name)));
    for reader in tables.all_readers_of_group(row.number) {
        let link = &reader.link;
        if reader.is_attached {
            return conflict(format!(
                "is read by {link} here beside its source: `group set {} --source primary` there first",
                row.name
            ));
        }
        if reader.journal_lost {
            return conflict(format!(
                "is read by {link} here, which lacks its journal: wait, or take it away"
            ));
        }
    }
    let is_in_the_way = |pair: &&PairRecord| {
        pair.state == PairState::NotYetCopied || pair.control.svol_write || pair.is_leaving()
    };
    match tables.served_pairs(row.number).find(is_in_the_way) {
        Some(pair) => conflict(format!(
            "is read over {0} here, and its pair {1} is {2}, opened to hosts or being taken away: wait, or take that reader \
             away (`group delete {3} --reader {0}`)",
            pair.link, pair.name, pair.state, row.name
        )),
        None => Ok(()),
    }
}

/// From an array that has taken over, or is about to: hosts are shut out here from now on.
fn remote_takeover(
    tables: &mut Tables,
    id: DesignationId,
    told: &RemoteTakeover,
    who: &Who,
) -> Result<Outcome, Refusal> {
    let (array, link) = peer(tables, who)?;
    let row = tables.group_named(&told.group).ok_or_else(|| Refusal::missing("group", &told.group))?;
    let (number, first) = (row.number, branch_begins(row, &told.generations)?);
    let conflict = |text: String| Err(Refusal::Conflict(format!("group {} {text}", told.group)));
    if row.role != GroupRole::Primary {
        return told_to_a_copy(tables, id, (number, array, link), told);
    }
    super::rivals::is_not_handed_over(row, array)?;
    if told.is_complete && first.is_none() {
        return conflict("goes on here in the newer generation".to_owned());
    }
    if tables.pairs_over(number, &link).next().is_none() {
        return conflict(format!("has no pairs with array {array} here"));
    }
    is_said_now(tables, (number, array), told)?;
    tables.call_rejoin_back(number);
    let row = tables.group_named(&told.group).ok_or_else(|| Refusal::missing("group", &told.group))?;
    let had_taken = row.takeover.as_ref().and_then(Takeover::taken);
    if let (Some(taken), Some(Takeover::Overtaken(other))) = (had_taken, &row.takeover)
        && taken.array == array
    {
        return conflict(format!("is being taken over by array {} there at this moment", other.array));
    }
    let had_taken = had_taken.filter(|_| !told.is_complete).cloned().map(Box::new);
    let overtaken = Overtaken {
        link: link.clone(),
        array,
        generations: told.generations.clone(),
        is_complete: told.is_complete,
        attempt: told.attempt,
        branch: None,
        had_taken,
    };
    // A rival may have been told of this array's takeover when it was none yet, and have forgotten it since.
    let is_news = matches!(&row.takeover, Some(Takeover::Taken(taken))
        if taken.array == array && !taken.is_told && taken.rival.as_ref() != Some(&told.generations));
    let Some(next) = behind(row, told, overtaken)? else { return Ok(Outcome::Done) };
    tables.drop_reversal(number);
    if told.is_complete && next.shuts_hosts_out() {
        tables.call_back_deletions(number, &link);
    }
    if let Some(row) = tables.groups.edit(&number) {
        let newest = told.generations.last().map_or(0, |newest| newest.counter);
        row.seen_counter = row.seen_counter.max(newest);
        row.takeover = Some(next);
        tables.has_told(number, array, newest);
    }
    tables.let_go_of_who_left(number);
    if is_news {
        tables.tell_rival(number, &link, id.caused(0));
    }
    Ok(Outcome::Done)
}

/// What becomes of a takeover that is known here when another array says that it has taken over; none: nothing has to be done.
fn behind(
    row: &GroupRecord,
    told: &RemoteTakeover,
    overtaken: Overtaken,
) -> Result<Option<Takeover>, Refusal> {
    let array = overtaken.array;
    let conflict = |text: String| Err(Refusal::Conflict(format!("group {} {text}", told.group)));
    Ok(Some(match &row.takeover {
        Some(Takeover::Taken(taken)) if taken.array == array => {
            if !told.is_complete {
                return conflict("was taken over by this array".to_owned());
            }
            // What it had said of itself before may be an earlier branch; and it is told anew what it would lose.
            let newest = told.generations.last().map_or(0, |newest| newest.counter);
            let branch = taken.branch.filter(|known| known.of.counter >= newest);
            let known = taken.told.filter(|_| taken.rival.as_ref() == Some(&told.generations));
            Takeover::Taken(Taken {
                rival: Some(told.generations.clone()),
                branch,
                told: known,
                has_forgotten: false,
                ..taken.clone()
            })
        }
        Some(Takeover::Overtaken(other)) if other.array != array && other.is_complete => {
            return conflict(format!("was taken over by array {} already", other.array));
        }
        Some(Takeover::Overtaken(other)) if other.array == array && other.is_complete => {
            // It may have been started since, in a newer generation; what it said before may come behind that.
            let is_newer = told.is_complete
                && matches!(common_point(&other.generations, &told.generations), CommonPoint::OtherGoesOn(_));
            let generations = if is_newer { &told.generations } else { &other.generations };
            Takeover::Overtaken(Overtaken { generations: generations.clone(), ..other.clone() })
        }
        Some(Takeover::Retaking(_)) => Takeover::Retaking(overtaken),
        Some(Takeover::Yielding(yielding)) if yielding.to.array == array => return Ok(None),
        Some(Takeover::Yielding(yielding)) => {
            return conflict(format!("becomes a copy of array {}", yielding.to.array));
        }
        None if is_leaving_to(row, array) => return Ok(None), // It becomes its copy anyway.
        None | Some(_) => Takeover::Overtaken(overtaken),
    }))
}

/// What an array said before it was the copy that it is, or of an attempt that it has given up, comes too late.
fn is_said_now(
    tables: &Tables,
    (group, array): (GroupNumber, ArrayNumber),
    told: &RemoteTakeover,
) -> Result<(), Refusal> {
    let Some(reader) = tables.readers.get(&(group, array)) else { return Ok(()) };
    let conflict = |text: String| Err(Refusal::Conflict(format!("group {} {text}", told.group)));
    if told.knows < reader.since {
        return conflict(format!("was not a copy at array {array} any more, or not yet, when that was said"));
    }
    if !told.is_complete && (1..=reader.attempts_ended).contains(&told.attempt) {
        return conflict(format!("is not being taken over by array {array} any more"));
    }
    Ok(())
}

/// From an array that was about to take over, and does not: hosts are let in again that it has shut out, and nobody else has.
fn given_up(tables: &mut Tables, group: &GroupName, attempt: u64, who: &Who) -> Result<Outcome, Refusal> {
    let (array, _) = peer(tables, who)?;
    let Some(number) = tables.group_named(group).map(|row| row.number) else { return Ok(Outcome::Done) };
    if let Some(reader) = tables.readers.edit(&(number, array)) {
        reader.attempts_ended = reader.attempts_ended.max(attempt);
    }
    if let Some(row) = tables.groups.edit(&number)
        && let Some(Takeover::Overtaken(other)) = &mut row.takeover
        && (other.array, other.is_complete) == (array, false)
        && other.attempt <= attempt
    {
        // What it had overtaken itself was decided before that.
        row.takeover = other.had_taken.take().map(|taken| Takeover::Taken(*taken));
    }
    Ok(Outcome::Done)
}

/// At an array that copies the group: from its own primary it hears that that has taken itself back.
fn told_to_a_copy(
    tables: &mut Tables,
    id: DesignationId,
    (group, array, link): (GroupNumber, ArrayNumber, LinkName),
    told: &RemoteTakeover,
) -> Result<Outcome, Refusal> {
    let Some(row) = tables.groups.get(&group) else { return Err(Refusal::missing("group", &told.group)) };
    if row.takeover.is_some() && !matches!(row.takeover, Some(Takeover::Moving(_))) {
        if !is_taken_back(tables, row, array, told)? {
            let text = format!("group {} is being taken over here at this moment", told.group);
            return Err(Refusal::Conflict(text));
        }
        tables.takeover_given_up(group, id.caused(1).0);
    }
    let Some(row) = tables.groups.get(&group) else { return Err(Refusal::missing("group", &told.group)) };
    // It has promised to be the primary: what it has then is said by what it will be.
    if row.reversal.is_some() {
        let text = format!("group {} is being turned round here at this moment", told.group);
        return Err(Refusal::Conflict(text));
    }
    if let GroupRole::Auxiliary { source, .. } = row.role
        && source != array
        && told.is_complete
        && branch_begins(row, &told.generations)?.is_some()
    {
        let text = format!(
            "group {} is a copy of array {source} here, which is another primary than that: one of the two has to be paired \
             anew with the other",
            told.group
        );
        return Err(Refusal::Conflict(text));
    }
    if matches!(row.role, GroupRole::Auxiliary { source, .. } if source == array)
        && told.is_complete
        && let Some(of) = row.generations.last().copied()
        && let Some((_, against)) = parting(&row.generations, &told.generations, UpdateNumber(1))
    {
        // It copies from there already: it has nothing of its own.
        let branch = Branch { of, against, first: UpdateNumber(1), last: UpdateNumber(0), bytes: 0 };
        let what = Designation::RemoteBranch { group: told.group.clone(), branch };
        tables.forward(&link, id.caused(0), what);
    }
    Ok(Outcome::Done)
}

/// Whether a takeover that is on its way here has no reason any more: its primary has been taken back since, by command, and nothing here
/// has gone back to an image for it.
fn is_taken_back(
    tables: &Tables,
    row: &GroupRecord,
    array: ArrayNumber,
    told: &RemoteTakeover,
) -> Result<bool, Refusal> {
    let is_on_its_way = matches!(row.takeover, Some(Takeover::Reaching | Takeover::Restoring));
    let is_its_primary = matches!(row.role, GroupRole::Auxiliary { source, .. } if source == array);
    let may_go_back = || tables.followed_pairs(row.number).any(|pair| pair.control.image.is_some());
    let is_given_up = is_on_its_way && is_its_primary && told.is_complete;
    Ok(is_given_up
        && row.state == GroupState::Normal
        && branch_begins(row, &told.generations)?.is_some()
        && !may_go_back())
}

pub(super) fn is_leaving_to(row: &GroupRecord, array: ArrayNumber) -> bool {
    row.reversal
        .as_ref()
        .is_some_and(|reversal| reversal.array == array && matches!(reversal.step, ReversalStep::Leaving(..)))
}

/// The first number here that the array with these generations does not have; none if it has gone nowhere else.
pub(super) fn branch_begins(
    row: &GroupRecord,
    theirs: &[Generation],
) -> Result<Option<UpdateNumber>, Refusal> {
    if theirs.len() > super::reverse::GENERATIONS_MAX || !theirs.iter().all(is_possible) {
        return Err(Refusal::conflict(format!("group {} has generations that nobody opens", row.name)));
    }
    match common_point(&row.generations, theirs) {
        CommonPoint::None => {
            Err(Refusal::conflict(format!("group {} is another one here: no generation is common", row.name)))
        }
        CommonPoint::Same | CommonPoint::OursGoesOn(_) => Ok(None),
        CommonPoint::OtherGoesOn(first) | CommonPoint::Diverged(first) => Ok(Some(first)),
    }
}

fn is_possible(one: &Generation) -> bool {
    (1..super::reverse::COUNTER_MAX).contains(&one.counter) && one.first.0 <= super::reverse::LAST_MAX
}

/// An array that took over as well is known to have opened a generation of its own. One that speaks of an earlier one, or of another array's, has forgotten
/// what it has: its control store is an older copy, by which it copies from here. Nothing that it has is given up by the name of that.
fn has_forgotten(taken: &Taken, branch: &Branch) -> bool {
    let known = taken.rival.as_ref().and_then(|rival| rival.last());
    known.is_some_and(|newest| branch.of.array != taken.array || branch.of.counter < newest.counter)
}

/// From an array that was overtaken: so much is only there. What it said to an earlier takeover, or before the last that it said, is
/// not noted.
fn remote_branch(
    tables: &mut Tables,
    group: &GroupName,
    branch: Branch,
    who: &Who,
) -> Result<Outcome, Refusal> {
    let (array, _) = peer(tables, who)?;
    let number = tables.group_named(group).ok_or_else(|| Refusal::missing("group", group))?.number;
    if !is_possible(&branch.of) || branch.last.0 > super::reverse::LAST_MAX {
        return Err(Refusal::conflict(format!("group {group} has numbers that nobody gives")));
    }
    // To an earlier takeover: it has been a copy in between, in that generation or a later one. A copy that has taken over since bears a later one
    // itself; what it went on from may be an image that is older than the generation in which it became a copy.
    let since = tables.readers.get(&(number, array)).map_or(0, |reader| reader.since);
    let mut is_other = false;
    if let Some(row) = tables.groups.edit(&number)
        && let Some(taken) = row.takeover.as_mut().and_then(Takeover::taken_mut)
        && taken.array == array
        && row.generations.contains(&branch.against)
    {
        let is_said_now = branch.against.counter.max(branch.of.counter) > since
            && taken.branch.is_none_or(|known| known.age() <= branch.age());
        if has_forgotten(taken, &branch) {
            taken.has_forgotten = true;
        } else if is_said_now {
            taken.has_forgotten = false;
            is_other = taken.branch.replace(branch) != Some(branch);
            row.seen_counter = row.seen_counter.max(branch.of.counter);
        }
    }
    if is_other {
        tables.has_told(number, array, branch.of.counter);
        tables.call_rejoin_back(number);
    }
    Ok(Outcome::Done)
}
