//! How far the last array of a cascade is behind the first one in time (promise O5): by no wall clock, over all hops.

use crate::cluster::{ALPHA, Cluster, Way};
use crate::in_virtual_time;
use crate::port::SimPort;
use crate::story::geometry_of;
use crate::support::wof::{Plan, Until, Writer};
use crate::tree::{SMALL, Tree};
use std::sync::atomic::AtomicBool;

const GAMMA: usize = 2;

async fn write(cluster: &Cluster, writer: &mut Writer, commands: u64) {
    let ports: Vec<SimPort> =
        (1..=4).map(|number| SimPort::new(cluster, "host", number, ALPHA).thinking_ms(5)).collect();
    let never = AtomicBool::new(false);
    let summary = writer.run(&ports, &*cluster.clock, 8, Until { commands, stop: &never }).await;
    assert_eq!(summary.violations, []);
}

fn behind_ms(cluster: &Cluster, array: usize) -> Option<u64> {
    cluster.snapshot(array)?.groups[0].follows.as_ref()?.behind_top_ms
}

#[test]
fn the_last_array_of_a_cascade_says_how_long_it_is_behind_the_first() {
    in_virtual_time(async {
        let cluster = Tree::chain(3).cluster(5, SMALL);
        for array in 0..3 {
            cluster.start(array).await;
        }
        while !(0..3).all(|array| cluster.is_normal(array)) {
            cluster.sleep_ms(20).await;
        }
        let mut writer = Writer::new(5, Plan::mixed(5, geometry_of(SMALL)));
        write(&cluster, &mut writer, 40).await;
        cluster.sleep_ms(6_000).await;
        // A source may hold a read that finds nothing for two seconds, at each hop.
        let at_rest = behind_ms(&cluster, GAMMA).expect("it has heard");
        assert!(at_rest < 6_000, "{at_rest} ms behind at rest");
        for hop in [("beta", "gamma"), ("alpha", "beta")] {
            cluster.set_way(hop.0, hop.1, Way::Cut);
            write(&cluster, &mut writer, 10).await;
            let since = cluster.clock_ms();
            cluster.sleep_ms(20_000).await;
            for clock in [3_600, -7_200, 3_600] {
                cluster.step_wall(clock);
                let behind = behind_ms(&cluster, GAMMA).expect("it has heard");
                let truth = cluster.clock_ms() - since;
                assert!(behind >= truth && behind < truth + 10_000, "{behind} ms at {hop:?}, really {truth}");
            }
            cluster.heal();
            cluster.sleep_ms(15_000).await;
            let again = behind_ms(&cluster, GAMMA).expect("it has heard");
            assert!(again < 6_000, "{again} ms behind when {hop:?} is up again");
        }
    });
}
