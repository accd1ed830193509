//! The order in which an auxiliary applies updates: strictly by number as seen from outside.
//!
//! Updates arrive in any order. [`RestoreQueue`] hands out only the next contiguous number, and only when no earlier
//! update that is still being prepared overlaps it, so disjoint updates are prepared side by side. Prepared updates
//! become visible in number order, each whole. Invariant: settled ≤ restored < every update in the queue.

use crate::number::UpdateNumber;
use crate::update::{Extent, Update};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;

/// Updates that wait or are being prepared. At this many arrivals are refused: the caller stops asking for more.
pub const MAX_QUEUED_UPDATES: usize = 65536;
/// Updates being prepared side by side. At this many nothing more is handed out until one becomes visible, which
/// also bounds the comparisons for overlap.
pub const MAX_PREPARING_UPDATES: usize = 128;

/// What the queue keeps of an update.
#[derive(Clone, Debug)]
struct Entry {
    extents: Vec<Extent>,
    as_of: Option<UpdateNumber>,
}

#[derive(Clone, Debug)]
enum Step {
    Preparing,
    Prepared,
}

/// Why an arrival was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArrivalError {
    /// The update is restored or queued already: harmless, it was read twice.
    Repeated,
    /// [`MAX_QUEUED_UPDATES`] are queued.
    QueueFull,
}

impl fmt::Display for ArrivalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Repeated => "the update has arrived before",
            Self::QueueFull => "too many updates wait to be restored",
        })
    }
}

impl core::error::Error for ArrivalError {}

/// The restore order of one group at one auxiliary.
///
/// [`handle_arrived`](Self::handle_arrived) takes updates in any order; [`poll_start`](Self::poll_start) gives the next
/// whose payload may be laid ready; [`handle_prepared`](Self::handle_prepared) says that it is;
/// [`poll_visible`](Self::poll_visible) gives, in number order, those the caller now makes visible at once;
/// [`handle_settled`](Self::handle_settled) says up to where the volumes are durable. Poll both again after each call.
/// A pair that stops drains: [`stop`](Self::stop), then polls until [`is_idle`](Self::is_idle).
#[derive(Clone, Debug)]
pub struct RestoreQueue {
    waiting: BTreeMap<UpdateNumber, Entry>,
    active: BTreeMap<UpdateNumber, (Entry, Step)>,
    next_start: UpdateNumber,
    restored: UpdateNumber,
    settled: UpdateNumber,
    consistent_from: UpdateNumber,
    stopped: bool,
}

impl RestoreQueue {
    /// After a restart or at the beginning: everything up to `settled` is in the volumes, and they are consistent
    /// once they have been restored up to `consistent_from` (as kept, [`UpdateNumber::NONE`] at the beginning).
    pub fn new(settled: UpdateNumber, consistent_from: UpdateNumber) -> Self {
        Self {
            waiting: BTreeMap::new(),
            active: BTreeMap::new(),
            next_start: settled.next(),
            restored: settled,
            settled,
            consistent_from,
            stopped: false,
        }
    }

    /// Takes an update that is durable in the journal here.
    pub fn handle_arrived(&mut self, update: &Update) -> Result<(), ArrivalError> {
        let number = update.number;
        if number < self.next_start || self.waiting.contains_key(&number) {
            return Err(ArrivalError::Repeated);
        }
        if self.waiting.len().saturating_add(self.active.len()) >= MAX_QUEUED_UPDATES {
            return Err(ArrivalError::QueueFull);
        }
        self.waiting.insert(number, Entry { extents: update.extents.clone(), as_of: update.as_of() });
        Ok(())
    }

    /// The next update whose payload may be laid ready now: contiguous, and disjoint from all that is being prepared.
    pub fn poll_start(&mut self) -> Option<UpdateNumber> {
        if self.stopped || self.active.len() >= MAX_PREPARING_UPDATES {
            return None;
        }
        let number = self.next_start;
        let entry = self.waiting.get(&number)?;
        if self.active.values().any(|(earlier, _)| overlap(earlier, entry)) {
            return None;
        }
        let entry = self.waiting.remove(&number)?;
        self.active.insert(number, (entry, Step::Preparing));
        self.next_start = number.next();
        Some(number)
    }

