//! One volume as hosts see it through one LUN.

use alloc::vec::Vec;

use crate::admission::{Admission, CopyQuestion, SameBlock};
use crate::attention::{Attentions, FreshNexus, UnitAttention};
use crate::block::{BlockRange, Lba};
use crate::cdb::report;
use crate::cdb::sbc::{self, SynchronizeCache, Transfer, Verify, VerifyCheck, WriteSame};
use crate::cdb::spc::{
    CopyResults, ModeForm, ModeSelect, ModeSense, ReportOperationCodes, ReportTargetPortGroups,
};
use crate::cdb::table::{self, Block, Command, Device, Form, Gate, Primary};
use crate::extended_copy::{self, MAX_COPY_LIST_BYTES};
use crate::geometry::{Geometry, MAX_COMPARE_AND_WRITE_BLOCKS};
use crate::identity::Identity;
use crate::inquiry::{self, Subject};
use crate::mode::{CacheControl, MAX_MODE_LIST_BYTES, ModeChange, ModePages, WriteCache, WriteProtect};
use crate::nexus::{Grant, NexusId};
use crate::port_group::{self, OtherPorts};
use crate::sense::{Sense, SenseFormat};
use crate::status::Response;
use crate::target;

/// What hosts may do with the volume behind the unit. It is no property of the unit but follows the state of its pair and its disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everything.
    ReadWrite,
    /// Reading; a write ends with WRITE PROTECTED.
    ReadOnly,
    /// Neither, until an operator acts: a secondary volume that is not to be read. The unit is found but not ready.
    NoHostAccess,
    /// Neither: the unit is used through another array, which shows the same one (SPC-4, 5.15.2.4.4). What describes the unit is
    /// answered, also READ CAPACITY, which the standard leaves open: hosts size a path by it.
    Standby,
    /// Neither: the volume has failed.
    Failed,
}

/// One volume as hosts see it through one LUN: its names, its size, what may be done with it now, its mode pages, and what each nexus
/// still has to be told.
///
/// Call [`attach_nexus`](Self::attach_nexus) when a session begins and [`detach_nexus`](Self::detach_nexus) when it ends; a nexus
/// that is not attached is served but told nothing. Give every command to [`admit`](Self::admit), which decides all that can be
/// decided from its CDB and answers what the caller has to do; every range in that answer lies inside the volume. Then, if there
/// was a parameter list, give that to [`parse_unmap`](Self::parse_unmap) or [`mode_select`](Self::mode_select). A change of size or
/// access between the two is the caller's to exclude.
///
/// READ and WRITE cost one table row and some comparisons, and do not allocate.
#[derive(Debug)]
pub struct LogicalUnit {
    identity: Identity,
    geometry: Geometry,
    access: Access,
    other: Option<OtherPorts>,
    modes: ModePages,
    attentions: Attentions,
    fresh: FreshNexus,
}

impl LogicalUnit {
    /// A unit to which no nexus is attached.
    #[must_use]
    pub fn new(identity: Identity, geometry: Geometry, access: Access, cache: CacheControl) -> Self {
        let (modes, attentions) = (ModePages::new(cache), Attentions::default());
        Self { identity, geometry, access, other: None, modes, attentions, fresh: FreshNexus::default() }
    }

    /// What a nexus that attaches from now on is told first.
    pub fn set_fresh_nexus(&mut self, fresh: FreshNexus) {
        self.fresh = fresh;
    }

    /// A session began.
    pub fn attach_nexus(&mut self, nexus: NexusId) {
        self.attentions.attach(nexus, self.fresh);
    }

    /// A session ended: what it had still to be told is forgotten.
    pub fn detach_nexus(&mut self, nexus: NexusId) {
        self.attentions.detach(nexus);
    }

    /// Every attached nexus is to be told this.
    pub fn raise_unit_attention(&mut self, attention: UnitAttention) {
        self.attentions.raise(attention);
    }

    /// This nexus is to be told this.
    pub fn raise_unit_attention_for(&mut self, nexus: NexusId, attention: UnitAttention) {
        self.attentions.raise_for(nexus, attention);
    }

