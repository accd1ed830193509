//! The unit through which arrays copy from each other: LUN 0 of the peer target, device type 0Ch.
//!
//! It keeps no state of its own. The vendor commands are understood only from a registered peer; to anybody else they end exactly
//! like an operation code that does not exist, before anything in them is looked at.

use crate::cdb::table::{self, Command, Device, Primary};
use crate::cdb::vendor::VendorCommand;
use crate::identity::Identity;
use crate::inquiry::{self, Subject};
use crate::sense::Sense;
use crate::status::Response;
use crate::target;

/// Whom a session belongs to, as its login has proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerStanding {
    /// A registered peer array, on a portal that serves arrays.
    Registered,
    /// Anybody else.
    Stranger,
}

/// What the caller does with a command at the peer unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerAdmission {
    /// Send this.
    Done(Response),
    /// Answer with [`crate::report_luns`].
    ReportLuns,
    /// Carry out this command.
    Vendor(VendorCommand),
}

/// The peer unit.
#[derive(Debug)]
pub struct PeerUnit {
    identity: Identity,
}

impl PeerUnit {
    /// The unit of this name.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        Self { identity }
    }

    /// Decides about a command.
    #[must_use]
    pub fn admit(&self, standing: PeerStanding, cdb: &[u8]) -> PeerAdmission {
        self.decide(standing, cdb).unwrap_or_else(|sense| PeerAdmission::Done(Response::check(sense)))
    }

    fn decide(&self, standing: PeerStanding, cdb: &[u8]) -> Result<PeerAdmission, Sense> {
        if standing == PeerStanding::Stranger
            && cdb.first().is_none_or(|opcode| *opcode >= FIRST_VENDOR_OPCODE)
        {
            return Err(Sense::INVALID_COMMAND);
        }
        let row = table::lookup(Device::Peer, cdb)?;
        Ok(match row.command {
            Command::Vendor(which) => PeerAdmission::Vendor(VendorCommand::parse(which, row, cdb)?),
            Command::Primary(Primary::TestUnitReady) => PeerAdmission::Done(Response::good()),
            Command::Primary(Primary::RequestSense) => {
                PeerAdmission::Done(target::request_sense(cdb, Sense::NO_SENSE))
            }
            Command::Primary(Primary::Inquiry) => {
                PeerAdmission::Done(inquiry::inquiry(Subject::Peer(&self.identity), cdb)?)
            }
            Command::Primary(Primary::ReportLuns) => PeerAdmission::ReportLuns,
            Command::Primary(_) | Command::Block(_) => return Err(Sense::INVALID_COMMAND),
        })
    }
}

/// From here to FFh operation codes are vendor-specific.
const FIRST_VENDOR_OPCODE: u8 = 0xC0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cdb::vendor::GroupNumber;

    fn unit() -> PeerUnit {
        PeerUnit::new(inquiry::tests::identity())
    }

    #[test]
    fn a_registered_peer_is_served() {
        let command = VendorCommand::JournalInformation { group: GroupNumber(3), allocation_length: 512 };
        let admission = unit().admit(PeerStanding::Registered, command.to_cdb().as_bytes());
        assert_eq!(admission, PeerAdmission::Vendor(command));
    }

    #[test]
    fn a_stranger_cannot_tell_vendor_commands_from_unknown_ones() {
        let unknown = unit().admit(PeerStanding::Stranger, &[0xDF; 16]);
        assert_eq!(unknown, PeerAdmission::Done(Response::check(Sense::INVALID_COMMAND)));
        for opcode in 0xC0..=0xFF {
            for filling in [0, 4, 0xFF] {
                let mut cdb = [filling; 64];
                cdb[0] = opcode;
                assert_eq!(unit().admit(PeerStanding::Stranger, &cdb), unknown);
                assert_eq!(unit().admit(PeerStanding::Stranger, &cdb[..16]), unknown);
            }
        }
    }

    #[test]
    fn it_is_no_disk() {
        for opcode in 0..0xC0_u8 {
            let mut cdb = [0; 16];
            (cdb[0], cdb[4], cdb[9]) = (opcode, 36, 16);
            let refused = PeerAdmission::Done(Response::check(Sense::INVALID_COMMAND));
            let served = unit().admit(PeerStanding::Stranger, &cdb) != refused;
            assert_eq!(served, [0x00, 0x03, 0x12, 0xA0].contains(&opcode), "{opcode:02X}h");
        }
    }
}
