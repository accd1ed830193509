//! A network whose outgoing streams are counted: what really goes over a link, with headers and digests.

use super::transport::{Listener, Network, Transport};
use crate::clock::BoxFuture;
use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of streams, of all that share it.
#[derive(Debug, Default)]
pub struct StreamBytes {
    sent: AtomicU64,
    received: AtomicU64,
}

impl StreamBytes {
    /// Bytes sent and received so far.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Relaxed), self.received.load(Ordering::Relaxed))
    }

    /// Adds what went another way.
    pub fn count(&self, sent: u64, received: u64) {
        self.sent.fetch_add(sent, Ordering::Relaxed);
        self.received.fetch_add(received, Ordering::Relaxed);
    }

    fn count_read(&self, bytes: usize) {
        self.count(0, bytes as u64);
    }

    fn count_written(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &result {
            self.count(*bytes as u64, 0);
        }
        result
    }
}

/// `network`, whose connections count into `bytes`.
#[derive(Debug)]
pub struct CountedNetwork {
    /// Where streams come from.
    pub network: Arc<dyn Network>,
    /// Where they are counted.
    pub bytes: Arc<StreamBytes>,
}

impl Network for CountedNetwork {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Transport>>> {
        Box::pin(async move {
            let stream = self.network.connect(address).await?;
            Ok(Box::new(Counted { stream, bytes: self.bytes.clone() }) as Box<dyn Transport>)
        })
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        self.network.listen(address)
    }
}

struct Counted {
    stream: Box<dyn Transport>,
    bytes: Arc<StreamBytes>,
}

impl Transport for Counted {
    fn poll_read_vectored(
        &mut self,
        cx: &mut Context<'_>,
        places: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let read = self.stream.poll_read_vectored(cx, places);
        if let Poll::Ready(Ok(bytes)) = &read {
            self.bytes.count_read(*bytes);
        }
        read
    }

    fn peer(&self) -> String {
        self.stream.peer()
    }

    fn local(&self) -> String {
        self.stream.local()
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut *self.stream).poll_read(cx, buffer);
        self.bytes.count_read(buffer.filled().len() - before);
        read
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.stream).poll_write(cx, bytes);
        self.bytes.count_written(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.stream).poll_write_vectored(cx, pieces);
        self.bytes.count_written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::tcp_network::TcpNetwork;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn every_byte_of_every_stream_counts() {
        let bytes = Arc::new(StreamBytes::default());
        let network = CountedNetwork { network: Arc::new(TcpNetwork), bytes: bytes.clone() };
        let mut portal = network.listen("127.0.0.1:0").await.unwrap();
        let address = portal.local();
        for round in 1..=2 {
            let (client, server) = tokio::join!(network.connect(&address), portal.accept());
            let (mut client, mut server) = (client.unwrap(), server.unwrap());
            client.write_all(b"journal").await.unwrap();
            server.write_all(b"read").await.unwrap();
            client.read_exact(&mut [0; 4]).await.unwrap();
            assert_eq!(bytes.totals(), (7 * round, 4 * round));
        }
    }
}