    /// The payload of `number` lies ready; numbers that were not started are ignored.
    pub fn handle_prepared(&mut self, number: UpdateNumber) {
        if let Some((_, step)) = self.active.get_mut(&number) {
            *step = Step::Prepared;
        }
    }

    /// The next update in number order, if it is ready. The caller makes all of it visible before anything else, and
    /// it counts as restored.
    pub fn poll_visible(&mut self) -> Option<UpdateNumber> {
        let oldest = self.active.first_entry()?;
        match oldest.get().1 {
            Step::Preparing => None,
            Step::Prepared => {
                let (number, (entry, _)) = oldest.remove_entry();
                self.restored = number;
                self.consistent_from = self.consistent_from.max(entry.as_of.unwrap_or(UpdateNumber::NONE));
                Some(number)
            }
        }
    }

    /// Everything visible up to `number` is durable in the volumes.
    pub fn handle_settled(&mut self, number: UpdateNumber) {
        self.settled = self.settled.max(number.min(self.restored));
    }

    /// Starts nothing more. What was started is finished first: the volumes then are the image of one number.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// Goes on after a stop.
    pub fn resume(&mut self) {
        self.stopped = false;
    }

    /// Nothing is being prepared.
    pub fn is_idle(&self) -> bool {
        self.active.is_empty()
    }

    /// The number that has to be started next; reading has to fetch it if it did not arrive.
    pub fn next_start(&self) -> UpdateNumber {
        self.next_start
    }

    /// Updates that have arrived and are not visible.
    pub fn queued(&self) -> usize {
        self.waiting.len().saturating_add(self.active.len())
    }

    /// A gap: the number that is missing although later ones have arrived.
    pub fn missing(&self) -> Option<UpdateNumber> {
        let gap = !self.waiting.is_empty() && !self.waiting.contains_key(&self.next_start);
        gap.then_some(self.next_start)
    }

    /// Everything up to here is visible.
    pub fn restored(&self) -> UpdateNumber {
        self.restored
    }

    /// Everything up to here is durable in the volumes.
    pub fn settled(&self) -> UpdateNumber {
        self.settled
    }

    /// The largest number as of which initial-copy data was restored.
    pub fn consistent_from(&self) -> UpdateNumber {
        self.consistent_from
    }

    /// Whether the volumes are the image of one number: no initial-copy data in them is newer than what is restored.
    pub fn is_consistent(&self) -> bool {
        self.restored >= self.consistent_from
    }
}

