//! What a channel adapter needs of the array behind it: the one trait through which commands go down.
//!
//! The steps of a command: [`Storage::execute`] gets the CDB before any payload has come. It answers at once
//! ([`Execution::Now`]: a read that is in the cache never leaves the connection's task), or later, or asks for payload: [`Execution::Receive`] names the room that has been reserved, only then is the host
//! told to send (no cache, no R2T), and [`Receive::then`] gets what has come.
//!
//! Invariants the caller keeps: what `execute` or `then` has returned as [`Execution::Later`] is polled to its end,
//! whatever happens to the session; a room that is still awaited, or being filled, when its task is aborted or its
//! session ends, is dropped and `then` is not called. Invariant the implementation keeps: such a future ends by itself
//! without help from the host, and soon (it may wait for local devices; for a peer or for throttling only until
//! [`Nexus::ending`]).

use super::piece::{Pieces, Received, Room};
use crate::clock::BoxFuture;
use holdfast_iscsi::discovery::Directory;
use holdfast_iscsi::name::IscsiName;
use holdfast_iscsi::pdu::Lun;
use holdfast_iscsi::pdu::command::TaskAttribute;
use holdfast_iscsi::pdu::task_mgmt::{Function, FunctionResponse};
use holdfast_iscsi::pdu::{Isid, Tsih};
use std::sync::Arc;
use tokio::sync::watch;

/// Who speaks to whom: one initiator port at one target port, for as long as their session lasts.
#[derive(Debug)]
pub struct Nexus {
    /// Number of the session, never given twice while the array runs.
    pub session: SessionId,
    /// The initiator, proved if the directory asked for that.
    pub initiator: IscsiName,
    /// The initiator's part of the session name.
    pub isid: Isid,
    /// The target.
    pub target: IscsiName,
    /// Group of the portal over which the session came.
    pub portal_group_tag: u16,
    /// The target's handle of the session.
    pub tsih: Tsih,
    /// Headers and data both carry digests; without them an array is not let in as a peer.
    pub has_digests: bool,
    pub(super) ending: watch::Sender<bool>,
}

/// Number of a session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId(pub u64);

impl Nexus {
    /// Whether the session is over, or about to be: nobody waits for an answer.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        *self.ending.borrow()
    }

    /// Waits until the session is about to end.
    pub async fn ending(&self) {
        // The sender lives as long as `self`.
        let _ = self.ending.subscribe().wait_for(|is_ending| *is_ending).await;
    }
}

#[cfg(test)]
impl Nexus {
    /// A session of its own.
    pub(crate) fn for_tests() -> Arc<Self> {
        let name = |name: &str| IscsiName::parse(name).expect("a name");
        Arc::new(Self {
            session: SessionId(1),
            initiator: name("iqn.2026-11.io.holdfast:host"),
            isid: Isid([0; 6]),
            target: name("iqn.2026-11.io.holdfast:array"),
            portal_group_tag: 1,
            tsih: Tsih(1),
            has_digests: true,
            ending: watch::Sender::new(false),
        })
    }

    /// Another one, of an initiator of this name.
    pub(crate) fn of_for_tests(session: u64, initiator: &str) -> Arc<Self> {
        let mut nexus = Arc::into_inner(Self::for_tests()).expect("it is new");
        nexus.session = SessionId(session);
        nexus.initiator = IscsiName::parse(initiator).expect("a name");
        Arc::new(nexus)
    }

    pub(crate) fn end_for_tests(&self) {
        self.ending.send_replace(true);
    }
}

/// A command as it came.
#[derive(Clone, Copy, Debug)]
pub struct ScsiCommand<'a> {
    /// Logical unit as it stands on the wire.
    pub lun: Lun,
    /// At least 16 bytes; more if an extended CDB came along.
    pub cdb: &'a [u8],
    /// Task attribute.
    pub attribute: TaskAttribute,
    /// Bytes that the initiator expects to move.
    pub expected_length: u32,
    /// The initiator expects data.
    pub reads: bool,
    /// The initiator has data.
    pub writes: bool,
}

