//! Other readers of a primary that was lost, and taken over by one of its readers (promises K4, O4; decision 19): they read no
//! branch any further, go on from the new primary by their differences where those are known, and one that has more than the new
//! primary had stays what it is until an operator gives that up.

use crate::cluster::{ALPHA, Cluster, Death, NAMES, Shape, Way};
use crate::in_virtual_time;
use crate::onward::{begin, content, equal, is_settled, three};
use crate::story::geometry_of;
use crate::support::random::Random;
use crate::support::wof::{Observed, Plan, Writer};
use crate::takeover::{BETA, go_on, group, image, lets_hosts_write, take_over, takeover, until, write};
use crate::tree::SMALL;

pub(crate) const GAMMA: usize = 2;
pub(crate) const SHAPE: Shape = SMALL;

/// The reader has everything that the new primary has, and its pairs are normal at both.
pub(crate) fn follows(cluster: &Cluster, primary: usize, reader: usize) -> bool {
    let Some(at_primary) = cluster.snapshot(primary) else { return false };
    let number = u32::try_from(reader + 1).unwrap();
    let its: Vec<_> = at_primary.pairs.iter().filter(|pair| pair.auxiliary_array == number).collect();
    let next = at_primary.groups[0].next_update_number;
    let here = group(cluster, reader);
    its.len() == usize::from(SHAPE.volumes)
        && its.iter().all(|pair| pair.state == "normal")
        && here.takeover.is_none()
        && here.pairs_state == "normal"
        && here.follows.is_some_and(|follows| {
            follows.reads_over == NAMES[primary] && next == Some(follows.restored_update_number + 1)
        })
}

fn audit_says(audit: &str, what: &str) -> bool {
    audit.contains(what)
}

/// The primary is lost; beta takes over, and gamma, which may be behind, or away, or dies on the way, reads on from beta.
fn goes_on(seed: u64) {
    in_virtual_time(async {
        let cluster = three(seed);
        let mut random = Random::new(seed ^ 0x7265);
        let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
        begin(&cluster, &mut writer).await;
        // Gamma is as far as beta, or a little behind it, or away.
        let is_behind = seed.is_multiple_of(2);
        if is_behind {
            until(&cluster, "not settled", || is_settled(&cluster, ALPHA)).await;
            cluster.set_way("alpha", "gamma", Way::Cut);
            write(&cluster, &mut writer, ALPHA, 8).await;
            let next = group(&cluster, ALPHA).next_update_number;
            until(&cluster, "beta is behind", || {
                group(&cluster, BETA).follows.map(|follows| follows.durable_update_number + 1) == next
            })
            .await;
        } else {
            equal(&cluster, &writer, ALPHA).await;
        }
        let is_away = seed % 4 >= 2;
        if is_away {
            cluster.die(GAMMA, Death::PowerLoss).await;
        }
        let is_alone = seed.is_multiple_of(3);
        if is_alone {
            // Alpha lives, and gamma could go on reading it.
            cluster.set_way("alpha", "beta", Way::Cut);
        } else {
            cluster.die(ALPHA, if random.percent(50) { Death::Kill } else { Death::PowerLoss }).await;
        }
        take_over(&cluster, BETA).await;
        go_on(&cluster, &mut writer, BETA, false).await;
        if is_away {
            cluster.sleep_ms(500).await;
            cluster.start(GAMMA).await;
        } else if random.percent(40) {
            cluster.sleep_ms(random.below(200)).await;
            let who = [BETA, GAMMA][random.index(2)];
            cluster.die(who, Death::Kill).await;
            cluster.start(who).await;
            until(&cluster, "not up", || {
                group(&cluster, BETA).next_update_number.is_some() && lets_hosts_write(&cluster, BETA)
            })
            .await;
            let images = image(&cluster, BETA).await;
            let resumed = writer.resume_after_loss(&Observed::from_images(writer.log(), &images));
            resumed.unwrap_or_else(|verdict| panic!("after a restart: {verdict}"));
        }
        write(&cluster, &mut writer, BETA, 20).await;
        until(&cluster, "gamma does not go on", || follows(&cluster, BETA, GAMMA)).await;
        assert!(content(&cluster, GAMMA).await == content(&cluster, BETA).await, "{}", cluster.state());
        let audit = cluster.command(BETA, "audit list").await.unwrap();
        assert!(audit_says(&audit, "array 3 goes on from here"), "{audit}");
        assert!(!audit_says(&audit, "all of it is copied"), "{audit}");
        write(&cluster, &mut writer, BETA, 20).await;
        // The old primary comes back, and becomes a copy too.
        cluster.heal();
        if !cluster.runs(ALPHA) {
            cluster.start(ALPHA).await;
        }
        until(&cluster, "alpha says nothing", || {
            group(&cluster, BETA).takeover.is_some_and(|takeover| takeover.branch_updates.is_some())
        })
        .await;
        let back = || cluster.command(BETA, "group failback g1 --to alpha --yes");
        let since = cluster.clock_ms();
        while back().await.is_err() {
            assert!(cluster.clock_ms() < since + 60_000, "{}", cluster.state());
            cluster.sleep_ms(500).await;
        }
        write(&cluster, &mut writer, BETA, 20).await;
        equal(&cluster, &writer, BETA).await;
    });
}

