//! A takeover's first step: the old primary is spoken to, and what it has is got (promise O3; decision 19). It may not answer, so a task of its own does
//! it; the steps behind it are those of `takeover.rs`.

use super::Array;
use super::leave::Leave;
use super::peer_session::PeerSession;
use crate::clock::MonotonicNs;
use crate::copy::answer::Head;
use crate::copy::source::SourceError;
use crate::volume::designation::{Designation, Outcome, Refusal};
use crate::volume::group::{GroupRecord, GroupRole};
use crate::volume::record::Who;
use crate::volume::takeover::RemoteTakeover;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

impl Array {
    /// Speaks to the primary, once at a time. What comes of it is of this attempt only: the primary may have been taken back since, and the next attempt
    /// speaks to it anew, when this one has ended.
    pub(super) fn reach_primary(self: &Arc<Self>, record: &GroupRecord) {
        let number = record.number;
        if !self.runtime().reaching.insert(number.0) {
            return;
        }
        self.runtime().leaves.remove(&number.0); // Whatever an earlier attempt found.
        let (array, record) = (Arc::downgrade(self), record.clone());
        self.spawn(async move {
            let Some(array) = array.upgrade() else { return };
            tokio::select! {
                biased;
                () = array.attempt_ends(&record) => {}
                reached = array.stop_primary(&record) => array.primary_answered(&record, reached).await,
            }
            array.runtime().reaching.remove(&number.0);
            array.wake();
        });
    }

    /// Resolves when the attempt to take over is none any more.
    async fn attempt_ends(&self, record: &GroupRecord) {
        while self.store.read(|tables| tables.is_reaching(record.number, record.attempts)) {
            self.env.clock.sleep(COLLECT_LOOK).await;
        }
    }

    async fn primary_answered(&self, record: &GroupRecord, reached: Result<Reached, SourceError>) {
        let (number, name) = (record.number, &record.name);
        if matches!(reached, Ok(Reached::Collected | Reached::Short { .. })) {
            let mut runtime = self.runtime();
            // Under the lock: the next attempt takes away what it finds there, when the store has it.
            if self.store.read(|tables| tables.is_reaching(number, record.attempts)) {
                runtime.leaves.insert(number.0, Leave::GivenUp);
            }
        }
        let drained = match &reached {
            Ok(Reached::Collected | Reached::Refused(_)) => None,
            Ok(Reached::Short { .. }) | Err(_) => self.drain_relays(record).await,
        };
        let (what, goes_on) = match reached {
            Ok(Reached::Collected) => {
                (format!("group {name}: its primary takes no writes any more, and all it had is here"), true)
            }
            Ok(Reached::Short { wanted, here }) => {
                (format!("group {name}: its primary is at update {wanted}, only {here} came in time"), true)
            }
            Ok(Reached::Refused(refusal)) => {
                (format!("group {name}: takeover given up, its primary refuses: {refusal}"), false)
            }
            Err(error) => (format!("group {name}: its primary is not reached: {error}"), true),
        };
        let what = drained.map_or(what.clone(), |drained| format!("{what}; {drained}"));
        if !self.store.read(|tables| tables.is_reaching(number, record.attempts)) {
            tracing::info!("{what}: too late, that attempt was given up");
            return;
        }
        tracing::info!("{what}");
        let recorded = self.store.change(&Who::Array, what, |tables| {
            match tables.is_reaching(number, record.attempts) {
                true if goes_on => tables.primary_reached(number),
                true => tables.takeover_given_up(number, self.new_identity()),
                false => {}
            }
            Ok(())
        });
        if let Err(error) = recorded {
            tracing::error!(group = %name, %error, "a takeover cannot be recorded");
        }
    }

    /// Asks the primary to take no writes any more, and waits until everything that it had is here; and until no other array can
    /// call itself synchronised with it any more: before that no host is answered here (invariant 10).
    async fn stop_primary(&self, record: &GroupRecord) -> Result<Reached, SourceError> {
        let lease_ends = AtomicU64::new(0);
        let reached = self.shut_and_collect(record, &lease_ends).await;
        let left = MonotonicNs(lease_ends.load(Ordering::Relaxed)).since(self.env.clock.now());
        self.env.clock.sleep(left).await;
        reached
    }

