//! Commands given to a logical unit, family by family.

use super::*;
use crate::block::Lba;
use crate::geometry::{BlockSize, MAX_TRANSFER_BYTES, MAX_VERIFY_BYTES, MAX_WRITE_SAME_BYTES, Provisioning};
use crate::identity::Naa;
use crate::sense::SenseKey;
use crate::status::Status;
use crate::wire::{u32_at, u64_at};
use proptest::prelude::*;

const HOST: NexusId = NexusId(1);
const OTHER: NexusId = NexusId(2);
const BLOCKS: u64 = 4 << 20;
const THIN: Provisioning = Provisioning::Thin { unmap_granularity_blocks: 8 };

fn unit_with(access: Access, provisioning: Provisioning) -> LogicalUnit {
    let geometry = inquiry::tests::geometry(BlockSize::B512, provisioning);
    let mut unit =
        LogicalUnit::new(inquiry::tests::identity(), geometry, access, CacheControl::Host(WriteCache::Back));
    unit.attach_nexus(HOST);
    unit.attach_nexus(OTHER);
    unit
}

fn thin() -> LogicalUnit {
    unit_with(Access::ReadWrite, THIN)
}

fn admit(unit: &mut LogicalUnit, cdb: &[u8]) -> Admission {
    let mut padded = [0; 16];
    padded[..cdb.len()].copy_from_slice(cdb);
    unit.admit(HOST, Grant::ReadWrite, &padded, None)
}

fn check(sense: Sense) -> Admission {
    Admission::Done(Response::check(sense))
}

fn data(admission: Admission) -> Vec<u8> {
    let Admission::Done(response) = admission else { panic!("{admission:?}") };
    assert_eq!(response.status, Status::Good, "{:?}", response.sense);
    response.data_in
}

fn ten(opcode: u8, flags: u8, lba: u32, blocks: u16) -> [u8; 10] {
    let [a, b, c, d] = lba.to_be_bytes();
    let [high, low] = blocks.to_be_bytes();
    [opcode, flags, a, b, c, d, 0, high, low, 0]
}

fn sixteen(opcode: u8, flags: u8, lba: u64, blocks: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1]) = (opcode, flags);
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

fn range(start: u64, blocks: u64) -> BlockRange {
    BlockRange { start: Lba(start), blocks }
}

#[test]
fn read_and_write_name_their_range_and_whether_it_must_be_durable() {
    let mut unit = thin();
    assert_eq!(admit(&mut unit, &ten(0x28, 0, 8, 16)), Admission::Read { range: range(8, 16), fua: false });
    assert_eq!(
        admit(&mut unit, &ten(0x2A, 0x18, 8, 16)),
        Admission::Write { range: range(8, 16), fua: true }
    );
    assert_eq!(
        admit(&mut unit, &sixteen(0x88, 0x08, 8, 1)),
        Admission::Read { range: range(8, 1), fua: true }
    );
    assert_eq!(
        admit(&mut unit, &[0x0A, 0, 0, 1, 0, 0]),
        Admission::Write { range: range(1, 256), fua: false }
    );
    let write12 = [0xAA, 0, 0, 0, 0, 9, 0, 0, 0, 2, 0, 0];
    assert_eq!(admit(&mut unit, &write12), Admission::Write { range: range(9, 2), fua: false });
}

#[test]
fn a_transfer_of_nothing_is_good_where_the_address_exists() {
    let mut unit = thin();
    let last = u32::try_from(BLOCKS - 1).unwrap();
    for opcode in [0x28, 0x2A] {
        assert_eq!(admit(&mut unit, &ten(opcode, 0, last, 0)), done());
        assert_eq!(admit(&mut unit, &ten(opcode, 0, last + 1, 0)), check(Sense::LBA_OUT_OF_RANGE));
        assert_eq!(admit(&mut unit, &ten(opcode, 0, last, 2)), check(Sense::LBA_OUT_OF_RANGE));
        assert_eq!(admit(&mut unit, &ten(opcode, 0, u32::MAX, 1)), check(Sense::LBA_OUT_OF_RANGE));
    }
    assert_eq!(admit(&mut unit, &sixteen(0x8A, 0, u64::MAX, u32::MAX)), check(Sense::LBA_OUT_OF_RANGE));
}

