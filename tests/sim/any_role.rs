//! Any role anywhere (promise K6): the third array becomes the primary, by a takeover or as planned, hosts wait for the one that the
//! operator names, and behind further changes for the array with which the new primary was the synchronous pair last. Judged as in
//! `three_centres`: nothing that was answered is missing behind a takeover of the synchronous copy, and in the end all are equal.

use crate::cluster::{ALPHA, Cluster, Death, NAMES, Shape, Way};
use crate::in_virtual_time;
use crate::onward::{equal, is_settled};
use crate::rejoin::follows;
use crate::story::geometry_of;
use crate::support::random::{Random, number_from_environment};
use crate::support::wof::{Plan, Writer};
use crate::takeover::{BETA, go_on, group, lets_hosts_write, take_over, until, write};
use crate::three_centres::{all_follow, begin, centres_of, lose_under_load, shows};
use crate::tree::SMALL;

const GAMMA: usize = 2;
const SHAPE: Shape = Shape { journal_kib: 8192, ..SMALL };

async fn said(cluster: &Cluster, index: usize, line: &str) {
    let since = cluster.clock_ms();
    while let Err(error) = cluster.command(index, line).await {
        assert!(cluster.clock_ms() < since + 60_000, "{line}: {error}: {}", cluster.state());
        cluster.sleep_ms(100).await;
    }
}

/// Hosts of `primary` wait for `second`, both say so, and nobody else does.
async fn until_pair(cluster: &Cluster, primary: usize, second: usize) {
    until(cluster, "not synchronised", || {
        let link = group(cluster, primary).synchronous.map(|view| view.link);
        shows(cluster, primary) && shows(cluster, second) && link.as_deref() == Some(NAMES[second])
    })
    .await;
    let other = ALPHA + BETA + GAMMA - primary - second;
    assert!(!shows(cluster, other), "{}", cluster.state());
}

async fn turned(cluster: &Cluster, from: usize, to: usize) {
    until(cluster, "not settled", || is_settled(cluster, from)).await;
    said(cluster, from, &format!("group reverse g1 --to {} --yes", NAMES[to])).await;
    until(cluster, "not turned", || is_settled(cluster, to)).await;
}

/// What was lost comes back, and copies from the primary.
async fn returns(cluster: &Cluster, writer: &mut Writer, primary: usize, lost: usize) {
    cluster.start(lost).await;
    said(cluster, primary, &format!("group failback g1 --to {} --yes", NAMES[lost])).await;
    write(cluster, writer, primary, 10).await;
    until(cluster, "it does not follow", || follows(cluster, primary, lost)).await;
}

/// Both sites of the synchronous pair are lost: the third goes on, and gets a synchronous copy of its own; which takes over with
/// everything, and so on, until every array is what it was.
#[test]
fn the_third_becomes_the_primary_and_hosts_wait_for_whom_its_operator_names() {
    for (seed, fence) in [(1, "never"), (2, "data")] {
        in_virtual_time(async {
            let cluster = centres_of(seed, SHAPE, fence);
            let mut random = Random::new(seed ^ 0x6b36);
            let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
            begin(&cluster, &mut writer).await;
            lose_under_load(&cluster, &mut writer, ALPHA, &mut random).await;
            cluster.die(BETA, Death::PowerLoss).await;
            take_over(&cluster, GAMMA).await;
            go_on(&cluster, &mut writer, GAMMA, false).await;
            let refused = cluster.command(GAMMA, "group set g1 --synchronous beta").await.unwrap_err();
            assert!(refused.contains("does not copy it"), "{refused}");
            // Beta may have more than gamma, which its operator gives up.
            cluster.start(BETA).await;
            until(&cluster, "beta does not go on", || {
                !group(&cluster, GAMMA).ahead.is_empty() || follows(&cluster, GAMMA, BETA)
            })
            .await;
            if !follows(&cluster, GAMMA, BETA) {
                said(&cluster, GAMMA, "group failback g1 --to beta --yes").await;
            }
            write(&cluster, &mut writer, GAMMA, 10).await;
            until(&cluster, "beta does not follow", || follows(&cluster, GAMMA, BETA)).await;
            assert!(group(&cluster, GAMMA).synchronous.is_none(), "nobody has been named");
            said(&cluster, GAMMA, "group set g1 --synchronous beta").await;
            until_pair(&cluster, GAMMA, BETA).await;
            returns(&cluster, &mut writer, GAMMA, ALPHA).await;
            until_pair(&cluster, GAMMA, BETA).await;
            // Its copy has everything.
            lose_under_load(&cluster, &mut writer, GAMMA, &mut random).await;
            take_over(&cluster, BETA).await;
            go_on(&cluster, &mut writer, BETA, true).await;
            until(&cluster, "alpha does not go on", || follows(&cluster, BETA, ALPHA)).await;
            returns(&cluster, &mut writer, BETA, GAMMA).await;
            until_pair(&cluster, BETA, GAMMA).await;
            equal(&cluster, &writer, BETA).await;
            // Alpha was the synchronous pair with beta, and is again.
            turned(&cluster, BETA, ALPHA).await;
            until_pair(&cluster, ALPHA, BETA).await;
            write(&cluster, &mut writer, ALPHA, 20).await;
            equal(&cluster, &writer, ALPHA).await;
        });
    }
}

