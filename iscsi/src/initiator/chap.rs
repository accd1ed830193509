//! CHAP as the initiator does it (RFC 7143 section 12.1.3, RFC 1994): answers the target's challenge and sends its own.
//!
//! Algorithms: SHA-256 (7) is preferred, MD5 (5) is what every target has. The order of steps: `CHAP_A` out;
//! `CHAP_A, CHAP_I, CHAP_C` in; `CHAP_N, CHAP_R` (and for mutual CHAP `CHAP_I, CHAP_C`) out; `CHAP_N, CHAP_R` in.

use super::error::Error;
use super::keys::{Keys, push};
use super::settings::{Credentials, Settings};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;
use md5::{Digest, Md5};
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// What is offered.
pub(super) const ALGORITHMS: &str = "7,5";
/// Longer challenges than this are refused (RFC 7143: binary items of up to 1024 bytes).
const CHALLENGE_BYTES_MAX: usize = 1024;
const CHALLENGE_BYTES: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Md5,
    Sha256,
}

impl Algorithm {
    fn response(self, identifier: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
        match self {
            Self::Md5 => {
                let mut hash = Md5::new();
                for part in [&[identifier], secret, challenge] {
                    hash.update(part);
                }
                hash.finalize().to_vec()
            }
            Self::Sha256 => {
                let mut hash = Sha256::new();
                for part in [&[identifier], secret, challenge] {
                    hash.update(part);
                }
                hash.finalize().to_vec()
            }
        }
    }
}

/// Reads the target's challenge and writes our answer; for mutual CHAP also our challenge.
pub(super) fn answer(
    keys: &Keys<'_>,
    settings: &Settings,
    credentials: &Credentials,
    text: &mut Vec<u8>,
) -> Result<Algorithm, Error> {
    let algorithm = match keys.get("CHAP_A") {
        Some("5") => Algorithm::Md5,
        Some("7") => Algorithm::Sha256,
        _ => return Err(Error::Authentication("the target chose no algorithm that was offered")),
    };
    let identifier: u8 = keys
        .get("CHAP_I")
        .and_then(|value| value.parse().ok())
        .ok_or(Error::Authentication("the target's CHAP_I is not a number of one byte"))?;
    let challenge = keys
        .get("CHAP_C")
        .and_then(|value| binary(value, CHALLENGE_BYTES_MAX))
        .filter(|bytes| !bytes.is_empty())
        .ok_or(Error::Authentication("the target's CHAP_C is not a binary value"))?;
    let (ours, own_identifier) = own_challenge(settings);
    // A target that repeats our own challenge wants us to compute the answer it owes.
    if challenge == ours {
        return Err(Error::Authentication("the target sent our own challenge"));
    }
    push(text, "CHAP_N", &credentials.name);
    push(text, "CHAP_R", &hex(&algorithm.response(identifier, &credentials.secret, &challenge)));
    if credentials.mutual.is_some() {
        let mut number = String::new();
        let _ = write!(number, "{own_identifier}");
        push(text, "CHAP_I", &number);
        push(text, "CHAP_C", &hex(&ours));
    }
    Ok(algorithm)
}

/// Checks what the target answers to our challenge, if one was sent.
pub(super) fn check(
    keys: &Keys<'_>,
    settings: &Settings,
    credentials: &Credentials,
    algorithm: Algorithm,
) -> Result<(), Error> {
    let Some(mutual) = &credentials.mutual else { return Ok(()) };
    let (ours, identifier) = own_challenge(settings);
    let answer = keys
        .get("CHAP_R")
        .and_then(|value| binary(value, 64))
        .ok_or(Error::Authentication("the target did not answer our challenge"))?;
    let wanted = algorithm.response(identifier, &mutual.secret, &ours);
    let named = mutual.name.as_deref().is_none_or(|name| keys.get("CHAP_N") == Some(name));
    if !named || !bool::from(answer.ct_eq(&wanted)) {
        return Err(Error::Authentication("the target is not who it should be"));
    }
    Ok(())
}

fn own_challenge(settings: &Settings) -> (Vec<u8>, u8) {
    let (challenge, identifier) = settings.challenge.split_at(CHALLENGE_BYTES);
    (challenge.to_vec(), identifier.first().copied().unwrap_or_default())
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::from("0x");
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A binary value of RFC 7143 section 6.1, in hexadecimal or base64.
fn binary(value: &str, bytes_max: usize) -> Option<Vec<u8>> {
    let (kind, digits) = value.split_at_checked(2)?;
    if digits.len() > bytes_max * 2 {
        return None;
    }
    match kind {
        "0x" | "0X" => from_hex(digits),
        "0b" | "0B" => from_base64(digits),
        _ => None,
    }
}

fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut digits) = (Vec::new(), digits.as_bytes());
    if !digits.len().is_multiple_of(2) {
        let (first, rest) = digits.split_first()?;
        bytes.push(hex_digit(*first)?);
        digits = rest;
    }
    for pair in digits.chunks_exact(2) {
        let [high, low] = pair else { return None };
        bytes.push(hex_digit(*high)? << 4 | hex_digit(*low)?);
    }
    Some(bytes)
}

fn hex_digit(digit: u8) -> Option<u8> {
    u8::try_from(char::from(digit).to_digit(16)?).ok()
}

fn from_base64(digits: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let digits = digits.trim_end_matches('=');
    let (mut pending, mut bits) = (0_u32, 0_u32);
    for digit in digits.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        pending = pending << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(pending >> bits & 0xff).ok()?);
            pending &= (1 << bits) - 1;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_values_are_read_in_both_notations_and_nothing_else() {
        assert_eq!(binary("0x0aFf", 8), Some(alloc::vec![0x0a, 0xff]));
        assert_eq!(binary("0xaff", 8), Some(alloc::vec![0x0a, 0xff]));
        assert_eq!(binary("0bY2hhbGxlbmdl", 20), Some(b"challenge".to_vec()));
        assert_eq!(binary("0bY2hhbGxlbmc=", 20), Some(b"challeng".to_vec()));
        for wrong in ["", "0", "12", "0xg0", "0b!", "0x112233445566778899"] {
            assert_eq!(binary(wrong, 8), None);
        }
    }

    #[test]
    fn the_response_is_the_hash_of_identifier_secret_and_challenge() {
        // RFC 1994 gives no vector; this one is `printf '\x01secretchallenge' | md5sum`.
        let md5 = Algorithm::Md5.response(1, b"secret", b"challenge");
        let sha = Algorithm::Sha256.response(1, b"secret", b"challenge");
        assert_eq!((md5.len(), sha.len()), (16, 32));
        assert_eq!(hex(&md5), MD5_OF_EXAMPLE);
        assert_eq!(hex(&sha), SHA256_OF_EXAMPLE);
    }

    const MD5_OF_EXAMPLE: &str = "0x46e47770030e2b4e26a0db72a7efec00";
    const SHA256_OF_EXAMPLE: &str = "0x2dfa0526f4764864b7c3c5bc6596bcead3d8dbd984f4fc1d9f330299f0beced4";
}
