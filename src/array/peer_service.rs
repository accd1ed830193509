//! What another array finds at the peer target: the vendor commands of `docs/protocol.md`.
//!
//! Only a session that has proved to be a linked array gets here; for every group it sees its own cursor, its own
//! position and nothing of other readers.

use super::Array;
use super::inflow::{ForwardingState, InflowError};
use super::peer_link::Traffic;
use super::peer_session::{PROTOCOL_VERSION, PeerInformation};
use super::synchronous::{journal_write, synchronise};
use crate::channel::piece::{Piece, Pieces, Received, Room};
use crate::channel::storage::{
    AfterData, Completed, Completion, Execution, Nexus, Receive, Reserved, ScsiCommand, Storage,
};
use crate::clock::BoxFuture;
use crate::copy::cascade::CopyAsk;
use crate::copy::compress::{Workbench, pack};
use crate::copy::group::Group;
use crate::copy::serve::{Answer, Carrier, Form, Request, ServeError};
use crate::disk::slot::{Class, SLOT_BYTES, Slot, SlotMut};
use crate::io::host::completed;
use crate::io::pieces::for_wire;
use crate::io::volume::{IoError, Outcome as Writing};
use crate::volume::designation::{Designation, DesignationId, Outcome, Refusal};
use crate::volume::kind::CopyMode;
use crate::volume::name::{ArrayNumber, VolumeNumber};
use crate::volume::position::Question;
use crate::volume::record::{Identity as StoredIdentity, LinkRecord, Who};
use holdfast_iscsi::pdu::Lun as WireLun;
use holdfast_iscsi::pdu::task_mgmt::{Function, FunctionResponse};
use holdfast_journal::reader::Report;
use holdfast_journal::{ArrayNumber as JournalArray, UpdateNumber};
use holdfast_scsi::{
    Acknowledgement, AsciiText, CopyRead, Delivery, ForwardedWrite, Identity, JournalRead, Lba, LinkTest,
    Lun, MAX_LINK_TEST_BYTES, MAX_TRANSFER_BYTES, Naa, PeerAdmission, PeerStanding, PeerUnit, Response,
    Sense, SenseFormat, VendorCommand, report_luns, unmapped_lun,
};
use std::collections::BTreeMap;
use std::num::NonZeroU8;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::Semaphore;

/// One peer session.
pub(crate) struct PeerService {
    array: Weak<Array>,
    peer: u32,
    unit: PeerUnit,
    from: String,
    results: Arc<Mutex<BTreeMap<[u8; 16], Vec<u8>>>>,
    traffic: Arc<Traffic>,
    /// One trial of the way back at a time.
    testing_back: Arc<Semaphore>,
}

impl PeerService {
    pub(crate) fn new(array: &Arc<Array>, link: &LinkRecord, nexus: &Nexus) -> Option<Self> {
        let meta = array.store.read(|tables| tables.meta().clone());
        let mut naa = meta.identity.0.to_be_bytes();
        naa[0] = 0x60 | (naa[0] & 0x0f);
        let identity = Identity {
            product: AsciiText::new("PEER")?,
            revision: AsciiText::new("1")?,
            serial: AsciiText::new(&meta.identity.to_string())?,
            naa: Naa::new(naa)?,
            target_name: AsciiText::new(nexus.target.as_str())?,
            relative_port: 1,
            portal_group: 1,
            target_port_group: 1,
        };
        let from = nexus.initiator.as_str().to_owned();
        Some(Self {
            array: Arc::downgrade(array),
            peer: link.array.0,
            unit: PeerUnit::new(identity),
            from,
            results: Arc::default(),
            traffic: array.traffic(&link.name),
            testing_back: Arc::new(Semaphore::new(1)),
        })
    }

