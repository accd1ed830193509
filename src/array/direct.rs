//! Journals fetched by ordinary READ of the source's journal volume (J9; figures 17 and 19).
//!
//! 1. JOURNAL TABLES says where the next updates lie; with it they count as delivered. Where they do not lie there as
//!    they have to be sent, its answer is that of a journal read, and that was it.
//! 2. The update information is read, and decoded as a recovery does it: every record by its checksum, its
//!    incarnation, the hash of the one before it, and its number.
//! 3. The write data is read, as many updates at a time as lie together, and its checksums are compared.
//! 4. Of all that an answer is made as JOURNAL READ would have sent it. So nothing behind this knows of the
//!    difference, and everything is checked once more.
//!
//! What is not what it should be (the room has been written again, a block has rotted, the source lies) is asked for
//! again by JOURNAL READ, from its first number on: then the source looks itself, or says that it is no longer held.

use super::peer_session::PeerSession;
use crate::copy::answer::{AnswerError, Head, Outcome};
use crate::copy::change::Payload;
use crate::copy::source::{Ask, SourceError, Wanted};
use crate::copy::tables::{Entry, Table};
use crate::disk::slot::{Class, SLOT_BYTES, Slot, SlotMut, SlotPool, bytes_of};
use futures_util::{StreamExt, TryStreamExt, stream};
use holdfast_journal::format::head::Superblock;
use holdfast_journal::format::record::decode_batch;
use holdfast_journal::{Stored, format};
use std::sync::Arc;

/// What came of one fetch.
pub(super) struct Fetched {
    /// An answer as of a journal read.
    pub(super) pages: Vec<Slot>,
    /// Bytes that came for it.
    pub(super) wire_bytes: usize,
    /// Updates of it that were read by READ.
    pub(super) by_read: u64,
    /// Updates that were named in a table and then asked for by command.
    pub(super) reread: u64,
}

/// Reads the next updates of a group.
pub(super) async fn fetch(
    session: &PeerSession,
    pool: &SlotPool,
    group: u32,
    ask: Ask,
) -> Result<Fetched, SourceError> {
    let (pages, came) = session.journal_tables(group, ask).await?;
    let front = match front(&pages) {
        Ok(front) => front,
        // Whoever takes the answer says what is wrong with it.
        Err(_) => return Ok(Fetched { pages, wire_bytes: came, by_read: 0, reread: 0 }),
    };
    let Ok((head, table)) = Head::decode(&front) else {
        return Ok(Fetched { pages, wire_bytes: came, by_read: 0, reread: 0 });
    };
    if head.outcome != Outcome::Tables {
        return Ok(Fetched { pages, wire_bytes: came, by_read: 0, reread: 0 });
    }
    drop(pages);
    if head.group != group {
        return Err(SourceError(format!("journal tables are of group {}, not {group}", head.group)));
    }
    let table = Table::decode(&head, table).map_err(|error| SourceError(error.to_string()))?;
    match by_read(session, pool, &head, &table, ask.room_bytes).await {
        Ok((pages, read)) => {
            let by_read = u64::from(head.updates);
            Ok(Fetched { pages, wire_bytes: came + read, by_read, reread: 0 })
        }
        Err(Unusable::Session(error)) => Err(error),
        Err(Unusable::Content(why)) => {
            tracing::debug!(
                group,
                first = head.first,
                why,
                "what a table names is not there: asking by command"
            );
            let first = holdfast_journal::UpdateNumber::new(head.first);
            let what = Wanted::Again { first, count: head.updates };
            let again = Ask { what, updates: head.updates.min(ask.updates), ..ask };
            let (pages, bytes) = session.journal_read(group, again, None).await?;
            Ok(Fetched { pages, wire_bytes: came + bytes, by_read: 0, reread: u64::from(head.updates) })
        }
    }
}

