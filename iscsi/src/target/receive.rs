//! What comes in: headers, then data segments (RFC 7143 sections 11.3, 11.7).

use super::connection::{Agreed, Connection, Phase, living};
use super::tasks::{Task, TaskId};
use super::transfer::{Transfer, TransferError, names};
use super::transmit::Control;
use super::window::{Admission, Window};
use super::{Event, Fatal, MAX_LOGIN_SEGMENT_BYTES};
use crate::discovery::Directory;
use crate::login::{Reply, refusal_of_malformed};
use crate::params::SessionKind;
use crate::pdu::ahs::{Cdb, MAX_AHS_BYTES, is_bidirectional};
use crate::pdu::bhs::Immediate;
use crate::pdu::command::{Direction, ScsiCommand, TaskAttribute};
use crate::pdu::data::DataOut;
use crate::pdu::login::LoginRequest;
use crate::pdu::reject::RejectReason;
use crate::pdu::{Bhs, Itt, Lun, Opcode, Ttt};
use alloc::boxed::Box;

/// What belongs to a header, in the order of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of additional header segments.
    pub ahs_bytes: usize,
    /// Whether a header digest of four bytes follows them.
    pub header_digest: bool,
    /// Bytes of the data segment.
    pub data_bytes: u32,
    /// Bytes of padding after it.
    pub pad_bytes: u32,
    /// Whether a data digest of four bytes follows; never without data.
    pub data_digest: bool,
}

/// What a header means, and where its data segment belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// There is no data segment, and nothing to do.
    Nothing,
    /// Read the data segment into memory and hand it to [`Connection::handle_data`]; its length is within what
    /// was agreed.
    Collect,
    /// A command. Its immediate data goes to the beginning of the task's buffer.
    Command(Command),
    /// Payload of a task goes to its buffer, as far as that was solicited; what lies beyond is read and dropped. Either
    /// way [`Connection::payload_received`] is told the whole length, zero included.
    DataOut {
        /// Whose payload.
        task: TaskId,
        /// Where it begins.
        offset: u32,
        /// How long it is.
        length: u32,
    },
    /// The data segment belongs to nothing that lives: read it and drop it.
    Discard,
}

/// A command for the device server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Its name until it is answered.
    pub task: TaskId,
    /// Task tag of the initiator.
    pub itt: Itt,
    /// Logical unit.
    pub lun: Lun,
    /// The command.
    pub cdb: Cdb,
    /// Task attribute.
    pub attribute: TaskAttribute,
    /// Outside the order of CmdSN.
    pub immediate: Immediate,
    /// The initiator expects data.
    pub reads: bool,
    /// The initiator has data.
    pub writes: bool,
    /// How many bytes it expects to move.
    pub expected_length: u32,
    /// Bytes of payload in this PDU; if there are any, [`Connection::payload_received`] is told when they are in place.
    pub immediate_bytes: u32,
}

/// Requests that take part in the order of CmdSN.
enum Request {
    /// Ping or text: means something once its data is here.
    Collected,
    Logout,
    TaskManagement,
    Command,
}

impl Connection {
    /// Step 1 of a PDU: what belongs to it. `now_ns` is the time at which it came.
    ///
    /// # Errors
    /// When something is longer than agreed or nothing may come any more; the connection is to be closed.
    pub fn handle_bhs(&mut self, bhs: &[u8; 48], now_ns: u64) -> Result<Layout, Fatal> {
        self.now_ns = now_ns;
        self.heard_ns = now_ns;
        self.pinged_ns = None;
        let bhs = Bhs(*bhs);
        let (limit, header_digest, data_digest) = match self.phase {
            Phase::Login(_) => (MAX_LOGIN_SEGMENT_BYTES, false, false),
            Phase::FullFeature(_) => {
                let agreed = &self.parameters;
                (agreed.target_segment_bytes, agreed.header_digest, agreed.data_digest)
            }
            Phase::Agreed(_) | Phase::Ended => return Err(Fatal::Ended),
        };
        let data_bytes = bhs.data_bytes();
        if data_bytes > limit || bhs.ahs_bytes() > MAX_AHS_BYTES {
            return Err(Fatal::TooLong);
        }
        Ok(Layout {
            ahs_bytes: bhs.ahs_bytes(),
            header_digest,
            data_bytes,
            pad_bytes: bhs.pad_bytes(),
            data_digest: data_digest && data_bytes > 0,
        })
    }

