//! Sizes and times as operators write them: a whole number and a unit, "64MiB", "250ms".

use crate::volume::name::{BadName, UpdateNumber};
use crate::volume::timing::{RestoreStop, StopWish};
use std::fmt;
use std::time::Duration;
use toml::value::{Datetime, Offset};

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

/// Reads where restore stops: "now", an update number, a bookmark, or a time with its offset as in RFC 3339.
///
/// # Errors
/// What is allowed.
pub fn parse_stop(text: &str) -> Result<StopWish, String> {
    if text == "now" {
        return Ok(StopWish::Now);
    }
    if let Ok(number) = text.parse::<u64>() {
        return Ok(StopWish::At(RestoreStop::Number(UpdateNumber(number))));
    }
    if let Some(name) = text.strip_prefix("bookmark:") {
        return name.parse().map(StopWish::Bookmark).map_err(|bad: BadName| bad.to_string());
    }
    let unix_ns = text.parse::<Datetime>().ok().and_then(unix_ns);
    unix_ns.map(|unix_ns| StopWish::At(RestoreStop::Time { unix_ns })).ok_or_else(|| {
        format!("{text:?} is not \"now\", an update number, bookmark:NAME, or a time like 2026-11-21T20:00:00Z or …T21:00:00+01:00")
    })
}

/// A date, a time and an offset, all three, from 1970 on (days counted in eras of 400 years from March).
fn unix_ns(given: Datetime) -> Option<u64> {
    let (date, time, offset) = (given.date?, given.time?, given.offset?);
    let (year, month, day) = (i64::from(date.year), i64::from(date.month), i64::from(date.day));
    let from_march = (month + 9) % 12;
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * from_march + 2) / 5 + day - 1;
    let days =
        year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468;
    let offset_min = match offset {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes),
    };
    let minutes = days * 1_440 + i64::from(time.hour) * 60 + i64::from(time.minute) - offset_min;
    let seconds = minutes * 60 + i64::from(time.second.unwrap_or(0));
    let seconds = u64::try_from(seconds).ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(u64::from(time.nanosecond.unwrap_or(0)))
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
    fn a_stop_is_now_a_number_or_a_time() {
        let time = |text| match parse_stop(text) {
            Ok(StopWish::At(RestoreStop::Time { unix_ns })) => Ok(unix_ns),
            other => Err(other),
        };
        assert_eq!(parse_stop("now"), Ok(StopWish::Now));
        assert_eq!(parse_stop("bookmark:night.1"), Ok(StopWish::Bookmark("night.1".parse().unwrap())));
        assert!(parse_stop("bookmark:").is_err() && parse_stop("bookmark:a b").is_err());
        assert_eq!(parse_stop("17"), Ok(StopWish::At(RestoreStop::Number(UpdateNumber(17)))));
        assert_eq!(time("1970-01-01T00:00:00Z"), Ok(0));
        assert_eq!(time("2000-02-29T00:00:00.25Z"), Ok(951_782_400_250_000_000));
        assert_eq!(time("2026-11-21T10:27:24+01:00"), Ok(1_795_253_244_000_000_000));
        for wrong in [
            "",
            "-1",
            "then",
            "2026-11-21",
            "2026-11-21T20:00:00",
            "1969-12-31T23:59:59Z",
            "9999-12-31T00:00:00Z",
        ] {
            assert!(parse_stop(wrong).is_err(), "{wrong}");
        }
    }

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
