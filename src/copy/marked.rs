//! What hosts write to an S-VOL while it is suspended, marked before it is written (promise O2).
//!
//! Nothing journals these writes. So a region is marked durably, in the control store, before the first change of it
//! becomes visible: whatever a crash leaves of hosts' data on the units lies in a marked region. Later changes of it cost
//! nothing. Marks that many changes wait for are made durable together, by the one task that runs
//! `SvolMarks::write_marks`.
//!
//! A failure of the store ends it: no change that would need a new mark becomes visible after that.

use super::change::Change;
use super::differences::DifferenceMap;
use super::error::CopyError;
use super::group::Group;
use super::suspend::MarkStore;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The marks of one S-VOL.
pub struct SvolMarks {
    pair: u32,
    store: Arc<dyn MarkStore>,
    state: Mutex<State>,
    wanted: Notify,
    done: Notify,
}

struct State {
    /// What is marked, or shall be.
    map: DifferenceMap,
    /// What is marked in the store.
    durable: DifferenceMap,
    /// Why nothing more can be marked.
    ended: Option<String>,
}

impl SvolMarks {
    /// The marks as the store has them.
    pub(crate) fn new(pair: u32, map: DifferenceMap, store: Arc<dyn MarkStore>) -> Arc<Self> {
        let state = State { durable: map.clone(), map, ended: None };
        Arc::new(Self { pair, store, state: Mutex::new(state), wanted: Notify::new(), done: Notify::new() })
    }

    /// Whether everything that the change touches is marked durably: it may become visible.
    pub(crate) fn covers(&self, change: &Change) -> bool {
        let state = self.lock();
        change.parts.iter().all(|part| state.durable.is_marked(part.offset_bytes, part.length_bytes))
    }

    /// Marks what the change touches; when this returns the marks are durable.
    ///
    /// # Errors
    /// The store cannot be written, or hosts may not write the volume any more.
    pub(crate) async fn mark(&self, change: &Change) -> Result<(), String> {
        loop {
            let done = self.done.notified();
            tokio::pin!(done);
            done.as_mut().enable();
            {
                let mut state = self.lock();
                if let Some(reason) = &state.ended {
                    return Err(reason.clone());
                }
                let State { map, durable, .. } = &mut *state;
                let mut parts = change.parts.iter();
                if parts.all(|part| durable.is_marked(part.offset_bytes, part.length_bytes)) {
                    return Ok(());
                }
                change.parts.iter().for_each(|part| map.mark(part.offset_bytes, part.length_bytes));
            }
            self.wanted.notify_one();
            done.await;
        }
    }

    /// Marks ranges that differ for another reason than a host's change here; when this returns the marks are durable.
    ///
    /// # Errors
    /// The store cannot be written, or hosts may not write the volume any more.
    pub(crate) async fn mark_runs(&self, runs: &[(u64, u64)]) -> Result<(), String> {
        loop {
            let done = self.done.notified();
            tokio::pin!(done);
            done.as_mut().enable();
            {
                let mut state = self.lock();
                if let Some(reason) = &state.ended {
                    return Err(reason.clone());
                }
                if runs.iter().all(|(start, length)| state.durable.is_marked(*start, *length)) {
                    return Ok(());
                }
                runs.iter().for_each(|(start, length)| state.map.mark(*start, *length));
            }
            self.wanted.notify_one();
            done.await;
        }
    }

    /// Whether the range is marked durably.
    pub(crate) fn is_durable(&self, start_bytes: u64, length_bytes: u64) -> bool {
        self.lock().durable.is_marked(start_bytes, length_bytes)
    }

    /// Marks runs of whole pieces, not durably yet, if `take` agrees to the bytes of those pieces among them that nobody has
    /// marked before. It is not asked for nothing, and they are not counted beyond `most_bytes`: that is a refusal.
    pub(crate) fn claim(
        &self,
        runs: &[(u64, u64)],
        piece_bytes: u64,
        most_bytes: u64,
        take: impl FnOnce(u64) -> bool,
    ) -> bool {
        let mut state = self.lock();
        let mut new_bytes = 0_u64;
        for (start, length) in runs {
            let past = start.saturating_add(*length).min(state.map.capacity_bytes());
            let mut at = *start;
            while at < past {
                if !state.map.is_marked(at, piece_bytes) {
                    new_bytes += piece_bytes;
                }
                if new_bytes > most_bytes {
                    return false;
                }
                at += piece_bytes;
            }
        }
        if new_bytes > 0 && !take(new_bytes) {
            return false;
        }
        runs.iter().for_each(|(start, length)| state.map.mark(*start, *length));
        true
    }

    /// Makes marks durable as they are wanted; ends when hosts may not write any more.
    pub(crate) async fn write_marks(self: Arc<Self>) {
        loop {
            let wanted = self.wanted.notified();
            let changed = {
                let mut state = self.lock();
                if state.ended.is_some() {
                    return;
                }
                state.map.take_changed()
            };
            if changed.is_empty() {
                wanted.await;
                continue;
            }
            let written = self.store.put(vec![(self.pair, changed.clone())]);
            let mut state = self.lock();
            match written {
                Ok(()) => state.durable.adopt(&changed),
                Err(reason) => {
                    tracing::error!(pair = self.pair, %reason, "differences of an S-VOL cannot be marked");
                    state.ended = Some(format!("differences cannot be marked: {reason}"));
                }
            }
            drop(state);
            self.done.notify_waiters();
        }
    }

