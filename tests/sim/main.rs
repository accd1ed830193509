//! Whole arrays in one thread from one seed: three arrays, their disks and links, and a host whose every sector says
//! who wrote it (`docs/architecture.md`, determinism).
//!
//! A seed is a story: the host writes, links are cut, silenced and healed, arrays are killed and lose power, also while
//! they start and also two at once. Then faults stop. What is checked on the way: no acknowledged and flushed write is
//! lost by a crash of the primary, a live read is never stale, every image of a copy whose pairs are normal is one
//! moment of the primary over all volumes, copies never move backwards. At the end everything has become equal, byte
//! for byte, without an operator and in bounded time.
//!
//! `HOLDFAST_SIM_SEEDS` is the number of seeds of a run, `HOLDFAST_SEED` runs one, `HOLDFAST_TRACE` shows what happens.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::too_many_lines,
    clippy::indexing_slicing,
    reason = "a test"
)]

#[path = "../support/mod.rs"]
mod support;

mod cluster;
mod port;
mod story;

use cluster::Shape;
use story::{Result, Story};
use support::random::number_from_environment;
use support::wof::{Action, Durability, DurableRule, Observed, check_crash, check_prefix};

const THREE: Shape = Shape { volumes: 3, volume_mib: 4, journal_mib: 8 };
const EIGHT: Shape = Shape { volumes: 8, volume_mib: 4, journal_mib: 8 };

fn run(seed: u64, shape: Shape) -> Result {
    tell(&mut None, seed, shape)
}

fn tell(story: &mut Option<Story>, seed: u64, shape: Shape) -> Result {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async { story.insert(Story::new(seed, shape)).tell().await })
}

/// Runs a seed and says which one failed.
fn run_named(seed: u64, shape: Shape) -> Result {
    let outcome = std::panic::catch_unwind(|| run(seed, shape));
    outcome.unwrap_or_else(|cause| {
        eprintln!("seed {seed} failed with {shape:?} (repeat with HOLDFAST_SEED={seed} HOLDFAST_TRACE=1)");
        std::panic::resume_unwind(cause)
    })
}

/// One of the parts that run side by side.
fn part(index: u64) {
    if std::env::var_os("HOLDFAST_SEED").is_some() {
        return; // `the_seed_that_was_asked_for` runs it.
    }
    let seeds = number_from_environment("HOLDFAST_SIM_SEEDS", 400);
    let (mut acknowledged, mut captures, mut deaths) = (0, 0, 0);
    let mut failed = Vec::new();
    let begun = std::time::Instant::now();
    let mine: Vec<u64> = (1..=seeds).filter(|seed| seed % PARTS == index).collect();
    for &seed in &mine {
        match std::panic::catch_unwind(|| run_named(seed, shape_of(seed))) {
            Ok(result) => {
                acknowledged += result.acknowledged;
                captures += result.captures;
                deaths += result.deaths;
            }
            Err(_) => failed.push(seed),
        }
    }
    eprintln!(
        "part {index}: {} seeds in {:.1} s, {acknowledged} commands, {captures} images, {deaths} deaths of the primary",
        mine.len(),
        begun.elapsed().as_secs_f64()
    );
    assert!(failed.is_empty(), "seeds that failed: {failed:?}");
}

fn shape_of(seed: u64) -> Shape {
    if seed % 20 == 13 { EIGHT } else { THREE }
}

const PARTS: u64 = 4;

#[test]
fn arrays_survive_what_the_seeds_do_to_them_part_1() {
    part(1);
}

#[test]
fn arrays_survive_what_the_seeds_do_to_them_part_2() {
    part(2);
}

#[test]
fn arrays_survive_what_the_seeds_do_to_them_part_3() {
    part(3);
}

#[test]
fn arrays_survive_what_the_seeds_do_to_them_part_4() {
    part(0);
}

#[test]
fn the_seed_that_was_asked_for() {
    if std::env::var_os("HOLDFAST_SEED").is_some() {
        let seed = number_from_environment("HOLDFAST_SEED", 1);
        if std::env::var_os("HOLDFAST_TRACE").is_some() {
            let level = tracing::Level::DEBUG;
            tracing_subscriber::fmt()
                .with_max_level(level)
                .without_time()
                .with_writer(std::io::stderr)
                .init();
        }
        run_named(seed, shape_of(seed));
    }
}

#[test]
fn a_seed_is_always_the_same_story() {
    let (first, again) = (run_named(4, THREE), run_named(4, THREE));
    assert_eq!(first, again);
}

/// The simulation is worth what its checks find: each image that lacks or swaps one command is refused.
#[test]
fn an_image_without_one_of_its_updates_is_refused() {
    let mut story = None;
    tell(&mut story, 5, THREE);
    let story = story.unwrap();
    let (log, image) = (story.log(), &story.last_image);
    let whole = Observed::from_images(log, image);
    check_prefix(log, &whole).expect_clean("the image itself");
    let newest = log.entries().map(|entry| entry.issued).max().unwrap();
    let mut planted = 0;
    // What was overwritten since cannot be missed, and what was acknowledged after everything was sent need not be there.
    for entry in log.entries().filter(|entry| entry.acked < newest) {
        let place = entry.command.place.flat(&log.geometry());
        if !whole.found[place.clone()].iter().all(|&found| found == entry.command.id.0) {
            continue;
        }
        let mut lacking = whole.clone();
        lacking.found[place].fill(0);
        assert!(!check_prefix(log, &lacking).violations.is_empty(), "{:?} is not missed", entry.command);
        let fua = entry.command.action == Action::Write(Durability::Fua);
        if fua {
            let verdict = check_crash(log, &lacking, DurableRule::Flushed);
            assert!(!verdict.violations.is_empty(), "{:?} is not missed after a crash", entry.command);
        }
        planted += 1;
    }
    assert!(planted > 50, "only {planted} could be planted");
}
