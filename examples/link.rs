//! A link of a given length and width: a TCP proxy for measurements.
//!
//! `link LISTEN UPSTREAM DELAY_MS BYTES_PER_S`: what comes in at one end leaves the other DELAY_MS later, each way, and no
//! more than BYTES_PER_S of it (0: as much as there is). A link holds what a delay's worth of its width is, at least a
//! MiB; then it stops reading, as a network would.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a measuring tool"
)]

use anyhow::Context;
use holdfast::clock::{Clock, MonotonicNs, SystemClock};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};

#[derive(Clone)]
struct Link {
    clock: Arc<SystemClock>,
    delay: Duration,
    bytes_per_s: u64,
}

impl Link {
    async fn pass(self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let width = if self.bytes_per_s == 0 { 2e9 } else { self.bytes_per_s as f64 };
        let held = (self.delay.as_secs_f64() * width).max(f64::from(1 << 20));
        let room = Arc::new(Semaphore::new(held as usize));
        let (sender, mut queue) = mpsc::unbounded_channel::<(MonotonicNs, Vec<u8>)>();
        let (clock, room_behind) = (self.clock.clone(), room.clone());
        let sending = tokio::spawn(async move {
            while let Some((due, bytes)) = queue.recv().await {
                let early = due.0.saturating_sub(clock.now().0);
                if early > 0 {
                    clock.sleep(Duration::from_nanos(early)).await;
                }
                if to.write_all(&bytes).await.is_err() {
                    return;
                }
                room_behind.add_permits(bytes.len());
            }
            let _ = to.shutdown().await;
        });
        let mut free_at = 0_u64;
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            let permits = u32::try_from(length).unwrap();
            room.acquire_many(permits).await.unwrap().forget();
            let now = self.clock.now().0;
            // The wire is busy for as long as these bytes need on it.
            let busy = (length as u64 * 1_000_000_000).checked_div(self.bytes_per_s).unwrap_or(0);
            free_at = free_at.max(now) + busy;
            let due = MonotonicNs(free_at + u64::try_from(self.delay.as_nanos()).unwrap());
            if sender.send((due, buffer[..length].to_vec())).is_err() {
                break;
            }
        }
        drop(sender);
        let _ = sending.await;
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, upstream, delay_ms, bytes_per_s] = &arguments[..] else {
        anyhow::bail!("link LISTEN UPSTREAM DELAY_MS BYTES_PER_S");
    };
    let link = Link {
        clock: Arc::new(SystemClock::new()),
        delay: Duration::from_millis(delay_ms.parse().context("DELAY_MS")?),
        bytes_per_s: bytes_per_s.parse().context("BYTES_PER_S")?,
    };
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (near, _) = listener.accept().await?;
        let (link, upstream) = (link.clone(), upstream.clone());
        tokio::spawn(async move {
            let Ok(far) = TcpStream::connect(&upstream).await else { return };
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
            tokio::join!(link.clone().pass(from_near, to_far), link.pass(from_far, to_near));
        });
    }
}
