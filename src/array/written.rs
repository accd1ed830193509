//! S-VOLs that hosts write while their pairs are suspended (promise O2), at their auxiliary; and, at the primary, what it
//! is told of that.
//!
//! *Opening*: an image of the S-VOL is kept as before a resync, and the tables say that hosts may write it. The owner task
//! then takes the S-VOLs of a group out of restore, all at one moment, so that nothing older than hosts' writes is put over
//! them, also not by a replay; it notes that when what they are is on the units, and only then opens them. What is held here behind a restore delay stays unrestored
//! for them, and counts as different. *Closing*, when the primary wants to copy differences: no write
//! becomes visible any more, then it is noted together with the message that tells the primary where they were. The
//! copy is accepted when the primary has that durably. A crash between two steps leaves the S-VOL open, with its marks.

use super::Array;
use super::groups::own_volume;
use crate::copy::differences::DifferenceMap;
use crate::copy::group::Group;
use crate::copy::marked::SvolMarks;
use crate::copy::svols::PassedOver;
use crate::disk::VolumeId;
use crate::io::volume::VolumeRole;
use crate::volume::designation::{DesignationId, Refusal, ResyncedPair};
use crate::volume::group::{GroupRole, GroupState};
use crate::volume::name::{ArrayNumber, GroupNumber, PairName, PairNumber};
use crate::volume::pair::{PairRecord, PairState};
use crate::volume::record::{Identity, Who};
use crate::volume::resync::RUNS_MAX;
use crate::volume::store::PairMarks;
use crate::volume::table::Tables;
use std::collections::BTreeMap;
use std::sync::Arc;

impl Array {
    /// Opens S-VOLs that hosts may write and are not open yet, and forgets those that are not written any more.
    pub(crate) async fn open_written_svols(&self) {
        let tables = self.store.tables();
        let is_open = |pair: &PairRecord| pair.control.svol_write && is_copied_here(&tables, pair);
        self.runtime().written.retain(|number, marks| {
            let stays = tables.pairs.get(&PairNumber(*number)).is_some_and(is_open);
            if !stays {
                marks.end();
            }
            stays
        });
        let mut by_group: BTreeMap<GroupNumber, Vec<PairNumber>> = BTreeMap::new();
        for pair in tables.pairs.iter().filter(|pair| is_open(pair)) {
            if self.runtime().written.contains_key(&pair.number.0) {
                continue;
            }
            by_group.entry(pair.group).or_default().push(pair.number);
        }
        for (group, pairs) in by_group {
            if let Err(error) = self.open_to_hosts(group, &pairs).await {
                tracing::error!(%group, %error, "hosts cannot write its S-VOLs yet");
            }
        }
    }

    async fn open_to_hosts(&self, number: GroupNumber, wanted: &[PairNumber]) -> anyhow::Result<()> {
        // From here on nobody closes them: what is taken out of restore stays out until it is open, and only if it is to be.
        let _no_closing = self.images.lock().await;
        let tables = self.store.tables();
        let asked: Vec<&PairRecord> = wanted
            .iter()
            .filter_map(|pair| tables.pairs.get(pair))
            .filter(|pair| pair.control.svol_write && is_copied_here(&tables, pair))
            .filter(|pair| own_volume(&tables, pair).is_some())
            .collect();
        let taken_out: Vec<PairNumber> =
            asked.iter().filter(|pair| !pair.control.svol_open).map(|pair| pair.number).collect();
        if !taken_out.is_empty() {
            let group = self.runtime().groups.get(&number.0).cloned();
            let group = group.ok_or_else(|| anyhow::anyhow!("it is not open"))?;
            let what = format!("group {}: {} S-VOLs are opened to hosts", group.name, taken_out.len());
            let record = |passed_over: PassedOver| {
                let marks = self.marks_with(&tables, &passed_over)?;
                self.store.change_with_marks(&Who::Array, what, &marks, |tables| {
                    tables.svols_opened(&taken_out);
                    Ok(())
                })?;
                anyhow::Ok(())
            };
            let numbers: Vec<u32> = taken_out.iter().map(|pair| pair.0).collect();
            group.take_out_svols(&numbers, record).await?;
        }
        for pair in asked {
            self.open_one_to_hosts(&tables, pair)?;
        }
        Ok(())
    }

