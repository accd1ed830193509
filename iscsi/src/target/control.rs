//! Everything that is not a command: pings, text, task management, logout, rejects, shutdown.

use super::connection::{Connection, Phase};
use super::receive::{Incoming, discard};
use super::transmit::{Control, Outgoing};
use super::{
    AbortScope, Event, Fatal, MAX_CONTROL_BYTES, MAX_CONTROL_QUEUE, MAX_FUNCTIONS, MAX_REJECTS,
    TaskManagement,
};
use crate::discovery::{Directory, send_targets};
use crate::params::{Negotiation, Phase as KeyPhase};
use crate::pdu::async_msg::{AsyncEvent, AsyncMessage};
use crate::pdu::command::join_sense;
use crate::pdu::login::LoginResponse;
use crate::pdu::logout::{LogoutOutcome, LogoutReason, LogoutRequest, LogoutResponse};
use crate::pdu::nop::{NopIn, NopOut};
use crate::pdu::reject::{Reject, RejectReason};
use crate::pdu::task_mgmt::{Function, FunctionResponse, TaskManagementRequest, TaskManagementResponse};
use crate::pdu::text::{TextRequest, TextResponse};
use crate::pdu::{Bhs, Itt, Lun, ResponseNumbers, Ttt};
use crate::text::{Pairs, TextBuilder, TextCollector};
use alloc::vec::Vec;

/// Task management functions that the device server is working on.
#[derive(Debug, Default)]
pub(super) struct Functions(Vec<Itt>);

/// A text exchange that takes several PDUs.
#[derive(Debug)]
pub(super) struct TextExchange {
    ttt: Ttt,
    collector: TextCollector,
    /// What did not fit into the PDUs sent so far.
    rest: Vec<u8>,
}

impl Connection {
    /// A task management function is done. Ignored when it is unknown.
    pub fn task_management_done(&mut self, itt: Itt, response: FunctionResponse) {
        let Some(place) = self.functions.0.iter().position(|open| *open == itt) else { return };
        self.functions.0.swap_remove(place);
        self.answer_function(itt, response);
    }

    /// Asks the initiator to log out within so many seconds; the connection is over after that
    /// ([`handle_timeout`](Self::handle_timeout) says so). A login is refused.
    pub fn shutdown(&mut self, within_s: u16, now_ns: u64) {
        self.now_ns = now_ns;
        let limit_ns = u64::from(within_s) * 1_000_000_000;
        self.close_deadline_ns = Some(now_ns.saturating_add(limit_ns));
        self.refuse_service();
        self.send_async(AsyncEvent::LogoutRequested { within_s }, [0; 8], &[]);
    }

    /// Tells the initiator that its session ends now; the connection closes after that. In a login nothing is
    /// sent, and the caller closes at once.
    pub fn drop_session(&mut self) {
        let event = AsyncEvent::SessionDropped { time2wait_s: 0, time2retain_s: 0 };
        self.send_async(event, [0; 8], &[]);
        if let Some(Outgoing::Control(control)) = self.queue.back_mut() {
            control.close_after = true;
        }
        self.phase = Phase::Ended;
    }

    /// Reports something that happened to a logical unit, with its sense data.
    pub fn send_scsi_event(&mut self, lun: Lun, sense: &[u8]) {
        self.send_async(AsyncEvent::Scsi, lun, sense);
    }

    fn send_async(&mut self, event: AsyncEvent, lun: Lun, sense: &[u8]) {
        if let Phase::FullFeature(_) = self.phase {
            let message = AsyncMessage { event, lun, numbers: ResponseNumbers::default(), data_bytes: 0 };
            self.queue_control(Control::with_data(message.build(), join_sense(sense)));
        }
    }

    pub(super) fn handle_nop_out(&mut self, bhs: &Bhs, segment: &[u8]) -> Result<(), Fatal> {
        let Ok(ping) = NopOut::parse(bhs) else { return Err(Fatal::Malformed) };
        // Without a tag it is an answer, or only carries ExpStatSN.
        if ping.itt == Itt::RESERVED {
            return Ok(());
        }
        if ping.ttt != Ttt::RESERVED {
            return self.reject(bhs, RejectReason::InvalidPduField).map(|_| ());
        }
        let room = usize::try_from(self.parameters.initiator_segment_bytes).unwrap_or(usize::MAX);
        let data = segment.get(..room).unwrap_or(segment);
        let answer = NopIn {
            lun: ping.lun,
            itt: ping.itt,
            ttt: Ttt::RESERVED,
            numbers: ResponseNumbers::default(),
            data_bytes: 0,
        };
        // The ping is repeated from memory of its own: the caller's goes on to the next PDU.
        self.queue_control(Control::with_data(answer.build(), data.to_vec()));
        Ok(())
    }

