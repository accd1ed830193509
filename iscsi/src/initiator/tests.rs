//! The initiator against a scripted target, honest and hostile.

use super::*;
use crate::chap::{Credentials, Identity, Secret};
use crate::pdu::ahs::Cdb;
use crate::pdu::command::{Direction, Residual, ScsiCommand, ScsiResponse, TaskAttribute, join_sense};
use crate::pdu::data::{DataIn, DataInStatus, DataOut};
use crate::pdu::login::{LoginResponse, LoginStatus, Stage};
use crate::pdu::nop::{NopIn, NopOut};
use crate::pdu::r2t::ReadyToTransfer;
use crate::pdu::text::TextResponse;
use crate::pdu::{Bhs, Isid, Itt, Opcode, ResponseNumbers, Tsih};
use alloc::string::ToString;
use alloc::vec;
use md5::{Digest as _, Md5};
use proptest::prelude::*;

const OURS: &[u8] = b"secret of the host";
const THEIRS: &[u8] = b"secret of the array";
const T0: Duration = Duration::from_secs(100);

fn settings() -> Settings {
    let purpose = Purpose::Normal { target_name: "iqn.2026-11.example:t".to_string() };
    Settings::new("iqn.2026-11.example:i", purpose, Isid([0x80, 0, 0, 0, 0, 1]), [9; 33])
}

/// The other end: numbers its answers and remembers what came.
struct Target {
    connection: Connection,
    numbers: ResponseNumbers,
}

impl Target {
    fn new(settings: Settings) -> Self {
        let numbers = ResponseNumbers { stat_sn: StatSn(500), exp_cmd_sn: CmdSn(1), max_cmd_sn: CmdSn(32) };
        Self { connection: Connection::new(settings, T0), numbers }
    }

    fn logged_in(settings: Settings, keys: &[u8]) -> Self {
        let mut target = Self::new(settings);
        target.next();
        target.login((Stage::Security, Some(Stage::Operational)), b"AuthMethod=None\0").unwrap();
        target.next();
        target.login((Stage::Operational, Some(Stage::FullFeature)), keys).unwrap();
        assert_eq!(target.connection.poll_event(), Some(Event::LoggedIn));
        target
    }

    /// What the initiator sends next, with its text.
    fn next(&mut self) -> (Bhs, Segment) {
        let out = self.connection.poll_transmit().expect("there is something to send");
        (out.bhs, out.segment)
    }

    fn text(&mut self) -> String {
        match self.next().1 {
            Segment::Bytes(text) => String::from_utf8(text).unwrap().replace('\0', " "),
            other @ (Segment::None | Segment::Task { .. }) => panic!("no text but {other:?}"),
        }
    }

    fn give(&mut self, bhs: &Bhs, payload: &[u8]) -> Result<Payload, Error> {
        self.connection.handle_bhs(bhs)?;
        let place = self.connection.handle_header(bhs, T0)?;
        self.connection.payload_received(if matches!(place, Payload::Inline { .. }) {
            payload
        } else {
            &[]
        })?;
        Ok(place)
    }

    fn stat(&mut self) -> ResponseNumbers {
        let numbers = self.numbers;
        self.numbers.stat_sn = numbers.stat_sn.next();
        numbers
    }

    fn login(&mut self, (current, next): (Stage, Option<Stage>), text: &[u8]) -> Result<Payload, Error> {
        let response = LoginResponse {
            stage: StageFlags { is_continued: false, current, next },
            version_max: 0,
            version_active: 0,
            isid: self.connection.settings.isid,
            tsih: Tsih(1),
            itt: receive::LOGIN_ITT,
            numbers: self.stat(),
            status: LoginStatus::SUCCESS,
            data_bytes: u32::try_from(text.len()).unwrap(),
        };
        self.give(&response.build(), text)
    }

    fn command(&mut self, direction: Direction, length: u32) -> TaskId {
        let command = Command {
            lun: [0, 1, 0, 0, 0, 0, 0, 0],
            cdb: Cdb::from_slice(&[0x28; 10]).unwrap(),
            direction,
            length,
            attribute: TaskAttribute::Simple,
            timeout: Duration::from_secs(30),
        };
        self.connection.command(command, T0).expect("there is room for a command")
    }

    fn data_in(&self, id: TaskId, (data_sn, offset, bytes): (u32, u32, u32)) -> DataIn {
        DataIn {
            is_final: false,
            acknowledge: false,
            status: None,
            lun: [0; 8],
            itt: id.0,
            ttt: Ttt::RESERVED,
            numbers: self.numbers,
            data_sn,
            buffer_offset: offset,
            data_bytes: bytes,
        }
    }

