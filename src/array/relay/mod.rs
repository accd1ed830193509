//! Journals through a third array (promises X1 to X4, X6; decision 21): the tasks of relays, one each.
//!
//! At the first array it writes the group's journal to the relay ([`writer`]). At the second it watches the relay and,
//! while that is of use, reads the group from there in place of the link to its source ([`reader`]); the link goes on
//! carrying designations and reports. After any error the session is dropped and opened again after a pause. A relay that
//! is lost changes no state of a pair.

mod begun;
mod chain;
mod direct;
mod drain;
mod lun;
mod merge;
mod parts;
mod reader;
mod told;
mod watch;
mod writer;

pub(crate) use direct::Direct;
pub(crate) use parts::Parts;
pub(crate) use watch::Watch;

use super::Array;
use crate::channel::counted::CountedNetwork;
use crate::channel::initiator::Connector;
use crate::clock::MonotonicNs;
use crate::copy::fetch::FetchError;
use crate::copy::group::Group;
use crate::disk::slot::SLOT_BYTES;
use crate::shell::view::{LinkView, RelayView};
use crate::volume::group::{GroupRecord, GroupRole, GroupState};
use crate::volume::name::{GroupNumber, LinkName};
use crate::volume::pair::PairState;
use crate::volume::relay::{RelayHosts, RelayJournals, RelayRecord, RelaySide};
use crate::volume::table::Tables;
use crate::volume::takeover::Takeover;
use holdfast_journal::format::crc32c;
use holdfast_journal::format::relay::{FirstControl, Position, RelayId, SecondControl};
use holdfast_journal::{ArrayNumber, GroupNumber as JournalGroup, Incarnation, UpdateNumber};
use lun::{Luns, RelayError, RelayLun, slot_page, trouble};
use std::sync::Arc;
use std::time::Duration;

/// How a relay is.
#[derive(Clone, Debug, Default)]
pub(crate) struct RelayStatus {
    /// Its LUNs can be reached, and are what they should be.
    pub(crate) connected: bool,
    /// Why it is not in use.
    pub(crate) error: Option<String>,
    /// What keeps it from going on while it is reached.
    pub(crate) trouble: Option<String>,
    /// The newest update that is known to be on it.
    pub(crate) newest: u64,
    /// When that was put there, by the first array's clock, ns since 1970.
    newest_wall_ns: Option<u64>,
    /// What is on it is only a part of the journals.
    is_part: bool,
    /// Pages of the journal LUN in use, and all.
    pub(crate) usage: (u64, u64),
    /// At the second array: the first has written control information lately.
    is_fresh: bool,
    /// At the second array: the first lets hosts wait for it; and until then everything that they are answered is on it or here.
    hosts_wait: bool,
    synchronised: Option<MonotonicNs>,
    /// At the second array: on how many relays with parts together that is; 0: on this one.
    together: u32,
    /// At the second array: not to be read before then.
    avoided: Option<MonotonicNs>,
    /// At the second array: when everything on it had been read, and the number behind that; and on how many relays together.
    read_up: Option<(MonotonicNs, UpdateNumber, usize)>,
    /// At the second array: how far the chain was read, by its incarnation: a new session need not begin at the oldest batch.
    read_to: Option<(Incarnation, Position)>,
    /// At the second array: it is read to its end, because the first is taken over.
    is_drained: bool,
    /// When the last attempt to reach it began that failed.
    tried: Option<MonotonicNs>,
}

/// Whether the second array took over, and this one took itself back: until one of the two is named that one reads nothing of this one.
fn is_rival(group: &GroupRecord, relay: &RelayRecord) -> bool {
    matches!(&group.takeover, Some(Takeover::Taken(taken)) if taken.array == relay.array && taken.rival.is_some())
}

impl Array {
    /// Starts the task of every relay that has none.
    pub(crate) fn start_relays(self: &Arc<Self>) {
        for relay in self.store.tables().relays.iter() {
            if self.runtime().kept_relays.insert(relay.name.clone()) {
                let (array, name) = (self.clone(), relay.name.clone());
                self.spawn(async move { array.keep_relay(name).await });
            }
        }
    }

