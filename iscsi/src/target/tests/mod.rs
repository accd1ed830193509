//! A scripted initiator drives the connection, PDU by PDU.

mod commands;
mod control;
mod login;
mod properties;

use super::*;
use crate::chap::{Algorithm, Credentials, Hex, Identity, Secret, decode_binary};
use crate::discovery::{Access, Directory, Portal};
use crate::name::IscsiName;
use crate::pdu::ahs::Cdb;
use crate::pdu::async_msg::{AsyncEvent, AsyncMessage};
use crate::pdu::bhs::Immediate;
use crate::pdu::command::{Direction, Residual, ScsiCommand, ScsiResponse, TaskAttribute, split_sense};
use crate::pdu::data::{DataIn, DataInStatus, DataOut};
use crate::pdu::login::{LoginRequest, LoginResponse, LoginStatus, Stage, StageFlags};
use crate::pdu::logout::{LogoutOutcome, LogoutReason, LogoutRequest, LogoutResponse};
use crate::pdu::nop::{NopIn, NopOut};
use crate::pdu::r2t::ReadyToTransfer;
use crate::pdu::reject::{Reject, RejectReason};
use crate::pdu::task_mgmt::{FunctionResponse, TaskManagementRequest, TaskManagementResponse};
use crate::pdu::text::{TextRequest, TextResponse};
use crate::pdu::{Bhs, Cid, Isid, Opcode, RequestNumbers, Tsih, Ttt};
use crate::serial::{CmdSn, StatSn};
use crate::text::Pairs;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use proptest::prelude::*;

const INITIATOR: &str = "iqn.2026-01.com.example:host";
const TARGET: &str = "iqn.2026-01.com.example:array";
const LUN: Lun = [0, 1, 0, 0, 0, 0, 0, 0];
const SECOND: u64 = 1_000_000_000;

struct TestDirectory {
    access: Access,
    targets: usize,
}

impl Directory for TestDirectory {
    fn authorize(&self, initiator: &IscsiName, target: Option<&IscsiName>) -> Access {
        match target.map(IscsiName::as_str) {
            _ if initiator.as_str() != INITIATOR => Access::Denied,
            Some(TARGET) | None => self.access.clone(),
            Some(_) => Access::NotFound,
        }
    }

    fn targets(&self, _initiator: &IscsiName, out: &mut dyn FnMut(&str, &[Portal<'_>])) {
        for number in 0..self.targets {
            let name = if number == 0 { TARGET.to_string() } else { format!("{TARGET}{number}") };
            out(&name, &[Portal { address: "192.0.2.1:3260", group_tag: 1 }]);
        }
    }
}

struct Initiator {
    target: Connection,
    directory: TestDirectory,
    cmd_sn: CmdSn,
    next_itt: u32,
}

fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes()).unwrap()
}

fn identity(name: &str, text: &str) -> Identity {
    Identity { name: name.into(), secret: secret(text) }
}

fn chap() -> Access {
    let target = identity("array", "secret of the array");
    Access::Chap(Credentials::new(identity("host", "secret of the host"), Some(target)).unwrap())
}

impl Initiator {
    fn new(access: Access) -> Self {
        Self {
            target: Connection::new(Settings::default(), [7; 32], 0),
            directory: TestDirectory { access, targets: 1 },
            cmd_sn: CmdSn(u32::MAX - 2),
            next_itt: 0,
        }
    }

    /// A session in the full feature phase, with these operational keys.
    fn logged_in(keys: &str) -> Self {
        let mut initiator = Self::new(Access::Open);
        initiator.log_in_to(TARGET, keys);
        initiator
    }

    fn log_in_to(&mut self, target: &str, keys: &str) {
        let session =
            if target.is_empty() { "SessionType=Discovery".into() } else { format!("TargetName={target}") };
        let text = format!("InitiatorName={INITIATOR} {session} {keys}");
        assert!(self.login(Stage::Operational, Some(Stage::FullFeature), &text).is_none());
        let Some(Event::LoggedIn(login)) = self.target.poll_event() else { panic!("no login") };
        assert_eq!(login.initiator.as_str(), INITIATOR);
        self.target.accept_login(Tsih(5));
        let (response, _) = self.login_response().unwrap();
        assert_eq!((response.status, response.tsih), (LoginStatus::SUCCESS, Tsih(5)));
        assert_eq!(response.stage.next, Some(Stage::FullFeature));
    }

    fn send(&mut self, bhs: Bhs, ahs: &[u8], data: &[u8]) -> Result<Incoming, Fatal> {
        let mut bhs = bhs;
        bhs.set_data_bytes(u32::try_from(data.len()).unwrap());
        let layout = self.target.handle_bhs(&bhs.0, 0)?;
        assert_eq!(usize::try_from(layout.data_bytes).unwrap(), data.len());
        let incoming = self.target.handle_header(&self.directory, &bhs.0, ahs)?;
        if incoming == Incoming::Collect {
            self.target.handle_data(&self.directory, data)?;
        }
        Ok(incoming)
    }