    /// Step 2 of a PDU: header and additional segments are here and verified.
    ///
    /// # Errors
    /// When the connection cannot go on.
    pub fn handle_header(
        &mut self,
        directory: &dyn Directory,
        bhs: &[u8; 48],
        ahs: &[u8],
    ) -> Result<Incoming, Fatal> {
        let bhs = Bhs(*bhs);
        let opcode = bhs.opcode();
        match (&self.phase, opcode) {
            (Phase::Login(_), Ok(Opcode::LoginRequest)) => self.collect(directory, bhs),
            (Phase::Login(_), _) => Err(Fatal::Malformed),
            (Phase::Agreed(_) | Phase::Ended, _) => Err(Fatal::Ended),
            (Phase::FullFeature(_), Ok(opcode)) => {
                self.last_header = bhs;
                let incoming = self.dispatch(directory, opcode, bhs, ahs)?;
                self.check_flood().map(|()| incoming)
            }
            (Phase::FullFeature(_), Err(_)) => self.reject(&bhs, RejectReason::CommandNotSupported),
        }
    }

    /// Step 3 of a PDU that is to be [collected](Incoming::Collect): its data segment is here and verified.
    ///
    /// # Errors
    /// When the connection cannot go on.
    pub fn handle_data(&mut self, directory: &dyn Directory, segment: &[u8]) -> Result<(), Fatal> {
        let Some(bhs) = self.collecting.take() else { return Err(Fatal::Malformed) };
        match bhs.opcode() {
            Ok(Opcode::LoginRequest) => self.handle_login(directory, &bhs, segment)?,
            Ok(Opcode::TextRequest) => self.handle_text(directory, &bhs, segment)?,
            Ok(Opcode::NopOut) => self.handle_nop_out(&bhs, segment)?,
            _ => return Err(Fatal::Malformed),
        }
        self.check_flood()
    }

    /// The digest of a data segment that was to be collected or dropped is wrong: it is rejected.
    ///
    /// # Errors
    /// When that has happened too often.
    pub fn data_digest_error(&mut self) -> Result<(), Fatal> {
        match self.collecting.take() {
            Some(bhs) => self.reject(&bhs, RejectReason::DataDigestError).map(|_| ()),
            None => Ok(()),
        }
    }

    fn dispatch(
        &mut self,
        directory: &dyn Directory,
        opcode: Opcode,
        bhs: Bhs,
        ahs: &[u8],
    ) -> Result<Incoming, Fatal> {
        let request = match opcode {
            Opcode::DataOut => return self.handle_data_out(&bhs),
            Opcode::Snack => return self.reject(&bhs, RejectReason::SnackReject),
            Opcode::NopOut | Opcode::TextRequest => Request::Collected,
            Opcode::LogoutRequest => Request::Logout,
            Opcode::TaskManagementRequest => Request::TaskManagement,
            Opcode::ScsiCommand => Request::Command,
            Opcode::LoginRequest
            | Opcode::NopIn
            | Opcode::ScsiResponse
            | Opcode::TaskManagementResponse
            | Opcode::LoginResponse
            | Opcode::TextResponse
            | Opcode::DataIn
            | Opcode::LogoutResponse
            | Opcode::ReadyToTransfer
            | Opcode::AsyncMessage
            | Opcode::Reject => return self.reject(&bhs, RejectReason::ProtocolError),
        };
        match self.window.admit(bhs.request_numbers().cmd_sn, bhs.immediate()) {
            Admission::Take => {}
            Admission::Ignore => return Ok(discard(&bhs)),
            Admission::Gap => return Err(Fatal::MissingCommand),
        }
        let is_discovery = self.session().is_some_and(|session| session.kind() == SessionKind::Discovery);
        match request {
            Request::Collected => self.collect(directory, bhs),
            Request::Logout => self.handle_logout(&bhs),
            Request::TaskManagement | Request::Command if is_discovery => {
                self.reject(&bhs, RejectReason::CommandNotSupported)
            }
            Request::TaskManagement => self.handle_task_management(&bhs),
            Request::Command => self.handle_command(&bhs, ahs),
        }
    }

    fn collect(&mut self, directory: &dyn Directory, bhs: Bhs) -> Result<Incoming, Fatal> {
        self.collecting = Some(bhs);
        if bhs.data_bytes() > 0 {
            return Ok(Incoming::Collect);
        }
        self.handle_data(directory, &[])?;
        Ok(Incoming::Nothing)
    }

    fn handle_login(&mut self, directory: &dyn Directory, bhs: &Bhs, segment: &[u8]) -> Result<(), Fatal> {
        let Phase::Login(login) = &mut self.phase else { return Err(Fatal::Malformed) };
        self.window = Window::new(bhs.request_numbers().cmd_sn);
        let reply = match LoginRequest::parse(bhs) {
            Ok(request) => login.handle(directory, &request, segment),
            Err(_) => Reply::Refuse(refusal_of_malformed(bhs)),
        };
        match reply {
            Reply::Continue(response, text) => self.queue_login_response(response, text),
            Reply::Agreed(response, text, login) => {
                self.events.push_back(Event::LoggedIn(login.clone()));
                self.phase = Phase::Agreed(Box::new(Agreed { response, text, login }));
            }
            Reply::Refuse(response) => {
                self.phase = Phase::Ended;
                self.queue_control(Control { close_after: true, ..Control::numbered(response.build()) });
            }
        }
        Ok(())
    }

