//! A drill that waits for its number (decision 26): its clones are made ready while restore comes near, and cut when it is there.
//!
//! Restore goes on behind the cut; that the clones are on the units, and recorded, it does not wait for. Where it has gone past the number
//! without a cut (this array was ended, or a takeover or a resync needed everything), or a delay or a stop keeps it from there, the clones
//! are made by replaying updates, if an image and the journal lead there; else the drill is given up, and its record says why.

use super::Array;
use super::drills::clones;
use super::snapshots::{MADE_WITHIN, Reserved, bookmark_at};
use crate::clock::MonotonicNs;
use crate::copy::CopyError;
use crate::copy::cut::Approach;
use crate::copy::group::Group;
use crate::disk::VolumeId;
use crate::volume::designation::Refusal;
use crate::volume::drill::{DrillRecord, usable};
use crate::volume::group::GroupRole;
use crate::volume::name::{UpdateNumber, VolumeNumber};
use crate::volume::record::Who;
use crate::volume::snapshot::{MadeSnapshot, SnapshotAt, SnapshotOf};
use std::sync::Arc;
use std::time::Duration;

/// What is remembered of a drill that waits.
#[derive(Default)]
pub(super) struct Waiting<'a> {
    /// How near restore was when its clones were made ready last.
    tried: Option<Approach>,
    /// Since when its update has been in the journal here, and restore has stood still: at which number.
    has_come: Option<(MonotonicNs, u64)>,
    /// Since when restore has stood still for it.
    there: Option<MonotonicNs>,
    /// Numbers for its clones, and of which volumes.
    reserved: Option<(Vec<VolumeNumber>, Reserved<'a>)>,
}

