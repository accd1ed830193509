//! The unit of a journal volume is lost while hosts write: at the primary, or at an auxiliary. The group there turns
//! abnormal and says why, hosts go on, and every S-VOL stays a prefix of the acknowledged history.

use crate::cluster::{ALPHA, ARRAYS, Cluster, Death, EIGHT, Shape};
use crate::in_virtual_time;
use crate::port::SimPort;
use crate::story::geometry_of;
use crate::support::random::Random;
use crate::support::wof::{
    DurableRule, Observed, Plan, Until, Writer, check_crash, check_prefix, read_image,
};
use holdfast::disk::io::sim::Fault;
use std::sync::atomic::AtomicBool;

/// Room for everything that hosts write after the loss: what is shown is the loss, not a full journal.
const APART: Shape = Shape { journal_kib: 64 << 10, is_journal_apart: true, ..EIGHT };

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
