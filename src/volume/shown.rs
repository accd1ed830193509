//! One identity for the two volumes of a synchronous pair (decision 25): by which names hosts know a volume.
//!
//! A volume has an identity of its own, made with it and never changed. Hosts are shown that one, or another one that the volume
//! has been given. While a pair is *shared*, both of its volumes show what the P-VOL showed when the pair was made: a host's
//! multipath software takes the paths to both arrays for paths to one unit, and the states of their ports say which to use.
//!
//! # What it guarantees
//! * Both rows, that of the pair and that of the volume, change in one transaction: a start at any instant finds both or neither.
//! * An array shows no identity by two of its volumes.
//! * However a shared pair ends, one of its volumes stops showing the identity: the one that is no primary's. Whoever gives it
//!   up shows its own from then on, or, if it had been its own, the spare one that was drawn with the pair. Two arrays that are both
//!   primaries and cannot hear of each other both show it; that ends with the first word that one hears of the other.
//! * Whoever gives it up is mapped to no host any more, in the same transaction. A host that was told of one unit goes on to use the path
//!   that it has, whatever it is told there (Linux keeps what it was told first, and its multipath software notices some seconds
//!   later): were it let in, it would write to either of two different volumes. Only an operator maps the volume anew.
//! * Where both have taken over and know it, the one that did later answers hosts; the other one's ports are in standby until an operator
//!   has decided.
//!
//! The end of a pair has many causes (deleted, another source, another primary). All of them pass by `Tables::settle_identities`,
//! which the store calls in every transaction; so none can be forgotten. How it is proved: tests in
//! `apply/tests/shown.rs`; whole arrays in `tests/sim/identity.rs`; a Linux host under load in `tests/kernel/`.

use super::group::{Generation, GroupRecord, GroupRole};
use super::kind::CacheMode;
use super::name::{ArrayNumber, VolumeNumber};
use super::pair::PairRecord;
use super::record::{Identity, TargetRecord, VolumeRecord};
use super::table::Tables;
use super::takeover::{Taken, Takeover};
use serde::{Deserialize, Serialize};

/// What a primary says with a pair both of whose volumes show one identity.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SharedIdentity {
    /// What they show.
    pub shown: Identity,
    /// What the one whose own that was shows when it gives it up. Drawn with the pair.
    pub spare: Identity,
    /// The P-VOL is thin: provisioning is told to hosts, so both have to be alike.
    pub is_thin: bool,
    /// When writes to the P-VOL are answered: the caching mode page tells it, so both have to be alike.
    pub cache: CacheMode,
}

impl SharedIdentity {
    /// For a new pair of this P-VOL, whose designation has the identity `id`, drawn at random.
    #[must_use]
    pub fn of(pvol: &VolumeRecord, id: Identity) -> Self {
        let spare = Identity(id.0.rotate_left(SPARE_ROTATION) ^ SPARE_SALT);
        Self { shown: pvol.shown(), spare, is_thin: pvol.is_thin, cache: pvol.cache }
    }
}

impl VolumeRecord {
    /// The identity that hosts are shown.
    #[must_use]
    pub fn shown(&self) -> Identity {
        self.shown.unwrap_or(self.identity)
    }
}

/// How a volume that shows one identity with that of another array is to be used here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SharedVolume {
    /// The other array.
    pub other: ArrayNumber,
    /// Hosts use it here, as far as the tables say.
    pub is_active: bool,
    /// Hosts wait for the other array: without its word nothing is served here.
    pub is_together: bool,
    /// The writes of hosts are journaled, wherever they are taken.
    pub is_started: bool,
}

impl Tables {
    /// The pair by which a volume of this array shows one identity with another one, and how it is to be used; none if it shows
    /// one alone.
    #[must_use]
    pub fn shared_volume(&self, volume: VolumeNumber) -> Option<SharedVolume> {
        let pair = self.pairs_of_volume(volume).find(|pair| pair.shared.is_some())?;
        let group = self.groups.get(&pair.group)?;
        let is_active = group.role == GroupRole::Primary && !group.is_shut() && !is_outranked(group);
        let (is_together, is_started) = (group.is_together, group.is_started);
        Some(SharedVolume { other: self.other_array(pair), is_active, is_together, is_started })
    }

