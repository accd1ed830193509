//! What goes to the target: control PDUs first, then data that was asked for, then commands as the window allows.

use super::receive::{LOGIN_ITT, LOGOUT_ITT, PING_ITT, TEXT_ITT};
use super::task::{Burst, TaskId};
use super::{Connection, Control, Phase};
use crate::pdu::ahs::Cdb;
use crate::pdu::bhs::Immediate;
use crate::pdu::command::{Direction, ScsiCommand};
use crate::pdu::data::DataOut;
use crate::pdu::login::LoginRequest;
use crate::pdu::logout::{LogoutReason, LogoutRequest};
use crate::pdu::nop::NopOut;
use crate::pdu::text::TextRequest;
use crate::pdu::{Bhs, Cid, Itt, Lun, RequestNumbers, Tsih, Ttt};
use alloc::vec::Vec;

/// A PDU to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Its basic header.
    pub bhs: Bhs,
    /// The CDB whose extended part goes into an additional header segment ([`Cdb::build_ahs`]).
    pub extended: Option<Cdb>,
    /// Its data segment, without padding.
    pub segment: Segment,
    /// The header is followed by a digest.
    pub header_digest: bool,
    /// So is the data segment, if there is any.
    pub data_digest: bool,
}

/// A data segment to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// There is none.
    None,
    /// These bytes.
    Bytes(Vec<u8>),
    /// A part of a command's data.
    Task {
        /// The command.
        task: TaskId,
        /// Where the part begins.
        offset: u32,
        /// How long it is.
        bytes: u32,
    },
}

