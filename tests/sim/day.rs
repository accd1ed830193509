//! A day of an installation in virtual time: bursts and quiet, restarts of every array, and journals so small that
//! their rings go round a thousand times. At the end everything is equal.
//!
//! `tests/run` runs an hour of it with a thousand rounds, `tests/run --long` (`HOLDFAST_SIM_HOURS=24`) the whole day.

use crate::cluster::{ALPHA, ARRAYS, Cluster, Death, EIGHT, Second, Shape};
use crate::in_virtual_time;
use crate::port::SimPort;
use crate::story::{Known, geometry_of};
use crate::support::random::{Random, number_from_environment};
use crate::support::wof::{
    Action, DurableRule, Entry, Observed, Plan, SECTOR_BYTES, Summary, Tick, Until, Writer, check_crash,
    check_prefix, read_image,
};
use holdfast::copy::change::pages_touched;
use std::sync::atomic::{AtomicBool, Ordering};

/// The smallest journals there are. They are full all the time, and hosts wait for the copies: nothing is ever suspended.
const TINY: Shape = Shape { journal_kib: 1024, throttle_s: 100, second: Second::None, ..EIGHT };
/// The rings have to go round this often.
const ROUNDS: u64 = 1_000;
/// Commands of an hour, if an hour is all there is; a day has as many rounds to spare.
const COMMANDS: u64 = 84_000;
const QUEUE_DEPTH: usize = 8;
const PATIENCE_MS: u64 = 120_000;

struct Day {
    cluster: Cluster,
    writer: Writer,
    ports: Vec<SimPort>,
    random: Random,
    known: Option<Known>,
    restarts: u64,
    takeovers: u64,
}

#[test]
fn after_a_day_with_restarts_and_a_thousand_rounds_of_the_journal_everything_is_equal() {
    if std::env::var_os("HOLDFAST_SEED").is_some() {
        return;
    }
    let hours = number_from_environment("HOLDFAST_SIM_HOURS", 1);
    let begun = std::time::Instant::now();
    in_virtual_time(async {
        let cluster = Cluster::new(24, TINY);
        for array in 0..ARRAYS.len() {
            cluster.start(array).await;
        }
        let ports =
            (1..=4).map(|number| SimPort::new(&cluster, "host", number, ALPHA).thinking_ms(10)).collect();
        let writer = Writer::new(24, Plan::mixed(24, geometry_of(TINY)));
        let mut day =
            Day { cluster, writer, ports, random: Random::new(24), known: None, restarts: 0, takeovers: 0 };
        day.live(hours).await;
        let rounds = day.rounds_of_the_ring();
        println!(
            "{hours} h of virtual time in {:.1} s: {} commands, the ring of write data went round {rounds} times, \
             {} restarts, {} takeovers judged, equal at the end",
            begun.elapsed().as_secs_f64(),
            day.writer.log().acked_count(),
            day.restarts,
            day.takeovers,
        );
        assert!(rounds >= ROUNDS, "the ring went round only {rounds} times");
    });
}

impl Day {
    async fn live(&mut self, hours: u64) {
        while !self.is_equal() {
            self.cluster.sleep_ms(50).await;
        }
        let minutes = hours * 60;
        // A whole day has three hours' work in it.
        let commands = if hours > 3 { 3 * COMMANDS } else { COMMANDS };
        for minute in 1..=minutes {
            let ends_ms = self.cluster.clock_ms().next_multiple_of(60_000);
            match minute % 7 {
                3 => self.restart_a_copy(commands / minutes).await,
                6 => self.restart_the_primary(commands / minutes).await,
                _ => self.write(commands / minutes).await,
            }
            if minute % minutes.div_ceil(12) == 0 {
                for index in 1..ARRAYS.len() {
                    self.take_over(index).await;
                }
            }
            self.cluster.sleep_ms(ends_ms.saturating_sub(self.cluster.clock_ms())).await;
        }
        self.write(1).await;
        while !(self.writer.is_settled() && self.is_equal()) {
            self.write(1).await;
            self.cluster.sleep_ms(500).await;
            assert!(self.cluster.clock_ms() < (minutes + 30) * 60_000, "{}", self.cluster.state());
        }
        self.compare().await;
    }

