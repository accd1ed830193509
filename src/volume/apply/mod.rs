//! Checks a designation against the tables and applies it; the store makes the result durable in one transaction.
//!
//! Nothing here touches a device or a link: `is_formatted`, `is_carved` and the list of designations on their way say
//! what is left to do, and a start goes on with it. A change that is refused has changed nothing, because it worked
//! on a copy of the tables.

mod answers;
mod asked;
mod cascade;
mod copy;
mod copy_mode;
mod drills;
mod failback;
mod grow;
mod journals;
mod lacking;
mod let_go;
mod local;
mod members;
pub(crate) mod onward;
mod pairs;
pub(crate) mod rejoin;
mod relay;
mod relay_words;
mod remote;
pub(crate) mod reverse;
mod rivals;
mod shown;
mod snapshots;
mod sources;
mod synchronous;
pub(crate) mod taken;
mod takeover;
mod takeover_guard;
mod written;

use super::designation::{Designation, DesignationId, Outcome, Refusal};
use super::name::{GroupName, LinkName};
use super::record::{ForwardRecord, ResultRecord, Who};
use super::table::Tables;

impl Tables {
    /// Applies a designation. A repeated identity changes nothing and gets the first answer.
    ///
    /// # Errors
    /// Why it cannot be done; the caller drops these tables then.
    pub fn apply(&mut self, id: DesignationId, what: &Designation, who: &Who) -> Result<Outcome, Refusal> {
        if self.results.get(&id).is_some() {
            return self.answered(id, what);
        }
        self.check_speaker(what, who)?;
        reverse::check_not_reversing(self, what)?;
        takeover_guard::check(self, what)?;
        let outcome = self.dispatch(id, what, who)?;
        let sequence = self.next_sequence();
        self.results.put(ResultRecord {
            id,
            sequence,
            outcome,
            what: Some(what.to_string()),
            refusal: None,
            is_reversal: matches!(what, Designation::RemoteReverse(_)),
        });
        self.forget_old_results();
        Ok(outcome)
    }

    /// Whether a designation was applied before, and its answer is known.
    #[must_use]
    pub fn was_answered(&self, id: DesignationId) -> bool {
        self.results.get(&id).is_some()
    }

    /// The first answer to a repeated designation.
    ///
    /// # Errors
    /// The identity is not known, or belongs to something else that was designated.
    pub(super) fn answered(&self, id: DesignationId, what: &Designation) -> Result<Outcome, Refusal> {
        let known = self.results.get(&id).ok_or_else(|| Refusal::missing("designation", id.0))?;
        match &known.what {
            Some(other) if *other != what.to_string() => {
                Err(Refusal::conflict(format!("this identity was given to {other:?} before")))
            }
            Some(_) | None => match &known.refusal {
                Some(refusal) => Err(Refusal::conflict(refusal.clone())),
                None => Ok(known.outcome),
            },
        }
    }

    /// Keeps that a promise to take over was refused: whoever hears of that lets hosts write again, so no copy of the same
    /// message that comes later may be promised (decision 17). The first answer to an identity stays.
    pub(crate) fn reversal_refused(&mut self, id: DesignationId, what: &Designation, refusal: &Refusal) {
        if self.was_answered(id) {
            return;
        }
        let sequence = self.next_sequence();
        self.results.put(ResultRecord {
            id,
            sequence,
            outcome: Outcome::Done,
            what: Some(what.to_string()),
            refusal: Some(refusal.to_string()),
            is_reversal: true,
        });
        self.forget_old_results();
    }

