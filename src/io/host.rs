//! The storage behind a host's session: command reception as in figure 13.
//!
//! A command is admitted by the device server of its LUN (steps 1210 to 1245), a write gets its cache before the host
//! is told to send (1250), and what it changes goes through the volume (1260 to 1280). Reads that the cache holds are
//! answered on the connection's own task.

use super::counted::counted;
use super::lun::LunUnit;
use super::luns::LunMap;
use super::manner::{Expected, Manner, Oring};
use super::pieces::for_wire;
use super::third_party::{Copier, Copies};
use super::volume::{IoError, Outcome};
use crate::channel::piece::{Received, Room};
use crate::channel::storage::{
    AfterData, Completed, Completion, Execution, Nexus, Receive, Reserved, ScsiCommand, Storage,
};
use crate::clock::BoxFuture;
use crate::copy::change::{Change, Content, Part, pages_touched, within_page};
use crate::copy::demand::Demand;
use crate::disk::slot::{Class, SLOT_BYTES, SlotMut, SlotPool};
use holdfast_iscsi::pdu::Lun as WireLun;
use holdfast_iscsi::pdu::task_mgmt::{Function, FunctionResponse};
use holdfast_scsi::{
    Admission, BlockRange, Lba, Lun, MAX_TRANSFER_BYTES, NexusId, Response, SameBlock, Sense, SenseFormat,
    Status, VerifyCheck, lba_status, lba_status_room, report_luns, unmapped_lun,
};
use std::sync::Arc;

/// One session's view of a target.
pub struct HostStorage {
    luns: Arc<LunMap>,
    pool: SlotPool,
    demand: Arc<Demand>,
    copies: Arc<Copies>,
}

impl HostStorage {
    /// Attaches the session to every unit of the target.
    #[must_use]
    pub fn attach(luns: Arc<LunMap>, pool: SlotPool, demand: Arc<Demand>, nexus: &Nexus) -> Self {
        luns.attach(NexusId(nexus.session.0), &nexus.initiator);
        Self { luns, pool, demand, copies: Arc::default() }
    }

    fn unit(&self, lun: WireLun) -> Option<Arc<LunUnit>> {
        self.luns.get(Lun::from_bytes(lun)?.number())
    }

    fn admitted(&self, nexus: &Arc<Nexus>, unit: Arc<LunUnit>, command: ScsiCommand<'_>) -> Execution {
        let id = NexusId(nexus.session.0);
        let data_out_bytes = Some(if command.writes { command.expected_length } else { 0 });
        let (admission, format) = {
            let mut guard = unit.unit();
            let grant = unit.grant(&nexus.initiator);
            (guard.admit(id, grant, command.cdb, data_out_bytes), guard.sense_format())
        };
        let task = Task { unit, nexus: nexus.clone(), format };
        match admission {
            Admission::Done(response) => at_once(task.finish(response)),
            Admission::ReportLuns => {
                let response = report_luns(&self.luns.list(), command.cdb);
                for (_, unit) in self.luns.all() {
                    unit.unit().luns_were_reported(id);
                }
                at_once(task.finish(response))
            }
            Admission::Read { range, fua } => at_once(task.read(range, fua)),
            Admission::Write { range, fua } => self.receive_write(task, range, fua),
            Admission::WriteSame { range, unmap, fua, block } => {
                self.write_same(task, range, unmap, fua, block)
            }
            Admission::Unmap { parameter_length, fua } => {
                receive_bytes(u32::from(parameter_length), move |list| {
                    let ranges = task.unit.unit().parse_unmap(&list);
                    match ranges {
                        Ok(ranges) => task.unmap(&ranges, fua, u64::from(parameter_length)),
                        Err(sense) => task.fail(sense),
                    }
                })
            }
            Admission::CompareAndWrite { range, fua } => self.receive_comparison(task, range, fua),
            Admission::OrWrite { range, fua } => {
                let pool = self.pool.clone();
                self.receive_whole(task, range, move |task, received| {
                    task.or_write(range, received, pool, fua)
                })
            }
            Admission::WriteAtomic { range, fua } => {
                self.receive_whole(task, range, move |task, received| task.write_atomic(range, received, fua))
            }
            Admission::Verify { range, check } => self.verify(task, range, check),
            Admission::PreFetch { range, immediate } => at_once(task.pre_fetch(range, immediate)),
            Admission::GetLbaStatus { start, allocation_length } => {
                at_once(task.lba_status(start, allocation_length))
            }
            Admission::ExtendedCopy { parameter_length } => {
                let (luns, pool) = (self.luns.clone(), self.pool.clone());
                let copier = Copier { luns, pool, copies: self.copies.clone(), task };
                receive_bytes(parameter_length, move |list| copier.run(&list))
            }
            Admission::CopyResults { question, identifier, allocation_length } => {
                at_once(task.finish(self.copies.answer(question, identifier, allocation_length)))
            }
            Admission::SynchronizeCache { immediate, .. } => at_once(task.synchronize(immediate)),
            Admission::ParameterOut { select, parameter_length } => {
                receive_bytes(u32::from(parameter_length), move |list| {
                    let changed = task.unit.unit().mode_select(id, select, &list);
                    task.mode_selected(changed, u64::from(parameter_length))
                })
            }
        }
    }

