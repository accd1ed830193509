//! Volumes grow, with all their copies and without a split (decision 18).
//!
//! What this file keeps true of the tables: a P-VOL gets its new size only in the transaction that finds the room of every
//! pair's S-VOL recorded; an S-VOL's room is told upwards only when its parity group has it, and everything that follows it;
//! an S-VOL is shown larger only when its P-VOL is. What has to be done at the units is done by `array/grow.rs`, which
//! records each step by one of the functions at the end.

use super::copy::{describe, peer};
use super::pairs::followed_pair;
use crate::volume::designation::{Designation, DesignationId, Outcome, Refusal};
use crate::volume::kind::CopyMode;
use crate::volume::name::{GroupNumber, LinkName, PairName, VolumeName, VolumeNumber};
use crate::volume::pair::PairRecord;
use crate::volume::record::{Growth, Identity, VolumeRecord, VolumeUsage, Who};
use crate::volume::table::{HostAccess, Tables};

/// An operator wants a volume larger; its present size calls back a growth that waits.
pub(super) fn resize(
    tables: &mut Tables,
    id: DesignationId,
    name: &VolumeName,
    size_bytes: u64,
) -> Result<Outcome, Refusal> {
    let row = tables.volume_named(name).ok_or_else(|| Refusal::missing("volume", name))?.clone();
    let number = row.number;
    if let Some(above) = followed_here(tables, number).next() {
        let text = format!(
            "volume {name} follows another one by pair {}: it grows with its P-VOL, at {}",
            above.name, above.link
        );
        return Err(Refusal::conflict(text));
    }
    check_size(&row, size_bytes)?;
    check_can_grow(tables, &row)?;
    match &row.growth {
        Some(growth) if growth.to_bytes == size_bytes => return Ok(Outcome::Done),
        Some(growth) if size_bytes != row.size_bytes => {
            let text = format!("volume {name} is growing to {} bytes already", growth.to_bytes);
            return Err(Refusal::conflict(text));
        }
        Some(_) => return call_back(tables, id, &row),
        None if size_bytes == row.size_bytes => return Ok(Outcome::Done),
        None => {}
    }
    set_growth(tables, number, size_bytes);
    tell_below(tables, id, number, |pair| Designation::RemoteGrow { pair, size_bytes })?;
    Ok(Outcome::Done)
}

fn call_back(tables: &mut Tables, id: DesignationId, row: &VolumeRecord) -> Result<Outcome, Refusal> {
    let size_bytes = row.size_bytes;
    let below: Vec<PairName> = served_here(tables, row.number).map(|pair| pair.name.clone()).collect();
    // What has not gone out is not wanted any more.
    let is_wish =
        |what: &Designation| matches!(what, Designation::RemoteGrow { pair, .. } if below.contains(pair));
    let wishes = tables.forwards.iter().filter(|forward| is_wish(&forward.designation));
    let wishes: Vec<u64> = wishes.map(|forward| forward.sequence).collect();
    wishes.iter().for_each(|sequence| {
        tables.forwards.remove(sequence);
    });
    if let Some(volume) = tables.volumes.edit(&row.number) {
        volume.growth = None;
    }
    forget_room(tables, row.number);
    tell_below(tables, id, row.number, |pair| Designation::RemoteGrown { pair, size_bytes })?;
    Ok(Outcome::Done)
}

/// At the auxiliary: the primary wants room in the S-VOL.
pub(super) fn remote_grow(
    tables: &mut Tables,
    id: DesignationId,
    pair: &PairName,
    size_bytes: u64,
    who: &Who,
) -> Result<Outcome, Refusal> {
    let row = own_svol(tables, pair, who)?;
    check_can_grow(tables, &row)?;
    if row.size_bytes >= size_bytes {
        let (_, link) = peer(tables, who)?;
        tables.forward(&link, id.caused(0), Designation::JoinRoom { pair: pair.clone(), size_bytes });
        return Ok(Outcome::Done);
    }
    check_size(&row, size_bytes)?;
    set_growth(tables, row.number, size_bytes);
    tell_below(tables, id, row.number, |pair| Designation::RemoteGrow { pair, size_bytes })?;
    Ok(Outcome::Done)
}

