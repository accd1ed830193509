//! The verdicts on an image.
//!
//! For each sector `x` let `v(x)` be the id found (0 = never written) and `next(x)` the smallest id above it that
//! covers `x`. With `M` = the newest issue tick of all commands found and `U` = the earliest acknowledgement of any
//! `next(x)`, the image is prefix consistent exactly if `U > M` and every command found is, on each of its sectors,
//! found or replaced by a newer one. One step is enough: `A(u) < I(u') < A(u') < I(w)`, so the smallest closed set that
//! contains everything seen is "seen, and everything acknowledged before `M`".
//!
//! A zero sector under a zeroing counts as zeroed if the zeroing's victim is required (seen, or acknowledged before
//! `M`), else as never written; a zeroing accepted that way counts as seen, so this repeats until `M` is stable.

use super::log::{Entry, Log, Tick};
use super::plan::{Action, Geometry, Place, WriteId};
use super::{SECTOR_BYTES, stamp};
use std::collections::BTreeSet;
use std::fmt;

/// What was found on every sector of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Observed {
    /// For each sector, volume after volume: 0 for zeros, else the id, or [`Observed::DAMAGED`].
    pub(crate) found: Vec<u64>,
    /// What is wrong with the damaged ones.
    pub(crate) damage: Vec<Violation>,
}

impl Observed {
    /// Marks a sector that is listed in `damage`.
    pub(crate) const DAMAGED: u64 = u64::MAX;

    /// Reads the stamps of whole volumes.
    pub(crate) fn from_images(log: &Log, images: &[Vec<u8>]) -> Self {
        Self::from_changed_images(log, images, None)
    }

    /// The same where an earlier image of the same run is known: a sector with the same bytes has the same stamp.
    pub(crate) fn from_changed_images(
        log: &Log,
        images: &[Vec<u8>],
        known: Option<&(Vec<Vec<u8>>, Self)>,
    ) -> Self {
        let geometry = log.geometry();
        let mut observed = Self { found: vec![0; geometry.total_sectors()], damage: Vec::new() };
        let mut flat = 0;
        for (index, image) in images.iter().enumerate() {
            let before = known.and_then(|(images, observed)| Some((images.get(index)?, observed)));
            for (at, sector) in image.chunks_exact(SECTOR_BYTES).enumerate() {
                let same = before.and_then(|(before, observed)| {
                    let id = *observed.found.get(flat)?;
                    let is_same = before.get(at * SECTOR_BYTES..)?.get(..SECTOR_BYTES)? == sector;
                    (is_same && id != Self::DAMAGED).then_some(id)
                });
                match same {
                    Some(id) => observed.found[flat] = id,
                    None if sector.iter().any(|&byte| byte != 0) => {
                        observed.identify(log, geometry, flat, sector);
                    }
                    None => {}
                }
                flat += 1;
            }
        }
        assert_eq!(flat, geometry.total_sectors(), "images as long as the volumes of the workload");
        observed
    }

    fn identify(&mut self, log: &Log, geometry: Geometry, flat: usize, sector: &[u8]) {
        let (volume, lba) = geometry.unflat(flat);
        self.found[flat] = match stamp::identify(log, volume, lba, sector) {
            Ok(id) => id.0,
            Err(why) => {
                self.damage.push(Violation::Damaged { volume, lba, why });
                Self::DAMAGED
            }
        };
    }
}

/// Why an image is refused. Carries the places and ticks that a person needs to find the cause.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Violation {
    /// A sector that no command of this run can have left there.
    Damaged {
        /// Volume.
        volume: u32,
        /// Sector.
        lba: u64,
        /// What does not fit.
        why: &'static str,
    },
    /// A command is there in part.
    Torn {
        /// Which.
        id: WriteId,
        /// Its range.
        place: Place,
        /// A sector of it that is older.
        at_lba: u64,
    },
    /// An acknowledged command is missing although one is there that was issued after the acknowledgement.
    Order {
        /// What is missing, where, and when it was acknowledged.
        missing: (WriteId, Place, Tick),
        /// What is there, where, and when it was issued.
        present: (WriteId, Place, Tick),
    },
    /// A command that must have survived is gone.
    Lost {
        /// Volume.
        volume: u32,
        /// Sector.
        lba: u64,
        /// The version that must be there.
        expected: WriteId,
        /// What is there.
        found: WriteId,
    },
    /// A logical block holds sectors of different versions.
    TornBlock {
        /// Volume.
        volume: u32,
        /// Its first sector.
        lba: u64,
    },
    /// A live read returned what had been replaced before it was sent.
    Stale {
        /// Volume.
        volume: u32,
        /// Sector.
        lba: u64,
        /// The version that it must at least be.
        expected: WriteId,
        /// What it returned.
        found: WriteId,
    },
    /// A read returned another length than asked.
    ShortRead {
        /// What was asked.
        place: Place,
        /// What came.
        got_bytes: usize,
    },
    /// A later image of the same copy has an older version.
    Backwards {
        /// Volume.
        volume: u32,
        /// Sector.
        lba: u64,
        /// Before.
        before: WriteId,
        /// After.
        after: WriteId,
    },
}

