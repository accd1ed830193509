//! The control store: all tables of one array in one embedded database file, changed in one transaction each (mission
//! row A6).
//!
//! [`Store::change`] works on a copy of the tables, and the copy becomes the tables only after its rows, together with
//! the audit record, are durable: a crash at any point leaves the old state or the new. Values are JSON with a version,
//! `{"version":1,"row":{…}}`; a store of a newer version is not opened. A store whose write failed is never believed
//! again: every later change is refused until the array is started anew.
//!
//! Calls that change something wait for the disk and must not be made on a task that serves connections.

mod atomic;
mod backend;
mod inspect;
mod marks;
mod sim;
mod untouched;

pub use atomic::AtomicWrite;
pub use backend::{Backend, StoreError};
pub use inspect::{Inspected, inspect};
pub use marks::PairMarks;
pub use sim::SimStorage;

use super::designation::{Designation, DesignationId, Outcome, Refusal};
use super::effect::{Effect, changes};
use super::name::{ArrayName, ArrayNumber, PairNumber, VolumeNumber};
use super::record::{AuditRecord, Identity, MetaRecord, Who};
use super::table::{Row, Table, Tables};
use crate::clock::Clock;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableError, WriteTransaction};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// Who an array is, for the first start of its store and as a check at every other.
#[derive(Clone, Debug)]
pub struct Owner {
    /// Its number.
    pub number: ArrayNumber,
    /// Its name; the store takes a new one.
    pub name: ArrayName,
    /// The identity to give it if the store is new.
    pub identity: Identity,
    /// Records of the audit log that are kept.
    pub audit_records_max: u32,
}

/// The control store. Opened once, shared by reference.
pub struct Store {
    clock: Arc<dyn Clock>,
    audit_records_max: u64,
    tables: RwLock<Arc<Tables>>,
    writer: Mutex<Writer>,
}

/// What only one change at a time may touch.
struct Writer {
    database: Database,
    next_audit: u64,
    failed: Option<String>,
}

impl Store {
    /// Opens the store, or makes it, and counts the start.
    ///
    /// # Errors
    /// The file is in use, is damaged, is of a newer version, belongs to another array, or cannot be written.
    pub fn open(backend: &Backend, owner: &Owner, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let database = backend.open()?;
        let mut tables = load(&database).map_err(|reason| backend.damaged(reason))?;
        let next_audit = last_audit(&database).map_err(|reason| backend.damaged(reason))? + 1;
        let before = tables.clone();
        take_possession(&mut tables, owner)
            .map_err(|text| StoreError::Foreign { place: backend.place(), text })?;
        let store = Self {
            clock,
            audit_records_max: owner.audit_records_max.into(),
            tables: RwLock::new(Arc::new(before)),
            writer: Mutex::new(Writer { database, next_audit, failed: None }),
        };
        let mut writer = store.writer();
        store.commit(&mut writer, tables, &[], &[]).map_err(|reason| backend.damaged(reason))?;
        drop(writer);
        Ok(store)
    }

