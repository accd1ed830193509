//! What comes from the target: headers first, then their payload (RFC 7143 chapter 11).

use super::error::Error;
use super::login::Next;
use super::task::{Completion, TaskId};
use super::{Connection, Control, DiscoveredTarget, Event, Phase};
use crate::pdu::async_msg::{AsyncEvent, AsyncMessage};
use crate::pdu::command::{Direction, Residual, ScsiResponse, split_sense};
use crate::pdu::data::{DataIn, DataInStatus};
use crate::pdu::login::LoginResponse;
use crate::pdu::logout::LogoutResponse;
use crate::pdu::nop::NopIn;
use crate::pdu::r2t::ReadyToTransfer;
use crate::pdu::reject::Reject;
use crate::pdu::text::TextResponse;
use crate::pdu::{Bhs, Itt, Opcode, ResponseNumbers, Ttt};
use crate::serial::StatSn;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::mem::{replace, take};
use core::time::Duration;

/// What follows a basic header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Four bytes of header digest follow the header.
    pub header_digest: bool,
    /// Bytes of the data segment.
    pub data_bytes: u32,
    /// Bytes of padding behind it.
    pub pad_bytes: u32,
    /// Four bytes of data digest follow that (only if there is data).
    pub data_digest: bool,
}

/// Where a data segment belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// There is none.
    None,
    /// To be handed to [`Connection::payload_received`] in one piece.
    Inline {
        /// Its length; at most the segment length that we declared.
        bytes: u32,
    },
    /// Into the room of a command; [`Connection::payload_received`] gets an empty slice.
    Task {
        /// The command.
        task: TaskId,
        /// Place in its room. Places come in order, without gaps.
        offset: u32,
        /// Its length; it fits the room.
        bytes: u32,
    },
}

/// The PDU whose payload is being received.
#[derive(Debug)]
pub(super) enum Incoming {
    Nothing,
    Login(LoginResponse),
    Response(ScsiResponse),
    DataIn(DataIn),
    Text(TextResponse),
    Nop(NopIn),
    Async(AsyncMessage),
    Reject(Reject),
    R2t(ReadyToTransfer),
    Logout(LogoutResponse),
}

impl Connection {
    /// Looks at a basic header and says what follows it.
    ///
    /// # Errors
    /// When its lengths are not acceptable.
    pub fn handle_bhs(&self, bhs: &Bhs) -> Result<Frame, Error> {
        if bhs.ahs_bytes() > 0 {
            return Err(Error::Protocol("additional header segments from a target"));
        }
        if bhs.data_bytes() > self.settings.segment_bytes {
            return Err(Error::Protocol("a data segment beyond MaxRecvDataSegmentLength"));
        }
        Ok(Frame {
            header_digest: self.parameters.header_digest,
            data_bytes: bhs.data_bytes(),
            pad_bytes: bhs.pad_bytes(),
            data_digest: self.parameters.data_digest && bhs.data_bytes() > 0,
        })
    }

    /// Takes a header whose digest was right, and says where its payload belongs.
    ///
    /// # Errors
    /// When the target broke the protocol; the connection is over.
    pub fn handle_header(&mut self, bhs: &Bhs, now: Duration) -> Result<Payload, Error> {
        self.time.last_heard = now;
        let result = self.dispatch(bhs);
        if matches!(self.incoming, Incoming::DataIn(_)) {
            self.time.last_data = now;
        }
        if result.is_err() {
            self.phase = Phase::Closed;
        }
        result
    }

