//! All commands of all device types here, one row each (SPC-4 and SBC-4, the tables of commands).
//!
//! The table is the only place that knows which commands exist: [`lookup`] decides by it what is supported, which conditions stop a
//! command, and how long it is; REPORT SUPPORTED OPERATION CODES prints it. An operation code outside it ends with INVALID
//! COMMAND OPERATION CODE.
//!
//! Invariants, each with a test: no two rows match one command of one device; rows of one operation code lie together; the first
//! byte of a usage map is the operation code, and its length is the length of the command.

mod rows;

use self::rows::ROWS;
use crate::sense::Sense;
use crate::wire;

/// Which device server looks at the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Device {
    /// A direct-access volume.
    Volume {
        /// It is thin: unmapped blocks read as zeros.
        thin: bool,
        /// It writes whole commands or nothing, also at a power loss.
        atomic: bool,
    },
    /// The unit for other arrays, device type 0Ch.
    Peer,
}

impl Device {
    /// A volume that is fully provisioned.
    pub(crate) const FULL: Self = Self::Volume { thin: false, atomic: false };
    /// A volume that is thin.
    #[cfg(test)]
    pub(crate) const THIN: Self = Self::Volume { thin: true, atomic: false };
    /// A thin volume that has all commands.
    #[cfg(test)]
    pub(crate) const ATOMIC: Self = Self::Volume { thin: true, atomic: true };
}

/// Where a command exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Everywhere,
    Volumes,
    ThinVolumes,
    AtomicVolumes,
    PeerUnits,
}

/// What may stop a command before its fields are looked at, from least to most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    /// Nothing: it is how an initiator finds its way.
    Open,
    /// A pending unit attention.
    Attention,
    /// Also a medium that is not there.
    Ready,
    /// Also write protection.
    Writable,
}

/// Which way the data of a command goes, seen by the initiator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataDirection {
    /// No data.
    None,
    /// To the initiator.
    In,
    /// From the initiator.
    Out,
}

/// What a row stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Primary(Primary),
    Block(Block),
    Vendor(Vendor),
}

/// Commands of SPC-4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Primary {
    TestUnitReady,
    RequestSense,
    Inquiry,
    ReportLuns,
    ModeSense6,
    ModeSense10,
    ModeSelect6,
    ModeSelect10,
    ReportOperationCodes,
    ReportTargetPortGroups,
    ExtendedCopy,
    CopyStatus,
    CopyParameters,
    CopyFailure,
}

/// Commands of SBC-4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Block {
    ReadCapacity10,
    ReadCapacity16,
    Read(Form),
    Write(Form),
    WriteSame10,
    WriteSame16,
    SynchronizeCache10,
    SynchronizeCache16,
    Unmap,
    CompareAndWrite,
    OrWrite,
    WriteAtomic,
    Verify(Form),
    WriteAndVerify(Form),
    PreFetch10,
    PreFetch16,
    GetLbaStatus,
}

/// The lengths in which READ and WRITE exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Six,
    Ten,
    Twelve,
    Sixteen,
}

/// Commands between arrays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vendor {
    PeerInformation,
    JournalRead,
    JournalInformation,
    Designation,
    DesignationResult,
    ReportPosition,
    ForwardedWrite,
    ForwardingState,
    ForwardedRead,
    CopyRead,
    JournalTables,
    LinkTest,
    Synchronise,
    JournalWrite,
}

/// One command.
#[derive(Debug)]
pub(crate) struct Row {
    /// Set when several commands share the operation code.
    pub(crate) service_action: Option<u8>,
    pub(crate) command: Command,
    pub(crate) gate: Gate,
    pub(crate) direction: DataDirection,
    /// One byte for each of the command: which bits are looked at. The operation code and service action stand for themselves.
    pub(crate) usage: &'static [u8],
    found: Found,
}

impl Row {
    pub(crate) fn opcode(&self) -> u8 {
        wire::u8_at(self.usage, 0)
    }

    pub(crate) fn exists_on(&self, device: Device) -> bool {
        match self.found {
            Found::Everywhere => true,
            Found::Volumes => matches!(device, Device::Volume { .. }),
            Found::ThinVolumes => matches!(device, Device::Volume { thin: true, .. }),
            Found::AtomicVolumes => matches!(device, Device::Volume { atomic: true, .. }),
            Found::PeerUnits => device == Device::Peer,
        }
    }

    fn matches(&self, service_action: u8) -> bool {
        self.service_action.is_none_or(|own| own == service_action)
    }
}

/// The row of a command on this device, once its CONTROL byte is right. A command that is shorter than its row is unknown; one that is
/// longer is not, because transports carry short commands in a field of 16 bytes.
#[inline]
pub(crate) fn lookup(device: Device, cdb: &[u8]) -> Result<&'static Row, Sense> {
    let opcode = *cdb.first().ok_or(Sense::INVALID_COMMAND)?;
    let service_action = wire::u8_at(cdb, 1) & SERVICE_ACTION_MASK;
    let row = rows(opcode)
        .iter()
        .find(|row| row.matches(service_action) && row.exists_on(device))
        .ok_or(Sense::INVALID_COMMAND)?;
    let control_at = row.usage.len() - 1;
    let control = *cdb.get(control_at).ok_or(Sense::INVALID_COMMAND)?;
    if control & NACA != 0 {
        return Err(Sense::invalid_field_in_cdb(u16::try_from(control_at).unwrap_or(0)));
    }
    Ok(row)
}

