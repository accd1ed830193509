//! Any array is killed with SIGKILL or stands still for a while, and any link is broken in any way, at random, under the checked writer: for two
//! minutes, or for as many seconds as `HOLDFAST_CHAOS_SECONDS` says. Every array serves again in time, nothing durable is
//! lost, each image of a copy is a prefix of the history and none is older than one before, and at the end everything is
//! equal without a full copy.

use crate::rounds::{
    CATCH_UP, SESSIONS, copied_so_far, expect_equal_copies, roomy, start_in_time, wait_a_random_time,
    write_some, writer_for,
};
use crate::support::process::{Cluster, Layout};
use crate::support::proxy::LinkState;
use crate::support::random::{Random, number_from_environment, seed_from_environment};
use crate::support::wof::{
    DurableRule, Observed, Until, Verdict, Writer, check_crash, check_monotone, check_prefix, read_image,
};
use holdfast::clock::{Clock, SystemClock};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Commands of one round: enough for its faults to hit, few enough that half an hour of rounds fits memory.
const ROUND_COMMANDS: u64 = 1_000;
/// Rounds after which both copies have to catch up; a journal full of what one lacks holds the hosts back.
const CATCH_UP_EVERY: u64 = 4;

struct Chaos {
    cluster: Cluster,
    writer: Writer,
    random: Random,
    before: [Option<Verdict>; 3],
    done: BTreeMap<&'static str, u64>,
}

#[tokio::test(flavor = "multi_thread")]
async fn any_array_killed_and_any_link_broken_at_random_leaves_prefixes_and_ends_equal() {
    let seed = seed_from_environment(23);
    let limit = Duration::from_secs(number_from_environment("HOLDFAST_CHAOS_SECONDS", 120));
    let layout = Layout { volumes: 8, volume_bytes: 4 << 20, ..roomy() };
    let cluster = Cluster::running(layout).await;
    let copied = copied_so_far(&cluster);
    let writer = writer_for(&cluster, seed);
    let mut chaos = Chaos {
        cluster,
        writer,
        random: Random::new(seed),
        before: Default::default(),
        done: BTreeMap::new(),
    };
    let clock = SystemClock::new();
    let began = clock.now();
    let mut rounds = 0;
    while clock.now().since(began) < limit {
        rounds += 1;
        chaos.round().await;
        if rounds % CATCH_UP_EVERY == 0 {
            chaos.cluster.wait_for_readers(&[2, 3], CATCH_UP).await;
        }
    }
    let ports = chaos.cluster.arrays[0].ports(SESSIONS, chaos.cluster.layout.volumes);
    write_some(&mut chaos.writer, &ports, 500).await;
    expect_equal_copies(&chaos.cluster, &chaos.writer, &copied).await;
    println!(
        "{rounds} rounds in {:.0} s, {} commands: {:?}; equal at the end without a full copy",
        clock.now().since(began).as_secs_f64(),
        chaos.writer.log().acked_count(),
        chaos.done
    );
    for what in ["kill of the primary", "kill of a copy", "link broken"] {
        assert!(chaos.done.contains_key(what), "nothing of it happened: {what}");
    }
}

