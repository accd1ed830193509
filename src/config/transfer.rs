//! The words for how journals travel over a link: "zstd:3", "10MiB/s", "mon-fri 08:00-18:00 5MiB/s", "read".

use super::quantity::ByteSize;
use crate::volume::transfer::{
    Compression, DAYS, EVERY_DAY, Fetch, LIMIT_MIN, Limit, Window, ZSTD_LEVEL_MAX,
};

/// Reads "none", "zstd" or "zstd:5".
///
/// # Errors
/// What is wrong and what is allowed.
pub fn parse_compression(text: &str) -> Result<Compression, String> {
    let level = match text.strip_prefix("zstd") {
        Some("") => Ok(ZSTD_LEVEL_DEFAULT),
        Some(level) => level.strip_prefix(':').unwrap_or("").parse::<u8>(),
        None if text == "none" => return Ok(Compression::None),
        None => return Err(format!("{text:?} is none of \"none\", \"zstd\", \"zstd:LEVEL\"")),
    };
    match level {
        Ok(level @ 1..=ZSTD_LEVEL_MAX) => Ok(Compression::Zstd(level)),
        _ => Err(format!("{text:?}: the level is 1 to {ZSTD_LEVEL_MAX}")),
    }
}

/// Reads "none" or "10MiB/s".
///
/// # Errors
/// What is wrong and what is allowed.
pub fn parse_limit(text: &str) -> Result<Limit, String> {
    if text == "none" {
        return Ok(Limit::None);
    }
    let size = text.strip_suffix("/s").and_then(|size| ByteSize::parse(size).ok());
    match size {
        Some(ByteSize(bytes)) if bytes >= LIMIT_MIN => Ok(Limit::BytesPerS(bytes)),
        Some(_) => Err(format!("{text:?} is less than {}", Limit::BytesPerS(LIMIT_MIN))),
        None => Err(format!("{text:?} is none of \"none\", a size and \"/s\" as in \"10MiB/s\"")),
    }
}

/// Reads "08:00-18:00 5MiB/s" or "mon-fri,sun 22:00-06:00 none".
///
/// # Errors
/// What is wrong and what is allowed.
pub fn parse_window(text: &str) -> Result<Window, String> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let (days, hours, limit) = match words.as_slice() {
        [hours, limit] => (EVERY_DAY, *hours, *limit),
        [days, hours, limit] => (parse_days(days)?, *hours, *limit),
        _ => {
            return Err(format!(
                "{text:?} is not [DAYS] HH:MM-HH:MM LIMIT, as in \"mon-fri 08:00-18:00 5MiB/s\""
            ));
        }
    };
    let (from, to) = hours.split_once('-').ok_or_else(|| format!("{hours:?} is not HH:MM-HH:MM"))?;
    Ok(Window {
        days,
        from_min: parse_minute(from)?,
        to_min: parse_minute(to)? % MIN_PER_DAY,
        limit: parse_limit(limit)?,
    })
}

/// Reads "read" or "journal-read".
///
/// # Errors
/// What is wrong and what is allowed.
pub fn parse_fetch(text: &str) -> Result<Fetch, String> {
    match text {
        "journal-read" => Ok(Fetch::JournalRead),
        "read" => Ok(Fetch::Read),
        other => Err(format!("{other:?} is none of \"journal-read\", \"read\"")),
    }
}

fn parse_days(text: &str) -> Result<u8, String> {
    let day = |word: &str| {
        DAYS.iter()
            .position(|day| *day == word)
            .ok_or_else(|| format!("{word:?} is none of {}", DAYS.join(", ")))
    };
    text.split(',').try_fold(0, |days, run| {
        let (first, last) = run.split_once('-').unwrap_or((run, run));
        let (first, last) = (day(first)?, day(last)?);
        // "sat-mon" goes over the end of the week.
        let length = (last + 7 - first) % 7;
        Ok((0..=length).fold(days, |days, step| days | 1 << ((first + step) % 7)))
    })
}

fn parse_minute(text: &str) -> Result<u16, String> {
    let number = |part: &str, max: u16| {
        let is_two = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        part.parse::<u16>().ok().filter(|number| is_two && *number <= max)
    };
    let parts =
        text.split_once(':').and_then(|(hour, minute)| Some((number(hour, 24)?, number(minute, 59)?)));
    match parts {
        Some((hour, minute)) if hour * 60 + minute <= MIN_PER_DAY => Ok(hour * 60 + minute),
        _ => Err(format!("{text:?} is not a time of the day, as in 08:00")),
    }
}

const MIN_PER_DAY: u16 = 24 * 60;
/// The library's own choice.
const ZSTD_LEVEL_DEFAULT: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_transfer_print_as_they_are_written() {
        for text in ["none", "zstd:3", "zstd:9"] {
            assert_eq!(parse_compression(text).unwrap().to_string(), text);
        }
        for text in ["none", "10MiB/s", "16KiB/s", "20001B/s"] {
            assert_eq!(parse_limit(text).unwrap().to_string(), text);
        }
        for text in [
            "08:00-18:00 5MiB/s",
            "mon-fri 08:00-18:00 5MiB/s",
            "mon,wed,fri-sun 22:00-06:00 none",
            "sun 00:00-00:00 1GiB/s",
        ] {
            assert_eq!(parse_window(text).unwrap().to_string(), text);
        }
        assert_eq!(
            parse_window("sat-mon 00:00-24:00 none").unwrap().to_string(),
            "mon,sat-sun 00:00-00:00 none"
        );
        assert_eq!(parse_compression("zstd"), Ok(Compression::Zstd(3)));
        for text in ["journal-read", "read"] {
            assert_eq!(parse_fetch(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn wrong_words_are_refused() {
        for bad in ["", "zst", "zstd:", "zstd:0", "zstd:10", "zstd3", "gzip"] {
            assert!(parse_compression(bad).is_err(), "{bad}");
        }
        for bad in ["", "10MiB", "1B/s", "fast", "10 MiB/s"] {
            assert!(parse_limit(bad).is_err(), "{bad}");
        }
        for bad in [
            "",
            "08:00 5MiB/s",
            "8:00-18:00 5MiB/s",
            "08:00-24:01 none",
            "08:60-09:00 none",
            "mo 08:00-09:00 none",
        ] {
            assert!(parse_window(bad).is_err(), "{bad}");
        }
        assert!(parse_fetch("write").is_err());
    }
}
