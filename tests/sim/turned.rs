//! Takeovers on top of what was going on already (promises O3, O4; decisions 17 and 19): of a group that was turned round a moment ago,
//! with a reader that is dead for good, and with readers that cannot move before their operator has done something for them.

use crate::cluster::{ALPHA, Cluster, Death, NAMES, Second, Shape, Way};
use crate::in_virtual_time;
use crate::onward::{self, three_of};
use crate::rejoin::follows;
use crate::story::geometry_of;
use crate::support::wof::{Plan, Writer};
use crate::takeover::{
    BETA, begin, equal, fail_back, go_on, group, has_everything, lets_hosts_write, take_over, takeover, two,
    until, until_overtaken, write,
};
use crate::tree::{SMALL, Tree};
use holdfast::clock::Clock;
use holdfast::disk::io::sim::Fault;
use std::fmt::Write;
use std::time::Duration;

const GAMMA: usize = 2;
const DELTA: usize = 3;
/// Each array has its journal on a unit of its own, and an ordinary volume that can take its place.
const APART: Shape =
    Shape { journal_kib: 12 << 10, is_journal_apart: true, second: Second::Ordinary, ..SMALL };

/// The new primary dies when the old one has become its copy and has nothing of its journal yet.
#[test]
fn a_primary_that_was_just_made_a_copy_takes_over_with_everything_when_the_new_one_dies() {
    for seed in 1..=3 {
        in_virtual_time(async {
            let cluster = two(seed);
            let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SMALL)));
            begin(&cluster, &mut writer).await;
            equal(&cluster, ALPHA).await;
            cluster.command(ALPHA, "group reverse g1 --to beta --yes").await.unwrap();
            while group(&cluster, ALPHA).role != "auxiliary" {
                cluster.clock.sleep(Duration::from_micros(50)).await;
            }
            cluster.die(BETA, if seed % 2 == 0 { Death::Kill } else { Death::PowerLoss }).await;
            if seed == 3 {
                cluster.die(ALPHA, Death::PowerLoss).await;
                cluster.start(ALPHA).await;
            }
            let loss = group(&cluster, ALPHA).loss.expect("it is a copy");
            assert_eq!(loss.received_update_number, 0, "its journal has begun: too late for this story");
            take_over(&cluster, ALPHA).await;
            has_everything(&cluster, &writer, ALPHA).await;
            write(&cluster, &mut writer, ALPHA, 30).await;
            cluster.start(BETA).await;
            until_overtaken(&cluster, ALPHA).await;
            fail_back(&cluster, &mut writer, ALPHA).await;
            equal(&cluster, ALPHA).await;
            has_everything(&cluster, &writer, ALPHA).await;
        });
    }
}

async fn begin_three(seed: u64, shape: Shape) -> (Cluster, Writer) {
    let cluster = three_of(seed, shape);
    let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(shape)));
    onward::begin(&cluster, &mut writer).await;
    until(&cluster, "not settled", || onward::is_settled(&cluster, ALPHA)).await;
    (cluster, writer)
}

async fn same(cluster: &Cluster, one: usize, other: usize) {
    assert!(
        onward::content(cluster, one).await == onward::content(cluster, other).await,
        "{}",
        cluster.state()
    );
}

/// Gamma is gone, and alpha is told so by its operator: it becomes a copy without waiting for gamma. Which comes back after all.
#[test]
fn an_overtaken_primary_yields_although_another_reader_of_it_is_dead() {
    in_virtual_time(async {
        let (cluster, mut writer) = begin_three(11, SMALL).await;
        cluster.die(GAMMA, Death::PowerLoss).await;
        cluster.set_way("alpha", "beta", Way::Cut);
        take_over(&cluster, BETA).await;
        go_on(&cluster, &mut writer, BETA, false).await;
        cluster.heal();
        until(&cluster, "alpha says nothing", || {
            group(&cluster, BETA).takeover.is_some_and(|takeover| takeover.branch_updates.is_some())
        })
        .await;
        let line = "group failback g1 --to alpha --yes";
        let refused = cluster.command(BETA, line).await.unwrap_err();
        assert!(refused.contains("gamma"), "{refused}");
        cluster.command(ALPHA, "group delete g1 --reader gamma --yes").await.unwrap();
        cluster.sleep_ms(2_000).await;
        cluster.command(BETA, line).await.expect("nobody is waited for any more");
        until(&cluster, "alpha does not yield", || follows(&cluster, BETA, ALPHA)).await;
        same(&cluster, ALPHA, BETA).await;
        cluster.start(GAMMA).await;
        until(&cluster, "gamma does not go on", || follows(&cluster, BETA, GAMMA)).await;
        write(&cluster, &mut writer, BETA, 20).await;
        until(&cluster, "gamma does not go on", || follows(&cluster, BETA, GAMMA)).await;
        same(&cluster, GAMMA, BETA).await;
    });
}

/// Alpha is lost, beta takes over, and gamma cannot move yet.
async fn moves_in_vain(cluster: &Cluster, writer: &mut Writer) {
    write(cluster, writer, ALPHA, 20).await;
    let next = group(cluster, ALPHA).next_update_number;
    until(cluster, "beta is behind", || {
        group(cluster, BETA).follows.map(|follows| follows.restored_update_number + 1) == next
    })
    .await;
    cluster.die(ALPHA, Death::PowerLoss).await;
    take_over(cluster, BETA).await;
    go_on(cluster, writer, BETA, false).await;
    until(cluster, "gamma is not told", || takeover(cluster, GAMMA) == "moving").await;
    cluster.sleep_ms(3_000).await;
    assert_eq!(takeover(cluster, GAMMA), "moving", "it waits for its operator");
}