#[test]
fn a_transfer_beyond_the_block_limits_page_is_refused() {
    let mut unit = thin();
    let most = MAX_TRANSFER_BYTES / 512;
    assert!(matches!(admit(&mut unit, &sixteen(0x88, 0, 0, most)), Admission::Read { .. }));
    assert_eq!(admit(&mut unit, &sixteen(0x88, 0, 0, most + 1)), check(Sense::invalid_field_in_cdb(10)));
}

#[test]
fn capacity_is_the_same_in_both_commands_and_thinness_is_shown() {
    let mut unit = thin();
    let short = data(admit(&mut unit, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
    let long = data(admit(&mut unit, &sixteen(0x9E, 0x10, 0, 32)));
    assert_eq!((u64::from(u32_at(&short, 0)), u32_at(&short, 4)), (u64_at(&long, 0), u32_at(&long, 8)));
    assert_eq!((u64_at(&long, 0), long.len()), (BLOCKS - 1, 32));
    assert_eq!(long[12..16], [0, 3, 0xC0, 0]);
    let full =
        data(admit(&mut unit_with(Access::ReadWrite, Provisioning::Full), &sixteen(0x9E, 0x10, 0, 32)));
    assert_eq!(full[14], 0);
    assert_eq!(data(admit(&mut unit, &sixteen(0x9E, 0x10, 0, 15))).len(), 15);
    unit.resize(1 << 32);
    assert_eq!(unit.attentions.poll(HOST), Some(UnitAttention::CapacityChanged));
    assert_eq!(u32_at(&data(admit(&mut unit, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0])), 0), u32::MAX);
}

#[test]
fn write_same_wants_one_block_and_a_number_of_blocks() {
    let mut unit = thin();
    let wanted = |unmap, block| Admission::WriteSame { range: range(8, 16), unmap, fua: false, block };
    assert_eq!(
        unit.admit(HOST, Grant::ReadWrite, &ten(0x41, 0x08, 8, 16), Some(512)),
        wanted(true, SameBlock::Received)
    );
    assert_eq!(
        unit.admit(HOST, Grant::ReadWrite, &sixteen(0x93, 0, 8, 16), Some(512)),
        wanted(false, SameBlock::Received)
    );
    assert_eq!(
        unit.admit(HOST, Grant::ReadWrite, &sixteen(0x93, 0x01, 8, 16), Some(0)),
        wanted(false, SameBlock::Zeros)
    );
    for wrong in [0, 256, 1024] {
        let refused = unit.admit(HOST, Grant::ReadWrite, &ten(0x41, 0x08, 8, 16), Some(wrong));
        assert_eq!(refused, check(Sense::WRONG_DATA_LENGTH));
    }
    assert_eq!(admit(&mut unit, &ten(0x41, 0, 0, 0)), check(Sense::invalid_field_in_cdb(7)));
    let past = u32::try_from(BLOCKS + 1).unwrap();
    assert_eq!(admit(&mut unit, &ten(0x41, 0, past, 0)), check(Sense::LBA_OUT_OF_RANGE));
    let most = MAX_WRITE_SAME_BYTES / 512;
    assert!(matches!(admit(&mut unit, &sixteen(0x93, 0, 0, most)), Admission::WriteSame { .. }));
    assert_eq!(admit(&mut unit, &sixteen(0x93, 0, 0, most + 1)), check(Sense::invalid_field_in_cdb(10)));
}

#[test]
fn a_fully_provisioned_volume_has_no_unmap_in_any_form() {
    let mut unit = unit_with(Access::ReadWrite, Provisioning::Full);
    assert_eq!(admit(&mut unit, &ten(0x42, 0, 0, 24)), check(Sense::INVALID_COMMAND));
    assert_eq!(admit(&mut unit, &ten(0x41, 0x08, 0, 1)), check(Sense::invalid_field_in_cdb(1)));
}

#[test]
fn unmap_receives_its_list_and_an_empty_one_is_good() {
    let mut unit = thin();
    let parameter_length = 24;
    assert_eq!(
        admit(&mut unit, &ten(0x42, 0, 0, parameter_length)),
        Admission::Unmap { parameter_length, fua: false }
    );
    assert_eq!(admit(&mut unit, &ten(0x42, 0, 0, 0)), done());
    assert_eq!(admit(&mut unit, &ten(0x42, 0, 0, 7)), check(Sense::PARAMETER_LIST_LENGTH));
}

#[test]
fn synchronize_cache_of_no_blocks_reaches_to_the_end() {
    let mut unit = thin();
    let whole = Admission::SynchronizeCache { range: range(0, BLOCKS), immediate: false };
    assert_eq!(admit(&mut unit, &ten(0x35, 0, 0, 0)), whole);
    let rest = Admission::SynchronizeCache { range: range(8, BLOCKS - 8), immediate: true };
    assert_eq!(admit(&mut unit, &sixteen(0x91, 0x02, 8, 0)), rest);
    assert_eq!(admit(&mut unit, &sixteen(0x91, 0, BLOCKS, 0)), check(Sense::LBA_OUT_OF_RANGE));
    assert_eq!(admit(&mut unit, &sixteen(0x91, 0, BLOCKS - 1, 2)), check(Sense::LBA_OUT_OF_RANGE));
}

#[test]
fn access_stops_what_it_should_and_never_discovery() {
    let reads = [ten(0x28, 0, 0, 1), ten(0x35, 0, 0, 0)];
    let writes = [ten(0x2A, 0, 0, 1), ten(0x41, 0, 0, 1), ten(0x42, 0, 0, 24)];
    for (access, reading, writing) in [
        (Access::ReadWrite, None, None),
        (Access::ReadOnly, None, Some(Sense::WRITE_PROTECTED)),
        (Access::NoHostAccess, Some(Sense::MANUAL_INTERVENTION), Some(Sense::MANUAL_INTERVENTION)),
        (Access::Standby, Some(Sense::STANDBY), Some(Sense::STANDBY)),
        (Access::Failed, Some(Sense::UNIT_FAILURE), Some(Sense::UNIT_FAILURE)),
    ] {
        let mut unit = unit_with(access, THIN);
        for (cdbs, expected) in [(&reads[..], reading), (&writes[..], writing)] {
            for cdb in cdbs {
                let admission = admit(&mut unit, cdb);
                match expected {
                    Some(sense) => assert_eq!(admission, check(sense)),
                    None => assert!(!matches!(admission, Admission::Done(_)), "{admission:?}"),
                }
            }
        }
        let ready = admit(&mut unit, &[0; 6]);
        assert_eq!(ready, reading.map_or(done(), check));
        assert_eq!(data(admit(&mut unit, &[0x12, 0, 0, 0, 96, 0])).len(), 96);
        assert_eq!(data(admit(&mut unit, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0])).len(), 8);
    }
}

