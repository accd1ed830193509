//! Ranges of volumes, held one after the other: first come, first served.
//!
//! Who asks for a range waits for everybody who asked earlier for a range that overlaps it, whether that one holds it
//! already or waits too. So nobody is overtaken, and nobody waits for ever: who waits, waits for earlier ones only.
//! A [`Hold`] that is dropped, also while it waits, lets the next ones on.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// All ranges that are asked for.
#[derive(Debug, Default)]
pub(crate) struct Ranges {
    queue: Mutex<Queue>,
    left: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    next: u64,
    asked: BTreeMap<u64, Asked>,
}

#[derive(Debug)]
struct Asked {
    volume: u32,
    ranges: Vec<Range<u64>>,
}

/// Ranges of a volume that one holds, or waits for.
#[derive(Debug)]
pub(crate) struct Hold {
    all: Arc<Ranges>,
    place: u64,
}

impl Ranges {
    /// Holds ranges of a volume.
    pub(crate) async fn hold(self: &Arc<Self>, volume: u32, ranges: Vec<Range<u64>>) -> Hold {
        let hold = {
            let mut queue = self.lock();
            let place = queue.next;
            queue.next += 1;
            queue.asked.insert(place, Asked { volume, ranges });
            Hold { all: self.clone(), place }
        };
        loop {
            let left = self.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if self.lock().is_first(hold.place) {
                return hold;
            }
            left.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Whether nobody who asked earlier has a part of the same bytes.
    fn is_first(&self, place: u64) -> bool {
        let Some(own) = self.asked.get(&place) else { return true };
        let overlaps = |a: &Range<u64>, b: &Range<u64>| a.start < b.end && b.start < a.end;
        self.asked.range(..place).all(|(_, earlier)| {
            earlier.volume != own.volume
                || !earlier.ranges.iter().any(|a| own.ranges.iter().any(|b| overlaps(a, b)))
        })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.all.lock().asked.remove(&self.place);
        self.all.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn is_held(hold: impl Future<Output = Hold>) -> Option<Hold> {
        tokio::select! {
            biased;
            hold = hold => Some(hold),
            () = tokio::task::yield_now() => None,
        }
    }

    fn one(range: Range<u64>) -> Vec<Range<u64>> {
        std::iter::once(range).collect()
    }

    #[tokio::test]
    async fn who_overlaps_an_earlier_one_waits_for_it_even_if_that_one_waits_too() {
        let all = Arc::new(Ranges::default());
        let first = all.hold(1, one(0..10)).await;
        let mut second = Box::pin(all.hold(1, vec![5..6, 20..30]));
        assert!(is_held(&mut second).await.is_none());
        // Free where the first one is, but not where the second one will be.
        let mut third = Box::pin(all.hold(1, one(25..26)));
        assert!(is_held(&mut third).await.is_none());
        assert!(is_held(all.hold(1, one(10..20))).await.is_some(), "disjoint");
        assert!(is_held(all.hold(2, one(0..10))).await.is_some(), "another volume");
        drop(first);
        let second = is_held(&mut second).await;
        assert!(second.is_some() && is_held(&mut third).await.is_none());
        drop(second);
        assert!(is_held(&mut third).await.is_some());
    }

    #[tokio::test]
    async fn who_stops_waiting_is_in_nobodys_way() {
        let all = Arc::new(Ranges::default());
        let first = all.hold(1, one(0..10)).await;
        let mut second = Box::pin(all.hold(1, one(5..15)));
        assert!(is_held(&mut second).await.is_none());
        let mut third = Box::pin(all.hold(1, one(12..13)));
        assert!(is_held(&mut third).await.is_none());
        drop(second);
        assert!(is_held(&mut third).await.is_some());
        drop(first);
        assert!(all.lock().asked.is_empty());
    }
}