    async fn keep_relay(self: Arc<Self>, name: LinkName) {
        let mut pause = PAUSE_MIN;
        loop {
            let tables = self.store.tables();
            // Under one lock with what `start_relays` sees: a relay that is made again at this moment gets a task.
            let relay = {
                let mut runtime = self.runtime();
                let relay = self.store.read(|tables| tables.relays.get(&name).cloned());
                if relay.is_none() {
                    runtime.kept_relays.remove(&name);
                    runtime.relays.remove(name.as_str());
                }
                relay
            };
            let Some(relay) = relay else { return };
            let number = match self.part_at(&tables, &relay) {
                Ok(number) => number,
                Err(why) => {
                    self.note_relay(&name, |status| {
                        *status =
                            RelayStatus { error: Some(format!("{RESTS}: {why}")), ..RelayStatus::default() };
                    });
                    self.rest_relay(&relay, &why).await;
                    continue;
                }
            };
            let begun = self.env.clock.now();
            let error = tokio::select! {
                biased;
                error = self.use_relay(&relay, number) => error,
                () = self.relay_changes(&relay, number) => trouble("its part has changed"),
            };
            tracing::info!(relay = %name, %error, "relay not in use");
            let worked = self.runtime().relays.get(name.as_str()).is_some_and(|status| status.connected);
            self.note_relay(&name, |status| {
                let RelayStatus { avoided, is_drained, read_to, .. } = *status;
                let (error, tried) = (Some(error.to_string()), Some(begun));
                let kept = RelayStatus { avoided, is_drained, read_to, ..RelayStatus::default() };
                *status = RelayStatus { error, tried, ..kept };
            });
            pause = if worked { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
            self.env.clock.sleep(pause).await;
        }
    }

    /// The group, by its number here, in which this array has the relay's part; or why it has not.
    fn part_at(&self, tables: &Tables, relay: &RelayRecord) -> Result<GroupNumber, String> {
        let group =
            tables.group_named(&relay.group).ok_or_else(|| format!("there is no group {}", relay.group))?;
        if !group.is_started || group.state != GroupState::Normal {
            return Err(format!("group {} is not at work", group.name));
        }
        match (&group.role, relay.side) {
            (GroupRole::Primary, RelaySide::First) => {
                let is_reader = tables.readers.get(&(group.number, relay.array));
                if is_reader.is_none_or(|reader| reader.is_attached) {
                    return Err(format!("array {} does not copy group {}", relay.array, group.name));
                }
                if is_rival(group, relay) {
                    return Err(format!("array {} is a primary of group {} itself", relay.array, group.name));
                }
                let is_open = self.runtime().groups.contains_key(&group.number.0);
                if is_open { Ok(group.number) } else { Err(format!("group {} is not open", group.name)) }
            }
            (GroupRole::Auxiliary { .. }, RelaySide::Second)
                if matches!(group.takeover, Some(Takeover::Moving(_))) =>
            {
                Err(format!("group {} goes on from another array", group.name))
            }
            (GroupRole::Auxiliary { source, remote: Some(_), .. }, RelaySide::Second)
                if *source == relay.array =>
            {
                Ok(group.number)
            }
            (GroupRole::Auxiliary { .. }, RelaySide::Second) => {
                Err(format!("group {} is not copied from array {}", group.name, relay.array))
            }
            (GroupRole::Primary, RelaySide::Second) => {
                Err(format!("this array is the primary of group {}", group.name))
            }
            (GroupRole::Auxiliary { .. }, RelaySide::First) => {
                Err(format!("this array is not the primary of group {}", group.name))
            }
        }
    }

    /// Resolves when the relay is another one, or this array has another part in it.
    async fn relay_changes(&self, relay: &RelayRecord, number: GroupNumber) {
        loop {
            let changed = self.changed().notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let tables = self.store.tables();
            let is_same = tables.relays.get(&relay.name) == Some(relay);
            if !is_same || self.part_at(&tables, relay) != Ok(number) {
                return;
            }
            changed.await;
        }
    }

    async fn use_relay(self: &Arc<Self>, relay: &RelayRecord, number: GroupNumber) -> RelayError {
        let luns = match Luns::open(&self.relay_connector(relay), relay).await {
            Ok(luns) => luns,
            Err(error) => return error,
        };
        match relay.side {
            RelaySide::First => {
                let group = self.runtime().groups.get(&number.0).cloned();
                let Some(group) = group else { return trouble("the group is not open") };
                match writer::Writer::open(self, relay, &group, &luns).await {
                    Ok(mut writer) => {
                        self.relay_is_up(&relay.name);
                        writer.run().await
                    }
                    Err(error) => error,
                }
            }
            RelaySide::Second => self.read_relay(relay, number, &luns).await,
        }
    }

    fn relay_connector(&self, relay: &RelayRecord) -> Connector {
        let bytes = self.traffic(&relay.name).streams.clone();
        Connector {
            network: Arc::new(CountedNetwork { network: self.env.network.clone(), bytes }),
            clock: self.env.clock.clone(),
            entropy: self.env.entropy.clone(),
            initiator_name: initiator_name(self.name()),
        }
    }

    fn relay_is_up(&self, name: &LinkName) {
        self.note_relay(name, |status| (status.connected, status.error) = (true, None));
        self.changed().notify_waiters();
    }

    /// Takes note of how a relay is.
    fn note_relay(&self, name: &LinkName, note: impl FnOnce(&mut RelayStatus)) {
        let mut runtime = self.runtime();
        let status = runtime.relays.entry(name.to_string()).or_default();
        let choice = |status: &RelayStatus| {
            let RelayStatus { connected, is_fresh, is_drained, avoided, hosts_wait, .. } = *status;
            (connected, is_fresh, is_drained, avoided, hosts_wait)
        };
        let before = choice(status);
        note(status);
        let is_news = before != choice(status);
        drop(runtime);
        if is_news {
            self.changed().notify_waiters();
        }
    }

    /// A relay among the links.
    pub(super) fn relay_view(&self, relay: &RelayRecord) -> LinkView {
        let status = self.runtime().relays.get(relay.name.as_str()).cloned().unwrap_or_default();
        let (sent_bytes, received_bytes) = self.traffic(&relay.name).streams.totals();
        let page = SLOT_BYTES as u64;
        let is_resting = status.error.as_ref().is_none_or(|error| error.starts_with(RESTS));
        LinkView {
            name: relay.name.to_string(),
            array: relay.array.0,
            state: match (status.connected, is_resting) {
                (true, _) => "up".to_owned(),
                (false, true) => "idle".to_owned(),
                (false, false) => "down".to_owned(),
            },
            reason: status.error.or(status.trouble),
            portals: relay.portals.iter().map(ToString::to_string).collect(),
            connections: usize::from(status.connected),
            connections_wanted: 1,
            sent_bytes,
            received_bytes,
            relay: Some(RelayView {
                group: relay.group.to_string(),
                side: relay.side.to_string(),
                target: relay.target.to_string(),
                luns: [relay.luns.journal.0, relay.luns.first.0, relay.luns.second.0],
                hosts: relay.hosts.to_string(),
                journals: if status.is_part { RelayJournals::Parts } else { relay.journals }.to_string(),
                control: relay.control.to_string(),
                newest_unix_ms: status.newest_wall_ns.map(|wall_ns| wall_ns / 1_000_000),
                newest_update_number: Some(status.newest).filter(|newest| *newest > 0),
                used_bytes: status.usage.0 * page,
                capacity_bytes: status.usage.1 * page,
            }),
            ..LinkView::default()
        }
    }

    /// The relay that is read to its end now.
    pub(super) fn drained_relay(&self, tables: &Tables, record: &GroupRecord) -> Option<LinkName> {
        let now = self.env.clock.now();
        let runtime = self.runtime();
        let drained = relays_of_copy(tables, record).find(|relay| {
            runtime.relays.get(relay.name.as_str()).is_some_and(|status| {
                let is_avoided = status.avoided.is_some_and(|until| now < until);
                status.connected && status.is_drained && !is_avoided
            })
        });
        drained.map(|relay| relay.name.clone())
    }

    /// The relay over which a group may be read now, instead of directly: one that is reached, whose first array is at work,
    /// or to whose first array there is no other way.
    pub(super) fn usable_relay(
        &self,
        tables: &Tables,
        record: &GroupRecord,
        home: &LinkName,
    ) -> Option<LinkName> {
        let now = self.env.clock.now();
        let runtime = self.runtime();
        let is_home_up = runtime.links.get(home.as_str()).is_some_and(|status| status.connected);
        let usable = relays_of_copy(tables, record).find(|relay| {
            runtime.relays.get(relay.name.as_str()).is_some_and(|status| {
                let is_avoided = status.avoided.is_some_and(|until| now < until);
                let is_of_use = status.is_fresh || status.is_drained || !is_home_up;
                status.connected && !is_avoided && is_of_use
            })
        });
        usable.map(|relay| relay.name.clone())
    }

    /// At a copy: the relay for which the first array lets hosts wait, and whether everything that they were answered is
    /// here or on it, for certain, and could be got from there now.
    pub(super) fn relay_says(
        &self,
        tables: &Tables,
        record: &GroupRecord,
        open: Option<&Group>,
    ) -> Option<(LinkName, bool)> {
        let now = self.env.clock.now();
        let are_images = tables.followed_pairs(record.number).all(|pair| pair.state == PairState::Normal);
        let can_store = are_images && open.is_some_and(Group::is_taken_over_whole);
        let keeps = open.is_some_and(Group::keeps_lease);
        let runtime = self.runtime();
        let is_reached =
            |status: &RelayStatus| status.connected && status.avoided.is_none_or(|until| now >= until);
        let parts = relays_of_copy(tables, record).filter(|relay| {
            let status = runtime.relays.get(relay.name.as_str());
            status.is_some_and(|status| is_reached(status) && status.is_part && status.is_fresh)
        });
        let parts = u32::try_from(parts.count()).unwrap_or(u32::MAX);
        let says = relays_of_copy(tables, record).filter_map(|relay| {
            let status = runtime.relays.get(relay.name.as_str()).filter(|status| status.hosts_wait)?;
            let is_certain = status.synchronised.is_some_and(|until| now < until || keeps);
            let is_all = status.together <= parts;
            Some((relay.name.clone(), can_store && is_reached(status) && is_all && is_certain))
        });
        // One of which it is certain, if there is one.
        says.max_by_key(|(_, is_synchronised)| *is_synchronised)
    }

    /// Reading over the relay has ended: another way is taken for a while.
    fn avoid_relay(&self, name: &LinkName, error: &FetchError) {
        let until =
            self.env.clock.now().0.saturating_add(u64::try_from(AVOIDED.as_nanos()).unwrap_or(u64::MAX));
        tracing::info!(relay = %name, %error, "not read over the relay for a while");
        self.note_relay(name, |status| {
            (status.avoided, status.trouble) = (Some(MonotonicNs(until)), Some(error.to_string()));
        });
    }
}

/// The relays over which this array may read a group that it copies.
pub(super) fn relays_of_copy<'t>(
    tables: &'t Tables,
    record: &'t GroupRecord,
) -> impl Iterator<Item = &'t RelayRecord> {
    let source = match &record.role {
        GroupRole::Auxiliary { source, .. } => Some(*source),
        GroupRole::Primary => None,
    };
    tables.relays.iter().filter(move |relay| {
        relay.side == RelaySide::Second && relay.group == record.name && Some(relay.array) == source
    })
}

