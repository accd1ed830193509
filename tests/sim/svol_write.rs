//! S-VOLs that hosts are let into (promise O2), and images in the middle of things (O3): what was found by reading, and
//! forced to happen here.

use crate::cluster::{ALPHA, Cluster, Death, EIGHT, Shape, Way};
use crate::in_virtual_time;
use crate::overflow::{states, write};
use crate::port::scribble;
use crate::resync::{GAMMA, SHAPE, are, fill, left_behind, point, ports, until, until_normal};
use crate::story::geometry_of;
use crate::support::random::Random;
use crate::support::wof::{Observed, Plan, Writer, check_prefix};
use holdfast::disk::io::sim::{Fault, SimDisk};
use std::time::Duration;

fn is_open(cluster: &Cluster) -> bool {
    let snapshot = cluster.snapshot(GAMMA).expect("it runs");
    snapshot.targets[0].luns.iter().all(|lun| lun.access == "read-write")
}

async fn is_one_moment(cluster: &Cluster, writer: &Writer, what: &str) {
    let images = cluster.visible_copies(GAMMA).await;
    check_prefix(writer.log(), &Observed::from_images(writer.log(), &images)).expect_clean(what);
}

/// Going back once left S-VOLs open while they were put back: what hosts wrote meanwhile stayed in them.
#[test]
fn hosts_are_shut_out_before_s_vols_go_back_to_their_image() {
    for seed in 71..=73 {
        in_virtual_time(async {
            let cluster = Cluster::new(seed, SHAPE);
            let mut random = Random::new(seed);
            let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
            let last = left_behind(&cluster, &mut writer).await;
            cluster.command(ALPHA, "group suspend g1 --reader gamma --svol-write").await.unwrap();
            until(&cluster, "hosts cannot write", || is_open(&cluster)).await;
            scribble(&cluster, GAMMA, &mut random, 40).await;
            let going_back = async {
                cluster.sleep_ms(seed % 7 * 3).await;
                cluster.array(GAMMA).unwrap().go_back("g1").await.unwrap()
            };
            let (_, (number, has_gone_back)) =
                tokio::join!(scribble(&cluster, GAMMA, &mut random, 300), going_back);
            assert!(has_gone_back && number == last, "{number} is not {last}");
            assert_eq!(scribble(&cluster, GAMMA, &mut random, 5).await, 0, "it is a copy again");
            is_one_moment(&cluster, &writer, "what it went back to").await;
        });
    }
}

/// Opening S-VOLs once restored everything that was held: the window in which an operator can go back was gone.
#[test]
fn opening_s_vols_leaves_a_restore_delay_alone() {
    in_virtual_time(async {
        let cluster = Cluster::new(81, SHAPE);
        let mut writer = Writer::new(81, Plan::mixed(81, geometry_of(SHAPE)));
        crate::overflow::all_normal(&cluster).await;
        let line = "group schedule g1 --link alpha --restore-delay 10min";
        cluster.command(GAMMA, line).await.unwrap();
        write(&cluster, &mut writer, &ports(&cluster), 100).await;
        cluster.sleep_ms(5_000).await;
        let follows = || cluster.snapshot(GAMMA).unwrap().groups[0].follows.clone().unwrap();
        let before = follows();
        assert!(before.durable_update_number > before.restored_update_number, "something is held");
        cluster.command(ALPHA, "group suspend g1 --reader gamma --svol-write").await.unwrap();
        until(&cluster, "hosts cannot write", || is_open(&cluster)).await;
        assert_eq!(follows().restored_update_number, before.restored_update_number);
        is_one_moment(&cluster, &writer, "what hosts are given").await;
        cluster.command(GAMMA, "group schedule g1 --link alpha --restore-delay 0s").await.unwrap();
        scribble(&cluster, GAMMA, &mut Random::new(81), 40).await;
        cluster.command(ALPHA, "group resync g1 --reader gamma").await.unwrap();
        until_normal(&cluster).await;
        crate::overflow::equal(&cluster, &writer).await;
    });
}

