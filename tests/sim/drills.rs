//! Disaster drills at a copy under load (promise O7, decision 26): over eight volumes, at the newest number and at numbers
//! that are still to come, while arrays die at every step of waiting, making, writing, judging, expiring and deleting. A drill that
//! was made is byte for byte another copy that stopped at its number; one that could not be made says why; records and verdicts
//! stay; nothing else of them is left.

use crate::cluster::{ALPHA, Cluster, Death, target_name};
use crate::in_virtual_time;
use crate::readers::{say, wait, write};
use crate::snapshots::{Kept, Story};
use crate::support::random::number_from_environment;
use crate::support::wof::{Observed, SECTOR_BYTES, Until, check_prefix};
use holdfast::channel::host::{Durability, HostError, HostLun, lun};
use holdfast::channel::initiator::SessionOptions;
use holdfast::shell::view::DrillView;
use holdfast_iscsi::pdu::Isid;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const BETA: usize = 1;
/// LUNs that show clones, from here on.
pub(crate) const CLONE_LUN: u16 = 60;
/// DATA PROTECT, SPACE ALLOCATION FAILED WRITE PROTECT.
const NO_SPACE: (u8, u8, u8) = (0x07, 0x27, 0x07);

pub(crate) fn drill(cluster: &Cluster, index: usize, name: &str) -> Option<DrillView> {
    let groups = cluster.snapshot(index)?.groups;
    groups.first()?.drills.iter().find(|drill| drill.name == name).cloned()
}

pub(crate) fn state_of(cluster: &Cluster, index: usize, name: &str) -> String {
    drill(cluster, index, name).map(|drill| drill.state).unwrap_or_default()
}

fn restored(cluster: &Cluster, index: usize) -> Option<u64> {
    Some(cluster.snapshot(index)?.groups.first()?.follows.as_ref()?.restored_update_number)
}

pub(crate) async fn clone_lun(cluster: &Cluster, index: usize, number: u16) -> Result<HostLun, HostError> {
    let limit = Duration::from_secs(5);
    let options = SessionOptions {
        isid: Some(Isid([0x80, 0, 0, 0, 1, u8::try_from(number).unwrap()])),
        login_timeout: limit,
        ping: Duration::from_secs(1),
        ..SessionOptions::default()
    };
    let array = ["alpha", "beta", "gamma"][index];
    let (connector, address) = (cluster.connector("reader"), format!("{array}:3260"));
    let session = connector.session(&address, &target_name(array), &options).await;
    HostLun::open(session.expect("it can log in"), lun(number), limit).await
}

pub(crate) async fn map(cluster: &Cluster, number: u16, volume: &str) {
    say(cluster, BETA, &format!("lun map {} {number} {volume}", target_name("beta"))).await;
}

/// Hosts write until a drill waits no more, whoever dies meanwhile.
async fn until_made(story: &mut Story, name: &str) {
    let since = story.cluster.clock_ms();
    while state_of(&story.cluster, BETA, name) == "waiting" {
        assert!(story.cluster.clock_ms() < since + 120_000, "{name}: {}", story.cluster.state());
        if story.random.percent(25) {
            let stop = AtomicBool::new(false);
            let until = Until { commands: u64::MAX, stop: &stop };
            let (after_ms, is_kill) = (story.random.below(60), story.random.percent(50));
            let Story { cluster, writer, ports, .. } = &mut *story;
            let dies = async {
                cluster.sleep_ms(after_ms).await;
                cluster.die(BETA, if is_kill { Death::Kill } else { Death::PowerLoss }).await;
                stop.store(true, Ordering::Relaxed);
            };
            let (summary, ()) = tokio::join!(writer.run(&*ports, &*cluster.clock, 4, until), dies);
            assert_eq!(summary.violations, [], "reads while writing");
            story.comes_back(BETA).await;
        } else {
            write(&story.cluster, &mut story.writer, &story.ports, 6).await;
        }
    }
}

