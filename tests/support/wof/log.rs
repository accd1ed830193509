//! What was issued and what was acknowledged, with ticks of one counter.

use super::plan::{Action, Command, Durability, Geometry, Place, WriteId};
use super::stamp::StampContext;
use super::{DurableRule, Observed, Verdict, Violation, check_crash, check_prefix};

/// A reading of the one counter; every issue and every acknowledgement has its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct Tick(pub(crate) u64);

impl Tick {
    /// After everything: the acknowledgement of what was never acknowledged.
    pub(crate) const NEVER: Self = Self(u64::MAX);
}

/// One issued command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// What was sent.
    pub(crate) command: Command,
    /// Drawn before its first byte left.
    pub(crate) issued: Tick,
    /// Drawn after its GOOD status was seen; [`Tick::NEVER`] until then.
    pub(crate) acked: Tick,
    /// The clock at that moment, in nanoseconds.
    pub(crate) acked_ns: u64,
    /// What its stamps say beside that.
    pub(crate) context: StampContext,
}

/// One completed SYNCHRONIZE CACHE.
#[derive(Clone, Copy, Debug)]
struct Sync {
    volume: u32,
    issued: Tick,
}

/// Given out when a read starts: the versions it must not fall below.
#[derive(Debug)]
pub(crate) struct ReadTicket {
    place: Place,
    at_least: Vec<u64>,
}

/// The history of one run.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    run: u64,
    geometry: Geometry,
    tick: u64,
    entries: Vec<Option<Entry>>,
    syncs: Vec<Sync>,
    last_acked: Vec<u64>,
    /// The issued zeroing that covers a sector. There is at most one, because places are zeroed once.
    zeroed_by: Vec<u64>,
    floor: u64,
    previous_chain: u64,
    acked_per_volume: [u64; 8],
    acked_count: u64,
}

impl Log {
    /// An empty history; `run` marks its stamps.
    pub(crate) fn new(run: u64, geometry: Geometry) -> Self {
        Self {
            run,
            geometry,
            tick: 0,
            entries: Vec::new(),
            syncs: Vec::new(),
            last_acked: vec![0; geometry.total_sectors()],
            zeroed_by: vec![0; geometry.total_sectors()],
            floor: 0,
            previous_chain: 0,
            acked_per_volume: [0; 8],
            acked_count: 0,
        }
    }

    /// The mark of this run's stamps.
    pub(crate) fn run(&self) -> u64 {
        self.run
    }

    /// The volumes.
    pub(crate) fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Commands acknowledged so far.
    pub(crate) fn acked_count(&self) -> u64 {
        self.acked_count
    }

    /// The entry of an issued command.
    pub(crate) fn entry(&self, id: WriteId) -> Option<&Entry> {
        let index = usize::try_from(id.0.checked_sub(1)?).ok()?;
        self.entries.get(index)?.as_ref()
    }

