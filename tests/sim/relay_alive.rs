//! The first array lives, its hosts wait for a relay, and only the link to the second is cut: an operator lets the second take over (promises X1, X5, I4,
//! O4; decision 21). And the way back of the first behind that, and behind its loss (`004_…`, claims 6 and 16).
//!
//! What is checked: the takeover ends in time, whatever the first goes on to write; it finds all that hosts were answered before its command; from then on
//! the first does not show itself as `synchronised`, and with the fence `data` answers no host any more; what it did answer is named when the two meet, by
//! both; an operator names either of them as the loser; only differences flow; roles go back, and the relay works again.

use crate::cluster::{ALPHA, Cluster, Death, Way};
use crate::in_virtual_time;
use crate::onward::{linked, otherwise_numbered};
use crate::port::{SimPort, scribble};
use crate::readers::{say, wait, write};
use crate::relay::{
    BETA, DELTA, GAMMA, GROUP, WAYS, create, create_for, equal, reads_over, running, target_config,
};
use crate::relay_drain::{PAGE_BYTES, has_arrived_on_r1, lun_of, page, write_page};
use crate::relay_hosts::{SYNCHRONISED, fence_words, one_write, state};
use crate::story::geometry_of;
use crate::support::random::Random;
use crate::support::wof::{Observed, Plan, Until, Writer, check_prefix, lost_writes};
use crate::takeover;
use crate::tree::{SMALL, Tree};
use holdfast::clock::Clock;
use holdfast_journal::format::relay::{SLOT_BLOCKS, SecondControl};
use holdfast_journal::{ArrayNumber, Generation};
use std::sync::atomic::{AtomicBool, Ordering};

const TAKEOVER_MS: u64 = 60_000;
/// The fence of the groups here.
const LIMIT_MS: u64 = 2_000;

fn reason(cluster: &Cluster, index: usize, relay: &str) -> String {
    let links = cluster.snapshot(index).unwrap().links;
    links.into_iter().find(|link| link.name == relay).and_then(|link| link.reason).unwrap_or_default()
}

fn marked_bytes(cluster: &Cluster, index: usize) -> u64 {
    cluster.snapshot(index).unwrap().pairs.iter().map(|pair| pair.difference_bytes).sum()
}

/// Hosts wait for r1, nothing else connects the two, and the copy shows that it has everything.
async fn waiting(seed: u64, fence: &str) -> (Cluster, Writer, Vec<SimPort>) {
    let cluster = crate::relay::cluster_with(seed, &fence_words(fence, LIMIT_MS));
    for index in 0..4 {
        cluster.start(index).await;
    }
    wait(&cluster, "beta is normal", |cluster| cluster.is_normal(BETA)).await;
    create_for(&cluster, "r1", "gamma", " --hosts wait").await;
    wait(&cluster, "both show it", is_shown).await;
    let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SMALL)));
    let ports: Vec<SimPort> =
        (1..=3).map(|number| SimPort::new(&cluster, "host", number, ALPHA).thinking_ms(8)).collect();
    cluster.set_way("alpha", "beta", Way::Cut);
    write(&cluster, &mut writer, &ports, 40).await;
    wait(&cluster, "the copy shows it without the link", is_shown).await;
    (cluster, writer, ports)
}