    pub(super) fn handle_text(
        &mut self,
        directory: &dyn Directory,
        bhs: &Bhs,
        segment: &[u8],
    ) -> Result<(), Fatal> {
        let Ok(request) = TextRequest::parse(bhs) else {
            return self.reject(bhs, RejectReason::InvalidPduField).map(|_| ());
        };
        let mut exchange = match (self.text.take(), request.ttt) {
            // A new exchange ends the one before it.
            (_, Ttt::RESERVED) => {
                TextExchange { ttt: self.new_tag(), collector: TextCollector::default(), rest: Vec::new() }
            }
            (Some(exchange), ttt) if exchange.ttt == ttt => exchange,
            _ => return self.reject(bhs, RejectReason::ProtocolError).map(|_| ()),
        };
        if exchange.collector.push(segment).is_err() {
            return self.reject(bhs, RejectReason::LongOperation).map(|_| ());
        }
        if request.is_continued {
            self.send_text(&request, exchange);
            return Ok(());
        }
        let text = exchange.collector.take();
        if exchange.rest.is_empty() {
            match self.answer_text(directory, &text) {
                Ok(answer) => exchange.rest = answer,
                Err(reason) => return self.reject(bhs, reason).map(|_| ()),
            }
        } else if !text.is_empty() {
            return self.reject(bhs, RejectReason::ProtocolError).map(|_| ());
        }
        self.send_text(&request, exchange);
        Ok(())
    }

    fn answer_text(&mut self, directory: &dyn Directory, text: &[u8]) -> Result<Vec<u8>, RejectReason> {
        let pairs = Pairs::parse(text).map_err(|_| RejectReason::ProtocolError)?;
        let Some(session) = self.session() else { return Err(RejectReason::ProtocolError) };
        let kind = session.kind();
        let mut targets = match pairs.get("SendTargets") {
            Some(value) => {
                let scope = (kind, session.target.as_ref());
                send_targets(directory, &session.initiator, scope, value)
                    .ok_or(RejectReason::ProtocolError)?
            }
            None => Vec::new(),
        };
        let mut out = TextBuilder::new();
        let mut negotiation = Negotiation::resume(self.settings.offer, self.parameters);
        negotiation
            .answer(&pairs, KeyPhase::FullFeature, kind, &mut out)
            .map_err(|_| RejectReason::NegotiationReset)?;
        self.parameters = negotiation.agreed();
        targets.append(&mut out.into_bytes());
        Ok(targets)
    }

    /// Sends as much of the answer as fits one PDU; the initiator asks for the rest.
    fn send_text(&mut self, request: &TextRequest, mut exchange: TextExchange) {
        let room = usize::try_from(self.parameters.initiator_segment_bytes).unwrap_or(usize::MAX);
        let later = if exchange.rest.len() > room { exchange.rest.split_off(room) } else { Vec::new() };
        let part = core::mem::replace(&mut exchange.rest, later);
        let is_continued = !exchange.rest.is_empty();
        let is_final = request.is_final && !is_continued && !request.is_continued;
        let response = TextResponse {
            is_final,
            is_continued,
            lun: request.lun,
            itt: request.itt,
            ttt: if is_final { Ttt::RESERVED } else { exchange.ttt },
            numbers: ResponseNumbers::default(),
            data_bytes: 0,
        };
        self.queue_control(Control::with_data(response.build(), part));
        self.text = (!is_final).then_some(exchange);
    }

    pub(super) fn handle_logout(&mut self, bhs: &Bhs) -> Result<Incoming, Fatal> {
        let Ok(request) = LogoutRequest::parse(bhs) else {
            return self.reject(bhs, RejectReason::InvalidPduField);
        };
        let is_own = self.session().is_some_and(|session| session.cid == request.cid);
        let outcome = match request.reason {
            LogoutReason::CloseSession => LogoutOutcome::Closed,
            LogoutReason::CloseConnection if is_own => LogoutOutcome::Closed,
            LogoutReason::CloseConnection => LogoutOutcome::CidNotFound,
            LogoutReason::RemoveForRecovery => LogoutOutcome::RecoveryNotSupported,
        };
        let response = LogoutResponse {
            outcome,
            itt: request.itt,
            numbers: ResponseNumbers::default(),
            time2wait_s: u16::try_from(self.parameters.time2wait_s).unwrap_or(u16::MAX),
            time2retain_s: 0,
        };
        let closes = outcome == LogoutOutcome::Closed;
        if closes {
            let aborted = self.abort_tasks(AbortScope::All);
            self.events.push_back(Event::LoggedOut { aborted });
            self.phase = Phase::Ended;
        }
        self.queue_control(Control { close_after: closes, ..Control::numbered(response.build()) });
        Ok(discard(bhs))
    }

