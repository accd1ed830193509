//! REPORT SUPPORTED OPERATION CODES (SPC-4, 6.35), printed from the command table.

use alloc::vec::Vec;

use super::spc::{CodesAsked, ReportOperationCodes, Timeouts};
use super::table::{self, Device, Row};
use crate::sense::Sense;

/// The parameter data, not yet cut to the allocation length.
pub(crate) fn operation_codes(device: Device, request: &ReportOperationCodes) -> Result<Vec<u8>, Sense> {
    let rows = |opcode| table::rows(opcode).iter().filter(|row| row.exists_on(device));
    match request.asked {
        CodesAsked::All => Ok(all_commands(device, request.timeouts)),
        CodesAsked::Opcode(opcode) => {
            if rows(opcode).any(|row| row.service_action.is_some()) {
                return Err(Sense::invalid_field_in_cdb(2));
            }
            Ok(one_command(rows(opcode).next(), request.timeouts))
        }
        CodesAsked::ServiceAction(opcode, action) => {
            if rows(opcode).any(|row| row.service_action.is_none()) {
                return Err(Sense::invalid_field_in_cdb(2));
            }
            Ok(one_command(rows(opcode).find(|row| has_action(row, action)), request.timeouts))
        }
        CodesAsked::Any(opcode, action) => {
            Ok(one_command(rows(opcode).find(|row| has_action(row, action)), request.timeouts))
        }
    }
}

/// A command without service actions is asked for with service action zero.
fn has_action(row: &Row, action: u16) -> bool {
    u16::from(row.service_action.unwrap_or(0)) == action
}

/// ```text
/// 0-3 length; for each command: 0 operation code, 2-3 service action, 5 CTDP and SERVACTV, 6-7 length of the command
/// ```
fn all_commands(device: Device, timeouts: Timeouts) -> Vec<u8> {
    let mut commands = Vec::new();
    for row in table::all().iter().filter(|row| row.exists_on(device)) {
        let ctdp = if timeouts == Timeouts::Shown { 0x02 } else { 0x00 };
        let servactv = u8::from(row.service_action.is_some());
        let [high, low] = cdb_length(row).to_be_bytes();
        commands.extend([row.opcode(), 0, 0, row.service_action.unwrap_or(0), 0, ctdp | servactv, high, low]);
        put_timeouts(&mut commands, timeouts);
    }
    let length = u32::try_from(commands.len()).unwrap_or(u32::MAX);
    let mut data = Vec::with_capacity(4 + commands.len());
    data.extend(length.to_be_bytes());
    data.extend(commands);
    data
}

/// ```text
/// 1 CTDP and SUPPORT (001b no, 011b as the standard says), 2-3 length of the command, 4- usage map
/// ```
fn one_command(row: Option<&Row>, timeouts: Timeouts) -> Vec<u8> {
    let Some(row) = row else { return Vec::from([0, 0x01, 0, 0]) };
    let ctdp = if timeouts == Timeouts::Shown { 0x80 } else { 0x00 };
    let [high, low] = cdb_length(row).to_be_bytes();
    let mut data = Vec::from([0, ctdp | 0x03, high, low]);
    data.extend(row.usage);
    put_timeouts(&mut data, timeouts);
    data
}

fn cdb_length(row: &Row) -> u16 {
    u16::try_from(row.usage.len()).unwrap_or(u16::MAX)
}

/// A command timeouts descriptor in which all times are zero: no time is promised.
fn put_timeouts(data: &mut Vec<u8>, timeouts: Timeouts) {
    match timeouts {
        Timeouts::Omitted => {}
        Timeouts::Shown => data.extend([0, 0x0A, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(device: Device, options: u8, opcode: u8, action: u8) -> Result<Vec<u8>, Sense> {
        let cdb = [0xA3, 0x0C, options, opcode, 0, action, 0, 0, 16, 0, 0, 0];
        operation_codes(device, &ReportOperationCodes::parse(&cdb)?)
    }

    #[test]
    fn the_list_has_every_row_of_the_device_and_no_other() {
        for (device, thin) in [(Device::FULL, false), (Device::THIN, true)] {
            for (options, step) in [(0, 8), (0x80, 20)] {
                let data = ask(device, options, 0, 0).unwrap();
                assert_eq!(data[..4], u32::try_from(data.len() - 4).unwrap().to_be_bytes());
                let opcodes: Vec<u8> = data[4..].chunks(step).map(|command| command[0]).collect();
                assert_eq!(opcodes.contains(&0x42), thin);
                assert!(opcodes.iter().all(|opcode| *opcode < 0xC0));
                assert_eq!(opcodes.len(), table::all().iter().filter(|row| row.exists_on(device)).count());
            }
        }
    }

    #[test]
    fn one_command_shows_its_usage_map() {
        let read10 = ask(Device::FULL, 1, 0x28, 0).unwrap();
        assert_eq!(read10, [0, 3, 0, 10, 0x28, 0xF8, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0xFF, 0xFF, 4]);
        assert_eq!(ask(Device::FULL, 0x83, 0x9E, 0x10).unwrap()[..4], [0, 0x83, 0, 16]);
        assert_eq!(ask(Device::FULL, 1, 0x42, 0).unwrap(), [0, 1, 0, 0]);
        assert_eq!(ask(Device::FULL, 3, 0x9E, 0x13).unwrap(), [0, 1, 0, 0]);
        assert_eq!(ask(Device::THIN, 1, 0x9C, 0).unwrap(), [0, 1, 0, 0]);
        assert_eq!(ask(Device::ATOMIC, 1, 0x9C, 0).unwrap()[..4], [0, 3, 0, 16]);
    }

    #[test]
    fn an_operation_code_is_asked_for_in_its_own_way() {
        assert!(ask(Device::FULL, 1, 0x9E, 0x10).is_err());
        assert!(ask(Device::FULL, 2, 0x28, 0).is_err());
        assert!(ask(Device::FULL, 2, 0x9E, 0x10).is_ok());
        assert!(ask(Device::FULL, 4, 0x28, 0).is_err());
    }
}