/// Beta takes over while alpha's hosts write on, until some time behind that. Gives how long it took; all that hosts were answered before the
/// command is there, and a prefix. `is_there` comes to be so at alpha.
async fn taken_over(
    cluster: &Cluster,
    writer: &mut Writer,
    ports: &[SimPort],
    is_there: impl Fn() -> bool,
) -> u64 {
    let stop = AtomicBool::new(false);
    let running = writer.run(ports, &*cluster.clock, 8, Until { commands: u64::MAX, stop: &stop });
    let taking = async {
        cluster.sleep_ms(300).await;
        let (begun_ns, since) = (cluster.clock.now().0, cluster.clock_ms());
        cluster.command(BETA, "group takeover g1 --yes").await.expect("it takes over");
        let took_ms = cluster.clock_ms() - since;
        let images = cluster.visible_copies(BETA).await;
        let since = cluster.clock_ms();
        while !is_there() && cluster.clock_ms() < since + 4 * LIMIT_MS {
            cluster.sleep_ms(5).await;
        }
        stop.store(true, Ordering::Relaxed);
        (begun_ns, took_ms, images)
    };
    let (summary, (begun_ns, took_ms, images)) = tokio::join!(running, taking);
    assert_eq!(summary.violations, [], "reads while writing");
    assert!(is_there(), "alpha: {}", cluster.state());
    assert!(took_ms < TAKEOVER_MS, "{took_ms} ms");
    let log = writer.log();
    let verdict = check_prefix(log, &Observed::from_images(log, &images));
    verdict.expect_clean("the new primary");
    let lost = lost_writes(log, &verdict).into_iter().filter_map(|id| log.entry(id));
    let lost: Vec<_> = lost.filter(|entry| entry.acked_ns < begun_ns).collect();
    assert!(lost.is_empty(), "answered before the command, and not found: {lost:?}");
    took_ms
}

/// The link is there again; both say what only the other one has, and nobody writes alpha.
async fn meet(cluster: &Cluster) -> u64 {
    cluster.heal();
    takeover::until_overtaken(cluster, BETA).await;
    let since = cluster.clock_ms();
    while !cluster.command(ALPHA, "event list").await.unwrap().contains("overtaken") {
        assert!(cluster.clock_ms() < since + 10_000, "alpha does not say it");
        cluster.sleep_ms(50).await;
    }
    takeover::group(cluster, BETA).takeover.and_then(|takeover| takeover.branch_updates).unwrap()
}

/// Where beta's control information lies on r1, and what is there.
async fn said(cluster: &Cluster) -> [(u64, Vec<u8>); 2] {
    let unit = lun_of(cluster, 3).await;
    [(1, page(&unit, 1).await), (1 + SLOT_BLOCKS, page(&unit, 1 + SLOT_BLOCKS).await)]
}

/// The newest of it.
async fn newest_said(cluster: &Cluster) -> SecondControl {
    let controls = said(cluster).await.into_iter().filter_map(|(_, page)| SecondControl::decode(&page).ok());
    controls.max_by_key(|control| control.sequence).expect("beta has said something")
}

/// Whether beta says there that it has taken over.
async fn is_said(cluster: &Cluster) -> bool {
    newest_said(cluster).await.generation.array.0 == 2
}

/// The target has lost what it had acknowledged since then.
async fn lose(cluster: &Cluster, before: &[(u64, Vec<u8>); 2]) {
    let unit = lun_of(cluster, 3).await;
    for (at, bytes) in before {
        write_page(&unit, *at, bytes.clone()).await;
    }
}

/// Alpha is the primary, and everything is as at first: also without the link.
async fn relay_works(cluster: &Cluster, writer: &mut Writer) {
    wait(cluster, "it is read over the relay", |cluster| reads_over(cluster) == "r1").await;
    cluster.set_way("alpha", "beta", Way::Cut);
    takeover::write(cluster, writer, ALPHA, 60).await;
    equal(cluster).await;
    assert_eq!(reads_over(cluster), "r1");
}

/// From beta, which has everything, to alpha.
async fn roles_go_back(cluster: &Cluster, writer: &Writer) {
    cluster.command(BETA, "group failback g1 --to alpha --yes").await.expect("a planned reversal");
    takeover::until(cluster, "not turned", || takeover::is_settled(cluster, ALPHA)).await;
    takeover::has_everything(cluster, writer, ALPHA).await;
}

