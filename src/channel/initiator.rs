//! The initiator's connections: a task for each one, between a stream and `holdfast_iscsi::initiator`.
//!
//! A [`Session`] is a handle: cloneable, many commands in flight at once. When its connection dies, all its commands
//! end with the same error and so do later ones; nothing here connects again: that is the caller's decision, with a
//! back-off. When the last handle goes, the session is logged out.
//!
//! Payload is never copied on its way out (pieces are gathered by the socket call) and lands in the room that came
//! with the command.

use super::piece::{Pieces, Received, Room};
use super::transport::{Network, Transport};
use super::wire::{Frame, Inbox, Outbox, Place, Receiver};
use crate::clock::{BoxFuture, Clock, Entropy};
use holdfast_iscsi::chap::{CHALLENGE_BYTES, Credentials};
use holdfast_iscsi::initiator::{
    Command as WireCommand, Completion, Connection, DigestWish, Error, Event, Payload, Purpose, Segment,
    Settings, TASKS_MAX, TaskId,
};
use holdfast_iscsi::pdu::ahs::Cdb;
use holdfast_iscsi::pdu::command::{Direction, Residual, TaskAttribute};
use holdfast_iscsi::pdu::{Bhs, Isid, Lun};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

pub use holdfast_iscsi::initiator::DiscoveredTarget;

/// What sessions are opened with: the machine's network, time and randomness, and the name it goes by.
#[derive(Clone, Debug)]
pub struct Connector {
    /// Where streams come from.
    pub network: Arc<dyn Network>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Session identifiers and challenges.
    pub entropy: Arc<dyn Entropy>,
    /// The iSCSI name of this initiator.
    pub initiator_name: String,
}

/// Choices for one session.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// CHAP: what we prove, and what the target has to prove if there is a part for it.
    pub credentials: Option<Credentials>,
    /// Digests; between arrays [`DigestWish::Required`].
    pub digests: DigestWish,
    /// A fixed session identifier: a later session with the same one reinstates this one. Random if absent.
    pub isid: Option<Isid>,
    /// Offered for InitialR2T.
    pub initial_r2t: bool,
    /// Offered for ImmediateData.
    pub immediate_data: bool,
    /// Limit for connecting and for the login, each.
    pub login_timeout: Duration,
    /// Silence after which the target is pinged, and limit for its answer.
    pub ping: Duration,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            credentials: None,
            digests: DigestWish::Preferred,
            isid: None,
            initial_r2t: false,
            immediate_data: true,
            login_timeout: Duration::from_secs(15),
            ping: Duration::from_secs(10),
        }
    }
}

/// Why a session, or a command of it, ended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SessionError {
    /// The stream could not be opened or broke.
    #[error("network: {0}")]
    Network(Arc<io::Error>),
    /// The peer broke the protocol, refused us or does not answer.
    #[error("{0}")]
    Protocol(Error),
    /// The session has been logged out, or its task is gone.
    #[error("the session is closed")]
    Closed,
    /// Too many commands are under way ([`TASKS_MAX`]).
    #[error("too many commands in flight")]
    Busy,
    /// A CDB longer than 64 bytes, or more data than a command can name.
    #[error("the command is too long")]
    TooLong,
}

impl From<io::Error> for SessionError {
    fn from(error: io::Error) -> Self {
        Self::Network(Arc::new(error))
    }
}

impl From<Error> for SessionError {
    fn from(error: Error) -> Self {
        Self::Protocol(error)
    }
}

/// A command to a logical unit. Data moves one way at most.
#[derive(Debug)]
pub struct Command<'a> {
    /// The logical unit as it stands on the wire.
    pub lun: Lun,
    /// Up to 64 bytes; beyond 16 they travel in an additional header segment.
    pub cdb: &'a [u8],
    /// What goes along.
    pub data: Data,
}

/// The data of a command.
#[derive(Debug)]
pub enum Data {
    /// None.
    None,
    /// To the target.
    Out(Pieces),
    /// From the target, into this room, which is the expected length.
    In(Room),
}

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Reply {
    /// SCSI status.
    pub status: u8,
    /// Sense data, where there is any.
    pub sense: Vec<u8>,
    /// What came, in the room that was given.
    pub data: Received,
    /// What was not moved, or would have been beyond the room.
    pub residual: Residual,
}

/// An open session.
#[derive(Clone)]
pub struct Session {
    requests: mpsc::Sender<Request>,
    peer: Arc<str>,
}

