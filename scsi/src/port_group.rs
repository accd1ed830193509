//! Asymmetric access of the ports here (SPC-4, 5.15 and 6.37), by which multipath software ranks the paths to a unit.
//!
//! All ports of an array form one target port group, numbered as the array is, whose state follows what hosts may do with the unit;
//! an initiator never sets it. REPORT TARGET PORT GROUPS names this group only.

use alloc::vec::Vec;

use crate::identity::Identity;
use crate::logical_unit::Access;

/// The asymmetric access state of the ports, as in the descriptor of their group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PortState {
    /// Commands are taken here.
    ActiveOptimized,
    /// The unit cannot be used here.
    Unavailable,
}

/// The state that follows from what hosts may do.
pub(crate) fn state(access: Access) -> PortState {
    match access {
        // A unit that is not ready by itself is so on every path: no other port is better.
        Access::ReadWrite | Access::ReadOnly | Access::NoHostAccess => PortState::ActiveOptimized,
        Access::Failed => PortState::Unavailable,
    }
}

/// The parameter data of REPORT TARGET PORT GROUPS, not yet cut to the allocation length:
///
/// ```text
/// 0-3 length of what follows   longer header only: 4 format 10h, 5 implicit transition time 0, 6-7 reserved
/// then, for the one group:     0 PREF, state   1 states that occur   2-3 target port group   5 status code   7 number of ports
///                              10-11 relative target port identifier
/// ```
pub(crate) fn report(identity: &Identity, access: Access, is_extended: bool) -> Vec<u8> {
    let (state, preferred) = match state(access) {
        PortState::ActiveOptimized => (0x00, PREF),
        PortState::Unavailable => (0x03, 0),
    };
    let mut body = Vec::with_capacity(LONGEST_BODY_BYTES);
    if is_extended {
        body.extend([EXTENDED_HEADER, 0, 0, 0]);
    }
    let [group_high, group_low] = identity.target_port_group.to_be_bytes();
    let [port_high, port_low] = identity.relative_port.to_be_bytes();
    body.extend([preferred | state, U_SUP | AO_SUP, group_high, group_low, 0, CHANGED_BY_ITSELF, 0, 1]);
    body.extend([0, 0, port_high, port_low]);
    let mut data = Vec::with_capacity(4 + LONGEST_BODY_BYTES);
    data.extend(u32::try_from(body.len()).unwrap_or(0).to_be_bytes());
    data.extend(body);
    data
}

const LONGEST_BODY_BYTES: usize = 16;
const EXTENDED_HEADER: u8 = 0x10;
const PREF: u8 = 0x80;
/// Unavailable and active/optimized occur.
const U_SUP: u8 = 0x08;
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
            let data = report(&identity(), access, false);
            assert_eq!(data, [0, 0, 0, 12, first, 0x09, 0, 3, 0, 2, 0, 1, 0, 0, 0, 1]);
        }
    }

    #[test]
    fn the_longer_header_stands_in_front_of_the_same_group() {
        let short = report(&identity(), Access::Failed, false);
        let long = report(&identity(), Access::Failed, true);
        assert_eq!(long[..8], [0, 0, 0, 16, 0x10, 0, 0, 0]);
        assert_eq!(long[8..], short[4..]);
    }
}
