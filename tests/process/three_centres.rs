//! Three data centres on real processes (promises K1 to K6 and O4, `docs/operations.md` 4.5): hosts of alpha wait for beta, gamma reads
//! at its own pace, links lead between all three, everything comes from configuration. Sites are lost by SIGKILL under load, one, two or all
//! of them, and the operator types what the runbook says. Judged by what hosts know: behind a loss in which the synchronous pair
//! showed itself as synchronised nothing that was answered is missing, what any takeover finds is an image of one moment, and in the end all
//! three are equal, in the roles that they had. `HOLDFAST_SITE_LOSSES` says in how many orders all three come back, two if nothing does.

use crate::reversal_of_three::{expect_equal, is_settled};
use crate::rounds::{
    CATCH_UP, SESSIONS, start_in_time, wait_a_random_time, write_some, write_while, writer_for,
};
use crate::support::process::{Array, Cluster, Layout, rows};
use crate::support::proxy::LinkState;
use crate::support::random::{Random, number_from_environment, seed_from_environment};
use crate::support::wof::{
    Durability, DurableRule, HostError, HostPort, Observed, Place, SECTOR_BYTES, Writer, check_crash,
    check_prefix, lost_writes, read_image,
};
use bytes::Bytes;
use holdfast::clock::{Clock, MonotonicNs, SystemClock};
use serde_json::Value;
use std::time::Duration;

const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];
const ALPHA: usize = 0;
const BETA: usize = 1;
const GAMMA: usize = 2;
/// From the command of a takeover to the first answered write.
const HOSTS_WITHIN: Duration = Duration::from_secs(60);

const FAR: LinkState = LinkState::Slow { delay: Duration::from_millis(2), bytes_per_s: 100_000_000 };

/// Three arrays, their host, and what it knows.
struct Centres {
    cluster: Cluster,
    writer: Writer,
    random: Random,
    clock: SystemClock,
    began: MonotonicNs,
}

fn state_of_pair(array: &Array) -> Option<Value> {
    Some(array.group()?["synchronous"].clone())
}

fn is_synchronised(array: &Array) -> bool {
    state_of_pair(array).is_some_and(|pair| pair["state"] == "synchronised")
}

/// States of the pairs with the array of this number.
fn pairs_with(array: &Array, number: usize) -> Vec<Value> {
    let pairs = array.shell(&["pair", "list"]).map(|pairs| rows(&pairs)).unwrap_or_default();
    pairs.into_iter().filter(|pair| pair["auxiliary_array"] == number).collect()
}

fn lets_hosts_write(array: &Array) -> bool {
    let luns = array.shell(&["lun", "list"]).map(|luns| rows(&luns)).unwrap_or_default();
    luns.iter().any(|lun| lun["access"] == "read-write")
}

/// Gamma's S-VOLs are an image of one moment at any time.
fn expect_image_at(gamma: &Array) {
    let pairs = pairs_with(gamma, GAMMA + 1);
    assert!(!pairs.is_empty() && pairs.iter().all(|pair| pair["state"] == "normal"), "{pairs:?}");
}

/// A host writes a sector, and is refused.
async fn expect_shut(array: &Array) {
    let port = array.ports(1, 1).remove(0);
    let place = Place { volume: 0, lba: 0, sectors: 1 };
    let written = port.write(place, Bytes::from(vec![0xee; SECTOR_BYTES]), Durability::Plain).await;
    assert!(matches!(written, Err(HostError::Refused { .. })), "{}: {written:?}", array.portal());
    assert!(!lets_hosts_write(array));
}

/// Says something at an array until it is done.
async fn say(at: &Array, line: &[&str]) {
    let mut last = String::new();
    at.wait_until(&line.join(" "), CATCH_UP, || match at.shell(line) {
        Ok(_) => Some(()),
        Err(error) => {
            if error != last {
                eprintln!("{}: {error}", line.join(" "));
            }
            last = error;
            None
        }
    })
    .await;
}