    fn dispatch(&mut self, id: DesignationId, what: &Designation, who: &Who) -> Result<Outcome, Refusal> {
        if let Some((link, ask)) = self.ask_of_primary(what, who) {
            return asked::ask_primary(self, id, &link, ask);
        }
        match what {
            Designation::CreateParityGroup(new) => local::create_parity_group(self, new),
            Designation::CreateVolume(new) => local::create_volume(self, new),
            Designation::CreateTarget(new) => local::create_target(self, new),
            Designation::MapLun { .. } | Designation::SetLun { .. } | Designation::UnmapLun { .. } => {
                local::dispatch_luns(self, what)
            }
            Designation::RenameVolume { volume, name } => local::rename_volume(self, volume, name),
            Designation::ResizeVolume { volume, size_bytes } => grow::resize(self, id, volume, *size_bytes),
            Designation::DeleteVolume { volume } => local::delete_volume(self, volume),
            Designation::DeleteTarget { target } => local::delete_target(self, target),
            Designation::DeleteLink { link } => local::delete_link(self, link),
            Designation::CreateLink(new) => local::create_link(self, id, new),
            Designation::CreateRelay(new) => relay::create(self, new),
            Designation::SetLink { link, settings } => local::set_link(self, link, settings),
            Designation::PassOn { link, what } => remote::pass_on(self, id, link, what),
            Designation::IntroduceGroup { group, link } => remote::introduce_group(self, id, group, link),
            Designation::FollowGroup { group, link } => remote::follow_group(self, id, group, link),
            Designation::FollowPair { name, group, link, pvol, svol, copy } => {
                let new = remote::FollowedPair { name, group, link, pvol, svol, copy: *copy };
                remote::follow_pair(self, id, &new)
            }
            Designation::SetGroup { group, settings } => remote::set_group(self, id, group, *settings),
            Designation::SetSource { .. }
            | Designation::RemoteSource { .. }
            | Designation::AttachReader { .. }
            | Designation::DetachReader { .. }
            | Designation::ReadsElsewhere { .. } => sources::dispatch(self, id, what, who),
            Designation::SetSynchronous(group, with) => {
                synchronous::set_synchronous(self, group, with.as_ref())
            }
            Designation::JoinGroup { group } => remote::join_group(self, id, group, who),
            Designation::AddJournal { .. }
            | Designation::RemoteJournal { .. }
            | Designation::JoinJournal { .. }
            | Designation::LeaveJournal { .. }
            | Designation::JournalLost { .. }
            | Designation::RemoveJournal { .. }
            | Designation::ReplaceJournal { .. } => journals::dispatch(self, id, what, who),
            Designation::RemoteSettings { group, settings } => {
                remote::remote_settings(self, id, group, *settings, who)
            }
            Designation::SetSchedule { link, group, schedule } => {
                local::set_schedule(self, link, group, *schedule)
            }
            Designation::StopRestore { group, wish, for_suspension } => {
                copy::stop_restore(self, group, *wish, *for_suspension)
            }
            Designation::KeepImages { group, keep } => super::keep::keep_images(self, group, *keep),
            Designation::ApplyRewind { group, snapshot } => {
                super::rewind::apply_rewind(self, group, snapshot)
            }
            Designation::SetBookmark { group, .. } => copy::set_bookmark(self, group),
            Designation::CreateGroup { name, settings } => copy::create_group(self, id, name, *settings),
            Designation::CreatePair { name, group, pvol, svol, copy } => {
                copy::create_pair(self, id, &copy::NewPair { name, group, pvol, svol, copy: *copy })
            }
            Designation::StartGroup { group } => copy::start_group(self, id, group),
            Designation::SuspendPairs { group, which, svol } => pairs::suspend(self, group, which, *svol),
            Designation::ResyncPairs { group, which, image } => pairs::resync(self, group, which, *image),
            Designation::DropImage { group } => pairs::drop_image(self, group),
            Designation::DeletePairs { group, which } => pairs::delete(self, group, which),
            Designation::DeleteGroup { group } => pairs::delete_group(self, group),
            Designation::DeleteReader { group, link } => cascade::delete_reader(self, id, group, link),
            _ => self.dispatch_told(id, what, who),
        }
    }

