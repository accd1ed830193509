//! The table of living commands: a slab that never holds more than the window lets in.
//!
//! A task is named by slot and generation, so a late word about a dead task meets nobody.

use super::transfer::Transfer;
use super::{MAX_IMMEDIATE, QUEUE_DEPTH};
use crate::pdu::bhs::Immediate;
use crate::pdu::command::Residual;
use crate::pdu::{Itt, Lun};
use crate::serial::CmdSn;
use alloc::vec::Vec;

/// Names a task from its command until its status is on the wire. Slots are used again, generations are not: only
/// the whole name is unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    slot: u16,
    generation: u32,
}

impl TaskId {
    /// The place in the table, below [`QUEUE_DEPTH`] + [`MAX_IMMEDIATE`].
    #[must_use]
    pub fn slot(self) -> u16 {
        self.slot
    }
}

/// How a task ends.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Status alone, with sense data or without.
    Status { status: u8, segment: Vec<u8>, residual: Residual },
    /// GOOD after so many bytes from the caller's buffer, or from this one.
    Data { bytes: u32, owned: Option<Vec<u8>>, sent: u32, residual: Residual },
}

#[derive(Debug)]
pub(super) struct Task {
    pub(super) itt: Itt,
    pub(super) lun: Lun,
    pub(super) cmd_sn: CmdSn,
    pub(super) immediate: Immediate,
    pub(super) expected_length: u32,
    pub(super) reads: bool,
    /// Payload of a write; other commands have none.
    pub(super) transfer: Option<Transfer>,
    pub(super) outcome: Option<Outcome>,
    /// Data-In or R2T PDUs sent.
    pub(super) data_sn: u32,
    /// Whether an R2T entry waits in the send queue.
    pub(super) r2t_queued: bool,
    /// The caller has never heard of a task that failed in its header.
    pub(super) is_announced: bool,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    task: Option<Task>,
}

#[derive(Debug, Default)]
pub(super) struct Tasks {
    slots: Vec<Slot>,
    /// Task tags by slot, reserved where there is no task: a search touches these few bytes and no task.
    tags: Vec<Itt>,
    free: Vec<u16>,
    ordered: u32,
    immediate: u32,
}

impl Tasks {
    /// Puts a task into the table; `None` when there is no room for another of its kind.
    pub(super) fn insert(&mut self, task: Task) -> Option<TaskId> {
        let (count, limit) = match task.immediate {
            Immediate::Yes => (&mut self.immediate, MAX_IMMEDIATE),
            Immediate::No => (&mut self.ordered, QUEUE_DEPTH),
        };
        if *count >= limit {
            return None;
        }
        *count += 1;
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.slots.push(Slot::default());
                self.tags.push(Itt::RESERVED);
                u16::try_from(self.slots.len() - 1).ok()?
            }
        };
        let slot = self.slots.get_mut(usize::from(index))?;
        *self.tags.get_mut(usize::from(index))? = task.itt;
        slot.task = Some(task);
        Some(TaskId { slot: index, generation: slot.generation })
    }

    pub(super) fn get_mut(&mut self, id: TaskId) -> Option<&mut Task> {
        let slot = self.slots.get_mut(usize::from(id.slot))?;
        slot.task.as_mut().filter(|_| slot.generation == id.generation)
    }

    pub(super) fn get(&self, id: TaskId) -> Option<&Task> {
        let slot = self.slots.get(usize::from(id.slot))?;
        slot.task.as_ref().filter(|_| slot.generation == id.generation)
    }

    pub(super) fn remove(&mut self, id: TaskId) -> Option<Task> {
        let slot = self.slots.get_mut(usize::from(id.slot))?;
        if slot.generation != id.generation {
            return None;
        }
        let task = slot.task.take()?;
        *self.tags.get_mut(usize::from(id.slot))? = Itt::RESERVED;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id.slot);
        match task.immediate {
            Immediate::Yes => self.immediate -= 1,
            Immediate::No => self.ordered -= 1,
        }
        Some(task)
    }

    /// The living task with this tag.
    pub(super) fn find(&self, itt: Itt) -> Option<TaskId> {
        if itt == Itt::RESERVED {
            return None;
        }
        let index = self.tags.iter().position(|tag| *tag == itt)?;
        let generation = self.slots.get(index)?.generation;
        Some(TaskId { slot: u16::try_from(index).ok()?, generation })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (TaskId, &Task)> {
        (0..).zip(&self.slots).filter_map(|(slot, entry)| {
            entry.task.as_ref().map(|task| (TaskId { slot, generation: entry.generation }, task))
        })
    }

    /// Commands that use up the window.
    pub(super) fn ordered(&self) -> u32 {
        self.ordered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(itt: u32, immediate: Immediate) -> Task {
        Task {
            itt: Itt(itt),
            lun: [0; 8],
            cmd_sn: CmdSn(0),
            immediate,
            expected_length: 0,
            reads: false,
            transfer: None,
            outcome: None,
            data_sn: 0,
            r2t_queued: false,
            is_announced: true,
        }
    }

    #[test]
    fn a_dead_task_is_met_neither_by_tag_nor_by_name_though_its_slot_is_used_again() {
        let mut tasks = Tasks::default();
        let first = tasks.insert(task(7, Immediate::No)).unwrap();
        assert_eq!(tasks.find(Itt(7)), Some(first));
        assert!(tasks.remove(first).is_some());
        assert_eq!(tasks.find(Itt(7)), None);
        assert!(tasks.remove(first).is_none());
        let second = tasks.insert(task(7, Immediate::No)).unwrap();
        assert_eq!(first.slot(), second.slot());
        assert!(tasks.get(first).is_none() && tasks.get_mut(first).is_none());
        assert_eq!(tasks.find(Itt(7)), Some(second));
        assert_eq!(tasks.find(Itt::RESERVED), None);
    }

    #[test]
    fn immediate_and_ordered_commands_have_limits_of_their_own() {
        let mut tasks = Tasks::default();
        let ordered = (0..1000).filter_map(|itt| tasks.insert(task(itt, Immediate::No))).count();
        let immediate = (1000..2000).filter_map(|itt| tasks.insert(task(itt, Immediate::Yes))).count();
        assert_eq!((ordered, immediate), (128, 16));
        assert_eq!(tasks.ordered(), QUEUE_DEPTH);
        assert_eq!(tasks.iter().count(), 144);
    }
}