/// What a host finds and writes in a clone, which nobody else has.
async fn try_it(story: &mut Story, kept: usize) {
    let (name, volume) = (story.kept[kept].name.clone(), 1 + story.random.index(8));
    map(&story.cluster, CLONE_LUN, &format!("{name}.copy{volume}")).await;
    let shown = clone_lun(&story.cluster, BETA, CLONE_LUN).await.expect("it is mapped");
    for _ in 0..4 {
        let (lba, sectors) = (story.random.below(2000), 1 + story.random.index(40));
        let data = vec![u8::try_from(lba % 251).unwrap(); sectors * SECTOR_BYTES];
        shown.write(lba, data.clone(), Durability::Forced).await.expect("a clone is written");
        let at = usize::try_from(lba).unwrap() * SECTOR_BYTES;
        story.kept[kept].images[volume - 1][at..at + data.len()].copy_from_slice(&data);
        write(&story.cluster, &mut story.writer, &story.ports, 3).await;
    }
    drop(shown);
    say(&story.cluster, BETA, &format!("lun unmap {} {CLONE_LUN}", target_name("beta"))).await;
}

/// Dies on the way of a drill that goes, and sees it gone.
async fn goes(story: &mut Story, name: &str) {
    let since = story.cluster.clock_ms();
    while state_of(&story.cluster, BETA, name) != "ended" {
        assert!(story.cluster.clock_ms() < since + 60_000, "{name}: {}", story.cluster.state());
        let after_ms = story.random.below(30);
        story.cluster.sleep_ms(after_ms).await;
        if story.random.percent(40) {
            let death = if story.random.percent(50) { Death::Kill } else { Death::PowerLoss };
            story.cluster.die(BETA, death).await;
            story.comes_back(BETA).await;
        }
    }
    let snapshots = story.cluster.snapshot(BETA).expect("it runs").snapshots;
    assert!(snapshots.iter().all(|snapshot| snapshot.name != name), "its clones are gone");
    story.kept.retain(|kept| kept.name != name);
}

#[derive(Default)]
struct Told {
    deaths: u32,
    compared: u32,
    made: u32,
    given_up: u32,
}

async fn begin(story: &mut Story, name: &str, at: &str, told: &mut Told) -> bool {
    let line =
        format!("group drill g1 {name} --at {at} --quota 8MiB --expire 1h --note try --id begin-{name}");
    let said = story.try_in_danger(BETA, &line).await;
    if said.is_ok() {
        until_made(story, name).await;
    }
    let found = drill(&story.cluster, BETA, name);
    let made = found.filter(|drill| drill.made_unix_ms.is_some());
    let Some(made) = made else {
        // Only a death leaves no time for it.
        let why = match said {
            Err(why) => why,
            Ok(()) => drill(&story.cluster, BETA, name).and_then(|drill| drill.reason).expect("it says why"),
        };
        let is_late = why.contains("out of reach") || why.contains("say it again");
        assert!(at != "newest" && is_late, "{name} at {at}: {why}");
        told.given_up += 1;
        return false;
    };
    assert_eq!((made.state.as_str(), made.verdict.as_str(), made.volumes.len()), ("running", "open", 8));
    let number = made.update_number.expect("everything has a number");
    assert!(at == "newest" || at == number.to_string(), "{at}: {made:?}");
    let images = story.images(BETA, |volume| format!("{name}.copy{volume}")).await;
    let log = story.writer.log();
    check_prefix(log, &Observed::from_images(log, &images)).expect_clean(name);
    story.is_of(number, &images).await;
    story.kept.push(Kept { array: BETA, name: name.to_owned(), images });
    told.made += 1;
    true
}

