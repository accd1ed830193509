//! The commands under way: a table by task tag, the queue for the command window, and the bursts to send.

use super::error::Error;
use super::{Parameters, TASKS_MAX};
use crate::pdu::ahs::Cdb;
use crate::pdu::command::{Direction, Residual, TaskAttribute};
use crate::pdu::r2t::ReadyToTransfer;
use crate::pdu::{Itt, Lun, Ttt};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

/// A command to the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Logical unit.
    pub lun: Lun,
    /// The command; beyond 16 bytes it travels in an additional header segment.
    pub cdb: Cdb,
    /// Which way data moves; [`Direction::Bidirectional`] is treated as a command without data.
    pub direction: Direction,
    /// Bytes to send, or the room for what comes.
    pub length: u32,
    /// How it is ordered among others.
    pub attribute: TaskAttribute,
    /// Limit from the moment it is queued, and while data comes on the connection from the last of that, so that a slow way is no
    /// silence; 32 times as long in all. When it passes, the connection ends.
    pub timeout: Duration,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// SCSI status.
    pub status: u8,
    /// Sense data, where there is any.
    pub sense: Vec<u8>,
    /// What was not moved, or would have been beyond the room.
    pub residual: Residual,
    /// Bytes received, from the beginning of the room.
    pub received_bytes: u32,
}

/// Names a command on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(pub(super) Itt);

impl TaskId {
    /// A small number for tables beside this one: unique among the commands under way, below [`TASKS_MAX`].
    #[must_use]
    pub fn index(self) -> usize {
        usize::try_from(self.0.0 & INDEX_MASK).unwrap_or_default()
    }
}

/// One command under way.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) id: TaskId,
    pub(super) command: Command,
    pub(super) is_sent: bool,
    /// Bytes of Data-In, which come in order.
    pub(super) received: u32,
    pub(super) data_sn: u32,
    pub(super) r2t_sn: u32,
    /// R2Ts taken whose data has not all gone out.
    pub(super) open_r2t: u32,
    begun: Duration,
}

impl Task {
    fn deadline(&self, last_data: Duration) -> Duration {
        let most = self.begun.saturating_add(self.command.timeout.saturating_mul(PATIENCE));
        self.begun.max(last_data).saturating_add(self.command.timeout).min(most)
    }
}

/// Data that goes out for one R2T, or unasked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Burst {
    pub(super) id: TaskId,
    pub(super) lun: Lun,
    pub(super) ttt: Ttt,
    pub(super) at: u32,
    pub(super) end: u32,
    pub(super) data_sn: u32,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    slots: Vec<Option<Task>>,
    free: Vec<usize>,
    generation: u32,
    queued: VecDeque<TaskId>,
    pub(super) bursts: VecDeque<Burst>,
    /// No limit ends before this; looked at anew when it passes.
    earliest: Option<Duration>,
}

impl Tasks {
    pub(super) fn count(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn add(&mut self, command: Command, now: Duration) -> Option<TaskId> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.slots.len() < TASKS_MAX => {
                self.slots.push(None);
                self.slots.len() - 1
            }
            None => return None,
        };
        // The upper bits differ from use to use, so that a late answer does not hit a newer command; they never
        // become all ones, which would be the reserved tag.
        self.generation = (self.generation + 1) % GENERATIONS;
        let id = TaskId(Itt(self.generation << INDEX_BITS | u32::try_from(index).unwrap_or_default()));
        let deadline = now.saturating_add(command.timeout);
        self.earliest = Some(self.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
        let task =
            Task { id, command, is_sent: false, received: 0, data_sn: 0, r2t_sn: 0, open_r2t: 0, begun: now };
        if let Some(slot) = self.slots.get_mut(index) {
            *slot = Some(task);
        }
        self.queued.push_back(id);
        Some(id)
    }

    /// The command that `itt` names, if it has been sent: the target cannot know of any other.
    pub(super) fn sent(&mut self, itt: Itt) -> Result<&mut Task, Error> {
        self.get(TaskId(itt)).filter(|task| task.is_sent).ok_or(Error::UnknownTask(itt))
    }

    pub(super) fn get(&mut self, id: TaskId) -> Option<&mut Task> {
        self.slots.get_mut(id.index())?.as_mut().filter(|task| task.id == id)
    }

    /// The next command to send, if there is one.
    pub(super) fn next_queued(&mut self) -> Option<TaskId> {
        self.queued.pop_front()
    }

    pub(super) fn has_queued(&self) -> bool {
        !self.queued.is_empty()
    }

    /// Takes a finished command out of the table; what it still had to send is dropped.
    pub(super) fn remove(&mut self, itt: Itt) -> Result<Task, Error> {
        let id = self.sent(itt)?.id;
        let task = self.slots.get_mut(id.index()).and_then(Option::take).ok_or(Error::UnknownTask(itt))?;
        self.free.push(id.index());
        if task.command.direction == Direction::Write {
            self.bursts.retain(|burst| burst.id != id);
        }
        Ok(task)
    }

    /// Takes an R2T: what it asks for lies in the command's data and within what was agreed.
    pub(super) fn ask(&mut self, r2t: &ReadyToTransfer, parameters: &Parameters) -> Result<(), Error> {
        let task = self.sent(r2t.itt)?;
        if task.command.direction != Direction::Write {
            return Err(Error::Protocol("an R2T for a command that writes nothing"));
        }
        let end = r2t.buffer_offset.checked_add(r2t.desired_length);
        let Some(end) = end.filter(|end| *end <= task.command.length) else {
            return Err(Error::Protocol("an R2T beyond the data of its command"));
        };
        if r2t.desired_length > parameters.max_burst_bytes {
            return Err(Error::Protocol("an R2T beyond MaxBurstLength"));
        }
        if r2t.r2t_sn != task.r2t_sn {
            return Err(Error::Protocol("R2TSN out of order"));
        }
        if task.open_r2t == parameters.max_outstanding_r2t {
            return Err(Error::Protocol("more R2Ts than MaxOutstandingR2T"));
        }
        task.r2t_sn = task.r2t_sn.wrapping_add(1);
        task.open_r2t += 1;
        let (id, lun) = (task.id, task.command.lun);
        self.bursts.push_back(Burst { id, lun, ttt: r2t.ttt, at: r2t.buffer_offset, end, data_sn: 0 });
        Ok(())
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        self.earliest
    }

    /// Whether a command has had its time; otherwise finds the next moment to ask.
    pub(super) fn is_overdue(&mut self, now: Duration, last_data: Duration) -> bool {
        if self.earliest.is_none_or(|earliest| now < earliest) {
            return false;
        }
        self.earliest = self.slots.iter().flatten().map(|task| task.deadline(last_data)).min();
        self.earliest.is_some_and(|earliest| now >= earliest)
    }
}

/// So many times its limit a command may take while data comes.
const PATIENCE: u32 = 32;
const INDEX_BITS: u32 = 10;
const INDEX_MASK: u32 = (1 << INDEX_BITS) - 1;
const GENERATIONS: u32 = (1 << (32 - INDEX_BITS)) - 1;
const _: () = assert!(TASKS_MAX == 1 << INDEX_BITS);
