//! libiscsi's conformance suite, test by test, each in a process of its own with a limit of time.
//!
//! Without environment it starts an array and runs the families that are built; those that write run once more on a volume with
//! two live copies, which then have to be equal. `HOLDFAST_CONFORMANCE_URL` names
//! another LUN to run against (its data is lost), `HOLDFAST_CONFORMANCE_FAMILIES` other beginnings of "Suite.Test".
//! A test that skips itself is counted as skipped, although CUnit counts it as passed; a test that did not run at all
//! has failed. The summaries go to `conformance.txt` and `conformance-copied.txt` in the target's temporary directory.

#[path = "../support/mod.rs"]
mod support;

use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;
use support::process::{Array, Cluster, Layout, expect_tool, run_tool};
use support::random::number_from_environment;
use support::wof::{Geometry, read_image};

const FAMILIES: &str = "Read Write Verify OrWrite CompareAndWrite Prefetch Unmap GetLBAStatus ExtendedCopy ReceiveCopyResults \
     ReportSupportedOpcodes Inquiry Mandatory ModeSense6 TestUnitReady iSCSI";

/// Suites of which at least one test must have run to its end: the array cannot pass by implementing nothing.
const CORE: [&str; 27] = [
    "Read6",
    "Read10",
    "Read12",
    "Read16",
    "Write10",
    "Write12",
    "Write16",
    "WriteSame10",
    "WriteSame16",
    "Unmap",
    "Verify10",
    "Verify12",
    "Verify16",
    "WriteVerify10",
    "WriteVerify12",
    "WriteVerify16",
    "OrWrite",
    "CompareAndWrite",
    "Prefetch10",
    "GetLBAStatus",
    "ExtendedCopy",
    "ReceiveCopyResults",
    "ReportSupportedOpcodes",
    "Inquiry",
    "ReadCapacity16",
    "TestUnitReady",
    "iSCSIResiduals",
];

/// What runs on a volume that is copied: everything that writes. WRITE ATOMIC exists only there.
const FAMILIES_OF_COPIED: &str = "Write10 Write16 WriteSame WriteAtomic WriteVerify16 OrWrite CompareAndWrite Unmap ExtendedCopy ReceiveCopyResults";

/// Suites of which at least one test must have run to its end there.
const CORE_OF_COPIED: [&str; 7] = [
    "WriteAtomic16",
    "OrWrite",
    "CompareAndWrite",
    "ExtendedCopy",
    "WriteSame16",
    "Unmap",
    "ReceiveCopyResults",
];

/// What the tool says when it clears old reservations before each test, which has nothing to do with the test.
const PREPARATION: &str = "PERSISTENT RESERVE IN is not implemented";

/// Tests that no target can pass, with the assertion that fails (libiscsi 1.19). Any other failure of them counts. The first looks
/// at what a callback will set before the callback can have run. The second asks, where a physical block has eight logical ones,
/// for the status of block 9 and wants an answer that begins at block 16.
const WRONG_IN_THE_TOOL: [(&str, &str); 2] = [
    ("iSCSITMF.LUNResetSimpleAsync", "CU_ASSERT_EQUAL(reconnect_succeeded,1)"),
    ("GetLBAStatus.UnmapSingle", "lba offset in first descriptor does not"),
];

#[derive(Clone, PartialEq, Eq, Debug)]
enum Outcome {
    Passed,
    Skipped(String),
    Failed(String),
    TimedOut,
}

