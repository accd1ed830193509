//! What has happened: every change of a state, with its reason, for whoever lists or follows events.
//!
//! One task looks at the states after each change of the array and notes what differs from its last look. So it can
//! stand still for nobody: there is no call to it from anywhere, and what changes twice between two looks is noted as
//! it ended. The newest [`KEPT`] events are kept in memory; a reader that is slower than that is told how many it has
//! missed. The audit log is what keeps changes for good.

use super::Array;
use crate::copy::fetch::Reading;
use crate::shell::view::EventView;
use crate::volume::table::Tables;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::watch;

/// Events of one array.
pub(super) struct Events {
    ring: Mutex<VecDeque<EventView>>,
    /// Number of the newest one.
    newest: watch::Sender<u64>,
}

impl Default for Events {
    fn default() -> Self {
        Self { ring: Mutex::default(), newest: watch::Sender::new(0) }
    }
}

impl Events {
    fn lock(&self) -> MutexGuard<'_, VecDeque<EventView>> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes an event; its number is given here.
    pub(super) fn note(&self, event: EventView) {
        let mut ring = self.lock();
        let number = self.newest.borrow().saturating_add(1);
        ring.push_back(EventView { number, ..event });
        while ring.len() > KEPT {
            ring.pop_front();
        }
        drop(ring);
        self.newest.send_replace(number);
    }

    /// Those behind the number `after`, oldest first, the newest `last` of them.
    pub(super) fn behind(&self, after: u64, last: usize) -> Vec<EventView> {
        let ring = self.lock();
        let from = ring.partition_point(|event| event.number <= after);
        let from = from.max(ring.len().saturating_sub(last));
        ring.iter().skip(from).cloned().collect()
    }

    /// Resolves when there is one behind the number `after`.
    pub(super) async fn one_behind(&self, after: u64) {
        // The sender lives as long as this.
        let _ = self.newest.subscribe().wait_for(|newest| *newest > after).await;
    }
}

/// States by kind and name: the state, and why.
pub(super) type States = BTreeMap<(&'static str, String), (String, Option<String>)>;

impl Array {
    /// Notes events for as long as the array lives.
    pub(super) async fn watch_events(array: Weak<Self>) {
        let mut known: Option<States> = None;
        loop {
            let Some(array) = array.upgrade() else { return };
            let changed = array.changed().notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let now = array.states(&array.store.tables());
            match &known {
                Some(before) => array.note_differences(before, &now),
                None => array.note_array("started", None),
            }
            known = Some(now);
            tokio::select! {
                biased;
                () = &mut changed => {}
                () = array.env.clock.sleep(LOOK_EVERY) => {}
            }
            // A storm of changes costs no more than so many looks.
            array.env.clock.sleep(PAUSE).await;
        }
    }

    /// Notes something about the array itself.
    pub(super) fn note_array(&self, state: &str, reason: Option<String>) {
        self.events.note(EventView {
            time_unix_ms: self.env.clock.wall().0 / 1_000_000,
            kind: "array".to_owned(),
            name: self.name().to_owned(),
            state: state.to_owned(),
            reason,
            ..EventView::default()
        });
    }

    fn note_differences(&self, before: &States, now: &States) {
        let time_unix_ms = self.env.clock.wall().0 / 1_000_000;
        let note =
            |(kind, name): &(&str, String), was: Option<&String>, state: &str, reason: Option<String>| {
                self.events.note(EventView {
                    number: 0,
                    time_unix_ms,
                    kind: (*kind).to_owned(),
                    name: name.clone(),
                    was: was.cloned(),
                    state: state.to_owned(),
                    reason,
                });
            };
        for (key, (state, reason)) in now {
            match before.get(key) {
                Some((was, why)) if was == state && why == reason => {}
                was => note(key, was.map(|(was, _)| was), state, reason.clone()),
            }
        }
        for (key, (was, _)) in before.iter().filter(|(key, _)| !now.contains_key(*key)) {
            note(key, Some(was), "deleted", None);
        }
    }

    fn states(&self, tables: &Tables) -> States {
        let mut states = States::new();
        let runtime = self.runtime();
        for link in tables.links.iter() {
            let status = runtime.links.get(link.name.as_str());
            let state = match status {
                Some(status) if status.connected => "up",
                Some(status) if status.error.is_some() => "down",
                Some(_) | None => "idle",
            };
            let reason = status.and_then(|status| status.error.clone());
            states.insert(("link", link.name.to_string()), (state.to_owned(), reason));
        }
        for record in tables.groups.iter() {
            let name = record.name.to_string();
            let trouble = runtime.group_trouble.get(&record.number.0).cloned();
            let state = if trouble.is_some() { "abnormal".to_owned() } else { record.state.to_string() };
            states.insert(("group", name.clone()), (state, trouble.or_else(|| record.reason.clone())));
            if let Some(takeover) = &record.takeover {
                states.insert(("takeover", name.clone()), (takeover.to_string(), takeover.told()));
            }
            for rival in &record.rivals {
                let reason = format!("from update {} on they are different", rival.first);
                let state = (format!("{} is a primary too", rival.link), Some(reason));
                states.insert(("rival", format!("{name} at {}", rival.link)), state);
            }
            let Some(group) = runtime.groups.get(&record.number.0) else { continue };
            let (state, reason) = match group.failure() {
                Some(reason) => ("failed", Some(reason)),
                None => ("normal", None),
            };
            states.insert(("journal", name.clone()), (state.to_owned(), reason));
            let (state, reason) = match group.reading() {
                Reading::Waiting => ("waiting", None),
                Reading::Going => ("reading", None),
                Reading::NoRoom => ("no-room", None),
                Reading::Retrying(reason) => ("retrying", Some(reason)),
            };
            states.insert(("reading", name), (state.to_owned(), reason));
        }
        drop(runtime);
        for pair in tables.pairs.iter() {
            states.insert(("pair", pair.name.to_string()), (pair.state.to_string(), pair.reason.clone()));
        }
        self.drill_states(tables, &mut states);
        states
    }

    /// Begins to note events.
    pub(super) fn start_events(self: &Arc<Self>) {
        self.spawn(Self::watch_events(Arc::downgrade(self)));
    }
}

/// Events that are kept.
const KEPT: usize = 4_096;
/// Without a word that something has changed, states are looked at so often: a journal without room says none.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: u64) -> EventView {
        EventView { name: name.to_string(), ..EventView::default() }
    }

    #[tokio::test]
    async fn the_newest_are_kept_in_order_and_those_behind_a_number_are_found() {
        let events = Events::default();
        assert!(events.behind(0, 10).is_empty());
        (1..=KEPT as u64 + 5).for_each(|name| events.note(event(name)));
        let all = events.behind(0, usize::MAX);
        assert_eq!((all.len(), all[0].number), (KEPT, 6));
        assert!(all.iter().all(|event| event.name == event.number.to_string()));
        let newest = KEPT as u64 + 5;
        let numbers = |after, last| -> Vec<u64> {
            events.behind(after, last).iter().map(|event| event.number).collect()
        };
        assert_eq!(numbers(newest - 2, 10), [newest - 1, newest]);
        assert_eq!(numbers(0, 1), [newest]);
        assert!(numbers(newest, 10).is_empty());
        events.one_behind(newest - 1).await;
        let next = events.one_behind(newest);
        tokio::pin!(next);
        assert!(futures_util::poll!(next.as_mut()).is_pending());
        events.note(event(0));
        next.await;
    }
}