    /// Nothing is marked from here on; what is marked or was to be.
    pub(crate) fn end(&self) -> DifferenceMap {
        let map = {
            let mut state = self.lock();
            state.ended.get_or_insert_with(|| "hosts may not write this copy any more".to_owned());
            state.map.clone()
        };
        self.done.notify_waiters();
        self.wanted.notify_one();
        map
    }

    /// How many bytes are marked.
    pub(crate) fn differing_bytes(&self) -> u64 {
        self.lock().map.marked_bytes()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Group {
    /// What hosts of the auxiliary have written of the S-VOL counts as different; whether there is a map that says so.
    #[must_use]
    pub(crate) fn mark_runs(&self, pair: u32, runs: &[(u64, u64)]) -> bool {
        let mut is_marked = false;
        let mut seq = self.lock();
        for runtime in seq.pairs.values_mut().flatten().filter(|runtime| runtime.pair == pair) {
            if let Some(map) = &mut runtime.resync.differences {
                runs.iter().for_each(|(start, length)| map.mark(*start, *length));
                is_marked = true;
            }
        }
        is_marked
    }

    /// All of these pairs differs.
    pub(crate) fn mark_whole(&self, pairs: &[u32]) {
        let mut seq = self.lock();
        for runtime in seq.pairs.values_mut().flatten().filter(|runtime| pairs.contains(&runtime.pair)) {
            let capacity = runtime.capacity_bytes;
            let map = runtime.resync.differences.get_or_insert_with(|| DifferenceMap::new(capacity));
            map.mark(0, capacity);
        }
    }

    /// The same, durably. A checkpoint that has taken older parts of the map and not written them yet is waited for: they
    /// would be written over these.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) async fn join_runs(&self, pair: u32, runs: &[(u64, u64)]) -> Result<bool, CopyError> {
        let _one_at_a_time = self.checkpointing.lock().await;
        if !self.mark_runs(pair, runs) {
            return Ok(false);
        }
        self.write_marks().map(|()| true)
    }

    /// Where the S-VOL of a pair may differ, as far as it is marked here.
    pub(crate) fn marked_runs(&self, pair: u32, most: usize) -> Vec<(u64, u64)> {
        let seq = self.lock();
        let runtime = seq.pairs.values().flatten().find(|runtime| runtime.pair == pair);
        let map = runtime.and_then(|runtime| runtime.resync.differences.as_ref());
        map.map_or_else(Vec::new, |map| map.runs(most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copy::change::{Content, Part};
    use crate::copy::differences::ChangedPart;
    use std::sync::atomic::{AtomicBool, Ordering};

    const CAPACITY: u64 = 1 << 30;

    #[derive(Default)]
    struct Kept {
        map: Mutex<Option<DifferenceMap>>,
        fails: AtomicBool,
    }

    impl MarkStore for Kept {
        fn note_freed(&self, _group: u32, _note: &crate::copy::freed::FreedNote) -> Result<(), String> {
            Ok(())
        }

        fn note_together(&self, _group: u32, _together: Result<(), &str>) -> Result<(), String> {
            Ok(())
        }

        fn has_pair_of(&self, _group: u32, _pvol: u32) -> bool {
            true
        }

        fn note_copy_ends(&self, _ends: &[crate::copy::checkpoint::PairMark]) -> Result<(), String> {
            Ok(())
        }

        fn put(&self, changed: Vec<(u32, Vec<ChangedPart>)>) -> Result<(), String> {
            if self.fails.load(Ordering::Relaxed) {
                return Err("the disk is gone".into());
            }
            let mut map = self.map.lock().unwrap();
            let map = map.get_or_insert_with(|| DifferenceMap::new(CAPACITY));
            changed.iter().for_each(|(_, parts)| map.adopt(parts));
            Ok(())
        }
    }

    fn change(offset_bytes: u64) -> Change {
        Change::new(1, vec![Part { offset_bytes, length_bytes: 4096, content: Content::Zero }])
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_marked_in_the_store_before_it_may_become_visible() {
        let store = Arc::new(Kept::default());
        let marks = SvolMarks::new(3, DifferenceMap::new(CAPACITY), store.clone());
        let writer = tokio::spawn(marks.clone().write_marks());
        for at in [0, 5 << 20, (5 << 20) + 8192] {
            assert_eq!(marks.covers(&change(at)), at == (5 << 20) + 8192, "a marked region costs nothing");
            marks.mark(&change(at)).await.unwrap();
            assert!(marks.covers(&change(at)));
            let durable = store.map.lock().unwrap().clone().unwrap();
            assert!(durable.is_marked(at, 4096));
        }
        store.fails.store(true, Ordering::Relaxed);
        assert!(marks.mark(&change(9 << 20)).await.unwrap_err().contains("the disk is gone"));
        assert!(!marks.covers(&change(9 << 20)), "what is not marked is not written");
        assert!(marks.covers(&change(0)));
        writer.await.unwrap();
        assert!(marks.end().is_marked(9 << 20, 1), "more may be marked, never less");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_mark_hears_that_hosts_may_not_write_any_more() {
        let marks = SvolMarks::new(3, DifferenceMap::new(CAPACITY), Arc::new(Kept::default()));
        let waiting = marks.clone();
        let waiting = tokio::spawn(async move { waiting.mark(&change(0)).await });
        tokio::task::yield_now().await;
        marks.end();
        assert!(waiting.await.unwrap().is_err());
    }
}
