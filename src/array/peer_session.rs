//! A session with another array's peer target, as the copy needs it: vendor commands out, answers in cache pages.

use crate::channel::initiator::{Command, Connector, Data, Reply, Session, SessionError, SessionOptions};
use crate::channel::piece::{Piece, Pieces, Received, Room};
use crate::copy::answer::reason;
use crate::copy::change::{pages_touched, within_page};
use crate::copy::forward::ForwardError;
use crate::copy::inherited::Others;
use crate::copy::link_key::{Proof, link_key};
use crate::copy::serve::Answer;
use crate::copy::source::{Ask, PieceAsk, SourceError, Wanted};
use crate::copy::synchronous::{Asked, Told};
use crate::disk::slot::{Class, SLOT_BYTES, Slot, SlotMut, SlotPool};
use crate::shell::view::BackTestView;
use crate::volume::kind::PortalAddress;
use crate::volume::record::LinkRecord;
use holdfast_iscsi::chap::{Credentials, Identity, Secret};
use holdfast_iscsi::initiator::{DigestWish, Error};
use holdfast_journal::UpdateNumber;
use holdfast_journal::reader::Report;
use holdfast_scsi::{
    Acknowledgement, BlockRange, CopyRead, Delivery, DesignationId, Forced, ForwardedWrite, GroupNumber,
    HostCdb, JournalRead, JournalWrite, Lba, LinkTest, Lun, Sense, Synchronise, UpdateNumber as WireNumber,
    VendorCommand,
};
use serde::{Deserialize, Serialize};
use std::num::NonZeroU8;
use std::time::Duration;

/// What an array says of itself (PEER INFORMATION), as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerInformation {
    /// Version of the protocol between arrays.
    pub protocol: u32,
    /// Its number.
    pub array_number: u32,
    /// Its name.
    pub array_name: String,
    /// Its identity.
    pub array_identity: String,
}

/// An open session with a peer whose number has been checked.
#[derive(Clone, Debug)]
pub(crate) struct PeerSession {
    session: Session,
    pool: SlotPool,
}

/// Name of an array as initiator and as peer target.
#[must_use]
pub fn peer_name(array_name: &str) -> String {
    format!("iqn.2026-11.io.holdfast:{array_name}.peer")
}

/// What to look at when the array behind a link does not let us in; empty where the error says it all.
fn hint(error: &SessionError, link: &LinkRecord) -> String {
    match error {
        SessionError::Protocol(Error::LoginRefused(_)) => format!(
            " (a link is called like the array behind it: is its name {}, has it a link to us, with the same secret?)",
            link.name
        ),
        SessionError::Protocol(Error::Authentication(_)) => {
            " (is the secret of the link the same on both sides?)".into()
        }
        _ => String::new(),
    }
}

