//! The stamp that fills every sector the checked writer writes.
//!
//! ```text
//!   0 magic 8 | 8 run id 8 | 16 write id 8 | 24 volume 4 | 28 index 2 | 30 count 2
//!  32 LBA 8 | 40 issue tick 8 | 48 floor 8 (every id up to it was acknowledged at issue)
//!  56 previous chain id 8 | 64 last acknowledged id of each volume, 8 x 8
//! 128 pseudo-random from (run, id, LBA) | 508 CRC-32C over 0..508
//! ```
//!
//! All little-endian. One sector alone shows bit rot and tearing (CRC), misdirection (volume, LBA, index) and data of
//! another run.

use super::super::random::mix;
use super::plan::{Command, WriteId};
use super::{Log, Place};

/// The unit of stamps.
pub(crate) const SECTOR_BYTES: usize = 512;

/// What was known when a command was issued; kept so that a retry sends the same bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct StampContext {
    /// Its issue tick.
    pub(crate) issued: u64,
    /// Every id up to it was acknowledged.
    pub(crate) floor: u64,
    /// The chain command before it.
    pub(crate) previous_chain: u64,
    /// Newest acknowledged id of the first eight volumes.
    pub(crate) last_acked: [u64; 8],
}

/// The bytes that `command` writes.
pub(crate) fn command_bytes(run: u64, command: &Command, context: &StampContext) -> Vec<u8> {
    let mut bytes = vec![0; command.place.bytes()];
    for (index, sector) in bytes.chunks_exact_mut(SECTOR_BYTES).enumerate() {
        fill_sector(run, command, context, index, sector);
    }
    bytes
}

fn fill_sector(run: u64, command: &Command, context: &StampContext, index: usize, sector: &mut [u8]) {
    let Place { volume, lba, sectors } = command.place;
    let lba = lba + u64::try_from(index).expect("an index fits");
    let index = u16::try_from(index).expect("commands have at most 2048 sectors");
    let count = u16::try_from(sectors).expect("commands have at most 2048 sectors");
    put(sector, 0, &MAGIC);
    put(sector, 8, &run.to_le_bytes());
    put(sector, 16, &command.id.0.to_le_bytes());
    put(sector, 24, &volume.to_le_bytes());
    put(sector, 28, &index.to_le_bytes());
    put(sector, 30, &count.to_le_bytes());
    put(sector, 32, &lba.to_le_bytes());
    put(sector, 40, &context.issued.to_le_bytes());
    put(sector, 48, &context.floor.to_le_bytes());
    put(sector, 56, &context.previous_chain.to_le_bytes());
    for (slot, id) in context.last_acked.iter().enumerate() {
        put(sector, 64 + 8 * slot, &id.to_le_bytes());
    }
    fill_noise(run, command.id, lba, &mut sector[NOISE_START..CRC_START]);
    let crc = crc32c(&sector[..CRC_START]);
    put(sector, CRC_START, &crc.to_le_bytes());
}

/// Which command wrote this sector of `volume`, or why it cannot be one of ours.
pub(crate) fn identify(log: &Log, volume: u32, lba: u64, sector: &[u8]) -> Result<WriteId, &'static str> {
    if sector[..8] != MAGIC {
        return Err("no stamp");
    }
    if crc32c(&sector[..CRC_START]).to_le_bytes() != sector[CRC_START..] {
        return Err("checksum wrong: rotten or torn inside the sector");
    }
    if word(sector, 8) != log.run() {
        return Err("data of another run");
    }
    if sector[24..28] != volume.to_le_bytes() || word(sector, 32) != lba {
        return Err("belongs to another place");
    }
    let id = WriteId(word(sector, 16));
    let Some(entry) = log.entry(id) else { return Err("a write that was never issued") };
    if !entry.command.place.contains(volume, lba) {
        return Err("a write that does not cover this place");
    }
    let mut noise = [0; CRC_START - NOISE_START];
    fill_noise(log.run(), id, lba, &mut noise);
    if sector[NOISE_START..CRC_START] != noise {
        Err("content altered under a valid checksum")
    } else {
        Ok(id)
    }
}

fn fill_noise(run: u64, id: WriteId, lba: u64, into: &mut [u8]) {
    let mut noise = super::super::random::Random::new(mix(run, id.0, lba));
    noise.fill(into);
}

fn crc32c(bytes: &[u8]) -> u32 {
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes);
    u32::try_from(crc).expect("a 32-bit checksum")
}

fn word(sector: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(sector[at..at + 8].try_into().expect("eight bytes"))
}

fn put(sector: &mut [u8], at: usize, bytes: &[u8]) {
    sector[at..at + bytes.len()].copy_from_slice(bytes);
}

const MAGIC: [u8; 8] = *b"HFstamp1";
const NOISE_START: usize = 128;
const CRC_START: usize = 508;