async fn drills_in_danger(seed: u64, told: &mut Told) {
    let mut story = Story::begin(seed).await;
    for round in 0..4 {
        story.gamma_stands_still().await;
        let newest = story.cluster.newest().expect("alpha runs");
        let at = newest + 40 + story.random.below(80);
        let at = if round == 0 { "newest".to_owned() } else { at.to_string() };
        if begin(&mut story, &format!("d{round}"), &at, told).await {
            let newest = story.kept.len() - 1;
            try_it(&mut story, newest).await;
        }
        story.are_as_they_were().await;
        write(&story.cluster, &mut story.writer, &story.ports, 20).await;
    }
    let going: Vec<String> = story.kept.iter().map(|kept| kept.name.clone()).collect();
    for (turn, name) in going.iter().enumerate() {
        let judged = ["--passed --note fine --end --yes", "--failed", "", "--passed --note fine"][turn];
        if !judged.is_empty() {
            story.say_in_danger(BETA, &format!("group drill g1 {name} {judged} --id judge-{name}")).await;
        }
        let mut gone = vec![name.clone()];
        if turn == 1 {
            // The time of all is over.
            story.cluster.step_wall(4_000);
            gone.clone_from(&going);
        }
        for name in gone {
            goes(&mut story, &name).await;
        }
        let now = drill(&story.cluster, BETA, name).expect("its record stays");
        let told = (now.verdict.as_str(), now.verdict_note.as_deref(), now.reason.as_deref());
        let over = Some("its time was over");
        let wanted = [
            ("passed", Some("fine"), None),
            ("failed", None, over),
            ("expired without a verdict", None, over),
            ("passed", Some("fine"), over),
        ];
        assert_eq!(told, wanted[turn], "{name}");
        story.are_as_they_were().await;
    }
    story.cluster.step_wall(4_000);
    for name in &going {
        goes(&mut story, name).await;
    }
    story.nothing_is_left(BETA).await;
    story.equal().await;
    told.deaths += story.deaths;
    told.compared += story.compared;
    for index in 0..3 {
        story.cluster.die(index, Death::Kill).await;
    }
}

#[test]
fn every_drill_is_the_copy_at_exactly_its_number_whoever_dies() {
    let seeds = (number_from_environment("HOLDFAST_SIM_SEEDS", 400) / 130).max(3);
    let first = number_from_environment("HOLDFAST_SIM_FIRST_SEED", 1);
    let mut told = Told::default();
    for seed in first..first + seeds {
        in_virtual_time(drills_in_danger(seed, &mut told));
    }
    let Told { deaths, compared, made, given_up } = told;
    eprintln!(
        "{seeds} seeds, {deaths} deaths, {made} made, {compared} compared with a copy, {given_up} given up"
    );
    assert!(deaths > 8 && made > given_up && made > 6 && compared > 5, "{made} made, {given_up} given up");
}

