//! Who a logical unit is: the texts and identifiers that INQUIRY and its vital product data pages show (SPC-4, 6.6 and 7.8).
//!
//! All of them are checked when they are made, so that building a page cannot fail.

use alloc::{string::String, vec::Vec};

/// The T10 vendor identification of all units here.
pub const VENDOR: [u8; 8] = *b"HOLDFAST";

/// Printable ASCII (20h to 7Eh, as SPC-4 4.4.1 demands) of at most `MAX` characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AsciiText<const MAX: usize>(String);

impl<const MAX: usize> AsciiText<MAX> {
    /// The text, unless it is too long or has other characters.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let printable = text.bytes().all(|byte| (0x20..=0x7E).contains(&byte));
        (printable && text.len() <= MAX).then(|| Self(String::from(text)))
    }

    /// The text itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Left-aligned, filled with spaces to the full width.
    pub(crate) fn padded(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(MAX);
        bytes.extend(self.0.bytes());
        bytes.resize(MAX, b' ');
        bytes
    }
}

/// A sixteen-byte NAA identifier of type 6 (IEEE registered extended): the world-wide name of a logical unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Naa([u8; 16]);

impl Naa {
    /// The identifier, if its first half byte says type 6.
    #[must_use]
    pub fn new(bytes: [u8; 16]) -> Option<Self> {
        let [first, ..] = bytes;
        (first >> 4 == 6).then_some(Self(bytes))
    }

    /// All sixteen bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

/// Everything that names one logical unit and the port through which it is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Product identification.
    pub product: AsciiText<16>,
    /// Product revision level.
    pub revision: AsciiText<4>,
    /// Unit serial number, the same at every port and forever.
    pub serial: AsciiText<64>,
    /// World-wide name, the same at every port and forever.
    pub naa: Naa,
    /// iSCSI name of the target; RFC 7143 allows 223 bytes.
    pub target_name: AsciiText<223>,
    /// Relative target port identifier, from 1. Other than that of every array that shows the same unit.
    pub relative_port: u16,
    /// Portal group tag, with which the name of the port ends.
    pub portal_group: u16,
    /// Target port group: the ports that are in the same state of access. Other than that of every array that shows the same unit.
    pub target_port_group: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_printable_short_and_padded_with_spaces() {
        assert_eq!(AsciiText::<4>::new("ab").unwrap().padded(), b"ab  ");
        assert_eq!(AsciiText::<4>::new("abcd").unwrap().as_str(), "abcd");
        assert_eq!(AsciiText::<4>::new("abcde"), None);
        assert_eq!(AsciiText::<4>::new("a\n"), None);
        assert_eq!(AsciiText::<4>::new("é"), None);
    }

    #[test]
    fn a_world_wide_name_is_of_type_six() {
        let mut bytes = [0x11; 16];
        assert_eq!(Naa::new(bytes), None);
        bytes[0] = 0x60;
        assert_eq!(Naa::new(bytes).unwrap().to_bytes(), bytes);
    }
}
