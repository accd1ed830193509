//! The data of a JOURNAL READ answer: head, records, payload pages.
//!
//! The head is big-endian like every SCSI parameter; the records behind it are those of the journal
//! (`holdfast_journal::wire`), little-endian. Head and records are padded to whole pages, and the payload of each
//! update follows in whole pages that lie as they lie in cache and journal (first byte at `offset % 4096`): so the
//! primary sends pages by handle and the reader's received pages become the payload of its own journal, unmoved.
//!
//! | byte | field |
//! |---|---|
//! | 0 | magic `HFJA` |
//! | 4 | version u16 = 3 |
//! | 6 | outcome u8 ([`Outcome`]) |
//! | 7 | bit 0: hosts there wait for this reader, which asks how that stands (SYNCHRONISE); the rest reserved |
//! | 8 | group number u32 (of the answering array) |
//! | 12 | updates in this answer u32 |
//! | 16 | pages of head and records u32 |
//! | 20 | generation counter u32 |
//! | 24 | number of the first update u64 |
//! | 32 | newest durable number u64 |
//! | 40 | oldest number held u64 |
//! | 48 | newest number given u64 |
//! | 56 | update information area used / 64 capacity u64 |
//! | 72 | write data area used / 80 capacity u64 |
//! | 88 | wall clock of the primary, ns u64 |
//! | 96 | bytes of write data the reader has not been handed yet u64 |
//! | 104 | bytes of records behind the head u32; outcome 2: of a text that says why |
//! | 108 | outcome 5: room needed, bytes u32 |
//! | 112 | load of the answering array, permille u32 |
//! | 116 | compressed write data: its bytes u32, 0: not compressed / 120 pages of it uncompressed u32 |
//! | 124 | the reader's pointers as distances: four u64 ([`PointerDistances`]) |
//! | 156 | age of *newest number given*, milliseconds u32; all ones: nothing was heard of it yet |
//! | 160 | reserved u32 |
//! | 164 | CRC-32C over bytes 0..164 and the records |

use crate::disk::slot::SLOT_BYTES;
use thiserror::Error;

/// Bytes of the head.
pub const HEAD_BYTES: usize = 168;
/// The most updates one answer may carry: a reader refuses more.
pub const MAX_UPDATES: u32 = 4096;
/// The most pages of head and records: 4096 updates of ordinary size, 1 MiB.
pub const MAX_RECORD_PAGES: u32 = 256;
/// The most room that an answer ever needs: the largest single write and its record always fit.
pub const MAX_ANSWER_BYTES: u32 = holdfast_scsi::MAX_TRANSFER_BYTES + (64 << 10);
/// Bytes of a reason that are kept.
pub const MAX_REASON_BYTES: usize = 512;

/// What the answering array says first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Updates follow.
    Updates,
    /// Figure 17, step 1560: nothing new.
    NoJournal,
    /// Figure 17, steps 1515 and 1525: the group is not normal here.
    GroupNotNormal,
    /// The number asked for is no longer held: what lies before the number in the head is in difference maps, or the copy
    /// has to start again.
    NotHeld,
    /// All pairs of the reader are suspended: nothing is held for it.
    Suspended,
    /// The first update does not fit into the room that the reader gave: `room_bytes` are needed.
    MoreRoom,
    /// COPY READ: nothing is left to be copied; the copy is an image when everything up to the number in the head is
    /// restored.
    CopyEnded,
    /// Where the updates lie follows, in place of them (`tables.rs`).
    Tables,
}

impl Outcome {
    fn code(self) -> u8 {
        match self {
            Self::Updates => 0,
            Self::NoJournal => 1,
            Self::GroupNotNormal => 2,
            Self::NotHeld => 3,
            Self::Suspended => 4,
            Self::MoreRoom => 5,
            Self::CopyEnded => 6,
            Self::Tables => 7,
        }
    }
}

/// How far a reader's pointers are apart at its source, in bytes: what claim 8 of the specification reads by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PointerDistances {
    /// Update information from the oldest on that is held because of this reader, to the newest.
    pub held_information: u64,
    /// Write data likewise.
    pub held_data: u64,
    /// Update information from the read start to the newest.
    pub unread_information: u64,
    /// Update information from the retry start to the read start: what it was sent and has not reported as durable.
    pub again_information: u64,
}

