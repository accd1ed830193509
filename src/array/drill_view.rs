//! Disaster drills as they are shown, and what has become of them as events.

use super::Array;
use super::drills::volumes_of;
use super::events::States;
use crate::disk::cache::AdapterUsage;
use crate::shell::view::DrillView;
use crate::volume::drill::{DrillEnd, DrillRecord, DrillState};
use crate::volume::group::GroupRecord;
use crate::volume::table::Tables;
use std::collections::BTreeSet;

impl Array {
    /// The drills of a group as they are shown.
    pub(super) fn drill_views(
        &self,
        tables: &Tables,
        record: &GroupRecord,
        usage: &AdapterUsage,
    ) -> Vec<DrillView> {
        if tables.drills_of(&record.name).next().is_none() {
            return Vec::new();
        }
        let restored = self.runtime().groups.get(&record.number.0).map(|group| group.status().restored);
        let view = |drill: &DrillRecord| self.drill_view(tables, drill, restored, usage);
        tables.drills_of(&record.name).map(view).collect()
    }

    fn drill_view(
        &self,
        tables: &Tables,
        drill: &DrillRecord,
        restored: Option<u64>,
        usage: &AdapterUsage,
    ) -> DrillView {
        let (by, from) = drill.by.named();
        let verdict = drill.verdict.as_ref();
        let (verdict_by, verdict_from) = verdict.map(|verdict| verdict.by.named()).unzip();
        let allowance = self.allowance_of(tables, drill).filter(|_| drill.quota_bytes.is_some());
        let volumes: BTreeSet<u32> = volumes_of(tables, drill).map(|volume| volume.0).collect();
        let used = usage.volumes.iter().filter(|used| volumes.contains(&used.volume.0));
        let is_quota_used_up = allowance.as_ref().is_some_and(|allowance| allowance.is_used_up());
        let waits_until = match drill.state {
            DrillState::Waiting { until_unix_ns, .. } => Some(until_unix_ns / NS_PER_MS),
            DrillState::Running { .. } | DrillState::Ending { .. } | DrillState::Ended { .. } => None,
        };
        DrillView {
            number: drill.number.0,
            name: drill.name.to_string(),
            group: drill.group.to_string(),
            state: drill.state.to_string(),
            reason: reason(drill, is_quota_used_up),
            verdict: drill.verdict_word().to_owned(),
            verdict_note: verdict.and_then(|one| one.note.as_ref()).map(|note| note.as_str().to_owned()),
            verdict_by,
            verdict_from,
            verdict_unix_ms: verdict.map(|verdict| verdict.given_unix_ns / NS_PER_MS),
            at: drill.at.to_string(),
            update_number: drill.update_number.map(|number| number.0),
            bookmark: drill.bookmark.map(|name| name.to_string()),
            updates_left: drill.waits_for().zip(restored).map(|(update, at)| update.0.saturating_sub(at)),
            waits_until_unix_ms: waits_until,
            by,
            from,
            note: drill.note.as_ref().map(|note| note.as_str().to_owned()),
            begun_unix_ms: drill.begun_unix_ns / NS_PER_MS,
            made_unix_ms: drill.made_unix_ns.map(|ns| ns / NS_PER_MS),
            expires_unix_ms: drill.expires_unix_ns().map(|ns| ns / NS_PER_MS),
            ended_unix_ms: drill.ended_unix_ns.map(|ns| ns / NS_PER_MS),
            quota_bytes: drill.quota_bytes,
            written_bytes: allowance.map(|allowance| allowance.used_bytes()),
            is_quota_used_up,
            own_bytes: used.map(|used| used.allocated_bytes - used.shared_bytes).sum(),
            volumes: drill.volumes.iter().map(ToString::to_string).collect(),
        }
    }

    /// What has become of drills, for whoever follows events.
    pub(super) fn drill_states(&self, tables: &Tables, states: &mut States) {
        for drill in tables.drills.iter() {
            let allowance = self.allowance_of(tables, drill);
            let reason = match reason(drill, allowance.is_some_and(|allowance| allowance.is_used_up())) {
                Some(reason) => reason,
                None => drill.verdict_word().to_owned(),
            };
            let name = format!("{} of group {}", drill.name, drill.group);
            states.insert(("drill", name), (drill.state.to_string(), Some(reason)));
        }
    }
}

fn reason(drill: &DrillRecord, is_quota_used_up: bool) -> Option<String> {
    match &drill.state {
        DrillState::Waiting { update, .. } => Some(format!("for update {update} to be restored")),
        DrillState::Running { .. } => is_quota_used_up.then(|| "its quota is used up".to_owned()),
        DrillState::Ending { how, .. } | DrillState::Ended { how } => match how {
            DrillEnd::Operator => None,
            DrillEnd::Expired => Some("its time was over".to_owned()),
            DrillEnd::GivenUp { why } => Some(why.clone()),
        },
    }
}

const NS_PER_MS: u64 = 1_000_000;