#[test]
fn write_protection_by_the_host_works_like_one_by_the_array() {
    let mut unit = thin();
    let mut list = Vec::from([0; 4]);
    list.extend(&data(admit(&mut unit, &[0x1A, 0x08, 0x0A, 0, 255, 0]))[4..]);
    list[4 + 4] |= 0x08;
    let Admission::ParameterOut { select, parameter_length } = admit(&mut unit, &[0x15, 0x10, 0, 0, 16, 0])
    else {
        panic!("MODE SELECT takes a list");
    };
    assert_eq!(usize::from(parameter_length), list.len());
    assert_eq!(unit.mode_select(HOST, select, &list), Ok(ModeChange::FlushFirst));
    assert_eq!(admit(&mut unit, &ten(0x2A, 0, 0, 1)), check(Sense::SOFTWARE_WRITE_PROTECTED));
    assert!(matches!(admit(&mut unit, &ten(0x28, 0, 0, 1)), Admission::Read { .. }));
    assert_eq!(data(admit(&mut unit, &[0x1A, 0x08, 0x0A, 0, 255, 0]))[2], 0x90);
    let told = unit.admit(OTHER, Grant::ReadWrite, &[0; 16], None);
    assert_eq!(told, check(UnitAttention::ModeParametersChanged.sense()));
}

#[test]
fn write_through_makes_every_write_durable() {
    let geometry = inquiry::tests::geometry(BlockSize::B4096, THIN);
    let cache = CacheControl::Array(WriteCache::Through);
    let mut unit = LogicalUnit::new(inquiry::tests::identity(), geometry, Access::ReadWrite, cache);
    assert_eq!(admit(&mut unit, &ten(0x2A, 0, 0, 1)), Admission::Write { range: range(0, 1), fua: true });
    assert!(matches!(admit(&mut unit, &ten(0x41, 0, 0, 1)), Admission::WriteSame { fua: true, .. }));
    assert!(matches!(admit(&mut unit, &ten(0x42, 0, 0, 24)), Admission::Unmap { fua: true, .. }));
    assert_eq!(admit(&mut unit, &ten(0x28, 0, 0, 1)), Admission::Read { range: range(0, 1), fua: false });
}

