//! The first array is gone: what its relays still hold of a group comes here before this array takes it over (promise X5;
//! `004_…`, claims 5 and 15).

use super::{RESTS, RelayStatus, relays_of_copy};
use crate::array::Array;
use crate::array::groups::schedule;
use crate::clock::MonotonicNs;
use crate::volume::group::GroupRecord;
use crate::volume::kind::Schedule;
use crate::volume::name::LinkName;
use crate::volume::pair::PairState;
use crate::volume::table::Tables;
use crate::volume::timing::{ReadSize, ReadTiming, RestoreTiming};
use futures_util::future::join_all;
use holdfast_journal::{Incarnation, UpdateNumber};
use std::time::Duration;

impl Array {
    /// Reads the relays of a group to their end, one after the other, but those with parts of the journals together, and waits until that is durable here. Gives what
    /// came of it, in words; none if there is no relay. No relay is waited for longer than [`DRAIN_LIMIT`] in which nothing
    /// came, nor than [`READ_LIMIT`] in all, should a first array that lives go on writing to it; one that is not reached,
    /// no longer than [`REACH_LIMIT`] and a whole attempt, of each of its portals, that began meanwhile.
    ///
    /// The end is where nothing followed when it was looked at after this was called: behind the last control information,
    /// too. A first array that lives and writes on has no such end: then it is what that had given numbers to by its own word, said after this was called.
    pub(in crate::array) async fn drain_relays(&self, record: &GroupRecord) -> Option<String> {
        let tables = self.store.tables();
        let relays: Vec<LinkName> = relays_of_copy(&tables, record).map(|relay| relay.name.clone()).collect();
        if relays.is_empty() {
            return None;
        }
        if tables.followed_pairs(record.number).any(|pair| pair.state != PairState::Normal) {
            return Some("not all pairs are normal, so what its relay holds is not used".to_owned());
        }
        self.set_draining(&tables, record, true);
        let mut said = Vec::new();
        let (sets, given_up) = self.drained_together(&relays).await;
        for set in sets.into_iter().filter(|set| !set.is_empty()) {
            // The other ones wait for their turn: each may hold what the others do not.
            for one in &relays {
                let avoided = (!set.contains(one)).then_some(MonotonicNs(u64::MAX));
                self.note_relay(one, |status| {
                    (status.is_drained, status.avoided) = (avoided.is_none(), avoided);
                });
            }
            let names = names(&set);
            if set.iter().all(|relay| given_up.contains(relay) && !self.is_connected(relay)) {
                said.push(format!("{names} is not reached"));
                continue;
            }
            let are_not_reached = join_all(set.iter().map(|relay| self.is_not_reached(relay)));
            said.push(tokio::select! {
                biased;
                came = self.drained(record, &set) => came,
                _ = are_not_reached => format!("{names} is not reached"),
                () = self.env.clock.sleep(READ_LIMIT) => format!("{names} could not be read to its end in time"),
            });
        }
        for relay in &relays {
            self.note_relay(relay, |status| (status.is_drained, status.avoided) = (false, None));
        }
        self.set_draining(&tables, record, false);
        Some(said.join("; "))
    }

    /// Which relays are read to their ends together: those that have parts of the journals, if they are reached; each other one
    /// alone. And which ones are not reached.
    async fn drained_together(&self, relays: &[LinkName]) -> (Vec<Vec<LinkName>>, Vec<LinkName>) {
        if relays.len() == 1 {
            return (vec![relays.to_vec()], Vec::new());
        }
        // What a relay has is known when it has been reached.
        let given_up = join_all(relays.iter().map(|relay| async move {
            tokio::select! {
                biased;
                () = self.is_reached(relay) => None,
                () = self.is_not_reached(relay) => Some(relay.clone()),
            }
        }))
        .await;
        let runtime = self.runtime();
        let is_part =
            |relay: &&LinkName| runtime.relays.get(relay.as_str()).is_some_and(|status| status.is_part);
        let (parts, others): (Vec<&LinkName>, Vec<&LinkName>) = relays.iter().partition(is_part);
        let parts = Some(parts.into_iter().cloned().collect::<Vec<_>>()).filter(|parts| !parts.is_empty());
        let sets = parts.into_iter().chain(others.into_iter().map(|relay| vec![relay.clone()])).collect();
        (sets, given_up.into_iter().flatten().collect())
    }

