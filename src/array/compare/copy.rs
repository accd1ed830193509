//! The array that leads a comparison: the one that has the copy.

use super::super::Array;
use super::cut::Image;
use super::{Line, within};
use crate::clock::MonotonicNs;
use crate::copy::compare::hash::{Hashed, Progress};
use crate::copy::compare::tree::{Digest, Node, PAGES};
use crate::copy::group::Group;
use crate::volume::compare::{
    Between, CompareOptions, CompareOutcome, Compared, CopiesOf, DifferentRange, NODES_MAX, RANGES_KEPT,
    Side, Step, TellCompare, VOLUMES_MAX,
};
use crate::volume::designation::Refusal;
use crate::volume::group::{Generation, GroupRole};
use crate::volume::name::{ArrayNumber, GroupNumber, UpdateNumber, VolumeName, VolumeNumber};
use crate::volume::pair::PairState;
use crate::volume::proof::{VolumeRoots, last_seal};
use crate::volume::record::{Identity, LinkRecord};
use futures_util::future::try_join;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// A comparison that is led here.
pub(in crate::array) struct Job {
    pub(super) id: Identity,
    pub(super) group: GroupNumber,
    /// The other array: the source, or another copy.
    pub(super) other: ArrayNumber,
    pub(super) between: Between,
    pub(super) options: CompareOptions,
    pub(super) began_unix_ns: u64,
    pub(super) is_cancelled: watch::Sender<bool>,
    pub(super) progress: Arc<Progress>,
    shown: Mutex<Shown>,
}

/// How far it is.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown {
    pub(super) phase: Phase,
    pub(super) number: Option<UpdateNumber>,
    generation: Option<Generation>,
    /// The other array was heard.
    is_begun: bool,
    /// The group's number there, where that has said it.
    remote: Option<u32>,
    /// Attempts at an image so far.
    attempt: u32,
    /// Bytes that the source hashes, has hashed, and has read.
    pub(super) source: [u64; 3],
    pub(super) hashing_since: Option<MonotonicNs>,
    pub(super) found: Found,
}

/// What it does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) enum Phase {
    /// Until both sides have an image of one number; then the next two too.
    #[default]
    Preparing,
    /// Until what has come is restored up to the number.
    Waiting,
    Hashing,
    Searching,
    Repairing,
}

/// What differs.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub(super) different_bytes: u64,
    pub(super) repaired_bytes: u64,
    /// The first of the ranges.
    pub(super) ranges: Vec<DifferentRange>,
    /// What both sides found of each volume.
    pub(super) roots: Vec<VolumeRoots>,
}

/// The volumes that are compared, and the way to the other array.
pub(super) struct Plan {
    pub(super) link: LinkRecord,
    /// The group's number at the source.
    pub(super) remote: GroupNumber,
    /// The source, if it is another copy with which they are compared.
    pub(super) beside: Option<ArrayNumber>,
    pub(super) group: Arc<Group>,
    pub(super) volumes: Vec<Compare>,
}

/// One of them.
pub(super) struct Compare {
    pub(super) pvol: VolumeNumber,
    pub(super) svol: VolumeNumber,
    pub(super) svol_name: VolumeName,
}

/// Pages of one volume that differ, with the side that is proven wrong there.
pub(super) struct DifferentPages {
    /// Which volume.
    pub(super) at: usize,
    pub(super) pages: std::ops::Range<u64>,
    pub(super) wrong: Option<Side>,
}

impl Job {
    pub(super) fn new(
        (id, group): (Identity, GroupNumber),
        (other, between): (ArrayNumber, Between),
        options: CompareOptions,
        began_unix_ns: u64,
    ) -> Self {
        let (is_cancelled, progress, shown) = (watch::Sender::new(false), Arc::default(), Mutex::default());
        Self { id, group, other, between, options, began_unix_ns, is_cancelled, progress, shown }
    }

    /// Nothing of it is shown any more; whether the other array had been heard.
    fn begin_again(&self) -> bool {
        let mut shown = self.shown();
        let fresh = Shown { remote: shown.remote, attempt: shown.attempt, ..Shown::default() };
        std::mem::replace(&mut *shown, fresh).is_begun
    }

    /// The other array, if it is another copy.
    pub(super) fn beside(&self) -> Option<ArrayNumber> {
        (self.between == Between::Copies).then_some(self.other)
    }

