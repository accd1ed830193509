//! The sessions of a target: which there are, which replaces which, and how they are ended.
//!
//! Invariants: at any moment at most one session has a given name (initiator, session identifier, target, portal
//! group); the one it replaces, with all its commands, is over before the new one is entered here, so that a stalled
//! write never lands after its retry.

use super::connection::Control;
use super::storage::{Nexus, SessionId};
use super::tasks::Spill;
use crate::clock::MonotonicNs;
use holdfast_iscsi::name::IscsiName;
use holdfast_iscsi::pdu::login::LoginStatus;
use holdfast_iscsi::pdu::{Isid, Tsih};
use holdfast_iscsi::target::{AbortScope, LoggedIn};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{mpsc, oneshot, watch};

/// All sessions of the array. Clones are the same register.
#[derive(Clone)]
pub struct Sessions(Arc<Register>);

struct Register {
    max: usize,
    spill: Arc<Spill>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    by_name: BTreeMap<Name, Entry>,
    last_session: u64,
    last_tsih: u16,
}

/// What makes a session the same session (RFC 7143 section 4.4.3).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    target: String,
    initiator: String,
    isid: Isid,
    portal_group_tag: u16,
}

struct Entry {
    nexus: Arc<Nexus>,
    info: Arc<Info>,
    control: mpsc::Sender<Control>,
    /// Closed when the session is over.
    over: watch::Receiver<()>,
}

#[derive(Debug)]
struct Info {
    peer: String,
    local: String,
    since: MonotonicNs,
    counters: Counters,
}

/// What a session has done so far.
#[derive(Debug, Default)]
pub struct Counters {
    commands: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
}

impl Counters {
    pub(super) fn count(&self, commands: u64, bytes_read: u64, bytes_written: u64) {
        self.commands.fetch_add(commands, Ordering::Relaxed);
        self.bytes_read.fetch_add(bytes_read, Ordering::Relaxed);
        self.bytes_written.fetch_add(bytes_written, Ordering::Relaxed);
    }
}

/// One line of [`Sessions::list`].
#[derive(Clone, Debug)]
pub struct SessionInfo {
    /// Its number.
    pub session: SessionId,
    /// The initiator.
    pub initiator: IscsiName,
    /// The initiator's part of the session name.
    pub isid: Isid,
    /// The target.
    pub target: IscsiName,
    /// Group of the portal over which it came.
    pub portal_group_tag: u16,
    /// The initiator's address.
    pub peer: String,
    /// Ours.
    pub local: String,
    /// Since when it lasts.
    pub since: MonotonicNs,
    /// Commands so far.
    pub commands: u64,
    /// Bytes sent to the initiator.
    pub bytes_read: u64,
    /// Bytes received from it.
    pub bytes_written: u64,
}

/// A session's place in the register; when it goes, the session is over.
pub(super) struct Membership {
    register: Arc<Register>,
    name: Name,
    pub(super) nexus: Arc<Nexus>,
    info: Arc<Info>,
    _over: watch::Sender<()>,
}

impl Membership {
    pub(super) fn counters(&self) -> &Counters {
        &self.info.counters
    }
}

/// Addresses and time of a connection that logs in.
pub(super) struct Arrival {
    pub(super) peer: String,
    pub(super) local: String,
    pub(super) since: MonotonicNs,
    pub(super) portal_group_tag: u16,
    pub(super) control: mpsc::Sender<Control>,
}