    fn open_one_to_hosts(&self, tables: &Tables, pair: &PairRecord) -> anyhow::Result<()> {
        let number = own_volume(tables, pair).ok_or_else(|| anyhow::anyhow!("it has no volume here"))?;
        let volume = self.runtime().volumes.get(&number).cloned();
        let volume = volume.ok_or_else(|| anyhow::anyhow!("its volume is not open"))?;
        self.disk.set_gate(VolumeId(number), None)?;
        let map = self.svol_map(pair)?;
        let store = Arc::new(super::marks::Marks(self.store.clone()));
        let marks = SvolMarks::new(pair.number.0, map, store);
        self.spawn(marks.clone().write_marks());
        // On the way to a snapshot they are no image, and nobody sees them.
        let is_rewound = tables.groups.get(&pair.group).is_some_and(|group| group.rewinding.is_some());
        let role = if is_rewound { VolumeRole::Waiting } else { VolumeRole::Marked(marks.clone()) };
        volume.set_role(role);
        self.runtime().written.insert(pair.number.0, marks);
        Ok(())
    }

    /// What is held here and not restored is lacking in S-VOLs that are taken out of restore, like what hosts write.
    fn marks_with(&self, tables: &Tables, passed_over: &PassedOver) -> anyhow::Result<Vec<PairMarks>> {
        let mut marks = Vec::with_capacity(passed_over.len());
        for (number, ranges) in passed_over {
            let Some(pair) = tables.pairs.get(&PairNumber(*number)) else { continue };
            let mut map = self.svol_map(pair)?;
            ranges.iter().for_each(|(start, length)| map.mark(*start, *length));
            marks.push(PairMarks { pair: pair.number, replace: false, parts: map.take_changed() });
        }
        Ok(marks)
    }

    /// What the store has of where hosts wrote an S-VOL.
    pub(super) fn svol_map(&self, pair: &PairRecord) -> anyhow::Result<DifferenceMap> {
        let parts = self.store.marks_of(pair.number).map_err(anyhow::Error::msg)?;
        DifferenceMap::load(pair.size_bytes, parts).map_err(|part| {
            anyhow::anyhow!("part {part} of the difference map of pair {} is not one", pair.name)
        })
    }

    /// Whether hosts may write the volume although it is an S-VOL.
    pub(crate) fn is_written(&self, tables: &Tables, volume: crate::volume::name::VolumeNumber) -> bool {
        let runtime = self.runtime();
        let mut pairs = tables.pairs_of_volume(volume);
        pairs.any(|pair| pair.control.svol_write && runtime.written.contains_key(&pair.number.0))
    }

    /// How much of an S-VOL hosts have written, in marked bytes.
    pub(crate) fn written_bytes(&self, pair: PairNumber) -> Option<u64> {
        self.runtime().written.get(&pair.0).map(|marks| marks.differing_bytes())
    }