    /// The tables as they are now; they do not change under the caller.
    #[must_use]
    pub fn tables(&self) -> Arc<Tables> {
        Arc::clone(&self.tables.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks at the tables.
    pub fn read<T>(&self, look: impl FnOnce(&Tables) -> T) -> T {
        look(&self.tables())
    }

    /// Changes the tables in one transaction, with a record of who did what. What an operator was refused is
    /// recorded too.
    ///
    /// # Errors
    /// What `change` refuses, with nothing changed; or the store's own failure.
    pub fn change<T>(
        &self,
        who: &Who,
        what: impl fmt::Display,
        change: impl FnOnce(&mut Tables) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        self.change_with_marks(who, what, &[], change)
    }

    /// The same, with parts of difference maps in the same transaction: a pair is never suspended without its marks.
    ///
    /// # Errors
    /// As [`Store::change`]; then no mark was written either.
    pub fn change_with_marks<T>(
        &self,
        who: &Who,
        what: impl fmt::Display,
        marks: &[PairMarks],
        change: impl FnOnce(&mut Tables) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let mut writer = self.writer();
        let before = self.tables();
        let mut tables = Tables::clone(&before);
        let outcome = change(&mut tables);
        if outcome.is_err() && matches!(who, Who::Peer { .. }) {
            // Another array repeats what was refused until it is accepted; nothing has changed, nothing is written.
            return outcome;
        }
        let (tables, result) = match &outcome {
            Ok(_) => (tables, "done".to_owned()),
            Err(refusal) => (Tables::clone(&before), refusal.to_string()),
        };
        let marks = if outcome.is_ok() { marks } else { &[] };
        let audit = self.audit_record(&writer, who, &what.to_string(), result);
        self.commit(&mut writer, tables, &[audit], marks).map_err(Refusal::Store)?;
        outcome
    }

    /// Changes the tables in one transaction without a record: checkpoints of numbers and addresses.
    ///
    /// # Errors
    /// The store's own failure.
    pub fn checkpoint(&self, change: impl FnOnce(&mut Tables)) -> Result<(), Refusal> {
        let mut writer = self.writer();
        let mut tables = Tables::clone(&self.tables());
        change(&mut tables);
        self.commit(&mut writer, tables, &[], &[]).map_err(Refusal::Store)
    }

    /// The same, with parts of difference maps in the same transaction.
    ///
    /// # Errors
    /// The store's own failure.
    pub fn checkpoint_with_marks(
        &self,
        marks: &[PairMarks],
        change: impl FnOnce(&mut Tables),
    ) -> Result<(), Refusal> {
        let mut writer = self.writer();
        let mut tables = Tables::clone(&self.tables());
        change(&mut tables);
        self.commit(&mut writer, tables, &[], marks).map_err(Refusal::Store)
    }

    /// Writes parts of difference maps; durable when this returns.
    ///
    /// # Errors
    /// The store's own failure.
    pub fn put_marks(&self, marks: &[PairMarks]) -> Result<(), Refusal> {
        let mut writer = self.writer();
        let tables = Tables::clone(&self.tables());
        self.commit(&mut writer, tables, &[], marks).map_err(Refusal::Store)
    }

    /// The parts of a pair's difference map.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn marks_of(&self, pair: PairNumber) -> Result<Vec<(u32, Vec<u8>)>, String> {
        let transaction = self.writer().database.begin_read().map_err(|error| error.to_string())?;
        marks::of_pair(&transaction, pair).map_err(|failure| failure.0)
    }

    /// Keeps an atomic write until [`Store::forget_atomic`]: a start writes it again. Durable when this returns.
    ///
    /// # Errors
    /// The store's own failure.
    pub fn keep_atomic(&self, write: &AtomicWrite) -> Result<u64, Refusal> {
        self.transact(|transaction| atomic::put(transaction, write))
    }

    /// It is whole and durable in its volume; the row is gone for good when this returns.
    ///
    /// # Errors
    /// The store's own failure.
    pub fn forget_atomic(&self, key: u64) -> Result<(), Refusal> {
        self.transact(|transaction| atomic::remove(transaction, key))
    }

    /// The atomic writes to a volume that are kept, oldest first.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn atomic_writes(&self, volume: VolumeNumber) -> Result<Vec<(u64, AtomicWrite)>, String> {
        let transaction = self.writer().database.begin_read().map_err(|error| error.to_string())?;
        atomic::of_volume(&transaction, volume).map_err(|failure| failure.0)
    }

    /// A transaction that leaves the tables as they are.
    fn transact<T>(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<T, Failure>,
    ) -> Result<T, Refusal> {
        let mut writer = self.writer();
        if let Some(reason) = &writer.failed {
            return Err(Refusal::Store(reason.clone()));
        }
        transact(&writer.database, change).map_err(|failure| {
            writer.failed = Some(failure.0.clone());
            Refusal::Store(failure.0)
        })
    }

