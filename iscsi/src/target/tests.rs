//! A scripted initiator drives the connection, PDU by PDU.

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

// ---- login ----

#[test]
fn a_login_without_authentication_goes_through_both_stages() {
    let mut host = Initiator::new(Access::Open);
    let text = format!("InitiatorName={INITIATOR} TargetName={TARGET} AuthMethod=CHAP,None");
    let (response, text) = host.login(Stage::Security, Some(Stage::Operational), &text).unwrap();
    assert_eq!(response.stage.next, Some(Stage::Operational));
    assert_eq!(text, "TargetPortalGroupTag=1\0AuthMethod=None\0");
    let keys = "HeaderDigest=CRC32C DataDigest=None InitialR2T=No MaxRecvDataSegmentLength=65536";
    assert!(host.login(Stage::Operational, Some(Stage::FullFeature), keys).is_none());
    assert!(!host.target.wants_input());
    let Some(Event::LoggedIn(login)) = host.target.poll_event() else { panic!() };
    assert_eq!(login.parameters.initiator_segment_bytes, 65_536);
    assert_eq!((login.isid, login.tsih), (Isid([0x40, 0, 0, 0, 0, 1]), Tsih(0)));
    host.target.accept_login(Tsih(9));
    let transmit = host.transmit().unwrap();
    assert!(!transmit.header_digest, "digests begin after the login");
    host.target.accept_login(Tsih(9));
    assert!(host.transmit().is_none());
    let layout = host.target.handle_bhs(&Bhs::new(Opcode::NopOut).0, 0).unwrap();
    assert!(layout.header_digest && !layout.data_digest);
}

#[test]
fn a_refused_login_closes_the_connection() {
    for (text, status) in [
        ("TargetName=iqn.2026-01.com.example:array", LoginStatus::MISSING_PARAMETER),
        ("InitiatorName=iqn.2026-01.com.example:host", LoginStatus::MISSING_PARAMETER),
        ("InitiatorName=iqn.x TargetName=iqn.2026-01.com.example:array", LoginStatus::AUTHORIZATION_FAILURE),
        ("InitiatorName=iqn.2026-01.com.example:host TargetName=iqn.no", LoginStatus::NOT_FOUND),
        (
            "InitiatorName=iqn.2026-01.com.example:host SessionType=Odd",
            LoginStatus::SESSION_TYPE_NOT_SUPPORTED,
        ),
        ("InitiatorName=me TargetName=iqn.no", LoginStatus::INITIATOR_ERROR),
        ("nonsense", LoginStatus::INITIATOR_ERROR),
    ] {
        let mut host = Initiator::new(Access::Open);
        let (response, _) = host.login(Stage::Security, None, text).unwrap();
        assert_eq!(response.status, status, "{text}");
        assert_eq!(host.target.handle_bhs(&[0; 48], 0), Err(Fatal::Ended));
    }
}

#[test]
fn the_caller_may_refuse_what_is_agreed() {
    let mut host = Initiator::new(Access::Open);
    let text = format!("InitiatorName={INITIATOR} TargetName={TARGET}");
    assert!(host.login(Stage::Operational, Some(Stage::FullFeature), &text).is_none());
    host.target.refuse_login(LoginStatus::OUT_OF_RESOURCES);
    assert_eq!(host.login_response().unwrap().0.status, LoginStatus::OUT_OF_RESOURCES);
    assert!(host.target.session().is_none());
}

#[test]
fn the_security_stage_cannot_be_skipped() {
    let mut host = Initiator::new(chap());
    let text = format!("InitiatorName={INITIATOR} TargetName={TARGET}");
    let (response, _) = host.login(Stage::Operational, Some(Stage::FullFeature), &text).unwrap();
    assert_eq!(response.status, LoginStatus::AUTHENTICATION_FAILURE);
    for text in ["AuthMethod=None", ""] {
        let mut host = Initiator::new(chap());
        let text = format!("InitiatorName={INITIATOR} TargetName={TARGET} {text}");
        let (response, _) = host.login(Stage::Security, Some(Stage::FullFeature), &text).unwrap();
        assert_eq!(response.status, LoginStatus::AUTHENTICATION_FAILURE);
    }
}

/// Goes as far as the challenge: algorithm, identifier and challenge.
fn challenged(host: &mut Initiator, algorithms: &str) -> (Algorithm, u8, Vec<u8>) {
    let text = format!("InitiatorName={INITIATOR} TargetName={TARGET} AuthMethod=CHAP,None");
    let (response, text) = host.login(Stage::Security, Some(Stage::Operational), &text).unwrap();
    assert_eq!(response.stage.next, None);
    assert!(text.contains("AuthMethod=CHAP\0"));
    let (_, text) = host.login(Stage::Security, None, &format!("CHAP_A={algorithms}")).unwrap();
    let pairs = Pairs::parse(text.as_bytes()).unwrap();
    let mut bytes = [0; 64];
    let challenge = decode_binary(pairs.get("CHAP_C").unwrap(), &mut bytes).unwrap().to_vec();
    let algorithm = Algorithm::from_number(pairs.get("CHAP_A").unwrap()).unwrap();
    (algorithm, pairs.get("CHAP_I").unwrap().parse().unwrap(), challenge)
}

