//! The other side: commands as an initiator sends them, to a peer's volumes or to third-party targets.
//!
//! One form of each command is enough for that: the one with 64-bit addresses. The forms are those that `spc` and `sbc` read, which the
//! tests compare.

use alloc::vec::Vec;

use crate::block::{BlockRange, Lba};
use crate::lun::Lun;
use crate::wire::{put, u32_at};

/// A command of at most 16 bytes, padded with zeros as transports carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostCdb([u8; 16]);

/// Whether the FUA bit is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forced {
    /// The cache may answer.
    No,
    /// Only the medium may.
    Yes,
}

impl HostCdb {
    /// TEST UNIT READY.
    #[must_use]
    pub fn test_unit_ready() -> Self {
        Self([0; 16])
    }

    /// INQUIRY for standard data, or for a vital product data page.
    #[must_use]
    pub fn inquiry(page: Option<u8>, allocation_length: u16) -> Self {
        let [high, low] = allocation_length.to_be_bytes();
        Self::new(&[0x12, u8::from(page.is_some()), page.unwrap_or(0), high, low])
    }

    /// REPORT LUNS; less than 16 bytes of room is an error at the target.
    #[must_use]
    pub fn report_luns(allocation_length: u32) -> Self {
        let mut cdb = Self::new(&[0xA0]);
        put(&mut cdb.0, 6, &allocation_length.to_be_bytes());
        cdb
    }

    /// READ CAPACITY(16), which answers with 32 bytes.
    #[must_use]
    pub fn read_capacity() -> Self {
        let mut cdb = Self::new(&[0x9E, 0x10]);
        put(&mut cdb.0, 10, &32_u32.to_be_bytes());
        cdb
    }

    /// READ(16). `None`: the range has more blocks than the command can say.
    #[must_use]
    pub fn read(range: BlockRange, forced: Forced) -> Option<Self> {
        Self::ranged(0x88, fua(forced), range)
    }

    /// WRITE(16). `None`: the range has more blocks than the command can say.
    #[must_use]
    pub fn write(range: BlockRange, forced: Forced) -> Option<Self> {
        Self::ranged(0x8A, fua(forced), range)
    }

    /// SYNCHRONIZE CACHE(16) of the whole volume, answered when it is done.
    #[must_use]
    pub fn synchronize_cache() -> Self {
        Self::new(&[0x91])
    }

    /// UNMAP with a list as [`unmap_list`] builds it.
    #[must_use]
    pub fn unmap(parameter_length: u16) -> Self {
        let [high, low] = parameter_length.to_be_bytes();
        Self::new(&[0x42, 0, 0, 0, 0, 0, 0, high, low])
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    fn new(head: &[u8]) -> Self {
        let mut bytes = [0; 16];
        put(&mut bytes, 0, head);
        Self(bytes)
    }

    fn ranged(opcode: u8, flags: u8, range: BlockRange) -> Option<Self> {
        let blocks = u32::try_from(range.blocks).ok()?;
        let mut cdb = Self::new(&[opcode, flags]);
        put(&mut cdb.0, 2, &range.start.0.to_be_bytes());
        put(&mut cdb.0, 10, &blocks.to_be_bytes());
        Some(cdb)
    }
}

/// The parameter list of UNMAP for these ranges. `None`: more ranges than a list can hold, or more blocks in one than a descriptor can
/// say.
#[must_use]
pub fn unmap_list(ranges: &[BlockRange]) -> Option<Vec<u8>> {
    let descriptor_bytes = u16::try_from(ranges.len().checked_mul(16)?).ok()?;
    let mut list = Vec::with_capacity(8 + usize::from(descriptor_bytes));
    list.extend(descriptor_bytes.checked_add(6)?.to_be_bytes());
    list.extend(descriptor_bytes.to_be_bytes());
    list.extend([0; 4]);
    for BlockRange { start: Lba(address), blocks } in ranges {
        list.extend(address.to_be_bytes());
        list.extend(u32::try_from(*blocks).ok()?.to_be_bytes());
        list.extend([0; 4]);
    }
    Some(list)
}

/// What READ CAPACITY(16) says of another target's unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Number of logical blocks.
    pub blocks: u64,
    /// Length of one in bytes.
    pub block_bytes: u32,
}

impl Capacity {
    /// Reads the data. `None`: cut short, or a capacity that cannot be.
    #[must_use]
    pub fn from_bytes(data: &[u8]) -> Option<Self> {
        let blocks = u64::from_be_bytes(*data.first_chunk()?).checked_add(1)?;
        let block_bytes = u32::from_be_bytes(*data.get(8..)?.first_chunk()?);
        (block_bytes > 0).then_some(Self { blocks, block_bytes })
    }
}

