//! How fast the journal fills, how fast each reader empties its share of it, and what follows if that goes on: the time
//! until the journal is full because of the reader, and the time until the reader has caught up (promise O5).
//!
//! Rates are those of the last ten seconds or so, the newer the weightier. A time is given only where the rates lead there
//! at all: a reader that gains on the hosts never fills the journal, one that does not never catches up.
//!
//! And how fast pairs are copied: the time until their copies end (promise J3).
//!
//! Pure: time and positions are arguments, taken once a second.

use crate::clock::MonotonicNs;
use holdfast_journal::ArrayNumber;
use std::collections::BTreeMap;
use std::time::Duration;

/// Bytes of the two areas of a journal: update information, write data.
pub(crate) type Areas = [u64; 2];

/// Where a reader is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// What of the journal it holds: behind the newest update that is durable there.
    pub(crate) held: Areas,
    /// What it has not restored.
    pub(crate) behind: Areas,
}

/// What follows from the rates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outlook {
    /// Until the journal is full because of it; `None`: not at these rates.
    pub(crate) full: Option<Duration>,
    /// Until it has restored everything; `None`: not at these rates.
    pub(crate) caught_up: Option<Duration>,
}

/// Rates of a group at its source.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rates {
    sampled_at: Option<MonotonicNs>,
    appended: Areas,
    /// Bytes in a second.
    filling: [f64; 2],
    readers: BTreeMap<ArrayNumber, Known>,
    /// Of pairs that are being copied.
    pub(crate) copies: CopyRates,
}

/// Rates of copies, by pair.
#[derive(Clone, Debug, Default)]
pub(crate) struct CopyRates {
    sampled_at: Option<MonotonicNs>,
    pairs: BTreeMap<u32, CopyRate>,
}

#[derive(Clone, Copy, Debug)]
struct CopyRate {
    left_bytes: u64,
    /// Bytes in a second; none before there is a second.
    rate: Option<f64>,
}

impl CopyRates {
    /// Takes in how many bytes of each pair are left to be copied. A pair that is not named is forgotten.
    pub(crate) fn sample(&mut self, now: MonotonicNs, pairs: impl Iterator<Item = (u32, u64)>) {
        let before = self.sampled_at.replace(now);
        let passed_s = before.map_or(0.0, |then| now.since(then).as_secs_f64());
        let weight = passed_s / (passed_s + SMOOTHED_OVER.as_secs_f64());
        let old = std::mem::take(&mut self.pairs);
        for (pair, left_bytes) in pairs {
            let rate = old.get(&pair).filter(|_| passed_s > 0.0).map(|known| {
                let moved = as_float(known.left_bytes.saturating_sub(left_bytes)) / passed_s;
                known.rate.map_or(moved, |rate| rate + (moved - rate) * weight)
            });
            self.pairs.insert(pair, CopyRate { left_bytes, rate });
        }
    }

    /// Until nothing is left of a pair of which so much is left now; none while it does not move.
    pub(crate) fn time_left(&self, pair: u32, left_bytes: u64) -> Option<Duration> {
        time((left_bytes, self.pairs.get(&pair)?.rate?))
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    at: Position,
    /// Bytes in a second by which it moves on.
    reading: [f64; 2],
    restoring: [f64; 2],
}

impl Rates {
    /// Takes in where everything is: what was ever appended, and each reader. A reader that is not named is forgotten.
    pub(crate) fn sample(
        &mut self,
        now: MonotonicNs,
        appended: Areas,
        readers: impl Iterator<Item = (ArrayNumber, Position)>,
    ) {
        let before = self.sampled_at.replace(now);
        let passed_s = before.map_or(0.0, |then| now.since(then).as_secs_f64());
        let weight = passed_s / (passed_s + SMOOTHED_OVER.as_secs_f64());
        let smooth = |rate: &mut [f64; 2], moved: Areas| {
            if passed_s > 0.0 {
                for (rate, moved) in rate.iter_mut().zip(moved) {
                    *rate += (as_float(moved) / passed_s - *rate) * weight;
                }
            }
        };
        let grown = less(appended, self.appended);
        self.appended = appended;
        smooth(&mut self.filling, grown);
        let old = std::mem::take(&mut self.readers);
        for (array, at) in readers {
            let mut known = old.get(&array).copied().unwrap_or(Known { at, ..Known::default() });
            smooth(&mut known.reading, less(sum(known.at.held, grown), at.held));
            smooth(&mut known.restoring, less(sum(known.at.behind, grown), at.behind));
            self.readers.insert(array, Known { at, ..known });
        }
    }