#[test]
fn a_first_array_that_lives_confirms_nothing_over_its_relay_once_it_is_taken_over() {
    for (seed, fence, winner) in
        [(1, "data", BETA), (2, "never", BETA), (3, "data", ALPHA), (4, "never", ALPHA)]
    {
        in_virtual_time(async {
            let (cluster, mut writer, ports) = waiting(seed, fence).await;
            let before = said(&cluster).await;
            let end = if fence == "data" { "refused" } else { "apart" };
            taken_over(&cluster, &mut writer, &ports, || state(&cluster, ALPHA) == end).await;
            assert!(
                reason(&cluster, ALPHA, "r1").contains("array 2 has taken the group over"),
                "{}",
                cluster.state()
            );
            assert_eq!(one_write(&cluster, 3).await.1.is_ok(), fence == "never");
            // It stays so where the target loses that, and beta puts it there again.
            assert!(is_said(&cluster).await);
            lose(&cluster, &before).await;
            for _ in 0..60 {
                cluster.sleep_ms(50).await;
                assert_ne!(state(&cluster, ALPHA), SYNCHRONISED, "{fence}: {}", cluster.state());
            }
            cluster.sleep_ms(4_000).await;
            assert!(is_said(&cluster).await, "it is not there again");
            // Also behind a restart, while beta does not reach it.
            cluster.set_way("beta", "gamma", Way::Cut);
            lose(&cluster, &before).await;
            cluster.die(ALPHA, Death::Kill).await;
            cluster.start(ALPHA).await;
            for _ in 0..100 {
                cluster.sleep_ms(50).await;
                assert_ne!(state(&cluster, ALPHA), SYNCHRONISED, "{fence}: {}", cluster.state());
            }
            let mut random = Random::new(seed);
            let alone = scribble(&cluster, ALPHA, &mut random, 6).await;
            assert_eq!(alone, if fence == "never" { 6 } else { 0 });
            if winner == BETA {
                takeover::go_on(&cluster, &mut writer, BETA, false).await;
            } else {
                scribble(&cluster, BETA, &mut random, 10).await;
            }
            let branch = meet(&cluster).await;
            assert!(branch >= alone as u64, "{branch} updates are named");
            assert_eq!(scribble(&cluster, ALPHA, &mut random, 3).await, 0, "hosts are shut out");
            if winner == ALPHA {
                say(&cluster, ALPHA, "group takeover g1 --yes").await;
                takeover::until(&cluster, "both say it", || {
                    [ALPHA, BETA].iter().all(|index| takeover::takeover(&cluster, *index) == "split-brain")
                })
                .await;
                // It is named when alpha has heard what that loses.
                let since = cluster.clock_ms();
                while let Err(why) = cluster.command(ALPHA, "group failback g1 --to beta --yes").await {
                    assert!(cluster.clock_ms() < since + 20_000, "{why}");
                    cluster.sleep_ms(100).await;
                }
                takeover::until(&cluster, "not settled", || takeover::is_settled(&cluster, ALPHA)).await;
                equal(&cluster).await;
                wait(&cluster, "hosts wait", |cluster| state(cluster, BETA) == SYNCHRONISED).await;
                return;
            }
            takeover::fail_back(&cluster, &mut writer, BETA).await;
            takeover::equal(&cluster, BETA).await;
            takeover::has_everything(&cluster, &writer, BETA).await;
            roles_go_back(&cluster, &writer).await;
            wait(&cluster, "hosts wait again", |cluster| state(cluster, BETA) == SYNCHRONISED).await;
            relay_works(&cluster, &mut writer).await;
        });
    }
}

