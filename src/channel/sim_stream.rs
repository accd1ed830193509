//! Streams of the simulated network: two directions, each a queue of bytes with their times of arrival.

use super::sim_network::{Link, LinkState, SimNetwork};
use super::transport::Transport;
use crate::clock::{BoxFuture, MonotonicNs};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One direction of one stream.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct PipeId(pub(super) u64);

pub(super) struct Pipe {
    pub(super) from: String,
    pub(super) to: String,
    chunks: VecDeque<Chunk>,
    held_bytes: usize,
    /// When the last byte so far leaves the sender's machine, for the bandwidth.
    departs: MonotonicNs,
    end: End,
    pub(super) lost_bytes: bool,
    /// The writer has been told that nobody reads any more.
    reader_gone: bool,
    /// Nobody holds the reading end.
    reader_dropped: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Closed,
    Reset,
}

struct Chunk {
    arrives: MonotonicNs,
    bytes: Vec<u8>,
    taken: usize,
}

impl PipeId {
    /// The other direction of the same stream.
    pub(super) fn twin(self) -> Self {
        Self(self.0 ^ 1)
    }
}

impl Pipe {
    pub(super) fn new(from: &str, to: &str) -> Self {
        Self {
            from: from.to_owned(),
            to: to.to_owned(),
            chunks: VecDeque::new(),
            held_bytes: 0,
            departs: MonotonicNs(0),
            end: End::Open,
            lost_bytes: false,
            reader_gone: false,
            reader_dropped: false,
            reader: None,
            writer: None,
        }
    }

    pub(super) fn reset(&mut self) {
        self.end = End::Reset;
        self.chunks.clear();
        self.wake();
    }

    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

/// One end of a stream.
pub(super) struct SimStream {
    network: SimNetwork,
    incoming: PipeId,
    outgoing: PipeId,
    local: String,
    peer: String,
    arrival: Option<BoxFuture<'static, ()>>,
}

impl SimStream {
    pub(super) fn new(network: &SimNetwork, pipes: (PipeId, PipeId), names: (String, String)) -> Self {
        Self {
            network: network.clone(),
            incoming: pipes.0,
            outgoing: pipes.1,
            local: names.0,
            peer: names.1,
            arrival: None,
        }
    }

    /// Moves what has arrived into `places`.
    fn read(&mut self, cx: &mut Context<'_>, places: &mut [IoSliceMut<'_>]) -> Poll<io::Result<usize>> {
        loop {
            let now = self.network.now();
            let wait = {
                let mut state = self.network.state();
                let Some(pipe) = state.pipes.get_mut(&self.incoming) else {
                    return Poll::Ready(Ok(0));
                };
                if pipe.end == End::Reset {
                    return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
                }
                match pipe.chunks.front() {
                    Some(chunk) if chunk.arrives <= now => return Poll::Ready(Ok(pipe.take(now, places))),
                    Some(chunk) => {
                        pipe.reader = Some(cx.waker().clone());
                        chunk.arrives.since(now)
                    }
                    None if pipe.end == End::Closed => return Poll::Ready(Ok(0)),
                    None => {
                        pipe.reader = Some(cx.waker().clone());
                        return Poll::Pending;
                    }
                }
            };
            let arrival = self.arrival.get_or_insert_with(|| self.network.clock().sleep(wait));
            if arrival.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.arrival = None;
        }
    }

    fn write(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let now = self.network.now();
        let mut state = self.network.state();
        let Some((from, to)) = state.pipes.get(&self.outgoing).map(|p| (p.from.clone(), p.to.clone())) else {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        };
        let link = state.link(&from, &to);
        let Some(pipe) = state.pipes.get_mut(&self.outgoing) else {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        };
        if pipe.end != End::Open || pipe.reader_gone {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        }
        let room = STREAM_BYTES_MAX - pipe.held_bytes;
        if room == 0 {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(pipe.put(now, link, room, pieces)))
    }
}

