//! CHAP as the initiator does it (RFC 7143 section 12.1.3): answers the target's challenge and sends its own.
//!
//! The order of steps: `CHAP_A` out; `CHAP_A, CHAP_I, CHAP_C` in; `CHAP_N, CHAP_R` (and for mutual CHAP `CHAP_I,
//! CHAP_C`) out; `CHAP_N, CHAP_R` in. SHA-256 is preferred, MD5 is what every target has.

use super::error::Error;
use super::keys::push;
use super::settings::Settings;
use crate::chap::{
    Algorithm, CHALLENGE_BYTES, Challenge, Credentials, Hex, MAX_CHALLENGE_BYTES, decode_binary,
};
use crate::text::Pairs;
use alloc::string::ToString;
use alloc::vec::Vec;

/// What is offered.
pub(super) const ALGORITHMS: &str = "7,5";

/// Reads the target's challenge and writes our answer; for mutual CHAP also our challenge.
pub(super) fn answer(
    keys: &Pairs<'_>,
    settings: &Settings,
    credentials: &Credentials,
    text: &mut Vec<u8>,
) -> Result<Challenge, Error> {
    let algorithm = keys
        .get("CHAP_A")
        .and_then(Algorithm::from_number)
        .ok_or(Error::Authentication("the target chose no algorithm that was offered"))?;
    let identifier: u8 = keys
        .get("CHAP_I")
        .and_then(|value| value.parse().ok())
        .ok_or(Error::Authentication("the target's CHAP_I is not a number of one byte"))?;
    let mut space = [0; MAX_CHALLENGE_BYTES];
    let theirs = keys
        .get("CHAP_C")
        .and_then(|value| decode_binary(value, &mut space))
        .ok_or(Error::Authentication("the target's CHAP_C is not a binary value"))?;
    let ours = own_challenge(settings, algorithm);
    // A target that repeats our own challenge wants us to compute the answer it owes.
    if theirs == ours.bytes {
        return Err(Error::Authentication("the target sent our own challenge"));
    }
    let identity = credentials.initiator();
    push(text, "CHAP_N", &identity.name);
    let response = algorithm.respond(identifier, &identity.secret, theirs);
    push(text, "CHAP_R", &Hex(response.as_bytes()).to_string());
    if credentials.target().is_some() {
        push(text, "CHAP_I", &ours.identifier.to_string());
        push(text, "CHAP_C", &Hex(&ours.bytes).to_string());
    }
    Ok(ours)
}

/// Checks what the target answers to our challenge, if one was sent.
pub(super) fn check(keys: &Pairs<'_>, credentials: &Credentials, ours: &Challenge) -> Result<(), Error> {
    let Some(target) = credentials.target() else { return Ok(()) };
    let (Some(name), Some(response)) = (keys.get("CHAP_N"), keys.get("CHAP_R")) else {
        return Err(Error::Authentication("the target did not answer our challenge"));
    };
    if ours.is_answered(target, name, response) {
        Ok(())
    } else {
        Err(Error::Authentication("the target is not who it should be"))
    }
}

fn own_challenge(settings: &Settings, algorithm: Algorithm) -> Challenge {
    let (bytes, identifier) = settings.challenge.split_at(CHALLENGE_BYTES);
    Challenge {
        algorithm,
        identifier: identifier.first().copied().unwrap_or_default(),
        bytes: bytes.first_chunk().copied().unwrap_or_default(),
    }
}
