//! Framing: a 48-byte header, AHS, digests, data padded to four bytes (RFC 7143, 11.2).

use super::session::Digests;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Length of a basic header segment.
pub(crate) const HEADER_BYTES: usize = 48;

/// A PDU as it goes over the wire, its data not padded.
#[derive(Clone, Debug)]
pub(crate) struct Pdu {
    /// The basic header segment. The data length is filled in by [`encode`](Pdu::encode).
    pub(crate) header: [u8; HEADER_BYTES],
    /// The data segment.
    pub(crate) data: Vec<u8>,
}

impl Pdu {
    /// A PDU with this opcode byte and flags byte.
    pub(crate) fn new(opcode: u8, flags: u8, data: Vec<u8>) -> Self {
        let mut header = [0; HEADER_BYTES];
        header[0] = opcode;
        header[1] = flags;
        Self { header, data }
    }

    /// The opcode without the immediate bit.
    pub(crate) fn opcode(&self) -> u8 {
        self.header[0] & 0x3f
    }

    /// The big-endian word at `at`.
    pub(crate) fn word(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.header[at..at + 4].try_into().expect("four bytes"))
    }

    /// Sets the big-endian word at `at`.
    pub(crate) fn set_word(&mut self, at: usize, value: u32) {
        self.header[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    /// The bytes on the wire.
    pub(crate) fn encode(&self, digests: Digests) -> Vec<u8> {
        let length = u32::try_from(self.data.len()).expect("a segment is short").to_be_bytes();
        let mut header = self.header;
        header[5..8].copy_from_slice(&length[1..]);
        let mut bytes = header.to_vec();
        if digests == Digests::Crc32c {
            bytes.extend_from_slice(&crc32c(&header));
        }
        if !self.data.is_empty() {
            let start = bytes.len();
            bytes.extend_from_slice(&self.data);
            bytes.resize(start + self.data.len().next_multiple_of(4), 0);
            if digests == Digests::Crc32c {
                let crc = crc32c(&bytes[start..]);
                bytes.extend_from_slice(&crc);
            }
        }
        bytes
    }

    /// The next PDU of a stream.
    pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin), digests: Digests) -> io::Result<Self> {
        let mut header = [0; HEADER_BYTES];
        stream.read_exact(&mut header).await?;
        let mut additional = vec![0; usize::from(header[4]) * 4];
        stream.read_exact(&mut additional).await?;
        if digests == Digests::Crc32c {
            let covered = [header.as_slice(), &additional].concat();
            check(stream, &covered, "header digest").await?;
        }
        let length = u32::from_be_bytes([0, header[5], header[6], header[7]]);
        let length = usize::try_from(length).expect("24 bits");
        let mut data = vec![0; length.next_multiple_of(4)];
        stream.read_exact(&mut data).await?;
        if digests == Digests::Crc32c && length != 0 {
            check(stream, &data, "data digest").await?;
        }
        data.truncate(length);
        Ok(Self { header, data })
    }
}

async fn check(stream: &mut (impl AsyncRead + Unpin), covered: &[u8], what: &str) -> io::Result<()> {
    let mut digest = [0; 4];
    stream.read_exact(&mut digest).await?;
    if digest == crc32c(covered) { Ok(()) } else { Err(io::Error::other(format!("{what} wrong"))) }
}

fn crc32c(bytes: &[u8]) -> [u8; 4] {
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes);
    u32::try_from(crc).expect("a 32-bit checksum").to_le_bytes()
}
