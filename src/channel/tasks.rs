//! The commands of one connection: their buffers, what they wait for, and the session they belong to.
//!
//! A task goes `Reserving` (room awaited) -> `Filling` (payload coming) -> `Running` (with the storage) -> `Sending`, and
//! may skip any of these. Up to `Filling` it can be dropped without a trace; `Running` is always waited for.
//!
//! **Memory never stops the stream.** A write gets its R2T only when its room is there, so data that was asked for
//! always has a place. Data that comes unasked while the room is still awaited is put aside, in [`Spill`]: at most
//! FirstBurstLength for a command and [`SPILL_BYTES_MAX`] for all connections together. When that is used up the
//! command is answered BUSY, its data read and dropped. So what other commands wait for, and free memory with, always
//! gets through.

use super::connection::{End, Service};
use super::piece::{Pieces, Received, Room};
use super::storage::{
    AfterData, Completed, Completion, Execution, Nexus, Receive, Reserved, ScsiCommand, Storage,
};
use super::target::{Arrival, Membership};
use super::wire::{Frame, Place, Receiver};
use crate::clock::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use holdfast_iscsi::pdu::login::LoginStatus;
use holdfast_iscsi::pdu::task_mgmt::FunctionResponse;
use holdfast_iscsi::pdu::{Bhs, Itt, Tsih};
use holdfast_iscsi::target::{
    AbortScope, Command, Connection, Event, Fatal, Incoming, LoggedIn, Progress, TaskId, TaskManagement,
};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::oneshot;

/// What a PDU is handled with: the protocol's state, the session, the commands.
pub(super) struct Commands {
    pub(super) service: Service,
    pub(super) connection: Connection,
    pub(super) now_ns: u64,
    session: Option<Open>,
    login: Option<BoxFuture<'static, Result<Membership, LoginStatus>>>,
    arrival: Option<Arrival>,
    /// Beside the core's table, by its slots.
    tasks: Vec<Task>,
    /// What is with the storage; never dropped before its end.
    running: FuturesUnordered<Running>,
    /// Rooms that are awaited.
    reserving: FuturesUnordered<Reserving>,
    functions: Vec<Function>,
    current: Current,
    is_discovery: bool,
    /// A limit has changed.
    pub(super) rearm: bool,
}

/// An accepted session.
struct Open {
    nexus: Arc<Nexus>,
    storage: Arc<dyn Storage>,
    membership: Membership,
}

/// The buffers of one slot.
enum Task {
    None,
    /// Its room is awaited; what came unasked lies aside.
    Reserving {
        id: TaskId,
        first_burst: usize,
        spilled: Option<Spilled>,
        bytes: u32,
        then: Then,
    },
    /// Its payload is coming.
    Filling {
        id: TaskId,
        room: Room,
        bytes: u32,
        then: Then,
    },
    /// It is with the storage.
    Running {
        id: TaskId,
    },
    /// Its data is going out.
    Sending {
        id: TaskId,
        pieces: Pieces,
    },
}

type Then = Box<dyn FnOnce(Received) -> AfterData + Send>;

/// A task management function under way.
struct Function {
    answer: Answer,
    /// Tasks that have to end before.
    waits_for: Vec<TaskId>,
}

enum Answer {
    /// What the storage does about it, for the initiator that asked.
    Initiator(Itt, BoxFuture<'static, FunctionResponse>),
    /// Another session asked.
    Other(oneshot::Sender<()>),
}

/// Whose payload is being received.
enum Current {
    Nothing,
    Collect,
    Payload(TaskId, u32),
}

struct Running(TaskId, BoxFuture<'static, Completed>);
struct Reserving(TaskId, BoxFuture<'static, Room>);

/// Memory for data that came before its room, counted over all connections.
#[derive(Debug, Default)]
pub(super) struct Spill(AtomicUsize);

/// A share of it, given back when it goes.
#[derive(Debug)]
struct Spilled {
    budget: Arc<Spill>,
    bytes: usize,
    room: Room,
}

impl Spill {
    fn take(self: &Arc<Self>, bytes: usize) -> Option<Spilled> {
        let fits = |used: usize| used.checked_add(bytes).filter(|used| *used <= SPILL_BYTES_MAX);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Relaxed, fits).ok()?;
        Some(Spilled { budget: self.clone(), bytes, room: Room::of_bytes(bytes) })
    }
}

impl Drop for Spilled {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

impl Future for Running {
    type Output = (TaskId, Completed);
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let completed = ready!(self.1.as_mut().poll(cx));
        Poll::Ready((self.0, completed))
    }
}

impl Future for Reserving {
    type Output = (TaskId, Room);
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let room = ready!(self.1.as_mut().poll(cx));
        Poll::Ready((self.0, room))
    }
}

impl Commands {
    pub(super) fn new(service: Service, connection: Connection, arrival: Arrival) -> Self {
        Self {
            now_ns: arrival.since.0,
            service,
            connection,
            session: None,
            login: None,
            arrival: Some(arrival),
            tasks: Vec::new(),
            running: FuturesUnordered::new(),
            reserving: FuturesUnordered::new(),
            functions: Vec::new(),
            current: Current::Nothing,
            is_discovery: false,
            rearm: false,
        }
    }