/// What a check found.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    /// Empty if all is well.
    pub(crate) violations: Vec<Violation>,
    /// `M`: the newest issue tick of all commands found.
    pub(crate) newest_seen: Tick,
    /// `U`: the earliest acknowledgement that is missing.
    pub(crate) earliest_missing: Tick,
    /// For each sector the version it was taken for.
    pub(crate) versions: Vec<u64>,
}

impl Verdict {
    /// Panics with the violations if there are any.
    pub(crate) fn expect_clean(&self, what: &str) {
        assert!(self.violations.is_empty(), "{what}: {self}");
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} violations", self.violations.len())?;
        for violation in self.violations.iter().take(10) {
            write!(f, "\n  {violation:?}")?;
        }
        Ok(())
    }
}

/// Whether `observed` is prefix consistent, over all volumes together.
pub(crate) fn check_prefix(log: &Log, observed: &Observed) -> Verdict {
    let mut search = Search::new(log, observed);
    search.settle_zeroings();
    let mut violations = observed.damage.clone();
    search.find_torn(&mut violations);
    let missing = search.earliest_missing();
    let earliest_missing = missing.map_or(Tick::NEVER, |entry| entry.acked);
    if let (Some(missing), Some(present)) = (missing, search.newest)
        && missing.acked < present.issued
    {
        violations.push(Violation::Order {
            missing: (missing.command.id, missing.command.place, missing.acked),
            present: (present.command.id, present.command.place, present.issued),
        });
    }
    let newest_seen = search.newest.map_or(Tick(0), |entry| entry.issued);
    Verdict { violations, newest_seen, earliest_missing, versions: search.versions }
}

/// What an acknowledgement promises about a crash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DurableRule {
    /// Every acknowledged write is durable (write-through).
    Acknowledged,
    /// A write is durable when it carried FUA, or when a later SYNCHRONIZE CACHE has completed (write-back).
    Flushed,
}

/// Whether the volumes that took the writes themselves may look like `observed` after a crash: nothing durable is
/// gone, and only commands that need not be there are torn, at edges of logical blocks.
pub(crate) fn check_crash(log: &Log, observed: &Observed, rule: DurableRule) -> Verdict {
    let mut search = Search::new(log, observed);
    search.settle_zeroings();
    let required = match rule {
        DurableRule::Acknowledged => log.acked_versions().to_vec(),
        DurableRule::Flushed => log.durable_versions(),
    };
    search.raise_zeros_to(&required);
    let mut violations = observed.damage.clone();
    let geometry = log.geometry();
    for (flat, (&found, &required)) in search.versions.iter().zip(&required).enumerate() {
        if found < required {
            let (volume, lba) = geometry.unflat(flat);
            violations.push(Violation::Lost {
                volume,
                lba,
                expected: WriteId(required),
                found: WriteId(found),
            });
        }
    }
    search.find_torn_blocks(&mut violations);
    let newest_seen = search.newest.map_or(Tick(0), |entry| entry.issued);
    let earliest_missing = search.earliest_missing().map_or(Tick::NEVER, |entry| entry.acked);
    Verdict { violations, newest_seen, earliest_missing, versions: search.versions }
}

/// Whether a copy moved only forwards between two checks of it.
pub(crate) fn check_monotone(geometry: Geometry, before: &Verdict, after: &Verdict) -> Vec<Violation> {
    let pairs = before.versions.iter().zip(&after.versions).enumerate();
    pairs
        .filter(|(_, (before, after))| after < before)
        .map(|(flat, (&before, &after))| {
            let (volume, lba) = geometry.unflat(flat);
            Violation::Backwards { volume, lba, before: WriteId(before), after: WriteId(after) }
        })
        .collect()
}

/// Acknowledged writes that a consistent image certainly does not contain: what a takeover there would lose. Where zeros
/// may be those of a zeroing or of before its victim, and nothing in the image decides, neither counts.
pub(crate) fn lost_writes(log: &Log, verdict: &Verdict) -> Vec<WriteId> {
    let found = |entry: &Entry| &verdict.versions[entry.command.place.flat(&log.geometry())];
    let undecided: BTreeSet<WriteId> = log
        .entries()
        .filter(|entry| found(entry).contains(&0))
        .filter_map(|entry| Some([entry.command.id, victim_of(entry)?]))
        .flatten()
        .collect();
    let contained = |entry: &Entry| found(entry).iter().any(|&found| found >= entry.command.id.0);
    let acked = log.entries().filter(|entry| entry.acked != Tick::NEVER);
    let lost = acked.filter(|entry| !contained(entry) && !undecided.contains(&entry.command.id));
    lost.map(|entry| entry.command.id).collect()
}

