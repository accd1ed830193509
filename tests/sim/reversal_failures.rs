//! What can fail in the middle of a reversal beside whole arrays (promise O2, decision 17): the journal of either side, the
//! control store of the new primary, a message that is held up; and the test of the test: defects of a reversal, planted,
//! are each found by its stories.

use crate::cluster::{ALPHA, Death, Second, Shape, Way};
use crate::in_virtual_time;
use crate::reversal::{
    BETA, begin, equal, has_everything, image, is_primary, is_settled, lets_hosts_write, planned, role,
    takes_over, turn_under_load, two, two_of, until, write,
};
use crate::story::geometry_of;
use crate::support::wof::{Observed, Plan, Writer};
use crate::tree::SMALL;
use holdfast::copy::tamper::{ReversalDefect, Tamper};
use holdfast::disk::io::sim::Fault;
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Each side has its journal on a unit of its own, and an ordinary volume that can take its place.
const APART: Shape =
    Shape { journal_kib: 12 << 10, is_journal_apart: true, second: Second::Ordinary, ..SMALL };

/// Makes steps of a reversal last, which take no time otherwise.
#[derive(Debug)]
struct Slow {
    turning: Duration,
    promising: Duration,
}

impl Tamper for Slow {
    fn before_turning(&self) -> Duration {
        self.turning
    }

    fn before_promising(&self) -> Duration {
        self.promising
    }
}

/// The journal of one side is lost when an array is at some step. The reversal goes on; when the operator has put another
/// volume in its place everything becomes equal, and nothing that was answered is lost.
fn loses_its_journal(seed: u64, loser: usize, (at, step): (usize, &str)) {
    in_virtual_time(async {
        let cluster = two_of(seed, APART);
        let slow = Slow { turning: Duration::from_millis(40), promising: Duration::from_millis(40) };
        let slow: Arc<dyn Tamper> = Arc::new(slow);
        [ALPHA, BETA].iter().for_each(|index| cluster.plant(*index, slow.clone()));
        let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(APART)));
        begin(&cluster, &mut writer).await;
        let is_lost = Cell::new(false);
        let losing = async {
            until(&cluster, step, || role(&cluster, at).1.as_deref() == Some(step)).await;
            cluster.sleep_ms(seed * 7 % 30).await;
            cluster.disk(loser, "j0").inject(Fault::Gone);
            is_lost.set(true);
        };
        let over = |ms: u64| is_lost.get() && ms >= 1_000;
        let (two_primaries, ()) = tokio::join!(turn_under_load(&cluster, &mut writer, ALPHA, over), losing);
        assert!(!two_primaries, "two primaries");
        until(&cluster, "not turned", || is_primary(&cluster, BETA) && role(&cluster, ALPHA).1.is_none())
            .await;
        until(&cluster, "nobody notices", || cluster.snapshot(loser).unwrap().groups[0].state == "abnormal")
            .await;
        if loser == ALPHA {
            // Where the new primary's journal cannot be opened its hosts wait: no map notes what they would write.
            write(&cluster, &mut writer, 20).await;
            has_everything(&cluster, &writer, BETA).await;
        }
        let replaced = cluster.command(loser, "journal replace g1 --volume jnl --by jnl2 --yes").await;
        replaced.unwrap_or_else(|error| panic!("{error}: {}", cluster.state()));
        let settled = async {
            while !is_settled(&cluster, BETA) {
                cluster.sleep_ms(500).await;
                // What failed is copied again when the operator says so.
                let _ = cluster.command(BETA, "group resync g1").await;
            }
        };
        tokio::select! {
            biased;
            () = settled => {}
            () = cluster.sleep_ms(120_000) => panic!("it does not come right: {}", cluster.state()),
        }
        write(&cluster, &mut writer, 60).await;
        equal(&cluster, BETA).await;
        has_everything(&cluster, &writer, BETA).await;
    });
}

#[test]
fn a_journal_of_the_new_primary_that_fails_between_promise_and_keeping_costs_nothing_but_a_copy() {
    (1..=2).for_each(|seed| loses_its_journal(seed, BETA, (BETA, "taking-over")));
}

#[test]
fn a_journal_of_the_old_primary_that_fails_behind_the_hand_over_costs_nothing() {
    (3..=4).for_each(|seed| loses_its_journal(seed, ALPHA, (ALPHA, "handed-over")));
    (5..=6).for_each(|seed| loses_its_journal(seed, ALPHA, (ALPHA, "leaving")));
}

