//! Hosts at once on volumes and their snapshots, while snapshots of all volumes are made at one moment, deleted, and
//! gone back to; and power loss at a random moment, some lives in a row.

use super::rig::*;
use crate::clock::{Clock, SeededEntropy};
use crate::disk::VolumeError;
use crate::disk::cache::{CacheSettings, Snapshot, VolumeId};
use crate::disk::raid::Level;
use crate::disk::slot::Class;
use crate::disk::space::map::VolumeKind;
use futures_util::future::join_all;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

const VOLUME_BYTES: u64 = 2 * MIB;
const SECTORS: u64 = VOLUME_BYTES / 512;
/// The volumes; their snapshots of one cut are 100 n + volume.
const SOURCES: [u32; 3] = [1, 2, 3];

type Oracles = BTreeMap<VolumeId, Oracle>;

/// What survives a life.
struct World {
    bed: Bed,
    random: SeededEntropy,
    oracles: RefCell<Oracles>,
    /// What may have become of the volumes by the operation that a crash cut off: a whole set, each all or nothing.
    instead: RefCell<Option<Oracles>>,
    /// The set that the operation under way makes or deletes.
    in_doubt: Cell<Option<u32>>,
    sets: RefCell<BTreeMap<u32, u64>>,
    next_set: Cell<u32>,
    next_version: Cell<u64>,
    next_number: Cell<u64>,
    /// Held alone by who goes back to a snapshot, shared by hosts.
    quiet: tokio::sync::RwLock<()>,
    done: RefCell<BTreeMap<&'static str, u32>>,
}

fn set_of(set: u32) -> Vec<Snapshot> {
    let pair = |volume: u32| Snapshot { volume: VolumeId(volume), snapshot: VolumeId(100 * set + volume) };
    SOURCES.into_iter().map(pair).collect()
}

impl World {
    fn count(&self, what: &'static str) {
        *self.done.borrow_mut().entry(what).or_default() += 1;
    }

    fn range(&self) -> Option<(VolumeId, u64, u64)> {
        let volumes: Vec<_> = self.oracles.borrow().keys().copied().collect();
        let at = usize::try_from(self.random.below(volumes.len() as u64)).unwrap();
        let sector = self.random.below(4) * 1024 + self.random.below(40);
        let count =
            if self.random.below(3) == 0 { 1 + self.random.below(60) } else { 1 + self.random.below(12) };
        Some((*volumes.get(at)?, sector, count.min(SECTORS - sector)))
    }

    fn number(&self, volume: VolumeId) -> u64 {
        if volume != VolumeId(1) || self.random.below(5) == 0 {
            return 0;
        }
        self.next_number.set(self.next_number.get() + 1);
        self.next_number.get()
    }

    async fn host(&self, array: &Array) {
        loop {
            let quiet = self.quiet.read().await;
            let Some((volume, sector, count)) = self.range() else { return };
            match self.random.below(16) {
                0..7 => {
                    if let Ok((prepared, slots)) = array.ready(volume, sector, count).await
                        && self.oracles.borrow().contains_key(&volume)
                    {
                        self.next_version.set(self.next_version.get() + 1);
                        let (version, gate) = (self.next_version.get(), self.number(volume));
                        let slots = fill(slots, volume, sector, count, version, gate);
                        array.adapter.apply(prepared, &slots, gate);
                        self.oracles.borrow_mut().get_mut(&volume).unwrap().apply(sector, count, version);
                    }
                }
                7 => self.zero(array, volume, sector, count).await,
                8..14 => {
                    let marks = self.oracles.borrow()[&volume].marks(sector, count);
                    let Ok(stamps) = array.stamps(volume, sector, count).await else { continue };
                    if let Some(oracle) = self.oracles.borrow().get(&volume) {
                        for ((sector, mark), stamp) in (sector..).zip(marks).zip(stamps) {
                            oracle.check(sector, mark, stamp);
                        }
                    }
                }
                _ => {
                    let marks = self.oracles.borrow()[&volume].marks(sector, count);
                    let destaged = array.adapter.destage_range(volume, sector * 512, count * 512).await;
                    if let Some(oracle) = self.oracles.borrow_mut().get_mut(&volume)
                        && destaged.is_ok()
                    {
                        oracle.made_durable(sector, &marks);
                    }
                }
            }
            drop(quiet);
            array.clock.sleep(Duration::from_millis(self.random.below(3))).await;
        }
    }

