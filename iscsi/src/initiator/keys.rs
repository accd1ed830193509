//! Text keys (RFC 7143 section 6): `key=value` pairs, each ended by a zero byte, and what is agreed by them.

use super::error::Error;
use super::settings::{DigestWish, Purpose, Settings};
use crate::text::{IRRELEVANT, NOT_UNDERSTOOD, REJECT, parse_number};
use alloc::string::ToString as _;
use alloc::vec::Vec;

/// Appends one pair.
pub(super) fn push(text: &mut Vec<u8>, key: &str, value: &str) {
    text.extend_from_slice(key.as_bytes());
    text.push(b'=');
    text.extend_from_slice(value.as_bytes());
    text.push(0);
}

/// What holds on a connection. Starts with the defaults of RFC 7143 chapter 13.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Headers carry CRC32C.
    pub header_digest: bool,
    /// Data segments carry CRC32C.
    pub data_digest: bool,
    /// Data beyond the command PDU has to be asked for.
    pub initial_r2t: bool,
    /// Data may travel in the command PDU.
    pub immediate_data: bool,
    /// The most that one R2T may ask for.
    pub max_burst_bytes: u32,
    /// The most that may travel unasked.
    pub first_burst_bytes: u32,
    /// The most that the target takes in one PDU.
    pub target_segment_bytes: u32,
    /// R2Ts of one command that may be open.
    pub max_outstanding_r2t: u32,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            header_digest: false,
            data_digest: false,
            initial_r2t: true,
            immediate_data: true,
            max_burst_bytes: 262_144,
            first_burst_bytes: 65_536,
            target_segment_bytes: 8192,
            max_outstanding_r2t: 1,
        }
    }
}

/// Writes all that is offered in the operational stage.
pub(super) fn offer(settings: &Settings, text: &mut Vec<u8>) {
    let digest = match settings.digests {
        DigestWish::Required => "CRC32C",
        DigestWish::Preferred => "CRC32C,None",
        DigestWish::Without => "None",
    };
    push(text, "HeaderDigest", digest);
    push(text, "DataDigest", digest);
    push(text, "MaxRecvDataSegmentLength", &settings.segment_bytes.to_string());
    push(text, "DefaultTime2Wait", "2");
    push(text, "DefaultTime2Retain", "0");
    push(text, "ErrorRecoveryLevel", "0");
    if settings.purpose == Purpose::Discovery {
        return; // The other keys are irrelevant there.
    }
    push(text, "MaxConnections", "1");
    push(text, "InitialR2T", yes_no(settings.initial_r2t));
    push(text, "ImmediateData", yes_no(settings.immediate_data));
    push(text, "MaxBurstLength", &settings.max_burst_bytes.to_string());
    push(text, "FirstBurstLength", &settings.first_burst_bytes.min(settings.max_burst_bytes).to_string());
    push(text, "MaxOutstandingR2T", &MAX_OUTSTANDING_R2T.to_string());
    push(text, "DataPDUInOrder", "Yes");
    push(text, "DataSequenceInOrder", "Yes");
}

impl Parameters {
    /// Takes what the target says about one key. A key that we do not know is answered in `reply`.
    pub(super) fn take(
        &mut self,
        settings: &Settings,
        (key, value): (&str, &str),
        reply: &mut Vec<u8>,
    ) -> Result<(), Error> {
        if [IRRELEVANT, NOT_UNDERSTOOD, REJECT].contains(&value) {
            return Ok(()); // The default holds; a digest that is required is checked at the end.
        }
        match key {
            "HeaderDigest" => self.header_digest = digest(value, "HeaderDigest")?,
            "DataDigest" => self.data_digest = digest(value, "DataDigest")?,
            "InitialR2T" => self.initial_r2t = answer(value, "InitialR2T")? || settings.initial_r2t,
            "ImmediateData" => {
                self.immediate_data = answer(value, "ImmediateData")? && settings.immediate_data;
            }
            "MaxBurstLength" => {
                self.max_burst_bytes = number(value, settings.max_burst_bytes, "MaxBurstLength")?;
            }
            "FirstBurstLength" => {
                self.first_burst_bytes = number(value, settings.first_burst_bytes, "FirstBurstLength")?;
            }
            // Declared, not negotiated: the target's own limit, which bounds only what we choose to send.
            "MaxRecvDataSegmentLength" => {
                let theirs = number(value, MAX_24_BITS, "MaxRecvDataSegmentLength")?;
                self.target_segment_bytes = theirs.min(SEND_SEGMENT_BYTES_MAX);
            }
            "MaxOutstandingR2T" => {
                self.max_outstanding_r2t = number(value, MAX_OUTSTANDING_R2T, "MaxOutstandingR2T")?;
            }
            "DataPDUInOrder" | "DataSequenceInOrder" if value != "Yes" => {
                return Err(Error::Negotiation("DataPDUInOrder, DataSequenceInOrder"));
            }
            "ErrorRecoveryLevel" if value != "0" => return Err(Error::Negotiation("ErrorRecoveryLevel")),
            "MaxConnections" if value != "1" => return Err(Error::Negotiation("MaxConnections")),
            known if KNOWN.contains(&known) => {}
            unknown => push(reply, unknown, NOT_UNDERSTOOD),
        }
        Ok(())
    }

