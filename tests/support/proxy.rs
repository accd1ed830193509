//! A TCP proxy in front of a portal that breaks the link: cut, half-open in one direction or both, delayed, narrow,
//! damaged, and whole again.

use holdfast::clock::{Clock, SystemClock};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the link does now. Takes effect on connections that are already there, too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LinkState {
    /// Everything passes.
    Up,
    /// Connections are reset and new ones are closed at once.
    Cut,
    /// Connections stay, and nothing passes in either direction.
    HalfOpen,
    /// Connections stay, and nothing passes towards the portal.
    DeafThere,
    /// Connections stay, and nothing passes back from the portal.
    DeafBack,
    /// Everything passes, and in each direction one bit is wrong every so many bytes.
    Damaged {
        /// Bytes from one wrong bit to the next.
        every_bytes: usize,
    },
    /// Every read passes this much later, and at most so many bytes a second.
    Slow {
        /// Delay of each portion.
        delay: Duration,
        /// Bandwidth of each direction.
        bytes_per_s: u64,
    },
}

/// A listening proxy. Ends with the runtime.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    state: watch::Sender<LinkState>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free loopback port and passes connections on to `upstream` ("host:port"), which may come up later.
    pub(crate) async fn start(upstream: String) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (state, watched) = watch::channel(LinkState::Up);
        let task = tokio::spawn(accept_loop(listener, upstream, watched));
        Ok(Self { address, state, task })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Changes what the link does.
    pub(crate) fn set(&self, state: LinkState) {
        self.state.send_replace(state);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.send_replace(LinkState::Cut);
        self.task.abort();
    }
}

async fn accept_loop(listener: TcpListener, upstream: String, state: watch::Receiver<LinkState>) {
    while let Ok((near, _)) = listener.accept().await {
        if *state.borrow() == LinkState::Cut {
            continue; // dropped: the other side sees the connection close
        }
        tokio::spawn(pass_connection(near, upstream.clone(), state.clone()));
    }
}

async fn pass_connection(near: TcpStream, upstream: String, mut state: watch::Receiver<LinkState>) {
    let Ok(far) = TcpStream::connect(upstream).await else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let out = pass(near_read, far_write, state.clone(), LinkState::DeafThere);
    let back = pass(far_read, near_write, state.clone(), LinkState::DeafBack);
    tokio::select! {
        biased;
        _ = state.wait_for(|now| *now == LinkState::Cut) => {}
        _ = async { tokio::join!(out, back) } => {}
    }
}

/// Carries bytes one way until either end closes; `deaf` is the state in which only this way is stopped.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut state: watch::Receiver<LinkState>,
    deaf: LinkState,
) {
    let clock = SystemClock::new();
    let mut portion = vec![0; PORTION_BYTES];
    let mut passed = 0;
    let stops = |now: &LinkState| *now == LinkState::HalfOpen || *now == deaf;
    loop {
        if state.wait_for(|now| !stops(now)).await.is_err() {
            return;
        }
        let Ok(length @ 1..) = from.read(&mut portion).await else { break };
        let now = *state.borrow();
        match now {
            LinkState::Slow { delay, bytes_per_s } => {
                let length = u64::try_from(length).expect("a portion is short");
                clock.sleep(delay + Duration::from_micros(length * 1_000_000 / bytes_per_s.max(1))).await;
            }
            LinkState::Damaged { every_bytes } => {
                passed += length;
                if passed >= every_bytes {
                    passed = 0;
                    portion[length / 2] ^= 0x10;
                }
            }
            now if stops(&now) => {
                if state.wait_for(|now| !stops(now)).await.is_err() {
                    return;
                }
            }
            LinkState::Up
            | LinkState::Cut
            | LinkState::HalfOpen
            | LinkState::DeafThere
            | LinkState::DeafBack => {}
        }
        if to.write_all(&portion[..length]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

const PORTION_BYTES: usize = 64 * 1024;