    pub(super) fn handle_task_management(&mut self, bhs: &Bhs) -> Result<Incoming, Fatal> {
        let Ok(request) = TaskManagementRequest::parse(bhs) else {
            return self.reject(bhs, RejectReason::InvalidPduField);
        };
        // Before anything is aborted, since the caller would never hear of it.
        if self.functions.0.len() >= MAX_FUNCTIONS || self.functions.0.contains(&request.itt) {
            self.answer_function(request.itt, FunctionResponse::Rejected);
            return Ok(discard(bhs));
        }
        let aborted = match request.function {
            Function::AbortTask => match self.abort_one(&request) {
                Some(aborted) => aborted,
                None => {
                    self.answer_function(request.itt, FunctionResponse::TaskDoesNotExist);
                    return Ok(discard(bhs));
                }
            },
            Function::ClearAca | Function::TaskReassign => {
                self.answer_function(request.itt, FunctionResponse::NotSupported);
                return Ok(discard(bhs));
            }
            Function::AbortTaskSet | Function::ClearTaskSet | Function::LogicalUnitReset => {
                self.abort_tasks(AbortScope::LogicalUnit(request.lun))
            }
            Function::TargetWarmReset | Function::TargetColdReset => self.abort_tasks(AbortScope::All),
        };
        self.functions.0.push(request.itt);
        self.events.push_back(Event::TaskManagement(TaskManagement {
            itt: request.itt,
            function: request.function,
            lun: request.lun,
            aborted,
        }));
        Ok(discard(bhs))
    }

    /// Forgets one task, if it is there and on the logical unit named.
    fn abort_one(&mut self, request: &TaskManagementRequest) -> Option<Vec<super::TaskId>> {
        let id = self.tasks.find(request.referenced)?;
        let task = self.tasks.get(id)?;
        if task.lun != request.lun || task.cmd_sn != request.ref_cmd_sn && !is_immediate(task) {
            return None;
        }
        self.tasks.remove(id);
        Some(Vec::from([id]))
    }

    fn answer_function(&mut self, itt: Itt, response: FunctionResponse) {
        let response = TaskManagementResponse { response, itt, numbers: ResponseNumbers::default() };
        self.queue_control(Control::numbered(response.build()));
    }

    /// Rejects a PDU; its data segment belongs to nothing.
    pub(super) fn reject(&mut self, bhs: &Bhs, reason: RejectReason) -> Result<Incoming, Fatal> {
        self.rejects += 1;
        if self.rejects > MAX_REJECTS {
            return Err(Fatal::TooManyRejects);
        }
        let reject = Reject { reason, numbers: ResponseNumbers::default(), data_sn: 0, data_bytes: 0 };
        self.queue_control(Control::with_data(reject.build(), bhs.0.to_vec()));
        Ok(discard(bhs))
    }

    /// Pings an initiator that has been silent, and gives up one that does not answer.
    pub(super) fn ping(&mut self) -> Result<(), Fatal> {
        if self.ping_deadline() > self.now_ns {
            return Ok(());
        }
        if self.pinged_ns.is_some() {
            return Err(Fatal::PingTimeout);
        }
        self.pinged_ns = Some(self.now_ns);
        let ping = NopIn {
            lun: [0; 8],
            itt: Itt::RESERVED,
            ttt: self.new_tag(),
            numbers: ResponseNumbers::default(),
            data_bytes: 0,
        };
        self.queue_control(Control { takes_number: false, ..Control::numbered(ping.build()) });
        Ok(())
    }

    pub(super) fn ping_deadline(&self) -> u64 {
        match self.pinged_ns {
            Some(pinged_ns) => pinged_ns.saturating_add(self.settings.ping_timeout_ns),
            None => self.heard_ns.saturating_add(self.settings.ping_interval_ns),
        }
    }

    pub(super) fn queue_login_response(&mut self, response: LoginResponse, text: Vec<u8>) {
        self.queue_control(Control { in_login: true, ..Control::with_data(response.build(), text) });
    }

    pub(super) fn queue_control(&mut self, control: Control) {
        self.control_count += 1;
        self.control_bytes += control.data.len();
        self.queue.push_back(Outgoing::Control(control));
    }

    pub(super) fn check_flood(&self) -> Result<(), Fatal> {
        let is_flooded =
            self.control_count > 2 * MAX_CONTROL_QUEUE || self.control_bytes > 2 * MAX_CONTROL_BYTES;
        if is_flooded { Err(Fatal::Flooded) } else { Ok(()) }
    }

    fn new_tag(&mut self) -> Ttt {
        self.next_tag = self.next_tag.wrapping_add(1) & 0x7fff_ffff;
        Ttt(self.next_tag)
    }
}

fn is_immediate(task: &super::tasks::Task) -> bool {
    task.immediate == crate::pdu::bhs::Immediate::Yes
}
