//! The maintenance shell over SSH, with the real OpenSSH client: what an operator does, and what nobody may do.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail as the test does")]

use crate::support::process::{Array, Layout, free_port, run_tool};
use holdfast::clock::{Clock, SystemClock};
use serde_json::Value;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// An array with SSH, and an operator with a key.
struct Desk {
    array: Array,
    directory: tempfile::TempDir,
    port: u16,
}

impl Desk {
    async fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("holdfast-").tempdir().unwrap();
        let mut array = Array::alone(directory.path(), &Layout { volumes: 2, ..Layout::default() });
        let port = free_port();
        for (name, comment) in [("alice", "alice@desk"), ("mallory", "mallory@street")] {
            let key = directory.path().join(name);
            let made = run_tool(
                Command::new("ssh-keygen")
                    .args(["-q", "-t", "ed25519", "-N", "", "-C", comment, "-f"])
                    .arg(&key),
            );
            assert!(made.status.success(), "{made:?}");
        }
        let keys = directory.path().join("authorized_keys");
        std::fs::copy(directory.path().join("alice.pub"), &keys).unwrap();
        let mut config = std::fs::read_to_string(array.config_path()).unwrap();
        // A pair whose other array does not exist: what waits for it, waits.
        let _ = write!(
            config,
            "\n[shell]\nssh = \"127.0.0.1:{port}\"\nauthorized_keys = \"{}\"\n\n\
             [[provision.volume]]\nname = \"jnl\"\nparity_group = \"pg0\"\nsize = \"16MiB\"\n\n\
             [[provision.link]]\nname = \"beta\"\narray = 77\nportal = [\"127.0.0.1:1\"]\n\
             secret = \"a secret for nobody\"\n\n[[provision.group]]\nname = \"g1\"\n\n\
             [[provision.journal]]\ngroup = \"g1\"\nvolume = \"jnl\"\n\n\
             [[provision.journal]]\ngroup = \"g1\"\nvolume = \"jnl\"\nat = \"beta\"\n\n\
             [[provision.pair]]\nname = \"p1\"\ngroup = \"g1\"\npvol = \"data1\"\nsvol = \"beta:copy1\"\n",
            keys.display()
        );
        array.write_config(&config);
        array.start().await;
        Self { array, directory, port }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The client, as `user` with `key`, without anything of the machine's own configuration.
    fn client(&self, program: &str, key: &str) -> Command {
        let mut command = Command::new(program);
        let known_hosts = format!("UserKnownHostsFile={}", self.path("known_hosts").display());
        command.args(["-F", "/dev/null", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"]);
        command.args(["-o", "StrictHostKeyChecking=accept-new", "-o", "IdentityAgent=none"]);
        command.args(["-o", "LogLevel=INFO", "-o", &known_hosts, "-o"]);
        command.arg(format!("Port={}", self.port)).arg("-i").arg(self.path(key));
        command.stdin(Stdio::null());
        command
    }

    /// Runs one command as the operator.
    fn ssh(&self, words: &[&str]) -> Output {
        run_tool(self.client("ssh", "alice").arg("admin@127.0.0.1").args(words))
    }

    fn json(&self, words: &[&str]) -> Value {
        let output = self.ssh(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_over_ssh_answer_as_the_local_shell_does() {
    let desk = Desk::new().await;
    for words in [["volume", "show", "data1"], ["target", "list", "--json"], ["pair", "show", "p1"]] {
        let mut with_json = words.to_vec();
        with_json.push("--json");
        if words[2] == "--json" {
            with_json.pop();
        }
        let local: Vec<&str> = with_json.iter().copied().filter(|word| *word != "--json").collect();
        assert_eq!(desk.json(&with_json), desk.array.shell(&local).unwrap());
    }
    let exit = |words: &[&str]| desk.ssh(words).status.code();
    assert_eq!(exit(&["volume", "list"]), Some(0));
    assert_eq!(exit(&["volume", "show", "none"]), Some(1));
    assert_eq!(exit(&["volume", "eat"]), Some(2));
    assert_eq!(exit(&["pair", "wait", "p1", "--state", "normal", "--timeout", "300ms"]), Some(3));
    let refused = desk.ssh(&["volume", "show", "none"]);
    assert!(stderr(&refused).starts_with("volume show none: "), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_key_stays_and_array_show_tells_its_fingerprint() {
    let mut desk = Desk::new().await;
    let shown = desk.json(&["array", "show", "--json"]);
    let fingerprint = shown["ssh"]["fingerprint"].as_str().unwrap().to_owned();
    let known = run_tool(Command::new("ssh-keygen").arg("-lf").arg(desk.path("known_hosts")));
    let known = String::from_utf8(known.stdout).unwrap();
    assert!(known.contains(&fingerprint), "{known} has no {fingerprint}");
    desk.array.stop().await;
    desk.array.start().await;
    // A changed key would be refused by the client now.
    assert_eq!(desk.json(&["array", "show", "--json"])["ssh"]["fingerprint"], fingerprint.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_stand_in_the_audit_log_with_the_key_and_the_address() {
    let desk = Desk::new().await;
    let made = desk.ssh(&["volume", "create", "new1", "--parity-group", "pg0", "--size", "4MiB", "--thin"]);
    assert!(made.status.success(), "{made:?}");
    let audit = desk.json(&["audit", "list", "--last", "1", "--json"]);
    let (who, from) = (audit[0]["who"].as_str().unwrap(), audit[0]["from"].as_str().unwrap());
    assert!(who.starts_with("alice@desk (SHA256:"), "{audit}");
    assert!(from.parse::<SocketAddr>().is_ok_and(|from| from.ip().is_loopback()), "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_passwords_and_other_users_are_refused_alike() {
    let desk = Desk::new().await;
    assert!(desk.ssh(&["volume", "list"]).status.success(), "the address is known from now on");
    let mallory = run_tool(desk.client("ssh", "mallory").args(["admin@127.0.0.1", "volume", "list"]));
    let root = run_tool(desk.client("ssh", "alice").args(["root@127.0.0.1", "volume", "list"]));
    let password = run_tool(
        desk.client("ssh", "alice")
            .args(["-o", "PubkeyAuthentication=no", "-o", "BatchMode=no", "-o", "NumberOfPasswordPrompts=1"])
            .args(["admin@127.0.0.1", "volume", "list"]),
    );
    for output in [&mallory, &root, &password] {
        assert_eq!(output.status.code(), Some(255));
        assert!(output.stdout.is_empty());
        assert!(stderr(output).contains("Permission denied (publickey)."), "{}", stderr(output));
    }
    // A key is taken away without a restart.
    std::fs::write(desk.path("authorized_keys"), "# nobody\n").unwrap();
    assert_eq!(desk.ssh(&["volume", "list"]).status.code(), Some(255));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_the_shell_can_be_had() {
    let desk = Desk::new().await;
    let refused = |command: &mut Command, why: &str| {
        let output = run_tool(command);
        assert!(!output.status.success() && stderr(&output).contains(why), "{command:?}: {output:?}");
    };
    let to_portal = desk.array.portal();
    refused(desk.client("ssh", "alice").args(["-W", to_portal, "admin@127.0.0.1"]), "prohibited");
    let back = ["-N", "-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1", "admin@127.0.0.1"];
    refused(desk.client("ssh", "alice").args(back), "forwarding failed");
    let socket = ["-N", "-o", "ExitOnForwardFailure=yes", "-R", "/tmp/x:127.0.0.1:1", "admin@127.0.0.1"];
    refused(desk.client("ssh", "alice").args(socket), "forwarding failed");
    refused(desk.client("sftp", "alice").args(["-b", "/dev/null", "admin@127.0.0.1"]), "");
    let here = desk.path("got");
    refused(desk.client("scp", "alice").arg("admin@127.0.0.1:/etc/passwd").arg(&here), "");
    assert!(!here.exists());
    refused(desk.client("ssh", "alice").args(["admin@127.0.0.1", "/bin/sh", "-c", "id"]), "unrecognized");
    for cipher in ["aes256-ctr", "chacha20-poly1305@openssh.com"] {
        refused(
            desk.client("ssh", "alice").args(["-c", cipher, "admin@127.0.0.1", "array", "show"]),
            "no matching cipher",
        );
    }
    let secret = desk.path("alice");
    let secret = secret.to_str().unwrap();
    let link = ["link", "create", "x", "--array", "9", "--portal", "127.0.0.1:9", "--secret-file", secret];
    refused(desk.client("ssh", "alice").arg("admin@127.0.0.1").args(link), "over SSH");
}

/// A program with a terminal of ours: what it shows is gathered.
struct Terminal {
    child: Child,
    screen: Arc<Mutex<String>>,
    clock: SystemClock,
}

impl Terminal {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let screen = Arc::new(Mutex::new(String::new()));
        let (mut output, shown) = (child.stdout.take().unwrap(), Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut bytes = [0; 4_096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                shown.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Self { child, screen, clock: SystemClock::new() }
    }

    fn keys(&mut self, keys: &str) {
        let input = self.child.stdin.as_mut().unwrap();
        input.write_all(keys.as_bytes()).unwrap();
        input.flush().unwrap();
    }

    /// Waits until `text` is shown; what was shown up to its end is forgotten.
    async fn shows(&self, text: &str) {
        let began = self.clock.now();
        loop {
            {
                let mut screen = self.screen.lock().unwrap();
                if let Some(at) = screen.find(text) {
                    screen.drain(..at + text.len());
                    return;
                }
                let took = self.clock.now().since(began);
                assert!(took < Duration::from_secs(20), "{text:?} is not shown: {screen:?}");
            }
            self.clock.sleep(Duration::from_millis(20)).await;
        }
    }

    async fn ends_with(&mut self, exit: i32) {
        let began = self.clock.now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert_eq!(status.code(), Some(exit));
                return;
            }
            assert!(self.clock.now().since(began) < Duration::from_secs(20), "it does not end");
            self.clock.sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = (self.child.kill(), self.child.wait());
    }
}

/// What an operator does at a prompt: completion of words and names, history, help, an interrupt, leaving.
async fn use_the_prompt(terminal: &mut Terminal) {
    terminal.shows("solo> ").await;
    terminal.keys("vol\t");
    terminal.shows("volume ").await;
    terminal.keys("show data\t\t");
    terminal.shows("data1  data2").await;
    terminal.keys("2\r");
    terminal.shows("parity_group").await;
    terminal.shows("pg0").await;
    terminal.shows("solo> ").await;
    // Back in the history, and another name in the same line.
    terminal.keys("\x1b[A\x7f1\r");
    terminal.shows("volume show data1\x1b").await;
    terminal.shows("pg0").await;
    terminal.shows("solo> ").await;
    terminal.keys("help\r");
    terminal.shows("parity-group").await;
    terminal.shows("solo> ").await;
    terminal.keys("pair wait p\t--state normal\r");
    terminal.shows("pair wait p1 --state normal\x1b").await;
    terminal.keys("\x03");
    terminal.shows("^C").await;
    terminal.shows("solo> ").await;
    terminal.keys("volume show none\r");
    terminal.shows("there is no volume").await;
    terminal.shows("solo> ").await;
    terminal.keys("quit\r");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_prompt_over_ssh_completes_remembers_and_helps() {
    let desk = Desk::new().await;
    let mut terminal = Terminal::start(desk.client("ssh", "alice").args(["-tt", "admin@127.0.0.1"]));
    use_the_prompt(&mut terminal).await;
    terminal.ends_with(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_prompt_is_the_same() {
    let desk = Desk::new().await;
    let binary =
        std::env::var("HOLDFAST_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_holdfast").to_owned());
    let socket = desk.array.directory().join("data/holdfast.sock");
    let shell = format!("{} shell --socket {}", quoted(Path::new(&binary)), quoted(&socket));
    let mut terminal = Terminal::start(Command::new("script").args(["-qfec", &shell, "/dev/null"]));
    use_the_prompt(&mut terminal).await;
    terminal.ends_with(1).await;
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_terminal_a_shell_takes_a_command_a_line() {
    let desk = Desk::new().await;
    let mut child = desk
        .client("ssh", "alice")
        .args(["-T", "admin@127.0.0.1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"volume show data1 --json\n\nvolume show none").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "that of the last command");
    let volume: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(volume["name"], "data1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_from_elsewhere_does_not_lock_a_known_address_out() {
    let desk = Desk::new().await;
    assert!(desk.ssh(&["array", "show"]).status.success(), "the address is known from now on");
    let (port, stop) = (desk.port, Arc::new(std::sync::atomic::AtomicBool::new(false)));
    // Attackers at a thousand addresses, who keep what they get and come again when they are turned away.
    let attackers: Vec<_> = (0..8_u8)
        .map(|thread| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let (mut held, mut tried) = (Vec::new(), 0_u32);
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    for last in 1..=125_u8 {
                        tried += 1;
                        let Some(mut stream) = connect_from([127, 1, thread, last], port) else { continue };
                        // Whoever gets in is greeted.
                        if stream.read(&mut [0; 4]).unwrap_or(0) > 0 {
                            held.push(stream);
                        }
                    }
                }
                // Still held: what one attacker gives up, another one gets.
                (held, tried)
            })
        })
        .collect();
    let clock = SystemClock::new();
    clock.sleep(Duration::from_secs(1)).await;
    for _ in 0..5 {
        let began = clock.now();
        let output = desk.ssh(&["array", "show"]);
        let took = clock.now().since(began);
        assert!(output.status.success(), "{output:?}");
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let (mut held, mut tried) = (Vec::new(), 0);
    for attacker in attackers {
        let (in_hand, attempts) = attacker.join().unwrap();
        held.extend(in_hand);
        tried += attempts;
    }
    let held = held.len();
    assert!(held <= 10, "{held} connections wait for authentication after {tried} attempts");
    assert!(tried > 1_000);
    assert!(desk.array.shell(&["volume", "list"]).is_ok(), "the array serves");
}

/// A connection from one of this machine's many loopback addresses; it waits half a second at most for anything.
fn connect_from(address: [u8; 4], port: u16) -> Option<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).ok()?;
    socket.bind(&SocketAddr::from((address, 0)).into()).ok()?;
    socket.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into()).ok()?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_millis(500))).ok()?;
    Some(stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_are_killed_harm_nothing() {
    let desk = Desk::new().await;
    for _ in 0..20 {
        let mut child = desk
            .client("ssh", "alice")
            .args(["admin@127.0.0.1", "pair", "wait", "p1", "--state", "normal"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        SystemClock::new().sleep(Duration::from_millis(150)).await;
        child.kill().unwrap();
        child.wait().unwrap();
    }
    // More than sessions are allowed at a time: each of them gave its place back.
    assert!(desk.ssh(&["volume", "list"]).status.success());
    assert!(desk.array.shell(&["volume", "list"]).is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_in_a_file_is_sent_by_standard_input_and_events_are_followed() {
    let desk = Desk::new().await;
    let send = |words: &[&str], text: &str| {
        let mut client = desk.client("ssh", "alice");
        client.arg("admin@127.0.0.1").args(words);
        let mut child =
            client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let mut following = desk.client("ssh", "alice");
    following.args(["admin@127.0.0.1", "event", "follow", "--after", "0", "--json"]);
    let following = following.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut following = Following(following);
    let mut events = BufReader::new(following.0.stdout.take().unwrap()).lines();

    let link = ["link", "create", "gamma", "--array", "19", "--portal", "127.0.0.1:9", "--secret-file", "-"];
    let made = send(&link, "a secret that stands in no file\n");
    assert!(made.status.success(), "{made:?}");
    let more = "[[provision.link]]\nname = \"epsilon\"\narray = 17\nportal = [\"127.0.0.1:9\"]\nsecret = \"another secret of no file\"\n";
    let applied = send(&["config", "apply", "-"], more);
    assert!(applied.status.success(), "{applied:?}");
    assert!(desk.ssh(&["link", "show", "epsilon"]).status.success());
    let thief = "[[provision.link]]\nname = \"delta\"\narray = 18\nportal = [\"127.0.0.1:9\"]\n\
                 secret = { file = \"/etc/hostname\" }\n";
    let refused = send(&["config", "apply", "-"], thief);
    assert!(!refused.status.success() && stderr(&refused).contains("no file"), "{refused:?}");

    let of = |kind: &str, name: &str, line: &str| {
        let event: Value = serde_json::from_str(line).unwrap();
        (event["kind"] == kind && event["name"] == name).then_some(event)
    };
    let mut first = None;
    let link = loop {
        let line = events.next().unwrap().unwrap();
        first.get_or_insert(line.clone());
        if let Some(event) = of("link", "gamma", &line) {
            break event;
        }
    };
    assert_eq!((&link["was"], &link["state"]), (&Value::Null, &"idle".into()));
    let first: Value = serde_json::from_str(&first.unwrap()).unwrap();
    assert_eq!((&first["kind"], &first["state"]), (&"array".into(), &"started".into()));
    let listed = desk.json(&["event", "list", "--json"]);
    assert!(listed.as_array().unwrap().contains(&link), "{listed}");
}

/// A client that is ended with its test.
struct Following(Child);

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