    /// The nexus has read the list of LUNs, at this unit or another: it need not be told that the list changed.
    pub fn luns_were_reported(&mut self, nexus: NexusId) {
        self.attentions.clear(nexus, UnitAttention::ReportedLunsChanged);
    }

    /// The volume has this many blocks now.
    pub fn resize(&mut self, blocks: u64) {
        if self.geometry.blocks != blocks {
            self.geometry.blocks = blocks;
            self.attentions.raise(UnitAttention::CapacityChanged);
        }
    }

    /// Hosts may do this now. If the WP bit of mode data or the state of the ports changes by it, they are told.
    pub fn set_access(&mut self, access: Access) {
        let before = self.write_protect();
        if port_group::state(access) != port_group::state(self.access) {
            self.attentions.raise(UnitAttention::AccessStateChanged);
        }
        self.access = access;
        if self.write_protect() != before {
            self.attentions.raise(UnitAttention::ModeParametersChanged);
        }
    }

    /// The unit is called this now. Hosts are told if it was another one.
    pub fn set_identity(&mut self, identity: Identity) {
        if self.identity != identity {
            self.identity = identity;
            self.attentions.raise(UnitAttention::InquiryDataChanged);
        }
    }

    /// The ports of another array show the unit too, or do not any more. Hosts are told if something of that is new.
    pub fn set_other_ports(&mut self, other: Option<OtherPorts>) {
        if self.other != other {
            self.other = other;
            self.attentions.raise(UnitAttention::AccessStateChanged);
        }
    }

    /// WRITE ATOMIC exists now, or does not any more. Hosts are told that the block limits have changed.
    pub fn set_atomic(&mut self, atomic: bool) {
        if self.geometry.atomic != atomic {
            self.geometry.atomic = atomic;
            self.attentions.raise(UnitAttention::InquiryDataChanged);
        }
    }

    /// Whether a copy that another unit of the nexus was told to make may read this one, or write it, by an initiator with this grant.
    ///
    /// # Errors
    /// What a READ or a WRITE would end with.
    pub fn check_copy(&self, grant: Grant, writes: bool) -> Result<(), Sense> {
        self.check_access(if writes { Gate::Writable } else { Gate::Ready }, grant)
    }

    /// Who the unit is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Size and shape.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// What hosts may do.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// When a plain WRITE is answered.
    #[must_use]
    pub fn write_cache(&self) -> WriteCache {
        self.modes.write_cache()
    }

    /// How sense data of this unit is to be encoded.
    #[must_use]
    pub fn sense_format(&self) -> SenseFormat {
        self.modes.sense_format()
    }

    /// Decides about a command of an initiator with this grant. `data_out_bytes` is how much it says that it sends, if the transport
    /// knows.
    #[must_use]
    pub fn admit(
        &mut self,
        nexus: NexusId,
        grant: Grant,
        cdb: &[u8],
        data_out_bytes: Option<u32>,
    ) -> Admission {
        self.decide(nexus, grant, cdb, data_out_bytes)
            .unwrap_or_else(|sense| Admission::Done(Response::check(sense)))
    }

    /// Reads the parameter list of UNMAP: the ranges to unmap, in order, none of them empty.
    ///
    /// # Errors
    /// The sense of the CHECK CONDITION that ends the command; nothing is to be unmapped then.
    pub fn parse_unmap(&self, list: &[u8]) -> Result<Vec<BlockRange>, Sense> {
        self.geometry.parse_unmap(list)
    }

    /// Carries out MODE SELECT. The other nexuses are told of a change.
    ///
    /// # Errors
    /// The sense of the CHECK CONDITION that ends the command; nothing has changed then.
    pub fn mode_select(
        &mut self,
        nexus: NexusId,
        select: ModeSelect,
        list: &[u8],
    ) -> Result<ModeChange, Sense> {
        let change = self.modes.select(select, list, &self.geometry)?;
        if change != ModeChange::Unchanged {
            self.attentions.raise_except(nexus, UnitAttention::ModeParametersChanged);
        }
        Ok(change)
    }

