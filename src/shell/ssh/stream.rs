//! A connection's bytes, watched: by the guard, by the time for authentication, and by the server's end.

use super::admission::Fault;
use super::guard::Guard;
use super::{Door, GRACE, Place};
use crate::clock::BoxFuture;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A stream that ends when the client breaks a rule or the server stops. The library always reads, so an end that is
/// noticed there is noticed at once.
pub(super) struct Guarded {
    stream: TcpStream,
    guard: Guard,
    place: Arc<Place>,
    grace: Option<BoxFuture<'static, ()>>,
    stopped: BoxFuture<'static, ()>,
}

impl Guarded {
    pub(super) fn new(stream: TcpStream, door: &Door, place: Arc<Place>) -> Self {
        let mut stopped = door.stopped.clone();
        Self {
            stream,
            guard: Guard::default(),
            place,
            grace: Some(door.clock.sleep(GRACE)),
            stopped: Box::pin(async move {
                // Nothing is ever sent: it resolves when the sender is dropped.
                let _ = stopped.changed().await;
            }),
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.stopped.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the server stops")));
        }
        let is_authenticated = this.place.is_authenticated();
        if is_authenticated {
            this.grace = None;
        }
        if let Some(grace) = &mut this.grace
            && grace.as_mut().poll(cx).is_ready()
        {
            this.place.note(Fault::Misused);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "no authentication in time")));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        let new = buf.filled().get(before..).unwrap_or_default();
        if let Err(violation) = this.guard.input(new, is_authenticated) {
            buf.set_filled(before);
            this.place.note(Fault::Misused);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, violation)));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
