//! What a journal holds for the other copies of a primary that is lost (promises K1, K3 and K4; decision 22).
//!
//! # What it guarantees
//! * **A synchronous copy keeps what the others lack.** Its source says up to which number all of them have settled; what is behind
//!   that stays in the journal here, too, as long as the journal has room for it ([`Sequencer::needed_here`]): hosts never wait for
//!   that, and no reader overflows because of it. While the source has not said it, everything is kept.
//! * **What it lets go is marked** from the number on that the S-VOLs of *stopped* pairs reach, which the source says as well: for them
//!   no journal is kept, and the map (`freed.rs`) says what they lack.
//! * **A journal outlives a takeover.** The new primary goes on in the journal that it had as a copy, and another reader of the
//!   old primary that lacks nothing but what is in there simply reads on from here: no mark, no copy, its S-VOLs are an image all
//!   along ([`Group::admit`]).
//! * **Volumes have one name for a reader.** The records of the former primary name its volumes; they are given this array's numbers
//!   whenever they are got back ([`Inherited::named_here`]), so nobody sees the others.
//! * **Never across a hole.** What was kept from this array while a pair of its own was suspended is not in its journal; a reader that
//!   would have to read past such a place comes by differences.
//!
//! How it is proved: unit tests below; `tests/sim/three_centres.rs` loses the first array at random moments.

use super::error::CopyError;
use super::group::{Group, PairRuntime, Role, Sequencer};
use crate::disk::slot::Class;
use crate::volume::pair::PairState;
use holdfast_journal::{ArrayNumber, Kind, Stored, Update, UpdateNumber, VolumeNumber};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Updates of a former primary in the journal of the array that took over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Inherited {
    /// The last of them.
    pub(crate) last: UpdateNumber,
    /// This array's volumes, by the numbers by which those records name them.
    pub(crate) volumes: BTreeMap<u32, u32>,
}

impl Inherited {
    /// The update as one of this array.
    pub(crate) fn named_here(&self, update: &Arc<Update>) -> Arc<Update> {
        if update.number > self.last {
            return update.clone();
        }
        let mut named = Update::clone(update);
        for extent in &mut named.extents {
            // A volume that is not copied here has no number that anybody knows.
            let here = self.volumes.get(&extent.volume.0).copied().unwrap_or(u32::MAX);
            extent.volume = VolumeNumber(here);
        }
        Arc::new(named)
    }
}

/// What other copies of the same data may need of the journal here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ForOthers {
    /// Nothing, or nobody knows.
    #[default]
    Nothing,
    /// All that is there: it was not said yet how much of it they have.
    Everything,
    /// What is behind these numbers.
    Behind(Others),
}

/// How far the other readers of a source are, as it says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Others {
    /// All of them have settled everything up to this number that they are handed.
    pub settled: UpdateNumber,
    /// All that S-VOLs lack of which the pairs are not normal was changed behind this one; the same where all are. Never larger.
    pub reaches: UpdateNumber,
}

impl Others {
    /// What two groups of readers have in common.
    fn min(self, other: Self) -> Self {
        Self { settled: self.settled.min(other.settled), reaches: self.reaches.min(other.reaches) }
    }
}

/// What a reader lacks that reads on from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    /// Updates.
    pub(crate) updates: u64,
    /// What they take in the journal.
    pub(crate) bytes: u64,
}

impl Sequencer {
    /// What a former primary numbered is in the journal that was found, and other readers of it may lack that.
    pub(crate) fn inherit(&mut self, known: &crate::volume::group::Inherited) {
        let last = UpdateNumber::new(known.last.0);
        // All of it may have been let go of: then what follows on it is here, for who has everything up to there.
        if self.journal.first_retained() <= last.next() {
            let volumes = known.volumes.iter().map(|(named, here)| (named.0, here.0)).collect();
            self.inherited = Some(Arc::new(Inherited { last, volumes }));
            self.for_others = ForOthers::Everything;
        }
    }

    /// Up to where this array itself lets go of its journal, having settled everything up to `settled`.
    pub(crate) fn needed_here(&self, settled: UpdateNumber) -> UpdateNumber {
        if self.takes_nothing {
            return UpdateNumber::NONE; // In the midst of a takeover: what others lack is looked for in here.
        }
        self.retained_up_to(self.needed_by_others(settled))
    }

    fn needed_by_others(&self, settled: UpdateNumber) -> UpdateNumber {
        let kept_behind = match self.for_others {
            ForOthers::Nothing => return settled,
            ForOthers::Everything => UpdateNumber::NONE,
            ForOthers::Behind(others) => others.settled,
        };
        let kept_behind = kept_behind.max(self.journal.first_retained().previous());
        // What found no room may need the volume in which it lies, however empty the others are.
        let is_kept = self.volumes.leaving.is_empty()
            && !self.apart.lacks_room
            && self.used_percent() < FULL_PERCENT
            && self.held_percent(kept_behind, settled, (0, 0)) < HELD_PERCENT;
        if is_kept { settled.min(kept_behind) } else { settled }
    }

