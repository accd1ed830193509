//! A logical unit in memory behind the target's connections: for the speed check and for tests.
//!
//! It keeps pages as the cache does (slots by handle), so that reads and writes take the way they take in the array.

use bytes::Bytes;
use holdfast::channel::piece::{Piece, Pieces, Received, Room};
use holdfast::channel::storage::{
    AfterData, Completed, Completion, Execution, Nexus, Receive, Reserved, ScsiCommand, Storage, Targets,
};
use holdfast::clock::BoxFuture;
use holdfast::disk::slot::{Class, SLOT_BYTES, Slot, SlotMut, SlotPool};
use holdfast_iscsi::discovery::{Access, Directory, Portal};
use holdfast_iscsi::name::IscsiName;
use holdfast_iscsi::pdu::Lun;
use holdfast_iscsi::pdu::task_mgmt::{Function, FunctionResponse};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

pub const TARGET: &str = "iqn.2026-11.example.holdfast:ram";
pub const BLOCK: usize = 512;
const PER_PAGE: u64 = (SLOT_BYTES / BLOCK) as u64;

/// Decides how a test wants its commands delayed.
pub type Delay = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

pub struct Ram {
    pages: Arc<Mutex<Vec<Option<Slot>>>>,
    pool: SlotPool,
    pub access: Access,
    /// Wait before a room is there.
    pub room_delay: Option<Delay>,
    /// Wait before a command is finished.
    pub delay: Option<Delay>,
    pub ended: AtomicU64,
    /// As behind a portal for peers.
    pub needs_digests: bool,
}

impl Ram {
    pub fn new(bytes: usize) -> Self {
        let pages = bytes / SLOT_BYTES;
        Self {
            pages: Arc::new(Mutex::new(vec![None; pages])),
            pool: SlotPool::new(bytes * 2 + (64 << 20)),
            access: Access::Open,
            room_delay: None,
            delay: None,
            ended: AtomicU64::new(0),
            needs_digests: false,
        }
    }

    fn blocks(&self) -> u64 {
        self.pages.lock().unwrap().len() as u64 * PER_PAGE
    }

    fn read(&self, lba: u64, blocks: u64) -> Pieces {
        let pages = self.pages.lock().unwrap();
        let (mut at, end) = (lba * BLOCK as u64, (lba + blocks) * BLOCK as u64);
        let mut pieces = Pieces::new();
        while at < end {
            let within = at as usize % SLOT_BYTES;
            let part = (SLOT_BYTES - within).min((end - at) as usize);
            pieces.push(match &pages[at as usize / SLOT_BYTES] {
                Some(slot) => Piece::Slot { slot: slot.clone(), at: within as u16, bytes: part as u16 },
                None => Piece::Zero(part as u32),
            });
            at += part as u64;
        }
        pieces
    }

    fn range(&self, command: &ScsiCommand<'_>) -> Result<(u64, u64), Completion> {
        let cdb = command.cdb;
        let (lba, blocks) = match cdb[0] {
            0x28 | 0x2a => (be(&cdb[2..6]), be(&cdb[7..9])),
            _ => (be(&cdb[2..10]), be(&cdb[10..14])),
        };
        match lba.checked_add(blocks).filter(|end| *end <= self.blocks()) {
            Some(_) => Ok((lba, blocks)),
            None => Err(sense(0x05, 0x21)),
        }
    }

    fn write(&self, command: &ScsiCommand<'_>) -> Execution {
        let (lba, blocks) = match self.range(command) {
            Ok(range) => range,
            Err(completion) => return completion.into(),
        };
        let bytes = blocks as usize * BLOCK;
        let first_offset = lba as usize * BLOCK % SLOT_BYTES;
        let (pool, count) = (self.pool.clone(), Room::slots_for(bytes, first_offset));
        let room = match (&self.room_delay, pool.try_take(Class::Host, count)) {
            (None, Some(slots)) => Reserved::Now(Room::Slots { slots, first_offset }),
            (delay, _) => {
                let delay = delay.as_ref().map(|delay| delay());
                Reserved::Later(Box::pin(async move {
                    if let Some(delay) = delay {
                        delay.await;
                    }
                    Room::Slots { slots: pool.take(Class::Host, count).await, first_offset }
                }))
            }
        };
        let (pages, delay, pool) = (self.pages.clone(), self.delay.clone(), self.pool.clone());
        let then = move |received: Received| {
            let Received::Slots { slots, bytes: got } = received else { panic!("slots come back as slots") };
            let place = lba as usize * BLOCK;
            let finish = move || {
                put(&mut pages.lock().unwrap(), &pool, (place, got), slots);
                Completed::Done(Completion::good(bytes as u64))
            };
            match delay {
                None => AfterData::Now(finish()),
                Some(delay) => AfterData::Later(Box::pin(async move {
                    delay().await;
                    finish()
                })),
            }
        };
        Execution::Receive(Receive { bytes: bytes as u32, room, then: Box::new(then) })
    }
}

