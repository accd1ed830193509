//! A third array that is further behind than the journal of the second reaches back (promise K1): what that had to free is in its
//! difference map, which outlives it, and the third comes by differences instead of a full copy.

use crate::cluster::{ALPHA, Death, Shape, Way};
use crate::in_virtual_time;
use crate::onward::{content, equal};
use crate::rejoin::follows;
use crate::story::geometry_of;
use crate::support::random::Random;
use crate::support::wof::{Plan, Writer};
use crate::takeover::{BETA, go_on, group, take_over, until, write};
use crate::three_centres::{any_death, begin, centres_as, comes_back, until_synchronised};
use crate::tree::SMALL;

const GAMMA: usize = 2;
/// Alpha's and gamma's; beta's is much smaller.
const SHAPE: Shape = Shape { journal_kib: 8192, ..SMALL };

#[test]
fn a_third_that_lacks_what_the_second_has_freed_comes_by_differences() {
    for seed in 1..=3 {
        in_virtual_time(async {
            let small = |text: String| text.replace("size = \"8192KiB\"", "size = \"1024KiB\"");
            let cluster =
                centres_as(seed, SHAPE, ["never", "data"][usize::try_from(seed % 2).unwrap()], small);
            let mut random = Random::new(seed ^ 0x6b31);
            let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
            begin(&cluster, &mut writer).await;
            equal(&cluster, &writer, ALPHA).await;
            cluster.set_way("alpha", "gamma", Way::Cut);
            let had = group(&cluster, GAMMA).follows.expect("it is a copy").restored_update_number;
            let has_freed = |rounds: u64| {
                let loss = group(&cluster, BETA).loss.expect("it is a copy");
                loss.journal_from_update_number > Some(had + rounds)
            };
            // More than once, with a death in between: the map is added to, and is in the control store.
            for rounds in [20, 60] {
                let since = cluster.clock_ms();
                while !has_freed(rounds) {
                    assert!(cluster.clock_ms() < since + 120_000, "nothing is freed: {}", cluster.state());
                    write(&cluster, &mut writer, ALPHA, 8).await;
                    cluster.sleep_ms(1_100).await;
                }
                if seed != 1 {
                    cluster.die(BETA, any_death(&mut random)).await;
                    cluster.start(BETA).await;
                    until_synchronised(&cluster).await;
                }
            }
            write(&cluster, &mut writer, ALPHA, 10).await;
            until_synchronised(&cluster).await;
            cluster.die(ALPHA, Death::PowerLoss).await;
            if seed == 3 {
                cluster.die(BETA, Death::PowerLoss).await;
                cluster.start(BETA).await;
                until(&cluster, "beta is not up", || {
                    group(&cluster, BETA)
                        .follows
                        .is_some_and(|follows| follows.takeover_update_number.is_some())
                })
                .await;
            }
            take_over(&cluster, BETA).await;
            go_on(&cluster, &mut writer, BETA, true).await;
            until(&cluster, "gamma does not go on", || follows(&cluster, BETA, GAMMA)).await;
            assert!(content(&cluster, GAMMA).await == content(&cluster, BETA).await, "gamma differs");
            let judged = group(&cluster, BETA).judged.into_iter().find(|judged| judged.array == 3);
            let judged = judged.expect("gamma was judged");
            assert_eq!((judged.way.as_str(), judged.update_number), ("differences", had), "{judged:?}");
            cluster.heal();
            cluster.start(ALPHA).await;
            comes_back(&cluster, &mut writer, BETA).await;
            equal(&cluster, &writer, BETA).await;
        });
    }
}
