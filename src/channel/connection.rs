//! One connection of a host or a peer array: the task between its stream and `holdfast_iscsi::target`.
//!
//! This is the hot path. A pass takes all PDUs that the socket has, executes what needs no wait on this very task,
//! gathers all answers into one vectored write, and reads again; it waits only when the socket is empty. A read that
//! hits the cache and a write whose pages are there make no system call beyond those two. What a command does is in
//! [`tasks`](super::tasks).
//!
//! **The end.** When the connection breaks, or the session is told to end, the stream closes at once, rooms that are
//! being filled are dropped, what is with the storage is waited for; then the session is over ([`Sessions`]).

use super::storage::Targets;
use super::target::{Arrival, Sessions};
use super::tasks::Commands;
use super::transport::Transport;
use super::wire::{Inbox, Outbox};
use crate::clock::{BoxFuture, Clock, Entropy, MonotonicNs};
use holdfast_iscsi::pdu::{Bhs, Lun};
use holdfast_iscsi::target::{AbortScope, Connection, Fatal, Settings, Source, TaskId};
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// What all connections of a portal share.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) targets: Arc<dyn Targets>,
    pub(super) sessions: Sessions,
    pub(super) settings: Settings,
}

/// Words from outside to the task of a connection.
pub(super) enum Control {
    /// End the session.
    End,
    /// Abort these tasks, and say when they have ended.
    Abort(AbortScope, oneshot::Sender<()>),
    /// Send an asynchronous event.
    Event(Lun, Vec<u8>),
}

/// Why a connection ended; for the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    /// The stream broke, or the other end closed it.
    #[error("{0}")]
    Stream(#[from] io::Error),
    /// The initiator broke the protocol or stayed silent.
    #[error("the initiator is at fault: {0:?}")]
    Peer(Fatal),
    /// The session was told to end.
    #[error("ended from here")]
    Told,
    /// Logout, or a refused login.
    #[error("logged out")]
    Done,
}

impl From<Fatal> for End {
    fn from(fatal: Fatal) -> Self {
        Self::Peer(fatal)
    }
}

/// Drives a connection from its first byte until its session is over.
pub(super) struct Driver {
    transport: Option<Box<dyn Transport>>,
    inbox: Inbox<TaskId>,
    outbox: Outbox,
    commands: Commands,
    control: mpsc::Receiver<Control>,
    timer: Option<BoxFuture<'static, ()>>,
    is_closing: bool,
}

impl Driver {
    pub(super) fn new(transport: Box<dyn Transport>, service: Service) -> Self {
        let mut seed = [0; 32];
        service.entropy.fill(&mut seed);
        let now = service.clock.now();
        let connection = Connection::new(service.settings, seed, now.0);
        let (sender, control) = mpsc::channel(CONTROL_QUEUE);
        let arrival = Arrival {
            peer: transport.peer(),
            local: transport.local(),
            since: now,
            portal_group_tag: service.settings.portal_group_tag,
            control: sender,
        };
        let commands = Commands::new(service, connection, arrival);
        Self {
            transport: Some(transport),
            inbox: Inbox::new(),
            outbox: Outbox::default(),
            commands,
            control,
            timer: None,
            is_closing: false,
        }
    }

    /// Runs until somebody is logged in.
    pub(super) async fn log_in(&mut self) -> Result<(), End> {
        poll_fn(|cx| self.poll(cx, Commands::is_logged_in)).await
    }

    /// Runs until the connection ends.
    pub(super) async fn run(&mut self) -> End {
        match poll_fn(|cx| self.poll(cx, |_| false)).await {
            Ok(()) => End::Done,
            Err(end) => end,
        }
    }

    /// Closes the stream, waits for what is with the storage, and leaves the register.
    pub(super) async fn finish(mut self) {
        self.transport = None;
        self.commands.finish().await;
    }

