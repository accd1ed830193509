//! One update: what one SCSI command changed, and where its write data lies.
//!
//! Invariants: an [`Update`] that [`Update::check`] accepted has at most [`MAX_EXTENTS`] extents, none of them empty or
//! past the end of the address space, and `data_bytes` is exactly what its extents need. Both the encoder and the
//! decoders call it, so neither a record nor a peer's answer can hold anything else.

use crate::bookmark::{Bookmark, BookmarkName, NAME_ENTRIES};
use crate::format::BLOCK_BYTES;
use crate::number::{ArrayNumber, Generation, UpdateNumber, VolumeNumber};
use alloc::borrow::Cow;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

/// Extents of one update: an UNMAP command with 256 descriptors is the longest list. A longer one is refused; the
/// caller limits the descriptors of a command to this.
pub const MAX_EXTENTS: usize = 256;
/// The longest repeated pattern (WRITE SAME with a 4096-byte block).
pub const MAX_PATTERN_BYTES: u32 = 4096;
/// Write data of one update. A longer transfer is refused: the caller's MAXIMUM TRANSFER LENGTH stays below it.
pub const MAX_UPDATE_DATA_BYTES: u32 = 16 << 20;

/// What one extent of an update becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// As many bytes of the write data as the extent is long.
    Data,
    /// Zeros (UNMAP, WRITE SAME of zeros, a skipped range); no write data.
    Zero,
    /// `bytes` bytes of the write data, repeated; the extent's length is a multiple of it.
    Pattern {
        /// Length of the pattern.
        bytes: u32,
    },
}

/// One changed range of one volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The P-VOL, by its number at the array that gave the update number.
    pub volume: VolumeNumber,
    /// First byte.
    pub start_bytes: u64,
    /// How many bytes; never 0.
    pub length_bytes: u64,
    /// What they become.
    pub content: Content,
}

impl Extent {
    /// Bytes of the write data that belong to this extent; extents' data lie back to back in the order of the list.
    pub fn payload_bytes(&self) -> u64 {
        match self.content {
            Content::Data => self.length_bytes,
            Content::Zero => 0,
            Content::Pattern { bytes } => u64::from(bytes),
        }
    }

    /// The byte behind the last one.
    pub fn end_bytes(&self) -> u64 {
        self.start_bytes.saturating_add(self.length_bytes)
    }

    /// Whether both change some byte.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.volume == other.volume
            && self.start_bytes < other.end_bytes()
            && other.start_bytes < self.end_bytes()
    }
}

/// Where the data of an initial-copy update is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyForm {
    /// At the primary: the range alone is recorded, its bytes are read from the P-VOL when they are sent.
    RangeOnly,
    /// On the wire and at an auxiliary: the bytes travel along; they are those of the P-VOL as of this number.
    Received {
        /// Every update up to this one, and perhaps later ones, is contained in the bytes.
        as_of: UpdateNumber,
    },
}

/// What an initial-copy update adds to its extents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitialCopy {
    /// The P-VOL of the pair that is copied.
    pub volume: VolumeNumber,
    /// The array that keeps the pair's S-VOL: for all other readers the update is empty.
    pub reader: ArrayNumber,
    /// This range ends the copy of the pair.
    pub last_of_pair: bool,
    /// Where the data is.
    pub form: CopyForm,
}

/// Why an update exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A host's command.
    HostWrite,
    /// A step of an initial copy.
    InitialCopy(InitialCopy),
    /// Nothing but the time: shows readers that the source lives, and how far behind they are.
    Heartbeat,
    /// A number that holds nothing: fills a gap so that numbers stay contiguous. With ranges (of zeros, which are not
    /// applied) it is a hole: it stands for a change of these ranges that its reader gets in another way.
    Void,
    /// A named point.
    Bookmark(BookmarkName),
    /// From here on, and until the next [`Kind::Whole`], the P-VOLs are no image of one moment: an array upstream copies
    /// differences into them.
    Broken,
    /// Here the P-VOLs are an image of one moment again.
    Whole,
}