    fn vendor(&self, command: VendorCommand, nexus: &Arc<Nexus>) -> Execution {
        let Some(array) = self.array.upgrade() else { return refuse(Sense::INTERNAL_FAILURE) };
        match command {
            VendorCommand::PeerInformation { allocation_length } => {
                let meta = array.store.read(|tables| tables.meta().clone());
                let said = PeerInformation {
                    protocol: PROTOCOL_VERSION,
                    array_number: meta.number.0,
                    array_name: meta.name.to_string(),
                    array_identity: meta.identity.to_string(),
                };
                reply(serde_json::to_vec(&said).unwrap_or_default(), allocation_length)
            }
            VendorCommand::JournalRead(read) => self.journal_read(&array, read, Form::Journals),
            VendorCommand::JournalInformation { group, allocation_length } => {
                match group_of(&array, group.0).filter(|group| group.is_read_by(JournalArray(self.peer))) {
                    Some(group) => reply(group.information(JournalArray(self.peer)), allocation_length),
                    None => refuse(Sense::invalid_field_in_cdb(GROUP_BYTE)),
                }
            }
            VendorCommand::Designation { id, list_length } => self.designation(id.0, list_length, nexus),
            VendorCommand::DesignationResult { id, allocation_length } => {
                let results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
                match results.get(&id.0) {
                    Some(result) => reply(result.clone(), allocation_length),
                    None => refuse(Sense::invalid_field_in_cdb(DESIGNATION_BYTE)),
                }
            }
            VendorCommand::JournalTables(read) => self.journal_read(&array, read, Form::Tables),
            VendorCommand::LinkTest { test, allocation_length } => {
                self.link_test(&array, test, allocation_length)
            }
            VendorCommand::ReportPosition { group, position } => self.position(&array, group.0, position),
            VendorCommand::ForwardedWrite(write) => self.forwarded_write(&array, write, nexus),
            VendorCommand::ForwardingState { list_length } => self.forwarding_state(&array, list_length),
            VendorCommand::ForwardedRead { volume, offset_bytes, allocation_length } => {
                self.forwarded_read(&array, volume, (offset_bytes, allocation_length))
            }
            VendorCommand::CopyRead(read) => self.copy_read(&array, read),
            VendorCommand::Synchronise(ask) => synchronise(&array, self.peer, ask),
            VendorCommand::JournalWrite(write) => journal_write(&array, self.peer, write),
        }
    }

    fn forwarding_state(&self, array: &Arc<Array>, list_length: u32) -> Execution {
        let (array, peer) = (array.clone(), self.peer);
        let then = move |received: Received| -> AfterData {
            let bytes = received.into_vec();
            let Ok(said) = serde_json::from_slice::<ForwardingState>(&bytes) else {
                return AfterData::Now(check(Sense::invalid_field_in_parameters(0)));
            };
            AfterData::Later(Box::pin(async move {
                match array.forwarding_state(peer, &said).await {
                    Ok(()) => Completed::Done(Completion::good(bytes.len() as u64)),
                    Err(error) => {
                        tracing::info!(peer, group = said.group, %error, "forwarding refused");
                        check(match error {
                            InflowError::Misnamed(_) => Sense::invalid_field_in_parameters(0),
                            InflowError::NotInStep => Sense::miscompare(0),
                            InflowError::NotNow(_) => Sense::INSUFFICIENT_RESOURCES,
                        })
                    }
                }
            }))
        };
        let room = Reserved::Now(Room::of_bytes(list_length as usize));
        Execution::Receive(Receive { bytes: list_length, room, then: Box::new(then) })
    }

    /// A part of a volume that is forwarded to the peer: of its virtual volume there is nothing there.
    fn forwarded_read(&self, array: &Array, volume: u32, (offset, bytes): (u64, u32)) -> Execution {
        let peer = ArrayNumber(self.peer);
        let is_theirs = array.store.read(|tables| {
            tables.pairs_of_volume(VolumeNumber(volume)).any(|pair| {
                pair.copy == CopyMode::Sync && pair.auxiliary.array == peer && pair.primary.array != peer
            })
        });
        let open = array.runtime().volumes.get(&volume).cloned().filter(|_| is_theirs);
        let Some(open) = open else { return refuse(Sense::invalid_field_in_cdb(GROUP_BYTE)) };
        let ends = offset.checked_add(bytes.into());
        if bytes > MAX_TRANSFER_BYTES || ends.is_none_or(|end| end > open.capacity_bytes()) {
            return refuse(Sense::LBA_OUT_OF_RANGE);
        }
        let answer = move |result: Result<Pieces, IoError>| match result {
            Ok(pieces) => Completed::DataIn(pieces),
            Err(error) => check(error.sense(Lba(0))),
        };
        match open.read(offset, bytes as usize) {
            Writing::Ready(result) => Execution::Now(answer(result.map(|pieces| for_wire(&pieces)))),
            Writing::Later(reading) => {
                Execution::Later(Box::pin(
                    async move { answer(reading.await.map(|pieces| for_wire(&pieces))) },
                ))
            }
        }
    }

