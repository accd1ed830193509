//! CHAP (RFC 1994 as RFC 7143 section 12.1.3 uses it), one way and mutual, with MD5 and SHA-256.
//!
//! Values come as `0x` and hexadecimal digits or as `0b` and base64. Their length is checked before anything is
//! decoded, and the decoder writes into an array of fixed size. Responses are compared in constant time.

use alloc::string::String;
use alloc::vec::Vec;
use md5::Md5;
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// The shortest secret that is taken: 96 bits (RFC 7143 section 12.1.3.1).
pub const MIN_SECRET_BYTES: usize = 12;
/// The longest secret that is taken.
pub const MAX_SECRET_BYTES: usize = 255;
/// Bytes of the challenges sent from here.
pub const CHALLENGE_BYTES: usize = 32;
/// The longest challenge that is taken (RFC 7143 section 6.1, large binary value).
pub const MAX_CHALLENGE_BYTES: usize = 1024;
/// The longest response of any algorithm.
pub const MAX_RESPONSE_BYTES: usize = 32;

/// Why credentials cannot be configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretError {
    /// Fewer than 96 bits.
    TooShort,
    /// More than [`MAX_SECRET_BYTES`].
    TooLong,
    /// The same secret in both directions would let either side answer with the other's response.
    SameBothWays,
}

/// A shared secret; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Takes a secret of the configuration.
    ///
    /// # Errors
    /// When it is shorter than 96 bits or too long.
    pub fn new(bytes: &[u8]) -> Result<Self, SecretError> {
        match bytes.len() {
            0..MIN_SECRET_BYTES => Err(SecretError::TooShort),
            MIN_SECRET_BYTES..=MAX_SECRET_BYTES => Ok(Self(bytes.into())),
            _ => Err(SecretError::TooLong),
        }
    }
}

impl core::fmt::Debug for Secret {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A name and its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// CHAP_N.
    pub name: String,
    /// What proves it.
    pub secret: Secret,
}

/// What an initiator must prove, and what the target can prove in turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    initiator: Identity,
    target: Option<Identity>,
}

impl Credentials {
    /// One-way CHAP without `target`, mutual CHAP (if the initiator asks for it) with it.
    ///
    /// # Errors
    /// When both directions have the same secret.
    pub fn new(initiator: Identity, target: Option<Identity>) -> Result<Self, SecretError> {
        if target.as_ref().is_some_and(|target| target.secret == initiator.secret) {
            return Err(SecretError::SameBothWays);
        }
        Ok(Self { initiator, target })
    }

    /// What the initiator must prove.
    #[must_use]
    pub fn initiator(&self) -> &Identity {
        &self.initiator
    }

    /// What the target can prove.
    #[must_use]
    pub fn target(&self) -> Option<&Identity> {
        self.target.as_ref()
    }
}

/// Hash algorithm (CHAP_A).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// 5.
    Md5,
    /// 7.
    Sha256,
}

impl Algorithm {
    /// The algorithm with this number of the IANA registry.
    #[must_use]
    pub fn from_number(value: &str) -> Option<Self> {
        match value {
            "5" => Some(Self::Md5),
            "7" => Some(Self::Sha256),
            _ => None,
        }
    }

    /// Its number in the IANA registry.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Md5 => 5,
            Self::Sha256 => 7,
        }
    }

    /// The response to a challenge: the hash of identifier, secret and challenge.
    #[must_use]
    pub fn respond(self, identifier: u8, secret: &Secret, challenge: &[u8]) -> Response {
        match self {
            Self::Md5 => Response::hash::<Md5>(identifier, secret, challenge),
            Self::Sha256 => Response::hash::<Sha256>(identifier, secret, challenge),
        }
    }
}

/// A response, of as many bytes as its algorithm gives.
#[derive(Clone, Copy)]
pub struct Response {
    bytes: [u8; MAX_RESPONSE_BYTES],
    length: usize,
}

impl Response {
    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// Whether a CHAP_R value is this response. The time it takes says nothing about where they differ.
    #[must_use]
    pub fn matches(&self, value: &str) -> bool {
        let mut received = [0; MAX_RESPONSE_BYTES];
        let Some(received) = decode_binary(value, &mut received) else { return false };
        self.as_bytes().ct_eq(received).into()
    }

