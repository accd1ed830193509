//! Where updates lie in the journal volume of their source: for readers that fetch them by ordinary READ (J9).
//!
//! # What it guarantees
//! * A table names only what is durable here, and counts as delivery: the reader's cursor moves behind it, and the
//!   journal holds what it names until the reader has reported it, as with a journal read (invariant 2).
//! * It names only updates that lie in the journal volume as a journal read would send them. What does not is sent at
//!   once in place of a table, as the answer to a journal read: the data of an initial copy, which lies in no write data
//!   area (J3: it is read when it is sent), what only another reader needs, and what is in a difference map instead.
//! * A table names updates of one journal volume: it ends where the next one begins (`journal::chain`).
//! * A table goes stale when its reader is suspended: the room may be written again then. So nothing that was read is
//!   believed before its checksums, its number and its incarnation have been checked, which is the reader's affair.
//!
//! Behind the head of an answer, big-endian:
//!
//! | byte | field |
//! |---|---|
//! | 0 | incarnation of the journal, 16 bytes |
//! | 16 | entries of 32 bytes, back to back, their numbers contiguous from the head's `first` |
//!
//! | byte | field of an entry |
//! |---|---|
//! | 0 | byte offset of the update information of a group commit on the journal volume u64, a multiple of 4096 |
//! | 8 | its bytes u32, whole blocks |
//! | 12 | LUN of the journal volume at the peer target u32 |
//! | 16 | first number to take from it u64 |
//! | 24 | last number u64 |

use super::answer::{AnswerError, HEAD_BYTES, Head, MAX_RECORD_PAGES, MAX_UPDATES, Outcome};
use super::group::Group;
use super::restore::pages_of;
use super::serve::{Answer, Request, ServeError};
use crate::disk::slot::{Class, SLOT_BYTES};
use holdfast_journal::{Incarnation, Kind, Located, Update, UpdateNumber, VolumeNumber};
use std::sync::Arc;

/// Where to find some updates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) incarnation: Incarnation,
    /// Never empty, numbers contiguous.
    pub(crate) entries: Vec<Entry>,
}

/// Updates of one group commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) info_offset: u64,
    pub(crate) info_bytes: u32,
    pub(crate) lun: u16,
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl Table {
    fn encode(&self) -> Vec<u8> {
        let mut out = self.incarnation.get().to_be_bytes().to_vec();
        for entry in &self.entries {
            out.extend_from_slice(&entry.info_offset.to_be_bytes());
            out.extend_from_slice(&entry.info_bytes.to_be_bytes());
            out.extend_from_slice(&u32::from(entry.lun).to_be_bytes());
            out.extend_from_slice(&entry.first.to_be_bytes());
            out.extend_from_slice(&entry.last.to_be_bytes());
        }
        out
    }

    /// The table behind a head, everything checked that can be without reading.
    pub(crate) fn decode(head: &Head, bytes: &[u8]) -> Result<Self, AnswerError> {
        let wrong = AnswerError::Field("journal tables");
        let (incarnation, rest) = bytes.split_first_chunk::<16>().ok_or_else(|| wrong.clone())?;
        let (rows, surplus) = rest.as_chunks::<ENTRY_BYTES>();
        let mut entries = Vec::with_capacity(rows.len().min(ENTRIES_MAX));
        let (mut due, mut info_total) = (head.first, 0);
        for row in rows {
            let entry = Entry::decode(row).ok_or_else(|| wrong.clone())?;
            info_total += u64::from(entry.info_bytes);
            let is_sound = entry.first == due
                && entry.last >= due
                && entry.last <= head.newest_durable
                && entry.info_bytes > 0
                && entry.info_bytes.is_multiple_of(BLOCK_BYTES)
                && entry.info_offset.is_multiple_of(u64::from(BLOCK_BYTES));
            if !is_sound || entries.len() == ENTRIES_MAX || info_total > INFO_BYTES_MAX {
                return Err(wrong);
            }
            due = entry.last.checked_add(1).ok_or_else(|| wrong.clone())?;
            entries.push(entry);
        }
        if !surplus.is_empty() || entries.is_empty() || due - head.first != u64::from(head.updates) {
            return Err(wrong);
        }
        Ok(Self { incarnation: Incarnation::new(u128::from_be_bytes(*incarnation)), entries })
    }
}

impl Entry {
    fn decode(row: &[u8; ENTRY_BYTES]) -> Option<Self> {
        let long = |at: usize| Some(u64::from_be_bytes(*row.get(at..)?.first_chunk()?));
        let short = |at: usize| Some(u32::from_be_bytes(*row.get(at..)?.first_chunk()?));
        Some(Self {
            info_offset: long(0)?,
            info_bytes: short(8)?,
            lun: u16::try_from(short(12)?).ok()?,
            first: long(16)?,
            last: long(24)?,
        })
    }