#[tokio::test(flavor = "multi_thread")]
async fn no_test_of_the_built_families_fails() {
    if let Ok(url) = std::env::var("HOLDFAST_CONFORMANCE_URL") {
        return judge(&run_suite(&url, FAMILIES), &CORE);
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let layout = Layout { volumes: 1, volume_bytes: 256 << 20, ..Layout::default() };
    let mut array = Array::alone(directory.path(), &layout);
    array.start().await;
    let results = run_suite(&array.url(1), FAMILIES);
    judge(&results, &CORE);
    array.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_writes_does_so_on_a_copied_volume_and_the_copies_become_equal() {
    if std::env::var_os("HOLDFAST_CONFORMANCE_URL").is_some() {
        return; // The test above runs it.
    }
    let layout = Layout { volumes: 1, volume_bytes: 32 << 20, journal_bytes: 64 << 20, ..Layout::default() };
    let geometry = Geometry::new(1, layout.volume_bytes / 512);
    let cluster = Cluster::running(layout).await;
    let results = run_suite(&cluster.arrays[0].url(1), FAMILIES_OF_COPIED);
    judge(&results, &CORE_OF_COPIED);
    cluster.wait_for_readers(&[2, 3], Duration::from_secs(60)).await;
    let mut images = Vec::new();
    for array in &cluster.arrays {
        let port = array.ports(1, 1).remove(0);
        images.push(read_image(&port, geometry).await.expect("the volume can be read"));
    }
    assert!(images[0][0].iter().any(|byte| *byte != 0), "the suite left nothing behind");
    for (copy, name) in images[1..].iter().zip(["first", "second"]) {
        assert!(*copy == images[0], "the {name} copy is not equal");
    }
}

#[test]
fn the_summary_of_cunit_is_read_as_it_is_meant() {
    let table = |tests: &str| {
        format!("Run Summary:\n              suites 1 1 n/a 0 0\n               tests {tests}\n")
    };
    assert_eq!(judge_output(&table("1 1 1 0 0"), Some(0)), Outcome::Passed);
    let skipped = format!("    [SKIPPED] UNMAP is not implemented.\n{}", table("1 1 1 0 0"));
    assert_eq!(judge_output(&skipped, Some(0)), Outcome::Skipped("UNMAP is not implemented.".into()));
    let prepared = format!("    [SKIPPED] {PREPARATION}.\n{}", table("1 1 1 0 0"));
    assert_eq!(judge_output(&prepared, Some(0)), Outcome::Passed);
    let failed = format!("    [FAILED] READ10 got GOOD\n{}", table("1 1 0 1 0"));
    assert_eq!(judge_output(&failed, Some(0)), Outcome::Failed("READ10 got GOOD".into()));
    assert!(matches!(judge_output(&table("0 0 0 0 0"), Some(0)), Outcome::Failed(_)), "nothing ran");
    assert!(matches!(judge_output("Failed to log in", Some(10)), Outcome::Failed(_)), "no table");
    assert_eq!(judge_output("", Some(124)), Outcome::TimedOut);
}

fn run_suite(url: &str, families: &str) -> Vec<(String, Outcome)> {
    let families = std::env::var("HOLDFAST_CONFORMANCE_FAMILIES").unwrap_or_else(|_| families.to_owned());
    let families: Vec<&str> = families.split_whitespace().collect();
    let listed = expect_tool(Command::new("iscsi-test-cu").arg("--list"));
    let names =
        listed.lines().filter_map(|line| line.trim().strip_prefix("ALL.")).filter(|name| name.contains('.'));
    let chosen = names.filter(|name| families.iter().any(|family| name.starts_with(family)));
    chosen.map(|name| (name.to_owned(), run_test(name, url))).collect()
}

fn run_test(name: &str, url: &str) -> Outcome {
    let limit_s = number_from_environment("HOLDFAST_CONFORMANCE_LIMIT_S", 60).to_string();
    let mut command = Command::new("timeout");
    command.args(["-k", "2", &limit_s, "iscsi-test-cu", "-d", "-n", &format!("--test=ALL.{name}"), url]);
    let output = run_tool(&mut command);
    let text = [output.stdout.as_slice(), &output.stderr].map(String::from_utf8_lossy).concat();
    match judge_output(&text, output.status.code()) {
        Outcome::Failed(why)
            if WRONG_IN_THE_TOOL.iter().any(|(test, at)| *test == name && why.contains(at)) =>
        {
            Outcome::Skipped(format!("the tool is wrong: {why}"))
        }
        outcome => outcome,
    }
}

/// The verdict on one test from what the tool printed and how it ended (124 and 137: `timeout` ended it).
fn judge_output(text: &str, code: Option<i32>) -> Outcome {
    if matches!(code, Some(124 | 137)) {
        return Outcome::TimedOut;
    }
    let numbers = text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("tests"))
            .then(|| words.filter_map(|word| word.parse::<u32>().ok()).collect::<Vec<_>>())
    });
    let skipped = || {
        let notes = text.lines().filter_map(|line| Some(line.split_once("[SKIPPED]")?.1.trim()));
        notes.filter(|why| !why.starts_with(PREPARATION)).map(str::to_owned).next()
    };
    let note = |mark: &str| text.lines().find_map(|line| Some(line.split_once(mark)?.1.trim().to_owned()));
    match numbers.as_deref() {
        Some([_, ran, _, failed, ..]) if *ran > 0 && *failed == 0 => match skipped() {
            Some(why) => Outcome::Skipped(why),
            None => Outcome::Passed,
        },
        Some([_, ran, ..]) if *ran > 0 => {
            Outcome::Failed(note("[FAILED]").unwrap_or_else(|| assertion(text)))
        }
        _ => Outcome::Failed(format!("did not run: {}", last_line(text))),
    }
}

fn judge(results: &[(String, Outcome)], core: &[&str]) {
    let count = |wanted: fn(&Outcome) -> bool| results.iter().filter(|(_, outcome)| wanted(outcome)).count();
    let passed = count(|outcome| *outcome == Outcome::Passed);
    let skipped = count(|outcome| matches!(outcome, Outcome::Skipped(_)));
    let failed = count(|outcome| matches!(outcome, Outcome::Failed(_)));
    let timed_out = count(|outcome| *outcome == Outcome::TimedOut);
    let mut summary = String::new();
    for (name, outcome) in results.iter().filter(|(_, outcome)| *outcome != Outcome::Passed) {
        let _ = writeln!(summary, "{name}: {outcome:?}");
    }
    let total = results.len();
    let _ = writeln!(
        summary,
        "{total} tests: {passed} passed, {skipped} skipped, {failed} failed, {timed_out} timed out"
    );
    // The two runs each leave their own.
    let name = if core.contains(&"Read16") { "conformance.txt" } else { "conformance-copied.txt" };
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, &summary).expect("the summary is written");
    println!("{summary}(also in {})", path.display());
    assert_eq!((failed, timed_out), (0, 0), "\n{summary}");
    assert!(total > 0, "no test was chosen");
    if std::env::var_os("HOLDFAST_CONFORMANCE_FAMILIES").is_none() {
        for suite in core {
            let prefix = format!("{suite}.");
            let ran = results
                .iter()
                .any(|(name, outcome)| name.starts_with(&prefix) && *outcome == Outcome::Passed);
            assert!(ran, "no test of {suite} ran to its end\n{summary}");
        }
    }
}

/// The first failed assertion, which CUnit numbers.
fn assertion(text: &str) -> String {
    let first = text.lines().find_map(|line| line.trim().strip_prefix("1. "));
    first.map_or_else(|| last_line(text), str::to_owned)
}

fn last_line(text: &str) -> String {
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned()
}
