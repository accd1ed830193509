//! Where this array reads a group from (promise T5): from the array that it is a copy of, or from another one that has
//! the same journal, chosen by hand or by the load of its source; or over a relay (promise X2).
//!
//! # What it guarantees
//! * **No gap and no repeat.** Whoever is read is asked for the number behind the newest one held here; the other array
//!   is used only when it has everything up to there, in the same generation.
//! * **Only images move.** The other array is used while every pair here is `normal` (invariant 5): what a copy needs
//!   comes from the source.
//! * **Neither holds what is not needed.** Whichever is not read is told what is here, so that it frees the rest and has
//!   what comes next.
//! * **The source never waits for the other array.** This array goes on reporting to its source, and goes back to it by
//!   itself whenever the other one cannot give the next number: it is not reached, has begun anew, has a hole there, or
//!   does not come forward. After [`AVOIDED`] it tries again.

use super::Array;
use crate::clock::MonotonicNs;
use crate::copy::answer::Head;
use crate::copy::fetch::{FetchError, Reading};
use crate::copy::group::Group;
use crate::copy::source::SourceError;
use crate::copy::status::Status;
use crate::volume::designation::Refusal;
use crate::volume::group::{GroupRecord, GroupRole};
use crate::volume::kind::CopyMode;
use crate::volume::name::{GroupNumber, LinkName, PairName, UpdateNumber};
use crate::volume::pair::{PairEvent, PairRecord, PairState};
use crate::volume::table::Tables;
use std::sync::Arc;
use std::time::Duration;

/// What this array knows about the other source of a group since its start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sourcing {
    /// Not to be used before then, and why.
    avoided: Option<(MonotonicNs, String)>,
    gate: LoadGate,
}

impl Array {
    /// The link over which a group is read now; none if it is read from nowhere.
    pub(crate) fn reads_over(&self, tables: &Tables, record: &GroupRecord) -> Option<LinkName> {
        let GroupRole::Auxiliary { link: home, .. } = &record.role else { return None };
        if super::links::is_read_no_further(record) {
            return None;
        }
        let are_images = tables.followed_pairs(record.number).all(|pair| pair.state == PairState::Normal);
        // What a relay holds that is read to its end comes first: nobody else may have it.
        if let Some(relay) = self.drained_relay(tables, record).filter(|_| are_images) {
            return Some(relay);
        }
        // Nobody else is handed what hosts wait for; and the source sends only to who reads it.
        let is_home = || self.runtime().links.get(home.as_str()).is_some_and(|status| status.connected);
        let mut followed = tables.followed_pairs(record.number);
        if followed.any(|pair| pair.copy == CopyMode::SyncJournal) && is_home() {
            return Some(home.clone());
        }
        let over_relay = || self.usable_relay(tables, record, home).filter(|_| are_images);
        let Some(other) = &record.other_source else { return over_relay().or_else(|| Some(home.clone())) };
        let runtime = self.runtime();
        let sourcing = runtime.sourcing.get(&record.number.0);
        let is_avoided = sourcing
            .and_then(|sourcing| sourcing.avoided.as_ref())
            .is_some_and(|(until, _)| self.env.clock.now() < *until);
        let is_wanted = !other.by_load || sourcing.is_some_and(|sourcing| sourcing.gate.is_away);
        let is_up = runtime.links.get(other.link.as_str()).is_some_and(|status| status.connected);
        let is_agreed = other.remote.is_some() && other.is_told;
        let usable = is_agreed && is_wanted && is_up && are_images && !is_avoided;
        drop(runtime);
        if usable { Some(other.link.clone()) } else { over_relay().or_else(|| Some(home.clone())) }
    }

    /// Whether the group is read over this link now.
    pub(super) fn reads_here(&self, number: u32, link: &LinkName) -> bool {
        let tables = self.store.tables();
        let record = tables.groups.get(&GroupNumber(number));
        record.is_some_and(|record| self.reads_over(&tables, record).as_ref() == Some(link))
    }

