//! A target whose one logical unit lies in memory: what the channel adapter costs by itself.
//!
//! `ram_target ADDRESS MEBIBYTES`; one thread serves all connections.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "a measuring tool"
)]

mod ram;

use holdfast::channel::listener::{Logins, Portal, PortalOptions};
use holdfast::channel::target::Sessions;
use holdfast::channel::tcp_network::TcpNetwork;
use holdfast::clock::{SystemClock, SystemEntropy};
use holdfast_iscsi::target::Settings;
use std::sync::Arc;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:3260".to_owned());
    let mebibytes: usize = arguments.next().map_or(Ok(256), |count| count.parse())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let ram = Arc::new(ram::Ram::new(mebibytes << 20));
        let options = PortalOptions {
            clock: Arc::new(SystemClock::new()),
            entropy: Arc::new(SystemEntropy),
            targets: Arc::new(ram::Only { ram, address: address.clone() }),
            sessions: Sessions::new(1024),
            logins: Logins::default(),
            settings: Settings::default(),
        };
        let portal = Portal::open(&TcpNetwork, &address, options).await?;
        println!("{} on {}", ram::TARGET, portal.local());
        std::future::pending::<()>().await;
        Ok(())
    })
}
