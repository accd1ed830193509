//! Mode pages (SPC-4, 7.5; SBC-3, 6.4): what a host may see and change of how a volume behaves.
//!
//! Changeable are WCE in the caching page (if the volume allows it), and D_SENSE and SWP in the control page. A page image shows
//! the state, or the mask of what may change; MODE SELECT compares an incoming page with both, so a bit that cannot change is never
//! ignored. Nothing is saved: after a restart the defaults are back and the caller raises 29/00.

use alloc::vec::Vec;

use crate::cdb::spc::{BlockDescriptor, ModeForm, ModeSelect, ModeSense, PageControl};
use crate::geometry::Geometry;
use crate::sense::{Sense, SenseFormat};
use crate::wire::{put, u8_at, u16_at, u32_at, u64_at};

/// The longest parameter list of MODE SELECT. All pages together are far shorter; a longer one ends with PARAMETER LIST LENGTH ERROR.
pub const MAX_MODE_LIST_BYTES: u16 = 255;

/// When the status of a plain WRITE is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteCache {
    /// Once the data is in the cache.
    Back,
    /// Once the data is durable.
    Through,
}

/// Who decides about the write cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheControl {
    /// The array: WCE shows this and cannot change.
    Array(WriteCache),
    /// The host, through WCE, which starts like this.
    Host(WriteCache),
}

/// What the caller does before it reports a MODE SELECT as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModeChange {
    /// Nothing has changed.
    Unchanged,
    /// Something has changed, nothing remains to be done.
    Changed,
    /// The write cache was turned off or write protection on: make what was written so far durable first.
    FlushFirst,
}

/// The mode pages of one logical unit.
#[derive(Debug)]
pub(crate) struct ModePages {
    cache: CacheControl,
    current: ModeState,
}

/// What mode pages can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ModeState {
    write_cache: WriteCache,
    sense_format: SenseFormat,
    protection: SoftwareProtection,
}

/// SWP of the control mode page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SoftwareProtection {
    Off,
    On,
}

/// The WP bit that MODE SENSE shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteProtect {
    Off,
    On,
}

impl ModePages {
    pub(crate) fn new(cache: CacheControl) -> Self {
        Self { cache, current: default_state(cache) }
    }

    pub(crate) fn write_cache(&self) -> WriteCache {
        self.current.write_cache
    }

    pub(crate) fn sense_format(&self) -> SenseFormat {
        self.current.sense_format
    }

    pub(crate) fn is_write_protected(&self) -> bool {
        self.current.protection == SoftwareProtection::On
    }

    /// The parameter data of MODE SENSE, not yet cut to the allocation length.
    pub(crate) fn sense(
        &self,
        request: &ModeSense,
        geometry: &Geometry,
        protect: WriteProtect,
    ) -> Result<Vec<u8>, Sense> {
        let mut pages = Vec::new();
        for code in requested_pages(request)? {
            pages.extend(self.image(*code, request.control));
        }
        let descriptor = block_descriptor(request.descriptor, geometry);
        let specific = DPOFUA | if protect == WriteProtect::On { WP } else { 0 };
        let mut data = Vec::with_capacity(8 + descriptor.len() + pages.len());
        match request.form {
            ModeForm::Six => {
                let after_length = 3 + descriptor.len() + pages.len();
                data.extend([low_byte(after_length), 0, specific, low_byte(descriptor.len())]);
            }
            ModeForm::Ten => {
                let after_length = u16::try_from(6 + descriptor.len() + pages.len()).unwrap_or(u16::MAX);
                data.extend(after_length.to_be_bytes());
                let long = if request.descriptor == BlockDescriptor::Long { LONGLBA } else { 0 };
                data.extend([0, specific, long, 0, 0, low_byte(descriptor.len())]);
            }
        }
        data.extend(descriptor);
        data.extend(pages);
        Ok(data)
    }

