//! Header and data digests: CRC32C (RFC 7143 section 13.1), incremental over several slices.
//!
//! A digest covers the padding too, and travels least significant byte first (RFC 7143 appendix B.4 shows the
//! values on the wire). The header digest covers BHS and AHS, the data digest the data segment and its pad bytes.

use crc_fast::{CrcAlgorithm, Digest as Crc};

/// A CRC32C in the making.
#[derive(Clone, Debug)]
pub struct Digest(Crc);

impl Default for Digest {
    fn default() -> Self {
        Self::new()
    }
}

impl Digest {
    /// A digest of nothing so far.
    #[must_use]
    pub fn new() -> Self {
        Self(Crc::new(CrcAlgorithm::Crc32Iscsi))
    }

    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Adds the zero bytes that fill a segment of `length` bytes up to a multiple of four.
    pub fn update_padding(&mut self, length: usize) {
        let padding = length.wrapping_neg() % 4;
        self.0.update([0_u8; 3].get(..padding).unwrap_or_default());
    }

    /// The four bytes as they stand on the wire.
    #[must_use]
    pub fn finish(&self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.0.finalize().to_le_bytes();
        [a, b, c, d]
    }

    /// Whether `wire`, the four bytes received, is the digest of what was added.
    #[must_use]
    pub fn matches(&self, wire: [u8; 4]) -> bool {
        self.finish() == wire
    }
}

/// The header digest of a BHS and its AHS.
#[must_use]
pub fn header_digest(bhs: &[u8; 48], ahs: &[u8]) -> [u8; 4] {
    let mut digest = Digest::new();
    digest.update(bhs);
    digest.update(ahs);
    digest.finish()
}

/// The data digest of a data segment that lies in one piece; its padding is added here.
#[must_use]
pub fn data_digest(segment: &[u8]) -> [u8; 4] {
    let mut digest = Digest::new();
    digest.update(segment);
    digest.update_padding(segment.len());
    digest.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_standard_come_out_as_printed() {
        assert_eq!(data_digest(&[0; 32]), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(data_digest(&[0xff; 32]), [0x43, 0xab, 0xa8, 0x62]);
        let rising: [u8; 32] = core::array::from_fn(|at| u8::try_from(at).unwrap());
        assert_eq!(data_digest(&rising), [0x4e, 0x79, 0xdd, 0x46]);
    }

    #[test]
    fn slices_give_the_same_digest_as_one_piece_and_padding_counts() {
        let mut digest = Digest::new();
        digest.update(b"ab");
        digest.update(b"cde");
        digest.update_padding(5);
        assert_eq!(digest.finish(), data_digest(b"abcde\0\0\0"));
        assert_eq!(digest.finish(), data_digest(b"abcde"));
        assert!(digest.matches(data_digest(b"abcde")));
        assert!(!digest.matches([0; 4]));
    }

    #[test]
    fn the_header_digest_covers_the_additional_segments() {
        assert_ne!(header_digest(&[1; 48], &[]), header_digest(&[1; 48], &[0, 1, 2, 3]));
    }
}
