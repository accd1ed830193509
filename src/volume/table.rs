//! The tables of one array in memory, as one value.
//!
//! Rows are shared: a copy of all tables costs a pointer for each row, so that a change works on a copy of its own,
//! readers keep the picture they began with, and the store sees by comparing pointers which rows have changed.

use super::designation::Refusal;
use super::drill::{DrillNumber, DrillRecord};
use super::group::{GroupEvent, GroupRecord, GroupState};
use super::kind::{CopyMode, SvolAccess};
use super::name::{
    ArrayNumber, GroupName, GroupNumber, IscsiName, LinkName, PairName, PairNumber, ParityGroupName,
    ParityGroupNumber, SnapshotNumber, VolumeName, VolumeNumber,
};
use super::pair::{PairEvent, PairRecord, PairState};
use super::pointer::PointerRecord;
use super::record::{
    DoomedRecord, ForwardRecord, LinkRecord, MetaRecord, ParityGroupRecord, ReaderRecord, ResultRecord,
    ScheduleRecord, TargetRecord, VolumeRecord, VolumeState, VolumeUsage,
};
use super::relay::{RelayChainRecord, RelayRecord};
use super::snapshot::SnapshotRecord;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

/// A row of a table: what it is found by, and what its table is called in the store.
pub trait Row: Clone + Debug + Serialize + DeserializeOwned {
    /// What the row is found by.
    type Key: Ord + Clone + Debug;
    /// Name of the table in the store; never changed.
    const TABLE: &'static str;
    /// The key of this row.
    fn key(&self) -> Self::Key;
    /// The key in the store: ordered as the key is.
    fn key_bytes(key: &Self::Key) -> Vec<u8>;
}

/// One table.
#[derive(Clone, Debug)]
pub struct Table<R: Row> {
    rows: BTreeMap<R::Key, Arc<R>>,
}

impl<R: Row> Default for Table<R> {
    fn default() -> Self {
        Self { rows: BTreeMap::new() }
    }
}

impl<R: Row> Table<R> {
    /// The row with this key.
    #[must_use]
    pub fn get(&self, key: &R::Key) -> Option<&R> {
        self.rows.get(key).map(AsRef::as_ref)
    }

    /// The row with this key, to be changed; its key fields must stay as they are.
    pub fn edit(&mut self, key: &R::Key) -> Option<&mut R> {
        self.rows.get_mut(key).map(Arc::make_mut)
    }

    /// Puts a row, instead of one with the same key.
    pub fn put(&mut self, row: R) {
        self.rows.insert(row.key(), Arc::new(row));
    }

    /// Takes a row out.
    pub fn remove(&mut self, key: &R::Key) -> bool {
        self.rows.remove(key).is_some()
    }

    /// All rows in the order of their keys.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &R> {
        self.rows.values().map(AsRef::as_ref)
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Rows of `self` that `before` does not have as they are, and keys that only `before` has.
    pub(super) fn changes_since(&self, before: &Self) -> (Vec<&R>, Vec<R::Key>) {
        let is_same =
            |key: &R::Key, row: &Arc<R>| before.rows.get(key).is_some_and(|old| Arc::ptr_eq(old, row));
        let put =
            self.rows.iter().filter(|(key, row)| !is_same(key, row)).map(|(_, row)| row.as_ref()).collect();
        let gone = before.rows.keys().filter(|key| !self.rows.contains_key(*key)).cloned().collect();
        (put, gone)
    }
}

/// All tables of one array.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    pub(super) meta: Table<MetaRecord>,
    /// Parity groups.
    pub parity_groups: Table<ParityGroupRecord>,
    /// Volume information.
    pub volumes: Table<VolumeRecord>,
    /// Targets.
    pub targets: Table<TargetRecord>,
    /// Links.
    pub links: Table<LinkRecord>,
    /// Links to third-party targets over which journals go.
    pub relays: Table<RelayRecord>,
    /// What was begun on them.
    pub relay_chains: Table<RelayChainRecord>,
    /// Group information.
    pub groups: Table<GroupRecord>,
    /// Pair information.
    pub pairs: Table<PairRecord>,
    /// Pointer information.
    pub pointers: Table<PointerRecord>,
    /// Arrays that read from this one.
    pub readers: Table<ReaderRecord>,
    /// Schedules of single groups that this array copies.
    pub schedules: Table<ScheduleRecord>,
    /// Designations on their way to other arrays.
    pub forwards: Table<ForwardRecord>,
    /// What came of designations.
    pub results: Table<ResultRecord>,
    /// Volumes whose extents are still to be given back.
    pub doomed: Table<DoomedRecord>,
    /// Snapshots.
    pub snapshots: Table<SnapshotRecord>,
    /// Disaster drills, those included of which only the record is left.
    pub drills: Table<DrillRecord>,
}

