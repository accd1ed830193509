//! Drills: shown, and waited for while they are being made.

use super::{Answer, Response, Shell};
use crate::shell::change::{Change, DrillWords};
use crate::shell::view::{DrillView, Snapshot};
use crate::volume::designation::Designation;
use crate::volume::drill::{DrillOrder, NewDrill};

/// The drills that a change begins.
fn begun(change: &Change) -> impl Iterator<Item = &NewDrill> {
    change.orders.iter().filter_map(|(_, what)| match what {
        Designation::Drill(order) => match order.as_ref() {
            DrillOrder::Begin(new) => Some(new),
            DrillOrder::Close(_) => None,
        },
        _ => None,
    })
}

impl Shell {
    /// Resolves when no drill that this begins is about to be made: one whose update is still to come is not waited for.
    pub(super) async fn drills_made(&self, change: &Change) {
        if begun(change).next().is_none() {
            return;
        }
        loop {
            let changed = self.console.changed();
            let groups = self.console.snapshot().groups;
            let is_due = |drill: &DrillView| drill.state == "waiting" && drill.updates_left == Some(0);
            if !groups
                .iter()
                .flat_map(|group| &group.drills)
                .any(|drill| is_this(change, drill) && is_due(drill))
            {
                break;
            }
            changed.await;
        }
        self.console.settled().await;
    }

    /// Why a drill that was begun will not be made, if it will not.
    pub(super) fn drill_not_made(&self, change: &Change) -> Option<String> {
        let groups = self.console.snapshot().groups;
        let drills = groups.iter().flat_map(|group| &group.drills);
        let given_up = drills.rev().find(|drill| is_this(change, drill) && drill.verdict == "never made")?;
        Some(format!("drill {} was not made: {}", given_up.name, given_up.reason.as_deref().unwrap_or("-")))
    }
}

fn is_this(change: &Change, drill: &DrillView) -> bool {
    begun(change).any(|new| new.group.as_str() == drill.group && new.name.as_str() == drill.name)
}

impl Answer {
    pub(super) fn drills(&self, words: &DrillWords, now: &Snapshot) -> Response {
        match now.groups.iter().find(|group| group.name == words.group.as_str()) {
            Some(group) => self.list(&group.drills),
            None => self.missing("group", words.group.as_str()),
        }
    }
}
