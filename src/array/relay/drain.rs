//! The first array is gone: what its relays still hold of a group comes here before this array takes it over (promise X5;
//! `004_…`, claims 5 and 15).

use super::{RelayStatus, relays_of_copy};
use crate::array::Array;
use crate::clock::MonotonicNs;
use crate::volume::group::GroupRecord;
use crate::volume::name::LinkName;
use crate::volume::pair::PairState;
use std::time::Duration;

impl Array {
    /// Reads the relays of a group to their end, one after the other, and waits until that is durable here. Gives what
    /// came of it, in words; none if there is no relay. No relay is waited for longer than [`DRAIN_LIMIT`], and one that is
    /// not reached no longer than [`REACH_LIMIT`].
    ///
    /// The end is where nothing followed when it was looked at after this was called: behind the last control information,
    /// too.
    pub(in crate::array) async fn drain_relays(&self, record: &GroupRecord) -> Option<String> {
        let tables = self.store.tables();
        let relays: Vec<LinkName> = relays_of_copy(&tables, record).map(|relay| relay.name.clone()).collect();
        if relays.is_empty() {
            return None;
        }
        if tables.followed_pairs(record.number).any(|pair| pair.state != PairState::Normal) {
            return Some("not all pairs are normal, so what its relay holds is not used".to_owned());
        }
        let mut said = Vec::new();
        for relay in &relays {
            // The other ones wait for their turn: each may hold what the others do not.
            for one in &relays {
                let avoided = (one != relay).then_some(MonotonicNs(u64::MAX));
                self.note_relay(one, |status| (status.is_drained, status.avoided) = (one == relay, avoided));
            }
            said.push(tokio::select! {
                biased;
                came = self.drained(record, relay) => came,
                () = self.env.clock.sleep(DRAIN_LIMIT) => format!("relay {relay} could not be read to its end in time"),
                () = self.is_not_reached(relay) => format!("relay {relay} is not reached"),
            });
        }
        for relay in &relays {
            self.note_relay(relay, |status| (status.is_drained, status.avoided) = (false, None));
        }
        Some(said.join("; "))
    }

    async fn drained(&self, record: &GroupRecord, relay: &LinkName) -> String {
        let begun = self.env.clock.now();
        loop {
            let group = self.runtime().groups.get(&record.number.0).cloned();
            let durable = group.map(|group| group.durable_here());
            let status: RelayStatus = self.runtime().relays.get(relay.as_str()).cloned().unwrap_or_default();
            if let (Some((at, next)), Some(durable)) = (status.read_up, durable)
                && at >= begun
                && durable >= next.previous()
            {
                return format!(
                    "everything that relay {relay} holds is here, up to update {}",
                    next.previous()
                );
            }
            if status.avoided.is_some() {
                return format!("relay {relay}: {}", status.trouble.unwrap_or_default());
            }
            self.env.clock.sleep(LOOK).await;
        }
    }

    /// Resolves when the relay has not been reached for a while.
    async fn is_not_reached(&self, relay: &LinkName) {
        let mut since = self.env.clock.now();
        loop {
            let now = self.env.clock.now();
            if self.runtime().relays.get(relay.as_str()).is_some_and(|status| status.connected) {
                since = now;
            } else if now.since(since) >= REACH_LIMIT {
                return;
            }
            self.env.clock.sleep(LOOK).await;
        }
    }
}

/// How long a relay may take that is read to its end.
const DRAIN_LIMIT: Duration = Duration::from_secs(20);
/// How long one is waited for that is not reached.
const REACH_LIMIT: Duration = Duration::from_secs(3);
/// How often is looked how far it has come.
const LOOK: Duration = Duration::from_millis(20);
