//! Numbers and names of the array's objects.
//!
//! A value of one of these types is well formed: whatever comes from a file, the shell or a peer is parsed into it
//! once, at the edge. iSCSI names follow RFC 7143 section 4.2.7.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Numbers that mean different things never mix.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// Number of a storage system, unique among linked arrays; 1 to [`ARRAY_NUMBER_MAX`].
    ArrayNumber(u32)
}
number! {
    /// Number of a parity group of this array.
    ParityGroupNumber(u32)
}
number! {
    /// Number of a volume of one array.
    VolumeNumber(u32)
}
number! {
    /// Number of a pair, local to each array.
    PairNumber(u32)
}
number! {
    /// Number of a group, local to each array.
    GroupNumber(u32)
}
number! {
    /// Number of a snapshot of this array.
    SnapshotNumber(u32)
}
number! {
    /// Number of an update of a group: the first is 1, zero stands for "none yet".
    UpdateNumber(u64)
}
number! {
    /// Logical unit number as hosts see it; 0 to [`LUN_MAX`].
    Lun(u16)
}
number! {
    /// Target portal group tag; 1 to 65535.
    PortalGroup(u16)
}

/// The operator's names of one kind of object: the kinds are different types, the form is the same.
macro_rules! object_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = BadName;

            fn from_str(text: &str) -> Result<Self, BadName> {
                check_object_name(text).map(|()| Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadName;

            fn try_from(text: String) -> Result<Self, BadName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }
    };
}

object_name! {
    /// Name of an array.
    ArrayName
}
object_name! {
    /// Name of a parity group.
    ParityGroupName
}
object_name! {
    /// Name of a volume.
    VolumeName
}
object_name! {
    /// Name of a link to another array, as this array calls it.
    LinkName
}
object_name! {
    /// Name of a group, the same at every array that keeps a copy.
    GroupName
}
object_name! {
    /// Name of a pair.
    PairName
}
object_name! {
    /// Name of a snapshot.
    SnapshotName
}

/// Name of a bookmark: a point in the order of a group's updates.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BookmarkName(pub holdfast_journal::BookmarkName);

impl fmt::Display for BookmarkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for BookmarkName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let name = holdfast_journal::BookmarkName::new(text).map(Self);
        name.ok_or_else(|| {
            BadName(format!(
                "{text:?} is not a bookmark's name: 1 to 40 letters, digits, '-', '_' and '.', first a letter or digit"
            ))
        })
    }
}

impl TryFrom<String> for BookmarkName {
    type Error = BadName;

    fn try_from(text: String) -> Result<Self, BadName> {
        text.parse()
    }
}

impl From<BookmarkName> for String {
    fn from(name: BookmarkName) -> Self {
        name.0.as_str().to_owned()
    }
}

/// A name that is not well formed, and what would be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadName(String);

/// An iSCSI name: `iqn.`, `eui.` or `naa.` form, folded to lower case, at most [`ISCSI_NAME_MAX_BYTES`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IscsiName(String);

impl IscsiName {
    /// The text, lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IscsiName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for IscsiName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        check_iscsi_name(text).map_err(BadName)?;
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl TryFrom<String> for IscsiName {
    type Error = BadName;

    fn try_from(text: String) -> Result<Self, BadName> {
        text.parse()
    }
}

impl From<IscsiName> for String {
    fn from(name: IscsiName) -> Self {
        name.0
    }
}

fn check_object_name(text: &str) -> Result<(), BadName> {
    if text.is_empty() || text.len() > OBJECT_NAME_MAX_BYTES {
        return Err(BadName(format!(
            "a name has 1 to {OBJECT_NAME_MAX_BYTES} characters, not {}",
            text.len()
        )));
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !text.chars().all(fits) || !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err(BadName(format!(
            "{text:?} is not a name: letters, digits, '-', '_' and '.', beginning with a letter or digit"
        )));
    }
    Ok(())
}

fn check_iscsi_name(text: &str) -> Result<(), String> {
    if text.len() > ISCSI_NAME_MAX_BYTES {
        return Err(format!("an iSCSI name has at most {ISCSI_NAME_MAX_BYTES} bytes, not {}", text.len()));
    }
    let lower = text.to_ascii_lowercase();
    if let Some(c) = lower.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':'))) {
        return Err(format!("{c:?} cannot stand in an iSCSI name: letters, digits, '-', '.' and ':'"));
    }
    if let Some(rest) = lower.strip_prefix("iqn.") {
        return check_iqn(text, rest);
    }
    let is_hex = |digits: &str, counts: &[usize]| {
        counts.contains(&digits.len()) && digits.chars().all(|c| c.is_ascii_hexdigit())
    };
    let is_well_formed = lower.strip_prefix("eui.").is_some_and(|digits| is_hex(digits, &[16]))
        || lower.strip_prefix("naa.").is_some_and(|digits| is_hex(digits, &[16, 32]));
    if is_well_formed { Ok(()) } else { Err(format!("{text:?} is not an iSCSI name: {IQN_FORM}")) }
}

/// `yyyy-mm.reversed.domain[:string]`.
fn check_iqn(text: &str, rest: &str) -> Result<(), String> {
    let wrong = || format!("{text:?} is not an iqn: {IQN_FORM}");
    let (date, authority) = rest.split_once('.').ok_or_else(wrong)?;
    let (year, month) = date.split_once('-').ok_or_else(wrong)?;
    let is_year = year.len() == 4 && year.chars().all(|c| c.is_ascii_digit());
    let is_month = month.len() == 2 && month.parse::<u8>().is_ok_and(|m| (1..=12).contains(&m));
    let domain = authority.split(':').next().unwrap_or_default();
    if is_year && is_month && !domain.is_empty() { Ok(()) } else { Err(wrong()) }
}

/// The largest array number.
pub const ARRAY_NUMBER_MAX: u32 = 65_535;
/// The largest LUN: what the flat addressing method of SAM holds.
pub const LUN_MAX: u16 = 16_383;
/// The longest name of an object; longer ones are refused.
pub const OBJECT_NAME_MAX_BYTES: usize = 63;
/// The longest iSCSI name (RFC 7143 section 4.2.7.1); longer ones are refused.
pub const ISCSI_NAME_MAX_BYTES: usize = 223;
const IQN_FORM: &str = "iqn.YYYY-MM.DOMAIN[:NAME], eui. with 16 hexadecimal digits, or naa. with 16 or 32";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_once_and_keep_their_form() {
        assert_eq!("data-1.x_2".parse::<VolumeName>().unwrap().as_str(), "data-1.x_2");
        for bad in ["", "-x", "a b", "a:b", "a/b", "ä", &"x".repeat(64)] {
            assert!(bad.parse::<VolumeName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn iscsi_names_follow_the_rfc() {
        for good in ["iqn.2026-11.io.holdfast:Alpha", "iqn.2001-04.com.x", "eui.02004567A425678D"] {
            assert_eq!(good.parse::<IscsiName>().unwrap().as_str(), good.to_ascii_lowercase());
        }
        let long = format!("iqn.2026-11.io.holdfast:{}", "x".repeat(200));
        for bad in
            ["", "iqn.", "iqn.2026-13.io.x", "iqn.26-11.io", "eui.12", "alpha", "iqn.2026-11.a b", &long]
        {
            assert!(bad.parse::<IscsiName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_stored_name_is_checked_when_it_is_read_back() {
        assert!(serde_json::from_str::<GroupName>("\"g1\"").is_ok());
        assert!(serde_json::from_str::<GroupName>("\"g 1\"").is_err());
    }
}
