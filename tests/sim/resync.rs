//! A resync keeps the last image of the S-VOLs until the new one is whole (promise O3): takeovers in the middle of it,
//! deaths of the auxiliary, an auxiliary without room.

use crate::cluster::{ALPHA, Cluster, Death, EIGHT, Shape, Way};
use crate::in_virtual_time;
use crate::overflow::{all_normal, equal, states, write};
use crate::port::{SimPort, scribble};
use crate::story::geometry_of;
use crate::support::random::Random;
use crate::support::wof::{
    DurableRule, Observed, Plan, Until, Writer, check_crash, check_prefix, read_image,
};
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) const GAMMA: usize = 2;
pub(crate) const SHAPE: Shape = Shape { volume_kib: 2048, ..EIGHT };

pub(crate) fn are(cluster: &Cluster, array: usize, state: &str) -> bool {
    let states = states(cluster, array, "gamma");
    states.len() == usize::from(SHAPE.volumes) && states.iter().all(|(found, ..)| found == state)
}

pub(crate) async fn until(cluster: &Cluster, what: &str, condition: impl Fn() -> bool) {
    let since = cluster.clock_ms();
    while !condition() {
        assert!(cluster.clock_ms() < since + 120_000, "{what}: {}", cluster.state());
        cluster.sleep_ms(5).await;
    }
}

pub(crate) async fn until_normal(cluster: &Cluster) {
    until(cluster, "not normal again", || {
        (0..3).all(|index| cluster.is_normal(index))
            && (1..3).all(|index| cluster.position(index).map(|(_, r)| r) == cluster.newest())
    })
    .await;
    cluster.sleep_ms(1_000).await;
}

pub(crate) fn ports(cluster: &Cluster) -> Vec<SimPort> {
    (1..=4).map(|number| SimPort::new(cluster, "host", number, ALPHA).thinking_ms(5)).collect()
}

/// What gamma says of a takeover: the number, and where it finds it.
pub(crate) fn point(cluster: &Cluster) -> (Option<u64>, String) {
    let snapshot = cluster.snapshot(GAMMA).expect("it runs");
    let follows = snapshot.groups[0].follows.clone().expect("it copies");
    (follows.takeover_update_number, follows.takeover_from)
}

/// All pairs of gamma are suspended, and its S-VOLs lack what was written since. The number that they are of.
pub(crate) async fn left_behind(cluster: &Cluster, writer: &mut Writer) -> u64 {
    all_normal(cluster).await;
    write(cluster, writer, &ports(cluster), 150).await;
    until_normal(cluster).await;
    cluster.command(ALPHA, "group suspend g1 --reader gamma").await.unwrap();
    until(cluster, "not suspended", || are(cluster, GAMMA, "suspended")).await;
    cluster.sleep_ms(2_000).await;
    let (number, from) = point(cluster);
    assert_eq!(from, "volumes", "what is suspended as a whole is of one moment");
    write(cluster, writer, &ports(cluster), 300).await;
    number.expect("it is of one moment")
}

fn middle_of_a_resync(seed: u64, death: Option<Death>) -> usize {
    in_virtual_time(async {
        let cluster = Cluster::new(seed, SHAPE);
        let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
        let last = left_behind(&cluster, &mut writer).await;
        cluster.set_way("alpha", "gamma", Way::Slow);
        cluster.command(ALPHA, "group resync g1 --reader gamma").await.unwrap();
        let (stop, ports) = (AtomicBool::new(false), ports(&cluster));
        let running = writer.run(&ports, &*cluster.clock, 8, Until { commands: u64::MAX, stop: &stop });
        let taking_over = async {
            let mut taken = Vec::new();
            until(&cluster, "no resync", || are(&cluster, GAMMA, "being-copied")).await;
            assert_eq!(point(&cluster), (Some(last), "image".to_owned()), "it says what it has kept");
            while !are(&cluster, GAMMA, "normal") && taken.len() < 12 {
                let how = if taken.len() % 2 == 0 { Death::Kill } else { Death::PowerLoss };
                taken.push(cluster.take_over(GAMMA, how).await.expect("there is always an image"));
                if let Some(death) = death.filter(|_| taken.len() % 3 == 1) {
                    cluster.die(GAMMA, death).await;
                    cluster.start(GAMMA).await;
                }
                cluster.sleep_ms(150).await;
            }
            stop.store(true, Ordering::Relaxed);
            taken
        };
        let (summary, taken) = tokio::join!(running, taking_over);
        assert_eq!(summary.violations, [], "reads while writing");
        let kept = taken.iter().filter(|found| found.has_gone_back).count();
        for found in &taken {
            let log = writer.log();
            check_prefix(log, &Observed::from_images(log, &found.images)).expect_clean("a takeover");
            assert!(!found.has_gone_back || found.restored == last, "the image is of the number it claims");
        }
        cluster.heal();
        until_normal(&cluster).await;
        equal(&cluster, &writer).await;
        let after = cluster.snapshot(GAMMA).unwrap();
        assert!(after.pairs.iter().all(|pair| pair.image_update_number.is_none()), "the image is not needed");
        assert_eq!(point(&cluster).1, "volumes");
        kept
    })
}

