//! A network inside one thread, for simulated runs: the twin of `TcpNetwork`.
//!
//! [`SimNetwork`] is the controller and the whole network; [`SimNetwork::host`] is what one machine sees of it. A
//! link is directed (from one host's label to another's) and has a delay, perhaps a bandwidth, and a state: up, cut
//! (streams are reset, connects refused) or silent (bytes vanish, nobody is told: a half-open connection). A stream
//! that lost bytes never delivers again: when its link comes back it is reset, as by a machine that has forgotten it.
//!
//! Invariants: bytes of one stream stay in order; a direction holds at most [`STREAM_BYTES_MAX`] bytes, then writes
//! wait; nothing depends on anything but the calls made and the clock, so a run repeats exactly.

use super::sim_stream::{Pipe, PipeId, SimStream};
use super::transport::{Listener, Network, Transport};
use crate::clock::{BoxFuture, Clock, MonotonicNs};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

pub use super::sim_stream::STREAM_BYTES_MAX;

/// What happens to bytes on a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LinkState {
    /// They arrive.
    #[default]
    Up,
    /// Streams are reset, connects are refused.
    Cut,
    /// They vanish; connects hang.
    Silent,
}

/// One direction between two machines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Link {
    /// Time from one end to the other.
    pub delay: Duration,
    /// Bytes a second of each stream, if limited.
    pub bytes_per_second: Option<u64>,
    /// Whether it works.
    pub state: LinkState,
}

/// The network and its controller; clones are the same network.
#[derive(Clone)]
pub struct SimNetwork(Arc<Shared>);

struct Shared {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    links: BTreeMap<(String, String), Link>,
    portals: BTreeMap<String, Portal>,
    pub(super) pipes: BTreeMap<PipeId, Pipe>,
    next_pipe: u64,
    next_port: u16,
}

#[derive(Default)]
struct Portal {
    waiting: VecDeque<SimStream>,
    accepting: Option<Waker>,
}

impl SimNetwork {
    /// A network without delay in which every pair of hosts can talk.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Shared { clock, state: Mutex::default() }))
    }

    /// What the machine called `label` sees of the network. Its addresses are "label:port".
    #[must_use]
    pub fn host(&self, label: &str) -> SimHost {
        SimHost { network: self.clone(), label: label.to_owned() }
    }

    /// The present properties of the direction `from` to `to`.
    #[must_use]
    pub fn link(&self, from: &str, to: &str) -> Link {
        self.state().link(from, to)
    }

    /// Changes one direction. Bytes on their way keep their time of arrival.
    pub fn set_link(&self, from: &str, to: &str, link: Link) {
        let mut state = self.state();
        state.links.insert((from.to_owned(), to.to_owned()), link);
        state.apply(from, to, link.state);
    }

    /// Changes both directions.
    pub fn set_links(&self, a: &str, b: &str, link: Link) {
        self.set_link(a, b, link);
        self.set_link(b, a, link);
    }

    /// Resets every stream between the two machines and refuses new ones until [`heal`](Self::heal).
    pub fn cut(&self, a: &str, b: &str) {
        self.change(a, b, LinkState::Cut);
    }

    /// Lets every byte between the two machines vanish from now on.
    pub fn silence(&self, a: &str, b: &str) {
        self.change(a, b, LinkState::Silent);
    }

    /// Makes the link work again; streams that lost bytes are reset.
    pub fn heal(&self, a: &str, b: &str) {
        self.change(a, b, LinkState::Up);
    }

    /// Resets every stream of a machine, as when it loses power and comes back.
    pub fn reset_host(&self, label: &str) {
        let mut state = self.state();
        for pipe in state.pipes.values_mut().filter(|pipe| pipe.from == label || pipe.to == label) {
            pipe.reset();
        }
    }

    fn change(&self, a: &str, b: &str, to: LinkState) {
        for (from, into) in [(a, b), (b, a)] {
            let link = Link { state: to, ..self.link(from, into) };
            self.set_link(from, into, link);
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.0.clock
    }

    pub(super) fn now(&self) -> MonotonicNs {
        self.0.clock.now()
    }
}

impl fmt::Debug for SimNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimNetwork")
    }
}