/// The lost one is back, refuses what hosts write, and is named as the loser at the primary, which says beforehand what that costs.
/// Returns how many bytes of its volumes differ, at most.
async fn comes_back(cluster: &mut Cluster, primary: usize, lost: usize) -> u64 {
    start_in_time(cluster, lost).await;
    let (at, old) = (&cluster.arrays[primary], &cluster.arrays[lost]);
    old.wait_until("it hears that it was overtaken, and says what only it has", CATCH_UP, || {
        let is_said = !at.group()?["takeover"]["branch_updates"].is_null();
        (is_said && old.group()?["takeover"]["state"] == "overtaken").then_some(())
    })
    .await;
    expect_shut(old).await;
    let pairs = pairs_with(at, lost + 1);
    let differ = |pair: &Value| pair["difference_bytes"].as_u64().expect("a number");
    let differ = pairs.iter().map(differ).sum();
    let line = ["group", "failback", "g1", "--to", NAMES[lost]];
    let seen = at.shell(&[&line[..], &["--dry-run"]].concat()).expect("a look");
    assert!(seen["says"].to_string().contains("becomes a copy"), "{seen}");
    say(at, &[&line[..], &["--yes"]].concat()).await;
    differ
}

impl Centres {
    async fn running(seed: u64, group: &'static str) -> Self {
        Self::running_with(seed, group, 4 << 20).await
    }

    async fn running_with(seed: u64, group: &'static str, volume_bytes: u64) -> Self {
        let seed = seed_from_environment(seed);
        // Little is written at a time: update information needs room, too.
        let layout = Layout {
            volumes: 2,
            volume_bytes,
            journal_bytes: 128 << 20,
            journal: "ratio = \"1:2\"\n",
            unit_bytes: Some(96 << 20),
            level: "raid0",
            is_synchronous: true,
            is_meshed: true,
            group,
            ..Layout::default()
        };
        let clock = SystemClock::new();
        let began = clock.now();
        let cluster = Cluster::running(layout).await;
        let writer = writer_for(&cluster, seed);
        let mut centres = Self { cluster, writer, random: Random::new(seed), clock, began };
        centres.until_pair(ALPHA, BETA).await;
        centres.write(ALPHA, 80).await;
        centres.note("the pair is synchronised");
        centres
    }

    fn at(&self, index: usize) -> &Array {
        &self.cluster.arrays[index]
    }

    /// For whoever reads what a test said.
    fn note(&self, what: &str) {
        eprintln!("{:?}: {what}", self.clock.now().since(self.began));
    }

    /// Hosts of `primary` wait for `second`, both say so, and the other one does not.
    async fn until_pair(&self, primary: usize, second: usize) {
        let other = ALPHA + BETA + GAMMA - primary - second;
        let at = self.at(primary);
        at.wait_until("the pair is synchronised", CATCH_UP, || {
            let shown = state_of_pair(at)?;
            let are = shown["state"] == "synchronised" && is_synchronised(self.at(second));
            (are && shown["link"] == NAMES[second] && !is_synchronised(self.at(other))).then_some(())
        })
        .await;
    }

    /// What beta keeps for gamma has all of what came until now behind it: the initial copy, all of each volume.
    async fn until_freed_at_beta(&self) {
        let (alpha, beta) = (self.at(ALPHA), self.at(BETA));
        let next = alpha.group().expect("it runs")["next_update_number"].as_u64();
        beta.wait_until("what gamma has is freed at beta", CATCH_UP, || {
            (beta.group()?["loss"]["journal_from_update_number"].as_u64() >= next).then_some(())
        })
        .await;
    }

    async fn write(&mut self, index: usize, commands: u64) {
        let ports = self.at(index).ports(SESSIONS, self.cluster.layout.volumes);
        let written = write_some(&mut self.writer, &ports, commands);
        let Ok(_) = tokio::time::timeout(CATCH_UP, written).await else {
            panic!("hosts do not go on at {}: {:?}", NAMES[index], self.at(index).group());
        };
    }

    async fn image(&self, index: usize) -> Vec<Vec<u8>> {
        let port = self.at(index).ports(1, self.cluster.layout.volumes).remove(0);
        read_image(&port, self.writer.log().geometry()).await.expect("its hosts read it")
    }

