//! Two arrays from configurations that declare no object. Everything is made by commands, as a new operator would: a
//! copy said at the primary, another one said at the auxiliary. Both become normal and equal, and survive SIGKILL.

use crate::rounds::write_some;
use crate::support::process::Array;
use crate::support::wof::{Geometry, Plan, Writer, read_image};
use std::path::Path;

pub(crate) const VOLUME_BYTES: u64 = 8 << 20;
pub(crate) const VOLUMES: u16 = 2;
const SECTOR_BYTES: u64 = 512;

/// An array that knows its name and its portal and nothing else.
pub(crate) fn bare(name: &str, number: u32, parent: &Path) -> Array {
    let array = Array::new(name, parent);
    let (directory, portal) = (array.directory().display(), array.portal());
    array.write_config(&format!(
        "[array]\nnumber = {number}\nname = \"{name}\"\ndata_dir = \"{directory}/data\"\n[cache]\nmemory = \"64MiB\"\n\
         [disk]\nengine = \"plain\"\n[[portal]]\nlisten = \"{portal}\"\nserves = [\"hosts\", \"arrays\"]\n"
    ));
    array
}

pub(crate) fn say(array: &Array, line: &str) -> serde_json::Value {
    let words: Vec<&str> = line.split(' ').collect();
    array.shell(&words).unwrap_or_else(|why| panic!("{line}: {why}\n{}", array.log_tail()))
}

pub(crate) fn refused(array: &Array, line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    match array.shell(&words) {
        Ok(answer) => panic!("{line} is not refused: {answer}"),
        Err(why) => why,
    }
}

pub(crate) fn make_storage(array: &Array, volumes: [&str; 2]) {
    let units: Vec<String> = (0..3).map(|index| format!("{}:128MiB", array.unit(index).display())).collect();
    say(array, &format!("parity-group create pg0 --level raid5 --unit {}", units.join(" ")));
    for name in volumes {
        say(array, &format!("volume create {name} --parity-group pg0 --size {VOLUME_BYTES}B --thin"));
    }
    for name in ["jnl1", "jnl2"] {
        say(array, &format!("volume create {name} --parity-group pg0 --size 16MiB"));
    }
    let target = array.target();
    say(array, &format!("target create {target} --lun 1={} --initiator *", volumes[0]));
    say(array, &format!("lun map {target} 2 {}", volumes[1]));
}

/// A checked writer to the volumes of alpha.
pub(crate) fn writer() -> Writer {
    let sectors = VOLUME_BYTES / SECTOR_BYTES;
    let geometry = Geometry { sectors_per_block: 1, ..Geometry::new(u32::from(VOLUMES), sectors) };
    Writer::new(47, Plan::mixed(47, geometry))
}

pub(crate) async fn images(array: &Array, writer: &Writer) -> Vec<Vec<u8>> {
    let port = array.ports(1, VOLUMES).remove(0);
    read_image(&port, writer.log().geometry())
        .await
        .unwrap_or_else(|why| panic!("{}: {why:?}", array.portal()))
}

/// Waits until the S-VOL has restored every number that the primary has given.
pub(crate) fn wait_until_equal(alpha: &Array, beta: &Array, group: &str, pair: &str) {
    let shown = say(alpha, &format!("group show {group}"));
    let newest = shown["next_update_number"].as_u64().expect("a running group") - 1;
    say(beta, &format!("pair wait {pair} --update-number {newest} --timeout 60s"));
}

/// A pair that was suspended becomes normal.
async fn until_normal(array: &Array, pair: &str) {
    let is_normal =
        || (say(array, &format!("pair show {pair}"))["state"].as_str() == Some("normal")).then_some(());
    array.wait_until("the pair is normal", std::time::Duration::from_secs(60), is_normal).await;
}

/// The verbs behind figure 10 are said at the auxiliary too, and answered by the primary.
async fn the_rest_of_figure_10_at_the_auxiliary(alpha: &Array, beta: &Array) {
    let of_beta = |line: &str| say(beta, line);
    assert_eq!(of_beta("group suspend g2")["on_their_way"].as_array().map(Vec::len), Some(0));
    for array in [alpha, beta] {
        say(array, "pair wait p2 --state suspended --timeout 60s");
    }
    of_beta("pair resync p2");
    until_normal(beta, "p2").await;
    let asked = |record: &serde_json::Value| {
        record["who"] == "array 2"
            && record["what"].as_str().is_some_and(|what| what.contains("asked for there by"))
    };
    let audit = say(alpha, "audit list --last 1000");
    assert_eq!(audit.as_array().expect("a list").iter().filter(|record| asked(record)).count(), 2, "{audit}");
}