impl Chaos {
    /// The hosts write, things go wrong, and then one array is looked at closely.
    async fn round(&mut self) {
        let clock = SystemClock::new();
        let stop = AtomicBool::new(false);
        let queue_depth = [1, 8, 32][self.random.index(3)];
        let ports = self.cluster.arrays[0].ports(SESSIONS, self.cluster.layout.volumes);
        let until = Until { commands: ROUND_COMMANDS, stop: &stop };
        let primary_dies = self.random.percent(40);
        let running = self.writer.run(&ports, &clock, queue_depth, until);
        let (cluster, random, done) = (&mut self.cluster, &mut self.random, &mut self.done);
        let (summary, ()) = tokio::join!(running, async {
            for _ in 0..1 + random.below(4) {
                wait_a_random_time(random, 500).await;
                go_wrong(cluster, random, done).await;
            }
            if primary_dies {
                cluster.primary().kill();
                count(done, "kill of the primary");
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(summary.violations, [], "reads while writing");
        drop(ports);
        if primary_dies {
            self.recover_the_primary().await;
        } else if self.random.percent(50) {
            self.take_over().await;
        }
        for auxiliary in 1..=2 {
            self.cluster.set_link(auxiliary, LinkState::Up);
        }
    }

    async fn recover_the_primary(&mut self) {
        if self.random.percent(30) {
            // It dies again while it starts.
            self.cluster.primary().spawn();
            wait_a_random_time(&mut self.random, 150).await;
            self.cluster.primary().end_anyhow();
            count(&mut self.done, "kill of the primary");
        }
        start_in_time(&mut self.cluster, 0).await;
        let images = self.images_of(0).await;
        let observed = Observed::from_images(self.writer.log(), &images);
        check_crash(self.writer.log(), &observed, DurableRule::Flushed).expect_clean("durable writes");
        if let Err(verdict) = self.writer.resume_after_crash(&observed) {
            verdict.expect_clean("the journal of the primary is a prefix");
        }
    }

    /// An auxiliary is killed and starts cut off from its primary, as if that were gone for ever.
    async fn take_over(&mut self) {
        let auxiliary = 1 + self.random.index(2);
        self.cluster.arrays[auxiliary].kill();
        self.cluster.set_link(auxiliary, LinkState::Cut);
        start_in_time(&mut self.cluster, auxiliary).await;
        self.cluster.wait_until_drained(auxiliary, CATCH_UP).await;
        let images = self.images_of(auxiliary).await;
        let log = self.writer.log();
        let verdict = check_prefix(log, &Observed::from_images(log, &images));
        verdict.expect_clean("a copy that is alone is a prefix");
        if let Some(before) = &self.before[auxiliary] {
            assert_eq!(check_monotone(log.geometry(), before, &verdict), [], "never backwards");
        }
        self.before[auxiliary] = Some(verdict);
        count(&mut self.done, "kill of a copy");
        count(&mut self.done, "image of a copy");
    }

    async fn images_of(&self, array: usize) -> Vec<Vec<u8>> {
        let port = self.cluster.arrays[array].ports(1, self.cluster.layout.volumes).remove(0);
        read_image(&port, self.writer.log().geometry()).await.expect("the volumes can be read")
    }
}

/// One thing that may happen to a copy or to the link to it.
async fn go_wrong(cluster: &mut Cluster, random: &mut Random, done: &mut BTreeMap<&'static str, u64>) {
    let auxiliary = 1 + random.index(2);
    match random.below(11) {
        10 => {
            let any = random.index(3);
            cluster.arrays[any].pause();
            wait_a_random_time(random, 700).await;
            cluster.arrays[any].resume();
            count(done, "array stopped");
        }
        0..3 => {
            cluster.arrays[auxiliary].kill();
            count(done, "kill of a copy");
            wait_a_random_time(random, 400).await;
            start_in_time(cluster, auxiliary).await;
        }
        3 => cluster.set_link(auxiliary, LinkState::Up),
        4 => {
            for _ in 0..2 + random.below(6) {
                cluster.set_link(auxiliary, LinkState::Cut);
                wait_a_random_time(random, 50).await;
                cluster.set_link(auxiliary, LinkState::Up);
                wait_a_random_time(random, 200).await;
            }
            count(done, "link flapping");
        }
        _ => {
            let bad = [
                LinkState::Cut,
                LinkState::HalfOpen,
                LinkState::DeafThere,
                LinkState::DeafBack,
                LinkState::Damaged { every_bytes: 100_000 },
                LinkState::Slow { delay: Duration::from_millis(100), bytes_per_s: 1 << 20 },
            ];
            cluster.set_link(auxiliary, bad[random.index(bad.len())]);
            count(done, "link broken");
        }
    }
}

fn count(done: &mut BTreeMap<&'static str, u64>, what: &'static str) {
    *done.entry(what).or_default() += 1;
}
