//! What a target answers beside its logical units: REPORT LUNS, and everything at a LUN behind which there is no unit (SAM-5, 4.6.4).

use alloc::vec::Vec;

use crate::cdb::spc::{ReportLuns, RequestSense, SelectReport};
use crate::cdb::table::{self, Command, Device, Primary};
use crate::inquiry::{self, Subject};
use crate::lun::Lun;
use crate::sense::Sense;
use crate::status::Response;

/// Answers REPORT LUNS with the units that this initiator may see, whichever LUN it asked at.
#[must_use]
pub fn report_luns(luns: &[Lun], cdb: &[u8]) -> Response {
    Response::from(lun_list(luns, cdb))
}

/// Answers any command at a LUN without a unit. INQUIRY says that nothing is there, REPORT LUNS where units are; all else ends with
/// LOGICAL UNIT NOT SUPPORTED.
#[must_use]
pub fn unmapped_lun(luns: &[Lun], cdb: &[u8]) -> Response {
    let Ok(row) = table::lookup(Device::FULL, cdb) else {
        return Response::check(Sense::LUN_NOT_SUPPORTED);
    };
    match row.command {
        Command::Primary(Primary::Inquiry) => Response::from(inquiry::inquiry(Subject::Nothing, cdb)),
        Command::Primary(Primary::ReportLuns) => report_luns(luns, cdb),
        Command::Primary(Primary::RequestSense) => request_sense(cdb, Sense::LUN_NOT_SUPPORTED),
        Command::Primary(_) | Command::Block(_) | Command::Vendor(_) => {
            Response::check(Sense::LUN_NOT_SUPPORTED)
        }
    }
}

/// REQUEST SENSE: the condition as data, with status GOOD.
pub(crate) fn request_sense(cdb: &[u8], sense: Sense) -> Response {
    let request = RequestSense::parse(cdb);
    Response::data(sense.to_bytes(request.format), request.allocation_length)
}

fn lun_list(luns: &[Lun], cdb: &[u8]) -> Result<Response, Sense> {
    table::lookup(Device::FULL, cdb)?;
    let request = ReportLuns::parse(cdb)?;
    let shown = match request.select {
        SelectReport::Units => luns,
        SelectReport::WellKnown => &[],
    };
    let mut data = Vec::with_capacity(8 + shown.len() * 8);
    data.extend(u32::try_from(shown.len() * 8).unwrap_or(u32::MAX).to_be_bytes());
    data.extend([0; 4]);
    data.extend(shown.iter().flat_map(|lun| lun.to_bytes()));
    Ok(Response::data(data, request.allocation_length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Status;

    const REPORT: [u8; 12] = [0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0];

    #[test]
    fn luns_are_listed_in_the_form_in_which_they_are_addressed() {
        let luns = [Lun::ZERO, Lun::new(5).unwrap(), Lun::new(300).unwrap()];
        let response = report_luns(&luns, &REPORT);
        assert_eq!(response.data_in[..8], [0, 0, 0, 24, 0, 0, 0, 0]);
        let listed: Vec<Lun> = response.data_in[8..]
            .chunks(8)
            .map(|lun| Lun::from_bytes(lun.try_into().unwrap()).unwrap())
            .collect();
        assert_eq!(listed, luns);
    }

    #[test]
    fn a_short_allocation_cuts_the_list_but_not_its_length() {
        let luns = [Lun::ZERO, Lun::new(5).unwrap()];
        let mut cdb = REPORT;
        cdb[9] = 16;
        let response = report_luns(&luns, &cdb);
        assert_eq!((response.data_in.len(), response.data_in[3]), (16, 16));
    }

    #[test]
    fn where_no_unit_is_only_discovery_works() {
        let inquiry = unmapped_lun(&[], &[0x12, 0, 0, 0, 36, 0]);
        assert_eq!((inquiry.status, inquiry.data_in[0]), (Status::Good, 0x7F));
        assert_eq!(unmapped_lun(&[Lun::ZERO], &REPORT).data_in.len(), 16);
        let sense = unmapped_lun(&[], &[0x03, 0, 0, 0, 18, 0]);
        assert_eq!((sense.status, sense.data_in[2], sense.data_in[12]), (Status::Good, 5, 0x25));
        for opcode in [0x00, 0x28, 0x1A, 0xC0, 0xFF] {
            let mut cdb = [0; 16];
            cdb[0] = opcode;
            assert_eq!(unmapped_lun(&[], &cdb), Response::check(Sense::LUN_NOT_SUPPORTED));
        }
    }
}