impl Sessions {
    /// An empty register that takes up to `max` sessions.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self(Arc::new(Register { max, spill: Arc::default(), state: Mutex::default() }))
    }

    /// Memory for data that came before its room, one budget for the array.
    pub(super) fn spill(&self) -> &Arc<Spill> {
        &self.0.spill
    }

    /// All sessions, ordered by target and initiator.
    #[must_use]
    pub fn list(&self) -> Vec<SessionInfo> {
        self.0.state().by_name.values().map(Entry::show).collect()
    }

    /// Ends a session: its connection is closed, its commands finish, then this returns. False if there is none.
    pub async fn drop_session(&self, session: SessionId) -> bool {
        let found = self.find(session);
        match found {
            Some((control, over)) => {
                end(control, over).await;
                true
            }
            None => false,
        }
    }

    /// Ends all sessions of a target (all sessions at all with `None`).
    pub async fn drop_all(&self, target: Option<&IscsiName>) {
        let doomed: Vec<_> = {
            let state = self.0.state();
            let of_target = |name: &Name| target.is_none_or(|target| target.as_str() == name.target);
            let doomed = state.by_name.iter().filter(|(name, _)| of_target(name));
            doomed.map(|(_, entry)| (entry.control.clone(), entry.over.clone())).collect()
        };
        for (control, _) in &doomed {
            let _ = control.send(Control::End).await;
        }
        for (control, over) in doomed {
            end(control, over).await;
        }
    }

    /// Aborts tasks of a session for a function that came through another one; returns when those that were with the
    /// storage have ended.
    pub async fn abort(&self, session: SessionId, scope: AbortScope) {
        let Some((control, _)) = self.find(session) else { return };
        let (done, answer) = oneshot::channel();
        if control.send(Control::Abort(scope, done)).await.is_ok() {
            let _ = answer.await;
        }
    }

    /// Sends an asynchronous SCSI event (a unit attention that should not wait for the next command).
    pub async fn send_event(&self, session: SessionId, lun: holdfast_iscsi::pdu::Lun, sense: Vec<u8>) {
        if let Some((control, _)) = self.find(session) {
            let _ = control.send(Control::Event(lun, sense)).await;
        }
    }

    fn find(&self, session: SessionId) -> Option<(mpsc::Sender<Control>, watch::Receiver<()>)> {
        let state = self.0.state();
        let entry = state.by_name.values().find(|entry| entry.nexus.session == session)?;
        Some((entry.control.clone(), entry.over.clone()))
    }

    /// Enters a session that has just logged in, after the one it replaces is over.
    pub(super) async fn enter(
        &self,
        login: &LoggedIn,
        target: IscsiName,
        arrival: Arrival,
    ) -> Result<Membership, LoginStatus> {
        let name = Name {
            target: target.as_str().to_owned(),
            initiator: login.initiator.as_str().to_owned(),
            isid: login.isid,
            portal_group_tag: arrival.portal_group_tag,
        };
        loop {
            let old = {
                let mut state = self.0.state();
                match state.by_name.get(&name) {
                    Some(old) if login.tsih != Tsih(0) && old.nexus.tsih != login.tsih => {
                        return Err(LoginStatus::SESSION_DOES_NOT_EXIST);
                    }
                    None if login.tsih != Tsih(0) => return Err(LoginStatus::SESSION_DOES_NOT_EXIST),
                    Some(old) => (old.control.clone(), old.over.clone()),
                    None if state.by_name.len() >= self.0.max => return Err(LoginStatus::OUT_OF_RESOURCES),
                    None => return Ok(state.insert(&self.0, name, login, (target, arrival))),
                }
            };
            end(old.0, old.1).await;
            // A connection that names a living session reinstates it; from here on it is a new one.
            if login.tsih != Tsih(0) {
                let mut state = self.0.state();
                if !state.by_name.contains_key(&name) {
                    return Ok(state.insert(&self.0, name, login, (target, arrival)));
                }
            }
        }
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sessions({})", self.0.state().by_name.len())
    }
}

impl Register {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn insert(
        &mut self,
        register: &Arc<Register>,
        name: Name,
        login: &LoggedIn,
        (target, arrival): (IscsiName, Arrival),
    ) -> Membership {
        self.last_session += 1;
        let tsih = if login.tsih == Tsih(0) { self.free_tsih() } else { login.tsih };
        let nexus = Arc::new(Nexus {
            session: SessionId(self.last_session),
            initiator: login.initiator.clone(),
            isid: login.isid,
            target,
            portal_group_tag: arrival.portal_group_tag,
            tsih,
            has_digests: login.parameters.header_digest && login.parameters.data_digest,
            ending: watch::Sender::new(false),
        });
        let info = Arc::new(Info {
            peer: arrival.peer,
            local: arrival.local,
            since: arrival.since,
            counters: Counters::default(),
        });
        let (over_sender, over) = watch::channel(());
        let entry = Entry { nexus: nexus.clone(), info: info.clone(), control: arrival.control, over };
        self.by_name.insert(name.clone(), entry);
        Membership { register: register.clone(), name, nexus, info, _over: over_sender }
    }

    /// A handle that no session has; there are fewer sessions than handles.
    fn free_tsih(&mut self) -> Tsih {
        loop {
            self.last_tsih = self.last_tsih.checked_add(1).unwrap_or(1);
            let tsih = Tsih(self.last_tsih);
            if self.by_name.values().all(|entry| entry.nexus.tsih != tsih) {
                return tsih;
            }
        }
    }
}

impl Entry {
    fn show(&self) -> SessionInfo {
        let (nexus, counters) = (&self.nexus, &self.info.counters);
        SessionInfo {
            session: nexus.session,
            initiator: nexus.initiator.clone(),
            isid: nexus.isid,
            target: nexus.target.clone(),
            portal_group_tag: nexus.portal_group_tag,
            peer: self.info.peer.clone(),
            local: self.info.local.clone(),
            since: self.info.since,
            commands: counters.commands.load(Ordering::Relaxed),
            bytes_read: counters.bytes_read.load(Ordering::Relaxed),
            bytes_written: counters.bytes_written.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.register.state().by_name.remove(&self.name);
    }
}

/// Tells a session to end and waits until it is over.
async fn end(control: mpsc::Sender<Control>, mut over: watch::Receiver<()>) {
    let _ = control.send(Control::End).await;
    while over.changed().await.is_ok() {}
}
