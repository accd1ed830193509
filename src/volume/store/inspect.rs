//! Looking at a store that nobody uses, without writing it.

use super::{AUDIT, Backend, Failure, StoreError, atomic, decode, load, marks};
use crate::volume::name::PairNumber;
use crate::volume::record::AuditRecord;
use crate::volume::table::Tables;
use redb::{Database, ReadableDatabase, TableError};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What is in a store.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// Its tables.
    pub tables: Tables,
    /// Records of the audit log.
    pub audit_records: u64,
    /// Parts of difference maps: of which pair, which part, how many bytes.
    pub marks: Vec<(PairNumber, u32, usize)>,
    /// What is damaged beside them, a line for each.
    pub damage: Vec<String>,
}

/// Reads every row of a store. It is not counted as a start; of a store in a directory nothing is written.
///
/// # Errors
/// It is in use, or damaged so that its tables cannot be read.
pub fn inspect(backend: &Backend) -> Result<Inspected, StoreError> {
    // What the library makes of bytes that it never wrote is not known for all of them.
    let looked = catch_unwind(AssertUnwindSafe(|| {
        let mut database = backend.open()?;
        look(&mut database).map_err(|reason| backend.damaged(reason))
    }));
    looked.unwrap_or_else(|_| Err(backend.damaged("the database cannot be read".to_owned())))
}

fn look(database: &mut Database) -> Result<Inspected, String> {
    let mut damage = Vec::new();
    match database.check_integrity() {
        Ok(true) => {}
        Ok(false) => damage.push("checksums of the database are wrong, which it could repair".to_owned()),
        Err(error) => return Err(error.to_string()),
    }
    let tables = load(database)?;
    if tables.meta.get(&()).is_none() {
        return Err("the row of the array itself is missing".to_owned());
    }
    let read = |damage: &mut Vec<String>| -> Result<(u64, Vec<_>), Failure> {
        let transaction = database.begin_read()?;
        let mut audit_records = 0;
        match transaction.open_table(AUDIT) {
            Ok(table) => {
                for entry in redb::ReadableTable::iter(&table)? {
                    let (number, value) = entry?;
                    audit_records += 1;
                    let text = match decode::<AuditRecord>(value.value()) {
                        Ok(record) if record.number == number.value() => continue,
                        Ok(_) => "it does not belong to its key".to_owned(),
                        Err(Failure(text)) => text,
                    };
                    damage.push(format!("audit record {}: {text}", number.value()));
                }
            }
            Err(TableError::TableDoesNotExist(_)) => {}
            Err(error) => return Err(error.into()),
        }
        if let Err(Failure(text)) = atomic::check_all(&transaction) {
            damage.push(text);
        }
        Ok((audit_records, marks::all(&transaction)?))
    };
    let (audit_records, marks) = read(&mut damage).map_err(|failure| failure.0)?;
    Ok(Inspected { tables, audit_records, marks, damage })
}
