//! What goes out. Status numbers and the command window are filled in at the last moment, in the order of the wire.

use super::connection::{Connection, Phase};
use super::tasks::{Outcome, Task, TaskId};
use crate::pdu::command::ScsiResponse;
use crate::pdu::data::{DataIn, DataInStatus};
use crate::pdu::r2t::ReadyToTransfer;
use crate::pdu::{Bhs, ResponseNumbers, Ttt};
use crate::serial::StatSn;
use alloc::vec::Vec;

/// One PDU to be sent, padded to words, with the digests it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// The header; there are no additional segments.
    pub bhs: [u8; 48],
    /// The data segment.
    pub data: Source,
    /// A header digest follows the header.
    pub header_digest: bool,
    /// A data digest follows the padded data segment; never without data.
    pub data_digest: bool,
    /// Once this is on the wire, the task is over and its buffers may go.
    pub completes: Option<TaskId>,
    /// Once this is on the wire, the connection is to be closed.
    pub close_after: bool,
}

/// Where the data segment of a PDU comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// There is none.
    None,
    /// These bytes.
    Owned(Vec<u8>),
    /// The caller's buffer of a task.
    Task {
        /// Whose buffer.
        task: TaskId,
        /// Where it begins.
        offset: u32,
        /// How long it is; never zero.
        length: u32,
    },
}

/// A PDU that waits.
#[derive(Debug)]
pub(super) enum Outgoing {
    Control(Control),
    Status(TaskId),
    DataIn(TaskId),
    R2t(TaskId),
}

/// A PDU that no task owns.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) bhs: Bhs,
    pub(super) data: Vec<u8>,
    /// It is a status: the initiator acknowledges it.
    pub(super) takes_number: bool,
    /// Digests begin after it.
    pub(super) in_login: bool,
    pub(super) close_after: bool,
}

impl Control {
    /// A PDU without data.
    pub(super) fn numbered(bhs: Bhs) -> Self {
        Self { bhs, data: Vec::new(), takes_number: true, in_login: false, close_after: false }
    }

    /// A PDU with data.
    pub(super) fn with_data(bhs: Bhs, data: Vec<u8>) -> Self {
        Self { data, ..Self::numbered(bhs) }
    }
}

impl Connection {
    /// The next PDU to be sent. `now_ns` starts the clock of an R2T.
    pub fn poll_transmit(&mut self, now_ns: u64) -> Option<Transmit> {
        self.now_ns = self.now_ns.max(now_ns);
        loop {
            let transmit = match self.queue.pop_front()? {
                Outgoing::Control(control) => Some(self.emit_control(control)),
                Outgoing::Status(task) => self.emit_status(task),
                Outgoing::DataIn(task) => self.emit_data_in(task),
                Outgoing::R2t(task) => self.emit_r2t(task),
            };
            // Entries of tasks that have been aborted give nothing.
            if transmit.is_some() {
                return transmit;
            }
        }
    }

    /// Queues R2Ts of a task, if any are due.
    pub(super) fn queue_r2t(&mut self, task: TaskId) {
        if let Some(entry) = self.tasks.get_mut(task)
            && entry.transfer.is_some()
            && !entry.r2t_queued
        {
            entry.r2t_queued = true;
            self.queue.push_back(Outgoing::R2t(task));
        }
    }

    fn emit_control(&mut self, control: Control) -> Transmit {
        let Control { mut bhs, data, takes_number, in_login, close_after } = control;
        self.control_count -= 1;
        self.control_bytes -= data.len();
        let numbers = if takes_number { self.take_numbers() } else { self.show_numbers() };
        bhs.set_response_numbers(numbers);
        bhs.set_data_bytes(u32::try_from(data.len()).unwrap_or_default());
        let source = if data.is_empty() { Source::None } else { Source::Owned(data) };
        let mut transmit = self.dress(bhs, source);
        if in_login {
            transmit.header_digest = false;
            transmit.data_digest = false;
        }
        transmit.close_after = close_after;
        transmit
    }

    fn emit_status(&mut self, id: TaskId) -> Option<Transmit> {
        let task = self.tasks.remove(id)?;
        let Task { itt, data_sn, is_announced, outcome, .. } = task;
        let (status, segment, residual) = match outcome? {
            Outcome::Status { status, segment, residual } => (status, segment, residual),
            Outcome::Data { residual, .. } => (0, Vec::new(), residual),
        };
        let response = ScsiResponse {
            itt,
            response: 0,
            status,
            residual,
            numbers: self.take_numbers(),
            exp_data_sn: data_sn,
            data_bytes: u32::try_from(segment.len()).unwrap_or_default(),
        };
        let source = if segment.is_empty() { Source::None } else { Source::Owned(segment) };
        let mut transmit = self.dress(response.build(), source);
        transmit.completes = is_announced.then_some(id);
        Some(transmit)
    }

