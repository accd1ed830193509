//! The primary of an upstream array: what is forwarded here, and when the P-VOLs are no image (promises T2, T3).
//!
//! The upstream array decides; this one records what it says before it answers, so that no forwarded write is applied in a
//! state that a restart would not know.
//!
//! # What it guarantees
//! * **One statement at a time** (`Array::inflow_turn`): from the look at the tables to the record. So a statement of a
//!   connection that is over changes nothing once a later one is open, and of several upstream groups that copy into the
//!   volumes of one journaled group the last one to end writes *whole*.
//! * **A statement is about the pairs that it names.** Others keep their state: nobody said anything of them.
//! * **A pair that goes takes its brokenness along**: before the store forgets it, *whole* is durable in each journal of
//!   which no other pair keeps the P-VOLs broken. Its volume is written by its own hosts again only when nothing that was
//!   forwarded to it can become visible any more.

use super::Array;
use super::peer_session::PeerSession;
use crate::channel::storage::Nexus;
use crate::clock::BoxFuture;
use crate::copy::change::within_page;
use crate::copy::forward::wire::{self, Target};
use crate::copy::group::Group;
use crate::copy::inflow::{Connection, Inflow};
use crate::copy::source::SourceError;
use crate::disk::Pieces;
use crate::disk::cache::Piece;
use crate::disk::slot::{SLOT_BYTES, Slot};
use crate::io::volume::{Elsewhere, IoError, Outcome};
use crate::volume::designation::Refusal;
use crate::volume::group::{GroupRole, GroupState};
use crate::volume::kind::CopyMode;
use crate::volume::name::{ArrayNumber, GroupNumber, PairNumber, VolumeNumber};
use crate::volume::pair::{PairRecord, PairState};
use crate::volume::record::Who;
use crate::volume::table::Tables;
use holdfast_scsi::ForwardedWrite;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::{Arc, Weak};

/// The parameter list of FORWARDING STATE, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ForwardingState {
    /// The group of the synchronous pairs, by its name at both arrays.
    pub(crate) group: String,
    /// How often the upstream array has been started.
    pub(crate) incarnation: u64,
    /// Its connections since then.
    pub(crate) connection: u32,
    /// Whether differences come over it.
    pub(crate) copying: bool,
    /// The volumes here that it is about, by their numbers.
    pub(crate) volumes: Vec<u32>,
    /// Those of them of which all comes.
    #[serde(default)]
    pub(crate) whole: Vec<u32>,
}

/// Why an upstream array is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InflowError {
    /// It names what it may not name, or comes too late.
    #[error("{0}")]
    Misnamed(String),
    /// It believes to be in step, and this array knows better: everything has to be copied.
    #[error("the pairs here are not in step")]
    NotInStep,
    /// It cannot be recorded now.
    #[error("{0}")]
    NotNow(String),
}

impl Array {
    /// FORWARDING STATE. What it says is durable when this returns.
    pub(crate) async fn forwarding_state(
        self: &Arc<Self>,
        peer: u32,
        said: &ForwardingState,
    ) -> Result<(), InflowError> {
        let _turn = self.inflow_turn.lock().await;
        let outcome = self.forwarding_state_alone(peer, said).await;
        self.wake(); // Who found it taken looks again.
        outcome
    }

    async fn forwarding_state_alone(
        self: &Arc<Self>,
        peer: u32,
        said: &ForwardingState,
    ) -> Result<(), InflowError> {
        let tables = self.store.tables();
        let (group, pairs) = forwarded_pairs(&tables, peer, said)?;
        let inflow = self.runtime().inflows.entry(group.0).or_default().clone();
        let connection = Connection { incarnation: said.incarnation, number: said.connection };
        let named: BTreeSet<u32> = said.volumes.iter().copied().collect();
        inflow.open(connection, named).map_err(|late| InflowError::Misnamed(late.into()))?;
        if said.copying {
            let whole: BTreeSet<u32> = said.whole.iter().copied().collect();
            let comes_whole = |pair: &PairRecord| pair.auxiliary.volume.is_some_and(|v| whole.contains(&v.0));
            if pairs.iter().any(|pair| pair.state == PairState::NotYetCopied && !comes_whole(pair)) {
                return Err(InflowError::NotInStep);
            }
            self.record_forwarding(&pairs, PairState::BeingCopied)?;
            for group in self.journaled_groups(&pairs)? {
                group.break_image().await.map_err(not_now)?;
                group.begin_fill(&whole);
            }
            inflow.begin_copy();
            return Ok(());
        }
        if pairs.iter().all(|pair| pair.state == PairState::Normal) {
            return Ok(());
        }
        if !inflow.copies() {
            return Err(InflowError::NotInStep);
        }
        for group in self.journaled_groups(&pairs)? {
            if !is_broken_besides(&tables, &pairs, GroupNumber(group.number)) {
                group.make_whole().await.map_err(not_now)?;
                group.end_fill();
            }
        }
        self.record_forwarding(&pairs, PairState::Normal)
    }