    /// Takes what has become ready: executions and rooms.
    pub(super) fn poll_waiting(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some((task, completed))) = self.running.poll_next_unpin(cx) {
            self.ran(task, completed);
        }
        while let Poll::Ready(Some((task, room))) = self.reserving.poll_next_unpin(cx) {
            self.reserved(task, room);
        }
    }

    /// Drops what has not begun, waits for what has, and leaves the register.
    pub(super) async fn finish(mut self) {
        self.reserving.clear();
        self.tasks.clear();
        if let Some(open) = &self.session {
            open.nexus.ending.send_replace(true);
        }
        while self.running.next().await.is_some() {}
        if let Some(open) = self.session.take() {
            open.storage.session_ended(&open.nexus);
            drop(open.membership);
        }
    }

    /// The data that goes out for a task.
    pub(super) fn pieces(&mut self, id: TaskId) -> &Pieces {
        match self.task(id) {
            Some(Task::Sending { pieces, .. }) => pieces,
            _ => unreachable!("a task keeps its data until its last PDU has been handed out"),
        }
    }

    pub(super) fn is_logged_in(&self) -> bool {
        self.session.is_some() || self.is_discovery
    }

    fn task(&mut self, id: TaskId) -> Option<&mut Task> {
        let task = self.tasks.get_mut(usize::from(id.slot()))?;
        (task.id() == Some(id)).then_some(task)
    }

    fn set(&mut self, id: TaskId, task: Task) {
        let slot = usize::from(id.slot());
        if self.tasks.len() <= slot {
            self.tasks.resize_with(slot + 1, || Task::None);
        }
        self.tasks[slot] = task;
    }

    pub(super) fn forget(&mut self, id: TaskId) {
        if let Some(task) = self.task(id) {
            *task = Task::None;
        }
    }

    fn command(&mut self, command: &Command) {
        let Some(open) = &self.session else { return };
        open.membership.counters().count(1, 0, 0);
        let scsi = ScsiCommand {
            lun: command.lun,
            cdb: command.cdb.as_bytes(),
            attribute: command.attribute,
            expected_length: command.expected_length,
            reads: command.reads,
            writes: command.writes,
        };
        match open.storage.execute(&open.nexus, scsi) {
            Execution::Now(completed) => self.answer(command.task, completed),
            Execution::Later(future) => self.wait_for(command.task, future),
            Execution::Receive(receive) => self.receive(command, receive),
        }
    }

    /// A command wants payload.
    fn receive(&mut self, command: &Command, receive: Receive) {
        let (id, Receive { bytes, room, then }) = (command.task, receive);
        match room {
            Reserved::Now(room) => self.fill(id, room, bytes, then),
            Reserved::Later(future) => {
                let limit = self.session_first_burst();
                let first_burst = to_usize(command.expected_length.min(bytes).min(limit));
                self.set(id, Task::Reserving { id, first_burst, spilled: None, bytes, then });
                self.reserving.push(Reserving(id, future));
            }
        }
    }

    fn session_first_burst(&self) -> u32 {
        self.connection.session().map_or(0, |session| session.parameters.first_burst_bytes)
    }

    fn reserved(&mut self, id: TaskId, mut room: Room) {
        let Some(task) = self.task(id) else { return };
        match std::mem::replace(task, Task::None) {
            Task::Reserving { spilled, bytes, then, .. } => {
                if let Some(spilled) = spilled {
                    // The one copy that late memory costs. All of it is copied, what is still coming as well: the
                    // PDU that is being received goes on in the room.
                    spilled.room.for_each_slice(0, spilled.bytes, |slice| room.put(0, slice));
                }
                self.fill(id, room, bytes, then);
            }
            other => *task = other,
        }
    }

    fn fill(&mut self, id: TaskId, room: Room, bytes: u32, then: Then) {
        self.set(id, Task::Filling { id, room, bytes, then });
        let progress = self.connection.solicit(id, bytes);
        self.progress(id, progress);
    }