    fn of(located: &Located, lun: u16, number: UpdateNumber) -> Option<Self> {
        let info_bytes = u32::try_from(located.info_bytes).ok()?;
        let number = number.get();
        Some(Self { info_offset: located.info_offset, info_bytes, lun, first: number, last: number })
    }
}

/// What a table has come to while it is made.
#[derive(Default)]
struct Draft {
    volume: Option<(VolumeNumber, Incarnation)>,
    entries: Vec<Entry>,
    updates: u32,
    record_bytes: usize,
    data_pages: usize,
    info_bytes: u64,
    /// Hosts' writes of which the reader is told where they lie.
    whole: Vec<Arc<Update>>,
}

impl Draft {
    /// Room that the updates need at the reader.
    fn total_bytes(&self) -> usize {
        ((HEAD_BYTES + self.record_bytes).div_ceil(SLOT_BYTES) + self.data_pages) * SLOT_BYTES
    }
}

impl Group {
    /// A table that begins with `first`, which is due to the reader; none if that does not lie in the journal volume as
    /// it has to be sent.
    pub(super) async fn tables(
        &self,
        request: &Request,
        first: UpdateNumber,
    ) -> Result<Option<Answer>, ServeError> {
        let limit = self.limit_for(request.reader);
        let began = self.lock().readers.reader(request.reader).map(|known| known.began);
        let mut draft = Draft::default();
        let mut number = first;
        while number <= limit {
            let found = self.load_information(number, Class::JournalRead).await?;
            let before = draft.updates;
            for update in found.iter().take_while(|update| update.number <= limit) {
                match self.add_to_table(request, update, &mut draft) {
                    Added::Yes => {
                        number = update.number.next();
                        if update.kind == Kind::HostWrite {
                            draft.whole.push(update.clone());
                        }
                    }
                    Added::No => break,
                    Added::MoreRoom(bytes) => return Ok(Some(self.more_room(request.reader, bytes))),
                }
            }
            let all = u32::try_from(found.len()).is_ok_and(|all| draft.updates - before == all);
            if found.is_empty() || !all {
                break;
            }
        }
        let Some((_, incarnation)) = draft.volume.filter(|_| draft.updates > 0) else { return Ok(None) };
        let mut seq = self.lock();
        if seq.readers.reader(request.reader).map(|known| known.began) != began {
            drop(seq);
            return Ok(Some(self.empty(request.reader, Outcome::NotHeld))); // It began anew meanwhile.
        }
        if let Some(outcome) = seq.has_turned(request.reader, &draft.whole) {
            drop(seq);
            return Ok(Some(self.empty(request.reader, outcome)));
        }
        seq.readers.handle_sent(request.reader, number.previous(), UpdateNumber::NONE)?;
        let total = seq.sent.entry(request.reader).or_default();
        total.0 += u64::from(draft.updates);
        // What it is about to read.
        total.1 += draft.info_bytes + (draft.data_pages * SLOT_BYTES) as u64;
        let head = self.head(&seq, request.reader, Outcome::Tables);
        let head = Head { updates: draft.updates, first: first.get(), ..head };
        let table = Table { incarnation, entries: draft.entries };
        Ok(Some(Answer { head: head.encode(&table.encode()), pages: Vec::new() }))
    }

    fn add_to_table(&self, request: &Request, update: &Update, draft: &mut Draft) -> Added {
        let lies_as_sent = match update.kind {
            Kind::HostWrite => !self.withheld(request.reader, update),
            Kind::Heartbeat | Kind::Void | Kind::Bookmark(_) | Kind::Broken | Kind::Whole => true,
            Kind::InitialCopy(_) => false,
        };
        let held = {
            let seq = self.lock();
            // What a former primary numbered lies there under other names of volumes.
            seq.journal.locate(update.number).filter(|_| !seq.is_inherited(update.number))
        };
        let Some((volume, entry)) = held.and_then(|held| {
            let lun = journal_lun(held.volume.0)?;
            Some(((held.volume, held.incarnation()), Entry::of(&held.located, lun, update.number)?))
        }) else {
            return Added::No;
        };
        // A table names one volume of the journal, by its incarnation.
        if draft.volume.is_some_and(|of| of != volume) {
            return Added::No;
        }
        draft.volume = Some(volume);
        let (updates_max, bytes_max) = self.answer_limits(request);
        let is_new = draft.entries.last().is_none_or(|last| last.info_offset != entry.info_offset);
        let is_full = draft.updates > 0
            && (draft.updates >= updates_max || draft.data_pages * SLOT_BYTES >= bytes_max / 2);
        let is_long = is_new
            && (draft.entries.len() == ENTRIES_MAX
                || draft.info_bytes + u64::from(entry.info_bytes) > INFO_BYTES_MAX);
        if !lies_as_sent || is_full || is_long {
            return Added::No;
        }
        let record_bytes = draft.record_bytes + RECORD_BYTES + RECORD_EXTENT_BYTES * update.entry_count();
        let data_pages = draft.data_pages + update.extents.iter().map(pages_of).sum::<usize>();
        let with = Draft { record_bytes, data_pages, ..Draft::default() };
        let record_pages = (HEAD_BYTES + record_bytes).div_ceil(SLOT_BYTES);
        if with.total_bytes() > request.bytes as usize || record_pages > MAX_RECORD_PAGES as usize {
            return if draft.updates == 0 { Added::MoreRoom(with.total_bytes()) } else { Added::No };
        }
        (draft.record_bytes, draft.data_pages) = (record_bytes, data_pages);
        draft.updates += 1;
        match draft.entries.last_mut().filter(|_| !is_new) {
            Some(last) => last.last = entry.last,
            None => {
                draft.info_bytes += u64::from(entry.info_bytes);
                draft.entries.push(entry);
            }
        }
        Added::Yes
    }
}