    /// What is read from another array than the source has to stop before the source is told that a pair is not normal:
    /// then come updates that only the source has for this array. Called between what changes that and the answer.
    pub(super) fn guard_other_sources(&self) {
        let tables = self.store.tables();
        for record in tables.groups.iter() {
            if !reads_apart(&tables, record) || self.reads_over(&tables, record) != home_of(record) {
                continue;
            }
            if let Some(group) = self.runtime().groups.get(&record.number.0).cloned() {
                group.allow_other(false);
            }
        }
    }

    /// A pair is suspended, and its source keeps updates from it that it thinks have not come here. What has come from
    /// another array by now is in the S-VOL all the same. Called when nothing more of that is let in, before the answer.
    pub(super) fn note_what_came_from_elsewhere(&self, pair: &PairName) -> Result<(), Refusal> {
        let tables = self.store.tables();
        let Some(pair) = tables.pair_named(pair) else { return Ok(()) };
        let reads_elsewhere =
            tables.groups.get(&pair.group).is_some_and(|record| reads_apart(&tables, record));
        let group = self.runtime().groups.get(&pair.group.0).cloned();
        let Some(group) = group.filter(|_| reads_elsewhere && pair.control.had_from_elsewhere.0 == 0) else {
            return Ok(());
        };
        let had = UpdateNumber(group.next_number().previous().get());
        self.store.checkpoint(|tables| {
            if let Some(row) = tables.pairs.edit(&pair.number) {
                row.control.had_from_elsewhere = had;
            }
        })
    }

    /// A pair is about to be stopped: what its S-VOL lacks from here on was changed behind what is on the units now. Recorded before it
    /// is answered, because from that answer on its source may keep updates of it back.
    pub(super) fn note_what_is_reached(&self, pair: &PairName) -> Result<(), Refusal> {
        let followed = |tables: &Tables| {
            let pair = tables.pair_named(pair).filter(|pair| !tables.is_served(pair));
            pair.cloned()
        };
        let group_of = |pair: &PairRecord| self.runtime().groups.get(&pair.group.0).cloned();
        let Some(known) = self.store.read(followed) else { return Ok(()) };
        let Some(group) = group_of(&known).filter(|group| group.knows_pair(known.number.0)) else {
            return Ok(());
        };
        // Its copy may have come to its end since the owner looked: the source knows of that, and says that this is reached.
        self.note_normal_pairs(&group);
        let Some(pair) = self.store.read(followed).filter(|pair| pair.state == PairState::Normal) else {
            return Ok(());
        };
        // Nothing that is settled is lost with the journal.
        let settled = UpdateNumber(group.status().settled);
        let Some(reaches) = pair.reaches(Some(settled)) else { return Ok(()) };
        self.store.checkpoint(|tables| {
            if let Some(row) = tables.pairs.edit(&pair.number) {
                row.control.reaches = Some(reaches);
            }
        })
    }

    /// What was copied and is restored to its end.
    pub(super) fn note_normal_pairs(&self, group: &Arc<Group>) {
        for pair in group.pairs_that_became_normal() {
            self.pair_event(group, pair, PairEvent::CopyRestored, "initial copy restored");
        }
    }

    /// Lets updates of the other array in, unless it is not to be read any more.
    pub(super) fn let_other_in(&self, group: &Group) -> bool {
        group.allow_other(true);
        let tables = self.store.tables();
        let record = tables.groups.get(&GroupNumber(group.number));
        let is_read = record.is_some_and(|record| {
            let over = self.reads_over(&tables, record);
            over.is_some() && over != home_of(record)
        });
        if !is_read {
            group.allow_other(false);
        }
        is_read
    }