/// As planned, with hosts that go on: to the third and back, and another copy in the place of the synchronous one.
#[test]
fn the_third_is_the_primary_as_planned_and_any_copy_can_be_the_synchronous_one() {
    for (seed, fence) in [(4, "data"), (5, "never")] {
        in_virtual_time(async {
            let cluster = centres_of(seed, SHAPE, fence);
            let mut random = Random::new(seed ^ 0x6b37);
            let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
            begin(&cluster, &mut writer).await;
            // Said beforehand at the third: it is for when hosts write there.
            if fence == "never" {
                said(&cluster, GAMMA, "group set g1 --synchronous alpha").await;
            }
            let refused = cluster.command(BETA, "group set g1 --synchronous gamma").await.unwrap_err();
            assert!(refused.contains("said there"), "{refused}");
            turned(&cluster, ALPHA, GAMMA).await;
            write(&cluster, &mut writer, GAMMA, 20).await;
            if fence == "never" {
                until_pair(&cluster, GAMMA, ALPHA).await;
            } else {
                assert!(group(&cluster, GAMMA).synchronous.is_none(), "{}", cluster.state());
                assert!(!shows(&cluster, ALPHA) && !shows(&cluster, BETA), "{}", cluster.state());
            }
            turned(&cluster, GAMMA, ALPHA).await;
            let second = if fence == "never" { GAMMA } else { BETA };
            until_pair(&cluster, ALPHA, second).await;
            write(&cluster, &mut writer, ALPHA, 20).await;
            // The other one, while hosts write.
            let other = BETA + GAMMA - second;
            let line = format!("group set g1 --synchronous {}", NAMES[other]);
            let before = sent(&cluster, other);
            let (done, ()) =
                tokio::join!(cluster.command(ALPHA, &line), write(&cluster, &mut writer, ALPHA, 60));
            done.expect("it can be said");
            until_pair(&cluster, ALPHA, other).await;
            // What is sent to it counts as what goes over the link.
            let journaled = group(&cluster, ALPHA).journaled_bytes;
            write(&cluster, &mut writer, ALPHA, 40).await;
            let journaled = group(&cluster, ALPHA).journaled_bytes - journaled;
            let counted = sent(&cluster, other) - before;
            assert!(journaled > 0 && counted >= journaled, "{counted} of {journaled}");
            lose_under_load(&cluster, &mut writer, ALPHA, &mut random).await;
            take_over(&cluster, other).await;
            go_on(&cluster, &mut writer, other, true).await;
            returns(&cluster, &mut writer, other, ALPHA).await;
            until_pair(&cluster, other, ALPHA).await;
            // And nobody at all.
            said(&cluster, other, "group set g1 --synchronous none").await;
            until(&cluster, "somebody waits", || {
                group(&cluster, other).synchronous.is_none() && group(&cluster, ALPHA).synchronous.is_none()
            })
            .await;
            cluster.die(ALPHA, Death::Kill).await;
            let since = cluster.clock_ms();
            write(&cluster, &mut writer, other, 10).await;
            assert!(cluster.clock_ms() < since + 900 && lets_hosts_write(&cluster, other), "hosts wait");
        });
    }
}

