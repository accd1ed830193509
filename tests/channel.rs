//! The channel adapters end to end: our initiator and our target over the simulated network, and over TCP.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::too_many_lines,
    clippy::disallowed_methods,
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "a test"
)]

#[path = "../examples/ram/mod.rs"]
mod ram;

#[path = "channel/bad_day.rs"]
mod bad_day;

use holdfast::channel::host::{Durability, HostError, HostLun, lun, report_luns};
use holdfast::channel::initiator::{Command, Connector, Data, Session, SessionError, SessionOptions};
use holdfast::channel::listener::{Logins, Portal, PortalOptions};
use holdfast::channel::piece::{Received, Room};
use holdfast::channel::sim_network::{Link, SimNetwork};
use holdfast::channel::target::Sessions;
use holdfast::channel::tcp_network::TcpNetwork;
use holdfast::channel::transport::Network;
use holdfast::clock::{Clock, SeededEntropy, SimClock, SystemClock};
use holdfast::disk::slot::{Class, SLOT_BYTES, SlotPool};
use holdfast_iscsi::chap;
use holdfast_iscsi::discovery::Access;
use holdfast_iscsi::initiator::{DigestWish, Error};
use holdfast_iscsi::pdu::Isid;
use holdfast_iscsi::pdu::command::Residual;
use holdfast_iscsi::pdu::login::LoginStatus;
use holdfast_iscsi::target::{AbortScope, Settings};
use ram::{BLOCK, Only, Ram, TARGET};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

const LIMIT: Duration = Duration::from_secs(60);
const BYTES: usize = 64 << 20;

struct Rig {
    portal: Portal,
    sessions: Sessions,
    ram: Arc<Ram>,
    connector: Connector,
}

async fn rig(
    (near, far): (Arc<dyn Network>, Arc<dyn Network>),
    clock: Arc<dyn Clock>,
    address: &str,
    ram: Ram,
) -> Rig {
    let ram = Arc::new(ram);
    let sessions = Sessions::new(16);
    let options = PortalOptions {
        clock: clock.clone(),
        entropy: Arc::new(SeededEntropy::new(1)),
        targets: Arc::new(Only { ram: ram.clone(), address: address.to_owned() }),
        sessions: sessions.clone(),
        logins: Logins::default(),
        settings: Settings::default(),
    };
    let portal = Portal::open(&*far, address, options).await.unwrap();
    let connector = Connector {
        network: near,
        clock,
        entropy: Arc::new(SeededEntropy::new(2)),
        initiator_name: "iqn.2026-11.example.holdfast:host".to_owned(),
    };
    Rig { portal, sessions, ram, connector }
}

async fn simulated(ram: Ram) -> (Rig, SimNetwork) {
    let clock = Arc::new(SimClock::new(0));
    let network = SimNetwork::new(clock.clone());
    let ends = (Arc::new(network.host("host")) as Arc<dyn Network>, Arc::new(network.host("array")) as _);
    (rig(ends, clock, "array:3260", ram).await, network)
}

impl Rig {
    async fn session(&self, options: &SessionOptions) -> Result<Session, SessionError> {
        self.connector.session(self.portal.local(), TARGET, options).await
    }

    async fn unit(&self, options: &SessionOptions) -> HostLun {
        HostLun::open(self.session(options).await.unwrap(), lun(0), LIMIT).await.unwrap()
    }
}

fn pattern(seed: u64, bytes: usize) -> Vec<u8> {
    let entropy = SeededEntropy::new(seed);
    let mut data = vec![0; bytes];
    holdfast::clock::Entropy::fill(&entropy, &mut data);
    data
}

