//! Journals go to a copy through a target that knows nothing of it: Debian's tgt (promises X1 to X6). The relay is killed under load and
//! comes back, the link between the two arrays is cut, the primary dies, the copy takes over with all that was on the relay, and the
//! way back goes over the link. The same with Holdfast as the relay: `relay_here.rs`.

use crate::by_command::{VOLUMES, bare, images, make_storage, say, wait_until_equal, writer};
use crate::foreign_target::{ForeignTarget, TARGET};
use crate::rounds::{write_some, write_while};
use crate::support::process::{Array, binary, expect_tool};
use crate::support::proxy::{LinkState, Proxy};
use crate::support::wof::{DurableRule, Observed, Writer, check_crash};
use crate::takeover::{takeover, until_roles_of};
use holdfast::clock::{Clock, SystemClock};
use std::path::Path;
use std::time::Duration;

pub(crate) const LIMIT: Duration = Duration::from_secs(60);
pub(crate) const SESSIONS: u16 = 2;

/// Two arrays, a group with two pairs between them, made with these words, and the proxies of their link.
pub(crate) async fn copied(directory: &Path, group: &str) -> (Array, Array, [Proxy; 2]) {
    let (mut alpha, mut beta) = (bare("alpha", 1, directory), bare("beta", 2, directory));
    alpha.start().await;
    beta.start().await;
    make_storage(&alpha, ["data1", "data2"]);
    make_storage(&beta, ["copy1", "copy2"]);
    let secret = directory.join("secret");
    std::fs::write(&secret, "between alpha and beta\n").expect("a file");
    let mut proxies = Vec::new();
    for (at, to, name, number) in [(&alpha, &beta, "beta", 2), (&beta, &alpha, "alpha", 1)] {
        let proxy = Proxy::start(to.portal().to_owned()).await.expect("a free port");
        let (portal, secret) = (proxy.address(), secret.display());
        say(at, &format!("link create {name} --array {number} --portal {portal} --secret-file {secret}"));
        proxies.push(proxy);
    }
    say(&alpha, &format!("group create g1 --svol-access read{group}"));
    say(&alpha, "journal add g1 --volume jnl1");
    say(&alpha, "journal add g1 --volume jnl1 --at beta");
    for volume in 1..=VOLUMES {
        say(
            &alpha,
            &format!("pair create p{volume} --group g1 --pvol data{volume} --svol beta:copy{volume}"),
        );
    }
    say(&alpha, "group start g1");
    for volume in 1..=VOLUMES {
        say(&beta, &format!("pair wait p{volume} --state normal --timeout 60s"));
    }
    (alpha, beta, <[Proxy; 2]>::try_from(proxies).expect("two links"))
}

/// Journals of the group go through LUNs of `target`, which each array reaches by a portal of its own, and hosts wait for that.
pub(crate) fn use_relay(alpha: &Array, beta: &Array, portals: [&str; 2], target: &str) {
    let sides = [(alpha, 2, "first --hosts wait"), (beta, 1, "second")];
    for ((array, other, side), portal) in sides.into_iter().zip(portals) {
        let to = format!("--portal {portal} --target {target} --group g1 --luns 1,2,3");
        say(array, &format!("link create r1 --array {other} {to} --as {side}"));
    }
}

pub(crate) async fn is_read_over(beta: &Array, link: &str) {
    let is_so = || (say(beta, "group show g1")["follows"]["reads_over"] == *link).then_some(());
    beta.wait_until(&format!("read over {link}"), LIMIT, is_so).await;
}

/// Everything that the primary has numbered is on the relay.
async fn is_on_relay(alpha: &Array) {
    let is_so = || {
        let next = say(alpha, "group show g1")["next_update_number"].as_u64()?;
        let newest = say(alpha, "link show r1")["relay"]["newest_update_number"].as_u64()?;
        (newest + 1 >= next).then_some(())
    };
    alpha.wait_until("everything is on the relay", LIMIT, is_so).await;
}

