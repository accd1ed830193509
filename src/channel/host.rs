//! The built-in host: ordinary SCSI commands over a [`Session`], for the demonstration, tests and simulated runs.
//!
//! Commands of SBC-4 and SPC-4 in their longest forms. A unit attention is taken note of and the command repeated, as
//! every host does; every other status is an error for the caller.

use super::initiator::{Command, Data, Reply, Session, SessionError};
use super::piece::{Pieces, Room};
use bytes::Bytes;
use holdfast_iscsi::pdu::Lun;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A logical unit as a host sees it.
#[derive(Clone, Debug)]
pub struct HostLun {
    session: Session,
    lun: Lun,
    /// Bytes of a logical block.
    pub block_bytes: u32,
    /// Logical blocks.
    pub blocks: u64,
    /// Limit for each command; when it passes the session ends.
    pub timeout: Duration,
    /// Unit attentions that commands here and of its clones have met.
    attentions: Arc<AtomicU64>,
}

/// Why a host's command failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HostError {
    /// The session is gone.
    #[error("{0}")]
    Session(#[from] SessionError),
    /// The logical unit answered with another status than GOOD.
    #[error("status {status:#04x}, sense {sense:02x?}")]
    Status {
        /// SCSI status.
        status: u8,
        /// Sense data.
        sense: Vec<u8>,
    },
    /// The answer makes no sense, or is too short.
    #[error("the answer makes no sense")]
    Answer,
    /// More blocks than one command can carry.
    #[error("too much for one command")]
    TooLong,
}

impl HostError {
    /// The logical unit has too much to do: the command may be sent again later (SAM-5, 5.3.1).
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Status { status: BUSY | TASK_SET_FULL, .. })
    }

    /// Sense key, additional sense code and qualifier, if there is fixed-format or descriptor-format sense data.
    #[must_use]
    pub fn sense(&self) -> Option<(u8, u8, u8)> {
        match self {
            Self::Status { sense, .. } => sense_key(sense),
            Self::Session(_) | Self::Answer | Self::TooLong => None,
        }
    }
}

/// The logical unit number on the wire (SAM-5, 4.7): peripheral addressing below 256, flat addressing above.
#[must_use]
pub fn lun(number: u16) -> Lun {
    let [high, low] = number.to_be_bytes();
    let high = if high == 0 { 0 } else { 0x40 | high };
    [high, low, 0, 0, 0, 0, 0, 0]
}

/// All logical units of the target behind a session.
///
/// # Errors
/// When the session is gone or the target refuses.
pub async fn report_luns(session: &Session, timeout: Duration) -> Result<Vec<Lun>, HostError> {
    let length: u32 = 8 + 8 * 1024;
    let mut cdb = [0; 12];
    cdb[0] = 0xa0;
    cdb[6..10].copy_from_slice(&length.to_be_bytes());
    let answer = read_small(session, ([0; 8], timeout), &cdb, length).await?;
    let (count, list) = answer.split_first_chunk::<4>().ok_or(HostError::Answer)?;
    let bytes = usize::try_from(u32::from_be_bytes(*count)).unwrap_or(usize::MAX);
    let list = list.get(4..).ok_or(HostError::Answer)?;
    Ok(list[..bytes.min(list.len())].as_chunks().0.to_vec())
}

impl HostLun {
    /// Waits until the logical unit is ready and reads its capacity.
    ///
    /// # Errors
    /// When the session is gone or the logical unit is not there.
    pub async fn open(session: Session, lun: Lun, timeout: Duration) -> Result<Self, HostError> {
        let mut unit = Self::described(session, lun, timeout);
        unit.test_unit_ready().await?;
        (unit.blocks, unit.block_bytes) = unit.read_capacity().await?;
        Ok(unit)
    }

