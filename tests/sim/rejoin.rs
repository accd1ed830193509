//! Other readers of a primary that was lost, and taken over by one of its readers (promises K4, O4; decision 19): they read no
//! branch any further, go on from the new primary by their differences where those are known, and one that has more than the new
//! primary had stays what it is until an operator gives that up.

use crate::cluster::{ALPHA, Cluster, Death, NAMES, Shape, Way};
use crate::in_virtual_time;
use crate::onward::{begin, content, equal, is_settled, three};
use crate::port::scribble;
use crate::story::geometry_of;
use crate::support::random::Random;
use crate::support::wof::{Observed, Plan, Until, Writer};
use crate::takeover::{
    BETA, go_on, group, image, lets_hosts_write, ports, take_over, takeover, until, write,
};
use crate::tree::SMALL;
use holdfast::copy::tamper::Tamper;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

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

/// Hosts have written beta's S-VOLs when alpha is lost. Gamma has every update of alpha, and no journal has what those hosts wrote.
#[test]
fn what_hosts_wrote_in_s_vols_before_a_takeover_reaches_a_reader_that_lacks_no_update() {
    in_virtual_time(async {
        let cluster = three(41);
        let mut writer = Writer::new(41, Plan::mixed(41, geometry_of(SHAPE)));
        begin(&cluster, &mut writer).await;
        until(&cluster, "not settled", || is_settled(&cluster, ALPHA)).await;
        cluster.command(ALPHA, "group suspend g1 --reader beta --svol-write").await.unwrap();
        until(&cluster, "hosts cannot write", || lets_hosts_write(&cluster, BETA)).await;
        assert_eq!(scribble(&cluster, BETA, &mut Random::new(41), 30).await, 30);
        cluster.die(ALPHA, Death::PowerLoss).await;
        take_over(&cluster, BETA).await;
        until(&cluster, "gamma does not go on", || follows(&cluster, BETA, GAMMA)).await;
        assert!(content(&cluster, GAMMA).await == content(&cluster, BETA).await, "{}", cluster.state());
        let judged = group(&cluster, BETA).judged;
        assert_eq!(judged[0].way, "differences", "{}", judged[0].text);
    });
}

/// Holds up what is said to an array of who is its primary, while it is armed.
#[derive(Debug, Default)]
struct Holds {
    for_ms: AtomicU64,
    held: AtomicU64,
}

impl Tamper for Holds {
    fn before_promising(&self) -> Duration {
        let ms = self.for_ms.load(Ordering::Relaxed);
        self.held.fetch_add(u64::from(ms > 0), Ordering::Relaxed);
        Duration::from_millis(ms)
    }
}

/// Gamma asks to be taken on, over a session that hangs; asks again over the next one, goes on from beta, and is taken away there. Then
/// what it had asked first arrives.
#[test]
fn a_reader_that_was_taken_away_is_not_taken_on_by_what_it_had_asked_before() {
    in_virtual_time(async {
        let cluster = three(51);
        let holds = Arc::new(Holds::default());
        cluster.plant(BETA, holds.clone());
        let mut writer = Writer::new(51, Plan::mixed(51, geometry_of(SHAPE)));
        begin(&cluster, &mut writer).await;
        until(&cluster, "not settled", || is_settled(&cluster, ALPHA)).await;
        cluster.die(ALPHA, Death::PowerLoss).await;
        holds.for_ms.store(20_000, Ordering::Relaxed);
        take_over(&cluster, BETA).await;
        until(&cluster, "nothing is held up", || holds.held.load(Ordering::Relaxed) > 0).await;
        let since = cluster.clock_ms();
        holds.for_ms.store(0, Ordering::Relaxed);
        cluster.set_way("beta", "gamma", Way::Cut);
        cluster.sleep_ms(500).await;
        cluster.heal();
        until(&cluster, "gamma does not go on", || follows(&cluster, BETA, GAMMA)).await;
        cluster.command(BETA, "group delete g1 --reader gamma --yes").await.unwrap();
        let is_gone = || {
            let pairs = cluster.snapshot(BETA).map(|snapshot| snapshot.pairs).unwrap_or_default();
            pairs.iter().all(|pair| pair.auxiliary_array != 3)
        };
        until(&cluster, "gamma does not go", || is_gone() && group(&cluster, GAMMA).name.is_empty()).await;
        assert!(cluster.clock_ms() < since + 19_000, "too late for this story");
        cluster.sleep_ms(25_000).await;
        assert!(is_gone(), "{}", cluster.state());
    });
}