#[test]
fn chap_lets_in_who_knows_the_secret_and_the_target_proves_itself_in_turn() {
    for (algorithms, chosen) in [("5", Algorithm::Md5), ("6,7,5", Algorithm::Sha256)] {
        let mut host = Initiator::new(chap());
        let (algorithm, identifier, challenge) = challenged(&mut host, algorithms);
        assert_eq!(algorithm, chosen);
        let proof = algorithm.respond(identifier, &secret("secret of the host"), &challenge);
        let text =
            format!("CHAP_N=host CHAP_R={} CHAP_I=17 CHAP_C=0b{}", Hex(proof.as_bytes()), "TWFu".repeat(6));
        let (response, text) = host.login(Stage::Security, Some(Stage::Operational), &text).unwrap();
        assert_eq!(response.stage.next, Some(Stage::Operational));
        let pairs = Pairs::parse(text.as_bytes()).unwrap();
        let expected = algorithm.respond(17, &secret("secret of the array"), "Man".repeat(6).as_bytes());
        assert_eq!(pairs.get("CHAP_N"), Some("array"));
        assert!(expected.matches(pairs.get("CHAP_R").unwrap()));
        assert!(host.login(Stage::Operational, Some(Stage::FullFeature), "").is_none());
        assert!(matches!(host.target.poll_event(), Some(Event::LoggedIn(_))));
    }
}

#[test]
fn chap_refuses_wrong_names_wrong_proofs_and_reflected_challenges_alike() {
    for case in ["name", "proof", "long", "missing", "reflected"] {
        let mut host = Initiator::new(chap());
        let (algorithm, identifier, challenge) = challenged(&mut host, "5");
        let proof = algorithm.respond(identifier, &secret("secret of the host"), &challenge);
        let right = format!("{}", Hex(proof.as_bytes()));
        let text = match case {
            "name" => format!("CHAP_N=guest CHAP_R={right}"),
            "proof" => format!("CHAP_N=host CHAP_R={}", right.replace(['0', '1', '2', '3'], "4")),
            "long" => format!("CHAP_N=host CHAP_R=0b{}", "AAAA".repeat(1500)),
            "missing" => "CHAP_N=host".into(),
            _ => format!("CHAP_N=host CHAP_R={right} CHAP_I={identifier} CHAP_C={}", Hex(&challenge)),
        };
        let (response, text) = host.login(Stage::Security, Some(Stage::FullFeature), &text).unwrap();
        assert_eq!(response.status, LoginStatus::AUTHENTICATION_FAILURE, "{case}");
        assert_eq!(text, "");
        assert!(host.target.poll_event().is_none());
    }
    let mut host = Initiator::new(chap());
    let text = format!("InitiatorName={INITIATOR} TargetName={TARGET} AuthMethod=CHAP");
    host.login(Stage::Security, None, &text).unwrap();
    let (response, _) = host.login(Stage::Security, None, "CHAP_A=6").unwrap();
    assert_eq!(response.status, LoginStatus::AUTHENTICATION_FAILURE);
}

#[test]
fn a_login_ends_after_so_many_exchanges_and_after_its_time() {
    let mut host = Initiator::new(Access::Open);
    let text = format!("InitiatorName={INITIATOR} TargetName={TARGET}");
    host.login(Stage::Security, None, &text).unwrap();
    let refused = (0..40).find_map(|count| {
        let (response, _) = host.login(Stage::Security, None, "")?;
        (response.status != LoginStatus::SUCCESS).then_some(count)
    });
    assert_eq!(refused, Some(15));
    let mut host = Initiator::new(Access::Open);
    assert_eq!(host.target.next_deadline(), Some(15 * SECOND));
    assert_eq!(host.target.handle_timeout(15 * SECOND - 1), Ok(()));
    assert_eq!(host.target.handle_timeout(15 * SECOND), Err(Fatal::LoginTimeout));
}

#[test]
fn a_long_login_answer_is_continued_when_the_initiator_takes_little() {
    let mut host = Initiator::new(Access::Open);
    let keys: String = (0..40).map(|number| format!("X-com.example.{number}=1 ")).collect();
    let first = format!("InitiatorName={INITIATOR} TargetName={TARGET} MaxRecvDataSegmentLength=512 {keys}");
    let (response, mut text) = host.login(Stage::Operational, Some(Stage::FullFeature), &first).unwrap();
    assert!(response.stage.is_continued);
    while let Some((response, part)) = host.login(Stage::Operational, Some(Stage::FullFeature), "") {
        assert!(response.stage.is_continued && part.len() <= 512);
        text.push_str(&part);
    }
    host.target.accept_login(Tsih(1));
    text.push_str(&host.login_response().unwrap().1);
    assert!(text.contains("X-com.example.39=NotUnderstood\0"));
    assert_eq!(text.matches("NotUnderstood").count(), 40);
}

// ---- discovery and text ----

fn text_request(host: &mut Initiator, ttt: Ttt, text: &[u8]) -> Option<(TextResponse, Vec<u8>)> {
    let request = TextRequest {
        immediate: Immediate::No,
        is_final: true,
        is_continued: false,
        lun: [0; 8],
        itt: Itt(77),
        ttt,
        numbers: host.numbers(Immediate::No),
        data_bytes: 0,
    };
    host.send(request.build(), &[], text).unwrap();
    let transmit = host.transmit()?;
    let text = match transmit.data {
        Source::Owned(text) => text,
        Source::None | Source::Task { .. } => Vec::new(),
    };
    Some((TextResponse::parse(&Bhs(transmit.bhs)).ok()?, text))
}