    /// The last word: what was required is there and the numbers fit each other.
    pub(super) fn check(&mut self, settings: &Settings) -> Result<(), Error> {
        if settings.digests == DigestWish::Required && !(self.header_digest && self.data_digest) {
            return Err(Error::Negotiation("HeaderDigest, DataDigest"));
        }
        self.first_burst_bytes = self.first_burst_bytes.min(self.max_burst_bytes);
        Ok(())
    }
}

fn yes_no(value: bool) -> &'static str {
    if value { "Yes" } else { "No" }
}

fn digest(value: &str, key: &'static str) -> Result<bool, Error> {
    match value {
        "CRC32C" => Ok(true),
        "None" => Ok(false),
        _ => Err(Error::Negotiation(key)),
    }
}

fn answer(value: &str, key: &'static str) -> Result<bool, Error> {
    match value {
        "Yes" => Ok(true),
        "No" => Ok(false),
        _ => Err(Error::Negotiation(key)),
    }
}

fn number(value: &str, most: u32, key: &'static str) -> Result<u32, Error> {
    let least = if key == "MaxOutstandingR2T" { 1 } else { 512 };
    parse_number(value).filter(|value| (least..=most).contains(value)).ok_or(Error::Negotiation(key))
}

/// Keys that need no answer and change nothing.
const KNOWN: [&str; 14] = [
    "DataPDUInOrder",
    "DataSequenceInOrder",
    "ErrorRecoveryLevel",
    "MaxConnections",
    "DefaultTime2Wait",
    "DefaultTime2Retain",
    "TargetPortalGroupTag",
    "TargetAlias",
    "TargetAddress",
    "AuthMethod",
    "CHAP_A",
    "CHAP_N",
    "CHAP_R",
    "TargetName",
];
/// R2Ts that we are ready to hold for each command.
const MAX_OUTSTANDING_R2T: u32 = 8;
/// The largest segment that we send, whatever the target would take: it bounds how long one command holds the wire.
const SEND_SEGMENT_BYTES_MAX: u32 = 256 << 10;
const MAX_24_BITS: u32 = 0x00ff_ffff;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pdu::Isid;

    fn settings() -> Settings {
        let purpose = Purpose::Normal { target_name: "iqn.2026-11.example:a".into() };
        Settings::new("iqn.2026-11.example:host", purpose, Isid([0x80, 0, 0, 1, 0, 0]), [7; 33])
    }

    fn after(pairs: &[(&str, &str)]) -> Result<(Parameters, Vec<u8>), Error> {
        let (mut parameters, mut reply) = (Parameters::default(), Vec::new());
        for pair in pairs {
            parameters.take(&settings(), *pair, &mut reply)?;
        }
        parameters.check(&settings())?;
        Ok((parameters, reply))
    }

    #[test]
    fn a_target_that_answers_nothing_gets_the_defaults_of_the_standard() {
        assert_eq!(after(&[]).unwrap().0, Parameters::default());
        assert_eq!(after(&[("MaxBurstLength", "Irrelevant")]).unwrap().0, Parameters::default());
    }

    #[test]
    fn answers_beyond_the_offer_are_refused() {
        for pair in [
            ("MaxBurstLength", "2000000"),
            ("MaxBurstLength", "0"),
            ("MaxBurstLength", "-1"),
            ("FirstBurstLength", "none"),
            ("MaxOutstandingR2T", "0"),
            ("MaxOutstandingR2T", "9"),
            ("HeaderDigest", "CRC32C,None"),
            ("InitialR2T", "maybe"),
            ("ErrorRecoveryLevel", "1"),
            ("DataPDUInOrder", "No"),
            ("MaxRecvDataSegmentLength", "16777216"),
        ] {
            assert!(after(&[pair]).is_err(), "{pair:?}");
        }
    }

    #[test]
    fn unknown_keys_are_answered() {
        assert_eq!(after(&[("X-com.example.a", "1")]).unwrap().1, b"X-com.example.a=NotUnderstood\0");
    }

    #[test]
    fn a_digest_that_is_required_has_to_be_agreed() {
        let required = Settings { digests: DigestWish::Required, ..settings() };
        assert!(Parameters::default().check(&required).is_err());
        let mut agreed = Parameters { header_digest: true, data_digest: true, ..Parameters::default() };
        assert!(agreed.check(&required).is_ok());
    }
}
