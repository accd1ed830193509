//! Task management, logout, pings, rejects, and the limits on a peer.

use super::*;

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
