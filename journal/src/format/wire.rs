//! The record as it travels in the answer to a journal read: the same fields without places, checked by itself.
//!
//! ```text
//!   0  4  magic "HFUW"
//!   4  4  length of the whole record: 72 + 24 x extents
//!   8  1  kind, as in ring A but never a marker
//!   9  1  flags, as in ring A
//!  10  2  extents
//!  12  4  bytes of write data, which follow the record
//!  16  8  update number
//!  24 16  generation: counter 4, array 4, first number 8
//!  40  8  time in nanoseconds since 1970
//!  48  8  as of
//!  56  4  P-VOL of the initial copy
//!  60  4  checksum of the write data (CRC-64/NVME, both halves folded)
//!  64 24n extents
//!      4  initial copy: the reading array whose pair is copied, else 0
//!      4  CRC32C of all bytes before
//! ```

use super::FormatError;
use super::bytes::{Reader, Writer, unseal};
use super::record::{Body, EXTENT_BYTES, put_extents, put_generation, take_extents, take_generation};
use crate::number::{ArrayNumber, UpdateNumber, VolumeNumber};
use crate::update::{MAX_EXTENTS, Update};
use alloc::vec::Vec;

/// Bytes of a wire record without its extents.
pub const WIRE_BASE_BYTES: usize = 72;
/// The longest wire record.
pub const MAX_WIRE_BYTES: usize = WIRE_BASE_BYTES + MAX_EXTENTS * EXTENT_BYTES;
const WIRE_MAGIC: [u8; 4] = *b"HFUW";

/// Bytes of a wire record with that many extents, so that a reply can be planned before it is built.
pub const fn wire_length(extent_count: usize) -> usize {
    WIRE_BASE_BYTES.saturating_add(extent_count.saturating_mul(EXTENT_BYTES))
}

/// The bytes of `update`; its `data_bytes` bytes of write data follow them on the wire, without the skip.
pub fn encode_wire(update: &Update) -> Result<Vec<u8>, FormatError> {
    let mut bytes = Vec::new();
    encode_wire_to(update, &mut bytes)?;
    Ok(bytes)
}

/// Appends the bytes of `update` to those of others. On an error nothing is appended.
pub fn encode_wire_to(update: &Update, bytes: &mut Vec<u8>) -> Result<(), FormatError> {
    update.check()?;
    let extents = update.entries();
    let length = wire_length(extents.len());
    let body = Body::of_update(update);
    let (length_field, count_field) = (
        u32::try_from(length).map_err(|_| FormatError::Length)?,
        u16::try_from(extents.len()).map_err(|_| FormatError::Length)?,
    );
    let mut out = Writer::new(bytes, length);
    out.put(&WIRE_MAGIC).u32(length_field);
    out.u8(body.code).u8(body.flags);
    out.u16(count_field);
    out.u32(body.data_bytes).u64(update.number.get());
    put_generation(&mut out, update.generation);
    out.u64(body.time_ns).u64(body.as_of.get()).u32(body.pair_volume.0).u32(body.data_checksum);
    put_extents(&mut out, &extents)?;
    out.u32(body.reader.0);
    out.seal();
    Ok(())
}

/// The update at the start of `bytes` and the length of its record. [`FormatError::TooShort`] asks for more bytes; a
/// peer that sent all it wanted to send is then at fault.
pub fn decode_wire(bytes: &[u8]) -> Result<(Update, usize), FormatError> {
    let mut input = Reader::new(bytes);
    if input.take::<4>()? != WIRE_MAGIC {
        return Err(FormatError::Magic);
    }
    let length = usize::try_from(input.u32()?).map_err(|_| FormatError::Length)?;
    if !(WIRE_BASE_BYTES..=MAX_WIRE_BYTES).contains(&length) {
        return Err(FormatError::Length);
    }
    let (covered, _) = unseal(bytes.get(..length).ok_or(FormatError::TooShort)?)?;
    let mut input = Reader::new(covered);
    input.slice(8)?;
    let code = input.u8()?;
    let flags = input.u8()?;
    let extent_count = usize::from(input.u16()?);
    if length != wire_length(extent_count) {
        return Err(FormatError::Length);
    }
    let data_bytes = input.u32()?;
    let number = UpdateNumber::new(input.u64()?);
    let generation = take_generation(&mut input)?;
    let time_ns = input.u64()?;
    let as_of = UpdateNumber::new(input.u64()?);
    let pair_volume = VolumeNumber(input.u32()?);
    let data_checksum = input.u32()?;
    let extents = take_extents(&mut input, extent_count)?;
    let reader = ArrayNumber(input.u32()?);
    let body = Body { code, flags, time_ns, data_checksum, data_bytes, pair_volume, reader, as_of };
    Ok((body.update(number, generation, extents)?, length))
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::{arbitrary_update, fixed_update};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_flipped_bit_of_a_wire_record_is_found() {
        let bytes = encode_wire(&fixed_update()).unwrap();
        assert_eq!(bytes.len(), wire_length(3));
        for position in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[position / 8] ^= 1 << (position % 8);
            assert!(decode_wire(&damaged).is_err(), "bit {position}");
        }
        for length in 0..bytes.len() {
            assert_eq!(decode_wire(&bytes[..length]), Err(FormatError::TooShort));
        }
    }

    proptest! {
        #[test]
        fn a_wire_record_decodes_to_what_was_encoded(update in arbitrary_update()) {
            let mut bytes = encode_wire(&update).unwrap();
            let length = bytes.len();
            bytes.push(0xFF);
            prop_assert_eq!(decode_wire(&bytes), Ok((update, length)));
        }

        #[test]
        fn what_a_peer_sends_is_an_update_or_refused(
            update in arbitrary_update(), position in any::<prop::sample::Index>(), garbage in any::<[u8; 8]>(),
        ) {
            let mut bytes = encode_wire(&update).unwrap();
            let end = bytes.len() - 4;
            let at = position.index(end - 8);
            bytes[at..at + 8].copy_from_slice(&garbage);
            let crc = crate::format::crc32c(&bytes[..end]);
            bytes[end..].copy_from_slice(&crc.to_le_bytes());
            if let Ok((update, length)) = decode_wire(&bytes) {
                prop_assert_eq!(update.check(), Ok(()));
                prop_assert_eq!(encode_wire(&update).unwrap(), &bytes[..length]);
            }
        }
    }
}
