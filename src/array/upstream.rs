//! The upstream array: groups whose writes are forwarded, their pairs, and their connection (promises T2, T3).
//!
//! A group is taken up when it is started and the other array has accepted a pair. Each has a session of its own, so that
//! no journal read delays a host's write.

use super::Array;
use super::inflow::ForwardingState;
use super::peer_session::PeerSession;
use crate::clock::BoxFuture;
use crate::copy::change::{Change, Content, Part};
use crate::copy::differences::{ChangedPart, DifferenceMap};
use crate::copy::forward::{
    Announced, Announcement, Because, Downstream, ForwardError, ForwardPair, Forwarder, Lack, Ledger,
    Outgoing, Parts, Phase, wire,
};
use crate::io::volume::VolumeRole;
use crate::volume::designation::{Designation, Refusal};
use crate::volume::group::{GroupRecord, GroupRole, GroupState};
use crate::volume::name::{GroupNumber, PairNumber, VolumeNumber};
use crate::volume::pair::{Asked, PairEvent, PairRecord, PairState, SuspendCause};
use crate::volume::record::Who;
use crate::volume::store::{AtomicWrite, PairMarks, Store};
use crate::volume::table::Tables;
use holdfast_scsi::ForwardedWrite;
use std::sync::{Arc, Weak};
use std::time::Duration;

impl Array {
    /// Takes up what the store says of forwarded groups.
    pub(super) async fn reconcile_forwarding(self: &Arc<Self>) {
        let tables = self.store.tables();
        self.reconcile_inflows(&tables).await;
        self.drop_forwarding(&tables);
        let wanted = tables.groups.iter().filter(|group| {
            matches!(group.role, GroupRole::Primary) && group.is_started && group.state == GroupState::Normal
        });
        for record in wanted.filter(|group| tables.is_forwarded(group.number)) {
            let forwarder = self.forwarder(&tables, record);
            // A volume that is still to come would be missing in what auxiliaries take for an image.
            let lacking = || {
                let pairs = tables.pairs_of_group(record.number).filter(|pair| !pair.is_leaving());
                let lacking = pairs.filter(|pair| !self.is_forwarding(pair));
                lacking.map(|pair| (pair.number.0, lack(&tables, pair))).collect()
            };
            forwarder.set_lacking(&lacking());
            for pair in tables.pairs_of_group(record.number).filter(|pair| !pair.is_leaving()) {
                self.take_up_pair(&forwarder, pair).await;
            }
            forwarder.set_lacking(&lacking());
            self.answer_operator(&tables, record, &forwarder);
        }
    }