    async fn write(&mut self, commands: u64) {
        let never = AtomicBool::new(false);
        let until = Until { commands, stop: &never };
        let running = self.writer.run(&self.ports, &*self.cluster.clock, QUEUE_DEPTH, until);
        let summary = tokio::select! {
            biased;
            summary = running => summary,
            () = self.cluster.sleep_ms(PATIENCE_MS) => panic!("hosts do not go on: {}", self.cluster.state()),
        };
        assert_eq!(summary.violations, []);
    }

    /// An auxiliary ends in the middle of a burst and comes back before it is over.
    async fn restart_a_copy(&mut self, commands: u64) {
        let index = 1 + self.random.index(2);
        let (death, after_ms, away_ms) =
            (any_death(&mut self.random), self.random.below(1_500), self.random.below(2_000));
        let never = AtomicBool::new(false);
        let until = Until { commands, stop: &never };
        let running = self.writer.run(&self.ports, &*self.cluster.clock, QUEUE_DEPTH, until);
        let (summary, ()): (Summary, ()) = tokio::join!(running, async {
            self.cluster.sleep_ms(after_ms).await;
            self.cluster.die(index, death).await;
            self.cluster.sleep_ms(away_ms).await;
            self.cluster.start(index).await;
        });
        assert_eq!(summary.violations, []);
        self.restarts += 1;
    }

    /// The primary ends in the middle of a burst; what was flushed is there when it comes back.
    async fn restart_the_primary(&mut self, commands: u64) {
        let (death, after_ms) = (any_death(&mut self.random), self.random.below(2_000));
        let stop = AtomicBool::new(false);
        let until = Until { commands, stop: &stop };
        let running = self.writer.run(&self.ports, &*self.cluster.clock, QUEUE_DEPTH, until);
        let (summary, ()): (Summary, ()) = tokio::join!(running, async {
            self.cluster.sleep_ms(after_ms).await;
            self.cluster.die(ALPHA, death).await;
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(summary.violations, []);
        self.cluster.start(ALPHA).await;
        let image = self.image_of(ALPHA).await;
        let observed = Observed::from_changed_images(self.writer.log(), &image, self.known.as_ref());
        check_crash(self.writer.log(), &observed, DurableRule::Flushed)
            .expect_clean("after the primary's crash");
        self.writer.resume_after_crash(&observed).unwrap_or_else(|verdict| panic!("{verdict}"));
        self.known = Some((image, observed));
        self.restarts += 1;
    }

    async fn take_over(&mut self, index: usize) {
        let death = any_death(&mut self.random);
        let found = self.cluster.take_over(index, death).await.expect("the pairs are normal all day");
        let log = self.writer.log();
        let observed = Observed::from_changed_images(log, &found.images, self.known.as_ref());
        check_prefix(log, &observed).expect_clean(ARRAYS[index]);
        self.known = Some((found.images, observed));
        self.takeovers += 1;
    }

    fn is_equal(&self) -> bool {
        let newest = self.cluster.newest();
        newest.is_some_and(|newest| {
            (1..ARRAYS.len()).all(|index| self.cluster.position(index) == Some((newest, newest)))
        })
    }

    async fn compare(&self) {
        let primary = self.image_of(ALPHA).await;
        let log = self.writer.log();
        check_crash(log, &Observed::from_images(log, &primary), DurableRule::Acknowledged)
            .expect_clean("the primary at the end");
        for (index, name) in ARRAYS.iter().enumerate().skip(1) {
            assert!(self.image_of(index).await == primary, "{name} differs at the end");
        }
    }

    async fn image_of(&self, index: usize) -> Vec<Vec<u8>> {
        let port = SimPort::new(&self.cluster, "reader", 9, index);
        read_image(&port, self.writer.log().geometry()).await.expect("it can be read")
    }

    /// How often the acknowledged writes fill the ring of write data, each counted once.
    fn rounds_of_the_ring(&self) -> u64 {
        let bytes = |entry: &Entry| {
            let place = entry.command.place;
            let sector = u64::try_from(SECTOR_BYTES).unwrap();
            u64::try_from(pages_touched(place.lba * sector, u64::from(place.sectors) * sector) * 4096)
                .unwrap()
        };
        let entries = self.writer.log().entries();
        let written: u64 = entries
            .filter(|entry| entry.acked != Tick::NEVER && matches!(entry.command.action, Action::Write(_)))
            .map(bytes)
            .sum();
        let snapshot = self.cluster.snapshot(ALPHA).expect("it runs");
        written / snapshot.journals[0].write_data_bytes
    }
}

fn any_death(random: &mut Random) -> Death {
    if random.percent(50) { Death::Kill } else { Death::PowerLoss }
}
