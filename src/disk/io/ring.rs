//! Units by io_uring: one ring and one thread for all units of an array.
//!
//! One ring for all, because a stripe is written to all its members at the same moment: one system call submits the
//! transfers of every member and waits for the completions of every member. Requests come through a queue; a read of
//! an event counter is always in flight, so that the thread sleeps in the kernel until there is a request or a
//! completion, and at rest nothing wakes up.
//!
//! Memory that lasts as long as the process ([`RingEngine::lend`]) is registered with the ring, where the kernel knows how to
//! transfer runs of pages from it (6.15): it then need not look up and hold each page for each transfer, which costs as much as a copy of
//! its beginning. Where it does not, or more memory would be locked than the process may, transfers are ordinary ones.
//!
//! Memory safety: the kernel reads and writes pages while a transfer is in flight. Their handles and the vectors that
//! point to them are owned by the table of flights until the completion has been taken from the ring; the thread does
//! not end before the table is empty, and if the ring itself breaks, they are leaked rather than freed.

use super::file::{UnitFile, VECTORS_MAX};
use super::opener::{OpenMode, OpenUnitError};
use super::plain::{PlainEngine, on_threads};
use crate::clock::BoxFuture;
use crate::disk::device::{BlockDevice, DeviceError};
use crate::disk::slot::{Piece, SLOT_BYTES, Slot, SlotMut};
use io_uring::{IoUring, Probe, opcode, types};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedMutexGuard, oneshot};

/// The ring. It ends with the last handle and the last unit.
#[derive(Clone, Debug)]
pub struct RingEngine {
    requests: Arc<Doorbell>,
    /// Opening and discarding block, and happen seldom.
    plain: PlainEngine,
}

#[derive(Debug)]
struct RingUnit {
    file: Arc<UnitFile>,
    engine: RingEngine,
}

/// What handles share with the thread.
#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// The event counter has been raised and the thread has not looked yet.
    rung: AtomicBool,
    counter: OwnedFd,
}

#[derive(Debug, Default)]
struct Queue {
    requests: VecDeque<Request>,
    /// To be registered.
    lent: Vec<Piece>,
    /// Set once: no handle is left, or the ring is broken.
    closed: bool,
}

/// Closes the queue when the last handle goes.
#[derive(Debug)]
struct Doorbell(Arc<Shared>);

#[derive(Debug)]
struct Request {
    file: Arc<UnitFile>,
    offset_bytes: u64,
    work: Work,
}

#[derive(Debug)]
enum Work {
    Read(Vec<SlotMut>, oneshot::Sender<Result<Vec<SlotMut>, DeviceError>>),
    Write(Vec<Slot>, oneshot::Sender<Result<(), DeviceError>>),
    Flush(OwnedMutexGuard<()>, oneshot::Sender<Result<(), DeviceError>>),
}

impl RingEngine {
    /// Whether a ring works here; containers often forbid it.
    ///
    /// # Errors
    /// What the system says instead.
    pub fn probe() -> std::io::Result<()> {
        let mut ring = IoUring::new(4)?;
        let nop = opcode::Nop::new().build();
        push(&mut ring, &nop);
        ring.submit_and_wait(1)?;
        match ring.completion().next() {
            Some(done) if done.result() >= 0 => Ok(()),
            Some(done) => Err(std::io::Error::from_raw_os_error(-done.result())),
            None => Err(std::io::Error::other("the ring gave no completion")),
        }
    }

    /// Starts the ring and its thread.
    ///
    /// # Errors
    /// What the system says; then use the plain engine.
    pub fn start() -> std::io::Result<Self> {
        Self::probe()?;
        let ring = IoUring::new(FLIGHTS_MAX)?;
        let counter = eventfd(0, EventfdFlags::CLOEXEC)?;
        let shared = Arc::new(Shared { queue: Mutex::default(), rung: AtomicBool::new(false), counter });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("unit-ring".to_owned());
        thread.spawn(move || Pilot::new(ring, theirs).run())?;
        Ok(Self { requests: Arc::new(Doorbell(shared)), plain: PlainEngine::start(1)? })
    }