    fn forwarder(self: &Arc<Self>, tables: &Tables, record: &GroupRecord) -> Arc<Forwarder> {
        if let Some(known) = self.runtime().forwarders.get(&record.number.0) {
            return known.clone();
        }
        let array = Arc::downgrade(self);
        let parts = Parts {
            group: record.name.to_string(),
            disk: self.disk.clone(),
            clock: self.env.clock.clone(),
            ledger: Arc::new(GroupLedger { array: array.clone(), store: self.store.clone() }),
            spawn: Arc::new(move |task: BoxFuture<'static, ()>| {
                if let Some(array) = array.upgrade() {
                    array.spawn(task);
                }
            }),
            fence: record.settings.fence,
            fence_wait: record.settings.fence_wait,
            copy_unit_bytes: record.settings.copy_unit_bytes,
        };
        let forwarder = Forwarder::new(parts, phase(tables, record.number));
        self.runtime().forwarders.insert(record.number.0, forwarder.clone());
        let (array, kept, number) = (Arc::downgrade(self), forwarder.clone(), record.number);
        self.spawn(async move { keep_forwarding(array, kept, number).await });
        forwarder
    }

    /// A pair that the other array has accepted and whose volume is open is forwarded; one that should be and cannot be is
    /// kept from hosts.
    async fn take_up_pair(&self, forwarder: &Arc<Forwarder>, pair: &PairRecord) {
        let (Some(own), Some(remote)) = (pair.primary.volume, pair.auxiliary.volume) else { return };
        let Some(volume) = self.runtime().volumes.get(&own.0).cloned() else { return };
        if forwarder.pair_of(own.0).is_some() {
            return;
        }
        match self.marks_for(pair) {
            Ok(map) => {
                let taken = ForwardPair::new(pair.number.0, remote.0, map);
                let attach = || volume.set_role(VolumeRole::Forwarding(forwarder.clone()));
                forwarder.add_pair(own.0, taken, attach).await;
            }
            Err(reason) => {
                tracing::error!(pair = %pair.name, %reason, "its writes cannot be forwarded");
                if pair.state != PairState::NotYetCopied {
                    volume.set_role(VolumeRole::Waiting);
                    self.runtime().volume_trouble.insert(own.0, reason);
                }
            }
        }
    }

    /// What differs: of a new pair everything, which is recorded with the beginning of its copy.
    fn marks_for(&self, pair: &PairRecord) -> Result<DifferenceMap, String> {
        if pair.state != PairState::NotYetCopied {
            let parts = self.store.marks_of(pair.number)?;
            let map = DifferenceMap::load(pair.size_bytes, parts)
                .map_err(|part| format!("part {part} of its difference map is not one"))?;
            if pair.state == PairState::Normal && !map.is_empty() {
                // A crash has left marks: until they are copied nobody shall take the two volumes for equal.
                let what = format!("pair {}: what was being written is copied again", pair.name);
                let recorded = self.store.change(&Who::Array, what, |tables| {
                    if let Some(row) = tables.pairs.edit(&pair.number) {
                        row.state = PairState::BeingCopied;
                    }
                    Ok(())
                });
                recorded.map_err(|refusal| refusal.to_string())?;
            }
            return Ok(map);
        }
        let mut map = DifferenceMap::new(pair.size_bytes);
        map.mark(0, pair.size_bytes);
        let marks = PairMarks { pair: pair.number, replace: true, parts: map.take_changed() };
        let what = format!("pair {}: initial copy begins", pair.name);
        let recorded = self.store.change_with_marks(&Who::Array, what, &[marks], |tables| {
            tables.pair_event(pair.number, PairEvent::CopyBegins, None)
        });
        recorded.map_err(|refusal| refusal.to_string())?;
        Ok(map)
    }

    /// What the operator asked of the pairs. The volumes of a group are consistent with each other: what is asked of one of
    /// its pairs concerns all.
    fn answer_operator(&self, tables: &Tables, record: &GroupRecord, forwarder: &Arc<Forwarder>) {
        let asked = |what: fn(Asked) -> bool| {
            tables.pairs_of_group(record.number).any(|pair| pair.control.asked.is_some_and(what))
        };
        if asked(|asked| matches!(asked, Asked::Suspend(_))) {
            if let Err(error) = forwarder.go_alone(Because::Operator, "suspended by the operator") {
                tracing::error!(group = %record.name, %error, "a suspension cannot be recorded");
            }
        } else if asked(|asked| asked == Asked::Resync) {
            let recorded = self.store.checkpoint(|tables| {
                for pair in pairs(tables, record.number) {
                    if let Some(row) = tables.pairs.edit(&pair)
                        && row.control.asked == Some(Asked::Resync)
                    {
                        (row.control.asked, row.control.cause) = (None, Some(SuspendCause::Unreachable));
                    }
                }
            });
            match recorded {
                Ok(()) => forwarder.resume(),
                Err(error) => tracing::error!(group = %record.name, %error, "a resync cannot be recorded"),
            }
        }
    }

    /// Pairs that shall go are not forwarded any more, and groups that the store has no more. The end of a pair has a task of
    /// its own, because it waits for writes under way; the store forgets the pair behind it.
    fn drop_forwarding(self: &Arc<Self>, tables: &Tables) {
        let forwarders: Vec<(u32, Arc<Forwarder>)> =
            self.runtime().forwarders.iter().map(|(number, known)| (*number, known.clone())).collect();
        for (number, forwarder) in forwarders {
            for volume in forwarder.volumes() {
                let pair = forwarder.pair_of(volume).and_then(|pair| tables.pairs.get(&PairNumber(pair)));
                if pair.is_none_or(PairRecord::is_leaving) && forwarder.end_pair(volume) {
                    let (array, forwarder) = (self.clone(), forwarder.clone());
                    self.spawn(async move {
                        let open = array.runtime().volumes.get(&volume).cloned();
                        let detach = || open.into_iter().for_each(|open| open.set_role(VolumeRole::Plain));
                        forwarder.remove_pair(volume, detach).await;
                        array.wake();
                    });
                }
            }
            if tables.groups.get(&GroupNumber(number)).is_none() && forwarder.volumes().is_empty() {
                forwarder.retire();
                self.runtime().forwarders.remove(&number);
            }
        }
    }

    /// Whether writes of a pair are forwarded from here.
    pub(super) fn is_forwarding(&self, pair: &PairRecord) -> bool {
        let forwarder = self.runtime().forwarders.get(&pair.group.0).cloned();
        let pair_of = |volume: VolumeNumber| forwarder.and_then(|forwarder| forwarder.pair_of(volume.0));
        pair.primary.volume.and_then(pair_of) == Some(pair.number.0)
    }
}

