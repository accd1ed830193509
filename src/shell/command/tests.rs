//! Commands against a fixed picture of an array, and waits against one that changes.

use super::*;
use crate::clock::{BoxFuture, SimClock};
use crate::shell::view::{
    AuditView, GroupView, JournalView, LinkView, PairView, ParityGroupView, PointerView, ReaderView,
    SessionView, TargetView, UnitView, VolumeView,
};
use std::sync::Mutex;
use tokio::sync::Notify;

/// An array that is what the test says.
#[derive(Default)]
struct Picture {
    now: Mutex<Snapshot>,
    notify: Notify,
}

impl Picture {
    fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.now.lock().unwrap());
        self.notify.notify_waiters();
    }
}

impl Console for Picture {
    fn snapshot(&self) -> Snapshot {
        self.now.lock().unwrap().clone()
    }

    fn audit(&self, last: usize) -> Vec<AuditView> {
        vec![AuditView { what: "volume create data1".into(), ..AuditView::default() }; last.min(3)]
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.notify.notified())
    }
}

fn full() -> Snapshot {
    let name = |text: &str| text.to_owned();
    let lun = LunView {
        target: name("iqn.2026-11.io.x"),
        lun: 1,
        volume: name("data1"),
        access: name("read-write"),
        read_only_for: Vec::new(),
    };
    Snapshot {
        units: vec![UnitView { name: name("pg0.0"), ..UnitView::default() }],
        parity_groups: vec![ParityGroupView { name: name("pg0"), ..ParityGroupView::default() }],
        volumes: vec![VolumeView { name: name("data1"), size_bytes: 200 << 20, ..VolumeView::default() }],
        targets: vec![TargetView {
            name: name("iqn.2026-11.io.x"),
            luns: vec![lun],
            ..TargetView::default()
        }],
        sessions: vec![SessionView { number: 7, ..SessionView::default() }],
        links: vec![LinkView { name: name("beta"), ..LinkView::default() }],
        groups: vec![GroupView {
            name: name("g1"),
            readers: vec![ReaderView { link: name("beta"), ..ReaderView::default() }],
            ..GroupView::default()
        }],
        journals: vec![JournalView {
            group: name("g1"),
            volume: name("jnl"),
            pointers: vec![PointerView::default()],
            ..JournalView::default()
        }],
        pairs: vec![PairView { name: name("p1"), state: name("being-copied"), ..PairView::default() }],
        ..Snapshot::default()
    }
}

fn shell(now: Snapshot) -> (Arc<Picture>, Shell) {
    let picture = Arc::new(Picture { now: Mutex::new(now), notify: Notify::new() });
    let shell = Shell::new(picture.clone(), Arc::new(SimClock::new(0)));
    (picture, shell)
}

async fn run(shell: &Shell, line: &str) -> Response {
    let argv = line.split_whitespace().map(str::to_owned).collect();
    shell.run(&Request { argv, columns: 100, ..Request::default() }, &Who::Array).await
}

const EVERY: [&str; 23] = [
    "array show",
    "unit list",
    "unit show pg0.0",
    "parity-group list",
    "parity-group show pg0",
    "volume list",
    "volume show data1",
    "target list",
    "target show iqn.2026-11.io.x",
    "lun list",
    "lun list iqn.2026-11.io.x",
    "session list",
    "session show 7",
    "link list",
    "link show beta",
    "group list",
    "group show g1",
    "journal list",
    "journal show jnl",
    "pair list",
    "pair show p1",
    "pair wait p1 --state being-copied",
    "audit list --last 2",
];

#[tokio::test(start_paused = true)]
async fn every_command_answers_people_and_programs() {
    let (_, shell) = shell(full());
    for line in EVERY {
        let table = run(&shell, line).await;
        assert_eq!((table.exit, table.stderr.as_str()), (0, ""), "{line}");
        assert!(!table.stdout.trim().is_empty(), "{line}");
        let json = run(&shell, &format!("{line} --json")).await;
        assert_eq!(json.exit, 0, "{line}");
        let value: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
        assert_eq!(value.is_array(), line.contains(" list"), "{line}");
        snake_case(&value, line);
    }
}

fn snake_case(value: &serde_json::Value, line: &str) {
    match value {
        serde_json::Value::Object(map) => {
            for (name, inner) in map {
                let fits = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
                assert!(fits, "{line}: {name}");
                snake_case(inner, line);
            }
        }
        serde_json::Value::Array(list) => list.iter().for_each(|inner| snake_case(inner, line)),
        _ => {}
    }
}