    fn emit_data_in(&mut self, id: TaskId) -> Option<Transmit> {
        let segment_limit = self.parameters.initiator_segment_bytes;
        let burst = self.parameters.max_burst_bytes;
        let task = self.tasks.get_mut(id)?;
        let Some(Outcome::Data { bytes, owned, sent, residual }) = &mut task.outcome else { return None };
        let offset = *sent;
        // The sequence ends where the next multiple of MaxBurstLength lies.
        let burst_end = (offset - offset % burst).saturating_add(burst).min(*bytes);
        let length = segment_limit.min(burst_end - offset);
        *sent = offset + length;
        let is_last = *sent == *bytes;
        let is_final = *sent == burst_end;
        let residual = *residual;
        let source = match owned {
            None => Source::Task { task: id, offset, length },
            Some(data) => Source::Owned(cut(data, offset, length)),
        };
        let (itt, data_sn) = (task.itt, task.data_sn);
        task.data_sn = data_sn.wrapping_add(1);
        let mut completes = None;
        let (status, numbers) = if is_last {
            completes = self.tasks.remove(id).map(|_| id);
            (Some(DataInStatus { status: 0, residual }), self.take_numbers())
        } else {
            // Bursts of several reads take turns; within one nothing comes between.
            let entry = Outgoing::DataIn(id);
            if is_final {
                self.queue.push_back(entry)
            } else {
                self.queue.push_front(entry)
            }
            (None, ResponseNumbers { stat_sn: StatSn(0), ..self.show_numbers() })
        };
        let data_in = DataIn {
            is_final,
            acknowledge: false,
            status,
            // Valid only beside a transfer tag.
            lun: [0; 8],
            itt,
            ttt: Ttt::RESERVED,
            numbers,
            data_sn,
            buffer_offset: offset,
            data_bytes: length,
        };
        let mut transmit = self.dress(data_in.build(), source);
        transmit.completes = completes;
        Some(transmit)
    }

    fn emit_r2t(&mut self, id: TaskId) -> Option<Transmit> {
        let deadline_ns = self.now_ns.saturating_add(self.settings.data_timeout_ns);
        let task = self.tasks.get_mut(id)?;
        task.r2t_queued = false;
        if task.outcome.is_some() {
            return None;
        }
        let (itt, lun) = (task.itt, task.lun);
        let transfer = task.transfer.as_mut()?;
        let request = transfer.next_request(&self.parameters, id.slot())?;
        transfer.deadline_ns = Some(deadline_ns);
        task.data_sn = task.data_sn.wrapping_add(1);
        // The next one of the same task goes out behind what others have to send.
        self.queue_r2t(id);
        let r2t = ReadyToTransfer {
            lun,
            itt,
            ttt: request.ttt,
            numbers: self.show_numbers(),
            r2t_sn: request.r2t_sn,
            buffer_offset: request.offset,
            desired_length: request.length,
        };
        Some(self.dress(r2t.build(), Source::None))
    }

    fn dress(&self, bhs: Bhs, data: Source) -> Transmit {
        Transmit {
            bhs: bhs.0,
            header_digest: self.parameters.header_digest,
            data_digest: self.parameters.data_digest && data != Source::None,
            data,
            completes: None,
            close_after: false,
        }
    }

    fn take_numbers(&mut self) -> ResponseNumbers {
        let numbers = self.show_numbers();
        self.stat_sn = self.stat_sn.next();
        numbers
    }

    fn show_numbers(&mut self) -> ResponseNumbers {
        // In the login no command is open, but there is no window either before it is over.
        if let Phase::FullFeature(_) | Phase::Ended = self.phase {
            self.window.open(self.tasks.ordered());
        }
        ResponseNumbers {
            stat_sn: self.stat_sn,
            exp_cmd_sn: self.window.expected(),
            max_cmd_sn: self.window.last(),
        }
    }
}

/// One PDU's part of small data; all of it is handed over without a copy.
fn cut(data: &mut Vec<u8>, offset: u32, length: u32) -> Vec<u8> {
    let (Ok(offset), Ok(length)) = (usize::try_from(offset), usize::try_from(length)) else {
        return Vec::new();
    };
    if offset == 0 && length >= data.len() {
        return core::mem::take(data);
    }
    data.get(offset..offset + length).map(Vec::from).unwrap_or_default()
}
