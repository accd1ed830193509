//! Sizes and times as operators write them: a whole number and a unit, "64MiB", "250ms".

use std::fmt;
use std::time::Duration;

/// A number of bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// This many mebibytes.
    #[must_use]
    pub const fn mebibytes(count: u32) -> Self {
        Self((count as u64) << 20)
    }

    /// This many kibibytes.
    #[must_use]
    pub const fn kibibytes(count: u32) -> Self {
        Self((count as u64) << 10)
    }

    /// Reads "512MiB".
    ///
    /// # Errors
    /// What is wrong and what is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (count, unit) = split(text);
        let factor = SIZE_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
        let (Ok(count), Some(factor)) = (count.parse::<u64>(), factor) else {
            return Err(format!("{text:?} is not a size: a whole number and one of B KiB MiB GiB TiB"));
        };
        count.checked_mul(factor).map(Self).ok_or_else(|| format!("{text:?} is larger than any device"))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = SIZE_UNITS.iter().rev().find(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor));
        let (unit, factor) = exact.copied().unwrap_or(("B", 1));
        f.pad(&format!("{}{unit}", self.0 / factor))
    }
}

/// Reads "250ms".
///
/// # Errors
/// What is wrong and what is allowed.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (count, unit) = split(text);
    let factor_ms = TIME_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    let (Ok(count), Some(factor_ms)) = (count.parse::<u64>(), factor_ms) else {
        return Err(format!("{text:?} is not a time: a whole number and one of ms s min h d"));
    };
    match count.checked_mul(factor_ms) {
        Some(ms) if ms <= TIME_MAX_MS => Ok(Duration::from_millis(ms)),
        _ => Err(format!("{text:?} is longer than the 3650 days that are allowed")),
    }
}

fn split(text: &str) -> (&str, &str) {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at_checked(digits).unwrap_or((text, ""))
}

const SIZE_UNITS: [(&str, u64); 5] =
    [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];
const TIME_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("min", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const TIME_MAX_MS: u64 = 3650 * 86_400_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_and_print_as_they_were_written() {
        for text in ["512MiB", "1TiB", "4096B", "64KiB", "3GiB"] {
            let size = ByteSize::parse(text).unwrap();
            assert_eq!(ByteSize::parse(&size.to_string()).unwrap(), size);
        }
        assert_eq!(ByteSize::mebibytes(512).to_string(), "512MiB");
        for bad in
            ["", "512", "MiB", "1.5GiB", "-1B", "1 GiB", "1gib", "99999999999999999999B", "99999999TiB"]
        {
            assert!(ByteSize::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_have_units() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("2min"), Ok(Duration::from_secs(120)));
        for bad in ["", "5", "ms", "1.5s", "5m", "9999999999d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
