//! Other readers of a primary that was overtaken, at work (promises K4, O4): how each of them stops, and how the new primary takes
//! it on while its own hosts write. See [`crate::volume::rejoin`] for what that guarantees.

use super::Array;
use super::groups::{pair_runtime, record_volume};
use super::marks::pair_marks;
use super::onward::thinned;
use crate::copy::differences::DifferenceMap;
use crate::copy::group::Group;
use crate::copy::inherited::Missing;
use crate::disk::slot::Class;
use crate::volume::apply::rejoin::{alike, check_joining, lead};
use crate::volume::designation::{Designation, DesignationId, Outcome, Refusal};
use crate::volume::group::{GroupRecord, GroupRole, GroupState};
use crate::volume::name::{ArrayNumber, GroupNumber, PairNumber, UpdateNumber as StoredNumber};
use crate::volume::onward::{ONWARD_RUNS_MAX, Onward, OnwardPair};
use crate::volume::pair::{PairRecord, PairState};
use crate::volume::record::Who;
use crate::volume::rejoin::{Has, JoinOnward, Judged, Moving, WayOn};
use crate::volume::resync::{RUNS_MAX, TakeoverPoint};
use crate::volume::store::PairMarks;
use crate::volume::table::Tables;
use crate::volume::takeover::{RemoteFailback, Taken, Takeover};
use holdfast_journal::{ArrayNumber as JournalArray, UpdateNumber};
use std::collections::BTreeMap;
use std::time::Duration;

impl Array {
    /// The array that was overtaken has nothing of its own: it becomes a copy by itself, if the operator wants that.
    pub(super) fn let_rejoin(&self, record: &GroupRecord, taken: &Taken) -> anyhow::Result<()> {
        if !self.store.read(|tables| tables.may_rejoin(record.number)) {
            return Ok(());
        }
        let what =
            format!("group {}: {} has nothing of its own, and copies from here", record.name, taken.link);
        self.store
            .change(&Who::Array, what, |tables| tables.let_rejoin(record.number, self.new_identity()))?;
        self.changed().notify_waiters();
        Ok(())
    }

    /// At a reader: nothing more is read. Everything that came is restored, then the new primary hears how far that is.
    pub(super) async fn stop_following(&self, record: &GroupRecord, moving: &Moving) -> anyhow::Result<()> {
        if moving.has.is_some() {
            return Ok(()); // All is said.
        }
        if self.store.read(|tables| tables.link_to(moving.array).is_none()) {
            return Ok(()); // There is nobody to whom it could be said; nothing is read meanwhile.
        }
        let Some(group) = self.open_group_of(record.number) else {
            let was_begun = !record.segments.is_empty() || record.resume.is_some();
            let is_ready = record.is_started && !record.journals.is_empty();
            if was_begun || !is_ready || record.state != GroupState::Normal {
                return Ok(()); // It is opened soon, or when its journal has been replaced.
            }
            // Its journal had not begun yet at the array that it followed: the S-VOLs are what they were before.
            let found = self.store.read(|tables| tables.takeover_point(record.number, None));
            let has = match found {
                Ok(TakeoverPoint::Volumes(number)) => number,
                Ok(TakeoverPoint::Image(_)) | Err(_) => StoredNumber(0),
            };
            return self.ask_to_join(record, moving, has, has);
        };
        self.lift_answered_suspension(record)?;
        // What is on its way from the array that was overtaken would come behind the number that is said now.
        group.come_to_rest().await?;
        group.restore_available(Duration::ZERO).await?;
        let here = group.durable_here();
        if here.next() != group.next_number() {
            return Ok(()); // What came last is durable in a moment.
        }
        let is_stopped = |now: &GroupRecord| now.restore_stops() != [None; 2];
        let is_stopped = self.store.read(|now| now.groups.get(&record.number).is_some_and(is_stopped));
        if is_stopped && group.whole_number() != Some(here) {
            return Ok(()); // Until its operator lets it go on: what it holds back may be nowhere else.
        }
        self.note_normal_pairs(&group);
        let has = group.whole_number().map_or(StoredNumber(0), |number| StoredNumber(number.get()));
        self.ask_to_join(record, moving, has, StoredNumber(group.contains().get()))
    }