    fn progress(&mut self, id: TaskId, progress: Progress) {
        match progress {
            Progress::More => {}
            Progress::Dead => {
                self.abort(vec![id]);
            }
            Progress::Complete { received } => {
                let Some(task) = self.task(id) else { return };
                let Task::Filling { room, bytes, then, .. } = std::mem::replace(task, Task::None) else {
                    return;
                };
                // The initiator may have sent more than the command takes.
                let bytes = to_usize(received.min(bytes)).min(room.capacity());
                if let Some(open) = &self.session {
                    open.membership.counters().count(0, 0, u64::from(received));
                }
                match then(Received::seal(room, bytes)) {
                    AfterData::Now(completed) => self.answer(id, completed),
                    AfterData::Later(future) => self.wait_for(id, future),
                }
            }
        }
    }

    /// A command is with the storage.
    fn wait_for(&mut self, id: TaskId, future: BoxFuture<'static, Completed>) {
        self.set(id, Task::Running { id });
        self.running.push(Running(id, future));
    }

    fn answer(&mut self, id: TaskId, completed: Completed) {
        match completed {
            Completed::Done(completion) => self.complete(id, completion),
            Completed::DataIn(pieces) if self.connection.is_alive(id) => {
                let bytes = u32::try_from(pieces.len()).unwrap_or(u32::MAX);
                if let Some(open) = &self.session {
                    open.membership.counters().count(0, u64::from(bytes), 0);
                }
                self.set(id, Task::Sending { id, pieces });
                self.connection.send_data_in(id, bytes);
            }
            Completed::DataIn(_) => {}
        }
    }

    fn complete(&mut self, id: TaskId, completion: Completion) {
        let Completion { status, sense, data, command_bytes } = completion;
        if status == 0 && !data.is_empty() {
            if let Some(open) = &self.session {
                open.membership.counters().count(0, u64::try_from(data.len()).unwrap_or(0), 0);
            }
            self.connection.send_bytes_in(id, data, command_bytes);
        } else {
            self.connection.send_status(id, status, &sense, command_bytes);
        }
    }

    /// The storage has finished with a command. What it says about one that was aborted goes nowhere.
    fn ran(&mut self, id: TaskId, completed: Completed) {
        self.forget(id);
        for function in &mut self.functions {
            function.waits_for.retain(|task| *task != id);
        }
        self.answer(id, completed);
    }

    fn manage(&mut self, request: TaskManagement) {
        let waits_for = self.abort(request.aborted);
        let Some(open) = &self.session else { return };
        let then = open.storage.manage(&open.nexus, request.function, request.lun);
        self.functions.push(Function { answer: Answer::Initiator(request.itt, then), waits_for });
    }

    pub(super) fn abort_for_other(&mut self, scope: AbortScope, done: oneshot::Sender<()>) {
        let aborted = self.connection.abort_tasks(scope);
        let waits_for = self.abort(aborted);
        self.functions.push(Function { answer: Answer::Other(done), waits_for });
    }

    /// Drops what is not with the storage yet; the rest is left to finish, and named.
    fn abort(&mut self, mut aborted: Vec<TaskId>) -> Vec<TaskId> {
        aborted.retain(|id| match self.task(*id) {
            Some(Task::Running { .. }) => true,
            Some(task) => {
                *task = Task::None;
                false
            }
            None => false,
        });
        aborted
    }

    pub(super) fn poll_functions(&mut self, cx: &mut Context<'_>) {
        let mut at = 0;
        while let Some(function) = self.functions.get_mut(at) {
            if !function.waits_for.is_empty() {
                at += 1;
                continue;
            }
            match &mut function.answer {
                Answer::Initiator(itt, then) => match then.as_mut().poll(cx) {
                    Poll::Ready(response) => self.connection.task_management_done(*itt, response),
                    Poll::Pending => {
                        at += 1;
                        continue;
                    }
                },
                Answer::Other(_) => {}
            }
            if let Answer::Other(done) = self.functions.remove(at).answer {
                let _ = done.send(());
            }
        }
    }

    fn agreed(&mut self, login: LoggedIn) {
        self.rearm = true;
        let (Some(target), Some(arrival)) = (login.target.clone(), self.arrival.take()) else {
            self.is_discovery = true;
            self.connection.accept_login(DISCOVERY_TSIH);
            return;
        };
        let sessions = self.service.sessions.clone();
        // The session that this one replaces is waited for only so long; refusing leaves it to the initiator to ask
        // again, accepting would let an old write land after a new one.
        let limit = self.service.clock.sleep(Duration::from_nanos(self.service.settings.login_timeout_ns));
        self.login = Some(Box::pin(async move {
            tokio::select! {
                biased;
                entered = sessions.enter(&login, target, arrival) => entered,
                () = limit => Err(LoginStatus::SERVICE_UNAVAILABLE),
            }
        }));
    }