    fn r2t(&self, id: TaskId, (r2t_sn, offset, bytes): (u32, u32, u32)) -> Bhs {
        ReadyToTransfer {
            lun: [0; 8],
            itt: id.0,
            ttt: Ttt(7 + r2t_sn),
            numbers: self.numbers,
            r2t_sn,
            buffer_offset: offset,
            desired_length: bytes,
        }
        .build()
    }

    fn response(
        &mut self,
        id: TaskId,
        status: u8,
        residual: Residual,
        sense: &[u8],
    ) -> Result<Payload, Error> {
        let segment = join_sense(sense);
        let response = ScsiResponse {
            itt: id.0,
            response: 0,
            status,
            residual,
            numbers: self.stat(),
            exp_data_sn: 0,
            data_bytes: u32::try_from(segment.len()).unwrap(),
        };
        self.give(&response.build(), &segment)
    }
}

#[test]
fn a_login_offers_what_this_project_likes_and_takes_what_the_target_says() {
    let mut target = Target::new(settings());
    let first = target.text();
    assert!(first.contains("InitiatorName=iqn.2026-11.example:i") && first.contains("AuthMethod=None"));
    target
        .login((Stage::Security, Some(Stage::Operational)), b"TargetPortalGroupTag=1\0AuthMethod=None\0")
        .unwrap();
    let second = target.text();
    for offered in ["HeaderDigest=CRC32C,None", "InitialR2T=No", "FirstBurstLength=1048576"] {
        assert!(second.contains(offered), "{second}");
    }
    let keys = b"HeaderDigest=CRC32C\0DataDigest=None\0InitialR2T=No\0FirstBurstLength=65536\0";
    target.login((Stage::Operational, Some(Stage::FullFeature)), keys).unwrap();
    assert_eq!(target.connection.poll_event(), Some(Event::LoggedIn));
    let agreed = target.connection.parameters();
    assert!(agreed.header_digest && !agreed.data_digest && !agreed.initial_r2t);
    assert_eq!((agreed.first_burst_bytes, agreed.target_segment_bytes), (65_536, 8192));
}

fn with_chap() -> Settings {
    let identity = |name: &str, secret| Identity { name: name.into(), secret: Secret::new(secret).unwrap() };
    let credentials = Credentials::new(identity("i", OURS), Some(identity("t", THEIRS))).unwrap();
    Settings { credentials: Some(credentials), ..settings() }
}

fn up_to_the_answer(target: &mut Target) -> String {
    assert!(target.text().contains("AuthMethod=CHAP"));
    target.login((Stage::Security, None), b"AuthMethod=CHAP\0").unwrap();
    assert_eq!(target.text(), "CHAP_A=7,5 ");
    target.login((Stage::Security, None), b"CHAP_A=5\0CHAP_I=3\0CHAP_C=0x0102\0").unwrap();
    target.text()
}

#[test]
fn both_sides_prove_themselves_by_chap() {
    let mut target = Target::new(with_chap());
    let answer = up_to_the_answer(&mut target);
    let hash = |parts: &[&[u8]]| {
        let mut md5 = Md5::new();
        parts.iter().for_each(|part| md5.update(part));
        md5.finalize().iter().map(|byte| alloc::format!("{byte:02x}")).collect::<String>()
    };
    assert!(answer.contains(&hash(&[&[3], OURS, &[1, 2]])), "{answer}");
    let proof = alloc::format!("CHAP_N=t\0CHAP_R=0x{}\0", hash(&[&[9], THEIRS, &[9; 32]]));
    target.login((Stage::Security, Some(Stage::Operational)), proof.as_bytes()).unwrap();
    assert!(target.text().contains("HeaderDigest"));
}

#[test]
fn a_target_that_does_not_prove_itself_is_left() {
    let forward = (Stage::Security, Some(Stage::Operational));
    for proof in [&b"CHAP_N=t\0"[..], b"CHAP_N=t\0CHAP_R=0x00\0", b"CHAP_R=nonsense\0"] {
        let mut target = Target::new(with_chap());
        up_to_the_answer(&mut target);
        assert!(matches!(target.login(forward, proof), Err(Error::Authentication(_))));
    }
    let mut target = Target::new(with_chap());
    target.next();
    assert!(target.login((Stage::Security, None), b"AuthMethod=None\0").is_err());
    let mut target = Target::new(with_chap());
    target.next();
    assert!(target.login(forward, b"").is_err(), "CHAP cannot be skipped");
}

