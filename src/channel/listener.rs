//! Portals: where hosts and other arrays knock.
//!
//! Every connection gets a task of its own. Limits: so many connections may be in their login, in all and from one
//! source; a further one is closed at once, which costs a flood more than it costs us, and leaves sessions alone.

use super::connection::{Driver, End, Service};
use super::storage::Targets;
use super::target::Sessions;
use super::transport::{Listener, Network, Transport};
use crate::clock::{Clock, Entropy};
use holdfast_iscsi::target::Settings;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What a portal is opened with. A portal for peer arrays differs from one for hosts in its [`Targets`] only.
#[derive(Clone)]
pub struct PortalOptions {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Challenges of logins.
    pub entropy: Arc<dyn Entropy>,
    /// What is offered here.
    pub targets: Arc<dyn Targets>,
    /// The register of sessions, shared by all portals of an array.
    pub sessions: Sessions,
    /// Limits of pending logins, shared by all portals of an array.
    pub logins: Logins,
    /// What is agreed to, the portal group and the time limits.
    pub settings: Settings,
}

/// Limits of logins under way. Clones share their count.
#[derive(Clone, Debug)]
pub struct Logins(Arc<Limits>);

#[derive(Debug)]
struct Limits {
    total_max: usize,
    source_max: usize,
    pending: Mutex<BTreeMap<String, usize>>,
}

/// A login under way.
struct Pending {
    limits: Arc<Limits>,
    source: String,
}

impl Default for Logins {
    fn default() -> Self {
        Self::new(PENDING_MAX, PENDING_OF_SOURCE_MAX)
    }
}

impl Logins {
    /// At most `total_max` logins at once, and `source_max` from one address.
    #[must_use]
    pub fn new(total_max: usize, source_max: usize) -> Self {
        Self(Arc::new(Limits { total_max, source_max, pending: Mutex::default() }))
    }

    fn begin(&self, peer: &str) -> Option<Pending> {
        let source = peer.rsplit_once(':').map_or(peer, |(host, _)| host).to_owned();
        let mut pending = self.0.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = pending.values().sum();
        let of_source = pending.get(&source).copied().unwrap_or(0);
        if total >= self.0.total_max || of_source >= self.0.source_max {
            return None;
        }
        pending.insert(source.clone(), of_source + 1);
        Some(Pending { limits: self.0.clone(), source })
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut pending = self.limits.pending.lock().unwrap_or_else(PoisonError::into_inner);
        match pending.get_mut(&self.source) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                pending.remove(&self.source);
            }
        }
    }
}

/// A portal that is open. When it is dropped nobody is let in any more; the sessions that came through it stay.
#[derive(Debug)]
pub struct Portal {
    local: String,
    task: JoinHandle<()>,
    /// Ends logins that are still under way.
    _open: watch::Sender<()>,
}

impl Portal {
    /// Opens a portal on `address` ("host:port", port 0: any).
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn open(network: &dyn Network, address: &str, options: PortalOptions) -> io::Result<Self> {
        let listener = network.listen(address).await?;
        let local = listener.local();
        let (open, is_open) = watch::channel(());
        let task = tokio::spawn(accept(listener, options, is_open));
        Ok(Self { local, task, _open: open })
    }

    /// The address, its port filled in.
    #[must_use]
    pub fn local(&self) -> &str {
        &self.local
    }
}

impl Drop for Portal {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(mut listener: Box<dyn Listener>, options: PortalOptions, is_open: watch::Receiver<()>) {
    let PortalOptions { clock, entropy, targets, sessions, logins, settings } = options;
    let service = Service { clock, entropy, targets, sessions, settings };
    loop {
        match listener.accept().await {
            Ok(transport) => match logins.begin(&transport.peer()) {
                Some(pending) => {
                    tokio::spawn(serve(transport, service.clone(), pending, is_open.clone()));
                }
                None => tracing::debug!(peer = %transport.peer(), "too many logins under way"),
            },
            Err(error) => {
                // Out of descriptors, most likely: it passes when a session ends.
                tracing::warn!(%error, "cannot accept a connection");
                service.clock.sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(
    transport: Box<dyn Transport>,
    service: Service,
    pending: Pending,
    mut is_open: watch::Receiver<()>,
) {
    let peer = transport.peer();
    let mut driver = Driver::new(transport, service);
    let logged_in = tokio::select! {
        biased;
        result = driver.log_in() => result,
        _ = is_open.changed() => Err(End::Told),
    };
    drop(pending);
    let end = match logged_in {
        Ok(()) => driver.run().await,
        Err(end) => end,
    };
    tracing::debug!(%peer, %end, "connection ended");
    driver.finish().await;
}

/// Logins under way in all.
const PENDING_MAX: usize = 64;
/// Of these, from one address.
const PENDING_OF_SOURCE_MAX: usize = 8;
/// Pause after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