/// Without the primary a suspension counts here at once, and what only the primary can do is refused.
async fn without_the_primary(alpha: &mut Array, beta: &Array) {
    let audit = say(beta, "audit list --last 1000");
    let by_alpha = audit.as_array().expect("a list").iter().filter(|record| record["who"] == "array 1");
    assert!(by_alpha.count() >= 3, "{audit}");
    alpha.kill();
    let is_down = || say(beta, "link show alpha")["reason"].is_string().then_some(());
    beta.wait_until("beta knows", std::time::Duration::from_secs(30), is_down).await;
    let why = refused(beta, "group resume g2");
    assert!(why.contains("cannot be reached"), "{why}");
    // It waits for the primary to hear of it; restore does not, and stands before the primary is back.
    let suspend = beta.command(&["group", "suspend", "g2"]).spawn().expect("the binary starts");
    let stands = || say(beta, "group show g2")["follows"]["restore_until"].is_string().then_some(());
    beta.wait_until("restore stands", std::time::Duration::from_secs(30), stands).await;
    alpha.start().await;
    let said = suspend.wait_with_output().expect("a process of our own");
    assert!(said.status.success(), "{said:?}");
    for array in [&*alpha, beta] {
        say(array, "pair wait p2 --state suspended --timeout 60s");
    }
    say(beta, "group resume g2");
    until_normal(beta, "p2").await;
    assert!(say(beta, "group show g2")["follows"]["restore_until"].is_null(), "it goes on by itself");
    say(beta, "group delete g2 --yes");
    let is_left = || say(beta, "group list").as_array().is_some_and(|all| all.len() == 1).then_some(());
    beta.wait_until("beta has left the group", std::time::Duration::from_secs(60), is_left).await;
    assert_eq!(say(alpha, "group show g2")["readers"].as_array().map(Vec::len), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_operator_makes_everything_by_command_from_either_side() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (mut alpha, mut beta) = (bare("alpha", 1, directory.path()), bare("beta", 2, directory.path()));
    alpha.start().await;
    beta.start().await;
    make_storage(&alpha, ["data1", "data2"]);
    make_storage(&beta, ["copy1", "copy2"]);
    // Before there is a copy, so that the initial copy has something to do.
    let mut writer = writer();
    write_some(&mut writer, &alpha.ports(2, VOLUMES), 200).await;

    let secret = directory.path().join("secret");
    std::fs::write(&secret, "between alpha and beta\n").expect("a file");
    let link = |to: &Array, name: &str, number: u32| {
        format!(
            "link create {name} --array {number} --portal {} --secret-file {}",
            to.portal(),
            secret.display()
        )
    };
    say(&alpha, &link(&beta, "beta", 2));
    say(&beta, &link(&alpha, "alpha", 1));

    // Figure 10 at the primary; the link between them works without a restart.
    say(&alpha, "group create g1 --svol-access read");
    say(&alpha, "journal add g1 --volume jnl1");
    let passed = say(&alpha, "journal add g1 --volume jnl1 --at beta");
    assert_eq!(passed["on_their_way"].as_array().map(Vec::len), Some(0), "accepted by beta: {passed}");
    say(&alpha, "pair create p1 --group g1 --pvol data1 --svol beta:copy1 --copy async");
    say(&alpha, "group start g1");
    say(&alpha, "pair wait p1 --state normal --timeout 60s");
    write_some(&mut writer, &alpha.ports(2, VOLUMES), 200).await;
    wait_until_equal(&alpha, &beta, "g1", "p1");
    let (ours, theirs) = (images(&alpha, &writer).await, images(&beta, &writer).await);
    assert!(ours[0] == theirs[0] && ours[1] != theirs[1], "the first volume has a copy, the second not yet");

    // Figure 10 at the auxiliary.
    say(&alpha, "group create g2 --svol-access read");
    say(&beta, "group create g2 --source alpha");
    say(&beta, "pair create p2 --group g2 --pvol alpha:data2 --svol copy2");
    say(&beta, "journal add g2 --volume jnl2");
    say(&beta, "journal add g2 --volume jnl2 --at alpha");
    say(&beta, "group start g2");
    say(&beta, "pair wait p2 --state normal --timeout 60s");
    write_some(&mut writer, &alpha.ports(2, VOLUMES), 200).await;
    wait_until_equal(&alpha, &beta, "g1", "p1");
    wait_until_equal(&alpha, &beta, "g2", "p2");
    assert!(images(&alpha, &writer).await == images(&beta, &writer).await);

    the_rest_of_figure_10_at_the_auxiliary(&alpha, &beta).await;

    // What the other side refuses is told to whoever said it.
    let why = refused(&beta, "volume create data1 --parity-group pg0 --size 8MiB --at alpha");
    assert!(why.contains("alpha refuses") && why.contains("data1"), "{why}");
    say(&beta, "volume create more --parity-group pg0 --size 8MiB --at alpha");

    // A volume comes, is used by nobody, and goes; its room is there again.
    let free = || say(&alpha, "parity-group show pg0")["free_bytes"].as_u64();
    let before = free();
    say(&alpha, "volume create brief --parity-group pg0 --size 8MiB");
    assert_eq!(free(), before.map(|bytes| bytes - (8 << 20)));
    assert!(refused(&alpha, "volume delete brief").contains("--yes"));
    say(&alpha, "volume delete brief --yes");
    assert_eq!(free(), before);
    assert!(refused(&alpha, "volume delete data1 --yes").contains("pair p1"));
    assert!(refused(&alpha, "volume create huge --parity-group pg0 --size 1GiB").contains("do not fit"));
    assert!(refused(&alpha, "link delete beta --yes").contains("group g1"));

    for array in [&mut alpha, &mut beta] {
        array.kill();
    }
    alpha.start().await;
    beta.start().await;
    for pair in ["p1", "p2"] {
        say(&beta, &format!("pair wait {pair} --state normal --timeout 60s"));
    }
    wait_until_equal(&alpha, &beta, "g1", "p1");
    wait_until_equal(&alpha, &beta, "g2", "p2");
    assert!(images(&alpha, &writer).await == images(&beta, &writer).await);
    without_the_primary(&mut alpha, &beta).await;
    alpha.stop().await;
    beta.stop().await;
}