    fn transmit(&mut self) -> Option<Transmit> {
        self.target.poll_transmit(0)
    }

    fn login(&mut self, current: Stage, next: Option<Stage>, text: &str) -> Option<(LoginResponse, String)> {
        let request = LoginRequest {
            stage: StageFlags { is_continued: false, current, next },
            version_max: 0,
            version_min: 0,
            isid: Isid([0x40, 0, 0, 0, 0, 1]),
            tsih: Tsih(0),
            itt: Itt(0),
            cid: Cid(1),
            numbers: RequestNumbers { cmd_sn: self.cmd_sn, exp_stat_sn: StatSn(0) },
            data_bytes: 0,
        };
        self.send(request.build(), &[], text.replace(' ', "\0").as_bytes()).unwrap();
        self.login_response()
    }

    fn login_response(&mut self) -> Option<(LoginResponse, String)> {
        let transmit = self.transmit()?;
        let response = LoginResponse::parse(&Bhs(transmit.bhs)).unwrap();
        assert_eq!(transmit.close_after, response.status != LoginStatus::SUCCESS);
        let text = match transmit.data {
            Source::Owned(text) => String::from_utf8(text).unwrap(),
            Source::None | Source::Task { .. } => String::new(),
        };
        Some((response, text))
    }

    fn numbers(&mut self, immediate: Immediate) -> RequestNumbers {
        let cmd_sn = match immediate {
            Immediate::Yes => self.cmd_sn,
            Immediate::No => self.cmd_sn.take(),
        };
        RequestNumbers { cmd_sn, exp_stat_sn: StatSn(0) }
    }

    fn itt(&mut self) -> Itt {
        self.next_itt += 1;
        Itt(self.next_itt)
    }

    fn command(&mut self, direction: Direction, expected_length: u32) -> ScsiCommand {
        ScsiCommand {
            immediate: Immediate::No,
            is_final: true,
            direction,
            attribute: TaskAttribute::Simple,
            lun: LUN,
            itt: self.itt(),
            expected_length,
            numbers: self.numbers(Immediate::No),
            cdb: Cdb::new([0x28; 16]),
            data_bytes: 0,
        }
    }

    fn start(&mut self, command: &ScsiCommand, data: &[u8]) -> TaskId {
        let incoming = self.send(command.build(), &[], data).unwrap();
        let Incoming::Command(started) = incoming else { panic!("{incoming:?}") };
        assert_eq!(started.itt, command.itt);
        assert_eq!(started.immediate_bytes, u32::try_from(data.len()).unwrap());
        started.task
    }

    fn read(&mut self, expected_length: u32) -> TaskId {
        let command = self.command(Direction::Read, expected_length);
        self.start(&command, &[])
    }

    fn data_out(
        &mut self,
        itt: Itt,
        ttt: Ttt,
        (sn, offset, length): (u32, u32, u32),
        last: bool,
    ) -> Incoming {
        let data = DataOut {
            is_final: last,
            lun: if ttt == Ttt::RESERVED { [0; 8] } else { LUN },
            itt,
            ttt,
            exp_stat_sn: StatSn(0),
            data_sn: sn,
            buffer_offset: offset,
            data_bytes: 0,
        };
        self.send(data.build(), &[], &vec![0; usize::try_from(length).unwrap()]).unwrap()
    }

    fn function(&mut self, function: Function, referenced: Itt, ref_cmd_sn: CmdSn) -> Itt {
        let request = TaskManagementRequest {
            immediate: Immediate::Yes,
            function,
            lun: LUN,
            itt: self.itt(),
            referenced,
            numbers: self.numbers(Immediate::Yes),
            ref_cmd_sn,
            exp_data_sn: 0,
        };
        self.send(request.build(), &[], &[]).unwrap();
        request.itt
    }

    fn status(&mut self) -> (ScsiResponse, Vec<u8>) {
        let transmit = self.transmit().unwrap();
        let sense = match &transmit.data {
            Source::Owned(data) => split_sense(data).to_vec(),
            Source::None | Source::Task { .. } => Vec::new(),
        };
        (ScsiResponse::parse(&Bhs(transmit.bhs)).unwrap(), sense)
    }

    fn r2t(&mut self) -> ReadyToTransfer {
        ReadyToTransfer::parse(&Bhs(self.transmit().unwrap().bhs)).unwrap()
    }

    fn assert_failed(&mut self, task: TaskId, qualifier: (u8, u8)) {
        assert_eq!(self.target.poll_event(), Some(Event::TransferFailed(task)));
        assert!(!self.target.is_alive(task));
        let transmit = self.transmit().unwrap();
        assert_eq!(transmit.completes, Some(task));
        let Source::Owned(data) = &transmit.data else { panic!("no sense") };
        let sense = split_sense(data);
        assert_eq!((sense[2], sense[12], sense[13]), (0x0b, qualifier.0, qualifier.1));
    }
}