impl PeerSession {
    /// Logs in to the array behind `link` at one of its portals, each proving itself to the other. The first to be tried
    /// is that of `lane`, in turn.
    pub(crate) async fn open(
        connector: &Connector,
        own: (u32, &str),
        link: &LinkRecord,
        pool: &SlotPool,
        lane: usize,
    ) -> Result<Self, SourceError> {
        let mut last = SourceError("the link has no portal".into());
        let turn = lane % link.portals.len().max(1);
        for portal in link.portals.iter().cycle().skip(turn).take(link.portals.len()) {
            match Self::log_in(connector, own, link, pool, portal).await {
                Ok(peer) => {
                    peer.check_number(link.array.0).await?;
                    return Ok(peer);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The same at one portal.
    pub(crate) async fn open_at(
        connector: &Connector,
        own: (u32, &str),
        link: &LinkRecord,
        pool: &SlotPool,
        portal: &PortalAddress,
    ) -> Result<Self, SourceError> {
        let peer = Self::log_in(connector, own, link, pool, portal).await?;
        peer.check_number(link.array.0).await?;
        Ok(peer)
    }

    async fn log_in(
        connector: &Connector,
        own: (u32, &str),
        link: &LinkRecord,
        pool: &SlotPool,
        portal: &PortalAddress,
    ) -> Result<Self, SourceError> {
        let options = SessionOptions {
            credentials: Some(credentials(own, link)?),
            digests: DigestWish::Required,
            login_timeout: LOGIN_LIMIT,
            ping: PING,
            ..SessionOptions::default()
        };
        let session = connector.session(&portal.to_string(), &peer_name(link.name.as_str()), &options).await;
        session
            .map(|session| Self { session, pool: pool.clone() })
            .map_err(|error| SourceError(format!("{portal}: {error}{}", hint(&error, link))))
    }

    /// LINK TEST: so many zero bytes come, or fewer; how many.
    pub(crate) async fn test_bytes(&self, bytes: u32) -> Result<usize, SourceError> {
        let command = VendorCommand::LinkTest { test: LinkTest::Bytes, allocation_length: bytes };
        Ok(self.control(command).await?.len())
    }

    /// LINK TEST: the other array logs in here, and says what came of it.
    pub(crate) async fn test_back(&self) -> Result<BackTestView, SourceError> {
        let command = VendorCommand::LinkTest { test: LinkTest::Back, allocation_length: CONTROL_BYTES };
        let answer = self.control(command).await?;
        let said = serde_json::from_slice::<BackTestView>(&answer)
            .map_err(|error| SourceError(format!("link test: {error}")))?;
        let shown = |text: String| reason(text.as_bytes());
        Ok(BackTestView { reason: said.reason.map(shown), ..said })
    }

    async fn check_number(&self, expected: u32) -> Result<(), SourceError> {
        let answer =
            self.control(VendorCommand::PeerInformation { allocation_length: CONTROL_BYTES }).await?;
        let said: PeerInformation = serde_json::from_slice(&answer)
            .map_err(|error| SourceError(format!("peer information: {error}")))?;
        if said.protocol != PROTOCOL_VERSION {
            return Err(SourceError(format!(
                "the peer speaks protocol {}, not {PROTOCOL_VERSION}",
                said.protocol
            )));
        }
        if said.array_number != expected {
            let what =
                format!("the array there has number {}, not {expected}: correct the link", said.array_number);
            return Err(SourceError(what));
        }
        Ok(())
    }

    /// Sends a designation and gets what came of it, as JSON.
    pub(crate) async fn designate(&self, id: [u8; 16], designation: &[u8]) -> Result<Vec<u8>, SourceError> {
        let list_length =
            u32::try_from(designation.len()).map_err(|_| SourceError("designation too long".into()))?;
        let command = VendorCommand::Designation { id: DesignationId(id), list_length };
        self.command(command, Data::Out(Pieces::from(designation.to_vec())), LIMIT).await?;
        self.control(VendorCommand::DesignationResult {
            id: DesignationId(id),
            allocation_length: CONTROL_BYTES,
        })
        .await
    }

    /// JOURNAL INFORMATION: the head of a journal read answer that has nothing in it.
    pub(crate) async fn journal_information(&self, group: u32) -> Result<Vec<u8>, SourceError> {
        let group = GroupNumber(group);
        self.control(VendorCommand::JournalInformation { group, allocation_length: CONTROL_BYTES }).await
    }

    /// FORWARDING STATE: what it says is durable there when this returns.
    pub(crate) async fn forwarding_state(&self, list: Vec<u8>) -> Result<(), ForwardError> {
        let list_length = u32::try_from(list.len()).unwrap_or(u32::MAX);
        self.forward(VendorCommand::ForwardingState { list_length }, Pieces::from(list)).await
    }

    /// FORWARDED WRITE: it is durable there when this returns.
    pub(crate) async fn forwarded_write(
        &self,
        write: ForwardedWrite,
        list: Pieces,
    ) -> Result<(), ForwardError> {
        self.forward(VendorCommand::ForwardedWrite(write), list).await
    }

    /// FORWARDED READ: bytes of a volume there, in pages, the first at its place in its page.
    pub(crate) async fn forwarded_read(
        &self,
        volume: u32,
        offset_bytes: u64,
        length: u32,
    ) -> Result<Vec<Slot>, SourceError> {
        let first_offset = usize::from(within_page(offset_bytes));
        let slots = self.pool.take(Class::JournalRead, pages_touched(offset_bytes, length.into())).await;
        let room = Room::Slots { slots, first_offset };
        let command = VendorCommand::ForwardedRead { volume, offset_bytes, allocation_length: length };
        let reply = self.command(command, Data::In(room), LIMIT).await?;
        match reply.data {
            Received::Slots { slots, bytes } if bytes == length as usize => Ok(slots),
            Received::Slots { .. } | Received::Bytes(_) => Err(SourceError("the answer is cut short".into())),
        }
    }

    async fn forward(&self, command: VendorCommand, list: Pieces) -> Result<(), ForwardError> {
        let cdb = command.to_cdb();
        let command = Command { lun: [0; 8], cdb: cdb.as_bytes(), data: Data::Out(list) };
        let reply = self.session.command(command, FORWARD_LIMIT).await;
        let reply = reply.map_err(|error| ForwardError::Lost(error.to_string()))?;
        if reply.status == 0 {
            return Ok(());
        }
        let sense = Sense::from_bytes(&reply.sense);
        let text = format!("status {:02X}h, {sense:?}", reply.status);
        if sense == Some(Sense::miscompare(0)) {
            return Err(ForwardError::NotInStep);
        }
        if sense == Some(Sense::INSUFFICIENT_RESOURCES) {
            return Err(ForwardError::Again(text));
        }
        // It is meant to come again: the session that carried it is ending, say.
        let comes_again = sense.is_none_or(|sense| sense == Sense::NEXUS_TIMEOUT);
        Err(if comes_again { ForwardError::Lost(text) } else { ForwardError::Refused(text) })
    }

    /// Whether the session is gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.session.is_closed()
    }

    /// Waits until the session is gone.
    pub(crate) async fn closed(&self) {
        self.session.closed().await;
    }

    async fn control(&self, command: VendorCommand) -> Result<Vec<u8>, SourceError> {
        let room = Room::of_bytes(command.allocation_length() as usize);
        Ok(self.command(command, Data::In(room), LIMIT).await?.data.into_vec())
    }

    async fn command(
        &self,
        command: VendorCommand,
        data: Data,
        limit: Duration,
    ) -> Result<Reply, SourceError> {
        let cdb = command.to_cdb();
        self.ended(Command { lun: [0; 8], cdb: cdb.as_bytes(), data }, limit).await
    }

    /// A command that has to end well.
    async fn ended(&self, command: Command<'_>, limit: Duration) -> Result<Reply, SourceError> {
        let reply =
            self.session.command(command, limit).await.map_err(|error| SourceError(error.to_string()))?;
        if reply.status == 0 {
            return Ok(reply);
        }
        let sense = Sense::from_bytes(&reply.sense);
        Err(SourceError(format!("the peer refused the command: status {:02X}h, {sense:?}", reply.status)))
    }

    /// JOURNAL READ: the pages of the answer, and how many bytes came; compressed at this level, if it shrinks.
    pub(crate) async fn journal_read(
        &self,
        group: u32,
        ask: Ask,
        compression: Option<NonZeroU8>,
    ) -> Result<(Vec<Slot>, usize), SourceError> {
        let read = JournalRead { compression, ..journal_read(group, ask) };
        self.pages(VendorCommand::JournalRead(read), ask).await
    }

    /// JOURNAL TABLES: the same for the tables.
    pub(crate) async fn journal_tables(
        &self,
        group: u32,
        ask: Ask,
    ) -> Result<(Vec<Slot>, usize), SourceError> {
        self.pages(VendorCommand::JournalTables(journal_read(group, ask)), ask).await
    }

    /// READ of a journal volume: as many pages as there is room for, from a byte offset on.
    pub(crate) async fn read_pages(
        &self,
        lun: u16,
        offset_bytes: u64,
        slots: Vec<SlotMut>,
    ) -> Result<Vec<Slot>, SourceError> {
        let count = slots.len();
        match self.read(lun, offset_bytes, Room::Slots { slots, first_offset: 0 }).await? {
            Received::Slots { slots, bytes } if bytes == count * SLOT_BYTES => Ok(slots),
            Received::Slots { .. } | Received::Bytes(_) => Err(SourceError("READ brought too little".into())),
        }
    }

    /// The same with bytes, whole pages of them.
    pub(crate) async fn read_bytes(
        &self,
        lun: u16,
        offset_bytes: u64,
        length: usize,
    ) -> Result<Vec<u8>, SourceError> {
        match self.read(lun, offset_bytes, Room::of_bytes(length)).await? {
            Received::Bytes(bytes) if bytes.len() == length => Ok(bytes),
            Received::Slots { .. } | Received::Bytes(_) => Err(SourceError("READ brought too little".into())),
        }
    }

    async fn read(&self, lun: u16, offset_bytes: u64, room: Room) -> Result<Received, SourceError> {
        let page = SLOT_BYTES as u64;
        let start = Lba(offset_bytes / page);
        let range = BlockRange { start, blocks: room.capacity() as u64 / page };
        let cdb = HostCdb::read(range, Forced::No).ok_or_else(|| SourceError("READ is too long".into()))?;
        let lun = Lun::new(lun).ok_or_else(|| SourceError(format!("{lun} is no LUN")))?;
        let command = Command { lun: lun.to_bytes(), cdb: cdb.as_bytes(), data: Data::In(room) };
        Ok(self.ended(command, LIMIT).await?.data)
    }

    /// A command whose answer comes in pages: these, and how many bytes came.
    async fn pages(&self, command: VendorCommand, ask: Ask) -> Result<(Vec<Slot>, usize), SourceError> {
        let slots = self.pool.take(Class::Inbound, ask.room_bytes as usize / SLOT_BYTES).await;
        let room = Room::Slots { slots, first_offset: 0 };
        let reply = self.command(command, Data::In(room), ask.wait + LIMIT).await?;
        match reply.data {
            Received::Slots { slots, bytes } => Ok((slots, bytes)),
            Received::Bytes(_) => Err(SourceError("the answer is not in pages".into())),
        }
    }

    /// COPY READ: the pages of the answer.
    pub(crate) async fn copy_read(&self, group: u32, ask: PieceAsk) -> Result<Vec<Slot>, SourceError> {
        let slots = self.pool.take(Class::Inbound, ask.room_bytes as usize / SLOT_BYTES).await;
        let read = CopyRead {
            group: GroupNumber(group),
            volume: ask.volume,
            copy: ask.copy,
            copied_to_bytes: ask.copied_to_bytes,
            restored: WireNumber(ask.restored.get()),
            allocation_length: ask.room_bytes,
            wait_limit_ms: u32::try_from(ask.wait.as_millis()).unwrap_or(u32::MAX),
        };
        let room = Room::Slots { slots, first_offset: 0 };
        let reply = self.command(VendorCommand::CopyRead(read), Data::In(room), ask.wait + LIMIT).await?;
        match reply.data {
            Received::Slots { slots, .. } => Ok(slots),
            Received::Bytes(_) => Err(SourceError("the answer is not in pages".into())),
        }
    }

    /// SYNCHRONISE: how the synchronous copy here stands.
    pub(crate) async fn synchronise(&self, group: u32, asked: Asked) -> Result<Told, SourceError> {
        let ask = Synchronise {
            group: GroupNumber(group),
            channel: asked.channel,
            in_use: asked.in_use,
            holds_lease: asked.holds_lease,
            heard: asked.heard,
            allocation_length: TOLD_BYTES,
        };
        let answer = self.control(VendorCommand::Synchronise(ask)).await?;
        decode_told(&answer).ok_or_else(|| SourceError("the answer to SYNCHRONISE is cut short".into()))
    }

    /// JOURNAL WRITE: what is sent is durable there, with everything before it, when this returns.
    pub(crate) async fn journal_write(
        &self,
        group: u32,
        channel: u64,
        answer: Answer,
    ) -> Result<(), SourceError> {
        let mut list = Pieces::from(answer.head);
        answer.pages.into_iter().for_each(|page| list.push(Piece::page(page)));
        let list_length = u32::try_from(list.len()).unwrap_or(u32::MAX);
        let write = JournalWrite { group: GroupNumber(group), channel, list_length };
        self.command(VendorCommand::JournalWrite(write), Data::Out(list), LIMIT).await.map(|_| ())
    }

    /// REPORT POSITION.
    pub(crate) async fn report_position(&self, group: u32, report: Report) -> Result<(), SourceError> {
        let position = acknowledgement(report);
        let command = VendorCommand::ReportPosition { group: GroupNumber(group), position };
        self.command(command, Data::None, LIMIT).await.map(|_| ())
    }
}

/// How this array proves itself at the other one, and what it wants proved in turn.
fn credentials(own: (u32, &str), link: &LinkRecord) -> Result<Credentials, SourceError> {
    let (from, to, secret) = (own.0, link.array.0, link.secret.expose());
    let identity = |name: String, proof| {
        let key = link_key(secret, from, to, proof);
        Secret::new(key.as_bytes()).map(|secret| Identity { name, secret })
    };
    let ours = identity(peer_name(own.1), Proof::Initiator);
    let theirs = identity(peer_name(link.name.as_str()), Proof::Target);
    ours.and_then(|ours| Credentials::new(ours, Some(theirs?)))
        .map_err(|error| SourceError(format!("link {}: {error:?}", link.name)))
}

/// JOURNAL READ as it asks, without compression.
fn journal_read(group: u32, ask: Ask) -> JournalRead {
    let (start, delivery) = match ask.what {
        Wanted::Next => (None, Delivery::First),
        Wanted::From(number) => (Some(number), Delivery::First),
        Wanted::Retry => (None, Delivery::Again),
        Wanted::Again { first, .. } => (Some(first), Delivery::Again),
    };
    JournalRead {
        group: GroupNumber(group),
        start: start.map(|number| WireNumber(number.get())),
        delivery,
        acknowledgement: Some(acknowledgement(ask.position)),
        compression: None,
        max_updates: ask.updates,
        allocation_length: ask.room_bytes,
        wait_limit_ms: u32::try_from(ask.wait.as_millis()).unwrap_or(u32::MAX),
    }
}

fn acknowledgement(report: Report) -> Acknowledgement {
    Acknowledgement {
        durable: WireNumber(report.acknowledged.get()),
        restored: WireNumber(report.restored.get()),
        settled: WireNumber(report.settled.get()),
        consistent_from: WireNumber(report.consistent_from.get()),
    }
}

/// The answer to SYNCHRONISE: channel 8, lease 4 and time between two questions 4, both in microseconds, what others have settled 8, its
/// number 4, what their S-VOLs reach 8.
pub(crate) fn encode_told(told: Told) -> Vec<u8> {
    let microseconds = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
    let mut bytes = told.channel.to_be_bytes().to_vec();
    bytes.extend_from_slice(&microseconds(told.lease).to_be_bytes());
    bytes.extend_from_slice(&microseconds(told.every).to_be_bytes());
    let others = told.others_have.map_or([u64::MAX; 2], |one| [one.settled.get(), one.reaches.get()]);
    bytes.extend_from_slice(&others[0].to_be_bytes());
    bytes.extend_from_slice(&told.number.to_be_bytes());
    bytes.extend_from_slice(&others[1].to_be_bytes());
    bytes
}

fn decode_told(bytes: &[u8]) -> Option<Told> {
    let (channel, rest) = bytes.split_first_chunk::<8>()?;
    let (lease, rest) = rest.split_first_chunk::<4>()?;
    let (every, rest) = rest.split_first_chunk::<4>()?;
    let (settled, rest) = rest.split_first_chunk::<8>()?;
    let (number, rest) = rest.split_first_chunk::<4>()?;
    let settled = UpdateNumber::new(u64::from_be_bytes(*settled));
    let reaches = UpdateNumber::new(u64::from_be_bytes(*rest.first_chunk::<8>()?)).min(settled);
    let time = |bytes: [u8; 4]| Duration::from_micros(u64::from(u32::from_be_bytes(bytes)));
    Some(Told {
        channel: u64::from_be_bytes(*channel),
        lease: time(*lease),
        every: time(*every),
        others_have: (settled.get() != u64::MAX).then_some(Others { settled, reaches }),
        number: u32::from_be_bytes(*number),
    })
}

/// Bytes of the answer to SYNCHRONISE.
const TOLD_BYTES: u32 = 36;
/// Version of what `docs/protocol.md` describes.
pub(crate) const PROTOCOL_VERSION: u32 = 9;
/// Room for the answer of a control command.
const CONTROL_BYTES: u32 = 64 << 10;
/// Limit for a command that does not wait on purpose; then the session is given up.
const LIMIT: Duration = Duration::from_secs(20);
/// Limit for a forwarded write: it may wait for room in the journal there.
const FORWARD_LIMIT: Duration = Duration::from_secs(60);
/// Limit for connecting and login, each.
const LOGIN_LIMIT: Duration = Duration::from_secs(5);
/// Silence after which the peer is pinged, and limit for its answer: a half-open link is found within ten seconds.
const PING: Duration = Duration::from_secs(4);