    /// Applies a designation in one transaction; a repeated one gets its first answer and is not recorded again.
    ///
    /// # Errors
    /// Why it cannot be done.
    pub fn designate(&self, id: DesignationId, what: &Designation, who: &Who) -> Result<Outcome, Refusal> {
        let effect = self.designate_all(&[(id, what.clone())], who)?;
        effect.outcomes.first().copied().ok_or_else(|| Refusal::conflict("nothing was designated"))
    }

    /// Applies designations in one transaction, all or none, each with its own record in the audit log. One that had
    /// been applied before gets its first answer and no record.
    ///
    /// # Errors
    /// Why the first that cannot be applied cannot; what an operator was refused is recorded.
    pub fn designate_all(&self, all: &[Order], who: &Who) -> Result<Effect, Refusal> {
        if let Some(outcomes) = self.read(|tables| known(tables, all)) {
            return Ok(Effect { outcomes: outcomes?, is_repetition: true, changes: Vec::new() });
        }
        let mut writer = self.writer();
        let before = self.tables();
        let mut tables = Tables::clone(&before);
        match apply_all(&mut tables, all, who) {
            Ok((outcomes, applied)) => {
                let changes = changes(&before, &tables);
                let mut audit = Vec::new();
                for index in applied {
                    let number = writer.next_audit + u64::try_from(audit.len()).unwrap_or(0);
                    let what = all.get(index).map(|(_, what)| what.to_string()).unwrap_or_default();
                    audit.push(AuditRecord {
                        number,
                        ..self.audit_record(&writer, who, &what, "done".to_owned())
                    });
                }
                self.commit(&mut writer, tables, &audit, &[]).map_err(Refusal::Store)?;
                Ok(Effect { is_repetition: audit.is_empty(), outcomes, changes })
            }
            // Another array repeats what was refused until it is accepted; nothing has changed, nothing is written.
            Err((_, refusal)) if matches!(who, Who::Peer { .. }) => Err(refusal),
            Err((index, refusal)) => {
                let what = all.get(index).map(|(_, what)| what.to_string()).unwrap_or_default();
                let audit = self.audit_record(&writer, who, &what, refusal.to_string());
                self.commit(&mut writer, Tables::clone(&before), &[audit], &[]).map_err(Refusal::Store)?;
                Err(refusal)
            }
        }
    }

    /// What [`Store::designate_all`] would do, by the same code on a copy of the tables. Nothing is changed or recorded.
    ///
    /// # Errors
    /// Why it could not be done.
    pub fn rehearse(&self, all: &[Order], who: &Who) -> Result<Effect, Refusal> {
        let before = self.tables();
        let mut tables = Tables::clone(&before);
        let (outcomes, applied) = apply_all(&mut tables, all, who).map_err(|(_, refusal)| refusal)?;
        Ok(Effect { outcomes, is_repetition: applied.is_empty(), changes: changes(&before, &tables) })
    }