impl Connection {
    /// The next PDU to send, in the order they have to go out.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        if matches!(self.phase, Phase::Closed) {
            return None;
        }
        if let Some(control) = self.control.pop_front() {
            return Some(self.control(control));
        }
        if let Some(data) = self.data() {
            return Some(data);
        }
        match self.phase {
            Phase::FullFeature | Phase::LoggingOut => self.next_command(),
            Phase::Login(_) | Phase::Closed => None,
        }
    }

    fn control(&mut self, control: Control) -> Transmit {
        let numbers = self.request_numbers();
        match control {
            Control::Login(stage, text) => {
                let login = LoginRequest {
                    stage,
                    version_max: 0,
                    version_min: 0,
                    isid: self.settings.isid,
                    tsih: Tsih(0),
                    itt: LOGIN_ITT,
                    cid: Cid(0),
                    numbers,
                    data_bytes: length(&text),
                };
                self.wrap(login.build(), text)
            }
            Control::SendTargets => {
                self.text.clear();
                let text = b"SendTargets=All\0".to_vec();
                self.ask_text([0; 8], Ttt::RESERVED, text)
            }
            Control::MoreText(lun, ttt) => self.ask_text(lun, ttt, Vec::new()),
            Control::Ping => self.ping([0; 8], PING_ITT, Ttt::RESERVED),
            Control::Word => self.ping([0; 8], Itt::RESERVED, Ttt::RESERVED),
            Control::Pong(lun, ttt) => self.ping(lun, Itt::RESERVED, ttt),
            Control::Logout => {
                let logout = LogoutRequest {
                    immediate: Immediate::Yes,
                    reason: LogoutReason::CloseSession,
                    itt: LOGOUT_ITT,
                    cid: Cid(0),
                    numbers,
                };
                self.wrap(logout.build(), Vec::new())
            }
        }
    }

    fn ask_text(&self, lun: Lun, ttt: Ttt, text: Vec<u8>) -> Transmit {
        let request = TextRequest {
            immediate: Immediate::Yes,
            is_final: true,
            is_continued: false,
            lun,
            itt: TEXT_ITT,
            ttt,
            numbers: self.request_numbers(),
            data_bytes: length(&text),
        };
        self.wrap(request.build(), text)
    }

    fn ping(&self, lun: Lun, itt: Itt, ttt: Ttt) -> Transmit {
        let numbers = self.request_numbers();
        let nop = NopOut { immediate: Immediate::Yes, lun, itt, ttt, numbers, data_bytes: 0 };
        self.wrap(nop.build(), Vec::new())
    }

    /// The next Data-Out of the oldest burst.
    fn data(&mut self) -> Option<Transmit> {
        let burst = self.tasks.bursts.front_mut()?;
        let offset = burst.at;
        let bytes = (burst.end - burst.at).min(self.parameters.target_segment_bytes);
        let header = DataOut {
            is_final: offset + bytes == burst.end,
            lun: burst.lun,
            itt: burst.id.0,
            ttt: burst.ttt,
            exp_stat_sn: self.numbers.exp_stat_sn,
            data_sn: burst.data_sn,
            buffer_offset: offset,
            data_bytes: bytes,
        };
        burst.at += bytes;
        burst.data_sn = burst.data_sn.wrapping_add(1);
        let (id, ttt) = (burst.id, burst.ttt);
        if header.is_final {
            self.tasks.bursts.pop_front();
            if ttt != Ttt::RESERVED
                && let Some(task) = self.tasks.get(id)
            {
                task.open_r2t = task.open_r2t.saturating_sub(1);
            }
        }
        let segment = Segment::Task { task: id, offset, bytes };
        Some(Transmit { segment, ..self.wrap(header.build(), Vec::new()) })
    }

    /// The next command, if the window is open.
    fn next_command(&mut self) -> Option<Transmit> {
        if self.numbers.max_cmd_sn.precedes(self.numbers.cmd_sn) || !self.tasks.has_queued() {
            return None;
        }
        let id = self.tasks.next_queued()?;
        let numbers = self.request_numbers();
        let parameters = self.parameters;
        let task = self.tasks.get(id)?;
        task.is_sent = true;
        let command = &task.command;
        let to_send = if command.direction == Direction::Write { command.length } else { 0 };
        let unasked = to_send.min(parameters.first_burst_bytes);
        let immediate =
            if parameters.immediate_data { unasked.min(parameters.target_segment_bytes) } else { 0 };
        let follows = !parameters.initial_r2t && unasked > immediate;
        let header = ScsiCommand {
            immediate: Immediate::No,
            is_final: !follows,
            direction: match command.direction {
                Direction::Bidirectional => Direction::None,
                one_way @ (Direction::None | Direction::Read | Direction::Write) => one_way,
            },
            attribute: command.attribute,
            lun: command.lun,
            itt: id.0,
            expected_length: command.length,
            numbers,
            cdb: command.cdb,
            data_bytes: immediate,
        };
        let extended = (!command.cdb.extended_part().is_empty()).then_some(command.cdb);
        let burst =
            Burst { id, lun: command.lun, ttt: Ttt::RESERVED, at: immediate, end: unasked, data_sn: 0 };
        if follows {
            // Unasked data keeps the order of the commands: it goes out before the next one.
            self.tasks.bursts.push_back(burst);
        }
        let _ = self.numbers.cmd_sn.take();
        let segment = match immediate {
            0 => Segment::None,
            bytes => Segment::Task { task: id, offset: 0, bytes },
        };
        Some(Transmit { extended, segment, ..self.wrap(header.build(), Vec::new()) })
    }

    fn request_numbers(&self) -> RequestNumbers {
        RequestNumbers { cmd_sn: self.numbers.cmd_sn, exp_stat_sn: self.numbers.exp_stat_sn }
    }

    fn wrap(&self, bhs: Bhs, text: Vec<u8>) -> Transmit {
        Transmit {
            bhs,
            extended: None,
            segment: if text.is_empty() { Segment::None } else { Segment::Bytes(text) },
            header_digest: self.parameters.header_digest,
            data_digest: self.parameters.data_digest,
        }
    }
}

fn length(text: &[u8]) -> u32 {
    u32::try_from(text.len()).unwrap_or(u32::MAX)
}
