//! Comparisons that the array begins by itself: by schedule, and what its end has interrupted.

use super::super::Array;
use super::copy::Job;
use super::start::LED_MAX;
use crate::volume::compare::{Between, CompareOutcome, Comparing};
use crate::volume::designation::Refusal;
use crate::volume::group::{GroupRecord, GroupRole};
use crate::volume::name::GroupNumber;
use crate::volume::record::Who;
use crate::volume::table::Tables;
use std::time::Duration;

impl Array {
    /// Begins what the array led when it ended, as soon as that can be, and what the schedules say, from time to time; for as long as the array runs.
    pub(in crate::array) async fn compare_by_schedule(&self) {
        loop {
            self.env.clock.sleep(SCHEDULE_CHECK).await;
            let tables = self.store.tables();
            self.go_on_with_compares(&tables);
            for row in tables.groups.iter() {
                let Some(schedule) = row.compare_schedule else { continue };
                let now_ns = self.env.clock.wall().0;
                // A clock that was stepped back makes none wait for longer than that.
                let since = |one: &crate::volume::compare::Compared| {
                    Duration::from_nanos(now_ns.abs_diff(one.began_unix_ns))
                };
                let own = self.config.array.number;
                let is_such = |one: &&crate::volume::compare::Compared| {
                    one.between.is_source_and_copy() && one.copy == own && one.number.is_some()
                };
                let last = row.compared.iter().rfind(is_such);
                let now = self.env.clock.now();
                let tried = {
                    let state = self.compares.lock();
                    let is_led = state.led.contains_key(&row.number.0);
                    is_led
                        || state
                            .tried
                            .get(&row.number.0)
                            .is_some_and(|at| now.since(*at) < schedule.every.min(TRY_AGAIN))
                };
                if tried || last.is_some_and(|one| since(one) < schedule.every) {
                    continue;
                }
                self.compares.lock().tried.insert(row.number.0, now);
                if let Err(error) =
                    self.begin_compare(row, (schedule.options, None), String::new(), &Who::Array)
                {
                    tracing::info!(group = %row.name, %error, "a comparison by schedule is not begun");
                }
            }
        }
    }

    /// What was led here when the array ended is begun again: what was hashed is forgotten, the wish is not.
    fn go_on_with_compares(&self, tables: &Tables) {
        let interrupted = self.compares.lock().interrupted.clone();
        for (number, one) in interrupted {
            let Some(row) = tables.groups.get(&GroupNumber(number)) else {
                self.compares.lock().interrupted.remove(&number);
                continue;
            };
            let more = Comparing { begun: one.begun.saturating_add(1), ..one };
            let begun = match one.begun < BEGUN_MAX {
                // The audit log need not know of each try.
                true => self
                    .can_lead(row, &one)
                    .and_then(|()| self.lead(row, (more, Some(one)), BEHIND_A_START.to_owned(), &Who::Array)),
                false => {
                    let text = format!("the array has ended {BEGUN_MAX} times while it was at work");
                    Err(Refusal::Conflict(text))
                }
            };
            let Err(why) = begun else { continue };
            if one.begun >= BEGUN_MAX || self.env.clock.now().since(self.started) > GO_ON_FOR {
                self.give_compare_up(row, one, &why);
            }
        }
    }

    fn can_lead(&self, row: &GroupRecord, one: &Comparing) -> Result<(), Refusal> {
        if self.compares.lock().led.len() >= LED_MAX {
            return Err(Refusal::Limit { what: "comparisons at once".into(), limit: LED_MAX });
        }
        self.compare_plan(row.number, one.beside).map(|_| ())
    }

    fn give_compare_up(&self, row: &GroupRecord, one: Comparing, why: &Refusal) {
        let with = match (one.beside, &row.role) {
            (Some(other), _) => (other, Between::Copies),
            (None, GroupRole::Auxiliary { source, .. }) => (*source, Between::SourceAndCopy),
            (None, GroupRole::Primary) => (self.config.array.number, Between::SourceAndCopy),
        };
        let job = Job::new((self.new_identity(), row.number), with, one.options, one.began_unix_ns);
        let why = format!("the end of this array interrupted it, and it cannot go on: {why}");
        let result = self.result_of(&job, CompareOutcome::Failed(why));
        match self.keep_led(row.number, result) {
            Ok(()) => drop(self.compares.lock().interrupted.remove(&row.number.0)),
            Err(error) => tracing::warn!(%error, "that a comparison was interrupted is not kept"),
        }
    }
}

/// An array that ends so often while it compares does it no more by itself.
const BEGUN_MAX: u32 = 4;
/// For so long behind its start it tries to go on.
const GO_ON_FOR: Duration = Duration::from_secs(3600);
const BEHIND_A_START: &str = ", which the end of this array has interrupted";
/// How often schedules are looked at, and after which time what could not be done is tried again.
const SCHEDULE_CHECK: Duration = Duration::from_secs(10);
const TRY_AGAIN: Duration = Duration::from_secs(600);