    fn other_array(&self, pair: &PairRecord) -> ArrayNumber {
        if self.is_served(pair) { pair.auxiliary.array } else { pair.primary.array }
    }

    /// Shared pairs that have ended since `before`: their volumes here keep the identity, or give it up.
    pub(crate) fn settle_identities(&mut self, before: &Self) {
        let shared = before.pairs.iter().filter(|pair| pair.shared.is_some());
        let over: Vec<PairRecord> = shared.filter(|pair| self.has_ended(pair)).cloned().collect();
        for pair in over {
            let is_left = self.pairs.get(&pair.number).is_some_and(|now| now.is_with_the_arrays_of(&pair));
            if let Some(row) = self.pairs.edit(&pair.number) {
                row.shared = None;
            }
            let group = before.groups.get(&pair.group);
            let keeps = group.is_some_and(|group| keeps(group, before.other_array(&pair)));
            // Where it was not ended here, the other array has said that it goes on alone.
            if keeps && !is_left {
                continue;
            }
            let side = if before.is_served(&pair) { &pair.primary } else { &pair.auxiliary };
            let Some(number) = side.volume else { continue };
            if let Some(volume) = self.volumes.edit(&number) {
                let is_own = volume.shown() == volume.identity;
                volume.shown = pair.shared.filter(|_| is_own);
            }
            self.unmap_everywhere(number);
        }
    }

    fn unmap_everywhere(&mut self, volume: VolumeNumber) {
        let maps = |target: &&TargetRecord| target.luns.iter().any(|lun| lun.volume == volume);
        let targets: Vec<_> = self.targets.iter().filter(maps).map(|target| target.iqn.clone()).collect();
        for iqn in &targets {
            if let Some(target) = self.targets.edit(iqn) {
                target.luns.retain(|lun| lun.volume != volume);
            }
        }
    }

    fn has_ended(&self, pair: &PairRecord) -> bool {
        let now = self.pairs.get(&pair.number);
        now.is_none_or(|now| now.shared.is_none() || !now.is_with_the_arrays_of(pair))
    }
}

impl PairRecord {
    fn is_with_the_arrays_of(&self, other: &Self) -> bool {
        let arrays = |pair: &Self| {
            let (one, two) = (pair.primary.array, pair.auxiliary.array);
            (one.min(two), one.max(two))
        };
        arrays(self) == arrays(other)
    }
}

/// Whether the volumes here keep the identity that they showed with those of the array `other`: this one is the primary, and that one
/// has not taken over.
fn keeps(group: &GroupRecord, other: ArrayNumber) -> bool {
    let by = match &group.takeover {
        Some(Takeover::Overtaken(by) | Takeover::Retaking(by)) => Some(by.array),
        Some(Takeover::Yielding(yielding)) => Some(yielding.to.array),
        Some(Takeover::Reaching | Takeover::Restoring | Takeover::Taken(_) | Takeover::Moving(_)) | None => {
            None
        }
    };
    group.role == GroupRole::Primary && by != Some(other)
}

/// Whether the other array took over as well, and later: hosts are to use the volumes there until an operator has decided.
fn is_outranked(group: &GroupRecord) -> bool {
    let Some(Takeover::Taken(Taken { rival: Some(rival), .. })) = &group.takeover else { return false };
    let age = |generations: &[Generation]| generations.last().map(|newest| (newest.counter, newest.array));
    age(rival) > age(&group.generations)
}

/// Makes a spare identity of that of a designation, which nothing else is made of in this way.
const SPARE_ROTATION: u32 = 13;
const SPARE_SALT: u128 = 0x7370_6172_6520_6964_656e_7469_7479_2031;