#[test]
fn discovery_lists_all_targets_over_as_many_pdus_as_it_takes() {
    let mut host = Initiator::new(Access::Open);
    host.directory.targets = 300;
    host.log_in_to("", "MaxRecvDataSegmentLength=512");
    assert_eq!(host.target.session().unwrap().target, None);
    let (mut response, mut text) = text_request(&mut host, Ttt::RESERVED, b"SendTargets=All\0").unwrap();
    while !response.is_final {
        assert!(response.is_continued);
        let (next, part) = text_request(&mut host, response.ttt, b"").unwrap();
        assert!(part.len() <= 512);
        text.extend_from_slice(&part);
        response = next;
    }
    assert_eq!(response.ttt, Ttt::RESERVED);
    let text = String::from_utf8(text).unwrap();
    assert_eq!(text.matches("TargetAddress=192.0.2.1:3260,1\0").count(), 300);
    let command = host.command(Direction::None, 0);
    assert_eq!(host.send(command.build(), &[], &[]), Ok(Incoming::Nothing));
    let reject = Reject::parse(&Bhs(host.transmit().unwrap().bhs)).unwrap();
    assert_eq!(reject.reason, RejectReason::CommandNotSupported);
}

#[test]
fn a_normal_session_shows_its_own_target_only() {
    let mut host = Initiator::logged_in("");
    host.directory.targets = 3;
    let (_, text) = text_request(&mut host, Ttt::RESERVED, b"SendTargets=\0").unwrap();
    assert_eq!(text, format!("TargetName={TARGET}\0TargetAddress=192.0.2.1:3260,1\0").as_bytes());
    assert!(text_request(&mut host, Ttt::RESERVED, b"SendTargets=All\0").is_none(), "rejected");
    assert!(text_request(&mut host, Ttt(999), b"").is_none(), "no such exchange");
}

// ---- commands ----

#[test]
fn a_read_is_split_at_segments_and_bursts_and_ends_with_its_status() {
    let mut host = Initiator::logged_in("MaxRecvDataSegmentLength=4096 MaxBurstLength=8192");
    let task = host.read(20_000);
    host.target.send_data_in(task, 20_000);
    let mut seen = Vec::new();
    while let Some(transmit) = host.transmit() {
        let data = DataIn::parse(&Bhs(transmit.bhs)).unwrap();
        let (offset, length) = (data.buffer_offset, data.data_bytes);
        assert_eq!(transmit.data, Source::Task { task, offset, length });
        assert_eq!(transmit.completes.is_some(), data.status.is_some());
        seen.push((data.data_sn, offset, length, data.is_final, data.status.is_some()));
    }
    assert_eq!(
        seen,
        [
            (0, 0, 4096, false, false),
            (1, 4096, 4096, true, false),
            (2, 8192, 4096, false, false),
            (3, 12_288, 4096, true, false),
            (4, 16_384, 3616, true, true),
        ]
    );
    assert!(!host.target.is_alive(task));
}

#[test]
fn residuals_say_what_a_read_did_not_or_could_not_deliver() {
    for (expected, moves, residual, sent) in [
        (512, 512, Residual::None, 512),
        (1024, 512, Residual::Underflow(512), 512),
        (512, 1024, Residual::Overflow(512), 512),
    ] {
        let mut host = Initiator::logged_in("");
        let task = host.read(expected);
        host.target.send_data_in(task, moves);
        let data = DataIn::parse(&Bhs(host.transmit().unwrap().bhs)).unwrap();
        assert_eq!(data.status, Some(DataInStatus { status: 0, residual }));
        assert_eq!(data.data_bytes, sent);
    }
    let mut host = Initiator::logged_in("");
    let task = host.read(0);
    host.target.send_data_in(task, 512);
    assert_eq!(host.status().0.residual, Residual::Overflow(512));
    let task = host.read(96);
    host.target.send_bytes_in(task, vec![1; 36], 36);
    let transmit = host.transmit().unwrap();
    assert_eq!(transmit.data, Source::Owned(vec![1; 36]));
    let status = DataIn::parse(&Bhs(transmit.bhs)).unwrap().status.unwrap();
    assert_eq!(status.residual, Residual::Underflow(60));
    let command = host.command(Direction::Write, 1024);
    let task = host.start(&command, &[0; 1024]);
    assert_eq!(host.target.solicit(task, 512), Progress::More);
    assert_eq!(host.target.payload_received(task, 1024), Progress::Complete { received: 1024 });
    host.target.send_status(task, 0, &[], 512);
    assert_eq!(host.status().0.residual, Residual::Underflow(512));
}

#[test]
fn immediate_data_may_be_all_there_is() {
    let mut host = Initiator::logged_in("");
    let command = host.command(Direction::Write, 512);
    let task = host.start(&command, &[0; 512]);
    assert_eq!(host.target.payload_received(task, 512), Progress::More, "not solicited yet");
    assert_eq!(host.target.solicit(task, 512), Progress::Complete { received: 512 });
    assert_eq!(host.target.solicit(task, 512), Progress::More, "said once");
    host.target.send_status(task, 0, &[], 512);
    let transmit = host.transmit().unwrap();
    assert_eq!(transmit.completes, Some(task));
    assert!(host.transmit().is_none());
}