    pub(super) fn poll_login(&mut self, cx: &mut Context<'_>) {
        let Some(Poll::Ready(result)) = self.login.as_mut().map(|login| login.as_mut().poll(cx)) else {
            return;
        };
        self.login = None;
        self.rearm = true;
        let opened = result.and_then(|membership| {
            let nexus = membership.nexus.clone();
            let storage = self.service.targets.open(&nexus).ok_or(LoginStatus::NOT_FOUND)?;
            Ok(Open { nexus, storage, membership })
        });
        match opened {
            Ok(open) => {
                self.connection.accept_login(open.nexus.tsih);
                self.session = Some(open);
            }
            Err(status) => self.connection.refuse_login(status),
        }
    }

    fn events(&mut self) {
        while let Some(event) = self.connection.poll_event() {
            match event {
                Event::LoggedIn(login) => self.agreed(login),
                Event::TaskManagement(request) => self.manage(request),
                Event::TransferFailed(id) => {
                    self.abort(vec![id]);
                }
                Event::LoggedOut { aborted } => {
                    self.rearm = true;
                    self.abort(aborted);
                }
            }
        }
    }
}

impl Receiver for Commands {
    type Task = TaskId;
    type Error = End;

    fn is_ready(&self) -> bool {
        self.connection.wants_input()
    }

    fn handle_bhs(&mut self, bhs: &Bhs) -> Result<Frame, End> {
        let layout = self.connection.handle_bhs(&bhs.0, self.now_ns)?;
        Ok(Frame {
            ahs_bytes: layout.ahs_bytes,
            header_digest: layout.header_digest,
            data_bytes: to_usize(layout.data_bytes),
            data_digest: layout.data_digest,
        })
    }

    fn handle_header(&mut self, bhs: &Bhs, ahs: &[u8]) -> Result<Place<TaskId>, End> {
        let incoming = self.connection.handle_header(&*self.service.targets, &bhs.0, ahs)?;
        let (current, place) = match incoming {
            Incoming::Nothing => (Current::Nothing, Place::Inline),
            Incoming::Collect => (Current::Collect, Place::Inline),
            Incoming::Discard => (Current::Nothing, Place::Nowhere),
            Incoming::Command(command) => {
                self.command(&command);
                match command.immediate_bytes {
                    0 => (Current::Nothing, Place::Inline),
                    bytes => (Current::Payload(command.task, bytes), Place::Room(command.task, 0)),
                }
            }
            Incoming::DataOut { task, offset, length } => {
                (Current::Payload(task, length), Place::Room(task, to_usize(offset)))
            }
        };
        self.current = current;
        self.events();
        Ok(place)
    }

    fn room(&mut self, id: TaskId) -> Option<&mut Room> {
        if let Some(Task::Reserving { spilled: None, first_burst, .. }) = self.task(id) {
            let bytes = *first_burst;
            let share = self.service.sessions.spill().take(bytes);
            let is_busy = share.is_none();
            if let Some(Task::Reserving { spilled, .. }) = self.task(id) {
                *spilled = share;
            }
            if is_busy {
                self.forget(id);
                self.connection.send_status(id, BUSY, &[], 0);
            }
        }
        match self.task(id)? {
            Task::Filling { room, .. } | Task::Reserving { spilled: Some(Spilled { room, .. }), .. } => {
                Some(room)
            }
            Task::Reserving { .. } | Task::Running { .. } | Task::Sending { .. } | Task::None => None,
        }
    }

    fn handle_payload(&mut self, inline: &[u8]) -> Result<(), End> {
        match std::mem::replace(&mut self.current, Current::Nothing) {
            Current::Nothing => {}
            Current::Collect => self.connection.handle_data(&*self.service.targets, inline)?,
            Current::Payload(task, bytes) => {
                let progress = self.connection.payload_received(task, bytes);
                self.progress(task, progress);
            }
        }
        self.events();
        Ok(())
    }

    fn handle_bad_header(&mut self) -> End {
        End::Peer(Fatal::Malformed)
    }

    fn handle_bad_payload(&mut self) -> Result<(), End> {
        match std::mem::replace(&mut self.current, Current::Nothing) {
            Current::Payload(task, _) => self.connection.payload_digest_error(task)?,
            Current::Nothing | Current::Collect => self.connection.data_digest_error()?,
        }
        self.events();
        Ok(())
    }
}

impl Task {
    fn id(&self) -> Option<TaskId> {
        match self {
            Self::None => None,
            Self::Reserving { id, .. }
            | Self::Filling { id, .. }
            | Self::Running { id }
            | Self::Sending { id, .. } => Some(*id),
        }
    }
}

fn to_usize(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// Unasked data, of all connections, that may wait for memory; beyond it commands are answered BUSY.
const SPILL_BYTES_MAX: usize = 64 << 20;
/// Handle of all discovery sessions: they are never referred to.
const DISCOVERY_TSIH: Tsih = Tsih(u16::MAX);
const BUSY: u8 = 8;