impl Array {
    /// Bytes of regions in which the volumes of a pair may differ that is forwarded from here. While both arrays are in step
    /// those are regions that hosts write to, which is no difference.
    pub(crate) fn forwarded_differences(&self, pair: &PairRecord) -> Option<u64> {
        let forwarder = self.runtime().forwarders.get(&pair.group.0).cloned()?;
        let volume = pair.primary.volume?.0;
        forwarder.pair_of(volume)?;
        Some(if forwarder.phase() == Phase::InStep { 0 } else { forwarder.stale_bytes(volume) })
    }
}

/// Why a pair is not forwarded yet.
fn lack(tables: &Tables, pair: &PairRecord) -> Lack {
    let is_refused = tables.forwards.iter().any(|forward| {
        forward.refusal.is_some()
            && matches!(&forward.designation, Designation::RemotePair(remote) if remote.name == pair.name)
    });
    if is_refused { Lack::Refused } else { Lack::Coming }
}

/// How forwarding stood when this array was started.
fn phase(tables: &Tables, group: GroupNumber) -> Phase {
    let mut alone = None;
    let mut copied = false;
    for pair in tables.pairs_of_group(group) {
        match pair.state {
            PairState::Suspended | PairState::Abnormal => {
                let because = match pair.control.cause {
                    Some(SuspendCause::Operator) => Because::Operator,
                    Some(SuspendCause::Unreachable | SuspendCause::Overflow | SuspendCause::Above) | None => {
                        Because::Unreachable
                    }
                };
                alone = alone.max(Some(because));
            }
            PairState::BeingCopied => copied = true,
            PairState::Normal | PairState::NotYetCopied | PairState::Unused => {}
        }
    }
    match alone {
        Some(because) => Phase::Alone(because),
        None if copied => Phase::Copying,
        None => Phase::InStep,
    }
}

/// Keeps a connection to the primary, for as long as the group is forwarded.
async fn keep_forwarding(array: Weak<Array>, forwarder: Arc<Forwarder>, number: GroupNumber) {
    let mut connection = 0;
    let mut pause = PAUSE_MIN;
    loop {
        if !forwarder.wants_channel().await {
            return;
        }
        let Some(array) = array.upgrade() else { return };
        let begun = array.env.clock.now();
        let error = match array.connect(&forwarder, number, &mut connection).await {
            Ok(to) => {
                array.changed().notify_waiters();
                forwarder.serve(to).await.to_string()
            }
            Err(Gone::Group) => return,
            Err(Gone::Link(error)) => error,
        };
        let now = array.env.clock.now();
        tracing::info!(group = %forwarder.parts.group, error, "writes are not forwarded now");
        array.changed().notify_waiters();
        pause = if now.since(begun) > PAUSE_MAX { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
        array.env.clock.sleep(pause).await;
    }
}

enum Gone {
    /// The group is not forwarded any more.
    Group,
    /// No connection for this reason.
    Link(String),
}

impl Array {
    async fn connect(
        self: &Arc<Self>,
        forwarder: &Forwarder,
        number: GroupNumber,
        connection: &mut u32,
    ) -> Result<Arc<dyn Downstream>, Gone> {
        let tables = self.store.tables();
        let pair = tables.pairs_of_group(number).next();
        let link = pair.and_then(|pair| tables.links.get(&pair.link)).ok_or(Gone::Group)?;
        let own = (self.config.array.number.0, self.config.array.name.as_str());
        // Hosts wait for what goes over it: it counts as the link's, and no bandwidth limit holds it up.
        let session = PeerSession::open(&self.connector(&link.name), own, link, &self.pool, 0).await;
        let session = session.map_err(|error| Gone::Link(error.to_string()))?;
        *connection += 1;
        Ok(Arc::new(Connected {
            session,
            group: forwarder.parts.group.clone(),
            incarnation: tables.meta().incarnation,
            connection: *connection,
        }))
    }
}

/// A session of this group with the primary.
struct Connected {
    session: PeerSession,
    group: String,
    incarnation: u64,
    connection: u32,
}

impl Downstream for Connected {
    fn announce(&self, said: Announcement) -> BoxFuture<'_, Result<(), ForwardError>> {
        let said = ForwardingState {
            group: self.group.clone(),
            incarnation: self.incarnation,
            connection: self.connection,
            copying: said.what == Announced::Copying,
            whole: said.whole,
            volumes: said.volumes,
        };
        Box::pin(async move {
            let list = serde_json::to_vec(&said).map_err(|error| ForwardError::Refused(error.to_string()))?;
            self.session.forwarding_state(list).await
        })
    }

    fn write<'a>(&'a self, write: &'a Outgoing) -> BoxFuture<'a, Result<(), ForwardError>> {
        Box::pin(async move {
            let list = wire::encode(&write.change, write.checksum);
            let command = ForwardedWrite {
                volume: write.remote,
                incarnation: self.incarnation,
                connection: self.connection,
                sequence: write.sequence,
                oldest: write.oldest,
                list_length: u32::try_from(list.len()).unwrap_or(u32::MAX),
            };
            self.session.forwarded_write(command, list).await
        })
    }

    fn closed(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.session.closed())
    }
}