#[test]
fn our_own_challenge_is_not_answered() {
    let mut target = Target::new(with_chap());
    target.next();
    target.login((Stage::Security, None), b"AuthMethod=CHAP\0").unwrap();
    target.next();
    let reflected = alloc::format!("CHAP_A=5\0CHAP_I=9\0CHAP_C=0x{}\0", "09".repeat(32));
    assert!(target.login((Stage::Security, None), reflected.as_bytes()).is_err());
}

#[test]
fn a_read_takes_its_data_in_order_and_status_with_the_last() {
    let mut target = Target::logged_in(settings(), b"");
    let id = target.command(Direction::Read, 8192);
    let sent = ScsiCommand::parse(&target.next().0, &[]).unwrap();
    assert_eq!((sent.itt, sent.expected_length, sent.numbers.cmd_sn), (id.0, 8192, CmdSn(1)));
    let first = target.data_in(id, (0, 0, 4096));
    let place = target.give(&first.build(), &[]).unwrap();
    assert_eq!(place, Payload::Task { task: id, offset: 0, bytes: 4096 });
    let status = Some(DataInStatus { status: 0, residual: Residual::Underflow(96) });
    let numbers = target.stat();
    let last = DataIn { is_final: true, status, numbers, ..target.data_in(id, (1, 4096, 4000)) };
    target.give(&last.build(), &[]).unwrap();
    let completion =
        Completion { status: 0, sense: vec![], residual: Residual::Underflow(96), received_bytes: 8096 };
    assert_eq!(target.connection.poll_event(), Some(Event::Completed(id, completion)));
    assert_eq!(target.connection.commands(), 0);
}

#[test]
fn a_write_sends_what_it_may_and_the_rest_when_asked() {
    let keys = b"InitialR2T=No\0ImmediateData=Yes\0FirstBurstLength=16384\0MaxBurstLength=65536\0";
    let mut target = Target::logged_in(settings(), keys);
    let id = target.command(Direction::Write, 40_000);
    let (bhs, segment) = target.next();
    let sent = ScsiCommand::parse(&bhs, &[]).unwrap();
    assert_eq!(segment, Segment::Task { task: id, offset: 0, bytes: 8192 });
    assert!(!sent.is_final && sent.data_bytes == 8192);
    let unasked = DataOut::parse(&target.next().0).unwrap();
    assert!(unasked.is_final && unasked.ttt == Ttt::RESERVED && unasked.buffer_offset == 8192);
    assert_eq!(target.connection.poll_transmit(), None);
    let r2t = target.r2t(id, (0, 16_384, 23_616));
    target.give(&r2t, &[]).unwrap();
    let mut parts = vec![];
    while let Some(out) = target.connection.poll_transmit() {
        let data = DataOut::parse(&out.bhs).unwrap();
        parts.push((data.buffer_offset, data.data_bytes, data.data_sn, data.is_final));
    }
    assert_eq!(parts, [(16_384, 8192, 0, false), (24_576, 8192, 1, false), (32_768, 7232, 2, true)]);
    target.response(id, 2, Residual::None, &[0x70; 18]).unwrap();
    let Some(Event::Completed(_, completion)) = target.connection.poll_event() else { panic!("no end") };
    assert_eq!((completion.status, completion.sense.len()), (2, 18));
}

#[test]
fn the_command_window_is_respected() {
    let mut target = Target::logged_in(settings(), b"");
    for _ in 0..40 {
        target.command(Direction::None, 0);
    }
    let mut sent = vec![];
    while let Some(out) = target.connection.poll_transmit() {
        sent.push(ScsiCommand::parse(&out.bhs, &[]).unwrap().itt);
    }
    assert_eq!(sent.len(), 32);
    target.numbers.exp_cmd_sn = CmdSn(33);
    target.numbers.max_cmd_sn = CmdSn(34);
    let id = TaskId(sent[0]);
    target.response(id, 0, Residual::None, &[]).unwrap();
    assert!(target.connection.poll_transmit().is_some() && target.connection.poll_transmit().is_some());
    assert!(target.connection.poll_transmit().is_none());
}