impl Tables {
    /// What the array knows about itself.
    ///
    /// # Panics
    /// Never for tables that came from a store: opening makes the row.
    #[must_use]
    pub fn meta(&self) -> &MetaRecord {
        self.meta.get(&()).expect("a store is opened with its own row in place")
    }

    pub(super) fn meta_mut(&mut self) -> &mut MetaRecord {
        self.meta.edit(&()).expect("a store is opened with its own row in place")
    }

    /// A number that no object of this array has had before; `None` after four thousand million of them.
    pub(super) fn next_number(&mut self) -> Option<u32> {
        let meta = self.meta_mut();
        meta.last_number = meta.last_number.checked_add(1)?;
        Some(meta.last_number)
    }

    /// No number up to this one is given any more.
    pub(crate) fn number_at_least(&mut self, number: u32) {
        let meta = self.meta_mut();
        meta.last_number = meta.last_number.max(number);
    }

    pub(super) fn next_sequence(&mut self) -> u64 {
        let meta = self.meta_mut();
        meta.last_sequence += 1;
        meta.last_sequence
    }

    /// A parity group by name.
    #[must_use]
    pub fn parity_group_named(&self, name: &ParityGroupName) -> Option<&ParityGroupRecord> {
        self.parity_groups.iter().find(|row| row.name == *name)
    }

    /// A volume by name.
    #[must_use]
    pub fn volume_named(&self, name: &VolumeName) -> Option<&VolumeRecord> {
        self.volumes.iter().find(|row| row.name == *name)
    }

    /// A group by name.
    #[must_use]
    pub fn group_named(&self, name: &GroupName) -> Option<&GroupRecord> {
        self.groups.iter().find(|row| row.name == *name)
    }

    /// A pair by name.
    #[must_use]
    pub fn pair_named(&self, name: &PairName) -> Option<&PairRecord> {
        self.pairs.iter().find(|row| row.name == *name)
    }

    /// The link to an array.
    #[must_use]
    pub fn link_to(&self, array: ArrayNumber) -> Option<&LinkRecord> {
        self.links.iter().find(|row| row.array == array)
    }

    /// The pairs of a group.
    pub fn pairs_of_group(&self, group: GroupNumber) -> impl Iterator<Item = &PairRecord> {
        self.pairs.iter().filter(move |pair| pair.group == group)
    }

    /// The pairs that a volume of this array is part of, as P-VOL or as S-VOL.
    pub fn pairs_of_volume(&self, volume: VolumeNumber) -> impl Iterator<Item = &PairRecord> {
        let own = self.meta().number;
        let is_here = move |array: ArrayNumber, number| array == own && number == Some(volume);
        self.pairs.iter().filter(move |pair| {
            is_here(pair.primary.array, pair.primary.volume)
                || is_here(pair.auxiliary.array, pair.auxiliary.volume)
        })
    }

    /// Whether the writes to a group's volumes are forwarded: its pairs are synchronous.
    #[must_use]
    pub fn is_forwarded(&self, group: GroupNumber) -> bool {
        self.pairs_of_group(group).any(|pair| pair.copy == CopyMode::Sync)
    }

    /// The synchronous pair by which another array forwards its hosts' writes to this volume.
    #[must_use]
    pub fn forwarded_here(&self, volume: VolumeNumber) -> Option<&PairRecord> {
        let own = self.meta().number;
        self.pairs_of_volume(volume).find(|pair| pair.copy == CopyMode::Sync && pair.auxiliary.array == own)
    }

    /// The pairs of a group whose P-VOL is here: all of them at the primary, those of the next arrays in the middle of a
    /// cascade.
    pub fn served_pairs(&self, group: GroupNumber) -> impl Iterator<Item = &PairRecord> {
        self.pairs_of_group(group).filter(|pair| self.is_served(pair))
    }