    /// The groups at work here of which a volume of these pairs is a P-VOL.
    fn journaled_groups(&self, pairs: &[PairRecord]) -> Result<Vec<Arc<Group>>, InflowError> {
        let tables = self.store.tables();
        let mut found = Vec::new();
        for number in groups_behind(&tables, pairs) {
            let open = self.runtime().groups.get(&number.0).cloned();
            let is_started = tables.groups.get(&number).is_some_and(|group| {
                let goes_on = group.resume.is_some() && group.state == GroupState::Normal;
                !group.segments.is_empty() || goes_on
            });
            match open {
                Some(group) => found.push(group),
                // Nothing of it was journaled yet: it opens with what the store says of the pairs.
                None if !is_started => {}
                None => return Err(InflowError::NotNow("a group of the volumes is not open".into())),
            }
        }
        Ok(found)
    }

    fn record_forwarding(&self, pairs: &[PairRecord], state: PairState) -> Result<(), InflowError> {
        if pairs.iter().all(|pair| pair.state == state) {
            return Ok(());
        }
        let numbers: Vec<PairNumber> = pairs.iter().map(|pair| pair.number).collect();
        let what = format!("{} forwarded pairs {state}, says their primary", numbers.len());
        let recorded = self.store.change(&Who::Array, what, |tables| {
            for number in &numbers {
                if let Some(row) = tables.pairs.edit(number) {
                    (row.state, row.reason) = (state, None);
                }
            }
            Ok(())
        });
        self.wake();
        recorded.map_err(|refusal: Refusal| InflowError::NotNow(refusal.to_string()))
    }

    /// FORWARDED WRITE, with its parameter list: applied once, in the order of its coming, and durable at the end.
    pub(crate) fn forwarded_write(
        &self,
        peer: u32,
        write: ForwardedWrite,
        (pages, bytes): (&[Slot], usize),
        nexus: &Arc<Nexus>,
    ) -> Result<Outcome<()>, String> {
        let group = self.store.read(|tables| {
            let pair = tables.forwarded_here(VolumeNumber(write.volume))?;
            (pair.primary.array == ArrayNumber(peer)).then_some(pair.group)
        });
        let group = group.ok_or("nothing is forwarded to this volume from there")?;
        let (volume, inflow) = {
            let runtime = self.runtime();
            (runtime.volumes.get(&write.volume).cloned(), runtime.inflows.get(&group.0).cloned())
        };
        let (Some(volume), Some(inflow)) = (volume, inflow) else {
            return Err("the volume is not open, or no connection is".into());
        };
        let target = Target {
            number: volume.number,
            block_bytes: volume.block_bytes,
            capacity_bytes: volume.capacity_bytes(),
        };
        let (change, checksum) = wire::decode(target, pages, bytes)?;
        if change.payload().checksum() != checksum {
            return Err("its data is not what it was when it arrived at the upstream array".into());
        }
        let connection = Connection { incarnation: write.incarnation, number: write.connection };
        let ticket = inflow.ticket(write.volume, connection, (write.sequence, write.oldest));
        Ok(volume.write_forwarded(change, ticket, nexus))
    }

    /// Takes up, for what is forwarded here, what the store says: what came of pairs that are no more, and virtual P-VOLs that
    /// are to be copied. If a statement is being recorded, it wakes this again.
    pub(super) async fn reconcile_inflows(self: &Arc<Self>, tables: &Tables) {
        self.forget_inflows(tables);
        let Ok(turn) = self.inflow_turn.clone().try_lock_owned() else { return };
        let tables = self.store.tables();
        let asked = self.ask_for_everything(&tables);
        let groups: Vec<Arc<Group>> = self.runtime().groups.values().cloned().collect();
        for group in groups {
            // Copies of its pairs end when all has come, though nothing has been said yet.
            group.note_broken(is_broken(&self.store.tables(), GroupNumber(group.number)));
        }
        drop(turn);
        for peer in asked {
            // It believes to be in step, and is not any more; its sessions end, so that it asks.
            for session in self.sessions.list() {
                if session.initiator.as_str() == peer {
                    self.sessions.drop_session(session.session).await;
                }
            }
        }
        self.mend_images(&tables);
    }