/// The states of a group's pairs, in the control store.
struct GroupLedger {
    array: Weak<Array>,
    store: Arc<Store>,
}

impl GroupLedger {
    fn record(
        &self,
        what: &str,
        pairs: &[u32],
        change: impl Fn(&mut Tables, PairNumber) -> Result<(), Refusal>,
    ) -> Result<(), String> {
        let recorded = self.store.change(&Who::Array, what, |tables| {
            let pairs: Vec<PairNumber> = pairs.iter().copied().map(PairNumber).collect();
            // One that was taken away meanwhile has no state.
            let here = |pair: &&PairNumber| tables.pairs.get(pair).is_some();
            let here: Vec<PairNumber> = pairs.iter().filter(here).copied().collect();
            here.into_iter().try_for_each(|pair| change(tables, pair))
        });
        if let Some(array) = self.array.upgrade() {
            array.changed().notify_waiters();
        }
        recorded.map_err(|refusal| refusal.to_string())
    }
}

impl Ledger for GroupLedger {
    fn put_marks(&self, marks: Vec<(u32, Vec<ChangedPart>)>) -> Result<(), String> {
        let marks: Vec<PairMarks> = marks
            .into_iter()
            .map(|(pair, parts)| PairMarks { pair: PairNumber(pair), replace: false, parts })
            .collect();
        self.store.put_marks(&marks).map_err(|refusal| refusal.to_string())
    }

    fn keep_atomic(&self, volume: u32, change: &Change) -> Result<u64, String> {
        let number = VolumeNumber(volume);
        let identity = self.store.read(|tables| tables.volumes.get(&number).map(|record| record.identity));
        let identity = identity.ok_or("there is no such volume")?;
        let payload = change.payload();
        let [Part { offset_bytes, content: Content::Data(_), .. }] = change.parts.as_slice() else {
            return Err("an atomic write is one range".into());
        };
        let data = payload.to_vec();
        let write = AtomicWrite { volume: number, identity, offset_bytes: *offset_bytes, data };
        self.store.keep_atomic(&write).map_err(|refusal| refusal.to_string())
    }

    fn forget_atomic(&self, kept: u64) -> Result<(), String> {
        self.store.forget_atomic(kept).map_err(|refusal| refusal.to_string())
    }

    fn alone(&self, pairs: &[u32], because: Because, reason: &str) -> Result<(), String> {
        let cause = match because {
            Because::Unreachable => SuspendCause::Unreachable,
            Because::Operator => SuspendCause::Operator,
        };
        let what = format!("writes are not forwarded any more: {reason}");
        self.record(&what, pairs, |tables, pair| {
            // What has failed stays so: its marks are kept as well, and the next copy takes it along.
            if tables.pairs.get(&pair).is_some_and(|row| row.state != PairState::Abnormal) {
                tables.pair_event(pair, PairEvent::Suspend, Some(reason.to_owned()))?;
            }
            if let Some(row) = tables.pairs.edit(&pair) {
                row.control.cause = Some(cause);
                if matches!(row.control.asked, Some(Asked::Suspend(_))) {
                    row.control.asked = None;
                }
            }
            Ok(())
        })
    }

