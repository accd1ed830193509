//! The end of a group at work while its array goes on: its journal begins anew, or it is deleted.
//!
//! The tasks of a group end where they stand between two steps, never within one: a write of the journal volume that
//! is under way has landed before [`Group::close`] returns, so nothing of the old journal can overtake a new one.

use super::error::CopyError;
use super::group::Group;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use tokio::sync::Notify;

/// Whether the group ends, and how many of its tasks still run.
#[derive(Debug, Default)]
pub(crate) struct Closing {
    begun: AtomicBool,
    /// Where the journal begins that takes this one's place; 0: none was asked for.
    anew_from: AtomicU64,
    /// Everything is being restored before that.
    restores_last: AtomicBool,
    running: AtomicUsize,
    asked: Notify,
    ended: Notify,
}

/// One running task of a group.
pub(crate) struct Running(Arc<Group>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.closing.running.fetch_sub(1, Ordering::AcqRel);
        self.0.closing.ended.notify_waiters();
    }
}

/// The last restore of a group is under way until this is dropped; the group does not end before.
pub(crate) struct LastRestore(Running);

impl Drop for LastRestore {
    fn drop(&mut self) {
        let Running(group) = &self.0;
        group.closing.restores_last.store(false, Ordering::Release);
    }
}

impl Closing {
    pub(crate) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// The owner of the groups is to end this one; another journal follows that begins with this number.
    pub(crate) fn ask_for_end(&self, first: u64) {
        self.anew_from.store(first.max(1), Ordering::Release);
    }

    /// It need not end.
    pub(crate) fn take_back_end(&self) {
        self.anew_from.store(0, Ordering::Release);
    }

    /// What was asked for.
    pub(crate) fn wanted_end(&self) -> Option<u64> {
        Some(self.anew_from.load(Ordering::Acquire)).filter(|first| *first > 0)
    }

    /// Waits until the group shall end.
    pub(crate) async fn begins(&self) {
        loop {
            let asked = self.asked.notified();
            tokio::pin!(asked);
            asked.as_mut().enable();
            if self.has_begun() {
                return;
            }
            asked.await;
        }
    }
}

impl Group {
    /// A task of the group runs until this is dropped.
    pub(crate) fn running(self: &Arc<Self>) -> Running {
        self.closing.running.fetch_add(1, Ordering::AcqRel);
        Running(self.clone())
    }

    /// Before the journal ends everything is restored once more; none if that is under way already.
    pub(crate) fn begin_last_restore(self: &Arc<Self>) -> Option<LastRestore> {
        let is_under_way = self.closing.restores_last.swap(true, Ordering::AcqRel);
        (!is_under_way).then(|| LastRestore(self.running()))
    }

    /// Ends the group, and what is restored goes to the units: only then may the journal that protects it go. In this order,
    /// because until the group has ended it restores more. May be called again after an error.
    pub(crate) async fn close_destaged(&self) -> Result<(), CopyError> {
        self.close().await;
        let _nothing_is_restored = self.restoring.lock().await;
        let volumes = self.data_volumes(&self.lock());
        Ok(self.disk.destage(&volumes).await?)
    }

    /// Ends the group's tasks and waits until the last of them has ended.
    pub(crate) async fn close(&self) {
        self.closing.begun.store(true, Ordering::Release);
        loop {
            let ended = self.closing.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            self.closing.asked.notify_waiters();
            if self.closing.running.load(Ordering::Acquire) == 0 {
                return;
            }
            ended.await;
        }
    }
}