    fn dispatch(&mut self, bhs: &Bhs) -> Result<Payload, Error> {
        let opcode = bhs.opcode()?;
        let is_login = matches!(self.phase, Phase::Login(_));
        if is_login != (opcode == Opcode::LoginResponse) && opcode != Opcode::Reject
            || matches!(self.phase, Phase::Closed)
        {
            return Err(Error::Unexpected(opcode));
        }
        self.incoming = match opcode {
            Opcode::LoginResponse => Incoming::Login(LoginResponse::parse(bhs)?),
            Opcode::ScsiResponse => Incoming::Response(ScsiResponse::parse(bhs)?),
            Opcode::DataIn => {
                let data = DataIn::parse(bhs)?;
                let payload = self.place(&data)?;
                self.incoming = Incoming::DataIn(data);
                return Ok(payload);
            }
            Opcode::TextResponse => Incoming::Text(TextResponse::parse(bhs)?),
            Opcode::NopIn => Incoming::Nop(NopIn::parse(bhs)?),
            Opcode::AsyncMessage => Incoming::Async(AsyncMessage::parse(bhs)?),
            Opcode::Reject => Incoming::Reject(Reject::parse(bhs)?),
            Opcode::ReadyToTransfer => Incoming::R2t(ReadyToTransfer::parse(bhs)?),
            Opcode::LogoutResponse => Incoming::Logout(LogoutResponse::parse(bhs)?),
            // Task management is not used: a command that has to go takes its connection with it.
            Opcode::TaskManagementResponse
            | Opcode::NopOut
            | Opcode::ScsiCommand
            | Opcode::TaskManagementRequest
            | Opcode::LoginRequest
            | Opcode::TextRequest
            | Opcode::DataOut
            | Opcode::LogoutRequest
            | Opcode::Snack => return Err(Error::Unexpected(opcode)),
        };
        Ok(match bhs.data_bytes() {
            0 => Payload::None,
            bytes => Payload::Inline { bytes },
        })
    }

    /// Checks a Data-In against its command and what has come so far.
    fn place(&mut self, data: &DataIn) -> Result<Payload, Error> {
        let task = self.tasks.sent(data.itt)?;
        if task.command.direction != Direction::Read {
            return Err(Error::Protocol("Data-In for a command that reads nothing"));
        }
        if data.data_sn != task.data_sn || data.buffer_offset != task.received {
            return Err(Error::Protocol("Data-In out of order"));
        }
        let end = data.buffer_offset.checked_add(data.data_bytes);
        let Some(end) = end.filter(|end| *end <= task.command.length) else {
            return Err(Error::Protocol("Data-In beyond the room of its command"));
        };
        task.data_sn = task.data_sn.wrapping_add(1);
        task.received = end;
        Ok(match data.data_bytes {
            0 => Payload::None,
            bytes => Payload::Task { task: task.id, offset: data.buffer_offset, bytes },
        })
    }

    /// Finishes the PDU whose header was handled last. `inline` is the payload if it was [`Payload::Inline`].
    ///
    /// # Errors
    /// When the target broke the protocol, or told us that it ends; the connection is over.
    pub fn payload_received(&mut self, inline: &[u8]) -> Result<(), Error> {
        let incoming = replace(&mut self.incoming, Incoming::Nothing);
        let result = self.finish(incoming, inline);
        if result.is_err() {
            self.phase = Phase::Closed;
        }
        result
    }

    fn finish(&mut self, incoming: Incoming, inline: &[u8]) -> Result<(), Error> {
        match incoming {
            Incoming::Nothing => Ok(()),
            Incoming::Login(response) => self.log_in(&response, inline),
            Incoming::Response(response) => {
                self.status(response.numbers)?;
                self.respond(&response, inline)
            }
            Incoming::DataIn(data) => match data.status {
                Some(DataInStatus { status, residual }) => {
                    self.status(data.numbers)?;
                    self.complete(data.itt, status, residual, Vec::new())
                }
                None => {
                    self.window(data.numbers);
                    Ok(())
                }
            },
            Incoming::R2t(r2t) => {
                self.window(r2t.numbers);
                self.tasks.ask(&r2t, &self.parameters)
            }
            Incoming::Text(response) => {
                self.status(response.numbers)?;
                self.text(&response, inline)
            }
            Incoming::Nop(nop) => self.nop(&nop),
            Incoming::Async(message) => {
                self.status(message.numbers)?;
                self.asynchronous(&message, inline)
            }
            Incoming::Reject(reject) => Err(Error::Rejected(reject.reason)),
            Incoming::Logout(response) => {
                self.status(response.numbers)?;
                if !matches!(self.phase, Phase::LoggingOut) {
                    return Err(Error::Unexpected(Opcode::LogoutResponse));
                }
                self.phase = Phase::Closed;
                self.events.push_back(Event::LoggedOut);
                Ok(())
            }
        }
    }