    /// Sites are lost one shortly after the other, while hosts write at alpha, and while the pair shows itself as synchronised. Beta is some
    /// way off, and what is on the way there goes down with the line: what is answered without beta is missing there.
    async fn lose_under_load(&mut self, lost: &[usize], after_ms: u64) {
        let ports = self.at(ALPHA).ports(SESSIONS, self.cluster.layout.volumes);
        self.cluster.set_link(BETA, FAR);
        let Self { cluster, writer, random, clock, .. } = self;
        let summary = write_while(writer, &ports, async {
            wait_a_random_time(random, after_ms).await;
            assert!(is_synchronised(&cluster.arrays[ALPHA]) && is_synchronised(&cluster.arrays[BETA]));
            cluster.set_link(BETA, LinkState::Cut);
            for index in lost {
                cluster.arrays[*index].kill();
                clock.sleep(Duration::from_millis(random.below(30))).await;
            }
        })
        .await;
        assert!(summary.acknowledged > 0, "there was a load");
        self.cluster.set_link(BETA, LinkState::Up);
        self.note(&format!("{lost:?} lost, {} commands answered on the way", summary.acknowledged));
    }

    /// What is found there is an image of one moment; nothing is missing that was answered, unless something may be. The host goes on.
    /// Returns how many answered writes it has lost.
    async fn go_on(&mut self, index: usize, loses_nothing: bool) -> usize {
        let observed = Observed::from_images(self.writer.log(), &self.image(index).await);
        let log = self.writer.log();
        if loses_nothing {
            check_crash(log, &observed, DurableRule::Acknowledged).expect_clean("every answered write");
        }
        let verdict = check_prefix(log, &observed);
        verdict.expect_clean("an image of one moment");
        let (lost, acknowledged) = (lost_writes(log, &verdict).len(), log.acked_count());
        self.note(&format!("{}: {lost} of {acknowledged} answered writes are missing", NAMES[index]));
        if let Err(verdict) = self.writer.resume_after_crash(&observed) {
            verdict.expect_clean("the host goes on");
        }
        self.write(index, 1).await;
        lost
    }

    /// The operator looks, and says it. Returns what the look showed, and how many answered writes are lost.
    async fn take_over(&mut self, index: usize, loses_nothing: bool) -> (String, usize) {
        let at = self.at(index);
        let seen = at.shell(&["group", "takeover", "g1", "--dry-run"]).expect("a look");
        let since = self.clock.now();
        at.shell(&["group", "takeover", "g1", "--yes"]).expect("it takes over");
        let answered = self.clock.now().since(since);
        let lost = self.go_on(index, loses_nothing).await;
        let took = self.clock.now().since(since);
        let name = NAMES[index];
        self.note(&format!("takeover at {name}: answered after {answered:?}, hosts write after {took:?}"));
        assert!(took < HOSTS_WITHIN, "{took:?}");
        self.write(index, 60).await;
        (seen.to_string(), lost)
    }

    /// It copies from `primary`, and has everything.
    fn follows(&self, primary: usize, reader: usize) -> Option<()> {
        let pairs = pairs_with(self.at(primary), reader + 1);
        let (above, here) = (self.at(primary).group()?, self.at(reader).group()?);
        let newest = above["next_update_number"].as_u64()? - 1;
        let are_normal = pairs.len() == usize::from(self.cluster.layout.volumes)
            && pairs.iter().all(|pair| pair["state"] == "normal");
        let has_all = here["follows"]["restored_update_number"].as_u64() == Some(newest);
        let reads_here = here["follows"]["reads_over"] == NAMES[primary];
        (are_normal && reads_here && has_all && here["takeover"].is_null()).then_some(())
    }

    async fn until_follows(&self, primary: usize, reader: usize) {
        let at = self.at(reader);
        at.wait_until("it goes on from there", CATCH_UP, || self.follows(primary, reader)).await;
    }

