//! A first array that lives hears over its relay that its second one is its copy no more, where nothing else connects the two (promises X1 and X5, I4;
//! decision 21): that has taken the group over, or goes on from another array that has.
//!
//! Hosts that wait for a relay are answered when it has their writes, whoever reads it. The second array reads it no more once it is the primary, or reads
//! from another one: what the first goes on to put there is on no way to anybody.
//!
//! # What it guarantees
//! * A second array that is no copy of the relay's first one any more puts the generation of the new primary, itself or another one, into its own control information on every relay
//!   of that first array which it reaches. It looks every few seconds whether that stands there, for a target may lose what it had, or a write of its own from
//!   before may land behind it: as a primary until it hears how much only the old one has, else until it is its copy again.
//! * A first array that finds there a generation of which that second one has not told it (`volume/apply/relay_words.rs`) writes nothing to any relay to
//!   that array, and confirms nothing: hosts wait, and the fence decides. It is no longer than one look (100 ms) and one batch that anything is still answered.
//!   What was once read there is in its store, and counts behind a start too, on each of its relays, and where the target has lost it.
//! * Nothing has to be taken back by anybody once the two have met. Where they never do, because the second array is a copy again of a first one that heard nothing, or one that was
//!   set up anew, it says on each relay to which it comes that it is: control information with a later number.
//!
//! What was answered before that, behind the takeover, is the first's branch: named when the two meet, and never overwritten unasked (decision 19).

use super::direct::{SESSION_STRIDE, for_lun};
use super::latest_second;
use super::lun::{Luns, RelayError, slot_page, trouble};
use crate::array::Array;
use crate::array::cascade::{generation, stored_generation};
use crate::volume::group::GroupRole;
use crate::volume::relay::{RelayRecord, RelaySide};
use crate::volume::table::Tables;
use crate::volume::takeover::Takeover;
use holdfast_journal::Generation;
use holdfast_journal::format::relay::{Label, RelayId, RelayLun as Which, SecondControl};
use std::sync::Arc;
use std::time::Duration;

/// At the second array, which is no copy of the relay's first one: the generation of the primary now, unless the first has said, or has to know, that it knows.
fn what_its_first_lacks(tables: &Tables, relay: &RelayRecord) -> Option<Generation> {
    let record = tables.group_named(&relay.group).filter(|_| relay.side == RelaySide::Second)?;
    let newest = record.generations.last();
    let is_reader = || tables.readers.get(&(record.number, relay.array)).is_some();
    let said = match (&record.role, &record.takeover) {
        (GroupRole::Primary, Some(Takeover::Taken(taken))) if taken.array == relay.array => {
            newest.filter(|_| taken.branch.is_none() && taken.rival.is_none())
        }
        (GroupRole::Primary, _) => newest.filter(|_| !is_reader()),
        (GroupRole::Auxiliary { source, .. }, Some(Takeover::Moving(moving))) if *source == relay.array => {
            moving.generations.last()
        }
        (GroupRole::Auxiliary { source, .. }, _) => newest.filter(|_| *source != relay.array),
    };
    said.filter(|said| said.array != relay.array).map(|said| generation(Some(said)))
}

/// At the first array: nothing on any relay to the second one says that this is its copy no more. `goes_on`: what this array put onto the relay
/// before is there.
pub(super) async fn is_not_overtaken(
    array: &Array,
    relay: &RelayRecord,
    luns: &Luns,
    (newest, goes_on): (Option<SecondControl>, bool),
) -> Result<(), RelayError> {
    let said = newest.map(|control| (control.sequence, stored_generation(&control.generation)));
    let tables = array.store.tables();
    let is_other = tables.relay_word(relay) != tables.next_relay_word(relay, said).as_ref();
    // An operator clears the whole LUN, and that one only: of a target that has lost all it is no word.
    let is_blank = async || Ok::<_, RelayError>(luns.second.read(0, 1).await?.iter().all(|byte| *byte == 0));
    let is_lost = is_other && said.is_none() && !(goes_on && is_blank().await?);
    if is_other && !is_lost {
        let noted = array.store.checkpoint(|tables| tables.note_relay_word(relay, said));
        noted.map_err(|error| trouble(format!("what the other array says cannot be recorded: {error}")))?;
    }
    let Some(said) = array.store.read(|tables| tables.said_on_relays(relay)) else { return Ok(()) };
    let who = match said.array == relay.array {
        true => format!("array {} has taken the group over", relay.array),
        false => {
            format!("array {} goes on from array {}, which has taken the group over", relay.array, said.array)
        }
    };
    let last = said.first.0.saturating_sub(1);
    Err(trouble(format!("{who} behind update {last}: nothing that hosts write here is confirmed over it")))
}

impl Array {
    /// The relay has nothing to do here, for this reason, until that is another one. If its first array has to hear why, that is put there.
    pub(super) async fn rest_relay(self: &Arc<Self>, relay: &RelayRecord, why: &str) {
        let what = self.store.read(|tables| what_its_first_lacks(tables, relay));
        tokio::select! {
            biased;
            () = self.rest_ends(relay, why, what) => {}
            () = self.say_again_and_again(relay, what) => {}
        }
    }

    async fn rest_ends(&self, relay: &RelayRecord, why: &str, what: Option<Generation>) {
        loop {
            let changed = self.changed().notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let tables = self.store.tables();
            let is_same = tables.relays.get(&relay.name) == Some(relay)
                && self.part_at(&tables, relay).is_err_and(|now| now == why);
            if !is_same || what_its_first_lacks(&tables, relay) != what {
                return;
            }
            changed.await;
        }
    }

    async fn say_again_and_again(&self, relay: &RelayRecord, what: Option<Generation>) {
        let Some(generation) = what else { return std::future::pending().await };
        let mut failed = None;
        loop {
            let pause = match self.put_generation(relay, generation).await {
                Ok(()) => LOOK_AGAIN,
                Err(error) => {
                    if failed.as_ref() != Some(&error) {
                        tracing::info!(relay = %relay.name, %error, "its first array is not told over the relay yet");
                    }
                    failed = Some(error);
                    super::PAUSE_MAX
                }
            };
            self.env.clock.sleep(pause).await;
        }
    }

    /// Says there that this is the generation of the primary now, unless that stands there.
    async fn put_generation(&self, relay: &RelayRecord, generation: Generation) -> Result<(), RelayError> {
        let luns = Luns::open(&self.relay_connector(relay), relay).await?;
        // How the group is named there its own label says: it follows nobody, or another one.
        let label = Label::decode(&luns.second.read(0, 1).await?);
        let arrays = |id: RelayId| (id.first.0, id.second.0);
        let is_own = |label: &Label| {
            label.lun == Which::Second && arrays(label.id) == (relay.array.0, self.config.array.number.0)
        };
        let label = label.ok().filter(is_own);
        let Some(Label { id, .. }) = label else {
            return Err(trouble("its control LUN there is not labelled"));
        };
        let last = latest_second(&luns.second, id).await?;
        let Some(last) = last else { return Err(trouble("this array has said nothing there yet")) };
        if last.generation == generation {
            return Ok(());
        }
        let sequence = for_lun(last.sequence.saturating_add(SESSION_STRIDE), Some(last.sequence));
        let wall_ns = self.env.clock.wall().0;
        let control = SecondControl { sequence, generation, wall_ns, ..last };
        luns.second.write(slot_page(sequence), control.encode(), &[]).await
    }
}

/// So often is looked whether it still stands there.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