#[test]
fn what_a_takeover_read_from_a_relay_flows_back_by_differences_and_the_relay_works_again() {
    for seed in 1..=2 {
        in_virtual_time(async {
            let (cluster, mut writer, ports) = running(seed).await;
            create(&cluster, "r1", "gamma").await;
            wait(&cluster, "it is read over the relay", |cluster| reads_over(cluster) == "r1").await;
            cluster.die(BETA, Death::PowerLoss).await;
            write(&cluster, &mut writer, &ports, 12).await;
            let newest = has_arrived_on_r1(&cluster).await;
            cluster.die(ALPHA, Death::PowerLoss).await;
            cluster.start(BETA).await;
            cluster.sleep_ms(200).await;
            say(&cluster, BETA, "group takeover g1 --yes").await;
            assert!(
                takeover::group(&cluster, BETA).next_update_number > Some(newest),
                "what was on the relay"
            );
            takeover::has_everything(&cluster, &writer, BETA).await;
            takeover::write(&cluster, &mut writer, BETA, 8).await;
            let all = u64::from(SMALL.volumes) * (SMALL.volume_kib << 10);
            assert!((1..all).contains(&marked_bytes(&cluster, BETA)), "{}", marked_bytes(&cluster, BETA));
            cluster.start(ALPHA).await;
            let branch = meet(&cluster).await;
            assert_eq!(branch, 0, "the relay had everything");
            let sent = |cluster: &Cluster| cluster.snapshot(BETA).unwrap().links[0].sent_bytes;
            let before = sent(&cluster);
            say(&cluster, BETA, "group failback g1 --to alpha --yes").await;
            takeover::equal(&cluster, BETA).await;
            let copied = sent(&cluster) - before;
            assert!(copied < all, "{copied} of {all} bytes went over the direct path");
            roles_go_back(&cluster, &writer).await;
            relay_works(&cluster, &mut writer).await;
        });
    }
}

/// Claims 4 and 14: each control LUN is written by its own side only. Whoever finds the other one's label on it writes nothing.
#[test]
fn a_lun_with_the_label_of_the_other_side_is_not_written() {
    in_virtual_time(async {
        let (cluster, mut writer, ports) = running(8).await;
        let line = |array: u32, side: &str, luns: &str| {
            let iqn = crate::cluster::target_name("gamma");
            format!(
                "link create r1 --array {array} --portal gamma:3260 --target {iqn} --group g1 --luns {luns} --as {side}"
            )
        };
        say(&cluster, ALPHA, &line(2, "first", "1,2,3")).await;
        wait(&cluster, "alpha uses it", |cluster| {
            cluster.snapshot(ALPHA).unwrap().links.iter().any(|link| link.name == "r1" && link.state == "up")
        })
        .await;
        // The operator of beta has mistaken one for the other.
        say(&cluster, BETA, &line(1, "second", "1,3,2")).await;
        wait(&cluster, "it is said", |cluster| !reason(cluster, BETA, "r1").is_empty()).await;
        write(&cluster, &mut writer, &ports, 60).await;
        cluster.sleep_ms(5_000).await;
        let unit = lun_of(&cluster, 3).await;
        assert!(
            page(&unit, 0).await == vec![0; usize::try_from(PAGE_BYTES).unwrap()],
            "nobody has written it"
        );
        equal(&cluster).await;
        assert_eq!(reads_over(&cluster), "alpha");
        say(&cluster, BETA, "link delete r1 --yes").await;
        cluster.sleep_ms(3_000).await;
        say(&cluster, BETA, &line(1, "second", "1,2,3")).await;
        wait(&cluster, "it is read over the relay", |cluster| reads_over(cluster) == "r1").await;
        cluster.set_way("alpha", "beta", Way::Cut);
        write(&cluster, &mut writer, &ports, 60).await;
        equal(&cluster).await;
    });
}

/// Hosts of alpha wait for a relay to beta, and gamma has another copy.
async fn with_a_third(seed: u64) -> Cluster {
    let (tree, wish) = (Tree::star(2), fence_words("data", LIMIT_MS));
    let ways = [&WAYS[..], &[("alpha", "gamma"), ("beta", "gamma")]].concat();
    let cluster = Cluster::of(seed, SMALL, 4, &ways, |index, shape, random| match index {
        DELTA => target_config("delta", 4, 2048),
        _ => {
            let text = otherwise_numbered(index, tree.config(index, shape, random));
            if index == ALPHA { text.replace(GROUP, &format!("{GROUP}{wish}")) } else { linked(index, text) }
        }
    });
    cluster.readers.set(2);
    for index in 0..4 {
        cluster.start(index).await;
    }
    wait(&cluster, "the copies are normal", |cluster| cluster.is_normal(BETA) && cluster.is_normal(GAMMA))
        .await;
    create_for(&cluster, "r1", "delta", " --hosts wait").await;
    wait(&cluster, "hosts wait", is_shown).await;
    cluster
}