/// Which way the data of a command goes, whichever device it is for; `None` for an operation code that exists nowhere here.
#[must_use]
pub fn data_direction(cdb: &[u8]) -> Option<DataDirection> {
    let service_action = wire::u8_at(cdb, 1) & SERVICE_ACTION_MASK;
    rows(*cdb.first()?).iter().find(|row| row.matches(service_action)).map(|row| row.direction)
}

/// All rows of an operation code.
pub(crate) fn rows(opcode: u8) -> &'static [Row] {
    let (first, count) = INDEX.get(usize::from(opcode)).copied().unwrap_or((0, 0));
    TABLE.get(usize::from(first)..usize::from(first) + usize::from(count)).unwrap_or(&[])
}

/// All rows there are.
pub(crate) fn all() -> &'static [Row] {
    &TABLE
}

const SERVICE_ACTION_MASK: u8 = 0x1F;

/// The bit of the CONTROL byte that asks for auto contingent allegiance, which nothing here has (NORMACA is zero).
const NACA: u8 = 0x04;

/// First row and number of rows of each operation code.
static INDEX: [(u8, u8); 256] = index();

/// In one place in memory, however often the rows are used.
static TABLE: [Row; ROWS.len()] = ROWS;

#[expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "evaluated by the compiler, which rejects both"
)]
const fn index() -> [(u8, u8); 256] {
    assert!(ROWS.len() < 256);
    let mut index = [(0, 0); 256];
    let mut at = 0;
    while at < ROWS.len() {
        let opcode = ROWS[at].usage[0] as usize;
        let (first, count) = index[opcode];
        index[opcode] = if count == 0 { (at as u8, 1) } else { (first, count + 1) };
        at += 1;
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    const DEVICES: [Device; 4] = [Device::FULL, Device::THIN, Device::ATOMIC, Device::Peer];

    #[test]
    fn every_command_of_every_device_meets_at_most_one_row_and_lookup_finds_it() {
        for device in DEVICES {
            for opcode in 0..=u8::MAX {
                for service_action in 0..=SERVICE_ACTION_MASK {
                    let matching: Vec<&Row> = all()
                        .iter()
                        .filter(|row| {
                            row.opcode() == opcode && row.matches(service_action) && row.exists_on(device)
                        })
                        .collect();
                    let mut cdb = [0; 64];
                    (cdb[0], cdb[1]) = (opcode, service_action);
                    match (matching.as_slice(), lookup(device, &cdb)) {
                        ([], found) => assert_eq!(found.err(), Some(Sense::INVALID_COMMAND)),
                        ([row], found) => assert_eq!(found.unwrap().command, row.command),
                        (several, _) => {
                            panic!("{opcode:02X}h/{service_action:02X}h has {} rows", several.len())
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn rows_of_one_operation_code_lie_together_and_either_all_have_service_actions_or_there_is_one() {
        assert!(all().is_sorted_by_key(Row::opcode));
        for row in all() {
            let same = rows(row.opcode());
            assert!(same.iter().all(|other| other.opcode() == row.opcode()));
            assert!(same.len() == 1 || same.iter().all(|other| other.service_action.is_some()));
        }
    }

    #[test]
    fn usage_maps_have_the_length_that_the_group_of_the_operation_code_demands() {
        for row in all() {
            let lengths: &[usize] = match row.opcode() >> 5 {
                0 => &[6],
                1 | 2 => &[10],
                4 => &[16],
                5 => &[12],
                _ => &[16, 32, 64],
            };
            assert!(lengths.contains(&row.usage.len()), "{row:?}");
            if let Some(service_action) = row.service_action {
                assert_eq!(row.usage[1] & SERVICE_ACTION_MASK, service_action);
            }
        }
    }

    #[test]
    fn a_command_that_is_cut_short_or_asks_for_naca_is_refused() {
        assert!(lookup(Device::FULL, &[]).is_err());
        assert!(lookup(Device::FULL, &[0x28, 0, 0, 0, 0, 0]).is_err());
        let naca = [0, 0, 0, 0, 0, 4];
        assert_eq!(lookup(Device::FULL, &naca).err(), Some(Sense::invalid_field_in_cdb(5)));
    }

    #[test]
    fn vendor_commands_exist_for_peers_only_and_unmap_and_write_atomic_where_they_can_be_kept() {
        for opcode in 0xC0..=0xFF {
            assert!(lookup(Device::THIN, &[opcode; 64]).is_err());
        }
        let mut unmap = [0; 16];
        unmap[0] = 0x42;
        assert!(lookup(Device::THIN, &unmap).is_ok());
        assert!(lookup(Device::FULL, &unmap).is_err());
        assert_eq!(data_direction(&unmap), Some(DataDirection::Out));
        let mut atomic = [0; 16];
        atomic[0] = 0x9C;
        assert!(lookup(Device::ATOMIC, &atomic).is_ok());
        assert!(lookup(Device::THIN, &atomic).is_err());
        assert_eq!(data_direction(&[0xFF]), None);
    }
}
