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
            store: Backend::Directory(config.array.data_dir.clone()),
            workbench: Workbench::threads(),
            tamper: None,
        })
    }
}
