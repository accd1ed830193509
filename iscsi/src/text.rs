//! Text format of login and text PDUs: `key=value` pairs, each closed by a NUL (RFC 7143 sections 6.1 and 6.2).
//!
//! Everything here is bounded, what comes in and what goes out alike: a request of many small unknown keys must
//! not grow into a larger answer without end. Slices only; nothing relies on a closing NUL being there.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

/// The text of one request, over all PDUs that continue it; more is refused.
pub const MAX_TEXT_BYTES: usize = 16 * 1024;

/// Pairs in one request; more are refused. RFC 7143 knows about forty keys.
pub const MAX_PAIRS: usize = 64;

/// The longest name of a key (RFC 7143 section 6.1).
pub const MAX_KEY_BYTES: usize = 63;

/// The longest value of a key, where nothing else is said.
pub const MAX_VALUE_BYTES: usize = 255;

/// The longest value of a key that holds large binary data, encoded.
pub const MAX_LARGE_VALUE_BYTES: usize = 8192;

/// The most values that a list may offer; further ones are not looked at.
pub const MAX_LIST_VALUES: usize = 32;

/// Answer to a key that is not known.
pub const NOT_UNDERSTOOD: &str = "NotUnderstood";
/// Answer to a value that is not possible.
pub const REJECT: &str = "Reject";
/// Answer to a key that means nothing here.
pub const IRRELEVANT: &str = "Irrelevant";

/// Keys whose values may be as long as [`MAX_LARGE_VALUE_BYTES`].
const LARGE_KEYS: [&str; 2] = ["CHAP_C", "CHAP_R"];

/// Why text was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextError {
    /// More than [`MAX_TEXT_BYTES`], in or out.
    TooLong,
    /// More than [`MAX_PAIRS`].
    TooManyPairs,
    /// Not `key=value` in UTF-8.
    Malformed,
    /// A key or a value is longer than its limit.
    PairTooLong,
    /// A key came twice.
    Duplicate,
}

/// The pairs of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairs<'text>(Vec<(&'text str, &'text str)>);

impl<'text> Pairs<'text> {
    /// Takes text apart.
    ///
    /// # Errors
    /// When any limit is exceeded, a pair has no `=`, or a key comes twice.
    pub fn parse(text: &'text [u8]) -> Result<Self, TextError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(TextError::TooLong);
        }
        let mut pairs = Vec::new();
        for pair in text.split(|byte| *byte == 0).filter(|pair| !pair.is_empty()) {
            let pair = core::str::from_utf8(pair).map_err(|_| TextError::Malformed)?;
            let (key, value) = pair.split_once('=').ok_or(TextError::Malformed)?;
            if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(TextError::Malformed);
            }
            let limit = if LARGE_KEYS.contains(&key) { MAX_LARGE_VALUE_BYTES } else { MAX_VALUE_BYTES };
            if key.len() > MAX_KEY_BYTES || value.len() > limit {
                return Err(TextError::PairTooLong);
            }
            if pairs.iter().any(|(known, _)| *known == key) {
                return Err(TextError::Duplicate);
            }
            if pairs.len() == MAX_PAIRS {
                return Err(TextError::TooManyPairs);
            }
            pairs.push((key, value));
        }
        Ok(Self(pairs))
    }

    /// The value of a key, if it came.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&'text str> {
        self.iter().find(|(known, _)| *known == key).map(|(_, value)| value)
    }

    /// All pairs in the order in which they came.
    pub fn iter(&self) -> impl Iterator<Item = (&'text str, &'text str)> + '_ {
        self.0.iter().copied()
    }

    /// Whether there is no pair.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The values of a list, in the order of preference, bounded by [`MAX_LIST_VALUES`].
pub fn list_values(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').take(MAX_LIST_VALUES)
}

/// A number as the RFC writes them: decimal, or hexadecimal after `0x`.
#[must_use]
pub fn parse_number(value: &str) -> Option<u32> {
    let (digits, radix) = match value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (value, 10),
    };
    // `from_str_radix` would take a sign.
    if digits.starts_with('+') { None } else { u32::from_str_radix(digits, radix).ok() }
}

/// Text in the making, never longer than its limit.
#[derive(Clone, Debug)]
pub struct TextBuilder {
    text: String,
    limit: usize,
}

impl Default for TextBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl TextBuilder {
    /// Text of up to [`MAX_TEXT_BYTES`].
    #[must_use]
    pub fn new() -> Self {
        Self::with_limit(MAX_TEXT_BYTES)
    }

    /// Text of up to `limit` bytes.
    #[must_use]
    pub fn with_limit(limit: usize) -> Self {
        Self { text: String::new(), limit }
    }