#[test]
fn another_reader_of_a_lost_primary_goes_on_from_the_one_that_took_over() {
    (1..=8).for_each(|seed| {
        std::panic::catch_unwind(|| goes_on(seed)).unwrap_or_else(|cause| {
            eprintln!("seed {seed} failed");
            std::panic::resume_unwind(cause)
        });
    });
}

/// Gamma has read more of the lost primary than beta, which takes over all the same.
#[test]
fn a_reader_that_has_more_than_the_new_primary_stays_what_it_is_until_that_is_given_up() {
    for seed in 21..=22 {
        in_virtual_time(async {
            let cluster = three(seed);
            let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
            begin(&cluster, &mut writer).await;
            until(&cluster, "not settled", || is_settled(&cluster, ALPHA)).await;
            cluster.set_way("alpha", "beta", Way::Cut);
            write(&cluster, &mut writer, ALPHA, 20).await;
            let next = group(&cluster, ALPHA).next_update_number;
            until(&cluster, "gamma is behind", || {
                group(&cluster, GAMMA).follows.map(|follows| follows.restored_update_number + 1) == next
            })
            .await;
            let kept = content(&cluster, GAMMA).await;
            cluster.die(ALPHA, Death::PowerLoss).await;
            take_over(&cluster, BETA).await;
            go_on(&cluster, &mut writer, BETA, false).await;
            until(&cluster, "nobody says it", || {
                takeover(&cluster, GAMMA) == "ahead" && !group(&cluster, BETA).ahead.is_empty()
            })
            .await;
            let said = group(&cluster, BETA).ahead[0].updates;
            let own = group(&cluster, GAMMA).takeover.and_then(|takeover| takeover.branch_updates);
            assert!(said > 0 && own == Some(said), "{said}, {own:?}");
            for _ in 0..2 {
                cluster.sleep_ms(5_000).await;
                assert!(content(&cluster, GAMMA).await == kept, "nothing is overwritten unasked");
                cluster.die(GAMMA, Death::Kill).await;
                cluster.start(GAMMA).await;
                until(&cluster, "gamma is not up", || takeover(&cluster, GAMMA) == "ahead").await;
            }
            let line = "group failback g1 --to gamma";
            let refused = cluster.command(BETA, line).await.unwrap_err();
            assert!(refused.contains(&format!("{said} updates that only gamma has")), "{refused}");
            cluster.command(BETA, &format!("{line} --yes")).await.expect("they are given up");
            until(&cluster, "gamma does not go on", || follows(&cluster, BETA, GAMMA)).await;
            write(&cluster, &mut writer, BETA, 20).await;
            until(&cluster, "gamma does not go on", || follows(&cluster, BETA, GAMMA)).await;
            assert!(content(&cluster, GAMMA).await == content(&cluster, BETA).await);
        });
    }
}

/// Alpha was overtaken and takes itself back before gamma could move: gamma is its copy again.
#[test]
fn a_reader_that_was_to_move_stays_with_a_primary_that_takes_itself_back() {
    for seed in 31..=32 {
        in_virtual_time(async {
            let cluster = three(seed);
            let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
            begin(&cluster, &mut writer).await;
            until(&cluster, "not settled", || is_settled(&cluster, ALPHA)).await;
            cluster.set_way("alpha", "beta", Way::Cut);
            write(&cluster, &mut writer, ALPHA, 20).await;
            let next = group(&cluster, ALPHA).next_update_number;
            until(&cluster, "gamma is behind", || {
                group(&cluster, GAMMA).follows.map(|follows| follows.restored_update_number + 1) == next
            })
            .await;
            // Gamma has more, so it stays where it is.
            take_over(&cluster, BETA).await;
            until(&cluster, "gamma is not told", || takeover(&cluster, GAMMA) == "ahead").await;
            write(&cluster, &mut writer, ALPHA, 5).await;
            cluster.heal();
            until(&cluster, "not overtaken", || takeover(&cluster, ALPHA) == "overtaken").await;
            take_over(&cluster, ALPHA).await;
            write(&cluster, &mut writer, ALPHA, 20).await;
            until(&cluster, "gamma does not come back", || follows(&cluster, ALPHA, GAMMA)).await;
            until(&cluster, "they do not know of each other", || {
                let view = group(&cluster, ALPHA).takeover.unwrap_or_default();
                view.state == "split-brain" && view.branch_updates.is_some()
            })
            .await;
            cluster.command(ALPHA, "group failback g1 --to beta --yes").await.expect("beta is named");
            equal(&cluster, &writer, ALPHA).await;
        });
    }
}
