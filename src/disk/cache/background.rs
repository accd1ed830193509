//! Destaging without being asked: what is old, and the oldest when much is dirty or memory is short.
//!
//! Pages whose gate is closed are skipped, so that a journal that stands still holds up nobody else; a volume that could
//! not be destaged has a pause of its own. Nothing is polled: the loop sleeps until something is old enough, or is woken.

use super::destage::{Gates, Swept, shielded};
use super::{DiskAdapter, Inner};
use crate::clock::MonotonicNs;
use crate::disk::space::bits::PageBits;
use crate::disk::space::map::VolumeId;
use futures_util::future::join_all;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

impl DiskAdapter {
    /// Destages by itself what is old or too much, for as long as the array runs. One task of the array drives it.
    pub async fn run(&self) {
        loop {
            let kicked = self.0.kick.notified();
            match self.0.plan() {
                Plan::Idle => kicked.await,
                Plan::Until(wait) => {
                    tokio::select! { biased; () = kicked => {} () = self.0.clock.sleep(wait) => {} }
                }
                Plan::Now(work) => {
                    let progress = self.0.progress.notified();
                    tokio::pin!(progress);
                    progress.as_mut().enable();
                    let swept = Arc::clone(&self.0).sweep(work).await;
                    self.0.pause_after(swept, progress).await;
                }
            }
        }
    }

    /// How long the oldest dirty page has waited; for display and tests.
    #[must_use]
    pub fn oldest_dirty(&self) -> Option<MonotonicNs> {
        let oldest = |cell: &super::ShardCell| cell.lock().dirty.values().map(|extent| extent.oldest).min();
        self.0.shards.iter().filter_map(oldest).min()
    }
}

/// What [`DiskAdapter::run`] does next.
enum Plan {
    Idle,
    Until(Duration),
    Now(BTreeMap<VolumeId, Vec<(u32, PageBits)>>),
}

/// A dirty extent: since when, where, which pages.
type DirtyPlace = (MonotonicNs, (VolumeId, u32), PageBits);

impl Inner {
    fn plan(&self) -> Plan {
        // Said before looking, while a writer counts before it asks: in the one order of all four (hence SeqCst) either
        // this look sees the page or the writer sees that it has to kick.
        self.idle.store(true, Ordering::SeqCst);
        let dirty = self.totals.dirty.load(Ordering::SeqCst);
        if dirty == 0 {
            return Plan::Idle;
        }
        self.idle.store(false, Ordering::Release);
        let now = self.clock.now();
        let (extents, paused) = self.oldest_first(now);
        let Some((oldest, ..)) = extents.first() else {
            return Plan::Until(paused.map_or(self.settings.retry_pause, |until| until.since(now)));
        };
        let mut too_many = dirty.saturating_sub(self.dirty_limit(self.settings.dirty_low_percent));
        if dirty <= self.dirty_limit(self.settings.dirty_high_percent) {
            too_many = 0;
        }
        if self.pressed.swap(false, Ordering::AcqRel) {
            too_many = too_many.max(dirty.div_ceil(2));
        }
        let age = now.since(*oldest);
        if too_many == 0 && age < self.settings.age_max {
            let wait = self.settings.age_max - age;
            return Plan::Until(paused.map_or(wait, |until| wait.min(until.since(now))));
        }
        // What is nearly old goes along, so that passes are few and stripes full.
        let young = self.settings.age_max.mul_f32(0.75);
        let mut work: BTreeMap<VolumeId, Vec<(u32, PageBits)>> = BTreeMap::new();
        let mut taken = 0;
        for (oldest, (volume, extent), pages) in extents {
            if taken >= too_many && now.since(oldest) < young {
                break;
            }
            taken += usize::try_from(pages.count()).unwrap_or(usize::MAX);
            work.entry(volume).or_default().push((extent, pages));
        }
        work.values_mut().for_each(|extents| extents.sort_unstable_by_key(|(extent, _)| *extent));
        Plan::Now(work)
    }

    /// Dirty extents of the volumes that may be destaged now, and when the next of the others may be.
    fn oldest_first(&self, now: MonotonicNs) -> (Vec<DirtyPlace>, Option<MonotonicNs>) {
        let volumes = self.volumes.read().unwrap_or_else(PoisonError::into_inner);
        let paused: BTreeMap<_, _> = volumes
            .values()
            .filter(|volume| volume.paused_until() > now)
            .map(|volume| (volume.id(), volume.paused_until()))
            .collect();
        drop(volumes);
        let (mut extents, mut next) = (Vec::new(), None);
        for cell in &self.shards {
            for (place, extent) in &cell.lock().dirty {
                match paused.get(&place.0) {
                    None => extents.push((extent.oldest, *place, extent.pages)),
                    Some(until) => next = Some(next.map_or(*until, |next: MonotonicNs| next.min(*until))),
                }
            }
        }
        extents.sort_unstable_by_key(|(oldest, place, _)| (*oldest, *place));
        (extents, next)
    }

    async fn sweep(self: Arc<Self>, work: BTreeMap<VolumeId, Vec<(u32, PageBits)>>) -> Swept {
        let mut all = Swept::default();
        let mut work = work.into_iter().peekable();
        while work.peek().is_some() {
            let some = work.by_ref().take(VOLUMES_AT_ONCE);
            let passes = some.map(|(id, extents)| {
                let inner = Arc::clone(&self);
                shielded(async move {
                    let mut swept = Swept::default();
                    if let Ok(volume) = inner.volume(id)
                        && let Ok(_turn) = Arc::clone(&volume.pass).try_lock_owned()
                    {
                        // The volume knows the error; it is tried again.
                        let mut extents = extents.into_iter().peekable();
                        let _ = inner.pass_until_wanted(&volume, &mut extents, Gates::Skip, &mut swept).await;
                    }
                    swept
                })
            });
            for swept in join_all(passes).await {
                all.pages += swept.pages;
                all.failed |= swept.failed;
                all.closed = all.closed.or(swept.closed);
            }
        }
        all
    }

    /// Nothing could be written, because gates are closed or others are at it: waits for one of them, `progress` being that others have
    /// written, or hold a volume back no more. A volume that failed has its own pause and holds nobody up.
    async fn pause_after(&self, swept: Swept, progress: impl Future<Output = ()>) {
        if swept.pages > 0 || swept.failed {
            return;
        }
        let pause = self.clock.sleep(self.settings.retry_pause);
        match swept.closed {
            Some((volume, number)) => {
                tokio::select! { biased; () = volume.wait_open(number) => {} () = pause => {} }
            }
            None => {
                tokio::select! { biased; () = progress => {} () = pause => {} }
            }
        }
    }
}

/// Volumes that are destaged at the same time by themselves; bounds the pages on their way.
const VOLUMES_AT_ONCE: usize = 8;