/// At the primary: an S-VOL has the room, durably, and so has all that follows it.
pub(super) fn join_room(
    tables: &mut Tables,
    pair: &PairName,
    size_bytes: u64,
    who: &Who,
) -> Result<Outcome, Refusal> {
    let (array, _) = peer(tables, who)?;
    let row = tables.pair_named(pair).ok_or_else(|| Refusal::missing("pair", pair))?;
    if !tables.is_served(row) || row.auxiliary.array != array {
        return Err(Refusal::conflict(format!("pair {pair} is not copied there from here")));
    }
    let number = row.number;
    let growth = row.primary.volume.and_then(|pvol| tables.volumes.get(&pvol)?.growth.as_ref());
    if growth.is_none_or(|growth| growth.to_bytes != size_bytes) {
        return Ok(Outcome::Done); // Of a growth that was called back: the next one asks for room itself.
    }
    if let Some(row) = tables.pairs.edit(&number) {
        row.control.room_bytes = row.control.room_bytes.max(size_bytes);
    }
    Ok(Outcome::Done)
}

/// At the auxiliary: the P-VOL has this size, so the S-VOL is shown with it; or its growth was called back.
pub(super) fn remote_grown(
    tables: &mut Tables,
    id: DesignationId,
    pair: &PairName,
    size_bytes: u64,
    who: &Who,
) -> Result<Outcome, Refusal> {
    let row = own_svol(tables, pair, who)?;
    let room_bytes = row.growth.as_ref().filter(|growth| growth.has_room).map_or(0, |growth| growth.to_bytes);
    if size_bytes > row.size_bytes.max(room_bytes) {
        return Err(Refusal::conflict(format!("volume {} has no room for {size_bytes} bytes", row.name)));
    }
    let number = row.number;
    if let Some(volume) = tables.volumes.edit(&number) {
        (volume.size_bytes, volume.growth) = (volume.size_bytes.max(size_bytes), None);
    }
    let own_bytes = size_bytes.max(row.size_bytes);
    set_pair_sizes(tables, number, own_bytes);
    // If it was called back: no update reaches behind the end, because the P-VOL has not grown.
    forget_room(tables, number);
    take_back_pair_sizes(tables, number, own_bytes);
    tell_below(tables, id, number, |pair| Designation::RemoteGrown { pair, size_bytes })?;
    Ok(Outcome::Done)
}

fn own_svol(tables: &Tables, pair: &PairName, who: &Who) -> Result<VolumeRecord, Refusal> {
    let number = followed_pair(tables, pair, who)?;
    let volume = tables.pairs.get(&number).and_then(|pair| pair.auxiliary.volume);
    let row = volume.and_then(|volume| tables.volumes.get(&volume));
    row.cloned().ok_or_else(|| Refusal::missing("S-VOL of pair", pair))
}

fn check_size(row: &VolumeRecord, size_bytes: u64) -> Result<(), Refusal> {
    if size_bytes < row.size_bytes {
        let text = format!(
            "volume {} has {} bytes and does not shrink: what lies behind the new end would be lost",
            row.name, row.size_bytes
        );
        return Err(Refusal::conflict(text));
    }
    if size_bytes > super::local::VOLUME_BYTES_MAX || !size_bytes.is_multiple_of(4_096) {
        return Err(Refusal::conflict("the size of a volume is 1MiB to 256TiB, a multiple of 4KiB"));
    }
    Ok(())
}