    /// The pairs of a group whose S-VOL is here.
    pub fn followed_pairs(&self, group: GroupNumber) -> impl Iterator<Item = &PairRecord> {
        self.pairs_of_group(group).filter(|pair| !self.is_served(pair))
    }

    /// Whether the P-VOL of a pair is here.
    #[must_use]
    pub fn is_served(&self, pair: &PairRecord) -> bool {
        self.meta.get(&()).is_some_and(|meta| meta.number == pair.primary.array)
    }

    /// The pair of a group whose S-VOL is this volume, if it is one.
    #[must_use]
    pub fn pair_above(&self, group: GroupNumber, volume: VolumeNumber) -> Option<&PairRecord> {
        self.followed_pairs(group).find(|pair| pair.auxiliary.volume == Some(volume))
    }

    /// The pairs of a group whose P-VOL is this volume.
    pub fn pairs_below(&self, group: GroupNumber, volume: VolumeNumber) -> impl Iterator<Item = &PairRecord> {
        self.served_pairs(group).filter(move |pair| pair.primary.volume == Some(volume))
    }

    /// The arrays that are copies of a group of this array.
    pub fn readers_of_group(&self, group: GroupNumber) -> impl Iterator<Item = &ReaderRecord> {
        self.all_readers_of_group(group).filter(|reader| !reader.is_attached)
    }

    /// The arrays that read a group: also those that are copies of another array and read here instead.
    pub fn all_readers_of_group(&self, group: GroupNumber) -> impl Iterator<Item = &ReaderRecord> {
        self.readers.iter().filter(move |reader| reader.group == group)
    }

    /// Lets something happen to a pair; an unused pair is taken out.
    ///
    /// # Errors
    /// There is no such pair, or the event has no meaning in its state.
    pub fn pair_event(
        &mut self,
        number: PairNumber,
        event: PairEvent,
        reason: Option<String>,
    ) -> Result<PairState, Refusal> {
        let pair = self.pairs.edit(&number).ok_or_else(|| Refusal::missing("pair", number))?;
        let Some(state) = pair.state.after(event) else {
            return Err(Refusal::conflict(format!("pair {} is {}", pair.name, pair.state)));
        };
        (pair.state, pair.reason) = (state, reason);
        if state == PairState::Normal {
            // The reader has passed all that was ever kept from it.
            (pair.control.withheld_from, pair.control.withheld_until) = (None, None);
            pair.control.is_image = true;
            (pair.control.left_behind, pair.control.stopped_at, pair.control.reaches) = (false, None, None);
            let group = pair.group;
            self.forget_images_of_the_past(group);
        }
        if state == PairState::Unused {
            self.pairs.remove(&number);
        }
        Ok(state)
    }

    /// Lets something happen to a group; an unused group is taken out.
    ///
    /// # Errors
    /// There is no such group, or the event has no meaning in its state.
    pub fn group_event(
        &mut self,
        number: GroupNumber,
        event: GroupEvent,
        reason: Option<String>,
    ) -> Result<GroupState, Refusal> {
        let group = self.groups.edit(&number).ok_or_else(|| Refusal::missing("group", number))?;
        let Some(state) = group.state.after(event) else {
            return Err(Refusal::conflict(format!("group {} is {}", group.name, group.state)));
        };
        (group.state, group.reason) = (state, reason);
        if state == GroupState::Unused {
            self.groups.remove(&number);
        }
        Ok(state)
    }

    /// What hosts may do with a volume now (mission row A2). A volume that does not exist: nothing.
    #[must_use]
    pub fn host_access(&self, number: VolumeNumber) -> HostAccess {
        let Some(volume) = self.volumes.get(&number) else { return HostAccess::None };
        let state = match volume.state {
            // Another array's hosts write it.
            VolumeState::Main if self.forwarded_here(number).is_some() => VolumeState::Auxiliary,
            VolumeState::Main if self.is_reversed(number) => VolumeState::Auxiliary,
            state => state,
        };
        match (volume.usage, state) {
            (VolumeUsage::Journal(_), _) | (_, VolumeState::Abnormal | VolumeState::Unused) => {
                HostAccess::None
            }
            (VolumeUsage::Snapshot(snapshot), _) => {
                self.snapshots.get(&snapshot).map_or(HostAccess::None, |row| row.hosts.access())
            }
            (VolumeUsage::Host, VolumeState::Normal | VolumeState::Main) => HostAccess::ReadWrite,
            (VolumeUsage::Host, VolumeState::Auxiliary) => {
                let pair = self.forwarded_here(number).or_else(|| self.pairs_of_volume(number).next());
                let group = pair.and_then(|pair| self.groups.get(&pair.group));
                match group.map(|group| group.settings.svol_access) {
                    Some(SvolAccess::Read) => HostAccess::ReadOnly,
                    Some(SvolAccess::None) | None => HostAccess::None,
                }
            }
        }
    }

