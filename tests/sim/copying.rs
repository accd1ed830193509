//! Initial copy of whole arrays (promise J3, figure 11): several volumes at the same time, with progress and time left.

use crate::cluster::{ALPHA, Cluster, EIGHT, Shape};
use crate::in_virtual_time;
use crate::overflow::{equal, write};
use crate::resync::{GAMMA, ports, until, until_normal};
use crate::story::geometry_of;
use crate::support::wof::{Plan, Writer};
use crate::three::config_text;

const BETA: usize = 1;
/// More units in each volume than a copy keeps on their way.
const SHAPE: Shape = Shape { volumes: 4, volume_kib: 4096, ..EIGHT };

/// Copied one after the other, the second volume would stand at nothing until the first one stood at 100 %.
#[test]
fn figure_11_volumes_are_copied_at_the_same_time_and_say_how_long_it_takes() {
    in_virtual_time(async {
        let cluster = Cluster::with(151, SHAPE, |index, shape, random| {
            config_text(index, shape, random)
                .replace("name = \"g1\"\n", "name = \"g1\"\ncopy_unit = \"64KiB\"\n")
        });
        cluster.start(ALPHA).await;
        let mut writer = Writer::new(151, Plan::mixed(151, geometry_of(SHAPE)));
        write(&cluster, &mut writer, &ports(&cluster), 1_500).await;
        cluster.start(BETA).await;
        cluster.start(GAMMA).await;
        // Slow enough to look.
        cluster.command(GAMMA, "link set alpha --limit 512KiB/s").await.unwrap();
        let pairs = || {
            let pairs = cluster.snapshot(ALPHA).expect("it runs").pairs;
            pairs.into_iter().filter(|pair| pair.name.ends_with("gamma")).collect::<Vec<_>>()
        };
        let is_in_the_middle = || {
            let pairs = pairs();
            pairs.len() == 4
                && pairs.iter().all(|pair| 5.0 < pair.progress_percent && pair.progress_percent < 95.0)
        };
        until(&cluster, "they are never all in the middle", is_in_the_middle).await;
        until(&cluster, "no time left", || pairs().iter().all(|pair| pair.time_left_ms.is_some())).await;
        cluster.sleep_ms(4_000).await;
        let (begun_ms, said) = (cluster.clock_ms(), pairs());
        until(&cluster, "the copy does not end", || cluster.is_normal(GAMMA)).await;
        let took_ms = cluster.clock_ms() - begun_ms;
        let longest_ms = said.iter().filter_map(|pair| pair.time_left_ms).max().expect("it goes on");
        assert!(
            (took_ms / 4..took_ms * 4).contains(&longest_ms),
            "{longest_ms} ms were said, {took_ms} it took"
        );
        until_normal(&cluster).await;
        assert!(pairs().iter().all(|pair| pair.time_left_ms.is_none()), "nothing is left");
        equal(&cluster, &writer).await;
    });
}
