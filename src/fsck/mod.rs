//! `holdfast fsck DIR`: every structure that an array keeps on its disks, checked while no array uses them (`docs/on-disk.md`).
//!
//! # What it guarantees
//! * **Nothing is written**, neither to the control store nor to a unit: both are opened for reading only, and what the opening of a
//!   parity group or of the database would mend is forgotten. Nothing is checked that an array uses, and none can start meanwhile: its
//!   locks are held. What is in use, or may not be read, is refused and not called damaged.
//! * **What it calls sound the next start opens**, because it is read by the code of a start: the control store, superblocks,
//!   the log of each map, the chain of journal volumes of each group. Beyond that it reads what a start does not look at: the second
//!   copies of superblocks and of blocks of a map's log, the write data of every update that is still held, the audit log, what a relay's LUNs
//!   hold that lie in the directory, and with `--parity` the parity of every stripe.
//! * **What a crash leaves behind is sound.** Half-written tails, an unfinished switch of a map's log, a torn checkpoint: whatever a start
//!   takes for the end of something, this does. The exceptions: parity ([`Wants::parity`]); the two superblocks of a unit, where the
//!   crash came while they were written (a member had failed); a control store that ended before its first start was done.
//! * Damage is named by the structure, its place, and what follows from it; of much damage in one place the first is named and the rest counted.
//!
//! Not checked: what hosts' data say, which have no checksums at rest (`docs/on-disk.md`, chapter 8); the retired half of a map's log, a lost
//! checkpoint slot, reserved areas, spares.
//!
//! # How it is proved
//! Arrays that were killed or lost their power at any moment are checked in simulated stories (`tests/sim/cluster/sound.rs`): each has to be sound. For each
//! structure something is damaged (`tests/process/fsck.rs`, `fsck/directory.rs`) and has to be found, named, and nothing be written.

mod directory;
mod group;
mod journal;
mod unit;

pub use directory::check_directory;

use crate::clock::Clock;
use crate::copy::differences::REGIONS_MAX;
use crate::disk::DiskAdapter;
use crate::disk::cache::CacheSettings;
use crate::disk::io::opener::UnitOpener;
use crate::disk::slot::SlotPool;
use crate::volume::kind::RaidLevel;
use crate::volume::record::{VolumeRecord, VolumeUsage};
use crate::volume::store::Inspected;
use crate::volume::table::Tables;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is to be read beside the structures themselves.
#[derive(Clone, Copy, Debug)]
pub struct Wants {
    /// Told what is looked at, as it begins and, where that takes long, how far it has come.
    pub progress: fn(&str),
    /// All units of parity groups with parity from end to end. A stripe whose parity is not that of its data counts as damaged, though a
    /// kill or a power loss may leave it so where something was being written (`docs/on-disk.md`, chapter 8).
    pub parity: bool,
}

impl Default for Wants {
    fn default() -> Self {
        Self { progress: |_| (), parity: false }
    }
}

/// Something that was looked at, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Looked {
    /// Which structure.
    pub what: String,
    /// What it is like.
    pub found: String,
}

/// Something that is not as an array leaves it behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// Which structure, and where in it.
    pub place: String,
    /// What is wrong, and what follows.
    pub what: String,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether there is no damage.
    pub sound: bool,
    /// What was looked at, in order.
    pub checked: Vec<Looked>,
    /// What is damaged.
    pub damage: Vec<Damage>,
    /// How much more there is in a place than is named.
    #[serde(skip)]
    unnamed: BTreeMap<String, u64>,
    /// Why something could not be looked at that may well be sound.
    #[serde(skip)]
    refused: Option<String>,
}

impl Report {
    fn say(&mut self, what: &str, found: impl Into<String>) {
        self.checked.push(Looked { what: what.to_owned(), found: found.into() });
    }

    fn blame(&mut self, place: impl Into<String>, what: impl ToString) {
        let (place, what) = (place.into(), what.to_string());
        let before = self.damage.iter().filter(|damage| damage.place == place).count();
        if before >= NAMED_MAX {
            *self.unnamed.entry(place).or_default() += 1;
            return;
        }
        // Most errors name their place by themselves.
        let what = what.strip_prefix(&format!("{place}: ")).map_or(what.clone(), str::to_owned);
        self.damage.push(Damage { place, what });
    }

    /// It is in use, or may not be read: nobody can say whether it is damaged.
    fn refuse(&mut self, why: impl ToString) {
        self.refused.get_or_insert(why.to_string());
    }