    async fn zero(&self, array: &Array, volume: VolumeId, sector: u64, count: u64) {
        let (sector, count) = match self.random.below(3) {
            0 => (sector / 2048 * 2048, 2048),
            _ => (sector, count),
        };
        let prepared = array.adapter.prepare_zero(volume, sector * 512, count * 512, Class::Restore).await;
        if let Ok(prepared) = prepared
            && self.oracles.borrow().contains_key(&volume)
        {
            array.adapter.apply_zero(prepared, self.number(volume));
            self.oracles.borrow_mut().get_mut(&volume).unwrap().apply(sector, count, 0);
        }
    }

    async fn manager(&self, array: &Array) {
        loop {
            array.clock.sleep(Duration::from_millis(self.random.below(12))).await;
            let sets: Vec<u32> = self.sets.borrow().keys().copied().collect();
            let chosen = sets.get(usize::try_from(self.random.below(4)).unwrap()).copied();
            match (chosen, self.random.below(3)) {
                (Some(set), 0) => self.delete(array, set).await,
                (Some(set), 1) => self.go_back(array, set).await,
                _ if sets.len() < 4 => self.snapshot(array).await,
                _ => {}
            }
        }
    }

    async fn snapshot(&self, array: &Array) {
        let set = self.next_set.get();
        self.next_set.set(set + 1);
        let pairs = set_of(set);
        let ready = match array.adapter.prepare_snapshots(&pairs).await {
            Ok(ready) => ready,
            Err(VolumeError::NoSpace { .. }) => return self.count("refused"),
            Err(error) => panic!("{error}"),
        };
        if self.random.below(8) == 0 {
            return self.count("dropped before the cut");
        }
        array.clock.sleep(Duration::from_millis(self.random.below(4))).await;
        let as_of = self.next_version.get();
        let cut = ready.cut(as_of);
        // One thread: nobody wrote since the cut.
        let made: Oracles = {
            let oracles = self.oracles.borrow();
            pairs.iter().map(|pair| (pair.snapshot, oracles[&pair.volume].snapshot(pair.snapshot))).collect()
        };
        if self.random.below(8) == 0 {
            return self.count("dropped behind the cut");
        }
        self.in_doubt.set(Some(set));
        *self.instead.borrow_mut() = Some(made.clone());
        match cut.complete().await {
            Ok(()) => {
                self.oracles.borrow_mut().extend(made);
                self.sets.borrow_mut().insert(set, as_of);
                self.count("made");
            }
            Err(VolumeError::NoSpace { .. }) => self.count("refused"),
            Err(error) => panic!("{error}"),
        }
        self.in_doubt.set(None);
        *self.instead.borrow_mut() = None;
    }

    async fn delete(&self, array: &Array, set: u32) {
        for Snapshot { snapshot, .. } in set_of(set) {
            self.oracles.borrow_mut().remove(&snapshot);
            self.sets.borrow_mut().remove(&set);
            array.adapter.delete_volume(snapshot).await.unwrap();
        }
        self.count("deleted");
    }

    async fn go_back(&self, array: &Array, set: u32) {
        let _quiet = self.quiet.write().await;
        let restored: Oracles = {
            let oracles = self.oracles.borrow();
            let back = |pair: &Snapshot| {
                let mut oracle = oracles[&pair.volume].clone();
                oracle.restore(&oracles[&pair.snapshot]);
                (pair.volume, oracle)
            };
            set_of(set).iter().map(back).collect()
        };
        *self.instead.borrow_mut() = Some(restored.clone());
        match array.adapter.restore_snapshots(&set_of(set)).await {
            Ok(()) => {
                self.oracles.borrow_mut().extend(restored);
                self.count("gone back");
            }
            Err(VolumeError::NoSpace { .. }) => self.count("refused"),
            Err(error) => panic!("{error}"),
        }
        *self.instead.borrow_mut() = None;
    }

    /// After a crash: what was under way happened to all or to none; everything else is what was durable or later.
    async fn settle(&self, array: &Array) {
        let there: Vec<VolumeId> = array.adapter.volumes().iter().map(|spec| spec.id).collect();
        let instead = self.instead.take();
        if let Some(instead) = instead {
            let happened = match self.in_doubt.take() {
                Some(set) => {
                    let made: Vec<_> =
                        set_of(set).iter().map(|pair| there.contains(&pair.snapshot)).collect();
                    assert!(made.iter().all(|one| *one == made[0]), "some of one call, not all");
                    if made[0] {
                        self.sets.borrow_mut().insert(set, 0);
                    }
                    made[0]
                }
                None => is(array, &instead).await,
            };
            self.count(if happened { "cut off, happened" } else { "cut off, did not" });
            if happened {
                self.oracles.borrow_mut().extend(instead);
            }
        }
        // Deletion was under way: whether it happened does not matter.
        for id in there {
            if !self.oracles.borrow().contains_key(&id) {
                array.adapter.delete_volume(id).await.unwrap();
            }
        }
        let mut oracles = self.oracles.take();
        for oracle in oracles.values_mut() {
            oracle.settle(array).await;
        }
        self.oracles.replace(oracles);
    }
}

