//! PDUs on a stream: the half of a connection's driver that initiator and target have in common.
//!
//! [`Inbox`] reads all that the socket has into one buffer and walks through the PDUs in it. Payload that is already in
//! the buffer is copied once to where it belongs, which is cheaper than another system call for small segments; what is
//! still to come is read straight into its place, together with the beginning of what follows it. [`Outbox`] gathers
//! the answers of a whole pass and sends them with one vectored write.

use super::piece::{Piece, Pieces, Room};
use super::transport::Transport;
use crate::disk::slot::SLOT_BYTES;
use holdfast_iscsi::digest::{Digest, data_digest, header_digest};
use holdfast_iscsi::pdu::Bhs;
use holdfast_iscsi::pdu::ahs::{Cdb, MAX_AHS_BYTES};
use holdfast_iscsi::pdu::bhs::BHS_BYTES;
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::ReadBuf;

/// What follows a basic header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) ahs_bytes: usize,
    pub(super) header_digest: bool,
    pub(super) data_bytes: usize,
    pub(super) data_digest: bool,
}

/// Where a data segment belongs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<Task> {
    /// Handed over in one piece.
    Inline,
    /// Into the room of a task, at this offset.
    Room(Task, usize),
    /// Read and forgotten.
    Nowhere,
}

/// Whose PDUs these are: the protocol behind the wire.
pub(super) trait Receiver {
    /// Names a task that has room for payload.
    type Task: Copy;
    /// Why the connection ends.
    type Error: From<io::Error>;

    /// Whether another PDU may be taken now; if not, the stream waits.
    fn is_ready(&self) -> bool;
    /// Says what follows this header.
    fn handle_bhs(&mut self, bhs: &Bhs) -> Result<Frame, Self::Error>;
    /// A header that is whole, its digest right.
    fn handle_header(&mut self, bhs: &Bhs, ahs: &[u8]) -> Result<Place<Self::Task>, Self::Error>;
    /// The room of a task; `None` drops the payload.
    fn room(&mut self, task: Self::Task) -> Option<&mut Room>;
    /// The PDU is complete.
    fn handle_payload(&mut self, inline: &[u8]) -> Result<(), Self::Error>;
    /// The header digest is wrong: the stream cannot be trusted any further.
    fn handle_bad_header(&mut self) -> Self::Error;
    /// The data digest is wrong; the PDU is complete otherwise.
    fn handle_bad_payload(&mut self) -> Result<(), Self::Error>;
}

/// The receiving half.
#[derive(Debug)]
pub(super) struct Inbox<Task> {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    stage: Stage<Task>,
    /// Of the payload that is being received, where it has one.
    digest: Digest,
    /// The payload before this PDU was large: only a header is read ahead, so that the next payload, probably large
    /// too, lands in its place directly.
    is_bulk: bool,
    /// A header is there that the receiver was not ready for.
    is_stalled: bool,
}

/// How far the current PDU has come.
#[derive(Debug)]
enum Stage<Task> {
    Header,
    /// The additional headers and the header digest.
    Additional(Bhs, Frame),
    Payload(Segment<Task>),
}

#[derive(Debug)]
struct Segment<Task> {
    place: Place<Task>,
    bytes: usize,
    done: usize,
    has_digest: bool,
    inline: Vec<u8>,
}

impl<Task: Copy> Inbox<Task> {
    pub(super) fn new() -> Self {
        let buffer = vec![0; INBOX_SMALL_BYTES].into_boxed_slice();
        Self {
            buffer,
            start: 0,
            end: 0,
            stage: Stage::Header,
            digest: Digest::new(),
            is_bulk: false,
            is_stalled: false,
        }
    }

    /// Gives the large buffer back: nothing has come for a while.
    pub(super) fn shrink(&mut self) {
        if self.start == self.end && self.buffer.len() > INBOX_SMALL_BYTES {
            self.buffer = vec![0; INBOX_SMALL_BYTES].into_boxed_slice();
            (self.start, self.end) = (0, 0);
        }
    }