    /// There is no room for another session: the next login request is refused with *service unavailable*.
    pub fn refuse_service(&mut self) {
        if let Phase::Login(login) = &mut self.phase {
            login.refuse_service();
        }
    }

    fn handle_command(&mut self, bhs: &Bhs, ahs: &[u8]) -> Result<Incoming, Fatal> {
        let (command, error) = match ScsiCommand::parse(bhs, ahs) {
            Ok(command) if command.direction == Direction::Bidirectional => {
                (command, Some(TransferError::Bidirectional))
            }
            Ok(command) => (command, None),
            Err(error) => match ScsiCommand::parse(bhs, &[]) {
                Ok(command) if is_bidirectional(error) => (command, Some(TransferError::Bidirectional)),
                _ => return self.reject(bhs, RejectReason::InvalidPduField),
            },
        };
        if command.itt == Itt::RESERVED {
            return self.reject(bhs, RejectReason::InvalidPduField);
        }
        if self.tasks.find(command.itt).is_some() {
            return self.reject(bhs, RejectReason::TaskInProgress);
        }
        let transfer = match error {
            Some(error) => Err(error),
            None => self.begin_transfer(&command),
        };
        let task = Task {
            itt: command.itt,
            lun: command.lun,
            cmd_sn: command.numbers.cmd_sn,
            immediate: command.immediate,
            expected_length: command.expected_length,
            reads: command.direction == Direction::Read,
            transfer: transfer.ok().flatten(),
            outcome: None,
            data_sn: 0,
            r2t_queued: false,
            is_announced: transfer.is_ok(),
        };
        let Some(id) = self.tasks.insert(task) else {
            return self.reject(bhs, RejectReason::TooManyImmediate);
        };
        if let Err(error) = transfer {
            self.fail(id, error);
            return Ok(discard(bhs));
        }
        Ok(Incoming::Command(announce(id, command)))
    }

    fn begin_transfer(&self, command: &ScsiCommand) -> Result<Option<Transfer>, TransferError> {
        match command.direction {
            Direction::Write => {
                let parameters = &self.parameters;
                let more = !command.is_final;
                let mut transfer =
                    Transfer::new(parameters, command.expected_length, command.data_bytes, more)?;
                if transfer.is_awaited() {
                    transfer.deadline_ns = Some(self.now_ns.saturating_add(self.settings.data_timeout_ns));
                }
                Ok(Some(transfer))
            }
            Direction::None | Direction::Read if command.data_bytes > 0 => Err(TransferError::Unexpected),
            Direction::None | Direction::Read => Ok(None),
            Direction::Bidirectional => Err(TransferError::Bidirectional),
        }
    }

    fn handle_data_out(&mut self, bhs: &Bhs) -> Result<Incoming, Fatal> {
        let Ok(data) = DataOut::parse(bhs) else { return Err(Fatal::Malformed) };
        let Some(task) = self.tasks.find(data.itt) else { return Ok(discard(bhs)) };
        let deadline_ns = self.now_ns.saturating_add(self.settings.data_timeout_ns);
        let Some(entry) = living(&mut self.tasks, task) else { return Ok(discard(bhs)) };
        if !names(&data, entry.itt, entry.lun) {
            return Ok(discard(bhs));
        }
        let announced = match &mut entry.transfer {
            Some(transfer) => {
                let announced = transfer.announce(&self.parameters, &data, task.slot());
                transfer.deadline_ns = transfer.is_awaited().then_some(deadline_ns);
                announced
            }
            None if data.ttt == Ttt::RESERVED => Err(TransferError::Unexpected),
            None => return Ok(discard(bhs)),
        };
        if let Err(error) = announced {
            self.fail(task, error);
            return Ok(discard(bhs));
        }
        self.queue_r2t(task);
        Ok(Incoming::DataOut { task, offset: data.buffer_offset, length: data.data_bytes })
    }
}

fn announce(task: TaskId, command: ScsiCommand) -> Command {
    Command {
        task,
        itt: command.itt,
        lun: command.lun,
        cdb: command.cdb,
        attribute: command.attribute,
        immediate: command.immediate,
        reads: command.direction == Direction::Read,
        writes: command.direction == Direction::Write,
        expected_length: command.expected_length,
        immediate_bytes: command.data_bytes,
    }
}

/// What is to be done with the data segment of a PDU that means nothing.
pub(super) fn discard(bhs: &Bhs) -> Incoming {
    if bhs.data_bytes() > 0 { Incoming::Discard } else { Incoming::Nothing }
}