/// Whether the volumes are exactly what `instead` says. If all sectors are the same either way, both are right.
async fn is(array: &Array, instead: &Oracles) -> bool {
    for (id, oracle) in instead {
        for first in (0..SECTORS).step_by(64) {
            let stamps = array.stamps(*id, first, 64).await.unwrap();
            for (sector, stamp) in (first..).zip(stamps) {
                let newest = oracle.history[usize::try_from(sector).unwrap()].last().copied();
                if newest != Some(stamp.map_or(0, |stamp| stamp.version)) {
                    return false;
                }
            }
        }
    }
    true
}

fn run_seed(
    seed: u64,
    level: Level,
    units: usize,
    pool_pages: usize,
    group_mib: u64,
) -> BTreeMap<&'static str, u32> {
    let world = World {
        bed: Bed::new(seed, units, level, group_mib * MIB, pool_pages * 4096),
        random: SeededEntropy::new(seed),
        oracles: RefCell::default(),
        instead: RefCell::default(),
        in_doubt: Cell::default(),
        sets: RefCell::default(),
        next_set: Cell::new(1),
        next_version: Cell::default(),
        next_number: Cell::default(),
        quiet: tokio::sync::RwLock::default(),
        done: RefCell::default(),
    };
    for lives in 0..4 {
        life(async {
            let settings = CacheSettings { pass_pages: 40, ..settings() };
            let array = world.bed.open_with(settings).await.unwrap();
            if lives == 0 {
                for source in SOURCES {
                    let kind = if source == 2 { VolumeKind::Thick } else { VolumeKind::Thin };
                    let volume = array.create(source, VOLUME_BYTES, kind).await;
                    world.oracles.borrow_mut().insert(volume, Oracle::new(volume, VOLUME_BYTES));
                }
            }
            world.settle(&array).await;
            array.adapter.set_gate(VolumeId(1), Some(world.bed.gate.clone())).unwrap();
            let journal = async {
                loop {
                    let upto = world.next_number.get();
                    array.clock.sleep(Duration::from_millis(1 + world.random.below(4))).await;
                    world.bed.gate.advance(upto);
                }
            };
            let limit = array.clock.sleep(Duration::from_millis(1 + world.random.below(500)));
            tokio::select! {
                biased;
                _ = join_all((0..4).map(|_| world.host(&array))) => {}
                () = world.manager(&array) => {}
                () = journal => {}
                () = array.adapter.run() => {}
                () = limit => {}
            }
        });
        world.bed.crash(&world.random);
    }
    life(async {
        let array = world.bed.open().await.unwrap();
        world.settle(&array).await;
        // Nothing is lost: without the volumes every extent is free.
        let all: Vec<_> = array.adapter.volumes();
        for spec in all {
            array.adapter.delete_volume(spec.id).await.unwrap();
        }
        array.clock.sleep(Duration::from_millis(1)).await;
        let groups = array.adapter.usage().groups;
        assert_eq!(groups[0].free_extents, groups[0].extents, "seed {seed}");
    });
    world.done.into_inner()
}

fn run_seeds(seeds: std::ops::Range<u64>, level: Level, units: usize, pool_pages: usize, group_mib: u64) {
    let mut done: BTreeMap<&str, u32> = BTreeMap::new();
    for seed in seeds {
        println!("seed {seed}");
        for (what, count) in run_seed(seed, level, units, pool_pages, group_mib) {
            *done.entry(what).or_default() += count;
        }
    }
    println!("{done:?}");
    for what in ["made", "deleted", "gone back", "dropped behind the cut", "cut off, did not"] {
        assert!(done.contains_key(what), "{what} never: {done:?}");
    }
}

#[test]
fn snapshots_of_several_volumes_are_one_moment_whatever_is_written_and_whenever_power_is_lost() {
    run_seeds(seeds(0, 6), Level::Raid0, 2, 160, 16);
}

#[test]
fn the_same_holds_when_the_parity_group_is_too_small_for_what_differs() {
    run_seeds(seeds(1000, 5), Level::Raid0, 2, 256, 6);
}

#[test]
fn the_same_holds_over_rotating_parity() {
    run_seeds(seeds(2000, 4), Level::Raid5, 3, 192, 10);
}
