//! Fields of the block commands (SBC-4, chapter 5).
//!
//! ```text
//! byte      READ/WRITE 6   10      12      16      SYNCHRONIZE CACHE, WRITE SAME 10 / 16
//! flags          -         1       1       1       1 / 1
//! address     1-3 (21 bit) 2-5     2-5     2-9     2-5 / 2-9
//! blocks         4         7-8     6-9     10-13   7-8 / 10-13
//!
//! COMPARE AND WRITE: address 2-9, blocks 13     WRITE ATOMIC: address 2-9, boundary 10-11, blocks 12-13
//! ```
//!
//! Lengths have been checked by `table::lookup`.

use super::table::Form;
use crate::block::Lba;
use crate::sense::Sense;
use crate::wire::{u8_at, u16_at, u32_at, u64_at};

/// READ and WRITE of any length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Transfer {
    pub(crate) start: Lba,
    pub(crate) blocks: u32,
    pub(crate) fua: bool,
    /// Where the command says how many blocks.
    pub(crate) blocks_at: u16,
}

impl Transfer {
    /// DPO is a hint and is accepted; protection information does not exist here, so asking for it is an error.
    #[inline]
    pub(crate) fn parse(form: Form, cdb: &[u8]) -> Result<Self, Sense> {
        let transfer = Self::placed(form, cdb);
        if form != Form::Six {
            refuse_protection(u8_at(cdb, 1))?;
        }
        Ok(transfer)
    }

    #[inline]
    fn placed(form: Form, cdb: &[u8]) -> Self {
        let (address, blocks, blocks_at) = match form {
            Form::Six => return Self::parse_six(cdb),
            Form::Ten => (u64::from(u32_at(cdb, 2)), u32::from(u16_at(cdb, 7)), 7),
            Form::Twelve => (u64::from(u32_at(cdb, 2)), u32_at(cdb, 6), 6),
            Form::Sixteen => (u64_at(cdb, 2), u32_at(cdb, 10), 10),
        };
        Self { start: Lba(address), blocks, fua: u8_at(cdb, 1) & FUA != 0, blocks_at }
    }

    /// COMPARE AND WRITE: how many blocks are compared, and written.
    pub(crate) fn parse_compare_and_write(cdb: &[u8]) -> Result<Self, Sense> {
        let flags = u8_at(cdb, 1);
        refuse_protection(flags)?;
        let blocks = u32::from(u8_at(cdb, 13));
        Ok(Self { start: Lba(u64_at(cdb, 2)), blocks, fua: flags & FUA != 0, blocks_at: 13 })
    }

    /// WRITE ATOMIC. There are no atomic boundaries here: the whole command is one.
    pub(crate) fn parse_write_atomic(cdb: &[u8]) -> Result<Self, Sense> {
        let flags = u8_at(cdb, 1);
        refuse_protection(flags)?;
        if u16_at(cdb, 10) != 0 {
            return Err(Sense::invalid_field_in_cdb(10));
        }
        let blocks = u32::from(u16_at(cdb, 12));
        Ok(Self { start: Lba(u64_at(cdb, 2)), blocks, fua: flags & FUA != 0, blocks_at: 12 })
    }

    /// The oldest form has no flags, and zero means 256 blocks.
    fn parse_six(cdb: &[u8]) -> Self {
        let blocks = match u8_at(cdb, 4) {
            0 => 256,
            blocks => u32::from(blocks),
        };
        Self { start: Lba(u64::from(u32_at(cdb, 0) & 0x001F_FFFF)), blocks, fua: false, blocks_at: 4 }
    }
}

/// What VERIFY, or the second half of WRITE AND VERIFY, looks at: the BYTCHK field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifyCheck {
    /// Nothing is sent; the blocks can be read.
    Readable,
    /// Every block is like the one that is sent for it.
    AllSent,
    /// Every block is like the single one that is sent.
    OneSent,
}

/// VERIFY and WRITE AND VERIFY of any length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verify {
    pub(crate) transfer: Transfer,
    pub(crate) check: VerifyCheck,
}

impl Verify {
    /// Bit 3 of the flags, which is FUA elsewhere, is reserved here.
    pub(crate) fn parse(form: Form, cdb: &[u8]) -> Result<Self, Sense> {
        let flags = u8_at(cdb, 1);
        refuse_protection(flags)?;
        let check = match (flags & BYTCHK) >> 1 {
            0 => VerifyCheck::Readable,
            1 => VerifyCheck::AllSent,
            3 => VerifyCheck::OneSent,
            _ => return Err(Sense::invalid_field_in_cdb(1)),
        };
        Ok(Self { transfer: Transfer { fua: false, ..Transfer::placed(form, cdb) }, check })
    }
}