    /// How `at` has judged what gamma lacks.
    fn judged(&self, index: usize) -> Value {
        let group = self.at(index).group().expect("it runs");
        let all = group["judged"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|judged| judged["array"] == GAMMA + 1).unwrap_or_default()
    }

    /// All roles are as they were, the pair is synchronised, and all three have everything.
    async fn end(mut self) {
        self.until_pair(ALPHA, BETA).await;
        self.write(ALPHA, 60).await;
        expect_equal(&self.cluster, &self.writer, ALPHA).await;
        self.until_pair(ALPHA, BETA).await;
        self.note("all three are equal");
    }

    /// The roles go to `to` while hosts write, who lose nothing by that.
    async fn turn(&mut self, from: usize, to: usize) {
        let at = self.at(from);
        at.wait_until("it is settled", CATCH_UP, || is_settled(&self.cluster, from)).await;
        let ports = self.at(from).ports(SESSIONS, self.cluster.layout.volumes);
        let Self { cluster, writer, random, .. } = self;
        write_while(writer, &ports, async {
            wait_a_random_time(random, 200).await;
            let (at, new) = (&cluster.arrays[from], &cluster.arrays[to]);
            let line = ["group", "failback", "g1", "--to", NAMES[to], "--yes"];
            at.wait_until("the roles go back", CATCH_UP, || at.shell(&line).ok().map(|_| ())).await;
            new.wait_until("hosts are let in", CATCH_UP, || lets_hosts_write(new).then_some(())).await;
        })
        .await;
        drop(ports);
        self.note("the roles have gone back");
        let log = self.writer.log();
        let observed = Observed::from_images(log, &self.image(to).await);
        check_crash(log, &observed, DurableRule::Acknowledged).expect_clean("a planned swap");
        self.write(to, 60).await;
    }
}

/// Runbook: *the first is lost*. Gamma, which lags, reads what it lacks from the journal of beta; alpha comes back by differences.
#[tokio::test(flavor = "multi_thread")]
async fn three_centres_lose_the_first_and_every_role_returns() {
    let mut centres = Centres::running(91, "fence = \"data\"\n").await;
    expect_equal(&centres.cluster, &centres.writer, ALPHA).await;
    centres.cluster.set_link(GAMMA, LinkState::Cut);
    centres.write(ALPHA, 40).await;
    let had = centres.at(GAMMA).group().expect("it runs")["follows"]["restored_update_number"].clone();
    centres.until_pair(ALPHA, BETA).await;
    centres.lose_under_load(&[ALPHA], 500).await;
    let (seen, _) = centres.take_over(BETA, true).await;
    assert!(seen.contains("no other copy has more"), "{seen}");
    let at = centres.at(GAMMA);
    at.wait_until("gamma goes on from beta", CATCH_UP, || {
        expect_image_at(at);
        centres.follows(BETA, GAMMA)
    })
    .await;
    assert!(centres.image(GAMMA).await == centres.image(BETA).await, "gamma differs");
    let judged = centres.judged(BETA);
    assert_eq!(judged["way"], "journal", "{judged}");
    assert!(judged["updates"].as_u64() > Some(0) && judged["bytes"].as_u64() > Some(0), "{judged}");
    assert!(judged["update_number"].as_u64() >= had.as_u64(), "{judged} {had}");

    centres.cluster.set_link(GAMMA, LinkState::Up);
    let ports = centres.at(BETA).ports(SESSIONS, centres.cluster.layout.volumes);
    write_while(&mut centres.writer, &ports, async {
        let cluster = &mut centres.cluster;
        comes_back(cluster, BETA, ALPHA).await;
        let (alpha, gamma) = (&cluster.arrays[ALPHA], &cluster.arrays[GAMMA]);
        alpha
            .wait_until("alpha is the synchronous copy", CATCH_UP, || {
                expect_image_at(gamma);
                assert_eq!(gamma.group()?["follows"]["reads_over"], "beta");
                is_synchronised(alpha).then_some(())
            })
            .await;
    })
    .await;
    drop(ports);
    centres.until_pair(BETA, ALPHA).await;
    centres.note("alpha is the synchronous copy");
    expect_equal(&centres.cluster, &centres.writer, BETA).await;
    centres.turn(BETA, ALPHA).await;
    let audit = centres.at(GAMMA).shell(&["audit", "list"]).expect("an audit log").to_string();
    assert!(!audit.contains("resync"), "{audit}");
    centres.end().await;
}