    /// Checks the whole list before anything changes.
    pub(crate) fn select(
        &mut self,
        form: ModeSelect,
        list: &[u8],
        geometry: &Geometry,
    ) -> Result<ModeChange, Sense> {
        let mut at = check_header(form.form, list, geometry)?;
        let mut wanted = self.current;
        while let Some(page) = list.get(at..).filter(|rest| !rest.is_empty()) {
            at += self.select_page(page, at, &mut wanted)?;
        }
        let before = core::mem::replace(&mut self.current, wanted);
        let cache_off = (before.write_cache, wanted.write_cache) == (WriteCache::Back, WriteCache::Through);
        let protected = before.protection != wanted.protection && wanted.protection == SoftwareProtection::On;
        Ok(match (before == wanted, cache_off || protected) {
            (true, _) => ModeChange::Unchanged,
            (false, true) => ModeChange::FlushFirst,
            (false, false) => ModeChange::Changed,
        })
    }

    /// Takes one page into `wanted` and returns its length. `at` is its place in the list.
    fn select_page(&self, page: &[u8], at: usize, wanted: &mut ModeState) -> Result<usize, Sense> {
        let code = u8_at(page, 0) & PAGE_CODE;
        if !PAGES.contains(&code) || u8_at(page, 0) & SPF != 0 {
            return Err(invalid(at));
        }
        let current = self.image(code, PageControl::Current);
        let changeable = self.image(code, PageControl::Changeable);
        let page = page.get(..current.len()).ok_or(Sense::PARAMETER_LIST_LENGTH)?;
        if u8_at(page, 1) != u8_at(&current, 1) {
            return Err(invalid(at + 1));
        }
        let wrong = page
            .iter()
            .zip(&current)
            .zip(&changeable)
            .skip(2)
            .position(|((new, now), mask)| (new ^ now) & !mask != 0);
        if let Some(offset) = wrong {
            return Err(invalid(at + 2 + offset));
        }
        wanted.take(code, page);
        Ok(current.len())
    }

    fn image(&self, code: u8, control: PageControl) -> Vec<u8> {
        match control {
            PageControl::Current => self.current.image(code),
            PageControl::Default => default_state(self.cache).image(code),
            PageControl::Changeable => self.changeable(code),
        }
    }

    fn changeable(&self, code: u8) -> Vec<u8> {
        let mut mask = self.current.image(code);
        mask.iter_mut().skip(2).for_each(|byte| *byte = 0);
        match (code, self.cache) {
            (CACHING, CacheControl::Host(_)) => put(&mut mask, 2, &[WCE]),
            (CONTROL, _) => {
                put(&mut mask, 2, &[D_SENSE]);
                put(&mut mask, 4, &[SWP]);
            }
            (_, CacheControl::Array(_) | CacheControl::Host(_)) => {}
        }
        mask
    }
}

impl ModeState {
    fn image(self, code: u8) -> Vec<u8> {
        let mut page = Vec::from([code, page_length(code)]);
        page.resize(2 + usize::from(page_length(code)), 0);
        match code {
            CACHING => put(&mut page, 2, &[if self.write_cache == WriteCache::Back { WCE } else { 0 }]),
            CONTROL => {
                let d_sense = if self.sense_format == SenseFormat::Descriptor { D_SENSE } else { 0 };
                let swp = if self.protection == SoftwareProtection::On { SWP } else { 0 };
                put(&mut page, 2, &[d_sense | GLTSD, UNRESTRICTED_REORDERING, swp]);
            }
            INFORMATIONAL_EXCEPTIONS => put(&mut page, 2, &[DEXCPT]),
            _ => {}
        }
        page
    }

    fn take(&mut self, code: u8, page: &[u8]) {
        match code {
            CACHING => {
                self.write_cache =
                    if u8_at(page, 2) & WCE == 0 { WriteCache::Through } else { WriteCache::Back };
            }
            CONTROL => {
                let descriptor = u8_at(page, 2) & D_SENSE != 0;
                self.sense_format = if descriptor { SenseFormat::Descriptor } else { SenseFormat::Fixed };
                let protected = u8_at(page, 4) & SWP != 0;
                self.protection = if protected { SoftwareProtection::On } else { SoftwareProtection::Off };
            }
            _ => {}
        }
    }
}