#[test]
fn a_takeover_in_the_middle_of_a_resync_finds_the_last_image_of_all_volumes() {
    let kept: usize = (1..=3).map(|seed| middle_of_a_resync(seed, None)).sum();
    assert!(kept > 6, "only {kept} takeovers met a resync");
}

#[test]
fn an_auxiliary_that_dies_in_the_middle_of_a_resync_still_has_the_image() {
    let power_loss = middle_of_a_resync(11, Some(Death::PowerLoss));
    let kill = middle_of_a_resync(12, Some(Death::Kill));
    assert!(power_loss > 1 && kill > 1, "{power_loss} and {kill} takeovers met a resync");
}

/// Takes all the room that gamma has.
pub(crate) async fn fill(cluster: &Cluster, name: &str) {
    let free = cluster.snapshot(GAMMA).unwrap().parity_groups[0].free_bytes;
    let line = format!("volume create {name} --parity-group pg0 --size {}MiB", free >> 20);
    cluster.command(GAMMA, &line).await.unwrap();
}

#[test]
fn without_room_for_the_image_a_resync_waits_and_says_why_until_told_to_do_without() {
    in_virtual_time(async {
        let cluster = Cluster::new(5, SHAPE);
        let mut writer = Writer::new(5, Plan::mixed(5, geometry_of(SHAPE)));
        let last = left_behind(&cluster, &mut writer).await;
        // What is new since has to have its place.
        fill(&cluster, "filler").await;
        cluster.command(ALPHA, "group resync g1 --reader gamma").await.unwrap();
        cluster.sleep_ms(5_000).await;
        assert!(are(&cluster, GAMMA, "suspended"), "nothing has been touched: {}", cluster.state());
        assert_eq!(point(&cluster), (Some(last), "volumes".to_owned()));
        for (_, reason, _) in states(&cluster, ALPHA, "gamma") {
            let reason = reason.expect("the primary's operator sees why");
            assert!(reason.contains("no room") && reason.contains("--without-image"), "{reason}");
        }
        cluster.command(ALPHA, "group resync g1 --reader gamma --without-image").await.unwrap();
        until(&cluster, "no resync", || !are(&cluster, GAMMA, "suspended")).await;
        cluster.command(GAMMA, "volume delete filler --yes").await.unwrap();
        until_normal(&cluster).await;
        equal(&cluster, &writer).await;
    });
}

#[test]
fn room_that_ends_beside_a_kept_image_holds_the_restore_up_and_loses_nothing() {
    in_virtual_time(async {
        let cluster = Cluster::new(6, SHAPE);
        let mut writer = Writer::new(6, Plan::mixed(6, geometry_of(SHAPE)));
        let last = left_behind(&cluster, &mut writer).await;
        cluster.set_way("alpha", "gamma", Way::Slow);
        cluster.command(ALPHA, "group resync g1 --reader gamma").await.unwrap();
        until(&cluster, "no resync", || are(&cluster, GAMMA, "being-copied")).await;
        fill(&cluster, "filler").await;
        cluster.heal();
        cluster.sleep_ms(20_000).await;
        assert!(!are(&cluster, GAMMA, "normal"), "it has nowhere to go");
        assert_eq!(point(&cluster), (Some(last), "image".to_owned()));
        let taken = cluster.take_over(GAMMA, Death::PowerLoss).await.expect("the image is there");
        let log = writer.log();
        check_prefix(log, &Observed::from_images(log, &taken.images)).expect_clean("a takeover");
        // Its operator decides: room, or no image.
        let refused = cluster.command(GAMMA, "group drop-image g1").await.unwrap_err();
        assert!(refused.contains("--yes"), "{refused}");
        cluster.command(GAMMA, "group drop-image g1 --yes").await.unwrap();
        assert_eq!(point(&cluster).1, "none");
        until_normal(&cluster).await;
        equal(&cluster, &writer).await;
    });
}

