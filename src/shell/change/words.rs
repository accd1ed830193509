//! Words that become values, each with what is allowed when it is wrong.

use crate::config::{ByteSize, CacheMode, CopyMode, InitiatorRule, RaidLevel, Release, SvolAccess};
use crate::volume::name::{ARRAY_NUMBER_MAX, ArrayNumber, LUN_MAX, LinkName, Lun, VolumeName};
use std::path::PathBuf;

/// A volume here, or at the array behind a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceWord {
    pub(super) place: (Option<LinkName>, VolumeName),
}

/// The P-VOL of a pair.
pub(super) type PvolWord = PlaceWord;
/// The S-VOL of a pair.
pub(super) type SvolWord = PlaceWord;

impl std::str::FromStr for PlaceWord {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let volume = |text: &str| text.parse::<VolumeName>().map_err(|error| error.to_string());
        let place = match text.split_once(':') {
            Some((link, name)) => {
                (Some(link.parse::<LinkName>().map_err(|error| error.to_string())?), volume(name)?)
            }
            None => (None, volume(text)?),
        };
        Ok(Self { place })
    }
}

/// A unit as a word.
#[derive(Clone, Debug)]
pub struct UnitWord {
    pub(super) path: PathBuf,
    pub(super) size: Option<ByteSize>,
}

impl std::str::FromStr for UnitWord {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sized = text.rsplit_once(':').and_then(|(path, size)| Some((path, ByteSize::parse(size).ok()?)));
        let (path, size) = sized.map_or((text, None), |(path, size)| (path, Some(size)));
        if path.is_empty() || path.contains('\0') {
            return Err(format!("{text:?} is not PATH:SIZE or PATH"));
        }
        Ok(Self { path: path.into(), size })
    }
}

fn word<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    choices.iter().find(|(name, _)| *name == text).map(|(_, choice)| *choice).ok_or_else(|| {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        format!("none of {}", names.join(", "))
    })
}

/// The others are not built yet.
pub(super) fn level(text: &str) -> Result<RaidLevel, String> {
    word(text, &[("raid0", RaidLevel::Raid0), ("raid5", RaidLevel::Raid5)])
}

pub(super) fn cache_mode(text: &str) -> Result<CacheMode, String> {
    word(text, &[("write-back", CacheMode::WriteBack), ("write-through", CacheMode::WriteThrough)])
}

pub(super) fn svol_access(text: &str) -> Result<SvolAccess, String> {
    word(text, &[("none", SvolAccess::None), ("read", SvolAccess::Read)])
}

pub(super) fn release(text: &str) -> Result<Release, String> {
    word(text, &[("read", Release::Read), ("restored", Release::Restored)])
}

pub(super) fn copy_mode(text: &str) -> Result<CopyMode, String> {
    word(text, &[("async", CopyMode::Async), ("sync", CopyMode::Sync)])
}

pub(super) fn lun(text: &str) -> Result<Lun, String> {
    let number = text.parse::<u16>().ok().filter(|number| *number <= LUN_MAX);
    number.map(Lun).ok_or_else(|| format!("a LUN is a number from 0 to {LUN_MAX}"))
}

pub(super) fn lun_word(text: &str) -> Result<(Lun, VolumeName), String> {
    let (number, volume) = text.split_once('=').ok_or("not NUMBER=VOLUME")?;
    Ok((lun(number)?, volume.parse().map_err(|error| format!("{error}"))?))
}

pub(super) fn initiator(text: &str) -> Result<InitiatorRule, String> {
    match text {
        "*" => Ok(InitiatorRule::Any),
        name => name.parse().map(InitiatorRule::Named).map_err(|error| format!("* or a name; {error}")),
    }
}

pub(super) fn array_number(text: &str) -> Result<ArrayNumber, String> {
    let number = text.parse::<u32>().ok().filter(|number| (1..=ARRAY_NUMBER_MAX).contains(number));
    number.map(ArrayNumber).ok_or_else(|| format!("the number of an array is 1 to {ARRAY_NUMBER_MAX}"))
}
