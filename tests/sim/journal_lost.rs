//! The unit of a journal volume is lost while hosts write: at the primary, or at an auxiliary. The group there turns
//! abnormal and says why, hosts go on, and every S-VOL stays a prefix of the acknowledged history.

use crate::cluster::{ALPHA, ARRAYS, Cluster, Death, EIGHT, Second, Shape, Way};
use crate::in_virtual_time;
use crate::port::SimPort;
use crate::story::geometry_of;
use crate::support::random::Random;
use crate::support::wof::{
    DurableRule, Observed, Plan, Until, Writer, check_crash, check_prefix, read_image,
};
use holdfast::disk::io::sim::Fault;
use std::sync::atomic::{AtomicBool, Ordering};

/// Room for everything that hosts write after the loss: what is shown is the loss, not a full journal.
const APART: Shape = Shape { journal_kib: 64 << 10, is_journal_apart: true, second: Second::None, ..EIGHT };
/// The same with a volume in reserve on other units, too small for everything: it has to be freed as it goes.
const WITH_RESERVE: Shape =
    Shape { journal_kib: 12 << 10, second: Second::Reserve, is_cache_small: true, ..APART };

fn lose_the_journal(seed: u64, side: usize) {
    in_virtual_time(async {
        let cluster = Cluster::new(seed, APART);
        for array in 0..3 {
            cluster.start(array).await;
        }
        while !(1..3).all(|index| cluster.is_normal(index)) {
            cluster.sleep_ms(20).await;
        }
        let geometry = geometry_of(APART);
        let mut writer = Writer::new(seed, Plan::mixed(seed, geometry));
        let mut random = Random::new(seed);
        let ports: Vec<SimPort> =
            (1..=4).map(|number| SimPort::new(&cluster, "host", number, ALPHA).thinking_ms(20)).collect();
        let never = AtomicBool::new(false);
        let until = Until { commands: 400, stop: &never };
        let losing = async {
            cluster.sleep_ms(random.below(600)).await;
            cluster.note(format!("{} loses its journal", ARRAYS[side]));
            cluster.disk(side, "j0").inject(Fault::Gone);
        };
        let hosts = async {
            let running = writer.run(&ports, &*cluster.clock, 8, until);
            tokio::select! {
                biased;
                summary = running => summary,
                () = cluster.sleep_ms(300_000) => panic!("hosts do not go on: {}", cluster.state()),
            }
        };
        let (summary, ()) = tokio::join!(hosts, losing);
        assert_eq!(summary.violations, [], "reads while the journal was lost");
        cluster.sleep_ms(5_000).await;
        let group = cluster.snapshot(side).unwrap().groups.remove(0);
        assert_eq!(group.state, "abnormal", "{}", cluster.state());
        assert!(group.reason.is_some(), "it says why: {group:?}");

        let log = writer.log();
        for (index, name) in ARRAYS.iter().enumerate().skip(1) {
            let images = if index == side {
                cluster.visible_copies(index).await
            } else {
                cluster.take_over(index, Death::PowerLoss).await.expect("its pairs are normal").images
            };
            check_prefix(log, &Observed::from_images(log, &images)).expect_clean(name);
        }
        let port = SimPort::new(&cluster, "reader", 9, ALPHA);
        let images = read_image(&port, geometry).await.expect("the primary can be read");
        check_crash(log, &Observed::from_images(log, &images), DurableRule::Acknowledged)
            .expect_clean("the primary");
    });
}

#[test]
fn the_primary_loses_its_journal_and_hosts_go_on_and_copies_stay_prefixes() {
    (1..=8).for_each(|seed| lose_the_journal(seed, ALPHA));
}

#[test]
fn an_auxiliary_loses_its_journal_and_hosts_go_on_and_copies_stay_prefixes() {
    (1..=8).for_each(|seed| lose_the_journal(seed, 1));
}