    fn ask_to_join(
        &self,
        record: &GroupRecord,
        moving: &Moving,
        has: StoredNumber,
        contains: StoredNumber,
    ) -> anyhow::Result<()> {
        let tables = self.store.tables();
        let each = (ONWARD_RUNS_MAX / tables.followed_pairs(record.number).count().max(1)).max(1);
        let of_pair = |pair: &PairRecord| {
            // What cannot be read is not known.
            let written = self.svol_map(pair).ok()?;
            Some((pair.number, thinned(written.runs(RUNS_MAX), each)))
        };
        let written = tables.followed_pairs(record.number).filter_map(of_pair).collect();
        let known = Has { up_to: has, contains, written };
        let what = format!(
            "group {}: overtaken by {}, nothing more is read of its branch; update {has} is here",
            record.name,
            moving.whom()
        );
        self.store.change(&Who::Array, what, |tables| {
            tables.asks_to_join(record.number, known, self.new_identity());
            Ok(())
        })?;
        self.wake();
        Ok(())
    }

    /// At the new primary: a reader of the former one wants to go on from here.
    ///
    /// # Errors
    /// Why it cannot now; or it has updates that nobody else has, and nobody has given them up. It asks again.
    pub(super) async fn take_on_reader(
        &self,
        id: DesignationId,
        told: &JoinOnward,
        who: &Who,
    ) -> Result<Outcome, Refusal> {
        if let Some(tamper) = &self.env.tamper {
            self.env.clock.sleep(tamper.before_promising()).await;
        }
        let _one_at_a_time = self.images.lock().await;
        let (tables, what) = (self.store.tables(), Designation::JoinOnward(told.clone()));
        if tables.was_answered(id) {
            // Said once more, or held up: it may have been taken away here since.
            return self.designate_by_peer(id, what, who);
        }
        if has_taken_on(&tables, told, who) {
            return Ok(Outcome::Done); // It hears of it.
        }
        let checked = check_joining(&tables, told, who);
        if checked.is_err() {
            self.tell_joining_whose_copy(told, who);
            self.let_go_of_who_left(told);
        }
        let (number, former, mut onward) = checked?;
        let conflict = |text: String| Err(Refusal::Conflict(format!("group {} {text}", told.group)));
        let open = self.open_group_of(number).filter(|group| group.failure().is_none());
        let (Some(group), Some(record)) = (open, tables.groups.get(&number)) else {
            return conflict("is not open here".to_owned());
        };
        let is_ahead = lead(record, told) > 0;
        let left = self.note_lead(record, told, onward.array)?;
        if left > 0 {
            return conflict(format!(
                "has {left} updates there that are nowhere else: `group failback {} --to` it gives them up",
                told.group
            ));
        }
        let mut numbers = Ok(Vec::new());
        self.store.checkpoint(|tables| numbers = tables.reserve_pair_numbers(onward.pairs.len()))?;
        let numbers = numbers?;
        let (reader, judged_by) = (JournalArray(onward.array.0), record.takeover.clone());
        let way = self.judge(&group, record, told, &onward, is_ahead).await;
        way.prepare(&mut onward, told.has);
        let joining = Joining { number, former, onward: &onward, numbers: &numbers, lacks: way.lacks() };
        let unattached = self.mark_joining(&tables, &group, &joining);
        let numbered: Vec<u32> = numbers.iter().map(|pair| pair.0).collect();
        let taken = group.take_marks(&numbered);
        let mut marks = pair_marks(taken.parts.clone());
        let way = way.told(&group, &numbered);
        marks.extend(unattached);
        let said = format!(
            "group {}: array {} goes on from here behind update {}: {way}",
            told.group, onward.array, told.has
        );
        let taken_on = self.store.change_with_marks(&Who::Array, said, &marks, |tables| {
            // A volume whose last pair is asked to go meanwhile is not journaled for much longer.
            check_joining(tables, told, who)?;
            // It was judged by what the former primary is to this array: that may be its copy again by now, and be copied.
            if tables.groups.get(&number).map(|row| rests_on(&row.takeover)) != Some(rests_on(&judged_by)) {
                return Err(Refusal::Conflict("the roles have changed meanwhile".to_owned()));
            }
            tables.take_on(number, &onward, former, &numbers, self.new_identity());
            tables.note_judged(number, Judged { array: onward.array, has: told.has, way });
            tables.note_done(id, &what);
            Ok(())
        });
        match taken_on {
            Ok(()) if onward.begins.is_some() => group.admitted(reader),
            Ok(()) => {}
            Err(error) => {
                group.dismiss(reader);
                group.forget_joining(&numbered);
                return Err(error);
            }
        }
        self.wake();
        Ok(Outcome::Done)
    }