/// The relays for which hosts of a group of this array wait.
pub(super) fn waited_for<'t>(
    tables: &'t Tables,
    record: &'t GroupRecord,
) -> impl Iterator<Item = &'t RelayRecord> {
    tables.relays.iter().filter(|relay| {
        relay.side == RelaySide::First
            && relay.hosts == RelayHosts::Wait
            && relay.group == record.name
            && record.role == GroupRole::Primary
            && tables.readers.get(&(record.number, relay.array)).is_some_and(|reader| !reader.is_attached)
    })
}

/// Whether journals of a group of this array go to that reader over a relay, too.
pub(super) fn has_relay_to(
    tables: &Tables,
    record: &GroupRecord,
    reader: crate::volume::name::ArrayNumber,
) -> bool {
    tables
        .relays
        .iter()
        .any(|relay| relay.side == RelaySide::First && relay.group == record.name && relay.array == reader)
}

/// The name by which an array reaches the targets of others.
fn initiator_name(array: &str) -> String {
    format!("iqn.2026-11.io.holdfast:{array}.relay")
}

fn id_of(relay: &RelayRecord, own: u32, group: u32) -> RelayId {
    let (own, other) = (ArrayNumber(own), ArrayNumber(relay.array.0));
    let (first, second) = match relay.side {
        RelaySide::First => (own, other),
        RelaySide::Second => (other, own),
    };
    RelayId { first, group: JournalGroup(group), second }
}