/// Runbook: *the first and the third are lost*. Beta cannot ask gamma, and goes on; gamma is judged when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn three_centres_lose_the_first_and_the_third() {
    let mut centres = Centres::running_with(92, "fence = \"data\"\n", 16 << 20).await;
    centres.until_freed_at_beta().await;
    let lost = if centres.random.percent(50) { [ALPHA, GAMMA] } else { [GAMMA, ALPHA] };
    centres.lose_under_load(&lost, 100).await;
    let (seen, _) = centres.take_over(BETA, true).await;
    assert!(seen.contains("gamma is not reached"), "{seen}");
    start_in_time(&mut centres.cluster, GAMMA).await;
    centres.until_follows(BETA, GAMMA).await;
    let judged = centres.judged(BETA);
    assert!(judged["way"] == "journal" || judged["way"] == "nothing-missing", "{judged}");
    let (differ, all) =
        (comes_back(&mut centres.cluster, BETA, ALPHA).await, 2 * centres.cluster.layout.volume_bytes);
    assert!(differ < all / 2, "{differ} of {all} bytes are copied to alpha");
    centres.write(BETA, 60).await;
    centres.until_pair(BETA, ALPHA).await;
    centres.turn(BETA, ALPHA).await;
    centres.end().await;
}

/// Runbook: *the first and the second are lost*. Gamma takes over with what it has; hosts wait for beta when it is back and named.
#[tokio::test(flavor = "multi_thread")]
async fn three_centres_lose_the_first_and_the_second_and_the_third_goes_on() {
    let mut centres = Centres::running(93, "fence = \"never\"\n").await;
    let lost = if centres.random.percent(50) { [ALPHA, BETA] } else { [BETA, ALPHA] };
    // Gamma lags, and alpha has told it how far.
    centres.cluster.set_link(GAMMA, LinkState::Cut);
    centres.write(ALPHA, 40).await;
    centres.lose_under_load(&lost, 500).await;
    let (seen, lost_writes) = centres.take_over(GAMMA, false).await;
    assert!(seen.contains("beta is not reached"), "{seen}");
    assert!(seen.contains("whatever alpha was written since") && lost_writes > 0, "{lost_writes}: {seen}");
    centres.cluster.set_link(GAMMA, LinkState::Up);
    // Alpha tells beta that it was overtaken, in whatever order they come back.
    start_in_time(&mut centres.cluster, lost[1]).await;
    start_in_time(&mut centres.cluster, lost[0]).await;
    let [alpha, beta] = [ALPHA, BETA].map(|index| centres.at(index));
    alpha
        .wait_until("alpha hears that it was overtaken", CATCH_UP, || {
            (alpha.group()?["takeover"]["state"] == "overtaken").then_some(())
        })
        .await;
    expect_shut(alpha).await;
    let gamma = centres.at(GAMMA);
    let ahead = beta
        .wait_until("beta says that it has more", CATCH_UP, || {
            let ahead =
                gamma.group()?["ahead"].as_array()?.iter().find(|ahead| ahead["array"] == BETA + 1)?.clone();
            (beta.group()?["takeover"]["state"] == "ahead").then_some(ahead)
        })
        .await;
    let updates = ahead["updates"].as_u64().expect("a number");
    assert!(usize::try_from(updates).is_ok_and(|updates| updates >= lost_writes), "{lost_writes}: {ahead}");
    // Nobody gives that up unasked, and whoever is asked is told how much it is.
    let to_beta = ["group", "failback", "g1", "--to", "beta"];
    let refused = gamma.shell(&to_beta).expect_err("something would be lost");
    assert!(refused.contains(&format!("{updates} updates that only beta has")), "{refused}");
    say(gamma, &[&to_beta[..], &["--yes"]].concat()).await;
    centres.write(GAMMA, 20).await;
    centres.until_follows(GAMMA, BETA).await;
    centres.note("beta goes on from gamma");
    say(centres.at(GAMMA), &["group", "set", "g1", "--synchronous", "beta"]).await;
    centres.until_pair(GAMMA, BETA).await;
    say(centres.at(GAMMA), &["group", "failback", "g1", "--to", "alpha", "--yes"]).await;
    centres.write(GAMMA, 60).await;
    centres.until_follows(GAMMA, ALPHA).await;
    centres.note("alpha goes on from gamma");
    centres.until_pair(GAMMA, BETA).await;
    centres.turn(GAMMA, ALPHA).await;
    centres.end().await;
}

