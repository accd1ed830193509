//! The first of three data centres is lost while pairs of the third are stopped, or in the middle of a copy of differences (promise K1;
//! decision 29): the second, having taken over, copies to it what was changed since it stopped, and not everything. Both arrays
//! die and links fail on the way; what is not known is copied whole, and nothing is ever missing.

use crate::cluster::{ALPHA, Cluster, Death, Shape, Way};
use crate::in_virtual_time;
use crate::onward::{content, equal};
use crate::port::scribble;
use crate::rejoin::follows;
use crate::story::geometry_of;
use crate::support::random::{Random, number_from_environment};
use crate::support::wof::{Observed, Plan, Writer};
use crate::synchronous::Planted;
use crate::takeover::{BETA, go_on, group, image, lets_hosts_write, take_over, until, write};
use crate::three_centres::{any_death, begin, centres_as, comes_back, lose_under_load, until_synchronised};
use crate::tree::SMALL;
use holdfast::copy::tamper::SynchronousDefect;
use std::sync::Arc;

const GAMMA: usize = 2;
/// Hosts write the first sixteenth of each volume: the rest must not be copied.
const SHAPE: Shape = Shape { journal_kib: 8192, volume_kib: 16 * SMALL.volume_kib, ..SMALL };
const WRITTEN_BYTES: u64 = (SMALL.volume_kib << 10) * 3;
const ALL_BYTES: u64 = 16 * WRITTEN_BYTES;

/// What keeps the third's pairs from being normal when the first is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stop {
    /// The operator has stopped one pair.
    One,
    /// He has stopped all of them.
    All,
    /// He has stopped them, and let hosts write the S-VOLs.
    Written,
    /// The third was away until the journal was full.
    Overflow,
    /// The differences of one pair, or of all, are being copied.
    Copied(bool),
    /// The same, where hosts had written the S-VOLs.
    CopiedBack,
}

const STOPS: [Stop; 7] = [
    Stop::One,
    Stop::All,
    Stop::Written,
    Stop::Overflow,
    Stop::Copied(false),
    Stop::Copied(true),
    Stop::CopiedBack,
];

struct Told {
    cluster: Cluster,
    writer: Writer,
    random: Random,
}

