//! Logical unit numbers in their eight-byte form (SAM-5, 4.6).
//!
//! Single-level numbers only: the peripheral method with bus 0 up to 255, the flat method up to 16,383. A reader takes both, a writer
//! uses the shortest that fits, so that a LUN has one form in REPORT LUNS.

use crate::wire;

/// A logical unit number, 0 to 16,383.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lun(u16);

impl Lun {
    /// LUN 0, at which every target answers.
    pub const ZERO: Self = Self(0);

    /// A LUN of this number, if it can be addressed.
    #[must_use]
    pub fn new(number: u16) -> Option<Self> {
        (number <= MAX_LUN).then_some(Self(number))
    }

    /// Reads the LUN field of a command. `None`: a form that no logical unit here has (answer as [`crate::unmapped_lun`]).
    #[must_use]
    pub fn from_bytes(bytes: [u8; 8]) -> Option<Self> {
        let first = wire::u16_at(&bytes, 0);
        let deeper = wire::u64_at(&bytes, 0) & 0x0000_FFFF_FFFF_FFFF;
        if deeper != 0 {
            return None;
        }
        match first >> METHOD_SHIFT {
            PERIPHERAL if first <= MAX_PERIPHERAL => Some(Self(first)),
            FLAT => Some(Self(first & MAX_LUN)),
            _ => None,
        }
    }

    /// The LUN as it is reported.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 8] {
        let first = if self.0 <= MAX_PERIPHERAL { self.0 } else { self.0 | (FLAT << METHOD_SHIFT) };
        let [high, low] = first.to_be_bytes();
        [high, low, 0, 0, 0, 0, 0, 0]
    }

    /// The plain number, as people write it.
    #[must_use]
    pub fn number(self) -> u16 {
        self.0
    }
}

const METHOD_SHIFT: u32 = 14;
const PERIPHERAL: u16 = 0b00;
const FLAT: u16 = 0b01;
const MAX_PERIPHERAL: u16 = 0xFF;
const MAX_LUN: u16 = 0x3FFF;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lun_survives_its_eight_bytes() {
        for number in 0..=MAX_LUN {
            let lun = Lun::new(number).unwrap();
            assert_eq!(Lun::from_bytes(lun.to_bytes()), Some(lun));
        }
        assert_eq!(Lun::new(MAX_LUN + 1), None);
    }

    #[test]
    fn small_numbers_are_understood_in_both_methods() {
        assert_eq!(Lun::from_bytes([0, 7, 0, 0, 0, 0, 0, 0]), Lun::new(7));
        assert_eq!(Lun::from_bytes([0x40, 7, 0, 0, 0, 0, 0, 0]), Lun::new(7));
        assert_eq!(Lun::new(256).unwrap().to_bytes(), [0x41, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn buses_other_methods_and_deeper_levels_are_not_supported() {
        assert_eq!(Lun::from_bytes([0x01, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(Lun::from_bytes([0x80, 1, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(Lun::from_bytes([0xC1, 1, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(Lun::from_bytes([0, 1, 0, 1, 0, 0, 0, 0]), None);
        assert_eq!(Lun::from_bytes([0, 1, 0, 0, 0, 0, 0, 1]), None);
    }
}
