//! One volume under one LUN of one target: the device server's state beside the volume.

use super::volume::Volume;
use crate::volume::kind::InitiatorRule;
use holdfast_iscsi::name::IscsiName;
use holdfast_scsi::{Access, Grant, Identity, LogicalUnit, NexusId, OtherPorts, Sense, UnitAttention};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A LUN. Its lock is held for the time of one admission.
///
/// Where another array shows hosts the same unit (decision 25), whether they are answered here is looked at in each admission:
/// the state of the port follows what becomes of the volume's writes in this moment, not what the tables said last.
pub struct LunUnit {
    unit: Mutex<LogicalUnit>,
    /// Spares all other LUNs a look at `shared`.
    is_shared: AtomicBool,
    shared: Mutex<Option<Shared>>,
    /// Spares all other LUNs a look at `logins` with each command.
    has_readers: AtomicBool,
    /// Locked behind `unit`, if both are.
    logins: Mutex<Logins>,
    /// The volume behind it.
    pub volume: Arc<Volume>,
    /// What hosts have done through it.
    pub counters: LunCounters,
}

/// What the tables say of a unit that another array shows, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shared {
    /// That array's target port group and relative target port identifier.
    pub other_ports: u16,
    /// Hosts use the volume here. Else that array's ports are told as the active ones, as last known.
    pub is_active: bool,
    /// Without the group at work, nobody knows whether hosts may be answered here.
    pub needs_group: bool,
}

/// Who may only read (decision 31), and who is logged in.
#[derive(Debug, Default)]
struct Logins {
    read_only_for: Vec<InitiatorRule>,
    sessions: BTreeMap<NexusId, IscsiName>,
}

/// Commands and bytes since the array started.
#[derive(Debug, Default)]
pub struct LunCounters {
    reads: AtomicU64,
    writes: AtomicU64,
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
}

impl LunCounters {
    pub(crate) fn read(&self, bytes: u64) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn wrote(&self, bytes: u64) {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.written_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Reads, writes, bytes read, bytes written.
    #[must_use]
    pub fn totals(&self) -> [u64; 4] {
        [&self.reads, &self.writes, &self.read_bytes, &self.written_bytes]
            .map(|counter| counter.load(Ordering::Relaxed))
    }
}

impl LunUnit {
    /// A unit in front of `volume`.
    #[must_use]
    pub fn new(unit: LogicalUnit, volume: Arc<Volume>) -> Self {
        Self {
            unit: Mutex::new(unit),
            is_shared: AtomicBool::default(),
            shared: Mutex::default(),
            has_readers: AtomicBool::default(),
            logins: Mutex::default(),
            volume,
            counters: LunCounters::default(),
        }
    }

    /// The device server.
    pub fn unit(&self) -> MutexGuard<'_, LogicalUnit> {
        let mut unit = self.unit.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_shared.load(Ordering::Acquire) {
            self.follow_leave(&mut unit);
        }
        unit
    }

    fn logins(&self) -> MutexGuard<'_, Logins> {
        self.logins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session began.
    pub fn attach(&self, nexus: NexusId, initiator: &IscsiName) {
        self.unit().attach_nexus(nexus);
        self.logins().sessions.insert(nexus, initiator.clone());
    }

    /// A session ended.
    pub fn detach(&self, nexus: NexusId) {
        self.unit().detach_nexus(nexus);
        self.logins().sessions.remove(&nexus);
    }

    /// What an initiator may do here, within what all may. It is asked with each command, by name, so that nobody may write because
    /// the unit has not heard of his session.
    #[must_use]
    pub fn grant(&self, initiator: &IscsiName) -> Grant {
        if !self.has_readers.load(Ordering::Acquire) {
            return Grant::ReadWrite;
        }
        granted(&self.logins().read_only_for, initiator)
    }

    /// These may only read from now on: the next command that is admitted goes by it, and who may do something else than before is told.
    pub fn set_read_only_for(&self, rules: &[InitiatorRule]) {
        let mut unit = self.unit();
        let mut logins = self.logins();
        if logins.read_only_for == rules {
            return;
        }
        let before = std::mem::replace(&mut logins.read_only_for, rules.to_vec());
        self.has_readers.store(!rules.is_empty(), Ordering::Release);
        for (nexus, initiator) in &logins.sessions {
            if granted(&before, initiator) != granted(rules, initiator) {
                unit.raise_unit_attention_for(*nexus, UnitAttention::ModeParametersChanged);
            }
        }
    }

    /// The port is active exactly while hosts are answered here; hosts hear of a change with their next command.
    fn follow_leave(&self, unit: &mut LogicalUnit) {
        let shared = *self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(shared) = shared else { return };
        let is_active = shared.is_active && self.volume.has_leave(shared.needs_group);
        let access = if is_active { Access::ReadWrite } else { Access::Standby };
        if unit.access() != access && unit.access() != Access::Failed {
            unit.set_access(access);
        }
        let (group, relative_port) = (shared.other_ports, shared.other_ports);
        unit.set_other_ports(Some(OtherPorts { group, relative_port, is_active: !is_active }));
    }

    /// Another array shows the unit as well, or not any more.
    pub fn set_shared(&self, shared: Option<Shared>) {
        *self.shared.lock().unwrap_or_else(PoisonError::into_inner) = shared;
        self.is_shared.store(shared.is_some(), Ordering::Release);
        let mut unit = self.unit();
        if shared.is_none() {
            unit.set_other_ports(None);
        }
    }

    /// The unit is called this from now on.
    pub fn set_identity(&self, identity: Identity) {
        self.unit().set_identity(identity);
    }

    /// What a host is told whose command ended with `sense`, because writes are not taken now: where another array shows the
    /// unit, to go there.
    #[must_use]
    pub fn sense_of_refusal(&self, sense: Sense) -> Sense {
        let is_standby = self.is_shared.load(Ordering::Acquire)
            && (sense == Sense::MANUAL_INTERVENTION || self.unit().access() == Access::Standby);
        if is_standby { Sense::STANDBY } else { sense }
    }

    /// Whether WRITE ATOMIC exists follows from what becomes of the volume's writes, or of those at the other array
    /// (`is_journaled_there`) that shows the unit.
    pub fn refresh_atomic(&self, is_journaled_there: bool) {
        let atomic = self.volume.writes_atomically() || is_journaled_there;
        self.unit().set_atomic(atomic);
    }

    /// The volume has this size now; hosts are told if it is another one.
    pub fn resize(&self, bytes: u64) {
        let mut unit = self.unit();
        let block = u64::from(unit.geometry().block_size.bytes());
        unit.resize(bytes / block);
    }

    /// What hosts may do from now on.
    pub fn set_access(&self, access: Access) {
        let mut unit = self.unit();
        if unit.access() != access {
            unit.set_access(access);
        }
    }
}

fn granted(read_only_for: &[InitiatorRule], initiator: &IscsiName) -> Grant {
    let is_reader = read_only_for.iter().any(|rule| rule.names(initiator.as_str()));
    if is_reader { Grant::ReadOnly } else { Grant::ReadWrite }
}
