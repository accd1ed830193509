//! A closed loop of commands against one logical unit of any iSCSI target: what `benches/journal.py` measures with.
//!
//! `load --target HOST:PORT/IQN/LUN --rw randwrite|randread|write|read --bs 4k --qd 32 [--secs 2] [--ramp 0.4] [--span 240m]
//! [--pause SHARE] [--rate N]`
//!
//! One session, one thread, `--qd` commands under way; the next one is sent when one ends. What ends during the ramp is
//! not counted. `--pause 0.5` sends nothing during that share of every 20 ms, `--rate` spaces commands evenly. Prints one
//! JSON object: commands in a second, latencies in microseconds (50th, 99th and 99.9th percentile, the longest), and
//! which share of its processor the generator itself was busy: near 1 it is the generator that is measured.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a measuring tool"
)]

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Parser;
use futures_util::stream::{FuturesUnordered, StreamExt};
use holdfast::channel::host::{Durability, HostLun, lun};
use holdfast::channel::initiator::{Connector, SessionOptions};
use holdfast::channel::tcp_network::TcpNetwork;
use holdfast::clock::{Clock, Entropy, SystemClock, SystemEntropy};
use holdfast::config::ByteSize;
use std::sync::Arc;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Options {
    /// HOST:PORT/IQN/LUN
    #[arg(long)]
    target: String,
    #[arg(long, value_parser = ["randwrite", "randread", "write", "read"])]
    rw: String,
    #[arg(long, value_parser = size)]
    bs: u64,
    #[arg(long)]
    qd: usize,
    #[arg(long, default_value_t = 2.0)]
    secs: f64,
    #[arg(long, default_value_t = 0.4)]
    ramp: f64,
    #[arg(long, default_value = "240MiB", value_parser = size)]
    span: u64,
    #[arg(long, default_value_t = 0.0)]
    pause: f64,
    /// Commands in a second; 0: as many as there are.
    #[arg(long, default_value_t = 0.0)]
    rate: f64,
}

/// "4k", "1m" or as in the configuration.
fn size(text: &str) -> Result<u64, String> {
    let text = text.replace('k', "KiB").replace('m', "MiB");
    ByteSize::parse(&text).map(|size| size.0)
}

struct Load {
    unit: HostLun,
    options: Options,
    /// Written again and again, from another place each time: no two commands in a row carry the same bytes.
    data: Bytes,
    random: u64,
    sequence: u64,
}

impl Load {
    fn random(&mut self) -> u64 {
        // SplitMix64.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The next command: its first block, and what it writes.
    fn next(&mut self) -> (u64, Option<Bytes>) {
        let places = (self.options.span / self.options.bs).max(1);
        let place = if self.options.rw.starts_with("rand") { self.random() } else { self.sequence } % places;
        self.sequence += 1;
        let bytes = self.options.bs as usize;
        let from = (self.random() as usize % (self.data.len() - bytes + 1)) & !511;
        let data = self.options.rw.ends_with("write").then(|| self.data.slice(from..from + bytes));
        (place * self.options.bs / u64::from(self.unit.block_bytes), data)
    }
}

/// One command; how long it took.
async fn run(
    unit: &HostLun,
    clock: &SystemClock,
    lba: u64,
    data: Option<Bytes>,
    blocks: u32,
) -> anyhow::Result<Duration> {
    let began = clock.now();
    match data {
        Some(data) => unit.write(lba, data, Durability::Cached).await?,
        None => drop(unit.read(lba, blocks).await?),
    }
    Ok(clock.now().since(began))
}

/// What this thread, the only one, has run so far.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0))
}

async fn measure(options: Options) -> anyhow::Result<serde_json::Value> {
    let clock = Arc::new(SystemClock::new());
    let (address, rest) = options.target.split_once('/').context("no HOST:PORT/IQN/LUN")?;
    let (iqn, number) = rest.rsplit_once('/').context("no HOST:PORT/IQN/LUN")?;
    let connector = Connector {
        network: Arc::new(TcpNetwork),
        clock: clock.clone(),
        entropy: Arc::new(SystemEntropy),
        initiator_name: "iqn.2026-11.io.holdfast:load".to_owned(),
    };
    let session = connector.session(address, iqn, &SessionOptions::default()).await?;
    let unit = HostLun::open(session, lun(number.parse()?), Duration::from_secs(60)).await?;
    if !options.bs.is_multiple_of(u64::from(unit.block_bytes))
        || options.span > unit.blocks * u64::from(unit.block_bytes)
    {
        bail!("--bs or --span does not fit the logical unit");
    }
    let mut data = vec![0; (options.bs + (1 << 20)) as usize];
    SystemEntropy.fill(&mut data);
    let (depth, blocks) = (options.qd, (options.bs / u64::from(unit.block_bytes)) as u32);
    let (ramp, secs) = (Duration::from_secs_f64(options.ramp), Duration::from_secs_f64(options.secs));
    let (pause, rate) = (PERIOD.mul_f64(options.pause), options.rate);
    let mut load = Load { unit: unit.clone(), options, data: data.into(), random: 1, sequence: 0 };
    let (began, mut took, mut sent) = (clock.now(), Vec::new(), 0_u64);
    let (mut counted_from, mut cpu_from) = (None, Duration::ZERO);
    let mut under_way = FuturesUnordered::new();
    loop {
        let elapsed = clock.now().since(began);
        if elapsed >= ramp + secs {
            break;
        }
        if elapsed >= ramp && counted_from.is_none() {
            (counted_from, cpu_from) = (Some(elapsed), cpu());
        }
        let into_period = Duration::from_nanos((elapsed.as_nanos() % PERIOD.as_nanos()) as u64);
        let due = if rate > 0.0 { Duration::from_secs_f64(sent as f64 / rate) } else { Duration::ZERO };
        let wait = (PERIOD.saturating_sub(into_period)).min(pause).max(due.saturating_sub(elapsed));
        let may_send = into_period < PERIOD.saturating_sub(pause) && due <= elapsed;
        if may_send && under_way.len() < depth {
            let (lba, data) = load.next();
            let (unit, clock) = (unit.clone(), clock.clone());
            under_way.push(async move { run(&unit, &clock, lba, data, blocks).await });
            sent += 1;
            continue;
        }
        tokio::select! {
            biased;
            Some(done) = under_way.next() => {
                let took_ns = done?.as_nanos() as u64;
                if counted_from.is_some() {
                    took.push(took_ns);
                }
            }
            () = clock.sleep(wait.max(Duration::from_micros(50))), if !may_send => {}
        }
    }
    let counted = clock.now().since(began).saturating_sub(counted_from.context("nothing was measured")?);
    let busy = (cpu() - cpu_from).as_secs_f64() / counted.as_secs_f64();
    while let Some(done) = under_way.next().await {
        done?;
    }
    took.sort_unstable();
    let at = |permille: usize| took.get(took.len() * permille / 1000).map_or(0.0, |ns| *ns as f64 / 1e3);
    Ok(serde_json::json!({
        "iops": took.len() as f64 / counted.as_secs_f64(),
        "lat_p50_us": at(500), "lat_p99_us": at(990), "lat_p999_us": at(999),
        "lat_max_us": took.last().map_or(0.0, |ns| *ns as f64 / 1e3),
        "sent": sent, "busy": busy,
    }))
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!("{}", runtime.block_on(measure(options))?);
    Ok(())
}

/// In each of these a share is paused.
const PERIOD: Duration = Duration::from_millis(20);
