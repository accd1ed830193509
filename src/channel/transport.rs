//! Byte streams between machines: what the channel adapters need of a network.
//!
//! `TcpNetwork` is the real one; the simulated twin connects arrays and hosts inside one thread and can delay, cut and
//! half-open every stream (`sim_network`).

use crate::clock::BoxFuture;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite};

/// A connected stream. Vectored writes are worth their while on it.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send {
    /// Reads into several places with one call, which is how data lands in cache slots directly. Like `poll_read`:
    /// zero bytes mean that the other end has closed.
    fn poll_read_vectored(
        &mut self,
        cx: &mut Context<'_>,
        places: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>>;
    /// The other end, for people and logs.
    fn peer(&self) -> String;
    /// This end's address, which decides what discovery answers.
    fn local(&self) -> String;
}

/// A listening address.
pub trait Listener: Send {
    /// The next connection.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Box<dyn Transport>>>;
    /// The address it listens on, the port filled in.
    fn local(&self) -> String;
}

/// Where streams come from.
pub trait Network: Send + Sync + fmt::Debug {
    /// Connects to `address` ("host:port").
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Transport>>>;
    /// Listens on `address` ("host:port", port 0: any).
    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>>;
}
