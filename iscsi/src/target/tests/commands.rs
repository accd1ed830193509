//! Commands: data both ways, residuals, digests, limits of time, and the command window.

use super::*;

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
