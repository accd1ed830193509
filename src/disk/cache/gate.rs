//! The write-ahead rule: a page that carries update n is destaged only when the journal is durable up to n.

use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// How far a journal is durable. The journal's writer moves it, destage asks; volumes of a group share one.
#[derive(Debug, Default)]
pub struct Gate {
    durable: AtomicU64,
    moved: Notify,
}

impl Gate {
    /// A gate that is open up to `durable`.
    #[must_use]
    pub fn new(durable: u64) -> Self {
        Self { durable: AtomicU64::new(durable), moved: Notify::new() }
    }

    /// The journal is durable up to `number`; a smaller number than before changes nothing.
    pub fn advance(&self, number: u64) {
        if self.durable.fetch_max(number, Ordering::AcqRel) < number {
            self.moved.notify_waiters();
        }
    }

    /// How far.
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Waits until it is open for `number`.
    pub async fn wait(&self, number: u64) {
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            if self.durable() >= number {
                return;
            }
            moved.await;
        }
    }
}
