//! Journal volumes of a running group: added, replaced and taken away by command at either side while hosts write, and one
//! that is lost at work (its unit answers every write with an error, by `strace`); the one in reserve takes over, no pair
//! leaves `normal`, and what hosts were told survives SIGKILL.

use crate::by_command::{VOLUMES, bare, images, make_storage, say, wait_until_equal, writer};
use crate::rounds::write_some;
use crate::support::process::{Array, rows};
use crate::support::wof::{Observed, Summary, Until, Writer};
use holdfast::clock::SystemClock;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);
/// The unit on which only a journal volume lies.
const APART: usize = 3;

/// Two arrays that copy two volumes, each with a journal volume `jnl1`, and `jnl2` and `jnl3` to spare.
async fn two_arrays(directory: &Path) -> [Array; 2] {
    let (mut alpha, mut beta) = (bare("alpha", 1, directory), bare("beta", 2, directory));
    alpha.start().await;
    beta.start().await;
    make_storage(&alpha, ["data1", "data2"]);
    make_storage(&beta, ["copy1", "copy2"]);
    say(
        &alpha,
        &format!("parity-group create pg1 --level raid0 --unit {}:64MiB", alpha.unit(APART).display()),
    );
    say(&alpha, "volume create jnl3 --parity-group pg1 --size 16MiB");
    let secret = directory.join("secret");
    std::fs::write(&secret, "between alpha and beta\n").expect("a file");
    for (at, other, name, number) in [(&alpha, &beta, "beta", 2), (&beta, &alpha, "alpha", 1)] {
        let (portal, secret) = (other.portal(), secret.display());
        say(at, &format!("link create {name} --array {number} --portal {portal} --secret-file {secret}"));
    }
    say(&alpha, "group create g1 --svol-access read");
    say(&alpha, "journal add g1 --volume jnl1");
    say(&alpha, "journal add g1 --volume jnl1 --at beta");
    say(&alpha, "pair create p1 --group g1 --pvol data1 --svol beta:copy1 --copy async");
    say(&alpha, "pair create p2 --group g1 --pvol data2 --svol beta:copy2 --copy async");
    say(&alpha, "group start g1");
    for pair in ["p1", "p2"] {
        say(&alpha, &format!("pair wait {pair} --state normal --timeout 60s"));
    }
    [alpha, beta]
}

/// The journal volumes of an array, as what each of them is used.
fn used(array: &Array) -> Vec<String> {
    let journals = rows(&say(array, "journal list"));
    let of = |journal: &serde_json::Value, what: &str| journal[what].as_str().unwrap_or("-").to_owned();
    let described = |journal| {
        let (volume, used) = (of(journal, "volume"), of(journal, "use"));
        if of(journal, "state") == "normal" {
            format!("{volume} {used}")
        } else {
            format!("{volume} {}", of(journal, "state"))
        }
    };
    journals.iter().map(described).collect()
}

async fn wait_for(array: &Array, wanted: &[&str]) {
    let reached = || (used(array) == wanted).then_some(());
    array.wait_until(&format!("{wanted:?}, but {:?}", used(array)), LIMIT, reached).await;
}

/// Lets every write and flush of one file of the array fail until it is ended.
fn failing(array: &Array, unit: &Path) -> Child {
    let calls = "pwrite64,pwritev,pwritev2,fdatasync,fsync";
    Command::new("strace")
        .args(["-f", "-q", "-o", "/dev/null", "-e", &format!("trace={calls}")])
        .args(["-e", &format!("inject={calls}:error=EIO")])
        .arg("-P")
        .arg(unit)
        .args(["-p", &array.pid().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("strace is installed")
}

async fn operate(alpha: &Array, beta: &Array) {
    // Exchanged at the primary, and for the auxiliary from the primary.
    say(alpha, "journal add g1 --volume jnl2 --ratio 1:4");
    say(alpha, "journal remove g1 --volume jnl1 --yes");
    wait_for(alpha, &["jnl2 written"]).await;
    assert_eq!(say(alpha, "volume show jnl1")["usage"], "host", "it is an ordinary volume again");
    say(alpha, "journal add g1 --volume jnl2 --at beta");
    say(alpha, "journal remove g1 --volume jnl1 --at beta --yes");
    wait_for(beta, &["jnl2 written"]).await;
    // Replaced, though it works; and one more in reserve.
    say(alpha, "journal replace g1 --volume jnl2 --by jnl3 --yes");
    wait_for(alpha, &["jnl3 written"]).await;
    say(alpha, "journal add g1 --volume jnl1 --reserve");
    wait_for(alpha, &["jnl3 written", "jnl1 reserve"]).await;
    // Lost.
    let mut fault = failing(alpha, &alpha.unit(APART));
    wait_for(alpha, &["jnl3 failed", "jnl1 written"]).await;
    fault.kill().expect("a process of our own");
    fault.wait().expect("a process of our own");
}

#[tokio::test(flavor = "multi_thread")]
async fn journal_volumes_come_and_go_and_one_is_lost_while_hosts_write() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let [mut alpha, beta] = two_arrays(directory.path()).await;
    let (mut writing, ports) = (writer(), alpha.ports(2, VOLUMES));
    let stop = Arc::new(AtomicBool::new(false));
    let stops = stop.clone();
    let hosts = tokio::spawn(async move {
        let until = Until { commands: u64::MAX, stop: &stops };
        let summary = writing.run(&ports, &SystemClock::new(), 8, until).await;
        (writing, summary)
    });
    operate(&alpha, &beta).await;
    stop.store(true, Ordering::Relaxed);
    let (mut writer, summary): (Writer, Summary) = hosts.await.expect("hosts go on to the end");
    assert_eq!(summary.violations, [], "reads while the journal moved");
    assert_eq!(summary.retries, 0, "no host has seen an error");
    assert!(summary.acknowledged > 100, "hosts did write: {}", summary.acknowledged);
    let states = |array: &Array| -> Vec<String> {
        rows(&say(array, "pair list")).iter().map(|pair| pair["state"].to_string()).collect()
    };
    assert_eq!(states(&alpha), ["\"normal\"", "\"normal\""]);

    alpha.kill();
    alpha.start().await;
    let image = images(&alpha, &writer).await;
    let observed = Observed::from_images(writer.log(), &image);
    writer.resume_after_crash(&observed).unwrap_or_else(|verdict| panic!("after SIGKILL: {verdict}"));
    write_some(&mut writer, &alpha.ports(2, VOLUMES), 200).await;
    for pair in ["p1", "p2"] {
        wait_until_equal(&alpha, &beta, "g1", pair);
    }
    assert!(images(&alpha, &writer).await == images(&beta, &writer).await);
    say(&alpha, "journal remove g1 --volume jnl3 --yes");
    wait_for(&alpha, &["jnl1 written"]).await;
    let audit = say(&alpha, "audit list --last 1000").to_string();
    assert!(audit.contains("the one before it failed"), "{audit}");
    assert!(!audit.contains("suspended"), "nothing had to be copied again: {audit}");
}