    async fn shut_and_collect(
        &self,
        record: &GroupRecord,
        lease_ends: &AtomicU64,
    ) -> Result<Reached, SourceError> {
        let GroupRole::Auxiliary { link, remote: Some(remote), .. } = &record.role else {
            return Err(SourceError("it is not known".into()));
        };
        let link = self.store.read(|tables| tables.links.get(link).cloned());
        let link = link.ok_or_else(|| SourceError("there is no link to it".into()))?;
        let connector = self.connector(&link.name);
        let own = (self.config.array.number.0, self.config.array.name.to_string());
        let told = RemoteTakeover {
            group: record.name.clone(),
            generations: record.generations.clone(),
            knows: record.largest_counter(),
            is_complete: false,
            attempt: record.attempts,
        };
        let designation = serde_json::to_vec(&Designation::RemoteTakeover(told))
            .map_err(|error| SourceError(error.to_string()))?;
        let id = self.new_identity().0.to_be_bytes();
        let speaking = async {
            let session = PeerSession::open(&connector, (own.0, &own.1), &link, &self.pool, 0).await?;
            let answer = session.designate(id, &designation).await?;
            let answer: Result<Outcome, Refusal> = serde_json::from_slice(&answer)
                .map_err(|error| SourceError(format!("its answer: {error}")))?;
            match answer {
                Ok(Outcome::Shut { lease_ms }) => {
                    let lease = Duration::from_millis(u64::from(lease_ms)).min(COLLECT_LIMIT);
                    let lease_ns = u64::try_from(lease.as_nanos()).unwrap_or(u64::MAX);
                    let ends = self.env.clock.now().0.saturating_add(lease_ns);
                    lease_ends.store(ends, Ordering::Relaxed);
                }
                Ok(_) => {}
                // It cannot keep what it says: it is as if it had not answered.
                Err(Refusal::Store(error)) => return Err(SourceError(error)),
                Err(refusal) => return Ok(Err(refusal)),
            }
            let head = session.journal_information(remote.0).await?;
            let head = Head::decode(&head).map_err(|error| SourceError(error.to_string()))?.0;
            Ok(Ok(head.newest_given))
        };
        let wanted = tokio::select! {
            biased;
            answer = speaking => answer?,
            () = self.env.clock.sleep(REACH_LIMIT) => {
                return Err(SourceError("it does not answer in time".into()));
            }
        };
        let wanted = match wanted {
            Ok(wanted) => wanted,
            Err(refusal) => return Ok(Reached::Refused(refusal)),
        };
        let here = || self.open_group_of(record.number).map_or(0, |group| group.status().durable);
        Ok(self.collect(wanted, here).await)
    }

    /// Waits until everything that the primary had is here.
    async fn collect(&self, wanted: u64, here: impl Fn() -> u64) -> Reached {
        let begun = self.env.clock.now();
        while here() < wanted {
            if self.env.clock.now().since(begun) > COLLECT_LIMIT {
                return Reached::Short { wanted, here: here() };
            }
            self.env.clock.sleep(COLLECT_LOOK).await;
        }
        Reached::Collected
    }
}

/// What came of speaking to the primary.
enum Reached {
    /// It is shut, and everything that it had is here.
    Collected,
    /// It is shut, and not everything came in time.
    Short { wanted: u64, here: u64 },
    /// It is at work, and says no.
    Refused(Refusal),
}

/// How long the old primary has for its answer.
const REACH_LIMIT: Duration = Duration::from_secs(3);
/// How long is waited for what it still has.
const COLLECT_LIMIT: Duration = Duration::from_secs(20);
/// How often is looked whether that is here.
const COLLECT_LOOK: Duration = Duration::from_millis(20);