    /// The logical unit as it is: it may be that only what describes it is answered. Its capacity is not known here.
    #[must_use]
    pub fn described(session: Session, lun: Lun, timeout: Duration) -> Self {
        Self { session, lun, block_bytes: 0, blocks: 0, timeout, attentions: Arc::default() }
    }

    /// REPORT TARGET PORT GROUPS: its parameter data.
    ///
    /// # Errors
    /// When the logical unit has no asymmetric access.
    pub async fn report_target_port_groups(&self) -> Result<Vec<u8>, HostError> {
        let mut cdb = [0; 12];
        (cdb[0], cdb[1]) = (0xa3, 0x0a);
        cdb[6..10].copy_from_slice(&u32::from(SMALL_BYTES).to_be_bytes());
        self.read_small(&cdb, u32::from(SMALL_BYTES)).await
    }

    /// How many unit attentions were met so far: what was written and is not durable may be lost with the cause of one.
    #[must_use]
    pub fn attentions(&self) -> u64 {
        self.attentions.load(Ordering::Relaxed)
    }

    /// The session.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// TEST UNIT READY.
    ///
    /// # Errors
    /// When it is not.
    pub async fn test_unit_ready(&self) -> Result<(), HostError> {
        self.run(&[0; 6], || Data::None).await.map(drop)
    }

    /// INQUIRY, standard data or a page of vital product data.
    ///
    /// # Errors
    /// When the page does not exist.
    pub async fn inquiry(&self, page: Option<u8>) -> Result<Vec<u8>, HostError> {
        let [high, low] = SMALL_BYTES.to_be_bytes();
        let cdb = [0x12, u8::from(page.is_some()), page.unwrap_or(0), high, low, 0];
        self.read_small(&cdb, u32::from(SMALL_BYTES)).await
    }

    /// READ CAPACITY (16): blocks and bytes of a block.
    ///
    /// # Errors
    /// When the logical unit is not ready.
    pub async fn read_capacity(&self) -> Result<(u64, u32), HostError> {
        let answer = self.read_capacity_16().await?;
        let last = answer.first_chunk().map(|bytes| u64::from_be_bytes(*bytes)).ok_or(HostError::Answer)?;
        let block = answer.get(8..12).and_then(|bytes| bytes.first_chunk()).ok_or(HostError::Answer)?;
        Ok((last.checked_add(1).ok_or(HostError::Answer)?, u32::from_be_bytes(*block)))
    }

    /// The whole answer to READ CAPACITY (16).
    ///
    /// # Errors
    /// When the logical unit is not ready.
    pub async fn read_capacity_16(&self) -> Result<Vec<u8>, HostError> {
        let mut cdb = [0; 16];
        (cdb[0], cdb[1], cdb[13]) = (0x9e, 0x10, 32);
        self.read_small(&cdb, 32).await
    }

    /// READ (16).
    ///
    /// # Errors
    /// When the blocks cannot be read.
    pub async fn read(&self, lba: u64, blocks: u32) -> Result<Vec<u8>, HostError> {
        let bytes = self.bytes(blocks)?;
        let reply = self.run(&long(0x88, 0, lba, blocks), || Data::In(Room::of_bytes(bytes))).await?;
        let data = reply.data.into_vec();
        if data.len() == bytes { Ok(data) } else { Err(HostError::Answer) }
    }

    /// WRITE (16) of whole blocks; with `durability` [`Durability::Forced`] FUA is set.
    ///
    /// # Errors
    /// When the blocks cannot be written.
    pub async fn write(
        &self,
        lba: u64,
        data: impl Into<Bytes>,
        durability: Durability,
    ) -> Result<(), HostError> {
        let data: Bytes = data.into();
        let pieces = Pieces::from_iter([super::piece::Piece::Bytes(data)]);
        self.write_pieces(lba, &pieces, durability).await
    }

