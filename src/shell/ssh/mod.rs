//! The maintenance shell over SSH: the same commands as on the local socket, for operators with a key.
//!
//! # What it guarantees
//! * Only public keys of the `authorized_keys` file let in, and only the user [`USER`]. Every key that is offered is
//!   asked for its signature, whoever offers it: nothing about users and keys is learnt without a private key, and a
//!   refusal takes [`REFUSAL_TIME`] in any case.
//! * A connection can open up to [`CHANNELS_MAX`] sessions and nothing else: no programs, no forwarding, no files, no
//!   environment, no agent, no compression. A command cannot name a file that this machine should read.
//! * AES-256-GCM, strict key exchange, X25519 (with ML-KEM or alone). What a client may send before it has
//!   authenticated is decided in [`guard`], who may try at all in [`admission`]; both come before the library.
//! * A session is a task of its own. When it panics or its client goes, its command is dropped and nothing else
//!   notices. No memory of the data path is used; what a connection can hold is bounded by the constants here.
//!
//! # How it runs
//! At the edge only: real sockets, real time, the library's own randomness. Everything behind it, [`Shell`] and the
//! prompt, knows nothing of SSH and runs in simulations too.

pub mod admission;
mod client;
pub mod guard;
pub mod keys;
mod session;
mod stream;

use super::command::Shell;
use crate::clock::{Clock, Entropy};
use admission::{Admission, Fault, Refusal, Source};
use keys::AuthorizedKeys;
use russh::keys::{Algorithm, EcdsaCurve, PrivateKey};
use russh::server::Config;
use russh::{MethodKind, MethodSet, Preferred, SshId, cipher, compression, kex, mac};
use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// What an SSH server needs to know.
#[derive(Clone, Debug)]
pub struct SshSettings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Who may come in.
    pub authorized_keys: PathBuf,
    /// Where the host key lies.
    pub data_dir: PathBuf,
}

/// The server, listening.
pub struct SshServer {
    listener: TcpListener,
    address: SocketAddr,
    host_key: PrivateKey,
    authorized_keys: PathBuf,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl SshServer {
    /// Listens. The host key is made if there is none.
    ///
    /// # Errors
    /// The address is taken, or the host key cannot be used. Authorized keys that cannot be read are logged: nobody
    /// comes in until they can.
    pub async fn bind(
        settings: &SshSettings,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> io::Result<Self> {
        let host_key = keys::host_key(&settings.data_dir, entropy.as_ref())?;
        let authorized = AuthorizedKeys::read(&settings.authorized_keys).unwrap_or_else(|error| {
            tracing::error!(%error, "the SSH keys cannot be read");
            AuthorizedKeys::default()
        });
        for mistake in &authorized.mistakes {
            tracing::warn!(file = %settings.authorized_keys.display(), %mistake, "not taken as an SSH key");
        }
        if authorized.is_empty() {
            tracing::warn!(file = %settings.authorized_keys.display(), "no key in it: nobody can come in over SSH");
        }
        let listener = TcpListener::bind(settings.listen)
            .await
            .map_err(|error| io::Error::new(error.kind(), format!("SSH on {}: {error}", settings.listen)))?;
        let address = listener.local_addr()?;
        let authorized_keys = settings.authorized_keys.clone();
        Ok(Self { listener, address, host_key, authorized_keys, clock, entropy })
    }

    /// Where it listens, port filled in.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The host's public key as it stands in `known_hosts`, and its fingerprint.
    #[must_use]
    pub fn host_key(&self) -> (String, String) {
        let public = self.host_key.public_key();
        let text = public.to_openssh().unwrap_or_default();
        let without_comment = text.split(' ').take(2).collect::<Vec<_>>().join(" ");
        (without_comment, keys::fingerprint(public))
    }

    /// Serves until the future is dropped, which ends all connections.
    pub async fn serve(self, shell: Shell) {
        // Dropped with this future: every connection sees that and ends.
        let (_running, stopped) = watch::channel(());
        let door = Arc::new(Door {
            config: Arc::new(config(self.host_key)),
            shell,
            authorized_keys: self.authorized_keys,
            clock: self.clock,
            admission: Mutex::default(),
            sessions: Arc::new(Semaphore::new(SESSIONS_MAX)),
            stopped,
        });
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                Some(_) = connections.join_next(), if !connections.is_empty() => continue,
                accepted = self.listener.accept() => accepted,
            };
            let Ok((stream, peer)) = accepted else {
                door.clock.sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let mut chance = [0];
            self.entropy.fill(&mut chance);
            match door.admit(peer, chance[0] % 100) {
                Ok(place) => {
                    connections.spawn(connection(Arc::clone(&door), stream, peer, place));
                }
                Err(refusal) => tracing::debug!(%peer, %refusal, "SSH connection closed at once"),
            }
        }
    }
}

/// What all connections share.
struct Door {
    config: Arc<Config>,
    shell: Shell,
    authorized_keys: PathBuf,
    clock: Arc<dyn Clock>,
    admission: Mutex<Admission>,
    /// Places for connections that have authenticated.
    sessions: Arc<Semaphore>,
    stopped: watch::Receiver<()>,
}

impl Door {
    fn admission(&self) -> MutexGuard<'_, Admission> {
        self.admission.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(self: &Arc<Self>, peer: SocketAddr, chance: u8) -> Result<Arc<Place>, Refusal> {
        let source = Source::of(peer.ip());
        self.admission().admit(source, self.clock.now(), chance)?;
        Ok(Arc::new(Place {
            door: Arc::clone(self),
            source,
            is_authenticated: AtomicBool::new(false),
            fault: Mutex::new(Fault::Left),
        }))
    }
}

/// The place of one connection among those that wait. Given back when it authenticates, or when everybody who knows
/// it has gone.
struct Place {
    door: Arc<Door>,
    source: Source,
    is_authenticated: AtomicBool,
    fault: Mutex<Fault>,
}

impl Place {
    fn is_authenticated(&self) -> bool {
        self.is_authenticated.load(Ordering::Acquire)
    }

