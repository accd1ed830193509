//! `holdfast demo`: the main job on real sockets and real files, in one process.
//!
//! Three arrays on loopback, each with its own data directory: `alpha` with two volumes in one group on RAID 5, and
//! `beta` and `gamma`, which read its journal on different schedules. A built-in initiator writes to the volumes through
//! iSCSI while states, lag and throughput are shown; then the copies are read back through iSCSI and compared with the
//! primary at the same update number. Success is that and nothing less.

mod configuration;
mod writer;

use crate::array::Array;
use crate::array::env::Env;
use crate::channel::host::{HostLun, lun};
use crate::channel::initiator::{Connector, SessionOptions};
use crate::clock::{Clock, Entropy, SystemClock, SystemEntropy};
use crate::shell::command::Shell;
use crate::shell::socket::ManagementSocket;
use crate::shell::view::{Console, Snapshot};
use anyhow::{Context, bail};
use configuration::{Plan, Ports, VOLUMES, target_name};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How the demonstration ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// After the comparison.
    Once,
    /// With Ctrl-C.
    Interrupted,
}

/// Runs it. Without `dir` the arrays live in a temporary directory that is removed at the end.
///
/// # Errors
/// Something did not work, or a copy is not equal to the primary.
pub async fn demo(end: End, dir: Option<PathBuf>) -> anyhow::Result<()> {
    let temporary = dir.is_none();
    let dir =
        dir.unwrap_or_else(|| std::env::temp_dir().join(format!("holdfast-demo-{}", std::process::id())));
    let outcome = run(end, &dir).await;
    if temporary {
        std::fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
    }
    outcome
}

async fn run(end: End, dir: &Path) -> anyhow::Result<()> {
    let plan = Plan { dir: dir.to_owned(), ports: Ports::choose()? };
    let mut arrays = Vec::new();
    for name in ["alpha", "beta", "gamma"] {
        let config = plan.config(name)?;
        let env = Env::real(&config)?;
        let array = Array::start(config, env).await.with_context(|| format!("starting {name}"))?;
        println!(
            "{name:<6} array {}, hosts and arrays at {}",
            array.snapshot().array.number,
            array.portals().join(", ")
        );
        arrays.push(array);
    }
    let shells = open_shells(&plan, &arrays)?;
    let outcome = show_and_compare(&plan, &arrays).await;
    if outcome.is_ok() && end == End::Interrupted {
        println!("{}", plan.how_to_connect());
        tokio::signal::ctrl_c().await?;
    }
    drop(shells);
    for array in arrays.iter().rev() {
        array.stop().await?;
    }
    outcome
}

/// The management socket of each array, answered until the set is dropped.
fn open_shells(plan: &Plan, arrays: &[Arc<Array>]) -> anyhow::Result<tokio::task::JoinSet<()>> {
    let mut shells = tokio::task::JoinSet::new();
    for array in arrays {
        let socket = ManagementSocket::bind(&plan.dir.join(array.name()).join("holdfast.sock"))?;
        let shell = Shell::new(array.clone(), Arc::new(SystemClock::new()));
        shells.spawn(async move { socket.serve(shell, 16).await });
    }
    Ok(shells)
}

async fn show_and_compare(plan: &Plan, arrays: &[Arc<Array>]) -> anyhow::Result<()> {
    let clock = SystemClock::new();
    let connector = connector();
    let volumes = open_volumes(&connector, &plan.ports.alpha, "alpha").await?;
    println!("\nwriting to {} volumes over iSCSI for {} s\n", volumes.len(), WRITE_FOR.as_secs());
    println!(
        "{:>5}  {:>9}  {:>9}  {:<8}  reader  state    behind (updates, s)",
        "s", "writes/s", "MiB/s", "pairs"
    );
    let writer = writer::Writer::start(volumes.clone(), &clock);
    let mut last = (0, 0);
    for second in 1..=WRITE_FOR.as_secs() {
        clock.sleep(Duration::from_secs(1)).await;
        let now = writer.totals();
        show(second, (now.0 - last.0, now.1 - last.1), &arrays[0].snapshot());
        last = now;
    }
    let (writes, bytes) = writer.finish().await?;
    println!(
        "\n{writes} writes, {} MiB; waiting until both copies have restored the last update",
        bytes >> 20
    );
    let number = wait_for_copies(&clock, &arrays[0]).await?;
    let ports = [("beta", &plan.ports.beta), ("gamma", &plan.ports.gamma)];
    for (name, port) in ports {
        let copies = open_volumes(&connector, port, name).await?;
        for ((volume, copy), shown) in volumes.iter().zip(&copies).zip(VOLUMES) {
            compare(volume, copy).await.with_context(|| format!("{name}: the copy of {shown}"))?;
        }
        println!("{name}: both copies equal the primary at update {number}");
    }
    Ok(())
}