    /// Resolves when the group is no longer read over this link.
    pub(super) async fn source_moves(&self, number: u32, link: &LinkName) {
        loop {
            let changed = self.changed().notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let tables = self.store.tables();
            let Some(record) = tables.groups.get(&GroupNumber(number)) else { return };
            if self.reads_over(&tables, record).as_ref() != Some(link) {
                if let Some(tamper) = &self.env.tamper {
                    self.env.clock.sleep(tamper.before_moving()).await;
                }
                return;
            }
            tokio::select! {
                biased;
                () = &mut changed => {}
                // Time alone may change it.
                () = self.env.clock.sleep(LOOK), if reads_apart(&tables, record) => {}
            }
        }
    }

    /// Resolves when the group is read over this link.
    pub(super) async fn source_comes(&self, number: u32, link: &LinkName) {
        loop {
            let changed = self.changed().notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let tables = self.store.tables();
            let Some(record) = tables.groups.get(&GroupNumber(number)) else { return };
            if self.reads_over(&tables, record).as_ref() == Some(link) {
                return;
            }
            tokio::select! {
                biased;
                () = &mut changed => {}
                () = self.env.clock.sleep(LOOK) => {}
            }
        }
    }

    /// While a group is not read from the other array, that one is told what is here all the same, now and then: it would
    /// hold everything else for this array until it has no room, and then give up what comes next. Never ends.
    pub(super) async fn report_beside(
        &self,
        number: u32,
        source: u32,
        session: &super::peer_session::PeerSession,
    ) {
        let mut reported = None;
        loop {
            self.env.clock.sleep(LOOK).await;
            let group = self.runtime().groups.get(&number).cloned();
            let Some(position) = group.map(|group| group.position()) else { continue };
            if reported == Some(position) {
                continue;
            }
            // It may not know of this reader yet, or any more.
            let answer = session.report_position(source, position).await;
            reported = answer.is_ok().then_some(position);
        }
    }

    /// Reading from the other array has ended: the source is read for a while.
    pub(super) fn avoid_other_source(&self, group: &Group, error: &FetchError) {
        let now = self.env.clock.now().0;
        let until = MonotonicNs(now.saturating_add(u64::try_from(AVOIDED.as_nanos()).unwrap_or(u64::MAX)));
        tracing::info!(group = %group.name, %error, "read from its source again");
        self.runtime().sourcing.entry(group.number).or_default().avoided = Some((until, error.to_string()));
        self.changed().notify_waiters();
    }

    /// Why the other array is not read at the moment, for those who ask.
    pub(crate) fn why_not_other_source(&self, record: &GroupRecord) -> Option<String> {
        let runtime = self.runtime();
        let sourcing = runtime.sourcing.get(&record.number.0)?;
        let (until, reason) = sourcing.avoided.as_ref()?;
        (self.env.clock.now() < *until).then(|| reason.clone())
    }

    /// Looks at the load of the source for as long as the session lives, if the source is chosen by it.
    pub(super) async fn watch_load(
        self: &Arc<Self>,
        number: u32,
        source: u32,
        session: &super::peer_session::PeerSession,
    ) -> SourceError {
        loop {
            self.env.clock.sleep(LOOK).await;
            let by_load = self.store.read(|tables| {
                let group = tables.groups.get(&GroupNumber(number));
                group.and_then(|group| group.other_source.as_ref()).is_some_and(|other| other.by_load)
            });
            if !by_load || !self.runtime().groups.contains_key(&number) {
                continue;
            }
            let head = match session.journal_information(source).await {
                Ok(head) => head,
                Err(error) => return error,
            };
            let Ok((head, _)) = Head::decode(&head) else {
                return SourceError("the answer to journal information is damaged".into());
            };
            let now = self.env.clock.now();
            let moved = {
                let mut runtime = self.runtime();
                let gate = &mut runtime.sourcing.entry(number).or_default().gate;
                gate.handle_load(now, head.load_permille)
            };
            if moved {
                self.changed().notify_waiters();
            }
        }
    }
}

/// The link to the array that a group is a copy of.
fn home_of(record: &GroupRecord) -> Option<LinkName> {
    match &record.role {
        GroupRole::Auxiliary { link, .. } => Some(link.clone()),
        GroupRole::Primary => None,
    }
}

