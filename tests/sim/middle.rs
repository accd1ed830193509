//! The middle of a cascade takes over (promises T4, O4; decision 23): alpha, beta, gamma in a row, alpha is lost, and gamma goes on from
//! beta, which its hosts write from then on: without a copy if it has everything, by its differences if it was behind.

use crate::cluster::{ALPHA, Cluster, Death, NAMES, Second, Shape, Way};
use crate::in_virtual_time;
use crate::onward::content;
use crate::rejoin::{GAMMA, SHAPE, follows};
use crate::story::geometry_of;
use crate::support::random::Random;
use crate::support::wof::{DurableRule, Observed, Plan, Writer, check_crash};
use crate::takeover::{
    BETA, go_on, group, image, lets_hosts_write, take_over, takeover, until, until_overtaken, write,
};
use crate::tree::Tree;
use holdfast::disk::io::sim::Fault;
use std::fmt::Write as _;

/// Three in a row, with a link between the first and the last one besides.
fn row(seed: u64) -> Cluster {
    row_of(seed, SHAPE)
}

fn row_of(seed: u64, shape: Shape) -> Cluster {
    let tree = Tree::chain(3);
    let ways = [("alpha", "beta"), ("beta", "gamma"), ("alpha", "gamma")];
    let cluster = Cluster::of(seed, shape, 3, &ways, |index, shape, random| {
        let mut text = tree.config(index, shape, random).replace("svol_access = \"read\"\n", "");
        if index != BETA {
            let other = ALPHA + GAMMA - index;
            writeln!(
                text,
                "[[provision.link]]\nname = \"{0}\"\narray = {1}\nportal = [\"{0}:3260\"]\n\
                 secret = \"a secret of simulations\"\nread = \"every 20ms\"\nrestore = \"every 20ms\"",
                NAMES[other],
                other + 1
            )
            .unwrap();
        }
        text
    });
    cluster.readers.set(1);
    cluster
}

fn has(cluster: &Cluster, index: usize) -> u64 {
    group(cluster, index).follows.map_or(0, |follows| follows.durable_update_number)
}

async fn begin(cluster: &Cluster, writer: &mut Writer) {
    for index in 0..3 {
        cluster.start(index).await;
    }
    until(cluster, "not normal at first", || (0..3).all(|index| cluster.is_normal(index))).await;
    write(cluster, writer, ALPHA, 60).await;
}

async fn equal(cluster: &Cluster, writer: &Writer, primary: usize) {
    let at_primary = content(cluster, primary).await;
    for (index, name) in NAMES.iter().enumerate().take(3) {
        assert!(content(cluster, index).await == at_primary, "{name} differs: {}", cluster.state());
    }
    let (log, image) = (writer.log(), image(cluster, primary).await);
    check_crash(log, &Observed::from_images(log, &image), DurableRule::Acknowledged)
        .expect_clean("the primary");
}

fn story(seed: u64) {
    in_virtual_time(async {
        let cluster = row(seed);
        let mut random = Random::new(seed ^ 0x6d69);
        let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
        begin(&cluster, &mut writer).await;
        // Gamma has everything, or is behind, or away; and beta has everything of alpha, or not.
        let (is_behind, is_away) = (seed % 3 == 1, seed % 3 == 2);
        until(&cluster, "not equal", || {
            has(&cluster, GAMMA) + 1 == group(&cluster, ALPHA).next_update_number.unwrap()
        })
        .await;
        if is_behind {
            cluster.set_way("beta", "gamma", Way::Cut);
            write(&cluster, &mut writer, ALPHA, 20).await;
            cluster.sleep_ms(random.below(2_000)).await;
        }
        if is_away {
            cluster.die(GAMMA, Death::PowerLoss).await;
            write(&cluster, &mut writer, ALPHA, 10).await;
        }
        write(&cluster, &mut writer, ALPHA, random.below(20) + 1).await;
        let is_alone = seed.is_multiple_of(4);
        if is_alone {
            cluster.set_way("alpha", "beta", Way::Cut);
        } else {
            cluster.die(ALPHA, if random.percent(50) { Death::Kill } else { Death::PowerLoss }).await;
        }
        let told = cluster.command(BETA, "group takeover g1 --dry-run").await.unwrap();
        assert!(told.contains("gamma read the group from here already"), "{told}");
        take_over(&cluster, BETA).await;
        go_on(&cluster, &mut writer, BETA, false).await;
        if is_behind {
            cluster.set_way("beta", "gamma", Way::Up);
        }
        if is_away {
            cluster.start(GAMMA).await;
        } else if random.percent(40) {
            let who = [BETA, GAMMA][random.index(2)];
            cluster.die(who, Death::Kill).await;
            cluster.start(who).await;
            until(&cluster, "not up", || lets_hosts_write(&cluster, BETA)).await;
            let images = image(&cluster, BETA).await;
            let resumed = writer.resume_after_loss(&Observed::from_images(writer.log(), &images));
            resumed.unwrap_or_else(|verdict| panic!("after a restart: {verdict}"));
        }
        until(&cluster, "gamma does not go on", || follows(&cluster, BETA, GAMMA)).await;
        let audit = cluster.command(GAMMA, "audit list").await.unwrap();
        let is_copied = audit.contains("images of 3 S-VOLs kept");
        assert_eq!(is_copied, is_behind || is_away, "it is copied only if it has to be: {audit}");
        assert!(content(&cluster, GAMMA).await == content(&cluster, BETA).await, "{}", cluster.state());
        write(&cluster, &mut writer, BETA, 20).await;
        // The old top comes back, becomes a copy beside gamma, and then the primary of both.
        cluster.heal();
        if !cluster.runs(ALPHA) {
            cluster.start(ALPHA).await;
        }
        until_overtaken(&cluster, BETA).await;
        assert!(!lets_hosts_write(&cluster, ALPHA));
        cluster.command(BETA, "group failback g1 --to alpha --yes").await.expect("alpha is the loser");
        write(&cluster, &mut writer, BETA, 20).await;
        until(&cluster, "alpha does not follow", || follows(&cluster, BETA, ALPHA)).await;
        until(&cluster, "gamma does not follow", || follows(&cluster, BETA, GAMMA)).await;
        equal(&cluster, &writer, BETA).await;
        cluster.command(BETA, "group failback g1 --to alpha --yes").await.expect("a planned reversal");
        until(&cluster, "not turned", || {
            follows(&cluster, ALPHA, BETA)
                && follows(&cluster, ALPHA, GAMMA)
                && lets_hosts_write(&cluster, ALPHA)
        })
        .await;
        write(&cluster, &mut writer, ALPHA, 20).await;
        until(&cluster, "not equal", || follows(&cluster, ALPHA, BETA) && follows(&cluster, ALPHA, GAMMA))
            .await;
        equal(&cluster, &writer, ALPHA).await;
    });
}

