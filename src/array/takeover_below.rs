//! The middle of a cascade takes over (promises T4, O4; decision 23): those that read the group from here go on doing so, in the
//! new generation.
//!
//! They are handed only what is durable here, so none of them is ahead of a takeover of everything that is here. Each has all of it
//! before the group ends here, or its pairs are stopped with marks. A takeover that goes on from less than is here (an image, a stop of
//! restore, what hosts made of S-VOLs) is refused: a reader may have more then, and nobody could say what. One whose journal has failed goes on
//! from what it had restored, unless a reader has acknowledged more.

use super::Array;
use super::pairs::by_reader;
use crate::copy::fetch::Reading;
use crate::copy::group::Group;
use crate::volume::group::GroupState;
use crate::volume::name::GroupNumber;
use crate::volume::pair::{PairRecord, PairState, SuspendCause};
use crate::volume::resync::TakeoverPoint;
use crate::volume::table::Tables;
use holdfast_journal::{ArrayNumber as JournalArray, UpdateNumber};
use std::sync::Arc;
use std::time::Duration;

impl Array {
    /// In a takeover: what those have that read from here, or have marked, before the group ends; none if nobody does.
    ///
    /// # Errors
    /// Why they cannot go on from here: the takeover is given up, and goes when they are taken away.
    pub(super) async fn below_is_ready(
        &self,
        tables: &Tables,
        number: GroupNumber,
        open: Option<&Arc<Group>>,
    ) -> Result<Option<UpdateNumber>, String> {
        if tables.all_readers_of_group(number).next().is_none() {
            return Ok(None);
        }
        let Some(group) = open.filter(|group| group.failure().is_none()) else {
            let row = tables.groups.get(&number);
            if row.is_some_and(|row| row.state == GroupState::Normal) && open.is_none() {
                return Err(format!("it is not open here, {TAKE_AWAY}"));
            }
            self.has_what_was_handed_on(tables, number, open)?;
            return Ok(None); // All of it counts as different for them.
        };
        reading_has_ended(self, group).await;
        group.restore_available(Duration::ZERO).await.map_err(|error| error.to_string())?;
        let last = group.durable_here();
        let point = self.takeover_point_of(tables, number)?;
        if !matches!(point, TakeoverPoint::Volumes(_)) || group.whole_number() != Some(last) {
            return Err(format!(
                "its S-VOLs are to stay behind what is here, as of update {}, {TAKE_AWAY}; or let restore go on \
                 (`group restore --go-on`)",
                point.number()
            ));
        }
        let is_copied = |pair: &&PairRecord| pair.state == PairState::BeingCopied;
        let copied: Vec<PairRecord> = tables.served_pairs(number).filter(is_copied).cloned().collect();
        for (reader, pairs) in by_reader(&copied) {
            let reason = "its P-VOL is taken over in the middle of its copy";
            self.suspend_pairs(group, reader, &pairs, SuspendCause::Above, reason).await;
        }
        self.readers_below_are_ready(group, last).await.map_err(|refusal| refusal.to_string())?;
        Ok(Some(last))
    }

    /// Where the journal has failed, nothing more of it is restored: those that read from here may have what this array has not.
    fn has_what_was_handed_on(
        &self,
        tables: &Tables,
        number: GroupNumber,
        open: Option<&Arc<Group>>,
    ) -> Result<(), String> {
        let point = self.takeover_point_of(tables, number)?.number();
        for reader in tables.all_readers_of_group(number) {
            let has = open.and_then(|group| group.acknowledged_by(JournalArray(reader.array.0)));
            if let Some(has) = has.filter(|has| has.get() > point.0) {
                return Err(format!(
                    "its journal has failed: its S-VOLs are as of update {point}, {} has update {has}, {TAKE_AWAY}",
                    reader.link
                ));
            }
        }
        Ok(())
    }
}

/// Waits until nothing more comes from the source: the group is told to read no further, and what is on its way comes to its end.
async fn reading_has_ended(array: &Array, group: &Group) {
    for _ in 0..LOOKS_MAX {
        let before = group.next_number();
        array.env.clock.sleep(LOOK).await;
        let is_quiet = matches!(group.reading(), Reading::Waiting) || group.next_number() == before;
        if is_quiet && group.durable_here().next() == group.next_number() {
            return;
        }
    }
}

/// Why the middle of a cascade does not go on from less than it has.
pub(super) const NOT_ALL: &str = "its S-VOLs go back to an image, or hosts have written them, and other arrays read the group from it: \
                                  take them away first (`group delete --reader`)";
/// What an operator can do.
const TAKE_AWAY: &str =
    "and other arrays read the group from it: take them away first (`group delete --reader`)";
/// How often is looked whether something still comes.
const LOOK: Duration = Duration::from_millis(20);
/// So often at most: what comes behind that is found when the group has ended.
const LOOKS_MAX: u32 = 100;