/// Hosts write the S-VOLs of a suspended group, and both arrays die at some moments of it. Takeovers still find the last
/// image; afterwards only what either side changed is copied, and nothing of what the hosts wrote there is left.
fn both_sides_write(seed: u64) {
    in_virtual_time(async {
        let cluster = Cluster::new(seed, SHAPE);
        let mut random = Random::new(seed);
        let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
        let last = left_behind(&cluster, &mut writer).await;
        assert_eq!(scribble(&cluster, GAMMA, &mut random, 3).await, 0, "an S-VOL is not written unasked");
        cluster.command(ALPHA, "group suspend g1 --reader gamma --svol-write").await.unwrap();
        let open =
            || cluster.snapshot(GAMMA).unwrap().targets[0].luns.iter().all(|lun| lun.access == "read-write");
        until(&cluster, "hosts cannot write", open).await;
        assert!(scribble(&cluster, GAMMA, &mut random, 40).await == 40);
        write(&cluster, &mut writer, &ports(&cluster), 60).await;
        for round in 0..3 {
            let how = if random.percent(50) { Death::Kill } else { Death::PowerLoss };
            let taken = cluster.take_over(GAMMA, how).await.expect("the image from before hosts wrote");
            assert!(taken.has_gone_back && taken.restored == last, "{} is not {last}", taken.restored);
            let log = writer.log();
            check_prefix(log, &Observed::from_images(log, &taken.images)).expect_clean("a takeover");
            if round > 0 {
                break;
            }
            let scribbling = scribble(&cluster, GAMMA, &mut random, 30);
            let dying = async {
                cluster.sleep_ms(random_pause(seed)).await;
                cluster.die(GAMMA, how).await;
            };
            tokio::join!(scribbling, dying);
            cluster.start(GAMMA).await;
        }
        let marked: u64 = states(&cluster, GAMMA, "gamma").iter().map(|(.., bytes)| bytes).sum();
        let whole = (SHAPE.volume_kib << 10) * u64::from(SHAPE.volumes);
        assert!(marked > 0 && marked < whole, "{marked} of {whole} bytes are marked there");
        cluster.command(ALPHA, "group resync g1 --reader gamma").await.unwrap();
        let scribbling = scribble(&cluster, GAMMA, &mut random, 100);
        let dying = async {
            cluster.sleep_ms(random_pause(seed + 1) * 5).await;
            if seed.is_multiple_of(2) {
                cluster.die(GAMMA, Death::PowerLoss).await;
                cluster.start(GAMMA).await;
            }
        };
        tokio::join!(scribbling, dying);
        until_normal(&cluster).await;
        equal(&cluster, &writer).await;
        assert_eq!(scribble(&cluster, GAMMA, &mut random, 3).await, 0, "it is a copy again");
    });
}

fn random_pause(seed: u64) -> u64 {
    seed * 37 % 101
}

#[test]
fn what_hosts_wrote_to_suspended_s_vols_is_taken_back_by_a_resync() {
    (1..=6).for_each(both_sides_write);
}

/// The primary dies and comes back; its host goes on with what must have survived.
async fn primary_dies(cluster: &Cluster, writer: &mut Writer, death: Death) {
    cluster.die(ALPHA, death).await;
    cluster.start(ALPHA).await;
    let image = read_image(&SimPort::new(cluster, "reader", 9, ALPHA), geometry_of(SHAPE)).await.unwrap();
    let observed = Observed::from_images(writer.log(), &image);
    writer.resume_after_crash(&observed).unwrap_or_else(|verdict| panic!("after the crash: {verdict}"));
}