    /// Takes all PDUs that are in the buffer, as long as the receiver is ready for them.
    pub(super) fn parse<R: Receiver<Task = Task>>(&mut self, receiver: &mut R) -> Result<(), R::Error> {
        while self.step(receiver)? {}
        Ok(())
    }

    /// Whether [`parse`](Self::parse) stopped because the receiver was not ready, not for want of bytes.
    pub(super) fn is_stalled(&self) -> bool {
        self.is_stalled
    }

    /// One step; false if more bytes are needed or the receiver is not ready.
    fn step<R: Receiver<Task = Task>>(&mut self, receiver: &mut R) -> Result<bool, R::Error> {
        match &mut self.stage {
            Stage::Header => {
                self.is_stalled = false;
                let Some(bytes) = self.buffer[self.start..self.end].first_chunk::<BHS_BYTES>() else {
                    return Ok(false);
                };
                if !receiver.is_ready() {
                    self.is_stalled = true;
                    return Ok(false);
                }
                let bhs = Bhs(*bytes);
                let frame = receiver.handle_bhs(&bhs)?;
                self.start += BHS_BYTES;
                self.stage = Stage::Additional(bhs, frame);
                Ok(true)
            }
            Stage::Additional(bhs, frame) => {
                let digest_bytes = if frame.header_digest { DIGEST_BYTES } else { 0 };
                let whole = &self.buffer[self.start..self.end];
                let Some(whole) = whole.get(..frame.ahs_bytes + digest_bytes) else { return Ok(false) };
                let (ahs, digest) = whole.split_at(frame.ahs_bytes);
                if frame.header_digest && digest != header_digest(&bhs.0, ahs) {
                    return Err(receiver.handle_bad_header());
                }
                let place = receiver.handle_header(bhs, ahs)?;
                let segment = Segment {
                    place,
                    bytes: frame.data_bytes,
                    done: 0,
                    has_digest: frame.data_digest && frame.data_bytes > 0,
                    inline: Vec::new(),
                };
                if segment.has_digest {
                    self.digest = Digest::new();
                }
                self.start += frame.ahs_bytes + digest_bytes;
                self.stage = Stage::Payload(segment);
                Ok(true)
            }
            Stage::Payload(segment) => {
                let ready = &self.buffer[self.start..self.end];
                let part = ready.len().min(segment.bytes - segment.done);
                segment.take(&ready[..part], &mut self.digest, receiver);
                self.start += part;
                self.finish(receiver)
            }
        }
    }

    /// Ends the PDU if its payload and what follows it is there.
    fn finish<R: Receiver<Task = Task>>(&mut self, receiver: &mut R) -> Result<bool, R::Error> {
        let Stage::Payload(segment) = &mut self.stage else { return Ok(false) };
        let tail_bytes = segment.tail_bytes();
        let (true, Some(tail)) =
            (segment.done == segment.bytes, self.buffer[self.start..self.end].get(..tail_bytes))
        else {
            return Ok(false);
        };
        let padding = tail_bytes - if segment.has_digest { DIGEST_BYTES } else { 0 };
        let (padding, wire) = tail.split_at(padding);
        let is_good = !segment.has_digest || {
            self.digest.update(padding);
            wire.first_chunk().is_some_and(|wire| self.digest.matches(*wire))
        };
        let inline = std::mem::take(&mut segment.inline);
        self.is_bulk = segment.bytes >= BULK_BYTES;
        self.start += tail_bytes;
        self.stage = Stage::Header;
        if is_good {
            receiver.handle_payload(&inline)?
        } else {
            receiver.handle_bad_payload()?
        }
        Ok(true)
    }

