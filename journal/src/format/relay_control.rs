//! Control information of a relay (promises X2, X3): what each of the two arrays says of the chain. Part of `relay.rs`.

use super::bytes::{Reader, Writer};
use super::relay::{
    FIRST_MAGIC, MAX_INFORMATION_BYTES, MAX_JOURNAL_BLOCKS, Position, RelayId, SEALED_LENGTH, SECOND_MAGIC,
    open, put_generation, put_id, take_flag, take_generation, take_id,
};
use super::{BLOCK_LENGTH, FormatError, VERSION};
use crate::number::{Generation, Incarnation, UpdateNumber};
use crate::reader::Report;
use alloc::vec::Vec;

/// Control information of the first array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstControl {
    /// The chain.
    pub incarnation: Incarnation,
    /// For whom.
    pub id: RelayId,
    /// One more each time.
    pub sequence: u64,
    /// Blocks of the journal LUN in use.
    pub journal_blocks: u64,
    /// Where the oldest batch is that is held; that behind the newest if none is.
    pub oldest: Position,
    /// Behind the newest batch that was complete when this was written; there may be more.
    pub newest: Position,
    /// When, ns since 1970.
    pub wall_ns: u64,
    /// Bytes that stand behind it, and their checksum.
    pub information: (u32, u32),
    /// What becomes of hosts that write.
    pub hosts: Hosts,
    /// Which journals are in the chain.
    pub has: Has,
    /// Later control information goes straight to the second array while it asks for it.
    pub by_link: bool,
    /// The chain before, if it has what this one and those on the other relays do not have yet.
    pub kept: Option<Kept>,
}

/// A chain that lies on a journal LUN beside the one that is written, as it was when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The chain.
    pub incarnation: Incarnation,
    /// Blocks of the journal LUN that it uses.
    pub journal_blocks: u64,
    /// Where its oldest batch is.
    pub oldest: Position,
    /// Behind its newest batch.
    pub newest: Position,
}

impl Kept {
    fn put(&self, out: &mut Writer<'_>) {
        out.put(&self.incarnation.get().to_le_bytes()).u64(self.journal_blocks);
        self.oldest.put(out);
        self.newest.put(out);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, FormatError> {
        let incarnation = Incarnation::new(input.u128()?);
        let journal_blocks = input.u64()?;
        let (oldest, newest) = (Position::take(input)?, Position::take(input)?);
        check_chain(&oldest, &newest, journal_blocks)?;
        Ok(Self { incarnation, journal_blocks, oldest, newest })
    }
}

/// Which journals are in a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Has {
    /// All that the second array had not reported when they were put there.
    #[default]
    All,
    /// Some of them; the others are on other relays. Their numbers rise along the chain all the same.
    Parts,
}

/// What the first array says of its hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    /// The operator lets them wait for the relay.
    pub wait: bool,
    /// The second array's question to which this is the answer; none: 0.
    pub question: u64,
    /// For so long, from the asking of that question on, everything that hosts are answered is on this relay or at the
    /// second array; 0: that is not said. In milliseconds.
    pub lease_ms: u32,
    /// Of relays with parts: everything is on so many of them together. 0: on this one.
    pub relays: u32,
}

/// Control information of the second array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecondControl {
    /// The chain that was read last.
    pub incarnation: Incarnation,
    /// For whom.
    pub id: RelayId,
    /// One more each time.
    pub sequence: u64,
    /// Where the second array is.
    pub report: Report,
    /// Generation of its newest update: a report of another history is none.
    pub generation: Generation,
    /// When, ns since 1970 by its clock.
    pub wall_ns: u64,
    /// Its newest question whether it is synchronised, one more each time; 0: none.
    pub question: u64,
}

