//! Asymmetric access of the ports to a unit (SPC-4, 5.15 and 6.37), by which multipath software ranks the paths to it.
//!
//! All ports of an array form one target port group, numbered as the array is, whose state follows what hosts may do with the unit
//! there; an initiator never sets it. Where another array shows the same unit, REPORT TARGET PORT GROUPS names its group as well: the
//! own one as it is, the other one as last known. Without that it names the own group only.

use alloc::vec::Vec;

use crate::identity::Identity;
use crate::logical_unit::Access;

/// The asymmetric access state of the ports, as in the descriptor of their group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PortState {
    /// Commands are taken here.
    ActiveOptimized,
    /// They are taken elsewhere.
    Standby,
    /// The unit cannot be used here.
    Unavailable,
}

/// The ports of another array that shows the same unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OtherPorts {
    /// Their target port group.
    pub group: u16,
    /// Their relative target port identifier.
    pub relative_port: u16,
    /// As far as this array knows commands are taken there: active/optimized, else standby.
    pub is_active: bool,
}

/// The state that follows from what hosts may do.
pub(crate) fn state(access: Access) -> PortState {
    match access {
        // A unit that is not ready by itself is so on every path: no other port is better.
        Access::ReadWrite | Access::ReadOnly | Access::NoHostAccess => PortState::ActiveOptimized,
        Access::Standby => PortState::Standby,
        Access::Failed => PortState::Unavailable,
    }
}

/// The parameter data of REPORT TARGET PORT GROUPS, not yet cut to the allocation length:
///
/// ```text
/// 0-3 length of what follows   longer header only: 4 format 10h, 5 implicit transition time 0, 6-7 reserved
/// then, for each group:        0 PREF, state   1 states that occur   2-3 target port group   5 status code   7 number of ports
///                              10-11 relative target port identifier
/// ```
pub(crate) fn report(
    identity: &Identity,
    access: Access,
    other: Option<OtherPorts>,
    is_extended: bool,
) -> Vec<u8> {
    let mut body = Vec::with_capacity(LONGEST_BODY_BYTES);
    if is_extended {
        body.extend([EXTENDED_HEADER, 0, 0, 0]);
    }
    let occur = if other.is_some() { U_SUP | S_SUP | AO_SUP } else { U_SUP | AO_SUP };
    let mut describe = |state: PortState, group: u16, port: u16| {
        // Hosts write where it is active: nothing is gained by going elsewhere.
        let (state, preferred) = match state {
            PortState::ActiveOptimized => (0x00, PREF),
            PortState::Standby => (0x02, 0),
            PortState::Unavailable => (0x03, 0),
        };
        let ([group_high, group_low], [port_high, port_low]) = (group.to_be_bytes(), port.to_be_bytes());
        body.extend([preferred | state, occur, group_high, group_low, 0, CHANGED_BY_ITSELF, 0, 1]);
        body.extend([0, 0, port_high, port_low]);
    };
    describe(state(access), identity.target_port_group, identity.relative_port);
    if let Some(other) = other {
        let state = if other.is_active { PortState::ActiveOptimized } else { PortState::Standby };
        describe(state, other.group, other.relative_port);
    }
    let mut data = Vec::with_capacity(4 + LONGEST_BODY_BYTES);
    data.extend(u32::try_from(body.len()).unwrap_or(0).to_be_bytes());
    data.extend(body);
    data
}

const LONGEST_BODY_BYTES: usize = 28;
const EXTENDED_HEADER: u8 = 0x10;
const PREF: u8 = 0x80;
/// Unavailable, standby and active/optimized occur.
const U_SUP: u8 = 0x08;
const S_SUP: u8 = 0x04;
const AO_SUP: u8 = 0x01;
/// Status code: the state was changed implicitly.
const CHANGED_BY_ITSELF: u8 = 0x02;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inquiry::tests::identity;

    #[test]
    fn the_ports_lead_to_the_unit_until_its_volume_has_failed() {
        for (access, first) in [
            (Access::ReadWrite, 0x80),
            (Access::ReadOnly, 0x80),
            (Access::NoHostAccess, 0x80),
            (Access::Failed, 0x03),
        ] {
            let data = report(&identity(), access, None, false);
            assert_eq!(data, [0, 0, 0, 12, first, 0x09, 0, 3, 0, 2, 0, 1, 0, 0, 0, 1]);
        }
    }

    #[test]
    fn two_arrays_that_show_one_unit_tell_the_same_of_both_port_groups() {
        let here = identity();
        let there = Identity { target_port_group: 9, relative_port: 9, ..identity() };
        let ports = |identity: &Identity, is_active| OtherPorts {
            group: identity.target_port_group,
            relative_port: identity.relative_port,
            is_active,
        };
        let at_the_active_one = report(&here, Access::ReadWrite, Some(ports(&there, false)), false);
        let at_the_other = report(&there, Access::Standby, Some(ports(&here, true)), false);
        let active = [0x80, 0x0D, 0, 3, 0, 2, 0, 1, 0, 0, 0, 1];
        let standby = [0x02, 0x0D, 0, 9, 0, 2, 0, 1, 0, 0, 0, 9];
        assert_eq!(at_the_active_one, [&[0, 0, 0, 24][..], &active, &standby].concat());
        assert_eq!(at_the_other, [&[0, 0, 0, 24][..], &standby, &active].concat());
    }

    #[test]
    fn the_longer_header_stands_in_front_of_the_same_groups() {
        let other = OtherPorts { group: 4, relative_port: 5, is_active: true };
        for other in [None, Some(other)] {
            let short = report(&identity(), Access::Failed, other, false);
            let long = report(&identity(), Access::Failed, other, true);
            assert_eq!(usize::from(long[3]), usize::from(short[3]) + 4);
            assert_eq!(long[4..8], [0x10, 0, 0, 0]);
            assert_eq!(long[8..], short[4..]);
            assert!(long.len() <= 4 + LONGEST_BODY_BYTES);
        }
    }
}
