//! Comparisons that the array begins by itself: by schedule.

use super::super::Array;
use crate::volume::record::Who;
use std::time::Duration;

impl Array {
    /// Begins what the schedules say, from time to time; for as long as the array runs.
    pub(in crate::array) async fn compare_by_schedule(&self) {
        loop {
            self.env.clock.sleep(SCHEDULE_CHECK).await;
            let tables = self.store.tables();
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
}

/// How often schedules are looked at, and after which time what could not be done is tried again.
const SCHEDULE_CHECK: Duration = Duration::from_secs(10);
const TRY_AGAIN: Duration = Duration::from_secs(600);
