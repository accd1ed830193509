//! How the array that leads a comparison and the other one come to images of one update number.
//!
//! With the source, which gives the numbers or hands them on: restore here is held, the source cuts whenever it likes and says the number, restore
//! comes to it. With another copy either may have restored more. Restore here is held at H, and the other one is asked for an image of H or any
//! later number: what it has, if that is not less; then all goes on as with the source. If it has less, its restore is held at H ahead of time, which holds up
//! nothing until it comes there; the image here is cut at H, and restore goes on. So each holds restore only for as long as a
//! question and a cut take, whatever the distance between the two.

use super::super::Array;
use super::super::snapshots::Reserved;
use super::copy::{Job, LOOK_AGAIN, Phase, Plan};
use super::image::{generation_of, is_image_of};
use super::{CUT_WITHIN, LEASE, Line, within};
use crate::clock::MonotonicNs;
use crate::copy::compare::hold::Hold;
use crate::disk::VolumeId;
use crate::volume::compare::{Step, TellCompare};
use crate::volume::designation::Refusal;
use crate::volume::group::Generation;
use crate::volume::name::{GroupNumber, UpdateNumber, VolumeName, VolumeNumber};
use holdfast_journal::UpdateNumber as JournalNumber;
use std::sync::Arc;
use std::time::Duration;

/// An image of the S-VOLs, and of what.
pub(super) struct Image<'a> {
    pub(super) number: UpdateNumber,
    pub(super) generation: Generation,
    pub(super) volumes: Vec<VolumeId>,
    pub(super) pvols: Vec<VolumeName>,
    _reserved: Reserved<'a>,
}

/// Why there are no two images of one number.
enum NotCut {
    /// Restore was past the number, here or there.
    Past,
    /// It may do the next time.
    Refused(Refusal),
    /// It will not.
    Over(Refusal),
}

