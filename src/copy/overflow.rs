//! Overflow: a reader that falls behind does not hold up hosts for longer than the budget of its group (promise O1).
//!
//! Beside settling the group looks whether its journal is filling up *because of a reader*: what is held only because
//! the units do not have it yet is nobody's fault and is outside the budget.
//! * With a budget of zero (the default) the slowest reader's pairs go to difference maps as soon as the journal is
//!   fuller than [`HIGH_PERCENT`]: hosts never wait for a reader.
//! * With a budget hosts wait for room, at most so long; then the pairs go to difference maps.
//!
//! The others do not notice: their numbers go on. The suspended pairs are copied again by themselves once the reader
//! asks for updates, the journal is emptier than [`LOW_PERCENT`], and a pause is over that grows from one
//! overflow to the next, so that a reader which is too slow for good does not turn round and round
//! (`array/pairs.rs`).

use super::error::CopyError;
use super::group::{Group, PairRuntime, Sequencer};
use crate::clock::MonotonicNs;
use crate::volume::pair::PairState;
use holdfast_journal::{ArrayNumber, UpdateNumber};
use std::time::Duration;

/// Above this a journal overflows because of its slowest reader.
pub(crate) const HIGH_PERCENT: u64 = 75;
/// Below this pairs that overflowed are copied again.
pub(crate) const LOW_PERCENT: u64 = 40;

impl Group {
    /// The reader whose pairs have to go to difference maps now, if there is one.
    pub(crate) fn overflowing(&self) -> Option<ArrayNumber> {
        let now = self.clock.now();
        let seq = self.lock();
        if seq.failed.is_some() || seq.used_percent() < HIGH_PERCENT || seq.is_changing {
            return None;
        }
        let waited = seq.refused_since.map(|since| now.since(since));
        if !self.settings.throttle.is_zero() && waited.is_none_or(|waited| waited < self.settings.throttle) {
            return None;
        }
        let (reader, released) = seq.readers.slowest(seq.settled)?;
        if seq.must_keep_up(reader) {
            return None;
        }
        // What a virtual P-VOL's reader lacks is marked upstream, when there is no room for it here.
        let mut pairs = seq.pairs.iter();
        if pairs
            .any(|(volume, pairs)| self.is_virtual(*volume) && pairs.iter().any(|pair| pair.reader == reader))
        {
            return None;
        }
        // It must be the reader that fills the journal, not what waits for the units: neither in the volume that is
        // written nor in those before it, which come back when it is settled.
        let to_come = seq.room_to_come(released);
        let is_full = seq.used_percent_with(to_come) >= HIGH_PERCENT;
        (is_full && seq.held_percent(released, seq.settled, to_come) >= HELD_PERCENT).then_some(reader)
    }

    /// When hosts that wait now have waited for as long as they shall.
    pub(crate) fn budget_ends(&self) -> Option<Duration> {
        let since = self.lock().refused_since?;
        Some(self.settings.throttle.saturating_sub(self.clock.now().since(since)))
    }

    /// Whether there is room for a copy of differences to the reader, and it has asked for updates since `since`.
    pub(crate) fn may_resync(&self, reader: ArrayNumber, since: MonotonicNs) -> bool {
        let seq = self.lock();
        seq.failed.is_none()
            && seq.used_percent() < LOW_PERCENT
            && seq.asked.get(&reader).is_some_and(|asked| *asked >= since)
    }
}

impl Group {
    /// A reader without pairs no longer holds the journal: it begins anew when it asks and there is room.
    pub(crate) fn drop_keeper(&self, reader: ArrayNumber) {
        self.lock().readers.set_holds(reader, false);
        self.settle_wanted.notify_one();
    }

    /// Lets readers without pairs begin anew that had been too slow.
    pub(crate) async fn restart_keepers(&self) -> Result<(), CopyError> {
        let restarted = {
            let mut seq = self.lock();
            if seq.used_percent() >= LOW_PERCENT {
                return Ok(());
            }
            let keepers: Vec<ArrayNumber> =
                seq.keepers().filter(|(_, holds)| !holds).map(|(k, _)| k).collect();
            let next = seq.next;
            keepers.into_iter().filter(|keeper| seq.readers.restart(*keeper, next).is_ok()).count()
        };
        if restarted > 0 { self.checkpoint().await } else { Ok(()) }
    }
}

impl Sequencer {
    /// Readers without pairs, and whether updates are held for them.
    fn keepers(&self) -> impl Iterator<Item = (ArrayNumber, bool)> {
        // A pair of which nothing was copied yet is not one to be suspended.
        let begun = |pair: &PairRuntime| pair.facts.state != PairState::NotYetCopied;
        let has_pairs =
            move |array| self.pairs.values().flatten().any(|pair| pair.reader == array && begun(pair));
        self.readers
            .iter()
            .filter(move |(array, _)| !has_pairs(*array))
            .map(|(array, reader)| (array, reader.holds))
    }

    /// After a start: readers without pairs for which what they lack was freed begin anew.
    pub(crate) fn restart_stranded_keepers(&mut self) {
        let held_from = self.journal.first_retained();
        let stranded: Vec<ArrayNumber> = self
            .keepers()
            .map(|(keeper, _)| keeper)
            .filter(|keeper| self.readers.reader(*keeper).is_some_and(|reader| reader.next < held_from))
            .collect();
        for keeper in stranded {
            // It cannot fail: the next number is never released.
            let _ = self.readers.restart(keeper, self.next);
        }
    }

    /// How full the fuller of the two areas is.
    pub(crate) fn used_percent(&self) -> u64 {
        self.used_percent_with((0, 0))
    }

    /// The same, if there were so much more room.
    fn used_percent_with(&self, (info, data): (u64, u64)) -> u64 {
        let usage = self.journal.usage();
        percent(usage.info_used, usage.info_capacity + info)
            .max(percent(usage.data_used, usage.data_capacity + data))
    }

    /// Whether the journal is half full of what has yet to go to the units: settling then makes room before it is
    /// wanted, and shows early whether a reader is to blame. What a copy has not restored cannot be settled: whoever waits for room is
    /// woken by every round, and would ask for the next one.
    pub(crate) fn fills_up(&self) -> bool {
        self.settled < self.restored
            && self.used_percent() >= 50
            && self.held_percent(self.settled, self.next, (0, 0)) >= HELD_PERCENT
    }

    /// Which part of the fuller area, if there were so much `more` room, lies between two numbers.
    pub(super) fn held_percent(&self, from: UpdateNumber, to: UpdateNumber, more: (u64, u64)) -> u64 {
        let usage = self.journal.usage();
        let ((info_from, data_from), (info_to, data_to)) =
            (self.journal.areas_after(from), self.journal.areas_after(to));
        percent(info_from.saturating_sub(info_to), usage.info_capacity + more.0)
            .max(percent(data_from.saturating_sub(data_to), usage.data_capacity + more.1))
    }
}

fn percent(part: u64, whole: u64) -> u64 {
    u64::try_from(u128::from(part) * 100 / u128::from(whole.max(1))).unwrap_or(u64::MAX)
}

/// A reader that holds less than this is not to blame for a full journal.
const HELD_PERCENT: u64 = 25;