impl Told {
    async fn new(seed: u64, defect: Option<SynchronousDefect>) -> Self {
        // Beta's journal is small: it lets go of what the third lacks.
        let small = |text: String| text.replace("size = \"8192KiB\"", "size = \"4096KiB\"");
        let cluster = centres_as(seed, SHAPE, ["never", "data"][usize::try_from(seed % 2).unwrap()], small);
        if let Some(defect) = defect {
            cluster.plant(BETA, Arc::new(Planted(defect)));
        }
        let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SMALL)));
        begin(&cluster, &mut writer).await;
        // The initial copy, which wrote everything, is past: gamma has it on its units.
        cluster.sleep_ms(12_000).await;
        equal(&cluster, &writer, ALPHA).await;
        Self { cluster, writer, random: Random::new(seed ^ 0x7374_6f70) }
    }

    async fn say(&self, line: &str) {
        let since = self.cluster.clock_ms();
        while let Err(error) = self.cluster.command(ALPHA, line).await {
            assert!(self.cluster.clock_ms() < since + 60_000, "{line}: {error}");
            self.cluster.sleep_ms(100).await;
        }
    }

    async fn write(&mut self, commands: u64) {
        write(&self.cluster, &mut self.writer, ALPHA, commands).await;
    }

    /// Of gamma's pairs, as it says itself.
    fn are(&self, state: &str) -> usize {
        let pairs = self.cluster.snapshot(GAMMA).map(|now| now.pairs).unwrap_or_default();
        pairs.iter().filter(|pair| pair.state == state).count()
    }

    async fn until_are(&self, state: &str, count: usize) {
        until(&self.cluster, state, || self.are(state) >= count).await;
    }

    /// Something happens that changes nothing about what has to be found in the end.
    async fn trouble(&mut self) {
        match self.random.below(8) {
            0 => {
                let death = any_death(&mut self.random);
                self.cluster.die(BETA, death).await;
                self.cluster.sleep_ms(self.random.below(1_500)).await;
                self.cluster.start(BETA).await;
            }
            1 => {
                let death = any_death(&mut self.random);
                self.cluster.die(GAMMA, death).await;
                self.cluster.start(GAMMA).await;
            }
            2 => {
                // Alpha is away for a moment, and goes on as the primary.
                let death = any_death(&mut self.random);
                self.cluster.die(ALPHA, death).await;
                self.cluster.start(ALPHA).await;
                until(&self.cluster, "alpha is not up", || lets_hosts_write(&self.cluster, ALPHA)).await;
                let images = image(&self.cluster, ALPHA).await;
                let observed = Observed::from_images(self.writer.log(), &images);
                let resumed = self.writer.resume_after_crash(&observed);
                resumed.unwrap_or_else(|verdict| panic!("alpha: {verdict}"));
            }
            3 => {
                self.cluster.set_way("alpha", "beta", Way::Cut);
                self.cluster.sleep_ms(self.random.below(3_000)).await;
                self.cluster.set_way("alpha", "beta", Way::Up);
            }
            4 => {
                // A pair of the second is copied again itself.
                self.say("pair suspend p1-beta").await;
                let is_suspended = || {
                    let now = self.cluster.snapshot(ALPHA).expect("it runs");
                    now.pairs.iter().any(|pair| pair.name == "p1-beta" && pair.state == "suspended")
                };
                until(&self.cluster, "p1-beta is not suspended", is_suspended).await;
                self.write(4).await;
                self.say("pair resync p1-beta").await;
            }
            _ => {}
        }
        until_synchronised(&self.cluster).await;
    }

    /// Hosts write; some of it at a time, so that beta lets go of it.
    async fn time_passes(&mut self) {
        for _ in 0..2 + self.random.below(4) {
            let commands = 4 + self.random.below(12);
            self.write(commands).await;
            self.cluster.sleep_ms(300 + self.random.below(2_000)).await;
            if self.random.percent(50) {
                self.trouble().await;
            }
        }
    }

    async fn suspend(&mut self, hosts_write: bool) {
        let wish = if hosts_write { " --svol-write" } else { "" };
        self.say(&format!("group suspend g1 --reader gamma{wish}")).await;
        self.until_are("suspended", 3).await;
        if hosts_write {
            let open = || {
                let now = self.cluster.snapshot(GAMMA).expect("it runs");
                now.targets[0].luns.iter().all(|lun| lun.access == "read-write")
            };
            until(&self.cluster, "hosts cannot write", open).await;
            scribble(&self.cluster, GAMMA, &mut self.random, 12).await;
        }
    }

    async fn begin_copy(&mut self, line: &str) {
        self.say(line).await;
        self.until_are("being-copied", 1).await;
        if self.random.percent(60) {
            self.cluster.set_way("alpha", "gamma", Way::Slow);
        }
        self.cluster.sleep_ms(self.random.below(60)).await;
    }

    async fn stop(&mut self, stop: Stop) {
        match stop {
            Stop::One => {
                self.say("pair suspend p1-gamma").await;
                self.until_are("suspended", 1).await;
            }
            Stop::All => self.suspend(false).await,
            Stop::Written => self.suspend(true).await,
            Stop::Overflow => {
                self.cluster.set_way("alpha", "gamma", Way::Cut);
                let is_stopped = || {
                    let now = self.cluster.snapshot(ALPHA).expect("it runs");
                    let mut its = now.pairs.iter().filter(|pair| pair.name.ends_with("gamma"));
                    its.all(|pair| pair.state == "suspended")
                };
                for _ in 0..200 {
                    if is_stopped() {
                        break;
                    }
                    write(&self.cluster, &mut self.writer, ALPHA, 40).await;
                }
                assert!(is_stopped(), "it never overflows: {}", self.cluster.state());
            }
            Stop::Copied(all) => {
                let (suspend, resync) = match all {
                    true => ("group suspend g1 --reader gamma", "group resync g1 --reader gamma"),
                    false => ("pair suspend p2-gamma", "pair resync p2-gamma"),
                };
                self.say(suspend).await;
                self.until_are("suspended", 1).await;
                self.time_passes().await;
                self.begin_copy(resync).await;
            }
            Stop::CopiedBack => {
                self.suspend(true).await;
                self.time_passes().await;
                self.begin_copy("group resync g1 --reader gamma").await;
            }
        }
    }
}