    /// Makes known memory that lasts as long as the process.
    pub fn lend(&self, piece: Piece) {
        self.requests.0.queue().lent.push(piece);
        self.requests.0.wake();
    }

    /// Opens or makes a unit.
    ///
    /// # Errors
    /// Names the file.
    pub async fn open(&self, path: &str, mode: OpenMode) -> Result<Arc<dyn BlockDevice>, OpenUnitError> {
        let file = self.plain.open_file(path, mode).await?;
        Ok(Arc::new(RingUnit { file, engine: self.clone() }))
    }
}

impl Doorbell {
    /// Hands a request over; false when the ring has ended.
    fn ring(&self, request: Request) -> bool {
        let mut queue = self.0.queue();
        if queue.closed {
            return false;
        }
        queue.requests.push_back(request);
        drop(queue);
        self.0.wake();
        true
    }
}

impl Drop for Doorbell {
    fn drop(&mut self) {
        self.0.queue().closed = true;
        self.0.wake();
    }
}

impl Shared {
    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Many requests between two looks of the thread cost one system call.
    fn wake(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            // It fails only when the counter would overflow: then the thread is awake anyway.
            let _ = rustix::io::write(&self.counter, &1_u64.to_ne_bytes());
        }
    }
}

impl RingUnit {
    async fn request<T>(
        &self,
        offset_bytes: u64,
        work: impl FnOnce(oneshot::Sender<Result<T, DeviceError>>) -> Work,
    ) -> Result<T, DeviceError> {
        let (done, result) = oneshot::channel();
        let request = Request { file: Arc::clone(&self.file), offset_bytes, work: work(done) };
        if !self.engine.requests.ring(request) {
            return Err(self.file.gone(ENDED));
        }
        result.await.unwrap_or_else(|_| Err(self.file.gone(ENDED)))
    }
}

impl BlockDevice for RingUnit {
    fn length_bytes(&self) -> u64 {
        self.file.length_bytes
    }

    fn read(
        &self,
        offset_bytes: u64,
        into: Vec<SlotMut>,
    ) -> BoxFuture<'_, Result<Vec<SlotMut>, DeviceError>> {
        Box::pin(async move {
            self.file.check(offset_bytes, into.len())?;
            if into.is_empty() {
                return Ok(into);
            }
            self.request(offset_bytes, |done| Work::Read(into, done)).await
        })
    }

    fn write(&self, offset_bytes: u64, from: Vec<Slot>) -> BoxFuture<'_, Result<(), DeviceError>> {
        Box::pin(async move {
            self.file.check(offset_bytes, from.len())?;
            if from.is_empty() {
                return Ok(());
            }
            self.request(offset_bytes, |done| Work::Write(from, done)).await
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), DeviceError>> {
        Box::pin(async move {
            let turn = Arc::clone(&self.file.flushing).lock_owned().await;
            self.file.alive()?;
            self.request(0, |done| Work::Flush(turn, done)).await
        })
    }

    fn discard(&self, offset_bytes: u64, length_bytes: u64) -> BoxFuture<'_, Result<(), DeviceError>> {
        Box::pin(async move {
            self.file.alive()?;
            on_threads(&self.engine.plain, &self.file, move |file| file.punch(offset_bytes, length_bytes))
                .await
        })
    }

    fn starts_zeroed(&self) -> bool {
        self.file.starts_zeroed
    }
}

/// A request that the kernel works on.
struct Flight {
    request: Request,
    vectors: Vec<libc::iovec>,
    /// Vectors before this one are done.
    next_vector: usize,
    done_bytes: u64,
    /// The registered piece in which all pages lie, by its number.
    registered: Option<u16>,
}