    /// Another array that took over as well is named to stay, and those that read this one keep it from becoming a copy.
    pub(super) fn tell_readers_who_stays(&self, told: &RemoteFailback, who: &Who) {
        let Who::Peer { array, .. } = who else { return };
        let before = self.store.tables();
        let mut after = Tables::clone(&before);
        after.tell_readers_who_stays(told, *array, &mut || self.new_identity());
        if after.forwards.iter().count() == before.forwards.iter().count() {
            return; // It has none, or is not the one that is meant.
        }
        let what = format!("group {}: array {array} is to stay: readers here go on from there", told.group);
        let said = self.store.change(&Who::Array, what, |tables| {
            tables.tell_readers_who_stays(told, *array, &mut || self.new_identity());
            Ok(())
        });
        match said {
            Ok(()) => self.wake(),
            Err(error) => tracing::error!(group = %told.group, %error, "readers cannot be told who stays"),
        }
    }

    /// Whoever asks may stand here still, from before it went on from another array while this one was shut.
    fn let_go_of_who_left(&self, told: &JoinOnward) {
        let left = |tables: &Tables| {
            let row = tables
                .group_named(&told.group)
                .filter(|row| row.role == GroupRole::Primary && !row.is_shut())?;
            let mut readers = tables.all_readers_of_group(row.number);
            readers.any(|reader| reader.has_left && !reader.is_leaving).then_some(row.number)
        };
        let Some(number) = self.store.read(left) else { return };
        let what = format!("group {}: readers that went on from another array are none any more", told.group);
        let done = self.store.change(&Who::Array, what, |tables| {
            tables.let_go_of_who_left(number);
            Ok(())
        });
        match done {
            Ok(()) => self.wake(),
            Err(error) => tracing::error!(group = %told.group, %error, "readers that left cannot be let go"),
        }
    }

    /// This array may be a copy itself by now: then whoever asks hears of whom.
    fn tell_joining_whose_copy(&self, told: &JoinOnward, who: &Who) {
        let Who::Peer { array, .. } = who else { return };
        let Some((link, says)) = self.store.read(|tables| tables.whose_copy_it_asks(told, *array)) else {
            return;
        };
        let said = self.store.checkpoint(|tables| {
            tables.forward(&link, DesignationId(self.new_identity()), says);
        });
        match said {
            Ok(()) => self.wake(),
            Err(error) => tracing::error!(%error, "whose copy this array is cannot be said"),
        }
    }