#[test]
fn compare_and_write_takes_two_halves() {
    let mut unit = thin();
    let cdb = |flags, blocks| {
        let mut cdb = sixteen(0x89, flags, 8, 0);
        cdb[13] = blocks;
        cdb
    };
    let wanted = |fua| Admission::CompareAndWrite { range: range(8, 2), fua };
    assert_eq!(unit.admit(HOST, Grant::ReadWrite, &cdb(0, 2), Some(2048)), wanted(false));
    assert_eq!(unit.admit(HOST, Grant::ReadWrite, &cdb(0x08, 2), None), wanted(true));
    for wrong in [0, 1024, 2047, 4096] {
        assert_eq!(
            unit.admit(HOST, Grant::ReadWrite, &cdb(0, 2), Some(wrong)),
            check(Sense::WRONG_DATA_LENGTH)
        );
    }
    assert_eq!(unit.admit(HOST, Grant::ReadWrite, &cdb(0, 0), Some(0)), done());
    let mut last = sixteen(0x89, 0, BLOCKS - 1, 0);
    last[13] = 2;
    assert_eq!(unit.admit(HOST, Grant::ReadWrite, &last, Some(2048)), check(Sense::LBA_OUT_OF_RANGE));
    assert_eq!(
        unit_with(Access::ReadOnly, THIN).admit(HOST, Grant::ReadWrite, &cdb(0, 2), None),
        check(Sense::WRITE_PROTECTED)
    );
}

#[test]
fn orwrite_and_write_atomic_are_whole_or_refused() {
    let mut unit = thin();
    let or = sixteen(0x8B, 0x08, 8, 16);
    assert_eq!(
        unit.admit(HOST, Grant::ReadWrite, &or, Some(8192)),
        Admission::OrWrite { range: range(8, 16), fua: true }
    );
    assert_eq!(unit.admit(HOST, Grant::ReadWrite, &or, Some(8191)), check(Sense::WRONG_DATA_LENGTH));
    let mut atomic = sixteen(0x9C, 0, 8, 16);
    assert_eq!(unit.admit(HOST, Grant::ReadWrite, &atomic, Some(8192)), check(Sense::INVALID_COMMAND));
    unit.set_atomic(true);
    assert_eq!(
        unit.admit(HOST, Grant::ReadWrite, &atomic, None),
        check(UnitAttention::InquiryDataChanged.sense())
    );
    assert_eq!(
        unit.admit(HOST, Grant::ReadWrite, &atomic, Some(8192)),
        Admission::WriteAtomic { range: range(8, 16), fua: false }
    );
    assert_eq!(unit.admit(HOST, Grant::ReadWrite, &atomic, Some(4096)), check(Sense::WRONG_DATA_LENGTH));
    atomic[11] = 1;
    assert_eq!(
        unit.admit(HOST, Grant::ReadWrite, &atomic, Some(8192)),
        check(Sense::invalid_field_in_cdb(10))
    );
    let most = u16::try_from(MAX_TRANSFER_BYTES / 512 + 1).unwrap();
    let mut long = sixteen(0x9C, 0, 8, 0);
    long[12..14].copy_from_slice(&most.to_be_bytes());
    assert_eq!(unit.admit(HOST, Grant::ReadWrite, &long, None), check(Sense::invalid_field_in_cdb(12)));
}

#[test]
fn verify_reads_more_than_it_receives() {
    let mut unit = thin();
    let cdb = |flags, blocks| sixteen(0x8F, flags, 8, blocks);
    let wanted = |blocks, check| Admission::Verify { range: range(8, blocks), check };
    assert_eq!(admit(&mut unit, &cdb(0, 65_535)), wanted(65_535, VerifyCheck::Readable));
    assert_eq!(admit(&mut unit, &cdb(2, 8192)), wanted(8192, VerifyCheck::AllSent));
    assert_eq!(admit(&mut unit, &cdb(2, 8193)), check(Sense::invalid_field_in_cdb(10)));
    assert_eq!(admit(&mut unit, &cdb(6, 8193)), wanted(8193, VerifyCheck::OneSent));
    assert_eq!(admit(&mut unit, &cdb(0, MAX_VERIFY_BYTES / 512 + 1)), check(Sense::invalid_field_in_cdb(10)));
    assert_eq!(admit(&mut unit, &ten(0x2F, 0, 8, 0)), done());
    let written = Admission::Write { range: range(8, 16), fua: true };
    assert_eq!(admit(&mut unit, &ten(0x2E, 0x02, 8, 16)), written);
    assert_eq!(admit(&mut unit, &ten(0x2E, 0x06, 8, 16)), check(Sense::invalid_field_in_cdb(1)));
}