struct Request {
    command: WireCommand,
    data: Data,
    reply: oneshot::Sender<Result<Reply, SessionError>>,
}

impl Connector {
    /// Logs in to `target` at `address` ("host:port").
    ///
    /// # Errors
    /// When the address cannot be reached or the login fails.
    pub async fn session(
        &self,
        address: &str,
        target: &str,
        options: &SessionOptions,
    ) -> Result<Session, SessionError> {
        let driver =
            self.log_in(address, Purpose::Normal { target_name: target.to_owned() }, options).await?;
        let (requests, queue) = mpsc::channel(QUEUE);
        let peer = driver.transport.peer().into();
        tokio::spawn(driver.run(queue));
        Ok(Session { requests, peer })
    }

    /// Asks a portal which targets this initiator may use.
    ///
    /// # Errors
    /// When the address cannot be reached, or login or question fail.
    pub async fn discover(
        &self,
        address: &str,
        options: &SessionOptions,
    ) -> Result<Vec<DiscoveredTarget>, SessionError> {
        let mut driver = self.log_in(address, Purpose::Discovery, options).await?;
        driver.half.connection.send_targets();
        let limit = self.clock.sleep(options.login_timeout);
        let found = tokio::select! {
            biased;
            found = driver.until(|half| half.targets.take()) => found?,
            () = limit => return Err(Error::LoginTimedOut.into()),
        };
        driver.half.connection.logout();
        driver.say_goodbye().await;
        Ok(found)
    }

    async fn log_in(
        &self,
        address: &str,
        purpose: Purpose,
        options: &SessionOptions,
    ) -> Result<Driver, SessionError> {
        let limit = self.clock.sleep(options.login_timeout);
        let transport = tokio::select! {
            biased;
            transport = self.network.connect(address) => transport?,
            () = limit => return Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        };
        let mut driver = Driver::new(transport, self.clock.clone(), self.settings(purpose, options));
        driver.until(|half| half.is_logged_in.then_some(())).await?;
        Ok(driver)
    }

    fn settings(&self, purpose: Purpose, options: &SessionOptions) -> Settings {
        let mut challenge = [0; CHALLENGE_BYTES + 1];
        self.entropy.fill(&mut challenge);
        let mut random = [0; 6];
        self.entropy.fill(&mut random);
        random[0] = ISID_RANDOM;
        Settings {
            credentials: options.credentials.clone(),
            digests: options.digests,
            initial_r2t: options.initial_r2t,
            immediate_data: options.immediate_data,
            login_timeout: options.login_timeout,
            ping_after: options.ping,
            ping_timeout: options.ping,
            ..Settings::new(&self.initiator_name, purpose, options.isid.unwrap_or(Isid(random)), challenge)
        }
    }
}

impl Session {
    /// Sends a command and waits for its end. If `timeout` passes first, the whole connection ends: only that makes
    /// sure that the command does not act later.
    ///
    /// Dropping the future gives the answer up, not the command.
    ///
    /// # Errors
    /// When the connection ends before the command; whether it has acted is unknown then.
    pub async fn command(&self, command: Command<'_>, timeout: Duration) -> Result<Reply, SessionError> {
        let cdb = (command.cdb.len() <= CDB_BYTES_MAX).then(|| Cdb::from_slice(command.cdb)).flatten();
        let (direction, length) = match &command.data {
            Data::None => (Direction::None, 0),
            Data::Out(pieces) => (Direction::Write, pieces.len()),
            Data::In(room) => (Direction::Read, room.capacity()),
        };
        let (Some(cdb), Ok(length)) = (cdb, u32::try_from(length)) else { return Err(SessionError::TooLong) };
        let attribute = TaskAttribute::Simple;
        let wire = WireCommand { lun: command.lun, cdb, direction, length, attribute, timeout };
        let (reply, answer) = oneshot::channel();
        let request = Request { command: wire, data: command.data, reply };
        self.requests.send(request).await.map_err(|_| SessionError::Closed)?;
        answer.await.unwrap_or(Err(SessionError::Closed))
    }

    /// Whether the connection is gone; a new session has to be opened then.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }

    /// Waits until the connection is gone.
    pub async fn closed(&self) {
        self.requests.closed().await;
    }

    /// The target's address.
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.peer
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({})", self.peer)
    }
}

