//! The target's side of a session with its one connection (RFC 7143 chapters 4 and 7, ErrorRecoveryLevel 0).
//!
//! [`Connection`] is the state machine. Its parts have a file each: `window` the command numbers, `tasks` the table
//! of living commands, `transfer` the payload of one write. What it does is in `receive` (headers and data),
//! `control` (everything that is not a command) and `transmit` (what goes out).

mod connection;
mod control;
mod receive;
mod tasks;
mod transfer;
mod transmit;
mod window;

#[cfg(test)]
mod tests;

pub use crate::login::LoggedIn;
pub use connection::{Connection, Settings};
pub use receive::{Command, Incoming, Layout};
pub use tasks::TaskId;
pub use transmit::{Source, Transmit};

use crate::pdu::task_mgmt::Function;
use crate::pdu::{Itt, Lun};
use alloc::vec::Vec;

/// Commands that an initiator may have open at once; a further one lies outside the window and is ignored.
pub const QUEUE_DEPTH: u32 = 128;

/// Immediate commands beyond that; a further one is rejected.
pub const MAX_IMMEDIATE: u32 = 16;

/// Task management functions open at once; a further one is answered with *function rejected*.
pub const MAX_FUNCTIONS: usize = 16;

/// Rejects before the connection is given up.
pub const MAX_REJECTS: u32 = 16;

/// Answers to pings, texts and malformed PDUs that wait to be sent. From here on [`Connection::wants_input`] is
/// false; twice as many end the connection.
pub const MAX_CONTROL_QUEUE: usize = 64;

/// Bytes of such answers that may wait, in the same way.
pub const MAX_CONTROL_BYTES: usize = 2 << 20;

/// Data segment of a login PDU.
pub const MAX_LOGIN_SEGMENT_BYTES: u32 = 16 * 1024;

/// What went wrong so badly that the connection has to be closed. Except for `Ended`, it is the peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fatal {
    /// A length beyond what was agreed.
    TooLong,
    /// Not an iSCSI PDU, or one that cannot come here.
    Malformed,
    /// A command number is missing; with one connection it cannot come any more.
    MissingCommand,
    /// The initiator sends without reading the answers.
    Flooded,
    /// Too many PDUs had to be rejected.
    TooManyRejects,
    /// The login took too long.
    LoginTimeout,
    /// A ping stayed without an answer.
    PingTimeout,
    /// The connection is over; nothing may come any more.
    Ended,
}

/// What the caller has to know or do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A login is agreed. The caller ends what it replaces, all tasks included, and then answers with
    /// [`Connection::accept_login`] or [`Connection::refuse_login`].
    LoggedIn(LoggedIn),
    /// A task management function. The aborted tasks of this session are already forgotten here; when the
    /// device server is done with them and with those of other sessions, [`Connection::task_management_done`].
    TaskManagement(TaskManagement),
    /// The transfer of this task failed and its status is on the way: the caller drops its buffers when that status
    /// [completes](Transmit::completes), and does nothing else about it.
    TransferFailed(TaskId),
    /// The initiator has logged out; all tasks are dead, the connection closes after the response.
    LoggedOut {
        /// The tasks that were there, as in [`TaskManagement::aborted`].
        aborted: Vec<TaskId>,
    },
}

/// A task management function that the device server has to carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskManagement {
    /// Names the request in [`Connection::task_management_done`].
    pub itt: Itt,
    /// What to do.
    pub function: Function,
    /// Logical unit; means nothing for the resets of the whole target.
    pub lun: Lun,
    /// Tasks of this session that it concerns. They are no longer alive and nothing [completes](Transmit::completes)
    /// them any more: their buffers go when the device server is done with them.
    pub aborted: Vec<TaskId>,
}

/// Which tasks die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortScope {
    /// All of one logical unit.
    LogicalUnit(Lun),
    /// All.
    All,
}

/// How far the payload of a task has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More is to come.
    More,
    /// All that was solicited has arrived, and nothing else is on the way. Said once.
    Complete {
        /// Bytes that arrived, unsolicited ones beyond the solicited length included.
        received: u32,
    },
    /// The task is dead.
    Dead,
}