#[tokio::test(start_paused = true)]
async fn every_command_has_help() {
    let (_, shell) = shell(full());
    for line in EVERY {
        let noun_and_verb: Vec<&str> = line.split(' ').take(2).collect();
        let help = run(&shell, &format!("{} --help", noun_and_verb.join(" "))).await;
        assert_eq!(help.exit, 0, "{line}");
        assert!(help.stdout.contains("Usage"), "{line}: {}", help.stdout);
    }
    let help = run(&shell, "help").await;
    assert_eq!(help.exit, 0);
    assert!(help.stdout.contains("parity-group"), "{}", help.stdout);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_one_line_that_begins_with_what_was_asked() {
    let (_, shell) = shell(full());
    for (line, expected) in [
        ("volume show x", "volume show x: there is no volume \"x\"\n"),
        ("lun list x", "lun list x: there is no target \"x\"\n"),
        ("pair wait x --state normal", "pair wait x: there is no pair \"x\"\n"),
        ("pair show x --json", "pair show x: there is no pair \"x\"\n"),
    ] {
        let refused = run(&shell, line).await;
        assert_eq!((refused.exit, refused.stderr.as_str()), (1, expected));
    }
    for line in ["volume", "volume eat x", "pair wait p1", "audit list --last 0", ""] {
        assert_eq!(run(&shell, line).await.exit, 2, "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_when_the_state_is_reached() {
    let (picture, shell) = shell(full());
    let change = async {
        tokio::task::yield_now().await;
        picture.change(|now| now.pairs[0].copy_completion_bytes = 1);
        tokio::task::yield_now().await;
        picture.change(|now| now.pairs[0].state = "normal".into());
    };
    let (answer, ()) = tokio::join!(run(&shell, "pair wait p1 --state normal --timeout 60s"), change);
    assert_eq!(answer.exit, 0, "{}", answer.stderr);
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_an_update_ends_when_it_is_restored() {
    let (picture, shell) = shell(full());
    let change = async {
        for number in [5, 6, 7] {
            tokio::task::yield_now().await;
            picture.change(|now| now.pairs[0].restored_update_number = Some(number));
        }
    };
    let (answer, ()) = tokio::join!(run(&shell, "pair wait p1 --update-number 7"), change);
    assert_eq!(answer.exit, 0, "{}", answer.stderr);
}

#[tokio::test(start_paused = true)]
async fn a_wait_times_out_with_its_own_exit_code() {
    let (_, shell) = shell(full());
    let start = shell.clock.now();
    let answer = run(&shell, "pair wait p1 --state normal --timeout 60s").await;
    assert_eq!(answer.exit, Exit::TimedOut as u8);
    assert_eq!(answer.stderr, "pair wait p1: the time is over, the pair is being-copied\n");
    assert_eq!(shell.clock.now().since(start), Duration::from_secs(60));
}

/// `group resync` and then `pair wait` once ended at once: the pair was still suspended.
#[tokio::test(start_paused = true)]
async fn a_wait_goes_on_while_a_resync_is_asked_for() {
    let (picture, shell) = shell(full());
    picture.change(|now| {
        now.pairs[0].state = "suspended".into();
        now.pairs[0].asked = Some("resync".into());
    });
    let change = async {
        shell.clock.sleep(Duration::from_secs(5)).await;
        picture.change(|now| now.pairs[0].state = "normal".into());
    };
    let (answer, ()) = tokio::join!(run(&shell, "pair wait p1 --state normal --timeout 60s"), change);
    assert_eq!(answer.exit, 0, "{}", answer.stderr);
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_in_another_state_with_its_own_exit_code() {
    for state in ["suspended", "abnormal"] {
        let (picture, shell) = shell(full());
        let change = async {
            tokio::task::yield_now().await;
            picture.change(|now| {
                now.pairs[0].state = state.into();
                now.pairs[0].reason = Some("overflow".into());
            });
        };
        let (answer, ()) = tokio::join!(run(&shell, "pair wait p1 --state normal"), change);
        assert_eq!(answer.exit, Exit::OtherState as u8);
        assert_eq!(answer.stderr, format!("pair wait p1: the pair is {state}: overflow\n"));
    }
    let (picture, shell) = shell(full());
    let change = async {
        tokio::task::yield_now().await;
        picture.change(|now| now.pairs.clear());
    };
    let (answer, ()) = tokio::join!(run(&shell, "pair wait p1 --update-number 9"), change);
    assert_eq!(answer.exit, Exit::OtherState as u8);
}

#[tokio::test(start_paused = true)]
async fn a_configuration_is_checked_from_the_shell() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("x.toml");
    std::fs::write(&file, "[array]\nnumber = 0\n").unwrap();
    let (picture, shell) = shell(full());
    picture.change(|now| now.array.config_file = file.display().to_string());
    let checked = run(&shell, "config check").await;
    assert_eq!(checked.exit, 1);
    assert!(checked.stderr.contains("x.toml:2:10: number: 0 is not within 1 to 65535"), "{}", checked.stderr);
    let json = run(&shell, "config check --json").await;
    let value: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert!(value["mistakes"].as_array().unwrap().len() > 1);
}
