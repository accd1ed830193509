//! Groups on simulated disks, against a plain array of bytes.

use super::assemble::Making;
use super::group::ParityGroup;
use super::*;
use crate::clock::{SeededEntropy, SimClock, WallNs};
use crate::disk::device::BlockDevice;
use crate::disk::io::sim::{Fault, Latency, SimDisk};
use crate::disk::slot::{Class, SLOT_BYTES, SlotMut, SlotPool};
use crate::disk::unit::RefusalReason;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const OWNER: Owner = Owner { array: ArrayIdentity(0xa), number: 64001 };
const GROUP: GroupIdentity = GroupIdentity(0x61);
const UNIT_BYTES: u64 = 1 << 20;
const SLOT: u64 = SLOT_BYTES as u64;

fn disks(count: usize, seed: u64) -> Vec<SimDisk> {
    let clock = Arc::new(SimClock::new(0));
    let latency = Latency { shortest: Duration::from_micros(10), longest: Duration::from_micros(700) };
    let disk = |index| {
        SimDisk::new(&format!("unit{index}"), UNIT_BYTES, latency, seed * 100 + index as u64, clock.clone())
    };
    (0..count).map(disk).collect()
}

fn given(disks: &[SimDisk]) -> Vec<(String, Arc<dyn BlockDevice>)> {
    disks.iter().map(|d| (d.name().to_owned(), Arc::new(d.clone()) as Arc<dyn BlockDevice>)).collect()
}

fn spec(level: Level, stripe_unit_bytes: u32) -> GroupSpec {
    GroupSpec { identity: GROUP, name: "pg0".to_owned(), level, stripe_unit_bytes }
}

async fn create(disks: &[SimDisk], level: Level, stripe_unit_bytes: u32, pool: &SlotPool) -> ParityGroup {
    let entropy = SeededEntropy::new(5);
    let making = Making { entropy: &entropy, created: WallNs(1) };
    let spec = spec(level, stripe_unit_bytes);
    ParityGroup::create(OWNER, spec, given(disks), pool.clone(), making).await.unwrap()
}

async fn open(disks: &[SimDisk], pool: &SlotPool) -> Result<ParityGroup, OpenError> {
    ParityGroup::open(OWNER, GROUP, given(disks), pool.clone()).await
}

fn pool() -> SlotPool {
    SlotPool::new(16 << 20)
}

fn run(pool: &SlotPool, slot: u64, fills: &[u64]) -> Run {
    let slots = fills.iter().map(|fill| {
        let mut page = pool.try_take(Class::Host, 1).unwrap().remove(0);
        page.copy_from_slice(&pattern(*fill));
        page.freeze()
    });
    Run { offset_bytes: slot * SLOT, slots: slots.collect() }
}

/// The content that stands for a number; zero is zeros.
fn pattern(fill: u64) -> [u8; SLOT_BYTES] {
    let mut bytes = [0; SLOT_BYTES];
    if fill != 0 {
        crate::clock::Entropy::fill(&SeededEntropy::new(fill), &mut bytes);
    }
    bytes
}

async fn read(
    group: &ParityGroup,
    pool: &SlotPool,
    slot: u64,
    count: usize,
) -> Result<Vec<SlotMut>, DiskError> {
    group.read(slot * SLOT, pool.try_take(Class::Host, count).unwrap()).await
}

/// A group with the numbers that its slots should hold.
struct Model {
    group: ParityGroup,
    pool: SlotPool,
    content: Vec<u64>,
    next: u64,
    entropy: SeededEntropy,
}

impl Model {
    fn new(group: ParityGroup, pool: SlotPool, seed: u64) -> Self {
        let slots = usize::try_from(group.capacity_bytes() / SLOT).unwrap();
        Self { group, pool, content: vec![0; slots], next: 1, entropy: SeededEntropy::new(seed) }
    }

    fn below(&self, bound: usize) -> usize {
        usize::try_from(self.entropy.below(bound as u64)).unwrap()
    }

    /// Runs that do not overlap, of all sizes, with what they write.
    fn draw(&mut self) -> (Vec<Run>, BTreeMap<usize, u64>) {
        let (mut runs, mut written) = (Vec::new(), BTreeMap::new());
        for _ in 0..=self.below(4) {
            let longest = [3, 20, 90][self.below(3)];
            let first = self.below(self.content.len());
            let count = (1 + self.below(longest)).min(self.content.len() - first);
            if written.range(first..first + count).next().is_some() {
                continue;
            }
            let fills: Vec<u64> = (self.next..self.next + count as u64).collect();
            self.next += count as u64;
            written.extend((first..).zip(fills.iter().copied()));
            runs.push(run(&self.pool, first as u64, &fills));
        }
        (runs, written)
    }