/// The owner of one connection.
struct Driver {
    transport: Box<dyn Transport>,
    inbox: Inbox<TaskId>,
    outbox: Outbox,
    half: Half,
    timer: Option<(Duration, BoxFuture<'static, ()>)>,
}

/// What the receiving side works on.
struct Half {
    clock: Arc<dyn Clock>,
    connection: Connection,
    pending: Vec<Option<Pending>>,
    is_logged_in: bool,
    is_logged_out: bool,
    targets: Option<Vec<DiscoveredTarget>>,
}

struct Pending {
    task: TaskId,
    data: Data,
    reply: oneshot::Sender<Result<Reply, SessionError>>,
}

impl Driver {
    fn new(transport: Box<dyn Transport>, clock: Arc<dyn Clock>, settings: Settings) -> Self {
        let connection = Connection::new(settings, Duration::from_nanos(clock.now().0));
        let half = Half {
            clock,
            connection,
            pending: Vec::new(),
            is_logged_in: false,
            is_logged_out: false,
            targets: None,
        };
        Self { transport, inbox: Inbox::new(), outbox: Outbox::default(), half, timer: None }
    }

    /// Drives the connection until `done` finds what it waits for.
    async fn until<T>(&mut self, mut done: impl FnMut(&mut Half) -> Option<T>) -> Result<T, SessionError> {
        poll_fn(|cx| {
            loop {
                if let Some(result) = done(&mut self.half) {
                    return Poll::Ready(Ok(result));
                }
                ready!(self.poll_pass(cx))?;
            }
        })
        .await
    }

    /// The life of a session: commands from the handles, until they are gone or the connection is.
    async fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        let end = poll_fn(|cx| self.poll_run(cx, &mut queue)).await;
        queue.close();
        let error = match end {
            Ok(()) => {
                self.half.connection.logout();
                self.say_goodbye().await;
                SessionError::Closed
            }
            Err(error) => error,
        };
        for pending in self.half.pending.iter_mut().filter_map(Option::take) {
            let _ = pending.reply.send(Err(error.clone()));
        }
        while let Ok(request) = queue.try_recv() {
            let _ = request.reply.send(Err(error.clone()));
        }
    }

    fn poll_run(
        &mut self,
        cx: &mut Context<'_>,
        queue: &mut mpsc::Receiver<Request>,
    ) -> Poll<Result<(), SessionError>> {
        loop {
            let mut is_open = true;
            while self.half.connection.commands() < TASKS_MAX {
                match queue.poll_recv(cx) {
                    Poll::Ready(Some(request)) => self.half.submit(request),
                    Poll::Ready(None) => {
                        is_open = false;
                        break;
                    }
                    Poll::Pending => break,
                }
            }
            if !is_open && self.half.connection.commands() == 0 {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_pass(cx))?;
        }
    }

    /// Waits a moment for the target to confirm the logout.
    async fn say_goodbye(&mut self) {
        let limit = self.half.clock.sleep(GOODBYE);
        tokio::select! {
            biased;
            _ = self.until(|half| half.is_logged_out.then_some(())) => {}
            () = limit => {}
        }
    }

    /// Sends what there is to send, takes what has come, lets time act. Ready when something has happened that the
    /// caller should look at, pending when all three have nothing left.
    fn poll_pass(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SessionError>> {
        self.gather();
        let written = self.outbox.poll_write(cx, &mut *self.transport)?;
        // More may have become ready to go while the outbox was full.
        if written.is_ready() && self.gather() {
            cx.waker().wake_by_ref();
        }
        if let Poll::Ready(count) = self.inbox.poll_fill(cx, &mut *self.transport, &mut self.half)? {
            if count == 0 {
                return Poll::Ready(Err(end_of_stream()));
            }
            let now = self.half.now();
            self.half.connection.handle_bytes(now);
            return Poll::Ready(self.inbox.parse(&mut self.half));
        }
        self.poll_time(cx)
    }

    /// Moves PDUs into the outbox; true if there is something to write.
    fn gather(&mut self) -> bool {
        while !self.outbox.is_full() {
            let Some(out) = self.half.connection.poll_transmit() else { break };
            self.outbox.header(&out.bhs, out.extended.as_ref(), out.header_digest);
            match out.segment {
                Segment::None => {}
                Segment::Bytes(bytes) => self.outbox.small_segment(&bytes, out.data_digest),
                Segment::Task { task, offset, bytes } => {
                    let Some(Pending { data: Data::Out(pieces), .. }) = self.half.find(task) else {
                        unreachable!("a command keeps its data until it is answered");
                    };
                    self.outbox.segment(pieces, (to_usize(offset), to_usize(bytes)), out.data_digest);
                }
            }
        }
        !self.outbox.is_empty()
    }

    fn poll_time(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SessionError>> {
        let Some(due) = self.half.connection.poll_timeout() else { return Poll::Pending };
        loop {
            // The silence limit moves with every PDU: a timer that rings early is set anew, one that would ring late
            // is replaced.
            let now = self.half.now();
            let (at, timer) = match &mut self.timer {
                Some((at, timer)) if *at <= due => (at, timer),
                _ => {
                    let timer = self.half.clock.sleep(due.saturating_sub(now));
                    let (at, timer) = self.timer.insert((due, timer));
                    (at, timer)
                }
            };
            ready!(timer.as_mut().poll(cx));
            let is_due = *at >= due || now >= due;
            self.timer = None;
            if is_due {
                let now = self.half.now().max(due);
                return Poll::Ready(self.half.connection.handle_timeout(now).map_err(Into::into));
            }
        }
    }
}

impl Half {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.clock.now().0)
    }