#[test]
fn a_write_takes_immediate_then_unsolicited_then_solicited_data() {
    let keys = "InitialR2T=No FirstBurstLength=2048 MaxBurstLength=4096 MaxOutstandingR2T=2";
    let mut host = Initiator::logged_in(keys);
    let command = ScsiCommand { is_final: false, ..host.command(Direction::Write, 16_384) };
    let task = host.start(&command, &[0; 1024]);
    assert_eq!(host.target.solicit(task, 16_384), Progress::More);
    assert!(host.transmit().is_none(), "unsolicited data comes first");
    assert_eq!(host.target.payload_received(task, 1024), Progress::More);
    let incoming = host.data_out(command.itt, Ttt::RESERVED, (0, 1024, 1024), true);
    assert_eq!(incoming, Incoming::DataOut { task, offset: 1024, length: 1024 });
    host.target.payload_received(task, 1024);
    let mut r2ts: Vec<_> = vec![host.r2t(), host.r2t()];
    assert!(host.transmit().is_none(), "two at a time");
    let mut count: u32 = 0;
    let mut progress = Progress::More;
    while let Some(r2t) = (!r2ts.is_empty()).then(|| r2ts.remove(0)) {
        assert_eq!((r2t.r2t_sn, r2t.buffer_offset), (count, 2048 + 4096 * count));
        assert_eq!(r2t.desired_length, if count < 3 { 4096 } else { 2048 });
        assert_eq!(progress, Progress::More);
        let half = r2t.desired_length / 2;
        host.data_out(command.itt, r2t.ttt, (0, r2t.buffer_offset, half), false);
        assert_eq!(host.target.payload_received(task, half), Progress::More);
        host.data_out(command.itt, r2t.ttt, (1, r2t.buffer_offset + half, half), true);
        progress = host.target.payload_received(task, half);
        r2ts.extend(host.transmit().map(|next| ReadyToTransfer::parse(&Bhs(next.bhs)).unwrap()));
        count += 1;
    }
    assert_eq!((count, progress), (4, Progress::Complete { received: 16_384 }));
    host.target.send_status(task, 0, &[], 16_384);
    let (response, _) = host.status();
    assert_eq!((response.residual, response.exp_data_sn), (Residual::None, 4));
}

#[test]
fn a_write_that_needs_little_still_waits_for_all_that_was_promised() {
    let mut host = Initiator::logged_in("InitialR2T=No FirstBurstLength=2048");
    let command = ScsiCommand { is_final: false, ..host.command(Direction::Write, 4096) };
    let task = host.start(&command, &[0; 512]);
    assert_eq!(host.target.solicit(task, 512), Progress::More);
    assert_eq!(host.target.payload_received(task, 512), Progress::More);
    host.data_out(command.itt, Ttt::RESERVED, (0, 512, 512), false);
    assert_eq!(host.target.payload_received(task, 512), Progress::More);
    host.data_out(command.itt, Ttt::RESERVED, (1, 1024, 0), true);
    assert_eq!(host.target.payload_received(task, 0), Progress::Complete { received: 1024 });
    assert!(host.transmit().is_none(), "nothing is asked for beyond what is needed");
    host.target.send_status(task, 0, &[], 512);
    assert_eq!(host.status().0.residual, Residual::Underflow(3584));
}

#[test]
fn data_out_of_order_ends_the_command_and_what_follows_is_dropped() {
    for (sn, offset, last, qualifier) in [
        (27, 0, true, (0x47, 0x05)),
        (u32::MAX, 0, true, (0x47, 0x05)),
        (0, 512, true, (0x47, 0x05)),
        (0, 0, false, (0x0c, 0x0d)),
    ] {
        let mut host = Initiator::logged_in("");
        let command = host.command(Direction::Write, 1024);
        let task = host.start(&command, &[]);
        host.target.solicit(task, 1024);
        let r2t = host.r2t();
        assert_eq!(host.data_out(command.itt, r2t.ttt, (sn, offset, 1024), last), Incoming::Discard);
        host.assert_failed(task, qualifier);
        assert_eq!(host.data_out(command.itt, r2t.ttt, (0, 0, 1024), true), Incoming::Discard);
        host.target.send_status(task, 0, &[], 1024);
        assert_eq!(host.target.payload_received(task, 1024), Progress::Dead);
        assert_eq!(host.target.solicit(task, 1024), Progress::Dead);
        assert!(host.transmit().is_none());
    }
}

#[test]
fn unsolicited_data_stays_within_what_was_agreed() {
    let mut host = Initiator::logged_in("InitialR2T=No FirstBurstLength=1024");
    let command = ScsiCommand { is_final: false, ..host.command(Direction::Write, 4096) };
    let task = host.start(&command, &[]);
    assert_eq!(host.data_out(command.itt, Ttt::RESERVED, (0, 0, 1536), true), Incoming::Discard);
    host.assert_failed(task, (0x0c, 0x0d));
    let command = host.command(Direction::Write, 4096);
    let task = host.start(&command, &[]);
    assert_eq!(host.data_out(command.itt, Ttt::RESERVED, (0, 0, 512), true), Incoming::Discard);
    host.assert_failed(task, (0x0c, 0x0c));
    // Nobody hears of a command that is wrong in its header.
    let mut host = Initiator::logged_in("InitialR2T=Yes ImmediateData=No");
    for (is_final, data) in [(false, &[][..]), (true, &[0; 512])] {
        let command = ScsiCommand { is_final, ..host.command(Direction::Write, 512) };
        assert!(!matches!(host.send(command.build(), &[], data), Ok(Incoming::Command(_))));
        let (response, sense) = host.status();
        assert_eq!((response.status, sense[12], sense[13]), (2, 0x0c, 0x0c));
    }
    let command = host.command(Direction::Bidirectional, 512);
    assert_eq!(host.send(command.build(), &[], &[]), Ok(Incoming::Nothing));
    assert_eq!(host.status().1[2], 0x05);
    assert!(host.target.poll_event().is_none());
}

#[test]
fn a_wrong_digest_of_payload_rejects_the_pdu_and_ends_the_command() {
    let mut host = Initiator::logged_in("DataDigest=CRC32C");
    let command = host.command(Direction::Write, 512);
    let task = host.start(&command, &[1; 512]);
    assert_eq!(host.target.payload_digest_error(task), Ok(()));
    let transmit = host.transmit().unwrap();
    assert!(transmit.data_digest);
    assert_eq!(Reject::parse(&Bhs(transmit.bhs)).unwrap().reason, RejectReason::DataDigestError);
    host.assert_failed(task, (0x47, 0x05));
}

