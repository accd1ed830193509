//! The words for when an array reads and restores: "immediate", "every 250ms", "adaptive:received,link", "load".

use super::quantity::{ByteSize, parse_duration};
use crate::volume::kind::{NoRoom, ReleaseBy};
use crate::volume::timing::{ReadInput, ReadInputs, ReadSize, ReadTiming, RestoreTiming};
use std::time::Duration;

/// Reads "immediate", "every 250ms", "fixed 250ms", "periodic 250ms" or "adaptive:received,link".
///
/// # Errors
/// What is wrong and what is allowed.
pub fn parse_read_timing(text: &str) -> Result<ReadTiming, String> {
    if let Some(inputs) = text.strip_prefix("adaptive:") {
        return parse_inputs(inputs).map(ReadTiming::Adaptive);
    }
    for (word, timing) in
        [("fixed ", ReadTiming::Fixed as fn(Duration) -> ReadTiming), ("periodic ", ReadTiming::Periodic)]
    {
        if let Some(time) = text.strip_prefix(word) {
            return match parse_duration(time)? {
                time if time.is_zero() => Err(format!("{text:?}: a time of nothing; \"immediate\" is meant")),
                time => Ok(timing(time)),
            };
        }
    }
    match interval(text) {
        Some(interval) => Ok(interval?.map_or(ReadTiming::Immediate, ReadTiming::Every)),
        None => Err(format!(
            "{text:?} is none of \"immediate\", \"every TIME\", \"fixed TIME\", \"periodic TIME\", \"adaptive:INPUT,…\""
        )),
    }
}

/// Reads "immediate", "every 250ms" or "load".
///
/// # Errors
/// What is wrong and what is allowed.
pub fn parse_restore_timing(text: &str) -> Result<RestoreTiming, String> {
    if text == "load" {
        return Ok(RestoreTiming::Load);
    }
    match interval(text) {
        Some(interval) => Ok(interval?.map_or(RestoreTiming::Immediate, RestoreTiming::Every)),
        None => Err(format!("{text:?} is none of \"immediate\", \"every TIME\", \"load\"")),
    }
}

/// Reads "group", "adaptive", "256 updates" or a size.
///
/// # Errors
/// What is wrong and what is allowed.
pub fn parse_read_size(text: &str) -> Result<ReadSize, String> {
    if let Some(count) = text.strip_suffix(" updates") {
        return match count.parse::<u32>() {
            Ok(count @ 1..=READ_UPDATES_MAX) => Ok(ReadSize::Updates(count)),
            _ => Err(format!("{count} is not within 1 to {READ_UPDATES_MAX} updates")),
        };
    }
    match text {
        "group" => Ok(ReadSize::Group),
        "adaptive" => Ok(ReadSize::Adaptive),
        size => match ByteSize::parse(size) {
            Ok(ByteSize(bytes)) if (READ_BYTES_MIN..=READ_BYTES_MAX).contains(&bytes) => {
                Ok(ReadSize::Bytes(bytes))
            }
            Ok(size) => Err(format!("{size} is not within 4KiB to 4MiB")),
            Err(_) => Err(format!(
                "{size:?} is none of \"group\", \"adaptive\", \"N updates\", a size such as \"1MiB\""
            )),
        },
    }
}

/// Reads "named", "next-command" or "at-once".
///
/// # Errors
/// What is wrong and what is allowed.
pub fn parse_release_by(text: &str) -> Result<ReleaseBy, String> {
    match text {
        "named" => Ok(ReleaseBy::Named),
        "next-command" => Ok(ReleaseBy::NextCommand),
        "at-once" => Ok(ReleaseBy::AtOnce),
        other => Err(format!("{other:?} is none of \"named\", \"next-command\", \"at-once\"")),
    }
}

/// Reads "hold" or "retry".
///
/// # Errors
/// What is wrong and what is allowed.
pub fn parse_no_room(text: &str) -> Result<NoRoom, String> {
    match text {
        "hold" => Ok(NoRoom::Hold),
        "retry" => Ok(NoRoom::Retry),
        other => Err(format!("{other:?} is none of \"hold\", \"retry\"")),
    }
}

/// "immediate" is none, "250ms" is "every 250ms"; `None` for another word.
fn interval(text: &str) -> Option<Result<Option<Duration>, String>> {
    if text == "immediate" {
        return Some(Ok(None));
    }
    let time = match text.strip_prefix("every ") {
        Some(time) => parse_duration(time),
        None => Ok(parse_duration(text).ok()?),
    };
    Some(time.map(|time| Some(time).filter(|time| !time.is_zero())))
}

fn parse_inputs(text: &str) -> Result<ReadInputs, String> {
    let one = |word: &str| {
        let found = ReadInput::ALL.into_iter().find(|input| input.to_string() == word.trim());
        found.ok_or_else(|| {
            let words: Vec<String> = ReadInput::ALL.iter().map(ToString::to_string).collect();
            format!("{word:?} is none of {}", words.join(", "))
        })
    };
    text.split(',').map(one).collect()
}

/// One answer carries no more.
const READ_UPDATES_MAX: u32 = 4096;
const READ_BYTES_MIN: u64 = 4 << 10;
const READ_BYTES_MAX: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timings_print_as_they_are_written() {
        for text in [
            "immediate",
            "every 250ms",
            "fixed 250ms",
            "periodic 1000ms",
            "adaptive:received",
            "adaptive:received,link,source-pointers",
        ] {
            assert_eq!(parse_read_timing(text).unwrap().to_string(), text);
        }
        for text in ["immediate", "every 250ms", "load"] {
            assert_eq!(parse_restore_timing(text).unwrap().to_string(), text);
        }
        for text in ["group", "adaptive", "256 updates", "65536B"] {
            assert_eq!(parse_read_size(text).unwrap().to_string(), text);
        }
        assert_eq!(parse_read_timing("every 0s"), Ok(ReadTiming::Immediate));
    }

    #[test]
    fn wrong_words_are_refused_with_the_right_ones() {
        for bad in
            ["", "fixed", "periodic 0s", "adaptive", "adaptive:", "adaptive:luck", "every", "every soon"]
        {
            assert!(parse_read_timing(bad).is_err(), "{bad}");
        }
        for bad in ["0 updates", "5000 updates", "1B", "5MiB", "much"] {
            assert!(parse_read_size(bad).is_err(), "{bad}");
        }
        assert!(parse_restore_timing("idle").is_err());
    }
}