    /// What comes from other arrays, and what turns copies round.
    fn dispatch_told(
        &mut self,
        id: DesignationId,
        what: &Designation,
        who: &Who,
    ) -> Result<Outcome, Refusal> {
        match what {
            Designation::CreateSnapshot(new) => snapshots::create(self, new),
            Designation::DeleteSnapshot { snapshot } => snapshots::delete(self, snapshot),
            Designation::Drill(order) => drills::apply(self, order, who),
            Designation::AddMember { group, volume } => members::add(self, group, volume),
            Designation::RemoveMember { group, volume } => members::remove(self, group, volume),
            Designation::RemoteGrow { pair, size_bytes } => {
                grow::remote_grow(self, id, pair, *size_bytes, who)
            }
            Designation::JoinRoom { pair, size_bytes } => grow::join_room(self, pair, *size_bytes, who),
            Designation::RemoteGrown { pair, size_bytes } => {
                grow::remote_grown(self, id, pair, *size_bytes, who)
            }
            Designation::AskPrimary(ask) => asked::asked(self, id, ask, who),
            Designation::RemoteSuspend { pair, reason, others_go_on, by_operator } => {
                let said = pairs::Said { reason, others_go_on: *others_go_on, by_operator: *by_operator };
                pairs::remote_suspend(self, id, pair, said, who)
            }
            Designation::SuspensionEnded { group, of } => asked::suspension_ended(self, group, *of, who),
            Designation::RemoteResync { pairs, from } => pairs::remote_resync(self, pairs, *from, who),
            Designation::RemoteSvolWrite { pairs } => written::remote_svol_write(self, pairs, who),
            Designation::JoinMarks { pair, runs } => written::join_marks(self, pair, runs, who),
            Designation::ReverseGroup { group, to, wait } => reverse::reverse(self, group, to, *wait),
            Designation::CancelReversal { group } => reverse::cancel(self, group),
            Designation::RemoteReverse(told) => reverse::remote_reverse(self, told, who),
            Designation::RemoteOnward(told) => onward::remote_onward(self, id, told, who),
            Designation::ReverseMarks { pair, runs } => reverse::reverse_marks(self, pair, runs, who),
            Designation::TakeOverGroup { .. }
            | Designation::FailBackGroup { .. }
            | Designation::RemoteTakeover(_)
            | Designation::TakeoverGivenUp { .. }
            | Designation::RemoteBranch { .. }
            | Designation::RemoteFailback(_) => takeover::dispatch(self, id, what, who),
            Designation::RemoteRejoin(told) => rejoin::remote_rejoin(self, id, told, who),
            Designation::LeftOnward { group } => rejoin::left_onward(self, group, who),
            Designation::RemoteDeletePair { pair, is_gone } => {
                pairs::remote_delete_pair(self, (pair, *is_gone), who)
            }
            Designation::RemoteDeleteGroup { group } => pairs::remote_delete_group(self, id, group, who),
            Designation::RemoteGroup(remote) => copy::remote_group(self, remote, who),
            Designation::RemotePair(remote) => copy::remote_pair(self, remote, who),
            Designation::RemoteStart { group } => copy::remote_start(self, id, group, who),
            _ => Err(Refusal::conflict("nothing here knows what that is")),
        }
    }

    /// Puts a designation on its way to the array behind `link`, behind those that are on their way there already.
    pub(crate) fn forward(&mut self, link: &LinkName, id: DesignationId, designation: Designation) {
        let sequence = self.next_sequence();
        let link = link.clone();
        self.forwards.put(ForwardRecord { sequence, link, id, designation, refusal: None, is_once: false });
    }

    /// The same for what an operator of this array says to the other one: a refusal is its end.
    fn forward_once(&mut self, link: &LinkName, id: DesignationId, designation: Designation) {
        let sequence = self.next_sequence();
        let link = link.clone();
        self.forwards.put(ForwardRecord { sequence, link, id, designation, refusal: None, is_once: true });
    }