/// Whether a group may be read in another way than from its source.
fn reads_apart(tables: &Tables, record: &GroupRecord) -> bool {
    record.other_source.is_some() || super::relay::relays_of_copy(tables, record).next().is_some()
}

/// What reading does, in one word.
pub(super) fn read_state(connected: bool, status: Option<&Status>) -> &'static str {
    match status.map(|status| &status.reading) {
        Some(Reading::NoRoom) if connected => "no-room",
        Some(Reading::Retrying(_)) if connected => "retrying",
        Some(Reading::Going) if connected => "reading",
        Some(_) | None => "waiting",
    }
}

/// Why reading does not go on: what is known now, or what was recorded last.
pub(super) fn read_reason(record: &GroupRecord, status: Option<&Status>) -> Option<String> {
    match status.map(|status| &status.reading) {
        Some(Reading::NoRoom) => Some("there is no room in the journal here".to_owned()),
        Some(Reading::Retrying(reason)) => Some(reason.clone()),
        Some(Reading::Going) => None,
        Some(Reading::Waiting) | None => record.reading_stopped.clone(),
    }
}

/// Whether the source is under load, with hysteresis: it is when it was above [`HIGH_PERMILLE`] for [`HIGH_FOR`], and is
/// not any more when it was below [`LOW_PERMILLE`] for [`LOW_FOR`].
#[derive(Clone, Copy, Debug, Default)]
struct LoadGate {
    is_away: bool,
    /// Since when the load says otherwise.
    since: Option<MonotonicNs>,
}

impl LoadGate {
    /// Takes in the load of the moment; whether the choice is another one now.
    fn handle_load(&mut self, now: MonotonicNs, load_permille: u32) -> bool {
        let (says_otherwise, patience) = if self.is_away {
            (load_permille < LOW_PERMILLE, LOW_FOR)
        } else {
            (load_permille > HIGH_PERMILLE, HIGH_FOR)
        };
        if !says_otherwise {
            self.since = None;
            return false;
        }
        let since = *self.since.get_or_insert(now);
        if now.since(since) < patience {
            return false;
        }
        (self.is_away, self.since) = (!self.is_away, None);
        true
    }
}

/// Load of the source above which the other array is read.
const HIGH_PERMILLE: u32 = 700;
/// For how long it has to be above.
const HIGH_FOR: Duration = Duration::from_secs(3);
/// Load of the source below which it is read again.
const LOW_PERMILLE: u32 = 400;
/// For how long it has to be below.
const LOW_FOR: Duration = Duration::from_secs(10);
/// How often the load is asked for, and times are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long the other array is not tried again after it could not give the next number.
const AVOIDED: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> MonotonicNs {
        MonotonicNs(seconds * 1_000_000_000)
    }

    #[test]
    fn the_source_is_left_after_a_while_above_and_taken_again_after_a_while_below() {
        let mut gate = LoadGate::default();
        let loads = [900, 900, 900, 900, 900];
        let moved: Vec<bool> =
            (0..).zip(loads).map(|(second, load)| gate.handle_load(at(second), load)).collect();
        assert_eq!(moved, [false, false, false, true, false]);
        // Between the two marks nothing changes, and a short rest is none.
        for second in 5..40 {
            assert!(!gate.handle_load(at(second), if second % 5 == 0 { 500 } else { 100 }), "{second}");
        }
        let back = (40..60).find(|second| gate.handle_load(at(*second), 399));
        assert_eq!(back, Some(46), "it was low since the 36th");
        assert!(!gate.is_away);
    }

    #[test]
    fn a_load_that_comes_and_goes_moves_nothing() {
        let mut gate = LoadGate::default();
        assert!(
            (0..100).all(|second| !gate.handle_load(at(second), if second % 3 == 0 { 0 } else { 1_000 }))
        );
    }
}