#[test]
fn copies_are_asked_for_and_asked_about() {
    let mut unit = thin();
    let length = |opcode, action, length| sixteen(opcode, action, 0, length);
    assert_eq!(admit(&mut unit, &length(0x83, 0, 76)), Admission::ExtendedCopy { parameter_length: 76 });
    assert_eq!(admit(&mut unit, &length(0x83, 0, 0)), done());
    let long = length(0x83, 0, MAX_COPY_LIST_BYTES + 1);
    assert_eq!(admit(&mut unit, &long), check(Sense::PARAMETER_LIST_LENGTH));
    assert_eq!(admit(&mut unit, &length(0x83, 1, 76)), check(Sense::INVALID_COMMAND));
    assert_eq!(data(admit(&mut unit, &length(0x84, 3, 200))).len(), 46);
    let mut asks = length(0x84, 4, 20);
    asks[2] = 9;
    let wanted =
        Admission::CopyResults { question: CopyQuestion::Failure, identifier: 9, allocation_length: 20 };
    assert_eq!(admit(&mut unit, &asks), wanted);
    let copies = |access: Access| {
        let unit = unit_with(access, THIN);
        [false, true].map(|writes| unit.check_copy(Grant::ReadWrite, writes).err())
    };
    assert_eq!(copies(Access::ReadWrite), [None, None]);
    assert_eq!(copies(Access::ReadOnly), [None, Some(Sense::WRITE_PROTECTED)]);
    assert_eq!(copies(Access::NoHostAccess), [Some(Sense::MANUAL_INTERVENTION); 2]);
}

#[test]
fn a_unit_attention_is_told_once_and_leaves_discovery_alone() {
    let mut unit = thin();
    unit.raise_unit_attention(UnitAttention::CapacityChanged);
    assert_eq!(data(admit(&mut unit, &[0x12, 0, 0, 0, 36, 0])).len(), 36);
    assert_eq!(admit(&mut unit, &[0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0]), Admission::ReportLuns);
    assert_eq!(admit(&mut unit, &ten(0x28, 0, 0, 1)), check(UnitAttention::CapacityChanged.sense()));
    assert!(matches!(admit(&mut unit, &ten(0x28, 0, 0, 1)), Admission::Read { .. }));
    let sense = unit.admit(OTHER, Grant::ReadWrite, &[0x03, 1, 0, 0, 252, 0], None);
    assert_eq!(data(sense), [0x72, 6, 0x2A, 0x09, 0, 0, 0, 0]);
    let nothing = unit.admit(OTHER, Grant::ReadWrite, &[0x03, 0, 0, 0, 18, 0], None);
    assert_eq!(data(nothing)[2], 0);
}

#[test]
fn a_changed_list_of_luns_is_not_announced_to_who_has_read_it() {
    let mut unit = thin();
    unit.raise_unit_attention(UnitAttention::ReportedLunsChanged);
    unit.luns_were_reported(HOST);
    assert_eq!(admit(&mut unit, &[0; 6]), done());
    assert_eq!(
        unit.admit(OTHER, Grant::ReadWrite, &[0; 6], None),
        check(UnitAttention::ReportedLunsChanged.sense())
    );
}

#[test]
fn a_fresh_nexus_is_told_of_power_on_only_by_policy() {
    let mut unit = thin();
    unit.attach_nexus(NexusId(7));
    assert_eq!(unit.admit(NexusId(7), Grant::ReadWrite, &[0; 6], None), done());
    unit.set_fresh_nexus(FreshNexus::PowerOn);
    unit.attach_nexus(NexusId(8));
    assert_eq!(
        unit.admit(NexusId(8), Grant::ReadWrite, &[0; 6], None),
        check(UnitAttention::PowerOn.sense())
    );
    assert_eq!(unit.admit(NexusId(8), Grant::ReadWrite, &[0; 6], None), done());
}