    /// Every issued command in the order of ids.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().flatten()
    }

    /// A fresh tick.
    pub(crate) fn draw(&mut self) -> Tick {
        self.tick += 1;
        Tick(self.tick)
    }

    /// Notes that `command` is about to be sent. A retry keeps its first entry.
    pub(crate) fn issue(&mut self, command: Command) -> Entry {
        if let Some(entry) = self.entry(command.id) {
            return *entry;
        }
        let issued = self.draw();
        let context = StampContext {
            issued: issued.0,
            floor: self.floor,
            previous_chain: self.previous_chain,
            last_acked: self.acked_per_volume,
        };
        if command.class == super::Class::Chain {
            self.previous_chain = command.id.0;
        }
        let entry = Entry { command, issued, acked: Tick::NEVER, acked_ns: u64::MAX, context };
        let index = index_of(command.id);
        if self.entries.len() <= index {
            self.entries.resize(index + 1, None);
        }
        self.entries[index] = Some(entry);
        if let Action::Zero { .. } = command.action {
            self.zeroed_by[command.place.flat(&self.geometry)].fill(command.id.0);
        }
        entry
    }

    /// Notes GOOD status, for whoever has no clock.
    pub(crate) fn acknowledge(&mut self, id: WriteId) {
        self.acknowledge_at(id, 0);
    }

    /// Notes GOOD status, seen at `now_ns`.
    pub(crate) fn acknowledge_at(&mut self, id: WriteId, now_ns: u64) {
        let acked = self.draw();
        let entry = self.entries[index_of(id)].as_mut().expect("only what was issued is acknowledged");
        assert!(entry.acked == Tick::NEVER, "{id:?} acknowledged twice");
        entry.acked = acked;
        entry.acked_ns = now_ns;
        let place = entry.command.place;
        for sector in &mut self.last_acked[place.flat(&self.geometry)] {
            *sector = (*sector).max(id.0);
        }
        if let Some(slot) =
            usize::try_from(place.volume).ok().and_then(|at| self.acked_per_volume.get_mut(at))
        {
            *slot = (*slot).max(id.0);
        }
        self.acked_count += 1;
        while self.entry(WriteId(self.floor + 1)).is_some_and(|next| next.acked != Tick::NEVER) {
            self.floor += 1;
        }
    }

    /// Notes that a SYNCHRONIZE CACHE that was sent at `issued` has completed.
    pub(crate) fn synced(&mut self, volume: u32, issued: Tick) {
        self.syncs.push(Sync { volume, issued });
    }

    /// A read of `place` is about to be sent.
    pub(crate) fn begin_read(&self, place: Place) -> ReadTicket {
        ReadTicket { place, at_least: self.last_acked[place.flat(&self.geometry)].to_vec() }
    }

    /// Judges what a live read returned: at least the last version acknowledged before it was sent, at most the last
    /// issued before it returned, sector by sector.
    pub(crate) fn end_read(&self, ticket: &ReadTicket, bytes: &[u8]) -> Vec<Violation> {
        let place = ticket.place;
        if bytes.len() != place.bytes() {
            return vec![Violation::ShortRead { place, got_bytes: bytes.len() }];
        }
        let sectors = bytes.chunks_exact(super::SECTOR_BYTES).zip(&ticket.at_least);
        let judged = (place.lba..).zip(sectors).filter_map(|(lba, (sector, &at_least))| {
            self.judge_read_sector(place.volume, lba, sector, at_least)
        });
        judged.collect()
    }

    fn judge_read_sector(&self, volume: u32, lba: u64, sector: &[u8], at_least: u64) -> Option<Violation> {
        // What is found was issued before the read returned, because everything in the log was.
        let found = if sector.iter().all(|&byte| byte == 0) {
            let zeroing = self.zeroed_by[self.geometry.flat(volume, lba)];
            if zeroing >= at_least { zeroing } else { 0 }
        } else {
            match super::stamp::identify(self, volume, lba, sector) {
                Ok(id) => id.0,
                Err(why) => return Some(Violation::Damaged { volume, lba, why }),
            }
        };
        let (expected, found) = (WriteId(at_least), WriteId(found));
        (found < expected).then_some(Violation::Stale { volume, lba, expected, found })
    }

    /// For every sector the newest version that must be there after a crash: acknowledged before a SYNCHRONIZE CACHE
    /// of its volume was sent that completed, or acknowledged with FUA.
    pub(crate) fn durable_versions(&self) -> Vec<u64> {
        let mut newest_sync = std::collections::BTreeMap::<u32, Tick>::new();
        for sync in &self.syncs {
            let tick = newest_sync.entry(sync.volume).or_default();
            *tick = (*tick).max(sync.issued);
        }
        let mut versions = vec![0; self.geometry.total_sectors()];
        for entry in self.entries().filter(|entry| entry.acked != Tick::NEVER) {
            let synced = newest_sync.get(&entry.command.place.volume).is_some_and(|&sync| entry.acked < sync);
            if synced || entry.command.action == Action::Write(Durability::Fua) {
                raise(&mut versions[entry.command.place.flat(&self.geometry)], entry.command.id);
            }
        }
        versions
    }

    /// For every sector the newest acknowledged version.
    pub(crate) fn acked_versions(&self) -> &[u64] {
        &self.last_acked
    }

    /// Goes on after a crash of volumes that promise only what was flushed: any other write may be gone, in part or as
    /// a whole. What is missing becomes unacknowledged and is sent again, and with it every later command on a sector
    /// that is written anew, so that versions stay in order. Returns them in the order of ids.
    pub(crate) fn resume_after_loss(&mut self, image: &Observed) -> Result<Vec<Command>, Box<Verdict>> {
        let verdict = check_crash(self, image, DurableRule::Flushed);
        if !verdict.violations.is_empty() {
            return Err(Box::new(verdict));
        }
        let mut anew = vec![false; self.geometry.total_sectors()];
        let mut again = Vec::new();
        for entry in self.entries.iter_mut().flatten() {
            let sectors = entry.command.place.flat(&self.geometry);
            let is_missing =
                verdict.versions[sectors.clone()].iter().any(|&found| found < entry.command.id.0);
            if !is_missing && !anew[sectors.clone()].contains(&true) {
                continue;
            }
            anew[sectors].fill(true);
            entry.acked = Tick::NEVER;
            entry.acked_ns = u64::MAX;
            again.push(entry.command);
        }
        self.recount(&again);
        Ok(again)
    }

    /// Goes on after a crash that may legitimately have lost acknowledged writes (a volatile write-back volume). The
    /// image must be prefix consistent; every write that it lost becomes unacknowledged again, and the caller sends
    /// those, as a host replays what it had not flushed. Returns them in the order of ids.
    pub(crate) fn resume_after_crash(&mut self, image: &Observed) -> Result<Vec<Command>, Box<Verdict>> {
        let verdict = check_prefix(self, image);
        if !verdict.violations.is_empty() {
            return Err(Box::new(verdict));
        }
        let mut again = Vec::new();
        for entry in self.entries.iter_mut().flatten() {
            let place = entry.command.place;
            let missing =
                verdict.versions[place.flat(&self.geometry)].iter().any(|&found| found < entry.command.id.0);
            if !missing {
                continue;
            }
            entry.acked = Tick::NEVER;
            entry.acked_ns = u64::MAX;
            again.push(entry.command);
        }
        self.recount(&again);
        Ok(again)
    }

    /// Makes the sums follow entries that became unacknowledged.
    fn recount(&mut self, again: &[Command]) {
        self.last_acked = vec![0; self.geometry.total_sectors()];
        for entry in self.entries.iter().flatten().filter(|entry| entry.acked != Tick::NEVER) {
            raise(&mut self.last_acked[entry.command.place.flat(&self.geometry)], entry.command.id);
        }
        let first_gap = again.first().map_or(self.floor, |command| command.id.0 - 1);
        self.floor = self.floor.min(first_gap);
        let acked = self.entries.iter().flatten().filter(|entry| entry.acked != Tick::NEVER).count();
        self.acked_count = u64::try_from(acked).expect("a count fits 64 bits");
    }
}

fn raise(sectors: &mut [u64], id: WriteId) {
    for sector in sectors {
        *sector = (*sector).max(id.0);
    }
}

fn index_of(id: WriteId) -> usize {
    usize::try_from(id.0 - 1).expect("ids of a test fit memory")
}
