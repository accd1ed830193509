//! A first array that lives hears over its relay that it was taken over, where nothing else connects the two (promises X1 and X5, I4; decision 21).
//!
//! Hosts that wait for a relay are answered when it has their writes, whoever reads it. The second array reads it no more once it is the primary:
//! what the first goes on to put there is on no way to anybody.
//!
//! # What it guarantees
//! * The new primary puts its new generation into its own control information on every relay of that first array which it reaches, again and again until
//!   it has done so once, and until it hears how much only the old primary has.
//! * A first array that finds there a generation of the second one with a larger counter than any of which that has told it writes nothing to any relay to
//!   that array, and confirms nothing: hosts wait, and the fence decides. It is no longer than one look (100 ms) and one batch that anything is still answered.
//! * Nothing has to be taken back: once the two have met the first knows that generation, whichever of them goes on as the primary.
//!
//! What was answered before that, behind the takeover, is the first's branch: named when the two meet, and never overwritten unasked (decision 19).

use super::direct::{SESSION_STRIDE, for_lun};
use super::latest_second;
use super::lun::{Luns, RelayError, slot_page, trouble};
use crate::array::Array;
use crate::array::cascade::generation;
use crate::volume::group::GroupRole;
use crate::volume::relay::{RelayRecord, RelaySide};
use crate::volume::table::Tables;
use crate::volume::takeover::Takeover;
use holdfast_journal::format::relay::{Label, RelayId, RelayLun as Which, SecondControl};
use holdfast_journal::{ArrayNumber, Generation};
use std::sync::Arc;

/// At the second array: the generation in which it is the primary now, of which the relay's first array has not said yet that it knows.
pub(super) fn what_its_first_lacks(tables: &Tables, relay: &RelayRecord) -> Option<Generation> {
    let record = tables.group_named(&relay.group).filter(|_| relay.side == RelaySide::Second)?;
    let Some(Takeover::Taken(taken)) = &record.takeover else { return None };
    let is_open = taken.array == relay.array && taken.branch.is_none() && taken.rival.is_none();
    let newest = record.generations.last().filter(|_| is_open && record.role == GroupRole::Primary);
    newest.map(|newest| generation(Some(newest)))
}

/// At the first array: nothing on any relay to the second one says that this has taken the group over.
pub(super) fn is_not_overtaken(
    array: &Array,
    relay: &RelayRecord,
    newest: Option<&SecondControl>,
) -> Result<(), RelayError> {
    let tables = array.store.tables();
    let met = met(&tables, relay);
    let says = newest.map(|control| control.generation);
    let says = says.filter(|says| says.array == ArrayNumber(relay.array.0));
    array.note_relay(&relay.name, |status| status.overtaken = says);
    let others = tables
        .relays
        .iter()
        .filter(|other| (other.side, other.array, &other.group) == (relay.side, relay.array, &relay.group));
    let runtime = array.runtime();
    let found = others.filter_map(|other| runtime.relays.get(other.name.as_str())?.overtaken);
    match found.filter(|says| u64::from(says.counter) > met).max_by_key(|says| says.counter) {
        None => Ok(()),
        Some(says) => Err(trouble(format!(
            "array {} has taken the group over behind update {}: nothing that hosts write here is confirmed over it",
            relay.array,
            says.first.previous()
        ))),
    }
}

/// The largest counter of a generation of the relay's second array that this one has heard of by itself: not those that it has opened since, for
/// a start opens one, too.
fn met(tables: &Tables, relay: &RelayRecord) -> u64 {
    let Some(record) = tables.group_named(&relay.group) else { return u64::MAX };
    let theirs = record.generations.iter().filter(|one| one.array == relay.array).map(|one| one.counter);
    theirs.chain([record.seen_counter, record.followed_counter]).max().unwrap_or(0)
}

impl Array {
    /// Says over the relay that this array is the primary now; whether that is there.
    pub(super) async fn say_taken_over(
        self: &Arc<Self>,
        relay: &RelayRecord,
        generation: Generation,
    ) -> bool {
        match self.put_generation(relay, generation).await {
            Ok(()) => true,
            Err(error) => {
                tracing::info!(relay = %relay.name, %error, "the old primary is not told over the relay yet");
                false
            }
        }
    }

    async fn put_generation(&self, relay: &RelayRecord, generation: Generation) -> Result<(), RelayError> {
        let luns = Luns::open(&self.relay_connector(relay), relay).await?;
        // How the group is named there its own label says: it follows nobody any more.
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