#[test]
fn a_hostile_target_gets_an_error_for_every_lie() {
    let fresh = |direction| {
        let mut target = Target::logged_in(settings(), b"MaxOutstandingR2T=1\0");
        let id = target.command(direction, 8192);
        target.connection.poll_transmit().unwrap();
        (target, id)
    };
    for place in [(0, 0, 8193), (0, 4096, 4096), (1, 0, 4096), (0, u32::MAX, 8)] {
        let (mut target, id) = fresh(Direction::Read);
        let bhs = target.data_in(id, place).build();
        assert!(target.give(&bhs, &[]).is_err(), "{place:?}");
        assert!(target.connection.poll_transmit().is_none());
    }
    for place in [(0, 0, 8193), (1, 0, 512), (0, u32::MAX, 512), (0, 8192, 1)] {
        let (mut target, id) = fresh(Direction::Write);
        let bhs = target.r2t(id, place);
        assert!(target.give(&bhs, &[]).is_err(), "{place:?}");
    }
    let (mut target, id) = fresh(Direction::Write);
    let bhs = target.data_in(id, (0, 0, 512)).build();
    assert!(target.give(&bhs, &[]).is_err(), "data for a write");
    let (mut target, id) = fresh(Direction::Read);
    assert!(target.give(&target.r2t(id, (0, 0, 512)), &[]).is_err(), "R2T for a read");
    let (mut target, id) = fresh(Direction::Write);
    target.give(&target.r2t(id, (0, 0, 512)), &[]).unwrap();
    assert!(target.give(&target.r2t(id, (1, 512, 512)), &[]).is_err(), "too many R2Ts");
    let (mut target, id) = fresh(Direction::Read);
    assert!(target.response(id, 0, Residual::None, &[]).is_err(), "GOOD without the data");
    let (mut target, id) = fresh(Direction::Write);
    assert!(target.response(id, 0, Residual::Underflow(9000), &[]).is_err(), "residual beyond the command");
    let (mut target, id) = fresh(Direction::Write);
    target.numbers.stat_sn = StatSn(9);
    assert!(target.response(id, 0, Residual::None, &[]).is_err(), "StatSN out of order");
    let (mut target, id) = fresh(Direction::Write);
    target.response(id, 0, Residual::None, &[]).unwrap();
    assert!(target.response(id, 0, Residual::None, &[]).is_err(), "answered twice");
    let (mut target, _) = fresh(Direction::Write);
    let mut bhs = Bhs::new(Opcode::NopIn);
    bhs.set_data_bytes((256 << 10) + 1);
    assert!(target.give(&bhs, &[]).is_err(), "a segment too long");
}

#[test]
fn a_command_not_yet_sent_cannot_be_answered() {
    let mut target = Target::logged_in(settings(), b"");
    let id = target.command(Direction::None, 0);
    assert_eq!(target.response(id, 0, Residual::None, &[]), Err(Error::UnknownTask(id.0)));
}

#[test]
fn pings_go_both_ways_and_silence_ends_the_connection() {
    let mut target = Target::logged_in(settings(), b"");
    let ping = NopIn { lun: [0; 8], itt: Itt::RESERVED, ttt: Ttt(5), numbers: target.numbers, data_bytes: 0 };
    target.give(&ping.build(), &[]).unwrap();
    assert_eq!(NopOut::parse(&target.next().0).unwrap().ttt, Ttt(5));
    let due = target.connection.poll_timeout().unwrap();
    assert_eq!(due, T0 + Duration::from_secs(10));
    target.connection.handle_timeout(due).unwrap();
    let ours = NopOut::parse(&target.next().0).unwrap();
    let pong = NopIn { itt: ours.itt, ttt: Ttt::RESERVED, numbers: target.stat(), ..ping };
    target.give(&pong.build(), &[]).unwrap();
    target.connection.handle_timeout(due).unwrap();
    let end = target.connection.poll_timeout().unwrap();
    assert_eq!(target.connection.handle_timeout(end), Err(Error::PingTimedOut));
}

/// A command was once given up after its limit however much of its answer had come: over a slow way the same was asked for again,
/// for ever. And a ping whose answer waited behind data ended the connection.
#[test]
fn data_that_comes_slowly_is_no_silence_but_does_not_go_on_for_ever() {
    let mut target = Target::logged_in(settings(), b"");
    let id = target.command(Direction::Read, 1 << 20);
    target.next();
    target.give(&target.data_in(id, (0, 0, 4096)).build(), &[]).unwrap();
    let segment = target.data_in(id, (1, 4096, 8192));
    target.connection.handle_bhs(&segment.build()).unwrap();
    target.connection.handle_header(&segment.build(), T0).unwrap();
    let (mut now, mut words) = (T0, 0);
    let end = loop {
        // A few bytes of the segment every six seconds.
        let comes = now + Duration::from_secs(6);
        while target.connection.poll_timeout().is_some_and(|due| due <= comes) {
            now = now.max(target.connection.poll_timeout().unwrap());
            if let Err(error) = target.connection.handle_timeout(now) {
                assert_eq!(error, Error::CommandTimedOut);
                break;
            }
            while let Some(out) = target.connection.poll_transmit() {
                let nop = NopOut::parse(&out.bhs).unwrap();
                assert_eq!((nop.itt, nop.ttt), (Itt::RESERVED, Ttt::RESERVED), "it asks for no answer");
                words += 1;
            }
        }
        if target.connection.poll_timeout().is_none() {
            break now;
        }
        now = comes;
        target.connection.handle_bytes(now);
    };
    assert_eq!(end, T0 + Duration::from_secs(32 * 30));
    assert!((80..=97).contains(&words), "{words}: once in ten seconds");
}