/// PRE-FETCH, both lengths. Zero blocks mean all up to the end.
pub(crate) fn pre_fetch(form: Form, cdb: &[u8]) -> (Lba, u32, bool) {
    let Transfer { start, blocks, .. } = Transfer::placed(form, cdb);
    (start, blocks, u8_at(cdb, 1) & IMMED != 0)
}

/// GET LBA STATUS: where to begin, and the allocation length.
pub(crate) fn get_lba_status(cdb: &[u8]) -> (Lba, u32) {
    (Lba(u64_at(cdb, 2)), u32_at(cdb, 10))
}

/// WRITE SAME, both lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WriteSame {
    pub(crate) start: Lba,
    pub(crate) blocks: u32,
    pub(crate) unmap: bool,
    /// NDOB: the block is all zeros and is not sent.
    pub(crate) no_data: bool,
    pub(crate) blocks_at: u16,
}

impl WriteSame {
    pub(crate) fn parse_ten(cdb: &[u8]) -> Result<Self, Sense> {
        let (start, blocks) = (Lba(u64::from(u32_at(cdb, 2))), u32::from(u16_at(cdb, 7)));
        let unmap = Self::flags(cdb)?;
        Ok(Self { start, blocks, unmap, no_data: false, blocks_at: 7 })
    }

    pub(crate) fn parse_sixteen(cdb: &[u8]) -> Result<Self, Sense> {
        let unmap = Self::flags(cdb)?;
        let no_data = u8_at(cdb, 1) & NDOB != 0;
        Ok(Self { start: Lba(u64_at(cdb, 2)), blocks: u32_at(cdb, 10), unmap, no_data, blocks_at: 10 })
    }

    /// UNMAP. Anchored blocks do not exist (ANC_SUP is zero), nor do the obsolete patterns PBDATA and LBDATA.
    fn flags(cdb: &[u8]) -> Result<bool, Sense> {
        let flags = u8_at(cdb, 1);
        refuse_protection(flags)?;
        if flags & (ANCHOR | PBDATA | LBDATA) != 0 {
            return Err(Sense::invalid_field_in_cdb(1));
        }
        Ok(flags & UNMAP != 0)
    }
}

/// SYNCHRONIZE CACHE, both lengths. Zero blocks mean all up to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SynchronizeCache {
    pub(crate) start: Lba,
    pub(crate) blocks: u32,
    pub(crate) immediate: bool,
}

impl SynchronizeCache {
    pub(crate) fn parse_ten(cdb: &[u8]) -> Self {
        let (start, blocks) = (Lba(u64::from(u32_at(cdb, 2))), u32::from(u16_at(cdb, 7)));
        Self { start, blocks, immediate: u8_at(cdb, 1) & IMMED != 0 }
    }

    pub(crate) fn parse_sixteen(cdb: &[u8]) -> Self {
        let (start, blocks) = (Lba(u64_at(cdb, 2)), u32_at(cdb, 10));
        Self { start, blocks, immediate: u8_at(cdb, 1) & IMMED != 0 }
    }
}

/// Length of the parameter list of UNMAP.
pub(crate) fn unmap_list_length(cdb: &[u8]) -> Result<u16, Sense> {
    match u8_at(cdb, 1) & UNMAP_ANCHOR {
        0 => Ok(u16_at(cdb, 7)),
        _ => Err(Sense::invalid_field_in_cdb(1)),
    }
}

/// READ CAPACITY(10) has no allocation length. An address without PMI is an error; with PMI (obsolete) it asks from where on access
/// becomes slower, which is nowhere.
pub(crate) fn check_read_capacity10(cdb: &[u8]) -> Result<(), Sense> {
    let partial = u8_at(cdb, 8) & PMI != 0;
    if !partial && u32_at(cdb, 2) != 0 { Err(Sense::invalid_field_in_cdb(2)) } else { Ok(()) }
}

/// Allocation length of READ CAPACITY(16).
pub(crate) fn read_capacity16_allocation(cdb: &[u8]) -> u32 {
    u32_at(cdb, 10)
}

#[inline]
fn refuse_protection(flags: u8) -> Result<(), Sense> {
    if flags & PROTECT != 0 { Err(Sense::invalid_field_in_cdb(1)) } else { Ok(()) }
}

