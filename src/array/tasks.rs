//! The tasks of one array: started together, ended together.
//!
//! A simulated kill drops every future of the array at once, wherever it waits, exactly as a lost process would; a
//! clean stop has already told them to finish.

use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::JoinSet;

/// Handle to the set. Cloning gives another handle.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tasks(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    running: JoinSet<()>,
    ended: bool,
}

impl Tasks {
    /// Starts a task that lives at most as long as the array. After [`Tasks::end`] nothing is started any more.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.ended {
            while state.running.try_join_next().is_some() {} // Forget those that have ended by themselves.
            state.running.spawn(task);
        }
    }

    /// Ends every task where it stands and waits until all are gone.
    pub(crate) async fn end(&self) {
        let mut running = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.ended = true;
            std::mem::take(&mut state.running)
        };
        running.abort_all();
        while running.join_next().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    struct SetOnDrop(Arc<AtomicBool>);
    impl Drop for SetOnDrop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn the_end_drops_what_waits_and_starts_nothing_more() {
        let (tasks, dropped) = (Tasks::default(), Arc::new(AtomicBool::new(false)));
        let guard = SetOnDrop(dropped.clone());
        tasks.spawn(async move {
            std::future::pending::<()>().await;
            drop(guard);
        });
        tokio::task::yield_now().await;
        tasks.end().await;
        assert!(dropped.load(Ordering::SeqCst));
        tasks.spawn(async { panic!("nothing starts after the end") });
    }
}
