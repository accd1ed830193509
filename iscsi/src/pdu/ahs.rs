//! Additional header segments (RFC 7143 sections 11.2.2 and 11.3.7): longer CDBs.
//!
//! ```text
//! 0..2 AHSLength (bytes after byte 3, without padding)   2 AHSType   3 specific   4.. rest, padded to words
//! type 1, extended CDB:  3 reserved, 4.. CDB bytes from the 17th on; AHSLength counts byte 3
//! type 2, expected bidirectional read data length:  AHSLength 5
//! ```
//!
//! A bidirectional command is refused: no command of a block device needs one.

use super::PduError;

/// All additional header segments of one PDU together; more closes the connection.
pub const MAX_AHS_BYTES: usize = 256;

/// The longest CDB taken (SPC allows 260 bytes; the longest that any device server here knows is far below).
pub const MAX_CDB_BYTES: usize = 128;

/// Bytes of the CDB that the header itself holds.
pub const HEADER_CDB_BYTES: usize = 16;

const EXTENDED_CDB: u8 = 1;
const BIDIRECTIONAL_LENGTH: u8 = 2;

/// A command descriptor block of up to [`MAX_CDB_BYTES`], held inline.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Cdb {
    bytes: [u8; MAX_CDB_BYTES],
    length: u8,
}

impl core::fmt::Debug for Cdb {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Cdb({:02x?})", self.as_bytes())
    }
}

impl Cdb {
    /// The sixteen bytes that every SCSI Command PDU carries.
    #[must_use]
    pub fn new(header: [u8; HEADER_CDB_BYTES]) -> Self {
        let mut cdb = Self { bytes: [0; MAX_CDB_BYTES], length: 0 };
        cdb.append(&header);
        cdb
    }

    /// A CDB of any length up to the limit, filled with zeroes up to sixteen bytes; `None` beyond the limit.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let mut cdb = Self { bytes: [0; MAX_CDB_BYTES], length: 0 };
        cdb.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        cdb.length = u8::try_from(bytes.len().max(HEADER_CDB_BYTES)).ok()?;
        Some(cdb)
    }

    /// All bytes: at least sixteen, more if an extended CDB came along.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }

    /// The part that stands in the header.
    #[must_use]
    pub fn header_part(&self) -> [u8; HEADER_CDB_BYTES] {
        self.bytes.first_chunk().copied().unwrap_or_default()
    }

    /// The part that needs an additional header segment; empty for most commands.
    #[must_use]
    pub fn extended_part(&self) -> &[u8] {
        self.as_bytes().get(HEADER_CDB_BYTES..).unwrap_or_default()
    }

    /// Parses the additional header segments of a SCSI Command PDU and appends an extended CDB.
    ///
    /// # Errors
    /// When the segments do not fit their lengths, are of an unknown kind, ask for a bidirectional transfer, or
    /// make the CDB too long.
    pub fn with_ahs(mut self, ahs: &[u8]) -> Result<Self, PduError> {
        if ahs.len() > MAX_AHS_BYTES || !ahs.len().is_multiple_of(4) {
            return Err(PduError::AhsLength);
        }
        let mut rest = ahs;
        while let Some((&[high, low, kind], after)) = rest.split_first_chunk() {
            let length = usize::from(u16::from_be_bytes([high, low]));
            let body = after.get(..length).ok_or(PduError::AhsLength)?;
            match (kind, body) {
                // A second extended CDB is as wrong as an empty one.
                (EXTENDED_CDB, [_reserved, extension @ ..])
                    if self.extended_part().is_empty() && !extension.is_empty() =>
                {
                    if !self.append(extension) {
                        return Err(PduError::AhsLength);
                    }
                }
                (EXTENDED_CDB, _) => return Err(PduError::AhsLength),
                (other, _) => return Err(PduError::AhsType(other)),
            }
            let padded = 3 + length + (3 + length).wrapping_neg() % 4;
            rest = rest.get(padded..).ok_or(PduError::AhsLength)?;
        }
        if rest.is_empty() { Ok(self) } else { Err(PduError::AhsLength) }
    }

    /// Writes the additional header segment of the extended part, padded, into `out`; gives the bytes written
    /// (0 when the CDB fits the header).
    #[must_use]
    pub fn build_ahs<'out>(&self, out: &'out mut [u8; MAX_AHS_BYTES]) -> &'out [u8] {
        let extension = self.extended_part();
        if extension.is_empty() {
            return &[];
        }
        let [_, length] = (u16::from(self.length) - 16 + 1).to_be_bytes();
        let padded = (4 + extension.len()).next_multiple_of(4);
        out.fill(0);
        if let Some((head, tail)) = out.split_first_chunk_mut::<4>() {
            *head = [0, length, EXTENDED_CDB, 0];
            if let Some(place) = tail.get_mut(..extension.len()) {
                place.copy_from_slice(extension);
            }
        }
        out.get(..padded).unwrap_or_default()
    }

    fn append(&mut self, extension: &[u8]) -> bool {
        let start = usize::from(self.length);
        let end = start + extension.len();
        let (Some(place), Ok(length)) = (self.bytes.get_mut(start..end), u8::try_from(end)) else {
            return false;
        };
        place.copy_from_slice(extension);
        self.length = length;
        true
    }
}

/// Whether the segments ask for a bidirectional transfer, which gets an answer of its own.
#[must_use]
pub fn is_bidirectional(error: PduError) -> bool {
    error == PduError::AhsType(BIDIRECTIONAL_LENGTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Cdb {
        Cdb::new([0x7f; 16])
    }

    #[test]
    fn an_extended_cdb_survives_the_way_out_and_back() {
        for length in 1..=MAX_CDB_BYTES {
            let bytes: alloc::vec::Vec<u8> = (1..=u8::try_from(length).unwrap()).collect();
            let cdb = Cdb::from_slice(&bytes).unwrap();
            let mut out = [0; MAX_AHS_BYTES];
            let ahs = cdb.build_ahs(&mut out);
            assert_eq!(ahs.is_empty(), length <= 16);
            assert_eq!(Cdb::new(cdb.header_part()).with_ahs(ahs), Ok(cdb));
        }
        assert!(Cdb::from_slice(&[0; MAX_CDB_BYTES + 1]).is_none());
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        assert_eq!(plain().with_ahs(&[0, 200, 1, 0]), Err(PduError::AhsLength));
        assert_eq!(plain().with_ahs(&[0, 1, 1]), Err(PduError::AhsLength));
        assert_eq!(plain().with_ahs(&[0, 1, 1, 0]), Err(PduError::AhsLength));
        let mut long = [0; 124];
        long[1] = 121;
        long[2] = 1;
        assert_eq!(plain().with_ahs(&long), Err(PduError::AhsLength));
        assert_eq!(plain().with_ahs(&[0; 260]), Err(PduError::AhsLength));
    }

    #[test]
    fn a_bidirectional_length_and_unknown_kinds_are_refused() {
        let error = plain().with_ahs(&[0, 5, 2, 0, 0, 0, 2, 0]).unwrap_err();
        assert!(is_bidirectional(error));
        assert_eq!(plain().with_ahs(&[0, 1, 9, 0]), Err(PduError::AhsType(9)));
    }
}