const PROTECT: u8 = 0xE0;
const FUA: u8 = 0x08;
const ANCHOR: u8 = 0x10;
const UNMAP: u8 = 0x08;
const PBDATA: u8 = 0x04;
const LBDATA: u8 = 0x02;
const NDOB: u8 = 0x01;
const IMMED: u8 = 0x02;
const BYTCHK: u8 = 0x06;
const UNMAP_ANCHOR: u8 = 0x01;
const PMI: u8 = 0x01;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_forms_of_read_say_the_same() {
        let six = Transfer::parse(Form::Six, &[8, 0xE1, 2, 3, 4, 0]).unwrap();
        assert_eq!(six, Transfer { start: Lba(0x1_0203), blocks: 4, fua: false, blocks_at: 4 });
        let ten = Transfer::parse(Form::Ten, &[0x28, 8, 0, 1, 2, 3, 0, 0, 4, 0]).unwrap();
        assert_eq!(ten, Transfer { start: Lba(0x1_0203), blocks: 4, fua: true, blocks_at: 7 });
        let twelve = Transfer::parse(Form::Twelve, &[0xA8, 0x10, 0, 1, 2, 3, 0, 0, 0, 4, 0, 0]).unwrap();
        assert_eq!(twelve, Transfer { fua: false, blocks_at: 6, ..ten });
        let cdb = [0x88, 8, 0, 0, 0, 0, 0, 1, 2, 3, 0, 0, 0, 4, 0, 0];
        assert_eq!(Transfer::parse(Form::Sixteen, &cdb).unwrap(), Transfer { blocks_at: 10, ..ten });
    }

    #[test]
    fn no_blocks_mean_256_in_the_oldest_form_only() {
        assert_eq!(Transfer::parse(Form::Six, &[8, 0, 0, 0, 0, 0]).unwrap().blocks, 256);
        assert_eq!(Transfer::parse(Form::Ten, &[0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap().blocks, 0);
    }

    #[test]
    fn protection_anchors_and_old_patterns_are_refused() {
        for protect in 1..8 {
            let cdb = [0x28, protect << 5, 0, 0, 0, 0, 0, 0, 1, 0];
            assert_eq!(Transfer::parse(Form::Ten, &cdb), Err(Sense::invalid_field_in_cdb(1)));
            assert_eq!(WriteSame::parse_ten(&cdb), Err(Sense::invalid_field_in_cdb(1)));
        }
        for flag in [ANCHOR, ANCHOR | UNMAP, PBDATA, LBDATA] {
            assert!(WriteSame::parse_ten(&[0x41, flag, 0, 0, 0, 0, 0, 0, 1, 0]).is_err());
        }
        assert!(unmap_list_length(&[0x42, 1, 0, 0, 0, 0, 0, 0, 8, 0]).is_err());
    }

    #[test]
    fn verify_knows_three_manners_of_looking() {
        let verify = |flags| Verify::parse(Form::Ten, &[0x2F, flags, 0, 1, 2, 3, 0, 0, 4, 0]);
        let transfer = Transfer { start: Lba(0x1_0203), blocks: 4, fua: false, blocks_at: 7 };
        for (flags, check) in
            [(0x08, VerifyCheck::Readable), (0x12, VerifyCheck::AllSent), (0x06, VerifyCheck::OneSent)]
        {
            assert_eq!(verify(flags), Ok(Verify { transfer, check }));
        }
        assert_eq!(verify(0x04), Err(Sense::invalid_field_in_cdb(1)));
        assert_eq!(verify(0x20), Err(Sense::invalid_field_in_cdb(1)));
    }

    #[test]
    fn blocks_stand_elsewhere_in_compare_and_write_and_write_atomic() {
        let mut cdb = [0x89, 8, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 2, 0, 0];
        let compare = Transfer::parse_compare_and_write(&cdb).unwrap();
        assert_eq!(compare, Transfer { start: Lba(9), blocks: 2, fua: true, blocks_at: 13 });
        (cdb[0], cdb[12]) = (0x9C, 1);
        let atomic = Transfer::parse_write_atomic(&cdb).unwrap();
        assert_eq!(atomic, Transfer { blocks: 0x102, blocks_at: 12, ..compare });
        cdb[11] = 1;
        assert_eq!(Transfer::parse_write_atomic(&cdb), Err(Sense::invalid_field_in_cdb(10)));
        cdb[1] = 0x40;
        assert!(
            Transfer::parse_write_atomic(&cdb).is_err() && Transfer::parse_compare_and_write(&cdb).is_err()
        );
    }

    #[test]
    fn an_address_in_read_capacity_needs_pmi() {
        assert!(check_read_capacity10(&[0x25, 0, 0, 0, 0, 1, 0, 0, 0, 0]).is_err());
        assert!(check_read_capacity10(&[0x25, 0, 0, 0, 0, 1, 0, 0, 1, 0]).is_ok());
    }
}