/// Hosts wait until their writes are on the relay.
pub(crate) async fn hosts_wait(array: &Array) {
    let is_so = || (say(array, "group show g1")["synchronous"]["state"] == "synchronised").then_some(());
    array.wait_until("hosts wait for the relay", LIMIT, is_so).await;
}

/// Beta takes over from an alpha that is gone, once the relay is read to its end, and gives what it is then: everything that a host
/// of alpha was answered.
pub(crate) async fn takes_over(beta: &Array, writer: &mut Writer) -> Vec<Vec<u8>> {
    say(beta, "group takeover g1 --yes");
    let is_primary = || (say(beta, "group show g1")["role"] == "primary").then_some(());
    beta.wait_until("beta is the primary", LIMIT, is_primary).await;
    let audit = say(beta, "audit list --last 100").to_string();
    assert!(audit.contains("everything that relay r1 holds is here"), "{audit}");
    let found = images(beta, writer).await;
    let observed = Observed::from_images(writer.log(), &found);
    check_crash(writer.log(), &observed, DurableRule::Acknowledged).expect_clean("the new primary");
    if let Err(verdict) = writer.resume_after_crash(&observed) {
        verdict.expect_clean("the new primary is a prefix");
    }
    found
}

/// What hosts write at beta flows back to alpha over the direct path, by differences, and alpha becomes the primary again (claim 6).
/// Of what alpha had when it died this many updates at most, which no host was answered, never came to the relay.
pub(crate) async fn way_back(
    alpha: &mut Array,
    beta: &Array,
    writer: &mut Writer,
    link: &[Proxy; 2],
    unanswered: u64,
) {
    write_some(writer, &beta.ports(SESSIONS, VOLUMES), 60).await;
    link.iter().for_each(|proxy| proxy.set(LinkState::Up));
    alpha.start().await;
    let alpha = &*alpha;
    let is_shut = || {
        let branch = say(beta, "group show g1")["takeover"]["branch_updates"].as_u64()?;
        (takeover(alpha).as_deref() == Some("overtaken")).then_some(branch)
    };
    let branch = alpha.wait_until("alpha is shut and has said what only it has", LIMIT, is_shut).await;
    assert!(branch <= unanswered, "{branch} updates are at alpha only");
    let back = ["group", "failback", "g1", "--to", "alpha", "--yes"];
    beta.wait_until("alpha becomes a copy", LIMIT, || beta.shell(&back).ok()).await;
    until_roles_of(beta, alpha).await;
    is_the_same(alpha, beta, writer).await;
    write_some(writer, &beta.ports(SESSIONS, VOLUMES), 60).await;
    beta.wait_until("the roles go back", LIMIT, || beta.shell(&back).ok()).await;
    until_roles_of(alpha, beta).await;
    is_the_same(alpha, beta, writer).await;
    write_some(writer, &alpha.ports(SESSIONS, VOLUMES), 60).await;
    wait_until_equal(alpha, beta, "g1", "p1");
    is_the_same(alpha, beta, writer).await;
}

/// Both are the image of everything that a host was answered.
async fn is_the_same(alpha: &Array, beta: &Array, writer: &Writer) {
    let [one, other] = [images(alpha, writer).await, images(beta, writer).await];
    let observed = Observed::from_images(writer.log(), &one);
    check_crash(writer.log(), &observed, DurableRule::Acknowledged).expect_clean("the primary");
    assert!(one == other, "the copy differs");
}

/// By which records name the P-VOLs.
fn volume_numbers(alpha: &Array) -> Vec<u64> {
    let number = |volume| say(alpha, &format!("volume show data{volume}"))["number"].as_u64();
    (1..=VOLUMES).map(|volume| number(volume).expect("a volume")).collect()
}