    fn forwarded_write(&self, array: &Arc<Array>, write: ForwardedWrite, nexus: &Arc<Nexus>) -> Execution {
        let (pool, count) = (array.pool.clone(), (write.list_length as usize).div_ceil(SLOT_BYTES));
        let (array, peer, nexus) = (array.clone(), self.peer, nexus.clone());
        let then = move |received: Received| -> AfterData {
            let Received::Slots { slots, bytes } = received else {
                return AfterData::Now(check(Sense::INTERNAL_FAILURE));
            };
            let moved = bytes as u64;
            let outcome = match array.forwarded_write(peer, write, (&slots, bytes), &nexus) {
                Ok(outcome) => outcome,
                Err(error) => {
                    tracing::warn!(peer, volume = write.volume, error, "a forwarded write is refused");
                    return AfterData::Now(check(Sense::invalid_field_in_parameters(0)));
                }
            };
            let answer = move |result: Result<(), IoError>| match result {
                Ok(()) => Completed::Done(Completion::good(moved)),
                Err(error) => {
                    tracing::warn!(peer, volume = write.volume, %error, "a forwarded write failed");
                    check(error.sense(Lba(0)))
                }
            };
            match outcome {
                Writing::Ready(result) => AfterData::Now(answer(result)),
                Writing::Later(writing) => AfterData::Later(Box::pin(async move { answer(writing.await) })),
            }
        };
        let room = |slots| Room::Slots { slots, first_offset: 0 };
        // Not of the hosts' class: two arrays that forward to each other must not wait for each other's hosts.
        let room = match pool.try_take(Class::Inbound, count) {
            Some(slots) => Reserved::Now(room(slots)),
            None => Reserved::Later(Box::pin(async move { room(pool.take(Class::Inbound, count).await) })),
        };
        Execution::Receive(Receive { bytes: write.list_length, room, then: Box::new(then) })
    }

    fn link_test(&self, array: &Arc<Array>, test: LinkTest, allocation_length: u32) -> Execution {
        match test {
            LinkTest::Bytes => {
                let bytes = allocation_length.min(MAX_LINK_TEST_BYTES);
                self.traffic.streams.count(u64::from(bytes), 0);
                Execution::Now(Completed::DataIn([Piece::Zero(bytes)].into_iter().collect()))
            }
            LinkTest::Back => {
                let Ok(turn) = self.testing_back.clone().try_acquire_owned() else {
                    return refuse(Sense::INTERNAL_FAILURE);
                };
                let trial = array.clone().try_back(self.peer);
                Execution::Later(Box::pin(async move {
                    let said = serde_json::to_vec(&trial.await).unwrap_or_default();
                    drop(turn);
                    completed(Response::data(said, allocation_length), SenseFormat::Fixed)
                }))
            }
        }
    }

    fn position(&self, array: &Array, group: u32, position: Acknowledgement) -> Execution {
        let Some(group) = group_of(array, group) else {
            return refuse(Sense::invalid_field_in_cdb(GROUP_BYTE));
        };
        match group.report(JournalArray(self.peer), report(position), Carrier::Report) {
            Ok(()) => Execution::Now(Completed::Done(Completion::good(0))),
            Err(error) => {
                tracing::warn!(group = %group.name, peer = self.peer, %error, "a reader's report is not believed");
                refuse(Sense::invalid_field_in_cdb(POSITION_BYTE))
            }
        }
    }