    fn decide(
        &mut self,
        nexus: NexusId,
        grant: Grant,
        cdb: &[u8],
        data_out_bytes: Option<u32>,
    ) -> Result<Admission, Sense> {
        let row = table::lookup(self.device(), cdb)?;
        self.pass(row.gate, nexus, grant)?;
        match row.command {
            Command::Block(block) => self.block(block, cdb, data_out_bytes),
            Command::Primary(primary) => self.primary(primary, nexus, grant, cdb),
            Command::Vendor(_) => Err(Sense::INVALID_COMMAND),
        }
    }

    fn device(&self) -> Device {
        Device::Volume { thin: self.geometry.is_thin(), atomic: self.geometry.atomic }
    }

    /// What stops a command whatever its fields say.
    #[inline]
    fn pass(&mut self, gate: Gate, nexus: NexusId, grant: Grant) -> Result<(), Sense> {
        if gate == Gate::Open {
            return Ok(());
        }
        if let Some(attention) = self.attentions.poll(nexus) {
            return Err(attention.sense());
        }
        self.check_access(gate, grant)
    }

    #[inline]
    fn check_access(&self, gate: Gate, grant: Grant) -> Result<(), Sense> {
        match (gate, self.access) {
            (Gate::Open | Gate::Attention, _) | (Gate::Ready, Access::ReadWrite | Access::ReadOnly) => Ok(()),
            (Gate::Ready | Gate::Writable, Access::NoHostAccess) => Err(Sense::MANUAL_INTERVENTION),
            (Gate::Ready | Gate::Writable, Access::Standby) => Err(Sense::STANDBY),
            (Gate::Ready | Gate::Writable, Access::Failed) => Err(Sense::UNIT_FAILURE),
            (Gate::Writable, Access::ReadOnly) => Err(Sense::WRITE_PROTECTED),
            (Gate::Writable, Access::ReadWrite) if grant == Grant::ReadOnly => Err(Sense::WRITE_PROTECTED),
            (Gate::Writable, Access::ReadWrite) if self.modes.is_write_protected() => {
                Err(Sense::SOFTWARE_WRITE_PROTECTED)
            }
            (Gate::Writable, Access::ReadWrite) => Ok(()),
        }
    }

    #[inline]
    fn read(&self, form: Form, cdb: &[u8]) -> Result<Admission, Sense> {
        let transfer = Transfer::parse(form, cdb)?;
        let range = self.transfer_range(&transfer)?;
        Ok(if range.is_empty() { done() } else { Admission::Read { range, fua: transfer.fua } })
    }

    #[inline]
    fn write(&self, form: Form, cdb: &[u8]) -> Result<Admission, Sense> {
        let transfer = Transfer::parse(form, cdb)?;
        let range = self.transfer_range(&transfer)?;
        let fua = transfer.fua || self.is_write_through();
        Ok(if range.is_empty() { done() } else { Admission::Write { range, fua } })
    }

    fn transfer_range(&self, transfer: &Transfer) -> Result<BlockRange, Sense> {
        let range = self.geometry.range(transfer.start, u64::from(transfer.blocks))?;
        if transfer.blocks > self.geometry.max_transfer_blocks() {
            return Err(Sense::invalid_field_in_cdb(transfer.blocks_at));
        }
        Ok(range)
    }