/// One side loses the unit of its journal while hosts write at depth 8. A volume in reserve takes over: no group turns
/// abnormal, hosts go on, a power loss after it loses nothing, and the copies come to be equal by themselves.
fn lose_the_journal_with_a_reserve(seed: u64, side: usize) -> bool {
    in_virtual_time(async {
        let cluster = Cluster::new(seed, WITH_RESERVE);
        for array in 0..3 {
            cluster.start(array).await;
        }
        while !(1..3).all(|index| cluster.is_normal(index)) {
            cluster.sleep_ms(20).await;
        }
        let geometry = geometry_of(WITH_RESERVE);
        let mut writer = Writer::new(seed, Plan::mixed(seed, geometry));
        let mut random = Random::new(seed);
        let ports: Vec<SimPort> =
            (1..=4).map(|number| SimPort::new(&cluster, "host", number, ALPHA).thinking_ms(20)).collect();
        let never = AtomicBool::new(false);
        let until = Until { commands: 400, stop: &never };
        // In every second story a reader is away, so that what it lacks is only in the volume that is lost.
        let is_away = seed.is_multiple_of(2);
        let losing = async {
            if is_away {
                cluster.set_way("alpha", "gamma", Way::Cut);
            }
            cluster.sleep_ms(100 + random.below(600)).await;
            cluster.note(format!("{} loses its journal", ARRAYS[side]));
            cluster.disk(side, "j0").inject(Fault::Gone);
            cluster.sleep_ms(400).await;
            cluster.set_way("alpha", "gamma", Way::Up);
        };
        let hosts = async {
            let running = writer.run(&ports, &*cluster.clock, 8, until);
            tokio::select! {
                biased;
                summary = running => summary,
                () = cluster.sleep_ms(300_000) => panic!("hosts do not go on: {}", cluster.state()),
            }
        };
        let (summary, ()) = tokio::join!(hosts, losing);
        assert_eq!(summary.violations, [], "reads while the journal was lost");
        let group = cluster.snapshot(side).unwrap().groups.remove(0);
        assert_eq!(group.state, "normal", "{}", cluster.state());

        // Within bounded time the reserve is written, and everything is equal, whatever only the lost volume had.
        let has_taken_over = || {
            let journals = cluster.snapshot(side).unwrap().journals;
            let used = journals.last().map(|journal| (journal.volume.as_str(), journal.used_as.as_str()));
            used == Some(("jnl2", "written")) && journals[0].state == "failed"
        };
        let mut waited = 0;
        while !has_taken_over() || !(1..3).all(|index| has_everything(&cluster, index)) {
            cluster.sleep_ms(100).await;
            waited += 100;
            assert!(waited < 600_000, "the copies do not come back: {}", cluster.state());
        }
        let log = writer.log();
        let port = SimPort::new(&cluster, "reader", 9, ALPHA);
        let primary = read_image(&port, geometry).await.expect("the primary can be read");
        for (index, name) in ARRAYS.iter().enumerate().skip(1) {
            let images =
                cluster.take_over(index, Death::PowerLoss).await.expect("its pairs are normal").images;
            check_prefix(log, &Observed::from_images(log, &images)).expect_clean(name);
            assert!(images == primary, "{name} is equal to the primary");
        }
        let is_lost = if side == ALPHA { "had not taken is lost" } else { "it is read again from" };
        let is_lost = has_recorded(&cluster, side, is_lost).await;
        cluster.die(ALPHA, Death::PowerLoss).await;
        cluster.start(ALPHA).await;
        let port = SimPort::new(&cluster, "reader", 10, ALPHA);
        let images = read_image(&port, geometry).await.expect("the primary can be read after a power loss");
        check_crash(log, &Observed::from_images(log, &images), DurableRule::Flushed)
            .expect_clean("the primary after a power loss");
        is_lost
    })
}

/// Whether the audit log of an array says so.
async fn has_recorded(cluster: &Cluster, index: usize, what: &str) -> bool {
    cluster.command(index, "audit list").await.expect("it answers").contains(what)
}

#[test]
fn a_reserve_takes_over_at_the_primary_and_nothing_is_lost_or_given_twice() {
    let lost = (1..=4).filter(|seed| lose_the_journal_with_a_reserve(*seed, ALPHA)).count();
    assert!(lost > 0, "in no story did a reader lack what only the lost volume had");
}

#[test]
fn a_reserve_takes_over_at_an_auxiliary_and_what_was_not_restored_is_read_again() {
    let lost = (1..=4).filter(|seed| lose_the_journal_with_a_reserve(*seed, 2)).count();
    assert!(lost > 0, "in no story was there something in the lost volume that was not restored");
}

fn has_everything(cluster: &Cluster, index: usize) -> bool {
    let restored = cluster.position(index).map(|(_, restored)| restored);
    cluster.is_normal(index) && restored.is_some() && restored == cluster.newest()
}

/// What is done to the journal volumes in one story.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Handling {
    /// A volume is added and the first one taken away.
    Exchanged,
    /// The first one fails, and another one is put in its place.
    Replaced,
}