#[test]
fn the_middle_of_a_cascade_takes_over_and_the_lower_one_goes_on_from_it() {
    (1..=6).for_each(|seed| {
        std::panic::catch_unwind(|| story(seed)).unwrap_or_else(|cause| {
            eprintln!("seed {seed} failed");
            std::panic::resume_unwind(cause)
        });
    });
}

/// What is held back at beta gamma may have: beta goes on from all that it has, or not at all.
#[test]
fn the_middle_of_a_cascade_does_not_go_on_from_less_than_the_lower_one_may_have() {
    in_virtual_time(async {
        let cluster = row(11);
        let mut writer = Writer::new(11, Plan::mixed(11, geometry_of(SHAPE)));
        begin(&cluster, &mut writer).await;
        cluster.command(BETA, "group restore g1 --until now").await.unwrap();
        write(&cluster, &mut writer, ALPHA, 20).await;
        until(&cluster, "not equal", || {
            has(&cluster, GAMMA) + 1 == group(&cluster, ALPHA).next_update_number.unwrap()
        })
        .await;
        // Alpha lives, and was shut for it: its hosts go on when that has come to nothing.
        let refused = cluster.command(BETA, "group takeover g1 --yes").await.unwrap_err();
        assert!(refused.contains("other arrays read the group from it"), "{refused}");
        until(&cluster, "it is not given up", || takeover(&cluster, BETA).is_empty()).await;
        let audit = cluster.command(ALPHA, "audit list").await.unwrap();
        assert!(audit.contains("to be taken over by another array"), "{audit}");
        until(&cluster, "hosts are not let in", || lets_hosts_write(&cluster, ALPHA)).await;
        write(&cluster, &mut writer, ALPHA, 20).await;
        until(&cluster, "not equal", || {
            has(&cluster, GAMMA) + 1 == group(&cluster, ALPHA).next_update_number.unwrap()
        })
        .await;
        cluster.die(ALPHA, Death::Kill).await;
        let refused = cluster.command(BETA, "group takeover g1 --yes").await.unwrap_err();
        assert!(refused.contains("other arrays read the group from it"), "{refused}");
        until(&cluster, "it is not given up", || takeover(&cluster, BETA).is_empty()).await;
        cluster.command(BETA, "group restore g1 --go-on").await.unwrap();
        take_over(&cluster, BETA).await;
        go_on(&cluster, &mut writer, BETA, true).await;
        until(&cluster, "gamma does not go on", || follows(&cluster, BETA, GAMMA)).await;
        assert!(content(&cluster, GAMMA).await == content(&cluster, BETA).await);
    });
}

/// Beta restores late, and its journal fails: gamma has what nobody can restore at beta any more. It would have waited for ever for somebody
/// to give that up, and nobody was asked.
#[test]
fn the_middle_of_a_cascade_whose_journal_has_failed_does_not_go_on_from_less_than_the_lower_one_has() {
    in_virtual_time(async {
        let apart =
            Shape { journal_kib: 12 << 10, is_journal_apart: true, second: Second::Ordinary, ..SHAPE };
        let cluster = row_of(21, apart);
        let mut writer = Writer::new(21, Plan::mixed(21, geometry_of(apart)));
        begin(&cluster, &mut writer).await;
        let late = "group schedule g1 --link alpha --restore immediate --restore-delay 10min";
        cluster.command(BETA, late).await.unwrap();
        write(&cluster, &mut writer, ALPHA, 20).await;
        until(&cluster, "not equal", || {
            has(&cluster, GAMMA) + 1 == group(&cluster, ALPHA).next_update_number.unwrap()
        })
        .await;
        let restored = || group(&cluster, BETA).follows.map_or(0, |follows| follows.restored_update_number);
        assert!(restored() < has(&cluster, GAMMA), "it is held back");
        cluster.disk(BETA, "j0").inject(Fault::Gone);
        write(&cluster, &mut writer, ALPHA, 5).await;
        until(&cluster, "nobody notices", || group(&cluster, BETA).state == "abnormal").await;
        cluster.die(ALPHA, Death::Kill).await;
        let refused = cluster.command(BETA, "group takeover g1 --yes").await.unwrap_err();
        assert!(refused.contains("gamma has update"), "{refused}");
        assert!(refused.contains("other arrays read the group from it"), "{refused}");
        until(&cluster, "it is not given up", || takeover(&cluster, BETA).is_empty()).await;
        assert!(takeover(&cluster, GAMMA).is_empty(), "it hears of nothing");
    });
}