    /// A virtual P-VOL that is to be copied: its upstream array has to send all of it (figure 24). Which peers have to be
    /// told.
    fn ask_for_everything(&self, tables: &Tables) -> BTreeSet<String> {
        let groups: Vec<Arc<Group>> = self.runtime().groups.values().cloned().collect();
        let wanted: Vec<PairRecord> = groups
            .iter()
            .flat_map(|group| group.wants_fill())
            .filter_map(|volume| tables.forwarded_here(VolumeNumber(volume)).cloned())
            .filter(|pair| pair.state != PairState::NotYetCopied)
            .collect();
        // Tried again with the next reconciliation.
        if wanted.is_empty() || self.record_forwarding(&wanted, PairState::NotYetCopied).is_err() {
            return BTreeSet::new();
        }
        wanted.iter().map(|pair| super::peer_session::peer_name(pair.link.as_str())).collect()
    }

    /// Journals that say *broken* because of pairs that are being taken away say *whole* now.
    fn mend_images(self: &Arc<Self>, tables: &Tables) {
        let groups: Vec<Arc<Group>> = self.runtime().groups.values().cloned().collect();
        for group in groups.into_iter().filter(|group| group.is_broken()) {
            let number = GroupNumber(group.number);
            if is_broken(tables, number) {
                continue;
            }
            // In a task of its own: the owner may be needed for the journal to go on.
            let array = self.clone();
            self.spawn(async move {
                let _turn = array.inflow_turn.lock().await;
                if !group.is_broken() || is_broken(&array.store.tables(), number) {
                    return;
                }
                match group.make_whole().await {
                    Ok(()) => {
                        group.end_fill();
                        array.wake();
                    }
                    // Tried again after a while, as long as a pair is to be taken away.
                    Err(error) => tracing::warn!(group = %group.name, %error, "it cannot be made whole now"),
                }
            });
        }
    }

    /// Whether a journal here still says *broken*, perhaps because of this pair alone: it cannot be forgotten yet.
    pub(super) fn breaks_image(&self, pair: &PairRecord) -> bool {
        let tables = self.store.tables();
        if pair.copy != CopyMode::Sync || pair.primary.array == tables.meta().number {
            return false;
        }
        let groups = groups_behind(&tables, std::slice::from_ref(pair));
        groups.into_iter().any(|number| {
            let open = self.runtime().groups.get(&number.0).cloned();
            open.is_some_and(|group| group.failure().is_none() && group.is_broken())
                && !is_broken(&tables, number)
        })
    }

    /// Inflows of groups that are no more, and of pairs.
    fn forget_inflows(&self, tables: &Tables) {
        let is_there = |group: &u32| tables.is_forwarded(GroupNumber(*group));
        let mut runtime = self.runtime();
        runtime.upstream_sessions.retain(|link, _| tables.links.get(link).is_some());
        for (group, inflow) in &runtime.inflows {
            let pairs = tables.pairs_of_group(GroupNumber(*group)).filter(|pair| !pair.is_leaving());
            inflow.keep(&pairs.filter_map(|pair| pair.auxiliary.volume).map(|volume| volume.0).collect());
        }
        runtime.inflows.retain(|group: &u32, _: &mut Arc<Inflow>| is_there(group));
    }
}

/// The group that a statement is about, and its pairs that are named.
fn forwarded_pairs(
    tables: &Tables,
    peer: u32,
    said: &ForwardingState,
) -> Result<(GroupNumber, Vec<PairRecord>), InflowError> {
    let refused = |what: &str| InflowError::Misnamed(format!("group {}: {what}", said.group));
    let group = tables.groups.iter().find(|group| group.name.as_str() == said.group);
    let group = group.ok_or_else(|| refused("there is none of this name"))?;
    let is_theirs = matches!(&group.role, GroupRole::Auxiliary { source, .. } if source.0 == peer);
    if !is_theirs || !tables.is_forwarded(group.number) {
        return Err(refused("its writes are not forwarded from there"));
    }
    let named: BTreeSet<u32> = said.volumes.iter().copied().collect();
    let is_named = |pair: &&PairRecord| pair.auxiliary.volume.is_some_and(|v| named.contains(&v.0));
    let pairs = tables.pairs_of_group(group.number).filter(|pair| !pair.is_leaving());
    let pairs: Vec<PairRecord> = pairs.filter(is_named).cloned().collect();
    if pairs.len() != named.len() {
        return Err(refused("a volume is not forwarded to"));
    }
    Ok((group.number, pairs))
}