    /// Adds a pair, or nothing when it does not fit.
    ///
    /// # Errors
    /// When the text would become too long.
    pub fn push(&mut self, key: &str, value: impl core::fmt::Display) -> Result<(), TextError> {
        let before = self.text.len();
        let written = write!(Bounded { text: &mut self.text, limit: self.limit }, "{key}={value}\0");
        written.map_err(|_| {
            self.text.truncate(before);
            TextError::TooLong
        })
    }

    /// Bytes so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.text.len()
    }

    /// Takes back everything after the first `length` bytes, which must end between two pairs.
    pub(crate) fn truncate(&mut self, length: usize) {
        if self.text.is_char_boundary(length) {
            self.text.truncate(length);
        }
    }

    /// Whether nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// The text.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.text.into_bytes()
    }
}

/// Stops before the limit is passed, and so before memory is taken.
struct Bounded<'text> {
    text: &'text mut String,
    limit: usize,
}

impl Write for Bounded<'_> {
    fn write_str(&mut self, part: &str) -> core::fmt::Result {
        if self.text.len() + part.len() > self.limit {
            return Err(core::fmt::Error);
        }
        self.text.push_str(part);
        Ok(())
    }
}

/// The text of a request that several PDUs carry (bit C).
#[derive(Clone, Debug, Default)]
pub struct TextCollector(Vec<u8>);

impl TextCollector {
    /// Adds the data segment of one PDU.
    ///
    /// # Errors
    /// When the whole would become too long.
    pub fn push(&mut self, segment: &[u8]) -> Result<(), TextError> {
        if self.0.len() + segment.len() > MAX_TEXT_BYTES {
            return Err(TextError::TooLong);
        }
        self.0.extend_from_slice(segment);
        Ok(())
    }

    /// Hands out what was collected and starts anew.
    #[must_use]
    pub fn take(&mut self) -> Vec<u8> {
        core::mem::take(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use proptest::prelude::*;

    #[test]
    fn pairs_come_apart_with_or_without_the_last_nul() {
        for text in [&b"A=1\0B=x=y\0"[..], b"A=1\0B=x=y", b"\0A=1\0\0B=x=y\0\0"] {
            let pairs = Pairs::parse(text).unwrap();
            assert_eq!(pairs.get("A"), Some("1"));
            assert_eq!(pairs.get("B"), Some("x=y"));
            assert_eq!(pairs.get("C"), None);
        }
    }

    #[test]
    fn every_limit_is_kept() {
        assert_eq!(Pairs::parse(&[b'a'; MAX_TEXT_BYTES + 1]), Err(TextError::TooLong));
        assert_eq!(Pairs::parse(b"AB\0"), Err(TextError::Malformed));
        assert_eq!(Pairs::parse(b"=B\0"), Err(TextError::Malformed));
        assert_eq!(Pairs::parse(b"A=\xff\0"), Err(TextError::Malformed));
        assert_eq!(Pairs::parse(b"A=1\0A=2\0"), Err(TextError::Duplicate));
        let text = format!("{}=1", "k".repeat(64));
        assert_eq!(Pairs::parse(text.as_bytes()), Err(TextError::PairTooLong));
        let text = format!("K={}", "v".repeat(256));
        assert_eq!(Pairs::parse(text.as_bytes()), Err(TextError::PairTooLong));
        let text = format!("CHAP_R={}", "v".repeat(256));
        assert!(Pairs::parse(text.as_bytes()).is_ok());
        let text: String = (0..=MAX_PAIRS).map(|number| format!("K{number}=\0")).collect();
        assert_eq!(Pairs::parse(text.as_bytes()), Err(TextError::TooManyPairs));
    }

    #[test]
    fn a_builder_stops_at_its_limit_and_keeps_whole_pairs() {
        let mut builder = TextBuilder::with_limit(10);
        assert_eq!(builder.push("A", 1), Ok(()));
        assert_eq!(builder.push("LongKey", 1), Err(TextError::TooLong));
        assert_eq!(builder.push("BC", "ab"), Ok(()));
        assert_eq!(builder.into_bytes(), b"A=1\0BC=ab\0");
    }

    #[test]
    fn numbers_are_decimal_or_hexadecimal_and_nothing_else() {
        assert_eq!(parse_number("262144"), Some(262_144));
        assert_eq!(parse_number("0x1F"), Some(31));
        for wrong in ["", "-1", "+1", "0x", "0x+1", "1.5", "4294967296", "ten"] {
            assert_eq!(parse_number(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(text in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(pairs) = Pairs::parse(&text) {
                prop_assert!(pairs.iter().count() <= MAX_PAIRS);
            }
        }
    }
}
