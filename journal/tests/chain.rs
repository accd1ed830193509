//! A journal over several volumes: whatever is killed or loses power between two steps, every durable update is found
//! again, in order, once; a volume that fails is followed by another one that has everything that was in memory.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod common;

use common::{Disk, LAYOUTS, Random, make_update, number};
use holdfast_journal::chain::{Chain, Position, Verdict, judge};
use holdfast_journal::format::FormatParams;
use holdfast_journal::format::crc32c;
use holdfast_journal::recovery::{HEAD_BYTES, Recovered, Recovery, RecoveryError};
use holdfast_journal::{
    AppendError, ArrayNumber, Draft, Full, Generation, GroupNumber, Incarnation, Journal, UpdateNumber,
    VolumeNumber,
};
use proptest::prelude::*;
use std::collections::BTreeMap;

const VOLUMES: usize = 3;
const BLOCKS: usize = 4 + 16 + 40;

/// A volume that the store names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Named {
    volume: usize,
    first: u64,
}

/// Volumes, the store, and what an array with them has in memory.
struct Bench {
    disks: Vec<Disk>,
    /// Volumes that give nothing any more.
    is_lost: Vec<bool>,
    store: Vec<Named>,
    chain: Chain,
    incarnation: u128,
    /// All updates ever given.
    given: BTreeMap<u64, (Draft, Vec<u8>)>,
    /// Durable updates that were not in a lost volume alone.
    durable: u64,
    /// Updates from here on are in memory.
    kept_from: u64,
    settled: u64,
}

fn format(volume: usize, first: u64, incarnation: u128, settled: u64, disk: &mut Disk) -> Journal {
    let params = FormatParams {
        incarnation: Incarnation::new(incarnation),
        array: ArrayNumber(1),
        group: GroupNumber(7),
        volume_bytes: u64::try_from(BLOCKS * 4096).unwrap(),
        // A chain may have volumes of both.
        layout: LAYOUTS[volume % 2],
        data_per_info: 2,
        first: number(first),
        generation: Generation::default(),
    };
    let (head, journal) =
        Journal::format_following(params, number(settled), &[u8::try_from(volume).unwrap()]).unwrap();
    disk.write(0, &head);
    journal
}

fn open(disk: &Disk, end: Option<u64>) -> Result<Recovered, RecoveryError> {
    let head = disk.read(0, HEAD_BYTES);
    let mut recovery = match end {
        None => Recovery::open(head)?,
        Some(end) => Recovery::open_until(head, number(end))?,
    };
    while let Some(request) = recovery.poll_read() {
        recovery.handle_read(disk.read(request.volume_offset, request.length));
    }
    let mut recovered = recovery.finish()?;
    for verify in recovered.verify() {
        let offset = verify.place.volume_offset_bytes + u64::from(verify.place.skip_bytes);
        if crc32c(disk.read(offset, u64::from(verify.data_bytes))) != verify.data_checksum {
            recovered.truncate_at(verify.number)?;
            break;
        }
    }
    Ok(recovered)
}

impl Bench {
    fn new() -> Self {
        let mut disks: Vec<Disk> = (0..VOLUMES).map(|_| Disk::new(BLOCKS)).collect();
        let journal = format(0, 1, 1, 0, &mut disks[0]);
        disks[0].flush();
        Self {
            disks,
            is_lost: vec![false; VOLUMES],
            store: vec![Named { volume: 0, first: 1 }],
            chain: Chain::new(VolumeNumber(0), journal),
            incarnation: 1,
            given: BTreeMap::new(),
            durable: 0,
            kept_from: 1,
            settled: 0,
        }
    }

    fn written(&self) -> usize {
        common::index(u64::from(self.chain.volume().0))
    }

    fn append(&mut self, seed: u64) {
        let (draft, data) = make_update(self.chain.next().get(), seed);
        if self.chain.append(draft.clone()).is_ok() {
            self.given.insert(draft.update.number.get(), (draft, data));
        }
    }

