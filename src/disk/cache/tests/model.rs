//! Several hosts at once on random ranges with a tiny pool, and power loss at a random moment, some lives in a row.

use super::rig::*;
use crate::clock::{Clock, SeededEntropy};
use crate::disk::cache::{CacheSettings, VolumeId};
use crate::disk::raid::Level;
use crate::disk::slot::Class;
use crate::disk::space::map::VolumeKind;
use futures_util::future::join_all;
use std::cell::{Cell, RefCell};
use std::time::Duration;

const VOLUMES: u32 = 3;
const VOLUME_BYTES: u64 = 3 * MIB;

struct World<'a> {
    array: Array,
    bed: &'a Bed,
    random: &'a SeededEntropy,
    oracles: &'a RefCell<Vec<Oracle>>,
    next_version: &'a Cell<u64>,
    next_number: &'a Cell<u64>,
}

impl World<'_> {
    fn range(&self) -> (usize, u64, u64) {
        let volume = usize::try_from(self.random.below(u64::from(VOLUMES))).unwrap();
        let sectors = VOLUME_BYTES / 512;
        // Few places, so that hosts meet.
        let sector = (self.random.below(6) * 1024 + self.random.below(40)).min(sectors - 1);
        let count = match self.random.below(4) {
            0 => 8 * (1 + self.random.below(4)),
            1 => 1 + self.random.below(100),
            _ => 1 + self.random.below(12),
        };
        let sector = if self.random.below(2) == 0 { sector / 8 * 8 } else { sector };
        (volume, sector, count.min(sectors - sector))
    }

    /// The first volume is journaled: nearly all of its writes have numbers. One that has none may share its page with
    /// one that has.
    fn number(&self, volume: usize) -> u64 {
        if volume != 0 || self.random.below(5) == 0 {
            return 0;
        }
        self.next_number.set(self.next_number.get() + 1);
        self.next_number.get()
    }

    fn version(&self) -> u64 {
        self.next_version.set(self.next_version.get() + 1);
        self.next_version.get()
    }

    async fn write(&self) {
        let (v, sector, count) = self.range();
        let volume = self.oracles.borrow()[v].volume;
        let Ok((prepared, mut slots)) = self.array.ready(volume, sector, count).await else { return };
        if self.random.below(3) == 0 {
            self.array.clock.sleep(Duration::from_millis(self.random.below(3))).await;
        }
        let (version, gate) = (self.version(), self.number(v));
        if self.random.below(6) == 0 {
            let page = fill_pattern(slots.remove(0), volume, version, gate);
            self.array.adapter.apply_pattern(prepared, &page, gate);
        } else {
            let slots = fill(slots, volume, sector, count, version, gate);
            self.array.adapter.apply(prepared, &slots, gate);
        }
        self.oracles.borrow_mut()[v].apply(sector, count, version);
    }

    async fn zero(&self) {
        let (v, mut sector, mut count) = self.range();
        match self.random.below(12) {
            0 => (sector, count) = (0, VOLUME_BYTES / 512),
            1..3 => (sector, count) = (self.random.below(3) * 2048, 2048),
            _ => {}
        }
        let volume = self.oracles.borrow()[v].volume;
        let (at, length) = (sector * 512, count * 512);
        let prepared = self.array.adapter.prepare_zero(volume, at, length, Class::Restore).await;
        let Ok(prepared) = prepared else { return };
        self.array.adapter.apply_zero(prepared, self.number(v));
        self.oracles.borrow_mut()[v].apply(sector, count, 0);
    }

    async fn read(&self) {
        let (v, sector, count) = self.range();
        let (volume, marks) = {
            let oracle = &self.oracles.borrow()[v];
            (oracle.volume, oracle.marks(sector, count))
        };
        let stamps = self.array.stamps(volume, sector, count).await.unwrap();
        for ((sector, mark), stamp) in (sector..).zip(marks).zip(stamps) {
            self.oracles.borrow()[v].check(sector, mark, stamp);
        }
    }

    async fn destage(&self) {
        let (v, sector, count) = self.range();
        let volume = self.oracles.borrow()[v].volume;
        if self.random.below(2) == 0 {
            let marks = self.oracles.borrow()[v].marks(sector, count);
            if self.array.adapter.destage_range(volume, sector * 512, count * 512).await.is_ok() {
                self.oracles.borrow_mut()[v].made_durable(sector, &marks);
            }
            return;
        }
        let all: Vec<VolumeId> = self.oracles.borrow().iter().map(|oracle| oracle.volume).collect();
        let sectors = VOLUME_BYTES / 512;
        let marks: Vec<_> = self.oracles.borrow().iter().map(|oracle| oracle.marks(0, sectors)).collect();
        if self.array.adapter.destage(&all).await.is_ok() {
            for (oracle, marks) in self.oracles.borrow_mut().iter_mut().zip(marks) {
                oracle.made_durable(0, &marks);
            }
        }
    }

    async fn host(&self) {
        loop {
            match self.random.below(24) {
                0..11 => self.write().await,
                11..13 => self.zero().await,
                13..22 => self.read().await,
                _ => self.destage().await,
            }
            if self.random.below(4) == 0 {
                self.array.clock.sleep(Duration::from_millis(1)).await;
            } else {
                tokio::task::yield_now().await;
            }
        }
    }

    /// The journal's writer: what has been numbered is durable a little later.
    async fn journal(&self) {
        loop {
            let upto = self.next_number.get();
            self.array.clock.sleep(Duration::from_millis(1 + self.random.below(4))).await;
            self.bed.gate.advance(upto);
        }
    }
}