#[test]
fn data_that_does_not_come_in_time_ends_the_command() {
    let mut host = Initiator::logged_in("");
    let command = host.command(Direction::Write, 512);
    let task = host.start(&command, &[]);
    host.target.solicit(task, 512);
    let _ = host.target.poll_transmit(3 * SECOND);
    host.target.heard_ns = 30 * SECOND;
    assert_eq!(host.target.next_deadline(), Some(33 * SECOND));
    assert_eq!(host.target.handle_timeout(33 * SECOND), Ok(()));
    host.assert_failed(task, (0x0c, 0x0d));
}

// ---- command window ----

#[test]
fn commands_outside_the_window_are_ignored_and_a_gap_ends_the_connection() {
    let mut host = Initiator::logged_in("");
    let first = host.cmd_sn;
    let mut wrong = host.command(Direction::Write, 512);
    for cmd_sn in [first.after(QUEUE_DEPTH), first.after(u32::MAX)] {
        wrong.numbers.cmd_sn = cmd_sn;
        assert_eq!(host.send(wrong.build(), &[], &[0; 512]), Ok(Incoming::Discard));
        assert!(host.transmit().is_none());
    }
    wrong.numbers.cmd_sn = first.after(1);
    assert_eq!(host.send(wrong.build(), &[], &[0; 512]), Err(Fatal::MissingCommand));
}

#[test]
fn the_window_closes_at_the_queue_depth_and_opens_with_each_status() {
    let mut host = Initiator::logged_in("");
    let tasks: Vec<TaskId> = (0..QUEUE_DEPTH).map(|_| host.read(512)).collect();
    let beyond = host.command(Direction::Read, 512);
    assert_eq!(host.send(beyond.build(), &[], &[]), Ok(Incoming::Nothing));
    assert!(host.transmit().is_none());
    host.target.send_data_in(tasks[3], 512);
    let data = DataIn::parse(&Bhs(host.transmit().unwrap().bhs)).unwrap();
    assert_eq!(data.numbers.max_cmd_sn, beyond.numbers.cmd_sn);
    assert_eq!(data.numbers.exp_cmd_sn, beyond.numbers.cmd_sn);
    host.start(&beyond, &[]);
    for _ in 0..MAX_IMMEDIATE {
        let command = ScsiCommand { immediate: Immediate::Yes, ..host.command(Direction::Read, 512) };
        host.start(&command, &[]);
    }
    let command = ScsiCommand { immediate: Immediate::Yes, ..host.command(Direction::Read, 512) };
    assert_eq!(host.send(command.build(), &[], &[]), Ok(Incoming::Nothing));
    let reject = Reject::parse(&Bhs(host.transmit().unwrap().bhs)).unwrap();
    assert_eq!(reject.reason, RejectReason::TooManyImmediate);
}

#[test]
fn statuses_are_numbered_in_the_order_in_which_they_leave() {
    let mut host = Initiator::logged_in("");
    let (one, two) = (host.read(512), host.read(512));
    host.target.send_status(two, 0, &[], 512);
    host.target.send_status(one, 2, &[0x70; 18], 0);
    let (first, _) = host.status();
    let (second, sense) = host.status();
    assert_eq!(second.numbers.stat_sn, first.numbers.stat_sn.next());
    assert_eq!((second.status, sense.len()), (2, 18));
}

// ---- task management, logout, pings, rejects ----

#[test]
fn an_aborted_task_is_forgotten_at_once() {
    let mut host = Initiator::logged_in("");
    let command = host.command(Direction::Read, 512);
    let task = host.start(&command, &[]);
    host.target.send_data_in(task, 512);
    let itt = host.function(Function::AbortTask, command.itt, command.numbers.cmd_sn);
    let Some(Event::TaskManagement(event)) = host.target.poll_event() else { panic!() };
    assert_eq!((event.itt, event.function, event.aborted), (itt, Function::AbortTask, vec![task]));
    assert!(!host.target.is_alive(task));
    assert!(host.transmit().is_none(), "neither data nor an answer yet");
    host.target.task_management_done(itt, FunctionResponse::Complete);
    host.target.task_management_done(itt, FunctionResponse::Complete);
    let response = TaskManagementResponse::parse(&Bhs(host.transmit().unwrap().bhs)).unwrap();
    assert_eq!((response.itt, response.response), (itt, FunctionResponse::Complete));
    assert!(host.transmit().is_none());
    host.function(Function::AbortTask, command.itt, command.numbers.cmd_sn);
    let response = TaskManagementResponse::parse(&Bhs(host.transmit().unwrap().bhs)).unwrap();
    assert_eq!(response.response, FunctionResponse::TaskDoesNotExist);
}

#[test]
fn a_reset_concerns_the_tasks_of_its_logical_unit() {
    let mut host = Initiator::logged_in("");
    let here = host.read(512);
    let elsewhere = ScsiCommand { lun: [0; 8], ..host.command(Direction::Read, 512) };
    let elsewhere = host.start(&elsewhere, &[]);
    host.function(Function::LogicalUnitReset, Itt::RESERVED, CmdSn(0));
    let Some(Event::TaskManagement(event)) = host.target.poll_event() else { panic!() };
    assert_eq!(event.aborted, [here]);
    assert!(host.target.is_alive(elsewhere));
    host.function(Function::TargetWarmReset, Itt::RESERVED, CmdSn(0));
    let Some(Event::TaskManagement(event)) = host.target.poll_event() else { panic!() };
    assert_eq!(event.aborted, [elsewhere]);
    host.function(Function::TaskReassign, Itt::RESERVED, CmdSn(0));
    let response = TaskManagementResponse::parse(&Bhs(host.transmit().unwrap().bhs)).unwrap();
    assert_eq!(response.response, FunctionResponse::NotSupported);
}