fn put(pages: &mut [Option<Slot>], pool: &SlotPool, (place, bytes): (usize, usize), slots: Vec<Slot>) {
    let mut at = place;
    let end = place + bytes;
    for slot in slots {
        let (page, within) = (at / SLOT_BYTES, at % SLOT_BYTES);
        let part = (SLOT_BYTES - within).min(end - at);
        if part == SLOT_BYTES {
            pages[page] = Some(slot);
        } else {
            let mut merged: SlotMut = pool.try_take(Class::Journal, 1).unwrap().remove(0);
            match &pages[page] {
                Some(old) => merged.copy_from_slice(&old[..]),
                None => merged.fill(0),
            }
            merged[within..within + part].copy_from_slice(&slot[within..within + part]);
            pages[page] = Some(merged.freeze());
        }
        at += part;
    }
}

fn be(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn sense(key: u8, code: u8) -> Completion {
    let mut sense = vec![0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, code, 0, 0, 0, 0, 0];
    sense.truncate(18);
    Completion::check(sense)
}

fn cut(mut data: Vec<u8>, allocation: u64) -> Execution {
    data.truncate(allocation as usize);
    Completion::data(data).into()
}

impl Storage for Ram {
    fn execute(&self, _: &Arc<Nexus>, command: ScsiCommand<'_>) -> Execution {
        let cdb = command.cdb;
        match cdb[0] {
            0x00 | 0x35 | 0x91 => Completion::good(0).into(),
            0x12 if cdb[1] & 1 == 0 => {
                let mut data = vec![0, 0, 6, 2, 31, 0, 0, 2];
                data.extend_from_slice(b"HOLDFASTRAM             0001");
                cut(data, be(&cdb[3..5]))
            }
            0x12 if cdb[2] == 0 => cut(vec![0, 0, 0, 1, 0], be(&cdb[3..5])),
            0x12 => sense(5, 0x24).into(),
            0x1a => cut(vec![3, 0, 0, 0], be(&cdb[4..5])),
            0x25 => {
                let last = u32::try_from(self.blocks() - 1).unwrap_or(u32::MAX);
                Completion::data([last.to_be_bytes(), (BLOCK as u32).to_be_bytes()].concat()).into()
            }
            0x9e => {
                let mut data = vec![0; 32];
                data[..8].copy_from_slice(&(self.blocks() - 1).to_be_bytes());
                data[8..12].copy_from_slice(&(BLOCK as u32).to_be_bytes());
                cut(data, be(&cdb[10..14]))
            }
            0xa0 => cut(vec![0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], be(&cdb[6..10])),
            0x28 | 0x88 => match self.range(&command) {
                Err(completion) => completion.into(),
                Ok((lba, blocks)) => match &self.delay {
                    None => self.read(lba, blocks).into(),
                    Some(delay) => {
                        let (pieces, delay) = (self.read(lba, blocks), delay());
                        Execution::Later(Box::pin(async move {
                            delay.await;
                            Completed::DataIn(pieces)
                        }))
                    }
                },
            },
            0x2a | 0x8a => self.write(&command),
            // A vendor's own command: gives its long CDB back.
            0xc0 => Pieces::from_iter([Piece::Bytes(Bytes::copy_from_slice(cdb))]).into(),
            _ => sense(5, 0x20).into(),
        }
    }

    fn manage(&self, _: &Arc<Nexus>, _: Function, _: Lun) -> BoxFuture<'static, FunctionResponse> {
        Box::pin(std::future::ready(FunctionResponse::Complete))
    }

    fn session_ended(&self, _: &Nexus) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// The one target there is.
pub struct Only {
    pub ram: Arc<Ram>,
    pub address: String,
}

impl Directory for Only {
    fn authorize(&self, _: &IscsiName, target: Option<&IscsiName>) -> Access {
        match target {
            Some(target) if target.as_str() != TARGET => Access::NotFound,
            _ => self.ram.access.clone(),
        }
    }

    fn targets(&self, _: &IscsiName, out: &mut dyn FnMut(&str, &[Portal<'_>])) {
        out(TARGET, &[Portal { address: &self.address, group_tag: 1 }]);
    }
}

impl Targets for Only {
    fn open(&self, nexus: &Arc<Nexus>) -> Option<Arc<dyn Storage>> {
        (nexus.has_digests || !self.ram.needs_digests).then(|| self.ram.clone() as Arc<dyn Storage>)
    }
}