/// The way by which gamma went on, and with how many bytes.
async fn story(seed: u64, defect: Option<SynchronousDefect>) -> (String, u64) {
    let stop = STOPS[usize::try_from(seed % 7).unwrap()];
    let mut told = Told::new(seed, defect).await;
    told.stop(stop).await;
    if !matches!(stop, Stop::Copied(_) | Stop::CopiedBack) {
        told.time_passes().await;
        until_synchronised(&told.cluster).await;
    }
    let Told { cluster, mut writer, mut random } = told;
    match random.percent(50) {
        true => lose_under_load(&cluster, &mut writer, ALPHA, &mut random).await,
        false => cluster.die(ALPHA, any_death(&mut random)).await,
    }
    if random.percent(30) {
        // Both sites in a row: what beta knew of gamma is forgotten, what it holds and has marked is not.
        cluster.die(BETA, any_death(&mut random)).await;
        cluster.start(BETA).await;
        until(&cluster, "beta is not up", || {
            group(&cluster, BETA).follows.is_some_and(|follows| follows.takeover_update_number.is_some())
        })
        .await;
    }
    if random.percent(30) {
        cluster.die(GAMMA, any_death(&mut random)).await;
        cluster.start(GAMMA).await;
    }
    take_over(&cluster, BETA).await;
    go_on(&cluster, &mut writer, BETA, true).await;
    cluster.heal();
    let judged = || group(&cluster, BETA).judged.into_iter().find(|judged| judged.array == 3);
    until(&cluster, "gamma was not judged", || judged().is_some()).await;
    let way = judged().expect("it was judged");
    cluster.note(format!("{stop:?}: {way:?}"));
    let stays = matches!(stop, Stop::One | Stop::All | Stop::Written);
    if stays {
        // Whoever stopped them lets them go on.
        cluster.sleep_ms(random.below(500)).await;
        let line = "group resync g1 --reader gamma";
        let since = cluster.clock_ms();
        while let Err(error) = cluster.command(BETA, line).await {
            assert!(cluster.clock_ms() < since + 60_000, "{line}: {error}: {}", cluster.state());
            cluster.sleep_ms(300).await;
        }
    }
    until(&cluster, "gamma does not go on", || follows(&cluster, BETA, GAMMA)).await;
    assert!(content(&cluster, GAMMA).await == content(&cluster, BETA).await, "gamma differs after {stop:?}");
    cluster.start(ALPHA).await;
    comes_back(&cluster, &mut writer, BETA).await;
    equal(&cluster, &writer, BETA).await;
    let bytes = way.bytes.unwrap_or(0);
    // A copy may have come to its end, and one that was only away may read on.
    if stays || !matches!(way.way.as_str(), "journal" | "nothing-missing") {
        assert_eq!(way.way, "differences", "{stop:?}: {way:?}");
        assert!(bytes < ALL_BYTES / 4, "{stop:?}: {bytes} of {ALL_BYTES}: {way:?}");
    }
    (way.way, bytes)
}

