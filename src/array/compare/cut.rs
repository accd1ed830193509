//! How the array that leads a comparison and its source come to images of one update number.

use super::super::Array;
use super::super::snapshots::Reserved;
use super::copy::{Job, LOOK_AGAIN, Phase, Plan};
use super::image::is_image_of;
use super::{CUT_WITHIN, LEASE, Line, within};
use crate::copy::compare::hold::Hold;
use crate::disk::VolumeId;
use crate::volume::compare::{Step, TellCompare};
use crate::volume::designation::Refusal;
use crate::volume::name::{GroupNumber, UpdateNumber, VolumeName, VolumeNumber};
use holdfast_journal::UpdateNumber as JournalNumber;
use std::sync::Arc;
use std::time::Duration;

/// An image of the S-VOLs, and of what.
pub(super) struct Image<'a> {
    pub(super) number: UpdateNumber,
    pub(super) volumes: Vec<VolumeId>,
    pub(super) pvols: Vec<VolumeName>,
    _reserved: Reserved<'a>,
}

impl Array {
    /// Both have an image of one number when this returns.
    pub(super) async fn cut_both<'a>(
        &'a self,
        job: &Job,
        plan: &Plan,
        line: &mut Line<'_>,
    ) -> Result<Image<'a>, Refusal> {
        let mut why = Refusal::conflict("restore goes past every number before an image can be cut");
        for _ in 0..CUTS_MAX {
            job.shown().phase = Phase::Preparing;
            match self.try_to_cut(job, plan, line).await {
                Ok(Some(image)) => return Ok(image),
                Ok(None) => {}
                Err(unreachable @ Refusal::Unreachable(_)) => return Err(unreachable),
                Err(refusal) => why = refusal,
            }
            self.env.clock.sleep(CUT_AGAIN).await;
            line.ask(Step::State).await?; // It may have been ended there.
        }
        Err(why)
    }

    async fn try_to_cut<'a>(
        &'a self,
        job: &Job,
        plan: &Plan,
        line: &mut Line<'_>,
    ) -> Result<Option<Image<'a>>, Refusal> {
        let svols: Vec<VolumeNumber> = plan.volumes.iter().map(|one| one.svol).collect();
        let ids: Vec<VolumeId> = svols.iter().map(|svol| VolumeId(svol.0)).collect();
        let failed = |error: &dyn std::fmt::Display| Refusal::Conflict(error.to_string());
        for id in &ids {
            if !self.disk.has_extents_to_spare(*id).map_err(|error| failed(&error))? {
                return Err(Refusal::conflict(
                    "the parity group has hardly any room left: an image would make restore wait",
                ));
            }
        }
        // Most of it before restore has to wait.
        self.disk.destage(&ids).await.map_err(|error| failed(&error))?;
        let hold = plan.group.hold_restore();
        let hold = hold.ok_or_else(|| Refusal::conflict("restore is held by somebody else"))?;
        line.attempt += 1;
        let cut = within(self, CUT_WITHIN * 2, line.ask(Step::Cut)).await;
        let cut = cut.ok_or_else(|| Refusal::conflict("the source does not cut its image in time"))??;
        let TellCompare::Cut { number, generation, names } = cut else {
            return Err(Refusal::conflict("it is no answer"));
        };
        if names.len() != svols.len() {
            return Err(Refusal::conflict("the source answers for other volumes"));
        }
        if !self.come_to(job, plan, line, (&hold, number)).await? {
            return Ok(None);
        }
        let made = within(self, CUT_WITHIN, self.cut_copy(job.group, plan, &svols, number)).await;
        drop(hold);
        let made = made.ok_or_else(|| Refusal::conflict("no image of the S-VOLs could be cut in time"))?;
        let Some((volumes, reserved)) = made? else { return Ok(None) };
        let tables = self.store.tables();
        let is_same = tables.groups.get(&job.group).is_some_and(|row| row.generations.contains(&generation));
        if !is_same {
            return Err(Refusal::conflict("the source has opened another generation meanwhile"));
        }
        Ok(Some(Image { number, volumes, pvols: names, _reserved: reserved }))
    }

    /// Waits until just this number is restored; false when it was gone past.
    async fn come_to(
        &self,
        job: &Job,
        plan: &Plan,
        line: &mut Line<'_>,
        (hold, number): (&Hold, UpdateNumber),
    ) -> Result<bool, Refusal> {
        let wanted = JournalNumber::new(number.0);
        {
            let mut shown = job.shown();
            (shown.phase, shown.number) = (Phase::Waiting, Some(number));
        }
        hold.move_to(wanted);
        let mut heard = self.env.clock.now();
        loop {
            let changed = plan.group.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let now = plan.group.restored_now();
            if now >= wanted {
                return Ok(now == wanted);
            }
            // What has ended, is suspended or stopped may never come there.
            let still = self.compare_plan(job.group)?;
            if plan.group.is_stopped() {
                return Err(Refusal::conflict("restore is stopped here"));
            }
            if !Arc::ptr_eq(&still.group, &plan.group) {
                return Err(Refusal::conflict("the group was opened anew"));
            }
            if self.env.clock.now().since(heard) > LEASE / 4 {
                line.ask(Step::State).await?;
                heard = self.env.clock.now();
            }
            tokio::select! {
                biased;
                () = changed => {}
                () = self.env.clock.sleep(LOOK_AGAIN) => {}
            }
        }
    }

    async fn cut_copy(
        &self,
        number: GroupNumber,
        plan: &Plan,
        svols: &[VolumeNumber],
        at: UpdateNumber,
    ) -> Result<Option<(Vec<VolumeId>, Reserved<'_>)>, Refusal> {
        let _one_at_a_time = self.images.lock().await;
        let reserved = self.reserve(svols)?;
        let wanted = reserved.wanted(svols);
        let look = |newest: crate::copy::image::Newest| {
            newest.whole?;
            let tables = self.store.tables();
            let record = tables.groups.get(&number).ok_or("the group is gone")?;
            is_image_of(&tables, record, UpdateNumber(newest.number.get()))
        };
        let made = plan.group.snapshot_at(JournalNumber::new(at.0), &wanted, look).await;
        match made.map_err(|error| Refusal::Conflict(error.to_string()))? {
            None => Ok(None),
            Some(Err(why)) => Err(Refusal::Conflict(why)),
            Some(Ok(())) => Ok(Some((wanted.iter().map(|one| one.snapshot).collect(), reserved))),
        }
    }
}

/// Attempts at two images of one number.
const CUTS_MAX: u32 = 8;
/// Between two of them.
const CUT_AGAIN: Duration = Duration::from_secs(2);
