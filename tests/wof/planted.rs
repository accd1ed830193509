//! The test of the test: six defects are planted in a correct replicator, and the checker finds each of them, while it
//! never accuses the correct one. The histories come from the checked writer itself, over a host port whose commands
//! take effect at random moments of virtual time.

use crate::support::random::{Random, seed_from_environment};
use crate::support::wof::{
    Durability, DurableRule, Geometry, HostError, HostPort, Log, Observed, Place, Plan, SECTOR_BYTES, Until,
    Violation, Writer, check_crash, check_monotone, check_prefix, lost_writes, read_image,
};
use bytes::Bytes;
use holdfast::clock::{Clock, SimClock};
use std::cell::RefCell;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// One write as a replicator sees it: where, and which bytes.
#[derive(Clone)]
struct Record {
    place: Place,
    data: Bytes,
}

/// A primary in memory that keeps a journal of what took effect, in that order.
struct ModelPrimary {
    geometry: Geometry,
    state: RefCell<(Random, Vec<Vec<u8>>, Vec<Record>)>,
    clock: SimClock,
    /// Every so many calls the path breaks, before or after the command took effect; 0: never.
    breaks_every: u64,
}

impl ModelPrimary {
    fn new(seed: u64, geometry: Geometry, breaks_every: u64) -> Self {
        let state = RefCell::new((Random::new(seed), empty_images(geometry), Vec::new()));
        Self { geometry, state, clock: SimClock::new(0), breaks_every }
    }

    async fn wait(&self) -> Result<(), HostError> {
        let (pause, broken) = {
            let random = &mut self.state.borrow_mut().0;
            (random.below(1_000), self.breaks_every != 0 && random.below(self.breaks_every) == 0)
        };
        self.clock.sleep(Duration::from_micros(pause)).await;
        if broken { Err(HostError::Unknown("cut".into())) } else { Ok(()) }
    }

    async fn take_effect(&self, place: Place, data: Bytes) -> Result<(), HostError> {
        self.wait().await?;
        {
            let (_, images, journal) = &mut *self.state.borrow_mut();
            let record = Record { place, data };
            apply(images, &record);
            journal.push(record);
        }
        self.wait().await
    }
}

impl HostPort for ModelPrimary {
    async fn write(&self, place: Place, data: Bytes, _: Durability) -> Result<(), HostError> {
        self.take_effect(place, data).await
    }

    async fn unmap(&self, place: Place) -> Result<(), HostError> {
        self.take_effect(place, vec![0; place.bytes()].into()).await
    }

    async fn sync(&self, _: u32) -> Result<(), HostError> {
        self.wait().await
    }