/// The thread's own state.
struct Pilot {
    ring: IoUring,
    shared: Arc<Shared>,
    /// By number, which is the `user_data` of the entry.
    flights: Vec<Option<Flight>>,
    free: Vec<usize>,
    /// Taken from the queue, or to be continued, and not yet in the ring.
    ready: VecDeque<Flight>,
    /// Where the kernel puts the counter; boxed, so that it stays in place.
    count: Box<[u8; 8]>,
    listening: bool,
    /// What is registered, in the order of its numbers.
    pieces: Vec<Piece>,
    can_register: bool,
}

impl Pilot {
    fn new(ring: IoUring, shared: Arc<Shared>) -> Self {
        let room = FLIGHTS_MAX as usize - 1;
        Self {
            can_register: knows_registered_runs(&ring)
                && ring.submitter().register_buffers_sparse(PIECES_MAX).is_ok(),
            pieces: Vec::new(),
            ring,
            shared,
            flights: (0..room).map(|_| None).collect(),
            free: (0..room).rev().collect(),
            ready: VecDeque::new(),
            count: Box::new([0; 8]),
            listening: false,
        }
    }

    fn run(mut self) {
        loop {
            let closed = self.take_requests();
            let idle = self.ready.is_empty() && self.free.len() == self.flights.len();
            // Who closes the queue raises the counter, so the read of it comes to an end too.
            if closed && idle && !self.listening {
                return;
            }
            self.launch(closed);
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) => {}
                Err(error) => {
                    tracing::error!(%error, "the ring for unit transfers is broken");
                    return;
                }
            }
            self.land();
        }
    }

    /// Moves requests out of the queue; true when no more will come.
    fn take_requests(&mut self) -> bool {
        // Before the queue is looked at: who puts something in afterwards raises the counter again.
        self.shared.rung.store(false, Ordering::SeqCst);
        let mut queue = self.shared.queue();
        let requests = std::mem::take(&mut queue.requests);
        let lent = std::mem::take(&mut queue.lent);
        let closed = queue.closed;
        drop(queue);
        lent.into_iter().for_each(|piece| self.register(piece));
        self.ready.extend(requests.into_iter().map(|request| Flight::new(request, &self.pieces)));
        closed
    }

    fn register(&mut self, piece: Piece) {
        let number = u32::try_from(self.pieces.len()).unwrap_or(PIECES_MAX);
        if !self.can_register || number >= PIECES_MAX {
            return;
        }
        match register(&self.ring, number, piece) {
            Ok(()) => self.pieces.push(piece),
            Err(error) => {
                tracing::info!(%error, "cache memory cannot be registered with the ring (memory that may be locked: `ulimit -l`); transfers are ordinary ones");
                self.can_register = false;
            }
        }
    }

    /// Puts what is ready into the ring, as far as there is room.
    fn launch(&mut self, closed: bool) {
        if !self.listening && !closed {
            let counter = types::Fd(self.shared.counter.as_raw_fd());
            let read = opcode::Read::new(counter, self.count.as_mut_ptr(), 8).build().user_data(LISTEN);
            self.listening = push(&mut self.ring, &read);
        }
        while let Some(number) = self.free.last().copied() {
            let Some(flight) = self.ready.pop_front() else { return };
            let entry = flight.entry().user_data(number as u64);
            // In the table before it is in the ring: from the push on, the kernel may use the pages.
            self.flights[number] = Some(flight);
            if !push(&mut self.ring, &entry) {
                self.ready.extend(self.flights[number].take());
                return;
            }
            self.free.pop();
        }
    }

    /// Takes every completion there is.
    fn land(&mut self) {
        let done: Vec<(u64, i32)> =
            self.ring.completion().map(|entry| (entry.user_data(), entry.result())).collect();
        for (number, result) in done {
            if number == LISTEN {
                self.listening = false;
                continue;
            }
            let Ok(number) = usize::try_from(number) else { continue };
            if let Some(flight) = self.flights.get_mut(number).and_then(Option::take) {
                self.free.push(number);
                self.ready.extend(flight.landed(result));
            }
        }
    }
}

