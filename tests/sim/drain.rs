//! Figure 24 to its end (promise T3): the upstream array has failed, the primary has journals and nothing else. The auxiliary is
//! told to take over, drains them, and its hosts find everything that they were ever answered.

use crate::cluster::{ALPHA, Cluster, Death, EIGHT, Way};
use crate::in_virtual_time;
use crate::port::{SimPort, scribble};
use crate::story::geometry_of;
use crate::support::random::Random;
use crate::support::wof::{DurableRule, Observed, check_crash, read_image};
use crate::upstream::{Fence, GAMMA, Primary, Story, write};

const BETA: usize = 1;

fn takeover(cluster: &Cluster, index: usize) -> String {
    let snapshot = cluster.snapshot(index).expect("it runs");
    snapshot.groups.into_iter().find_map(|group| group.takeover).map(|one| one.state).unwrap_or_default()
}

#[test]
fn figure_24_the_auxiliary_drains_the_journals_of_virtual_volumes_and_takes_over_with_nothing_lost() {
    for seed in [5, 6] {
        in_virtual_time(async {
            let mut story = Story::new(seed, EIGHT, Fence::Data, Primary::Virtual);
            for index in [GAMMA, ALPHA, BETA] {
                story.cluster.start(index).await;
            }
            write(&mut story, 40).await;
            story.in_step().await;
            while story.cluster.position(BETA).is_none() {
                story.cluster.sleep_ms(50).await;
            }
            story.cluster.set_way("alpha", "beta", Way::Cut);
            write(&mut story, 120).await;
            story.cluster.die(GAMMA, Death::PowerLoss).await;
            if seed == 6 {
                story.cluster.die(ALPHA, Death::PowerLoss).await;
                story.cluster.start(ALPHA).await;
            }
            story.cluster.heal();
            let cluster = &story.cluster;
            // It may take until the journals are open again.
            let since = cluster.clock_ms();
            while cluster.newest().is_none() {
                cluster.sleep_ms(20).await;
            }
            cluster.command(BETA, "group takeover g1 --yes").await.expect("it takes over");
            assert!(cluster.clock_ms() < since + 60_000);
            assert_eq!(takeover(cluster, BETA), "taken");
            let port = SimPort::new(cluster, "reader", 9, BETA);
            let images = read_image(&port, geometry_of(EIGHT)).await.expect("its hosts read it");
            let log = story.writer.log();
            check_crash(log, &Observed::from_images(log, &images), DurableRule::Acknowledged)
                .expect_clean("the new primary");
            let mut random = Random::new(seed);
            assert_eq!(scribble(cluster, BETA, &mut random, 5).await, 5, "its hosts write it");
            while takeover(cluster, ALPHA) != "overtaken" {
                assert!(cluster.clock_ms() < since + 120_000, "{}", cluster.state());
                cluster.sleep_ms(20).await;
            }
            // The upstream array comes back: nothing that it forwards is taken.
            cluster.start(GAMMA).await;
            cluster.sleep_ms(3_000).await;
            let newest = cluster.newest();
            scribble(cluster, GAMMA, &mut random, 2).await;
            assert_eq!(cluster.newest(), newest, "an array that was overtaken gives no number");
        });
    }
}
