//! Atomic writes under way to volumes without a journal, in the control store: what a start has to write again.
//!
//! The key counts; the value is below, its numbers big-endian. The store's own checksums cover it. A row is durable before
//! anything of its write is seen in the volume, and gone for good before anybody else may write there: so what a start
//! finds is to be written once more, whole, and nothing newer lies under it.
//!
//! ```text
//!  0  4  "HFA1"
//!  4  4  number of the volume
//!  8 16  its identity: another volume may have the number by then
//! 24  8  first byte
//! 32     the data
//! ```

use super::Failure;
use crate::volume::name::VolumeNumber;
use crate::volume::record::Identity;
use redb::{ReadTransaction, ReadableTable, TableDefinition, TableError, WriteTransaction};

/// One atomic write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AtomicWrite {
    /// The volume.
    pub volume: VolumeNumber,
    /// Its identity.
    pub identity: Identity,
    /// First byte.
    pub offset_bytes: u64,
    /// What comes there.
    pub data: Vec<u8>,
}

pub(super) fn put(transaction: &WriteTransaction, write: &AtomicWrite) -> Result<u64, Failure> {
    let mut table = transaction.open_table(ATOMIC)?;
    let last = table.last()?.map(|(key, _)| key.value());
    let key = last.map_or(0, |last| last + 1);
    let mut value = Vec::with_capacity(HEAD_BYTES + write.data.len());
    value.extend_from_slice(MAGIC);
    value.extend_from_slice(&write.volume.0.to_be_bytes());
    value.extend_from_slice(&write.identity.0.to_be_bytes());
    value.extend_from_slice(&write.offset_bytes.to_be_bytes());
    value.extend_from_slice(&write.data);
    table.insert(key, value.as_slice())?;
    Ok(key)
}

pub(super) fn remove(transaction: &WriteTransaction, key: u64) -> Result<(), Failure> {
    transaction.open_table(ATOMIC)?.remove(key)?;
    Ok(())
}

/// Those of a volume, oldest first.
pub(super) fn of_volume(
    transaction: &ReadTransaction,
    volume: VolumeNumber,
) -> Result<Vec<(u64, AtomicWrite)>, Failure> {
    let table = match transaction.open_table(ATOMIC) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut found = Vec::new();
    for entry in table.iter()? {
        let (key, value) = entry?;
        let write = parse(value.value()).ok_or_else(|| Failure("an atomic write is not one".to_owned()))?;
        if write.volume == volume {
            found.push((key.value(), write));
        }
    }
    Ok(found)
}

/// Whether each row is one.
pub(super) fn check_all(transaction: &ReadTransaction) -> Result<(), Failure> {
    let table = match transaction.open_table(ATOMIC) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    for entry in table.iter()? {
        let (key, value) = entry?;
        if parse(value.value()).is_none() {
            return Err(Failure(format!("atomic write {} is not one", key.value())));
        }
    }
    Ok(())
}

fn parse(value: &[u8]) -> Option<AtomicWrite> {
    let (magic, rest) = value.split_first_chunk::<4>()?;
    let (volume, rest) = rest.split_first_chunk::<4>()?;
    let (identity, rest) = rest.split_first_chunk::<16>()?;
    let (offset, data) = rest.split_first_chunk::<8>()?;
    (magic == MAGIC).then(|| AtomicWrite {
        volume: VolumeNumber(u32::from_be_bytes(*volume)),
        identity: Identity(u128::from_be_bytes(*identity)),
        offset_bytes: u64::from_be_bytes(*offset),
        data: data.to_vec(),
    })
}

const ATOMIC: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("atomic_writes");
const MAGIC: &[u8; 4] = b"HFA1";
const HEAD_BYTES: usize = 32;