impl FirstControl {
    /// The block in front of the information, whose length and checksum are in `information`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut block = Vec::new();
        let mut out = Writer::new(&mut block, BLOCK_LENGTH);
        out.put(FIRST_MAGIC).u32(VERSION).u32(self.information.0);
        out.put(&self.incarnation.get().to_le_bytes());
        put_id(&mut out, self.id);
        out.u32(self.information.1).u64(self.sequence).u64(self.journal_blocks);
        self.oldest.put(&mut out);
        self.newest.put(&mut out);
        out.u64(self.wall_ns);
        let Hosts { wait, question, lease_ms, relays } = self.hosts;
        out.u64(question).u32(wait.into()).u32(lease_ms);
        out.u32((self.has == Has::Parts).into()).u32(self.by_link.into());
        out.u32(relays).u32(self.kept.is_some().into());
        if let Some(kept) = &self.kept {
            kept.put(&mut out);
        }
        out.pad_to(SEALED_LENGTH);
        out.seal();
        block
    }

    /// Reads the block; the information is for the caller to read and to compare with its checksum.
    ///
    /// # Errors
    /// It is no control information that a correct array writes.
    pub fn decode(block: &[u8]) -> Result<Self, FormatError> {
        let (mut input, _) = open(block, FIRST_MAGIC)?;
        let length = input.u32()?;
        let incarnation = Incarnation::new(input.u128()?);
        let id = take_id(&mut input)?;
        let crc = input.u32()?;
        let (sequence, journal_blocks) = (input.u64()?, input.u64()?);
        let oldest = Position::take(&mut input)?;
        let newest = Position::take(&mut input)?;
        let wall_ns = input.u64()?;
        let (question, wait, lease_ms) = (input.u64()?, take_flag(&mut input)?, input.u32()?);
        let has = if take_flag(&mut input)? { Has::Parts } else { Has::All };
        let by_link = take_flag(&mut input)?;
        let hosts = Hosts { wait, question, lease_ms, relays: input.u32()? };
        let kept = if take_flag(&mut input)? {
            Some(Kept::take(&mut input)?)
        } else {
            input.reserved(KEPT_LENGTH)?;
            None
        };
        input.reserved(SEALED_LENGTH - 160 - KEPT_LENGTH)?;
        if usize::try_from(length).is_ok_and(|length| length > MAX_INFORMATION_BYTES) {
            return Err(FormatError::Length);
        }
        check_chain(&oldest, &newest, journal_blocks)?;
        let information = (length, crc);
        Ok(Self {
            incarnation,
            id,
            sequence,
            journal_blocks,
            oldest,
            newest,
            wall_ns,
            information,
            hosts,
            has,
            by_link,
            kept,
        })
    }
}

fn check_chain(oldest: &Position, newest: &Position, journal_blocks: u64) -> Result<(), FormatError> {
    let is_ordered = oldest.sequence <= newest.sequence && oldest.number <= newest.number;
    // The end of the LUN is a place, too: the next batch is looked for at its beginning.
    let is_within = oldest.place.max(newest.place) <= journal_blocks;
    match is_ordered && is_within && journal_blocks <= MAX_JOURNAL_BLOCKS {
        true => Ok(()),
        false => Err(FormatError::Reserved),
    }
}

impl SecondControl {
    /// The block.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut block = Vec::new();
        let mut out = Writer::new(&mut block, BLOCK_LENGTH);
        out.put(SECOND_MAGIC).u32(VERSION).u32(0);
        out.put(&self.incarnation.get().to_le_bytes());
        put_id(&mut out, self.id);
        out.u32(0).u64(self.sequence);
        let Report { acknowledged, restored, settled, consistent_from } = self.report;
        for number in [acknowledged, restored, settled, consistent_from] {
            out.u64(number.get());
        }
        put_generation(&mut out, self.generation);
        out.u64(self.wall_ns).u64(self.question);
        out.pad_to(SEALED_LENGTH);
        out.seal();
        block
    }

    /// Reads the block.
    ///
    /// # Errors
    /// It is no control information that a correct array writes.
    pub fn decode(block: &[u8]) -> Result<Self, FormatError> {
        let (mut input, _) = open(block, SECOND_MAGIC)?;
        input.reserved(4)?;
        let incarnation = Incarnation::new(input.u128()?);
        let id = take_id(&mut input)?;
        input.reserved(4)?;
        let sequence = input.u64()?;
        let report = Report {
            acknowledged: UpdateNumber::new(input.u64()?),
            restored: UpdateNumber::new(input.u64()?),
            settled: UpdateNumber::new(input.u64()?),
            consistent_from: UpdateNumber::new(input.u64()?),
        };
        let generation = take_generation(&mut input)?;
        let wall_ns = input.u64()?;
        let question = input.u64()?;
        input.reserved(SEALED_LENGTH - 120)?;
        Ok(Self { incarnation, id, sequence, report, generation, wall_ns, question })
    }
}

/// Bytes of [`Kept`].
const KEPT_LENGTH: usize = 80;