    /// Reads what the socket has: first the rest of the current payload into its place, behind it what follows.
    /// Zero bytes mean the end of the stream.
    pub(super) fn poll_fill<R: Receiver<Task = Task>>(
        &mut self,
        cx: &mut Context<'_>,
        transport: &mut dyn Transport,
        receiver: &mut R,
    ) -> Poll<io::Result<usize>> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.buffer.len() - self.end < self.buffer.len() / 4 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if let Stage::Payload(segment) = &mut self.stage
            && segment.done < segment.bytes
            && let Place::Room(task, offset) = segment.place
            && let Some(room) = receiver.room(task)
            && offset + segment.done < room.capacity()
        {
            let count =
                ready!(segment.poll_read(cx, transport, (room, offset), &mut self.buffer[self.end..]))?;
            self.end += count.saturating_sub(segment.bytes - segment.done);
            segment.received(count, (room, offset), &mut self.digest);
            return Poll::Ready(Ok(count));
        }
        let unread = self.end - self.start;
        let until = match self.is_bulk {
            true if unread < BULK_AHEAD_BYTES => self.start + BULK_AHEAD_BYTES,
            _ => self.buffer.len(),
        };
        let mut into = ReadBuf::new(&mut self.buffer[self.end..until]);
        ready!(Pin::new(transport).poll_read(cx, &mut into))?;
        let count = into.filled().len();
        self.end += count;
        if self.end == self.buffer.len() && self.end < INBOX_BYTES {
            let mut large = vec![0; INBOX_BYTES].into_boxed_slice();
            large[..self.end].copy_from_slice(&self.buffer);
            self.buffer = large;
        }
        Poll::Ready(Ok(count))
    }
}

impl<Task: Copy> Segment<Task> {
    /// Padding and digest.
    fn tail_bytes(&self) -> usize {
        let digest = if self.has_digest { DIGEST_BYTES } else { 0 };
        self.bytes.wrapping_neg() % 4 + digest
    }

    /// Copies what was in the buffer already.
    fn take<R: Receiver<Task = Task>>(&mut self, bytes: &[u8], digest: &mut Digest, receiver: &mut R) {
        if bytes.is_empty() {
            return;
        }
        match self.place {
            Place::Inline => self.inline.extend_from_slice(bytes),
            Place::Room(task, offset) => match receiver.room(task) {
                Some(room) => room.put(offset + self.done, bytes),
                None => self.place = Place::Nowhere,
            },
            Place::Nowhere => {}
        }
        if self.has_digest {
            digest.update(bytes);
        }
        self.done += bytes.len();
    }

    /// Reads the rest of the payload into its room and what follows into `behind`.
    fn poll_read(
        &self,
        cx: &mut Context<'_>,
        transport: &mut dyn Transport,
        (room, offset): (&mut Room, usize),
        behind: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let left = self.bytes - self.done;
        let mut places = Vec::with_capacity((left / SLOT_BYTES + 3).min(PLACES_MAX));
        room.places(offset + self.done, left, PLACES_MAX - 1, &mut places);
        let covered: usize = places.iter().map(|place| place.len()).sum();
        if covered == left {
            let ahead = if self.bytes >= BULK_BYTES { self.tail_bytes() + BHS_BYTES } else { behind.len() };
            let ahead = ahead.min(behind.len());
            places.push(IoSliceMut::new(&mut behind[..ahead]));
        }
        transport.poll_read_vectored(cx, &mut places)
    }

    /// Accounts for `count` bytes that were read, the payload's first.
    fn received(&mut self, count: usize, (room, offset): (&mut Room, usize), digest: &mut Digest) {
        let count = count.min(self.bytes - self.done);
        if self.has_digest {
            room.for_each_slice(offset + self.done, count, |slice| digest.update(slice));
        }
        self.done += count;
    }
}

/// The sending half: what waits for the socket.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Headers, digests and small segments; cleared when everything has gone.
    arena: Vec<u8>,
    parts: VecDeque<Part>,
    /// Bytes of the first part that have gone.
    sent: usize,
    queued_bytes: usize,
}

#[derive(Debug)]
enum Part {
    Arena { start: usize, end: usize },
    Piece(Piece),
}

impl Part {
    fn len(&self) -> usize {
        match self {
            Self::Arena { start, end } => end - start,
            Self::Piece(piece) => piece.len(),
        }
    }
}

impl Outbox {
    /// Whether so much waits that nothing should be added.
    pub(super) fn is_full(&self) -> bool {
        self.queued_bytes >= OUTBOX_BYTES || self.parts.len() >= PLACES_MAX
    }

