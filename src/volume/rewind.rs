//! S-VOLs that become what a snapshot of them is (promise O9, decision 27).

use super::designation::{Outcome, Refusal};
use super::group::GroupRole;
use super::name::{GroupName, GroupNumber, SnapshotName, SnapshotNumber};
use super::snapshot::Moment;
use super::table::Tables;

/// From here on the S-VOLs of the group are on the way to the snapshot; the array at work takes them there, and hosts are let in again
/// when all are. They are open to hosts already, so whatever becomes of them counts as written by hosts: their primary is told before
/// differences are copied, and a takeover knows it as such.
pub(super) fn apply_rewind(
    tables: &mut Tables,
    group: &GroupName,
    snapshot: &SnapshotName,
) -> Result<Outcome, Refusal> {
    let row = tables.group_named(group).ok_or_else(|| Refusal::missing("group", group))?;
    let conflict = |text: String| Err(Refusal::Conflict(text));
    if !matches!(row.role, GroupRole::Auxiliary { .. }) {
        return conflict(format!("hosts write group {group} here: its volumes are no S-VOLs"));
    }
    if row.takeover.is_some() || row.reversal.is_some() {
        return conflict(format!("group {group} is being taken over or turned round"));
    }
    let image = tables.snapshots.iter().find(|one| one.name == *snapshot);
    let image = image.ok_or_else(|| Refusal::missing("snapshot", snapshot))?;
    if row.rewinding.is_some_and(|number| number != image.number) {
        return conflict(format!("the S-VOLs of group {group} are on the way to another snapshot"));
    }
    if let Moment::NoImage { why, .. } = &image.moment {
        return conflict(format!("snapshot {snapshot} is no image: {why}"));
    }
    for pair in tables.followed_pairs(row.number) {
        if !(pair.control.svol_write && pair.control.svol_open) || pair.is_leaving() {
            return conflict(format!(
                "hosts may not write the S-VOL of pair {} here: `group suspend {group} --reader LINK --svol-write` at its \
                 primary comes first",
                pair.name
            ));
        }
    }
    let svols = tables.svols(row.number);
    let size = |number| tables.volumes.get(number).map(|row| row.size_bytes);
    let is_of_them = !svols.is_empty() && image.volumes.iter().map(|one| &one.of).eq(&svols);
    if !is_of_them || image.volumes.iter().any(|one| size(&one.of) != size(&one.volume)) {
        return conflict(format!(
            "snapshot {snapshot} is not of the S-VOLs of group {group} as they are now"
        ));
    }
    let (number, image) = (row.number, image.number);
    if let Some(row) = tables.groups.edit(&number) {
        row.rewinding = Some(image);
    }
    Ok(Outcome::Done)
}

impl Tables {
    /// They have become it.
    pub(crate) fn rewound(&mut self, group: GroupNumber) {
        if let Some(row) = self.groups.edit(&group) {
            row.rewinding = None;
        }
    }

    /// Whether S-VOLs are on the way to this snapshot.
    pub(super) fn is_rewound_to(&self, snapshot: SnapshotNumber) -> bool {
        self.groups.iter().any(|row| row.rewinding == Some(snapshot))
    }
}