fn is_shown(cluster: &Cluster) -> bool {
    [ALPHA, BETA].iter().all(|index| state(cluster, *index) == SYNCHRONISED)
}

/// Gamma takes over, and beta goes on from it: alpha hears that over the relay alone. When the roles go back hosts wait for it again.
#[test]
fn a_first_array_confirms_nothing_over_a_relay_whose_second_one_follows_another_primary() {
    in_virtual_time(async {
        let cluster = with_a_third(5).await;
        for lba in 0..4 {
            assert!(one_write(&cluster, lba).await.1.is_ok());
        }
        wait(&cluster, "gamma has everything", |cluster| {
            cluster.position(GAMMA) == cluster.newest().map(|newest| (newest, newest))
        })
        .await;
        cluster.set_way("alpha", "beta", Way::Cut);
        cluster.set_way("alpha", "gamma", Way::Cut);
        say(&cluster, GAMMA, "group takeover g1 --yes").await;
        wait(&cluster, "beta goes on from gamma", |cluster| reads_over(cluster) == "gamma").await;
        cluster.sleep_ms(3_000).await;
        assert!(one_write(&cluster, 5).await.1.is_err(), "{}", cluster.state());
        let reason = reason(&cluster, ALPHA, "r1");
        assert!(reason.contains("array 2 goes on from array 3"), "{reason}");
        cluster.heal();
        back_at_alpha(&cluster).await;
        assert!(one_write(&cluster, 6).await.1.is_ok());
        wait(&cluster, "hosts wait again", is_shown).await;
        cluster.set_way("alpha", "beta", Way::Cut);
        assert!(one_write(&cluster, 7).await.1.is_ok());
        wait(&cluster, "it is shown without the link", is_shown).await;
    });
}

/// Alpha becomes gamma's copy, and then the primary.
async fn back_at_alpha(cluster: &Cluster) {
    for role in ["auxiliary", "primary"] {
        let since = cluster.clock_ms();
        while takeover::group(cluster, ALPHA).role != role {
            let answer = cluster.command(GAMMA, "group failback g1 --to alpha --yes").await;
            assert!(cluster.clock_ms() < since + 60_000, "{answer:?}: {}", cluster.state());
            cluster.sleep_ms(500).await;
        }
    }
}

/// What stands there was said by one that was lost for good, and beta has been set up anew in its place: it says that it is a copy, also where it has no
/// other reason to say anything there.
#[test]
fn a_copy_takes_back_what_stands_on_its_relay_of_a_takeover_that_is_none_any_more() {
    in_virtual_time(async {
        let (cluster, mut writer, ports) = running(9).await;
        create(&cluster, "r1", "gamma").await;
        wait(&cluster, "it is read over the relay", |cluster| reads_over(cluster) == "r1").await;
        write(&cluster, &mut writer, &ports, 20).await;
        equal(&cluster).await;
        // While a pair is stopped the relay is not read.
        say(&cluster, ALPHA, "group suspend g1 --reader beta").await;
        wait(&cluster, "beta is not suspended", |cluster| !cluster.is_normal(BETA)).await;
        cluster.die(BETA, Death::Kill).await;
        let last = newest_said(&cluster).await;
        let sequence = last.sequence + 1;
        let generation =
            Generation { counter: last.generation.counter + 9, array: ArrayNumber(2), ..last.generation };
        let word = SecondControl { sequence, generation, ..last }.encode();
        write_page(&lun_of(&cluster, 3).await, 1 + sequence % 2 * SLOT_BLOCKS, word).await;
        wait(&cluster, "alpha does not see it", |cluster| {
            reason(cluster, ALPHA, "r1").contains("array 2 has taken the group over")
        })
        .await;
        cluster.start(BETA).await;
        cluster.sleep_ms(6_000).await;
        say(&cluster, ALPHA, "group resync g1 --reader beta").await;
        wait(&cluster, "it is read over the relay again", |cluster| reads_over(cluster) == "r1").await;
        write(&cluster, &mut writer, &ports, 20).await;
        equal(&cluster).await;
    });
}