    fn copying(&self, pairs: &[u32]) -> Result<(), String> {
        self.record("writes are forwarded again, differences are copied", pairs, |tables, pair| {
            let state = tables.pairs.get(&pair).map(|row| row.state);
            match state {
                Some(PairState::Suspended | PairState::Abnormal) => {
                    tables.pair_event(pair, PairEvent::Resync, None)?;
                }
                // A crash has left marks of what was under way.
                Some(PairState::Normal) => {
                    if let Some(row) = tables.pairs.edit(&pair) {
                        row.state = PairState::BeingCopied;
                    }
                }
                Some(PairState::BeingCopied | PairState::NotYetCopied | PairState::Unused) | None => {}
            }
            if let Some(row) = tables.pairs.edit(&pair) {
                row.control.cause = None;
            }
            Ok(())
        })
    }

    fn in_step(&self, pairs: &[u32]) -> Result<(), String> {
        self.record("both arrays are in step", pairs, |tables, pair| {
            let is_copied = tables.pairs.get(&pair).is_some_and(|row| row.state == PairState::BeingCopied);
            if is_copied {
                tables.pair_event(pair, PairEvent::CopyRestored, None)?;
            }
            Ok(())
        })
    }
}

fn pairs(tables: &Tables, group: GroupNumber) -> Vec<PairNumber> {
    tables.pairs_of_group(group).map(|pair| pair.number).collect()
}

/// First pause before a connection is opened again.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SimClock;
    use crate::volume::kind::CopyMode;
    use crate::volume::name::{ArrayNumber, UpdateNumber};
    use crate::volume::pair::{PairControl, PairSide};
    use crate::volume::record::Identity;
    use crate::volume::store::{Backend, Owner, SimStorage};

    fn pair(number: u32, state: PairState) -> PairRecord {
        let side =
            |array| PairSide { array: ArrayNumber(array), volume: Some(VolumeNumber(number)), name: None };
        PairRecord {
            number: PairNumber(number),
            name: format!("s{number}").parse().unwrap(),
            state,
            reason: None,
            primary: side(3),
            auxiliary: side(1),
            group: GroupNumber(1),
            link: "alpha".parse().unwrap(),
            copy: CopyMode::Sync,
            size_bytes: 1 << 20,
            copy_completion_bytes: 0,
            copy_end: UpdateNumber(0),
            control: PairControl::default(),
            shared: None,
        }
    }

    /// Defect 1: one pair that had failed kept the whole group from going on alone, and hosts without an answer.
    #[test]
    fn a_pair_that_has_failed_stays_so_and_keeps_no_other_from_going_on_alone() {
        let owner = Owner {
            number: ArrayNumber(3),
            name: "gamma".parse().unwrap(),
            identity: Identity(7),
            audit_records_max: 100,
        };
        let storage = Backend::Simulated(SimStorage::default());
        let store = Arc::new(Store::open(&storage, &owner, Arc::new(SimClock::new(1))).unwrap());
        let rows = [(1, PairState::Normal), (2, PairState::Abnormal), (3, PairState::Normal)];
        let put = |tables: &mut Tables| {
            rows.into_iter().for_each(|(number, state)| tables.pairs.put(pair(number, state)));
        };
        store.checkpoint(put).unwrap();
        let ledger = GroupLedger { array: Weak::new(), store: store.clone() };
        let states = || rows.map(|(number, _)| store.tables().pairs.get(&PairNumber(number)).unwrap().state);
        // The third one is not forwarded, and the fourth was taken away.
        ledger.alone(&[1, 2, 4], Because::Unreachable, "for a test").unwrap();
        assert_eq!(states(), [PairState::Suspended, PairState::Abnormal, PairState::Normal]);
        ledger.copying(&[1, 2]).unwrap();
        assert_eq!(states(), [PairState::BeingCopied, PairState::BeingCopied, PairState::Normal]);
        ledger.in_step(&[1, 2]).unwrap();
        assert_eq!(states(), [PairState::Normal; 3]);
    }
}