impl Drop for Pilot {
    /// After an orderly end nothing is left here. When the ring broke or the thread panicked, callers are told, and
    /// the memory that the kernel may still use is never freed.
    fn drop(&mut self) {
        for flight in self.flights.iter_mut().filter_map(Option::take) {
            flight.abandon();
        }
        if self.listening {
            std::mem::forget(std::mem::take(&mut self.count));
        }
        self.shared.queue().closed = true;
        self.shared.queue().requests.clear();
    }
}

impl Flight {
    fn new(mut request: Request, pieces: &[Piece]) -> Self {
        let vector = |base: *mut u8| libc::iovec { iov_base: base.cast(), iov_len: SLOT_BYTES };
        let vectors = match &mut request.work {
            Work::Read(slots, _) => slots.iter_mut().map(|slot| vector(slot.as_mut_ptr())).collect(),
            // A write only reads through these pointers; the kernel's structure has one kind for both.
            Work::Write(slots, _) => slots.iter().map(|slot| vector(slot.as_ptr().cast_mut())).collect(),
            Work::Flush(..) => Vec::new(),
        };
        let registered = registered(&vectors, pieces);
        Self { request, vectors, next_vector: 0, done_bytes: 0, registered }
    }

    fn entry(&self) -> io_uring::squeue::Entry {
        let fd = types::Fd(self.request.file.fd.as_raw_fd());
        let rest = &self.vectors[self.next_vector..];
        let count = u32::try_from(rest.len().min(VECTORS_MAX)).unwrap_or(1);
        let at = self.request.offset_bytes + self.done_bytes;
        match (&self.request.work, self.registered) {
            (Work::Read(..), Some(piece)) => {
                opcode::ReadvFixed::new(fd, rest.as_ptr(), count, piece).offset(at).build()
            }
            (Work::Write(..), Some(piece)) => {
                opcode::WritevFixed::new(fd, rest.as_ptr(), count, piece).offset(at).build()
            }
            (Work::Read(..), None) => opcode::Readv::new(fd, rest.as_ptr(), count).offset(at).build(),
            (Work::Write(..), None) => opcode::Writev::new(fd, rest.as_ptr(), count).offset(at).build(),
            (Work::Flush(..), _) => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
        }
    }

    /// Ends the request, or gives it back to be continued after a short transfer.
    fn landed(mut self, result: i32) -> Option<Self> {
        let flush = matches!(self.request.work, Work::Flush(..));
        match u64::try_from(result) {
            _ if result == -libc::EINTR || result == -libc::EAGAIN => return Some(self),
            // Nothing was transferred: the file system has no such transfers.
            Err(_)
                if self.registered.is_some()
                    && matches!(-result, libc::EINVAL | libc::EOPNOTSUPP | libc::EFAULT | libc::ENOMEM) =>
            {
                self.registered = None;
                return Some(self);
            }
            Err(_) => self.finish(Err(Errno::from_raw_os_error(result.saturating_neg()))),
            Ok(_) if flush => self.finish(Ok(())),
            // A read beyond the end of a file that was cut short: not the zeros that a hole would be.
            Ok(0) => self.finish(Err(Errno::NODATA)),
            Ok(moved) => {
                self.advance(moved);
                if self.next_vector < self.vectors.len() {
                    return Some(self);
                }
                self.finish(Ok(()));
            }
        }
        None
    }

    fn advance(&mut self, moved: u64) {
        self.done_bytes += moved;
        let mut left = usize::try_from(moved).unwrap_or(usize::MAX);
        while let Some(vector) = self.vectors.get_mut(self.next_vector) {
            if left < vector.iov_len {
                vector.iov_base = vector.iov_base.cast::<u8>().wrapping_add(left).cast();
                vector.iov_len -= left;
                return;
            }
            left -= vector.iov_len;
            self.next_vector += 1;
        }
    }

