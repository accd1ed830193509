//! Whole arrays in one thread from one seed: three arrays, their disks and links, and a host whose every sector says
//! who wrote it (`docs/architecture.md`, determinism).
//!
//! A seed is a story over eight volumes at queue depth 1, 8 or 32: the host writes, links are cut, silenced in one
//! direction or both, slowed, made to flap and healed, arrays are killed and lose power, also while they start and also
//! two at once. Then faults stop. What is checked on the way: no acknowledged and flushed write is lost by a crash of the
//! primary, a live read is never stale, copies never move backwards, nothing shown is better than the truth, and every
//! image of a copy whose pairs are normal is one moment of the primary over all volumes: the images that hosts read, and
//! those that *takeovers* find. A takeover is tried at random moments and whenever the primary has died: copies of the
//! auxiliary's disks, cut off there, are started alone. At the end everything has become equal, byte for byte, without an
//! operator and in bounded time.
//!
//! `planted` is the test of this test.
//!
//! `HOLDFAST_SIM_SEEDS` is the number of seeds of a run, `HOLDFAST_SIM_FIRST_SEED` the first of them, `HOLDFAST_SEED` runs
//! one, `HOLDFAST_TRACE` shows what happens.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::too_many_lines,
    clippy::indexing_slicing,
    reason = "a test"
)]

/// As the program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[path = "../support/mod.rs"]
mod support;

mod any_role;
mod behind;
mod branch;
mod by_load;
mod centres_troubles;
mod clones;
mod cluster;
mod compare;
mod compare_copies;
mod copying;
mod day;
mod delay;
mod designations;
mod drain;
mod drill_pace;
mod drills;
mod far_behind;
mod figures;
mod growth;
mod identity;
mod journal_gone;
mod journal_lost;
mod lies;
mod middle;
mod mutual;
mod narrow;
mod onward;
mod onward_lost;
mod overflow;
mod planted;
mod port;
mod positions;
mod readers;
mod rejoin;
mod relay;
mod relay_alive;
mod relay_changes;
mod relay_control;
mod relay_drain;
mod relay_hosts;
mod relay_parts;
mod relay_troubles;
mod resync;
mod reversal;
mod reversal_failures;
mod rewind;
mod sequences;
mod sequences_three;
mod snapshots;
mod stopped_third;
mod stops;
mod story;
mod svol_write;
mod synchronous;
mod synchronous_failures;
mod takeover;
mod takeover_failures;
mod three;
mod three_centres;
mod tree;
mod turned;
mod upstream;
mod whole;

use cluster::{EIGHT, Shape};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use story::{Result, Story};
use support::random::number_from_environment;
use support::wof::{Action, Durability, DurableRule, Observed, check_crash, check_prefix};

fn run(seed: u64, shape: Shape) -> Result {
    tell(&mut None, seed, shape)
}

fn tell(story: &mut Option<Story>, seed: u64, shape: Shape) -> Result {
    in_virtual_time(async { story.insert(Story::new(seed, shape)).tell().await })
}

/// Runs on this thread alone, with a clock that jumps to the next thing that happens.
fn in_virtual_time<T>(run: impl Future<Output = T>) -> T {
    if std::env::var_os("HOLDFAST_TRACE").is_some() {
        let log = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).without_time();
        let _ = log.with_writer(std::io::stderr).try_init();
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(run)
}

/// Runs a seed and says which one failed.
fn run_named(seed: u64, shape: Shape) -> Result {
    let outcome = std::panic::catch_unwind(|| run(seed, shape));
    outcome.unwrap_or_else(|cause| {
        eprintln!("seed {seed} failed with {shape:?} (repeat with HOLDFAST_SEED={seed} HOLDFAST_TRACE=1)");
        std::panic::resume_unwind(cause)
    })
}

/// Every seed is one thread's work; as many at a time as there are processors.
#[test]
fn arrays_survive_what_the_seeds_do_to_them() {
    if std::env::var_os("HOLDFAST_SEED").is_some() {
        return; // `the_seed_that_was_asked_for` runs it.
    }
    let seeds = number_from_environment("HOLDFAST_SIM_SEEDS", 500);
    let first = number_from_environment("HOLDFAST_SIM_FIRST_SEED", 1);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (next, sums) = (AtomicU64::new(first), Mutex::new(([0; 8], Vec::new())));
    let begun = std::time::Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds {
                        return;
                    }
                    let outcome = std::panic::catch_unwind(|| run_named(seed, EIGHT));
                    let mut sums = sums.lock().unwrap();
                    match outcome {
                        Ok(Result {
                            acknowledged,
                            captures,
                            takeovers,
                            deaths,
                            most_lost,
                            gone_back,
                            clones,
                            equal_numbers,
                            ..
                        }) => {
                            let [commands, images, points, ends, lost, kept, cloned, equal] = &mut sums.0;
                            *kept += gone_back;
                            *cloned += clones;
                            *equal += equal_numbers;
                            *commands += acknowledged;
                            *images += captures;
                            *points += takeovers;
                            *ends += deaths;
                            *lost = most_lost.max(*lost);
                        }
                        Err(_) => sums.1.push(seed),
                    }
                }
            });
        }
    });
    let seconds = begun.elapsed().as_secs_f64();
    let ([commands, images, points, deaths, lost, kept, cloned, equal], failed) = sums.into_inner().unwrap();
    println!(
        "{seeds} seeds from {first} in {seconds:.1} s on {threads} threads, {:.1} seeds/s: {commands} commands, {points} takeovers \
         (at most {lost} acknowledged writes behind; {kept} in the middle of a resync), {images} images read by hosts, {cloned} clones, \
         {equal} times the same again as of a number, {deaths} deaths of the primary, {} failed",
        f64::from(u32::try_from(seeds).unwrap_or(u32::MAX)) / seconds,
        failed.len()
    );
    assert!(kept > 0 || seeds < 20, "no takeover met a resync");
    assert!(cloned > seeds && equal > seeds, "hardly anything was cloned, or found twice");
    assert!(failed.is_empty(), "seeds that failed: {failed:?}");
}

#[test]
fn the_seed_that_was_asked_for() {
    if std::env::var_os("HOLDFAST_SEED").is_some() {
        let seed = number_from_environment("HOLDFAST_SEED", 1);
        run_named(seed, EIGHT);
    }
}

/// Seeds of long runs, each with what it found once.
#[test]
fn seeds_that_once_found_a_defect() {
    let run_named = |seed, shape| {
        in_virtual_time(async { Story::new(seed, shape).without_clones().tell().await });
    };
    run_named(1195, EIGHT); // A copy was handed half of what came behind an overflow.
    run_named(2971, EIGHT); // A link was cut while a journal began anew, which then never ended.
    run_named(8598, EIGHT); // A copy noted as of which number it stays while more was on its way to its journal.
    run_named(5289, EIGHT); // A journal began anew while its link was cut.
    run_named(9096, EIGHT); // A read met the moment in which the journal goes on in another volume: "no longer held".
    // The host was sent again what a crash had lost, beneath what it had sent behind that.
    in_virtual_time(async { Story::new(22_068, EIGHT).tell().await });
}

#[test]
fn a_seed_is_always_the_same_story() {
    let (first, again) = (run_named(4, EIGHT), run_named(4, EIGHT));
    assert_eq!(first, again);
}

/// The simulation is worth what its checks find: each image that lacks or swaps one command is refused.
#[test]
fn an_image_without_one_of_its_updates_is_refused() {
    let mut story = None;
    tell(&mut story, 5, EIGHT);
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