fn default_state(cache: CacheControl) -> ModeState {
    let (CacheControl::Array(write_cache) | CacheControl::Host(write_cache)) = cache;
    ModeState { write_cache, sense_format: SenseFormat::Fixed, protection: SoftwareProtection::Off }
}

/// No page here has subpages, so "all subpages" of a page is the page.
fn requested_pages(request: &ModeSense) -> Result<&'static [u8], Sense> {
    if !matches!(request.subpage, 0 | ALL_SUBPAGES) {
        return Err(Sense::invalid_field_in_cdb(3));
    }
    if request.page == ALL_PAGES {
        return Ok(&PAGES);
    }
    let place = PAGES.iter().position(|code| *code == request.page).ok_or(Sense::invalid_field_in_cdb(2))?;
    PAGES.get(place..=place).ok_or(Sense::invalid_field_in_cdb(2))
}

/// ```text
/// short: 0-3 blocks (all ones: more), 5-7 block length        long: 0-7 blocks, 12-15 block length
/// ```
fn block_descriptor(kind: BlockDescriptor, geometry: &Geometry) -> Vec<u8> {
    let mut descriptor = Vec::with_capacity(16);
    match kind {
        BlockDescriptor::Omitted => {}
        BlockDescriptor::Short => {
            descriptor.extend(u32::try_from(geometry.blocks).unwrap_or(u32::MAX).to_be_bytes());
            // Density code zero, then 24 bits of length: the top byte of every length here is zero.
            descriptor.extend(geometry.block_size.bytes().to_be_bytes());
        }
        BlockDescriptor::Long => {
            descriptor.extend(geometry.blocks.to_be_bytes());
            descriptor.extend([0; 4]);
            descriptor.extend(geometry.block_size.bytes().to_be_bytes());
        }
    }
    descriptor
}

/// Checks header and block descriptor, which may only repeat what is, and returns where the pages begin.
fn check_header(form: ModeForm, list: &[u8], geometry: &Geometry) -> Result<usize, Sense> {
    let (header, descriptor_bytes, medium_type_at) = match form {
        ModeForm::Six => (4, usize::from(u8_at(list, 3)), 1),
        ModeForm::Ten => (8, usize::from(u16_at(list, 6)), 2),
    };
    let pages_at = header + descriptor_bytes;
    if list.len() < pages_at {
        return Err(Sense::PARAMETER_LIST_LENGTH);
    }
    if u8_at(list, medium_type_at) != 0 {
        return Err(invalid(medium_type_at));
    }
    let long = form == ModeForm::Ten && u8_at(list, 4) & LONGLBA != 0;
    let (blocks, same, length) = match (descriptor_bytes, long) {
        (0, _) => return Ok(pages_at),
        (8, false) => {
            let shown = u64::from(u32::try_from(geometry.blocks).unwrap_or(u32::MAX));
            (u64::from(u32_at(list, header)), shown, u32_at(list, header + 4))
        }
        (16, true) => (u64_at(list, header), geometry.blocks, u32_at(list, header + 12)),
        _ => return Err(invalid(header - 1)),
    };
    if blocks != 0 && blocks != same {
        return Err(invalid(header));
    }
    if length != geometry.block_size.bytes() {
        return Err(invalid(header + 4));
    }
    Ok(pages_at)
}

fn page_length(code: u8) -> u8 {
    if code == CACHING { 0x12 } else { 0x0A }
}

fn invalid(at: usize) -> Sense {
    Sense::invalid_field_in_parameters(u16::try_from(at).unwrap_or(u16::MAX))
}

fn low_byte(length: usize) -> u8 {
    u8::try_from(length).unwrap_or(u8::MAX)
}