impl State {
    pub(super) fn link(&self, from: &str, to: &str) -> Link {
        self.links.get(&(from.to_owned(), to.to_owned())).copied().unwrap_or_default()
    }

    /// Lets a changed link act on the streams that use it. A reset of one direction is a reset of the stream.
    fn apply(&mut self, from: &str, to: &str, state: LinkState) {
        let hit: Vec<PipeId> = self
            .pipes
            .iter()
            .filter(|(_, pipe)| pipe.from == from && pipe.to == to)
            .filter(|(_, pipe)| state == LinkState::Cut || (state == LinkState::Up && pipe.lost_bytes))
            .map(|(id, _)| *id)
            .collect();
        for id in hit {
            for id in [id, id.twin()] {
                if let Some(pipe) = self.pipes.get_mut(&id) {
                    pipe.reset();
                }
            }
        }
    }

    fn pipe(&mut self, from: &str, to: &str, id: PipeId) {
        self.pipes.insert(id, Pipe::new(from, to));
    }
}

/// One machine's view of a [`SimNetwork`].
#[derive(Clone, Debug)]
pub struct SimHost {
    network: SimNetwork,
    label: String,
}

impl Network for SimHost {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Transport>>> {
        Box::pin(async move {
            let to = host_of(address);
            let there = self.network.link(&self.label, to);
            let back = self.network.link(to, &self.label);
            if [there.state, back.state].contains(&LinkState::Silent) {
                return std::future::pending().await; // Whoever connects has a limit of his own.
            }
            let round_trip = there.delay + back.delay;
            if !round_trip.is_zero() {
                self.network.0.clock.sleep(round_trip).await;
            }
            let stream = self.open(address, to)?;
            Ok(Box::new(stream) as Box<dyn Transport>)
        })
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let mut state = self.network.state();
            let port = match address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()) {
                Some(0) => {
                    state.next_port = state.next_port.checked_add(1).unwrap_or(1);
                    FIRST_PORT | state.next_port
                }
                Some(port) => port,
                None => return Err(ErrorKind::InvalidInput.into()),
            };
            let address = format!("{}:{port}", self.label);
            if state.portals.contains_key(&address) {
                return Err(ErrorKind::AddrInUse.into());
            }
            state.portals.insert(address.clone(), Portal::default());
            let listener = SimListener { network: self.network.clone(), address };
            Ok(Box::new(listener) as Box<dyn Listener>)
        })
    }
}

impl SimHost {
    fn open(&self, address: &str, to: &str) -> io::Result<SimStream> {
        let mut state = self.network.state();
        let up = [state.link(&self.label, to), state.link(to, &self.label)]
            .iter()
            .all(|link| link.state == LinkState::Up);
        let room = state.portals.get(address).is_some_and(|portal| portal.waiting.len() < BACKLOG);
        if !up || !room {
            return Err(ErrorKind::ConnectionRefused.into());
        }
        let id = PipeId(state.next_pipe);
        state.next_pipe += 2;
        state.pipe(&self.label, to, id);
        state.pipe(to, &self.label, id.twin());
        let mine = format!(
            "{}:{}",
            self.label,
            FIRST_PORT.saturating_add(u16::try_from(id.0 % 16_384).unwrap_or(0))
        );
        let theirs = SimStream::new(&self.network, (id, id.twin()), (address.to_owned(), mine.clone()));
        let ours = SimStream::new(&self.network, (id.twin(), id), (mine, address.to_owned()));
        if let Some(portal) = state.portals.get_mut(address) {
            portal.waiting.push_back(theirs);
            if let Some(waker) = portal.accepting.take() {
                waker.wake();
            }
        }
        Ok(ours)
    }
}

