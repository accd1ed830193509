//! [`Connection`]: what it owns, how it is called, and the caller's verbs.

use super::control::{Functions, TextExchange};
use super::tasks::{Outcome, Task, TaskId, Tasks};
use super::transfer::TransferError;
use super::transmit::{Control, Outgoing};
use super::window::Window;
use super::{AbortScope, Event, Fatal, MAX_CONTROL_BYTES, MAX_CONTROL_QUEUE, Progress};
use crate::login::{Entropy, LoggedIn, Login};
use crate::params::{Offer, Parameters};
use crate::pdu::bhs::BHS_BYTES;
use crate::pdu::command::{MAX_SENSE_BYTES, Residual, join_sense};
use crate::pdu::login::{LoginResponse, LoginStatus};
use crate::pdu::reject::RejectReason;
use crate::pdu::{Bhs, Tsih};
use crate::serial::{CmdSn, StatSn};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

const SECOND_NS: u64 = 1_000_000_000;
const CHECK_CONDITION: u8 = 2;

/// What does not change while a connection lives.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// What the target agrees to.
    pub offer: Offer,
    /// Group of the portal over which the connection came.
    pub portal_group_tag: u16,
    /// Time for a whole login.
    pub login_timeout_ns: u64,
    /// Silence after which the target pings.
    pub ping_interval_ns: u64,
    /// Time for an answer to that.
    pub ping_timeout_ns: u64,
    /// Time for the next Data-Out after an R2T or an unsolicited one.
    pub data_timeout_ns: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            offer: Offer::default(),
            portal_group_tag: 1,
            login_timeout_ns: 15 * SECOND_NS,
            ping_interval_ns: 15 * SECOND_NS,
            ping_timeout_ns: 15 * SECOND_NS,
            data_timeout_ns: 30 * SECOND_NS,
        }
    }
}

/// Where the connection stands. It only ever moves down this list.
#[derive(Debug)]
pub(super) enum Phase {
    /// Logging in.
    Login(Box<Login>),
    /// Agreed; the caller has the word.
    Agreed(Box<Agreed>),
    /// Full feature phase.
    FullFeature(Box<LoggedIn>),
    /// The last PDU is queued; nothing more is taken.
    Ended,
}

#[derive(Debug)]
pub(super) struct Agreed {
    pub(super) response: LoginResponse,
    pub(super) text: Vec<u8>,
    pub(super) login: LoggedIn,
}

/// Target side of one session with its one connection, from the first byte of the login to the last of the logout.
///
/// **Owns** the command window, status numbers, the table of living tasks, and what is to be sent; it never owns
/// payload, except for small answers. **Time and random bytes** are arguments.
///
/// **Input**, for each PDU: [`handle_bhs`](Self::handle_bhs) with 48 bytes says how much belongs to it;
/// [`handle_header`](Self::handle_header), once the header digest is verified, says what it is; then, depending on
/// that, [`handle_data`](Self::handle_data) or [`payload_received`](Self::payload_received), once the data digest is
/// verified. A wrong header digest ends the connection; for a wrong data digest there are
/// [`payload_digest_error`](Self::payload_digest_error) and [`data_digest_error`](Self::data_digest_error).
///
/// **Commands**: for each [`Command`](super::Command) a write is first [solicited](Self::solicit), then exactly one of
/// [`send_data_in`](Self::send_data_in), [`send_bytes_in`](Self::send_bytes_in) and [`send_status`](Self::send_status)
/// ends it. Words about a task that is [no longer alive](Self::is_alive) are ignored.
///
/// **Output**: after any of these, and after [`handle_timeout`](Self::handle_timeout), poll
/// [`poll_event`](Self::poll_event) and [`poll_transmit`](Self::poll_transmit) until they are empty. Status
/// numbers are given in the order of `poll_transmit`, so what it hands out must go to the wire in that order.
///
/// **Cost**: nothing is allocated for a command in the common case; finding a task by its tag looks at every slot.
#[derive(Debug)]
pub struct Connection {
    pub(super) settings: Settings,
    pub(super) phase: Phase,
    pub(super) parameters: Parameters,
    pub(super) window: Window,
    pub(super) stat_sn: StatSn,
    pub(super) tasks: Tasks,
    pub(super) queue: VecDeque<Outgoing>,
    pub(super) control_count: usize,
    pub(super) control_bytes: usize,
    pub(super) events: VecDeque<Event>,
    /// The PDU whose data segment is being collected.
    pub(super) collecting: Option<Bhs>,
    /// The PDU whose payload goes to the caller's buffer; a Reject repeats it.
    pub(super) last_header: Bhs,
    pub(super) text: Option<TextExchange>,
    pub(super) functions: Functions,
    pub(super) rejects: u32,
    pub(super) now_ns: u64,
    pub(super) heard_ns: u64,
    pub(super) pinged_ns: Option<u64>,
    pub(super) login_deadline_ns: u64,
    pub(super) close_deadline_ns: Option<u64>,
    pub(super) next_tag: u32,
}