    fn log_in(&mut self, response: &LoginResponse, text: &[u8]) -> Result<(), Error> {
        let Phase::Login(login) = &mut self.phase else {
            return Err(Error::Unexpected(Opcode::LoginResponse));
        };
        if response.itt != LOGIN_ITT {
            return Err(Error::UnknownTask(response.itt));
        }
        let next = login.handle(&self.settings, response, text)?;
        let (stat_sn, known) = (response.numbers.stat_sn, self.numbers.stat_sn_known);
        if known && stat_sn != self.numbers.exp_stat_sn {
            return Err(STAT_SN);
        }
        self.numbers.stat_sn_known = true;
        self.numbers.exp_stat_sn = stat_sn.next();
        match next {
            Next::Send(stage, text) => self.control.push_back(Control::Login(stage, text)),
            Next::Done(parameters) => {
                self.parameters = parameters;
                self.numbers.max_cmd_sn = response.numbers.max_cmd_sn;
                self.phase = Phase::FullFeature;
                self.events.push_back(Event::LoggedIn);
            }
        }
        Ok(())
    }

    /// A PDU that takes a StatSN: at level 0 none may be missing.
    fn status(&mut self, numbers: ResponseNumbers) -> Result<(), Error> {
        if numbers.stat_sn != self.numbers.exp_stat_sn {
            return Err(STAT_SN);
        }
        let _: StatSn = self.numbers.exp_stat_sn.take();
        self.window(numbers);
        Ok(())
    }

    /// Moves the command window (RFC 7143 section 4.2.2.1): a pair that contradicts itself, or goes back, is ignored.
    fn window(&mut self, numbers: ResponseNumbers) {
        let closed = numbers.exp_cmd_sn.after(u32::MAX);
        if !numbers.max_cmd_sn.precedes(closed) && self.numbers.max_cmd_sn.precedes(numbers.max_cmd_sn) {
            self.numbers.max_cmd_sn = numbers.max_cmd_sn;
        }
    }

    fn respond(&mut self, response: &ScsiResponse, segment: &[u8]) -> Result<(), Error> {
        if response.response != 0 {
            // The target could not deliver the command; whether it acted nobody knows.
            return Err(Error::Protocol("a target failure instead of a status"));
        }
        self.complete(response.itt, response.status, response.residual, split_sense(segment).to_vec())
    }

    fn complete(&mut self, itt: Itt, status: u8, residual: Residual, sense: Vec<u8>) -> Result<(), Error> {
        let task = self.tasks.remove(itt)?;
        let missing = match residual {
            Residual::Underflow(bytes) => bytes,
            Residual::None | Residual::Overflow(_) => 0,
        };
        let Some(moved) = task.command.length.checked_sub(missing) else {
            return Err(Error::Protocol("a residual beyond the command"));
        };
        let is_read = task.command.direction == Direction::Read;
        if status == STATUS_GOOD && is_read && task.received != moved {
            return Err(Error::Protocol("GOOD without all the data"));
        }
        let completion = Completion { status, sense, residual, received_bytes: task.received };
        self.events.push_back(Event::Completed(task.id, completion));
        Ok(())
    }