    /// What comes of it for a reader that is at `position` now, in a journal of this capacity.
    pub(crate) fn outlook(&self, reader: ArrayNumber, position: Position, capacity: Areas) -> Outlook {
        let known = self.readers.get(&reader).copied().unwrap_or_default();
        let both = |way: [u64; 2], speed: [f64; 2]| [(way[0], speed[0]), (way[1], speed[1])];
        let gained = [self.filling[0] - known.reading[0], self.filling[1] - known.reading[1]];
        let full = both(less(capacity, position.held), gained).into_iter().filter_map(time).min();
        let lost = [known.restoring[0] - self.filling[0], known.restoring[1] - self.filling[1]];
        let behind = both(position.behind, lost).into_iter().filter(|(way, _)| *way > 0);
        let times: Option<Vec<Duration>> = behind.map(time).collect();
        Outlook { full, caught_up: times.map(|times| times.into_iter().max().unwrap_or_default()) }
    }
}

/// How long a way takes; `None` for ever, or for so long that it means nothing.
fn time((way_bytes, bytes_per_s): (u64, f64)) -> Option<Duration> {
    if bytes_per_s < SLOWEST_BYTES_PER_S {
        return None;
    }
    Duration::try_from_secs_f64(as_float(way_bytes) / bytes_per_s).ok().filter(|time| *time < LONGEST)
}

fn less(a: Areas, b: Areas) -> Areas {
    [a[0].saturating_sub(b[0]), a[1].saturating_sub(b[1])]
}

fn sum(a: Areas, b: Areas) -> Areas {
    [a[0].saturating_add(b[0]), a[1].saturating_add(b[1])]
}

#[expect(clippy::cast_precision_loss, reason = "a rate to nine places is enough")]
fn as_float(bytes: u64) -> f64 {
    bytes as f64
}

/// The time that rates are smoothed over.
const SMOOTHED_OVER: Duration = Duration::from_secs(10);
/// Below this a difference of rates is the noise of sampling.
const SLOWEST_BYTES_PER_S: f64 = 64.0;
/// Beyond this a time is no forecast.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    const READER: ArrayNumber = ArrayNumber(2);

    /// A minute in which hosts write and a reader reads and restores, in bytes a second of write data.
    fn after(write: u64, read: u64, restore: u64) -> (Rates, Position) {
        let mut rates = Rates::default();
        let mut at = Position { held: [0, 1_000_000], behind: [0, 2_000_000] };
        for second in 0..60 {
            rates.sample(
                MonotonicNs(second * 1_000_000_000),
                [0, second * write],
                [(READER, at)].into_iter(),
            );
            at.held[1] = (at.held[1] + write).saturating_sub(read);
            at.behind[1] = (at.behind[1] + write).saturating_sub(restore);
        }
        (rates, at)
    }

    fn near(time: Option<Duration>, seconds: f64) -> bool {
        time.is_some_and(|time| (time.as_secs_f64() / seconds - 1.0).abs() < 0.02)
    }

    #[test]
    fn a_reader_slower_than_the_hosts_fills_the_journal_and_does_not_catch_up() {
        let (rates, at) = after(50_000, 20_000, 20_000);
        let held = at.held[1];
        let outlook = rates.outlook(READER, at, [1 << 20, held + 300_000]);
        assert!(near(outlook.full, 10.0), "{outlook:?}");
        assert_eq!(outlook.caught_up, None);
    }

    #[test]
    fn a_reader_faster_than_the_hosts_catches_up_and_never_fills_the_journal() {
        let (rates, at) = after(20_000, 30_000, 40_000);
        let outlook = rates.outlook(READER, at, [1 << 20, 100 << 20]);
        assert!(near(outlook.caught_up, 800_000.0 / 20_000.0), "{outlook:?}");
        assert_eq!(outlook.full, None);
    }

    #[test]
    fn who_has_everything_has_caught_up_and_who_is_unknown_has_no_outlook() {
        let (rates, _) = after(20_000, 20_000, 20_000);
        let none = Position::default();
        let outlook = rates.outlook(READER, none, [1 << 20, 100 << 20]);
        assert_eq!(outlook, Outlook { full: None, caught_up: Some(Duration::ZERO) });
        let unknown = Position { held: [0, 5], behind: [0, 5] };
        let fresh = Rates::default().outlook(READER, unknown, [1 << 20, 1 << 20]);
        assert_eq!(fresh, Outlook::default());
    }

    #[test]
    fn a_copy_takes_as_long_as_what_is_left_at_the_rate_of_the_last_seconds() {
        let mut copies = CopyRates::default();
        let at = |second: u64| MonotonicNs(second * 1_000_000_000);
        copies.sample(at(0), [(1, 100_000_000), (2, 5_000_000)].into_iter());
        assert_eq!(copies.time_left(1, 100_000_000), None, "nothing is known yet");
        for second in 1..=30 {
            copies.sample(at(second), [(1, 100_000_000 - second * 1_000_000), (2, 5_000_000)].into_iter());
        }
        assert!(near(copies.time_left(1, 70_000_000), 70.0));
        assert_eq!(copies.time_left(2, 5_000_000), None, "it does not move");
        // Ten seconds later it goes at a tenth of that: the last seconds count.
        for second in 31..=60 {
            let left = 70_000_000 - (second - 30) * 100_000;
            copies.sample(at(second), [(1, left)].into_iter());
        }
        let left = copies.time_left(1, 67_000_000).unwrap().as_secs_f64();
        assert!((350.0..=670.0).contains(&left), "{left}");
        assert_eq!(copies.time_left(2, 5_000_000), None, "it is copied no more");
        // What hosts change meanwhile may make it more.
        copies.sample(at(61), [(1, 80_000_000)].into_iter());
        assert!(copies.time_left(1, 80_000_000).is_some());
        assert_eq!(copies.time_left(1, 0), Some(Duration::ZERO));
    }

    #[test]
    fn the_area_that_is_full_first_counts() {
        let mut rates = Rates::default();
        for second in 0..60 {
            // Ranges of zeros: records, and no write data to speak of.
            let at = Position { held: [second * 1_000, second], behind: [second * 1_000, second] };
            rates.sample(
                MonotonicNs(second * 1_000_000_000),
                [second * 1_000, second],
                [(READER, at)].into_iter(),
            );
        }
        let at = Position { held: [60_000, 60], behind: [60_000, 60] };
        let outlook = rates.outlook(READER, at, [160_000, 100 << 20]);
        assert!(near(outlook.full, 100.0), "{outlook:?}");
    }
}
