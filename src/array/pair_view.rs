//! A pair as the shell shows it.

use super::Array;
use super::groups::own_volume;
use super::view::ms;
use crate::copy::status::Status;
use crate::shell::view::PairView;
use crate::volume::designation::Designation;
use crate::volume::name::VolumeName;
use crate::volume::pair::{PairRecord, PairState};
use crate::volume::table::Tables;

impl Array {
    pub(super) fn pair_view(&self, tables: &Tables, pair: &PairRecord) -> PairView {
        let group = tables.groups.get(&pair.group);
        let status = group.and_then(|group| self.status_of(group));
        let is_primary = tables.is_served(pair);
        let found = |status: &Status| status.pairs.iter().find(|one| one.pair == pair.number.0).copied();
        let copied = match (&status, pair.state) {
            (_, PairState::Normal) => pair.size_bytes,
            (Some(status), _) => found(status).map_or(0, |pair| pair.copied_bytes),
            (None, _) => 0,
        };
        let forwarded = self.forwarded_differences(pair);
        let difference_bytes = status.as_ref().and_then(found).map_or(0, |pair| pair.differing_bytes);
        let difference_bytes = forwarded.unwrap_or(difference_bytes);
        let copied = match (forwarded, pair.state) {
            (Some(left), PairState::BeingCopied) => pair.size_bytes.saturating_sub(left),
            _ => copied,
        };
        let difference_bytes = self.written_bytes(pair.number).unwrap_or(difference_bytes);
        let restored = status.as_ref().map(|status| match is_primary {
            true => status
                .readers
                .iter()
                .find(|reader| reader.array == pair.auxiliary.array.0)
                .map_or(0, |reader| reader.report.restored.get()),
            false => status.restored,
        });
        let side = |name: &Option<VolumeName>| name.as_ref().map_or_else(String::new, ToString::to_string);
        PairView {
            number: pair.number.0,
            name: pair.name.to_string(),
            group: group.map_or_else(String::new, |group| group.name.to_string()),
            state: pair.state.to_string(),
            reason: refusal_of(tables, pair).or_else(|| pair.reason.clone()),
            primary_array: pair.primary.array.0,
            pvol: side(&pair.primary.name),
            auxiliary_array: pair.auxiliary.array.0,
            svol: side(&pair.auxiliary.name),
            copy: pair.copy.to_string(),
            identity: if pair.shared.is_some() { "shared" } else { "own" }.to_owned(),
            copy_completion_bytes: copied,
            size_bytes: pair.size_bytes,
            progress_percent: percent(copied, pair.size_bytes),
            time_left_ms: status.as_ref().and_then(found).and_then(|pair| pair.time_left).map(ms),
            difference_bytes,
            restored_update_number: restored.filter(|_| own_volume(tables, pair).is_some()),
            svol_write: pair.control.svol_write,
            asked: pair.control.asked.map(|asked| asked.verb().to_owned()),
            image_update_number: pair.control.image.map(|as_of| as_of.0),
        }
    }
}

/// Why the other array does not accept what it was told of a pair.
fn refusal_of(tables: &Tables, pair: &PairRecord) -> Option<String> {
    let mut forwards = tables.forwards_to(&pair.link);
    forwards.find_map(|forward| match &forward.designation {
        Designation::RemoteResync { pairs, .. } | Designation::RemoteSvolWrite { pairs } => {
            let is_meant = pairs.iter().any(|named| named.pair == pair.name);
            let refusal = forward.refusal.as_ref().filter(|_| is_meant)?;
            Some(format!("waits at {}: {refusal}", pair.link))
        }
        // While it is suspended that is what counts.
        _ => forward.refusal.clone().filter(|_| pair.reason.is_none()),
    })
}

#[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 100.0 } else { part as f64 * 100.0 / whole as f64 }
}