    fn is_connected(&self, relay: &LinkName) -> bool {
        self.runtime().relays.get(relay.as_str()).is_some_and(|status| status.connected)
    }

    /// Resolves when the relay is reached.
    async fn is_reached(&self, relay: &LinkName) {
        while !self.is_connected(relay) {
            self.env.clock.sleep(LOOK).await;
        }
    }

    /// While relays are drained what comes is read and restored at once, whatever the operator chose for other times.
    fn set_draining(&self, tables: &Tables, record: &GroupRecord, is_draining: bool) {
        let group = {
            let mut runtime = self.runtime();
            match is_draining {
                true => runtime.draining.insert(record.number.0),
                false => runtime.draining.remove(&record.number.0),
            };
            runtime.groups.get(&record.number.0).cloned()
        };
        if let Some(group) = group {
            group.set_schedule(self.schedule_now(tables, record));
        }
    }

    /// When this array reads and restores the group at this moment.
    pub(in crate::array) fn schedule_now(&self, tables: &Tables, record: &GroupRecord) -> Schedule {
        let chosen = schedule(tables, record);
        if !self.runtime().draining.contains(&record.number.0) {
            return chosen;
        }
        Schedule {
            read: ReadTiming::Immediate,
            read_size: ReadSize::Group,
            restore: RestoreTiming::Immediate,
            restore_delay: Duration::ZERO,
        }
    }

    async fn drained(&self, record: &GroupRecord, set: &[LinkName]) -> String {
        let names = names(set);
        let begun = self.env.clock.now();
        let (mut came, mut since) = (None, begun);
        let mut words: Vec<Word> = set.iter().map(|_| Word::default()).collect();
        loop {
            let now = self.env.clock.now();
            let group = self.runtime().groups.get(&record.number.0).cloned();
            let durable = group.map(|group| group.durable_here());
            if durable > came {
                (came, since) = (durable, now);
            }
            let silent = now.since(since);
            let said = set.iter().zip(&mut words).filter_map(|(relay, word)| {
                let watch = self.runtime().watches.get(relay.as_str()).cloned();
                let known = watch?.known().ok()?;
                let here = (known.control.incarnation, known.control.sequence);
                word.hear(here, known.newest_given, known.looked >= begun)
            });
            if let Some(given) = said.max().filter(|given| durable.is_some_and(|durable| durable >= *given)) {
                return format!(
                    "{names}: its first array lives and writes on; everything is here that it had numbered by then, up to update {given}"
                );
            }
            for relay in set {
                let status: RelayStatus =
                    self.runtime().relays.get(relay.as_str()).cloned().unwrap_or_default();
                if let (Some((at, next, relays)), Some(durable)) = (status.read_up, durable)
                    && at >= begun
                    && durable >= next.previous()
                    && (relays >= set.len() || silent >= RETRY_FOR)
                {
                    let reached =
                        if relays >= set.len() { "holds" } else { "holds, as far as it is reached," };
                    return format!(
                        "everything that {names} {reached} is here, up to update {}",
                        next.previous()
                    );
                }
                if status.avoided.is_some() {
                    if silent >= RETRY_FOR {
                        return format!("{names}: {}", status.trouble.unwrap_or_default());
                    }
                    // What was wrong may be over in a moment: a target that is busy, a group that is opened anew.
                    self.env.clock.sleep(AGAIN).await;
                    self.note_relay(relay, |status| status.avoided = None);
                }
            }
            if silent >= DRAIN_LIMIT {
                return format!("{names} could not be read to its end in time");
            }
            self.env.clock.sleep(LOOK).await;
        }
    }