    /// Step 1250: cache first, then the host may send.
    fn receive_write(&self, task: Task, range: BlockRange, fua: bool) -> Execution {
        let (offset, length) = task.bytes(range);
        let first_offset = usize::from(within_page(offset));
        let room = self.reserve(offset, length, first_offset);
        let bytes = u32::try_from(length).expect("the device server bounds a transfer");
        let then = move |received: Received| task.write_received(range, received, fua);
        Execution::Receive(Receive { bytes, room, then: Box::new(then) })
    }

    /// Room for the range's bytes, for a command that lays them at their place in pages.
    fn receive_whole(
        &self,
        task: Task,
        range: BlockRange,
        then: impl FnOnce(Task, Received) -> AfterData + Send + 'static,
    ) -> Execution {
        let (offset, length) = task.bytes(range);
        let room = self.reserve(offset, length, usize::from(within_page(offset)));
        let bytes = u32::try_from(length).expect("the device server bounds a transfer");
        Execution::Receive(Receive { bytes, room, then: Box::new(move |received| then(task, received)) })
    }

    /// Room for both halves of a COMPARE AND WRITE, so that the second, which is written, lies at its place in pages.
    fn receive_comparison(&self, task: Task, range: BlockRange, fua: bool) -> Execution {
        let (offset, length) = task.bytes(range);
        let page = SLOT_BYTES as u64;
        let first_offset = (offset % page + page - length % page) % page;
        let room = self.reserve(first_offset, 2 * length, usize::try_from(first_offset).unwrap_or(0));
        let bytes = u32::try_from(2 * length).expect("the device server bounds a comparison");
        let then = move |received| task.compare_and_write(range, received, first_offset, fua);
        Execution::Receive(Receive { bytes, room, then: Box::new(then) })
    }

    fn verify(&self, task: Task, range: BlockRange, check: VerifyCheck) -> Execution {
        match check {
            VerifyCheck::Readable => at_once(task.verify_readable(range)),
            VerifyCheck::AllSent => {
                self.receive_whole(task, range, move |task, received| task.verify_all(range, received))
            }
            VerifyCheck::OneSent => {
                let pool = self.pool.clone();
                let block_bytes = task.unit.volume.block_bytes;
                receive_bytes(block_bytes, move |block| task.verify_one(range, block, pool))
            }
        }
    }

    fn reserve(&self, offset: u64, length: u64, first_offset: usize) -> Reserved {
        let pages = pages_touched(offset, length);
        let room = move |slots: Vec<SlotMut>| Room::Slots { slots, first_offset };
        match self.pool.try_take(Class::Host, pages) {
            Some(slots) => Reserved::Now(room(slots)),
            None => {
                let pool = self.pool.clone();
                Reserved::Later(Box::pin(async move { room(pool.take(Class::Host, pages).await) }))
            }
        }
    }