/// What cannot grow, here or as somebody's S-VOL.
fn check_can_grow(tables: &Tables, row: &VolumeRecord) -> Result<(), Refusal> {
    if let VolumeUsage::Snapshot(_) = row.usage
        && tables.host_access(row.number) != HostAccess::ReadWrite
    {
        let text = format!("volume {} is of a read-only snapshot: it stays what it is", row.name);
        return Err(Refusal::conflict(text));
    }
    if let VolumeUsage::Snapshot(snapshot) = row.usage
        && tables.drills.iter().any(|drill| drill.snapshot() == Some(snapshot))
    {
        let text = format!("volume {} is of a drill: it has the size of what it is of", row.name);
        return Err(Refusal::conflict(text));
    }
    if let VolumeUsage::Journal(_) = row.usage {
        let text = format!(
            "volume {} is {}: add a larger one to the group and take this one away",
            row.name,
            describe(row)
        );
        return Err(Refusal::conflict(text));
    }
    if row.parity_group.is_none() {
        return Err(Refusal::conflict(format!("volume {} is virtual: it cannot grow", row.name)));
    }
    for pair in tables.pairs_of_volume(row.number) {
        if pair.copy == CopyMode::Sync {
            let text = format!(
                "writes to volume {} are forwarded by pair {}: it cannot grow while they are",
                row.name, pair.name
            );
            return Err(Refusal::conflict(text));
        }
        if tables.groups.get(&pair.group).is_some_and(|group| group.reversal.is_some()) {
            return Err(Refusal::conflict(format!("the group of pair {} is being reversed", pair.name)));
        }
    }
    Ok(())
}

fn set_growth(tables: &mut Tables, volume: VolumeNumber, to_bytes: u64) {
    if let Some(row) = tables.volumes.edit(&volume) {
        row.growth = Some(Growth { to_bytes, has_room: false, reason: None });
    }
}

/// Tells the arrays that copy a volume from here.
fn tell_below(
    tables: &mut Tables,
    id: DesignationId,
    volume: VolumeNumber,
    what: impl Fn(PairName) -> Designation,
) -> Result<(), Refusal> {
    let below: Vec<(LinkName, PairName)> =
        served_here(tables, volume).map(|pair| (pair.link.clone(), pair.name.clone())).collect();
    for (index, (link, pair)) in below.into_iter().enumerate() {
        let index = u8::try_from(index).map_err(|_| Refusal::conflict("the volume has too many copies"))?;
        tables.forward(&link, id.caused(index), what(pair));
    }
    Ok(())
}

fn set_pair_sizes(tables: &mut Tables, volume: VolumeNumber, size_bytes: u64) {
    let pairs: Vec<_> = tables.pairs_of_volume(volume).map(|pair| pair.number).collect();
    for pair in pairs {
        if let Some(row) = tables.pairs.edit(&pair) {
            if size_bytes > row.size_bytes {
                // Where hosts wrote the S-VOL is marked by the measure of the size that it had then: it would be read at other places.
                row.control.reaches = None;
            }
            row.size_bytes = row.size_bytes.max(size_bytes);
        }
    }
}

/// Pairs that had got the size of a growth have that of their volume again. Behind 2 TiB they keep it: marks that are in the store and in
/// memory would stand for other bytes.
fn take_back_pair_sizes(tables: &mut Tables, volume: VolumeNumber, size_bytes: u64) {
    let is_larger =
        |pair: &&PairRecord| pair.size_bytes > size_bytes && pair.size_bytes <= SAME_MEASURE_BYTES;
    let pairs: Vec<_> = tables.pairs_of_volume(volume).filter(is_larger).map(|pair| pair.number).collect();
    for pair in pairs {
        if let Some(row) = tables.pairs.edit(&pair) {
            row.size_bytes = size_bytes;
        }
    }
}

/// The room that S-VOLs of this volume have said is not counted any more: they are asked again.
fn forget_room(tables: &mut Tables, volume: VolumeNumber) {
    let pairs: Vec<_> = served_here(tables, volume).map(|pair| pair.number).collect();
    for pair in pairs {
        if let Some(row) = tables.pairs.edit(&pair) {
            row.control.room_bytes = 0;
        }
    }
}

/// The pairs whose P-VOL is this volume, without those that go.
fn served_here(tables: &Tables, volume: VolumeNumber) -> impl Iterator<Item = &PairRecord> {
    tables.pairs_of_volume(volume).filter(|pair| tables.is_served(pair) && !pair.is_leaving())
}

/// The pairs whose S-VOL is this volume, without those that go.
fn followed_here(tables: &Tables, volume: VolumeNumber) -> impl Iterator<Item = &PairRecord> {
    tables.pairs_of_volume(volume).filter(|pair| !tables.is_served(pair) && !pair.is_leaving())
}

