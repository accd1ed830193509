//! Links: one task each, that keeps a session to the other array as long as there is something to do over it.
//!
//! Over the session go the designations on their way there (figure 10), and the journal reads of every group that is
//! copied from there. After any error the session is dropped and opened again after a pause that grows to
//! [`PAUSE_MAX`]. A link that is cut changes no state of a pair.

use super::Array;
use super::peer_link::{LinkParts, PeerLink, Traffic};
use super::peer_session::PeerSession;
use crate::copy::answer::Head;
use crate::copy::fetch::{Reading, Whose};
use crate::copy::group::Group;
use crate::copy::source::SourceError;
use crate::shell::view::MessageView;
use crate::volume::designation::{Designation, Outcome, Refusal};
use crate::volume::group::{GroupRecord, GroupRole, GroupState};
use crate::volume::name::{GroupNumber, LinkName};
use crate::volume::record::{ForwardRecord, LinkRecord, Who};
use crate::volume::table::Tables;
use crate::volume::takeover::Takeover;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use holdfast_journal::UpdateNumber;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

impl Array {
    /// Starts the task of every link that has none.
    pub(crate) fn start_links(self: &Arc<Self>) {
        for link in self.store.tables().links.iter() {
            if self.runtime().kept_links.insert(link.name.clone()) {
                let (array, name) = (self.clone(), link.name.clone());
                self.spawn(async move { array.keep_link(name).await });
            }
        }
    }