    fn write_same(
        &self,
        task: Task,
        range: BlockRange,
        unmap: bool,
        fua: bool,
        block: SameBlock,
    ) -> Execution {
        let (offset, length) = task.bytes(range);
        let volume = task.unit.volume.number;
        if block == SameBlock::Zeros {
            task.unit.counters.wrote(0);
            return at_once(task.write(Change::new(volume, vec![Part::zero(offset, length)]), fua, 0));
        }
        let block_bytes = task.unit.volume.block_bytes;
        let pool = self.pool.clone();
        receive_bytes(block_bytes, move |block| {
            task.unit.counters.wrote(block.len() as u64);
            let zeros = block.iter().all(|byte| *byte == 0);
            let _ = unmap; // Zeros are a range of zeros either way: they read the same and take no room.
            if zeros {
                return task.write(
                    Change::new(volume, vec![Part::zero(offset, length)]),
                    fua,
                    u64::from(block_bytes),
                );
            }
            AfterData::Later(Box::pin(async move {
                let mut page = pool.take(Class::Host, 1).await.remove(0);
                for part in page.chunks_mut(block.len()) {
                    part.copy_from_slice(&block[..part.len()]);
                }
                let content = Content::Pattern { slot: page.freeze(), bytes: block_bytes };
                let part = Part { offset_bytes: offset, length_bytes: length, content };
                match task.write(Change::new(volume, vec![part]), fua, u64::from(block_bytes)) {
                    AfterData::Now(completed) => completed,
                    AfterData::Later(later) => later.await,
                }
            }))
        })
    }
}

impl Storage for HostStorage {
    fn execute(&self, nexus: &Arc<Nexus>, command: ScsiCommand<'_>) -> Execution {
        match self.unit(command.lun) {
            Some(unit) => counted(&self.demand, self.admitted(nexus, unit, command)),
            None => {
                Execution::Now(completed(unmapped_lun(&self.luns.list(), command.cdb), SenseFormat::Fixed))
            }
        }
    }

    fn manage(
        &self,
        _nexus: &Arc<Nexus>,
        function: Function,
        lun: WireLun,
    ) -> BoxFuture<'static, FunctionResponse> {
        let known = self.unit(lun).is_some();
        Box::pin(async move {
            match function {
                Function::LogicalUnitReset if !known => FunctionResponse::LunDoesNotExist,
                _ => FunctionResponse::Complete,
            }
        })
    }

    fn session_ended(&self, nexus: &Nexus) {
        self.luns.detach(NexusId(nexus.session.0));
    }
}

/// A command that was admitted.
pub(super) struct Task {
    pub(super) unit: Arc<LunUnit>,
    pub(super) nexus: Arc<Nexus>,
    pub(super) format: SenseFormat,
}

impl Task {
    pub(super) fn bytes(&self, range: BlockRange) -> (u64, u64) {
        let block = u64::from(self.unit.volume.block_bytes);
        (range.start.0 * block, range.blocks * block)
    }

    fn finish(&self, response: Response) -> AfterData {
        AfterData::Now(completed(response, self.format))
    }

    pub(super) fn fail(&self, sense: Sense) -> AfterData {
        self.finish(Response::check(sense))
    }

    fn failed(&self, error: &IoError, lba: Lba) -> AfterData {
        AfterData::Now(self.error(error, lba))
    }

    pub(super) fn error(&self, error: &IoError, lba: Lba) -> Completed {
        // What differs is an answer, not a failure.
        if !matches!(error, IoError::Differs(_)) {
            tracing::warn!(volume = self.unit.volume.number, %error, "a host's command failed");
        }
        let sense = match error {
            IoError::Fenced(_) | IoError::Refused(_) => self.unit.sense_of_refusal(error.sense(lba)),
            _ => error.sense(lba),
        };
        completed(Response::check(sense), self.format)
    }

    fn read(self, range: BlockRange, fua: bool) -> AfterData {
        let (offset, length) = self.bytes(range);
        self.unit.counters.read(length);
        let length = usize::try_from(length).expect("the device server bounds a transfer");
        if !fua {
            return match self.unit.volume.read(offset, length) {
                Outcome::Ready(Ok(pieces)) => AfterData::Now(Completed::DataIn(for_wire(&pieces))),
                Outcome::Ready(Err(error)) => self.failed(&error, range.start),
                Outcome::Later(reading) => AfterData::Later(Box::pin(async move {
                    match reading.await {
                        Ok(pieces) => Completed::DataIn(for_wire(&pieces)),
                        Err(error) => self.error(&error, range.start),
                    }
                })),
            };
        }
        // FUA on a read: only what is durable may be returned.
        AfterData::Later(Box::pin(async move {
            match self.unit.volume.clone().synchronize_here().await {
                Ok(()) => self.read_now(range).await,
                Err(error) => self.error(&error, range.start),
            }
        }))
    }