enum Added {
    Yes,
    /// The table ends before it.
    No,
    /// The first update needs that much room.
    MoreRoom(usize),
}

/// The LUN under which peers read a journal volume: its number; none for a number beyond those of the flat addresses.
pub(crate) fn journal_lun(volume: u32) -> Option<u16> {
    u16::try_from(volume).ok().filter(|lun| (1..=LUN_MAX).contains(lun))
}

const ENTRY_BYTES: usize = 32;
const BLOCK_BYTES: u32 = 4096;
/// Entries of one table; a longer one is refused.
const ENTRIES_MAX: usize = 256;
/// Update information that one table names; more is refused.
const INFO_BYTES_MAX: u64 = 2 << 20;
/// What a record takes in an answer, and each of its extents (`journal/src/format/wire.rs`).
const RECORD_BYTES: usize = 72;
const RECORD_EXTENT_BYTES: usize = 24;
const LUN_MAX: u16 = 0x3fff;

const _: () = assert!(ENTRIES_MAX <= MAX_UPDATES as usize);

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> (Head, Table) {
        let entries = vec![
            Entry { info_offset: 16_384, info_bytes: 4096, lun: 3, first: 11, last: 12 },
            Entry { info_offset: 20_480, info_bytes: 8192, lun: 3, first: 13, last: 13 },
        ];
        let head = Head {
            outcome: Outcome::Tables,
            group: 1,
            updates: 3,
            generation: 1,
            first: 11,
            newest_durable: 13,
            oldest_held: 1,
            newest_given: 20,
            heard_ms: 0,
            information_bytes: (0, 0),
            data_bytes: (0, 0),
            wall_ns: 0,
            unread_bytes: 0,
            pointers: Default::default(),
            room_bytes: 0,
            load_permille: 0,
            is_second: false,
        };
        (head, Table { incarnation: Incarnation::new(77), entries })
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let (head, table) = table();
        assert_eq!(Table::decode(&head, &table.encode()), Ok(table));
    }

    #[test]
    fn a_table_that_no_array_sends_is_refused() {
        let (head, good) = table();
        let refused = |change: &dyn Fn(&mut Head, &mut Table)| {
            let (mut head, mut table) = (head.clone(), good.clone());
            change(&mut head, &mut table);
            assert!(Table::decode(&head, &table.encode()).is_err(), "{head:?} {table:?}");
        };
        refused(&|head, _| head.updates = 4);
        refused(&|head, _| head.first = 10);
        refused(&|head, _| head.newest_durable = 12);
        refused(&|_, table| table.entries[1].first = 14);
        refused(&|_, table| table.entries[0].last = 10);
        refused(&|_, table| table.entries[0].info_offset = 1);
        refused(&|_, table| table.entries[0].info_bytes = 0);
        refused(&|_, table| table.entries[0].info_bytes = 4097);
        refused(&|_, table| table.entries[0].info_bytes = u32::MAX - 4095);
        refused(&|_, table| table.entries.clear());
        let bytes = good.encode();
        assert!((0..bytes.len()).all(|end| Table::decode(&head, &bytes[..end]).is_err()));
        let rows = (0..300).map(|row| Entry { first: 11 + row, last: 11 + row, ..good.entries[0] }).collect();
        let long = Table { entries: rows, ..good };
        let head = Head { updates: 300, newest_durable: 311, ..head };
        assert!(Table::decode(&head, &long.encode()).is_err());
    }
}