    fn journal_read(&self, array: &Array, read: JournalRead, form: Form) -> Execution {
        let Some(group) = group_of(array, read.group.0) else {
            return refuse(Sense::invalid_field_in_cdb(GROUP_BYTE));
        };
        let reader = JournalArray(self.peer);
        if let Some(position) = read.acknowledgement
            && let Err(error) = group.report(reader, report(position), Carrier::Read)
        {
            tracing::warn!(group = %group.name, peer = self.peer, %error, "a reader's report is not believed");
            return refuse(Sense::invalid_field_in_cdb(POSITION_BYTE));
        }
        let request = Request {
            reader,
            start: read.start.map(|number| UpdateNumber::new(number.0)),
            retry: read.delivery == Delivery::Again,
            updates: read.max_updates,
            bytes: read.allocation_length,
            wait: Duration::from_millis(u64::from(read.wait_limit_ms)).min(WAIT_MAX),
            // What is planted for a test is planted in journals.
            form: if group.tamper.is_some() { Form::Journals } else { form },
        };
        let (bench, traffic) = (array.env.workbench.clone(), self.traffic.clone());
        let (compression, room) = (read.compression, read.allocation_length as usize);
        Execution::Later(Box::pin(async move {
            match group.answer(request).await {
                Ok(answer) => {
                    let answer = match &group.tamper {
                        None => answer,
                        Some(tamper) => tamper.answer(answer),
                    };
                    // What would not fit as it is must not get there by being compressed.
                    let fits = answer.head.len() + answer.pages.len() * SLOT_BYTES <= room;
                    let pieces = match compression.filter(|_| fits) {
                        Some(level) => in_pages(&group, packed(&bench, level, answer).await).await,
                        None => in_pages(&group, (answer.head, Behind::Pages(answer.pages))).await,
                    };
                    traffic.streams.count(pieces.len() as u64, 0);
                    Completed::DataIn(pieces)
                }
                Err(error) => failed(&group, &error),
            }
        }))
    }

    fn copy_read(&self, array: &Array, read: CopyRead) -> Execution {
        let Some(group) = group_of(array, read.group.0) else {
            return refuse(Sense::invalid_field_in_cdb(GROUP_BYTE));
        };
        let ask = CopyAsk {
            reader: JournalArray(self.peer),
            volume: read.volume,
            copy: read.copy,
            copied_to_bytes: read.copied_to_bytes,
            restored: UpdateNumber::new(read.restored.0),
            bytes: read.allocation_length,
            wait: Duration::from_millis(u64::from(read.wait_limit_ms)).min(WAIT_MAX),
        };
        let traffic = self.traffic.clone();
        Execution::Later(Box::pin(async move {
            match group.serve_copy(ask).await {
                Ok(answer) => {
                    let pieces = in_pages(&group, (answer.head, Behind::Pages(answer.pages))).await;
                    traffic.streams.count(pieces.len() as u64, 0);
                    Completed::DataIn(pieces)
                }
                Err(error) => failed(&group, &error),
            }
        }))
    }

    fn designation(&self, id: [u8; 16], list_length: u32, nexus: &Arc<Nexus>) -> Execution {
        let (array, results, nexus) = (self.array.clone(), self.results.clone(), nexus.clone());
        let peer = self.peer;
        let who = Who::Peer { array: ArrayNumber(peer), from: self.from.clone() };
        let then = move |received: Received| -> AfterData {
            let bytes = received.into_vec();
            let moved = bytes.len() as u64;
            let Some(array) = array.upgrade() else { return AfterData::Now(check(Sense::INTERNAL_FAILURE)) };
            AfterData::Later(Box::pin(async move {
                let answer = match serde_json::from_slice::<Question>(&bytes) {
                    Ok(Question::Position(ask)) => serde_json::to_vec(&array.answer_question(&ask)),
                    Ok(Question::Relay(ask)) => serde_json::to_vec(&array.answer_relay(peer, &ask)),
                    Ok(Question::Compare(ask)) => {
                        let (_, from) = who.named();
                        serde_json::to_vec(&array.answer_compare((peer, &from), &ask, &nexus).await)
                    }
                    Err(_) => serde_json::to_vec(&designated(&array, id, &bytes, &who).await),
                };
                let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                while results.len() >= RESULTS_MAX {
                    results.pop_first();
                }
                results.insert(id, answer.unwrap_or_default());
                Completed::Done(Completion::good(moved))
            }))
        };
        let room = Reserved::Now(Room::of_bytes(list_length as usize));
        Execution::Receive(Receive { bytes: list_length, room, then: Box::new(then) })
    }
}