// ---- What the array at work asks and records ---------------------------------------------------------------------

impl Tables {
    /// Why the units of a growing volume have to wait; none: they can be grown now, and everything here that knows the
    /// size of its copies.
    pub(crate) fn growth_waits_for(&self, volume: VolumeNumber, to_bytes: u64) -> Option<String> {
        for pair in served_here(self, volume) {
            if pair.control.room_bytes < to_bytes {
                return Some(format!("the S-VOL of pair {} has no room yet", pair.name));
            }
            // A copy that ends knows where: it is not moved away under it.
            let is_moving = matches!(pair.state, crate::volume::pair::PairState::BeingCopied);
            if is_moving || pair.control.asked.is_some() {
                return Some(format!("pair {} is being copied or changed", pair.name));
            }
        }
        for pair in followed_here(self, volume) {
            if pair.control.svol_write || pair.control.is_written {
                return Some(format!("hosts may write the S-VOL of pair {}", pair.name));
            }
        }
        None
    }

    /// The units have the room. At an S-VOL its primaries are told, else the volume has its new size.
    pub(crate) fn room_was_made(
        &mut self,
        volume: VolumeNumber,
        identity: &mut dyn FnMut() -> Identity,
    ) -> Result<(), Refusal> {
        let growth = self.volumes.get(&volume).and_then(|row| row.growth.clone());
        let Some(Growth { to_bytes, .. }) = growth else {
            return Err(Refusal::conflict("its growth was called back"));
        };
        if let Some(why) = self.growth_waits_for(volume, to_bytes) {
            return Err(Refusal::Conflict(why));
        }
        set_pair_sizes(self, volume, to_bytes);
        let above: Vec<(LinkName, PairName)> =
            followed_here(self, volume).map(|pair| (pair.link.clone(), pair.name.clone())).collect();
        if let Some(row) = self.volumes.edit(&volume) {
            if above.is_empty() {
                (row.size_bytes, row.growth) = (row.size_bytes.max(to_bytes), None);
            } else {
                row.growth = Some(Growth { to_bytes, has_room: true, reason: None });
            }
        }
        if above.is_empty() {
            let id = DesignationId(identity());
            return tell_below(self, id, volume, |pair| Designation::RemoteGrown {
                pair,
                size_bytes: to_bytes,
            });
        }
        for (link, pair) in above {
            let what = Designation::JoinRoom { pair, size_bytes: to_bytes };
            self.forward(&link, DesignationId(identity()), what);
        }
        Ok(())
    }

    /// Why a volume does not grow now, to be shown.
    pub(crate) fn growth_waits(&mut self, volume: VolumeNumber, reason: &str) {
        if let Some(row) = self.volumes.edit(&volume)
            && let Some(growth) = &mut row.growth
        {
            growth.reason = Some(reason.to_owned());
        }
    }

    /// What of the group is growing: until all copies have the same size nothing changes sides.
    pub(crate) fn growing_in(&self, group: GroupNumber) -> Option<String> {
        let is_growth = |what: &Designation| {
            matches!(what, Designation::RemoteGrow { .. } | Designation::RemoteGrown { .. })
        };
        if let Some(forward) = self.forwards.iter().find(|forward| is_growth(&forward.designation)) {
            return Some(format!("this is still on its way to {}: {}", forward.link, forward.designation));
        }
        let mut own = self.pairs_of_group(group).filter_map(|pair| {
            let side = if self.is_served(pair) { &pair.primary } else { &pair.auxiliary };
            self.volumes.get(&side.volume?)
        });
        let growing = own.find(|volume| volume.growth.is_some())?;
        Some(format!("volume {} is growing", growing.name))
    }

    /// Whether a volume whose room is made is nobody's S-VOL any more: it is as large as it can be.
    pub(crate) fn grows_alone(&self, volume: VolumeNumber) -> bool {
        followed_here(self, volume).next().is_none()
    }
}

/// In the difference maps of all volumes up to this size a mark stands for as many bytes.
const SAME_MEASURE_BYTES: u64 = 2 << 40;
