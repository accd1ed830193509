//! A way between arrays over which the answer to one journal read takes minutes (promises J5, J8): it once took longer than the
//! command may, and the same was asked for again for ever.

use crate::cluster::{ALPHA, Cluster, Way};
use crate::in_virtual_time;
use crate::overflow::{equal, write};
use crate::resync::{SHAPE, ports};
use crate::story::geometry_of;
use crate::support::wof::{Plan, Writer};

/// Both the first copy, whose records are of 1 MiB, and what hosts write behind it.
#[test]
fn a_reader_behind_a_way_of_20_kib_a_second_comes_to_be_equal() {
    in_virtual_time(async {
        let cluster = Cluster::new(7, SHAPE);
        let mut writer = Writer::new(7, Plan::mixed(7, geometry_of(SHAPE)));
        cluster.start(ALPHA).await;
        let ports = ports(&cluster);
        write(&cluster, &mut writer, &ports, 240).await;
        cluster.set_way("alpha", "gamma", Way::Narrow);
        for array in 1..3 {
            cluster.start(array).await;
        }
        let since = cluster.clock_ms();
        while !(1..3).all(|array| cluster.is_normal(array)) {
            assert!(cluster.clock_ms() < since + 1_800_000, "the copy stands still: {}", cluster.state());
            cluster.sleep_ms(1_000).await;
        }
        let copied_ms = cluster.clock_ms() - since;
        assert!(copied_ms > 60_000, "{copied_ms} ms: not so narrow");
        write(&cluster, &mut writer, &ports, 120).await;
        let newest = cluster.newest();
        let since = cluster.clock_ms();
        while cluster.position(2).map(|(_, restored)| restored) != newest {
            assert!(cluster.clock_ms() < since + 1_800_000, "it stands still: {}", cluster.state());
            cluster.sleep_ms(1_000).await;
        }
        let audit = cluster.command(ALPHA, "audit list").await.unwrap();
        assert!(!audit.contains("suspended"), "{audit}");
        equal(&cluster, &writer).await;
    });
}