#[test]
fn hosts_hear_that_write_protection_came_or_went() {
    let mut unit = thin();
    unit.set_access(Access::ReadOnly);
    assert_eq!(admit(&mut unit, &[0; 6]), check(UnitAttention::ModeParametersChanged.sense()));
    unit.set_access(Access::NoHostAccess);
    assert_eq!(unit.attentions.poll(HOST), None);
}

#[test]
fn hosts_hear_that_no_port_here_leads_to_the_unit_any_more_and_can_ask() {
    let mut unit = thin();
    let ask = [0xA3, 0x0A, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0];
    assert_eq!(data(admit(&mut unit, &ask))[4], 0x80, "active/optimized, preferred");
    unit.set_access(Access::Failed);
    assert_eq!(
        data(admit(&mut unit, &ask))[4],
        0x03,
        "unavailable, which is no reason to refuse the question"
    );
    assert_eq!(admit(&mut unit, &[0; 6]), check(UnitAttention::AccessStateChanged.sense()));
    assert_eq!(admit(&mut unit, &[0; 6]), check(Sense::UNIT_FAILURE));
    let wrong = [0xA3, 0x4A, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0];
    assert_eq!(admit(&mut unit, &wrong), check(Sense::invalid_field_in_cdb(1)));
}

#[test]
fn in_standby_everything_that_describes_the_unit_is_answered_and_nothing_reaches_its_blocks() {
    let mut unit = thin();
    unit.set_access(Access::Standby);
    assert_eq!(admit(&mut unit, &[0; 6]), check(UnitAttention::AccessStateChanged.sense()));
    // SPC-4 5.15.2.4.4 lists what is to be answered; READ CAPACITY is answered besides, TEST UNIT READY is not.
    assert_eq!(admit(&mut unit, &[0; 6]), check(Sense::STANDBY));
    assert_eq!(
        Sense::STANDBY.to_bytes(SenseFormat::Fixed)[..14],
        [0x70, 0, 2, 0, 0, 0, 0, 10, 0, 0, 0, 0, 4, 0x0B]
    );
    assert_eq!(admit(&mut unit, &[0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0]), Admission::ReportLuns);
    for cdb in [
        &[0x12, 0, 0, 0, 96, 0][..],
        &[0x12, 1, 0x83, 0, 255, 0],
        &[0x03, 0, 0, 0, 18, 0],
        &[0x1A, 0x08, 0x3F, 0, 255, 0],
        &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0xA3, 0x0A, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0],
        &[0xA3, 0x0C, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0],
    ] {
        assert!(!data(admit(&mut unit, cdb)).is_empty(), "{cdb:02X?}");
    }
    for opcode in 0..=u8::MAX {
        let mut cdb = [0; 16];
        (cdb[0], cdb[8]) = (opcode, 1);
        let admission = unit.admit(HOST, Grant::ReadWrite, &cdb, None);
        let describes =
            matches!(admission, Admission::Done(_) | Admission::ReportLuns | Admission::CopyResults { .. });
        assert!(describes || matches!(opcode, 0x15 | 0x55 | 0x83), "{opcode:02X}h: {admission:?}");
    }
    assert_eq!(unit.check_copy(Grant::ReadWrite, false), Err(Sense::STANDBY));
    unit.set_access(Access::ReadWrite);
    assert_eq!(admit(&mut unit, &[0; 6]), check(UnitAttention::AccessStateChanged.sense()));
    assert_eq!(admit(&mut unit, &[0; 6]), done());
}

#[test]
fn mode_data_does_not_tell_whether_the_unit_is_in_standby() {
    let ask = [0x1A, 0x08, 0x3F, 0, 255, 0];
    let [active, standby] =
        [Access::ReadWrite, Access::Standby].map(|access| data(admit(&mut unit_with(access, THIN), &ask)));
    assert_eq!(active, standby);
}

