//! Where a reader is, said to its source by a command of its own (REPORT POSITION, J6).

use super::fetch::FetchError;
use super::group::Group;
use super::source::Source;
use crate::volume::kind::ReleaseBy;
use std::sync::Arc;
use std::time::Duration;

impl Group {
    /// Reports to the source while updates are read from another array; until the link fails.
    pub(crate) async fn report_to(self: &Arc<Self>, source: &dyn Source, source_group: u32) -> FetchError {
        self.report_for_ever(source, source_group).await
    }

    /// Reports by a command of its own what no journal read carries at the moment, at most every [`REPORT_EVERY`]; or,
    /// by the group's choice, each durable journal at once, or nothing at all because the next read will say it (J6).
    pub(super) async fn report_positions(
        self: &Arc<Self>,
        source: &dyn Source,
        source_group: u32,
    ) -> FetchError {
        if self.settings.release_by == ReleaseBy::NextCommand {
            return std::future::pending().await;
        }
        self.report_for_ever(source, source_group).await
    }

    async fn report_for_ever(self: &Arc<Self>, source: &dyn Source, source_group: u32) -> FetchError {
        let mut reported = None;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let position = self.position();
            if reported == Some(position) {
                changed.await;
                continue;
            }
            if let Err(error) = source.report_position(source_group, position).await {
                return error.into();
            }
            reported = Some(position);
            if self.settings.release_by != ReleaseBy::AtOnce {
                self.clock.sleep(REPORT_EVERY).await;
            }
        }
    }
}

/// At most so often a position is reported by a command of its own.
const REPORT_EVERY: Duration = Duration::from_millis(20);
