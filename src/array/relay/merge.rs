//! Relays in place of the array that is read: one with all journals, or several of which each has a part, merged by the numbers of
//! updates (promises X2 and X7; `004_…`, claims 10 and 20; decision 21).
//!
//! # What it guarantees
//! * What is handed on begins with the update that is wanted, whichever relay it is on; generations are checked for each batch.
//! * Whoever reads, reads all relays with a part that this array reaches. What none of them has is waited for while it may still be
//!   written; then reading ends, and goes on directly or when the first array has given it to another relay.
//! * While a relay keeps another chain beside the one that is written (`parts.rs`), that is read like one more relay.
//! * The end is there when nothing follows on any of them; with how many were looked at, because another one may be away.

use super::lun::{Due, RelayError, trouble};
use super::reader::{Cursor, Found, Reader, STUCK_FOR, WRITTEN_WITHIN, Which, gap};
use super::watch::Watch;
use crate::clock::{BoxFuture, MonotonicNs};
use crate::copy::answer::{Head, Outcome};
use crate::copy::readers::encode_generations;
use crate::copy::source::{Ask, Source, SourceError, Wanted};
use crate::copy::times::UNHEARD;
use crate::disk::slot::Slot;
use holdfast_journal::UpdateNumber;
use holdfast_journal::reader::Report;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// One relay in place of the array that is read, and the ones that have what it has not.
pub(super) struct RelaySource {
    /// The one over which the group is said to be read.
    own: Reader,
    state: tokio::sync::Mutex<Option<Reading>>,
    /// When a journal read may carry where this array is.
    tell: Mutex<Due>,
}

/// Where reading is.
struct Reading {
    wanted: UpdateNumber,
    /// By the names of relays and their chains.
    cursors: BTreeMap<(String, Which), (Reader, Cursor)>,
    /// Since when something is there, and not what is wanted.
    stuck_since: Option<MonotonicNs>,
}

impl Reading {
    fn new(wanted: UpdateNumber) -> Self {
        Self { wanted, cursors: BTreeMap::new(), stuck_since: None }
    }
}

/// What the relays have.
enum Merged {
    Answer(Vec<Slot>),
    /// What is there cannot be used yet; and why that may last, unless the one who reads that relay says when it has lasted too long.
    Stuck(Option<RelayError>),
    /// Nothing follows on any of so many relays.
    End(usize),
}

impl RelaySource {
    pub(super) fn new(own: Reader) -> Self {
        let tell = Mutex::new(Due::now(own.watch.clock(), TELL_EVERY));
        Self { own, state: tokio::sync::Mutex::default(), tell }
    }

    /// The relays that are read: this one, and those with the other parts.
    fn watches(&self) -> Vec<Arc<Watch>> {
        let own = &self.own.watch;
        let mut all = vec![own.clone()];
        if own.is_part() {
            let runtime = own.array.runtime();
            let others: Vec<Arc<Watch>> = runtime.watches.values().cloned().collect();
            drop(runtime);
            // One that its first array has not reached since another history began has nothing of that.
            let history = |watch: &Watch| watch.known().ok()?.generations.last().map(|newest| newest.counter);
            let since = history(own);
            let is_other = |watch: &Arc<Watch>| {
                let is_of_group = watch.id == own.id && watch.relay.name != own.relay.name;
                is_of_group && watch.is_part() && history(watch) >= since
            };
            all.extend(others.into_iter().filter(is_other));
        }
        all
    }

    async fn read(&self, ask: Ask) -> Result<Vec<Slot>, RelayError> {
        let watch = &self.own.watch;
        let is_due = self.tell.lock().unwrap_or_else(PoisonError::into_inner).take(watch.clock());
        if is_due {
            watch.tell(ask.position, self.own.group.newest_generation()).await?;
        }
        let mut kept = self.state.lock().await;
        if let Wanted::Again { first, .. } = ask.what {
            // What was lost on its way; what follows stays where it is.
            return match self.look(&mut Reading::new(first), ask.room_bytes).await? {
                Merged::Answer(answer) => Ok(answer),
                Merged::Stuck(_) | Merged::End(_) => {
                    Err(trouble("what was read before is no longer on the relay"))
                }
            };
        }
        let mut reading = match (ask.what, kept.take()) {
            (Wanted::Next, Some(reading)) => reading,
            (Wanted::From(number), _) => Reading::new(number),
            (Wanted::Next | Wanted::Retry | Wanted::Again { .. }, _) => {
                Reading::new(ask.position.acknowledged.next())
            }
        };
        let answer = self.next_within(&mut reading, &ask).await;
        *kept = Some(reading);
        answer
    }

    /// The next answer, or after a while one that says that there is none.
    async fn next_within(&self, reading: &mut Reading, ask: &Ask) -> Result<Vec<Slot>, RelayError> {
        let watch = &self.own.watch;
        let clock = watch.clock();
        let begun = clock.now();
        let mut pause = POLL_MIN;
        loop {
            let looked = clock.now();
            match self.look(reading, ask.room_bytes).await? {
                Merged::Answer(answer) => {
                    reading.stuck_since = None;
                    return Ok(answer);
                }
                Merged::Stuck(why) => {
                    let since = *reading.stuck_since.get_or_insert(looked);
                    // A takeover tries again by itself.
                    let patience = if self.own.is_drained() { STUCK_FOR } else { WRITTEN_WITHIN };
                    if let Some(why) = why.filter(|_| looked.since(since) >= patience) {
                        return Err(why);
                    }
                }
                Merged::End(relays) => {
                    reading.stuck_since = None;
                    let read_up = Some((looked, reading.wanted, relays));
                    watch.array.note_relay(&watch.relay.name, |status| status.read_up = read_up);
                }
            }
            let left = ask.wait.saturating_sub(clock.now().since(begun));
            if left.is_zero() {
                return self.own.nothing(Outcome::NoJournal, reading.wanted, 0).await;
            }
            clock.sleep(pause.min(left)).await;
            pause = (pause * 2).min(POLL_MAX);
        }
    }