    /// What came of a write. An initiator may expect to send less than the command writes (RFC 7143 section 11.4.5.1):
    /// the whole blocks that came are written, and the residual says how much is missing. A part of a block is never
    /// written.
    fn write_received(self, range: BlockRange, received: Received, fua: bool) -> AfterData {
        let (offset, length) = self.bytes(range);
        let Received::Slots { slots, bytes } = received else { return self.fail(Sense::DATA_PHASE_ERROR) };
        let came = bytes as u64;
        if !came.is_multiple_of(u64::from(self.unit.volume.block_bytes)) {
            let refused = Response::check(Sense::INVALID_FIELD_IN_INFORMATION_UNIT);
            let Completed::Done(completion) = completed(refused, self.format) else {
                unreachable!("a refusal carries no data")
            };
            return AfterData::Now(Completed::Done(Completion { command_bytes: length, ..completion }));
        }
        if came == 0 {
            return good(length);
        }
        self.unit.counters.wrote(came);
        let volume = self.unit.volume.number;
        self.write(Change::new(volume, vec![Part::data(offset, came, slots)]), fua, length)
    }

    async fn read_now(self, range: BlockRange) -> Completed {
        let (offset, length) = self.bytes(range);
        let length = usize::try_from(length).expect("the device server bounds a transfer");
        let read = match self.unit.volume.read(offset, length) {
            Outcome::Ready(read) => read,
            Outcome::Later(reading) => reading.await,
        };
        match read {
            Ok(pieces) => Completed::DataIn(for_wire(&pieces)),
            Err(error) => self.error(&error, range.start),
        }
    }

    fn compare_and_write(
        self,
        range: BlockRange,
        received: Received,
        first_offset: u64,
        fua: bool,
    ) -> AfterData {
        let (offset, length) = self.bytes(range);
        let Received::Slots { slots, bytes } = received else { return self.fail(Sense::DATA_PHASE_ERROR) };
        if bytes as u64 != 2 * length {
            return self.fail(Sense::WRONG_DATA_LENGTH);
        }
        self.unit.counters.wrote(length);
        let second = usize::try_from((first_offset + length) / SLOT_BYTES as u64).unwrap_or(usize::MAX);
        let data = slots.get(second..).unwrap_or(&[]).to_vec();
        let change = Change::new(self.unit.volume.number, vec![Part::data(offset, length, data)]);
        let expected = Expected { slots, at: usize::try_from(first_offset).unwrap_or(0) };
        self.write_as(change, Manner::IfSame(expected), fua, 2 * length)
    }

    fn or_write(self, range: BlockRange, received: Received, pool: SlotPool, fua: bool) -> AfterData {
        match self.whole_change(range, received) {
            Ok(change) => {
                let (oring, moved) = (Oring::new(pool, &change), self.bytes(range).1);
                self.write_as(change, Manner::Or(oring), fua, moved)
            }
            Err(sense) => self.fail(sense),
        }
    }

    fn write_atomic(self, range: BlockRange, received: Received, fua: bool) -> AfterData {
        match self.whole_change(range, received) {
            Ok(change) => {
                let moved = self.bytes(range).1;
                self.write_as(Change { whole: true, ..change }, Manner::Alone, fua, moved)
            }
            Err(sense) => self.fail(sense),
        }
    }

    /// The change of a command that needs all of its data.
    fn whole_change(&self, range: BlockRange, received: Received) -> Result<Change, Sense> {
        let (offset, length) = self.bytes(range);
        match received {
            Received::Slots { slots, bytes } if bytes as u64 == length => {
                self.unit.counters.wrote(length);
                Ok(Change::new(self.unit.volume.number, vec![Part::data(offset, length, slots)]))
            }
            Received::Slots { .. } | Received::Bytes(_) => Err(Sense::WRONG_DATA_LENGTH),
        }
    }

    /// Brings as much of the range into the cache as one READ may ask for.
    fn pre_fetch(self, range: BlockRange, immediate: bool) -> AfterData {
        let (offset, length) = self.bytes(range);
        let fetched = length.min(u64::from(MAX_TRANSFER_BYTES));
        let status = if fetched == length { Status::ConditionMet } else { Status::Good };
        let response = Response { status, sense: None, data_in: Vec::new() };
        let bytes = usize::try_from(fetched).expect("at most one transfer");
        match self.unit.volume.read(offset, bytes) {
            Outcome::Ready(Ok(_)) => self.finish(response),
            Outcome::Ready(Err(error)) => self.failed(&error, range.start),
            Outcome::Later(reading) if immediate => {
                // Nobody waits for it; what cannot be read is told to who reads it.
                tokio::spawn(async move { drop(reading.await) });
                self.finish(response)
            }
            Outcome::Later(reading) => AfterData::Later(Box::pin(async move {
                match reading.await {
                    Ok(_) => completed(response, self.format),
                    Err(error) => self.error(&error, range.start),
                }
            })),
        }
    }

