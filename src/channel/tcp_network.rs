//! The real network: TCP over IPv4 and IPv6.
//!
//! Every stream has `TCP_NODELAY` (a response is one write; waiting to fill a segment would only add latency) and
//! keepalive (a host that lost power holds no session for ever). Listeners set `SO_REUSEADDR`, so that a restarted
//! daemon gets its portals back while old connections still linger in the kernel.

use super::transport::{Listener, Network, Transport};
use crate::clock::BoxFuture;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, lookup_host};

/// TCP as the operating system offers it.
#[derive(Debug, Default, Clone, Copy)]
pub struct TcpNetwork;

impl Network for TcpNetwork {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Transport>>> {
        Box::pin(async move {
            let mut last = None;
            for candidate in lookup_host(address).await? {
                match TcpStream::connect(candidate).await {
                    Ok(stream) => return Ok(Box::new(TcpTransport::new(stream)?) as Box<dyn Transport>),
                    Err(error) => last = Some(error),
                }
            }
            Err(last.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
        })
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let mut last = None;
            for candidate in lookup_host(address).await? {
                match listen_on(candidate) {
                    Ok(listener) => return Ok(Box::new(listener) as Box<dyn Listener>),
                    Err(error) => last = Some(error),
                }
            }
            Err(last.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
        })
    }
}

fn listen_on(address: SocketAddr) -> io::Result<TcpPortal> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() && !address.ip().is_unspecified() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from_std(socket.into())?;
    let local = listener.local_addr()?;
    Ok(TcpPortal { listener, local })
}

struct TcpPortal {
    listener: TcpListener,
    local: SocketAddr,
}

impl Listener for TcpPortal {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Box<dyn Transport>>> {
        Box::pin(async move {
            let (stream, _) = self.listener.accept().await?;
            Ok(Box::new(TcpTransport::new(stream)?) as Box<dyn Transport>)
        })
    }

    fn local(&self) -> String {
        self.local.to_string()
    }
}

struct TcpTransport {
    stream: TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
}

impl TcpTransport {
    fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES);
        SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        let (peer, local) = (stream.peer_addr()?, stream.local_addr()?);
        Ok(Self { stream, peer, local })
    }
}

impl Transport for TcpTransport {
    fn poll_read_vectored(
        &mut self,
        cx: &mut Context<'_>,
        places: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.stream.try_read_vectored(places) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn peer(&self) -> String {
        display(self.peer)
    }

    fn local(&self) -> String {
        display(self.local)
    }
}

/// An IPv4 host that came through an IPv6 socket is shown, and compared with portals, as IPv4.
fn display(address: SocketAddr) -> String {
    SocketAddr::new(address.ip().to_canonical(), address.port()).to_string()
}

impl AsyncRead for TcpTransport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for TcpTransport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Connections that the kernel holds for us until they are accepted; more than that wait for a repeated SYN. A
/// thousand hosts may come back at the same moment after a power cut.
const BACKLOG: i32 = 1024;
/// Silence after which the kernel asks whether the other end is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// Time between such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Questions without an answer after which the stream is dead.
const KEEPALIVE_PROBES: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::AsyncWriteExt;

    async fn a_pair(address: &str) -> (Box<dyn Transport>, Box<dyn Transport>) {
        let mut portal = TcpNetwork.listen(address).await.unwrap();
        let local = portal.local();
        let (client, server) = tokio::join!(TcpNetwork.connect(&local), portal.accept());
        (client.unwrap(), server.unwrap())
    }

    #[tokio::test]
    async fn bytes_land_in_several_places_with_one_read() {
        let (mut client, mut server) = a_pair("127.0.0.1:0").await;
        client.write_all(b"journal").await.unwrap();
        let (mut head, mut tail) = ([0; 3], [0; 8]);
        let count = poll_fn(|cx| {
            server.poll_read_vectored(cx, &mut [IoSliceMut::new(&mut head), IoSliceMut::new(&mut tail)])
        });
        assert_eq!(count.await.unwrap(), 7);
        assert_eq!((&head, &tail[..4]), (b"jou", &b"rnal"[..]));
        drop(client);
        let end = poll_fn(|cx| server.poll_read_vectored(cx, &mut [IoSliceMut::new(&mut head)]));
        assert_eq!(end.await.unwrap(), 0);
    }

    #[tokio::test]
    async fn both_address_families_are_served_where_the_machine_has_them() {
        let (client, server) = a_pair("127.0.0.1:0").await;
        assert_eq!(client.local(), server.peer());
        if TcpNetwork.listen("[::1]:0").await.is_ok() {
            let (client, server) = a_pair("[::1]:0").await;
            assert_eq!(client.peer(), server.local());
        }
    }

    #[tokio::test]
    async fn a_portal_can_be_opened_again_at_once() {
        let portal = TcpNetwork.listen("127.0.0.1:0").await.unwrap();
        let local = portal.local();
        drop(portal);
        TcpNetwork.listen(&local).await.unwrap();
    }
}
