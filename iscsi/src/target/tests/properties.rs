//! Whatever a peer sends and however it splits it.

use super::*;

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
