//! Login, discovery and text negotiation.

use super::*;

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
