//! The test of the test: defects are planted in the restore of an auxiliary, and the checks that pass every seed find
//! each of them within fifty restore points at one of the queue depths.

use crate::cluster::{Cluster, EIGHT};
use crate::in_virtual_time;
use crate::port::SimPort;
use crate::story::{Known, geometry_of};
use crate::support::random::Random;
use crate::support::wof::{Observed, Plan, Until, Verdict, Writer, check_monotone, check_prefix};
use holdfast::copy::change::{Payload, pages_touched};
use holdfast::copy::tamper::Tamper;
use holdfast_journal::{Content, Kind, Update};
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Restore points within which a defect has to be found.
const POINTS: usize = 50;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Defect {
    None,
    RecordLost,
    Swapped,
    VolumeBehind(usize),
    TornCommand,
    StaleReader,
}

/// Does to host writes at the auxiliary what the defect says; the initial copy is left alone.
#[derive(Debug)]
struct Planted {
    defect: Defect,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    random: Random,
    held: VecDeque<(Update, Payload)>,
    recent: VecDeque<(Update, Payload)>,
}

impl Tamper for Planted {
    fn restore(&self, update: &Update, payload: &Payload) -> Vec<(Update, Payload)> {
        let right = (update.clone(), payload.clone());
        if update.kind != Kind::HostWrite {
            return vec![right];
        }
        let mut state = self.state.lock().unwrap();
        let State { random, held, recent } = &mut *state;
        match self.defect {
            Defect::None => vec![right],
            // One in twenty is never applied.
            Defect::RecordLost if random.percent(5) => Vec::new(),
            Defect::RecordLost => vec![right],
            // Neighbours in the other order: the number says that the first is restored, and the second is.
            Defect::Swapped => {
                let first = held.pop_front();
                match first {
                    Some(first) => vec![right, first],
                    None => {
                        held.push_back(right);
                        Vec::new()
                    }
                }
            }
            Defect::VolumeBehind(writes) => {
                if update.extents.first().is_none_or(|extent| extent.volume.0 != VOLUME_BEHIND) {
                    return vec![right];
                }
                held.push_back(right);
                let due = held.len().saturating_sub(writes);
                held.drain(..due).collect()
            }
            // Only the first half of one command in ten that has more than one block.
            Defect::TornCommand => vec![if random.percent(10) { first_half(right) } else { right }],
            // Now and then an answer of before comes once more, behind the newer ones.
            Defect::StaleReader => {
                recent.push_back(right.clone());
                if recent.len() > 24 {
                    recent.pop_front();
                }
                if !random.percent(5) {
                    return vec![right];
                }
                std::iter::once(right).chain(recent.iter().take(8).cloned()).collect()
            }
        }
    }
}

fn first_half((mut update, mut payload): (Update, Payload)) -> (Update, Payload) {
    let [extent] = update.extents.as_mut_slice() else { return (update, payload) };
    let half = extent.length_bytes / 2 / 512 * 512;
    if extent.content == Content::Data && half > 0 {
        extent.length_bytes = half;
        update.data_bytes = u32::try_from(half).unwrap();
        payload.bytes = update.data_bytes;
        payload.slots = payload.slots[..pages_touched(extent.start_bytes, half)].into();
    }
    (update, payload)
}

/// After how many restore points the defect was seen, if it was; and how many writes that took.
fn look_for(defect: Defect, seed: u64, queue_depth: usize) -> (Option<usize>, u64) {
    in_virtual_time(async {
        let cluster = Cluster::new(seed, EIGHT);
        let state = State { random: Random::new(seed), held: VecDeque::new(), recent: VecDeque::new() };
        cluster.plant(BETA, std::sync::Arc::new(Planted { defect, state: Mutex::new(state) }));
        for array in 0..3 {
            cluster.start(array).await;
        }
        while !cluster.is_normal(BETA) {
            cluster.sleep_ms(20).await;
        }
        let geometry = geometry_of(EIGHT);
        let plan =
            if queue_depth == 1 { Plan::hot_only(seed, geometry) } else { Plan::mixed(seed, geometry) };
        let mut writer = Writer::new(seed, plan);
        let ports: Vec<SimPort> =
            (1..=4).map(|number| SimPort::new(&cluster, "host", number, 0).thinking_ms(4)).collect();
        let (mut known, mut before): (Option<Known>, Option<Verdict>) = (None, None);
        for point in 1..=POINTS {
            // What is in flight when the picture is taken is what makes it hard.
            let stop = AtomicBool::new(false);
            let commands = 20 + u64::try_from(point % 7).unwrap() * 5;
            let until = Until { commands: u64::MAX, stop: &stop };
            let running = writer.run(&ports, &*cluster.clock, queue_depth, until);
            let looking = async {
                let from = cluster.newest().unwrap();
                while cluster.newest().unwrap() < from + commands {
                    cluster.sleep_ms(1).await;
                }
                let images = cluster.visible_copies(BETA).await;
                stop.store(true, Ordering::Relaxed);
                images
            };
            let (summary, images) = tokio::join!(running, looking);
            assert_eq!(summary.violations, [], "the primary itself is sound");
            let log = writer.log();
            let observed = Observed::from_changed_images(log, &images, known.as_ref());
            let verdict = check_prefix(log, &observed);
            let backwards =
                before.iter().any(|before| !check_monotone(geometry, before, &verdict).is_empty());
            if !verdict.violations.is_empty() || backwards {
                return (Some(point), writer.log().acked_count());
            }
            (known, before) = (Some((images, observed)), Some(verdict));
        }
        (None, writer.log().acked_count())
    })
}

#[test]
fn each_defect_planted_in_an_auxiliary_is_found_within_fifty_restore_points() {
    let defects = [
        Defect::None,
        Defect::RecordLost,
        Defect::Swapped,
        Defect::VolumeBehind(1),
        Defect::VolumeBehind(4),
        Defect::VolumeBehind(32),
        Defect::TornCommand,
        Defect::StaleReader,
    ];
    for defect in defects {
        let mut found = Vec::new();
        let mut writes = 0;
        for (seed, queue_depth) in [(101, 1), (102, 8), (103, 32)] {
            let (point, acknowledged) = look_for(defect, seed, queue_depth);
            found.push(point);
            writes += acknowledged;
        }
        println!(
            "{defect:?}: found at restore point {found:?} of {POINTS} (depths 1, 8, 32), {writes} writes"
        );
        let is_found = found.iter().any(Option::is_some);
        assert_eq!(is_found, defect != Defect::None, "{defect:?}");
    }
}

const BETA: usize = 1;
/// Number of the P-VOL whose copy stays behind.
const VOLUME_BEHIND: u32 = 3;