/// Reads the data of REPORT LUNS, as far as it arrived. LUNs in a form that is not understood here are left out.
#[must_use]
pub fn parse_lun_list(data: &[u8]) -> Vec<Lun> {
    let listed = usize::try_from(u32_at(data, 0) / 8).unwrap_or(usize::MAX);
    let (luns, _) = data.get(8..).unwrap_or(&[]).as_chunks::<8>();
    luns.iter().take(listed).filter_map(|lun| Lun::from_bytes(*lun)).collect()
}

fn fua(forced: Forced) -> u8 {
    match forced {
        Forced::No => 0,
        Forced::Yes => 0x08,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cdb::sbc::Transfer;
    use crate::cdb::spc::{Inquiry, ReportLuns, SelectReport};
    use crate::cdb::table::{Device, Form, lookup};
    use crate::geometry::{BlockSize, Provisioning};
    use crate::inquiry::tests::geometry;
    use crate::target::report_luns;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reads_and_writes_are_understood_as_they_were_meant(start: u64, blocks: u32, write: bool, durable: bool) {
            let range = BlockRange { start: Lba(start), blocks: u64::from(blocks) };
            let forced = if durable { Forced::Yes } else { Forced::No };
            let cdb = if write { HostCdb::write(range, forced) } else { HostCdb::read(range, forced) }.unwrap();
            let read = Transfer::parse(Form::Sixteen, cdb.as_bytes()).unwrap();
            prop_assert_eq!((read.start, read.blocks, read.fua), (Lba(start), blocks, durable));
        }

        #[test]
        fn an_unmap_list_is_read_back(ranges in prop::collection::vec((0_u64..4000, 1_u64..90), 0..200)) {
            let ranges: Vec<BlockRange> =
                ranges.into_iter().map(|(start, blocks)| BlockRange { start: Lba(start), blocks }).collect();
            let list = unmap_list(&ranges).unwrap();
            let volume = geometry(BlockSize::B512, Provisioning::Thin { unmap_granularity_blocks: 8 });
            prop_assert_eq!(volume.parse_unmap(&list), Ok(ranges));
        }
    }

    #[test]
    fn what_does_not_fit_is_not_built() {
        let too_long = BlockRange { start: Lba(0), blocks: 1 << 32 };
        assert_eq!(HostCdb::read(too_long, Forced::No), None);
        assert_eq!(unmap_list(&[too_long]), None);
        assert_eq!(unmap_list(&[BlockRange { start: Lba(0), blocks: 1 }; 4096]), None);
    }

    #[test]
    fn capacity_is_read_with_care() {
        let data = |last: u64, length: u32| {
            let mut data = [0; 32];
            put(&mut data, 0, &last.to_be_bytes());
            put(&mut data, 8, &length.to_be_bytes());
            data
        };
        assert_eq!(Capacity::from_bytes(&data(7, 512)), Some(Capacity { blocks: 8, block_bytes: 512 }));
        assert_eq!(Capacity::from_bytes(&data(7, 512)[..11]), None);
        assert_eq!(Capacity::from_bytes(&data(7, 0)), None);
        assert_eq!(Capacity::from_bytes(&data(u64::MAX, 512)), None);
    }

    #[test]
    fn a_list_of_luns_is_read_as_far_as_it_is_whole() {
        let luns = [Lun::ZERO, Lun::new(300).unwrap()];
        let cdb = HostCdb::report_luns(64);
        let data = report_luns(&luns, cdb.as_bytes()).data_in;
        assert_eq!(parse_lun_list(&data), luns);
        assert_eq!(parse_lun_list(&data[..20]), luns[..1]);
        let mut padded = data.clone();
        padded.extend([0; 16]);
        assert_eq!(parse_lun_list(&padded), luns);
        assert_eq!(parse_lun_list(&[]), []);
    }

    #[test]
    fn all_commands_exist_here() {
        let range = BlockRange { start: Lba(0), blocks: 1 };
        for cdb in [
            HostCdb::test_unit_ready(),
            HostCdb::inquiry(None, 96),
            HostCdb::report_luns(16),
            HostCdb::read_capacity(),
            HostCdb::read(range, Forced::No).unwrap(),
            HostCdb::write(range, Forced::Yes).unwrap(),
            HostCdb::synchronize_cache(),
            HostCdb::unmap(24),
        ] {
            assert!(lookup(Device::THIN, cdb.as_bytes()).is_ok());
        }
        let page = Inquiry { page: Some(0x83), allocation_length: 260 };
        assert_eq!(Inquiry::parse(HostCdb::inquiry(Some(0x83), 260).as_bytes()), Ok(page));
        let all = ReportLuns { select: SelectReport::Units, allocation_length: 0x1_0000 };
        assert_eq!(ReportLuns::parse(HostCdb::report_luns(0x1_0000).as_bytes()), Ok(all));
    }
}