    /// Writes the next commit; it is durable when the volume is flushed.
    fn write_commit(&mut self) -> bool {
        let Some(commit) = self.chain.poll_commit() else { return false };
        let volume = self.written();
        write(&mut self.disks[volume], &commit, &self.given);
        true
    }

    fn commit(&mut self) {
        while self.write_commit() {
            let volume = self.written();
            self.disks[volume].flush();
            self.chain.handle_committed();
            self.durable = self.chain.durable().get();
        }
    }

    fn checkpoint(&mut self, released: u64, settled: u64) {
        self.settled = self.settled.max(settled.min(self.durable));
        self.chain.handle_settled(number(self.settled));
        self.chain.release(number(released.min(self.settled)));
        let volume = self.written();
        if let Some(checkpoint) = self.chain.poll_checkpoint() {
            self.disks[volume].write(checkpoint.volume_offset, &checkpoint.block);
            self.disks[volume].flush();
            self.chain.handle_checkpointed();
        }
        let drained = self.chain.drained();
        self.store.drain(..drained);
        self.chain.drop_oldest(drained);
    }

    fn spare(&self) -> Option<usize> {
        (0..VOLUMES)
            .find(|volume| !self.is_lost[*volume] && self.store.iter().all(|named| named.volume != *volume))
    }

    /// Goes on in the next volume; `named` says whether the store comes to know it before a crash.
    fn change(&mut self, is_named: bool) {
        let Some(volume) = self.spare() else { return };
        self.commit();
        let first = self.chain.next().get();
        self.incarnation += 1;
        let journal = format(volume, first, self.incarnation, self.settled, &mut self.disks[volume]);
        self.disks[volume].flush();
        if !is_named {
            return self.crash(&mut Random(first));
        }
        self.store.push(Named { volume, first });
        self.chain.begin_segment(VolumeNumber(u32::try_from(volume).unwrap()), number(first), journal);
    }

    /// The volume that is written fails, and is read no more; another one takes over.
    fn fail(&mut self, is_named: bool) {
        let Some(volume) = self.spare() else { return };
        self.chain.handle_failed();
        let first = self.kept_from.min(self.durable + 1);
        self.incarnation += 1;
        let mut journal = format(volume, first, self.incarnation, self.settled, &mut self.disks[volume]);
        self.disks[volume].flush();
        let end = self.chain.next().get();
        let mut next = first;
        while next < end || journal.has_uncommitted() {
            while next < end {
                match journal.append(self.given[&next].0.clone()) {
                    Ok(_) => next += 1,
                    Err(AppendError::Full(Full::CommitBehind)) => break,
                    Err(_) => return self.crash(&mut Random(first)), // It is too small: nobody took over.
                }
            }
            if let Some(commit) = journal.poll_commit() {
                write(&mut self.disks[volume], &commit, &self.given);
                self.disks[volume].flush();
                journal.handle_committed();
            }
        }
        if !is_named {
            return self.crash(&mut Random(first));
        }
        let failed = self.written();
        self.store.push(Named { volume, first });
        self.chain.begin_segment(VolumeNumber(u32::try_from(volume).unwrap()), number(first), journal);
        self.durable = self.chain.durable().get();
        // What only the failed volume had is settled before it is really gone.
        let settled = self.durable;
        self.checkpoint(0, settled);
        self.is_lost[failed] = true;
        self.chain.lose_below(number(first));
        self.check();
    }