    /// Claims 18, 19 and 28 of the document on three data centres: whether what the reader lacks is in the journal here, else in maps.
    async fn judge(
        &self,
        group: &Group,
        record: &GroupRecord,
        told: &JoinOnward,
        onward: &Onward,
        is_ahead: bool,
    ) -> Found {
        if is_ahead {
            return Found::Unknown("it had updates that were given up".to_owned());
        }
        if told.has.0 == 0 {
            return Found::Unknown("its S-VOLs are no image of one moment".to_owned());
        }
        // A volume without such a pair may have been in no journal and in no map for a while.
        let like = self.store.read(|tables| alike(tables, record.number, told.former, onward));
        if like.iter().any(Option::is_none) {
            return Found::Unknown(
                "its volumes have no pairs with its former primary here any more".to_owned(),
            );
        }
        let why = match (told.are_all_normal, self.journal_goes_on(record, &like)) {
            (false, _) => "its pairs were not all normal".to_owned(),
            (true, false) => "the journal here began anew with the takeover, or behind it".to_owned(),
            (true, true) => {
                match group.admit(JournalArray(onward.array.0), UpdateNumber::new(told.has.0)).await {
                    Ok(missing) => return Found::Held(missing),
                    Err(why) => why,
                }
            }
        };
        found_marked(told, record, why)
    }

    /// Whether everything that became different here since the former primary was lost is in the journal, or would be found
    /// lacking there. What hosts had written into S-VOLs here before the takeover is in none, and what is written while a volume has no pair, or the
    /// journal has failed; then the one that there is has not been it all along.
    fn journal_goes_on(&self, record: &GroupRecord, like: &[Option<PairNumber>]) -> bool {
        let Some(inherited) = &record.inherited else { return false };
        self.store.read(|tables| {
            let pair = |number: &Option<PairNumber>| tables.pairs.get(number.as_ref()?);
            let is_since = |pair: &PairRecord| pair.control.born.0 == inherited.last.0.saturating_add(1);
            like.iter().all(|number| pair(number).is_some_and(is_since))
        })
    }

    fn note_lead(&self, record: &GroupRecord, told: &JoinOnward, array: ArrayNumber) -> Result<u64, Refusal> {
        let known = record.ahead.iter().find(|known| known.array == array);
        let updates = lead(record, told);
        if let Some(known) = known.filter(|known| known.has == told.has && known.updates == updates) {
            return Ok(if known.is_given_up { 0 } else { updates });
        }
        if known.is_none() && updates == 0 {
            return Ok(0);
        }
        let what = format!(
            "group {}: {updates} updates of its former primary are only at array {array}",
            told.group
        );
        let left = self
            .store
            .change(&Who::Array, what, |tables| Ok(tables.note_lead(record.number, told, array)))?;
        self.changed().notify_waiters();
        Ok(left)
    }

    /// What the reader may lack is marked in memory from here on, and before any row says that it is one: first what hosts write
    /// from now on, then what they have written since the takeover.
    ///
    /// A volume that has no pair at the moment is not the group's yet. What it differs in is everything, which the caller makes durable; the
    /// owner of the group takes it up with the pair.
    fn mark_joining(&self, tables: &Tables, group: &Group, joining: &Joining<'_>) -> Vec<PairMarks> {
        let mut unattached = Vec::new();
        let Joining { number, former, onward, numbers, lacks } = joining;
        let reads_on = onward.begins.is_some();
        let mut rehearsed = Tables::clone(tables);
        rehearsed.take_on(*number, onward, *former, numbers, self.new_identity());
        let like = alike(tables, *number, *former, onward);
        for (index, ((pair, like), of_reader)) in numbers.iter().zip(like).zip(&onward.pairs).enumerate() {
            let Some(record) = rehearsed.pairs.get(pair) else { continue };
            let is_known = |ours: &PairRecord| {
                ours.primary.volume == record.primary.volume && group.knows_pair(ours.number.0)
            };
            if !tables.served_pairs(*number).any(is_known) {
                unattached.push(Self::all_of_it_differs(record));
                continue;
            }
            let mut runtime = pair_runtime(record, false);
            if reads_on {
                group.add_pair(record_volume(record), runtime);
                continue;
            }
            runtime.resync.marking = true;
            runtime.resync.differences = Some(DifferenceMap::new(record.size_bytes));
            group.add_pair(record_volume(record), runtime);
            let is_noted = |pair: &PairNumber| {
                tables.pairs.get(pair).is_some_and(|pair| pair.state == PairState::Suspended)
            };
            let lacks = lacks.get(index).copied().unwrap_or(Lacks::All);
            let all = vec![(0, record.size_bytes)];
            // What it lacked before is known to it alone.
            let own = of_reader.stopped.as_ref().map_or(&all, |stopped| &stopped.runs);
            // Marked here from now on; so what the other pair has marked until now and goes on marking is all.
            let like = like.filter(|pair| lacks == Lacks::Marked && is_noted(pair));
            let is_like = like.is_some_and(|like| group.mark_like(pair.0, like.0));
            if !group.mark_runs(pair.0, if is_like { own } else { &all }) {
                tracing::error!(pair = pair.0, "what a reader lacks cannot be marked");
            }
        }
        unattached
    }