/// The newest control information of the first array, and what stands behind it; none if there is none that can be
/// believed.
async fn latest_first(lun: &RelayLun, id: RelayId) -> Result<Option<(FirstControl, Vec<u8>)>, RelayError> {
    let mut found = Vec::new();
    for slot in [0, 1] {
        let block = lun.read(slot_page(slot), 1).await?;
        found.extend(FirstControl::decode(&block).ok().filter(|control| control.id == id).map(|c| (slot, c)));
    }
    found.sort_by_key(|(_, control)| control.sequence);
    while let Some((slot, control)) = found.pop() {
        let (length, crc) = control.information;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let pages = length.div_ceil(SLOT_BYTES) as u64;
        let mut information = lun.read(slot_page(slot) + 1, pages).await?;
        information.truncate(length);
        if crc32c(&information) == crc {
            return Ok(Some((control, information)));
        }
    }
    Ok(None)
}

/// The newest control information of the second array.
async fn latest_second(lun: &RelayLun, id: RelayId) -> Result<Option<SecondControl>, RelayError> {
    let mut newest: Option<SecondControl> = None;
    for slot in [0, 1] {
        let block = lun.read(slot_page(slot), 1).await?;
        let control = SecondControl::decode(&block).ok().filter(|control| control.id == id);
        newest = newest.into_iter().chain(control).max_by_key(|control| control.sequence);
    }
    Ok(newest)
}

/// With this the reason begins why a relay has nothing to do.
const RESTS: &str = "at rest";
/// First pause before a session is opened again.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause: a relay that is back is used again within it.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long a relay is not tried again after it could not give the next update.
const AVOIDED: Duration = Duration::from_secs(10);