impl Connection {
    /// A connection that was just accepted. `entropy` feeds the challenges of this login and of nothing else.
    #[must_use]
    pub fn new(settings: Settings, entropy: [u8; 32], now_ns: u64) -> Self {
        let login = Login::new(settings.offer, settings.portal_group_tag, Entropy::new(entropy));
        Self {
            settings,
            phase: Phase::Login(Box::new(login)),
            parameters: Parameters::default(),
            window: Window::new(CmdSn(0)),
            stat_sn: StatSn(1),
            tasks: Tasks::default(),
            queue: VecDeque::new(),
            control_count: 0,
            control_bytes: 0,
            events: VecDeque::new(),
            collecting: None,
            last_header: Bhs([0; BHS_BYTES]),
            text: None,
            functions: Functions::default(),
            rejects: 0,
            now_ns,
            heard_ns: now_ns,
            pinged_ns: None,
            login_deadline_ns: now_ns.saturating_add(settings.login_timeout_ns),
            close_deadline_ns: None,
            next_tag: 0,
        }
    }

    /// Who is logged in, once the caller has accepted it.
    #[must_use]
    pub fn session(&self) -> Option<&LoggedIn> {
        match &self.phase {
            Phase::FullFeature(session) => Some(session),
            Phase::Login(_) | Phase::Agreed(_) | Phase::Ended => None,
        }
    }