/// Hosts were let into one of gamma's S-VOLs when alpha is lost: the others go on from beta, and what those hosts have made of that one is theirs
/// until an operator of beta wants it copied.
#[test]
fn a_reader_goes_on_from_the_new_primary_while_hosts_write_one_of_its_s_vols() {
    in_virtual_time(async {
        let cluster = three(61);
        let mut writer = Writer::new(61, Plan::mixed(61, geometry_of(SHAPE)));
        begin(&cluster, &mut writer).await;
        until(&cluster, "not settled", || is_settled(&cluster, ALPHA)).await;
        cluster.command(ALPHA, "group set g1 --svol-access read").await.unwrap();
        cluster.command(ALPHA, "pair suspend p2-gamma --svol-write").await.unwrap();
        until(&cluster, "hosts cannot write", || lets_hosts_write(&cluster, GAMMA)).await;
        let mut random = Random::new(61);
        assert!(scribble(&cluster, GAMMA, &mut random, 40).await > 0, "only one of three lets them in");
        cluster.die(ALPHA, Death::PowerLoss).await;
        take_over(&cluster, BETA).await;
        go_on(&cluster, &mut writer, BETA, false).await;
        let others_follow = || {
            let pairs = cluster.snapshot(GAMMA).map(|snapshot| snapshot.pairs).unwrap_or_default();
            takeover(&cluster, GAMMA).is_empty()
                && pairs.iter().map(|pair| pair.state.as_str()).eq(["normal", "suspended", "normal"])
        };
        until(&cluster, "the others do not go on", others_follow).await;
        cluster.die(GAMMA, Death::Kill).await;
        cluster.start(GAMMA).await;
        until(&cluster, "hosts are not let in again", || lets_hosts_write(&cluster, GAMMA)).await;
        let written = content(&cluster, GAMMA).await.remove(1);
        cluster.sleep_ms(5_000).await;
        assert!(content(&cluster, GAMMA).await[1] == written, "nothing is overwritten unasked");
        assert!(scribble(&cluster, GAMMA, &mut random, 40).await > 0, "its hosts write on");
        cluster.command(BETA, "pair resync p2-gamma").await.expect("it is wanted as a copy again");
        until(&cluster, "gamma does not follow", || follows(&cluster, BETA, GAMMA)).await;
        assert!(content(&cluster, GAMMA).await == content(&cluster, BETA).await, "{}", cluster.state());
        assert!(!lets_hosts_write(&cluster, GAMMA));
    });
}

/// Goes on reading for a while when it has noted that it reads no further, while it is armed.
#[derive(Debug, Default)]
struct ReadsOn(AtomicU64);

impl Tamper for ReadsOn {
    fn before_moving(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// Alpha serves hosts that beta, which takes over, does not hear of. Gamma once said which update of that branch it has while more of it came
/// in: what was given up then was not what it had, and it copied nobody until it was made anew.
#[test]
fn a_reader_that_moves_has_nothing_behind_the_number_that_it_says() {
    for seed in 71..=72 {
        in_virtual_time(async {
            let cluster = three(seed);
            let reads_on = Arc::new(ReadsOn::default());
            cluster.plant(GAMMA, reads_on.clone());
            let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
            begin(&cluster, &mut writer).await;
            until(&cluster, "not settled", || is_settled(&cluster, ALPHA)).await;
            reads_on.0.store(400, Ordering::Relaxed);
            cluster.set_way("alpha", "beta", Way::Cut);
            let (stop, ports) = (AtomicBool::new(false), ports(&cluster, ALPHA));
            let running = writer.run(&ports, &*cluster.clock, 8, Until { commands: u64::MAX, stop: &stop });
            let taking_over = async {
                cluster.sleep_ms(200).await;
                take_over(&cluster, BETA).await;
                until(&cluster, "gamma is not told", || takeover(&cluster, GAMMA) == "ahead").await;
                cluster.sleep_ms(1_000).await;
                stop.store(true, Ordering::Relaxed);
            };
            let (_, ()) = tokio::join!(running, taking_over);
            cluster.die(ALPHA, Death::PowerLoss).await;
            until(&cluster, "nobody says it", || !group(&cluster, BETA).ahead.is_empty()).await;
            let line = "group failback g1 --to gamma --yes";
            cluster.command(BETA, line).await.expect("they are given up");
            until(&cluster, "gamma does not go on", || follows(&cluster, BETA, GAMMA)).await;
            assert!(content(&cluster, GAMMA).await == content(&cluster, BETA).await);
        });
    }
}