    fn hash<Hash: sha2::Digest>(identifier: u8, secret: &Secret, challenge: &[u8]) -> Self {
        let mut hash = Hash::new();
        hash.update([identifier]);
        hash.update(&secret.0);
        hash.update(challenge);
        let output = hash.finalize();
        let mut response = Self { bytes: [0; MAX_RESPONSE_BYTES], length: 0 };
        for (place, byte) in response.bytes.iter_mut().zip(output.iter()) {
            *place = *byte;
            response.length += 1;
        }
        response
    }
}

/// A challenge that went out.
#[derive(Clone, Copy, Debug)]
pub struct Challenge {
    /// CHAP_A.
    pub algorithm: Algorithm,
    /// CHAP_I.
    pub identifier: u8,
    /// CHAP_C.
    pub bytes: [u8; CHALLENGE_BYTES],
}

impl Challenge {
    /// Whether name and response prove the identity. A wrong name takes the same way as a wrong response.
    #[must_use]
    pub fn is_answered(&self, identity: &Identity, name: &str, response: &str) -> bool {
        let expected = self.algorithm.respond(self.identifier, &identity.secret, &self.bytes);
        let proved = expected.matches(response);
        let named: bool = identity.name.as_bytes().ct_eq(name.as_bytes()).into();
        proved & named
    }
}

/// Decodes a binary value into `out`; `None` if it is malformed, empty or too long for `out`.
#[must_use]
pub fn decode_binary<'out, const N: usize>(value: &str, out: &'out mut [u8; N]) -> Option<&'out [u8]> {
    let (prefix, digits) = value.split_at_checked(2)?;
    let length = match prefix {
        "0x" | "0X" => decode_hex(digits.as_bytes(), out)?,
        "0b" | "0B" => decode_base64(digits.as_bytes(), out)?,
        _ => return None,
    };
    out.get(..length).filter(|bytes| !bytes.is_empty())
}

/// A binary value as hexadecimal digits after `0x`.
#[derive(Clone, Copy, Debug)]
pub struct Hex<'bytes>(pub &'bytes [u8]);