#[test]
fn hosts_hear_that_the_unit_is_another_one_and_that_other_ports_lead_to_it() {
    let mut unit = thin();
    unit.set_identity(inquiry::tests::identity());
    unit.set_other_ports(None);
    assert_eq!(admit(&mut unit, &[0; 6]), done(), "nothing is new");
    let naa = Naa::new([0x6F; 16]).unwrap();
    unit.set_identity(Identity { naa, ..inquiry::tests::identity() });
    assert_eq!(admit(&mut unit, &[0; 6]), check(UnitAttention::InquiryDataChanged.sense()));
    assert_eq!(data(admit(&mut unit, &[0x12, 1, 0x83, 0, 255, 0]))[8..24], [0x6F; 16]);
    let other = OtherPorts { group: 7, relative_port: 7, is_active: false };
    unit.set_other_ports(Some(other));
    assert_eq!(admit(&mut unit, &[0; 6]), check(UnitAttention::AccessStateChanged.sense()));
    unit.set_other_ports(Some(OtherPorts { is_active: true, ..other }));
    assert_eq!(admit(&mut unit, &[0; 6]), check(UnitAttention::AccessStateChanged.sense()));
    assert_eq!(admit(&mut unit, &[0; 6]), done());
}

proptest! {
    #[test]
    fn no_command_breaks_anything_and_every_range_lies_inside(
        cdb in prop::collection::vec(any::<u8>(), 0..64), bytes in any::<Option<u32>>(), full in any::<bool>()
    ) {
        let mut unit = unit_with(Access::ReadWrite, if full { Provisioning::Full } else { THIN });
        unit.geometry.atomic = bytes.is_some();
        let inside = |range: BlockRange| range.start.0 + range.blocks <= BLOCKS;
        match unit.admit(HOST, Grant::ReadWrite, &cdb, bytes) {
            Admission::Done(response) => {
                prop_assert_eq!(response.sense.is_some(), response.status == Status::CheckCondition);
                prop_assert!(response.sense.is_none_or(|sense| sense.key != SenseKey::NoSense));
            }
            Admission::Read { range, .. } | Admission::Write { range, .. } => {
                prop_assert!(inside(range) && !range.is_empty());
                prop_assert!(range.blocks * 512 <= u64::from(MAX_TRANSFER_BYTES));
            }
            Admission::WriteSame { range, .. } => prop_assert!(inside(range) && !range.is_empty()),
            Admission::CompareAndWrite { range, .. } => {
                prop_assert!(inside(range) && (1..256).contains(&range.blocks));
            }
            Admission::OrWrite { range, .. } | Admission::WriteAtomic { range, .. } => {
                prop_assert!(inside(range) && !range.is_empty());
                prop_assert!(range.blocks * 512 <= u64::from(MAX_TRANSFER_BYTES));
            }
            Admission::Verify { range, .. } => {
                prop_assert!(inside(range) && !range.is_empty());
                prop_assert!(range.blocks * 512 <= u64::from(MAX_VERIFY_BYTES));
            }
            Admission::SynchronizeCache { range, .. } | Admission::PreFetch { range, .. } => {
                prop_assert!(inside(range));
            }
            Admission::GetLbaStatus { start, .. } => prop_assert!(start.0 < BLOCKS),
            Admission::ExtendedCopy { parameter_length } => {
                prop_assert!((1..=MAX_COPY_LIST_BYTES).contains(&parameter_length));
            }
            Admission::CopyResults { .. } => {}
            Admission::Unmap { parameter_length, .. } => prop_assert!(parameter_length >= 8),
            Admission::ParameterOut { parameter_length, .. } => prop_assert!(parameter_length > 0),
            Admission::ReportLuns => {}
        }
    }
}

#[test]
fn what_is_reported_as_supported_is_what_is_not_refused_as_unknown() {
    let mut unit = thin();
    for opcode in 0..=u8::MAX {
        for action in 0..32 {
            let mut cdb = [0; 16];
            (cdb[0], cdb[1]) = (opcode, action);
            let ask = [0xA3, 0x0C, 0x03, opcode, 0, action, 0, 0, 1, 0, 0, 0];
            let supported = data(admit(&mut unit, &ask))[1] & 0x07 == 0x03;
            let known = unit.admit(HOST, Grant::ReadWrite, &cdb, None) != check(Sense::INVALID_COMMAND);
            if action == 0 || matches!(opcode, 0x83 | 0x84 | 0x9E | 0xA3) {
                assert_eq!(supported, known, "{opcode:02X}h/{action:02X}h");
            }
        }
    }
}