impl Pipe {
    fn take(&mut self, now: MonotonicNs, places: &mut [IoSliceMut<'_>]) -> usize {
        let mut count = 0;
        for place in places {
            let mut place: &mut [u8] = place;
            while let Some(chunk) = self.chunks.front_mut().filter(|chunk| chunk.arrives <= now) {
                let part = place.len().min(chunk.bytes.len() - chunk.taken);
                let (head, rest) = place.split_at_mut(part);
                head.copy_from_slice(&chunk.bytes[chunk.taken..chunk.taken + part]);
                place = rest;
                chunk.taken += part;
                count += part;
                if chunk.taken < chunk.bytes.len() {
                    break;
                }
                self.chunks.pop_front();
            }
        }
        self.held_bytes -= count;
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
        count
    }

    fn put(&mut self, now: MonotonicNs, link: Link, room: usize, pieces: &[IoSlice<'_>]) -> usize {
        let mut bytes = Vec::with_capacity(room.min(pieces.iter().map(|piece| piece.len()).sum()));
        for piece in pieces {
            let part = piece.len().min(room - bytes.len());
            bytes.extend_from_slice(&piece[..part]);
        }
        let count = bytes.len();
        self.held_bytes += count;
        if link.state == LinkState::Silent || self.lost_bytes {
            self.lost_bytes = true; // What the sender's machine still holds fills up; nobody reads it.
            return count;
        }
        self.departs = self.departs.max(now);
        // What takes its time arrives piece by piece.
        match link.bytes_per_second {
            Some(_) => bytes.chunks(PIECE_BYTES).for_each(|piece| self.send(link, piece.to_vec())),
            None if count > 0 => self.send(link, bytes),
            None => {}
        }
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        count
    }

    fn send(&mut self, link: Link, bytes: Vec<u8>) {
        let sending_ns = link.bytes_per_second.map_or(0, |rate| {
            u64::try_from(bytes.len()).unwrap_or(u64::MAX).saturating_mul(1_000_000_000) / rate.max(1)
        });
        self.departs = MonotonicNs(self.departs.0.saturating_add(sending_ns));
        let delay_ns = u64::try_from(link.delay.as_nanos()).unwrap_or(u64::MAX);
        // A shortened delay does not let later bytes overtake earlier ones.
        let earliest = self.chunks.back().map_or(MonotonicNs(0), |chunk| chunk.arrives);
        let arrives = MonotonicNs(self.departs.0.saturating_add(delay_ns)).max(earliest);
        self.chunks.push_back(Chunk { arrives, bytes, taken: 0 });
    }
}

/// Over a link with a rate bytes arrive in pieces of this size.
const PIECE_BYTES: usize = 16 << 10;

impl Transport for SimStream {
    fn poll_read_vectored(
        &mut self,
        cx: &mut Context<'_>,
        places: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        self.read(cx, places)
    }

    fn peer(&self) -> String {
        self.peer.clone()
    }

    fn local(&self) -> String {
        self.local.clone()
    }
}

impl AsyncRead for SimStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let place = IoSliceMut::new(buffer.initialize_unfilled());
        match self.read(cx, &mut [place]) {
            Poll::Ready(Ok(count)) => {
                buffer.advance(count);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(pipe) = self.network.state().pipes.get_mut(&self.outgoing) {
            pipe.close();
        }
        Poll::Ready(Ok(()))
    }
}

impl Pipe {
    /// The sender says no more. On a silent link the other end does not learn of it.
    fn close(&mut self) {
        if self.end == End::Open && !self.lost_bytes {
            self.end = End::Closed;
        }
        self.wake();
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        let mut state = self.network.state();
        let silent = state
            .pipes
            .get(&self.outgoing)
            .map(|pipe| state.link(&pipe.from, &pipe.to).state == LinkState::Silent)
            .unwrap_or_default();
        if let Some(pipe) = state.pipes.get_mut(&self.outgoing) {
            if silent {
                pipe.lost_bytes = true;
            } else {
                pipe.close();
            }
        }
        if let Some(pipe) = state.pipes.get_mut(&self.incoming) {
            pipe.reader_gone = !silent;
            pipe.reader_dropped = true;
            pipe.chunks.clear();
            pipe.wake();
        }
        // The direction that the other end reads stays until it goes too; a stream nobody holds is forgotten.
        if state.pipes.get(&self.outgoing).is_none_or(|pipe| pipe.reader_dropped) {
            state.pipes.remove(&self.outgoing);
            state.pipes.remove(&self.incoming);
        }
    }
}

/// Bytes that one direction holds, sent and not yet read: then writes wait, as with a full TCP window.
pub const STREAM_BYTES_MAX: usize = 4 << 20;
