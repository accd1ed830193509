//! Hosts that wait until their writes lie on a relay (promise X1, `004_…` claim 1; decision 21).
//!
//! # What it guarantees
//! * While hosts wait, a write is answered when it is durable here and, with everything before it that the other array
//!   lacks, durable on a relay; or at the other array itself, whatever way it went.
//! * The other array is told that it is synchronised over a relay that has everything that hosts were answered, for the time
//!   of a lease from its asking on; it asks one question after the other over the relay, and takes the answer to the
//!   newest one only. Whether an answer landed is not known here: a lease counts from when it was made up.
//! * Where each relay has a part of the journals they count together: what all of them have without a gap, each of them has; and that may become
//!   less, when one is lost, until it is on the others.
//! * Everything else is as with a synchronous copy: the limit, the fence, the record, the lease. That the other array does
//!   not show itself any more is never heard, so the fence `status` decides as `data` once a lease was given.

use super::decide::{Over, Svols, Synchronous};
use crate::clock::MonotonicNs;
use crate::copy::group::Group;
use crate::copy::tamper::SynchronousDefect;
use holdfast_journal::{ArrayNumber, UpdateNumber};
use std::time::Duration;

/// A relay that is written now.
#[derive(Clone, Copy, Debug)]
pub(super) struct OnRelay {
    /// Everything up to this that the other array lacks is on it.
    has: UpdateNumber,
}

impl Synchronous {
    /// Whether updates go where hosts wait for them, and everything that they were answered is there.
    pub(super) fn is_level(&self) -> bool {
        match self.choice.over {
            Over::Relay => self.relays.values().any(|relay| relay.has >= self.answered),
            Over::Push | Over::Nothing => self.is_told() && self.confirmed >= self.answered,
        }
    }

    /// A relay is written from here on; what an earlier session found on it, or on another one, does not count any more.
    fn open_relay(&mut self, name: &str, has: UpdateNumber, reported: UpdateNumber) -> bool {
        self.relays.insert(name.to_owned(), OnRelay { has });
        let on_relays = self.relays.values().map(|relay| relay.has).max();
        self.confirmed = on_relays.unwrap_or(UpdateNumber::NONE).max(reported);
        true
    }

    /// Whether that is news.
    fn note_on_relay(&mut self, name: &str, has: UpdateNumber, svols: Svols) -> bool {
        let relay = self.relays.get_mut(name);
        if relay.as_ref().is_some_and(|relay| relay.has >= has) {
            return false;
        }
        match relay {
            Some(relay) => relay.has = has,
            None => drop(self.relays.insert(name.to_owned(), OnRelay { has })),
        }
        self.note_confirmed(has, svols)
    }

    /// Relays with parts have everything up to there together. Whether that is news.
    fn note_together(&mut self, has: UpdateNumber, svols: Svols) -> bool {
        let is_same = self.relays.values().all(|relay| relay.has == has);
        self.relays.values_mut().for_each(|relay| relay.has = has);
        let is_more = self.confirmed < has;
        (!is_same || is_more) && self.note_confirmed(has, svols)
    }

    /// The other array does not lack anything up to there, so no relay does.
    fn note_reported(&mut self, number: UpdateNumber, svols: Svols) -> bool {
        self.relays.values_mut().for_each(|relay| relay.has = relay.has.max(number));
        self.note_confirmed(number, svols)
    }

    fn note_confirmed(&mut self, number: UpdateNumber, svols: Svols) -> bool {
        self.confirmed = self.confirmed.max(number);
        self.is_fenced &= svols != Svols::Image;
        true
    }

    /// What the other array's question over that relay is answered: for how long it is synchronised.
    fn answer_over(&mut self, name: &str, all_normal: bool, now: MonotonicNs) -> Duration {
        let Some(relay) = self.relays.get(name) else { return Duration::ZERO };
        if !self.may_say_yes(relay.has, all_normal, now) {
            return Duration::ZERO;
        }
        self.granted = Some(now);
        self.lease()
    }
}