    pub(super) fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Array {
    /// The task of a comparison.
    pub(super) async fn lead_compare(&self, job: &Arc<Job>) {
        let mut cancelled = job.is_cancelled.subscribe();
        let outcome = tokio::select! {
            biased;
            _ = cancelled.wait_for(|is_cancelled| *is_cancelled) => CompareOutcome::Cancelled,
            done = self.compare_patiently(job) => match done {
                Ok(()) if job.shown().found.different_bytes == 0 => CompareOutcome::Equal,
                Ok(()) => CompareOutcome::Different,
                Err(refusal) => CompareOutcome::Failed(refusal.to_string()),
            },
        };
        {
            // Whoever sees the result may begin another one.
            let mut state = self.compares.lock();
            state.led.remove(&job.group.0);
            if state.is_ending && matches!(outcome, CompareOutcome::Failed(_)) {
                return; // The next start begins it again.
            }
        }
        let result = self.result_of(job, outcome);
        if let Err(error) = self.keep_led(job.group, result.clone()) {
            tracing::warn!(%error, "the result of a comparison is not kept");
        }
        self.tell_the_end(job, &result).await;
    }

    /// The images are gone here; the source gives its own back now rather than when its patience ends. It keeps the result only as long
    /// as it knows what it has found itself, so it is told again while it may.
    async fn tell_the_end(&self, job: &Job, result: &Compared) {
        let began = self.env.clock.now();
        while self.env.clock.now().since(began) < TELL_FOR {
            if let Ok(plan) = self.compare_plan(job.group, job.beside()) {
                let mut line = self.line(job, &plan);
                let step = Step::End { result: Box::new(result.clone()) };
                let told = within(self, END_WITHIN, line.ask(step)).await;
                if matches!(told, Some(Ok(_) | Err(Refusal::Conflict(_)))) {
                    return;
                }
            }
            if self.compares.lock().led.contains_key(&job.group.0) {
                return; // The next one has begun.
            }
            self.env.clock.sleep(BEGIN_AGAIN).await;
        }
    }

    pub(super) fn result_of(&self, job: &Job, outcome: CompareOutcome) -> Compared {
        let shown = job.shown().clone();
        let of = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        let result = Compared {
            id: job.id,
            between: job.between,
            source: job.other,
            copy: self.config.array.number,
            number: shown.number,
            generation: shown.generation,
            began_unix_ns: job.began_unix_ns,
            ended_unix_ns: self.env.clock.wall().0,
            options: job.options,
            compared_bytes: of(&job.progress.done_bytes).max(shown.source[1]),
            read_bytes: of(&job.progress.read_bytes),
            source_read_bytes: shown.source[2],
            outcome,
            different_bytes: shown.found.different_bytes,
            ranges: shown.found.ranges,
            repaired_bytes: shown.found.repaired_bytes,
            previous: Digest::ZERO,
            roots_digest: Digest::ZERO,
            roots: Vec::new(),
            seal: Digest::ZERO,
        };
        let result = result.within_limits();
        let previous = self.store.read(|tables| {
            let all = tables.groups.get(&job.group).map(|row| row.compared.as_slice());
            last_seal(all.unwrap_or_default(), &result)
        });
        // What was not compared to the end has no roots that say anything.
        let is_whole = result.outcome.is_whole();
        result.sealed(previous, if is_whole { shown.found.roots } else { Vec::new() })
    }

    /// What is compared, and with whom: with its source, or with the other copy at that array.
    pub(super) fn compare_plan(
        &self,
        number: GroupNumber,
        beside: Option<ArrayNumber>,
    ) -> Result<Plan, Refusal> {
        let tables = self.store.tables();
        let record = tables.groups.get(&number).ok_or_else(|| Refusal::missing("group", number))?;
        let conflict = |text: String| Err(Refusal::Conflict(format!("group {}: {text}", record.name)));
        let GroupRole::Auxiliary { source, remote, .. } = &record.role else {
            return conflict("it is not copied here".into());
        };
        let Some(remote) = remote else { return conflict("its source has not let this array in yet".into()) };
        let other = beside.unwrap_or(*source);
        let link = tables.link_to(other).ok_or_else(|| Refusal::missing("link to array", other))?;
        let mut volumes = Vec::new();
        for pair in tables.followed_pairs(number) {
            if pair.state != PairState::Normal {
                return conflict(format!("pair {} is {}", pair.name, pair.state));
            }
            let names = pair.auxiliary.volume.and_then(|svol| tables.volumes.get(&svol));
            let (Some(row), Some(pvol), true) = (names, pair.primary.volume, pair.primary.array == *source)
            else {
                return conflict(format!("pair {} is not complete", pair.name));
            };
            volumes.push(Compare { pvol, svol: row.number, svol_name: row.name.clone() });
        }
        if volumes.is_empty() || volumes.len() > VOLUMES_MAX {
            return conflict(format!("1 to {VOLUMES_MAX} volumes can be compared, it has {}", volumes.len()));
        }
        let group = self.open_group_of(number);
        let Some(group) = group else { return conflict("it is not open here".into()) };
        Ok(Plan { link: link.clone(), remote: *remote, beside: beside.map(|_| *source), group, volumes })
    }

    fn line(&self, job: &Job, plan: &Plan) -> Line<'_> {
        let (remote, attempt) = {
            let shown = job.shown();
            (shown.remote, shown.attempt)
        };
        let group = remote.unwrap_or(plan.remote.0);
        Line { array: self, link: plan.link.clone(), id: job.id, group, attempt, session: None }
    }