/// Runbook: *the second and the third are lost*. With the fence `never` hosts go on at alpha, and both come back by themselves.
#[tokio::test(flavor = "multi_thread")]
async fn three_centres_lose_the_second_and_the_third_and_hosts_go_on() {
    let mut centres = Centres::running(94, "fence = \"never\"\nfence_wait = \"2s\"\n").await;
    centres.lose_under_load(&[BETA, GAMMA], 500).await;
    centres.write(ALPHA, 200).await;
    let shown = state_of_pair(centres.at(ALPHA)).expect("it runs");
    assert_eq!(shown["state"], "apart", "{shown}");
    centres.note("hosts go on alone");
    for index in [GAMMA, BETA] {
        start_in_time(&mut centres.cluster, index).await;
        centres.write(ALPHA, 60).await;
    }
    centres.end().await;
}

/// Runbook: *all three are lost*. Who is back before alpha waits for it and takes no writes; alpha is the primary still, and has everything
/// that was answered. It lets hosts in by what the fence says, or says for whom it waits; the rest comes by itself.
async fn lose_all_three(seed: u64, fence: &'static str, orders: impl Iterator<Item = &[usize; 3]>) {
    let mut centres = Centres::running(seed, fence).await;
    for order in orders {
        let mut lost = [ALPHA, BETA, GAMMA];
        lost.rotate_left(centres.random.index(3));
        centres.lose_under_load(&lost, 500).await;
        let (mut back, mut has_gone_on) = (Vec::new(), false);
        for index in order {
            start_in_time(&mut centres.cluster, *index).await;
            back.push(*index);
            if !back.contains(&ALPHA) {
                let at = centres.at(*index);
                assert_eq!(at.group().expect("it runs")["role"], "auxiliary");
                expect_shut(at).await;
                continue;
            }
            if !back.contains(&BETA) && fence.contains("data") {
                let shown = state_of_pair(centres.at(ALPHA)).expect("it runs");
                assert!(shown["state"] == "waiting" || shown["state"] == "refused", "{shown}");
                assert_eq!(shown["link"], "beta", "{shown}");
            } else if !has_gone_on {
                centres.go_on(ALPHA, true).await;
                has_gone_on = true;
            }
        }
        centres.until_pair(ALPHA, BETA).await;
        expect_equal(&centres.cluster, &centres.writer, ALPHA).await;
        centres.note(&format!("lost {lost:?}, back {order:?}"));
    }
    centres.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_centres_lose_all_three_and_come_back_in_any_order() {
    const ORDERS: [[usize; 3]; 6] = [
        [ALPHA, GAMMA, BETA],
        [GAMMA, BETA, ALPHA],
        [BETA, ALPHA, GAMMA],
        [GAMMA, ALPHA, BETA],
        [BETA, GAMMA, ALPHA],
        [ALPHA, BETA, GAMMA],
    ];
    let rounds = number_from_environment("HOLDFAST_SITE_LOSSES", 2).clamp(2, 24).div_ceil(2);
    let rounds = usize::try_from(rounds).expect("few");
    lose_all_three(95, "fence = \"never\"\nfence_wait = \"2s\"\n", ORDERS.iter().cycle().take(rounds)).await;
    let orders = ORDERS.iter().rev().cycle().take(rounds);
    lose_all_three(96, "fence = \"data\"\nfence_wait = \"2s\"\n", orders).await;
}