    /// What another array may say here (mission row J15): its part of the copies that both have, and new volumes.
    /// Whatever else there is, the operator of this array says himself.
    fn check_speaker(&self, what: &Designation, who: &Who) -> Result<(), Refusal> {
        let Who::Peer { array, .. } = who else { return Ok(()) };
        if !what.may_come_from_a_peer() || self.link_to(*array).is_none() {
            return Err(Refusal::conflict("only its operator designates this at an array"));
        }
        let reads = |group: &GroupName| {
            let group = self.group_named(group).ok_or_else(|| Refusal::missing("group", group))?;
            let is_reader = self.readers.get(&(group.number, *array)).is_some_and(|known| !known.is_attached);
            let why = || Refusal::conflict(format!("array {array} does not copy group {}", group.name));
            is_reader.then_some(()).ok_or_else(why)
        };
        match what {
            Designation::AddJournal { group, .. } | Designation::StartGroup { group } => reads(group),
            Designation::RemoveJournal { group, .. } | Designation::ReplaceJournal { group, .. } => {
                let role = self.group_named(group).map(|group| group.role.clone());
                let is_source = matches!(role, Some(crate::volume::group::GroupRole::Auxiliary { source, .. }) if source == *array);
                if is_source { Ok(()) } else { reads(group) }
            }
            Designation::CreatePair { group, svol, .. } => {
                reads(group)?;
                let behind = self.links.get(&svol.link).map(|link| link.array);
                let own = behind == Some(*array);
                own.then_some(())
                    .ok_or_else(|| Refusal::conflict("an array has volumes of its own paired only"))
            }
            // The others look for themselves who speaks, or concern nobody else.
            _ => Ok(()),
        }
    }

    /// The designations on their way to the array behind `link`, in the order in which they are offered. One that is
    /// refused stays and does not hold up the others: what depends on it is refused too, and offered again with it.
    pub fn forwards_to<'t>(&'t self, link: &'t LinkName) -> impl Iterator<Item = &'t ForwardRecord> {
        self.forwards.iter().filter(move |forward| forward.link == *link)
    }

    /// Takes in the answer of the array behind the link. Accepted: it leaves the list, and what the answer tells is
    /// noted. Refused: it stays, with the reason, and is offered again, because the other side may not be ready yet;
    /// what an operator had passed on has come to its end.
    pub fn delivered(&mut self, sequence: u64, answer: &Result<Outcome, Refusal>) {
        match answer {
            Ok(outcome) => {
                let Some(forward) = self.forwards.get(&sequence).cloned() else { return };
                self.forwards.remove(&sequence);
                answers::accepted(self, &forward, *outcome);
            }
            Err(refusal)
                if self
                    .forwards
                    .get(&sequence)
                    .is_some_and(|forward| forward.is_once && !forward.is_open_after(refusal)) =>
            {
                let ended = self.forwards.get(&sequence).map(|forward| forward.designation.clone());
                self.forwards.remove(&sequence);
                if let Some(what) = &ended {
                    reverse::refused(self, what);
                    asked::refused(self, what);
                    failback::refused(self, what);
                }
            }
            Err(refusal) => {
                lacking::refused(self, sequence, refusal);
                let text = Some(refusal.to_string());
                // A row is only changed when it says something new: the same answer again costs no write.
                if self.forwards.get(&sequence).is_some_and(|forward| forward.refusal != text)
                    && let Some(forward) = self.forwards.edit(&sequence)
                {
                    forward.refusal = text;
                }
            }
        }
    }

    /// Keeps that this was done, for whoever says it again.
    pub(crate) fn note_done(&mut self, id: DesignationId, what: &Designation) {
        let sequence = self.next_sequence();
        self.results.put(ResultRecord {
            id,
            sequence,
            outcome: Outcome::Done,
            what: Some(what.to_string()),
            refusal: None,
            is_reversal: false,
        });
        self.forget_old_results();
    }

    fn forget_old_results(&mut self) {
        // Each kind by itself: the answer to a reversal may be asked for long after thousands of others.
        for is_reversal in [false, true] {
            let of_kind = || self.results.iter().filter(|result| result.is_reversal == is_reversal);
            if of_kind().count() > RESULTS_MAX
                && let Some(oldest) = of_kind().min_by_key(|result| result.sequence).map(|result| result.id)
            {
                self.results.remove(&oldest);
            }
        }
    }
}

/// Answers that are kept for repeated designations, and as many for reversals; the oldest are forgotten.
const RESULTS_MAX: usize = 4_096;

#[cfg(test)]
mod tests;