#[test]
fn a_function_too_many_is_refused_before_it_aborts_anything() {
    let mut host = Initiator::logged_in("");
    for _ in 0..MAX_FUNCTIONS {
        host.function(Function::LogicalUnitReset, Itt::RESERVED, CmdSn(0));
        assert!(matches!(host.target.poll_event(), Some(Event::TaskManagement(_))));
    }
    let task = host.read(512);
    host.function(Function::LogicalUnitReset, Itt::RESERVED, CmdSn(0));
    let response = TaskManagementResponse::parse(&Bhs(host.transmit().unwrap().bhs)).unwrap();
    assert_eq!(response.response, FunctionResponse::Rejected);
    assert!(host.target.is_alive(task) && host.target.poll_event().is_none());
}

#[test]
fn logout_answers_last_and_closes() {
    let mut host = Initiator::logged_in("");
    let task = host.read(512);
    let mut request = LogoutRequest {
        immediate: Immediate::No,
        reason: LogoutReason::CloseConnection,
        itt: Itt(50),
        cid: Cid(8),
        numbers: host.numbers(Immediate::No),
    };
    host.send(request.build(), &[], &[]).unwrap();
    let transmit = host.transmit().unwrap();
    assert!(!transmit.close_after);
    assert_eq!(LogoutResponse::parse(&Bhs(transmit.bhs)).unwrap().outcome, LogoutOutcome::CidNotFound);
    request.cid = Cid(1);
    request.numbers = host.numbers(Immediate::No);
    host.send(request.build(), &[], &[]).unwrap();
    assert_eq!(host.target.poll_event(), Some(Event::LoggedOut { aborted: vec![task] }));
    let transmit = host.transmit().unwrap();
    assert!(transmit.close_after);
    assert_eq!(LogoutResponse::parse(&Bhs(transmit.bhs)).unwrap().outcome, LogoutOutcome::Closed);
}

#[test]
fn pings_go_both_ways_and_silence_ends_the_connection() {
    let mut host = Initiator::logged_in("MaxRecvDataSegmentLength=512");
    let ping = NopOut {
        immediate: Immediate::Yes,
        lun: [0; 8],
        itt: Itt(60),
        ttt: Ttt::RESERVED,
        numbers: host.numbers(Immediate::Yes),
        data_bytes: 0,
    };
    host.send(ping.build(), &[], &[9; 600]).unwrap();
    assert_eq!(host.transmit().unwrap().data, Source::Owned(vec![9; 512]));
    assert_eq!(host.target.handle_timeout(15 * SECOND), Ok(()));
    let transmit = host.transmit().unwrap();
    let nop = NopIn::parse(&Bhs(transmit.bhs)).unwrap();
    assert_ne!(nop.ttt, Ttt::RESERVED);
    let stat_sn = nop.numbers.stat_sn;
    let answer = NopOut { itt: Itt::RESERVED, ttt: nop.ttt, ..ping };
    host.send(answer.build(), &[], &[]).unwrap();
    assert!(host.transmit().is_none());
    assert_eq!(host.target.handle_timeout(15 * SECOND), Ok(()));
    let again = NopIn::parse(&Bhs(host.transmit().unwrap().bhs)).unwrap();
    assert_eq!(again.numbers.stat_sn, stat_sn, "a ping of the target takes no status number");
    assert_eq!(host.target.next_deadline(), Some(30 * SECOND));
    assert_eq!(host.target.handle_timeout(30 * SECOND), Err(Fatal::PingTimeout));
}

#[test]
fn what_makes_no_sense_is_rejected_a_limited_number_of_times() {
    let mut host = Initiator::logged_in("");
    for _ in 0..MAX_REJECTS {
        assert_eq!(host.send(Bhs::new(Opcode::Snack), &[], &[]), Ok(Incoming::Nothing));
        let transmit = host.transmit().unwrap();
        assert_eq!(Reject::parse(&Bhs(transmit.bhs)).unwrap().reason, RejectReason::SnackReject);
        assert!(matches!(transmit.data, Source::Owned(header) if header.len() == 48));
    }
    assert_eq!(host.send(Bhs([0x1f; 48]), &[], &[]).map(|_| ()), Err(Fatal::TooManyRejects));
}

#[test]
fn an_initiator_that_does_not_read_its_answers_is_cut_off() {
    let mut host = Initiator::logged_in("");
    let ping = NopOut {
        immediate: Immediate::Yes,
        lun: [0; 8],
        itt: Itt(60),
        ttt: Ttt::RESERVED,
        numbers: host.numbers(Immediate::Yes),
        data_bytes: 0,
    };
    let mut sent = 0;
    while host.send(ping.build(), &[], &[]).is_ok() {
        sent += 1;
        assert_eq!(host.target.wants_input(), sent < MAX_CONTROL_QUEUE);
    }
    assert_eq!(sent, 2 * MAX_CONTROL_QUEUE);
}

#[test]
fn a_shutdown_asks_for_a_logout_and_then_ends() {
    let mut host = Initiator::logged_in("");
    host.target.shutdown(5, SECOND);
    let message = AsyncMessage::parse(&Bhs(host.transmit().unwrap().bhs)).unwrap();
    assert_eq!(message.event, AsyncEvent::LogoutRequested { within_s: 5 });
    assert_eq!(host.target.next_deadline(), Some(6 * SECOND));
    assert_eq!(host.target.handle_timeout(6 * SECOND), Err(Fatal::Ended));
    host.target.drop_session();
    assert!(host.transmit().unwrap().close_after);
}