    /// All of it; and once more when the other array was lost on the way. What has been hashed is known and need not be read again, except
    /// where something was written since, or at an array that was started anew.
    async fn compare_patiently(&self, job: &Job) -> Result<(), Refusal> {
        let mut lost_since = None;
        let mut why = Refusal::conflict("it is lost again and again");
        for _ in 0..ROUNDS_MAX {
            let lost = match self.compare_steps(job).await {
                Err(lost @ Refusal::Unreachable(_)) => lost,
                done => return done,
            };
            let now = self.env.clock.now();
            if job.begin_again() {
                lost_since = Some(now);
            }
            if lost_since.is_none_or(|since| now.since(since) > LOST_MAX) {
                return Err(lost);
            }
            why = lost;
            self.env.clock.sleep(BEGIN_AGAIN).await;
        }
        Err(why)
    }

    async fn compare_steps(&self, job: &Job) -> Result<(), Refusal> {
        let plan = self.compare_plan(job.group, job.beside())?;
        let mut line = self.line(job, &plan);
        let volumes = plan.volumes.iter().map(|one| one.pvol).collect();
        match plan.beside {
            None => _ = line.ask(Step::Begin { volumes, options: job.options }).await?,
            Some(source) => {
                let of = CopiesOf { source, group: plan.remote, volumes };
                let name =
                    self.store.read(|tables| tables.groups.get(&job.group).map(|row| row.name.clone()));
                let group = name.ok_or_else(|| Refusal::missing("group", job.group))?;
                line.group = line.begin_beside(group, of, job.options).await?;
                job.shown().remote = Some(line.group);
            }
        }
        job.shown().is_begun = true;
        let image = self.cut_both(job, &plan, &mut line).await;
        job.shown().attempt = line.attempt;
        let image = image?;
        {
            let mut shown = job.shown();
            (shown.phase, shown.number) = (Phase::Hashing, Some(image.number));
            shown.generation = Some(image.generation);
            shown.hashing_since = Some(self.env.clock.now());
        }
        line.ask(Step::Hash).await?;
        let own = async {
            let hashed = self.hash_image(&plan.group, &image.volumes, job.options, &job.progress).await;
            hashed.map_err(Refusal::Conflict)
        };
        let (hashed, roots) = try_join(own, self.await_roots(job, &mut line)).await?;
        if roots.len() != hashed.len() {
            return Err(Refusal::conflict("the other array answers for other volumes"));
        }
        {
            let all = plan.volumes.iter().zip(&image.pvols).zip(hashed.iter().zip(&roots));
            let mut shown = job.shown();
            shown.phase = Phase::Searching;
            shown.found.roots = all
                .map(|((one, pvol), (ours, theirs))| VolumeRoots {
                    pvol: pvol.clone(),
                    svol: one.svol_name.clone(),
                    source: *theirs,
                    copy: ours.tree.root(),
                })
                .collect();
        }
        let differing = self.search(&plan, &mut line, &hashed, &roots).await?;
        let different = self.search_pages(job, &plan, (&mut line, &image, &hashed), &differing).await?;
        let wish = job.options.repair;
        let wish = self.env.tamper.as_ref().map_or(wish, |tamper| tamper.repair(wish));
        if let (Some(wish), false) = (wish, different.is_empty()) {
            job.shown().phase = Phase::Repairing;
            self.repair((job, wish), &plan, (&mut line, &image.volumes), &different).await?;
        }
        Ok(())
    }

    async fn await_roots(&self, job: &Job, line: &mut Line<'_>) -> Result<Vec<Digest>, Refusal> {
        let since = self.env.clock.now();
        loop {
            if let TellCompare::State { total_bytes, done_bytes, read_bytes, roots } =
                line.ask(Step::State).await?
            {
                job.shown().source = [total_bytes, done_bytes, read_bytes];
                if let Some(roots) = roots {
                    return Ok(roots);
                }
            }
            // An eighth longer than it takes, at most.
            let waited = self.env.clock.now().since(since);
            self.env.clock.sleep((waited / 8).clamp(LOOK_SOON, LOOK_AGAIN)).await;
        }
    }