/// All zeros: retries and reallocation are the business of the disk adapter and cannot be set.
const ERROR_RECOVERY: u8 = 0x01;
const CACHING: u8 = 0x08;
const CONTROL: u8 = 0x0A;
const INFORMATIONAL_EXCEPTIONS: u8 = 0x1C;
const PAGES: [u8; 4] = [ERROR_RECOVERY, CACHING, CONTROL, INFORMATIONAL_EXCEPTIONS];
const ALL_PAGES: u8 = 0x3F;
const ALL_SUBPAGES: u8 = 0xFF;
const PAGE_CODE: u8 = 0x3F;
const SPF: u8 = 0x40;
const WP: u8 = 0x80;
/// DPO and FUA are understood.
const DPOFUA: u8 = 0x10;
const LONGLBA: u8 = 0x01;
const WCE: u8 = 0x04;
const D_SENSE: u8 = 0x04;
/// There are no log parameters to save.
const GLTSD: u8 = 0x02;
const UNRESTRICTED_REORDERING: u8 = 0x10;
const SWP: u8 = 0x08;
/// Informational exceptions are not reported.
const DEXCPT: u8 = 0x08;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::{BlockSize, Provisioning};
    use crate::inquiry::tests::geometry;
    use proptest::prelude::*;

    const SIX: ModeSelect = ModeSelect { form: ModeForm::Six };
    const TEN: ModeSelect = ModeSelect { form: ModeForm::Ten };

    fn volume() -> Geometry {
        geometry(BlockSize::B512, Provisioning::Full)
    }

    fn sense(pages: &ModePages, cdb: &[u8]) -> Result<Vec<u8>, Sense> {
        let form = if cdb[0] == 0x1A { ModeForm::Six } else { ModeForm::Ten };
        pages.sense(&ModeSense::parse(form, cdb)?, &volume(), WriteProtect::Off)
    }

    #[test]
    fn all_pages_come_in_ascending_order_and_lengths_add_up() {
        let pages = ModePages::new(CacheControl::Array(WriteCache::Back));
        let data = sense(&pages, &[0x1A, 0, 0x3F, 0xFF, 255, 0]).unwrap();
        assert_eq!(usize::from(data[0]) + 1, data.len());
        assert_eq!(data[..12], [data[0], 0, 0x10, 8, 0, 0x40, 0, 0, 0, 0, 2, 0]);
        let mut codes = Vec::new();
        let mut rest = &data[12..];
        while let [code, length, ..] = rest {
            codes.push(*code);
            rest = &rest[2 + usize::from(*length)..];
        }
        assert_eq!(codes, PAGES);
    }

    #[test]
    fn the_ten_byte_form_can_show_a_long_descriptor_or_none() {
        let pages = ModePages::new(CacheControl::Array(WriteCache::Back));
        let long = sense(&pages, &[0x5A, 0x10, 0x08, 0, 0, 0, 0, 0, 255, 0]).unwrap();
        assert_eq!(usize::from(u16_at(&long, 0)) + 2, long.len());
        assert_eq!(long[..8], [0, 42, 0, 0x10, 1, 0, 0, 16]);
        assert_eq!(u64_at(&long, 8), 4 << 20);
        assert_eq!(long[24..27], [CACHING, 0x12, WCE]);
        let none = sense(&pages, &[0x5A, 0x18, 0x08, 0, 0, 0, 0, 0, 255, 0]).unwrap();
        assert_eq!((none[7], none[8]), (0, CACHING));
    }

    #[test]
    fn pages_and_subpages_that_are_not_there_are_refused() {
        let pages = ModePages::new(CacheControl::Array(WriteCache::Back));
        assert_eq!(sense(&pages, &[0x1A, 0, 0x02, 0, 255, 0]), Err(Sense::invalid_field_in_cdb(2)));
        assert_eq!(sense(&pages, &[0x1A, 0, 0x0A, 1, 255, 0]), Err(Sense::invalid_field_in_cdb(3)));
        assert_eq!(sense(&pages, &[0x1A, 0, 0xCA, 0, 255, 0]), Err(Sense::SAVING_NOT_SUPPORTED));
    }

    #[test]
    fn the_changeable_mask_is_what_mode_select_lets_change() {
        for cache in [CacheControl::Array(WriteCache::Back), CacheControl::Host(WriteCache::Back)] {
            for code in PAGES {
                let now = ModePages::new(cache).image(code, PageControl::Current);
                let mask = ModePages::new(cache).image(code, PageControl::Changeable);
                for bit in 16..now.len() * 8 {
                    let mut pages = ModePages::new(cache);
                    let mut list = Vec::from([0; 4]);
                    list.extend(&now);
                    list[4 + bit / 8] ^= 1 << (bit % 8);
                    let allowed = mask[bit / 8] & (1 << (bit % 8)) != 0;
                    let outcome = pages.select(SIX, &list, &volume());
                    assert_eq!(outcome.is_ok(), allowed, "page {code:02X}h bit {bit}");
                    assert_eq!(pages.image(code, PageControl::Current) == list[4..], allowed);
                    assert_eq!(pages.image(code, PageControl::Default), now);
                }
            }
        }
    }

    #[test]
    fn what_a_host_reads_it_may_write_back_and_nothing_changes() {
        let mut pages = ModePages::new(CacheControl::Host(WriteCache::Back));
        for (form, cdb) in
            [(SIX, &[0x1A, 0, 0x3F, 0, 255, 0][..]), (TEN, &[0x5A, 0x10, 0x3F, 0, 0, 0, 0, 0, 255, 0][..])]
        {
            let list = sense(&pages, cdb).unwrap();
            assert_eq!(pages.select(form, &list, &volume()), Ok(ModeChange::Unchanged));
        }
    }

    #[test]
    fn turning_the_cache_off_or_protection_on_asks_for_a_flush() {
        let mut pages = ModePages::new(CacheControl::Host(WriteCache::Back));
        let select = |pages: &mut ModePages, code, at: usize, bits| {
            let mut list = Vec::from([0; 4]);
            list.extend(pages.image(code, PageControl::Current));
            list[4 + at] ^= bits;
            pages.select(SIX, &list, &volume())
        };
        assert_eq!(select(&mut pages, CACHING, 2, WCE), Ok(ModeChange::FlushFirst));
        assert_eq!(pages.write_cache(), WriteCache::Through);
        assert_eq!(select(&mut pages, CACHING, 2, WCE), Ok(ModeChange::Changed));
        assert_eq!(select(&mut pages, CONTROL, 4, SWP), Ok(ModeChange::FlushFirst));
        assert!(pages.is_write_protected());
        assert_eq!(select(&mut pages, CONTROL, 2, D_SENSE), Ok(ModeChange::Changed));
        assert_eq!(pages.sense_format(), SenseFormat::Descriptor);
    }

    #[test]
    fn a_list_with_one_wrong_page_changes_nothing() {
        let mut pages = ModePages::new(CacheControl::Host(WriteCache::Back));
        let mut list = Vec::from([0; 4]);
        list.extend(pages.image(CACHING, PageControl::Current));
        list[6] = 0;
        list.extend(pages.image(CONTROL, PageControl::Current));
        list.truncate(list.len() - 1);
        assert_eq!(pages.select(SIX, &list, &volume()), Err(Sense::PARAMETER_LIST_LENGTH));
        assert_eq!(pages.write_cache(), WriteCache::Back);
    }

    #[test]
    fn a_descriptor_of_another_geometry_is_refused() {
        let mut pages = ModePages::new(CacheControl::Array(WriteCache::Back));
        assert!(pages.select(SIX, &[0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 2, 0], &volume()).is_ok());
        assert!(pages.select(SIX, &[0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 2, 0], &volume()).is_err());
        assert!(pages.select(SIX, &[0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 16, 0], &volume()).is_err());
        assert!(pages.select(SIX, &[0, 0, 0, 8, 0, 0], &volume()).is_err());
        assert!(pages.select(SIX, &[0, 0, 0], &volume()).is_err());
    }

    proptest! {
        #[test]
        fn no_list_breaks_anything(list in prop::collection::vec(any::<u8>(), 0..80)) {
            let mut pages = ModePages::new(CacheControl::Host(WriteCache::Back));
            let _ = pages.select(SIX, &list, &volume());
            let _ = pages.select(TEN, &list, &volume());
        }
    }
}