    fn authenticated(&self) {
        if !self.is_authenticated.swap(true, Ordering::AcqRel) {
            self.door.admission().authenticated(self.source, self.door.clock.now());
        }
    }

    fn note(&self, fault: Fault) {
        let mut worst = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        if *worst != Fault::Misused {
            *worst = fault;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.is_authenticated() {
            let fault = *self.fault.lock().unwrap_or_else(PoisonError::into_inner);
            self.door.admission().failed(self.source, fault, self.door.clock.now());
        }
    }
}

async fn connection(door: Arc<Door>, stream: TcpStream, peer: SocketAddr, place: Arc<Place>) {
    // Keys that are typed are small packets; waiting to gather them is felt.
    let _ = stream.set_nodelay(true);
    let guarded = stream::Guarded::new(stream, &door, Arc::clone(&place));
    let client = client::Client::new(Arc::clone(&door), peer, place);
    let ended = match russh::server::run_stream(Arc::clone(&door.config), guarded, client).await {
        Ok(session) => session.await,
        Err(error) => Err(error),
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "SSH connection ended");
    }
}

fn config(host_key: PrivateKey) -> Config {
    let ecdsa = |curve| Algorithm::Ecdsa { curve };
    Config {
        server_id: SshId::Standard(Cow::Borrowed(concat!("SSH-2.0-Holdfast_", env!("CARGO_PKG_VERSION")))),
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        auth_rejection_time: REFUSAL_TIME,
        // Every client begins by asking without a key, to learn what is possible.
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: vec![host_key],
        window_size: WINDOW_BYTES,
        maximum_packet_size: PACKET_DATA_BYTES,
        channel_buffer_size: 4,
        event_buffer_size: 8,
        preferred: Preferred {
            kex: Cow::Borrowed(&[
                kex::MLKEM768X25519_SHA256,
                kex::CURVE25519,
                kex::CURVE25519_PRE_RFC_8731,
                kex::EXTENSION_SUPPORT_AS_SERVER,
                kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
            ]),
            key: Cow::Owned(vec![
                Algorithm::Ed25519,
                ecdsa(EcdsaCurve::NistP256),
                ecdsa(EcdsaCurve::NistP384),
                ecdsa(EcdsaCurve::NistP521),
            ]),
            cipher: Cow::Borrowed(&[cipher::AES_256_GCM]),
            // Never used with this cipher; the negotiation wants a common one all the same.
            mac: Cow::Borrowed(&[mac::HMAC_SHA512_ETM, mac::HMAC_SHA256_ETM]),
            compression: Cow::Borrowed(&[compression::NONE]),
            ..Preferred::DEFAULT
        },
        // The library counts the asking without a key, too.
        max_auth_attempts: ATTEMPTS_MAX + 1,
        inactivity_timeout: Some(STALL_MAX),
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: 3,
        ..Config::default()
    }
}

/// The user that operators log in as; who they are, their keys say.
pub const USER: &str = "admin";
/// Connections that have authenticated; further ones are told so and closed.
pub const SESSIONS_MAX: usize = 16;
/// Session channels of one connection; further ones are refused.
pub const CHANNELS_MAX: usize = 4;
/// Time for authentication; the connection is closed after it.
pub const GRACE: Duration = Duration::from_secs(30);
/// Refused attempts of one connection; the next one closes it.
pub const ATTEMPTS_MAX: usize = 3;
/// A refusal takes so long, whatever it is for.
pub const REFUSAL_TIME: Duration = Duration::from_millis(300);
/// A prompt at which nobody types for so long is closed.
pub const IDLE_MAX: Duration = Duration::from_secs(30 * 60);
/// A client that takes nothing for so long is given up.
const STALL_MAX: Duration = Duration::from_secs(300);
/// A client is asked this often whether it is still there; after three silences it is not. Longer than [`GRACE`].
const KEEPALIVE: Duration = Duration::from_secs(60);
/// What a client may send ahead in one channel.
const WINDOW_BYTES: u32 = 128 << 10;
/// Data in one packet: fits into [`guard::PACKET_MAX_BYTES`].
const PACKET_DATA_BYTES: u32 = 32 << 10;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