/// For those who write relays.
impl Group {
    /// A relay for which hosts wait is written from here on, until what is returned goes. It has everything up to `has`
    /// that the reader lacks. `is_part`: together with others, so that less is there when it goes.
    pub(crate) fn open_relay<'a>(
        &'a self,
        reader: ArrayNumber,
        name: &str,
        has: UpdateNumber,
        is_part: bool,
    ) -> OpenRelay<'a> {
        self.with_relays(reader, |known, reported, _| known.open_relay(name, has, reported));
        OpenRelay { group: self, reader, name: name.to_owned(), is_part }
    }

    /// For how long another array may still show that it has everything that hosts were answered: what lies on relays stays as it
    /// is until then.
    pub(crate) fn lease_left(&self) -> Duration {
        let now = self.clock.now();
        let seq = self.lock();
        let known = seq.synchronous.as_ref().filter(|known| known.choice.over != Over::Push);
        known.map_or(Duration::ZERO, |known| known.lease_left(now))
    }

    /// The reader's report has been taken in.
    pub(in crate::copy) fn confirm_by_report(&self, reader: ArrayNumber) {
        self.with_relays(reader, Synchronous::note_reported);
    }

    /// On purpose, for the test of the tests: a copy goes on showing itself as synchronised when nobody says so any more.
    pub(crate) fn keeps_lease(&self) -> bool {
        let tamper = self.tamper.as_ref();
        tamper.and_then(|tamper| tamper.synchronous()) == Some(SynchronousDefect::LeaseKept)
    }

    /// On purpose, for the test of the tests: what relays with parts had is overwritten before it is there again.
    pub(crate) fn forgets_rounds(&self) -> bool {
        let tamper = self.tamper.as_ref();
        tamper.and_then(|tamper| tamper.synchronous()) == Some(SynchronousDefect::RoundsForgotten)
    }

    /// Changes what is known, if hosts wait for relays to that reader, and tells everybody if that is news. It is told what
    /// the reader has reported as durable.
    fn with_relays(
        &self,
        reader: ArrayNumber,
        change: impl FnOnce(&mut Synchronous, UpdateNumber, Svols) -> bool,
    ) {
        {
            let mut seq = self.lock();
            let reported = seq.readers.reader(reader).map(|known| known.report.acknowledged);
            let svols = seq.svols_of_second();
            let known = seq.synchronous.as_mut();
            let Some(known) = known.filter(|known| known.choice.is_relayed_to(reader)) else { return };
            if !change(known, reported.unwrap_or(UpdateNumber::NONE), svols) {
                return;
            }
        }
        self.waits.confirmed.notify_waiters();
        self.changed.notify_waiters(); // Other readers may be handed more.
        self.come_together();
    }
}

/// A relay that is written, for hosts that wait for it.
pub(crate) struct OpenRelay<'a> {
    group: &'a Group,
    reader: ArrayNumber,
    name: String,
    is_part: bool,
}

impl OpenRelay<'_> {
    /// Everything up to there that the reader lacks is durable on it.
    pub(crate) fn note_has(&self, has: UpdateNumber) {
        self.group.with_relays(self.reader, |known, _, svols| known.note_on_relay(&self.name, has, svols));
    }

    /// Everything up to what `has` says that the reader lacks is durable on this one and the other relays with parts. It is told what the reader has
    /// reported, and whether that may show itself as synchronised, and must not wait.
    pub(crate) fn note_together(&self, has: impl FnOnce(UpdateNumber, bool) -> UpdateNumber) {
        let now = self.group.clock.now();
        self.group.with_relays(self.reader, |known, reported, svols| {
            let is_promised = !known.lease_left(now).is_zero();
            known.note_together(has(reported, is_promised), svols)
        });
    }

    /// To be called again and again: a group that came apart joins again when it has rested, though nobody writes.
    pub(crate) fn look(&self) {
        self.group.come_together();
    }

    /// On purpose, for the test of the tests: what is on its way there counts.
    pub(crate) fn counts_early(&self) -> bool {
        let tamper = self.group.tamper.as_ref();
        tamper.and_then(|tamper| tamper.synchronous()) == Some(SynchronousDefect::ConfirmedEarly)
    }

    /// The other array asks over it whether it is synchronised: for how long it is, from its asking on.
    pub(crate) fn answer(&self) -> Duration {
        let now = self.group.clock.now();
        let mut seq = self.group.lock();
        let all_normal = seq.are_normal(self.reader) && seq.failed.is_none();
        let known = seq.synchronous.as_mut();
        let known = known.filter(|known| known.choice.is_relayed_to(self.reader));
        known.map_or(Duration::ZERO, |known| known.answer_over(&self.name, all_normal, now))
    }
}

impl Drop for OpenRelay<'_> {
    fn drop(&mut self) {
        self.group.with_relays(self.reader, |known, reported, _| {
            if self.is_part {
                // Who writes the others says at once what they have without it.
                known.relays.values_mut().for_each(|relay| relay.has = reported);
            }
            known.relays.remove(&self.name).is_some()
        });
    }
}