    fn submit(&mut self, request: Request) {
        let Request { command, data, reply } = request;
        let now = self.now();
        let Some(task) = self.connection.command(command, now) else {
            let _ = reply.send(Err(SessionError::Busy));
            return;
        };
        let index = task.index();
        if self.pending.len() <= index {
            self.pending.resize_with(index + 1, || None);
        }
        self.pending[index] = Some(Pending { task, data, reply });
    }

    fn find(&mut self, task: TaskId) -> Option<&mut Pending> {
        self.pending.get_mut(task.index())?.as_mut().filter(|pending| pending.task == task)
    }

    fn complete(&mut self, task: TaskId, completion: Completion) {
        let Some(pending) = self.pending.get_mut(task.index()).and_then(Option::take) else { return };
        let data = match pending.data {
            Data::In(room) => Received::seal(room, to_usize(completion.received_bytes)),
            Data::Out(_) | Data::None => Received::Bytes(Vec::new()),
        };
        let Completion { status, sense, residual, .. } = completion;
        let _ = pending.reply.send(Ok(Reply { status, sense, data, residual }));
    }
}

impl Receiver for Half {
    type Task = TaskId;
    type Error = SessionError;

    fn is_ready(&self) -> bool {
        true
    }

    fn handle_bhs(&mut self, bhs: &Bhs) -> Result<Frame, SessionError> {
        let frame = self.connection.handle_bhs(bhs)?;
        Ok(Frame {
            ahs_bytes: 0,
            header_digest: frame.header_digest,
            data_bytes: to_usize(frame.data_bytes),
            data_digest: frame.data_digest,
        })
    }

    fn handle_header(&mut self, bhs: &Bhs, _: &[u8]) -> Result<Place<TaskId>, SessionError> {
        let now = self.now();
        Ok(match self.connection.handle_header(bhs, now)? {
            Payload::None | Payload::Inline { .. } => Place::Inline,
            Payload::Task { task, offset, .. } => Place::Room(task, to_usize(offset)),
        })
    }

    fn room(&mut self, task: TaskId) -> Option<&mut Room> {
        match &mut self.find(task)?.data {
            Data::In(room) => Some(room),
            Data::Out(_) | Data::None => None,
        }
    }

    fn handle_payload(&mut self, inline: &[u8]) -> Result<(), SessionError> {
        self.connection.payload_received(inline)?;
        while let Some(event) = self.connection.poll_event() {
            match event {
                Event::LoggedIn => self.is_logged_in = true,
                Event::Completed(task, completion) => self.complete(task, completion),
                Event::Targets(found) => self.targets = Some(found),
                Event::LoggedOut => self.is_logged_out = true,
                Event::Attention(..) => {}
                // The target is about to go: the session ends here, the caller opens another.
                Event::LogoutRequested => return Err(Error::Dropped.into()),
            }
        }
        Ok(())
    }

    fn handle_bad_header(&mut self) -> SessionError {
        Error::Digest.into()
    }

    fn handle_bad_payload(&mut self) -> Result<(), SessionError> {
        Err(Error::Digest.into())
    }
}

fn end_of_stream() -> SessionError {
    io::Error::from(io::ErrorKind::UnexpectedEof).into()
}

fn to_usize(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// The longest CDB that is sent.
const CDB_BYTES_MAX: usize = 64;
/// Commands between the handles and the connection's task; then `command` waits.
const QUEUE: usize = 256;
/// How long the confirmation of a logout is waited for.
const GOODBYE: Duration = Duration::from_secs(2);
/// First byte of a session identifier of the random format (RFC 7143 section 11.12.5).
const ISID_RANDOM: u8 = 0x80;