/// How a command goes on.
pub enum Execution {
    /// It is finished.
    Now(Completed),
    /// It is with the storage. The future is polled to its end.
    Later(BoxFuture<'static, Completed>),
    /// It wants payload.
    Receive(Receive),
}

/// How a command goes on that has had its payload.
pub enum AfterData {
    /// It is finished.
    Now(Completed),
    /// It is with the storage. The future is polled to its end.
    Later(BoxFuture<'static, Completed>),
}

/// The answer to a command.
#[derive(Clone, Debug)]
pub enum Completed {
    /// Status, perhaps with a little data.
    Done(Completion),
    /// GOOD and these bytes; their number is what the command moves, whatever the initiator expects.
    DataIn(Pieces),
}

impl From<Completion> for Execution {
    fn from(completion: Completion) -> Self {
        Self::Now(Completed::Done(completion))
    }
}

impl From<Completion> for AfterData {
    fn from(completion: Completion) -> Self {
        Self::Now(Completed::Done(completion))
    }
}

impl From<Pieces> for Execution {
    fn from(pieces: Pieces) -> Self {
        Self::Now(Completed::DataIn(pieces))
    }
}

/// The end of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Completion {
    /// SCSI status.
    pub status: u8,
    /// Sense data, with CHECK CONDITION.
    pub sense: Vec<u8>,
    /// Small data for the initiator, with GOOD only.
    pub data: Vec<u8>,
    /// What the command would move in all; with the expected length it decides the residual.
    pub command_bytes: u64,
}

impl Completion {
    /// GOOD after so many bytes were taken.
    #[must_use]
    pub fn good(command_bytes: u64) -> Self {
        Self { command_bytes, ..Self::default() }
    }

    /// GOOD with data, all of it.
    #[must_use]
    pub fn data(data: Vec<u8>) -> Self {
        let command_bytes = u64::try_from(data.len()).unwrap_or(u64::MAX);
        Self { data, command_bytes, ..Self::default() }
    }

    /// CHECK CONDITION.
    #[must_use]
    pub fn check(sense: Vec<u8>) -> Self {
        Self { status: CHECK_CONDITION, sense, ..Self::default() }
    }
}

/// A write that wants its payload.
pub struct Receive {
    /// How much.
    pub bytes: u32,
    /// Where it lands.
    pub room: Reserved,
    /// Called when everything has come: what there is may be less than `bytes`, if the initiator has no more.
    pub then: Box<dyn FnOnce(Received) -> AfterData + Send>,
}

/// Room for payload.
pub enum Reserved {
    /// It is there.
    Now(Room),
    /// It will be. The future may be dropped before.
    Later(BoxFuture<'static, Room>),
}

/// What one initiator may do at one target.
pub trait Storage: Send + Sync {
    /// Begins a command. Commands of a nexus come in the order in which the initiator numbered them.
    fn execute(&self, nexus: &Arc<Nexus>, command: ScsiCommand<'_>) -> Execution;

    /// Carries out a task management function, when the future is polled. The tasks of this session that it names have ended before; for those of
    /// other sessions there is [`Sessions::abort`](super::target::Sessions::abort).
    fn manage(
        &self,
        nexus: &Arc<Nexus>,
        function: Function,
        lun: Lun,
    ) -> BoxFuture<'static, FunctionResponse>;

    /// The session is over and all its commands have ended. Called once, before a session with the same name begins.
    fn session_ended(&self, nexus: &Nexus);
}

/// What targets there are, who may use them, and what is behind them.
pub trait Targets: Directory + Send + Sync {
    /// What the session may use. Called once the session has taken its place, before the initiator is told. `None`
    /// refuses the login as if there were no such target: it has gone since the login began, or the session lacks
    /// what this target demands.
    fn open(&self, nexus: &Arc<Nexus>) -> Option<Arc<dyn Storage>>;
}

const CHECK_CONDITION: u8 = 2;