    /// Tells the caller, and gives up the memory: nobody can tell when the kernel has finished with it.
    fn abandon(self) {
        let Self { request: Request { file, work, .. }, vectors, .. } = self;
        let gone = file.gone(ENDED);
        match work {
            Work::Read(slots, done) => {
                std::mem::forget(slots);
                let _ = done.send(Err(gone));
            }
            Work::Write(slots, done) => {
                std::mem::forget(slots);
                let _ = done.send(Err(gone));
            }
            Work::Flush(_, done) => {
                let _ = done.send(Err(file.flush_error(Errno::IO)));
            }
        }
        std::mem::forget(vectors);
    }

    /// Tells the caller; who no longer listens does not care.
    fn finish(self, result: Result<(), Errno>) {
        let Request { file, offset_bytes, work } = self.request;
        let length_bytes = (self.vectors.len() * SLOT_BYTES) as u64;
        match work {
            Work::Read(slots, done) => {
                let failed = |errno| file.read_error(offset_bytes, length_bytes, errno);
                let _ = done.send(result.map_err(failed).map(|()| slots));
            }
            Work::Write(_, done) => {
                let _ = done.send(result.map_err(|errno| file.write_error(offset_bytes, errno)));
            }
            Work::Flush(turn, done) => {
                // The failure is noted before the turn ends: the next flush must not be believed.
                let _ = done.send(result.map_err(|errno| file.flush_error(errno)));
                drop(turn);
            }
        }
    }
}

/// The piece in which all of it lies.
fn registered(vectors: &[libc::iovec], pieces: &[Piece]) -> Option<u16> {
    let lies_in = |vector: &libc::iovec, piece: &Piece| {
        vector.iov_base.addr().checked_sub(piece.start).is_some_and(|offset| offset < piece.length_bytes)
    };
    let first = vectors.first()?;
    let number = pieces.iter().position(|piece| lies_in(first, piece))?;
    vectors.iter().all(|vector| lies_in(vector, &pieces[number])).then_some(u16::try_from(number).ok()?)
}

/// Whether the kernel transfers runs of pages from and to registered memory.
fn knows_registered_runs(ring: &IoUring) -> bool {
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).is_ok()
        && probe.is_supported(opcode::ReadvFixed::CODE)
        && probe.is_supported(opcode::WritevFixed::CODE)
}

#[expect(unsafe_code, reason = "the ring cannot know how long registered memory lives; a piece says it")]
fn register(ring: &IoUring, number: u32, piece: Piece) -> std::io::Result<()> {
    let vector = libc::iovec {
        iov_base: std::ptr::with_exposed_provenance_mut(piece.start),
        iov_len: piece.length_bytes,
    };
    // SAFETY: a piece is memory that is never freed, so it outlives the ring; the kernel only pins it here, and later uses
    // those parts of it that the vectors of a flight name, whose pages the flight owns.
    unsafe { ring.submitter().register_buffers_update(number, &[vector], None) }
}

/// Puts an entry into the submission queue; false when it is full.
#[expect(
    unsafe_code,
    reason = "the ring cannot know how long the memory of an entry lives; the table of flights does"
)]
fn push(ring: &mut IoUring, entry: &io_uring::squeue::Entry) -> bool {
    // SAFETY: an entry made by `Flight::entry` points to vectors and pages that the flight owns, and the flight is in
    // `Pilot::flights` until its completion is taken; `Pilot::drop` leaks them if a completion can no longer come.
    // The vectors and pages are on the heap and stay in place when the flight is moved. The read of the counter points
    // to a box that is leaked if the read is still in flight at the end. A no-operation points to nothing.
    unsafe { ring.submission().push(entry).is_ok() }
}

/// Transfers in flight at most; more wait in the queue, whose length the memory of the array limits. A power of two.
const FLIGHTS_MAX: u32 = 256;
/// Pieces of memory that are registered at most; with pieces of a GiB more than any array has.
const PIECES_MAX: u32 = 1024;
/// The number of the read of the counter.
const LISTEN: u64 = u64::MAX;
const ENDED: &str = "the thread for unit transfers has ended";