/// The clones have extents of 1 MiB and one each: three may be written into.
#[test]
fn a_clone_gets_no_more_than_the_quota_and_nobody_else_notices() {
    in_virtual_time(async {
        let mut story = Story::begin(9).await;
        say(&story.cluster, BETA, "group drill g1 tight --quota 3MiB --expire 1h").await;
        say(&story.cluster, BETA, "group drill g1 free").await;
        let block = vec![7_u8; SECTOR_BYTES];
        for volume in 1..=5 {
            map(&story.cluster, CLONE_LUN + volume, &format!("tight.copy{volume}")).await;
        }
        map(&story.cluster, CLONE_LUN, "free.copy1").await;
        for is_again in [false, true] {
            for volume in 1..=5 {
                let shown = clone_lun(&story.cluster, BETA, CLONE_LUN + volume).await.expect("it is mapped");
                let written = shown.write(u64::from(volume), block.clone(), Durability::Forced).await;
                match (volume <= 3, written) {
                    (true, written) => written.expect("the quota allows it"),
                    (false, written) => {
                        let sense = written.expect_err("the quota is used up").sense();
                        assert_eq!(sense, Some(NO_SPACE));
                        shown.read(0, 8).await.expect("it is read as before");
                    }
                }
            }
            let free = clone_lun(&story.cluster, BETA, CLONE_LUN).await.expect("it is mapped");
            free.write(0, block.clone(), Durability::Forced).await.expect("it has no quota");
            let shown = drill(&story.cluster, BETA, "tight").expect("it runs");
            assert_eq!((shown.written_bytes, shown.is_quota_used_up), (Some(3 << 20), true), "{is_again}");
            assert!(shown.reason.is_some_and(|why| why.contains("quota")));
            write(&story.cluster, &mut story.writer, &story.ports, 40).await;
            wait(&story.cluster, "beta restores on", |cluster| restored(cluster, BETA) == cluster.newest())
                .await;
            story.cluster.die(BETA, Death::PowerLoss).await;
            story.comes_back(BETA).await;
        }
        // Hosts that use the clones when the time is over are told that LUNs went.
        let user = clone_lun(&story.cluster, BETA, CLONE_LUN).await.expect("it is mapped");
        let before = user.attentions();
        story.cluster.step_wall(4_000);
        wait(&story.cluster, "the time is over", |cluster| state_of(cluster, BETA, "tight") == "ended").await;
        user.test_unit_ready().await.expect("the other drill goes on");
        assert!(user.attentions() > before, "it was told");
        let shown = story.cluster.snapshot(BETA).expect("it runs");
        let luns: Vec<&str> = shown.targets.iter().flat_map(|t| &t.luns).map(|l| l.volume.as_str()).collect();
        assert!(luns.contains(&"free.copy1") && !luns.iter().any(|volume| volume.starts_with("tight.")));
        drop(user);
        say(&story.cluster, BETA, "group drill g1 free --passed --end --yes").await;
        story.nothing_is_left(BETA).await;
        story.equal().await;
        for index in 0..3 {
            story.cluster.die(index, Death::Kill).await;
        }
    });
}