/// A start in the middle of opening once took S-VOLs out of restore that were on the units in part.
#[test]
fn a_death_while_s_vols_are_opened_leaves_hosts_one_moment() {
    in_virtual_time(async {
        let cluster = Cluster::new(91, SHAPE);
        let mut writer = Writer::new(91, Plan::mixed(91, geometry_of(SHAPE)));
        crate::overflow::all_normal(&cluster).await;
        // Updates fall due all the time, also between the image that is kept first and the moment of opening.
        let line = "group schedule g1 --link alpha --restore immediate --restore-delay 700ms";
        cluster.command(GAMMA, line).await.unwrap();
        let ports = ports(&cluster);
        for round in 0..5 {
            write(&cluster, &mut writer, &ports, 150).await;
            cluster.command(ALPHA, "group suspend g1 --reader gamma --svol-write").await.unwrap();
            let asked = || {
                cluster.snapshot(GAMMA).unwrap().pairs.iter().any(|pair| pair.image_update_number.is_some())
            };
            until(&cluster, "no image", asked).await;
            cluster.sleep_ms(round * 7).await;
            cluster.die(GAMMA, if round % 2 == 0 { Death::Kill } else { Death::PowerLoss }).await;
            cluster.start(GAMMA).await;
            until(&cluster, "hosts cannot write", || is_open(&cluster)).await;
            is_one_moment(&cluster, &writer, "what hosts are given").await;
            cluster.command(ALPHA, "group resync g1 --reader gamma").await.unwrap();
            until_normal(&cluster).await;
            crate::overflow::equal(&cluster, &writer).await;
        }
    });
}

/// What hosts wrote was once no reason to look for room: a resync began and stopped half-way.
#[test]
fn room_beside_an_image_is_looked_for_also_where_hosts_have_written() {
    in_virtual_time(async {
        let cluster = Cluster::new(111, SHAPE);
        let mut writer = Writer::new(111, Plan::mixed(111, geometry_of(SHAPE)));
        left_behind(&cluster, &mut writer).await;
        cluster.command(ALPHA, "group suspend g1 --reader gamma --svol-write").await.unwrap();
        until(&cluster, "hosts cannot write", || is_open(&cluster)).await;
        scribble(&cluster, GAMMA, &mut Random::new(111), 1).await;
        fill(&cluster, "filler").await;
        cluster.command(ALPHA, "group resync g1 --reader gamma").await.unwrap();
        cluster.sleep_ms(8_000).await;
        assert!(are(&cluster, GAMMA, "suspended"), "nothing has been touched: {}", cluster.state());
        for (_, reason, _) in states(&cluster, ALPHA, "gamma") {
            assert!(reason.is_some_and(|reason| reason.contains("no room")), "the operator sees why");
        }
        cluster.command(GAMMA, "volume delete filler --yes").await.unwrap();
        until_normal(&cluster).await;
        crate::overflow::equal(&cluster, &writer).await;
    });
}

/// A suspension in the middle of a resync once had the only consistent images thrown away: those of the pairs that were
/// normal already were kept anew, of another moment than the others'.
#[test]
fn a_suspension_in_the_middle_of_a_resync_keeps_the_image_of_all_pairs() {
    in_virtual_time(async {
        let shape = Shape { volume_kib: 2048, ..EIGHT };
        let cluster = Cluster::new(121, shape);
        let mut writer = Writer::new(121, Plan::mixed(121, geometry_of(shape)));
        let last = left_behind(&cluster, &mut writer).await;
        cluster.command(ALPHA, "pair resync p1-gamma").await.unwrap();
        until(&cluster, "it is not copied", || states(&cluster, GAMMA, "p1-gamma")[0].0 == "normal").await;
        cluster.set_way("alpha", "gamma", Way::Slow);
        cluster.command(ALPHA, "group resync g1 --reader gamma").await.unwrap();
        until(&cluster, "no resync", || states(&cluster, GAMMA, "p2-gamma")[0].0 == "being-copied").await;
        cluster.command(ALPHA, "group suspend g1 --reader gamma").await.unwrap();
        until(&cluster, "not suspended", || are(&cluster, GAMMA, "suspended")).await;
        assert_eq!(point(&cluster), (Some(last), "image".to_owned()));
        write(&cluster, &mut writer, &ports(&cluster), 60).await;
        cluster.command(ALPHA, "group resync g1 --reader gamma").await.unwrap();
        until(&cluster, "no resync", || are(&cluster, GAMMA, "being-copied")).await;
        assert_eq!(point(&cluster), (Some(last), "image".to_owned()), "it is still the only one");
        let taken = cluster.take_over(GAMMA, Death::PowerLoss).await.expect("there is an image");
        assert!(taken.has_gone_back && taken.restored == last);
        let log = writer.log();
        check_prefix(log, &Observed::from_images(log, &taken.images)).expect_clean("a takeover");
        cluster.heal();
        until_normal(&cluster).await;
        crate::overflow::equal(&cluster, &writer).await;
    });
}