    /// Whether a P-VOL is about to become an S-VOL: hosts write it no more.
    fn is_reversed(&self, number: VolumeNumber) -> bool {
        let mut groups = self.pairs_of_volume(number).filter_map(|pair| self.groups.get(&pair.group));
        groups.any(GroupRecord::is_shut)
    }

    /// Whether a volume is mapped to hosts.
    #[must_use]
    pub fn is_mapped(&self, volume: VolumeNumber) -> bool {
        self.targets.iter().any(|target| target.luns.iter().any(|lun| lun.volume == volume))
    }
}

/// What hosts may do with a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostAccess {
    /// Read and write.
    ReadWrite,
    /// Read.
    ReadOnly,
    /// Nothing.
    None,
}

/// Rows found by a number or by text.
macro_rules! row {
    ($row:ty, $table:literal, $key:ty, |$self:ident| $take:expr, |$k:ident| $bytes:expr) => {
        impl Row for $row {
            type Key = $key;
            const TABLE: &'static str = $table;

            fn key(&self) -> $key {
                let $self = self;
                $take
            }

            fn key_bytes($k: &$key) -> Vec<u8> {
                $bytes
            }
        }
    };
}

row!(MetaRecord, "meta", (), |_row| (), |_k| Vec::new());
row!(ParityGroupRecord, "parity_groups", ParityGroupNumber, |r| r.number, |k| k.0.to_be_bytes().to_vec());
row!(VolumeRecord, "volumes", VolumeNumber, |r| r.number, |k| k.0.to_be_bytes().to_vec());
row!(TargetRecord, "targets", IscsiName, |r| r.iqn.clone(), |k| k.as_str().as_bytes().to_vec());
row!(LinkRecord, "links", LinkName, |r| r.name.clone(), |k| k.as_str().as_bytes().to_vec());
row!(RelayRecord, "relays", LinkName, |r| r.name.clone(), |k| k.as_str().as_bytes().to_vec());
row!(RelayChainRecord, "relay_chains", LinkName, |r| r.relay.clone(), |k| k.as_str().as_bytes().to_vec());
row!(GroupRecord, "groups", GroupNumber, |r| r.number, |k| k.0.to_be_bytes().to_vec());
row!(PairRecord, "pairs", PairNumber, |r| r.number, |k| k.0.to_be_bytes().to_vec());
row!(
    PointerRecord,
    "pointers",
    (GroupNumber, ArrayNumber, VolumeNumber),
    |r| (r.group, r.array, r.volume),
    |k| [k.0.0.to_be_bytes(), k.1.0.to_be_bytes(), k.2.0.to_be_bytes()].concat()
);
row!(ReaderRecord, "readers", (GroupNumber, ArrayNumber), |r| (r.group, r.array), |k| {
    [k.0.0.to_be_bytes(), k.1.0.to_be_bytes()].concat()
});
row!(ScheduleRecord, "schedules", (LinkName, GroupName), |r| (r.link.clone(), r.group.clone()), |k| {
    // Names have no NUL, so that the separator keeps the order and no two keys meet.
    [k.0.as_str().as_bytes(), b"\0", k.1.as_str().as_bytes()].concat()
});
row!(ForwardRecord, "forwards", u64, |r| r.sequence, |k| k.to_be_bytes().to_vec());
row!(ResultRecord, "results", super::designation::DesignationId, |r| r.id, |k| k.0.0.to_be_bytes().to_vec());
row!(SnapshotRecord, "snapshots", SnapshotNumber, |r| r.number, |k| k.0.to_be_bytes().to_vec());
row!(DrillRecord, "drills", DrillNumber, |r| r.number, |k| k.0.to_be_bytes().to_vec());
row!(DoomedRecord, "doomed", VolumeNumber, |r| r.number, |k| k.0.to_be_bytes().to_vec());