/// What cannot be is refused with what can be done instead; and a drill that waits is in nobody's way.
#[test]
fn a_drill_that_cannot_be_made_says_so_and_holds_nothing_up() {
    in_virtual_time(async {
        let mut story = Story::begin(4).await;
        say(&story.cluster, ALPHA, "group drill g1 top --note primary").await;
        assert_eq!(drill(&story.cluster, ALPHA, "top").expect("it was made").volumes[0], "top.data1");
        say(&story.cluster, BETA, "snapshot create taken --volume copy1").await;
        say(&story.cluster, BETA, "group drill g1 one").await;
        let far = story.cluster.newest().expect("it runs") + 1_000_000;
        for (index, line, why) in [
            (ALPHA, format!("group drill g1 x --at {far}"), "at an array that copies"),
            (BETA, "group drill g1 x --at 1".to_owned(), "out of reach"),
            (BETA, "group drill g1 x --at bookmark:none".to_owned(), "holds no bookmark"),
            (BETA, "group drill g1 taken".to_owned(), "already"),
            (BETA, "group drill g1 one".to_owned(), "already"),
            (BETA, "group drill g7 x".to_owned(), "no group"),
            (BETA, "group drill g1 x --passed".to_owned(), "no drill"),
            (BETA, "group drill g1 one --end".to_owned(), "--yes"),
            (BETA, "snapshot delete one --yes".to_owned(), "--end"),
            (BETA, "volume resize one.copy1 2MiB".to_owned(), "drill"),
        ] {
            let refused = story.cluster.command(index, &line).await.expect_err(&line);
            assert!(refused.contains(why), "{line}: {refused}");
        }
        say(&story.cluster, BETA, "group drill g1 dry --dry-run").await;
        assert!(drill(&story.cluster, BETA, "dry").is_none());
        // The number of a bookmark that has come and is not restored yet.
        say(&story.cluster, BETA, "group restore g1 --until now").await;
        say(&story.cluster, ALPHA, "group bookmark g1 noon").await;
        let noon = story.cluster.newest().expect("it runs");
        write(&story.cluster, &mut story.writer, &story.ports, 30).await;
        let knows = |cluster: &Cluster| {
            let groups = cluster.snapshot(BETA).expect("it runs").groups;
            groups[0].bookmarks.iter().any(|bookmark| bookmark.name == "noon")
        };
        wait(&story.cluster, "the bookmark has come", knows).await;
        say(&story.cluster, BETA, "group drill g1 noon --at bookmark:noon").await;
        assert_eq!(state_of(&story.cluster, BETA, "noon"), "waiting");
        say(&story.cluster, BETA, "group restore g1 --go-on").await;
        wait(&story.cluster, "it is made", |cluster| state_of(cluster, BETA, "noon") == "running").await;
        let shown = drill(&story.cluster, BETA, "noon").expect("it runs");
        assert_eq!((shown.update_number, shown.bookmark.as_deref()), (Some(noon), Some("noon")));

        say(&story.cluster, BETA, &format!("group drill g1 late --at {far} --within 3s")).await;
        say(&story.cluster, BETA, &format!("group drill g1 gone --at {far}")).await;
        say(&story.cluster, BETA, "group drill g1 gone --end --yes").await;
        assert_eq!(state_of(&story.cluster, BETA, "gone"), "ended");
        story.cluster.sleep_ms(4_500).await;
        let late = drill(&story.cluster, BETA, "late").expect("its record stays");
        assert_eq!((late.state.as_str(), late.verdict.as_str()), ("ended", "never made"));
        assert!(late.reason.is_some_and(|why| why.contains("time")));
        let judged = story.cluster.command(BETA, "group drill g1 late --passed").await;
        assert!(judged.expect_err("there were no clones").contains("nothing to judge"));

        // What a delay keeps back is replayed onto clones; nobody waits for ten minutes.
        story.gamma_stands_still().await;
        say(&story.cluster, BETA, "group schedule g1 --link alpha --restore-delay 10min").await;
        write(&story.cluster, &mut story.writer, &story.ports, 40).await;
        let has_read = |cluster: &Cluster| {
            let follows = cluster.snapshot(BETA).expect("it runs").groups[0].follows.clone();
            follows.map(|follows| follows.durable_update_number) == cluster.newest()
        };
        wait(&story.cluster, "beta has read all", has_read).await;
        let (at, all) = (restored(&story.cluster, BETA).expect("it follows"), story.cluster.newest());
        assert!(Some(at + 15) < all, "something is held back");
        say(&story.cluster, BETA, &format!("group drill g1 held --at {}", at + 10)).await;
        assert_eq!(state_of(&story.cluster, BETA, "held"), "waiting");
        wait(&story.cluster, "it is made", |cluster| state_of(cluster, BETA, "held") == "running").await;
        assert_eq!(restored(&story.cluster, BETA), Some(at), "restore is where it was");
        let images = story.images(BETA, |volume| format!("held.copy{volume}")).await;
        story.is_of(at + 10, &images).await;

        // The primary dies, and a takeover has all that was held, whoever waits.
        say(&story.cluster, BETA, &format!("group drill g1 close --at {}", at + 12)).await;
        say(&story.cluster, BETA, &format!("group drill g1 never --at {far}")).await;
        let images = story.images(ALPHA, |volume| format!("data{volume}")).await;
        story.cluster.die(ALPHA, Death::PowerLoss).await;
        say(&story.cluster, BETA, "group takeover g1 --yes").await;
        assert!(story.images(BETA, |volume| format!("copy{volume}")).await == images, "nothing is lost");
        for name in ["close", "never"] {
            wait(&story.cluster, "it waits no more", |cluster| state_of(cluster, BETA, name) != "waiting")
                .await;
        }
        let never = drill(&story.cluster, BETA, "never").expect("its record stays");
        assert!(never.reason.is_some_and(|why| why.contains("primary")));
        if state_of(&story.cluster, BETA, "close") == "running" {
            say(&story.cluster, BETA, "group drill g1 close --end --yes").await;
        }
        for name in ["one", "noon", "held"] {
            say(&story.cluster, BETA, &format!("group drill g1 {name} --failed --end --yes")).await;
        }
        say(&story.cluster, BETA, "snapshot delete taken --yes").await;
        story.nothing_is_left(BETA).await;
        for index in 1..3 {
            story.cluster.die(index, Death::Kill).await;
        }
    });
}