    /// Looks at every relay for what is wanted.
    async fn look(&self, reading: &mut Reading, room_bytes: u32) -> Result<Merged, RelayError> {
        let watches = self.watches();
        let (mut stuck, mut is_waiting) = (None, false);
        let chains = watches.iter().flat_map(|watch| {
            let kept = watch.keeps_another().then_some(Which::Kept);
            [Some(Which::Written), kept].into_iter().flatten().map(move |which| (watch, which))
        });
        for (watch, which) in chains {
            let name = watch.relay.name.as_str();
            let key = (name.to_owned(), which);
            // One of an earlier session of that relay is of no use.
            let kept = reading.cursors.remove(&key).filter(|(reader, _)| Arc::ptr_eq(&reader.watch, watch));
            let reader = || Reader { watch: watch.clone(), group: self.own.group.clone(), which };
            let (reader, kept) =
                kept.map_or_else(|| (reader(), None), |(reader, cursor)| (reader, Some(cursor)));
            match Self::look_at(&reader, kept, reading.wanted, room_bytes).await {
                Ok((found, cursor)) => {
                    let (wanted, is_stuck) = (cursor.wanted, cursor.stuck_since.is_some());
                    reading.cursors.insert(key, (reader, cursor));
                    match found {
                        Some(Found::Answer(answer)) => {
                            reading.wanted = wanted;
                            return Ok(Merged::Answer(answer));
                        }
                        Some(Found::Early(there)) => stuck = Some(gap(there, reading.wanted)),
                        None if is_stuck => is_waiting = true,
                        None => {}
                    }
                }
                // The one that answers for all; the others may be away.
                Err(error) if Arc::ptr_eq(watch, &self.own.watch) && which == Which::Written => {
                    return Err(error);
                }
                Err(error) => stuck = Some(trouble(format!("relay {name}: {error}"))),
            }
        }
        Ok(match stuck {
            None if !is_waiting => Merged::End(watches.len()),
            stuck => Merged::Stuck(stuck),
        })
    }

    async fn look_at(
        reader: &Reader,
        kept: Option<Cursor>,
        wanted: UpdateNumber,
        room_bytes: u32,
    ) -> Result<(Option<Found>, Cursor), RelayError> {
        let mut cursor = match kept {
            Some(cursor) => cursor,
            None => reader.seek(wanted).await?,
        };
        cursor.wanted = wanted;
        let found = reader.next(&mut cursor, room_bytes).await?;
        Ok((found, cursor))
    }

    /// What the first array said last; and that it had everything that lies on the relays, which is more if it ended before
    /// it could say so.
    async fn information(&self) -> Result<Vec<u8>, RelayError> {
        let own = &self.own;
        let mut newest = own.newest().await?;
        for watch in self.watches().into_iter().skip(1) {
            let other = Reader { watch, group: own.group.clone(), which: Which::Written }.newest().await;
            newest = newest.max(other.unwrap_or(UpdateNumber::NONE));
        }
        let known = own.watch.known()?;
        let (mut head, _) = Head::decode(&known.information).map_err(|error| trouble(error.to_string()))?;
        head.newest_durable = head.newest_durable.max(newest.get());
        head.newest_given = head.newest_given.max(head.newest_durable);
        let mut bytes = Vec::new();
        encode_generations(&own.group.generations_beyond(&known.generations), &mut bytes);
        Ok(head.encode(&bytes))
    }
}

impl Source for RelaySource {
    fn journal_read(&self, _: usize, _: u32, ask: Ask) -> BoxFuture<'_, Result<Vec<Slot>, SourceError>> {
        Box::pin(async move { self.read(ask).await.map_err(source_error) })
    }

    fn journal_information(&self, _: u32) -> BoxFuture<'_, Result<Vec<u8>, SourceError>> {
        Box::pin(async move { self.information().await.map_err(source_error) })
    }

    /// A batch may have lain there for hours: only control information that came while this array looked is news.
    fn news(&self, head: Head) -> Head {
        let watch = &self.own.watch;
        let Ok(known) = watch.known() else { return Head { heard_ms: UNHEARD, ..head } };
        let heard_ms = known.age_ms(watch.clock().now()).unwrap_or(UNHEARD);
        Head { newest_given: known.newest_given, heard_ms, ..head }
    }

    fn report_position(&self, _: u32, position: Report) -> BoxFuture<'_, Result<(), SourceError>> {
        Box::pin(async move {
            let generation = self.own.group.newest_generation();
            self.own.watch.tell(position, generation).await.map_err(source_error)
        })
    }
}

fn source_error(error: RelayError) -> SourceError {
    SourceError(error.0)
}

/// First and longest pause before the ends of chains are looked at again.
const POLL_MIN: Duration = Duration::from_millis(2);
const POLL_MAX: Duration = Duration::from_millis(50);
/// A journal read carries at most so often where this array is.
const TELL_EVERY: Duration = Duration::from_millis(20);