    fn text(&mut self, response: &TextResponse, part: &[u8]) -> Result<(), Error> {
        if response.itt != TEXT_ITT {
            return Err(Error::UnknownTask(response.itt));
        }
        if self.text.len() + part.len() > TEXT_BYTES_MAX {
            return Err(Error::Protocol("a text without end"));
        }
        self.text.extend_from_slice(part);
        match (response.is_final, response.ttt) {
            (true, _) => {
                let targets = targets(&take(&mut self.text))?;
                self.events.push_back(Event::Targets(targets));
            }
            (false, Ttt::RESERVED) => return Err(Error::Protocol("a text that cannot be continued")),
            (false, ttt) => self.control.push_back(Control::MoreText(response.lun, ttt)),
        }
        Ok(())
    }

    fn nop(&mut self, nop: &NopIn) -> Result<(), Error> {
        match (nop.itt, nop.ttt) {
            (PING_ITT, _) if self.time.ping_deadline.is_some() => {
                self.status(nop.numbers)?;
                self.time.ping_deadline = None;
            }
            (Itt::RESERVED, ttt) => {
                // A ping takes no StatSN of its own.
                self.window(nop.numbers);
                if ttt != Ttt::RESERVED {
                    if self.control.len() >= CONTROL_MAX {
                        return Err(Error::Protocol("pings without end"));
                    }
                    self.control.push_back(Control::Pong(nop.lun, ttt));
                }
            }
            (itt, _) => return Err(Error::UnknownTask(itt)),
        }
        Ok(())
    }

    fn asynchronous(&mut self, message: &AsyncMessage, segment: &[u8]) -> Result<(), Error> {
        if self.events.len() >= EVENTS_MAX {
            return Err(Error::Protocol("messages without end"));
        }
        match message.event {
            AsyncEvent::Scsi => {
                self.events.push_back(Event::Attention(message.lun, split_sense(segment).to_vec()));
            }
            // A new negotiation is never needed; a target that insists drops us.
            AsyncEvent::LogoutRequested { .. } | AsyncEvent::NegotiationRequested { .. } => {
                self.events.push_back(Event::LogoutRequested);
            }
            AsyncEvent::ConnectionDropped { .. } | AsyncEvent::SessionDropped { .. } => {
                return Err(Error::Dropped);
            }
            AsyncEvent::Vendor { .. } => {}
        }
        Ok(())
    }
}

/// Reads the answer to SendTargets (RFC 7143 appendix C).
fn targets(text: &[u8]) -> Result<Vec<DiscoveredTarget>, Error> {
    let mut found: Vec<DiscoveredTarget> = Vec::new();
    for item in text.split(|byte| *byte == 0).filter(|item| !item.is_empty()) {
        let pair = core::str::from_utf8(item).ok().and_then(|item| item.split_once('='));
        match pair {
            Some(("TargetName", name)) => {
                found.push(DiscoveredTarget { name: name.to_string(), addresses: Vec::new() });
            }
            Some(("TargetAddress", address)) => {
                if let Some(target) = found.last_mut() {
                    target.addresses.push(address.to_string());
                }
            }
            Some(_) => {}
            None => return Err(Error::Protocol("text that is not key=value")),
        }
    }
    Ok(found)
}

/// Tags of the PDUs that are not commands; the generations of commands never reach them.
pub(super) const LOGIN_ITT: Itt = Itt(0xffff_fc00);
pub(super) const TEXT_ITT: Itt = Itt(0xffff_fc01);
pub(super) const PING_ITT: Itt = Itt(0xffff_fc02);
pub(super) const LOGOUT_ITT: Itt = Itt(0xffff_fc03);
const STAT_SN: Error = Error::Protocol("StatSN out of order");
const STATUS_GOOD: u8 = 0;
/// Bytes of a discovery answer; beyond it the connection is closed.
const TEXT_BYTES_MAX: usize = 4 << 20;
/// Answers to pings that wait to go out; a target that asks for more does not read them.
const CONTROL_MAX: usize = 64;
/// Messages that nobody has fetched; the caller fetches them after every PDU.
const EVENTS_MAX: usize = 4096;