/// The control store of the new primary fails after so many more writes and syncs, from the hand-over on; then that array is
/// started again. Whether the group had been turned round by then.
fn loses_its_store(seed: u64, writes: u64, death: Death) -> bool {
    in_virtual_time(async {
        let cluster = two(seed);
        let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SMALL)));
        begin(&cluster, &mut writer).await;
        let is_dead = Cell::new(false);
        let failing = async {
            until(&cluster, "nothing is handed over", || {
                role(&cluster, ALPHA).1.as_deref() == Some("handed-over") || is_primary(&cluster, BETA)
            })
            .await;
            cluster.fail_store_after(BETA, writes);
            cluster.sleep_ms(3_000).await;
            cluster.die(BETA, death).await;
            is_dead.set(true);
        };
        let (two_primaries, ()) =
            tokio::join!(turn_under_load(&cluster, &mut writer, ALPHA, |_| is_dead.get()), failing);
        assert!(!two_primaries, "two primaries");
        cluster.sleep_ms(500).await;
        cluster.start(BETA).await;
        until(&cluster, "nobody is the primary", || {
            is_settled(&cluster, ALPHA) || is_settled(&cluster, BETA)
        })
        .await;
        let primary = if is_primary(&cluster, BETA) { BETA } else { ALPHA };
        let observed = Observed::from_images(writer.log(), &image(&cluster, primary).await);
        let resumed = writer.resume_after_crash(&observed);
        resumed.unwrap_or_else(|verdict| panic!("{primary}, {writes} writes: {verdict}"));
        write(&cluster, &mut writer, 40).await;
        equal(&cluster, primary).await;
        has_everything(&cluster, &writer, primary).await;
        primary == BETA
    })
}

#[test]
fn a_control_store_that_fails_in_the_promise_is_no_answer_and_one_primary_comes_of_it() {
    let mut turned = 0;
    for writes in 0..10 {
        let death = if writes % 2 == 0 { Death::PowerLoss } else { Death::Kill };
        turned += u32::from(loses_its_store(60 + writes, writes * 3, death));
    }
    assert!(turned > 0, "no store failed behind the promise");
}

/// Holds up the first copy of the message that asks for a promise, for a long time.
#[derive(Debug, Default)]
struct HoldsFirst {
    asked: AtomicU64,
}

impl Tamper for HoldsFirst {
    fn before_promising(&self) -> Duration {
        match self.asked.fetch_add(1, Ordering::Relaxed) {
            0 => Duration::from_secs(8),
            _ => Duration::ZERO,
        }
    }
}

/// The message that asks for the promise comes twice, over two sessions, and the first copy of it is looked at last.
fn comes_twice(seed: u64, is_refused: bool) {
    in_virtual_time(async {
        let cluster = two(seed);
        let tamper = Arc::new(HoldsFirst::default());
        cluster.plant(BETA, tamper.clone());
        let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SMALL)));
        begin(&cluster, &mut writer).await;
        if is_refused {
            cluster.command(BETA, "group restore g1 --until now").await.unwrap();
            write(&cluster, &mut writer, 10).await;
        }
        cluster.command(ALPHA, "group reverse g1 --to beta --yes").await.unwrap();
        until(&cluster, "nobody asks", || tamper.asked.load(Ordering::Relaxed) == 1).await;
        cluster.set_way("alpha", "beta", Way::Cut);
        cluster.sleep_ms(200).await;
        cluster.heal();
        until(&cluster, "it is not said again", || tamper.asked.load(Ordering::Relaxed) >= 2).await;
        let primary = if is_refused { ALPHA } else { BETA };
        until(&cluster, "no end", || {
            is_primary(&cluster, primary) && role(&cluster, 1 - primary).1.is_none()
        })
        .await;
        if is_refused {
            cluster.command(BETA, "group restore g1 --go-on").await.unwrap();
        }
        // Nothing is written until the first copy has been looked at: it would find what it wants.
        for _ in 0..20 {
            cluster.sleep_ms(500).await;
            assert!(
                !(lets_hosts_write(&cluster, ALPHA) && lets_hosts_write(&cluster, BETA)),
                "two primaries"
            );
            assert!(is_primary(&cluster, primary), "{}", cluster.state());
        }
        write(&cluster, &mut writer, 40).await;
        equal(&cluster, primary).await;
        has_everything(&cluster, &writer, primary).await;
    });
}

#[test]
fn a_copy_of_the_message_that_was_held_up_gets_the_answer_that_the_other_one_got() {
    comes_twice(71, false);
    comes_twice(72, true);
}

#[derive(Debug)]
struct Planted(Option<ReversalDefect>);

impl Tamper for Planted {
    fn reversal(&self) -> Option<ReversalDefect> {
        self.0
    }
}

#[test]
fn each_defect_planted_in_a_reversal_is_found_by_its_stories() {
    use ReversalDefect::{GenerationKept, HostsWriteOn, MarksForgotten, PromisedEarly};
    for defect in [None, Some(HostsWriteOn), Some(PromisedEarly), Some(MarksForgotten), Some(GenerationKept)]
    {
        let is_found = (1..=4).any(|seed| {
            let tamper: Arc<dyn Tamper> = Arc::new(Planted(defect));
            let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| match defect {
                Some(MarksForgotten) => takes_over(40 + seed, Some(tamper)),
                _ => planned(seed, Some(tamper)),
            }));
            told.is_err()
        });
        assert_eq!(is_found, defect.is_some(), "{defect:?}");
    }
}