    fn lba_status(self, start: Lba, allocation_length: u32) -> AfterData {
        let is_thin = self.unit.unit().geometry().is_thin();
        match self.unit.volume.lba_status(start, is_thin, lba_status_room(allocation_length)) {
            Ok(ranges) => self.finish(lba_status(&ranges, allocation_length)),
            Err(error) => self.failed(&error, start),
        }
    }

    fn write(self, change: Change, durable: bool, moved: u64) -> AfterData {
        self.write_as(change, Manner::Plain, durable, moved)
    }

    fn write_as(self, change: Change, manner: Manner, durable: bool, moved: u64) -> AfterData {
        let start = change.parts.first().map_or(0, |part| part.offset_bytes);
        let lba = Lba(start / u64::from(self.unit.volume.block_bytes));
        match self.unit.volume.write_as(change, manner, durable, &self.nexus) {
            Outcome::Ready(Ok(())) => good(moved),
            Outcome::Ready(Err(error)) => self.failed(&error, lba),
            Outcome::Later(writing) => AfterData::Later(Box::pin(async move {
                match writing.await {
                    Ok(()) => Completed::Done(Completion::good(moved)),
                    Err(error) => self.error(&error, lba),
                }
            })),
        }
    }

    fn unmap(self, ranges: &[BlockRange], fua: bool, moved: u64) -> AfterData {
        let parts: Vec<Part> = ranges
            .iter()
            .filter(|range| !range.is_empty())
            .map(|range| self.bytes(*range))
            .map(|(offset, length)| Part::zero(offset, length))
            .collect();
        if parts.is_empty() {
            return good(moved);
        }
        let volume = self.unit.volume.number;
        self.write(Change::new(volume, parts), fua, moved)
    }

    fn synchronize(self, immediate: bool) -> AfterData {
        let nexus = self.nexus.clone();
        let synchronizing = self.unit.volume.clone().synchronize(async move { nexus.ending().await });
        if immediate {
            // GOOD at once; the volume is made durable all the same.
            tokio::spawn(synchronizing);
            return good(0);
        }
        AfterData::Later(Box::pin(async move {
            match synchronizing.await {
                Ok(()) => Completed::Done(Completion::good(0)),
                Err(error) => self.error(&error, Lba(0)),
            }
        }))
    }

    fn mode_selected(self, changed: Result<holdfast_scsi::ModeChange, Sense>, moved: u64) -> AfterData {
        match changed {
            Ok(holdfast_scsi::ModeChange::FlushFirst) => AfterData::Later(Box::pin(async move {
                match self.unit.volume.clone().synchronize(self.nexus.ending()).await {
                    Ok(()) => Completed::Done(Completion::good(moved)),
                    Err(error) => self.error(&error, Lba(0)),
                }
            })),
            Ok(_) => good(moved),
            Err(sense) => self.fail(sense),
        }
    }
}

/// Asks for a small parameter list.
fn receive_bytes(bytes: u32, then: impl FnOnce(Vec<u8>) -> AfterData + Send + 'static) -> Execution {
    let room = Reserved::Now(Room::of_bytes(bytes as usize));
    Execution::Receive(Receive { bytes, room, then: Box::new(move |received| then(received.into_vec())) })
}

/// A finished answer for the wire.
pub(crate) fn completed(response: Response, format: SenseFormat) -> Completed {
    let Response { status, sense, data_in } = response;
    Completed::Done(match (status, sense) {
        (Status::Good, _) => Completion::data(data_in),
        (status, sense) => Completion {
            status: status.code(),
            sense: sense.map(|sense| sense.to_bytes(format)).unwrap_or_default(),
            ..Completion::default()
        },
    })
}

pub(super) fn good(moved: u64) -> AfterData {
    AfterData::Now(Completed::Done(Completion::good(moved)))
}

fn at_once(after: AfterData) -> Execution {
    match after {
        AfterData::Now(completed) => Execution::Now(completed),
        AfterData::Later(later) => Execution::Later(later),
    }
}

const _: () = assert!(SLOT_BYTES.is_multiple_of(512), "a page holds whole blocks of either size");