/// What comes of a designation from another array. What has to happen before it is applied happens first.
async fn designated(array: &Arc<Array>, id: [u8; 16], bytes: &[u8], who: &Who) -> Result<Outcome, Refusal> {
    let designation = match serde_json::from_slice::<Designation>(bytes) {
        Ok(designation) if designation.may_come_from_a_peer() => designation,
        Ok(_) => return Err(Refusal::Conflict("only its operator designates this at an array".into())),
        Err(error) => return Err(Refusal::Conflict(format!("not a designation: {error}"))),
    };
    let id = DesignationId(StoredIdentity(u128::from_be_bytes(id)));
    if let Designation::RemoteReverse(told) = &designation {
        let answer = array.answer_reversal(id, told, who).await;
        array.wake();
        return answer;
    }
    if let Designation::JoinOnward(told) = &designation {
        let answer = array.take_on_reader(id, told, who).await;
        if answer.is_ok() {
            array.wake();
        }
        return answer;
    }
    if let Designation::RemoteOnward(told) = &designation {
        let answer = array.go_onward(id, told, who).await;
        if answer.is_ok() {
            array.wake();
        }
        return answer;
    }
    if let (
        Designation::RemoteTakeover(_)
        | Designation::TakeoverGivenUp { .. }
        | Designation::RemoteBranch { .. }
        | Designation::RemoteFailback(_),
        Some(tamper),
    ) = (&designation, &array.env.tamper)
    {
        array.env.clock.sleep(tamper.before_promising()).await;
    }
    array.prepare_for(id, &designation, who).await?;
    let taken = match &designation {
        Designation::RemoteTakeover(told) => Some(told.clone()),
        _ => None,
    };
    let named = match &designation {
        Designation::RemoteFailback(told) => Some(told.clone()),
        _ => None,
    };
    let lost = match &designation {
        Designation::JournalLost { group } => Some(group.clone()),
        _ => None,
    };
    let mut answer = array.designate_by_peer(id, designation, who);
    if let (Some(group), true) = (lost, answer.is_ok()) {
        array.journal_is_lost(&group); // Before it is answered: its sender reads on then.
    }
    if let (Some(told), true) = (taken, answer.is_ok()) {
        array.shut_what_is_taken_over();
        if !told.is_complete {
            answer = Ok(array.shut_for(&told.group, who));
        }
    }
    if let (Some(told), Err(_)) = (named, &answer) {
        array.tell_readers_who_stays(&told, who);
    }
    if answer.is_ok() {
        array.wake(); // A refusal has changed nothing here.
    }
    answer
}

impl Storage for PeerService {
    fn execute(&self, nexus: &Arc<Nexus>, command: ScsiCommand<'_>) -> Execution {
        let lun = Lun::from_bytes(command.lun);
        let mut units = match (self.array.upgrade(), lun == Some(Lun::ZERO)) {
            (Some(array), false) => array.journal_units(self.peer),
            // Only REPORT LUNS at the unit itself is interested in them.
            (Some(array), true) if command.cdb.first() == Some(&REPORT_LUNS) => {
                array.journal_units(self.peer)
            }
            (_, _) => Vec::new(),
        };
        let luns: Vec<Lun> = std::iter::once(Lun::ZERO).chain(units.iter().map(|(lun, _)| *lun)).collect();
        if lun != Some(Lun::ZERO) {
            if let Some(at) = units.iter().position(|(own, _)| Some(*own) == lun) {
                let (_, unit) = units.swap_remove(at);
                return unit.execute(nexus.target.as_str(), &luns, command.cdb);
            }
            return Execution::Now(completed(unmapped_lun(&luns, command.cdb), SenseFormat::Fixed));
        }
        match self.unit.admit(PeerStanding::Registered, command.cdb) {
            PeerAdmission::Done(response) => Execution::Now(completed(response, SenseFormat::Fixed)),
            PeerAdmission::ReportLuns => {
                Execution::Now(completed(report_luns(&luns, command.cdb), SenseFormat::Fixed))
            }
            PeerAdmission::Vendor(vendor) => self.vendor(vendor, nexus),
        }
    }

