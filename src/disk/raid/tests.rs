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

    /// The slow way to see whether every parity is the sum of its data.
    fn check_parity(&self, disks: &[SimDisk]) {
        let rows = self.group.0.layout.stripes() * self.group.0.layout.unit_slots();
        for row in 0..rows {
            let at = self.group.0.offset_bytes(row);
            let pages: Vec<_> = disks.iter().map(|disk| disk.peek(at)).collect();
            let odd = (0..SLOT_BYTES).find(|byte| pages.iter().fold(0, |sum, page| sum ^ page[*byte]) != 0);
            assert_eq!(odd, None, "row {row}");
        }
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
        if level == Level::Raid5 {
            model.check_parity(&disks);
        }
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
    for seed in 0..30 {
        let members = 3 + usize::try_from(seed % 5).unwrap();
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

fn reasons(refused: &[Refusal]) -> Vec<(&str, &RefusalReason)> {
    refused.iter().map(|refusal| (refusal.name.as_str(), &refusal.reason)).collect()
}

fn writes(disks: &[SimDisk]) -> u64 {
    disks.iter().map(|disk| disk.counts().writes).sum()
}

#[tokio::test(start_paused = true)]
async fn units_are_found_by_identity_in_any_order() {
    let (mut disks, pool) = (disks(4, 1), pool());
    let group = create(&disks, Level::Raid5, 8192, &pool).await;
    let fills: Vec<u64> = (1..=50).collect();
    group.write(vec![run(&pool, 0, &fills)]).await.unwrap();
    let order: Vec<_> = group.state().members.iter().map(|member| member.name.clone()).collect();
    for _ in 0..4 {
        disks.rotate_left(1);
        disks.swap(0, 2);
        let group = open(&disks, &pool).await.unwrap();
        let state = group.state();
        assert!(!state.degraded && state.refused.is_empty());
        assert!(state.members.iter().map(|member| &member.name).eq(&order));
        let slots = read(&group, &pool, 0, 50).await.unwrap();
        assert!(slots.iter().zip(1..).all(|(slot, fill)| **slot == pattern(fill)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_foreign_unit_is_refused_by_name_and_never_written() {
    let (mine, theirs, pool) = (disks(3, 1), disks(3, 2), pool());
    drop(create(&mine, Level::Raid5, 8192, &pool).await);
    let entropy = SeededEntropy::new(9);
    let making = Making { entropy: &entropy, created: WallNs(1) };
    let other = Owner { array: ArrayIdentity(0xb), number: 64002 };
    let made =
        ParityGroup::create(other, spec(Level::Raid5, 8192), given(&theirs), pool.clone(), making).await;
    drop(made.unwrap());
    let before = writes(&theirs);
    let mixed = [mine[0].clone(), theirs[1].clone(), mine[2].clone()];
    let group = open(&mixed, &pool).await.unwrap();
    let state = group.state();
    assert!(state.degraded && state.members[1].state == MemberState::Missing, "{state:?}");
    assert_eq!(reasons(&state.refused), [("unit1", &RefusalReason::ForeignArray(ArrayIdentity(0xb)))]);
    let error = open(&[mine[0].clone(), theirs[1].clone(), theirs[2].clone()], &pool).await.unwrap_err();
    assert_eq!(error.refused.len(), 2);
    assert!(error.to_string().contains("unit unit2 is refused: it belongs to another array"), "{error}");
    assert_eq!(writes(&theirs), before);
    // And no group is made over units in use.
    let over =
        ParityGroup::create(OWNER, spec(Level::Raid0, 8192), given(&theirs), pool.clone(), making).await;
    assert!(matches!(over, Err(DiskError::Unit(Refusal { reason: RefusalReason::InUse { .. }, .. }))));
    assert_eq!(writes(&theirs), before);
}

#[tokio::test(start_paused = true)]
async fn units_of_another_group_and_copies_are_refused() {
    let (disks, others, pool) = (disks(3, 1), disks(3, 2), pool());
    drop(create(&disks, Level::Raid0, 8192, &pool).await);
    let entropy = SeededEntropy::new(9);
    let making = Making { entropy: &entropy, created: WallNs(1) };
    let second = GroupSpec { identity: GroupIdentity(7), name: "pg1".into(), ..spec(Level::Raid0, 8192) };
    drop(ParityGroup::create(OWNER, second, given(&others), pool.clone(), making).await.unwrap());
    let error = open(&[disks[0].clone(), disks[1].clone(), others[2].clone()], &pool).await.unwrap_err();
    assert!(error.to_string().contains("it belongs to another parity group (pg1"), "{error}");
    let copy = disks[1].duplicate("copy", UNIT_BYTES);
    let before = writes(&disks);
    let mut four = disks.clone();
    four.push(copy);
    let error = open(&four, &pool).await.unwrap_err();
    let names: Vec<&str> = error.refused.iter().map(|refusal| refusal.name.as_str()).collect();
    assert_eq!(names, ["unit1", "copy"]);
    assert!(error.refused.iter().all(|refusal| matches!(refusal.reason, RefusalReason::Duplicate(..))));
    assert_eq!(writes(&disks), before);
    open(&disks, &pool).await.expect("without the copy it opens");
}

#[tokio::test(start_paused = true)]
async fn a_unit_cut_short_is_refused() {
    let (disks, pool) = (disks(3, 1), pool());
    drop(create(&disks, Level::Raid5, 8192, &pool).await);
    let short = disks[2].duplicate("short", UNIT_BYTES - 4096);
    let group = open(&[disks[0].clone(), disks[1].clone(), short], &pool).await.unwrap();
    let reason = RefusalReason::Truncated { unit_bytes: UNIT_BYTES, found_bytes: UNIT_BYTES - 4096 };
    assert_eq!(reasons(&group.state().refused), [("short", &reason)]);
    let longer = disks[2].duplicate("longer", UNIT_BYTES + 8192);
    let group = open(&[disks[0].clone(), disks[1].clone(), longer], &pool).await.unwrap();
    assert!(!group.state().degraded, "a file that has grown is still the unit");
}

#[tokio::test(start_paused = true)]
async fn one_damaged_superblock_of_two_is_repaired_at_every_byte() {
    let (disks, pool) = (disks(2, 1), pool());
    drop(create(&disks, Level::Raid0, 8192, &pool).await);
    let copies = [0, UNIT_BYTES - SLOT];
    let sound = copies.map(|at| disks[0].peek(at));
    for at in 0..SLOT {
        let hit = usize::try_from(at % 2).unwrap();
        disks[0].inject(Fault::Flip(copies[hit] + at));
        assert_ne!(disks[0].peek(copies[hit]), sound[hit]);
        drop(open(&disks, &pool).await.unwrap());
        assert_eq!(copies.map(|at| disks[0].peek(at)), sound, "byte {at}");
    }
    disks[0].inject(Fault::BadSlot(0));
    drop(open(&disks, &pool).await.expect("an unreadable copy is a bad copy"));
    for copy in copies {
        disks[0].inject(Fault::Flip(copy + 100));
    }
    let before = writes(&disks);
    let error = open(&disks, &pool).await.unwrap_err();
    assert!(error.to_string().contains("unit unit0 is refused: its superblock is damaged"), "{error}");
    assert_eq!(writes(&disks), before);
}

#[tokio::test(start_paused = true)]
async fn a_level_that_is_not_built_and_a_disk_with_data_are_refused() {
    let (disks, pool) = (disks(4, 1), pool());
    let entropy = SeededEntropy::new(9);
    let making = Making { entropy: &entropy, created: WallNs(1) };
    let made =
        ParityGroup::create(OWNER, spec(Level::Raid6, 8192), given(&disks), pool.clone(), making).await;
    assert!(made.unwrap_err().to_string().contains("raid6 is not built yet"));
    disks[1].poke(0, &pattern(4));
    let made =
        ParityGroup::create(OWNER, spec(Level::Raid5, 8192), given(&disks), pool.clone(), making).await;
    assert!(made.unwrap_err().to_string().contains("unit unit1 is refused: it is not empty"));
    assert_eq!(writes(&disks), 0);
}

#[tokio::test(start_paused = true)]
async fn old_bytes_under_a_new_raid_5_group_do_not_spoil_its_parity() {
    let (disks, pool) = (disks(4, 1), pool());
    for slot in 1..UNIT_BYTES / SLOT {
        disks.iter().for_each(|disk| disk.poke(slot * SLOT, &pattern(slot)));
    }
    let group = create(&disks, Level::Raid5, 8192, &pool).await;
    disks[2].inject(Fault::Gone);
    let model = Model::new(group, pool, 1);
    model.check_all().await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_flush_ends_raid_0_and_keeps_what_was_flushed_before() {
    let (disks, pool) = (disks(3, 1), pool());
    let group = create(&disks, Level::Raid0, 8192, &pool).await;
    group.write(vec![run(&pool, 0, &[1, 2, 3, 4, 5, 6])]).await.unwrap();
    group.flush().await.unwrap();
    group.write(vec![run(&pool, 30, &[7, 8, 9])]).await.unwrap();
    disks[1].inject(Fault::NextFlush);
    assert!(matches!(group.flush().await, Err(DiskError::Failed { .. })));
    disks[1].heal();
    assert!(matches!(group.flush().await, Err(DiskError::Failed { .. })), "never retried and believed");
    assert!(matches!(group.write(vec![run(&pool, 0, &[1])]).await, Err(DiskError::Failed { .. })));
    assert!(read(&group, &pool, 0, 1).await.is_err());
    let state = group.state();
    assert!(state.failed.is_some() && matches!(state.members[1].state, MemberState::Failed(_)));
    disks.iter().for_each(|disk| disk.crash(&SeededEntropy::new(1)));
    let group = open(&disks, &pool).await.unwrap();
    let slots = read(&group, &pool, 0, 6).await.unwrap();
    assert!(slots.iter().zip(1..).all(|(slot, fill)| **slot == pattern(fill)));
}

#[tokio::test(start_paused = true)]
async fn a_medium_error_is_computed_and_written_back() {
    let (disks, pool) = (disks(7, 1), pool());
    let mut model = Model::new(create(&disks, Level::Raid5, 16384, &pool).await, pool.clone(), 6);
    for _ in 0..20 {
        model.write_some().await.unwrap();
    }
    for round in 0..60 {
        // One bad place a stripe: any member, any row, data or parity.
        let data = UNIT_BYTES / 2 + round * 4 * SLOT * 2;
        disks[model.below(7)].inject(Fault::BadSlot(data % (UNIT_BYTES - SLOT)));
        model.write_some().await.unwrap();
        model.check_some().await;
    }
    model.check_all().await;
    model.check_all().await;
    model.check_parity(&disks);
    let state = model.group.state();
    assert!(!state.degraded, "a bad place does not cost a member: {state:?}");
    // What was repaired is there for the next loss.
    let capacity = model.content.len() as u64;
    model.group.write(vec![run(&pool, 0, &vec![5; usize::try_from(capacity / 2).unwrap()])]).await.unwrap();
    assert!(!model.group.state().degraded);
}

#[tokio::test(start_paused = true)]
async fn two_losses_stop_raid_5_and_invent_nothing() {
    for one in 0..4 {
        for other in (0..4).filter(|other| *other != one) {
            let (disks, pool) = (disks(4, 1), pool());
            let group = create(&disks, Level::Raid5, 8192, &pool).await;
            let fills: Vec<u64> = (1..=60).collect();
            group.write(vec![run(&pool, 0, &fills)]).await.unwrap();
            group.flush().await.unwrap();
            disks[one].inject(Fault::Gone);
            assert!(read(&group, &pool, 0, 60).await.is_ok());
            disks[other].inject(Fault::Gone);
            assert!(matches!(read(&group, &pool, 0, 60).await, Err(DiskError::Failed { .. })));
            assert!(group.write(vec![run(&pool, 0, &[9])]).await.is_err());
            assert!(group.flush().await.is_err());
            drop(group);
            // Both return intact: nothing was acknowledged without them, so everything is back.
            disks.iter().for_each(SimDisk::heal);
            let group = open(&disks, &pool).await.unwrap();
            let slots = read(&group, &pool, 0, 60).await.unwrap();
            assert!(slots.iter().zip(1..).all(|(slot, fill)| **slot == pattern(fill)));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_missing_unit_becomes_stale_with_the_first_write_only() {
    let (disks, pool) = (disks(3, 1), pool());
    drop(create(&disks, Level::Raid5, 8192, &pool).await);
    drop(open(&disks[1..], &pool).await.unwrap());
    let group = open(&disks, &pool).await.unwrap();
    assert!(!group.state().degraded, "nothing was written without it");
    drop(group);
    let group = open(&disks[1..], &pool).await.unwrap();
    group.write(vec![run(&pool, 3, &[8])]).await.unwrap();
    drop(group);
    let error = open(&disks[..2], &pool).await.unwrap_err();
    assert_eq!(reasons(&error.refused), [("unit0", &RefusalReason::Stale)]);
    let group = open(&disks, &pool).await.unwrap();
    assert_eq!(reasons(&group.state().refused), [("unit0", &RefusalReason::Stale)]);
    assert_eq!(**read(&group, &pool, 3, 1).await.unwrap().first().unwrap(), pattern(8));
}

#[tokio::test(start_paused = true)]
async fn what_was_flushed_survives_a_power_loss_at_any_moment() {
    for seed in 0..150 {
        let (disks, pool) = (disks(4, seed), pool());
        let level = if seed % 2 == 0 { Level::Raid0 } else { Level::Raid5 };
        let mut model = Model::new(create(&disks, level, 8192, &pool).await, pool.clone(), seed);
        for _ in 0..model.below(6) {
            model.write_some().await.unwrap();
        }
        model.group.flush().await.unwrap();
        let (runs, written) = model.draw();
        let group = model.group.clone();
        let cut = tokio::spawn(async move { group.write(runs).await });
        for _ in 0..model.below(40) {
            tokio::task::yield_now().await;
        }
        cut.abort();
        let _ = cut.await;
        let entropy = SeededEntropy::new(seed);
        disks.iter().for_each(|disk| disk.crash(&entropy));
        // Opening may be cut off as well, and repeated.
        let again = disks.clone();
        let cut = tokio::spawn(async move { open(&again, &SlotPool::new(1 << 20)).await });
        tokio::task::yield_now().await;
        cut.abort();
        let _ = cut.await;
        disks.iter().for_each(|disk| disk.crash(&entropy));
        model.group = open(&disks, &pool).await.unwrap();
        for slot in (0..model.content.len()).filter(|slot| !written.contains_key(slot)) {
            model.check(slot, 1).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn recording_a_failure_may_be_cut_off_by_a_power_loss() {
    for seed in 0..200 {
        let (disks, pool) = (disks(4, seed), pool());
        let mut model = Model::new(create(&disks, Level::Raid5, 8192, &pool).await, pool.clone(), seed);
        for _ in 0..3 {
            model.write_some().await.unwrap();
        }
        model.group.flush().await.unwrap();
        let lost = model.below(4);
        disks[lost].inject(Fault::Gone);
        let fills: Vec<u64> = vec![77; 6];
        let first = model.below(model.content.len() / 6) * 6;
        let (group, runs) = (model.group.clone(), vec![run(&pool, first as u64, &fills)]);
        let write = tokio::spawn(async move { group.write(runs).await });
        let wait = Duration::from_micros(model.entropy.below(9000));
        let finished = tokio::time::timeout(wait, write).await.is_ok();
        if finished {
            model.group.flush().await.unwrap();
            model.content[first..first + 6].fill(77);
        }
        disks.iter().for_each(|disk| disk.crash(&SeededEntropy::new(seed)));
        model.group = open(&disks, &pool).await.unwrap();
        let state = model.group.state();
        assert!(!finished || state.degraded, "seed {seed}: acknowledged without it, so it is stale");
        let stripe = 6;
        for slot in 0..model.content.len() {
            if finished || slot / stripe != first / stripe {
                model.check(slot, 1).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_file_system_fails_the_write_and_costs_neither_member_nor_parity() {
    let (disks, pool) = (disks(7, 1), pool());
    let mut model = Model::new(create(&disks, Level::Raid5, 8192, &pool).await, pool.clone(), 6);
    for _ in 0..10 {
        model.write_some().await.unwrap();
    }
    for _ in 0..30 {
        disks[model.below(7)].inject(Fault::NextWriteNoSpace);
        let (runs, written) = model.draw();
        let result = model.group.write(runs.clone()).await;
        if let Err(error) = &result {
            assert!(error.is_no_space(), "{error}");
            // The cache keeps the data dirty and writes them again when there is room.
            model.group.write(runs).await.unwrap();
        }
        written.iter().for_each(|(slot, fill)| model.content[*slot] = *fill);
        disks.iter().for_each(SimDisk::heal);
        assert!(!model.group.state().degraded);
        model.check_parity(&disks);
    }
    disks[model.below(7)].inject(Fault::Gone);
    model.check_all().await;
}

#[tokio::test(start_paused = true)]
async fn writes_at_once_in_one_stripe_keep_its_parity() {
    for seed in 0..20 {
        let (disks, pool) = (disks(6, seed), pool());
        let group = create(&disks, Level::Raid5, 16384, &pool).await;
        let writes = (0..48).map(|slot| group.write(vec![run(&pool, slot, &[slot + 1])]));
        assert!(futures_util::future::join_all(writes).await.iter().all(Result::is_ok));
        disks[usize::try_from(seed % 6).unwrap()].inject(Fault::Gone);
        let slots = read(&group, &pool, 0, 48).await.unwrap();
        assert!(slots.iter().zip(1..).all(|(slot, fill)| **slot == pattern(fill)));
    }
}

#[tokio::test(start_paused = true)]
async fn ranges_outside_and_runs_that_overlap_are_refused() {
    let (disks, pool) = (disks(3, 1), pool());
    let group = create(&disks, Level::Raid5, 8192, &pool).await;
    let end = group.capacity_bytes() / SLOT;
    assert!(matches!(read(&group, &pool, end, 1).await, Err(DiskError::Range { .. })));
    assert!(matches!(group.write(vec![run(&pool, end - 1, &[1, 2])]).await, Err(DiskError::Range { .. })));
    assert!(matches!(group.read(17, Vec::new()).await, Err(DiskError::Range { .. })));
    let overlapping = vec![run(&pool, 3, &[1, 2]), run(&pool, 4, &[3])];
    assert!(matches!(group.write(overlapping).await, Err(DiskError::Overlap { .. })));
    assert!(group.read(0, Vec::new()).await.unwrap().is_empty());
    group.write(Vec::new()).await.unwrap();
}