/// Between any two steps of a resync, from the word of the operator to the first differences: it is finished by the next
/// start, and on the way there is always a moment to take over at.
#[test]
fn a_resync_is_finished_when_the_primary_dies_between_any_two_of_its_steps() {
    for (seed, after_ms) in (41..).zip([0, 3, 8, 15, 40, 110, 400, 1_100]) {
        in_virtual_time(async {
            let cluster = Cluster::new(seed, SHAPE);
            let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
            left_behind(&cluster, &mut writer).await;
            cluster.command(ALPHA, "group resync g1 --reader gamma").await.unwrap();
            cluster.sleep_ms(after_ms).await;
            let how = if seed % 2 == 0 { Death::Kill } else { Death::PowerLoss };
            primary_dies(&cluster, &mut writer, how).await;
            write(&cluster, &mut writer, &ports(&cluster), 40).await;
            let taken = cluster.take_over(GAMMA, how).await.expect("there is always a moment");
            let log = writer.log();
            check_prefix(log, &Observed::from_images(log, &taken.images)).expect_clean("a takeover");
            until_normal(&cluster).await;
            equal(&cluster, &writer).await;
        });
    }
}

/// A pair is taken away and made anew while its reader's other pairs are suspended and nothing is held for that reader: a
/// copy that began then would begin with numbers that it never gets, and records of the first pair would end it.
#[test]
fn a_pair_that_is_made_anew_while_its_reader_is_suspended_is_copied_whole() {
    for seed in [51, 52] {
        in_virtual_time(async {
            let cluster = Cluster::new(seed, SHAPE);
            let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
            left_behind(&cluster, &mut writer).await;
            cluster.command(ALPHA, "pair delete p1-gamma --yes").await.unwrap();
            let left =
                |index: usize| cluster.snapshot(index).unwrap().pairs.iter().any(|p| p.name == "p1-gamma");
            until(&cluster, "it stays", || !left(ALPHA) && !left(GAMMA)).await;
            let line = "pair create p1-gamma --group g1 --pvol data1 --svol gamma:copy1";
            cluster.command(ALPHA, line).await.unwrap();
            write(&cluster, &mut writer, &ports(&cluster), 60).await;
            if seed % 2 == 0 {
                primary_dies(&cluster, &mut writer, Death::PowerLoss).await;
            }
            // It does not wait for the others: what its reader is handed begins anew.
            until(&cluster, "it is copied", || states(&cluster, ALPHA, "p1-gamma")[0].0 == "normal").await;
            cluster.command(ALPHA, "group resync g1").await.unwrap();
            write(&cluster, &mut writer, &ports(&cluster), 60).await;
            until_normal(&cluster).await;
            equal(&cluster, &writer).await;
        });
    }
}

/// Volumes leave a group under load, and the power of the primary fails a moment later: what the journal still protected of
/// them was on the units before a write went past it, so no replay puts something older over what was flushed since.
#[test]
fn volumes_that_leave_a_group_keep_what_is_flushed_when_the_power_fails_a_moment_later() {
    for (seed, after_ms) in (61..).zip([40, 90, 150, 400]) {
        in_virtual_time(async {
            let cluster = Cluster::new(seed, SHAPE);
            let mut writer = Writer::new(seed, Plan::hot_only(seed, geometry_of(SHAPE)));
            all_normal(&cluster).await;
            let (stop, hosts) = (AtomicBool::new(false), ports(&cluster));
            let running = writer.run(&hosts, &*cluster.clock, 8, Until { commands: u64::MAX, stop: &stop });
            let deleting = async {
                cluster.sleep_ms(300).await;
                for volume in 1..=SHAPE.volumes / 2 {
                    for reader in ["beta", "gamma"] {
                        let line = format!("pair delete p{volume}-{reader} --yes");
                        cluster.command(ALPHA, &line).await.unwrap();
                    }
                }
                let left = || cluster.snapshot(ALPHA).unwrap().pairs.len();
                until(&cluster, "they stay", || left() == usize::from(SHAPE.volumes)).await;
                cluster.sleep_ms(after_ms).await;
                cluster.die(ALPHA, Death::PowerLoss).await;
                stop.store(true, Ordering::Relaxed);
            };
            let (summary, ()) = tokio::join!(running, deleting);
            assert_eq!(summary.violations, [], "reads while writing");
            cluster.start(ALPHA).await;
            let image =
                read_image(&SimPort::new(&cluster, "reader", 9, ALPHA), geometry_of(SHAPE)).await.unwrap();
            let log = writer.log();
            check_crash(log, &Observed::from_images(log, &image), DurableRule::Flushed)
                .expect_clean("the primary");
        });
    }
}
