//! The binary as scripts meet it: output, exit codes, the way to a running array.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use holdfast::clock::{BoxFuture, SystemClock};
use holdfast::shell::command::Shell;
use holdfast::shell::socket::ManagementSocket;
use holdfast::shell::view::{AuditView, Console, PairView, Snapshot, VolumeView};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

struct Fixed;

impl Console for Fixed {
    fn snapshot(&self) -> Snapshot {
        let volume = VolumeView { name: "data1".into(), size_bytes: 200 << 20, ..VolumeView::default() };
        let pair = |name: &str, state: &str| PairView {
            name: name.into(),
            state: state.into(),
            ..PairView::default()
        };
        let pairs = vec![pair("p1", "being-copied"), pair("p2", "abnormal"), pair("p3", "normal")];
        Snapshot { volumes: vec![volume], pairs, ..Snapshot::default() }
    }

    fn audit(&self, _: usize) -> Vec<AuditView> {
        Vec::new()
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }
}

fn holdfast(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(arguments)
        .env_remove("HOLDFAST_SOCKET")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that does not read its input may have ended already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// Runs the binary against an array that is served in this process.
async fn with_array<T: Send + 'static>(test: impl FnOnce(&Path) -> T + Send + 'static) -> T {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("holdfast.sock");
    let socket = ManagementSocket::bind(&path).unwrap();
    let shell = Shell::new(Arc::new(Fixed), Arc::new(SystemClock::new()));
    let test = tokio::task::spawn_blocking(move || test(&path));
    tokio::select! {
        () = socket.serve(shell, 16) => unreachable!(),
        result = test => result.unwrap(),
    }
}

#[test]
fn check_is_silent_about_a_right_file_and_names_every_mistake_of_a_wrong_one() {
    let right = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/holdfast.toml");
    let output = holdfast(&["check", "--config", right], "");
    assert_eq!((code(&output), output.stdout.len(), output.stderr.len()), (0, 0, 0));

    let directory = tempfile::tempdir().unwrap();
    let wrong = directory.path().join("x.toml");
    std::fs::write(&wrong, "[array]\nnumber = 1\nname = \"a b\"\n[cash]\n").unwrap();
    let output = holdfast(&["check", "--config", wrong.to_str().unwrap()], "");
    assert_eq!(code(&output), 1);
    let text = String::from_utf8(output.stderr).unwrap();
    let expected = [
        ":1:1: [array] needs data_dir",
        ":1:1: [[portal]] is missing",
        ":3:8: name: ",
        ":4:2: the file has no key \"cash\"",
    ];
    for part in expected {
        assert!(text.contains(&format!("x.toml{part}")), "{part} is not in {text}");
    }
    assert_eq!(text.lines().count(), expected.len(), "{text}");
    let output = holdfast(&["check", "--config", "/nonexistent.toml"], "");
    assert_eq!(code(&output), 1);
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("/nonexistent.toml: cannot be read"));
}

#[test]
fn usage_mistakes_and_absent_arrays_have_exit_codes_of_their_own() {
    assert_eq!(code(&holdfast(&["nonsense"], "")), 2);
    assert_eq!(code(&holdfast(&["pair", "wait", "p1"], "")), 2);
    let output = holdfast(&["--socket", "/nonexistent/s", "volume", "list"], "");
    assert_eq!(code(&output), 4);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.starts_with("volume list: no array answers at /nonexistent/s"), "{text}");
    assert_eq!(text.lines().count(), 1);
    assert_eq!(code(&holdfast(&["--socket", "/nonexistent/s", "shell"], "")), 4);
    assert_eq!(code(&holdfast(&["--config", "/nonexistent.toml", "volume", "list"], "")), 4);
    assert_eq!(code(&holdfast(&["--help"], "")), 0);
    assert_eq!(code(&holdfast(&["--version"], "")), 0);
}

#[test]
fn completions_know_the_commands_of_the_shell() {
    let output = holdfast(&["completions", "bash"], "");
    assert_eq!(code(&output), 0);
    assert!(String::from_utf8(output.stdout).unwrap().contains("parity-group"));
}

#[tokio::test]
async fn commands_reach_the_array_and_bring_back_its_exit_code() {
    with_array(|socket| {
        let socket = socket.to_str().unwrap();
        let ask = |line: &str| {
            let mut arguments: Vec<&str> = line.split(' ').collect();
            arguments.extend(["--socket", socket]);
            holdfast(&arguments, "")
        };
        let output = ask("volume list --json");
        assert_eq!(code(&output), 0);
        let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(rows[0]["size_bytes"], 200 << 20);
        assert!(String::from_utf8(ask("volume list").stdout).unwrap().contains("200.0 MiB"));
        assert_eq!(code(&ask("volume show data2")), 1);
        assert_eq!(code(&ask("pair wait p3 --state normal --timeout 60s")), 0);
        assert_eq!(code(&ask("pair wait p1 --state normal --timeout 50ms")), 3);
        assert_eq!(code(&ask("pair wait p2 --state normal --timeout 60s")), 5);
    })
    .await;
}

#[tokio::test]
async fn the_shell_reads_commands_from_its_input() {
    with_array(|socket| {
        let input = "volume list\n\nvolume show 'data1' --json\nvolume show data2\nexit\nnever\n";
        let output = holdfast(&["shell", "--socket", socket.to_str().unwrap()], input);
        assert_eq!(code(&output), 1, "that of the last command");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("200.0 MiB") && text.contains("\"size_bytes\": 209715200"), "{text}");
        assert_eq!(
            String::from_utf8(output.stderr).unwrap(),
            "volume show data2: there is no volume \"data2\"\n"
        );
    })
    .await;
}
