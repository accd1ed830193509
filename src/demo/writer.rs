//! The built-in host's load: a few writers, each with one command under way at a time, over all volumes.

use crate::channel::host::{Durability, HostError, HostLun};
use crate::clock::{Clock, SeededEntropy};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::task::JoinSet;

/// A load at work.
pub(super) struct Writer {
    tasks: JoinSet<Result<(), HostError>>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    stop: AtomicBool,
    writes: AtomicU64,
    bytes: AtomicU64,
}

impl Writer {
    /// Begins to write.
    pub(super) fn start(volumes: Vec<HostLun>, clock: &dyn Clock) -> Self {
        let state = Arc::new(State::default());
        let mut tasks = JoinSet::new();
        for worker in 0..WORKERS {
            let (volumes, state) = (volumes.clone(), state.clone());
            let random = SeededEntropy::new(clock.wall().0 ^ (worker << 48));
            tasks.spawn(async move {
                while !state.stop.load(Ordering::Acquire) {
                    write_one(&volumes, &random, &state).await?;
                }
                Ok(())
            });
        }
        Self { tasks, state }
    }

    /// Writes and bytes so far.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.state.writes.load(Ordering::Relaxed), self.state.bytes.load(Ordering::Relaxed))
    }

    /// Ends the load; writes and bytes in all.
    pub(super) async fn finish(mut self) -> anyhow::Result<(u64, u64)> {
        self.state.stop.store(true, Ordering::Release);
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        Ok(self.totals())
    }
}

async fn write_one(volumes: &[HostLun], random: &SeededEntropy, state: &State) -> Result<(), HostError> {
    let index = usize::try_from(random.below(volumes.len() as u64)).unwrap_or(0);
    let volume = &volumes[index];
    let sizes: [u64; 4] = [4096, 4096, 16_384, 65_536];
    let bytes = sizes[usize::try_from(random.below(4)).unwrap_or(0)];
    let blocks = bytes / u64::from(volume.block_bytes);
    let lba = random.below(volume.blocks / blocks) * blocks;
    let data: Vec<u8> = (0..bytes / 8).flat_map(|_| random.next_u64().to_le_bytes()).collect();
    // One write in sixteen insists on being durable, as databases do.
    let durability = if random.below(16) == 0 { Durability::Forced } else { Durability::Cached };
    volume.write(lba, data, durability).await?;
    state.writes.fetch_add(1, Ordering::Relaxed);
    state.bytes.fetch_add(bytes, Ordering::Relaxed);
    Ok(())
}

/// Writers side by side.
const WORKERS: u64 = 8;