    #[inline]
    fn block(&self, block: Block, cdb: &[u8], data_out_bytes: Option<u32>) -> Result<Admission, Sense> {
        match block {
            Block::Read(form) => self.read(form, cdb),
            Block::Write(form) => self.write(form, cdb),
            Block::ReadCapacity10 => {
                sbc::check_read_capacity10(cdb)?;
                Ok(Admission::Done(self.read_capacity10()))
            }
            Block::ReadCapacity16 => Ok(Admission::Done(self.read_capacity16(cdb))),
            Block::WriteSame10 => self.write_same(&WriteSame::parse_ten(cdb)?, data_out_bytes),
            Block::WriteSame16 => self.write_same(&WriteSame::parse_sixteen(cdb)?, data_out_bytes),
            Block::SynchronizeCache10 => self.synchronize_cache(SynchronizeCache::parse_ten(cdb)),
            Block::SynchronizeCache16 => self.synchronize_cache(SynchronizeCache::parse_sixteen(cdb)),
            Block::Unmap => self.unmap(sbc::unmap_list_length(cdb)?),
            Block::CompareAndWrite => {
                self.compare_and_write(&Transfer::parse_compare_and_write(cdb)?, data_out_bytes)
            }
            Block::OrWrite => {
                let (range, fua) = self.whole_write(&Transfer::parse(Form::Sixteen, cdb)?, data_out_bytes)?;
                Ok(if range.is_empty() { done() } else { Admission::OrWrite { range, fua } })
            }
            Block::WriteAtomic => {
                let transfer = Transfer::parse_write_atomic(cdb)?;
                let (range, fua) = self.whole_write(&transfer, data_out_bytes)?;
                Ok(if range.is_empty() { done() } else { Admission::WriteAtomic { range, fua } })
            }
            Block::Verify(form) => self.verify(&Verify::parse(form, cdb)?),
            Block::WriteAndVerify(form) => self.write_and_verify(&Verify::parse(form, cdb)?),
            Block::PreFetch10 => self.pre_fetch(sbc::pre_fetch(Form::Ten, cdb)),
            Block::PreFetch16 => self.pre_fetch(sbc::pre_fetch(Form::Sixteen, cdb)),
            Block::GetLbaStatus => {
                let (start, allocation_length) = sbc::get_lba_status(cdb);
                let BlockRange { start, .. } = self.geometry.range(start, 0)?;
                Ok(Admission::GetLbaStatus { start, allocation_length })
            }
        }
    }

    fn primary(
        &mut self,
        primary: Primary,
        nexus: NexusId,
        grant: Grant,
        cdb: &[u8],
    ) -> Result<Admission, Sense> {
        match primary {
            Primary::TestUnitReady => Ok(done()),
            Primary::RequestSense => {
                let sense = self.attentions.poll(nexus).map_or(Sense::NO_SENSE, UnitAttention::sense);
                Ok(Admission::Done(target::request_sense(cdb, sense)))
            }
            Primary::Inquiry => {
                let subject = Subject::Volume(&self.identity, &self.geometry);
                inquiry::inquiry(subject, cdb).map(Admission::Done)
            }
            Primary::ReportLuns => Ok(Admission::ReportLuns),
            Primary::ModeSense6 => self.mode_sense(ModeForm::Six, grant, cdb),
            Primary::ModeSense10 => self.mode_sense(ModeForm::Ten, grant, cdb),
            // The pages are those of all initiators: SWP of one that may only read would stop those that write.
            Primary::ModeSelect6 | Primary::ModeSelect10 if grant == Grant::ReadOnly => {
                Err(Sense::WRITE_PROTECTED)
            }
            Primary::ModeSelect6 => mode_list(ModeForm::Six, cdb),
            Primary::ModeSelect10 => mode_list(ModeForm::Ten, cdb),
            Primary::ReportOperationCodes => {
                let request = ReportOperationCodes::parse(cdb)?;
                let data = report::operation_codes(self.device(), &request)?;
                Ok(Admission::Done(Response::data(data, request.allocation_length)))
            }
            Primary::ReportTargetPortGroups => {
                let request = ReportTargetPortGroups::parse(cdb)?;
                let data = port_group::report(&self.identity, self.access, self.other, request.is_extended);
                Ok(Admission::Done(Response::data(data, request.allocation_length)))
            }
            Primary::ExtendedCopy => match CopyResults::parse(cdb).allocation_length {
                0 => Ok(done()),
                parameter_length @ 1..=MAX_COPY_LIST_BYTES => {
                    Ok(Admission::ExtendedCopy { parameter_length })
                }
                _ => Err(Sense::PARAMETER_LIST_LENGTH),
            },
            Primary::CopyStatus => Ok(copy_results(CopyQuestion::Status, cdb)),
            Primary::CopyFailure => Ok(copy_results(CopyQuestion::Failure, cdb)),
            Primary::CopyParameters => {
                let request = CopyResults::parse(cdb);
                Ok(Admission::Done(extended_copy::operating_parameters(request.allocation_length)))
            }
        }
    }