/// One change of a walk: who is the primary behind it.
async fn step(cluster: &Cluster, writer: &mut Writer, random: &mut Random, primary: usize) -> usize {
    let to = (primary + 1 + random.index(2)) % 3;
    let kind = random.below(6);
    cluster.note(format!("{kind}: from {} to {}", NAMES[primary], NAMES[to]));
    match kind {
        0 => turned(cluster, primary, to).await,
        1 => {
            until(cluster, "not settled", || is_settled(cluster, primary)).await;
            said(cluster, primary, &format!("group failback g1 --to {} --yes", NAMES[to])).await;
            until(cluster, "not turned", || is_settled(cluster, to)).await;
        }
        2 | 3 => {
            // Who shows itself as synchronised has everything; and so has everybody who can ask.
            let (is_lost, has_all) = (kind == 2, shows(cluster, to));
            if is_lost {
                lose_under_load(cluster, writer, primary, random).await;
                cluster.sleep_ms(random.below(2_000)).await;
            }
            take_over(cluster, to).await;
            go_on(cluster, writer, to, has_all || !is_lost).await;
            if is_lost {
                cluster.start(primary).await;
            }
            all_follow(cluster, writer, to).await;
        }
        4 => {
            let line = format!("group set g1 --synchronous {}", NAMES[to]);
            let (done, ()) =
                tokio::join!(cluster.command(primary, &line), write(cluster, writer, primary, 40));
            done.unwrap_or_else(|error| panic!("{line}: {error}"));
            until_pair(cluster, primary, to).await;
            return primary;
        }
        _ => {
            said(cluster, primary, "group set g1 --synchronous none").await;
            return primary;
        }
    }
    to
}

/// Ten changes by chance: planned and by takeover, from a primary that is lost or lives; and whom hosts wait for.
fn walk(seed: u64) {
    in_virtual_time(async {
        let cluster =
            centres_of(seed, SHAPE, ["never", "data", "status"][usize::try_from(seed % 3).unwrap()]);
        let mut random = Random::new(seed ^ 0x7761_6c6b);
        let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
        begin(&cluster, &mut writer).await;
        let mut primary = ALPHA;
        for _ in 0..10 {
            primary = step(&cluster, &mut writer, &mut random, primary).await;
            write(&cluster, &mut writer, primary, 20).await;
            if random.percent(60) {
                until(&cluster, "hosts wait for nobody", || {
                    group(&cluster, primary).synchronous.is_none() || shows(&cluster, primary)
                })
                .await;
            }
        }
        equal(&cluster, &writer, primary).await;
    });
}

#[test]
fn roles_change_ten_times_by_chance_and_nothing_that_was_answered_is_missing() {
    let seeds = number_from_environment("HOLDFAST_ROLE_SEEDS", 3);
    let first = number_from_environment("HOLDFAST_SIM_FIRST_SEED", 1);
    for seed in first..first + seeds {
        std::panic::catch_unwind(|| walk(seed)).unwrap_or_else(|cause| {
            eprintln!("seed {seed} failed (HOLDFAST_SIM_FIRST_SEED={seed} HOLDFAST_ROLE_SEEDS=1)");
            std::panic::resume_unwind(cause)
        });
    }
    println!("{seeds} walks of ten changes of roles");
}

/// Gamma takes over from an alpha that it reaches, and beta hears of nothing: as long as it may call itself synchronised no host is
/// answered at gamma.
#[test]
fn a_third_that_takes_over_answers_nobody_before_the_lease_of_the_second_is_over() {
    for seed in 6..=8 {
        in_virtual_time(async {
            let cluster = centres_of(seed, SHAPE, "never");
            let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
            begin(&cluster, &mut writer).await;
            equal(&cluster, &writer, ALPHA).await;
            until_pair(&cluster, ALPHA, BETA).await;
            cluster.set_way("beta", "gamma", Way::Cut);
            cluster.set_way("alpha", "beta", Way::Silent);
            let watching = async {
                let mut were_sure = 0;
                while !lets_hosts_write(&cluster, GAMMA) {
                    were_sure += u64::from(shows(&cluster, BETA));
                    cluster.sleep_ms(1).await;
                }
                assert!(!shows(&cluster, BETA), "hosts are let in at gamma: {}", cluster.state());
                assert!(were_sure > 0, "too late for this story");
            };
            let (taken, ()) = tokio::join!(cluster.command(GAMMA, "group takeover g1 --yes"), watching);
            taken.expect("it takes over");
            cluster.heal();
        });
    }
}

/// Bytes that alpha has sent over its link to that array.
fn sent(cluster: &Cluster, to: usize) -> u64 {
    let links = cluster.snapshot(ALPHA).expect("it runs").links;
    links.iter().find(|link| link.name == NAMES[to]).expect("there is a link").sent_bytes
}
