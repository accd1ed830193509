//! The checked writer's path over a real socket: SCSI commands, reconnecting, unit attentions.

use super::session::{Digests, Session, SessionOptions, Transfer};
use crate::support::wof::{Durability, HostError, HostPort, Place, SECTOR_BYTES};
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::Mutex;

/// Where the volumes of the workload are.
#[derive(Clone, Debug)]
pub(crate) struct PortOptions {
    /// How to log in.
    pub(crate) session: SessionOptions,
    /// LUN of each volume of the workload.
    pub(crate) luns: Vec<u16>,
    /// Logical block size of the volumes.
    pub(crate) block_bytes: u32,
}

impl PortOptions {
    /// Volumes of 512-byte blocks at LUN 1 and up.
    pub(crate) fn new(portal: &str, target: &str, qualifier: u16, volumes: u16) -> Self {
        let session = SessionOptions {
            portal: portal.to_owned(),
            target: target.to_owned(),
            initiator: "iqn.2026-11.io.holdfast:checked-writer".to_owned(),
            qualifier,
            digests: if qualifier.is_multiple_of(2) { Digests::None } else { Digests::Crc32c },
        };
        Self { session, luns: (1..=volumes).collect(), block_bytes: 512 }
    }
}

/// A path that logs in when it is needed, and again when its session has ended.
#[derive(Debug)]
pub(crate) struct IscsiPort {
    options: PortOptions,
    session: Mutex<Option<Arc<Session>>>,
}

impl IscsiPort {
    /// A path that is not connected yet.
    pub(crate) fn new(options: PortOptions) -> Self {
        Self { options, session: Mutex::new(None) }
    }

    /// Sends a CDB; unit attentions are taken note of and the command is sent again.
    pub(crate) async fn command(
        &self,
        lun: u16,
        cdb: [u8; 16],
        transfer: Transfer,
    ) -> Result<Vec<u8>, HostError> {
        let mut attentions = 0;
        loop {
            let session = self.session().await?;
            match session.command(lun, cdb, transfer.clone()).await {
                Err(HostError::Refused { key: UNIT_ATTENTION, .. }) if attentions < MOST_ATTENTIONS => {
                    attentions += 1
                }
                result => return result,
            }
        }
    }

    /// Number of blocks and block size of a LUN, by READ CAPACITY (16).
    pub(crate) async fn capacity(&self, lun: u16) -> Result<(u64, u32), HostError> {
        let mut cdb = [0; 16];
        cdb[0] = 0x9e;
        cdb[1] = 0x10;
        cdb[13] = 32;
        let data = self.command(lun, cdb, Transfer::In(32)).await?;
        let last = u64::from_be_bytes(data.get(..8).ok_or_else(short)?.try_into().expect("eight bytes"));
        let block = u32::from_be_bytes(data.get(8..12).ok_or_else(short)?.try_into().expect("four bytes"));
        Ok((last + 1, block))
    }

    /// Ends the session without a word.
    pub(crate) async fn drop_session(&self) {
        *self.session.lock().await = None;
    }

    async fn session(&self) -> Result<Arc<Session>, HostError> {
        let mut slot = self.session.lock().await;
        if let Some(session) = slot.as_ref().filter(|session| !session.is_dead()) {
            return Ok(Arc::clone(session));
        }
        *slot = None;
        let session = Arc::new(Session::login(&self.options.session).await?);
        *slot = Some(Arc::clone(&session));
        Ok(session)
    }

    fn lun(&self, volume: u32) -> u16 {
        self.options.luns[usize::try_from(volume).expect("volumes are few")]
    }

    /// A 16-byte READ or WRITE of `place`.
    fn cdb(&self, opcode: u8, flags: u8, place: Place) -> [u8; 16] {
        let (lba, blocks) = self.blocks(place);
        let mut cdb = [0; 16];
        cdb[0] = opcode;
        cdb[1] = flags;
        cdb[2..10].copy_from_slice(&lba.to_be_bytes());
        cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
        cdb
    }

    fn blocks(&self, place: Place) -> (u64, u32) {
        let sectors_per_block = self.options.block_bytes / u32::try_from(SECTOR_BYTES).expect("512");
        (place.lba / u64::from(sectors_per_block), place.sectors / sectors_per_block)
    }
}

impl HostPort for IscsiPort {
    async fn write(&self, place: Place, data: Bytes, durability: Durability) -> Result<(), HostError> {
        let flags = if durability == Durability::Fua { FORCE_UNIT_ACCESS } else { 0 };
        let cdb = self.cdb(WRITE_16, flags, place);
        self.command(self.lun(place.volume), cdb, Transfer::Out(data)).await.map(drop)
    }

    async fn unmap(&self, place: Place) -> Result<(), HostError> {
        let (lba, blocks) = self.blocks(place);
        let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
        list.extend_from_slice(&lba.to_be_bytes());
        list.extend_from_slice(&blocks.to_be_bytes());
        list.extend_from_slice(&[0; 4]);
        let mut cdb = [0; 16];
        cdb[0] = UNMAP;
        cdb[8] = u8::try_from(list.len()).expect("24 bytes");
        self.command(self.lun(place.volume), cdb, Transfer::Out(list.into())).await.map(drop)
    }

    async fn sync(&self, volume: u32) -> Result<(), HostError> {
        let mut cdb = [0; 16];
        cdb[0] = SYNCHRONIZE_CACHE_16;
        self.command(self.lun(volume), cdb, Transfer::None).await.map(drop)
    }

    async fn read(&self, place: Place) -> Result<Bytes, HostError> {
        let cdb = self.cdb(READ_16, 0, place);
        let length = u32::try_from(place.bytes()).expect("a command is short");
        self.command(self.lun(place.volume), cdb, Transfer::In(length)).await.map(Bytes::from)
    }
}

fn short() -> HostError {
    HostError::Unknown("a short answer".into())
}

const READ_16: u8 = 0x88;
const WRITE_16: u8 = 0x8a;
const UNMAP: u8 = 0x42;
const SYNCHRONIZE_CACHE_16: u8 = 0x91;
const FORCE_UNIT_ACCESS: u8 = 0x08;
const UNIT_ATTENTION: u8 = 0x06;
/// Power on, capacity changed, mode changed, reservations: a session never has more waiting than that.
const MOST_ATTENTIONS: u32 = 16;