    fn compare_and_write(
        &self,
        transfer: &Transfer,
        data_out_bytes: Option<u32>,
    ) -> Result<Admission, Sense> {
        let range = self.geometry.range(transfer.start, u64::from(transfer.blocks))?;
        if transfer.blocks > u32::from(MAX_COMPARE_AND_WRITE_BLOCKS) {
            return Err(Sense::invalid_field_in_cdb(transfer.blocks_at));
        }
        let both_halves = 2 * transfer.blocks * self.geometry.block_size.bytes();
        if data_out_bytes.is_some_and(|bytes| bytes != both_halves) {
            return Err(Sense::WRONG_DATA_LENGTH);
        }
        let fua = transfer.fua || self.is_write_through();
        Ok(if range.is_empty() { done() } else { Admission::CompareAndWrite { range, fua } })
    }

    /// A write of which a part would be wrong: all of it has to be announced.
    fn whole_write(
        &self,
        transfer: &Transfer,
        data_out_bytes: Option<u32>,
    ) -> Result<(BlockRange, bool), Sense> {
        let range = self.transfer_range(transfer)?;
        let bytes = transfer.blocks * self.geometry.block_size.bytes();
        if data_out_bytes.is_some_and(|announced| announced < bytes) {
            return Err(Sense::WRONG_DATA_LENGTH);
        }
        Ok((range, transfer.fua || self.is_write_through()))
    }

    fn verify(&self, request: &Verify) -> Result<Admission, Sense> {
        let Verify { transfer, check } = request;
        let range = self.geometry.range(transfer.start, u64::from(transfer.blocks))?;
        let most = match check {
            VerifyCheck::AllSent => self.geometry.max_transfer_blocks(),
            VerifyCheck::Readable | VerifyCheck::OneSent => self.geometry.max_verify_blocks(),
        };
        if transfer.blocks > most {
            return Err(Sense::invalid_field_in_cdb(transfer.blocks_at));
        }
        Ok(if range.is_empty() { done() } else { Admission::Verify { range, check: *check } })
    }

    /// A write that is answered when it is durable. What the units do not report as written ends it with an error; it is not read
    /// back from them.
    fn write_and_verify(&self, request: &Verify) -> Result<Admission, Sense> {
        if request.check == VerifyCheck::OneSent {
            return Err(Sense::invalid_field_in_cdb(1));
        }
        let range = self.transfer_range(&request.transfer)?;
        Ok(if range.is_empty() { done() } else { Admission::Write { range, fua: true } })
    }

    fn pre_fetch(&self, (start, blocks, immediate): (Lba, u32, bool)) -> Result<Admission, Sense> {
        let range = self.up_to_end(start, blocks)?;
        Ok(Admission::PreFetch { range, immediate })
    }

    /// The range; no blocks mean all up to the end.
    fn up_to_end(&self, start: Lba, blocks: u32) -> Result<BlockRange, Sense> {
        let blocks = match blocks {
            0 => self.geometry.blocks.saturating_sub(start.0),
            blocks => u64::from(blocks),
        };
        self.geometry.range(start, blocks)
    }

    /// ```text
    /// 0-3 last block (all ones: ask with READ CAPACITY(16))   4-7 block length
    /// ```
    fn read_capacity10(&self) -> Response {
        let last = u32::try_from(self.last_block()).unwrap_or(u32::MAX);
        let mut data = Vec::with_capacity(8);
        data.extend(last.to_be_bytes());
        data.extend(self.geometry.block_size.bytes().to_be_bytes());
        Response::data(data, u32::MAX)
    }

    /// ```text
    /// 0-7 last block   8-11 block length   13 physical block exponent   14 LBPME, LBPRZ   32 bytes in all
    /// ```
    fn read_capacity16(&self, cdb: &[u8]) -> Response {
        let thin = if self.geometry.is_thin() { LBPME | LBPRZ } else { 0 };
        let mut data = Vec::with_capacity(READ_CAPACITY16_BYTES);
        data.extend(self.last_block().to_be_bytes());
        data.extend(self.geometry.block_size.bytes().to_be_bytes());
        data.extend([0, self.geometry.block_size.physical_exponent(), thin]);
        data.resize(READ_CAPACITY16_BYTES, 0);
        Response::data(data, sbc::read_capacity16_allocation(cdb))
    }