/// The head of an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    /// What follows.
    pub outcome: Outcome,
    /// Group, by the number of the answering array.
    pub group: u32,
    /// Updates in this answer.
    pub updates: u32,
    /// Counter of the newest generation there.
    pub generation: u32,
    /// Number of the first update in this answer, or the next one that will be handed out.
    pub first: u64,
    /// The newest number that is durable at the source.
    pub newest_durable: u64,
    /// The oldest number still held there.
    pub oldest_held: u64,
    /// The newest number given at the array that gives numbers, as far as it has been heard of there.
    pub newest_given: u64,
    /// How long ago it was heard of, in milliseconds, all hops together: 0 at the array that gives numbers.
    pub heard_ms: u32,
    /// Update information area: used and capacity, bytes.
    pub information_bytes: (u64, u64),
    /// Write data area: used and capacity, bytes.
    pub data_bytes: (u64, u64),
    /// The primary's own wall clock.
    pub wall_ns: u64,
    /// Write data that this reader has not been handed yet.
    pub unread_bytes: u64,
    /// This reader's pointers there (figure 8), as distances over all journal volumes.
    pub pointers: PointerDistances,
    /// Room that the first update needs; zero but for [`Outcome::MoreRoom`].
    pub room_bytes: u32,
    /// How busy the answering array is.
    pub load_permille: u32,
    /// At the array that gives numbers: the reader is its synchronous copy.
    pub is_second: bool,
}

/// Why an answer is not believed; the peer is to blame.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum AnswerError {
    /// Too short, wrong magic or version.
    #[error("the answer is no journal read answer of version 3")]
    NotAnAnswer,
    /// Damaged on the way or by the peer.
    #[error("the checksum over head and records is wrong")]
    Checksum,
    /// A field that no correct peer sends.
    #[error("field out of range: {0}")]
    Field(&'static str),
}

impl Head {
    /// Head and records as whole pages' bytes.
    #[must_use]
    pub fn encode(&self, records: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity((HEAD_BYTES + records.len()).next_multiple_of(SLOT_BYTES));
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&[self.outcome.code(), u8::from(self.is_second)]);
        let pages = (HEAD_BYTES + records.len()).div_ceil(SLOT_BYTES);
        for word in [self.group, self.updates, u32::try_from(pages).unwrap_or(u32::MAX), self.generation] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        let (info, data) = (self.information_bytes, self.data_bytes);
        for word in [
            self.first,
            self.newest_durable,
            self.oldest_held,
            self.newest_given,
            info.0,
            info.1,
            data.0,
            data.1,
            self.wall_ns,
            self.unread_bytes,
        ] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        out.extend_from_slice(&u32::try_from(records.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(&self.room_bytes.to_be_bytes());
        out.extend_from_slice(&self.load_permille.to_be_bytes());
        out.resize(POINTERS_AT, 0);
        let PointerDistances { held_information, held_data, unread_information, again_information } =
            self.pointers;
        for word in [held_information, held_data, unread_information, again_information] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        out.extend_from_slice(&self.heard_ms.to_be_bytes());
        out.resize(HEAD_BYTES - 4, 0);
        let crc = checksum(&out, records);
        out.extend_from_slice(&crc.to_be_bytes());
        out.extend_from_slice(records);
        out.resize(pages * SLOT_BYTES, 0);
        out
    }

    /// How many pages the head announces for itself and the records: what has to be looked at before `decode`.
    pub fn announced_pages(first_page: &[u8]) -> Result<u32, AnswerError> {
        if first_page.get(..4) != Some(MAGIC.as_slice())
            || first_page.get(4..6) != Some(&VERSION.to_be_bytes())
        {
            return Err(AnswerError::NotAnAnswer);
        }
        let pages = word32(first_page, 16)?;
        if pages == 0 || pages > MAX_RECORD_PAGES {
            Err(AnswerError::Field("pages of records"))
        } else {
            Ok(pages)
        }
    }

    /// Says in an encoded head that the write data behind it is `bytes` of zstd, `pages` uncompressed.
    ///
    /// # Errors
    /// `encoded` is not what [`Head::encode`] makes.
    pub fn announce_packed(encoded: &mut [u8], bytes: u32, pages: u32) -> Result<(), AnswerError> {
        let length =
            usize::try_from(word32(encoded, 104)?).map_err(|_| AnswerError::Field("bytes of records"))?;
        let (head, records) = encoded.split_at_mut_checked(HEAD_BYTES).ok_or(AnswerError::NotAnAnswer)?;
        head[116..120].copy_from_slice(&bytes.to_be_bytes());
        head[120..124].copy_from_slice(&pages.to_be_bytes());
        let records = records.get(..length).ok_or(AnswerError::Field("bytes of records"))?;
        let crc = checksum(&head[..HEAD_BYTES - 4], records);
        head[HEAD_BYTES - 4..].copy_from_slice(&crc.to_be_bytes());
        Ok(())
    }

    /// What the first page says of compressed write data, unchecked: its bytes, and its pages uncompressed.
    ///
    /// # Errors
    /// It is too short.
    pub fn packed(first_page: &[u8]) -> Result<Option<(u32, u32)>, AnswerError> {
        let (bytes, pages) = (word32(first_page, 116)?, word32(first_page, 120)?);
        Ok((bytes != 0).then_some((bytes, pages)))
    }

    /// The head, and the records behind it.
    pub fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), AnswerError> {
        Self::announced_pages(bytes)?;
        let length =
            usize::try_from(word32(bytes, 104)?).map_err(|_| AnswerError::Field("bytes of records"))?;
        let records = bytes.get(HEAD_BYTES..).and_then(|rest| rest.get(..length));
        let records = records.ok_or(AnswerError::Field("bytes of records"))?;
        if word32(bytes, HEAD_BYTES - 4)? != checksum(&bytes[..HEAD_BYTES - 4], records) {
            return Err(AnswerError::Checksum);
        }
        let outcome = match bytes[6] {
            0 => Outcome::Updates,
            1 => Outcome::NoJournal,
            2 => Outcome::GroupNotNormal,
            3 => Outcome::NotHeld,
            4 => Outcome::Suspended,
            5 => Outcome::MoreRoom,
            6 => Outcome::CopyEnded,
            7 => Outcome::Tables,
            _ => return Err(AnswerError::Field("outcome")),
        };
        let updates = word32(bytes, 12)?;
        if updates > MAX_UPDATES {
            return Err(AnswerError::Field("updates"));
        }
        let head = Self {
            outcome,
            group: word32(bytes, 8)?,
            updates,
            generation: word32(bytes, 20)?,
            first: word64(bytes, 24)?,
            newest_durable: word64(bytes, 32)?,
            oldest_held: word64(bytes, 40)?,
            newest_given: word64(bytes, 48)?,
            heard_ms: word32(bytes, HEARD_AT)?,
            information_bytes: (word64(bytes, 56)?, word64(bytes, 64)?),
            data_bytes: (word64(bytes, 72)?, word64(bytes, 80)?),
            wall_ns: word64(bytes, 88)?,
            unread_bytes: word64(bytes, 96)?,
            pointers: PointerDistances {
                held_information: word64(bytes, POINTERS_AT)?,
                held_data: word64(bytes, POINTERS_AT + 8)?,
                unread_information: word64(bytes, POINTERS_AT + 16)?,
                again_information: word64(bytes, POINTERS_AT + 24)?,
            },
            room_bytes: word32(bytes, 108)?,
            load_permille: word32(bytes, 112)?,
            is_second: bytes[7] & 1 != 0,
        };
        Ok((head, records))
    }
}