impl Kind {
    /// Whether it is a number and a time, and changes nothing.
    #[must_use]
    pub fn is_empty(self) -> bool {
        match self {
            Self::HostWrite | Self::InitialCopy(_) => false,
            Self::Heartbeat | Self::Void | Self::Bookmark(_) | Self::Broken | Self::Whole => true,
        }
    }
}

/// One update: the update information without the places in a journal volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// Its number in the group.
    pub number: UpdateNumber,
    /// The generation in which the number was given.
    pub generation: Generation,
    /// Why it exists.
    pub kind: Kind,
    /// When the command was received, or created if the host said so; nanoseconds since 1970. Shown, never compared.
    pub time_ns: u64,
    /// What changed, in the order in which it is applied.
    pub extents: Vec<Extent>,
    /// Bytes of write data.
    pub data_bytes: u32,
    /// Checksum of the write data, computed when it arrived by who received it (this crate only carries it); 0 if there is
    /// none. It must not be CRC-32C, which data may carry itself.
    pub data_checksum: u32,
}

impl Update {
    /// Checks what every update must satisfy, whoever made it.
    pub fn check(&self) -> Result<(), UpdateError> {
        if self.number == UpdateNumber::NONE {
            return Err(UpdateError::Number);
        }
        if self.extents.len() > MAX_EXTENTS {
            return Err(UpdateError::TooManyExtents);
        }
        let mut payload_bytes = 0_u64;
        for extent in &self.extents {
            check_extent(extent)?;
            payload_bytes = payload_bytes.saturating_add(extent.payload_bytes());
        }
        let expected_bytes = match self.kind {
            Kind::HostWrite | Kind::InitialCopy(InitialCopy { form: CopyForm::Received { .. }, .. }) => {
                payload_bytes
            }
            Kind::InitialCopy(InitialCopy { form: CopyForm::RangeOnly, .. }) => 0,
            Kind::Void if payload_bytes == 0 => 0, // With ranges it is a hole.
            kind if kind.is_empty() && !self.extents.is_empty() => {
                return Err(UpdateError::ExtentsNotAllowed);
            }
            Kind::Heartbeat | Kind::Void | Kind::Bookmark(_) | Kind::Broken | Kind::Whole => 0,
        };
        if self.data_bytes > MAX_UPDATE_DATA_BYTES || u64::from(self.data_bytes) != expected_bytes {
            return Err(UpdateError::DataLength);
        }
        if self.data_bytes == 0 && self.data_checksum != 0 {
            return Err(UpdateError::DataLength);
        }
        Ok(())
    }

    /// Entries for extents that its record has: of a bookmark those that carry the name.
    pub fn entry_count(&self) -> usize {
        if self.bookmark().is_some() { NAME_ENTRIES } else { self.extents.len() }
    }

    /// What its record carries in their place.
    pub(crate) fn entries(&self) -> Cow<'_, [Extent]> {
        match self.bookmark() {
            Some(bookmark) => Cow::Owned(bookmark.name.to_entries()),
            None => Cow::Borrowed(&self.extents),
        }
    }

    /// The bookmark that it is.
    pub fn bookmark(&self) -> Option<Bookmark> {
        let Kind::Bookmark(name) = self.kind else { return None };
        Some(Bookmark { number: self.number, time_ns: self.time_ns, name })
    }

    /// The number up to which a volume must have been restored for this update's bytes to be consistent, if it is
    /// received initial-copy data.
    pub fn as_of(&self) -> Option<UpdateNumber> {
        match self.kind {
            Kind::InitialCopy(InitialCopy { form: CopyForm::Received { as_of }, .. }) => Some(as_of),
            Kind::InitialCopy(_) | Kind::HostWrite => None,
            Kind::Heartbeat | Kind::Void | Kind::Bookmark(_) | Kind::Broken | Kind::Whole => None,
        }
    }
}