impl Array {
    /// One step on the way, and what is waited for behind it.
    pub(super) async fn wait_for_number<'a>(
        &'a self,
        drill: &DrillRecord,
        update: UpdateNumber,
        until_unix_ns: u64,
        waiting: &mut Waiting<'a>,
    ) {
        let changed = self.changed().notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let (group, role) = {
            let tables = self.store.tables();
            let Some(row) = tables.group_named(&drill.group) else {
                return self.give_up_and_rest(drill, "the group is gone").await;
            };
            (self.runtime().groups.get(&row.number.0).cloned(), row.role.clone())
        };
        if !matches!(role, GroupRole::Auxiliary { .. }) {
            return self.give_up_and_rest(drill, "this array has become the primary of the group").await;
        }
        let Some(group) = group else {
            return self.until_it_changes(None, update, Approach::Far, changed).await;
        };
        let approach = group.approach(update);
        if !matches!(approach, Approach::There) {
            waiting.there = None;
        }
        match approach {
            Approach::There => self.cut_here(drill, update, waiting).await,
            Approach::Past => self.replay_drill(&group, drill, update).await,
            Approach::Far | Approach::Near(_) if self.is_held_back(&group, update, waiting) => {
                self.replay_drill(&group, drill, update).await;
            }
            Approach::Far | Approach::Near(_) if self.env.clock.wall().0 >= until_unix_ns => {
                let why = format!("update {update} did not come in the time that was set");
                self.give_up_and_rest(drill, &why).await;
            }
            Approach::Near(_) if waiting.tried != Some(approach) && !group.has_stop() => {
                waiting.tried = Some(approach);
                match self.cut_ahead(drill, update, waiting).await {
                    Ok(true) => {}
                    Ok(false) => self.until_it_changes(Some(&group), update, approach, changed).await,
                    Err(refusal) => {
                        tracing::warn!(drill = %drill.name, %refusal, "cannot be made ready yet");
                        self.until_it_changes(Some(&group), update, approach, changed).await;
                    }
                }
            }
            Approach::Far | Approach::Near(_) => {
                self.until_it_changes(Some(&group), update, approach, changed).await;
            }
        }
    }

    /// Until restore has come nearer, something else has changed, or for a while.
    async fn until_it_changes(
        &self,
        group: Option<&Arc<Group>>,
        update: UpdateNumber,
        was: Approach,
        changed: impl Future<Output = ()>,
    ) {
        let nearer = async {
            match group {
                Some(group) => group.approaches(update, was).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = changed => {}
            () = nearer => {}
            () = self.env.clock.sleep(HELD_BACK) => {}
        }
    }

    async fn give_up_and_rest(&self, drill: &DrillRecord, why: &str) {
        self.give_up_drill(drill, why);
        if self.store.read(|tables| tables.drills.get(&drill.number).is_some_and(|drill| !drill.is_ended())) {
            self.env.clock.sleep(HELD_BACK).await; // It cannot be recorded now.
        }
    }

    /// Whether the update that a drill waits for has come and is kept from being restored, by a delay or a stop: then it is made
    /// from what the journal holds.
    fn is_held_back(&self, group: &Group, update: UpdateNumber, waiting: &mut Waiting<'_>) -> bool {
        if group.within_reach().last.get() < update.0 {
            return false;
        }
        let (now, restored) = (self.env.clock.now(), group.restored_now().get());
        let (since, stood_at) = *waiting.has_come.get_or_insert((now, restored));
        // Behind a delay it is on its way all the time, and does not come for long.
        if stood_at != restored && !group.restores_late() {
            waiting.has_come = Some((now, restored));
            return false;
        }
        now.since(since) >= HELD_BACK
    }

    /// Restore stands still at the number already.
    async fn cut_here<'a>(&'a self, drill: &DrillRecord, update: UpdateNumber, waiting: &mut Waiting<'a>) {
        let now = self.env.clock.now();
        if now.since(*waiting.there.get_or_insert(now)) >= MADE_WITHIN {
            let why = format!("nothing could be cut in {} s", MADE_WITHIN.as_secs());
            return self.give_up_and_rest(drill, &why).await;
        }
        match self.cut_ahead(drill, update, waiting).await {
            Ok(true) => {}
            // Somebody else has to cut first, or to get room, or more has to be destaged before.
            Ok(false) => self.env.clock.sleep(ANOTHER_CUT).await,
            Err(refusal) => self.give_up_and_rest(drill, &refusal.to_string()).await,
        }
    }

    /// Makes the clones of a drill ready and cuts them at its number, records them, and lets restore go on; whether it came there.
    async fn cut_ahead<'a>(
        &'a self,
        drill: &DrillRecord,
        update: UpdateNumber,
        waiting: &mut Waiting<'a>,
    ) -> Result<bool, Refusal> {
        let of = SnapshotOf::Group(drill.group.clone());
        let (sources, volumes, group, record) = {
            let tables = self.store.tables();
            let sources = tables.snapshot_sources(&of)?;
            let (volumes, group) = self.at_work(&tables, &sources)?;
            let no_number = || Refusal::Conflict("its volumes have no number".into());
            let (group, record) = group.ok_or_else(no_number)?;
            (sources, volumes, group, record)
        };
        let reserved = match waiting.reserved.take().filter(|(before, _)| *before == sources) {
            Some((_, reserved)) => reserved,
            None => self.reserve(&sources)?,
        };
        let ids: Vec<VolumeId> = sources.iter().map(|volume| VolumeId(volume.0)).collect();
        let stand_still = || volumes.iter().map(|volume| volume.alone()).collect::<Vec<_>>();
        // Tables as they are at the cut: a volume may have grown, and a role have changed, since this began to wait.
        let look = |newest| {
            let tables = self.store.tables();
            let is_same = tables.snapshot_sources(&of).is_ok_and(|now| now == sources);
            let moment = self.moment(&record, &sources, newest);
            (tables, is_same, moment, bookmark_at(&group, update), self.base_of(&record, &group, update))
        };
        let wanted = reserved.wanted(&sources);
        let cutting = async {
            group.destage_before(update, &ids).await?;
            group.cut_ahead(update, &wanted, stand_still, look).await
        };
        let new = clones(&drill.group, &drill.name, SnapshotAt::Now);
        let failed = |error: CopyError| Refusal::Conflict(error.to_string());
        let cut = self.made_in_time(&new, async { cutting.await.map_err(failed) }).await?;
        let Some((cut, (tables, is_same, moment, bookmark, base))) = cut else {
            waiting.reserved = Some((sources, reserved));
            return Ok(false);
        };
        // From here on restore goes on; a crash now finds it past a number that has no clones.
        self.runtime().cut_drills.insert(drill.number);
        self.take_up_cuts();
        let written = self.made_in_time(&new, async {
            cut.complete().await.map_err(|error| Refusal::Conflict(error.to_string()))
        });
        let made = match written.await {
            Err(refusal) => Err(refusal.to_string()),
            Ok(()) if !is_same => Err("volumes have come to the group, or gone".to_owned()),
            Ok(()) => Ok(MadeSnapshot { bookmark, base, ..self.made(&tables, &sources, &reserved, moment) }),
        };
        self.record_made(drill, update, made).await;
        self.runtime().cut_drills.remove(&drill.number);
        Ok(true)
    }

    /// Makes the clones of a drill by replaying updates onto what there is of an earlier moment; not if restore comes to that number meanwhile, where it
    /// would have to wait for that.
    async fn replay_drill(&self, group: &Group, drill: &DrillRecord, update: UpdateNumber) {
        let new = clones(&drill.group, &drill.name, SnapshotAt::Update(update));
        let made = tokio::select! {
            biased;
            made = self.image_at(&new) => made,
            () = group.is_there(update) => return,
        };
        let (made, _given_back_unless_named) = match made {
            Ok((made, reserved)) => (Ok(made), Some(reserved)),
            Err(refusal) => (Err(refusal.to_string()), None),
        };
        self.record_made(drill, update, made).await;
    }

    /// Records what was made for a drill that has waited, or that nothing was.
    async fn record_made(
        &self,
        drill: &DrillRecord,
        update: UpdateNumber,
        made: Result<MadeSnapshot, String>,
    ) {
        let recorded = made.and_then(|made| {
            match usable(&made.moment)? {
                Some(number) if number == update => {}
                Some(number) => return Err(format!("the S-VOLs have come to update {number}")),
                None => return Err("not every write has had a number".to_owned()),
            }
            let what = format!("group {}: drill {} is made at update {update}", drill.group, drill.name);
            let recorded =
                self.store.change(&Who::Array, what, |tables| tables.drill_made(drill.number, &made));
            recorded.map_err(|refusal| refusal.to_string())
        });
        match recorded {
            Ok(()) => {
                self.take_up_cuts();
                self.wake();
            }
            Err(why) => self.give_up_and_rest(drill, &why).await,
        }
    }
}

/// An update that has come, and to which restore does not come on in this time, is kept back on purpose.
const HELD_BACK: Duration = Duration::from_secs(1);
/// Another cut of the same volumes, that of a snapshot, is over after about this.
const ANOTHER_CUT: Duration = Duration::from_millis(5);