/// The state of one check: `versions` is `v(x)` as far as it is decided.
struct Search<'a> {
    log: &'a Log,
    geometry: Geometry,
    versions: Vec<u64>,
    seen: Vec<bool>,
    newest: Option<&'a Entry>,
}

impl<'a> Search<'a> {
    fn new(log: &'a Log, observed: &Observed) -> Self {
        let ids = log.entries().map(|entry| entry.command.id.0).max().unwrap_or(0);
        let seen = vec![false; usize::try_from(ids + 1).expect("ids of a test fit memory")];
        let mut search =
            Self { log, geometry: log.geometry(), versions: observed.found.clone(), seen, newest: None };
        for &found in &observed.found {
            if found != 0 && found != Observed::DAMAGED {
                search.see(WriteId(found));
            }
        }
        search
    }

    fn see(&mut self, id: WriteId) {
        let index = usize::try_from(id.0).expect("ids of a test fit memory");
        if std::mem::replace(&mut self.seen[index], true) {
            return;
        }
        let entry = self.log.entry(id).expect("only issued ids are found");
        if self.newest.is_none_or(|newest| newest.issued < entry.issued) {
            self.newest = Some(entry);
        }
    }

    fn is_seen(&self, id: WriteId) -> bool {
        usize::try_from(id.0).is_ok_and(|index| self.seen[index])
    }

    /// Takes zero sectors for zeroed where the zeroing's victim is required, until nothing changes.
    fn settle_zeroings(&mut self) {
        let mut open: Vec<&Entry> = self.log.entries().filter(|entry| victim_of(entry).is_some()).collect();
        loop {
            let before = open.len();
            let mut undecided = Vec::with_capacity(before);
            for entry in open {
                if self.is_required(victim_of(entry).expect("kept for its victim")) {
                    self.accept_zeroing(entry);
                } else {
                    undecided.push(entry);
                }
            }
            if undecided.len() == before {
                return;
            }
            open = undecided;
        }
    }

    fn is_required(&self, id: WriteId) -> bool {
        let Some(entry) = self.log.entry(id) else { return false };
        self.is_seen(id) || self.newest.is_some_and(|newest| entry.acked < newest.issued)
    }

    fn accept_zeroing(&mut self, zeroing: &Entry) {
        let id = zeroing.command.id;
        let mut accepted = false;
        for version in &mut self.versions[zeroing.command.place.flat(&self.geometry)] {
            if *version == 0 {
                *version = id.0;
                accepted = true;
            }
        }
        if accepted {
            self.see(id);
        }
    }

    /// After a crash a zero sector may be taken for zeroed wherever that is what must be there.
    fn raise_zeros_to(&mut self, required: &[u64]) {
        for entry in self.log.entries().filter(|entry| victim_of(entry).is_some()) {
            let id = entry.command.id;
            for flat in entry.command.place.flat(&self.geometry) {
                if self.versions[flat] == 0 && required[flat] != 0 && required[flat] <= id.0 {
                    self.versions[flat] = id.0;
                }
            }
        }
    }

    fn find_torn(&self, violations: &mut Vec<Violation>) {
        for entry in self.log.entries().filter(|entry| self.is_seen(entry.command.id)) {
            let Place { volume, .. } = entry.command.place;
            let mut sectors = entry.command.place.flat(&self.geometry);
            if let Some(flat) = sectors.find(|&flat| self.versions[flat] < entry.command.id.0) {
                let (found_volume, at_lba) = self.geometry.unflat(flat);
                debug_assert_eq!(found_volume, volume);
                violations.push(Violation::Torn { id: entry.command.id, place: entry.command.place, at_lba });
            }
        }
    }

    fn find_torn_blocks(&self, violations: &mut Vec<Violation>) {
        let block = usize::try_from(self.geometry.sectors_per_block).expect("a small number");
        for (index, sectors) in self.versions.chunks_exact(block).enumerate() {
            if sectors.iter().any(|&version| version != sectors[0]) {
                let (volume, lba) = self.geometry.unflat(index * block);
                violations.push(Violation::TornBlock { volume, lba });
            }
        }
    }

    /// Of all commands that some sector lacks next, the one that was acknowledged first.
    fn earliest_missing(&self) -> Option<&'a Entry> {
        let mut has_next = vec![false; self.versions.len()];
        let mut earliest: Option<&Entry> = None;
        for entry in self.log.entries() {
            let mut is_next = false;
            for flat in entry.command.place.flat(&self.geometry) {
                if self.versions[flat] < entry.command.id.0 && !has_next[flat] {
                    has_next[flat] = true;
                    is_next = true;
                }
            }
            let earlier = earliest.is_none_or(|known| entry.acked < known.acked);
            if is_next && entry.acked != Tick::NEVER && earlier {
                earliest = Some(entry);
            }
        }
        earliest
    }
}

fn victim_of(entry: &Entry) -> Option<WriteId> {
    match entry.command.action {
        Action::Zero { victim } => Some(victim),
        Action::Write(_) => None,
    }
}