fn overlap(a: &Entry, b: &Entry) -> bool {
    a.extents.iter().any(|x| b.extents.iter().any(|y| x.overlaps(y)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::{Generation, VolumeNumber};
    use crate::update::{Content, CopyForm, InitialCopy, Kind};
    use alloc::vec;
    use proptest::prelude::*;

    fn write(number: u64, start: u64, length: u64) -> Update {
        Update {
            number: UpdateNumber::new(number),
            generation: Generation::default(),
            kind: Kind::HostWrite,
            time_ns: 0,
            extents: vec![Extent {
                volume: VolumeNumber(1),
                start_bytes: start,
                length_bytes: length,
                content: Content::Zero,
            }],
            data_bytes: 0,
            data_checksum: 0,
        }
    }

    fn number(value: u64) -> UpdateNumber {
        UpdateNumber::new(value)
    }

    fn position(number: UpdateNumber) -> usize {
        usize::try_from(number.get()).unwrap() - 1
    }

    #[test]
    fn what_arrives_early_waits_for_the_missing_number() {
        let mut queue = RestoreQueue::new(UpdateNumber::NONE, UpdateNumber::NONE);
        queue.handle_arrived(&write(2, 0, 1)).unwrap();
        assert_eq!(queue.poll_start(), None);
        assert_eq!(queue.missing(), Some(number(1)));
        queue.handle_arrived(&write(1, 5, 1)).unwrap();
        assert_eq!(queue.handle_arrived(&write(1, 5, 1)), Err(ArrivalError::Repeated));
        assert_eq!(queue.poll_start(), Some(number(1)));
        assert_eq!(queue.handle_arrived(&write(1, 5, 1)), Err(ArrivalError::Repeated));
    }

    #[test]
    fn disjoint_updates_are_prepared_side_by_side_and_become_visible_in_order() {
        let mut queue = RestoreQueue::new(UpdateNumber::NONE, UpdateNumber::NONE);
        queue.handle_arrived(&write(1, 0, 10)).unwrap();
        queue.handle_arrived(&write(2, 10, 10)).unwrap();
        queue.handle_arrived(&write(3, 19, 10)).unwrap();
        assert_eq!(queue.poll_start(), Some(number(1)));
        assert_eq!(queue.poll_start(), Some(number(2)));
        assert_eq!(queue.poll_start(), None, "3 overlaps 2");
        queue.handle_prepared(number(2));
        assert_eq!(queue.poll_visible(), None, "1 comes first");
        queue.handle_prepared(number(1));
        assert_eq!(queue.poll_visible(), Some(number(1)));
        queue.handle_settled(number(9));
        assert_eq!(queue.settled(), number(1), "only what is visible can be settled");
        assert_eq!(queue.poll_visible(), Some(number(2)));
        assert_eq!(queue.poll_start(), Some(number(3)));
    }

    #[test]
    fn a_volume_is_consistent_when_it_has_the_largest_number_its_copy_was_read_at() {
        let mut queue = RestoreQueue::new(UpdateNumber::NONE, UpdateNumber::NONE);
        let mut copy = write(1, 0, 10);
        copy.kind = Kind::InitialCopy(InitialCopy {
            volume: VolumeNumber(1),
            reader: crate::number::ArrayNumber(2),
            last_of_pair: true,
            form: CopyForm::Received { as_of: number(2) },
        });
        for update in [copy, write(2, 0, 1)] {
            queue.handle_arrived(&update).unwrap();
            let started = queue.poll_start().unwrap();
            queue.handle_prepared(started);
            queue.poll_visible().unwrap();
            assert_eq!(queue.is_consistent(), started == number(2));
        }
        assert_eq!(queue.consistent_from(), number(2));
    }

    #[test]
    fn a_stopped_queue_finishes_what_was_started_and_starts_nothing() {
        let mut queue = RestoreQueue::new(number(4), UpdateNumber::NONE);
        queue.handle_arrived(&write(5, 0, 1)).unwrap();
        queue.handle_arrived(&write(6, 9, 1)).unwrap();
        queue.poll_start().unwrap();
        queue.stop();
        assert_eq!(queue.poll_start(), None);
        queue.handle_prepared(number(5));
        assert_eq!(queue.poll_visible(), Some(number(5)));
        assert!(queue.is_idle());
        queue.resume();
        assert_eq!(queue.poll_start(), Some(number(6)));
    }

    proptest! {
        #[test]
        fn any_arrival_and_any_order_of_completion_gives_the_same_image(
            ranges in prop::collection::vec((0_usize..24, 1_usize..8), 1..40),
            keys in prop::collection::vec(any::<u32>(), 40),
            choices in prop::collection::vec(any::<u8>(), 200),
        ) {
            let mut oracle = [0_u64; 32];
            for (position, (start, length)) in ranges.iter().enumerate() {
                oracle[*start..start + length].fill(position as u64 + 1);
            }
            let mut order: Vec<usize> = (0..ranges.len()).collect();
            order.sort_by_key(|position| keys[*position]);
            let mut queue = RestoreQueue::new(UpdateNumber::NONE, UpdateNumber::NONE);
            let mut arrivals = order.into_iter();
            let mut preparing: Vec<UpdateNumber> = Vec::new();
            let mut image = [0_u64; 32];
            let mut choices = choices.into_iter().cycle();
            while queue.restored() != number(ranges.len() as u64) {
                if let Some(position) = arrivals.next() {
                    let (start, length) = ranges[position];
                    queue.handle_arrived(&write(position as u64 + 1, start as u64, length as u64)).unwrap();
                }
                while let Some(started) = queue.poll_start() {
                    // Being prepared together means touching different bytes.
                    for other in &preparing {
                        let (a, b) = (ranges[position(started)], ranges[position(*other)]);
                        prop_assert!(a.0 + a.1 <= b.0 || b.0 + b.1 <= a.0);
                    }
                    preparing.push(started);
                }
                if !preparing.is_empty() {
                    let pick = usize::from(choices.next().unwrap()) % preparing.len();
                    queue.handle_prepared(preparing.swap_remove(pick));
                }
                while let Some(visible) = queue.poll_visible() {
                    let (start, length) = ranges[position(visible)];
                    image[start..start + length].fill(visible.get());
                }
            }
            prop_assert_eq!(image, oracle);
        }
    }
}