    /// The same, for a checkpoint that lets go. What a primary has let go once is kept for nobody any more: it would never be whole
    /// again.
    pub(super) fn lets_go(&mut self, settled: UpdateNumber) -> UpdateNumber {
        let is_let_go = self.needed_by_others(settled) == settled;
        let needed = self.needed_here(settled);
        let keeps_for_others = self.for_others == ForOthers::Everything && self.inherited.is_some();
        if keeps_for_others && is_let_go && !self.takes_nothing {
            self.for_others = ForOthers::Nothing;
        }
        needed
    }

    /// Whether a former primary gave that number.
    pub(super) fn is_inherited(&self, number: UpdateNumber) -> bool {
        self.inherited.as_ref().is_some_and(|inherited| number <= inherited.last)
    }

    /// The information of an update that the journal remembers, also if it cannot be read any more.
    pub(super) fn recent_information(&self, number: UpdateNumber) -> Option<Arc<Update>> {
        let known = &self.journal.recent(number)?.update;
        Some(self.inherited.as_ref().map_or_else(|| known.clone(), |inherited| inherited.named_here(known)))
    }
}

/// Stored updates, with the numbers that their volumes have here.
pub(super) fn named_here(inherited: Option<&Inherited>, mut stored: Vec<Stored>) -> Vec<Stored> {
    if let Some(inherited) = inherited {
        stored.iter_mut().for_each(|one| one.update = inherited.named_here(&one.update));
    }
    stored
}

impl Group {
    /// At a copy: the source says how far every other reader of its is; none: it has no other.
    pub(crate) fn others_have(&self, others: Option<Others>) {
        self.lock().for_others = others.map_or(ForOthers::Nothing, ForOthers::Behind);
        self.forget_freed(others);
    }

    /// At a copy: how far the other readers of its source are, as that said last, and with which number the journal here begins.
    pub(crate) fn known_of_others(&self) -> Option<(Others, UpdateNumber)> {
        let seq = self.lock();
        match seq.for_others {
            ForOthers::Behind(others) => Some((others, seq.journal.first_retained())),
            ForOthers::Nothing | ForOthers::Everything => None,
        }
    }

    /// At a source: how far all of its readers but one are; none: it has no other.
    pub(super) fn others_beside(&self, reader: ArrayNumber) -> Option<Others> {
        let seq = self.lock();
        let others = seq.readers.iter().filter(|(array, _)| *array != reader);
        let others = others.map(|(array, other)| {
            let settled = other.report.settled;
            let pairs = seq.pairs.values().flatten().filter(|pair| pair.reader == array);
            // A copy that never was one before has nothing that it reaches: it is made whole anyway.
            let reaches = pairs.filter_map(|pair| pair.resync.reaches).min();
            Others { settled, reaches: reaches.map_or(settled, |reaches| reaches.min(settled)) }
        });
        others.reduce(Others::min)
    }

    /// At a copy: no S-VOL here has anything of an update behind this number, also if its copy is under way.
    pub(crate) fn contains(&self) -> UpdateNumber {
        let seq = self.lock();
        let in_part = seq.restored_in_part.unwrap_or(UpdateNumber::NONE);
        seq.restored.max(in_part).max(seq.consistent_from)
    }

    /// At a new primary: what is marked for one pair is marked for another one of the same volume, too, if every change of the volume is
    /// marked for the first one until this moment. False otherwise: what was changed since, or has been copied, is not in its map.
    pub(crate) fn mark_like(&self, pair: u32, like: u32) -> bool {
        let mut seq = self.lock();
        let is_it = |runtime: &&PairRuntime| {
            runtime.pair == like && runtime.resync.marking && runtime.facts.state == PairState::Suspended
        };
        let known = seq.pairs.values().flatten().find(is_it);
        let Some(known) = known.and_then(|known| known.resync.differences.clone()) else { return false };
        let pairs = seq.pairs.values_mut().flatten().filter(|runtime| runtime.pair == pair);
        let maps = pairs.filter_map(|runtime| runtime.resync.differences.as_mut());
        maps.map(|map| map.join(&known)).count() > 0
    }

    /// Whether the journal here ends with that update, and everything in it is on the units.
    pub(crate) fn ends_with(&self, last: u64) -> bool {
        let seq = self.lock();
        let last = UpdateNumber::new(last);
        let is_at_rest = seq.failed.is_none() && !seq.is_changing && !seq.leaving.blocks();
        is_at_rest && seq.next.previous() == last && seq.journal.durable() == last && seq.settled == last
    }