    /// The newest `last` records of the audit log, oldest first.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn audit(&self, last: usize) -> Result<Vec<AuditRecord>, String> {
        let read = || -> Result<Vec<AuditRecord>, Failure> {
            let transaction = self.writer().database.begin_read()?;
            let table = match transaction.open_table(AUDIT) {
                Ok(table) => table,
                Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                Err(error) => return Err(error.into()),
            };
            let newest = table.iter()?.rev().take(last);
            let mut records = Vec::new();
            for entry in newest {
                records.push(decode::<AuditRecord>(entry?.1.value())?);
            }
            records.reverse();
            Ok(records)
        };
        read().map_err(|failure| failure.0)
    }

    fn audit_record(&self, writer: &Writer, who: &Who, what: &str, result: String) -> AuditRecord {
        let cut = |text: &str| text.chars().take(AUDIT_TEXT_MAX_CHARS).collect();
        AuditRecord {
            number: writer.next_audit,
            time_unix_ns: self.clock.wall().0,
            who: who.clone(),
            what: cut(what),
            result: cut(&result),
        }
    }

    /// Makes `tables` durable and then visible.
    fn commit(
        &self,
        writer: &mut Writer,
        mut tables: Tables,
        audit: &[AuditRecord],
        marks: &[PairMarks],
    ) -> Result<(), String> {
        if let Some(reason) = &writer.failed {
            return Err(reason.clone());
        }
        let before = self.tables();
        tables.settle_identities(&before);
        let oldest_kept = writer.next_audit.saturating_sub(self.audit_records_max);
        let written = write(&writer.database, (&before, &tables), audit, oldest_kept, marks);
        if let Err(failure) = written {
            // It may be durable or not: nobody can tell before the next start, so nothing is built on it.
            writer.failed = Some(failure.0.clone());
            return Err(failure.0);
        }
        writer.next_audit += u64::try_from(audit.len()).unwrap_or(0);
        *self.tables.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(tables);
        Ok(())
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

/// A designation with its identity.
pub type Order = (DesignationId, Designation);

/// The answers that all of these got when they were applied before; `None` if one of them was not.
fn known(tables: &Tables, all: &[Order]) -> Option<Result<Vec<Outcome>, Refusal>> {
    let is_known = |(id, _): &Order| tables.results.get(id).is_some();
    all.iter().all(is_known).then(|| all.iter().map(|(id, what)| tables.answered(*id, what)).collect())
}

/// Applies one after the other. What came of each, and the places of those that had not been applied before; or the
/// place of the first that is refused, and why.
fn apply_all(
    tables: &mut Tables,
    all: &[Order],
    who: &Who,
) -> Result<(Vec<Outcome>, Vec<usize>), (usize, Refusal)> {
    let (mut outcomes, mut applied) = (Vec::new(), Vec::new());
    for (index, (id, what)) in all.iter().enumerate() {
        if tables.results.get(id).is_none() {
            applied.push(index);
        }
        outcomes.push(tables.apply(*id, what, who).map_err(|refusal| (index, refusal))?);
    }
    Ok((outcomes, applied))
}

/// Makes or checks the row of the array itself and counts the start.
fn take_possession(tables: &mut Tables, owner: &Owner) -> Result<(), String> {
    match tables.meta.get(&()).cloned() {
        Some(meta) if meta.number != owner.number => {
            Err(format!("it belongs to array {}, the configuration says {}", meta.number, owner.number))
        }
        Some(meta) => {
            let incarnation = meta.incarnation + 1;
            tables.meta.put(MetaRecord { name: owner.name.clone(), incarnation, ..meta });
            Ok(())
        }
        None => {
            tables.meta.put(MetaRecord {
                identity: owner.identity,
                number: owner.number,
                name: owner.name.clone(),
                incarnation: 1,
                last_number: 0,
                last_sequence: 0,
            });
            Ok(())
        }
    }
}

/// Every table by name, once: reading and writing cannot disagree about which there are.
macro_rules! each_table {
    ($tables:expr, $do:ident) => {
        $do!(
            meta,
            parity_groups,
            volumes,
            targets,
            links,
            relays,
            relay_chains,
            groups,
            pairs,
            pointers,
            readers,
            schedules,
            forwards,
            results,
            doomed,
            snapshots,
            drills
        )
    };
}

fn load(database: &Database) -> Result<Tables, String> {
    let read = || -> Result<Tables, Failure> {
        let transaction = database.begin_read()?;
        let mut tables = Tables::default();
        macro_rules! load_each {
            ($($field:ident),*) => { $( load_table(&transaction, &mut tables.$field)?; )* };
        }
        each_table!(tables, load_each);
        Ok(tables)
    };
    read().map_err(|failure| failure.0)
}

fn load_table<R: Row>(transaction: &redb::ReadTransaction, into: &mut Table<R>) -> Result<(), Failure> {
    let table = match transaction.open_table(TableDefinition::<&[u8], &[u8]>::new(R::TABLE)) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    for entry in table.iter()? {
        let (key, value) = entry?;
        let row: R = decode(value.value()).map_err(|f| Failure(format!("table {}: {}", R::TABLE, f.0)))?;
        if R::key_bytes(&row.key()) != key.value() {
            return Err(Failure(format!("table {}: a row does not belong to its key", R::TABLE)));
        }
        into.put(row);
    }
    Ok(())
}

fn write(
    database: &Database,
    (before, after): (&Tables, &Tables),
    audit: &[AuditRecord],
    oldest_audit_kept: u64,
    marks: &[PairMarks],
) -> Result<(), Failure> {
    transact(database, |transaction| {
        macro_rules! write_each {
            ($($field:ident),*) => { $( write_table(transaction, &before.$field, &after.$field)?; )* };
        }
        each_table!(after, write_each);
        if !audit.is_empty() {
            let mut table = transaction.open_table(AUDIT)?;
            for record in audit {
                table.insert(record.number, encode(record)?.as_slice())?;
            }
            table.retain_in(..oldest_audit_kept, |_, _| false)?;
        }
        marks::write(transaction, marks)
    })
}

fn transact<T>(
    database: &Database,
    change: impl FnOnce(&WriteTransaction) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut transaction = database.begin_write()?;
    // The primary slot is then known to be good without trust in checksums; commits here are rare.
    transaction.set_two_phase_commit(true);
    let done = change(&transaction)?;
    transaction.commit()?;
    Ok(done)
}

fn write_table<R: Row>(
    transaction: &WriteTransaction,
    before: &Table<R>,
    after: &Table<R>,
) -> Result<(), Failure> {
    let (put, gone) = after.changes_since(before);
    if put.is_empty() && gone.is_empty() {
        return Ok(());
    }
    let mut table = transaction.open_table(TableDefinition::<&[u8], &[u8]>::new(R::TABLE))?;
    for row in put {
        table.insert(R::key_bytes(&row.key()).as_slice(), encode(row)?.as_slice())?;
    }
    for key in gone {
        table.remove(R::key_bytes(&key).as_slice())?;
    }
    Ok(())
}

fn last_audit(database: &Database) -> Result<u64, String> {
    let read = || -> Result<u64, Failure> {
        let transaction = database.begin_read()?;
        match transaction.open_table(AUDIT) {
            Ok(table) => Ok(table.last()?.map_or(0, |(number, _)| number.value())),
            Err(TableError::TableDoesNotExist(_)) => Ok(0),
            Err(error) => Err(error.into()),
        }
    };
    read().map_err(|failure| failure.0)
}

/// A row as it lies in the store.
#[derive(Serialize, Deserialize)]
struct Versioned<R> {
    version: u32,
    row: R,
}

/// The version alone, for rows whose form is not known.
#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

fn encode<R: Serialize>(row: &R) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(&Versioned { version: ROW_VERSION, row }).map_err(|e| Failure(e.to_string()))
}

fn decode<R: for<'d> Deserialize<'d>>(bytes: &[u8]) -> Result<R, Failure> {
    let of: VersionOnly = serde_json::from_slice(bytes).map_err(|e| Failure(format!("not a row: {e}")))?;
    if of.version > ROW_VERSION {
        return Err(Failure(format!(
            "written by a newer version of the program (row version {}, known {ROW_VERSION})",
            of.version
        )));
    }
    let versioned: Versioned<R> =
        serde_json::from_slice(bytes).map_err(|e| Failure(format!("bad row: {e}")))?;
    Ok(versioned.row)
}

/// Whatever the database says, as text: nobody decides anything by its kind.
struct Failure(String);

macro_rules! failure_from {
    ($($error:ty),*) => { $(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self(error.to_string())
            }
        }
    )* };
}
failure_from!(redb::TransactionError, TableError, redb::StorageError, redb::CommitError);

const AUDIT: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("audit");
/// Raised when the form of a row changes; older forms stay readable.
const ROW_VERSION: u32 = 1;
/// Longer texts are cut: names in them may come from a peer.
const AUDIT_TEXT_MAX_CHARS: usize = 1_000;

#[cfg(test)]
mod tests;
