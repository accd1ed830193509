//! Step 910 of figure 10 in two: volumes are catalogued into a group by themselves, before they are paired, or after it.
//!
//! Each array catalogues its own volumes, by its own numbers, as the specification has it. A member can be paired in its
//! group only, cannot become a journal volume, and is not deleted. A pair makes its volumes belong to its group as long as
//! it lasts; a member stays one without it, so that the pairing can be done anew.

use super::copy::describe;
use super::local::within;
use crate::volume::designation::{Outcome, Refusal};
use crate::volume::group::GroupRecord;
use crate::volume::name::{GroupName, GroupNumber, VolumeName, VolumeNumber};
use crate::volume::record::{VolumeRecord, VolumeUsage};
use crate::volume::table::Tables;

pub(super) fn add(tables: &mut Tables, group: &GroupName, volume: &VolumeName) -> Result<Outcome, Refusal> {
    let number = tables.group_named(group).ok_or_else(|| Refusal::missing("group", group))?.number;
    let row = tables.volume_named(volume).ok_or_else(|| Refusal::missing("volume", volume))?.clone();
    if row.usage != VolumeUsage::Host {
        return Err(Refusal::conflict(format!("volume {volume} is {}", describe(&row))));
    }
    check_group(tables, &row, number)?;
    if let Some(pair) = tables.pairs_of_volume(row.number).find(|pair| pair.group != number) {
        let text = format!("volume {volume} is in another group, by pair {}", pair.name);
        return Err(Refusal::conflict(text));
    }
    let known = tables.groups.get(&number).map_or(0, |row| row.members.len());
    within(known, MEMBERS_MAX, "volumes of a group")?;
    if let Some(group) = tables.groups.edit(&number)
        && !group.members.contains(&row.number)
    {
        group.members.push(row.number);
    }
    Ok(Outcome::Done)
}

pub(super) fn remove(
    tables: &mut Tables,
    group: &GroupName,
    volume: &VolumeName,
) -> Result<Outcome, Refusal> {
    let known = tables.group_named(group).ok_or_else(|| Refusal::missing("group", group))?;
    let (number, members) = (known.number, &known.members);
    let row = tables.volume_named(volume).ok_or_else(|| Refusal::missing("volume", volume))?.number;
    if !members.contains(&row) {
        return Err(Refusal::conflict(format!("volume {volume} was not put into group {group} by itself")));
    }
    if let Some(pair) = tables.pairs_of_volume(row).find(|pair| pair.group == number) {
        let text = format!("volume {volume} is paired by {}: take the pair away first", pair.name);
        return Err(Refusal::conflict(text));
    }
    if let Some(group) = tables.groups.edit(&number) {
        group.members.retain(|member| *member != row);
    }
    Ok(Outcome::Done)
}

/// A volume that is a member of one group is paired in no other one.
pub(super) fn check_group(tables: &Tables, volume: &VolumeRecord, group: GroupNumber) -> Result<(), Refusal> {
    match tables.group_of_member(volume.number) {
        Some(other) if other.number != group => {
            Err(Refusal::conflict(format!("volume {} was put into group {}", volume.name, other.name)))
        }
        Some(_) | None => Ok(()),
    }
}

impl Tables {
    /// The group into which a volume of this array was put by itself.
    #[must_use]
    pub fn group_of_member(&self, volume: VolumeNumber) -> Option<&GroupRecord> {
        self.groups.iter().find(|group| group.members.contains(&volume))
    }
}

/// Volumes that are put into one group; more are refused.
const MEMBERS_MAX: usize = 16_384;
