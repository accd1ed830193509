//! Little-endian reading with every length checked, and writing; shared by all forms.

use super::FormatError;
use alloc::vec::Vec;
use crc_fast::CrcAlgorithm;

/// CRC32C (Castagnoli) as everywhere in the array.
pub fn crc32c(bytes: &[u8]) -> u32 {
    // The algorithm has 32 bits, the library's result type 64.
    u32::try_from(crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes)).unwrap_or(u32::MAX)
}

/// What is left to read.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(FormatError::TooShort)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn slice(&mut self, count: usize) -> Result<&'a [u8], FormatError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(FormatError::TooShort)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, FormatError> {
        Ok(u8::from_le_bytes(self.take()?))
    }

    pub(super) fn u16(&mut self) -> Result<u16, FormatError> {
        Ok(u16::from_le_bytes(self.take()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, FormatError> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    pub(super) fn u128(&mut self) -> Result<u128, FormatError> {
        Ok(u128::from_le_bytes(self.take()?))
    }

    /// Reserved bytes are written as 0; anything else is a later version's and not ours to guess.
    pub(super) fn reserved(&mut self, count: usize) -> Result<(), FormatError> {
        if self.slice(count)?.iter().all(|byte| *byte == 0) { Ok(()) } else { Err(FormatError::Reserved) }
    }
}

/// A structure being written behind what `bytes` already holds.
pub(super) struct Writer<'a> {
    bytes: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Writer<'a> {
    pub(super) fn new(bytes: &'a mut Vec<u8>, length: usize) -> Self {
        bytes.reserve(length);
        let start = bytes.len();
        Self { bytes, start }
    }

    pub(super) fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub(super) fn u8(&mut self, value: u8) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    pub(super) fn u16(&mut self, value: u16) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    /// Zeros up to `length` bytes of the structure, which is never below what has been written.
    pub(super) fn pad_to(&mut self, length: usize) -> &mut Self {
        let end = self.start.saturating_add(length).max(self.bytes.len());
        self.bytes.resize(end, 0);
        self
    }

    /// Ends the structure with the checksum of all of it, and gives the checksum.
    pub(super) fn seal(mut self) -> u32 {
        let crc = crc32c(self.bytes.get(self.start..).unwrap_or(&[]));
        self.u32(crc);
        crc
    }
}

/// Checks the checksum in the last four bytes and gives what it covers, and the checksum.
pub(super) fn unseal(bytes: &[u8]) -> Result<(&[u8], u32), FormatError> {
    let (covered, crc) = bytes.split_last_chunk::<4>().ok_or(FormatError::TooShort)?;
    let crc = u32::from_le_bytes(*crc);
    if crc32c(covered) == crc { Ok((covered, crc)) } else { Err(FormatError::Checksum) }
}