impl From<Refusal> for NotCut {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            unreachable @ Refusal::Unreachable(_) => Self::Over(unreachable),
            refusal => Self::Refused(refusal),
        }
    }
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
                Ok(image) => return Ok(image),
                Err(NotCut::Past) => {}
                Err(NotCut::Refused(refusal)) => why = refusal,
                Err(NotCut::Over(refusal)) => return Err(refusal),
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
    ) -> Result<Image<'a>, NotCut> {
        let svols: Vec<VolumeNumber> = plan.volumes.iter().map(|one| one.svol).collect();
        if !self.is_roomy(&svols) {
            return Err(no_room().into());
        }
        // Most of it before restore has to wait.
        let ids: Vec<VolumeId> = svols.iter().map(|svol| VolumeId(svol.0)).collect();
        self.disk.destage(&ids).await.map_err(|error| Refusal::Conflict(error.to_string()))?;
        let hold = plan.group.hold_restore();
        let hold = hold.ok_or_else(|| Refusal::conflict("restore is held by somebody else"))?;
        let held = UpdateNumber(hold.number().get());
        line.attempt += 1;
        let step = match plan.beside {
            None => Step::Cut,
            Some(_) => Step::CutFrom { at_least: held },
        };
        let told = within(self, CUT_WITHIN * 2, line.ask(step)).await;
        let mut told =
            told.ok_or_else(|| Refusal::conflict("the other array does not cut its image in time"))??;
        // Whoever has restored more says the number, and restore of the other one comes to it and no further.
        let number = match &told {
            TellCompare::Cut { number, .. } => *number,
            _ => held,
        };
        self.come_to(job, plan, line, (&hold, number)).await?;
        let made = within(self, CUT_WITHIN, self.cut_copy(job.group, plan, &svols, number)).await;
        drop(hold);
        let made = made.ok_or_else(|| Refusal::conflict("no image of the S-VOLs could be cut in time"))?;
        let (volumes, reserved, own) = made?.ok_or(NotCut::Past)?;
        if let TellCompare::Behind { .. } = told {
            told = self.await_other(plan, line, (number, &svols)).await?;
        }
        let TellCompare::Cut { number: theirs, generation, names } = told else {
            return Err(Refusal::conflict("it is no answer").into());
        };
        if theirs != number {
            return Err(NotCut::Past);
        }
        if names.len() != svols.len() {
            return Err(Refusal::conflict("the other array answers for other volumes").into());
        }
        let is_same = match plan.beside {
            None => self.store.read(|tables| {
                tables.groups.get(&job.group).is_some_and(|row| row.generations.contains(&generation))
            }),
            // Neither gives numbers: that both know this generation does not say that each had this number from it.
            Some(_) => own == Some(generation),
        };
        if !is_same {
            let text =
                "the two have this number from different generations: another one was opened meanwhile";
            return Err(Refusal::conflict(text).into());
        }
        Ok(Image { number, generation, volumes, pvols: names, _reserved: reserved })
    }

    /// The image of the other copy, whose restore comes to this number; the one here is cut, and restore goes on.
    async fn await_other(
        &self,
        plan: &Plan,
        line: &mut Line<'_>,
        (number, svols): (UpdateNumber, &[VolumeNumber]),
    ) -> Result<TellCompare, NotCut> {
        let mut still = Still::since(self.env.clock.now());
        loop {
            let told = line.ask(Step::CutFrom { at_least: number }).await?;
            let TellCompare::Behind { restored, delay_ms } = told else { return Ok(told) };
            if !self.is_roomy(svols) {
                return Err(NotCut::Over(no_room()));
            }
            let delay = Duration::from_millis(delay_ms);
            still.look(self.env.clock.now(), (restored, delay), plan.link.name.as_str())?;
            self.env.clock.sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits until just this number is restored.
    async fn come_to(
        &self,
        job: &Job,
        plan: &Plan,
        line: &mut Line<'_>,
        (hold, number): (&Hold, UpdateNumber),
    ) -> Result<(), NotCut> {
        let wanted = JournalNumber::new(number.0);
        {
            let mut shown = job.shown();
            (shown.phase, shown.number) = (Phase::Waiting, Some(number));
        }
        hold.move_to(wanted);
        let mut heard = self.env.clock.now();
        let mut still = Still::since(heard);
        loop {
            let changed = plan.group.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let now = plan.group.restored_now();
            if now >= wanted {
                return if now == wanted { Ok(()) } else { Err(NotCut::Past) };
            }
            // What has ended, is suspended or stopped may never come there.
            let is_open = Arc::ptr_eq(&self.compare_plan(job.group, job.beside())?.group, &plan.group);
            if plan.group.is_stopped() {
                return Err(Refusal::conflict("restore is stopped here").into());
            }
            if !is_open {
                return Err(Refusal::conflict("the group was opened anew").into());
            }
            if plan.beside.is_some() {
                let now = (UpdateNumber(now.get()), plan.group.restore_delay());
                still.look(self.env.clock.now(), now, "this one")?;
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

    /// None if another number is restored; with the generation to which this one belongs at that moment.
    async fn cut_copy(
        &self,
        number: GroupNumber,
        plan: &Plan,
        svols: &[VolumeNumber],
        at: UpdateNumber,
    ) -> Result<Option<(Vec<VolumeId>, Reserved<'_>, Option<Generation>)>, Refusal> {
        let _one_at_a_time = self.images.lock().await;
        let reserved = self.reserve(svols)?;
        let wanted = reserved.wanted(svols);
        let look = |newest: crate::copy::image::Newest| {
            newest.whole?;
            let tables = self.store.tables();
            let record = tables.groups.get(&number).ok_or("the group is gone")?;
            let number = UpdateNumber(newest.number.get());
            is_image_of(&tables, record, number)?;
            Ok(generation_of(&record.generations, number))
        };
        let made = plan.group.snapshot_at(JournalNumber::new(at.0), &wanted, look).await;
        match made.map_err(|error| Refusal::Conflict(error.to_string()))? {
            None => Ok(None),
            Some(Err(why)) => Err(Refusal::Conflict(why)),
            Some(Ok(own)) => Ok(Some((wanted.iter().map(|one| one.snapshot).collect(), reserved, own))),
        }
    }
}

/// How long restore has stood still that another copy waits for: what that one has may never come here, if this one's source is away.
struct Still {
    since: MonotonicNs,
    at: Option<UpdateNumber>,
}

impl Still {
    fn since(since: MonotonicNs) -> Self {
        Self { since, at: None }
    }

    fn look(
        &mut self,
        now: MonotonicNs,
        (restored, delay): (UpdateNumber, Duration),
        whose: &str,
    ) -> Result<(), NotCut> {
        if self.at != Some(restored) {
            (self.since, self.at) = (now, Some(restored));
        }
        if now.since(self.since) <= delay.saturating_add(STILL_MAX) {
            return Ok(());
        }
        let mut text = format!(
            "array {whose} has restored only up to update {restored}, and nothing for {} s",
            now.since(self.since).as_secs()
        );
        if !delay.is_zero() {
            text += &format!(" (it restores {} s later than it can)", delay.as_secs());
        }
        Err(NotCut::Over(Refusal::Conflict(text)))
    }
}

fn no_room() -> Refusal {
    Refusal::conflict("the parity group has hardly any room left: an image would make restore wait")
}

/// Of two copies one may wait for the other for so long in which that restores nothing, and for its delay beside.
const STILL_MAX: Duration = Duration::from_secs(120);
/// Attempts at two images of one number.
const CUTS_MAX: u32 = 8;
/// Between two of them.
const CUT_AGAIN: Duration = Duration::from_secs(2);