    /// Before a takeover: what the journal here still holds of the updates up to now, by the numbers of P-VOLs; and from which number
    /// on that is everything. Other readers may lack it.
    pub(super) async fn recent_changes(
        &self,
        tables: &Tables,
        group: &Group,
        number: GroupNumber,
    ) -> (StoredNumber, BTreeMap<u32, DifferenceMap>) {
        let mut maps: BTreeMap<u32, DifferenceMap> = tables
            .followed_pairs(number)
            .map(|pair| (record_volume(pair), DifferenceMap::new(pair.size_bytes)))
            .collect();
        let last = group.durable_here();
        let nothing = (StoredNumber(last.next().get()), BTreeMap::new());
        let oldest = UpdateNumber::new(last.get().saturating_sub(RECENT_UPDATES).max(1));
        // Or all that is not marked yet.
        let oldest = group.marked_through().map_or(oldest, |marked| oldest.min(marked.next()));
        let first = group.first_retained().max(oldest);
        let mut next = first;
        while next <= last {
            let Ok(updates) = group.load_information(next, Class::Restore).await else { return nothing };
            let Some(newest) = updates.last().map(|update| update.number) else { return nothing };
            for extent in updates.iter().flat_map(|update| &update.extents) {
                if let Some(map) = maps.get_mut(&extent.volume.0) {
                    group.mark_for_others(map, extent);
                }
            }
            next = newest.next();
        }
        (StoredNumber(first.get()), maps)
    }
}

/// Whether who asks is a reader here by now.
fn has_taken_on(tables: &Tables, told: &JoinOnward, who: &Who) -> bool {
    let (Some(row), Who::Peer { array, .. }) = (tables.group_named(&told.group), who) else { return false };
    tables.readers.get(&(row.number, *array)).is_some_and(|reader| !reader.has_left)
}

/// Of a takeover what a judgement of a reader rests on. What is heard of the other array's branch meanwhile changes nothing of that.
fn rests_on(takeover: &Option<Takeover>) -> Option<Takeover> {
    let mut takeover = takeover.clone();
    if let Some(Takeover::Taken(taken)) = &mut takeover {
        (taken.branch, taken.rival, taken.told, taken.is_told) = (None, None, None, false);
    }
    takeover
}

/// With what the journal had to let go before that, if that is known.
pub(super) fn with_freed(
    group: &Group,
    first: StoredNumber,
    mut recent: BTreeMap<u32, DifferenceMap>,
) -> (StoredNumber, BTreeMap<u32, DifferenceMap>) {
    let Some(freed) = group.freed_before(UpdateNumber::new(first.0)) else { return (first, recent) };
    if recent.is_empty() {
        return (first, recent); // Nothing could be looked up.
    }
    for (volume, map) in &mut recent {
        freed.maps.get(volume).into_iter().for_each(|freed| map.join(freed));
    }
    (first.min(StoredNumber(freed.from.get())), recent)
}