    fn last_block(&self) -> u64 {
        self.geometry.blocks.saturating_sub(1)
    }

    /// The address is checked before the number of blocks, as libiscsi's suite expects.
    fn write_same(&self, request: &WriteSame, data_out_bytes: Option<u32>) -> Result<Admission, Sense> {
        let range = self.geometry.range(request.start, u64::from(request.blocks))?;
        if request.blocks == 0 || request.blocks > self.geometry.max_write_same_blocks() {
            return Err(Sense::invalid_field_in_cdb(request.blocks_at));
        }
        if request.unmap && !self.geometry.is_thin() {
            return Err(Sense::invalid_field_in_cdb(1));
        }
        let block = if request.no_data { SameBlock::Zeros } else { SameBlock::Received };
        let one_block = self.geometry.block_size.bytes();
        if block == SameBlock::Received && data_out_bytes.is_some_and(|bytes| bytes != one_block) {
            return Err(Sense::WRONG_DATA_LENGTH);
        }
        Ok(Admission::WriteSame { range, unmap: request.unmap, fua: self.is_write_through(), block })
    }

    fn synchronize_cache(&self, request: SynchronizeCache) -> Result<Admission, Sense> {
        let range = self.up_to_end(request.start, request.blocks)?;
        Ok(Admission::SynchronizeCache { range, immediate: request.immediate })
    }

    fn unmap(&self, parameter_length: u16) -> Result<Admission, Sense> {
        match parameter_length {
            0 => Ok(done()),
            1..UNMAP_HEADER_BYTES => Err(Sense::PARAMETER_LIST_LENGTH),
            _ => Ok(Admission::Unmap { parameter_length, fua: self.is_write_through() }),
        }
    }

    fn mode_sense(&self, form: ModeForm, grant: Grant, cdb: &[u8]) -> Result<Admission, Sense> {
        let request = ModeSense::parse(form, cdb)?;
        let protect = match grant {
            Grant::ReadOnly => WriteProtect::On,
            Grant::ReadWrite => self.write_protect(),
        };
        let data = self.modes.sense(&request, &self.geometry, protect)?;
        Ok(Admission::Done(Response::data(data, request.allocation_length)))
    }

    fn is_write_through(&self) -> bool {
        self.modes.write_cache() == WriteCache::Through
    }

    fn write_protect(&self) -> WriteProtect {
        let by_array = match self.access {
            // Where it is written is told by the states of ports; mode data is the same everywhere.
            Access::ReadWrite | Access::Standby | Access::Failed => false,
            Access::ReadOnly | Access::NoHostAccess => true,
        };
        if by_array || self.modes.is_write_protected() { WriteProtect::On } else { WriteProtect::Off }
    }
}

fn copy_results(question: CopyQuestion, cdb: &[u8]) -> Admission {
    let CopyResults { identifier, allocation_length } = CopyResults::parse(cdb);
    Admission::CopyResults { question, identifier, allocation_length }
}

fn mode_list(form: ModeForm, cdb: &[u8]) -> Result<Admission, Sense> {
    let (select, parameter_length) = ModeSelect::parse(form, cdb)?;
    match parameter_length {
        0 => Ok(done()),
        1..=MAX_MODE_LIST_BYTES => Ok(Admission::ParameterOut { select, parameter_length }),
        _ => Err(Sense::PARAMETER_LIST_LENGTH),
    }
}

fn done() -> Admission {
    Admission::Done(Response::good())
}

const LBPME: u8 = 0x80;
const LBPRZ: u8 = 0x40;
const READ_CAPACITY16_BYTES: usize = 32;
const UNMAP_HEADER_BYTES: u16 = 8;

#[cfg(test)]
#[path = "logical_unit/tests.rs"]
mod tests;