    /// Power loss and restart.
    fn crash(&mut self, random: &mut Random) {
        self.disks.iter_mut().for_each(|disk| disk.crash(random));
        let mut kept = Vec::new();
        let (mut end, mut lost_below, mut settled) = (None, 0, 0);
        for named in self.store.iter().rev() {
            let found = if self.is_lost[named.volume] {
                Err(RecoveryError::NoCheckpoint)
            } else {
                open(&self.disks[named.volume], end)
            };
            let position = if end.is_none() { Position::Last } else { Position::Earlier };
            let is_needed = end.is_none_or(|end| settled + 1 < end);
            match (judge(position, found.is_ok(), is_needed), found) {
                (Verdict::Keep, Ok(recovered)) => {
                    let journal = recovered.into_journal();
                    settled = settled.max(journal.settled().get());
                    kept.push((
                        VolumeNumber(u32::try_from(named.volume).unwrap()),
                        number(named.first),
                        journal,
                    ));
                }
                (Verdict::Lost, Err(_)) => lost_below = lost_below.max(end.unwrap()),
                (verdict, found) => panic!("{verdict:?} {named:?} of {:?}: {:?}", self.store, found.err()),
            }
            end = Some(named.first);
        }
        kept.reverse();
        self.chain = Chain::join(kept).unwrap();
        self.chain.lose_below(number(lost_below));
        assert!(self.chain.durable().get() >= self.durable, "a durable update is gone");
        assert!(self.chain.settled().get() >= self.settled);
        self.durable = self.chain.durable().get();
        self.kept_from = self.chain.next().get();
        self.given.split_off(&self.kept_from);
        self.check();
        // The first checkpoint of the session, before which nothing is taken.
        let volume = self.written();
        let checkpoint = self.chain.poll_checkpoint().unwrap();
        self.disks[volume].write(checkpoint.volume_offset, &checkpoint.block);
        self.disks[volume].flush();
        self.chain.handle_checkpointed();
    }

    /// Every update that is held is the one that was given, found in exactly one place.
    fn check(&self) {
        let mut next = self.chain.first_retained();
        assert!(
            next.get() <= self.settled.max(self.chain.lost_below().get()) + 1,
            "what is to be replayed is held"
        );
        while next <= self.chain.durable() {
            let held =
                self.chain.locate(next).unwrap_or_else(|| panic!("{next} is held by {:?}", self.store));
            let disk = &self.disks[common::index(u64::from(held.volume.0))];
            let updates = held.decode(disk.read(held.located.info_offset, held.located.info_bytes)).unwrap();
            let first = next;
            let from = updates.iter().skip_while(|stored| stored.update.number < first);
            for stored in from {
                let (draft, data) = &self.given[&stored.update.number.get()];
                assert_eq!((stored.update.number, &stored.update), (next, &draft.update));
                if let Some(place) = stored.place {
                    let at = place.volume_offset_bytes + u64::from(place.skip_bytes);
                    assert_eq!(disk.read(at, u64::try_from(data.len()).unwrap()), data, "data of {next}");
                }
                next = next.next();
            }
        }
    }
}

fn write(disk: &mut Disk, commit: &holdfast_journal::Commit, given: &BTreeMap<u64, (Draft, Vec<u8>)>) {
    for (number, offset) in &commit.data {
        let (draft, data) = &given[&number.get()];
        let mut block = vec![0; usize::from(draft.skip_bytes)];
        block.extend_from_slice(data);
        block.resize(block.len().next_multiple_of(4096), 0);
        disk.write(*offset, &block);
    }
    disk.write(commit.info_offset, &commit.info);
}

