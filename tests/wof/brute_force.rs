//! The checker's verdict equals that of trying every closed set of writes, on thousands of small histories.

use crate::support::random::{Random, seed_from_environment};
use crate::support::wof::{
    Action, Class, Command, Durability, Geometry, Log, Observed, Place, Violation, WriteId, check_prefix,
};

const GEOMETRY: Geometry =
    Geometry { volumes: 2, sectors_per_volume: 4, sectors_per_block: 1, hot_sectors: 2 };

#[test]
fn the_rule_agrees_with_every_closed_set_on_small_histories() {
    let seed = seed_from_environment(1);
    let (mut consistent, mut inconsistent) = (0, 0);
    for history in 0..1_500 {
        let mut random = Random::new(seed.wrapping_mul(1_000_003) + history);
        let log = random_history(&mut random);
        let possible = images_of_closed_sets(&log);
        for _ in 0..40 {
            let image = random_image(&mut random, &log, &possible);
            let truth = possible.contains(&image);
            let verdict = check_prefix(&log, &Observed { found: image.clone(), damage: Vec::new() });
            assert_eq!(
                verdict.violations.is_empty(),
                truth,
                "history {history}, image {image:?}: {verdict}\n{:#?}",
                log.entries().collect::<Vec<_>>()
            );
            if truth { consistent += 1 } else { inconsistent += 1 }
        }
    }
    assert!(
        consistent > 5_000 && inconsistent > 5_000,
        "both verdicts are tried: {consistent}, {inconsistent}"
    );
}

#[test]
fn a_missing_write_is_named_together_with_the_one_that_needed_it() {
    let mut log = Log::new(1, GEOMETRY);
    let first = Command {
        id: WriteId(1),
        class: Class::Hot,
        place: Place { volume: 0, lba: 0, sectors: 1 },
        action: Action::Write(Durability::Plain),
    };
    let second = Command { id: WriteId(2), place: Place { volume: 1, lba: 1, sectors: 1 }, ..first };
    log.issue(first);
    log.acknowledge(first.id);
    log.issue(second);
    let mut found = vec![0; GEOMETRY.total_sectors()];
    found[GEOMETRY.flat(1, 1)] = 2;
    let verdict = check_prefix(&log, &Observed { found, damage: Vec::new() });
    let [Violation::Order { missing, present }] = verdict.violations.as_slice() else { panic!("{verdict}") };
    assert_eq!((missing.0, present.0), (WriteId(1), WriteId(2)));
}

/// Up to eight commands, hot overwrites, zeroings and rewrites of zeroed places, some concurrent, some never answered.
fn random_history(random: &mut Random) -> Log {
    let mut log = Log::new(1, GEOMETRY);
    let mut flying: Vec<Command> = Vec::new();
    let mut fresh = vec![Place { volume: 0, lba: 2, sectors: 2 }, Place { volume: 1, lba: 2, sectors: 2 }];
    let mut zeroable: Vec<Command> = Vec::new();
    let mut zeroed: Vec<Place> = Vec::new();
    let commands = 3 + random.below(6);
    let mut next_id = 1;
    while next_id <= commands {
        if !flying.is_empty() && random.percent(55) {
            let command = flying.swap_remove(random.index(flying.len()));
            log.acknowledge(command.id);
            match command.class {
                Class::Append => zeroable.push(command),
                Class::Zero => zeroed.push(command.place),
                Class::Chain | Class::Hot | Class::Revive => {}
            }
            continue;
        }
        let id = WriteId(next_id);
        let write = Action::Write(Durability::Plain);
        let command = match random.below(4) {
            0 if !fresh.is_empty() => {
                Command { id, class: Class::Append, place: fresh.remove(0), action: write }
            }
            1 if !zeroable.is_empty() => {
                let victim = zeroable.remove(0);
                let action = Action::Zero { victim: victim.id };
                Command { id, class: Class::Zero, place: victim.place, action }
            }
            2 if !zeroed.is_empty() => {
                Command { id, class: Class::Revive, place: zeroed.remove(0), action: write }
            }
            _ => {
                let volume = u32::try_from(random.below(2)).expect("small");
                let lba = random.below(2);
                let sectors = if lba == 0 { 1 + u32::try_from(random.below(2)).expect("small") } else { 1 };
                Command { id, class: Class::Hot, place: Place { volume, lba, sectors }, action: write }
            }
        };
        if flying.iter().any(|other| other.place.overlaps(&command.place)) {
            if flying.len() > 3 {
                let command = flying.remove(0);
                log.acknowledge(command.id);
            }
            continue;
        }
        log.issue(command);
        flying.push(command);
        next_id += 1;
    }
    log
}

/// The slow twin: every subset of the writes that is closed, applied in order.
fn images_of_closed_sets(log: &Log) -> Vec<Vec<u64>> {
    let entries: Vec<_> = log.entries().copied().collect();
    let mut images = Vec::new();
    for set in 0_u32..1 << entries.len() {
        let has = |index: usize| set >> index & 1 == 1;
        let closed = (0..entries.len())
            .filter(|&w| has(w))
            .all(|w| (0..entries.len()).filter(|&u| entries[u].acked < entries[w].issued).all(has));
        if !closed {
            continue;
        }
        let mut image = vec![0; GEOMETRY.total_sectors()];
        for entry in (0..entries.len()).filter(|&w| has(w)).map(|w| entries[w]) {
            let version =
                if matches!(entry.command.action, Action::Zero { .. }) { 0 } else { entry.command.id.0 };
            image[entry.command.place.flat(&GEOMETRY)].fill(version);
        }
        if !images.contains(&image) {
            images.push(image);
        }
    }
    images
}

/// A legal image, or one with a sector or two changed to another version of that sector.
fn random_image(random: &mut Random, log: &Log, possible: &[Vec<u64>]) -> Vec<u64> {
    let mut image = possible[random.index(possible.len())].clone();
    for _ in 0..random.below(4) {
        let flat = random.index(image.len());
        let mut versions = vec![0];
        for entry in log.entries().filter(|entry| entry.command.place.flat(&GEOMETRY).contains(&flat)) {
            if !matches!(entry.command.action, Action::Zero { .. }) {
                versions.push(entry.command.id.0);
            }
        }
        image[flat] = versions[random.index(versions.len())];
    }
    image
}