    async fn read(&self, place: Place) -> Result<Bytes, HostError> {
        self.wait().await?;
        let bytes = {
            let images = &self.state.borrow().1;
            let start = byte_offset(place.lba);
            Bytes::copy_from_slice(&images[index(place.volume)][start..start + place.bytes()])
        };
        self.wait().await?;
        Ok(bytes)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Defect {
    None,
    RecordLost,
    Swapped,
    VolumeBehind(usize),
    TornCommand,
    Stale,
}

#[tokio::test(start_paused = true)]
async fn each_planted_defect_is_found_within_fifty_restore_points_and_a_correct_copy_is_never_accused() {
    let seed = seed_from_environment(3);
    let defects = [
        Defect::None,
        Defect::RecordLost,
        Defect::Swapped,
        Defect::VolumeBehind(1),
        Defect::VolumeBehind(4),
        Defect::VolumeBehind(32),
        Defect::TornCommand,
        Defect::Stale,
    ];
    let histories = [
        history(seed, 1, Plan::hot_only).await,
        history(seed, 8, Plan::mixed).await,
        history(seed, 32, Plan::mixed).await,
    ];
    for defect in defects {
        let found: Vec<usize> = histories
            .iter()
            .map(|(log, journal)| {
                let mut random = Random::new(seed);
                (0..50).filter(|_| is_found(defect, log, journal, &mut random)).count()
            })
            .collect();
        eprintln!("{defect:?}: found at {found:?} of 50 restore points (depth 1 hot, 8 mixed, 32 mixed)");
        assert_eq!(found.iter().any(|&count| count > 0), defect != Defect::None, "{defect:?}: {found:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_writer_over_a_breaking_path_retries_and_nothing_is_accused() {
    let seed = seed_from_environment(11);
    let geometry = Geometry::new(4, 4096);
    let ports = [ModelPrimary::new(seed, geometry, 25)];
    let mut writer = Writer::new(seed, Plan::mixed(seed, geometry));
    let summary = run(&mut writer, &ports, 16, 1_000).await;
    assert!(summary > 20, "the path broke: {summary}");
    let images =
        read_image(&ModelPrimary { breaks_every: 0, ..copy_of(&ports[0]) }, geometry).await.expect("reads");
    let observed = Observed::from_images(writer.log(), &images);
    check_prefix(writer.log(), &observed).expect_clean("as prefix");
    let verdict = check_crash(writer.log(), &observed, DurableRule::Acknowledged);
    verdict.expect_clean("as durable");
    assert!(lost_writes(writer.log(), &verdict).is_empty());
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_the_flushed_must_be_there_and_the_rest_is_sent_again() {
    let seed = seed_from_environment(5);
    let geometry = Geometry::new(4, 4096);
    for round in 0..20 {
        let ports = [ModelPrimary::new(seed + round, geometry, 0)];
        let mut writer = Writer::new(seed, Plan::mixed(seed + round, geometry));
        run(&mut writer, &ports, 8, 400).await;
        let journal = ports[0].state.borrow().2.clone();
        let whole = Observed::from_images(writer.log(), &replay(geometry, &journal));
        let half = Observed::from_images(writer.log(), &replay(geometry, &journal[..journal.len() / 2]));
        let before = check_prefix(writer.log(), &half);
        before.expect_clean("half the journal");
        let after = check_prefix(writer.log(), &whole);
        assert_eq!(check_monotone(geometry, &before, &after), []);
        assert_ne!(check_monotone(geometry, &after, &before), []);
        let verdict = check_crash(writer.log(), &half, DurableRule::Flushed);
        let lost_durable = verdict.violations.iter().any(|one| matches!(one, Violation::Lost { .. }));
        assert!(lost_durable, "half of the history lacks something that was flushed");

        // The crash loses only the tail behind the last flush: accepted, and what is gone is written again.
        let keep = last_durable_record(writer.log(), geometry, &journal);
        ports[0].state.borrow_mut().1 = replay(geometry, &journal[..keep]);
        let survived = Observed::from_images(writer.log(), &ports[0].state.borrow().1);
        check_crash(writer.log(), &survived, DurableRule::Flushed).expect_clean("all that was flushed");
        writer.resume_after_crash(&survived).expect("a prefix");
        run(&mut writer, &ports, 8, 200).await;
        let healed = Observed::from_images(writer.log(), &ports[0].state.borrow().1);
        check_prefix(writer.log(), &healed).expect_clean("after the crash");
        check_crash(writer.log(), &healed, DurableRule::Acknowledged).expect_clean("after the crash");
    }
}

#[tokio::test(start_paused = true)]
async fn a_live_read_of_replaced_data_is_reported() {
    let seed = seed_from_environment(9);
    let geometry = Geometry::new(2, 4096);
    let ports = [ModelPrimary::new(seed, geometry, 0)];
    let mut writer = Writer::new(seed, Plan::mixed(seed, geometry));
    run(&mut writer, &ports, 8, 300).await;
    let old = ports[0].state.borrow().1.clone();
    run(&mut writer, &ports, 8, 300).await;
    // A cache that forgot half of the history: what it returns was right once.
    ports[0].state.borrow_mut().1 = old;
    let stop = AtomicBool::new(false);
    let summary = writer.run(&ports, &SimClock::new(0), 8, Until { commands: 300, stop: &stop }).await;
    let stale = summary.violations.iter().filter(|one| matches!(one, Violation::Stale { .. })).count();
    assert!(stale > 0 && stale == summary.violations.len(), "{:?}", summary.violations);
}

/// The shortest journal that holds everything durable.
fn last_durable_record(log: &Log, geometry: Geometry, journal: &[Record]) -> usize {
    let is_enough = |keep: &usize| {
        let observed = Observed::from_images(log, &replay(geometry, &journal[..*keep]));
        check_crash(log, &observed, DurableRule::Flushed).violations.is_empty()
    };
    let (mut low, mut high) = (0, journal.len());
    while low < high {
        let middle = low.midpoint(high);
        if is_enough(&middle) { high = middle } else { low = middle + 1 }
    }
    low
}

async fn history(seed: u64, depth: usize, plan: fn(u64, Geometry) -> Plan) -> (Log, Vec<Record>) {
    let geometry = Geometry::new(4, 8192);
    let ports = [ModelPrimary::new(seed, geometry, 0)];
    let mut writer = Writer::new(seed, plan(seed, geometry));
    run(&mut writer, &ports, depth, 1_500).await;
    let journal = ports[0].state.borrow().2.clone();
    (writer.log().clone(), journal)
}

async fn run(writer: &mut Writer, ports: &[ModelPrimary], depth: usize, commands: u64) -> u64 {
    let clock: &dyn Clock = &SimClock::new(0);
    let stop = AtomicBool::new(false);
    let summary = writer.run(ports, clock, depth, Until { commands, stop: &stop }).await;
    assert_eq!(summary.violations, [], "reads of a correct primary");
    assert!(writer.is_settled());
    summary.retries
}

/// Replicates up to a random restore point with the defect in it, and asks the checker.
fn is_found(defect: Defect, log: &Log, journal: &[Record], random: &mut Random) -> bool {
    let geometry = log.geometry();
    let point = 100 + random.index(journal.len() - 100);
    let mut records = journal[..point].to_vec();
    let victim = point - 60 + random.index(50);
    match defect {
        Defect::None | Defect::Stale => {}
        Defect::RecordLost => drop(records.remove(victim)),
        Defect::Swapped => {
            records.pop();
            records.extend(journal.get(point).cloned());
        }
        Defect::VolumeBehind(count) => {
            let behind = u32::try_from(random.below(u64::from(geometry.volumes))).expect("small");
            for _ in 0..count {
                if let Some(at) = records.iter().rposition(|record| record.place.volume == behind) {
                    records.remove(at);
                }
            }
        }
        Defect::TornCommand => {
            let Some(at) = records.iter().rposition(|record| record.place.sectors > 8) else { return false };
            let record = &mut records[at];
            record.place.sectors /= 2;
            record.data.truncate(record.place.bytes());
        }
    }
    let mut images = replay(geometry, &records);
    if defect == Defect::Stale {
        let old = records[victim].clone();
        apply(&mut images, &old);
        let was_newest = images == replay(geometry, &records);
        if was_newest {
            return false;
        }
    }
    !check_prefix(log, &Observed::from_images(log, &images)).violations.is_empty()
}

fn replay(geometry: Geometry, journal: &[Record]) -> Vec<Vec<u8>> {
    let mut images = empty_images(geometry);
    for record in journal {
        apply(&mut images, record);
    }
    images
}

fn apply(images: &mut [Vec<u8>], record: &Record) {
    let start = byte_offset(record.place.lba);
    images[index(record.place.volume)][start..start + record.data.len()].copy_from_slice(&record.data);
}

fn copy_of(primary: &ModelPrimary) -> ModelPrimary {
    let state = primary.state.borrow();
    ModelPrimary {
        geometry: primary.geometry,
        state: RefCell::new((state.0.clone(), state.1.clone(), Vec::new())),
        clock: SimClock::new(0),
        breaks_every: 0,
    }
}

fn empty_images(geometry: Geometry) -> Vec<Vec<u8>> {
    vec![vec![0; byte_offset(geometry.sectors_per_volume)]; index(geometry.volumes)]
}

fn byte_offset(lba: u64) -> usize {
    usize::try_from(lba).expect("small") * SECTOR_BYTES
}

fn index(volume: u32) -> usize {
    usize::try_from(volume).expect("small")
}