/// When some pairs of an idle suspended group were resynchronised, the others were once said to be as new as these.
#[test]
fn pairs_that_stay_suspended_are_not_taken_for_as_new_as_those_that_were_resynchronised() {
    in_virtual_time(async {
        let cluster = Cluster::new(131, SHAPE);
        let mut writer = Writer::new(131, Plan::mixed(131, geometry_of(SHAPE)));
        crate::overflow::all_normal(&cluster).await;
        write(&cluster, &mut writer, &ports(&cluster), 150).await;
        until_normal(&cluster).await;
        cluster.command(ALPHA, "group suspend g1 --reader gamma").await.unwrap();
        until(&cluster, "not suspended", || are(&cluster, GAMMA, "suspended")).await;
        cluster.sleep_ms(2_000).await;
        let (last, _) = point(&cluster);
        // Nothing was written meanwhile: what gamma holds goes on without a gap.
        cluster.command(ALPHA, "pair resync p1-gamma").await.unwrap();
        until(&cluster, "it is not copied", || states(&cluster, GAMMA, "p1-gamma")[0].0 == "normal").await;
        write(&cluster, &mut writer, &ports(&cluster), 60).await;
        cluster.sleep_ms(3_000).await;
        assert_eq!(point(&cluster), (last, "image".to_owned()));
        let taken = cluster.take_over(GAMMA, Death::Kill).await.expect("there is a moment");
        let log = writer.log();
        check_prefix(log, &Observed::from_images(log, &taken.images)).expect_clean("a takeover");
        cluster.command(ALPHA, "group resync g1 --reader gamma").await.unwrap();
        until_normal(&cluster).await;
        crate::overflow::equal(&cluster, &writer).await;
    });
}

/// A resync that came while S-VOLs were being opened once closed some that were then taken out of restore all the same: what
/// came for them was passed over in silence.
#[test]
fn a_resync_that_comes_while_s_vols_are_opened_copies_all_that_they_lack() {
    for (seed, after_ms) in (171..).zip([0, 20, 50, 90, 150, 240]) {
        in_virtual_time(async {
            let cluster = Cluster::new(seed, SHAPE);
            let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
            crate::overflow::all_normal(&cluster).await;
            let ports = ports(&cluster);
            write(&cluster, &mut writer, &ports, 60).await;
            // Opening takes its time.
            let disks = ["u0", "u1", "u2"].map(|unit| cluster.disk(GAMMA, unit));
            disks.iter().for_each(|disk| disk.inject(Fault::Slow(Duration::from_millis(40))));
            cluster.command(ALPHA, "group suspend g1 --reader gamma --svol-write").await.unwrap();
            let is_told = || cluster.snapshot(GAMMA).unwrap().pairs.iter().any(|pair| pair.svol_write);
            until(&cluster, "it is not told", is_told).await;
            cluster.sleep_ms(after_ms).await;
            cluster.command(ALPHA, "group resync g1 --reader gamma").await.unwrap();
            write(&cluster, &mut writer, &ports, 40).await;
            disks.iter().for_each(SimDisk::heal);
            until_normal(&cluster).await;
            crate::overflow::equal(&cluster, &writer).await;
        });
    }
}

/// A takeover that goes back to an image drops what hosts wrote to S-VOLs that were opened; it once said nothing of that, and
/// nothing of what only the primary's difference maps have.
#[test]
fn a_takeover_names_what_hosts_wrote_to_some_of_the_s_vols_before_it_drops_that() {
    in_virtual_time(async {
        let cluster = Cluster::new(181, SHAPE);
        let mut writer = Writer::new(181, Plan::mixed(181, geometry_of(SHAPE)));
        let last = left_behind(&cluster, &mut writer).await;
        cluster.command(ALPHA, "pair suspend p1-gamma --svol-write").await.unwrap();
        let open = || {
            let snapshot = cluster.snapshot(GAMMA).expect("it runs");
            snapshot.targets[0].luns.iter().filter(|lun| lun.access == "read-write").count()
        };
        until(&cluster, "hosts cannot write", || open() == 1).await;
        let accepted = scribble(&cluster, GAMMA, &mut Random::new(181), 60).await;
        assert!((1..60).contains(&accepted), "into one of them only: {accepted}");
        let loss = cluster.snapshot(GAMMA).unwrap().groups[0].loss.clone().expect("it is a copy");
        assert!(loss.is_image && loss.update_number == Some(last), "{loss:?}");
        assert!(loss.dropped_svols == 1 && loss.dropped_bytes > 0 && loss.stopped_pairs == 8, "{loss:?}");
        let refused = cluster.command(GAMMA, "group takeover g1").await.unwrap_err();
        for what in ["into 1 of the S-VOLs", "for the 8 stopped pairs"] {
            assert!(refused.contains(what), "{refused}");
        }
    });
}