/// Reads and writes of all sizes and offsets, with every choice that changes how data travels.
async fn everything(rig: &Rig) {
    for digests in [DigestWish::Without, DigestWish::Required] {
        for (immediate_data, initial_r2t) in [(true, false), (false, false), (true, true), (false, true)] {
            let options =
                SessionOptions { digests, immediate_data, initial_r2t, ..SessionOptions::default() };
            let unit = rig.unit(&options).await;
            assert_eq!((unit.block_bytes as usize, unit.blocks as usize), (BLOCK, BYTES / BLOCK));
            for (lba, blocks) in [(0, 1), (3, 8), (8, 8), (1000, 7000), (5, 2048), (131_071, 1)] {
                let data = pattern(lba + blocks, blocks as usize * BLOCK);
                unit.write(lba, data.clone(), Durability::Cached).await.unwrap();
                assert!(unit.read(lba, blocks as u32).await.unwrap() == data, "{lba} {blocks}");
            }
            let beyond = unit.read(131_072, 1).await.unwrap_err();
            assert_eq!(beyond.sense(), Some((5, 0x21, 0)));
            unit.synchronize_cache().await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn data_survives_every_way_of_travelling_in_the_simulation() {
    let (rig, network) = simulated(Ram::new(BYTES)).await;
    let link = Link { delay: Duration::from_micros(300), ..Link::default() };
    network.set_links("host", "array", link);
    let before = tokio::time::Instant::now();
    everything(&rig).await;
    assert!(before.elapsed() < Duration::from_secs(1), "nothing waits for a timer: {:?}", before.elapsed());
}

#[tokio::test]
async fn data_survives_every_way_of_travelling_over_tcp() {
    let network: Arc<dyn Network> = Arc::new(TcpNetwork);
    let clock = Arc::new(SystemClock::new());
    let rig = rig((network.clone(), network), clock, "127.0.0.1:0", Ram::new(BYTES)).await;
    everything(&rig).await;
}

#[tokio::test(start_paused = true)]
async fn many_commands_are_in_flight_at_once_and_counted() {
    let (rig, _) = simulated(Ram::new(BYTES)).await;
    let unit = rig.unit(&SessionOptions::default()).await;
    let writes = (0..400_u64).map(|at| {
        let unit = unit.clone();
        tokio::spawn(async move { unit.write(at * 64, pattern(at, 64 * BLOCK), Durability::Cached).await })
    });
    for write in writes.collect::<Vec<_>>() {
        write.await.unwrap().unwrap();
    }
    for at in 0..400 {
        assert!(unit.read(at * 64, 64).await.unwrap() == pattern(at, 64 * BLOCK));
    }
    let line = rig.sessions.list().remove(0);
    assert_eq!(line.bytes_written, 400 * 64 * BLOCK as u64);
    assert_eq!((line.commands, line.target.as_str()), (802, TARGET));
    assert!(line.peer.starts_with("host:") && line.local == "array:3260");
}

#[tokio::test(start_paused = true)]
async fn discovery_names_the_target_and_luns_are_reported() {
    let (rig, _) = simulated(Ram::new(BYTES)).await;
    let found = rig.connector.discover(rig.portal.local(), &SessionOptions::default()).await.unwrap();
    assert_eq!((found.len(), found[0].name.as_str()), (1, TARGET));
    assert_eq!(found[0].addresses, ["array:3260,1"]);
    let session = rig.session(&SessionOptions::default()).await.unwrap();
    assert_eq!(report_luns(&session, LIMIT).await.unwrap(), [lun(0)]);
    let wrong =
        rig.connector.session(rig.portal.local(), "iqn.2026-11.x:y", &SessionOptions::default()).await;
    assert!(matches!(wrong, Err(SessionError::Protocol(Error::LoginRefused(LoginStatus::NOT_FOUND)))));
}

#[tokio::test(start_paused = true)]
async fn a_long_cdb_travels_and_data_lands_in_pages() {
    let (rig, _) = simulated(Ram::new(BYTES)).await;
    let options = SessionOptions { digests: DigestWish::Required, ..SessionOptions::default() };
    let session = rig.session(&options).await.unwrap();
    let cdb: Vec<u8> = (0..64).map(|at| if at == 0 { 0xc0 } else { at }).collect();
    let pool = SlotPool::new(64 * SLOT_BYTES);
    let slots = pool.take(Class::Inbound, 2).await;
    let data = Data::In(Room::Slots { slots, first_offset: 0 });
    let reply = session.command(Command { lun: lun(0), cdb: &cdb, data }, LIMIT).await.unwrap();
    let Received::Slots { slots, bytes } = &reply.data else { panic!("pages were given") };
    assert_eq!((slots.len(), *bytes), (1, 64));
    assert_eq!(reply.data.clone().into_vec(), cdb);
    assert_eq!(pool.in_use(), 1);
    let long = Command { lun: lun(0), cdb: &[0xc0; 65], data: Data::None };
    assert!(matches!(session.command(long, LIMIT).await, Err(SessionError::TooLong)));
}

#[tokio::test(start_paused = true)]
async fn a_target_may_refuse_a_session_without_digests() {
    let mut ram = Ram::new(BYTES);
    ram.needs_digests = true;
    let (rig, _) = simulated(ram).await;
    let with = |digests| SessionOptions { digests, ..SessionOptions::default() };
    let _kept = rig.session(&with(DigestWish::Required)).await.unwrap();
    let refused = rig.session(&with(DigestWish::Without)).await.unwrap_err();
    let status = LoginStatus::NOT_FOUND;
    assert!(matches!(refused, SessionError::Protocol(Error::LoginRefused(found)) if found == status));
    assert_eq!(rig.ram.ended.load(Ordering::Relaxed), 0, "it has never begun");
}

#[tokio::test(start_paused = true)]
async fn data_beyond_what_a_command_takes_is_not_written() {
    let (rig, _) = simulated(Ram::new(BYTES)).await;
    let unit = rig.unit(&SessionOptions::default()).await;
    unit.write(0, vec![1; 4 * BLOCK], Durability::Cached).await.unwrap();
    let mut cdb = [0; 10];
    (cdb[0], cdb[8]) = (0x2a, 1);
    let data = Data::Out(vec![2; 3 * BLOCK].into());
    let reply = unit.session().command(Command { lun: lun(0), cdb: &cdb, data }, LIMIT).await.unwrap();
    assert_eq!((reply.status, reply.residual), (0, Residual::Underflow(2 * BLOCK as u32)));
    assert_eq!(unit.read(0, 4).await.unwrap(), [vec![2; BLOCK], vec![1; 3 * BLOCK]].concat());
    // And a command that would take more than there is writes what there is.
    cdb[8] = 4;
    let data = Data::Out(vec![3; BLOCK].into());
    let reply = unit.session().command(Command { lun: lun(0), cdb: &cdb, data }, LIMIT).await.unwrap();
    assert_eq!((reply.status, reply.residual), (0, Residual::Overflow(3 * BLOCK as u32)));
    assert_eq!(unit.read(0, 2).await.unwrap(), [vec![3; BLOCK], vec![1; BLOCK]].concat());
}

#[tokio::test(start_paused = true)]
async fn both_sides_have_to_know_their_secrets() {
    let mut ram = Ram::new(BYTES);
    let identity = |name: &str, secret: &[u8]| chap::Identity {
        name: name.to_owned(),
        secret: chap::Secret::new(secret).unwrap(),
    };
    let credentials = |host: &[u8], array: &[u8]| {
        chap::Credentials::new(identity("host", host), Some(identity("array", array))).unwrap()
    };
    ram.access = Access::Chap(credentials(b"secret of the host", b"secret of the array"));
    let (rig, _) = simulated(ram).await;
    let with = |ours: &[u8], theirs: &[u8]| SessionOptions {
        credentials: Some(credentials(ours, theirs)),
        ..SessionOptions::default()
    };
    rig.session(&with(b"secret of the host", b"secret of the array")).await.unwrap();
    let wrong = rig.session(&with(b"guessed for the host", b"secret of the array")).await;
    assert!(matches!(wrong, Err(SessionError::Protocol(Error::LoginRefused(_)))));
    let wrong = rig.session(&with(b"secret of the host", b"another secret of it")).await;
    assert!(matches!(wrong, Err(SessionError::Protocol(Error::Authentication(_)))));
    assert!(rig.session(&SessionOptions::default()).await.is_err(), "no way around CHAP");
}

/// A delay that lasts until `gate` lets it through, and counts who has come to it.
fn gate() -> (Arc<Semaphore>, Arc<AtomicUsize>, ram::Delay) {
    let (gate, arrived) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let delay: ram::Delay = Arc::new({
        let (gate, arrived) = (gate.clone(), arrived.clone());
        move || {
            let (gate, arrived) = (gate.clone(), arrived.clone());
            Box::pin(async move {
                arrived.fetch_add(1, Ordering::SeqCst);
                gate.acquire().await.unwrap().forget();
            })
        }
    });
    (gate, arrived, delay)
}

async fn until(what: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if what() {
            return;
        }
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    panic!("it does not come to that");
}

#[tokio::test(start_paused = true)]
async fn a_stalled_write_never_lands_after_its_retry() {
    let mut ram = Ram::new(BYTES);
    let (gate, arrived, delay) = gate();
    ram.delay = Some(delay);
    let (rig, _) = simulated(ram).await;
    let options = SessionOptions { isid: Some(Isid([0x80, 1, 2, 3, 4, 5])), ..SessionOptions::default() };
    let old = rig.unit(&options).await;
    let stalled = tokio::spawn({
        let old = old.clone();
        async move { old.write(0, vec![1; BLOCK], Durability::Cached).await }
    });
    until(|| arrived.load(Ordering::SeqCst) == 1).await;
    let rig = Arc::new(rig);
    let again = tokio::spawn({
        let (rig, options) = (rig.clone(), options.clone());
        async move { rig.unit(&options).await }
    });
    // The old session's connection is closed at once, but the new login waits for the write.
    let lost = stalled.await.unwrap();
    assert!(matches!(lost, Err(HostError::Session(_))), "{lost:?}");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(!again.is_finished());
    assert_eq!(rig.ram.ended.load(Ordering::Relaxed), 0);
    gate.add_permits(1);
    let new = again.await.unwrap();
    assert_eq!(rig.ram.ended.load(Ordering::Relaxed), 1);
    gate.add_permits(2);
    new.write(0, vec![2; BLOCK], Durability::Cached).await.unwrap();
    assert_eq!(new.read(0, 1).await.unwrap(), vec![2; BLOCK]);
    assert_eq!(rig.sessions.list().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn data_that_comes_before_its_room_waits_aside_and_arrives_whole() {
    let mut ram = Ram::new(BYTES);
    let (gate, arrived, delay) = gate();
    ram.room_delay = Some(delay);
    let (rig, _) = simulated(ram).await;
    let unit = rig.unit(&SessionOptions::default()).await;
    let sizes = [1_usize, 3, 8, 100, 600, 4000];
    let writes: Vec<_> = sizes
        .iter()
        .map(|blocks| {
            let (unit, data) = (unit.clone(), pattern(*blocks as u64, blocks * BLOCK));
            let lba = *blocks as u64 * 5;
            tokio::spawn(async move { unit.write(lba, data, Durability::Cached).await })
        })
        .collect();
    until(|| arrived.load(Ordering::SeqCst) == sizes.len()).await;
    // The stream is not stopped: other commands get through.
    unit.test_unit_ready().await.unwrap();
    for write in writes {
        gate.add_permits(1);
        tokio::time::advance(Duration::from_millis(1)).await;
        write.await.unwrap().unwrap();
    }
    for blocks in [8_usize, 100, 600, 4000] {
        let got = unit.read(blocks as u64 * 5, blocks.min(500) as u32).await.unwrap();
        assert!(got == pattern(blocks as u64, blocks * BLOCK)[..got.len()], "{blocks}");
    }
}

#[tokio::test(start_paused = true)]
async fn when_no_memory_is_left_for_waiting_data_commands_are_told_to_come_again() {
    let mut ram = Ram::new(BYTES);
    let (gate, _, delay) = gate();
    ram.room_delay = Some(delay);
    let (rig, _) = simulated(ram).await;
    let mut writes = Vec::new();
    for _ in 0..3 {
        let unit = rig.unit(&SessionOptions::default()).await;
        for at in 0..100 {
            let unit = unit.clone();
            writes.push(tokio::spawn(async move {
                unit.write(at * 512, vec![7; 512 * BLOCK], Durability::Cached).await
            }));
        }
    }
    for _ in 0..100 {
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    gate.add_permits(1000);
    let (mut good, mut busy) = (0, 0);
    for write in writes {
        match write.await.unwrap() {
            Ok(()) => good += 1,
            Err(HostError::Status { status: 8, .. }) => busy += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(good, 256, "64 MiB wait aside, 256 KiB of each write");
    assert_eq!(good + busy, 300);
    assert_eq!(rig.sessions.list().len(), 0, "the hosts have gone in good order");
}

#[tokio::test(start_paused = true)]
async fn a_cut_ends_all_commands_and_what_has_begun_is_finished() {
    let mut ram = Ram::new(BYTES);
    let (gate, arrived, delay) = gate();
    ram.delay = Some(delay);
    let (rig, network) = simulated(ram).await;
    let unit = rig.unit(&SessionOptions::default()).await;
    let writes: Vec<_> = (0..5)
        .map(|at| {
            let unit = unit.clone();
            tokio::spawn(async move { unit.write(at, vec![9; BLOCK], Durability::Cached).await })
        })
        .collect();
    until(|| arrived.load(Ordering::SeqCst) == 5).await;
    network.cut("host", "array");
    for write in writes {
        assert!(matches!(write.await.unwrap(), Err(HostError::Session(SessionError::Network(_)))));
    }
    assert!(unit.session().is_closed());
    assert!(rig.session(&SessionOptions::default()).await.is_err());
    assert_eq!(rig.sessions.list().len(), 1);
    gate.add_permits(100);
    until(|| rig.sessions.list().is_empty()).await;
    assert_eq!(rig.ram.ended.load(Ordering::Relaxed), 1);
    network.heal("host", "array");
    let unit = rig.unit(&SessionOptions::default()).await;
    assert_eq!(unit.read(4, 1).await.unwrap(), vec![9; BLOCK]);
}

#[tokio::test(start_paused = true)]
async fn both_ends_notice_a_silent_link() {
    let (rig, network) = simulated(Ram::new(BYTES)).await;
    let unit = rig.unit(&SessionOptions::default()).await;
    let before = tokio::time::Instant::now();
    network.silence("host", "array");
    unit.session().closed().await;
    assert_eq!(before.elapsed().as_secs(), 20);
    let error = unit.test_unit_ready().await.unwrap_err();
    assert!(matches!(error, HostError::Session(SessionError::Closed)), "{error}");
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert!(rig.sessions.list().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_stays_for_hours() {
    let (rig, _) = simulated(Ram::new(BYTES)).await;
    let unit = rig.unit(&SessionOptions::default()).await;
    tokio::time::sleep(Duration::from_secs(3 * 3600)).await;
    unit.write(0, vec![1; BLOCK], Durability::Forced).await.unwrap();
    assert_eq!(rig.sessions.list().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_session_can_be_dropped_and_tasks_aborted_from_outside() {
    let mut ram = Ram::new(BYTES);
    let (gate, arrived, delay) = gate();
    ram.delay = Some(delay);
    let (rig, _) = simulated(ram).await;
    let unit = rig.unit(&SessionOptions::default()).await;
    let session = rig.sessions.list()[0].session;
    let write = tokio::spawn({
        let unit = unit.clone();
        async move { unit.write(0, vec![1; BLOCK], Durability::Cached).await }
    });
    until(|| arrived.load(Ordering::SeqCst) == 1).await;
    let abort = tokio::spawn({
        let sessions = rig.sessions.clone();
        async move { sessions.abort(session, AbortScope::All).await }
    });
    tokio::time::advance(Duration::from_millis(10)).await;
    assert!(!abort.is_finished(), "what has begun is waited for");
    gate.add_permits(1);
    abort.await.unwrap();
    assert!(!write.is_finished(), "nothing is said about an aborted command");
    assert!(rig.sessions.drop_session(session).await);
    assert!(write.await.unwrap().is_err());
    assert!(!rig.sessions.drop_session(session).await);
}

#[tokio::test(start_paused = true)]
async fn sessions_and_logins_have_limits() {
    let (rig, network) = simulated(Ram::new(BYTES)).await;
    let mut open = Vec::new();
    for _ in 0..16 {
        open.push(rig.session(&SessionOptions::default()).await.unwrap());
    }
    let refused = rig.session(&SessionOptions::default()).await;
    let no_room = LoginStatus::OUT_OF_RESOURCES;
    assert!(matches!(refused, Err(SessionError::Protocol(Error::LoginRefused(status))) if status == no_room));
    drop(open);
    until(|| rig.sessions.list().is_empty()).await;
    // Eight connections that never log in keep their source out, and nobody else, until their time is over.
    let flood = network.host("flood");
    let mut idle = Vec::new();
    for _ in 0..8 {
        idle.push(flood.connect("array:3260").await.unwrap());
    }
    tokio::time::advance(Duration::from_millis(1)).await;
    let mut ninth = flood.connect("array:3260").await.unwrap();
    assert_eq!(ninth.read(&mut [0; 48]).await.unwrap_or(0), 0);
    rig.session(&SessionOptions::default()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(16)).await;
    assert_eq!(idle[0].read(&mut [0; 48]).await.unwrap_or(0), 0);
    let mut tenth = flood.connect("array:3260").await.unwrap();
    tenth.write_all(&[0x43]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn noise_closes_its_connection_and_nothing_else() {
    let (rig, network) = simulated(Ram::new(BYTES)).await;
    let unit = rig.unit(&SessionOptions::default()).await;
    let noise = network.host("noise");
    for seed in 0..200 {
        let mut stream = noise.connect("array:3260").await.unwrap();
        let mut bytes = pattern(seed, 4096);
        if seed % 2 == 0 {
            bytes[..8].copy_from_slice(&[0x43, 0x87, 0, 0, 0, 0, 1, 0]);
        }
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
    }
    unit.test_unit_ready().await.unwrap();
    assert_eq!(rig.sessions.list().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_logs_the_session_out() {
    let (rig, _) = simulated(Ram::new(BYTES)).await;
    let unit = rig.unit(&SessionOptions::default()).await;
    let other = unit.clone();
    drop(unit);
    tokio::time::sleep(Duration::from_secs(1)).await;
    other.test_unit_ready().await.unwrap();
    drop(other);
    until(|| rig.sessions.list().is_empty()).await;
    assert_eq!(rig.ram.ended.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_target_that_talks_nonsense_costs_an_error_and_no_more() {
    let (rig, network) = simulated(Ram::new(BYTES)).await;
    let mut portal = network.host("evil").listen("evil:3260").await.unwrap();
    let evil = tokio::spawn(async move {
        for seed in 0..100 {
            let mut stream = portal.accept().await.unwrap();
            let mut bytes = pattern(seed, 4096);
            if seed % 2 == 0 {
                // A login response that succeeds, with noise for text.
                bytes[..8].copy_from_slice(&[0x23, 0x81, 0, 0, 0, 0, 0, 200]);
                bytes[16..20].copy_from_slice(&[0xff, 0xff, 0xfc, 0]);
                bytes[36..38].fill(0);
            }
            let _ = stream.write_all(&bytes).await;
            let _ = stream.read(&mut [0; 512]).await;
        }
    });
    for _ in 0..100 {
        assert!(rig.connector.session("evil:3260", TARGET, &SessionOptions::default()).await.is_err());
    }
    evil.await.unwrap();
    rig.unit(&SessionOptions::default()).await.test_unit_ready().await.unwrap();
}