async fn settle(oracles: &RefCell<Vec<Oracle>>, array: &Array) {
    let mut settled = oracles.take();
    for oracle in &mut settled {
        oracle.settle(array).await;
    }
    oracles.replace(settled);
}

fn run_seed(seed: u64, level: Level, units: usize, pool_pages: usize, group_mib: u64) {
    let random = SeededEntropy::new(seed);
    let bed = Bed::new(seed, units, level, group_mib * MIB, pool_pages * 4096);
    let oracles = RefCell::new(Vec::new());
    let (next_version, next_number) = (Cell::new(0), Cell::new(0));
    for lives in 0..3 {
        life(async {
            let array = bed.open_with(CacheSettings { pass_pages: 40, ..settings() }).await.unwrap();
            if lives == 0 {
                for i in 0..VOLUMES {
                    let kind = if i == 1 { VolumeKind::Thick } else { VolumeKind::Thin };
                    let volume = array.create(i + 1, VOLUME_BYTES, kind).await;
                    oracles.borrow_mut().push(Oracle::new(volume, VOLUME_BYTES));
                }
            }
            settle(&oracles, &array).await;
            array.adapter.set_gate(VolumeId(1), Some(bed.gate.clone())).unwrap();
            let world = World {
                array: array.clone(),
                bed: &bed,
                random: &random,
                oracles: &oracles,
                next_version: &next_version,
                next_number: &next_number,
            };
            let limit = array.clock.sleep(Duration::from_millis(1 + random.below(400)));
            tokio::select! {
                biased;
                _ = join_all((0..5).map(|_| world.host())) => {}
                () = world.journal() => {}
                () = array.adapter.run() => {}
                () = limit => {}
            }
        });
        bed.crash(&random);
    }
    life(async {
        let array = bed.open().await.unwrap();
        settle(&oracles, &array).await;
    });
}

#[test]
fn hosts_at_once_see_what_was_written_and_a_crash_loses_nothing_durable() {
    for seed in seeds(0, 15) {
        println!("seed {seed}");
        run_seed(seed, Level::Raid0, 2, 96, 10);
    }
}

#[test]
fn the_same_holds_when_the_parity_group_is_too_small_for_its_volumes() {
    for seed in seeds(1000, 8) {
        println!("seed {seed}");
        run_seed(seed, Level::Raid0, 2, 256, 4);
    }
}

#[test]
fn the_same_holds_over_rotating_parity() {
    for seed in seeds(2000, 5) {
        println!("seed {seed}");
        run_seed(seed, Level::Raid5, 3, 128, 6);
    }
}