    /// At a new primary: an array that has everything up to `has` is a reader from the next number on, durably. What it lacks; or why
    /// that is not here any more. Nothing is handed to it before [`Group::admitted`], and it is none again after
    /// [`Group::dismiss`].
    pub(crate) async fn admit(&self, reader: ArrayNumber, has: UpdateNumber) -> Result<Missing, String> {
        let (missing, last) = {
            let mut seq = self.lock();
            if self.role != Role::Source || seq.failed.is_some() {
                return Err("its journal has failed".to_owned());
            }
            let Some(inherited) = seq.inherited.clone() else {
                return Err("the journal here holds nothing of the former primary".to_owned());
            };
            let (first, held_from) = (has.next(), seq.journal.first_retained());
            if first < held_from {
                return Err(format!("the journal here begins with update {held_from}"));
            }
            if first > seq.next {
                return Err(format!("update {has} was never given here"));
            }
            seq.readers.remove(reader); // Of a start that ended in the midst of this.
            seq.readers.add(reader, first).map_err(|error| error.to_string())?;
            seq.apart.coming.insert(reader);
            let updates = seq.next.since(first);
            let bytes = seq.journal.bytes_after(has);
            (Missing { updates, bytes }, inherited.last)
        };
        let admitted = match self.has_hole(has.next(), last).await {
            Ok(None) => self.checkpoint().await.map_err(|error| error.to_string()),
            Ok(Some(hole)) => {
                Err(format!("update {hole} was kept from this array while a pair was suspended"))
            }
            Err(error) => Err(error.to_string()),
        };
        if admitted.is_err() {
            self.dismiss(reader);
        }
        admitted.map(|()| missing)
    }

    /// The control store knows the reader.
    pub(crate) fn admitted(&self, reader: ArrayNumber) {
        let mut seq = self.lock();
        seq.apart.coming.remove(&reader);
        seq.apart.untold.insert(reader);
        seq.announced.insert(reader);
    }

    /// It does not become a reader by that.
    pub(crate) fn dismiss(&self, reader: ArrayNumber) {
        let mut seq = self.lock();
        if seq.apart.coming.remove(&reader) {
            seq.readers.remove(reader);
        }
    }

    /// These pairs of a reader that came were not recorded after all: no journal is held, and nothing is marked, for what nobody is.
    pub(crate) fn forget_joining(&self, pairs: &[u32]) {
        let mut seq = self.lock();
        seq.pairs.values_mut().for_each(|of_one| of_one.retain(|runtime| !pairs.contains(&runtime.pair)));
        seq.derive_holds();
        drop(seq);
        self.settle_wanted.notify_one();
        self.changed.notify_waiters();
    }

    /// The first update between two numbers that changed a volume without saying how.
    async fn has_hole(
        &self,
        first: UpdateNumber,
        last: UpdateNumber,
    ) -> Result<Option<UpdateNumber>, CopyError> {
        let mut next = first;
        while next <= last {
            let updates = self.load_information(next, Class::Restore).await?;
            let Some(newest) = updates.last() else { return Ok(Some(next)) };
            let is_hole = |update: &&Arc<Update>| update.kind == Kind::Void && !update.extents.is_empty();
            if let Some(hole) = updates.iter().find(is_hole) {
                return Ok(Some(hole.number));
            }
            next = newest.number.next();
        }
        Ok(None)
    }
}

/// Of a journal that is fuller than this nothing is kept for other copies: it is far from where readers overflow.
const FULL_PERCENT: u64 = 60;
/// More than this is not kept for them: readers that did overflow begin again below 40 %.
const HELD_PERCENT: u64 = 30;

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_journal::{Content, Extent, Generation};

    #[test]
    fn updates_of_the_former_primary_get_the_numbers_of_the_volumes_here_and_others_keep_theirs() {
        let extent = |volume| Extent {
            volume: VolumeNumber(volume),
            start_bytes: 0,
            length_bytes: 512,
            content: Content::Zero,
        };
        let update = |number, volume| {
            Arc::new(Update {
                number: UpdateNumber::new(number),
                generation: Generation::default(),
                kind: Kind::HostWrite,
                time_ns: 0,
                extents: vec![extent(volume)],
                data_bytes: 0,
                data_checksum: 0,
            })
        };
        let inherited = Inherited { last: UpdateNumber::new(40), volumes: BTreeMap::from([(1, 2), (2, 3)]) };
        let volume_of = |number, volume| inherited.named_here(&update(number, volume)).extents[0].volume.0;
        assert_eq!((volume_of(40, 1), volume_of(40, 2)), (2, 3));
        assert_eq!(volume_of(7, 9), u32::MAX, "nobody here knows it");
        assert_eq!((volume_of(41, 1), volume_of(41, 2)), (1, 2), "numbered here");
    }
}