/// Writes what the relay holds onto images of the copy, and gives what they are then.
fn replayed(numbers: &[u64], relay: &ForeignTarget, directory: &Path, before: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let luns: Vec<_> = (1..=3).map(|lun| relay.file(lun)).collect();
    let said = expect_tool(binary().arg("relay-check").args(&luns));
    // No host has written between the images and the first update that is left there.
    let first =
        said.split_once("updates ").and_then(|(_, rest)| rest.split_once(' ')).map(|(number, _)| number);
    let first: u64 = first.and_then(|number| number.parse().ok()).expect("it holds updates");
    let mut command = binary();
    command.arg("relay-check").args(&luns).arg("--as-of").arg((first - 1).to_string());
    let paths: Vec<_> = (1..=before.len()).map(|volume| directory.join(format!("image{volume}"))).collect();
    for ((number, path), image) in numbers.iter().zip(&paths).zip(before) {
        std::fs::write(path, image).expect("an image");
        command.arg("--apply").arg(format!("{number}={}", path.display()));
    }
    let said = expect_tool(&mut command);
    assert!(said.contains("the images are as of update"), "{said}");
    paths.iter().map(|path| std::fs::read(path).expect("an image")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn journals_go_through_a_foreign_target_and_a_takeover_finds_what_is_on_it() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (mut alpha, mut beta, link) = copied(directory.path(), "").await;
    let mut relay = ForeignTarget::with(185, 3).await;
    use_relay(&alpha, &beta, [relay.portal(); 2], TARGET);
    is_read_over(&beta, "r1").await;
    let mut writer = writer();
    // The link is cut: the copy follows over the relay alone.
    link.iter().for_each(|proxy| proxy.set(LinkState::Cut));
    write_some(&mut writer, &alpha.ports(SESSIONS, VOLUMES), 400).await;
    wait_until_equal(&alpha, &beta, "g1", "p1");
    assert!(images(&alpha, &writer).await == images(&beta, &writer).await);
    // The relay is killed under load, with the link up: hosts go on by what the copy says itself, and it is read directly. The
    // relay comes back, and is used again without a word.
    link.iter().for_each(|proxy| proxy.set(LinkState::Up));
    is_read_over(&beta, "r1").await;
    hosts_wait(&alpha).await;
    let summary = write_while(&mut writer, &alpha.ports(SESSIONS, VOLUMES), async {
        SystemClock::new().sleep(Duration::from_millis(300)).await;
        relay.kill();
        is_read_over(&beta, "alpha").await;
        relay.launch().await;
    })
    .await;
    assert_eq!(summary.refusals, [].into());
    wait_until_equal(&alpha, &beta, "g1", "p1");
    is_read_over(&beta, "r1").await;
    hosts_wait(&alpha).await;
    hosts_wait(&beta).await;
    wait_until_equal(&alpha, &beta, "g1", "p1");
    let before = images(&beta, &writer).await;
    let numbers = volume_numbers(&alpha);
    // The copy is away, the primary goes on and dies for good; what its hosts were answered is on the relay.
    beta.kill();
    write_some(&mut writer, &alpha.ports(SESSIONS, VOLUMES), 100).await;
    hosts_wait(&alpha).await;
    is_on_relay(&alpha).await;
    let next = say(&alpha, "group show g1")["next_update_number"].as_u64().expect("a running group");
    alpha.kill();
    // No array is left; what the relay holds can be said all the same.
    let said = expect_tool(binary().arg("relay-check").args((1..=3).map(|lun| relay.file(lun))));
    assert!(said.contains(&format!("the next update is {next} or later")), "{said}");
    let replayed = replayed(&numbers, &relay, directory.path(), &before);
    beta.start().await;
    let after = takes_over(&beta, &mut writer).await;
    assert!(replayed == after, "what is written onto images is what the copy restores");
    way_back(&mut alpha, &beta, &mut writer, &link, 0).await;
    beta.stop().await;
}