    /// Shuts hosts out of those S-VOLs among these that they may write, and tells the primary where they wrote. The caller
    /// holds `images`.
    pub(super) fn close_to_hosts(
        &self,
        tables: &Tables,
        resynced: &[ResyncedPair],
        source: ArrayNumber,
    ) -> Result<(), Refusal> {
        let pairs: Vec<&PairRecord> = resynced
            .iter()
            .filter_map(|one| tables.pair_named(&one.pair))
            .filter(|pair| pair.control.svol_write && pair.primary.array == source)
            .collect();
        let mut written = Vec::with_capacity(pairs.len());
        for pair in pairs {
            let open = self.runtime().written.remove(&pair.number.0);
            let volume = own_volume(tables, pair).and_then(|n| self.runtime().volumes.get(&n).cloned());
            if let Some(volume) = volume {
                volume.set_role(VolumeRole::Copy); // What becomes visible at this moment has done so behind it.
            }
            let map = match open {
                Some(marks) => marks.end(),
                None => self.svol_map(pair).map_err(|error| Refusal::Conflict(error.to_string()))?,
            };
            written.push((pair.number, map.runs(RUNS_MAX)));
        }
        if written.is_empty() {
            return Ok(());
        }
        self.set_access(tables);
        let what = format!("hosts are shut out of {} S-VOLs: their differences follow", written.len());
        let closed = self.store.change(&Who::Array, what, |tables| {
            tables.close_svols(&written, &mut || Identity(self.env.entropy.identity()))
        });
        self.wake(); // Those that stay open are opened anew.
        closed
    }

    /// Auxiliaries are told to open S-VOLs to hosts, each with one message about all of its pairs, once every one of these
    /// is suspended and it is known of which number its S-VOL stays.
    pub(super) fn send_svol_writes(&self, group: &Arc<Group>) {
        let asked = self.pairs_where(group, |pair| {
            let is_wanted = pair.control.svol_write && !pair.control.is_svol_write_sent;
            is_wanted && pair.state != PairState::Abnormal && self.store.read(|tables| tables.is_served(pair))
        });
        let is_ready = |pair: &PairRecord| {
            let is_stopped = pair.state == PairState::Suspended && pair.control.asked.is_none();
            is_stopped && pair.control.told && pair.control.withheld_from.is_some()
        };
        for (reader, pairs) in super::pairs::by_reader(&asked) {
            let mut of_reader = asked.iter().filter(|pair| pair.auxiliary.array.0 == reader.0);
            if !of_reader.all(is_ready) {
                continue;
            }
            let what =
                format!("group {}: array {} opens {} S-VOLs to hosts", group.name, reader.0, pairs.len());
            let recorded = self.store.change(&Who::Array, what, |tables| {
                tables.svol_write_sent(&pairs, &mut || self.new_identity());
                Ok(())
            });
            match recorded {
                Ok(()) => self.wake(),
                Err(error) => tracing::error!(group = %group.name, %error, "it cannot be recorded"),
            }
        }
    }

    /// At the primary: what an auxiliary's hosts have written counts as different, durably, before it is told so.
    pub(super) async fn join_marks(
        &self,
        id: DesignationId,
        name: &PairName,
        runs: &[(u64, u64)],
        peer: ArrayNumber,
    ) -> Result<(), Refusal> {
        let tables = self.store.tables();
        if tables.was_answered(id) {
            return Ok(()); // It may have been copied since.
        }
        let pair = tables.pair_named(name).filter(|pair| pair.auxiliary.array == peer);
        let Some(pair) = pair.filter(|pair| matches!(pair.state, PairState::Suspended | PairState::Abnormal))
        else {
            return Ok(()); // Refused with the reason when it is applied.
        };
        let group: Option<Arc<Group>> = self.runtime().groups.get(&pair.group.0).cloned();
        let known = group.filter(|group| group.knows_pair(pair.number.0));
        let Some(group) = known else {
            return Err(Refusal::Conflict(format!("the group of pair {name} is not open here")));
        };
        match group.join_runs(pair.number.0, runs).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Refusal::Conflict(format!("pair {name} has no difference map yet"))),
            Err(error) => Err(Refusal::Conflict(error.to_string())),
        }
    }
}

/// Whether the pair's S-VOL is a copy here, and not one that went back to its image.
fn is_copied_here(tables: &Tables, pair: &PairRecord) -> bool {
    let group = tables.groups.get(&pair.group);
    group.is_some_and(|group| {
        matches!(group.role, GroupRole::Auxiliary { .. }) && group.state != GroupState::Suspended
    })
}