#[test]
fn an_answer_to_a_ping_may_wait_behind_data() {
    let mut target = Target::logged_in(settings(), b"");
    let ping = T0 + Duration::from_secs(10);
    target.connection.handle_timeout(ping).unwrap();
    target.next();
    for second in 1..=40 {
        target.connection.handle_timeout(ping + Duration::from_secs(second)).unwrap();
        target.connection.handle_bytes(ping + Duration::from_secs(second));
    }
    let end = ping + Duration::from_secs(50);
    assert_eq!(target.connection.poll_timeout(), Some(end));
    assert_eq!(target.connection.handle_timeout(end), Err(Error::PingTimedOut));
}

#[test]
fn a_command_without_an_answer_ends_the_connection() {
    let mut target = Target::logged_in(Settings { ping_after: Duration::from_secs(600), ..settings() }, b"");
    target.command(Direction::None, 0);
    let due = target.connection.poll_timeout().unwrap();
    assert_eq!(due, T0 + Duration::from_secs(30));
    assert!(target.connection.handle_timeout(due - Duration::from_nanos(1)).is_ok());
    assert_eq!(target.connection.handle_timeout(due), Err(Error::CommandTimedOut));
}

#[test]
fn discovery_reads_an_answer_in_parts() {
    let mut target = Target::logged_in(Settings { purpose: Purpose::Discovery, ..settings() }, b"");
    target.connection.send_targets();
    assert_eq!(target.text(), "SendTargets=All ");
    let mut give = |text: &[u8], ttt, is_final| {
        let response = TextResponse {
            is_final,
            is_continued: !is_final,
            lun: [0; 8],
            itt: receive::TEXT_ITT,
            ttt,
            numbers: target.stat(),
            data_bytes: u32::try_from(text.len()).unwrap(),
        };
        target.give(&response.build(), text).unwrap();
    };
    give(b"TargetName=iqn.a\0TargetAddress=10.0.0.1:3260,1\0TargetName=iq", Ttt(3), false);
    give(b"n.b\0", Ttt::RESERVED, true);
    let a = DiscoveredTarget { name: "iqn.a".to_string(), addresses: vec!["10.0.0.1:3260,1".to_string()] };
    let b = DiscoveredTarget { name: "iqn.b".to_string(), addresses: vec![] };
    assert_eq!(target.connection.poll_event(), Some(Event::Targets(vec![a, b])));
}

proptest! {
    #[test]
    fn no_header_makes_it_panic(headers in proptest::collection::vec(any::<[u8; 48]>(), 1..20), opcode in 0x20_u8..0x40) {
        let mut target = Target::logged_in(settings(), b"");
        let id = target.command(Direction::Read, 4096);
        let _ = target.connection.poll_transmit();
        for mut bytes in headers {
            bytes[0] = opcode;
            bytes[4] = 0;
            bytes[5] = 0;
            if bytes[47] % 2 == 0 {
                bytes[16..20].copy_from_slice(&id.0.0.to_be_bytes());
            }
            let payload = vec![bytes[46]; 64];
            if target.give(&Bhs(bytes), &payload).is_err() {
                break;
            }
            while target.connection.poll_event().is_some() {}
        }
    }

    #[test]
    fn no_login_text_makes_it_panic(text in "[A-Za-z0-9_=,.\\x00]{0,200}", key in 0_usize..6) {
        let keys = ["CHAP_C=0b", "CHAP_A=5\0CHAP_I=1\0CHAP_C=0x", "AuthMethod=", "MaxBurstLength=0x", "", "HeaderDigest="];
        let text = alloc::format!("{}{text}", keys[key]);
        let mut target = Target::new(with_chap());
        target.next();
        target.login((Stage::Security, None), b"AuthMethod=CHAP\0").unwrap();
        target.next();
        let _ = target.login((Stage::Security, None), text.as_bytes());
    }
}