/// Where the data of virtual volumes is: at the array that forwards to them.
pub(crate) struct Upstream(pub(crate) Weak<Array>);

impl Elsewhere for Upstream {
    fn read(
        &self,
        volume: u32,
        offset_bytes: u64,
        length: usize,
    ) -> BoxFuture<'static, Result<Pieces, IoError>> {
        let array = self.0.upgrade();
        Box::pin(async move {
            let array = array.ok_or(IoError::SessionEnded)?;
            let read = array.read_upstream(volume, offset_bytes, length).await;
            let slots = read.map_err(|error| IoError::Refused(format!("the upstream array: {error}")))?;
            let (mut start, mut left) = (usize::from(within_page(offset_bytes)), length);
            let piece = |slot| {
                let length = left.min(SLOT_BYTES - start);
                let piece = Piece::Bytes { slot, start, length };
                (start, left) = (0, left - length);
                piece
            };
            Ok(slots.into_iter().map(piece).collect())
        })
    }
}

impl Array {
    /// Reads from the volume that is forwarded to this one, over a session that is kept for that.
    async fn read_upstream(&self, volume: u32, offset: u64, length: usize) -> Result<Vec<Slot>, SourceError> {
        let tables = self.store.tables();
        let nobody = || SourceError("nothing is forwarded to the volume".into());
        let pair = tables.forwarded_here(VolumeNumber(volume)).ok_or_else(nobody)?;
        let remote = pair.primary.volume.ok_or_else(nobody)?;
        let link = tables.links.get(&pair.link).ok_or_else(nobody)?;
        let known = self.runtime().upstream_sessions.get(&link.name).cloned();
        let session = match known.filter(|session| !session.is_closed()) {
            Some(session) => session,
            None => {
                let own = (self.config.array.number.0, self.config.array.name.as_str());
                let session =
                    PeerSession::open(&self.connector(&link.name), own, link, &self.pool, 0).await?;
                self.runtime().upstream_sessions.insert(link.name.clone(), session.clone());
                session
            }
        };
        session.forwarded_read(remote.0, offset, u32::try_from(length).unwrap_or(u32::MAX)).await
    }
}

/// The groups whose P-VOLs other arrays forward to, by these pairs.
fn groups_behind(tables: &Tables, pairs: &[PairRecord]) -> BTreeSet<GroupNumber> {
    let volumes = pairs.iter().filter_map(|pair| pair.auxiliary.volume);
    volumes
        .flat_map(|volume| tables.pairs_of_volume(volume))
        .filter(|pair| pair.copy != CopyMode::Sync)
        .map(|pair| pair.group)
        .collect()
}

/// Whether the journal of this group may say *broken* and nothing behind it: what a start has to take for true.
pub(crate) fn may_be_broken(tables: &Tables, group: GroupNumber) -> bool {
    let goes = |volume| tables.forwarded_here(volume).is_some_and(PairRecord::is_leaving);
    is_broken(tables, group) || own_pvols(tables, group).any(goes)
}

/// The P-VOLs of a group that are here; the number of any other says nothing.
fn own_pvols(tables: &Tables, group: GroupNumber) -> impl Iterator<Item = VolumeNumber> {
    let own = tables.meta().number;
    let here = tables.pairs_of_group(group).filter(move |pair| pair.primary.array == own);
    here.filter_map(|pair| pair.primary.volume)
}

/// Whether differences are being copied into a P-VOL of this group, or all of an upstream volume is still to come.
pub(crate) fn is_broken(tables: &Tables, group: GroupNumber) -> bool {
    is_broken_besides(tables, &[], group)
}

/// The same, these pairs left out.
fn is_broken_besides(tables: &Tables, besides: &[PairRecord], group: GroupNumber) -> bool {
    let is_copied = |volume: VolumeNumber| {
        tables.forwarded_here(volume).is_some_and(|pair| {
            let is_meant = !besides.iter().any(|other| other.number == pair.number);
            let lacks = matches!(pair.state, PairState::NotYetCopied | PairState::BeingCopied);
            lacks && !pair.is_leaving() && is_meant
        })
    };
    own_pvols(tables, group).any(is_copied)
}

fn not_now(error: crate::copy::CopyError) -> InflowError {
    InflowError::NotNow(error.to_string())
}

#[cfg(test)]
mod tests;