fn check_extent(extent: &Extent) -> Result<(), UpdateError> {
    if extent.length_bytes == 0 || extent.start_bytes.checked_add(extent.length_bytes).is_none() {
        return Err(UpdateError::ExtentRange);
    }
    match extent.content {
        Content::Data | Content::Zero => Ok(()),
        Content::Pattern { bytes } => {
            let whole = extent.length_bytes.checked_rem(u64::from(bytes)) == Some(0);
            if whole && bytes <= MAX_PATTERN_BYTES { Ok(()) } else { Err(UpdateError::Pattern) }
        }
    }
}

/// Why something is not an update. From a peer it is the peer's fault, from [`crate::Journal::append`] the caller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateError {
    /// Number 0.
    Number,
    /// More than [`MAX_EXTENTS`].
    TooManyExtents,
    /// An extent is empty or passes the end of the address space.
    ExtentRange,
    /// A pattern is empty, longer than [`MAX_PATTERN_BYTES`] or does not divide its extent.
    Pattern,
    /// The kind carries no extents.
    ExtentsNotAllowed,
    /// The data length is over the maximum or is not what kind and extents need.
    DataLength,
    /// The data does not begin inside its first block.
    Skip,
}

impl fmt::Display for UpdateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Number => "update number 0",
            Self::TooManyExtents => "more extents than one update may have",
            Self::ExtentRange => "an extent is empty or passes the end of the address space",
            Self::Pattern => "a pattern is empty, too long or does not divide its extent",
            Self::ExtentsNotAllowed => "this kind of update carries no extents",
            Self::DataLength => "the data length is not what kind and extents need",
            Self::Skip => "the data does not begin inside its first block",
        })
    }
}

impl core::error::Error for UpdateError {}

/// An update that asks for a place in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// The update; its number must be the journal's next.
    pub update: Arc<Update>,
    /// Offset of the first data byte inside its first 4096-byte block, below 4096.
    pub skip_bytes: u16,
}

impl Draft {
    /// A draft whose data lies as cache pages lay it: the first byte at its volume offset modulo the block size if
    /// the first data belongs to a [`Content::Data`] extent, else at the beginning of a block.
    pub fn new(update: impl Into<Arc<Update>>) -> Self {
        let update = update.into();
        let first = update.extents.iter().find(|extent| extent.content != Content::Zero);
        let skip_bytes = match first {
            Some(extent) if extent.content == Content::Data => extent.start_bytes % BLOCK_BYTES,
            Some(_) | None => 0,
        };
        let skip_bytes = if update.data_bytes == 0 { 0 } else { u16::try_from(skip_bytes).unwrap_or(0) };
        Self { update, skip_bytes }
    }

    /// What it needs.
    pub fn size(&self) -> DraftSize {
        DraftSize {
            extent_count: self.update.entry_count(),
            data_blocks: data_blocks(self.update.data_bytes, self.skip_bytes),
        }
    }
}

/// Blocks that `data_bytes` bytes take if the first lies `skip_bytes` into its block.
pub(crate) fn data_blocks(data_bytes: u32, skip_bytes: u16) -> u64 {
    if data_bytes == 0 {
        return 0;
    }
    u64::from(data_bytes).saturating_add(u64::from(skip_bytes)).div_ceil(BLOCK_BYTES)
}

/// The room that a draft needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DraftSize {
    /// How many extents.
    pub extent_count: usize,
    /// Whole blocks of ring B.
    pub data_blocks: u64,
}

/// Where the write data of an update lies in the journal volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataPlace {
    /// Byte offset on the journal volume of the first block; a multiple of 4096.
    pub volume_offset_bytes: u64,
    /// How many blocks, contiguous.
    pub blocks: u64,
    /// Offset of the first data byte in the first block.
    pub skip_bytes: u16,
}

/// An update and the place of its data; `None` if it has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The update; the journal and whoever keeps it in memory share it.
    pub update: Arc<Update>,
    /// The place of its data.
    pub place: Option<DataPlace>,
}
