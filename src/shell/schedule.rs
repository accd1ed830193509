//! The words of a schedule: when a copy is read and restored, and how much at a time.

use crate::config::{Schedule, parse_duration, parse_read_size, parse_read_timing, parse_restore_timing};
use crate::volume::timing::{ReadSize, ReadTiming, RestoreTiming};
use clap::Args;
use std::time::Duration;

/// When a copy is read and restored.
#[derive(Clone, Copy, Debug, Args)]
pub struct ScheduleWords {
    /// The next journal read: "immediate", "every 250ms", "fixed 250ms", "periodic 250ms", or "adaptive:" and its inputs.
    #[arg(long, alias = "read-interval", value_name = "WHEN", default_value = "immediate", value_parser = parse_read_timing)]
    pub read: ReadTiming,
    /// What one asks for: "group", "adaptive", "256 updates" or a size.
    #[arg(long, value_name = "HOW MUCH", default_value = "group", value_parser = parse_read_size)]
    pub read_size: ReadSize,
    /// The next restore: "immediate", "every 250ms" or "load".
    #[arg(long, alias = "restore-interval", value_name = "WHEN", default_value = "immediate", value_parser = parse_restore_timing)]
    pub restore: RestoreTiming,
    /// An update is restored no earlier than this after it was made.
    #[arg(long, value_name = "TIME", default_value = "0ms", value_parser = parse_duration)]
    pub restore_delay: Duration,
}

impl ScheduleWords {
    pub(super) fn schedule(self) -> Schedule {
        Schedule {
            read: self.read,
            read_size: self.read_size,
            restore: self.restore,
            restore_delay: self.restore_delay,
        }
    }
}