    /// Passes until `is_enough`, or the end.
    fn poll(&mut self, cx: &mut Context<'_>, is_enough: fn(&Commands) -> bool) -> Poll<Result<(), End>> {
        loop {
            self.commands.now_ns = self.commands.service.clock.now().0;
            self.inbox.parse(&mut self.commands)?;
            self.poll_inside(cx)?;
            self.gather();
            let Some(transport) = &mut self.transport else { return Poll::Ready(Err(End::Done)) };
            let is_written = self.outbox.poll_write(cx, &mut **transport)?.is_ready();
            if is_written && self.is_closing {
                return Poll::Ready(Err(End::Done));
            }
            if is_enough(&self.commands) {
                return Poll::Ready(Ok(()));
            }
            // Answers that did not fit: their turn comes before new commands.
            if is_written && self.gather() {
                continue;
            }
            if self.commands.connection.wants_input() && !self.outbox.is_full() {
                if self.inbox.is_stalled() {
                    continue;
                }
                let Some(transport) = &mut self.transport else { return Poll::Ready(Err(End::Done)) };
                match self.inbox.poll_fill(cx, &mut **transport, &mut self.commands)? {
                    Poll::Ready(0) => {
                        return Poll::Ready(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()));
                    }
                    Poll::Ready(_) => continue,
                    Poll::Pending => {}
                }
            }
            ready!(self.poll_timer(cx))?;
        }
    }

    /// Takes what has become ready on this side: logins, rooms, executions, words from outside.
    fn poll_inside(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        self.commands.poll_waiting(cx);
        while let Poll::Ready(Some(word)) = self.control.poll_recv(cx) {
            match word {
                Control::End => return Err(End::Told),
                Control::Abort(scope, done) => self.commands.abort_for_other(scope, done),
                Control::Event(lun, sense) => self.commands.connection.send_scsi_event(lun, &sense),
            }
        }
        self.commands.poll_login(cx);
        self.commands.poll_functions(cx);
        Ok(())
    }

    /// Moves PDUs into the outbox; true if there is something to write.
    fn gather(&mut self) -> bool {
        while !self.outbox.is_full() {
            let Some(out) = self.commands.connection.poll_transmit(self.commands.now_ns) else { break };
            self.outbox.header(&Bhs(out.bhs), None, out.header_digest);
            match out.data {
                Source::None => {}
                Source::Owned(bytes) => self.outbox.small_segment(&bytes, out.data_digest),
                Source::Task { task, offset, length } => {
                    let pieces = self.commands.pieces(task);
                    self.outbox.segment(pieces, (to_usize(offset), to_usize(length)), out.data_digest);
                }
            }
            if let Some(task) = out.completes {
                self.commands.forget(task);
            }
            if out.close_after {
                self.is_closing = true;
                self.commands.rearm = true;
            }
        }
        !self.outbox.is_empty()
    }

    /// The timer is set for the next limit when it has none; limits that begin later are all longer than the silence
    /// limit it was set for, unless `rearm` says otherwise.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        if std::mem::take(&mut self.commands.rearm) {
            self.timer = None;
        }
        if self.timer.is_none() {
            let due = match self.is_closing {
                true => Some(CLOSING),
                false => self
                    .commands
                    .connection
                    .next_deadline()
                    .map(|due| MonotonicNs(due).since(MonotonicNs(self.commands.now_ns)).max(TIMER_MIN)),
            };
            let Some(due) = due else { return Poll::Pending };
            self.timer = Some(self.commands.service.clock.sleep(due));
        }
        if let Some(timer) = &mut self.timer {
            ready!(timer.as_mut().poll(cx));
        }
        self.timer = None;
        if self.is_closing {
            return Poll::Ready(Err(End::Done)); // The last word was not taken.
        }
        self.inbox.shrink();
        let now = self.commands.service.clock.now().0;
        Poll::Ready(self.commands.connection.handle_timeout(now).map_err(End::from))
    }
}

fn to_usize(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// Words from outside that wait for a connection; then whoever has another one waits.
const CONTROL_QUEUE: usize = 16;
/// A limit that has just passed is looked at after this time, not in a busy loop.
const TIMER_MIN: Duration = Duration::from_millis(1);
/// How long the initiator may take to read the last word before the connection is closed.
const CLOSING: Duration = Duration::from_secs(5);