/// Whether a command leaves blocks and mode pages as they are, whatever its fields say. There is no `_` here: a command that is new has to be
/// put on one of the sides.
fn leaves_the_unit_alone(command: Command) -> bool {
    match command {
        Command::Block(block) => match block {
            Block::ReadCapacity10
            | Block::ReadCapacity16
            | Block::Read(_)
            | Block::Verify(_)
            | Block::PreFetch10
            | Block::PreFetch16
            | Block::GetLbaStatus
            | Block::SynchronizeCache10
            | Block::SynchronizeCache16 => true,
            Block::Write(_)
            | Block::WriteAndVerify(_)
            | Block::WriteSame10
            | Block::WriteSame16
            | Block::Unmap
            | Block::CompareAndWrite
            | Block::OrWrite
            | Block::WriteAtomic => false,
        },
        Command::Primary(primary) => match primary {
            Primary::TestUnitReady
            | Primary::RequestSense
            | Primary::Inquiry
            | Primary::ReportLuns
            | Primary::ModeSense6
            | Primary::ModeSense10
            | Primary::ReportOperationCodes
            | Primary::ReportTargetPortGroups
            | Primary::CopyStatus
            | Primary::CopyParameters
            | Primary::CopyFailure => true,
            // It may come to any LUN; each unit that it would write is asked (`check_copy`).
            Primary::ExtendedCopy => true,
            Primary::ModeSelect6 | Primary::ModeSelect10 => false,
        },
        Command::Vendor(_) => true, // No volume has them.
    }
}

#[test]
fn an_initiator_that_may_only_read_changes_nothing_by_any_command_of_the_table() {
    let shows_protection = |admission: &Admission| {
        let Admission::Done(response) = admission else { panic!("{admission:?}") };
        assert_eq!(response.status, Status::Good);
        response.data_in[2] & 0x80 != 0
    };
    let mut unit = thin();
    unit.set_atomic(true);
    assert_eq!(admit(&mut unit, &[0; 6]), check(UnitAttention::InquiryDataChanged.sense()));
    let mut refused = 0;
    for row in table::all() {
        let mut cdb = [0; 64];
        (cdb[0], cdb[1], cdb[4], cdb[8]) = (row.opcode(), row.service_action.unwrap_or(0), 24, 24);
        let [reading, writing] =
            [Grant::ReadOnly, Grant::ReadWrite].map(|grant| unit.admit(HOST, grant, &cdb, None));
        if !leaves_the_unit_alone(row.command) {
            assert_eq!(reading, check(Sense::WRITE_PROTECTED), "{row:?}");
            assert_ne!(writing, check(Sense::WRITE_PROTECTED), "{row:?}");
            refused += 1;
        } else {
            assert_ne!(reading, check(Sense::WRITE_PROTECTED), "{row:?}");
            let is_mode_sense =
                matches!(row.command, Command::Primary(Primary::ModeSense6 | Primary::ModeSense10));
            assert!(is_mode_sense || reading == writing, "{row:?}");
            // What sends data and is let through only looks at it, or asks each unit.
            let looks = matches!(
                row.command,
                Command::Block(Block::Verify(_))
                    | Command::Primary(Primary::ExtendedCopy)
                    | Command::Vendor(_)
            );
            assert!(looks || row.direction != table::DataDirection::Out, "{row:?}");
        }
    }
    assert_eq!(refused, 4 + 3 + 2 + 1 + 1 + 1 + 1 + 2, "writes, verified ones, WRITE SAME, and the others");
    let page = [0x1A, 0x08, 0x0A, 0, 255, 0];
    assert!(shows_protection(&unit.admit(HOST, Grant::ReadOnly, &page, None)));
    assert!(!shows_protection(&unit.admit(HOST, Grant::ReadWrite, &page, None)));
    assert_eq!(unit.check_copy(Grant::ReadOnly, true), Err(Sense::WRITE_PROTECTED));
    assert_eq!(unit.check_copy(Grant::ReadOnly, false), Ok(()));
}

/// What a unit cannot do at all is said before what this initiator may not do.
#[test]
fn a_grant_allows_nothing_that_the_unit_does_not() {
    for grant in [Grant::ReadOnly, Grant::ReadWrite] {
        for (access, sense) in [
            (Access::ReadOnly, Sense::WRITE_PROTECTED),
            (Access::NoHostAccess, Sense::MANUAL_INTERVENTION),
            (Access::Standby, Sense::STANDBY),
            (Access::Failed, Sense::UNIT_FAILURE),
        ] {
            let mut unit = unit_with(access, THIN);
            assert_eq!(unit.admit(HOST, grant, &ten(0x2A, 0, 0, 1), None), check(sense));
        }
    }
}