/// The machine's label in "label:port".
fn host_of(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

struct SimListener {
    network: SimNetwork,
    address: String,
}

impl Listener for SimListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Box<dyn Transport>>> {
        Box::pin(std::future::poll_fn(|cx| {
            let mut state = self.network.state();
            let Some(portal) = state.portals.get_mut(&self.address) else {
                return Poll::Ready(Err(ErrorKind::NotConnected.into()));
            };
            match portal.waiting.pop_front() {
                Some(stream) => Poll::Ready(Ok(Box::new(stream) as Box<dyn Transport>)),
                None => {
                    portal.accepting = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        }))
    }

    fn local(&self) -> String {
        self.address.clone()
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        // The streams that nobody accepted go with it, after the lock is released: their own drop takes it.
        let portal = self.network.state().portals.remove(&self.address);
        drop(portal);
    }
}

/// Connections that wait to be accepted; further ones are refused.
const BACKLOG: usize = 1024;
/// Where the ports begin that are given out.
const FIRST_PORT: u16 = 0xC000;

#[cfg(test)]
mod tests {
    use super::*;

    use crate::clock::SimClock;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    struct Rig {
        network: SimNetwork,
        clock: Arc<SimClock>,
    }

    fn rig() -> Rig {
        let clock = Arc::new(SimClock::new(0));
        Rig { network: SimNetwork::new(clock.clone()), clock }
    }

    async fn a_pair(network: &SimNetwork) -> (Box<dyn Transport>, Box<dyn Transport>) {
        let mut portal = network.host("beta").listen("0.0.0.0:3260").await.unwrap();
        assert_eq!(portal.local(), "beta:3260");
        let alpha = network.host("alpha");
        let (client, server) = tokio::join!(alpha.connect("beta:3260"), portal.accept());
        (client.unwrap(), server.unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_arrive_after_the_delay_and_at_the_rate_of_the_link() {
        let Rig { network, clock } = rig();
        let (mut client, mut server) = a_pair(&network).await;
        let link = Link {
            delay: Duration::from_millis(10),
            bytes_per_second: Some(1_000_000),
            state: LinkState::Up,
        };
        network.set_links("alpha", "beta", link);
        let before = clock.now();
        client.write_all(&[7; 5_000]).await.unwrap();
        let mut got = [0; 5_000];
        server.read_exact(&mut got).await.unwrap();
        assert_eq!(clock.now().since(before).as_millis(), 15);
        assert_eq!(got, [7; 5_000]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cut_resets_streams_and_refuses_connects_until_it_is_healed() {
        let Rig { network, .. } = rig();
        let (mut client, mut server) = a_pair(&network).await;
        let mut portal = network.host("beta").listen("beta:3261").await.unwrap();
        network.cut("alpha", "beta");
        assert_eq!(server.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert!(client.write_u8(1).await.is_err());
        let alpha = network.host("alpha");
        assert!(alpha.connect("beta:3261").await.is_err());
        network.heal("alpha", "beta");
        let (client, server) = tokio::join!(alpha.connect("beta:3261"), portal.accept());
        client.unwrap().write_u8(9).await.unwrap();
        assert_eq!(server.unwrap().read_u8().await.unwrap(), 9);
    }

    #[tokio::test(start_paused = true)]
    async fn on_a_silent_link_nobody_learns_anything_and_healing_resets_the_stream() {
        let Rig { network, .. } = rig();
        let (mut client, mut server) = a_pair(&network).await;
        network.silence("alpha", "beta");
        client.write_all(b"lost").await.unwrap();
        assert!(timeout(Duration::from_secs(60), server.read_u8()).await.is_err());
        let alpha = network.host("alpha");
        assert!(timeout(Duration::from_secs(60), alpha.connect("beta:3260")).await.is_err());
        network.heal("alpha", "beta");
        assert_eq!(server.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_end_is_seen_as_the_end_of_the_stream_after_all_bytes() {
        let Rig { network, .. } = rig();
        let (mut client, mut server) = a_pair(&network).await;
        client.write_all(b"last").await.unwrap();
        drop(client);
        let mut all = Vec::new();
        server.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"last");
        drop(server);
        assert!(network.state().pipes.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_stream_lets_the_writer_wait() {
        let Rig { network, .. } = rig();
        let (mut client, mut server) = a_pair(&network).await;
        let sent = vec![3; STREAM_BYTES_MAX];
        client.write_all(&sent).await.unwrap();
        assert!(timeout(Duration::from_secs(1), client.write_u8(4)).await.is_err());
        let mut some = vec![0; 10];
        server.read_exact(&mut some).await.unwrap();
        client.write_u8(4).await.unwrap();
    }
}