async fn moves(cluster: &Cluster, writer: &mut Writer) {
    until(cluster, "gamma does not go on", || follows(cluster, BETA, GAMMA)).await;
    write(cluster, writer, BETA, 20).await;
    until(cluster, "gamma does not go on", || follows(cluster, BETA, GAMMA)).await;
    same(cluster, GAMMA, BETA).await;
}

#[test]
fn a_reader_whose_restore_was_stopped_goes_on_from_the_new_primary_when_it_is_let() {
    in_virtual_time(async {
        let (cluster, mut writer) = begin_three(21, SMALL).await;
        cluster.command(GAMMA, "group restore g1 --until now").await.unwrap();
        moves_in_vain(&cluster, &mut writer).await;
        cluster.command(GAMMA, "group restore g1 --go-on").await.expect("that is what it waits for");
        moves(&cluster, &mut writer).await;
    });
}

#[test]
fn a_reader_whose_journal_failed_goes_on_from_the_new_primary_when_it_has_another_one() {
    in_virtual_time(async {
        let (cluster, mut writer) = begin_three(31, APART).await;
        cluster.disk(GAMMA, "j0").inject(Fault::Gone);
        write(&cluster, &mut writer, ALPHA, 5).await;
        until(&cluster, "nobody notices", || group(&cluster, GAMMA).state == "abnormal").await;
        moves_in_vain(&cluster, &mut writer).await;
        let line = "journal replace g1 --volume jnl --by jnl2 --yes";
        cluster.command(GAMMA, line).await.expect("that is what it waits for");
        moves(&cluster, &mut writer).await;
    });
}

/// Alpha has burnt, and its pairs are taken away at beta before gamma comes back: gamma goes on from beta all the same, and beta is a primary like
/// any other.
#[test]
fn a_takeover_is_over_when_the_lost_array_is_taken_away_and_the_roles_change_again() {
    in_virtual_time(async {
        let (cluster, mut writer) = begin_three(41, SMALL).await;
        cluster.die(GAMMA, Death::Kill).await;
        cluster.die(ALPHA, Death::PowerLoss).await;
        take_over(&cluster, BETA).await;
        go_on(&cluster, &mut writer, BETA, false).await;
        cluster.command(BETA, "group delete g1 --reader alpha --yes").await.unwrap();
        until(&cluster, "it is not over", || takeover(&cluster, BETA).is_empty()).await;
        write(&cluster, &mut writer, BETA, 20).await;
        cluster.start(GAMMA).await;
        until(&cluster, "gamma does not go on", || follows(&cluster, BETA, GAMMA)).await;
        moves(&cluster, &mut writer).await;
        onward::reverse(&cluster, BETA, GAMMA, "10s").await;
        until(&cluster, "not turned", || lets_hosts_write(&cluster, GAMMA)).await;
        write(&cluster, &mut writer, GAMMA, 20).await;
        until(&cluster, "beta does not follow", || follows(&cluster, GAMMA, BETA)).await;
        same(&cluster, GAMMA, BETA).await;
    });
}

/// Alpha, which the three others read, with links between all of them.
fn four(seed: u64) -> Cluster {
    let tree = Tree::star(3);
    let all = || (0..4).flat_map(|one| (one + 1..4).map(move |other| (one, other)));
    let ways: Vec<(&str, &str)> = all().map(|(one, other)| (NAMES[one], NAMES[other])).collect();
    Cluster::of(seed, SMALL, 4, &ways, |index, shape, random| {
        let mut text = tree.config(index, shape, random).replace("svol_access = \"read\"\n", "");
        for other in (1..4).filter(|other| index != ALPHA && *other != index) {
            let (name, number) = (NAMES[other], other + 1);
            writeln!(
                text,
                "[[provision.link]]\nname = \"{name}\"\narray = {number}\nportal = [\"{name}:3260\"]\n\
                 secret = \"a secret of simulations\"\nread = \"every 20ms\"\nrestore = \"every 20ms\""
            )
            .unwrap();
        }
        text
    })
}

/// Gamma is about to go on from beta when that is lost, too, and delta takes over.
#[test]
fn a_reader_that_cannot_move_before_the_next_takeover_goes_on_from_the_last_primary() {
    in_virtual_time(async {
        let cluster = four(51);
        let mut writer = Writer::new(51, Plan::mixed(51, geometry_of(SMALL)));
        onward::begin(&cluster, &mut writer).await;
        until(&cluster, "not settled", || onward::is_settled(&cluster, ALPHA)).await;
        cluster.command(GAMMA, "group restore g1 --until now").await.unwrap();
        moves_in_vain(&cluster, &mut writer).await;
        until(&cluster, "delta does not go on", || follows(&cluster, BETA, DELTA)).await;
        cluster.die(BETA, Death::PowerLoss).await;
        take_over(&cluster, DELTA).await;
        go_on(&cluster, &mut writer, DELTA, false).await;
        until(&cluster, "gamma is not told", || {
            group(&cluster, GAMMA).takeover.is_some_and(|takeover| takeover.array == Some(4))
        })
        .await;
        cluster.command(GAMMA, "group restore g1 --go-on").await.expect("that is what it waits for");
        until(&cluster, "gamma does not go on", || follows(&cluster, DELTA, GAMMA)).await;
        write(&cluster, &mut writer, DELTA, 20).await;
        until(&cluster, "gamma does not go on", || follows(&cluster, DELTA, GAMMA)).await;
        same(&cluster, GAMMA, DELTA).await;
    });
}