#[test]
fn a_third_whose_pairs_are_stopped_when_the_first_is_lost_comes_by_what_was_changed_since() {
    let seeds = number_from_environment("HOLDFAST_STOPPED_SEEDS", 7);
    let first = number_from_environment("HOLDFAST_SIM_FIRST_SEED", 1);
    let mut copied = 0;
    for seed in first..first + seeds {
        let told = std::panic::catch_unwind(|| in_virtual_time(story(seed, None)));
        let (way, bytes) = told.unwrap_or_else(|cause| {
            eprintln!("seed {seed} failed (HOLDFAST_SIM_FIRST_SEED={seed} HOLDFAST_STOPPED_SEEDS=1)");
            std::panic::resume_unwind(cause)
        });
        println!("seed {seed}, {:?}: {way}, {bytes} bytes", STOPS[usize::try_from(seed % 7).unwrap()]);
        copied += u64::from(way == "differences");
    }
    assert!(seeds < 7 || copied * 2 > seeds, "{copied} of {seeds} came by differences");
}

/// The stories are worth what they find.
#[test]
fn a_mark_that_is_forgotten_at_the_second_is_found() {
    let is_found = (1..=7).any(|seed| {
        let planted = Some(SynchronousDefect::MarkForgotten);
        let told = std::panic::catch_unwind(|| in_virtual_time(story(seed, planted)));
        told.is_err_and(|cause| {
            let text = cause.downcast_ref::<String>().cloned().unwrap_or_default();
            println!("seed {seed}: {}", text.lines().next().unwrap_or_default());
            text.contains("gamma differs")
        })
    });
    assert!(is_found, "it is not found");
}

/// Gamma's differences are copied over a slow link while the first goes on alone: what comes then was answered to hosts, and the second never
/// had it. How gamma went on.
async fn copied_while_apart(seed: u64) -> String {
    let mut told = Told::new(2 * seed, None).await;
    told.suspend(false).await;
    told.write(60).await;
    told.cluster.set_way("alpha", "gamma", Way::Slow);
    told.say("group resync g1 --reader gamma").await;
    let begins = || {
        let now = told.cluster.snapshot(ALPHA).expect("it runs");
        now.pairs.iter().any(|pair| pair.name.ends_with("gamma") && pair.state == "being-copied")
    };
    until(&told.cluster, "no copy begins", begins).await;
    // Records of the copy get their numbers, and come to beta; what they bring is read when gamma asks for them.
    told.cluster.sleep_ms(100).await;
    told.cluster.set_way("alpha", "beta", Way::Cut);
    told.write(20).await;
    told.cluster.sleep_ms(6_000 + 1_500 * seed).await;
    let Told { cluster, mut writer, mut random } = told;
    cluster.die(ALPHA, Death::PowerLoss).await;
    cluster.set_way("alpha", "gamma", Way::Up);
    take_over(&cluster, BETA).await;
    go_on(&cluster, &mut writer, BETA, false).await;
    let judged = || group(&cluster, BETA).judged.into_iter().find(|judged| judged.array == 3);
    let is_ahead = || !group(&cluster, BETA).ahead.is_empty();
    until(&cluster, "gamma says nothing", || judged().is_some() || is_ahead()).await;
    if is_ahead() {
        cluster.command(BETA, "group failback g1 --to gamma --yes").await.expect("it is given up");
    }
    cluster.sleep_ms(random.below(100)).await;
    until(&cluster, "gamma does not go on", || follows(&cluster, BETA, GAMMA)).await;
    assert!(content(&cluster, GAMMA).await == content(&cluster, BETA).await, "gamma differs");
    judged().expect("it was judged").text
}

#[test]
fn data_of_a_copy_that_the_second_never_had_is_not_taken_for_something_else() {
    let told: Vec<String> = (1..=4).map(|seed| in_virtual_time(copied_while_apart(seed))).collect();
    for text in ["given up): all of it is copied", "by its differences"] {
        assert!(told.iter().any(|told| told.contains(text)), "{text}: {told:#?}");
    }
}