/// An operator handles the journal volumes of one side by command, while hosts write; half of the stories have a power
/// loss of that side soon after. In the end the group is normal, its journal is in the new volume alone, the old one is an
/// ordinary volume, and everything has become equal.
fn handle_the_journal(seed: u64, side: usize, handling: Handling) {
    in_virtual_time(async {
        let shape = Shape { second: Second::Ordinary, journal_kib: 12 << 10, ..APART };
        let cluster = Cluster::new(seed, shape);
        for array in 0..3 {
            cluster.start(array).await;
        }
        while !(1..3).all(|index| cluster.is_normal(index)) {
            cluster.sleep_ms(20).await;
        }
        let geometry = geometry_of(shape);
        let mut writer = Writer::new(seed, Plan::mixed(seed, geometry));
        let mut random = Random::new(seed);
        let ports: Vec<SimPort> =
            (1..=4).map(|number| SimPort::new(&cluster, "host", number, ALPHA).thinking_ms(20)).collect();
        let stop = AtomicBool::new(false);
        let until = Until { commands: 400, stop: &stop };
        let at = |line: &str| if side == ALPHA { line.to_owned() } else { format!("{line} --at beta") };
        let handled = async {
            cluster.sleep_ms(random.below(400)).await;
            let command = async |line: &str| {
                let line = at(line);
                cluster.command(ALPHA, &line).await.unwrap_or_else(|error| panic!("{line}: {error}"));
            };
            match handling {
                Handling::Exchanged => {
                    command("journal add g1 --volume jnl2 --ratio 1:4").await;
                    command("journal remove g1 --volume jnl --yes").await;
                }
                Handling::Replaced => {
                    cluster.disk(side, "j0").inject(Fault::Gone);
                    while cluster.snapshot(side).unwrap().groups[0].state != "abnormal" {
                        cluster.sleep_ms(20).await;
                    }
                    cluster.sleep_ms(random.below(1500)).await;
                    command("journal replace g1 --volume jnl --by jnl2 --yes").await;
                }
            }
            if seed.is_multiple_of(2) && (handling, side) != (Handling::Replaced, ALPHA) {
                cluster.sleep_ms(random.below(300)).await;
                cluster.die(side, Death::PowerLoss).await;
                if side == ALPHA {
                    stop.store(true, Ordering::Relaxed);
                    return;
                }
                cluster.sleep_ms(50).await;
                cluster.start(side).await;
            }
        };
        let hosts = async {
            let running = writer.run(&ports, &*cluster.clock, 8, until);
            tokio::select! {
                biased;
                summary = running => summary,
                () = cluster.sleep_ms(300_000) => panic!("hosts do not go on: {}", cluster.state()),
            }
        };
        let (summary, ()) = tokio::join!(hosts, handled);
        assert_eq!(summary.violations, [], "reads while the journal was handled");
        if stop.load(Ordering::Relaxed) {
            // Its volumes are of one moment; the host sends again what it had not flushed, and goes on.
            cluster.start(ALPHA).await;
            let image = read_image(&SimPort::new(&cluster, "reader", 8, ALPHA), geometry).await.unwrap();
            let observed = Observed::from_images(writer.log(), &image);
            writer
                .resume_after_crash(&observed)
                .unwrap_or_else(|verdict| panic!("seed {seed}: after the crash: {verdict}"));
            let never = AtomicBool::new(false);
            let until = Until { commands: 200, stop: &never };
            let summary = writer.run(&ports, &*cluster.clock, 8, until).await;
            assert_eq!(summary.violations, [], "reads after the crash");
        }
        let is_done = || {
            let now = cluster.snapshot(side).unwrap();
            let used: Vec<_> = now.journals.iter().map(|j| (j.volume.clone(), j.used_as.clone())).collect();
            let usage =
                now.volumes.iter().find(|volume| volume.name == "jnl").map(|volume| volume.usage.clone());
            used == [("jnl2".to_owned(), "written".to_owned())]
                && usage.as_deref() == Some("host")
                && now.groups[0].state == "normal"
                && (1..3).all(|index| has_everything(&cluster, index))
        };
        let mut waited = 0;
        while !is_done() {
            cluster.sleep_ms(100).await;
            waited += 100;
            let journals = cluster.snapshot(side).unwrap().journals;
            assert!(
                waited < 600_000,
                "seed {seed}: it does not come to an end: {journals:?} {}",
                cluster.state()
            );
        }
        let log = writer.log();
        let port = SimPort::new(&cluster, "reader", 9, ALPHA);
        let primary = read_image(&port, geometry).await.expect("the primary can be read");
        for (index, name) in ARRAYS.iter().enumerate().skip(1) {
            let images =
                cluster.take_over(index, Death::PowerLoss).await.expect("its pairs are normal").images;
            check_prefix(log, &Observed::from_images(log, &images)).expect_clean(name);
            assert!(images == primary, "{name} is equal to the primary");
        }
    });
}

#[test]
fn journal_volumes_are_added_and_taken_away_while_hosts_write() {
    (1..=2).for_each(|seed| handle_the_journal(seed, ALPHA, Handling::Exchanged));
    (3..=4).for_each(|seed| handle_the_journal(seed, 1, Handling::Exchanged));
}

#[test]
fn a_journal_that_failed_is_replaced_by_command_and_pairs_come_back_by_themselves() {
    (1..=2).for_each(|seed| handle_the_journal(seed, ALPHA, Handling::Replaced));
    (3..=4).for_each(|seed| handle_the_journal(seed, 1, Handling::Replaced));
}