    /// Whether everything has gone.
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Queues a header with the extended part of its CDB, if it has one, and its digest.
    pub(super) fn header(&mut self, bhs: &Bhs, extended: Option<&Cdb>, with_digest: bool) {
        let mut space = [0; MAX_AHS_BYTES];
        let ahs = extended.map_or(&[][..], |cdb| cdb.build_ahs(&mut space));
        self.bytes(&bhs.0);
        if !ahs.is_empty() {
            self.bytes(ahs);
        }
        if with_digest {
            self.bytes(&header_digest(&bhs.0, ahs));
        }
    }

    /// Queues a small data segment with padding and digest.
    pub(super) fn small_segment(&mut self, segment: &[u8], with_digest: bool) {
        if segment.is_empty() {
            return;
        }
        self.bytes(segment);
        self.padding(segment.len());
        if with_digest {
            self.bytes(&data_digest(segment));
        }
    }

    /// Queues a part of `pieces` as a data segment, with padding and digest.
    pub(super) fn segment(&mut self, pieces: &Pieces, (offset, bytes): (usize, usize), with_digest: bool) {
        let mut digest = with_digest.then(Digest::new);
        pieces.cut(offset, bytes, |piece| {
            if let Some(digest) = &mut digest {
                piece.for_each_slice(0, |slice| digest.update(slice));
            }
            self.queued_bytes += piece.len();
            self.parts.push_back(Part::Piece(piece));
        });
        self.padding(bytes);
        if let Some(mut digest) = digest {
            digest.update_padding(bytes);
            self.bytes(&digest.finish());
        }
    }

    fn padding(&mut self, bytes: usize) {
        let padding = bytes.wrapping_neg() % 4;
        if padding > 0 {
            self.bytes(&[0; 3][..padding]);
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let start = self.arena.len();
        self.arena.extend_from_slice(bytes);
        self.queued_bytes += bytes.len();
        match self.parts.back_mut() {
            // Neighbours become one entry of the vector.
            Some(Part::Arena { end, .. }) if *end == start => *end += bytes.len(),
            _ => self.parts.push_back(Part::Arena { start, end: start + bytes.len() }),
        }
    }

    /// Writes until nothing waits any more.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        transport: &mut dyn Transport,
    ) -> Poll<io::Result<()>> {
        while !self.parts.is_empty() {
            let mut slices = Vec::with_capacity(self.parts.len().min(PLACES_MAX));
            let mut from = self.sent;
            for part in &self.parts {
                match part {
                    Part::Arena { start, end } => slices.push(IoSlice::new(&self.arena[start + from..*end])),
                    Part::Piece(piece) => piece.for_each_slice(from, |slice| {
                        slices.push(IoSlice::new(slice));
                    }),
                }
                from = 0;
                if slices.len() >= PLACES_MAX {
                    break;
                }
            }
            slices.truncate(PLACES_MAX);
            let count = ready!(Pin::new(&mut *transport).poll_write_vectored(cx, &slices))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.gone(count);
        }
        Poll::Ready(Ok(()))
    }

    fn gone(&mut self, count: usize) {
        self.queued_bytes -= count;
        self.sent += count;
        while let Some(first) = self.parts.front() {
            let length = first.len();
            if self.sent < length {
                return;
            }
            self.sent -= length;
            self.parts.pop_front();
        }
        self.arena.clear();
        if self.arena.capacity() > ARENA_KEPT_BYTES {
            self.arena = Vec::new();
        }
    }
}

const DIGEST_BYTES: usize = 4;
/// What is read from the socket in one go.
const INBOX_BYTES: usize = 64 << 10;
/// The buffer of a connection on which little happens, so that a thousand of them cost little. It holds a header with
/// the longest additional headers.
const INBOX_SMALL_BYTES: usize = 512;
/// From here on payload is read straight into its place, with no more than a header ahead.
const BULK_BYTES: usize = 32 << 10;
/// What is read after a large payload: a header, perhaps with digests.
const BULK_AHEAD_BYTES: usize = 64;
/// Entries of one vectored call (`IOV_MAX`).
const PLACES_MAX: usize = 1024;
/// Bytes that wait for the socket before no more answers are produced.
const OUTBOX_BYTES: usize = 2 << 20;
/// The arena is not kept when it has grown beyond this.
const ARENA_KEPT_BYTES: usize = 64 << 10;