/// One line for each reader of the group.
fn show(second: u64, (writes, bytes): (u64, u64), snapshot: &Snapshot) {
    let Some(group) = snapshot.groups.first() else { return };
    for (index, reader) in group.readers.iter().enumerate() {
        let head = if index == 0 {
            format!("{second:>5}  {writes:>9}  {:>9}  {:<8}", bytes >> 20, group.pairs_state)
        } else {
            " ".repeat(37)
        };
        let behind = format!("{}, {:.3}", reader.behind.updates, reader.behind.seconds);
        println!("{head}  {:<6}  {:<7}  {behind}", reader.link, reader.state);
    }
}

/// Waits until every pair is normal and every reader has restored the newest update.
async fn wait_for_copies(clock: &dyn Clock, alpha: &Array) -> anyhow::Result<u64> {
    let mut waited = Duration::ZERO;
    loop {
        let now = alpha.snapshot();
        let group = now.groups.first().context("the group is gone")?;
        let newest = group.next_update_number.unwrap_or(1).saturating_sub(1);
        let caught_up = group.readers.len() == 2
            && group.readers.iter().all(|reader| reader.restored_update_number == newest);
        if caught_up && now.pairs.iter().all(|pair| pair.state == "normal") {
            return Ok(newest);
        }
        if waited >= CATCH_UP_LIMIT {
            bail!("the copies have not caught up within {} s: {:?}", CATCH_UP_LIMIT.as_secs(), group.readers);
        }
        clock.sleep(STEP).await;
        waited += STEP;
    }
}

async fn compare(volume: &HostLun, copy: &HostLun) -> anyhow::Result<()> {
    if (volume.blocks, volume.block_bytes) != (copy.blocks, copy.block_bytes) {
        bail!("has another size");
    }
    let step = (1 << 20) / volume.block_bytes;
    let mut lba = 0;
    while lba < volume.blocks {
        let blocks = u32::try_from(volume.blocks - lba).unwrap_or(u32::MAX).min(step);
        let (ours, theirs) = (volume.read(lba, blocks).await?, copy.read(lba, blocks).await?);
        if let Some(at) = ours.iter().zip(&theirs).position(|(a, b)| a != b) {
            bail!("differs at byte {}", lba * u64::from(volume.block_bytes) + at as u64);
        }
        lba += u64::from(blocks);
    }
    Ok(())
}

async fn open_volumes(connector: &Connector, address: &str, array: &str) -> anyhow::Result<Vec<HostLun>> {
    let session = connector.session(address, &target_name(array), &SessionOptions::default()).await?;
    let mut volumes = Vec::new();
    for number in 1..=u16::try_from(VOLUMES.len())? {
        volumes.push(HostLun::open(session.clone(), lun(number), COMMAND_LIMIT).await?);
    }
    Ok(volumes)
}

fn connector() -> Connector {
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    Connector {
        network: Arc::new(crate::channel::tcp_network::TcpNetwork),
        clock: Arc::new(SystemClock::new()),
        entropy,
        initiator_name: "iqn.2026-11.io.holdfast:demo-host".to_owned(),
    }
}

/// How long the built-in host writes.
const WRITE_FOR: Duration = Duration::from_secs(5);
/// How long the copies may take to catch up afterwards.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(60);
/// How often it is looked whether they have.
const STEP: Duration = Duration::from_millis(20);
/// Limit for one command of the built-in host.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
