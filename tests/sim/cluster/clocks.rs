//! Wall clocks that jump, and that are wrong.

use super::{ALPHA, Cluster};

impl Cluster {
    /// The wall clock of everybody jumps.
    pub(crate) fn step_wall(&self, by_s: i64) {
        self.is_stepped.set(true);
        if !self.runs(ALPHA) {
            self.is_time_unknown.set(true);
        }
        self.members.iter().for_each(|member| member.clock.step_wall(by_s * 1_000_000_000));
    }

    /// From now on the wall clock of one array is so much before that of the others: nobody has set it, or nobody has asked a time server.
    pub(crate) fn skew_wall(&self, index: usize, by_s: i64) {
        self.members[index].clock.step_wall(by_s * 1_000_000_000);
    }
}
