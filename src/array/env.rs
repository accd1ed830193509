//! What an array stands on: the edges of the program, real or simulated.

use crate::channel::transport::Network;
use crate::clock::{Clock, Entropy, SystemClock, SystemEntropy};
use crate::config::{Config, Engine};
use crate::copy::compress::Workbench;
use crate::copy::tamper::Tamper;
use crate::disk::io::opener::{Engine as DiskEngine, FileOpener, UnitOpener};
use crate::volume::store::Backend;
use std::sync::Arc;

/// The edges. A simulated array differs from a real one in these and in nothing else.
#[derive(Clone, Debug)]
pub struct Env {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness for identities and challenges.
    pub entropy: Arc<dyn Entropy>,
    /// Streams.
    pub network: Arc<dyn Network>,
    /// Units.
    pub units: Arc<dyn UnitOpener>,
    /// Which engine `units` uses, for people.
    pub engine: String,
    /// The array lasts as long as its process, and takes the memory of its cache when it starts.
    pub takes_memory_at_once: bool,
    /// The newer control store is lost, the operator says: an older copy of it is taken.
    pub takes_older_store: bool,
    /// Where the control store lies.
    pub store: Backend,
    /// Where work is done that takes the processor for long.
    pub workbench: Workbench,
    /// A defect planted by a simulation; a real array has none.
    #[doc(hidden)]
    pub tamper: Option<Arc<dyn Tamper>>,
}

impl Env {
    /// The machine this runs on.
    ///
    /// # Errors
    /// The engine that the configuration asks for does not work here.
    pub fn real(config: &Config) -> anyhow::Result<Self> {
        let engine = match config.disk.engine {
            Engine::Automatic => DiskEngine::best()?,
            Engine::IoUring => DiskEngine::ring()?,
            Engine::Plain => DiskEngine::plain()?,
        };
        let name = match engine {
            DiskEngine::Plain(_) => "plain",
            DiskEngine::Ring(_) => "io_uring",
        };
        Ok(Self {
            clock: Arc::new(SystemClock::new()),
            entropy: Arc::new(SystemEntropy),
            network: Arc::new(crate::channel::tcp_network::TcpNetwork),
            units: Arc::new(FileOpener::new(engine)),
            engine: name.to_owned(),
            takes_memory_at_once: is_there(config.cache.memory.0),
            takes_older_store: false,
            store: Backend::Directory(config.array.data_dir.clone()),
            workbench: Workbench::threads(),
            tamper: None,
        })
    }
}

/// Whether the machine has so much memory to spare. If it does not say, it is not taken before it is needed.
fn is_there(memory_bytes: u64) -> bool {
    let said = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let free_bytes = available_bytes(&said).unwrap_or(0);
    let is_there = memory_bytes <= free_bytes / 4 * 3;
    if !is_there {
        tracing::warn!(
            "`[cache] memory` is {} MiB and the machine has {} MiB to spare: it is taken as it is needed, and may not be there then",
            memory_bytes >> 20,
            free_bytes >> 20
        );
    }
    is_there
}

/// What `/proc/meminfo` says can be used without swapping.
fn available_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_has_to_spare_is_read_or_not_believed() {
        let said = "MemTotal:       24681244 kB\nMemFree:         1 kB\nMemAvailable:   20480 kB\n";
        assert_eq!(available_bytes(said), Some(20 << 20));
        for wrong in ["", "MemAvailable: 5", "MemAvailable: x kB", "MemAvailable: 18446744073709551615 kB"] {
            assert_eq!(available_bytes(wrong), None, "{wrong}");
        }
    }
}