    /// Whether the caller should read on. While it is false, answers wait that the initiator does not read.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        let is_open = match self.phase {
            Phase::Login(_) | Phase::FullFeature(_) => true,
            Phase::Agreed(_) | Phase::Ended => false,
        };
        is_open && self.control_count < MAX_CONTROL_QUEUE && self.control_bytes < MAX_CONTROL_BYTES
    }

    /// Whether a task is still to be answered.
    #[must_use]
    pub fn is_alive(&self, task: TaskId) -> bool {
        self.tasks.get(task).is_some_and(|task| task.outcome.is_none())
    }

    /// The caller has ended what this login replaces. Ignored when no login waits.
    pub fn accept_login(&mut self, tsih: Tsih) {
        match core::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Agreed(agreed) => {
                let Agreed { mut response, text, login } = *agreed;
                response.tsih = tsih;
                self.queue_login_response(response, text);
                self.parameters = login.parameters;
                self.heard_ns = self.now_ns;
                self.phase = Phase::FullFeature(Box::new(login));
            }
            other @ (Phase::Login(_) | Phase::FullFeature(_) | Phase::Ended) => self.phase = other,
        }
    }

    /// The caller refuses a login; the connection ends after the response. Ignored when no login waits.
    pub fn refuse_login(&mut self, status: LoginStatus) {
        match core::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Agreed(agreed) => {
                let mut response = LoginResponse { status, ..agreed.response };
                response.stage.next = None;
                self.queue_control(Control { close_after: true, ..Control::numbered(response.build()) });
            }
            other @ (Phase::Login(_) | Phase::FullFeature(_) | Phase::Ended) => self.phase = other,
        }
    }

    /// The caller is ready for the first `bytes` bytes of a write's payload, or for all that the initiator has, if that
    /// is less. R2Ts go out for what does not come unasked. Only the first call for a task counts.
    pub fn solicit(&mut self, task: TaskId, bytes: u32) -> Progress {
        let Some(entry) = living(&mut self.tasks, task) else { return Progress::Dead };
        let wanted = bytes.min(entry.expected_length);
        let progress = match &mut entry.transfer {
            Some(transfer) => transfer.solicit(wanted),
            // A command without payload has all of it.
            None => Progress::Complete { received: 0 },
        };
        self.queue_r2t(task);
        progress
    }

    /// `length` bytes announced by the last header are in their place and their digest is right.
    pub fn payload_received(&mut self, task: TaskId, length: u32) -> Progress {
        let Some(entry) = living(&mut self.tasks, task) else { return Progress::Dead };
        let Some(transfer) = &mut entry.transfer else { return Progress::More };
        transfer.receive(length)
    }

    /// The digest of the payload announced by the last header is wrong: the PDU is rejected, and the task ends with
    /// CHECK CONDITION.
    ///
    /// # Errors
    /// When that has happened too often; the connection is to be closed.
    pub fn payload_digest_error(&mut self, task: TaskId) -> Result<(), Fatal> {
        let header = self.last_header;
        self.reject(&header, RejectReason::DataDigestError)?;
        self.fail(task, TransferError::Corrupt);
        Ok(())
    }

    /// Ends a task with GOOD after the first `bytes` of the caller's buffer, as far as the initiator has room. What the
    /// command would move is `bytes`.
    pub fn send_data_in(&mut self, task: TaskId, bytes: u32) {
        self.end_with_data(task, bytes, None);
    }

    /// Ends a task with GOOD after these bytes. `command_bytes` is what the command would move, which decides the
    /// residual; it is the length of the data unless an allocation length says otherwise.
    pub fn send_bytes_in(&mut self, task: TaskId, data: Vec<u8>, command_bytes: u64) {
        self.end_with_data_of(task, data, command_bytes);
    }

    /// Ends a task with a status. `command_bytes` is what the command has moved or, for a write that was cut by the
    /// initiator's expectation, would move.
    pub fn send_status(&mut self, task: TaskId, status: u8, sense: &[u8], command_bytes: u64) {
        let Some(entry) = living(&mut self.tasks, task) else { return };
        let residual = Residual::of(command_bytes, entry.expected_length);
        let sense = sense.get(..MAX_SENSE_BYTES).unwrap_or(sense);
        entry.outcome = Some(Outcome::Status { status, segment: join_sense(sense), residual });
        self.queue.push_back(Outgoing::Status(task));
    }

    /// Forgets tasks, for a function that another session asked for. Nothing more is sent for them, and nothing
    /// [completes](super::Transmit::completes) them any more.
    pub fn abort_tasks(&mut self, scope: AbortScope) -> Vec<TaskId> {
        let doomed: Vec<TaskId> = self
            .tasks
            .iter()
            .filter(|(_, task)| match scope {
                AbortScope::LogicalUnit(lun) => task.lun == lun,
                AbortScope::All => true,
            })
            .map(|(id, _)| id)
            .collect();
        for task in &doomed {
            self.tasks.remove(*task);
        }
        doomed
    }

    /// The next thing that the caller has to know.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Time has passed.
    ///
    /// # Errors
    /// When the initiator stayed silent for too long; the connection is to be closed.
    pub fn handle_timeout(&mut self, now_ns: u64) -> Result<(), Fatal> {
        self.now_ns = now_ns;
        if self.close_deadline_ns.is_some_and(|deadline| deadline <= now_ns) {
            return Err(Fatal::Ended);
        }
        match self.phase {
            Phase::Login(_) if self.login_deadline_ns <= now_ns => Err(Fatal::LoginTimeout),
            Phase::Login(_) | Phase::Agreed(_) | Phase::Ended => Ok(()),
            Phase::FullFeature(_) => {
                self.fail_late_transfers();
                self.ping()
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        let phase = match self.phase {
            Phase::Login(_) => Some(self.login_deadline_ns),
            Phase::FullFeature(_) => Some(self.ping_deadline()),
            Phase::Agreed(_) | Phase::Ended => None,
        };
        let transfers = self.tasks.iter().filter_map(|(_, task)| data_deadline(task));
        transfers.chain(phase).chain(self.close_deadline_ns).min()
    }

    fn fail_late_transfers(&mut self) {
        let now_ns = self.now_ns;
        let late: Vec<TaskId> = self
            .tasks
            .iter()
            .filter(|(_, task)| data_deadline(task).is_some_and(|deadline| deadline <= now_ns))
            .map(|(id, _)| id)
            .collect();
        for task in late {
            self.fail(task, TransferError::WrongAmount);
        }
    }

    /// Ends a task because of its transfer. Data that still comes for it belongs to nobody.
    pub(super) fn fail(&mut self, task: TaskId, error: TransferError) {
        let Some(entry) = living(&mut self.tasks, task) else { return };
        let residual = Residual::of(0, entry.expected_length);
        let segment = join_sense(&error.sense());
        entry.transfer = None;
        entry.outcome = Some(Outcome::Status { status: CHECK_CONDITION, segment, residual });
        if entry.is_announced {
            self.events.push_back(Event::TransferFailed(task));
        }
        self.queue.push_back(Outgoing::Status(task));
    }

    fn end_with_data(&mut self, task: TaskId, command_bytes: u32, owned: Option<Vec<u8>>) {
        let Some(entry) = living(&mut self.tasks, task) else { return };
        let bytes = if entry.reads { command_bytes.min(entry.expected_length) } else { 0 };
        let residual = Residual::of(u64::from(command_bytes), entry.expected_length);
        self.end(task, bytes, owned, residual);
    }

    fn end_with_data_of(&mut self, task: TaskId, data: Vec<u8>, command_bytes: u64) {
        let Some(entry) = living(&mut self.tasks, task) else { return };
        let available = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let bytes = if entry.reads { available.min(entry.expected_length) } else { 0 };
        let residual = Residual::of(command_bytes, entry.expected_length);
        self.end(task, bytes, Some(data), residual);
    }

    fn end(&mut self, task: TaskId, bytes: u32, owned: Option<Vec<u8>>, residual: Residual) {
        let Some(entry) = living(&mut self.tasks, task) else { return };
        if bytes == 0 {
            entry.outcome = Some(Outcome::Status { status: 0, segment: Vec::new(), residual });
            self.queue.push_back(Outgoing::Status(task));
        } else {
            entry.outcome = Some(Outcome::Data { bytes, owned, sent: 0, residual });
            self.queue.push_back(Outgoing::DataIn(task));
        }
    }
}

/// The task, unless it is dead or already answered.
pub(super) fn living(tasks: &mut Tasks, task: TaskId) -> Option<&mut Task> {
    tasks.get_mut(task).filter(|task| task.outcome.is_none())
}

/// Until when the initiator owes data; nothing is owed to a task that is answered.
fn data_deadline(task: &Task) -> Option<u64> {
    let transfer = task.transfer.as_ref().filter(|_| task.outcome.is_none())?;
    transfer.deadline_ns
}
