//! Difference maps in the control store: one row for each part of a map in which something is marked.
//!
//! The key is the number of the pair and that of the part, both big-endian; the value is the part as
//! `copy::differences` makes it. The maps are not in [`super::Tables`]: they are large, and only the copy looks at them.

use super::Failure;
use crate::volume::name::PairNumber;
use redb::{ReadTransaction, TableDefinition, TableError, WriteTransaction};

/// Changes of one pair's difference map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairMarks {
    /// The pair.
    pub pair: PairNumber,
    /// Whether everything that was marked before goes first.
    pub replace: bool,
    /// Parts; `None`: nothing is marked there any more.
    pub parts: Vec<(u32, Option<Vec<u8>>)>,
}

impl PairMarks {
    /// The pair has no map any more.
    #[must_use]
    pub fn gone(pair: PairNumber) -> Self {
        Self { pair, replace: true, parts: Vec::new() }
    }
}

pub(super) fn write(transaction: &WriteTransaction, marks: &[PairMarks]) -> Result<(), Failure> {
    if marks.is_empty() {
        return Ok(());
    }
    let mut table = transaction.open_table(MARKS)?;
    for marks in marks {
        if marks.replace {
            table.retain_in(key(marks.pair, 0)..=key(marks.pair, u32::MAX), |_, _| false)?;
        }
        for (part, bytes) in &marks.parts {
            match bytes {
                Some(bytes) => drop(table.insert(key(marks.pair, *part), bytes.as_slice())?),
                None => drop(table.remove(key(marks.pair, *part))?),
            }
        }
    }
    Ok(())
}

pub(super) fn of_pair(
    transaction: &ReadTransaction,
    pair: PairNumber,
) -> Result<Vec<(u32, Vec<u8>)>, Failure> {
    let table = match transaction.open_table(MARKS) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut parts = Vec::new();
    for entry in table.range(key(pair, 0)..=key(pair, u32::MAX))? {
        let (key, bytes) = entry?;
        let part = u32::try_from(key.value() & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        parts.push((part, bytes.value().to_vec()));
    }
    Ok(parts)
}

/// Every part of every map: of which pair, which part, how many bytes.
pub(super) fn all(transaction: &ReadTransaction) -> Result<Vec<(PairNumber, u32, usize)>, Failure> {
    let table = match transaction.open_table(MARKS) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut parts = Vec::new();
    for entry in table.range::<u64>(..)? {
        let (key, bytes) = entry?;
        let pair = u32::try_from(key.value() >> 32).unwrap_or(u32::MAX);
        let part = u32::try_from(key.value() & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        parts.push((PairNumber(pair), part, bytes.value().len()));
    }
    Ok(parts)
}

fn key(pair: PairNumber, part: u32) -> u64 {
    u64::from(pair.0) << 32 | u64::from(part)
}

const MARKS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("differences");