/// The text behind a head that says why, fit to be shown: no control characters, not too long.
#[must_use]
pub fn reason(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes.get(..MAX_REASON_BYTES).unwrap_or(bytes)).into_owned();
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

const MAGIC: &[u8; 4] = b"HFJA";
const VERSION: u16 = 3;
/// Where the distances begin.
const POINTERS_AT: usize = 124;
/// And the age of what was heard.
const HEARD_AT: usize = 156;

fn checksum(head: &[u8], records: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(head);
    digest.update(records);
    u32::try_from(digest.finalize()).unwrap_or(0)
}

fn word32(bytes: &[u8], at: usize) -> Result<u32, AnswerError> {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>()).ok_or(AnswerError::NotAnAnswer)?;
    Ok(u32::from_be_bytes(*word))
}

fn word64(bytes: &[u8], at: usize) -> Result<u64, AnswerError> {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()).ok_or(AnswerError::NotAnAnswer)?;
    Ok(u64::from_be_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        Head {
            outcome: Outcome::Updates,
            group: 3,
            updates: 2,
            generation: 7,
            first: 11,
            newest_durable: 40,
            oldest_held: 5,
            newest_given: 41,
            heard_ms: 19,
            information_bytes: (4096, 8192),
            data_bytes: (1, 2),
            wall_ns: 99,
            unread_bytes: 12,
            pointers: PointerDistances {
                held_information: 15,
                held_data: 16,
                unread_information: 17,
                again_information: 18,
            },
            room_bytes: 13,
            load_permille: 14,
            is_second: true,
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let bytes = head().encode(b"records");
        assert_eq!(bytes.len(), SLOT_BYTES);
        assert_eq!(Head::decode(&bytes), Ok((head(), b"records".as_slice())));
        assert_eq!(head().encode(&[1; SLOT_BYTES]).len(), 2 * SLOT_BYTES);
    }

    #[test]
    fn no_flipped_byte_passes() {
        let good = head().encode(b"records");
        for at in 0..HEAD_BYTES + 7 {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            assert!(Head::decode(&bad).is_err(), "byte {at}");
        }
        for cut in 0..HEAD_BYTES + 7 {
            assert!(Head::decode(&good[..cut]).is_err());
        }
    }
}
