//! Waiting for a takeover to come to its end.

use super::{Shell, TAKEN_UP_WITHIN};
use crate::shell::change::{Change, hold_against};
use crate::shell::view::GroupView;
use crate::volume::designation::Designation;
use std::time::Duration;

/// How long a change is waited for: a takeover until hosts are let in, or the array has given it up.
pub(super) fn limit(change: &Change) -> Duration {
    if taken_over(change).next().is_some() { TAKEOVER_WITHIN } else { TAKEN_UP_WITHIN }
}

/// The groups that a change takes over.
fn taken_over(change: &Change) -> impl Iterator<Item = &str> {
    change.orders.iter().filter_map(|(_, what)| match what {
        Designation::TakeOverGroup { group, .. } => Some(group.as_str()),
        _ => None,
    })
}

impl Shell {
    /// Before an operator has said yes to what a takeover loses he hears which other array has more. Afterwards nobody is asked any
    /// more: what others have is kept there until he gives that up as well.
    pub(super) async fn ask_others(&self, change: &mut Change) {
        if change.yes && !change.dry_run {
            return;
        }
        let groups: Vec<String> = taken_over(change).map(str::to_owned).collect();
        for group in groups {
            change.others.extend(self.console.positions(&group).await);
        }
        hold_against(change);
    }

    /// Resolves when every group that this takes over is the primary and its hosts are let in, or the array has given it up.
    pub(super) async fn taken_over(&self, change: &Change) {
        if taken_over(change).next().is_none() {
            return;
        }
        loop {
            let changed = self.console.changed();
            let groups = self.console.snapshot().groups;
            let is_on_its_way = |group: &GroupView| {
                let is_closed = group.role == "primary" && group.state == "normal";
                let is_closed = is_closed && group.next_update_number.is_none();
                taken_over(change).any(|name| name == group.name) && (is_turning(group) || is_closed)
            };
            if !groups.iter().any(is_on_its_way) {
                break;
            }
            changed.await;
        }
        self.console.settled().await;
    }

    /// Why a group that was to be taken over is not, if it is not.
    pub(super) fn not_taken_over(&self, change: &Change) -> Option<String> {
        let groups = self.console.snapshot().groups;
        let group = groups.iter().find(|group| taken_over(change).any(|name| name == group.name))?;
        if group.role == "primary" && !is_turning(group) {
            return None;
        }
        let begins = format!("group {}: takeover given up: ", group.name);
        let audit = self.console.audit(AUDIT_LOOKED_AT);
        let why = audit.iter().rev().find_map(|record| record.what.strip_prefix(&begins));
        Some(match why {
            Some(why) if !is_turning(group) => format!("group {} was not taken over: {why}", group.name),
            _ => format!("group {} is not taken over yet: `group show` says how far it is", group.name),
        })
    }
}

fn is_turning(group: &GroupView) -> bool {
    let is_on_its_way = |state: &str| matches!(state, "reaching" | "restoring" | "retaking");
    group.takeover.as_ref().is_some_and(|takeover| is_on_its_way(&takeover.state))
}

/// A takeover is answered after this time also when it has not come to its end.
const TAKEOVER_WITHIN: Duration = Duration::from_secs(60);
/// Entries of the audit log among which the reason of a takeover that was given up is looked for.
const AUDIT_LOOKED_AT: usize = 20;