    fn finish(mut self) -> Result<Self, String> {
        for (place, count) in std::mem::take(&mut self.unnamed) {
            self.damage.push(Damage { place, what: format!("and {count} more of that kind") });
        }
        self.sound = self.damage.is_empty();
        self.refused.take().map_or(Ok(self), Err)
    }
}

/// Checks an array of which nothing runs: its store, and the units that this names, opened by `units`.
///
/// # Errors
/// A unit is in use, or may not be read.
pub async fn check_array(
    inspected: &Inspected,
    units: &dyn UnitOpener,
    clock: Arc<dyn Clock>,
    wants: Wants,
) -> Result<Report, String> {
    let mut report = Report::default();
    check_into(inspected, units, clock, wants, &mut report).await;
    report.finish()
}

async fn check_into(
    inspected: &Inspected,
    units: &dyn UnitOpener,
    clock: Arc<dyn Clock>,
    wants: Wants,
    report: &mut Report,
) {
    let tables = &inspected.tables;
    store(inspected, report);
    let pool = SlotPool::new(MEMORY_BYTES);
    let disk = DiskAdapter::new(pool.clone(), clock, CacheSettings::default());
    for record in tables.parity_groups.iter() {
        group::check(tables, record, units, (&disk, &pool), wants, report).await;
    }
    for record in tables.groups.iter() {
        (wants.progress)(&format!("journal of group {}", record.name));
        journal::check(tables, record, &disk, report).await;
    }
}

/// What a start does not look at: references between rows, and parts of difference maps.
fn store(inspected: &Inspected, report: &mut Report) {
    let tables = &inspected.tables;
    for line in &inspected.damage {
        report.blame(STORE, line);
    }
    for volume in tables.volumes.iter() {
        if let Some(group) = volume.parity_group.filter(|group| tables.parity_groups.get(group).is_none()) {
            report.blame(
                STORE,
                format!("volume {} lies on parity group {group}, which is not there", volume.name),
            );
        }
        if let VolumeUsage::Journal(group) = volume.usage
            && tables.groups.get(&group).is_none()
        {
            report.blame(
                STORE,
                format!("volume {} is a journal of group {group}, which is not there", volume.name),
            );
        }
    }
    for pair in tables.pairs.iter().filter(|pair| tables.groups.get(&pair.group).is_none()) {
        report.blame(STORE, format!("pair {} is of group {}, which is not there", pair.name, pair.group));
    }
    for target in tables.targets.iter() {
        for lun in target.luns.iter().filter(|lun| tables.volumes.get(&lun.volume).is_none()) {
            let (iqn, lun, volume) = (target.iqn.as_str(), lun.lun.0, lun.volume);
            report.blame(STORE, format!("LUN {lun} of {iqn} is volume {volume}, which is not there"));
        }
    }
    for (pair, part, bytes) in &inspected.marks {
        if *bytes != MARKS_BYTES || u64::from(*part) >= REGIONS_MAX / (8 * MARKS_BYTES as u64) {
            report.blame(
                STORE,
                format!("part {part} of the difference map of pair {pair}: no map has one like it"),
            );
        }
    }
    report.say(
        STORE,
        format!(
            "{} volumes, {} groups, {} pairs, {} parts of difference maps, {} audit records",
            tables.volumes.iter().count(),
            tables.groups.iter().count(),
            tables.pairs.iter().count(),
            inspected.marks.len(),
            inspected.audit_records
        ),
    );
}

/// What people call a volume.
fn name_of(tables: &Tables, number: u32) -> String {
    let volume = tables.volumes.get(&crate::volume::name::VolumeNumber(number));
    volume.map_or_else(|| format!("number {number}"), |volume| volume.name.to_string())
}

fn has_parity(level: RaidLevel) -> bool {
    matches!(level, RaidLevel::Raid5)
}

fn is_journal(volume: &VolumeRecord) -> bool {
    matches!(volume.usage, VolumeUsage::Journal(_))
}

/// What the control store is called in reports.
const STORE: &str = "control store";

/// Bytes of a part of a difference map (`docs/on-disk.md`, chapter 6).
const MARKS_BYTES: usize = 4096;

/// Memory for what is read at a time: the longest update and the largest piece of a map's log fit in many times.
const MEMORY_BYTES: usize = 128 << 20;

/// So much damage of one place is named one by one.
const NAMED_MAX: usize = 100;