    async fn keep_link(self: Arc<Self>, name: LinkName) {
        let traffic = self.traffic(&name);
        let connector = self.connector(&name);
        let mut pause = PAUSE_MIN;
        loop {
            let changed = self.changed().notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            // Under one lock with what `start_links` sees: a link that is made again at this moment gets a task.
            let (tables, link) = {
                let mut runtime = self.runtime();
                let tables = self.store.tables();
                let link = tables.links.get(&name).cloned();
                if link.is_none() {
                    runtime.kept_links.remove(&name);
                    runtime.links.remove(name.as_str());
                    runtime.traffic.remove(name.as_str());
                }
                (tables, link)
            };
            let Some(link) = link else { return };
            if !has_work(&tables, &name) {
                self.link_is_idle(&name);
                changed.await;
                continue;
            }
            let own = (self.config.array.number.0, self.config.array.name.to_string());
            let error = match PeerSession::open(&connector, (own.0, &own.1), &link, &self.pool, 0).await {
                Ok(session) => {
                    pause = PAUSE_MIN;
                    self.note_link(&name, true, None);
                    let parts = LinkParts {
                        pool: self.pool.clone(),
                        bench: self.env.workbench.clone(),
                        traffic: traffic.clone(),
                        clock: self.env.clock.clone(),
                    };
                    let lanes = PeerLink::new(session.clone(), &link, parts);
                    tokio::select! {
                        biased;
                        error = self.use_session(&link, &session, &lanes) => error,
                        () = lanes.keep_lanes(&connector, (own.0, &own.1), &link) => {
                            SourceError("the link was given up".into())
                        }
                    }
                }
                Err(error) => error,
            };
            tracing::info!(link = %name, %error, "link down");
            self.note_link(&name, false, Some(error.to_string()));
            self.suspend_behind(&name);
            self.env.clock.sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Where what goes over a link is counted.
    pub(crate) fn traffic(&self, link: &LinkName) -> Arc<Traffic> {
        self.runtime().traffic.entry(link.to_string()).or_default().clone()
    }

    /// Nothing has to go over the link: no session is kept, and an old error means nothing any more.
    fn link_is_idle(&self, name: &LinkName) {
        self.runtime().links.remove(name.as_str());
    }

    fn note_link(&self, name: &LinkName, connected: bool, error: Option<String>) {
        let mut runtime = self.runtime();
        let status = runtime.links.entry(name.to_string()).or_default();
        status.connected = connected;
        status.error = error;
        drop(runtime);
        self.changed().notify_waiters();
    }

    /// Works over a session until it fails.
    async fn use_session(
        self: &Arc<Self>,
        link: &LinkRecord,
        session: &PeerSession,
        lanes: &PeerLink,
    ) -> SourceError {
        let mut following = BTreeSet::new();
        let mut followers = FuturesUnordered::new();
        loop {
            let changed = self.changed().notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.store.read(|tables| tables.links.get(&link.name).cloned()) {
                Some(now) if is_same_way(&now, link) => lanes.set_options(&now.options),
                Some(_) | None => return SourceError("the link is another one now".into()),
            }
            let refused = match self.forward(link, session).await {
                Ok(refused) => refused,
                Err(error) => return error,
            };
            // What was refused is offered again after a while: the other array may not be ready yet.
            let offer_again = refused.then(|| self.env.clock.sleep(OFFER_AGAIN));
            for (number, source, whose) in self.groups_to_follow(link) {
                if following.insert((number, whose == Whose::Source)) {
                    let over = Over { link: &link.name, session, lanes, whose };
                    followers.push(self.follow_group(number, source, over));
                }
            }
            tokio::select! {
                biased;
                () = session.closed() => return SourceError("the session was closed".into()),
                Some(error) = followers.next(), if !followers.is_empty() => return error,
                () = changed => {}
                () = wait(offer_again) => {}
            }
        }
    }

    /// Sends what is on its way to the array behind the link; whether something was refused.
    async fn forward(&self, link: &LinkRecord, session: &PeerSession) -> Result<bool, SourceError> {
        let tables = self.store.tables();
        let mut refused = false;
        for forward in tables.forwards_to(&link.name) {
            let id = forward.id.0.0.to_be_bytes();
            let designation =
                serde_json::to_vec(&forward.designation).map_err(|e| SourceError(e.to_string()))?;
            let answer = session.designate(id, &designation).await?;
            let answer: Result<Outcome, Refusal> = serde_json::from_slice(&answer)
                .map_err(|error| SourceError(format!("the answer to a designation: {error}")))?;
            let is_open = answer.as_ref().is_err_and(|refusal| forward.is_open_after(refusal));
            if let Err(refusal) = &answer
                && is_open
                && matches!(forward.designation, Designation::RemoteReverse(_))
            {
                return Err(SourceError(format!("no answer whether it takes over: {refusal}")));
            }
            refused |= answer.is_err();
            // Offered again and again it is said once.
            if let Err(refusal) = &answer
                && forward.refusal.as_ref() != Some(&refusal.to_string())
            {
                tracing::info!(link = %link.name, designation = %forward.designation, %refusal, "designation refused");
            }
            let recorded = match &answer {
                Err(refusal) if forward.is_once && !is_open => self.record_refusal(forward, refusal),
                _ => self.store.checkpoint(|tables| tables.delivered(forward.sequence, &answer)),
            };
            recorded.map_err(|error| SourceError(error.to_string()))?;
            if answer.is_ok() || matches!(answer, Err(Refusal::Lacks { .. })) {
                self.wake();
            }
        }
        Ok(refused)
    }

    /// What an operator had passed on was refused: he is told if he still waits, and the audit log in any case.
    fn record_refusal(&self, forward: &ForwardRecord, refusal: &Refusal) -> Result<(), Refusal> {
        let view = MessageView {
            link: forward.link.to_string(),
            what: forward.designation.to_string(),
            refusal: Some(refusal.to_string()),
            is_offered_again: false,
        };
        let mut runtime = self.runtime();
        runtime.refused.push_back((forward.id, view));
        while runtime.refused.len() > REFUSED_KEPT {
            runtime.refused.pop_front();
        }
        drop(runtime);
        let what = format!("{} --at {}: refused there: {refusal}", forward.designation, forward.link);
        let recorded = self.store.change(&Who::Array, what, |tables| {
            tables.delivered(forward.sequence, &Err(refusal.clone()));
            Ok(())
        });
        if recorded.is_ok() {
            self.take_up_stops(std::iter::once(&forward.designation));
        }
        self.changed().notify_waiters();
        recorded
    }

    fn groups_to_follow(&self, link: &LinkRecord) -> Vec<(u32, u32, Whose)> {
        let tables = self.store.tables();
        let followed =
            tables.groups.iter().filter(|group| follows(group, &link.name) || reads_there(group, &link.name));
        followed
            .map(|group| {
                let whose = if follows(group, &link.name) { Whose::Source } else { Whose::Other };
                let source = match (&group.role, &group.other_source) {
                    (_, Some(other)) if whose == Whose::Other => other.remote.map_or(0, |remote| remote.0),
                    (GroupRole::Auxiliary { remote, .. }, _) => remote.map_or(0, |remote| remote.0),
                    (GroupRole::Primary, _) => 0,
                };
                (group.number.0, source, whose)
            })
            .collect()
    }

    /// Records how reading goes, as it changes; never ends.
    pub(super) async fn record_reading(&self, group: &Group) {
        loop {
            let changed = group.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            self.note_reading(group);
            changed.await;
        }
    }

    /// Records why reading does not go on, until it does (J10).
    fn note_reading(&self, group: &Group) {
        let reason = match group.reading() {
            Reading::Retrying(reason) => Some(reason),
            Reading::Going => None,
            // Room comes and goes: that is shown, not recorded.
            Reading::NoRoom | Reading::Waiting => return,
        };
        let number = GroupNumber(group.number);
        let recorded = self
            .store
            .read(|tables| tables.groups.get(&number).is_none_or(|record| record.reading_stopped == reason));
        if recorded {
            return;
        }
        let changed = self.store.checkpoint(|tables| {
            if let Some(row) = tables.groups.edit(&number) {
                row.reading_stopped = reason;
            }
        });
        if let Err(error) = changed {
            tracing::warn!(group = %group.name, %error, "how reading goes cannot be recorded");
        }
        self.changed().notify_waiters();
    }

    /// Reads one group over the session for as long as that lives: what is wrong with one group does not disturb the
    /// others. A journal that is not formatted yet begins where the
    /// primary says this reader begins.
    async fn follow_group(self: &Arc<Self>, number: u32, source: u32, over: Over<'_>) -> SourceError {
        let (session, lanes) = (over.session, over.lanes);
        if over.whose == Whose::Source {
            let following = self.follow_for_ever(number, source, over);
            return tokio::select! {
                biased;
                error = following => error,
                error = self.watch_load(number, source, session) => error,
            };
        }
        loop {
            tokio::select! {
                biased;
                () = self.source_comes(number, over.link) => {}
                () = self.report_beside(number, source, session) => {}
            }
            let changed = self.changed().notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let group = self.runtime().groups.get(&number).cloned();
            let Some(group) = group else {
                changed.await;
                continue;
            };
            if !self.let_other_in(&group) {
                continue;
            }
            let error = tokio::select! {
                biased;
                error = group.follow(lanes, source, Whose::Other) => error,
                () = self.record_reading(&group) => continue,
                () = self.source_moves(number, over.link) => continue,
            };
            self.avoid_other_source(&group, &error);
            if session.is_closed() {
                return SourceError(error.to_string());
            }
        }
    }

    /// Reads a group from its source; while it is read from another array, only reports there.
    async fn follow_for_ever(self: &Arc<Self>, number: u32, source: u32, over: Over<'_>) -> SourceError {
        let (session, lanes) = (over.session, over.lanes);
        loop {
            let changed = self.changed().notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let is_followed = self.store.read(|tables| {
                tables.groups.get(&GroupNumber(number)).is_some_and(|group| comes_over(group, over.link))
            });
            if !is_followed {
                return SourceError("a group is not read from there any more".into());
            }
            let group = self.runtime().groups.get(&number).cloned();
            if let Some(group) = group {
                if !self.reads_here(number, over.link) {
                    let error = tokio::select! {
                        biased;
                        error = group.report_to(lanes, source) => error,
                        () = self.source_comes(number, over.link) => continue,
                    };
                    tracing::info!(group = %group.name, %error, "reports ended; trying again");
                    if session.is_closed() {
                        return SourceError(error.to_string());
                    }
                    self.env.clock.sleep(OFFER_AGAIN).await;
                    continue;
                }
                let error = tokio::select! {
                    biased;
                    error = group.follow(lanes, source, Whose::Source) => error,
                    () = self.record_reading(&group) => continue,
                    () = self.source_moves(number, over.link) => continue,
                };
                tracing::info!(group = %group.name, %error, "reading ended; trying again");
                self.note_reading(&group);
                if session.is_closed() {
                    return SourceError(error.to_string());
                }
                if self.begin_journal_anew(&group, &error).await {
                    self.wake();
                    continue;
                }
                self.env.clock.sleep(OFFER_AGAIN).await;
                continue;
            }
            let tables = self.store.tables();
            let record = tables.groups.iter().find(|record| record.number.0 == number);
            let unformatted = record.filter(|record| {
                record.segments.is_empty() && record.resume.is_none() && !record.journals.is_empty()
            });
            if unformatted.is_some() && !self.runtime().journal_begins.contains_key(&number) {
                let head = match session.journal_information(source).await {
                    Ok(head) => head,
                    Err(error) => return error,
                };
                let Ok((head, _)) = Head::decode(&head) else {
                    return SourceError("the answer to journal information is damaged".into());
                };
                // It begins behind what the source has given numbers; a crash there may take back what is not durable yet.
                if head.first > head.newest_durable.saturating_add(1) {
                    self.env.clock.sleep(OFFER_AGAIN).await;
                    continue;
                }
                // The owner opens it, when its volumes are open.
                self.runtime().journal_begins.insert(number, UpdateNumber::new(head.first));
                self.wake();
                continue;
            }
            changed.await;
        }
    }
}

/// The way over which a group is read.
#[derive(Clone, Copy)]
struct Over<'a> {
    link: &'a LinkName,
    session: &'a PeerSession,
    lanes: &'a PeerLink,
    whose: Whose,
}

/// Whether the group may be read over this link instead of that to its source.
fn reads_there(group: &GroupRecord, link: &LinkName) -> bool {
    let other = group.other_source.as_ref();
    group.is_started
        && group.state == GroupState::Normal
        && other.is_some_and(|other| other.link == *link && other.remote.is_some())
}

/// Whether sessions of the one serve the other: what else there is to choose counts without a new session.
fn is_same_way(a: &LinkRecord, b: &LinkRecord) -> bool {
    let connections = a.options.connections == b.options.connections;
    connections && (a.array, &a.portals, &a.secret) == (b.array, &b.portals, &b.secret)
}

/// Whether the array behind this link is the group's source.
fn comes_over(group: &GroupRecord, link: &LinkName) -> bool {
    !is_read_no_further(group)
        && matches!(&group.role, GroupRole::Auxiliary { link: over, remote: Some(_), .. } if over == link)
}

/// Whether nothing more of what the source has counts here: that was overtaken, or what is here is being made the new primary's.
pub(super) fn is_read_no_further(group: &GroupRecord) -> bool {
    matches!(group.takeover, Some(Takeover::Moving(_) | Takeover::Restoring))
}

/// Whether the group is copied over this link.
fn follows(group: &GroupRecord, link: &LinkName) -> bool {
    comes_over(group, link) && group.is_started && group.state == GroupState::Normal
}

fn has_work(tables: &Tables, link: &LinkName) -> bool {
    tables.forwards_to(link).next().is_some()
        || tables.groups.iter().any(|group| follows(group, link) || reads_there(group, link))
}

async fn wait(sleep: Option<crate::clock::BoxFuture<'static, ()>>) {
    match sleep {
        Some(sleep) => sleep.await,
        None => std::future::pending().await,
    }
}

/// First pause before a session is opened again.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause: a link that is back is used again within it.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// After so long a refused designation is offered again.
const OFFER_AGAIN: Duration = Duration::from_secs(1);
/// Refusals that are kept for the operators who wait for them.
const REFUSED_KEPT: usize = 64;