#[derive(Clone, Debug)]
enum Step {
    Append(u64),
    Commit,
    /// A commit is written and the power is lost before it is flushed.
    Torn(u64),
    /// Release and settle so much less than everything.
    Checkpoint(u64, u64),
    /// What is durable may leave memory.
    Forget,
    Change(bool),
    Fail(bool),
    Crash(u64),
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn every_durable_update_survives_changes_of_volume_their_failure_and_any_crash(steps in prop::collection::vec(
        prop_oneof![
            10 => (0_u64..40).prop_map(Step::Append),
            4 => Just(Step::Commit),
            1 => any::<u64>().prop_map(Step::Torn),
            3 => (0_u64..9, 0_u64..9).prop_map(|(released, settled)| Step::Checkpoint(released, settled)),
            2 => Just(Step::Forget),
            3 => (0_u8..4).prop_map(|choice| Step::Change(choice > 0)),
            1 => (0_u8..4).prop_map(|choice| Step::Fail(choice > 0)),
            1 => any::<u64>().prop_map(Step::Crash),
        ],
        1..200,
    )) {
        let mut bench = Bench::new();
        for step in steps {
            match step {
                Step::Append(seed) => bench.append(seed),
                Step::Commit => bench.commit(),
                Step::Torn(seed) => {
                    bench.write_commit();
                    bench.crash(&mut Random(seed));
                }
                Step::Checkpoint(released, settled) => {
                    bench.commit();
                    let durable = bench.durable;
                    bench.checkpoint(durable.saturating_sub(released), durable.saturating_sub(settled));
                }
                Step::Forget => bench.kept_from = bench.durable + 1,
                Step::Change(is_named) => bench.change(is_named),
                Step::Fail(is_named) => bench.fail(is_named),
                Step::Crash(seed) => bench.crash(&mut Random(seed)),
            }
        }
        bench.commit();
        bench.check();
    }
}

#[test]
fn volumes_take_turns_for_many_rounds_and_each_is_dropped_when_nothing_needs_it() {
    let mut bench = Bench::new();
    let mut changes = 0;
    for seed in 0..4000 {
        bench.append(seed);
        if seed % 5 == 0 {
            bench.commit();
        }
        if bench.chain.has_made_a_lap() && bench.spare().is_some() {
            bench.change(true);
            changes += 1;
        }
        if seed % 11 == 0 {
            bench.commit();
            let durable = bench.durable;
            bench.checkpoint(durable.saturating_sub(3), durable);
        }
    }
    assert!(changes > 100, "{changes}");
    bench.commit();
    bench.check();
    assert_eq!(UpdateNumber::new(bench.durable), bench.chain.durable());
}

/// A read that met the moment in which the chain goes on was once taken for one of what is no longer held.
#[test]
fn what_a_read_finds_is_still_there_when_the_chain_has_gone_on_meanwhile() {
    let mut bench = Bench::new();
    (0..4).for_each(|seed| bench.append(seed));
    bench.commit();
    let before = bench.chain.locate(number(2)).unwrap();
    bench.change(true);
    let after = bench.chain.locate(number(2)).unwrap();
    assert_ne!(before, after, "the volume has an end now");
    assert!(after.is_same_place(&before));
    bench.append(5);
    bench.commit();
    assert!(!bench.chain.locate(number(5)).unwrap().is_same_place(&before), "another volume");
    // The first volume is written again from its beginning.
    for seed in 6..4000 {
        bench.append(seed);
        bench.commit();
        bench.checkpoint(bench.durable - 1, bench.durable);
        if bench.chain.has_made_a_lap() && bench.spare().is_some() {
            bench.change(true);
        }
        let now = bench.chain.locate(bench.chain.durable()).unwrap();
        assert!(!now.is_same_place(&before), "update {} lies elsewhere, or is another", bench.durable);
    }
}

#[test]
fn damage_below_the_end_of_an_earlier_volume_is_corruption_although_nothing_in_it_claims_so() {
    let mut bench = Bench::new();
    for seed in 0..6 {
        bench.append(seed);
        bench.commit();
    }
    bench.change(true);
    let held = bench.chain.locate(number(6)).unwrap();
    assert_eq!(held.volume, VolumeNumber(0));
    let mut disk = bench.disks[0].clone();
    disk.flushed[common::index(held.located.info_offset)] ^= 1;
    // Alone it would be the end of the journal: no record claims the newest commit.
    assert_eq!(open(&disk, None).unwrap().newest(), number(5));
    assert!(
        matches!(open(&disk, Some(7)), Err(RecoveryError::Corruption { number, .. }) if number.get() == 6)
    );
}
