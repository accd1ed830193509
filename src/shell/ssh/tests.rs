//! The server against a client of the same library and against bare sockets. The real OpenSSH client has its tests in
//! `tests/process/ssh.rs`.

use super::*;
use crate::clock::{BoxFuture, SeededEntropy, SystemClock};
use crate::shell::view::{AuditView, Console, PairView, Snapshot};
use russh::client;
use russh::keys::{PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{ChannelMsg, ChannelOpenFailure};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// An array with one pair that has failed; its audit log is a defect.
struct Fixed;

impl Console for Fixed {
    fn snapshot(&self) -> Snapshot {
        let pair = PairView { name: "p1".into(), state: "abnormal".into(), ..PairView::default() };
        Snapshot { pairs: vec![pair], ..Snapshot::default() }
    }

    fn audit(&self, _: usize) -> Vec<AuditView> {
        panic!("a defect");
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }
}

struct Trusting;

impl client::Handler for Trusting {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        Ok(true)
    }
}

/// A key from a seed.
fn key(seed: u64) -> PrivateKey {
    let directory = tempfile::tempdir().unwrap();
    keys::host_key(directory.path(), &SeededEntropy::new(seed)).unwrap()
}

/// Runs `test` beside a server that lets the key of seed 1 in.
async fn with_server<F: Future<Output = ()>>(test: impl FnOnce(SocketAddr) -> F) {
    let directory = tempfile::tempdir().unwrap();
    let authorized_keys = directory.path().join("authorized_keys");
    std::fs::write(&authorized_keys, key(1).public_key().to_openssh().unwrap()).unwrap();
    std::fs::set_permissions(&authorized_keys, Permissions::from_mode(0o600)).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let settings = SshSettings {
        listen: "127.0.0.1:0".parse().unwrap(),
        authorized_keys,
        data_dir: directory.path().to_owned(),
    };
    let server = SshServer::bind(&settings, clock.clone(), Arc::new(SeededEntropy::new(9))).await.unwrap();
    let address = server.address();
    tokio::select! {
        () = server.serve(Shell::new(Arc::new(Fixed), clock)) => unreachable!(),
        () = test(address) => {}
    }
}

async fn connect(address: SocketAddr) -> client::Handle<Trusting> {
    client::connect(Arc::new(client::Config::default()), address, Trusting).await.unwrap()
}

async fn log_in(session: &mut client::Handle<Trusting>, user: &str, seed: u64) -> bool {
    let key = PrivateKeyWithHashAlg::new(Arc::new(key(seed)), None);
    session.authenticate_publickey(user, key).await.unwrap().success()
}

/// Runs a command: what it printed, and its exit status.
async fn run(session: &client::Handle<Trusting>, line: &str) -> (String, Option<u32>) {
    let mut channel = session.channel_open_session().await.unwrap();
    channel.exec(true, line).await.unwrap();
    let (mut text, mut exit) = (Vec::new(), None);
    while let Some(message) = channel.wait().await {
        match message {
            ChannelMsg::Data { data } | ChannelMsg::ExtendedData { data, .. } => {
                text.extend_from_slice(&data);
            }
            ChannelMsg::ExitStatus { exit_status } => exit = Some(exit_status),
            _ => {}
        }
    }
    (String::from_utf8(text).unwrap(), exit)
}

#[tokio::test]
async fn commands_give_their_exit_codes() {
    with_server(|address| async move {
        let mut session = connect(address).await;
        assert!(log_in(&mut session, USER, 1).await);
        assert_eq!(run(&session, "pair list --json").await.1, Some(0));
        assert_eq!(run(&session, "pair show p2").await.1, Some(1));
        assert_eq!(run(&session, "pair eat p1").await.1, Some(2));
        assert_eq!(run(&session, "pair wait p1 --state normal --timeout 1s").await.1, Some(5));
        let (text, exit) = run(&session, "config check /etc/shadow").await;
        assert!(exit == Some(1) && text.contains("over SSH"), "{text}");
        assert_eq!(run(&session, &"x".repeat(4_097)).await.1, Some(2));
    })
    .await;
}

#[tokio::test]
async fn a_session_that_panics_harms_no_other() {
    with_server(|address| async move {
        let mut session = connect(address).await;
        assert!(log_in(&mut session, USER, 1).await);
        assert_eq!(run(&session, "audit list").await.1, Some(1));
        assert_eq!(run(&session, "pair list").await.1, Some(0));
    })
    .await;
}

#[tokio::test]
async fn wrong_keys_and_wrong_users_get_the_same_answer_in_the_same_time() {
    with_server(|address| async move {
        for (user, seed) in [(USER, 2), ("root", 1), ("root", 2)] {
            let mut session = connect(address).await;
            let began = tokio::time::Instant::now();
            assert!(!log_in(&mut session, user, seed).await);
            assert!(began.elapsed() >= REFUSAL_TIME);
        }
    })
    .await;
}