/// How a reader can be taken on.
enum Found {
    /// The journal here holds what it lacks, and it is a reader behind that already.
    Held(Missing),
    /// Of some pairs it is marked; why the journal has not all of it.
    Marked(String, Vec<Lacks>),
    /// Nothing has it, and why.
    Unknown(String),
}

impl Found {
    /// How the reader is taken on by this way.
    fn prepare(&self, onward: &mut Onward, has: StoredNumber) {
        if !matches!(self, Self::Unknown(_)) {
            // Its journal may be lost before it is told; then it lacks more than is marked, or held.
            onward.assumed = has;
        }
        if matches!(self, Self::Held(_)) {
            onward.begins = Some(StoredNumber(has.0.saturating_add(1)));
            onward.pairs.iter_mut().for_each(|pair| pair.stopped = None);
        }
    }

    fn lacks(&self) -> &[Lacks] {
        match self {
            Self::Marked(_, pairs) => pairs,
            Self::Held(_) | Self::Unknown(_) => &[],
        }
    }

    /// The same, to be kept and shown; the pairs are marked by now.
    fn told(self, group: &Group, pairs: &[u32]) -> WayOn {
        let bytes = || super::takeover::marked_bytes(group, pairs);
        match self {
            Self::Held(Missing { updates: 0, .. }) => WayOn::NothingMissing,
            Self::Held(Missing { updates, bytes }) => WayOn::Journal { updates, bytes },
            Self::Marked(why, _) => WayOn::Differences { bytes: bytes(), why },
            Self::Unknown(why) => WayOn::FullCopy { bytes: bytes(), why },
        }
    }
}

/// A reader that is taken on.
struct Joining<'a> {
    number: GroupNumber,
    former: ArrayNumber,
    onward: &'a Onward,
    numbers: &'a [PairNumber],
    /// In the order of its pairs; none: everything.
    lacks: &'a [Lacks],
}

/// What the S-VOL of a pair lacks, beside what the reader says itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lacks {
    /// Nobody knows.
    All,
    /// What is marked for the pair with the former primary.
    Marked,
}

/// What is known of each pair of a reader that cannot just read on.
fn found_marked(told: &JoinOnward, record: &GroupRecord, why: String) -> Found {
    let marked_from = match &record.takeover {
        Some(Takeover::Taken(taken)) if taken.array == told.former => taken.marked_from,
        _ => return Found::Unknown(why),
    };
    let marked = told.lack_what_is_marked(marked_from, &record.generations);
    let unknown = told.pairs.iter().zip(&marked).find(|(_, is_marked)| !**is_marked);
    let why = match unknown {
        Some((pair, _)) => format!("{why}; {}", unmarked(pair, marked_from)),
        None => why,
    };
    if !marked.contains(&true) {
        return Found::Unknown(why);
    }
    let lacks = |is_marked| if is_marked { Lacks::Marked } else { Lacks::All };
    Found::Marked(why, marked.into_iter().map(lacks).collect())
}

/// Why nothing that is marked says what the S-VOL of a pair lacks.
fn unmarked(pair: &OnwardPair, marked_from: StoredNumber) -> String {
    let name = &pair.name;
    match pair.stopped.as_ref().and_then(|stopped| stopped.reaches) {
        None => format!("all of pair {name}: nobody knows which update its S-VOL reaches"),
        Some(reaches) if reaches.0.saturating_add(1) < marked_from.0 => {
            format!(
                "all of pair {name}: its S-VOL reaches update {reaches}, and what was changed is marked here from {marked_from} on"
            )
        }
        Some(_) => format!("all of pair {name}: data was copied to it of updates that never came here"),
    }
}

/// So many updates before a takeover are looked at for what other readers may lack; one that is further behind is copied whole.
const RECENT_UPDATES: u64 = 65_536;