impl core::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("0x")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn decode_hex(digits: &[u8], out: &mut [u8]) -> Option<usize> {
    // A missing leading zero is allowed: "0x1" is one byte.
    let length = digits.len().div_ceil(2);
    let out = out.get_mut(..length)?;
    let odd = digits.len() % 2;
    let (first, pairs) = digits.split_at_checked(odd)?;
    let mut values =
        first.iter().map(|digit| hex_digit(*digit)).chain(pairs.chunks_exact(2).map(|pair| match pair {
            [high, low] => Some(hex_digit(*high)? << 4 | hex_digit(*low)?),
            _ => None,
        }));
    for place in out {
        *place = values.next()??;
    }
    Some(length)
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

fn decode_base64(digits: &[u8], out: &mut [u8]) -> Option<usize> {
    if !digits.len().is_multiple_of(4) {
        return None;
    }
    let padding = digits.iter().rev().take(2).take_while(|digit| **digit == b'=').count();
    let length = digits.len() / 4 * 3 - padding;
    let out = out.get_mut(..length)?;
    let significant = digits.get(..digits.len() - padding)?;
    for (group, place) in significant.chunks(4).zip(out.chunks_mut(3)) {
        let mut bits = 0_u32;
        for digit in group {
            bits = bits << 6 | u32::from(base64_digit(*digit)?);
        }
        // A short group is the last one; its missing digits are zeroes.
        bits <<= 6 * (4 - group.len());
        let [_, bytes @ ..] = bits.to_be_bytes();
        let (kept, dropped) = bytes.split_at_checked(place.len())?;
        if dropped.iter().any(|byte| *byte != 0) {
            return None;
        }
        place.copy_from_slice(kept);
    }
    Some(length)
}

fn base64_digit(digit: u8) -> Option<u8> {
    match digit {
        b'A'..=b'Z' => Some(digit - b'A'),
        b'a'..=b'z' => Some(digit - b'a' + 26),
        b'0'..=b'9' => Some(digit - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use proptest::prelude::*;
    use sha2::Digest as _;

    fn decoded<const N: usize>(value: &str) -> Option<Vec<u8>> {
        decode_binary(value, &mut [0; N]).map(Vec::from)
    }

    #[test]
    fn binary_values_decode_from_hex_and_base64() {
        assert_eq!(decoded::<8>("0x00Ff10"), Some(alloc::vec![0, 255, 16]));
        assert_eq!(decoded::<8>("0xf10"), Some(alloc::vec![15, 16]));
        assert_eq!(decoded::<8>("0bTWFu"), Some(b"Man".to_vec()));
        assert_eq!(decoded::<8>("0bTWE="), Some(b"Ma".to_vec()));
        assert_eq!(decoded::<8>("0bTQ=="), Some(b"M".to_vec()));
    }

    #[test]
    fn values_that_are_too_long_or_malformed_are_refused_before_decoding() {
        for wrong in
            ["", "0", "0x", "0b", "12", "0xgg", "0bTWE", "0bT===", "0bT=E=", "0bTR==", "0b====", "é0"]
        {
            assert_eq!(decoded::<8>(wrong), None, "{wrong}");
        }
        assert_eq!(decoded::<2>("0x010203"), None);
        assert_eq!(decoded::<2>("0bTWFu"), None);
        assert_eq!(decoded::<2>("0bTWE="), Some(b"Ma".to_vec()));
    }

    #[test]
    fn the_response_is_the_hash_of_identifier_secret_and_challenge() {
        let secret = Secret::new(b"twelve bytes").unwrap();
        let response = Algorithm::Md5.respond(1, &secret, b"challenge");
        let mut hash = Md5::new();
        hash.update(b"\x01twelve byteschallenge");
        assert_eq!(response.as_bytes(), &hash.finalize()[..]);
        assert_eq!(Algorithm::Sha256.respond(1, &secret, b"challenge").as_bytes().len(), 32);
        assert!(response.matches(&format!("{}", Hex(response.as_bytes()))));
        assert!(!response.matches("0x00"));
    }

    #[test]
    fn a_proof_needs_the_right_name_and_the_right_secret() {
        let identity = Identity { name: "user".into(), secret: Secret::new(b"secret secret").unwrap() };
        let challenge =
            Challenge { algorithm: Algorithm::Sha256, identifier: 9, bytes: [7; CHALLENGE_BYTES] };
        let right = Algorithm::Sha256.respond(9, &identity.secret, &challenge.bytes);
        let right = format!("{}", Hex(right.as_bytes()));
        assert!(challenge.is_answered(&identity, "user", &right));
        assert!(!challenge.is_answered(&identity, "other", &right));
        assert!(!challenge.is_answered(&identity, "user", "0x1234"));
    }

    #[test]
    fn weak_and_equal_secrets_cannot_be_configured() {
        assert_eq!(Secret::new(b"eleven byte"), Err(SecretError::TooShort));
        assert_eq!(Secret::new(&[1; 256]), Err(SecretError::TooLong));
        let identity =
            |name: &str, secret: &[u8]| Identity { name: name.into(), secret: Secret::new(secret).unwrap() };
        let both = Credentials::new(identity("a", b"secret secret"), Some(identity("b", b"secret secret")));
        assert_eq!(both, Err(SecretError::SameBothWays));
        assert_eq!(format!("{:?}", Secret::new(b"secret secret").unwrap()), "Secret(..)");
    }

    proptest! {
        #[test]
        fn any_value_is_decoded_within_the_array_or_refused(value in ".{0,80}") {
            let mut out = [0; 16];
            if let Some(bytes) = decode_binary(&value, &mut out) {
                prop_assert!(bytes.len() <= 16);
            }
        }

        #[test]
        fn hex_survives_the_way_out_and_back(bytes in proptest::collection::vec(any::<u8>(), 1..32)) {
            prop_assert_eq!(decoded::<32>(&format!("{}", Hex(&bytes))), Some(bytes));
        }
    }
}