    /// The same from pieces.
    ///
    /// # Errors
    /// When the blocks cannot be written.
    pub async fn write_pieces(
        &self,
        lba: u64,
        pieces: &Pieces,
        durability: Durability,
    ) -> Result<(), HostError> {
        let block_bytes = usize::try_from(self.block_bytes).map_err(|_| HostError::TooLong)?;
        if block_bytes == 0 || !pieces.len().is_multiple_of(block_bytes) {
            return Err(HostError::TooLong);
        }
        let blocks = u32::try_from(pieces.len() / block_bytes).map_err(|_| HostError::TooLong)?;
        let flags = if durability == Durability::Forced { 0x08 } else { 0 };
        self.run(&long(0x8a, flags, lba, blocks), || Data::Out(pieces.clone())).await.map(drop)
    }

    /// Whether the logical unit knows FUA: DPOFUA of MODE SENSE (6).
    ///
    /// # Errors
    /// When it does not say.
    pub async fn has_fua(&self) -> Result<bool, HostError> {
        // Without block descriptors, all pages; the header alone is looked at.
        let answer = self.read_small(&[0x1a, 0x08, 0x3f, 0, MODE_BYTES, 0], MODE_BYTES.into()).await?;
        answer.get(2).map(|device| device & 0x10 != 0).ok_or(HostError::Answer)
    }

    /// SYNCHRONIZE CACHE (16) of everything.
    ///
    /// # Errors
    /// When something cannot be made durable.
    pub async fn synchronize_cache(&self) -> Result<(), HostError> {
        self.run(&long(0x91, 0, 0, 0), || Data::None).await.map(drop)
    }

    /// UNMAP of these ranges (first block, blocks).
    ///
    /// # Errors
    /// When the logical unit refuses.
    pub async fn unmap(&self, ranges: &[(u64, u32)]) -> Result<(), HostError> {
        let descriptors = u16::try_from(ranges.len() * 16).map_err(|_| HostError::TooLong)?;
        let total = descriptors.checked_add(8).ok_or(HostError::TooLong)?;
        let mut list = Vec::with_capacity(usize::from(total));
        list.extend_from_slice(&(total - 2).to_be_bytes());
        list.extend_from_slice(&descriptors.to_be_bytes());
        list.extend_from_slice(&[0; 4]);
        for (lba, blocks) in ranges {
            list.extend_from_slice(&lba.to_be_bytes());
            list.extend_from_slice(&blocks.to_be_bytes());
            list.extend_from_slice(&[0; 4]);
        }
        let mut cdb = [0; 10];
        cdb[0] = 0x42;
        cdb[7..9].copy_from_slice(&total.to_be_bytes());
        self.run(&cdb, || Data::Out(list.clone().into())).await.map(drop)
    }

    /// WRITE SAME (16): `block` into each of `blocks` blocks.
    ///
    /// # Errors
    /// When the blocks cannot be written.
    pub async fn write_same(&self, lba: u64, blocks: u32, block: &[u8]) -> Result<(), HostError> {
        self.run(&long(0x93, 0, lba, blocks), || Data::Out(block.to_vec().into())).await.map(drop)
    }