#[tokio::test]
async fn the_attempt_after_the_last_allowed_one_closes_the_connection() {
    with_server(|address| async move {
        let mut session = connect(address).await;
        assert!(!session.authenticate_none(USER).await.unwrap().success());
        for _ in 0..ATTEMPTS_MAX {
            assert!(!log_in(&mut session, USER, 2).await);
        }
        let key = PrivateKeyWithHashAlg::new(Arc::new(key(1)), None);
        let late = session.authenticate_publickey(USER, key).await;
        assert!(!late.is_ok_and(|result| result.success()), "even with the right key");
    })
    .await;
}

#[tokio::test]
async fn session_channels_have_a_limit_and_nothing_else_opens() {
    with_server(|address| async move {
        let mut session = connect(address).await;
        assert!(log_in(&mut session, USER, 1).await);
        let mut open = Vec::new();
        for _ in 0..CHANNELS_MAX {
            open.push(session.channel_open_session().await.unwrap());
        }
        let refused = session.channel_open_session().await;
        assert!(matches!(
            refused,
            Err(russh::Error::ChannelOpenFailure(ChannelOpenFailure::ResourceShortage))
        ));
        for channel in open.drain(..) {
            channel.close().await.unwrap();
        }
        assert_eq!(run(&session, "pair list").await.1, Some(0), "closed channels give their places back");
        let prohibited = ChannelOpenFailure::AdministrativelyProhibited;
        let tcp = session.channel_open_direct_tcpip("127.0.0.1", 1, "127.0.0.1", 1).await.err();
        assert!(matches!(tcp, Some(russh::Error::ChannelOpenFailure(why)) if why == prohibited));
        let unix = session.channel_open_direct_streamlocal("/run/x").await.err();
        assert!(matches!(unix, Some(russh::Error::ChannelOpenFailure(_))));
        assert!(session.tcpip_forward("127.0.0.1", 0).await.is_err());
    })
    .await;
}

#[tokio::test]
async fn requests_for_programs_files_and_environment_are_refused() {
    with_server(|address| async move {
        let mut session = connect(address).await;
        assert!(log_in(&mut session, USER, 1).await);
        let mut channel = session.channel_open_session().await.unwrap();
        channel.set_env(true, "LD_PRELOAD", "x").await.unwrap();
        channel.request_subsystem(true, "sftp").await.unwrap();
        channel.request_x11(true, true, "a", "b", 0).await.unwrap();
        channel.agent_forward(true).await.unwrap();
        for _ in 0..4 {
            let answer = channel.wait().await;
            assert!(matches!(answer, Some(ChannelMsg::Failure)), "{answer:?}");
        }
        channel.request_pty(true, "xterm", u32::MAX, u32::MAX, 0, 0, &[]).await.unwrap();
        channel.request_pty(true, "xterm", 80, 24, 0, 0, &[]).await.unwrap();
        channel.request_shell(true).await.unwrap();
        channel.exec(true, "pair list").await.unwrap();
        let mut answers = Vec::new();
        while answers.len() < 4 {
            match channel.wait().await {
                Some(ChannelMsg::Success) => answers.push(true),
                Some(ChannelMsg::Failure) => answers.push(false),
                Some(_) => {}
                None => break,
            }
        }
        assert_eq!(answers, [true, false, true, false], "one terminal, one thing to run");
    })
    .await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_at_once() {
    with_server(|address| async move {
        let mut held = Vec::new();
        for _ in 0..admission::UNAUTHENTICATED_EACH {
            let mut stream = TcpStream::connect(address).await.unwrap();
            assert_eq!(&first_bytes(&mut stream).await, b"SSH-");
            held.push(stream);
        }
        let mut late = TcpStream::connect(address).await.unwrap();
        assert_eq!(late.read(&mut [0; 4]).await.unwrap_or(0), 0);
    })
    .await;
}

#[tokio::test]
async fn what_is_no_ssh_is_closed_without_a_word() {
    with_server(|address| async move {
        for junk in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0xff; 4_096]] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            assert_eq!(&first_bytes(&mut stream).await, b"SSH-");
            let _ = stream.write_all(&junk).await;
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            assert!(rest.len() < 100, "only the rest of the identification: {rest:?}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_does_not_authenticate_in_time_is_closed() {
    with_server(|address| async move {
        let began = tokio::time::Instant::now();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all).await;
        let took = began.elapsed();
        assert!(took >= GRACE && took < GRACE + Duration::from_secs(1), "{took:?}");
    })
    .await;
}

async fn first_bytes(stream: &mut TcpStream) -> [u8; 4] {
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes).await.unwrap();
    bytes
}
