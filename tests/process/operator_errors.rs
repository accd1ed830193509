//! Mistakes of operators with real processes: an array that is started twice, and a control store from yesterday's backup.

use crate::support::process::{Array, Layout, binary, expect_tool, rows, run_tool};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

#[tokio::test(flavor = "multi_thread")]
async fn an_array_that_is_started_twice_goes_on_and_the_second_says_why_it_ends() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut array = Array::alone(directory.path(), &Layout { volumes: 1, ..Layout::default() });
    array.start().await;
    write(&array, 0x22);
    let units = units(&array).len();
    for _ in 0..3 {
        let second = serve(&array.config_path(), &[]);
        let said = String::from_utf8_lossy(&second.stderr).into_owned();
        assert_eq!(second.status.code(), Some(1), "{said}");
        assert!(said.contains("control.redb is in use"), "{said}");
    }
    // From a copy of its configuration with a store of its own: the units are in use.
    let other = directory.path().join("other.toml");
    let text = std::fs::read_to_string(array.config_path()).expect("the configuration");
    let data = array.directory().join("data").display().to_string();
    assert!(text.contains(&data), "{text}");
    std::fs::write(&other, text.replace(&data, &format!("{data}2"))).expect("it is written");
    let second = serve_a_moment(&other).await;
    let unit = array.unit(0).display().to_string();
    assert!(second.lines().any(|line| line.contains(&unit) && line.contains("in use")), "{second}");
    read(&array, 0x22);
    write(&array, 0x33);
    array.stop().await;
    assert_eq!(units, self::units(&array).len(), "and no unit was made");
    array.start().await;
    read(&array, 0x33);
    array.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_the_control_store_is_refused_and_nothing_is_written_until_it_is_taken_by_name() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut array = Array::alone(directory.path(), &Layout { volumes: 1, ..Layout::default() });
    array.start().await;
    write(&array, 0x44);
    array.stop().await;
    let store = array.directory().join("data/control.redb");
    let backup = std::fs::read(&store).expect("the store");
    array.start().await;
    array.shell(&["volume", "create", "later", "--size", "4MiB", "--parity-group", "pg0"]).expect("a volume");
    array.stop().await;
    let newest = std::fs::read(&store).expect("the store");
    let before = units(&array);

    std::fs::write(&store, &backup).expect("yesterday's copy is put back");
    let refused = serve(&array.config_path(), &[]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("the control store is older than parity group pg0"), "{said}");
    assert!(said.contains("--take-older-store"), "it names the remedy: {said}");
    assert!(units(&array) == before, "nothing was written");

    std::fs::write(&store, &newest).expect("the newest is put back");
    array.start().await;
    assert_eq!(volumes(&array).len(), 2);
    array.stop().await;

    std::fs::write(&store, &backup).expect("the newest is lost");
    array.start_with(&["--take-older-store"]).await;
    assert_eq!(volumes(&array).len(), 1, "it knows nothing of the other");
    read(&array, 0x44);
    array
        .shell(&["volume", "create", "again", "--size", "4MiB", "--parity-group", "pg0"])
        .expect("a number that nobody has");
    array.stop().await;
    array.start().await;
    assert_eq!(volumes(&array).len(), 2);
    read(&array, 0x44);
    array.stop().await;
}

fn volumes(array: &Array) -> Vec<Value> {
    rows(&array.shell(&["volume", "list"]).expect("the array answers"))
}

fn units(array: &Array) -> Vec<Vec<u8>> {
    (0..).map(|index| array.unit(index)).map_while(|unit| std::fs::read(unit).ok()).collect()
}

fn serve(config: &Path, more: &[&str]) -> Output {
    run_tool(binary().arg("serve").args(more).arg("--config").arg(config))
}

/// What an array says until somebody has asked it to end.
async fn serve_a_moment(config: &PathBuf) -> String {
    let mut limited = Command::new("timeout");
    let program = binary().get_program().to_owned();
    let output =
        run_tool(limited.args(["-s", "TERM", "4"]).arg(program).args(["serve", "--config"]).arg(config));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn write(array: &Array, pattern: u8) {
    let line = format!("write -P {pattern:#x} 0 1M");
    expect_tool(Command::new("qemu-io").args(["-f", "raw", "-c", &line, &array.url(1)]));
}

fn read(array: &Array, pattern: u8) {
    let line = format!("read -P {pattern:#x} 0 1M");
    let read = expect_tool(Command::new("qemu-io").args(["-f", "raw", "-c", &line, &array.url(1)]));
    assert!(!read.contains("Pattern verification failed"), "{read}");
}
