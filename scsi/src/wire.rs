//! Big-endian fields at fixed offsets, without indexing.
//!
//! Reading past the end gives zero and writing past the end does nothing: callers have compared the length with the command's row
//! (`cdb::table`) or with the list's header before they come here, so neither happens; a mistake stays a wrong field, not a panic.

pub(crate) fn u8_at(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array_at(bytes, at))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array_at(bytes, at))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(array_at(bytes, at))
}

pub(crate) fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|tail| tail.first_chunk::<N>()).copied().unwrap_or([0; N])
}

pub(crate) fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    if let Some(place) = at.checked_add(field.len()).and_then(|end| bytes.get_mut(at..end)) {
        place.copy_from_slice(field);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_big_endian_and_the_end_is_zero() {
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(u8_at(&bytes, 7), 8);
        assert_eq!(u16_at(&bytes, 1), 0x0203);
        assert_eq!(u32_at(&bytes, 4), 0x0506_0708);
        assert_eq!(u64_at(&bytes, 0), 0x0102_0304_0506_0708);
        assert_eq!((u8_at(&bytes, 8), u32_at(&bytes, 5), u64_at(&bytes, usize::MAX)), (0, 0, 0));
    }

    #[test]
    fn a_field_that_does_not_fit_changes_nothing() {
        let mut bytes = [9; 4];
        put(&mut bytes, 3, &[1, 2]);
        put(&mut bytes, usize::MAX, &[1]);
        assert_eq!(bytes, [9; 4]);
        put(&mut bytes, 2, &[1, 2]);
        assert_eq!(bytes, [9, 9, 1, 2]);
    }
}
