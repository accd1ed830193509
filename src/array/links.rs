//! Links: one task each, that keeps a session to the other array as long as there is something to do over it.
//!
//! Over the session go the designations on their way there (figure 10), and the journal reads of every group that is
//! copied from there. After any error the session is dropped and opened again after a pause that grows to
//! [`PAUSE_MAX`]. A link that is cut changes no state of a pair.

use super::Array;
use super::peer_link::PeerLink;
use super::peer_session::PeerSession;
use crate::channel::initiator::Connector;
use crate::copy::answer::Head;
use crate::copy::fetch::{ReadPlan, Reading};
use crate::copy::group::Group;
use crate::copy::source::SourceError;
use crate::shell::view::MessageView;
use crate::volume::designation::{Outcome, Refusal};
use crate::volume::group::{GroupRecord, GroupRole, GroupState};
use crate::volume::name::{GroupNumber, LinkName};
use crate::volume::record::{ForwardRecord, LinkRecord, Who};
use crate::volume::table::Tables;
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
        let connector = Connector {
            network: self.env.network.clone(),
            clock: self.env.clock.clone(),
            entropy: self.env.entropy.clone(),
            initiator_name: super::peer_session::peer_name(self.config.array.name.as_str()),
        };
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
                    let lanes = PeerLink::new(session.clone(), &link, self.env.clock.clone());
                    tokio::select! {
                        biased;
                        error = self.use_session(&link, &session, &lanes) => error,
                        () = lanes.keep_lanes(&connector, (own.0, &own.1), &link, &self.pool) => {
                            SourceError("the link was given up".into())
                        }
                    }
                }
                Err(error) => error,
            };
            tracing::info!(link = %name, %error, "link down");
            self.note_link(&name, false, Some(error.to_string()));
            self.env.clock.sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
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
            if self.store.read(|tables| tables.links.get(&link.name) != Some(link)) {
                return SourceError("the link is another one now".into());
            }
            let refused = match self.forward(link, session).await {
                Ok(refused) => refused,
                Err(error) => return error,
            };
            // What was refused is offered again after a while: the other array may not be ready yet.
            let offer_again = refused.then(|| self.env.clock.sleep(OFFER_AGAIN));
            for (number, source, plan) in self.groups_to_follow(link) {
                if following.insert(number) {
                    followers.push(self.follow_group(number, source, plan, session, lanes));
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
            if let Err(refusal) = &answer {
                tracing::info!(link = %link.name, designation = %forward.designation, %refusal, "designation refused");
                refused = true;
            }
            let recorded = match &answer {
                Err(refusal) if forward.is_once => self.record_refusal(forward, refusal),
                _ => self.store.checkpoint(|tables| tables.delivered(forward.sequence, &answer)),
            };
            recorded.map_err(|error| SourceError(error.to_string()))?;
            if answer.is_ok() {
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
        self.changed().notify_waiters();
        recorded
    }

    fn groups_to_follow(&self, link: &LinkRecord) -> Vec<(u32, u32, ReadPlan)> {
        let tables = self.store.tables();
        let followed = tables.groups.iter().filter(|group| follows(group, &link.name));
        followed
            .map(|group| {
                let own =
                    tables.schedules.get(&(link.name.clone(), group.name.clone())).map(|row| row.schedule);
                let schedule = own.unwrap_or(link.schedule);
                let source = match &group.role {
                    GroupRole::Auxiliary { remote, .. } => remote.map_or(0, |remote| remote.0),
                    GroupRole::Primary => 0,
                };
                (group.number.0, source, ReadPlan { timing: schedule.read, size: schedule.read_size })
            })
            .collect()
    }

    /// Records how reading goes, as it changes; never ends.
    async fn record_reading(&self, group: &Group) {
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
    async fn follow_group(
        self: &Arc<Self>,
        number: u32,
        source: u32,
        plan: ReadPlan,
        session: &PeerSession,
        lanes: &PeerLink,
    ) -> SourceError {
        loop {
            let changed = self.changed().notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let group = self.runtime().groups.get(&number).cloned();
            if let Some(group) = group {
                let error = tokio::select! {
                    biased;
                    error = group.follow(lanes, source, plan) => error,
                    () = self.record_reading(&group) => continue,
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
                // The owner opens it, when its volumes are open.
                self.runtime().journal_begins.insert(number, UpdateNumber::new(head.first));
                self.wake();
                continue;
            }
            changed.await;
        }
    }
}

/// Whether the group is copied over this link.
fn follows(group: &GroupRecord, link: &LinkName) -> bool {
    let over =
        matches!(&group.role, GroupRole::Auxiliary { link: over, remote: Some(_), .. } if over == link);
    over && group.is_started && group.state == GroupState::Normal
}

fn has_work(tables: &Tables, link: &LinkName) -> bool {
    tables.forwards_to(link).next().is_some() || tables.groups.iter().any(|group| follows(group, link))
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