/// Gamma has finished the copy of one pair and says so; before alpha hears it, its operator suspends that pair again, and gamma cannot take note
/// of that. What hosts wrote to the pair's volume from then on was once kept from gamma, which went on with the others.
#[test]
fn a_pair_that_is_suspended_again_at_the_end_of_its_resync_leaves_the_copies_at_one_moment() {
    for seed in 191..=192 {
        in_virtual_time(async {
            let cluster = Cluster::new(seed, SHAPE);
            let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
            crate::overflow::all_normal(&cluster).await;
            let ports = ports(&cluster);
            cluster.command(GAMMA, "group schedule g1 --link alpha --restore immediate").await.unwrap();
            cluster.command(ALPHA, "pair suspend p1-gamma").await.unwrap();
            let state = |at| states(&cluster, at, "p1-gamma")[0].0.clone();
            until(&cluster, "not suspended", || state(GAMMA) == "suspended").await;
            write(&cluster, &mut writer, &ports, 60).await;
            cluster.set_way("alpha", "gamma", Way::Slow);
            cluster.command(ALPHA, "pair resync p1-gamma").await.unwrap();
            until(&cluster, "no resync", || state(GAMMA) == "being-copied").await;
            until(&cluster, "it is not copied", || state(GAMMA) == "normal").await;
            assert_eq!(state(ALPHA), "being-copied", "it has not heard of it");
            cluster.fail_store_after(GAMMA, 0);
            cluster.command(ALPHA, "pair suspend p1-gamma").await.unwrap();
            until(&cluster, "not suspended", || state(ALPHA) == "suspended").await;
            cluster.heal();
            for _ in 0..4 {
                write(&cluster, &mut writer, &ports, 60).await;
                cluster.sleep_ms(500).await;
                let taken = cluster.take_over(GAMMA, Death::PowerLoss).await.expect("it knows of nothing");
                let log = writer.log();
                check_prefix(log, &Observed::from_images(log, &taken.images)).expect_clean("a takeover");
            }
            cluster.die(GAMMA, Death::Kill).await;
            cluster.start(GAMMA).await;
            until(&cluster, "it is not told", || state(GAMMA) == "suspended").await;
            write(&cluster, &mut writer, &ports, 60).await;
            cluster.command(ALPHA, "pair resync p1-gamma").await.unwrap();
            until_normal(&cluster).await;
            crate::overflow::equal(&cluster, &writer).await;
        });
    }
}

/// A pair that was resynchronised alone, and once more, once had its image kept anew: of another moment than that of the pairs that
/// stayed suspended, so that there was none for a takeover to go back to.
#[test]
fn a_second_resync_of_one_pair_leaves_the_image_by_which_the_suspended_ones_can_be_taken_over() {
    in_virtual_time(async {
        let cluster = Cluster::new(201, SHAPE);
        let mut writer = Writer::new(201, Plan::mixed(201, geometry_of(SHAPE)));
        let last = left_behind(&cluster, &mut writer).await;
        let image = (Some(last), "image".to_owned());
        for round in 0..2 {
            cluster.command(ALPHA, "pair resync p1-gamma").await.unwrap();
            until(&cluster, "it is not copied", || states(&cluster, GAMMA, "p1-gamma")[0].0 == "normal")
                .await;
            assert_eq!(point(&cluster), image, "round {round}");
            write(&cluster, &mut writer, &ports(&cluster), 60).await;
            cluster.sleep_ms(2_000).await;
            cluster.command(ALPHA, "pair suspend p1-gamma").await.unwrap();
            until(&cluster, "not suspended", || are(&cluster, GAMMA, "suspended")).await;
            assert_eq!(point(&cluster), image, "round {round}");
            write(&cluster, &mut writer, &ports(&cluster), 60).await;
        }
        let taken = cluster.take_over(GAMMA, Death::PowerLoss).await.expect("there is an image");
        assert!(taken.has_gone_back && taken.restored == last);
        let log = writer.log();
        check_prefix(log, &Observed::from_images(log, &taken.images)).expect_clean("a takeover");
        cluster.command(ALPHA, "group resync g1 --reader gamma").await.unwrap();
        until_normal(&cluster).await;
        crate::overflow::equal(&cluster, &writer).await;
    });
}