    /// The extents that differ, by volume.
    async fn search(
        &self,
        plan: &Plan,
        line: &mut Line<'_>,
        hashed: &[Hashed],
        roots: &[Digest],
    ) -> Result<Vec<(usize, u32)>, Refusal> {
        let mut differing = Vec::new();
        for (at, ((one, ours), theirs)) in plan.volumes.iter().zip(hashed).zip(roots).enumerate() {
            let mut nodes = if ours.tree.root() == *theirs { Vec::new() } else { vec![Node::ROOT] };
            while nodes.first().is_some_and(|node| node.level > 0) {
                let mut below = Vec::new();
                for some in nodes.chunks(NODES_MAX) {
                    let step = Step::Nodes { volume: one.pvol, nodes: some.to_vec() };
                    let TellCompare::Nodes(children) = line.ask(step).await? else { continue };
                    for (node, theirs) in some.iter().zip(&children) {
                        below.extend(ours.tree.differing(*node, theirs));
                    }
                }
                nodes = below;
            }
            differing.extend(nodes.iter().map(|node| (at, node.number)));
        }
        Ok(differing)
    }

    /// The pages that differ in these extents; of those beyond the first ones all pages.
    async fn search_pages(
        &self,
        job: &Job,
        plan: &Plan,
        (line, image, hashed): (&mut Line<'_>, &Image<'_>, &[Hashed]),
        extents: &[(usize, u32)],
    ) -> Result<Vec<DifferentPages>, Refusal> {
        let hasher = self.hasher(&plan.group, job.options, &job.progress);
        let mut different: Vec<DifferentPages> = Vec::new();
        for (count, (at, extent)) in extents.iter().enumerate() {
            let all = u64::from(*extent) * PAGES as u64..(u64::from(*extent) + 1) * PAGES as u64;
            let (mut runs, mut wrong) = (vec![all.clone()], None);
            if count < SEARCHED_MAX {
                let step = Step::Pages { volume: plan.volumes[*at].pvol, extent: *extent };
                let (ours, rotten) = hasher
                    .pages(image.volumes[*at], *extent)
                    .await
                    .map_err(|error| Refusal::Conflict(error.to_string()))?;
                let TellCompare::Pages { digests, is_rotten } = line.ask(step).await? else { continue };
                wrong = match (rotten || hashed[*at].rotten.contains(extent), is_rotten) {
                    (true, false) => Some(Side::Copy),
                    (false, true) => Some(Side::Primary),
                    (true, true) | (false, false) => None,
                };
                let pages = (all.start..).zip(ours.iter().zip(&digests));
                let found = pages.filter(|(_, (ours, theirs))| ours != theirs).map(|(page, _)| page);
                runs = joined(found);
                if runs.is_empty() {
                    runs = vec![all]; // The extents differed, and one was read as another one now.
                }
            }
            different.extend(runs.into_iter().map(|pages| DifferentPages { at: *at, pages, wrong }));
        }
        let mut shown = job.shown();
        for one in &different {
            let bytes = (one.pages.end - one.pages.start) * PAGE_BYTES;
            shown.found.different_bytes += bytes;
            if shown.found.ranges.len() < RANGES_KEPT {
                shown.found.ranges.push(DifferentRange {
                    pvol: image.pvols[one.at].clone(),
                    svol: plan.volumes[one.at].svol_name.clone(),
                    offset_bytes: one.pages.start * PAGE_BYTES,
                    length_bytes: bytes,
                    wrong: one.wrong,
                });
            }
        }
        drop(shown);
        Ok(different)
    }
}

/// Neighbours as ranges.
fn joined(pages: impl Iterator<Item = u64>) -> Vec<std::ops::Range<u64>> {
    let mut runs: Vec<std::ops::Range<u64>> = Vec::new();
    for page in pages {
        match runs.last_mut() {
            Some(run) if run.end == page => run.end += 1,
            _ => runs.push(page..page + 1),
        }
    }
    runs
}

/// For so long the other array may be away before it is given up.
const LOST_MAX: Duration = Duration::from_secs(3600);
/// How often it begins.
const ROUNDS_MAX: u32 = 100;
/// Before it does so again.
const BEGIN_AGAIN: Duration = Duration::from_secs(5);
/// How often is looked how far the other one is.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// The first time.
const LOOK_SOON: Duration = Duration::from_millis(5);
/// Extents of which the pages are compared; of those beyond them only the extent is named.
const SEARCHED_MAX: usize = 1024;
/// How long the source is told that it is over.
const END_WITHIN: Duration = Duration::from_secs(10);
/// … again and again for so long, which is shorter than its patience.
const TELL_FOR: Duration = Duration::from_secs(100);
const PAGE_BYTES: u64 = 4096;