    async fn write_some(&mut self) -> Result<(), DiskError> {
        let (runs, written) = self.draw();
        self.group.write(runs).await?;
        written.into_iter().for_each(|(slot, fill)| self.content[slot] = fill);
        Ok(())
    }

    async fn check(&self, first: usize, count: usize) {
        let slots = read(&self.group, &self.pool, first as u64, count).await.unwrap();
        for (slot, bytes) in (first..).zip(slots) {
            assert!(*bytes == pattern(self.content[slot]), "slot {slot} holds {}", self.content[slot]);
        }
    }

    async fn check_some(&self) {
        let first = self.below(self.content.len());
        self.check(first, (1 + self.below(60)).min(self.content.len() - first)).await;
    }

    async fn check_all(&self) {
        self.check(0, self.content.len()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn random_writes_read_back_at_every_level_and_geometry() {
    for (level, members, unit) in [
        (Level::Raid0, 1, 4096),
        (Level::Raid0, 4, 8192),
        (Level::Raid0, 3, 65536),
        (Level::Raid5, 3, 4096),
        (Level::Raid5, 5, 16384),
        (Level::Raid5, 4, 65536),
    ] {
        let (disks, pool) = (disks(members, 1), pool());
        let mut model = Model::new(create(&disks, level, unit, &pool).await, pool.clone(), 3);
        for _ in 0..40 {
            model.write_some().await.unwrap();
            model.check_some().await;
        }
        model.check_all().await;
        model.group.flush().await.unwrap();
        drop(std::mem::replace(&mut model.group, open(&disks, &pool).await.unwrap()));
        model.check_all().await;
        drop(model);
        assert_eq!(pool.in_use(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_inside_one_stripe_unit_of_raid_0_is_one_write_of_one_unit() {
    let (disks, pool) = (disks(4, 1), pool());
    let group = create(&disks, Level::Raid0, 65536, &pool).await;
    let before: Vec<u64> = disks.iter().map(|disk| disk.counts().writes).collect();
    group.write(vec![run(&pool, 18, &[1, 2, 3])]).await.unwrap();
    group.write(vec![run(&pool, 64, &[9; 128])]).await.unwrap();
    let after: Vec<u64> =
        disks.iter().zip(before).map(|(disk, before)| disk.counts().writes - before).collect();
    assert_eq!(after, [1, 2, 1, 1], "two stripes lie together on each member");
}

#[tokio::test(start_paused = true)]
async fn a_whole_stripe_of_raid_5_is_written_without_a_read_however_it_arrives() {
    let (disks, pool) = (disks(4, 1), pool());
    let group = create(&disks, Level::Raid5, 8192, &pool).await;
    let reads = |disks: &[SimDisk]| disks.iter().map(|disk| disk.counts().reads).sum::<u64>();
    let writes = |disks: &[SimDisk]| disks.iter().map(|disk| disk.counts().writes).sum::<u64>();
    let before = (reads(&disks), writes(&disks));
    group.write(vec![run(&pool, 9, &[4, 5, 6]), run(&pool, 6, &[1, 2, 3])]).await.unwrap();
    assert_eq!((reads(&disks) - before.0, writes(&disks) - before.1), (0, 4));
}

#[tokio::test(start_paused = true)]
async fn raid_5_loses_any_member_at_any_time_and_nobody_notices() {
    for seed in 0..24 {
        let members = 3 + usize::try_from(seed % 3).unwrap();
        let (disks, pool) = (disks(members, seed), pool());
        let unit = [4096, 8192, 32768][usize::try_from(seed / 3 % 3).unwrap()];
        let mut model = Model::new(create(&disks, Level::Raid5, unit, &pool).await, pool.clone(), seed);
        let lost = model.below(members);
        for _ in 0..10 {
            model.write_some().await.unwrap();
        }
        let fault = [Fault::Gone, Fault::NextWrite, Fault::NextFlush][model.below(3)].clone();
        disks[lost].inject(fault);
        for _ in 0..20 {
            model.write_some().await.unwrap();
            model.check_some().await;
            model.group.flush().await.unwrap();
        }
        let state = model.group.state();
        assert!(state.degraded && state.failed.is_none(), "seed {seed}: {state:?}");
        model.check_all().await;
        // It returns, but its content is never believed again.
        disks[lost].heal();
        model.group = open(&disks, &pool).await.unwrap();
        let state = model.group.state();
        assert!(matches!(state.members[lost].state, MemberState::Failed(_)), "{state:?}");
        assert_eq!(
            state.refused.iter().map(|refusal| &refusal.reason).collect::<Vec<_>>(),
            [&RefusalReason::Stale]
        );
        model.check_all().await;
        model.write_some().await.unwrap();
        model.check_all().await;
    }
}