    fn manage(
        &self,
        _nexus: &Arc<Nexus>,
        _function: Function,
        _lun: WireLun,
    ) -> BoxFuture<'static, FunctionResponse> {
        Box::pin(std::future::ready(FunctionResponse::Complete))
    }

    fn session_ended(&self, _nexus: &Nexus) {}
}

pub(super) fn group_of(array: &Array, number: u32) -> Option<Arc<Group>> {
    array.runtime().groups.get(&number).cloned()
}

fn report(position: Acknowledgement) -> Report {
    Report {
        acknowledged: UpdateNumber::new(position.durable.0),
        restored: UpdateNumber::new(position.restored.0),
        settled: UpdateNumber::new(position.settled.0),
        consistent_from: UpdateNumber::new(position.consistent_from.0),
    }
}

/// The write data of an answer.
enum Behind {
    Pages(Vec<Slot>),
    Packed(Vec<u8>),
}

/// The answer compressed, where that makes it shorter.
async fn packed(bench: &Workbench, level: NonZeroU8, answer: Answer) -> (Vec<u8>, Behind) {
    match pack(bench, level, &answer.head, &answer.pages).await {
        Some(packed) => (packed.head, Behind::Packed(packed.data)),
        None => (answer.head, Behind::Pages(answer.pages)),
    }
}

/// Head and records go into pages of their own; the write data follows by handle.
async fn in_pages(group: &Group, (head, behind): (Vec<u8>, Behind)) -> Pieces {
    let mut slots = group.pool.take(Class::JournalRead, head.len() / SLOT_BYTES).await;
    for (slot, bytes) in slots.iter_mut().zip(head.chunks(SLOT_BYTES)) {
        slot[..bytes.len()].copy_from_slice(bytes);
    }
    let mut pieces = Pieces::new();
    let mut page = |slot| pieces.push(Piece::page(slot));
    slots.into_iter().map(SlotMut::freeze).for_each(&mut page);
    match behind {
        Behind::Pages(pages) => pages.into_iter().for_each(&mut page),
        Behind::Packed(data) => pieces.push(Piece::Bytes(data.into())),
    }
    pieces
}

fn failed(group: &Group, error: &ServeError) -> Completed {
    tracing::warn!(group = %group.name, %error, "a journal read failed");
    check(match error {
        ServeError::Reader(_) => Sense::invalid_field_in_cdb(POSITION_BYTE),
        ServeError::Disk(_) => Sense::INTERNAL_FAILURE,
    })
}

pub(super) fn check(sense: Sense) -> Completed {
    completed(Response::check(sense), SenseFormat::Fixed)
}

pub(super) fn refuse(sense: Sense) -> Execution {
    Execution::Now(check(sense))
}

pub(super) fn reply(bytes: Vec<u8>, allocation_length: u32) -> Execution {
    Execution::Now(completed(Response::data(bytes, allocation_length), SenseFormat::Fixed))
}

/// Its operation code.
const REPORT_LUNS: u8 = 0xa0;
/// Where the group stands in the CDBs that name one.
pub(super) const GROUP_BYTE: u16 = 4;
/// Where the designation's identity stands.
const DESIGNATION_BYTE: u16 = 4;
/// Where the reader's position begins.
const POSITION_BYTE: u16 = 16;
/// Results of designations kept for a session; the peer asks for each right after it has sent it.
const RESULTS_MAX: usize = 64;
/// The longest time a journal read is held.
const WAIT_MAX: Duration = Duration::from_secs(30);
