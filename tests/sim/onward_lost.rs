//! A reader loses its journal behind a reversal, before its new primary has told it anything (decision 17): what it had
//! acknowledged and not restored is in no record any more, and nobody may take it for what it has.

use crate::cluster::{ALPHA, Cluster, Death, Second, Shape, Way};
use crate::in_virtual_time;
use crate::onward::{begin, equal, reverse, three_of};
use crate::reversal::{is_primary, role, until, write};
use crate::story::geometry_of;
use crate::support::wof::{Plan, Writer};
use crate::tree::SMALL;
use holdfast::disk::io::sim::Fault;

const BETA: usize = 1;
const GAMMA: usize = 2;
const SHAPE: Shape =
    Shape { journal_kib: 12 << 10, is_journal_apart: true, second: Second::Ordinary, ..SMALL };

async fn delay(cluster: &Cluster, delay: &str) {
    let line = format!("group schedule g1 --link alpha --restore immediate --restore-delay {delay}");
    cluster.command(GAMMA, &line).await.unwrap();
}

/// Gamma holds what it has read, and comes back without the unit of its journal.
fn loses_its_journal(seed: u64, turns: usize) {
    in_virtual_time(async {
        let cluster = three_of(seed, SHAPE);
        let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
        begin(&cluster, &mut writer).await;
        equal(&cluster, &writer, ALPHA).await;
        delay(&cluster, "10min").await;
        write(&cluster, &mut writer, 40).await;
        cluster.set_way("beta", "gamma", Way::Cut);
        let mut primary = ALPHA;
        for _ in 0..turns {
            let to = BETA - primary;
            reverse(&cluster, primary, to, "5s").await;
            until(&cluster, "not turned", || is_primary(&cluster, to) && role(&cluster, primary).1.is_none())
                .await;
            cluster.set_way("alpha", "gamma", Way::Cut);
            primary = to;
            write(&cluster, &mut writer, 5).await;
            until(&cluster, "the other one lacks something", || {
                let newest = cluster.snapshot(primary).unwrap().groups[0].next_update_number;
                let follows = cluster.snapshot(BETA - primary).unwrap().groups[0].follows.clone();
                follows.is_some_and(|follows| Some(follows.restored_update_number + 1) == newest)
            })
            .await;
        }
        let audit = cluster.command(ALPHA, "audit list").await.unwrap();
        assert!(!audit.contains("pairs of array 3 suspended"), "it had acknowledged everything");
        cluster.die(GAMMA, Death::PowerLoss).await;
        cluster.disk(GAMMA, "j0").inject(Fault::Gone);
        cluster.start(GAMMA).await;
        cluster.command(GAMMA, "journal replace g1 --volume jnl --by jnl2 --yes").await.unwrap();
        delay(&cluster, "0s").await;
        cluster.sleep_ms(2_000).await;
        cluster.heal();
        equal(&cluster, &writer, primary).await;
        write(&cluster, &mut writer, 20).await;
        equal(&cluster, &writer, primary).await;
    });
}

/// It once refused to go on for ever.
#[test]
fn a_reader_that_lost_what_it_had_acknowledged_gets_everything_from_its_new_primary() {
    loses_its_journal(1, 1);
}

/// The second primary has marks of what the first one wrote, and once took the rest for what the reader has.
#[test]
fn what_a_reader_had_acknowledged_is_not_taken_for_granted_by_a_second_new_primary() {
    loses_its_journal(2, 2);
}