/// Why a table is of no use.
enum Unusable {
    /// The session is to blame.
    Session(SourceError),
    /// It is not there.
    Content(&'static str),
}

impl From<SourceError> for Unusable {
    fn from(error: SourceError) -> Self {
        Self::Session(error)
    }
}

/// The pages of head and table, in one place.
fn front(pages: &[Slot]) -> Result<Vec<u8>, AnswerError> {
    let first = pages.first().ok_or(AnswerError::NotAnAnswer)?;
    let count = usize::try_from(Head::announced_pages(first.as_slice())?).unwrap_or(usize::MAX);
    let front = pages.get(..count).ok_or(AnswerError::Field("pages of records"))?;
    Ok(bytes_of(front))
}

/// Reads what a table names; the answer that a journal read would have brought, and how many bytes came.
async fn by_read(
    session: &PeerSession,
    pool: &SlotPool,
    head: &Head,
    table: &Table,
    room_bytes: u32,
) -> Result<(Vec<Slot>, usize), Unusable> {
    let (found, mut read) = information(session, table).await?;
    let mut records = Vec::new();
    for (stored, _) in &found {
        format::encode_wire_to(&stored.update, &mut records).map_err(|_| Unusable::Content("record"))?;
    }
    let head = Head { outcome: Outcome::Updates, ..head.clone() };
    let front = head.encode(&records);
    let front_pages = front.len() / SLOT_BYTES;
    let runs = runs(&found)?;
    let data_pages: usize = runs.iter().map(|run| run.pages).sum();
    if (front_pages + data_pages) * SLOT_BYTES > usize::try_from(room_bytes).unwrap_or(usize::MAX) {
        return Err(Unusable::Content("length"));
    }
    // All at once: nothing is held while more is waited for.
    let mut slots = pool.take(Class::Inbound, front_pages + data_pages).await;
    let mut data = slots.split_off(front_pages);
    for (slot, bytes) in slots.iter_mut().zip(front.chunks(SLOT_BYTES)) {
        slot[..bytes.len()].copy_from_slice(bytes);
    }
    let mut reads = Vec::new();
    for run in runs {
        let rest = data.split_off(run.pages);
        reads.push((run, std::mem::replace(&mut data, rest)));
    }
    let reads = stream::iter(reads)
        .map(|(run, slots)| async move { session.read_pages(run.lun, run.offset_bytes, slots).await });
    let came: Vec<Vec<Slot>> = reads.buffered(READS_AT_A_TIME).try_collect().await?;
    let data: Vec<Slot> = came.into_iter().flatten().collect();
    read += data.len() * SLOT_BYTES;
    check_data(&found, &data)?;
    let pages = slots.into_iter().map(SlotMut::freeze).chain(data).collect();
    Ok((pages, read))
}

/// The updates that a table names, with the LUN where their data lies; and how many bytes came.
async fn information(session: &PeerSession, table: &Table) -> Result<(Vec<(Stored, u16)>, usize), Unusable> {
    let (mut found, mut read) = (Vec::new(), 0);
    let mut superblock: Option<(u16, Superblock)> = None;
    let mut waiting = table.entries.as_slice();
    while let Some(first) = waiting.first() {
        let superblock = match superblock {
            Some((lun, known)) if lun == first.lun => known,
            _ => {
                let bytes = session.read_bytes(first.lun, 0, SUPERBLOCK_BYTES).await?;
                read += bytes.len();
                let copies = bytes.chunks(SLOT_BYTES).map(Superblock::decode);
                let mut ours =
                    copies.flatten().filter(|superblock| superblock.incarnation == table.incarnation);
                let known = ours.next().ok_or(Unusable::Content("superblock"))?;
                superblock.insert((first.lun, known)).1
            }
        };
        let (together, rest) = waiting.split_at(adjacent(waiting));
        waiting = rest;
        let bytes: usize = together.iter().map(|entry| to_usize(entry.info_bytes)).sum();
        let all = session.read_bytes(first.lun, first.info_offset, bytes).await?;
        read += all.len();
        let mut left = all.as_slice();
        for entry in together {
            let (own, rest) =
                left.split_at_checked(to_usize(entry.info_bytes)).ok_or(Unusable::Content("length"))?;
            left = rest;
            found.extend(updates_of(entry, &superblock, own)?.into_iter().map(|stored| (stored, entry.lun)));
        }
    }
    Ok((found, read))
}

/// How many entries, from the first one on, lie together.
fn adjacent(entries: &[Entry]) -> usize {
    let pairs = entries.iter().zip(entries.iter().skip(1));
    let follows = |(a, b): &(&Entry, &Entry)| {
        a.lun == b.lun && a.info_offset.checked_add(u64::from(a.info_bytes)) == Some(b.info_offset)
    };
    1 + pairs.take_while(follows).count()
}

/// The updates of one group commit that an entry names: all of them, and nothing else.
fn updates_of(entry: &Entry, superblock: &Superblock, bytes: &[u8]) -> Result<Vec<Stored>, Unusable> {
    let all = decode_batch(superblock, bytes).map_err(|_| Unusable::Content("record"))?;
    let is_named = |stored: &Stored| (entry.first..=entry.last).contains(&stored.update.number.get());
    let named: Vec<Stored> = all.into_iter().filter(is_named).collect();
    let numbers = named.iter().map(|stored| stored.update.number.get());
    if numbers.eq(entry.first..=entry.last) { Ok(named) } else { Err(Unusable::Content("number")) }
}

/// Write data that lies together.
struct Run {
    lun: u16,
    offset_bytes: u64,
    pages: usize,
}

/// Where the data of the updates lies, in their order.
fn runs(found: &[(Stored, u16)]) -> Result<Vec<Run>, Unusable> {
    let mut runs: Vec<Run> = Vec::new();
    for (stored, lun) in found {
        let Some(place) = stored.place else { continue };
        let pages = usize::try_from(place.blocks).map_err(|_| Unusable::Content("length"))?;
        match runs.last_mut() {
            Some(run)
                if run.lun == *lun
                    && run.offset_bytes + (run.pages * SLOT_BYTES) as u64 == place.volume_offset_bytes
                    && run.pages + pages <= RUN_PAGES =>
            {
                run.pages += pages;
            }
            _ => runs.push(Run { lun: *lun, offset_bytes: place.volume_offset_bytes, pages }),
        }
    }
    if runs.iter().any(|run| run.pages > READ_PAGES_MAX) {
        Err(Unusable::Content("length"))
    } else {
        Ok(runs)
    }
}

/// Whether the data is that of the updates.
fn check_data(found: &[(Stored, u16)], data: &[Slot]) -> Result<(), Unusable> {
    let mut left = data;
    for (Stored { update, place }, _) in found {
        let pages = place.map_or(0, |place| usize::try_from(place.blocks).unwrap_or(usize::MAX));
        let (own, rest) = left.split_at_checked(pages).ok_or(Unusable::Content("length"))?;
        left = rest;
        let slots: Arc<[Slot]> = own.to_vec().into();
        let skip = place.map_or(0, |place| place.skip_bytes);
        if usize::from(skip) + to_usize(update.data_bytes) > pages * SLOT_BYTES {
            return Err(Unusable::Content("length"));
        }
        let payload = Payload { slots, skip, bytes: update.data_bytes };
        if payload.checksum() != update.data_checksum {
            return Err(Unusable::Content("checksum"));
        }
    }
    Ok(())
}

fn to_usize(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// The two copies of the superblock.
const SUPERBLOCK_BYTES: usize = 2 * SLOT_BYTES;
/// Pages of updates that are read together.
const RUN_PAGES: usize = 256;
/// Pages of one READ: the longest transfer.
const READ_PAGES_MAX: usize = holdfast_scsi::MAX_TRANSFER_BYTES as usize / SLOT_BYTES;
/// READs under way for one answer.
const READS_AT_A_TIME: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_journal::format::FormatParams;
    use holdfast_journal::{
        ArrayNumber, Content, Draft, Extent, Generation, GroupNumber, Incarnation, Journal, Kind, Update,
        UpdateNumber, VolumeNumber,
    };

    fn params(incarnation: u128) -> FormatParams {
        FormatParams {
            incarnation: Incarnation::new(incarnation),
            array: ArrayNumber(1),
            group: GroupNumber(1),
            volume_bytes: 1 << 20,
            layout: format::Layout::default(),
            data_per_info: 4,
            first: UpdateNumber::FIRST,
            generation: Generation::default(),
        }
    }

    async fn slots(pool: &SlotPool, count: usize, byte: u8) -> Vec<Slot> {
        let mut slots = pool.take(Class::Inbound, count).await;
        slots.iter_mut().for_each(|slot| slot.fill(byte));
        slots.into_iter().map(SlotMut::freeze).collect()
    }

    /// Three updates of two pages each, in one group commit; and their data as it lies in the journal volume.
    async fn commit(pool: &SlotPool, incarnation: u128) -> (Superblock, Vec<u8>, Vec<Slot>) {
        let (_, mut journal) = Journal::format(params(incarnation)).unwrap();
        let mut data = Vec::new();
        for number in 1..=3_u8 {
            let pages = slots(pool, 2, number).await;
            let payload = Payload { slots: pages.clone().into(), skip: 0, bytes: 8192 };
            let extent = Extent {
                volume: VolumeNumber(1),
                start_bytes: u64::from(number) << 20,
                length_bytes: 8192,
                content: Content::Data,
            };
            let update = Update {
                number: UpdateNumber::new(number.into()),
                generation: Generation::default(),
                time_ns: 0,
                kind: Kind::HostWrite,
                extents: vec![extent],
                data_bytes: 8192,
                data_checksum: payload.checksum(),
            };
            journal.append(Draft::new(update)).unwrap();
            data.extend(pages);
        }
        let commit = journal.poll_commit().unwrap();
        (*journal.superblock(), commit.info, data)
    }

    fn entry(first: u64, last: u64) -> Entry {
        Entry { info_offset: 16_384, info_bytes: 4096, lun: 2, first, last }
    }

    fn at(stored: Vec<Stored>) -> Vec<(Stored, u16)> {
        stored.into_iter().map(|stored| (stored, 2)).collect()
    }

    #[tokio::test]
    async fn a_part_of_a_group_commit_is_found_and_its_data_checked() {
        let pool = SlotPool::new(4 << 20);
        let (superblock, info, data) = commit(&pool, 7).await;
        let found = updates_of(&entry(2, 3), &superblock, &info).unwrap_or_else(|_| panic!("sound"));
        let found = at(found);
        assert_eq!(found.iter().map(|(stored, _)| stored.update.number.get()).collect::<Vec<_>>(), [2, 3]);
        let runs = runs(&found).unwrap_or_else(|_| panic!("sound"));
        assert_eq!(
            (runs.len(), runs[0].pages, runs[0].lun),
            (1, 4, 2),
            "what lies together is read together"
        );
        assert!(check_data(&found, &data[2..]).is_ok());
        let rotten: Vec<Slot> = data[2..5].iter().cloned().chain(slots(&pool, 1, 99).await).collect();
        assert!(check_data(&found, &rotten).is_err());
        assert!(check_data(&found, &data[..4]).is_err(), "the data of other updates");
        assert!(check_data(&found, &data[2..5]).is_err(), "too little");
    }

    #[tokio::test]
    async fn what_is_not_what_the_table_says_is_not_taken() {
        let pool = SlotPool::new(4 << 20);
        let (superblock, info, _) = commit(&pool, 7).await;
        let taken =
            |entry: Entry, superblock: &Superblock, info: &[u8]| updates_of(&entry, superblock, info).is_ok();
        assert!(taken(entry(1, 3), &superblock, &info));
        assert!(!taken(entry(3, 4), &superblock, &info), "a number that is not there");
        let (other, _, _) = commit(&pool, 8).await;
        assert!(!taken(entry(1, 3), &other, &info), "another formatting of the volume");
        assert!(!taken(entry(1, 3), &superblock, &[0; 4096]), "a block that was never written");
        let records = info.iter().rposition(|byte| *byte != 0).unwrap();
        for byte in 0..=records {
            let mut rotten = info.clone();
            rotten[byte] ^= 0x20;
            assert!(!taken(entry(1, 3), &superblock, &rotten), "byte {byte}");
        }
    }

    #[test]
    fn entries_that_lie_together_are_read_together() {
        let at = |info_offset, lun| Entry { info_offset, lun, ..entry(1, 1) };
        assert_eq!(adjacent(&[at(0, 2), at(4096, 2), at(8192, 3), at(12_288, 3)]), 2);
        assert_eq!(adjacent(&[at(0, 2), at(8192, 2)]), 1);
        assert_eq!(adjacent(&[at(0, 2)]), 1);
    }
}
