//! Who changes what volumes are, and who makes snapshots of them meanwhile.
//!
//! Snapshots are made side by side, whichever volumes they are of: each *shares* the volumes that it is made from and those that it makes. Who
//! deletes a volume, makes it larger or takes it back to a snapshot has it *alone*. Here nobody waits for a volume that he does not name.
//! Those who create, delete, grow or take back have the lock `manage` as well, so they wait for each other behind a slow unit; snapshots that
//! are being made do not. Who wants one alone waits for all who share it, also for those who come later: these are few, and each ends by itself.

use super::volume::lock;
use crate::disk::space::map::VolumeId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

/// The volumes that somebody uses now.
#[derive(Debug, Default)]
pub(super) struct Uses {
    now: Mutex<BTreeMap<VolumeId, Use>>,
    ended: Notify,
}

/// Volumes that somebody uses until this is dropped.
#[derive(Debug)]
pub(super) struct Using {
    uses: Arc<Uses>,
    volumes: BTreeSet<VolumeId>,
}

#[derive(Debug, PartialEq, Eq)]
enum Use {
    Shared(usize),
    Alone,
}

impl Uses {
    /// Nobody changes what these volumes are.
    pub(super) async fn share(self: &Arc<Self>, volumes: impl IntoIterator<Item = VolumeId>) -> Using {
        self.take(volumes.into_iter().collect(), |now, volumes| {
            if volumes.iter().any(|volume| now.get(volume) == Some(&Use::Alone)) {
                return false;
            }
            for volume in volumes {
                match now.entry(*volume).or_insert(Use::Shared(0)) {
                    Use::Shared(count) => *count += 1,
                    Use::Alone => {}
                }
            }
            true
        })
        .await
    }

    /// Nobody else changes what these volumes are, and no snapshot of them or under their numbers is being made.
    pub(super) async fn alone(self: &Arc<Self>, volumes: impl IntoIterator<Item = VolumeId>) -> Using {
        self.take(volumes.into_iter().collect(), |now, volumes| {
            if volumes.iter().any(|volume| now.contains_key(volume)) {
                return false;
            }
            now.extend(volumes.iter().map(|volume| (*volume, Use::Alone)));
            true
        })
        .await
    }

    /// All of them or none: who waits has nothing that another one waits for.
    async fn take(
        self: &Arc<Self>,
        volumes: BTreeSet<VolumeId>,
        takes: impl Fn(&mut BTreeMap<VolumeId, Use>, &BTreeSet<VolumeId>) -> bool,
    ) -> Using {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if takes(&mut lock(&self.now), &volumes) {
                return Using { uses: Arc::clone(self), volumes };
            }
            ended.await;
        }
    }
}

impl Drop for Using {
    fn drop(&mut self) {
        {
            let mut now = lock(&self.uses.now);
            for volume in &self.volumes {
                match now.get_mut(volume) {
                    Some(Use::Shared(count)) if *count > 1 => *count -= 1,
                    Some(Use::Shared(_) | Use::Alone) => _ = now.remove(volume),
                    None => {}
                }
            }
        }
        self.uses.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn who_changes_a_volume_waits_for_those_who_share_it_and_for_nobody_else() {
        let uses = Arc::new(Uses::default());
        let [one, two, three] = [1, 2, 3].map(VolumeId);
        let first = uses.share([one, two]).now_or_never().expect("nobody has them");
        let second = uses.share([two]).now_or_never().expect("they are shared");
        let third = uses.alone([three]).now_or_never().expect("nobody has it");
        assert!(uses.share([one, three]).now_or_never().is_none());
        let mut alone = Box::pin(uses.alone([two]));
        assert!((&mut alone).now_or_never().is_none());
        drop(first);
        assert!((&mut alone).now_or_never().is_none());
        drop(second);
        let alone = alone.now_or_never().expect("all have ended");
        assert!(uses.share([two]).now_or_never().is_none());
        drop((alone, third));
        assert!(uses.alone([one, two, three]).now_or_never().is_some());
        assert!(lock(&uses.now).is_empty());
    }
}