#[test]
fn lengths_beyond_what_was_agreed_close_the_connection() {
    let mut host = Initiator::logged_in("");
    let mut bhs = Bhs::new(Opcode::NopOut);
    bhs.set_data_bytes(262_145);
    assert_eq!(host.target.handle_bhs(&bhs.0, 0), Err(Fatal::TooLong));
    bhs.set_data_bytes(0);
    bhs.set_ahs_words(65);
    assert_eq!(host.target.handle_bhs(&bhs.0, 0), Err(Fatal::TooLong));
}

/// Feeds one PDU and behaves as a caller does: answers what it is told of in one of the possible ways.
fn feed(host: &mut Initiator, bhs: [u8; 48], ahs: &[u8], answer: u8) -> Result<(), Fatal> {
    let layout = host.target.handle_bhs(&bhs, 0)?;
    assert!(layout.data_bytes <= 262_144 && layout.ahs_bytes <= 256);
    let length = usize::try_from(layout.data_bytes).unwrap();
    match host.target.handle_header(&host.directory, &bhs, ahs)? {
        Incoming::Nothing | Incoming::Discard => {}
        Incoming::Collect => host.target.handle_data(&host.directory, &vec![b'='; length])?,
        Incoming::DataOut { task, length, .. } => {
            if let Progress::Complete { received } = host.target.payload_received(task, length) {
                host.target.send_status(task, 0, &[], received.into());
            }
        }
        Incoming::Command(command) => match answer % 5 {
            0 => host.target.send_data_in(command.task, command.expected_length.min(1 << 20)),
            1 => host.target.send_bytes_in(command.task, vec![0; 100], 100),
            2 => host.target.send_status(command.task, 2, &[0; 18], 0),
            3 => {}
            _ => {
                host.target.solicit(command.task, 1 << 20);
                host.target.payload_received(command.task, command.immediate_bytes);
            }
        },
    }
    while let Some(event) = host.target.poll_event() {
        match event {
            Event::LoggedIn(_) => host.target.accept_login(Tsih(1)),
            Event::TaskManagement(event) => {
                host.target.task_management_done(event.itt, FunctionResponse::Complete);
            }
            Event::TransferFailed(_) | Event::LoggedOut { .. } => {}
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn whatever_text_comes_nobody_logs_in_without_the_secret(
        requests in proptest::collection::vec(
            (
                any::<bool>(),
                0..4_u8,
                proptest::collection::vec(
                    proptest::sample::select(vec![
                        "AuthMethod=None", "AuthMethod=CHAP", "AuthMethod=CHAP,None", "CHAP_A=5", "CHAP_A=7,5",
                        "CHAP_N=host", "CHAP_R=0x00", "CHAP_R=0b", "CHAP_I=1", "CHAP_C=0x1234567890",
                        "MaxBurstLength=512", "HeaderDigest=None", "InitialR2T=Maybe", "SendTargets=All",
                        "SessionType=Discovery", "X-com.example=1", "MaxRecvDataSegmentLength=512", "Key", "=",
                    ]),
                    0..6,
                ),
            ),
            1..20,
        ),
    ) {
        let mut host = Initiator::new(chap());
        let mut text = format!("InitiatorName={INITIATOR} TargetName={TARGET} ");
        for (operational, next, keys) in requests {
            text.push_str(&keys.join(" "));
            let current = if operational { Stage::Operational } else { Stage::Security };
            let next = match next {
                0 => None,
                1 if !operational => Some(Stage::Operational),
                _ => Some(Stage::FullFeature),
            };
            let answer = host.login(current, next, &text);
            prop_assert!(host.target.poll_event().is_none());
            let Some((response, answer)) = answer else { return Err(TestCaseError::fail("no answer")) };
            prop_assert!(response.stage.next.is_none() && answer.len() <= 8192);
            if response.status != LoginStatus::SUCCESS {
                break;
            }
            text.clear();
        }
    }

    #[test]
    fn any_headers_in_any_order_are_handled_without_panic_and_within_limits(
        pdus in proptest::collection::vec(
            (
                proptest::sample::select(vec![0_u8, 1, 2, 3, 4, 5, 6, 0x10, 0x40, 0x41, 0x43, 0x3f]),
                any::<[u8; 16]>(),
                proptest::collection::vec(any::<u8>(), 0..24),
                0..40_u32,
                any::<u8>(),
            ),
            1..200,
        ),
        logged_in in any::<bool>(),
    ) {
        let mut host = if logged_in { Initiator::logged_in("InitialR2T=No") } else { Initiator::new(Access::Open) };
        for (opcode, noise, ahs, length, answer) in pdus {
            let mut bhs = Bhs([0; 48]);
            for (place, byte) in bhs.0.iter_mut().skip(1).zip(noise.iter().cycle()) {
                // Small values meet each other more often than random ones.
                *place = if answer & 0x80 == 0 { byte & 3 } else { *byte };
            }
            bhs.0[0] = opcode;
            bhs.0[1] = noise[1];
            bhs.set_ahs_words(u8::try_from(ahs.len() / 4).unwrap());
            bhs.set_data_bytes(length);
            if answer & 0x40 == 0 {
                bhs.set_itt(Itt(u32::from(noise[2] & 3)));
                bhs.set_request_numbers(RequestNumbers { cmd_sn: host.cmd_sn, exp_stat_sn: StatSn(0) });
                if matches!(opcode, 0 | 1 | 2 | 4 | 6) {
                    host.cmd_sn = host.target.window.expected().next();
                    let numbers = RequestNumbers { cmd_sn: host.target.window.expected(), exp_stat_sn: StatSn(0) };
                    bhs.set_request_numbers(numbers);
                }
            }
            if feed(&mut host, bhs.0, &ahs[..ahs.len() / 4 * 4], answer).is_err() {
                break;
            }
            if answer & 1 == 0 {
                for _ in 0..8 {
                    let Some(transmit) = host.transmit() else { break };
                    prop_assert!(Bhs(transmit.bhs).opcode().is_ok());
                }
            }
            prop_assert!(host.target.control_count <= 2 * MAX_CONTROL_QUEUE + 1);
            prop_assert!(host.target.tasks.iter().count() <= 144);
        }
    }
}

/// What an initiator has promised or been asked to send for one write.
struct Sending {
    itt: Itt,
    task: TaskId,
    size: u32,
    /// Ranges still to be sent: tag, next DataSN, from, to.
    owed: Vec<(Ttt, u32, u32, u32)>,
    arrived: u32,
    completed: u32,
}

impl Initiator {
    /// Begins a write as the agreed parameters allow it, with as much unasked data as they allow.
    fn begin_write(&mut self, size: u32) -> Sending {
        let agreed = self.target.parameters;
        let first = agreed.first_burst_bytes.min(size);
        let room = first.min(agreed.target_segment_bytes);
        let immediate = if agreed.immediate_data { room } else { 0 };
        let more = !agreed.initial_r2t && immediate < first;
        let command = ScsiCommand { is_final: !more, ..self.command(Direction::Write, size) };
        let task = self.start(&command, &vec![0; usize::try_from(immediate).unwrap()]);
        let owed = if more { vec![(Ttt::RESERVED, 0, immediate, first)] } else { Vec::new() };
        let mut sending = Sending { itt: command.itt, task, size, owed, arrived: immediate, completed: 0 };
        self.note(&mut sending, |target| target.solicit(task, size));
        self.note(&mut sending, |target| target.payload_received(task, immediate));
        sending
    }

    fn note(&mut self, sending: &mut Sending, act: impl FnOnce(&mut Connection) -> Progress) {
        if let Progress::Complete { received } = act(&mut self.target) {
            assert_eq!((received, sending.arrived), (sending.size, sending.size));
            sending.completed += 1;
            self.target.send_status(sending.task, 0, &[], sending.size.into());
        }
    }

    /// Sends one Data-Out of up to `limit` bytes, if any is owed.
    fn send_owed(&mut self, sending: &mut Sending, limit: u32) {
        let Some((ttt, sn, from, to)) = sending.owed.first_mut() else { return };
        let length = limit.min(*to - *from);
        let (tag, place, last) = (*ttt, (*sn, *from, length), *from + length == *to);
        *from += length;
        *sn += 1;
        if last {
            sending.owed.remove(0);
        }
        let task = sending.task;
        assert_eq!(place.1, sending.arrived, "in order and without a hole");
        sending.arrived += length;
        let incoming = self.data_out(sending.itt, tag, place, last);
        assert_eq!(incoming, Incoming::DataOut { task, offset: place.1, length });
        self.note(sending, |target| target.payload_received(task, length));
    }
}

proptest! {
    #[test]
    fn every_write_of_a_conforming_initiator_arrives_whole_and_is_answered_once(
        keys in (any::<bool>(), any::<bool>(), 512..20_000_u32, 512..20_000_u32, 1..12_u32),
        sizes in proptest::collection::vec(0..60_000_u32, 1..6),
        steps in proptest::collection::vec((0..6_usize, 1..9_000_u32), 0..300),
    ) {
        let yes = |value| if value { "Yes" } else { "No" };
        let (initial_r2t, immediate, first, burst, r2ts) = keys;
        let text = format!(
            "InitialR2T={} ImmediateData={} FirstBurstLength={first} MaxBurstLength={burst} MaxOutstandingR2T={r2ts}",
            yes(initial_r2t), yes(immediate),
        );
        let mut host = Initiator::logged_in(&text);
        let limit = host.target.parameters.max_outstanding_r2t;
        let mut writes: Vec<Sending> = sizes.iter().map(|size| host.begin_write(*size)).collect();
        let mut answered = 0;
        // The given steps first, in their disorder; then as many orderly ones as it takes.
        let orderly = (0..writes.len()).cycle().map(|which| (which, 9000)).take(10_000);
        for (which, length) in steps.into_iter().chain(orderly) {
            if let Some(sending) = writes.get_mut(which) {
                host.send_owed(sending, length);
            } else if let Some(transmit) = host.transmit() {
                answered += receive_answer(&mut writes, &transmit, (burst, limit));
            }
            if length == 9000 {
                while let Some(transmit) = host.transmit() {
                    answered += receive_answer(&mut writes, &transmit, (burst, limit));
                }
            }
            if answered == sizes.len() {
                break;
            }
        }
        prop_assert_eq!(answered, sizes.len());
        prop_assert!(writes.iter().all(|sending| sending.completed == 1));
        prop_assert!(host.target.poll_event().is_none() && host.transmit().is_none());
    }
}

/// Takes an R2T or a status; gives 1 for a status.
fn receive_answer(writes: &mut [Sending], transmit: &Transmit, (burst, limit): (u32, u32)) -> usize {
    let bhs = Bhs(transmit.bhs);
    let sending = writes.iter_mut().find(|sending| sending.itt == bhs.itt()).unwrap();
    if let Ok(response) = ScsiResponse::parse(&bhs) {
        assert_eq!((response.status, response.residual), (0, Residual::None));
        assert!(sending.owed.is_empty());
        return 1;
    }
    let r2t = ReadyToTransfer::parse(&bhs).unwrap();
    let end = r2t.buffer_offset + r2t.desired_length;
    assert!(end <= sending.size && r2t.desired_length <= burst);
    assert!(sending.owed.iter().all(|(ttt, ..)| *ttt != Ttt::RESERVED), "unsolicited data comes first");
    sending.owed.push((r2t.ttt, 0, r2t.buffer_offset, end));
    assert!(sending.owed.len() <= usize::try_from(limit).unwrap());
    0
}