    /// COMPARE AND WRITE of up to 255 blocks; false if what is there differs from `expected`.
    ///
    /// # Errors
    /// When it fails for another reason.
    pub async fn compare_and_write(&self, lba: u64, expected: &[u8], new: &[u8]) -> Result<bool, HostError> {
        let block_bytes = usize::try_from(self.block_bytes.max(1)).map_err(|_| HostError::TooLong)?;
        let blocks = u8::try_from(new.len() / block_bytes).map_err(|_| HostError::TooLong)?;
        let mut cdb = [0; 16];
        cdb[0] = 0x89;
        cdb[2..10].copy_from_slice(&lba.to_be_bytes());
        cdb[13] = blocks;
        let data = [expected, new].concat();
        match self.run(&cdb, || Data::Out(data.clone().into())).await {
            Ok(_) => Ok(true),
            Err(error) if error.sense().is_some_and(|(key, ..)| key == MISCOMPARE) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Any command that takes data, or none, and gives none back.
    ///
    /// # Errors
    /// When the logical unit answers with another status than GOOD.
    pub async fn send(&self, cdb: &[u8], data: impl Into<Bytes>) -> Result<(), HostError> {
        let data: Bytes = data.into();
        let pieces = Pieces::from_iter([super::piece::Piece::Bytes(data)]);
        let none = pieces.is_empty();
        self.run(cdb, || if none { Data::None } else { Data::Out(pieces.clone()) }).await.map(drop)
    }

    fn bytes(&self, blocks: u32) -> Result<usize, HostError> {
        let bytes = blocks.checked_mul(self.block_bytes).ok_or(HostError::TooLong)?;
        usize::try_from(bytes).map_err(|_| HostError::TooLong)
    }

    async fn read_small(&self, cdb: &[u8], length: u32) -> Result<Vec<u8>, HostError> {
        let room = usize::try_from(length).map_err(|_| HostError::TooLong)?;
        Ok(self.run(cdb, || Data::In(Room::of_bytes(room))).await?.data.into_vec())
    }

    async fn run(&self, cdb: &[u8], data: impl Fn() -> Data) -> Result<Reply, HostError> {
        run(&self.session, (self.lun, self.timeout), cdb, data, &self.attentions).await
    }
}

/// What a write promises.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// What the cache promises.
    Cached,
    /// Durable before the answer (FUA).
    Forced,
}

/// A CDB of 16 bytes with a place and a length.
fn long(opcode: u8, flags: u8, lba: u64, blocks: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1]) = (opcode, flags);
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

async fn read_small(
    session: &Session,
    to: (Lun, Duration),
    cdb: &[u8],
    length: u32,
) -> Result<Vec<u8>, HostError> {
    let room = usize::try_from(length).map_err(|_| HostError::TooLong)?;
    let reply = run(session, to, cdb, || Data::In(Room::of_bytes(room)), &AtomicU64::new(0)).await?;
    Ok(reply.data.into_vec())
}

/// Sends a command, again after each unit attention.
async fn run(
    session: &Session,
    (lun, timeout): (Lun, Duration),
    cdb: &[u8],
    data: impl Fn() -> Data,
    met: &AtomicU64,
) -> Result<Reply, HostError> {
    let mut attentions = 0;
    loop {
        let reply = session.command(Command { lun, cdb, data: data() }, timeout).await?;
        if reply.status == 0 {
            return Ok(reply);
        }
        let is_attention = sense_key(&reply.sense).is_some_and(|(key, ..)| key == UNIT_ATTENTION);
        attentions += 1;
        met.fetch_add(u64::from(is_attention), Ordering::Relaxed);
        if !is_attention || attentions > ATTENTIONS_MAX {
            return Err(HostError::Status { status: reply.status, sense: reply.sense });
        }
    }
}

/// Sense key, code and qualifier of fixed (70h, 71h) and descriptor format (72h, 73h).
fn sense_key(sense: &[u8]) -> Option<(u8, u8, u8)> {
    match sense.first()? & 0x7f {
        0x70 | 0x71 => Some((sense.get(2)? & 0x0f, *sense.get(12)?, *sense.get(13)?)),
        0x72 | 0x73 => Some((sense.get(1)? & 0x0f, *sense.get(2)?, *sense.get(3)?)),
        _ => None,
    }
}

const BUSY: u8 = 0x08;
const TASK_SET_FULL: u8 = 0x28;
const UNIT_ATTENTION: u8 = 6;
const MISCOMPARE: u8 = 0x0e;
/// Unit attentions that one command may meet; a logical unit with more of them is broken.
const ATTENTIONS_MAX: u32 = 8;
/// Room for mode pages.
const MODE_BYTES: u8 = 255;
/// Room for inquiry data.
const SMALL_BYTES: u16 = 1024;