    /// Resolves when the relay has not been reached for a while, and in an attempt that began in it. A silent portal takes longer
    /// than the while, and the next one may answer.
    async fn is_not_reached(&self, relay: &LinkName) {
        let mut since = self.env.clock.now();
        loop {
            let now = self.env.clock.now();
            let status: RelayStatus = self.runtime().relays.get(relay.as_str()).cloned().unwrap_or_default();
            let rests = status.error.is_some_and(|error| error.starts_with(RESTS));
            let is_tried = rests || status.tried.is_some_and(|begun| begun >= since);
            let waited = now.since(since);
            if status.connected {
                since = now;
            } else if (waited >= REACH_LIMIT && is_tried) || waited >= DRAIN_LIMIT {
                return;
            }
            self.env.clock.sleep(LOOK).await;
        }
    }
}

/// What a first array that lives says while its relay is read to its end.
#[derive(Default)]
struct Word {
    /// The control information that was seen last: chain and number.
    seen: Option<(Incarnation, u64)>,
    /// How often another one was.
    times: u8,
    given: Option<UpdateNumber>,
}

impl Word {
    /// The newest number that had been given when this array began to look, at least; none as long as that is not said. What was found by a look
    /// that was under way then may have been read before: more may have landed since, so it is no change that was seen.
    fn hear(&mut self, here: (Incarnation, u64), given: u64, is_of_now: bool) -> Option<UpdateNumber> {
        let is_another = self.seen.replace(here).is_some_and(|seen| seen != here);
        if self.given.is_none() && is_another && is_of_now {
            self.times += 1;
            self.given = (self.times == WORDS).then(|| UpdateNumber::new(given));
        }
        self.given
    }
}

/// Relays that are read together, in words.
fn names(set: &[LinkName]) -> String {
    let names: Vec<String> = set.iter().map(|relay| format!("relay {relay}")).collect();
    names.join(" with ")
}

/// How long nothing may come from a relay that is read to its end.
const DRAIN_LIMIT: Duration = Duration::from_secs(20);
/// How long one is tried again that cannot be read, without anything coming; longer than a batch that was being written when
/// its array died is looked at.
const RETRY_FOR: Duration = Duration::from_secs(6);
/// The first change of control information that is seen may have landed before the looking began. The second landed behind that, and was made up before, perhaps;
/// the third was made up when the second had landed.
const WORDS: u8 = 3;
/// The pause before that.
const AGAIN: Duration = Duration::from_millis(200);
/// How long one is waited for that is not reached, at least.
const REACH_LIMIT: Duration = Duration::from_secs(3);
/// How long one is read in all: what the largest backlog takes.
const READ_LIMIT: Duration = Duration::from_secs(600);
/// How often is looked how far it has come.
const LOOK: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_made_up_behind_the_beginning_says_how_far_a_living_array_was() {
        let chain = |chain, sequence| (Incarnation::new(chain), sequence);
        let mut word = Word::default();
        // What was known, twice; one that landed before; one that was made up before that landed.
        for (sequence, given) in [(7, 10), (7, 10), (8, 11), (9, 12), (9, 12)] {
            assert_eq!(word.hear(chain(1, sequence), given, true), None);
        }
        assert_eq!(word.hear(chain(1, 10), 15, true), Some(UpdateNumber::new(15)));
        assert_eq!(
            word.hear(chain(2, 11), 20, true),
            Some(UpdateNumber::new(15)),
            "what comes later is not waited for"
        );
        let mut dead = Word::default();
        assert!(
            (0..1_000).all(|_| dead.hear(chain(1, 7), 10, true).is_none()),
            "one that says nothing is read to its end"
        );
    }

    /// A look had read 8 when the beginning came, and is over behind it; 9 lay there by then.
    #[test]
    fn what_a_look_brings_that_was_under_way_at_the_beginning_is_no_word() {
        let mut word = Word::default();
        let told = [(7, 10, false), (8, 11, false), (9, 12, true), (10, 13, true), (11, 14, true)];
        let heard = told.map(|(sequence, given, is_of_now)| {
            word.hear((Incarnation::new(1), sequence), given, is_of_now).map(UpdateNumber::get)
        });
        assert_eq!(heard, [None, None, None, None, Some(14)]);
    }
}
